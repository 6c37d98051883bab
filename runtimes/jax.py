"""JAX itself running the StableHLO that it exported: ``jax.export`` reads it back, XLA compiles it for the CPU."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

Arrays = dict[str, Any]

ENVIRONMENTS = {
    "": {
        "python": ">=3.11,<3.14",
        "requirements": ["jax==0.10.2", "jaxlib==0.10.2", "flatbuffers==25.12.19", "numpy==2.4.6", "ml_dtypes==0.6.0"],
        "env": {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "-1"},
    }
}
FORMATS = ("stablehlo",)
#: How many threads XLA has in this process: it asks once, when the first program is compiled.
_asked: list[int] = []


class Session(NamedTuple):
    """The names of the inputs in order, and the program, compiled anew for every shape that it has not yet seen."""

    inputs: list[str]
    call: Callable[..., Mapping[str, Any]]


def load(entry: str, format: str, signature: Mapping[str, Any], threads: int) -> Session:
    """Read ``model.jax`` in the folder ``entry`` to run on ``threads`` threads, 0 for all processors.

    Raises ``RuntimeError`` if XLA already runs with another number of threads in this process, ``ValueError`` for a
    file that is none or is of a version that this JAX does not read.
    """
    _limit(threads)
    import jax
    import jax.export

    exported = jax.export.deserialize(bytearray((Path(entry) / "model.jax").read_bytes()))
    return Session([tensor["name"] for tensor in signature["inputs"]], jax.jit(exported.call))


def input_names(session: Session) -> Sequence[str]:
    """Return the reference's names of the inputs: the file knows their order only."""
    return session.inputs


def run(session: Session, inputs: Arrays) -> Arrays:
    """Return copies of all outputs by the names that the file gives them."""
    import numpy as np

    result = session.call(*(inputs[name] for name in session.inputs))
    return {name: np.array(value) for name, value in result.items()}


def degraded(session: Session) -> str:
    """Return an empty string: XLA compiles the whole program for the CPU or refuses it."""
    return ""


def caller(session: Session, inputs: Arrays) -> Callable[[int], None]:
    """Return a function that runs the session so many times, each to its end: JAX returns before it has computed."""
    import jax

    values = [inputs[name] for name in session.inputs]

    def call(times: int) -> None:
        for _ in range(times):
            jax.block_until_ready(session.call(*values))

    return call


def _limit(threads: int) -> None:
    """Tell XLA how many threads to use, by the variable that its thread pool reads."""
    if _asked and _asked != [threads]:
        raise RuntimeError(f"XLA runs on {_asked[0]} threads in this process already, and cannot change to {threads}")
    if not _asked and threads:
        os.environ["NPROC"] = str(threads)
    _asked[:] = [threads]
