"""``onnxruntime-web`` in a real worker, in a real Chromium and in a real Node.js; every fault is caused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import psutil
import pytest
import workbench
from tiny_suite import eventually
from workbench import ONE, SUITE, VALUES, Bench, bench, living

from portmatrix.types import Stage
from portmatrix.workers import Failure

#: All in one process, with the workers that they share.
pytestmark = pytest.mark.xdist_group("runtimes/onnxruntime-web")
#: Every runtime of the file on every target that it runs on.
PLACES = [
    ("onnxruntime-web", "browser"),
    ("onnxruntime-web-threads", "browser"),
    ("onnxruntime-web-webgpu", "browser"),
    ("onnxruntime-web", "node"),
    ("onnxruntime-web-threads", "node"),
]
#: Where what does not depend on the kind is tried: a browser, and Node.js.
ONE_OF_EACH = [("onnxruntime-web", "browser"), ("onnxruntime-web", "node")]
in_both = pytest.mark.parametrize("web", ONE_OF_EACH, indirect=True, ids="-in-".join)
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into other processes by the means of Linux")


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str, str], Bench]]:
    """Workers for all tests that leave them alive, or do not mind another."""
    opened: dict[tuple[str, str], Bench] = {}
    with ExitStack() as stack:

        def make(name: str, target: str) -> Bench:
            if (name, target) not in opened:
                opened[name, target] = stack.enter_context(bench(name, target, tmp_path_factory.mktemp(name)))
            return opened[name, target]

        yield make


@pytest.fixture(params=PLACES, ids="-in-".join)
def web(request: pytest.FixtureRequest, benches: Callable[[str, str], Bench]) -> Bench:
    """A worker for each of the places."""
    return benches(*request.param)


@pytest.fixture
def browser(benches: Callable[[str, str], Bench]) -> Bench:
    """A worker with WebAssembly of one thread in a browser."""
    return benches("onnxruntime-web", "browser")


@pytest.fixture
def node(benches: Callable[[str, str], Bench]) -> Bench:
    """A worker with WebAssembly of one thread in Node.js."""
    return benches("onnxruntime-web", "node")


def chromium(web: Bench) -> psutil.Process:
    """Return the browser's own process, the parent of all its others."""
    (found,) = [
        item
        for item in web.processes()
        if "--remote-debugging-pipe" in item.cmdline()
        and not any(part.startswith("--type=") for part in item.cmdline())
    ]
    return found


def driver(web: Bench) -> psutil.Process:
    """Return the process that drives the browser."""
    return web.process("run-driver")


def at_work(web: Bench) -> psutil.Process:
    """Return the process that computes: of a browser the one of its tab, which has used the processor most."""
    kind = "--type=renderer" if any("run-driver" in item.cmdline() for item in web.processes()) else "--eval"
    found = [item for item in web.processes() if kind in item.cmdline()]
    return max(found, key=lambda item: item.cpu_times().user)


# --- Answers --------------------------------------------------------------------------------------------------------


def test_every_dtype_is_handed_over_byte_by_byte(web: Bench, tmp_path: Path) -> None:
    given = {f"in_{name}": np.array([value, value[::-1]], name) for name, value in VALUES.items()}
    made = web.right(workbench.every_dtype(tmp_path), given).outputs
    for name in VALUES:
        assert made[f"out_{name}"].dtype.name == name
        assert made[f"out_{name}"].tobytes() == given[f"in_{name}"].tobytes(), name


def test_every_shape_comes_back(web: Bench, tmp_path: Path) -> None:
    shapes: list[tuple[int, ...]] = [(), (0,), (3, 0, 2), (2, 3, 4, 5)]
    given = {
        f"x{number}": np.arange(2 * np.prod(shape, dtype=int), dtype=np.float32).reshape(2, *shape)
        for number, shape in enumerate(shapes)
    }
    made = web.right(workbench.adds_one(tmp_path, *map(len, shapes)), given).outputs
    for number, shape in enumerate(shapes):
        assert made[f"y{number}"].shape == (2, *shape)
        assert np.array_equal(made[f"y{number}"], given[f"x{number}"] + 1)


def test_names_and_their_order_are_the_models_own(web: Bench, tmp_path: Path) -> None:
    given = {"__proto__": np.full((1, 2), 7, np.float32), "2": np.full((1, 2), 3, np.float32)}
    made = web.right(workbench.awkward_names(tmp_path), given).outputs
    assert {name: value[0].tolist() for name, value in made.items()} == {"10": [4, 4], "2.out": [-4, -4], "1": [3, 3]}


@in_both
def test_weights_in_a_file_beside_the_model(web: Bench, tmp_path: Path) -> None:
    given = {"x0": np.arange(4, dtype=np.float32).reshape(1, 1, 4)}
    made = web.right(workbench.product(tmp_path, 4, beside=True), given).outputs["y0"]
    assert np.array_equal(made, given["x0"])


@in_both
def test_tensors_of_many_megabytes_are_handed_over(web: Bench, tmp_path: Path) -> None:
    given = {
        "x0": np.arange(1 << 22, dtype=np.float32).reshape(1, -1),
        "x1": np.zeros((1, 1), np.float32),
        "x2": -np.arange(1 << 20, dtype=np.float32).reshape(1, -1),
    }
    made = web.right(workbench.adds_one(tmp_path, 1, 1, 1), given).outputs
    for number in range(3):
        assert np.array_equal(made[f"y{number}"], given[f"x{number}"] + 1)


@in_both
def test_one_model_after_another(web: Bench, tmp_path: Path) -> None:
    first = workbench.adds_one(tmp_path, 1)
    web.right(first, ONE)
    worker = web.worker
    web.right(workbench.product(tmp_path, 2), {"x0": np.ones((3, 1, 2), np.float32)})
    again = web.right(first, {"x0": np.full((1, 5), 2, np.float32)})
    assert again.outputs["y0"].tolist() == [[3] * 5]
    assert web.worker is worker


@in_both
def test_what_a_model_had_is_given_back(web: Bench, tmp_path: Path) -> None:
    model = workbench.adds_one(tmp_path, 1)
    for _ in range(2):
        web.right(model, ONE)
    before = len(web.processes())
    for _ in range(4):
        web.right(model, ONE)
    # One more may be on its way out, and one more on its way in: a browser keeps a spare for the next tab.
    assert len(web.processes()) <= before + 2


# --- As asked for ---------------------------------------------------------------------------------------------------


@on_linux
@pytest.mark.parametrize("target", ["browser", "node"])
@pytest.mark.parametrize(("name", "expected"), [("onnxruntime-web", 1), ("onnxruntime-web-threads", 4)])
def test_computes_with_the_threads_of_its_kind(
    benches: Callable[[str, str], Bench], tmp_path: Path, target: str, name: str, expected: int
) -> None:
    web = benches(name, target)
    model, ones = workbench.product(tmp_path, 512, times=30), {"x0": np.ones((3, 512, 512), np.float32)}
    # On a busy machine one thread may have done all of it before another has come to its share; not again and again.
    for _ in range(5):
        assert web.right(model, ones).degraded == ""
        spent = sorted(thread.user_time + thread.system_time for thread in at_work(web).threads())
        # Threads that compile WebAssembly have their share, but not a quarter of what computing takes.
        worked = sum(time > spent[-1] / 4 for time in spent)
        if worked > 1 or expected == 1:
            break
    assert worked > 1 if expected > 1 else worked == 1


@pytest.mark.parametrize("target", ["browser", "node"])
def test_says_that_it_has_one_thread_where_more_are_asked_for(
    benches: Callable[[str, str], Bench], tmp_path: Path, target: str
) -> None:
    made = benches("onnxruntime-web", target).right(workbench.adds_one(tmp_path, 1), ONE, threads=3)
    assert made.degraded == "uses 1 of 3 threads"


def test_says_that_a_page_which_is_not_isolated_has_no_threads(tmp_path: Path) -> None:
    file = tmp_path / "onnxruntime-web.py"
    source = SUITE.plugins.runtimes["onnxruntime-web"].file.read_text(encoding="utf-8")
    file.write_text(source.replace("headers=ISOLATION", "headers={}"), encoding="utf-8")
    with bench("onnxruntime-web-threads", "browser", tmp_path, file=file) as web:
        made = web.right(workbench.adds_one(tmp_path, 1), ONE)
    assert made.degraded == ("uses 1 of 4 threads: the page is not isolated, and has no memory that threads can share")


def test_says_what_webgpu_leaves_to_the_processor(benches: Callable[[str, str], Bench], tmp_path: Path) -> None:
    web = benches("onnxruntime-web-webgpu", "browser")
    small = web.right(workbench.product(tmp_path, 4), {"x0": np.ones((1, 1, 4), np.float32)})
    assert "WebAssembly" not in small.degraded
    given = {f"in_{name}": np.array([value], name) for name, value in VALUES.items()}
    assert (
        "WebAssembly does what WebGPU has no kernel for: Identity"
        in web.right(workbench.every_dtype(tmp_path), given).degraded
    )


@pytest.mark.skipif(sys.platform != "linux" or Path("/dev/dri").exists(), reason="there may be a graphics processor")
def test_says_that_webgpu_is_software_without_a_graphics_processor(
    benches: Callable[[str, str], Bench], tmp_path: Path
) -> None:
    web = benches("onnxruntime-web-webgpu", "browser")
    made = web.right(workbench.adds_one(tmp_path, 1), ONE)
    assert made.degraded.startswith("WebGPU runs in software (")


# --- What it says of itself -----------------------------------------------------------------------------------------


def test_says_what_it_ran_with(web: Bench, benches: Callable[[str, str], Bench]) -> None:
    told = web.worker.environment
    required = dict(item.split("@") for item in web.npm)
    assert told["onnxruntime-web"] == required["onnxruntime-web"]
    name, variable = ("browser", "PORTMATRIX_BROWSER") if "browser" in told else ("node", "PORTMATRIX_NODE")
    itself = subprocess.run([web.env[variable], "--version"], capture_output=True, check=True, text=True).stdout
    assert told[name].split()[-1] in itself
    assert ("webgpu" in told) == (web is benches("onnxruntime-web-webgpu", "browser"))


def test_nodejs_has_no_webgpu(tmp_path: Path) -> None:
    with bench("onnxruntime-web-webgpu", "node", tmp_path) as node:
        assert isinstance(node.started, Failure)
        assert node.started.unavailable
        assert node.started.reason == "Node.js has no WebGPU"


@on_linux
def test_a_browser_without_an_adapter_has_no_webgpu(browser: Bench, tmp_path: Path) -> None:
    program = browser.env["PORTMATRIX_BROWSER"]
    without = _script(tmp_path, f'exec "{program}" "$@" --disable-gpu --disable-software-rasterizer')
    with bench("onnxruntime-web-webgpu", "browser", tmp_path / "bench", env={"PORTMATRIX_BROWSER": without}) as web:
        assert isinstance(web.started, Failure)
        assert web.started.unavailable
        assert web.started.reason == "the browser finds no WebGPU adapter on this machine"


@on_linux
def test_a_browser_that_does_not_start_is_no_fault_of_a_model(tmp_path: Path) -> None:
    env = {"PORTMATRIX_BROWSER": _script(tmp_path, "echo no display of any sort >&2; exit 3")}
    with bench("onnxruntime-web", "browser", tmp_path / "bench", env=env) as web:
        assert isinstance(web.started, Failure)
        assert (web.started.stage, web.started.fault) == (Stage.PREPARE, "harness")
        assert web.started.reason == "RuntimeError: the browser did not start: no display of any sort"


def _script(folder: Path, line: str) -> str:
    """Return a program that is a line for the shell."""
    file = folder / "browser"
    file.write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
    file.chmod(0o755)
    return str(file)


# --- Refusals -------------------------------------------------------------------------------------------------------


@in_both
def test_a_wrong_dtype_is_refused_in_its_own_words(web: Bench, tmp_path: Path) -> None:
    made = web.run(workbench.adds_one(tmp_path, 1), {"x0": np.ones((1, 1), np.float64)})
    assert isinstance(made, Failure)
    assert (made.stage, made.fault) == (Stage.RUN, "model")
    assert "Unexpected input data type" in made.reason


@in_both
def test_a_dtype_that_it_has_not_is_refused(web: Bench, tmp_path: Path) -> None:
    made = web.run(workbench.adds_one(tmp_path, 1), {"x0": np.ones((1, 1), np.complex64)})
    assert isinstance(made, Failure)
    assert (made.stage, made.fault) == (Stage.RUN, "model")
    assert "input x0: onnxruntime-web has no tensors of complex64" in made.reason


@in_both
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (workbench.unknown_operator, "Nonsense"),
        (workbench.junk, "protobuf parsing failed"),
        (lambda folder: folder / "missing.onnx", "missing.onnx is not there"),
    ],
    ids=["unknown operator", "junk", "missing"],
)
def test_a_model_that_does_not_load_is_refused_in_its_own_words(
    web: Bench, tmp_path: Path, make: Callable[[Path], Path], words: str
) -> None:
    made = web.run(make(tmp_path), ONE)
    assert isinstance(made, Failure)
    assert (made.stage, made.fault) == (Stage.LOAD, "model")
    assert words in made.reason
    web.right(workbench.adds_one(tmp_path, 1), ONE)


@in_both
def test_a_model_that_wants_more_memory_than_there_can_be(web: Bench, tmp_path: Path) -> None:
    worker = web.worker
    made = web.run(workbench.huge(tmp_path), {"x0": np.array([[1 << 34]], np.int64)})
    assert isinstance(made, Failure)
    assert (made.stage, made.fault) == (Stage.RUN, "model")
    web.right(workbench.adds_one(tmp_path, 1), ONE)
    assert web.worker is worker


# --- Deaths ---------------------------------------------------------------------------------------------------------


def _dies(web: Bench, folder: Path, victim: Callable[[], psutil.Process], number: int = 9) -> Failure:
    """Return how a run ends in whose middle a process dies; the same worker must go on to the next model then."""
    worker = web.worker
    made = web.during_run(workbench.endless(folder), lambda: at_work(web), lambda: victim().send_signal(number))
    assert isinstance(made, Failure)
    assert (made.stage, made.fault) == (Stage.RUN, "model")
    web.right(workbench.adds_one(folder, 1), ONE)
    assert web.worker is worker
    return made


def test_a_tab_that_crashes_is_a_failure(browser: Bench, tmp_path: Path) -> None:
    browser.right(workbench.adds_one(tmp_path, 1), ONE)
    before = chromium(browser).pid
    made = _dies(browser, tmp_path, lambda: at_work(browser), signal.SIGSEGV)
    assert made.reason == "RuntimeError: the tab crashed: its process ended, for want of memory or by a fault"
    assert chromium(browser).pid == before


@pytest.mark.parametrize("victim", [chromium, driver], ids=["chromium", "driver"])
def test_a_browser_that_ends_at_work_is_a_failure(
    browser: Bench, tmp_path: Path, victim: Callable[[Bench], psutil.Process]
) -> None:
    made = _dies(browser, tmp_path, lambda: victim(browser))
    assert made.reason.startswith("RuntimeError: the browser failed: ")


@pytest.mark.parametrize("victim", [at_work, chromium, driver], ids=["tab", "chromium", "driver"])
def test_what_ends_between_two_models_costs_nothing(
    browser: Bench, tmp_path: Path, victim: Callable[[Bench], psutil.Process]
) -> None:
    model = workbench.adds_one(tmp_path, 1)
    browser.right(model, ONE)
    worker, died = browser.worker, victim(browser)
    died.kill()
    eventually(lambda: not living(died), "it to be gone")
    browser.right(model, ONE)
    assert browser.worker is worker


def test_a_nodejs_that_dies_at_work_is_a_failure_with_its_signal(node: Bench, tmp_path: Path) -> None:
    made = _dies(node, tmp_path, lambda: at_work(node), signal.SIGSEGV)
    assert made.reason == "RuntimeError: Node.js died of SIGSEGV (signal 11)"


# --- Nothing is left ------------------------------------------------------------------------------------------------


def _elsewhere() -> set[str]:
    """Return what looks like a browser's in the folders that all processes share."""
    return {
        str(item)
        for folder in map(Path, ("/tmp", "/dev/shm"))
        if folder.is_dir()
        for item in folder.iterdir()
        if "hromium" in item.name or "laywright" in item.name
    }


@on_linux
@pytest.mark.parametrize(
    ("name", "target", "alone", "computing"),
    [
        ("onnxruntime-web", "browser", True, True),
        ("onnxruntime-web", "browser", False, False),
        ("onnxruntime-web-threads", "browser", False, True),
        ("onnxruntime-web-webgpu", "browser", True, False),
        ("onnxruntime-web", "node", True, False),
        ("onnxruntime-web-threads", "node", True, True),
    ],
)
def test_nothing_is_left_of_a_worker_that_was_killed(
    tmp_path: Path, name: str, target: str, alone: bool, computing: bool
) -> None:
    before = _elsewhere()
    started: list[psutil.Process] = []
    with bench(name, target, tmp_path / "bench") as web:

        def kill() -> None:
            started.extend(web.processes())
            # The engine kills the group; the worker alone is killed by Linux where the engine has been.
            if alone:
                os.kill(web.worker._process.pid, signal.SIGKILL)
            else:
                os.killpg(web.worker._process.pid, signal.SIGKILL)

        web.right(workbench.adds_one(tmp_path, 1), ONE)
        if computing:
            web.during_run(workbench.endless(tmp_path), lambda: at_work(web), kill)
        else:
            kill()
        assert len(started) > (5 if target == "browser" else 0)
        eventually(lambda: not any(map(living, started)), "all processes to be gone")
        eventually(lambda: not _elsewhere() - before, "shared folders to be clean")


@pytest.mark.parametrize(("name", "target"), ONE_OF_EACH, ids=map("-in-".join, ONE_OF_EACH))
def test_nothing_is_left_of_a_worker_that_was_closed(tmp_path: Path, name: str, target: str) -> None:
    before = _elsewhere()
    with bench(name, target, tmp_path / "bench") as web:
        web.right(workbench.adds_one(tmp_path, 1), ONE)
        started = web.processes()
        begin = time.monotonic()
        web.worker.close()
        # A worker that does not end by itself is killed after five seconds.
        assert time.monotonic() < begin + 5
        assert started
        eventually(lambda: not any(map(living, started)), "all processes to be gone")
        left = {item.name for item in web.home.iterdir()} - {"worker.log", ".cache", ".config", "dconf"}
        assert not left
        eventually(lambda: not _elsewhere() - before, "shared folders to be clean")
