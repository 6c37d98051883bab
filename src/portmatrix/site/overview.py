"""The page that one sees first: counts, ratings with their intervals, the badge table, changes, and the arithmetic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from portmatrix import arithmetic
from portmatrix.arithmetic import Arithmetic
from portmatrix.rate import Rating, Stars
from portmatrix.regression import CellChange, Changes, Ended, Label, Reading, Standing, TimingChange
from portmatrix.render import changes as told
from portmatrix.render.table import MARKS, REACH_MARKS, Badge, BadgeTable, LatencyRatio, badge_table, count_shown
from portmatrix.site.page import Context, Page
from portmatrix.site.templates import fill
from portmatrix.spec import SurveyEntry
from portmatrix.types import Reach, Record

#: Rows of one list of changes, and of one component's questions; of what is left only the number is said.
LIMIT = 200
#: Up to so many records ratings are worked out down to the question: of 100,000 that takes longer than all the rest.
WORKED_OUT = 20_000
#: The length of the scale of five stars in a picture, and how high it is.
_SCALE = 100.0
#: What each change claims.
_MEANING = {
    Standing.REGRESSION: "it worked before, or came further",
    Standing.WEAKER: "right answers still, but by a detour",
    Standing.LOST: "there was an answer, and is none now",
    Standing.PROGRESS: "it works now, or comes further",
    Standing.GAINED: "there is an answer now, and was none",
}
_LATENCY_TOLD = (Label.REGRESSION, Label.SUSPICIOUS, Label.IMPROVEMENT)


class Scale(NamedTuple):
    """Where a rating's interval, its star and the survey's stand on a scale of 0..100; None where there is no such."""

    low: float
    high: float
    star: float | None
    survey: float | None


class Rated(NamedTuple):
    """A framework's row among the ratings."""

    rating: Rating
    deployment: Scale
    cross_platform: Scale
    survey: SurveyEntry | None
    latency: LatencyRatio | None


class Segment(NamedTuple):
    """One outcome's share of a badge's bar, which is 100 long."""

    outcome: str
    start: float
    length: float


class Changed(NamedTuple):
    """Cells that changed in the same way; ``unshown`` more did."""

    standing: Standing
    meaning: str
    total: int
    cells: tuple[CellChange, ...]
    unshown: int


class Slower(NamedTuple):
    """A way of calling a cell of which the latency changed, with the reading that says most about it."""

    cell: str
    timing: TimingChange
    reading: Reading | None


class Facts(NamedTuple):
    """What the records are from: each with how many records say so, most of them first."""

    runs: tuple[tuple[str, int], ...]
    engines: tuple[tuple[str, int], ...]
    processors: tuple[tuple[str, int], ...]
    reaches: tuple[tuple[str, int], ...]
    first: str
    last: str
    archived: int
    reused: int


def page(context: Context) -> Page:
    """Return the page."""
    survey = context.spec.ratings.survey
    table = badge_table(context.records, context.ratings, survey)
    changes = context.changes
    slower = list(_slower(changes)) if changes else []
    body = fill(
        "overview.html.j2",
        title=context.title,
        total=len(context.records),
        counts=count_shown(context.records),
        marks={shown.value: mark for shown, mark in MARKS.items()},
        reach_marks={reach.value: letter for reach, letter in REACH_MARKS.items() if letter},
        rated=_rated(context.ratings, survey, {row.framework: row.latency for row in table.rows}),
        table=table,
        segments=_segments(table),
        changes=changes,
        totals=list(told.totals(changes)) if changes else [],
        changed=list(_changed(changes)) if changes else [],
        slower=slower[:LIMIT],
        unshown=max(0, len(slower) - LIMIT),
        workings=_workings(context) if len(context.evidence) <= WORKED_OUT else {},
        limit=LIMIT,
        facts=facts(context.records),
        ended=ended_text,
    )
    return Page("index.html", "Overview", body, entry="Overview")


def facts(records: Iterable[Record]) -> Facts:
    """Return what the records are from."""
    runs: Counter[str] = Counter()
    engines: Counter[str] = Counter()
    processors: Counter[str] = Counter()
    reaches: Counter[Reach] = Counter()
    starts: set[str] = set()
    archived = reused = 0
    for record in records:
        runs[record.run] += 1
        engines[record.engine] += 1
        starts.add(record.started)
        archived += record.archived
        reused += record.reused
        if record.reach is not None:
            reaches[record.reach] += 1
        processor = record.environment.get("processor")
        if processor:
            processors[processor] += 1
    ways = [(reach.value, reaches[reach]) for reach in Reach if reaches[reach]]
    return Facts(
        runs=_most_first(runs),
        engines=_most_first(engines),
        processors=_most_first(processors),
        reaches=tuple(ways),
        first=min(starts, default=""),
        last=max(starts, default=""),
        archived=archived,
        reused=reused,
    )


def ended_text(ended: Ended | None) -> str:
    """Return how an attempt ended in a few words, such as ``FAIL at LOAD``."""
    if ended is None:
        return "no record"
    return f"{ended.outcome.value} at {ended.stage.value}" if ended.stage is not None else ended.outcome.value


def _most_first(counts: Counter[str]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


# --- Ratings and badges ---------------------------------------------------------------------------------------------


def _rated(
    ratings: Sequence[Rating], survey: Mapping[str, SurveyEntry], latencies: Mapping[str, LatencyRatio | None]
) -> list[Rated]:
    rows = []
    for rating in ratings:
        theirs = survey.get(rating.framework)
        scales = (
            _scale(rating.deployment, theirs.deployment if theirs else None),
            _scale(rating.cross_platform, theirs.cross_platform if theirs else None),
        )
        rows.append(Rated(rating, *scales, theirs, latencies.get(rating.framework)))
    return rows


def _scale(given: Stars, survey: float | None) -> Scale:
    """Return where things stand; a rating that is not to be shown has no star."""
    star = given.value if given.standing != "not rated" else None
    low, high, own, theirs = (
        None if stars is None else stars / 5 * _SCALE for stars in (given.low, given.high, star, survey)
    )
    return Scale(low or 0.0, high or 0.0, own, theirs)


def _segments(table: BadgeTable) -> dict[tuple[str, str], list[Segment]]:
    """Return the bars of all badges, by framework and target."""
    badges = (badge for row in table.rows for badge in row.badges if badge)
    return {(badge.framework, badge.target): list(_bar(badge)) for badge in badges}


def _bar(badge: Badge) -> Iterator[Segment]:
    whole = sum(badge.counts.values())
    start = 0.0
    for outcome, count in badge.counts.items():
        length = count / whole * _SCALE
        yield Segment(outcome.value, round(start, 2), round(length, 2))
        start += length


def _workings(context: Context) -> dict[str, Arithmetic]:
    """Return each framework's ratings, worked out from its own records."""
    groups: dict[str, list[Record]] = {}
    for record in context.evidence:
        groups.setdefault(record.id.framework, []).append(record)
    rated = [rating.framework for rating in context.ratings if rating.framework in groups]
    return {name: arithmetic.work_out(groups[name], context.spec.ratings, name) for name in rated}


# --- Changes --------------------------------------------------------------------------------------------------------


def _changed(changes: Changes) -> Iterator[Changed]:
    """Yield the cells whose outcome changed, by how it did, the worst first."""
    groups: dict[Standing, list[CellChange]] = {standing: [] for standing in _MEANING}
    for cell in changes.cells:
        if cell.outcome in groups:
            groups[cell.outcome].append(cell)
    for standing, cells in groups.items():
        if cells:
            unshown = max(0, len(cells) - LIMIT)
            yield Changed(standing, _MEANING[standing], len(cells), tuple(cells[:LIMIT]), unshown)


def _slower(changes: Changes) -> Iterator[Slower]:
    """Yield what became slower or faster, regressions first."""
    found = [(cell.cell, timing) for cell in changes.cells for timing in cell.timings if timing.label in _LATENCY_TOLD]
    for cell, timing in sorted(found, key=lambda pair: _LATENCY_TOLD.index(pair[1].label)):
        with_ratio = [reading for reading in timing.readings if reading.ratio is not None]
        moved = [reading for reading in with_ratio if reading.verdict in ("slower", "faster")]
        telling = moved or with_ratio
        yield Slower(cell, timing, telling[-1] if telling else None)
