"""TVM compiling for the processor at hand: makes a program of ONNX or a ``torch.export`` archive, and runs that."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

ENVIRONMENTS = {
    "": {
        "python": ">=3.11,<3.14",
        # PyTorch reads the archives; nothing is computed in it.
        "requirements": ["apache-tvm==0.27.0.post1", "onnx==1.23.2", "torch==2.13.0", "numpy==2.4.6"],
    }
}
FORMATS = ("onnx", "pt2")

#: Operators that TVM does not compile: it calls numpy for them. What else is called ``relax.run`` moves a shape.
IN_NUMPY = ("relax.run.nonzero", "relax.run.unique")


class Session(NamedTuple):
    """The compiled function, the names of its inputs and outputs in order, and which parts are not compiled."""

    function: Callable[..., Any]
    inputs: list[str]
    outputs: list[str]
    in_numpy: list[str]


def load(entry: str, format: str, signature: Mapping[str, Any], threads: int) -> Session:
    """Import the file ``entry`` and compile it for this processor, to be run with at most ``threads`` threads.

    Raises ``OpNotImplemented`` or ``AssertionError`` for operators that the importer does not know, and what the
    compiler raises.
    """
    import tvm
    from tvm import relax

    imported, inputs, outputs = _import_onnx(entry) if format == "onnx" else _import_pt2(entry, signature)
    device = tvm.cpu()
    executable = tvm.compile(imported, target=tvm.target.Target.from_device(device))
    # 1: threads are bound to the large cores, where a processor has two kinds.
    tvm.get_global_func("runtime.config_threadpool")(1, threads)
    called = executable.stats()
    in_numpy = [name.rpartition(".")[2] for name in IN_NUMPY if name in called]
    return Session(relax.VirtualMachine(executable, device)["main"], inputs, outputs, in_numpy)


def input_names(session: Session) -> Sequence[str]:
    """Return the names of the inputs in order: the artifact's own."""
    return session.inputs


def run(session: Session, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return every output of the graph by its name.

    Raises ``ValueError`` for a dtype or a number of axes that it refuses, ``RuntimeError`` for the length of one.
    """
    import tvm

    results = session.function(*[tvm.runtime.tensor(inputs[name]) for name in session.inputs])
    values = [results] if isinstance(results, tvm.runtime.Tensor) else list(results)
    return {name: value.numpy() for name, value in zip(session.outputs, values, strict=True)}


def degraded(session: Session) -> str:
    """Return which operators TVM leaves to numpy instead of compiling them, or an empty string."""
    return f"computes {', '.join(session.in_numpy)} in numpy instead of compiled code" if session.in_numpy else ""


def _import_onnx(entry: str) -> tuple[Any, list[str], list[str]]:
    """Return an ONNX file as a module of Relax, with the names of its inputs and outputs in order."""
    import onnx
    from tvm.relax.frontend.onnx import from_onnx

    model = onnx.load(entry)
    # Files of IR below 4 list the weights among the inputs.
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [tensor.name for tensor in model.graph.input if tensor.name not in weights]
    return from_onnx(model), inputs, [tensor.name for tensor in model.graph.output]


def _import_pt2(entry: str, signature: Mapping[str, Any]) -> tuple[Any, list[str], list[str]]:
    """Return an archive of ``torch.export`` as a module of Relax, with the names of its inputs and outputs in order.

    Outputs are a dictionary's keys, or the signature's names in turn where the model returns tensors without names.
    """
    import torch
    from tvm.relax.frontend.torch import from_exported_program

    # torch.export.load unpickles parts of an archive with weights_only=False, which runs whatever code is in it.
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    program = torch.export.load(entry)
    returned = program.call_spec.out_spec
    keys = returned.context if returned.type is dict else [tensor["name"] for tensor in signature["outputs"]]
    return from_exported_program(program), list(program.graph_signature.user_inputs), list(keys)
