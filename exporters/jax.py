"""JAX with Flax NNX: builds and trains the reference models and hands them over: StableHLO, TensorFlow, ONNX.

Loaded by path only, so that the name of this file never hides the real ``jax``, which is imported inside functions.
"""

from __future__ import annotations

import functools
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ENVIRONMENT = {
    "python": ">=3.11,<3.14",
    "requirements": [
        "jax==0.10.2",
        "jaxlib==0.10.2",
        "flax==0.12.8",
        "optax==0.2.8",
        "jax2onnx==0.17.1",
        "tensorflow==2.21.0",
        "onnx==1.23.2",
        "onnx-ir==1.1.0",
        "numpy==2.4.6",
        "ml_dtypes==0.6.0",
        "protobuf==7.36.2",
        "flatbuffers==25.12.19",
    ],
    "env": {
        "JAX_PLATFORMS": "cpu",
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        # What XLA rounds where depends on the instructions of the machine and on who adds up which part of a sum: the
        # trained weights would depend on where they were trained.
        "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false --xla_cpu_max_isa=AVX2",
        "TF_ENABLE_ONEDNN_OPTS": "0",
    },
}

LAYOUT = "channels-last"

#: jax2onnx writes any number that it is asked for. Below the first of these, operators in a recurrent network are of
#: another shape than their opset has; the last is the newest that the pinned onnx knows.
OPSETS = (13, 28)
_ONNX = {"kind": "onnx", "format": "onnx"}
_STABLEHLO = {"kind": "native", "format": "stablehlo"}
_TFLITE = {"kind": "native", "format": "tflite", "batch": "static"}
PATHS = {
    "stablehlo": {**_STABLEHLO, "batch": "static"},
    "stablehlo-dynamic": {**_STABLEHLO, "batch": "dynamic"},
    **{f"stablehlo+{half}": {**_STABLEHLO, "batch": "static", "precision": half} for half in ("fp16", "bf16")},
    **{f"stablehlo-dynamic+{half}": {**_STABLEHLO, "batch": "dynamic", "precision": half} for half in ("fp16", "bf16")},
    "savedmodel": {"kind": "native", "format": "savedmodel", "batch": "static"},
    "savedmodel-dynamic": {"kind": "native", "format": "savedmodel", "batch": "dynamic"},
    "tflite": _TFLITE,
    **{f"tflite+{name}": {**_TFLITE, "precision": name} for name in ("fp16", "int8-dynamic", "int8-static")},
    "onnx-jax2onnx": {**_ONNX, "batch": "static"},
    "onnx-jax2onnx-dynamic": {**_ONNX, "batch": "dynamic"},
    **{f"onnx-jax2onnx+opset{opset}": {**_ONNX, "batch": "static", "opset": opset} for opset in OPSETS},
    **{f"onnx-jax2onnx-dynamic+opset{opset}": {**_ONNX, "batch": "dynamic", "opset": opset} for opset in OPSETS},
}

CLASSES = 10
#: Letters that a digit name may hold, counting the end symbol (number 0, which is the start symbol as well).
LETTERS = 16
#: Letters that the decoders write at most, the end symbol included.
STEPS = 6
BEAMS = 3
#: Log-probability of a letter that must not be chosen: finite, since infinities turn into NaN in some runtimes.
NEVER = -1e9
#: Rows of the training data that show a quantizer which values to expect.
CALIBRATION = 200


class Family(NamedTuple):
    """How one reference model is built from ``nnx.Rngs``, and how it learns."""

    build: Callable[[Any], Any]
    epochs: int
    rate: float
    batch: int = 50


class Trained(NamedTuple):
    """A trained model in evaluation mode, its forward pass compiled, and the rows that calibrate a quantizer."""

    network: Any
    forward: Callable[[Any], dict[str, Any]]
    calibration: np.ndarray


# --- The three functions of an exporter


def train(model: str, data: Any, seed: int) -> Trained:
    """Build ``model`` and train it on ``data``; the same ``seed`` gives the same weights.

    Labels are N (digits) or N x 6 (letters of the digit's name). Raises ``NotImplementedError`` for an unknown model.
    """
    if model not in FAMILIES:
        raise NotImplementedError(f"jax has no model {model!r}; it has {', '.join(FAMILIES)}")
    from flax import nnx

    family = FAMILIES[model]
    network = family.build(nnx.Rngs(seed))
    x, y = data.train_x["x"], data.train_y.astype(np.int32)
    batches = -(-len(x) // family.batch)
    draw = np.random.default_rng(seed)
    # Every batch has as many rows as any other, so that the step is compiled once: the last one borrows from the first.
    order = [np.resize(draw.permutation(len(x)), batches * family.batch) for _ in range(family.epochs)]
    network.train()
    _fit(network, x, y, np.stack(order).reshape(-1, family.batch), family.rate)
    network.eval()
    return Trained(network, _compiled(network), x[:CALIBRATION])


def predict(trained: Trained, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the network's own outputs by name, for ``inputs["x"]`` of any batch size."""
    return {name: np.asarray(value) for name, value in trained.forward(inputs["x"]).items()}


def export(trained: Trained, path: str, inputs: dict[str, np.ndarray], folder: str) -> dict[str, Any]:
    """Write ``trained`` below ``folder`` in the way that ``path`` names; the exporter's own exceptions come through.

    The artifact's input is ``x`` and its outputs have the names that ``predict`` gives them; StableHLO knows inputs
    and outputs by their position only. Raises ``ValueError`` for an unknown path.
    """
    if path not in PATHS:
        raise ValueError(f"jax has no path {path!r}; it has {', '.join(PATHS)}")
    write = {"stablehlo": _stablehlo, "savedmodel": _savedmodel, "tflite": _tflite, "onnx-jax2onnx": _onnx}
    base = path.partition("+")[0].removesuffix("-dynamic")
    return write[base](trained, PATHS[path], inputs["x"].shape, Path(folder))


def _fit(network: Any, x: np.ndarray, y: np.ndarray, order: np.ndarray, rate: float) -> None:
    """Minimise the cross-entropy of ``network``'s logits in place, one step for each row of indices in ``order``."""
    import jax
    import optax
    from flax import nnx

    optimizer = optax.adam(optax.cosine_onecycle_schedule(len(order), rate))
    graph, weights, others = nnx.split(network, nnx.Param, ...)

    def loss(weights: Any, others: Any, x: Any, y: Any) -> tuple[Any, Any]:
        network = nnx.merge(graph, weights, others, copy=True)
        # A decoder learns from the letter that should have been before, not from the one that it wrote.
        logits = network.teach(x, y) if y.ndim == 2 else network(x)["logits"]
        error = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
        # Dropout counts its draws, normalization averages what it sees: neither is learned by descent.
        return error, nnx.split(network, nnx.Param, ...)[2]

    def descend(weights: Any, others: Any, x: Any, y: Any, order: Any) -> tuple[Any, Any]:
        def step(carried: Any, rows: Any) -> tuple[Any, None]:
            weights, others, moments = carried
            slopes, others = jax.grad(loss, has_aux=True)(weights, others, x[rows], y[rows])
            changes, moments = optimizer.update(slopes, moments)
            return (optax.apply_updates(weights, changes), others, moments), None

        # The whole training is one program: a call for each of its hundreds of steps would cost more than the step.
        ended = jax.lax.scan(step, (weights, others, optimizer.init(weights)), order)[0]
        return ended[0], ended[1]

    nnx.update(network, *jax.jit(descend)(weights, others, x, y, order))


def _compiled(network: Any) -> Callable[[Any], dict[str, Any]]:
    import jax
    from flax import nnx

    graph, state = nnx.split(network)
    forward = jax.jit(lambda state, x: nnx.merge(graph, state)(x))
    return functools.partial(forward, state)


# --- Ways out: (trained model, declaration of the path, shape of its inputs, folder) -> entry and facts


def _stablehlo(trained: Trained, way: Any, shape: tuple[int, ...], folder: Path) -> dict[str, Any]:
    """Write the folder ``model``: ``model.jax``, which JAX loads, and in ``model.mlirbc`` its portable StableHLO."""
    import jax
    import jax.export

    network = trained.network
    if "precision" in way:
        network = _halved(network, {"fp16": "float16", "bf16": "bfloat16"}[way["precision"]])
    if way["batch"] == "dynamic":
        shape = jax.export.symbolic_shape(", ".join(["batch", *map(str, shape[1:])]))

    def forward(x: Any) -> dict[str, Any]:
        # By a function, since the program is named after it.
        made: dict[str, Any] = network(x)
        return made

    exported = jax.export.export(jax.jit(forward))(jax.ShapeDtypeStruct(shape, "float32"))
    entry = folder / "model"
    entry.mkdir()
    (entry / "model.jax").write_bytes(exported.serialize())
    (entry / "model.mlirbc").write_bytes(_portable(exported))
    versions = {"jax": jax.__version__, "calling_convention": exported.calling_convention_version}
    return {"entry": entry.name, "facts": {"exporter": "jax.export", **versions}}


def _portable(exported: Any) -> bytes:
    """Return the program as bytecode of StableHLO alone, of the version that JAX writes for older readers.

    JAX's assertion about a symbolic batch is left out: a call of its own, which only JAX removes before it compiles.
    """
    from jaxlib.mlir import ir
    from jaxlib.mlir.dialects import stablehlo

    written: bytes = exported.mlir_module_serialized
    # The bytecode begins with b"ML\xefR\rStableHLO_v1.15.0\0".
    version = written.partition(b"StableHLO_v")[2].partition(b"\0")[0].decode()
    assertions: list[Any] = []

    def collect(operation: Any) -> Any:
        called = operation.attributes["call_target_name"] if operation.name == "stablehlo.custom_call" else None
        if called is not None and called.value == "shape_assertion":
            assertions.append(operation)
        return ir.WalkResult.ADVANCE

    with ir.Context() as context:
        stablehlo.register_dialect(context)
        module = stablehlo.deserialize_portable_artifact(context, written)
        module.operation.walk(collect)
        for operation in assertions:
            operation.erase()
        portable: bytes = stablehlo.serialize_portable_artifact(module, version)
    return portable


def _halved(network: Any, dtype: str) -> Callable[[Any], dict[str, Any]]:
    """Return ``network`` with its weights, and so everything between them, in ``dtype``; its border stays float32."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    def cast(value: Any, wanted: str) -> Any:
        return value.astype(wanted) if jnp.issubdtype(value.dtype, jnp.floating) else value

    graph, floating, others = nnx.split(network, (nnx.Param, nnx.BatchStat), ...)
    halved = nnx.merge(graph, jax.tree.map(lambda value: cast(value, dtype), floating), others)

    def forward(x: Any) -> dict[str, Any]:
        made = halved(x.astype(dtype))
        floats: dict[str, Any] = type(made)((name, cast(value, "float32")) for name, value in made.items())
        return floats

    return forward


def _savedmodel(trained: Trained, way: Any, shape: tuple[int, ...], folder: Path) -> dict[str, Any]:
    return {"entry": "model", "facts": _saved(trained, way["batch"], shape, folder / "model")}


def _saved(trained: Trained, batch: str, shape: tuple[int, ...], folder: Path) -> dict[str, Any]:
    """Write a SavedModel with the signature ``serving_default`` and return its facts."""
    import jax
    import tensorflow as tf
    from jax.experimental import jax2tf

    dynamic = batch == "dynamic"
    symbols = ", ".join(["batch", *map(str, shape[1:])]) if dynamic else None
    converted = jax2tf.convert(trained.network, polymorphic_shapes=[symbols], with_gradient=False)
    spec = tf.TensorSpec((None if dynamic else shape[0], *shape[1:]), tf.float32, name="x")
    module = tf.Module()
    module.forward = tf.function(converted, input_signature=[spec], autograph=False)
    tf.saved_model.save(module, folder, signatures=module.forward.get_concrete_function())
    return {"exporter": "jax2tf", "jax": jax.__version__, "tensorflow": tf.__version__, "signature": "serving_default"}


def _tflite(trained: Trained, way: Any, shape: tuple[int, ...], folder: Path) -> dict[str, Any]:
    """Write ``model.tflite``; raises ``NotImplementedError`` where the converter quietly quantized nothing."""
    import tensorflow as tf

    precision = way.get("precision", "fp32")
    file = folder / "model.tflite"
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        facts = _saved(trained, "static", shape, Path(scratch))
        converter = tf.lite.TFLiteConverter.from_saved_model(scratch)
        # The interpreters on small devices have no Select-TF operators: a model that needs them must fail here.
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if precision != "fp32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if precision == "fp16":
            converter.target_spec.supported_types = [tf.float16]
        if precision == "int8-static":
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.representative_dataset = lambda: _calls(trained.calibration, shape[0])
        file.write_bytes(converter.convert())
    if precision != "fp32":
        facts["reduced_tensors"] = _reduced(file, precision)
    return {"entry": file.name, "facts": {**facts, "converter": "tf.lite"}}


def _calls(rows: np.ndarray, batch: int) -> Iterator[list[np.ndarray]]:
    for start in range(0, len(rows) - batch + 1, batch):
        yield [rows[start : start + batch]]


def _reduced(file: Path, precision: str) -> int:
    """Return how many tensors of the TFLite ``file`` are in ``precision``; raises ``NotImplementedError`` for none.

    Of all its subgraphs, since the bodies of loops are some: an interpreter lists the tensors of the first only.
    """
    from tensorflow.lite.python import schema_py_generated as schema

    wanted = schema.TensorType.FLOAT16 if precision == "fp16" else schema.TensorType.INT8
    graphs = schema.ModelT.InitFromPackedBuf(file.read_bytes(), 0).subgraphs
    found = [tensor for graph in graphs for tensor in graph.tensors if tensor.type == wanted]
    if not found:
        raise NotImplementedError(f"the TFLite converter left every tensor as it was: there is none in {precision}")
    return len(found)


def _onnx(trained: Trained, way: Any, shape: tuple[int, ...], folder: Path) -> dict[str, Any]:
    """Write ``model.onnx`` with the opset that ``way`` asks for, or else with the exporter's own."""
    from importlib import metadata

    import jax
    import jax2onnx
    import onnx

    file = folder / "model.onnx"
    asked = {"opset": way["opset"]} if "opset" in way else {}
    size = "batch" if way["batch"] == "dynamic" else shape[0]
    names = list(trained.forward(np.zeros(shape, np.float32)))
    try:
        jax2onnx.to_onnx(
            trained.network,
            [(size, *shape[1:])],
            return_mode="file",
            output_path=str(file),
            input_names=["x"],
            output_names=names,
            **asked,
        )
    finally:
        # What it traces, it traces into operators of its own, which JAX would remember for the next path.
        jax.clear_caches()
    written = onnx.load(file)
    onnx.checker.check_model(written)
    opset = next(entry.version for entry in written.opset_import if entry.domain == "")
    facts = {"exporter": f"jax2onnx {metadata.version('jax2onnx')}", "opset": opset, "ir_version": written.ir_version}
    return {"entry": file.name, "facts": {**facts, "opset_asked": asked.get("opset", "the exporter's own")}}


# --- Classifiers: N x ... -> {"logits": N x 10}


def _classifier(*layers: Any) -> Any:
    """Return the network of ``layers`` one after the other, the last of which gives ten logits."""
    from flax import nnx

    class Classifier(nnx.Module):
        """N x ... to {"logits": N x 10}."""

        def __init__(self) -> None:
            self.layers = nnx.Sequential(*layers)

        def __call__(self, x: Any) -> dict[str, Any]:
            return {"logits": self.layers(x)}

    return Classifier()


def _flat(x: Any) -> Any:
    return x.reshape(x.shape[0], -1)


def _over_positions(x: Any) -> Any:
    """Average over all axes between the batch and the channels."""
    return x.mean(axis=tuple(range(1, x.ndim - 1)))


def _pool(size: int | tuple[int, ...], stride: int | tuple[int, ...], rank: int = 2) -> Callable[[Any], Any]:
    from flax import nnx

    window = size if isinstance(size, tuple) else (size,) * rank
    strides = stride if isinstance(stride, tuple) else (stride,) * rank
    return functools.partial(nnx.max_pool, window_shape=window, strides=strides, padding="SAME")


def _convolution(inputs: int, outputs: int, size: int, rngs: Any, rank: int = 2, **options: Any) -> Any:
    """Return a convolution that starts as in He et al. 2015: many layers of ReLU without normalization need it."""
    from flax import nnx

    he = nnx.initializers.he_normal()
    return nnx.Conv(inputs, outputs, (size,) * rank, kernel_init=he, rngs=rngs, **options)


def _mlp(rngs: Any) -> Any:
    """Two hidden layers over the flattened picture."""
    from flax import nnx

    first, second = nnx.Linear(64, 64, rngs=rngs), nnx.Linear(64, 32, rngs=rngs)
    return _classifier(_flat, first, nnx.relu, second, nnx.relu, nnx.Linear(32, CLASSES, rngs=rngs))


def _response_norm(x: Any) -> Any:
    """Divide each channel by the activity of its five neighbours, with the constants of the AlexNet paper.

    The factor before the sum is alpha / 5, as PyTorch has it.
    """
    import jax.numpy as jnp

    channels = x.shape[-1]
    squares = jnp.pad(x * x, ((0, 0), (0, 0), (0, 0), (2, 2)))
    activity = sum(squares[..., start : start + channels] for start in range(5))
    return x / (2.0 + 1e-4 / 5 * activity) ** 0.75


def _alexnet(rngs: Any) -> Any:
    """Krizhevsky et al. 2012: response normalization, overlapping pooling, grouped convolutions, dropout."""
    from flax import nnx

    # Windows of three at a stride of two overlap.
    return _classifier(
        *(_convolution(1, 24, 5, rngs), nnx.relu, _response_norm, _pool(3, 2)),
        *(_convolution(24, 64, 3, rngs, feature_group_count=2), nnx.relu, _response_norm, _pool(3, 2)),
        *(_convolution(64, 96, 3, rngs), nnx.relu),
        *(_convolution(96, 96, 3, rngs, feature_group_count=2), nnx.relu),
        *(_convolution(96, 64, 3, rngs, feature_group_count=2), nnx.relu, _pool(3, 2)),
        *(_flat, nnx.Dropout(0.2, rngs=rngs), nnx.Linear(64, 96, rngs=rngs), nnx.relu),
        *(nnx.Dropout(0.2, rngs=rngs), nnx.Linear(96, 96, rngs=rngs), nnx.relu),
        nnx.Linear(96, CLASSES, rngs=rngs),
    )


def _vgg(rngs: Any) -> Any:
    """Simonyan and Zisserman 2014: stacks of 3x3 convolutions, each closed by 2x2 pooling."""
    from flax import nnx

    layers: list[Any] = []
    channels = 1
    for width, depth in ((16, 2), (32, 2), (48, 2)):
        for _ in range(depth):
            layers += [_convolution(channels, width, 3, rngs), nnx.relu]
            channels = width
        layers.append(_pool(2, 2))
    head = (_flat, nnx.Linear(48, 64, rngs=rngs), nnx.relu, nnx.Dropout(0.2, rngs=rngs))
    return _classifier(*layers, *head, nnx.Linear(64, CLASSES, rngs=rngs))


def _googlenet(rngs: Any) -> Any:
    """Szegedy et al. 2014: inception modules, joined along the channels, under global average pooling."""
    import jax.numpy as jnp
    from flax import nnx

    def convolution(inputs: int, outputs: int, size: int) -> Any:
        return nnx.Sequential(_convolution(inputs, outputs, size, rngs), nnx.relu)

    class Inception(nnx.Module):
        """Four branches of ``width`` channels each: 1x1, 1x1 to 3x3, 1x1 to 5x5, pooling to 1x1."""

        def __init__(self, inputs: int, width: int) -> None:
            reduced = width // 2
            self.one = convolution(inputs, width, 1)
            self.three = nnx.Sequential(convolution(inputs, reduced, 1), convolution(reduced, width, 3))
            self.five = nnx.Sequential(convolution(inputs, reduced, 1), convolution(reduced, width, 5))
            self.pool = nnx.Sequential(_pool(3, 1), convolution(inputs, width, 1))

        def __call__(self, x: Any) -> Any:
            return jnp.concatenate([self.one(x), self.three(x), self.five(x), self.pool(x)], axis=-1)

    return _classifier(
        *(convolution(1, 32, 3), _pool(3, 2), Inception(32, 16), Inception(64, 16), _pool(3, 2), Inception(64, 24)),
        *(_over_positions, nnx.Dropout(0.1, rngs=rngs), nnx.Linear(96, CLASSES, rngs=rngs)),
    )


def _resnet(rngs: Any) -> Any:
    """He et al. 2015: basic blocks of two normalized convolutions, with identity and projection shortcuts."""
    from flax import nnx

    def normalized(inputs: int, outputs: int, size: int, stride: int = 1) -> Any:
        convolution = _convolution(inputs, outputs, size, rngs, strides=stride, use_bias=False)
        # The default momentum of 0.99 has not seen enough steps after so short a training.
        return nnx.Sequential(convolution, nnx.BatchNorm(outputs, momentum=0.9, rngs=rngs))

    class Block(nnx.Module):
        """Adds its input to what it computes; a 1x1 convolution fits the input where the shape changes."""

        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            self.first = normalized(inputs, outputs, 3, stride)
            self.second = normalized(outputs, outputs, 3)
            same = inputs == outputs and stride == 1
            self.shortcut = nnx.identity if same else normalized(inputs, outputs, 1, stride)

        def __call__(self, x: Any) -> Any:
            return nnx.relu(self.second(nnx.relu(self.first(x))) + self.shortcut(x))

    return _classifier(
        *(normalized(1, 16, 3), nnx.relu, Block(16, 16, 1), Block(16, 32, 2), Block(32, 32, 1)),
        *(_over_positions, nnx.Linear(32, CLASSES, rngs=rngs)),
    )


def _conv1d(rngs: Any) -> Any:
    """Convolutions over time: the eight rows are the steps, the eight pixels of a row the channels."""
    from flax import nnx

    return _classifier(
        *(_convolution(8, 32, 3, rngs, rank=1), nnx.relu, _convolution(32, 32, 3, rngs, rank=1), nnx.relu),
        *(_pool(2, 2, rank=1), _flat, nnx.Linear(128, CLASSES, rngs=rngs)),
    )


def _conv3d(rngs: Any) -> Any:
    """Tran et al. 2014 (C3D): 3x3x3 convolutions over a clip; the first pooling leaves time alone."""
    from flax import nnx

    return _classifier(
        *(_convolution(1, 8, 3, rngs, rank=3), nnx.relu, _pool((1, 2, 2), (1, 2, 2))),
        *(_convolution(8, 16, 3, rngs, rank=3), nnx.relu, _pool(2, 2, rank=3)),
        *(_flat, nnx.Linear(128, 32, rngs=rngs), nnx.relu, nnx.Linear(32, CLASSES, rngs=rngs)),
    )


def _read(cell: Any, x: Any, *, backward: bool = False) -> tuple[Any, Any]:
    """Let a recurrent ``cell`` read N x T x F; returns its last carry and its states N x T x U, in the order of ``x``.

    By ``jax.lax.scan`` and not ``nnx.RNN``, whose first carry is float32 whatever is read.
    """
    import jax
    import jax.numpy as jnp
    from flax import nnx

    zeros = jnp.zeros((x.shape[0], cell.hidden_features), x.dtype)
    first = (zeros, zeros) if isinstance(cell, nnx.LSTMCell) else zeros
    # Turned round before and after, as ``nnx.RNN`` does it: jax2onnx has no scan that begins at the end.
    rows = jnp.flip(x, axis=1) if backward else x
    carry, states = jax.lax.scan(cell, first, rows.swapaxes(0, 1))
    states = states.swapaxes(0, 1)
    return carry, jnp.flip(states, axis=1) if backward else states


def _recurrent(kind: str, rngs: Any, *, both_ways: bool = False) -> Any:
    """A layer of the cell ``kind`` over the rows; the states behind the last row read are classified."""
    import jax.numpy as jnp
    from flax import nnx

    width = 48

    class Reader(nnx.Module):
        """N x 8 x 8 to {"logits": N x 10}."""

        def __init__(self) -> None:
            self.forward = getattr(nnx, kind)(8, width, rngs=rngs)
            if both_ways:
                self.backward = getattr(nnx, kind)(8, width, rngs=rngs)
            self.head = nnx.Linear(width * (2 if both_ways else 1), CLASSES, rngs=rngs)

        def __call__(self, x: Any) -> dict[str, Any]:
            final = _read(self.forward, x)[1][:, -1]
            if both_ways:
                final = jnp.concatenate([final, _read(self.backward, x, backward=True)[1][:, 0]], axis=1)
            return {"logits": self.head(final)}

    return Reader()


def _rnn(rngs: Any) -> Any:
    return _recurrent("SimpleCell", rngs)


def _lstm(rngs: Any) -> Any:
    return _recurrent("LSTMCell", rngs)


def _gru(rngs: Any) -> Any:
    return _recurrent("GRUCell", rngs)


def _birnn(rngs: Any) -> Any:
    return _recurrent("LSTMCell", rngs, both_ways=True)


def _transformer(rngs: Any) -> Any:
    """Vaswani et al. 2017: two encoder layers over the embedded rows, averaged and classified."""
    from flax import nnx

    width = 32

    class Layer(nnx.Module):
        """Self-attention of four heads and a network of two layers, each added to its input and normalized."""

        def __init__(self) -> None:
            self.attention = nnx.MultiHeadAttention(num_heads=4, in_features=width, decode=False, rngs=rngs)
            self.hidden = nnx.Linear(width, 64, rngs=rngs)
            self.shown = nnx.Linear(64, width, rngs=rngs)
            self.norms = nnx.List([nnx.LayerNorm(width, rngs=rngs) for _ in range(2)])
            self.dropout = nnx.Dropout(0.1, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            x = self.norms[0](x + self.dropout(self.attention(x)))
            return self.norms[1](x + self.dropout(self.shown(nnx.relu(self.hidden(x)))))

    class RowEncoder(nnx.Module):
        """N x 8 x 8 to {"logits": N x 10}, with a learned embedding of the row's position."""

        def __init__(self) -> None:
            self.embed = nnx.Linear(8, width, rngs=rngs)
            self.position = nnx.Param(nnx.initializers.normal(0.1)(rngs.params(), (1, 8, width)))
            self.layers = nnx.Sequential(Layer(), Layer())
            self.head = nnx.Linear(width, CLASSES, rngs=rngs)

        def __call__(self, x: Any) -> dict[str, Any]:
            return {"logits": self.head(self.layers(self.embed(x) + self.position[...]).mean(axis=1))}

    return RowEncoder()


# --- Spelling the digit's name: encoder, attention, decoder


def _reader(rngs: Any, width: int, read: int) -> Any:
    """What reads the rows, both ways."""
    import jax.numpy as jnp
    from flax import nnx

    class Reader(nnx.Module):
        """N x 8 x 8 to a memory of it, N x 8 x read, and a decoder's first state: hidden and cell, N x 1 x width."""

        def __init__(self) -> None:
            self.embed = nnx.Linear(8, 32, rngs=rngs)
            self.forward = nnx.LSTMCell(32, read // 2, rngs=rngs)
            self.backward = nnx.LSTMCell(32, read // 2, rngs=rngs)
            self.bridge = nnx.Linear(read // 2, width, rngs=rngs)

        def __call__(self, x: Any) -> tuple[Any, tuple[Any, Any]]:
            x = nnx.relu(self.embed(x))
            forward, backward = _read(self.forward, x)[1], _read(self.backward, x, backward=True)[1]
            hidden = jnp.tanh(self.bridge(backward[:, :1]))
            return jnp.concatenate([forward, backward], axis=2), (hidden, jnp.zeros_like(hidden))

    return Reader()


def _decoder(rngs: Any, width: int, read: int) -> Any:
    """What writes one letter. The K writers of one row (the beams of a search, else one) share its memory."""
    import jax.numpy as jnp
    from flax import nnx

    class Decoder(nnx.Module):
        """From letters N x K, hidden and cell N x K x width and memory to logits N x K x 16, new hidden and cell.

        The attention is that of Bahdanau et al. 2014: which of the rows read matter to a decoder in a given state.
        """

        def __init__(self) -> None:
            self.key = nnx.Linear(read, width, rngs=rngs)
            self.query = nnx.Linear(width, width, use_bias=False, rngs=rngs)
            self.energy = nnx.Linear(width, 1, use_bias=False, rngs=rngs)
            self.letters = nnx.Embed(LETTERS, 16, rngs=rngs)
            self.cell = nnx.LSTMCell(16 + read, width, rngs=rngs)
            self.readout = nnx.Linear(width + read, LETTERS, rngs=rngs)

        def __call__(self, letter: Any, state: tuple[Any, Any], memory: Any) -> tuple[Any, tuple[Any, Any]]:
            hidden, cell = state
            asked = jnp.tanh(self.query(hidden)[:, :, None] + self.key(memory)[:, None])
            context = nnx.softmax(self.energy(asked)[..., 0], axis=2) @ memory
            # ``nnx.Embed`` gives what its weights were when it was made, whatever they have been cast to since.
            heard = jnp.concatenate([self.letters(letter).astype(context.dtype), context], axis=2)
            # LSTMCell's carry is the cell first.
            (cell, hidden), _ = self.cell((cell, hidden), heard)
            return self.readout(jnp.concatenate([hidden, context], axis=2)), (hidden, cell)

    return Decoder()


def _speller(rngs: Any, decode: Callable[[Any, Any, tuple[Any, Any]], dict[str, Any]]) -> Any:
    """The network that reads the rows and then lets ``decode`` write with a decoder, a memory and a first state."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    class Speller(nnx.Module):
        """N x 8 x 8 to what ``decode`` returns."""

        def __init__(self) -> None:
            self.reader, self.decoder = _reader(rngs, 64, 96), _decoder(rngs, 64, 96)

        def teach(self, x: Any, names: Any) -> Any:
            """Return logits N x 6 x 16, each step fed with the letters of ``names``, N x 6, whatever was written."""
            memory, state = self.reader(x)

            def write(state: Any, letter: Any) -> tuple[Any, Any]:
                logits, state = self.decoder(letter[:, None], state, memory)
                return state, logits[:, 0]

            told = jnp.pad(names, ((0, 0), (1, 0)))[:, :STEPS]
            return jax.lax.scan(write, state, told.T)[1].swapaxes(0, 1)

        def __call__(self, x: Any) -> dict[str, Any]:
            memory, state = self.reader(x)
            return decode(self.decoder, memory, state)

    return Speller()


def _attention(rngs: Any) -> Any:
    """An encoder that reads the rows and a decoder that writes the digit's name: logits N x 6 x 16, six steps."""
    return _speller(rngs, _greedy)


def _greedy(decoder: Any, memory: Any, state: tuple[Any, Any]) -> dict[str, Any]:
    """Write letter by letter, each step fed with the likeliest letter of the last."""
    import jax
    import jax.numpy as jnp

    def write(carried: Any, _: None) -> tuple[Any, Any]:
        letter, state = carried
        logits, state = decoder(letter, state, memory)
        return (jnp.argmax(logits, axis=2), state), logits[:, 0]

    start = jnp.zeros((memory.shape[0], 1), jnp.int32)
    return {"logits": jax.lax.scan(write, (start, state), length=STEPS)[1].swapaxes(0, 1)}


class Beams(NamedTuple):
    """What the loop of a search carries, for N rows with three beams each."""

    step: Any  # letters written so far
    letter: Any  # N x 3, the letter written last
    hidden: Any  # N x 3 x U, the decoder's state
    cell: Any
    tokens: Any  # N x 3 x 6, zeros where nothing is written
    scores: Any  # N x 3, sum of log-probabilities, best first


def _beam_search(rngs: Any) -> Any:
    """The speller of ``attention``, decoded by a beam search that goes on for as long as its data need it."""
    return _speller(rngs, _search)


def _search(decoder: Any, memory: Any, state: tuple[Any, Any]) -> dict[str, Any]:
    """Return the best beam's tokens N x 6, its log-probability N, and the number of steps taken, 1."""
    import jax
    import jax.numpy as jnp

    rows = memory.shape[0]
    # Only one beam is open at first: three alike would choose the same letter three times.
    only_first = jnp.array([[0.0] + [NEVER] * (BEAMS - 1)], jnp.float32)
    start = Beams(
        step=jnp.zeros((), jnp.int32),
        letter=jnp.zeros((rows, BEAMS), jnp.int32),
        hidden=jnp.repeat(state[0], BEAMS, axis=1),
        cell=jnp.repeat(state[1], BEAMS, axis=1),
        tokens=jnp.zeros((rows, BEAMS, STEPS), jnp.int32),
        scores=jnp.repeat(only_first, rows, axis=0),
    )
    found = jax.lax.while_loop(
        lambda beams: (beams.step < STEPS) & ((beams.step == 0) | jnp.any(beams.letter != 0)),
        lambda beams: _extend(decoder, memory, beams),
        start,
    )
    # In this order: JAX sorts the names of a plain dictionary, and the first output is the answer.
    made = (("tokens", found.tokens[:, 0]), ("scores", found.scores[:, 0]), ("steps", found.step.reshape(1)))
    return OrderedDict(made)


def _extend(decoder: Any, memory: Any, beams: Beams) -> Beams:
    """Write one more letter: of all continuations of a row's beams, keep the likeliest three."""
    import jax
    import jax.numpy as jnp

    logits, state = decoder(beams.letter, (beams.hidden, beams.cell), memory)
    # Sums over a word are kept in single precision, whatever the network computes in.
    likely = jax.nn.log_softmax(logits.astype(jnp.float32))
    # An ended beam lives on, followed by nothing but ends, which cost nothing.
    after_end = jnp.array([0.0] + [NEVER] * (LETTERS - 1), jnp.float32)
    ended = ((beams.letter == 0) & (beams.step > 0))[:, :, None]
    totals = beams.scores[:, :, None] + jnp.where(ended, after_end, likely)
    scores, chosen = jax.lax.top_k(totals.reshape(totals.shape[0], BEAMS * LETTERS), BEAMS)
    parent, letter = chosen // LETTERS, chosen % LETTERS
    hidden, cell, tokens = (
        jnp.take_along_axis(values, parent[:, :, None], axis=1) for values in (*state, beams.tokens)
    )
    here = jnp.arange(STEPS) == beams.step
    tokens = jnp.where(here, letter[:, :, None], tokens)
    return Beams(beams.step + 1, letter, hidden, cell, tokens, scores)


#: Epochs and rates are what reaches nine in ten of the held-out digits, or words, within seconds.
FAMILIES = {
    "mlp": Family(_mlp, 20, 0.01),
    "alexnet": Family(_alexnet, 10, 0.003),
    "vgg": Family(_vgg, 10, 0.003),
    "googlenet": Family(_googlenet, 7, 0.006),
    "resnet": Family(_resnet, 6, 0.01),
    "conv1d": Family(_conv1d, 20, 0.01),
    "conv3d": Family(_conv3d, 10, 0.008),
    "rnn": Family(_rnn, 25, 0.006),
    "lstm": Family(_lstm, 20, 0.02),
    "gru": Family(_gru, 20, 0.015),
    "birnn": Family(_birnn, 20, 0.015),
    "attention": Family(_attention, 16, 0.015, 100),
    "transformer": Family(_transformer, 15, 0.006),
    "beam_search": Family(_beam_search, 16, 0.015, 100),
}
