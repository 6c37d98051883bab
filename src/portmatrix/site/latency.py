"""The page on latency: every measurement as ratios, quantiles and sizes, in plots and in tables with the same numbers.

What is not to be relied on (unstable) or not the target's own (emulated) stands apart, and in no plot with the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from itertools import groupby
from typing import Any, NamedTuple

from markupsafe import Markup

from portmatrix.render.table import LatencyRatio, latency_ratio
from portmatrix.site import plots
from portmatrix.site.page import Context, Page
from portmatrix.site.plots import Group, Row, Spot
from portmatrix.site.templates import fill
from portmatrix.types import CellId, Latency, Record, Timing

#: How many measured cells the page shows, how many rows a plot, how many points a scatter plot has, how many plots.
CELLS = 1000
ROWS = 48
SPOTS = 600
PLOTS = 48
#: How many lines of cells that could not be measured are shown.
LEFT = 100

Draw = Callable[[Mapping[str, Any], str, str], Markup | None]


class Trust(Enum):
    """How far a measurement goes, with what is said of it; each has a part of the page."""

    STEADY = "Measured"
    UNSTABLE = "Unstable measurements"
    EMULATED = "Emulated measurements"


class Measured(NamedTuple):
    """A cell with what was measured of it."""

    id: CellId
    cell: str
    latency: Latency

    @property
    def trust(self) -> Trust:
        """How far the measurement goes; an emulator's time stays one, however steady."""
        if self.latency.emulated:
            return Trust.EMULATED
        return Trust.UNSTABLE if self.latency.unstable else Trust.STEADY

    @property
    def is_baseline(self) -> bool:
        """Whether it was measured against itself: its ratio shows what two measurements of one thing differ by."""
        return self.latency.baseline == self.cell

    @property
    def against(self) -> str:
        """The runtime of the baseline, or what else the record calls it."""
        parts = self.latency.baseline.split("/")
        return CellId(*parts).runtime if len(parts) == len(CellId._fields) else self.latency.baseline


class Line(NamedTuple):
    """One timing of a cell: a row of a table and of two plots."""

    measured: Measured
    timing: Timing


class Part(NamedTuple):
    """What is shown of one framework for one way of calling; ``unplotted`` rows are in the table only."""

    framework: str
    lines: tuple[Line, ...]
    ratio: Markup | None
    quantiles: Markup | None
    unplotted: int


class Way(NamedTuple):
    """One way of calling: so many rows at once by so many threads."""

    batch: int
    threads: int
    anchor: str
    parts: tuple[Part, ...]
    figure: Markup | None

    @property
    def name(self) -> str:
        """Both numbers in words."""
        return f"batch {self.batch}, {self.threads} {'thread' if self.threads == 1 else 'threads'}"


class Once(NamedTuple):
    """What there is one of for each cell of a framework, whatever the batch."""

    framework: str
    cells: tuple[Measured, ...]
    figure: Markup | None


class Section(NamedTuple):
    """Measurements of one sort from one machine."""

    trust: Trust
    host: Mapping[str, str]
    cells: int
    once: tuple[Once, ...]
    ways: tuple[Way, ...]


def page(context: Context) -> Page:
    """Return the page; without any measurement it says how to make one."""
    found = measurements(context.records)
    numbers = iter(range(PLOTS))
    sections = tuple(_sections(found[:CELLS], _drawing(numbers)))
    left = [(record.cell, str(record.facts["not_measured"])) for record in context.records if _is_left(record)]
    body = fill(
        "latency.html.j2",
        sections=sections,
        typical=typical_ratios(context.records),
        total=len(found),
        shown=min(len(found), CELLS),
        left=left[:LEFT],
        unshown=max(0, len(left) - LEFT),
        plots=PLOTS if next(numbers, None) is None else None,
        install="" if plots.is_available() else plots.INSTALL,
        several_targets=len({item.id.target for item in found}) > 1,
    )
    return Page("latency.html", "Latency", body, entry="Latency")


def measurements(records: Iterable[Record]) -> list[Measured]:
    """Return what was measured, by framework, model and target."""
    found = [Measured(record.id, record.cell, record.latency) for record in records if record.latency is not None]
    return sorted(found, key=lambda item: (item.id.framework, item.id.model, item.id.target, item.id))


def typical_ratios(found: Iterable[Record]) -> dict[str, LatencyRatio]:
    """Return the median ratio of each framework of which one can be told, by name."""
    groups: dict[str, list[Record]] = {}
    for record in found:
        if record.latency is not None:
            groups.setdefault(record.id.framework, []).append(record)
    ratios = ((framework, latency_ratio(records)) for framework, records in sorted(groups.items()))
    return {framework: ratio for framework, ratio in ratios if ratio is not None}


def _is_left(record: Record) -> bool:
    return record.latency is None and "not_measured" in record.facts


def _drawing(numbers: Iterator[int]) -> Draw:
    """Return what draws a plot for each number, under a name of its own, and None when there are no more numbers."""

    def draw(chart: Mapping[str, Any], title: str, description: str) -> Markup | None:
        number = next(numbers, None)
        return None if number is None else plots.draw(chart, f"plot-{number}", title, description)

    return draw


# --- Sections -------------------------------------------------------------------------------------------------------


def _sections(found: Sequence[Measured], draw: Draw) -> Iterator[Section]:
    """Yield what may be compared with one another: by how far it goes, then by the machine that it was measured on."""
    groups: dict[tuple[Trust, tuple[str, ...]], list[Measured]] = {}
    for item in found:
        host = tuple(item.latency.host.get(name, "") for name in ("cpu", "cores", "instruction_sets"))
        groups.setdefault((item.trust, host), []).append(item)
    order = list(Trust)
    for number, (key, cells) in enumerate(sorted(groups.items(), key=lambda one: (order.index(one[0][0]), one[0][1]))):
        yield _section(key[0], cells, number, draw)


def _section(trust: Trust, cells: Sequence[Measured], number: int, draw: Draw) -> Section:
    lines = [Line(item, timing) for item in cells for timing in item.latency.timings]
    calls = sorted({(line.timing.batch, line.timing.threads) for line in lines}, key=lambda one: (one[1], one[0]))
    ways = tuple(
        _way(call, [line for line in lines if (line.timing.batch, line.timing.threads) == call], number, draw)
        for call in calls
    )
    return Section(trust, cells[0].latency.host, len(cells), tuple(_onces(cells, draw)), ways)


def _way(call: tuple[int, int], lines: Sequence[Line], number: int, draw: Draw) -> Way:
    batch, threads = call
    way = Way(batch, threads, f"section-{number}-batch-{batch}-threads-{threads}", (), None)
    figure = _scatter(way.name, lines, draw)
    parts = tuple(
        _part(framework, list(group), way.name, draw)
        for framework, group in groupby(lines, key=lambda line: line.measured.id.framework)
    )
    return way._replace(parts=parts, figure=figure)


def _part(framework: str, lines: Sequence[Line], way: str, draw: Draw) -> Part:
    plotted = lines[:ROWS]
    ratio = _ratio_plot(f"{framework}, {way}: time relative to the baseline", plotted, draw)
    quantiles = _quantile_plot(f"{framework}, {way}: time of a call", plotted, draw)
    unplotted = len(lines) - len(plotted) if ratio or quantiles else 0
    return Part(framework, tuple(lines), ratio, quantiles, unplotted)


def _onces(cells: Sequence[Measured], draw: Draw) -> Iterator[Once]:
    for framework, group in groupby(cells, key=lambda item: item.id.framework):
        items = tuple(group)
        yield Once(framework, items, _once_plot(f"{framework}: loading and the first call", items[:ROWS], draw))


# --- Plots ----------------------------------------------------------------------------------------------------------


def _on_axis(*values: float | None) -> tuple[float | None, ...]:
    """Return the values that have a place on a logarithmic axis, None for those that have not."""
    return tuple(value if value is not None and 0 < value < math.inf else None for value in values)


def _ratio_plot(title: str, lines: Sequence[Line], draw: Draw) -> Markup | None:
    rows = []
    ratios = []
    for measured, timing in lines:
        ratio, low, high = _on_axis(timing.ratio, timing.low, timing.high)
        if ratio is not None:
            ratios.append(ratio)
            rows.append((measured, _row(measured, (ratio,), low, high)))
    if not rows:
        return None
    about = f"{len(ratios)} ratios from {min(ratios):.3g} to {max(ratios):.3g} with 95% intervals; 1 is the baseline."
    return draw(plots.ratios(_grouped(rows)), title, f"{about} The table below has the same numbers.")


def _quantile_plot(title: str, lines: Sequence[Line], draw: Draw) -> Markup | None:
    rows = []
    for measured, timing in lines:
        quantiles = _on_axis(timing.p50, timing.p90, timing.p99)
        known = [value for value in quantiles if value is not None]
        if known:
            rows.append((measured, _row(measured, quantiles, known[0], known[-1])))
    if not rows:
        return None
    about = f"p50, p90 and p99 of {len(rows)} cells. The table below has the same numbers."
    return draw(plots.seconds(_grouped(rows), ("dot", "short bar", "long bar")), title, about)


def _once_plot(title: str, cells: Sequence[Measured], draw: Draw) -> Markup | None:
    rows = []
    for item in cells:
        values = _on_axis(item.latency.load_seconds, item.latency.first_seconds)
        if any(values):
            rows.append((item, _row(item, values)))
    if not rows:
        return None
    about = f"Seconds to load and of the first call of {len(rows)} cells. The table below has the same numbers."
    return draw(plots.seconds(_grouped(rows), ("dot", "triangle")), title, about)


def _scatter(way: str, lines: Sequence[Line], draw: Draw) -> Markup | None:
    spots = []
    for measured, timing in lines:
        size, p50 = _on_axis(measured.latency.artifact_bytes, timing.p50)
        if size is not None and p50 is not None:
            spots.append(Spot(measured.id.runtime, size, p50, hollow=measured.trust is not Trust.STEADY))
    if len(spots) < 2:
        return None
    about = f"Size of the artifact and median time of a call of {min(len(spots), SPOTS)} cells, both logarithmic."
    return draw(plots.scatter(spots[:SPOTS]), f"Size against latency, {way}", f"{about} The tables have the numbers.")


def _row(item: Measured, values: Sequence[float | None], low: float | None = None, high: float | None = None) -> Row:
    return Row(
        f"{item.id.path} → {item.id.runtime}",
        values,
        low,
        high,
        hollow=item.trust is not Trust.STEADY,
        soft=item.is_baseline,
    )


def _grouped(rows: Iterable[tuple[Measured, Row]]) -> list[Group]:
    """Return rows under their models, each on one target."""
    groups = groupby(rows, key=lambda pair: (pair[0].id.model, pair[0].id.target))
    return [Group(f"{model} on {target}", tuple(row for _, row in pairs)) for (model, target), pairs in groups]
