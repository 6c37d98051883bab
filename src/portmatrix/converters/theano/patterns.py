"""Graphs of elementwise operations that are one ONNX operator: rectifiers, biases, means."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from portmatrix.converters.theano.graph import Apply, Variable
from portmatrix.converters.theano.linear import with_bias
from portmatrix.converters.theano.scalars import elemwise
from portmatrix.converters.theano.sizes import Size, product
from portmatrix.converters.theano.standins import Record
from portmatrix.converters.theano.translator import Array, Handler, Translator, Value, onnx_dtype


class _Scaled(NamedTuple):
    """A variable times a constant."""

    variable: Variable
    factor: Array


def _is(variable: Variable, kind: str) -> Apply | None:
    """Return what computes a variable, if it is the elementwise operation ``kind``."""
    owner = variable.owner
    if owner is None or owner.op.kind != "Elemwise":
        return None
    scalar = owner.op.get("scalar_op")
    return owner if isinstance(scalar, Record) and scalar.kind == kind else None


def _constant(t: Translator, variable: Variable) -> Array | None:
    if not variable.has_value and variable not in t.values:
        return None
    return t.value(variable).array


def _scaled(t: Translator, variable: Variable) -> _Scaled | None:
    """Return a product of a constant and something else, taken apart."""
    owner = _is(variable, "Mul")
    if owner is None or len(owner.inputs) != 2:
        return None
    for one, other in ((owner.inputs[0], owner.inputs[1]), (owner.inputs[1], owner.inputs[0])):
        factor = _constant(t, one)
        if factor is not None and _constant(t, other) is None:
            return _Scaled(other, factor)
    return None


def rectified(t: Translator, apply: Apply) -> Value | None:
    """Return ``Relu`` for ½·(x + |x|), ``LeakyRelu`` or ``PRelu`` for ½(1 + a)·x + ½(1 - a)·|x|, which relu builds."""
    if onnx_dtype(apply.outputs[0].dtype).kind != "f":
        return None
    whole = _scaled(t, apply.outputs[0])
    if whole is not None:
        return _plain(t, apply, whole)
    if _is(apply.outputs[0], "Add") is None or len(apply.inputs) != 2:
        return None
    parts = [_scaled(t, variable) for variable in apply.inputs]
    for one, other in ((parts[0], parts[1]), (parts[1], parts[0])):
        if one is None or other is None:
            continue
        absolute = _is(other.variable, "Abs")
        if absolute is not None and absolute.inputs[0] is one.variable:
            return _leaky(t, apply, one, other)
    return None


def _plain(t: Translator, apply: Apply, whole: _Scaled) -> Value | None:
    added = _is(whole.variable, "Add")
    if added is None or len(added.inputs) != 2 or not np.all(whole.factor == 0.5):
        return None
    for one, other in ((added.inputs[0], added.inputs[1]), (added.inputs[1], added.inputs[0])):
        absolute = _is(other, "Abs")
        if absolute is not None and absolute.inputs[0] is one and one in t.values:
            value = t.cast(t.values[one], onnx_dtype(apply.outputs[0].dtype))
            return t.op("Relu", value, shape=value.shape, label=apply.outputs[0].name or "Relu")
    return None


def _leaky(t: Translator, apply: Apply, straight: _Scaled, absolute: _Scaled) -> Value | None:
    try:
        total, slope = straight.factor + absolute.factor, straight.factor - absolute.factor
    except ValueError:
        return None
    if straight.variable not in t.values or not np.allclose(total, 1, atol=1e-6):
        return None
    value = t.cast(t.values[straight.variable], onnx_dtype(apply.outputs[0].dtype))
    label = apply.outputs[0].name or "Relu"
    if slope.size == 1:
        return t.op("LeakyRelu", value, shape=value.shape, label=label, alpha=float(slope.ravel()[0]))
    if slope.ndim != value.rank or t.broadcast([value.shape, slope_shape(slope)]) != t.resolved(value.shape):
        return None
    trimmed = slope.reshape(slope.shape[next((i for i, size in enumerate(slope.shape) if size != 1), 0) :])
    return t.op("PRelu", value, t.constant(trimmed.astype(value.dtype), "slope"), shape=value.shape, label=label)


def slope_shape(array: Array) -> tuple[Size, ...]:
    """Return the shape of an array as sizes."""
    return tuple(Size.of(size) for size in array.shape)


def biased(t: Translator, apply: Apply) -> Value | None:
    """Return a convolution or a product of matrices that takes in a constant that is added to it."""
    if _is(apply.outputs[0], "Add") is None or len(apply.inputs) != 2:
        return None
    for one, other in ((apply.inputs[0], apply.inputs[1]), (apply.inputs[1], apply.inputs[0])):
        bias = t.values.get(other)
        if other.has_value and bias is None:
            bias = t.value(other)
        value = t.values.get(one)
        if value is None or bias is None or t.uses.get(one) != 1 or value.array is not None:
            continue
        found = with_bias(t, value, bias)
        if found is not None:
            return found
    return None


def averaged(t: Translator, apply: Apply) -> Value | None:
    """Return a mean for a sum that is divided by the number of its terms."""
    if _is(apply.outputs[0], "TrueDiv") is None:
        return None
    top, bottom = apply.inputs
    owner, value = top.owner, t.values.get(top)
    if owner is None or owner.op.kind != "Sum" or value is None or t.uses.get(top) != 1 or value.node is None:
        return None
    source, node = t.values.get(owner.inputs[0]), value.node
    count = t.number_of(t.value(bottom))
    if source is None or count is None or node.op_type != "ReduceSum" or value.dtype.kind != "f":
        return None
    axes = owner.op.integers("axis")
    axes = tuple(range(source.rank)) if axes is None else axes
    terms = t.sizes.resolved(product(source.shape[axis] for axis in axes)).number
    if terms is None or terms != count or value.dtype != onnx_dtype(apply.outputs[0].dtype):
        return None
    node.op_type = "ReduceMean"
    return value


def elementwise(t: Translator, apply: Apply) -> Value | list[Value]:
    """Translate ``Elemwise``: as one operator for a whole pattern, or operation by operation."""
    if len(apply.outputs) == 1:
        for pattern in (rectified, biased, averaged):
            found = pattern(t, apply)
            if found is not None:
                return found
    return elemwise(t, apply)


ELEMENTWISE: dict[str, Handler] = {"Elemwise": elementwise}
