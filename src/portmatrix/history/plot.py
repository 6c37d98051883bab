"""The trend plot: latency over time, one panel per cell, as a Vega-Lite chart written as SVG, PNG, HTML or JSON."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from portmatrix.errors import NothingSelected, UserError
from portmatrix.history.extra import library
from portmatrix.history.trends import Trend
from portmatrix.render.text import one_line
from portmatrix.store import disk_errors

_SCHEMA = "https://vega.github.io/schema/vega-lite/v5.json"
#: The version of Vega-Lite that the chart is written for, as the converter names it.
_VERSION = "5.21"
#: Dark enough on white, and told apart by people who see fewer colours (Okabe and Ito). The sheet stays white on a dark
#: page: a picture does not know what it is shown on.
_COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000", "#56b4e9", "#e69f00"]
_COLOUR = {
    "field": "series",
    "type": "nominal",
    "title": None,
    "scale": {"range": _COLOURS},
    "legend": {"orient": "bottom", "columns": 1, "labelLimit": 600, "symbolOpacity": 1},
}
_TIME = {"field": "started", "type": "temporal", "title": None, "scale": {"type": "utc"}}


def write(trends: Sequence[Trend], file: Path) -> None:
    """Write the plot of some trends in the form that the file's suffix names.

    Raises ``UserError`` for another suffix, ``NothingSelected`` where there is nothing to plot, ``DiskFull``.
    """
    writers: dict[str, Callable[[dict[str, Any]], bytes]] = {
        ".svg": lambda chart: _converted("vegalite_to_svg", chart).encode(),
        ".png": lambda chart: bytes(_converted("vegalite_to_png", chart, scale=2)),
        ".html": lambda chart: _converted("vegalite_to_html", chart, bundle=True).encode(),
        ".json": lambda chart: json.dumps(chart, indent=1).encode(),
    }
    if file.suffix not in writers:
        raise UserError(f"--plot {file}: expected a name that ends in {', '.join(writers)}")
    if not trends:
        raise NothingSelected("nothing to plot: none of these cells was measured; `portmatrix measure` does that")
    content = writers[file.suffix](chart(trends))
    with disk_errors(str(file)):
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        Path(beside).chmod(0o644)
        Path(beside).replace(file)


def _converted(how: str, chart: dict[str, Any], **options: Any) -> Any:
    return getattr(library("vl_convert"), how)(chart, vl_version=_VERSION, **options)


def chart(trends: Sequence[Trend]) -> dict[str, Any]:
    """Return the Vega-Lite chart: a panel per cell, a colour per processor, batch and threads, steps as dashed lines.

    Ratios have their interval as a band. Unstable measurements are hollow. Medians between steps are drawn as lines.
    """
    panels = [_panel(cell, [item for item in trends if item.series.cell == cell]) for cell in _cells(trends)]
    return {
        "$schema": _SCHEMA,
        "background": "white",
        "config": {"font": "sans-serif", "view": {"continuousWidth": 640, "continuousHeight": 180}},
        "vconcat": panels,
        "resolve": {"scale": {"color": "shared", "x": "shared"}},
    }


def _cells(trends: Sequence[Trend]) -> list[str]:
    return list(dict.fromkeys(item.series.cell for item in trends))


def _panel(cell: str, trends: Sequence[Trend]) -> dict[str, Any]:
    by_ratio = all(item.measure == "ratio" for item in trends)
    baseline = one_line(trends[0].series.baseline, 120)
    value = {"field": "value", "type": "quantitative", "title": None, "scale": {"zero": False}}
    layers = [_measured(), _levels(trends, by_ratio=by_ratio), *_shifts(trends)]
    if by_ratio:
        band = {"y": {**value, "field": "low"}, "y2": {"field": "high"}}
        layers.insert(0, {"mark": {"type": "area", "opacity": 0.15}, "encoding": band})
    return {
        "title": {
            "text": one_line(cell, 160),
            "subtitle": f"ratio to {baseline}" if by_ratio else "p50, ms",
            "anchor": "start",
        },
        "data": {"values": [row for item in trends for row in _rows(item, by_ratio=by_ratio)]},
        "encoding": {"x": _TIME, "y": value, "color": _COLOUR},
        "layer": layers,
    }


def _measured() -> dict[str, Any]:
    filled = {"condition": {"test": "datum.unstable", "value": 0}, "value": 1}
    return {
        "layer": [
            {"mark": {"type": "line", "strokeWidth": 1, "opacity": 0.5}},
            {
                "mark": {"type": "point", "size": 24, "opacity": 1},
                "encoding": {"fillOpacity": filled, "fill": {**_COLOUR, "legend": None}},
            },
        ]
    }


def _levels(trends: Sequence[Trend], *, by_ratio: bool) -> dict[str, Any]:
    return {
        "data": {"values": [row for item in trends for row in _level_rows(item, by_ratio=by_ratio)]},
        "mark": {"type": "line", "strokeWidth": 2},
        "encoding": {"detail": {"field": "stretch"}},
    }


def _shifts(trends: Sequence[Trend]) -> list[dict[str, Any]]:
    data = {"values": [row for item in trends for row in _shift_rows(item)]}
    words = {"y": {"value": 8}, "text": {"field": "said"}}
    return [
        {"data": data, "mark": {"type": "rule", "strokeDash": [4, 3]}, "encoding": {"y": None}},
        {"data": data, "mark": {"type": "text", "align": "left", "dx": 4}, "encoding": words},
    ]


def _named(item: Trend) -> str:
    return one_line(
        f"{item.series.cpu or 'unknown processor'}, batch {item.series.batch}, threads {item.series.threads}", 160
    )


def _rows(item: Trend, *, by_ratio: bool) -> list[dict[str, Any]]:
    rows = []
    for point in item.series.points:
        value = point.ratio if by_ratio else point.p50
        if value is not None:
            scale = 1 if by_ratio else 1000
            bounds = {"low": point.low, "high": point.high} if by_ratio else {}
            rows.append({"started": point.started.isoformat() + "Z", "series": _named(item), "value": value * scale,
                         "unstable": point.unstable, **bounds})  # fmt: skip
    return rows


def _level_rows(item: Trend, *, by_ratio: bool) -> list[dict[str, Any]]:
    """Return the median between each two steps as two ends of a line; none where another number is plotted."""
    if not item.shifts or (item.measure == "ratio") != by_ratio:
        return []
    times = [item.series.points[0].started, *(shift.started for shift in item.shifts), item.series.points[-1].started]
    levels = [item.shifts[0].before, *(shift.after for shift in item.shifts)]
    scale = 1 if by_ratio else 1000
    return [
        {"started": time.isoformat() + "Z", "series": _named(item), "value": level * scale, "stretch": number}
        for number, level in enumerate(levels)
        for time in (times[number], times[number + 1])
    ]


def _shift_rows(item: Trend) -> list[dict[str, Any]]:
    return [
        {
            "started": shift.started.isoformat() + "Z",
            "series": _named(item),
            "said": f"{shift.change:+.1%} on {shift.started:%Y-%m-%d}",
        }
        for shift in item.shifts
    ]
