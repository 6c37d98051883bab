"""Records by name: files, runs in them, histories, git revisions, and what is none of these."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from portmatrix import sources
from portmatrix.errors import NothingSelected, RecordError, UserError
from portmatrix.history import adding
from portmatrix.history.place import Place
from portmatrix.records import Journal
from portmatrix.types import Outcome, Record


def record(model: str = "m", outcome: Outcome = Outcome.PASS, run: str = "one") -> Record:
    return Record(cell=f"f/{model}/p/r/t", outcome=outcome, run=run, started="2026-01-01T00:00:00Z", engine="0")


def write(file: Path, *records: Record) -> Path:
    with Journal(file, resume=False) as journal:
        for item in records:
            journal.add(item)
    return file


Git = Callable[..., None]


@pytest.fixture
def repository(tmp_path: Path) -> tuple[Path, Git]:
    """An empty repository that looks at no settings but its own, and git in it."""
    folder = tmp_path / "repository"
    folder.mkdir()

    def git(*arguments: str) -> None:
        own = ["-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false", "-c", "core.hooksPath="]
        subprocess.run(["git", "-C", str(folder), *own, *arguments], check=True, capture_output=True)

    git("init", "-b", "main")
    return folder, git


# --- Files ----------------------------------------------------------------------------------------------------------


def test_a_file_gives_its_records(tmp_path: Path) -> None:
    file = write(tmp_path / "a@b.jsonl", record(), record("n"))
    assert sources.load(str(file), tmp_path) == [record(), record("n")]


def test_a_glob_chooses_cells(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", record(), record("n"))
    assert sources.load(str(file), tmp_path, "f/n/*") == [record("n")]
    with pytest.raises(NothingSelected, match=r"a.jsonl has no record whose cell matches 'f/o/\*'"):
        sources.load(str(file), tmp_path, "f/o/*")


def test_a_file_without_records_selects_nothing(tmp_path: Path) -> None:
    with pytest.raises(NothingSelected, match=r"empty\.jsonl has no record"):
        sources.load(str(write(tmp_path / "empty.jsonl")), tmp_path)


def test_one_run_of_a_file(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", record(run="one"), record(outcome=Outcome.FAIL, run="two"))
    assert sources.load(f"{file}@two", tmp_path) == [record(outcome=Outcome.FAIL, run="two")]
    with pytest.raises(UserError, match=r"a.jsonl has no run 'too'; expected one of one, two \(did you mean 'two'\?\)"):
        sources.load(f"{file}@too", tmp_path)


# --- Histories ------------------------------------------------------------------------------------------------------


def add(place: str, tmp_path: Path, *records: Record) -> None:
    adding.add(Place(place), [write(tmp_path / "added.jsonl", *records)])


def test_a_folder_is_a_history(tmp_path: Path) -> None:
    folder = str(tmp_path / "history")
    add(folder, tmp_path, record(), record("n"))
    assert sources.load(folder, tmp_path) == [record(), record("n")]
    assert sources.load(folder, tmp_path, "f/n/*") == [record("n")]


@pytest.mark.parametrize("place", ["{folder}/history", "memory://sources{folder}"])
def test_one_run_of_a_history(place: str, tmp_path: Path) -> None:
    named = place.format(folder=tmp_path)
    add(named, tmp_path, record(run="one"), record("n", run="one"), record(outcome=Outcome.FAIL, run="two"))
    assert sources.load(f"{named}@two", tmp_path) == [record(outcome=Outcome.FAIL, run="two")]
    assert sources.load(f"{named}@one", tmp_path, "f/n/*") == [record("n", run="one")]
    assert len(sources.load(named, tmp_path)) == 3
    with pytest.raises(UserError, match=r"has no run 'too'; its last ones are one, two \(did you mean 'two'"):
        sources.load(f"{named}@too", tmp_path)
    with pytest.raises(NothingSelected, match="no record of the run two among those selected"):
        sources.load(f"{named}@two", tmp_path, "f/n/*")


@pytest.mark.parametrize("place", ["{folder}/a@b", "memory://sources{folder}/a@b", "memory://name@host{folder}/c"])
def test_a_place_whose_name_has_an_at_is_that_place(place: str, tmp_path: Path) -> None:
    named = place.format(folder=tmp_path)
    add(named, tmp_path, record(run="one"), record("n", run="two"))
    assert len(sources.load(named, tmp_path)) == 2
    assert sources.load(f"{named}@two", tmp_path) == [record("n", run="two")]


@pytest.mark.parametrize("place", ["{folder}", "memory://sources{folder}"])
def test_where_there_is_no_history_there_is_no_run_of_it(place: str, tmp_path: Path) -> None:
    named = place.format(folder=tmp_path / "empty")
    (tmp_path / "empty").mkdir()
    with pytest.raises(NothingSelected, match="there is no history in"):
        sources.load(f"{named}@one", tmp_path)


# --- Revisions ------------------------------------------------------------------------------------------------------


def test_a_revision_gives_what_was_committed(repository: tuple[Path, Git], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, git = repository
    reference = folder / sources.REFERENCE
    for outcome in (Outcome.PASS, Outcome.FAIL):
        write(reference, record(outcome=outcome))
        write(folder / "other.jsonl", record("n", outcome))
        git("add", sources.REFERENCE, "other.jsonl")
        git("commit", "-m", outcome.value)
    git("tag", "v1", "HEAD~1")
    write(reference, record(outcome=Outcome.ERROR))
    assert sources.load("HEAD", folder) == [record(outcome=Outcome.FAIL)]
    assert sources.load("v1", folder) == [record()]
    (folder / "main").mkdir()
    monkeypatch.chdir(folder)
    assert sources.load("main@{1}", folder) == [record()]
    assert sources.load("main~1:other.jsonl", folder) == [record("n")]


def test_a_suite_deep_in_a_repository_has_its_own_reference(repository: tuple[Path, Git]) -> None:
    folder, git = repository
    suite = folder / "deep" / "suite"
    write(suite / sources.REFERENCE, record())
    git("add", "deep")
    git("commit", "-m", "deep")
    assert sources.load("HEAD", suite) == [record()]
    assert sources.load(f"HEAD:deep/suite/{sources.REFERENCE}", suite) == [record()]


def test_what_is_wrong_with_a_revision_is_said(repository: tuple[Path, Git]) -> None:
    folder, git = repository
    (folder / "results").mkdir()
    (folder / sources.REFERENCE).write_text("{}\n")
    git("add", sources.REFERENCE)
    git("commit", "-m", "no records")
    with pytest.raises(RecordError, match=r"^HEAD:results/reference.jsonl, line 1: schema version None"):
        sources.load("HEAD", folder)
    with pytest.raises(
        UserError, match=r"HEAD:nowhere\.jsonl: .*'nowhere.jsonl' does not exist in 'HEAD'; name the rec"
    ):
        sources.load("HEAD:nowhere.jsonl", folder)


@pytest.mark.parametrize("name", ["results.jsonl", "no-such-branch", "--help", "--output=stolen", ":x", "missing@run"])
def test_what_is_nothing_of_all_that_is_a_mistake(name: str, repository: tuple[Path, Git], tmp_path: Path) -> None:
    folder, git = repository
    git("commit", "--allow-empty", "-m", "empty")
    for place in (folder, tmp_path):
        with pytest.raises(UserError, match=r"expected a records file, a history, one run of either .*, or a git rev"):
            sources.load(name, place)
    assert not list(folder.glob("stolen"))


def test_without_git_a_file_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"git cannot be asked for records: .*; name a records file instead"):
        sources.load("HEAD", tmp_path)
