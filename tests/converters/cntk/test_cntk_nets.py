"""Networks that CNTK made, converted and run, against CNTK's own outputs, in batches other than CNTK's 1."""

from __future__ import annotations

from pathlib import Path

import cntk_nets
import numpy as np
import onnx
import pytest
from cntk_nets import difference, net

from portmatrix.converters import cntk, convert
from portmatrix.converters.network import BATCH

NAMES = cntk_nets.names()
#: What CNTK's file says is not quite what CNTK computes: ONNX's normalisation has another epsilon.
LOOSE = {"normal": 1e-4}
#: Runtime -> networks that it gets wrong or does not take, and why.
FAILS = {
    "reference": {
        "convnet": "its LRN runs over the batch where it means the channels",
        "loop_back": "its Scan runs forward only",
        "rnn": "its RNN runs forward only",
        "unpooled": "its MaxUnpool takes no output_shape of a larger batch",
    },
    "openvino": {
        "birnn": "a backward layer is wrong if a forward one reads the same input",
        "lstm_peepholes": "it leaves out the peepholes",
        "unpooled": "it has no MaxUnpool",
    },
}


@pytest.mark.parametrize("name", NAMES)
def test_the_outputs_are_those_of_cntk_in_any_batch(name: str, tmp_path: Path) -> None:
    """One conversion serves every batch, in ONNX Runtime."""
    given = net(name, tmp_path)
    cntk.convert([given.file], tmp_path / "any.onnx")
    run = cntk_nets.onnxruntime(tmp_path / "any.onnx")
    for rows in (slice(0, 3), slice(1, 2), slice(1, 3)):
        found = run({key: value[rows] for key, value in given.inputs.items()})
        assert difference(found, [value[rows] for value in given.outputs]) <= LOOSE.get(name, 1e-5)


@pytest.mark.parametrize("runtime", ["reference", "openvino"])
@pytest.mark.parametrize("name", NAMES)
def test_other_runtimes_agree(name: str, runtime: str, tmp_path: Path) -> None:
    """And so in onnx's evaluator and OpenVINO, but for what these cannot do."""
    if name in FAILS[runtime]:
        pytest.skip(FAILS[runtime][name])
    given = net(name, tmp_path)
    cntk.convert([given.file], tmp_path / "any.onnx")
    found = getattr(cntk_nets, runtime)(tmp_path / "any.onnx")(given.inputs)
    assert difference(found, given.outputs) <= LOOSE.get(name, 1e-5)


@pytest.mark.parametrize("name", ["attention", "convnet", "film", "letters", "loop", "reductions", "shapes", "top"])
def test_the_newest_operator_set_says_the_same(name: str, tmp_path: Path) -> None:
    """A conversion to the newest operator set gives the same outputs where ONNX Runtime has its operators."""
    given = net(name, tmp_path)
    newest = onnx.defs.onnx_opset_version()
    written = cntk.convert([given.file], tmp_path / "new.onnx", opset=newest)
    assert written.opset == newest
    found = cntk_nets.onnxruntime(tmp_path / "new.onnx")(given.inputs)
    assert difference(found, given.outputs) <= LOOSE.get(name, 1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written(name: str, tmp_path: Path) -> None:
    """The batch is symbolic and first, no initializer is an input, and names are CNTK's."""
    given = net(name, tmp_path)
    before, written = onnx.load(given.file), tmp_path / "any.onnx"
    convert([given.file], written)
    graph = onnx.load(written).graph
    constants = {tensor.name for tensor in before.graph.initializer}
    assert {value.name for value in graph.input} == {value.name for value in before.graph.input} - constants
    assert {value.name for value in graph.output} <= {value.name for value in before.graph.output}
    for value in (*graph.input, *graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param == BATCH


def test_a_fixed_batch_is_written_as_it_is_asked_for(tmp_path: Path) -> None:
    """``batch`` puts a number in the place of the symbol."""
    given = net("lstm", tmp_path)
    cntk.convert([given.file], tmp_path / "two.onnx", batch=2)
    graph = onnx.load(tmp_path / "two.onnx").graph
    assert [value.type.tensor_type.shape.dim[0].dim_value for value in (*graph.input, *graph.output)] == [2, 2]
    rows = {key: value[:2] for key, value in given.inputs.items()}
    found = cntk_nets.onnxruntime(tmp_path / "two.onnx")(rows)
    assert difference(found, [value[:2] for value in given.outputs]) <= 1e-5


def test_a_sequence_may_be_of_any_length(tmp_path: Path) -> None:
    """The time axis is symbolic: what a network says of three steps is what it says of them among five."""
    given = net("lstm_peepholes", tmp_path)
    cntk.convert([given.file], tmp_path / "any.onnx")
    run = cntk_nets.onnxruntime(tmp_path / "any.onnx")
    (x,) = given.inputs.values()
    (found,) = run({"x": x[:, :3]})
    np.testing.assert_allclose(found, given.outputs[0][:, :3], rtol=0, atol=1e-6)


def test_constants_are_folded_and_states_of_zeros_left_out(tmp_path: Path) -> None:
    """What other runtimes read too: no reshaped weights, no first states, no activations that are the usual ones."""
    given = net("lstm", tmp_path)
    written = cntk.convert([given.file], tmp_path / "any.onnx")
    nodes = onnx.load(tmp_path / "any.onnx").graph.node
    layers = [node for node in nodes if node.op_type == "LSTM"]
    assert [len(node.input) for node in layers] == [4, 4]
    assert {item.name for node in layers for item in node.attribute} == {"hidden_size", "direction"}
    assert written.operators == {"LSTM": 2, "Reshape": 2, "Transpose": 1}
