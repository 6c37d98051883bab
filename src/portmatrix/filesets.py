"""Folders of generated files: what is new is written, and what an earlier set had and this one has not is removed.

Only files that the folder's manifest names are ever removed: what somebody else put there stays.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from portmatrix.errors import UserError
from portmatrix.store import disk_errors, write_whole


def write_set(folder: Path, files: Mapping[str, str], manifest: str) -> None:
    """Make ``folder`` hold ``files`` (name → text), one of which is the ``manifest`` that lists them all.

    Raises ``UserError`` where the folder has a manifest that is none, ``DiskFull`` where a file cannot be written.
    """
    former = list(_listed(folder / manifest))
    with disk_errors(str(folder)):
        folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        if name != manifest and not _holds(folder / name, text):
            write_whole(folder / name, text)
    for name in former:
        if name not in files and (folder / name).is_file():
            (folder / name).unlink()
    # Last: whoever is interrupted before leaves the old list, by which the next one removes what is to be removed.
    if not _holds(folder / manifest, files[manifest]):
        write_whole(folder / manifest, files[manifest])


def stale_files(folder: Path, files: Mapping[str, str], manifest: str) -> list[Path]:
    """Return the files that ``write_set`` would write or remove, in the order of their names; writes nothing."""
    changed = {name for name, text in files.items() if not _holds(folder / name, text)}
    left = {name for name in _listed(folder / manifest) if name not in files and (folder / name).is_file()}
    return [folder / name for name in sorted(changed | left)]


def _listed(manifest: Path) -> Iterator[str]:
    """Yield the names of an earlier set, without those that lead out of the folder: they were never written here."""
    try:
        listed = json.loads(manifest.read_bytes())["files"]
        names = [str(name) for name in listed]
    except FileNotFoundError:
        return
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{manifest} is no list of generated files ({type(error).__name__}); expected one that this program wrote: "
            "name another folder, or remove that file if the folder holds nothing else"
        ) from error
    yield from (name for name in names if Path(name).name == name)


def _holds(file: Path, text: str) -> bool:
    try:
        return file.read_text(encoding="utf-8") == text
    except (OSError, UnicodeError):
        return False
