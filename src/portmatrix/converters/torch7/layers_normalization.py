"""Normalization: by stored statistics, across neighbouring planes, within windows, and of vectors' lengths."""

from __future__ import annotations

import numpy as np

from portmatrix.converters.torch7.builder import Builder, Flow, Value, axis_of, translates
from portmatrix.converters.torch7.layers_containers import p_norm
from portmatrix.converters.torch7.modules import Module
from portmatrix.converters.torch7.objects import Array

_RANKS = {"BatchNormalization": 2, "SpatialBatchNormalization": 4, "VolumetricBatchNormalization": 5}


@translates(*_RANKS)
def _batch_normalization(builder: Builder, module: Module, flow: Flow) -> Flow:
    value = builder.real(builder.tensor(module, flow, (_RANKS[module.kind],)))
    mean = module.weight("running_mean").reshape(-1)
    builder.expect(module, value, 1, mean.size)
    weight, bias = module.weight_or_none("weight"), module.weight_or_none("bias")
    parameters = {
        "scale": np.ones(mean.size, np.float32) if weight is None else weight.reshape(-1),
        "bias": np.zeros(mean.size, np.float32) if bias is None else bias.reshape(-1),
        "mean": mean,
        "variance": _variance(module),
    }
    if any(array.size != mean.size for array in parameters.values()):
        module.fault("its weight, bias, mean and variance have different sizes")
    inputs = [value.name, *(builder.weight(module, array, name) for name, array in parameters.items())]
    name = builder.node("BatchNormalization", inputs, module.path, epsilon=float(module.number("eps", 1e-5)))
    return Value(name, value.sizes)


def _variance(module: Module) -> Array:
    """Return the running variance; version 1 has ``running_std``, which is 1 / sqrt(variance + eps)."""
    variance = module.weight_or_none("running_var")
    if variance is not None:
        return variance.reshape(-1)
    inverse = module.weight("running_std").reshape(-1).astype(np.float64)
    return (inverse**-2 - module.number("eps", 1e-5)).astype(np.float32)


@translates("SpatialCrossMapLRN", "CrossMapLRN")
def _cross_map(builder: Builder, module: Module, flow: Flow) -> Flow:
    """THNN's window over the planes is symmetric: an even size reaches as far as the odd one below it."""
    value = builder.real(builder.tensor(module, flow, (4,)))
    size = module.integer("size", 5)
    if size < 1:
        module.fault(f"its size {size} is none")
    odd = size if size % 2 else size - 1
    bias = module.number("k", module.number("K", 1.0))
    return builder.same(
        module,
        "LRN",
        value,
        size=odd,
        alpha=float(module.number("alpha", 1e-4) * odd / size),
        beta=float(module.number("beta", 0.75)),
        bias=float(bias),
    )


@translates("Normalize")
def _normalize(builder: Builder, module: Module, flow: Flow) -> Flow:
    """x / (sum |x|^p + eps)^(1/p), along the last dimension unless the file names another (Normalize.lua)."""
    value = builder.real(builder.tensor(module, flow))
    axis = axis_of(module, module.integer("dim", -1), value.rank)
    norm = module.number("p", 2)
    if norm <= 0:
        module.fault(f"its norm {norm} should be positive")
    length = p_norm(builder, module, value, norm, axis, keep=True, epsilon=module.number("eps", 1e-10))
    return builder.same(module, "Div", value, length.name)


def _edge_coefficient(builder: Builder, module: Module, value: Value) -> Value:
    """Return what the mean estimator gives for ones: less than 1 where its window reaches over the edge."""
    sizes = tuple(builder.number(module, size) for size in value.sizes[1:])
    ones = builder.constant(np.ones((1, *sizes), np.float32))
    estimator = module.field("meanestimator")
    coefficient = builder.tensor(estimator, builder.translate(estimator, Value(ones, (1, *sizes))))
    return builder.reshape(coefficient, (1, *sizes))


@translates("SpatialSubtractiveNormalization")
def _subtractive(builder: Builder, module: Module, flow: Flow) -> Flow:
    value = builder.real(builder.tensor(module, flow, (4,)))
    estimator = module.field("meanestimator")
    mean = builder.tensor(estimator, builder.translate(estimator, value))
    mean = builder.same(
        module, "Div", builder.reshape(mean, value.sizes), _edge_coefficient(builder, module, value).name
    )
    return builder.same(module, "Sub", value, mean.name)


@translates("SpatialDivisiveNormalization")
def _divisive(builder: Builder, module: Module, flow: Flow) -> Flow:
    value = builder.real(builder.tensor(module, flow, (4,)))
    estimator = module.field("stdestimator")
    deviation = builder.tensor(estimator, builder.translate(estimator, value))
    deviation = builder.same(
        module, "Div", builder.reshape(deviation, value.sizes), _edge_coefficient(builder, module, value).name
    )
    divisor = builder.tensor(module, builder.translate(module.field("thresholder"), deviation))
    return builder.same(module, "Div", value, divisor.name)


@translates("SpatialContrastiveNormalization")
def _contrastive(builder: Builder, module: Module, flow: Flow) -> Flow:
    return builder.translate(module.field("normalizer"), flow)
