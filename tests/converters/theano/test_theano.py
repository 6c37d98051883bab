"""The Theano converter against Theano's own outputs (fixtures.npz, written by make_fixtures.py), and hostile files."""

from __future__ import annotations

import gzip
import pickle
import re
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from portmatrix.converters.errors import ConversionError, MalformedFile, Unsupported
from portmatrix.converters.theano import convert, recognizes
from portmatrix.converters.theano.table import REFUSED, TABLE

FIXTURES = np.load(Path(__file__).with_name("fixtures.npz"))
CASES = sorted({name.split("/")[0] for name in FIXTURES.files})
DOCS = Path(__file__).parents[3] / "docs" / "converters" / "theano.md"
#: The largest difference allowed, relative to the largest output.
TOLERANCE = 1e-5


def fixture(name: str, folder: Path) -> Path:
    file = folder / f"{name}.pkl"
    file.write_bytes(FIXTURES[f"{name}/pickle"].tobytes())
    return file


def feeds(name: str, model: onnx.ModelProto) -> dict[str, np.ndarray]:
    kinds = {i.name: onnx.helper.tensor_dtype_to_np_dtype(i.type.tensor_type.elem_type) for i in model.graph.input}
    start = f"{name}/in/"
    return {
        key[len(start) :]: FIXTURES[key].astype(kinds[key[len(start) :]])
        for key in FIXTURES.files
        if key.startswith(start)
    }


def expected(name: str) -> list[np.ndarray]:
    return [FIXTURES[key] for key in sorted(FIXTURES.files) if key.startswith(f"{name}/out/")]


def assert_close(got: list[np.ndarray], wanted: list[np.ndarray]) -> None:
    assert len(got) == len(wanted)
    for index, (mine, theirs) in enumerate(zip(got, wanted, strict=True)):
        assert np.shape(mine) == theirs.shape, index
        size = max(1.0, float(np.abs(theirs.astype(np.float64)).max(initial=0)))
        difference = np.abs(np.asarray(mine, np.float64) - theirs.astype(np.float64)).max(initial=0)
        assert difference <= TOLERANCE * size, index


def run(model: onnx.ModelProto, given_: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, given_)


@pytest.mark.parametrize("name", CASES)
def test_same_outputs_as_theano(name: str, tmp_path: Path) -> None:
    file = fixture(name, tmp_path)
    assert recognizes([file])
    convert([file], tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    for value in model.graph.input:
        sizes = value.type.tensor_type.shape.dim
        assert not sizes or sizes[0].dim_param == "batch"
    assert_close(run(model, feeds(name, model)), expected(name))


@pytest.mark.parametrize(
    "name", ["attention", "carried_updates", "lenet", "masked_gru", "nested", "pools", "slices", "taps", "writes"]
)
def test_same_outputs_in_the_reference_evaluator(name: str, tmp_path: Path) -> None:
    convert([fixture(name, tmp_path)], tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    assert_close(ReferenceEvaluator(model).run(None, feeds(name, model)), expected(name))


@pytest.mark.parametrize("name", ["vgg", "long_memory", "transformer", "counted"])
def test_newest_operator_set(name: str, tmp_path: Path) -> None:
    newest = onnx.defs.onnx_opset_version()
    written = convert([fixture(name, tmp_path)], tmp_path / "model.onnx", opset=newest)
    assert written.opset == newest
    model = onnx.load(tmp_path / "model.onnx")
    assert_close(ReferenceEvaluator(model).run(None, feeds(name, model)), expected(name))


def test_plain_operators_of_a_convolutional_network(tmp_path: Path) -> None:
    written = convert([fixture("vgg", tmp_path)], tmp_path / "model.onnx")
    counts = {name: count for name, count in written.operators.items() if name != "Identity"}
    assert counts == {"Conv": 4, "Gemm": 1, "MaxPool": 2, "Relu": 4, "Reshape": 1, "Softmax": 1}
    model = onnx.load(tmp_path / "model.onnx")
    assert all(len(node.input) == 3 for node in model.graph.node if node.op_type in ("Conv", "Gemm"))


def test_rectifiers_are_one_operator(tmp_path: Path) -> None:
    operators = convert([fixture("rectifiers", tmp_path)], tmp_path / "model.onnx").operators
    assert (operators["Relu"], operators["LeakyRelu"], operators["PRelu"]) == (3, 1, 1)


def test_other_batch_sizes(tmp_path: Path) -> None:
    """The tutorial's LeNet is built for batches of a fixed size; what is written takes any."""
    convert([fixture("lenet", tmp_path)], tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    (rows,) = feeds("lenet", model).values()
    (wanted,) = expected("lenet")
    (got,) = run(model, {model.graph.input[0].name: np.concatenate([rows, rows, rows[:1]])})
    np.testing.assert_allclose(got, np.concatenate([wanted, wanted, wanted[:1]]), atol=1e-6)


def test_input_shapes_and_batch(tmp_path: Path) -> None:
    file = fixture("vgg", tmp_path)
    convert([file], tmp_path / "model.onnx", batch=2, input_shapes={"x": [None, 3, 8, 8]})
    model = onnx.load(tmp_path / "model.onnx")
    assert [size.dim_value for size in model.graph.input[0].type.tensor_type.shape.dim] == [2, 3, 8, 8]
    with pytest.raises(ConversionError, match="the inputs are x"):
        convert([file], tmp_path / "model.onnx", input_shapes={"z": [None]})
    with pytest.raises(ConversionError, match="has 4 axes"):
        convert([file], tmp_path / "model.onnx", input_shapes={"x": [None, 3]})


def test_names(tmp_path: Path) -> None:
    convert([fixture("perceptron", tmp_path)], tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    assert [value.name for value in model.graph.output] == ["p", "k"]
    assert {"W0", "b0"} <= {value.name for value in model.graph.initializer}


def test_gzip(tmp_path: Path) -> None:
    file = tmp_path / "model.pkl.gz"
    file.write_bytes(gzip.compress(FIXTURES["perceptron/pickle"].tobytes()))
    assert recognizes([file])
    assert convert([file], tmp_path / "model.onnx").operators["Gemm"] == 3


# -- files that are none -----------------------------------------------------------------------------------------------


class Call:
    def __init__(self, function, *arguments) -> None:
        self.made = function, arguments

    def __reduce__(self):
        return self.made


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"\x80\x04", "cut short"),
        (b"hello", "stack|opcode"),
        (b"\x80\x02\x8a\xff", "announced|left"),
        (b"\x80\x04\x8e" + b"\xff" * 8 + b".", "are left in the file"),
        (b"\x80\x02]r\xff\xff\xff\x7f.", "memo number"),
        (b"]p99999999999\n.", "memo number"),
        (b"h\x05.", "never stored"),
        (b"(" * 50000 + b".", "stack"),
        (b"]" + b"2" * 100 + b".", "never occurs"),
        (b"cos\nsystem\n(S'true'\ntR.", re.escape("os.system")),
        (pickle.dumps(Call(eval, "1/0")), re.escape("builtins.eval")),
        (pickle.dumps(Call(getattr, "a", "upper"), 0), "getattr"),
        (pickle.dumps([1, 2, 3]), "expected"),
        (pickle.dumps(([1], [2])), "symbolic variable"),
        (pickle.dumps({"inputs": [], "outputs": []}), "there are none"),
        (b"L" + b"9" * 5000 + b"\n.", "digits"),
    ],
)
def test_hostile_pickles(data: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "model.pkl"
    file.write_bytes(data)
    with pytest.raises(MalformedFile, match=message):
        convert([file], tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == [file]


def test_array_that_does_not_fit(tmp_path: Path) -> None:
    file = tmp_path / "model.pkl"
    file.write_bytes(pickle.dumps(np.zeros((3, 5), np.float32), 4).replace(b"K\x03K\x05", b"K\x63K\x05"))
    with pytest.raises(MalformedFile, match="takes 1980 bytes; 60 are there"):
        convert([file], tmp_path / "model.onnx")


def test_gzip_that_expands_without_end(tmp_path: Path) -> None:
    file = tmp_path / "model.pkl.gz"
    file.write_bytes(gzip.compress(bytes(20 << 20)))
    with pytest.raises(MalformedFile, match="decompress it yourself"):
        convert([file], tmp_path / "model.onnx")


def attempt(data: bytes, folder: Path) -> None:
    file = folder / "model.pkl"
    file.write_bytes(data)
    with suppress(ConversionError):
        convert([file], folder / "model.onnx")


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.binary(max_size=200))
def test_random_bytes(data: bytes, tmp_path: Path) -> None:
    attempt(data, tmp_path)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damaged_pickles(data: st.DataObject, tmp_path: Path) -> None:
    name = data.draw(st.sampled_from(["perceptron", "recurrent", "counted", "slices"]))
    content = bytearray(FIXTURES[f"{name}/pickle"].tobytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    for _ in range(data.draw(st.integers(0, 4))):
        if content:
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    attempt(bytes(content), tmp_path)


def test_unknown_operation(tmp_path: Path) -> None:
    file = tmp_path / "model.pkl"
    file.write_bytes(FIXTURES["perceptron/pickle"].tobytes().replace(b"\x8c\x07Softmax", b"\x8c\x07Hardmax"))
    with pytest.raises(Unsupported, match="Hardmax"):
        convert([file], tmp_path / "model.onnx")


# -- documentation -----------------------------------------------------------------------------------------------------


def test_documented_operators() -> None:
    text = DOCS.read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+)`", text[text.index("## Operators") : text.index("## How it was checked")]))
    assert set(TABLE) <= named, sorted(set(TABLE) - named)
    assert set(REFUSED) <= set(re.findall(r"`(\w+)`", text[text.index("## Refused") :]))
