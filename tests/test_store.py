"""The store: in one step or not at all, swept after engines that were killed, and shared by as many as like."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_bundle import FILES, manifest_of

from portmatrix.bundle import pack
from portmatrix.errors import DiskFull, StoreError
from portmatrix.store import Store, bytes_below, default_root, digest_of, disk_errors, write_whole


@pytest.fixture
def empty_store(tmp_path: Path) -> Store:
    """A store without any environment."""
    return Store(tmp_path / "store")


def made_bundle(store: Store) -> str:
    """Put a bundle into the store, as an export would, and return its digest."""
    with store.scratch("export") as scratch:
        for name, content in FILES.items():
            (scratch / "bundle" / name).parent.mkdir(parents=True, exist_ok=True)
            (scratch / "bundle" / name).write_bytes(content)
        return store.put_bundle(scratch / "bundle", manifest_of(files={}))[0]


def test_a_bundle_is_found_by_its_content(empty_store: Store) -> None:
    digest = made_bundle(empty_store)
    assert digest == manifest_of().digest
    assert empty_store.get_bundle(digest) == manifest_of()


def test_a_bundle_that_is_there_is_left_as_it_is(empty_store: Store) -> None:
    folder = empty_store.bundle_folder(made_bundle(empty_store))
    before = folder.stat().st_ino
    made_bundle(empty_store)
    assert folder.stat().st_ino == before


def test_a_damaged_bundle_is_replaced(empty_store: Store) -> None:
    digest = made_bundle(empty_store)
    (empty_store.bundle_folder(digest) / "artifact" / "model.bin").write_bytes(b"weighty")
    with pytest.raises(StoreError, match="is changed; it will be made again"):
        empty_store.get_bundle(digest)
    assert made_bundle(empty_store) == digest
    assert empty_store.get_bundle(digest) == manifest_of()


def test_a_bundle_travels_from_store_to_store(empty_store: Store, tmp_path: Path) -> None:
    digest = made_bundle(empty_store)
    pack(empty_store.bundle_folder(digest), tmp_path / "bundle.tar")
    other = Store(tmp_path / "other")
    assert other.add_archive(tmp_path / "bundle.tar")[0] == digest
    assert other.get_bundle(digest) == manifest_of()
    assert not list((other.root / "tmp").iterdir())


def test_a_refused_archive_leaves_nothing(empty_store: Store, tmp_path: Path) -> None:
    (tmp_path / "no.tar").write_bytes(b"no tar")
    with pytest.raises(StoreError):
        empty_store.add_archive(tmp_path / "no.tar")
    assert not [file for file in empty_store.root.rglob("*") if file.is_file()]


def test_documents_are_kept_by_key(empty_store: Store) -> None:
    assert empty_store.get("cells", "ab12") is None
    empty_store.put("cells", "ab12", {"a": 1})
    empty_store.put("cells", "ab12", {"a": 2})
    assert empty_store.get("cells", "ab12") == {"a": 2}
    assert Store(empty_store.root).get("cells", "ab12") == {"a": 2}


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"null"])
def test_a_damaged_document_is_as_good_as_none(content: bytes, empty_store: Store) -> None:
    empty_store.put("cells", "ab12", {"a": 1})
    next((empty_store.root / "cells").rglob("*.json")).write_bytes(content)
    assert empty_store.get("cells", "ab12") is None


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    place = tmp_path / "file"
    write_whole(place, "old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(place, "new \ud800")
    assert place.read_text() == "old"
    assert list(tmp_path.iterdir()) == [place]


def test_a_digest_minds_no_order_of_keys_but_every_value() -> None:
    assert digest_of({"a": 1, "b": [1, 2]}) == digest_of({"b": [1, 2], "a": 1})
    assert digest_of({"a": 1, "b": [1, 2]}) != digest_of({"a": 1, "b": [2, 1]})


def test_scratch_is_gone_afterwards(empty_store: Store) -> None:
    with empty_store.scratch("one") as folder:
        (folder / "file").touch()
    assert not folder.exists()


def test_scratch_of_a_dead_engine_is_swept_and_that_of_a_living_one_kept(empty_store: Store) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    dead = empty_store.root / "tmp" / f"{child.pid}-export-abc"
    living = empty_store.root / "tmp" / f"{os.getpid()}-export-abc"
    strange = empty_store.root / "tmp" / "notes"
    for folder in (dead, living, strange):
        folder.mkdir()
    Store(empty_store.root)
    assert not dead.exists()
    assert living.is_dir()
    assert strange.is_dir()


def test_a_lock_holds_across_processes(empty_store: Store) -> None:
    program = (
        "import sys; from pathlib import Path; from filelock import Timeout; from portmatrix.store import Store\n"
        "try:\n    Store(Path(sys.argv[1])).lock('env-x').acquire(timeout=0)\n"
        "except Timeout:\n    print('taken')\nelse:\n    print('free')"
    )

    def ask() -> str:
        command = [sys.executable, "-c", program, str(empty_store.root)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    with empty_store.lock("env-x"):
        assert ask() == "taken"
    assert ask() == "free"


def test_only_a_full_disk_is_called_full() -> None:
    with pytest.raises(DiskFull, match="the disk is full: the file could not be written"), disk_errors("the file"):
        raise OSError(28, "No space left on device")
    with pytest.raises(PermissionError), disk_errors("the file"):
        raise PermissionError(13, "Permission denied")


def test_the_store_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PORTMATRIX_STORE", str(tmp_path))
    assert default_root() == tmp_path
    monkeypatch.delenv("PORTMATRIX_STORE")
    assert default_root() != tmp_path


def test_a_store_in_a_relative_folder_stays_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store(Path("here"))
    monkeypatch.chdir("/")
    store.put("cells", "ab12", {"a": 1})
    (document,) = (tmp_path / "here" / "cells").rglob("*.json")
    assert json.loads(document.read_text()) == {"a": 1}


def test_the_bytes_below_a_folder_are_those_of_its_files_alone(tmp_path: Path) -> None:
    inside = tmp_path / "folder" / "deep"
    inside.mkdir(parents=True)
    (inside / "file").write_bytes(b"12345")
    (tmp_path / "folder" / ".hidden").write_bytes(b"12")
    (tmp_path / "elsewhere").write_bytes(b"123456789")
    (inside / "link").symlink_to(tmp_path / "elsewhere")
    (inside / "dangling").symlink_to(tmp_path / "nowhere")
    assert bytes_below(tmp_path / "folder") == 7


def test_making_a_store_takes_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises((FileExistsError, NotADirectoryError)):
        Store(tmp_path / "file")
