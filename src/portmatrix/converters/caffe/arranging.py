"""Layers that put elements together, take them apart, or give them other axes."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np

from portmatrix.converters.caffe import sizes
from portmatrix.converters.caffe.dense import flattened
from portmatrix.converters.caffe.message import Message
from portmatrix.converters.caffe.sizes import Size, number
from portmatrix.converters.caffe.step import Step, Value

_MANY = 1 << 20


def _axis_of(step: Step, param: Message, old: str, rank: int) -> int:
    """Return the axis of a Concat or Slice layer, which older files call ``concat_dim`` or ``slice_dim``."""
    if not param.has(old):
        return step.axis(param.whole("axis"), rank)
    if param.has("axis"):
        raise step.wrong(f"has both axis and {old}")
    return step.axis(param.whole(old), rank)


def _concat(step: Step) -> list[Value]:
    step.expect((1, _MANY))
    first = step.bottoms[0]
    axis = _axis_of(step, step.param("concat_param"), "concat_dim", first.rank)
    kept = _without(first, axis)
    for bottom in step.bottoms[1:]:
        if bottom.rank != first.rank or _without(bottom, axis) != kept:
            raise step.wrong(
                f"its bottoms have the shapes {sizes.shown(first.shape)} and {sizes.shown(bottom.shape)}; "
                f"they may differ in axis {axis} alone"
            )
    if len(step.bottoms) == 1:
        return [first]
    size = sizes.total((bottom.shape[axis] for bottom in step.bottoms), f"{step.spec.name}_size")
    shape = (*first.shape[:axis], size, *first.shape[axis + 1 :])
    name = step.node("Concat", [bottom.name for bottom in step.bottoms], 0, axis=axis)
    return [replace(step.result(name, shape), constant=_joined(step, axis))]


def _without(value: Value, axis: int) -> tuple[int, ...]:
    return tuple(size for index, size in enumerate(sizes.declared(value.shape)) if index != axis)


def _joined(step: Step, axis: int) -> np.ndarray | None:
    constants = [bottom.constant for bottom in step.bottoms if bottom.constant is not None]
    if len(constants) != len(step.bottoms) or not all(bottom.shape[axis].fixed for bottom in step.bottoms):
        return None
    others = np.broadcast_shapes(*((*c.shape[:axis], 1, *c.shape[axis + 1 :]) for c in constants))
    return np.concatenate(
        [np.broadcast_to(c, (*others[:axis], c.shape[axis], *others[axis + 1 :])) for c in constants], axis
    )


def _slice(step: Step) -> list[Value]:
    step.expect(1, (1, _MANY))
    (bottom,) = step.bottoms
    param = step.param("slice_param")
    axis = _axis_of(step, param, "slice_dim", bottom.rank)
    size, tops, points = bottom.shape[axis], len(step.names), param.wholes("slice_point")
    if points and len(points) != tops - 1:
        raise step.wrong(f"has {tops} tops and {len(points)} slice_point; expected {tops - 1}, or none for equal parts")
    if tops == 1:
        return [bottom]
    if not points:
        part = size.over(number(tops))
        if part is None:
            raise step.wrong(f"axis {axis} has the size {size.declared}, which cannot be divided into {tops} parts")
        parts = [part] * tops
    else:
        ends = [0, *points, size.declared]
        if any(low >= high for low, high in pairwise(ends)):
            raise step.wrong(f"slice_point {points} must rise, within axis {axis} of size {size.declared}")
        parts = [number(high - low) for low, high in pairwise(ends)]
    if points and not size.fixed:
        return _cut(step, bottom, axis, points)
    given = step.integers(*(part.declared for part in parts)) if size.fixed else ""
    stem = step.names[0] or f"{step.spec.name}/Split"
    names = step.network.nodes_of(
        "Split", [bottom.name, *([given] if given else [])], tops, stem, axis=axis, num_outputs=None if given else tops
    )
    return [
        step.result(name, (*bottom.shape[:axis], part, *bottom.shape[axis + 1 :]))
        for name, part in zip(names, parts, strict=True)
    ]


def _cut(step: Step, bottom: Value, axis: int, points: list[int]) -> list[Value]:
    """Slice an axis whose size is known only when the network runs: the last part is what is left."""
    values = []
    for index, (low, high) in enumerate(zip([0, *points], [*points, None], strict=True)):
        end = np.iinfo(np.int64).max if high is None else high
        name = step.node("Slice", [bottom.name, step.integers(low), step.integers(end), step.integers(axis)], index)
        rest = sizes.symbol(f"{step.spec.name}_size", bottom.shape[axis].declared - low)
        size = rest if high is None else number(high - low)
        values.append(step.result(name, (*bottom.shape[:axis], size, *bottom.shape[axis + 1 :])))
    return values


def _crop(step: Step) -> list[Value]:
    """Translate Crop: the sizes are those of the second bottom from ``axis`` on, moved by the offsets."""
    step.expect(2)
    bottom, reference = step.bottoms
    param = step.param("crop_param")
    start = step.axis(param.whole("axis"), bottom.rank)
    offsets = param.wholes("offset")
    cropped = bottom.rank - start
    if len(offsets) not in {0, 1, cropped} or reference.rank < bottom.rank:
        raise step.wrong(f"expected no offset, one, or one for each of {cropped} axes; found {len(offsets)}")
    offsets = offsets * cropped if len(offsets) == 1 else offsets or [0] * cropped
    shape = list(bottom.shape)
    starts, ends, axes = [], [], []
    for axis, offset in zip(range(start, bottom.rank), offsets, strict=True):
        old, new = bottom.shape[axis], reference.shape[axis]
        if old.declared - offset < new.declared:
            raise step.wrong(f"axis {axis} has the size {old.declared}, less than {new.declared} and offset {offset}")
        if old.declared == new.declared and not offset:
            continue
        step.fixed(old, f"the size of axis {axis}")
        shape[axis] = number(step.fixed(new, f"the size of axis {axis}"))
        starts.append(offset)
        ends.append(offset + new.declared)
        axes.append(axis)
    if not axes:
        return [bottom]
    name = step.node("Slice", [bottom.name, step.integers(*starts), step.integers(*ends), step.integers(*axes)], 0)
    return [step.result(name, shape)]


def _flatten(step: Step) -> list[Value]:
    step.expect(1)
    (bottom,) = step.bottoms
    param = step.param("flatten_param")
    start, end = (step.axis(param.whole(name), bottom.rank) for name in ("axis", "end_axis"))
    if end < start:
        raise step.wrong(f"end_axis {end} lies before axis {start}")
    if (start, end) == (1, bottom.rank - 1) and bottom.rank > 2:
        return [flattened(step, bottom, 1, 0)]
    shape = (*bottom.shape[:start], sizes.count(bottom.shape[start : end + 1]), *bottom.shape[end + 1 :])
    return [step.reshape(bottom, shape, 0)]


def _reshape(step: Step) -> list[Value]:
    """Translate Reshape: 0 copies a size, -1 takes what is left, over ``num_axes`` axes from ``axis`` on."""
    step.expect(1)
    (bottom,) = step.bottoms
    param = step.param("reshape_param")
    axis, axes = param.whole("axis"), param.whole("num_axes")
    start = axis if axis >= 0 else bottom.rank + axis + 1
    end = bottom.rank if axes == -1 else start + axes
    if not 0 <= start <= bottom.rank or axes < -1 or end > bottom.rank:
        raise step.wrong(f"axis {axis} and num_axes {axes} are out of range for a blob of {bottom.rank} axes")
    dims = param.message("shape").wholes("dim")
    if (
        dims.count(-1) > 1
        or any(dim < -1 for dim in dims)
        or any(not dim and start + index >= bottom.rank for index, dim in enumerate(dims))
    ):
        raise step.wrong(f"the shape {dims} cannot be read: one -1 at most, and 0 only where there is an axis to copy")
    middle = _reshaped(step, bottom, start, dims)
    shape = [*bottom.shape[:start], *middle, *bottom.shape[end:]]
    if -1 in dims:
        known = [size for index, size in enumerate(shape) if index != start + dims.index(-1)]
        left = sizes.count(bottom.shape).over(sizes.count(known))
        if left is None:
            raise step.wrong(f"{sizes.shown(bottom.shape)} cannot be reshaped to {dims}")
        shape[start + dims.index(-1)] = left
    else:
        shape = _with_batch(step, bottom, shape)
    if sizes.count(sizes.numbers(sizes.declared(shape))) != sizes.count(sizes.numbers(sizes.declared(bottom.shape))):
        raise step.wrong(f"{sizes.shown(bottom.shape)} cannot be reshaped to {sizes.shown(shape)}")
    return [step.reshape(bottom, shape, 0)]


def _reshaped(step: Step, bottom: Value, start: int, dims: list[int]) -> list[Size]:
    """Return the new sizes, 1 in place of -1.

    A number equal to the declared size of the batch, at its axis, is the batch: the file was written for that one. But
    a 1 behind the first axis is a 1 where a -1 can take the batch: so one turns 1 x N x C round into N x 1 x C.
    """
    timed = step.graph.timed(step, 0)
    out = []
    for index, dim in enumerate(dims, start):
        own = bottom.shape[index] if index < bottom.rank else None
        is_batch = own is not None and not own.fixed and own.declared == dim and not (timed and index == 0)
        is_batch = is_batch and not (dim == 1 and index > 0 and -1 in dims)
        out.append(own if own is not None and (dim == 0 or is_batch) else number(max(dim, 1)))
    return out


def _with_batch(step: Step, bottom: Value, shape: list[Size]) -> list[Size]:
    """Let one of the sizes, all of them given as numbers, carry the batch that the bottom's have and they have not."""
    left = sizes.count(bottom.shape).over(sizes.count(shape))
    if left is None or left.fixed:
        return shape
    timed = step.graph.timed(step, 0)
    places = [axis for axis, size in enumerate(shape) if size.fixed]
    whole = [axis for axis in places if (shape[axis] * left).factor.denominator == 1]
    place = 1 if timed and 1 in places else (whole or places)[0]
    return [size * left if axis == place else size for axis, size in enumerate(shape)]


def _tile(step: Step) -> list[Value]:
    step.expect(1)
    (bottom,) = step.bottoms
    param = step.param("tile_param")
    axis, tiles = step.axis(param.whole("axis"), bottom.rank), param.whole("tiles")
    if tiles < 1:
        raise step.wrong(f"tiles must be positive; it is {tiles}")
    repeats = step.integers(*(tiles if index == axis else 1 for index in range(bottom.rank)))
    shape = tuple(size * number(tiles) if index == axis else size for index, size in enumerate(bottom.shape))
    return [step.result(step.node("Tile", [bottom.name, repeats], 0), shape)]


def _batch_reindex(step: Step) -> list[Value]:
    step.expect(2)
    bottom, order = step.bottoms
    if order.rank != 1:
        raise step.wrong(f"its second bottom must have 1 axis, not {order.rank}")
    indices = step.node("Cast", [order.name], to=7)
    return [step.result(step.node("Gather", [bottom.name, indices], 0, axis=0), (order.shape[0], *bottom.shape[1:]))]


def _filter(step: Step) -> list[Value]:
    """Translate Filter: of every blob but the last, the items whose element in the last is not zero."""
    step.expect((2, _MANY), len(step.bottoms) - 1)
    *blobs, selector = step.bottoms
    if any(size.declared != 1 for size in selector.shape[1:]):
        raise step.wrong(
            f"its selector must have the size 1 in every axis but the first: {sizes.shown(selector.shape)}"
        )
    flat = step.node("Reshape", [selector.name, step.integers(-1)])
    chosen = step.node("Reshape", [step.node("NonZero", [flat]), step.integers(-1)])
    size = sizes.symbol(f"{step.spec.name}_size", selector.shape[0].declared)
    return [
        step.result(step.node("Gather", [blob.name, chosen], index, axis=0), (size, *blob.shape[1:]))
        for index, blob in enumerate(blobs)
    ]


def _permute(step: Step) -> list[Value]:
    step.expect(1)
    (bottom,) = step.bottoms
    order = step.param("permute_param").wholes("order")
    order += [axis for axis in range(bottom.rank) if axis not in order]
    if sorted(order) != list(range(bottom.rank)):
        raise step.wrong(f"the order {order} is none of {bottom.rank} axes")
    return [step.result(step.node("Transpose", [bottom.name], 0, perm=order), [bottom.shape[axis] for axis in order])]


def _silence(step: Step) -> list[Value]:
    step.expect((1, _MANY), 0)
    return []


TRANSLATIONS = {
    "BatchReindex": _batch_reindex,
    "Concat": _concat,
    "Crop": _crop,
    "Filter": _filter,
    "Flatten": _flatten,
    "Permute": _permute,
    "Reshape": _reshape,
    "Silence": _silence,
    "Slice": _slice,
    "Tile": _tile,
}
