"""Steps in a series of measurements: where its distribution changed, by how much, and how sure that is.

The method is E-divisive (Matteson and James, *A Nonparametric Approach for Multiple Change Point Analysis of
Multivariate Data*, JASA 109, 2014) for one dimension and exponent 1, with the second part of every division reaching to
the end of what is divided. It assumes neither a shape of the distribution nor equal variances; it does assume that
values within a stretch are exchangeable. ``docs/history.md`` says what that means here.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

#: Fewest values on either side of a step: with less, one odd session would be one.
LEAST = 5
#: Permutations of a test. The smallest p-value is one over one more than these.
PERMUTATIONS = 499
#: A division is a step where its p-value is at most this.
LEVEL = 0.01

Values = NDArray[np.float64]


class Step(NamedTuple):
    """A change of the distribution: ``at`` is the index of the first value after it.

    ``before`` and ``after`` are the medians of the stretches on both sides of it, up to the next step or the end;
    ``p`` is the p-value of the permutation test that found it.
    """

    at: int
    before: float
    after: float
    p: float


def steps(values: Sequence[float], *, level: float = LEVEL, permutations: int = PERMUTATIONS) -> list[Step]:
    """Return the steps in a series of finite numbers, in the order of the series.

    What is divided is divided again, on both sides of the step, until no part has a significant one. Equal series give
    equal steps: the permutations are drawn with a fixed seed.
    """
    series = np.asarray(values, dtype=np.float64)
    chance = np.random.default_rng(0)
    found: dict[int, float] = {}
    parts = [(0, len(series))]
    while parts:
        start, end = parts.pop()
        if end - start < 2 * LEAST:
            continue
        at, p = divide(series[start:end], chance, level=level, permutations=permutations)
        if p <= level:
            found[start + at] = p
            parts += [(start, start + at), (start + at, end)]
    return _described(series, found)


def divide(
    part: Values, chance: np.random.Generator, *, level: float = LEVEL, permutations: int = PERMUTATIONS
) -> tuple[int, float]:
    """Return where ``part`` is divided best, and the p-value of that; ``part`` has at least ``2 * LEAST`` values.

    The p-value is (1 + permutations that divide at least as well) / (1 + permutations). Where it is sure to exceed
    ``level``, fewer are drawn, and what is returned is a lower bound of it that exceeds ``level``.
    """
    distances = np.abs(part[:, None] - part[None, :])
    observed = energies(distances)
    at = int(np.argmax(observed))
    # Sums of the same distances in another order differ in their last digits; a tie counts against the step.
    best = observed[at] * (1 - 1e-9)
    as_good = drawn = 0
    while drawn < permutations and (1 + as_good) / (1 + permutations) <= level:
        order = chance.permutation(len(part))
        shuffled = distances.take(order, axis=0).take(order, axis=1)
        as_good += bool(energies(shuffled).max() >= best)
        drawn += 1
    return at + LEAST, (1 + as_good) / (1 + permutations)


def energies(distances: Values) -> Values:
    """Return the energy statistic of every division of a series, given its distances (n x n).

    Of element ``k`` the first ``LEAST + k`` values are set against the others. The statistic of n and m values is
    nm / (n + m) * (2 E|X - Y| - E|X - X'| - E|Y - Y'|), the means taken over all pairs, each value with itself among
    them (Szekely and Rizzo, *Testing for Equal Distributions in High Dimension*, 2004). It is never negative.
    """
    length = len(distances)
    # Distances of each value to those before it: adding them up gives all pairs within a beginning.
    to_earlier = np.einsum("ij,ij->j", distances, _upper(length))
    within_left = np.cumsum(to_earlier)
    within_right = within_left[-1] - np.cumsum(distances.sum(axis=0) - to_earlier)
    left = np.arange(LEAST, length - LEAST + 1)
    right = length - left
    inner_left, inner_right = within_left[left - 1], within_right[left - 1]
    between = within_left[-1] - inner_left - inner_right
    distance = 2 * between / (left * right) - 2 * inner_left / left**2 - 2 * inner_right / right**2
    statistic: Values = left * right / length * distance
    return np.maximum(statistic, 0.0)


@functools.lru_cache(maxsize=4)
def _upper(length: int) -> Values:
    """Return ones above the diagonal and zeros elsewhere: multiplying by it is what a test spends its time on."""
    return np.triu(np.ones((length, length)))


def _described(series: Values, found: dict[int, float]) -> list[Step]:
    edges = [0, *sorted(found), len(series)]
    medians = [float(np.median(series[start:end])) for start, end in pairwise(edges) if end > start]
    return [Step(at, medians[number], medians[number + 1], found[at]) for number, at in enumerate(sorted(found))]
