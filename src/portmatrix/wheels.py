"""Wheels for another platform than this machine's: resolved and installed by pip's own resolver, into a plain folder."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from packaging.utils import canonicalize_name

from portmatrix.commands import Patience, output_of
from portmatrix.errors import EnvironmentFailure
from portmatrix.types import PlatformSpec


class Tags(NamedTuple):
    """What pip is asked for: platform tags, newest first, and the version of CPython (``3.13``)."""

    platforms: tuple[str, ...]
    python: str


class Wheel(NamedTuple):
    """One distribution that pip chose: its name, version and file."""

    name: str
    version: str
    file: str


#: glibc's versions for which wheels are built (PEP 600), newest first, and the two older names of such tags.
_GLIBC = (*(f"manylinux_2_{minor}" for minor in range(41, 16, -1)), "manylinux2014")
_MUSL = ("musllinux_1_2", "musllinux_1_1")
_MACHINES = {"arm64": "aarch64", "armhf": "armv7l"}
#: The newest macOS that wheels may ask for, by processor, with all before it.
_MACOS = {"arm64": range(26, 10, -1), "x86_64": range(26, 9, -1)}


def tags_for(platform: PlatformSpec, python: str) -> Tags:
    """Return the tags of the wheels that run on a platform (PEP 425, 600 and 656) under CPython ``python``.

    Linux with glibc takes wheels for any glibc up to 2.41, that of Debian 13. Raises ``EnvironmentFailure``
    (unsupported) for a system that has no wheels.
    """
    match platform.os:
        case "linux":
            machine = _MACHINES.get(platform.arch, platform.arch)
            names = _MUSL if platform.libc == "musl" else _GLIBC
            return Tags((*(f"{name}_{machine}" for name in names), f"linux_{machine}"), python)
        case "windows":
            return Tags(({"x86_64": "win_amd64"}.get(platform.arch, f"win_{platform.arch}"),), python)
        case "macos":
            found = []
            for major in _MACOS.get(platform.arch, range(0)):
                minors = range(15, -1, -1) if major == 10 else range(1)
                found += [
                    f"macosx_{major}_{minor}_{kind}" for minor in minors for kind in (platform.arch, "universal2")
                ]
            return Tags(tuple(found), python)
    raise EnvironmentFailure(f"there are no wheels for {platform.os}", unsupported=True)


def resolve(requirements: Sequence[str], tags: Tags, folder: Path, patience: Patience) -> list[Wheel]:
    """Return what pip would install for the tags, dependencies included; ``folder`` gets the report.

    Raises ``EnvironmentFailure``, unsupported where the index has no wheel for them.
    """
    report = folder / "resolved.json"
    _pip(["install", "--dry-run", "--ignore-installed", "--report", str(report)], requirements, tags, folder, patience)
    items: list[dict[str, Any]] = json.loads(report.read_text(encoding="utf-8"))["install"]
    return [_wheel(item) for item in items]


def _wheel(item: dict[str, Any]) -> Wheel:
    described = item["metadata"]
    return Wheel(
        canonicalize_name(described["name"]), described["version"], item["download_info"]["url"].split("/")[-1]
    )


def install(requirements: Sequence[str], tags: Tags, folder: Path, patience: Patience) -> None:
    """Install the wheels, with what they need, into ``folder``; raises ``EnvironmentFailure`` like ``resolve``."""
    if requirements:
        _pip(["install", "--no-compile"], requirements, tags, folder, patience)


def _pip(command: Sequence[str], requirements: Sequence[str], tags: Tags, folder: Path, patience: Patience) -> str:
    platforms = [part for name in tags.platforms for part in ("--platform", name)]
    fixed = ["--quiet", "--no-input", "--disable-pip-version-check", "--only-binary=:all:", "--target", str(folder)]
    line = [sys.executable, "-m", "pip", *command, *fixed, "--python-version", tags.python, *platforms, *requirements]
    try:
        return output_of(line, patience, f"find wheels for CPython {tags.python} on {tags.platforms[-1]}")
    except EnvironmentFailure as failure:
        if "No matching distribution found" in failure.log_tail or "ResolutionImpossible" in failure.log_tail:
            raise EnvironmentFailure(str(failure), failure.log_tail, unsupported=True) from failure
        raise
