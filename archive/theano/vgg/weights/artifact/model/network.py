"""Theano 1.0.5: the reference models as symbolic graphs, their training, and the two ways in which a graph is kept.

Owns which expressions stand for each model family. The file is read by the engine, by Theano's CPython 3.7, and, copied
into an artifact as ``network.py``, by whoever rebuilds a network from its weights: Theano's documentation calls a
pickled graph short-term storage, and advises to keep the weights and the code. What ``inference`` uses is the API that
Theano shares with its successor PyTensor, except for what only Theano has (``tensor.nnet``, ``tensor.signal.pool``).
"""

import importlib
import json
import os
import pickle
import shutil
import sys
from collections import namedtuple
from functools import partial
from typing import Any, Callable, Dict, List, Tuple

import numpy as np

ENVIRONMENT = {
    "python": ">=3.7,<3.9",
    # NumPy 1.22 and SciPy 1.8 dropped what Theano imports; its scan asks setuptools for versions.
    "requirements": ["Theano==1.0.5", "numpy==1.21.6", "scipy==1.7.3", "six==1.17.0", "setuptools==68.0.0"],
    "env": {
        # No BLAS is linked, so that none need be there: Theano calls NumPy's. g++ takes a second or two for each kind
        # of expression in a graph, a minute a model in all, and half of it goes into optimizations that networks
        # this small never earn back. So the default is NumPy, after the quick half of the rewrites.
        "THEANO_FLAGS": "device=cpu,floatX=float32,blas.ldflags=,gcc.cxxflags=-O1 -g0,linker=py,optimizer=fast_compile"
    },
    "container": "theano",
}

PATHS = {
    "native": {"kind": "native", "format": "theano", "batch": "dynamic"},
    "weights": {"kind": "native", "format": "theano-weights", "batch": "dynamic"},
    "onnx": {"kind": "onnx", "format": "onnx", "batch": "static", "converter": "theano", "source": "native"},
    "onnx-dynamic": {"kind": "onnx", "format": "onnx", "batch": "dynamic", "converter": "theano", "source": "native"},
}

CLASSES = 10
#: Letters of the digit names and their longest spelling with its end, as ``data/digits.py`` has them.
LETTERS, LENGTH = 16, 6
#: Units of the decoder's state, and beams that the beam search keeps.
UNITS, BEAMS = 64, 3
#: Stands for the logarithm of zero: a true infinity would turn into NaN where a runtime multiplies by a mask.
IMPOSSIBLE = -1e9
#: How deep the pickle of a graph is nested at most: one level or two for each expression that uses another.
PICKLE_DEPTH = 50000
#: The newest that CPython 3.7 writes.
PICKLE_PROTOCOL = 4
#: Theano's operations that have no implementation in Python, or one that is a thousand times slower.
IN_C = ("CorrMM", "CorrMM_gradWeights", "CorrMM_gradInputs", "Corr3dMM", "Corr3dMM_gradWeights", "Corr3dMM_gradInputs")
IN_C += ("Pool", "MaxPoolGrad", "AveragePoolGrad")

#: A trained network: its family, its weights by name, and the compiled function from a batch to the outputs.
Trained = namedtuple("Trained", ("family", "weights", "function"))
#: How a family is written, the input's shape without batch, the outputs' names, the classes, and how it learns.
Family = namedtuple("Family", ("body", "shape", "outputs", "classes", "epochs", "rate", "batch"))


class Network:
    """What a network is written with: a tensor library, named weights, and whether it is being trained."""

    def __init__(self, namespace: Any, weights: Dict[str, np.ndarray], draw: Any = None) -> None:
        """Take the values of ``weights``; with ``draw``, a random state, they are drawn instead, for training."""
        self.namespace = namespace
        self.tensor = namespace.tensor
        self.training = draw is not None
        #: In training the right answers, N or N x 6: a decoder is told the letters before the one it has to guess.
        self.labels = None  # type: Any
        self.shared = {}  # type: Dict[str, Any]
        #: The averages that batch normalization keeps while it is trained, and what each batch makes of them.
        self.averages = {}  # type: Dict[Any, Any]
        self._weights = weights
        self._draw = draw

    def weight(self, name: str, shape: Tuple[int, ...], scale: float = 0.0, start: float = 0.0) -> Any:
        """Return the shared variable ``name``: stored, or drawn with standard deviation ``scale``, or all ``start``.

        Raises ``ValueError`` if it is not stored in this shape.
        """
        if name not in self.shared:
            if self.training:
                value = self._draw.normal(size=shape) * scale if scale else np.full(shape, start)
            else:
                value = self._weights.get(name, np.zeros(0))
                if value.shape != shape:
                    raise ValueError("weight %s has the shape %s; expected %s" % (name, value.shape, shape))
            self.shared[name] = self.namespace.shared(np.asarray(value, np.float32), name=name)
        return self.shared[name]

    def module(self, *names: str) -> Any:
        """Return the library's module of these names; raises ``NotImplementedError`` where it has none."""
        name = ".".join((self.namespace.__name__, *names))
        try:
            return importlib.import_module(name)
        except ImportError as error:
            raise NotImplementedError("%s has no %s, which this network needs" % (name.split(".")[0], name)) from error

    def scan(self, step: Callable[..., Any], sequences: List[Any], start: List[Any], **options: Any) -> Any:
        """Return what ``step`` made of each element of ``sequences`` and of its own results before, on a new axis 0."""
        if self.training:
            # As _mode does for the graph around the loop.
            options["mode"] = self.namespace.Mode("py", "fast_compile").including("local_fill_to_alloc")
        return self.namespace.scan(step, sequences, start, **options)[0]

    def until(self, condition: Any) -> Any:
        """Return what a step adds to its results to end the loop, whose module PyTensor renamed."""
        return self.module("scan_module" if self.namespace.__name__ == "theano" else "scan").until(condition)

    def zeros(self, *shape: Any) -> Any:
        """Return float32 zeros of a symbolic shape."""
        return self.tensor.alloc(np.float32(0), *shape)

    def sigmoid(self, x: Any) -> Any:
        """Return the logistic function of ``x``, which PyTensor moved out of ``nnet``."""
        if self.training:
            # Of this one Theano leaves NumPy every element for itself.
            half = np.float32(0.5)
            return half * self.tensor.tanh(half * x) + half
        return self.tensor.nnet.sigmoid(x) if hasattr(self.tensor, "nnet") else self.tensor.sigmoid(x)

    def relu(self, x: Any) -> Any:
        """Return the positive part of ``x``."""
        return self.tensor.nnet.relu(x) if hasattr(self.tensor, "nnet") else self.tensor.maximum(x, np.float32(0))

    def softmax(self, x: Any) -> Any:
        """Return the softmax over the last axis, of which Theano's own takes matrices only."""
        powers = self.tensor.exp(x - x.max(axis=-1, keepdims=True))
        return powers / powers.sum(axis=-1, keepdims=True)

    def dense(self, x: Any, name: str, inputs: int, outputs: int) -> Any:
        """Return ``x W + b`` over the last axis of ``x``."""
        w = self.weight(name + ".w", (inputs, outputs), (2.0 / (inputs + outputs)) ** 0.5)
        return self.tensor.dot(x, w) + self.weight(name + ".b", (outputs,))

    def dropout(self, x: Any, rate: float) -> Any:
        """Return ``x`` with a share of ``rate`` zeroed and the rest scaled up; out of training ``x`` itself."""
        if not self.training:
            return x
        streams = self.module("tensor", "shared_randomstreams").RandomStreams(self._draw.randint(2**30))
        return x * streams.binomial(size=x.shape, p=1 - rate, dtype="float32") / np.float32(1 - rate)

    def convolution(self, x: Any, name: str, shape: Tuple[int, ...], stride: int = 1, groups: int = 1) -> Any:
        """Return the true convolution of ``x`` (N x C x rows x columns), padded to keep its size at ``stride`` 1.

        ``shape`` is filters x channels x rows x columns. Weights start as in He et al. 2015.
        """
        scale = (2.0 / (int(np.prod(shape[1:])) // groups)) ** 0.5
        filters = (shape[0], shape[1] // groups) + shape[2:]
        w = self.weight(name + ".w", filters, scale)
        return self.module("tensor", "nnet").conv2d(
            x, w, filter_shape=filters, border_mode="half", subsample=(stride, stride), num_groups=groups
        )

    def activated(self, x: Any, name: str, shape: Tuple[int, ...], groups: int = 1) -> Any:
        """Return the convolution of ``x`` with a bias and the positive part taken."""
        bias = self.weight(name + ".b", shape[:1])
        return self.relu(self.convolution(x, name, shape, groups=groups) + bias.dimshuffle("x", 0, "x", "x"))

    def pooled(self, x: Any, window: Tuple[int, int], stride: Tuple[int, int], pad: Tuple[int, int] = (0, 0)) -> Any:
        """Return the largest value of each window."""
        return self.module("tensor", "signal", "pool").pool_2d(x, window, ignore_border=True, stride=stride, pad=pad)

    def normalized(self, x: Any, name: str, channels: int) -> Any:
        """Return ``x`` normalized over each channel: by the batch in training, later by what training has averaged."""
        gamma, beta = self.weight(name + ".gamma", (channels,), start=1.0), self.weight(name + ".beta", (channels,))
        mean, var = self.weight(name + ".mean", (channels,)), self.weight(name + ".var", (channels,), start=1.0)
        maps = [one.dimshuffle("x", 0, "x", "x") for one in (gamma, beta, mean, var)]
        bn = self.module("tensor", "nnet", "bn")
        if not self.training:
            return bn.batch_normalization_test(x, *maps, axes="spatial")
        made = bn.batch_normalization_train(x, *maps[:2], "spatial", 1e-4, 0.1, *maps[2:])
        self.averages[mean], self.averages[var] = made[3].flatten(), made[4].flatten()
        return made[0]


def inference(namespace: Any, family: str, weights: Dict[str, np.ndarray]) -> Tuple[List[Any], List[Any]]:
    """Return the symbolic inputs and outputs of ``family`` with ``weights``, for a batch of any size.

    ``namespace`` is the module ``theano`` or ``pytensor``. The input's test value, zeros, tells the shape of one row to
    whoever reads the graph: its type tells no more than the number of axes. Raises ``NotImplementedError`` for an
    unknown family and for one that needs what ``namespace`` lacks, ``ValueError`` where a weight is missing or of
    another shape.
    """
    x, outputs = _build(Network(namespace, weights), _family(family))
    return [x], outputs


def _build(network: Network, family: Family) -> Tuple[Any, List[Any]]:
    """Return the input of a network and its outputs, which have their names; in training, its logits alone."""
    x = getattr(network.tensor, "tensor%d" % (len(family.shape) + 1))("x", dtype="float32")
    x.tag.test_value = np.zeros((1,) + family.shape, np.float32)
    outputs = family.body(network, x)
    for name, output in zip(family.outputs, outputs):
        output.name = name
    return x, outputs


def _family(name: str) -> Family:
    if name not in FAMILIES:
        raise NotImplementedError("exporters/theano.py builds no %r; it builds %s" % (name, ", ".join(FAMILIES)))
    return FAMILIES[name]


# --- The three functions of an exporter


def train(model: str, data: Any, seed: int) -> Trained:
    """Build and train the family ``model`` on ``data``; the same seed gives the same weights.

    Raises ``NotImplementedError`` for a family that is not built here.
    """
    import theano

    family = _family(model)
    network = Network(theano, {}, np.random.RandomState(seed))
    network.labels = theano.tensor.TensorType("int64", (False,) * data.train_y.ndim)("labels")
    x, outputs = _build(network, family)
    _fit(network, x, outputs[0], data, family, np.random.RandomState(seed))
    weights = {name: shared.get_value() for name, shared in network.shared.items()}
    return Trained(model, weights, theano.function(*inference(theano, model, weights), mode=_mode()))


def predict(trained: Trained, inputs: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
    """Return the network's own outputs by name for ``{"x": float32 array of any batch}``, in inference mode."""
    values = trained.function(inputs["x"])
    # The next call writes into the buffers of loops again.
    return {name: np.array(value) for name, value in zip(_family(trained.family).outputs, values)}


def export(trained: Trained, path: str, inputs: Dict[str, np.ndarray], folder: str) -> Dict[str, Any]:
    """Write the network below ``folder`` and return ``{"entry": name, "facts": {...}}``.

    ``native`` is a pickle of ``{"inputs": [...], "outputs": [...]}``, the symbolic graph before any optimization;
    ``weights`` a folder of ``weights.npz``, this file as ``network.py``, and ``network.json``, which names the family
    for its function ``inference``. Raises ``ValueError`` for another path.
    """
    import theano

    compiler = theano.config.cxx or "none: Theano fell back to its slow Python implementations"
    facts = {"theano": theano.__version__, "cxx": compiler}
    if path == "native":
        _write_pickle(trained, os.path.join(folder, "model.pkl"))
        return {"entry": "model.pkl", "facts": dict(facts, pickle_protocol=PICKLE_PROTOCOL)}
    if path != "weights":
        raise ValueError("exporters/theano.py writes the paths native and weights itself, not %r" % (path,))
    entry = os.path.join(folder, "model")
    os.makedirs(entry)
    np.savez(os.path.join(entry, "weights.npz"), **trained.weights)
    shutil.copyfile(__file__, os.path.join(entry, "network.py"))
    with open(os.path.join(entry, "network.json"), "w", encoding="utf-8") as stream:
        json.dump({"family": trained.family, "outputs": _family(trained.family).outputs}, stream)
    return {"entry": "model", "facts": facts}


def _write_pickle(trained: Trained, file: str) -> None:
    import theano
    from theano.configparser import change_flags

    # Every variable would carry the lines of code that made it, and the folders of the machine where they stood.
    with change_flags(**{"traceback.limit": 0}):
        symbols = dict(zip(("inputs", "outputs"), inference(theano, trained.family, trained.weights)))
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(PICKLE_DEPTH)
    try:
        with open(file, "wb") as stream:
            pickle.dump(symbols, stream, protocol=PICKLE_PROTOCOL)
    finally:
        sys.setrecursionlimit(limit)


# --- Training and compilation


def _mode() -> Any:
    """Return how a function is compiled here: convolution and pooling to C, all else left to NumPy."""
    import theano
    from theano.gof import link

    class CompiledConvolutions(link.PerformLinker):  # type: ignore[misc, name-defined]
        """Theano's linker for Python, except that it asks some operations for their C."""

        def make_all(self, input_storage: Any = None, output_storage: Any = None, storage_map: Any = None) -> Any:
            """Return the function that runs all nodes, its containers for inputs and outputs, its thunks and nodes."""
            nodes = self.schedule(self.fgraph)
            inputs, outputs, storage = link.map_storage(self.fgraph, nodes, input_storage, output_storage, storage_map)
            computed = {variable: [variable.owner is None] for variable in storage}
            thunks = []
            for node in nodes:
                impl = "c" if theano.config.cxx and type(node.op).__name__ in IN_C else "py"
                thunks.append(node.op.make_thunk(node, storage, computed, [], impl))
                thunks[-1].inputs = [storage[variable] for variable in node.inputs]
                thunks[-1].outputs = [storage[variable] for variable in node.outputs]
            run = link.streamline(self.fgraph, thunks, nodes, no_recycling=[])
            run.allow_gc, run.storage_map = False, storage
            link.add_clear_storage(run, [], storage)
            containers = [link.Container(*pair) for pair in zip(self.fgraph.inputs, inputs)]
            results = [link.Container(*pair, True) for pair in zip(self.fgraph.outputs, outputs)]
            return run, containers, results, thunks, nodes

    # The rewrite spares Python a loop over every element of a gradient.
    return theano.Mode(CompiledConvolutions(allow_gc=False), "fast_compile").including("local_fill_to_alloc")


def _fit(network: Network, x: Any, scores: Any, data: Any, family: Family, order: Any) -> None:
    """Minimise the cross-entropy of ``scores`` by Adam, in an ``order`` drawn each epoch.

    The rate follows half a cosine down to zero.
    """
    import theano

    tensor = theano.tensor
    rate = tensor.fscalar("rate")
    logits = scores.reshape((-1, family.classes))
    loss = tensor.nnet.categorical_crossentropy(tensor.nnet.softmax(logits), network.labels.flatten()).mean()
    trainable = [shared for shared in network.shared.values() if shared not in network.averages]
    updates = _adam(loss, trainable, rate) + list(network.averages.items())
    descend = theano.function([x, network.labels, rate], [], updates=updates, mode=_mode())
    inputs, labels = data.train_x["x"], data.train_y
    batches = len(labels) // family.batch
    for epoch in range(family.epochs):
        for number, rows in enumerate(np.array_split(order.permutation(len(labels)), batches)):
            done = (epoch + number / batches) / family.epochs
            descend(inputs[rows], labels[rows], np.float32(family.rate * (1 + np.cos(np.pi * done)) / 2))


def _adam(loss: Any, weights: List[Any], rate: Any) -> List[Tuple[Any, Any]]:
    """Return the updates of D. Kingma and J. Ba, arXiv:1412.6980, algorithm 1 (the variant before section 2.1)."""
    import theano

    tensor = theano.tensor
    one, first, second = np.float32(1), np.float32(0.9), np.float32(0.999)
    step = theano.shared(np.float32(0))
    rate = rate * tensor.sqrt(one - second ** (step + one)) / (one - first ** (step + one))
    updates = [(step, step + one)]
    for weight, slope in zip(weights, tensor.grad(loss, weights)):
        mean, square = (theano.shared(np.zeros_like(weight.get_value())) for _ in range(2))
        new_mean = mean + (one - first) * (slope - mean)
        new_square = square + (one - second) * (tensor.sqr(slope) - square)
        moved = weight - rate * new_mean / (tensor.sqrt(new_square) + np.float32(1e-7))
        updates += [(mean, new_mean), (square, new_square), (weight, moved)]
    return updates


# --- Classifiers: (network, input N x ...) -> [logits N x 10]


def _mlp(net: Network, x: Any) -> List[Any]:
    x = net.relu(net.dense(x.flatten(2), "hidden1", 64, 64))
    return [net.dense(net.relu(net.dense(x, "hidden2", 64, 32)), "logits", 32, CLASSES)]


def _response_normalized(net: Network, x: Any) -> Any:
    """Return ``x`` divided by the activity of five neighbouring channels (Krizhevsky et al. 2012, section 3.3).

    Theano has no operation for it; this is the expression that circulated with it.
    """
    tensor = net.tensor
    batch, channels, rows, columns = (x.shape[axis] for axis in range(4))
    squares = tensor.set_subtensor(net.zeros(batch, channels + 4, rows, columns)[:, 2 : channels + 2], tensor.sqr(x))
    scale = np.float32(2)
    for shift in range(5):
        scale = scale + np.float32(1e-4) * squares[:, shift : shift + channels]
    return x / scale ** np.float32(0.75)


def _alexnet(net: Network, x: Any) -> List[Any]:
    """Krizhevsky et al. 2012: response normalization, overlapping pooling, grouped convolutions, dropout."""

    def overlapping(maps: Any) -> Any:
        return net.pooled(maps, (3, 3), (2, 2), (1, 1))

    x = overlapping(_response_normalized(net, net.activated(x, "conv1", (24, 1, 5, 5))))
    x = overlapping(_response_normalized(net, net.activated(x, "conv2", (48, 24, 3, 3), groups=2)))
    x = net.activated(x, "conv3", (64, 48, 3, 3))
    x = net.activated(x, "conv4", (64, 64, 3, 3), groups=2)
    x = overlapping(net.activated(x, "conv5", (48, 64, 3, 3), groups=2)).flatten(2)
    x = net.dropout(net.relu(net.dense(x, "dense6", 48, 96)), 0.2)
    x = net.dropout(net.relu(net.dense(x, "dense7", 96, 96)), 0.2)
    return [net.dense(x, "logits", 96, CLASSES)]


def _vgg(net: Network, x: Any) -> List[Any]:
    """Simonyan and Zisserman 2014: stacks of 3x3 convolutions, each closed by 2x2 pooling."""
    channels = 1
    for stack, width in enumerate((16, 32, 48)):
        for layer in range(2):
            x = net.activated(x, "conv%d%d" % (stack, layer), (width, channels, 3, 3))
            channels = width
        x = net.pooled(x, (2, 2), (2, 2))
    x = net.dropout(net.relu(net.dense(x.flatten(2), "hidden", 48, 64)), 0.2)
    return [net.dense(x, "logits", 64, CLASSES)]


def _inception(net: Network, x: Any, name: str, inputs: int, width: int) -> Any:
    """Return four branches of ``width`` channels each: 1x1, 1x1 to 3x3, 1x1 to 5x5, pooling to 1x1."""
    half = width // 2
    three = net.activated(x, name + ".three.in", (half, inputs, 1, 1))
    five = net.activated(x, name + ".five.in", (half, inputs, 1, 1))
    branches = [
        net.activated(x, name + ".one", (width, inputs, 1, 1)),
        net.activated(three, name + ".three", (width, half, 3, 3)),
        net.activated(five, name + ".five", (width, half, 5, 5)),
        net.activated(net.pooled(x, (3, 3), (1, 1), (1, 1)), name + ".pool", (width, inputs, 1, 1)),
    ]
    return net.tensor.concatenate(branches, axis=1)


def _googlenet(net: Network, x: Any) -> List[Any]:
    """Szegedy et al. 2014: inception modules, joined along the channels, under global average pooling."""
    x = net.pooled(net.activated(x, "conv", (32, 1, 3, 3)), (3, 3), (2, 2), (1, 1))
    x = _inception(net, x, "inception1", 32, 12)
    x = _inception(net, x, "inception2", 48, 16)
    x = _inception(net, net.pooled(x, (3, 3), (2, 2), (1, 1)), "inception3", 64, 24)
    return [net.dense(net.dropout(x.mean(axis=[2, 3]), 0.1), "logits", 96, CLASSES)]


def _resnet(net: Network, x: Any) -> List[Any]:
    """He et al. 2015: basic blocks of two normalized convolutions, with identity and projection shortcuts."""

    def normalized(maps: Any, name: str, shape: Tuple[int, ...], stride: int = 1) -> Any:
        return net.normalized(net.convolution(maps, name, shape, stride), name, shape[0])

    x = net.relu(normalized(x, "conv", (16, 1, 3, 3)))
    channels = 16
    for number, (width, stride) in enumerate(((16, 1), (32, 2), (32, 1))):
        name = "block%d" % number
        residual = net.relu(normalized(x, name + ".first", (width, channels, 3, 3), stride))
        residual = normalized(residual, name + ".second", (width, width, 3, 3))
        if (width, stride) != (channels, 1):
            x = normalized(x, name + ".shortcut", (width, channels, 1, 1), stride)
        x, channels = net.relu(residual + x), width
    return [net.dense(x.mean(axis=[2, 3]), "logits", 32, CLASSES)]


def _conv1d(net: Network, x: Any) -> List[Any]:
    """Convolutions over time, the eight pixels of a row being the channels; to Theano, pictures one column wide."""
    x = x.dimshuffle(0, 2, 1, "x")
    x = net.activated(x, "conv1", (32, 8, 3, 1))
    x = net.pooled(net.activated(x, "conv2", (32, 32, 3, 1)), (2, 1), (2, 1))
    return [net.dense(x.flatten(2), "logits", 128, CLASSES)]


def _conv3d(net: Network, x: Any) -> List[Any]:
    """Tran et al. 2014 (C3D): 3x3x3 convolutions over a clip; the first pooling leaves time alone."""
    conv3d = net.module("tensor", "nnet").conv3d
    pool_3d = net.module("tensor", "signal", "pool").pool_3d
    channels = 1
    for name, width, window in (("conv1", 8, (1, 2, 2)), ("conv2", 16, (2, 2, 2))):
        w = net.weight(name + ".w", (width, channels, 3, 3, 3), (2.0 / (channels * 27)) ** 0.5)
        bias = net.weight(name + ".b", (width,)).dimshuffle("x", 0, "x", "x", "x")
        x = net.relu(conv3d(x, w, border_mode="half") + bias)
        x, channels = pool_3d(x, window, ignore_border=True), width
    return [net.dense(net.relu(net.dense(x.flatten(2), "hidden", 128, 32)), "logits", 32, CLASSES)]


# --- Recurrence: (network, steps N x T x I) -> states T x N x units


def _recurrent(net: Network, x: Any, name: str, inputs: int, units: int, step: Any, options: Any) -> Any:
    """Run ``step`` over the second axis of ``x``, which is given what the gates take from the input all at once."""
    gates, carried, advance = step
    heard = net.dense(x.dimshuffle(1, 0, 2), name + ".in", inputs, gates * units)
    w = net.weight(name + ".w", (units, gates * units), (1.0 / units) ** 0.5)
    start = [net.zeros(x.shape[0], units)] * carried
    found = net.scan(partial(advance, net, units), [heard], start, non_sequences=[w], strict=True, **options)
    return found[0] if carried > 1 else found


def _rnn_step(net: Network, units: int, heard: Any, hidden: Any, w: Any) -> Any:
    return net.tensor.tanh(heard + net.tensor.dot(hidden, w))


def _lstm_step(net: Network, units: int, heard: Any, hidden: Any, cell: Any, w: Any) -> List[Any]:
    gates = heard + net.tensor.dot(hidden, w)
    opened = net.sigmoid(gates[:, : 3 * units])
    cell = opened[:, :units] * cell + opened[:, units : 2 * units] * net.tensor.tanh(gates[:, 3 * units :])
    return [opened[:, 2 * units :] * net.tensor.tanh(cell), cell]


def _gru_step(net: Network, units: int, heard: Any, hidden: Any, w: Any) -> Any:
    """Return the next state; the gate that forgets acts on what the state contributes, as in cuDNN."""
    said = net.tensor.dot(hidden, w)
    opened = net.sigmoid(heard[:, : 2 * units] + said[:, : 2 * units])
    fresh = net.tensor.tanh(heard[:, 2 * units :] + opened[:, :units] * said[:, 2 * units :])
    kept = opened[:, units:]
    return kept * hidden + (np.float32(1) - kept) * fresh


#: Gates, carried states, and what makes the next state.
RNN, LSTM, GRU = (1, 1, _rnn_step), (4, 2, _lstm_step), (3, 1, _gru_step)


def _reads(step: Any, net: Network, x: Any) -> List[Any]:
    """Read the rows one by one; the last state is classified."""
    return [net.dense(_recurrent(net, x, "cells", 8, 48, step, {})[-1], "logits", 48, CLASSES)]


def _birnn(net: Network, x: Any) -> List[Any]:
    """Read the rows with two LSTM layers, one from either end; the last state of each is classified."""
    ways = {"forward": False, "backward": True}
    last = [_recurrent(net, x, name, 8, 32, LSTM, {"go_backwards": back})[-1] for name, back in ways.items()]
    return [net.dense(net.tensor.concatenate(last, axis=1), "logits", 64, CLASSES)]


# --- Attention


def _layer_normalized(net: Network, x: Any, name: str, width: int) -> Any:
    """Ba et al. 2016, over the last axis."""
    x = x - x.mean(axis=-1, keepdims=True)
    x = x / net.tensor.sqrt(net.tensor.sqr(x).mean(axis=-1, keepdims=True) + np.float32(1e-5))
    return x * net.weight(name + ".gain", (width,), start=1.0) + net.weight(name + ".bias", (width,))


def _transformer(net: Network, x: Any) -> List[Any]:
    """Vaswani et al. 2017: two encoder layers over the embedded rows, averaged and classified."""
    width, heads, steps = 32, 4, 8
    depth = width // heads

    def split(values: Any) -> Any:
        values = values.reshape((-1, steps, heads, depth)).dimshuffle(0, 2, 1, 3)
        return values.reshape((-1, steps, depth))

    x = net.dense(x, "embed", 8, width) + net.weight("position", (steps, width), 0.1)
    for layer in ("layer0.", "layer1."):
        query, key, value = (split(net.dense(x, layer + name, width, width)) for name in ("query", "key", "value"))
        likeness = net.tensor.batched_dot(query, key.dimshuffle(0, 2, 1)) * np.float32(depth**-0.5)
        mixed = net.tensor.batched_dot(net.softmax(likeness), value)
        mixed = mixed.reshape((-1, heads, steps, depth)).dimshuffle(0, 2, 1, 3).reshape((-1, steps, width))
        x = _layer_normalized(net, x + net.dense(mixed, layer + "out", width, width), layer + "norm1", width)
        inner = net.relu(net.dense(x, layer + "inner", width, 2 * width))
        x = _layer_normalized(net, x + net.dense(inner, layer + "outer", 2 * width, width), layer + "norm2", width)
    return [net.dense(x.mean(axis=1), "logits", width, CLASSES)]


def _encode(net: Network, x: Any) -> Tuple[Any, Any]:
    """Read N x 8 x 8 rows from both ends; return the memory N x 8 x UNITS and the decoder's first state N x UNITS."""
    half = UNITS // 2
    forward = _recurrent(net, x, "forward", 8, half, GRU, {})
    backward = _recurrent(net, x, "backward", 8, half, GRU, {"go_backwards": True})
    memory = net.tensor.concatenate([forward, backward[::-1]], axis=2).dimshuffle(1, 0, 2)
    return memory, net.tensor.tanh(net.dense(backward[-1], "first_state", half, UNITS))


def _write(net: Network, before: Any, state: Any, memory: Any, keys: Any) -> Tuple[Any, Any]:
    """Return logits N x 16 of the next letter and the next state, given the letter ``before`` (N) and the state.

    The state asks, each row of the memory answers with v tanh(W state + U row), and the softmax of the answers mixes
    the rows: D. Bahdanau, K. Cho and Y. Bengio, arXiv:1409.0473. ``keys`` are the products U row.
    """
    tensor = net.tensor
    query = tensor.dot(state, net.weight("query", (UNITS, UNITS), UNITS**-0.5)).dimshuffle(0, "x", 1)
    answers = tensor.dot(tensor.tanh(keys + query), net.weight("energy", (UNITS,), UNITS**-0.5))
    context = (memory * net.softmax(answers).dimshuffle(0, 1, "x")).sum(axis=1)
    letter = net.weight("letters", (LETTERS, 16), 1.0)[before]
    heard = net.dense(tensor.concatenate([letter, context], axis=1), "cell.in", 16 + UNITS, 3 * UNITS)
    state = _gru_step(net, UNITS, heard, state, net.weight("cell.w", (UNITS, 3 * UNITS), UNITS**-0.5))
    return net.dense(tensor.concatenate([state, context], axis=1), "spell", 2 * UNITS, LETTERS), state


def _taught(net: Network, memory: Any, keys: Any, first: Any) -> List[Any]:
    """Return logits N x 6 x 16 of a decoder that is told the letters before, whatever it wrote instead."""

    def step(before: Any, state: Any, memory: Any, keys: Any) -> List[Any]:
        logits, state = _write(net, before, state, memory, keys)
        return [state, logits]

    letters = net.labels.dimshuffle(1, 0)
    told = net.tensor.concatenate([net.tensor.zeros_like(letters[:1]), letters[:-1]])
    logits = net.scan(step, [told], [first, None], non_sequences=[memory, keys])[1]
    return [logits.dimshuffle(1, 0, 2)]


def _attention(net: Network, x: Any) -> List[Any]:
    """Write the digit's name in six steps, each told the likeliest letter of the last: logits N x 6 x 16."""
    memory, first = _encode(net, x)
    keys = net.dense(memory, "keys", UNITS, UNITS)
    if net.training:
        return _taught(net, memory, keys, first)

    def step(before: Any, state: Any, memory: Any, keys: Any) -> List[Any]:
        logits, state = _write(net, before, state, memory, keys)
        return [logits.argmax(axis=1), state, logits]

    start = net.tensor.alloc(np.int64(0), x.shape[0])
    found = net.scan(step, [], [start, first, None], non_sequences=[memory, keys], n_steps=LENGTH)
    return [found[2].dimshuffle(1, 0, 2)]


def _beam_search(net: Network, x: Any) -> List[Any]:
    """Write the name by a beam search that stops once all beams of all rows have ended.

    Returns the best beam's tokens N x 6, its log-probability N, and the number of steps taken, 1.
    """
    tensor = net.tensor
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
        net.zeros(rows, BEAMS) + only_first,
    ]
    places = tensor.arange(LENGTH)
    found = net.scan(partial(_extend, net), [places], start, non_sequences=[memory[beams], keys[beams]])
    return [found[2][-1][:, 0], found[3][-1][:, 0], found[3].shape[:1]]


def _extend(
    net: Network, place: Any, last: Any, state: Any, tokens: Any, scores: Any, memory: Any, keys: Any
) -> Tuple[List[Any], Any]:
    """Write one more letter: of all continuations of a row's beams, keep the ``BEAMS`` likeliest."""
    tensor = net.tensor
    logits, state = _write(net, last.flatten(), state, memory, keys)
    likely = tensor.log(net.softmax(logits)).reshape((-1, BEAMS, LETTERS))
    # A word that has ended goes on with the end sign alone, at no cost.
    end_only = np.array([0.0] + [IMPOSSIBLE] * (LETTERS - 1), np.float32)
    ended = (tensor.eq(last, 0) * tensor.gt(place, 0)).dimshuffle(0, 1, "x")
    totals = (scores.dimshuffle(0, 1, "x") + tensor.switch(ended, end_only, likely)).reshape((-1, BEAMS * LETTERS))
    best = tensor.argsort(-totals, axis=1)[:, :BEAMS]
    row = tensor.arange(best.shape[0]).dimshuffle(0, "x")
    letter, beam = best % LETTERS, (best // LETTERS + row * BEAMS).flatten()
    tokens = tokens.reshape((-1, LENGTH))[beam].reshape((-1, BEAMS, LENGTH))
    tokens = tensor.switch(tensor.eq(tensor.arange(LENGTH), place), letter.dimshuffle(0, 1, "x"), tokens)
    scores = totals.flatten()[(best + row * (BEAMS * LETTERS)).flatten()].reshape((-1, BEAMS))
    return [letter, state[beam], tokens, scores], net.until(tensor.eq(letter.max(), 0))


def _classifies(body: Callable[[Network, Any], List[Any]], shape: Tuple[int, ...], *learning: Any) -> Family:
    return Family(body, shape, ("logits",), CLASSES, *learning)


IMAGE, ROWS, CLIP = (1, 8, 8), (8, 8), (1, 4, 8, 8)
#: Epochs, rates and batches are what reaches nine in ten of the held-out digits, or words, within seconds.
FAMILIES = {
    "mlp": _classifies(_mlp, IMAGE, 20, 0.005, 50),
    "alexnet": _classifies(_alexnet, IMAGE, 8, 0.003, 50),
    "vgg": _classifies(_vgg, IMAGE, 8, 0.003, 50),
    "googlenet": _classifies(_googlenet, IMAGE, 8, 0.006, 50),
    "resnet": _classifies(_resnet, IMAGE, 6, 0.01, 50),
    "conv1d": _classifies(_conv1d, ROWS, 15, 0.006, 50),
    "conv3d": _classifies(_conv3d, CLIP, 6, 0.006, 50),
    "rnn": _classifies(partial(_reads, RNN), ROWS, 25, 0.01, 100),
    "lstm": _classifies(partial(_reads, LSTM), ROWS, 15, 0.015, 50),
    "gru": _classifies(partial(_reads, GRU), ROWS, 15, 0.015, 50),
    "birnn": _classifies(_birnn, ROWS, 15, 0.015, 50),
    "attention": Family(_attention, ROWS, ("logits",), LETTERS, 20, 0.015, 100),
    "transformer": _classifies(_transformer, ROWS, 12, 0.005, 50),
    "beam_search": Family(_beam_search, ROWS, ("tokens", "scores", "steps"), LETTERS, 20, 0.015, 100),
}  # type: Dict[str, Family]
