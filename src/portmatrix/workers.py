"""The engine's end of a worker: starts it behind closed doors, asks it, and says how it ended if it did not answer."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import psutil

from portmatrix.sites import Ending, Inside, Site, died_of, signal_name
from portmatrix.types import Stage

WORKER = Path(__file__).with_name("worker.py")
#: The file in a worker's folder that everything it prints goes to.
LOG = "worker.log"
#: What a failing cell keeps of its worker's log, in characters.
LOG_TAIL = 4000
#: A worker that writes more than this into its log (bytes) in one request is stopped.
LOG_BYTES = 64 << 20
_POLL_SECONDS = 0.05
_CHILDREN_SECONDS = 0.5
_START_SECONDS = 120
_GONE_SECONDS = 5
#: The only variables of the engine's own environment that a worker sees.
_KEPT = (
    "LANG",
    "LC_ALL",
    "TZ",
    "LD_LIBRARY_PATH",
    "SYSTEMROOT",
    "WINDIR",
    "COMSPEC",
    "PATHEXT",
    "NUMBER_OF_PROCESSORS",
)


class Limits(NamedTuple):
    """What one request may take: wall-clock seconds, and resident memory of the worker in MiB."""

    seconds: float
    memory_mb: int


class Launch(NamedTuple):
    """How a worker is started: the command prefix that leads to its target, its command, and its environment.

    ``name`` says whose worker it is (for logs and messages), ``packages`` whose versions it is to state. ``command`` is
    the worker's own: an interpreter with the worker's file, or a program. ``site`` is where it runs if that is not
    simply this machine, and ``shared`` the folders that it sees there (True: to write). ``versions`` are those of
    packages that it cannot tell of itself; ``interpreter_free`` says that nothing interprets it; ``plugin`` is the file
    of a runtime that may have versions of its own to tell, or may find that this machine lacks what it drives.
    """

    name: str
    prefix: tuple[str, ...]
    command: tuple[str, ...]
    env: Mapping[str, str]
    network: bool
    packages: tuple[str, ...]
    site: Site | None = None
    shared: Mapping[Path, bool] = {}
    versions: Mapping[str, str] = {}
    interpreter_free: bool = False
    plugin: Path | None = None

    @property
    def closed_by(self) -> str:
        """How the worker is cut off the network, where it is, in the word that records use."""
        return network_closure()[1] if self.site is None else self.site.network

    def there(self, path: Path) -> str:
        """Return what a path of this machine is called where the worker runs; what it names is there then.

        Raises ``OSError`` where it cannot be brought there.
        """
        return str(path) if self.site is None else self.site.there(path)


def in_python(python: str) -> tuple[str, ...]:
    """Return the command of a worker in the interpreter ``python``, which sees nothing of its user's packages."""
    return (python, "-I", str(WORKER))


class Failure(NamedTuple):
    """A request that did not succeed.

    ``fault`` is ``model`` where the plug-in's own function failed or took its worker down (a finding), ``harness``
    where the cause lies with us or the machine. A ``transient`` one rests on a limit or on how busy the machine was. An
    ``unavailable`` one means that nothing was tried, for want of something that this machine does not have.
    """

    stage: Stage
    reason: str
    fault: Literal["model", "harness"]
    log_tail: str = ""
    transient: bool = False
    unavailable: bool = False


@functools.cache
def network_closure() -> tuple[tuple[str, ...], str]:
    """Return how workers are cut off the network here: a command prefix, and its name for the record.

    Linux gives a process an empty network namespace (``unshare --net``, as root or through a user namespace). Where
    that is not to be had, an audit hook inside the worker refuses what goes through Python's own socket module; code
    that brings its own networking is then not held, and the record says ``audit-hook`` rather than ``namespace``.
    """
    unshare = shutil.which("unshare") if sys.platform.startswith("linux") else None
    if unshare:
        for options in (("--net",), ("--map-root-user", "--net")):
            probe = subprocess.run([unshare, *options, "true"], capture_output=True, check=False)
            if probe.returncode == 0:
                return (unshare, *options), "namespace"
    return (), "audit-hook"


def worker_environment(launch: Launch, folder: Path, threads: int) -> dict[str, str]:
    """Return the whole environment of a worker: nothing of the engine's own but a short list, and no way to install."""
    env = {}
    if launch.site is None:
        env = {name: os.environ[name] for name in _KEPT if name in os.environ}
        binaries = str(Path(launch.command[0]).parent)
        env["PATH"] = os.pathsep.join([binaries, os.environ.get("PATH", os.defpath)])
    env.setdefault("LANG", "C.UTF-8")
    for name in ("HOME", "USERPROFILE", "TMPDIR", "TEMP", "TMP", "XDG_CACHE_HOME"):
        env[name] = launch.there(folder)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
        env[name] = str(threads)
    env.update(PIP_NO_INDEX="1", PIP_REQUIRE_VIRTUALENV="1", PIP_CONFIG_FILE=os.devnull, PIP_NO_INPUT="1")
    env.update(launch.env)
    if not launch.network:
        env["PORTMATRIX_NETWORK"] = launch.closed_by
    return env


class Worker:
    """A running worker process. Not for use by more than one thread at a time."""

    def __init__(self, launch: Launch, folder: Path, threads: int = 1, memory_mb: int = 4096) -> None:
        """Start it with ``folder`` as its home and log place; raises ``OSError`` if it cannot be started at all.

        ``memory_mb`` is where a container's own limit is set.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.launch = launch
        self.folder = folder
        self.log = folder / LOG
        self.environment: dict[str, str] = {}
        self._stage = Stage.PREPARE
        self._asked = 0
        self._answers: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        env = worker_environment(launch, folder, threads)
        self._inside = self._seen(env, threads, memory_mb)
        command = self._command()
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=folder,
                env=env if launch.site is None else None,
                start_new_session=True,
            )
        self._watched = psutil.Process(self._process.pid)
        self._children: list[psutil.Process] = []
        self._children_looked_for = 0.0
        self._reader = threading.Thread(target=self._read, name=f"reader of {launch.name}", daemon=True)
        self._reader.start()

    def _seen(self, env: Mapping[str, str], threads: int, memory_mb: int) -> Inside:
        launch = self.launch
        name = f"portmatrix-{os.getpid()}-{uuid.uuid4().hex[:12]}"
        shared = {WORKER.parent: False, **launch.shared, self.folder: True}
        return Inside(name, self.folder, env, shared, memory_mb, launch.network, threads)

    def _command(self) -> list[str]:
        launch = self.launch
        if launch.site is not None:
            return [*launch.prefix, *launch.site.wrap(self._inside, launch.command)]
        closure = () if launch.network else network_closure()[0]
        return [*launch.prefix, *closure, *launch.command]

    @property
    def alive(self) -> bool:
        """Whether the process is still there to be asked."""
        return self._process.poll() is None

    def hello(self, limits: Limits) -> Failure | None:
        """Ask the worker what it is, into ``environment``; returns why it could not say."""
        request: dict[str, Any] = {"op": "hello", "packages": list(self.launch.packages)}
        if self.launch.plugin is not None:
            request["file"] = self.launch.there(self.launch.plugin)
        answer = self.ask(request, limits)
        if isinstance(answer, Failure):
            return answer._replace(stage=Stage.PREPARE, fault="harness")
        if answer.get("unavailable"):
            return Failure(Stage.PREPARE, str(answer["unavailable"]), "harness", unavailable=True)
        self.environment = {**answer["environment"], **self.launch.versions}
        if self.launch.site is not None and self.launch.site.via:
            self.environment["via"] = self.launch.site.via
        return None

    def ask(
        self, request: Mapping[str, Any], limits: Limits, sent: Callable[[], None] | None = None
    ) -> dict[str, Any] | Failure:
        """Send one request and return its answer, or why there is none; ``sent`` is called in between.

        A worker that hangs, outgrows its memory or dies is gone afterwards (``alive`` is False).
        """
        self._asked += 1
        self._stage = Stage.PREPARE
        start = self._log_size()
        line = json.dumps({**request, "id": self._asked}).encode() + b"\n"
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(line)
            self._process.stdin.flush()
        except (OSError, ValueError):  # ValueError: another thread has killed it, and closed the pipe
            return self._ended(start, None)
        if sent is not None:
            sent()
        return self._answer(start, limits)

    def _answer(self, start: int, limits: Limits) -> dict[str, Any] | Failure:
        deadline = time.monotonic() + limits.seconds
        while True:
            try:
                message = self._answers.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                stopped = self._over_limit(deadline, limits, start)
                if stopped:
                    return self._ended(start, stopped)
                continue
            if message is None:
                return self._ended(start, None)
            if not message:
                return self._ended(start, "it wrote something that is no answer into the protocol", fault="harness")
            if message["id"] == self._asked:
                return message if message["ok"] else self._failure(message, start)

    def _failure(self, message: Mapping[str, Any], start: int) -> Failure:
        fault: Literal["model", "harness"] = "model" if message["fault"] == "model" else "harness"
        return Failure(Stage(message["stage"]), str(message["reason"]), fault, self.log_tail(start))

    def _over_limit(self, deadline: float, limits: Limits, start: int) -> str:
        if time.monotonic() > deadline:
            return f"did not end within {limits.seconds:g} s"
        memory = self._memory_mb()
        if memory > limits.memory_mb:
            return f"used {memory} MiB of memory; the limit is {limits.memory_mb} MiB"
        written = self._log_size() - start
        if written > LOG_BYTES:
            return f"wrote more than {LOG_BYTES >> 20} MiB into its log"
        return ""

    def _memory_mb(self) -> int:
        """Return the resident memory of the worker and of what it has started, in MiB."""
        total = 0
        with contextlib.suppress(psutil.Error):
            total = int(self._watched.memory_info().rss)
            if time.monotonic() > self._children_looked_for + _CHILDREN_SECONDS:
                # To look for children is to read every process there is, so that is done more seldom.
                self._children = self._watched.children(recursive=True)
                self._children_looked_for = time.monotonic()
        for child in self._children:
            with contextlib.suppress(psutil.Error):
                total += int(child.memory_info().rss)
        return total >> 20

    def _ended(self, start: int, stopped: str | None, *, fault: Literal["model", "harness"] = "model") -> Failure:
        """Return the failure for a worker that died by itself (``stopped`` None) or has to be stopped now."""
        if stopped is not None:
            self.kill()
            return Failure(self._stage, stopped, fault, self.log_tail(start), transient=True)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=10)
        # Asked before what is left is removed: how a container ended is known as long as there is one.
        code = self._process.poll()
        site = self.launch.site
        found = site.ending(self._inside, code) if site is not None and code is not None else None
        self.kill()
        found = found or _ending(self._process.returncode)
        if found.died and site is not None and site.emulator:
            why = f"{found.reason} under {site.emulator}: whether it would have elsewhere, only a native run can tell"
            found = Ending(why, "harness")
        return Failure(self._stage, found.reason, found.fault, self.log_tail(start), found.transient)

    def _log_size(self) -> int:
        try:
            return self.log.stat().st_size
        except OSError:
            return 0

    def log_tail(self, start: int = 0) -> str:
        """Return the end of the log since byte ``start``, as text, at most ``LOG_TAIL`` characters."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(start, self._log_size() - 4 * LOG_TAIL))
                text = log.read().decode("utf-8", "replace").replace("\r\n", "\n")
                return text[-LOG_TAIL:].strip()
        except OSError:
            return ""

    def _read(self) -> None:
        """Note each stage and pass on each answer: an empty one for what is none, None for the end."""
        assert self._process.stdout is not None
        with contextlib.suppress(OSError, ValueError):
            for line in self._process.stdout:
                message = _parse(line)
                if message is not None and "event" in message:
                    self._stage = Stage(message["stage"])
                else:
                    self._answers.put(message or {})
        self._answers.put(None)

    def kill(self) -> None:
        """End the worker and everything it started, at once."""
        descendants = self._descendants()
        if os.name == "posix":
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        else:
            self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=10)
        for process in descendants:
            with contextlib.suppress(psutil.Error):
                process.kill()
        # Until they are gone they write into the folder that is about to be removed.
        deadline = time.monotonic() + _GONE_SECONDS
        while any(map(_lives, descendants)) and time.monotonic() < deadline:
            time.sleep(0.005)
        if self.launch.site is not None:
            self.launch.site.end(self._inside)
        self._close_pipes()

    def _descendants(self) -> list[psutil.Process]:
        """Return what the worker has started, as far as it is known: also what has left its process group."""
        found = set(self._children)
        with contextlib.suppress(psutil.Error):
            found.update(self._watched.children(recursive=True))
        return [process for process in found if process.is_running()]

    def close(self) -> None:
        """End the worker in good order: close its input, wait a moment, then kill what is left."""
        if self.alive and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=5)
        self.kill()

    def _close_pipes(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def _lives(process: psutil.Process) -> bool:
    """Return whether a process is there, and not merely waiting for its parent to take notice."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _parse(line: bytes) -> dict[str, Any] | None:
    """Return the message in one protocol line, or None if it is not one."""
    try:
        message = json.loads(line)
    except ValueError:
        return None
    if not isinstance(message, dict):
        return None
    if "event" in message:
        return message if message.get("stage") in Stage.__members__ else None
    return message if {"id", "ok"} <= message.keys() else None


def start(launch: Launch, folder: Path, threads: int, limits: Limits) -> Worker | Failure:
    """Return a worker that has said hello, or why there is none; ``folder`` becomes its home."""
    try:
        worker = Worker(launch, folder, threads, limits.memory_mb)
    except OSError as error:
        return Failure(Stage.PREPARE, f"could not start {launch.name}'s worker: {error}", "harness", transient=True)
    try:
        failure = worker.hello(Limits(max(limits.seconds, _START_SECONDS), limits.memory_mb))
    except OSError as error:  # the plug-in's file could not be brought to where the worker is
        failure = Failure(Stage.PREPARE, f"could not start {launch.name}'s worker: {error}", "harness", transient=True)
    if failure is None:
        return worker
    worker.kill()
    return failure


def _ending(code: int) -> Ending:
    """Return what the exit status of a process of this machine means."""
    if code < 0:
        return died_of(signal_name(-code))
    return Ending(f"the worker ended itself with status {code}", "model")


class Lease:
    """A worker that is there when asked: started at the first request, and again after it died."""

    def __init__(self, launch: Launch, folder: Path, limits: Limits, threads: int = 1) -> None:
        self._launch = launch._replace(shared={**launch.shared, folder: True})
        self._folder = folder
        self._limits = limits
        self._threads = threads
        self._worker: Worker | None = None
        self._started = 0
        self._exchange: list[Path] = []
        self._killed = False
        self._unavailable: Failure | None = None
        self.environment: dict[str, str] = {}

    @property
    def network(self) -> str:
        """How this worker's network is closed, in the word that records use."""
        return "open" if self._launch.network else self._launch.closed_by

    @property
    def interpreter_free(self) -> bool:
        """Whether the worker is a program that nothing interprets."""
        return self._launch.interpreter_free

    def there(self, path: Path) -> str:
        """Return what a path of this machine is called where the worker runs; what it names is there then.

        Raises ``OSError`` where it cannot be brought there.
        """
        return self._launch.there(path)

    def bring(self, folder: Path) -> None:
        """Fetch what the worker wrote into ``folder``, if it wrote elsewhere; raises ``OSError``."""
        if self._launch.site is not None:
            self._launch.site.bring(folder)

    def exchange(self) -> Path:
        """Return a folder through which the worker can hand over files, which lie there until the call after next.

        There are two, in turn: to make and remove a folder for every request costs more than most requests.
        """
        if not self._exchange:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._exchange = [Path(tempfile.mkdtemp(prefix="exchange-", dir=self._folder)) for _ in range(2)]
        self._exchange.reverse()
        return self._exchange[0]

    def ask(
        self, request: Mapping[str, Any], limits: Limits, sent: Callable[[], None] | None = None
    ) -> dict[str, Any] | Failure:
        """Return the worker's answer, or why there is none; the next call finds a living worker again.

        ``sent`` is called when the worker has the request.
        """
        if self._unavailable is not None:
            return self._unavailable
        if self._worker is not None and not self._worker.alive:
            self._worker.kill()  # it died between two requests: what it leaves is removed
            self._worker = None
        if self._worker is None:
            started = start(self._launch, self._folder / f"worker-{self._started}", self._threads, self._limits)
            self._started += 1
            if isinstance(started, Failure):
                self._unavailable = started if started.unavailable else None
                return started
            self._worker = started
            self.environment = started.environment
        if self._killed:  # while it was being started
            self._worker.kill()
        return self._worker.ask(request, limits, sent)

    def close(self) -> None:
        """End the worker, if there is one."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def kill(self) -> None:
        """End the worker at once and for good, from any thread; a request in flight comes back as a failure."""
        self._killed = True
        worker = self._worker
        if worker is not None:
            worker.kill()
