"""OpenVINO on its CPU plug-in in 32-bit precision: reads ONNX, SavedModel, TensorFlow Lite and its own IR itself."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ENVIRONMENTS = {"": {"python": ">=3.11,<3.14", "requirements": ["openvino==2026.4.1", "numpy==2.4.6"]}}
FORMATS = ("onnx", "openvino-ir", "savedmodel", "tflite")


class Session(NamedTuple):
    """A compiled model, a request to run it, and the names of its inputs and outputs in order."""

    compiled: Any
    request: Any
    inputs: list[str]
    outputs: list[str]


def load(entry: str, format: str, signature: Mapping[str, Any], threads: int) -> Session:
    """Compile the artifact ``entry`` for the CPU with ``threads`` threads.

    Raises ``RuntimeError`` for what its frontend or the CPU plug-in does not support.
    """
    import openvino

    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(entry),
        "CPU",
        {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            # Processors with AMX or AVX512-BF16 would compute in bfloat16 otherwise.
            "INFERENCE_PRECISION_HINT": "f32",
        },
    )
    inputs = _names(compiled.inputs, signature["inputs"], "input")
    outputs = _names(compiled.outputs, signature["outputs"], "output")
    if format == "tflite":
        outputs = _signature_keys(entry, outputs, signature["outputs"])
    return Session(compiled, compiled.create_infer_request(), inputs, outputs)


def input_names(session: Session) -> Sequence[str]:
    """Return the names of the model's inputs in the order of the file."""
    return session.inputs


def run(session: Session, inputs: dict[str, Any]) -> dict[str, Any]:
    """Return copies of all outputs by name; raises ``RuntimeError`` for a dtype or shape that the model refuses."""
    import openvino

    request = session.request
    # request.infer(inputs) would cast inputs without a word, and takes five times as long for a small model.
    for index, name in enumerate(session.inputs):
        request.set_input_tensor(index, openvino.Tensor(inputs[name]))
    request.start_async()
    request.wait()
    return {name: request.get_output_tensor(index).data.copy() for index, name in enumerate(session.outputs)}


def degraded(session: Session) -> str:
    """Return the device or the precision in use where it is not the one asked for, or an empty string."""
    devices = session.compiled.get_property("EXECUTION_DEVICES")
    precision = session.compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    if devices != ["CPU"]:
        return f"runs on {', '.join(devices)} instead of CPU"
    return "" if precision == "f32" else f"computes in {precision} instead of f32"


def _names(ports: Sequence[Any], wanted: Sequence[Mapping[str, Any]], kind: str) -> list[str]:
    """Return one name for each port: the reference's if it is among its own, else one of those, else a number.

    TensorFlow's converter spells the input ``x`` as ``serving_default_x:0``.
    """
    reference = {f"serving_default_{tensor['name']}:0": tensor["name"] for tensor in wanted}
    reference |= {tensor["name"]: tensor["name"] for tensor in wanted}
    names = []
    for index, port in enumerate(ports):
        own = sorted(port.get_names()) or [f"{kind}_{index}"]
        names.append(next((reference[name] for name in own if name in reference), own[0]))
    return names


def _signature_keys(entry: str, tensors: list[str], wanted: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the reference name of each output tensor of a TensorFlow Lite file, or ``tensors`` if they tell none.

    The file stores outputs in no particular order and OpenVINO ignores its signature, but TensorFlow ends the name of a
    tensor in ``:N`` for the N-th key of the signature in alphabetical order. Where the reference names are no keys,
    the exporter had a plain list of outputs, and it is the N-th of these.
    """
    order = [tensor.rpartition(":")[2] for tensor in tensors]
    names = [tensor["name"] for tensor in wanted]
    if sorted(order) != sorted(str(index) for index in range(len(names))):
        return tensors
    content = Path(entry).read_bytes()
    # A string in a flatbuffer: its length, its bytes, a zero.
    if all(struct.pack("<I", len(name.encode())) + name.encode() + b"\0" in content for name in names):
        names.sort()
    return [names[int(index)] for index in order]
