"""Ends its process as if all were well."""

import os

import numpy

ENVIRONMENTS = {"": {"requirements": ["numpy==" + numpy.__version__]}}
FORMATS = ["npz-linear"]


def load(entry, format, signature, threads):
    with numpy.load(entry) as arrays:
        return arrays["weights"]


def input_names(session):
    return ["x"]


def run(session, inputs):
    os._exit(0)


def degraded(session):
    return ""
