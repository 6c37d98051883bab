"""Answers whether it is degraded with what is no text."""

import numpy

ENVIRONMENTS = {"": {"requirements": ["numpy==" + numpy.__version__]}}
FORMATS = ["npz-linear"]


def load(entry, format, signature, threads):
    with numpy.load(entry) as arrays:
        return arrays["weights"]


def input_names(session):
    return ["x"]


def run(session, inputs):
    return {"y": inputs["x"] @ session}


def degraded(session):
    return 42
