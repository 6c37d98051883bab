"""Environments that are container images: what builds them here, how they are built, and how a worker runs in one.

Docker and Podman are asked in the same words; Buildah needs no daemon and no right to create networks, and does where
neither of the two works.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from portmatrix.commands import Patience, output_of
from portmatrix.errors import EnvironmentFailure
from portmatrix.sites import Inside, Site, by_status

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


class Tool(NamedTuple):
    """What builds and runs containers here: its name, and its executable."""

    name: str
    executable: str


class Image(NamedTuple):
    """An image that can be built here: its name, what it is built from, and the interpreter inside it."""

    tool: Tool
    container: str
    dockerfile: Path
    arguments: tuple[tuple[str, str], ...]
    digest: str
    python: str

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


def image_for(container: str, dockerfile: Path, requirements: Sequence[str]) -> Image:
    """Return the image that ``dockerfile`` describes, built or not; ``requirements`` are what its pip is to install.

    Raises ``EnvironmentFailure`` (unavailable) if nothing here builds images, or the file says that it is untested.
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
    arguments = _build_arguments(container, requirements)
    made_from = "\0".join([tool.name, content, *(f"{name}={value}" for name, value in arguments)])
    digest = hashlib.sha256(made_from.encode()).hexdigest()
    return Image(tool, container, dockerfile, arguments, digest, labels.get("python", "python3"))


def _build_arguments(container: str, requirements: Sequence[str]) -> tuple[tuple[str, str], ...]:
    given = {name: os.environ[variable] for variable, name in _PASSED.items() if os.environ.get(variable)}
    base = os.environ.get(_BASE + _in_capitals(container))
    if base:
        given["BASE_IMAGE"] = base
    if requirements:
        given["REQUIREMENTS"] = " ".join(requirements)
    return tuple(sorted(given.items()))


def _in_capitals(name: str) -> str:
    return re.sub(r"\W", "_", name).upper()


def has_image(image: Image) -> bool:
    """Return whether the image is built."""
    return _is_here(image.tool, image.tag)


def _is_here(tool: Tool, tag: str) -> bool:
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
        command = [image.tool.executable, "build", *isolation, "--network", "host", "--tag", image.tag, *arguments]
        command += ["--file", str(image.dockerfile), context]
        output_of(command, patience, f"build the image of {image.dockerfile.name}")


def _fetch_base(image: Image, patience: Patience) -> str:
    """Return the name of the image's base, which is here now; raises ``EnvironmentFailure`` (unavailable)."""
    default = _DEFAULT_BASE.search(image.dockerfile.read_text(encoding="utf-8"))
    base = dict(image.arguments).get("BASE_IMAGE") or (default[1] if default else "")
    if not base or base == "scratch" or _is_here(image.tool, base):
        return base or "its own base"
    try:
        output_of([image.tool.executable, "pull", base], patience, f"get the base image {base}")
    except EnvironmentFailure as failure:
        variable = _BASE + _in_capitals(image.container)
        why = f"{failure}. {variable} names another base; docs/containers.md says how to make one without a registry"
        raise EnvironmentFailure(why, failure.log_tail, unavailable=True) from failure
    return base


def command_inside(image: Image, inside: Inside, command: Sequence[str]) -> list[str]:
    """Return the command line that runs ``command`` in a container made of the image."""
    if image.tool.name == "buildah":
        return _buildah_command(image, inside, command)
    line = [image.tool.executable, "run", "--rm", "--interactive", "--name", inside.name]
    line += ["--network", "host" if inside.network else "none", "--workdir", str(inside.folder)]
    line += ["--memory", f"{inside.memory_mb}m", "--memory-swap", f"{inside.memory_mb}m"]
    if image.tool.name == "podman":
        # Its own defaults may be above what this process is allowed, and then no container starts.
        line += ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096"]
    else:
        # A first process that passes signals on: the worker as first process would not die of its own. Podman may not
        # have it.
        line.append("--init")
    if hasattr(os, "getuid"):
        line += ["--user", f"{os.getuid()}:{os.getgid()}"]
    for folder, writable in sorted(inside.shared.items()):
        line += ["--volume", f"{folder}:{folder}:{'rw' if writable else 'ro'}"]
    for name, value in inside.env.items():
        line += ["--env", f"{name}={value}"]
    return [*line, image.tag, *command]


def _buildah_command(image: Image, inside: Inside, command: Sequence[str]) -> list[str]:
    """Return a shell line that makes a container, runs the command in it, and removes it.

    Buildah runs commands in the containers that it builds images in; these are not made and removed by one call.
    """
    run = [image.tool.executable, "run", "--isolation", "chroot", "--workingdir", str(inside.folder)]
    for folder, writable in sorted(inside.shared.items()):
        run += ["--volume", f"{folder}:{folder}:{'rw' if writable else 'ro'}"]
    for name, value in inside.env.items():
        run += ["--env", f"{name}={value}"]
    run += [inside.name, "--", *command]
    script = '"$1" from --pull-never --name "$3" "$2" >&2 || exit 125; shift 3; "$@"'
    return ["/bin/sh", "-c", script, "sh", image.tool.executable, image.tag, inside.name, *run]


def end(image: Image, name: str) -> None:
    """Remove a container that may still be there: to kill the command that started it does not end it."""
    subprocess.run([image.tool.executable, "rm", *_force(image), name], capture_output=True, check=False)


def _force(image: Image) -> list[str]:
    return [] if image.tool.name == "buildah" else ["--force"]


def site_of(image: Image, closure: Sequence[str], closed_by: str) -> Site:
    """Return the site that containers of the image are.

    ``closure`` is the command prefix that closes the network of what is not isolated by the tool itself, and
    ``closed_by`` the word for it in records.
    """
    own = image.has_own_network

    def wrap(inside: Inside, command: Sequence[str]) -> list[str]:
        prefix = [] if own or inside.network else closure
        return [*prefix, *command_inside(image, inside, command)]

    return Site(
        wrap=wrap,
        network="namespace" if own else closed_by,
        via=f"{image.tool.name}, image {image.tag}",
        ending=lambda _inside, status: by_status(status),
        end=lambda inside: end(image, inside.name),
    )
