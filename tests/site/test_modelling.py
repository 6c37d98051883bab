from __future__ import annotations

import pytest
from made_history import record
from page_of import SPEC, Parts, context

from portmatrix.site.modelling import Field, Standing, measured, page
from portmatrix.types import Outcome, Reach, Record, Stage

#: What the survey said of two toolkits, as a suite's `matrix.yaml` has it.
RATED = {
    **SPEC,
    "ratings": {
        "survey": {
            "caffe": {"toolkit": "Caffe", "deployment": 5},
            "torch": {"toolkit": "Torch", "deployment": 3, "successor": True},
        }
    },
}
HOSTILE = "</script><script>alert(1)</script>\x00\u202e'\"&amp;"


def cell(name: str, outcome: Outcome = Outcome.PASS, stage: Stage | None = None, **changed: object) -> Record:
    made = {} if stage not in (Stage.TRAIN, Stage.EXPORT) else {"bundle": None, "accuracy": None}
    return record(cell=f"torch/mlp/{name}", outcome=outcome, **{"stage": stage, "reason": "", **made, **changed})


def field(*records: Record) -> Field:
    (found,) = measured(records).values()
    return found


def test_a_family_is_followed_from_the_training_to_the_runtimes() -> None:
    found = field(
        cell("onnx/ort/linux", accuracy=0.91),
        cell("onnx/ov/linux", accuracy=0.91),
        cell("onnx/ov/node", Outcome.FAIL, Stage.RUN, accuracy=0.93),
        cell("onnx/cv/linux", Outcome.XFAIL, Stage.LOAD),
        cell("native/torch/linux"),
        cell("lite/litert/linux", Outcome.FAIL, Stage.EXPORT, reason="an operator is missing"),
    )
    assert found.standing is Standing.WORKS
    assert found.accuracies == (0.9, 0.93)
    assert (found.exported, found.paths) == (2, 3)
    assert (found.working, found.runtimes) == (3, 4)
    assert found.why == ""


@pytest.mark.parametrize(
    ("records", "standing"),
    [
        ([cell("p/r/t")], Standing.WORKS),
        ([cell("p/r/t", Outcome.XPASS)], Standing.WORKS),
        ([cell("p/r/t", Outcome.DEGRADED, Stage.COMPARE)], Standing.DETOUR),
        ([cell("p/r/t", Outcome.FAIL, Stage.LOAD)], Standing.STUCK),
        ([cell("p/r/t", Outcome.XFAIL, Stage.COMPARE)], Standing.STUCK),
        ([cell("p/r/t", Outcome.XFAIL, Stage.EXPORT)], Standing.NOT_EXPORTED),
        ([cell("p/r/t", Outcome.FAIL, Stage.TRAIN)], Standing.NOT_TRAINED),
        ([cell("p/r/t", Outcome.FAIL, Stage.TRAIN), cell("p/r/u")], Standing.WORKS),
        ([cell("p/r/t", Outcome.NOT_RUN, Stage.PREPARE, bundle=None, accuracy=None)], Standing.UNKNOWN),
        ([cell("p/r/t", Outcome.SKIP, Stage.PLAN, bundle=None, accuracy=None)], Standing.UNKNOWN),
        ([cell("p/r/t", Outcome.ERROR, Stage.TRAIN)], Standing.UNKNOWN),
        ([cell("p/r/t", Outcome.ERROR, Stage.LOAD)], Standing.UNKNOWN),
        ([cell("p/r/t", Outcome.XFAIL, Stage.PREPARE, reach=Reach.STATIC)], Standing.UNKNOWN),
    ],
)
def test_what_became_of_it_is_said_in_a_word(records: list[Record], standing: Standing) -> None:
    assert field(*records).standing is standing


def test_what_was_only_looked_up_is_no_runtime() -> None:
    found = field(cell("onnx/ort/linux"), cell("onnx/ov/mac", Outcome.FAIL, Stage.PREPARE, reach=Reach.STATIC))
    assert (found.working, found.runtimes) == (1, 1)


def test_why_it_is_not_there_is_said_as_it_was_foretold() -> None:
    known = cell("p/r/t", Outcome.XFAIL, Stage.TRAIN, reason="KeyError", expected="it has no loops")
    assert field(known).why == "it has no loops"
    assert "it has no loops" in Parts(page(context([known]))).text


def test_the_table_has_the_suites_families_in_their_order_and_leads_into_the_matrix() -> None:
    spec = {**SPEC, "models": {"mlp": {"data": "d", "view": "v", "target": "t", "accuracy": 0.85}, "lstm": {}}}
    records = [
        cell("onnx/ort/linux"),
        record(cell="caffe/lstm/native/mnn/linux", outcome=Outcome.FAIL, stage=Stage.LOAD),
        record(cell="caffe/aux/native/mnn/linux"),
        record(cell="-/-/-/broken/linux", outcome=Outcome.ERROR, stage=Stage.PLAN),
    ]
    parts = Parts(page(context(records, spec=spec)))
    assert [row[0] for row in parts.rows] == ["Family", "mlp", "lstm", "aux", "Trained", "Leave it", "Work"]
    assert parts.rows[0][1:] == ["caffe", "torch"]
    assert parts.row("mlp")[1:] == ["", "✓ works accuracy 90.0% 1 of 1 path 1 of 1 runtime"]
    assert parts.row("Work")[1:] == ["1 of 2", "1 of 1"]
    assert "matrix.html#framework=caffe&model=lstm" in parts.values("href")
    assert "85%" in parts.text


def test_no_records_make_a_page_that_says_what_to_do() -> None:
    assert "portmatrix run" in Parts(page(context([]))).text


def test_hostile_names_stay_text() -> None:
    name = HOSTILE.replace("/", "\u2215")
    bad = record(cell=f"{name}/{name}/p/r/t", outcome=Outcome.FAIL, stage=Stage.TRAIN, reason=HOSTILE, bundle=None)
    made = page(context([bad]))
    assert not Parts(made).count("script")
    assert "\u202e" not in made.body
    assert "\x00" not in made.body


def test_equal_records_give_equal_bytes_in_any_order() -> None:
    records = [cell("onnx/ort/linux"), cell("onnx/cv/linux", Outcome.FAIL, Stage.EXPORT, reason="a"),
               cell("x/cv/linux", Outcome.FAIL, Stage.EXPORT, reason="b")]  # fmt: skip
    assert page(context(records)) == page(context(records[::-1]))


def test_the_surveys_own_stars_stand_below_what_was_measured() -> None:
    shown = page(context([cell("p/r/t"), record(cell="caffe/mlp/p/r/t")], spec=RATED))
    assert "Caffe: 3 of 5" in shown.body
    assert "follows Torch: 5 of 5" in shown.body


def test_a_framework_that_the_survey_did_not_know_has_no_stars() -> None:
    assert "Survey of 2016" not in page(context([record(cell="own/mlp/p/r/t")], spec=RATED)).body
