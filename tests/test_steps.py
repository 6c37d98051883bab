"""Steps: the statistic against its definition, its test against every permutation, and what is found in series."""

from __future__ import annotations

import itertools
import statistics
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portmatrix import steps
from portmatrix.steps import LEAST, PERMUTATIONS, divide, energies

small = st.integers(-50, 50).map(float)


def energy(left: list[float], right: list[float]) -> Fraction:
    """The statistic of one division, from its definition, in exact arithmetic."""

    def mean(ones: list[float], others: list[float]) -> Fraction:
        pairs = [abs(Fraction(one) - Fraction(other)) for one in ones for other in others]
        return Fraction(sum(pairs), len(pairs))

    distance = 2 * mean(left, right) - mean(left, left) - mean(right, right)
    return Fraction(len(left) * len(right), len(left) + len(right)) * distance


def best(values: tuple[float, ...] | list[float], least: int) -> Fraction:
    whole = list(values)
    return max(energy(whole[:at], whole[at:]) for at in range(least, len(whole) - least + 1))


@given(st.lists(small, min_size=2 * LEAST, max_size=20))
def test_the_statistic_is_that_of_its_definition(values: list[float]) -> None:
    series = np.array(values)
    found = energies(np.abs(series[:, None] - series[None, :]))
    divisions = range(LEAST, len(values) - LEAST + 1)
    wanted = [float(energy(values[:at], values[at:])) for at in divisions]
    assert found == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize(
    "values",
    [[1.0, 1.2, 0.9, 2.1, 2.0, 2.3, 2.2], [3.0, 1.0, 4.0, 1.5, 5.0, 9.0, 2.0], [1.0, 1.0, 1.0, 1.0, 5.0, 5.0, 5.0]],
)
def test_the_p_value_is_that_of_all_permutations(values: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "LEAST", 2)
    observed = best(values, 2)
    everything = [best(order, 2) >= observed for order in itertools.permutations(values)]
    exact = sum(everything) / len(everything)
    drawn = 4000
    _, p = divide(np.array(values), np.random.default_rng(1), level=1.0, permutations=drawn)
    # Four standard deviations of the share of as many draws.
    assert p == pytest.approx(exact, abs=4 * (exact * (1 - exact) / drawn) ** 0.5 + 1 / drawn)


def test_drawing_fewer_permutations_never_changes_the_verdict() -> None:
    chance = np.random.default_rng(5)
    for number in range(60):
        series = chance.normal(size=24)
        series[12:] += number % 4 * 0.5
        _, early = divide(series, np.random.default_rng(number), level=0.05, permutations=199)
        _, whole = divide(series, np.random.default_rng(number), level=1.0, permutations=199)
        assert (early <= 0.05) == (whole <= 0.05)
        assert early == whole if early <= 0.05 else early <= whole


def test_a_step_is_found_where_it_is_with_its_medians() -> None:
    chance = np.random.default_rng(0)
    series = np.concatenate([chance.normal(1.0, 0.01, 40), chance.normal(1.1, 0.01, 30)])
    (found,) = steps.steps(series.tolist())
    assert found.at == 40
    assert found.before == statistics.median(series[:40])
    assert found.after == statistics.median(series[40:])
    assert found.p == 1 / (1 + PERMUTATIONS)


def test_a_bump_has_two_steps_and_a_wider_spread_is_one() -> None:
    chance = np.random.default_rng(3)
    bump = np.concatenate([chance.normal(level, 0.02, 30) for level in (1.0, 1.2, 1.0)])
    assert [step.at for step in steps.steps(bump.tolist())] == [30, 60]
    spread = np.concatenate([chance.normal(1.0, 0.01, 60), chance.normal(1.0, 0.5, 60)])
    found = steps.steps(spread.tolist())
    assert found
    assert abs(found[0].at - 60) <= 5


def test_without_a_step_one_is_found_as_rarely_as_the_level_says() -> None:
    chance = np.random.default_rng(11)
    found = sum(bool(steps.steps(chance.standard_exponential(40).tolist(), level=0.05)) for _ in range(400))
    # 20 are expected of 400; above 36 is less likely than 1 in 2000.
    assert 5 <= found <= 36


@pytest.mark.parametrize("values", [[], [1.0], [1.0] * 9, [1.0] * 30, [1.0] * (LEAST - 1) + [9.0]])
def test_too_few_or_equal_values_have_no_step(values: list[float]) -> None:
    assert steps.steps(values) == []


@settings(max_examples=30)
@given(st.lists(small, max_size=40), st.sampled_from([0.25, 2.0, 1024.0]), st.integers(-9, 9))
def test_units_do_not_matter(values: list[float], scale: float, shift: int) -> None:
    # Powers of two, so that rounding is the same, too.
    moved = [(value + shift) * scale for value in values]
    assert [step.at for step in steps.steps(moved)] == [step.at for step in steps.steps(values)]
