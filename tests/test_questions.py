"""What each component asks, which cells belong to a question, and what a record is worth to it."""

from __future__ import annotations

from typing import Any

import pytest

from portmatrix import questions
from portmatrix.questions import Part, cells_by_framework, speed_points
from portmatrix.rate import Stars, rate
from portmatrix.spec import RatingSpec
from portmatrix.types import Comparison, Latency, Outcome, Reach, Record, Stage, Timing, Tolerance

SPEC = RatingSpec()


def record(cell: str, outcome: Outcome = Outcome.PASS, **values: Any) -> Record:
    return Record(cell=cell, outcome=outcome, **{"run": "r", "started": "2026-11-22", "engine": "0", **values})


def compared(verdict: Any) -> Comparison:
    nothing = dict.fromkeys(("max_abs", "max_rel", "mismatched", "snr_db", "cosine", "top1", "needed"))
    fixed: dict[str, Any] = {"output": "y", "batch": 1, "dtype": "float32", "shape": (1,), "elements": 1}
    return Comparison(**fixed, **nothing, tolerance=Tolerance(atol=0, rtol=0), verdict=verdict)


def latency(*ratios: float | None, **changes: Any) -> Latency:
    fixed: dict[str, Any] = {"batch": 1, "threads": 1, "inner": 1, "samples": 11, "p50": 1.0, "p90": None, "p99": None}
    timings = tuple(Timing(**fixed, ratio=ratio) for ratio in ratios)
    values: dict[str, Any] = {"baseline": "b", "session": "s", "load_seconds": 1.0, "first_seconds": 1.0}
    return Latency(**{**values, "artifact_bytes": 1, "timings": timings, **changes})


def stars(records: list[Record], *, cross_platform: bool = False) -> Stars:
    (rating,) = rate(records, SPEC)
    return rating.cross_platform if cross_platform else rating.deployment


def bounds(given: Stars, name: str) -> tuple[float, float, float]:
    """Return value, low and high of a component."""
    found = next(component for component in given.components if component.name == name)
    return found.value, found.low, found.high


def part(records: list[Record], name: str) -> Part:
    (cells,) = cells_by_framework(records).values()
    return next(one for one in questions.deployment(cells, SPEC) if one.name == name)


# --- Components -----------------------------------------------------------------------------------------------------


def test_an_arm_linux_cell_counts_for_linux_and_for_arm() -> None:
    assert bounds(stars([record("fw/mlp/onnx/a/linux-arm64")]), "reach") == (0.5, 0.5, 1)


def test_a_loose_pass_and_a_degraded_one_are_not_strict() -> None:
    records = [
        record("fw/a/onnx/r/browser", comparisons=(compared("strict"), compared("loose"))),
        record("fw/b/onnx/r/browser", Outcome.DEGRADED, comparisons=(compared("strict"),)),
        record("fw/c/onnx/r/browser", comparisons=(compared("strict"),)),
        record("fw/d/onnx/r/browser", Outcome.FAIL),
    ]
    assert bounds(stars(records), "strictness") == (0.25, 0.25, 0.25)


def test_a_model_needs_no_interpreter_if_any_of_its_cells_works_without_one() -> None:
    records = [
        record("fw/a/onnx/r/browser", facts={"interpreter_free": False}),
        record("fw/a/onnx/c/linux-arm64", facts={"interpreter_free": True}),
        record("fw/b/onnx/r/browser", facts={"interpreter_free": False}),
        record("fw/b/onnx/c/linux-arm64", Outcome.FAIL, facts={"interpreter_free": True}),
    ]
    assert bounds(stars(records), "interpreter_free") == (0.5, 0.5, 0.5)
    missing = [*records[:3], record("fw/b/onnx/c/linux-arm64", Outcome.NOT_RUN)]
    assert bounds(stars(missing), "interpreter_free") == (0.5, 0.5, 1)


def test_a_working_cell_that_does_not_say_whether_it_needs_one_counts_as_reach_does() -> None:
    value, low, high = bounds(stars([record("fw/a/onnx/r/linux-x86_64")]), "interpreter_free")
    assert (value, low, high) == (0.25, 0, 1)


@pytest.mark.parametrize(
    ("ratio", "points"), [(0.1, 1), (1, 1), (2, 0.69897), (10**0.5, 0.5), (5, 0.30103), (10, 0), (300, 0)]
)
def test_latency_is_worth_less_by_the_logarithm_of_its_ratio(ratio: float, points: float) -> None:
    assert speed_points(ratio) == pytest.approx(points, abs=1e-5)
    known = [record("fw/a/onnx/r/linux-x86_64", latency=latency(ratio, 1e-3))]
    value, low, high = bounds(stars(known), "latency")
    assert value == low == high == pytest.approx(points, abs=1e-5)


@pytest.mark.parametrize(
    "unusable",
    [None, latency(), latency(None), latency(1.0, emulated=True), latency(1.0, unstable=True), latency(float("inf"))],
    ids=["not measured", "no timing", "no baseline", "emulated", "unstable", "endless"],
)
def test_a_latency_that_is_no_evidence_leaves_the_question_open(unusable: Latency | None) -> None:
    given = stars([record("fw/a/onnx/r/linux-x86_64", latency=unusable)])
    value, low, high = bounds(given, "latency")
    assert (low, high) == (0, 1)
    assert value == pytest.approx((0.4 * 0.25 + 0.3 * 0.25 + 0.2 * 1) / 0.9)


def test_latency_is_asked_of_the_fastest_cell_where_time_is_the_targets_own() -> None:
    records = [
        record("fw/a/onnx/r/linux-x86_64", latency=latency(10), reach=Reach.NATIVE),
        record("fw/a/onnx/s/linux-x86_64", latency=latency(2), reach=Reach.CONTAINER),
        record("fw/a/onnx/r/linux-arm64", reach=Reach.EMULATED),
        record("fw/a/onnx/r/macos-arm64", Outcome.NOT_RUN, reach=Reach.STATIC),
        record("fw/a/onnx/t/linux-x86_64", Outcome.FAIL, reach=Reach.NATIVE),
    ]
    assert bounds(stars(records), "latency") == (pytest.approx(speed_points(2)),) * 3
    assert len(part(records, "latency").units[0].cells) == 3


def test_install_rests_on_where_the_framework_itself_trained() -> None:
    records = [
        record("fw/mlp/onnx/r/browser", stage=Stage.COMPARE, facts={"trained_on": "linux-x86_64"}),
        record("fw/vgg/onnx/r/browser", Outcome.FAIL, stage=Stage.RUN, facts={"trained_on": "linux-x86_64"}),
        record("fw/lstm/onnx/r/browser", Outcome.FAIL, stage=Stage.TRAIN, facts={"trained_on": "windows-x86_64"}),
    ]
    assert bounds(stars(records, cross_platform=True), "install") == (0.25, 0.25, 0.75)


def test_an_archived_bundle_says_nothing_about_installing() -> None:
    facts = {"trained_on": "linux-x86_64"}
    records = [record("fw/mlp/onnx/r/browser", stage=Stage.COMPARE, archived=True, facts=facts)]
    assert bounds(stars(records, cross_platform=True), "install") == (0, 0, 1)


def test_run_counts_the_frameworks_own_runtime_on_its_own_format_only() -> None:
    records = [
        record("fw/mlp/native/fw/linux-x86_64"),
        record("fw/mlp/onnx/fw/windows-x86_64"),
        record("fw/mlp/native/other/macos-arm64"),
    ]
    assert bounds(stars(records, cross_platform=True), "run") == (0.25, 0.25, 1)


def test_a_model_that_is_planned_but_not_run_counts_as_missing() -> None:
    run = [record("fw/mlp/onnx/r/linux-x86_64")]
    planned = [*run, record("fw/lstm/onnx/r/linux-x86_64", Outcome.NOT_RUN)]
    assert bounds(stars(planned), "reach") == (0.125, 0.125, 1)


# --- Cells and repeats ----------------------------------------------------------------------------------------------


def repeats(*records: Record) -> list[tuple[str, Outcome]]:
    (cell,) = cells_by_framework(records)["fw"]
    return [(one.run, one.outcome) for one in cell.records]


def attempt(run: int, outcome: Outcome = Outcome.PASS, **values: Any) -> Record:
    return record("fw/m/onnx/r/t", outcome, run=str(run), started=str(run), **{"bundle": "b", **values})


def test_the_same_thing_tried_again_is_a_repeat() -> None:
    assert repeats(attempt(1, Outcome.FAIL), attempt(3), attempt(2)) == [
        ("3", Outcome.PASS), ("2", Outcome.PASS), ("1", Outcome.FAIL),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "other",
    [
        attempt(1, bundle="another"),
        attempt(1, environment={"onnxruntime": "1.17"}),
        attempt(1, reach=Reach.EMULATED),
        attempt(1, reused=True),
        attempt(1, Outcome.ERROR),
        attempt(1, Outcome.NOT_RUN),
    ],
    ids=["bundle", "environment", "reach", "reused", "error", "not run"],
)
def test_what_is_not_the_same_thing_is_no_repeat(other: Record) -> None:
    assert repeats(other, attempt(2)) == [("2", Outcome.PASS)]


def test_what_could_not_be_found_out_last_is_not_hidden_by_what_was_found_before() -> None:
    assert repeats(attempt(1), attempt(2, Outcome.ERROR)) == [("2", Outcome.ERROR)]


def test_what_a_reused_record_was_made_of_is_no_second_trial() -> None:
    reused = attempt(3, reused=True, measured="2")
    assert repeats(attempt(1, Outcome.FAIL), attempt(2), reused) == [("3", Outcome.PASS), ("1", Outcome.FAIL)]


def test_a_record_that_is_read_twice_counts_once() -> None:
    assert repeats(attempt(1), attempt(1)) == [("1", Outcome.PASS)]
    later = attempt(1, Outcome.FAIL).model_copy(update={"started": "9"})
    assert repeats(later, attempt(1)) == [("1", Outcome.FAIL)]


def test_a_repeat_that_was_not_measured_says_nothing_against_one_that_was() -> None:
    records = [attempt(1, latency=latency(1.0)), attempt(2)]
    assert bounds(stars(records), "latency") == (1, 1, 1)


def test_of_a_cell_that_works_at_times_and_was_not_measured_so_much_is_open() -> None:
    value, low, high = bounds(stars([attempt(1, Outcome.FAIL), attempt(2)]), "latency")
    assert (low, high) == (0, 0.5)
    assert value == pytest.approx(0.5 * (0.3 * 0 + 0.2 * 0.5) / 0.9)
    assert bounds(stars([attempt(1, Outcome.FAIL), attempt(2, latency=latency(1.0))]), "latency") == (0.5, 0.5, 0.5)


def test_a_broken_runtime_belongs_to_no_framework() -> None:
    assert cells_by_framework([record("-/-/-/r/t", Outcome.ERROR)]) == {}
