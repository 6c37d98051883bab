"""Environments: one virtual environment for each set of pinned requirements and interpreter, shared by all who need it.

Built beside its place under a lock, checked, and moved there in one step. Nothing is installed but here, and an
environment holds no pip of its own: what runs in it later cannot install anything.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import platform
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import findpython
import psutil
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from portmatrix.errors import EnvironmentFailure
from portmatrix.plugins import EnvironmentSpec
from portmatrix.store import Store, digest_of, write_whole

#: Changes when the way of building changes, so that environments built the old way are not taken for the new.
BUILDER = 1
LOG_TAIL = 4000
_DESCRIPTION = "environment.json"

Announce = Callable[[str], None]
Stopped = Callable[[], bool]
_POLL_SECONDS = 0.5


def _never() -> bool:
    return False


class Patience(NamedTuple):
    """How long a command may take, in seconds, and what to ask whether to give up before."""

    seconds: float
    stopped: Stopped = _never


class Interpreter(NamedTuple):
    """A CPython on this machine: its executable (no virtual environment's) and its version."""

    executable: str
    version: str


class Environment(NamedTuple):
    """A built environment: its key, the folder, and the interpreter inside it."""

    key: str
    folder: Path
    python: Path


class Download(NamedTuple):
    """One distribution that an installation will fetch; ``size`` in bytes, None where the index does not tell."""

    name: str
    version: str
    url: str
    size: int | None


@functools.cache
def own_interpreter() -> Interpreter:
    """Return the interpreter that runs the engine, outside of any virtual environment."""
    base = getattr(sys, "_base_executable", None) or sys.executable
    return Interpreter(os.path.realpath(base), platform.python_version())


@functools.cache
def interpreters() -> tuple[Interpreter, ...]:
    """Return the CPythons of this machine, newest first, the engine's own before all others.

    Looking for them starts each one it finds, which takes seconds; the answer is kept for the life of the process.
    """
    own = own_interpreter()
    found = {own.executable: own}
    for item in findpython.Finder(resolve_symlinks=True).find_all(implementation="cpython"):
        executable = os.path.realpath(item.executable)
        found.setdefault(executable, Interpreter(executable, str(item.version)))
    return tuple(found.values())


def find_interpreter(required: str) -> Interpreter:
    """Return an interpreter whose version satisfies ``required``; the engine's own if it does.

    Raises ``EnvironmentFailure`` (unavailable) naming what is here and what is wanted.
    """
    wanted = SpecifierSet(required)
    own = own_interpreter()
    if wanted.contains(own.version, prereleases=True):
        return own
    for candidate in interpreters():
        if wanted.contains(candidate.version):
            return candidate
    here = ", ".join(sorted({candidate.version for candidate in interpreters()}))
    raise EnvironmentFailure(
        f"needs CPython {required}; this machine has {here}. Install one (pyenv, uv or your system's packages)",
        unavailable=True,
    )


def environment_key(spec: EnvironmentSpec, interpreter: Interpreter) -> str:
    """Return the name of the environment: what it is called in the store, equal for all that may share it."""
    built_from = [BUILDER, sorted(spec.requirements), interpreter.version, sys.platform, platform.machine()]
    return f"py{'.'.join(interpreter.version.split('.')[:2])}-{digest_of(built_from)[:16]}"


def python_in(folder: Path) -> Path:
    """Return the interpreter of the virtual environment in ``folder``."""
    return folder / "Scripts" / "python.exe" if os.name == "nt" else folder / "bin" / "python"


def existing(store: Store, spec: EnvironmentSpec) -> Environment | None:
    """Return the environment if it is built and whole, else None; raises ``EnvironmentFailure`` (unavailable)."""
    key = environment_key(spec, find_interpreter(spec.python))
    folder = store.root / "envs" / key
    python = python_in(folder)
    return Environment(key, folder, python) if (folder / _DESCRIPTION).is_file() and python.exists() else None


def ensure(
    store: Store, spec: EnvironmentSpec, announce: Announce, seconds: float, stopped: Stopped = _never
) -> Environment:
    """Return the environment for ``spec``, building it first if it is not there.

    ``stopped`` is asked twice a second whether to give up.

    ``announce`` gets the lines that say what is about to be downloaded. Raises ``EnvironmentFailure`` with the end of
    the installer's output; nothing half-built is left behind.
    """
    interpreter = find_interpreter(spec.python)
    key = environment_key(spec, interpreter)
    with store.lock(f"env-{key}"):
        ready = existing(store, spec)
        if ready is not None:
            return ready
        folder = store.root / "envs" / key
        shutil.rmtree(folder, ignore_errors=True)
        with store.scratch("env") as scratch:
            building = scratch / key
            _build(building, spec, interpreter, announce, Patience(seconds, stopped))
            building.rename(folder)
    return Environment(key, folder, python_in(folder))


def _build(
    folder: Path, spec: EnvironmentSpec, interpreter: Interpreter, announce: Announce, patience: Patience
) -> None:
    _command(
        [interpreter.executable, "-I", "-m", "venv", "--without-pip", str(folder)], patience, "create the environment"
    )
    python = python_in(folder)
    downloads = resolve(python, spec.requirements, folder.parent, patience)
    if downloads:
        announce(describe_downloads(spec, interpreter, downloads))
        exact = [f"{item.name}=={item.version}" for item in downloads]
        # Names are resolved already: nothing but this list can be installed, whatever the index says meanwhile.
        _pip(python, ["install", "--no-deps", "--no-compile", "--quiet", *exact], patience, "install")
    _health(python, spec, patience)
    description = {"requirements": list(spec.requirements), "interpreter": interpreter._asdict()}
    description["installed"] = [f"{item.name}=={item.version}" for item in downloads]
    write_whole(folder / _DESCRIPTION, json.dumps(description, indent=1))


def resolve(python: Path, requirements: Sequence[str], folder: Path, patience: Patience) -> list[Download]:
    """Return everything that pip would install into the environment of ``python`` to satisfy ``requirements``.

    Sizes come from the files' own headers where the index serves them. Raises ``EnvironmentFailure``.
    """
    if not requirements:
        return []
    report = folder / "resolved.json"
    arguments = ["install", "--dry-run", "--ignore-installed", "--quiet", "--report", str(report), *requirements]
    _pip(python, arguments, patience, "resolve")
    items = json.loads(report.read_text(encoding="utf-8"))["install"]
    with ThreadPoolExecutor(16) as pool:
        sizes = list(pool.map(_size, [item["download_info"]["url"] for item in items]))
    return [_download(item, size) for item, size in zip(items, sizes, strict=True)]


def _download(item: dict[str, Any], size: int | None) -> Download:
    return Download(item["metadata"]["name"], item["metadata"]["version"], item["download_info"]["url"], size)


def _size(url: str) -> int | None:
    """Return the size of the file behind ``url`` in bytes, or None: it is for the reader, and never stops a build."""
    try:
        parts = urlsplit(url)
        if parts.scheme == "file":
            return Path(unquote(parts.path)).stat().st_size
        if parts.scheme != "https":
            return None
        request = urllib.request.Request(url, method="HEAD")  # noqa: S310 - the scheme has just been checked
        with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310
            length = answer.headers.get("Content-Length")
            return int(length) if length else None
    except (OSError, ValueError):
        return None


def describe_downloads(spec: EnvironmentSpec, interpreter: Interpreter, downloads: Sequence[Download]) -> str:
    """Return the lines that tell what one environment will download, largest first, with a warning for CUDA builds."""
    known = sum(item.size or 0 for item in downloads)
    unknown = sum(item.size is None for item in downloads)
    largest = sorted(downloads, key=lambda item: -(item.size or 0))[:4]
    named = ", ".join(f"{item.name} {item.version} ({_megabytes(item.size)})" for item in largest)
    total = f"{_megabytes(known)}" + (f" and {unknown} files of unknown size" if unknown else "")
    wanted = " ".join(spec.requirements)
    text = f"downloading {len(downloads)} packages, {total}, for CPython {interpreter.version}: {wanted}\n  {named}"
    if any(item.name.startswith("nvidia-") for item in downloads):
        text += (
            "\n  These include CUDA libraries of several gigabytes, which nothing here uses. To get the CPU build, stop"
            " now and set PIP_EXTRA_INDEX_URL to the CPU wheel index that pytorch.org names under Get Started."
        )
    return text


def _megabytes(size: int | None) -> str:
    return "size unknown" if size is None else f"{size / 1e6:.1f} MB"


def _health(python: Path, spec: EnvironmentSpec, patience: Patience) -> None:
    """Check that the environment starts and holds exactly what was required of it."""
    names = json.dumps(list(spec.packages))
    program = (
        "import json, sys\nfrom importlib import metadata\nnames = json.loads(sys.argv[1])\n"
        "print(json.dumps({name: metadata.version(name) for name in names}))"
    )
    found = json.loads(_command([str(python), "-I", "-c", program, names], patience, "start the environment"))
    for item in spec.requirements:
        requirement = Requirement(item)
        if not requirement.specifier.contains(found[requirement.name], prereleases=True):
            raise EnvironmentFailure(
                f"asked for {item}, but {requirement.name} {found[requirement.name]} was installed"
            )


def _pip(python: Path, arguments: Sequence[str], patience: Patience, doing: str) -> str:
    command = [sys.executable, "-m", "pip", "--python", str(python), "--no-input", "--disable-pip-version-check"]
    return _command([*command, *arguments], patience, doing)


def _command(command: Sequence[str], patience: Patience, doing: str) -> str:
    pipe = subprocess.PIPE
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True, errors="replace"
        )
    except OSError as error:
        raise EnvironmentFailure(f"could not {doing}: {error}") from error
    with process:
        stdout, stderr = _wait(process, patience, doing)
    if process.returncode:
        output = (stdout + stderr).strip()
        errors = [line for line in output.splitlines() if line.startswith("ERROR")] or output.splitlines()[-1:]
        reason = errors[0] if errors else f"exit status {process.returncode}"
        raise EnvironmentFailure(f"could not {doing}: {reason}", output[-LOG_TAIL:])
    return stdout


def _wait(process: subprocess.Popen[str], patience: Patience, doing: str) -> tuple[str, str]:
    """Return what the process wrote until it ended; ends it, and raises ``EnvironmentFailure``, if patience does."""
    deadline = time.monotonic() + patience.seconds
    while True:
        try:
            return process.communicate(timeout=min(_POLL_SECONDS, patience.seconds))
        except subprocess.TimeoutExpired as error:
            late = time.monotonic() >= deadline
            if late or patience.stopped():
                _kill_tree(process.pid)
                why = (
                    f"within {patience.seconds:.0f} s (limits.prepare_seconds)"
                    if late
                    else "before the run was stopped"
                )
                raise EnvironmentFailure(f"could not {doing} {why}") from error


def _kill_tree(pid: int) -> None:
    """End a process and all that it started: pip works in a second process, and its builds in a third."""
    with contextlib.suppress(psutil.NoSuchProcess):
        first = psutil.Process(pid)
        for process in (first, *first.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
