"""Adding to the history: every record once, whatever is added again, in few files, whole whenever it is interrupted."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from made_history import CELL, OTHER, latency, record, write

from portmatrix import history, migrations
from portmatrix.errors import NothingSelected, RecordError, UserError
from portmatrix.history import adding
from portmatrix.history.adding import FILES_OF_LAST_DAY, Added, add
from portmatrix.history.place import Place, table
from portmatrix.history.queries import records
from portmatrix.types import Outcome, Record

MANY = [
    record(
        day + number / 100, cell, list(Outcome)[number % 8], latency=latency(1.0 + number / 10) if number % 2 else None
    )
    for day in range(4)
    for number in range(6)
    for cell in (CELL, OTHER)
]


@pytest.fixture(params=["folder", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A history in a folder, and one behind a URL; what is behind it is forgotten with the process."""
    return Place(str(tmp_path / "a 'history'") if request.param == "folder" else f"memory://{tmp_path}/history")


def by_start(found: list[Record]) -> list[Record]:
    return sorted(found, key=lambda item: (item.cell, item.started))


def test_what_was_added_is_read_back(place: Place, tmp_path: Path) -> None:
    assert add(place, [write(tmp_path / "a.jsonl", MANY)]) == Added(len(MANY), len(MANY), 4)
    assert list(records(place)) == by_start(MANY)


def test_adding_the_same_again_changes_nothing(place: Place, tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", MANY)
    add(place, [file])
    before = place.parts()
    # In another order, some of them twice, and by an engine that writes what is at its default, too.
    again = random.Random(1).choices(MANY, k=len(MANY)) + MANY
    other = tmp_path / "b.jsonl"
    other.write_text("".join(item.model_dump_json() + "\n" for item in again))
    assert add(place, [file, other]) == Added(3 * len(MANY), 0, 4)
    assert place.parts() == before
    assert len(list(records(place))) == len(MANY)


def test_of_what_is_added_only_the_new_is_written(place: Place, tmp_path: Path) -> None:
    add(place, [write(tmp_path / "a.jsonl", MANY[:30])])
    assert add(place, [write(tmp_path / "b.jsonl", MANY[10:])]) == Added(len(MANY) - 10, len(MANY) - 30, 4)
    assert list(records(place)) == by_start(MANY)


def test_days_that_are_over_have_one_file_and_the_last_one_few(place: Place, tmp_path: Path) -> None:
    for number in range(2 * FILES_OF_LAST_DAY):
        add(place, [write(tmp_path / "a.jsonl", [record(day + number / 100) for day in range(3)])])
        days = [part.day for part in place.parts()]
        assert days.count("2026-01-01") == days.count("2026-01-02") == 1
        assert days.count("2026-01-03") <= FILES_OF_LAST_DAY
    assert len(list(records(place))) == 3 * 2 * FILES_OF_LAST_DAY


def test_a_file_is_sorted_by_cell(place: Place, tmp_path: Path) -> None:
    add(place, [write(tmp_path / "a.jsonl", MANY[:40])])
    add(place, [write(tmp_path / "b.jsonl", MANY[40:])])
    with place.connected() as connection:
        for part in place.parts():
            found = connection.execute(f"SELECT cell, started FROM {table([part])}").fetchall()
            assert found == sorted(found)


@pytest.mark.parametrize("step", ["put", "remove"])
def test_an_interrupted_writer_loses_and_doubles_nothing(
    step: str, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(place, [write(tmp_path / "a.jsonl", MANY[:30])])
    with monkeypatch.context() as patch:
        patch.setattr(adding, "_compact", lambda *_arguments: None)
        add(place, [write(tmp_path / "b.jsonl", MANY[30:])])
    with monkeypatch.context() as patch:
        patch.setattr(place, step, interrupted)
        with pytest.raises(KeyboardInterrupt):
            adding_of_nothing_new(place, tmp_path)
    assert list(records(place)) == by_start(MANY)
    adding_of_nothing_new(place, tmp_path)
    assert list(records(place)) == by_start(MANY)
    assert place.stale({part.day for part in place.parts()}) == []


def interrupted(*arguments: object) -> None:
    """Be interrupted at the first thing to do: removing no files is none."""
    if arguments != ([],):
        raise KeyboardInterrupt


def adding_of_nothing_new(place: Place, folder: Path) -> None:
    assert add(place, [write(folder / "c.jsonl", MANY)]).new == 0


def test_records_of_an_older_schema_are_taken_in(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = {"schema_version": 0, "cell": CELL, "result": "FAIL", "started": "2020-02-29T00:00:00Z", "engine": "0"}
    file = tmp_path / "old.jsonl"
    file.write_text(json.dumps(old) + "\n")
    with pytest.raises(RecordError, match="schema version 0 is not known"):
        add(place, [file])
    monkeypatch.setitem(
        migrations.MIGRATIONS, 0, lambda fields: {"outcome": fields.pop("result"), "run": "old", **fields}
    )
    add(place, [file])
    (found,) = records(place)
    assert (found.outcome, found.started, found.schema_version) == (Outcome.FAIL, "2020-02-29T00:00:00Z", 1)


@pytest.mark.parametrize("line", ["{}", "no json", '{"schema_version": 99}', "[1]"])
def test_a_file_with_something_else_in_it_adds_nothing(line: str, place: Place, tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", MANY)
    with file.open("a") as stream:
        stream.write("\n" + line + "\n")
    with pytest.raises(RecordError, match=rf"a\.jsonl, line {len(MANY) + 2}: "):
        add(place, [file])
    with pytest.raises(NothingSelected):
        list(records(place))


def test_a_missing_file_is_named(place: Place, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="expected a file of records"):
        add(place, [tmp_path / "none.jsonl"])


def test_a_folder_has_one_writer(tmp_path: Path) -> None:
    place = Place(str(tmp_path / "history"))
    with place.writing(), pytest.raises(UserError, match="is being written by another process"):
        add(place, [write(tmp_path / "a.jsonl", MANY)])


def test_others_find_the_records_of_a_history_by_its_name(place: Place, tmp_path: Path) -> None:
    add(place, [write(tmp_path / "a.jsonl", MANY)])
    assert list(history.records(place.named)) == by_start(MANY)
    assert {item.cell for item in history.records(place.named, "*/lstm/*")} == {OTHER}
