"""The reference evaluator of the ONNX package: numpy written to be read, slow, and the referee between the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

ENVIRONMENTS = {
    "": {
        "python": ">=3.11,<3.14",
        "requirements": ["onnx==1.23.2", "numpy==2.4.6"],
        # numpy's BLAS reads its number of threads once, when it is imported: `threads` comes too late.
        "env": {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "VECLIB_MAXIMUM_THREADS": "1"},
    }
}
FORMATS = ("onnx",)


def load(entry: str, format: str, signature: Mapping[str, Any], threads: int) -> Any:
    """Return a ``ReferenceEvaluator`` of the ONNX file ``entry``.

    Raises ``NotImplementedError`` for an operator it does not know, ``ValueError`` for a file that is no model.
    ``threads`` is ignored: it only calls numpy.
    """
    import onnx
    from onnx.reference import ReferenceEvaluator

    # Given a path, the evaluator would not read weights that are stored beside the file; onnx.load does.
    model = onnx.load(entry)
    if not model.ir_version:
        # Protobuf reads an empty file as a message in which nothing is set.
        raise ValueError("the file is no ONNX model: it states no IR version")
    return ReferenceEvaluator(model)


def input_names(session: Any) -> Sequence[str]:
    """Return the names of the graph's inputs in order, without initializers that are listed among them (IR below 4)."""
    constants = {tensor.name for tensor in session.proto_.graph.initializer}
    return [name for name in session.input_names if name not in constants]


def run(session: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """Return every output of the graph by its name, a numpy scalar as the array of shape ``()`` that it is."""
    values = session.run(None, inputs)
    return {name: np.asarray(value) for name, value in zip(session.output_names, values, strict=True)}


def degraded(session: Any) -> str:
    """Return an empty string: there is nothing that the evaluator could fall back to."""
    return ""
