"""Layers that bring blobs in: inputs, data layers, constants."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt

import numpy as np

from portmatrix.converters.caffe import sizes
from portmatrix.converters.caffe.message import Message
from portmatrix.converters.caffe.net import LayerSpec
from portmatrix.converters.caffe.step import Step, Value

_MOST_ELEMENTS = 1 << 31
_PARAMETERS = {
    "Data": "data_param",
    "HDF5Data": "hdf5_data_param",
    "ImageData": "image_data_param",
    "MemoryData": "memory_data_param",
    "WindowData": "window_data_param",
}
#: Types that leave a blob's size as it is, looked through on the way to the layer that tells the size of a data blob.
_SAME = frozenset({"BatchNorm", "Dropout", "Power", "ReLU", "Scale", "Split"})


def open_input(step: Step, position: int, shape: Sequence[int]) -> Value:
    """Make a top of the layer an input of the network."""
    name = step.spec.tops[position]
    shape = tuple(step.graph.shapes.get(name, shape))
    if any(size < 1 for size in shape) or np.prod(shape, dtype=object) >= _MOST_ELEMENTS:
        raise step.wrong(f"the shape of {name!r} is {sizes.shown(shape)}; every size must be positive")
    return step.graph.input(name, step.graph.open_shape(shape, name, timed=step.graph.timed(step, position)))


def _input(step: Step) -> list[Value]:
    shapes = [tuple(shape.wholes("dim")) for shape in step.param("input_param").messages("shape")]
    tops = step.spec.tops
    shapes = shapes * len(tops) if len(shapes) == 1 else shapes
    known = [step.graph.shapes.get(name) for name in tops]
    if len(shapes) != len(tops):
        if not all(known):
            raise step.wrong(f"has {len(tops)} tops and {len(shapes)} shapes; expected one shape, or one for each top")
        shapes = [tuple(shape or ()) for shape in known]
    return [open_input(step, position, shape) for position, shape in enumerate(shapes)]


def _data(step: Step) -> list[Value]:
    """Translate a data layer: its first top is the network's input, the others (labels) are inputs as well."""
    step.expect(0, (0, 1 << 20))
    param = step.param(_PARAMETERS[step.spec.kind])
    batch = param.whole("batch_size") or 1
    values = []
    for position, name in enumerate(step.spec.tops):
        labels = position and step.spec.kind != "HDF5Data"
        given = name in step.graph.shapes
        shape = (batch,) if labels else () if given else _data_shape(step, param, batch, position)
        values.append(open_input(step, position, shape))
    return values


def _data_shape(step: Step, param: Message, batch: int, position: int) -> tuple[int, ...]:
    """Return the shape of the data, as far as the network tells it; the rest is in the database."""
    if step.spec.kind == "MemoryData":
        return (batch, param.whole("channels"), param.whole("height"), param.whole("width"))
    crop = step.param("transform_param").whole("crop_size") or param.whole("crop_size")
    height, width = crop or param.whole("new_height"), crop or param.whole("new_width")
    reader = _first_reader(step, position)
    if step.spec.kind == "ImageData" and height and width:
        return (batch, 3 if param.flag("is_color") else 1, height, width)
    if reader is not None and reader.blobs and reader.blobs[0] is not None:
        weight = reader.blobs[0].shape
        if reader.kind == "Convolution" and len(weight) == 4 and height and width:
            channels = weight[1] * reader.spec.message("convolution_param").whole("group")
            return (batch, channels, height, width)
        if reader.kind == "InnerProduct" and weight:
            return _flat_shape(batch, weight[-1], height, width)
    if position:
        return (batch,)
    raise step.unsupported(
        f"the shape of {step.spec.tops[position]!r} is in its database, not in the network file; give the deploy "
        "network, whose input is a layer of type Input, or the shape of this blob (`shapes`)"
    )


def _flat_shape(batch: int, inputs: int, height: int, width: int) -> tuple[int, ...]:
    if height and width and inputs % (height * width) == 0:
        return (batch, inputs // (height * width), height, width)
    side = isqrt(inputs)
    return (batch, inputs) if not height or side * side != inputs else (batch, 1, side, side)


def _first_reader(step: Step, position: int) -> LayerSpec | None:
    """Return the first layer with weights that reads a top, looking through layers that keep its shape."""
    tops = {(step.index, position)}
    for index, layer in enumerate(step.graph.layers):
        if tops.intersection(step.graph.plan.origins[index]):
            if layer.kind not in _SAME:
                return layer
            tops |= {(index, top) for top in range(len(layer.tops))}
    return None


def _dummy_data(step: Step) -> list[Value]:
    """Translate DummyData: a constant filler is a constant, a random one stands for an input."""
    param = step.param("dummy_data_param")
    tops = len(step.names)
    fillers = param.messages("data_filler") or [Message("Filler")]
    shapes = _dummy_shapes(step, param, tops)
    if len(fillers) not in {1, tops}:
        raise step.wrong(f"has {tops} tops and {len(fillers)} data_filler; expected one, or one for each top")
    values = []
    for position, shape in enumerate(shapes):
        filler = fillers[position if len(fillers) > 1 else 0]
        if filler.text("type") == "constant":
            values.append(_filled(step, position, shape, filler.real("value")))
        else:
            values.append(open_input(step, position, shape))
    return values


def _dummy_shapes(step: Step, param: Message, tops: int) -> list[tuple[int, ...]]:
    old = [param.wholes(name) for name in ("num", "channels", "height", "width")]
    if any(old):
        shapes = [tuple(numbers) for numbers in zip(*(n * tops if len(n) == 1 else n for n in old), strict=False)]
    else:
        shapes = [tuple(shape.wholes("dim")) for shape in param.messages("shape")]
    shapes = shapes * tops if len(shapes) == 1 and not any(old) else shapes
    if len(shapes) < tops or (not any(old) and len(shapes) != tops):
        raise step.wrong(f"has {tops} tops and {len(shapes)} shapes; expected one shape, or one for each top")
    return shapes[:tops]


def _filled(step: Step, position: int, declared: tuple[int, ...], fill: float) -> Value:
    """Return a constant; its batch axis is the batch if it declares the batch of the inputs before it."""
    if any(size < 1 for size in declared) or np.prod(declared, dtype=object) > (1 << 24):
        raise step.wrong(f"the shape of {step.spec.tops[position]!r} is {sizes.shown(declared)}")
    axis = 1 if step.graph.timed(step, position) else 0
    batch = step.graph.declared_batch()
    shape = sizes.numbers(declared)
    if len(declared) > axis and batch is not None and declared[axis] == batch:
        shape = step.graph.open_shape(declared, step.spec.tops[position], timed=axis == 1)
    constant = np.full([size.declared if size.fixed else 1 for size in shape], fill, np.float32)
    name = step.constant(constant, name="value")
    if not all(size.fixed for size in shape):
        name = step.node("Expand", [name, step.graph.dimensions(step, shape)], position)
    return Value(name, shape, constant)


def _parameter(step: Step) -> list[Value]:
    step.expect(0)
    shape = step.param("parameter_param").message("shape").wholes("dim")
    return [Value(step.weight("parameter", step.blobs(shape)[0]), sizes.numbers(shape))]


TRANSLATIONS = {
    "Input": _input,
    **dict.fromkeys(_PARAMETERS, _data),
    "DummyData": _dummy_data,
    "Parameter": _parameter,
}
