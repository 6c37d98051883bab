"""Operations that move, repeat, join and make elements without computing with them."""

from __future__ import annotations

from typing import Any

import numpy as np

from portmatrix.converters.errors import Unsupported
from portmatrix.converters.theano.graph import Apply, integers
from portmatrix.converters.theano.sizes import Size, product
from portmatrix.converters.theano.translator import FOLDED, Handler, Translator, Value, onnx_dtype, total

_INT = np.dtype(np.int64)


def identity(t: Translator, apply: Apply) -> Value:
    """Translate an operation that is there for its gradient or for a check only."""
    return t.value(apply.inputs[0])


def dim_shuffle(t: Translator, apply: Apply) -> Value:
    """Translate ``DimShuffle``: axes dropped, then permuted, then put in."""
    value = t.value(apply.inputs[0])
    order = [None if isinstance(axis, str | bytes) else int(axis) for axis in apply.op.get("new_order")]
    kept = [axis for axis in order if axis is not None]
    dropped = [axis for axis in range(value.rank) if axis not in kept]
    for axis in dropped:
        t.sizes.unify(value.shape[axis], Size.of(1))
    value = t.squeezed(value, *dropped)
    ranks = sorted(kept)
    value = t.transposed(value, [ranks.index(axis) for axis in kept])
    return t.unsqueezed(value, *[index for index, axis in enumerate(order) if axis is None])


def reshape(t: Translator, apply: Apply) -> Value:
    """Translate ``Reshape`` to sizes that are constants, copies of the operand's, and at most one that is left open."""
    value, wanted = t.value(apply.inputs[0]), t.value(apply.inputs[1])
    rank = int(apply.op.get("ndim"))
    if wanted.parts is None or len(wanted.parts) != rank:
        return t.op("Reshape", value, t.cast(wanted, _INT), shape=[t.sizes.fresh() for _ in range(rank)])
    target = [t.sizes.resolved(part) for part in wanted.parts]
    return t.reshaped(value, _target(t, value, target), wanted)


def _target(t: Translator, value: Value, target: list[Size]) -> list[Size]:
    """Return the sizes that a reshape asks for, with -1 replaced, and with the first one open if it was a number.

    A first size that is a number, where the operand's size is not known, is the batch size that the graph was built
    for: leaving it open gives the same result for it, and right ones for others.
    """
    whole = t.sizes.resolved(total(value))
    open_ = [axis for axis, size in enumerate(target) if size.number == -1]
    numbers = all(size.number is not None for size in target)
    if not open_ and numbers and target and whole.number is None and target[0].number != 1:
        open_ = [0]
    if open_:
        rest = product(size for axis, size in enumerate(target) if axis not in open_)
        if len(target) > 2:
            _suppose(t, value, open_, rest)
        whole = t.sizes.resolved(total(value))
        target[open_[0]] = whole.over(rest) or t.sizes.fresh()
    else:
        _equate(t, whole, product(target))
    return target


def _suppose(t: Translator, value: Value, open_: list[int], rest: Size) -> None:
    """Take the second axis of an input matrix to be what each row is reshaped to."""
    if open_ == [0] and value.rank == 2 and rest.number and value.shape[0].unknown in t.sizes.kept:
        name = t.sizes.resolved(value.shape[1]).unknown
        if name is not None and not name.startswith("?"):
            t.sizes.unify(value.shape[1], rest)


def _equate(t: Translator, left: Size, right: Size) -> None:
    """Learn from two products that must be equal what the one unknown is that they do not share."""
    if len(left.terms) != 1 or len(right.terms) != 1:
        return
    ((first, one),) = left.terms.items()
    ((second, other),) = right.terms.items()
    a, b = list(first), list(second)
    for name in first:
        if name in b:
            a.remove(name)
            b.remove(name)
    if len(a) == 1 and not b and other % one == 0:
        t.sizes.unify(Size.of(a[0]), Size.of(other // one))
    elif len(b) == 1 and not a and one % other == 0:
        t.sizes.unify(Size.of(b[0]), Size.of(one // other))


def flatten(t: Translator, apply: Apply) -> Value:
    """Translate the ``Flatten`` of Theano up to 0.9: the last axes become one."""
    value = t.value(apply.inputs[0])
    kept = int(apply.op.get("outdim")) - 1
    target = [*value.shape[:kept], product(value.shape[kept:])]
    return t.reshaped(
        value, target, t.vector([*[t.size_of(value, axis) for axis in range(kept)], t.constant(np.int64(-1))])
    )


def shape(t: Translator, apply: Apply) -> Value:
    """Translate ``Shape``."""
    return t.shape_of(t.value(apply.inputs[0]))


def shape_i(t: Translator, apply: Apply) -> Value:
    """Translate ``Shape_i``."""
    return t.size_of(t.value(apply.inputs[0]), int(apply.op.get("i")))


def specify_shape(t: Translator, apply: Apply) -> Value:
    """Translate ``SpecifyShape``: the sizes are learnt, and not checked at run time."""
    value, given = t.value(apply.inputs[0]), t.value(apply.inputs[1])
    for own, part in zip(value.shape, given.parts or (), strict=False):
        t.sizes.unify(own, part)
    return value


def rebroadcast(t: Translator, apply: Apply) -> Value:
    """Translate ``Rebroadcast``: axes that must have size 1."""
    value = t.value(apply.inputs[0])
    for own, flag in zip(value.shape, apply.outputs[0].broadcastable, strict=True):
        if flag:
            t.sizes.unify(own, Size.of(1))
    return value


def make_vector(t: Translator, apply: Apply) -> Value:
    """Translate ``MakeVector``."""
    args = [t.value(variable) for variable in apply.inputs]
    dtype = onnx_dtype(apply.outputs[0].dtype)
    if not args:
        return t.constant(np.zeros(0, dtype))
    if dtype == _INT and all(arg.dtype.kind in "iu" for arg in args):
        return t.vector(args)
    flat = [t.unsqueezed(t.cast(arg, dtype), 0) for arg in args]
    return t.op("Concat", *flat, shape=[Size.of(len(flat))], dtype=dtype, axis=0)


def _sizes(t: Translator, args: list[Value]) -> list[Size]:
    return [arg.parts[0] if arg.parts else t.sizes.fresh() for arg in args]


def alloc(t: Translator, apply: Apply) -> Value:
    """Translate ``Alloc``: a value repeated to a shape."""
    value, *args = [t.value(variable) for variable in apply.inputs]
    return _filled(t, t.cast(value, onnx_dtype(apply.outputs[0].dtype)), args)


def alloc_empty(t: Translator, apply: Apply) -> Value:
    """Translate ``AllocEmpty`` as zeros."""
    zero = t.constant(np.zeros((), onnx_dtype(apply.outputs[0].dtype)))
    return _filled(t, zero, [t.value(variable) for variable in apply.inputs])


def _filled(t: Translator, value: Value, args: list[Value]) -> Value:
    sizes = [t.sizes.resolved(size) for size in _sizes(t, args)]
    numbers = [size.number for size in sizes]
    padded = [Size.of(1)] * (len(sizes) - value.rank) + [t.sizes.resolved(size) for size in value.shape]
    if value.rank == len(sizes) and padded == sizes:
        return value
    if value.array is not None and None not in numbers:
        known = [number or 0 for number in numbers]
        if np.prod(known, dtype=np.float64) <= FOLDED:
            return t.constant(np.broadcast_to(value.array, known))
    for own, size in zip(padded, sizes, strict=True):
        if own.number != 1:
            t.sizes.unify(own, size)
    return t.op("Expand", value, t.vector(args), shape=sizes)


def join(t: Translator, apply: Apply) -> Value:
    """Translate ``Join``, whose first operand is the axis."""
    axis_value, *args = [t.value(variable) for variable in apply.inputs]
    dtype, rank = onnx_dtype(apply.outputs[0].dtype), apply.outputs[0].rank
    axis = t.integers_of(axis_value, apply, "the axis")[0] % rank
    return joined(t, [t.cast(arg, dtype) for arg in args], axis)


def joined(t: Translator, args: list[Value], axis: int) -> Value:
    """Return values of the same type put behind each other along ``axis``."""
    args = [arg for arg in args if t.sizes.resolved(arg.shape[axis]).number != 0] or args[:1]
    if len(args) == 1:
        return args[0]
    sizes = list(args[0].shape)
    for arg in args[1:]:
        for other, size in enumerate(arg.shape):
            sizes[other] = sizes[other].plus(size) if other == axis else t.sizes.unify(sizes[other], size)
    made = t.op("Concat", *args, shape=sizes, axis=axis)
    known = [arg.parts for arg in args]
    if made.rank == 1 and None not in known:
        return t.with_parts(made, [part for parts in known if parts is not None for part in parts])
    return made


def split(t: Translator, apply: Apply) -> list[Value]:
    """Translate ``Split`` by sizes that are constants."""
    value, axis_value, sizes_value = [t.value(variable) for variable in apply.inputs]
    axis = t.integers_of(axis_value, apply, "the axis")[0] % value.rank
    sizes = t.integers_of(sizes_value, apply, "the sizes of the parts")
    t.sizes.unify(value.shape[axis], Size.of(sum(sizes)))
    shapes = [[Size.of(size) if other == axis else own for other, own in enumerate(value.shape)] for size in sizes]
    return t.ops("Split", [value, t.numbers(*sizes)], [(shape, None) for shape in shapes], axis=axis)


def repeat(t: Translator, apply: Apply) -> Value:
    """Translate ``RepeatOp``: each element along an axis several times."""
    value, count = t.value(apply.inputs[0]), t.value(apply.inputs[1])
    axis = apply.op.get("axis")
    if axis is None:
        value, axis = t.reshaped(value, [total(value)], t.numbers(-1)), 0
    axis = int(axis) % value.rank
    counts = t.integers_of(count, apply, "the number of repetitions")
    size = t.sizes.resolved(value.shape[axis]).number
    if size is not None:
        picked = np.repeat(np.arange(size), counts if count.rank else counts[0])
        return _picked(t, value, picked, axis)
    if count.rank and len(set(counts)) != 1:
        raise Unsupported(apply.label, apply.op.kind, "different numbers of repetitions along an axis of unknown size")
    wide = t.unsqueezed(value, axis + 1)
    times = [counts[0] if other == axis + 1 else 1 for other in range(wide.rank)]
    tiled_shape = [Size.of(counts[0]) if other == axis + 1 else own for other, own in enumerate(wide.shape)]
    tiled = t.op("Tile", wide, t.numbers(*times), shape=tiled_shape)
    target = list(value.shape)
    target[axis] = target[axis].times(Size.of(counts[0]))
    ends = [t.size_of(value, other) if other != axis else t.constant(np.int64(-1)) for other in range(value.rank)]
    return t.reshaped(tiled, target, t.vector(ends))


def _picked(t: Translator, value: Value, indices: Any, axis: int) -> Value:
    shape = [Size.of(len(indices)) if other == axis else own for other, own in enumerate(value.shape)]
    return t.op("Gather", value, t.numbers(*indices), shape=shape, axis=axis)


def tile(t: Translator, apply: Apply) -> Value:
    """Translate the ``Tile`` operation (``tensor.tile`` builds a graph of others)."""
    value = t.value(apply.inputs[0])
    rank = int(apply.op.get("ndim"))
    value = t.unsqueezed(value, *range(rank - value.rank))
    times = t.cast(t.value(apply.inputs[1]), _INT)
    parts = times.parts if times.parts and len(times.parts) == rank else None
    sizes = [own.times(part) for own, part in zip(value.shape, parts, strict=True)] if parts else None
    return t.op("Tile", value, times, shape=sizes or [t.sizes.fresh() for _ in range(rank)])


def arange(t: Translator, apply: Apply) -> Value:
    """Translate ``ARange``."""
    dtype = onnx_dtype(apply.outputs[0].dtype)
    args = [t.value(variable) for variable in apply.inputs]
    numbers = [t.number_of(arg) for arg in args]
    if None not in numbers and _few(*map(float, numbers)):
        return t.constant(np.arange(*[number.item() for number in numbers]).astype(dtype))
    worked = dtype if dtype.itemsize >= 4 and dtype.kind != "u" else _INT
    size = t.sizes.fresh()
    if args[1].parts and numbers[0] == 0 and numbers[2] == 1:
        size = args[1].parts[0]
    made = t.op("Range", *[t.cast(arg, worked) for arg in args], shape=[size], dtype=worked)
    return t.cast(made, dtype)


def _few(start: float, stop: float, step: float) -> bool:
    return bool(step) and abs(stop - start) <= FOLDED * abs(step)


def _counted(t: Translator, count: Value) -> Value:
    """Return 0, 1, … up to a number, which need not be known."""
    number = t.number_of(count)
    if number is not None:
        return t.constant(np.arange(int(number)))
    size = count.parts[0] if count.parts else t.sizes.fresh()
    zero, one = t.constant(np.int64(0)), t.constant(np.int64(1))
    return t.op("Range", zero, t.cast(count, _INT), one, shape=[size], dtype=_INT)


def band(t: Translator, rows: Value, columns: Value, offset: Value, kind: str) -> Value:
    """Return the matrix that is true where row + offset stands to the column as ``kind`` says."""
    down = t.unsqueezed(_counted(t, rows), 1)
    across = t.unsqueezed(_counted(t, columns), 0)
    moved = t.op("Add", down, t.cast(offset, _INT), shape=down.shape)
    return t.op(kind, moved, across, shape=(down.shape[0], across.shape[1]), dtype=bool)


def eye(t: Translator, apply: Apply) -> Value:
    """Translate ``Eye``."""
    rows, columns, offset = [t.value(variable) for variable in apply.inputs]
    return t.cast(band(t, rows, columns, offset, "Equal"), onnx_dtype(apply.outputs[0].dtype))


def tri(t: Translator, apply: Apply) -> Value:
    """Translate ``Tri``: ones on and below a diagonal."""
    rows, columns, offset = [t.value(variable) for variable in apply.inputs]
    return t.cast(band(t, rows, columns, offset, "GreaterOrEqual"), onnx_dtype(apply.outputs[0].dtype))


def extract_diagonal(t: Translator, apply: Apply) -> Value:
    """Translate ``ExtractDiag`` of two axes whose sizes are known."""
    value = t.value(apply.inputs[0])
    offset = int(apply.op.get("offset") or 0)
    one, other = int(apply.op.get("axis1", 0)) % value.rank, int(apply.op.get("axis2", 1)) % value.rank
    rest = [axis for axis in range(value.rank) if axis not in (one, other)]
    rows, columns = (t.sizes.resolved(value.shape[axis]).number for axis in (one, other))
    if rows is None or columns is None:
        raise Unsupported(apply.label, apply.op.kind, "the sizes of the two axes must be known; give input_shapes")
    moved = t.transposed(value, [*rest, one, other])
    lead = moved.shape[:-2]
    flat = t.reshaped(
        moved,
        [*lead, Size.of(rows * columns)],
        t.vector([*[t.size_of(moved, axis) for axis in range(len(lead))], t.constant(np.int64(-1))]),
    )
    found = np.arange(rows * columns).reshape(rows, columns).diagonal(offset)
    return _picked(t, flat, found, flat.rank - 1)


def allocate_diagonal(t: Translator, apply: Apply) -> Value:
    """Translate ``AllocDiag`` of a vector on the main diagonal of a matrix."""
    value = t.value(apply.inputs[0])
    if value.rank != 1 or int(apply.op.get("offset") or 0):
        raise Unsupported(apply.label, apply.op.kind, "only vectors on the main diagonal are translated")
    count = t.size_of(value, 0)
    where = band(t, count, count, t.constant(np.int64(0)), "Equal")
    zero = t.constant(np.zeros((), value.dtype))
    return t.op("Where", where, t.unsqueezed(value, 1), zero, shape=where.shape, dtype=value.dtype)


def fill_diagonal(t: Translator, apply: Apply) -> Value:
    """Translate ``FillDiagonal`` of a matrix."""
    value, number = t.value(apply.inputs[0]), t.value(apply.inputs[1])
    if value.rank != 2:
        raise Unsupported(apply.label, apply.op.kind, "only matrices are translated")
    where = band(t, t.size_of(value, 0), t.size_of(value, 1), t.constant(np.int64(0)), "Equal")
    return t.op("Where", where, t.cast(number, value.dtype), value, shape=value.shape, dtype=value.dtype)


def axes_of(apply: Apply, name: str, rank: int) -> list[int]:
    """Return an attribute that names axes, None for all, as sorted axes counted from the front."""
    given = integers(apply.op.get(name))
    return list(range(rank)) if given is None else sorted(axis % rank for axis in given)


SHAPES: dict[str, Handler] = {
    "AllocDiag": allocate_diagonal,
    "AllocEmpty": alloc_empty,
    "Alloc": alloc,
    "ARange": arange,
    "Assert": identity,
    "ConsiderConstant": identity,
    "CpuContiguous": identity,
    "DeepCopyOp": identity,
    "Diagonal": extract_diagonal,
    "DimShuffle": dim_shuffle,
    "DisconnectedGrad": identity,
    "ExtractDiag": extract_diagonal,
    "Eye": eye,
    "FillDiagonal": fill_diagonal,
    "Flatten": flatten,
    "GpuFromHost": identity,
    "GradClip": identity,
    "GradScale": identity,
    "HostFromGpu": identity,
    "Join": join,
    "MakeVector": make_vector,
    "OutputGuard": identity,
    "Print": identity,
    "Rebroadcast": rebroadcast,
    "RepeatOp": repeat,
    "Reshape": reshape,
    "ScalarFromTensor": identity,
    "Shape": shape,
    "Shape_i": shape_i,
    "SpecifyShape": specify_shape,
    "Split": split,
    "TensorFromScalar": identity,
    "Tile": tile,
    "Tri": tri,
    "ViewOp": identity,
    "ZeroGrad": identity,
}
