"""``iree`` in a real worker: ONNX graphs and modules of StableHLO made on the spot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from workbench import LIMITS, VALUES, Bench, adds_one, awkward_names, bench, every_dtype, product

from portmatrix.types import Stage
from portmatrix.workers import Failure

#: All in one process, with the worker that they share.
pytestmark = pytest.mark.xdist_group("runtimes/iree")

HEADER = '<ir_version: 8, opset_import: ["" : 18]>\n'
#: Two inputs and two outputs, which the module calls by no name: ``y`` = 2 ``x``, ``z`` = ``x`` - ``w``.
STABLEHLO = """func.func @main(%a: tensor<2xf32>, %b: tensor<2xf32>) -> (tensor<2xf32>, tensor<2xf32>) {
  %twice = stablehlo.add %a, %a : tensor<2xf32>
  %less = stablehlo.subtract %a, %b : tensor<2xf32>
  return %twice, %less : tensor<2xf32>, tensor<2xf32>
}
"""


@pytest.fixture(scope="module")
def iree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """One worker for all tests."""
    with bench("iree", "linux-x86_64", tmp_path_factory.mktemp("iree")) as opened:
        yield opened


def saved(folder: Path, graph: str) -> Path:
    """Return the file of a graph that is written as text."""
    file = folder / "model.onnx"
    onnx.save(onnx.parser.parse_model(HEADER + graph), str(file))
    return file


def test_every_dtype_comes_back_as_it_went_in(iree: Bench, tmp_path: Path) -> None:
    given = {f"in_{name}": np.array([values], name) for name, values in VALUES.items()}
    made = ask(iree, every_dtype(tmp_path), given)
    for name, expected in given.items():
        value = made[name.replace("in_", "out_")]
        np.testing.assert_array_equal(value, expected)
        assert value.dtype == expected.dtype, name


def test_a_symbolic_axis_takes_every_length(iree: Bench, tmp_path: Path) -> None:
    model = adds_one(tmp_path, 2)
    for rows in (1, 5, 16):
        x = np.arange(rows * 3, dtype=np.float32).reshape(1, rows, 3)
        np.testing.assert_array_equal(ask(iree, model, {"x0": x})["y0"], x + 1)


def test_outputs_keep_their_names_and_order(iree: Bench, tmp_path: Path) -> None:
    a, b = np.array([[3.0]], np.float32), np.array([[1.0]], np.float32)
    made = ask(iree, awkward_names(tmp_path), {"__proto__": a, "2": b})
    assert {name: value.item() for name, value in made.items()} == {"10": 2.0, "2.out": -2.0, "1": 1.0}


def test_weights_in_a_file_beside_are_read(iree: Bench, tmp_path: Path) -> None:
    x = np.arange(64, dtype=np.float32).reshape(1, 1, 64)
    np.testing.assert_array_equal(ask(iree, product(tmp_path, 64, beside=True), {"x0": x})["y0"], x)


def test_float64_is_computed_in_float64(iree: Bench, tmp_path: Path) -> None:
    model = saved(tmp_path, "model (double[2] x0) => (double[2] y0) { y0 = Mul (x0, x0) }")
    x = np.array([[1 / 3, 1 + 2**-40]])
    np.testing.assert_array_equal(ask(iree, model, {"x0": x})["y0"], x * x)


def test_more_threads_than_one_compute_the_same(iree: Bench, tmp_path: Path) -> None:
    x = np.random.default_rng(3).normal(size=(1, 32, 128)).astype(np.float32)
    np.testing.assert_array_equal(ask(iree, product(tmp_path, 128, times=3), {"x0": x}, threads=2)["y0"], x)


def test_stablehlo_has_the_names_of_the_reference_by_position(iree: Bench, tmp_path: Path) -> None:
    # iree-compile tells bytecode from text by itself.
    (tmp_path / "model.mlirbc").write_text(STABLEHLO)
    x, w = np.array([[1.0, 2.0]], np.float32), np.array([[5.0, 7.0]], np.float32)
    request = iree.request(tmp_path / "model.mlirbc", {"x": x, "w": w})
    request["signature"]["outputs"] = [{"name": "y"}, {"name": "z"}]
    answer = iree.worker.ask({**typed(request), "entry": str(tmp_path), "format": "stablehlo"}, LIMITS)
    assert not isinstance(answer, Failure), answer
    made = {name: np.load(Path(request["outputs"], file)) for name, file in answer["outputs"][0].items()}
    np.testing.assert_array_equal(made["y"], 2 * x)
    np.testing.assert_array_equal(made["z"], x - w)


def test_the_reason_is_the_compiler_s_first_error_and_the_operator(iree: Bench, tmp_path: Path) -> None:
    graph = "model (float[2] x0) => (float[2] y0) { y0 = here.Nonsense (x0) }"
    file = tmp_path / "model.onnx"
    onnx.save(onnx.parser.parse_model(HEADER.replace("18]", '18, "here" : 1]') + graph), str(file))
    made = iree.worker.ask(typed(iree.request(file, {"x0": np.ones((1, 2), np.float32)})), LIMITS)
    assert isinstance(made, Failure)
    assert (made.stage, made.fault) == (Stage.LOAD, "model")
    assert made.reason == (
        "RuntimeError: iree-compile says: failed to legalize operation 'torch.operator' that was explicitly marked "
        "illegal (onnx.Nonsense)"
    )
    assert "Invoked with:" in made.log_tail


def test_what_is_no_module_is_refused(iree: Bench, tmp_path: Path) -> None:
    (tmp_path / "model.mlirbc").write_text("This is no model.")
    request = typed(iree.request(tmp_path / "model.mlirbc", {"x0": np.ones((1, 1), np.float32)}))
    made = iree.worker.ask({**request, "entry": str(tmp_path), "format": "stablehlo"}, LIMITS)
    assert isinstance(made, Failure)
    assert made.stage is Stage.LOAD
    assert made.reason.startswith("RuntimeError: iree-compile says: custom op 'This' is unknown")


def test_a_wrong_dtype_is_refused_and_not_cast(iree: Bench, tmp_path: Path) -> None:
    request = typed(iree.request(adds_one(tmp_path, 1), {"x0": np.ones((1, 3), np.float64)}))
    made = iree.worker.ask(request, LIMITS)
    assert isinstance(made, Failure)
    assert made.stage is Stage.RUN
    assert "tensor element type mismatch" in made.reason


def typed(request: dict[str, Any]) -> dict[str, Any]:
    """Return the request with the dtype that the reference has in its signature: float32 for all."""
    tensors = {kind: [{**item, "dtype": "float32"} for item in listed] for kind, listed in request["signature"].items()}
    return {**request, "signature": tensors}


def ask(iree: Bench, model: Path, inputs: dict[str, np.ndarray], threads: int = 1) -> dict[str, np.ndarray]:
    """Return what it makes of stacked calls; fails the test where it makes nothing."""
    request = typed(iree.request(model, inputs, threads))
    answer = iree.worker.ask(request, LIMITS)
    assert not isinstance(answer, Failure), answer
    assert answer["degraded"] == ""
    return {name: np.load(Path(request["outputs"], file)) for name, file in answer["outputs"][0].items()}
