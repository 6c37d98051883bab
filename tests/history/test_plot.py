"""The trend plot: every measurement is in it, steps and bands are, and each form is what its suffix says."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from made_history import CELL, OTHER
from test_trends import around, series

from portmatrix.errors import NothingSelected, UserError
from portmatrix.history import plot
from portmatrix.history.trends import Trend, trend

VALUES = [*around(1.0, 20, 0), *around(1.3, 15, 1)]


def trends() -> list[Trend]:
    return [
        trend(series(VALUES, unstable=frozenset({3}))._replace(cell=CELL)),
        trend(series(VALUES)._replace(cell=CELL, cpu="another\u202e<b>")),
        trend(series(VALUES[:25], ratio=False)._replace(cell=OTHER)),
    ]


def test_the_chart_has_every_measurement_and_step() -> None:
    first, second = plot.chart(trends())["vconcat"]
    assert first["title"]["text"] == CELL
    assert [row["value"] for row in first["data"]["values"]] == [*VALUES, *VALUES]
    assert [row["unstable"] for row in first["data"]["values"]].count(True) == 1
    marks = {layer["mark"]["type"]: layer for layer in first["layer"] if "mark" in layer}
    said = [row["said"] for row in marks["rule"]["data"]["values"]]
    assert len(said) == 2
    assert all(text.startswith("+30.") and text.endswith("% on 2026-01-21") for text in said), said
    levels = {round(row["value"], 1) for row in marks["line"]["data"]["values"]}
    assert levels == {1.0, 1.3}
    assert [row["value"] for row in second["data"]["values"]] == [value * 1000 for value in VALUES[:25]]
    assert "area" in marks
    assert "area" not in {layer["mark"]["type"] for layer in second["layer"] if "mark" in layer}


def test_where_not_all_have_a_ratio_milliseconds_are_plotted() -> None:
    mixed = [trend(series(VALUES)), trend(series(VALUES, ratio=False))]
    (panel,) = plot.chart(mixed)["vconcat"]
    assert panel["title"]["subtitle"] == "p50, ms"
    assert {round(row["value"], 6) for row in panel["data"]["values"][: len(VALUES)]} == {1.0}


def test_an_svg_is_drawn_on_white_with_all_names(tmp_path: Path) -> None:
    plot.write(trends(), tmp_path / "new" / "trend.svg")
    root = ET.fromstring((tmp_path / "new" / "trend.svg").read_text(encoding="utf-8"))
    texts = [element.text or "" for element in root.iter() if element.tag.endswith("text")]
    assert {CELL, OTHER} <= set(texts)
    assert any(text.startswith("another\\u202e<b>") for text in texts), "foreign text is visible, and no markup"
    assert any(element.get("fill") == "white" for element in root.iter())
    marks = [element for element in root.iter() if element.get("aria-roledescription") == "point"]
    assert len(marks) == 2 * len(VALUES) + 25


def test_the_other_forms_are_what_they_are_called(tmp_path: Path) -> None:
    for suffix in (".png", ".html", ".json"):
        plot.write(trends(), tmp_path / f"trend{suffix}")
    assert (tmp_path / "trend.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert json.loads((tmp_path / "trend.json").read_text()) == plot.chart(trends())
    page = (tmp_path / "trend.html").read_text(encoding="utf-8")
    assert CELL in page
    assert "<script src=" not in page, "it needs nothing from anywhere"


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--plot .*trend\.pdf: expected a name that ends in \.svg, \.png"):
        plot.write(trends(), tmp_path / "trend.pdf")


def test_nothing_measured_is_nothing_to_plot(tmp_path: Path) -> None:
    with pytest.raises(NothingSelected, match="`portmatrix measure` does that"):
        plot.write([], tmp_path / "trend.svg")
    assert not list(tmp_path.iterdir())
