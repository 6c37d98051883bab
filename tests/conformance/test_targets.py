"""One driver for all targets: what each is, how it is reached, and that workers there fail as they do here.

Every fault is caused for real on every target that is reached from here: Python workers crash, hang, eat memory and are
cut off, behind whatever stands between (QEMU, Wine, a container, ssh).
"""

from __future__ import annotations

import hashlib
import re
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import pytest
from real_suite import SUITE, case, chosen, lease, probe
from tiny_suite import eventually

from portmatrix import run
from portmatrix.bundle import Manifest, SampleSet, Signature
from portmatrix.compare import compare, verdict
from portmatrix.places import Wanted
from portmatrix.plugins import EnvironmentSpec, Runtime, Target, Way, load_file
from portmatrix.run import RunOutput
from portmatrix.types import Batch, Outcome, PathKind, Reach, Stage, TensorSpec, Tolerance
from portmatrix.workers import Failure, Lease, Limits

REPOSITORY = Path(__file__).parents[2]
TARGETS = chosen("targets", SUITE.plugins.targets)
#: Every way that leads anywhere from here, not only the best: what stands behind another must hold as well.
WAYS = [
    (name, way)
    for name in TARGETS
    for way in SUITE.plugins.targets[name].ways
    if isinstance(way, Way) and way.reach is not Reach.STATIC
]
#: The labels of GitHub's own runners that exist: macos-13 is gone, macos-14 deprecated.
RUNNERS = (
    *("ubuntu-24.04", "ubuntu-24.04-arm", "windows-2025", "windows-11-arm"),
    *("macos-15", "macos-26", "macos-15-intel", "macos-26-intel"),
)
#: What a worker of the driver needs: numpy, wherever it comes from. Debian's package is the one that runtimes use.
SPEC = EnvironmentSpec(python=">=3.10,<3.13", requirements=("numpy==2.0.2",), debian=("python3-onnxruntime",))
#: The same for a place that has one CPython, and that is too new for the above.
NEWER = EnvironmentSpec(python=">=3.13,<3.14", requirements=("numpy==2.4.6",))
MEMORY_MB = 1024
ROWS = np.arange(12, dtype=np.float32).reshape(1, 3, 4) - 5


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize over the targets: all of them, or those that are reached."""
    if "reached" in metafunc.fixturenames:
        found = [
            pytest.param(
                (name, way), id=f"{name}-{way.place}", marks=pytest.mark.xdist_group(f"targets/{name}-{way.place}")
            )
            for name, way in WAYS
        ]
        metafunc.parametrize("reached", found, indirect=True, scope="module")
    elif "target" in metafunc.fixturenames:
        metafunc.parametrize("target", [case("targets", name) for name in TARGETS], indirect=True, scope="module")


# --- What it says of itself -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def target(request: pytest.FixtureRequest) -> Target:
    """The target under test."""
    return SUITE.plugins.targets[request.param]


def test_it_says_what_it_costs(target: Target) -> None:
    assert target.cost.strip()


def test_its_best_way_is_native_on_its_own_platform(target: Target) -> None:
    first = load_file("target", target.file).reach(target.platform.model_dump())[0]
    assert first.get("reach") == "native" or "why" in first


def test_where_a_better_way_is_missing_it_says_why_and_what_would_mend_it(target: Target) -> None:
    for missing in target.missing:
        assert missing.why
        assert missing.install, f"{target.name} does not say what would mend: {missing.why}"


def test_its_ways_are_in_order(target: Target) -> None:
    order = list(Reach)
    found = [order.index(way.reach) for way in target.ways if isinstance(way, Way)]
    assert found == sorted(found)


def test_it_runs_on_a_runner_that_exists(target: Target) -> None:
    assert target.runner in RUNNERS


def test_its_runner_reaches_it_in_a_way_that_it_has(target: Target) -> None:
    if target.runner_reach is Reach.NATIVE:
        return  # what is native is held to that above, and a browser or Node.js need not be here
    runner = {"os": "linux", "arch": "x86_64", "libc": "glibc", "endian": "little", "bits": 64}
    ways = load_file("target", target.file).reach(runner)
    assert target.runner_reach.value in {way.get("reach") for way in ways}


def test_what_its_runner_needs_can_be_installed(target: Target) -> None:
    script = REPOSITORY / "scripts" / "setup-linux-targets"
    groups = re.search(r"^        (roots .*)\) groups\+=", script.read_text(), re.MULTILINE)
    assert groups
    assert set(target.runner_needs) <= set(groups[1].split(" | "))


def test_native_here_is_what_this_machine_is() -> None:
    systems = {"linux", "macos", "windows"}
    native = {
        name
        for name, item in SUITE.plugins.targets.items()
        if isinstance(item.way, Way) and item.way.reach is Reach.NATIVE and item.platform.os in systems
    }
    assert native == {name for name, item in SUITE.plugins.targets.items() if item.platform == SUITE.host}


# --- How workers there fail -----------------------------------------------------------------------------------------


class Reached(NamedTuple):
    """A target with a worker on it."""

    target: Target
    way: Way
    lease: Lease
    bundle: Path
    folder: Path

    def do(self, deed: str, seconds: float = 0) -> RunOutput | Failure:
        """Have the worker do a deed."""
        allowed = Limits(seconds or 60 * self.way.slowdown, MEMORY_MB)
        runtime = Runtime("deeds", probe("deeds"), "", SPEC, (deed,))
        return run.read(run.ask(self.lease, runtime, self.bundle, manifest(deed), allowed, 1))

    def fails(self, deed: str, seconds: float = 0) -> Failure:
        """Have the worker do a deed that must fail, and see that the next one is done by another worker."""
        found = self.do(deed, seconds)
        assert isinstance(found, Failure), f"{deed} did not fail"
        assert found.stage is Stage.RUN
        assert found.reason
        again = self.do("compute")
        assert isinstance(again, RunOutput), f"after {deed} no worker starts: {again.reason}\n{again.log_tail}"
        return found


def manifest(deed: str) -> Manifest:
    """Return the manifest of the driver's bundle, whose format is the deed."""
    tensor = {"dtype": "float32", "shape": (None, 4)}
    return Manifest(
        framework="driver",
        model="line",
        path="native",
        kind=PathKind.NATIVE,
        format=deed,
        batch=Batch.DYNAMIC,
        entry="model",
        signature=Signature(inputs=(TensorSpec(name="x", **tensor),), outputs=(TensorSpec(name="y", **tensor),)),
        sets=(SampleSet(batch=3, calls=1, inputs={"x": "samples/x.npy"}, outputs={"y": "samples/y.npy"}),),
        files={},
        seed=0,
        accuracy=None,
        recipe="",
        trained_on="here",
        environment={},
        facts={},
        seconds={},
    )


@pytest.fixture(scope="module")
def reached(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reached]:
    """The target under test with a worker on it, which all tests of the target share."""
    name, way = request.param
    target = SUITE.plugins.targets[name]
    folder = tmp_path_factory.mktemp("target")
    # Named like a bundle in a store: by a digest of what is in it.
    bundle = folder / hashlib.sha256(ROWS.tobytes()).hexdigest()
    (bundle / "artifact").mkdir(parents=True)
    (bundle / "artifact" / "model").write_text("y = 2 x + 1\n")
    (bundle / "samples").mkdir()
    np.save(bundle / "samples" / "x.npy", ROWS.astype("<f4"))
    np.save(bundle / "samples" / "y.npy", (ROWS * 2 + 1).astype("<f4"))
    only = way.options.get("interpreter", {}).get("version", "")
    spec = (NEWER if only.startswith("3.13.") else SPEC).model_copy(update={"memory_mb": MEMORY_MB})
    plugin = Runtime("driver", probe("deeds"), "", spec, ("compute",))
    wanted = Wanted("driver", plugin.environment, target.platform, way)
    with lease(plugin, folder / "worker", wanted) as opened:
        yield Reached(target, way, opened, bundle, folder)


def emulated(reached: Reached) -> bool:
    return reached.way.reach is Reach.EMULATED


def test_a_worker_computes_there_and_says_where_it_is(reached: Reached) -> None:
    made = reached.do("compute")
    assert isinstance(made, RunOutput), f"{made.reason}\n{made.log_tail}"
    np.testing.assert_array_equal(made.outputs[0]["y"], ROWS * 2 + 1)
    told = reached.lease.environment
    assert told["byteorder"] == reached.target.platform.endian
    assert bool(told.get("via")) == (reached.way.place != "machine")


def test_bytes_of_another_order_are_found_to_be_nonsense(reached: Reached) -> None:
    """A little-endian file taken for the machine's own raises nothing anywhere: only the comparison can find it."""
    made = reached.do("raw")
    assert isinstance(made, RunOutput)
    tolerance = Tolerance(atol=1e-4, rtol=1e-5)
    outcome, _ = verdict((compare("y", 3, ROWS * 2 + 1, made.outputs[0]["y"], tolerance, tolerance),))
    assert outcome is (Outcome.FAIL if reached.target.platform.endian == "big" else Outcome.PASS)


def test_what_a_plug_in_raises_there_comes_back_in_its_words(reached: Reached) -> None:
    found = reached.fails("raise")
    assert (found.reason, found.fault) == ("RuntimeError: out of registers", "model")


def test_a_crash_there_is_a_finding_unless_something_else_may_have_crashed(reached: Reached) -> None:
    found = reached.fails("crash")
    assert found.reason.startswith("the worker died of "), found.reason
    assert found.fault == ("harness" if emulated(reached) else "model")
    if emulated(reached):
        assert "only a native run can tell" in found.reason


def test_a_status_of_its_own_is_the_workers(reached: Reached) -> None:
    found = reached.fails("exit")
    assert (found.reason, found.fault) == ("the worker ended itself with status 7", "model")


def test_a_worker_that_hangs_there_is_stopped(reached: Reached) -> None:
    found = reached.fails("hang", seconds=3)
    assert (found.reason, found.transient) == ("did not end within 3 s", True)


def test_a_worker_that_eats_memory_there_is_stopped(reached: Reached) -> None:
    found = reached.fails("eat")
    assert "MiB of memory" in found.reason, found.reason
    assert found.fault == "model"


def test_there_is_no_network_there(reached: Reached) -> None:
    found = reached.fails("dial")
    assert reached.lease.network in {"namespace", "audit-hook"}
    assert "Error" in found.reason


def test_when_what_leads_there_is_gone_the_next_request_finds_a_way(reached: Reached) -> None:
    """Kill whatever process of this machine carries the worker: the client of a container, of ssh, an emulator."""
    assert isinstance(reached.do("compute"), RunOutput)
    worker = reached.lease._worker
    assert worker is not None
    for process in tree(worker._process.pid):
        with suppress(psutil.Error):
            process.send_signal(signal.SIGKILL)
    eventually(lambda: not worker.alive, "the end of what carries the worker")
    again = reached.do("compute")
    assert isinstance(again, RunOutput), again


def tree(pid: int) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        first = psutil.Process(pid)
        return [*first.children(recursive=True), first]
    return []


def test_nothing_is_left_of_a_worker(reached: Reached) -> None:
    """Look for what was there while it worked: its processes, and what is mounted below its folder."""
    assert isinstance(reached.do("compute"), RunOutput)
    worker = reached.lease._worker
    assert worker is not None
    processes = tree(worker._process.pid)
    name = worker._inside.name
    reached.lease.close()
    eventually(lambda: not any(is_there(process) for process in processes), "the end of the worker's processes")
    eventually(lambda: not named_in_a_command(name), f"the end of everything called {name}")
    assert not [part for part in psutil.disk_partitions(all=True) if part.mountpoint.startswith(str(reached.folder))]


def is_there(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def named_in_a_command(name: str) -> bool:
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if any(name in part for part in process.cmdline()):
                return True
    return False
