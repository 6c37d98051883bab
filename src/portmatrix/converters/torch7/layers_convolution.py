"""Convolutions over one, two and three dimensions, those with connection tables and unshared weights included."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from portmatrix.converters.torch7.builder import Builder, Flow, Value, translates
from portmatrix.converters.torch7.layers_containers import pad
from portmatrix.converters.torch7.modules import Module
from portmatrix.converters.torch7.objects import Array
from portmatrix.converters.torch7.sizes import Mismatch, Size, is_unknown, unknown, written


def window(module: Module, size: Size, kernel: int, step: int, before: int, after: int, dilation: int = 1) -> Size:
    """Return how many steps a window makes over a padded size. Raises ``Mismatch`` if it does not fit once."""
    if kernel < 1 or step < 1 or dilation < 1:
        module.fault(f"its kernel {kernel}, step {step} or dilation {dilation} is none")
    if not isinstance(size, int):
        return size if step == 1 and before + after == dilation * (kernel - 1) and is_unknown(size) else unknown()
    room = size + before + after - dilation * (kernel - 1) - 1
    if room < 0:
        raise Mismatch(f"layer {module.path!r} has a window of {kernel}, which does not fit into {size}")
    return room // step + 1


def axes_fields(module: Module, stem: str, axes: str, default: int) -> list[int]:
    """Return a field for each axis, as ``kT kH kW`` or ``padH padW``; old files have one ``padding`` for all."""
    if stem == "pad" and module.raw("padding") is not None and module.raw(f"pad{axes[0]}") is None:
        return [module.integer("padding")] * len(axes)
    return [module.integer(f"{stem}{axis}", default) for axis in axes]


def convolve(
    builder: Builder,
    module: Module,
    value: Value,
    weight: Array,
    bias: Array | None,
    steps: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    groups: int = 1,
) -> Value:
    """Return the convolution of a batch of planes; ``weight`` is outputs x inputs in a group x kernel."""
    kernel = weight.shape[2:]
    builder.expect(module, value, 1, weight.shape[1] * groups)
    sizes = [
        window(module, size, kernel[at], steps[at], pads[at], pads[at], dilations[at])
        for at, size in enumerate(value.sizes[2:])
    ]
    if any(number < 0 for number in pads):
        around = [0, 0, *pads]
        value, pads = pad(builder, module, value, around, around), [0] * len(kernel)
    inputs = [value.name, builder.weight(module, weight, "weight")]
    if bias is not None:
        inputs.append(builder.weight(module, bias.reshape(-1), "bias"))
    name = builder.node(
        "Conv",
        inputs,
        module.path,
        kernel_shape=list(kernel),
        strides=list(steps),
        pads=[*pads, *pads],
        dilations=list(dilations),
        group=groups,
    )
    return Value(name, (value.sizes[0], weight.shape[0], *sizes))


def _grid(builder: Builder, module: Module, flow: Flow, axes: str) -> Flow:
    value = builder.real(builder.tensor(module, flow, (len(axes) + 2,)))
    groups = module.integer("groups", 1)
    outputs, inputs = module.integer("nOutputPlane"), module.integer("nInputPlane")
    kernel = axes_fields(module, "k", axes, 0)
    weight = module.weight("weight")
    if groups < 1 or weight.size != outputs * (inputs // groups) * int(np.prod(kernel, dtype=object)):
        module.fault(f"its weight {list(weight.shape)} does not suit {inputs} inputs, {outputs} outputs and {kernel}")
    return convolve(
        builder,
        module,
        value,
        weight.reshape(outputs, inputs // groups, *kernel),
        module.weight_or_none("bias"),
        axes_fields(module, "d", axes, 1),
        axes_fields(module, "pad", axes, 0),
        axes_fields(module, "dilation", axes, 1),
        groups,
    )


@translates("SpatialConvolution", "SpatialConvolutionMM", "SpatialDilatedConvolution")
def _spatial(builder: Builder, module: Module, flow: Flow) -> Flow:
    return _grid(builder, module, flow, "HW")


@translates("VolumetricConvolution", "VolumetricConvolutionMM", "VolumetricDilatedConvolution")
def _volumetric(builder: Builder, module: Module, flow: Flow) -> Flow:
    return _grid(builder, module, flow, "THW")


@translates("SpatialDepthWiseConvolution")
def _depth_wise(builder: Builder, module: Module, flow: Flow) -> Flow:
    """The weight is multiplier x inputs x kernel; the outputs of one input plane are neighbours."""
    value = builder.real(builder.tensor(module, flow, (4,)))
    kernel = axes_fields(module, "k", "HW", 0)
    many, inputs = module.integer("nOutputPlane"), module.integer("nInputPlane")
    weight, bias = module.weight("weight"), module.weight_or_none("bias")
    if weight.size != many * inputs * kernel[0] * kernel[1]:
        module.fault(f"its weight {list(weight.shape)} does not suit {inputs} planes and {kernel}")
    swapped = weight.reshape(many, inputs, *kernel).swapaxes(0, 1).reshape(many * inputs, 1, *kernel)
    bias = None if bias is None else bias.reshape(many, inputs).T.reshape(-1)
    steps, pads = axes_fields(module, "d", "HW", 1), axes_fields(module, "pad", "HW", 0)
    return convolve(builder, module, value, swapped, bias, steps, pads, (1, 1), inputs)


@translates("SpatialConvolutionMap")
def _connection_map(builder: Builder, module: Module, flow: Flow) -> Flow:
    """One kernel for each pair (from, to) of the connection table; without a connection there is a zero kernel."""
    value = builder.real(builder.tensor(module, flow, (4,)))
    pairs = module.weight("connTable").reshape(-1, 2).astype(np.int64) - 1
    kernels = module.weight("weight")
    outputs, inputs = module.integer("nOutputPlane"), module.integer("nInputPlane")
    if kernels.ndim != 3 or len(kernels) != len(pairs) or outputs * inputs > 1 << 24:
        module.fault("its weight does not have one kernel for each connection")
    if pairs.min(initial=0) < 0 or (pairs.max(0, initial=0) >= (inputs, outputs)).any():
        module.fault("its connection table names planes that it does not have")
    weight = np.zeros((outputs, inputs, *kernels.shape[1:]), np.float32)
    np.add.at(weight, (pairs[:, 1], pairs[:, 0]), kernels)
    steps = axes_fields(module, "d", "HW", 1)
    return convolve(builder, module, value, weight, module.weight_or_none("bias"), steps, (0, 0), (1, 1))


@translates("SpatialConvolutionLocal")
def _unshared(builder: Builder, module: Module, flow: Flow) -> Flow:
    """Each place has a weight of its own: a convolution with ones cuts out patches, which are multiplied one by one."""
    value = builder.real(builder.tensor(module, flow, (4,)))
    inputs, outputs = module.integer("nInputPlane"), module.integer("nOutputPlane")
    for axis, size in ((1, inputs), (2, module.integer("iH")), (3, module.integer("iW"))):
        builder.expect(module, value, axis, size)
    kernel = axes_fields(module, "k", "HW", 0)
    patch = inputs * kernel[0] * kernel[1]
    if patch * patch > 1 << 26:
        module.unsupported("its windows are too large for a layer with unshared weights")
    cut = np.eye(patch, dtype=np.float32).reshape(patch, inputs, *kernel)
    steps, pads = axes_fields(module, "d", "HW", 1), axes_fields(module, "pad", "HW", 0)
    patches = convolve(builder, module, value, cut, None, steps, pads, (1, 1))
    height, width = (builder.number(module, size) for size in patches.sizes[2:])
    weight, bias = module.weight("weight"), module.weight("bias")
    if weight.size != height * width * outputs * patch or bias.size != outputs * height * width:
        module.fault(f"its weight {list(weight.shape)} does not suit its sizes")
    rows = builder.reshape(patches, (patches.sizes[0], patch, height * width))
    rows = builder.transpose(rows, (2, 0, 1))
    matrix = weight.reshape(height * width, outputs, patch).swapaxes(1, 2)
    name = builder.node("MatMul", [rows.name, builder.weight(module, matrix, "weight")])
    result = builder.transpose(Value(name, (height * width, value.sizes[0], outputs)), (1, 2, 0))
    result = builder.reshape(result, (value.sizes[0], outputs, height, width))
    return builder.same(module, "Add", result, builder.weight(module, bias.reshape(outputs, height, width), "bias"))


@translates("SpatialFullConvolution", "VolumetricFullConvolution")
def _full(builder: Builder, module: Module, flow: Flow) -> Flow:
    """A transposed convolution; of a table, the second tensor's size is that of the output."""
    axes = "HW" if module.kind.startswith("Spatial") else "THW"
    adjust = axes_fields(module, "adj", axes, 0)
    steps, pads = axes_fields(module, "d", axes, 1), axes_fields(module, "pad", axes, 0)
    kernel = axes_fields(module, "k", axes, 0)
    if isinstance(flow, list):
        target = builder.tensors(module, flow)[-1]
        goal = [builder.number(module, size) for size in target.sizes[-len(axes) :]]
        adjust = [(goal[i] + 2 * pads[i] - kernel[i]) % steps[i] for i in range(len(axes))]
        flow = flow[0]
    value = builder.real(builder.tensor(module, flow, (len(axes) + 2,)))
    outputs, inputs = module.integer("nOutputPlane"), module.integer("nInputPlane")
    weight, bias = module.weight("weight"), module.weight_or_none("bias")
    builder.expect(module, value, 1, inputs)
    if weight.size != outputs * inputs * int(np.prod(kernel, dtype=object)) or min(kernel) < 1 or min(steps) < 1:
        module.fault(f"its weight {list(weight.shape)} does not suit {inputs} inputs, {outputs} outputs and {kernel}")
    operands = [value.name, builder.weight(module, weight.reshape(inputs, outputs, *kernel), "weight")]
    if bias is not None:
        operands.append(builder.weight(module, bias, "bias"))
    name = builder.node(
        "ConvTranspose",
        operands,
        module.path,
        kernel_shape=kernel,
        strides=steps,
        pads=[*pads, *pads],
        output_padding=adjust,
    )
    sizes = [
        (size - 1) * steps[i] - 2 * pads[i] + kernel[i] + adjust[i] if isinstance(size, int) else unknown()
        for i, size in enumerate(value.sizes[2:])
    ]
    if any(isinstance(size, int) and size < 1 for size in sizes):
        raise Mismatch(f"layer {module.path!r} leaves nothing of {written(value.sizes)}")
    return Value(name, (value.sizes[0], outputs, *sizes))


@translates("TemporalConvolution")
def _temporal(builder: Builder, module: Module, flow: Flow) -> Flow:
    """Input and output are batch x time x features; a row of the weight is a window of frames one after the other."""
    value = builder.real(builder.tensor(module, flow, (3,)))
    inputs, outputs = module.integer("inputFrameSize"), module.integer("outputFrameSize")
    kernel = module.integer("kW")
    weight = module.weight("weight")
    if weight.size != outputs * inputs * kernel:
        module.fault(f"its weight {list(weight.shape)} does not suit {inputs} inputs, {outputs} outputs and {kernel}")
    planes = weight.reshape(outputs, kernel, inputs).swapaxes(1, 2)
    builder.expect(module, value, 2, inputs)
    turned = builder.transpose(value, (0, 2, 1))
    bias = module.weight_or_none("bias")
    found = convolve(builder, module, turned, planes, bias, [module.integer("dW", 1)], [0], [1])
    return builder.transpose(found, (0, 2, 1), module.path)
