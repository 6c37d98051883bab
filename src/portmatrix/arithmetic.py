"""The arithmetic of a rating, down to the cells: what each question was worth, which cell decided it, and the sum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from portmatrix import questions
from portmatrix.errors import UserError, nearest
from portmatrix.questions import Cell
from portmatrix.rate import Answer, Scored, Stars, combine, score
from portmatrix.spec import RatingSpec
from portmatrix.types import Frozen, Outcome, Record


class Decision(Frozen):
    """One unit: its question, what it counts for the star (``value``), its bounds, and the cell that decided it.

    ``cell`` is empty and ``outcome`` None where no cell answers. Where the deciding cell works without saying how well,
    ``assumed`` is 1, or the share of its repeats that do so: ``value`` is ``shown`` and, for that share, what the term
    assumes. ``cells`` is how many cells the unit has, ``repeats`` how many records of the deciding one were taken.
    """

    question: str
    value: float
    shown: float
    low: float
    high: float
    cell: str
    outcome: Outcome | None
    assumed: float
    cells: int
    repeats: int


class Term(Frozen):
    """One component: its weight and the mean over its units; ``assumed`` is what a cell was taken to be worth."""

    name: str
    weight: float
    value: float
    low: float
    high: float
    assumed: float
    decisions: tuple[Decision, ...]


class Total(Frozen):
    """One rating: its components, and the stars that their weighted mean is rounded to."""

    terms: tuple[Term, ...]
    stars: Stars


class Arithmetic(Frozen):
    """Both ratings of one framework, worked out."""

    version: Literal[2] = 2
    framework: str
    deployment: Total
    cross_platform: Total


def work_out(records: Sequence[Record], spec: RatingSpec, framework: str) -> Arithmetic:
    """Return the arithmetic of one framework's ratings; raises ``UserError`` if no record is of that framework."""
    found = questions.cells_by_framework(records)
    if framework not in found:
        known = ", ".join(found) or "none"
        raise UserError(
            f"no record is of a framework {framework!r}; expected one of: {known}{nearest(framework, list(found))}"
        )
    cells = found[framework]
    return Arithmetic(
        framework=framework,
        deployment=_total(score(questions.deployment(cells, spec)), cells),
        cross_platform=_total(score(questions.cross_platform(framework, cells, spec)), cells),
    )


def _total(scored: Sequence[Scored], cells: Sequence[Cell]) -> Total:
    return Total(terms=tuple(map(_term, scored)), stars=combine(scored, sorted({cell.id.model for cell in cells})))


def _term(scored: Scored) -> Term:
    return Term(
        name=scored.part.name,
        weight=scored.part.weight,
        value=scored.value,
        low=scored.low,
        high=scored.high,
        assumed=scored.assumed,
        decisions=tuple(map(_decision, scored.answers)),
    )


def _decision(answer: Answer) -> Decision:
    decided = answer.decided
    return Decision(
        question=answer.unit.question,
        value=answer.value,
        shown=answer.shown,
        low=answer.low,
        high=answer.high,
        cell=decided.standing.cell if decided else "",
        outcome=decided.standing.outcome if decided else None,
        assumed=answer.open,
        cells=len(answer.unit.cells),
        repeats=len(decided.records) if decided else 0,
    )
