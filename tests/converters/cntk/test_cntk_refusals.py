"""Files that must not be converted: damaged, hostile, of others, and networks that mix the samples of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cntk_nets
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from portmatrix.converters import cntk, find
from portmatrix.converters.cntk import reader
from portmatrix.converters.errors import ConversionError, MalformedFile, Unsupported

FUZZED = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)


def graph_file(
    folder: Path,
    nodes: Sequence[NodeProto],
    constants: Sequence[TensorProto] = (),
    shape: Sequence[int | str] = (1, 4),
    producer: str = reader.PRODUCER,
) -> Path:
    """Return a file with one input ``x`` and one output ``y``, as CNTK would write it."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        list(nodes), "net", [value("x", TensorProto.FLOAT, shape)], [value("y", TensorProto.FLOAT, None)], constants
    )
    model = helper.make_model(graph, producer_name=producer, opset_imports=[helper.make_opsetid("", 9)], ir_version=4)
    file = folder / "net.onnx"
    file.write_bytes(model.SerializeToString())
    return file


def refused(file: Path) -> str:
    """Return what the converter says of a file that it must refuse, and check that it wrote nothing."""
    output = file.with_name("out.onnx")
    with pytest.raises(ConversionError) as caught:
        cntk.convert([file], output)
    assert not output.exists()
    return str(caught.value)


def test_it_recognizes_files_of_cntk_alone(tmp_path: Path) -> None:
    """By the producer's name in the file, whatever stands around it."""
    relu = [helper.make_node("Relu", ["x"], ["y"])]
    mine = graph_file(tmp_path, relu)
    assert cntk.recognizes([mine])
    assert find([mine]) is cntk
    assert not cntk.recognizes([mine, mine])
    others = graph_file(tmp_path, relu, producer="pytorch")
    assert not cntk.recognizes([others])
    assert "pytorch" in refused(others)
    (tmp_path / "empty.onnx").touch()
    assert not cntk.recognizes([tmp_path / "empty.onnx"])


def test_a_native_file_is_refused_with_advice(tmp_path: Path) -> None:
    """CNTK's own format cannot be read without CNTK; the message says what to do in CNTK."""
    native = tmp_path / "net.model"
    native.write_bytes(
        b"\x08\x02\x12\x11\n\x07version\x12\x06\x08\x02\x10\x03(\x03\x12\x1f\n\x04typeB\x11CompositeFunction"
    )
    assert find([native]) is cntk
    assert "ModelFormat.ONNX" in refused(native)


def test_an_operator_outside_the_table_is_named(tmp_path: Path) -> None:
    """The error names the node, its type, and what there is."""
    file = graph_file(tmp_path, [helper.make_node("EyeLike", ["x"], ["y"], name="eye")])
    with pytest.raises(Unsupported, match="'eye' of type EyeLike: it is not in the operator table"):
        cntk.convert([file], tmp_path / "out.onnx")


SHAPE = numpy_helper.from_array
MIXING = {
    "argmax over the batch": [helper.make_node("ArgMax", ["x"], ["y"], axis=0)],
    "join of samples": [helper.make_node("Concat", ["x", "x"], ["y"], axis=0)],
    "product of samples": [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "t"], ["y"]),
    ],
    "sum over the batch": [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0]),
        helper.make_node("MatMul", ["t", "x"], ["y"]),
    ],
    "samples selected": [helper.make_node("Slice", ["x"], ["y"], axes=[0], starts=[1], ends=[2])],
    "samples added": [helper.make_node("Pad", ["x"], ["y"], pads=[1, 0, 0, 0])],
    "the batch as a number": [helper.make_node("Shape", ["x"], ["s"]), helper.make_node("Cast", ["s"], ["y"], to=1)],
}


@pytest.mark.parametrize("what", MIXING)
def test_what_mixes_the_samples_of_a_batch_is_refused(what: str, tmp_path: Path) -> None:
    """At a batch of 1 it is right; relaxed it would be wrong without a word."""
    with pytest.raises(Unsupported):
        cntk.convert([graph_file(tmp_path, MIXING[what])], tmp_path / "out.onnx")


def test_a_name_that_nothing_makes(tmp_path: Path) -> None:
    """A node that reads what is not there, or reads itself, is a damaged file."""
    assert "which nothing before it makes" in refused(graph_file(tmp_path, [helper.make_node("Relu", ["z"], ["y"])]))
    assert "which nothing before it makes" in refused(
        graph_file(tmp_path, [helper.make_node("Add", ["x", "y"], ["y"])])
    )


def test_tensors_that_lie(tmp_path: Path) -> None:
    """Shapes beyond the data, element types that are none, data in other files."""
    add = [helper.make_node("Add", ["x", "w"], ["y"])]
    huge = TensorProto(name="w", dims=[1 << 40, 1 << 20], data_type=TensorProto.FLOAT, raw_data=b"1234")
    large = TensorProto(name="w", dims=[1 << 62], data_type=TensorProto.FLOAT, raw_data=bytes(8192))
    strange = TensorProto(name="w", dims=[1], data_type=99, raw_data=b"1234")
    text = TensorProto(name="w", dims=[1], data_type=TensorProto.STRING, string_data=[b"x"])
    outside = TensorProto(name="w", dims=[1], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    for tensor in (huge, large, strange, text, outside):
        assert "'w'" in refused(graph_file(tmp_path, add, [tensor]))
    assert "twice" in refused(graph_file(tmp_path, add, [SHAPE(cntk_nets.np.ones(4, "f"), "w")] * 2))


def test_shapes_that_lie(tmp_path: Path) -> None:
    """A reshape to another number of elements, lengths below -1, more axes than any network has."""
    for target in ([3], [1, -5], [0, 0, 4], [1] * 40 + [4]):
        constant = SHAPE(cntk_nets.np.array(target, "i8"), "s")
        assert refused(graph_file(tmp_path, [helper.make_node("Reshape", ["x", "s"], ["y"])], [constant]))
    assert refused(graph_file(tmp_path, [helper.make_node("Relu", ["x"], ["y"])], shape=[1] * 100))


def test_bodies_in_bodies(tmp_path: Path) -> None:
    """Deep nesting ends in a refusal before anything recurses too far."""
    body = helper.make_graph([helper.make_node("Relu", ["x"], ["r"])], "body", [], [])
    for _ in range(12):
        node = helper.make_node("Scan", ["x"], ["r"], body=body, num_scan_inputs=1)
        body = helper.make_graph([node], "body", [helper.make_tensor_value_info("s", 1, [4])], [])
    nodes = [helper.make_node("Scan", ["x"], ["y"], body=body, num_scan_inputs=1)]
    assert refused(graph_file(tmp_path, nodes, shape=("Sequence", 1, 4)))


@FUZZED
@given(st.binary(max_size=300))
def test_random_bytes(tmp_path: Path, content: bytes) -> None:
    """No bytes end in another error than the converter's own."""
    file = tmp_path / "net.onnx"
    file.write_bytes(content)
    cntk.recognizes([file])
    with pytest.raises(ConversionError):
        cntk.convert([file], tmp_path / "out.onnx")


@FUZZED
@given(st.data())
def test_damaged_files(tmp_path: Path, data: st.DataObject) -> None:
    """Bytes changed, files cut short: converted or refused, never anything else."""
    name = data.draw(st.sampled_from(["loop", "film", "letters", "products", "convnet"]))
    content = bytearray(cntk_nets.net(name, tmp_path).file.read_bytes())
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.sampled_from([len(content), data.draw(st.integers(1, len(content)))]))]
    file = tmp_path / "damaged.onnx"
    file.write_bytes(content)
    try:
        cntk.convert([file], tmp_path / "out.onnx")
    except ConversionError:
        return
    onnx.checker.check_model(tmp_path / "out.onnx", full_check=True)


@FUZZED
@given(st.data())
def test_damaged_graphs(tmp_path: Path, data: st.DataObject) -> None:
    """Sound protobuf with unsound content: attributes, lengths and names changed in a network of CNTK."""
    name = data.draw(st.sampled_from(cntk_nets.names()))
    model = onnx.load(cntk_nets.net(name, tmp_path).file)
    node = data.draw(st.sampled_from(list(model.graph.node)))
    numbers = st.sampled_from([-(1 << 63), -3, -1, 0, 1, 2, 7, 1 << 31, (1 << 63) - 1])
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.INT:
            attribute.i = data.draw(numbers)
        elif attribute.ints and data.draw(st.booleans()):
            attribute.ints[data.draw(st.integers(0, len(attribute.ints) - 1))] = data.draw(numbers)
    if node.input and data.draw(st.booleans()):
        others = [name for other in model.graph.node for name in (*other.input, *other.output)]
        node.input[data.draw(st.integers(0, len(node.input) - 1))] = data.draw(st.sampled_from(others))
    file = tmp_path / "damaged.onnx"
    file.write_bytes(_bytes(model))
    try:
        cntk.convert([file], tmp_path / "out.onnx")
    except ConversionError:
        return
    onnx.checker.check_model(tmp_path / "out.onnx", full_check=True)


def _bytes(model: ModelProto) -> bytes:
    return bytes(model.SerializeToString())


def test_large_weights_stay_in_the_file(tmp_path: Path) -> None:
    """They are views of the mapped file until they are written."""
    weights = SHAPE(cntk_nets.np.ones((4, 4096), "f"), "w")
    file = graph_file(tmp_path, [helper.make_node("MatMul", ["x", "w"], ["y"])], [weights])
    source = reader.read(file)
    assert not source.constants["w"].flags.owndata
    assert not source.constants["w"].flags.writeable
    assert len(source.model.SerializeToString()) < 1000
    with pytest.raises(MalformedFile):
        reader.read(_cut(file))


def _cut(file: Path) -> Path:
    short = file.with_name("short.onnx")
    short.write_bytes(file.read_bytes()[:-200])
    return short
