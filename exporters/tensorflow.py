"""TensorFlow 2 with Keras 3: builds and trains the reference models and exports them through TensorFlow's own roads.

Owns which Keras layers stand for each model family and how each converter is called; nothing of TensorFlow is
imported before a function needs it.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

_VARIABLES = {
    "CUDA_VISIBLE_DEVICES": "-1",
    "KERAS_BACKEND": "tensorflow",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    # oneDNN picks its kernels, and so its rounding, by the instruction set of the machine: the trained weights would
    # depend on where they were trained.
    "TF_ENABLE_ONEDNN_OPTS": "0",
    # OpenVINO's converter reports to its maker, but not where it takes itself to be part of a build.
    "TF_BUILD": "portmatrix",
}
ENVIRONMENT = {
    "python": ">=3.11,<3.14",
    "requirements": [
        "tensorflow==2.21.0",
        "keras==3.15.1",
        "tf2onnx==1.17.0",
        "onnx==1.23.2",
        "h5py==3.14.0",
        "protobuf==7.36.2",
        "numpy==2.4.6",
        "ml_dtypes==0.6.0",
        "flatbuffers==25.12.19",
        "optree==0.20.0",
        "openvino==2026.4.1",
    ],
    "env": _VARIABLES,
}
ENVIRONMENTS = {
    # tensorflowjs imports TensorFlow Decision Forests, which has not gone beyond TensorFlow 2.19.
    "tfjs": {
        "python": ">=3.11,<3.12",
        "requirements": [
            "tensorflowjs==4.22.0",
            "tensorflow==2.19.0",
            "tensorflow-decision-forests==1.12.0",
            # Later ones are generated for protobuf 6, which TensorFlow 2.19 refuses, and ask for it only when imported.
            "ydf==0.12.0",
            "protobuf==5.29.6",
            "tf-keras==2.19.0",
            "keras==3.15.1",
            "numpy==1.26.4",
            "h5py==3.14.0",
            "ml_dtypes==0.5.4",
            "setuptools==80.9.0",
        ],
        "env": _VARIABLES,
    }
}

LAYOUT = "channels-last"

PATHS: dict[str, dict[str, Any]] = {
    "savedmodel": {"kind": "native", "format": "savedmodel", "batch": "static"},
    "savedmodel-dynamic": {"kind": "native", "format": "savedmodel", "batch": "dynamic"},
    "savedmodel-dynamic+fp16": {"kind": "native", "format": "savedmodel", "batch": "dynamic", "precision": "fp16"},
    "savedmodel-dynamic+bf16": {"kind": "native", "format": "savedmodel", "batch": "dynamic", "precision": "bf16"},
    "keras": {"kind": "native", "format": "keras", "batch": "dynamic"},
    "tflite": {"kind": "native", "format": "tflite", "batch": "static"},
    **{
        f"tflite+{precision}": {"kind": "native", "format": "tflite", "batch": "static", "precision": precision}
        for precision in ("fp16", "int8-dynamic", "int8-static")
    },
    "openvino": {"kind": "native", "format": "openvino-ir", "batch": "static"},
    "openvino-dynamic": {"kind": "native", "format": "openvino-ir", "batch": "dynamic"},
    "tfjs": {"kind": "native", "format": "tfjs", "batch": "dynamic", "environment": "tfjs"},
    "onnx-keras": {"kind": "onnx", "format": "onnx", "batch": "static"},
    "onnx-keras-dynamic": {"kind": "onnx", "format": "onnx", "batch": "dynamic"},
    "onnx-tf2onnx": {"kind": "onnx", "format": "onnx", "batch": "static"},
    "onnx-tf2onnx-dynamic": {"kind": "onnx", "format": "onnx", "batch": "dynamic"},
}
#: What tf2onnx writes unless told otherwise; the oldest with which every family becomes valid ONNX (attention needs
#: Einsum); the newest, beyond which it refuses.
OPSET, OLDEST, NEWEST = 15, 12, 18
PATHS |= {
    f"{path}+opset{opset}": {**way, "opset": opset}
    for path, way in PATHS.items()
    if way["kind"] == "onnx"
    for opset in (OLDEST, NEWEST)
}

#: Training rows from which TensorFlow Lite learns the ranges of what flows between layers.
CALIBRATION = 200

#: Letters of the digit names and their longest spelling with its end, as ``data/digits.py`` has them.
LETTERS, LENGTH = 16, 6
#: Units of the decoder's state, and beams that the beam search keeps.
UNITS, BEAMS = 64, 3
#: Stands for the logarithm of zero: a true infinity would turn into NaN where a runtime multiplies by a mask.
IMPOSSIBLE = -1e9


class Networks(NamedTuple):
    """One family: the network that is deployed, and the one with the same weights that is trained."""

    deployed: Any
    trained: Any


class Trained(NamedTuple):
    """A trained Keras model, its forward pass, compiled once for any batch, its family and a few rows of training."""

    model: Any
    forward: Callable[[Any], dict[str, Any]]
    family: str
    rows: np.ndarray


class Road(NamedTuple):
    """What a converter has to know: the input signature, the opset and the precision, and rows to calibrate on."""

    spec: Any
    opset: int
    precision: str
    rows: np.ndarray


@functools.cache
def _backend() -> tuple[Any, Any]:
    """Import and return ``(tensorflow, keras)``, set to one thread and repeatable results before any operation."""
    import keras
    import tensorflow as tf

    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.experimental.enable_op_determinism()
    return tf, keras


# --- The three functions of an exporter


def train(model: str, data: Any, seed: int) -> Trained:
    """Build and train the family ``model`` on ``data``; the same seed gives the same weights.

    Raises ``NotImplementedError`` for a family that is not built here.
    """
    if model not in _FAMILIES:
        raise NotImplementedError(f"exporters/tensorflow.py builds no {model!r}; it builds {', '.join(_FAMILIES)}")
    family = _FAMILIES[model]
    _, keras = _backend()
    # Layer names are counted up over the process and are written into the artifacts: start over for every model.
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    x, y = data.train_x["x"], data.train_y
    networks = family.build(x.shape[1:])
    inputs = {"x": x}
    if y.ndim == 2:
        # A decoder in training is told the letters before the one it has to guess (teacher forcing).
        inputs["before"] = np.pad(y, ((0, 0), (1, 0)))[:, :-1]
    _fit(networks.trained, inputs, y, family, np.random.default_rng(seed))
    return Trained(networks.deployed, _compiled(networks.deployed), model, x[:CALIBRATION])


def predict(trained: Trained, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the model's outputs by name for ``{"x": float32 array of any batch}``, in inference mode."""
    tf, _ = _backend()
    return {name: value.numpy() for name, value in trained.forward(tf.constant(inputs["x"])).items()}


def export(trained: Trained, path: str, inputs: dict[str, np.ndarray], folder: str) -> dict[str, Any]:
    """Write the model below ``folder`` by the road ``path`` and return ``{"entry": name, "facts": {...}}``.

    A static path fixes the batch of ``inputs``. Raises ``ValueError`` for an unknown path and whatever the converter
    raises for a model that it cannot convert.
    """
    if path not in PATHS:
        raise ValueError(f"tensorflow has no path {path!r}; it has {', '.join(PATHS)}")
    tf, keras = _backend()
    way, shape = PATHS[path], inputs["x"].shape
    batch = None if way["batch"] == "dynamic" else shape[0]
    spec = tf.TensorSpec((batch, *shape[1:]), tf.float32, name="x")
    road = Road(spec, way.get("opset", OPSET), way.get("precision", "fp32"), trained.rows)
    entry, convert = _CONVERTERS[path.partition("+")[0].removesuffix("-dynamic")]
    model = _halved(trained, road.precision) if way["format"] == "savedmodel" else trained.model
    facts = convert(model, road, Path(folder) / entry)
    return {"entry": entry, "facts": {"tensorflow": tf.__version__, "keras": keras.__version__, **facts}}


def _fit(network: Any, inputs: dict[str, np.ndarray], y: np.ndarray, family: _Family, order: Any) -> None:
    """Minimise the cross-entropy of the logits that ``network`` makes of ``inputs``, in an ``order`` drawn each epoch.

    ``Model.fit`` does the same, but traces every step twice and through AutoGraph: one to five seconds more a family.
    """
    tf, keras = _backend()
    batches = len(y) // family.batch
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(family.rate, family.epochs * batches))
    weights = network.trainable_variables
    optimizer.build(weights)

    @functools.partial(tf.function, autograph=False)
    def descend(batch: dict[str, Any], labels: Any) -> None:
        with tf.GradientTape() as tape:
            logits = network(batch, training=True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
        optimizer.apply(tape.gradient(loss, weights), weights)

    for _ in range(family.epochs):
        for rows in np.array_split(order.permutation(len(y)), batches):
            descend({name: tf.constant(values[rows]) for name, values in inputs.items()}, tf.constant(y[rows]))


def _compiled(model: Any) -> Callable[[Any], dict[str, Any]]:
    tf, _ = _backend()
    spec = tf.TensorSpec(model.inputs[0].shape, tf.float32, name="x")
    # The concrete function: a tf.function would count its first call as a retracing of the model before and warn.
    traced: Callable[[Any], dict[str, Any]] = tf.function(lambda x: model(x, training=False)).get_concrete_function(
        spec
    )
    return traced


def _halved(trained: Trained, precision: str) -> Any:
    """Return the model with its weights and its layers in ``precision``, between an input and outputs in float32."""
    if precision == "fp32":
        return trained.model
    _, keras = _backend()
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy({"fp16": "float16", "bf16": "bfloat16"}[precision])
    try:
        halved = _FAMILIES[trained.family].build(trained.rows.shape[1:]).deployed
    finally:
        keras.config.set_dtype_policy(before)
    halved.set_weights(trained.model.get_weights())
    wanted = {name: value.dtype for name, value in trained.model.output.items()}
    return keras.Model(halved.input, {name: keras.ops.cast(halved.output[name], wanted[name]) for name in wanted})


# --- Converters: (model, road, where to write) -> facts


def _to_savedmodel(model: Any, road: Road, file: Path) -> dict[str, Any]:
    model.export(file, format="tf_saved_model", input_signature=[road.spec], verbose=False)
    return {"converter": "keras export", "signature": "serving_default"}


def _to_keras(model: Any, road: Road, file: Path) -> dict[str, Any]:
    model.save(file)
    return {"converter": "keras save"}


def _to_tflite(model: Any, road: Road, file: Path) -> dict[str, Any]:
    tf, _ = _backend()
    with tempfile.TemporaryDirectory(dir=file.parent) as saved:
        _to_savedmodel(model, road, Path(saved))
        converter = tf.lite.TFLiteConverter.from_saved_model(saved)
        # The interpreters on small devices have no Select-TF operators: a model that needs them must fail here.
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if road.precision != "fp32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if road.precision == "fp16":
            converter.target_spec.supported_types = [tf.float16]
        if road.precision == "int8-static":
            converter.representative_dataset = lambda: ([row[np.newaxis]] for row in road.rows)
        file.write_bytes(converter.convert())
    return {"converter": "tf.lite", **_reduced(file, road.precision)}


def _reduced(file: Path, precision: str) -> dict[str, Any]:
    """Return how many tensors of a TensorFlow Lite file are in ``precision``; raises ``ValueError`` if none is."""
    if precision == "fp32":
        return {}
    tf, _ = _backend()
    dtype = np.float16 if precision == "fp16" else np.int8
    interpreter = tf.lite.Interpreter(str(file))
    graphs = range(interpreter.num_subgraphs())
    tensors = [one["dtype"] for graph in graphs for one in interpreter.get_tensor_details(graph)]
    count = tensors.count(dtype)
    if not count:
        raise ValueError(f"TensorFlow Lite left all {len(tensors)} tensors as they were; expected some in {precision}")
    return {f"{np.dtype(dtype).name}_tensors": count, "tensors": len(tensors)}


def _to_openvino(model: Any, road: Road, file: Path) -> dict[str, Any]:
    import openvino

    with tempfile.TemporaryDirectory(dir=file.parent) as saved:
        _to_savedmodel(model, road, Path(saved))
        # Constants would be stored in half precision unless told otherwise.
        openvino.save_model(openvino.convert_model(saved), file, compress_to_fp16=False)
    return {"converter": "openvino convert_model of a SavedModel", "openvino": openvino.__version__}


def _to_tfjs(model: Any, road: Road, file: Path) -> dict[str, Any]:
    import tensorflowjs
    from tensorflowjs.converters import tf_saved_model_conversion_v2

    with tempfile.TemporaryDirectory(dir=file.parent) as saved:
        _to_savedmodel(model, road, Path(saved))
        # As it is by default, with Switch and Merge, TensorFlow.js runs no loop of Keras to its end.
        tf_saved_model_conversion_v2.convert_tf_saved_model(saved, str(file), control_flow_v2=True)
    return {"converter": "tensorflowjs graph model", "tensorflowjs": tensorflowjs.__version__}


def _to_onnx_by_keras(model: Any, road: Road, file: Path) -> dict[str, Any]:
    model.export(str(file), format="onnx", input_signature=[road.spec], opset_version=road.opset, verbose=False)
    return {"converter": "keras export", "opset_asked": road.opset, **_onnx_facts(file)}


def _to_onnx_by_tf2onnx(model: Any, road: Road, file: Path) -> dict[str, Any]:
    import tf2onnx

    tf2onnx.convert.from_keras(model, input_signature=[road.spec], opset=road.opset, output_path=str(file))
    return {"converter": "tf2onnx from_keras", "opset_asked": road.opset, **_onnx_facts(file)}


def _onnx_facts(file: Path) -> dict[str, Any]:
    """Return what was written. Raises ``NotImplementedError`` where tf2onnx only logs what it could not convert."""
    import onnx
    import tf2onnx

    written = onnx.load(file)
    try:
        onnx.checker.check_model(written)
    except onnx.checker.ValidationError as error:
        raise NotImplementedError(f"tf2onnx wrote a file that is not valid ONNX: {error}") from error
    opset = next(entry.version for entry in written.opset_import if entry.domain == "")
    return {"tf2onnx": tf2onnx.__version__, "opset": opset, "ir_version": written.ir_version}


_CONVERTERS: dict[str, tuple[str, Callable[[Any, Road, Path], dict[str, Any]]]] = {
    "savedmodel": ("model", _to_savedmodel),
    "keras": ("model.keras", _to_keras),
    "tflite": ("model.tflite", _to_tflite),
    "openvino": ("model.xml", _to_openvino),
    "tfjs": ("model", _to_tfjs),
    "onnx-keras": ("model.onnx", _to_onnx_by_keras),
    "onnx-tf2onnx": ("model.onnx", _to_onnx_by_tf2onnx),
}


# --- Classifiers: (input N x ...) -> logits N x 10


def _classifier(body: Callable[[Any], Any], shape: tuple[int, ...]) -> Networks:
    """Put a linear layer of ten logits on the features that ``body`` makes of an input of ``shape``."""
    _, keras = _backend()
    x = keras.Input(shape, name="x")
    logits = keras.layers.Dense(10, name="logits")(body(x))
    return Networks(keras.Model(x, {"logits": logits}), keras.Model({"x": x}, logits))


def _mlp(x: Any) -> Any:
    layers = _backend()[1].layers
    x = layers.Flatten()(x)
    x = layers.Dense(128, activation="relu")(x)
    return layers.Dense(64, activation="relu")(x)


@functools.cache
def _local_response_norm() -> Any:
    """Return the layer class of AlexNet's local response normalisation, which Keras does not have."""
    tf, keras = _backend()

    @keras.saving.register_keras_serializable(package="portmatrix")
    class LocalResponseNorm(keras.layers.Layer):
        """Divide each channel by the activity of its five neighbours, with the constants of the AlexNet paper."""

        def call(self, x: Any) -> Any:
            return tf.nn.local_response_normalization(x, depth_radius=2, bias=2.0, alpha=1e-4, beta=0.75)

        def compute_output_shape(self, input_shape: Any) -> Any:
            return input_shape

    return LocalResponseNorm


def _alexnet(x: Any) -> Any:
    layers, norm = _backend()[1].layers, _local_response_norm()
    for filters in (24, 48):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu", kernel_initializer="he_normal")(x)
        x = norm()(x)
        # Windows of three at a stride of two overlap.
        x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
    for filters in (64, 64, 48):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu", kernel_initializer="he_normal")(x)
    x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
    x = layers.Flatten()(x)
    for _ in range(2):
        x = layers.Dense(128, activation="relu", kernel_initializer="he_normal")(x)
        x = layers.Dropout(0.5)(x)
    return x


def _vgg(x: Any) -> Any:
    layers = _backend()[1].layers
    for filters, depth in ((16, 2), (32, 2), (48, 3)):
        for _ in range(depth):
            x = layers.Conv2D(filters, 3, padding="same", activation="relu", kernel_initializer="he_normal")(x)
        x = layers.MaxPooling2D(2)(x)
    x = layers.Flatten()(x)
    for _ in range(2):
        x = layers.Dense(64, activation="relu", kernel_initializer="he_normal")(x)
        x = layers.Dropout(0.2)(x)
    return x


def _inception(x: Any, one: int, three: tuple[int, int], five: tuple[int, int], pool: int) -> Any:
    layers = _backend()[1].layers

    def conv(inputs: Any, filters: int, size: int) -> Any:
        return layers.Conv2D(filters, size, padding="same", activation="relu", kernel_initializer="he_normal")(inputs)

    pooled = layers.MaxPooling2D(3, strides=1, padding="same")(x)
    branches = [
        conv(x, one, 1),
        conv(conv(x, three[0], 1), three[1], 3),
        conv(conv(x, five[0], 1), five[1], 5),
        conv(pooled, pool, 1),
    ]
    return layers.Concatenate()(branches)


def _googlenet(x: Any) -> Any:
    layers = _backend()[1].layers
    x = layers.Conv2D(24, 3, padding="same", activation="relu", kernel_initializer="he_normal")(x)
    x = _inception(x, 12, (12, 24), (4, 8), 8)
    x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
    x = _inception(x, 24, (16, 32), (4, 8), 8)
    x = _inception(x, 24, (16, 32), (4, 8), 8)
    x = layers.GlobalAveragePooling2D()(x)
    return layers.Dropout(0.2)(x)


def _basic_block(x: Any, filters: int, stride: int) -> Any:
    layers = _backend()[1].layers

    def conv_norm(inputs: Any, size: int, stride: int) -> Any:
        inputs = layers.Conv2D(filters, size, strides=stride, padding="same", use_bias=False)(inputs)
        # The default momentum of 0.99 has not seen enough steps after so short a training.
        return layers.BatchNormalization(momentum=0.9)(inputs)

    residual = layers.ReLU()(conv_norm(x, 3, stride))
    residual = conv_norm(residual, 3, 1)
    shortcut = x if stride == 1 and x.shape[-1] == filters else conv_norm(x, 1, stride)
    return layers.ReLU()(layers.Add()([residual, shortcut]))


def _resnet(x: Any) -> Any:
    layers = _backend()[1].layers
    x = layers.Conv2D(16, 3, padding="same", use_bias=False)(x)
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    for filters, stride in ((16, 1), (32, 2), (32, 1)):
        x = _basic_block(x, filters, stride)
    return layers.GlobalAveragePooling2D()(x)


def _conv1d(x: Any) -> Any:
    layers = _backend()[1].layers
    x = layers.Conv1D(32, 3, padding="same", activation="relu")(x)
    x = layers.Conv1D(64, 3, padding="same", activation="relu")(x)
    x = layers.MaxPooling1D(2)(x)
    x = layers.Conv1D(64, 3, padding="same", activation="relu")(x)
    return layers.Flatten()(x)


def _conv3d(x: Any) -> Any:
    layers = _backend()[1].layers
    x = layers.Conv3D(8, 3, padding="same", activation="relu")(x)
    x = layers.MaxPooling3D((1, 2, 2))(x)
    x = layers.Conv3D(16, 3, padding="same", activation="relu")(x)
    x = layers.MaxPooling3D(2)(x)
    x = layers.Flatten()(x)
    return layers.Dense(64, activation="relu")(x)


def _recurrent(kind: str, x: Any) -> Any:
    """Read the rows with two stacked layers of the class ``kind``."""
    layers = _backend()[1].layers
    x = getattr(layers, kind)(64, return_sequences=True)(x)
    return getattr(layers, kind)(64)(x)


def _birnn(x: Any) -> Any:
    layers = _backend()[1].layers
    return layers.Bidirectional(layers.LSTM(48))(x)


def _transformer(x: Any) -> Any:
    layers = _backend()[1].layers
    rows, width = x.shape[1], 32
    # Each row of pixels is a token. The bias over rows and features is the learned position embedding.
    x = layers.EinsumDense(
        "nrp,pf->nrf", (rows, width), bias_axes="rf", bias_initializer="random_normal", name="embed_with_position"
    )(x)
    for _ in range(2):
        attended = layers.MultiHeadAttention(num_heads=4, key_dim=width // 4)(x, x)
        x = layers.LayerNormalization()(layers.Add()([x, layers.Dropout(0.1)(attended)]))
        forward = layers.Dense(width)(layers.Dense(4 * width, activation="relu")(x))
        x = layers.LayerNormalization()(layers.Add()([x, layers.Dropout(0.1)(forward)]))
    return layers.GlobalAveragePooling1D()(x)


# --- Spelling the digit's name: encoder, attention, decoder


def _encode(x: Any) -> tuple[Any, Any]:
    """Read N x 8 rows; return their annotations N x 8 x ``UNITS`` and the decoder's first state N x ``UNITS``."""
    layers = _backend()[1].layers
    reader = layers.Bidirectional(layers.GRU(UNITS // 2, return_sequences=True, return_state=True), name="reader")
    memory, _, backward = reader(x)
    return memory, layers.Dense(UNITS, activation="tanh", name="first_state")(backward)


def _decoder_step(rows: int) -> Any:
    """Return the model that writes one letter: (letter before N, state N x U, memory) -> (logits N x 16, state).

    The state asks, every row's annotation answers with tanh(W state + U annotation) weighted by v, and the softmax of
    the answers mixes the annotations: D. Bahdanau, K. Cho and Y. Bengio, arXiv:1409.0473.
    """
    _, keras = _backend()
    layers = keras.layers
    before = keras.Input((), dtype="int32", name="before")
    state = keras.Input((UNITS,), name="state")
    memory = keras.Input((rows, UNITS), name="memory")
    query = layers.Reshape((1, UNITS))(layers.Dense(UNITS, name="query")(state))
    keys = layers.Dense(UNITS, use_bias=False, name="keys")(memory)
    context = layers.Reshape((UNITS,))(layers.AdditiveAttention(name="attention")([query, memory, keys]))
    letter = layers.Embedding(LETTERS, 16, name="letter")(before)
    after, _ = layers.GRUCell(UNITS, name="cell")(layers.Concatenate()([letter, context]), [state])
    logits = layers.Dense(LETTERS, name="spell")(layers.Concatenate()([after, context]))
    return keras.Model([before, state, memory], [logits, after], name="decoder_step")


def _teacher(step: Any, x: Any, memory: Any, state: Any) -> Any:
    """Return the network that is told the true letters before: (x, before N x 6) -> logits N x 6 x 16."""
    _, keras = _backend()
    before = keras.Input((LENGTH,), dtype="int32", name="before")
    written = []
    for position in range(LENGTH):
        logits, state = step([before[:, position], state, memory])
        written.append(logits)
    return keras.Model({"x": x, "before": before}, keras.ops.stack(written, axis=1))


def _attention(shape: tuple[int, ...]) -> Networks:
    """Build the greedy decoder, unrolled: x -> logits N x 6 x 16, each letter read back by the next step."""
    _, keras = _backend()
    ops = keras.ops
    x = keras.Input(shape, name="x")
    memory, first = _encode(x)
    step, state, written = _decoder_step(shape[0]), first, []
    before = ops.zeros_like(x[:, 0, 0], dtype="int32")
    for _ in range(LENGTH):
        logits, state = step([before, state, memory])
        # Keras' argmax flushes denormals with bit operations that neither TFLite nor tf2onnx knows.
        before = ops.squeeze(ops.top_k(logits, 1)[1], axis=-1)
        written.append(ops.expand_dims(logits, axis=1))
    logits = keras.layers.Concatenate(axis=1, name="logits")(written)
    return Networks(keras.Model(x, {"logits": logits}), _teacher(step, x, memory, first))


def _beam_search(shape: tuple[int, ...]) -> Networks:
    """Build the beam decoder: x -> tokens N x 6, scores N and the loop's trip count, 1."""
    _, keras = _backend()
    x = keras.Input(shape, name="x")
    memory, first = _encode(x)
    step = _decoder_step(shape[0])
    found = _beam_layer()(step, name="beams")(memory, first)
    # tf2onnx names an output after the layer that it leaves.
    outputs = {name: keras.layers.Identity(name=name)(value) for name, value in found.items()}
    return Networks(keras.Model(x, outputs), _teacher(step, x, memory, first))


@functools.cache
def _beam_layer() -> Any:
    """Return the layer class of the beam search: no built-in layer holds a loop that stops on what it sees."""
    tf, keras = _backend()

    @keras.saving.register_keras_serializable(package="portmatrix")
    class BeamSearch(keras.layers.Layer):
        """(memory N x 8 x U, first state N x U) -> tokens N x 6, scores N, steps 1."""

        def __init__(self, step: Any, **options: Any) -> None:
            super().__init__(**options)
            self.step = step

        def call(self, memory: Any, first: Any) -> dict[str, Any]:
            return _search(tf, self.step, memory, first)

        def compute_output_spec(self, *inputs: Any) -> dict[str, Any]:
            rows = inputs[0].shape[0]
            return {
                "tokens": keras.KerasTensor((rows, LENGTH), "int64"),
                "scores": keras.KerasTensor((rows,), "float32"),
                "steps": keras.KerasTensor((1,), "int64"),
            }

        def get_config(self) -> dict[str, Any]:
            return {**super().get_config(), "step": keras.saving.serialize_keras_object(self.step)}

        @classmethod
        def from_config(cls, config: dict[str, Any]) -> Any:
            return cls(**{**config, "step": keras.saving.deserialize_keras_object(config["step"])})

    return BeamSearch


class _Beams(NamedTuple):
    """The loop's variables, for N rows with ``BEAMS`` beams each."""

    steps: Any  # letters written so far
    tokens: Any  # N x B x 6, zeros where nothing is written
    last: Any  # N x B, the letter written last
    scores: Any  # N x B, sum of log-probabilities, best first
    ended: Any  # N x B, 1 where the word has ended
    state: Any  # N*B x U, the decoder's


def _search(tf: Any, step: Any, memory: Any, first: Any) -> dict[str, Any]:
    """Decode until every beam of every row has ended, or six letters stand."""
    rows = tf.shape(memory)[0]
    repeated = tf.repeat(memory, BEAMS, axis=0)
    # All beams start alike: only the first may be continued, or each would be found three times.
    only_first = tf.constant([[0.0] + [IMPOSSIBLE] * (BEAMS - 1)])
    start = _Beams(
        steps=tf.constant(0),
        tokens=tf.zeros([rows, BEAMS, LENGTH], tf.int32),
        last=tf.zeros([rows, BEAMS], tf.int32),
        scores=tf.tile(only_first, [rows, 1]),
        ended=tf.zeros([rows, BEAMS], tf.int32),
        state=tf.repeat(first, BEAMS, axis=0),
    )
    found = tf.while_loop(
        lambda beams: tf.logical_and(beams.steps < LENGTH, tf.reduce_min(beams.ended) < 1),
        lambda beams: (_extend(tf, step, repeated, beams),),
        (start,),
        parallel_iterations=1,
    )[0]
    return {
        "tokens": tf.cast(found.tokens[:, 0], tf.int64),
        "scores": found.scores[:, 0],
        "steps": tf.cast(tf.reshape(found.steps, [1]), tf.int64),
    }


def _extend(tf: Any, step: Any, memory: Any, beams: _Beams) -> _Beams:
    """Write one more letter: of all continuations of a row's beams, keep the ``BEAMS`` likeliest."""
    logits, state = step([tf.reshape(beams.last, [-1]), beams.state, memory])
    # In half precision, too, the scores are sums of many logarithms and stay as they are.
    likely = tf.reshape(tf.cast(tf.nn.log_softmax(logits), tf.float32), [-1, BEAMS, LETTERS])
    # A word that has ended goes on with the end sign alone, at no cost.
    end_only = tf.constant([0.0] + [IMPOSSIBLE] * (LETTERS - 1))
    ended = tf.cast(beams.ended, tf.float32)[:, :, None]
    totals = beams.scores[:, :, None] + (1.0 - ended) * likely + ended * end_only
    scores, best = tf.math.top_k(tf.reshape(totals, [-1, BEAMS * LETTERS]), BEAMS)
    source, letter = best // LETTERS, best % LETTERS
    # Positions in the flattened N*B axis: a gather on one axis is what every runtime has.
    chosen = tf.reshape(source + BEAMS * tf.range(tf.shape(best)[0])[:, None], [-1])

    def follow(values: Any) -> Any:
        flat = tf.reshape(values, [-1, *values.shape[2:]])
        return tf.reshape(tf.gather(flat, chosen), [-1, BEAMS, *values.shape[2:]])

    here = tf.cast(tf.equal(tf.range(LENGTH), beams.steps), tf.int32)
    after = _Beams(
        steps=beams.steps + 1,
        tokens=follow(beams.tokens) + letter[:, :, None] * here,
        last=letter,
        scores=scores,
        ended=tf.maximum(follow(beams.ended), tf.cast(tf.equal(letter, 0), tf.int32)),
        state=tf.gather(state, chosen),
    )
    for new, old in zip(after, beams, strict=True):
        new.set_shape(old.shape)
    return after


class _Family(NamedTuple):
    """How a family is built for an input shape without batch, and how it learns."""

    build: Callable[[tuple[int, ...]], Networks]
    epochs: int
    rate: float
    batch: int


def _classifies(body: Callable[[Any], Any], epochs: int, rate: float, batch: int) -> _Family:
    return _Family(functools.partial(_classifier, body), epochs, rate, batch)


_FAMILIES: dict[str, _Family] = {
    "mlp": _classifies(_mlp, 20, 3e-3, 50),
    "alexnet": _classifies(_alexnet, 12, 2e-3, 50),
    "vgg": _classifies(_vgg, 10, 2e-3, 50),
    "googlenet": _classifies(_googlenet, 8, 5e-3, 50),
    "resnet": _classifies(_resnet, 7, 5e-3, 50),
    "conv1d": _classifies(_conv1d, 20, 3e-3, 50),
    "conv3d": _classifies(_conv3d, 8, 5e-3, 50),
    "rnn": _classifies(functools.partial(_recurrent, "SimpleRNN"), 20, 3e-3, 50),
    "lstm": _classifies(functools.partial(_recurrent, "LSTM"), 20, 1e-2, 50),
    "gru": _classifies(functools.partial(_recurrent, "GRU"), 20, 1e-2, 100),
    "birnn": _classifies(_birnn, 20, 1e-2, 100),
    "attention": _Family(_attention, 24, 1e-2, 100),
    "transformer": _classifies(_transformer, 18, 3e-3, 50),
    "beam_search": _Family(_beam_search, 24, 1e-2, 100),
}
