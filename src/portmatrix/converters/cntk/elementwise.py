"""Operators that treat each element on its own, or pair them by broadcasting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from portmatrix.converters.cntk.values import ONE, Count, Place, Shape, Value
from portmatrix.converters.errors import MalformedFile

if TYPE_CHECKING:
    from portmatrix.converters.cntk.translator import Node, Rule, Translator

#: Attributes that an operator of one input keeps, for those that have any.
_KEPT = {
    "Elu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
    "LeakyRelu": ("alpha",),
    "Selu": ("alpha", "gamma"),
    "Cast": ("to",),
}


def _unary(translator: Translator, node: Node) -> Sequence[Value]:
    (value,) = translator.inputs(node)
    value = translator.real(value)
    kept = {name: node.attributes.get(name) for name in _KEPT.get(node.op, ())}
    made = translator.emit(node.op, [value], node.outputs[0], **kept)
    return [Value(made, value.shape, value.place)]


def _same(translator: Translator, node: Node) -> Sequence[Value]:
    """Pass on the input: an Identity, or a Dropout in inference."""
    return [translator.inputs(node)[0]]


def _clip(translator: Translator, node: Node) -> Sequence[Value]:
    value = translator.real(translator.inputs(node)[0])
    limits = [node.attributes.get(name) for name in ("min", "max")]
    names = ["" if limit is None else translator.network.constant(limit, np.float32) for limit in limits]
    made = translator.emit("Clip", [value, *names], node.outputs[0])
    return [Value(made, value.shape, value.place)]


def _broadcast(translator: Translator, node: Node) -> Sequence[Value]:
    values = aligned(translator, node, translator.inputs(node, 1, 64))
    shape = joint_shape(translator, node, values)
    made = translator.emit(node.op, values, node.outputs[0])
    return [Value(made, translator.shape_of(node.outputs[0], shape), joint_place(values, len(shape)))]


def _prelu(translator: Translator, node: Node) -> Sequence[Value]:
    values = aligned(translator, node, translator.inputs(node, 2))
    made = translator.emit("PRelu", values, node.outputs[0])
    return [Value(made, values[0].shape, values[0].place)]


def _image_scaler(translator: Translator, node: Node) -> Sequence[Value]:
    """An operator that ONNX dropped: times ``scale``, plus a ``bias`` for each channel."""
    value = translator.alone(translator.inputs(node)[0], node, 0)
    bias = np.asarray(node.attributes.get("bias", [0.0]), np.float32).reshape(-1, 1, 1)
    scale = translator.network.constant(node.attributes.get("scale", 1.0), np.float32)
    scaled = translator.emit("Mul", [value, scale], f"{node.outputs[0]}.scaled")
    made = translator.emit("Add", [scaled, translator.network.initializer(bias, "bias")], node.outputs[0])
    return [Value(made, value.shape, value.place)]


def aligned(translator: Translator, node: Node, values: Sequence[Value]) -> list[Value]:
    """Return the inputs of a broadcasting operator as tensors whose batches lie on the same axis from the end."""
    dependent = [value for value in values if value.place is not None]
    if not dependent:
        return [translator.real(value) for value in values]
    options = [
        [(place.axis - value.rank, place.inner) for place in translator.candidates(value)] for value in dependent
    ]
    common = [option for option in options[0] if all(option in other for other in options)]
    if not common:
        shapes = ", ".join(str([str(size) for size in value.shape]) for value in dependent)
        raise node.cannot(f"the batches of its inputs do not line up: shapes {shapes}")
    axis, inner = common[0]
    made = []
    for value in values:
        if value.place is not None:
            made.append(translator.real(value, Place(axis + value.rank, inner)))
            continue
        if value.rank >= -axis and value.shape[axis] != ONE:
            raise node.cannot(f"its input {value.name!r} has {value.shape[axis]} elements where the batch is")
        made.append(translator.real(value))
    return made


def joint_shape(translator: Translator, node: Node, values: Sequence[Value]) -> Shape:
    """Return the shape that broadcasting gives; raises ``MalformedFile`` where shapes do not go together."""
    rank = max(value.rank for value in values)
    shape = []
    for axis in range(-rank, 0):
        sizes = {value.shape[axis] for value in values if value.rank >= -axis} - {ONE}
        known = {size for size in sizes if size.known}
        if len(known) > 1:
            raise MalformedFile(translator.file, f"node {node.name!r}", f"lengths {sorted(known)} do not go together")
        shape.append(_one_of(known or sizes))
    return tuple(shape)


def joint_place(values: Sequence[Value], rank: int) -> Place | None:
    """Return where the batch is in what aligned inputs are broadcast to."""
    for value in values:
        if value.place is not None:
            return Place(value.place.axis - value.rank + rank, value.place.inner)
    return None


def _one_of(sizes: set[Count]) -> Count:
    return min(sizes) if sizes else ONE


_PLAIN = ("Abs", "Acos", "Asin", "Atan", "Ceil", "Cos", "Exp", "Floor", "Log", "Neg", "Not", "Reciprocal", "Relu")
_UNARY = (*_PLAIN, *_KEPT, "Sigmoid", "Sin", "Softplus", "Softsign", "Sqrt", "Tan", "Tanh")
_LOGIC = ("And", "Equal", "Greater", "Less", "Or", "Xor")
_BROADCAST = (*_LOGIC, "Add", "Div", "Max", "Mean", "Min", "Mul", "Pow", "Sub", "Sum")

RULES: dict[str, Rule] = {
    **dict.fromkeys(_UNARY, _unary),
    **dict.fromkeys(_BROADCAST, _broadcast),
    "Clip": _clip,
    "Dropout": _same,
    "Identity": _same,
    "ImageScaler": _image_scaler,
    "PRelu": _prelu,
}

__all__: list[Any] = ["RULES", "aligned", "joint_place", "joint_shape"]
