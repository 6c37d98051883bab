"""PyTensor, the successor of Theano: the reference models as symbolic graphs, their training, and their pickles.

Owns which expressions stand for each model family. PyTensor left Theano's neural network operations behind: what it
calls ``convolve2d`` is of one plane, and it pools nothing.
"""

from __future__ import annotations

import math
import pickle
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ENVIRONMENT = {
    "python": ">=3.11,<3.14",
    "requirements": ["pytensor==3.0.7", "numpy==2.4.6", "scipy==1.17.1", "numba==0.65.1", "llvmlite==0.47.0"],
    "env": {
        # All work is left to NumPy, the bodies of loops included: what numba compiles by default takes longer than the
        # training, up to a minute a graph. The rewrite spares Python loops over the elements of a gradient. Without a
        # limit every variable would carry the lines of code that made it into the pickle, and where they stood.
        "PYTENSOR_FLAGS": "floatX=float32,cxx=,traceback__limit=0,mode=FAST_COMPILE,"
        "optimizer_including=local_fill_to_alloc",
    },
}
LAYOUT = "channels-last"
PATHS = {"native": {"kind": "native", "format": "pytensor", "batch": "dynamic"}}

CLASSES = 10
#: Letters of the digit names and their longest spelling with its end, as ``data/digits.py`` has them.
LETTERS, LENGTH = 16, 6
#: Units of the decoder's state, and beams that the beam search keeps.
UNITS, BEAMS = 64, 3
#: Stands for the logarithm of zero: a true infinity would turn into NaN where a runtime multiplies by a mask.
IMPOSSIBLE = -1e9
#: Families that are made of convolutions and pooling.
CONVOLUTIONAL = frozenset({"alexnet", "vgg", "googlenet", "resnet", "conv1d", "conv3d"})
#: How deep the pickle of a graph is nested at most: a level or two for each expression that uses another.
PICKLE_DEPTH = 50000


class Family(NamedTuple):
    """How a family is written, the input's shape without batch, and how it learns."""

    body: Callable[[Network, Any], list[Any]]
    shape: tuple[int, ...]
    epochs: int
    rate: float
    batch: int = 100
    classes: int = CLASSES
    outputs: tuple[str, ...] = ("logits",)


class Trained(NamedTuple):
    """A trained network: its family, the deployed graph, and that graph as a function of a batch."""

    model: str
    symbols: dict[str, list[Any]]
    function: Callable[[np.ndarray], list[np.ndarray]]


class Network:
    """What a network is written with: named weights, and whether it is being trained."""

    def __init__(self, draw: np.random.Generator, shared: dict[str, Any] | None = None) -> None:
        """Draw weights from ``draw``, for training; with ``shared``, use those, which are trained."""
        self.training = shared is None
        self.shared: dict[str, Any] = shared or {}
        #: In training the right answers, N or N x 6: a decoder is told the letters before the one it has to guess.
        self.labels: Any = None
        self._draw = draw

    def weight(self, name: str, shape: tuple[int, ...], scale: float = 0.0, start: float = 0.0) -> Any:
        """Return the shared variable ``name``: drawn with standard deviation ``scale``, or all ``start``."""
        import pytensor

        if name not in self.shared:
            value = self._draw.normal(size=shape) * scale if scale else np.full(shape, start)
            self.shared[name] = pytensor.shared(value.astype(np.float32), name=name)
        return self.shared[name]

    def dense(self, x: Any, name: str, inputs: int, outputs: int) -> Any:
        """Return ``x W + b`` over the last axis of ``x``."""
        w = self.weight(f"{name}.w", (inputs, outputs), math.sqrt(2 / (inputs + outputs)))
        return _tensor().dot(x, w) + self.weight(f"{name}.b", (outputs,))


# --- The three functions of an exporter


def train(model: str, data: Any, seed: int) -> Trained:
    """Build and train the family ``model`` on ``data``; the same seed gives the same weights.

    Raises ``NotImplementedError`` for a family that is not built here.
    """
    import pytensor

    if model not in FAMILIES:
        if model in CONVOLUTIONAL:
            raise NotImplementedError(
                "PyTensor 3 has no convolution over channels (its convolve2d takes one plane) and no pooling; written "
                "as products of shifted copies, the graph of such a network takes longer to rewrite than to train"
            )
        raise NotImplementedError(f"exporters/pytensor.py builds no {model!r}; it builds {', '.join(FAMILIES)}")
    family = FAMILIES[model]
    network = Network(np.random.default_rng(seed))
    network.labels = _tensor().tensor("labels", dtype="int64", shape=(None,) * data.train_y.ndim)
    x = _input(family)
    _fit(network, x, family.body(network, x)[0], data, family, np.random.default_rng(seed))
    x = _input(family)
    outputs = family.body(Network(np.random.default_rng(seed), network.shared), x)
    for name, output in zip(family.outputs, outputs, strict=True):
        output.name = name
    symbols = {"inputs": [x], "outputs": outputs}
    return Trained(model, symbols, pytensor.function([x], outputs))


def predict(trained: Trained, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the network's own outputs by name for ``{"x": float32 array of any batch}``, in inference mode."""
    values = trained.function(inputs["x"])
    # The next call may write into the buffers of loops again.
    return {name: np.array(value) for name, value in zip(FAMILIES[trained.model].outputs, values, strict=True)}


def export(trained: Trained, path: str, inputs: dict[str, np.ndarray], folder: str) -> dict[str, Any]:
    """Write ``model.pkl``, a pickle of ``{"inputs": [...], "outputs": [...]}``: the graph before any rewriting.

    Returns ``{"entry": name, "facts": {...}}``; raises ``ValueError`` for another path than ``native``.
    """
    import pytensor

    if path not in PATHS:
        raise ValueError(f"pytensor has no path {path!r}; it has {', '.join(PATHS)}")
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(PICKLE_DEPTH)
    try:
        with (Path(folder) / "model.pkl").open("wb") as stream:
            pickle.dump(trained.symbols, stream, protocol=pickle.HIGHEST_PROTOCOL)
    finally:
        sys.setrecursionlimit(limit)
    return {"entry": "model.pkl", "facts": {"pytensor": pytensor.__version__}}


# --- Training and compilation


def _tensor() -> Any:
    """Return PyTensor's tensor module."""
    import pytensor.tensor

    return pytensor.tensor


def _input(family: Family) -> Any:
    return _tensor().tensor("x", dtype="float32", shape=(None, *family.shape))


def _fit(network: Network, x: Any, scores: Any, data: Any, family: Family, order: np.random.Generator) -> None:
    """Minimise the cross-entropy of ``scores`` by Adam, in an ``order`` drawn each epoch.

    The rate follows half a cosine down to zero.
    """
    import pytensor

    tensor = _tensor()
    rate = tensor.scalar("rate", dtype="float32")
    logits, labels = scores.reshape((-1, family.classes)), network.labels.flatten()
    loss = (
        -(tensor.special.log_softmax(logits, axis=1) * tensor.eq(labels[:, None], np.arange(family.classes)))
        .sum(axis=1)
        .mean()
    )
    updates = _adam(loss, list(network.shared.values()), rate)
    descend = pytensor.function([x, network.labels, rate], [], updates=updates)
    inputs, answers = data.train_x["x"], data.train_y
    batches = len(answers) // family.batch
    for epoch in range(family.epochs):
        for number, rows in enumerate(np.array_split(order.permutation(len(answers)), batches)):
            done = (epoch + number / batches) / family.epochs
            descend(inputs[rows], answers[rows], np.float32(family.rate * (1 + math.cos(math.pi * done)) / 2))


def _adam(loss: Any, weights: list[Any], rate: Any) -> list[tuple[Any, Any]]:
    """Return the updates of D. Kingma and J. Ba, arXiv:1412.6980, algorithm 1 (the variant before section 2.1)."""
    import pytensor

    tensor = _tensor()
    one, first, second = np.float32(1), np.float32(0.9), np.float32(0.999)
    step = pytensor.shared(np.float32(0))
    rate = rate * tensor.sqrt(one - second ** (step + one)) / (one - first ** (step + one))
    updates = [(step, step + one)]
    for weight, slope in zip(weights, pytensor.grad(loss, weights), strict=True):
        mean, square = (pytensor.shared(np.zeros_like(weight.get_value())) for _ in range(2))
        new_mean = mean + (one - first) * (slope - mean)
        new_square = square + (one - second) * (slope * slope - square)
        moved = weight - rate * new_mean / (tensor.sqrt(new_square) + np.float32(1e-7))
        updates += [(mean, new_mean), (square, new_square), (weight, moved)]
    return updates


# --- Expressions


def _relu(x: Any) -> Any:
    return _tensor().maximum(x, np.float32(0))


def _scan(net: Network, step: Callable[..., Any], sequences: list[Any], start: list[Any], **options: Any) -> Any:
    """Return what ``step`` made of each element of ``sequences`` and of its own results before, on a new first axis."""
    import pytensor

    # Left to itself, a loop compiles its body as for C++, and runs that in Python, element by element.
    mode = _loop_mode() if net.training else "FAST_COMPILE"
    return pytensor.scan(step, sequences, start, mode=mode, return_updates=False, **options)


def _loop_mode() -> Any:
    """Return how the bodies of loops and of their gradients are compiled in training: as PYTENSOR_FLAGS say."""
    from pytensor.compile.mode import Mode
    from pytensor.link.vm import VMLinker

    mode = Mode(VMLinker(use_cloop=False, c_thunks=False), "fast_compile").including("local_second_to_alloc")
    return mode.excluding("local_mul_canonizer", "add_mul_fusion", "fusion")


# --- Classifiers: (network, input N x ... x C) -> [logits N x 10]


def _mlp(net: Network, x: Any) -> list[Any]:
    x = _relu(net.dense(x.flatten(2), "hidden1", 64, 64))
    return [net.dense(_relu(net.dense(x, "hidden2", 64, 32)), "logits", 32, CLASSES)]


# --- Recurrence: (network, steps N x T x I) -> states T x N x units


class Cell(NamedTuple):
    """What makes the next states of a recurrent layer: its gates, how many states it carries, and the step itself."""

    gates: int
    carried: int
    advance: Callable[..., Any]


def _recurrent(net: Network, x: Any, name: str, inputs: int, units: int, cell: Cell, *, backwards: bool = False) -> Any:
    """Run ``cell`` over the second axis of ``x``, given what the gates take from the input all at once."""
    heard = net.dense(x.dimshuffle(1, 0, 2), f"{name}.in", inputs, cell.gates * units)
    w = net.weight(f"{name}.w", (units, cell.gates * units), math.sqrt(1 / units))
    start = [_tensor().alloc(np.float32(0), x.shape[0], units)] * cell.carried
    step = partial(cell.advance, units)
    found = _scan(net, step, [heard], start, non_sequences=[w], strict=True, go_backwards=backwards)
    return found[0] if cell.carried > 1 else found


def _rnn_step(units: int, heard: Any, hidden: Any, w: Any) -> Any:
    return _tensor().tanh(heard + _tensor().dot(hidden, w))


def _lstm_step(units: int, heard: Any, hidden: Any, cell: Any, w: Any) -> list[Any]:
    tensor = _tensor()
    gates = heard + tensor.dot(hidden, w)
    opened = tensor.sigmoid(gates[:, : 3 * units])
    cell = opened[:, :units] * cell + opened[:, units : 2 * units] * tensor.tanh(gates[:, 3 * units :])
    return [opened[:, 2 * units :] * tensor.tanh(cell), cell]


def _gru_step(units: int, heard: Any, hidden: Any, w: Any) -> Any:
    """Return the next state; the gate that forgets acts on what the state contributes, as in cuDNN."""
    tensor = _tensor()
    said = tensor.dot(hidden, w)
    opened = tensor.sigmoid(heard[:, : 2 * units] + said[:, : 2 * units])
    fresh = tensor.tanh(heard[:, 2 * units :] + opened[:, :units] * said[:, 2 * units :])
    kept = opened[:, units:]
    return kept * hidden + (np.float32(1) - kept) * fresh


RNN, LSTM, GRU = Cell(1, 1, _rnn_step), Cell(4, 2, _lstm_step), Cell(3, 1, _gru_step)


def _reads(cell: Cell, net: Network, x: Any) -> list[Any]:
    """Read the rows one by one; the last state is classified."""
    return [net.dense(_recurrent(net, x, "cells", 8, 48, cell)[-1], "logits", 48, CLASSES)]


def _birnn(net: Network, x: Any) -> list[Any]:
    """Read the rows with two LSTM layers, one from either end; the last state of each is classified."""
    forward = _recurrent(net, x, "forward", 8, 32, LSTM)[-1]
    backward = _recurrent(net, x, "backward", 8, 32, LSTM, backwards=True)[-1]
    return [net.dense(_tensor().concatenate([forward, backward], axis=1), "logits", 64, CLASSES)]


# --- Attention


def _layer_normalized(net: Network, x: Any, name: str, width: int) -> Any:
    """Ba et al. 2016, over the last axis."""
    x = x - x.mean(axis=-1, keepdims=True)
    x = x / _tensor().sqrt((x * x).mean(axis=-1, keepdims=True) + np.float32(1e-5))
    return x * net.weight(f"{name}.gain", (width,), start=1.0) + net.weight(f"{name}.bias", (width,))


def _transformer(net: Network, x: Any) -> list[Any]:
    """Vaswani et al. 2017: two encoder layers over the embedded rows, averaged and classified."""
    tensor = _tensor()
    width, heads, steps = 32, 4, 8
    depth = width // heads

    def split(values: Any) -> Any:
        return values.reshape((-1, steps, heads, depth)).dimshuffle(0, 2, 1, 3)

    x = net.dense(x, "embed", 8, width) + net.weight("position", (steps, width), 0.1)
    for layer in ("layer0.", "layer1."):
        query, key, value = (split(net.dense(x, layer + name, width, width)) for name in ("query", "key", "value"))
        likeness = tensor.matmul(query, key.dimshuffle(0, 1, 3, 2)) * np.float32(depth**-0.5)
        mixed = tensor.matmul(tensor.special.softmax(likeness, axis=-1), value).dimshuffle(0, 2, 1, 3)
        mixed = mixed.reshape((-1, steps, width))
        x = _layer_normalized(net, x + net.dense(mixed, layer + "out", width, width), layer + "norm1", width)
        inner = _relu(net.dense(x, layer + "inner", width, 2 * width))
        x = _layer_normalized(net, x + net.dense(inner, layer + "outer", 2 * width, width), layer + "norm2", width)
    return [net.dense(x.mean(axis=1), "logits", width, CLASSES)]


def _encode(net: Network, x: Any) -> tuple[Any, Any]:
    """Read N x 8 x 8 rows from both ends; return the memory N x 8 x UNITS and the decoder's first state N x UNITS."""
    half = UNITS // 2
    forward = _recurrent(net, x, "forward", 8, half, GRU)
    backward = _recurrent(net, x, "backward", 8, half, GRU, backwards=True)
    memory = _tensor().concatenate([forward, backward[::-1]], axis=2).dimshuffle(1, 0, 2)
    return memory, _tensor().tanh(net.dense(backward[-1], "first_state", half, UNITS))


def _write(net: Network, before: Any, state: Any, memory: Any, keys: Any) -> tuple[Any, Any]:
    """Return logits N x 16 of the next letter and the next state, given the letter ``before`` (N) and the state.

    The state asks, each row of the memory answers with v tanh(W state + U row), and the softmax of the answers mixes
    the rows: D. Bahdanau, K. Cho and Y. Bengio, arXiv:1409.0473. ``keys`` are the products U row.
    """
    tensor = _tensor()
    query = tensor.dot(state, net.weight("query", (UNITS, UNITS), UNITS**-0.5)).dimshuffle(0, "x", 1)
    answers = tensor.dot(tensor.tanh(keys + query), net.weight("energy", (UNITS,), UNITS**-0.5))
    context = (memory * tensor.special.softmax(answers, axis=-1).dimshuffle(0, 1, "x")).sum(axis=1)
    letter = net.weight("letters", (LETTERS, 16), 1.0)[before]
    heard = net.dense(tensor.concatenate([letter, context], axis=1), "cell.in", 16 + UNITS, 3 * UNITS)
    state = _gru_step(UNITS, heard, state, net.weight("cell.w", (UNITS, 3 * UNITS), UNITS**-0.5))
    return net.dense(tensor.concatenate([state, context], axis=1), "spell", 2 * UNITS, LETTERS), state


def _taught(net: Network, memory: Any, keys: Any, first: Any) -> list[Any]:
    """Return logits N x 6 x 16 of a decoder that is told the letters before, whatever it wrote instead."""

    def step(before: Any, state: Any, memory: Any, keys: Any) -> list[Any]:
        logits, state = _write(net, before, state, memory, keys)
        return [state, logits]

    letters = net.labels.dimshuffle(1, 0)
    told = _tensor().concatenate([_tensor().zeros_like(letters[:1]), letters[:-1]])
    return [_scan(net, step, [told], [first, None], non_sequences=[memory, keys])[1].dimshuffle(1, 0, 2)]


def _attention(net: Network, x: Any) -> list[Any]:
    """Write the digit's name in six steps, each told the likeliest letter of the last: logits N x 6 x 16."""
    memory, first = _encode(net, x)
    keys = net.dense(memory, "keys", UNITS, UNITS)
    if net.training:
        return _taught(net, memory, keys, first)

    def step(before: Any, state: Any, memory: Any, keys: Any) -> list[Any]:
        logits, state = _write(net, before, state, memory, keys)
        return [logits.argmax(axis=1), state, logits]

    start = _tensor().alloc(np.int64(0), x.shape[0])
    found = _scan(net, step, [], [start, first, None], non_sequences=[memory, keys], n_steps=LENGTH)
    return [found[2].dimshuffle(1, 0, 2)]


def _beam_search(net: Network, x: Any) -> list[Any]:
    """Write the name by a beam search that stops once all beams of all rows have ended.

    Returns the best beam's tokens N x 6, its log-probability N, and the number of steps taken, 1.
    """
    tensor = _tensor()
    memory, first = _encode(net, x)
    keys = net.dense(memory, "keys", UNITS, UNITS)
    if net.training:
        return _taught(net, memory, keys, first)
    rows = x.shape[0]
    beams = tensor.arange(rows * BEAMS) // BEAMS
    # All beams start alike: only the first may be continued, or each would be found three times.
    only_first = np.array([[0.0] + [IMPOSSIBLE] * (BEAMS - 1)], np.float32)
    start = [
        tensor.alloc(np.int64(0), rows, BEAMS),
        first[beams],
        tensor.alloc(np.int64(0), rows, BEAMS, LENGTH),
        tensor.alloc(np.float32(0), rows, BEAMS) + only_first,
    ]
    places = tensor.arange(LENGTH)
    found = _scan(net, partial(_extend, net), [places], start, non_sequences=[memory[beams], keys[beams]])
    return [found[2][-1][:, 0], found[3][-1][:, 0], found[3].shape[:1]]


def _extend(
    net: Network, place: Any, last: Any, state: Any, tokens: Any, scores: Any, memory: Any, keys: Any
) -> tuple[list[Any], Any]:
    """Write one more letter: of all continuations of a row's beams, keep the ``BEAMS`` likeliest."""
    from pytensor.scan import until

    tensor = _tensor()
    logits, state = _write(net, last.flatten(), state, memory, keys)
    likely = tensor.special.log_softmax(logits, axis=-1).reshape((-1, BEAMS, LETTERS))
    # A word that has ended goes on with the end sign alone, at no cost.
    end_only = np.array([0.0] + [IMPOSSIBLE] * (LETTERS - 1), np.float32)
    ended = (tensor.eq(last, 0) & tensor.gt(place, 0)).dimshuffle(0, 1, "x")
    totals = (scores.dimshuffle(0, 1, "x") + tensor.switch(ended, end_only, likely)).reshape((-1, BEAMS * LETTERS))
    best = tensor.argsort(-totals, axis=1)[:, :BEAMS]
    row = tensor.arange(best.shape[0]).dimshuffle(0, "x")
    letter, beam = best % LETTERS, (best // LETTERS + row * BEAMS).flatten()
    tokens = tokens.reshape((-1, LENGTH))[beam].reshape((-1, BEAMS, LENGTH))
    tokens = tensor.switch(tensor.eq(tensor.arange(LENGTH), place), letter.dimshuffle(0, 1, "x"), tokens)
    scores = totals.flatten()[(best + row * (BEAMS * LETTERS)).flatten()].reshape((-1, BEAMS))
    return [letter, state[beam], tokens, scores], until(tensor.eq(letter.max(), 0))


IMAGE, ROWS = (8, 8, 1), (8, 8)
#: Epochs and rates are what reaches nine in ten of the held-out digits, or words, within seconds.
FAMILIES = {
    "mlp": Family(_mlp, IMAGE, 20, 0.005, 50),
    "rnn": Family(partial(_reads, RNN), ROWS, 25, 0.01),
    "lstm": Family(partial(_reads, LSTM), ROWS, 15, 0.015, 50),
    "gru": Family(partial(_reads, GRU), ROWS, 15, 0.015, 50),
    "birnn": Family(_birnn, ROWS, 15, 0.015, 50),
    "attention": Family(_attention, ROWS, 16, 0.01, classes=LETTERS),
    "transformer": Family(_transformer, ROWS, 15, 0.006),
    "beam_search": Family(_beam_search, ROWS, 16, 0.01, classes=LETTERS, outputs=("tokens", "scores", "steps")),
}
