"""Integers that are worth nothing: all weights are zero."""

from pathlib import Path

import numpy

ENVIRONMENT = {"requirements": ["numpy==" + numpy.__version__]}
FORMATS = ["npz-linear"]
PRECISIONS = ["int8-dynamic"]


def reduce(artifact, precision, rows, folder):
    with numpy.load(artifact) as arrays:
        numpy.savez(Path(folder, "model.npz"), weights=numpy.zeros_like(arrays["weights"]))
    return {"entry": "model.npz"}
