"""The explanation of a rating recomputes to the same star, from its JSON alone."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from portmatrix import records, suite
from portmatrix.arithmetic import Arithmetic, work_out
from portmatrix.errors import UserError
from portmatrix.rate import rate
from portmatrix.types import Outcome, Record

ROOT = Path(__file__).parent.parent
SPEC = suite.load(ROOT).spec.ratings
REFERENCE = list(records.read(ROOT / "results" / "reference.jsonl"))
BY_CELL = {record.cell: record for record in REFERENCE}
FRAMEWORKS = sorted({record.id.framework for record in REFERENCE})
RATINGS = {rating.framework: rating for rating in rate(REFERENCE, SPEC)}


def explained(framework: str) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(work_out(REFERENCE, SPEC, framework).model_dump_json())
    return parsed


def recomputed(total: dict[str, Any]) -> tuple[float | None, list[float]]:
    """Return the star and the hard bounds that follow from the decisions of a total, with nothing but arithmetic."""
    values: list[float] = []
    weights: list[float] = []
    bounds = [0.0, 0.0]
    for term in total["terms"]:
        assumed = math.fsum(w * v for w, v in zip(weights, values, strict=True)) / (math.fsum(weights) or 1)
        units = [one["shown"] + one["assumed"] * assumed for one in term["decisions"]]
        values.append(math.fsum(units) / len(units))
        weights.append(term["weight"])
        for end, name in enumerate(("low", "high")):
            bounds[end] += term["weight"] * math.fsum(one[name] for one in term["decisions"]) / len(units)
    if not any(one["outcome"] for term in total["terms"] for one in term["decisions"]):
        return None, bounds
    score = math.fsum(w * v for w, v in zip(weights, values, strict=True)) / math.fsum(weights)
    return math.floor(10 * score + 0.5 + 1e-9) / 2, [bound / math.fsum(weights) for bound in bounds]


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("name", ["deployment", "cross_platform"])
def test_the_explanation_recomputes_to_the_very_same_star(framework: str, name: str) -> None:
    total = explained(framework)[name]
    star, bounds = recomputed(total)
    stars = getattr(RATINGS[framework], name)
    assert star == stars.value == total["stars"]["value"]
    assert bounds == pytest.approx(list(stars.bounds))
    assert stars.low <= 5 * bounds[0] + 0.25
    assert stars.high >= 5 * bounds[1] - 0.25


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_every_decision_is_what_the_record_of_its_cell_is_worth(framework: str) -> None:
    """By the tables of the documentation, applied to the record that is named."""
    worth = {"PASS": 1, "XPASS": 1, "DEGRADED": 0.5, "FAIL": 0, "XFAIL": 0, None: 0}
    seen = 0
    terms = {term["name"]: term for term in explained(framework)["deployment"]["terms"]}
    for one in terms["reach"]["decisions"]:
        assert one["value"] == worth[one["outcome"]]
    for one in terms["strictness"]["decisions"]:
        strict = one["outcome"] == "PASS" and all(c.verdict == "strict" for c in BY_CELL[one["cell"]].comparisons)
        assert one["value"] == float(strict)
        seen += one["cell"] != ""
    for one in terms["interpreter_free"]["decisions"]:
        if one["value"] == 1:
            assert BY_CELL[one["cell"]].facts["interpreter_free"] is True
    assert seen


def test_a_decision_names_a_cell_of_its_question() -> None:
    for term in explained("torch")["deployment"]["terms"]:
        for one in term["decisions"]:
            if one["cell"]:
                record: Record = BY_CELL[one["cell"]]
                assert record.id.model == one["question"].partition(" on ")[0]
                assert record.outcome.value == one["outcome"]


def test_what_is_assumed_of_a_cell_is_the_mean_of_the_terms_before() -> None:
    terms = explained("tensorflow")["deployment"]["terms"]
    speed = terms[-1]
    before = math.fsum(term["weight"] * term["value"] for term in terms[:-1])
    assert any(one["assumed"] for one in speed["decisions"])
    assert speed["assumed"] == pytest.approx(before / math.fsum(term["weight"] for term in terms[:-1]))
    assert {one["value"] for one in speed["decisions"] if one["assumed"]} == {speed["assumed"]}


def test_it_reads_back_as_what_it_was() -> None:
    worked = work_out(REFERENCE, SPEC, "caffe")
    assert Arithmetic.model_validate_json(worked.model_dump_json()) == worked


def test_an_unknown_framework_is_the_users_to_mend() -> None:
    with pytest.raises(UserError, match=r"expected one of: caffe, .*did you mean 'caffe'"):
        work_out(REFERENCE, SPEC, "cafe")


def test_nothing_known_is_worked_out_to_nothing() -> None:
    blank = [Record(cell="fw/m/p/r/t", outcome=Outcome.NOT_RUN, run="-", started="", engine="0")]
    total = json.loads(work_out(blank, SPEC, "fw").model_dump_json())["deployment"]
    assert recomputed(total) == (None, pytest.approx([0, 1]))
    assert total["stars"]["value"] is None
