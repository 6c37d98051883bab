"""Pairs of Transpose: which go, which stay, and that what is left computes the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from portmatrix.converters.network import BATCH, Network

X = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)


def operators(network: Network, folder: Path, wanted: np.ndarray) -> list[str]:
    """Return the operators that are left, after a look whether they compute ``wanted``."""
    network.save(folder / "m.onnx")
    model = onnx.load(folder / "m.onnx")
    np.testing.assert_allclose(ReferenceEvaluator(model).run(None, {"x": X})[0], wanted, rtol=1e-6)
    return [node.op_type for node in model.graph.node]


def turned(*between: str, perm: tuple[int, ...] = (0, 2, 1)) -> tuple[Network, str]:
    network = Network("turns", "nowhere")
    x = network.input("x", np.float32, (BATCH, 3, 4))
    value = network.node("Transpose", [x], perm=[0, 2, 1])
    for operator in between:
        value = network.node(operator, [value])
    return network, network.node("Transpose", [value], perm=list(perm))


@pytest.mark.parametrize("between", [(), ("Relu",), ("Relu", "Neg", "Abs")])
def test_a_pair_that_undoes_itself_goes(tmp_path: Path, between: tuple[str, ...]) -> None:
    network, value = turned(*between)
    network.output(value, np.float32, (BATCH, 3, 4))
    wanted = X
    for operator in between:
        wanted = {"Relu": np.maximum(wanted, 0), "Neg": -wanted, "Abs": np.abs(wanted)}[operator]
    assert "Transpose" not in operators(network, tmp_path, wanted)


def test_three_in_a_row_leave_one(tmp_path: Path) -> None:
    network, value = turned("Relu")
    value = network.node("Transpose", [network.node("Neg", [value])], perm=[0, 2, 1])
    network.output(value, np.float32, (BATCH, 4, 3))
    left = operators(network, tmp_path, -np.maximum(X, 0).transpose(0, 2, 1))
    assert left.count("Transpose") == 1


def test_a_pair_whose_middle_is_read_by_others_stays(tmp_path: Path) -> None:
    network, value = turned("Relu")
    middle = next(node for node in network.nodes if node.op_type == "Relu").output[0]
    network.output(value, np.float32, (BATCH, 3, 4))
    network.output(middle, np.float32, (BATCH, 4, 3))
    assert operators(network, tmp_path, np.maximum(X, 0)).count("Transpose") == 2


@pytest.mark.parametrize(("between", "perm"), [(("Relu",), (1, 2, 0)), (("Softmax",), (0, 2, 1))])
def test_what_does_not_undo_itself_stays(tmp_path: Path, between: tuple[str, ...], perm: tuple[int, ...]) -> None:
    network, value = turned(*between, perm=perm)
    network.output(value, np.float32, None)
    wanted = X.transpose(0, 2, 1)
    wanted = np.maximum(wanted, 0) if between == ("Relu",) else np.exp(wanted) / np.exp(wanted).sum(-1, keepdims=True)
    assert operators(network, tmp_path, wanted.transpose(perm)).count("Transpose") == 2
