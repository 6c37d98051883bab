"""``ncnn`` in a real worker: networks written by hand, in its own format."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from workbench import LIMITS, Bench, bench

from portmatrix.types import Stage
from portmatrix.workers import Failure

#: All in one process, with the worker that they share.
pytestmark = pytest.mark.xdist_group("runtimes/ncnn")

#: A layer each: type, name, numbers of inputs and outputs, their names, and parameters by number.
RELU = "ReLU relu 1 1 in0 out0"
#: To 20 x 1, as pnnx writes the flattening of what has a batch of one.
FLATTEN = "Reshape flat 1 1 in0 out0 0=20 1=1"
#: A matrix product with four columns, without bias.
PRODUCT = "InnerProduct product 1 1 in0 out0 0=4 1=0 2=16"
UNKNOWN = "pnnx.Expression nothing 1 1 in0 out0"
ROWS = np.random.default_rng(7).normal(size=(2, 3, 4, 5)).astype(np.float32)


@pytest.fixture(scope="module")
def ncnn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """One worker for all tests."""
    with bench("ncnn", "linux-x86_64", tmp_path_factory.mktemp("ncnn")) as opened:
        yield opened


def network(folder: Path, layer: str, weights: bytes = b"") -> Path:
    """Return the graph of a network of one layer, with its weights beside it."""
    graph = folder / "model.ncnn.param"
    graph.write_text(f"7767517\n2 2\nInput in0 0 1 in0\n{layer}\n")
    graph.with_suffix(".bin").write_bytes(weights)
    return graph


def run(ncnn: Bench, graph: Path, rows: np.ndarray, shape: Sequence[int]) -> np.ndarray | Failure:
    """Return what it makes of stacked calls, where the reference's output of one call has ``shape``."""
    request = ncnn.request(graph, {"x": rows})
    outputs = [{"name": "y", "dtype": "float32", "shape": list(shape)}]
    request.update({"format": "ncnn", "signature": {**request["signature"], "outputs": outputs}})
    answer = ncnn.worker.ask(request, LIMITS)
    return answer if isinstance(answer, Failure) else np.load(Path(request["outputs"], answer["outputs"][0]["y"]))


def test_the_rows_of_a_batch_are_stacked_in_their_order(ncnn: Bench, tmp_path: Path) -> None:
    made = run(ncnn, network(tmp_path, RELU), ROWS, (3, 4, 5))
    np.testing.assert_array_equal(made, np.maximum(ROWS, 0))


def test_a_batch_of_one_that_a_flattening_layer_keeps_is_no_axis_of_a_row(ncnn: Bench, tmp_path: Path) -> None:
    graph = network(tmp_path, FLATTEN)
    np.testing.assert_array_equal(run(ncnn, graph, ROWS, (3, 20)), ROWS.reshape(2, 3, 20))
    np.testing.assert_array_equal(run(ncnn, graph, ROWS, (3, 1, 20)), ROWS.reshape(2, 3, 1, 20))


def test_a_shape_that_is_another_than_the_reference_s_stays_what_it_is(ncnn: Bench, tmp_path: Path) -> None:
    made = run(ncnn, network(tmp_path, RELU), ROWS, (3, 20))
    assert isinstance(made, np.ndarray)
    assert made.shape == ROWS.shape


def test_weights_keep_all_of_their_bits(ncnn: Bench, tmp_path: Path) -> None:
    """In half precision 1 + 2^-20 would be 1; ncnn stores weights so on processors that can, unless told not to."""
    weights = np.diag([1, 1 + 2**-20, 1 - 2**-20, 2**-20]).astype("<f4")
    made = run(ncnn, network(tmp_path, PRODUCT, bytes(4) + weights.tobytes()), np.ones((1, 1, 4), np.float32), (1, 4))
    np.testing.assert_array_equal(made, np.diag(weights)[None, None])


def test_a_layer_that_it_does_not_have_is_refused(ncnn: Bench, tmp_path: Path) -> None:
    made = run(ncnn, network(tmp_path, UNKNOWN), ROWS, (3, 4, 5))
    assert isinstance(made, Failure)
    assert (made.stage, made.fault) == (Stage.LOAD, "model")
    assert made.reason == "RuntimeError: ncnn does not read model.ncnn.param (status -1)"
    assert "pnnx.Expression" in made.log_tail
