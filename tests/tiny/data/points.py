"""Points in the plane, labelled by the side of a line that they are on."""

from typing import NamedTuple

import numpy

FILES = []
VIEWS = ["plane"]
TARGETS = ["side"]


class Points(NamedTuple):
    train_x: dict
    train_y: numpy.ndarray
    test_x: dict
    test_y: numpy.ndarray


def load(view, target, layout):
    x = numpy.random.default_rng(3).normal(size=(300, 2)).astype(numpy.float32)
    y = (x[:, 0] > x[:, 1]).astype(numpy.int64)
    return Points({"x": x[:200]}, y[:200], {"x": x[200:]}, y[200:])
