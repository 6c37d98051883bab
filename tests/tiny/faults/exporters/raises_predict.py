"""Fails to predict."""

from pathlib import Path

import numpy

ENVIRONMENT = {"requirements": ["numpy==" + numpy.__version__]}
PATHS = {"native": {"kind": "native", "format": "npz-linear", "batch": "static"}}


def train(model, data, seed):
    return numpy.ones((4, 3), numpy.float32)


def samples(model, rows, seed):
    return {"x": numpy.ones((rows, 4), numpy.float32)}


def predict(trained, inputs):
    raise ValueError("no forward pass")


def export(trained, path, inputs, folder):
    numpy.savez(Path(folder, "model.npz"), weights=trained)
    return {"entry": "model.npz"}
