"""Theano's scalar operations, as they are applied to whole tensors element by element."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from portmatrix.converters.errors import Unsupported
from portmatrix.converters.theano.graph import Apply
from portmatrix.converters.theano.sizes import Size
from portmatrix.converters.theano.standins import Record
from portmatrix.converters.theano.translator import Dtype, Translator, Value, onnx_dtype

Shape = tuple[Size, ...]


class Element:
    """What a scalar operation is translated with: the operands, the type of the result, its shape, and its label."""

    def __init__(self, t: Translator, args: Sequence[Value], dtype: Dtype, shape: Shape, label: str) -> None:
        self.t, self.args, self.dtype, self.shape, self.label = t, list(args), dtype, shape, label

    def op(self, kind: str, *args: Value, dtype: Any = None, **attributes: Any) -> Value:
        """Add an operator whose result has the shape that its operands have together."""
        shape = self.t.broadcast([arg.shape for arg in args])
        return self.t.op(kind, *args, shape=shape, dtype=dtype, label=self.label, **attributes)

    def worked(self) -> Dtype:
        """Return the type to compute in: the result's, or a wider one where operators lack the result's."""
        return wide(self.dtype)

    def given(self) -> list[Value]:
        """Return the operands in the type to compute in."""
        return [self.t.cast(arg, self.worked()) for arg in self.args]

    def common(self) -> list[Value]:
        """Return the operands in the type that they have together, for comparisons."""
        kind = wide(np.result_type(*[arg.dtype for arg in self.args]))
        kind = np.dtype(np.float32) if kind == np.float64 else kind
        return [self.t.cast(arg, kind) for arg in self.args]

    def number(self, value: float) -> Value:
        """Return a constant of the type to compute in."""
        return self.t.constant(np.array(value, self.worked()))

    def done(self, value: Value) -> Value:
        """Return the result in its own type."""
        return self.t.cast(value, self.dtype)


def wide(dtype: Dtype) -> Dtype:
    """Return the type that a type is computed in: runtimes have arithmetic for 32 and 64 bits."""
    if dtype.kind in "bu" or dtype.itemsize < 4:
        if dtype.kind == "f":
            return dtype
        return np.dtype(np.int64 if dtype.itemsize >= 4 else np.int32)
    return dtype


Scalar = Callable[[Element], Value]


def _unary(kind: str, **attributes: Any) -> Scalar:
    return lambda e: e.done(e.op(kind, *e.given(), **attributes))


def _folding(kind: str, logical: str) -> Scalar:
    """Return a translation of an operation of any number of operands."""

    def translate(e: Element) -> Value:
        boolean = e.dtype == bool
        args = e.args if boolean else e.given()
        args = [e.t.cast(arg, bool) for arg in args] if boolean else args
        made = args[0]
        for arg in args[1:]:
            made = e.op(logical if boolean else kind, made, arg)
        return e.done(made)

    return translate


def _comparison(kind: str, *, negated: bool = False) -> Scalar:
    def translate(e: Element) -> Value:
        made = e.op(kind, *e.common(), dtype=bool)
        return e.done(e.op("Not", made) if negated else made)

    return translate


def _bitwise(kind: str, logical: str) -> Scalar:
    def translate(e: Element) -> Value:
        if all(arg.dtype == bool for arg in e.args):
            made = e.op(logical, *e.args)
            return e.done(made)
        return e.done(e.op(kind, *[e.t.cast(arg, e.dtype) for arg in e.args]))

    return translate


def _test(kind: str) -> Scalar:
    def translate(e: Element) -> Value:
        (arg,) = e.args
        if arg.dtype.kind != "f":
            return e.t.cast(e.op("Not", e.op("Equal", arg, arg, dtype=bool)), e.dtype)
        return e.done(e.op(kind, arg, dtype=bool))

    return translate


def _scaled(kind: str, factor: float) -> Scalar:
    return lambda e: e.done(e.op("Mul", e.op(kind, *e.given()), e.number(factor)))


def _identity(e: Element) -> Value:
    return e.done(e.args[0])


def _second(e: Element) -> Value:
    model, fill = e.args
    fill = e.done(fill)
    same = tuple(map(e.t.sizes.resolved, fill.shape)) == tuple(map(e.t.sizes.resolved, e.shape))
    if same:
        return fill
    return e.t.op("Expand", fill, e.t.shape_of(model), shape=e.shape, label=e.label)


def _int_div(e: Element) -> Value:
    left, right = e.given()
    if e.worked().kind == "f":
        return e.done(e.op("Floor", e.op("Div", left, right)))
    quotient = e.op("Div", left, right)
    rest = e.op("Sub", left, e.op("Mul", quotient, right))
    zero = e.number(0)
    wrong = e.op(
        "And",
        e.op("Not", e.op("Equal", rest, zero, dtype=bool)),
        e.op("Xor", e.op("Less", rest, zero, dtype=bool), e.op("Less", right, zero, dtype=bool)),
    )
    return e.done(e.op("Sub", quotient, e.t.cast(wrong, e.worked())))


def _mod(e: Element) -> Value:
    left, right = e.given()
    if e.worked().kind == "f":
        return e.done(e.op("Sub", left, e.op("Mul", e.op("Floor", e.op("Div", left, right)), right)))
    return e.done(e.op("Mod", left, right))


def _power(e: Element) -> Value:
    base, exponent = e.given()
    number = e.t.number_of(exponent)
    if number is not None and number == 2:
        return e.done(e.op("Mul", base, base))
    if number is not None and number == 0.5 and e.worked().kind == "f":
        return e.done(e.op("Sqrt", base))
    return e.done(e.op("Pow", base, exponent))


def _square(e: Element) -> Value:
    (value,) = e.given()
    return e.done(e.op("Mul", value, value))


def _clip(e: Element) -> Value:
    value, low, high = e.given()
    if low.rank or high.rank:
        if all(bound.array is not None and bound.array.size == 1 for bound in (low, high)):
            bounds = [e.t.constant(np.asarray(bound.array).reshape(())) for bound in (low, high)]
            return e.done(e.op("Clip", value, *bounds))
        return e.done(e.op("Min", e.op("Max", value, low), high))
    return e.done(e.op("Clip", value, low, high))


def _extreme(kind: str) -> Scalar:
    def translate(e: Element) -> Value:
        if e.dtype == bool:
            return e.op("Or" if kind == "Max" else "And", *[e.t.cast(arg, bool) for arg in e.args])
        first, second = e.given()
        if kind == "Max" and e.dtype.kind == "f":
            for one, other in ((first, second), (second, first)):
                if e.t.number_of(one) == 0 and e.t.resolved(other.shape) == e.t.resolved(e.shape):
                    return e.done(e.op("Relu", other))
        return e.done(e.op(kind, first, second))

    return translate


def _switch(e: Element) -> Value:
    condition, *others = e.args
    return e.op("Where", e.t.cast(condition, bool), *[e.done(other) for other in others], dtype=e.dtype)


def _invert(e: Element) -> Value:
    (value,) = e.args
    if value.dtype == bool:
        return e.done(e.op("Not", value))
    return e.done(e.op("BitwiseNot", e.done(value)))


def _away_from_zero(e: Element) -> Value:
    (value,) = e.given()
    raised = e.op("Floor", e.op("Add", e.op("Abs", value), e.number(0.5)))
    return e.done(e.op("Mul", e.op("Sign", value), raised))


def _truncated(e: Element) -> Value:
    (value,) = e.given()
    return e.done(e.op("Mul", e.op("Sign", value), e.op("Floor", e.op("Abs", value))))


def _near_zero(e: Element, value: Value, near: Value, far: Value) -> Value:
    """Return ``near`` where the value is below 1 in size, ``far`` elsewhere."""
    below = e.op("Less", e.op("Abs", value), e.number(1.0), dtype=bool)
    return e.op("Where", below, near, far, dtype=e.worked())


def _sinh_series(e: Element, value: Value) -> Value:
    """sinh(x) by its series up to x⁹, for x below 1 in size."""
    square = e.op("Mul", value, value)
    series = e.number(1 / 362880)
    for factor in (1 / 5040, 1 / 120, 1 / 6, 1.0):
        series = e.op("Add", e.op("Mul", series, square), e.number(factor))
    return e.op("Mul", series, value)


def _expm1(e: Element) -> Value:
    """exp(x) - 1; near zero as 2·sinh(x/2)·exp(x/2), which loses no digits there."""
    (value,) = e.given()
    half = e.op("Mul", value, e.number(0.5))
    near = e.op("Mul", e.op("Mul", _sinh_series(e, half), e.number(2.0)), e.op("Exp", half))
    return e.done(_near_zero(e, value, near, e.op("Sub", e.op("Exp", value), e.number(1.0))))


def _sinh_of(e: Element, value: Value) -> Value:
    grown = e.op("Sub", e.op("Exp", value), e.op("Exp", e.op("Neg", value)))
    return _near_zero(e, value, _sinh_series(e, value), e.op("Mul", grown, e.number(0.5)))


def _sinh(e: Element) -> Value:
    return e.done(_sinh_of(e, e.given()[0]))


def _cosh(e: Element) -> Value:
    (value,) = e.given()
    grown = e.op("Add", e.op("Exp", value), e.op("Exp", e.op("Neg", value)))
    return e.done(e.op("Mul", grown, e.number(0.5)))


def _log1p_of(e: Element, value: Value) -> Value:
    """log(1 + x) as x·log(u)/(u - 1) with u = 1 + x rounded, which loses no digits near zero (Goldberg 1991, th. 4)."""
    raised = e.op("Add", value, e.number(1.0))
    step = e.op("Sub", raised, e.number(1.0))
    none = e.op("Equal", step, e.number(0.0), dtype=bool)
    divisor = e.op("Where", none, e.number(1.0), step, dtype=e.worked())
    near = e.op("Div", e.op("Mul", value, e.op("Log", raised)), divisor)
    endless = e.op("IsInf", value, dtype=bool)
    return e.op("Where", e.op("Or", none, endless), value, near, dtype=e.worked())


def _log1p(e: Element) -> Value:
    return e.done(_log1p_of(e, e.given()[0]))


def _asinh(e: Element) -> Value:
    """asinh(x) = sign(x)·log1p(|x| + x²/(1 + √(1 + x²)))."""
    (value,) = e.given()
    size, square, one = e.op("Abs", value), e.op("Mul", value, value), e.number(1.0)
    root = e.op("Add", e.op("Sqrt", e.op("Add", square, one)), one)
    return e.done(e.op("Mul", e.op("Sign", value), _log1p_of(e, e.op("Add", size, e.op("Div", square, root)))))


def _acosh(e: Element) -> Value:
    (value,) = e.given()
    one = e.number(1.0)
    inner = e.op("Mul", e.op("Sqrt", e.op("Sub", value, one)), e.op("Sqrt", e.op("Add", value, one)))
    return e.done(e.op("Log", e.op("Add", value, inner)))


def _atanh(e: Element) -> Value:
    """atanh(x) = ½·log1p(2x/(1 - x))."""
    (value,) = e.given()
    inner = e.op("Div", e.op("Mul", value, e.number(2.0)), e.op("Sub", e.number(1.0), value))
    return e.done(e.op("Mul", _log1p_of(e, inner), e.number(0.5)))


def _atan2(e: Element) -> Value:
    """The angle of (x, y): atan(y/x), moved by ±π where x is negative."""
    rise, run = e.given()
    zero = e.number(0.0)
    level = e.op("Equal", run, zero, dtype=bool)
    angle = e.op("Atan", e.op("Div", rise, e.op("Where", level, e.number(1.0), run, dtype=e.worked())))
    below = e.op("Less", rise, zero, dtype=bool)
    turn = e.op("Where", below, e.number(-math.pi), e.number(math.pi), dtype=e.worked())
    back = e.op("Less", run, zero, dtype=bool)
    turned = e.op("Add", angle, e.op("Where", back, turn, zero, dtype=e.worked()))
    upright = e.op("Mul", e.op("Sign", rise), e.number(math.pi / 2))
    return e.done(e.op("Where", level, upright, turned, dtype=e.worked()))


def _erfc(e: Element) -> Value:
    return e.done(e.op("Sub", e.number(1.0), e.op("Erf", *e.given())))


def _inverse(e: Element) -> Value:
    return e.done(e.op("Reciprocal", *e.given()))


def _exp2(e: Element) -> Value:
    return e.done(e.op("Exp", e.op("Mul", *e.given(), e.number(math.log(2)))))


def _sigmoid_by_parts(e: Element) -> Value:
    """Theano's ultra fast sigmoid: ½(z + 1), where z follows tanh(x/2) in three pieces on each side."""
    (value,) = e.given()
    half = e.op("Mul", value, e.number(0.5))
    size = e.op("Abs", half)
    near = e.op("Div", e.op("Mul", size, e.number(1.5)), e.op("Add", size, e.number(1.0)))
    slope = e.op("Mul", e.op("Sub", size, e.number(1.7)), e.number(0.0458812946797165))
    middle = e.op("Add", slope, e.number(0.935409070603099))
    outer = e.op("Where", e.op("Less", size, e.number(3.0), dtype=bool), middle, e.number(0.99505475368673))
    piece = e.op("Where", e.op("Less", size, e.number(1.7), dtype=bool), near, outer, dtype=e.worked())
    signed = e.op("Mul", e.op("Sign", half), piece)
    return e.done(e.op("Mul", e.op("Add", signed, e.number(1.0)), e.number(0.5)))


def _softsign(e: Element) -> Value:
    return e.done(e.op("Softsign", *e.given()))


def _in_range(e: Element) -> Value:
    raise Unsupported(e.label, "InRange", "write it as two comparisons")


def _batch_norm(e: Element) -> Value:
    value, mean, deviation, gamma, beta = e.given()
    scaled = e.op("Mul", e.op("Sub", value, mean), e.op("Div", gamma, deviation))
    return e.done(e.op("Add", scaled, beta))


SCALARS: dict[str, Scalar] = {
    "Abs": _unary("Abs"),
    "Add": _folding("Add", "Or"),
    "AND": _bitwise("BitwiseAnd", "And"),
    "ArcCos": _unary("Acos"),
    "ArcCosh": _acosh,
    "ArcSin": _unary("Asin"),
    "ArcSinh": _asinh,
    "ArcTan": _unary("Atan"),
    "ArcTan2": _atan2,
    "ArcTanh": _atanh,
    "BNComposite": _batch_norm,
    "Cast": _identity,
    "Ceil": _unary("Ceil"),
    "Clip": _clip,
    "Cos": _unary("Cos"),
    "Cosh": _cosh,
    "Deg2Rad": lambda e: e.done(e.op("Mul", *e.given(), e.number(math.pi / 180))),
    "EQ": _comparison("Equal"),
    "Erf": _unary("Erf"),
    "Erfc": _erfc,
    "Exp": _unary("Exp"),
    "Exp2": _exp2,
    "Expm1": _expm1,
    "Floor": _unary("Floor"),
    "GE": _comparison("GreaterOrEqual"),
    "GT": _comparison("Greater"),
    "Identity": _identity,
    "IntDiv": _int_div,
    "Inv": _inverse,
    "Invert": _invert,
    "IsInf": _test("IsInf"),
    "IsNan": _test("IsNaN"),
    "LE": _comparison("LessOrEqual"),
    "LT": _comparison("Less"),
    "Log": _unary("Log"),
    "Log10": _scaled("Log", 1 / math.log(10)),
    "Log1p": _log1p,
    "Log2": _scaled("Log", 1 / math.log(2)),
    "Maximum": _extreme("Max"),
    "Minimum": _extreme("Min"),
    "Mod": _mod,
    "Mul": _folding("Mul", "And"),
    "NEQ": _comparison("Equal", negated=True),
    "Neg": _unary("Neg"),
    "OR": _bitwise("BitwiseOr", "Or"),
    "Pow": _power,
    "Rad2Deg": lambda e: e.done(e.op("Mul", *e.given(), e.number(180 / math.pi))),
    "RoundHalfAwayFromZero": _away_from_zero,
    "RoundHalfToEven": _unary("Round"),
    "ScalarSigmoid": _unary("Sigmoid"),
    "ScalarSoftplus": _unary("Softplus"),
    "ScalarSoftsign": _softsign,
    "Second": _second,
    "Sgn": _unary("Sign"),
    "Sin": _unary("Sin"),
    "Sinh": _sinh,
    "Sqr": _square,
    "Sqrt": _unary("Sqrt"),
    "Sub": lambda e: e.done(e.op("Sub", *e.given())),
    "Switch": _switch,
    "Tan": _unary("Tan"),
    "Tanh": _unary("Tanh"),
    "TrueDiv": lambda e: e.done(e.op("Div", *e.given())),
    "Trunc": _truncated,
    "UltraFastScalarSigmoid": _sigmoid_by_parts,
    "XOR": _bitwise("BitwiseXor", "Xor"),
}


# -- sizes ---------------------------------------------------------------------------------------------------------


def _sum_of(_t: Translator, args: list[Size]) -> Size | None:
    made = Size.of(0)
    for arg in args:
        made = made.plus(arg)
    return made


def _product_of(_t: Translator, args: list[Size]) -> Size | None:
    made = Size.of(1)
    for arg in args:
        made = made.times(arg)
    return made


def _compared(test: Callable[[int], bool]) -> Callable[[Translator, list[Size]], Size | None]:
    def compare(_t: Translator, args: list[Size]) -> Size | None:
        difference = args[0].plus(args[1], -1).number
        return None if difference is None else Size.of(int(test(difference)))

    return compare


def _chosen(_t: Translator, args: list[Size]) -> Size | None:
    if args[0].number is not None:
        return args[1] if args[0].number else args[2]
    return args[1] if args[1] == args[2] else None


_SIZES: dict[str, Callable[[Translator, list[Size]], Size | None]] = {
    "Add": _sum_of,
    "Mul": _product_of,
    "Sub": lambda _t, args: args[0].plus(args[1], -1),
    "Neg": lambda _t, args: Size({}).plus(args[0], -1),
    "IntDiv": lambda _t, args: args[0].over(args[1]),
    "Minimum": lambda t, args: t.sizes.smaller(args[0], args[1]),
    "Cast": lambda _t, args: args[0],
    "Identity": lambda _t, args: args[0],
    "Second": lambda _t, args: args[1],
    "Switch": _chosen,
    "LT": _compared(lambda difference: difference < 0),
    "LE": _compared(lambda difference: difference <= 0),
    "GT": _compared(lambda difference: difference > 0),
    "GE": _compared(lambda difference: difference >= 0),
    "EQ": _compared(lambda difference: difference == 0),
    "NEQ": _compared(lambda difference: difference != 0),
}


def _parts(t: Translator, kind: str, args: Sequence[Value], shape: Shape) -> list[Size] | None:
    """Return the elements of a result as sizes, if those of all operands are known so."""
    rule = _SIZES.get(kind)
    if rule is None or len(shape) > 1 or any(arg.parts is None for arg in args):
        return None
    length = shape[0].number if shape else 1
    if length is None:
        return None
    made = []
    for index in range(length):
        picked = [t.sizes.resolved(arg.parts[index if len(arg.parts) > 1 else 0]) for arg in args if arg.parts]
        found = rule(t, picked) if len(picked) == len(args) else None
        if found is None:
            return None
        made.append(found)
    return made


# -- entry -----------------------------------------------------------------------------------------------------------


def scalar(t: Translator, op: Record, args: Sequence[Value], dtype: Dtype, label: str) -> Value:
    """Return the result of a scalar operation on whole tensors."""
    if op.kind == "Composite":
        return composite(t, op, args)[0]
    rule = SCALARS.get(op.kind)
    if rule is None:
        raise Unsupported(label, op.kind, "there is no translation of this scalar operation to ONNX")
    shape = t.broadcast([arg.shape for arg in args])
    parts = _parts(t, op.kind, args, shape) if dtype.kind in "iub" else None
    return t.with_parts(rule(Element(t, args, dtype, shape, label)), parts)


def composite(t: Translator, op: Record, args: Sequence[Value]) -> list[Value]:
    """Return the results of a fused scalar graph, translated operation by operation."""
    inputs = t.graph.variables(op.get("inputs"), "Composite")
    outputs = t.graph.variables(op.get("outputs"), "Composite")
    outer, uses = t.values, t.uses
    t.values, t.uses = dict(zip(inputs, args, strict=True)), {}
    try:
        return t.translate(outputs)
    finally:
        t.values, t.uses = outer, uses


def elemwise(t: Translator, apply: Apply) -> list[Value]:
    """Translate an ``Elemwise``."""
    inner = apply.op.get("scalar_op")
    if not isinstance(inner, Record):
        raise t.graph.fail(f"Elemwise of {apply.label!r}", "it has no scalar operation")
    args = [t.value(variable) for variable in apply.inputs]
    if inner.kind == "Composite":
        return composite(t, inner, args)
    label = apply.outputs[0].name or inner.kind
    return [scalar(t, inner, args, onnx_dtype(apply.outputs[0].dtype), label)]


def bare(t: Translator, apply: Apply) -> list[Value]:
    """Translate a scalar operation applied to numbers."""
    args = [t.value(variable) for variable in apply.inputs]
    if apply.op.kind == "Composite":
        return composite(t, apply.op.record, args)
    return [scalar(t, apply.op.record, args, onnx_dtype(apply.outputs[0].dtype), apply.label)]
