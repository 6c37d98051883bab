"""Reads address 0 in the first cell that it gets, ever."""

import ctypes
from pathlib import Path

import numpy

ENVIRONMENTS = {"": {"requirements": ["numpy==" + numpy.__version__]}}
FORMATS = ["npz-linear"]
MARK = Path(__file__).with_name("segfaulted")


def load(entry, format, signature, threads):
    with numpy.load(entry) as arrays:
        return arrays["weights"]


def input_names(session):
    return ["x"]


def run(session, inputs):
    if not MARK.exists():
        MARK.touch()
        ctypes.string_at(0)
    return {"y": inputs["x"] @ session}


def degraded(session):
    return ""
