"""Values of the ONNX network as they stand for Theano's variables, and the operators that make new ones of them.

A value knows its sizes as far as they follow from the graph, its content if that is a constant, and, for the integers
that shapes are computed with, each element as a size. So computed shapes become constants wherever that is possible.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper
from onnx.reference import ReferenceEvaluator

from portmatrix.converters.errors import ConversionError, MalformedFile, Unsupported
from portmatrix.converters.network import OPSET, Network, Scope
from portmatrix.converters.theano.graph import Apply, Graph, Variable, in_order
from portmatrix.converters.theano.sizes import Size, Sizes, product

Array = NDArray[Any]
Dtype = np.dtype[Any]

#: Constants up to this size (elements) are computed here rather than in the network.
FOLDED = 1 << 20
#: Integer constants up to this size are followed as sizes.
FOLLOWED = 64
#: The last index that a slice may name, for slices without an end.
END = (1 << 63) - 1

_BOOL: Dtype = np.dtype(bool)
_INT: Dtype = np.dtype(np.int64)
_KINDS = {"TensorType", "Scalar", "GpuArrayType", "CudaNdarrayType"}


def onnx_dtype(name: str) -> Dtype:
    """Return the type that a Theano type is written as: itself, but single precision for double."""
    return np.dtype(np.float32) if name == "float64" else np.dtype(name)


@dataclass(eq=False, slots=True)
class Value:
    """A value of the network: where it is computed, its type and sizes, and its content as far as it is known."""

    dtype: Dtype
    shape: tuple[Size, ...]
    scope: Scope
    depth: int = 0
    own: str = ""
    array: Array | None = None
    parts: tuple[Size, ...] | None = None
    node: NodeProto | None = None

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def name(self) -> str:
        if not self.own and self.array is not None:
            self.own = self.scope.constant(self.array)
        return self.own

    def sizes(self) -> tuple[int, ...] | None:
        """Return all sizes if they are numbers."""
        found = tuple(size.number for size in self.shape)
        return None if None in found else tuple(size for size in found if size is not None)


Handler = Callable[["Translator", Apply], "Value | Sequence[Value]"]


class Translator:
    """Translates applications into a network, one after the other, by the table of operators."""

    def __init__(self, network: Network, graph: Graph, file: str, table: dict[str, Handler], sizes: Sizes) -> None:
        self.network = network
        self.graph = graph
        self.file = file
        self.sizes = sizes
        self._table = table
        self.values: dict[Variable, Value] = {}
        self.uses: dict[Variable, int] = {}
        self._depths: dict[int, int] = {id(network): 0}
        self._bodies: list[Scope] = [network]
        self._buffers: dict[Value, tuple[Value, Value, int]] = {}
        self._last: dict[Value, Value] = {}
        self._origins: dict[str, tuple[Value, int]] = {}

    # -- the graph -----------------------------------------------------------------------------------------------

    def translate(self, outputs: Sequence[Variable]) -> list[Value]:
        """Return the values of ``outputs``, having added all that they need."""
        order = in_order(outputs, self.file, {id(variable) for variable in self.values})
        for variable in (*outputs, *(source for apply in order for source in apply.inputs)):
            self.uses[variable] = self.uses.get(variable, 0) + 1
        for apply in order:
            self._apply(apply)
        return [self.value(variable) for variable in outputs]

    def _apply(self, apply: Apply) -> None:
        handler = self._table.get(apply.op.kind)
        if handler is None:
            raise Unsupported(apply.label, apply.op.kind, "there is no translation of this Theano operation to ONNX")
        try:
            made = handler(self, apply)
        except (IndexError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            where = f"operation {apply.op.kind} of {apply.label!r}"
            raise MalformedFile(self.file, where, f"its parts do not fit together ({error})") from error
        outputs = [made] if isinstance(made, Value) else list(made)
        for variable, value in zip(apply.outputs, outputs, strict=False):
            self.values[variable] = value

    def value(self, variable: Variable) -> Value:
        """Return the value of a variable: computed before, or a constant."""
        known = self.values.get(variable)
        if known is not None:
            return known
        if not variable.has_value:
            name = variable.name or f"of type {variable.type}"
            raise MalformedFile(
                self.file, f"variable {name}", "nothing computes it, and it is none of the inputs; add it to the inputs"
            )
        made = self._constant_of(variable)
        self.values[variable] = made
        return made

    def _constant_of(self, variable: Variable) -> Value:
        if variable.type not in _KINDS or variable.value is None:
            needed = f"it is used as a value, and only tensors and numbers are; it is {variable.type}"
            raise Unsupported(variable.name or "constant", variable.type, needed)
        array = np.asarray(variable.value)
        if array.dtype.kind not in "biuf":
            raise Unsupported(variable.name or "constant", variable.type, f"ONNX operators do not take {array.dtype}")
        if array.ndim != variable.rank:
            raise MalformedFile(
                self.file, f"constant {variable.name}", f"it has {array.ndim} axes, not {variable.rank}"
            )
        return self.constant(array, variable.name or "constant")

    # -- values --------------------------------------------------------------------------------------------------

    def constant(self, content: Any, name: str = "constant") -> Value:
        """Return a constant; doubles become single precision, which is all that is written."""
        array = np.asarray(content)
        if array.dtype.itemsize > 1 and not array.dtype.isnative and array.size <= FOLDED:
            array = array.astype(array.dtype.newbyteorder("="))
        if array.dtype.kind == "f" and array.dtype.itemsize > 4:
            array = array.astype(np.float32)
        made = Value(array.dtype.newbyteorder("="), tuple(map(Size.of, array.shape)), self.network, array=array)
        if array.size > FOLLOWED or name != "constant":
            made.own = self.network.initializer(array, name)
        if array.size <= FOLLOWED and array.dtype.kind in "iub" and array.ndim <= 1:
            made.parts = tuple(Size.of(int(item)) for item in array.ravel())
        return made

    def numbers(self, *content: int) -> Value:
        """Return a vector of 64-bit integers."""
        return self.constant(np.array(content, np.int64))

    def made(self, name: str, dtype: Dtype, shape: Iterable[Size], scope: Scope) -> Value:
        """Return the value for something that is in ``scope`` under ``name``."""
        return Value(dtype, tuple(shape), scope, self._depths[id(scope)], name)

    def with_parts(self, value: Value, parts: Sequence[Size] | None) -> Value:
        """Return the value whose elements are known as sizes; a constant if all are numbers."""
        if parts is None:
            return value
        resolved = tuple(self.sizes.resolved(part) for part in parts)
        numbers = [part.number for part in resolved]
        if None not in numbers:
            array = np.array(numbers, np.int64).reshape((-1,) if value.rank else ()).astype(value.dtype)
            return self.constant(array)
        value.parts = resolved
        return value

    # -- operators -----------------------------------------------------------------------------------------------

    def op(
        self,
        kind: str,
        *inputs: Value | None,
        shape: Iterable[Size],
        dtype: Any = None,
        label: str = "",
        **attributes: Any,
    ) -> Value:
        """Add an operator with one output, as far out of loop bodies as its inputs allow, and return its value."""
        return self.ops(kind, inputs, [(shape, dtype)], label, **attributes)[0]

    def ops(
        self,
        kind: str,
        inputs: Sequence[Value | None],
        outputs: Sequence[tuple[Iterable[Size], Any]],
        label: str = "",
        **attributes: Any,
    ) -> list[Value]:
        """Add an operator with several outputs, each given by shape and type (None: that of the first input)."""
        given = [value for value in inputs if value is not None]
        kinds = [np.dtype(given[0].dtype if dtype is None else dtype) for _, dtype in outputs]
        folded = self._folded(kind, inputs, len(outputs), attributes)
        if folded is not None:
            return [self.constant(array.astype(dtype, copy=False)) for array, dtype in zip(folded, kinds, strict=True)]
        scope = self.home(given)
        names = scope.nodes_of(
            kind,
            [value.name if value is not None else "" for value in inputs],
            len(outputs),
            label or kind,
            **attributes,
        )
        made = [
            self.made(name, dtype, shape, scope) for name, dtype, (shape, _) in zip(names, kinds, outputs, strict=True)
        ]
        for value in made:
            value.node = scope.nodes[-1]
        return made

    def home(self, values: Sequence[Value]) -> Scope:
        """Return the innermost scope that any of the values is computed in."""
        return max(values, key=lambda value: value.depth).scope if values else self.network

    def _folded(
        self, kind: str, inputs: Sequence[Value | None], outputs: int, attributes: dict[str, Any]
    ) -> list[Array] | None:
        """Return what an operator makes of constants, if its inputs are some and small enough."""
        arrays = [value.array if value is not None else None for value in inputs]
        if any(array is None for array, value in zip(arrays, inputs, strict=True) if value is not None):
            return None
        if sum(array.size for array in arrays if array is not None) > FOLDED or kind in (
            "Loop",
            "If",
            "Expand",
            "Tile",
        ):
            return None
        names = [f"i{index}" if array is not None else "" for index, array in enumerate(arrays)]
        made = [f"o{index}" for index in range(outputs)]
        given = {key: value for key, value in attributes.items() if value is not None}
        feeds = {name: np.asarray(array) for name, array in zip(names, arrays, strict=True) if name}
        infos = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in feeds.items()
        ]
        outs = [onnx.ValueInfoProto(name=name) for name in made]
        graph = helper.make_graph([helper.make_node(kind, names, made, **given)], "constants", infos, outs)
        try:
            with np.errstate(all="ignore"):
                found = ReferenceEvaluator(
                    helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
                ).run(None, feeds)
        except Exception:
            return None
        return [np.asarray(array) for array in found]

    def cast(self, value: Value, dtype: Any) -> Value:
        """Return the value as another type; itself if it has it."""
        wanted = np.dtype(dtype)
        if value.dtype == wanted:
            return value
        if value.array is not None:
            with np.errstate(all="ignore"):
                return self.constant(value.array.astype(wanted))
        made = self.op("Cast", value, shape=value.shape, dtype=wanted, to=helper.np_dtype_to_tensor_dtype(wanted))
        if wanted.kind in "iu":
            made.parts = value.parts
        return made

    # -- bodies of loops -----------------------------------------------------------------------------------------

    def enter(self, scope: Scope) -> None:
        """Make ``scope`` one of which values may be computed, inside of all others so far."""
        self._depths[id(scope)] = len(self._bodies)
        self._bodies.append(scope)

    def leave(self) -> None:
        """Leave the innermost scope."""
        self._bodies.pop()

    def held(self, value: Value, scope: Scope) -> Value:
        """Return the value as a node of ``scope`` itself, which outputs of a body must be."""
        name = scope.node("Identity", [value.name])
        return self.made(name, value.dtype, value.shape, scope)

    def buffered(self, initial: Value, steps: Value, last: Value, depth: int) -> Value:
        """Return the buffer of a recurrent output: its initial values, then those of all steps."""
        made = self.op("Concat", self.cast(initial, steps.dtype), steps, shape=_behind(initial, steps), axis=0)
        self._buffers[made] = (steps, last, depth)
        self._last[steps] = last
        return made

    def after_loop(self, value: Value, start: Any, *, index: bool) -> Value | None:
        """Return what ``[start:]`` or ``[start]`` takes of a buffer, if that is the steps alone or the last one."""
        known = self._buffers.get(value)
        if not index:
            return known[0] if known and start == known[2] else None
        if start == -1:
            return known[1] if known else self._last.get(value)
        return None

    # -- shapes --------------------------------------------------------------------------------------------------

    def size_of(self, value: Value, axis: int) -> Value:
        """Return one size of a value, a number, as a 64-bit integer."""
        size = self.sizes.resolved(value.shape[axis])
        if size.number is not None:
            return self.constant(np.array(size.number, np.int64))
        shape = self.op("Shape", value, shape=[Size.of(value.rank)], dtype=_INT)
        made = self.op("Gather", shape, self.constant(np.array(axis, np.int64)), shape=(), dtype=_INT, axis=0)
        made.parts = (size,)
        return made

    def shape_of(self, value: Value) -> Value:
        """Return the shape of a value as a vector of 64-bit integers."""
        parts = tuple(self.sizes.resolved(size) for size in value.shape)
        if all(part.number is not None for part in parts):
            return self.numbers(*[part.number or 0 for part in parts])
        made = self.op("Shape", value, shape=[Size.of(value.rank)], dtype=_INT)
        made.parts = parts
        return made

    def unsqueezed(self, value: Value, *axes: int) -> Value:
        """Return the value with axes of size 1 put in at ``axes`` of the result."""
        if not axes:
            return value
        shape = list(value.shape)
        for axis in sorted(axes):
            shape.insert(axis, Size.of(1))
        if value.array is not None:
            made = self.constant(np.expand_dims(value.array, axes), value.own or "constant")
            return self.with_parts(made, value.parts if made.rank <= 1 else None)
        made = self.op("Unsqueeze", value, self.numbers(*axes), shape=shape)
        return self.with_parts(made, value.parts if made.rank <= 1 else None)

    def squeezed(self, value: Value, *axes: int) -> Value:
        """Return the value without ``axes``, which have size 1."""
        if not axes:
            return value
        if value.array is not None:
            return self.constant(np.squeeze(value.array, axes), value.own or "constant")
        shape = [size for axis, size in enumerate(value.shape) if axis not in axes]
        made = self.op("Squeeze", value, self.numbers(*axes), shape=shape)
        return self.with_parts(made, value.parts)

    def transposed(self, value: Value, order: Sequence[int]) -> Value:
        """Return the value with its axes in ``order``; a constant stays a view."""
        if list(order) == list(range(value.rank)):
            return value
        if value.array is not None:
            return self.constant(value.array.transpose(order), value.own or "constant")
        return self.op("Transpose", value, shape=[value.shape[axis] for axis in order], perm=list(order))

    def vector(self, sizes: Sequence[Value]) -> Value:
        """Return integers, numbers each, as one vector."""
        parts = [value.parts[0] if value.parts else None for value in sizes]
        known = [part for part in parts if part is not None]
        whole = known if len(known) == len(parts) else None
        if whole is not None and all(self.sizes.resolved(part).number is not None for part in whole):
            return self.numbers(*[self.sizes.resolved(part).number or 0 for part in whole])
        flat = [self.unsqueezed(self.cast(value, _INT), 0) for value in sizes]
        made = self.op("Concat", *flat, shape=[Size.of(len(flat))], dtype=_INT, axis=0)
        return self.with_parts(made, whole)

    def input(self, name: str, variable: Variable) -> Value:
        """Add an input of the network, whose sizes are unknowns that are named after it and their axes."""
        dtype, flags = onnx_dtype(variable.dtype), variable.broadcastable
        shape = [Size.of(1) if flag and axis else Size.of(f"{name}.{axis}") for axis, flag in enumerate(flags)]
        made = self.made(self.network.input(name, dtype, [None] * len(shape)), dtype, shape, self.network)
        for axis, size in enumerate(shape):
            if size.unknown is not None:
                self._origins[size.unknown] = (made, axis)
        self.values[variable] = made
        return made

    def computed(self, size: Size) -> Value | None:
        """Return a size as a value: a constant, or that of an input's axis; None if it is anything else."""
        size = self.sizes.resolved(size)
        if size.number is not None:
            return self.constant(np.int64(size.number))
        origin = self._origins.get(size.unknown or "")
        return None if origin is None else self.size_of(*origin)

    def reshaped(self, value: Value, target: Sequence[Size], given: Value | None = None) -> Value:
        """Return the value in the shape ``target``; ``given`` is the same as a computed vector, if there is one."""
        target = tuple(self.sizes.resolved(size) for size in target)
        own = tuple(self.sizes.resolved(size) for size in value.shape)
        if own == target:
            return value
        if value.array is not None and all(size.number is not None for size in target):
            return self.constant(value.array.reshape([size.number or 0 for size in target]), value.own or "constant")
        written = []
        for axis, size in enumerate(target):
            if size.number:
                written.append(size.number)
            else:
                written.append(0 if axis < len(own) and own[axis] == size else -1)
        if written.count(-1) > 1 or any(size.number == 0 for size in target):
            if given is None:
                raise ConversionError("a shape with two unknown sizes was asked for. This is a fault of the converter")
            return self.op("Reshape", value, self.cast(given, _INT), shape=target)
        return self.op("Reshape", value, self.numbers(*written), shape=target)

    def runtime_sizes(self, value: Value, axes: Iterable[int]) -> Value:
        """Return the sizes of some axes as a vector."""
        return self.vector([self.size_of(value, axis) for axis in axes])

    def resolved(self, shape: Iterable[Size]) -> tuple[Size, ...]:
        """Return a shape with all that is known of its sizes."""
        return tuple(map(self.sizes.resolved, shape))

    def broadcast(self, shapes: Sequence[Sequence[Size]]) -> tuple[Size, ...]:
        """Return the shape that values of these shapes have together, recording which sizes must be equal."""
        rank = max(len(shape) for shape in shapes)
        found = []
        for axis in range(-rank, 0):
            sizes = [self.sizes.resolved(shape[axis]) for shape in shapes if len(shape) >= -axis]
            others = [size for size in sizes if size.number != 1]
            common = others[0] if others else Size.of(1)
            for size in others[1:]:
                common = self.sizes.unify(common, size)
            found.append(common)
        return tuple(found)

    def expanded(self, value: Value, shape: Sequence[Size], given: Value) -> Value:
        """Return the value repeated along axes of size 1 to ``shape``, which ``given`` computes."""
        if tuple(map(self.sizes.resolved, value.shape)) == tuple(map(self.sizes.resolved, shape)):
            return value
        return self.op("Expand", value, self.cast(given, _INT), shape=shape)

    def number_of(self, value: Value) -> Any:
        """Return the content of a constant of one element, or None."""
        return value.array.ravel()[0] if value.array is not None and value.array.size == 1 else None

    def integers_of(self, value: Value, apply: Apply, what: str) -> list[int]:
        """Return a constant vector's integers; raises ``Unsupported`` if it is computed of the inputs."""
        if value.array is None:
            raise Unsupported(apply.label, apply.op.kind, f"{what} must not depend on the inputs")
        return [int(item) for item in value.array.ravel()]


def total(value: Value) -> Size:
    """Return the number of elements of a value."""
    return product(value.shape)


def _behind(first: Value, second: Value) -> list[Size]:
    return [first.shape[0].plus(second.shape[0]), *second.shape[1:]]
