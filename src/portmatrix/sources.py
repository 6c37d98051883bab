"""Where a set of records is found by what a user calls it: a file, one run in a file, a history, a git revision."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from portmatrix import history, records
from portmatrix.errors import NothingSelected, RecordError, UserError, nearest
from portmatrix.globs import Globs
from portmatrix.types import Record

#: The records file of a revision, below the suite's folder, where none is named.
REFERENCE = "results/reference.jsonl"
_FORMS = (
    "a records file, a history, one run of either (FILE@RUN, PLACE@RUN), or a git revision "
    "(REV or REV:path/to/records.jsonl)"
)
#: Seconds that git may take to hand out one file.
_GIT_SECONDS = 120


def load(named: str, folder: Path, glob: str = "*") -> list[Record]:
    """Return the records that ``named`` stands for and whose cells match ``glob``.

    ``folder`` is the suite's: git is asked there. What is the name of a file, or of a folder, is that before it is
    anything else. Raises ``UserError`` for what is none of the forms, ``RecordError`` for a file that holds something
    else than records, and ``NothingSelected`` if no record is left.
    """
    wanted = Globs([glob])
    found = [record for record in _all(named, folder, glob) if wanted.match(record.cell)]
    if not found:
        raise NothingSelected(f"{named} has no record whose cell matches {glob!r}; `portmatrix list cells` names cells")
    return found


def _all(named: str, folder: Path, glob: str) -> Iterator[Record]:
    place = Path(named)
    if place.is_file():
        return records.read(place)
    if place.is_dir():
        return history.records(named, glob)
    if "://" in named:
        return history.records(*_url_and_run(named, glob))
    before, _, run = named.rpartition("@")
    if before and Path(before).is_file():
        return _of_run(Path(before), run)
    # REV@{1} is a revision, also where a folder is called like the branch.
    if before and Path(before).is_dir() and not run.startswith("{"):
        return history.records(before, glob, run)
    return _of_revision(named, folder)


def _url_and_run(named: str, glob: str) -> tuple[str, str, str | None]:
    """Return the URL of a history, the glob, and the run behind an @ in the last part of the URL, if it is no name."""
    before, _, run = named.rpartition("@")
    if not before or "/" in run or history.is_there(named):
        return named, glob, None
    return before, glob, run


def _of_run(file: Path, run: str) -> Iterator[Record]:
    runs: set[str] = set()
    for record in records.read(file):
        runs.add(record.run)
        if record.run == run:
            yield record
    if run not in runs:
        known = sorted(runs)
        raise UserError(f"{file} has no run {run!r}; expected one of {', '.join(known) or 'none'}{nearest(run, known)}")


def _of_revision(named: str, folder: Path) -> Iterator[Record]:
    revision, colon, path = named.partition(":")
    # git reads ./ from the folder that it is asked in: a suite may lie deep in a repository.
    shown = named if colon else f"{revision}:./{REFERENCE}"
    if not revision or _git(folder, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}"):
        raise UserError(f"{named}: there is no such file, and no such revision in {folder}; expected {_FORMS}")
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "records.jsonl"
        wrong = _git(folder, "show", "--no-textconv", "--end-of-options", shown, output=file)
        if wrong:
            raise NothingSelected(f"{named}: {wrong}; name the records file of that revision as {revision}:path/to/it")
        try:
            yield from records.read(file)
        except RecordError as error:
            raise RecordError(str(error).replace(str(file), f"{revision}:{path or REFERENCE}")) from error


def _git(folder: Path, *arguments: str, output: Path | None = None) -> str:
    """Run git in a folder, its output into a file if one is named; return what was wrong, or an empty string."""
    command = ["git", "-C", str(folder), *arguments]  # the user's own git, from the path like every other program
    try:
        if output is None:
            done = subprocess.run(command, capture_output=True, check=False, timeout=_GIT_SECONDS)
        else:
            with output.open("wb") as stream:
                done = subprocess.run(command, stdout=stream, stderr=subprocess.PIPE, check=False, timeout=_GIT_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"git cannot be asked for records: {error}; name a records file instead") from error
    if done.returncode == 0:
        return ""
    said = done.stderr.decode(errors="replace").strip().splitlines()
    return said[0] if said else f"git ended with status {done.returncode}"
