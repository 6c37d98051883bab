"""Writes fixtures.npz beside itself: graphs pickled by Theano 1.0.5, inputs, and what Theano computes of those.

Run in CPython 3.7 with Theano 1.0.5, NumPy 1.21 and SciPy 1.7:
``THEANO_FLAGS=device=cpu,floatX=float32,blas.ldflags=,cxx=,optimizer=fast_compile python make_fixtures.py [NAME ...]``
"""

# Python 3.7 and the customs of Theano's users: tensor as T, steps as lambdas, imports where they are used.
# ruff: noqa: B905, C408, E731, N812, PLC0415, PTH100, PTH118, PTH120, PTH202, RUF005, RUF059, UP031

import io
import os
import pickle
import sys

import numpy as np
import theano
import theano.tensor as T
from theano.ifelse import ifelse
from theano.tensor.nnet import abstract_conv, bn
from theano.tensor.signal import pool

sys.setrecursionlimit(100000)
R = np.random.RandomState(0)
CASES = {}
#: Operation by operation, as the graph was built, by NumPy: no compiler and no BLAS are needed.
PLAIN = theano.Mode(linker="py", optimizer=None)


def case(make):
    CASES[make.__name__] = make
    return make


def f32(*shape):
    return R.standard_normal(shape).astype("float32")


def shared(*shape, scale=0.5, name=None):
    return theano.shared(f32(*shape) * np.float32(scale), name=name)


def positive(*shape):
    return (R.uniform(0.1, 2, shape)).astype("float32")


# -- elements ------------------------------------------------------------------------------------------------------


@case
def unary():
    x = T.matrix("x")
    names = [
        "exp",
        "expm1",
        "sqr",
        "neg",
        "abs_",
        "sgn",
        "floor",
        "ceil",
        "trunc",
        "tanh",
        "sin",
        "cos",
        "tan",
        "sinh",
        "cosh",
        "arctan",
        "arcsinh",
        "erf",
        "erfc",
        "deg2rad",
        "rad2deg",
        "exp2",
    ]
    outs = [getattr(T, name)(x) for name in names if name != "neg"] + [-x, T.round(x, mode="half_to_even")]
    outs += [T.round(x, mode="half_away_from_zero"), T.nnet.sigmoid(x), T.nnet.hard_sigmoid(x)]
    outs += [T.nnet.ultra_fast_sigmoid(x), T.nnet.softplus(x), T.isnan(x), T.isinf(x), 1 / x, T.inv(x)]
    outs += [T.nnet.elu(x), T.nnet.selu(x), T.nnet.relu(x), T.nnet.relu(x, 0.1), T.nnet.softsign(x)]
    return [x], outs, [f32(3, 5) * 2]


@case
def unary_positive():
    x = T.matrix("x")
    outs = [
        T.sqrt(x),
        T.log(x),
        T.log1p(x),
        T.log2(x),
        T.log10(x),
        T.arccosh(1 + x),
        T.log1p(x * 1e-4),
        T.expm1(x * 1e-4),
    ]
    outs += [T.arcsin(x / 2), T.arccos(x / 2), T.arctanh(x / 3), x**2.5, x**0.5, x**2, T.arctan2(x - 1, x[:, ::-1] - 1)]
    return [x], outs, [positive(3, 5)]


@case
def binary():
    x, y, v = T.matrix("x"), T.matrix("y"), T.vector("v")
    outs = [x + y, x - v, x * y, x / y, x // y, x % y, T.maximum(x, y), T.minimum(x, v), T.clip(x, -0.5, 0.5)]
    outs += [T.switch(x > 0, x, 0.2 * y), T.eq(x, y), T.neq(x, y), x < y, x <= y, x >= v, T.clip(x, v, v + 1)]
    outs += [T.second(x, v), T.fill(x, 3), T.maximum(x, 0), T.and_(x > 0, y > 0), T.or_(x > 0, y > 0)]
    outs += [T.xor(x > 0, y > 0), ~(x > 0), T.cast(x * 3, "int8"), T.cast(x > 0, "float32"), x + y + v, x * y * v * 2]
    return [x, y, v], outs, [f32(3, 4), f32(3, 4), f32(4)]


@case
def integers():
    a, b, s = T.imatrix("a"), T.matrix("b", dtype="int8"), T.lvector("s")
    outs = [a + b, a // b, a % b, a * s, a / b, a - s, b * b, -a, abs(b), T.sqrt(a**2 + 1), T.and_(a, s), T.or_(a, b)]
    outs += [
        T.xor(a, b),
        ~a,
        T.maximum(a, b),
        T.sgn(a),
        T.cast(a, "float32") / 2,
        a + np.float32(0.5),
        T.switch(a > b, a, b),
    ]
    outs += [a.sum(), a.mean(axis=1), b.sum(axis=0), a.max(axis=1), T.argmax(a, axis=0), a.prod(axis=1), a > 0]
    outs += [(a > 0).sum(), T.any(a > 2, axis=1), T.all(a > -9), T.tanh(b), b + 100, T.clip(a, -2, 2)]
    n = R.randint(-5, 6, (3, 4))
    m = R.randint(1, 5, (3, 4)) * np.where(R.rand(3, 4) > 0.5, 1, -1)
    return [a, b, s], outs, [n.astype("int32"), m.astype("int8"), np.arange(1, 5)]


@case
def doubles():
    x = T.dmatrix("x")
    w = theano.shared(R.standard_normal((4, 3)))
    return [x], [T.nnet.softmax(T.tanh(T.dot(x, w)) + 0.5), T.log1p(x**2)], [R.standard_normal((2, 4))]


@case
def composite():
    from theano.scalar import Composite, float32

    a, b = float32("a"), float32("b")
    x, y = T.matrix("x"), T.matrix("y")
    op = T.Elemwise(Composite([a, b], [theano.scalar.tanh(a + b) * a]))
    return [x, y], op(x, y), [f32(2, 3), f32(2, 3)]


@case
def rectifiers():
    x = T.tensor4("x")
    slope = theano.shared(np.array([0.1, 0.2, 0.3], "float32"))
    outs = [T.nnet.relu(x), T.nnet.relu(x, 0.01), T.nnet.relu(x, slope.dimshuffle("x", 0, "x", "x"))]
    outs += [T.maximum(0, x), T.nnet.relu(x + 1), x * (x > 0)]
    return [x], outs, [f32(2, 3, 4, 4)]


# -- products --------------------------------------------------------------------------------------------------------


@case
def dots():
    x, y, v = T.matrix("x"), T.matrix("y"), T.vector("v")
    outs = [T.dot(x, y), T.dot(x, v), T.dot(v, y), T.dot(v, v), T.outer(v, v), T.dot(x, y) + v[:3].sum()]
    outs += [T.tensordot(x, y, [[1], [0]]), x.T]
    return [x, y, v], outs, [f32(2, 4), f32(4, 3), f32(4)]


@case
def batched():
    x, y, m = T.tensor3("x"), T.tensor3("y"), T.matrix("m")
    w = shared(4, 5)
    outs = [T.batched_dot(x, y), T.batched_dot(m, y), T.tensordot(x, w, axes=[[2], [0]]), T.dot(x, w)]
    outs += [T.batched_tensordot(x, y, axes=[[2], [1]]), T.tensordot(x, y, axes=[[0, 2], [0, 1]])]
    return [x, y, m], outs, [f32(2, 3, 4), f32(2, 4, 5), f32(2, 4)]


@case
def blas():
    from theano.tensor import blas as b

    x, y, z = T.matrix("x"), T.matrix("y"), T.matrix("z")
    outs = [b.gemm_no_inplace(z, np.float32(2), x, y, np.float32(0.5)), b._dot22(x, y)]
    outs += [b._dot22scalar(x, y, T.constant(np.float32(3)))]
    return [x, y, z], outs, [f32(2, 4), f32(4, 3), f32(2, 3)]


# -- shapes ----------------------------------------------------------------------------------------------------------


@case
def shapes():
    x = T.tensor4("x")
    n = x.shape[0]
    outs = [x.flatten(2), x.reshape((n, -1)), x.reshape((n, 6, 4)), x.reshape((n * 3, 8)), x.reshape((-1, 2, 4))]
    outs += [x.dimshuffle(0, 2, 3, 1), x.dimshuffle(1, "x", 0, 3, 2), x.transpose(), x.flatten(), x.shape, x.shape[1:3]]
    outs += [
        x.sum(axis=3, keepdims=True),
        T.shape_padright(x.sum(axis=(2, 3))),
        x.reshape((x.shape[0], x.shape[1], -1)),
    ]
    outs += [
        T.addbroadcast(x[:, :1], 1) + x,
        x.size,
        T.unbroadcast(x[:, :1], 1),
        T.patternbroadcast(x[:1], (True, False, False, False)),
    ]
    outs += [T.specify_shape(x, (2, 3, 2, 4)), x.swapaxes(1, 2), x.ndim + x.shape[0]]
    return [x], outs, [f32(2, 3, 2, 4)]


@case
def joins():
    x, y = T.matrix("x"), T.matrix("y")
    outs = [
        T.concatenate([x, y], axis=1),
        T.join(0, x, x),
        T.stack([x, x * 2], axis=1),
        T.stack([x, x]),
        T.join(-1, x, y),
    ]
    outs += list(T.split(x, [1, 3], 2, axis=1)) + [T.stacklists([[x[0, 0], x[0, 1]], [x[1, 0], x[1, 1]]])]
    outs += [T.concatenate([x.flatten(), y.flatten()]), T.horizontal_stack(x, y), T.vertical_stack(x, x)]
    return [x, y], outs, [f32(2, 4), f32(2, 3)]


@case
def fillings():
    x = T.matrix("x")
    n = x.shape[0]
    outs = [
        T.zeros_like(x),
        T.ones((n, 3)),
        T.alloc(np.float32(2), n, 2, 3),
        T.eye(3),
        T.eye(n, 4, 1),
        T.tri(n, 3),
        T.arange(n),
    ]
    outs += [T.alloc(x[0], n, x.shape[1]), T.arange(2, 10, 3), T.arange(n) * 2.5, T.tril(x), T.triu(x), T.diag(x[0])]
    outs += [
        T.identity_like(x),
        T.ones_like(x) * x,
        T.mgrid[0:3, 0:2][0],
        T.fill_diagonal(x, 5),
        T.arange(n, dtype="float32"),
    ]
    return [x], outs, [f32(3, 4)]


@case
def repeats():
    x = T.matrix("x")
    outs = [T.repeat(x, 2, axis=0), T.repeat(x, 3, axis=1), T.tile(x, (2, 1)), T.tile(x, (1, 2)), T.tile(x, (2, 1, 3))]
    outs += [T.repeat(x, 2), T.extra_ops.cumsum(x, axis=0), T.extra_ops.cumsum(x), T.extra_ops.cumprod(x, axis=1)]
    outs += [T.extra_ops.squeeze(x[:1])]
    outs += [T.extra_ops.to_one_hot(T.argmax(x, 1), 4)]
    return [x], outs, [f32(3, 4)]


@case
def upsampling():
    x = T.tensor4("x")
    outs = [x.repeat(2, axis=2).repeat(2, axis=3)]
    return [x], outs, [f32(2, 2, 3, 3)]


# -- indices ---------------------------------------------------------------------------------------------------------


@case
def slices():
    x, i = T.tensor3("x"), T.iscalar("i")
    outs = [
        x[0],
        x[:, 1],
        x[..., -1],
        x[:, 1:3],
        x[:, ::2],
        x[::-1],
        x[:, ::-1, 1:],
        x[-1, :, ::-2],
        x[:, -2:],
        x[1, 2, 3],
    ]
    outs += [
        x[i],
        x[:, i],
        x[:, i : i + 2],
        x[:i],
        x[:, None, :, :],
        x[:, x.shape[1] - 1],
        x[: x.shape[0] - 1],
        x[:, 3:0:-1],
    ]
    outs += [x[:, : x.shape[1] // 2], x[:, :, 1:-1]]
    return [x, i], outs, [f32(3, 4, 5), np.int32(1)]


@case
def writes():
    x, y, i = T.matrix("x"), T.vector("y"), T.iscalar("i")
    outs = [
        T.set_subtensor(x[0], y),
        T.inc_subtensor(x[:, 1], 2.0),
        T.set_subtensor(x[:, 1:3], 0),
        T.set_subtensor(x[1, 2], 7),
    ]
    outs += [
        T.inc_subtensor(x[-1], y),
        T.set_subtensor(x[i], y),
        T.inc_subtensor(x[i, 1], 1.5),
        T.set_subtensor(x[1:, 2:], 1),
    ]
    outs += [T.inc_subtensor(x[:, i], 3.0), T.set_subtensor(T.zeros((x.shape[0], 8))[:, 2:6], x)]
    return [x, y, i], outs, [f32(3, 4), f32(4), np.int32(1)]


@case
def padded():
    x = T.tensor4("x")
    zeros = T.zeros((x.shape[0], x.shape[1], x.shape[2] + 2, x.shape[3] + 3), "float32")
    return [x], [T.set_subtensor(zeros[:, :, 1 : x.shape[2] + 1, 1 : x.shape[3] + 1], x)], [f32(2, 1, 3, 4)]


@case
def strided_writes():
    x = T.matrix("x")
    up = T.zeros((x.shape[0], 8))
    return [x], [T.set_subtensor(up[:, ::2], x), T.inc_subtensor(up[:, 7::-2], x)], [f32(3, 4)]


@case
def vectors_of_indices():
    x, i = T.matrix("x"), T.ivector("i")
    t = shared(7, 4)
    outs = [t[i], x[T.arange(x.shape[0]), i], x[:, i], x[i], T.inc_subtensor(x[i], 1.0), T.set_subtensor(x[i], 2.0)]
    outs += [t[i.dimshuffle(0, "x")], t[i, i], T.set_subtensor(x[T.arange(x.shape[0]), i], 9.0), x.take(i, axis=1)]
    return [x, i], outs, [f32(3, 4), np.array([2, 0, 1], "int32")]


@case
def embedding():
    i = T.imatrix("words")
    t = shared(11, 3, name="table")
    return (
        [i],
        [t[i], t[i].sum(axis=1), t[i.flatten()].reshape((i.shape[0], i.shape[1], 3))],
        [R.randint(0, 11, (2, 5)).astype("int32")],
    )


# -- reductions ------------------------------------------------------------------------------------------------------


@case
def reductions():
    x = T.tensor3("x")
    outs = [
        x.sum(),
        x.sum(axis=1),
        x.mean(axis=(1, 2)),
        x.max(axis=2),
        x.min(axis=1),
        x.prod(axis=2),
        x.var(axis=1),
        x.std(),
    ]
    outs += [
        T.argmax(x, axis=1),
        T.argmin(x, axis=2),
        T.argmax(x),
        x.norm(2, axis=1),
        x.mean(),
        T.max(x),
        x.sum(keepdims=True),
    ]
    outs += [
        T.max_and_argmax(x, axis=1)[0],
        T.max_and_argmax(x, axis=1)[1],
        T.any(x > 1),
        T.all(x > -1, axis=1),
        x.max(axis=(0, 2)),
    ]
    outs += [
        T.ptp(x, axis=1),
        x.norm(1),
        T.nnet.softmax(x.sum(0)),
        T.nnet.nnet.softmax_graph(x.sum(0)),
        x.mean(axis=0, keepdims=True),
    ]
    return [x], outs, [f32(2, 3, 4)]


@case
def orders():
    x = T.matrix("x")
    outs = [T.sort(x), T.sort(x, axis=0), T.argsort(x, axis=1), T.sort(x, axis=None), x.sort(axis=1)[:, ::-1]]
    return [x], outs, [f32(3, 5)]


@case
def top():
    x = T.matrix("x")
    from theano.tensor.sort import topk

    return [x], [T.sort(topk(x, 3, sorted=False), axis=1), T.sort(topk(x, -2, sorted=False), axis=1)], [f32(3, 5)]


# -- layers ----------------------------------------------------------------------------------------------------------


def conv_case(name, shape, kernel, **options):
    def make():
        x = (T.tensor4 if len(shape) == 4 else T.TensorType("float32", (False,) * 5))("x")
        function = T.nnet.conv2d if len(shape) == 4 else T.nnet.conv3d
        w = shared(*kernel, name="W")
        b = shared(kernel[0], name="b")
        order = ("x", 0, "x", "x") if len(shape) == 4 else ("x", 0, "x", "x", "x")
        return [x], [function(x, w, **options) + b.dimshuffle(*order)], [f32(*shape)]

    CASES["conv_" + name] = make


conv_case("valid", (2, 3, 7, 8), (4, 3, 3, 2))
conv_case("full", (2, 3, 5, 6), (4, 3, 3, 2), border_mode="full")
conv_case(
    "half", (2, 3, 5, 6), (4, 3, 3, 5), border_mode="half", input_shape=(None, 3, 5, 6), filter_shape=(4, 3, 3, 5)
)
conv_case("half_even", (2, 3, 6, 6), (4, 3, 2, 4), border_mode="half", filter_flip=False)
conv_case("number", (2, 3, 5, 6), (4, 3, 3, 3), border_mode=2, subsample=(2, 1))
conv_case("pair", (2, 3, 5, 6), (4, 3, 3, 3), border_mode=(1, 2), filter_flip=False)
conv_case("asymmetric", (2, 3, 5, 6), (4, 3, 3, 3), border_mode=((1, 0), (2, 1)))
conv_case("dilated", (2, 3, 9, 9), (4, 3, 3, 3), filter_dilation=(2, 3), border_mode=(2, 3))
conv_case("half_dilated", (2, 3, 9, 9), (4, 3, 3, 4), filter_dilation=(2, 3), border_mode="half")
conv_case("groups", (2, 4, 6, 6), (6, 2, 3, 3), num_groups=2)
conv_case("batch_given", (2, 3, 6, 6), (4, 3, 3, 3), input_shape=(2, 3, 6, 6), filter_shape=(4, 3, 3, 3))
conv_case("volume", (2, 2, 5, 6, 4), (3, 2, 3, 2, 2), border_mode=(1, 0, 1), subsample=(1, 2, 1))
conv_case("volume_half", (2, 2, 5, 6, 4), (3, 2, 3, 3, 3), border_mode="half")


@case
def old_conv():
    from theano.tensor.nnet.conv import conv2d

    x = T.tensor4("x")
    return (
        [x],
        [conv2d(x, shared(4, 3, 3, 2)), conv2d(x, shared(4, 3, 3, 2), border_mode="full", subsample=(1, 1))],
        [f32(2, 3, 6, 6)],
    )


@case
def transposed_convs():
    x = T.tensor4("x")
    w = shared(3, 2, 3, 3, name="W")
    outs = []
    for flip in (True, False):
        for border, stride, size in (
            ("valid", 1, 6),
            ("half", 2, 7),
            ("half", 2, 8),
            (1, 2, 8),
            ("full", 1, 2),
            ("valid", 2, 9),
        ):
            outs.append(
                abstract_conv.conv2d_grad_wrt_inputs(
                    x, w, (None, 2, size, size), border_mode=border, subsample=(stride, stride), filter_flip=flip
                )
            )
    op = abstract_conv.AbstractConv2d_gradInputs(border_mode="half", subsample=(2, 2), filter_flip=False)
    outs.append(op(w, x, (x.shape[2] * 2, x.shape[3] * 2)))
    return [x], outs, [f32(2, 3, 4, 4)]


@case
def transposed_volume():
    x = T.TensorType("float32", (False,) * 5)("x")
    w = shared(3, 2, 2, 2, 2, name="W")
    return (
        [x],
        [abstract_conv.conv3d_grad_wrt_inputs(x, w, (None, 2, 4, 6, 4), subsample=(2, 2, 2))],
        [f32(2, 3, 2, 3, 2)],
    )


@case
def pools():
    x = T.tensor4("x")
    outs = []
    for mode in ("max", "sum", "average_inc_pad", "average_exc_pad"):
        for ignore in (True, False):
            for ws, stride, pad in (
                ((2, 2), None, (0, 0)),
                ((3, 2), (2, 2), (0, 0)),
                ((2, 2), (3, 3), (0, 0)),
                ((3, 3), (2, 2), (1, 1)),
            ):
                if not ignore and max(pad):
                    continue
                outs.append(pool.pool_2d(x, ws, ignore_border=ignore, stride=stride, pad=pad, mode=mode))
    return [x], outs, [f32(2, 2, 7, 8)]


@case
def pools_of_known_size():
    x = T.tensor4("x")
    y = T.nnet.conv2d(x, shared(2, 1, 2, 2), input_shape=(None, 1, 8, 9))
    outs = [
        pool.pool_2d(y, (3, 3), ignore_border=False, stride=s, mode=m)
        for s in ((2, 2), (3, 3), (4, 5))
        for m in ("max", "average_inc_pad", "sum")
    ]
    return [x], outs, [f32(2, 1, 8, 9)]


@case
def odd_pools():
    x, y, z = T.tensor3("x"), T.matrix("y"), T.TensorType("float32", (False,) * 5)("z")
    outs = [pool.pool_2d(x, (2, 2), ignore_border=True), pool.pool_2d(y, (2, 2), ignore_border=False, mode="sum")]
    outs += [
        pool.pool_3d(z, (2, 2, 2), ignore_border=True),
        pool.pool_3d(z, (2, 3, 2), ignore_border=False, stride=(2, 2, 1), mode="average_exc_pad"),
    ]
    return [x, y, z], outs, [f32(2, 5, 6), f32(5, 6), f32(2, 2, 5, 5, 4)]


@case
def softmaxes():
    x, b, y, v = T.matrix("x"), T.vector("b"), T.ivector("y"), T.vector("v")
    from theano.tensor.nnet import nnet

    outs = [
        T.nnet.softmax(x),
        T.nnet.logsoftmax(x),
        nnet.softmax_with_bias(x, b),
        T.nnet.softmax(v),
        T.log(T.nnet.softmax(x)),
    ]
    outs += [
        T.nnet.categorical_crossentropy(T.nnet.softmax(x), y),
        T.nnet.binary_crossentropy(T.nnet.sigmoid(x), T.nnet.sigmoid(-x)),
    ]
    outs += list(nnet.crossentropy_softmax_argmax_1hot_with_bias(x, b, y))
    outs += [-T.mean(T.log(T.nnet.softmax(x))[T.arange(y.shape[0]), y]), T.argmax(T.nnet.softmax(x), axis=1)]
    return [x, b, y, v], outs, [f32(3, 4), f32(4), np.array([0, 3, 1], "int32"), f32(5)]


@case
def normalizations():
    x, m = T.tensor4("x"), T.matrix("m")
    p = [theano.shared(positive(1, 3, 1, 1)) for _ in range(4)]
    p = [T.addbroadcast(v, 0, 2, 3) for v in p]
    q = [theano.shared(positive(1, 4)) for _ in range(4)]
    q = [T.addbroadcast(v, 0) for v in q]
    outs = [bn.batch_normalization_test(x, *p, axes="spatial", epsilon=1e-3), bn.batch_normalization_test(m, *q)]
    g, b, mean, std = [theano.shared(positive(3)) for _ in range(4)]
    s = lambda v: v.dimshuffle("x", 0, "x", "x")
    outs += [bn.batch_normalization(x, s(g), s(b), s(mean), s(std)), (x - s(mean)) * (s(g) / s(std)) + s(b)]
    outs += [
        bn.batch_normalization_test(
            x, *[theano.shared(positive(3)).dimshuffle("x", 0, "x", "x") for _ in range(4)], axes="spatial"
        )
    ]
    outs += [bn.batch_normalization(x, s(g), s(b), s(mean), s(std), mode="high_mem")]
    return [x, m], outs, [f32(2, 3, 4, 5), f32(3, 4)]


@case
def local_response():
    x = T.tensor4("x")
    half, sq = 2, T.sqr(x)
    b, ch, r, c = x.shape
    extra = T.alloc(np.float32(0), b, ch + 2 * half, r, c)
    sq = T.set_subtensor(extra[:, half : half + ch], sq)
    scale = 1.0
    for i in range(5):
        scale += 1e-2 * sq[:, i : i + ch]
    return [x], [x / scale**0.75], [f32(2, 6, 3, 3)]


# -- loops -----------------------------------------------------------------------------------------------------------


@case
def branches():
    x, c = T.matrix("x"), T.iscalar("c")
    return (
        [x, c],
        [ifelse(T.gt(c, 0), x * 2, x - 1), ifelse(T.gt(x.sum(), 100.0), x, x[:, :2])],
        [f32(2, 3), np.int32(1)],
    )


@case
def recurrent():
    x = T.tensor3("x")
    w, u, b = shared(4, 5, name="W"), shared(5, 5, name="U"), shared(5, name="b")
    h0 = T.zeros((x.shape[1], 5))
    h, _ = theano.scan(lambda xt, h: T.tanh(T.dot(xt, w) + T.dot(h, u) + b), sequences=x, outputs_info=h0)
    back, _ = theano.scan(
        lambda xt, h: T.tanh(T.dot(xt, w) + T.dot(h, u) + b), sequences=x, outputs_info=h0, go_backwards=True
    )
    return [x], [h, h[-1], T.concatenate([h, back[::-1]], axis=2), back], [f32(6, 2, 4)]


def lstm(x, size, n_in, **options):
    w, u, b = shared(n_in, 4 * size), shared(size, 4 * size), shared(4 * size)

    def step(xt, h, c, u):
        g = xt + T.dot(h, u)
        i, f, o = [T.nnet.sigmoid(g[:, k * size : (k + 1) * size]) for k in range(3)]
        c = f * c + i * T.tanh(g[:, 3 * size :])
        return o * T.tanh(c), c

    zero = T.zeros((x.shape[1], size))
    (h, _), _ = theano.scan(
        step, sequences=[T.dot(x, w) + b], outputs_info=[zero, zero], non_sequences=[u], strict=True, **options
    )
    return h


@case
def long_memory():
    x = T.tensor3("x")
    h = lstm(x.dimshuffle(1, 0, 2), 5, 4)
    y = T.nnet.softmax(T.dot(h[-1], shared(5, 3)) + shared(3))
    return [x], [y, h.dimshuffle(1, 0, 2)], [f32(2, 6, 4)]


@case
def masked_gru():
    x, mask = T.tensor3("x"), T.matrix("mask")
    ws = [shared(4, 3) for _ in range(3)]
    us = [shared(3, 3) for _ in range(3)]

    def step(xt, m, h):
        r, z = [T.nnet.sigmoid(T.dot(xt, ws[k]) + T.dot(h, us[k])) for k in range(2)]
        new = T.tanh(T.dot(xt, ws[2]) + T.dot(r * h, us[2]))
        new = (1 - z) * h + z * new
        return T.switch(m.dimshuffle(0, "x"), new, h)

    h, _ = theano.scan(
        step,
        sequences=[x.dimshuffle(1, 0, 2), mask.dimshuffle(1, 0)],
        outputs_info=T.alloc(np.float32(0), x.shape[0], 3),
    )
    return [x, mask], [h[-1], h.dimshuffle(1, 0, 2)], [f32(2, 5, 4), (R.rand(2, 5) > 0.3).astype("float32")]


@case
def bidirectional_backwards():
    x = T.tensor3("x")
    s = x.dimshuffle(1, 0, 2)
    a, b = lstm(s, 4, 3), lstm(s, 4, 3, go_backwards=True)
    return [x], [T.concatenate([a, b[::-1]], axis=2).dimshuffle(1, 0, 2), T.nnet.relu(a[-1] + b[-1])], [f32(2, 4, 3)]


@case
def taps():
    x, s = T.vector("x"), T.vector("s")
    y, _ = theano.scan(
        lambda a, b, p, q: a * 0.5 + b + 0.3 * p - 0.2 * q,
        sequences=dict(input=x, taps=[-1, 1]),
        outputs_info=dict(initial=s, taps=[-3, -1]),
    )
    return [x, s], [y, y[-1], y[2:]], [f32(9), f32(3)]


@case
def counted():
    x, n = T.vector("x"), T.iscalar("n")
    p, _ = theano.scan(lambda p, x: p * x, outputs_info=T.ones_like(x), non_sequences=x, n_steps=n)
    q, _ = theano.scan(lambda p, x: (p * x, p.sum()), outputs_info=[T.ones_like(x), None], non_sequences=x, n_steps=4)
    return [x, n], [p[-1], p, q[0], q[1]], [f32(4), np.int32(3)]


@case
def mapped():
    x, y = T.tensor3("x"), T.matrix("y")
    m, _ = theano.map(lambda a: T.dot(a, a.T), sequences=x)
    r, _ = theano.reduce(lambda a, b: a + b, sequences=y, outputs_info=T.zeros((4,)))
    z, _ = theano.scan(lambda i, v: v[i] * i, sequences=T.arange(y.shape[0]), non_sequences=y)
    return [x, y], [m, r, z], [f32(2, 3, 4), f32(3, 4)]


@case
def nested():
    x = T.tensor3("x")
    w = shared(4, 4)

    def inner(row):
        h, _ = theano.scan(lambda v, h: T.tanh(T.dot(v, w) + h), sequences=row, outputs_info=T.zeros((4,)))
        return h[-1]

    y, _ = theano.scan(lambda a, s: (inner(a) + s, inner(a * 2).sum()), sequences=x, outputs_info=[T.zeros((4,)), None])
    return [x], [y[0], y[1]], [f32(3, 5, 4)]


@case
def until():
    x = T.scalar("x")
    y, _ = theano.scan(
        lambda v, x: (v * x, theano.scan_module.until(v * x > 50)),
        outputs_info=T.ones_like(x),
        non_sequences=x,
        n_steps=100,
    )
    return [x], [y, y[-1]], [np.float32(2.5)]


@case
def carried_updates():
    x = T.matrix("x")
    state = theano.shared(np.zeros(3, "float32"), name="state")
    out, updates = theano.scan(lambda v: (v + state, {state: state + v}), sequences=x)
    return [x], [out, updates[state]], [f32(4, 3)]


@case
def attention():
    x, y = T.tensor3("x"), T.tensor3("y")
    enc = lstm(x.dimshuffle(1, 0, 2), 4, 3).dimshuffle(1, 0, 2)
    wa, w, u = shared(4, 4), shared(3 + 4, 5), shared(5, 5)
    va = shared(5, 4)

    def step(yt, h, _ctx, enc):
        e = T.batched_dot(T.dot(enc, wa), T.dot(h, va))
        a = T.nnet.softmax(e)
        ctx = (a.dimshuffle(0, 1, "x") * enc).sum(axis=1)
        h = T.tanh(T.dot(T.concatenate([yt, ctx], axis=1), w) + T.dot(h, u))
        return h, ctx, a

    zero = T.zeros((x.shape[0], 5))
    (h, ctx, a), _ = theano.scan(
        step, sequences=y.dimshuffle(1, 0, 2), outputs_info=[zero, T.zeros((x.shape[0], 4)), None], non_sequences=enc
    )
    return [x, y], [h.dimshuffle(1, 0, 2), a], [f32(2, 5, 3), f32(2, 3, 3)]


# -- networks --------------------------------------------------------------------------------------------------------


@case
def perceptron():
    x = T.matrix("x")
    h = T.tanh(T.dot(x, shared(6, 8, name="W0")) + shared(8, name="b0"))
    h = T.nnet.relu(T.dot(h, shared(8, 5, name="W1")) + shared(5, name="b1"))
    p = T.nnet.softmax(T.dot(h, shared(5, 3, name="W2")) + shared(3, name="b2"))
    p.name = "probabilities"
    return [x], [p, T.argmax(p, axis=1)], [f32(4, 6)]


@case
def lenet():
    """The network of the deep learning tutorials: images come as rows, in batches of a fixed size."""
    x = T.matrix("x")
    h = x.reshape((2, 1, 28, 28))
    for n, (i, o) in enumerate(((1, 3), (3, 4))):
        h = T.nnet.conv2d(
            h, shared(o, i, 5, 5, scale=0.2), input_shape=(2, i, 28 if not n else 12, 28 if not n else 12)
        )
        h = pool.pool_2d(h, (2, 2), ignore_border=True)
        h = T.tanh(h + shared(o).dimshuffle("x", 0, "x", "x"))
    h = T.tanh(T.dot(h.flatten(2), shared(64, 8, scale=0.1)) + shared(8))
    return [x], [T.nnet.softmax(T.dot(h, shared(8, 10)) + shared(10))], [f32(2, 784)]


@case
def vgg():
    x = T.tensor4("x")
    h, last = x, 3
    for size in (4, 6):
        for _ in range(2):
            h = T.nnet.relu(
                T.nnet.conv2d(h, shared(size, last, 3, 3, scale=0.2), border_mode="half")
                + shared(size).dimshuffle("x", 0, "x", "x")
            )
            last = size
        h = pool.pool_2d(h, (2, 2), ignore_border=True)
    h = T.dot(h.reshape((h.shape[0], -1)), shared(6 * 4, 7)) + shared(7)
    return [x], [T.nnet.softmax(h)], [f32(2, 3, 8, 8)]


@case
def residual():
    x = T.tensor4("x")

    def block(h, i, o, stride):
        def norm(h):
            g, b, m = [shared(o).dimshuffle("x", 0, "x", "x") for _ in range(3)]
            v = theano.shared(positive(o)).dimshuffle("x", 0, "x", "x")
            return (h - m) * (g * T.inv(T.sqrt(v + 1e-4))) + b

        conv = lambda h, i, k, s, p: T.nnet.conv2d(
            h, shared(o, i, k, k, scale=0.3), border_mode=p, subsample=(s, s), filter_flip=False
        )
        a = T.nnet.relu(norm(conv(h, i, 3, stride, 1)))
        a = norm(conv(a, o, 3, 1, 1))
        return T.nnet.relu(a + norm(conv(h, i, 1, stride, 0)))

    h = block(block(x, 3, 4, 1), 4, 6, 2)
    h = h.mean(axis=(2, 3))
    return [x], [T.nnet.softmax(T.dot(h, shared(6, 3)) + shared(3))], [f32(2, 3, 8, 8)]


@case
def inception():
    x = T.tensor4("x")
    conv = lambda h, i, o, k: T.nnet.relu(
        T.nnet.conv2d(h, shared(o, i, k, k, scale=0.3), border_mode="half") + shared(o).dimshuffle("x", 0, "x", "x")
    )
    p = pool.pool_2d(x, (3, 3), ignore_border=True, stride=(1, 1), pad=(1, 1))
    q = pool.pool_2d(x, (3, 3), ignore_border=True, stride=(1, 1), pad=(1, 1), mode="average_exc_pad")
    h = T.concatenate([conv(x, 3, 2, 1), conv(conv(x, 3, 2, 1), 2, 3, 5), conv(p, 3, 2, 1), q], axis=1)
    h = h.flatten(3).max(axis=2)
    return [x], [T.dot(h, shared(10, 3))], [f32(2, 3, 6, 6)]


@case
def autoencoder():
    x = T.tensor4("x")
    w1, w2 = shared(4, 1, 3, 3, name="W1"), shared(6, 4, 3, 3, name="W2")
    h = T.nnet.relu(T.nnet.conv2d(x, w1, border_mode="half", subsample=(2, 2)))
    h = T.nnet.relu(T.nnet.conv2d(h, w2, border_mode="half", subsample=(2, 2)))
    grad = lambda h, w, c, s: abstract_conv.conv2d_grad_wrt_inputs(
        h, w, (None, c, s, s), border_mode="half", subsample=(2, 2)
    )
    return [x], [T.nnet.sigmoid(grad(T.nnet.relu(grad(h, w2, 4, 4)), w1, 1, 8))], [f32(2, 1, 8, 8)]


@case
def volume():
    x = T.TensorType("float32", (False,) * 5)("x")
    h = T.nnet.relu(T.nnet.conv3d(x, shared(3, 1, 3, 3, 3)) + shared(3).dimshuffle("x", 0, "x", "x", "x"))
    h = pool.pool_3d(h, (2, 2, 2), ignore_border=True)
    return [x], [T.dot(h.flatten(2), shared(3 * 8, 4))], [f32(2, 1, 6, 6, 6)]


@case
def transformer():
    x = T.tensor3("x")
    heads, d = 2, 3
    q, k, v = [
        T.dot(x, shared(6, 6)).reshape((x.shape[0], x.shape[1], heads, d)).dimshuffle(0, 2, 1, 3) for _ in range(3)
    ]
    n = x.shape[0] * heads
    q, k, v = [a.reshape((n, x.shape[1], d)) for a in (q, k, v)]
    s = T.batched_dot(q, k.dimshuffle(0, 2, 1)) / np.sqrt(d).astype("float32")
    e = T.exp(s - s.max(axis=-1, keepdims=True))
    a = T.batched_dot(e / e.sum(axis=-1, keepdims=True), v)
    a = a.reshape((x.shape[0], heads, x.shape[1], d)).dimshuffle(0, 2, 1, 3).reshape((x.shape[0], x.shape[1], 6))
    h = x + a
    m, s = h.mean(axis=-1, keepdims=True), h.var(axis=-1, keepdims=True)
    return [x], [(h - m) / T.sqrt(s + 1e-5) * shared(6) + shared(6)], [f32(2, 4, 6)]


@case
def deep_chain():
    x = T.matrix("x")
    y = x
    for i in range(400):
        y = y + 1 if i % 2 else y * 0.999
    return [x], [y], [f32(2, 3)]


# -- files -----------------------------------------------------------------------------------------------------------


def pickled(name, inputs, outputs):
    """Return the bytes of a file: of every form that a user may write, by turns."""
    out = io.BytesIO()
    forms = {
        "perceptron": lambda: pickle.dump({"inputs": inputs, "outputs": {"p": outputs[0], "k": outputs[1]}}, out, 4),
        "vgg": lambda: pickle.dump(theano.function(inputs, outputs, mode=PLAIN), out, 2),
        "lenet": lambda: pickle.dump(theano.function(inputs, outputs[0], mode=PLAIN), out, 4),
        "recurrent": lambda: pickle.dump({"inputs": inputs, "outputs": outputs}, out, 0),
        "long_memory": lambda: pickle.dump(theano.function(inputs, outputs), out, 4),
        "residual": lambda: theano.misc.pkl_utils.dump((inputs, outputs), out),
        "inception": lambda: pickle.dump((inputs, outputs), out, 1),
        "volume": lambda: pickle.dump((inputs, outputs), out, 3),
        "doubles": lambda: pickle.dump((inputs, outputs), out, 2),
    }
    forms.get(name, lambda: pickle.dump((inputs, outputs), out, 4))()
    return out.getvalue()


def main(names):
    import theano.misc.pkl_utils

    made = {}
    for name in names or CASES:
        R.seed(sum(map(ord, name)))
        inputs, outputs, values = CASES[name]()
        outputs = list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
        data = pickled(name, inputs, outputs)
        results = theano.function(inputs, outputs, mode=PLAIN, on_unused_input="ignore")(*values)
        made[name + "/pickle"] = np.frombuffer(data, np.uint8)
        for variable, value in zip(inputs, values):
            made[name + "/in/" + variable.name] = np.asarray(value)
        for index, value in enumerate(results):
            made["%s/out/%03d" % (name, index)] = np.asarray(value)
        print(name, len(data))
    place = os.environ.get("FIXTURES") or os.path.join(os.path.dirname(os.path.abspath(__file__)), "fixtures.npz")
    np.savez_compressed(place, **made)
    print(os.path.getsize(place))


if __name__ == "__main__":
    main(sys.argv[1:])
