"""Notes each execution in a file, and waits at number N while there is a file `hold-N`."""

import time
from pathlib import Path

import numpy

ENVIRONMENTS = {"": {"requirements": ["numpy==" + numpy.__version__]}}
FORMATS = ["npz-linear", "npz-graph"]
HERE = Path(__file__).parent


def note(text):
    with (HERE / "executed").open("a") as stream:
        stream.write(text + "\n")
    number = len((HERE / "executed").read_text().splitlines())
    while (HERE / f"hold-{number}").exists():
        time.sleep(0.02)


def load(entry, format, signature, threads):
    with numpy.load(entry) as arrays:
        bundle = Path(entry).parents[1].name
        return {"weights": arrays["weights"], "bundle": bundle, "noted": False}


def input_names(session):
    return ["x"]


def run(session, inputs):
    if not session["noted"]:
        session["noted"] = True
        note(session["bundle"])
    return {"y": inputs["x"] @ session["weights"]}


def degraded(session):
    return ""
