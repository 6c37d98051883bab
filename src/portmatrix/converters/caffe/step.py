"""One layer while it is translated: its bottoms, its parameters and weights, and the nodes that it becomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from portmatrix.converters.caffe import sizes
from portmatrix.converters.caffe.message import Message
from portmatrix.converters.caffe.net import LayerSpec
from portmatrix.converters.caffe.sizes import Shape, Size
from portmatrix.converters.errors import ConversionError, Unsupported
from portmatrix.converters.network import Network

if TYPE_CHECKING:
    from portmatrix.converters.caffe.graph import Graph

_LEGACY_AXES = 4


@dataclass(frozen=True)
class Value:
    """A blob in the ONNX network: its name there, its shape, and, of a constant, what it holds.

    ``constant`` has 1 for each size that is not a number; ``uses`` counts the layers that read the blob.
    """

    name: str
    shape: Shape
    constant: NDArray[Any] | None = None
    uses: int = 1

    @property
    def rank(self) -> int:
        """The number of axes."""
        return len(self.shape)


class Step:
    """Translates one layer. What the methods raise names the layer, and what would be needed."""

    def __init__(
        self, graph: Graph, index: int, spec: LayerSpec, bottoms: Sequence[Value], names: Sequence[str]
    ) -> None:
        self.graph = graph
        self.index = index
        self.spec = spec
        self.bottoms = tuple(bottoms)
        #: The name of each top in the ONNX network, empty for one that is written over later.
        self.names = tuple(names)

    @property
    def network(self) -> Network:
        """The ONNX network that is built."""
        return self.graph.network

    def unsupported(self, needed: str) -> Unsupported:
        """Return the error for what has no ONNX equivalent here."""
        return Unsupported(self.spec.name, self.spec.kind, needed)

    def wrong(self, why: str) -> ConversionError:
        """Return the error for a layer that Caffe would refuse as well."""
        return ConversionError(f"{self.spec.title}: {why}")

    def param(self, name: str) -> Message:
        """Return one of the layer's parameter messages."""
        return self.spec.spec.message(name)

    def expect(self, bottoms: int | tuple[int, int], tops: int | tuple[int, int] = 1) -> None:
        """Check the numbers of bottoms and tops, each one number or a range."""
        for what, given, wanted in (("bottom", len(self.bottoms), bottoms), ("top", len(self.names), tops)):
            low, high = (wanted, wanted) if isinstance(wanted, int) else wanted
            if not low <= given <= high:
                legal = str(low) if low == high else f"{low} to {high}" if high < 1 << 20 else f"at least {low}"
                raise self.wrong(f"expected {legal} {what}s, found {given}")

    def axis(self, axis: int, rank: int) -> int:
        """Return the axis counted from the front (``Blob::CanonicalAxisIndex``)."""
        if not -rank <= axis < rank:
            raise self.wrong(f"axis {axis} is out of range for a blob of {rank} axes")
        return axis % rank

    def fixed(self, size: Size, what: str) -> int:
        """Return a size that has to be a number, the same for every batch."""
        if not size.fixed:
            raise self.unsupported(f"{what} depends on the batch; the batch would have to be another axis")
        return size.declared

    def node(self, op: str, inputs: Sequence[str], top: int | None = None, **attributes: Any) -> str:
        """Add a node and return its output, which is named after the layer's top if one is given."""
        return self.network.node(op, inputs, self.name(op, top), **attributes)

    def name(self, op: str, top: int | None = None) -> str:
        """Return the name for an output of a node of type ``op``: the top's, or the layer's with the type."""
        return (self.names[top] if top is not None else "") or f"{self.spec.name}/{op}"

    def constant(self, value: Any, dtype: type = np.float32, name: str = "constant") -> str:
        """Return the name of a constant, float32 if no other type is given."""
        with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, as in Caffe
            return self.network.constant(value, dtype, f"{self.spec.name}/{name}")

    def integers(self, *values: int) -> str:
        """Return the name of a one-dimensional constant of int64."""
        return self.network.constant(values, np.int64, f"{self.spec.name}/integers")

    def weight(self, name: str, value: NDArray[Any]) -> str:
        """Return the name of a weight in the ONNX network."""
        return self.network.initializer(value, f"{self.spec.name}/{name}")

    def blobs(self, *shapes: Sequence[int]) -> list[NDArray[Any]]:
        """Return the layer's weights, which must have these shapes (``Blob::ShapeEquals``), as views of their file."""
        found = self.spec.blobs
        if found is None:
            raise ConversionError(
                f"{self.spec.title}: the weights have no layer of this name; give the .caffemodel of this network"
                if self.graph.weighted
                else f"{self.spec.title}: needs weights, and none were given; add the .caffemodel to the prototxt"
            )
        if len(found) != len(shapes):
            raise ConversionError(
                f"{self.spec.title}: the weights hold {len(found)} blobs for it, the network needs {len(shapes)}"
            )
        return [self._blob(index, tuple(shape)) for index, shape in enumerate(shapes)]

    def _blob(self, index: int, shape: tuple[int, ...]) -> NDArray[Any]:
        assert self.spec.blobs is not None
        blob = self.spec.blobs[index]
        if blob is None:
            raise ConversionError(f"{self.spec.title}: the weights hold no blob {index} for it")
        wanted: tuple[int, ...] = shape
        if blob.legacy and len(shape) <= _LEGACY_AXES:
            wanted = (1,) * (_LEGACY_AXES - len(shape)) + shape
        elements = int(np.prod(shape, dtype=object))
        loose = index in self.spec.loose and int(np.prod(blob.shape, dtype=object)) == elements
        if blob.shape != wanted and not loose:
            raise ConversionError(
                f"{self.spec.title}: blob {index} is {sizes.shown(blob.shape)} in the weights, and "
                f"{sizes.shown(shape)} by the network file; are both of the same network?"
            )
        if blob.values.size != elements:
            raise ConversionError(
                f"{self.spec.title}: blob {index} holds {blob.values.size} numbers, {elements} for its shape "
                f"{sizes.shown(shape)} are needed; is the file damaged?"
            )
        return blob.values.reshape(shape)

    def result(self, name: str, shape: Sequence[Size]) -> Value:
        """Return a top."""
        return Value(name, tuple(shape))

    def unary(self, op: str, **attributes: Any) -> list[Value]:
        """Translate into one node that keeps the shape."""
        self.expect(1)
        return [self.result(self.node(op, [self.bottoms[0].name], 0, **attributes), self.bottoms[0].shape)]

    def reshape(self, value: Value, shape: Sequence[Size], top: int | None = None) -> Value:
        """Return ``value`` with another shape of as many elements; nothing is added if it has that shape."""
        shape = tuple(shape)
        if shape == value.shape:
            return value
        open_ = [axis for axis, size in enumerate(shape) if not size.fixed]
        copied = [axis for axis in open_ if axis < value.rank and value.shape[axis] == shape[axis]]
        if len(open_) - len(copied) <= 1:
            dims = [0 if axis in copied else -1 if axis in open_ else size.declared for axis, size in enumerate(shape)]
            target = self.integers(*dims)
        else:
            target = self.graph.dimensions(self, shape)
        made = Value(self.node("Reshape", [value.name, target], top), shape)
        if value.constant is not None and all(size.fixed for size in (*value.shape, *shape)):
            made = replace(made, constant=value.constant.reshape(sizes.declared(shape)))
        return made
