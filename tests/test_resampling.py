"""The draws, against the distributions that they are said to have."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta, kstest

from portmatrix import resampling


@pytest.mark.parametrize(("successes", "models", "units"), [(0, 5, 1), (3, 5, 4), (14, 14, 13), (1, 2, 1)])
def test_the_smoothed_mean_of_a_proportion_is_beta_with_jeffreys_prior(successes: int, models: int, units: int) -> None:
    worth = np.array([1.0] * successes + [0.0] * (models - successes)) * units
    means = resampling.smoothed_mean(worth, np.full(models, float(units)))
    assert kstest(means, beta(successes + 0.5, models - successes + 0.5).cdf).pvalue > 0.01


@pytest.mark.parametrize(("values", "law"), [([1, 0], beta(1, 1)), ([1, 0, 1], beta(2, 1)), ([0, 1, 0, 0], beta(1, 3))])
def test_the_mean_of_repeats_is_drawn_as_the_bayesian_bootstrap_has_it(values: list[float], law: object) -> None:
    weights = np.stack([resampling.repeat_weights(1, f"run {n}")[:, 0] for n in range(len(values))], axis=1)
    means = resampling.weighted_mean(np.array(values, dtype=float), weights)
    assert kstest(means, law.cdf).pvalue > 0.01  # type: ignore[attr-defined]


def test_both_levels_together_have_the_variance_that_follows() -> None:
    """One model, two runs of which one fails: W B + (1 - W) V with W and B uniform, V of Beta(1/2, 1/2)."""
    weights = np.stack([resampling.repeat_weights(1, run)[:, 0] for run in ("a", "b")], axis=1)
    repeats = resampling.weighted_mean(np.array([1.0, 0.0]), weights)
    means = resampling.smoothed_mean(repeats[:, None], np.ones(1))
    exact = 1 / 3 * 1 / 12 + 1 / 3 * 1 / 8
    assert np.mean(means) == pytest.approx(0.5, abs=4 * (exact / len(means)) ** 0.5)
    assert np.var(means) == pytest.approx(exact, rel=0.08)


def test_models_with_more_units_weigh_more() -> None:
    few, many = np.array([1.0, 0.0]), np.array([1.0, 9.0])
    assert np.mean(resampling.smoothed_mean(few, many)) < 0.3


def test_a_larger_worth_never_gives_a_smaller_mean_in_any_draw() -> None:
    counts = np.full(6, 4.0)
    worth = np.array([4.0, 3.0, 0.0, 2.0, 1.0, 4.0])
    less = resampling.smoothed_mean(worth, counts)
    more = resampling.smoothed_mean(worth + np.array([0, 0, 1, 0, 0, 0]), counts)
    assert (more > less).all()


def test_draws_are_the_same_every_time_and_those_of_runs_depend_on_their_names_alone() -> None:
    first, run = resampling.draws(7).models.copy(), resampling.repeat_weights(7, "monday").copy()
    resampling.draws.cache_clear()
    resampling.repeat_weights.cache_clear()
    resampling.repeat_weights(7, "tuesday")
    assert (resampling.draws(7).models == first).all()
    assert (resampling.repeat_weights(7, "monday") == run).all()
    assert not (resampling.repeat_weights(7, "tuesday") == run).any()


def test_the_ends_hold_95_percent() -> None:
    means = np.arange(10_001) / 10_000
    assert (resampling.low_end(means), resampling.high_end(means)) == (pytest.approx(0.025), pytest.approx(0.975))
