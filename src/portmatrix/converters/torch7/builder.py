"""What layers are translated with: values that know their sizes, and the ONNX nodes that work on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from portmatrix.converters.network import Network, Scope
from portmatrix.converters.torch7.modules import Module
from portmatrix.converters.torch7.objects import Array
from portmatrix.converters.torch7.sizes import (
    Mismatch,
    Size,
    SizeNeeded,
    Sizes,
    Symbol,
    agree,
    is_unknown,
    product,
    unknown,
    written,
)


@dataclass(frozen=True)
class Value:
    """A tensor of the network: its name in the ONNX graph, its sizes, and whether it holds whole numbers."""

    name: str
    sizes: Sizes
    whole: bool = False

    @property
    def rank(self) -> int:
        """How many dimensions it has."""
        return len(self.sizes)


#: What flows between layers: a tensor, or a table of such.
Flow = Value | list["Flow"]
Translation = Callable[["Builder", Module, "Flow"], "Flow"]

#: Translations by the type of layer; the modules ``layers_*`` fill it.
TRANSLATIONS: dict[str, Translation] = {}
#: Nesting of containers beyond which a network is refused.
MAX_NESTING = 200
#: Nodes beyond which a network is refused: one layer can be reached over very many paths.
MAX_NODES = 200_000


def translates(*kinds: str) -> Callable[[Translation], Translation]:
    """Return a decorator that enters a translation for these types of layers."""

    def enter(function: Translation) -> Translation:
        for kind in kinds:
            TRANSLATIONS[kind] = function
        return function

    return enter


class Builder:
    """Builds the ONNX graph; ``trial`` only walks the network, to see whether an input's size fits it."""

    def __init__(self, network: Network, *, trial: bool) -> None:
        self.network = network
        self.trial = trial
        self.scope: Scope = network
        self._depth = 0
        self._count = 0
        #: Layers whose memory of their last input contradicts the sizes that are assumed here.
        self.contradictions = 0

    def translate(self, module: Module, flow: Flow) -> Flow:
        """Return what a layer makes of its input. Raises ``Unsupported``, ``Mismatch`` or ``SizeNeeded``."""
        known = TRANSLATIONS.get(module.kind)
        if known is None:
            module.unsupported(
                "there is no translation for this type. Replace it by layers in the table of "
                "docs/converters/torch7.md, or leave it out if it has no meaning after training"
            )
        self._depth += 1
        if self._depth > MAX_NESTING:
            module.fault(f"layers are nested more than {MAX_NESTING} deep")
        try:
            return known(self, module, flow)
        finally:
            self._depth -= 1

    def tensor(self, module: Module, flow: Flow, ranks: Sequence[int] = ()) -> Value:
        """Return the input if it is a tensor with one of these ranks. Raises ``Mismatch``."""
        if not isinstance(flow, Value):
            raise Mismatch(f"layer {module.path!r} needs a tensor, but gets a table of {len(flow)}")
        if ranks and flow.rank not in ranks:
            wanted = " or ".join(str(rank) for rank in ranks)
            raise Mismatch(f"layer {module.path!r} needs {wanted} dimensions, but gets {written(flow.sizes)}")
        return flow

    def table(self, module: Module, flow: Flow) -> list[Flow]:
        """Return the input if it is a table. Raises ``Mismatch``."""
        if isinstance(flow, Value):
            raise Mismatch(f"layer {module.path!r} needs a table, but gets a tensor {written(flow.sizes)}")
        return flow

    def tensors(self, module: Module, flow: Flow) -> list[Value]:
        """Return the input if it is a table of tensors. Raises ``Mismatch``."""
        return [self.tensor(module, part) for part in self.table(module, flow)]

    def expect(self, module: Module, value: Value, axis: int, size: int) -> None:
        """Raise ``Mismatch`` unless the input's size along ``axis`` is ``size``, ``SizeNeeded`` if it is not known."""
        if value.sizes[axis] == size:
            return
        text = f"layer {module.path!r} needs size {size} in dimension {axis % value.rank + 1}"
        if is_unknown(value.sizes[axis]):
            raise SizeNeeded(f"{text}, which depends on the size of the network's input")
        raise Mismatch(f"{text}, but gets {written(value.sizes)}")

    def number(self, module: Module, size: Size) -> int:
        """Return a size that has to be a number. Raises ``SizeNeeded``, or ``Unsupported`` if it is the batch's."""
        if isinstance(size, int):
            return size
        if is_unknown(size):
            raise SizeNeeded(f"layer {module.path!r} needs the number of a size that is not known")
        return module.unsupported("it works along the batch, whose size is not fixed in an ONNX file")

    def constant(self, value: Any, dtype: Any = np.float32, name: str = "constant") -> str:
        """Return the name of a constant."""
        return name if self.trial else self.network.constant(value, dtype, name)

    def weight(self, module: Module, value: Array, name: str) -> str:
        """Return the name of a constant that holds the weight ``value`` of a layer."""
        return name if self.trial else self.network.constant(value, None, f"{module.path}.{name}")

    def nodes(self, op: str, inputs: Sequence[str], outputs: int, name: str, **attributes: Any) -> tuple[str, ...]:
        """Add a node and return the names of its outputs."""
        self._count += 1
        if self._count > MAX_NODES:
            raise Mismatch(f"the network has more than {MAX_NODES} operations")
        if self.trial:
            return (name or op,) * outputs
        return self.scope.nodes_of(op, inputs, outputs, name, **attributes)

    def node(self, op: str, inputs: Sequence[str], name: str = "", **attributes: Any) -> str:
        """Add a node with one output and return its name."""
        return self.nodes(op, inputs, 1, name, **attributes)[0]

    def same(self, module: Module, op: str, value: Value, *more: str, **attributes: Any) -> Value:
        """Add a node whose output has its first input's sizes."""
        name = self.node(op, [value.name, *more], module.path, **attributes)
        return Value(name, value.sizes, value.whole)

    def real(self, value: Value) -> Value:
        """Return the tensor as float32."""
        if not value.whole:
            return value
        return Value(self.node("Cast", [value.name], to=1), value.sizes)

    def scalar(self, module: Module, op: str, value: Value, number: float) -> Value:
        """Add a node that combines each element with a number."""
        return self.same(module, op, self.real(value), self.constant(number))

    def reshape(self, value: Value, sizes: Sequence[Size], name: str = "") -> Value:
        """Return the value with other sizes of the same product."""
        sizes = tuple(sizes)
        if sizes == value.sizes:
            return value
        return Value(self.node("Reshape", [value.name, self._shape(value, sizes)], name), sizes, value.whole)

    def _shape(self, value: Value, sizes: Sizes) -> str:
        """Return the name of a shape: sizes that stay are 0, one that follows from the others is -1."""
        stated: list[int] = []
        open_axes = []
        for axis, size in enumerate(sizes):
            if isinstance(size, int):
                stated.append(size)
            elif axis < value.rank and value.sizes[axis] == size:
                stated.append(0)
            else:
                open_axes.append(axis)
                stated.append(-1)
        if 0 in [size for size in sizes if isinstance(size, int)]:
            raise Mismatch("a tensor without elements arises")
        if len(open_axes) > 1:
            return self._computed_shape(value, sizes, open_axes)
        return self.constant(stated, np.int64)

    def _computed_shape(self, value: Value, sizes: Sizes, open_axes: list[int]) -> str:
        """Return the name of a shape that is put together from the input's when the network runs."""
        whole = self.node("Shape", [value.name])
        parts = []
        for axis, size in enumerate(sizes):
            if isinstance(size, int):
                parts.append(self.constant([size], np.int64))
            elif size in value.sizes:
                parts.append(self.node("Gather", [whole, self.constant([value.sizes.index(size)], np.int64)], axis=0))
            elif axis == open_axes[-1] or all(other in value.sizes for other in sizes[axis + 1 :]):
                parts.append(self.constant([-1], np.int64))
            else:
                raise SizeNeeded(f"a tensor {written(value.sizes)} cannot be given the sizes {written(sizes)}")
        return self.node("Concat", parts, axis=0)

    def unmerge(self, value: Value, original: Value, count: int) -> Value:
        """Return the value with its first dimension as the first ``count`` of ``original``, whose product it is."""
        sizes = (*original.sizes[:count], *value.sizes[1:])
        if sum(isinstance(size, Symbol) for size in sizes) <= 1:
            return self.reshape(value, sizes)
        parts = [self.node("Shape", [original.name], end=count)]
        if value.rank > 1:
            parts.append(self.node("Shape", [value.name], start=1))
        name = self.node("Reshape", [value.name, self.node("Concat", parts, axis=0)])
        return Value(name, sizes, value.whole)

    def transpose(self, value: Value, order: Sequence[int], name: str = "") -> Value:
        """Return the value with its dimensions in another order."""
        if list(order) == list(range(value.rank)):
            return value
        sizes = tuple(value.sizes[axis] for axis in order)
        return Value(self.node("Transpose", [value.name], name, perm=list(order)), sizes, value.whole)

    def select(self, value: Value, axis: int, index: int, name: str = "") -> Value:
        """Return the slice at ``index`` (negative: from the end) of a dimension, which is gone then."""
        sizes = value.sizes[:axis] + value.sizes[axis + 1 :]
        return Value(
            self.node("Gather", [value.name, self.constant(index, np.int64)], name, axis=axis), sizes, value.whole
        )

    def narrow(self, value: Value, axis: int, start: int, length: int, name: str = "") -> Value:
        """Return ``length`` slices of a dimension from ``start`` (from 0) on."""
        bounds = [self.constant([number], np.int64) for number in (start, start + length, axis)]
        sizes = (*value.sizes[:axis], length, *value.sizes[axis + 1 :])
        return Value(self.node("Slice", [value.name, *bounds], name), sizes, value.whole)

    def squeeze(self, value: Value, axis: int) -> Value:
        """Return the value without a dimension of size 1."""
        axes = self.constant([axis], np.int64)
        sizes = value.sizes[:axis] + value.sizes[axis + 1 :]
        return Value(self.node("Squeeze", [value.name, axes]), sizes, value.whole)

    def unsqueeze(self, value: Value, axis: int, name: str = "") -> Value:
        """Return the value with a new dimension of size 1 before ``axis``."""
        axes = self.constant([axis], np.int64)
        sizes = (*value.sizes[:axis], 1, *value.sizes[axis:])
        return Value(self.node("Unsqueeze", [value.name, axes], name), sizes, value.whole)

    def concat(self, module: Module, values: Sequence[Value], axis: int) -> Value:
        """Return the values one after the other along a dimension."""
        first = values[0]
        for value in values[1:]:
            rest = [at for at in range(first.rank) if at != axis]
            if value.rank != first.rank or not all(agree(value.sizes[at], first.sizes[at]) for at in rest):
                texts = " and ".join(written(part.sizes) for part in (first, value))
                raise Mismatch(f"layer {module.path!r} cannot join {texts} along dimension {axis + 1}")
        whole = all(value.whole for value in values)
        names = [value.name if whole else self.real(value).name for value in values]
        total = total_size([value.sizes[axis] for value in values])
        sizes = (*first.sizes[:axis], total, *first.sizes[axis + 1 :])
        return Value(self.node("Concat", names, module.path, axis=axis), sizes, whole)

    def reduce(self, module: Module, op: str, value: Value, axis: int, *, keep: bool = False) -> Value:
        """Return a reduction along one dimension, which is gone then or, with ``keep``, of size 1."""
        inputs = [value.name, self.constant([axis], np.int64)]
        sizes = (*value.sizes[:axis], *((1,) if keep else ()), *value.sizes[axis + 1 :])
        return Value(self.node(op, inputs, module.path, keepdims=int(keep)), sizes)

    @contextmanager
    def inside(self, body: Scope) -> Iterator[None]:
        """Have nodes added to the body of a loop."""
        outer, self.scope = self.scope, body
        try:
            yield
        finally:
            self.scope = outer


def total_size(sizes: Sequence[Size]) -> Size:
    """Return the sum of sizes."""
    if all(isinstance(size, int) for size in sizes):
        return sum(size for size in sizes if isinstance(size, int))
    if len({size.name for size in sizes if isinstance(size, Symbol)}) == 1 and not any(
        isinstance(size, int) for size in sizes
    ):
        symbols = [size for size in sizes if isinstance(size, Symbol)]
        return Symbol(symbols[0].name, sum(size.factor for size in symbols))
    return unknown()


def axis_of(module: Module, dimension: int, rank: int, inner_rank: int | None = None) -> int:
    """Return Torch's dimension (from 1, negative from the end) as an axis from 0.

    ``inner_rank`` is the rank of a single sample, where a layer has it: an input of one more is a batch of them.
    """
    axis = rank + dimension if dimension < 0 else dimension - 1
    if dimension > 0 and inner_rank and rank == inner_rank + 1:
        axis += 1
    if not 0 <= axis < rank:
        raise Mismatch(f"layer {module.path!r} works along dimension {dimension}, but gets {rank} dimensions")
    return axis


def elements(value: Value) -> Size:
    """Return how many elements a value has."""
    return product(value.sizes)
