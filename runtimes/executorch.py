"""ExecuTorch running its own programs (``.pte``) by its wheel: XNNPACK computes what the program delegates to it,
ExecuTorch's own kernels the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ENVIRONMENTS = {
    "": {
        "python": ">=3.11,<3.14",
        # The exporter's requirements, item by item: equal lists share one environment. ExecuTorch's bindings take and
        # return tensors of PyTorch, and are linked to its libraries.
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
            "executorch==1.5.1",
            "coremltools==9.0",
            "openvino==2026.4.1",
            "torchao==0.18.0",
        ],
    }
}
FORMATS = ("executorch",)
METHOD = "forward"
XNNPACK = "XnnpackBackend"


class Session(NamedTuple):
    """A method, the program that it belongs to, the names of its inputs and outputs, and why it runs degraded."""

    method: Any
    program: Any
    inputs: list[str]
    outputs: list[str]
    degraded: str


def load(entry: str, format: str, signature: Mapping[str, Any], threads: int) -> Session:
    """Load the method ``forward`` of the program in the file ``entry``; XNNPACK then has ``threads`` threads.

    Raises ``RuntimeError`` with ExecuTorch's error number for what is no program, for a method that it has no memory
    for, or an operator or backend that this build does not have; which of these it is stands in the log.
    """
    from executorch.extension.pybindings import portable_lib

    # Unsafe while a method runs, says its name. XNNPACK takes the pool when a method is loaded.
    if portable_lib._threadpool_get_thread_count() != threads:
        portable_lib._unsafe_reset_threadpool(threads)
    checked = portable_lib.Verification.InternalConsistency
    program = portable_lib._load_program(entry, program_verification=checked)
    method = program.load_method(METHOD)
    inputs = [tensor["name"] for tensor in signature["inputs"]]
    outputs = [tensor["name"] for tensor in signature["outputs"]]
    return Session(method, program, inputs, outputs, _undelegated(Path(entry).read_bytes()))


def input_names(session: Session) -> Sequence[str]:
    """Return the signature's names of the inputs in order: a program knows its own by position."""
    return session.inputs


def run(session: Session, inputs: dict[str, Any]) -> dict[str, Any]:
    """Return copies of the outputs by the signature's names in turn.

    Inputs are passed by position. Raises ``RuntimeError`` with ExecuTorch's error number for a dtype or shape that the
    program does not take, and for what fails on the way; what it was is in the log.
    """
    import torch

    values = session.method.call(tuple(torch.from_numpy(inputs[name]) for name in session.inputs))
    names = session.outputs + [f"output_{index}" for index in range(len(session.outputs), len(values))]
    return {names[index]: value.numpy() for index, value in enumerate(values)}


def caller(session: Session, inputs: dict[str, Any]) -> Callable[[int], None]:
    """Return what runs the method so many times, with its inputs made into tensors and handed over beforehand."""
    import torch

    given = tuple(torch.from_numpy(inputs[name]) for name in session.inputs)

    def repeat(count: int) -> None:
        for _ in range(count):
            session.method.call(given, clone_outputs=False)

    return repeat


def degraded(session: Session) -> str:
    """Return that XNNPACK has no part in the program and which operators there are, or an empty string.

    A program of which XNNPACK computes some parts, and ExecuTorch's kernels what lies between, is as it was asked for:
    they are what an ExecuTorch on a device has.
    """
    return session.degraded


def _undelegated(content: bytes) -> str:
    """Return which operators ExecuTorch's own kernels run if XNNPACK runs none, or an empty string."""
    from executorch.exir._serialize._program import deserialize_pte_binary

    program = deserialize_pte_binary(content).program
    plan = next(plan for plan in program.execution_plan if plan.name == METHOD)
    if any(delegate.id == XNNPACK for delegate in plan.delegates):
        return ""
    names = sorted({operator.name.removeprefix("aten::") for operator in plan.operators})
    return f"XNNPACK runs no part of it: ExecuTorch's own kernels run {', '.join(names) or 'all'}"
