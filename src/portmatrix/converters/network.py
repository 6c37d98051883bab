"""An ONNX network while it is built: names, constants and nodes in order, the checks that it must pass, and its file.

Weights are never copied: they stay the views that a reader made of its input file, are left out of what is checked (a
value of their type and shape stands in), and are written to the ONNX file one by one. So a conversion needs little more
memory than its input file takes, and no network is limited by what a checker can hold.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, shape_inference

from portmatrix.converters.errors import ConversionError
from portmatrix.converters.nodes import used_names
from portmatrix.converters.peephole import without_transposes

Array = NDArray[Any]
Size = int | str | None
Shape = Sequence[Size]

#: The operator set that is written, and the oldest IR version that goes with it: from here on reductions, Split, Pad
#: and Resize take their axes as inputs, so that every later operator set reads the same nodes, in loop bodies as well.
OPSET = 18
IR_VERSION = 8
#: The symbolic name of the batch dimension.
BATCH = "batch"
#: Constants of at most this many elements may be read by shape inference; larger ones are weights.
SMALL = 1024
#: A protobuf message may not be larger (bytes); weights beyond go into a file of their own.
MESSAGE_BYTES = (1 << 31) - (1 << 20)

_GRAPH_FIELD = 7
_INITIALIZER_FIELD = 5
_RAW_FIELD = 9


class Scope:
    """One graph under construction: the network's own, or the body of a Loop, Scan or If inside it."""

    def __init__(self, network: Network, parent: Scope | None) -> None:
        self._network = network
        self._parent = parent
        self.nodes: list[NodeProto] = []
        self.inputs: list[ValueInfoProto] = []
        self.outputs: list[ValueInfoProto] = []

    def input(self, name: str, dtype: np.dtype[Any] | type | str, shape: Shape | None) -> str:
        """Add an input and return its name, made unique; ``shape`` None for one of unknown rank."""
        own = self._network.unique(name)
        self.inputs.append(_value_info(own, dtype, shape))
        return own

    def output(self, value: str, dtype: np.dtype[Any] | type | str, shape: Shape | None, name: str = "") -> str:
        """Make ``value`` an output, under ``name`` if one is given (by an Identity), and return the output's name."""
        own = value
        if name and name != value:
            own = self._network.unique(name)
            self.nodes.append(helper.make_node("Identity", [value], [own], name=own))
        self.outputs.append(_value_info(own, dtype, shape))
        return own

    def constant(self, value: Any, dtype: np.dtype[Any] | type | str | None = None, name: str = "constant") -> str:
        """Return the name of a constant that holds ``value``; equal small constants are one."""
        return self._network.initializer(np.asarray(value, dtype), name)

    def node(self, op: str, inputs: Sequence[str], name: str = "", domain: str = "", **attributes: Any) -> str:
        """Add a node with one output and return that; both get the name ``name``. Attributes of None are left out."""
        return self.nodes_of(op, inputs, 1, name, domain, **attributes)[0]

    def nodes_of(
        self, op: str, inputs: Sequence[str], outputs: int, name: str = "", domain: str = "", **attributes: Any
    ) -> tuple[str, ...]:
        """Add a node with as many outputs as ``outputs`` says and return their names."""
        stem = name or op
        made = tuple(self._network.unique(stem if index == 0 else f"{stem}.{index}") for index in range(outputs))
        given = {key: value for key, value in attributes.items() if value is not None}
        node = helper.make_node(op, list(inputs), list(made), name=made[0], domain=domain, **given)
        self.nodes.append(node)
        return made

    @contextmanager
    def body(self) -> Iterator[Scope]:
        """Yield the scope of a subgraph; values of this scope may be used inside it by name."""
        yield Scope(self._network, self)

    def graph(self, name: str) -> GraphProto:
        """Return this scope as a graph without initializers (for a body: they are the network's and seen from here)."""
        return helper.make_graph(self.nodes, name, self.inputs, self.outputs)


class Written(NamedTuple):
    """What was written: the file, its operator set, its nodes by type, and the number of parameters."""

    file: Path
    opset: int
    operators: dict[str, int]
    parameters: int


class Network(Scope):
    """The network itself: unique names, constants, and ``save``."""

    def __init__(self, name: str, producer: str) -> None:
        self._names: set[str] = set()
        self._numbers: dict[str, int] = {}
        self._initializers: dict[str, Array] = {}
        self._shared: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._name = name
        self._producer = producer
        super().__init__(self, None)

    def unique(self, name: str) -> str:
        """Return ``name``, or the first of ``name_1``, ``name_2`` … that nothing in the network has yet."""
        own, number = name, self._numbers.get(name, 0)
        while own in self._names or not own:
            number += 1
            own = f"{name or 'value'}_{number}"
        self._names.add(own)
        self._numbers[name] = number
        return own

    def initializer(self, value: Array, name: str) -> str:
        """Return the name of the constant ``value``, which is not copied; equal small constants are one."""
        if value.dtype.hasobject:
            raise ConversionError(f"{name} is no tensor: it holds {value.dtype} objects")
        if value.size > SMALL:
            own = self.unique(name)
            self._initializers[own] = value
            return own
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self._shared:
            self._shared[key] = self.unique(name)
            self._initializers[self._shared[key]] = value
        return self._shared[key]

    def value_of(self, name: str) -> Array | None:
        """Return the value of a constant, or None if ``name`` is none."""
        return self._initializers.get(name)

    def save(self, file: Path, *, batch: int | None = None, opset: int | None = None) -> Written:
        """Check the network and write it to ``file``, whole or not at all; ``batch`` writes that number for the batch.

        Raises ``ConversionError`` if the network does not pass ``onnx.checker``'s full check or shape inference, or has
        no equivalent in ``opset``.
        """
        if not file.parent.is_dir():
            raise ConversionError(f"{file} cannot be written: {file.parent} is no folder; make it, or name another")
        self._drop_unused()
        model = self._skeleton()
        if batch is not None:
            _fix_batch(model, batch)
        model = checked(_at_opset(model, opset))
        self._stand_ins_out(model)
        _write(model, self._initializers, file)
        count = sum(value.size for value in self._initializers.values())
        written = model.opset_import[0].version
        return Written(file, written, _operators(model.graph), count)

    def _drop_unused(self) -> None:
        """Leave out nodes that no output needs (those of dropped branches), and constants that no node uses."""
        needed = {value.name for value in self.outputs}
        self.nodes[:] = without_transposes(self.nodes, needed)
        kept = []
        for node in reversed(self.nodes):
            if any(name in needed for name in node.output):
                kept.append(node)
                needed.update(used_names(node))
        self.nodes[:] = reversed(kept)
        self._initializers = {name: value for name, value in self._initializers.items() if name in needed}

    def _skeleton(self) -> ModelProto:
        """Return the model with small constants as initializers and an input in place of each weight."""
        graph = self.graph(self._name)
        for name, value in self._initializers.items():
            if value.size <= SMALL:
                graph.initializer.append(_tensor(name, value))
            else:
                graph.input.append(_value_info(name, value.dtype, value.shape))
        model = helper.make_model(graph, producer_name="portmatrix", opset_imports=[helper.make_opsetid("", OPSET)])
        model.ir_version = IR_VERSION
        model.doc_string = f"Converted from {self._producer}"
        return model

    def _stand_ins_out(self, model: ModelProto) -> None:
        own = {value.name for value in self.inputs}
        kept = [value for value in model.graph.input if value.name in own]
        del model.graph.input[:]
        model.graph.input.extend(kept)
        del model.graph.initializer[:]


def checked(model: ModelProto) -> ModelProto:
    """Return the model with all shapes inferred; raises ``ConversionError`` if it is not valid ONNX."""
    try:
        inferred = shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
        known = {value.name: value for value in inferred.graph.value_info}
        for value in inferred.graph.output:
            if value.name in known and not value.type.tensor_type.HasField("shape"):
                value.CopyFrom(known[value.name])
        del inferred.graph.value_info[:]
        onnx.checker.check_model(inferred, full_check=True)
    except (onnx.checker.ValidationError, shape_inference.InferenceError, ValueError) as error:
        text = " ".join(str(error).split())
        raise ConversionError(
            f"the result is not valid ONNX: {text[:500]}. This is a fault of the converter; please report it"
        ) from error
    return inferred


def _operators(graph: GraphProto) -> dict[str, int]:
    counted: dict[str, int] = {}
    for node in graph.node:
        counted[node.op_type] = counted.get(node.op_type, 0) + 1
    return dict(sorted(counted.items()))


def _value_info(name: str, dtype: np.dtype[Any] | type | str, shape: Shape | None) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, _element_type(np.dtype(dtype)), shape)


def _element_type(dtype: np.dtype[Any]) -> int:
    """Return ONNX's number for a dtype, whatever its byte order: files are little-endian always."""
    return int(helper.np_dtype_to_tensor_dtype(dtype.newbyteorder("=")))


def _little_endian(value: Array) -> Array:
    order = value.dtype.newbyteorder("<")
    return np.ascontiguousarray(value, order if value.dtype.itemsize > 1 else value.dtype)


def _tensor(name: str, value: Array) -> TensorProto:
    return TensorProto(
        name=name, dims=value.shape, data_type=_element_type(value.dtype), raw_data=_little_endian(value).tobytes()
    )


def _fix_batch(model: ModelProto, batch: int) -> None:
    for value in (*model.graph.input, *model.graph.output):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param == BATCH:
                size.dim_value = batch


def _at_opset(model: ModelProto, opset: int | None) -> ModelProto:
    if opset is None or opset == OPSET:
        return model
    if opset < OPSET:
        raise ConversionError(f"operator sets from {OPSET} on can be written; {opset} was asked for")
    newest = onnx.defs.onnx_opset_version()
    if opset > newest:
        raise ConversionError(f"onnx {onnx.__version__} has operator sets up to {newest}; {opset} was asked for")
    converted: ModelProto = onnx.version_converter.convert_version(model, opset)
    converted.ir_version = max(IR_VERSION, helper.find_min_ir_version_for(converted.opset_import))
    return converted


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _head(field: int, length: int) -> bytes:
    return _varint(field << 3 | 2) + _varint(length)


def _write(model: ModelProto, weights: Mapping[str, Array], file: Path) -> None:
    """Write the model and its weights as one ONNX file, field by field, so that no weight is held twice.

    The format is protobuf's own (https://protobuf.dev/programming-guides/encoding/): a message is its fields one after
    the other, in any order. Weights beyond what a message may hold go into ``FILE.data`` beside it.
    """
    small = {name: value for name, value in weights.items() if value.size <= SMALL}
    total = sum(value.nbytes for value in weights.values()) + len(model.graph.SerializeToString())
    beside = total > MESSAGE_BYTES
    graph = GraphProto()
    graph.CopyFrom(model.graph)
    graph.initializer.extend(_tensor(name, value) for name, value in small.items())
    large = [(name, value) for name, value in weights.items() if name not in small]
    temporary = file.with_name(f".{file.name}.{os.getpid()}.part")
    data = file.with_name(f"{file.name}.data")
    heads = [_weight_head(name, value, data.name if beside else "") for name, value in large]
    if beside:
        _place_outside(heads, large)
    parts = [graph.SerializeToString()]
    length = len(parts[0]) + sum(
        _weight_length(head, value, beside) for head, (_, value) in zip(heads, large, strict=True)
    )
    rest = ModelProto()
    rest.CopyFrom(model)
    rest.ClearField("graph")
    try:
        with temporary.open("wb") as stream:
            stream.write(rest.SerializeToString() + _head(_GRAPH_FIELD, length) + parts[0])
            for head, (_, value) in zip(heads, large, strict=True):
                _write_weight(stream, head, value, beside)
        if beside:
            with data.open("wb") as stream:
                for _, value in large:
                    stream.write(_little_endian(value).data)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def _weight_head(name: str, value: Array, beside: str) -> TensorProto:
    head = TensorProto(name=name, dims=value.shape, data_type=_element_type(value.dtype))
    if beside:
        head.data_location = TensorProto.EXTERNAL
        head.external_data.add(key="location", value=beside)
    return head


def _place_outside(heads: Sequence[TensorProto], large: Sequence[tuple[str, Array]]) -> None:
    offset = 0
    for head, (_, value) in zip(heads, large, strict=True):
        head.external_data.add(key="offset", value=str(offset))
        head.external_data.add(key="length", value=str(value.nbytes))
        offset += value.nbytes


def _weight_length(head: TensorProto, value: Array, beside: bool) -> int:  # noqa: FBT001 - private
    inner = _inner_length(head, value, beside)
    return len(_head(_INITIALIZER_FIELD, inner)) + inner


def _inner_length(head: TensorProto, value: Array, beside: bool) -> int:  # noqa: FBT001 - private
    return len(head.SerializeToString()) + (0 if beside else len(_head(_RAW_FIELD, value.nbytes)) + value.nbytes)


def _write_weight(stream: Any, head: TensorProto, value: Array, beside: bool) -> None:  # noqa: FBT001 - private
    stream.write(_head(_INITIALIZER_FIELD, _inner_length(head, value, beside)) + head.SerializeToString())
    if not beside:
        stream.write(_head(_RAW_FIELD, value.nbytes))
        stream.write(_little_endian(value).data)
