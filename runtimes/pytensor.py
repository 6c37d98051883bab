"""PyTensor running its own pickled graphs, and networks of Theano, its predecessor, rebuilt from their weights.

Both formats are programs: unpickling runs code, and the folder of weights brings its own. They are for artifacts whose
maker is known, and for a worker without network.
"""

from __future__ import annotations

import importlib.util
import json
import pickle
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ENVIRONMENTS = {
    "": {
        "python": ">=3.11,<3.14",
        # The exporter's requirements, item by item: equal lists share one environment.
        "requirements": ["pytensor==3.0.7", "numpy==2.4.6", "scipy==1.17.1", "numba==0.65.1", "llvmlite==0.47.0"],
        "env": {
            # As the exporter has them, with the reasons.
            "PYTENSOR_FLAGS": "floatX=float32,cxx=,traceback__limit=0,mode=FAST_COMPILE,"
            "optimizer_including=local_fill_to_alloc",
        },
    }
}
FORMATS = ("pytensor", "theano-weights")
#: How deep a pickled graph is nested at most.
PICKLE_DEPTH = 50000


class Session(NamedTuple):
    """The compiled function, and the names of its inputs and outputs in order."""

    function: Any
    inputs: list[str]
    outputs: list[str]


def load(entry: str, format: str, signature: Mapping[str, Any], threads: int) -> Session:
    """Compile the graph in the pickle ``entry``, or the one that the code in the folder ``entry`` makes of its weights.

    ``threads`` is obeyed by NumPy's BLAS, which read it from its environment; PyTensor itself uses one. Raises
    ``NotImplementedError`` for a network of Theano that needs ``theano.tensor.nnet`` or ``signal.pool``, which PyTensor
    has not, and ``ValueError`` where the pickle is of something else.
    """
    import pytensor

    inputs, outputs = _unpickled(Path(entry)) if format == "pytensor" else _rebuilt(pytensor, Path(entry))
    function = pytensor.function(inputs, outputs)
    return Session(function, _names(inputs, signature["inputs"]), _names(outputs, signature["outputs"]))


def input_names(session: Session) -> Sequence[str]:
    """Return the names of the graph's inputs in order."""
    return session.inputs


def run(session: Session, inputs: dict[str, Any]) -> dict[str, Any]:
    """Return all outputs by name; raises ``TypeError`` for an input of another dtype or number of axes."""
    values = session.function(*(inputs[name] for name in session.inputs))
    # Results may be views of what the next call overwrites.
    return {name: np.array(value) for name, value in zip(session.outputs, values, strict=True)}


def degraded(session: Session) -> str:
    """Return an empty string: PyTensor is asked for its CPU implementations in full precision and has no others."""
    return ""


def _unpickled(entry: Path) -> tuple[list[Any], list[Any]]:
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(PICKLE_DEPTH)
    try:
        with entry.open("rb") as stream:
            stored = pickle.load(stream)  # noqa: S301 - the format: PyTensor knows no other for its graphs
    finally:
        sys.setrecursionlimit(limit)
    if not isinstance(stored, dict) or not {"inputs", "outputs"} <= set(stored):
        raise ValueError(f"{entry} holds {type(stored).__name__}; expected a dictionary of inputs and outputs")
    return stored["inputs"], stored["outputs"]


def _rebuilt(namespace: Any, entry: Path) -> tuple[list[Any], list[Any]]:
    family = json.loads((entry / "network.json").read_text("utf-8"))["family"]
    with np.load(entry / "weights.npz", allow_pickle=False) as stored:
        weights = {name: stored[name] for name in stored.files}
    spec = importlib.util.spec_from_file_location("network", entry / "network.py")
    if spec is None or spec.loader is None:
        raise ValueError(f"{entry} has no network.py that builds the graph")
    network = importlib.util.module_from_spec(spec)
    sys.dont_write_bytecode = True  # the bundle is not ours to add files to
    spec.loader.exec_module(network)
    inputs, outputs = network.inference(namespace, family, weights)
    return inputs, outputs


def _names(variables: list[Any], tensors: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the variables' own names, or the reference's where one has none or two have the same."""
    names = [variable.name for variable in variables]
    if all(names) and len(set(names)) == len(names):
        return names
    extra = [f"output_{position}" for position in range(len(tensors), len(names))]
    return [tensor["name"] for tensor in tensors][: len(names)] + extra
