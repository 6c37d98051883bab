"""What the ratings ask, and what records answer: components, their units, the cells of a unit, and a record's points.

``rate`` makes stars of the answers. Nothing here knows of a weight's effect, an interval or a star.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import NamedTuple

from portmatrix.spec import RatingSpec
from portmatrix.types import CONCLUSIVE, UNKNOWN, WORKING, CellId, Latency, Outcome, Reach, Record, Stage

#: A model that takes this many times the baseline's time, or more, earns nothing for its latency.
SLOWEST = 10.0

_WORTH = {Outcome.PASS: 1.0, Outcome.XPASS: 1.0, Outcome.DEGRADED: 0.5, Outcome.FAIL: 0.0, Outcome.XFAIL: 0.0}
_BEYOND_EXPORT = frozenset({Stage.LOAD, Stage.RUN, Stage.COMPARE, Stage.MEASURE})
#: Where time is not the target's own, or nothing was run.
_TIMELESS = frozenset({Reach.EMULATED, Reach.STATIC})


class Points(NamedTuple):
    """What a record, or a cell by all its records, is worth to one question: between ``low`` and ``high``, of 0..1.

    ``told`` says that it is evidence about that very question. ``open`` is 1 where it works and does not say how well
    (of a cell with repeats, the share of them that do so): so much of it is worth what is assumed.
    """

    low: float
    high: float
    told: bool = False
    open: float = 0.0


MISSING = Points(0.0, 1.0)
_OPEN = Points(0.0, 1.0, open=1.0)
#: It does not work, so there is nothing of which to ask how well.
_FAILING = Points(0.0, 0.0)

Judge = Callable[[Record], Points]


class Cell(NamedTuple):
    """A cell with its standing record and the repeats of that one, the newest first."""

    id: CellId
    records: tuple[Record, ...]

    @property
    def standing(self) -> Record:
        """The record that says how the cell stands."""
        return self.records[0]

    def points(self, judge: Judge) -> Points:
        """Return the mean over the repeats; those that do not say how well are passed over where another says it."""
        if len(self.records) == 1:
            return judge(self.records[0])
        told = list(self.telling(judge).values())
        low, high, among, share = (math.fsum(one) / len(told) for one in zip(*told, strict=True))
        return Points(low, high, among > 0, share)

    def telling(self, judge: Judge) -> dict[str, Points]:
        """Return the points of each repeat that counts, by its run."""
        found = {record.run: judge(record) for record in self.records}
        if any(points.told for points in found.values()):
            return {run: points for run, points in found.items() if not points.open}
        return found


class Unit(NamedTuple):
    """One question, which the best of its cells answers; ``model`` is whose question it is, None if no model's."""

    question: str
    cells: tuple[Cell, ...]
    model: str | None = None


class Part(NamedTuple):
    """One component of a rating before it is scored: its units, and what a record is worth to each of them."""

    name: str
    weight: float
    units: tuple[Unit, ...]
    judge: Judge
    about: str


# --- Cells ----------------------------------------------------------------------------------------------------------


def cells_by_framework(records: Iterable[Record]) -> dict[str, list[Cell]]:
    """Return the cells of each framework, both by name, each with its standing record and the repeats of that one.

    The record that started last stands, whatever its outcome. Its repeats are conclusive records of other runs with
    the same bundle, the same environment and the same reach, none of them reused: the same thing, tried again. What
    was recorded of another bundle or of another version of the runtime is history, and no repeat.
    """
    found: dict[str, dict[str, Record]] = {}
    for record in records:
        runs = found.setdefault(record.cell, {})
        other = runs.get(record.run)
        if other is None or _order(record) > _order(other):
            runs[record.run] = record
    cells: dict[str, list[Cell]] = {}
    for name, runs in sorted(found.items()):
        cell = CellId.parse(name)
        if cell.framework != UNKNOWN:
            cells.setdefault(cell.framework, []).append(Cell(cell, _with_repeats(list(runs.values()))))
    return dict(sorted(cells.items()))


def _with_repeats(records: list[Record]) -> tuple[Record, ...]:
    if len(records) == 1:
        return (records[0],)
    starts_differ = len({record.started for record in records}) == len(records)
    standing, *earlier = sorted(records, key=_start if starts_differ else _order, reverse=True)
    if standing.outcome not in CONCLUSIVE:
        return (standing,)
    return (standing, *(record for record in earlier if _repeats(record, standing)))


def _repeats(record: Record, standing: Record) -> bool:
    return (
        record.outcome in CONCLUSIVE
        and not record.reused
        # What a reused record repeats is no second trial of it.
        and not (standing.reused and record.started == standing.measured)
        and (record.bundle, record.environment, record.reach) == (standing.bundle, standing.environment, standing.reach)
    )


def _start(record: Record) -> str:
    return record.started


def _order(record: Record) -> tuple[str, str]:
    """Return what decides which record of a cell stands, in any order of reading: the later start, then the text."""
    return record.started, record.model_dump_json()


# --- Components -----------------------------------------------------------------------------------------------------


def deployment(cells: Sequence[Cell], spec: RatingSpec) -> tuple[Part, ...]:
    """Return the components of the deployment rating of one framework, in the order in which they are scored."""
    weights, platforms = spec.deployment, spec.platforms
    return (
        Part(
            "reach",
            weights.reach,
            _by_model_and_platform(_models(cells), cells, platforms),
            works,
            f"model and platform pairs ({', '.join(platforms)}) decided by their best cell",
        ),
        Part(
            "interpreter_free",
            weights.interpreter_free,
            _by_model(_models(cells), cells),
            needs_no_interpreter,
            "models of which it is known whether any cell runs them without an interpreter",
        ),
        Part(
            "strictness",
            weights.strictness,
            _by_model_and_target(cells),
            is_strict,
            "model and target pairs decided; only a pass within the strict tolerance counts",
        ),
        Part(
            "latency",
            weights.latency,
            _by_model(_models(cells), [cell for cell in cells if cell.standing.reach not in _TIMELESS]),
            is_fast,
            "models measured against the baseline where their fastest cell runs, or known to work nowhere",
        ),
    )


def cross_platform(framework: str, cells: Sequence[Cell], spec: RatingSpec) -> tuple[Part, ...]:
    """Return the components of the cross-platform rating of one framework."""
    weights, platforms = spec.cross_platform, spec.platforms
    own = [cell for cell in cells if cell.id.runtime == framework and not _is_onnx(cell.id.path)]
    return (
        Part(
            "install",
            weights.install,
            tuple(Unit(name, _trained_there(cells, globs)) for name, globs in platforms.items()),
            trains,
            f"platforms ({', '.join(platforms)}) on which {framework} itself was seen to train and export, or to fail",
        ),
        Part(
            "run",
            weights.run,
            _by_model_and_platform(_models(cells), own, platforms),
            works,
            f"model and platform pairs decided by {framework} running its own format",
        ),
    )


def _models(cells: Sequence[Cell]) -> list[str]:
    return sorted({cell.id.model for cell in cells})


def _by_model(models: Sequence[str], cells: Sequence[Cell]) -> tuple[Unit, ...]:
    units: dict[str, list[Cell]] = {model: [] for model in models}
    for cell in cells:
        units[cell.id.model].append(cell)
    return tuple(Unit(model, tuple(found), model) for model, found in units.items())


def _by_model_and_target(cells: Sequence[Cell]) -> tuple[Unit, ...]:
    units: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        units.setdefault((cell.id.model, cell.id.target), []).append(cell)
    return tuple(Unit(f"{model} on {target}", tuple(found), model) for (model, target), found in sorted(units.items()))


def _by_model_and_platform(
    models: Sequence[str], cells: Sequence[Cell], platforms: Mapping[str, tuple[str, ...]]
) -> tuple[Unit, ...]:
    """Return one unit per model and platform, an empty one where nothing is planned: a missing model stays missing."""
    shown_by = {
        target: [name for name, globs in platforms.items() if _matches(target, globs)]
        for target in {cell.id.target for cell in cells}
    }
    units: dict[tuple[str, str], list[Cell]] = {(model, platform): [] for model in models for platform in platforms}
    for cell in cells:
        for platform in shown_by[cell.id.target]:
            units[cell.id.model, platform].append(cell)
    return tuple(Unit(f"{model} on {platform}", tuple(found), model) for (model, platform), found in units.items())


def _trained_there(cells: Sequence[Cell], globs: tuple[str, ...]) -> tuple[Cell, ...]:
    """Return the cells of models trained on a platform, with those that might have been had they been run."""
    return tuple(
        cell
        for cell in cells
        if _matches(str(cell.standing.facts.get("trained_on", "")), globs)
        or ("trained_on" not in cell.standing.facts and cell.standing.outcome not in CONCLUSIVE)
    )


@lru_cache(maxsize=4096)
def _matches(target: str, globs: tuple[str, ...]) -> bool:
    return any(fnmatchcase(target, pattern) for pattern in globs)


def _is_onnx(path: str) -> bool:
    return path == "onnx" or path.startswith("onnx-")


# --- Points ---------------------------------------------------------------------------------------------------------


def works(record: Record) -> Points:
    """Return 1 for PASS and XPASS, a half for DEGRADED, 0 for FAIL and XFAIL; all others answer nothing."""
    worth = _WORTH.get(record.outcome)
    return MISSING if worth is None else _known(worth)


def is_strict(record: Record) -> Points:
    """Return 1 for a pass of which every comparison is strict, else 0; what is not conclusive answers nothing."""
    if record.outcome not in CONCLUSIVE:
        return MISSING
    strict = record.outcome in {Outcome.PASS, Outcome.XPASS} and all(c.verdict == "strict" for c in record.comparisons)
    return _known(1.0 if strict else 0.0)


def needs_no_interpreter(record: Record) -> Points:
    """Return 1 where it works in a worker that nothing interprets, 0 in another; open where the record does not say."""
    if record.outcome not in WORKING:
        return _unworking(record)
    fact = record.facts.get("interpreter_free")
    return _known(1.0 if fact else 0.0) if isinstance(fact, bool) else _OPEN


def is_fast(record: Record) -> Points:
    """Return the points of the record's latency; open where it works and was not measured."""
    if record.outcome not in WORKING:
        return _unworking(record)
    ratio = _ratio(record.latency)
    return _OPEN if ratio is None else _known(speed_points(ratio))


def speed_points(ratio: float) -> float:
    """Return what a ratio to the baseline's time is worth: 1 up to 1, 0 from ``SLOWEST`` on, in between by its log.

    Twice as slow costs the same wherever it happens, since what is compared are ratios: 2 is worth 0.70, 3 is worth
    0.52, 5 is worth 0.30.
    """
    return min(1.0, max(0.0, 1.0 - math.log(ratio) / math.log(SLOWEST)))


def _ratio(latency: Latency | None) -> float | None:
    """Return the ratio of the first timing, unless an emulator or a restless machine was what was measured."""
    if latency is None or latency.emulated or latency.unstable or not latency.timings:
        return None
    ratio = latency.timings[0].ratio
    return ratio if ratio is not None and 0 < ratio < math.inf else None


def trains(record: Record) -> Points:
    """Return 1 where the record's bundle was made on ``trained_on``, 0 where that failed.

    An archived bundle was trained somewhere else; any other was trained, whatever its cell did afterwards.
    """
    if record.archived or not isinstance(record.facts.get("trained_on"), str):
        return MISSING
    if record.bundle is not None or record.stage in _BEYOND_EXPORT or record.outcome in WORKING:
        return _known(1.0)
    return _known(0.0) if record.outcome in CONCLUSIVE else MISSING


def _known(worth: float) -> Points:
    return Points(worth, worth, told=True)


def _unworking(record: Record) -> Points:
    return _FAILING if record.outcome in CONCLUSIVE else MISSING
