"""Reads the fixtures that Caffe made, runs converted networks, and compares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

FIXTURES = Path(__file__).with_name("fixtures")

Arrays = dict[str, np.ndarray]


def fixture_files(name: str) -> list[Path]:
    """The files of one fixture, the weights only if the network has some."""
    files = [FIXTURES / f"{name}.prototxt", FIXTURES / f"{name}.caffemodel"]
    return [file for file in files if file.exists()]


def recorded(name: str) -> list[tuple[Arrays, Arrays]]:
    """Inputs and Caffe's own outputs, for each batch that Caffe ran the fixture with."""
    with np.load(FIXTURES / f"{name}.npz") as arrays:
        runs = []
        for prefix in ("", "other:"):
            inputs, outputs = (
                {key[len(prefix + way) :]: arrays[key] for key in arrays.files if key.startswith(prefix + way)}
                for way in ("in:", "out:")
            )
            runs += [(inputs, outputs)] if inputs else []
    return runs


def session(file: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(file), options)


def run(file: Path, inputs: Mapping[str, np.ndarray]) -> Arrays:
    """The outputs by name, by ONNX Runtime; inputs that the model has not are left out."""
    started = session(file)
    feed = {value.name: inputs[value.name] for value in started.get_inputs()}
    return dict(zip([value.name for value in started.get_outputs()], started.run(None, feed), strict=True))


def assert_close(found: Arrays, expected: Arrays) -> None:
    """The same names and shapes, and no difference beyond 1e-5 of the largest output."""
    assert sorted(found) == sorted(expected)
    for name, value in expected.items():
        assert found[name].shape == value.shape, name
        scale = max(1.0, float(np.abs(value).max(initial=0)))
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-5 * scale, err_msg=name)


class Converted:
    """A converted network: its file and model."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.model = onnx.load(file)

    @property
    def operators(self) -> list[str]:
        return [node.op_type for node in self.model.graph.node]

    @property
    def inputs(self) -> dict[str, list[Any]]:
        return _shapes(self.model.graph.input)

    @property
    def outputs(self) -> dict[str, list[Any]]:
        return _shapes(self.model.graph.output)

    def run(self, **inputs: np.ndarray) -> Arrays:
        return run(self.file, inputs)


def _shapes(values: Sequence[onnx.ValueInfoProto]) -> dict[str, list[Any]]:
    return {
        value.name: [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim] for value in values
    }
