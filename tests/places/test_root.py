"""Workers in a root directory of another architecture, under bubblewrap and QEMU: really there, shut in, and ended."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from linear_suite import CRASHES, LIMITS, Suite, answered, failed, quiet
from tiny_suite import eventually, gone, tree_of

from portmatrix import environments, programs
from portmatrix.commands import Patience
from portmatrix.compare import compare
from portmatrix.environments import Environment
from portmatrix.errors import EnvironmentFailure
from portmatrix.places import Wanted, root
from portmatrix.plugins import EnvironmentSpec, NoWay, Way
from portmatrix.sites import Inside
from portmatrix.store import Store
from portmatrix.types import PlatformSpec, Reach, Stage, Tolerance
from portmatrix.workers import Failure, Lease, Limits

S390X = Way(
    reach=Reach.EMULATED, place="root", emulator="qemu-s390x", options={"architecture": "s390x"}, env={"NOTED": "way"}
)
BIG_ENDIAN = PlatformSpec(os="linux", arch="s390x", libc="glibc", endian="big", bits=64)
ARM64 = Way(
    reach=Reach.EMULATED,
    place="root",
    emulator="qemu-aarch64",
    options={"architecture": "arm64"},
    env={"QEMU_CPU": "cortex-a76"},
)
ARM = PlatformSpec(os="linux", arch="arm64", libc="glibc")
#: What Debian 13 has of ONNX Runtime, for every architecture.
ONNXRUNTIME = EnvironmentSpec(
    python=">=3.10,<3.14", requirements=("onnxruntime==1.21.0", "numpy==2.2.4"), debian=("python3-onnxruntime",)
)
PATIENCE = Patience(600)

#: Hands over the bytes of an x86_64 machine, as who reads a file without looking at its byte order would.
FOREIGN_BYTES = """
import onnxruntime

def load(entry, format, signature, threads):
    return onnxruntime.InferenceSession(entry, providers=["CPUExecutionProvider"])

def input_names(session):
    return ["x"]

def run(session, inputs):
    foreign = {name: value.astype(value.dtype.newbyteorder("<")) for name, value in inputs.items()}
    return {"y": session.run(["y"], foreign)[0]}

def degraded(session):
    return ""
"""

#: Says what it could do to the files named in `wanted.json`, and what it sees of processes and variables.
LOOKS_AROUND = """
import json, os
from pathlib import Path

def load(entry, format, signature, threads):
    return None

def input_names(session):
    return ["x"]

def run(session, inputs):
    return {"y": inputs["x"]}

def attempt(do):
    try:
        return do()
    except OSError as error:
        return type(error).__name__

def degraded(session):
    wanted = json.loads(Path(__file__).with_name("wanted.json").read_text())
    found = {}
    for name in wanted["write"]:
        found[name] = attempt(lambda: Path(name).write_text("was here"))
    for name in wanted["list"]:
        found[name] = attempt(lambda: sorted(os.listdir(name)))
    status = Path("/proc/self/status").read_text().splitlines()
    found["rights"] = [line.split()[1] for line in status if line.startswith("CapEff")]
    found["processes"] = len([name for name in os.listdir("/proc") if name.isdigit()])
    found["environment"] = dict(os.environ)
    return json.dumps(found)
"""


def wanted(way: Way = S390X, spec: EnvironmentSpec = ONNXRUNTIME, platform: PlatformSpec = BIG_ENDIAN) -> Wanted:
    return Wanted("onnxruntime", spec, platform, way)


# --- Fixtures -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store for all roots, and for all test processes together."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    return Store(shared / "roots")


def made(store: Store, what: Wanted) -> Environment:
    """Return the environment, made if need be; skips the test where this machine lacks something for it."""
    missing = root.lacking(what.way, what.platform)
    if missing is not None:
        pytest.skip(f"{missing.why} ({missing.install})")
    return root.ensure(store, what, quiet, PATIENCE)


@pytest.fixture(scope="session")
def built(roots: Store) -> Environment:
    """ONNX Runtime for a big-endian processor, from Debian's packages."""
    return made(roots, wanted())


def lease_on(built: Environment, suite: Suite, folder: Path, way: Way = S390X) -> Lease:
    """Return a lease on a worker there, which sees the suite and may write into ``folder``."""
    launch = environments.launch(built, "test", ONNXRUNTIME, {suite.folder: False}, (), way.env)
    return Lease(launch, folder, LIMITS)


@pytest.fixture
def lease(built: Environment, suite: Suite, tmp_path: Path) -> Iterator[Lease]:
    """A lease on a worker under QEMU."""
    made = lease_on(built, suite, tmp_path / "worker")
    yield made
    made.close()


def below() -> list[psutil.Process]:
    """Return every process that this one has started, and those that these have."""
    return psutil.Process().children(recursive=True)


# --- What runs there ------------------------------------------------------------------------------------------------


def test_a_worker_computes_on_the_other_processor(lease: Lease, suite: Suite) -> None:
    answer = answered(suite.ask(lease, suite.put("plain")))
    np.testing.assert_allclose(answer["y"], suite.expected, rtol=1e-5)
    assert lease.environment["byteorder"] == "big"
    assert "s390x" in lease.environment["platform"]
    assert lease.environment["numpy"] == "2.2.4"
    assert lease.environment["via"].startswith("qemu-s390x ")
    assert ", Debian 13." in lease.environment["via"]


def test_foreign_bytes_are_found_and_the_worker_converts_them(lease: Lease, suite: Suite) -> None:
    suite.put_onnx()
    strict, loose = Tolerance(atol=1e-4, rtol=1e-4), Tolerance(atol=1e-2, rtol=1e-2)
    raw = answered(suite.ask(lease, suite.put("foreign_bytes", FOREIGN_BYTES), entry="model.onnx"))
    found = compare("y", 3, suite.expected, raw["y"], strict, loose)
    assert np.isnan(raw["y"]).any()
    assert (found.verdict, found.needed) == ("fail", None)
    reference = Path(__file__).parents[2] / "runtimes/onnxruntime.py"
    right = answered(suite.ask(lease, suite.put("rightly", reference.read_text()), entry="model.onnx"))
    assert compare("y", 3, suite.expected, right["y"], strict, loose).verdict == "strict"


def test_two_at_once(built: Environment, suite: Suite, tmp_path: Path) -> None:
    leases = [lease_on(built, suite, tmp_path / f"worker-{number}") for number in range(2)]
    answers: dict[int, dict[str, Any] | Failure] = {}

    def ask(number: int) -> None:
        answers[number] = suite.ask(leases[number], runtime)

    runtime = suite.put("plain")
    threads = [threading.Thread(target=ask, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, lease in enumerate(leases):
        lease.close()
        np.testing.assert_allclose(answered(answers[number])["y"], suite.expected, rtol=1e-5)


# --- What goes wrong there ------------------------------------------------------------------------------------------


def test_an_exception_is_the_model_s_and_the_worker_goes_on(lease: Lease, suite: Suite) -> None:
    found = failed(suite.ask(lease, suite.put("raises_run")))
    assert (found.stage, found.fault, found.reason) == (Stage.RUN, "model", "ValueError: out of registers")
    before = below()
    answered(suite.ask(lease, suite.put("plain")))
    assert below() == before


def test_a_death_under_the_emulator_is_no_finding(lease: Lease, suite: Suite) -> None:
    found = failed(suite.ask(lease, suite.put("crashes", CRASHES)))
    assert (found.stage, found.fault) == (Stage.RUN, "harness")
    assert found.reason.startswith("the worker died of SIGSEGV (signal 11) under qemu-s390x ")
    assert "uncaught target signal 11" in found.log_tail
    answered(suite.ask(lease, suite.put("plain")))


def test_an_emulator_that_is_killed_is_no_finding(lease: Lease, suite: Suite) -> None:
    answered(suite.ask(lease, suite.put("plain")))

    def kill() -> None:
        (emulator,) = (process for process in tree_of(lease) if process.cmdline()[0] == "/emulator")
        emulator.kill()

    found = failed(suite.ask(lease, suite.put("hangs"), sent=kill))
    assert found.fault == "harness"
    assert found.reason.startswith("the worker died of SIGKILL (signal 9) under qemu-s390x ")


def test_a_worker_that_hangs_is_ended(lease: Lease, suite: Suite) -> None:
    answered(suite.ask(lease, suite.put("plain")))
    started = tree_of(lease)
    found = failed(suite.ask(lease, suite.put("hangs"), Limits(3, 1024)))
    assert (found.fault, found.reason) == ("model", "did not end within 3 s")
    eventually(lambda: gone(started), "the end of the worker")


def test_the_memory_of_the_emulated_worker_is_seen(lease: Lease, suite: Suite) -> None:
    answered(suite.ask(lease, suite.put("plain"), Limits(120, 300)))
    started = tree_of(lease)
    found = failed(suite.ask(lease, suite.put("eats_memory"), Limits(120, 700)))
    assert found.fault == "model"
    assert found.reason.endswith("MiB of memory; the limit is 700 MiB")
    eventually(lambda: gone(started), "the end of the worker")


# --- What it can reach ----------------------------------------------------------------------------------------------


def test_there_is_no_network(lease: Lease, suite: Suite) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        (suite.folder / "port").write_text(str(listener.getsockname()[1]))
        answer = answered(suite.ask(lease, suite.put("dials")))
    assert answer["degraded"].startswith("refused: ")
    assert lease.network == "namespace"


def test_it_writes_into_its_folder_only_and_sees_nothing_else(
    lease: Lease, suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "worker" / "mine"
    outside = [suite.folder / "his", tmp_path / "beside", Path("/usr/his"), Path("/etc/his"), Path("/his")]
    look = {"write": [str(own), *map(str, outside)], "list": [str(tmp_path), "/root", "/home", "/var"]}
    (suite.folder / "wanted.json").write_text(json.dumps(look))
    monkeypatch.setenv("PORTMATRIX_TEST_SECRET", "mine")
    answer = answered(suite.ask(lease, suite.put("around", LOOKS_AROUND)))
    found = json.loads(answer["degraded"])
    assert own.read_text() == "was here"
    assert {found[str(suite.folder / "his")], found["/usr/his"], found["/etc/his"], found["/his"]} == {"OSError"}
    assert not any(place.exists() for place in outside)
    assert set(found[str(tmp_path)]) <= {"suite", "worker", "beside"}
    assert [found[place] for place in ("/root", "/home", "/var")] == ["FileNotFoundError"] * 3
    assert found["rights"] == ["0" * 16]
    assert found["processes"] <= 3
    assert "PORTMATRIX_TEST_SECRET" not in found["environment"]
    assert found["environment"]["NOTED"] == "way"


def test_what_lies_where_the_root_has_its_own_is_seen_elsewhere(
    built: Environment, suite: Suite, tmp_path: Path
) -> None:
    keys = Path("/usr/share/keyrings")
    (suite.folder / "wanted.json").write_text(json.dumps({"write": [], "list": [root.there(keys)]}))
    launch = environments.launch(built, "test", ONNXRUNTIME, {suite.folder: False, keys: False})
    lease = Lease(launch, tmp_path / "worker", LIMITS)
    answer = answered(suite.ask(lease, suite.put("around", LOOKS_AROUND)))
    lease.close()
    assert json.loads(answer["degraded"])["/host/usr/share/keyrings"] == sorted(file.name for file in keys.iterdir())


# --- What is left of it ---------------------------------------------------------------------------------------------


def test_nothing_is_left_of_a_worker(built: Environment, suite: Suite, tmp_path: Path) -> None:
    mounts = Path("/proc/self/mounts").read_text()
    lease = lease_on(built, suite, tmp_path / "worker")
    answered(suite.ask(lease, suite.put("plain")))
    started = tree_of(lease)
    assert len(started) > 1
    lease.close()
    eventually(lambda: gone(started), "the end of the worker")
    assert Path("/proc/self/mounts").read_text() == mounts


def as_engine(program: str, *arguments: Path, **variables: str) -> subprocess.Popen[str]:
    """Start a program that uses this module as an engine of its own."""
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders), **variables}
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


#: Has a worker in a thread of its own, as a slot does, and says so when it hangs.
RUNS = """
import sys, threading
from pathlib import Path
import test_root as tests
from portmatrix.places import root
from portmatrix.store import Store

store, suite, folder = map(Path, sys.argv[1:])
built = root.ensure(Store(store), tests.wanted(), tests.quiet, tests.PATIENCE)
hangs = tests.Suite(suite)
lease = tests.lease_on(built, hangs, folder)
tests.answered(hangs.ask(lease, hangs.put("plain")))
say = {"sent": lambda: print("asked", flush=True)}
slot = threading.Thread(target=hangs.ask, args=(lease, hangs.put("hangs")), kwargs=say)
slot.start()
slot.join()
"""


def test_nothing_is_left_when_the_engine_is_killed(built: Environment, roots: Store, tmp_path: Path) -> None:
    with as_engine(RUNS, roots.root, tmp_path / "suite", tmp_path / "worker") as engine:
        assert engine.stdout is not None
        try:
            assert engine.stdout.readline() == "asked\n"
            started = psutil.Process(engine.pid).children(recursive=True)
            assert any(process.cmdline()[0] == "/emulator" for process in started)
        finally:
            engine.kill()
    eventually(lambda: gone(started), "the end of the worker")


#: Makes a root.
MAKES = """
import sys
from pathlib import Path
import test_root as tests
from portmatrix.places import root
from portmatrix.store import Store

root.ensure(Store(Path(sys.argv[1])), tests.wanted(), tests.quiet, tests.PATIENCE)
"""


def test_nothing_is_left_when_the_engine_is_killed_while_it_makes_a_root(built: Environment, tmp_path: Path) -> None:
    store = tmp_path / "store"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        mirror = f"http://127.0.0.1:{silent.getsockname()[1]}/debian"
        with as_engine(MAKES, store, **{root.MIRROR: mirror, "no_proxy": "127.0.0.1"}) as engine:
            try:
                silent.settimeout(60)
                silent.accept()[0].close()
                started = psutil.Process(engine.pid).children(recursive=True)
                assert any("apt-get" in process.name() for process in started)
            finally:
                engine.kill()
        eventually(lambda: gone(started), "the end of mmdebstrap")
    assert list((store / "tmp").iterdir())
    assert not list((Store(store).root / "tmp").iterdir()), "the next engine removes what it began"


# --- What cannot be made --------------------------------------------------------------------------------------------


def ensure_fails(store: Store, what: Wanted) -> EnvironmentFailure:
    """Return why the environment cannot be made, after a look that nothing is left of the attempt."""
    before = sorted(path.name for path in (store.root / "envs").iterdir())
    with pytest.raises(EnvironmentFailure) as caught:
        made(store, what)
    assert sorted(path.name for path in (store.root / "envs").iterdir()) == before
    assert not list((store.root / "tmp").iterdir())
    return caught.value


def test_a_package_that_debian_does_not_have_is_not_for_that_platform(tmp_path: Path) -> None:
    spec = EnvironmentSpec(debian=("python3-of-another-world",))
    found = ensure_fails(Store(tmp_path / "store"), wanted(spec=spec))
    assert found.unsupported
    assert str(found) == "Debian 13 for s390x: Unable to locate package python3-of-another-world"


def test_a_mirror_that_is_none_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(root.MIRROR, (tmp_path / "mirror").as_uri())
    found = ensure_fails(Store(tmp_path / "store"), wanted())
    assert not found.unsupported
    assert not found.unavailable
    assert str(found).startswith("could not make a root of stable for s390x: ")


def test_another_cpython_than_debian_s_is_not_to_be_had_here(tmp_path: Path) -> None:
    spec = EnvironmentSpec(python=">=3.10,<3.13", requirements=("numpy==1.26.4",))
    found = ensure_fails(Store(tmp_path / "store"), wanted(spec=spec))
    assert found.unavailable
    assert str(found) == "needs CPython >=3.10,<3.13; Debian 13 has 3.13"


def test_a_container_is_not_to_be_had_here(tmp_path: Path) -> None:
    spec = EnvironmentSpec(interpreter=False, container="caffe")
    assert ensure_fails(Store(tmp_path / "store"), wanted(spec=spec)).unavailable


# --- Programs -------------------------------------------------------------------------------------------------------


def test_a_program_finds_the_library_of_its_runtime(
    roots: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shell of the root itself takes the place of a compiled runner: a binary for that processor and no other."""
    library = {"debian": "usr/lib/*/libonnxruntime.so.*"}
    what = wanted(spec=EnvironmentSpec(debian=("libonnxruntime1.21",), library=library))
    shell = tmp_path / "binaries" / "runner"
    shell.parent.mkdir()
    monkeypatch.setattr(programs, "compiled", lambda *_arguments: shell)
    built = made(roots, what._replace(program=tmp_path / "runner.c"))
    shutil.copy(roots.root / "envs" / built.key / "usr/bin/dash", shell)
    assert built.command == (str(shell), "--worker")
    assert built.interpreter_free
    assert built.versions["libonnxruntime1.21"].startswith("1.21.0")
    assert built.site is not None
    inside = Inside("program", tmp_path, {**built.env}, {tmp_path / "binaries": False}, 1024, network=False)
    command = [built.command[0], "-c", 'read -r magic < "$PORTMATRIX_LIBRARY"; echo "$PORTMATRIX_LIBRARY"; exit 7']
    ran = subprocess.run(built.site.wrap(inside, command), capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (7, f"{built.env['PORTMATRIX_LIBRARY']}\n")
    assert not (roots.root / "envs" / built.key / "usr/bin/python3").exists()


def test_a_program_without_its_library_is_an_error(roots: Store, tmp_path: Path) -> None:
    spec = EnvironmentSpec(debian=("libonnxruntime1.21",), library={"debian": "usr/lib/*/libonnxrun.so"})
    with pytest.raises(EnvironmentFailure, match=r"nothing in root-s390x-\w+ matches"):
        made(roots, wanted(spec=spec)._replace(program=tmp_path / "runner.c"))


# --- Wheels ---------------------------------------------------------------------------------------------------------


def test_wheels_are_installed_beside_a_root_that_they_share(roots: Store, suite: Suite, tmp_path: Path) -> None:
    spec = EnvironmentSpec(requirements=("numpy==2.4.6",))
    what = wanted(ARM64, spec, ARM)
    built = made(roots, what)
    assert built.key == root.key(what)
    described = json.loads((roots.root / "envs" / built.key / "environment.json").read_text())
    assert described["installed"] == ["numpy==2.4.6"]
    assert not list((roots.root / "envs" / described["root"]).glob("usr/lib/python3/dist-packages/numpy"))
    lease = lease_on(built, suite, tmp_path / "worker", ARM64)
    answer = answered(suite.ask(lease, suite.put("plain")))
    lease.close()
    np.testing.assert_allclose(answer["y"], suite.expected, rtol=1e-5)
    assert lease.environment["numpy"] == "2.4.6"
    assert "aarch64" in lease.environment["platform"]


def test_a_wheel_that_nobody_makes_is_not_for_that_platform(tmp_path: Path) -> None:
    spec = EnvironmentSpec(requirements=("onnxruntime==1.32.0",))
    assert ensure_fails(Store(tmp_path / "store"), wanted(spec=spec)).unsupported


# --- Keys, and what this machine lacks ------------------------------------------------------------------------------


def test_the_key_changes_with_what_the_root_is_made_of(built: Environment) -> None:
    more = ONNXRUNTIME.model_copy(update={"debian": ("python3-onnxruntime", "python3-onnx")})
    requirements = ONNXRUNTIME.model_copy(update={"debian": ()})
    other = ONNXRUNTIME.model_copy(update={"debian": (), "requirements": ("numpy==2.4.6",)})
    elsewhere = S390X.model_copy(update={"options": {"architecture": "s390x", "suite": "forky"}})
    kinds = [wanted(), wanted(ARM64), wanted(elsewhere), *(wanted(spec=spec) for spec in (more, requirements, other))]
    assert len({root.key(kind) for kind in kinds}) == len(kinds)
    assert root.key(wanted()) == built.key
    assert root.key(wanted(spec=ONNXRUNTIME.model_copy(update={"env": {"A": "1"}}))) == built.key


def test_what_is_missing_is_named_with_one_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv(root.MIRROR, "file:///mirror")
    found = root.lacking(S390X, BIG_ENDIAN)
    assert isinstance(found, NoWay)
    assert found.why.startswith("not here: bwrap, mmdebstrap, qemu-s390x-static")
    assert found.install.startswith("apt-get install bubblewrap mmdebstrap qemu-user-static")


def test_without_a_mirror_it_says_how_to_name_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(root.MIRROR, raising=False)
    root._mirror_of_apt.cache_clear()
    found = root.lacking(S390X, BIG_ENDIAN)
    root._mirror_of_apt.cache_clear()
    assert isinstance(found, NoWay)
    assert found.why.endswith(", a mirror of Debian that apt knows")
    assert found.install.endswith(" && export PORTMATRIX_DEBIAN_MIRROR=URL")


def test_an_emulator_that_does_not_start_behind_the_walls_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "qemu-s390x-static"
    broken.write_text("#!/no/such/interpreter\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    if root.lacking(ARM64, ARM) is not None:
        pytest.skip("this machine lacks more than the emulator")
    found = root.lacking(S390X, BIG_ENDIAN)
    assert isinstance(found, NoWay)
    assert found.why.startswith(f"bwrap cannot start {broken}: ")
