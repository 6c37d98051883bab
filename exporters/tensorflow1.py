"""TensorFlow 1.15: builds and trains the reference models as static graphs and exports them by its own roads.

Owns which operations stand for each model family and how each converter is called. Runs on CPython 3.7, and imports
nothing of TensorFlow before a function needs it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ENVIRONMENT = {
    "python": ">=3.7,<3.8",
    "requirements": [
        "tensorflow==1.15.5",
        "tensorflow-estimator==1.15.1",
        "tf2onnx==1.15.1",
        "onnx==1.14.1",
        "h5py==2.10.0",
        # The newest that still reads the message classes which TensorFlow 1 was generated with.
        "protobuf==3.20.3",
        # The newest before numpy deprecated the aliases (np.bool, np.object) that TensorFlow 1 calls.
        "numpy==1.18.5",
        # TensorFlow 1 looks for classes of Python's syntax that later ones have no more.
        "gast==0.2.2",
        "flatbuffers==25.12.19",
        # tf2onnx imports it without asking for it.
        "packaging==24.0",
    ],
    "container": "tensorflow1",
    "env": {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2", "TF_DETERMINISTIC_OPS": "1"},
}

LAYOUT = "channels-last"

PATHS: dict[str, dict[str, Any]] = {
    "savedmodel": {"kind": "native", "format": "savedmodel", "batch": "dynamic"},
    "frozen": {"kind": "native", "format": "tensorflow-graph", "batch": "dynamic"},
    "tflite": {"kind": "native", "format": "tflite", "batch": "static"},
    "onnx-tf2onnx": {"kind": "onnx", "format": "onnx", "batch": "static"},
    "onnx-tf2onnx-dynamic": {"kind": "onnx", "format": "onnx", "batch": "dynamic"},
}

#: What tf2onnx 1.15 writes unless told otherwise; the opset of 2019, with which its loops still become valid ONNX; the
#: newest, beyond which it refuses.
OPSET, OLDEST, NEWEST = 15, 9, 18
PATHS.update(
    {
        f"{path}+opset{opset}": {**way, "opset": opset}
        for path, way in PATHS.items()
        if way["kind"] == "onnx"
        for opset in (OLDEST, NEWEST)
    }
)
CLASSES = 10
#: Letters of the digit names and their longest spelling with its end, as ``data/digits.py`` has them.
LETTERS, LENGTH = 16, 6
#: Units of the decoder's state, and beams that the beam search keeps.
UNITS, BEAMS = 64, 3
#: Stands for the logarithm of zero: a true infinity would turn into NaN where a runtime multiplies by a mask.
IMPOSSIBLE = -1e9


class Network(NamedTuple):
    """A graph for inference in a session that holds its weights: placeholder ``x`` and outputs by reference name."""

    session: Any
    x: Any
    outputs: dict[str, Any]


class Trained(NamedTuple):
    """A trained family: its weights by variable name, the shape of its input without batch, its network."""

    model: str
    shape: tuple[int, ...]
    weights: dict[str, np.ndarray]
    network: Network


@functools.lru_cache(maxsize=1)
def _backend() -> Any:
    """Import TensorFlow and return its first API, with its deprecation notices turned off."""
    import tensorflow

    tf = tensorflow.compat.v1
    tf.logging.set_verbosity(tf.logging.ERROR)
    return tf


# --- The three functions of an exporter


def train(model: str, data: Any, seed: int) -> Trained:
    """Build and train the family ``model`` on ``data``; the same seed gives the same weights.

    Raises ``NotImplementedError`` for a family that is not built here.
    """
    if model not in _FAMILIES:
        raise NotImplementedError(f"exporters/tensorflow1.py builds no {model!r}; it builds {', '.join(_FAMILIES)}")
    x, y = data.train_x["x"], data.train_y
    inputs = {"x": x, "labels": y}
    if y.ndim == 2:
        # A decoder in training is told the letters before the one it has to guess (teacher forcing).
        inputs["before"] = np.pad(y, ((0, 0), (1, 0)), mode="constant")[:, :-1]
    weights = _fit(_FAMILIES[model], inputs, seed)
    return Trained(model, x.shape[1:], weights, _deploy(model, (None, *x.shape[1:]), weights))


def predict(trained: Trained, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the model's outputs by name for ``{"x": float32 array of any batch}``, in inference mode."""
    return dict(trained.network.session.run(trained.network.outputs, {trained.network.x: inputs["x"]}))


def export(trained: Trained, path: str, inputs: dict[str, np.ndarray], folder: str) -> dict[str, Any]:
    """Write the model below ``folder`` by the road ``path`` and return ``{"entry": name, "facts": {...}}``.

    A static path fixes the batch of ``inputs``. Raises ``ValueError`` for an unknown path and whatever the converter
    raises for a model that it cannot convert.
    """
    if path not in PATHS:
        raise ValueError(f"tensorflow1 has no path {path!r}; it has {', '.join(PATHS)}")
    network, way = trained.network, PATHS[path]
    if way["batch"] == "static":
        network = _deploy(trained.model, (len(inputs["x"]), *trained.shape), trained.weights)
    entry, convert = _CONVERTERS[path.partition("+")[0].replace("-dynamic", "")]
    facts = convert(network, way.get("opset", OPSET), Path(folder) / entry)
    return {"entry": entry, "facts": {"tensorflow": _backend().__version__, **facts}}


def _session(graph: Any) -> Any:
    """Return a session of ``graph`` on one thread, where additions keep their order."""
    tf = _backend()
    config = tf.ConfigProto(
        intra_op_parallelism_threads=1, inter_op_parallelism_threads=1, use_per_session_threads=True
    )
    return tf.Session(graph=graph, config=config)


def _fit(family: Family, inputs: dict[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """Train a graph of its own and return its weights: minimises the cross-entropy of the logits of ``inputs``."""
    tf = _backend()
    rows = len(inputs["x"])
    batches = rows // family.batch
    order = np.random.default_rng(seed)
    with tf.Graph().as_default() as graph:
        tf.set_random_seed(seed)
        fed = {name: tf.placeholder(value.dtype, (None, *value.shape[1:]), name) for name, value in inputs.items()}
        logits = family.learn(fed["x"], fed.get("before"))
        kept = tf.global_variables()  # before the optimizer adds its own
        loss = tf.losses.sparse_softmax_cross_entropy(fed["labels"], logits)
        moment = tf.train.get_or_create_global_step()
        optimizer = tf.train.AdamOptimizer(tf.train.cosine_decay(family.rate, moment, family.epochs * batches))
        # Batch normalisation updates its averages beside the gradient, in operations that nothing else asks for.
        with tf.control_dependencies(tf.get_collection(tf.GraphKeys.UPDATE_OPS)):
            descend = optimizer.minimize(loss, moment)
        start = tf.global_variables_initializer()
    with _session(graph) as session:
        session.run(start)
        for _ in range(family.epochs):
            for chosen in np.array_split(order.permutation(rows), batches):
                session.run(descend, {fed[name]: value[chosen] for name, value in inputs.items()})
        return dict(session.run({variable.op.name: variable for variable in kept}))


def _deploy(model: str, shape: tuple[int | None, ...], weights: dict[str, np.ndarray]) -> Network:
    """Build the family's graph for inference on an ``x`` of ``shape`` (its batch first, or None) and load it.

    Its placeholder is called ``x`` and its outputs have the reference names, whatever file it goes to.
    """
    tf = _backend()
    with tf.Graph().as_default() as graph:
        x = tf.placeholder(tf.float32, shape, name="x")
        outputs = {name: tf.identity(value, name) for name, value in _FAMILIES[model].deploy(x).items()}
        variables = tf.global_variables()
        session = _session(graph)
        for variable in variables:
            variable.load(weights[variable.op.name], session)
    return Network(session, x, outputs)


# --- Converters: (network, opset, where to write) -> facts


def _to_savedmodel(network: Network, opset: int, file: Path) -> dict[str, Any]:
    tf = _backend()
    with network.session.graph.as_default():
        tf.saved_model.simple_save(network.session, str(file), {"x": network.x}, network.outputs)
    return {"converter": "tf.saved_model", "signature": "serving_default"}


def _to_frozen(network: Network, opset: int, file: Path) -> dict[str, Any]:
    file.write_bytes(_frozen(network).SerializeToString())
    return {"converter": "tf.graph_util"}


def _to_tflite(network: Network, opset: int, file: Path) -> dict[str, Any]:
    tf = _backend()
    converter = tf.lite.TFLiteConverter.from_session(network.session, [network.x], list(network.outputs.values()))
    with _own_programs():
        file.write_bytes(converter.convert())
    return {"converter": "tf.lite with toco"}


def _to_onnx(network: Network, opset: int, file: Path) -> dict[str, Any]:
    import onnx
    import tf2onnx

    tf = _backend()
    outputs = list(network.outputs)
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(_frozen(network), name="")
        # Not by tf2onnx.convert, which has TensorFlow fold constants first: that moves the weights of a dynamic_rnn
        # into its loop, where tf2onnx does not see them, and what could be LSTM or GRU becomes Scan.
        converted = tf2onnx.tfonnx.process_tf_graph(
            graph,
            opset=opset,
            input_names=["x:0"],
            output_names=[f"{name}:0" for name in outputs],
            tensors_to_rename={f"{name}:0": name for name in ("x", *outputs)},
        )
        model = tf2onnx.optimizer.optimize_graph(converted).make_model("tensorflow1")
    onnx.save(model, str(file))
    return {"converter": "tf2onnx process_tf_graph", "opset_asked": opset, **_onnx_facts(file)}


_CONVERTERS: dict[str, tuple[str, Callable[[Network, int, Path], dict[str, Any]]]] = {
    "savedmodel": ("model", _to_savedmodel),
    "frozen": ("model.pb", _to_frozen),
    "tflite": ("model.tflite", _to_tflite),
    "onnx-tf2onnx": ("model.onnx", _to_onnx),
}


def _frozen(network: Network) -> Any:
    """Return the network's ``GraphDef``, with its weights as constants and without what only training needs."""
    tf = _backend()
    graph = network.session.graph
    return tf.graph_util.convert_variables_to_constants(network.session, graph.as_graph_def(), list(network.outputs))


@contextlib.contextmanager
def _own_programs() -> Iterator[None]:
    """Let the converter, a program of its own beside the interpreter, be found though no one activated anything."""
    before = os.environ.get("PATH", os.defpath)
    os.environ["PATH"] = str(Path(sys.executable).parent) + os.pathsep + before
    try:
        yield
    finally:
        os.environ["PATH"] = before


def _onnx_facts(file: Path) -> dict[str, Any]:
    """Return what was written. Raises ``NotImplementedError`` where tf2onnx only logs what it could not convert."""
    import onnx
    import tf2onnx

    written = onnx.load(str(file))
    try:
        onnx.checker.check_model(written)
    except onnx.checker.ValidationError as error:
        raise NotImplementedError(f"tf2onnx wrote a file that is not valid ONNX: {error}") from error
    opset = next(entry.version for entry in written.opset_import if entry.domain == "")
    return {"tf2onnx": tf2onnx.__version__, "opset": opset, "ir_version": written.ir_version}


# --- Families that tell ten digits apart: (x, training) -> features N x F


def _classify(body: Callable[..., Any], x: Any, *, training: bool) -> Any:
    return _backend().layers.dense(body(x, training=training), CLASSES, name="classify")


def _conv(x: Any, filters: int, size: int) -> Any:
    tf = _backend()
    start = tf.variance_scaling_initializer(2.0)  # K. He et al., arXiv:1502.01852
    return tf.layers.conv2d(x, filters, size, padding="same", activation=tf.nn.relu, kernel_initializer=start)


def _mlp(x: Any, *, training: bool) -> Any:
    tf = _backend()
    x = tf.layers.flatten(x)
    for units in (64, 48):
        x = tf.layers.dense(x, units, activation=tf.nn.relu)
    return x


def _alexnet(x: Any, *, training: bool) -> Any:
    tf = _backend()
    for filters in (24, 48):
        x = _conv(x, filters, 3)
        # The constants of the AlexNet paper, over five neighbours.
        x = tf.nn.lrn(x, depth_radius=2, bias=2.0, alpha=1e-4, beta=0.75)
        # Windows of three at a stride of two overlap.
        x = tf.layers.max_pooling2d(x, 3, 2, padding="same")
    for filters in (64, 64, 48):
        x = _conv(x, filters, 3)
    x = tf.layers.flatten(tf.layers.max_pooling2d(x, 3, 2, padding="same"))
    for _ in range(2):
        x = tf.layers.dense(x, 128, activation=tf.nn.relu)
        x = tf.layers.dropout(x, 0.5, training=training)
    return x


def _vgg(x: Any, *, training: bool) -> Any:
    tf = _backend()
    for filters, depth in ((16, 2), (32, 2), (48, 3)):
        for _ in range(depth):
            x = _conv(x, filters, 3)
        x = tf.layers.max_pooling2d(x, 2, 2)
    x = tf.layers.flatten(x)
    for _ in range(2):
        x = tf.layers.dense(x, 64, activation=tf.nn.relu)
        x = tf.layers.dropout(x, 0.2, training=training)
    return x


def _inception(x: Any, one: int, three: tuple[int, int], five: tuple[int, int], pool: int) -> Any:
    tf = _backend()
    pooled = tf.layers.max_pooling2d(x, 3, 1, padding="same")
    branches = [
        _conv(x, one, 1),
        _conv(_conv(x, three[0], 1), three[1], 3),
        _conv(_conv(x, five[0], 1), five[1], 5),
        _conv(pooled, pool, 1),
    ]
    return tf.concat(branches, axis=3)


def _googlenet(x: Any, *, training: bool) -> Any:
    tf = _backend()
    x = _inception(_conv(x, 24, 3), 12, (12, 24), (4, 8), 8)
    x = tf.layers.max_pooling2d(x, 3, 2, padding="same")
    x = _inception(x, 24, (16, 32), (4, 8), 8)
    x = _inception(x, 24, (16, 32), (4, 8), 8)
    return tf.layers.dropout(tf.reduce_mean(x, axis=[1, 2]), 0.2, training=training)


def _conv_norm(x: Any, filters: int, size: int, stride: int, *, training: bool) -> Any:
    tf = _backend()
    x = tf.layers.conv2d(x, filters, size, stride, padding="same", use_bias=False)
    # The default momentum of 0.99 has not seen enough steps after so short a training.
    return tf.layers.batch_normalization(x, momentum=0.9, training=training)


def _resnet(x: Any, *, training: bool) -> Any:
    tf = _backend()
    x = tf.nn.relu(_conv_norm(x, 16, 3, 1, training=training))
    for filters, stride in ((16, 1), (32, 2), (32, 1)):
        residual = tf.nn.relu(_conv_norm(x, filters, 3, stride, training=training))
        residual = _conv_norm(residual, filters, 3, 1, training=training)
        plain = stride == 1 and x.shape[-1] == filters
        x = tf.nn.relu(residual + (x if plain else _conv_norm(x, filters, 1, stride, training=training)))
    return tf.reduce_mean(x, axis=[1, 2])


def _conv1d(x: Any, *, training: bool) -> Any:
    tf = _backend()
    for filters in (32, 64):
        x = tf.layers.conv1d(x, filters, 3, padding="same", activation=tf.nn.relu)
    x = tf.layers.max_pooling1d(x, 2, 2)
    return tf.layers.flatten(tf.layers.conv1d(x, 64, 3, padding="same", activation=tf.nn.relu))


def _conv3d(x: Any, *, training: bool) -> Any:
    tf = _backend()
    x = tf.layers.conv3d(x, 8, 3, padding="same", activation=tf.nn.relu)
    x = tf.layers.max_pooling3d(x, (1, 2, 2), (1, 2, 2))
    x = tf.layers.conv3d(x, 16, 3, padding="same", activation=tf.nn.relu)
    x = tf.layers.flatten(tf.layers.max_pooling3d(x, 2, 2))
    return tf.layers.dense(x, 64, activation=tf.nn.relu)


def _recurrent(cell: str, x: Any, *, training: bool) -> Any:
    """Read the rows with two layers of the class ``cell``, one behind the other."""
    tf = _backend()
    state = None
    for layer in range(2):
        with tf.variable_scope(f"layer{layer}"):
            x, state = tf.nn.dynamic_rnn(getattr(tf.nn.rnn_cell, cell)(64), x, dtype=tf.float32)
    # Only an LSTM has a second state, which is its own affair.
    return getattr(state, "h", state)


def _birnn(x: Any, *, training: bool) -> Any:
    tf = _backend()
    cells = [tf.nn.rnn_cell.LSTMCell(48) for _ in range(2)]
    _, states = tf.nn.bidirectional_dynamic_rnn(cells[0], cells[1], x, dtype=tf.float32)
    return tf.concat([state.h for state in states], axis=1)


def _layer_norm(x: Any) -> Any:
    """Give each row of features mean 0 and variance 1, then a learned scale and offset: arXiv:1607.06450."""
    tf = _backend()
    width = int(x.shape[-1])
    with tf.variable_scope(None, "layer_norm"):
        offset = tf.get_variable("offset", [width], initializer=tf.zeros_initializer())
        scale = tf.get_variable("scale", [width], initializer=tf.ones_initializer())
    mean, variance = tf.nn.moments(x, [1], keep_dims=True)
    return tf.nn.batch_normalization(x, mean, variance, offset, scale, 1e-3)


def _attend(x: Any, rows: int, heads: int) -> Any:
    """Mix the features of ``rows`` tokens, N*R x W in and out, by multi-head attention: arXiv:1706.03762."""
    tf = _backend()
    width = int(x.shape[-1])
    depth = width // heads

    def split(name: str) -> Any:
        parted = tf.reshape(tf.layers.dense(x, width, name=name), [-1, rows, heads, depth])
        return tf.transpose(parted, [0, 2, 1, 3])

    answers = tf.matmul(split("query"), split("key"), transpose_b=True) * depth**-0.5
    mixed = tf.transpose(tf.matmul(tf.nn.softmax(answers), split("value")), [0, 2, 1, 3])
    return tf.layers.dense(tf.reshape(mixed, [-1, width]), width, name="join")


def _transformer(x: Any, *, training: bool) -> Any:
    tf = _backend()
    # Each row of pixels is a token. Tokens of all samples stand one below the other: tf.layers.dense of more than two
    # axes computes shapes in the graph where the batch is symbolic.
    rows, width = int(x.shape[1]), 32
    place = tf.get_variable("place", [rows, width], initializer=tf.random_normal_initializer(stddev=0.05))
    x = tf.layers.dense(tf.reshape(x, [-1, int(x.shape[2])]), width, name="embed")
    x = tf.reshape(tf.reshape(x, [-1, rows, width]) + place, [-1, width])
    for block in range(2):
        with tf.variable_scope(f"block{block}"):
            attended = _attend(x, rows, heads=4)
            x = _layer_norm(x + tf.layers.dropout(attended, 0.1, training=training))
            forward = tf.layers.dense(tf.layers.dense(x, 4 * width, activation=tf.nn.relu), width)
            x = _layer_norm(x + tf.layers.dropout(forward, 0.1, training=training))
    return tf.reduce_mean(tf.reshape(x, [-1, rows, width]), axis=1)


# --- Spelling the digit's name: encoder, attention, decoder


class Encoded(NamedTuple):
    """What a decoder reads: annotations N x 8 x U, what they answer with N x 8 x U, and its first state N x U."""

    memory: Any
    keys: Any
    first: Any


def _encode(x: Any) -> Encoded:
    """Read N x 8 rows in both directions."""
    tf = _backend()
    cells = [tf.nn.rnn_cell.GRUCell(UNITS // 2) for _ in range(2)]
    outputs, states = tf.nn.bidirectional_dynamic_rnn(cells[0], cells[1], x, dtype=tf.float32)
    memory = tf.concat(outputs, axis=2)
    with tf.variable_scope("encoder"):
        keys = tf.layers.dense(tf.reshape(memory, [-1, UNITS]), UNITS, use_bias=False, name="keys")
        first = tf.layers.dense(states[1], UNITS, activation=tf.nn.tanh, name="first")
    return Encoded(memory, tf.reshape(keys, [-1, int(x.shape[1]), UNITS]), first)


def _step(before: Any, state: Any, memory: Any, keys: Any) -> tuple[Any, Any]:
    """Write one letter: (letter before N, state N x U, memory, keys) -> (logits N x 16, state N x U).

    The state asks, every row's annotation answers with tanh(W state + U annotation) weighted by v, and the softmax of
    the answers mixes the annotations: D. Bahdanau, K. Cho and Y. Bengio, arXiv:1409.0473.
    """
    tf = _backend()
    with tf.variable_scope("decoder", reuse=tf.AUTO_REUSE):
        letters = tf.get_variable("letters", [LETTERS, 16])
        weights = tf.get_variable("weights", [UNITS])
        query = tf.expand_dims(tf.layers.dense(state, UNITS, name="query"), 1)
        answers = tf.reduce_sum(tf.tanh(query + keys) * weights, axis=2)
        context = tf.reduce_sum(tf.expand_dims(tf.nn.softmax(answers), 2) * memory, axis=1)
        read = tf.concat([tf.gather(letters, before), context], axis=1)
        after, _ = tf.nn.rnn_cell.GRUCell(UNITS, name="cell")(read, state)
        return tf.layers.dense(tf.concat([after, context], axis=1), LETTERS, name="spell"), after


def _teach(x: Any, before: Any) -> Any:
    """Return the logits N x 6 x 16 of a decoder that is told the true letters before, N x 6."""
    tf = _backend()
    encoded = _encode(x)
    state, written = encoded.first, []
    for position in range(LENGTH):
        logits, state = _step(before[:, position], state, encoded.memory, encoded.keys)
        written.append(logits)
    return tf.stack(written, axis=1)


def _attention(x: Any) -> dict[str, Any]:
    """Return the logits N x 6 x 16 of the greedy decoder, unrolled: each letter is read back by the next step."""
    tf = _backend()
    encoded = _encode(x)
    state, written = encoded.first, []
    before = tf.cast(tf.zeros_like(x[:, 0, 0]), tf.int32)
    for _ in range(LENGTH):
        logits, state = _step(before, state, encoded.memory, encoded.keys)
        before = tf.argmax(logits, axis=1, output_type=tf.int32)
        written.append(tf.expand_dims(logits, 1))
    return {"logits": tf.concat(written, axis=1)}


class Beams(NamedTuple):
    """The loop's variables, for N rows with ``BEAMS`` beams each."""

    steps: Any  # letters written so far
    tokens: Any  # N x B x 6, zeros where nothing is written
    last: Any  # N x B, the letter written last
    scores: Any  # N x B, sum of log-probabilities, best first
    ended: Any  # N x B, 1 where the word has ended
    state: Any  # N*B x U, the decoder's


def _beam_search(x: Any) -> dict[str, Any]:
    """Decode until every beam of every row has ended, or six letters stand: tokens N x 6, scores N, trip count 1."""
    tf = _backend()
    encoded = _encode(x)
    rows = tf.shape(x)[0]
    memory, keys = _repeat(encoded.memory), _repeat(encoded.keys)
    # All beams start alike: only the first may be continued, or each would be found three times.
    only_first = tf.constant([[0.0] + [IMPOSSIBLE] * (BEAMS - 1)])
    start = Beams(
        steps=tf.constant(0),
        tokens=tf.zeros([rows, BEAMS, LENGTH], tf.int32),
        last=tf.zeros([rows, BEAMS], tf.int32),
        scores=tf.tile(only_first, [rows, 1]),
        ended=tf.zeros([rows, BEAMS], tf.int32),
        state=_repeat(encoded.first),
    )
    found = tf.while_loop(
        lambda *beams: tf.logical_and(Beams(*beams).steps < LENGTH, tf.reduce_min(Beams(*beams).ended) < 1),
        lambda *beams: _extend(memory, keys, Beams(*beams)),
        start,
        parallel_iterations=1,
        back_prop=False,
    )
    return {
        "tokens": tf.cast(found.tokens[:, 0], tf.int64),
        "scores": found.scores[:, 0],
        "steps": tf.cast(tf.reshape(found.steps, [1]), tf.int64),
    }


def _repeat(values: Any) -> Any:
    """Return N*B x ... with each of the N rows ``BEAMS`` times in succession."""
    tf = _backend()
    own = [int(size) for size in values.shape[1:]]
    return tf.reshape(tf.tile(tf.expand_dims(values, 1), [1, BEAMS] + [1] * len(own)), [-1, *own])


def _extend(memory: Any, keys: Any, beams: Beams) -> Beams:
    """Write one more letter: of all continuations of a row's beams, keep the ``BEAMS`` likeliest."""
    tf = _backend()
    logits, state = _step(tf.reshape(beams.last, [-1]), beams.state, memory, keys)
    likely = tf.reshape(tf.nn.log_softmax(logits), [-1, BEAMS, LETTERS])
    # A word that has ended goes on with the end sign alone, at no cost.
    end_only = tf.constant([0.0] + [IMPOSSIBLE] * (LETTERS - 1))
    ended = tf.expand_dims(tf.cast(beams.ended, tf.float32), 2)
    totals = tf.expand_dims(beams.scores, 2) + (1.0 - ended) * likely + ended * end_only
    scores, best = tf.nn.top_k(tf.reshape(totals, [-1, BEAMS * LETTERS]), BEAMS)
    source, letter = best // LETTERS, best % LETTERS
    # Positions in the flattened N*B axis: a gather on one axis is what every runtime has.
    chosen = tf.reshape(source + BEAMS * tf.expand_dims(tf.range(tf.shape(best)[0]), 1), [-1])

    def follow(values: Any) -> Any:
        own = [int(size) for size in values.shape[2:]]
        return tf.reshape(tf.gather(tf.reshape(values, [-1, *own]), chosen), [-1, BEAMS, *own])

    here = tf.cast(tf.equal(tf.range(LENGTH), beams.steps), tf.int32)
    after = Beams(
        steps=beams.steps + 1,
        tokens=follow(beams.tokens) + tf.expand_dims(letter, 2) * here,
        last=letter,
        scores=scores,
        ended=tf.maximum(follow(beams.ended), tf.cast(tf.equal(letter, 0), tf.int32)),
        state=tf.gather(state, chosen),
    )
    for name in Beams._fields:
        getattr(after, name).set_shape(getattr(beams, name).shape)
    return after


class Family(NamedTuple):
    """The network that is deployed (x -> outputs by name), the one that is trained, and how it learns.

    Both are built from the same operations in the same order, so that their variables have the same names.
    """

    deploy: Callable[[Any], dict[str, Any]]
    learn: Callable[[Any, Any], Any]
    epochs: int
    rate: float
    batch: int


def _classifies(body: Callable[..., Any], epochs: int, rate: float, batch: int) -> Family:
    return Family(
        lambda x: {"logits": _classify(body, x, training=False)},
        lambda x, _before: _classify(body, x, training=True),
        epochs,
        rate,
        batch,
    )


_FAMILIES: dict[str, Family] = {
    "mlp": _classifies(_mlp, 20, 3e-3, 50),
    "alexnet": _classifies(_alexnet, 12, 2e-3, 50),
    "vgg": _classifies(_vgg, 10, 2e-3, 50),
    "googlenet": _classifies(_googlenet, 8, 5e-3, 50),
    "resnet": _classifies(_resnet, 7, 5e-3, 50),
    "conv1d": _classifies(_conv1d, 20, 3e-3, 50),
    "conv3d": _classifies(_conv3d, 8, 5e-3, 50),
    "rnn": _classifies(functools.partial(_recurrent, "BasicRNNCell"), 20, 3e-3, 50),
    "lstm": _classifies(functools.partial(_recurrent, "LSTMCell"), 30, 1e-2, 50),
    "gru": _classifies(functools.partial(_recurrent, "GRUCell"), 30, 1e-2, 50),
    "birnn": _classifies(_birnn, 20, 1e-2, 100),
    "attention": Family(_attention, _teach, 40, 1e-2, 100),
    "transformer": _classifies(_transformer, 18, 3e-3, 50),
    "beam_search": Family(_beam_search, _teach, 40, 1e-2, 100),
}
