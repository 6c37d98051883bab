"""Ratings v2: records -> half-stars with an interval, for deployment and for cross-platform, one pair per framework.

A component is a mean over *units* (``questions``). A unit is one question, such as "does ``alexnet`` work on
Windows?", and its best cell answers it. ERROR, SKIP and NOT_RUN answer nothing, and a unit of which some cell is
unanswered may still turn out to be 1. A static look-up counts by its outcome: what cannot run there is a FAIL, that it
could run answers nothing. Each unit therefore has hard bounds ``[best answer so far, best answer possible]``, each
component the mean of its units' bounds and each rating the weighted mean of its components' bounds: all missing
evidence failing, and all of it passing.

**The star.** No number inside such bounds can at once stay put when any evidence is taken away and equal the mean when
all of it is there; and a mean over what is known rises when a failing cell is deselected. The star is therefore *what
has been shown so far*, the low bound, with one exception: a cell that **works** and does not say how well (it was not
measured, or its record is older than the question) is *open*. It is taken to be as good as the weighted mean of the
components before its own, in the order ``reach``, ``interpreter_free``, ``strictness``, ``latency``. Hence:

- a failing cell that is not run any more was worth 0 to every unit, and is worth 0 missing: the star never rises;
- a further path can only add to the best of a unit, measured, open or failing, and what open cells are worth can only
  rise with the components before them: the star never falls, however badly the path does;
- with all evidence present the star is the plain weighted mean;
- latency that nobody measured neither raises nor lowers the star, up to the models that work nowhere.

That only working cells are open is what the first two rest on. A component that counted as soon as there is evidence
of it, and was left out before, would fall when a path brings the first, bad, evidence.

**The interval** adds chance to the hard bounds. Models stand for models that were not tried, and runs of a cell for
runs that were not made, so both are drawn again (``resampling``), smoothed by Jeffreys' prior; platforms do not stand
for others. The low end is the lower of the low bound and the 2.5% quantile of its draws, the high end the higher of
the high bound and the 97.5% quantile of its own. The draws depend on the models' number and the runs' names only, never
on an outcome, and every draw of the low bound can only fall, of the high bound only rise, when evidence is taken away:
so the same holds for their quantiles, and *the interval never shrinks for want of evidence*. It always holds the star.

The planned cells must be among the records: a cell that was left out is a NOT_RUN record (``records.ResultSet`` sees
to it). Nothing can be said of a question that nobody wrote down. What is deselected is a cell, with all its repeats.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field

from portmatrix import questions, resampling
from portmatrix.questions import Cell, Judge, Part, Points, Unit
from portmatrix.resampling import DRAWS, Floats
from portmatrix.spec import RatingSpec
from portmatrix.types import Frozen, Outcome, Record

#: Below this share of the evidence a framework is not rated: half a picture earns no star.
ENOUGH = 0.6
#: Below this share, or with an interval wider than ``NARROW`` stars, a rating is provisional.
FIRM = 0.9
NARROW = 0.5
#: By so much the sums of shares may miss a limit and still meet it.
_SLACK = 1e-9

Standing = Literal["rated", "provisional", "not rated"]


class Component(Frozen):
    """One part of a rating, on the scale 0..1, with what it rests on.

    ``value`` is what counts for the star, ``low`` and ``high`` the hard bounds. ``coverage`` is the share of its units
    with an answer and ``assumed`` the share of those that count as good as the components before; ``cells`` counts the
    cells of all its units by outcome.
    """

    name: str
    weight: float = Field(ge=0, le=1)
    value: float = Field(ge=0, le=1)
    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)
    coverage: float = Field(ge=0, le=1)
    assumed: float = Field(ge=0, le=1)
    cells: dict[Outcome, int]
    text: str


class Stars(Frozen):
    """A rating in half-stars 0..5: what has been shown (None: nothing is known), and its interval.

    Always ``low <= value <= high``. ``standing`` says whether the value is to be shown (``not rated``: it is not), and
    whether it may be relied on. ``coverage`` is the weighted share of the evidence that is present. ``score`` is the
    value before it is rounded, on the scale 0..1, ``bounds`` what it is if all missing evidence fails and if all of it
    passes, and ``sampled`` the ends of those two under resampling.
    """

    value: float | None
    low: float
    high: float
    coverage: float
    standing: Standing
    score: float | None
    bounds: tuple[float, float]
    sampled: tuple[float, float]
    components: tuple[Component, ...]


class Rating(Frozen):
    """The two ratings of one framework, which are never blended into one."""

    version: Literal[2] = 2
    framework: str
    deployment: Stars
    cross_platform: Stars


class Answer(NamedTuple):
    """What is known of one unit, and the cell that decided it.

    ``value`` is what that cell has ``shown``, and what is assumed for the share of it that is ``open``.
    """

    unit: Unit
    value: float
    shown: float
    low: float
    high: float
    known: bool
    open: float
    decided: Cell | None


class Scored(NamedTuple):
    """A component with its answers; ``assumed`` is what its open cells were taken to be worth."""

    part: Part
    answers: tuple[Answer, ...]
    assumed: float
    value: float
    low: float
    high: float
    coverage: float


def rate(records: Sequence[Record], spec: RatingSpec) -> tuple[Rating, ...]:
    """Return one rating per framework in ``records``, by name. Depends on nothing else, and not on their order."""
    return tuple(
        Rating(
            framework=framework,
            deployment=combine(score(questions.deployment(cells, spec)), _models(cells)),
            cross_platform=combine(score(questions.cross_platform(framework, cells, spec)), _models(cells)),
        )
        for framework, cells in questions.cells_by_framework(records).items()
    )


def half_stars(score: float) -> float:
    """Return a score 0..1 as stars 0..5, rounded to halves, a tie upwards: 0.25 -> 1.5.

    A billionth is added first, so that a tie that floating point leaves just below itself is still one.
    """
    return min(5.0, math.floor(10 * score + 0.5 + _SLACK) / 2)


def standing_of(value: float | None, low: float, high: float, coverage: float) -> Standing:
    """Return what a rating in stars is good for, by its interval and the share of the evidence that is there."""
    if value is None or coverage < ENOUGH - _SLACK:
        return "not rated"
    return "provisional" if high - low > NARROW or coverage < FIRM - _SLACK else "rated"


def score(parts: Sequence[Part]) -> tuple[Scored, ...]:
    """Return the components of one rating, scored in their order: each is assumed as good as those before it."""
    scored: list[Scored] = []
    for part in parts:
        scored.append(_scored(part, _mean([one.value for one in scored], [one.part.weight for one in scored])))
    return tuple(scored)


def combine(scored: Sequence[Scored], models: Sequence[str]) -> Stars:
    """Return the stars of scored components of a framework with these models; the module says why they are so."""
    weights = [one.part.weight for one in scored]
    bounds = _mean([one.low for one in scored], weights), _mean([one.high for one in scored], weights)
    sampled = _sampled(scored, models)
    total = (
        _mean([one.value for one in scored], weights) if any(one.coverage * one.part.weight for one in scored) else None
    )
    value = None if total is None else half_stars(total)
    low, high = half_stars(min(bounds[0], sampled[0])), half_stars(max(bounds[1], sampled[1]))
    coverage = min(1.0, _mean([one.coverage for one in scored], weights))
    return Stars(
        value=value,
        low=low,
        high=high,
        coverage=coverage,
        standing=standing_of(value, low, high, coverage),
        score=total,
        bounds=bounds,
        sampled=sampled,
        components=tuple(map(_component, scored)),
    )


def _models(cells: Sequence[Cell]) -> list[str]:
    return sorted({cell.id.model for cell in cells})


def _mean(values: Sequence[float], weights: Sequence[float]) -> float:
    """Return the weighted mean, within 0..1 whatever the last bit of a sum; 0 where nothing has any weight."""
    whole = math.fsum(weights)
    total = math.fsum(weight * value for weight, value in zip(weights, values, strict=True))
    return min(1.0, total / whole) if whole else 0.0


# --- Answers --------------------------------------------------------------------------------------------------------


def _scored(part: Part, assumed: float) -> Scored:
    """Return the mean over units (bounds of 0..1 where there are none)."""
    answers = tuple(_answer(unit, part.judge, assumed) for unit in part.units)
    count = len(answers) or 1
    return Scored(
        part,
        answers,
        assumed,
        value=math.fsum(answer.value for answer in answers) / count,
        low=math.fsum(answer.low for answer in answers) / count,
        high=math.fsum(answer.high for answer in answers) / count if answers else 1.0,
        coverage=sum(answer.known for answer in answers) / count,
    )


def _answer(unit: Unit, judge: Judge, assumed: float) -> Answer:
    """Return the answer of the best cell; one without points might still be worth 1."""
    found = [(cell.points(judge), cell) for cell in unit.cells]
    closed = bool(found) and all(points.low == points.high for points, _ in found)
    known = closed or any(points.told for points, _ in found)
    # max() keeps the first of equals: the cell that told before one that is assumed, then the order of ids.
    best, cell = max(found, key=lambda one: (_worth(one[0], assumed), one[0].told), default=(questions.MISSING, None))
    return Answer(
        unit,
        value=_worth(best, assumed),
        shown=best.low,
        low=max((points.low for points, _ in found), default=0.0),
        high=max((points.high for points, _ in found), default=1.0),
        known=known,
        open=best.open,
        decided=cell if best.told or best.open or closed else None,
    )


def _worth(points: Points, assumed: float) -> float:
    return points.low + points.open * assumed


def _component(scored: Scored) -> Component:
    part = scored.part
    known = sum(answer.known for answer in scored.answers)
    outcomes = {cell.id: cell.standing.outcome for unit in part.units for cell in unit.cells}
    counts = Counter(outcomes.values())
    return Component(
        name=part.name,
        weight=part.weight,
        value=scored.value,
        low=scored.low,
        high=scored.high,
        coverage=scored.coverage,
        assumed=math.fsum(answer.open for answer in scored.answers) / (len(scored.answers) or 1),
        cells={outcome: counts[outcome] for outcome in Outcome if counts[outcome]},
        text=f"{known} of {len(scored.answers)} {part.about}",
    )


# --- Chance ---------------------------------------------------------------------------------------------------------


def _sampled(scored: Sequence[Scored], models: Sequence[str]) -> tuple[float, float]:
    """Return the low end of the low bound and the high end of the high bound, under draws of models and repeats.

    One draw is one draw for all components: a model that is drawn often is drawn often in each of them.
    """
    lows, highs = np.zeros(DRAWS), np.zeros(DRAWS)
    whole = math.fsum(one.part.weight for one in scored) or 1.0
    for one in scored:
        low, high = _drawn(one, models)
        lows += one.part.weight / whole * low
        highs += one.part.weight / whole * high
    return min(1.0, resampling.low_end(lows)), min(1.0, resampling.high_end(highs))


def _drawn(scored: Scored, models: Sequence[str]) -> tuple[Floats, Floats]:
    """Return both bounds of a component in each draw; what is not asked of models is what it is."""
    asked = [answer for answer in scored.answers if answer.unit.model is not None]
    if not asked:
        return np.full(DRAWS, scored.low), np.full(DRAWS, scored.high)
    column = {model: number for number, model in enumerate(models)}
    counts = np.zeros(len(models))
    sums: list[Floats] = [np.zeros(len(models)), np.zeros(len(models))]
    for answer in asked:
        at = column[str(answer.unit.model)]
        counts[at] += 1
        if not _is_flaky(answer.unit, scored.part.judge):
            sums[0][..., at] += answer.low
            sums[1][..., at] += answer.high
            continue
        for end, drawn in enumerate(_drawn_repeats(answer.unit, scored.part.judge, at, len(models))):
            if sums[end].ndim == 1:
                sums[end] = np.tile(sums[end], (DRAWS, 1))
            sums[end][:, at] += drawn
    return resampling.smoothed_mean(sums[0], counts), resampling.smoothed_mean(sums[1], counts)


def _is_flaky(unit: Unit, judge: Judge) -> bool:
    """Return whether it matters which of their repeats are drawn."""
    return any(len(set(cell.telling(judge).values())) > 1 for cell in unit.cells if len(cell.records) > 1)


def _drawn_repeats(unit: Unit, judge: Judge, column: int, models: int) -> tuple[Floats, Floats]:
    """Return both bounds of a unit in each draw: the best of its cells, each the mean of its repeats as drawn."""
    lows, highs = [], []
    for cell in unit.cells:
        told = cell.telling(judge)
        weights = np.stack([resampling.repeat_weights(models, run)[:, column] for run in told], axis=1)
        low, high = (np.array(end) for end in zip(*(points[:2] for points in told.values()), strict=True))
        lows.append(resampling.weighted_mean(low, weights))
        highs.append(resampling.weighted_mean(high, weights))
    return np.max(lows, axis=0), np.max(highs, axis=0)
