"""Caffe 1.0: the reference models as lists of layers, trained by Caffe's own solver and handed over as prototxt files.

Runs on Python 3.9, which Debian 11 has its Caffe for; nothing of Caffe is imported before a function needs it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ENVIRONMENT = {
    "interpreter": False,
    "container": "caffe",
    "env": {
        # Threads would share out sums differently from run to run, and so round them differently.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        # Caffe tells each layer of each net otherwise; it reads this when it is loaded.
        "GLOG_minloglevel": "2",
        # pycaffe loads matplotlib, which wants a folder of its own where the home folder may be read-only.
        "MPLCONFIGDIR": "/tmp",  # noqa: S108 - inside the container
    },
}
LAYOUT = "channels-first"
PATHS = {
    "native": {"kind": "native", "format": "caffe", "batch": "dynamic"},
    "onnx": {"kind": "onnx", "format": "onnx", "batch": "static", "converter": "caffe", "source": "native"},
    "onnx-dynamic": {"kind": "onnx", "format": "onnx", "batch": "dynamic", "converter": "caffe", "source": "native"},
}

CLASSES = 10
#: Steps that a sequence has, and pixels that a step has.
ROWS, PIXELS = 8, 8
#: Frames that a clip has.
FRAMES = 4
#: Letters that a digit name may hold, counting the end symbol (number 0, which is the start symbol as well).
LETTERS = 16
#: Letters that the decoder writes, the end symbol included.
STEPS = 6


class Family(NamedTuple):
    """How one reference model is built and trained, and the shapes of a row of its input and of its labels.

    ``build(net, x, told)`` adds the layers from the blob ``x`` to the blob ``logits``; ``told`` is the blob of the
    letters that a decoder is told while it learns, and None otherwise.
    """

    build: Callable[[Any, Any, Any], None]
    epochs: int
    rate: float
    row: tuple[int, ...]
    label: tuple[int, ...] = ()
    batch: int = 50


class Trained(NamedTuple):
    """A trained model: ``net`` is in test phase, ``prototxt`` is what it was made from."""

    model: str
    net: Any
    prototxt: str


def train(model: str, data: Any, seed: int) -> Trained:
    """Build ``model`` and train it on ``data``, on one thread and the same for the same ``seed``.

    Labels are N (digits) or N x 6 (letters of the digit's name). Raises ``NotImplementedError`` for a model that Caffe
    cannot express.
    """
    family = _family(model)
    solver = _solver(family, seed, len(data.train_y))
    net = solver.net
    order = np.random.RandomState(seed % 2**32)
    for _ in range(family.epochs):
        rows = order.permutation(len(data.train_y))
        for start in range(0, len(rows) - family.batch + 1, family.batch):
            chosen = rows[start : start + family.batch]
            net.blobs["x"].data[...] = data.train_x["x"][chosen]
            net.blobs["label"].data[...] = data.train_y[chosen]
            if "told" in net.blobs:
                # A decoder learns from the letter that should have been before, not from the one that it wrote.
                net.blobs["told"].data[:, 1:] = data.train_y[chosen][:, :-1]
            solver.step(1)
    return _deployed(model, net)


def predict(trained: Trained, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the net's own output ``logits``, float32, for ``inputs["x"]`` of any batch size."""
    net, x = trained.net, inputs["x"]
    net.blobs["x"].reshape(*x.shape)
    net.reshape()
    net.blobs["x"].data[...] = x
    return {"logits": net.forward()["logits"].copy()}


def export(trained: Trained, path: str, inputs: dict[str, np.ndarray], folder: str) -> dict[str, Any]:
    """Write the folder ``model`` below ``folder``: ``model.prototxt``, the net, and ``model.caffemodel``, its weights.

    The net's input is the blob ``x`` and its output the blob ``logits``. The batch of 1 in the prototxt is where a
    runtime starts from; it reshapes the input to any other. Raises ``ValueError`` for an unknown path.
    """
    import caffe

    if path != "native":
        raise ValueError(f"caffe writes no path {path!r} itself; it writes native")
    entry = Path(folder) / "model"
    entry.mkdir()
    (entry / "model.prototxt").write_text(trained.prototxt, encoding="utf-8")
    trained.net.save(str(entry / "model.caffemodel"))
    kinds = sorted({layer.type for layer in trained.net.layers})
    facts = {"exporter": "pycaffe", "caffe": caffe.__version__, "layers": len(trained.net.layers)}
    return {"entry": "model", "facts": {**facts, "layer_types": " ".join(kinds)}}


def _family(model: str) -> Family:
    if model == "beam_search":
        raise NotImplementedError(
            "a Caffe net is a fixed list of layers, each of which runs once: no layer type repeats others for as long "
            "as their outputs ask for it, which a beam search does"
        )
    if model not in FAMILIES:
        raise NotImplementedError(f"caffe has no model {model!r}; it has {', '.join(FAMILIES)}")
    return FAMILIES[model]


def _solver(family: Family, seed: int, rows: int) -> Any:
    """Return Caffe's Adam solver for the net that learns; its rate falls linearly to zero over all epochs."""
    import caffe
    from caffe import layers
    from caffe.proto import caffe_pb2

    net = caffe.NetSpec()
    net.x = _input(family.batch, *family.row)
    net.label = _input(family.batch, *family.label)
    told = None
    if family.label:
        net.told = told = _input(family.batch, *family.label)
    family.build(net, net.x, told)
    net.loss = layers.SoftmaxWithLoss(net.logits, net.label, softmax_param={"axis": -1})
    settings = caffe_pb2.SolverParameter(
        type="Adam",
        base_lr=family.rate,
        momentum=0.9,
        momentum2=0.999,
        delta=1e-8,
        lr_policy="poly",
        power=1.0,
        max_iter=family.epochs * (rows // family.batch),
        clip_gradients=5.0,
        random_seed=seed % 2**31,
        solver_mode=caffe_pb2.SolverParameter.CPU,
        train_net_param=net.to_proto(),
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "solver.prototxt"
        file.write_text(str(settings), encoding="utf-8")
        return caffe.get_solver(str(file))


def _deployed(model: str, learnt: Any) -> Trained:
    """Return the same layers without labels and loss, in test phase, with the weights of the net ``learnt``."""
    import caffe

    family = _family(model)
    net = caffe.NetSpec()
    net.x = _input(1, *family.row)
    family.build(net, net.x, None)
    prototxt = f'name: "{model}"\n{net.to_proto()}'
    with tempfile.TemporaryDirectory() as folder:
        file, weights = Path(folder) / "model.prototxt", Path(folder) / "model.caffemodel"
        file.write_text(prototxt, encoding="utf-8")
        learnt.save(str(weights))
        return Trained(model, caffe.Net(str(file), caffe.TEST, weights=str(weights)), prototxt)


def _input(*shape: int) -> Any:
    from caffe import layers

    return layers.Input(shape={"dim": list(shape)})


def _dense(net: Any, name: str, bottom: Any, outputs: int, axis: int = 1, **more: Any) -> Any:
    """Add an inner product over all axes from ``axis`` on."""
    from caffe import layers

    net[name] = layers.InnerProduct(bottom, num_output=outputs, axis=axis, weight_filler={"type": "xavier"}, **more)
    return net[name]


def _relu(net: Any, name: str, bottom: Any) -> Any:
    """Add a ReLU that overwrites its input, as Caffe's own reference models do."""
    from caffe import layers

    net[name] = layers.ReLU(bottom, in_place=True)
    return net[name]


def _dropout(net: Any, name: str, bottom: Any, ratio: float) -> Any:
    from caffe import layers

    net[name] = layers.Dropout(bottom, dropout_ratio=ratio, in_place=True)
    return net[name]


def _convolution(net: Any, name: str, bottom: Any, outputs: int, size: int, **more: Any) -> Any:
    """Add a convolution that keeps the size of the picture, or with ``axes=3`` of the clip, and a ReLU."""
    from caffe import layers

    axes = more.pop("axes", 1)  # one number stands for all axes
    window = {"kernel_size": [size] * axes, "pad": [size // 2] * axes}
    net[name] = layers.Convolution(bottom, num_output=outputs, weight_filler={"type": "msra"}, **window, **more)
    return _relu(net, f"{name}_relu", net[name])


def _pooling(net: Any, name: str, bottom: Any, **more: Any) -> Any:
    """Add a pooling by maximum, unless ``pool`` says otherwise."""
    from caffe import layers, params

    net[name] = layers.Pooling(bottom, **{"pool": params.Pooling.MAX, **more})
    return net[name]


def _reshape(net: Any, name: str, bottom: Any, *shape: int) -> Any:
    """Add a change of shape; 0 is an axis as it was, -1 what is left."""
    from caffe import layers

    net[name] = layers.Reshape(bottom, shape={"dim": list(shape)})
    return net[name]


def _slice(net: Any, name: str, bottom: Any, axis: int, points: Sequence[int]) -> list[Any]:
    """Add a cut of ``axis`` at ``points``; returns the parts."""
    from caffe import layers

    parts = layers.Slice(bottom, axis=axis, slice_point=list(points), ntop=len(points) + 1)
    for number, part in enumerate(parts):
        net[f"{name}{number}"] = part
    return list(parts)


def _concat(net: Any, name: str, bottoms: Sequence[Any], axis: int) -> Any:
    from caffe import layers

    net[name] = layers.Concat(*bottoms, axis=axis)
    return net[name]


def _sum(net: Any, name: str, *bottoms: Any, coeff: Sequence[float] = ()) -> Any:
    """Add a sum of blobs, each weighted by its part of ``coeff`` if there is any."""
    from caffe import layers, params

    weights = {"coeff": list(coeff)} if coeff else {}
    net[name] = layers.Eltwise(*bottoms, operation=params.Eltwise.SUM, **weights)
    return net[name]


def _product(net: Any, name: str, *bottoms: Any) -> Any:
    from caffe import layers, params

    net[name] = layers.Eltwise(*bottoms, operation=params.Eltwise.PROD)
    return net[name]


def _constant(net: Any, name: str, bottom: Any, value: float) -> Any:
    """Add a blob of the shape of ``bottom`` that is ``value`` everywhere; a DummyData layer would fix the batch."""
    from caffe import layers

    net[name] = layers.Power(bottom, power=1.0, scale=0.0, shift=value)
    return net[name]


def _shared(*names: str) -> list[dict[str, str]]:
    """Return the ``param`` of a layer whose weights all layers that name them have in common."""
    return [{"name": name} for name in names]


def _mlp(net: Any, x: Any, told: Any) -> None:
    """Two hidden layers over the flattened picture."""
    hidden = _relu(net, "relu1", _dense(net, "ip1", x, 64))
    hidden = _relu(net, "relu2", _dense(net, "ip2", hidden, 32))
    _dense(net, "logits", hidden, CLASSES)


def _alexnet(net: Any, x: Any, told: Any) -> None:
    """Krizhevsky et al. 2012: response normalization, overlapping pooling, grouped convolutions, dropout."""
    from caffe import layers

    def normalized(name: str, bottom: Any) -> Any:
        net[name] = layers.LRN(bottom, local_size=5, alpha=1e-4, beta=0.75, k=1.0)
        return net[name]

    # Windows of three, two apart, overlap; the last one in each row hangs over the edge (Caffe rounds sizes up).
    y = _pooling(net, "pool1", normalized("norm1", _convolution(net, "conv1", x, 16, 5)), kernel_size=3, stride=2)
    y = normalized("norm2", _convolution(net, "conv2", y, 48, 3, group=2))
    y = _pooling(net, "pool2", y, kernel_size=3, stride=2)
    y = _convolution(net, "conv3", y, 64, 3)
    y = _convolution(net, "conv4", y, 64, 3, group=2)
    y = _pooling(net, "pool5", _convolution(net, "conv5", y, 48, 3, group=2), kernel_size=2, stride=2)
    y = _dropout(net, "drop6", _relu(net, "relu6", _dense(net, "fc6", y, 64)), 0.2)
    y = _dropout(net, "drop7", _relu(net, "relu7", _dense(net, "fc7", y, 64)), 0.2)
    _dense(net, "logits", y, CLASSES)


def _vgg(net: Any, x: Any, told: Any) -> None:
    """Simonyan and Zisserman 2014: stacks of 3x3 convolutions, each closed by 2x2 pooling."""
    y = x
    for block, width in enumerate((12, 24, 32), 1):
        for depth in (1, 2):
            y = _convolution(net, f"conv{block}_{depth}", y, width, 3)
        y = _pooling(net, f"pool{block}", y, kernel_size=2, stride=2)
    y = _dropout(net, "drop4", _relu(net, "relu4", _dense(net, "fc4", y, 48)), 0.2)
    _dense(net, "logits", y, CLASSES)


def _googlenet(net: Any, x: Any, told: Any) -> None:
    """Szegedy et al. 2014: inception modules, joined along the channels, under global average pooling."""
    from caffe import params

    def inception(name: str, bottom: Any, width: int) -> Any:
        """Add four branches of ``width`` channels each: 1x1, 1x1 to 3x3, 1x1 to 5x5, pooling to 1x1."""
        one = _convolution(net, f"{name}_1x1", bottom, width, 1)
        three = _convolution(net, f"{name}_3x3_reduce", bottom, width // 2, 1)
        three = _convolution(net, f"{name}_3x3", three, width, 3)
        five = _convolution(net, f"{name}_5x5_reduce", bottom, width // 2, 1)
        five = _convolution(net, f"{name}_5x5", five, width, 5)
        pool = _pooling(net, f"{name}_pool", bottom, kernel_size=3, stride=1, pad=1)
        pool = _convolution(net, f"{name}_pool_proj", pool, width, 1)
        return _concat(net, f"{name}_output", [one, three, five, pool], 1)

    y = _pooling(net, "pool1", _convolution(net, "conv1", x, 32, 3), kernel_size=3, stride=2)
    y = inception("inception_b", inception("inception_a", y, 16), 16)
    y = inception("inception_c", _pooling(net, "pool2", y, kernel_size=3, stride=2), 24)
    y = _pooling(net, "pool3", y, pool=params.Pooling.AVE, global_pooling=True)
    _dense(net, "logits", _dropout(net, "drop3", y, 0.1), CLASSES)


def _resnet(net: Any, x: Any, told: Any) -> None:
    """He et al. 2015: basic blocks of two normalized convolutions, with identity and projection shortcuts."""
    from caffe import layers, params

    def normalized(name: str, bottom: Any, outputs: int, size: int, stride: int = 1) -> Any:
        net[name] = layers.Convolution(
            bottom,
            num_output=outputs,
            kernel_size=size,
            stride=stride,
            pad=size // 2,
            bias_term=False,
            weight_filler={"type": "msra"},
        )
        # Caffe's own 0.999 would still remember the first steps of so short a training.
        net[f"{name}_bn"] = layers.BatchNorm(net[name], moving_average_fraction=0.9, in_place=True)
        net[f"{name}_scale"] = layers.Scale(net[f"{name}_bn"], bias_term=True, in_place=True)
        return net[f"{name}_scale"]

    def block(name: str, bottom: Any, outputs: int, stride: int, *, fits: bool) -> Any:
        """Add a block; a 1x1 convolution fits its input to its output where they differ in shape."""
        shortcut = bottom if fits else normalized(f"{name}_shortcut", bottom, outputs, 1, stride)
        y = _relu(net, f"{name}_a_relu", normalized(f"{name}_a", bottom, outputs, 3, stride))
        y = normalized(f"{name}_b", y, outputs, 3)
        return _relu(net, f"{name}_relu", _sum(net, name, shortcut, y))

    y = _relu(net, "conv1_relu", normalized("conv1", x, 16, 3))
    y = block("res2", y, 16, 1, fits=True)
    y = block("res3", y, 32, 2, fits=False)
    y = block("res4", y, 32, 1, fits=True)
    y = _pooling(net, "pool5", y, pool=params.Pooling.AVE, global_pooling=True)
    _dense(net, "logits", y, CLASSES)


def _conv1d(net: Any, x: Any, told: Any) -> None:
    """Convolutions over time, as wide as a row: the eight rows are the steps, the eight pixels the channels."""
    from caffe import layers

    y = _reshape(net, "picture", x, 0, 1, ROWS, PIXELS)
    over_time = {"pad_h": 1, "pad_w": 0, "weight_filler": {"type": "msra"}}
    net.conv1 = layers.Convolution(y, num_output=32, kernel_h=3, kernel_w=PIXELS, **over_time)
    y = _relu(net, "relu1", net.conv1)
    net.conv2 = layers.Convolution(y, num_output=32, kernel_h=3, kernel_w=1, **over_time)
    y = _relu(net, "relu2", net.conv2)
    y = _pooling(net, "pool2", y, kernel_h=2, kernel_w=1, stride_h=2, stride_w=1)
    _dense(net, "logits", y, CLASSES)


def _conv3d(net: Any, x: Any, told: Any) -> None:
    """Tran et al. 2014 (C3D): 3x3x3 convolutions over a clip; the first pooling leaves time alone.

    Caffe convolves along any number of axes but pools along two: to pool along others, they are made the last two.
    """
    y = _convolution(net, "conv1", x, 8, 3, axes=3)
    y = _pooling(net, "pool1", _reshape(net, "frames1", y, 0, -1, 8, 8), kernel_size=2, stride=2)
    y = _convolution(net, "conv2", _reshape(net, "clip1", y, 0, 8, FRAMES, 4, 4), 16, 3, axes=3)
    y = _pooling(net, "pool2", _reshape(net, "frames2", y, 0, -1, 4, 4), kernel_size=2, stride=2)
    y = _reshape(net, "time2", y, 0, 16, FRAMES, 4)
    y = _pooling(net, "pool2_time", y, kernel_h=2, kernel_w=1, stride_h=2, stride_w=1)
    y = _relu(net, "relu3", _dense(net, "fc3", y, 32))
    _dense(net, "logits", y, CLASSES)


def _time_major(net: Any, x: Any) -> list[Any]:
    """Add what takes N x 8 x 8 apart into the steps, 1 x N x 8 each, that Caffe's recurrent layers read."""
    steps = _slice(net, "row", x, 1, range(1, ROWS))
    return [_reshape(net, f"step{number}", step, 1, -1, PIXELS) for number, step in enumerate(steps)]


def _continued(net: Any, rows: Any) -> Any:
    """Add the T x N blob that tells recurrent layers where a sequence goes on: at each step but the first.

    It is computed from ``rows``, T x N x 8, for the sake of their N.
    """
    from caffe import layers

    net.pixels = layers.Reduction(rows, axis=2)
    first, others = _slice(net, "when", net.pixels, 0, [1])
    begun = [_constant(net, "begins", first, 0.0), _constant(net, "goes_on", others, 1.0)]
    return _concat(net, "cont", begun, 0)


def _recurrent(net: Any, name: str, kind: str, rows: Any, cont: Any, width: int) -> Any:
    """Add a recurrent layer of Caffe over T x N x any; returns T x N x ``width``."""
    from caffe import layers

    fillers = {"weight_filler": {"type": "xavier"}, "bias_filler": {"type": "constant"}}
    net[name] = getattr(layers, kind)(rows, cont, recurrent_param={"num_output": width, **fillers})
    return net[name]


def _last(net: Any, name: str, states: Any, width: int) -> Any:
    """Add what takes the last of the states T x N x ``width``; returns N x ``width``."""
    from caffe import layers

    others, final = _slice(net, f"{name}_cut", states, 0, [ROWS - 1])
    # What no layer reads is an output of the net.
    net[f"{name}_silence"] = layers.Silence(others, ntop=0)
    return _reshape(net, name, final, -1, width)


def _one_way(kind: str, width: int) -> Callable[[Any, Any, Any], None]:
    """Return what builds one recurrent layer over the rows, the last state of which is classified."""

    def build(net: Any, x: Any, told: Any) -> None:
        rows = _concat(net, "rows", _time_major(net, x), 0)
        states = _recurrent(net, "states", kind, rows, _continued(net, rows), width)
        _dense(net, "logits", _last(net, "final", states, width), CLASSES)

    return build


def _birnn(net: Any, x: Any, told: Any) -> None:
    """An LSTM each way over the rows; the last states of both are classified."""
    width = 32
    steps = _time_major(net, x)
    rows = _concat(net, "rows", steps, 0)
    cont = _continued(net, rows)
    there = _recurrent(net, "there", "LSTM", rows, cont, width)
    back = _recurrent(net, "back", "LSTM", _concat(net, "rows_back", steps[::-1], 0), cont, width)
    finals = [_last(net, "there_final", there, width), _last(net, "back_final", back, width)]
    _dense(net, "logits", _concat(net, "finals", finals, 1), CLASSES)


def _gru(net: Any, x: Any, told: Any) -> None:
    """Cho et al. 2014, one step after the other with shared weights: Caffe has no such layer of its own."""
    width = 32
    heard = _dense(net, "heard", x, 3 * width, axis=2, bias_filler={"type": "constant"})
    hidden = None
    for number, step in enumerate(_slice(net, "heard_row", heard, 1, range(1, ROWS))):
        name = f"gru{number}"
        gates, new = _slice(net, f"{name}_part", _reshape(net, f"{name}_heard", step, 0, -1), 1, [2 * width])
        if hidden is None:
            hidden = _constant(net, "start", new, 0.0)
        hidden = _gru_step(net, name, (gates, new), hidden, width)
    _dense(net, "logits", hidden, CLASSES)


def _gru_step(net: Any, name: str, heard: tuple[Any, Any], hidden: Any, width: int) -> Any:
    """Add a step from the last state and what is heard, N x 2 width for both gates and N x width for the new state."""
    from caffe import layers

    gates, new = heard
    kept = _dense(net, f"{name}_u_gates", hidden, 2 * width, bias_term=False, param=_shared("u_gates"))
    net[f"{name}_open"] = layers.Sigmoid(_sum(net, f"{name}_sum", gates, kept))
    update, reset = _slice(net, f"{name}_gate", net[f"{name}_open"], 1, [width])
    kept = _product(net, f"{name}_kept", reset, hidden)
    kept = _dense(net, f"{name}_u_new", kept, width, bias_term=False, param=_shared("u_new"))
    net[f"{name}_new"] = layers.TanH(_sum(net, f"{name}_new_sum", new, kept))
    change = _sum(net, f"{name}_change", net[f"{name}_new"], hidden, coeff=(1.0, -1.0))
    return _sum(net, name, hidden, _product(net, f"{name}_step", update, change))


def _layer_norm(net: Any, name: str, bottom: Any, width: int) -> Any:
    """Add what normalizes each row of N x 8 x ``width``; MVN takes the last two of four axes for one picture."""
    from caffe import layers

    rows = _reshape(net, f"{name}_rows", bottom, 0, ROWS, 1, width)
    net[f"{name}_mvn"] = layers.MVN(rows, eps=1e-5)
    net[f"{name}_scale"] = layers.Scale(net[f"{name}_mvn"], axis=3, bias_term=True)
    return _reshape(net, name, net[f"{name}_scale"], 0, ROWS, width)


def _average(net: Any, name: str, bottom: Any) -> Any:
    """Add the mean over the third of four axes, the rows: Caffe reduces trailing axes only, but pools any window."""
    from caffe import params

    return _pooling(net, name, bottom, pool=params.Pooling.AVE, kernel_h=ROWS, kernel_w=1)


def _self_attention(net: Any, name: str, x: Any, width: int, heads: int) -> Any:
    """Add dot-product attention of ``heads`` heads over N x 8 x ``width``.

    Caffe multiplies blobs element by element only: each query meets each key in a blob N x 8 x 8 x ``width``, the sums
    over parts of which are the matrix products.
    """
    from caffe import layers

    def paired(part: str, *shape: int) -> Any:
        blob = _reshape(net, f"{name}_{part}_axes", _dense(net, f"{name}_{part}", x, width, axis=2), 0, *shape)
        net[f"{name}_{part}s"] = layers.Tile(blob, axis=1 + shape.index(1), tiles=ROWS)
        return net[f"{name}_{part}s"]

    depth = width // heads
    met = _product(net, f"{name}_met", paired("query", ROWS, 1, width), paired("key", 1, ROWS, width))
    met = _reshape(net, f"{name}_met_heads", met, 0, ROWS, ROWS, heads, depth)
    net[f"{name}_score"] = layers.Reduction(met, axis=4, coeff=depth**-0.5)
    net[f"{name}_weight"] = layers.Softmax(net[f"{name}_score"], axis=2)
    values = _reshape(net, f"{name}_heads", paired("value", 1, ROWS, width), 0, ROWS, ROWS, heads, depth)
    net[f"{name}_weighted"] = layers.Scale(values, net[f"{name}_weight"], axis=0)
    found = _reshape(net, f"{name}_weighted_rows", net[f"{name}_weighted"], 0, ROWS, ROWS, width)
    net[f"{name}_found"] = layers.Power(_average(net, f"{name}_mean", found), scale=float(ROWS))
    joined = _reshape(net, f"{name}_joined", net[f"{name}_found"], 0, ROWS, width)
    return _dense(net, f"{name}_out", joined, width, axis=2)


def _transformer(net: Any, x: Any, told: Any) -> None:
    """Vaswani et al. 2017: two encoder layers over embedded rows with learned positions, averaged and classified."""
    from caffe import layers

    width = 32
    embedded = _dense(net, "embed", x, width, axis=2)
    net.position = layers.Bias(embedded, axis=1, num_axes=2, filler={"type": "gaussian", "std": 0.1})
    y = net.position
    for number in (1, 2):
        attended = _self_attention(net, f"attention{number}", y, width, 4)
        y = _layer_norm(net, f"norm{number}_a", _sum(net, f"sum{number}_a", y, attended), width)
        fed = _relu(net, f"relu{number}", _dense(net, f"wide{number}", y, 2 * width, axis=2))
        fed = _dense(net, f"narrow{number}", fed, width, axis=2)
        y = _layer_norm(net, f"norm{number}_b", _sum(net, f"sum{number}_b", y, fed), width)
    _dense(net, "logits", _average(net, "mean", _reshape(net, "rows", y, 0, 1, ROWS, width)), CLASSES)


#: What the reader of rows remembers of each, half of it each way; the width of the writer; that of a letter.
_READ, _WIDTH, _LETTER = 48, 40, 8


def _memory(net: Any, x: Any) -> tuple[Any, Any]:
    """Add an LSTM each way over the embedded rows; returns all states, N x 8 x read, and the last one back."""
    half = _READ // 2
    rows = _concat(net, "rows", _time_major(net, x), 0)
    cont = _continued(net, rows)
    embedded = _relu(net, "embed_relu", _dense(net, "embed", rows, 24, axis=2))
    there = _recurrent(net, "there", "LSTM", embedded, cont, half)
    steps = _slice(net, "embed_step", embedded, 0, range(1, ROWS))
    back = _recurrent(net, "back", "LSTM", _concat(net, "embed_back", steps[::-1], 0), cont, half)
    backs = _slice(net, "back_step", back, 0, range(1, ROWS))
    both = _concat(net, "states", [there, _concat(net, "back_turned", backs[::-1], 0)], 2)
    states = _slice(net, "state", both, 0, range(1, ROWS))
    states = [_reshape(net, f"state_row{number}", state, -1, 1, _READ) for number, state in enumerate(states)]
    return _concat(net, "memory", states, 1), _reshape(net, "back_final", backs[-1], -1, half)


def _context(net: Any, name: str, hidden: Any, keys: Any, memory: Any) -> Any:
    """Add the attention of Bahdanau et al. 2014; returns what matters to the state ``hidden``, N x read."""
    from caffe import layers

    query = _dense(net, f"{name}_query", hidden, _WIDTH, bias_term=False, param=_shared("query"))
    net[f"{name}_queries"] = layers.Tile(_reshape(net, f"{name}_query_row", query, 0, 1, _WIDTH), axis=1, tiles=ROWS)
    net[f"{name}_match"] = layers.TanH(_sum(net, f"{name}_sum", net[f"{name}_queries"], keys))
    energy = _dense(net, f"{name}_energy", net[f"{name}_match"], 1, axis=2, bias_term=False, param=_shared("energy"))
    net[f"{name}_weight"] = layers.Softmax(_reshape(net, f"{name}_energies", energy, 0, ROWS), axis=1)
    net[f"{name}_weighted"] = layers.Scale(memory, net[f"{name}_weight"], axis=0)
    mean = _average(net, f"{name}_mean", _reshape(net, f"{name}_rows", net[f"{name}_weighted"], 0, 1, ROWS, _READ))
    net[f"{name}_context"] = layers.Power(_reshape(net, f"{name}_mean_row", mean, 0, _READ), scale=float(ROWS))
    return net[f"{name}_context"]


def _lstm_step(net: Any, name: str, heard: Any, cell: Any) -> tuple[Any, Any]:
    """Add one step of an LSTM that hears its input and last state in one blob; returns hidden and cell, N x width."""
    from caffe import layers

    gates = _dense(net, f"{name}_gates", heard, 4 * _WIDTH, param=_shared("cell_w", "cell_b"))
    gates, new = _slice(net, f"{name}_part", gates, 1, [3 * _WIDTH])
    net[f"{name}_open"] = layers.Sigmoid(gates)
    net[f"{name}_new"] = layers.TanH(new)
    add, keep, show = _slice(net, f"{name}_gate", net[f"{name}_open"], 1, [_WIDTH, 2 * _WIDTH])
    added, kept = _product(net, f"{name}_added", add, net[f"{name}_new"]), _product(net, f"{name}_kept", keep, cell)
    cell = _sum(net, f"{name}_cell", added, kept)
    net[f"{name}_shown"] = layers.TanH(cell)
    return _product(net, f"{name}_hidden", show, net[f"{name}_shown"]), cell


def _attention(net: Any, x: Any, told: Any) -> None:
    """An encoder that reads the rows and a decoder that writes the digit's name letter by letter.

    N x 8 x 8 to logits N x 6 x 16; always six steps, each fed with the likeliest letter of the last, or the one told.
    """
    from caffe import layers

    memory, final = _memory(net, x)
    keys = _dense(net, "keys", memory, _WIDTH, axis=2)
    net.first = hidden = layers.TanH(_dense(net, "bridge", final, _WIDTH))
    cell = _constant(net, "cell", hidden, 0.0)
    if told is not None:
        letters = _slice(net, "told", told, 1, range(1, STEPS))
    else:
        net.start_row = layers.Reduction(hidden, axis=1)
        letters = [_constant(net, "start", _reshape(net, "start_unit", net.start_row, 0, 1), 0.0)]
    written = []
    for number in range(STEPS):
        name = f"letter{number}"
        net[f"{name}_embed"] = layers.Embed(
            letters[number],
            input_dim=LETTERS,
            num_output=_LETTER,
            bias_term=False,
            weight_filler={"type": "gaussian", "std": 1.0},
            param=_shared("letters"),
        )
        letter = _reshape(net, f"{name}_row", net[f"{name}_embed"], 0, _LETTER)
        context = _context(net, name, hidden, keys, memory)
        hidden, cell = _lstm_step(net, name, _concat(net, f"{name}_heard", [letter, context, hidden], 1), cell)
        seen = _concat(net, f"{name}_seen", [hidden, context], 1)
        logits = _dense(net, name, seen, LETTERS, param=_shared("readout_w", "readout_b"))
        written.append(_reshape(net, f"{name}_logits", logits, 0, 1, LETTERS))
        if told is None and number < STEPS - 1:
            net[f"{name}_best"] = layers.ArgMax(logits, axis=1)
            letters.append(net[f"{name}_best"])
    _concat(net, "logits", written, 1)


_IMAGE, _ROWS, _CLIP = (1, 8, 8), (ROWS, PIXELS), (1, FRAMES, 8, 8)
#: Epochs and rates are what reaches nine in ten of the held-out digits, or words, within seconds.
FAMILIES = {
    "mlp": Family(_mlp, 20, 0.01, _IMAGE),
    "alexnet": Family(_alexnet, 8, 0.004, _IMAGE),
    "vgg": Family(_vgg, 8, 0.003, _IMAGE),
    "googlenet": Family(_googlenet, 7, 0.006, _IMAGE),
    "resnet": Family(_resnet, 6, 0.01, _IMAGE),
    "conv1d": Family(_conv1d, 20, 0.01, _ROWS),
    "conv3d": Family(_conv3d, 6, 0.01, _CLIP),
    "rnn": Family(_one_way("RNN", 48), 25, 0.006, _ROWS),
    "lstm": Family(_one_way("LSTM", 48), 20, 0.02, _ROWS),
    "gru": Family(_gru, 20, 0.015, _ROWS),
    "birnn": Family(_birnn, 20, 0.015, _ROWS),
    "transformer": Family(_transformer, 15, 0.006, _ROWS),
    "attention": Family(_attention, 20, 0.01, _ROWS, (STEPS,)),
}
