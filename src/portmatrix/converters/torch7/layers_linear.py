"""Layers that multiply by a matrix, look up rows of one, or measure distances to its rows."""

from __future__ import annotations

import numpy as np

from portmatrix.converters.torch7.builder import Builder, Flow, Value, translates
from portmatrix.converters.torch7.modules import Module
from portmatrix.converters.torch7.objects import Array
from portmatrix.converters.torch7.sizes import Mismatch


@translates("Linear", "LinearNoBias")
def _linear(builder: Builder, module: Module, flow: Flow) -> Flow:
    return linear(builder, module, flow, module.weight("weight"), module.weight_or_none("bias"))


def linear(builder: Builder, module: Module, flow: Flow, weight: Array, bias: Array | None) -> Value:
    """Return ``x W' + b`` for a batch of vectors; ``weight`` is outputs x inputs."""
    value = builder.real(builder.tensor(module, flow, (2,)))
    if weight.ndim != 2 or (bias is not None and bias.size != weight.shape[0]):
        module.fault(f"its weight {list(weight.shape)} and its bias do not belong together")
    builder.expect(module, value, 1, weight.shape[1])
    inputs = [value.name, builder.weight(module, weight, "weight")]
    if bias is not None:
        inputs.append(builder.weight(module, bias.reshape(-1), "bias"))
    return Value(builder.node("Gemm", inputs, module.path, transB=1), (value.sizes[0], weight.shape[0]))


@translates("LinearWeightNorm")
def _linear_weight_norm(builder: Builder, module: Module, flow: Flow) -> Flow:
    """The weight is ``g v / |v|``, row by row."""
    v, g = module.weight("v"), module.weight("g").reshape(-1, 1)
    if v.ndim != 2 or g.shape[0] != v.shape[0]:
        module.fault("its tensors v and g do not belong together")
    weight = v if builder.trial else (v * (g / np.sqrt(np.square(v).sum(1, keepdims=True)))).astype(np.float32)
    return linear(builder, module, flow, weight, module.weight_or_none("bias"))


@translates("LookupTable")
def _lookup_table(builder: Builder, module: Module, flow: Flow) -> Flow:
    """Indices count from 1. Rows longer than ``maxNorm`` are shortened, as Torch7 does when it looks them up."""
    value = builder.tensor(module, flow, (1, 2))
    weight = module.weight("weight")
    if module.raw("maxNorm") is not None and not builder.trial:
        weight = _shortened(weight, module.number("maxNorm"), module.number("normType", 2))
    at = value.name if value.whole else builder.node("Cast", [value.name], to=7)
    at = builder.node("Sub", [at, builder.constant(1, np.int64)])
    name = builder.node("Gather", [builder.weight(module, weight, "weight"), at], module.path, axis=0)
    return Value(name, (*value.sizes, *weight.shape[1:]))


def _shortened(weight: Array, most: float, norm: float) -> Array:
    lengths = (np.abs(weight) ** norm).sum(1, keepdims=True) ** (1 / norm)
    return np.where(lengths > most, weight * (most / (lengths + 1e-7)), weight).astype(np.float32)


@translates("Euclidean")
def _euclidean(builder: Builder, module: Module, flow: Flow) -> Flow:
    """The distance to each column of the weight, which is inputs x outputs."""
    value = builder.real(builder.tensor(module, flow, (2,)))
    weight = module.weight("weight")
    builder.expect(module, value, 1, weight.shape[0])
    column = builder.unsqueeze(value, 2)
    inputs = [column.name, builder.weight(module, weight, "weight")]
    difference = Value(builder.node("Sub", inputs, module.path), (value.sizes[0], *weight.shape))
    return builder.same(module, "Sqrt", builder.reduce(module, "ReduceSumSquare", difference, 1))


@translates("Cosine")
def _cosine(builder: Builder, module: Module, flow: Flow) -> Flow:
    """Each length gets 1e-12 before it divides (Cosine.lua)."""
    value = builder.real(builder.tensor(module, flow, (2,)))
    weight = module.weight("weight")
    builder.expect(module, value, 1, weight.shape[1])
    unit = weight if builder.trial else weight / (np.sqrt(np.square(weight).sum(1, keepdims=True)) + np.float32(1e-12))
    name = builder.node("Gemm", [value.name, builder.weight(module, unit, "weight")], module.path, transB=1)
    lengths = builder.same(module, "Sqrt", builder.reduce(module, "ReduceSumSquare", value, 1, keep=True))
    lengths = builder.scalar(module, "Add", lengths, 1e-12)
    return builder.same(module, "Div", Value(name, (value.sizes[0], weight.shape[0])), lengths.name)


@translates("Bilinear")
def _bilinear(builder: Builder, module: Module, flow: Flow) -> Flow:
    """Output k is ``a' W[k] b + bias[k]``; the weight is outputs x first x second."""
    values = builder.tensors(module, flow)
    weight = module.weight("weight")
    if len(values) != 2 or weight.ndim != 3:
        raise Mismatch(f"layer {module.path!r} needs a table of two batches of vectors")
    a, b = (builder.real(builder.tensor(module, value, (2,))) for value in values)
    outputs, first, second = weight.shape
    builder.expect(module, a, 1, first)
    builder.expect(module, b, 1, second)
    matrix = builder.weight(module, weight.transpose(1, 0, 2).reshape(first, outputs * second), "weight")
    product = Value(builder.node("MatMul", [a.name, matrix], module.path), (a.sizes[0], outputs * second))
    product = builder.reshape(product, (a.sizes[0], outputs, second))
    name = builder.node("MatMul", [product.name, builder.unsqueeze(b, 2).name], module.path)
    result = builder.squeeze(Value(name, (a.sizes[0], outputs, 1)), 2)
    bias = module.weight_or_none("bias")
    return result if bias is None else builder.same(module, "Add", result, builder.weight(module, bias, "bias"))
