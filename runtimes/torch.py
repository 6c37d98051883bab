"""PyTorch itself running its own deployable formats: TorchScript and ``torch.export`` archives."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

ENVIRONMENTS = {
    "": {
        "python": ">=3.11,<3.14",
        # The exporter's requirements, item by item: equal lists share one environment.
        "requirements": [
            "torch==2.13.0",
            "onnx==1.23.2",
            "onnx-ir==1.1.0",
            "onnxscript==0.7.2",
            "numpy==2.4.6",
            "ml_dtypes==0.6.0",
            "protobuf==7.36.2",
            "sympy==1.14.0",
            "typing_extensions==4.16.0",
            "pnnx==20261020",
        ],
    }
}
FORMATS = ("torchscript", "pt2")


class Session(NamedTuple):
    """A callable module, and the names of its inputs and outputs in order."""

    module: Any
    inputs: list[str]
    outputs: list[str]


def load(entry: str, format: str, signature: Mapping[str, Any], threads: int) -> Session:
    """Load the file ``entry``; all modules of the process then use ``threads`` threads within an operator.

    The artifact runs in the mode in which it was saved: an exporter that forgot ``eval()`` is a finding. Raises
    ``pickle.UnpicklingError`` for an archive that holds more than tensors and plain values.
    """
    import torch

    # torch.export.load unpickles parts of an archive with weights_only=False, which runs whatever code is in it.
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    torch.set_num_threads(threads)
    inputs = [tensor["name"] for tensor in signature["inputs"]]
    outputs = [tensor["name"] for tensor in signature["outputs"]]
    if format == "torchscript":
        return Session(torch.jit.load(entry, map_location="cpu"), inputs, outputs)
    program = torch.export.load(entry)
    return Session(program.module(), list(program.graph_signature.user_inputs), outputs)


def input_names(session: Session) -> Sequence[str]:
    """Return the names of the inputs in order: an archive's own, the signature's for TorchScript, which keeps none."""
    return session.inputs


def run(session: Session, inputs: dict[str, Any]) -> dict[str, Any]:
    """Return the outputs by name: a dictionary's keys, or the signature's names in turn for tensors without names.

    Inputs are passed by position. Raises what the module raises, for an archive also ``AssertionError`` for a shape
    that its guards do not allow.
    """
    import torch

    with torch.inference_mode():
        result = session.module(*[torch.from_numpy(inputs[name]) for name in session.inputs])
    if isinstance(result, torch.Tensor):
        result = [result]
    if not isinstance(result, Mapping):
        names = session.outputs + [f"output_{index}" for index in range(len(session.outputs), len(result))]
        result = {names[index]: value for index, value in enumerate(result)}
    return {name: value.detach().numpy() for name, value in result.items()}


def degraded(session: Session) -> str:
    """Return an empty string: both formats run on PyTorch's CPU operators or not at all."""
    return ""
