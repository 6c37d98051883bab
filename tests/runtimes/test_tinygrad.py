"""``tinygrad`` in a real worker: what its JIT records must follow inputs, shapes and branches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from workbench import Bench, adds_one, bench, unknown_operator

from portmatrix.types import Stage
from portmatrix.workers import Failure

#: All in one process, with the worker that they share.
pytestmark = pytest.mark.xdist_group("runtimes/tinygrad")


@pytest.fixture(scope="module")
def tinygrad(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """One worker for all tests."""
    with bench("tinygrad", "linux-x86_64", tmp_path_factory.mktemp("tinygrad")) as opened:
        yield opened


def branching(folder: Path) -> Path:
    """Return a model that gives ``x0``, of four numbers, whole where its first is positive, and else only its first."""
    value = helper.make_tensor_value_info
    zero, first = np.zeros(1, np.int64), numpy_helper.from_array(np.zeros(1, np.int64), "first")
    whole = helper.make_graph([helper.make_node("Identity", ["x0"], ["a"])], "whole", [], [value("a", 1, [4])])
    part = helper.make_graph([helper.make_node("Gather", ["x0", "first"], ["b"])], "part", [], [value("b", 1, [1])])
    nodes = [
        helper.make_node("Gather", ["x0", "index"], ["head"]),
        helper.make_node("Greater", ["head", "nothing"], ["positive"]),
        helper.make_node("If", ["positive"], ["y0"], then_branch=whole, else_branch=part),
    ]
    weights = [
        first,
        numpy_helper.from_array(zero[0], "index"),
        numpy_helper.from_array(np.float32(0), "nothing"),
    ]
    inputs, outputs = [value("x0", TensorProto.FLOAT, [4])], [value("y0", TensorProto.FLOAT, ["n"])]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, weights)
    file = folder / "branching.onnx"
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(file))
    return file


def test_what_the_jit_replays_follows_the_inputs(tinygrad: Bench, tmp_path: Path) -> None:
    rows = np.random.default_rng(3).normal(size=(5, 2, 3)).astype(np.float32)
    made = tinygrad.right(adds_one(tmp_path, 2), {"x0": rows})
    np.testing.assert_array_equal(made.outputs["y0"], rows + 1)
    assert made.degraded == ""


def test_an_if_is_decided_anew_in_every_call_and_that_is_said(tinygrad: Bench, tmp_path: Path) -> None:
    rows = np.arange(1, 17, dtype=np.float32).reshape(4, 4)
    made = tinygrad.right(branching(tmp_path), {"x0": rows})
    np.testing.assert_array_equal(made.outputs["y0"], rows)
    assert "Python decides an If" in made.degraded
    rows[:, 0] = -rows[:, 0]
    made = tinygrad.right(branching(tmp_path), {"x0": rows})
    np.testing.assert_array_equal(made.outputs["y0"], rows[:, :1])


def test_an_operator_that_it_does_not_have_is_found_when_it_is_run(tinygrad: Bench, tmp_path: Path) -> None:
    made = tinygrad.run(unknown_operator(tmp_path), {"x0": np.ones((1, 1), np.float32)})
    assert isinstance(made, Failure)
    assert (made.stage, made.fault) == (Stage.RUN, "model")
    assert "op='Nonsense' is not supported" in made.reason
