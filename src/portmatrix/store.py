"""The store: bundles by content, recipes and cells by what they were made from, environments, and scratch folders.

Everything is written beside its place and moved there in one step, so that two engines and a killed one leave nothing
half-made. Layout below the root: ``bundles/``, ``recipes/``, ``cells/``, ``envs/``, ``locks/``, ``tmp/``.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock
from platformdirs import user_cache_path

from portmatrix.bundle import MANIFEST, Manifest, file_digests, unpack, verify
from portmatrix.errors import DiskFull, StoreError

#: Changes when what is stored changes its meaning; an older store's entries are then simply not found.
LAYOUT = 1
#: The file in an environment's folder that says what is in it, and that it is whole.
DESCRIPTION = "environment.json"
_FULL = (errno.ENOSPC, errno.EDQUOT)


def default_root() -> Path:
    """Return the store of this user: ``$PORTMATRIX_STORE``, else the platform's cache folder."""
    named = os.environ.get("PORTMATRIX_STORE")
    return Path(named) if named else user_cache_path("portmatrix", appauthor=False)


def digest_of(value: Any) -> str:
    """Return the SHA-256 of ``value`` as canonical JSON: the key of everything that is made from something."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


@contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Turn "no space left" into ``DiskFull`` that says what was being written; other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFull(f"the disk is full: {what} could not be written; free some space, or use --store") from error
        raise


def bytes_below(folder: Path) -> int:
    """Return the bytes of all files below a folder; links count for nothing, what they lead to lies elsewhere."""
    return sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())


class Store:
    """One folder on this machine; any number of engines may use it at once."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        with disk_errors(str(root)):
            for name in ("bundles", "recipes", "cells", "envs", "locks", "tmp"):
                (self.root / name).mkdir(parents=True, exist_ok=True)
        self._clean_scratch()

    def lock(self, name: str) -> FileLock:
        """Return the lock of that name, held across processes as a context manager."""
        return FileLock(self.root / "locks" / f"{name}.lock")

    # Scratch folders carry their engine's process id, so that the next engine can clean up after a killed one.

    @contextmanager
    def scratch(self, purpose: str) -> Iterator[Path]:
        """Yield an empty folder, removed afterwards."""
        with disk_errors("a scratch folder"):
            folder = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-{purpose}-", dir=self.root / "tmp"))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _clean_scratch(self) -> None:
        for folder in (self.root / "tmp").iterdir():
            owner = folder.name.split("-", 1)[0]
            if owner.isdigit() and not psutil.pid_exists(int(owner)):
                shutil.rmtree(folder, ignore_errors=True)

    # Environments

    def environment(self, key: str, make: Callable[[Path], None]) -> Path:
        """Return the folder of the environment called ``key``, which ``make`` makes if it is not there whole.

        ``make`` is given the folder to make, below a scratch folder of its own, and ends by writing ``DESCRIPTION``
        into it; the lock is held meanwhile, and the folder is moved to its place in one step.
        """
        folder = self.root / "envs" / key
        with self.lock(f"env-{key}"):
            if not (folder / DESCRIPTION).is_file():
                shutil.rmtree(folder, ignore_errors=True)
                with self.scratch("env") as scratch:
                    make(scratch / key)
                    (scratch / key).rename(folder)
        return folder

    # Bundles

    def bundle_folder(self, digest: str) -> Path:
        """Return where the bundle of that content digest is, or would be."""
        return self.root / "bundles" / digest[:2] / digest

    def put_bundle(self, folder: Path, manifest: Manifest) -> tuple[str, Manifest]:
        """Move the finished bundle in ``folder`` (below ``scratch``) into the store; returns digest and full manifest.

        ``manifest.files`` is filled in here. A bundle of the same content that is already there is left as it is.
        """
        manifest = manifest.model_copy(update={"files": file_digests(folder)})
        with disk_errors("a bundle"):
            (folder / MANIFEST).write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
        digest = manifest.digest
        place = self.bundle_folder(digest)
        with self.lock(f"bundle-{digest[:16]}"), disk_errors("a bundle"):
            if place.exists():
                try:
                    verify(place, digest)
                except StoreError:
                    shutil.rmtree(place)
                else:
                    return digest, manifest
            place.parent.mkdir(parents=True, exist_ok=True)
            folder.rename(place)
        return digest, manifest

    def get_bundle(self, digest: str) -> Manifest:
        """Return the manifest of a stored bundle after verifying all its bytes; raises ``StoreError``."""
        return verify(self.bundle_folder(digest), digest)

    def add_archive(self, archive: Path) -> tuple[str, Manifest]:
        """Take the bundle in a tar file into the store; returns its digest and manifest, raises ``StoreError``."""
        with self.scratch("unpack") as folder:
            inside = folder / "bundle"
            inside.mkdir()
            with disk_errors(f"the bundle in {archive.name}"):
                manifest = unpack(archive, inside)
            return self.put_bundle(inside, manifest)

    # Recipes and cells: small JSON documents by key

    def has(self, kind: str, key: str) -> bool:
        """Return whether there is a document under ``key``; whether it can be read is for ``get`` to say."""
        return self._document(kind, key).is_file()

    def get(self, kind: str, key: str) -> dict[str, Any] | None:
        """Return the document stored under ``key``, or None if there is none or it cannot be read."""
        try:
            value = json.loads(self._document(kind, key).read_bytes())
        except (OSError, ValueError):
            return None
        return value if isinstance(value, dict) else None

    def put(self, kind: str, key: str, value: Mapping[str, Any]) -> None:
        """Store a document under ``key`` in one step; raises ``DiskFull``."""
        place = self._document(kind, key)
        with disk_errors(f"a document of {kind}"):
            place.parent.mkdir(parents=True, exist_ok=True)
            write_whole(place, json.dumps(value))

    def _document(self, kind: str, key: str) -> Path:
        return self.root / kind / key[:2] / f"{key}.json"


def write_whole(place: Path, text: str) -> None:
    """Write a text file beside its place and move it there in one step; raises ``DiskFull``."""
    with disk_errors(place.name):
        handle, name = tempfile.mkstemp(prefix=f".{place.name}.", dir=place.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as stream:
                stream.write(text)
            Path(name).chmod(0o644)
            Path(name).replace(place)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
