"""Products of vectors and matrices."""

from __future__ import annotations

from portmatrix.converters.theano.graph import Apply
from portmatrix.converters.theano.translator import Handler, Translator, Value, onnx_dtype


def product_of(t: Translator, left: Value, right: Value, label: str = "") -> Value:
    """Return the product of vectors or matrices; inner sizes become known from each other."""
    if not left.rank or not right.rank:
        return t.op("Mul", left, right, shape=t.broadcast([left.shape, right.shape]), label=label)
    t.sizes.unify(left.shape[-1], right.shape[0])
    shape = [*left.shape[:-1], *right.shape[1:]]
    return t.op("MatMul", left, right, shape=shape, label=label)


def _operands(t: Translator, apply: Apply) -> list[Value]:
    dtype = onnx_dtype(apply.outputs[0].dtype)
    return [t.cast(t.value(variable), dtype) for variable in apply.inputs]


def dot(t: Translator, apply: Apply) -> Value:
    """Translate ``Dot`` and ``Dot22``."""
    left, right = _operands(t, apply)
    return product_of(t, left, right, apply.outputs[0].name or "Dot")


def dot_scalar(t: Translator, apply: Apply) -> Value:
    """Translate ``Dot22Scalar``: a product times a number."""
    left, right, factor = _operands(t, apply)
    made = product_of(t, left, right)
    return t.op("Mul", made, factor, shape=made.shape)


def _scaled(t: Translator, value: Value, factor: Value) -> Value:
    return value if t.number_of(factor) == 1 else t.op("Mul", value, factor, shape=value.shape)


def gemm(t: Translator, apply: Apply) -> Value:
    """Translate ``Gemm(z, a, x, y, b)`` and ``Gemv(z, a, x, y, b)``: b·z + a·(x·y)."""
    start, factor, left, right, share = _operands(t, apply)
    made = _scaled(t, product_of(t, left, right), factor)
    if t.number_of(share) == 0:
        return made
    return t.op("Add", _scaled(t, start, share), made, shape=t.broadcast([start.shape, made.shape]))


def outer(t: Translator, apply: Apply) -> Value:
    """Translate ``Ger(z, a, x, y)``: z + a·(x yᵀ)."""
    start, factor, left, right = _operands(t, apply)
    made = t.op("Mul", t.unsqueezed(left, 1), t.unsqueezed(right, 0), shape=[left.shape[0], right.shape[0]])
    return t.op("Add", start, _scaled(t, made, factor), shape=start.shape)


def batched_dot(t: Translator, apply: Apply) -> Value:
    """Translate ``BatchedDot``: one product for each element of the first axis."""
    left, right = _operands(t, apply)
    batch = t.sizes.unify(left.shape[0], right.shape[0])
    vectors = left.rank == 2, right.rank == 2
    left = t.unsqueezed(left, 1) if vectors[0] else left
    right = t.unsqueezed(right, 2) if vectors[1] else right
    t.sizes.unify(left.shape[2], right.shape[1])
    made = t.op("MatMul", left, right, shape=[batch, left.shape[1], right.shape[2]])
    return t.squeezed(made, *[axis for axis, flag in ((1, vectors[0]), (2, vectors[1])) if flag])


def with_bias(t: Translator, value: Value, bias: Value) -> Value | None:
    """Return a convolution or a product of matrices with a constant added inside of it, or None if that is not it.

    The node is the only use of what it computes, so that it can take the bias itself.
    """
    node = value.node
    if node is None or bias.array is None or bias.dtype != value.dtype or bias.dtype.kind != "f":
        return None
    sizes = bias.array.shape
    if node.op_type == "Conv" and len(node.input) == 2 and len(sizes) == value.rank and value.shape[1].number:
        channels = value.shape[1].number
        if sizes[1] == channels and bias.array.size == channels:
            node.input.append(t.constant(bias.array.reshape(channels), "bias").name)
            return value
    if node.op_type == "MatMul" and value.rank == 2 and _is_matrix_product(value, bias):
        node.op_type = "Gemm"
        node.input.append(t.constant(bias.array.reshape(-1), "bias").name)
        return value
    return None


def _is_matrix_product(value: Value, bias: Value) -> bool:
    columns = value.shape[1].number
    return columns is not None and bias.array is not None and bias.array.shape in ((columns,), (1, columns))


LINEAR: dict[str, Handler] = {
    "BatchedDot": batched_dot,
    "Dot": dot,
    "Dot22": dot,
    "Dot22Scalar": dot_scalar,
    "Gemm": gemm,
    "Gemv": gemm,
    "Ger": outer,
}
