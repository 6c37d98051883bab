"""TensorFlow 2 with Keras 3: six networks of the size that is deployed, with random weights, by three ways out.

Nothing is trained: how long a call takes does not depend on what a network has learned. Weights are drawn so that a
signal keeps its size on its way (K. He et al., arXiv:1502.01852, where ReLU follows, and batch normalization by the
statistics of one batch of noise): one that vanishes would agree with anything, one that explodes with nothing.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

#: Those of the reference suite's exporter and runtime, item by item: equal lists share one environment.
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
    "env": {
        "CUDA_VISIBLE_DEVICES": "-1",
        "KERAS_BACKEND": "tensorflow",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        # oneDNN picks its kernels, and so its rounding, by the instruction set of the machine.
        "TF_ENABLE_ONEDNN_OPTS": "0",
        # OpenVINO's converter reports to its maker, but not where it takes itself to be part of a build.
        "TF_BUILD": "portmatrix",
    },
}
LAYOUT = "channels-last"
PATHS = {
    "savedmodel-dynamic": {"kind": "native", "format": "savedmodel", "batch": "dynamic"},
    "tflite": {"kind": "native", "format": "tflite", "batch": "static"},
    "onnx-tf2onnx-dynamic": {"kind": "onnx", "format": "onnx", "batch": "dynamic"},
}
CLASSES = 1000
#: What the sequence models read and carry for each step.
WIDTH = 512
IMAGE, SEQUENCE, TOKENS = (224, 224, 3), (64, WIDTH), (128, WIDTH)


class Model(NamedTuple):
    """How a network is built on its input, the shape of a row of that, and its output's name."""

    build: Callable[[Any], Any]
    row: tuple[int, ...]
    output: str = "logits"


class Trained(NamedTuple):
    """A Keras model, which nothing was trained for, its forward pass for any batch, and what its weights rest on."""

    model: Any
    forward: Callable[[Any], dict[str, Any]]
    seed: int


@functools.cache
def _backend() -> tuple[Any, Any]:
    """Import and return ``(tensorflow, keras)``, set to one thread and repeatable results before any operation."""
    import keras
    import tensorflow as tf

    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.experimental.enable_op_determinism()
    return tf, keras


def train(model: str, data: None, seed: int) -> Trained:
    """Return ``model`` with weights drawn from ``seed``, the same for the same one.

    Raises ``NotImplementedError`` for an unknown model.
    """
    described = _described(model)
    tf, keras = _backend()
    # Layer names are counted up over the process and are written into the artifacts: start over for every model.
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    x = keras.Input(described.row, name="x")
    output = keras.layers.Identity(name=described.output)(described.build(x))
    network = keras.Model(x, {described.output: output})
    if any(isinstance(layer, keras.layers.BatchNormalization) for layer in network.layers):
        # Without momentum, one batch of noise leaves its statistics behind.
        noise = np.random.default_rng(seed).standard_normal((4, *described.row), np.float32)
        network(noise, training=True)
    spec = tf.TensorSpec((None, *described.row), tf.float32, name="x")
    forward = tf.function(lambda x: network(x, training=False), autograph=False).get_concrete_function(spec)
    return Trained(network, forward, seed)


def samples(model: str, rows: int, seed: int) -> dict[str, np.ndarray]:
    """Return ``rows`` reference inputs of standard normal noise, as ``x``: N x 224 x 224 x 3, or N x steps x 512.

    Raises ``NotImplementedError`` for an unknown model.
    """
    generator = np.random.default_rng(seed + 1)
    return {"x": generator.standard_normal((rows, *_described(model).row), np.float32)}


def predict(trained: Trained, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the network's own output by name, N x 1000, N x 512 (``lstm``) or N x 128 x 512 (``transformer``)."""
    tf, _ = _backend()
    return {name: value.numpy() for name, value in trained.forward(tf.constant(inputs["x"])).items()}


def export(trained: Trained, path: str, inputs: dict[str, np.ndarray], folder: str) -> dict[str, Any]:
    """Write the model below ``folder`` by the road ``path``; TFLite has the batch of ``inputs``, the others any.

    ``facts`` say that the weights are random, and how many there are. Raises ``ValueError`` for an unknown path; what
    a converter raises comes through.
    """
    if path not in PATHS:
        raise ValueError(f"tensorflow has no path {path!r} here; it has {', '.join(PATHS)}")
    tf, keras = _backend()
    shape = inputs["x"].shape
    batch = None if PATHS[path]["batch"] == "dynamic" else shape[0]
    spec = tf.TensorSpec((batch, *shape[1:]), tf.float32, name="x")
    entry, convert = {
        "savedmodel-dynamic": ("model", _to_savedmodel),
        "tflite": ("model.tflite", _to_tflite),
        "onnx-tf2onnx-dynamic": ("model.onnx", _to_onnx),
    }[path]
    facts = convert(trained.model, spec, Path(folder) / entry)
    # Not the statistics of batch normalization, which are no weights.
    parameters = sum(int(np.prod(weights.shape)) for weights in trained.model.trainable_variables)
    made_by = {"tensorflow": tf.__version__, "keras": keras.__version__}
    weights = {"weights": f"random, seed {trained.seed}", "parameters": parameters}
    return {"entry": entry, "facts": {**weights, **made_by, **facts}}


def _to_savedmodel(model: Any, spec: Any, file: Path) -> dict[str, Any]:
    model.export(file, format="tf_saved_model", input_signature=[spec], verbose=False)
    return {"converter": "keras export", "signature": "serving_default"}


def _to_tflite(model: Any, spec: Any, file: Path) -> dict[str, Any]:
    tf, _ = _backend()
    with tempfile.TemporaryDirectory(dir=file.parent) as saved:
        _to_savedmodel(model, spec, Path(saved))
        converter = tf.lite.TFLiteConverter.from_saved_model(saved)
        # The interpreters on small devices have no Select-TF operators: a model that needs them must fail here.
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        file.write_bytes(converter.convert())
    return {"converter": "tf.lite"}


def _to_onnx(model: Any, spec: Any, file: Path) -> dict[str, Any]:
    import onnx
    import tf2onnx

    tf2onnx.convert.from_keras(model, input_signature=[spec], output_path=str(file))
    written = onnx.load(file)
    opset = next(entry.version for entry in written.opset_import if entry.domain == "")
    return {"converter": "tf2onnx from_keras", "opset": opset, "ir_version": written.ir_version}


def _described(model: str) -> Model:
    if model not in MODELS:
        raise NotImplementedError(f"tensorflow has no model {model!r} here; it has {', '.join(MODELS)}")
    return MODELS[model]


# --- Layers ---------------------------------------------------------------------------------------------------------


def _normal(deviation: float) -> Any:
    """Return an initializer; biases are drawn with it, too, since zeros would hide one that is left out."""
    return _backend()[1].initializers.RandomNormal(stddev=deviation)


def _convolution(x: Any, filters: int, size: int, stride: int = 1, *, padding: str = "same") -> Any:
    """Return a convolution of ``x`` and its ReLU, with weights as He et al. 2015."""
    return _backend()[1].layers.Conv2D(
        filters,
        size,
        stride,
        padding,
        activation="relu",
        kernel_initializer="he_normal",
        bias_initializer=_normal(0.1),
    )(x)


def _linear(x: Any, width: int, activation: str | None = None) -> Any:
    layer = _backend()[1].layers.Dense
    return layer(width, activation=activation, kernel_initializer="he_normal", bias_initializer=_normal(0.1))(x)


def _grouped(x: Any, filters: int, size: int) -> Any:
    """Convolve each half of the channels for itself: TensorFlow has no convolution in groups for processors."""
    _, keras = _backend()
    halves = keras.ops.split(x, 2, axis=-1)
    return keras.layers.Concatenate()([_convolution(half, filters // 2, size) for half in halves])


def _response_norm(x: Any) -> Any:
    """Return ``x`` normalized as Krizhevsky et al. 2012 do, which Keras has no layer for."""
    tf, keras = _backend()
    return keras.layers.Lambda(
        lambda y: tf.nn.local_response_normalization(y, depth_radius=2, bias=2.0, alpha=1e-4, beta=0.75)
    )(x)


# --- Networks -------------------------------------------------------------------------------------------------------


def _alexnet(x: Any) -> Any:
    """Krizhevsky et al. 2012, in one piece: two groups of channels where the original had two processors."""
    layers = _backend()[1].layers
    x = _response_norm(_convolution(layers.ZeroPadding2D(2)(x), 96, 11, 4, padding="valid"))
    x = layers.MaxPooling2D(3, 2)(x)
    x = layers.MaxPooling2D(3, 2)(_response_norm(_grouped(x, 256, 5)))
    x = _grouped(_grouped(_convolution(x, 384, 3), 384, 3), 256, 3)
    x = layers.Flatten()(layers.MaxPooling2D(3, 2)(x))
    for _ in range(2):
        x = layers.Dropout(0.5)(_linear(x, 4096, "relu"))
    return _linear(x, CLASSES)


def _inception(x: Any, *widths: int) -> Any:
    """Return four branches, joined along the channels; the widths are in the order of the columns of table 1."""
    layers = _backend()[1].layers
    one, reduce3, three, reduce5, five, pool = widths
    branches = [
        _convolution(x, one, 1),
        _convolution(_convolution(x, reduce3, 1), three, 3),
        _convolution(_convolution(x, reduce5, 1), five, 5),
        _convolution(layers.MaxPooling2D(3, 1, "same")(x), pool, 1),
    ]
    return layers.Concatenate()(branches)


def _googlenet(x: Any) -> Any:
    """Szegedy et al. 2014, table 1, without the auxiliary classifiers, which are there for training only."""
    layers = _backend()[1].layers

    def halved(y: Any) -> Any:
        return layers.MaxPooling2D(3, 2, "same")(y)

    x = _convolution(_response_norm(halved(_convolution(x, 64, 7, 2))), 64, 1)
    x = halved(_response_norm(_convolution(x, 192, 3)))
    x = halved(_inception(_inception(x, 64, 96, 128, 16, 32, 32), 128, 128, 192, 32, 96, 64))
    x = _inception(_inception(x, 192, 96, 208, 16, 48, 64), 160, 112, 224, 24, 64, 64)
    x = _inception(_inception(x, 128, 128, 256, 24, 64, 64), 112, 144, 288, 32, 64, 64)
    x = halved(_inception(x, 256, 160, 320, 32, 128, 128))
    x = _inception(_inception(x, 256, 160, 320, 32, 128, 128), 384, 192, 384, 48, 128, 128)
    return _linear(layers.Dropout(0.4)(layers.GlobalAveragePooling2D()(x)), CLASSES)


def _vgg16(x: Any) -> Any:
    """Simonyan and Zisserman 2014, configuration D."""
    layers = _backend()[1].layers
    for filters, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(depth):
            x = _convolution(x, filters, 3)
        x = layers.MaxPooling2D(2)(x)
    x = layers.Flatten()(x)
    for _ in range(2):
        x = layers.Dropout(0.5)(_linear(x, 4096, "relu"))
    return _linear(x, CLASSES)


def _normalized(x: Any, filters: int, size: int, stride: int = 1) -> Any:
    layers = _backend()[1].layers
    x = layers.Conv2D(filters, size, stride, "same", use_bias=False, kernel_initializer="he_normal")(x)
    # No momentum: what was seen last is what is used. The small constant is that of the original.
    return layers.BatchNormalization(momentum=0.0, epsilon=1e-5)(x)


def _bottleneck(x: Any, width: int, stride: int) -> Any:
    """Return 1x1, 3x3 and 1x1 to four times ``width`` channels, added to ``x`` or to its projection."""
    layers = _backend()[1].layers
    residual = layers.ReLU()(_normalized(x, width, 1))
    residual = layers.ReLU()(_normalized(residual, width, 3, stride))
    shortcut = x if x.shape[-1] == 4 * width else _normalized(x, 4 * width, 1, stride)
    return layers.ReLU()(layers.Add()([_normalized(residual, 4 * width, 1), shortcut]))


def _resnet50(x: Any) -> Any:
    """He et al. 2015; the stride is in the 3x3 convolution of a block, as in most implementations since."""
    layers = _backend()[1].layers
    x = layers.MaxPooling2D(3, 2, "same")(layers.ReLU()(_normalized(x, 64, 7, 2)))
    for width, depth, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for number in range(depth):
            x = _bottleneck(x, width, 1 if number else stride)
    return _linear(layers.GlobalAveragePooling2D()(x), CLASSES)


def _lstm(x: Any) -> Any:
    """Four layers of 512 units over 64 steps, N x 64 x 512 to the last step's output, N x 512."""
    for number in range(4):
        # With weights of variance 1 / WIDTH, what tells one input from another halves from layer to layer; with three
        # times the deviation every layer's output is about 0.2 in size, and four fifths of that are the input's.
        x = _backend()[1].layers.LSTM(
            WIDTH,
            return_sequences=number < 3,
            kernel_initializer=_normal(GAIN / WIDTH**0.5),
            recurrent_initializer=_normal(1 / WIDTH**0.5),
            bias_initializer=_normal(0.1),
            unit_forget_bias=False,
        )(x)
    return x


def _transformer(x: Any) -> Any:
    """Vaswani et al. 2017, the encoder of the base model: N x 128 x 512 embedded tokens to as many."""
    layers = _backend()[1].layers
    for _ in range(6):
        # The initializers with a scale of their own take the heads of such a kernel for a convolution's pixels.
        attend = layers.MultiHeadAttention(
            8, WIDTH // 8, kernel_initializer=_normal(WIDTH**-0.5), bias_initializer=_normal(0.1)
        )
        x = layers.LayerNormalization(epsilon=1e-5)(layers.Add()([x, attend(x, x)]))
        forward = _linear(_linear(x, 4 * WIDTH, "relu"), WIDTH)
        x = layers.LayerNormalization(epsilon=1e-5)(layers.Add()([x, forward]))
    return x


#: How much larger than 1 / sqrt(inputs) the weights are with which an LSTM reads its input.
GAIN = 3.0

MODELS: dict[str, Model] = {
    "alexnet": Model(_alexnet, IMAGE),
    "googlenet": Model(_googlenet, IMAGE),
    "vgg16": Model(_vgg16, IMAGE),
    "resnet50": Model(_resnet50, IMAGE),
    "lstm": Model(_lstm, SEQUENCE, "last"),
    "transformer": Model(_transformer, TOKENS, "encoded"),
}
