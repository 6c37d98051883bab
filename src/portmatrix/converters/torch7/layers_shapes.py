"""Layers that change the shape, choose parts or reduce dimensions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from portmatrix.converters.torch7.builder import Builder, Flow, Value, axis_of, elements, translates
from portmatrix.converters.torch7.layers_containers import pad
from portmatrix.converters.torch7.modules import Module
from portmatrix.converters.torch7.objects import Table
from portmatrix.converters.torch7.sizes import Mismatch, Size, SizeNeeded, agree, is_unknown, product, quotient, written


@translates("View")
def _view(builder: Builder, module: Module, flow: Flow) -> Flow:
    """View.lua: what the sizes leave over is the batch; with ``numInputDims`` so are all dimensions before those."""
    value = builder.tensor(module, flow)
    sizes = module.sizes("size")
    given = module.raw("numInputDims")
    inner = min(module.integer("numInputDims"), value.rank) if given is not None else value.rank
    fixed = int(np.prod([size for size in sizes if size >= 0], dtype=object)) if sizes else 1
    count = product(value.sizes[value.rank - inner :])
    share = quotient(count, fixed)
    if share is None or (share == 0):
        raise Mismatch(f"layer {module.path!r} cannot view {written(value.sizes)} as {'x'.join(map(str, sizes))}")
    batch = value.sizes[: value.rank - inner]
    if -1 in sizes:
        return builder.reshape(value, (*([product(batch)] if batch else []), *filled(sizes, share)), module.path)
    if batch:
        return builder.reshape(value, (product([*batch, share]), *sizes), module.path)
    return builder.reshape(value, tuple(sizes) if share == 1 else (share, *sizes), module.path)


def filled(sizes: list[int], share: Size | None) -> list[Size]:
    """Return the sizes with ``share`` in the place of -1."""
    return [share if size == -1 and share is not None else size for size in sizes]


@translates("Reshape")
def _reshape(builder: Builder, module: Module, flow: Flow) -> Flow:
    """Reshape.lua: a batch unless ``batchMode`` is false, or missing while the whole input has just these elements."""
    value = builder.tensor(module, flow)
    sizes: list[int] = module.sizes("size")
    count = int(np.prod(sizes, dtype=object)) if sizes else 1
    whole = module.raw("batchMode") is False or (
        module.raw("batchMode") is None and elements(value) == count and value.sizes[0] != 1
    )
    wanted: tuple[Size, ...] = tuple(sizes) if whole else (value.sizes[0], *sizes)
    _check_elements(module, value, wanted)
    return builder.reshape(value, wanted, module.path)


def _check_elements(module: Module, value: Value, wanted: tuple[Size, ...]) -> None:
    if not agree(elements(value), product(wanted)):
        raise Mismatch(f"layer {module.path!r} cannot reshape {written(value.sizes)} to {written(wanted)}")
    if is_unknown(elements(value)) and value.sizes[1:] and not is_unknown(product(wanted[1:])):
        raise SizeNeeded(f"layer {module.path!r} needs {written(wanted)}, which depends on the size of the input")


@translates("InferReshape")
def _infer_reshape(builder: Builder, module: Module, flow: Flow) -> Flow:
    """A size of 0 is that of the input, -1 what is left over."""
    value = builder.tensor(module, flow)
    whole = module.raw("batchMode") is False
    source = value.sizes if whole else value.sizes[1:]
    sizes = module.sizes("size")
    copied: list[Size] = []
    for at, size in enumerate(sizes):
        if size == 0 and at >= len(source):
            raise Mismatch(f"layer {module.path!r} copies size {at + 1} of {written(value.sizes)}")
        copied.append(source[at] if size == 0 else size)
    rest: list[Size] = [] if whole else [value.sizes[0]]
    known = product([size for size in copied if size != -1])
    share = quotient(product(source), known) if isinstance(known, int) else None
    if -1 in copied and share is None:
        raise Mismatch(f"layer {module.path!r} cannot infer a size of {written(value.sizes)}")
    wanted = (*rest, *[share if size == -1 and share is not None else size for size in copied])
    _check_elements(module, value, wanted)
    return builder.reshape(value, wanted, module.path)


@translates("Squeeze")
def _squeeze(builder: Builder, module: Module, flow: Flow) -> Flow:
    """Without a dimension all of size 1 go; the batch never does."""
    value = builder.tensor(module, flow)
    if module.raw("dim") is None:
        return builder.reshape(value, tuple(size for size in value.sizes if size != 1) or (1,), module.path)
    axis = axis_of(module, module.integer("dim"), value.rank, module.integer("numInputDims", 0))
    if is_unknown(value.sizes[axis]):
        raise SizeNeeded(f"layer {module.path!r} removes a dimension only if its size is 1, which is not known")
    return builder.squeeze(value, axis) if value.sizes[axis] == 1 else value


@translates("Unsqueeze")
def _unsqueeze(builder: Builder, module: Module, flow: Flow) -> Flow:
    value = builder.tensor(module, flow)
    axis = value.rank - module.integer("numInputDims", value.rank) + module.integer("pos") - 1
    if not 0 <= axis <= value.rank:
        raise Mismatch(f"layer {module.path!r} cannot add dimension {axis + 1} to {written(value.sizes)}")
    return builder.unsqueeze(value, axis, module.path)


@translates("Transpose")
def _transpose(builder: Builder, module: Module, flow: Flow) -> Flow:
    value = builder.tensor(module, flow)
    return builder.transpose(value, transposition(module, value.rank), module.path)


def transposition(module: Module, rank: int) -> list[int]:
    """Return the order of dimensions after a Transpose's exchanges, one after the other."""
    order = list(range(rank))
    offset = max(rank - module.integer("numInputDims", rank), 0)
    pairs = module.raw("permutations")
    for pair in pairs if isinstance(pairs, Table) else []:
        dims = list(pair) if isinstance(pair, Table) else []
        if len(dims) != 2 or not all(isinstance(dim, int) and abs(dim) <= 32 for dim in dims):
            module.fault("its permutations should be pairs of dimensions")
        one, other = (axis_of(module, dim + offset if dim > 0 else dim, rank) for dim in dims)
        order[one], order[other] = order[other], order[one]
    return order


@translates("Replicate")
def _replicate(builder: Builder, module: Module, flow: Flow) -> Flow:
    value = builder.tensor(module, flow)
    count, dimension = module.integer("nfeatures"), module.integer("dim", 1)
    inner = module.integer("ndim", 0)
    axis = dimension - 1 + (1 if inner and value.rank > inner else 0)
    if count < 1 or not 0 <= axis <= value.rank:
        raise Mismatch(f"layer {module.path!r} cannot replicate {written(value.sizes)} along dimension {dimension}")
    wide = builder.unsqueeze(value, axis)
    shape = [count if at == axis else 1 for at in range(wide.rank)]
    name = builder.node("Expand", [wide.name, builder.constant(shape, np.int64)], module.path)
    return Value(name, (*value.sizes[:axis], count, *value.sizes[axis:]), value.whole)


@translates("Narrow")
def _narrow(builder: Builder, module: Module, flow: Flow) -> Flow:
    value = builder.tensor(module, flow)
    axis = axis_of(module, module.integer("dimension"), value.rank)
    index, length = module.integer("index"), module.integer("length", 1)
    if index < 0:
        index += builder.number(module, value.sizes[axis]) + 1
    if length < 0:
        length = builder.number(module, value.sizes[axis]) - index + length + 2
    size = value.sizes[axis]
    if index < 1 or length < 1 or (isinstance(size, int) and index - 1 + length > size):
        raise Mismatch(f"layer {module.path!r} narrows {written(value.sizes)} to {length} from {index} on")
    return builder.narrow(value, axis, index - 1, length, module.path)


@translates("Select")
def _select(builder: Builder, module: Module, flow: Flow) -> Flow:
    value = builder.tensor(module, flow)
    axis = axis_of(module, module.integer("dimension"), value.rank)
    index, size = module.integer("index"), value.sizes[axis]
    if index == 0 or (isinstance(size, int) and abs(index) > size):
        raise Mismatch(f"layer {module.path!r} selects {index} of {written(value.sizes)}")
    return builder.select(value, axis, index - 1 if index > 0 else index, module.path)


@translates("Padding")
def _padding(builder: Builder, module: Module, flow: Flow) -> Flow:
    """Padding.lua: before element ``index``, counted from the left (pad < 0) or from the right (pad > 0)."""
    value = builder.real(builder.tensor(module, flow))
    inner = module.integer("nInputDim", 0)
    axis = axis_of(module, module.integer("dim"), value.rank)
    axis += 1 if inner and value.rank != inner else 0
    amount, index = module.integer("pad"), module.integer("index", 1)
    before, after = [0] * value.rank, [0] * value.rank
    if axis >= value.rank:
        raise Mismatch(f"layer {module.path!r} pads dimension {axis + 1} of {written(value.sizes)}")
    if index == 1:
        (before if amount < 0 else after)[axis] = abs(amount)
        return pad(builder, module, value, before, after, module.number("value", 0))
    size = builder.number(module, value.sizes[axis])
    split = (index if amount < 0 else size - index + 2) - 1
    if not 0 < split < size:
        raise Mismatch(f"layer {module.path!r} pads within {written(value.sizes)} at {index}")
    left, right = builder.narrow(value, axis, 0, split), builder.narrow(value, axis, split, size - split)
    after[axis] = abs(amount)
    filled_left = pad(builder, module, left, before, after, module.number("value", 0))
    return builder.concat(module, [filled_left, right], axis)


def _reduction(operator: str) -> Callable[[Builder, Module, Flow], Flow]:
    def translation(builder: Builder, module: Module, flow: Flow) -> Flow:
        value = builder.real(builder.tensor(module, flow))
        axis = axis_of(module, module.integer("dimension", 1), value.rank, module.integer("nInputDims", 0))
        average = operator == "ReduceSum" and (module.flag("sizeAverage") or module.kind == "Mean")
        keep = not module.flag("squeeze", default=True) or value.rank == 1
        return builder.reduce(module, "ReduceMean" if average else operator, value, axis, keep=keep)

    return translation


translates("Sum", "Mean")(_reduction("ReduceSum"))
translates("Max")(_reduction("ReduceMax"))
translates("Min")(_reduction("ReduceMin"))


def _edges(module: Module, value: Value, names: str) -> tuple[list[int], list[int]]:
    """Return how much goes before and after each dimension; ``names`` are the fields of the last ones, in pairs."""
    numbers = [module.integer(name, 0) for name in names.split()]
    lead = [0] * (value.rank - len(numbers) // 2)
    return lead + numbers[0::2], lead + numbers[1::2]


_PLANE = "pad_t pad_b pad_l pad_r"


@translates("SpatialZeroPadding", "SpatialReflectionPadding", "SpatialReplicationPadding")
def _spatial_padding(builder: Builder, module: Module, flow: Flow) -> Flow:
    value = builder.real(builder.tensor(module, flow, (3, 4)))
    modes = {"SpatialReflectionPadding": "reflect", "SpatialReplicationPadding": "edge"}
    return pad(builder, module, value, *_edges(module, value, _PLANE), mode=modes.get(module.kind, "constant"))


@translates("VolumetricReplicationPadding")
def _volumetric_padding(builder: Builder, module: Module, flow: Flow) -> Flow:
    value = builder.real(builder.tensor(module, flow, (4, 5)))
    names = "pfront pback ptop pbottom pleft pright"
    return pad(builder, module, value, *_edges(module, value, names), mode="edge")
