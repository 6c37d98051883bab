from __future__ import annotations

import random
import re
from html import unescape
from typing import Any

import pytest
from made_history import latency
from markdown_it import MarkdownIt

from portmatrix.errors import UserError
from portmatrix.render.badges import badge_files
from portmatrix.render.readme import (
    BEGIN,
    END,
    badge_text,
    render_section,
    replace_section,
    results_page,
    stars_text,
    whole_text,
)
from portmatrix.render.table import badge_table
from portmatrix.types import Outcome, Reach, Stage


def rendered(markdown: str) -> str:
    """Return the HTML that a GitHub-like Markdown renderer makes of ``markdown`` (raw HTML is kept as it is)."""
    return MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown)


def test_every_badge_links_to_an_anchor_of_the_results_page(records: Any, ratings: Any, survey: Any) -> None:
    links = re.findall(r"\(docs/results\.md#([^)]+)\)", render_section(records, ratings, survey))
    anchors = re.findall(r'<a id="([^"]+)">', results_page(records))
    assert len(links) == len({(r.id.framework, r.id.target) for r in records})
    assert set(links) == set(anchors)
    assert len(anchors) == len(set(anchors))


def test_hostile_names_still_link_to_their_rows(hostile: Any) -> None:
    section, page = rendered(render_section(hostile, ())), rendered(results_page(hostile))
    links = re.findall(r'href="docs/results\.md#([^"]+)"', section)
    assert len(links) == len(Outcome)
    assert set(links) == set(re.findall(r'<a id="([^"]+)">', page))
    for html in (section, page):
        assert "<script" not in html
        assert 'href="javascript' not in html
        assert "\u202e" not in html
        assert len(html) < 100_000


def test_badges_are_images_whose_alternative_is_their_text(records: Any, ratings: Any, survey: Any) -> None:
    plain = render_section(records, ratings, survey)
    section = render_section(records, ratings, survey, badges="docs/badges")
    images = re.findall(r"!\[([^\]]*)\]\(docs/badges/([^)]+)\)", section)
    texts = re.findall(r"\[([^\]]+)\]\(docs/results\.md#", plain)
    assert [text for text, _ in images] == [whole_text(records), *texts]
    assert {file for _, file in images} <= set(badge_files(records, ratings))
    without = re.sub(r"!\[([^\]]*)\]\([^)]+\)", r"\1", section)
    assert without == f"[{whole_text(records)}](docs/results.md)\n\n{plain}"


def test_badges_lead_to_the_site_where_there_is_one(make: Any, hostile: Any) -> None:
    records = [make("a+b/m/p/r/t&u"), *hostile]
    html = rendered(render_section(records, (), site="https://example.org/of/ours/", badges="docs/badges"))
    links = [unescape(link) for link in re.findall(r'href="([^"]+)"', html)]
    assert links[0] == "https://example.org/of/ours/index.html"
    assert "https://example.org/of/ours/matrix.html#framework=a%2Bb&target=t%26u" in links
    for link in links[1:]:
        assert re.fullmatch(r"https://example\.org/of/ours/matrix\.html#framework=[\w.~%-]+&target=[\w.~%-]+", link)
    assert len(links) == 1 + len({(r.id.framework, r.id.target) for r in records})


def test_the_latency_of_a_framework_is_in_its_row(make: Any) -> None:
    cells = [make(f"fw/m{n}/p/r/t", reach=Reach.NATIVE, latency=latency(ratio)) for n, ratio in enumerate((0.5, 2))]
    section = render_section([*cells, make("other/m/p/r/t")], ())
    rows = {line.split("|")[1].strip(" *"): line.split("|")[4].strip() for line in section.splitlines() if "**" in line}
    assert rows == {"fw": "1.25 (2 cells)", "other": ""}
    assert "latency = median" in section
    assert "latency = median" not in render_section([make("other/m/p/r/t")], ())


def test_tables_have_as_many_fields_as_heads_in_every_row(
    records: Any, ratings: Any, survey: Any, hostile: Any
) -> None:
    for text in (render_section(records, ratings, survey), results_page(records), results_page(hostile)):
        for table in re.findall(r"<table>.*?</table>", rendered(text), re.DOTALL):
            rows = [len(re.findall(r"<t[hd]\b", row)) for row in table.split("<tr>")[1:]]
            assert len(set(rows)) == 1
    lines = render_section(records, ratings, survey).splitlines()
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines if line.startswith("|")}) == 1


def test_every_rating_shows_its_interval_and_how_sure_it_is(records: Any, surer: Any, survey: Any) -> None:
    section = render_section(records, surer, survey)
    standings = set()
    for rating in surer:
        (row,) = [line for line in section.splitlines() if line.startswith(f"| **{rating.framework}** |")]
        for given in (rating.deployment, rating.cross_platform):
            standings.add(given.standing)
            assert f"| {stars_text(given)} |" in row
            assert f"({given.low:g} to {given.high:g}" in row
            assert (given.standing in row) or given.standing == "rated"
    assert standings == {"rated", "provisional", "not rated"}


def test_equal_records_give_equal_bytes(records: Any, ratings: Any) -> None:
    shuffled = list(records)
    random.Random(1).shuffle(shuffled)
    assert render_section(shuffled, ratings) == render_section(records, ratings)
    assert results_page(shuffled) == results_page(records)


def test_the_results_page_names_every_cell_that_is_no_plain_pass(make: Any) -> None:
    records = [make(f"fw/m{o.value}/onnx/rt/t", o, stage=Stage.RUN, reason=f"because {o.value}") for o in Outcome]
    page = results_page(records)
    for outcome in set(Outcome) - {Outcome.PASS}:
        assert f"**{outcome.value}** at RUN: because {outcome.value.replace('_', '_')}" in page
        assert f"  - m{outcome.value}, onnx → rt" in page
    assert "because PASS" not in page


def test_cells_with_one_reason_share_a_line(make: Any) -> None:
    records = [make(f"fw/m{n}/onnx/rt/t", Outcome.FAIL, stage=Stage.LOAD, reason="no such operator") for n in range(3)]
    assert results_page(records).count("no such operator") == 1


@pytest.mark.parametrize(
    ("outcomes", "text"),
    [
        ([Outcome.PASS, Outcome.PASS], "2/2"),
        ([Outcome.PASS, Outcome.FAIL, Outcome.ERROR, Outcome.NOT_RUN], "1/2 ✗1 !1 ·1"),
        ([Outcome.FAIL], "0/1 ✗1"),
        ([Outcome.XFAIL, Outcome.PASS], "1/2 ⊘1"),
        ([Outcome.NOT_RUN, Outcome.NOT_RUN], "not run 2"),
        ([Outcome.ERROR], "error 1"),
        ([Outcome.SKIP], "skipped 1"),
        ([Outcome.ERROR, Outcome.NOT_RUN], "!1 ·1"),
    ],
)
def test_badges_keep_fail_error_and_not_run_apart(make: Any, outcomes: list[Outcome], text: str) -> None:
    records = [make(f"fw/m{n}/onnx/rt/t", outcome) for n, outcome in enumerate(outcomes)]
    badge = badge_table(records, ()).rows[0].badges[0]
    assert badge is not None
    assert badge_text(badge) == text


@pytest.mark.parametrize(
    ("possible", "outcomes", "text"),
    [
        ([True, True, False], [], "◆1 ◇2 (s)"),
        ([True, True], [], "could run 2 (s)"),
        ([False], [], "cannot run 1 (s)"),
        ([True, False], [Outcome.PASS, Outcome.FAIL], "1/2 ✗1 ◆1 ◇1 (n,s)"),
    ],
)
def test_look_ups_have_marks_of_their_own_in_a_badge(
    make: Any, look: Any, possible: list[bool], outcomes: list[Outcome], text: str
) -> None:
    run = [make(f"fw/r{n}/onnx/rt/t", outcome, reach=Reach.NATIVE) for n, outcome in enumerate(outcomes)]
    found = [look(f"fw/l{n}/onnx/rt/t", possible=can) for n, can in enumerate(possible)]
    badge = badge_table([*run, *found], ()).rows[0].badges[0]
    assert badge is not None
    assert badge_text(badge) == text


def test_every_field_of_the_grid_shows_how_its_target_was_reached(make: Any, look: Any) -> None:
    page = results_page([
        make("fw/a/onnx/rt/t", reach=Reach.NATIVE),
        make("fw/b/onnx/rt/t", reach=Reach.EMULATED, archived=True),
        make("fw/c/onnx/rt/t", Outcome.FAIL, reach=Reach.CONTAINER),
        look("fw/d/onnx/rt/t"),
        look("fw/e/onnx/rt/t", possible=False),
    ])  # fmt: skip
    fields = dict(re.findall(r"^\| ([a-e]) \| (.*) \|$", page, re.MULTILINE))
    assert fields == {"a": "✓", "b": "✓ (e)†", "c": "✗ (c)", "d": "◇ (s)", "e": "◆ (s)"}
    assert "◇ could run (looked up, not run" in page
    assert "(s) static" in page


def test_a_section_is_replaced_and_nothing_else() -> None:
    text = f"# Title\n\n{BEGIN}\nold\n{END}\n\nafter\n"
    once = replace_section(text, "new\n")
    assert once == f"# Title\n\n{BEGIN}\nnew\n{END}\n\nafter\n"
    assert replace_section(once, "new\n") == once
    assert replace_section(f"{BEGIN}{END}", "new") == f"{BEGIN}\nnew\n{END}"


def test_line_ends_of_the_text_are_kept() -> None:
    assert replace_section(f"a\r\n{BEGIN}\r\n{END}\r\n", "x\ny\n") == f"a\r\n{BEGIN}\r\nx\r\ny\r\n{END}\r\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing", "begin --> occurs 0 times"),
        (f"{BEGIN}\n", "end --> occurs 0 times"),
        (f"{BEGIN}\n{BEGIN}\n{END}", "begin --> occurs 2 times"),
        (f"{BEGIN}\n{END}\n{END}", "end --> occurs 2 times"),
        (f"{END}\n{BEGIN}", "stands before"),
    ],
)
def test_markers_that_are_missing_doubled_or_reversed_are_the_users_to_mend(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace_section(text, "new")
