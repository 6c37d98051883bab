"""Operators that reduce an axis to one element or to a few: sums, extremes and where they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from portmatrix.converters.cntk.values import ONE, Count, Place, Shape, Value
from portmatrix.converters.errors import MalformedFile

if TYPE_CHECKING:
    from portmatrix.converters.cntk.translator import Node, Rule, Translator


def _reduce(translator: Translator, node: Node) -> Sequence[Value]:
    """A reduction over the batch, where CNTK asks for one, is one: the result is the same for all samples."""
    value = translator.real(translator.inputs(node)[0])
    given = node.attributes.get("axes")
    axes = list(range(value.rank)) if given is None else [translator.axis(value, axis, node) for axis in given]
    if value.place is not None and value.place.axis in axes and not value.own_axis:
        raise node.cannot("it runs over a part of the batch")
    keep = node.attributes.get("keepdims", 1)
    inputs: list[Value | str] = [value] if given is None else [value, translator.integers(axes)]
    made = translator.emit(node.op, inputs, node.outputs[0], keepdims=keep)
    return [_without(made, value, axes, keep)]


def _extreme(translator: Translator, node: Node) -> Sequence[Value]:
    value = translator.alone(translator.inputs(node)[0], node)
    axis = translator.axis(value, node.attributes.get("axis", 0), node)
    if value.place is not None and value.place.axis == axis:
        raise node.cannot("it compares the samples of a batch")
    keep = node.attributes.get("keepdims", 1)
    made = translator.emit(node.op, [value], node.outputs[0], axis=axis, keepdims=keep)
    return [_without(made, value, [axis], keep)]


def _top_k(translator: Translator, node: Node) -> Sequence[Value]:
    value = translator.alone(translator.inputs(node)[0], node)
    axis = translator.axis(value, node.attributes.get("axis", -1), node)
    count = node.attributes.get("k", 0)
    if value.place is not None and value.place.axis == axis:
        raise node.cannot("it compares the samples of a batch")
    if not 0 < count < 1 << 31 or len(node.outputs) != 2:
        raise MalformedFile(
            translator.file, f"node {node.name!r}", f"expected two outputs of some elements, not {count}"
        )
    inputs = [value.name, translator.integers([count])]
    names = translator.scope.nodes_of("TopK", inputs, 2, node.outputs[0], axis=axis)
    shape = (*value.shape[:axis], Count(count), *value.shape[axis + 1 :])
    return [Value(name, shape, value.place) for name in names]


def _without(made: str, value: Value, axes: Sequence[int], keep: int) -> Value:
    """Return the result of a reduction over ``axes``, which stay with length 1 if ``keep`` says so."""
    left = [axis for axis in range(value.rank) if keep or axis not in axes]
    shape: Shape = tuple(ONE if axis in axes else value.shape[axis] for axis in left)
    place = value.place
    if place is not None:
        place = None if place.axis in axes else Place(left.index(place.axis), place.inner)
    return Value(made, shape, place)


_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")

RULES: dict[str, Rule] = {
    **{f"Reduce{kind}": _reduce for kind in _REDUCTIONS},
    "ArgMax": _extreme,
    "ArgMin": _extreme,
    "TopK": _top_k,
}
