"""Wheels for another platform than this machine's: resolved and installed by pip's own resolver, into plain folders."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from packaging.requirements import InvalidRequirement, Requirement
from packaging.tags import mac_platforms
from packaging.utils import InvalidSdistFilename, canonicalize_name, parse_sdist_filename

from portmatrix.commands import Patience, output_of
from portmatrix.errors import EnvironmentFailure
from portmatrix.types import PlatformSpec


class Tags(NamedTuple):
    """What pip is asked for: platform tags, newest first, and the version of CPython (``3.13``).

    ``markers`` are the values there of the environment markers by which a distribution chooses what it needs.
    """

    platforms: tuple[str, ...]
    python: str
    markers: Mapping[str, str]


class Wheel(NamedTuple):
    """One distribution that pip chose: its name, version and file."""

    name: str
    version: str
    file: str


#: Older names of some of those tags, and the versions of glibc that they stand for (PEP 600).
_OLDER_NAMES = {"manylinux2014": (2, 17), "manylinux2010": (2, 12), "manylinux1": (2, 5)}
#: glibc's versions for which wheels are built (PEP 600), newest first.
_GLIBC = (*(f"manylinux_2_{minor}" for minor in range(41, 4, -1)), *_OLDER_NAMES)
_MUSL = ("musllinux_1_2", "musllinux_1_1")
_LINUX_MACHINES = {"arm64": "aarch64", "armhf": "armv7l"}
_WINDOWS_MACHINES = {"x86_64": "AMD64", "arm64": "ARM64"}
#: The newest macOS that wheels may ask for.
_MACOS = (26, 0)

#: pip takes tags for another platform, but asks this machine what the platform is wherever a distribution needs
#: something on some platforms only (PEP 508): of PyTorch for macOS it would want CUDA for Linux. So pip is started with
#: the platform's answers in place of this machine's, and refuses to start if they do not reach it.
_PIP = """
import json, runpy, sys
sys.path[:] = filter(None, sys.path)
from pip._vendor.packaging import markers
told, usual = json.loads(sys.argv.pop(1)), markers.default_environment
markers.default_environment = lambda: {**usual(), **told}
for name, value in told.items():
    if not markers.Marker(f"{name} == {json.dumps(value)}").evaluate():
        sys.exit(f"ERROR: this version of pip does not let itself be told {name}; another one may")
sys.argv[0] = "pip"
runpy.run_module("pip", run_name="__main__")
"""

#: What pip says of an index that gave no answer; a page that is not there (404) is an answer.
_NO_ANSWER = re.compile(r"(Could not fetch URL \S+: (?!404 ).*?)(?: - skipping)?$|(Skipping page .*)$", re.MULTILINE)
#: What pip says of a requirement that nothing satisfies, and of several that cannot be satisfied together.
_NOTHING = re.compile(r"^ERROR: (?:No matching distribution found for (.+)|Cannot install (.+) because these)", re.M)
_SOURCE = re.compile(r"No sources permitted for [^:]+: (\S+)")
_LOG, _REPORT = "pip.log", "resolved.json"


def tags_for(platform: PlatformSpec, python: str) -> Tags:
    """Return the tags of the wheels that run on a platform (PEP 425, 600 and 656) under CPython ``python``.

    Linux with glibc takes wheels for any glibc up to 2.41, that of Debian 13. Raises ``EnvironmentFailure``
    (unsupported) for a system that has no wheels.
    """
    match platform.os:
        case "linux":
            machine = _LINUX_MACHINES.get(platform.arch, platform.arch)
            names = (*(_MUSL if platform.libc == "musl" else _GLIBC), "linux")
            markers = _markers("posix", "linux", "Linux", machine, python)
            return Tags(tuple(f"{name}_{machine}" for name in names), python, markers)
        case "windows":
            machine = _WINDOWS_MACHINES.get(platform.arch, platform.arch)
            return Tags((f"win_{machine.lower()}",), python, _markers("nt", "win32", "Windows", machine, python))
        case "macos":
            markers = _markers("posix", "darwin", "Darwin", platform.arch, python)
            return Tags(tuple(mac_platforms(_MACOS, platform.arch)), python, markers)
    raise EnvironmentFailure(f"there are no wheels for {platform.os}", unsupported=True)


def _markers(os_name: str, sys_platform: str, system: str, machine: str, python: str) -> dict[str, str]:
    """Return what the markers of PEP 508 are on a platform."""
    return {
        "os_name": os_name,
        "sys_platform": sys_platform,
        "platform_system": system,
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
        "python_version": python,
        "python_full_version": f"{python}.0",
    }


def oldest_first(tags: Tags) -> Tags:
    """Return the tags with those of the oldest systems first: pip then takes the wheel that runs on most of them."""
    return tags._replace(platforms=tags.platforms[::-1])


def resolve(
    requirements: Sequence[str], tags: Tags, folder: Path, patience: Patience, *, dependencies: bool = True
) -> list[Wheel]:
    """Return what pip would install for the tags, with what it needs unless ``dependencies`` is False.

    ``folder`` gets pip's report and log. Raises ``EnvironmentFailure``, unsupported where the index has no wheel for
    one of them.
    """
    report, log = folder / _REPORT, folder / _LOG
    command = ["install", "--dry-run", "--ignore-installed", "--report", str(report)]
    command += ["--target", str(folder / "nothing"), *([] if dependencies else ["--no-deps"])]
    # Whoever asks has other answers to fall back on than that of an index which is asked five times.
    _pip([*command, "--retries", "1"], requirements, tags, log, patience)
    items: list[dict[str, Any]] = json.loads(report.read_text(encoding="utf-8"))["install"]
    return [_wheel(item) for item in items]


def newest(name: str, tags: Tags, folder: Path, patience: Patience) -> str:
    """Return the newest version of a distribution that has a wheel for the tags, or an empty string.

    What it needs is not looked at. Raises ``EnvironmentFailure`` where the index does not answer.
    """
    try:
        (found,) = resolve([name], tags, folder, patience, dependencies=False)
    except EnvironmentFailure as failure:
        if failure.unsupported:
            return ""
        raise
    return found.version


def unsatisfied(failure: EnvironmentFailure) -> str:
    """Return which requirement ``resolve`` found nothing for, by the failure that it raised; empty if it is not said.

    It may be one of another distribution's: ``cuda-bindings<14 (from torch)``.
    """
    found = _NOTHING.findall(failure.log_tail)
    return str(found[-1][0] or found[-1][1]) if found else ""


def sources(requirement: str, folder: Path) -> list[str]:
    """Return the files with the source of what is required that pip passed over, by the log that it left in ``folder``.

    They are no wheels: what they hold must be built, if it can be.
    """
    try:
        wanted = Requirement(requirement.split(" (from ", maxsplit=1)[0])
    except InvalidRequirement:
        return []
    log = (folder / _LOG).read_text(encoding="utf-8", errors="replace")
    files = dict.fromkeys(_last_part(address) for address in _SOURCE.findall(log))
    return [file for file in files if _is_source_of(file, wanted)]


def _is_source_of(file: str, wanted: Requirement) -> bool:
    try:
        name, version = parse_sdist_filename(file)
    except InvalidSdistFilename:
        return False
    return name == canonicalize_name(wanted.name) and wanted.specifier.contains(version)


def _last_part(address: str) -> str:
    return address.partition("#")[0].rpartition("/")[2]


def floor(files: Iterable[str]) -> str:
    """Return the oldest system that all of the wheels run on by their tags, such as ``glibc 2.28`` or ``macOS 13.4``.

    A wheel with several tags runs where one of them does. Empty where no tag names a version: pure Python, Windows.
    """
    floors: dict[str, list[tuple[int, int]]] = {}
    for file in files:
        platforms = file.removesuffix(".whl").split("-")[-1].split(".")
        found = [version for version in map(_version_in, platforms) if version is not None]
        if found:
            system = found[0][0]
            floors.setdefault(system, []).append(min(version for _, version in found))
    return ", ".join(f"{system} {'.'.join(map(str, max(found)))}" for system, found in sorted(floors.items()))


def _version_in(tag: str) -> tuple[str, tuple[int, int]] | None:
    systems = {"manylinux": "glibc", "musllinux": "musl", "macosx": "macOS"}
    if match := re.match(r"(manylinux|musllinux|macosx)_(\d+)_(\d+)_", tag):
        return systems[match[1]], (int(match[2]), int(match[3]))
    older = _OLDER_NAMES.get(tag.partition("_")[0])
    return ("glibc", older) if older else None


def _wheel(item: dict[str, Any]) -> Wheel:
    described = item["metadata"]
    file = _last_part(item["download_info"]["url"])
    return Wheel(canonicalize_name(described["name"]), described["version"], file)


def install(
    requirements: Sequence[str], tags: Tags, folder: Path, patience: Patience, *, dependencies: bool = True
) -> None:
    """Install the wheels, with what they need, into ``folder``; raises ``EnvironmentFailure`` like ``resolve``."""
    if not requirements:
        return
    log = folder.parent / _LOG
    command = ["install", "--no-compile", "--target", str(folder)]
    try:
        _pip([*command, *([] if dependencies else ["--no-deps"])], requirements, tags, log, patience)
    finally:
        log.unlink(missing_ok=True)


def _pip(command: Sequence[str], requirements: Sequence[str], tags: Tags, log: Path, patience: Patience) -> None:
    """Run pip as if on the platform of the tags, with a log of its own.

    Raises ``EnvironmentFailure``, unsupported where pip found nothing and every index that it asked has answered.
    """
    log.unlink(missing_ok=True)
    platforms = [part for name in tags.platforms for part in ("--platform", name)]
    fixed = ["--quiet", "--no-input", "--disable-pip-version-check", "--only-binary=:all:", "--log", str(log)]
    line = [sys.executable, "-c", _PIP, json.dumps(tags.markers), *command, *fixed]
    line += ["--python-version", tags.python, *platforms, *requirements]
    where = " ".join(tags.markers[name] for name in ("platform_system", "platform_machine"))
    try:
        output_of(line, patience, f"find wheels for CPython {tags.python} on {where}")
    except EnvironmentFailure as failure:
        if not _NOTHING.search(failure.log_tail):
            raise
        # To pip, an index that cannot be reached is one that has nothing.
        silent = _NO_ANSWER.search(log.read_text(encoding="utf-8", errors="replace"))
        if silent:
            why = f"the index did not answer: {silent[1] or silent[2]}"
            raise EnvironmentFailure(why, failure.log_tail) from failure
        raise EnvironmentFailure(str(failure), failure.log_tail, unsupported=True) from failure
