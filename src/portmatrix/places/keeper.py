"""The far end of a connection to a board: keeps the engine's files there, and watches over the workers.

A single file that needs the standard library alone and runs on every Python from 3.6 on. The engine sends it along when
it connects. It has two roles:

- ``keep``, once for each engine: carries out requests, which come as JSON lines on standard input, and answers each
  with one JSON line on standard output; files travel between the two as a tar stream in chunks. When the engine is gone
  it removes what that engine had there for its run.
- ``watch``, once for each worker: starts it and ends it with all that it started, when the connection ends, when the
  keeper does, or when it takes more memory than it may.

Below the keeper's folder are ``envs/``, ``bundles/`` and ``files/``, which stay, and ``runs/ENGINE/``, which does not.
"""

import base64
import contextlib
import glob
import hashlib
import io
import json
import os
import platform
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import time
from typing import IO, Any, Callable, Dict, List, Tuple

try:
    import fcntl
except ImportError:  # on Windows, where no keeper runs, but an engine may look into a suite that names a board
    fcntl = None  # type: ignore[assignment]

Json = Dict[str, Any]

#: What the keeper says first: all before it is the login shell's own.
MARK = b"portmatrix keeper"
#: How long either end waits for the other to say anything, in seconds; an engine says something four times as often.
SILENCE = 120
#: How long a worker may take to end of its own once its input has, in seconds.
_GRACE = 2.0
_POLL_MS = 50
_CHILDREN_SECONDS = 0.5
_CHUNK = 1 << 18


class Lost(OSError):
    """The other end is gone."""


# --- Files in chunks --------------------------------------------------------------------------------------------------


class Stream:
    """Reads lines and bytes from a pipe; raises ``Lost`` at its end, or when nothing has come for ``SILENCE`` seconds.

    ``look`` is called once a second while there is nothing to read; what it raises ends the reading.
    """

    def __init__(self, descriptor: int, look: Callable[[], None]) -> None:
        self._descriptor = descriptor
        self._look = look
        self._held = bytearray()
        self._poller = select.poll()
        self._poller.register(descriptor, select.POLLIN)

    def _fill(self) -> None:
        silent = 0
        while not self._poller.poll(1000):
            silent += 1
            if silent >= SILENCE:
                raise Lost("nothing was heard for %d s" % SILENCE)
            self._look()
        read = os.read(self._descriptor, _CHUNK)
        if not read:
            raise Lost("the connection was closed")
        self._held += read

    def line(self) -> bytes:
        """Return the next line, without its end."""
        while b"\n" not in self._held:
            self._fill()
        found, _, self._held = self._held.partition(b"\n")
        return bytes(found)

    def take(self, count: int) -> bytes:
        """Return exactly that many bytes."""
        while len(self._held) < count:
            self._fill()
        found = bytes(self._held[:count])
        del self._held[:count]
        return found


class Incoming:
    """Chunks of a file, each its length on a line and then its bytes, as a file to read from.

    A length of 0 says that this was all, a negative one that the other end could not go on.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._held = b""
        self._ended = False

    def read(self, count: int) -> bytes:
        """Return up to ``count`` bytes, fewer only at the end; raises ``OSError`` if the other end could not go on."""
        found = [self._held]
        missing = count - len(self._held)
        while missing > 0 and not self._ended:
            size = int(self._stream.line())
            self._ended = size <= 0
            if size < 0:
                raise OSError("the other end could not read what it was to send")
            found.append(self._stream.take(size))
            missing -= size
        whole = b"".join(found)
        self._held = whole[count:]
        return whole[:count]

    def drain(self) -> None:
        """Read what is left, and forget it."""
        while self.read(_CHUNK):
            pass


class Outgoing:
    """A file to write to, of which chunks are made for an ``Incoming``."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write

    def write(self, data: bytes) -> int:
        """Send one chunk."""
        if data:
            self._write(b"%d\n" % len(data) + data)
        return len(data)

    def end(self, whole: bool) -> None:
        """Say that there are no more chunks, and whether that was all."""
        self._write(b"0\n" if whole else b"-1\n")


def send_folder(folder: str, write: Callable[[bytes], None], left_out: Tuple[str, ...] = ()) -> None:
    """Send what is below a folder but the entries ``left_out``, links as links, and nobody's own."""
    out = Outgoing(write)
    try:
        with tarfile.open(mode="w|", fileobj=out, bufsize=_CHUNK, format=tarfile.GNU_FORMAT) as tar:  # type: ignore[call-overload]
            for name in sorted(set(os.listdir(folder)) - set(left_out)):
                tar.add(os.path.join(folder, name), name, filter=_of_nobody)
    except (Lost, BrokenPipeError):
        raise
    except BaseException:
        # The other end must know that this is not all, and where the next line begins.
        out.end(False)
        raise
    out.end(True)


def _of_nobody(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def _plain_name(name: str) -> bool:
    parts = name.split("/")
    return bool(name) and not name.startswith("/") and ".." not in parts and "\\" not in name and "\0" not in name


def receive_files(stream: Stream, folder: str) -> None:
    """Write the plain files of a folder that was sent below ``folder``; raises ``OSError`` for anything else in it.

    For the engine: what comes from a board was made by a worker, which may have put anything there.
    """
    incoming = Incoming(stream)
    try:
        with tarfile.open(mode="r|", fileobj=incoming, bufsize=_CHUNK) as tar:  # type: ignore[call-overload]
            for member in tar:
                if member.isdir():
                    continue
                content = tar.extractfile(member) if member.isreg() else None
                if content is None or not _plain_name(member.name):
                    raise OSError("the worker left %r, which is no plain file" % member.name)
                place = os.path.join(folder, member.name)
                os.makedirs(os.path.dirname(place), exist_ok=True)
                with open(place, "wb") as out:
                    shutil.copyfileobj(content, out)
    except tarfile.TarError as error:
        raise OSError("what was sent is no folder: %s" % error)
    finally:
        incoming.drain()


def _receive_folder(stream: Stream, folder: str) -> None:
    """Write a folder that the engine sent, links and modes as they are."""
    incoming = Incoming(stream)
    try:
        with tarfile.open(mode="r|", fileobj=incoming, bufsize=_CHUNK) as tar:  # type: ignore[call-overload]
            if hasattr(tarfile, "fully_trusted_filter"):
                tar.extractall(folder, filter="fully_trusted")  # noqa: S202 - it is the engine's own
            else:
                tar.extractall(folder)  # noqa: S202
    except tarfile.TarError as error:
        raise OSError("what was sent is no folder: %s" % error)
    finally:
        incoming.drain()


# --- What the board is --------------------------------------------------------------------------------------------


def describe() -> Json:
    """Return what this machine and this interpreter are."""
    libc, libc_version = _libc()
    return {
        "python": platform.python_version(),
        "implementation": sys.implementation.name,
        "executable": sys.executable,
        "base": os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable),
        "system": sys.platform,
        "machine": platform.machine(),
        "bits": 8 * struct.calcsize("P"),
        "endian": sys.byteorder,
        "libc": libc,
        "libc_version": libc_version,
        "macos": platform.mac_ver()[0],
        "kernel": "%s %s" % (platform.system(), platform.release()),
        "processor": _processor(),
        "closure": _closure(),
    }


def _libc() -> Tuple[str, str]:
    """Return name and version of the C library that this interpreter runs on; empty but on Linux."""
    if not sys.platform.startswith("linux"):
        return "", ""
    with contextlib.suppress(OSError, ValueError):  # musl has no such variable
        name, version = str(os.confstr("CS_GNU_LIBC_VERSION")).split()
        return name, version
    for loader in glob.glob("/lib/ld-musl-*.so.1"):
        found = re.search(r"Version (\d+\.\d+)", _run([loader])[1])
        return "musl", found.group(1) if found else ""
    return "unknown", ""


def _processor() -> str:
    """Return the processor's name, or the board's, as Linux tells it; empty where it does not."""
    for file, pattern in (
        ("/proc/cpuinfo", r"^(?:model name|Model)\s*:\s*(\S.*)$"),
        ("/proc/device-tree/model", r"^([^\0]+)"),
    ):
        with contextlib.suppress(OSError), io.open(file, encoding="utf-8", errors="replace") as stream:
            found = re.search(pattern, stream.read(), re.MULTILINE)
            if found:
                return found.group(1).strip()
    return ""


def _closure() -> List[str]:
    """Return the command prefix that gives a process an empty network namespace; empty where none does."""
    unshare = shutil.which("unshare") if sys.platform.startswith("linux") else None
    if unshare:
        for options in (["--net"], ["--map-root-user", "--net"]):
            if _run([unshare, *options, "true"])[0] == 0:
                return [unshare, *options]
    return []


def _run(command: List[str]) -> Tuple[int, str]:
    """Return exit status and output of a command."""
    pipe = subprocess.PIPE
    ran = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=subprocess.STDOUT, check=False)
    return ran.returncode, ran.stdout.decode("utf-8", "replace")


# --- keep -----------------------------------------------------------------------------------------------------------


class Keeper:
    """One engine's end on the board; see ``serve``."""

    def __init__(self, folder: str, engine: str) -> None:
        """Make the folders; raises ``OSError`` where that is not possible."""
        self.folder = os.path.abspath(os.path.expanduser(folder))
        for name in ("envs", "bundles", "files", "runs"):
            os.makedirs(os.path.join(self.folder, name), mode=0o700, exist_ok=True)
        self._runs = os.path.join(self.folder, "runs")
        self._own = os.path.join(self._runs, engine)
        self._lock = self._own + ".lock"
        self._held = self._take_over()
        self._numbered = 0
        for name in ("workers", "coming", "scratch"):
            os.makedirs(os.path.join(self._own, name), exist_ok=True)
        self._clean()
        self._stream = Stream(0, self._look)

    def _take_over(self) -> IO[str]:
        """Return the lock that says that this engine's keeper lives; an earlier keeper of it finds that it has ended.

        An engine that has lost its connection comes back while the board may not have noticed that it was lost.
        """
        name = "%s.%d" % (self._lock, os.getpid())
        while True:
            held = io.open(name, "w")  # noqa: SIM115 - as long as the process lives
            fcntl.flock(held, fcntl.LOCK_EX)
            try:
                os.rename(name, self._lock)
            except FileNotFoundError:  # another engine's keeper came by before it was locked, and tidied it away
                held.close()
                continue
            return held

    @property
    def _in_charge(self) -> bool:
        try:
            return os.stat(self._lock).st_ino == os.fstat(self._held.fileno()).st_ino
        except OSError:
            return False

    def _look(self) -> None:
        if not self._in_charge:
            raise Lost("another connection has taken over")

    def _clean(self) -> None:
        """Remove what engines have left whose keepers are gone."""
        own = os.path.basename(self._own)
        for name in os.listdir(self._runs):
            engine = name.partition(".")[0]
            locks = glob.glob(os.path.join(glob.escape(self._runs), engine + ".lock*"))
            if engine != own and not any(_is_held(lock) for lock in locks):
                remove(os.path.join(self._runs, name))

    def leave(self) -> None:
        """Remove what this engine has here for its run, unless another connection of its has taken over."""
        if not self._in_charge:
            return
        for file in glob.glob(os.path.join(glob.escape(self._own), "workers", "*.pid")):
            _kill_group(file)
        # Out of the way in one step: the engine may be connecting again.
        left = "%s.%d" % (self._own, os.getpid())
        with contextlib.suppress(OSError):
            os.rename(self._own, left)
        if self._in_charge:
            os.unlink(self._lock)
        remove(left)

    def serve(self) -> None:
        """Answer requests until the engine is gone (then ``Lost`` or ``BrokenPipeError`` is raised)."""
        lock = os.fstat(self._held.fileno())
        facts = {"folder": self.folder, "run": self._own, "pid": os.getpid(), "lock": self._lock, "inode": lock.st_ino}
        _write(b"\n" + MARK + b"\n")
        _answer(dict(describe(), **facts))
        while True:
            line = self._stream.line()
            if not line:  # the engine is still there, and has nothing to ask
                continue
            request = json.loads(line.decode("utf-8"))
            try:
                answer = getattr(self, "_do_" + request["op"])(request)
            except (Lost, BrokenPipeError):
                raise
            except Exception as error:  # whatever one request came to, the next may be answered
                answer = {"ok": False, "error": "%s: %s" % (type(error).__name__, error)}
            _answer(answer)

    def _do_make(self, request: Json) -> Json:
        os.makedirs(request["folder"], exist_ok=True)
        return {}

    def _do_whole(self, request: Json) -> Json:
        """Say whether a folder is there and, given the digests of its files, whether it is what it should be.

        What is there and is not what it should be is removed. Of an environment its description is returned.
        """
        place, files = request["place"], request["files"]
        answer = {"there": os.path.isdir(place)}  # type: Json
        try:
            if answer["there"] and request["read"]:
                with io.open(os.path.join(place, request["read"]), encoding="utf-8") as stream:
                    answer["read"] = stream.read()
            if not answer["there"] or files is None or digests(place) == files:
                return answer
        except OSError:
            pass  # what cannot be read is not whole
        remove(place)
        return {"there": False}

    def _do_put(self, request: Json) -> Json:
        """Take a folder to its place in one step, after a command in it has succeeded.

        What another engine has put there meanwhile is the same, and stays: its workers may be using it.
        """
        self._numbered += 1
        coming = os.path.join(self._own, "coming", str(self._numbered))
        os.makedirs(coming)
        try:
            _receive_folder(self._stream, coming)
            if request["check"]:
                status, said = _run([os.path.join(coming, request["check"][0]), *request["check"][1:]])
                if status:
                    return {"ok": False, "error": "its check failed with status %d" % status, "log": said}
            os.makedirs(os.path.dirname(request["place"]), exist_ok=True)
            try:
                os.rename(coming, request["place"])
            except OSError:
                if not os.path.isdir(request["place"]):
                    raise
        finally:
            remove(coming)
        return {}

    def _do_get(self, request: Json) -> Json:
        """Send what is in a folder and empty it."""
        folder = request["folder"]
        if not os.path.isdir(folder):
            raise OSError("%s is not there any more" % folder)
        _answer({})
        send_folder(folder, _write)
        for name in os.listdir(folder):
            remove(os.path.join(folder, name))
        return {}

    def _do_end(self, request: Json) -> Json:
        """End a worker that may still be there, and remove its folder."""
        mark = request["mark"]
        _kill_group(mark + ".pid")
        for name in (mark + ".pid", mark + ".json", request["folder"]):
            remove(name)
        return {}

    def _do_ended(self, request: Json) -> Json:
        """Return how a worker ended, by its watch; None where that told nothing."""
        try:
            with io.open(request["mark"] + ".json", encoding="utf-8") as stream:
                return {"how": json.load(stream)}
        except (OSError, ValueError):
            return {"how": None}

    def _do_find(self, request: Json) -> Json:
        """Return the files that a glob means, sorted."""
        return {"found": sorted(glob.glob(request["glob"]))}

    def _do_packages(self, request: Json) -> Json:
        """Return the versions of those packages that this machine itself has: of Python, and of Debian."""
        return {"python": _distributions(request["python"]), "debian": _debian(request["debian"])}


def _distributions(names: List[str]) -> Dict[str, str]:
    if not names:
        return {}
    from importlib import metadata  # noqa: PLC0415 - from Python 3.8 on

    found = {}  # type: Dict[str, str]
    for item in metadata.distributions():
        name = re.sub(r"[-_.]+", "-", item.metadata["Name"] or "").lower()
        if name in names:
            found.setdefault(name, item.version)
    return found


def _debian(names: List[str]) -> Dict[str, str]:
    if not names or not shutil.which("dpkg-query"):
        return {}
    command = ["dpkg-query", "--show", "--showformat", "${db:Status-Status} ${Package} ${Version}\n", *names]
    lines = [line.split() for line in _run(command)[1].splitlines()]
    return {line[1]: line[2] for line in lines if len(line) == 3 and line[0] == "installed"}


def digests(folder: str) -> Dict[str, str]:
    """Return ``{path below the folder: SHA-256}`` of every file in it but those that Python puts beside its sources."""
    found = {}
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in names:
            file = os.path.join(place, name)
            with open(file, "rb") as stream:
                found[os.path.relpath(file, folder).replace(os.sep, "/")] = hashlib.sha256(stream.read()).hexdigest()
    return found


def _is_held(lock: str) -> bool:
    """Return whether a living keeper holds a lock."""
    try:
        with io.open(lock) as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def remove(place: str) -> None:
    """Remove a file or folder, if it is there; a folder that something still writes into is tried again."""
    for _ in range(20):
        if os.path.isdir(place) and not os.path.islink(place):
            shutil.rmtree(place, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                os.unlink(place)
        if not os.path.lexists(place):
            return
        time.sleep(0.05)


def _kill_group(file: str) -> None:
    """Kill the worker whose process group a watch has noted in ``file``, unless it is known to have ended."""
    if os.path.exists(file[: -len(".pid")] + ".json"):
        return
    with contextlib.suppress(OSError, ValueError), io.open(file) as stream:
        os.killpg(int(stream.read()), signal.SIGKILL)


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _answer(answer: Json) -> None:
    _write(json.dumps(dict({"ok": True}, **answer)).encode("utf-8") + b"\n")


def keep(folder: str, engine: str) -> int:
    """Be the keeper of an engine for as long as it is connected; returns an exit status."""
    try:
        keeper = Keeper(folder, engine)
    except OSError as error:
        sys.stderr.write("cannot write to %s: %s\n" % (folder, error))
        return 1
    try:
        keeper.serve()
    except (Lost, BrokenPipeError):
        pass  # which is how it ends
    finally:
        keeper.leave()
    return 0


# --- watch ------------------------------------------------------------------------------------------------------------


class Memory:
    """The resident memory of a process and of all that it has started."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._watched = [pid]
        self._looked = 0.0
        self._last = 0

    def mebibytes(self) -> int:
        """Return it in MiB. To look for children is to read about every process there is, and done more seldom."""
        now = time.monotonic()
        look = now > self._looked + _CHILDREN_SECONDS
        if look:
            self._looked = now
        if sys.platform.startswith("linux"):
            if look:
                self._watched = _descendants(self._pid, _parents())
            return sum(_resident(pid) for pid in self._watched) >> 20
        if look:
            parents, sizes = _by_ps()
            self._last = sum(sizes.get(pid, 0) for pid in _descendants(self._pid, parents)) >> 10
        return self._last


def _parents() -> Dict[int, int]:
    """Return ``{process: its parent}`` of all processes, from Linux's /proc (proc_pid_stat(5))."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open("/proc/%s/stat" % name, "rb") as stream:
                # The command's name, in brackets, may itself hold spaces and brackets.
                found[int(name)] = int(stream.read().rpartition(b")")[2].split()[1])
    return found


def _resident(pid: int) -> int:
    """Return the resident memory of a process in bytes, from Linux's /proc (proc_pid_statm(5))."""
    try:
        with open("/proc/%d/statm" % pid, "rb") as stream:
            return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def _by_ps() -> Tuple[Dict[int, int], Dict[int, int]]:
    """Return ``{process: its parent}`` and ``{process: resident memory in KiB}``, from POSIX's ps."""
    command = ["ps", "-A", "-o", "pid=", "-o", "ppid=", "-o", "rss="]
    rows = [[int(field) for field in line.split()] for line in _run(command)[1].splitlines()]
    return {row[0]: row[1] for row in rows}, {row[0]: row[2] for row in rows}


def _descendants(pid: int, parents: Dict[int, int]) -> List[int]:
    found = [pid]
    for one in found:
        found.extend(child for child, parent in parents.items() if parent == one)
    return found


class Watch:
    """One worker, and why it has to end."""

    def __init__(self, order: Json) -> None:
        """Start it; raises ``OSError`` where it cannot be started."""
        self._order = order
        env = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "TZ") if name in os.environ}
        env.update(order["env"])
        env["PATH"] = os.pathsep.join([os.path.dirname(order["command"][0]), env.get("PATH", os.defpath)])
        command = order["closure"] + order["command"]
        if shutil.which(order["command"][0]) is None:
            raise OSError("%s is not there any more" % order["command"][0])
        os.makedirs(os.path.dirname(order["mark"]), exist_ok=True)
        with io.open(order["mark"] + ".pid", "w") as stream:
            self.child = subprocess.Popen(command, cwd=order["folder"], env=env, start_new_session=True)
            stream.write("%d" % self.child.pid)
        self._memory = Memory(self.child.pid)
        self._poller = select.poll()
        # What the worker is asked is none of our business; that nobody is there to ask any more is.
        self._poller.register(0, 0)
        self._input_ended = 0.0
        self._looked = time.monotonic()

    def until_end(self) -> Json:
        """Return how the worker ended, or why it was ended."""
        while self.child.poll() is None:
            why = self._wrong()
            if why:
                self.kill()
                return why
            if self._input_ended:
                time.sleep(_POLL_MS / 1000.0)
            elif self._poller.poll(_POLL_MS):
                self._input_ended = time.monotonic()
        code = self.child.returncode
        if code >= 0:
            return {"status": code}
        try:
            return {"signal": -code, "name": signal.Signals(-code).name}
        except ValueError:
            return {"signal": -code, "name": ""}

    def _wrong(self) -> Json:
        """Return why the worker must end now; empty if it need not."""
        now = time.monotonic()
        if self._input_ended and now > self._input_ended + _GRACE:
            return {"cut": "its input has ended"}
        if now > self._looked + 1:
            self._looked = now
            if not self._is_kept():
                return {"cut": "the engine's connection has ended"}
        used = self._memory.mebibytes()
        return {"memory_mb": used} if used > self._order["memory_mb"] else {}

    def _is_kept(self) -> bool:
        keeper = self._order["keeper"]
        try:
            os.kill(keeper["pid"], 0)
            return bool(os.stat(keeper["lock"]).st_ino == keeper["inode"])
        except OSError:
            return False

    def kill(self) -> None:
        """End the worker and everything it started, at once."""
        with contextlib.suppress(OSError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()


def watch(order: Json) -> int:
    """Run a worker to its end and note in ``MARK.json`` how that was; returns an exit status, 128 + N for a signal."""
    try:
        watched = Watch(order)
    except OSError as error:
        how = {"error": "%s: %s" % (type(error).__name__, error)}  # type: Json
    else:
        how = watched.until_end()
        watched.kill()
    with contextlib.suppress(OSError):  # the keeper is gone, and has taken the folder with it
        with io.open(order["mark"] + ".coming", "w", encoding="utf-8") as stream:
            json.dump(how, stream)
        os.rename(order["mark"] + ".coming", order["mark"] + ".json")
    if "signal" in how:
        return int(128 + how["signal"])
    return int(how.get("status", 1))


def packed(order: Json) -> str:
    """Return an order to ``watch`` as one word that every shell leaves alone."""
    return base64.b64encode(json.dumps(order).encode("utf-8")).decode("ascii")


def main(role: str, *arguments: str) -> int:
    """Play a role: ``keep FOLDER ENGINE`` or ``watch ORDER``, an order being JSON in base64."""
    if role == "keep":
        return keep(*arguments)
    order = json.loads(base64.b64decode(arguments[0]).decode("utf-8"))
    return watch(order)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
