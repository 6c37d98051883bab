"""What the layers of Torch7 compute, in plain NumPy: what the translations are held against."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Array = Any


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def windows(sizes: Sequence[int]) -> Any:
    return itertools.product(*(range(size) for size in sizes))


def conv(x: Array, w: Array, b: Array | None, step: Any, pad: Any, dilation: Any = None, groups: int = 1) -> Array:
    """Batch x planes x sizes, with w as outputs x inputs of a group x kernel."""
    n = w.ndim - 2
    dilation = dilation or [1] * n
    x = np.pad(x.astype(np.float64), [(0, 0), (0, 0), *((p, p) for p in pad)])
    reach = [dilation[i] * (w.shape[2 + i] - 1) + 1 for i in range(n)]
    sizes = [(x.shape[2 + i] - reach[i]) // step[i] + 1 for i in range(n)]
    out = np.zeros((x.shape[0], w.shape[0], *sizes))
    per_in, per_out = w.shape[1], w.shape[0] // groups
    for at in windows(sizes):
        cut = x[
            (
                slice(None),
                slice(None),
                *(slice(p * step[i], p * step[i] + reach[i], dilation[i]) for i, p in enumerate(at)),
            )
        ]
        for o in range(w.shape[0]):
            g = o // per_out
            part = cut[:, g * per_in : (g + 1) * per_in]
            out[(slice(None), o, *at)] = (part * w[o]).reshape(len(x), -1).sum(1)
    return out if b is None else out + b.reshape(1, -1, *[1] * n)


def full_conv(x: Array, w: Array, b: Array, step: Any, pad: Any, adj: Any) -> Array:
    """A transposed convolution: every input adds its kernel to the output; w is inputs x outputs x kernel."""
    n = w.ndim - 2
    sizes = [(x.shape[2 + i] - 1) * step[i] + w.shape[2 + i] + adj[i] for i in range(n)]
    out = np.zeros((x.shape[0], w.shape[1], *sizes))
    for at in windows(x.shape[2:]):
        place = tuple(slice(p * step[i], p * step[i] + w.shape[2 + i]) for i, p in enumerate(at))
        out[(slice(None), slice(None), *place)] += np.einsum("bi,io...->bo...", x[(slice(None), slice(None), *at)], w)
    inside = tuple(slice(pad[i], sizes[i] - pad[i]) for i in range(n))
    return out[(slice(None), slice(None), *inside)] + b.reshape(1, -1, *[1] * n)


def pooled_size(size: int, kernel: int, step: int, pad: int, dilation: int, *, ceil: bool) -> int:
    room = size - (dilation * (kernel - 1) + 1) + 2 * pad
    count = (math.ceil(room / step) if ceil else room // step) + 1
    return count - 1 if pad and (count - 1) * step >= size + pad else count


def max_pool(x: Array, kernel: Any, step: Any, pad: Any, *, ceil: bool, dilation: Any = None) -> Array:
    n = len(kernel)
    dilation = dilation or [1] * n
    sizes = [pooled_size(x.shape[2 + i], kernel[i], step[i], pad[i], dilation[i], ceil=ceil) for i in range(n)]
    out = np.zeros((*x.shape[:2], *sizes))
    for at in windows(sizes):
        picked = [[p * step[i] - pad[i] + k * dilation[i] for k in range(kernel[i])] for i, p in enumerate(at)]
        inside = [[q for q in row if 0 <= q < x.shape[2 + i]] for i, row in enumerate(picked)]
        cut = x[np.ix_(range(x.shape[0]), range(x.shape[1]), *inside)]
        out[(slice(None), slice(None), *at)] = cut.reshape(*x.shape[:2], -1).max(2)
    return out


def average_pool(x: Array, kernel: Any, step: Any, pad: Any, *, ceil: bool, include: bool) -> Array:
    """SpatialAveragePooling.c: the divisor is the window's size within the padded input, or within the input."""
    n = len(kernel)
    sizes = [pooled_size(x.shape[2 + i], kernel[i], step[i], pad[i], 1, ceil=ceil) for i in range(n)]
    out = np.zeros((*x.shape[:2], *sizes))
    for at in windows(sizes):
        starts = [p * step[i] - pad[i] for i, p in enumerate(at)]
        stops = [min(start + kernel[i], x.shape[2 + i] + pad[i]) for i, start in enumerate(starts)]
        area = math.prod(stop - start for start, stop in zip(starts, stops, strict=True))
        starts = [max(start, 0) for start in starts]
        stops = [min(stop, x.shape[2 + i]) for i, stop in enumerate(stops)]
        inner = math.prod(stop - start for start, stop in zip(starts, stops, strict=True))
        cut = x[(slice(None), slice(None), *(slice(a, b) for a, b in zip(starts, stops, strict=True)))]
        out[(slice(None), slice(None), *at)] = cut.reshape(*x.shape[:2], -1).sum(2) / (area if include else inner)
    return out


def lrn(x: Array, size: int, alpha: float, beta: float, k: float) -> Array:
    """SpatialCrossMapLRN.lua: planes c - h to c + h with h = (size - 1) div 2; alpha is divided by size."""
    half = (size - 1) // 2
    out = np.zeros_like(x)
    for c in range(x.shape[1]):
        squares = (x[:, max(c - half, 0) : c + half + 1] ** 2).sum(1)
        out[:, c] = x[:, c] * (k + alpha / size * squares) ** -beta
    return out


def seq_lstm(x: Array, w: Array, b: Array, projection: Array | None = None) -> Array:
    """SeqLSTM.lua: time x batch x features; columns are input, forget, output gate and transform."""
    size, hidden = x.shape[2], w.shape[1] // 4
    h = np.zeros((x.shape[1], w.shape[0] - size))
    c = np.zeros((x.shape[1], hidden))
    out = []
    for step in x:
        gates = step @ w[:size] + h @ w[size:] + b
        i, f, o = (sigmoid(gates[:, k * hidden : (k + 1) * hidden]) for k in range(3))
        c = f * c + i * np.tanh(gates[:, 3 * hidden :])
        h = np.tanh(c) * o
        h = h if projection is None else h @ projection
        out.append(h)
    return np.stack(out)


def seq_gru(x: Array, w: Array, b: Array) -> Array:
    """SeqGRU.lua: columns are reset gate, update gate and candidate."""
    size, n = x.shape[2], w.shape[1] // 3
    h = np.zeros((x.shape[1], n))
    out = []
    for step in x:
        gates = step @ w[:size] + b
        gates[:, : 2 * n] += h @ w[size:, : 2 * n]
        r, u = sigmoid(gates[:, :n]), sigmoid(gates[:, n : 2 * n])
        candidate = np.tanh(gates[:, 2 * n :] + (r * h) @ w[size:, 2 * n :])
        h = (1 - u) * candidate + u * h
        out.append(h)
    return np.stack(out)
