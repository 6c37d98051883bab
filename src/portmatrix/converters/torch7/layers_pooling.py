"""Pooling, subsampling and upsampling."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from portmatrix.converters.torch7.builder import Builder, Flow, Value, translates
from portmatrix.converters.torch7.layers_containers import pad
from portmatrix.converters.torch7.layers_convolution import axes_fields, convolve, window
from portmatrix.converters.torch7.modules import Module
from portmatrix.converters.torch7.sizes import Mismatch, Size, SizeNeeded, Symbol, unknown, written


def _steps(module: Module, size: Size, kernel: int, step: int, around: int, dilation: int) -> tuple[Size, int]:
    """Return how many windows there are, and how far the last one reaches over the padded input (THNN's rule).

    With ceil mode a window that is only partly inside counts as well, unless it starts in the padding behind.
    """
    floor = window(module, size, kernel, step, around, around, dilation)
    if not module.flag("ceil_mode") or (isinstance(size, int) and isinstance(floor, Symbol)):
        return floor, 0
    if not isinstance(size, int) or not isinstance(floor, int):
        raise SizeNeeded(f"layer {module.path!r} pools in ceil mode, which needs the number of the input's size")
    reach = dilation * (kernel - 1) + 1
    count = -(-(size + 2 * around - reach) // step) + 1
    if around and (count - 1) * step >= size + around:
        count -= 1
    if (count - 1) * step >= size + around:
        raise Mismatch(f"layer {module.path!r} has a window that lies wholly behind an input of {size}")
    return count, max((count - 1) * step + reach - size - 2 * around, 0)


def _remembered(builder: Builder, module: Module, value: Value) -> None:
    """Note if the layer was last given another size: the file tells it of max-pooling layers."""
    for field, axis in (("iheight", value.rank - 2), ("iwidth", value.rank - 1)):
        stored, size = module.raw(field), value.sizes[axis]
        if isinstance(stored, int) and stored > 0 and isinstance(size, int) and stored != size:
            builder.contradictions += 1


def _check(module: Module, kernel: Sequence[int], around: Sequence[int]) -> None:
    if any(a < 0 or 2 * a > k for a, k in zip(around, kernel, strict=True)):
        module.fault(f"its padding {list(around)} should be at most half its kernel {list(kernel)}")


@translates("SpatialMaxPooling", "SpatialDilatedMaxPooling", "VolumetricMaxPooling", "VolumetricDilatedMaxPooling")
def _max(builder: Builder, module: Module, flow: Flow) -> Flow:
    axes = "HW" if module.kind.startswith("Spatial") else "THW"
    value = builder.real(builder.tensor(module, flow, (len(axes) + 2,)))
    kernel, around = axes_fields(module, "k", axes, 0), axes_fields(module, "pad", axes, 0)
    steps, dilations = axes_fields(module, "d", axes, 1), axes_fields(module, "dilation", axes, 1)
    _check(module, kernel, around)
    if axes == "HW":
        _remembered(builder, module, value)
    sizes, beyond = zip(
        *(_steps(module, size, kernel[i], steps[i], around[i], dilations[i]) for i, size in enumerate(value.sizes[2:])),
        strict=True,
    )
    behind = [a + b for a, b in zip(around, beyond, strict=True)]
    if any(b >= k for b, k in zip(behind, kernel, strict=True)):
        # A dilated window may reach over more than ONNX lets a pooling node pad.
        value = pad(builder, module, value, [0, 0, *around], [0, 0, *behind], float(np.finfo(np.float32).min))
        around = behind = [0] * len(kernel)
    name = builder.node(
        "MaxPool",
        [value.name],
        module.path,
        kernel_shape=kernel,
        strides=steps,
        pads=[*around, *behind],
        dilations=dilations if any(d != 1 for d in dilations) else None,
    )
    return Value(name, (*value.sizes[:2], *sizes))


@translates("SpatialAveragePooling", "VolumetricAveragePooling")
def _average(builder: Builder, module: Module, flow: Flow) -> Flow:
    """Padding counts unless told otherwise; what a window of ceil mode has beyond the padding never does.

    Files from before the field ``divide`` have sums, as SpatialAveragePooling.lua still gives for them.
    """
    axes = "HW" if module.kind.startswith("Spatial") else "THW"
    value = builder.real(builder.tensor(module, flow, (len(axes) + 2,)))
    kernel, around = axes_fields(module, "k", axes, 0), axes_fields(module, "pad", axes, 0)
    steps = axes_fields(module, "d", axes, 1)
    _check(module, kernel, around)
    counted = module.flag("count_include_pad", default=True) and "EXCLUDE" not in module.text("mode")
    sizes, beyond = zip(
        *(_steps(module, size, kernel[i], steps[i], around[i], 1) for i, size in enumerate(value.sizes[2:])),
        strict=True,
    )
    if any(beyond) and counted and any(around):
        value = pad(builder, module, value, [0, 0, *around], [0, 0, *around])
        around = [0] * len(around)
    name = builder.node(
        "AveragePool",
        [value.name],
        module.path,
        kernel_shape=kernel,
        strides=steps,
        pads=[*around, *(a + b for a, b in zip(around, beyond, strict=True))],
        count_include_pad=int(counted and not any(beyond)),
    )
    result = Value(name, (*value.sizes[:2], *sizes))
    summed = module.package != "cudnn" and axes == "HW" and not module.flag("divide")
    return builder.scalar(module, "Mul", result, float(np.prod(kernel))) if summed else result


@translates("SpatialAdaptiveMaxPooling", "SpatialAdaptiveAveragePooling")
def _adaptive(builder: Builder, module: Module, flow: Flow) -> Flow:
    """Window i of n over a size s reaches from floor(i s / n) to ceil((i + 1) s / n)."""
    value = builder.real(builder.tensor(module, flow, (4,)))
    wanted = [module.integer("H", 0) or module.integer("W"), module.integer("W")]
    operator = "Max" if "Max" in module.kind else "Mean"
    if wanted == [1, 1]:
        pooling = "GlobalMaxPool" if operator == "Max" else "GlobalAveragePool"
        return Value(builder.node(pooling, [value.name], module.path), (*value.sizes[:2], 1, 1))
    sizes = [builder.number(module, size) for size in value.sizes[2:]]
    if min(wanted) < 1 or max(wanted) > 4096:
        module.fault(f"its output {wanted} is none")
    if all(size % goal == 0 for size, goal in zip(sizes, wanted, strict=True)):
        kernel = [size // goal for size, goal in zip(sizes, wanted, strict=True)]
        pooling = "MaxPool" if operator == "Max" else "AveragePool"
        name = builder.node(pooling, [value.name], module.path, kernel_shape=kernel, strides=kernel)
        return Value(name, (*value.sizes[:2], *wanted))
    for axis, size, goal in ((2, sizes[0], wanted[0]), (3, sizes[1], wanted[1])):
        parts = []
        for index in range(goal):
            start, stop = index * size // goal, -(-(index + 1) * size // goal)
            part = builder.narrow(value, axis, start, stop - start)
            parts.append(builder.reduce(module, f"Reduce{operator}", part, axis, keep=True))
        value = builder.concat(module, parts, axis)
    return value


@translates("TemporalMaxPooling")
def _temporal_max(builder: Builder, module: Module, flow: Flow) -> Flow:
    value = builder.real(builder.tensor(module, flow, (3,)))
    kernel, step = module.integer("kW"), module.integer("dW", 1)
    count = window(module, value.sizes[1], kernel, step, 0, 0)
    turned = builder.transpose(value, (0, 2, 1))
    name = builder.node("MaxPool", [turned.name], module.path, kernel_shape=[kernel], strides=[step])
    return builder.transpose(Value(name, (value.sizes[0], value.sizes[2], count)), (0, 2, 1), module.path)


@translates("SpatialSubSampling", "TemporalSubSampling")
def _sub_sampling(builder: Builder, module: Module, flow: Flow) -> Flow:
    """Each plane's sum over a window, times the plane's weight, plus its bias: a convolution of each plane alone."""
    weight, bias = module.weight("weight").reshape(-1), module.weight("bias").reshape(-1)
    if module.kind == "SpatialSubSampling":
        value = builder.real(builder.tensor(module, flow, (4,)))
        kernel, steps = axes_fields(module, "k", "HW", 0), axes_fields(module, "d", "HW", 1)
    else:
        value = builder.transpose(builder.real(builder.tensor(module, flow, (3,))), (0, 2, 1))
        kernel, steps = [module.integer("kW")], [module.integer("dW", 1)]
    if min(kernel) < 1 or max(kernel) > 4096:
        module.fault(f"its kernel {kernel} is none")
    shape = (len(weight), 1, *kernel)
    full = np.broadcast_to(weight.reshape(-1, *[1] * (len(shape) - 1)), shape)
    zeros, ones = [0] * len(kernel), [1] * len(kernel)
    found = convolve(builder, module, value, np.ascontiguousarray(full), bias, steps, zeros, ones, len(weight))
    return found if module.kind == "SpatialSubSampling" else builder.transpose(found, (0, 2, 1))


@translates("SpatialUpSamplingNearest")
def _nearest(builder: Builder, module: Module, flow: Flow) -> Flow:
    value = builder.real(builder.tensor(module, flow, (4,)))
    scale = module.integer("scale_factor")
    if not 1 <= scale <= 4096:
        module.fault(f"its scale {scale} is none")
    return _resized(
        builder,
        module,
        value,
        [_scaled(size, scale) for size in value.sizes[2:]],
        [scale, scale],
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )


@translates("SpatialUpSamplingBilinear")
def _bilinear(builder: Builder, module: Module, flow: Flow) -> Flow:
    """Corners are mapped on corners; the output is (size - 1) (scale - 1) + size, or ``oheight`` x ``owidth``."""
    value = builder.real(builder.tensor(module, flow, (4,)))
    sizes = [builder.number(module, size) for size in value.sizes[2:]]
    if module.raw("oheight") is not None:
        goal = [module.integer("oheight"), module.integer("owidth")]
    else:
        scale = module.integer("scale_factor")
        goal = [(size - 1) * (scale - 1) + size for size in sizes]
    if min(goal) < 1:
        module.fault(f"its output {goal} is none")
    return _resized(builder, module, value, goal, None, mode="linear", coordinate_transformation_mode="align_corners")


def _scaled(size: Size, scale: int) -> Size:
    return size * scale if isinstance(size, int) else unknown()


def _resized(
    builder: Builder, module: Module, value: Value, goal: Sequence[Size], scales: list[int] | None, **attributes: str
) -> Value:
    if scales is not None:
        inputs = [value.name, "", builder.constant([1, 1, *scales])]
    else:
        heads = builder.node(
            "Slice", [builder.node("Shape", [value.name]), *(builder.constant([n], np.int64) for n in (0, 2, 0))]
        )
        inputs = [value.name, "", "", builder.node("Concat", [heads, builder.constant(list(goal), np.int64)], axis=0)]
    return Value(builder.node("Resize", inputs, module.path, **attributes), (*value.sizes[:2], *goal))


@translates("PixelShuffle")
def _pixel_shuffle(builder: Builder, module: Module, flow: Flow) -> Flow:
    value = builder.real(builder.tensor(module, flow, (4,)))
    factor = module.integer("upscaleFactor")
    planes = builder.number(module, value.sizes[1])
    if factor < 1 or planes % (factor * factor):
        raise Mismatch(f"layer {module.path!r} cannot shuffle {written(value.sizes)} by {factor}")
    name = builder.node("DepthToSpace", [value.name], module.path, blocksize=factor, mode="CRD")
    sizes = [_scaled(size, factor) for size in value.sizes[2:]]
    return Value(name, (value.sizes[0], planes // (factor * factor), *sizes))
