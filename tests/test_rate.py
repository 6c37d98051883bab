"""The two laws of the ratings (deselecting a failure never helps, a further path never hurts) and what they rest on."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portmatrix.rate import Component, Rating, Stars, combine, half_stars, rate
from portmatrix.spec import RatingSpec
from portmatrix.types import Comparison, Outcome, Record, Stage, Tolerance

SPEC = RatingSpec()
FAILING = {Outcome.FAIL, Outcome.XFAIL}
TARGETS = ("linux-x86_64", "linux-arm64", "windows-x86_64", "macos-arm64", "browser")


def record(cell: str, outcome: Outcome = Outcome.PASS, **values: Any) -> Record:
    return Record(cell=cell, outcome=outcome, run="r", started="2026-11-22T00:00:00+00:00", engine="0", **values)


def compared(verdict: Any) -> Comparison:
    nothing = dict.fromkeys(("max_abs", "max_rel", "mismatched", "snr_db", "cosine", "top1", "needed"))
    fixed: dict[str, Any] = {"output": "y", "batch": 1, "dtype": "float32", "shape": (1,), "elements": 1}
    return Comparison(**fixed, **nothing, tolerance=Tolerance(atol=0, rtol=0), verdict=verdict)


def only(records: list[Record]) -> Rating:
    (rating,) = rate(records, SPEC)
    return rating


def part(stars: Stars, name: str) -> Component:
    return next(component for component in stars.components if component.name == name)


@st.composite
def records_of(draw: st.DrawFn, path: str = "onnx|native|tflite", min_size: int = 1) -> list[Record]:
    """Records of one framework ``fw``, one per cell, with every kind of evidence."""
    cells = st.tuples(
        st.just("fw"),
        st.sampled_from(("mlp", "lstm", "vgg")),
        st.sampled_from(path.split("|")),
        st.sampled_from(("fw", "other")),
        st.sampled_from(TARGETS),
    ).map("/".join)
    found = []
    for cell in draw(st.lists(cells, unique=True, min_size=min_size, max_size=25)):
        facts: dict[str, Any] = {}
        if draw(st.booleans()):
            facts["trained_on"] = draw(st.sampled_from(TARGETS))
        if draw(st.booleans()):
            facts["interpreter_free"] = draw(st.booleans())
        values = {
            "outcome": draw(st.sampled_from(Outcome)),
            "stage": draw(st.sampled_from([None, *Stage])),
            "archived": draw(st.booleans()),
            "comparisons": tuple(compared(v) for v in draw(st.lists(st.sampled_from(("strict", "loose")), max_size=2))),
        }
        found.append(record(cell, facts=facts, **values))
    return found


def missing(original: Record) -> Record:
    return record(original.cell, Outcome.NOT_RUN, stage=Stage.PLAN, reason="deselected")


def both(records: list[Record]) -> tuple[Stars, Stars]:
    rating = only(records)
    return rating.deployment, rating.cross_platform


@settings(deadline=None)
@given(records_of(), st.data())
def test_deselecting_failing_cells_never_raises_a_star(records: list[Record], data: st.DataObject) -> None:
    chosen = data.draw(st.sets(st.sampled_from([r.cell for r in records])), label="deselected")
    gone = [missing(r) if r.cell in chosen and r.outcome in FAILING else r for r in records]
    for before, after in zip(both(records), both(gone), strict=True):
        assert after.value is None or before.value is not None
        assert after.value is None or after.value <= before.value  # type: ignore[operator]


@settings(deadline=None)
@given(records_of(), records_of(path="experimental|onnx-experimental", min_size=0))
def test_adding_a_path_never_lowers_a_star(records: list[Record], more: list[Record]) -> None:
    known = {(r.id.model, r.id.target) for r in records}
    added = [r for r in more if (r.id.model, r.id.target) in known]
    for before, after in zip(both(records), both(records + added), strict=True):
        assert before.value is None or (after.value is not None and after.value >= before.value)


@settings(deadline=None)
@given(records_of(), st.data())
def test_missing_evidence_only_widens_the_interval(records: list[Record], data: st.DataObject) -> None:
    chosen = data.draw(st.sets(st.sampled_from([r.cell for r in records])), label="missing")
    for before, after in zip(
        both(records), both([missing(r) if r.cell in chosen else r for r in records]), strict=True
    ):
        assert after.low <= before.low
        assert after.high >= before.high
        assert after.coverage <= before.coverage + 1e-9


@settings(deadline=None)
@given(records_of())
def test_the_star_lies_in_its_interval_and_on_the_scale(records: list[Record]) -> None:
    for stars in both(records):
        assert 0 <= stars.low <= stars.high <= 5
        assert stars.value is None or stars.low <= stars.value <= stars.high
        assert 0 <= stars.coverage <= 1
        for value in (stars.low, stars.high, stars.value or 0.0):
            assert (2 * value).is_integer()
        assert all(component.low <= component.high for component in stars.components)


@settings(deadline=None)
@given(records_of(), st.randoms())
def test_the_order_of_records_does_not_matter(records: list[Record], random: Any) -> None:
    shuffled = list(records)
    random.shuffle(shuffled)
    assert rate(records, SPEC) == rate(shuffled, SPEC)


@settings(deadline=None)
@given(records_of(), st.sampled_from((Outcome.ERROR, Outcome.NOT_RUN, Outcome.SKIP)))
def test_error_not_run_and_skip_are_the_same_lack_of_evidence(records: list[Record], outcome: Outcome) -> None:
    without = [r for r in records if r.outcome not in {Outcome.ERROR, Outcome.NOT_RUN, Outcome.SKIP}]
    blank = [r for r in records if r not in without]
    first = both([*without, *(record(r.cell, outcome) for r in blank)])
    second = both([*without, *(record(r.cell, Outcome.NOT_RUN) for r in blank)])
    assert [(s.value, s.low, s.high) for s in first] == [(s.value, s.low, s.high) for s in second]


@pytest.mark.parametrize(
    ("score", "stars"),
    [(0, 0), (0.049, 0), (0.05, 0.5), (0.15, 1), (0.25, 1.5), (0.35, 2), (0.45, 2.5), (0.949, 4.5), (0.95, 5), (1, 5)],
)
def test_half_stars_round_half_up(score: float, stars: float) -> None:
    assert half_stars(score) == stars


def test_nothing_known_is_not_rated_and_anything_is_possible() -> None:
    stars = only([record("fw/mlp/onnx/other/linux-x86_64", Outcome.NOT_RUN)]).deployment
    assert (stars.value, stars.low, stars.high, stars.coverage) == (None, 0, 5, 0)


def test_only_failures_are_zero_stars_and_not_unrated() -> None:
    cells = [f"fw/mlp/onnx/other/{target}" for target in TARGETS]
    stars = only([record(cell, Outcome.FAIL) for cell in cells]).deployment
    assert stars.value == 0
    assert stars.high < 5


def test_passes_everywhere_are_five_stars_with_room_below_for_what_is_not_measured() -> None:
    stars = only([record(f"fw/mlp/onnx/other/{target}") for target in TARGETS]).deployment
    assert (stars.value, stars.high) == (5, 5)
    assert stars.low == half_stars(SPEC.deployment.reach + SPEC.deployment.strictness)


def test_the_best_path_and_runtime_of_a_model_counts() -> None:
    records = [
        record("fw/mlp/onnx/a/windows-x86_64", Outcome.FAIL),
        record("fw/mlp/tflite/b/windows-x86_64", Outcome.DEGRADED),
        record("fw/mlp/tflite/c/windows-x86_64", Outcome.XFAIL),
    ]
    reach = part(only(records).deployment, "reach")
    assert reach.low == pytest.approx(0.5 / 4)
    assert reach.high == pytest.approx(3.5 / 4)
    assert reach.cells == {Outcome.DEGRADED: 1, Outcome.FAIL: 1, Outcome.XFAIL: 1}
    assert reach.text.startswith("1 of 4 ")


def test_an_arm_linux_cell_counts_for_linux_and_for_arm() -> None:
    reach = part(only([record("fw/mlp/onnx/a/linux-arm64")]).deployment, "reach")
    assert (reach.low, reach.coverage) == (0.5, 0.5)


def test_a_loose_pass_and_a_degraded_one_are_not_strict() -> None:
    records = [
        record("fw/a/onnx/r/browser", comparisons=(compared("strict"), compared("loose"))),
        record("fw/b/onnx/r/browser", Outcome.DEGRADED, comparisons=(compared("strict"),)),
        record("fw/c/onnx/r/browser", comparisons=(compared("strict"),)),
        record("fw/d/onnx/r/browser", Outcome.FAIL),
    ]
    strictness = part(only(records).deployment, "strictness")
    assert strictness.low == strictness.high == 0.25


def test_interpreter_free_operation_is_shown_by_working_cells_only() -> None:
    free = {"interpreter_free": True}
    records = [
        record("fw/a/onnx/r/browser", facts=free),
        record("fw/b/onnx/r/browser", facts={"interpreter_free": False}),
        record("fw/c/onnx/r/browser", Outcome.FAIL, facts=free),
    ]
    component = part(only(records).deployment, "interpreter_free")
    assert component.low == pytest.approx(1 / 3)
    assert component.high == pytest.approx(2 / 3)
    assert not component.measured


def test_an_unmeasured_part_never_carries_the_star_out_of_what_is_known_of_it() -> None:
    facts = {"interpreter_free": False}
    stars = only([record(f"fw/mlp/onnx/other/{target}", facts=facts) for target in TARGETS]).deployment
    assert part(stars, "interpreter_free").high == 0
    assert stars.value == stars.high == half_stars(1 - SPEC.deployment.interpreter_free)


def test_install_rests_on_where_the_framework_itself_trained() -> None:
    records = [
        record("fw/mlp/onnx/r/browser", stage=Stage.COMPARE, facts={"trained_on": "linux-x86_64"}),
        record("fw/vgg/onnx/r/browser", Outcome.FAIL, stage=Stage.RUN, facts={"trained_on": "linux-x86_64"}),
        record("fw/lstm/onnx/r/browser", Outcome.FAIL, stage=Stage.TRAIN, facts={"trained_on": "windows-x86_64"}),
    ]
    install = part(only(records).cross_platform, "install")
    assert (install.low, install.high, install.coverage) == (0.25, 0.75, 0.5)


def test_an_archived_bundle_says_nothing_about_installing() -> None:
    records = [
        record("fw/mlp/onnx/r/browser", stage=Stage.COMPARE, archived=True, facts={"trained_on": "linux-x86_64"})
    ]
    install = part(only(records).cross_platform, "install")
    assert (install.low, install.high, install.coverage) == (0, 1, 0)


def test_run_counts_the_frameworks_own_runtime_on_its_own_format_only() -> None:
    records = [
        record("fw/mlp/native/fw/linux-x86_64"),
        record("fw/mlp/onnx/fw/windows-x86_64"),
        record("fw/mlp/native/other/macos-arm64"),
    ]
    run = part(only(records).cross_platform, "run")
    assert (run.low, run.coverage) == (0.25, 0.25)


def test_a_model_that_is_planned_but_not_run_counts_as_missing() -> None:
    run = [record("fw/mlp/onnx/r/linux-x86_64")]
    planned = [*run, record("fw/lstm/onnx/r/linux-x86_64", Outcome.NOT_RUN)]
    assert part(only(planned).deployment, "reach").low == part(only(run).deployment, "reach").low / 2
    assert part(only(planned).deployment, "reach").high == 1


def test_frameworks_are_rated_apart_and_come_by_name() -> None:
    records = [record("b/mlp/onnx/r/browser", Outcome.FAIL), record("a/mlp/onnx/r/browser")]
    first, second = rate(records, SPEC)
    assert (first.framework, second.framework) == ("a", "b")
    assert part(first.deployment, "strictness").low == 1
    assert part(second.deployment, "strictness").low == 0


def test_no_records_no_ratings() -> None:
    assert rate([], SPEC) == ()


def test_with_all_evidence_the_star_is_the_weighted_mean() -> None:
    def component(name: str, weight: float, score: float) -> Component:
        values: dict[str, Any] = {"measured": True, "coverage": 1, "cells": {}, "text": ""}
        return Component(name=name, weight=weight, low=score, high=score, **values)

    stars = combine([component("reach", 0.6, 1), component("strictness", 0.4, 0.5)])
    assert stars.value == stars.low == stars.high == 4
