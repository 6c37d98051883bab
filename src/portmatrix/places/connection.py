"""A connection to a board: one ssh master for the whole engine, and requests to the keeper at its far end.

Every worker's session goes through the same master (ControlMaster), so that only the first pays for a handshake. All
that hangs on the connection ends with it, and it ends with the engine, however that ends: the keeper's input does.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import json
import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import psutil
from pydantic import Field

from portmatrix.bundle import MANIFEST
from portmatrix.commands import Stopped, never
from portmatrix.places import keeper
from portmatrix.types import Frozen

KEEPER = Path(keeper.__file__)
_CONNECT_SECONDS = 10
#: How long the keeper may take to say something after it was sent for: a board may be slow to start an interpreter.
_START_SECONDS = 60
#: A connection is given up when so many questions, so many seconds apart, have had no answer.
_ALIVE = (10, 3)
#: How long a board that did not answer is not asked again, in seconds (each try may take ``_CONNECT_SECONDS``): one
#: that was there before, and one that was not.
_PAUSE_SECONDS, _ABSENT_SECONDS = 30, 600
#: What a path of a socket may be long, less what ssh puts behind it while it makes one (unix(4) of BSD: 104).
_SOCKET_PATH = 104 - 18
#: How the names of folders for sockets begin; what follows is the engine's process id.
_SOCKETS = "portmatrix-ssh-"
#: Runs a command and removes a folder when it has ended, so that nothing of it stays even if the engine is killed.
_TIDILY = ("/bin/sh", "-c", '"$@"; status=$?; rm -rf "$0"; exit $status')
#: Reads the keeper's source, whose length comes on a line of its own, and becomes it.
_BOOT = (
    'import sys; sys.version_info >= (3, 6) or sys.exit("it is Python %s; 3.6 or later is needed" % sys.version[:6]); '
    'exec(compile(sys.stdin.buffer.read(int(sys.stdin.buffer.readline())), "keeper", "exec"))'
)


class Unreachable(OSError):
    """The board cannot be connected to, or what is there cannot be used."""


class Options(Frozen):
    """How a board is reached: what ssh is to be told, the interpreter there, and the folder for our files there."""

    host: str = Field(pattern=r"^[^\s-]\S*$")
    port: int | None = Field(default=None, ge=1, le=65535)
    identity: str = Field(default="", pattern=r"^([~/].*)?$")
    config: str = Field(default="", pattern=r"^([~/].*)?$")
    jump: str = Field(default="", pattern=r"^([^\s-]\S*)?$")
    python: str = Field(default="python3", min_length=1)
    folder: str = Field(default="~/.cache/portmatrix", min_length=1)


class Facts(Frozen):
    """What the keeper says of the board, of the interpreter there, and of itself; see ``keeper.describe``."""

    python: str
    implementation: str
    executable: str
    base: str
    system: str
    machine: str
    bits: int
    endian: str
    libc: str
    libc_version: str
    macos: str
    kernel: str
    processor: str
    closure: tuple[str, ...]
    folder: str
    run: str
    pid: int
    lock: str
    inode: int


class Connection:
    """The way to one board; opened when it is first needed, and again when it was lost. For use by any thread.

    Every method that needs the board raises ``OSError`` where it cannot be had: ``Unreachable`` if it does not answer,
    ``keeper.Lost`` if it answered before.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self._engine = uuid.uuid4().hex[:12]
        self._asking = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._stream: keeper.Stream | None = None
        self._facts: Facts | None = None
        self._socket = Path()
        self._told: IO[bytes] | None = None
        self._unreachable: tuple[float, Unreachable] | None = None
        self._was_there = False
        self._deadline = 0.0
        self._stopped: Stopped = never
        self._heart: threading.Thread | None = None
        self._checked: set[str] = set()
        self._packages: dict[tuple[tuple[str, ...], ...], dict[str, Any]] = {}
        self._closed = threading.Event()

    # The connection itself

    def facts(self) -> Facts:
        """Return what the board is, after it has been connected to."""
        with self._asking:
            return self._connected()

    def _connected(self) -> Facts:
        if self._process is not None and self._process.poll() is not None:
            self._drop()
        if self._process is not None and self._facts is not None:
            return self._facts
        if self._unreachable is not None and time.monotonic() < self._unreachable[0]:
            raise Unreachable(*self._unreachable[1].args)
        try:
            self._facts = self._open()
        except Unreachable as error:
            pause = _PAUSE_SECONDS if self._was_there else _ABSENT_SECONDS
            self._unreachable = (time.monotonic() + pause, error)
            raise
        finally:
            if self._facts is None:
                self._drop()
        self._was_there = True
        return self._facts

    def _open(self) -> Facts:
        self._socket = _socket_folder() / "s"
        self._told = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the connection
        boot = f"exec {_remote_word(self.options.python)} -I -c '{_BOOT}' keep {shlex.quote(self.options.folder)}"
        self._process = subprocess.Popen(
            [*_TIDILY, str(self._socket.parent), *self._ssh("yes"), f"{boot} {self._engine}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._told,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdin.fileno(), False)
        self._stream = keeper.Stream(self._process.stdout.fileno(), self._look)
        self._deadline = time.monotonic() + _START_SECONDS
        noise = self._greeted(self._stream)
        self._deadline = 0.0
        if noise:
            why = f"the login shell of {self.options.host} prints {noise[:80]!r} before a command begins"
            raise Unreachable(f"{why}; its start-up files must be silent where there is no terminal")
        if self._heart is None:
            self._heart = threading.Thread(target=self._beat, name=f"heartbeat to {self.options.host}", daemon=True)
            self._heart.start()
        return Facts.model_validate(self._answer(self._stream))

    def _greeted(self, stream: keeper.Stream) -> str:
        """Return what was said before the keeper began to speak; raises ``Unreachable`` if it never did."""
        source = KEEPER.read_bytes()
        heard: list[bytes] = []
        try:
            self._write(b"%d\n" % len(source) + source)
            while (line := stream.line()) != keeper.MARK:
                heard.append(line)
        except OSError as error:
            raise self._refused(error) from error
        return b" ".join(heard).decode("utf-8", "replace").strip()

    def _refused(self, error: OSError) -> Unreachable:
        """Return what ssh, or the shell at the other end, said of why there is no keeper."""
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        status = self._process.poll()
        lines = [line.strip() for line in self._said().splitlines()] if status is not None else []
        why = "; ".join(filter(None, lines[-3:])) or str(error)
        host = self.options.host
        if status in (126, 127):
            return Unreachable(f"{host} has no {self.options.python}, which options.python names: {why}")
        if status == 255 or status is None:
            return Unreachable(f"{host} does not answer over ssh: {why}")
        what = "a board is a Linux or macOS system with Python 3.6 or later"
        return Unreachable(f"{host} answers, but nothing can be started there (exit status {status}): {why}; {what}")

    def _said(self) -> str:
        assert self._told is not None
        self._told.seek(0)
        return self._told.read().decode("utf-8", "replace").strip()

    def _look(self) -> None:
        if self._deadline and time.monotonic() > self._deadline:
            raise keeper.Lost(f"it did not answer within {_START_SECONDS} s")
        if self._stopped():
            raise keeper.Lost("the run was stopped")

    def _ssh(self, master: str) -> list[str]:
        """Return the ssh command up to what is to be run there."""
        options = self.options
        interval, count = _ALIVE
        fixed = {
            "BatchMode": "yes",
            "ConnectTimeout": _CONNECT_SECONDS,
            "ServerAliveInterval": interval,
            "ServerAliveCountMax": count,
            "ControlMaster": master,
            "ControlPath": self._socket,
            "ControlPersist": "no",
            "ClearAllForwardings": "yes",
            "ForwardAgent": "no",
            "ForwardX11": "no",
            "PermitLocalCommand": "no",
            "RemoteCommand": "none",
            **({"IdentitiesOnly": "yes"} if options.identity else {}),
        }
        line = ["ssh", "-T"]
        for flag, value in (("-F", options.config), ("-i", options.identity)):
            line += [flag, str(Path(value).expanduser())] if value else []
        for flag, value in (("-J", options.jump), ("-p", str(options.port or ""))):
            line += [flag, value] if value else []
        return [*line, *(part for name, value in fixed.items() for part in ("-o", f"{name}={value}")), options.host]

    def _beat(self) -> None:
        """Let the keeper know from time to time that the engine is there: a connection can die without a word."""
        while not self._closed.wait(keeper.SILENCE / 4):
            if self._asking.acquire(blocking=False):
                try:
                    if self._process is not None:
                        self._write(b"\n")
                except OSError:
                    self._drop()
                finally:
                    self._asking.release()

    def _drop(self) -> None:
        """Forget a connection that is lost or was never there, with what is left of it here."""
        process, self._process = self._process, None
        self._facts = self._stream = None
        self._checked.clear()
        self._packages.clear()
        if process is None:
            return
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(self._socket.parent, ignore_errors=True)
        if self._told is not None:
            self._told.close()

    def close(self) -> None:
        """End the connection; what was on the board for this run is removed there."""
        self._closed.set()
        with self._asking:
            process = self._process
            if process is not None and process.stdin is not None:
                with contextlib.suppress(OSError):
                    process.stdin.close()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=10)
            self._drop()

    # Requests

    def ask(
        self,
        op: str,
        fields: Mapping[str, Any],
        send: Callable[[Callable[[bytes], None]], None] | None = None,
        receive: Path | None = None,
        stopped: Stopped = never,
    ) -> dict[str, Any]:
        """Return the keeper's answer; ``send`` writes the files that go with the request, ``receive`` is where those
        that come back are put, ``stopped`` is asked whether to give up.

        Raises ``OSError`` with the keeper's own reason where the board could not do it.
        """
        with self._asking:
            self._connected()
            return self._ask({"op": op, **fields}, send, receive, stopped)

    def ask_if_there(self, op: str, fields: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the keeper's answer, or None where there is no connection: none is made for this."""
        # Another thread may be sending for minutes, and who asks here is about to end something.
        if not self._asking.acquire(timeout=5):
            return None
        try:
            if self._process is None or self._facts is None:
                return None
            return self._ask({"op": op, **fields}, None, None, never)
        except OSError:
            return None
        finally:
            self._asking.release()

    def _ask(
        self,
        request: Mapping[str, Any],
        send: Callable[[Callable[[bytes], None]], None] | None,
        receive: Path | None,
        stopped: Stopped,
    ) -> dict[str, Any]:
        assert self._stream is not None
        self._stopped = stopped
        try:
            self._write(json.dumps(request).encode() + b"\n")
            if send is not None:
                with self._then_answered(self._stream):
                    send(self._write)
            answer = self._answer(self._stream)
            if receive is not None:
                with self._then_answered(self._stream):
                    keeper.receive_files(self._stream, str(receive))
                answer = self._answer(self._stream)
        except (keeper.Lost, BrokenPipeError) as error:
            self._drop()
            raise keeper.Lost(f"the connection to {self.options.host} was lost: {error}") from error
        finally:
            self._stopped = never
        return answer

    @contextlib.contextmanager
    def _then_answered(self, stream: keeper.Stream) -> Iterator[None]:
        """Hear the keeper out where files could not be read or written here: the next answer is to the next request."""
        try:
            yield
        except (keeper.Lost, BrokenPipeError):
            raise
        except OSError:
            with contextlib.suppress(Refused):
                self._answer(stream)
            raise

    def _answer(self, stream: keeper.Stream) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(stream.line())
        if not answer.pop("ok"):
            raise Refused(self.options.host, answer)
        return answer

    def _write(self, data: bytes) -> None:
        """Write to the keeper; raises ``keeper.Lost`` if it takes nothing for ``keeper.SILENCE`` seconds."""
        assert self._process is not None
        assert self._process.stdin is not None
        descriptor = self._process.stdin.fileno()
        poller = select.poll()
        poller.register(descriptor, select.POLLOUT)
        left = memoryview(data)
        silent = 0
        while left:
            if poller.poll(1000):
                left = left[os.write(descriptor, left) :]
                silent = 0
                continue
            silent += 1
            if silent > keeper.SILENCE:
                raise keeper.Lost(f"it took nothing for {keeper.SILENCE} s")
            self._look()

    def packages(self, python: tuple[str, ...], debian: tuple[str, ...]) -> dict[str, Any]:
        """Return ``{"python": {name: version}, "debian": ...}`` of those packages that the board itself has."""
        named = (python, debian)
        if named not in self._packages:
            self._packages[named] = self.ask("packages", {"python": python, "debian": debian})
        return self._packages[named]

    # Files

    def is_there(self, place: str, read: str = "") -> dict[str, Any]:
        """Return ``{"there": whether there is a folder, "read": the content of its file ``read``}``."""
        return self.ask("whole", {"place": place, "files": None, "read": read})

    def put(self, folder: Path, place: str, check: Sequence[str] = (), stopped: Stopped = never) -> None:
        """Copy a folder to ``place``, in one step, if the command ``check``, whose program is in it, succeeds there.

        Raises ``Refused`` with the command's output if it does not.
        """
        self._put(folder, place, (), check, stopped)

    def _put(self, folder: Path, place: str, left_out: tuple[str, ...], check: Sequence[str], stopped: Stopped) -> None:
        def send(write: Callable[[bytes], None]) -> None:
            keeper.send_folder(str(folder), write, left_out)

        self.ask("put", {"place": place, "check": list(check)}, send=send, stopped=stopped)

    def bundle(self, folder: Path) -> str:
        """Return the path there of a bundle, whose folder's name is its content digest; it is there and whole then.

        Its manifest stays here: no worker reads it, and two engines may have noted different times in theirs.
        """
        place = f"{self.facts().folder}/bundles/{folder.name}"
        files = None
        if place not in self._checked:
            files = {name: digest for name, digest in keeper.digests(str(folder)).items() if name != MANIFEST}
        if not self.ask("whole", {"place": place, "files": files, "read": ""})["there"]:
            self._put(folder, place, (MANIFEST,), (), never)
        self._checked.add(place)
        return place

    def file(self, file: Path) -> str:
        """Return the path there of a file, which keeps its name in a folder named by its content; it is there then."""
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        place = f"{self.facts().folder}/files/{digest[:32]}"
        if not self.ask("whole", {"place": place, "files": {file.name: digest}, "read": ""})["there"]:
            with tempfile.TemporaryDirectory(prefix="portmatrix-") as alone:
                shutil.copyfile(file, Path(alone) / file.name)
                self._put(Path(alone), place, (), (), never)
        return f"{place}/{file.name}"

    def scratch(self, folder: Path) -> str:
        """Return the path there of a folder that is for this run only; it is there then."""
        place = self._scratch(folder)
        self.ask("make", {"folder": place})
        return place

    def _scratch(self, folder: Path) -> str:
        digest = hashlib.sha256(str(folder).encode()).hexdigest()
        return f"{self.facts().run}/scratch/{re.sub(r'[^A-Za-z0-9.-]', '_', folder.name)}-{digest[:12]}"

    def fetch(self, folder: Path) -> None:
        """Move what lies in the folder that ``scratch`` made there into the folder here."""
        self.ask("get", {"folder": self._scratch(folder)}, receive=folder)

    # Workers

    def command(self, order: Mapping[str, Any]) -> list[str]:
        """Return the command line, run here, that runs a worker there behind a watch; see ``keeper.Watch``."""
        facts = self.facts()
        watch = self.file(KEEPER)
        kept = {"lock": facts.lock, "inode": facts.inode, "pid": facts.pid}
        packed = keeper.packed({**order, "keeper": kept})
        return [*self._ssh("no"), f"exec {shlex.quote(facts.executable)} -I {shlex.quote(watch)} watch {packed}"]

    def mark(self, worker: str) -> str:
        """Return the path there under which a worker's watch makes its notes."""
        return f"{self.facts().run}/workers/{worker}"

    def ended(self, worker: str) -> dict[str, Any] | None:
        """Return ``{"how": what the watch noted of a worker's end, or None}``; None where the connection is lost."""
        facts = self._facts
        return self.ask_if_there("ended", {"mark": f"{facts.run}/workers/{worker}"}) if facts else None

    def end(self, worker: str, folder: Path) -> None:
        """End a worker that may still be there, and remove its folder; without a connection it ends of itself."""
        facts = self._facts
        if facts is not None:
            fields = {"mark": f"{facts.run}/workers/{worker}", "folder": self._scratch(folder)}
            self.ask_if_there("end", fields)


class Refused(OSError):
    """The board could not do what it was asked; ``log`` is the output of the command that failed there, if one did."""

    def __init__(self, host: str, answer: Mapping[str, Any]) -> None:
        super().__init__(f"{host}: {answer['error']}")
        self.log = str(answer.get("log", ""))


def _socket_folder() -> Path:
    """Return an empty folder whose path is short enough for a socket; those of engines that died go."""
    usual = Path(tempfile.gettempdir())
    longest = len(str(usual / f"{_SOCKETS}{2**22}-12345678" / "s"))
    place = usual if longest <= _SOCKET_PATH else Path("/tmp")  # noqa: S108 - the name to come is nobody's to foresee
    for left in place.glob(f"{_SOCKETS}*"):
        owner = left.name.removeprefix(_SOCKETS).partition("-")[0]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{_SOCKETS}{os.getpid()}-", dir=place))


def _remote_word(path: str) -> str:
    """Return a path as a word for the shell there, which is to put in the home folder for a leading ``~``."""
    return "~/" + shlex.quote(path[2:]) if path.startswith("~/") else shlex.quote(path)


@functools.cache
def client() -> str:
    """Return the version of the ssh client of this machine, such as ``OpenSSH_9.2p1``."""
    told = subprocess.run(["ssh", "-V"], capture_output=True, text=True, check=False)  # noqa: S607
    return (told.stderr or told.stdout).split(",")[0].split(" ")[0].strip()


@functools.cache
def connection_to(options: Options) -> Connection:
    """Return the engine's one connection to a board, which is closed when the engine ends."""
    made = Connection(options)
    atexit.register(made.close)
    return made
