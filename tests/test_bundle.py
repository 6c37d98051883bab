"""Bundles on their travels: what an archive holds is what was packed, and no archive writes outside its folder."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portmatrix import bundle
from portmatrix.bundle import MANIFEST, Manifest, SampleSet, Signature, file_digests, pack, unpack, verify
from portmatrix.errors import StoreError
from portmatrix.types import Batch, PathKind

FILES = {"artifact/model.bin": b"weights", "samples/b1.in0.npy": b"inputs", "samples/b1.out0.npy": b"outputs"}


def manifest_of(**changes: Any) -> Manifest:
    values: dict[str, Any] = {
        "framework": "f",
        "model": "m",
        "path": "p",
        "kind": PathKind.NATIVE,
        "format": "bin",
        "batch": Batch.STATIC,
        "entry": "model.bin",
        "signature": Signature(inputs=(), outputs=()),
        "sets": (
            SampleSet(batch=1, calls=1, inputs={"x": "samples/b1.in0.npy"}, outputs={"y": "samples/b1.out0.npy"}),
        ),
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()},
        "seed": 1,
        "accuracy": 0.5,
        "recipe": "r",
        "trained_on": "here",
        "environment": {},
        "facts": {},
        "seconds": {"TRAIN": 1.0},
    }
    return Manifest(**{**values, **changes})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole bundle."""
    place = tmp_path / "bundle"
    for name, content in {**FILES, MANIFEST: manifest_of().model_dump_json().encode()}.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)
    return place


@pytest.fixture
def archive(tmp_path: Path, folder: Path) -> Path:
    """A whole bundle, packed."""
    pack(folder, tmp_path / "bundle.tar")
    return tmp_path / "bundle.tar"


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    """The empty folder, alone in another, that an archive is unpacked into."""
    place = tmp_path / "outside" / "inside"
    place.mkdir(parents=True)
    return place


def test_a_bundle_comes_back_from_its_archive(folder: Path, archive: Path, inside: Path) -> None:
    assert unpack(archive, inside) == manifest_of()
    assert file_digests(inside) == file_digests(folder) == manifest_of().files


def test_the_same_bundle_makes_the_same_archive(folder: Path, archive: Path, tmp_path: Path) -> None:
    for file in folder.rglob("*"):
        file.touch()
    pack(folder, tmp_path / "again.tar")
    assert (tmp_path / "again.tar").read_bytes() == archive.read_bytes()


def test_the_digest_is_of_what_the_bundle_is(folder: Path) -> None:
    digest = manifest_of().digest
    assert verify(folder, digest) == manifest_of()
    assert manifest_of(seconds={"TRAIN": 2.0}, recipe="another").digest == digest
    assert manifest_of(seed=2).digest != digest


def flip_a_byte(folder: Path) -> None:
    (folder / "artifact" / "model.bin").write_bytes(b"weighty")


def lose_a_file(folder: Path) -> None:
    (folder / "samples" / "b1.in0.npy").unlink()


def add_a_file(folder: Path) -> None:
    (folder / "artifact" / "more.bin").touch()


def link_a_file(folder: Path) -> None:
    (folder / "artifact" / "model.bin").unlink()
    (folder / "artifact" / "model.bin").symlink_to("/etc/hostname")


def link_a_folder(folder: Path) -> None:
    (folder / "artifact" / "more").symlink_to("/etc")


def edit_the_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text(manifest_of(accuracy=0.99).model_dump_json())


def break_the_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text("{")


def lose_the_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (flip_a_byte, "artifact/model.bin is changed"),
        (lose_a_file, r"samples/b1.in0.npy is missing"),
        (add_a_file, r"artifact/more.bin is unknown"),
        (link_a_file, "is a link"),
        (link_a_folder, "is a link"),
        (edit_the_manifest, r"manifest.json has been changed"),
        (break_the_manifest, "is no usable bundle"),
        (lose_the_manifest, "is no usable bundle"),
    ],
)
def test_damage_is_found_and_named(damage: Callable[[Path], None], said: str, folder: Path) -> None:
    damage(folder)
    with pytest.raises(StoreError, match=said):
        verify(folder, manifest_of().digest)


# --- Archives that mean no good -------------------------------------------------------------------------------------


def member(name: str, content: bytes = b"", **attributes: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in attributes.items():
        setattr(info, key, value)
    return info, content


EVIL = {
    "upwards": [member("../evil", b"x")],
    "upwards from below": [member("artifact/../../evil", b"x")],
    "upwards in a pax header": [member("a" * 200, b"x", pax_headers={"path": "../evil"})],
    "absolute": [member("/tmp/portmatrix-evil", b"x")],
    "drive": [member("C:evil", b"x")],
    "backslash": [member("..\\evil", b"x")],
    "dot": [member(".", b"x")],
    "symbolic link": [member("artifact/link", type=tarfile.SYMTYPE, linkname="/etc/passwd")],
    "write through a link": [member("link", type=tarfile.SYMTYPE, linkname=".."), member("link/evil", b"x")],
    "hard link": [member("artifact/link", type=tarfile.LNKTYPE, linkname="/etc/passwd")],
    "character device": [member("artifact/device", type=tarfile.CHRTYPE, devmajor=1, devminor=3)],
    "block device": [member("artifact/device", type=tarfile.BLKTYPE)],
    "pipe": [member("artifact/pipe", type=tarfile.FIFOTYPE)],
    "folder": [member("artifact", type=tarfile.DIRTYPE)],
    "twice": [member("artifact/model.bin", b"x"), member("artifact/model.bin", b"y")],
    "file that is a folder": [member("artifact", b"x"), member("artifact/model.bin", b"y")],
    "folder that is a file": [member("artifact/model.bin", b"x"), member("artifact", b"y")],
    "twice but for its case": [member("artifact/model.bin", b"x"), member("artifact/MODEL.bin", b"y")],
    "endless name": [member("n" * 300, b"x")],
    "nothing": [],
}


@pytest.mark.parametrize("kind", EVIL)
def test_an_evil_archive_is_refused_and_writes_nothing_outside(kind: str, tmp_path: Path, inside: Path) -> None:
    archive = tmp_path / "evil.tar"
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
        for info, content in EVIL[kind]:
            tar.addfile(info, io.BytesIO(content))
    with pytest.raises(StoreError):
        unpack(archive, inside)
    assert list(inside.parent.iterdir()) == [inside]
    assert not Path("/tmp/portmatrix-evil").exists()


def test_a_refused_member_keeps_all_others_from_being_written(tmp_path: Path, inside: Path) -> None:
    archive = tmp_path / "evil.tar"
    with tarfile.open(archive, "w") as tar:
        for info, content in [member("artifact/model.bin", b"x"), member("../evil", b"x")]:
            tar.addfile(info, io.BytesIO(content))
    with pytest.raises(StoreError, match="would be written outside the bundle"):
        unpack(archive, inside)
    assert not list(inside.iterdir())


def test_a_sparse_member_is_refused(tmp_path: Path, inside: Path) -> None:
    headers = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.map": "0,1"}
    headers |= {"GNU.sparse.size": str(3 << 30), "GNU.sparse.name": "artifact/bomb"}
    archive = tmp_path / "bomb.tar"
    info, content = member("bomb", b"x", pax_headers=headers)
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(info, io.BytesIO(content))
    with pytest.raises(StoreError, match="sparse"):
        unpack(archive, inside)
    assert not list(inside.iterdir())


@pytest.mark.parametrize("limit", ["MEMBERS", "MEMBER_BYTES"])
def test_an_archive_out_of_proportion_is_refused(
    limit: str, archive: Path, inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, limit, 3)
    with pytest.raises(StoreError, match="at most 3"):
        unpack(archive, inside)
    assert not list(inside.iterdir())


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5, 0.9])
def test_a_truncated_archive_is_refused(share: float, archive: Path, inside: Path) -> None:
    whole = archive.read_bytes()
    last = whole.rstrip(b"\0")
    archive.write_bytes(last[: int(len(last) * share)])
    with pytest.raises(StoreError):
        unpack(archive, inside)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no tar", b"\x1f\x8b\x08 compressed", b"\0" * 1024])
def test_what_is_no_archive_is_refused(content: bytes, tmp_path: Path, inside: Path) -> None:
    archive = tmp_path / "no.tar"
    archive.write_bytes(content)
    with pytest.raises(StoreError):
        unpack(archive, inside)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), min_size=1, max_size=6))
def test_a_mutated_archive_is_refused_or_still_whole(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    base = tmp_path_factory.mktemp("mutated")
    inside = base / "outside" / "inside"
    inside.mkdir(parents=True)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in {**FILES, MANIFEST: manifest_of().model_dump_json().encode()}.items():
            tar.addfile(tarfile.TarInfo(name) if not content else member(name, content)[0], io.BytesIO(content))
    mutated = bytearray(buffer.getvalue())
    for place, value in changes:
        mutated[place % len(mutated)] = value
    (base / "mutated.tar").write_bytes(mutated)
    try:
        manifest = unpack(base / "mutated.tar", inside)
    except StoreError:
        pass
    else:
        assert verify(inside, manifest.digest) == manifest
    assert {file.relative_to(base).parts[0] for file in base.rglob("*")} == {"mutated.tar", "outside"}
    assert list(inside.parent.iterdir()) == [inside]


@pytest.mark.parametrize(
    "changes",
    [
        {"entry": "../../../etc/passwd"},
        {"entry": "/etc/passwd"},
        {"entry": "absent.bin"},
        {"sets": (SampleSet(batch=1, calls=1, inputs={"x": "/etc/passwd"}, outputs={}),)},
        {"sets": (SampleSet(batch=1, calls=1, inputs={}, outputs={"y": "../../other/samples/b1.out0.npy"}),)},
    ],
)
def test_a_manifest_names_only_what_its_bundle_holds(
    changes: dict[str, Any], folder: Path, tmp_path: Path, inside: Path
) -> None:
    (folder / MANIFEST).write_text(manifest_of(**changes).model_dump_json())
    pack(folder, tmp_path / "evil.tar")
    with pytest.raises(StoreError, match="names"):
        unpack(tmp_path / "evil.tar", inside)


def test_a_manifest_of_an_unknown_version_is_refused(folder: Path) -> None:
    text = json.loads(manifest_of().model_dump_json()) | {"schema_version": 2}
    (folder / MANIFEST).write_text(json.dumps(text))
    with pytest.raises(StoreError, match="is no usable bundle"):
        verify(folder, manifest_of().digest)
