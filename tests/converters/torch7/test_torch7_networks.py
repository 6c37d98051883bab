"""Whole networks: the shape of the input, recurrent steps, graphs, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import thnn
from onnx.reference import ReferenceEvaluator
from t7_writer import Obj, Sizes, module, save

from portmatrix.converters import torch7
from portmatrix.converters.errors import ConversionError, Unsupported
from portmatrix.converters.torch7.inputs import parse

RNG = np.random.default_rng(11)


def weights(*sizes: int) -> np.ndarray:
    return RNG.normal(size=sizes).astype(np.float32)


def seq(*layers: Obj) -> Obj:
    return module("Sequential", *layers)


def linear(inputs: int, outputs: int, bias: bool = True) -> Obj:
    fields: dict[str, Any] = {"bias": weights(outputs)} if bias else {}
    return module("Linear", weight=weights(outputs, inputs), **fields)


def convolution(inputs: int, outputs: int, kernel: int = 3) -> Obj:
    return module("SpatialConvolution", nInputPlane=inputs, nOutputPlane=outputs, kH=kernel, kW=kernel, dH=1, dW=1,
                  padH=0, padW=0, weight=weights(outputs, inputs, kernel, kernel), bias=weights(outputs))  # fmt: skip


def pooling(**fields: Any) -> Obj:
    return module("SpatialMaxPooling", kH=2, kW=2, dH=2, dW=2, padH=0, padW=0, ceil_mode=False, **fields)


def shapes(file: Path) -> list[list[int | str]]:
    graph = onnx.load(file).graph
    return [[d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim] for value in graph.input]


def converted(net: Obj, folder: Path, **options: Any) -> Path:
    return torch7.convert([save(net, folder / "net.t7")], folder / "net.onnx", **options).file


ROWS = module("View", size=Sizes([-1]), numElements=1, numInputDims=2)
FLAT = module("View", size=Sizes([-1]), numElements=1, numInputDims=3)


@pytest.mark.parametrize(
    ("net", "expected"),
    [
        (linear(6, 2), ["batch", 6]),
        (seq(module("Reshape", size=Sizes([4, 4]), nelement=16), ROWS, linear(16, 2)), ["batch", 16]),
        (seq(convolution(3, 4), FLAT, linear(4 * 26 * 26, 2)), ["batch", 3, 28, 28]),
        (seq(convolution(3, 4), pooling(), FLAT, linear(4 * 3 * 3, 2)), ["batch", 3, 8, 8]),
        (seq(convolution(3, 4), pooling(iheight=7, iwidth=7), FLAT, linear(36, 2)), ["batch", 3, 9, 9]),
        (seq(convolution(3, 4), module("ReLU")), ["batch", 3, "height", "width"]),
        (seq(module("ReLU"), module("SpatialBatchNormalization", running_mean=weights(5), eps=1e-5,
                                    running_var=np.ones(5, np.float32))), ["batch", 5, "height", "width"]),
        (module("SeqLSTM", weight=weights(8, 20), bias=weights(20)), ["time", "batch", 3]),
        (seq(module("Transpose", permutations=[[1, 2]]), module("SeqGRU", weight=weights(8, 15), bias=weights(15))),
         ["batch", "time", 3]),
        (seq(module("LookupTable", weight=weights(9, 4)), module("Mean", dimension=2)), ["batch", "time"]),
    ],
)  # fmt: skip
def test_the_shape_of_the_input_is_deduced(net: Obj, expected: list[int | str], tmp_path: Path) -> None:
    assert shapes(converted(net, tmp_path)) == [expected]


def test_a_given_shape_is_taken(tmp_path: Path) -> None:
    net = seq(convolution(3, 4), module("ReLU"))
    assert shapes(converted(net, tmp_path, input_shape=parse("batch, 3, 20, ?"))) == [["batch", 3, 20, "size3"]]
    assert shapes(converted(net, tmp_path, input_shape=(None, 3, 9, 9), batch=4)) == [[4, 3, 9, 9]]


def test_several_shapes_are_taken_in_order(tmp_path: Path) -> None:
    net = seq(module("ParallelTable", module("Tanh"), module("Abs")), module("JoinTable", dimension=2))
    file = converted(net, tmp_path, input_shapes={"input1": (None, 4), "input2": (None, 6)})
    assert shapes(file) == [["batch", 4], ["batch", 6]]


@pytest.mark.parametrize("text", ["batch,0", "batch,-3", "1.5", "", "batch,,3"])
def test_a_shape_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConversionError, match="no dimension"):
        parse(text)


def test_a_shape_that_cannot_be_deduced_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="--input-shape"):
        converted(seq(module("Tanh"), module("Sigmoid")), tmp_path)
    with pytest.raises(ConversionError, match="--input-shape"):
        converted(seq(convolution(3, 4), FLAT, linear(7, 2)), tmp_path)
    with pytest.raises(ConversionError, match="--input-shape"):
        converted(linear(6, 2), tmp_path, input_shape=("batch", 7))
    assert not (tmp_path / "net.onnx").exists()


def test_a_layer_without_translation_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"2\.SpatialMaxUnpooling.*nn\.SpatialMaxUnpooling"):
        converted(seq(convolution(3, 4), module("SpatialMaxUnpooling")), tmp_path)
    assert not (tmp_path / "net.onnx").exists()


def check(net: Obj, x: np.ndarray, expected: np.ndarray, folder: Path, **options: Any) -> None:
    file = converted(net, folder, **options)
    (name,) = [value.name for value in onnx.load(file).graph.input]
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for got in (session.run(None, {name: x})[0], ReferenceEvaluator(str(file)).run(None, {name: x})[0]):
        assert got.shape == expected.shape
        assert np.abs(got - expected).max() <= 1e-5 * max(1, np.abs(expected).max())


def test_indices_count_from_one(tmp_path: Path) -> None:
    table = weights(9, 4)
    x = np.array([[1, 9], [3, 3]])
    check(module("LookupTable", weight=table), x, table[x - 1], tmp_path)
    norms = np.linalg.norm(table, axis=1, keepdims=True)
    short = np.where(norms > 1, table / (norms + 1e-7), table)
    check(module("LookupTable", weight=table, maxNorm=1, normType=2), x, short[x - 1], tmp_path)


def sequence() -> np.ndarray:
    return RNG.normal(size=(6, 3, 4)).astype(np.float32)


def test_a_linear_rnn(tmp_path: Path) -> None:
    step = seq(module("JoinTable", dimension=1, nInputDims=1), linear(9, 5), module("Tanh"))
    net = module("Sequencer", module("LinearRNN", step, outputSize=[5], nInputDim=1, inputsize=4))
    matrix = step.fields["modules"][1].fields
    x, h, out = sequence(), np.zeros((3, 5)), []
    for at in x:
        h = np.tanh(np.concatenate([at, h], 1) @ matrix["weight"].T + matrix["bias"])
        out.append(h)
    check(net, x, np.stack(out), tmp_path)


def test_an_lstm_with_peepholes(tmp_path: Path) -> None:
    """LSTM.lua's own composition of layers, run by a Scan."""
    peep = [weights(5) for _ in range(3)]
    lines = [linear(4, 5) for _ in range(4)], [linear(5, 5) for _ in range(4)]

    def gate(at: int) -> Obj:
        parts = module("ParallelTable", lines[0][at], lines[1][at], module("CMul", weight=peep[at], size=Sizes([5])))
        return seq(parts, module("CAddTable"), module("Sigmoid"))

    def pick(*at: int) -> Obj:
        return module("ConcatTable", *(module("SelectTable", index=index) for index in at))

    hidden = seq(pick(1, 2), module("ParallelTable", lines[0][3], lines[1][3]), module("CAddTable"))
    forget = seq(module("ConcatTable", gate(1), module("SelectTable", index=3)), module("CMulTable"))
    inner = seq(module("ConcatTable", gate(0), hidden), module("CMulTable"))
    cell = seq(module("ConcatTable", forget, inner), module("CAddTable"))
    output = seq(
        module("ConcatTable", gate(2), seq(module("SelectTable", index=3), module("Tanh"))), module("CMulTable")
    )
    step = seq(module("ConcatTable", pick(1, 2), cell), module("FlattenTable"),
               module("ConcatTable", output, module("SelectTable", index=3)))  # fmt: skip
    net = module("Sequencer", module("LSTM", step, inputSize=4, outputSize=5))

    def total(at: int, x: Any, h: Any) -> Any:
        a, b = lines[0][at].fields, lines[1][at].fields
        return x @ a["weight"].T + a["bias"] + h @ b["weight"].T + b["bias"]

    x, h, c, out = sequence(), np.zeros((3, 5)), np.zeros((3, 5)), []
    for at in x:
        i, f = (thnn.sigmoid(total(n, at, h) + c * peep[n]) for n in (0, 1))
        c = f * c + i * total(3, at, h)
        h = thnn.sigmoid(total(2, at, h) + c * peep[2]) * np.tanh(c)
        out.append(h)
    check(net, x, np.stack(out), tmp_path)


def test_a_fast_lstm_over_a_table_of_steps(tmp_path: Path) -> None:
    gates, back = linear(4, 20), linear(5, 20, bias=False)
    net = seq(module("SplitTable", dimension=1), module("Sequencer", module("FastLSTM", module("Identity"), i2g=gates,
              o2g=back, inputSize=4, outputSize=5)), module("SelectTable", index=-1))  # fmt: skip
    x, h, c = sequence(), np.zeros((3, 5)), np.zeros((3, 5))
    for at in x:
        all_gates = at @ gates.fields["weight"].T + gates.fields["bias"] + h @ back.fields["weight"].T
        i, g, f, o = (all_gates[:, n * 5 : (n + 1) * 5] for n in range(4))
        c = thnn.sigmoid(f) * c + thnn.sigmoid(i) * np.tanh(g)
        h = thnn.sigmoid(o) * np.tanh(c)
    check(net, x, h, tmp_path, input_shape=(6, "batch", 4))


def test_a_simple_recurrent_network(tmp_path: Path) -> None:
    start, read, feedback = module("Add", bias=weights(5)), linear(4, 5), linear(5, 5)
    again = seq(module("ParallelTable", read, feedback), module("CAddTable"), module("Sigmoid"))
    net = module("Sequencer", Obj("nn.Recurrent", modules=[start, read, feedback], inputModule=read,
                 initialModule=seq(read, start, module("Sigmoid")), recurrentModule=again))  # fmt: skip
    x, out = sequence(), []
    given = x @ read.fields["weight"].T + read.fields["bias"]
    h = thnn.sigmoid(given[0] + start.fields["bias"])
    out.append(h)
    for at in given[1:]:
        h = thnn.sigmoid(at + h @ feedback.fields["weight"].T + feedback.fields["bias"])
        out.append(h)
    check(net, x, np.stack(out), tmp_path)


def test_both_directions(tmp_path: Path) -> None:
    w, b = weights(9, 20), weights(20)
    ahead = module("SeqLSTM", weight=w, bias=b)
    back = module("ReverseUnreverse", seq(module("ReverseSequence"), ahead, module("ReverseSequence")))
    net = module("SeqBLSTM", seq(module("ConcatTable", ahead, back), module("CAddTable")))
    x = sequence()
    check(net, x, thnn.seq_lstm(x, w, b) + thnn.seq_lstm(x[::-1], w, b)[::-1], tmp_path)


def test_both_directions_over_a_table(tmp_path: Path) -> None:
    """Element-Research's BiSequencer: steps are paired, and each pair is joined."""
    layer, x = linear(4, 5), sequence()
    ahead = module("Sequencer", layer)
    back = seq(module("ReverseTable"), module("Sequencer", module("Tanh")), module("ReverseTable"))
    merge = module("Sequencer", module("JoinTable", dimension=1, nInputDims=1))
    both = module("BiSequencer", seq(module("ConcatTable", ahead, back), module("ZipTable"), merge))
    net = seq(module("SplitTable", dimension=1), both, module("SelectTable", index=2))
    expected = np.concatenate([x[1] @ layer.fields["weight"].T + layer.fields["bias"], np.tanh(x[1])], 1)
    check(net, x, expected, tmp_path, input_shape=(6, "batch", 4))


def test_a_layer_over_time(tmp_path: Path) -> None:
    layer, x = linear(4, 5), sequence()
    net = module("Sequencer", module("Recursor", seq(layer, module("Tanh"))))
    check(net, x, np.tanh(x @ layer.fields["weight"].T + layer.fields["bias"]), tmp_path)


def node(data: dict[str, Any], *children: Obj) -> Obj:
    return Obj("nngraph.Node", data=data, children=list(children))


def test_a_graph(tmp_path: Path) -> None:
    """Two layers read the input; a third reads both: the tables of the nodes are keys, as nngraph has them."""
    first, second = linear(4, 5), linear(4, 5)
    inner, sink, start = ({"mapindex": {}, "module": m} for m in (module("CSubTable"), None, None))
    read: dict[str, Any] = {"mapindex": {}}
    parts = [{"module": layer, "mapindex": {}} for layer in (first, second)]
    out = node(sink)
    table = node(inner, out)
    leaves = [node(part, table) for part in parts]
    entry = node(read, *leaves)
    root = node(start, entry)
    keys = KeyedTables()
    keys.link(start, [(1, read), (read, 1)])
    for part in parts:
        keys.link(part, [(1, read), (read, 1)])
    keys.link(inner, [(1, parts[0]), (parts[0], 1), (2, parts[1]), (parts[1], 2)])
    keys.link(sink, [(1, inner), (inner, 1)])
    net = module("gModule", forwardnodes=[root, entry, *leaves, table, out], innode=root, outnode=out)
    x = RNG.normal(size=(3, 4)).astype(np.float32)
    a, b = first.fields, second.fields
    check(net, x, x @ (a["weight"] - b["weight"]).T + a["bias"] - b["bias"], tmp_path)


class KeyedTables:
    """Gives nodes' tables a mapindex that has tables for keys."""

    def link(self, data: dict[str, Any], pairs: list[tuple[Any, Any]]) -> None:
        data["mapindex"] = Pairs(pairs)


class Pairs(dict):  # type: ignore[type-arg]
    """A table with keys that Python cannot hash."""

    def __init__(self, pairs: list[tuple[Any, Any]]) -> None:
        super().__init__()
        self.pairs = pairs

    def items(self) -> Any:
        return self.pairs


LARGE = """
import resource, sys
from pathlib import Path
from portmatrix.converters import torch7
import onnx
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
torch7.convert([Path(sys.argv[1])], Path(sys.argv[2]))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_a_large_file_takes_little_memory(tmp_path: Path) -> None:
    """Sixty-four megabytes of weights: what is held beyond the program itself stays below 2.5 times that."""
    width = 2048
    layers = [module("Linear", weight=np.zeros((width, width), np.float32)) for _ in range(4)]
    file = save(seq(*layers), tmp_path / "large.t7")
    command = [sys.executable, "-c", LARGE, str(file), str(tmp_path / "large.onnx")]
    used = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert used < 2.5 * file.stat().st_size / 2**20
