"""Two hundred and fifty small networks, written node by node as ONNX graphs, for ``benchmarks/overhead.py``.

The shapes are those of the reference suite: five families that read 8 x 8 values, of several widths, with weights drawn
from a generator seeded by the model's name. The framework is ``onnx.reference``, so that every cell compares two
independent implementations. A plug-in like any other: loaded by path, heavy imports inside the functions.
"""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

ENVIRONMENT = {"python": ">=3.11,<3.14", "requirements": ["numpy==2.4.6", "onnx==1.23.2"]}
PATHS = {
    "onnx": {"kind": "onnx", "format": "onnx", "batch": "static"},
    "onnx-dynamic": {"kind": "onnx", "format": "onnx", "batch": "dynamic"},
}
CLASSES = 10
OPSET = 18

Array = NDArray[Any]


class Graph:
    """A graph being written: nodes in order, and weights drawn as they are asked for."""

    def __init__(self, seed: int) -> None:
        self.nodes: list[Any] = []
        self.weights: dict[str, Array] = {}
        self._generator = np.random.default_rng(seed)

    def weight(self, *shape: int) -> str:
        """Add float32 weights of that shape, scaled by the number of their inputs; returns their name."""
        scale = np.sqrt(max(1, int(np.prod(shape[1:]))))
        return self.constant((self._generator.normal(size=shape) / scale).astype(np.float32))

    def constant(self, value: Array) -> str:
        """Add an initializer; returns its name."""
        name = f"w{len(self.weights)}"
        self.weights[name] = value
        return name

    def node(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        """Add a node; returns the name of its last output."""
        names = [f"n{len(self.nodes)}.{number}" for number in range(outputs)]
        helper = importlib.import_module("onnx.helper")
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names[-1]

    def convolution(self, value: str, channels: int, made: int, *, size: int = 3, relu: bool = True) -> str:
        """Add a convolution that keeps the image's size, and a ReLU unless told not to."""
        weights, bias = self.weight(made, channels, size, size), self.weight(made)
        value = self.node("Conv", value, weights, bias, pads=[size // 2] * 4)
        return self.node("Relu", value) if relu else value

    def linear(self, value: str, width: int, made: int) -> str:
        """Add a fully connected layer, N x ``width`` to N x ``made``."""
        return self.node("Gemm", value, self.weight(width, made), self.weight(made))


def _mlp(graph: Graph, width: int) -> str:
    value = graph.node("Relu", graph.linear(graph.node("Flatten", "x"), 64, 4 * width))
    return graph.linear(graph.node("Relu", graph.linear(value, 4 * width, 2 * width)), 2 * width, CLASSES)


def _convnet(graph: Graph, width: int) -> str:
    value = graph.convolution(graph.convolution("x", 1, width), width, width)
    value = graph.node("MaxPool", value, kernel_shape=[2, 2], strides=[2, 2])
    value = graph.convolution(graph.convolution(value, width, 2 * width), 2 * width, 2 * width)
    value = graph.node("Flatten", graph.node("MaxPool", value, kernel_shape=[2, 2], strides=[2, 2]))
    return graph.linear(graph.node("Relu", graph.linear(value, 8 * width, 64)), 64, CLASSES)


def _residual(graph: Graph, width: int) -> str:
    value = graph.convolution("x", 1, width)
    for _ in range(3):
        branch = graph.convolution(graph.convolution(value, width, width), width, width, relu=False)
        value = graph.node("Relu", graph.node("Add", value, branch))
    return graph.linear(graph.node("Flatten", graph.node("GlobalAveragePool", value)), width, CLASSES)


def _inception(graph: Graph, width: int) -> str:
    value, channels = graph.convolution("x", 1, width), width
    for _ in range(2):
        branches = [graph.convolution(value, channels, width, size=size) for size in (1, 3, 5)]
        value, channels = graph.node("Concat", *branches, axis=1), 3 * width
    return graph.linear(graph.node("Flatten", graph.node("GlobalAveragePool", value)), channels, CLASSES)


def _lstm(graph: Graph, width: int) -> str:
    rows = graph.node("Squeeze", "x", graph.constant(np.array([1], np.int64)))
    rows = graph.node("Transpose", rows, perm=[1, 0, 2])
    weights = (graph.weight(1, 4 * width, 8), graph.weight(1, 4 * width, width), graph.weight(1, 8 * width))
    final = graph.node("LSTM", rows, *weights, outputs=2, hidden_size=width)
    final = graph.node("Squeeze", final, graph.constant(np.array([0], np.int64)))
    return graph.linear(final, width, CLASSES)


FAMILIES: dict[str, Callable[[Graph, int], str]] = {
    "mlp": _mlp,
    "convnet": _convnet,
    "residual": _residual,
    "inception": _inception,
    "lstm": _lstm,
}


class Trained(NamedTuple):
    """A model: its graph, the name of its last value, and the evaluator that stands for the framework."""

    graph: Graph
    last: str
    evaluator: Any


def train(model: str, data: None, seed: int) -> Trained:  # noqa: ARG001 - the signature that every exporter has
    """Return the model ``FAMILY-NUMBER``: the number decides its width and, with ``seed``, its weights."""
    family, number = model.split("-")
    graph = Graph(zlib.crc32(model.encode()) + seed)
    last = FAMILIES[family](graph, 8 + 2 * (int(number) % 5))
    reference = importlib.import_module("onnx.reference")
    return Trained(graph, last, reference.ReferenceEvaluator(_model(graph, last, "batch")))


def samples(model: str, rows: int, seed: int) -> dict[str, Array]:
    """Return the reference rows: N x 1 x 8 x 8 values between 0 and 1."""
    generator = np.random.default_rng(zlib.crc32(model.encode()) + seed + 1)
    return {"x": generator.random((rows, 1, 8, 8), np.float32)}


def predict(trained: Trained, inputs: dict[str, Array]) -> dict[str, Array]:
    """Return the logits, N x 10, as ``onnx.reference`` computes them."""
    return {"logits": trained.evaluator.run(None, inputs)[0]}


def export(trained: Trained, path: str, inputs: dict[str, Array], folder: str) -> dict[str, Any]:
    """Write ``model.onnx`` below ``folder``, with a symbolic batch on the path ``onnx-dynamic``."""
    batch = "batch" if path == "onnx-dynamic" else len(inputs["x"])
    model = _model(trained.graph, trained.last, batch)
    Path(folder, "model.onnx").write_bytes(model.SerializeToString())
    return {"entry": "model.onnx", "facts": {"opset": OPSET}}


def _model(graph: Graph, last: str, batch: str | int) -> Any:
    onnx = importlib.import_module("onnx")
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    made = helper.make_graph(
        [*graph.nodes, helper.make_node("Identity", [last], ["logits"])],
        "zoo",
        [helper.make_tensor_value_info("x", float32, [batch, 1, 8, 8])],
        [helper.make_tensor_value_info("logits", float32, [batch, CLASSES])],
        [onnx.numpy_helper.from_array(value, name) for name, value in graph.weights.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model
