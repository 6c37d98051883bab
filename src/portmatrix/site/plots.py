"""The report's plots: charts for Vega-Lite, and their SVG, drawn when the site is built, which stands in the page.

Text and lines take the page's own colours (``currentColor`` and its custom properties), so that a plot suits a light
and a dark page. Widths are those of a phone; a page that is wider puts plots beside each other.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import import_module
from typing import Any, NamedTuple
from xml.etree import ElementTree

from markupsafe import Markup, escape

from portmatrix.render.text import one_line

#: What draws the charts, and how it is had.
LIBRARY = "vl_convert"
INSTALL = "pip install 'portmatrix[plots]'"
_SCHEMA = "https://vega.github.io/schema/vega-lite/v5.json"
#: The version of Vega-Lite that the charts are written for, as the converter names it.
_VERSION = "5.21"
#: Pixels: what a plot is wide, and how high a row of it is, and how many letters of a label fit.
WIDTH = 400
_ROW = 30
_LETTERS = 62
_TEXT = "currentColor"
_MARK = "var(--accent)"
_SOFT = "var(--muted)"
_LINE = "var(--line)"
#: Told apart on white and on black, also by people who see fewer colours; each has a shape of its own beside it.
_COLOURS = ["#2f7fc1", "#d55e00", "#0a8f68", "#c0569a", _TEXT, "#8467d7", "#a07400"]
_SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-left", "triangle-right"]
#: The form of each mark of a row: as Vega-Lite names it, and its area in square pixels.
_FORMS = {
    "dot": ("circle", 34),
    "triangle": ("triangle-up", 40),
    "short bar": ("M0,-.6L0,.6", 60),
    "long bar": ("M0,-1L0,1", 60),
}
_SECONDS = (
    "datum.value < 0.9e-6 ? format(datum.value * 1e9, '.3~r') + ' ns'"
    " : datum.value < 0.9e-3 ? format(datum.value * 1e6, '.3~r') + ' µs'"
    " : datum.value < 0.9 ? format(datum.value * 1e3, '.3~r') + ' ms' : format(datum.value, '.3~r') + ' s'"
)
_BYTES = (
    "datum.value < 0.9e3 ? format(datum.value, '.3~r') + ' B'"
    " : datum.value < 0.9e6 ? format(datum.value / 1e3, '.3~r') + ' kB'"
    " : datum.value < 0.9e9 ? format(datum.value / 1e6, '.3~r') + ' MB' : format(datum.value / 1e9, '.3~r') + ' GB'"
)
_PLAIN = "format(datum.value, '.3~r')"
#: A colour that stands in the data.
_AS_IS = {"field": "colour", "type": "nominal", "scale": None}
_SVG = "http://www.w3.org/2000/svg"


class Row(NamedTuple):
    """One row of a plot: a label above a line, and on it a mark for each value (none for None).

    ``low`` and ``high`` are the ends of a bar through them. A ``hollow`` row is not to be relied on, a ``soft`` one is
    what others are compared with.
    """

    label: str
    values: Sequence[float | None]
    low: float | None = None
    high: float | None = None
    hollow: bool = False
    soft: bool = False


class Group(NamedTuple):
    """Rows under a heading of their own."""

    heading: str
    rows: tuple[Row, ...]


class Spot(NamedTuple):
    """One point of a scatter plot; ``series`` decides its colour and shape."""

    series: str
    x: float
    y: float
    hollow: bool = False


def is_available() -> bool:
    """Return whether charts can be drawn here."""
    return _library() is not None


def ratios(groups: Sequence[Group]) -> dict[str, Any]:
    """Return the chart of ratios with their intervals on a logarithmic axis, with a line at 1."""
    return _rows(groups, ("dot",), _PLAIN, at_one=True)


def seconds(groups: Sequence[Group], forms: Sequence[str]) -> dict[str, Any]:
    """Return the chart of durations on a logarithmic axis; ``forms`` names the form of each value of a row."""
    return _rows(groups, forms, _SECONDS, at_one=False)


def scatter(spots: Sequence[Spot]) -> dict[str, Any]:
    """Return the chart of latency (seconds) against size (bytes), both axes logarithmic."""
    shown = {name: one_line(name, _LETTERS // 2) for name in sorted({spot.series for spot in spots})}
    scale = {"domain": list(dict.fromkeys(shown.values()))}
    legend = {"orient": "bottom", "columns": 2, "labelLimit": WIDTH / 2 - 30, "title": None}
    series = {"field": "series", "type": "nominal"}
    values = [
        {"series": shown[spot.series], "x": spot.x, "y": spot.y, "opacity": 0 if spot.hollow else 0.85}
        for spot in spots
    ]
    return {
        **_frame(300),
        "data": {"values": values},
        "mark": {"type": "point", "size": 70, "strokeWidth": 1.5, "opacity": 1},
        "encoding": {
            "x": _axis("x", [spot.x for spot in spots], _BYTES, title="artifact"),
            "y": _axis("y", [spot.y for spot in spots], _SECONDS, title="p50"),
            "stroke": {**series, "scale": {**scale, "range": _COLOURS}, "legend": legend},
            "fill": {**series, "scale": {**scale, "range": _COLOURS}, "legend": None},
            "fillOpacity": {"field": "opacity", "type": "quantitative", "scale": None},
            "shape": {**series, "scale": {**scale, "range": _SHAPES}, "legend": legend},
        },
    }


def draw(chart: Mapping[str, Any], name: str, title: str, description: str) -> Markup | None:
    """Return the chart as an ``svg`` element that scales with the page, or None where nothing here can draw it.

    ``name`` is unlike that of any other plot of the page. ``title`` and ``description`` are what a screen reader says.
    """
    library = _library()
    if library is None:
        return None
    made = library.vegalite_to_svg(dict(chart), vl_version=_VERSION)
    return _inline(made, name, one_line(title, 200), one_line(description, 500))


@lru_cache(maxsize=1)
def _library() -> Any:
    try:
        return import_module(LIBRARY)
    except ImportError:
        return None


def _inline(svg: str, name: str, title: str, description: str) -> Markup:
    """Return a whole SVG document as an element of a page: one image with a name, of no size of its own.

    What the converter says of its parts (roles without a name, classes) is of no use to anyone.
    """
    ElementTree.register_namespace("", _SVG)
    root = ElementTree.fromstring(svg)  # noqa: S314  # the converter's own output, all text in it escaped by it
    for element in root.iter():
        for attribute in [name for name in element.attrib if name in ("class", "role") or name.startswith("aria-")]:
            del element.attrib[attribute]
    width, height = (float(root.attrib.pop(side)) for side in ("width", "height"))
    root.attrib |= {
        "viewBox": f"0 0 {width:g} {height:g}",
        "role": "img",
        "aria-labelledby": f"{name}-title {name}-text",
    }
    for number, (tag, text) in enumerate((("title", title), ("desc", description))):
        element = ElementTree.Element(f"{{{_SVG}}}{tag}", {"id": f"{name}-{'title' if tag == 'title' else 'text'}"})
        element.text = text
        root.insert(number, element)
    text = ElementTree.tostring(root, encoding="unicode")
    # What the converter names (clips) must be unlike what it names in other plots.
    text = re.sub(r'(id="|url\(#)((?:clip|gradient)\d+)', rf"\g<1>{escape(name)}-\g<2>", text)
    return Markup(text)  # noqa: S704  # serialized XML


# --- Charts ---------------------------------------------------------------------------------------------------------


def _frame(height: float) -> dict[str, Any]:
    """Return what all charts share: size, no background, and the page's colours."""
    words = {"labelColor": _TEXT, "titleColor": _TEXT, "labelFontSize": 12, "titleFontSize": 12}
    lines = {"gridColor": _LINE, "domainColor": _SOFT, "tickColor": _SOFT}
    return {
        "$schema": _SCHEMA,
        "width": WIDTH,
        "height": height,
        "background": None,
        "padding": 4,
        "config": {
            "aria": False,  # the page says what the plot is, as a whole
            "font": "sans-serif",
            "view": {"stroke": None},
            "axis": {**words, **lines, "titleFontWeight": "normal"},
            "legend": {**words, "symbolFillColor": "transparent"},
            "text": {"color": _TEXT, "fontSize": 12},
        },
    }


def _rows(groups: Sequence[Group], forms: Sequence[str], label: str, *, at_one: bool) -> dict[str, Any]:
    """Return a chart with a line of text for each heading and each row, and the row's marks below its label."""
    headings, items = _placed(groups)
    height = _ROW * (len(headings) + len(items))
    numbers = [
        value
        for _, row in items
        for value in (*row.values, row.low, row.high, 1.0 if at_one else None)
        if value is not None
    ]
    across = _axis("x", numbers, label)
    scale = {"domain": [0, height], "reverse": True, "nice": False}
    down = {"field": "y", "type": "quantitative", "scale": scale, "axis": None}
    rule = {"type": "rule", "strokeDash": [4, 3], "color": _SOFT}
    one = {"data": {"values": [{"x": 1}]}, "mark": rule, "encoding": {"x": across}}
    layers = [
        *([one] if at_one else ()),
        _text(headings, down, bold=True),
        _text([(at, row.label) for at, row in items], down, bold=False),
        _bars(items, across, down),
        *(_points(items, number, form, across, down) for number, form in enumerate(forms)),
    ]
    return {**_frame(height), "layer": layers}


def _placed(groups: Sequence[Group]) -> tuple[list[tuple[float, str]], list[tuple[float, Row]]]:
    """Return headings and rows, each with how far down it stands, in pixels."""
    headings: list[tuple[float, str]] = []
    items: list[tuple[float, Row]] = []
    for group in groups:
        headings.append((_ROW * (len(headings) + len(items)), group.heading))
        for row in group.rows:
            items.append((_ROW * (len(headings) + len(items)), row))
    return headings, items


def _text(lines: Sequence[tuple[float, str]], down: Mapping[str, Any], *, bold: bool) -> dict[str, Any]:
    values = [{"y": at + (20 if bold else 11), "text": one_line(text, _LETTERS)} for at, text in lines]
    mark = {"type": "text", "align": "left", "baseline": "alphabetic", "fontWeight": "bold" if bold else "normal"}
    encoding = {"text": {"field": "text"}, "x": {"value": 0}, "y": down}
    return {"data": {"values": values}, "mark": mark, "encoding": encoding}


def _bars(items: Sequence[tuple[float, Row]], across: Mapping[str, Any], down: Mapping[str, Any]) -> dict[str, Any]:
    values = [
        {"y": at + 21, "low": row.low, "high": row.high, "colour": _colour(row)}
        for at, row in items
        if row.low is not None and row.high is not None
    ]
    encoding = {"x": {**across, "field": "low"}, "x2": {"field": "high"}, "y": down, "color": _AS_IS}
    return {"data": {"values": values}, "mark": {"type": "rule", "strokeWidth": 2}, "encoding": encoding}


def _points(
    items: Sequence[tuple[float, Row]], number: int, form: str, across: Mapping[str, Any], down: Mapping[str, Any]
) -> dict[str, Any]:
    shape, size = _FORMS[form]
    values = [
        {"y": at + 21, "x": row.values[number], "colour": _colour(row), "fill": 0 if row.hollow else 1}
        for at, row in items
        if row.values[number] is not None
    ]
    return {
        "data": {"values": values},
        "mark": {"type": "point", "shape": shape, "size": size, "strokeWidth": 2, "opacity": 1},
        "encoding": {
            "x": across,
            "y": down,
            "color": _AS_IS,
            "fill": _AS_IS,
            "fillOpacity": {"field": "fill", "type": "quantitative", "scale": None},
        },
    }


def _colour(row: Row) -> str:
    return _SOFT if row.soft else _MARK


def _axis(channel: str, numbers: Sequence[float], label: str, title: str | None = None) -> dict[str, Any]:
    """Return a logarithmic axis over these numbers, with some room on both sides and few round marks."""
    low, high = (min(numbers), max(numbers)) if numbers else (1.0, 1.0)
    room = max(1.25, (high / low) ** 0.06)
    domain = low / room, high * room
    above = {"titleAngle": 0, "titleAlign": "right", "titleAnchor": "end", "titleX": -4, "titleY": -8}
    beside = {"labelFlush": True} if channel == "x" else above
    axis = {"values": marks(*domain), "labelExpr": label, "title": title, **beside}
    return {
        "field": channel,
        "type": "quantitative",
        "scale": {"type": "log", "domain": list(domain), "nice": False},
        "axis": axis,
    }


def marks(low: float, high: float) -> list[float]:
    """Return round numbers between two positive ones: 1, 2 and 5 times powers of ten, or these alone where many fit."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 5), (1, 3), (1,)):
        found = [float(f"{step}e{power}") for power in powers for step in steps]
        within = [number for number in found if low <= number <= high]
        if len(within) <= 6 or steps == (1,):
            break
    every = math.ceil(len(within) / 8) or 1
    return within[::every]
