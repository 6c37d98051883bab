"""Operators that rearrange, select or make elements: shapes, axes, slices, joins, constants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from portmatrix.converters.cntk.reader import Array
from portmatrix.converters.cntk.recurrence import last_state
from portmatrix.converters.cntk.values import ONE, Count, Place, Shape, Value, product
from portmatrix.converters.errors import MalformedFile

if TYPE_CHECKING:
    from portmatrix.converters.cntk.translator import Node, Rule, Translator


#: Where a slice ends that goes to the end.
_END = (1 << 63) - 1

# --- The same elements in another shape


def _reshape(translator: Translator, node: Node) -> Sequence[Value]:
    value = translator.inputs(node, 2)[0]
    target = translator.constant(node.inputs[1], node)
    shape = _target_shape(translator, node, value, [int(size) for size in target.reshape(-1)])
    return [translator.reshaped(value, shape, node.outputs[0])]


def _target_shape(translator: Translator, node: Node, value: Value, target: Sequence[int]) -> Shape:
    """Return the shape that a Reshape gives at a batch of 1: 0 takes a length over, -1 is what is left."""
    where = f"node {node.name!r}"
    shape = []
    for axis, size in enumerate(target):
        if size < -1 or (size == 0 and axis >= value.rank):
            raise MalformedFile(translator.file, where, f"a length of {size} in the new shape")
        shape.append(value.shape[axis] if size == 0 else Count(max(size, 1)))
    everything = product(value.shape)
    if list(target).count(-1) == 1:
        left = everything.over(product(shape))
        if left is None:
            raise MalformedFile(translator.file, where, f"{everything} elements do not fit the shape {list(target)}")
        shape[list(target).index(-1)] = left
    if product(shape) != everything:
        raise MalformedFile(translator.file, where, f"{everything} elements do not fit the shape {list(target)}")
    return tuple(shape)


def _flatten(translator: Translator, node: Node) -> Sequence[Value]:
    value = translator.inputs(node)[0]
    axis = node.attributes.get("axis", 1)
    if not isinstance(axis, int) or not 0 <= axis <= value.rank:
        raise MalformedFile(translator.file, f"node {node.name!r}", f"axis {axis} of a tensor of {value.rank} axes")
    shape = (product(value.shape[:axis]), product(value.shape[axis:]))
    return [translator.reshaped(value, shape, node.outputs[0])]


def _squeeze(translator: Translator, node: Node) -> Sequence[Value]:
    value = translator.inputs(node)[0]
    axes = node.attributes.get("axes")
    ones = [axis for axis, size in enumerate(value.shape) if size == ONE]
    batch = None if value.place is None else value.place.axis
    if axes is None:
        # The batch is no axis to CNTK, which means all others of length 1.
        axes = [axis for axis in ones if axis != batch]
    gone = [translator.axis(value, axis, node) for axis in axes]
    if any(axis not in ones for axis in gone):
        raise MalformedFile(translator.file, f"node {node.name!r}", f"axes {gone} are not all of length 1")
    kept = [axis for axis in range(value.rank) if axis not in gone]
    shape = tuple(value.shape[axis] for axis in kept)
    place = value.place
    if place is not None:
        # Where CNTK squeezes the batch away, another axis of length 1 takes its part.
        place = Place(kept.index(place.axis), place.inner) if place.axis in kept else None
    return [translator.reshaped(value, shape, node.outputs[0], place)]


def _unsqueeze(translator: Translator, node: Node) -> Sequence[Value]:
    value = translator.inputs(node)[0]
    axes = node.attributes.get("axes", [])
    rank = value.rank + len(axes)
    new = {axis % rank for axis in axes if isinstance(axis, int) and -rank <= axis < rank}
    if len(new) != len(axes):
        raise MalformedFile(translator.file, f"node {node.name!r}", f"axes {axes} of a tensor of {rank} axes")
    kept = [axis for axis in range(rank) if axis not in new]
    shape = [ONE] * rank
    for axis, size in zip(kept, value.shape, strict=True):
        shape[axis] = size
    place = value.place and Place(kept[value.place.axis], value.place.inner)
    return [translator.reshaped(value, tuple(shape), node.outputs[0], place)]


def _transpose(translator: Translator, node: Node) -> Sequence[Value]:
    value = translator.inputs(node)[0]
    perm = list(node.attributes.get("perm", reversed(range(value.rank))))
    if sorted(perm) != list(range(value.rank)):
        raise MalformedFile(translator.file, f"node {node.name!r}", f"{perm} is no order of {value.rank} axes")
    return [translator.transposed(value, perm, node.outputs[0])]


# --- Some of the elements


def _slice(translator: Translator, node: Node) -> Sequence[Value]:
    value = translator.inputs(node)[0]
    starts, ends = node.attributes.get("starts", []), node.attributes.get("ends", [])
    axes = [translator.axis(value, axis, node) for axis in node.attributes.get("axes", range(len(starts)))]
    if not len(starts) == len(ends) == len(axes) or len(set(axes)) != len(axes):
        raise MalformedFile(translator.file, f"node {node.name!r}", "starts, ends and axes are not of one length")
    shape, cuts = list(value.shape), []
    for axis, start, end in zip(axes, starts, ends, strict=True):
        if value.place is not None and axis == value.place.axis:
            # CNTK takes the first sample where it means all there are.
            if value.shape[axis] != ONE or start not in (0, -1) or end < 1:
                raise node.cannot("it selects samples of the batch")
            continue
        # From so many before the end up to 0: to CNTK that is the end, to ONNX there is nothing in between.
        stop = _END if start < 0 and end == 0 else end
        shape[axis] = _cut(value.shape[axis], start, stop)
        cuts.append((axis, start, stop))
    if not cuts:
        return [value]
    if len(cuts) == 1 and cuts[0][0] == 0:
        state = last_state(translator, value, cuts[0][1], cuts[0][2], node.outputs[0])
        if state is not None:
            return [state]
    value = translator.real(value)
    named = [translator.integers(list(column)) for column in zip(*((s, e, a) for a, s, e in cuts), strict=True)]
    made = translator.emit("Slice", [value, *named], node.outputs[0])
    return [Value(made, translator.shape_of(node.outputs[0], tuple(shape)), value.place)]


def _cut(size: Count, start: int, end: int) -> Count:
    """Return the length of a slice; of an unknown length the ends of length 1 are known."""
    if size.known:
        return Count(len(range(size.number)[start:end]))
    if (start, end) == (0, 1) or (start == -1 and end > 0):
        return ONE
    if start == 0 and end >= 1 << 31:
        return size
    return Count(1, (f"{size}[{start}:{end}]",))


def _crop(translator: Translator, node: Node) -> Sequence[Value]:
    """An operator that ONNX dropped: cut ``border`` (left, top, right, bottom) off an image."""
    value = translator.alone(translator.inputs(node)[0], node, 0)
    border = node.attributes.get("border", [])
    if value.rank != 4 or len(border) != 4 or node.attributes.get("scale"):
        raise node.cannot("expected an image (4 axes) and a border of 4 lengths")
    left, top, right, bottom = border
    height, width = value.shape[2], value.shape[3]
    if not height.known or not width.known:
        raise node.cannot("the size of its image is not known")
    ends = [height.number - bottom, width.number - right]
    named = [translator.integers(values) for values in ([top, left], ends, [2, 3])]
    made = translator.emit("Slice", [value, *named], node.outputs[0])
    sizes = (_cut(height, top, ends[0]), _cut(width, left, ends[1]))
    return [Value(made, (*value.shape[:2], *sizes), value.place)]


def _gather(translator: Translator, node: Node) -> Sequence[Value]:
    data, indices = translator.inputs(node, 2)
    axis = translator.axis(data, node.attributes.get("axis", 0), node)
    if data.place is not None and (indices.place is not None or data.place.axis == axis):
        raise node.cannot("it selects by the batch in what depends on the batch")
    data, indices = translator.alone(data, node), translator.alone(indices, node)
    made = translator.emit("Gather", [data, indices], node.outputs[0], axis=axis)
    shape = (*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :])
    place = indices.place and Place(axis + indices.place.axis)
    if data.place is not None:
        place = Place(data.place.axis + (indices.rank - 1 if data.place.axis > axis else 0))
    return [Value(made, shape, place)]


def _compress(translator: Translator, node: Node) -> Sequence[Value]:
    data, condition = translator.inputs(node, 2)
    if condition.place is not None:
        raise node.cannot("it keeps other steps of each sample; ONNX has no batch of sequences of different lengths")
    data = translator.alone(data, node)
    axis = translator.axis(data, node.attributes.get("axis", 0), node)
    if data.place is not None and data.place.axis == axis:
        raise node.cannot("it selects samples of the batch")
    made = translator.emit("Compress", [data, condition], node.outputs[0], axis=axis)
    shape = (*data.shape[:axis], Count(1, (f"{node.name}.kept",)), *data.shape[axis + 1 :])
    return [Value(made, translator.shape_of(node.outputs[0], shape), data.place)]


# --- More elements


def _concat(translator: Translator, node: Node) -> Sequence[Value]:
    values = translator.inputs(node, 1, 1024)
    axis = translator.axis(values[0], node.attributes.get("axis", 1), node)
    if any(value.rank != values[0].rank for value in values):
        raise MalformedFile(translator.file, f"node {node.name!r}", "its inputs have different numbers of axes")
    dependent = [value for value in values if value.place is not None]
    options = [{place.axis for place in translator.candidates(value)} for value in dependent]
    common = sorted(set.intersection(*options) - {axis}) if options else []
    if dependent and not common:
        raise node.cannot("it joins samples of the batch")
    if dependent:
        first = dependent[0].place
        batch = first.axis if first is not None and first.axis in common else common[0]
        values = [
            translator.alone(value, node, batch) if value.place else translator.repeated(value, batch, node)
            for value in values
        ]
    values = [translator.real(value) for value in values]
    made = translator.emit("Concat", values, node.outputs[0], axis=axis)
    shape = list(values[0].shape)
    shape[axis] = _sum([value.shape[axis] for value in values])
    place = Place(batch) if dependent else None
    return [Value(made, translator.shape_of(node.outputs[0], tuple(shape)), place)]


def _sum(sizes: Sequence[Count]) -> Count:
    if all(size.known for size in sizes):
        return Count(sum(size.number for size in sizes))
    return Count(1, ("+".join(sorted(map(str, sizes))),))


def _expand(translator: Translator, node: Node) -> Sequence[Value]:
    value = translator.alone(translator.inputs(node, 2)[0], node)
    target = [int(size) for size in translator.constant(node.inputs[1], node).reshape(-1)]
    rank = max(value.rank, len(target))
    batch = None if value.place is None else value.place.axis - value.rank
    if batch is not None and len(target) >= -batch and target[batch] != 1:
        raise node.cannot("it repeats the samples of the batch")
    if any(not 0 < size < 1 << 31 for size in target):
        raise MalformedFile(translator.file, f"node {node.name!r}", f"the shape {target}")
    array = translator.array(value)
    if array is not None and int(np.prod(target)) <= 1 << 16:
        try:
            wide = np.broadcast_to(array, np.broadcast_shapes(array.shape, tuple(target)))
        except ValueError as error:
            raise MalformedFile(translator.file, f"node {node.name!r}", str(error)) from error
        return [_constant(translator, wide, node.outputs[0])]
    made = translator.emit("Expand", [value, translator.integers(target)], node.outputs[0])
    sizes = [
        Count(target[axis])
        if len(target) >= -axis and target[axis] != 1
        else value.shape[axis]
        if value.rank >= -axis
        else ONE
        for axis in range(-rank, 0)
    ]
    return [Value(made, tuple(sizes), None if batch is None else Place(batch + rank))]


def _pad(translator: Translator, node: Node) -> Sequence[Value]:
    value = translator.alone(translator.inputs(node)[0], node)
    pads = node.attributes.get("pads", [])
    if len(pads) != 2 * value.rank:
        raise MalformedFile(translator.file, f"node {node.name!r}", f"{len(pads)} pads for {value.rank} axes")
    if value.place is not None and (pads[value.place.axis] or pads[value.place.axis + value.rank]):
        raise node.cannot("it adds samples to the batch")
    mode = node.attributes.get("mode", "constant")
    fill = translator.network.constant(node.attributes.get("value", 0.0), np.float32) if mode == "constant" else ""
    made = translator.emit("Pad", [value, translator.integers(pads), *filter(None, [fill])], node.outputs[0], mode=mode)
    shape = [
        Count(size.number + pads[axis] + pads[axis + value.rank])
        if size.known
        else _sum([size, Count(pads[axis] + pads[axis + value.rank])])
        for axis, size in enumerate(value.shape)
    ]
    return [Value(made, translator.shape_of(node.outputs[0], tuple(shape)), value.place)]


def _one_hot(translator: Translator, node: Node) -> Sequence[Value]:
    indices, _, values = translator.inputs(node, 3)
    indices = translator.alone(indices, node)
    size = translator.constant(node.inputs[1], node).reshape(-1)
    if size.size != 1 or not 0 < size[0] < 1 << 31:
        raise MalformedFile(translator.file, f"node {node.name!r}", "its depth is no number")
    axis = node.attributes.get("axis", -1)
    if not -indices.rank - 1 <= axis <= indices.rank:
        raise MalformedFile(translator.file, f"node {node.name!r}", f"axis {axis} of {indices.rank + 1}")
    axis %= indices.rank + 1
    # CNTK gives indices and depth as floats, which ONNX allows and onnx.reference does not take.
    depth = translator.network.constant(int(size[0]), np.int64)
    whole = translator.emit("Cast", [indices], f"{node.outputs[0]}.indices", to=TensorProto.INT64)
    made = translator.emit("OneHot", [whole, depth, values], node.outputs[0], axis=axis)
    shape = (*indices.shape[:axis], Count(int(size[0])), *indices.shape[axis:])
    place = indices.place and Place(indices.place.axis + (indices.place.axis >= axis))
    return [Value(made, shape, place)]


# --- Constants


def _constant_node(translator: Translator, node: Node) -> Sequence[Value]:
    array = node.attributes.get("value")
    if not isinstance(array, np.ndarray):
        raise node.cannot("expected a tensor as its value")
    return [_constant(translator, array, node.outputs[0])]


def _constant(translator: Translator, array: Array, name: str) -> Value:
    own = translator.network.initializer(array, name)
    return Value(own, tuple(Count(size) for size in array.shape))


def _shape(translator: Translator, node: Node) -> Sequence[Value]:
    value = translator.inputs(node)[0]
    return [Value(node.outputs[0], (Count(value.rank),), None, None, value)]


def _constant_of_shape(translator: Translator, node: Node) -> Sequence[Value]:
    fill = node.attributes.get("value", np.zeros(1, np.float32))
    if not isinstance(fill, np.ndarray) or fill.size != 1:
        raise node.cannot("expected one number as its value")
    wanted = translator.value(node.inputs[0], node) if node.inputs else None
    if wanted is None or wanted.measures is None:
        raise node.cannot("expected the shape of a tensor as its input")
    like = translator.real(wanted.measures)
    measured = translator.emit("Shape", [like], f"{node.outputs[0]}.shape")
    # An Expand, not the operator itself: more runtimes have it.
    one = translator.network.constant(fill.reshape(()))
    made = translator.emit("Expand", [one, measured], node.outputs[0])
    return [Value(made, like.shape, like.place)]


RULES: dict[str, Rule] = {
    "Compress": _compress,
    "Concat": _concat,
    "Constant": _constant_node,
    "ConstantOfShape": _constant_of_shape,
    "Crop": _crop,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "OneHot": _one_hot,
    "Pad": _pad,
    "Reshape": _reshape,
    "Shape": _shape,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
