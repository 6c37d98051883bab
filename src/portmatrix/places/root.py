"""Root directories of Debian 13 for any of its architectures, made by mmdebstrap and entered by bubblewrap.

Nothing in them is configured or run while they are made, so that no right and no emulator is needed for it. Where their
architecture is not this machine's, an emulator of QEMU's user mode stands between bubblewrap and the worker. What is
mounted vanishes with the worker's process.
"""

from __future__ import annotations

import functools
import json
import os
import platform as machine
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from packaging.specifiers import SpecifierSet

from portmatrix import programs, wheels
from portmatrix.commands import Patience, output_of
from portmatrix.environments import Environment
from portmatrix.errors import EnvironmentFailure
from portmatrix.places import Announce, Wanted
from portmatrix.plugins import NoWay, Way
from portmatrix.sites import Inside, Site, by_status
from portmatrix.store import DESCRIPTION, Store, digest_of, write_whole
from portmatrix.types import PlatformSpec
from portmatrix.workers import WORKER, Failure, Launch, Limits, start

#: Changes when the way of building changes, so that roots built the old way are not taken for the new.
BUILDER = 1
#: The release that ``EnvironmentSpec.debian`` means packages of, its number, and its CPython.
RELEASE, NUMBER, PYTHON = "trixie", "13", "3.13"
#: The other name of the release, as long as it is the newest: the same files of a mirror, under another index.
_ALIAS = "stable"
#: Names the mirror of Debian to use instead of the one that this machine's apt uses.
MIRROR = "PORTMATRIX_DEBIAN_MIRROR"

_BASE = ("base-files", "dash")
#: What a worker needs beside what its plug-in names.
_FOR_WORKERS = ("python3", "python3-numpy")
#: What wheels for Linux expect of a system (PEP 600), as far as runtimes use it.
_FOR_WHEELS = ("libgcc-s1", "libstdc++6", "zlib1g")
#: Where Debian's CPython looks for what was installed beside its packages, and where wheels are mounted.
_BESIDE = f"usr/local/lib/python{PYTHON}/dist-packages"
#: Read by people only, and a quarter of a root.
_FOR_READERS = ("doc", "man", "locale", "info", "lintian", "bash-completion", "pixmaps")
#: Alternatives of Debian, which nobody chose where nothing was configured.
_ALTERNATIVES = ("blas", "lapack")
#: What the root brings itself: nothing of this machine's can be mounted below these under its own name.
_OWN = frozenset({"bin", "dev", "etc", "lib", "lib64", "proc", "sbin", "sys", "usr"})
_ELSEWHERE = "/host"
_EMULATOR = "/emulator"
_TMP = "/tmp"  # noqa: S108 - the root's, not this machine's
_TMP_BYTES = 64 << 20
_PROBE_SECONDS = 20
_MEMORY_MB = 4096
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
#: Debian's names of processors, by the machine names of Linux.
_DEBIAN_NAMES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "armhf", "ppc64le": "ppc64el"}
#: What apt says of a package that is not made for the architecture.
_NO_PACKAGE = re.compile(r"^E: (Unable to locate package .*|Package '.*' has no installation candidate)$", re.MULTILINE)


class Emulator(NamedTuple):
    """A program that executes another processor's code: its path, and its name with its version."""

    executable: str
    named: str


class _Contents(NamedTuple):
    """What an environment is made of: Debian's packages, and requirements that are installed as wheels."""

    debian: tuple[str, ...]
    wheels: tuple[str, ...] = ()


class _Enclosure(NamedTuple):
    """A root with a folder of wheels, if any, and the emulator, if any.

    While it is ``new``, what is being made can be written to: the wheels if there are any, else the root.
    """

    root: Path
    wheels: Path | None
    emulator: Emulator | None
    new: bool = False


# --- What this machine has ------------------------------------------------------------------------------------------


def lacking(way: Way, platform: PlatformSpec) -> NoWay | None:
    """Return which tools, keys or mirror are not here, with one command for all of them; None if nothing is amiss."""
    if platform.os != "linux" or platform.libc not in ("", "glibc"):
        why = f"a root directory of Debian is Linux with glibc, not {platform.os} {platform.libc}".rstrip()
        return NoWay(why=why, install="name another place in the target's file")
    if not sys.platform.startswith("linux"):
        return NoWay(why="root directories need Linux", install="run portmatrix on Linux")
    wanted = [("bwrap", "bubblewrap"), ("mmdebstrap", "mmdebstrap")]
    missing = [(command, package) for command, package in wanted if shutil.which(command) is None]
    if _is_foreign(way) and _emulator_here(way.emulator) is None:
        missing.append((f"{way.emulator or 'the emulator'}-static", "qemu-user-static"))
    if not _KEYRING.is_file():
        missing.append(("the keys of Debian's archive", "debian-archive-keyring"))
    orders = []
    if missing:
        orders.append(f"apt-get install {' '.join(package for _, package in missing)}")
    names = [name for name, _ in missing]
    if not mirror():
        names.append("a mirror of Debian that apt knows")
        orders.append(f"export {MIRROR}=URL")
    if names:
        return NoWay(why=f"not here: {', '.join(names)}", install=" && ".join(orders))
    return _unable(_emulator_here(way.emulator) if _is_foreign(way) else None)


def _is_foreign(way: Way) -> bool:
    own = machine.machine()
    return str(way.options["architecture"]) != _DEBIAN_NAMES.get(own, own)


def _emulator_here(name: str) -> str | None:
    return shutil.which(f"{name}-static") or shutil.which(name)


def mirror() -> str:
    """Return the mirror of Debian to use, or an empty string."""
    return os.environ.get(MIRROR) or _mirror_of_apt()


@functools.cache
def _mirror_of_apt() -> str:
    if shutil.which("apt-get") is None:
        return ""
    # Not the mirror of security updates, which is another archive.
    question = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Origin: Debian", "Label: Debian"]
    answer = subprocess.run(question, capture_output=True, text=True, check=False)
    return next(iter(answer.stdout.split()), "")


def _unable(executable: str | None) -> NoWay | None:
    """Return why bubblewrap cannot start the emulator (or anything at all) here, or None where it can."""
    tried = _tried(executable)
    if not tried.returncode:
        return None
    lines = tried.stderr.strip().splitlines() or [f"exit status {tried.returncode}"]
    what = f"bwrap cannot start {executable}" if executable else "bwrap does not work"
    install = "run as root, or allow user namespaces (and an emulator must be linked statically: qemu-user-static)"
    return NoWay(why=f"{what}: {lines[-1]}", install=install)


@functools.cache
def _tried(executable: str | None) -> subprocess.CompletedProcess[str]:
    """Return what came of the emulator stating its version behind the walls that workers get."""
    line = _walls(network=False)
    if executable:
        line += ["--ro-bind", executable, _EMULATOR, "--", _EMULATOR, "--version"]
    else:
        line += ["--ro-bind", "/usr", "/usr", *_usual_links(), "--", "/usr/bin/true"]
    try:
        return subprocess.run(line, capture_output=True, text=True, timeout=_PROBE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(line, 1, "", str(error))


def _emulator(way: Way) -> Emulator | None:
    """Return the emulator of the way, None for this machine's own processor; raises ``EnvironmentFailure``."""
    if not _is_foreign(way):
        return None
    executable = _emulator_here(way.emulator)
    if executable is None:
        raise EnvironmentFailure(f"{way.emulator} is not on this machine", unavailable=True)
    version = re.search(r"version (\S+)", _tried(executable).stdout)
    return Emulator(executable, f"{way.emulator} {version[1] if version else 'of unknown version'}")


# --- What an environment is made of ---------------------------------------------------------------------------------


def key(wanted: Wanted) -> str:
    """Return the key of the root, with its wheels if any; it names no point release of Debian, as no mirror is asked.

    Raises ``EnvironmentFailure`` (unavailable) for what needs another CPython than Debian 13's, or a container.
    """
    contents = _contents(wanted)
    return _key(wanted.way, contents.debian, contents.wheels)


def _key(way: Way, debian: Sequence[str], requirements: Sequence[str] = ()) -> str:
    emulator = _emulator(way)
    made_of = [BUILDER, _suites(way)[0], list(debian), list(requirements), emulator.named if emulator else ""]
    return f"root-{way.options['architecture']}-{digest_of(made_of)[:16]}"


def _suites(way: Way) -> tuple[str, ...]:
    """Return the names under which a mirror is asked for the release, in order."""
    named = way.options.get("suite")
    return (str(named),) if named else (RELEASE, _ALIAS)


def _contents(wanted: Wanted) -> _Contents:
    spec = wanted.spec
    if spec.debian:
        return _Contents(tuple(sorted({*_BASE, *(() if wanted.program else _FOR_WORKERS), *spec.debian})))
    if not spec.interpreter:
        raise EnvironmentFailure("it is made as a container image only", unavailable=True)
    if not wanted.program and not SpecifierSet(spec.python).contains(PYTHON):
        # Who has another CPython there may find wheels for it: this is no finding about the platform.
        raise EnvironmentFailure(f"needs CPython {spec.python}; Debian {NUMBER} has {PYTHON}", unavailable=True)
    interpreter = () if wanted.program else _FOR_WORKERS[:1] if spec.requirements else _FOR_WORKERS
    return _Contents(tuple(sorted({*_BASE, *_FOR_WHEELS, *interpreter})), tuple(sorted(spec.requirements)))


# --- Making one -----------------------------------------------------------------------------------------------------


def ensure(store: Store, wanted: Wanted, announce: Announce, patience: Patience) -> Environment:
    """Return the environment at a root directory, built if need be.

    Raises ``EnvironmentFailure`` with the end of the output of mmdebstrap or pip: unsupported where Debian has no such
    package for the architecture, or nobody such a wheel.
    """
    contents = _contents(wanted)
    packages = _made_wheels(store, wanted, contents, announce, patience) if contents.wheels else None
    root = _made_root(store, wanted, contents, announce, patience)
    enclosure = _Enclosure(root, packages, _emulator(wanted.way))
    return _environment(key(wanted), enclosure, _program(store, wanted, enclosure, announce, patience))


def unpacked(
    store: Store, wanted: Wanted, way: Way, packages: Sequence[str], announce: Announce, patience: Patience
) -> tuple[Path, dict[str, str]]:
    """Return a root with these packages of Debian, and versions by name; nothing in it is run.

    It is built if need be; raises ``EnvironmentFailure`` as ``ensure`` does.
    """
    contents = _Contents(tuple(sorted({*_BASE, *packages})))
    root = _made_root(store, wanted._replace(way=way), contents, announce, patience)
    return root, _installed(root)


class _Program(NamedTuple):
    """A worker that is a program: its binary on this machine, and the runtime's shared library there with versions."""

    binary: Path
    library: str
    versions: dict[str, str]


def _program(
    store: Store, wanted: Wanted, enclosure: _Enclosure, announce: Announce, patience: Patience
) -> _Program | None:
    if wanted.program is None:
        return None
    place, below, glob = enclosure.root, "/", wanted.spec.library.get("debian", "")
    if enclosure.wheels is not None:
        place, below, glob = enclosure.wheels, f"/{_BESIDE}/", wanted.spec.library.get("linux", "")
    found = sorted(place.glob(glob)) if glob else []
    if not found:
        raise EnvironmentFailure(f"nothing in {place.name} matches {glob!r}, where {wanted.name} has its library")
    binary = programs.compiled(store, wanted.program, wanted.platform, announce, patience)
    return _Program(binary, below + found[0].relative_to(place).as_posix(), _versions(store, wanted))


def _versions(store: Store, wanted: Wanted) -> dict[str, str]:
    """Return the versions of what the plug-in names, by Debian's or the distributions' names."""
    installed = _installed(store.root / "envs" / key(wanted))
    return {name: installed[name] for name in wanted.spec.debian or wanted.spec.packages if name in installed}


def _installed(folder: Path) -> dict[str, str]:
    """Return what an environment says that it is made of: versions by name."""
    described = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    parts = (item.partition("=") for item in described["installed"])
    return {name: version.lstrip("=") for name, _, version in parts}


def _environment(name: str, enclosure: _Enclosure, program: _Program | None) -> Environment:
    if program is None:
        command = ("/usr/bin/python3", "-I", there(WORKER))
        return Environment(name, command, {}, _site(enclosure))
    env = {programs.LIBRARY: program.library}
    site = _site(enclosure, program.binary)
    runner = programs.worker_of(there(program.binary))
    return Environment(name, runner, env, site, program.versions, interpreter_free=True)


def _made_root(store: Store, wanted: Wanted, contents: _Contents, announce: Announce, patience: Patience) -> Path:
    """Return the root with Debian's packages, built if need be."""

    def make(building: Path) -> None:
        suite = _bootstrap(building, wanted.way, contents.debian, announce, patience)
        installed = _packages_in(building)
        _trim(building)
        _choose_alternatives(building)
        enclosure = _Enclosure(building, None, _emulator(wanted.way), new=True)
        if set(_FOR_WORKERS) <= set(contents.debian):
            _says_hello(enclosure, wanted, building.parent, patience)
        elif "python3" in contents.debian:
            _compiles(enclosure, wanted, building.parent, patience)
        description = {"suite": suite, "packages": list(contents.debian), "installed": installed}
        write_whole(building / DESCRIPTION, json.dumps(description, indent=1))

    return store.environment(_key(wanted.way, contents.debian), make)


def _bootstrap(root: Path, way: Way, packages: Sequence[str], announce: Announce, patience: Patience) -> str:
    """Have mmdebstrap make the root, and return under which name its mirror has the release.

    A mirror in the middle of its update has indexes that do not fit each other, but seldom under all names at once.
    """
    architecture, suites = way.options["architecture"], _suites(way)
    for suite in suites:
        announce(f"making a root directory of Debian {suite} for {architecture} with {', '.join(packages)}")
        try:
            _mmdebstrap(root, suite, str(architecture), packages, patience)
        except EnvironmentFailure as failure:
            if failure.unsupported or suite == suites[-1]:
                raise
            announce(f"{failure}; trying its other name")
            shutil.rmtree(root, ignore_errors=True)
            continue
        found = _debian_version(root)
        if not found.startswith(f"{NUMBER}."):
            raise EnvironmentFailure(f"{suite} of {mirror()} is Debian {found}; expected {NUMBER} ({RELEASE})")
        return suite
    raise AssertionError(suites)  # the last one returns or raises


def _mmdebstrap(root: Path, suite: str, architecture: str, packages: Sequence[str], patience: Patience) -> None:
    mode = "root" if os.geteuid() == 0 else "chrootless"
    # In a process namespace, so that all of it ends with the engine, however that ends.
    line = [_bwrap(), "--die-with-parent", "--unshare-pid", "--dev-bind", "/", "/", "--proc", "/proc", "--"]
    line += ["mmdebstrap", f"--mode={mode}", "--variant=extract", f"--architectures={architecture}"]
    # apt's own user could not write into a folder that is the engine's alone. The archives tell what was installed.
    line += ['--aptopt=APT::Sandbox::User "root"', "--skip=cleanup/apt/cache", f"--include={','.join(packages)}"]
    try:
        output_of([*line, suite, str(root), mirror()], patience, f"make a root of {suite} for {architecture}")
    except EnvironmentFailure as failure:
        absent = _NO_PACKAGE.search(failure.log_tail)
        if absent:
            why = f"Debian {NUMBER} for {architecture}: {absent[1]}"
            raise EnvironmentFailure(why, failure.log_tail, unsupported=True) from failure
        first = re.search(r"^\s*(?:E: )?(.*(?:unexpected size|Hash Sum mismatch).*|E: .*)$", failure.log_tail, re.M)
        why = f"could not make a root of {suite} for {architecture}: {first[1].strip() if first else failure}"
        raise EnvironmentFailure(why, failure.log_tail) from failure


def _packages_in(root: Path) -> list[str]:
    """Return ``name=version`` of the packages that the root was made of."""
    archives = (root / "var/cache/apt/archives").glob("*.deb")
    parts = (unquote(file.name).split("_") for file in archives)
    return sorted(f"{name}={version}" for name, version, _architecture in parts)


def _trim(root: Path) -> None:
    """Remove all but what workers see of it, and of that what only people read."""
    for place in root.iterdir():
        if place.is_symlink() or not place.is_dir():
            place.unlink()
        elif place.name not in ("usr", "etc"):
            shutil.rmtree(place)
    for name in _FOR_READERS:
        shutil.rmtree(root / "usr/share" / name, ignore_errors=True)
    (root / _BESIDE).mkdir(parents=True, exist_ok=True)


def _choose_alternatives(root: Path) -> None:
    """Put the libraries that Debian has alternatives for where the loader finds them."""
    for folder in (root / "usr/lib").glob("*-linux-*"):
        for name in _ALTERNATIVES:
            for library in (folder / name).glob("*.so.*"):
                if not (folder / library.name).is_symlink():
                    (folder / library.name).symlink_to(f"{name}/{library.name}")


def _made_wheels(store: Store, wanted: Wanted, contents: _Contents, announce: Announce, patience: Patience) -> Path:
    """Return the folder with the wheels that are required, installed if need be.

    The root comes second: there is no use for it where nobody makes such wheels.
    """

    def make(building: Path) -> None:
        packages = building / "packages"
        packages.mkdir(parents=True)
        tags = wheels.tags_for(wanted.platform, PYTHON)
        announce(f"installing wheels for CPython {PYTHON} on {tags.platforms[-1]}: {' '.join(contents.wheels)}")
        wheels.install(contents.wheels, tags, packages, patience)
        root = _made_root(store, wanted, contents, announce, patience)
        if wanted.program is None:
            enclosure = _Enclosure(root, packages, _emulator(wanted.way), new=True)
            _says_hello(enclosure, wanted, building.parent, patience)
        installed = sorted(f"{item.name}=={item.version}" for item in metadata.distributions(path=[str(packages)]))
        description = {"root": root.name, "requirements": list(contents.wheels), "installed": installed}
        write_whole(building / DESCRIPTION, json.dumps(description, indent=1))

    return store.environment(key(wanted), make) / "packages"


def _says_hello(enclosure: _Enclosure, wanted: Wanted, scratch: Path, patience: Patience) -> None:
    """Check that a worker starts there. What its interpreter compiles on the way is kept: QEMU takes long for it."""
    built = _environment(wanted.name, enclosure, None)
    env = {**wanted.way.env, **wanted.spec.env}
    launch = Launch(wanted.name, (), built.command, env, network=False, packages=wanted.spec.packages, site=built.site)
    worker = start(launch, scratch / "worker", 1, Limits(patience.seconds, _MEMORY_MB))
    if isinstance(worker, Failure):
        raise EnvironmentFailure(f"no worker starts in the new root: {worker.reason}", worker.log_tail)
    worker.close()


def _compiles(enclosure: _Enclosure, wanted: Wanted, scratch: Path, patience: Patience) -> None:
    """Check that the interpreter starts in a new root: it compiles its own library, which a worker may not write to."""
    inside = Inside("portmatrix-compile", scratch, wanted.way.env, {scratch: True}, _MEMORY_MB, network=False)
    command = ["/usr/bin/python3", "-I", "-m", "compileall", "-q", f"/usr/lib/python{PYTHON}"]
    output_of(_command(enclosure, None, inside, command), patience, "start the interpreter of the new root")


# --- Running in one -------------------------------------------------------------------------------------------------


def there(path: Path) -> str:
    """Return what a path of this machine is called in a root: the same, unless the root has something of its own there.

    The engine may be installed below ``/usr``, as the root's interpreter is.
    """
    return f"{_ELSEWHERE}{path}" if len(path.parts) > 1 and path.parts[1] in _OWN else str(path)


def _site(enclosure: _Enclosure, binary: Path | None = None) -> Site:
    emulator = enclosure.emulator
    named = emulator.named if emulator else ""

    def wrap(inside: Inside, command: Sequence[str]) -> list[str]:
        return _command(enclosure, binary, inside, command)

    system = f"Debian {_debian_version(enclosure.root)} root"
    return Site(
        wrap=wrap,
        network="namespace",
        via=f"{named}, {system}" if named else system,
        emulator=named,
        there=there,
        ending=lambda _inside, status: by_status(status),
    )


def _debian_version(root: Path) -> str:
    return (root / "etc/debian_version").read_text(encoding="utf-8").strip()


def _bwrap() -> str:
    return shutil.which("bwrap") or "bwrap"


def _walls(*, network: bool) -> list[str]:
    """Return the beginning of a command line of bubblewrap: no rights, no variables, no processes but its own.

    What is older than bubblewrap 0.7 does not know all of it, which ``lacking`` finds out.
    """
    line = [_bwrap(), "--die-with-parent", "--new-session", "--unshare-pid", "--unshare-ipc"]
    line += ["--cap-drop", "ALL", "--clearenv"]
    if not network:
        line.append("--unshare-net")
    # Libraries that ask for the processor's cores and caches (cpuinfo) end the process where /sys is not there.
    line += ["--proc", "/proc", "--dev", "/dev", "--ro-bind", "/sys", "/sys"]
    return [*line, "--size", str(_TMP_BYTES), "--tmpfs", _TMP]


def _usual_links() -> list[str]:
    return [part for name in ("bin", "lib", "lib64", "sbin") for part in ("--symlink", f"usr/{name}", f"/{name}")]


def _command(enclosure: _Enclosure, binary: Path | None, inside: Inside, command: Sequence[str]) -> list[str]:
    """Return the command line that runs ``command`` in the root: it sees what is shared, and writes what it may."""
    new = "--bind" if enclosure.new else "--ro-bind"
    whole = new if enclosure.wheels is None else "--ro-bind"
    line = [*_walls(network=inside.network), whole, str(enclosure.root / "usr"), "/usr"]
    line += ["--ro-bind", str(enclosure.root / "etc"), "/etc", *_usual_links()]
    if enclosure.wheels is not None:
        line += [new, str(enclosure.wheels), f"/{_BESIDE}"]
    for folder, writable in sorted(inside.shared.items()):
        line += ["--bind" if writable else "--ro-bind", str(folder), there(folder)]
    if binary is not None:
        line += ["--ro-bind", str(binary), there(binary)]
    if enclosure.emulator is not None:
        line += ["--ro-bind", enclosure.emulator.executable, _EMULATOR]
        command = [_EMULATOR, *command]
    for name, value in {"PATH": "/usr/bin", **inside.env}.items():
        line += ["--setenv", name, value]
    # Only now: before, the points to mount on had to be made.
    return [*line, "--remount-ro", "/", "--chdir", there(inside.folder), "--", *command]
