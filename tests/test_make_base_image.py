"""The script that makes a base image without a registry, with stand-ins for mmdebstrap, apt and the container tools."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "make_base_image.sh"
#: A mirror of Debian, which nobody asks.
MIRROR = "cdrom:mirror"
#: What a Debian machine has and the script uses.
COMMANDS = (
    "sh",
    "cat",
    "cp",
    "timeout",
    "mktemp",
    "chmod",
    "rm",
    "head",
    "dirname",
    "basename",
    "grep",
    "tar",
    "touch",
    "tr",
)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell script")


class Machine:
    """A search path with nothing on it but basic commands and what a test puts there; ``log`` is what was called."""

    def __init__(self, folder: Path) -> None:
        self.commands = folder / "bin"
        self.commands.mkdir()
        self._log = folder / "log"
        self._log.touch()
        for name in COMMANDS:
            found = shutil.which(name)
            assert found, name
            (self.commands / name).symlink_to(found)

    def has(self, name: str, script: str = "exit 0") -> None:
        """Put a command there that notes its arguments, and then runs ``script``."""
        file = self.commands / name
        file.write_text(f'#!/bin/sh\necho "{name} $*" >>{self._log}\n{script}\n', encoding="utf-8")
        file.chmod(0o755)

    @property
    def log(self) -> list[str]:
        """The calls so far, one line each."""
        return self._log.read_text(encoding="utf-8").splitlines()

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the script here."""
        env = {"PATH": str(self.commands), "TMPDIR": str(self.commands.parent)}
        if "LD_LIBRARY_PATH" in os.environ:
            env["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
        command = [str(self.commands / "sh"), str(SCRIPT), *arguments]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine with mmdebstrap that makes an empty archive."""
    made = Machine(tmp_path)
    made.has("mmdebstrap", 'touch "$4"')
    return made


def test_docker_imports_what_mmdebstrap_made(machine: Machine) -> None:
    machine.has("docker")
    done = machine.run("-m", MIRROR, "bullseye")
    assert done.returncode == 0, done.stderr
    _, built, imported = machine.log
    archive = built.split()[4]
    assert built == (f"mmdebstrap --variant=minbase --include=ca-certificates bullseye {archive} {MIRROR}")
    assert imported == f"docker import {archive} portmatrix/base:bullseye"
    assert not Path(archive).exists()
    assert "--build-arg BASE_IMAGE=portmatrix/base:bullseye" in done.stdout
    assert "export PORTMATRIX_BASE_IMAGE_CAFFE=portmatrix/base:bullseye" in done.stdout


def test_a_tool_without_its_daemon_is_passed_over(machine: Machine) -> None:
    machine.has("docker", "exit 1")
    machine.has("podman")
    assert machine.run("-m", MIRROR, "bullseye").returncode == 0
    assert machine.log[-1].startswith("podman import ")


def test_buildah_adds_and_commits(machine: Machine) -> None:
    machine.has("buildah", '[ "$1" != from ] || echo made-container')
    done = machine.run("-t", "buildah", "-n", "my/base:1", "-m", MIRROR, "bullseye")
    assert done.returncode == 0, done.stderr
    assert machine.log[-3] == "buildah from scratch"
    assert machine.log[-2].startswith("buildah add --quiet made-container ")
    assert machine.log[-1] == "buildah commit --quiet --rm made-container my/base:1"


def test_the_mirror_is_that_of_apt_or_the_one_given(machine: Machine) -> None:
    machine.has("docker")
    machine.has("apt-get", "echo cdrom:near/; echo cdrom:far/")
    machine.run("bullseye")
    assert any(line.startswith("mmdebstrap") and line.endswith(" cdrom:near") for line in machine.log)
    machine.run("-m", "cdrom:other", "bullseye")
    assert machine.log[-2].endswith(" cdrom:other")


@pytest.mark.parametrize(
    ("architecture", "platform"),
    [("s390x", "linux/s390x"), ("armhf", "linux/arm/v7"), ("ppc64el", "linux/ppc64le"), ("amd64", "linux/amd64")],
)
def test_a_system_of_an_architecture_is_built_and_not_imported(
    machine: Machine, architecture: str, platform: str
) -> None:
    # Docker would take what it imports for one of this machine's own.
    machine.has("docker", '[ "$1" != build ] || cat "$6/Dockerfile" >&2')
    machine.has("mmdebstrap", 'touch "$5"')
    done = machine.run("-m", MIRROR, "-a", architecture, "trixie")
    assert done.returncode == 0, done.stderr
    assert f"mmdebstrap --architectures={architecture} --variant=minbase " in machine.log[-2]
    name = f"portmatrix/base:trixie-{architecture}"
    assert machine.log[-1].startswith(f"docker build --platform {platform} --tag {name} ")
    assert done.stderr == "FROM scratch\nADD base.tar /\n"
    assert f"docker build --platform {platform} --build-arg BASE_IMAGE={name}" in done.stdout


def test_buildah_is_told_the_architecture(machine: Machine) -> None:
    machine.has("buildah", '[ "$1" != from ] || echo made-container')
    machine.has("mmdebstrap", 'touch "$5"')
    assert machine.run("-t", "buildah", "-m", MIRROR, "-a", "armhf", "trixie").returncode == 0
    assert machine.log[-2] == "buildah config --os linux --arch arm made-container"


def test_packages_are_unpacked_and_nothing_is_configured(machine: Machine) -> None:
    machine.has("docker")
    machine.has("mmdebstrap", 'touch "$6"')
    done = machine.run("-m", MIRROR, "-a", "s390x", "-i", "python3,python3-numpy", "trixie")
    assert done.returncode == 0, done.stderr
    (built,) = (line for line in machine.log if line.startswith("mmdebstrap"))
    assert built.startswith("mmdebstrap --architectures=s390x --variant=extract ")
    (included,) = (line for line in machine.log if "--include=" in line)
    assert "--include=base-files,coreutils,dash,python3,python3-numpy trixie " in included
    assert "export PORTMATRIX_BASE_IMAGE_RUN=portmatrix/base:trixie-s390x" in done.stdout


def of_release(machine: Machine, codename: str) -> str:
    """Return what mmdebstrap does where the mirror has a release of that name as its stable one, and no other whole."""
    system = machine.commands.parent / "system.tar"
    release = machine.commands.parent / "os-release"
    release.write_text(f"NAME=Debian\nVERSION_CODENAME={codename}\n", encoding="utf-8")
    with tarfile.open(system, "w") as tar:
        tar.add(release, "./usr/lib/os-release")
    return f'[ "$3" = stable ] || exit 25; cp {system} "$4"'


def test_a_mirror_in_the_middle_of_its_update_is_asked_by_the_other_name(machine: Machine) -> None:
    machine.has("docker")
    machine.has("mmdebstrap", of_release(machine, "trixie"))
    done = machine.run("-m", MIRROR, "trixie")
    assert done.returncode == 0, done.stderr
    assert machine.log[-1].endswith(" portmatrix/base:trixie")


def test_another_release_is_not_taken_for_the_one_asked_for(machine: Machine) -> None:
    machine.has("docker")
    machine.has("mmdebstrap", of_release(machine, "trixie"))
    done = machine.run("-m", MIRROR, "bullseye")
    assert done.returncode == 1
    assert "no usable bullseye: its stable release is another one" in done.stderr
    assert not any(line.startswith("docker import") for line in machine.log)


def test_a_release_without_a_docker_file_of_its_own_names_no_variable(machine: Machine) -> None:
    machine.has("docker")
    assert "export " not in machine.run("-m", MIRROR, "sid").stdout


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ((), 2, "usage:"),
        (("bullseye", "more"), 2, "usage:"),
        (("-x", "bullseye"), 2, "usage:"),
        (("-t", "lxc", "bullseye"), 2, "expected docker, podman or buildah"),
        (("-t", "podman", "bullseye"), 1, "podman does not answer here"),
        (("bullseye",), 1, "none of docker, podman and buildah answers here"),
    ],
)
def test_what_it_cannot_do_it_says(machine: Machine, arguments: tuple[str, ...], status: int, words: str) -> None:
    done = machine.run(*arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert words in done.stderr


def test_without_apt_the_mirror_must_be_named(machine: Machine) -> None:
    machine.has("docker")
    done = machine.run("bullseye")
    assert (done.returncode, done.stdout) == (2, "")
    assert "name one with -m" in done.stderr


def test_a_release_that_is_gone_ends_it_before_an_import(machine: Machine) -> None:
    machine.has("docker")
    machine.has("mmdebstrap", "exit 25")
    done = machine.run("-m", MIRROR, "bullseye")
    assert done.returncode == 1
    assert "archive of old releases with -m" in done.stderr
    assert not any(line.startswith("docker import") for line in machine.log)
    assert not list(machine.commands.parent.glob("tmp.*"))
