"""Stands in for an exporter inside its worker: passes every call on, and says what an exporter does unseen."""

import os
import sys

import numpy as np

# The worker's own way of loading, under the name that the plug-in always has: some frameworks store that name.
real = sys.modules["__main__"].load_module(os.environ["PORTMATRIX_PROBED"])

#: Where an exporter may write: the worker's own folder, and what each export is given.
allowed = [os.path.realpath(os.environ["HOME"])]
outside = []
watching = [False]


def watch(event, arguments):
    """Note every file that Python opens for writing, makes, moves or removes elsewhere; byte code is Python's own."""
    if not watching[0] or event not in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink"):
        return
    if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
        return
    for path in arguments[:2]:
        if isinstance(path, (str, bytes, os.PathLike)) and not (event == "open" and path is arguments[1]):
            place = os.path.realpath(os.fsdecode(path))
            inside = any(place == folder or place.startswith(folder + os.sep) for folder in allowed)
            if not inside and place != os.devnull and "__pycache__" not in place:
                outside.append(f"{event} {place}")


if hasattr(sys, "addaudithook"):  # Python 3.8 and later
    sys.addaudithook(watch)


def train(model, data, seed):
    return real.train(model, data, seed)


def predict(trained, inputs):
    given = {name: value.copy() for name, value in inputs.items()}
    made = real.predict(trained, inputs)
    for name, value in inputs.items():
        if not np.array_equal(value, given[name]):
            raise AssertionError(f"predict changed its input {name}")
    for name, value in made.items():
        if not isinstance(value, np.ndarray):
            raise TypeError(f"predict returned {name} as a {type(value).__name__}, not as an array")
    return made


def export(trained, path, inputs, folder):
    del outside[:]
    allowed[1:] = [os.path.realpath(folder)]
    watching[0] = True
    try:
        made = real.export(trained, path, inputs, folder)
    finally:
        watching[0] = False
    if outside:
        raise AssertionError("export touched files outside its folder: " + ", ".join(outside))
    return made
