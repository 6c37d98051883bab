"""Trends: which number is followed, where it steps, and by how much."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest
from made_history import FIRST

from portmatrix.history.queries import Point, Series
from portmatrix.history.trends import WINDOW, trend


def series(values: list[float], *, ratio: bool = True, unstable: frozenset[int] = frozenset()) -> Series:
    points = tuple(
        Point(
            FIRST.replace(tzinfo=None) + timedelta(days=day),
            f"run-{day}",
            p50=0.001 if ratio else value,
            ratio=value if ratio else None,
            low=value * 0.99 if ratio else None,
            high=value * 1.01 if ratio else None,
            unstable=day in unstable,
        )
        for day, value in enumerate(values)
    )
    return Series("f/m/p/r/t", "a processor", 1, 1, "f/m/p/b/t" if ratio else "", points)


def around(level: float, count: int, seed: int) -> list[float]:
    return (level * np.exp(np.random.default_rng(seed).normal(0, 0.01, count))).tolist()


@pytest.mark.parametrize("ratio", [True, False])
def test_a_planted_slowdown_is_found_on_its_day(ratio: bool) -> None:
    found = trend(series([*around(1.2, 30, 0), *around(1.32, 20, 1)], ratio=ratio))
    assert found.measure == ("ratio" if ratio else "p50")
    (shift,) = found.shifts
    assert shift.run == "run-30"
    assert shift.change == pytest.approx(0.1, abs=0.01)
    assert (shift.before, shift.after) == (pytest.approx(1.2, rel=0.01), pytest.approx(1.32, rel=0.01))


def test_unstable_measurements_make_no_step() -> None:
    values = [*around(1.0, 20, 0), *around(2.0, 20, 1)]
    assert trend(series(values)).shifts
    assert not trend(series(values, unstable=frozenset(range(20, 40)))).shifts
    assert not trend(series(values, unstable=frozenset(range(40)))).shifts


def test_only_the_last_measurements_are_looked_at() -> None:
    old_step = [*around(1.0, 50, 0), *around(2.0, WINDOW, 1)]
    assert not trend(series(old_step)).shifts
    assert trend(series(old_step[:-10])).shifts


def test_a_series_without_values_has_no_trend() -> None:
    assert not trend(series([])).shifts
