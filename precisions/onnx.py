"""ONNX in half precision and in integers, by the tools that ONNX Runtime comes with: what is made of the same file for
every framework.

Loaded by path only, so that the name of this file never hides the real ``onnx``, which is imported inside functions.
"""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import numpy as np

ENVIRONMENT = {
    "python": ">=3.11,<3.14",
    "requirements": [
        "onnxruntime==1.32.0",
        "onnx==1.23.2",
        "numpy==2.4.6",
        "protobuf==7.36.2",
        "ml_dtypes==0.6.0",
        "sympy==1.14.0",
        "coloredlogs==15.0.1",
        "packaging==26.4",
        "tqdm==4.70.1",
    ],
    # From 1.29 on the library reports to its maker from every system, unless told not to before it starts.
    "env": {"ORT_DISABLE_TELEMETRY": "1"},
}
FORMATS = ("onnx",)
PRECISIONS = ("fp16", "int8-dynamic", "int8-static")
_ENTRY = "model.onnx"
#: Operators that compute in integers, or mark where a runtime may.
_INTEGER = {"MatMulInteger", "ConvInteger", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "QuantizeLinear"}
_INTEGER |= {"DequantizeLinear", "QLinearConv", "QLinearMatMul", "QGemm", "QAttention"}


def reduce(artifact: str, precision: str, rows: Mapping[str, np.ndarray], folder: str) -> dict[str, Any]:
    """Write the ONNX file ``artifact`` in a lower ``precision`` below ``folder``; inputs and outputs stay as they are.

    ``fp16`` turns every float32 inside into float16; ``int8-dynamic`` has 8-bit weights, and activations rounded by
    their range in each call; ``int8-static`` has QuantizeLinear and DequantizeLinear around each operator, with ranges
    of activations from ``rows``. Raises ``ValueError`` where nothing in the file can be reduced, or there are no rows
    to calibrate on, and what ONNX Runtime's tools raise.
    """
    import onnxruntime

    make = {"fp16": _half, "int8-dynamic": _dynamic, "int8-static": _static}[precision]
    onnxruntime.set_default_logger_severity(3)
    logging.getLogger().setLevel(logging.ERROR)  # advice on speed, at every call
    target = Path(folder) / _ENTRY
    make(artifact, target, rows)
    _tidy(target)
    return {"entry": _ENTRY, "facts": _facts(target, precision, f"onnxruntime {onnxruntime.__version__}")}


def _half(artifact: str, target: Path, rows: Mapping[str, np.ndarray]) -> None:
    import onnx
    from onnxruntime.transformers import float16

    model = onnx.load(artifact)
    # Files of IR below 4 list constants among the inputs, and inputs are to stay as they are.
    model.ir_version = max(model.ir_version, 4)
    for graph in _graphs(model.graph):
        # Of a type that is written beside a constant it makes half precision, also where the constant stays as it is.
        constants = {tensor.name for tensor in graph.initializer}
        for values in (graph.input, graph.value_info):
            kept = [value for value in values if value.name not in constants]
            del values[:]
            values.extend(kept)
    # It leaves some operators in single precision, and writes the casts around one into the outermost graph, even where
    # the operator is in the body of a loop. There they become half as the rest does, which ONNX has for all of them.
    inside = {node.op_type for outer in model.graph.node for graph in _graphs_inside(outer) for node in graph.node}
    blocked = [operator for operator in float16.DEFAULT_OP_BLOCK_LIST if operator not in inside]
    onnx.save(float16.convert_float_to_float16(model, keep_io_types=True, op_block_list=blocked), str(target))


def _dynamic(artifact: str, target: Path, rows: Mapping[str, np.ndarray]) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(artifact, str(target), weight_type=QuantType.QInt8)


def _static(artifact: str, target: Path, rows: Mapping[str, np.ndarray]) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        """Hands the calibration rows over, as many at a time as the file takes."""

        def __init__(self) -> None:
            self._calls = _calls(artifact, rows)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._calls, None)

    if not rows:
        raise ValueError("there are no training rows to calibrate on: the model reads no data set")
    with tempfile.TemporaryDirectory(prefix="portmatrix-quantization-") as scratch:
        prepared = str(Path(scratch) / _ENTRY)
        # Not its symbolic shapes: they know no loops, and the quantizer does without.
        quant_pre_process(artifact, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            str(target),
            Reader(),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            # Symmetric activations, as the integer instructions of processors want them.
            extra_options={"ActivationSymmetric": True},
        )


def _tidy(file: Path) -> None:
    """Put the nodes in order, and take operator sets of which no node is out of the imports.

    The tools append casts behind the nodes that read them, and in sorting they overlook what the body of a loop reads
    from outside; ONNX asks for every node behind those whose results it reads. And the preparation of ``int8-static``
    imports every operator set that it knows.
    """
    import onnx

    model = onnx.load(file)
    _sort(model.graph)
    used = {"", "ai.onnx", *(node.domain for node in _nodes(model.graph))}
    imports = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(imports)
    onnx.save(model, str(file))


def _sort(graph: Any) -> None:
    """Put every node of the graph behind those whose results it, or a graph inside it, reads."""
    nodes = list(graph.node)
    writer = {name: at for at, node in enumerate(nodes) for name in node.output if name}
    order: TopologicalSorter[int] = TopologicalSorter()
    for at, node in enumerate(nodes):
        inner = (name for graph in _graphs_inside(node) for each in graph.node for name in each.input)
        order.add(at, *(writer[name] for name in (*node.input, *inner) if writer.get(name, at) != at))
    del graph.node[:]
    graph.node.extend(nodes[at] for at in order.static_order())


def _calls(artifact: str, rows: Mapping[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    """Yield the inputs of one call after the other under the names of the file, by name or else by position."""
    import onnx

    graph = onnx.load(artifact, load_external_data=False).graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [tensor for tensor in graph.input if tensor.name not in constants]
    names = [tensor.name for tensor in inputs]
    given = rows if set(names) == set(rows) else dict(zip(names, rows.values(), strict=True))
    axis = inputs[0].type.tensor_type.shape.dim[0]
    count = len(next(iter(given.values())))
    batch = axis.dim_value if axis.HasField("dim_value") and axis.dim_value else count
    for at in range(0, count - batch + 1, batch):
        yield {name: np.ascontiguousarray(value[at : at + batch]) for name, value in given.items()}


def _facts(file: Path, precision: str, tool: str) -> dict[str, Any]:
    """Return what the file holds; raises ``ValueError`` where no part of it is in the precision that was asked for."""
    import onnx

    model = onnx.load(file)
    nodes = list(_nodes(model.graph))
    reduced = sum(node.op_type in _INTEGER for node in nodes)
    if precision == "fp16":
        halves = (tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in _weights(model.graph))
        reduced = sum(halves)
    if not reduced:
        kinds = ", ".join(sorted(Counter(node.op_type for node in nodes)))
        raise ValueError(f"{tool} leaves all of the file in single precision; its operators are {kinds}")
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    return {"quantizer": tool, "opset": opset, "ir_version": model.ir_version}


def _graphs(graph: Any) -> Iterator[Any]:
    """Yield the graph and the graphs inside its nodes, the bodies of loops and branches."""
    yield graph
    for node in graph.node:
        yield from _graphs_inside(node)


def _graphs_inside(node: Any) -> Iterator[Any]:
    """Yield the graphs inside one node, and those inside their nodes."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield from _graphs(attribute.g)


def _nodes(graph: Any) -> Iterator[Any]:
    """Yield every node of the graph and of the graphs inside its nodes."""
    for each in _graphs(graph):
        yield from each.node


def _weights(graph: Any) -> Iterator[Any]:
    """Yield every constant tensor of the graph and of the graphs inside its nodes."""
    yield from graph.initializer
    for node in _nodes(graph):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            if attribute.HasField("g"):
                yield from attribute.g.initializer
