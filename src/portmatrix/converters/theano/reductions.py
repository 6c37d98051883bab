"""Operations that reduce axes, order elements or sum along an axis."""

from __future__ import annotations

import numpy as np

from portmatrix.converters.errors import Unsupported
from portmatrix.converters.theano.graph import Apply, integers
from portmatrix.converters.theano.scalars import wide
from portmatrix.converters.theano.shapes import axes_of, band
from portmatrix.converters.theano.sizes import Size, product
from portmatrix.converters.theano.standins import Record
from portmatrix.converters.theano.translator import Dtype, Handler, Translator, Value, onnx_dtype, total

_INT = np.dtype(np.int64)
_KINDS = {
    "Add": "ReduceSum",
    "Mul": "ReduceProd",
    "Maximum": "ReduceMax",
    "Minimum": "ReduceMin",
    "AND": "ReduceMin",
    "OR": "ReduceMax",
    "Sum": "ReduceSum",
    "Prod": "ReduceProd",
    "Max": "ReduceMax",
    "Min": "ReduceMin",
    "All": "ReduceMin",
    "Any": "ReduceMax",
    "Mean": "ReduceMean",
}


def reduced(t: Translator, kind: str, value: Value, axes: list[int], dtype: Dtype, label: str = "") -> Value:
    """Return the reduction of some axes, which are gone afterwards; the value itself if there are none."""
    if not axes:
        return t.cast(value, dtype)
    shape = [size for axis, size in enumerate(value.shape) if axis not in axes]
    parts = _reduced_parts(kind, value)
    worked = t.cast(value, wide(dtype))
    made = t.op(kind, worked, t.numbers(*axes), shape=shape, label=label, keepdims=0)
    return t.with_parts(t.cast(made, dtype), parts)


def _reduced_parts(kind: str, value: Value) -> list[Size] | None:
    if value.parts is None or value.rank != 1:
        return None
    if kind == "ReduceProd":
        return [product(value.parts)]
    if kind == "ReduceSum":
        whole = Size.of(0)
        for part in value.parts:
            whole = whole.plus(part)
        return [whole]
    return None


def reduction(t: Translator, apply: Apply) -> Value:
    """Translate ``CAReduce`` and what is derived of it."""
    value = t.value(apply.inputs[0])
    scalar = apply.op.get("scalar_op")
    name = scalar.kind if isinstance(scalar, Record) and apply.op.kind.startswith("CAReduce") else apply.op.kind
    if name not in _KINDS:
        raise Unsupported(
            apply.label, apply.op.kind, f"a reduction by {name}; sum, product, extremes, all, any are known"
        )
    dtype = onnx_dtype(apply.outputs[0].dtype)
    axes = axes_of(apply, "axis", value.rank)
    if name in ("AND", "OR", "All", "Any") and value.dtype.kind != "b" and dtype.kind == "b":
        value = t.cast(value, bool)
    return reduced(t, _KINDS[name], value, axes, dtype, apply.outputs[0].name or name)


def max_and_argmax(t: Translator, apply: Apply) -> list[Value]:
    """Translate ``MaxAndArgmax``; several axes count as one, in their order."""
    value = t.value(apply.inputs[0])
    axes = _argmax_axes(t, apply, value)
    largest = reduced(t, "ReduceMax", value, axes, onnx_dtype(apply.outputs[0].dtype))
    return [largest, _argmax(t, value, axes, onnx_dtype(apply.outputs[1].dtype))]


def argmax(t: Translator, apply: Apply) -> Value:
    """Translate ``Argmax``."""
    value = t.value(apply.inputs[0])
    return _argmax(t, value, _argmax_axes(t, apply, value), onnx_dtype(apply.outputs[0].dtype))


def _argmax_axes(t: Translator, apply: Apply, value: Value) -> list[int]:
    if len(apply.inputs) > 1 and apply.op.get("axis") is None:
        given = apply.inputs[1]
        axes = None if given.type == "NoneTypeT" else integers(t.value(given).array)
        return list(range(value.rank)) if axes is None else sorted(axis % value.rank for axis in axes)
    return axes_of(apply, "axis", value.rank)


def _argmax(t: Translator, value: Value, axes: list[int], dtype: Dtype) -> Value:
    value = t.cast(value, wide(value.dtype))
    if not axes:
        return t.constant(np.zeros((), dtype))
    if len(axes) > 1:
        rest = [axis for axis in range(value.rank) if axis not in axes]
        value = t.transposed(value, [*rest, *axes])
        lead = value.shape[: len(rest)]
        ends = [t.size_of(value, axis) for axis in range(len(rest))]
        open_ = product(value.shape[len(rest) :])
        value = t.reshaped(value, [*lead, open_], t.vector([*ends, t.constant(np.int64(-1))]))
        axes = [len(rest)]
    shape = [size for axis, size in enumerate(value.shape) if axis != axes[0]]
    made = t.op("ArgMax", value, shape=shape, dtype=_INT, axis=axes[0], keepdims=0)
    return t.cast(made, dtype)


def cumulative(t: Translator, apply: Apply) -> Value:
    """Translate ``CumOp``; products through a triangle of copies, since ONNX has sums only."""
    value = t.value(apply.inputs[0])
    axis = apply.op.get("axis")
    mode = apply.op.get("mode") or ("mul" if apply.op.kind == "CumprodOp" else "add")
    dtype = onnx_dtype(apply.outputs[0].dtype)
    if axis is None:
        value, axis = t.reshaped(value, [total(value)], t.numbers(-1)), 0
    axis = int(axis) % value.rank
    value = t.cast(value, wide(dtype))
    if mode == "add":
        return t.cast(t.op("CumSum", value, t.constant(np.int64(axis)), shape=value.shape), dtype)
    count = t.size_of(value, axis)
    mask = band(t, count, count, t.constant(np.int64(0)), "GreaterOrEqual")
    mask = t.unsqueezed(mask, *range(2, value.rank - axis + 1))
    wide_ = t.unsqueezed(value, axis)
    one = t.constant(np.ones((), value.dtype))
    shape = t.broadcast([mask.shape, wide_.shape])
    spread = t.op("Where", mask, wide_, one, shape=shape, dtype=value.dtype)
    return t.cast(reduced(t, "ReduceProd", spread, [axis + 1], value.dtype), dtype)


def _sorted(t: Translator, apply: Apply, value: Value) -> tuple[list[Value], Value]:
    axis_value = apply.inputs[1]
    axis = None if axis_value.type == "NoneTypeT" else integers(t.value(axis_value).array)
    if axis is None:
        value = t.reshaped(value, [total(value)], t.numbers(-1))
    place = (axis[0] if axis else 0) % value.rank
    worked = t.cast(value, wide(value.dtype))
    count = t.runtime_sizes(value, [place])
    made = t.ops("TopK", [worked, count], [(value.shape, None), (value.shape, _INT)], axis=place, largest=0, sorted=1)
    return made, value


def sort(t: Translator, apply: Apply) -> Value:
    """Translate ``SortOp``."""
    made, value = _sorted(t, apply, t.value(apply.inputs[0]))
    return t.cast(made[0], value.dtype)


def arg_sort(t: Translator, apply: Apply) -> Value:
    """Translate ``ArgSortOp``; equal elements keep their order."""
    made, _ = _sorted(t, apply, t.value(apply.inputs[0]))
    return t.cast(made[1], onnx_dtype(apply.outputs[0].dtype))


def top_k(t: Translator, apply: Apply) -> list[Value]:
    """Translate ``TopKOp``; negative numbers ask for the smallest. Theano leaves the order open, it is sorted."""
    value = t.value(apply.inputs[0])
    axis = int(apply.op.get("axis")) % value.rank
    count = t.integers_of(t.value(apply.inputs[1]), apply, "the number of elements")[0]
    shape = [Size.of(abs(count)) if other == axis else size for other, size in enumerate(value.shape)]
    made = t.ops(
        "TopK",
        [t.cast(value, wide(value.dtype)), t.numbers(abs(count))],
        [(shape, None), (shape, _INT)],
        axis=axis,
        largest=int(count > 0),
        sorted=1,
    )
    wanted = []
    if apply.op.get("return_values", True):
        wanted.append(t.cast(made[0], value.dtype))
    if apply.op.get("return_indices", False):
        wanted.append(t.cast(made[1], onnx_dtype(apply.outputs[-1].dtype)))
    return wanted


REDUCTIONS: dict[str, Handler] = {
    "All": reduction,
    "Any": reduction,
    "Argmax": argmax,
    "ArgSortOp": arg_sort,
    "CAReduce": reduction,
    "CAReduceDtype": reduction,
    "CumOp": cumulative,
    "CumprodOp": cumulative,
    "CumsumOp": cumulative,
    "Max": reduction,
    "MaxAndArgmax": max_and_argmax,
    "Mean": reduction,
    "Min": reduction,
    "Prod": reduction,
    "SortOp": sort,
    "Sum": reduction,
    "TopKOp": top_k,
}
