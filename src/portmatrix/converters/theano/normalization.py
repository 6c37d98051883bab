"""Softmax and its kind, cross entropy, and batch normalization with given statistics."""

from __future__ import annotations

import numpy as np

from portmatrix.converters.theano.graph import Apply
from portmatrix.converters.theano.reductions import _argmax
from portmatrix.converters.theano.shapes import axes_of
from portmatrix.converters.theano.sizes import Size
from portmatrix.converters.theano.translator import Handler, Translator, Value, onnx_dtype

_INT = np.dtype(np.int64)


def _rows(t: Translator, value: Value) -> Value:
    """Return a vector as a matrix of one row, which Theano's softmax makes of it."""
    return t.unsqueezed(value, 0) if value.rank == 1 else value


def softmax(t: Translator, apply: Apply) -> Value:
    """Translate ``Softmax`` and ``LogSoftmax`` of the rows of a matrix."""
    value = _rows(t, t.value(apply.inputs[0]))
    label = apply.outputs[0].name or apply.op.kind
    return t.op(apply.op.kind, value, shape=value.shape, label=label, axis=value.rank - 1)


def _with_bias(t: Translator, value: Value, bias: Value) -> Value:
    return t.op("Add", value, bias, shape=t.broadcast([value.shape, bias.shape]))


def softmax_with_bias(t: Translator, apply: Apply) -> Value:
    """Translate ``SoftmaxWithBias``."""
    value, bias = [t.value(variable) for variable in apply.inputs]
    made = _with_bias(t, _rows(t, value), bias)
    return t.op("Softmax", made, shape=made.shape, axis=1)


def _picked(t: Translator, logarithms: Value, target: Value) -> Value:
    """Return minus the logarithm at each row's own target."""
    index = t.unsqueezed(t.cast(target, _INT), 1)
    found = t.op("GatherElements", logarithms, index, shape=index.shape, axis=1)
    found = t.squeezed(found, 1)
    return t.op("Neg", found, shape=found.shape)


def cross_entropy(t: Translator, apply: Apply) -> Value:
    """Translate ``CrossentropyCategorical1Hot``: -log of the probability of the target of each row."""
    probability, target = [t.value(variable) for variable in apply.inputs]
    logarithms = t.op("Log", probability, shape=probability.shape)
    return _picked(t, logarithms, target)


def softmax_cross_entropy(t: Translator, apply: Apply) -> list[Value]:
    """Translate ``CrossentropySoftmaxArgmax1HotWithBias``: loss, probabilities, most probable class."""
    value, bias, target = [t.value(variable) for variable in apply.inputs]
    made = _with_bias(t, _rows(t, value), bias)
    logarithms = t.op("LogSoftmax", made, shape=made.shape, axis=1)
    probability = t.op("Softmax", made, shape=made.shape, axis=1)
    return [
        _picked(t, logarithms, target),
        probability,
        _argmax(t, made, [1], onnx_dtype(apply.outputs[2].dtype)),
    ]


def batch_normalization(t: Translator, apply: Apply) -> Value:
    """Translate ``AbstractBatchNormInference``: of all axes but the second as the operator, others by its formula."""
    dtype = onnx_dtype(apply.outputs[0].dtype)
    value, *given = [t.cast(t.value(variable), dtype) for variable in apply.inputs]
    *statistics, epsilon = given
    axes = axes_of(apply, "axes", value.rank)
    label = apply.outputs[0].name or "BatchNormalization"
    channels = value.shape[1] if value.rank > 1 else Size.of(0)
    number, small = t.sizes.resolved(channels).number, t.number_of(epsilon)
    vectors = [s.array.reshape(-1) for s in statistics if s.array is not None]
    fits = len(vectors) == 4 and all(len(vector) == len(vectors[0]) for vector in vectors)
    if axes == [axis for axis in range(value.rank) if axis != 1] and fits and small is not None:
        if number is None:
            t.sizes.unify(channels, Size.of(len(vectors[0])))
        parameters = [t.constant(vector, "normalization") for vector in vectors]
        return t.op("BatchNormalization", value, *parameters, shape=value.shape, label=label, epsilon=float(small))
    scale, bias, mean, variance = statistics
    deviation = t.op("Sqrt", t.op("Add", variance, epsilon, shape=variance.shape), shape=variance.shape)
    factor = t.op("Div", scale, deviation, shape=t.broadcast([scale.shape, deviation.shape]))
    centred = t.op("Sub", value, mean, shape=t.broadcast([value.shape, mean.shape]))
    scaled = t.op("Mul", centred, factor, shape=t.broadcast([centred.shape, factor.shape]))
    return t.op("Add", scaled, bias, shape=t.broadcast([scaled.shape, bias.shape]), label=label)


NORMALIZATIONS: dict[str, Handler] = {
    "AbstractBatchNormInference": batch_normalization,
    "CrossentropyCategorical1Hot": cross_entropy,
    "CrossentropySoftmaxArgmax1HotWithBias": softmax_cross_entropy,
    "LogSoftmax": softmax,
    "Softmax": softmax,
    "SoftmaxWithBias": softmax_with_bias,
}
