"""Whether what a runtime needs is published for a platform: by the resolvers of pip, npm and Debian, nothing installed.

Each of them decides by its own rules which files fit; here they are only asked, and what they say is kept.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet

from portmatrix import wheels
from portmatrix.commands import LOG_TAIL, Patience, output_of
from portmatrix.errors import EnvironmentFailure
from portmatrix.places import Wanted, root
from portmatrix.static.answers import answer, today
from portmatrix.store import Store
from portmatrix.types import Lookup, PlatformSpec

#: The CPythons that there are, newest first, down to what the oldest runtimes need.
PYTHONS = tuple(f"3.{minor}" for minor in range(14, 5, -1))
#: What Node.js and Debian call processors, where that is not what targets call them.
_NODE_NAMES = {"x86_64": "x64", "armhf": "arm", "ppc64le": "ppc64"}
_DEBIAN_NAMES = {"x86_64": "amd64", "ppc64le": "ppc64el"}


class Published(NamedTuple):
    """What the indexes say, and whether it is about the versions that the runtime requires: Debian has its own."""

    lookup: Lookup
    as_required: bool


def published(store: Store, wanted: Wanted, patience: Patience) -> Published:
    """Return whether what the runtime needs is published for the platform; for Linux by Debian, if not as wheels.

    Raises ``EnvironmentFailure`` where an index does not answer, unavailable where there is none to be asked.
    """
    spec, platform = wanted.spec, wanted.platform
    if platform.os in ("node", "browser"):
        return Published(_by_npm(store, wanted, patience), as_required=True)
    found: Lookup | None = None
    if spec.requirements:
        question = ["wheels", spec.requirements, platform.model_dump(), spec.python]
        found = answer(store, question, lambda scratch: _ask_for_wheels(wanted, scratch, patience), patience)
    if spec.debian and platform.os == "linux" and platform.libc != "musl" and (found is None or not found.possible):
        question = ["debian", spec.debian, platform.arch]
        by_debian = answer(store, question, lambda _: _ask_debian(spec.debian, platform, patience), patience)
        return Published(_either(found, by_debian), as_required=_is_required(spec.requirements, by_debian.found))
    if found is None:
        why = f"{wanted.name} is made as a container image only; whether that can be is not looked up"
        raise EnvironmentFailure(why, unavailable=True)
    return Published(_with_doubts(found, wanted), as_required=True)


def _either(wheels_: Lookup | None, debian: Lookup) -> Lookup:
    """Return Debian's answer, after that of the index of wheels, which is that there are none."""
    if wheels_ is None or debian.possible:
        return debian
    asked = f"{wheels_.asked}; {debian.asked}"
    return wheels_.model_copy(update={"asked": asked, "missing": (*wheels_.missing, *debian.missing)})


def _is_required(requirements: Sequence[str], found: Sequence[str]) -> bool:
    """Return whether one of Debian's packages (``NAME_VERSION``) is of a release that is required as a wheel."""
    pinned = {item.version for line in requirements for item in Requirement(line).specifier if item.operator == "=="}
    # [EPOCH:]RELEASE[+dfsg]-REVISION
    releases = {re.split(r"[+~-]", file.partition("_")[2].rpartition(":")[2])[0] for file in found}
    return bool(pinned & releases)


def _with_doubts(found: Lookup, wanted: Wanted) -> Lookup:
    """Return the answer with what the runtime needs beside wheels, of which no index knows."""
    doubts = []
    if found.possible and wanted.spec.libraries:
        doubts.append(f"whether the system has {', '.join(wanted.spec.libraries.values())}")
    if found.possible and wanted.program is not None:
        doubts.append(f"whether {wanted.program.name} compiles for it")
    return found.model_copy(update={"unchecked": (*found.unchecked, *doubts)})


def _named(platform: PlatformSpec) -> str:
    return f"{platform.os} {platform.arch}{' with musl' if platform.libc == 'musl' else ''}"


# --- Wheels ---------------------------------------------------------------------------------------------------------


class _Resolved(NamedTuple):
    """What pip found for one CPython: wheels, files with source where it has no wheel, or what is missing."""

    python: str
    wheels: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    missing: str = ""
    whole: bool = True


def _ask_for_wheels(wanted: Wanted, scratch: Path, patience: Patience) -> Lookup:
    """Return what pip finds for the newest CPython that the runtime allows and that there are wheels for."""
    spec, platform = wanted.spec, wanted.platform
    tried = []
    for python in _pythons(spec.python):
        found = _resolve(spec.requirements, platform, python, scratch, patience)
        if found.wheels and not found.sources:
            return _there(spec.requirements, platform, found)
        tried.append(found)
    built = next((found for found in tried if found.sources and not found.missing), None)
    if built is not None:
        return _there(spec.requirements, platform, built)
    return _not_there(spec.requirements, platform, tried, scratch, patience)


def _pythons(allowed: str) -> list[str]:
    """Return the CPythons that a specifier allows, newest first; raises ``EnvironmentFailure`` if that is none."""
    specifier = SpecifierSet(allowed)
    # 3.11.4 and later is some 3.11.
    found = [python for python in PYTHONS if any(specifier.contains(f"{python}{end}") for end in ("", ".99"))]
    if not found:
        raise EnvironmentFailure(f"needs CPython {allowed}; there are {PYTHONS[-1]} to {PYTHONS[0]}", unavailable=True)
    return found


def _resolve(
    requirements: Sequence[str], platform: PlatformSpec, python: str, scratch: Path, patience: Patience
) -> _Resolved:
    """Return what pip finds for one CPython.

    pip takes no source for another platform, since it would have to run it. What has source only is left out, and where
    others need it, so is everything that is needed by others.
    """
    tags = wheels.oldest_first(wheels.tags_for(platform, python))
    left, sources, whole = list(requirements), list[str](), True
    while left:
        try:
            found = wheels.resolve(left, tags, scratch, patience, dependencies=whole)
        except EnvironmentFailure as failure:
            if not failure.unsupported:
                raise
            missing = wheels.unsatisfied(failure)
            files = wheels.sources(missing, scratch)
            direct = [item for item in left if _name(item) == _name(missing)]
            if not files or not (direct or whole):
                return _Resolved(python, missing=missing or "some of it")
            sources.append(files[-1])
            if direct:
                left.remove(direct[0])
            else:
                whole = False
        else:
            return _Resolved(python, tuple(item.file for item in found), tuple(sources), whole=whole)
    return _Resolved(python, sources=tuple(sources), whole=whole)


def _name(requirement: str) -> str:
    """Return the name in a requirement, also in one as pip reports it (``b<2 (from a)``); empty if there is none."""
    try:
        return Requirement(requirement.partition(" (from ")[0]).name.lower()
    except InvalidRequirement:
        return ""


def _there(requirements: Sequence[str], platform: PlatformSpec, found: _Resolved) -> Lookup:
    floor = wheels.floor(found.wheels)
    unchecked = ["the floor by the binaries themselves: it is what the wheels' tags say"] if floor else []
    if found.sources:
        rest = "" if found.whole else ", and what the requirements need beside it"
        unchecked.append(f"whether {', '.join(found.sources)}, of which there is no wheel, builds there{rest}")
    return Lookup(
        possible=True,
        asked=f"{' '.join(requirements)} for CPython {found.python} on {_named(platform)}",
        found=(*found.wheels, *found.sources),
        floor=floor,
        date=today().isoformat(),
        unchecked=tuple(unchecked),
    )


def _not_there(
    requirements: Sequence[str], platform: PlatformSpec, tried: Sequence[_Resolved], scratch: Path, patience: Patience
) -> Lookup:
    """Return what is missing, with the newest versions of it that there are wheels of, for any of the CPythons."""
    missing = tuple(dict.fromkeys(item.missing for item in tried))
    newest = []
    for name in filter(None, dict.fromkeys(map(_name, missing))):
        for item in tried:
            tags = wheels.tags_for(platform, item.python)
            version = wheels.newest(name, tags, scratch, patience)
            if version:
                newest.append(f"{name} {version} for CPython {item.python}")
                break
    pythons = [item.python for item in tried]
    span = pythons[0] if len(pythons) == 1 else f"{pythons[-1]} to {pythons[0]}"
    asked = f"{' '.join(requirements)} for CPython {span} on {_named(platform)}"
    date = today().isoformat()
    return Lookup(possible=False, asked=asked, date=date, missing=missing, newest=tuple(newest))


# --- npm ------------------------------------------------------------------------------------------------------------


def _by_npm(store: Store, wanted: Wanted, patience: Patience) -> Lookup:
    packages, platform = wanted.spec.npm, wanted.platform
    if not packages:
        raise EnvironmentFailure(f"{wanted.name} names no package for {platform.os}", unavailable=True)
    # Node.js runs on this machine, and calls its system as Python does; for a browser a package has no programs.
    machine = _NODE_NAMES.get(platform.arch, platform.arch)
    place = f"{sys.platform}/{machine}" if platform.os == "node" else ""
    return answer(store, ["npm", packages, place], lambda _: _ask_npm(packages, place, patience), patience)


def _ask_npm(packages: Sequence[str], place: str, patience: Patience) -> Lookup:
    """Return whether the packages exist and, if they carry programs for processors, carry those for ``place``."""
    npm = shutil.which("npm")
    if npm is None:
        raise EnvironmentFailure("npm is not on this machine, and cannot be asked", unavailable=True)
    found: list[str] = []
    missing: list[str] = []
    for package in packages:
        try:
            line = [npm, "pack", "--dry-run", "--json", "--ignore-scripts", "--fetch-retries=0", package]
            (packed,) = json.loads(output_of(line, patience, f"list the files of {package}"))
        except EnvironmentFailure as failure:
            if not re.search(r"\b(E404|ETARGET)\b", failure.log_tail):
                raise
            missing.append(package)
        else:
            binaries = [file["path"] for file in packed["files"] if file["path"].endswith(".node")]
            usable = fitting(binaries, place)
            found += [f"{packed['filename']}:{path}" for path in usable] or [packed["filename"]]
            if place and binaries and not usable:
                missing.append(f"a binary of {package} for {place}")
    asked = f"{' '.join(packages)}{f' for {place}' if place else ''}"
    date = today().isoformat()
    return Lookup(possible=not missing, asked=asked, found=tuple(found), date=date, missing=tuple(missing))


def fitting(binaries: Iterable[str], place: str) -> list[str]:
    """Return the binaries for ``SYSTEM/PROCESSOR``: by custom they lie in folders, or in one, of these names."""
    wanted = set(place.split("/"))
    return [path for path in binaries if place and wanted <= set(re.split("[/-]", path))]


# --- Debian ---------------------------------------------------------------------------------------------------------

#: What the release is called as long as it is the newest: the same files of a mirror, under another index.
_ALIAS = "stable"
#: mmdebstrap tells on its standard error what it would install.
_TOLD = ["sh", "-c", 'exec "$@" 2>&1', "sh"]


def _ask_debian(packages: Sequence[str], platform: PlatformSpec, patience: Patience) -> Lookup:
    """Return whether Debian has the packages for the architecture, and all that they need, as its own apt finds it."""
    mirror = root.mirror()
    if not mirror or shutil.which("mmdebstrap") is None:
        why = f"Debian cannot be asked without mmdebstrap and a mirror that apt or {root.MIRROR} names"
        raise EnvironmentFailure(why, unavailable=True)
    architecture = _DEBIAN_NAMES.get(platform.arch, platform.arch)
    asked = f"{' '.join(packages)} of Debian {root.NUMBER} ({root.RELEASE}) for {architecture}"
    what = ["--simulate", "--verbose", "--variant=extract", f"--architectures={architecture}"]
    what.append(f"--include={','.join(packages)}")
    try:
        told = _simulated(what, root.RELEASE, mirror, patience)
    except EnvironmentFailure:
        # A mirror in the middle of its update has indexes that do not fit each other, but seldom under both names.
        told = _simulated(what, _ALIAS, mirror, patience)
    absent = re.findall(r"^E: Unable to locate package (\S+)", told, re.MULTILINE)
    chosen = re.findall(rf"^Inst (\S+) \((\S+) Debian:{root.NUMBER}\.", told, re.MULTILINE)
    if not absent and not chosen:
        raise EnvironmentFailure(f"{asked}: the mirror has another release", told[-LOG_TAIL:])
    versions = dict(chosen)
    libc = versions.get("libc6", "").partition("-")[0]
    return Lookup(
        possible=not absent,
        asked=asked,
        found=() if absent else tuple(f"{name}_{versions[name]}" for name in packages if name in versions),
        floor=f"glibc {libc}" if libc and not absent else "",
        date=today().isoformat(),
        missing=tuple(absent),
    )


def _simulated(what: Sequence[str], suite: str, mirror: str, patience: Patience) -> str:
    """Return what mmdebstrap says when it only simulates; raises ``EnvironmentFailure`` unless a mirror answered."""
    line = [*_TOLD, "mmdebstrap", *what, suite, os.devnull, mirror]
    try:
        return output_of(line, patience, "ask Debian")
    except EnvironmentFailure as failure:
        if "E: Unable to locate package" in failure.log_tail:
            return failure.log_tail
        raise
