"""Runs rightly, and sleeps a moment each time; its own caller sleeps three times as long."""

import time

import numpy

ENVIRONMENTS = {"": {"requirements": ["numpy==" + numpy.__version__]}}
FORMATS = ["npz-linear", "npz-graph"]


def load(entry, format, signature, threads):
    with numpy.load(entry) as arrays:
        return arrays["weights"]


def input_names(session):
    return ["x"]


def run(session, inputs):
    time.sleep(0.001)
    return {"y": inputs["x"] @ session}


def caller(session, inputs):
    return lambda count: time.sleep(0.003 * count)


def degraded(session):
    return ""
