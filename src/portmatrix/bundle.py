"""What an export produces: the bundle's manifest, its content digest, and how a bundle travels as an archive."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import Field

from portmatrix.errors import StoreError
from portmatrix.types import Batch, Frozen, PathKind, Precision, TensorSpec

MANIFEST = "manifest.json"
#: No member of an archive may be larger (bytes), nor may there be more members: a bundle is no place for a bomb.
MEMBER_BYTES = 4 << 30
MEMBERS = 10_000
#: No part of a member's path may be longer (characters): what every file system takes.
NAME_LENGTH = 120


class SampleSet(Frozen):
    """Reference inputs and the framework's own outputs for one batch size.

    Every file holds one tensor, stacked: ``calls`` x ``batch`` x the tensor's own axes.
    """

    batch: int = Field(ge=1)
    calls: int = Field(ge=1)
    inputs: dict[str, str]
    outputs: dict[str, str]


class HeldOut(Frozen):
    """All rows of the data set that nothing was trained on, and their labels, by which integer artifacts are judged.

    Each file of ``inputs`` holds one tensor, stacked as those of a sample set are; ``labels`` those of all rows.
    """

    batch: int = Field(ge=1)
    calls: int = Field(ge=1)
    inputs: dict[str, str]
    labels: str


class Signature(Frozen):
    """The reference names, dtypes and shapes of inputs and outputs, in order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class Provenance(Frozen):
    """Where an archived bundle comes from; None in a bundle that this machine made.

    ``trained_with`` names what trained it, with versions; ``recipe`` is the digest of what it was made from, the
    environment left out (``Recipe.digest("")``): it says whether the exporter has changed since.
    """

    trained_with: str
    date: str
    recipe: str


class Manifest(Frozen):
    """Everything about a bundle but its bytes. ``files`` maps each file below the bundle to its SHA-256.

    ``held_out`` is there where the artifact is judged by its accuracy.
    """

    schema_version: Literal[1] = 1
    framework: str
    model: str
    path: str
    kind: PathKind
    format: str
    batch: Batch
    entry: str
    signature: Signature
    sets: tuple[SampleSet, ...]
    files: dict[str, str]
    seed: int
    accuracy: float | None
    recipe: str
    trained_on: str
    environment: dict[str, str]
    facts: dict[str, str | int | float | bool]
    seconds: dict[str, float]
    provenance: Provenance | None = None
    precision: Precision = Precision.FP32
    held_out: HeldOut | None = None

    @property
    def tried(self) -> tuple[SampleSet, ...]:
        """The sets that the artifact is run on: all, or of a fixed batch those of the batch that it was exported at.

        A path of fixed batch has others where a converter makes a symbolic one of it, for which they are kept.
        """
        if self.batch is Batch.DYNAMIC:
            return self.sets
        return tuple(item for item in self.sets if item.batch == self.sets[0].batch)

    @property
    def digest(self) -> str:
        """The content digest: SHA-256 of what the bundle *is* (not of when, how fast or from which recipe)."""
        content = self.model_dump(mode="json", exclude={"seconds", "recipe"})
        # What bundles of single precision lack says nothing of them: digests are older than these fields.
        if self.precision is Precision.FP32:
            del content["precision"]
        if self.held_out is None:
            del content["held_out"]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def file_digests(folder: Path) -> dict[str, str]:
    """Return ``{path below folder: SHA-256}`` of every file but the manifest; raises ``StoreError`` for a link."""
    found: dict[str, str] = {}
    for name, entry in sorted(_entries(folder, "")):
        if entry.is_symlink():
            raise StoreError(f"{name} is a link; a bundle holds plain files only")
        if entry.is_file() and name != MANIFEST:
            with open(entry.path, "rb") as stream:  # noqa: PTH123 - this is most of what a run with little to do does
                found[name] = hashlib.sha256(stream.read()).hexdigest()
    return found


def _entries(folder: str | Path, prefix: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield everything below ``folder`` with its path, parts separated by ``/``; links are not followed."""
    with os.scandir(folder) as entries:
        for entry in entries:
            yield prefix + entry.name, entry
            if entry.is_dir(follow_symlinks=False):
                yield from _entries(entry.path, f"{prefix}{entry.name}/")


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of the bundle in ``folder``; raises ``StoreError`` if it is missing or malformed."""
    try:
        return Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise StoreError(f"{folder.name} is no usable bundle: {MANIFEST}: {reason}") from error


def verify(folder: Path, digest: str) -> Manifest:
    """Return the manifest of the bundle in ``folder`` after checking every byte of it against ``digest``.

    Raises ``StoreError`` naming the first file that is missing, added or changed.
    """
    manifest = read_manifest(folder)
    if manifest.digest != digest:
        raise StoreError(f"bundle {digest[:12]}: {MANIFEST} has been changed; delete {folder.name} to make it again")
    found = file_digests(folder)
    for name in sorted({*found, *manifest.files}):
        if found.get(name) != manifest.files.get(name):
            state = "missing" if name not in found else "unknown" if name not in manifest.files else "changed"
            raise StoreError(f"bundle {digest[:12]}: {name} is {state}; it will be made again")
    _names_are_held(manifest, digest)
    return manifest


def _names_are_held(manifest: Manifest, digest: str) -> None:
    """Raise ``StoreError`` where the manifest sends a reader to a file that is not the bundle's own."""
    samples = [file for item in manifest.sets for file in (*item.inputs.values(), *item.outputs.values())]
    if manifest.held_out is not None:
        samples += [*manifest.held_out.inputs.values(), manifest.held_out.labels]
    strange = [name for name in samples if name not in manifest.files]
    entry = f"artifact/{manifest.entry}"
    if not any(name == entry or name.startswith(f"{entry}/") for name in manifest.files):
        strange.append(entry)
    if strange:
        raise StoreError(f"bundle {digest[:12]}: {MANIFEST} names {strange[0]!r}, which the bundle does not hold")


def pack(folder: Path, archive: Path) -> None:
    """Write the bundle in ``folder`` to the tar file ``archive``, with no owner, no time and a fixed order."""
    with tarfile.open(archive, "w") as tar:
        for file in sorted(item for item in folder.rglob("*") if item.is_file()):
            entry = tarfile.TarInfo(file.relative_to(folder).as_posix())
            entry.size = file.stat().st_size
            entry.mode = 0o644
            with file.open("rb") as stream:
                tar.addfile(entry, stream)


def unpack(archive: Path, folder: Path) -> Manifest:
    """Unpack a bundle archive into the empty ``folder`` and return its manifest, verified against its own bytes.

    Raises ``StoreError`` before anything is written if a member is no plain file, has an absolute name or one with
    ``..``, a drive letter or a backslash, appears twice, or is out of all proportion.
    """
    try:
        with tarfile.open(archive, "r:") as tar:
            members = tar.getmembers()
            _members_are_safe(archive.name, members)
            for member in members:
                stream = tar.extractfile(member)
                if stream is None:  # cannot happen for a plain file; the type says it could
                    raise StoreError(f"{archive.name}: {member.name} has no content")
                place = folder / member.name
                place.parent.mkdir(parents=True, exist_ok=True)
                with stream, place.open("xb") as out:
                    while chunk := stream.read(1 << 20):
                        out.write(chunk)
    except (tarfile.TarError, EOFError) as error:
        raise StoreError(f"{archive.name} is no bundle archive (an uncompressed tar file): {error}") from error
    manifest = read_manifest(folder)
    return verify(folder, manifest.digest)


def _members_are_safe(archive: str, members: list[tarfile.TarInfo]) -> None:
    if len(members) > MEMBERS:
        raise StoreError(f"{archive} has {len(members)} members; a bundle has at most {MEMBERS}")
    seen: set[PurePosixPath] = set()
    folders: set[PurePosixPath] = set()
    for member in members:
        _member_is_safe(archive, member)
        # On some systems upper and lower case are one; no bundle needs to tell them apart.
        path = PurePosixPath(member.name.casefold())
        folders.update(path.parents)
        if path in seen:
            raise StoreError(f"{archive}: {member.name!r} appears twice")
        seen.add(path)
    for path in seen & folders:
        raise StoreError(f"{archive}: {str(path)!r} is a file and a folder at once")


def _member_is_safe(archive: str, member: tarfile.TarInfo) -> None:
    name = member.name
    parts = PurePosixPath(name).parts
    if not member.isreg() or member.issparse():
        what = "a link, a folder, a device or sparse"
        raise StoreError(f"{archive}: {name!r} is {what}; a bundle holds plain files only")
    if name.startswith("/") or ".." in parts or any(sign in name for sign in "\\:\0") or not parts:
        raise StoreError(f"{archive}: {name!r} would be written outside the bundle")
    if max(map(len, parts)) > NAME_LENGTH:
        raise StoreError(f"{archive}: {name[:40]!r}... has a name of more than {NAME_LENGTH} characters")
    if member.size > MEMBER_BYTES:
        raise StoreError(f"{archive}: {name!r} is {member.size} bytes; at most {MEMBER_BYTES} are taken")
