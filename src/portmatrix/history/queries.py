"""What is asked of the history: which cells there are, how they ended, how steady that is, how fast they were."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any, NamedTuple

from portmatrix.errors import NothingSelected, UserError, nearest
from portmatrix.globs import Globs, expand
from portmatrix.history.place import Connection, Place, literal, table
from portmatrix.migrations import parse
from portmatrix.types import CONCLUSIVE, CellId, Outcome, Record

#: Outcomes of attempts: of these, two with the same digests can agree or not.
_ATTEMPTED = sorted(outcome.value for outcome in {*CONCLUSIVE, Outcome.ERROR})
#: What was expected of a cell is no part of what happened.
_OBSERVED = "CASE outcome WHEN 'XFAIL' THEN 'FAIL' WHEN 'XPASS' THEN 'PASS' ELSE outcome END"
_NUMBERS = ("batch", "threads", "p50", "ratio", "low", "high")
#: Columns that outcomes and steadiness are asked of, and those that tell them and latencies in detail.
OF_OUTCOMES = ("cell", "started", "outcome", "stage", "reused", "digests")
OF_DETAILS = (*OF_OUTCOMES, "reason", "run", "cpu", "baseline", "unstable", *_NUMBERS)
#: Most rows that are kept in memory with their outcomes, at about 100 bytes each, and with details, at four times that.
_MOST_KEPT = 1_000_000
_MOST_IN_DETAIL = 200_000
#: Runs that are named where one is asked for that is not there.
_RUNS_NAMED = 5
#: Units of time, and up to how many days they are shown by.
_UNITS = (("day", 31), ("week", 366), ("month", 1_000_000))


class Chosen(NamedTuple):
    """What a selection comes to: how many records there are of which cells, and the SQL that reads them."""

    counts: dict[str, int]
    rows: str

    @property
    def cells(self) -> tuple[str, ...]:
        """The cells, in order."""
        return tuple(self.counts)

    @property
    def is_small(self) -> bool:
        """Whether everything that is asked of its rows fits into memory."""
        return sum(self.counts.values()) <= _MOST_IN_DETAIL

    def only(self, cells: Sequence[str]) -> Chosen:
        """Return the same for some of its cells."""
        return Chosen(
            {cell: self.counts[cell] for cell in sorted(cells)}, f"(SELECT * FROM {self.rows} WHERE {_of_cells(cells)})"
        )

    def kept(self, connection: Connection, columns: Sequence[str]) -> Chosen:
        """Return the same with these columns of its rows in memory, so that they are read once and asked many things.

        Where the rows are too many, what is returned reads them from the files as before.
        """
        if sum(self.counts.values()) > _MOST_KEPT:
            return self
        name = f"kept_{len(columns)}"
        connection.execute(f"CREATE TEMP TABLE {name} AS SELECT {', '.join(columns)} FROM {self.rows}")
        return self._replace(rows=name)


class Period(NamedTuple):
    """How many records of each outcome a day, week or month has, by its first day."""

    start: str
    counts: dict[str, int]


class CellHistory(NamedTuple):
    """A cell's records: how many, of which days, the last outcome and stage; and how steady it is.

    ``groups`` counts the sets of two or more attempts with the same bundle and environment, ``mixed`` those of them in
    which not all ended alike. ``differing`` of ``pairs`` pairs of such attempts ended in different outcomes.
    """

    cell: str
    records: int
    first: str
    last: str
    outcome: str
    stage: str
    groups: int
    mixed: int
    pairs: int
    differing: int

    @property
    def flakiness(self) -> float | None:
        """The share of pairs that differ: the chance that two attempts at the same thing end differently."""
        return self.differing / self.pairs if self.pairs else None


class Stretch(NamedTuple):
    """Records of a cell in a row with the same outcome and stage; ``reason`` is the last one's."""

    cell: str
    start: str
    end: str
    records: int
    outcome: str
    stage: str
    reason: str


class Point(NamedTuple):
    """One measurement: seconds, and the ratio to the baseline with its interval where there was one."""

    started: datetime
    run: str
    p50: float | None
    ratio: float | None
    low: float | None
    high: float | None
    unstable: bool


class Series(NamedTuple):
    """The measurements of one cell that can be compared: same processor, batch, threads and baseline, in time."""

    cell: str
    cpu: str
    batch: int
    threads: int
    baseline: str
    points: tuple[Point, ...]


def choose(
    place: Place, connection: Connection, globs: Sequence[str], since: str | None = None, until: str | None = None
) -> Chosen:
    """Return the cells with records that one of ``globs`` matches (all if there are none); days are inclusive.

    Raises ``NothingSelected`` for an empty history, and where nothing matches: with the nearest cell there is.
    """
    everything = table(place.has_records(since, until))
    low, high = _range(globs)
    within = f"cell >= {literal(low)}" + (f" AND cell < {literal(high)}" if high else "")
    counts = _counts(connection, f"(SELECT cell FROM {everything} WHERE {within})")
    if not globs:
        return Chosen(counts, everything)
    wanted = Globs(globs)
    matching = [cell for cell in counts if wanted.match(cell)]
    if not matching:
        near = nearest(globs[0], list(_counts(connection, everything)))
        raise NothingSelected(f"no cell of the history in {place.named} matches {', '.join(globs)}{near}")
    chosen = Chosen(counts, f"(SELECT * FROM {everything} WHERE {within} AND {_in_common(matching)})")
    return chosen if len(matching) == len(counts) else chosen.only(matching)


def _counts(connection: Connection, rows: str) -> dict[str, int]:
    return dict(connection.execute(f"SELECT cell, count(*) FROM {rows} GROUP BY cell ORDER BY cell").fetchall())


def _range(globs: Sequence[str]) -> tuple[str, str]:
    """Return between which texts everything lies that the globs match; the second is empty where there is no bound.

    Files are sorted by cell and know the least and greatest one of each row group: what is outside is not read.
    """
    plain = [single for glob in globs for single in expand(glob)]
    beginnings = [re.split(r"[*?\[]", single, maxsplit=1)[0] for single in plain]
    if not all(beginnings):
        return "", ""
    return min(beginnings, default=""), max((text[:-1] + chr(ord(text[-1]) + 1) for text in beginnings), default="")


def _of_cells(cells: Sequence[str]) -> str:
    """Return the SQL condition that a cell is one of these."""
    if len(cells) == 1:
        return f"cell = {literal(cells[0])}"
    return f"cell IN ({', '.join(map(literal, cells))})"


def _in_common(cells: Sequence[str]) -> str:
    """Return the SQL condition of what all these cells have in common.

    It follows from ``_of_cells``; but a coordinate is a short text with few values, and quicker to compare.
    """
    values = zip(*(CellId.parse(cell) for cell in cells), strict=True)
    common = {name: set(found) for name, found in zip(CellId._fields, values, strict=True)}
    conditions = [f"{name} = {literal(found.pop())}" for name, found in common.items() if len(found) == 1]
    return " AND ".join(conditions) or "true"


def periods(connection: Connection, chosen: Chosen) -> list[Period]:
    """Return the outcomes over time, by day, week (from Monday) or month, as it takes to be no long list."""
    by_day = connection.execute(
        f"SELECT date_trunc('day', started) AS day, outcome, count(*) FROM {chosen.rows} GROUP BY ALL ORDER BY day"
    ).fetchall()
    days = [row[0] for row in by_day]
    unit = next(unit for unit, most in _UNITS if (days[-1] - days[0]).days < most)
    found: dict[str, dict[str, int]] = {}
    for day, outcome, count in by_day:
        counts = found.setdefault(_first_day(day, unit), {})
        counts[outcome] = counts.get(outcome, 0) + count
    return [Period(start, counts) for start, counts in found.items()]


def _first_day(day: Any, unit: str) -> str:
    if unit == "week":
        return str(datetime.fromordinal(day.toordinal() - day.weekday()).date())
    return str(day)[:7] if unit == "month" else str(day)[:10]


def cell_histories(connection: Connection, chosen: Chosen, limit: int) -> list[CellHistory]:
    """Return the cells, those first whose attempts with the same digests differ most often; at most ``limit``.

    An attempt counts where its bundle and its environment are known and it is no repetition of an earlier record:
    where nothing was built or started, nothing says that two attempts were at the same thing.
    """
    attempted = ", ".join(map(literal, _ATTEMPTED))
    found = connection.execute(
        f"""
        WITH ended AS (
            SELECT cell, {_OBSERVED} AS observed,
                NOT reused AND digests IS NOT NULL AND outcome IN ({attempted}) AS attempt,
                CASE WHEN attempt THEN digests END AS thing,
                count(*) AS records, min(started) AS first, max(started) AS last,
                arg_max(outcome, started) AS outcome, arg_max(coalesce(stage, ''), started) AS stage
            FROM {chosen.rows} GROUP BY ALL),
        grouped AS (
            SELECT cell, attempt, sum(records) AS records, min(first) AS first, max(last) AS last,
                arg_max(outcome, last) AS outcome, arg_max(stage, last) AS stage, count(*) AS kinds,
                sum(records * (records - 1) // 2) AS alike
            FROM ended GROUP BY cell, attempt, thing),
        counted AS (
            SELECT cell, sum(records) AS records, min(first) AS first, max(last) AS last,
                arg_max(outcome, last) AS outcome, arg_max(stage, last) AS stage,
                count(*) FILTER (attempt AND records > 1) AS groups,
                count(*) FILTER (attempt AND kinds > 1) AS mixed,
                coalesce(sum(records * (records - 1) // 2) FILTER (attempt), 0) AS pairs,
                coalesce(sum(alike) FILTER (attempt), 0) AS alike
            FROM grouped GROUP BY cell)
        SELECT cell, records::BIGINT, first::VARCHAR, last::VARCHAR, outcome, stage, groups, mixed,
            pairs::BIGINT, (pairs - alike)::BIGINT
        FROM counted ORDER BY CASE WHEN pairs > 0 THEN (pairs - alike) / pairs ELSE 0 END DESC, cell LIMIT {limit:d}
        """
    ).fetchall()
    return [CellHistory(*row) for row in found]


def stretches(connection: Connection, chosen: Chosen) -> list[Stretch]:
    """Return the outcomes of each cell over time, equal ones in a row as one."""
    found = connection.execute(
        f"SELECT cell, started::VARCHAR, outcome, coalesce(stage, ''), reason FROM {chosen.rows} ORDER BY ALL"
    ).fetchall()
    result = []
    for (cell, outcome, stage), group in groupby(found, key=lambda row: (row[0], row[2], row[3])):
        rows = list(group)
        result.append(Stretch(cell, rows[0][1], rows[-1][1], len(rows), outcome, stage, rows[-1][4]))
    return result


def measurements(connection: Connection, chosen: Chosen, *, every_timing: bool = False) -> list[Series]:
    """Return the latencies of each cell in order of time, those of the first timing only unless every one is wanted.

    Records that repeat earlier ones are left out.
    """
    measured = f"{chosen.rows} WHERE NOT reused AND baseline IS NOT NULL"
    common = "cell, coalesce(cpu, '') AS cpu, baseline, started, run, unstable"
    timings = f"SELECT {common}, unnest(timings) AS timing FROM {measured}"
    one_each = (
        f"SELECT {common}, {', '.join(f'timing.{name} AS {name}' for name in _NUMBERS)} FROM ({timings})"
        if every_timing
        else f"SELECT {common}, {', '.join(_NUMBERS)} FROM {measured}"
    )
    found = connection.execute(
        f"""
        SELECT cell, cpu, batch, threads, baseline, started, run, p50, ratio, low, high, unstable
        FROM ({one_each}) WHERE p50 IS NOT NULL OR ratio IS NOT NULL ORDER BY ALL
        """
    ).fetchall()
    return [
        Series(cell, cpu, batch, threads, baseline, tuple(Point(*row[5:]) for row in rows))
        for (cell, cpu, batch, threads, baseline), rows in groupby(found, key=lambda row: row[:5])
    ]


def records(
    place: Place,
    globs: Sequence[str] = (),
    *,
    run: str | None = None,
    since: str | None = None,
    until: str | None = None,
) -> Iterator[Record]:
    """Yield whole records as they were added, in the order of cells and starts; ``run`` is the name of one run.

    Raises ``NothingSelected`` where there are none, and ``UserError`` if no record at all is of such a run.
    """
    with place.connected() as connection:
        chosen = choose(place, connection, globs, since, until)
        of_run = f" WHERE run = {literal(run)}" if run is not None else ""
        connection.execute(f"SELECT key::VARCHAR, record FROM {chosen.rows}{of_run} ORDER BY cell, started, key")
        nothing = True
        while batch := connection.fetchmany(10_000):
            nothing = False
            for key, text in batch:
                yield parse(text, f"{place.named}, record {key}")
        if nothing:
            _refuse_unknown_run(place, connection, run)
            raise NothingSelected(f"the history in {place.named} has no record of the run {run} among those selected")


def _refuse_unknown_run(place: Place, connection: Connection, run: str | None) -> None:
    """Raise ``UserError`` where the history has no run of that name, with the nearest and the last ones that it has."""
    everything = table(place.has_records())
    found = connection.execute(f"SELECT run FROM {everything} GROUP BY run ORDER BY max(started) DESC, run").fetchall()
    known = [name for (name,) in found]
    if run is not None and run not in known:
        last = ", ".join(known[:_RUNS_NAMED])
        raise UserError(
            f"the history in {place.named} has no run {run!r}; its last ones are {last}{nearest(run, known)}"
        )
