"""``tvm`` in a real worker: ONNX graphs made on the spot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from workbench import VALUES, Bench, adds_one, awkward_names, bench, every_dtype, product, unknown_operator

from portmatrix.types import Stage
from portmatrix.workers import Failure

#: All in one process, with the worker that they share.
pytestmark = pytest.mark.xdist_group("runtimes/tvm")

HEADER = '<ir_version: 8, opset_import: ["" : 18]>\n'


@pytest.fixture(scope="module")
def tvm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """One worker for all tests."""
    with bench("tvm", "linux-x86_64", tmp_path_factory.mktemp("tvm")) as opened:
        yield opened


def saved(folder: Path, graph: str) -> Path:
    """Return the file of a graph that is written as text."""
    file = folder / "model.onnx"
    onnx.save(onnx.parser.parse_model(HEADER + graph), str(file))
    return file


def test_every_dtype_comes_back_as_it_went_in(tvm: Bench, tmp_path: Path) -> None:
    given = {f"in_{name}": np.array([values], name) for name, values in VALUES.items()}
    made = tvm.right(every_dtype(tmp_path), given).outputs
    for name, expected in given.items():
        value = made[name.replace("in_", "out_")]
        np.testing.assert_array_equal(value, expected)
        assert value.dtype == expected.dtype, name


def test_a_symbolic_axis_takes_every_length(tvm: Bench, tmp_path: Path) -> None:
    model = adds_one(tmp_path, 2)
    for rows in (1, 5, 16):
        x = np.arange(rows * 3, dtype=np.float32).reshape(1, rows, 3)
        np.testing.assert_array_equal(tvm.right(model, {"x0": x}).outputs["y0"], x + 1)


def test_outputs_keep_their_names_and_order(tvm: Bench, tmp_path: Path) -> None:
    a, b = np.array([[3.0]], np.float32), np.array([[1.0]], np.float32)
    made = tvm.right(awkward_names(tmp_path), {"__proto__": a, "2": b}).outputs
    assert {name: value.item() for name, value in made.items()} == {"10": 2.0, "2.out": -2.0, "1": 1.0}


def test_weights_in_a_file_beside_are_read(tvm: Bench, tmp_path: Path) -> None:
    x = np.arange(64, dtype=np.float32).reshape(1, 1, 64)
    np.testing.assert_array_equal(tvm.right(product(tmp_path, 64, beside=True), {"x0": x}).outputs["y0"], x)


def test_weights_that_are_listed_among_the_inputs_are_none(tvm: Bench, tmp_path: Path) -> None:
    model = saved(tmp_path, "model (float[2] x0, float[2] w = {3, 4}) => (float[2] y0) { y0 = Mul (x0, w) }")
    assert [item.name for item in onnx.load(str(model)).graph.input] == ["x0", "w"]
    made = tvm.right(model, {"x0": np.ones((1, 2), np.float32)})
    np.testing.assert_array_equal(made.outputs["y0"], [[3, 4]])


def test_what_is_left_to_numpy_is_told(tvm: Bench, tmp_path: Path) -> None:
    model = saved(tmp_path, "model (float[4] x0) => (int64[1,N] y0) { y0 = NonZero (x0) }")
    made = tvm.right(model, {"x0": np.array([[0, 2, 0, 1]], np.float32)})
    np.testing.assert_array_equal(made.outputs["y0"], [[[1, 3]]])
    assert made.degraded == "computes nonzero in numpy instead of compiled code"


def test_all_of_it_compiled_is_not_degraded(tvm: Bench, tmp_path: Path) -> None:
    assert tvm.right(product(tmp_path, 8), {"x0": np.ones((1, 2, 8), np.float32)}).degraded == ""


def test_more_threads_than_one_compute_the_same(tvm: Bench, tmp_path: Path) -> None:
    x = np.random.default_rng(3).normal(size=(1, 32, 128)).astype(np.float32)
    np.testing.assert_array_equal(tvm.right(product(tmp_path, 128, times=3), {"x0": x}, threads=2).outputs["y0"], x)


def test_an_operator_that_it_does_not_have_is_refused(tvm: Bench, tmp_path: Path) -> None:
    made = tvm.run(unknown_operator(tmp_path), {"x0": np.ones((1, 1), np.float32)})
    assert isinstance(made, Failure)
    assert (made.stage, made.fault) == (Stage.LOAD, "model")
    assert made.reason == "OpNotImplemented: The following operators are not supported for frontend ONNX: Nonsense"


def test_a_wrong_dtype_is_refused_and_not_cast(tvm: Bench, tmp_path: Path) -> None:
    made = tvm.run(adds_one(tmp_path, 1), {"x0": np.ones((1, 3), np.float64)})
    assert isinstance(made, Failure)
    assert made.stage is Stage.RUN
    assert "float64" in made.reason
