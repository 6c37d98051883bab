"""A board: a machine of the user's own behind ssh, which needs neither a network, nor pip, nor a compiler.

Wheels are installed here, for the board's platform and interpreter, and sent there; so are bundles, plug-ins and the
worker. The board's own packages are used where no wheels exist. Everything there lies below one folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version
from pydantic import ValidationError

from portmatrix import programs, wheels
from portmatrix.bundle import MANIFEST
from portmatrix.commands import Patience
from portmatrix.environments import Environment
from portmatrix.errors import EnvironmentFailure
from portmatrix.places import Announce, Wanted
from portmatrix.places.connection import Connection, Facts, Options, Refused, Unreachable, client, connection_to
from portmatrix.plugins import EnvironmentSpec, NoWay, Way
from portmatrix.sites import Ending, Inside, Site, died_of, signal_name
from portmatrix.store import DESCRIPTION, Store, bytes_below, digest_of
from portmatrix.types import PlatformSpec
from portmatrix.wheels import Tags
from portmatrix.workers import WORKER

#: Changes when the way of building changes, so that environments built the old way are not taken for the new.
BUILDER = 1
_SYSTEMS = {"linux": "linux", "darwin": "macos"}
_PROCESSORS = {"aarch64": "arm64", "amd64": "x86_64", "armv7l": "armhf", "armv8l": "armhf"}
#: A 32-bit interpreter on a 64-bit kernel, which names the kernel's processor (Raspberry Pi OS does so).
_NARROW = {"aarch64": "armhf", "x86_64": "i686"}
#: What a platform tag of a wheel asks of the C library, or of macOS (PEP 600, 656 and 425).
_FLOOR = re.compile(r"^(?:manylinux|musllinux|macosx)_(\d+)_(\d+)_")


class _Board(NamedTuple):
    """A board that is connected, and what it is."""

    connection: Connection
    facts: Facts

    @property
    def host(self) -> str:
        """The name by which ssh knows it."""
        return self.connection.options.host


def lacking(way: Way, platform: PlatformSpec) -> NoWay | None:
    """Return why no board of that platform can be reached from here; whether this one answers shows when it is used."""
    try:
        Options.model_validate(way.options)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        return NoWay(why=f"its options are wrong: {wrong}", install="mend the target's options in matrix.yaml")
    if platform.os not in _SYSTEMS.values():
        return NoWay(why=f"boards are Linux or macOS systems, not {platform.os}", install="use a board with Linux")
    if os.name != "posix":
        return NoWay(why="boards are reached from Linux and macOS", install="run portmatrix there, or in WSL")
    if shutil.which("ssh") is None:
        return NoWay(why="this machine has no ssh client", install="apt-get install openssh-client")
    return None


def key(wanted: Wanted) -> str:
    """Return the key of the environment on the board; the board is asked what it is.

    Raises ``EnvironmentFailure``, unavailable if it does not answer.
    """
    with _failures():
        return _key(_board(wanted), wanted)


def _key(board: _Board, wanted: Wanted) -> str:
    facts, spec = board.facts, wanted.spec
    rests_on: list[Any] = [BUILDER, sorted(spec.requirements), facts.machine, facts.bits, facts.endian]
    rests_on += [facts.system, facts.libc, facts.libc_version, facts.macos]
    if wanted.program is not None:
        return f"board-{programs.key(spec, wanted.program, wanted.platform)}-{digest_of(rests_on)[:8]}"
    rests_on += [facts.python, facts.base, _fits(facts, spec), _own_packages(board, spec)]
    return f"board-py{_minor(facts)}-{digest_of(rests_on)[:16]}"


def ensure(store: Store, wanted: Wanted, announce: Announce, patience: Patience) -> Environment:
    """Return the environment on the board, built here and sent there if need be; raises ``EnvironmentFailure``."""
    with _failures():
        board = _board(wanted)
        _is_as_declared(board, wanted.platform)
        _can_have(board, wanted)
        name = _key(board, wanted)
        place = f"{board.facts.folder}/envs/{name}"
        with store.lock(f"env-{name}"):
            described = _described(board, place)
            if described is None:
                with store.scratch("env") as scratch:
                    described = _build(_Building(board, store, wanted, scratch, place), announce, patience)
        return _environment(board, name, place, described)


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    """Turn what goes wrong with a board into failures of its environment."""
    try:
        yield
    except Refused as error:
        raise EnvironmentFailure(f"the environment cannot be put there: {error}", error.log) from error
    except Unreachable as error:
        raise EnvironmentFailure(str(error), unavailable=True) from error
    except OSError as error:
        raise EnvironmentFailure(f"the environment could not be made: {error}") from error


def _board(wanted: Wanted) -> _Board:
    connection = connection_to(Options.model_validate(wanted.way.options))
    return _Board(connection, connection.facts())


# --- What it is -----------------------------------------------------------------------------------------------------


def platform_of(facts: Facts) -> PlatformSpec:
    """Return what a board is in the words of target plug-ins; raises ``EnvironmentFailure`` for none that we know."""
    system = _SYSTEMS.get(facts.system)
    if system is None:
        raise EnvironmentFailure(f"boards are Linux or macOS systems, and this is {facts.system}")
    machine = facts.machine.lower()
    processors = {**_PROCESSORS, **(_NARROW if facts.bits == 32 else {})}
    libc = facts.libc if system == "linux" else ""
    described = {"os": system, "arch": processors.get(machine, machine), "libc": libc}
    return PlatformSpec.model_validate({**described, "endian": facts.endian, "bits": facts.bits})


def _is_as_declared(board: _Board, platform: PlatformSpec) -> None:
    """Raise ``EnvironmentFailure`` where the board is not what ``matrix.yaml`` says of it."""
    found = platform_of(board.facts).model_dump()
    declared = {name: value for name, value in platform.model_dump().items() if (name, value) != ("libc", "")}
    wrong = [f"{name} is {found[name]!r}, not {value!r}" for name, value in declared.items() if found[name] != value]
    if wrong:
        raise EnvironmentFailure(f"{board.host} is not the platform that matrix.yaml says: {'; '.join(wrong)}")


def _can_have(board: _Board, wanted: Wanted) -> None:
    """Raise ``EnvironmentFailure`` (unavailable) for what this board, or no board, can have."""
    spec, facts = wanted.spec, board.facts
    if wanted.program is not None:
        return
    why = ""
    if spec.npm:
        why = "packages for Node.js are not sent to boards"
    elif spec.libraries or not spec.interpreter:
        what = ", ".join(spec.libraries.values()) or f"the container {spec.container}"
        why = f"needs {what}, which is not sent to boards"
    elif facts.implementation != "cpython":
        why = f"needs CPython; {board.host} has {facts.implementation} as {facts.executable} (options.python)"
    if why:
        raise EnvironmentFailure(why, unavailable=True)


def _minor(facts: Facts) -> str:
    return ".".join(facts.python.split(".")[:2])


def _tags(platform: PlatformSpec, facts: Facts, python: str) -> Tags:
    """Return the tags of the wheels that run on the board, whose C library, or macOS, may not be the newest."""
    tags = wheels.tags_for(platform, python)
    found = re.match(r"(\d+)\.(\d+)", facts.macos or facts.libc_version)
    if found is None:
        return tags
    here = (int(found[1]), int(found[2]))
    return tags._replace(platforms=tuple(tag for tag in tags.platforms if _floor(tag) <= here))


def _floor(tag: str) -> tuple[int, int]:
    found = _FLOOR.match(tag)
    # Without a number it is manylinux2014 or older; a board with Python 3.6 is not older than that.
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _own_packages(board: _Board, spec: EnvironmentSpec) -> dict[str, dict[str, str]]:
    """Return the versions of what is required as the board itself has it, by its Python's and by Debian's packages."""
    names = tuple(canonicalize_name(name) for name in spec.packages)
    if Version(board.facts.python) < Version("3.8"):
        names = ()  # it cannot tell
    return board.connection.packages(names, spec.debian)


# --- The environment ------------------------------------------------------------------------------------------------


class _Building(NamedTuple):
    """What is being built: for which board and plug-in, in which folder here, and where it will be there."""

    board: _Board
    store: Store
    wanted: Wanted
    scratch: Path
    place: str


def _described(board: _Board, place: str) -> dict[str, Any] | None:
    found = board.connection.is_there(place, DESCRIPTION)
    described: dict[str, Any] | None = json.loads(found["read"]) if found["there"] else None
    return described


def _build(building: _Building, announce: Announce, patience: Patience) -> dict[str, Any]:
    """Build an environment here and put it on the board; returns its description."""
    board, wanted = building.board, building.wanted
    folder = building.scratch / "environment"
    folder.mkdir()
    spec = wanted.spec
    announce(f"installing for {board.host}: {' '.join(spec.requirements)}")
    check: Sequence[str] = ()
    if wanted.program is not None:
        described = _program(building, folder, announce, patience)
    else:
        described = _packages(building, folder, patience)
        check = (board.facts.executable if described["own"] else "bin/python", "-I", "-c", "import numpy")
    (folder / DESCRIPTION).write_text(json.dumps(described, indent=1), encoding="utf-8")
    announce(f"sending {bytes_below(folder) / 1e6:.1f} MB to {board.host}:{building.place}")
    board.connection.put(folder, building.place, check, patience.stopped)
    return described


def _packages(building: _Building, folder: Path, patience: Patience) -> dict[str, Any]:
    """Make a virtual environment in ``folder`` (PEP 405) whose interpreter is the board's; returns its description.

    Where there are no wheels, what the board itself has may do.
    """
    board, spec = building.board, building.wanted.spec
    facts = board.facts
    packages = folder / "lib" / f"python{_minor(facts)}" / "site-packages"
    described = {"requirements": list(spec.requirements), "python": facts.python, "own": False}
    try:
        _has_interpreter(board, spec)
        packages.mkdir(parents=True)
        wheels.install(spec.requirements, _tags(building.wanted.platform, facts, _minor(facts)), packages, patience)
    except EnvironmentFailure as failure:
        if not failure.unsupported and not failure.unavailable:
            raise
        _has_it_itself(board, spec, failure)
        shutil.rmtree(folder / "lib", ignore_errors=True)
        return {**described, "own": True}
    base = Path(facts.base)
    (folder / "pyvenv.cfg").write_text(
        f"home = {base.parent}\ninclude-system-site-packages = false\n", encoding="utf-8"
    )
    (folder / "bin").mkdir()
    (folder / "bin" / "python").symlink_to(base)
    return described


def _fits(facts: Facts, spec: EnvironmentSpec) -> bool:
    return SpecifierSet(spec.python).contains(facts.python, prereleases=True)


def _has_interpreter(board: _Board, spec: EnvironmentSpec) -> None:
    """Raise ``EnvironmentFailure`` (unavailable) where the board's interpreter is none that is required."""
    facts = board.facts
    if not _fits(facts, spec):
        why = f"needs CPython {spec.python}; {board.host} has {facts.python} as {facts.executable}"
        raise EnvironmentFailure(f"{why}; options.python may name another", unavailable=True)


def _has_it_itself(board: _Board, spec: EnvironmentSpec, failure: EnvironmentFailure) -> None:
    """Raise ``failure`` unless the board has the versions required, or the packages of Debian that stand for them."""
    found = _own_packages(board, spec)["python"]
    wanted = {canonicalize_name(item.name): item for item in map(Requirement, spec.requirements)}
    has_all = all(
        name in found and item.specifier.contains(found[name], prereleases=True) for name, item in wanted.items()
    )
    if failure.unsupported and has_all:
        return
    if spec.debian:
        _has_debians(board, spec, failure)
        if board.facts.base.startswith("/usr/bin/"):
            return
        why = f"Debian's packages are for /usr/bin/python3, which options.python should name, not {board.facts.base}"
        raise EnvironmentFailure(f"{failure}; {why}", failure.log_tail, unavailable=True)
    if failure.unavailable:
        raise failure
    has = ", ".join(f"{name} {version}" for name, version in found.items()) or "none of it"
    raise EnvironmentFailure(f"{failure}; {board.host} itself has {has}", failure.log_tail, unsupported=True)


def _has_debians(board: _Board, spec: EnvironmentSpec, failure: EnvironmentFailure) -> None:
    """Raise a failure (unavailable) unless the board has all packages of Debian that the plug-in names."""
    missing = [name for name in spec.debian if name not in _own_packages(board, spec)["debian"]]
    if missing:
        how = f"on {board.host}, where it is Debian 13, `apt-get install {' '.join(missing)}` would do instead"
        raise EnvironmentFailure(f"{failure}; {how}", failure.log_tail, unavailable=True)


def _program(building: _Building, folder: Path, announce: Announce, patience: Patience) -> dict[str, Any]:
    """Put the runner, and what its runtime's library lies beside, into ``folder``; returns its description."""
    store, wanted = building.store, building.wanted
    spec, platform = wanted.spec, wanted.platform
    assert wanted.program is not None
    shutil.copy(programs.compiled(store, wanted.program, platform, announce, patience), folder / "runner")
    packages = building.scratch / "packages"
    tags = _tags(platform, building.board.facts, programs.python_of(spec))
    try:
        glob = programs.glob_for(spec, platform.os)
        wheels.install(spec.requirements, tags, packages, patience, dependencies=False)
    except EnvironmentFailure as failure:
        if not failure.unsupported or not spec.debian:
            raise
        _has_debians(building.board, spec, failure)
        return _debians_library(building.board, spec)
    library = programs.find_library(packages, glob, platform)
    (folder / "lib").mkdir()
    for file in library.parent.iterdir():
        if re.search(r"^lib.*\.(so[\d.]*|dylib)$", file.name):
            shutil.copy(file, folder / "lib" / file.name)
    versions = {item.metadata["Name"]: item.version for item in metadata.distributions(path=[str(packages)])}
    return {"requirements": list(spec.requirements), "library": f"lib/{library.name}", "versions": versions}


def _debians_library(board: _Board, spec: EnvironmentSpec) -> dict[str, Any]:
    """Return the description of a program's environment whose library is the board's own."""
    pattern = f"/{programs.glob_for(spec, 'debian')}"
    found = board.connection.ask("find", {"glob": pattern})["found"]
    if not found:
        raise EnvironmentFailure(f"{board.host} has {', '.join(spec.debian)}, but no {pattern}")
    versions = _own_packages(board, spec)["debian"]
    return {"requirements": list(spec.requirements), "library": found[0], "versions": versions}


def _environment(board: _Board, name: str, place: str, described: Mapping[str, Any]) -> Environment:
    if "library" in described:
        # A library of the board's own has a whole path, which stays what it is.
        env = {programs.LIBRARY: str(PurePosixPath(place) / described["library"])}
        command = programs.worker_of(f"{place}/runner")
        site = site_of(board, program=True)
        return Environment(name, command, env, site, described["versions"], interpreter_free=True)
    python = board.facts.executable if described["own"] else f"{place}/bin/python"
    return Environment(name, (python, "-I", board.connection.file(WORKER)), {}, site_of(board))


# --- The site -------------------------------------------------------------------------------------------------------


def site_of(board: _Board, *, program: bool = False) -> Site:
    """Return the site that a board is for a worker in Python, or for a program."""
    connection, facts = board

    def wrap(inside: Inside, command: Sequence[str]) -> list[str]:
        if not program:
            connection.file(WORKER)  # whoever keeps the board tidy may have removed it
        return connection.command(
            {
                "mark": connection.mark(inside.name),
                "folder": connection.scratch(inside.folder),
                "env": dict(inside.env),
                "closure": [] if inside.network else list(facts.closure),
                "command": list(command),
                "memory_mb": inside.memory_mb,
            }
        )

    def there(path: Path) -> str:
        if path.is_file():
            return connection.file(path)
        return connection.bundle(path) if (path / MANIFEST).is_file() else connection.scratch(path)

    return Site(
        wrap=wrap,
        network="namespace" if facts.closure else "none" if program else "audit-hook",
        via=", ".join(filter(None, [client(), f"{facts.kernel} {facts.machine}", facts.processor])),
        there=there,
        bring=connection.fetch,
        ending=lambda inside, status: _ending(board, inside, status),
        end=lambda inside: connection.end(inside.name, inside.folder),
    )


def _ending(board: _Board, inside: Inside, status: int) -> Ending:
    """Return what the end of a worker's ssh session means: what its watch on the board noted, if that can be had."""
    answer = board.connection.ended(inside.name)
    how = (answer or {}).get("how")
    lost = Ending(f"the connection to {board.host} was lost", "harness", transient=True)
    match how:
        case {"signal": int(number), "name": str(name)}:
            # By the board's own name: systems number signals differently.
            named = f"{name} (signal {number})" if name else signal_name(number)
            return died_of(named)
        case {"memory_mb": int(used)}:
            limit = f"the limit is {inside.memory_mb} MiB"
            return Ending(f"used {used} MiB of memory; {limit}", "model", transient=True)
        case {"status": int(code)}:
            return Ending(f"the worker ended itself with status {code}", "model")
        case {"error": str(why)}:
            return Ending(f"the worker could not be started on {board.host}: {why}", "harness", transient=True)
    if answer is None or how is not None or status == 255:
        return lost
    said = f"the worker's session on {board.host} ended with status {status}, and its watch said nothing of why"
    return Ending(said, "harness", transient=True)
