from __future__ import annotations

import importlib
import json
import re
from typing import Any
from xml.etree import ElementTree

import pytest
from markupsafe import Markup

from portmatrix.site import plots
from portmatrix.site.plots import Group, Row, Spot

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "</text><script>alert(1)</script>\u202e&amp;"


def drawn(chart: dict[str, Any], name: str = "p", title: str = "t", about: str = "d") -> ElementTree.Element:
    svg = plots.draw(chart, name, title, about)
    assert isinstance(svg, Markup)
    return ElementTree.fromstring(svg)


def texts(root: ElementTree.Element) -> list[str]:
    return ["".join(element.itertext()) for element in root.iter(f"{SVG}text")]


def ratios() -> dict[str, Any]:
    rows = (Row("native → torch", (0.5,), 0.4, 0.6), Row("onnx → openvino", (2.0,), 1.5, 3.0, soft=True))
    return plots.ratios([Group("mlp", rows), Group("lstm", (Row("a → b", (8.0,), 7.0, 9.0, hollow=True),))])


def test_a_plot_scales_and_is_an_image_with_a_name_and_a_description() -> None:
    root = drawn(ratios(), "plot-7", "A title", "What is in it")
    assert not {"width", "height"} & root.attrib.keys()
    assert root.attrib["viewBox"].startswith("0 0 ")
    assert root.attrib["role"] == "img"
    assert not [element for element in root.iter() if element is not root and "role" in element.attrib]
    title, about = (root.find(f"{SVG}{name}") for name in ("title", "desc"))
    assert title is not None
    assert about is not None
    assert (title.text, about.text) == ("A title", "What is in it")
    assert root.attrib["aria-labelledby"] == f"{title.attrib['id']} {about.attrib['id']}"


def test_headings_and_labels_are_in_it() -> None:
    assert {"mlp", "lstm", "native → torch", "onnx → openvino", "a → b"} <= set(texts(drawn(ratios())))


def test_nothing_in_a_plot_is_forbidden_by_the_sites_policy_or_asks_for_anything() -> None:
    for root in (drawn(ratios()), drawn(plots.scatter([Spot("a", 10, 1e-3), Spot("b", 1e6, 1)]))):
        for element in root.iter():
            assert element.tag.removeprefix(SVG) not in ("style", "script", "image", "a", "foreignObject")
            assert not [name for name in element.attrib if name == "style" or name.startswith("on") or "href" in name]


def test_text_takes_the_pages_colour_and_nothing_lies_behind_the_plot() -> None:
    root = drawn(ratios())
    assert {element.attrib.get("fill") for element in root.iter(f"{SVG}text")} == {"currentColor"}
    painted = {element.attrib.get(side) for element in root.iter() for side in ("fill", "stroke")}
    assert not painted & {"white", "#fff", "#ffffff", "black", "#000", "#000000"}
    assert "var(--accent)" in painted


def test_foreign_names_stay_text() -> None:
    chart = plots.ratios([Group(HOSTILE, (Row(HOSTILE, (1.0,)),))])
    svg = str(plots.draw(chart, "p", HOSTILE, HOSTILE))
    assert "<script" not in svg
    assert "\u202e" not in svg
    assert "</text><script>alert(1)</script>\\u202e&amp;" in texts(ElementTree.fromstring(svg))


def test_equal_charts_give_equal_bytes() -> None:
    assert plots.draw(ratios(), "p", "t", "d") == plots.draw(ratios(), "p", "t", "d")


def test_two_plots_of_a_page_share_no_id() -> None:
    ids = [re.findall(r'\bid="([^"]+)"', str(plots.draw(ratios(), name, "t", "d"))) for name in ("a", "b")]
    assert ids[0]
    assert not set(ids[0]) & set(ids[1])


def places(root: ElementTree.Element, label: str) -> list[tuple[float, float]]:
    """Return where the points of a mark group stand, as far as the transform of the path says."""
    found = []
    for element in root.iter(f"{SVG}path"):
        moved = re.match(r"translate\(([-\d.]+),([-\d.]+)\)", element.attrib.get("transform", ""))
        if moved and element.attrib.get("stroke") == label:
            found.append((float(moved[1]), float(moved[2])))
    return found


def test_a_ratio_stands_where_its_logarithm_does() -> None:
    rows = tuple(Row(f"r{ratio}", (ratio,)) for ratio in (1.0, 2.0, 4.0))
    points = places(drawn(plots.ratios([Group("m", rows)])), "var(--accent)")
    assert len(points) == 3
    first, second, third = sorted(points, key=lambda point: point[1])
    assert second[0] - first[0] == pytest.approx(third[0] - second[0], abs=0.01)
    assert second[0] > first[0]


def test_a_missing_value_has_no_mark() -> None:
    rows = (Row("r", (1e-3, None, None), 1e-3, 1e-3),)
    points = places(drawn(plots.seconds([Group("m", rows)], ("dot", "short bar", "long bar"))), "var(--accent)")
    assert len(points) == 1


def test_a_hollow_row_is_not_filled() -> None:
    def opacity(*, hollow: bool) -> set[str]:
        root = drawn(plots.ratios([Group("m", (Row("r", (1.0,), hollow=hollow),))]))
        return {e.attrib.get("fill-opacity", "1") for e in root.iter() if e.attrib.get("stroke") == "var(--accent)"}

    assert opacity(hollow=True) == {"0"}
    assert opacity(hollow=False) == {"1"}


def test_a_scatter_plot_has_an_entry_for_each_series_and_axes_in_their_units() -> None:
    root = drawn(plots.scatter([Spot("openvino", 5e4, 2e-5), Spot("torch", 3e6, 4e-3, hollow=True)]))
    shown = texts(root)
    assert {"openvino", "torch"} <= set(shown)
    assert any(text.endswith("kB") for text in shown)
    assert any(text.endswith("µs") for text in shown)


@pytest.mark.parametrize(("low", "high"), [(0.9, 1.1), (0.4, 30), (1e-6, 1e-3), (3, 3.1), (1e-9, 1e9)])
def test_axes_have_few_round_marks_within_their_ends(low: float, high: float) -> None:
    found = plots.marks(low, high)
    assert len(found) <= 9
    assert found == sorted(found)
    assert all(low <= mark <= high for mark in found)
    assert high < 2 * low or found


def test_numbers_that_are_all_alike_make_an_axis() -> None:
    drawn(plots.ratios([Group("m", (Row("r", (1.0,), 1.0, 1.0),))]))
    drawn(plots.scatter([Spot("a", 100, 1e-3), Spot("a", 100, 1e-3)]))


def test_a_chart_is_plain_json() -> None:
    assert json.loads(json.dumps(ratios()))["layer"]


def test_without_the_library_nothing_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(plots, "import_module", missing)
    plots._library.cache_clear()
    try:
        assert not plots.is_available()
        assert plots.draw(ratios(), "p", "t", "d") is None
    finally:
        monkeypatch.setattr(plots, "import_module", importlib.import_module)
        plots._library.cache_clear()
