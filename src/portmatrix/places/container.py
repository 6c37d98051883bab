"""Containers of Docker, for runtimes: Debian 13 on the daemon's own architecture, or on another one under QEMU.

One Dockerfile makes the images of all of them. Where a root directory can be made here, the image is made of that:
nothing but a shell is run then while it is built, and under an emulator a package manager takes a quarter of an hour.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from packaging.specifiers import SpecifierSet

from portmatrix import containers, programs
from portmatrix.commands import Patience, output_of
from portmatrix.containers import Image
from portmatrix.environments import Environment
from portmatrix.errors import EnvironmentFailure
from portmatrix.places import Announce, Wanted, root
from portmatrix.plugins import NoWay, Way
from portmatrix.sites import Ending, Inside, Site, by_status, signal_name
from portmatrix.store import DESCRIPTION, Store, digest_of, write_whole
from portmatrix.types import PlatformSpec, Reach
from portmatrix.workers import in_python

if TYPE_CHECKING:
    from docker import DockerClient

#: Changes when the way of building changes, so that images built the old way are not taken for the new.
BUILDER = 2
#: The image's name: that of its Dockerfile, and in the variable for its base.
RUN = "run"
#: Debian's names of architectures, by Docker's of platforms (``Way.options["platform"]``).
ARCHITECTURES = {
    "linux/amd64": "amd64",
    "linux/arm64": "arm64",
    "linux/arm/v7": "armhf",
    "linux/ppc64le": "ppc64el",
    "linux/riscv64": "riscv64",
    "linux/s390x": "s390x",
}
#: The reference suite's, in the installed package or in a checkout.
_DOCKERFILES = [Path(__file__).parents[1] / "suite" / "dockerfiles", Path(__file__).parents[3] / "dockerfiles"]
_SETUP = "scripts/setup-linux-targets --docker"
_SDK = 'pip install "docker>=7.2"'
_BINFMT = Path("/proc/sys/fs/binfmt_misc")
_BESIDE = f"usr/local/lib/python{root.PYTHON}/dist-packages"
#: Where a base says what it holds, for the Dockerfile.
_HOLDS = "usr/local/share/portmatrix/holds"
_ANSWER_SECONDS = 10
_REMOVAL_SECONDS = 60


class Daemon(NamedTuple):
    """Docker's daemon: its version, the architecture of its machine in Docker's word, and how many processors it has.

    There are none to be limited (0) where the daemon cannot. ``rootless`` is True where root in a container is the
    daemon's own user, who is not root; ``shares_kernel`` False where it is in a virtual machine, as Docker Desktop's.
    """

    version: str
    architecture: str
    processors: int
    rootless: bool
    shares_kernel: bool


# --- What this machine has ------------------------------------------------------------------------------------------


def lacking(way: Way, platform: PlatformSpec) -> NoWay | None:
    """Return what is missing of Docker's SDK, command, daemon and, for another architecture, QEMU's registration."""
    daemon = _daemon()
    if isinstance(daemon, NoWay):
        return daemon
    wanted = str(way.options["platform"])
    if way.reach is Reach.EMULATED:
        return _unregistered(way.emulator) if daemon.shares_kernel else None
    if wanted.split("/")[1] != daemon.architecture:
        why = f"Docker's daemon runs on {daemon.architecture}, not on {platform.arch}"
        return NoWay(why=why, install=f"run portmatrix on a machine with Docker on {platform.arch}")
    return None


@functools.cache
def _daemon() -> Daemon | NoWay:
    """Return the daemon, or what keeps it from being used; asked once, the answer is kept."""
    if sys.platform == "win32":
        # Workers are told the paths of this machine.
        return NoWay(why="a container has no folders of the names that Windows has", install="run portmatrix in WSL")
    if importlib.util.find_spec("docker") is None:
        return NoWay(why="Docker's SDK for Python is not installed", install=_SDK)
    # Asked by its command first: the SDK leaves a socket open where there is no daemon.
    command = shutil.which("docker")
    asked = command and containers.answer(containers.Tool("docker", command), "info", "--format", "{{.ServerVersion}}")
    if not asked:
        why = "does not answer" if command else "has no command here, which builds images"
        return NoWay(why=f"Docker's daemon {why}", install=_SETUP)
    import docker  # noqa: PLC0415 - not everybody has it
    from requests.exceptions import RequestException  # noqa: PLC0415

    try:
        with _client() as client:
            where = client.api.base_url
            told = client.info()
    except (docker.errors.DockerException, RequestException, OSError) as error:
        return NoWay(why=f"Docker's daemon does not answer: {error}", install=_SETUP)
    if where != "http+docker://localhost" and urlsplit(where).hostname not in ("127.0.0.1", "::1"):
        return NoWay(why="Docker's daemon is on another machine, and sees no folder of this one", install=_SETUP)
    return Daemon(
        version=told["ServerVersion"],
        architecture={"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}.get(
            told["Architecture"], told["Architecture"]
        ),
        processors=told["NCPU"] if told["CpuCfsQuota"] else 0,
        rootless=any("rootless" in option for option in told["SecurityOptions"] or ()),
        shares_kernel=sys.platform.startswith("linux") and told["KernelVersion"] == os.uname().release,
    )


@contextlib.contextmanager
def _client(seconds: int = _ANSWER_SECONDS) -> Iterator[DockerClient]:
    """Yield a client of the daemon that Docker's command would talk to."""
    import docker  # noqa: PLC0415 - not everybody has it

    with contextlib.closing(docker.from_env(timeout=seconds)) as client:
        yield client


def _registered(emulator: str) -> dict[str, str]:
    """Return what the kernel knows of the emulator by its name: ``interpreter``, ``flags`` and the like; or nothing."""
    try:
        lines = (_BINFMT / emulator).read_text(encoding="ascii").splitlines()
    except OSError:
        return {}
    return dict(re.split(r":? ", line, maxsplit=1) for line in lines if " " in line) if lines[0] == "enabled" else {}


def _unregistered(emulator: str) -> NoWay | None:
    """Return why the kernel does not start the emulator by itself in a container, or None where it does."""
    entry = _registered(emulator)
    if not entry:
        mount = "" if (_BINFMT / "status").exists() else f"mount -t binfmt_misc binfmt_misc {_BINFMT} && "
        install = f"apt-get install qemu-user-static binfmt-support && {mount}update-binfmts --enable"
        return NoWay(why=f"{emulator} is not registered with the kernel (binfmt_misc)", install=install)
    if "F" not in entry.get("flags", ""):
        # Without the flag the kernel looks for the emulator's file in the container.
        why = f"{emulator} is registered without the flag F, and so is not found in containers"
        return NoWay(why=why, install="apt-get install qemu-user-static binfmt-support")
    return None


def _emulator(way: Way) -> str:
    """Return the emulator of the way with its version, as far as that can be known; empty where there is none."""
    if way.reach is not Reach.EMULATED:
        return ""
    interpreter = _registered(way.emulator).get("interpreter", "")
    version = _version(os.path.realpath(interpreter)) if interpreter else ""
    return f"{way.emulator} {version or 'of unknown version'}"


@functools.cache
def _version(executable: str) -> str:
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        told = subprocess.run([executable, "--version"], capture_output=True, text=True, timeout=20, check=False).stdout
        found = re.search(r"version (\S+)", told)
        return found[1] if found else ""
    return ""


# --- What an image is made of ---------------------------------------------------------------------------------------


def key(wanted: Wanted) -> str:
    """Return the key of the image; it changes with what it is built from and the emulator, and knows no point release.

    Raises ``EnvironmentFailure`` (unavailable) for what needs another CPython than Debian 13's, or no Docker is there.
    """
    return _key(wanted, _image(wanted))


def _key(wanted: Wanted, image: Image) -> str:
    made_of = [BUILDER, image.digest, _emulator(wanted.way), _glob(wanted)]
    return f"container-{ARCHITECTURES[image.platform]}-{digest_of(made_of)[:16]}"


def _glob(wanted: Wanted) -> str:
    """Return what matches the path in the image of the shared library that a program is for; empty without either."""
    below = wanted.spec.library.get("debian" if wanted.spec.debian else "linux", "") if wanted.program else ""
    beside = "" if wanted.spec.debian else "usr/local/lib/python3*/*-packages/"
    return f"/{beside}{below}" if below else ""


def _image(wanted: Wanted) -> Image:
    """Return the image for what is wanted, built or not; its base is the user's, one of a root, or the Dockerfile's."""
    platform = str(wanted.way.options["platform"])
    packages, requirements = _contents(wanted)
    given = {"DEBIAN_PACKAGES": " ".join(packages)}
    named = containers.base_named(RUN)
    if named:
        given["BASE_IMAGE"] = named.replace("{arch}", ARCHITECTURES[platform])
    elif _has_roots(wanted):
        # Not the root's key in full: a tag has 128 characters.
        given["BASE_IMAGE"] = f"localhost/portmatrix/base:{root.key(_in_root(wanted))}"
    dockerfile = next(folder for folder in _DOCKERFILES if folder.is_dir()) / f"{RUN}.Dockerfile"
    return containers.image_for(RUN, dockerfile, requirements, platform, given)


def _contents(wanted: Wanted) -> tuple[Sequence[str], Sequence[str]]:
    """Return packages of Debian and requirements to be installed as wheels: what a root directory would have."""
    spec = wanted.spec
    for_workers = () if wanted.program else ("python3", "python3-numpy")
    if spec.debian:
        return sorted({*for_workers, *spec.debian}), ()
    if not spec.interpreter:
        raise EnvironmentFailure("it is made as a container image of its own only", unavailable=True)
    if not (wanted.program or containers.base_named(RUN) or SpecifierSet(spec.python).contains(root.PYTHON)):
        why = f"needs CPython {spec.python}; Debian {root.NUMBER} has {root.PYTHON}, and no other base is named"
        raise EnvironmentFailure(f"{why} ({containers.base_variable(RUN)})", unavailable=True)
    return for_workers[:1] if spec.requirements else for_workers, sorted(spec.requirements)


def _in_root(wanted: Wanted) -> Wanted:
    """Return the same wanted in a root directory."""
    options = {"architecture": ARCHITECTURES[str(wanted.way.options["platform"])]}
    return wanted._replace(way=wanted.way.model_copy(update={"place": "root", "options": options}))


def _has_roots(wanted: Wanted) -> bool:
    return root.lacking(_in_root(wanted).way, wanted.platform) is None


# --- Making one -----------------------------------------------------------------------------------------------------


def ensure(store: Store, wanted: Wanted, announce: Announce, patience: Patience) -> Environment:
    """Return the environment in containers of the image, built if need be.

    Raises ``EnvironmentFailure``: unavailable without a base to build on, unsupported where Debian has no such package
    for the architecture or nobody such a wheel, else with the end of the builder's output.
    """
    image = _image(wanted)
    name = _key(wanted, image)
    place = store.root / "envs" / name / DESCRIPTION
    with store.lock(f"env-{name}"):
        if not place.is_file() or not containers.has_image(image):
            versions = _build(store, wanted, image, announce, patience)
            described = {"image": image.tag, "library": _library(wanted, image, patience), "versions": versions}
            place.parent.mkdir(exist_ok=True)
            write_whole(place, json.dumps(described, indent=1))
        described = json.loads(place.read_text(encoding="utf-8"))
    site = _site(store, wanted.way, image)
    if wanted.program is None:
        return Environment(name, in_python(image.python), {}, site)
    binary = programs.compiled(store, wanted.program, wanted.platform, announce, patience)
    env = {programs.LIBRARY: described["library"]}
    return Environment(name, programs.worker_of(binary), env, site, described["versions"], interpreter_free=True)


def _build(store: Store, wanted: Wanted, image: Image, announce: Announce, patience: Patience) -> Mapping[str, str]:
    """Build the image, after its base if that is one of ours; returns the versions that a program in it cannot tell."""
    base, versions = dict(image.arguments).get("BASE_IMAGE", ""), {}
    if base and not containers.base_named(RUN):
        made = root.ensure(store, _in_root(wanted), announce, patience)
        versions = dict(made.versions)
        if not containers.is_here(image.tool, base):
            _make_base(store, wanted, image, made.key, patience)
    try:
        containers.build_image(image, announce, patience)
    except EnvironmentFailure as failure:
        if "exec format error" in failure.log_tail:
            why = f"Docker's machine does not run programs for {image.platform}: QEMU is not registered with its kernel"
            raise EnvironmentFailure(why, failure.log_tail, unavailable=True) from failure
        raise
    return versions


def _make_base(store: Store, wanted: Wanted, image: Image, made: str, patience: Patience) -> None:
    """Make the base image of the root directory called ``made``, which has all that is wanted."""
    folder = store.root / "envs" / made
    described = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    system, wheels = folder, None
    if "root" in described:
        system, wheels = store.root / "envs" / described["root"], folder / "packages"
    packages, requirements = _contents(wanted)
    with store.scratch("base") as scratch:
        archive = scratch / "base.tar"
        _pack(system, wheels, [*packages, *requirements], archive)
        containers.build_base(image.tool, dict(image.arguments)["BASE_IMAGE"], archive, image.platform, patience)


def _pack(system: Path, wheels: Path | None, holds: Sequence[str], archive: Path) -> None:
    """Write a tar file of a root directory, with what its workers would have mounted in it, and the list of both."""
    listed = archive.with_name("holds")
    listed.write_text("".join(f"{item}\n" for item in holds), encoding="utf-8")
    with tarfile.open(archive, "w") as tar:
        for name in ("usr", "etc"):
            tar.add(system / name, name, filter=_of_root)
        for name in ("bin", "lib", "lib64", "sbin"):
            _add(tar, name, tarfile.SYMTYPE, 0o777, f"usr/{name}")
        for name, mode in (("dev", 0o755), ("proc", 0o755), ("sys", 0o755), ("tmp", 0o1777)):
            _add(tar, name, tarfile.DIRTYPE, mode)
        if wheels is not None:
            tar.add(wheels, _BESIDE, filter=_of_root)
        tar.add(listed, _HOLDS, filter=_of_root)


def _add(tar: tarfile.TarFile, name: str, kind: bytes, mode: int, target: str = "") -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.linkname = kind, mode, target
    tar.addfile(entry)


def _of_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Return the entry as root's, and readable by all: roots may have been made by somebody else."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    entry.mode |= 0o555 if entry.isdir() else 0o444
    return entry


def _library(wanted: Wanted, image: Image, patience: Patience) -> str:
    """Return the path in the image of the shared library that a program is for, or an empty string for none."""
    if wanted.program is None:
        return ""
    inside = Inside(f"portmatrix-{os.getpid()}-{image.digest[:12]}", Path("/"), {}, {}, 512, network=False)
    # $1 without quotes: the shell is to find what it matches.
    command = ["sh", "-c", 'for file in $1; do if [ -e "$file" ]; then echo "$file"; fi; done', "sh", _glob(wanted)]
    try:
        found = output_of(containers.command_inside(image, inside, command), patience, f"look into {image.tag}").split()
    finally:
        containers.end(image, inside.name)
    if not found:
        raise EnvironmentFailure(
            f"nothing in {image.tag} matches {_glob(wanted)!r}, where {wanted.name} has its library"
        )
    return found[0]


# --- Running in one -------------------------------------------------------------------------------------------------


def _site(store: Store, way: Way, image: Image) -> Site:
    daemon = _daemon()
    if isinstance(daemon, NoWay):
        raise EnvironmentFailure(f"{daemon.why} ({daemon.install})", unavailable=True)
    emulator = _emulator(way)
    via = f"docker {daemon.version}, image {image.tag}"

    def wrap(inside: Inside, command: Sequence[str]) -> list[str]:
        if not daemon.rootless:
            containers.hand_over(inside.folder)
            containers.open_ways(inside.shared)
        # A runtime only reads the store; what it writes, it writes into the folders of its own, which lie in there.
        seen = inside._replace(shared={**inside.shared, store.root: False})
        order = {
            "name": inside.name,
            "platform": image.platform,
            "config": configuration(daemon, image, seen, command),
            "failed": containers.TOOL_FAILED,
        }
        return [sys.executable, "-I", "-m", "portmatrix.attach", json.dumps(order)]

    return Site(
        wrap=wrap,
        network="namespace",
        via=f"{emulator}, {via}" if emulator else via,
        emulator=emulator,
        there=str if daemon.rootless else containers.there,
        bring=(lambda _folder: None) if daemon.rootless else containers.take_back,
        ending=_ending,
        end=_end,
    )


def configuration(daemon: Daemon, image: Image, inside: Inside, command: Sequence[str]) -> dict[str, Any]:
    """Return the container to be made, as Docker's API describes one (``POST /containers/create``)."""
    mounts = [
        {"Type": "bind", "Source": str(folder), "Target": str(folder), "ReadOnly": not writable}
        for folder, writable in sorted(inside.shared.items())
    ]
    limits = {
        "Memory": inside.memory_mb << 20,
        "MemorySwap": inside.memory_mb << 20,
        "NanoCpus": min(inside.threads, daemon.processors) * 10**9,
        "PidsLimit": containers.PROCESSES,
        "Ulimits": [{"Name": "core", "Soft": 0, "Hard": 0}],
    }
    rights = {
        "NetworkMode": "host" if inside.network else "none",
        "ReadonlyRootfs": True,
        "Tmpfs": {containers.TMP: f"size={containers.TMP_MB}m,mode=1777"},
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
    }
    # With a first process of Docker's: what crashes as the first one itself is not ended by every signal, and under
    # QEMU by none. Without a log: what comes out is the engine's to read.
    host = {**limits, **rights, "Init": True, "LogConfig": {"Type": "none"}, "Mounts": mounts}
    streams = dict.fromkeys(("AttachStdin", "AttachStdout", "AttachStderr", "OpenStdin", "StdinOnce"), True)
    return {
        **streams,
        "Image": image.tag,
        "Cmd": list(command),
        "User": containers.user(rootless=daemon.rootless),
        "Env": [f"{name}={value}" for name, value in inside.env.items()],
        "WorkingDir": str(inside.folder),
        "Labels": {containers.OWNER: containers.owner()},
        "HostConfig": host,
    }


def _ending(inside: Inside, status: int) -> Ending | None:
    """Return what the end of the process that stands for the container means."""
    import docker  # noqa: PLC0415 - not everybody has it
    from requests.exceptions import RequestException  # noqa: PLC0415

    if status < 0:
        why = f"what connects the worker's container to the engine died of {signal_name(-status)}"
        return Ending(why, "harness", transient=True)
    try:
        with _client() as client:
            state = client.api.inspect_container(inside.name)["State"]
    except docker.errors.NotFound:
        return Ending("the worker's container is not there, or not any more", "harness", transient=True)
    except (docker.errors.DockerException, RequestException, OSError):
        return Ending("Docker's daemon is gone, and the worker with it", "harness", transient=True)
    if state["OOMKilled"]:
        return containers.out_of_memory(inside)
    if status == containers.TOOL_FAILED and state["Status"] != "exited":
        return Ending(f"Docker did not run the worker's container ({state['Status']})", "harness", transient=True)
    return by_status(status)


def _end(inside: Inside) -> None:
    import docker  # noqa: PLC0415 - not everybody has it
    from requests.exceptions import RequestException  # noqa: PLC0415

    with (
        contextlib.suppress(docker.errors.DockerException, RequestException, OSError),
        _client(_REMOVAL_SECONDS) as client,
    ):
        client.api.remove_container(inside.name, force=True, v=True)
