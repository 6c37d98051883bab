"""Stands in for a runtime inside its worker: passes every call on, and says what a runtime does unseen."""

import os
import sys

import numpy as np

real = sys.modules["__main__"].load_module(os.environ["PORTMATRIX_PROBED"])

load = real.load


def input_names(session):
    names = list(real.input_names(session))
    if not all(isinstance(name, str) for name in names):
        raise TypeError(f"input_names returned {names!r}; expected names")
    return names


def degraded(session):
    why = real.degraded(session)
    if not isinstance(why, str):
        raise TypeError(f"degraded returned {why!r}; expected a reason, or an empty string")
    return why


def run(session, inputs):
    """Run twice: the inputs must stay, the answers must repeat, and the second must not overwrite the first."""
    given = {name: value.copy() for name, value in inputs.items()}
    first = real.run(session, inputs)
    kept = {name: np.array(value, copy=True) for name, value in first.items()}
    second = real.run(session, inputs)
    for name, value in inputs.items():
        if not np.array_equal(value, given[name]):
            raise AssertionError(f"run changed its input {name}")
    for name, value in first.items():
        if not isinstance(value, np.ndarray):
            raise TypeError(f"run returned {name} as a {type(value).__name__}, not as an array")
        if not np.array_equal(value, kept[name]):
            raise AssertionError(f"the second run overwrote what the first had returned as {name}")
        if not np.array_equal(value, second[name]):
            raise AssertionError(f"the second run gave another answer as {name}")
    return first
