"""The reader of .t7 files: what it reads, and what it refuses."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from t7_writer import Lua, Obj, Sizes, Stored, Writer, dump, module, save

from portmatrix.converters.errors import ConversionError, MalformedFile
from portmatrix.converters.torch7 import convert, recognizes
from portmatrix.converters.torch7.objects import Function, Object, Storage, Table, Tensor
from portmatrix.converters.torch7.reader import read

FORMS = [{}, {"ascii_mode": True}, {"long_size": 4}, {"versions": False}]
WEIGHT = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.fixture(params=FORMS, ids=["binary", "ascii", "32-bit longs", "no versions"])
def form(request: pytest.FixtureRequest) -> dict[str, object]:
    return request.param


def test_plain_values_and_tables(form: dict[str, object], tmp_path: Path) -> None:
    shared = {"text": "grüße", "": True}
    held = [1, 2.5, None, shared, shared, False, [], float("inf")]
    table = read(save({"list": held}, tmp_path / "x.t7", **form)).get("list")
    assert isinstance(table, Table)
    assert [table.get(i) for i in (1, 2, 3, 6, 8)] == [1, 2.5, None, False, float("inf")]
    assert len(table) == 2, "a missing value ends the list"
    assert table.get(4) is table.get(5)
    assert table.get(4).items == {"text": "grüße", "": True}


@pytest.mark.parametrize("code", ["f4", "f8", "f2", "i8", "i4", "i2", "i1", "u1"])
def test_tensors_of_every_type(code: str, form: dict[str, object], tmp_path: Path) -> None:
    array = np.array([[1, 2, 3], [4, 5, 6]], code)
    if code == "i8" and form.get("long_size") == 4:
        array = array.astype("i4")
    kind = "torch.LongTensor" if code == "i8" else ""
    stored = Stored(array.reshape(-1), (2, 3), (3, 1), kind=kind)
    tensor = read(save([stored, 7], tmp_path / "x.t7", **form)).get(1)
    assert isinstance(tensor, Tensor)
    np.testing.assert_array_equal(tensor.array, array)


def test_strides_offsets_empty_and_shared_storages(form: dict[str, object], tmp_path: Path) -> None:
    values = np.arange(20, dtype=np.float32)
    transposed = Stored(values, (4, 3), (1, 4), 3)
    expanded = Stored(values, (2, 3), (0, 1), 12)
    held = read(save([transposed, expanded, np.zeros(0, np.float32), Sizes([5, -1])], tmp_path / "x.t7", **form))
    np.testing.assert_array_equal(held.get(1).array, values[2:14].reshape(3, 4).T)
    np.testing.assert_array_equal(held.get(2).array, [values[11:14]] * 2)
    assert held.get(3).array.size == 0
    assert isinstance(held.get(4), Storage)
    assert held.get(4).values.tolist() == [5, -1]
    if not form.get("ascii_mode"):
        assert np.shares_memory(held.get(1).array, held.get(2).array)


@pytest.mark.parametrize(
    "kind", ["torch.CudaTensor", "torch.ClTensor", "torch.CudaHalfTensor", "torch.CudaDoubleTensor"]
)
def test_tensors_of_a_device(kind: str, tmp_path: Path) -> None:
    code = "f2" if "Half" in kind else "f8" if "Double" in kind else "f4"
    stored = Stored(np.array([1, 2], code), (2,), (1,), kind=kind)
    assert read(save(stored, tmp_path / "x.t7")).array.tolist() == [1, 2]


@pytest.mark.parametrize("number", [6, 7, 8])
def test_functions_are_passed_over(number: int, form: dict[str, object], tmp_path: Path) -> None:
    function = type("Numbered", (Lua,), {"number": number})(b"\x1bLua\x00\x01")
    held = read(save({"before": function, "after": 3}, tmp_path / "x.t7", **form))
    assert isinstance(held.get("before"), Function)
    assert held.get("after") == 3


def test_a_network_that_needs_a_function_is_refused(tmp_path: Path) -> None:
    file = save(Obj("nn.Sequential", modules=[Lua(b"code")]), tmp_path / "x.t7")
    with pytest.raises(ConversionError, match="Lua function"):
        convert([file], tmp_path / "x.onnx", input_shape=("batch", 3))


def test_cycles_are_read(tmp_path: Path) -> None:
    loop: dict[str, object] = {}
    loop["self"] = loop
    held = read(save(loop, tmp_path / "x.t7"))
    assert held.get("self") is held


def test_a_network_that_holds_itself_is_refused(tmp_path: Path) -> None:
    net = Obj("nn.Sequential")
    net.fields["modules"] = [net]
    with pytest.raises(ConversionError):
        convert([save(net, tmp_path / "x.t7")], tmp_path / "x.onnx", input_shape=("batch", 3))
    assert not (tmp_path / "x.onnx").exists()


def test_nesting_deeper_than_pythons_stack(tmp_path: Path) -> None:
    """Fifty thousand tables, each the only entry of the one before."""
    out = bytearray()
    for index in range(50_000):
        out += struct.pack("<iiii", 3, index + 1, 1, 1) + struct.pack("<d", 1.0)
    out += struct.pack("<i", 0)
    file = tmp_path / "x.t7"
    file.write_bytes(bytes(out))
    assert isinstance(read(file), Table)


def test_layers_nested_too_deep_are_refused(tmp_path: Path) -> None:
    layers = module("Linear", weight=WEIGHT)
    for _ in range(300):
        layers = module("Sequential", layers)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(10_000)
    try:
        file = save(layers, tmp_path / "x.t7")
    finally:
        sys.setrecursionlimit(limit)
    with pytest.raises(ConversionError):
        convert([file], tmp_path / "x.onnx", input_shape=("batch", 4))


BAD = {
    "overrun": Stored(WEIGHT.reshape(-1), (4, 4), (4, 1)),
    "offset": Stored(WEIGHT.reshape(-1), (3, 4), (4, 1), 2),
    "negative offset": Stored(WEIGHT.reshape(-1), (3, 4), (4, 1), 0),
    "negative stride": Stored(WEIGHT.reshape(-1), (3, 4), (-4, 1)),
    "negative size": Stored(WEIGHT.reshape(-1), (-3, 4), (4, 1)),
    "vast": Stored(WEIGHT.reshape(-1), (1 << 31, 1 << 31), (0, 0)),
    "many dimensions": Stored(WEIGHT.reshape(-1), (1,) * 33, (1,) * 33),
    "unknown tensor": Stored(WEIGHT.reshape(-1), (3, 4), (4, 1), kind="torch.QuadTensor"),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
@pytest.mark.parametrize("ascii_mode", [False, True])
def test_impossible_tensors_are_refused(bad: Stored, ascii_mode: bool, tmp_path: Path) -> None:
    with pytest.raises(MalformedFile, match=r"x\.t7"):
        read(save([bad], tmp_path / "x.t7", ascii_mode=ascii_mode))


@pytest.mark.parametrize("count", [-1, 1 << 30, (1 << 63) - 1])
def test_lengths_beyond_the_file_are_refused(count: int, tmp_path: Path) -> None:
    writer = Writer()
    writer.ints(4, 1)
    writer.head("torch.FloatStorage")
    writer.longs(count)
    (tmp_path / "x.t7").write_bytes(bytes(writer.out))
    with pytest.raises(MalformedFile):
        read(tmp_path / "x.t7")


def test_a_class_with_its_own_format_is_refused(tmp_path: Path) -> None:
    writer = Writer()
    writer.ints(4, 1)
    writer.head("tds.Hash")
    writer.ints(1, 0)
    writer.double(1.0)
    (tmp_path / "x.t7").write_bytes(bytes(writer.out))
    with pytest.raises(MalformedFile, match=r"tds\.Hash"):
        read(tmp_path / "x.t7")


def test_recognizes_by_suffix_and_start(tmp_path: Path) -> None:
    file, other = save(module("Identity"), tmp_path / "x.t7"), tmp_path / "x.net"
    assert recognizes([file])
    assert not recognizes([file, file])
    other.write_bytes(file.read_bytes())
    assert recognizes([other])
    other.write_bytes(b"\x89PNG")
    assert not recognizes([other])
    assert not recognizes([tmp_path / "missing.t7"])


VALID = {
    name: dump(
        module(
            "Sequential",
            module("SpatialConvolution", nInputPlane=1, nOutputPlane=2, kH=3, kW=3, dH=1, dW=1,
                   weight=np.ones((2, 1, 3, 3), np.float32), bias=np.zeros(2, np.float32)),
            module("ReLU"), module("View", size=Sizes([-1]), numElements=1, numInputDims=3),
            module("Linear", weight=np.ones((2, 8), np.float32), bias=np.zeros(2, np.float64)),
        ),
        **options,
    )
    for name, options in {"binary": {}, "ascii": {"ascii_mode": True}}.items()
}  # fmt: skip
FUZZ = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)


def survives(content: bytes, folder: Path) -> None:
    """Read and convert a file: it may only fail with the error that a damaged file gives."""
    file = folder / "fuzz.t7"
    file.write_bytes(content)
    try:
        convert([file], folder / "fuzz.onnx")
    except ConversionError:
        return


@FUZZ
@given(content=st.binary(max_size=200), start=st.sampled_from([b"", b"\x04\0\0\0\x01\0\0\0", b"4\n1\n", b"3\n1\n2\n"]))
def test_random_bytes_are_refused(content: bytes, start: bytes, tmp_path: Path) -> None:
    survives(start + content, tmp_path)


@pytest.mark.parametrize("form", VALID)
@FUZZ
@given(data=st.data())
def test_damaged_files_are_refused(form: str, data: st.DataObject, tmp_path: Path) -> None:
    content = bytearray(VALID[form])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 5))
        new = data.draw(
            st.one_of(st.binary(min_size=1, max_size=4), st.sampled_from([b"\xff" * 4, b"\0" * 4, b"\xff\xff\xff\x7f"]))
        )
        content[at : at + len(new)] = new
    cut = data.draw(st.one_of(st.none(), st.integers(0, len(content))))
    survives(bytes(content[:cut]), tmp_path)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    content, file = VALID["binary"], tmp_path / "cut.t7"
    for end in range(0, len(content), 7):
        file.write_bytes(content[:end])
        with pytest.raises(ConversionError):
            convert([file], tmp_path / "cut.onnx")


def test_objects_keep_their_class_and_version(tmp_path: Path) -> None:
    new, old = (read(save(module("ReLU"), tmp_path / "x.t7", versions=versions)) for versions in (True, False))
    assert isinstance(new, Object)
    assert (new.kind, new.version, old.kind, old.version) == ("nn.ReLU", 1, "nn.ReLU", 0)
