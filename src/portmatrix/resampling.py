"""The chance in a rating: what other models, and other runs of the same models, could have made of the same mean."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

#: How many draws, of what, and how much of them an interval holds.
DRAWS = 4000
SEED = 2016
LEVEL = 0.95

Floats = NDArray[np.float64]


class Draws(NamedTuple):
    """Random weights, equal for equal numbers of models: ``models`` DRAWS x models, ``prior`` DRAWS x 2 (1 and 0)."""

    models: Floats
    prior: Floats


@lru_cache(maxsize=64)
def draws(models: int) -> Draws:
    """Return the weights of ``models`` models and of the prior's success and failure.

    Bayesian bootstrap (D. B. Rubin, Annals of Statistics 9, 1981): each model weighs Gamma(1), which after division by
    their sum is Dirichlet(1, ..., 1). A success and a failure that weigh Gamma(1/2) each are Jeffreys' prior: of k
    models that are worth 1 and n - k that are worth 0 the weighted mean is Beta(k + 1/2, n - k + 1/2), exactly.
    """
    generator = np.random.default_rng(SEED)
    prior = generator.standard_gamma(0.5, (DRAWS, 2))
    return Draws(generator.standard_exponential((DRAWS, models)), prior)


@lru_cache(maxsize=256)
def repeat_weights(models: int, run: str) -> Floats:
    """Return DRAWS x ``models`` weights of a run: within each drawn model, its runs are drawn again.

    They depend on the run's name and on no other run, so that a run that is added or lost changes no other's.
    """
    return np.random.default_rng([SEED, crc32(run.encode())]).standard_exponential((DRAWS, models))


def weighted_mean(values: Floats, weights: Floats) -> Floats:
    """Return the mean of ``values`` (n) under each row of ``weights`` (DRAWS x n), as DRAWS numbers.

    With weights of ``repeat_weights`` that is the Bayesian bootstrap of the mean.
    """
    mean: Floats = weights @ values / weights.sum(axis=1)
    return mean


def smoothed_mean(sums: Floats, counts: Floats) -> Floats:
    """Return DRAWS means of the units of all models: ``sums`` of their worth and ``counts`` of them, per model.

    ``sums`` is of shape (models) or, where repeats were drawn, DRAWS x models. The prior's success and failure have as
    many units as a model has on average. Under equal draws a larger worth never gives a smaller mean, so that what
    holds for every single draw holds for quantiles over them.
    """
    drawn = draws(len(counts))
    prior = drawn.prior * counts.mean()
    worth = (drawn.models * sums).sum(axis=1) + prior[:, 0]
    mean: Floats = worth / (drawn.models @ counts + prior.sum(axis=1))
    return mean


def low_end(means: Floats) -> float:
    """Return the lower end of the equal-tailed interval of ``LEVEL`` over draws."""
    return float(np.quantile(means, (1 - LEVEL) / 2))


def high_end(means: Floats) -> float:
    """Return the upper end of it."""
    return float(np.quantile(means, (1 + LEVEL) / 2))
