"""Badges as files: what they say, that they can be read by everybody, and that hostile names stay names."""

from __future__ import annotations

import json
import random
import re
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from made_history import latency

from portmatrix.render.badges import COLOURS, MANIFEST, TEXT, badge_files, badge_images, colour, svg, text_width
from portmatrix.render.readme import badge_text, stars_text
from portmatrix.render.table import badge_table, stem
from portmatrix.types import Outcome, Reach

SVG = "{http://www.w3.org/2000/svg}"
#: A page of GitHub in light and in dark.
PAGES = ("#ffffff", "#0d1117")


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours as WCAG 2 defines it, from 1 to 21."""
    lighter, darker = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    parts = (int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5))
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_there_is_a_badge_for_every_field_of_the_table_and_for_every_rating(records: Any, ratings: Any) -> None:
    files = badge_files(records, ratings)
    expected = {stem("matrix")}
    for row in badge_table(records, ratings).rows:
        expected |= {stem(badge.framework, badge.target) for badge in row.badges if badge}
        expected |= {stem(row.framework, "rating", name) for name in ("deployment", "cross-platform")}
    assert set(files) == {f"{name}.{kind}" for name in expected for kind in ("svg", "json")} | {MANIFEST}
    assert json.loads(files[MANIFEST])["files"] == sorted(set(files) - {MANIFEST})


def test_a_badge_says_what_the_table_says(records: Any, ratings: Any) -> None:
    files = badge_files(records, ratings)
    for row in badge_table(records, ratings).rows:
        for badge in filter(None, row.badges):
            name = stem(badge.framework, badge.target)
            root = ET.fromstring(files[f"{name}.svg"])
            assert [text.text for text in root.iter(f"{SVG}text")] == [badge_text(badge)]
            assert root.get("aria-label") == f"{badge.framework} on {badge.target}: {badge_text(badge)}"
            fields = json.loads(files[f"{name}.json"])
            assert fields == {
                "schemaVersion": 1,
                "label": f"{badge.framework} on {badge.target}",
                "message": badge_text(badge),
                "color": colour(badge)[1:],
            }
        assert row.rating is not None
        rated = json.loads(files[f"{stem(row.framework, 'rating', 'deployment')}.json"])
        assert rated["message"] == stars_text(row.rating.deployment)


def test_images_are_read_out_and_need_nothing_else(records: Any, ratings: Any) -> None:
    for name, text in badge_files(records, ratings).items():
        if not name.endswith(".svg"):
            continue
        root = ET.fromstring(text)
        assert root.get("role") == "img"
        assert root.get("aria-label")
        assert root.findtext(f"{SVG}title") == root.get("aria-label")
        assert {element.tag.removeprefix(SVG) for element in root.iter()} <= {
            "svg",
            "title",
            "rect",
            "path",
            "g",
            "text",
        }
        assert not re.search(r"href|url\(|@import|<script|<style", text)


def test_colours_hold_against_their_text_and_against_both_pages() -> None:
    for background in COLOURS:
        assert contrast(TEXT, background) >= 4.5, background
        for page in PAGES:
            assert contrast(background, page) >= 3, (background, page)


def test_every_image_is_as_wide_as_its_text_and_uses_these_colours_alone(records: Any, ratings: Any) -> None:
    for image in badge_images(records, ratings):
        root = ET.fromstring(svg(image))
        assert image.colour in COLOURS
        assert {element.get("fill") for element in root.iter() if element.get("fill")} <= {*COLOURS, TEXT}
        width, end = int(root.get("width", "")), 0
        for text in root.iter(f"{SVG}text"):
            start, length = int(text.get("x", "")), int(text.get("textLength", ""))
            assert start > end
            assert length >= text_width(text.text or "") > 0
            end = start + length
        assert end < width


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        ("", 0, 0),
        ("iiii", 8, 16),
        ("WWWW", 40, 50),
        ("✓≈✗⊘", 30, 44),
        ("★★★★☆", 40, 60),
        ("漢字", 22, 30),
        ("e\u0301", 6, 8),
    ],
)
def test_the_width_of_a_text_is_estimated(text: str, least: int, most: int) -> None:
    assert least <= text_width(text) <= most


@pytest.mark.parametrize(
    ("outcomes", "as_in"),
    [
        ([Outcome.PASS, Outcome.DEGRADED], [Outcome.PASS]),
        ([Outcome.PASS, Outcome.XFAIL, Outcome.XFAIL], [Outcome.DEGRADED, Outcome.XFAIL]),
        ([Outcome.PASS, Outcome.FAIL, Outcome.ERROR, Outcome.XPASS], [Outcome.FAIL]),
        ([Outcome.PASS, Outcome.ERROR, Outcome.XPASS], [Outcome.ERROR]),
        ([Outcome.PASS, Outcome.XPASS], [Outcome.XPASS]),
        ([Outcome.SKIP, Outcome.NOT_RUN], [Outcome.NOT_RUN]),
    ],
)
def test_a_badge_is_coloured_by_the_most_urgent_in_it(make: Any, outcomes: list[Any], as_in: list[Any]) -> None:
    def colour_of(those: list[Any]) -> str:
        cells = [make(f"fw/m{n}/p/r/t", outcome) for n, outcome in enumerate(those)]
        badge = badge_table(cells, ()).rows[0].badges[0]
        assert badge is not None
        return colour(badge)

    assert colour_of(outcomes) == colour_of(as_in)


def test_fail_error_and_not_run_and_what_was_looked_up_never_share_a_colour(make: Any, look: Any) -> None:
    cells = [make(f"{o.value}/m/p/r/t", o) for o in (Outcome.PASS, Outcome.FAIL, Outcome.ERROR, Outcome.NOT_RUN)]
    cells += [make("k/m/p/r/t", Outcome.XFAIL), make("x/m/p/r/t", Outcome.XPASS)]
    cells += [look("could/m/p/r/t"), look("cannot/m/p/r/t", possible=False)]
    badges = [badge for row in badge_table(cells, ()).rows for badge in row.badges if badge]
    assert len({colour(badge) for badge in badges}) == len(cells)


def test_the_badge_of_the_whole_matrix_counts_what_works_and_what_is_unexpected(make: Any, look: Any) -> None:
    def whole(cells: list[Any]) -> tuple[str, str]:
        image = next(iter(badge_images(cells, ())))
        return image.message, image.colour

    good = [make("fw/a/p/r/t"), make("fw/b/p/r/t", Outcome.XFAIL), look("fw/c/p/r/t")]
    foretold = make("fw/d/p/r/t", Outcome.ERROR, expected="the emulator dies of it")
    assert whole([*good, foretold]) == ("1 of 2 cells work", whole(good)[1])
    message, red = whole([*good, make("fw/e/p/r/t", Outcome.FAIL), make("fw/f/p/r/t", Outcome.ERROR)])
    assert message == "1 of 3 cells work, 1 fail, 1 error"
    assert (
        len({red, whole(good)[1], whole([look("fw/c/p/r/t")])[1], whole([make("fw/f/p/r/t", Outcome.ERROR)])[1]}) == 4
    )
    assert whole([look("fw/c/p/r/t")])[0] == "no cell was run"


def test_a_framework_that_was_measured_has_a_badge_of_its_latency(make: Any) -> None:
    cells = [
        make(f"fw/m{n}/p/r/t", reach=Reach.NATIVE, latency=latency(ratio)) for n, ratio in enumerate((1.0, 1.5, 4))
    ]
    files = badge_files([*cells, make("other/m/p/r/t")], ())
    assert json.loads(files["fw.latency.ratio.json"])["message"] == "1.5 (3 cells)"
    assert not [name for name in files if name.startswith("other.latency")]


def test_hostile_names_stay_text_in_files_that_every_system_takes(hostile: Any, hostile_text: str) -> None:
    files = badge_files(hostile, ())
    assert len(files) == 2 * (1 + len(Outcome)) + 1
    for name, text in files.items():
        assert re.fullmatch(r"[A-Za-z0-9_~.-]{1,255}", name), name
        assert "\u202e" not in text
        if name.endswith(".svg"):
            assert "<script" not in text
            ET.fromstring(text.encode())
        else:
            json.loads(text)


def test_different_names_have_different_files() -> None:
    names = [("a.b", "c"), ("a", "b.c"), ("a", "2e", "b"), ("a.", "b"), ("a", ".b"), ("x" * 90, "t"), ("x" * 91, "t")]
    names += [("a", "b"), ("A", "b"), ("a b", "c"), ("a+b", "c"), ("é", "c"), ("matrix",)]
    assert len({stem(*name) for name in names}) == len(names)
    assert stem("torch", "linux-x86_64") == "torch.linux-x86_64"


def test_equal_records_give_equal_bytes(records: Any, ratings: Any) -> None:
    shuffled = list(records)
    random.Random(1).shuffle(shuffled)
    assert badge_files(shuffled, ratings) == badge_files(records, ratings)
