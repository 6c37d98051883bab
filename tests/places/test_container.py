"""Workers in containers of a real Docker daemon, natively and under QEMU: really there, shut in, and ended."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import pytest
from linear_suite import CRASHES, Suite, answered, failed, quiet
from tiny_suite import eventually, gone

from portmatrix import containers, environments, programs
from portmatrix.commands import Patience
from portmatrix.containers import Image, Tool
from portmatrix.environments import Environment
from portmatrix.errors import EnvironmentFailure
from portmatrix.places import Wanted, container, root
from portmatrix.plugins import EnvironmentSpec, NoWay, Way
from portmatrix.sites import Inside
from portmatrix.store import Store
from portmatrix.types import PlatformSpec, Reach, Stage
from portmatrix.workers import Lease, Limits, in_python, network_closure

docker = pytest.importorskip("docker")

#: One after the other: they remove containers and images that belong to all of them.
pytestmark = pytest.mark.xdist_group("containers")

#: What Debian's Python has: the worker itself needs no more.
NUMPY = EnvironmentSpec(debian=("python3-numpy",))
PATIENCE = Patience(900)
MEMORY_MB = 400
LIMITS = Limits(120, MEMORY_MB)


class Kind(NamedTuple):
    """A kind of container: of this machine's architecture, or of another one."""

    way: Way
    platform: PlatformSpec


NATIVE = Kind(
    Way(reach=Reach.CONTAINER, place="container", options={"platform": "linux/amd64"}),
    PlatformSpec(os="linux", arch="x86_64", libc="glibc"),
)
FOREIGN = Kind(
    Way(reach=Reach.EMULATED, place="container", emulator="qemu-s390x", options={"platform": "linux/s390x"}),
    PlatformSpec(os="linux", arch="s390x", libc="glibc", endian="big"),
)
KINDS = {"native": NATIVE, "emulated": FOREIGN}

#: Says who it is, what rights it has, and what it could write to of the files named in `wanted.json`.
LOOKS_AROUND = """
import json, os
from pathlib import Path

def load(entry, format, signature, threads):
    return None

def input_names(session):
    return ["x"]

def run(session, inputs):
    return {"y": inputs["x"]}

def attempt(name):
    try:
        Path(name).write_text("was here")
    except OSError as error:
        return type(error).__name__

def degraded(session):
    wanted = json.loads(Path(__file__).with_name("wanted.json").read_text())
    found = {name: attempt(name) for name in wanted}
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    for name in ("CapEff", "CapBnd", "NoNewPrivs"):
        found[name] = int(status[name].strip(), 16) if name in status else None
    found["user"] = [os.getuid(), os.getgid(), os.getgroups()]
    found["interfaces"] = sorted(os.listdir("/sys/class/net"))
    found["environment"] = dict(os.environ)
    return json.dumps(found)
"""


def wanted(kind: Kind, spec: EnvironmentSpec = NUMPY) -> Wanted:
    return Wanted("numpy", spec, kind.platform, kind.way)


# --- Fixtures -------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def asked_again() -> Iterator[None]:
    """Have nobody remember the daemon of another test."""
    asked = (container._daemon, containers.find_tool, containers._docker)
    for function in asked:
        function.cache_clear()
    yield
    for function in asked:
        function.cache_clear()
    with warnings.catch_warnings():
        # The SDK leaves the socket open on which nobody answered.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store for all images, and for all test processes together."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    return Store(shared / "images")


def made(store: Store, what: Wanted) -> Environment:
    """Return the environment, made if need be; skips the test where this machine lacks something for it."""
    missing = container.lacking(what.way, what.platform)
    if missing is not None:
        pytest.skip(f"{missing.why} ({missing.install})")
    try:
        return container.ensure(store, what, quiet, PATIENCE)
    except EnvironmentFailure as failure:
        if failure.unavailable:
            pytest.skip(str(failure))
        raise


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each kind of container."""
    return KINDS[request.param]


def lease_on(built: Environment, suite: Suite, folder: Path, kind: Kind) -> Lease:
    """Return a lease on a worker there, which sees the suite and may write into ``folder``."""
    launch = environments.launch(built, "test", NUMPY, {suite.folder: False}, (), kind.way.env)
    return Lease(launch, folder, LIMITS)


@pytest.fixture
def lease(images: Store, kind: Kind, suite: Suite, tmp_path: Path) -> Iterator[Lease]:
    """A lease on a worker in a container; at its end no container may be left."""
    leased = lease_on(made(images, wanted(kind)), suite, tmp_path / "worker", kind)
    yield leased
    leased.close()
    assert ours() == []


@contextlib.contextmanager
def client() -> Iterator[Any]:
    """Yield a client of the daemon."""
    with contextlib.closing(docker.from_env()) as made:
        yield made


def ours(pid: int | None = None) -> list[str]:
    """Return the names of the containers of an engine, this process unless another is named, running or not."""
    with client() as made:
        found = made.api.containers(all=True, filters={"label": containers.OWNER})
    return [
        item["Names"][0] for item in found if item["Labels"][containers.OWNER].split()[1] == str(pid or os.getpid())
    ]


def below(name: str) -> list[psutil.Process]:
    """Return the processes that this one has started with such a command line."""
    return [process for process in psutil.Process().children() if name in process.cmdline()]


def wrong(kind: Kind, reason: str) -> tuple[str, str]:
    """Return fault and reason where a worker died: under an emulator it may have been that."""
    return ("model", reason) if kind is NATIVE else ("harness", f"{reason} under qemu-s390x ")


# --- What runs there ------------------------------------------------------------------------------------------------


def test_a_worker_computes_in_a_container(lease: Lease, suite: Suite, kind: Kind) -> None:
    answer = answered(suite.ask(lease, suite.put("plain")))
    np.testing.assert_allclose(answer["y"], suite.expected, rtol=1e-5, atol=1e-6)
    assert kind.platform.arch in lease.environment["platform"]
    assert lease.environment["byteorder"] == kind.platform.endian
    assert re.search(r"docker \S+, image localhost/portmatrix/run:\w+$", lease.environment["via"])
    assert lease.environment["via"].startswith("qemu-s390x ") == (kind is FOREIGN)
    assert len(ours()) == 1


def test_outputs_belong_to_the_engine(lease: Lease, suite: Suite) -> None:
    answered(suite.ask(lease, suite.put("plain")))
    exchange = lease.exchange()  # the other one of the two
    again = lease.exchange()
    for folder in (exchange, again):
        lease.bring(folder)
    written = [file for folder in (exchange, again) for file in folder.iterdir()]
    assert written
    assert {file.stat().st_uid for file in written} == {os.getuid()}
    answered(suite.ask(lease, suite.put("plain")))


def test_two_at_once(images: Store, suite: Suite, tmp_path: Path) -> None:
    built = made(images, wanted(NATIVE))
    leases = [lease_on(built, suite, tmp_path / f"worker-{number}", NATIVE) for number in range(2)]
    runtime = suite.put("plain")
    answers: dict[int, Any] = {}
    threads = [
        threading.Thread(target=lambda number=number: answers.update({number: suite.ask(leases[number], runtime)}))
        for number in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, leased in enumerate(leases):
        leased.close()
        np.testing.assert_allclose(answered(answers[number])["y"], suite.expected, rtol=1e-5, atol=1e-6)


# --- What goes wrong there ------------------------------------------------------------------------------------------


def test_an_exception_is_the_model_s_and_the_worker_goes_on(lease: Lease, suite: Suite) -> None:
    found = failed(suite.ask(lease, suite.put("raises_run")))
    assert (found.stage, found.fault, found.reason) == (Stage.RUN, "model", "ValueError: out of registers")
    before = ours()
    answered(suite.ask(lease, suite.put("plain")))
    assert ours() == before


def test_a_crash_comes_back(lease: Lease, suite: Suite, kind: Kind) -> None:
    # As first process of its container QEMU would hang instead: no signal of its own ends that one.
    found = failed(suite.ask(lease, suite.put("crashes", CRASHES)))
    fault, reason = wrong(kind, "the worker died of SIGSEGV (signal 11)")
    assert (found.stage, found.fault) == (Stage.RUN, fault)
    assert found.reason.startswith(reason)
    assert "Segmentation fault" in found.log_tail
    answered(suite.ask(lease, suite.put("plain")))


def test_a_worker_that_hangs_is_ended(lease: Lease, suite: Suite) -> None:
    answered(suite.ask(lease, suite.put("plain")))
    found = failed(suite.ask(lease, suite.put("hangs"), Limits(3, 1024)))
    assert (found.fault, found.reason) == ("model", "did not end within 3 s")
    assert ours() == []


def test_a_worker_that_outgrows_its_container_is_a_finding(lease: Lease, suite: Suite) -> None:
    found = failed(suite.ask(lease, suite.put("eats_memory")))
    assert (found.fault, found.reason) == ("model", f"used more than {MEMORY_MB} MiB of memory")
    assert found.transient
    answered(suite.ask(lease, suite.put("plain")))


def test_a_container_that_is_killed(lease: Lease, suite: Suite, kind: Kind) -> None:
    answered(suite.ask(lease, suite.put("plain")))

    def kill() -> None:
        with client() as made:
            made.api.kill(ours()[0].lstrip("/"))

    found = failed(suite.ask(lease, suite.put("hangs"), sent=kill))
    fault, reason = wrong(kind, "the worker died of SIGKILL (signal 9)")
    assert found.fault == fault
    assert found.reason.startswith(reason)
    answered(suite.ask(lease, suite.put("plain")))


def test_a_container_that_somebody_removes_is_no_finding(lease: Lease, suite: Suite) -> None:
    answered(suite.ask(lease, suite.put("plain")))

    def remove() -> None:
        with client() as made:
            made.api.remove_container(ours()[0].lstrip("/"), force=True)

    found = failed(suite.ask(lease, suite.put("hangs"), sent=remove))
    assert (found.fault, found.transient) == ("harness", True)
    assert "container is not there" in found.reason


def test_what_connects_the_container_may_be_killed(lease: Lease, suite: Suite) -> None:
    answered(suite.ask(lease, suite.put("plain")))

    def kill() -> None:
        (connecting,) = below("portmatrix.attach")
        connecting.kill()

    found = failed(suite.ask(lease, suite.put("hangs"), sent=kill))
    assert (found.fault, found.transient) == ("harness", True)
    assert "died of SIGKILL (signal 9)" in found.reason
    assert ours() == []


def test_an_image_that_is_gone_is_no_finding(images: Store, suite: Suite, tmp_path: Path) -> None:
    built = made(images, wanted(NATIVE))
    with client() as made_client:
        name = re.search(r"image (\S+)$", built.site.via if built.site else "")
        assert name is not None
        made_client.api.remove_image(name[1], force=True)
    leased = lease_on(built, suite, tmp_path / "worker", NATIVE)
    found = failed(suite.ask(leased, suite.put("plain")))
    leased.close()
    assert found.fault == "harness"
    assert "No such image" in found.log_tail
    assert made(images, wanted(NATIVE)).key == built.key, "it is made again"


# --- A daemon that goes away ----------------------------------------------------------------------------------------


class Relay:
    """A socket that passes everything on to the daemon's, until it is cut off."""

    def __init__(self, daemon: str) -> None:
        self._daemon = daemon
        self.folder = Path(tempfile.mkdtemp())  # its path must be short
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(self.folder / "socket"))
        self._listening.listen()
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        """What to set ``DOCKER_HOST`` to."""
        return f"unix://{self.folder}/socket"

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, far = self._listening.accept()[0], socket.socket(socket.AF_UNIX)
                far.connect(self._daemon)
                self._open += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._pass, args=pair, daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        """Close everything, as the end of the daemon would."""
        for item in (self._listening, *self._open):
            with contextlib.suppress(OSError):
                item.shutdown(socket.SHUT_RDWR)
            item.close()
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture
def relay(monkeypatch: pytest.MonkeyPatch) -> Iterator[Relay]:
    """The daemon, behind a relay."""
    address = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if not address.startswith("unix://") or not Path(address.removeprefix("unix://")).exists():
        pytest.skip(f"no daemon listens at {address}")
    made = Relay(address.removeprefix("unix://"))
    with monkeypatch.context() as patch:
        patch.setenv("DOCKER_HOST", made.address)
        yield made
    made.cut()


def test_a_daemon_that_goes_away_is_no_finding(images: Store, suite: Suite, tmp_path: Path, relay: Relay) -> None:
    leased = lease_on(made(images, wanted(NATIVE)), suite, tmp_path / "worker", NATIVE)
    answered(suite.ask(leased, suite.put("plain")))
    names = ours()
    found = failed(suite.ask(leased, suite.put("hangs"), sent=relay.cut))
    assert (found.fault, found.transient) == ("harness", True)
    assert "daemon is gone" in found.reason
    leased.close()
    with contextlib.closing(docker.DockerClient(f"unix://{relay._daemon}")) as back:
        for name in names:
            with contextlib.suppress(docker.errors.NotFound):
                back.api.remove_container(name.lstrip("/"), force=True)


# --- What it can reach ----------------------------------------------------------------------------------------------


def test_there_is_no_network(lease: Lease, suite: Suite) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        (suite.folder / "port").write_text(str(listener.getsockname()[1]))
        answer = answered(suite.ask(lease, suite.put("dials")))
    assert answer["degraded"].startswith("refused: ")
    assert lease.network == "namespace"


def test_it_has_no_rights_and_writes_into_its_own_folders_only(
    lease: Lease, suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORTMATRIX_TEST_SECRET", "mine")
    own = tmp_path / "worker" / "worker-0" / "mine"
    systems = ["/usr/his", "/etc/his", "/his"]
    outside = [str(suite.folder / "his"), str(tmp_path / "beside"), *systems]
    (suite.folder / "wanted.json").write_text(json.dumps([str(own), "/tmp/its", *outside]))
    found = json.loads(answered(suite.ask(lease, suite.put("around", LOOKS_AROUND)))["degraded"])
    assert own.read_text() == "was here"
    assert found["/tmp/its"] is None
    assert not Path("/tmp/its").exists()
    assert {found[name] for name in outside} <= {"OSError", "PermissionError"}
    # Not PermissionError: it is nobody's to write there, not just not this user's.
    assert {found[name] for name in systems} == {"OSError"}
    assert not any(Path(name).exists() for name in outside)
    assert found["user"][0] not in (0, None)
    assert 0 not in found["user"][2]
    assert (found["CapEff"], found["CapBnd"]) == (0, 0)
    assert found["NoNewPrivs"] == 1
    assert found["interfaces"] == ["lo"]
    assert "PORTMATRIX_TEST_SECRET" not in found["environment"]


def test_it_cannot_write_into_the_store(images: Store, suite: Suite, tmp_path: Path) -> None:
    built = made(images, wanted(NATIVE))
    launch = environments.launch(built, "test", NUMPY, {suite.folder: False, images.root: True})
    with images.scratch("worker") as folder:
        leased = Lease(launch, folder, LIMITS)
        mine, its = images.root / "bundles" / "mine", folder / "worker-0" / "its"
        (suite.folder / "wanted.json").write_text(json.dumps([str(mine), str(its)]))
        found = json.loads(answered(suite.ask(leased, suite.put("around", LOOKS_AROUND)))["degraded"])
        leased.close()
        assert found[str(its)] is None
    assert found[str(mine)] == "OSError"


# --- What is left of it ---------------------------------------------------------------------------------------------


#: Has a worker in a thread of its own, as a slot does, and says so when it hangs.
RUNS = """
import sys, threading
from pathlib import Path
import test_container as tests
from portmatrix.store import Store

store, suite, folder = map(Path, sys.argv[1:])
built = tests.container.ensure(Store(store), tests.wanted(tests.NATIVE), tests.quiet, tests.PATIENCE)
hangs = tests.Suite(suite)
leased = tests.lease_on(built, hangs, folder, tests.NATIVE)
tests.answered(hangs.ask(leased, hangs.put("plain")))
say = {"sent": lambda: print("asked", flush=True)}
slot = threading.Thread(target=hangs.ask, args=(leased, hangs.put("hangs")), kwargs=say)
slot.start()
slot.join()
"""


@contextlib.contextmanager
def another_engine(images: Store, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Yield an engine of its own, whose worker hangs; it is killed at the end."""
    made(images, wanted(NATIVE))
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
    command = [sys.executable, "-c", RUNS, str(images.root), str(folder / "suite"), str(folder / "worker")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as engine:
        assert engine.stdout is not None
        try:
            assert engine.stdout.readline() == "asked\n"
            yield engine
        finally:
            engine.kill()


def test_a_container_ends_when_its_engine_is_killed(images: Store, tmp_path: Path) -> None:
    with another_engine(images, tmp_path) as engine:
        assert len(ours(engine.pid)) == 1
        started = psutil.Process(engine.pid).children(recursive=True)
    eventually(lambda: not ours(engine.pid), "the end of the container")
    eventually(lambda: gone(started), "the end of what connects it")


def test_the_next_engine_removes_what_a_killed_one_left(images: Store, suite: Suite, tmp_path: Path) -> None:
    living = lease_on(made(images, wanted(NATIVE)), suite, tmp_path / "living", NATIVE)
    with contextlib.closing(living):
        answered(suite.ask(living, suite.put("plain")))
        with another_engine(images, tmp_path / "other") as engine:
            (left,) = ours(engine.pid)
            assert left.lstrip("/") not in containers.clean_up(), "as long as it runs"
            (connecting,) = psutil.Process(engine.pid).children(recursive=True)
            connecting.suspend()  # it would remove the container itself
        engine.wait()
        connecting.kill()
        assert ours(engine.pid) == [left]
        containers.clean_up()  # or that of an engine which another test starts
        assert ours(engine.pid) == []
        assert len(ours()) == 1, "this one runs"
        answered(suite.ask(living, suite.put("plain")))


def test_a_process_with_the_number_of_a_killed_engine_is_not_that_engine(images: Store) -> None:
    built = made(images, wanted(NATIVE))
    assert built.site is not None
    image = built.site.via.split()[-1]
    machine, pid, beginning = containers.owner().split()
    labels = {
        "other-machine": f"another.{machine} {pid} 1.00",
        "earlier": f"{machine} {pid} {float(beginning) - 3600:.2f}",
        "this": containers.owner(),
    }
    before = set(ours())
    with client() as made_client:
        for name, owner in labels.items():
            made_client.api.create_container(
                image, "sh", name=f"portmatrix-{pid}-{name}", labels={containers.OWNER: owner}
            )
        try:
            containers.clean_up()
            assert set(ours()) - before == {f"/portmatrix-{pid}-other-machine", f"/portmatrix-{pid}-this"}
        finally:
            for name in labels:
                with contextlib.suppress(docker.errors.NotFound):
                    made_client.api.remove_container(f"portmatrix-{pid}-{name}", force=True)


# --- The same by the tools' own commands, as for exporters ----------------------------------------------------------


@pytest.fixture(scope="module", params=["docker", "podman", "buildah"])
def image(request: pytest.FixtureRequest, images: Store) -> Iterator[Image]:
    """An image of this machine's architecture that one of the tools has; skips the tests where it does not answer."""
    tool = containers.Tool(request.param, shutil.which(request.param) or "")
    if not tool.executable or containers.answer(tool, "info") is None:
        pytest.skip(f"{tool.name} does not answer here")
    what = container._in_root(wanted(NATIVE))
    missing = root.lacking(what.way, what.platform)
    if missing is not None:
        pytest.skip(f"{missing.why} ({missing.install})")
    built = root.ensure(images, what, quiet, PATIENCE)
    made = Image(tool, "test", Path("Dockerfile"), (), f"{os.getpid():016}", "python3")
    with images.scratch("base") as folder:
        container._pack(images.root / "envs" / built.key, None, (), folder / "base.tar")
        containers.build_base(tool, made.tag, folder / "base.tar", "", PATIENCE)
    yield made
    subprocess.run([tool.executable, "rmi", made.tag], capture_output=True, check=False)


def lease_by_hand(image: Image, suite: Suite, folder: Path) -> Lease:
    """Return a lease on a worker in a container of the image."""
    site = containers.site_of(image, *network_closure())
    built = Environment("test", in_python(image.python), {}, site)
    return Lease(environments.launch(built, "test", NUMPY, {suite.folder: False}), folder, LIMITS)


@pytest.fixture
def by_hand(image: Image, suite: Suite, tmp_path: Path) -> Iterator[Lease]:
    """A lease on a worker in a container that the tool's own command runs."""
    leased = lease_by_hand(image, suite, tmp_path / "worker")
    yield leased
    leased.close()


def test_every_tool_shuts_its_workers_in(
    by_hand: Lease, suite: Suite, image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORTMATRIX_TEST_SECRET", "mine")
    own = tmp_path / "worker" / "worker-0" / "mine"
    systems = ["/usr/his", "/etc/his", "/his"]
    outside = [str(suite.folder / "his"), str(tmp_path / "beside"), *systems]
    (suite.folder / "wanted.json").write_text(json.dumps([str(own), "/tmp/its", *outside]))
    answer = answered(suite.ask(by_hand, suite.put("around", LOOKS_AROUND)))
    np.testing.assert_array_equal(answer["y"], suite.x)
    found = json.loads(answer["degraded"])
    assert own.read_text() == "was here"
    assert not Path("/tmp/its").exists()
    # Buildah makes the folders above a shared one in the container's own root, where they go with it.
    refused = [name for name in outside if image.tool.name != "buildah" or name != str(tmp_path / "beside")]
    assert {found[name] for name in refused} <= {"OSError", "PermissionError"}
    # Buildah cannot make the root read-only.
    assert {found[name] for name in systems} == {"PermissionError" if image.tool.name == "buildah" else "OSError"}
    assert not any(Path(name).exists() for name in outside)
    assert found["user"][0] != 0
    assert found["CapEff"] == 0
    assert found["NoNewPrivs"] == 1
    assert "PORTMATRIX_TEST_SECRET" not in found["environment"]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        (suite.folder / "port").write_text(str(listener.getsockname()[1]))
        assert answered(suite.ask(by_hand, suite.put("dials")))["degraded"].startswith("refused: ")


def test_every_tool_tells_of_which_signal_a_worker_died(by_hand: Lease, suite: Suite) -> None:
    found = failed(suite.ask(by_hand, suite.put("crashes", CRASHES)))
    assert (found.fault, found.reason) == ("model", "the worker died of SIGSEGV (signal 11)")
    answered(suite.ask(by_hand, suite.put("plain")))


def test_a_worker_outgrows_any_tool_s_container(by_hand: Lease, suite: Suite, image: Image) -> None:
    found = failed(suite.ask(by_hand, suite.put("eats_memory")))
    reasons = {
        "docker": rf"used more than {MEMORY_MB} MiB of memory",
        # It may not notice why the kernel killed the worker.
        "podman": rf"used more than {MEMORY_MB} MiB of memory|the worker died of SIGKILL \(signal 9\)",
        # It has no limit; the engine's own is.
        "buildah": r"used \d+ MiB of memory; the limit is \d+ MiB",
    }
    assert found.fault == "model"
    assert re.fullmatch(reasons[image.tool.name], found.reason)


#: Starts a worker, says so, and waits to be killed; the worker is not told that its engine is gone.
STARTS = """
import sys, time
from pathlib import Path
import test_container as tests
from portmatrix.containers import Image, Tool

name, executable, digest, folder = sys.argv[1:]
image = Image(Tool(name, executable), "test", Path("Dockerfile"), (), digest, "python3")
leased = tests.lease_by_hand(image, tests.Suite(Path(folder) / "suite"), Path(folder) / "worker")
leased.ask({"op": "hello"}, tests.LIMITS)
print(leased._worker._inside.name, flush=True)
time.sleep(600)
"""


def names_in(tool: Tool) -> str:
    """Return the names of all containers that the tool has, running or not."""
    question = ("containers", "--format", "{{.ContainerName}}") if tool.name == "buildah" else ("ps", "--all")
    found = containers.answer(tool, *question)
    assert found is not None
    return found


def test_the_next_engine_removes_containers_of_any_tool(image: Image, tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])}
    command = [sys.executable, "-c", STARTS, *image.tool, image.digest, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as engine:
        assert engine.stdout is not None
        try:
            name = engine.stdout.readline().strip()
            assert name.startswith(f"portmatrix-{engine.pid}-")
            containers.clean_up()
            assert name in names_in(image.tool), "as long as it runs"
            started = psutil.Process(engine.pid).children(recursive=True)
        finally:
            engine.kill()
    containers.clean_up()  # or that of an engine which another test starts
    assert name not in names_in(image.tool)
    eventually(lambda: gone(started), "the end of what ran the container")


# --- What is missing ------------------------------------------------------------------------------------------------


def test_without_a_daemon_nothing_leads_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none")
    found = container.lacking(kind.way, kind.platform)
    assert isinstance(found, NoWay)
    assert "does not answer" in found.why
    assert "setup-linux-targets --docker" in found.install


def test_without_docker_s_command_nothing_leads_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = container.lacking(NATIVE.way, NATIVE.platform)
    assert isinstance(found, NoWay)
    assert "command" in found.why


def without(way: Way, **changes: Any) -> NoWay:
    """Return what is missing for a changed way; skips the test where that is the daemon itself."""
    if isinstance(daemon := container._daemon(), NoWay):
        pytest.skip(daemon.why)
    found = container.lacking(way.model_copy(update=changes), FOREIGN.platform)
    assert isinstance(found, NoWay)
    return found


def test_another_architecture_is_no_container_of_this_one() -> None:
    found = without(FOREIGN.way, reach=Reach.CONTAINER)
    assert re.match(r"Docker's daemon runs on \w+, not on s390x", found.why)


def test_an_emulator_that_the_kernel_does_not_know(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = without(FOREIGN.way, emulator="qemu-pdp11")
    assert found.why == "qemu-pdp11 is not registered with the kernel (binfmt_misc)"
    assert "update-binfmts --enable" in found.install
    monkeypatch.setattr(container, "_BINFMT", tmp_path)
    (tmp_path / "qemu-s390x").write_text("enabled\ninterpreter /usr/bin/qemu-s390x-static\nflags: P\noffset 0\n")
    assert "without the flag F" in without(FOREIGN.way).why
    (tmp_path / "qemu-s390x").write_text("disabled\ninterpreter /usr/bin/qemu-s390x-static\nflags: PF\noffset 0\n")
    found = without(FOREIGN.way)
    assert "is not registered" in found.why
    assert f"mount -t binfmt_misc binfmt_misc {tmp_path}" in found.install


def test_a_base_that_cannot_be_had_is_unavailable(
    images: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if isinstance(daemon := container._daemon(), NoWay):
        pytest.skip(daemon.why)
    before = container.key(wanted(NATIVE))
    monkeypatch.setenv("PORTMATRIX_BASE_IMAGE_RUN", "localhost:1/base:{arch}")
    assert container.key(wanted(NATIVE)) != before
    with pytest.raises(EnvironmentFailure, match=r"localhost:1/base:amd64.*PORTMATRIX_BASE_IMAGE_RUN") as caught:
        container.ensure(images, wanted(NATIVE), quiet, PATIENCE)
    assert caught.value.unavailable


def test_another_cpython_is_not_to_be_had_here() -> None:
    if isinstance(daemon := container._daemon(), NoWay):
        pytest.skip(daemon.why)
    spec = EnvironmentSpec(python=">=3.10,<3.13", requirements=("numpy==1.26.4",))
    with pytest.raises(
        EnvironmentFailure, match=r"needs CPython >=3\.10,<3\.13; .*PORTMATRIX_BASE_IMAGE_RUN"
    ) as caught:
        container.key(wanted(NATIVE, spec))
    assert caught.value.unavailable


# --- Images ---------------------------------------------------------------------------------------------------------


def test_an_image_is_made_once(images: Store, kind: Kind) -> None:
    built = made(images, wanted(kind))
    said: list[str] = []
    again = container.ensure(images, wanted(kind), said.append, PATIENCE)
    assert (again.key, said) == (built.key, [])
    with client() as made_client:
        (image,) = (word for word in (built.site.via if built.site else "").split() if word.startswith("localhost/"))
        described = made_client.api.inspect_image(image)
    assert f"{described['Os']}/{described['Architecture']}" == kind.way.options["platform"]
    assert described["Config"]["User"] == "65532:65532"


def test_wheels_are_in_the_image(images: Store, suite: Suite, tmp_path: Path) -> None:
    built = made(images, wanted(NATIVE, EnvironmentSpec(requirements=("numpy==2.4.6",))))
    leased = lease_on(built, suite, tmp_path / "worker", NATIVE)
    answer = answered(suite.ask(leased, suite.put("plain")))
    assert leased.environment["python"].startswith("3.13.")
    leased.close()
    np.testing.assert_allclose(answer["y"], suite.expected, rtol=1e-5, atol=1e-6)


def test_a_program_finds_the_library_of_its_runtime(
    images: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind
) -> None:
    """The shell of the image itself takes the place of a compiled runner."""
    spec = EnvironmentSpec(debian=("zlib1g",), library={"debian": "usr/lib/*/libz.so.1"})
    monkeypatch.setattr(programs, "compiled", lambda *_arguments: Path("/bin/sh"))
    built = made(images, wanted(kind, spec)._replace(program=tmp_path / "runner.c"))
    assert built.command == ("/bin/sh", "--worker")
    assert built.interpreter_free
    assert built.site is not None
    inside = Inside("portmatrix-test-program", tmp_path, {**built.env}, {}, 256, network=False)
    command = [built.command[0], "-c", 'read -r magic < "$PORTMATRIX_LIBRARY"; echo "$PORTMATRIX_LIBRARY"; exit 7']
    ran = subprocess.run(
        built.site.wrap(inside, command), capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    built.site.end(inside)
    assert (ran.returncode, ran.stdout) == (7, f"{built.env['PORTMATRIX_LIBRARY']}\n")


def test_a_program_without_its_library_is_an_error(
    images: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "compiled", lambda *_arguments: Path("/bin/sh"))
    spec = EnvironmentSpec(debian=("zlib1g",), library={"debian": "usr/lib/*/libzip.so"})
    made(images, wanted(NATIVE))
    with pytest.raises(EnvironmentFailure, match=r"nothing in .* matches '?/?usr/lib/\*/libzip\.so"):
        container.ensure(images, wanted(NATIVE, spec)._replace(program=tmp_path / "runner.c"), quiet, PATIENCE)


def test_a_package_that_debian_does_not_have_is_not_for_that_platform(images: Store) -> None:
    made(images, wanted(NATIVE))
    spec = EnvironmentSpec(debian=("python3-of-another-world",))
    with pytest.raises(EnvironmentFailure, match="python3-of-another-world") as caught:
        container.ensure(images, wanted(NATIVE, spec), quiet, PATIENCE)
    assert caught.value.unsupported
