"""Linear models with a path in an environment of its own, which says so by a variable."""

import os
from pathlib import Path

import numpy

ENVIRONMENT = {"requirements": ["numpy==" + numpy.__version__]}
ENVIRONMENTS = {"other": {"requirements": ["numpy==" + numpy.__version__], "env": {"ROOM": "other"}}}
PATHS = {
    "native": {"kind": "native", "format": "npz-linear", "batch": "static"},
    "elsewhere": {"kind": "native", "format": "npz-linear", "batch": "static", "environment": "other"},
}


def train(model, data, seed):
    return numpy.random.default_rng(seed).normal(size=(4, 3)).astype(numpy.float32)


def samples(model, rows, seed):
    return {"x": numpy.random.default_rng(seed + 1).normal(size=(rows, 4)).astype(numpy.float32)}


def predict(trained, inputs):
    return {"y": inputs["x"] @ trained}


def export(trained, path, inputs, folder):
    numpy.savez(Path(folder, "model.npz"), weights=trained)
    return {"entry": "model.npz", "facts": {"room": os.environ.get("ROOM", "usual")}}
