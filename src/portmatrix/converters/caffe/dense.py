"""Layers that multiply by a matrix or look up its rows."""

from __future__ import annotations

from portmatrix.converters.caffe import sizes
from portmatrix.converters.caffe.sizes import number
from portmatrix.converters.caffe.step import Step, Value


def flattened(step: Step, bottom: Value, axis: int, top: int | None = None) -> Value:
    """Return the blob as a matrix: axes before ``axis`` become rows, the others columns."""
    shape = (sizes.count(bottom.shape[:axis]), sizes.count(bottom.shape[axis:]))
    if axis == 1 and bottom.rank > 2:
        return Value(step.node("Flatten", [bottom.name], top, axis=1), shape)
    return step.reshape(bottom, shape, top)


def _inner_product(step: Step) -> list[Value]:
    step.expect(1)
    (bottom,) = step.bottoms
    param = step.param("inner_product_param")
    axis = step.axis(param.whole("axis"), bottom.rank)
    outputs = param.whole("num_output")
    inputs = step.fixed(sizes.count(bottom.shape[axis:]), "the number of inputs of each inner product")
    transposed, biased = param.flag("transpose"), param.flag("bias_term")
    shape = (inputs, outputs) if transposed else (outputs, inputs)
    found = step.blobs(shape, *([(outputs,)] if biased else []))
    weights = [step.weight(name, blob) for name, blob in zip(("weight", "bias"), found, strict=False)]
    rows = flattened(step, bottom, axis)
    top = 0 if axis == 1 else None
    name = step.node("Gemm", [rows.name, *weights], top, transB=None if transposed else 1)
    product = Value(name, (rows.shape[0], number(outputs)))
    return [step.reshape(product, (*bottom.shape[:axis], number(outputs)), 0)]


def _embed(step: Step) -> list[Value]:
    step.expect(1)
    (bottom,) = step.bottoms
    param = step.param("embed_param")
    outputs, biased = param.whole("num_output"), param.flag("bias_term")
    found = step.blobs((param.whole("input_dim"), outputs), *([(outputs,)] if biased else []))
    indices = step.node("Cast", [bottom.name], to=7)
    name = step.node("Gather", [step.weight("weight", found[0]), indices], None if biased else 0, axis=0)
    if biased:
        name = step.node("Add", [name, step.weight("bias", found[1])], 0)
    return [step.result(name, (*bottom.shape, number(outputs)))]


TRANSLATIONS = {"Embed": _embed, "InnerProduct": _inner_product}
