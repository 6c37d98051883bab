"""Layers that combine blobs, or reduce and normalize them."""

from __future__ import annotations

import numpy as np

from portmatrix.converters.caffe import sizes
from portmatrix.converters.caffe.message import Message
from portmatrix.converters.caffe.sizes import Shape, number
from portmatrix.converters.caffe.step import Step, Value

_PROD, _SUM, _MAX = 0, 1, 2
_REDUCTIONS = {1: "ReduceSum", 2: "ReduceL1", 3: "ReduceSumSquare", 4: "ReduceMean"}


def _eltwise(step: Step) -> list[Value]:
    step.expect((2, 1 << 20))
    first = step.bottoms[0]
    for bottom in step.bottoms[1:]:
        if sizes.declared(bottom.shape) != sizes.declared(first.shape):
            raise step.wrong(
                f"its bottoms have the shapes {sizes.shown(first.shape)} and {sizes.shown(bottom.shape)}; "
                "they must be the same"
            )
    param = step.param("eltwise_param")
    operation, factors = param.whole("operation"), param.reals("coeff")
    names = [bottom.name for bottom in step.bottoms]
    if factors and (operation == _PROD or len(factors) != len(names)):
        raise step.wrong(f"has {len(names)} bottoms and {len(factors)} coeff; expected one for each, for a sum")
    if operation == _MAX:
        return [step.result(step.node("Max", names, 0), first.shape)]
    if operation == _SUM and factors:
        names = [_times(step, name, factor) for name, factor in zip(names, factors, strict=True)]
    name = names[0]
    for index, other in enumerate(names[1:], 2):
        name = step.node("Mul" if operation == _PROD else "Add", [name, other], 0 if index == len(names) else None)
    return [step.result(name, first.shape)]


def _times(step: Step, name: str, factor: float) -> str:
    return name if factor == 1 else step.node("Mul", [name, step.constant(factor)])


def _spread(step: Step, bottom: Value, axis: int, axes: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shape of a Scale or Bias layer's weights, and the same with ones, to broadcast to the blob."""
    if axes < -1 or (axes >= 0 and axis + axes > bottom.rank):
        raise step.wrong(f"axis {axis} and num_axes {axes} reach beyond a blob of {bottom.rank} axes")
    end = bottom.rank if axes == -1 else axis + axes
    shape = tuple(step.fixed(size, "the shape of its weights") for size in bottom.shape[axis:end])
    return shape, shape + (1,) * (bottom.rank - end)


def _factor(step: Step, param: Message) -> tuple[str, int, int]:
    """Return the second bottom of a Scale or Bias layer, made to broadcast to the first, and the axes it is for."""
    bottom, other = step.bottoms
    axis = step.axis(param.whole("axis"), bottom.rank) if other.rank else 0
    matched = bottom.shape[axis : axis + other.rank]
    if sizes.declared(matched) != sizes.declared(other.shape):
        raise step.wrong(
            f"its second bottom is {sizes.shown(other.shape)}, and the first from axis {axis} {sizes.shown(matched)}"
        )
    behind = bottom.rank - axis - other.rank
    if not behind or not other.rank:
        return other.name, axis, other.rank
    added = step.integers(*range(other.rank, other.rank + behind))
    return step.node("Unsqueeze", [other.name, added]), axis, other.rank


def _scale(step: Step) -> list[Value]:
    step.expect((1, 2))
    param = step.param("scale_param")
    bottom = step.bottoms[0]
    biased = param.flag("bias_term")
    if len(step.bottoms) == 2:
        factor, axis, axes = _factor(step, param)
        shape, spread = _spread(step, bottom, axis, axes) if biased else ((), ())
        biases = step.blobs(shape) if biased else []
    else:
        axis = step.axis(param.whole("axis"), bottom.rank)
        shape, spread = _spread(step, bottom, axis, param.whole("num_axes"))
        found = step.blobs(shape, *([shape] if biased else []))
        biases = found[1:]
        if bottom.uses == 1 and bottom.name in step.graph.normalized and (axis, len(shape)) == (1, 1):
            return [_scaled_norm(step, found[0], biases[0] if biases else np.zeros_like(found[0]))]
        factor = step.weight("scale", found[0].reshape(spread))
    name = step.node("Mul", [bottom.name, factor], None if biases else 0)
    if biases:
        name = step.node("Add", [name, step.weight("bias", biases[0].reshape(spread))], 0)
    return [step.result(name, bottom.shape)]


def _scaled_norm(step: Step, scale: np.ndarray, bias: np.ndarray) -> Value:
    """Translate the Scale that follows a BatchNorm: both are one operator, whose own scale was 1."""
    source, mean, variance, epsilon = step.graph.normalized[step.bottoms[0].name]
    inputs = [source, step.weight("scale", scale), step.weight("bias", bias), mean, variance]
    return step.result(step.node("BatchNormalization", inputs, 0, epsilon=epsilon), step.bottoms[0].shape)


def _bias(step: Step) -> list[Value]:
    step.expect((1, 2))
    param = step.param("bias_param")
    bottom = step.bottoms[0]
    if len(step.bottoms) == 2:
        term = _factor(step, param)[0]
    else:
        axis = step.axis(param.whole("axis"), bottom.rank)
        shape, spread = _spread(step, bottom, axis, param.whole("num_axes"))
        term = step.weight("bias", step.blobs(shape)[0].reshape(spread))
    return [step.result(step.node("Add", [bottom.name, term], 0), bottom.shape)]


def _batch_norm(step: Step) -> list[Value]:
    """Translate BatchNorm: the stored sums, divided by the stored factor, are mean and variance."""
    step.expect(1)
    (bottom,) = step.bottoms
    param = step.param("batch_norm_param")
    if bottom.rank < 2:
        raise step.wrong("needs a blob of at least 2 axes")
    channels = step.fixed(bottom.shape[1], "the number of channels")
    epsilon = param.real("eps")
    if param.has("use_global_stats") and not param.flag("use_global_stats"):
        axes = [axis for axis in range(bottom.rank) if axis != 1]
        name = _normalized(step, bottom.name, axes)
        variance = step.node("Add", [name[1], step.constant(epsilon)])
        top = step.node("Div", [name[0], step.node("Sqrt", [variance])], 0)
        return [step.result(top, bottom.shape)]
    mean, variance_blob, factor = step.blobs((channels,), (channels,), (1,))
    share = np.float32(0) if factor[0] == 0 else np.float32(1) / np.float32(factor[0])
    stored = (step.weight("mean", mean * share), step.weight("variance", variance_blob * share))
    ones = [step.weight("scale", np.ones(channels, np.float32)), step.weight("bias", np.zeros(channels, np.float32))]
    top = step.node("BatchNormalization", [bottom.name, *ones, *stored], 0, epsilon=epsilon)
    step.graph.normalized[top] = (bottom.name, *stored, epsilon)
    return [step.result(top, bottom.shape)]


def _normalized(step: Step, name: str, axes: list[int]) -> tuple[str, str]:
    """Return the difference to the mean over ``axes``, and the variance."""
    over = step.integers(*axes)
    difference = step.node("Sub", [name, step.node("ReduceMean", [name, over], keepdims=1)])
    square = step.node("Mul", [difference, difference])
    return difference, step.node("ReduceMean", [square, over], keepdims=1)


def _mvn(step: Step) -> list[Value]:
    step.expect(1)
    (bottom,) = step.bottoms
    if bottom.rank > 4:
        raise step.wrong(f"needs a blob of at most 4 axes, not {bottom.rank}")
    image = step.reshape(bottom, (*bottom.shape, *[number(1)] * (4 - bottom.rank)))
    param = step.param("mvn_param")
    axes = [1, 2, 3] if param.flag("across_channels") else [2, 3]
    if not param.flag("normalize_variance"):
        mean = step.node("ReduceMean", [image.name, step.integers(*axes)], keepdims=1)
        return [step.result(step.node("Sub", [image.name, mean], 0), image.shape)]
    difference, variance = _normalized(step, image.name, axes)
    deviation = step.node("Add", [step.node("Sqrt", [variance]), step.constant(param.real("eps"))])
    return [step.result(step.node("Div", [difference, deviation], 0), image.shape)]


def _reduction(step: Step) -> list[Value]:
    step.expect(1)
    (bottom,) = step.bottoms
    param = step.param("reduction_param")
    axis = step.axis(param.whole("axis"), bottom.rank)
    factor = param.real("coeff")
    axes = step.integers(*range(axis, bottom.rank))
    operator = _REDUCTIONS[param.whole("operation")]
    name = step.node(operator, [bottom.name, axes], 0 if factor == 1 else None, keepdims=0)
    if factor != 1:
        name = step.node("Mul", [name, step.constant(factor)], 0)
    return [step.result(name, bottom.shape[:axis])]


def _arg_max(step: Step) -> list[Value]:
    """Translate ArgMax; of equal elements, the one that comes last counts."""
    step.expect(1)
    (bottom,) = step.bottoms
    param = step.param("argmax_param")
    best, with_value = param.whole("top_k"), param.flag("out_max_val")
    if param.has("axis"):
        axis = step.axis(param.whole("axis"), bottom.rank)
        value, shape = bottom, tuple(number(best) if i == axis else size for i, size in enumerate(bottom.shape))
    else:
        axis = 1
        value = step.reshape(bottom, (bottom.shape[0], sizes.count(bottom.shape[1:])))
        ones = [number(1)] * (max(bottom.rank, 3) - 3)
        shape = (bottom.shape[0], number(2 if with_value else 1), number(best), *ones)
    length = step.fixed(value.shape[axis], "the number of elements to choose from")
    if not 1 <= best <= length:
        raise step.wrong(f"top_k is {best}; expected 1 to {length}")
    greatest, places = _best(step, value.name, axis, best, length)
    if param.has("axis"):
        return [step.result(_last(step, greatest if with_value else places), shape)]
    flat = (bottom.shape[0], number(best))
    if with_value:
        rows = [step.reshape(Value(name, flat), (flat[0], number(1), flat[1])) for name in (places, greatest)]
        joined = Value(step.node("Concat", [row.name for row in rows], axis=1), (flat[0], number(2), flat[1]))
        return [_shaped(step, joined, shape)]
    return [_shaped(step, Value(places, flat), shape)]


def _best(step: Step, name: str, axis: int, best: int, length: int) -> tuple[str, str]:
    """Return the greatest elements of an axis and their places, as floats, both in falling order."""
    if best == 1:
        places = step.node("ArgMax", [name], axis=axis, keepdims=1, select_last_index=1)
        greatest = step.node("ReduceMax", [name, step.integers(axis)], keepdims=1)
        return greatest, step.node("Cast", [places], to=1)
    ends = step.integers(-length - 1)
    turned = step.node("Slice", [name, step.integers(-1), ends, step.integers(axis), step.integers(-1)])
    greatest, places = step.network.nodes_of(
        "TopK", [turned, step.integers(best)], 2, step.name("TopK"), axis=axis, largest=1, sorted=1
    )
    return greatest, step.node("Sub", [step.constant(length - 1), step.node("Cast", [places], to=1)])


def _last(step: Step, name: str) -> str:
    """Return the value under the top's name."""
    return step.node("Identity", [name], 0)


def _shaped(step: Step, value: Value, shape: Shape) -> Value:
    return step.reshape(value, shape, 0) if value.shape != shape else step.result(_last(step, value.name), shape)


def _softmax(step: Step) -> list[Value]:
    step.expect(1)
    axis = step.axis(step.param("softmax_param").whole("axis"), step.bottoms[0].rank)
    return step.unary("Softmax", axis=axis)


def _loss(step: Step) -> list[Value]:
    """Translate a loss that contains the network's last layer into that layer."""
    step.expect((1, 3))
    bottom = step.bottoms[0]
    if step.spec.kind == "SigmoidCrossEntropyLoss":
        return [step.result(step.node("Sigmoid", [bottom.name], 0), bottom.shape)]
    own = "infogain_loss_param" if step.spec.kind == "InfogainLoss" else "softmax_param"
    axis = step.axis(step.param(own).whole("axis"), bottom.rank)
    return [step.result(step.node("Softmax", [bottom.name], 0, axis=axis), bottom.shape)]


TRANSLATIONS = {
    "ArgMax": _arg_max,
    "BatchNorm": _batch_norm,
    "Bias": _bias,
    "Eltwise": _eltwise,
    "InfogainLoss": _loss,
    "MVN": _mvn,
    "Reduction": _reduction,
    "Scale": _scale,
    "SigmoidCrossEntropyLoss": _loss,
    "Softmax": _softmax,
    "SoftmaxWithLoss": _loss,
}
