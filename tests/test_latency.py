"""Statistics of latency, against scipy and exact enumeration."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from portmatrix import latency
from portmatrix.latency import Blocks


@pytest.mark.parametrize(("quantile", "count"), [(0.5, 11), (0.9, 64), (0.99, 662)])
def test_a_quantile_needs_so_many_samples(quantile: float, count: int) -> None:
    def missed(size: int) -> float:
        """The chance that all of ``size`` samples lie on one side of the quantile: the binomial's two ends."""
        below = stats.binom(size, quantile)
        return float(below.pmf(size) + below.pmf(0))

    assert latency.minimum(quantile) == latency.MINIMUM[quantile] == count
    assert missed(count) <= 1 - latency.CONFIDENCE < missed(count - 1)


@pytest.mark.parametrize("quantile", [0, 1, -0.5, 2])
def test_what_is_no_quantile_is_refused(quantile: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        latency.minimum(quantile)


@pytest.mark.parametrize("freedom", [*range(1, 31), 99, 200, 2000, 2001, 9999])
def test_student_is_scipy_s(freedom: int) -> None:
    assert latency.student(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=7e-4 if freedom > 2000 else 1e-9)


@pytest.mark.parametrize("count", [3, 5, 8, 20])
def test_an_interval_holds_the_mean_as_often_as_it_says(count: int) -> None:
    """Of normal values; three standard errors of 1,500 trials are 1.7%, the rest is the bootstrap's own bias."""
    chance = np.random.default_rng(count)
    held = 0
    for _ in range(1500):
        low, high = latency.interval(list(chance.normal(0.3, 0.02, count)))
        held += low <= 0.3 <= high
    assert 0.925 <= held / 1500 <= 0.968


def test_an_interval_of_few_is_student_s_own() -> None:
    values = [0.01, 0.03, 0.02]
    expected = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert latency.interval(values) == pytest.approx(expected)


def test_an_interval_of_many_is_the_bootstrap_s() -> None:
    values = list(np.random.default_rng(1).exponential(1.0, 60))
    found = latency.interval(values)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(2))
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert found[0] == pytest.approx(theirs.confidence_interval.low, abs=0.06 * width)
    assert found[1] == pytest.approx(theirs.confidence_interval.high, abs=0.06 * width)


def test_one_value_has_no_interval() -> None:
    with pytest.raises(ValueError, match="two values at least"):
        latency.interval([1.0])


def test_equal_values_have_an_interval_without_width() -> None:
    assert latency.interval([0.25] * 4) == (0.25, 0.25)
    assert latency.interval([0.25] * 40) == (0.25, 0.25)


def test_both_orders_occur_and_another_session_has_others() -> None:
    orders = [latency.schedule(8, seed) for seed in range(20)]
    assert {order for made in orders for order in made} == {"ABBA", "BAAB"}
    assert len({tuple(order) for order in orders}) > 10
    assert latency.schedule(8, 3) == latency.schedule(8, 3)


@pytest.mark.parametrize("order", ["ABBA", "BAAB"])
def test_a_drift_cancels_in_either_order(order: str) -> None:
    """Times grow by a hundredth from block to block; candidate and baseline are the same thing."""
    times = [math.exp(0.01 * number) for number in range(4)]
    mine = [[[times[place]] for place, block in enumerate(order) if block == "A"]]
    theirs = [[[times[place]] for place, block in enumerate(order) if block == "B"]]
    assert latency.log_ratios(Blocks(1, 1, 1, mine, theirs)) == pytest.approx([0], abs=1e-12)


def test_a_ratio_is_that_of_medians_and_outliers_do_not_move_it() -> None:
    mine = [[[2.0, 2.0, 900.0], [2.0, 2.0, 2.0]]] * 3
    theirs = [[[1.0, 1.0, 1.0], [1.0, 70.0, 1.0]]] * 3
    found = latency.timing(Blocks(4, 2, 10, mine, theirs))
    assert (found.batch, found.threads, found.inner, found.samples, found.groups) == (4, 2, 10, 18, 3)
    assert (found.ratio, found.low, found.high) == pytest.approx((2, 2, 2))


def test_the_ratio_lies_in_its_interval() -> None:
    chance = np.random.default_rng(5)
    mine = [[list(chance.normal(1.1, 0.02, 30)) for _ in range(2)] for _ in range(6)]
    theirs = [[list(chance.normal(1.0, 0.02, 30)) for _ in range(2)] for _ in range(6)]
    found = latency.timing(Blocks(1, 1, 1, mine, theirs))
    assert found.low is not None
    assert found.ratio is not None
    assert found.high is not None
    assert found.low < found.ratio < found.high
    assert found.low < 1.1 < found.high


@pytest.mark.parametrize("count", [10, 11, 63, 64, 661, 662])
def test_a_quantile_is_published_only_above_its_minimum(count: int) -> None:
    samples = list(np.random.default_rng(0).permutation(np.arange(1.0, count + 1)))
    found = latency.timing(Blocks(1, 1, 1, [[samples]]))
    assert (found.p50 is None) == (count < 11)
    assert (found.p90 is None) == (count < 64)
    assert (found.p99 is None) == (count < 662)
    if found.p50 is not None:
        assert found.p50 == np.median(samples)
    if found.p90 is not None:
        assert found.p90 == np.percentile(samples, 90)


def test_without_a_baseline_there_is_no_ratio() -> None:
    found = latency.timing(Blocks(1, 1, 1, [[[1.0] * 6, [2.0] * 6]] * 2))
    assert (found.ratio, found.low, found.high, found.groups, found.baseline_p50) == (None, None, None, 0, None)


def test_one_group_has_a_ratio_and_no_interval() -> None:
    found = latency.timing(Blocks(1, 1, 1, [[[1.0], [1.0]]], [[[2.0], [2.0]]]))
    assert found.ratio == pytest.approx(0.5)
    assert (found.low, found.high) == (None, None)


def test_an_anchor_drifts_beyond_a_tenth_either_way() -> None:
    anchors = {"copy": (1.0, 1.09), "scalar": (1.0, 1.2), "gemm_f32": (1.0, 0.85), "gemm_i8": (1.0, 1.0)}
    assert latency.drifted(anchors) == ["scalar +20%", "gemm_f32 -15%"]
