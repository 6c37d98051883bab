"""Layers of feed-forward networks: convolution, pooling, normalisation, products of matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from portmatrix.converters.cntk.elementwise import aligned
from portmatrix.converters.cntk.values import ONE, Place, Shape, Value, product
from portmatrix.converters.errors import MalformedFile

if TYPE_CHECKING:
    from portmatrix.converters.cntk.translator import Node, Rule, Translator

#: Attributes of layers with a window, without those that say what is the default anyway.
_WINDOW = (
    "kernel_shape",
    "strides",
    "pads",
    "dilations",
    "group",
    "output_padding",
    "output_shape",
    "count_include_pad",
)
_LAYER = {
    "LRN": ("alpha", "beta", "bias", "size"),
    "InstanceNormalization": ("epsilon",),
    "DepthToSpace": ("blocksize", "mode"),
    "SpaceToDepth": ("blocksize",),
}


def _image(translator: Translator, node: Node, value: Value, rank: int) -> Value:
    """Return the samples of a layer along its first axis; the images of a sequence count as samples.

    CNTK writes a layer over a sequence as if ONNX's took a time axis too, which it does not.
    """
    if value.rank == rank + 1 and value.place is not None and not value.shape[0].known:
        folded: Shape = (product(value.shape[:2]), *value.shape[2:])
        value = translator.alone(value, node, 1)
        return translator.real(translator.reshaped(value, folded, f"{node.outputs[0]}.images", Place(0)))
    if value.rank != rank:
        raise node.cannot(f"its input has {value.rank} axes; expected {rank}")
    if value.place is not None and value.place.axis == 0:
        return translator.real(value)
    return translator.alone(value, node, 0)


def _unfolded(translator: Translator, node: Node, made: str, given: Value, taken: Value) -> Value:
    """Return the output of a layer in the shape that the file gives it, with the time axis if there was one."""
    declared = translator.declared(node.outputs[0], node)
    if given.rank == taken.rank:
        return Value(made, declared, taken.place)
    own: Shape = (taken.shape[0], *declared[2:])
    shape = (*given.shape[:2], *declared[2:])
    return translator.reshaped(Value(made, own, taken.place), shape, node.outputs[0])


def _window(node: Node) -> dict[str, Any]:
    padding = node.attributes.get("auto_pad", "NOTSET")
    kept = {name: node.attributes[name] for name in _WINDOW if name in node.attributes}
    return {**kept, "auto_pad": padding} if padding != "NOTSET" else kept


def _conv(translator: Translator, node: Node) -> Sequence[Value]:
    given, weights, *bias = translator.inputs(node, 2, 3)
    if weights.place is not None or any(value.place is not None for value in bias):
        raise node.cannot("its weights depend on the batch")
    taken = _image(translator, node, given, weights.rank)
    made = translator.emit(node.op, [taken, weights, *bias], f"{node.outputs[0]}", **_window(node))
    return [_unfolded(translator, node, made, given, taken)]


def _pool(translator: Translator, node: Node) -> Sequence[Value]:
    given = translator.inputs(node)[0]
    kernel = node.attributes.get("kernel_shape", [])
    taken = _image(translator, node, given, len(kernel) + 2)
    if len(node.outputs) > 1 and node.op == "MaxPool":
        names = translator.scope.nodes_of(node.op, [taken.name], 2, node.outputs[0], **_window(node))
        if given.rank != taken.rank:
            raise node.cannot("it gives the places of the largest elements of a sequence")
        shape = translator.declared(node.outputs[0], node)
        return [Value(name, shape, taken.place) for name in names]
    made = translator.emit(node.op, [taken], node.outputs[0], **_window(node))
    return [_unfolded(translator, node, made, given, taken)]


def _global_pool(translator: Translator, node: Node) -> Sequence[Value]:
    given = translator.inputs(node)[0]
    declared = translator.declared(node.outputs[0], node)
    folded = given.rank > 3 and not given.shape[0].known and len(declared) == given.rank
    taken = _image(translator, node, given, given.rank - folded)
    made = translator.emit(node.op, [taken], node.outputs[0])
    return [_unfolded(translator, node, made, given, taken)]


def _max_unpool(translator: Translator, node: Node) -> Sequence[Value]:
    pooled, places = translator.inputs(node, 2, 3)[:2]
    shape = translator.declared(node.outputs[0], node)
    inputs: list[Value | str] = [translator.alone(value, node, 0) for value in (pooled, places)]
    if len(node.inputs) > 2:
        # The places count through the whole batch, whose size is one of the lengths that are given.
        rest = translator.integers([size.number for size in shape[1:]])
        batch = translator.batch_size() if pooled.place is not None else translator.integers([1])
        inputs.append(translator.emit("Concat", [batch, rest], f"{node.outputs[0]}.shape", axis=0))
    made = translator.emit("MaxUnpool", inputs, node.outputs[0], **_window(node))
    return [Value(made, shape, pooled.place and Place(0))]


def _layer(translator: Translator, node: Node) -> Sequence[Value]:
    """A layer that treats each sample (axis 0) on its own and has nothing but attributes, or parameters of its own."""
    given, *parameters = translator.inputs(node, 1, 3)
    taken = translator.alone(given, node, 0)
    kept = {name: node.attributes.get(name) for name in _LAYER[node.op]}
    made = translator.emit(node.op, [taken, *parameters], node.outputs[0], **kept)
    return [Value(made, translator.declared(node.outputs[0], node), taken.place)]


def _batch_norm(translator: Translator, node: Node) -> Sequence[Value]:
    given, *parameters = translator.inputs(node, 5)
    if not node.attributes.get("spatial", 1):
        raise node.cannot("it normalises each element on its own (spatial = 0), which ONNX dropped")
    taken = translator.real(given)
    if taken.place is not None and taken.place.axis != 0:
        taken = _image(translator, node, given, given.rank - 1)
    epsilon = node.attributes.get("epsilon")
    made = translator.emit(node.op, [taken, *parameters], node.outputs[0], epsilon=epsilon)
    value = Value(made, taken.shape, taken.place)
    return [value if taken.rank == given.rank else translator.reshaped(value, given.shape, node.outputs[0])]


def _mean_variance(translator: Translator, node: Node) -> Sequence[Value]:
    """CNTK normalises each sample, and lists the batch among the axes because it is 1."""
    value = translator.alone(translator.inputs(node)[0], node)
    axes = [translator.axis(value, axis, node) for axis in node.attributes.get("axes", [0, 2, 3])]
    if value.place is not None:
        axes = [axis for axis in axes if axis != value.place.axis]
    made = translator.emit(node.op, [value], node.outputs[0], axes=axes)
    return [Value(made, value.shape, value.place)]


# --- Softmax and its kin


def _softmax(translator: Translator, node: Node) -> Sequence[Value]:
    """In these operator sets it runs over all axes from ``axis`` on; since 13 over one."""
    value = translator.real(translator.inputs(node)[0])
    first = translator.axis(value, node.attributes.get("axis", 1), node)
    own_batch = value.place.axis if value.place is not None and value.own_axis else None
    if value.place is not None and own_batch is None and value.place.axis >= first:
        raise node.cannot("it runs over the batch")
    long = [axis for axis in range(first, value.rank) if value.shape[axis] != ONE and axis != own_batch]
    axis = long[0] if long else next((one for one in reversed(range(first, value.rank)) if one != own_batch), None)
    if axis is None:
        raise node.cannot("it runs over nothing but the batch")
    if len(long) < 2:
        made = translator.emit(node.op, [value], node.outputs[0], axis=axis)
        return [Value(made, value.shape, value.place)]
    flat = translator.reshaped(value, (*value.shape[:first], product(value.shape[first:])), f"{node.outputs[0]}.flat")
    flat = translator.real(flat)
    if flat.place is not None and flat.place.axis == first:
        raise node.cannot("it runs over the batch")
    made = translator.emit(node.op, [flat], f"{node.outputs[0]}.along", axis=first)
    return [translator.reshaped(Value(made, flat.shape, flat.place), value.shape, node.outputs[0], value.place)]


# --- Products of matrices


def _matmul(translator: Translator, node: Node) -> Sequence[Value]:
    left, right = translator.inputs(node, 2)
    if min(left.rank, right.rank) == 0:
        raise MalformedFile(translator.file, f"node {node.name!r}", "it multiplies a number; expected matrices")
    if left.place is not None and right.place is not None:
        left, right = aligned(translator, node, [left, right])
    left, right = translator.real(left), translator.real(right)
    place = _product_place(node, left, right)
    made = translator.emit("MatMul", [left, right], node.outputs[0])
    rank = max(left.rank, right.rank, 2)
    stack = [
        max(
            (value.shape[axis] for value in (left, right) if value.rank >= -axis),
            key=lambda size: (size != ONE, size),
        )
        for axis in range(-rank, -2)
    ]
    rows = [left.shape[-2]] if left.rank > 1 else []
    columns = [right.shape[-1]] if right.rank > 1 else []
    shape = (*stack, *rows, *columns)
    return [Value(made, shape, None if place is None else Place(place.axis + len(shape), place.inner))]


def _product_place(node: Node, left: Value, right: Value) -> Place | None:
    """Return where the batch of a product is, counted from the end (a negative axis)."""
    found: Place | None = None
    for value, summed, lost in ((left, -1, right.rank == 1), (right, -2 if right.rank > 1 else -1, left.rank == 1)):
        if value.place is None:
            continue
        axis = value.place.axis - value.rank
        if axis == summed:
            raise node.cannot("it sums over the batch")
        if axis >= -2 and left.place is not None and right.place is not None:
            raise node.cannot("it multiplies the samples of a batch with each other")
        other = right if value is left else left
        if axis < -2 and other.rank >= -axis and other.place is None and other.shape[axis] != ONE:
            raise node.cannot(f"its input {other.name!r} has {other.shape[axis]} matrices where the batch is")
        found = Place(axis + lost, value.place.inner)
    return found


def _gemm(translator: Translator, node: Node) -> Sequence[Value]:
    left, right, *added = [translator.real(value) for value in translator.inputs(node, 2, 3)]
    side = 1 if node.attributes.get("transA", 0) else 0
    if right.place is not None or any(value.place is not None for value in added):
        raise node.cannot("its weights depend on the batch")
    if left.place is not None and left.place.axis != side:
        raise node.cannot("it sums over the batch")
    kept = {name: node.attributes.get(name) for name in ("alpha", "beta", "transA", "transB")}
    made = translator.emit("Gemm", [left, right, *added], node.outputs[0], **kept)
    columns = right.shape[0 if node.attributes.get("transB", 0) else -1]
    return [Value(made, (left.shape[side], columns), left.place and Place(0, left.place.inner))]


RULES: dict[str, Rule] = {
    "AveragePool": _pool,
    "BatchNormalization": _batch_norm,
    "Conv": _conv,
    "ConvTranspose": _conv,
    "DepthToSpace": _layer,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_pool,
    "GlobalMaxPool": _global_pool,
    "Hardmax": _softmax,
    "InstanceNormalization": _layer,
    "LRN": _layer,
    "LogSoftmax": _softmax,
    "MatMul": _matmul,
    "MaxPool": _pool,
    "MaxUnpool": _max_unpool,
    "MeanVarianceNormalization": _mean_variance,
    "Softmax": _softmax,
    "SpaceToDepth": _layer,
}
