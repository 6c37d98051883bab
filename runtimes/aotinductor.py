"""PyTorch running what AOTInductor compiled: a shared library for one kind of processor, in an archive (``.pt2``).

An artifact is machine code, and loading it runs it: nothing about such an archive can be loaded safely.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
FORMATS = ("aotinductor",)


class Session(NamedTuple):
    """The loaded archive, and the names of its inputs and outputs in order."""

    model: Any
    inputs: list[str]
    outputs: list[str]


def load(entry: str, format: str, signature: Mapping[str, Any], threads: int) -> Session:
    """Load the archive ``entry``; all models of the process then use ``threads`` threads within an operator.

    Raises ``RuntimeError`` for an archive without a model, or a library that does not load on this machine.
    """
    import torch
    import torch._inductor

    torch.set_num_threads(threads)
    inputs = [tensor["name"] for tensor in signature["inputs"]]
    outputs = [tensor["name"] for tensor in signature["outputs"]]
    return Session(torch._inductor.aoti_load_package(entry), inputs, outputs)


def input_names(session: Session) -> Sequence[str]:
    """Return the signature's names of the inputs in order: the compiled code knows its own by position."""
    return session.inputs


def run(session: Session, inputs: dict[str, Any]) -> dict[str, Any]:
    """Return the outputs by the signature's names in turn.

    Inputs are passed by position. The compiled code looks at neither dtypes nor shapes: of a batch that it was not
    compiled for it reads the rows that it knows of. AOTI_RUNTIME_CHECK_INPUTS would have it look, but then it refuses
    a batch of one where the batch is symbolic, which it computes well. Raises ``RuntimeError`` where an operator fails.
    """
    import torch

    with torch.inference_mode():
        result = session.model(*[torch.from_numpy(inputs[name]) for name in session.inputs])
    values = [result] if isinstance(result, torch.Tensor) else list(result)
    names = session.outputs + [f"output_{index}" for index in range(len(session.outputs), len(values))]
    return {names[index]: value.numpy() for index, value in enumerate(values)}


def caller(session: Session, inputs: dict[str, Any]) -> Callable[[int], None]:
    """Return what runs the model so many times, with its inputs made into tensors beforehand."""
    import torch

    given = [torch.from_numpy(inputs[name]) for name in session.inputs]

    def repeat(count: int) -> None:
        with torch.inference_mode():
            for _ in range(count):
                session.model(*given)

    return repeat


def degraded(session: Session) -> str:
    """Return an empty string: what is compiled runs as compiled, or not at all.

    Operators for which AOTInductor calls PyTorch's own kernels (convolutions, large products) were compiled into such
    calls: that is how it compiles them.
    """
    return ""
