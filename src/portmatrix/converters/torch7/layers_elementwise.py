"""Layers that work element by element, those that do nothing after training, and those that normalize to a sum of 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from portmatrix.converters.torch7.builder import Builder, Flow, Value, axis_of, translates
from portmatrix.converters.torch7.modules import Module
from portmatrix.converters.torch7.objects import Array, Tensor
from portmatrix.converters.torch7.sizes import BATCH_SIZE, Mismatch, SizeNeeded, product, written


@translates(
    "Identity",
    "Contiguous",
    "Copy",
    "GradientReversal",
    "L1Penalty",
    "WhiteNoise",
)
def _identity(_builder: Builder, _module: Module, flow: Flow) -> Flow:
    return flow


@translates("Dropout")
def _dropout(builder: Builder, module: Module, flow: Flow) -> Flow:
    """Version 2 scales while it is trained; version 1 (``v2`` false or missing) scales afterwards."""
    _not_random(module)
    if module.flag("v2"):
        return flow
    return _scaled(builder, module, flow)


@translates("SpatialDropout", "VolumetricDropout")
def _spatial_dropout(builder: Builder, module: Module, flow: Flow) -> Flow:
    """These scale after training, all versions."""
    _not_random(module)
    return _scaled(builder, module, flow)


def _not_random(module: Module) -> None:
    for field in ("stochastic_inference", "si"):
        if module.flag(field):
            module.unsupported("it draws random numbers after training as well (stochastic_inference). Switch that off")


def _scaled(builder: Builder, module: Module, flow: Flow) -> Flow:
    p = module.number("p", 0.5)
    return builder.scalar(module, "Mul", builder.tensor(module, flow), 1 - p) if p else flow


def _plain(operator: str) -> Callable[[Builder, Module, Flow], Flow]:
    def translation(builder: Builder, module: Module, flow: Flow) -> Flow:
        return builder.same(module, operator, builder.real(builder.tensor(module, flow)))

    return translation


for _kind, _operator in {
    "Tanh": "Tanh",
    "Sigmoid": "Sigmoid",
    "ReLU": "Relu",
    "Abs": "Abs",
    "Exp": "Exp",
    "Log": "Log",
    "Sqrt": "Sqrt",
    "SoftSign": "Softsign",
}.items():
    translates(_kind)(_plain(_operator))


def _with(operator: str, attributes: Callable[[Module], dict[str, Any]]) -> Callable[[Builder, Module, Flow], Flow]:
    def translation(builder: Builder, module: Module, flow: Flow) -> Flow:
        return builder.same(module, operator, builder.real(builder.tensor(module, flow)), **attributes(module))

    return translation


translates("ELU")(_with("Elu", lambda module: {"alpha": float(module.number("alpha", 1.0))}))
translates("LeakyReLU")(_with("LeakyRelu", lambda module: {"alpha": float(module.number("negval", 0.01))}))
translates("RReLU")(
    _with("LeakyRelu", lambda module: {"alpha": (module.number("lower", 1 / 8) + module.number("upper", 1 / 3)) / 2})
)
translates("HardShrink")(_with("Shrink", lambda module: {"lambd": float(module.number("lambda", 0.5)), "bias": 0.0}))
translates("SoftShrink")(
    _with("Shrink", lambda module: dict.fromkeys(("lambd", "bias"), float(module.number("lambda", 0.5))))
)


@translates("Square")
def _square(builder: Builder, module: Module, flow: Flow) -> Flow:
    value = builder.real(builder.tensor(module, flow))
    return builder.same(module, "Mul", value, value.name)


@translates("Power")
def _power(builder: Builder, module: Module, flow: Flow) -> Flow:
    return builder.scalar(module, "Pow", builder.tensor(module, flow), module.number("pow"))


@translates("HardTanh", "Clamp", "ReLU6", "ClippedReLU")
def _hard_tanh(builder: Builder, module: Module, flow: Flow) -> Flow:
    low, high = module.number("min_val", -1), module.number("max_val", 1)
    if module.kind in ("ReLU6", "ClippedReLU"):
        low, high = 0, 6 if module.kind == "ReLU6" else module.number("ceiling")
    value = builder.real(builder.tensor(module, flow))
    return builder.same(module, "Clip", value, builder.constant(low), builder.constant(high))


@translates("Threshold")
def _threshold(builder: Builder, module: Module, flow: Flow) -> Flow:
    value = builder.real(builder.tensor(module, flow))
    threshold, fill = module.number("threshold", 0), module.number("val", 0)
    if threshold == fill == 0:
        return builder.same(module, "Relu", value)
    above = builder.node("Greater", [value.name, builder.constant(threshold)])
    return Value(builder.node("Where", [above, value.name, builder.constant(fill)], module.path), value.sizes)


@translates("TanhShrink")
def _tanh_shrink(builder: Builder, module: Module, flow: Flow) -> Flow:
    value = builder.real(builder.tensor(module, flow))
    return builder.same(module, "Sub", value, builder.same(module, "Tanh", value).name)


@translates("SoftPlus")
def _soft_plus(builder: Builder, module: Module, flow: Flow) -> Flow:
    """Above ``threshold`` Torch7 takes the identity; at 15 or more that is the same in float32."""
    value = builder.real(builder.tensor(module, flow))
    beta, threshold = module.number("beta", 1), module.number("threshold", 20)
    scaled = value if beta == 1 else builder.scalar(module, "Mul", value, beta)
    soft = builder.same(module, "Softplus", scaled)
    soft = soft if beta == 1 else builder.scalar(module, "Div", soft, beta)
    if threshold >= 15:
        return soft
    above = builder.node("Greater", [scaled.name, builder.constant(threshold)])
    return Value(builder.node("Where", [above, value.name, soft.name], module.path), value.sizes)


@translates("LogSigmoid")
def _log_sigmoid(builder: Builder, module: Module, flow: Flow) -> Flow:
    value = builder.same(module, "Neg", builder.real(builder.tensor(module, flow)))
    return builder.same(module, "Neg", builder.same(module, "Softplus", value))


@translates("PReLU")
def _prelu(builder: Builder, module: Module, flow: Flow) -> Flow:
    value = builder.real(builder.tensor(module, flow))
    weight = module.weight("weight").reshape(-1)
    if module.integer("nOutputPlane", 0) == 0:
        return builder.same(module, "PRelu", value, builder.constant(weight[:1].copy()))
    if value.rank == 3 and value.sizes[0] == BATCH_SIZE:
        module.unsupported("it takes three dimensions for channels, height and width; without nOutputPlane it would do")
    axis = 0 if value.rank in (1, 3) else 1
    builder.expect(module, value, axis, len(weight))
    shaped = weight.reshape(-1, *[1] * (value.rank - axis - 1))
    return builder.same(module, "PRelu", value, builder.weight(module, shaped, "weight"))


@translates("AddConstant", "MulConstant")
def _constant_operation(builder: Builder, module: Module, flow: Flow) -> Flow:
    """The constant is a number, or in AddConstant a tensor that fits the input or each of its samples."""
    value = builder.real(builder.tensor(module, flow))
    operator = "Add" if module.kind == "AddConstant" else "Mul"
    constant = module.raw("constant_scalar")
    if isinstance(constant, Tensor):
        return per_element(builder, module, operator, value, module.values(constant), "constant_scalar")
    return builder.scalar(module, operator, value, module.number("constant_scalar"))


@translates("Constant")
def _constant(builder: Builder, module: Module, flow: Flow) -> Flow:
    """The value, once for each sample where ``nInputDim`` tells that the input is a batch."""
    value = builder.tensor(module, flow)
    constant = module.weight("value")
    name = builder.weight(module, constant, "value")
    if module.raw("nInputDim") is None or value.rank != module.integer("nInputDim") + 1:
        return Value(name, constant.shape)
    rows = builder.node(
        "Slice", [builder.node("Shape", [value.name]), *(builder.constant([n], np.int64) for n in (0, 1, 0))]
    )
    shape = builder.node("Concat", [rows, builder.constant(constant.shape, np.int64)], axis=0)
    return Value(builder.node("Expand", [name, shape], module.path), (value.sizes[0], *constant.shape))


@translates("Add")
def _add(builder: Builder, module: Module, flow: Flow) -> Flow:
    value = builder.real(builder.tensor(module, flow))
    bias = module.weight("bias")
    if module.flag("scalar") or bias.size == 1:
        return builder.scalar(module, "Add", value, float(bias.reshape(-1)[0]))
    return per_element(builder, module, "Add", value, bias, "bias")


@translates("Mul")
def _mul(builder: Builder, module: Module, flow: Flow) -> Flow:
    weight = module.weight("weight")
    return builder.scalar(module, "Mul", builder.tensor(module, flow), float(weight.reshape(-1)[0]))


@translates("CAdd")
def _cadd(builder: Builder, module: Module, flow: Flow) -> Flow:
    value = builder.real(builder.tensor(module, flow))
    return per_element(builder, module, "Add", value, module.weight("bias"), "bias")


@translates("CMul")
def _cmul(builder: Builder, module: Module, flow: Flow) -> Flow:
    value = builder.real(builder.tensor(module, flow))
    return per_element(builder, module, "Mul", value, module.weight("weight"), "weight")


def per_element(builder: Builder, module: Module, operator: str, value: Value, weight: Array, name: str) -> Value:
    """Combine with a weight that has the input's rank and broadcasts, or one number for each element of a sample."""
    if weight.ndim == value.rank:
        for axis, size in enumerate(weight.shape):
            if size != 1:
                builder.expect(module, value, axis, size)
        return builder.same(module, operator, value, builder.weight(module, weight, name))
    sample = value.sizes[1:] if value.rank > 1 else value.sizes
    count = product(sample)
    if not isinstance(count, int):
        raise SizeNeeded(f"layer {module.path!r} has {weight.size} weights for a sample of unknown size")
    if count == weight.size:
        numbers = [size for size in sample if isinstance(size, int)]
        return builder.same(module, operator, value, builder.weight(module, weight.reshape(numbers), name))
    raise Mismatch(f"layer {module.path!r} has {weight.size} weights, but gets {written(value.sizes)}")


def _channel_axis(module: Module, value: Value) -> int:
    """Return the dimension along which THNN's SoftMax normalizes: of 1 and 3 the first, of 2 and 4 the second."""
    if value.rank > 4:
        raise Mismatch(f"layer {module.path!r} needs one to four dimensions, but gets {written(value.sizes)}")
    return 0 if value.rank in (1, 3) else 1


@translates("SoftMax", "SpatialSoftMax", "LogSoftMax", "SpatialLogSoftMax", "SoftMin")
def _softmax(builder: Builder, module: Module, flow: Flow) -> Flow:
    value = builder.real(builder.tensor(module, flow))
    axis = _channel_axis(module, value)
    if module.kind == "SoftMin":
        value = builder.same(module, "Neg", value)
    operator = "LogSoftmax" if "Log" in module.kind else "Softmax"
    return builder.same(module, operator, value, axis=axis)


@translates("GatedLinearUnit")
def _gated(builder: Builder, module: Module, flow: Flow) -> Flow:
    value = builder.real(builder.tensor(module, flow))
    axis = axis_of(module, module.integer("dim", value.rank), value.rank)
    size = builder.number(module, value.sizes[axis])
    if size % 2:
        raise Mismatch(f"layer {module.path!r} needs an even size, but gets {written(value.sizes)}")
    halves = [builder.narrow(value, axis, start, size // 2) for start in (0, size // 2)]
    return builder.same(module, "Mul", halves[0], builder.same(module, "Sigmoid", halves[1]).name)


@translates("SAdd")
def _scalar_add(builder: Builder, module: Module, flow: Flow) -> Flow:
    """Adds a number and, with ``negate``, changes the sign (of rnn)."""
    value = builder.scalar(module, "Add", builder.tensor(module, flow), module.number("addend"))
    return builder.same(module, "Neg", value) if module.flag("negate") else value
