"""Containers, and the layers that put tables of tensors together or take them apart."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from portmatrix.converters.torch7.builder import Builder, Flow, Value, axis_of, elements, total_size, translates
from portmatrix.converters.torch7.modules import Module
from portmatrix.converters.torch7.sizes import Mismatch, agree, product, written


@translates("Sequential", "Maxout", "SpatialLPPooling")
def _sequential(builder: Builder, module: Module, flow: Flow) -> Flow:
    for child in module.children():
        flow = builder.translate(child, flow)
    return flow


@translates("Decorator", "DontCast", "NaN", "Profile", "Serial", "ReverseUnreverse")
def _decorator(builder: Builder, module: Module, flow: Flow) -> Flow:
    return builder.translate(module.first(), flow)


@translates("ConcatTable")
def _concat_table(builder: Builder, module: Module, flow: Flow) -> Flow:
    return [builder.translate(child, flow) for child in module.children()]


@translates("ParallelTable")
def _parallel_table(builder: Builder, module: Module, flow: Flow) -> Flow:
    parts, children = builder.table(module, flow), list(module.children())
    if len(parts) < len(children):
        raise Mismatch(f"layer {module.path!r} needs a table of {len(children)}, but gets {len(parts)}")
    return [builder.translate(child, part) for child, part in zip(children, parts, strict=False)]


@translates("MapTable")
def _map_table(builder: Builder, module: Module, flow: Flow) -> Flow:
    inner = module.field("module") if module.raw("module") is not None else module.first()
    return [builder.translate(inner, part) for part in builder.table(module, flow)]


@translates("Concat")
def _concat(builder: Builder, module: Module, flow: Flow) -> Flow:
    values = [builder.tensor(child, builder.translate(child, flow)) for child in module.children()]
    if not values:
        module.fault("it holds no layer")
    return builder.concat(module, values, axis_of(module, module.integer("dimension"), values[0].rank))


@translates("DepthConcat")
def _depth_concat(builder: Builder, module: Module, flow: Flow) -> Flow:
    """Smaller outputs get zeros around, one less before than after where the difference is odd."""
    values = [builder.tensor(child, builder.translate(child, flow)) for child in module.children()]
    if not values or len({value.rank for value in values}) != 1:
        module.fault("its layers should give tensors of one rank")
    axis = axis_of(module, module.integer("dimension"), values[0].rank)
    before = [[0] * value.rank for value in values]
    after = [[0] * value.rank for value in values]
    for at in range(values[0].rank):
        sizes = [value.sizes[at] for value in values]
        if at == axis or len(set(sizes)) == 1:
            continue
        numbers = [builder.number(module, size) for size in sizes]
        for index, number in enumerate(numbers):
            before[index][at] = (max(numbers) - number) // 2
            after[index][at] = max(numbers) - number - before[index][at]
    padded = [pad(builder, module, value, before[i], after[i]) for i, value in enumerate(values)]
    return builder.concat(module, padded, axis)


def pad(
    builder: Builder,
    module: Module,
    value: Value,
    before: list[int],
    after: list[int],
    fill: float = 0.0,
    mode: str = "constant",
) -> Value:
    """Return the value with so much around it in each dimension; where that is negative, so much is cut off."""
    for axis, (low, high) in enumerate(zip(before, after, strict=True)):
        if low < 0 or high < 0:
            size = builder.number(module, value.sizes[axis])
            start, stop = max(-low, 0), size - max(-high, 0)
            if stop <= start:
                raise Mismatch(f"layer {module.path!r} cuts everything off {written(value.sizes)}")
            value = builder.narrow(value, axis, start, stop - start)
    low_pads, high_pads = [max(low, 0) for low in before], [max(high, 0) for high in after]
    if not any(low_pads) and not any(high_pads):
        return value
    value = builder.real(value)
    inputs = [value.name, builder.constant([*low_pads, *high_pads], np.int64)]
    if mode == "constant":
        inputs.append(builder.constant(fill))
    name = builder.node("Pad", inputs, module.path, mode=mode)
    sums = [
        total_size([s, low + high]) if low + high else s
        for s, low, high in zip(value.sizes, low_pads, high_pads, strict=True)
    ]
    return Value(name, tuple(sums))


@translates("Parallel")
def _parallel(builder: Builder, module: Module, flow: Flow) -> Flow:
    value = builder.tensor(module, flow)
    axis = axis_of(module, module.integer("inputDimension"), value.rank)
    children = list(module.children())
    if isinstance(value.sizes[axis], int):
        builder.expect(module, value, axis, len(children))
    outputs = [
        builder.tensor(child, builder.translate(child, builder.select(value, axis, index)))
        for index, child in enumerate(children)
    ]
    return builder.concat(module, outputs, axis_of(module, module.integer("outputDimension"), outputs[0].rank))


@translates("Bottle")
def _bottle(builder: Builder, module: Module, flow: Flow) -> Flow:
    """All dimensions before those that the layer needs are taken for its batch."""
    value = builder.tensor(module, flow)
    inner = module.integer("nInputDim", 2)
    fused = value.rank - inner + 1
    if fused < 1:
        raise Mismatch(f"layer {module.path!r} needs {inner} dimensions, but gets {written(value.sizes)}")
    if fused == 1:
        return builder.translate(module.first(), flow)
    batch = product(value.sizes[:fused])
    output = builder.tensor(
        module, builder.translate(module.first(), builder.reshape(value, (batch, *value.sizes[fused:])))
    )
    return builder.unmerge(output, value, fused)


@translates("JoinTable")
def _join_table(builder: Builder, module: Module, flow: Flow) -> Flow:
    values = builder.tensors(module, flow)
    if not values:
        raise Mismatch(f"layer {module.path!r} gets an empty table")
    inner = module.integer("nInputDims", 0)
    return builder.concat(module, values, axis_of(module, module.integer("dimension"), values[0].rank, inner))


@translates("SplitTable")
def _split_table(builder: Builder, module: Module, flow: Flow) -> Flow:
    value = builder.tensor(module, flow)
    axis = axis_of(module, module.integer("dimension"), value.rank, module.integer("nInputDims", 0))
    count = builder.number(module, value.sizes[axis])
    return [builder.select(value, axis, index, module.path) for index in range(count)]


@translates("SelectTable")
def _select_table(builder: Builder, module: Module, flow: Flow) -> Flow:
    parts = builder.table(module, flow)
    index = module.integer("index")
    at = index + len(parts) if index < 0 else index - 1
    if not 0 <= at < len(parts):
        raise Mismatch(f"layer {module.path!r} selects part {index} of a table of {len(parts)}")
    return parts[at]


@translates("NarrowTable")
def _narrow_table(builder: Builder, module: Module, flow: Flow) -> Flow:
    parts = builder.table(module, flow)
    offset, length = module.integer("offset"), module.integer("length", 1)
    if length < 0:
        length = len(parts) - offset + length + 2
    if offset < 1 or offset - 1 + length > len(parts):
        raise Mismatch(f"layer {module.path!r} needs parts {offset} to {offset + length - 1} of {len(parts)}")
    return parts[offset - 1 : offset - 1 + length]


@translates("FlattenTable")
def _flatten_table(_builder: Builder, module: Module, flow: Flow) -> Flow:
    if isinstance(flow, Value):
        raise Mismatch(f"layer {module.path!r} needs a table, but gets a tensor")
    flat: list[Flow] = []
    for part in flow:
        inner = _flatten_table(_builder, module, part) if isinstance(part, list) else part
        flat.extend(inner) if isinstance(inner, list) else flat.append(inner)
    return flat


def _combined(operator: str, most: int | None = None) -> Callable[[Builder, Module, Flow], Flow]:
    def translation(builder: Builder, module: Module, flow: Flow) -> Flow:
        values = [builder.real(value) for value in alike(builder, module, builder.tensors(module, flow))]
        if most is not None and len(values) != most:
            raise Mismatch(f"layer {module.path!r} needs a table of {most}, but gets {len(values)}")
        result = values[0]
        for value in values[1:]:
            result = builder.same(module, operator, result, value.name)
        return result

    return translation


def alike(builder: Builder, module: Module, values: list[Value]) -> list[Value]:
    """Return tensors of one size; Torch7 lets two differ that have equally many elements. Raises ``Mismatch``."""
    if not values:
        raise Mismatch(f"layer {module.path!r} gets an empty table")
    first, found = values[0], []
    for value in values:
        if value.rank == first.rank and all(agree(a, b) for a, b in zip(value.sizes, first.sizes, strict=True)):
            found.append(value)
        elif elements(value) == elements(first):
            found.append(builder.reshape(value, first.sizes))
        else:
            raise Mismatch(f"layer {module.path!r} gets {written(first.sizes)} and {written(value.sizes)}")
    return found


translates("CAddTable")(_combined("Add"))
translates("CMulTable")(_combined("Mul"))
translates("CSubTable")(_combined("Sub", 2))
translates("CDivTable")(_combined("Div", 2))
translates("CMaxTable")(_combined("Max"))
translates("CMinTable")(_combined("Min"))


@translates("CAveTable")
def _average_table(builder: Builder, module: Module, flow: Flow) -> Flow:
    total = builder.tensor(module, _combined("Add")(builder, module, flow))
    return builder.scalar(module, "Div", total, len(builder.table(module, flow)))


@translates("MM")
def _mm(builder: Builder, module: Module, flow: Flow) -> Flow:
    a, b = _pair(builder, module, flow)
    if a.rank != b.rank or a.rank not in (2, 3):
        raise Mismatch(f"layer {module.path!r} needs two matrices or two batches of them")
    swapped = [*range(a.rank - 2), a.rank - 1, a.rank - 2]
    a = builder.transpose(a, swapped) if module.flag("transA") else a
    b = builder.transpose(b, swapped) if module.flag("transB") else b
    if not agree(a.sizes[-1], b.sizes[-2]):
        raise Mismatch(f"layer {module.path!r} cannot multiply {written(a.sizes)} by {written(b.sizes)}")
    return Value(builder.node("MatMul", [a.name, b.name], module.path), (*a.sizes[:-1], b.sizes[-1]))


@translates("MV")
def _mv(builder: Builder, module: Module, flow: Flow) -> Flow:
    matrix, vector = _pair(builder, module, flow)
    if matrix.rank != vector.rank + 1 or matrix.rank not in (2, 3):
        raise Mismatch(f"layer {module.path!r} needs a matrix and a vector, or batches of them")
    if module.flag("trans"):
        matrix = builder.transpose(matrix, [*range(matrix.rank - 2), matrix.rank - 1, matrix.rank - 2])
    column = builder.unsqueeze(vector, vector.rank)
    output = Value(builder.node("MatMul", [matrix.name, column.name], module.path), (*matrix.sizes[:-1], 1))
    return builder.squeeze(output, output.rank - 1)


def _pair(builder: Builder, module: Module, flow: Flow) -> tuple[Value, Value]:
    values = builder.tensors(module, flow)
    if len(values) != 2:
        raise Mismatch(f"layer {module.path!r} needs a table of two, but gets {len(values)}")
    return builder.real(values[0]), builder.real(values[1])


@translates("DotProduct")
def _dot_product(builder: Builder, module: Module, flow: Flow) -> Flow:
    a, b = _rows(builder, module, flow)
    return builder.reduce(module, "ReduceSum", builder.same(module, "Mul", a, b.name), 1)


def _rows(builder: Builder, module: Module, flow: Flow) -> tuple[Value, Value]:
    a, b = alike(builder, module, list(_pair(builder, module, flow)))
    return builder.tensor(module, a, (2,)), b


@translates("CosineDistance")
def _cosine_distance(builder: Builder, module: Module, flow: Flow) -> Flow:
    """Each sum of squares gets 1e-12 before its inverse square root is taken (CosineDistance.lua)."""
    a, b = _rows(builder, module, flow)
    dot = builder.reduce(module, "ReduceSum", builder.same(module, "Mul", a, b.name), 1)
    lengths = []
    for value in (a, b):
        squares = builder.reduce(module, "ReduceSumSquare", value, 1)
        lengths.append(builder.same(module, "Sqrt", builder.scalar(module, "Add", squares, 1e-12)))
    return builder.same(module, "Div", builder.same(module, "Div", dot, lengths[0].name), lengths[1].name)


@translates("PairwiseDistance")
def _pairwise_distance(builder: Builder, module: Module, flow: Flow) -> Flow:
    a, b = _rows(builder, module, flow)
    norm = module.number("norm", 2)
    difference = builder.same(module, "Sub", a, b.name)
    return p_norm(builder, module, difference, norm, 1, keep=False, epsilon=0.0)


def p_norm(
    builder: Builder, module: Module, value: Value, norm: float, axis: int, *, keep: bool, epsilon: float
) -> Value:
    """Return (sum |x|^p + epsilon)^(1/p) along a dimension."""
    if norm == math.inf:
        return builder.scalar(
            module,
            "Add",
            builder.reduce(module, "ReduceMax", builder.same(module, "Abs", value), axis, keep=keep),
            epsilon,
        )
    if norm == 2:
        powers = builder.reduce(module, "ReduceSumSquare", value, axis, keep=keep)
    elif norm == 1:
        powers = builder.reduce(module, "ReduceSum", builder.same(module, "Abs", value), axis, keep=keep)
    else:
        raised = builder.scalar(module, "Pow", builder.same(module, "Abs", value), norm)
        powers = builder.reduce(module, "ReduceSum", raised, axis, keep=keep)
    if epsilon:
        powers = builder.scalar(module, "Add", powers, epsilon)
    if norm == 1:
        return powers
    return builder.same(module, "Sqrt", powers) if norm == 2 else builder.scalar(module, "Pow", powers, 1 / norm)


@translates("Index")
def _index(builder: Builder, module: Module, flow: Flow) -> Flow:
    """Indices count from 1."""
    values = builder.tensors(module, flow)
    if len(values) != 2 or values[1].rank != 1:
        raise Mismatch(f"layer {module.path!r} needs a tensor and a vector of indices")
    value, indices = values
    axis = axis_of(module, module.integer("dimension"), value.rank)
    at = indices.name if indices.whole else builder.node("Cast", [indices.name], to=7)
    at = builder.node("Sub", [at, builder.constant(1, np.int64)])
    sizes = (*value.sizes[:axis], indices.sizes[0], *value.sizes[axis + 1 :])
    return Value(builder.node("Gather", [value.name, at], module.path, axis=axis), sizes, value.whole)
