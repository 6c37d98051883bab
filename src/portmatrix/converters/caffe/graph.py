"""Builds the ONNX network layer by layer, and decides what becomes an input, an output, and the batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from portmatrix.converters.caffe import plan, sizes
from portmatrix.converters.caffe.net import LayerSpec
from portmatrix.converters.caffe.sizes import Shape
from portmatrix.converters.caffe.step import Step, Value
from portmatrix.converters.errors import ConversionError, Unsupported
from portmatrix.converters.network import BATCH, Network
from portmatrix.converters.nodes import used_names

Translation = Callable[[Step], list[Value]]


class Graph:
    """The network under construction, and what every layer may have to know of it."""

    def __init__(
        self, network: Network, layers: Sequence[LayerSpec], shapes: Mapping[str, Sequence[int]], *, weighted: bool
    ) -> None:
        self.network = network
        self.layers = layers
        self.weighted = weighted
        #: Shapes of inputs that the caller gives, by the name of the blob.
        self.shapes = dict(shapes)
        self.plan = plan.make(layers)
        #: Output of a BatchNormalization -> its input, mean, variance and epsilon.
        self.normalized: dict[str, tuple[str, str, str, float]] = {}
        self._sources: dict[str, tuple[str, int]] = {}
        self._declared: dict[str, int] = {}
        self._values: dict[plan.Top, Value] = {}

    def build(self, translations: Mapping[str, Translation]) -> None:
        """Translate all layers and make the network's outputs; raises ``ConversionError``."""
        for layer in self.layers:
            _check_known(layer, translations)
        for index, layer in enumerate(self.layers):
            self._translate(index, layer, translations)
        unused = set(self.shapes) - {name for layer in self.layers for name in layer.tops}
        if unused:
            raise ConversionError(f"the network has no input {sorted(unused)[0]!r}, for which a shape was given")
        self._make_outputs()
        self._drop_inputs()

    def _translate(self, index: int, layer: LayerSpec, translations: Mapping[str, Translation]) -> None:
        if layer.kind in plan.SINKS:
            return
        tops = [(index, position) for position in range(len(layer.tops))]
        names = [name if top in self.plan.lasting else "" for top, name in zip(tops, layer.tops, strict=True)]
        bottoms = [self._values[origin] for origin in self.plan.origins[index]]
        step = Step(self, index, layer, bottoms, names)
        values = translations[layer.kind](step)
        if len(values) != len(tops):
            raise step.wrong(f"has {len(tops)} tops; expected {len(values)}")
        for top, value in zip(tops, values, strict=True):
            if any(size.declared < 1 for size in value.shape):
                raise step.wrong(f"its top has the shape {sizes.shown(value.shape)}; every size must be positive")
            self._values[top] = replace(value, uses=self.plan.uses.get(top, 0))

    def timed(self, step: Step, position: int) -> bool:
        """Return whether a layer's top has the axes (time, batch, ...), as recurrent layers take them."""
        return (step.index, position) in self.plan.timed

    def open_shape(self, shape: Sequence[int], name: str, *, timed: bool) -> Shape:
        """Return the shape of a blob from outside: its first axis (the second after time) is a symbol.

        That is the batch for the first input and for all that declare the same size, else a symbol of its own.
        """
        axis = 1 if timed else 0
        if len(shape) <= axis:
            return sizes.numbers(shape)
        own = BATCH
        if self._declared.setdefault(BATCH, shape[axis]) != shape[axis]:
            own = f"{name}_{BATCH}"
            self._declared[own] = shape[axis]
        return sizes.numbers(shape, {axis: own})

    def input(self, name: str, shape: Shape) -> Value:
        """Add an input of the network."""
        own = self.network.input(name, np.float32, [size.dimension for size in shape])
        for axis, size in enumerate(shape):
            if not size.fixed:
                self._sources.setdefault(size.symbols[0], (own, axis))
        return Value(own, shape)

    def declared_batch(self) -> int | None:
        """Return the batch of the first input, None before there is one."""
        return self._declared.get(BATCH)

    def dimensions(self, step: Step, shape: Shape) -> str:
        """Return the name of a vector of int64 that holds ``shape`` when the network runs."""
        parts = [
            step.integers(size.declared) if size.fixed else self._dimension(step, size.symbols, size) for size in shape
        ]
        return step.node("Concat", parts, axis=0)

    def _dimension(self, step: Step, symbols: Sequence[str], size: sizes.Size) -> str:
        part = ""
        for symbol in symbols:
            if symbol not in self._sources:
                raise step.unsupported(f"the size {symbol} is known only after the layer that makes it has run")
            source, axis = self._sources[symbol]
            own = step.node("Shape", [source], start=axis, end=axis + 1)
            part = step.node("Mul", [part, own]) if part else own
        if size.factor.numerator != 1:
            part = step.node("Mul", [part, step.integers(size.factor.numerator)])
        if size.factor.denominator != 1:
            part = step.node("Div", [part, step.integers(size.factor.denominator)])
        return part

    def _make_outputs(self) -> None:
        inputs = {value.name for value in self.network.inputs}
        made: set[str] = set()
        for name, top in self.plan.outputs.items():
            kind = self.layers[top[0]].kind
            value = self._values[top]
            if kind in plan.SOURCES and value.name in inputs:
                continue
            own, wanted = value.name, self._own(name)
            if own in inputs or own in made or self.network.value_of(own) is not None:
                own, wanted = self.network.node("Identity", [own], name), ""
            made.add(self.network.output(own, np.float32, [size.dimension for size in value.shape], wanted))
        if not made:
            raise ConversionError("the network computes nothing: every blob that no layer uses is an input")

    def _own(self, name: str) -> str:
        """Return the name of an output as ``Network.output`` wants it: empty for a node that has the name already."""
        return "" if any(name in node.output for node in self.network.nodes) else name

    def _drop_inputs(self) -> None:
        """Leave out inputs that no output depends on, such as labels."""
        needed = {value.name for value in self.network.outputs}
        for node in reversed(self.network.nodes):
            if any(name in needed for name in node.output):
                needed.update(used_names(node))
        self.network.inputs[:] = [value for value in self.network.inputs if value.name in needed]


def _check_known(layer: LayerSpec, translations: Mapping[str, Translation]) -> None:
    if layer.kind in plan.SINKS:
        return
    if layer.kind not in translations:
        raise Unsupported(
            layer.name, layer.kind or "(none)", "is no layer that can be converted; docs/converters/caffe.md lists them"
        )
    for name, line in layer.spec.all_unknown():
        raise ConversionError(
            f"{layer.title}: line {line} has the field {name!r}, which Caffe 1.0 does not have; "
            "what it changes is not known, remove it if it has no meaning for inference"
        )
