"""The facts of the 2016 survey (``survey.yaml``), and the back-test: the stars that our formula makes of them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from importlib.resources import files
from typing import Literal

from pydantic import Field

from portmatrix.rate import Stars, rate
from portmatrix.spec import RatingSpec
from portmatrix.types import CellId, Frozen, Latency, Outcome, Record, Stage, Timing
from portmatrix.yaml_source import compose

Basis = Literal["stated", "implied", "judged"]
#: All that a fact can rest on: the survey's words, what follows from them, or our own judgement.
BASES: tuple[Basis, ...] = ("stated", "implied", "judged")


class Fact(Frozen):
    """Whether something holds of a toolkit, what that rests on, and the grounds."""

    holds: bool
    basis: Basis
    says: str


class Speed(Frozen):
    """A toolkit's time over that of one without its overhead, what that rests on, and the grounds."""

    ratio: float = Field(gt=0)
    basis: Basis
    says: str


class Toolkit(Frozen):
    """What is known of one toolkit's deployment; ``platforms`` is by the platforms of the ratings."""

    interpreter_free: Fact
    platforms: dict[str, Fact]
    latency: Speed | None = None


class Claim(Frozen):
    """What the survey says of a toolkit and models that are among ours, and the framework of ours that shows it."""

    toolkit: str
    says: str
    framework: str
    models: tuple[str, ...]


class Survey(Frozen):
    """The survey: where it is to be found, its facts, and for each platform the target that stands for it.

    ``stars`` are its own, by section and toolkit, and ``claims`` its words about models: of one ``revision`` of it.
    """

    title: str
    author: str
    year: int
    source: str
    revision: str
    targets: dict[str, str]
    toolkits: dict[str, Toolkit]
    stars: dict[str, dict[str, float]]
    claims: tuple[Claim, ...]


def load() -> Survey:
    """Return the survey's facts, as they come with the package."""
    plain, _, _, _ = compose(files("portmatrix").joinpath("survey.yaml").read_text(encoding="utf-8"))
    return Survey.model_validate_json(json.dumps(plain))


def back_test(survey: Survey, spec: RatingSpec, bases: Collection[Basis] = BASES) -> dict[str, Stars]:
    """Return the deployment stars of each toolkit, by the ordinary formula from facts with one of these ``bases``.

    The survey says nothing about tolerances, so the weight of ``strictness`` is shared out among the others.
    """
    weights = spec.deployment.model_copy(update={"strictness": 0.0})
    ratings = rate(list(records(survey, bases)), spec.model_copy(update={"deployment": weights}))
    return {rating.framework: rating.deployment for rating in ratings}


def records(survey: Survey, bases: Collection[Basis] = BASES) -> Iterator[Record]:
    """Yield the facts as records: each toolkit has one model that PASSes or FAILs on each platform spoken of."""
    for name, toolkit in survey.toolkits.items():
        for platform, fact in toolkit.platforms.items():
            if fact.basis in bases:
                cell = CellId(name, "model", "native", name, survey.targets[platform])
                yield _record(cell, toolkit, bases) if fact.holds else _failed(cell, fact)


def _record(cell: CellId, toolkit: Toolkit, bases: Collection[Basis]) -> Record:
    free, speed = toolkit.interpreter_free, toolkit.latency
    return Record(
        cell=str(cell),
        outcome=Outcome.PASS,
        facts={"interpreter_free": free.holds} if free.basis in bases else {},
        latency=_latency(speed.ratio) if speed is not None and speed.basis in bases else None,
        run="survey",
        started="2016",
        engine="survey",
    )


def _failed(cell: CellId, fact: Fact) -> Record:
    reason = f"{fact.basis}: {fact.says}"
    return Record(
        cell=str(cell),
        outcome=Outcome.FAIL,
        stage=Stage.LOAD,
        reason=reason,
        run="survey",
        started="2016",
        engine="survey",
    )


def _latency(ratio: float) -> Latency:
    """Return a ratio as what the MEASURE stage would have found; nothing else in it was measured, nor is it read."""
    timing = Timing(batch=1, threads=1, inner=1, samples=0, p50=None, p90=None, p99=None, ratio=ratio)
    return Latency(
        baseline="stated", session="survey", timings=(timing,), load_seconds=0, first_seconds=0, artifact_bytes=0
    )
