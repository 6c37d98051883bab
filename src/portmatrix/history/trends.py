"""Latency over time: which of its numbers is followed, and where it took a step."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Literal, NamedTuple

from portmatrix import steps
from portmatrix.history.queries import Point, Series

#: The last measurements of a series that steps are looked for in: the work grows with their square.
WINDOW = 256


class Shift(NamedTuple):
    """A step of a trend: the first measurement after it, the medians on both sides, and the p-value of the test."""

    started: datetime
    run: str
    before: float
    after: float
    p: float

    @property
    def change(self) -> float:
        """By which share of what it was before it became more (positive: slower)."""
        return self.after / self.before - 1


class Trend(NamedTuple):
    """A series with what is followed of it: ``ratio`` where every measurement has one, else ``p50`` in seconds."""

    series: Series
    measure: Literal["ratio", "p50"]
    shifts: tuple[Shift, ...]

    def value(self, point: Point) -> float | None:
        """Return the followed number of a measurement."""
        return point.ratio if self.measure == "ratio" else point.p50


def trend(series: Series) -> Trend:
    """Return a series with its steps, looked for in logarithms, so that a third less and half more weigh the same.

    Measurements that their anchors call unstable are shown, but are not looked at for steps.
    """
    stable = [point for point in series.points if not point.unstable]
    by_ratio = all(point.ratio is not None for point in stable or series.points)
    found = Trend(series, "ratio" if by_ratio else "p50", ())
    followed = [(point, value) for point in stable if (value := found.value(point)) is not None and value > 0][-WINDOW:]
    shifts = (
        Shift(
            followed[step.at][0].started, followed[step.at][0].run, math.exp(step.before), math.exp(step.after), step.p
        )
        for step in steps.steps([math.log(value) for _, value in followed])
    )
    return found._replace(shifts=tuple(shifts))
