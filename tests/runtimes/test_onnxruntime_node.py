"""``onnxruntime-node`` in a real worker and a real Node.js; every fault is caused."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import workbench
from tiny_suite import eventually
from workbench import ONE, VALUES, Bench, bench, living

from portmatrix.types import Stage
from portmatrix.workers import Failure

#: All in one process, with the worker that they share.
pytestmark = pytest.mark.xdist_group("runtimes/onnxruntime-node")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """One worker for all tests that leave it alive, or do not mind another."""
    with bench("onnxruntime-node", "node", tmp_path_factory.mktemp("node")) as opened:
        yield opened


def child(node: Bench) -> psutil.Process:
    """Return the Node.js of the worker."""
    return node.process("--eval", "onnxruntime-node")


# --- Answers --------------------------------------------------------------------------------------------------------


def test_every_dtype_is_handed_over_byte_by_byte(node: Bench, tmp_path: Path) -> None:
    given = {f"in_{name}": np.array([value, value[::-1]], name) for name, value in VALUES.items()}
    made = node.right(workbench.every_dtype(tmp_path), given).outputs
    for name in VALUES:
        assert made[f"out_{name}"].dtype.name == name
        assert made[f"out_{name}"].tobytes() == given[f"in_{name}"].tobytes(), name


def test_every_shape_comes_back(node: Bench, tmp_path: Path) -> None:
    shapes: list[tuple[int, ...]] = [(), (0,), (3, 0, 2), (2, 3, 4, 5)]
    given = {
        f"x{number}": np.arange(2 * np.prod(shape, dtype=int), dtype=np.float32).reshape(2, *shape)
        for number, shape in enumerate(shapes)
    }
    made = node.right(workbench.adds_one(tmp_path, *map(len, shapes)), given).outputs
    for number, shape in enumerate(shapes):
        assert made[f"y{number}"].shape == (2, *shape)
        assert np.array_equal(made[f"y{number}"], given[f"x{number}"] + 1)


def test_names_and_their_order_are_the_models_own(node: Bench, tmp_path: Path) -> None:
    given = {"__proto__": np.full((1, 2), 7, np.float32), "2": np.full((1, 2), 3, np.float32)}
    made = node.right(workbench.awkward_names(tmp_path), given).outputs
    assert {name: value[0].tolist() for name, value in made.items()} == {"10": [4, 4], "2.out": [-4, -4], "1": [3, 3]}


def test_weights_in_a_file_beside_the_model(node: Bench, tmp_path: Path) -> None:
    given = {"x0": np.arange(4, dtype=np.float32).reshape(1, 1, 4)}
    made = node.right(workbench.product(tmp_path, 4, beside=True), given).outputs["y0"]
    assert np.array_equal(made, given["x0"])


def test_one_model_after_another_in_one_nodejs(node: Bench, tmp_path: Path) -> None:
    first = workbench.adds_one(tmp_path, 1)
    node.right(first, {"x0": np.ones((1, 3), np.float32)})
    before = child(node).pid
    node.right(workbench.product(tmp_path, 2), {"x0": np.ones((3, 1, 2), np.float32)})
    again = node.right(first, {"x0": np.full((1, 5), 2, np.float32)})
    assert again.outputs["y0"].tolist() == [[3] * 5]
    assert child(node).pid == before


def test_sessions_that_nobody_has_are_given_back(node: Bench, tmp_path: Path) -> None:
    model = workbench.product(tmp_path, 2048)  # 16 MiB of weights
    given = {"x0": np.ones((1, 1, 2048), np.float32)}
    for _ in range(5):
        node.right(model, given)
    before = child(node).memory_info().rss
    for _ in range(20):
        node.right(model, given)
    assert child(node).memory_info().rss < before + (160 << 20)


@pytest.mark.skipif(sys.platform != "linux", reason="threads of other processes are counted by the means of Linux")
def test_uses_as_many_threads_as_asked_for(node: Bench, tmp_path: Path) -> None:
    model = workbench.product(tmp_path, 256)
    given = {"x0": np.ones((1, 256, 256), np.float32)}
    node.right(model, given, threads=1)
    alone = child(node).num_threads()
    node.right(model, given, threads=4)
    assert child(node).num_threads() == alone + 3


def test_says_what_it_ran_with(node: Bench) -> None:
    told = node.worker.environment
    required = dict(item.split("@") for item in node.npm)
    itself = subprocess.run([node.env["PORTMATRIX_NODE"], "--version"], capture_output=True, check=True, text=True)
    assert f"v{told['node']}" == itself.stdout.strip()
    assert told["onnxruntime-node"] == required["onnxruntime-node"]
    # The library says so itself; the package of a version carries the library of that version.
    assert told["onnxruntime"] == required["onnxruntime-node"]


def test_nothing_is_reported_to_its_maker(node: Bench, tmp_path: Path) -> None:
    node.right(workbench.adds_one(tmp_path, 1), ONE)
    assert [item.name for item in node.home.iterdir()] == ["worker.log"]


# --- Refusals -------------------------------------------------------------------------------------------------------


def test_a_wrong_dtype_is_refused_in_its_own_words(node: Bench, tmp_path: Path) -> None:
    made = node.run(workbench.adds_one(tmp_path, 1), {"x0": np.ones((1, 1), np.float64)})
    assert isinstance(made, Failure)
    assert (made.stage, made.fault) == (Stage.RUN, "model")
    assert "Unexpected input data type" in made.reason
    assert "expected: (tensor(float))" in made.reason


def test_a_wrong_shape_is_refused_in_its_own_words(node: Bench, tmp_path: Path) -> None:
    made = node.run(workbench.adds_one(tmp_path, 2), ONE)
    assert isinstance(made, Failure)
    assert (made.stage, made.fault) == (Stage.RUN, "model")
    assert "Invalid rank for input: x0" in made.reason


def test_a_dtype_that_it_has_not_is_refused(node: Bench, tmp_path: Path) -> None:
    made = node.run(workbench.adds_one(tmp_path, 1), {"x0": np.ones((1, 1), np.complex64)})
    assert isinstance(made, Failure)
    assert (made.stage, made.fault) == (Stage.RUN, "model")
    assert "input x0: onnxruntime-node has no tensors of complex64" in made.reason


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (workbench.unknown_operator, "Nonsense"),
        (workbench.junk, "Protobuf parsing failed"),
        (lambda folder: folder / "missing.onnx", "missing.onnx"),
    ],
    ids=["unknown operator", "junk", "missing"],
)
def test_a_model_that_does_not_load_is_refused_in_its_own_words(
    node: Bench, tmp_path: Path, make: Callable[[Path], Path], words: str
) -> None:
    good = workbench.adds_one(tmp_path, 1)
    node.right(good, ONE)
    before = child(node).pid
    made = node.run(make(tmp_path), ONE)
    assert isinstance(made, Failure)
    assert (made.stage, made.fault) == (Stage.LOAD, "model")
    assert words in made.reason
    node.right(good, ONE)
    assert child(node).pid == before


# --- Deaths ---------------------------------------------------------------------------------------------------------


def test_a_nodejs_that_dies_at_work_is_a_failure_with_its_signal(node: Bench, tmp_path: Path) -> None:
    model = workbench.endless(tmp_path)
    made = node.during_run(model, lambda: child(node), lambda: child(node).send_signal(signal.SIGSEGV))
    assert isinstance(made, Failure)
    assert (made.stage, made.fault) == (Stage.RUN, "model")
    assert made.reason == "RuntimeError: Node.js died of SIGSEGV (signal 11)"
    assert node.worker.alive
    node.right(workbench.adds_one(tmp_path, 1), ONE)


def test_a_nodejs_that_died_in_between_costs_nothing(node: Bench, tmp_path: Path) -> None:
    model = workbench.adds_one(tmp_path, 1)
    node.right(model, ONE)
    died = child(node)
    died.kill()
    eventually(lambda: not living(died), "Node.js to be gone")
    node.right(model, ONE)
    assert child(node).pid != died.pid


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
@pytest.mark.parametrize("at_work", [False, True], ids=["idle", "at work"])
def test_nothing_is_left_of_a_worker_that_was_killed(node: Bench, tmp_path: Path, *, at_work: bool) -> None:
    # The worker alone, not its process group: so it is when the engine dies.
    if at_work:
        started: list[psutil.Process] = []

        def kill() -> None:
            started.extend(node.processes())
            os.kill(node.worker._process.pid, signal.SIGKILL)

        made = node.during_run(workbench.endless(tmp_path), lambda: child(node), kill)
        assert isinstance(made, Failure)
        assert made.reason == "the worker died of SIGKILL (signal 9)"
    else:
        node.right(workbench.adds_one(tmp_path, 1), ONE)
        started = node.processes()
        os.kill(node.worker._process.pid, signal.SIGKILL)
    assert started
    eventually(lambda: not any(map(living, started)), "all processes to be gone")


def test_nothing_is_left_of_a_worker_that_was_closed(tmp_path: Path) -> None:
    with bench("onnxruntime-node", "node", tmp_path) as node:
        node.right(workbench.adds_one(tmp_path, 1), ONE)
        started = node.processes()
        begin = time.monotonic()
        node.worker.close()
        # A worker that does not end by itself is killed after five seconds.
        assert time.monotonic() < begin + 5
        assert started
        assert not any(map(living, started))


def test_a_package_without_a_binary_for_this_platform_is_a_failure(node: Bench, tmp_path: Path) -> None:
    modules = tmp_path / "node_modules"
    shutil.copytree(node.env["PORTMATRIX_NODE_MODULES"], modules, ignore=shutil.ignore_patterns("bin"))
    env = {"PORTMATRIX_NODE_MODULES": str(modules)}
    with bench("onnxruntime-node", "node", tmp_path / "bench", env=env) as without:
        made = without.run(workbench.adds_one(tmp_path, 1), ONE)
    assert isinstance(made, Failure)
    assert (made.stage, made.fault) == (Stage.LOAD, "model")
    assert "onnxruntime_binding.node" in made.reason


def test_a_nodejs_that_does_not_start_is_no_fault_of_a_model(tmp_path: Path) -> None:
    with bench("onnxruntime-node", "node", tmp_path, env={"PORTMATRIX_NODE": shutil.which("false") or ""}) as node:
        assert isinstance(node.started, Failure)
        assert (node.started.stage, node.started.fault) == (Stage.PREPARE, "harness")
        assert node.started.reason == "RuntimeError: Node.js ended itself with status 1"
