"""Latency from raw samples: in which order blocks run, quantiles that there are samples enough for, and the ratio to
the baseline with its interval. Sees no clock: what is timed, and how, is the worker's and ``measure``'s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from portmatrix.types import Timing

#: How sure a quantile must be to lie within the samples at all: three standard deviations on one side of a normal
#: distribution, to four places.
CONFIDENCE = 0.9987
#: An anchor that changes by more than this share between before and after makes a measurement unstable.
DRIFT = 0.1
RESAMPLES = 4000
_LEVEL = 0.95
#: Of how many groups on the 97.5% quantile of Student's t is taken for that of the normal distribution.
_MANY = 2000


def minimum(quantile: float) -> int:
    """Return how many samples a quantile needs.

    Whatever the distribution, each sample lies below its q-quantile with probability q: all n of them miss it on the
    one side with ``q^n`` and on the other with ``(1-q)^n``. The least n for which the quantile is between the smallest
    and the largest sample with ``CONFIDENCE`` is 11 for p50, 64 for p90 and 662 for p99 (distribution-free intervals
    from order statistics: H. A. David, H. N. Nagaraja, Order Statistics, 3rd ed. 2003, section 7.1; S. S. Wilks, 1941).
    Raises ``ValueError`` for a quantile that is not between 0 and 1.
    """
    if not 0 < quantile < 1:
        raise ValueError(f"a quantile lies between 0 and 1; got {quantile}")
    count = 1
    while 1 - quantile**count - (1 - quantile) ** count < CONFIDENCE:
        count += 1
    return count


#: The quantiles that are published, and how many samples each needs.
MINIMUM: Mapping[float, int] = {quantile: minimum(quantile) for quantile in (0.5, 0.9, 0.99)}


def schedule(groups: int, seed: int) -> list[str]:
    """Return for each group its four blocks, ``ABBA`` or ``BAAB`` by chance: A is the candidate, B the baseline.

    In either order what drifts linearly during a group cancels in its ratio.
    """
    chance = np.random.default_rng(seed)
    return ["ABBA" if chance.random() < 0.5 else "BAAB" for _ in range(groups)]


class Blocks(NamedTuple):
    """The samples of one way of calling, by group: for each block of a group, seconds for each sample."""

    batch: int
    threads: int
    inner: int
    candidate: Sequence[Sequence[Sequence[float]]]
    baseline: Sequence[Sequence[Sequence[float]]] = ()


def log_ratios(blocks: Blocks) -> list[float]:
    """Return for each group the logarithm of candidate over baseline; the medians of blocks stand for their samples."""
    return [
        _log_median(mine) - _log_median(theirs)
        for mine, theirs in zip(blocks.candidate, blocks.baseline, strict=False)
        if mine and theirs
    ]


def _log_median(blocks: Sequence[Sequence[float]]) -> float:
    return float(np.mean([math.log(float(np.median(block))) for block in blocks]))


def interval(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """Return the 95% interval of the mean of ``values``, by the bootstrap; raises ``ValueError`` for fewer than two.

    Percentiles of resampled means, taken further out for few values: at ``Phi(-t sqrt(n / (n-1)))``, t being Student's
    quantile of n-1 degrees of freedom, without which four groups would give an interval of about 78% (the *expanded
    percentile interval*: T. Hesterberg, What Teachers Should Know About the Bootstrap, 2015, section 5.3). With few
    values those lie beyond what resampling can reach; then the interval is Student's own.
    """
    count = len(values)
    if count < 2:
        raise ValueError(f"an interval needs two values at least; got {count}")
    array = np.asarray(values, dtype=np.float64)
    reach = student(count - 1) * math.sqrt(count / (count - 1))
    tail = NormalDist().cdf(-reach)
    if tail < 10 / RESAMPLES:
        half = student(count - 1) * float(array.std(ddof=1)) / math.sqrt(count)
        return float(array.mean()) - half, float(array.mean()) + half
    chosen = np.random.default_rng(seed).integers(0, count, (RESAMPLES, count))
    low, high = np.quantile(array[chosen].mean(axis=1), [tail, 1 - tail])
    return float(low), float(high)


def student(freedom: int) -> float:
    """Return the 97.5% quantile of Student's t; ``freedom`` are its degrees of freedom.

    Found by bisection on the distribution function, which is summed as for whole degrees of freedom (M. Abramowitz,
    I. A. Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4).
    """
    if freedom > _MANY:
        return NormalDist().inv_cdf((1 + _LEVEL) / 2)
    low, high = 0.0, 20.0
    while high - low > 1e-12:
        middle = (low + high) / 2
        if _within(middle, freedom) < _LEVEL:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _within(value: float, freedom: int) -> float:
    """Return the probability that Student's t lies between ``-value`` and ``value``."""
    angle = math.atan(value / math.sqrt(freedom))
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = term if freedom > 1 else 0.0
    for step in range(2 + odd, freedom, 2):
        term *= (step - 1) / step * math.cos(angle) ** 2
        total += term
    if odd:
        return 2 / math.pi * (angle + math.sin(angle) * total)
    return math.sin(angle) * total


def timing(blocks: Blocks) -> Timing:
    """Return what is published of one way of calling: quantiles of raw samples, and the ratio where there is one."""
    samples = _all(blocks.candidate)
    ratios = log_ratios(blocks)
    found = {quantile: _quantile(samples, quantile) for quantile in MINIMUM}
    update: dict[str, float | int | None] = {}
    if ratios:
        update = {"ratio": math.exp(float(np.mean(ratios))), "groups": len(ratios)}
        update["baseline_p50"] = _quantile(_all(blocks.baseline), 0.5)
    if len(ratios) > 1:
        low, high = interval(ratios)
        update |= {"low": math.exp(low), "high": math.exp(high)}
    made = Timing(
        batch=blocks.batch,
        threads=blocks.threads,
        inner=blocks.inner,
        samples=len(samples),
        p50=found[0.5],
        p90=found[0.9],
        p99=found[0.99],
    )
    return made.model_copy(update=update)


def _all(groups: Sequence[Sequence[Sequence[float]]]) -> list[float]:
    return [sample for group in groups for block in group for sample in block]


def _quantile(samples: Sequence[float], quantile: float) -> float | None:
    """Return a quantile of raw samples, or None where there are too few."""
    if len(samples) < MINIMUM[quantile]:
        return None
    return float(np.quantile(np.asarray(samples), quantile))


def drifted(anchors: Mapping[str, tuple[float, float]]) -> list[str]:
    """Return which anchors changed by more than ``DRIFT`` between before and after, with by how much."""
    return [
        f"{name} {after / before - 1:+.0%}"
        for name, (before, after) in anchors.items()
        if abs(after / before - 1) > DRIFT
    ]
