"""Environments of runtimes that are programs: the runner compiled for a platform, beside the runtime's own library."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from portmatrix import environments, wheels
from portmatrix.commands import Patience
from portmatrix.environments import Announce, Environment
from portmatrix.errors import EnvironmentFailure
from portmatrix.plugins import EnvironmentSpec
from portmatrix.runner.build import SOURCES, ZIG, compile_runner, describe, inspect_binary, unfit, zig
from portmatrix.store import DESCRIPTION, Store, digest_of, write_whole
from portmatrix.types import PlatformSpec

#: Changes when the way of building changes.
BUILDER = 1
#: The variable by which the runner is told where the runtime's shared library is.
LIBRARY = "PORTMATRIX_LIBRARY"
#: Wheels are for some version of CPython; the shared library in them is mostly the same in all. The first one is taken
#: that the plug-in's ``python`` allows: not every index has a wheel of the same build for all of them.
PYTHONS = ("3.12", "3.11", "3.13", "3.10", "3.14")
_COMPILER = EnvironmentSpec(requirements=(ZIG,))


def runner_key(source: Path, platform: PlatformSpec) -> str:
    """Return the name in the store of the runner made of ``source`` for ``platform``."""
    own = [*SOURCES.glob("*.c"), *SOURCES.glob("*.h"), SOURCES / "build.py", source]
    contents = [hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(own)]
    return f"runner-{describe(platform)}-{digest_of([BUILDER, ZIG, contents])[:16]}"


def compiled(store: Store, source: Path, platform: PlatformSpec, announce: Announce, patience: Patience) -> Path:
    """Return the runner made of ``source`` for ``platform``, compiled if need be; raises ``EnvironmentFailure``.

    The compiler is Zig's, from the package index: it has the C library of every platform, so that any machine compiles
    for all of them, and all of them the same.
    """
    name = source.stem + (".exe" if platform.os == "windows" else "")

    def make(building: Path) -> None:
        compiler = environments.ensure(store, _COMPILER, announce, patience.seconds, patience.stopped)
        announce(f"compiling {source.name} for {describe(platform)}")
        # One at a time: two that fill the compiler's cache of C libraries together take longer than one by one.
        with store.lock("zig-cache"):
            cache = store.root / "envs" / "zig-cache"
            compile_runner(source, platform, (), building / name, zig(Path(compiler.python), cache), patience)
        inspected = inspect_binary(building / name).model_dump()
        write_whole(building / DESCRIPTION, json.dumps({"inspection": inspected}, indent=1))

    return store.environment(runner_key(source, platform), make) / name


def find_library(folder: Path, glob: str, platform: PlatformSpec) -> Path:
    """Return the one shared library that ``glob`` names below ``folder``; raises ``EnvironmentFailure``.

    Of several that are links to one another it is the one that is meant.
    """
    found = sorted({file.resolve() for file in folder.glob(glob)})
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "nothing"
        raise EnvironmentFailure(f"expected one library at {glob}, found {names}")
    if why := unfit(inspect_binary(found[0]), platform):
        raise EnvironmentFailure(f"{found[0].name} is not for {describe(platform)}: {why}")
    return found[0]


def glob_for(spec: EnvironmentSpec, where: str) -> str:
    """Return the glob by which a runtime's library is found: by operating system, or ``debian``.

    Raises ``EnvironmentFailure`` (unsupported) where the plug-in names none.
    """
    if where not in spec.library:
        named = ", ".join(spec.library) or "none"
        raise EnvironmentFailure(f"names no library for {where}, but for {named}", unsupported=True)
    return spec.library[where]


def key(spec: EnvironmentSpec, source: Path, platform: PlatformSpec) -> str:
    """Return the key of the program's environment on ``platform``: its runner, and the wheels with its library."""
    rests_on = [BUILDER, runner_key(source, platform), sorted(spec.requirements), sorted(spec.library.items())]
    if (python := python_of(spec)) != PYTHONS[0]:
        rests_on.append(python)
    return f"program-{source.stem}-{digest_of(rests_on)[:16]}"


def python_of(spec: EnvironmentSpec) -> str:
    """Return the version of CPython whose wheels are taken: the first that the plug-in allows."""
    allowed = SpecifierSet(spec.python)
    return next((python for python in PYTHONS if allowed.contains(python)), PYTHONS[0])


def install_library(spec: EnvironmentSpec, platform: PlatformSpec, folder: Path, patience: Patience) -> Path:
    """Return the runtime's shared library, out of its wheel for ``platform`` in ``folder``.

    What the wheels need of Python is not installed: there is no Python. Raises ``EnvironmentFailure``.
    """
    glob = glob_for(spec, platform.os)
    wheels.install(spec.requirements, wheels.tags_for(platform, python_of(spec)), folder, patience, dependencies=False)
    return find_library(folder, glob, platform)


def ensure(
    store: Store, spec: EnvironmentSpec, source: Path, platform: PlatformSpec, announce: Announce, patience: Patience
) -> Environment:
    """Return the program's environment on this machine, built if need be; raises ``EnvironmentFailure``."""
    name = key(spec, source, platform)
    program = compiled(store, source, platform, announce, patience)

    def make(building: Path) -> None:
        announce(f"downloading the library of {' '.join(spec.requirements)}")
        library = install_library(spec, platform, building, patience)
        notes = {
            "requirements": list(spec.requirements),
            "library": library.relative_to(building.resolve()).as_posix(),
            "inspection": inspect_binary(library).model_dump(),
        }
        write_whole(building / DESCRIPTION, json.dumps(notes, indent=1))

    folder = store.environment(name, make)
    noted = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    env = {LIBRARY: str(folder / noted["library"])}
    # Not every library can tell its version: those of its wheels are pinned.
    pinned = [(item.name, pin.version) for item in map(Requirement, spec.requirements) for pin in item.specifier]
    return Environment(name, worker_of(program), env, versions=dict(pinned), interpreter_free=True)


def worker_of(program: Path | str) -> tuple[str, ...]:
    """Return the command by which a runner becomes a worker."""
    return (str(program), "--worker")
