"""Which files of a checkout differ from a revision, by git."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from portmatrix.errors import UserError

#: Seconds that git may take for one answer.
_SECONDS = 120


def repository_of(folder: Path) -> Path:
    """Return the root of the checkout that a folder is in; raises ``UserError`` where it is in none."""
    return Path(_git(folder, ["rev-parse", "--show-toplevel"], "this needs a checkout").rstrip("\n")).resolve()


def changed_since(repository: Path, revision: str) -> list[str]:
    """Return the files that differ from where this checkout parted from a revision, below its root, with ``/``.

    What is not committed counts, and so do new files that git does not ignore; of a file that was moved both names do.
    Raises ``UserError`` for a revision that git does not know.
    """
    why = f"--since {revision}"
    if revision.startswith("-"):
        raise UserError(f"{why}: expected a revision of git, such as main or HEAD^")
    parted = _git(repository, ["merge-base", revision, "HEAD"], why).strip()
    differing = _git(repository, ["diff", "--name-only", "--no-renames", "-z", parted, "--"], why)
    new = _git(repository, ["ls-files", "--others", "--exclude-standard", "-z"], why)
    return sorted({name for name in (differing + new).split("\0") if name})


def _git(folder: Path, arguments: Sequence[str], why: str) -> str:
    command = ["git", "-C", str(folder), *arguments]  # the user's own git, from the path like every other program
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"{why}: git cannot be asked: {error}") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise UserError(f"{why}: git says: {said[0] if said else f'status {done.returncode}'}")
    return done.stdout.decode(errors="surrogateescape")
