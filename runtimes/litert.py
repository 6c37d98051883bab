"""LiteRT, the successor of TensorFlow Lite, with the XNNPACK delegate that it applies by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

ENVIRONMENTS = {"": {"python": ">=3.11,<3.14", "requirements": ["ai-edge-litert==2.3.0", "numpy==2.4.6"]}}
FORMATS = ("tflite",)


class Input(NamedTuple):
    """The number of an input tensor and, as ``shape_signature``, which of its dimensions are free (-1)."""

    number: int
    shape_signature: tuple[int, ...]


class Session(NamedTuple):
    """An interpreter with its tensors by name; ``shapes`` is what it is allocated for at the moment."""

    interpreter: Any
    inputs: dict[str, Input]
    outputs: dict[str, int]
    shapes: dict[str, tuple[int, ...]]


def load(entry: str, format: str, signature: Mapping[str, Any], threads: int) -> Session:
    """Return an interpreter of the file ``entry`` that uses ``threads`` threads.

    Raises ``ValueError`` for a file that is none, ``RuntimeError`` for an operator without a kernel (Select-TF
    operators among them).
    """
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(entry, num_threads=threads)
    interpreter.allocate_tensors()
    ins, outs = _details(interpreter)
    inputs = {name: Input(one["index"], tuple(one["shape_signature"].tolist())) for name, one in ins.items()}
    outputs = {name: one["index"] for name, one in outs.items()}
    return Session(interpreter, inputs, outputs, {name: tuple(one["shape"].tolist()) for name, one in ins.items()})


def input_names(session: Session) -> Sequence[str]:
    """Return the inputs' names: those of the file's signature, else those of its tensors."""
    return list(session.inputs)


def run(session: Session, inputs: dict[str, Any]) -> dict[str, Any]:
    """Return copies of all outputs by name; raises ``ValueError`` for a dtype or a fixed dimension that differs."""
    interpreter = session.interpreter
    _resize(session, inputs)
    # Fused recurrent kernels keep their state from one call to the next.
    interpreter.reset_all_variables()
    for name, tensor in session.inputs.items():
        interpreter.set_tensor(tensor.number, inputs[name])
    interpreter.invoke()
    return {name: interpreter.get_tensor(index) for name, index in session.outputs.items()}


def degraded(session: Session) -> str:
    """Return an empty string: an operator without a kernel of LiteRT's own already failed in ``load``."""
    return ""


def _details(interpreter: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the details of inputs and outputs by name: the signature's names if there is one, else the tensors'."""
    ins, outs = interpreter.get_input_details(), interpreter.get_output_details()
    signatures = interpreter.get_signature_list()
    if len(signatures) != 1:
        return {one["name"]: one for one in ins}, {one["name"]: one for one in outs}
    runner = interpreter.get_signature_runner()
    outs = runner.get_output_details()
    # A signature has no order of its own; output_2 shall stand before output_10.
    return runner.get_input_details(), {name: outs[name] for name in sorted(outs, key=lambda name: (len(name), name))}


def _resize(session: Session, inputs: Mapping[str, Any]) -> None:
    """Allocate anew for the shapes of ``inputs`` where the file leaves them free; fixed ones stay as they are."""
    changed = {
        name: inputs[name].shape
        for name, tensor in session.inputs.items()
        if -1 in tensor.shape_signature and inputs[name].shape != session.shapes[name]
    }
    if not changed:
        return
    for name, shape in changed.items():
        session.interpreter.resize_tensor_input(session.inputs[name].number, shape, strict=True)
    session.interpreter.allocate_tensors()
    session.shapes.update(changed)
