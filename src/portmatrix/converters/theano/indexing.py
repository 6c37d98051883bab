"""Operations that take parts of tensors by index or slice, and those that write into parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from portmatrix.converters.errors import Unsupported
from portmatrix.converters.theano.graph import Apply, Variable
from portmatrix.converters.theano.shapes import joined
from portmatrix.converters.theano.sizes import Size
from portmatrix.converters.theano.translator import END, Handler, Translator, Value, onnx_dtype

_INT = np.dtype(np.int64)


class Bounds(NamedTuple):
    """A slice along one axis; parts that are None are left open."""

    start: Value | None
    stop: Value | None
    step: Value | None

    @property
    def whole(self) -> bool:
        return self.start is None and self.stop is None and self.step is None


#: What is asked of an axis: a slice, or an index.
Asked = Bounds | Value


def _entry(t: Translator, entry: Any, rest: Iterator[Variable]) -> Value | None:
    """Return a bound: None, a number, or the next operand where the type of one stands."""
    if entry is None:
        return None
    if isinstance(entry, int | np.integer) and not isinstance(entry, bool):
        return t.constant(np.int64(entry))
    return t.value(next(rest))


def asked_of(t: Translator, apply: Apply, operands: Sequence[Variable]) -> list[Asked]:
    """Return what a ``Subtensor`` asks of each of the first axes."""
    rest = iter(operands)
    asked: list[Asked] = []
    entries = apply.op.get("idx_list")
    if not isinstance(entries, list | tuple):
        raise t.graph.fail(f"{apply.op.kind} of {apply.label!r}", "it has no list of indices")
    for entry in entries:
        if isinstance(entry, slice):
            parts = [_entry(t, part, rest) for part in (entry.start, entry.stop, entry.step)]
            asked.append(_tidied(t, Bounds(*parts)))
        else:
            index = _entry(t, entry, rest)
            if index is None:
                raise t.graph.fail(f"{apply.op.kind} of {apply.label!r}", "an index is missing")
            asked.append(index)
    return asked


def _tidied(t: Translator, bounds: Bounds) -> Bounds:
    """Return the bounds without those that say what is the case anyway."""
    start, stop, step = bounds
    step = None if step is not None and t.number_of(step) == 1 else step
    if start is not None and t.number_of(start) == 0 and step is None:
        start = None
    if stop is not None and (t.number_of(stop) or 0) >= (1 << 31) - 1 and step is None:
        stop = None
    return Bounds(start, stop, step)


def _part(t: Translator, value: Value | None) -> Size | None:
    return t.sizes.resolved(value.parts[0]) if value is not None and value.parts else None


def _length(t: Translator, size: Size, bounds: Bounds) -> Size:
    """Return how long a slice of an axis of ``size`` is."""
    size = t.sizes.resolved(size)
    numbers = [None if bound is None else t.number_of(bound) for bound in bounds]
    known = all(bound is None or number is not None for bound, number in zip(bounds, numbers, strict=True))
    if size.number is not None and known:
        return Size.of(len(range(*slice(*[None if n is None else int(n) for n in numbers]).indices(size.number))))
    step = 1 if bounds.step is None else numbers[2]
    if step == -1 and bounds.start is None and bounds.stop is None:
        return size
    if step != 1:
        return t.sizes.fresh()
    start = _from_front(t, bounds.start, size) if bounds.start is not None else Size.of(0)
    stop = _from_front(t, bounds.stop, size) if bounds.stop is not None else size
    if start is None or stop is None:
        return t.sizes.fresh()
    return t.sizes.smaller(size, stop).plus(start, -1)


def _from_front(t: Translator, bound: Value, size: Size) -> Size | None:
    part = _part(t, bound)
    if part is None:
        return None
    return size.plus(part) if part.number is not None and part.number < 0 else part


def sliced(t: Translator, value: Value, asked: Sequence[tuple[int, Bounds]], label: str = "") -> Value:
    """Return the slices of a value along some axes."""
    changed = []
    shape = list(value.shape)
    for axis, bounds in asked:
        length = _length(t, value.shape[axis], bounds)
        same = t.sizes.same(length, value.shape[axis]) and bounds.step is None
        if bounds.whole or same:
            continue
        shape[axis] = length
        changed.append((axis, bounds))
    if not changed:
        return value
    if value.array is not None:
        constant = _constant_slice(t, value, changed)
        if constant is not None:
            return constant
    starts, ends, steps = [], [], []
    for _, bounds in changed:
        backwards = bounds.step is not None and (t.number_of(bounds.step) or 0) < 0
        starts.append(bounds.start or t.constant(np.int64(END if backwards else 0)))
        ends.append(bounds.stop or t.constant(np.int64(-END if backwards else END)))
        steps.append(bounds.step or t.constant(np.int64(1)))
    axes = t.numbers(*[axis for axis, _ in changed])
    args = [value, t.vector(starts), t.vector(ends), axes]
    if any(t.number_of(step) != 1 for step in steps):
        args.append(t.vector(steps))
    return t.op("Slice", *args, shape=shape, label=label)


def _constant_slice(t: Translator, value: Value, asked: Sequence[tuple[int, Bounds]]) -> Value | None:
    index: list[slice] = [slice(None)] * value.rank
    for axis, bounds in asked:
        numbers = [None if bound is None else t.number_of(bound) for bound in bounds]
        if any(bound is not None and number is None for bound, number in zip(bounds, numbers, strict=True)):
            return None
        index[axis] = slice(*[None if number is None else int(number) for number in numbers])
    return t.constant(np.asarray(value.array)[tuple(index)])


def gathered(t: Translator, value: Value, axis: int, index: Value, label: str = "") -> Value:
    """Return the elements of an axis at one index, or at a tensor of them."""
    shape = [*value.shape[:axis], *index.shape, *value.shape[axis + 1 :]]
    if value.array is not None and index.array is not None:
        return t.constant(np.take(value.array, index.array.astype(np.int64), axis))
    index = index if index.dtype in (np.int32, np.int64) else t.cast(index, _INT)
    return t.op("Gather", value, index, shape=shape, label=label, axis=axis)


def subtensor(t: Translator, apply: Apply) -> Value:
    """Translate ``Subtensor``: slices first, then indices from the last axis on."""
    value = t.value(apply.inputs[0])
    asked = asked_of(t, apply, apply.inputs[1:])
    parts = _known_parts(t, value, asked)
    if parts is not None:
        dtype = onnx_dtype(apply.outputs[0].dtype)
        numbers = [part.number for part in parts]
        if None not in numbers:
            content = np.array(numbers, dtype)
            return t.constant(content if apply.outputs[0].rank else content.reshape(()))
    kept = _of_loop(t, value, asked)
    if kept is not None:
        return kept
    label = apply.outputs[0].name or ""
    slices = [(axis, entry) for axis, entry in enumerate(asked) if isinstance(entry, Bounds)]
    value = sliced(t, value, slices, label)
    for axis in range(len(asked) - 1, -1, -1):
        entry = asked[axis]
        if isinstance(entry, Value):
            value = gathered(t, value, axis, entry, label)
    if parts is not None and value.parts is None:
        value.parts = parts
    return value


def _of_loop(t: Translator, value: Value, asked: Sequence[Asked]) -> Value | None:
    """Return what is taken of the buffer of a scan, if the scan has that itself."""
    if len(asked) != 1:
        return None
    (entry,) = asked
    if isinstance(entry, Value):
        return t.after_loop(value, t.number_of(entry), index=True)
    if entry.start is None or entry.stop is not None or entry.step is not None:
        return None
    return t.after_loop(value, t.number_of(entry.start), index=False)


def _known_parts(t: Translator, value: Value, asked: Sequence[Asked]) -> tuple[Size, ...] | None:
    if value.parts is None or value.rank != 1 or len(asked) != 1:
        return None
    (entry,) = asked
    if isinstance(entry, Value):
        number = t.number_of(entry)
        return None if number is None else (value.parts[int(number)],)
    numbers = [None if bound is None else t.number_of(bound) for bound in entry]
    if any(bound is not None and number is None for bound, number in zip(entry, numbers, strict=True)):
        return None
    return value.parts[slice(*[None if number is None else int(number) for number in numbers])]


# -- writing -------------------------------------------------------------------------------------------------------


def inc_subtensor(t: Translator, apply: Apply) -> Value:
    """Translate ``IncSubtensor``, which sets or adds to a part of a tensor."""
    value, new = t.value(apply.inputs[0]), t.value(apply.inputs[1])
    asked = asked_of(t, apply, apply.inputs[2:])
    new = t.cast(new, value.dtype)
    return _written(t, apply, value, asked, 0, new, adding=not apply.op.get("set_instead_of_inc"))


def _written(
    t: Translator, apply: Apply, value: Value, asked: list[Asked], axis: int, new: Value, *, adding: bool
) -> Value:
    """Return ``value`` with ``new`` written to what is asked of its axes from ``axis`` on."""
    while axis < len(asked) and isinstance(asked[axis], Bounds) and asked[axis].whole:  # type: ignore[union-attr]
        axis += 1
    if axis >= len(asked):
        return _replaced(t, value, new, adding=adding)
    entry = asked[axis]
    if isinstance(entry, Value):
        return _written_at(t, apply, value, asked, axis, new, adding=adding)
    before, part, behind = _three(t, value, axis, entry)
    if part is None:
        return _scattered(t, apply, value, asked, axis, new, adding=adding)
    changed = _written(t, apply, part, asked, axis + 1, new, adding=adding)
    return joined(t, [piece for piece in (before, changed, behind) if piece is not None], axis)


def _replaced(t: Translator, value: Value, new: Value, *, adding: bool) -> Value:
    if adding:
        shape = t.broadcast([value.shape, new.shape])
        return t.op("Add", value, new, shape=shape)
    padded = t.unsqueezed(new, *range(value.rank - new.rank)) if new.rank < value.rank else new
    for own, size in zip(value.shape, padded.shape, strict=True):
        if t.sizes.resolved(size).number != 1:
            t.sizes.unify(own, size)
    return t.expanded(padded, value.shape, t.shape_of(value))


def _three(t: Translator, value: Value, axis: int, bounds: Bounds) -> tuple[Value | None, Value | None, Value | None]:
    """Return what lies before a slice, the slice, and what lies behind; no slice if it has another step than 1."""
    if bounds.step is not None:
        return None, None, None
    before = None if bounds.start is None else sliced(t, value, [(axis, Bounds(None, bounds.start, None))])
    behind = None if bounds.stop is None else sliced(t, value, [(axis, Bounds(bounds.stop, None, None))])
    return before, sliced(t, value, [(axis, bounds)]), behind


def _written_at(
    t: Translator, apply: Apply, value: Value, asked: list[Asked], axis: int, new: Value, *, adding: bool
) -> Value:
    """Write at one index: as a slice of length 1 if the index is a constant, and by comparing positions if not."""
    index = asked[axis]
    assert isinstance(index, Value)
    number = t.number_of(index)
    rest = len([entry for entry in asked[axis + 1 :] if isinstance(entry, Value)])
    spread = new
    if new.rank >= value.rank - axis - rest:
        spread = t.unsqueezed(new, new.rank - (value.rank - axis - 1 - rest))
    if number is not None:
        stop = None if int(number) == -1 else t.constant(np.int64(int(number) + 1))
        narrow = [*asked[:axis], Bounds(t.constant(np.int64(number)), stop, None), *asked[axis + 1 :]]
        return _written(t, apply, value, narrow, axis, spread, adding=adding)
    count = t.size_of(value, axis)
    zero, one = t.constant(np.int64(0)), t.constant(np.int64(1))
    places = t.op("Range", zero, count, one, shape=[value.shape[axis]], dtype=_INT)
    index = t.cast(index, _INT)
    below = t.op("Less", index, zero, shape=(), dtype=bool)
    front = t.op("Where", below, t.op("Add", index, count, shape=()), index, shape=(), dtype=_INT)
    hit = t.op("Equal", places, front, shape=places.shape, dtype=bool)
    hit = t.unsqueezed(hit, *range(1, value.rank - axis))
    whole: list[Asked] = [*asked[:axis], Bounds(None, None, None), *asked[axis + 1 :]]
    changed = _written(t, apply, value, whole, axis, spread, adding=adding)
    return t.op("Where", hit, changed, value, shape=value.shape, dtype=value.dtype)


def _scattered(
    t: Translator, apply: Apply, value: Value, asked: list[Asked], axis: int, new: Value, *, adding: bool
) -> Value:
    """Write to every n-th place of an axis: what was written to all of them, merged by position."""
    bounds = asked[axis]
    size = t.sizes.resolved(value.shape[axis]).number
    assert isinstance(bounds, Bounds)
    numbers = [None if bound is None else t.number_of(bound) for bound in bounds]
    if size is None or any(b is not None and n is None for b, n in zip(bounds, numbers, strict=True)):
        needed = "writing to a slice with a step needs a known size of its axis and constant bounds; give input_shapes"
        raise Unsupported(apply.label, apply.op.kind, needed)
    places = np.arange(size)[slice(*[None if number is None else int(number) for number in numbers])]
    part = gathered(t, value, axis, t.numbers(*places))
    changed = _written(t, apply, part, asked, axis + 1, new, adding=adding)
    both = joined(t, [value, changed], axis)
    order = np.arange(size)
    order[places] = size + np.arange(len(places))
    return gathered(t, both, axis, t.numbers(*order))


# -- tensors of indices ----------------------------------------------------------------------------------------------


def advanced_subtensor1(t: Translator, apply: Apply) -> Value:
    """Translate ``AdvancedSubtensor1``: rows at a vector of indices."""
    return gathered(t, t.value(apply.inputs[0]), 0, t.value(apply.inputs[1]), apply.outputs[0].name or "")


def advanced_inc_subtensor1(t: Translator, apply: Apply) -> Value:
    """Translate ``AdvancedIncSubtensor1``: rows set, or added to, at a vector of indices."""
    value, new, index = [t.value(variable) for variable in apply.inputs]
    index = t.unsqueezed(t.cast(index, _INT), 1)
    rows = [index.shape[0], *value.shape[1:]]
    new = t.cast(new, value.dtype)
    new = t.unsqueezed(new, *range(value.rank - new.rank))
    if [*map(t.sizes.resolved, new.shape)] != [*map(t.sizes.resolved, rows)]:
        count = t.size_of(index, 0)
        wanted = t.vector([count, *[t.size_of(value, axis) for axis in range(1, value.rank)]])
        new = t.expanded(new, rows, wanted)
    reduction = None if apply.op.get("set_instead_of_inc") else "add"
    return t.op("ScatterND", value, index, new, shape=value.shape, reduction=reduction)


def _index_entries(t: Translator, apply: Apply, operands: Sequence[Variable]) -> list[Asked | None]:
    """Return what ``AdvancedSubtensor`` asks of the axes: None for a new one."""
    asked: list[Asked | None] = []
    for variable in operands:
        if variable.type == "NoneTypeT" or (variable.has_value and variable.value is None):
            asked.append(None)
        elif variable.type == "SliceType":
            asked.append(_slice_of(t, apply, variable))
        else:
            value = t.value(variable)
            if value.dtype == bool:
                raise Unsupported(apply.label, apply.op.kind, "a mask makes a shape that depends on the data")
            asked.append(value)
    return asked


def _slice_of(t: Translator, apply: Apply, variable: Variable) -> Bounds:
    if isinstance(variable.value, slice):
        given = (variable.value.start, variable.value.stop, variable.value.step)
        return _tidied(t, Bounds(*[None if part is None else t.constant(np.int64(part)) for part in given]))
    if variable.owner is not None and variable.owner.op.kind == "MakeSlice":
        parts = [None if v.type == "NoneTypeT" else t.value(v) for v in variable.owner.inputs]
        return _tidied(t, Bounds(*parts))
    raise Unsupported(apply.label, apply.op.kind, f"an index of type {variable.type}")


def advanced_subtensor(t: Translator, apply: Apply) -> Value:
    """Translate ``AdvancedSubtensor`` of slices and of tensors of indices, which must stand side by side."""
    value = t.value(apply.inputs[0])
    entries = _index_entries(t, apply, apply.inputs[1:])
    if None in entries:
        raise Unsupported(apply.label, apply.op.kind, "new axes among tensors of indices; use dimshuffle instead")
    axes = [axis for axis, entry in enumerate(entries) if isinstance(entry, Value)]
    slices = [(axis, entry) for axis, entry in enumerate(entries) if isinstance(entry, Bounds)]
    value = sliced(t, value, slices)
    indices = [t.cast(entry, _INT) for entry in entries if isinstance(entry, Value)]
    if not indices:
        return value
    if len(indices) == 1:
        return gathered(t, value, axes[0], indices[0])
    if axes != list(range(axes[0], axes[0] + len(axes))):
        raise Unsupported(apply.label, apply.op.kind, "tensors of indices with slices between them")
    return _gathered_together(t, value, axes, indices)


def _gathered_together(t: Translator, value: Value, axes: list[int], indices: list[Value]) -> Value:
    """Return the elements at several tensors of indices at once, which have one shape together."""
    shape = t.broadcast([index.shape for index in indices])
    lead = axes[0]
    rest = [axis for axis in range(value.rank) if axis not in axes]
    moved = t.transposed(value, [*axes, *rest])
    whole = indices[0]
    for index in indices[1:]:
        whole = t.op("Add", whole, t.op("Mul", index, t.constant(np.int64(0)), shape=index.shape), shape=shape)
    given = t.shape_of(whole)
    spread = [t.unsqueezed(t.expanded(_ranked(t, index, len(shape)), shape, given), len(shape)) for index in indices]
    stacked = t.op("Concat", *spread, shape=[*shape, Size.of(len(spread))], axis=len(shape))
    sizes = [*shape, *[value.shape[axis] for axis in rest]]
    found = t.op("GatherND", moved, stacked, shape=sizes)
    order = [*range(len(shape), len(shape) + lead), *range(len(shape)), *range(len(shape) + lead, found.rank)]
    return t.transposed(found, order)


def _ranked(t: Translator, value: Value, rank: int) -> Value:
    return t.unsqueezed(value, *range(rank - value.rank))


def advanced_inc_subtensor(t: Translator, apply: Apply) -> Value:
    """Translate ``AdvancedIncSubtensor`` at tensors of indices for the first axes."""
    value, new = t.value(apply.inputs[0]), t.value(apply.inputs[1])
    entries = _index_entries(t, apply, apply.inputs[2:])
    while entries and isinstance(entries[-1], Bounds) and entries[-1].whole:
        entries.pop()
    if not entries or not all(isinstance(entry, Value) for entry in entries):
        raise Unsupported(apply.label, apply.op.kind, "slices among tensors of indices that are written to")
    indices = [t.cast(entry, _INT) for entry in entries if isinstance(entry, Value)]
    shape = t.broadcast([index.shape for index in indices])
    zero = t.constant(np.int64(0))
    whole = indices[0]
    for index in indices[1:]:
        whole = t.op("Add", whole, t.op("Mul", index, zero, shape=index.shape), shape=shape)
    given = t.shape_of(whole)
    spread = [t.unsqueezed(t.expanded(_ranked(t, index, len(shape)), shape, given), len(shape)) for index in indices]
    stacked = joined(t, spread, len(shape))
    rows = [*shape, *value.shape[len(indices) :]]
    wanted = t.vector(
        [t.size_of(whole, axis) for axis in range(len(shape))]
        + [t.size_of(value, axis) for axis in range(len(indices), value.rank)]
    )
    new = t.expanded(_ranked(t, t.cast(new, value.dtype), len(rows)), rows, wanted)
    reduction = None if apply.op.get("set_instead_of_inc") else "add"
    return t.op("ScatterND", value, stacked, new, shape=value.shape, reduction=reduction)


def nonzero(t: Translator, apply: Apply) -> list[Value]:
    """Translate ``Nonzero``: one vector of places for each axis, whose length depends on the data."""
    value = t.value(apply.inputs[0])
    count = t.sizes.fresh()
    places = t.op("NonZero", value, shape=[Size.of(value.rank), count], dtype=_INT)
    return [gathered(t, places, 0, t.constant(np.int64(axis))) for axis in range(value.rank)]


def make_slice(t: Translator, _apply: Apply) -> Value:
    """Translate ``MakeSlice`` as nothing: what uses the slice looks at its parts."""
    return t.constant(np.int64(0))


INDEXING: dict[str, Handler] = {
    "AdvancedIncSubtensor": advanced_inc_subtensor,
    "AdvancedIncSubtensor1": advanced_inc_subtensor1,
    "AdvancedSubtensor": advanced_subtensor,
    "AdvancedSubtensor1": advanced_subtensor1,
    "IncSubtensor": inc_subtensor,
    "MakeSlice": make_slice,
    "Nonzero": nonzero,
    "Subtensor": subtensor,
}
