"""What a release needs beside what tox does: the changelog's section of it, and a trial of the wheel as users get it.

``python scripts/release.py notes --tag v0.1.0`` and ``python scripts/release.py try dist``. The standard library alone;
the trial ends with a line ``N passed, N failed``.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
CHANGELOG = ROOT / "CHANGELOG.md"
#: What must work from an empty folder, with nothing there but the installed wheel: the suite that it carries is read.
COMMANDS = (
    ("--help",),
    *(("list", what) for what in ("models", "frameworks", "paths", "runtimes", "targets", "data", "cells")),
)


class Distributions(NamedTuple):
    """The two files of a release, and their version."""

    wheel: Path
    sdist: Path
    version: str


def notes(changelog: str, version: str) -> str:
    """Return the changelog's section ``## [VERSION] - DATE`` without its heading; raises ``ValueError`` for none."""
    sections = re.split(r"^## ", changelog, flags=re.MULTILINE)[1:]
    headings = [section.partition("\n")[0] for section in sections]
    for heading, section in zip(headings, sections, strict=True):
        if re.fullmatch(rf"\[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d", heading):
            text = section.partition("\n")[2].strip()
            if not text:
                raise ValueError(f"CHANGELOG.md: the section of {version} is empty; say what has changed")
            return text + "\n"
    there = "; ".join(headings) or "none"
    raise ValueError(f"CHANGELOG.md: expected a heading '## [{version}] - YYYY-MM-DD', found: {there}")


def version_of(tag: str) -> str:
    """Return the version that ``vVERSION`` is the tag of; raises ``ValueError``."""
    found = re.fullmatch(r"v(\d+\.\d+\.\d+(?:(?:a|b|rc)\d+)?)", tag)
    if found is None:
        raise ValueError(f"{tag!r} is no tag of a release; expected one such as v0.1.0 or v0.2.0rc1")
    return found[1]


def distributions(folder: Path) -> Distributions:
    """Return the one wheel and the one sdist in ``folder``; raises ``ValueError`` unless they are of one version."""
    wheels, sdists = sorted(folder.glob("*.whl")), sorted(folder.glob("*.tar.gz"))
    if len(wheels) != 1 or len(sdists) != 1:
        found = ", ".join(file.name for file in (*wheels, *sdists)) or "neither"
        raise ValueError(f"{folder}: expected one wheel and one sdist, found {found}; empty it and build again")
    version = wheels[0].name.split("-")[1]
    if sdists[0].name != f"portmatrix-{version}.tar.gz":
        raise ValueError(f"{folder}: {sdists[0].name} is not of the version of {wheels[0].name}")
    return Distributions(wheels[0], sdists[0], version)


def try_wheel(wheel: Path) -> Iterator[tuple[str, str]]:
    """Install the wheel into an environment of its own and yield each command with what is wrong, empty if nothing."""
    with tempfile.TemporaryDirectory() as scratch:
        environment, empty = Path(scratch, "environment"), Path(scratch, "empty")
        empty.mkdir()
        venv.create(environment, with_pip=True)
        programs = environment / ("Scripts" if os.name == "nt" else "bin")
        pip = [str(programs / "python"), "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
        yield f"pip install {wheel.name}", _wrong([*pip, str(wheel.resolve())], empty, silent=True)
        for arguments in COMMANDS:
            yield f"portmatrix {' '.join(arguments)}", _wrong([str(programs / "portmatrix"), *arguments], empty)


def _wrong(command: Sequence[str], folder: Path, *, silent: bool = False) -> str:
    """Return why a command failed, or that it said nothing though it is not a ``silent`` one; empty if it is well."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, encoding="utf-8", check=False)
    except OSError as error:
        return str(error)
    if done.returncode:
        return f"exit status {done.returncode}: {(done.stdout + done.stderr).strip()[-2000:]}"
    return "" if silent or done.stdout.strip() else "it printed nothing"


def _try(folder: Path, tag: str | None) -> int:
    found = distributions(folder)
    if tag is not None and version_of(tag) != found.version:
        raise ValueError(f"the tag is {tag}, but the distributions are of version {found.version}")
    checks = []
    for name, wrong in try_wheel(found.wheel):
        checks.append(wrong)
        print(f"FAILED {name}: {wrong}" if wrong else f"ok {name}", flush=True)
    failed = sum(map(bool, checks))
    print(f"{len(checks) - failed} passed, {failed} failed")
    return 1 if failed else 0


def _notes(tag: str, output: Path | None) -> int:
    text = notes(CHANGELOG.read_text(encoding="utf-8"), version_of(tag))
    if output is None:
        print(text, end="")
    else:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text, encoding="utf-8")
    return 0


def main(arguments: Sequence[str]) -> int:
    """Carry out the command line, and return the exit status: 1 for a failed trial, 2 for what cannot be released."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    trial = commands.add_parser("try", help="install the wheel in FOLDER for itself, and list what it has")
    trial.add_argument("folder", type=Path)
    trial.add_argument("--tag", help="what the version must be, as a tag: v0.1.0")
    words = commands.add_parser("notes", help="what the changelog says of a release")
    words.add_argument("--tag", required=True)
    words.add_argument("--output", "-o", type=Path, help="a file; else standard output")
    given = parser.parse_args(arguments)
    try:
        return _try(given.folder, given.tag) if given.command == "try" else _notes(given.tag, given.output)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
