"""CNTK 2.7: builds and trains the reference models, saves them in CNTK's own format, and writes CNTK's own ONNX.

Owns which CNTK layers stand for each model family. The file is read by two interpreters, the engine's and CNTK's
CPython 3.6; nothing of CNTK is imported before a function needs it.
"""

import sys
import types
import warnings
from collections import namedtuple
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import numpy as np

ENVIRONMENT = {
    "python": ">=3.6,<3.7",
    "requirements": ["cntk==2.7", "numpy==1.19.5", "scipy==1.5.4"],
    "env": {
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        # The wheel links MPI, which nothing here uses: it need not look for network cards, nor for a remote shell.
        "OMPI_MCA_btl": "self",
        "OMPI_MCA_plm": "isolated",
    },
    # The wheel was linked on Ubuntu 16.04 with Open MPI 1.10; of it CNTK calls only what 4.x has under the same names.
    "libraries": {"libmpi.so.12": "libmpi.so.40", "libmpi_cxx.so.1": "libmpi_cxx.so.40"},
    "install": "on Debian: apt-get install --no-install-recommends libopenmpi3",
    "container": "cntk",
}

PATHS = {
    "native": {"kind": "native", "format": "cntk", "batch": "dynamic"},
    "onnx": {"kind": "onnx", "format": "onnx", "batch": "static"},
    "onnx-dynamic": {"kind": "onnx", "format": "onnx", "batch": "dynamic", "converter": "cntk", "source": "onnx"},
}

#: Letters of the digit names and their longest spelling with its end, as ``data/digits.py`` has them.
LETTERS, LENGTH = 16, 6
#: Units of the decoder's state.
UNITS = 64

#: A trained network: the function that is deployed, and the names of its outputs in order.
Trained = namedtuple("Trained", ("function", "outputs"))
#: The network as it is built: its input, the labels it is taught with, and the logits in use and in training.
Network = namedtuple("Network", ("x", "labels", "logits", "taught"))
#: How a family is built for an input shape without batch, and how it learns.
Family = namedtuple("Family", ("build", "epochs", "rate", "batch"))


def _cntk() -> Any:
    """Import and return CNTK, set to one thread."""
    with warnings.catch_warnings():
        # It warns that this is no Ubuntu 16.04 and that there is no GPU.
        warnings.simplefilter("ignore")
        # It imports pip, for samples that it can install, and an environment holds none.
        sys.modules.setdefault("pip", types.ModuleType("pip"))
        import cntk
    cntk.cntk_py.set_max_num_cputhreads(1)
    cntk.logging.set_trace_level(cntk.logging.TraceLevel.Error)
    return cntk


# --- The three functions of an exporter


def train(model: str, data: Any, seed: int) -> Trained:
    """Build and train the family ``model`` on ``data``; the same seed gives the same weights.

    Raises ``NotImplementedError`` for a family that CNTK cannot express, or that is not built here.
    """
    if model in _IMPOSSIBLE:
        raise NotImplementedError(_IMPOSSIBLE[model])
    if model not in _FAMILIES:
        raise NotImplementedError(f"exporters/cntk.py builds no {model!r}; it builds {', '.join(_FAMILIES)}")
    cntk = _cntk()
    # Initial weights and dropout masks are drawn from one sequence of seeds, which starts over for every model.
    cntk.cntk_py.set_fixed_random_seed(seed)
    cntk.cntk_py.reset_random_seed(seed)
    cntk.cntk_py.force_deterministic_algorithms()
    family = _FAMILIES[model]
    x, y = data.train_x["x"], data.train_y
    network = family.build(x.shape[1:])
    classes = network.labels.shape[-1]
    _fit(network, x, np.eye(classes, dtype=np.float32)[y], family, np.random.RandomState(seed))
    return Trained(network.logits, ("logits",))


def predict(trained: Trained, inputs: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
    """Return the model's outputs by name for ``{"x": float32 array of any batch}``, in inference mode."""
    return {trained.outputs[0]: np.array(trained.function.eval({trained.function.arguments[0]: inputs["x"]}))}


def export(trained: Trained, path: str, inputs: Dict[str, np.ndarray], folder: str) -> Dict[str, Any]:
    """Write the model below ``folder`` by the road ``path`` and return ``{"entry": name, "facts": {...}}``.

    CNTK's ONNX has always a batch of 1. Raises ``ValueError`` for an unknown path and whatever CNTK raises for a model
    that it cannot write.
    """
    cntk = _cntk()
    if path == "native":
        trained.function.save(str(Path(folder) / "model.model"), format=cntk.ModelFormat.CNTKv2)
        return {"entry": "model.model", "facts": {"cntk": cntk.__version__, "converter": "cntk save"}}
    if path == "onnx":
        trained.function.save(str(Path(folder) / "model.onnx"), format=cntk.ModelFormat.ONNX)
        # What every file of this version declares; there is no onnx package in this environment to read it back with.
        facts = {"cntk": cntk.__version__, "converter": "cntk save", "opset": 9, "ir_version": 4}
        return {"entry": "model.onnx", "facts": facts}
    raise ValueError(f"cntk writes no path {path!r}; it writes native and onnx")


def _fit(network: Network, x: np.ndarray, y: np.ndarray, family: Any, order: np.random.RandomState) -> None:
    """Minimise the cross-entropy of the taught logits with Adam, in an ``order`` drawn each epoch."""
    cntk = _cntk()
    # Written out: CNTK's cross_entropy_with_softmax does not train logits of two axes.
    last = len(network.taught.shape) - 1
    likelihood = cntk.reduce_sum(network.labels * network.taught, axis=last)
    loss = cntk.reduce_mean(cntk.reduce_log_sum_exp(network.taught, axis=last) - likelihood)
    # A rate that is said to hold for minibatches of some size would be divided by it, which undoes what Adam does.
    ignore = cntk.learners.IGNORE
    schedule = partial(cntk.learning_parameter_schedule, minibatch_size=ignore)
    moments = [cntk.momentum_schedule(value, minibatch_size=ignore) for value in (0.9, 0.999)]
    learner = cntk.adam(
        loss.parameters, schedule(family.rate), moments[0], variance_momentum=moments[1], minibatch_size=ignore
    )
    trainer = cntk.Trainer(network.taught, (loss, None), [learner])
    batches = len(y) // family.batch
    for epoch in range(family.epochs):
        for batch, rows in enumerate(np.array_split(order.permutation(len(y)), batches)):
            done = (epoch * batches + batch) / (family.epochs * batches)
            learner.reset_learning_rate(schedule(family.rate * (1 + np.cos(np.pi * done)) / 2))
            trainer.train_minibatch({network.x: x[rows], network.labels: y[rows]})


# --- Classifiers: (input N x ...) -> logits N x 10


def _classifier(body: Callable[[Any], Any], shape: Tuple[int, ...], *, sequence: bool) -> Network:
    """Put a linear layer of ten logits on the features that ``body`` makes of an input of ``shape``.

    ``sequence`` reads the rows as CNTK means them: along a dynamic axis, of which every sample has its own length.
    """
    cntk = _cntk()
    x = cntk.sequence.input_variable(shape[1:], name="x") if sequence else cntk.input_variable(shape, name="x")
    logits = cntk.layers.Dense(10, name="logits")(body(x))
    return Network(x, cntk.input_variable(10, name="labels"), logits, logits)


def _mlp(x: Any) -> Any:
    cntk = _cntk()
    x = cntk.layers.Dense(96, activation=cntk.relu)(x)
    return cntk.layers.Dense(64, activation=cntk.relu)(x)


def _conv(filters: int, size: Any, **options: Any) -> Any:
    cntk = _cntk()
    return cntk.layers.Convolution(size, filters, activation=cntk.relu, init=cntk.he_normal(), pad=True, **options)


def _alexnet(x: Any) -> Any:
    cntk = _cntk()
    x = _conv(24, (3, 3))(x)
    # Each channel is divided by the activity of its five neighbours, with the constants of the AlexNet paper.
    x = cntk.local_response_normalization(x, depth_radius=2, bias=2.0, alpha=1e-4, beta=0.75)
    # Windows of three at a stride of two overlap.
    x = cntk.layers.MaxPooling((3, 3), strides=(2, 2), pad=True)(x)
    x = cntk.local_response_normalization(_conv(48, (3, 3))(x), depth_radius=2, bias=2.0, alpha=1e-4, beta=0.75)
    # CNTK wants kernels no larger than the image: no pooling before these three, which would leave it 2 x 2.
    for filters in (48, 48, 32):
        x = _conv(filters, (3, 3))(x)
    x = cntk.layers.MaxPooling((3, 3), strides=(2, 2), pad=True)(x)
    for _ in range(2):
        x = cntk.layers.Dense(96, activation=cntk.relu, init=cntk.he_normal())(x)
        x = cntk.layers.Dropout(0.5)(x)
    return x


def _vgg(x: Any) -> Any:
    cntk = _cntk()
    # CNTK wants kernels no larger than the image: the third block of a VGG would see 2 x 2 pixels.
    for filters, depth in ((16, 2), (32, 3)):
        for _ in range(depth):
            x = _conv(filters, (3, 3))(x)
        x = cntk.layers.MaxPooling((2, 2), strides=(2, 2))(x)
    for _ in range(2):
        x = cntk.layers.Dense(64, activation=cntk.relu, init=cntk.he_normal())(x)
        x = cntk.layers.Dropout(0.2)(x)
    return x


def _inception(x: Any, one: int, three: Tuple[int, int], five: Tuple[int, int], pool: int) -> Any:
    cntk = _cntk()
    pooled = cntk.layers.MaxPooling((3, 3), strides=(1, 1), pad=True)(x)
    return cntk.splice(
        _conv(one, (1, 1))(x),
        _conv(three[1], (3, 3))(_conv(three[0], (1, 1))(x)),
        _conv(five[1], (5, 5))(_conv(five[0], (1, 1))(x)),
        _conv(pool, (1, 1))(pooled),
        axis=0,
    )


def _googlenet(x: Any) -> Any:
    cntk = _cntk()
    x = _conv(16, (3, 3))(x)
    # CNTK wants kernels no larger than the image: the windows of five come before the pooling to 4 x 4.
    x = _inception(x, 12, (12, 16), (4, 8), 8)
    x = _inception(x, 12, (12, 24), (4, 8), 8)
    x = cntk.layers.MaxPooling((3, 3), strides=(2, 2), pad=True)(x)
    x = _conv(48, (3, 3))(x)
    x = cntk.layers.GlobalAveragePooling()(x)
    return cntk.layers.Dropout(0.2)(x)


def _conv_norm(x: Any, filters: int, size: int, stride: int) -> Any:
    cntk = _cntk()
    made = cntk.layers.Convolution((size, size), filters, strides=stride, pad=True, bias=False, init=cntk.he_normal())(
        x
    )
    # The default time constant of 5,000 samples has not seen enough of them after so short a training.
    return cntk.layers.BatchNormalization(map_rank=1, normalization_time_constant=500)(made)


def _basic_block(x: Any, filters: int, stride: int) -> Any:
    cntk = _cntk()
    residual = cntk.relu(_conv_norm(x, filters, 3, stride))
    residual = _conv_norm(residual, filters, 3, 1)
    shortcut = x if stride == 1 and x.shape[0] == filters else _conv_norm(x, filters, 1, stride)
    return cntk.relu(residual + shortcut)


def _resnet(x: Any) -> Any:
    cntk = _cntk()
    x = cntk.relu(_conv_norm(x, 16, 3, 1))
    for filters, stride in ((16, 1), (32, 2), (32, 1)):
        x = _basic_block(x, filters, stride)
    return cntk.layers.GlobalAveragePooling()(x)


def _conv1d(x: Any) -> Any:
    cntk = _cntk()
    # The pixels of a row are the channels, and come first.
    x = cntk.transpose(x, (1, 0))
    x = _conv(32, (3,))(x)
    x = _conv(48, (3,))(x)
    x = cntk.layers.MaxPooling((2,), strides=(2,))(x)
    return _conv(48, (3,))(x)


def _conv3d(x: Any) -> Any:
    cntk = _cntk()
    x = _conv(8, (3, 3, 3))(x)
    x = cntk.layers.MaxPooling((1, 2, 2), strides=(1, 2, 2))(x)
    x = _conv(16, (3, 3, 3))(x)
    x = cntk.layers.MaxPooling((2, 2, 2), strides=(2, 2, 2))(x)
    return cntk.layers.Dense(64, activation=cntk.relu)(x)


def _rnn(x: Any) -> Any:
    cntk = _cntk()
    x = cntk.layers.Recurrence(cntk.layers.RNNStep(64, activation=cntk.tanh))(x)
    return cntk.sequence.last(cntk.layers.Recurrence(cntk.layers.RNNStep(64, activation=cntk.tanh))(x))


def _lstm(x: Any) -> Any:
    cntk = _cntk()
    x = cntk.layers.Recurrence(cntk.layers.LSTM(48))(x)
    return cntk.sequence.last(cntk.layers.Recurrence(cntk.layers.LSTM(48))(x))


def _gru(x: Any) -> Any:
    cntk = _cntk()
    x = cntk.layers.Recurrence(cntk.layers.GRU(48))(x)
    return cntk.sequence.last(cntk.layers.Recurrence(cntk.layers.GRU(48))(x))


def _birnn(x: Any) -> Any:
    cntk = _cntk()
    forward = cntk.layers.Recurrence(cntk.layers.LSTM(48))(x)
    backward = cntk.layers.Recurrence(cntk.layers.LSTM(48), go_backwards=True)(x)
    return cntk.splice(cntk.sequence.last(forward), cntk.sequence.first(backward))


def _layer_norm(width: int) -> Callable[[Any], Any]:
    """Normalise the features of each row on their own; CNTK's layer of that name takes all axes of a sample at once."""
    cntk = _cntk()
    scale, shift = cntk.parameter(width, init=1), cntk.parameter(width, init=0)

    def normalise(x: Any) -> Any:
        centred = x - cntk.reduce_mean(x, axis=1)
        return centred / cntk.sqrt(cntk.reduce_mean(centred * centred, axis=1) + 1e-5) * scale + shift

    return normalise


def _linear(x: Any, width: int, *, bias: bool = True) -> Any:
    """Map the last axis alone to ``width`` features; ``Dense`` would mix all axes."""
    cntk = _cntk()
    made = cntk.times(x, cntk.parameter((x.shape[-1], width), init=cntk.glorot_uniform()))
    return made + cntk.parameter(width) if bias else made


def _self_attention(x: Any, heads: int) -> Any:
    """Scaled dot-product attention of the rows of one sample (R x F), head by head on slices of the features."""
    cntk = _cntk()
    width = x.shape[1]
    size = width // heads
    made = []
    for _ in range(heads):
        queries, keys, values = [_linear(x, size) for _ in range(3)]
        scores = cntk.times(queries, cntk.transpose(keys, (1, 0))) * (1.0 / np.sqrt(size))
        made.append(cntk.times(cntk.softmax(scores, axis=1), values))
    return _linear(cntk.splice(*made, axis=1), width)


def _transformer(x: Any) -> Any:
    cntk = _cntk()
    rows, width = x.shape[0], 32
    # Each row of pixels is a token. The bias over rows and features is the learned position embedding.
    x = _linear(x, width, bias=False) + cntk.parameter((rows, width), init=cntk.normal(0.1))
    for _ in range(2):
        x = _layer_norm(width)(x + cntk.dropout(_self_attention(x, 4), 0.1))
        forward = _linear(cntk.relu(_linear(x, 4 * width)), width)
        x = _layer_norm(width)(x + cntk.dropout(forward, 0.1))
    return cntk.reduce_mean(x, axis=0)


# --- Spelling the digit's name: encoder, attention, decoder


def _encode(x: Any) -> Tuple[Any, Any]:
    """Read 8 rows both ways; return their annotations 8 x ``UNITS`` and the decoder's first state ``UNITS``."""
    cntk = _cntk()
    rows = cntk.to_sequence(x)
    forward = cntk.layers.Recurrence(cntk.layers.GRU(UNITS // 2))(rows)
    backward = cntk.layers.Recurrence(cntk.layers.GRU(UNITS // 2), go_backwards=True)(rows)
    memory = cntk.sequence.unpack(cntk.splice(forward, backward), padding_value=0, no_mask_output=True)
    return memory, cntk.layers.Dense(UNITS, activation=cntk.tanh)(cntk.sequence.first(backward))


def _decoder() -> Callable[[Any, Any, Any, Any], Tuple[Any, Any]]:
    """Return what writes one letter: (letter before 16, state U, memory 8 x U, keys 8 x U) -> (logits 16, state).

    The state asks, every row's annotation answers with tanh(W state + U annotation) weighted by v, and the softmax of
    the answers mixes the annotations: D. Bahdanau, K. Cho and Y. Bengio, arXiv:1409.0473. The state is that of a GRU:
    K. Cho et al., arXiv:1406.1078. CNTK's own GRU stands in recurrences along a sequence axis only.
    """
    cntk = _cntk()
    init = cntk.glorot_uniform()
    query, answer = cntk.parameter((UNITS, UNITS), init=init), cntk.parameter((UNITS, 1), init=init)
    embed = cntk.parameter((LETTERS, 16), init=init)
    gates = cntk.layers.Dense(2 * UNITS, activation=cntk.sigmoid)
    candidate, spell = cntk.layers.Dense(UNITS, activation=cntk.tanh), cntk.layers.Dense(LETTERS)

    def write(letter: Any, state: Any, memory: Any, keys: Any) -> Tuple[Any, Any]:
        answers = cntk.times(cntk.tanh(keys + cntk.times(state, query)), answer)
        context = cntk.reshape(cntk.reduce_sum(cntk.softmax(answers, axis=0) * memory, axis=0), UNITS)
        read = cntk.splice(cntk.times(letter, embed), context)
        gate = gates(cntk.splice(read, state))
        keep, reset = cntk.slice(gate, 0, 0, UNITS), cntk.slice(gate, 0, UNITS, 2 * UNITS)
        after = keep * state + (1 - keep) * candidate(cntk.splice(read, reset * state))
        return spell(cntk.splice(after, context)), after

    return write


def _attention(shape: Tuple[int, ...]) -> Network:
    """Build the greedy decoder, unrolled: x -> logits N x 6 x 16, each letter read back by the next step.

    In training a step is told the letter that it should have found before (teacher forcing).
    """
    cntk = _cntk()
    x = cntk.input_variable(shape, name="x")
    labels = cntk.input_variable((LENGTH, LETTERS), name="labels")
    memory, first = _encode(x)
    keys, write = cntk.times(memory, cntk.parameter((UNITS, UNITS), init=cntk.glorot_uniform())), _decoder()

    def greedy(position: int, logits: Any) -> Any:
        return cntk.reshape(cntk.one_hot(cntk.argmax(logits, axis=0), LETTERS), LETTERS)

    def told(position: int, logits: Any) -> Any:
        return cntk.reshape(cntk.slice(labels, 0, position, position + 1), LETTERS)

    def unroll(next_letter: Callable[[int, Any], Any]) -> Any:
        letter = cntk.constant(np.eye(LETTERS, dtype=np.float32)[0])
        state: Any = first
        written: List[Any] = []
        for position in range(LENGTH):
            logits, state = write(letter, state, memory, keys)
            letter = next_letter(position, logits)
            written.append(cntk.reshape(logits, (1, LETTERS)))
        return cntk.splice(*written, axis=0)

    return Network(x, labels, cntk.combine([unroll(greedy)], name="logits"), unroll(told))


def _classifies(body: Callable[[Any], Any], epochs: int, rate: float, batch: int, *, sequence: bool = False) -> Family:
    return Family(partial(_classifier, body, sequence=sequence), epochs, rate, batch)


_FAMILIES: Dict[str, Family] = {
    "mlp": _classifies(_mlp, 20, 3e-3, 50),
    "alexnet": _classifies(_alexnet, 12, 2e-3, 50),
    "vgg": _classifies(_vgg, 10, 2e-3, 50),
    "googlenet": _classifies(_googlenet, 8, 5e-3, 50),
    "resnet": _classifies(_resnet, 7, 5e-3, 50),
    "conv1d": _classifies(_conv1d, 15, 3e-3, 50),
    "conv3d": _classifies(_conv3d, 6, 5e-3, 50),
    "rnn": _classifies(_rnn, 20, 3e-3, 50, sequence=True),
    "lstm": _classifies(_lstm, 15, 1e-2, 50, sequence=True),
    "gru": _classifies(_gru, 15, 1e-2, 50, sequence=True),
    "birnn": _classifies(_birnn, 15, 1e-2, 50, sequence=True),
    "attention": Family(_attention, 24, 1e-2, 100),
    "transformer": _classifies(_transformer, 15, 3e-3, 50),
}

_IMPOSSIBLE: Dict[str, str] = {
    "beam_search": (
        "CNTK has no loop that ends when all samples of a batch have: UnfoldFrom, its only one with a condition, stops "
        "each sample on its own, along a sequence axis; and Gather, which would follow the beams, refuses operands "
        'of a sample ("right operand doesn\'t expect to have dynamic axis")'
    ),
}
