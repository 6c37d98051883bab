"""Tells what it can see of the machine and the engine."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy

ENVIRONMENTS = {"": {"requirements": ["numpy==" + numpy.__version__], "env": {"DECLARED": "yes"}}}
FORMATS = ["npz-linear"]


def load(entry, format, signature, threads):
    with numpy.load(entry) as arrays:
        return arrays["weights"]


def input_names(session):
    return ["x"]


def run(session, inputs):
    return {"y": inputs["x"] @ session}


def degraded(session):
    try:
        found = importlib.import_module("pip").__file__
    except ImportError:
        found = None
    command = [sys.executable, "-m", "pip", "--version"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    seen = {"pip": found, "status": done.returncode, "environment": dict(os.environ), "folder": str(Path.cwd())}
    return json.dumps(seen)
