"""IREE compiling for the processor at hand: makes a program of ONNX or StableHLO when it loads, and runs that."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ENVIRONMENTS = {
    "": {
        "python": ">=3.11,<3.14",
        "requirements": [
            "iree-base-compiler==3.13.0",
            "iree-base-runtime==3.13.0",
            "onnx==1.23.2",
            "numpy==2.4.6",
        ],
    }
}
FORMATS = ("onnx", "stablehlo")

#: IREE reads the operators of this opset and newer ones; its import tool brings older files up to it.
OPSET = "17"
#: For this processor, with integers of the width that the model has.
FLAGS = ["--iree-llvmcpu-target-cpu=host", "--iree-input-demote-i64-to-i32=false"]
#: What keeps float64 as it is. Only for models that have it: numbers that the compiler makes up itself, such as those
#: around the input of a pooling layer, are in float64 too, and it has no code for them unless they are narrowed.
WIDE = "--iree-input-demote-f64-to-f32=false"


class Session(NamedTuple):
    """The compiled function, and the names of its inputs and outputs in order."""

    function: Callable[..., Any]
    inputs: list[str]
    outputs: list[str]


def load(entry: str, format: str, signature: Mapping[str, Any], threads: int) -> Session:
    """Compile the artifact ``entry`` for this processor, and load what came of it for ``threads`` threads.

    An ONNX artifact is a file, a StableHLO one a folder with the portable bytecode ``model.mlirbc`` in it.

    Raises ``RuntimeError`` with the compiler's first error; all that it said is in the log.
    """
    from iree import runtime

    source: str | bytes
    if format == "onnx":
        source, inputs, outputs = _import_onnx(entry)
    else:
        source = Path(entry, "model.mlirbc").read_bytes()
        inputs = [tensor["name"] for tensor in signature["inputs"]]
        outputs = [tensor["name"] for tensor in signature["outputs"]]
    kept = [WIDE] if _has_float64(source, signature) else []
    program = _compile(source, format, [*FLAGS, *kept])
    config = runtime.Config(device=_device(threads))
    context = runtime.SystemContext(config=config)
    module = runtime.VmModule.copy_buffer(context.instance, program)
    context.add_vm_module(module)
    # Beside each function of the model stands one that does not wait for its results, and what sets the module up.
    (name,) = [name for name in module.function_names if not name.startswith("__") and not name.endswith("$async")]
    return Session(context.modules[module.name][name], inputs, outputs)


def input_names(session: Session) -> Sequence[str]:
    """Return the names of the inputs in order: the ONNX graph's own; the signature's for StableHLO, which has none."""
    return session.inputs


def run(session: Session, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return copies of all outputs by name; raises ``ValueError`` for a dtype or shape that it refuses."""
    results = session.function(*[inputs[name] for name in session.inputs])
    values = results if isinstance(results, tuple) else (results,)
    return {name: value.to_host().copy() for name, value in zip(session.outputs, values, strict=True)}


def degraded(session: Session) -> str:
    """Return an empty string: all of a program is compiled for this processor, in its own types, or nothing is."""
    return ""


def _import_onnx(entry: str) -> tuple[str, list[str], list[str]]:
    """Return the ONNX file as IREE's import tool writes it, with the names of its inputs and outputs in order."""
    from iree.compiler.extras import onnx_importer
    from iree.compiler.ir import Context
    from iree.compiler.tools.import_onnx import __main__ as tool

    model = tool.load_onnx_model(tool.parse_arguments([entry, "--opset-version", OPSET]))
    info = onnx_importer.ModelInfo(model)
    module = info.create_module(context=Context()).operation
    onnx_importer.NodeImporter.define_function(info.main_graph, module).import_all()
    module.verify()
    return module.get_asm(), list(info.main_graph.input_map), list(info.main_graph.output_map)


def _has_float64(source: str | bytes, signature: Mapping[str, Any]) -> bool:
    """Return whether the model computes in float64: by the types in its text, or of its inputs and outputs."""
    if isinstance(source, str) and ",f64>" in source:
        return True
    return any(tensor["dtype"] == "float64" for tensor in [*signature["inputs"], *signature["outputs"]])


def _compile(source: str | bytes, format: str, flags: list[str]) -> bytes:
    """Return the program that ``iree-compile`` makes of what it is given: a module of MLIR, as text or as bytes."""
    from iree.compiler import tools

    made: bytes
    try:
        made = tools.compile_str(source, input_type=format, target_backends=["llvm-cpu"], extra_args=flags)
    except tools.CompilerToolError as error:
        print(error)
        raise RuntimeError(f"iree-compile {_reason(str(error))}") from None
    return made


def _reason(text: str) -> str:
    """Return what the compiler's message comes to, in one line: its first error, and the operator that it is about."""
    error = re.search(r"^.*?\berror: (.*)$", text, re.MULTILINE)
    if error is None:
        status = re.search(r"^Error code: (-?\d+)$", text, re.MULTILINE)
        return f"ends with status {status[1] if status else 'unknown'} and without an error message"
    # Behind the first colon stands the operation as a whole, with all of its types and where in the source it was.
    said = error[1].partition(": %")[0]
    operator = re.search(r'<{name = "(onnx\.\w+)"}>', error[1])
    return f"says: {said}" + (f" ({operator[1]})" if operator else "")


def _device(threads: int) -> Any:
    """Return a device that computes in the calling thread, or one with as many threads as asked for."""
    from iree import runtime

    if threads == 1:
        return runtime.get_device("local-sync")
    runtime.flags.parse_flags(f"--task_topology_group_count={threads}")
    return runtime.get_device("local-task", cache=False)
