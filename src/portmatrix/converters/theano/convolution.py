"""Convolutions, transposed convolutions and pooling.

Theano's convolution turns its filters by 180° (``filter_flip``), ONNX's does not: the filters are turned beforehand.
Sizes follow ``theano/tensor/nnet/abstract_conv.py`` (``get_conv_shape_1axis``) and ``theano/tensor/signal/pool.py``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from portmatrix.converters.errors import Unsupported
from portmatrix.converters.theano.graph import Apply, integers
from portmatrix.converters.theano.sizes import Size, product
from portmatrix.converters.theano.standins import ArrayRecord, Record
from portmatrix.converters.theano.translator import END, Handler, Translator, Value, onnx_dtype


def _number(value: Any) -> int | None:
    """Return an element of ``imshp`` or ``kshp``: a number, a constant variable, or None."""
    if isinstance(value, Record):
        value = value.get("data")
    if isinstance(value, ArrayRecord):
        value = value.value
    return None if value is None else int(np.asarray(value).ravel()[0])


def _learn(t: Translator, value: Value, given: Any, first: int = 1) -> None:
    """Take over sizes that the graph's author has stated, those of the batch excepted."""
    if not isinstance(given, list | tuple) or len(given) != value.rank:
        return
    for axis, size in list(enumerate(given))[first:]:
        number = _number(size)
        if number is not None:
            t.sizes.unify(value.shape[axis], Size.of(number))


def flipped(t: Translator, filters: Value, axes: int) -> Value:
    """Return filters turned along their last axes."""
    last = range(filters.rank - axes, filters.rank)
    if filters.array is not None:
        return t.constant(np.flip(filters.array, tuple(last)), filters.own or "filters")
    ends = t.numbers(*[-END] * axes)
    starts = t.numbers(*[END] * axes)
    return t.op("Slice", filters, starts, ends, t.numbers(*last), t.numbers(*[-1] * axes), shape=filters.shape)


def _pads(mode: Any, kernel: list[Size], dilation: list[int], t: Translator, apply: Apply) -> list[tuple[int, int]]:
    if isinstance(mode, bytes):
        mode = mode.decode("latin-1")
    if isinstance(mode, str):
        if mode == "valid":
            return [(0, 0)] * len(kernel)
        sizes = [t.sizes.resolved(size).number for size in kernel]
        if None in sizes:
            raise Unsupported(apply.label, apply.op.kind, f"border mode {mode!r} needs filters of known size")
        reach = [(size - 1) * by for size, by in zip(sizes, dilation, strict=True) if size is not None]
        if mode == "full":
            return [(size, size) for size in reach]
        if mode == "half":
            return [((size + 1) // 2, (size + 1) // 2) for size in reach]
        raise Unsupported(apply.label, apply.op.kind, f"border mode {mode!r}; valid, full, half and numbers are known")
    each = (mode,) * len(kernel) if isinstance(mode, int | np.integer) else mode
    made = []
    for entry in each:
        pair = integers(entry) or (0,)
        made.append((pair[0], pair[-1]))
    return made


def _out(size: Size, pads: tuple[int, int], reach: Size, stride: int, t: Translator) -> Size:
    """Return (size + pads - reach) // stride + 1, where ``reach`` is the size of the dilated filter."""
    room = t.sizes.resolved(size).plus(Size.of(sum(pads))).plus(reach, -1)
    whole = room.floor_over(stride)
    return t.sizes.fresh() if whole is None else whole.plus(Size.of(1))


def _reach(size: Size, dilation: int) -> Size:
    return size.plus(Size.of(1), -1).times(Size.of(dilation)).plus(Size.of(1))


def _settings(apply: Apply, axes: int) -> tuple[list[int], list[int], int]:
    op = apply.op
    strides = list(op.integers("subsample") or (1,) * axes)
    dilation = list(op.integers("filter_dilation") or (1,) * axes)
    return strides, dilation, int(op.get("num_groups") or 1)


def convolution(t: Translator, apply: Apply) -> Value:
    """Translate ``AbstractConv2d``, ``AbstractConv3d`` and the operations that they become."""
    dtype = onnx_dtype(apply.outputs[0].dtype)
    value, filters = [t.cast(t.value(variable), dtype) for variable in apply.inputs[:2]]
    axes = value.rank - 2
    _refuse_unshared(apply)
    strides, dilation, groups = _settings(apply, axes)
    _learn(t, value, apply.op.get("imshp"))
    _learn(t, filters, apply.op.get("kshp"), 0)
    t.sizes.unify(value.shape[1], filters.shape[1].times(Size.of(groups)))
    kernel = [t.sizes.resolved(size) for size in filters.shape[2:]]
    pads = _pads(apply.op.get("border_mode"), kernel, dilation, t, apply)
    if apply.op.get("filter_flip", False):
        filters = flipped(t, filters, axes)
    return _convolved(t, apply, value, filters, (kernel, pads, strides, dilation, groups))


def _convolved(t: Translator, apply: Apply, value: Value, filters: Value, settings: Any) -> Value:
    kernel, pads, strides, dilation, groups = settings
    sizes = [
        _out(size, pad, _reach(reach, by), stride, t)
        for size, pad, reach, by, stride in zip(value.shape[2:], pads, kernel, dilation, strides, strict=True)
    ]
    numbers = [size.number for size in kernel]
    return t.op(
        "Conv",
        value,
        filters,
        shape=[value.shape[0], filters.shape[0], *sizes],
        label=apply.outputs[0].name or "Conv",
        kernel_shape=None if None in numbers else numbers,
        pads=[pad[0] for pad in pads] + [pad[1] for pad in pads],
        strides=strides,
        dilations=dilation,
        group=groups,
    )


def _refuse_unshared(apply: Apply) -> None:
    if apply.op.get("unshared"):
        raise Unsupported(apply.label, apply.op.kind, "unshared filters (locally connected) have no ONNX operator")


def old_convolution(t: Translator, apply: Apply) -> Value:
    """Translate ``ConvOp``, the convolution of Theano up to 0.8, in its plain form."""
    value, filters = [t.value(variable) for variable in apply.inputs[:2]]
    op = apply.op
    kernel = [t.sizes.resolved(size) for size in filters.shape[2:]]
    pads = _pads(op.get("out_mode") or "valid", kernel, [1, 1], t, apply)
    strides = [int(op.get("dx") or 1), int(op.get("dy") or 1)]
    _learn(t, value, (None, *(op.get("imshp") or (None,) * 3)))
    return _convolved(t, apply, value, flipped(t, filters, 2), (kernel, pads, strides, [1, 1], 1))


def transposed_convolution(t: Translator, apply: Apply) -> Value:
    """Translate ``AbstractConv2d_gradInputs`` and its kind: the gradient of a convolution, used as upsampling."""
    dtype = onnx_dtype(apply.outputs[0].dtype)
    filters, top = [t.cast(t.value(variable), dtype) for variable in apply.inputs[:2]]
    axes = top.rank - 2
    _refuse_unshared(apply)
    strides, dilation, groups = _settings(apply, axes)
    _learn(t, filters, apply.op.get("kshp"), 0)
    t.sizes.unify(top.shape[1], filters.shape[0])
    kernel = [t.sizes.resolved(size) for size in filters.shape[2:]]
    pads = _pads(apply.op.get("border_mode"), kernel, dilation, t, apply)
    if apply.op.get("filter_flip", False):
        filters = flipped(t, filters, axes)
    stated = _wanted(t, apply, axes)
    for own, size, reach, by, pad, stride in zip(
        top.shape[2:], stated or (), kernel, dilation, pads, strides, strict=False
    ):
        if t.sizes.resolved(size).number is not None:
            t.sizes.unify(own, _out(size, pad, _reach(reach, by), stride, t))
    natural = _upsampled(t, top, (kernel, pads, strides, dilation))
    target = stated or natural
    extra = [
        t.sizes.resolved(one).plus(t.sizes.resolved(other), -1).number
        for one, other in zip(target, natural, strict=True)
    ]
    if None in extra:
        if any(stride != 1 for stride in strides):
            raise Unsupported(apply.label, apply.op.kind, "its output's sizes must be known; give input_shapes")
        extra = [0] * axes
    numbers = [size.number for size in kernel]
    return t.op(
        "ConvTranspose",
        top,
        filters,
        shape=[top.shape[0], filters.shape[1].times(Size.of(groups)), *target],
        label=apply.outputs[0].name or "ConvTranspose",
        kernel_shape=None if None in numbers else numbers,
        pads=[pad[0] for pad in pads] + [pad[1] for pad in pads],
        strides=strides,
        dilations=dilation,
        group=groups,
        output_padding=extra if any(extra) else None,
    )


def _upsampled(t: Translator, top: Value, settings: Any) -> list[Size]:
    """Return (size - 1)·stride + reach - pads of each axis, the smallest that such a convolution can come from."""
    return [
        t.sizes.resolved(size)
        .plus(Size.of(1), -1)
        .times(Size.of(stride))
        .plus(_reach(reach, by))
        .plus(Size.of(sum(pad)), -1)
        for size, reach, pad, stride, by in zip(top.shape[2:], *settings, strict=True)
    ]


def _wanted(t: Translator, apply: Apply, axes: int) -> list[Size] | None:
    """Return the spatial sizes that a gradient is asked to have."""
    stated = apply.op.get("imshp")
    numbers = [_number(size) for size in stated[-axes:]] if isinstance(stated, list | tuple) else [None] * axes
    given: list[Size | None] = [None if number is None else Size.of(number) for number in numbers]
    operands = [t.value(variable) for variable in apply.inputs[2:]]
    parts = operands[0].parts if operands and operands[0].rank else tuple(o.parts[0] for o in operands if o.parts)
    if parts and len(parts) == axes:
        given = [known or part for known, part in zip(given, parts, strict=True)]
    return None if None in given else [size for size in given if size is not None]


def _pool_settings(t: Translator, apply: Apply) -> tuple[list[int], list[int], list[int]]:
    op = apply.op
    if len(apply.inputs) > 1:
        window, stride, pad = [
            t.integers_of(t.value(v), apply, "window, stride and padding") for v in apply.inputs[1:4]
        ]
        return window, stride, pad
    window = list(op.integers("ds") or ())
    return window, list(op.integers("st") or window), list(op.integers("padding") or [0] * len(window))


def pool(t: Translator, apply: Apply) -> Value:
    """Translate ``Pool``: of the last axes, with or without the incomplete windows at the end.

    An incomplete window is one that reaches into padding at the end which is not counted, so that no runtime's reading
    of ``ceil_mode`` matters: ``min(window, stride) - 1`` elements make exactly as many windows as Theano has.
    """
    value = t.value(apply.inputs[0])
    window, stride, pad = _pool_settings(t, apply)
    axes, mode = len(window), apply.op.get("mode") or "max"
    whole = bool(apply.op.get("ignore_border"))
    value, lead = _four_axes(t, value, axes)
    ends, sizes = [], []
    for axis in range(axes):
        size = t.sizes.resolved(value.shape[axis + 2])
        more = 0 if whole else _end(size, window[axis], stride[axis])
        ends.append(pad[axis] + more)
        sizes.append(_out(size, (pad[axis], ends[axis]), Size.of(window[axis]), stride[axis], t))
    attributes: dict[str, Any] = {"kernel_shape": window, "strides": stride, "pads": [*pad, *ends]}
    kind = "MaxPool" if mode.startswith("max") else "AveragePool"
    if kind == "AveragePool":
        attributes["count_include_pad"] = int(mode == "sum" or (mode == "average_inc_pad" and whole))
    label = apply.outputs[0].name or kind
    made = t.op(kind, value, shape=[*value.shape[:2], *sizes], label=label, **attributes)
    if mode == "sum":
        count = t.constant(np.array(np.prod(window), made.dtype))
        made = t.op("Mul", made, count, shape=made.shape)
    return _own_axes(t, made, lead)


def _end(size: Size, window: int, stride: int) -> int:
    """Return how much padding at the end makes windows of an incomplete rest, none if there is none."""
    if size.number is None:
        return min(window, stride) - 1
    if stride >= window:
        count = (size.number - 1) // stride + 1
    else:
        count = max(0, (size.number - 1 - window + stride) // stride) + 1
    return max(0, (count - 1) * stride + window - size.number)


def _four_axes(t: Translator, value: Value, axes: int) -> tuple[Value, list[Size]]:
    """Return the value with two axes before those that are pooled, and the axes that it had there."""
    lead = list(value.shape[: value.rank - axes])
    if len(lead) < 2:
        return t.unsqueezed(value, *range(2 - len(lead))), lead
    if len(lead) > 2:
        joint = [product(lead[:-1]), *value.shape[len(lead) - 1 :]]
        sizes = [t.size_of(value, axis) for axis in range(len(lead) - 1, value.rank)]
        return t.reshaped(value, joint, t.vector([t.constant(np.int64(-1)), *sizes])), lead
    return value, lead


def _own_axes(t: Translator, value: Value, lead: list[Size]) -> Value:
    if len(lead) < 2:
        return t.squeezed(value, *range(2 - len(lead)))
    if len(lead) > 2:
        return t.reshaped(value, [*lead, *value.shape[2:]])
    return value


CONVOLUTIONS: dict[str, Handler] = {
    "AbstractConv2d": convolution,
    "AbstractConv2d_gradInputs": transposed_convolution,
    "AbstractConv3d": convolution,
    "AbstractConv3d_gradInputs": transposed_convolution,
    "ConvOp": old_convolution,
    "Corr3dMM": convolution,
    "Corr3dMM_gradInputs": transposed_convolution,
    "CorrMM": convolution,
    "CorrMM_gradInputs": transposed_convolution,
    "DownsampleFactorMax": pool,
    "Pool": pool,
}
