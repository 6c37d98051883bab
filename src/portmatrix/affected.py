"""Which cells a change of files can affect: from the names of files to globs over cells, nothing else.

What a file of the suite is for is told by the caller. A file that nobody knows may matter to everything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

#: Globs for every cell there is, and for none.
EVERYTHING = ("*",)
NOTHING: tuple[str, ...] = ()
#: Globs over names of files that no cell rests on: what is read, what is tested, what came out before.
_HARMLESS = (
    *("*.md", "docs/*", "LICENSE*", "CITATION.cff", ".gitignore"),
    *("tests/*", "benchmarks/*", "results/*", "schemas/*"),
    *(".github/*", ".ci/*", "action.yml", "tox.ini", "toxfile.py"),
)
#: Among these, what does matter: it says how every cell is run.
_WORKFLOW = ".github/workflows/matrix.yml"


class Uses(NamedTuple):
    """What rests on which file of a suite; files are named by their paths below the repository, with ``/``.

    ``files`` maps a file to the globs over the cells that rest on it. ``folder`` is the suite's own, empty where that
    is the repository's root, and ``archive`` that of archived bundles; ``derived`` maps a framework and a path to the
    paths that are converted from it. Files below ``elsewhere``, the folders of other suites, matter to none of ours.
    """

    files: Mapping[str, Sequence[str]]
    folder: str = ""
    archive: str = "archive"
    derived: Mapping[tuple[str, str], Sequence[str]] = {}
    elsewhere: frozenset[str] = frozenset()


def affected(changed: Iterable[str], uses: Uses) -> dict[str, tuple[str, ...]]:
    """Return for each changed file globs over the cells that it can affect: ``EVERYTHING``, ``NOTHING``, or some."""
    return {file: _globs(file, uses) for file in changed}


def globs_of(found: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Return the globs over all cells that any of the files can affect."""
    globs = dict.fromkeys(glob for some in found.values() for glob in some)
    return EVERYTHING if EVERYTHING[0] in globs else tuple(globs)


def _globs(file: str, uses: Uses) -> tuple[str, ...]:
    known = uses.files.get(file)
    if known is not None:
        return tuple(known)
    if file.startswith(f"{uses.archive}/"):
        return _archived(file.removeprefix(f"{uses.archive}/"), uses)
    if file == _WORKFLOW:
        return EVERYTHING
    if any(file.startswith(f"{folder}/") for folder in uses.elsewhere):
        return NOTHING
    # Of a suite that lies in tests/ or docs/ not every file is harmless.
    name = file.removeprefix(f"{uses.folder}/") if uses.folder else file
    return NOTHING if any(fnmatchcase(name, glob) for glob in _HARMLESS) else EVERYTHING


def _archived(inside: str, uses: Uses) -> tuple[str, ...]:
    """Return the globs over what rests on a file of the archive, ``FRAMEWORK/MODEL/PATH/...``."""
    parts = inside.split("/")
    if len(parts) < 4:
        return EVERYTHING
    framework, model, path = parts[:3]
    paths = (path, *uses.derived.get((framework, path), ()))
    return tuple(f"{framework}/{model}/{name}/*/*" for name in paths)
