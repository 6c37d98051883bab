"""Environments that are container images: what builds them here, how they are built, and how a worker runs in one.

Docker and Podman are asked in the same words; Buildah needs no daemon and no right to create networks, and does where
neither of the two works. What runs in a container has no rights: no network, no user that owns anything, and nothing to
write to but the folders that are its own.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from portmatrix.commands import Patience, output_of
from portmatrix.errors import EnvironmentFailure
from portmatrix.sites import Ending, Inside, Site, by_status

#: Variables of the engine's environment that a build gets as arguments of the same name without the prefix.
_PASSED = {
    "PORTMATRIX_APT_MIRROR": "APT_MIRROR",
    "PORTMATRIX_PIP_INDEX_URL": "PIP_INDEX_URL",
}
#: Set to try the Dockerfiles that say of themselves that nobody ever built them.
_TRY_UNTESTED = "PORTMATRIX_UNTESTED"
_BASE = "PORTMATRIX_BASE_IMAGE_"
_LABEL = re.compile(r'^LABEL\s+portmatrix\.(\w+)="([^"]*)"', re.MULTILINE)
_DEFAULT_BASE = re.compile(r"^ARG\s+BASE_IMAGE=(\S+)", re.MULTILINE)
_PROBE_SECONDS = 20

#: The status where the tool failed, and not what runs in the container: that of Docker's and Podman's own commands.
TOOL_FAILED = 125
#: Whose containers these are: the machine, the engine's process id, and when that process began.
OWNER = "portmatrix.owner"
#: What all names of containers begin with; the engine's process id follows.
_NAMED = re.compile(r"^portmatrix-(\d+)-[0-9a-f]+-([0-9.]+)$")
#: How far two answers about the beginning of the same process may lie apart, in seconds.
_CLOCK_SECONDS = 1
#: The user and group where the engine itself is root, as in the Dockerfiles: one that owns nothing.
UNPRIVILEGED = 65532
#: Where a container can write to besides its folders, and how much, in MiB, of its own memory.
TMP, TMP_MB = "/tmp", 64  # noqa: S108 - the container's, not this machine's
#: Threads and processes of a container: frameworks start some for every processor, and a runaway many more.
PROCESSES = 2048


class Tool(NamedTuple):
    """What builds and runs containers here: its name, and its executable."""

    name: str
    executable: str


class Image(NamedTuple):
    """An image that can be built here: its name, what it is built from, and the interpreter inside it.

    ``platform`` is for which one it is built, in the words of Docker (``linux/arm64``); empty for the tool's own.
    """

    tool: Tool
    container: str
    dockerfile: Path
    arguments: tuple[tuple[str, str], ...]
    digest: str
    python: str
    platform: str = ""

    @property
    def tag(self) -> str:
        """The name under which the tool keeps it."""
        return f"localhost/portmatrix/{self.container}:{self.digest[:16]}"

    @property
    def has_own_network(self) -> bool:
        """Whether its containers get a network of their own (or none); Buildah's without isolation share the host's."""
        return self.tool.name != "buildah"


@functools.cache
def find_tool() -> Tool | None:
    """Return the first of Docker, Podman and Buildah that works here, or None; asked once, the answer is kept."""
    if not sys.platform.startswith(("linux", "darwin")):
        return None
    for name, question in (("docker", "info"), ("podman", "info"), ("buildah", "info")):
        for executable in _executables(name):
            try:
                asked = subprocess.run([executable, question], capture_output=True, timeout=_PROBE_SECONDS, check=False)
            except (OSError, subprocess.TimeoutExpired):
                continue
            if asked.returncode == 0:
                return Tool(name, executable)
    return None


def _executables(name: str) -> list[str]:
    """Return all commands of that name on the search path: the first may be a front for something that is not there."""
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    found = (shutil.which(name, path=folder) for folder in folders)
    return list(dict.fromkeys(executable for executable in found if executable))


def image_for(
    container: str,
    dockerfile: Path,
    requirements: Sequence[str],
    for_platform: str = "",
    more: Mapping[str, str] | None = None,
) -> Image:
    """Return the image that ``dockerfile`` describes, built or not; ``requirements`` are what its pip is to install.

    ``more`` are build arguments. Raises ``EnvironmentFailure`` (unavailable) if nothing here builds images, or the file
    says that it is untested.
    """
    content = dockerfile.read_text(encoding="utf-8")
    labels = dict(_LABEL.findall(content))
    if "untested" in labels and not os.environ.get(_TRY_UNTESTED):
        why = f"{dockerfile.name} is untested ({labels['untested']}); {_TRY_UNTESTED}=1 tries it"
        raise EnvironmentFailure(why, unavailable=True)
    tool = find_tool()
    if tool is None:
        why = f"the container {container} needs Docker, Podman or Buildah, of which none answers here"
        raise EnvironmentFailure(why, unavailable=True)
    arguments = tuple(sorted({**_build_arguments(container, requirements), **(more or {})}.items()))
    made_from = "\0".join([tool.name, for_platform, content, *(f"{name}={value}" for name, value in arguments)])
    digest = hashlib.sha256(made_from.encode()).hexdigest()
    return Image(tool, container, dockerfile, arguments, digest, labels.get("python", "python3"), for_platform)


def _build_arguments(container: str, requirements: Sequence[str]) -> dict[str, str]:
    given = {name: os.environ[variable] for variable, name in _PASSED.items() if os.environ.get(variable)}
    base = base_named(container)
    if base:
        given["BASE_IMAGE"] = base
    if requirements:
        given["REQUIREMENTS"] = " ".join(requirements)
    return given


def base_named(container: str) -> str:
    """Return the base image that the user has named for the container, or an empty string."""
    return os.environ.get(base_variable(container), "")


def base_variable(container: str) -> str:
    """Return the name of the variable by which the user names a base image for the container."""
    return _BASE + re.sub(r"\W", "_", container).upper()


def has_image(image: Image) -> bool:
    """Return whether the image is built."""
    return is_here(image.tool, image.tag)


def is_here(tool: Tool, tag: str) -> bool:
    """Return whether the tool has an image of that name."""
    question = [tool.executable, "inspect", "--type", "image", tag]
    try:
        return subprocess.run(question, capture_output=True, timeout=_PROBE_SECONDS, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def build_image(image: Image, announce: Callable[[str], None], patience: Patience) -> None:
    """Build the image; raises ``EnvironmentFailure`` with the end of the builder's output.

    Without a base to build on it is unavailable, as it is without a tool. The build has the machine's network, as
    package mirrors may be known to this machine alone; what runs in the image has none.
    """
    base = _fetch_base(image, patience)
    announce(f"building the image {image.tag} with {image.tool.name} from {image.dockerfile.name} and {base}")
    arguments = [part for name, value in image.arguments for part in ("--build-arg", f"{name}={value}")]
    with tempfile.TemporaryDirectory(prefix="portmatrix-image-") as context:
        isolation = ["--isolation", "chroot"] if image.tool.name == "buildah" else []
        command = [image.tool.executable, "build", *isolation, *_platform(image.platform), "--network", "host"]
        command += ["--tag", image.tag, *arguments, "--file", str(image.dockerfile), context]
        output_of(command, patience, f"build the image of {image.dockerfile.name}")


def build_base(tool: Tool, tag: str, archive: Path, for_platform: str, patience: Patience) -> None:
    """Make an image of a system in the tar file ``archive``, alone in its folder; raises ``EnvironmentFailure``.

    By a build, as ``docker import`` takes every system for one of this machine's architecture, whatever it is told.
    """
    dockerfile = archive.with_name("Dockerfile")
    dockerfile.write_text(f"FROM scratch\nADD {archive.name} /\n", encoding="utf-8")
    command = [tool.executable, "build", *_platform(for_platform), "--tag", tag, str(archive.parent)]
    output_of(command, patience, f"make the base image {tag}")


def _platform(named: str) -> list[str]:
    return ["--platform", named] if named else []


def _fetch_base(image: Image, patience: Patience) -> str:
    """Return the name of the image's base, which is here now; raises ``EnvironmentFailure`` (unavailable)."""
    default = _DEFAULT_BASE.search(image.dockerfile.read_text(encoding="utf-8"))
    base = dict(image.arguments).get("BASE_IMAGE") or (default[1] if default else "")
    if not base or base == "scratch" or is_here(image.tool, base):
        return base or "its own base"
    try:
        pull = [image.tool.executable, "pull", *_platform(image.platform), base]
        output_of(pull, patience, f"get the base image {base}")
    except EnvironmentFailure as failure:
        variable = base_variable(image.container)
        why = f"{failure}. {variable} names another base; docs/containers.md says how to make one without a registry"
        raise EnvironmentFailure(why, failure.log_tail, unavailable=True) from failure
    return base


# --- Running --------------------------------------------------------------------------------------------------------


def owner() -> str:
    """Return the value of the label ``OWNER``: this machine's name, and this process's id and beginning."""
    return f"{platform.node()} {os.getpid()} {_beginning()}"


@functools.cache
def _beginning() -> str:
    return f"{_began(os.getpid()):.2f}"


def _began(pid: int) -> float:
    """Return when the process began, in seconds; raises ``psutil.NoSuchProcess``.

    On Linux since the machine began, since there the time of day at which a process began changes whenever the clock is
    set (proc(5), field 22 of ``/proc/PID/stat``).
    """
    if not sys.platform.startswith("linux"):
        return psutil.Process(pid).create_time()
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError as error:
        raise psutil.NoSuchProcess(pid) from error
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")


def user(*, rootless: bool = False) -> str:
    """Return user and group of what runs in a container, as numbers: the engine's own, unless it is root.

    On Windows, where nobody has such numbers, it is the same as for root. Under a ``rootless`` daemon it is root, which
    there is the daemon's own user in a namespace, and any other would be nobody who can write to the engine's folders.
    """
    if rootless:
        return "0:0"
    if hasattr(os, "getuid") and os.getuid():
        return f"{os.getuid()}:{os.getgid()}"
    return f"{UNPRIVILEGED}:{UNPRIVILEGED}"


def _is_root() -> bool:
    return hasattr(os, "getuid") and os.getuid() == 0


def hand_over(folder: Path) -> None:
    """Make a folder of the engine's one that its workers' user can write into, where that is another.

    The folder above it can be passed through then, if it was the engine's alone, and not be looked into.
    """
    if not _is_root():
        return
    os.chown(folder, UNPRIVILEGED, UNPRIVILEGED, follow_symlinks=False)
    above = folder.parent.stat()
    if above.st_uid == 0 and not above.st_mode & stat.S_IXOTH:
        folder.parent.chmod(stat.S_IMODE(above.st_mode) | stat.S_IXOTH)


def open_ways(folders: Iterable[Path]) -> None:
    """Let workers' user pass through what lies between a folder that they are given and another one inside it.

    A folder of root's alone (tox makes its own so) in one that is mounted would hide what is mounted below.
    """
    if not _is_root():
        return
    given = set(folders)
    for folder in given:
        above = list(folder.parents)
        outer = next((number for number, parent in enumerate(above) if parent in given), 0)
        for between in above[:outer]:
            mode = between.stat()
            if mode.st_uid == 0 and not mode.st_mode & stat.S_IXOTH:
                between.chmod(stat.S_IMODE(mode.st_mode) | stat.S_IXOTH)


def there(path: Path) -> str:
    """Return what a path is called in a container: the same. A folder to write into is handed over.

    It is one if it is empty, or the engine's alone; what is there to be read is neither.
    """
    if _is_root() and path.is_dir() and (not path.stat().st_mode & 0o077 or not any(path.iterdir())):
        hand_over(path)
    return str(path)


def take_back(folder: Path) -> None:
    """Make everything in a folder that was handed over the engine's own again; raises ``OSError``."""
    if not _is_root():
        return
    for place, folders, files in os.walk(folder):
        for name in (".", *folders, *files):
            os.chown(os.path.join(place, name), 0, 0, follow_symlinks=False)  # noqa: PTH118 - a Path drops the dot


class _Docker(NamedTuple):
    """What is particular about a daemon of Docker's: it is no root's, and it cannot limit processors."""

    rootless: bool
    unlimited: bool


@functools.cache
def _docker(tool: Tool) -> _Docker:
    told = answer(tool, "info", "--format", "{{.CPUCfsQuota}} {{.SecurityOptions}}") or ""
    return _Docker("name=rootless" in told, not told.startswith("true"))


#: A shell between the tool and the worker. The first process of a container does not die of every signal; Docker has a
#: first process of its own (``--init``), of which Podman may lack the package. Of any signal Buildah makes status 1.
_SHELL = ("sh", "-c", '"$@"; exit "$?"', "sh")


def command_inside(image: Image, inside: Inside, command: Sequence[str]) -> list[str]:
    """Return the command line that runs ``command`` in a container made of the image."""
    if image.tool.name == "buildah":
        return _buildah_command(image, inside, command)
    line = [image.tool.executable, "run", *_platform(image.platform), "--interactive"]
    line += ["--name", inside.name, "--label", f"{OWNER}={owner()}", "--log-driver", "none"]
    line += ["--network", "host" if inside.network else "none", "--workdir", str(inside.folder)]
    line += ["--read-only", "--tmpfs", f"{TMP}:size={TMP_MB}m,mode=1777"]
    line += ["--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--pids-limit", str(PROCESSES)]
    line += ["--memory", f"{inside.memory_mb}m", "--memory-swap", f"{inside.memory_mb}m", "--ulimit", "core=0"]
    more = _podman_options if image.tool.name == "podman" else _docker_options
    shell = _SHELL if image.tool.name == "podman" else ()
    return [
        *line,
        *more(image.tool, inside.threads),
        *_seen(inside),
        image.tag,
        *shell,
        *command,
    ]


def _docker_options(tool: Tool, threads: int) -> list[str]:
    daemon = _docker(tool)
    # It refuses more processors than there are. The first process of its own passes signals on.
    limit = [] if daemon.unlimited else ["--cpus", str(min(threads, os.cpu_count() or 1))]
    return [*limit, "--user", user(rootless=daemon.rootless), "--init"]


def _podman_options(_tool: Tool, threads: int) -> list[str]:
    # Its own defaults may be above what this process is allowed, and then no container starts.
    line = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096", "--user", user()]
    if _is_root():
        return [*line, "--cpus", str(threads)]
    # Without root's rights its users are not this machine's, unless it is told to keep one; and processors are not
    # among what the system lets a user limit.
    return [*line, "--userns", "keep-id"]


def _seen(inside: Inside) -> list[str]:
    """Return the options that tell which folders and variables there are inside."""
    line = []
    for folder, writable in sorted(inside.shared.items()):
        line += ["--volume", f"{folder}:{folder}:{'rw' if writable else 'ro'}"]
    for name, value in inside.env.items():
        line += ["--env", f"{name}={value}"]
    return line


def _buildah_command(image: Image, inside: Inside, command: Sequence[str]) -> list[str]:
    """Return a shell line that makes a container and runs the command in it.

    Buildah runs commands in the containers that it builds images in; these are not made and removed by one call. It
    cannot limit anything, nor make the root read-only: what keeps a worker from writing there is that it is not root.
    Who is not root here is root there, of a namespace in which nobody else is.
    """
    name = _buildah_name(inside.name)
    run = [image.tool.executable, "run", "--isolation", "chroot", "--workingdir", str(inside.folder)]
    run += ["--cap-drop", "ALL", *_seen(inside)]
    if _is_root():
        setpriv = shutil.which("setpriv")
        run = [*([setpriv, "--no-new-privs"] if setpriv else []), *run, "--user", user()]
    script = f'"$1" from --pull-never --name "$3" "$2" >&2 || exit {TOOL_FAILED}; shift 3; exec "$@"'
    start = ["/bin/sh", "-c", script, "sh", image.tool.executable, image.tag, name]
    return [*start, *run, name, "--", *_SHELL, *command]


def _buildah_name(name: str) -> str:
    """Return the name of a container that has no labels: with the beginning of the engine's process in it."""
    return f"{name}-{_beginning()}"


def end(image: Image, name: str) -> None:
    """Remove a container that may still be there: to kill the command that started it does not end it."""
    known = _buildah_name(name) if image.tool.name == "buildah" else name
    _remove(image.tool, [known])


def _remove(tool: Tool, names: Sequence[str]) -> None:
    force = [] if tool.name == "buildah" else ["--force", "--volumes"]
    answer(tool, "rm", *force, *names)


def answer(tool: Tool, *question: str) -> str | None:
    """Return what the tool answers, or None where it fails or does not answer in time."""
    command = [tool.executable, *question]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=_PROBE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return asked.stdout if asked.returncode == 0 else None


def _ending(image: Image, inside: Inside, status: int) -> Ending | None:
    """Return what the end of the command that ran a container means."""
    if image.tool.name == "buildah":
        return by_status(status)
    state = answer(image.tool, "inspect", "--format", "{{.State.Status}} {{.State.OOMKilled}}", inside.name)
    if state is None or state.split()[0] in ("created", "configured", "running"):
        return Ending(f"{image.tool.name} could not run the container (status {status})", "harness", transient=True)
    return out_of_memory(inside) if state.split()[1] == "true" else by_status(status)


def out_of_memory(inside: Inside) -> Ending:
    """Return the ending of a worker that the kernel killed for its container's limit."""
    return Ending(f"used more than {inside.memory_mb} MiB of memory", "model", transient=True)


def site_of(image: Image, closure: Sequence[str], closed_by: str) -> Site:
    """Return the site that containers of the image are.

    ``closure`` is the command prefix that closes the network of what is not isolated by the tool itself, and
    ``closed_by`` the word for it in records.
    """
    own = image.has_own_network

    def wrap(inside: Inside, command: Sequence[str]) -> list[str]:
        hand_over(inside.folder)
        open_ways(inside.shared)
        prefix = [] if own or inside.network else closure
        return [*prefix, *command_inside(image, inside, command)]

    return Site(
        wrap=wrap,
        network="namespace" if own else closed_by,
        via=f"{image.tool.name}, image {image.tag}",
        there=there,
        bring=take_back,
        ending=lambda inside, status: _ending(image, inside, status),
        end=lambda inside: end(image, inside.name),
    )


# --- What other engines left ----------------------------------------------------------------------------------------


def clean_up() -> list[str]:
    """Remove the containers of engines of this machine that run no more; returns the names of what was removed.

    Asks only what is installed, and takes no answer for nothing to do. Engines of other machines that use the same
    daemon are let alone.
    """
    removed = []
    for name in ("docker", "podman", "buildah"):
        for executable in _executables(name):
            tool = Tool(name, executable)
            left = _left_in_buildah(tool) if name == "buildah" else _left_in(tool)
            if left is None:
                continue
            if left:
                _remove(tool, left)
            removed += left
            break
    return removed


def _left_in(tool: Tool) -> list[str] | None:
    """Return the containers of Docker or Podman whose engine is gone; None where the tool does not answer."""
    ours = answer(tool, "ps", "--all", "--quiet", "--filter", f"label={OWNER}")
    if ours is None:
        return None
    left = []
    for container in ours.split():
        # One by one: an answer about several fails when one of them has gone meanwhile.
        described = answer(
            tool, "inspect", "--format", f'{{{{.Name}}}} {{{{index .Config.Labels "{OWNER}"}}}}', container
        )
        if described is None:
            continue
        name, machine, pid, beginning = described.split()
        if machine == platform.node() and not _runs(int(pid), float(beginning)):
            left.append(name.lstrip("/"))
    return left


def _left_in_buildah(tool: Tool) -> list[str] | None:
    named = answer(tool, "containers", "--noheading", "--format", "{{.ContainerName}}")
    if named is None:
        return None
    found = ((name, _NAMED.match(name)) for name in named.split())
    return [name for name, match in found if match and not _runs(int(match[1]), float(match[2]))]


def _runs(pid: int, beginning: float) -> bool:
    """Return whether the process of that id that began then is still there; another may have got its number since."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return abs(_began(pid) - beginning) < _CLOCK_SECONDS
    return False
