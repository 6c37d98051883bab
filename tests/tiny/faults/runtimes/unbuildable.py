"""Is no good: it needs a package that is nowhere."""

import numpy

ENVIRONMENTS = {"": {"requirements": ["numpy==" + numpy.__version__, "portmatrix-no-such-package==1.0"]}}
FORMATS = ["npz-linear"]


def load(entry, format, signature, threads):
    with numpy.load(entry) as arrays:
        return arrays["weights"]


def input_names(session):
    return ["x"]


def run(session, inputs):
    return {"y": inputs["x"] @ session}


def degraded(session):
    return ""
