"""ONNX back to PyTorch by onnx2fx, run eagerly: of the converters back, the one that has recurrent layers, ``Loop`` and
the newest opsets, and that does without torchvision, whose wheels want CUDA's libraries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

ENVIRONMENTS = {
    "": {
        "python": ">=3.11,<3.14",
        "requirements": ["onnx2fx==0.0.1", "torch==2.13.0", "onnx==1.23.2", "numpy==2.4.6"],
    },
}
FORMATS = ("onnx",)


class Session(NamedTuple):
    """A graph module of torch, and the names of the file's inputs and outputs in order."""

    module: Any
    inputs: list[str]
    outputs: list[str]


def load(entry: str, format: str, signature: Mapping[str, Any], threads: int) -> Session:
    """Convert the ONNX file ``entry``, to run on ``threads`` threads of the CPU.

    Raises onnx2fx's ``UnsupportedOpError`` for an operator that it does not have, and onnx's ``ValidationError`` for
    a file that is no model: onnx2fx itself makes a module of an empty one.
    """
    import onnx
    import onnx2fx
    import torch

    torch.set_num_threads(threads)
    model = onnx.load(entry)
    onnx.checker.check_model(model)
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [tensor.name for tensor in graph.input if tensor.name not in weights]
    return Session(onnx2fx.convert(entry).eval(), inputs, [tensor.name for tensor in graph.output])


def input_names(session: Session) -> Sequence[str]:
    """Return the names of the graph's inputs in order, without initializers that are listed among them."""
    return session.inputs


def run(session: Session, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return every output of the graph by its name; raises what torch raises for a shape that does not fit."""
    import torch

    with torch.inference_mode():
        # A copy: torch takes no arrays that are read only, and a graph may hand an input on as it is.
        made = _tuple(session.module(*(torch.from_numpy(inputs[name].copy()) for name in session.inputs)))
    return {name: made[index].numpy().copy() for index, name in enumerate(session.outputs)}


def caller(session: Session, inputs: Mapping[str, Any]) -> Callable[[int], None]:
    """Return what calls the module so many times, with inputs that are tensors beforehand."""
    import torch

    given = [torch.from_numpy(inputs[name].copy()) for name in session.inputs]

    def repeat(count: int) -> None:
        with torch.inference_mode():
            for _ in range(count):
                session.module(*given)

    return repeat


def degraded(session: Session) -> str:
    """Return an empty string: every operator becomes one of torch's or the conversion fails, and eager is asked for."""
    return ""


def _tuple(made: Any) -> tuple[Any, ...]:
    """Return the outputs as a tuple: a graph of one output returns that itself."""
    return made if isinstance(made, tuple) else (made,)
