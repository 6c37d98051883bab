"""Is off by one part in a thousand."""

import numpy

ENVIRONMENTS = {"": {"requirements": ["numpy==" + numpy.__version__]}}
FORMATS = ["npz-linear"]


def load(entry, format, signature, threads):
    with numpy.load(entry) as arrays:
        return arrays["weights"]


def input_names(session):
    return ["x"]


def run(session, inputs):
    return {"y": (inputs["x"] @ session) * numpy.float32(1.001)}


def degraded(session):
    return ""
