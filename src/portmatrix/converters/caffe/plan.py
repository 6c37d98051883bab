"""What is known of a network before any layer is translated: who uses which blob, and where time is an axis."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from portmatrix.converters.caffe.net import LayerSpec
from portmatrix.converters.errors import ConversionError

#: Types that measure a network or write down what it computes -> how many of their bottoms are results of the network
#: (-1: all); the others are labels. They take no part in inference, and their results become outputs.
SINKS = {
    "Accuracy": 1,
    "ContrastiveLoss": 2,
    "EuclideanLoss": 1,
    "HDF5Output": -1,
    "HingeLoss": 1,
    "MultinomialLogisticLoss": 1,
}
#: Types that read a database or files.
DATA = frozenset({"Data", "HDF5Data", "ImageData", "MemoryData", "WindowData"})
#: Types that bring in blobs from outside.
SOURCES = DATA | {"Input", "DummyData"}

_RECURRENT = frozenset({"LSTM", "RNN"})
#: Types after which the axes of a blob are others than before.
_REARRANGING = frozenset({"ArgMax", "Flatten", "Permute", "Reduction", "Reshape", "SPP"})

#: One version of a blob: the layer that writes it and which of its tops it is.
Top = tuple[int, int]


@dataclass
class Plan:
    """The connections of the layers: every bottom's origin, and what becomes of every top."""

    origins: list[tuple[Top, ...]] = field(default_factory=list)
    uses: dict[Top, int] = field(default_factory=dict)
    #: Versions of blobs that keep their name; others are written over by a layer that works in place.
    lasting: set[Top] = field(default_factory=set)
    #: Name -> version of the blobs that nobody uses, in Caffe's order.
    outputs: dict[str, Top] = field(default_factory=dict)
    #: Blobs whose axes are (time, batch, ...).
    timed: set[Top] = field(default_factory=set)


def make(layers: Sequence[LayerSpec]) -> Plan:
    """Connect the layers as ``Net::Init`` does; raises ``ConversionError`` for a bottom that no layer has written."""
    plan = Plan()
    current: dict[str, Top] = {}
    free: dict[str, Top] = {}
    for index, layer in enumerate(layers):
        for name in layer.bottoms:
            if name not in current:
                written = ", ".join(sorted(current)[:20]) or "none"
                raise ConversionError(
                    f"{layer.title}: its bottom {name!r} is written by no layer before it; there are: {written}"
                )
        plan.origins.append(tuple(current[name] for name in layer.bottoms))
        for name in _used(layer):
            plan.uses[current[name]] = plan.uses.get(current[name], 0) + 1
            free.pop(name, None)
        if layer.kind in SINKS:
            continue
        for position, name in enumerate(layer.tops):
            if name in current and (position >= len(layer.bottoms) or layer.bottoms[position] != name):
                raise ConversionError(f"{layer.title}: its top {name!r} is written by a layer before it already")
            current[name] = (index, position)
            free[name] = (index, position)
    plan.lasting = set(current.values())
    plan.outputs = {name: free[name] for name in sorted(free)}
    _find_timed(layers, plan)
    return plan


def _used(layer: LayerSpec) -> Iterable[str]:
    """Return the bottoms that the layer uses up: for those that take no part in inference, their labels."""
    results = SINKS.get(layer.kind, 0)
    return () if results < 0 else layer.bottoms[results:]


def _find_timed(layers: Sequence[LayerSpec], plan: Plan) -> None:
    """Mark the blobs from which a recurrent layer's sequence comes, back to the layer that arranged their axes."""
    todo = [
        origin
        for index, layer in enumerate(layers)
        if layer.kind in _RECURRENT
        for position, origin in enumerate(plan.origins[index])
        if not (position == 2 and has_static_input(layer))
    ]
    while todo:
        top = todo.pop()
        if top in plan.timed:
            continue
        plan.timed.add(top)
        layer = layers[top[0]]
        if layer.kind not in _REARRANGING and not _flattens(layer):
            todo += plan.origins[top[0]]


def has_static_input(layer: LayerSpec) -> bool:
    """Return whether the third bottom of a recurrent layer is an input that is the same at every time."""
    exposed = layer.spec.message("recurrent_param").flag("expose_hidden")
    return len(layer.bottoms) > 2 + exposed * (2 if layer.kind == "LSTM" else 1)


def _flattens(layer: LayerSpec) -> bool:
    axis = layer.spec.message("inner_product_param").whole("axis")
    return layer.kind == "InnerProduct" and 0 <= axis < 2
