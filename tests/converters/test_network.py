"""The ONNX builder: names, constants, checks, and a file that holds what was put in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from portmatrix.converters import network as module
from portmatrix.converters.errors import ConversionError
from portmatrix.converters.network import BATCH, OPSET, Network

WEIGHT = np.random.default_rng(1).normal(size=(64, 40)).astype(np.float32)


def dense(weight: np.ndarray = WEIGHT) -> Network:
    """A network of one product, one bias, and a branch that nothing needs."""
    network = Network("dense", "nowhere")
    x = network.input("x", np.float32, (BATCH, 64))
    product = network.node("MatMul", [x, network.constant(weight, name="weight")], "product")
    network.node("Relu", [product], "unused")
    y = network.node("Add", [product, network.constant(1.5, np.float32)], "sum")
    network.output(y, np.float32, (BATCH, weight.shape[1]), "y")
    return network


def test_the_file_computes_what_was_built(tmp_path: Path) -> None:
    written = dense().save(tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    onnx.checker.check_model(model, full_check=True)
    x = np.ones((3, 64), np.float32)
    (y,) = ReferenceEvaluator(model).run(None, {"x": x})
    np.testing.assert_allclose(y, x @ WEIGHT + 1.5, rtol=1e-6)
    assert written.operators == {"Add": 1, "Identity": 1, "MatMul": 1}
    assert written.parameters == WEIGHT.size + 1
    assert [item.name for item in model.graph.input] == ["x"]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == BATCH
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]


def test_the_graph_is_one_field(tmp_path: Path) -> None:
    # Readers that are not protobuf's own take the last graph of several, where protobuf would join them.
    dense().save(tmp_path / "m.onnx")
    content = (tmp_path / "m.onnx").read_bytes()
    assert onnx.load_from_string(content).ByteSize() == len(content)


@pytest.mark.parametrize("opset", [OPSET, onnx.defs.onnx_opset_version()])
def test_a_fixed_batch_and_an_operator_set_are_written(tmp_path: Path, opset: int) -> None:
    written = dense().save(tmp_path / "m.onnx", batch=2, opset=opset)
    model = onnx.load(tmp_path / "m.onnx")
    sizes = [value.type.tensor_type.shape.dim[0].dim_value for value in (*model.graph.input, *model.graph.output)]
    assert sizes == [2, 2]
    assert written.opset == opset == model.opset_import[0].version
    (y,) = ReferenceEvaluator(model).run(None, {"x": np.ones((2, 64), np.float32)})
    np.testing.assert_allclose(y, WEIGHT.sum(0)[None].repeat(2, 0) + 1.5, rtol=1e-5)


@pytest.mark.parametrize("opset", [OPSET - 1, onnx.defs.onnx_opset_version() + 1])
def test_an_operator_set_that_cannot_be_written_is_refused(tmp_path: Path, opset: int) -> None:
    with pytest.raises(ConversionError, match=str(opset)):
        dense().save(tmp_path / "m.onnx", opset=opset)
    assert not list(tmp_path.iterdir())


def test_a_place_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="is no folder"):
        dense().save(tmp_path / "nowhere" / "m.onnx")


def test_a_network_that_is_no_onnx_is_not_written(tmp_path: Path) -> None:
    network = dense()
    wrong = network.node("MatMul", ["x", network.constant(np.zeros((3, 500), np.float32))])
    network.output(wrong, np.float32, None)
    with pytest.raises(ConversionError, match="not valid ONNX"):
        network.save(tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_weights_of_any_memory_layout_are_written_as_they_read(tmp_path: Path) -> None:
    for number, weight in enumerate((WEIGHT.T.copy().T, WEIGHT.astype(">f4"), WEIGHT[:, ::2], WEIGHT[::-1])):
        file = tmp_path / f"{number}.onnx"
        dense(weight).save(file)
        (y,) = ReferenceEvaluator(onnx.load(file)).run(None, {"x": np.ones((1, 64), np.float32)})
        np.testing.assert_allclose(y[0], weight.sum(0) + 1.5, rtol=1e-5)


def test_weights_that_no_message_can_hold_go_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MESSAGE_BYTES", 1000)
    dense().save(tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").stat().st_size < 1000
    assert (tmp_path / "m.onnx.data").stat().st_size == WEIGHT.nbytes
    model = onnx.load(tmp_path / "m.onnx")
    (y,) = ReferenceEvaluator(model).run(None, {"x": np.ones((1, 64), np.float32)})
    np.testing.assert_allclose(y[0], WEIGHT.sum(0) + 1.5, rtol=1e-5)


def test_a_body_reads_the_network_s_constants(tmp_path: Path) -> None:
    network = Network("loop", "nowhere")
    x = network.input("x", np.float32, (BATCH, 64))
    weight = network.constant(WEIGHT[:, :1].repeat(64, 1) * 0.01, name="weight")
    with network.body() as body:
        body.input("i", np.int64, ())
        going = body.input("going", np.bool_, ())
        state = body.input("state", np.float32, (BATCH, 64))
        body.output(body.node("Identity", [going]), np.bool_, ())
        body.output(body.node("MatMul", [state, weight]), np.float32, (BATCH, 64))
        graph = body.graph("body")
    times, always = network.constant(3, np.int64), network.constant(True, np.bool_)
    y = network.node("Loop", [times, always, x], "loop", body=graph)
    network.output(y, np.float32, (BATCH, 64), "y")
    network.save(tmp_path / "m.onnx")
    given = np.ones((2, 64), np.float32)
    (made,) = ReferenceEvaluator(onnx.load(tmp_path / "m.onnx")).run(None, {"x": given})
    matrix = WEIGHT[:, :1].repeat(64, 1) * np.float32(0.01)
    np.testing.assert_allclose(made, given @ matrix @ matrix @ matrix, rtol=1e-4)


def test_equal_small_constants_are_one_and_names_are_unique() -> None:
    network = Network("names", "nowhere")
    assert network.constant([1, 2], np.int64) == network.constant([1, 2], np.int64)
    assert network.constant([1, 2], np.int64) != network.constant([1, 2], np.int32)
    assert [network.unique("a") for _ in range(3)] == ["a", "a_1", "a_2"]


def test_an_array_of_objects_is_no_constant() -> None:
    with pytest.raises(ConversionError, match="object"):
        Network("objects", "nowhere").constant(np.array([{}], object))
