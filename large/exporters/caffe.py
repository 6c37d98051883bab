"""Caffe 1.0: networks of the size that is deployed, with random weights, as prototxt and caffemodel by Caffe itself.

Nothing is trained: how long a call takes does not depend on what a network has learned. Weights are drawn so that a
signal keeps its size on its way (K. He et al., arXiv:1502.01852, where ReLU follows, and batch normalization by the
statistics of one batch of noise): one that vanishes would agree with anything, one that explodes with nothing.

Runs on Python 3.9, which Debian 11 has its Caffe for; nothing of Caffe is imported before a function needs it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

#: That of the reference suite's exporter and runtime, item by item: equal ones are one image.
ENVIRONMENT = {
    "interpreter": False,
    "container": "caffe",
    "env": {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "GLOG_minloglevel": "2",
        "MPLCONFIGDIR": "/tmp",  # noqa: S108 - inside the container
    },
}
LAYOUT = "channels-first"
PATHS = {
    "native": {"kind": "native", "format": "caffe", "batch": "dynamic"},
    "onnx-dynamic": {"kind": "onnx", "format": "onnx", "batch": "dynamic", "converter": "caffe", "source": "native"},
}
CLASSES = 1000
#: What the recurrent model reads and carries for each step, and how many steps there are.
WIDTH, STEPS = 512, 64
IMAGE, SEQUENCE = (3, 224, 224), (STEPS, WIDTH)
#: How much larger than 1 / sqrt(inputs) the weights are with which an LSTM reads its input.
GAIN = 3.0
#: Rows of noise whose statistics batch normalization takes.
NOISE = 4


class Model(NamedTuple):
    """How a network is built from the blob ``x``, the shape of a row of that, and its output's name."""

    build: Callable[[Any, Any], None]
    row: tuple[int, ...]
    output: str = "logits"


class Trained(NamedTuple):
    """A net in test phase, which nothing was trained for, what it was made from, and what its weights rest on."""

    model: str
    net: Any
    prototxt: str
    seed: int


def train(model: str, data: None, seed: int) -> Trained:
    """Return ``model`` with weights drawn from ``seed`` by Caffe's own fillers, the same for the same one.

    Raises ``NotImplementedError`` for a model that is not here, or that Caffe cannot express.
    """
    import caffe

    caffe.set_mode_cpu()
    caffe.set_random_seed(seed)
    prototxt = _prototxt(model, 1)
    net = _net(prototxt, caffe.TEST)
    for layer in net.layers:
        if layer.type == "LSTM":
            # With weights of variance 1 / WIDTH, what tells one input from another halves from layer to layer. Of an
            # LSTM's weights, those of its input are the first.
            layer.blobs[0].data[...] *= GAIN
    _settle(net, model, seed)
    return Trained(model, net, prototxt, seed)


def samples(model: str, rows: int, seed: int) -> dict[str, np.ndarray]:
    """Return ``rows`` reference inputs of standard normal noise, as ``x``: N x 3 x 224 x 224, or N x 64 x 512.

    Raises ``NotImplementedError`` for a model that is not here, or that Caffe cannot express.
    """
    generator = np.random.default_rng(seed + 1)
    return {"x": generator.standard_normal((rows, *_described(model).row), np.float32)}


def predict(trained: Trained, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the net's own output by name, N x 1000, or N x 512 (``lstm``), for any batch."""
    net, x = trained.net, inputs["x"]
    net.blobs["x"].reshape(*x.shape)
    net.reshape()
    net.blobs["x"].data[...] = x
    return {name: value.copy() for name, value in net.forward().items()}


def export(trained: Trained, path: str, inputs: dict[str, np.ndarray], folder: str) -> dict[str, Any]:
    """Write the folder ``model`` below ``folder``: ``model.prototxt``, the net, and ``model.caffemodel``, its weights.

    ``facts`` say that the weights are random, and how many there are. Raises ``ValueError`` for an unknown path.
    """
    import caffe

    if path != "native":
        raise ValueError(f"caffe writes no path {path!r} itself; it writes native")
    entry = Path(folder) / "model"
    entry.mkdir()
    (entry / "model.prototxt").write_text(trained.prototxt, encoding="utf-8")
    trained.net.save(str(entry / "model.caffemodel"))
    # Not the statistics of batch normalization, which are no weights.
    blobs = [blob for layer in trained.net.layers if layer.type != "BatchNorm" for blob in layer.blobs]
    weights = {"weights": f"random, seed {trained.seed}", "parameters": sum(int(blob.data.size) for blob in blobs)}
    return {"entry": "model", "facts": {**weights, "exporter": "pycaffe", "caffe": caffe.__version__}}


def _described(model: str) -> Model:
    if model == "transformer":
        raise NotImplementedError(
            "Caffe 1.0 has no layer that multiplies two blobs as matrices, as attention does; spelled out in products "
            "of elements it would be measured as what nobody deploys"
        )
    if model not in MODELS:
        raise NotImplementedError(f"caffe has no model {model!r} here; it has {', '.join(MODELS)}")
    return MODELS[model]


# --- Nets -----------------------------------------------------------------------------------------------------------


def _prototxt(model: str, batch: int) -> str:
    """Return the net as text, with the batch that it begins with."""
    import caffe
    from caffe import layers

    described = _described(model)
    net = caffe.NetSpec()
    net.x = layers.Input(shape={"dim": [batch, *described.row]})
    described.build(net, net.x)
    return f'name: "{model}"\n{net.to_proto()}'


def _net(prototxt: str, phase: int) -> Any:
    """Return the net of a text, which Caffe reads from files only, with its weights drawn as its fillers say."""
    import caffe

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.prototxt"
        file.write_text(prototxt, encoding="utf-8")
        return caffe.Net(str(file), phase)


def _settle(net: Any, model: str, seed: int) -> None:
    """Make the statistics of one batch of noise those that batch normalization uses from now on."""
    import caffe

    if not any(layer.type == "BatchNorm" for layer in net.layers):
        return
    training = _net(_prototxt(model, NOISE), caffe.TRAIN)
    # What this net learns of its input is in the memory of both.
    training.share_with(net)
    noise = np.random.default_rng(seed).standard_normal(training.blobs["x"].data.shape, np.float32)
    training.blobs["x"].data[...] = noise
    training.forward()


# --- Layers ---------------------------------------------------------------------------------------------------------

#: Weights before a ReLU as He et al. 2015. Biases are drawn, too: zeros would hide one that is left out.
_DRAWN = {"weight_filler": {"type": "msra"}, "bias_filler": {"type": "gaussian", "std": 0.1}}


def _relu(net: Any, name: str, bottom: Any) -> Any:
    """Add a ReLU that overwrites its input, as Caffe's own reference models do."""
    from caffe import layers

    net[name] = layers.ReLU(bottom, in_place=True)
    return net[name]


def _convolution(net: Any, name: str, bottom: Any, outputs: int, size: int, stride: int = 1, **more: Any) -> Any:
    """Add a convolution, padded by half of its size unless told otherwise, and its ReLU."""
    from caffe import layers

    window = {"kernel_size": size, "stride": stride, "pad": size // 2, **more}
    net[name] = layers.Convolution(bottom, num_output=outputs, **window, **_DRAWN)
    return _relu(net, f"{name}_relu", net[name])


def _linear(net: Any, name: str, bottom: Any, outputs: int) -> Any:
    from caffe import layers

    net[name] = layers.InnerProduct(bottom, num_output=outputs, **_DRAWN)
    return net[name]


def _hidden(net: Any, name: str, bottom: Any) -> Any:
    """Add 4096 units with ReLU and dropout, as AlexNet and VGG-16 end with."""
    from caffe import layers

    y = _relu(net, f"{name}_relu", _linear(net, name, bottom, 4096))
    net[f"{name}_drop"] = layers.Dropout(y, dropout_ratio=0.5, in_place=True)
    return net[f"{name}_drop"]


def _maximum(net: Any, name: str, bottom: Any, size: int, stride: int, pad: int = 0) -> Any:
    """Add a pooling by maximum, whose last windows may hang over the edge: Caffe rounds their number up."""
    from caffe import layers, params

    net[name] = layers.Pooling(bottom, pool=params.Pooling.MAX, kernel_size=size, stride=stride, pad=pad)
    return net[name]


def _average(net: Any, name: str, bottom: Any) -> Any:
    from caffe import layers, params

    net[name] = layers.Pooling(bottom, pool=params.Pooling.AVE, global_pooling=True)
    return net[name]


def _response_norm(net: Any, name: str, bottom: Any) -> Any:
    """Add the normalization of Krizhevsky et al. 2012; Caffe takes the mean of five squares, they the sum."""
    from caffe import layers

    net[name] = layers.LRN(bottom, local_size=5, alpha=5 * 1e-4, beta=0.75, k=2.0)
    return net[name]


# --- Networks -------------------------------------------------------------------------------------------------------


def _alexnet(net: Any, x: Any) -> None:
    """Krizhevsky et al. 2012, in one piece: two groups of channels where the original had two processors."""
    y = _response_norm(net, "norm1", _convolution(net, "conv1", x, 96, 11, 4, pad=2))
    y = _convolution(net, "conv2", _maximum(net, "pool1", y, 3, 2), 256, 5, group=2)
    y = _maximum(net, "pool2", _response_norm(net, "norm2", y), 3, 2)
    y = _convolution(net, "conv4", _convolution(net, "conv3", y, 384, 3), 384, 3, group=2)
    y = _maximum(net, "pool5", _convolution(net, "conv5", y, 256, 3, group=2), 3, 2)
    _linear(net, "logits", _hidden(net, "fc7", _hidden(net, "fc6", y)), CLASSES)


def _inception(net: Any, name: str, bottom: Any, *widths: int) -> Any:
    """Add four branches, joined along the channels; the widths are in the order of the columns of table 1."""
    from caffe import layers

    one, reduce3, three, reduce5, five, pool = widths
    branches = [
        _convolution(net, f"{name}_1x1", bottom, one, 1),
        _convolution(net, f"{name}_3x3", _convolution(net, f"{name}_3x3_reduce", bottom, reduce3, 1), three, 3),
        _convolution(net, f"{name}_5x5", _convolution(net, f"{name}_5x5_reduce", bottom, reduce5, 1), five, 5),
        _convolution(net, f"{name}_pool_proj", _maximum(net, f"{name}_pool", bottom, 3, 1, pad=1), pool, 1),
    ]
    net[name] = layers.Concat(*branches)
    return net[name]


#: Szegedy et al. 2014, table 1: the widths of each module; pooling stands behind 3b and 4e.
_MODULES = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


def _googlenet(net: Any, x: Any) -> None:
    """Szegedy et al. 2014, table 1, without the auxiliary classifiers, which are there for training only."""
    from caffe import layers

    y = _response_norm(net, "norm1", _maximum(net, "pool1", _convolution(net, "conv1", x, 64, 7, 2), 3, 2))
    y = _convolution(net, "conv2", _convolution(net, "conv2_reduce", y, 64, 1), 192, 3)
    y = _maximum(net, "pool2", _response_norm(net, "norm2", y), 3, 2)
    for name, widths in _MODULES.items():
        y = _inception(net, f"inception_{name}", y, *widths)
        if name in ("3b", "4e"):
            y = _maximum(net, f"pool_{name}", y, 3, 2)
    net.drop = layers.Dropout(_average(net, "pool5", y), dropout_ratio=0.4, in_place=True)
    _linear(net, "logits", net.drop, CLASSES)


def _vgg16(net: Any, x: Any) -> None:
    """Simonyan and Zisserman 2014, configuration D."""
    y = x
    for block, (width, depth) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)), 1):
        for number in range(1, depth + 1):
            y = _convolution(net, f"conv{block}_{number}", y, width, 3)
        y = _maximum(net, f"pool{block}", y, 2, 2)
    _linear(net, "logits", _hidden(net, "fc7", _hidden(net, "fc6", y)), CLASSES)


def _normalized(net: Any, name: str, bottom: Any, outputs: int, size: int, stride: int = 1) -> Any:
    """Add a convolution without bias, and the two layers that batch normalization is in Caffe."""
    from caffe import layers

    window = {"kernel_size": size, "stride": stride, "pad": size // 2}
    net[name] = layers.Convolution(
        bottom, num_output=outputs, bias_term=False, weight_filler=_DRAWN["weight_filler"], **window
    )
    # No moving average: what was seen last is what is used.
    net[f"{name}_bn"] = layers.BatchNorm(net[name], moving_average_fraction=0.0, in_place=True)
    net[f"{name}_scale"] = layers.Scale(net[f"{name}_bn"], bias_term=True, in_place=True)
    return net[f"{name}_scale"]


def _bottleneck(net: Any, name: str, bottom: Any, width: int, stride: int, *, fits: bool) -> Any:
    """Add 1x1, 3x3 and 1x1 to four times ``width`` channels, summed with ``bottom``, projected unless it fits."""
    from caffe import layers, params

    shortcut = bottom if fits else _normalized(net, f"{name}_shortcut", bottom, 4 * width, 1, stride)
    y = _relu(net, f"{name}_a_relu", _normalized(net, f"{name}_a", bottom, width, 1))
    y = _relu(net, f"{name}_b_relu", _normalized(net, f"{name}_b", y, width, 3, stride))
    residual = _normalized(net, f"{name}_c", y, 4 * width, 1)
    net[name] = layers.Eltwise(shortcut, residual, operation=params.Eltwise.SUM)
    return _relu(net, f"{name}_relu", net[name])


def _resnet50(net: Any, x: Any) -> None:
    """He et al. 2015; the stride is in the 3x3 convolution of a block, as in most implementations since."""
    y = _maximum(net, "pool1", _relu(net, "conv1_relu", _normalized(net, "conv1", x, 64, 7, 2)), 3, 2)
    for stage, (width, depth, stride) in enumerate(((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)), 2):
        for number in range(depth):
            first = number == 0
            y = _bottleneck(net, f"res{stage}_{number}", y, width, stride if first else 1, fits=not first)
    _linear(net, "logits", _average(net, "pool5", y), CLASSES)


def _slice(net: Any, name: str, bottom: Any, axis: int, points: Sequence[int]) -> list[Any]:
    """Add a cut of ``axis`` at ``points``; returns the parts."""
    from caffe import layers

    parts = layers.Slice(bottom, axis=axis, slice_point=list(points), ntop=len(points) + 1)
    for number, part in enumerate(parts):
        net[f"{name}{number}"] = part
    return list(parts)


def _time_major(net: Any, x: Any) -> Any:
    """Add what makes N x 64 x 512 the 64 x N x 512 that recurrent layers read: no layer of Caffe exchanges axes."""
    from caffe import layers

    steps = _slice(net, "step", x, 1, range(1, STEPS))
    for number, step in enumerate(steps):
        net[f"turned{number}"] = layers.Reshape(step, shape={"dim": [1, -1, WIDTH]})
    net.steps = layers.Concat(*(net[f"turned{number}"] for number in range(STEPS)), axis=0)
    return net.steps


def _continued(net: Any, steps: Any) -> Any:
    """Add the 64 x N blob that tells recurrent layers where a sequence goes on: at each step but the first.

    It is computed from ``steps`` for the sake of their N.
    """
    from caffe import layers

    net.sums = layers.Reduction(steps, axis=2)
    first, others = _slice(net, "when", net.sums, 0, [1])
    net.begins = layers.Power(first, power=1.0, scale=0.0, shift=0.0)
    net.goes_on = layers.Power(others, power=1.0, scale=0.0, shift=1.0)
    net.cont = layers.Concat(net.begins, net.goes_on, axis=0)
    return net.cont


def _lstm(net: Any, x: Any) -> None:
    """Four layers of 512 units over 64 steps, N x 64 x 512 to the last step's output, N x 512."""
    from caffe import layers

    y = _time_major(net, x)
    cont = _continued(net, y)
    fillers = {
        "weight_filler": {"type": "gaussian", "std": WIDTH**-0.5},
        "bias_filler": {"type": "gaussian", "std": 0.1},
    }
    for number in range(4):
        net[f"lstm{number}"] = y = layers.LSTM(y, cont, recurrent_param={"num_output": WIDTH, **fillers})
    others, final = _slice(net, "output", y, 0, [STEPS - 1])
    # What no layer reads is an output of the net.
    net.silence = layers.Silence(others, ntop=0)
    net.last = layers.Reshape(final, shape={"dim": [-1, WIDTH]})


MODELS: dict[str, Model] = {
    "alexnet": Model(_alexnet, IMAGE),
    "googlenet": Model(_googlenet, IMAGE),
    "vgg16": Model(_vgg16, IMAGE),
    "resnet50": Model(_resnet50, IMAGE),
    "lstm": Model(_lstm, SEQUENCE, "last"),
}
