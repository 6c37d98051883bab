"""Packages for Node.js: exact versions, installed into a folder by the machine's npm, without running their scripts."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from portmatrix.commands import Patience, output_of
from portmatrix.errors import EnvironmentFailure
from portmatrix.store import write_whole

#: What was asked for and what was installed, beside the folder of packages.
LOCK = "npm.json"
#: Where npm itself notes what it has installed.
_NOTES = "node_modules/.package-lock.json"
_EXACT = re.compile(r"((?:@[a-z0-9~][\w.~-]*/)?[a-z0-9~][\w.~-]*)@(\d+\.\d+\.\d+(?:[-+][0-9A-Za-z.+-]+)?)", re.ASCII)
#: Nothing is asked, run, reported or looked up but the packages; no log is left in the user's home.
_OPTIONS = (
    *("--ignore-scripts", "--no-audit", "--no-fund", "--no-bin-links", "--no-progress", "--no-update-notifier"),
    *("--save-exact", "--logs-max=0", "--loglevel=error", "--color=false"),
)


def install(
    folder: Path, requirements: Sequence[str], patience: Patience, announce: Callable[[str], None]
) -> dict[str, str]:
    """Install the packages ``NAME@VERSION`` into ``folder/node_modules``, and note in ``folder/npm.json`` what came.

    Returns the version of every installed package by name, those that others required among them. A package that lies
    inside another, because that needs another version of it, is called ``OTHER/node_modules/NAME``.

    Raises ``EnvironmentFailure`` with npm's own words where it fails; ``unavailable`` where there is no npm.
    """
    wanted = dict(name_and_version(item) for item in requirements)
    if not wanted:
        return {}
    npm = shutil.which("npm")
    if npm is None:
        raise EnvironmentFailure(
            "needs npm on PATH; install Node.js with it (apt-get install --no-install-recommends nodejs npm,"
            " brew install node, winget install OpenJS.NodeJS.LTS)",
            unavailable=True,
        )
    announce(f"installing npm packages: {' '.join(requirements)}")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        output_of([npm, "install", *_OPTIONS, "--prefix", str(folder), *requirements], patience, "install npm packages")
    except EnvironmentFailure as failure:
        raise _in_npms_words(failure) from failure
    found = installed(folder)
    for name, version in wanted.items():
        if found.get(name) != version:
            raise EnvironmentFailure(f"asked npm for {name}@{version}, but {found.get(name)} was installed")
    write_whole(folder / LOCK, json.dumps({"requirements": list(requirements), "installed": found}, indent=1))
    return found


def name_and_version(requirement: str) -> tuple[str, str]:
    """Return the two parts of ``NAME@VERSION``; raises ``EnvironmentFailure`` for anything but one exact version."""
    found = _EXACT.fullmatch(requirement)
    if found is None:
        raise EnvironmentFailure(f"{requirement!r} is no exact npm requirement such as 'onnxruntime-web@1.30.0'")
    return found[1], found[2]


def installed(folder: Path) -> dict[str, str]:
    """Return what npm has installed into ``folder``: versions by name, in the order of the names."""
    noted = json.loads((folder / _NOTES).read_text(encoding="utf-8"))["packages"]
    return {place.removeprefix("node_modules/"): str(noted[place]["version"]) for place in sorted(noted)}


def _in_npms_words(failure: EnvironmentFailure) -> EnvironmentFailure:
    """Return the failure with the line of npm's output that says what is wrong.

    Its first line is a code, and its last ones are advice.
    """
    said = [line.removeprefix("npm error ").strip() for line in failure.log_tail.splitlines() if "npm error " in line]
    told = [line for line in said if line and not re.match(r"(code|errno|syscall|path|dest) ", line)]
    if not told:
        return failure
    return EnvironmentFailure(f"could not install npm packages: {told[0]}", failure.log_tail)
