"""Ratings v1: records -> half-stars with an interval, for deployment and for cross-platform, one pair per framework.

A component is a mean over *units*. A unit is one question, such as "does ``alexnet`` work on Windows?", and its best
cell answers it: PASS and XPASS are 1, DEGRADED is 0.5, FAIL and XFAIL are 0. ERROR, SKIP and NOT_RUN answer nothing,
and a unit of which some cell is unanswered may still turn out to be 1. A static look-up counts by its outcome: what
cannot run there is a FAIL, that it could run answers nothing. Each unit therefore has an interval ``[best answer so
far, best answer possible]``, each component the mean of its units' intervals and each rating the weighted mean of its
components' intervals.

**The star.** No number inside such an interval can at once stay put when any evidence is taken away and equal the mean
when all of it is there; and a mean over what is known rises when a failing cell is deselected. The star is therefore
*what has been shown so far*: the low end, in every component that this version of the rating measures. The interval
beside it says how far missing evidence could still carry it, and ``coverage`` how much of the evidence there is. Hence:

- a failing cell that is not run any more leaves the low end where it was (it added nothing), so the star never rises;
- a further path can only add to the best of a unit, so the star never falls, however badly the path does;
- a missing cell widens the interval and nothing else: ``low`` never rises and ``high`` never falls;
- with all evidence present the star is the plain weighted mean.

Which components are measured is a constant of the rating's version (``MEASURED``) and never depends on the records, or
else a selection could switch off a component that goes badly. A component that is not measured is taken to be as good
as the measured ones, as far as the evidence for it allows: ``clamp(mean of the measured, low, high)``. Without any
evidence this is the same as leaving it out and sharing out its weight, while its whole weight widens the interval.

The planned cells must be among the records: a cell that was left out is a NOT_RUN record (``records.ResultSet`` sees
to it). Nothing can be said of a question that nobody wrote down.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple

from pydantic import Field

from portmatrix.spec import RatingSpec
from portmatrix.types import CONCLUSIVE, UNKNOWN, WORKING, Frozen, Outcome, Record, Stage

#: Components that records of this version can speak of. ``interpreter_free`` joins when a worker without an
#: interpreter exists and ``latency`` when the MEASURE stage does; both with a new ``Rating.version``.
MEASURED = frozenset({"reach", "strictness", "install", "run"})

#: Below this share of the evidence a rating is shown as its interval alone: half a picture earns no star.
ENOUGH = 0.6

_POINTS = {Outcome.PASS: 1.0, Outcome.XPASS: 1.0, Outcome.DEGRADED: 0.5, Outcome.FAIL: 0.0, Outcome.XFAIL: 0.0}
_BEYOND_EXPORT = frozenset({Stage.LOAD, Stage.RUN, Stage.COMPARE, Stage.MEASURE})

Points = Callable[[Record], "float | None"]


class Component(Frozen):
    """One part of a rating, on the scale 0..1, with what it rests on.

    ``coverage`` is the share of its units with a conclusive answer, ``cells`` counts the cells of all its units by
    outcome.
    """

    name: str
    weight: float = Field(ge=0, le=1)
    measured: bool
    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)
    coverage: float = Field(ge=0, le=1)
    cells: dict[Outcome, int]
    text: str


class Stars(Frozen):
    """A rating in half-stars 0..5: what has been shown (None: nothing is known), and how far it could still move.

    ``low`` and ``high`` are the stars if all missing evidence turned out failing or passing; always ``low <= value <=
    high``. ``coverage`` is the weighted share of the evidence that is present.
    """

    value: float | None
    low: float
    high: float
    coverage: float
    components: tuple[Component, ...]


class Rating(Frozen):
    """The two ratings of one framework, which are never blended into one."""

    version: Literal[1] = 1
    framework: str
    deployment: Stars
    cross_platform: Stars


class _Unit(NamedTuple):
    """The interval in which the answer to one question lies, and whether any cell has answered it."""

    low: float
    high: float
    known: bool


def rate(records: Sequence[Record], spec: RatingSpec) -> tuple[Rating, ...]:
    """Return one rating per framework in ``records``, by name."""
    by_framework: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda record: record.cell):
        if record.id.framework != UNKNOWN:
            by_framework.setdefault(record.id.framework, []).append(record)
    return tuple(
        Rating(
            framework=framework,
            deployment=combine(_deployment(own, spec)),
            cross_platform=combine(_cross_platform(framework, own, spec)),
        )
        for framework, own in sorted(by_framework.items())
    )


def combine(components: Iterable[Component]) -> Stars:
    """Return the stars of weighted components; the module's docstring says why the value is what it is."""
    parts = tuple(components)
    whole = math.fsum(part.weight for part in parts) or 1.0
    measured = [part for part in parts if part.measured and part.weight > 0]
    value = None
    if any(part.coverage > 0 for part in measured):
        shown = math.fsum(part.weight * part.low for part in measured) / math.fsum(part.weight for part in measured)
        scores = (part.low if part.measured else min(max(shown, part.low), part.high) for part in parts)
        value = half_stars(math.fsum(part.weight * score for part, score in zip(parts, scores, strict=True)) / whole)
    return Stars(
        value=value,
        low=half_stars(math.fsum(part.weight * part.low for part in parts) / whole),
        high=half_stars(math.fsum(part.weight * part.high for part in parts) / whole),
        coverage=min(1.0, math.fsum(part.weight * part.coverage for part in parts) / whole),
        components=parts,
    )


def half_stars(score: float) -> float:
    """Return a score 0..1 as stars 0..5, rounded to halves, a tie upwards: 0.25 -> 1.5.

    A billionth is added first, so that a tie that floating point leaves just below itself is still one.
    """
    return min(5.0, math.floor(10 * score + 0.5 + 1e-9) / 2)


def _deployment(records: Sequence[Record], spec: RatingSpec) -> Iterable[Component]:
    weights = spec.deployment
    by_model_and_target = _by_model_and_target(records)
    yield _component(
        "interpreter_free",
        weights.interpreter_free,
        by_model_and_target,
        _interpreter_free_points,
        "model and target pairs run by a worker that says whether it needs an interpreter",
    )
    yield _component(
        "reach",
        weights.reach,
        _by_model_and_platform(_models(records), records, spec.platforms),
        _working_points,
        f"model and platform pairs ({', '.join(spec.platforms)}) decided by their best cell",
    )
    yield _component(
        "strictness",
        weights.strictness,
        by_model_and_target,
        _strict_points,
        "model and target pairs decided; only a pass within the strict tolerance counts",
    )
    yield _component("latency", weights.latency, [], _working_points, "questions: no stage measures latency yet")


def _cross_platform(framework: str, records: Sequence[Record], spec: RatingSpec) -> Iterable[Component]:
    weights = spec.cross_platform
    yield _component(
        "install",
        weights.install,
        [_trained_there(records, globs) for globs in spec.platforms.values()],
        _training_points,
        f"platforms ({', '.join(spec.platforms)}) on which {framework} itself was seen to train and export, or to fail",
    )
    own = [record for record in records if record.id.runtime == framework and not _is_onnx(record.id.path)]
    yield _component(
        "run",
        weights.run,
        _by_model_and_platform(_models(records), own, spec.platforms),
        _working_points,
        f"model and platform pairs decided by {framework} running its own format",
    )


def _component(
    name: str, weight: float, units: Sequence[Sequence[Record]], points: Points, questions: str
) -> Component:
    """Return the mean over units (all of 0..1 where there are none)."""
    answers = [_unit(cells, points) for cells in units]
    known = sum(answer.known for answer in answers)
    counts = Counter(record.outcome for record in {record.cell: record for unit in units for record in unit}.values())
    return Component(
        name=name,
        weight=weight,
        measured=name in MEASURED,
        low=math.fsum(answer.low for answer in answers) / len(answers) if answers else 0.0,
        high=math.fsum(answer.high for answer in answers) / len(answers) if answers else 1.0,
        coverage=known / len(answers) if answers else 0.0,
        cells={outcome: counts[outcome] for outcome in Outcome if counts[outcome]},
        text=f"{known} of {len(answers)} {questions}",
    )


def _unit(cells: Sequence[Record], points: Points) -> _Unit:
    """Return the interval of the best of ``cells``; a cell without points might still be worth 1."""
    answers = [points(record) for record in cells]
    known = [answer for answer in answers if answer is not None]
    low = max(known, default=0.0)
    return _Unit(low, low if answers and len(known) == len(answers) else 1.0, known=bool(known))


def _working_points(record: Record) -> float | None:
    return _POINTS.get(record.outcome)


def _strict_points(record: Record) -> float | None:
    if record.outcome not in CONCLUSIVE:
        return None
    strict = record.outcome in {Outcome.PASS, Outcome.XPASS} and all(c.verdict == "strict" for c in record.comparisons)
    return 1.0 if strict else 0.0


def _interpreter_free_points(record: Record) -> float | None:
    """Only a working cell shows what it needs: a failing one must not be able to move this component at all."""
    fact = record.facts.get("interpreter_free")
    if record.outcome not in WORKING or not isinstance(fact, bool):
        return None
    return 1.0 if fact else 0.0


def _training_points(record: Record) -> float | None:
    """An archived bundle was trained somewhere else; any other was trained, whatever its cell did afterwards."""
    if record.archived or not isinstance(record.facts.get("trained_on"), str):
        return None
    if record.bundle is not None or record.stage in _BEYOND_EXPORT or record.outcome in WORKING:
        return 1.0
    return 0.0 if record.outcome in CONCLUSIVE else None


def _trained_there(records: Sequence[Record], globs: Sequence[str]) -> list[Record]:
    """Return the records of models trained on a platform, with those that might have been had they been run."""
    return [
        record
        for record in records
        if _matches(str(record.facts.get("trained_on", "")), globs)
        or ("trained_on" not in record.facts and record.outcome not in CONCLUSIVE)
    ]


def _models(records: Sequence[Record]) -> list[str]:
    return sorted({record.id.model for record in records})


def _by_model_and_target(records: Sequence[Record]) -> list[list[Record]]:
    units: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        units.setdefault((record.id.model, record.id.target), []).append(record)
    return list(units.values())


def _by_model_and_platform(
    models: Sequence[str], records: Sequence[Record], platforms: Mapping[str, Sequence[str]]
) -> list[list[Record]]:
    """Return one unit per model and platform, an empty one where nothing is planned: a missing model stays missing."""
    units: dict[tuple[str, str], list[Record]] = {(model, platform): [] for model in models for platform in platforms}
    for record in records:
        for platform, globs in platforms.items():
            if _matches(record.id.target, globs):
                units[record.id.model, platform].append(record)
    return list(units.values())


def _matches(target: str, globs: Sequence[str]) -> bool:
    return any(fnmatchcase(target, pattern) for pattern in globs)


def _is_onnx(path: str) -> bool:
    return path == "onnx" or path.startswith("onnx-")
