"""Takes a CNTK graph node by node, keeps for each tensor where its batch is, and builds the network of any batch."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, NodeProto, ValueInfoProto, helper, shape_inference

from portmatrix.converters.cntk.declarations import MAX_RANK, dtype_of, has_shape, shape_of
from portmatrix.converters.cntk.reader import Array, Source, array_of
from portmatrix.converters.cntk.values import ONE, Count, Place, Shape, Value, around, places
from portmatrix.converters.errors import ConversionError, MalformedFile, Unsupported
from portmatrix.converters.network import BATCH, SMALL, Network, Scope

#: Operator sets that CNTK 2 wrote; 2.7 writes 9.
OPSETS = range(7, 10)
#: The symbolic length of the inputs' time axis, and what CNTK calls it.
SEQUENCE, CNTK_SEQUENCE = "sequence", "Sequence"
#: Bodies in bodies; CNTK writes one level.
MAX_DEPTH = 8


class Node(NamedTuple):
    """One node of the file."""

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]

    def cannot(self, why: str) -> Unsupported:
        """Return the error to raise where this node cannot be translated."""
        return Unsupported(self.name, self.op, why)


#: A translation: makes the node's outputs out of its inputs.
Rule = Callable[["Translator", Node], Sequence[Value]]


class Translator:
    """The state of one conversion: the network, and what stands in it for each tensor of the file."""

    def __init__(self, source: Source, rules: dict[str, Rule]) -> None:
        graph = source.model.graph
        self.file = source.file
        self.network = Network(graph.name or "CNTKGraph", "an ONNX file by CNTK")
        self.scope: Scope = self.network
        self._rules = rules
        self._constants = source.constants
        self._declared = _declared_shapes(source, self.file)
        self._values: MutableMapping[str, Value] = {}
        self._transposes: dict[str, tuple[Value, tuple[int, ...]]] = {}
        #: For the output of a recurrent layer: its node, and which way it goes.
        self.recurrent: dict[str, tuple[NodeProto, str]] = {}
        self._batch: tuple[str, int] | None = None
        self._reserved: set[str] = set()
        self._depth = 0

    # --- What is there

    def value(self, name: str, node: Node) -> Value:
        """Return the tensor that a node reads; raises ``MalformedFile`` if nothing made it."""
        if name not in self._values and name in self._constants:
            array = self._constants[name]
            own = self.network.initializer(array, name)
            return self.set(name, Value(own, tuple(Count(size) for size in array.shape)))
        if name not in self._values:
            raise MalformedFile(self.file, f"node {node.name!r}", f"it reads {name!r}, which nothing before it makes")
        return self._values[name]

    def set(self, name: str, value: Value) -> Value:
        """Let ``value`` stand for a tensor of the file."""
        self._values[name] = value
        return value

    def inputs(self, node: Node, least: int = 1, most: int | None = None) -> list[Value]:
        """Return the tensors that a node reads; those left out at the end are missing, any other is an error."""
        given = list(node.inputs)
        while given and not given[-1]:
            given.pop()
        if not least <= len(given) <= (least if most is None else most):
            raise MalformedFile(self.file, f"node {node.name!r}", f"{node.op} does not take {len(given)} inputs")
        values = [self.value(name, node) for name in given]
        for value in values:
            if value.measures is not None:
                raise node.cannot("it computes with the length of a batch; only a constant of some shape may be made")
        return values

    def constant(self, name: str, node: Node) -> Array:
        """Return the value of an input that must be constant."""
        value = self.value(name, node)
        array = None if value.place is not None or value.origin else self.network.value_of(value.name)
        if array is None:
            raise node.cannot(f"its input {name!r} would have to be constant")
        return array

    def axis(self, value: Value, axis: Any, node: Node) -> int:
        """Return ``axis`` counted from the front; raises ``MalformedFile`` if the tensor has no such axis."""
        if not isinstance(axis, int) or not -value.rank <= axis < value.rank:
            raise MalformedFile(self.file, f"node {node.name!r}", f"axis {axis} of a tensor of {value.rank} axes")
        return axis % value.rank

    def shape_of(self, name: str, computed: Shape) -> Shape:
        """Return a tensor's shape: as computed, with the file's word for lengths that cannot be computed."""
        declared = self._declared.get(name, ())
        if len(declared) != len(computed):
            return computed
        pairs = zip(computed, declared, strict=True)
        return tuple(said if not own.known else own for own, said in pairs)

    def declared(self, name: str, node: Node) -> Shape:
        """Return the shape that the file gives for a tensor."""
        if name not in self._declared:
            raise MalformedFile(self.file, f"node {node.name!r}", f"the file does not say which shape {name!r} has")
        return self._declared[name]

    # --- What is made

    def emit(self, op: str, inputs: Sequence[Value | str], name: str, **attributes: Any) -> str:
        """Add a node with one output to the current graph and return its output's name."""
        names = [self.real(item).name if isinstance(item, Value) else item for item in inputs]
        return self.scope.node(op, names, name=name, **attributes)

    def integers(self, values: Sequence[int]) -> str:
        """Return the name of a constant list of integers."""
        return self.network.constant(list(values), np.int64)

    def array(self, value: Value) -> Array | None:
        """Return a constant's value, or None if the tensor is none."""
        return None if value.place is not None or value.origin else self.network.value_of(value.name)

    def reshaped(self, value: Value, shape: Shape, name: str, place: Place | None = None) -> Value:
        """Return ``value`` in another shape; it is made when used. ``place`` says where the batch is, if known."""
        if value.place is None:
            array = self.array(value)
            if array is not None and all(size.known for size in shape):
                own = self.network.initializer(array.reshape([size.number for size in shape]), name)
                return Value(own, shape)
            return Value(name, shape, None, value.origin or value)
        found = [place] if place else places(*around(value), shape)
        if not found:
            raise ConversionError(
                f"{name}: the batch of a tensor of shape {_shown(value.shape)} has no place in {_shown(shape)}. The "
                "model mixes the samples of a batch, which can only be written for a batch of 1"
            )
        return Value(name, shape, found[0], value.origin or value)

    def candidates(self, value: Value) -> list[Place]:
        """Return where the batch may be in a tensor: several places if it is reshaped only when it is used."""
        if value.place is None:
            return []
        if value.origin is None:
            return [value.place]
        others = places(*around(value), value.shape)
        return [value.place, *(place for place in others if place != value.place)]

    def real(self, value: Value, place: Place | None = None) -> Value:
        """Return ``value`` as a tensor that stands in the network, with its batch in ``place`` if that is given."""
        if value.origin is None:
            return value
        wanted = place or value.place
        origin = value.origin
        if origin.shape == value.shape and origin.place == wanted:
            return origin
        made = self.scope.node("Reshape", [origin.name, self._target(origin, value.shape, wanted)], name=value.name)
        return Value(made, value.shape, wanted)

    def alone(self, value: Value, node: Node, axis: int | None = None) -> Value:
        """Return ``value`` in the network, its batch on an axis of its own (``axis``, if given)."""
        if value.place is None:
            return self.real(value)
        fitting = [place for place in self.candidates(value) if axis is None or place.axis == axis]
        if not fitting or value.shape[fitting[0].axis] != ONE:
            raise node.cannot(
                f"the batch of its input {value.name!r}, shape {_shown(value.shape)}, is not "
                f"{'an axis of its own' if axis is None else f'axis {axis}'}; the node mixes the samples of a batch"
            )
        return self.real(value, fitting[0])

    def repeated(self, value: Value, axis: int, node: Node) -> Value:
        """Return ``value``, which does not depend on the batch, once for each sample along ``axis`` of length 1."""
        value = self.real(value)
        if value.place is not None:
            return value
        if value.shape[axis] != ONE:
            raise node.cannot(f"its input {value.name!r} has {value.shape[axis]} elements where the batch is")
        parts = [self.integers([1])] * value.rank
        parts[axis] = self.batch_size()
        target = self._joined(parts, f"{value.name}.repeated_shape")
        made = self.scope.node("Expand", [value.name, target], name=f"{value.name}.repeated")
        return Value(made, value.shape, Place(axis))

    def batch_size(self) -> str:
        """Return the name of a tensor of one element: the number of samples."""
        if self._batch is None:
            raise ConversionError(f"{self.file}: no input of the graph has a batch")
        name, axis = self._batch
        return self.scope.node("Shape", [name], name="batch_size", start=axis, end=axis + 1)

    def transposed(self, value: Value, perm: Sequence[int], name: str) -> Value:
        """Return ``value`` with its axes in another order; a second exchange that undoes the first leaves nothing."""
        value = self.real(value)
        perm = tuple(perm)
        if value.name in self._transposes:
            before, first = self._transposes[value.name]
            perm, value = tuple(first[axis] for axis in perm), before
        if perm == tuple(range(value.rank)):
            return value
        shape = tuple(value.shape[axis] for axis in perm)
        place = value.place and Place(perm.index(value.place.axis), value.place.inner)
        made = Value(self.scope.node("Transpose", [value.name], name=name, perm=list(perm)), shape, place)
        self._transposes[made.name] = (value, perm)
        return made

    def _target(self, origin: Value, shape: Shape, place: Place | None) -> str:
        """Return the name of the shape to which ``origin`` is reshaped, with the batch in ``place``.

        One length may be left to Reshape (-1), those that stay where they are are taken over (0); what is left is
        measured.
        """
        parts: list[int | str | None] = []
        for axis, size in enumerate(shape):
            batch_here = place is not None and place.axis == axis
            if size.known and not batch_here:
                parts.append(size.number)
            elif (
                axis < origin.rank
                and origin.shape[axis] == size
                and _batch_in(origin, axis) == (place if batch_here else None)
            ):
                parts.append(0)
            else:
                parts.append(None)
        unknown = [axis for axis, part in enumerate(parts) if part is None]
        if unknown:
            # The batch itself can be measured anywhere; another length is best left over.
            alone = [axis for axis in unknown if place is not None and axis == place.axis and shape[axis] == ONE]
            rest = [axis for axis in unknown if axis not in alone] or alone
            parts[rest[0]] = -1
            for axis in rest[1:] if rest is not alone else []:
                parts[axis] = self._measured(origin, shape[axis])
            for axis in alone:
                if parts[axis] is None:
                    parts[axis] = self.batch_size()
        if all(isinstance(part, int) for part in parts):
            return self.integers([part for part in parts if isinstance(part, int)])
        names = [self.integers([part]) if isinstance(part, int) else str(part) for part in parts]
        return self._joined(names, "shape")

    def _measured(self, origin: Value, size: Count) -> str:
        for axis, own in enumerate(origin.shape):
            if own == size and _batch_in(origin, axis) is None:
                return self.scope.node("Shape", [origin.name], name="length", start=axis, end=axis + 1)
        raise ConversionError(f"{origin.name}: a length of {size} cannot be found in shape {_shown(origin.shape)}")

    def _joined(self, parts: Sequence[str], name: str) -> str:
        return parts[0] if len(parts) == 1 else self.scope.node("Concat", parts, name=name, axis=0)

    # --- Graphs

    def add_input(self, info: ValueInfoProto) -> None:
        """Add an input of the network: the batch first, a time axis behind it."""
        shape = self._declared[info.name]
        if any(not size.known and size.symbols[0] != CNTK_SEQUENCE for size in shape):
            raise ConversionError(f"{self.file}: input {info.name!r} has an axis of unknown length that is not time")
        batch = 1 if shape and not shape[0].known else 0
        if len(shape) <= batch or shape[batch] != ONE:
            own = self.network.input(info.name, dtype_of(info, self.file), _sizes(shape, None))
            self.set(info.name, Value(own, shape))
            return
        order = [batch, *(axis for axis in range(len(shape)) if axis != batch)]
        outer = tuple(shape[axis] for axis in order)
        own = self.network.input(info.name, dtype_of(info, self.file), _sizes(outer, 0))
        if self._batch is None:
            self._batch = (own, 0)
        value = Value(own, outer, Place(0))
        if batch:
            value = self.transposed(value, [order.index(axis) for axis in range(len(shape))], f"{own}.time_major")
        self.set(info.name, value)

    def reserve(self, outputs: Iterable[str]) -> None:
        """Keep the names of those outputs that have a time axis for what they will be with the batch first."""
        for name in outputs:
            shape = self._declared.get(name, ())
            if shape and not shape[0].known and name not in self._reserved and name not in self._constants:
                self._reserved.add(self.network.unique(name))

    def add_output(self, info: ValueInfoProto) -> None:
        """Make a tensor of the file an output of the network, under its own name, its batch first."""
        node = Node(info.name, "output", (), (), {})
        value = self.alone(self.value(info.name, node), node)
        if value.place is not None and value.place.axis:
            axis = value.place.axis
            order = [axis, *(other for other in range(value.rank) if other != axis)]
            value = self.transposed(value, order, f"{info.name}.batch_first")
        if info.name in self._reserved:
            if self.network.nodes[-1].output[:1] != [value.name]:
                value = value._replace(name=self.network.node("Identity", [value.name]))
            # The name was kept for this, which nothing else reads yet.
            self.network.nodes[-1].output[0] = info.name
            value = value._replace(name=info.name)
        batch = None if value.place is None else value.place.axis
        self.network.output(value.name, dtype_of(info, self.file), _sizes(value.shape, batch, unknown=None), info.name)

    def add_nodes(self, nodes: Sequence[NodeProto]) -> None:
        """Translate nodes in their order, which must be one in which they can be computed."""
        for number, proto in enumerate(nodes):
            node = _node(proto, number, self.file)
            rule = self._rules.get(node.op)
            if rule is None or proto.domain not in ("", "ai.onnx"):
                raise node.cannot(f"it is not in the operator table, which has {', '.join(sorted(self._rules))}")
            for name, value in zip(node.outputs, rule(self, node), strict=False):
                if name:
                    if value.rank > MAX_RANK:
                        raise MalformedFile(self.file, f"node {node.name!r}", f"a tensor of {value.rank} axes")
                    self.set(name, value)

    @contextmanager
    def body(self, graph: GraphProto, node: Node) -> Iterator[Scope]:
        """Yield the scope of a body inside which nodes are added; it sees the tensors around it."""
        if self._depth == MAX_DEPTH:
            raise node.cannot(f"its body stands in {MAX_DEPTH} others")
        outer = (self.scope, self._values, self._declared, self._transposes)
        self._depth += 1
        with self.network.body() as scope:
            self.scope = scope
            self._values = ChainMap({}, self._values)
            infos = (*graph.input, *graph.output, *graph.value_info)
            self._declared = {**self._declared, **{info.name: shape_of(info, self.file) for info in infos}}
            self._transposes = dict(self._transposes)
            self._constants = {
                **self._constants,
                **{tensor.name: array_of(tensor, self.file) for tensor in graph.initializer},
            }
            try:
                yield scope
            finally:
                self.scope, self._values, self._declared, self._transposes = outer
                self._depth -= 1


def build(source: Source, rules: dict[str, Rule]) -> Network:
    """Return the network of any batch for a file of CNTK; raises ``ConversionError`` if there is none."""
    version = next((item.version for item in source.model.opset_import if item.domain in ("", "ai.onnx")), 0)
    if version not in OPSETS:
        raise ConversionError(
            f"{source.file} is of operator set {version}; CNTK writes {OPSETS[0]} to {OPSETS[-1]}. A file that another "
            "program has changed is no longer CNTK's"
        )
    graph = source.model.graph
    translator = Translator(source, rules)
    for info in graph.input:
        if info.name not in source.constants:
            translator.add_input(info)
    outputs = _outputs(graph)
    translator.reserve(info.name for info in outputs)
    translator.add_nodes(graph.node)
    if not outputs:
        raise MalformedFile(source.file, "the graph", "it has no outputs")
    for info in outputs:
        translator.add_output(info)
    return translator.network


def _outputs(graph: GraphProto) -> list[ValueInfoProto]:
    """Return the outputs without the last states of loops, which CNTK lists because nothing reads them."""
    states = set()
    for node in graph.node:
        if node.op_type == "Scan":
            count = next((item.i for item in node.attribute if item.name == "num_scan_inputs"), len(node.input))
            states.update(node.output[: max(len(node.input) - count, 0)])
    kept = [info for info in graph.output if info.name not in states]
    return kept or list(graph.output)


def _node(proto: NodeProto, number: int, file: str) -> Node:
    name = proto.name or (proto.output[0] if proto.output else f"#{number}")
    attributes: dict[str, Any] = {}
    for attribute in proto.attribute:
        if attribute.type == AttributeProto.TENSOR:
            attributes[attribute.name] = array_of(attribute.t, file)
        else:
            attributes[attribute.name] = _plain(attribute, name, file)
    return Node(name, proto.op_type, tuple(proto.input), tuple(proto.output), attributes)


def _plain(attribute: AttributeProto, name: str, file: str) -> Any:
    try:
        found = helper.get_attribute_value(attribute)
        if isinstance(found, bytes):
            return found.decode()
        if isinstance(found, GraphProto):
            return found
        if hasattr(found, "__len__"):
            return [item.decode() if isinstance(item, bytes) else item for item in found]
    except (ValueError, UnicodeDecodeError) as error:
        raise MalformedFile(file, f"node {name!r}", f"attribute {attribute.name!r}: {error}") from error
    return found


def _declared_shapes(source: Source, file: str) -> dict[str, Shape]:
    """Return the shapes that the file gives, and those that follow from them."""
    model = onnx.ModelProto()
    model.CopyFrom(source.model)
    graph = model.graph
    known = {info.name for info in graph.input}
    for name, array in source.constants.items():
        if array.size <= SMALL:
            graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        elif name not in known:
            kind = helper.np_dtype_to_tensor_dtype(array.dtype.newbyteorder("="))
            graph.input.append(helper.make_tensor_value_info(name, kind, array.shape))
    infos = {info.name: info for info in (*graph.input, *graph.output, *graph.value_info)}
    try:
        inferred = shape_inference.infer_shapes(model).graph
        infos = {**{info.name: info for info in inferred.value_info}, **infos}
    except (shape_inference.InferenceError, ValueError, RuntimeError):
        pass  # what follows from a faulty shape is left out; the nodes that need it say so
    return {name: shape_of(info, file) for name, info in infos.items() if has_shape(info)}


def _sizes(shape: Shape, batch: int | None, unknown: str | None = SEQUENCE) -> list[int | str | None]:
    return [BATCH if axis == batch else size.number if size.known else unknown for axis, size in enumerate(shape)]


def _batch_in(value: Value, axis: int) -> Place | None:
    return value.place if value.place is not None and value.place.axis == axis else None


def _shown(shape: Shape) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"
