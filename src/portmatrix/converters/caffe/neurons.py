"""Layers that compute every element from the one at its place."""

from __future__ import annotations

import math

from portmatrix.converters.caffe.step import Step, Value


def _relu(step: Step) -> list[Value]:
    slope = step.param("relu_param").real("negative_slope")
    return step.unary("LeakyRelu", alpha=slope) if slope else step.unary("Relu")


def _prelu(step: Step) -> list[Value]:
    step.expect(1)
    (bottom,) = step.bottoms
    if bottom.rank < 2:
        raise step.wrong("needs a blob of at least 2 axes")
    shared = step.param("prelu_param").flag("channel_shared")
    channels = step.fixed(bottom.shape[1], "the number of channels")
    slope = step.blobs(() if shared else (channels,))[0].reshape(-1, *[1] * (bottom.rank - 2))
    return [step.result(step.node("PRelu", [bottom.name, step.weight("slope", slope)], 0), bottom.shape)]


def _elu(step: Step) -> list[Value]:
    return step.unary("Elu", alpha=step.param("elu_param").real("alpha"))


def _swish(step: Step) -> list[Value]:
    step.expect(1)
    (bottom,) = step.bottoms
    beta = step.param("swish_param").real("beta")
    inner = bottom.name if beta == 1 else step.node("Mul", [bottom.name, step.constant(beta)])
    return [step.result(step.node("Mul", [bottom.name, step.node("Sigmoid", [inner])], 0), bottom.shape)]


def _clip(step: Step) -> list[Value]:
    step.expect(1)
    param = step.param("clip_param")
    if not (param.has("min") and param.has("max")):
        raise step.wrong("needs both min and max")
    limits = [step.constant(param.real("min")), step.constant(param.real("max"))]
    (bottom,) = step.bottoms
    return [step.result(step.node("Clip", [bottom.name, *limits], 0), bottom.shape)]


def _relu6(step: Step) -> list[Value]:
    step.expect(1)
    (bottom,) = step.bottoms
    limits = [step.constant(0.0), step.constant(6.0)]
    return [step.result(step.node("Clip", [bottom.name, *limits], 0), bottom.shape)]


def _threshold(step: Step) -> list[Value]:
    step.expect(1)
    (bottom,) = step.bottoms
    above = step.node("Greater", [bottom.name, step.constant(step.param("threshold_param").real("threshold"))])
    return [step.result(step.node("Cast", [above], 0, to=1), bottom.shape)]


def affine(step: Step, value: Value, scale: float, shift: float, top: int | None) -> str:
    """Return ``scale * value + shift``; the last node has the name of the top."""
    name = value.name
    if scale != 1:
        name = step.node("Mul", [name, step.constant(scale)], top if shift == 0 else None)
    if shift != 0:
        name = step.node("Add", [name, step.constant(shift)], top)
    return name


def _power(step: Step) -> list[Value]:
    """Translate ``(shift + scale * x) ^ power``, which is a constant if power or scale is 0."""
    step.expect(1)
    (bottom,) = step.bottoms
    param = step.param("power_param")
    power, scale, shift = param.real("power"), param.real("scale"), param.real("shift")
    if power * scale == 0:
        return [_constant(step, bottom, 1.0 if power == 0 else _raised(step, shift, power))]
    inner = affine(step, bottom, scale, shift, 0 if power == 1 else None)
    return [step.result(raised(step, inner, power, 0), bottom.shape)]


def _raised(step: Step, base: float, power: float) -> float:
    try:
        return math.pow(base, power)
    except (ValueError, OverflowError):
        raise step.wrong(f"{base} to the power of {power} is no number") from None


def _constant(step: Step, bottom: Value, value: float) -> Value:
    fill = step.constant([value])
    if all(size.fixed for size in bottom.shape):
        shape = step.integers(*(size.declared for size in bottom.shape))
    else:
        shape = step.node("Shape", [bottom.name])
    return step.result(step.node("Expand", [fill, shape], 0), bottom.shape)


def raised(step: Step, base: str, power: float, top: int | None) -> str:
    """Return ``base`` to a power, by the operator that is exact for it."""
    if power == 1:
        return base
    if power == 2:
        return step.node("Mul", [base, base], top)
    if power == 0.5:
        return step.node("Sqrt", [base], top)
    if power == -1:
        return step.node("Reciprocal", [base], top)
    return step.node("Pow", [base, step.constant(power)], top)


def _exp(step: Step) -> list[Value]:
    """Translate ``base ^ (shift + scale * x)``, as ``outer * exp(inner * x)`` like Caffe."""
    step.expect(1)
    (bottom,) = step.bottoms
    base, scale, shift = _curve(step, "exp_param")
    logarithm = 1.0 if base == -1 else math.log(base)
    try:
        outer = 1.0 if shift == 0 else math.exp(shift) if base == -1 else math.pow(base, shift)
    except OverflowError:
        raise step.wrong(f"base {base} to the power of shift {shift} is no number") from None
    inner = affine(step, bottom, logarithm * scale, 0, None)
    exponential = step.node("Exp", [inner], 0 if outer == 1 else None)
    name = exponential if outer == 1 else step.node("Mul", [exponential, step.constant(outer)], 0)
    return [step.result(name, bottom.shape)]


def _curve(step: Step, name: str) -> tuple[float, float, float]:
    param = step.param(name)
    base = param.real("base")
    if base != -1 and not 0 < base < math.inf:
        raise step.wrong(f"base must be positive, or -1 for e; it is {base}")
    return base, param.real("scale"), param.real("shift")


def _log(step: Step) -> list[Value]:
    """Translate ``log_base(shift + scale * x)``."""
    step.expect(1)
    (bottom,) = step.bottoms
    base, scale, shift = _curve(step, "log_param")
    if base == 1:
        raise step.wrong("there is no logarithm of base 1")
    inner = affine(step, bottom, scale, shift, None)
    outer = 1.0 if base == -1 else 1 / math.log(base)
    logarithm = step.node("Log", [inner], 0 if outer == 1 else None)
    name = logarithm if outer == 1 else step.node("Mul", [logarithm, step.constant(outer)], 0)
    return [step.result(name, bottom.shape)]


def _same(step: Step) -> list[Value]:
    """Translate a layer that does nothing at test time, to as many tops as it has."""
    step.expect(1, (1, 1 << 20))
    return [step.bottoms[0]] * len(step.names)


TRANSLATIONS = {
    "AbsVal": lambda step: step.unary("Abs"),
    "BNLL": lambda step: step.unary("Softplus"),
    "Clip": _clip,
    "Dropout": _same,
    "ELU": _elu,
    "Exp": _exp,
    "Log": _log,
    "Power": _power,
    "PReLU": _prelu,
    "ReLU": _relu,
    "ReLU6": _relu6,
    "Sigmoid": lambda step: step.unary("Sigmoid"),
    "Split": _same,
    "Swish": _swish,
    "TanH": lambda step: step.unary("Tanh"),
    "Threshold": _threshold,
}
