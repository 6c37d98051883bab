"""What the history says of a selection: gathered into one value, as tables for a terminal, and as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from portmatrix.history.place import Place
from portmatrix.history.queries import (
    OF_DETAILS,
    OF_OUTCOMES,
    CellHistory,
    Period,
    Stretch,
    cell_histories,
    choose,
    measurements,
    periods,
    stretches,
)
from portmatrix.history.trends import Trend, trend
from portmatrix.render.terminal import is_plain
from portmatrix.render.text import ascii_only, number, one_line
from portmatrix.types import Outcome

#: A step of at least this share is printed in bold: below it lies what two sessions on one machine can differ by.
NOTABLE = 0.05


class Report(NamedTuple):
    """What there is to say of the cells of a selection; of ``cells`` in all, ``shown`` ones in detail."""

    cells: int
    periods: tuple[Period, ...]
    shown: tuple[CellHistory, ...]
    stretches: tuple[Stretch, ...]
    trends: tuple[Trend, ...]


def gather(
    place: Place,
    globs: Sequence[str],
    *,
    since: str | None = None,
    until: str | None = None,
    limit: int = 10,
    every_timing: bool = False,
) -> Report:
    """Return the report of the cells that ``globs`` match, at most ``limit`` of them in detail, the least steady first.

    Of latencies it has those of each record's first timing, or of every one.

    Raises ``NothingSelected`` for an empty history, and where nothing matches.
    """
    with place.connected() as connection:
        chosen = choose(place, connection, globs, since, until)
        details = (*OF_DETAILS, *(("timings",) if every_timing else ()))
        # Few rows are read once for everything, many once for their outcomes and again for the details of some cells.
        kept = chosen.kept(connection, details if chosen.is_small else OF_OUTCOMES)
        over_time = periods(connection, kept)
        shown = cell_histories(connection, kept, limit)
        of_shown = (kept if chosen.is_small else chosen).only([item.cell for item in shown])
        detailed = of_shown if chosen.is_small else of_shown.kept(connection, details)
        return Report(
            len(chosen.cells),
            tuple(over_time),
            tuple(shown),
            tuple(stretches(connection, detailed)),
            tuple(map(trend, measurements(connection, detailed, every_timing=every_timing))),
        )


def as_data(report: Report) -> dict[str, Any]:
    """Return a report as plain values for JSON: times in UTC, latencies in seconds."""
    return {
        "cells": report.cells,
        "periods": [item._asdict() for item in report.periods],
        "shown": [{**item._asdict(), "flakiness": item.flakiness} for item in report.shown],
        "stretches": [item._asdict() for item in report.stretches],
        "trends": [
            {
                **item.series._asdict(),
                "points": [{**point._asdict(), "started": point.started.isoformat()} for point in item.series.points],
                "measure": item.measure,
                "steps": [
                    {**shift._asdict(), "started": shift.started.isoformat(), "change": shift.change}
                    for shift in item.shifts
                ],
            }
            for item in report.trends
        ],
    }


def print_report(console: Console, report: Report) -> None:
    """Print outcomes over time, the cells with their steadiness, changes of outcome, and latencies with their steps."""
    plain = is_plain(console)
    total = sum(sum(period.counts.values()) for period in report.periods)
    head = f"{total:,} records of {report.cells:,} cells"
    more = report.cells - len(report.shown)
    console.print(f"{head}; of {more:,} cells only the counts (--limit shows more)" if more else head, highlight=False)
    tables = [_periods(report.periods, plain), _cells(report.shown, plain)]
    changed = [item for item in report.stretches if _ended_otherwise(item, report.stretches)]
    if changed:
        tables.append(_stretches(changed, plain))
    if report.trends:
        tables.append(_trends(report.trends, plain))
    for table in tables:
        if not console.is_terminal:
            # Whoever reads a file or a pipe wants whole ids, whatever is taken for the width of no terminal.
            boundless = console.options.update(max_width=1_000_000)
            table.width = Measurement.get(console, boundless, table).maximum
        console.print(table, highlight=False, crop=False)


def _grid(title: str, plain: bool, *columns: str) -> Table:  # noqa: FBT001 - as everywhere in here, its only flag
    grid = Table(title=title, title_justify="left", box=box.ASCII if plain else box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        grid.add_column(column, overflow="fold")
    return grid


def _text(text: str, plain: bool, limit: int = 200) -> Text:  # noqa: FBT001
    line = one_line(text, limit)
    return Text(ascii_only(line) if plain else line)


def _periods(found: Sequence[Period], plain: bool) -> Table:  # noqa: FBT001
    present = [outcome.value for outcome in Outcome if any(outcome.value in item.counts for item in found)]
    grid = _grid("outcomes over time", plain, "from", *present)
    for item in found:
        grid.add_row(item.start, *(str(item.counts.get(name, "")) for name in present))
    return grid


def _cells(found: Sequence[CellHistory], plain: bool) -> Table:  # noqa: FBT001
    grid = _grid(
        "cells, least steady first", plain, "cell", "records", "from", "to", "last", "same digests, other outcome"
    )
    for item in found:
        ended = f"{item.outcome} at {item.stage}" if item.stage else item.outcome
        grid.add_row(
            _text(item.cell, plain), f"{item.records:,}", item.first[:10], item.last[:10], ended, _steady(item)
        )
    return grid


def _steady(item: CellHistory) -> str:
    if item.flakiness is None:
        return "never tried twice"
    share = f"{item.flakiness:.1%} of {item.pairs:,} pairs"
    return f"{share}, in {item.mixed} of {item.groups} groups" if item.differing else share


def _ended_otherwise(item: Stretch, everything: Sequence[Stretch]) -> bool:
    """Return whether a stretch is one of several of its cell."""
    return sum(other.cell == item.cell for other in everything) > 1


def _stretches(found: Sequence[Stretch], plain: bool) -> Table:  # noqa: FBT001
    grid = _grid("cells that did not always end alike", plain, "cell", "from", "to", "records", "outcome", "reason")
    for item in found:
        ended = f"{item.outcome} at {item.stage}" if item.stage else item.outcome
        row = (item.start[:19], item.end[:19], str(item.records), ended)
        grid.add_row(_text(item.cell, plain), *row, _text(item.reason, plain, 120))
    return grid


def _trends(found: Sequence[Trend], plain: bool) -> Table:  # noqa: FBT001
    columns = ("cell", "processor", "batch, threads", "measured", "last p50, ms", "last ratio", "steps")
    grid = _grid("latency", plain, *columns)
    for item in found:
        series, last = item.series, item.series.points[-1]
        interval = f" ({number(last.low)} to {number(last.high)})" if last.low is not None else ""
        grid.add_row(
            _text(series.cell, plain),
            _text(series.cpu or "unknown", plain),
            f"{series.batch}, {series.threads}",
            str(len(series.points)),
            number(last.p50 * 1000) if last.p50 is not None else "",
            f"{number(last.ratio)}{interval}" if last.ratio is not None else "",
            _steps(item),
        )
    return grid


def _steps(item: Trend) -> Text:
    text = Text()
    for shift in item.shifts:
        text.append("\n" if text else "")
        line = f"{shift.started:%Y-%m-%d}: {item.measure} {shift.change:+.1%} (p {shift.p:.3f})"
        text.append(line, style="bold" if abs(shift.change) >= NOTABLE else "")
    return text if text else Text("none")
