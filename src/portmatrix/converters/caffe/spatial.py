"""Layers that slide a window over an image: convolution, pooling, and what is made of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from portmatrix.converters.caffe import sizes
from portmatrix.converters.caffe.message import Message
from portmatrix.converters.caffe.sizes import Shape, number
from portmatrix.converters.caffe.step import Step, Value

_MAX, _AVERAGE, _STOCHASTIC = 0, 1, 2
_WITHIN_CHANNEL = 1
_LOWEST = float(np.finfo(np.float32).min)


class Window(NamedTuple):
    """The window of a convolution, one number for each spatial axis."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pad: tuple[int, ...]
    dilation: tuple[int, ...]

    @property
    def extent(self) -> tuple[int, ...]:
        """How far the kernel reaches, holes included."""
        return tuple(d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel, strict=True))


def _per_axis(step: Step, param: Message, name: str, axes: int, default: int | None) -> tuple[int, ...]:
    """Return a setting of the window: given once, once for each axis, or as ``_h`` and ``_w`` for two axes."""
    numbers = param.wholes(name)
    stem = "kernel" if name == "kernel_size" else name
    if name != "dilation" and (param.has(f"{stem}_h") or param.has(f"{stem}_w")):
        if axes != 2 or numbers:
            raise step.wrong(f"{stem}_h and {stem}_w are for two spatial axes, and in place of {name}")
        numbers = [param.whole(f"{stem}_h"), param.whole(f"{stem}_w")]
    if not numbers and default is not None:
        numbers = [default]
    if len(numbers) not in {1, axes}:
        raise step.wrong(f"expected {name} once, or for each of {axes} spatial axes; found it {len(numbers)} times")
    numbers = numbers * axes if len(numbers) == 1 else numbers
    if name != "pad" and not all(numbers):
        raise step.wrong(f"{name} must be positive")
    return tuple(numbers)


def _window(step: Step, param: Message, axes: int) -> Window:
    return Window(
        _per_axis(step, param, "kernel_size", axes, None if axes else 1),
        _per_axis(step, param, "stride", axes, 1),
        _per_axis(step, param, "pad", axes, 0),
        _per_axis(step, param, "dilation", axes, 1),
    )


def _attributes(window: Window, spatial: Shape | None = None) -> dict[str, Sequence[int]]:
    """Return a window as ONNX has it; over ``spatial``, padded behind so far that the kernel fits in once."""
    image = sizes.declared(spatial or ())
    missing = [e - size - 2 * p for size, e, p in zip(image, window.extent, window.pad, strict=False)]
    behind = [p + max(0, m) for p, m in zip(window.pad, missing, strict=True)] if missing else window.pad
    return {
        "kernel_shape": window.kernel,
        "strides": window.stride,
        "pads": (*window.pad, *behind),
        "dilations": window.dilation,
    }


def _slid(step: Step, spatial: Shape, window: Window) -> Shape:
    """Return the spatial sizes of a convolution's top.

    Caffe divides toward zero, so a kernel that reaches beyond the image by less than a stride is applied once.
    """
    out = []
    for size, stride, pad, extent in zip(spatial, window.stride, window.pad, window.extent, strict=True):
        length = step.fixed(size, "the size of the image") + 2 * pad - extent
        if length <= -stride:
            raise step.wrong(f"a kernel that reaches over {extent} does not fit into {size.declared} with pad {pad}")
        out.append(number(max(0, length) // stride + 1))
    return tuple(out)


def _unslid(step: Step, spatial: Shape, window: Window) -> Shape:
    """Return the spatial sizes of a deconvolution's top."""
    return tuple(
        number(stride * (step.fixed(size, "the size of the image") - 1) + extent - 2 * pad)
        for size, stride, pad, extent in zip(spatial, window.stride, window.pad, window.extent, strict=True)
    )


def _convolution(step: Step) -> list[Value]:
    return _convolve(step, transposed=False)


def _deconvolution(step: Step) -> list[Value]:
    return _convolve(step, transposed=True)


def _depthwise(step: Step) -> list[Value]:
    return _convolve(step, transposed=False, depthwise=True)


def _convolve(step: Step, *, transposed: bool, depthwise: bool = False) -> list[Value]:
    """Translate a convolution, of every pair of bottom and top, over the axes behind the channels' axis."""
    if not step.bottoms or len(step.bottoms) != len(step.names):
        raise step.wrong(
            f"has {len(step.bottoms)} bottoms and {len(step.names)} tops; expected one top for each bottom"
        )
    param = step.param("convolution_param")
    first = step.bottoms[0]
    axis = step.axis(param.whole("axis"), first.rank)
    window = _window(step, param, first.rank - axis - 1)
    channels, made = step.fixed(first.shape[axis], "the number of channels"), param.whole("num_output")
    group = channels if depthwise else param.whole("group")
    if not made or not group or channels % group or made % group:
        raise step.wrong(f"{channels} channels and num_output {made} cannot be divided into {group} groups")
    shape = (channels, made // group) if transposed else (made, channels // group)
    biased = param.flag("bias_term")
    found = step.blobs(shape + window.kernel, *([(made,)] if biased else []))
    one = (1,) if first.rank - axis == 1 else ()
    weights = [step.weight("weight", found[0].reshape(*found[0].shape, *one))]
    weights += [step.weight("bias", found[1])] if biased else []
    if one:
        window = Window(one, one, (0,), one)
    values = []
    for top, bottom in enumerate(step.bottoms):
        if sizes.declared(bottom.shape) != sizes.declared(first.shape):
            raise step.wrong("its bottoms have different shapes")
        spatial = bottom.shape[axis + 1 :] or (number(1),)
        out = (_unslid if transposed else _slid)(step, spatial, window)
        flat = step.reshape(bottom, (sizes.count(bottom.shape[:axis]), bottom.shape[axis], *spatial))
        same = axis == 1 and not one
        name = step.node(
            "ConvTranspose" if transposed else "Conv",
            [flat.name, *weights],
            top if same else None,
            group=group,
            **_attributes(window, None if transposed else spatial),
        )
        value = Value(name, (flat.shape[0], number(made), *out))
        values.append(step.reshape(value, (*bottom.shape[:axis], number(made), *(() if one else out)), top))
    return values


def _im2col(step: Step) -> list[Value]:
    """Translate Im2col into a convolution with one output for each place of the kernel, which copies that place."""
    step.expect(1)
    (bottom,) = step.bottoms
    param = step.param("convolution_param")
    if step.axis(param.whole("axis"), bottom.rank) != 1 or bottom.rank < 3:
        raise step.unsupported("its channels would have to be axis 1, with spatial axes behind them")
    window = _window(step, param, bottom.rank - 2)
    channels = step.fixed(bottom.shape[1], "the number of channels")
    places = math.prod(window.kernel)
    if channels * places * places > 1 << 24:
        raise step.unsupported(f"a kernel of {places} places on {channels} channels is too large")
    one_hot = np.tile(np.eye(places, dtype=np.float32), (channels, 1)).reshape(-1, 1, *window.kernel)
    name = step.node(
        "Conv",
        [bottom.name, step.weight("places", one_hot)],
        0,
        group=channels,
        **_attributes(window, bottom.shape[2:]),
    )
    shape = (bottom.shape[0], number(channels * places), *_slid(step, bottom.shape[2:], window))
    return [step.result(name, shape)]


class Pool(NamedTuple):
    """The window of a pooling layer, each a pair for height and width."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    pad: tuple[int, int]
    rounds_up: bool = True

    def out(self, size: int, axis: int) -> int:
        """Return how many windows there are (``PoolingLayer::Reshape``)."""
        kernel, stride, pad = self.kernel[axis], self.stride[axis], self.pad[axis]
        length = size + 2 * pad - kernel
        windows = (-(-length // stride) if self.rounds_up else length // stride) + 1
        if any(self.pad) and (windows - 1) * stride >= size + pad:
            windows -= 1
        return windows

    def beyond(self, size: int, axis: int) -> int:
        """Return by how much the last window reaches beyond the image, at least 0."""
        end = (self.out(size, axis) - 1) * self.stride[axis] + self.kernel[axis] - self.pad[axis]
        return max(0, end - size)


def _pair(step: Step, param: Message, name: str, stem: str, *, needed: bool) -> tuple[int, int]:
    both = [param.has(f"{stem}_h"), param.has(f"{stem}_w")]
    if any(both):
        if not all(both) or param.has(name):
            raise step.wrong(f"expected {name}, or both {stem}_h and {stem}_w")
        return param.whole(f"{stem}_h"), param.whole(f"{stem}_w")
    if needed and not param.has(name):
        raise step.wrong(f"expected {name}, or both {stem}_h and {stem}_w")
    return param.whole(name), param.whole(name)


def _image(step: Step, bottom: Value) -> tuple[int, int]:
    if bottom.rank != 4:
        raise step.wrong(f"needs a blob of 4 axes (number, channels, height, width), not {bottom.rank}")
    return step.fixed(bottom.shape[2], "the height of the image"), step.fixed(bottom.shape[3], "the width of the image")


def _pooling(step: Step) -> list[Value]:
    step.expect(1, (1, 2))
    (bottom,) = step.bottoms
    param = step.param("pooling_param")
    method = param.whole("pool")
    image = _image(step, bottom)
    everywhere = param.flag("global_pooling")
    if everywhere and any(param.has(name) for name in ("kernel_size", "kernel_h", "kernel_w")):
        raise step.wrong("has both global_pooling and a kernel size")
    kernel = image if everywhere else _pair(step, param, "kernel_size", "kernel", needed=True)
    stride = _pair(step, param, "stride", "stride", needed=False)
    pad = _pair(step, param, "pad", "pad", needed=False)
    if not all(kernel) or not all(stride) or any(p >= k for p, k in zip(pad, kernel, strict=True)):
        raise step.wrong(f"kernel {kernel} and stride {stride} must be positive, and pad {pad} smaller than the kernel")
    if everywhere and (any(pad) or stride != (1, 1)):
        raise step.wrong("global_pooling goes with pad 0 and stride 1")
    pool = Pool(kernel, stride, pad, rounds_up=not param.whole("round_mode"))
    if method == _MAX:
        return max_pooled(step, bottom, pool, with_mask=len(step.names) == 2)
    if len(step.names) == 2:
        raise step.wrong("has two tops; only the maximum has a mask")
    if method == _STOCHASTIC:
        return [_stochastic(step, bottom, pool)]
    return [averaged(step, bottom, pool, 0)]


def _pooled_shape(step: Step, bottom: Value, pool: Pool) -> Shape:
    image = _image(step, bottom)
    out = tuple(pool.out(size, axis) for axis, size in enumerate(image))
    if any(size < 1 for size in out):
        raise step.wrong(f"a kernel of {pool.kernel} does not fit into an image of {image} with pad {pool.pad}")
    return (*bottom.shape[:2], *(number(size) for size in out))


def _ends(step: Step, bottom: Value, pool: Pool) -> tuple[int, int]:
    """Return the padding behind the image that gives Caffe's number of windows without rounding up."""
    height, width = _image(step, bottom)
    return pool.beyond(height, 0), pool.beyond(width, 1)


def _starts_outside(step: Step, bottom: Value, pool: Pool) -> bool:
    """Return whether a last window lies wholly beyond the image, which a stride larger than the kernel can do."""
    return any(beyond >= kernel for beyond, kernel in zip(_ends(step, bottom, pool), pool.kernel, strict=True))


def _padded(step: Step, name: str, begin: Sequence[int], end: Sequence[int], value: float) -> str:
    pads = step.integers(0, 0, *begin, 0, 0, *end)
    return step.node("Pad", [name, pads, step.constant(value)], mode="constant")


def _covers(step: Step, bottom: Value, pool: Pool) -> bool:
    return pool.kernel == _image(step, bottom) and pool.pad == (0, 0)


def max_pooled(step: Step, bottom: Value, pool: Pool, *, with_mask: bool, top: int | None = 0) -> list[Value]:
    """Translate a pooling by maximum; the mask is the place of the maximum in its plane, as a float."""
    shape = _pooled_shape(step, bottom, pool)
    if _covers(step, bottom, pool) and not with_mask:
        return [step.result(step.node("GlobalMaxPool", [bottom.name], top), shape)]
    end = _ends(step, bottom, pool)
    name, pads = bottom.name, (*pool.pad, *end)
    if _starts_outside(step, bottom, pool):
        if with_mask:
            raise step.unsupported("the last window lies beyond the image; the mask of an empty window has no place")
        name, pads = _padded(step, name, pool.pad, end, _LOWEST), (0, 0, 0, 0)
    if not with_mask:
        made = step.node("MaxPool", [name], top, kernel_shape=pool.kernel, strides=pool.stride, pads=pads)
        return [step.result(made, shape)]
    stem = step.name("MaxPool", top)
    made, indices = step.network.nodes_of(
        "MaxPool", [name], 2, stem, kernel_shape=pool.kernel, strides=pool.stride, pads=pads
    )
    height, width = _image(step, bottom)
    place = step.node("Mod", [indices, step.integers(height * width)])
    return [step.result(made, shape), step.result(step.node("Cast", [place], 1, to=1), shape)]


def averaged(step: Step, bottom: Value, pool: Pool, top: int | None) -> Value:
    """Translate a pooling by average.

    Caffe divides by the size of the window within the padded image: zeros of the padding count, and what a last window
    has beyond the padding does not. So padding is a node of its own; not every runtime heeds ``count_include_pad``.
    """
    shape = _pooled_shape(step, bottom, pool)
    if _covers(step, bottom, pool):
        return step.result(step.node("GlobalAveragePool", [bottom.name], top), shape)
    end = _ends(step, bottom, pool)
    if _starts_outside(step, bottom, pool):
        raise step.unsupported(
            "its last window lies wholly beyond the image, where Caffe divides by nothing; a stride up to the kernel's "
            f"size {pool.kernel} would avoid it"
        )
    name = bottom.name
    if any(pool.pad):
        name = _padded(step, name, pool.pad, pool.pad, 0.0)
        end = (max(0, end[0] - pool.pad[0]), max(0, end[1] - pool.pad[1]))
    name = step.node("AveragePool", [name], top, kernel_shape=pool.kernel, strides=pool.stride, pads=(0, 0, *end))
    return step.result(name, shape)


def _stochastic(step: Step, bottom: Value, pool: Pool) -> Value:
    """Translate stochastic pooling as at test time: the mean weighted by the values themselves."""
    if any(pool.pad):
        raise step.wrong("stochastic pooling has no padding")
    square = Value(step.node("Mul", [bottom.name, bottom.name]), bottom.shape)
    above, below = (averaged(step, value, pool, None) for value in (square, bottom))
    floor = step.constant(float(np.finfo(np.float32).tiny))
    name = step.node("Div", [above.name, step.node("Add", [below.name, floor])], 0)
    return step.result(name, above.shape)


def _spp(step: Step) -> list[Value]:
    """Translate spatial pyramid pooling (``SPPLayer::GetPoolingParam``)."""
    step.expect(1)
    (bottom,) = step.bottoms
    param = step.param("spp_param")
    height = param.whole("pyramid_height")
    image = _image(step, bottom)
    if not 1 <= height <= 16:
        raise step.wrong(f"pyramid_height is {height}; expected 1 to 16")
    levels = []
    for level in range(height):
        bins = 2**level
        kernel = tuple(-(-size // bins) for size in image)
        pad = tuple((k * bins - size + 1) // 2 for k, size in zip(kernel, image, strict=True))
        pool = Pool((kernel[0], kernel[1]), (kernel[0], kernel[1]), (pad[0], pad[1]))
        if any(p >= k for p, k in zip(pad, kernel, strict=True)):
            raise step.wrong(f"an image of {image} is too small for a pyramid of {height} levels")
        levels.append(_spp_level(step, bottom, pool, param.whole("pool"), 0 if height == 1 else None))
    if height == 1:
        return levels
    flat = [step.reshape(level, (level.shape[0], sizes.count(level.shape[1:]))) for level in levels]
    shape = (bottom.shape[0], sizes.total((value.shape[1] for value in flat), ""))
    return [step.result(step.node("Concat", [value.name for value in flat], 0, axis=1), shape)]


def _spp_level(step: Step, bottom: Value, pool: Pool, method: int, top: int | None) -> Value:
    if method == _MAX:
        return max_pooled(step, bottom, pool, with_mask=False, top=top)[0]
    if method == _AVERAGE:
        return averaged(step, bottom, pool, top)
    raise step.unsupported("stochastic pooling has no padding; MAX or AVE would be needed")


def _lrn(step: Step) -> list[Value]:
    step.expect(1)
    (bottom,) = step.bottoms
    _image(step, bottom)
    param = step.param("lrn_param")
    size, alpha, beta = param.whole("local_size"), param.real("alpha"), param.real("beta")
    if size % 2 == 0:
        raise step.wrong(f"local_size must be odd; it is {size}")
    if param.whole("norm_region") != _WITHIN_CHANNEL:
        return [_across(step, bottom, size, alpha, beta, param.real("k"))]
    square = Value(step.node("Mul", [bottom.name, bottom.name]), bottom.shape)
    pad = (size - 1) // 2
    mean = averaged(step, square, Pool((size, size), (1, 1), (pad, pad)), None)
    scale = step.node("Add", [step.node("Mul", [mean.name, step.constant(alpha)]), step.constant(1.0)])
    power = step.node("Pow", [scale, step.constant(-beta)])
    return [step.result(step.node("Mul", [bottom.name, power], 0), bottom.shape)]


def _across(step: Step, bottom: Value, size: int, alpha: float, beta: float, k: float) -> Value:
    """Translate a normalization across channels, ``x / (k + alpha / size * sum) ^ beta``.

    A k that is no whole number is taken out of the parentheses: OpenVINO's LRN cuts it off.
    """
    if k == int(k) or k < 0:
        name = step.node("LRN", [bottom.name], 0, size=size, alpha=alpha, beta=beta, bias=k)
        return step.result(name, bottom.shape)
    name = step.node("LRN", [bottom.name], size=size, alpha=alpha / k, beta=beta, bias=1.0)
    return step.result(step.node("Mul", [name, step.constant(k**-beta)], 0), bottom.shape)


TRANSLATIONS = {
    "Convolution": _convolution,
    "ConvolutionDepthwise": _depthwise,
    "Deconvolution": _deconvolution,
    "DepthwiseConvolution": _depthwise,
    "Im2col": _im2col,
    "LRN": _lrn,
    "Pooling": _pooling,
    "SPP": _spp,
}
