"""Environments: one for each set of pinned requirements and interpreter or container image, shared by all who need it.

A virtual environment is built beside its place under a lock, checked, and moved there in one step. Nothing is installed
but here, and it holds no pip of its own: what runs in it later cannot install anything. What this machine has no
interpreter for is built as a container image.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

from portmatrix import npm
from portmatrix.commands import Patience, Stopped, never, output_of
from portmatrix.containers import Image, build_image, has_image, image_for, site_of
from portmatrix.errors import EnvironmentFailure
from portmatrix.plugins import EnvironmentSpec
from portmatrix.sites import Site
from portmatrix.store import DESCRIPTION, Store, digest_of, write_whole
from portmatrix.workers import Launch, in_python, network_closure

#: Changes when the way of building changes, so that environments built the old way are not taken for the new.
BUILDER = 2
#: Where an environment has the system's libraries under the names that its packages look for.
_LINKS = "linked"
#: The variable by which workers are told where their packages for Node.js are.
NODE_MODULES = "PORTMATRIX_NODE_MODULES"
#: The first pip that tells what it would install (--dry-run --report).
_FIRST_REPORTING_PIP = Version("22.2")

Announce = Callable[[str], None]


class Interpreter(NamedTuple):
    """A CPython on this machine: its executable (no virtual environment's) and its version."""

    executable: str
    version: str


class Environment(NamedTuple):
    """A built environment: its key, the command of a worker in it, and its site (None: it is on this machine).

    ``env`` are variables that what runs in it needs to find what was put there. ``versions`` are those of packages
    that the worker cannot tell of itself, and ``interpreter_free`` says that it is a program, with no interpreter.
    """

    key: str
    command: tuple[str, ...]
    env: Mapping[str, str]
    site: Site | None = None
    versions: Mapping[str, str] = {}
    interpreter_free: bool = False

    @property
    def python(self) -> str:
        """What the worker's command begins with: the interpreter, unless the worker is a program of its own."""
        return self.command[0]

    @property
    def folder(self) -> Path:
        """The virtual environment's folder; of an image, a folder inside it."""
        return Path(self.python).parent.parent


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

    Each one found is started to ask what it is, several at a time and each file once: most of what is found are links
    to the rest. The answer is kept for the life of the process.
    """
    from findpython.providers import ALL_PROVIDERS  # noqa: PLC0415 - few commands look for interpreters

    own = own_interpreter()
    providers = filter(None, (kind.create() for kind in ALL_PROVIDERS.values()))
    files = {os.path.realpath(item.executable): item for provider in providers for item in provider.find_pythons()}
    files.pop(own.executable, None)
    with ThreadPoolExecutor() as pool:
        # A launcher such as those of pyenv may be nobody's, and ends with an error: that is not valid.
        valid = pool.map(lambda item: item.is_valid() and item.implementation == "cpython", files.values())
        found = [(item.version, file) for (file, item), is_one in zip(files.items(), valid, strict=True) if is_one]
    return own, *(Interpreter(file, str(version)) for version, file in sorted(found, reverse=True))


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


def find_libraries(wanted: Mapping[str, str]) -> dict[str, str]:
    """Return ``{name to link: path}`` of the system's shared libraries that an environment asks for.

    Raises ``EnvironmentFailure`` (unavailable) naming what is not here.
    """
    here = _system_libraries() if wanted else {}
    missing = sorted(set(wanted.values()) - here.keys())
    if missing:
        raise EnvironmentFailure(f"needs {', '.join(missing)} on this machine", unavailable=True)
    return {name: here[system] for name, system in wanted.items()}


@functools.cache
def _system_libraries() -> dict[str, str]:
    """Return the shared libraries that this machine's loader knows, ``{name: path}``, of the engine's own word size."""
    loader = shutil.which("ldconfig", path=os.pathsep.join([os.environ.get("PATH", ""), "/sbin", "/usr/sbin"]))
    if loader is None:
        return {}
    listed = subprocess.run([loader, "-p"], capture_output=True, text=True, check=False).stdout
    own = "x86-64" if platform.machine() == "x86_64" else ""
    # libmpi.so.40 (libc6,x86-64) => /lib/x86_64-linux-gnu/libmpi.so.40
    found = re.findall(r"^\s*(\S+) \(([^)]*)\) => (\S+)$", listed, re.MULTILINE)
    return {name: path for name, kind, path in found if own in kind}


def source_of(spec: EnvironmentSpec) -> Interpreter | Image:
    """Return what an environment is made from on this machine: an interpreter if one is here, else a container image.

    Raises ``EnvironmentFailure`` (unavailable) with what is missing for either.
    """
    reasons: list[str] = []
    if spec.interpreter:
        try:
            find_libraries(spec.libraries)
            return find_interpreter(spec.python)
        except EnvironmentFailure as failure:
            reasons.append(f"{failure} ({spec.install})" if spec.install and spec.libraries else str(failure))
    if spec.dockerfile is not None:
        try:
            return image_for(spec.container, spec.dockerfile, spec.requirements)
        except EnvironmentFailure as failure:
            reasons.append(str(failure))
    raise EnvironmentFailure("; ".join(reasons), unavailable=True)


def environment_key(spec: EnvironmentSpec, source: Interpreter | Image | None) -> str:
    """Return the name of the environment: what it is called in the store, equal for all that may share it.

    Without a ``source`` it names one that this machine cannot have.
    """
    if isinstance(source, Image):
        return f"{source.container}-{source.digest[:16]}"
    version = source.version if source is not None else "none"
    built_from = [BUILDER, sorted(spec.requirements), version, sys.platform, platform.machine()]
    if spec.libraries:
        built_from.append(sorted(spec.libraries.items()))
    if spec.npm:
        built_from.append(sorted(spec.npm))
    return f"py{'.'.join(version.split('.')[:2])}-{digest_of(built_from)[:16]}"


def key_here(spec: EnvironmentSpec) -> str | None:
    """Return the key of the environment on this machine, or None where it cannot be had."""
    try:
        return environment_key(spec, source_of(spec))
    except EnvironmentFailure:
        return None


def python_in(folder: Path) -> Path:
    """Return the interpreter of the virtual environment in ``folder``."""
    return folder / "Scripts" / "python.exe" if os.name == "nt" else folder / "bin" / "python"


def existing(store: Store, spec: EnvironmentSpec) -> Environment | None:
    """Return the environment if it is built and whole, else None; raises ``EnvironmentFailure`` (unavailable)."""
    source = source_of(spec)
    key = environment_key(spec, source)
    if isinstance(source, Image):
        return _in_image(key, source) if has_image(source) else None
    folder = store.root / "envs" / key
    if not (folder / DESCRIPTION).is_file() or not python_in(folder).exists():
        return None
    return Environment(key, in_python(str(python_in(folder))), _links(folder, spec))


def launch(
    built: Environment,
    name: str,
    spec: EnvironmentSpec,
    shared: Mapping[Path, bool],
    prefix: tuple[str, ...] = (),
    more: Mapping[str, str] | None = None,
) -> Launch:
    """Return how a worker of the plug-in ``name`` is started in its environment, on the target behind ``prefix``.

    ``shared`` are the folders that it must see where that is a container (True: to write), ``more`` the variables that
    the target gives to all of its workers.
    """
    env = {**built.env, **(more or {}), **spec.env}
    return Launch(
        name,
        prefix,
        built.command,
        env,
        spec.network,
        spec.packages,
        built.site,
        shared,
        built.versions,
        built.interpreter_free,
    )


def _in_image(key: str, image: Image) -> Environment:
    return Environment(key, in_python(image.python), {}, site_of(image, *network_closure()))


def _links(folder: Path, spec: EnvironmentSpec) -> dict[str, str]:
    """Return the variables by which workers find what lies in an environment beside the packages of its Python."""
    modules = {NODE_MODULES: str(folder / "node_modules")} if spec.npm else {}
    if not spec.libraries:
        return modules
    before = os.environ.get("LD_LIBRARY_PATH")
    return {**modules, "LD_LIBRARY_PATH": os.pathsep.join([str(folder / _LINKS), *([before] if before else [])])}


def ensure(
    store: Store, spec: EnvironmentSpec, announce: Announce, seconds: float, stopped: Stopped = never
) -> Environment:
    """Return the environment for ``spec``, building it first if it is not there.

    ``stopped`` is asked twice a second whether to give up.

    ``announce`` gets the lines that say what is about to be downloaded. Raises ``EnvironmentFailure`` with the end of
    the installer's output; nothing half-built is left behind.
    """
    source = source_of(spec)
    key = environment_key(spec, source)
    patience = Patience(seconds, stopped)
    with store.lock(f"env-{key}"):
        ready = existing(store, spec)
        if ready is not None:
            return ready
        if isinstance(source, Image):
            build_image(source, announce, patience)
            return _in_image(key, source)
        folder = store.root / "envs" / key
        shutil.rmtree(folder, ignore_errors=True)
        with store.scratch("env") as scratch:
            building = scratch / key
            _build(building, spec, source, announce, patience)
            _point_scripts(building, folder)
            building.rename(folder)
    return Environment(key, in_python(str(python_in(folder))), _links(folder, spec))


def _build(
    folder: Path, spec: EnvironmentSpec, interpreter: Interpreter, announce: Announce, patience: Patience
) -> None:
    output_of(
        [interpreter.executable, "-I", "-m", "venv", "--without-pip", str(folder)], patience, "create the environment"
    )
    pip = pip_for(python_in(folder), interpreter, folder.parent, patience)
    downloads = resolve(pip, spec.requirements, folder.parent, patience)
    if downloads:
        announce(describe_downloads(spec, interpreter, downloads))
        exact = [f"{item.name}=={item.version}" for item in downloads]
        # Names are resolved already: nothing but this list can be installed, whatever the index says meanwhile.
        _run_pip(pip, ["install", "--no-deps", "--no-compile", "--quiet", *exact], patience, "install")
    for name, path in find_libraries(spec.libraries).items():
        (folder / _LINKS).mkdir(exist_ok=True)
        (folder / _LINKS / name).symlink_to(path)
    npm.install(folder, spec.npm, patience, announce)
    _health(python_in(folder), spec, patience)
    description = {"requirements": list(spec.requirements), "interpreter": interpreter._asdict()}
    description["installed"] = [f"{item.name}=={item.version}" for item in downloads]
    write_whole(folder / DESCRIPTION, json.dumps(description, indent=1))


def _point_scripts(building: Path, folder: Path) -> None:
    """Have the commands in an environment name the interpreter where it is going to be, not where it was built."""
    # Where the path is too long for a first line, a shell is asked to start it, in the second.
    old, new = (str(python_in(place)).encode() for place in (building, folder))
    for file in python_in(building).parent.iterdir():
        if not file.is_symlink() and file.is_file():
            content = file.read_bytes()
            if content.startswith(b"#!"):
                file.write_bytes(content.replace(old, new))


class Pip(NamedTuple):
    """A command that installs into one environment, and whether it can tell beforehand what it would install."""

    command: tuple[str, ...]
    reports: bool


def pip_for(python: Path, interpreter: Interpreter, folder: Path, patience: Patience) -> Pip:
    """Return the pip for the environment of ``python``: the engine's own, or the last one that its version can run.

    pip works inside the interpreter that it installs for, and drops the old ones. Of a wheel it runs without being
    installed; ``folder`` gets that wheel. Raises ``EnvironmentFailure``.
    """
    own = (sys.executable, "-m", "pip")
    if SpecifierSet(str(metadata.metadata("pip")["Requires-Python"] or "")).contains(interpreter.version):
        return Pip((*own, "--python", str(python)), reports=True)
    place = folder / "pip"
    fetch = ["download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(place)]
    version = ".".join(interpreter.version.split(".")[:2])
    _run_pip(Pip(own, reports=True), [*fetch, "--python-version", version, "pip"], patience, "fetch an old pip")
    (wheel,) = place.glob("pip-*.whl")
    reports = Version(wheel.name.split("-")[1]) >= _FIRST_REPORTING_PIP
    return Pip((str(python), str(wheel / "pip")), reports)


def resolve(pip: Pip, requirements: Sequence[str], folder: Path, patience: Patience) -> list[Download]:
    """Return everything that pip would install into its environment to satisfy ``requirements``.

    Sizes come from the files' own headers where the index serves them. Raises ``EnvironmentFailure``.
    """
    if not requirements:
        return []
    if not pip.reports:
        return _resolve_by_download(pip, requirements, folder, patience)
    report = folder / "resolved.json"
    arguments = ["install", "--dry-run", "--ignore-installed", "--quiet", "--report", str(report), *requirements]
    _run_pip(pip, arguments, patience, "resolve")
    items = json.loads(report.read_text(encoding="utf-8"))["install"]
    with ThreadPoolExecutor(16) as pool:
        sizes = list(pool.map(_size, [item["download_info"]["url"] for item in items]))
    return [_download(item, size) for item, size in zip(items, sizes, strict=True)]


def _resolve_by_download(pip: Pip, requirements: Sequence[str], folder: Path, patience: Patience) -> list[Download]:
    """Return what a pip too old to report would install, by what it downloads; it keeps that for the installation."""
    place = folder / "wheels"
    _run_pip(
        pip, ["download", "--quiet", "--only-binary=:all:", "--dest", str(place), *requirements], patience, "resolve"
    )
    found = []
    for wheel in sorted(place.glob("*.whl")):
        name, version, _, _ = parse_wheel_filename(wheel.name)
        found.append(Download(name, str(version), wheel.as_uri(), wheel.stat().st_size))
    return found


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
    command = [str(python), "-I", "-c", "import json, sys; print(json.dumps(sys.path))"]
    places = json.loads(output_of(command, patience, "start the environment"))
    # Read from here: interpreters before 3.8 have nothing in their standard library that tells what is installed.
    installed = metadata.distributions(path=places)
    found = {canonicalize_name(item.metadata["Name"]): item.version for item in installed}
    for item in spec.requirements:
        requirement = Requirement(item)
        version = found.get(canonicalize_name(requirement.name))
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            raise EnvironmentFailure(f"asked for {item}, but {requirement.name} {version} was installed")


def _run_pip(pip: Pip, arguments: Sequence[str], patience: Patience, doing: str) -> str:
    command = [*pip.command, "--no-input", "--disable-pip-version-check", *arguments]
    return output_of(command, patience, doing)
