"""Workers on a board: an sshd of this test's own on loopback, real sessions, real deaths, and nothing left behind."""

from __future__ import annotations

import ast
import contextlib
import getpass
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper
from test_imports import old_interpreter
from tiny_suite import TINY, Assemble, Ran, RunMatrix, StartEngine, ended, ended_at, eventually, gone, records_of

from portmatrix import environments, run
from portmatrix.commands import Patience
from portmatrix.environments import Environment
from portmatrix.errors import EnvironmentFailure
from portmatrix.places import Wanted, board, connection, keeper
from portmatrix.places.connection import Connection, Facts, Options, Refused, Unreachable
from portmatrix.plugins import EnvironmentSpec, NoWay, Runtime, Way, load_file
from portmatrix.spec import OptionSpec
from portmatrix.store import Store, default_root
from portmatrix.suite import this_machine
from portmatrix.types import Outcome, PlatformSpec, Reach, Stage
from portmatrix.workers import Failure, Lease, Limits

SSHD = shutil.which("sshd", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))
pytestmark = pytest.mark.skipif(
    SSHD is None or shutil.which("ssh") is None,
    reason="there is no sshd on this machine: apt-get install openssh-server openssh-client",
)
KIND = Path(__file__).parents[2] / "targets" / "ssh.py"
LIMITS = Limits(30, 1024)

#: Notes that it is at work and who it is, and never comes back the first time; after that it does as `plain` does.
WAITS = (
    (TINY / "runtimes" / "plain.py")
    .read_text()
    .replace(
        '    return {"y": inputs["x"] @ session}',
        """
    import os, time
    if not os.path.exists(MARK):
        with open(MARK + ".coming", "w") as stream:
            stream.write("%d" % os.getpid())
        os.rename(MARK + ".coming", MARK)
        while True:
            time.sleep(1)
    return {"y": inputs["x"] @ session}""",
    )
)


# --- The board ------------------------------------------------------------------------------------------------------


class Loopback(NamedTuple):
    """An sshd that answers on loopback, and where a board behind it keeps our files."""

    sshd: psutil.Popen
    options: dict[str, Any]
    folder: Path

    def sessions(self) -> list[psutil.Process]:
        """Return the processes that serve connections."""
        return self.sshd.children(recursive=True)

    def cut(self) -> None:
        """Cut every connection, as a cable would: no process on either side is told."""
        for process in self.sshd.children():
            process.kill()

    def stop(self) -> None:
        """Let nobody in any more, and cut who is in."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self.sshd.suspend()
            self.cut()
            self.sshd.kill()

    @property
    def way(self) -> Way:
        """The way that a target of the kind ``ssh`` has to it."""
        return Way(reach=Reach.REMOTE, place="board", options=self.options)

    def left(self) -> list[str]:
        """Return what is there of runs."""
        runs = self.folder / "runs"
        return sorted(str(item.relative_to(runs)) for item in runs.rglob("*")) if runs.exists() else []


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def make_key(file: Path) -> str:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(file)], check=True)
    return file.with_suffix(".pub").read_text()


Board = Callable[..., Loopback]


@pytest.fixture(scope="session")
def sent_before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What boards of earlier tests have kept of environments, if there were any: to make one takes seconds."""
    return tmp_path_factory.getbasetemp() / "sent-before"


@pytest.fixture
def start_board(tmp_path: Path, sent_before: Path) -> Iterator[Board]:
    """Starts an sshd of the current user on a free port; lines for its configuration may be given.

    Unless it is ``fresh``, the board has the environments that another one had.
    """
    started: list[Loopback] = []
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where it separates privileges; of a system without systemd it lacks

    def start(*lines: str, fresh: bool = False) -> Loopback:
        folder = tmp_path / f"sshd-{len(started)}"
        folder.mkdir()
        port, host = free_port(), make_key(folder / "host")
        (folder / "authorized").write_text(make_key(folder / "user"))
        (folder / "known").write_text(f"[127.0.0.1]:{port} {host}")
        fixed = ["UsePAM no", "StrictModes no", "PasswordAuthentication no", "PermitRootLogin yes", "PermitUserRC no"]
        files = [f"HostKey {folder}/host", f"AuthorizedKeysFile {folder}/authorized", f"PidFile {folder}/pid"]
        where = [f"Port {port}", "ListenAddress 127.0.0.1"]
        (folder / "sshd_config").write_text("\n".join([*where, *fixed, *files, *lines]) + "\n")
        (folder / "config").write_text(
            f"Host board\n  HostName 127.0.0.1\n  User {getpass.getuser()}\n  IdentityFile {folder}/user\n"
            f"  IdentitiesOnly yes\n  UserKnownHostsFile {folder}/known\n  GlobalKnownHostsFile /dev/null\n"
        )
        command = [str(SSHD), "-f", str(folder / "sshd_config"), "-D", "-E", str(folder / "log")]
        process = psutil.Popen(command)
        eventually(lambda: answers(port), "the sshd")
        options = {"host": "board", "port": port, "config": str(folder / "config"), "folder": str(folder / "kept")}
        python = environments.own_interpreter().executable
        if sent_before.exists() and not fresh:
            shutil.copytree(sent_before, folder / "kept" / "envs", copy_function=os.link, symlinks=True)
        made = Loopback(process, {**options, "python": python}, folder / "kept")
        started.append(made)
        return made

    yield start
    for loopback in started:
        connection.connection_to(Options.model_validate(loopback.options)).close()
        loopback.stop()
        loopback.sshd.wait(10)


def answers(port: int) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def loopback(start_board: Board) -> Loopback:
    """A board."""
    return start_board()


@pytest.fixture
def short_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder for temporary files, of engines too; its path is short enough for a socket."""
    folder = Path(tempfile.mkdtemp(prefix="pm-", dir="/tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    yield folder
    shutil.rmtree(folder)


# --- Suites with a board --------------------------------------------------------------------------------------------


def entry(loopback: Loopback, name: str = "board", **changes: Any) -> dict[str, Any]:
    platform = {**this_machine().model_dump(), **changes.pop("platform", {})}
    return {"name": name, "kind": "ssh", "platform": platform, "options": {**loopback.options, **changes}}


def suite_with(loopback: Loopback, assemble: Assemble, *plugins: str, **spec: Any) -> Path:
    """Make a suite of tiny's plug-ins with the targets ``here`` and ``board``."""
    targets = spec.pop("targets", [entry(loopback)])
    root = assemble(*(plugins or ("runtimes/plain",)), targets=["here", *targets], **spec)
    shutil.copyfile(KIND, root / "targets" / "ssh.py")
    return root


def add_waiting(root: Path, mark: Path) -> None:
    (root / "runtimes" / "waits.py").write_text(WAITS.replace("MARK", repr(str(mark))))


def processes_of(word: str) -> list[psutil.Process]:
    """Return every process whose command has ``word`` in it."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(word in part for part in process.cmdline()):
                found.append(process)
    return found


@pytest.fixture
def meanwhile() -> Iterator[Callable[[Callable[[], None]], None]]:
    """Does something in a thread of its own; a failure there fails the test."""
    threads: list[threading.Thread] = []
    raised: list[BaseException] = []

    def start(do: Callable[[], None]) -> None:
        def noted() -> None:
            try:
                do()
            except BaseException as error:  # it is raised again below
                raised.append(error)

        threads.append(threading.Thread(target=noted))
        threads[-1].start()

    yield start
    for thread in threads:
        thread.join()
    if raised:
        raise raised[0]


@pytest.mark.usefixtures("offline")
def test_a_board_computes_and_the_record_says_where(
    start_board: Board, assemble: Assemble, run_matrix: RunMatrix, sent_before: Path
) -> None:
    loopback = start_board(fresh=True)
    ran = run_matrix(suite_with(loopback, assemble), "*/board", jobs=2)
    assert {record.outcome for record in ran.records.values()} == {Outcome.PASS}
    record = ran.only("*/native/*")
    assert record.reach is Reach.REMOTE
    assert record.facts["network"] in {"namespace", "audit-hook"}
    assert re.match(r"OpenSSH_\S+, Linux ", record.environment["via"])
    assert "python" in record.environment
    assert any("sending" in said and "to board:" in said for said in ran.said)
    kept = {folder.name for folder in loopback.folder.iterdir() if any(folder.iterdir())}
    assert kept == {"envs", "bundles", "files", "runs"}, "what is of this run is there as long as the engine lives"
    if not sent_before.exists():
        shutil.copytree(loopback.folder / "envs", sent_before, copy_function=os.link, symlinks=True)


def inodes(folder: Path) -> dict[Path, int]:
    """Return every file and folder that is kept on a board, and which one of that name it is."""
    return {item: item.stat().st_ino for item in folder.glob("[ebf]*/**/*") if "__pycache__" not in item.parts}


@pytest.mark.usefixtures("offline")
def test_what_was_sent_is_not_sent_again(loopback: Loopback, assemble: Assemble, run_matrix: RunMatrix) -> None:
    root = suite_with(loopback, assemble)
    run_matrix(root, "*/board")
    before = inodes(loopback.folder)
    ran = run_matrix(root, "*/board", rerun=True)
    assert {record.outcome for record in ran.records.values()} == {Outcome.PASS}
    assert not [said for said in ran.said if "sending" in said]
    assert inodes(loopback.folder) == before


#: Faults of runtimes, each of which must come to the same on a board as here.
FAULTS = [
    "segfaults",
    "exits",
    "raises_run",
    "raises_load",
    "raises_exit",
    "prints_garbage",
    "no_output",
    "wrong",
    "nan",
]


@pytest.mark.usefixtures("offline")
def test_a_fault_of_a_runtime_comes_to_what_it_comes_to_here(
    loopback: Loopback, assemble: Assemble, run_matrix: RunMatrix
) -> None:
    root = suite_with(loopback, assemble, *(f"runtimes/{name}" for name in FAULTS))
    ran = run_matrix(root, "*/native/*", jobs=2)
    for name in FAULTS:
        here, there = (ran.only(f"*/{name}/{target}") for target in ("here", "board"))
        assert (*ended_at(there), there.reason) == (*ended_at(here), here.reason)
    crash = ran.only("*/segfaults/board")
    assert ended_at(crash) == (Outcome.FAIL, Stage.RUN)
    assert crash.reason == "the worker died of SIGSEGV (signal 11)"
    assert "Segmentation fault" in crash.log_tail


@pytest.mark.usefixtures("offline")
def test_cells_after_a_crash_go_on_in_a_new_worker(
    loopback: Loopback, assemble: Assemble, run_matrix: RunMatrix, tmp_path: Path
) -> None:
    root = suite_with(loopback, assemble, "runtimes/segfaults_once")
    # On the board its file lies alone, in a folder of its own.
    file = root / "runtimes" / "segfaults_once.py"
    file.write_text(
        file.read_text().replace('Path(__file__).with_name("segfaulted")', f"Path({str(tmp_path / 'm')!r})")
    )
    ran = run_matrix(root, "*/board")
    assert sorted(record.outcome for record in ran.records.values()) == [Outcome.FAIL, Outcome.PASS]


@pytest.mark.usefixtures("offline")
def test_a_hanging_worker_is_gone_there_too(
    loopback: Loopback, assemble: Assemble, run_matrix: RunMatrix, tmp_path: Path
) -> None:
    root = suite_with(loopback, assemble, "runtimes/plain", limits={"cell_seconds": 3})
    add_waiting(root, tmp_path / "mark")
    record = run_matrix(root, "*/native/waits/board").only()
    assert ended_at(record) == (Outcome.FAIL, Stage.RUN)
    assert record.reason == "did not end within 3 s"
    worker = int((tmp_path / "mark").read_text())
    eventually(lambda: ended(worker), "the end of the worker on the board")


@pytest.mark.usefixtures("offline")
def test_a_worker_that_eats_memory_is_stopped_there(
    loopback: Loopback, assemble: Assemble, run_matrix: RunMatrix
) -> None:
    root = suite_with(loopback, assemble, "runtimes/eats_memory", limits={"memory_mb": 400})
    record = run_matrix(root, "*/native/eats_memory/board").only()
    assert ended_at(record) == (Outcome.FAIL, Stage.RUN)
    used = re.fullmatch(r"used (\d+) MiB of memory; the limit is 400 MiB", record.reason)
    assert used
    assert int(used[1]) > 400


# --- Connections ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("offline")
def test_a_cut_connection_costs_the_cell_in_flight_and_the_next_one_connects_again(
    loopback: Loopback, assemble: Assemble, run_matrix: RunMatrix, tmp_path: Path, meanwhile: Callable[..., None]
) -> None:
    root = suite_with(loopback, assemble)
    mark = tmp_path / "mark"
    add_waiting(root, mark)

    def cut() -> None:
        eventually(mark.exists, "the worker's mark")
        loopback.cut()

    meanwhile(cut)
    ran = run_matrix(root, "*/waits/board")
    outcomes = {record.outcome: record for record in ran.records.values()}
    assert outcomes.keys() == {Outcome.ERROR, Outcome.PASS}
    lost = outcomes[Outcome.ERROR]
    assert (lost.stage, lost.reason) == (Stage.RUN, "the connection to board was lost")
    worker = int(mark.read_text())
    eventually(lambda: ended(worker), "the end of the worker that nobody asks any more")


@pytest.mark.usefixtures("offline")
def test_a_board_that_is_gone_for_good_fails_no_model(
    loopback: Loopback, assemble: Assemble, run_matrix: RunMatrix, tmp_path: Path, meanwhile: Callable[..., None]
) -> None:
    root = suite_with(loopback, assemble)
    mark = tmp_path / "mark"
    add_waiting(root, mark)

    def stop() -> None:
        eventually(mark.exists, "the worker's mark")
        loopback.stop()

    meanwhile(stop)
    ran = run_matrix(root, "*/waits/board")
    assert {record.outcome for record in ran.records.values()} == {Outcome.ERROR}
    first, *then = (record.reason for record in ran.records.values())
    assert first == "the connection to board was lost"
    for reason in then:
        assert "board does not answer over ssh: " in reason
        assert "Connection refused" in reason


def test_a_board_that_does_not_answer_is_not_run(loopback: Loopback, assemble: Assemble, run_matrix: RunMatrix) -> None:
    loopback.stop()
    ran = run_matrix(suite_with(loopback, assemble), "*/board")
    assert {ended_at(record) for record in ran.records.values()} == {(Outcome.NOT_RUN, Stage.PREPARE)}
    assert "board does not answer over ssh: " in ran.only("*/native/*").reason


def reason_of(ran: Ran) -> str:
    (reason,) = {record.reason for record in ran.records.values()}
    return reason


@pytest.mark.parametrize(
    ("changes", "outcome", "reason"),
    [
        ({"python": "no-such-python"}, Outcome.NOT_RUN, "board has no no-such-python, which options.python names: "),
        ({"python": "false"}, Outcome.NOT_RUN, "board answers, but nothing can be started there (exit status 1): "),
        ({"host": "nowhere.invalid"}, Outcome.NOT_RUN, "nowhere.invalid does not answer over ssh: "),
        ({"folder": "/proc/no"}, Outcome.NOT_RUN, "cannot write to /proc/no: "),
        ({"platform": {"arch": "sparc"}}, Outcome.ERROR, "board is not the platform that matrix.yaml says: arch is "),
    ],
)
def test_a_board_that_cannot_be_used_says_why(
    changes: dict[str, Any],
    outcome: Outcome,
    reason: str,
    loopback: Loopback,
    assemble: Assemble,
    run_matrix: RunMatrix,
) -> None:
    root = suite_with(loopback, assemble, targets=[entry(loopback, **changes)])
    ran = run_matrix(root, "*/board")
    assert {ended_at(record) for record in ran.records.values()} == {(outcome, Stage.PREPARE)}
    assert reason in reason_of(ran)


def test_an_identity_that_is_not_let_in(
    loopback: Loopback, assemble: Assemble, run_matrix: RunMatrix, tmp_path: Path
) -> None:
    make_key(tmp_path / "stranger")
    config = Path(loopback.options["config"])
    config.write_text(re.sub(r"  IdentityFile .*\n", "", config.read_text()))
    root = suite_with(loopback, assemble, targets=[entry(loopback, identity=str(tmp_path / "stranger"))])
    assert "board does not answer over ssh: " in reason_of(run_matrix(root, "*/board"))


def test_a_board_behind_another_host(loopback: Loopback) -> None:
    config = Path(loopback.options["config"])
    gate = config.read_text().replace("Host board\n", f"Host gate\n  Port {loopback.options['port']}\n")
    config.write_text(config.read_text() + gate)
    behind = Connection(Options.model_validate({**loopback.options, "jump": "gate"}))
    assert behind.facts().python == environments.own_interpreter().version
    assert len(loopback.sshd.children()) == 2, "one connection goes through the other"
    behind.close()


def test_a_login_shell_that_chatters_is_named(start_board: Board, assemble: Assemble, run_matrix: RunMatrix) -> None:
    loopback = start_board('ForceCommand echo Welcome, dear user; eval "$SSH_ORIGINAL_COMMAND"')
    reason = reason_of(run_matrix(suite_with(loopback, assemble), "*/board"))
    assert "the login shell of board prints 'Welcome, dear user'" in reason


def test_an_interpreter_that_is_too_old_is_not_run(
    loopback: Loopback, assemble: Assemble, run_matrix: RunMatrix
) -> None:
    ran = run_matrix(suite_with(loopback, assemble, "runtimes/from_the_future"), "*/from_the_future/board")
    assert {record.outcome for record in ran.records.values()} == {Outcome.NOT_RUN}
    assert "; board has 3." in reason_of(ran)


@pytest.mark.usefixtures("offline")
def test_requirements_that_nobody_made_for_the_board_are_a_finding(loopback: Loopback, store: Store) -> None:
    own = f"numpy=={np.__version__}"
    wanted = Wanted("unbuildable", EnvironmentSpec(requirements=(own, "nowhere==1")), this_machine(), loopback.way)
    with pytest.raises(EnvironmentFailure, match=r"nowhere==1.*; board itself has ") as failed:
        board.ensure(store, wanted, lambda _text: None, Patience(300))
    assert failed.value.unsupported
    assert not failed.value.unavailable
    assert not list(loopback.folder.glob("runs/*/coming/*"))


def without_wheels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Have an index that has nothing at all."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nothing"))


def test_a_boards_own_packages_do_where_there_are_no_wheels(
    start_board: Board,
    assemble: Assemble,
    run_matrix: RunMatrix,
    numpy_environment: Environment,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    loopback = start_board(fresh=True)
    without_wheels(monkeypatch, tmp_path)
    root = suite_with(loopback, assemble, targets=[entry(loopback, python=numpy_environment.python)])
    ran = run_matrix(root, "*/board")
    assert {record.outcome for record in ran.records.values()} == {Outcome.PASS}
    (described,) = loopback.folder.glob("envs/*/environment.json")
    assert '"own": true' in described.read_text()
    assert list(described.parent.iterdir()) == [described]


def debian_has(package: str) -> bool:
    if shutil.which("dpkg-query") is None:
        return False
    return subprocess.run(["dpkg-query", "--show", package], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(
    ("python", "debian", "outcome", "reason"),
    [
        ("own", "python3", Outcome.NOT_RUN, "Debian's packages are for /usr/bin/python3, which options.python should"),
        ("own", "python3-no-such", Outcome.NOT_RUN, "`apt-get install python3-no-such` would do instead"),
        ("/usr/bin/python3", "python3-numpy", Outcome.PASS, ""),
    ],
)
def test_debians_packages_on_a_board_take_the_place_of_wheels(
    python: str,
    debian: str,
    outcome: Outcome,
    reason: str,
    start_board: Board,
    assemble: Assemble,
    run_matrix: RunMatrix,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    if outcome is Outcome.PASS and not debian_has(debian):
        pytest.skip(f"this machine is no Debian with its numpy: apt-get install {debian}")
    loopback = start_board(fresh=True)
    without_wheels(monkeypatch, tmp_path)
    changes = {} if python == "own" else {"python": python}
    root = suite_with(loopback, assemble, targets=[entry(loopback, **changes)])
    file = root / "runtimes" / "plain.py"
    # A version that nobody has: it is Debian's, whatever that is, which is used then.
    declared = f'"python": ">=4.7", "requirements": ["numpy==0.0.7"], "debian": ["{debian}"]'
    file.write_text(re.sub(r'"requirements": \[.*\]', declared, file.read_text()))
    ran = run_matrix(root, "*/board")
    assert {record.outcome for record in ran.records.values()} == {outcome}
    assert reason in reason_of(ran)


# --- Two at once, and engines that die ------------------------------------------------------------------------------


@pytest.mark.usefixtures("offline")
def test_two_engines_use_one_board(
    start_board: Board,
    assemble: Assemble,
    start_engine: StartEngine,
    make_store: Callable[[Path], Store],
    tmp_path: Path,
) -> None:
    loopback = start_board(fresh=True)  # both send their environment
    root = suite_with(loopback, assemble)
    files = [tmp_path / f"{number}.jsonl" for number in range(2)]
    stores = [make_store(tmp_path / f"store-{number}").root for number in range(2)]
    engines = [
        start_engine("run", "*/board", "--suite", root, "--store", store, "-o", file)
        for store, file in zip(stores, files, strict=True)
    ]
    for engine, file in zip(engines, files, strict=True):
        status, output = engine.end()
        assert status == 0, output
        assert {record.outcome for record in records_of(file).values()} == {Outcome.PASS}
    assert loopback.left() == []
    assert len(list(loopback.folder.glob("envs/*"))) == 1


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("runtime", ["plain", "segfaults", "raises_run"])
def test_nothing_is_left_of_a_run_here_or_there(
    runtime: str, loopback: Loopback, assemble: Assemble, start_engine: StartEngine, tmp_path: Path, short_folder: Path
) -> None:
    root = suite_with(loopback, assemble, f"runtimes/{runtime}")
    file = tmp_path / "records.jsonl"
    status, output = start_engine("run", "*/native/*/board", "--suite", root, "-o", file).end()
    assert status == (0 if runtime == "plain" else 1), output
    (record,) = records_of(file).values()
    assert record.outcome is (Outcome.PASS if runtime == "plain" else Outcome.FAIL)
    assert record.reach is Reach.REMOTE
    assert loopback.left() == []
    eventually(lambda: not loopback.sessions(), "the end of all sessions")
    assert not processes_of(str(loopback.folder))
    assert not list(short_folder.glob("portmatrix-*"))


@pytest.mark.usefixtures("offline")
def test_an_interrupted_run_leaves_nothing_here_or_there(
    loopback: Loopback, assemble: Assemble, start_engine: StartEngine, tmp_path: Path, short_folder: Path
) -> None:
    root = suite_with(loopback, assemble)
    mark = tmp_path / "mark"
    add_waiting(root, mark)
    engine = start_engine("run", "*/native/waits/board", "--suite", root, "-o", tmp_path / "records.jsonl")
    eventually(mark.exists, "the worker's mark")
    everything = [*engine.below(), *loopback.sessions()]
    engine.interrupt()
    status, output = engine.end()
    assert status == 130, output
    assert ended(int(mark.read_text()))
    assert loopback.left() == []
    eventually(lambda: gone(everything), "the end of all that the engine had started, here and there")
    assert not list(short_folder.glob("portmatrix-*"))


@pytest.mark.usefixtures("offline")
def test_a_killed_engine_leaves_nothing_here_or_there(
    loopback: Loopback, assemble: Assemble, start_engine: StartEngine, tmp_path: Path, short_folder: Path
) -> None:
    root = suite_with(loopback, assemble)
    mark = tmp_path / "mark"
    add_waiting(root, mark)
    engine = start_engine("run", "*/native/waits/board", "--suite", root, "-o", tmp_path / "records.jsonl")
    eventually(mark.exists, "the worker's mark")
    assert loopback.left()
    assert list(short_folder.glob("portmatrix-*"))
    everything = [*engine.below(), *loopback.sessions()]
    engine.kill()
    eventually(lambda: gone(everything), "the end of all that the engine had started, here and there")
    assert ended(int(mark.read_text()))
    assert loopback.left() == []
    assert not list(short_folder.glob("portmatrix-*"))


@pytest.mark.usefixtures("offline")
def test_the_next_engine_cleans_up_where_the_board_died_as_well(
    loopback: Loopback,
    assemble: Assemble,
    start_engine: StartEngine,
    run_matrix: RunMatrix,
    tmp_path: Path,
    short_folder: Path,
) -> None:
    root = suite_with(loopback, assemble)
    mark = tmp_path / "mark"
    add_waiting(root, mark)
    engine = start_engine("run", "*/native/waits/board", "--suite", root, "-o", tmp_path / "records.jsonl")
    eventually(mark.exists, "the worker's mark")
    # All at once, as when the power fails: nobody is there any more to tidy up.
    everything = [*engine.below(), *loopback.sessions()]
    for process in everything:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.suspend()
    for process in [*everything, psutil.Process(engine.process.pid)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    engine.process.wait()
    eventually(lambda: gone(everything), "the end of all")
    left, here = loopback.left(), list(short_folder.glob("portmatrix-ssh-*"))
    if not (left and here):
        pytest.skip("they died in an order in which the last of them could still tidy up: nothing is left to be found")
    ran = run_matrix(root, "*/native/plain/board")
    assert ran.only().outcome is Outcome.PASS
    assert not set(left) & set(loopback.left())
    assert not [folder for folder in here if folder.exists()]


# --- A lease on a board ---------------------------------------------------------------------------------------------


class Leased(NamedTuple):
    """A lease on a worker on a board, and what it is to run."""

    lease: Lease
    runtime: Runtime
    bundle: Path
    store: Store

    def ask(self) -> run.RunOutput | Failure:
        """Run the bundle."""
        manifest = self.store.get_bundle(self.bundle.name)
        return run.read(run.ask(self.lease, self.runtime, self.bundle, manifest, LIMITS, 1))


@pytest.fixture
def leased(
    loopback: Loopback, assemble: Assemble, run_matrix: RunMatrix, store: Store, offline: None
) -> Iterator[Leased]:
    """A lease on a worker on the board."""
    ran = run_matrix(suite_with(loopback, assemble), "*/native/plain/here")
    runtime = ran.suite.plugins.runtimes["plain"]
    digest = ran.only().bundle
    assert digest
    wanted = Wanted("plain", runtime.environment, this_machine(), loopback.way)
    built = board.ensure(store, wanted, lambda _text: None, Patience(300))
    launch = environments.launch(built, "plain", runtime.environment, {})
    with store.scratch("worker") as folder:
        lease = Lease(launch, folder, LIMITS)
        yield Leased(lease, runtime, store.bundle_folder(digest), store)
        lease.close()


def test_a_folder_that_was_removed_between_two_requests_is_made_again(leased: Leased, loopback: Loopback) -> None:
    assert isinstance(leased.ask(), run.RunOutput)
    for folder in loopback.folder.glob("runs/*/scratch/*"):
        shutil.rmtree(folder)
    assert isinstance(leased.ask(), run.RunOutput)


def test_a_bundle_that_was_removed_is_sent_again(leased: Leased, loopback: Loopback) -> None:
    assert isinstance(leased.ask(), run.RunOutput)
    shutil.rmtree(loopback.folder / "bundles")
    (loopback.folder / "bundles").mkdir()
    assert isinstance(leased.ask(), run.RunOutput)


def test_a_bundle_that_a_bad_card_has_changed_is_sent_again(leased: Leased, loopback: Loopback) -> None:
    assert isinstance(leased.ask(), run.RunOutput)
    (file,) = loopback.folder.glob("bundles/*/artifact/model.npz")
    right = file.read_bytes()
    file.write_bytes(right[:-9] + b"#" + right[-8:])
    # An engine trusts what it has looked at itself, and no other's.
    loopback.cut()
    eventually(lambda: not loopback.sessions(), "the end of the connection")
    leased.ask()  # which may be the one that finds the connection lost
    assert isinstance(leased.ask(), run.RunOutput)
    assert file.read_bytes() == right


def test_an_environment_that_was_removed_is_no_fault_of_the_model(leased: Leased, loopback: Loopback) -> None:
    assert isinstance(leased.ask(), run.RunOutput)
    shutil.rmtree(loopback.folder / "envs")
    leased.lease.close()
    answer = leased.ask()
    assert isinstance(answer, Failure)
    assert (answer.fault, answer.stage) == ("harness", Stage.PREPARE)
    assert "the worker could not be started on board: OSError: " in answer.reason


def test_an_environment_without_its_description_is_made_again(leased: Leased, loopback: Loopback, store: Store) -> None:
    (description,) = loopback.folder.glob("envs/*/environment.json")
    description.unlink()
    wanted = Wanted("plain", leased.runtime.environment, this_machine(), loopback.way)
    board.ensure(store, wanted, lambda _text: None, Patience(300))
    assert description.is_file()
    assert isinstance(leased.ask(), run.RunOutput)


def test_our_files_that_were_removed_are_sent_again(leased: Leased, loopback: Loopback) -> None:
    assert isinstance(leased.ask(), run.RunOutput)
    shutil.rmtree(loopback.folder / "files")
    leased.lease.close()
    assert isinstance(leased.ask(), run.RunOutput)


def test_a_watch_that_was_killed_is_no_fault_of_the_model(leased: Leased, loopback: Loopback) -> None:
    assert isinstance(leased.ask(), run.RunOutput)
    (watch,) = [process for process in processes_of(str(loopback.folder)) if "watch" in process.cmdline()]
    children = watch.children()
    assert children
    watch.kill()
    eventually(lambda: gone(children), "the end of the worker")
    answer = leased.ask()
    assert isinstance(answer, Failure | run.RunOutput)
    if isinstance(answer, Failure):
        assert (answer.fault, answer.transient) == ("harness", True)
    assert isinstance(leased.ask(), run.RunOutput)


def test_a_worker_whose_keeper_dies_ends(leased: Leased, loopback: Loopback) -> None:
    assert isinstance(leased.ask(), run.RunOutput)
    (own,) = [process for process in loopback.sessions() if "keep" in process.cmdline()]
    watched = [process for process in loopback.sessions() if "watch" in process.cmdline()]
    assert watched
    own.kill()
    eventually(lambda: gone(watched), "the end of the watch")


# --- A program ------------------------------------------------------------------------------------------------------


def put_doubling(folder: Path) -> dict[str, Any]:
    """Write an ONNX model that doubles and a sample of it; returns the request to run it, without paths of folders."""
    (folder / "samples").mkdir(parents=True)
    np.save(folder / "samples" / "x.npy", np.arange(6, dtype=np.float32).reshape(1, 2, 3))
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "doubling", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "m.onnx")
    # What makes a bundle of a folder, and is not sent.
    (folder / "manifest.json").write_text("{}")
    tensor = {"dtype": "float32", "shape": [2, 3]}
    return {
        "op": "run",
        "format": "onnx",
        "signature": {"inputs": [{"name": "x", **tensor}], "outputs": [{"name": "y", **tensor}]},
        "sets": [{"batch": 2, "calls": 1, "inputs": {"x": "samples/x.npy"}}],
        "threads": 1,
    }


def test_a_program_runs_there_without_any_interpreter(loopback: Loopback, tmp_path: Path) -> None:
    source = KIND.parents[1] / "runtimes" / "onnxruntime-c.py"
    spec = EnvironmentSpec.model_validate(load_file("runtime", source).ENVIRONMENTS[""])
    # The compiler is large, and shared by everything of this user that compiles.
    store = Store(default_root())
    wanted = Wanted("onnxruntime-c", spec, this_machine(), loopback.way, source.with_suffix(".c"))
    built = board.ensure(store, wanted, lambda _text: None, Patience(600))
    assert built.interpreter_free
    assert built.versions.keys() == {"onnxruntime"}
    request = put_doubling(tmp_path / ("b" * 64))
    lease = Lease(environments.launch(built, "onnxruntime-c", spec, {}), tmp_path / "worker", LIMITS)
    bundle, exchange = lease.there(tmp_path / ("b" * 64)), lease.exchange()
    where = {"file": lease.there(source), "bundle": bundle, "entry": f"{bundle}/m.onnx"}
    answer = lease.ask({**request, **where, "outputs": lease.there(exchange)}, LIMITS)
    assert isinstance(answer, dict), answer
    lease.bring(exchange)
    made = np.load(exchange / answer["outputs"][0]["y"])
    lease.close()
    np.testing.assert_array_equal(made, 2 * np.arange(6, dtype=np.float32).reshape(1, 2, 3))
    assert lease.network in {"namespace", "none"}
    (kept,) = loopback.folder.glob("envs/board-program-*")
    assert not list(kept.rglob("*.py"))


# --- The connection -------------------------------------------------------------------------------------------------


@pytest.fixture
def connected(loopback: Loopback) -> Connection:
    """The connection to the board."""
    return connection.connection_to(Options.model_validate(loopback.options))


def test_folders_come_and_go_as_they_are(connected: Connection, tmp_path: Path) -> None:
    sent = tmp_path / "sent"
    (sent / "deep" / "er").mkdir(parents=True)
    (sent / "deep" / "er" / "file").write_bytes(os.urandom(3 << 20))
    (sent / "run").write_text("#!/bin/sh\n")
    (sent / "run").chmod(0o755)
    (sent / "link").symlink_to("/no/such/place")
    place = f"{connected.facts().folder}/envs/sent"
    connected.put(sent, place)
    assert keeper.digests(place + "/deep") == keeper.digests(str(sent / "deep"))
    assert os.access(f"{place}/run", os.X_OK)
    assert Path(place, "link").readlink() == Path("/no/such/place")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    there = Path(connected.scratch(scratch))
    (there / "below").mkdir()
    (there / "below" / "out.npy").write_bytes(b"1234")
    connected.fetch(scratch)
    assert (scratch / "below" / "out.npy").read_bytes() == b"1234"
    assert list(there.iterdir()) == []


def test_no_link_is_brought_from_a_board(connected: Connection, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    there = Path(connected.scratch(scratch))
    (there / "out.npy").symlink_to("/etc/passwd")
    with pytest.raises(OSError, match=r"'out\.npy', which is no plain file"):
        connected.fetch(scratch)
    assert not list(scratch.iterdir())
    assert connected.is_there(str(there)) == {"there": True}, "the connection is still of use"


def test_a_folder_whose_check_fails_is_not_put_there(connected: Connection, tmp_path: Path) -> None:
    sent = tmp_path / "sent"
    sent.mkdir()
    (sent / "check").write_text("#!/bin/sh\necho it has no wings\nexit 3\n")
    (sent / "check").chmod(0o755)
    place = f"{connected.facts().folder}/envs/sent"
    with pytest.raises(Refused, match="its check failed with status 3") as failed:
        connected.put(sent, place, ["check"])
    assert "it has no wings" in failed.value.log
    assert not Path(place).exists()
    assert not list(Path(connected.facts().run).glob("coming/*"))


def test_a_file_that_cannot_be_read_here_leaves_the_connection_whole(connected: Connection, tmp_path: Path) -> None:
    place = f"{connected.facts().folder}/envs/sent"
    with pytest.raises(FileNotFoundError):
        connected.put(tmp_path / "nothing", place)
    assert connected.is_there(place) == {"there": False}


def test_a_board_without_room_says_so(connected: Connection, tmp_path: Path) -> None:
    (tmp_path / "sent").mkdir()
    (tmp_path / "sent" / "file").write_bytes(b"1")
    with pytest.raises(Refused, match=r"board: (NotADirectoryError|FileExistsError)"):
        connected.put(tmp_path / "sent", f"{connected.options.config}/place")
    assert connected.facts()


def test_a_send_that_is_given_up_ends_soon(connected: Connection, tmp_path: Path) -> None:
    own = psutil.Process(connected.facts().pid)
    (tmp_path / "file").write_bytes(bytes(64 << 20))
    own.suspend()
    with pytest.raises(keeper.Lost, match="the run was stopped"):
        connected.put(tmp_path, f"{connected.options.folder}/envs/sent", stopped=lambda: True)
    own.resume()
    assert connected.facts().pid != own.pid, "it is connected again"


def test_the_earlier_keeper_of_an_engine_leaves_to_the_later_what_is_there(
    connected: Connection, tmp_path: Path
) -> None:
    first = connected.facts()
    there = Path(connected.scratch(tmp_path))
    master = connected._process
    assert master is not None
    # A connection that is dead to one side only: what is on the board has not noticed.
    again = Connection(connected.options)
    again._engine = connected._engine
    second = again.facts()
    eventually(lambda: ended(first.pid), "the end of the earlier keeper")
    assert second.run == first.run
    assert there.is_dir()
    again.close()
    assert not there.exists()


def test_the_shell_there_finds_a_home_folder(connected: Connection) -> None:
    python = connection._remote_word("~/a b/python3")
    told = subprocess.run(["sh", "-c", f"printf %s {python}"], capture_output=True, text=True, check=True)
    assert told.stdout == f"{Path.home()}/a b/python3"


# --- What a board is ------------------------------------------------------------------------------------------------


def facts(**changes: Any) -> Facts:
    described = {
        **keeper.describe(),
        "folder": "/f",
        "run": "/f/runs/e",
        "pid": 1,
        "lock": "/f/runs/e.lock",
        "inode": 1,
    }
    return Facts.model_validate({**described, **changes})


def test_this_machine_is_a_board_like_itself() -> None:
    assert board.platform_of(facts()) == this_machine()


@pytest.mark.parametrize(
    ("changes", "arch"),
    [
        ({"machine": "aarch64", "bits": 64}, "arm64"),
        ({"machine": "aarch64", "bits": 32}, "armhf"),
        ({"machine": "armv7l", "bits": 32}, "armhf"),
        ({"machine": "riscv64", "bits": 64}, "riscv64"),
        ({"system": "darwin", "machine": "arm64", "bits": 64}, "arm64"),
    ],
)
def test_a_processor_has_our_name(changes: dict[str, Any], arch: str) -> None:
    assert board.platform_of(facts(**changes)).arch == arch


def test_a_windows_board_is_refused() -> None:
    with pytest.raises(EnvironmentFailure, match="boards are Linux or macOS systems"):
        board.platform_of(facts(system="win32"))


@pytest.mark.parametrize(
    ("platform", "changes", "newest", "any_other"),
    [
        (
            {"os": "linux", "arch": "arm64", "libc": "glibc"},
            {"libc_version": "2.31"},
            "manylinux_2_31",
            "linux_aarch64",
        ),
        ({"os": "linux", "arch": "armhf", "libc": "glibc"}, {"libc_version": "2.17"}, "manylinux_2_17", "linux_armv7l"),
        ({"os": "linux", "arch": "x86_64", "libc": "musl"}, {"libc_version": "1.1"}, "musllinux_1_1", "linux_x86_64"),
        ({"os": "macos", "arch": "arm64"}, {"macos": "13.4", "libc_version": ""}, "macosx_13_0", "macosx_11_0_arm64"),
    ],
)
def test_wheels_are_for_the_boards_own_c_library(
    platform: dict[str, str], changes: dict[str, str], newest: str, any_other: str
) -> None:
    tags = board._tags(PlatformSpec.model_validate(platform), facts(**changes), "3.11").platforms
    assert tags[0].startswith(newest)
    assert any_other in tags


def test_the_kind_the_place_and_the_page_know_the_same_options() -> None:
    kind = load_file("target", KIND)
    assert list(kind.OPTIONS) == list(Options.model_fields)
    page = (KIND.parents[1] / "docs" / "adding-a-target.md").read_text(encoding="utf-8")
    table = page.partition("| option | what it is |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(Options.model_fields)
    defaults = {name: field.default for name, field in Options.model_fields.items() if field.default}
    for name in ("python", "folder"):
        assert re.search(rf"^\| `{name}` \|.*\| `{re.escape(defaults[name])}` \|$", table, re.MULTILINE)


@pytest.mark.parametrize(
    "options",
    [
        {"host": "me@board", "port": 65535, "identity": "~/.ssh/k", "config": "/c", "jump": "gate", "python": "p 3"},
        {"host": "board", "port": 1},
        {"host": "-oProxyCommand=x"},
        {"host": "a b"},
        {"host": ""},
        {"host": "a", "port": 0},
        {"host": "a", "port": 65536},
        {"host": "a", "identity": "key"},
        {"host": "a", "jump": "-x"},
        {"host": "a", "python": ""},
        {"host": "a", "folder": ""},
    ],
)
def test_the_kind_and_the_place_take_the_same_values(options: dict[str, Any]) -> None:
    wanted = {name: OptionSpec.model_validate(value) for name, value in load_file("target", KIND).OPTIONS.items()}
    way = Way(reach=Reach.REMOTE, place="board", options=options)
    fits = all(wanted[name].fits(value) for name, value in options.items())
    assert fits is (board.lacking(way, this_machine()) is None)


def test_the_kind_has_no_way_without_a_host() -> None:
    (way,) = load_file("target", KIND).reach(this_machine().model_dump())
    assert NoWay.model_validate(way).why == "no entry of matrix.yaml names its host"


def test_a_way_with_wrong_options_leads_nowhere() -> None:
    way = Way(reach=Reach.REMOTE, place="board", options={"host": "-oProxyCommand=x", "prot": 22})
    lacking = board.lacking(way, this_machine())
    assert isinstance(lacking, NoWay)
    assert "host: " in lacking.why
    assert "prot: " in lacking.why


def test_a_way_to_windows_leads_nowhere(loopback: Loopback) -> None:
    lacking = board.lacking(loopback.way, PlatformSpec(os="windows", arch="x86_64"))
    assert lacking == NoWay(why="boards are Linux or macOS systems, not windows", install="use a board with Linux")


def test_without_an_ssh_client_it_says_what_to_install(loopback: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    assert board.lacking(loopback.way, this_machine()) is None
    monkeypatch.setenv("PATH", "/nowhere")
    lacking = board.lacking(loopback.way, this_machine())
    assert lacking == NoWay(why="this machine has no ssh client", install="apt-get install openssh-client")


# --- The keeper alone -----------------------------------------------------------------------------------------------

KEEPER = Path(keeper.__file__)


def test_the_keeper_is_written_in_the_syntax_of_python_3_6_and_needs_the_standard_library_alone() -> None:
    tree = ast.parse(KEEPER.read_bytes(), feature_version=(3, 6))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.NamedExpr | ast.Match)]
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported <= {*sys.stdlib_module_names}


@pytest.mark.parametrize("version", ["3.6", "3.7", "3.8", "3.9"])
def test_the_keeper_works_on_an_old_interpreter(
    version: str, loopback: Loopback, start_board: Board, tmp_path: Path
) -> None:
    python = old_interpreter(version)
    if python is None:
        pytest.skip(f"there is no Python {version} on this machine")
    old = Connection(Options.model_validate({**loopback.options, "python": python}))
    try:
        assert old.facts().python.startswith(version)
        test_folders_come_and_go_as_they_are(old, tmp_path)
        assert old.packages((), ()) == {"python": {}, "debian": {}}
        order = {"mark": old.mark("w"), "folder": old.scratch(tmp_path), "env": {"A": "b"}, "closure": []}
        command = [*("/bin/sh", "-c", 'read line; echo "$A $line"; exit 7')]
        ran = subprocess.run(
            old.command({**order, "command": command, "memory_mb": 1000}),
            input=b"c\n",
            capture_output=True,
            check=False,
        )
        assert (ran.stdout, ran.returncode) == (b"b c\n", 7)
        assert old.ended("w") == {"how": {"status": 7}}
    finally:
        old.close()


def test_processes_and_memory_are_told_alike_by_linux_and_by_ps() -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("Linux has both")
    child = subprocess.Popen(["sleep", "60"])
    try:
        parents, sizes = keeper._by_ps()
        assert parents[child.pid] == keeper._parents()[child.pid] == os.getpid()
        assert keeper._descendants(os.getpid(), parents)[0] == os.getpid()
        assert child.pid in keeper._descendants(os.getpid(), keeper._parents())
        assert sizes[os.getpid()] == pytest.approx(keeper._resident(os.getpid()) / 1024, rel=0.1)
        assert keeper._resident(child.pid) > 0
    finally:
        child.kill()
        child.wait()


def test_the_unreachable_is_not_tried_again_at_once(loopback: Loopback, connected: Connection) -> None:
    loopback.stop()
    with pytest.raises(Unreachable, match="Connection refused"):
        connected.facts()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", loopback.options["port"]))
        listener.listen()
        listener.settimeout(0.2)
        with pytest.raises(Unreachable, match="Connection refused"):
            connected.facts()
        with pytest.raises(TimeoutError):
            listener.accept()
