from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from made_site import STEADY, WRONG, history, made_context
from page_of import context
from playwright.sync_api import Page, expect

from portmatrix import advice, plan, records, suite
from portmatrix.advice import Kinship, Neighbour
from portmatrix.plan import Selection
from portmatrix.render.explanation import _neighbour
from portmatrix.render.table import shown_of
from portmatrix.site import build
from portmatrix.site.links import to_cell
from portmatrix.site.page import Context
from portmatrix.types import Outcome, Reach, Record, Stage

pytestmark = pytest.mark.xdist_group("browser")
OpenPage = Callable[..., Page]
ROOT = Path(__file__).parents[2]
CONTEXT = made_context()
BY_CELL = {record.cell: record for record in CONTEXT.records}


def shown(open_page: OpenPage, cell: str, **options: Any) -> Page:
    page = open_page(to_cell(cell), **options)
    page.locator("#cell .headline").wait_for()
    return page


def section(page: Page, head: str) -> str:
    return page.locator("#cell section", has=page.locator("h2", has_text=head)).inner_text()


def one(test: Callable[[Record], bool]) -> Record:
    return next(record for record in CONTEXT.records if test(record))


def test_a_failed_comparison_shows_its_numbers_and_what_would_pass(open_page: OpenPage) -> None:
    page = shown(open_page, WRONG)
    rows = [row.locator("td").all_inner_texts() for row in page.locator("#cell section table tbody tr").all()]
    heads = page.locator("#cell section table").first.locator("th").all_inner_texts()
    first, second = (dict(zip(heads, row, strict=True)) for row in rows[:2])
    assert (first["max. difference"], first["SNR, dB"], first["top-1"], first["outside"]) == (
        "0.31",
        "12.5",
        "75%",
        "25%",
    )
    assert first["strict tolerance"] == "0.0001 + 1e-5·|ref|"
    assert (first["needed"], first["tolerance that would pass"]) == ("3,100\u00d7", "0.31 + 0.031·|ref|")
    assert (second["needed"], second["tolerance that would pass"]) == ("none", "none would")
    text = page.locator("#cell").inner_text()
    assert "logits differ by 0.31" in text
    assert "Blame: the runtime, says onnx-reference: the reference agrees with the framework to 2e-7" in text
    assert "at [3, 7] 0.52, expected 0.21" in text
    assert page.locator("h1").inner_text() == WRONG
    assert page.title().startswith(WRONG)


def test_an_accuracy_that_integers_are_judged_by_is_there(open_page: OpenPage) -> None:
    text = section(shown(open_page, WRONG), "Accuracy on held-out rows")
    assert [part in text for part in ("87.5%", "92.5%", "\u22125 points, of which it may lose 2", "297")] == [True] * 4
    assert not shown(open_page, STEADY).locator("#cell h2", has_text="Accuracy on held-out rows").count()


def test_the_command_that_runs_it_again_is_there_to_copy(open_page: OpenPage) -> None:
    page = shown(open_page, WRONG)
    code = page.locator(".command code")
    assert code.inner_text() == f"portmatrix repro {WRONG}"
    page.locator(".command button").click()
    expect(page.locator(".command button")).to_have_text(re.compile("Copied|Selected"))


def test_a_known_failure_says_what_foretold_it(open_page: OpenPage) -> None:
    record = one(lambda record: record.outcome is Outcome.XFAIL)
    page = shown(open_page, record.cell)
    assert "Expected in matrix.yaml: FAIL at LOAD: it reads no IR 10" in page.locator("#cell").inner_text()
    assert page.locator("#cell a", has_text="https://example.org/17").get_attribute("href") == "https://example.org/17"


def test_an_error_shows_the_end_of_its_log(open_page: OpenPage) -> None:
    record = one(lambda record: record.outcome is Outcome.ERROR)
    page = shown(open_page, record.cell)
    assert page.locator("#cell pre").text_content() == record.log_tail


def test_a_look_up_shows_what_it_rests_on(open_page: OpenPage) -> None:
    cannot = one(lambda record: record.reach is Reach.STATIC and record.outcome is Outcome.FAIL)
    page = shown(open_page, cannot.cell)
    assert "cannot run" in page.locator(".headline").inner_text()
    assert "recorded as FAIL" in page.locator(".headline").inner_text()
    text = section(page, "Looked up")
    assert "openvino 0.9 for CPython 3.12" in text
    assert "2026-11-22" in text


def test_a_latency_shows_every_way_of_calling(open_page: OpenPage) -> None:
    record = one(lambda record: record.latency is not None and record.latency.unstable)
    page = shown(open_page, record.cell)
    text = section(page, "Latency")
    assert record.latency is not None
    for timing in record.latency.timings:
        assert f"{timing.ratio:.3g}".rstrip("0") in text
    assert "Unstable" in text
    assert page.locator("section", has_text="Latency").locator(f'a[href="{to_cell(record.latency.baseline)}"]').count()


def test_environment_facts_and_record_are_there(open_page: OpenPage) -> None:
    record = BY_CELL[STEADY]
    page = shown(open_page, STEADY)
    assert "3.11.7" in section(page, "Environment")
    assert "torch.onnx" in section(page, "Facts")
    assert (record.bundle or "none") in section(page, "Record")


def test_a_history_is_drawn_and_told(open_page: OpenPage) -> None:
    page = shown(open_page, STEADY)
    past = list(history())
    picture = page.locator(".timeline svg")
    assert picture.locator("text[class^=t-]").count() == len(past)
    assert picture.locator("text.t-FAIL").count() == 1
    assert picture.locator("circle").count() == len(past) - 1
    assert picture.locator("circle.hollow").count() == 1
    assert "20 records from 2026-01-01 to 2026-01-20" in (picture.get_attribute("aria-label") or "")
    page.locator("summary", has_text="The same as a table").click()
    rows = page.locator("details table tbody tr")
    assert rows.count() == len(past)
    assert "1.4" in rows.first.inner_text()


def test_what_changed_since_the_base_is_told(open_page: OpenPage) -> None:
    page = shown(open_page, one(lambda record: record.cell in regressed()).cell)
    text = section(page, "Since the base")
    assert "Outcome: regression." in text
    assert "✓ pass" in text
    assert "3.10.1" in text
    absent = one(lambda record: record.cell not in (CONTEXT.base or {}))
    page = shown(open_page, absent.cell)
    assert "The base has no record of this cell" in section(page, "Since the base")


def regressed() -> set[str]:
    assert CONTEXT.changes is not None
    return {change.cell for change in CONTEXT.changes.cells if change.outcome.value == "regression"}


def test_without_a_base_nothing_is_said_of_one(open_page: OpenPage, tmp_path: Path) -> None:
    build.write(build.build(made_context(base=None, trends={})), tmp_path / "plain")
    page = shown(open_page, STEADY, folder=tmp_path / "plain")
    heads = page.locator("#cell h2").all_inner_texts()
    assert not {"Since the base", "History"} & set(heads)
    assert "Environment" in heads


# --- Advice ---------------------------------------------------------------------------------------------------------


def told_by_pages(page: Page, cells: Sequence[str]) -> list[dict[str, Any]]:
    """Return what the page's own script would advise of each cell, with ids and changes in words."""
    found: list[dict[str, Any]] = page.evaluate(
        """async (ids) => {
            const cells = await portmatrix.cells;
            const named = (items) => items.map((item) => [cells.id(item.at), item.change]);
            return ids.map((id) => {
                const told = portmatrix.advise(cells, cells.find(id));
                return { state: told.state, works: named(told.works), untried: named(told.untried),
                    elsewhere: told.elsewhere.map((item) => cells.id(item.at)) };
            });
        }""",
        list(cells),
    )
    return found


def told_by_command(
    record: Record, found: dict[str, Record], kinship: Kinship, planned: frozenset[str]
) -> dict[str, Any]:
    """Return what ``portmatrix explain`` says of a cell, in the same form."""
    axes = plan.Axes((), {}, {}, ())
    told = advice.explain(record.id, found, kinship, axes)
    around = advice.neighbours(record.id, found, kinship)
    untried = [
        item
        for item in around
        if str(item.cell) in planned and item.record and advice._state(item.record) is advice.State.UNKNOWN
    ]

    def line(item: Neighbour) -> list[str]:
        words = _neighbour(told, item, kinship.roads).split(": ", 1)[1]
        return [str(item.cell), words]

    return {
        "state": {"works": "works", "fails": "fails"}.get(told.state.value, "unknown"),
        "works": [line(item) for item in told.works],
        "untried": [line(item) for item in untried],
        "elsewhere": [item.cell for item in told.elsewhere],
    }


def agree(page: Page, given: Context, chosen: Sequence[Record]) -> None:
    found = {record.cell: record for record in sorted(given.records, key=lambda record: record.cell)}
    pages = told_by_pages(page, [record.cell for record in chosen])
    for record, told in zip(chosen, pages, strict=True):
        assert told == told_by_command(record, found, given.kinships[record.id.framework], given.planned), record.cell


def test_the_advice_is_that_of_the_command(open_page: OpenPage) -> None:
    agree(open_page("cell.html"), CONTEXT, CONTEXT.records)


def test_the_advice_on_the_reference_results_is_that_of_the_command(open_page: OpenPage, tmp_path: Path) -> None:
    loaded = suite.load(ROOT)
    referees = frozenset(loaded.spec.referees.values())
    families = {name: str(runtime.file) for name, runtime in loaded.plugins.runtimes.items()}
    kinships = {
        name: Kinship(
            {path: advice.Road(given.kind, given.format, given.batch) for path, given in exporter.paths.items()},
            families,
            referees,
        )
        for name, exporter in loaded.plugins.exporters.items()
    }
    found = list(records.read(ROOT / "results" / "reference.jsonl"))
    planned = frozenset(map(str, plan.plan(suite.axes(loaded), suite.exclusions(loaded), Selection()).cells))
    given = context(found)._replace(kinships=kinships, planned=planned)
    build.write(build.build(given), tmp_path / "reference")
    failing = [record for record in given.records if record.outcome is not Outcome.PASS]
    agree(open_page("cell.html", folder=tmp_path / "reference"), given, failing[::7])


def test_a_failing_cell_shows_its_nearest_neighbours_that_work(open_page: OpenPage) -> None:
    page = shown(open_page, WRONG)
    found = {record.cell: record for record in CONTEXT.records}
    told = advice.explain(BY_CELL[WRONG].id, found, CONTEXT.kinships["torch"], plan.Axes((), {}, {}, ()))
    text = section(page, "What would work")
    assert advice.change_in_words(told.cell, told.works[0], CONTEXT.kinships["torch"].roads) in text
    links = page.locator("section", has_text="What would work").locator("li a").all()
    hrefs = [link.get_attribute("href") for link in links]
    assert hrefs[: len(told.works[:12])] == [to_cell(str(item.cell)) for item in told.works[:12]]


def test_a_cell_that_works_needs_no_advice(open_page: OpenPage) -> None:
    page = shown(open_page, STEADY)
    assert "What would work" not in page.locator("#cell h2").all_inner_texts()


# --- From cell to cell ----------------------------------------------------------------------------------------------


def test_neighbours_differ_in_one_axis_and_lead_on(open_page: OpenPage) -> None:
    page = shown(open_page, STEADY)
    links = page.locator("a.neighbour").all()
    found = [unquote((link.get_attribute("href") or "").partition("#")[2]) for link in links]
    mine = BY_CELL[STEADY].id
    wanted = {
        cell for cell, record in BY_CELL.items() if sum(a != b for a, b in zip(record.id, mine, strict=True)) == 1
    }
    assert set(found) == wanted
    for link, cell in list(zip(links, found, strict=True))[:3]:
        assert shown_of(BY_CELL[cell]).value.lower()[:4] in link.inner_text().lower()
    links[0].click()
    expect(page.locator("h1")).to_have_text(found[0])
    expect(page.locator("h1")).to_be_focused()


def test_keys_go_on_to_the_next_cell_and_back(open_page: OpenPage) -> None:
    first, second = CONTEXT.records[0].cell, CONTEXT.records[1].cell
    page = shown(open_page, first)
    page.keyboard.press("k")
    expect(page.locator("h1")).to_have_text(first)
    page.keyboard.press("j")
    expect(page.locator("h1")).to_have_text(second)
    page.keyboard.press("ArrowLeft")
    expect(page.locator("h1")).to_have_text(first)
    page.keyboard.press("m")
    page.wait_for_url(re.compile(r"/matrix\.html#"))
    expect(page.locator('#rows [aria-selected="true"]')).to_be_in_viewport()


def test_the_crumbs_lead_to_all_cells_of_a_name(open_page: OpenPage) -> None:
    page = shown(open_page, WRONG)
    page.locator("#crumbs a", has_text="opencv-dnn").click()
    page.wait_for_url("**/matrix.html#runtime=opencv-dnn")
    count = sum(record.id.runtime == "opencv-dnn" for record in CONTEXT.records)
    expect(page.locator("#status")).to_have_text(f"{count} of {len(CONTEXT.records)} cells")


@pytest.mark.parametrize(
    ("fragment", "words"),
    [
        ("", "names no cell"),
        ("#a/b", "no cell a/b"),
        ("#a/b/c/d/e", "no cell a/b/c/d/e"),
        ("#%E0%A4%A", "no cell %E0%A4%A"),
    ],
    ids=["none", "half a one", "a strange one", "no text"],
)
def test_an_address_without_a_cell_says_so(open_page: OpenPage, fragment: str, words: str) -> None:
    page = open_page(f"cell.html{fragment}")
    expect(page.locator("#cell")).to_contain_text(words)


def test_every_cells_details_are_its_own(open_page: OpenPage) -> None:
    page = open_page("cell.html")
    found = page.evaluate(
        """async () => {
            const cells = await portmatrix.cells;
            const all = [];
            for (let at = 0; at < cells.size; at += 1) {
                const { record } = await cells.details(at);
                all.push([cells.id(at), record.outcome, record.stage ?? null, record.reason ?? ""]);
            }
            return all;
        }"""
    )
    wanted = [
        [
            record.cell,
            record.outcome.value,
            record.stage.value if record.stage else None,
            record.reason.replace("\r\n", "\n"),
        ]
        for record in CONTEXT.records
    ]
    assert found == wanted
    assert Stage.COMPARE.value in {stage for _, _, stage, _ in found}


def test_a_site_with_a_file_missing_says_which(browser: Any, site: Path, tmp_path: Path) -> None:
    import shutil  # noqa: PLC0415

    broken = tmp_path / "broken"
    shutil.copytree(site, broken)
    (broken / "data" / "details-0.js").unlink()
    page = browser.new_page()
    page.goto(f"{broken.as_uri()}/{to_cell(CONTEXT.records[0].cell)}")
    expect(page.locator("#cell")).to_contain_text("data/details-0.js cannot be read")
    assert urlsplit(page.url).fragment
    page.close()
