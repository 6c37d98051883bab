"""The networks that CNTK made (``make_nets.py``), and the runtimes that run what becomes of them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
import openvino as ov
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

Arrays = dict[str, NDArray[Any]]
ARCHIVE = Path(__file__).with_name("nets.zip")


class Net(NamedTuple):
    """A network: its file, inputs by name, and CNTK's outputs in CNTK's order."""

    file: Path
    inputs: Arrays
    outputs: list[NDArray[Any]]


def names() -> list[str]:
    """Return the names of all networks."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        return sorted({Path(name).stem for name in archive.namelist()})


def net(name: str, folder: Path) -> Net:
    """Return a network, its file written below ``folder``."""
    file = folder / f"{name}.onnx"
    with zipfile.ZipFile(ARCHIVE) as archive:
        file.write_bytes(archive.read(f"{name}.onnx"))
        stored = np.load(io.BytesIO(archive.read(f"{name}.npz")))
    # CNTK leaves an input out of its file that only lends its shape.
    taken = {value.name for value in onnx.load(file).graph.input}
    inputs = {key[3:]: stored[key] for key in stored.files if key.startswith("in_") and key[3:] in taken}
    return Net(file, inputs, [stored[key] for key in stored.files if key.startswith("out_")])


def onnxruntime(file: Path) -> Callable[[Arrays], list[NDArray[Any]]]:
    """Return a function that runs a model in ONNX Runtime."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda inputs: list(session.run(None, inputs))


def reference(file: Path) -> Callable[[Arrays], list[NDArray[Any]]]:
    """Return a function that runs a model in onnx's own evaluator."""
    session = ReferenceEvaluator(str(file))
    return lambda inputs: list(session.run(None, inputs))


def openvino(file: Path) -> Callable[[Arrays], list[NDArray[Any]]]:
    """Return a function that runs a model in OpenVINO, in full precision."""
    core = ov.Core()
    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(file), "CPU", settings)
    return lambda inputs: list(compiled(inputs).values())


def difference(found: list[NDArray[Any]], wanted: list[NDArray[Any]]) -> float:
    """Return the largest difference, relative to the largest element of an output; the order of outputs is CNTK's or
    the other way round, since its file keeps none. Infinite if types or shapes differ.
    """
    return min(_difference(found, wanted), _difference(found[::-1], wanted))


def _difference(found: list[NDArray[Any]], wanted: list[NDArray[Any]]) -> float:
    if [(a.dtype, a.shape) for a in found] != [(a.dtype, a.shape) for a in wanted]:
        return float("inf")
    pairs = zip(found, wanted, strict=True)
    return max(float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-6)) for a, b in pairs)
