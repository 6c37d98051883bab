"""Folders of generated files: written whole, tidied of what was generated before, and of nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from portmatrix.errors import UserError
from portmatrix.filesets import stale_files, write_set

MANIFEST = "manifest.json"


def files(*names: str, text: str = "é\n") -> dict[str, str]:
    return {**dict.fromkeys(names, text), MANIFEST: json.dumps({"files": sorted(names)})}


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def test_a_set_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "set"
    write_set(folder, files("a", "b"), MANIFEST)
    (folder / "theirs").write_text("kept")
    write_set(folder, files("b", "c"), MANIFEST)
    assert names(folder) == {"b", "c", "theirs", MANIFEST}
    assert (folder / "c").read_text(encoding="utf-8") == "é\n"


def test_a_file_that_is_as_it_should_be_is_not_written_again(tmp_path: Path) -> None:
    write_set(tmp_path, files("a", "b"), MANIFEST)
    before = {name: (tmp_path / name).stat().st_ino for name in ("a", "b", MANIFEST)}
    (tmp_path / "b").write_text("changed")
    write_set(tmp_path, files("a", "b"), MANIFEST)
    after = {name: (tmp_path / name).stat().st_ino for name in ("a", "b", MANIFEST)}
    assert {name for name in before if before[name] != after[name]} == {"b"}


def test_nothing_outside_of_the_folder_and_no_folder_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "file").touch()
    (tmp_path / "outside").touch()
    (folder / MANIFEST).write_text(
        json.dumps({"files": ["../outside", "sub/file", "sub", "..", ".", "", str(tmp_path)]})
    )
    write_set(folder, files("a"), MANIFEST)
    assert (tmp_path / "outside").exists()
    assert (folder / "sub" / "file").exists()


def test_what_is_stale_is_told_without_being_written(tmp_path: Path) -> None:
    wanted = files("b", "c", "d")
    write_set(tmp_path, files("a", "b", "c"), MANIFEST)
    (tmp_path / "c").write_text("changed")
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    assert [file.name for file in stale_files(tmp_path, wanted, MANIFEST)] == ["a", "c", "d", MANIFEST]
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before
    write_set(tmp_path, wanted, MANIFEST)
    assert stale_files(tmp_path, wanted, MANIFEST) == []


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"files": 1}', "\xff"])
def test_a_manifest_that_is_none_is_the_users_to_remove(text: str, tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"manifest\.json is no list of generated files .* name another folder"):
        write_set(tmp_path, files("a"), MANIFEST)
    assert names(tmp_path) == {MANIFEST}
