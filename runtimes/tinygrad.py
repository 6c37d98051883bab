"""tinygrad on its CPU device: reads ONNX by its own frontend, and compiles each kernel by clang when it first runs."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

ENVIRONMENTS = {
    "": {
        "python": ">=3.11,<3.14",
        "requirements": ["tinygrad==0.14.0", "numpy==2.4.6"],
        # Else it takes the first device that it finds, whatever compiler CC names, and processes of its own that start
        # one. What is compiled it keeps below XDG_CACHE_HOME, which is the worker's own folder.
        "env": {"DEV": "CPU:CLANG", "CC": "clang", "PARALLEL": "0"},
    },
}
FORMATS = ("onnx",)


class Session(NamedTuple):
    """A file, the names of its inputs and outputs in order, if it branches, and for each shape of inputs what runs it.

    tinygrad's frontend keeps the lengths of symbolic axes from its first call, and its JIT replays kernels of fixed
    shapes: another shape is another reading of the file.
    """

    entry: str
    inputs: list[str]
    outputs: list[str]
    branches: bool
    compiled: dict[tuple[tuple[int, ...], ...], Callable[..., list[Any]]]


def unavailable() -> str:
    """Return that there is no clang, and how to get it, or an empty string."""
    if shutil.which("clang"):
        return ""
    return "tinygrad compiles its kernels by clang, which is not here; apt-get install clang"


def load(entry: str, format: str, signature: Mapping[str, Any], threads: int) -> Session:
    """Read the ONNX file ``entry``, to run on ``threads`` threads of the CPU.

    Raises what the frontend raises: ``AssertionError`` for an initializer without data. Whether it has an operator is
    found when that is run.
    """
    from tinygrad.helpers import NUM_CPU_THREADS
    from tinygrad.nn.onnx import OnnxRunner

    NUM_CPU_THREADS.value = threads
    model = OnnxRunner(entry)
    branches = any(node.op == "If" for node in model.graph_nodes)
    return Session(entry, list(model.graph_inputs), list(model.graph_outputs), branches, {})


def input_names(session: Session) -> Sequence[str]:
    """Return the names of the graph's inputs in order, without initializers that are listed among them."""
    return session.inputs


def run(session: Session, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return every output of the graph by name.

    The first call with inputs of one shape goes operator by operator, the second is recorded by the JIT, and all that
    follow replay what it recorded. Raises ``NotImplementedError`` for an operator that tinygrad does not have.
    """
    from tinygrad import Tensor

    given = [inputs[name] for name in session.inputs]
    made = _compiled(session, given)(*(Tensor(value).realize() for value in given))
    # A replay writes into the arrays of the last one.
    return {name: made[index].numpy().copy() for index, name in enumerate(session.outputs)}


def caller(session: Session, inputs: Mapping[str, Any]) -> Callable[[int], None]:
    """Return what replays the recorded kernels so many times and waits for each; inputs are converted beforehand."""
    from tinygrad import Device, Tensor

    given = [inputs[name] for name in session.inputs]
    compiled = _compiled(session, given)
    tensors = [Tensor(value).realize() for value in given]
    device = Device[Device.DEFAULT]
    for _ in range(2):  # what the JIT records is compiled in the second call
        compiled(*tensors)

    def repeat(count: int) -> None:
        for _ in range(count):
            compiled(*tensors)
            device.synchronize()

    return repeat


def degraded(session: Session) -> str:
    """Return the device and compiler in use where they are not those asked for, or what keeps the JIT out, or ""."""
    from tinygrad import Device

    compiler = type(Device[Device.DEFAULT].renderer).__name__
    if (Device.DEFAULT, compiler) != ("CPU", "ClangRenderer"):
        return f"runs on {Device.DEFAULT} by {compiler} instead of on CPU by ClangRenderer"
    return (
        "goes operator by operator in every call: Python decides an If, which the JIT cannot"
        if session.branches
        else ""
    )


def _compiled(session: Session, given: Sequence[Any]) -> Callable[..., list[Any]]:
    """Return the function of all inputs, for the shapes of ``given``, that returns all outputs."""
    from tinygrad import TinyJit
    from tinygrad.nn.onnx import OnnxRunner

    shapes = tuple(tuple(value.shape) for value in given)
    if shapes not in session.compiled:
        model = OnnxRunner(session.entry)

        def forward(*tensors: Any) -> list[Any]:
            made = model(dict(zip(session.inputs, tensors, strict=True)))
            return [made[name] for name in session.outputs]

        # What depends on no input is computed once (``prune``).
        session.compiled[shapes] = forward if session.branches else TinyJit(forward, prune=True)
    return session.compiled[shapes]
