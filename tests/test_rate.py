"""The laws of the ratings (deselecting a failure never helps, a further path never hurts), and what they rest on."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta

from portmatrix.rate import Component, Rating, Stars, half_stars, rate, standing_of
from portmatrix.spec import CrossPlatformWeights, DeploymentWeights, RatingSpec
from portmatrix.types import Comparison, Latency, Outcome, Reach, Record, Stage, Timing, Tolerance

SPEC = RatingSpec()
FAILING = {Outcome.FAIL, Outcome.XFAIL}
TARGETS = ("linux-x86_64", "linux-arm64", "windows-x86_64", "macos-arm64", "browser")


def record(cell: str, outcome: Outcome = Outcome.PASS, **values: Any) -> Record:
    usual: dict[str, Any] = {"run": "r", "started": "2026-11-22T00:00:00+00:00", "engine": "0"}
    return Record(cell=cell, outcome=outcome, **{**usual, **values})


def compared(verdict: Any) -> Comparison:
    nothing = dict.fromkeys(("max_abs", "max_rel", "mismatched", "snr_db", "cosine", "top1", "needed"))
    fixed: dict[str, Any] = {"output": "y", "batch": 1, "dtype": "float32", "shape": (1,), "elements": 1}
    return Comparison(**fixed, **nothing, tolerance=Tolerance(atol=0, rtol=0), verdict=verdict)


def latency(ratio: float | None, **changes: Any) -> Latency:
    timing = Timing(batch=1, threads=1, inner=1, samples=11, p50=1.0, p90=None, p99=None, ratio=ratio)
    values: dict[str, Any] = {"baseline": "b", "session": "s", "timings": (timing,), "load_seconds": 1.0}
    return Latency(**{**values, "first_seconds": 1.0, "artifact_bytes": 1, **changes})


def only(records: list[Record], spec: RatingSpec = SPEC) -> Rating:
    (rating,) = rate(records, spec)
    return rating


def part(stars: Stars, name: str) -> Component:
    return next(component for component in stars.components if component.name == name)


@st.composite
def attempts_at(draw: st.DrawFn, cell: str) -> list[Record]:
    """One to three records of one cell, of one run each, with every kind of evidence."""
    facts: dict[str, Any] = {}
    if draw(st.booleans()):
        facts["trained_on"] = draw(st.sampled_from(TARGETS))
    if draw(st.booleans()):
        facts["interpreter_free"] = draw(st.booleans())
    timed = st.builds(latency, st.one_of(st.none(), st.floats(0.5, 20)), unstable=st.booleans(), emulated=st.booleans())
    fixed: dict[str, Any] = {
        "facts": facts,
        "reach": draw(st.sampled_from([None, *Reach])),
        "archived": draw(st.booleans()),
    }
    return [
        record(
            cell,
            draw(st.sampled_from(Outcome)),
            stage=draw(st.sampled_from([None, *Stage])),
            comparisons=tuple(compared(v) for v in draw(st.lists(st.sampled_from(("strict", "loose")), max_size=2))),
            latency=draw(st.one_of(st.none(), timed)),
            run=f"run {number}",
            started=f"2026-11-2{number}",
            **fixed,
        )
        for number in range(draw(st.integers(1, 3)))
    ]


@st.composite
def records_of(draw: st.DrawFn, path: str = "onnx|native|tflite", min_size: int = 1) -> list[Record]:
    """Records of one framework ``fw``, some of them repeats."""
    cells = st.tuples(
        st.just("fw"),
        st.sampled_from(("mlp", "lstm", "vgg")),
        st.sampled_from(path.split("|")),
        st.sampled_from(("fw", "other")),
        st.sampled_from(TARGETS),
    ).map("/".join)
    named = draw(st.lists(cells, unique=True, min_size=min_size, max_size=15))
    return [found for cell in named for found in draw(attempts_at(cell))]


def standing(records: list[Record]) -> dict[str, Record]:
    return {one.cell: one for one in sorted(records, key=lambda one: one.started)}


def without(records: list[Record], cells: set[str], last_only: bool) -> list[Record]:
    """Return the records with those of ``cells`` deselected: in their last run, or in all of them."""
    last = standing(records)
    return [
        record(one.cell, Outcome.NOT_RUN, stage=Stage.PLAN, reason="deselected", run=one.run, started=one.started)
        if one.cell in cells and (not last_only or one == last[one.cell])
        else one
        for one in records
    ]


def both(records: list[Record]) -> tuple[Stars, Stars]:
    rating = only(records)
    return rating.deployment, rating.cross_platform


@settings(deadline=None)
@given(records_of(), st.data(), st.booleans())
def test_deselecting_failing_cells_never_raises_a_star(
    records: list[Record], data: st.DataObject, last_only: bool
) -> None:
    failing = sorted(cell for cell, one in standing(records).items() if one.outcome in FAILING)
    chosen = data.draw(st.sets(st.sampled_from(failing)) if failing else st.just(set()), label="deselected")
    for before, after in zip(both(records), both(without(records, chosen, last_only)), strict=True):
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
@given(records_of(), st.data(), st.booleans())
def test_missing_evidence_only_widens_the_interval(records: list[Record], data: st.DataObject, last_only: bool) -> None:
    chosen = data.draw(st.sets(st.sampled_from([r.cell for r in records])), label="missing")
    for before, after in zip(both(records), both(without(records, chosen, last_only)), strict=True):
        assert after.low <= before.low
        assert after.high >= before.high
        assert after.coverage <= before.coverage + 1e-9


@settings(deadline=None)
@given(records_of(), st.data())
def test_so_do_measurements_and_facts_that_are_lost(records: list[Record], data: st.DataObject) -> None:
    chosen = data.draw(st.sets(st.sampled_from([r.cell for r in records])), label="forgotten")
    facts = [{k: v for k, v in r.facts.items() if k != "interpreter_free"} for r in records]
    gone = [
        r.model_copy(update={"latency": None, "facts": kept}) if r.cell in chosen else r
        for r, kept in zip(records, facts, strict=True)
    ]
    before, after = only(records).deployment, only(gone).deployment
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
        assert stars.bounds[0] <= stars.bounds[1]
        assert stars.score is None or stars.bounds[0] - 1e-9 <= stars.score <= stars.bounds[1] + 1e-9
        assert all(component.low <= component.value <= component.high for component in stars.components)


@settings(deadline=None)
@given(records_of(), st.randoms())
def test_the_order_of_records_does_not_matter(records: list[Record], random: Any) -> None:
    shuffled = list(records)
    random.shuffle(shuffled)
    assert rate(records, SPEC) == rate(shuffled, SPEC)


@settings(deadline=None)
@given(records_of(), st.sampled_from((Outcome.ERROR, Outcome.NOT_RUN, Outcome.SKIP)))
def test_error_not_run_and_skip_are_the_same_lack_of_evidence(records: list[Record], outcome: Outcome) -> None:
    """Of the last run of a cell, that is: in an earlier one they are no repeat at all."""
    last = standing(records).values()
    answered = [r for r in last if r.outcome not in {Outcome.ERROR, Outcome.NOT_RUN, Outcome.SKIP}]
    blank = [r.cell for r in last if r not in answered]
    first = both([*answered, *(record(cell, outcome) for cell in blank)])
    second = both([*answered, *(record(cell, Outcome.NOT_RUN) for cell in blank)])
    assert [(s.value, s.low, s.high) for s in first] == [(s.value, s.low, s.high) for s in second]


@pytest.mark.parametrize(
    ("score", "stars"),
    [(0, 0), (0.049, 0), (0.05, 0.5), (0.15, 1), (0.25, 1.5), (0.35, 2), (0.45, 2.5), (0.949, 4.5), (0.95, 5), (1, 5)],
)
def test_half_stars_round_half_up(score: float, stars: float) -> None:
    assert half_stars(score) == stars


@pytest.mark.parametrize(
    ("value", "low", "high", "coverage", "expected"),
    [
        (None, 0, 5, 1, "not rated"),
        (4, 4, 4.5, 0.59, "not rated"),
        (4, 4, 4.5, 0.6, "provisional"),
        (4, 4, 4.5, 0.89, "provisional"),
        (4, 4, 4.5, 0.9, "rated"),
        (4, 4, 4.5, 0.1 + 0.2 + 0.6, "rated"),
        (4, 3.5, 4.5, 1, "provisional"),
        (5, 5, 5, 1, "rated"),
    ],
)
def test_what_a_rating_is_good_for(
    value: float | None, low: float, high: float, coverage: float, expected: str
) -> None:
    assert standing_of(value, low, high, coverage) == expected


# --- Chance ---------------------------------------------------------------------------------------------------------


def reach_only(passing: int, models: int, outcome: Outcome = Outcome.FAIL) -> Stars:
    """The stars of so many models of which so many pass on the one platform, where nothing but that counts."""
    weights = DeploymentWeights(interpreter_free=0, reach=1, strictness=0, latency=0)
    spec = RatingSpec(deployment=weights, platforms={"linux": ("linux-*",)})
    outcomes = [Outcome.PASS] * passing + [outcome] * (models - passing)
    records = [record(f"fw/m{number:03}/onnx/r/linux-x86_64", one) for number, one in enumerate(outcomes)]
    return only(records, spec).deployment


@pytest.mark.parametrize(("passing", "models"), [(0, 14), (1, 1), (9, 14), (14, 14), (180, 200)])
def test_the_interval_of_a_proportion_is_that_of_jeffreys(passing: int, models: int) -> None:
    stars = reach_only(passing, models)
    posterior = beta(passing + 0.5, models - passing + 0.5)
    assert stars.score == pytest.approx(passing / models)
    # 4,000 draws: the standard error of a 2.5% quantile q is sqrt(0.025 * 0.975 / 4000) over the density at q.
    for sampled, share in zip(stars.sampled, (0.025, 0.975), strict=True):
        exact = posterior.ppf(share)
        error = (0.025 * 0.975 / 4000) ** 0.5 / posterior.pdf(exact)
        assert abs(sampled - exact) < 4 * error
    assert stars.low == half_stars(min(passing / models, stars.sampled[0]))
    assert stars.high == half_stars(max(passing / models, stars.sampled[1]))


def test_missing_evidence_and_chance_add_up() -> None:
    stars = reach_only(9, 14, Outcome.NOT_RUN)
    assert stars.bounds == (pytest.approx(9 / 14), 1)
    assert stars.sampled[0] == reach_only(9, 14).sampled[0]
    assert stars.sampled[1] == reach_only(14, 14).sampled[1]
    assert stars.standing == "provisional"


def test_a_rating_of_many_models_that_all_pass_is_no_longer_provisional() -> None:
    assert reach_only(14, 14).standing == "provisional"
    assert reach_only(60, 60).standing == "rated"


def test_repeats_count_by_their_mean_and_widen_the_interval() -> None:
    once = [record(f"fw/m{number}/onnx/r/linux-x86_64") for number in range(8)]
    again = [r.model_copy(update={"run": "s", "started": "2026-11-23"}) for r in once]
    flaky = [r.model_copy(update={"outcome": Outcome.FAIL}) for r in again]
    one, two, torn = (part(only(records).deployment, "reach").value for records in (once, once + again, once + flaky))
    assert (one, two, torn) == (0.25, 0.25, 0.125)
    weights = DeploymentWeights(interpreter_free=0, reach=1, strictness=0, latency=0)
    spec = RatingSpec(deployment=weights, platforms={"linux": ("linux-*",)})
    halves = [r.model_copy(update={"outcome": Outcome.DEGRADED}) for r in once]
    sure, unsure = only(halves, spec).deployment, only(once + flaky, spec).deployment
    assert sure.score == unsure.score == 0.5
    assert unsure.sampled[0] < sure.sampled[0]
    assert unsure.sampled[1] > sure.sampled[1]


# --- Components -----------------------------------------------------------------------------------------------------


def test_nothing_known_is_not_rated_and_anything_is_possible() -> None:
    stars = only([record("fw/mlp/onnx/other/linux-x86_64", Outcome.NOT_RUN)]).deployment
    assert (stars.value, stars.low, stars.high, stars.coverage) == (None, 0, 5, 0)
    assert stars.standing == "not rated"


def test_only_failures_are_zero_stars_and_nothing_is_left_to_find_out() -> None:
    stars = only([record(f"fw/mlp/onnx/other/{target}", Outcome.FAIL) for target in TARGETS]).deployment
    assert (stars.value, stars.bounds, stars.coverage) == (0, (0, 0), 1)


def test_passes_everywhere_are_five_stars_whatever_nobody_measured() -> None:
    stars = only([record(f"fw/mlp/onnx/other/{target}") for target in TARGETS]).deployment
    assert (stars.value, stars.high) == (5, 5)
    assert stars.bounds == (pytest.approx(SPEC.deployment.reach + SPEC.deployment.strictness), 1)


def test_with_all_evidence_the_star_is_the_weighted_mean() -> None:
    facts = {"interpreter_free": False}
    stars = only([record(f"fw/mlp/onnx/r/{target}", facts=facts, latency=latency(10**0.5)) for target in TARGETS])
    assert stars.deployment.score == pytest.approx(0.4 * 1 + 0.3 * 0 + 0.2 * 1 + 0.1 * 0.5)
    assert stars.deployment.bounds == (pytest.approx(0.65), pytest.approx(0.65))
    assert stars.deployment.coverage == 1


def test_the_best_path_and_runtime_of_a_model_counts() -> None:
    records = [
        record("fw/mlp/onnx/a/windows-x86_64", Outcome.FAIL),
        record("fw/mlp/tflite/b/windows-x86_64", Outcome.DEGRADED),
        record("fw/mlp/tflite/c/windows-x86_64", Outcome.XFAIL),
    ]
    reach = part(only(records).deployment, "reach")
    assert reach.low == reach.value == pytest.approx(0.5 / 4)
    assert reach.high == pytest.approx(3.5 / 4)
    assert reach.cells == {Outcome.DEGRADED: 1, Outcome.FAIL: 1, Outcome.XFAIL: 1}
    assert reach.text.startswith("1 of 4 ")


def test_a_part_that_is_not_known_counts_as_the_parts_before_it_do() -> None:
    facts = {"interpreter_free": True}
    records = [record(f"fw/mlp/onnx/r/{target}", facts=facts, comparisons=(compared("loose"),)) for target in TARGETS]
    stars = only(records[:2]).deployment  # both on Linux, one of them on ARM
    reach, strictness, free, speed = (
        part(stars, name) for name in ("reach", "strictness", "interpreter_free", "latency")
    )
    assert (reach.value, free.value, strictness.value) == (0.5, 1, 0)
    assert speed.value == pytest.approx((0.4 * 0.5 + 0.3 * 1 + 0.2 * 0) / 0.9)
    assert (speed.low, speed.high, speed.coverage, speed.assumed) == (0, 1, 0, 1)


def test_slow_models_cost_stars_once_they_are_all_measured() -> None:
    records = [record(f"fw/{model}/onnx/r/linux-x86_64") for model in ("a", "b")]
    slow = [r.model_copy(update={"latency": latency(10)}) for r in records]
    before, after = (part(only(rs).deployment, "latency").value for rs in (records, slow))
    assert before > 0
    assert after == 0


def test_frameworks_are_rated_apart_and_come_by_name() -> None:
    records = [record("b/mlp/onnx/r/browser", Outcome.FAIL), record("a/mlp/onnx/r/browser")]
    first, second = rate(records, SPEC)
    assert (first.framework, second.framework, first.version) == ("a", "b", 2)
    assert part(first.deployment, "strictness").low == 1
    assert part(second.deployment, "strictness").low == 0


def test_no_records_no_ratings() -> None:
    assert rate([], SPEC) == ()


def test_other_weights_rate_old_records_anew_and_nothing_else_does() -> None:
    records = [record(f"fw/mlp/onnx/r/{target}", comparisons=(compared("loose"),)) for target in TARGETS]
    strict = RatingSpec(deployment=DeploymentWeights(interpreter_free=0, reach=0.1, strictness=0.9, latency=0))
    lax = RatingSpec(deployment=DeploymentWeights(interpreter_free=0, reach=0.9, strictness=0.1, latency=0))
    assert only(records, strict).deployment.value == 0.5
    assert only(records, lax).deployment.value == 4.5
    kept = [one.model_copy(deep=True) for one in records]
    assert only(records, strict) == only(kept, strict)
    assert records == kept


def test_the_weights_of_cross_platform_count_too() -> None:
    facts = {"trained_on": "linux-x86_64"}
    records = [record("fw/mlp/native/other/linux-x86_64", stage=Stage.COMPARE, facts=facts)]
    install = RatingSpec(cross_platform=CrossPlatformWeights(install=1, run=0))
    run = RatingSpec(cross_platform=CrossPlatformWeights(install=0, run=1))
    assert only(records, install).cross_platform.score == 0.25
    assert only(records, run).cross_platform.score is None
