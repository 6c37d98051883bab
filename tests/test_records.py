"""Records on disk: whole lines whatever happened, one writer, and merged alike in every order."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portmatrix.errors import RecordError, UserError
from portmatrix.migrations import MIGRATIONS
from portmatrix.records import Journal, ResultSet, merge, not_run, read, write_merged
from portmatrix.types import Outcome, Record

CELLS = [f"f/m/p/r/t{number}" for number in range(4)]


def record(cell: str = CELLS[0], outcome: Outcome = Outcome.PASS, started: str = "2026-01-01T00:00:00.000Z") -> Record:
    return Record(cell=cell, outcome=outcome, run="r", started=started, engine="0", reason="é\u2028\n\x00")


some_records = st.builds(
    record,
    st.sampled_from(CELLS),
    st.sampled_from(Outcome),
    st.integers(1, 3).map(lambda day: f"2026-01-0{day}T00:00:00.000Z"),
)


def write(file: Path, records: list[Record]) -> Path:
    with Journal(file, resume=False) as journal:
        for item in records:
            journal.add(item)
    return file


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    file = write(tmp_path / "new" / "records.jsonl", [record(), record(CELLS[1], Outcome.FAIL)])
    assert list(read(file)) == [record(), record(CELLS[1], Outcome.FAIL)]


def test_every_line_is_on_its_way_before_add_returns(tmp_path: Path) -> None:
    file = tmp_path / "records.jsonl"
    with Journal(file, resume=False) as journal:
        for count in range(1, 4):
            journal.add(record(CELLS[count]))
            assert len(file.read_bytes().splitlines()) == count
            assert file.read_bytes().endswith(b"\n")


def test_without_resume_the_file_begins_anew(tmp_path: Path) -> None:
    file = write(tmp_path / "records.jsonl", [record(), record(CELLS[1])])
    assert len(list(read(write(file, [record()])))) == 1


def test_a_file_has_one_writer(tmp_path: Path) -> None:
    file = tmp_path / "records.jsonl"
    with Journal(file, resume=False) as journal:
        journal.add(record())
        for resume in (False, True):
            with pytest.raises(UserError, match="is being written by another run"):
                Journal(file, resume=resume)
        assert list(read(file)) == [record()], "who was refused has changed nothing"
    with Journal(file, resume=True) as journal:
        assert journal.found == [record()]


@pytest.mark.parametrize("cut", [1, 2, 30])
def test_resume_cuts_an_unfinished_last_line_away(cut: int, tmp_path: Path) -> None:
    file = write(tmp_path / "records.jsonl", [record(), record(CELLS[1])])
    file.write_bytes(file.read_bytes()[:-cut])
    with Journal(file, resume=True) as journal:
        assert journal.found == [record()]
        journal.add(record(CELLS[2]))
    assert [item.cell for item in read(file)] == [CELLS[0], CELLS[2]]


def test_a_truncated_line_is_told_from_others(tmp_path: Path) -> None:
    file = write(tmp_path / "records.jsonl", [record(), record(CELLS[1])])
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(RecordError, match=r"records\.jsonl, line 2: no JSON; .*--resume` cuts it away"):
        list(read(file))
    assert list(read(file, cut_last=True)) == [record()]


@pytest.mark.parametrize("change", [{"schema_version": 2}, {"schema_version": None}, {"schema_version": "1"}])
def test_an_unknown_schema_version_is_refused(change: dict[str, object], tmp_path: Path) -> None:
    file = tmp_path / "records.jsonl"
    file.write_text(json.dumps(json.loads(record().model_dump_json()) | change) + "\n")
    for refusing in (lambda: list(read(file)), lambda: merge([file]), lambda: Journal(file, resume=True)):
        with pytest.raises(RecordError, match=r"records\.jsonl, line 1: schema version (2, .*newer|None; |'1'; )"):
            refusing()


def test_older_schema_versions_are_read_merged_and_resumed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def from_0(fields: dict[str, Any]) -> dict[str, Any]:
        return {**fields, "outcome": fields["outcome"].upper()}

    monkeypatch.setitem(MIGRATIONS, 0, from_0)
    old = json.loads(record().model_dump_json()) | {"schema_version": 0, "outcome": "pass"}
    file = tmp_path / "old.jsonl"
    file.write_text(json.dumps(old) + "\n")
    assert list(read(file)) == [record()]
    later = write(tmp_path / "new.jsonl", [record(CELLS[1])])
    merged = merge([file, later])
    assert merged == merge([later, file])
    assert [Record.model_validate_json(line) for line in merged.values()] == [record(), record(CELLS[1])]
    write_merged(merged.values(), tmp_path / "merged.jsonl")
    assert merge([tmp_path / "merged.jsonl"]) == merged, "what is merged is of today's version"
    with Journal(file, resume=True) as journal:
        assert journal.found == [record()]
        journal.add(record(CELLS[1]))
    assert list(read(file)) == [record(), record(CELLS[1])]


@pytest.mark.parametrize(
    "line",
    ["{}", "[]", "null", "17", '"text"', "no json", '{"schema_version": 1}', '{"schema_version":1,"outcome":[]}'],
)
def test_what_is_no_record_is_named_by_file_and_line(line: str, tmp_path: Path) -> None:
    file = write(tmp_path / "records.jsonl", [record()])
    with file.open("a") as stream:
        stream.write(line + "\n")
    with pytest.raises(RecordError, match=r"records\.jsonl, line 2: "):
        list(read(file))
    with pytest.raises(RecordError, match=r"records\.jsonl, line 2: "):
        merge([file])


def test_an_unknown_outcome_or_key_is_refused(tmp_path: Path) -> None:
    for change in ({"outcome": "FLAKY"}, {"colour": "green"}):
        file = tmp_path / "records.jsonl"
        file.write_text(json.dumps(json.loads(record().model_dump_json()) | change) + "\n")
        with pytest.raises(RecordError, match=next(iter(change))):
            list(read(file))


def test_a_missing_file_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="expected a file of records"):
        merge([tmp_path / "none.jsonl"])


@settings(max_examples=50)
@given(st.lists(st.lists(some_records, max_size=5), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_merging_minds_neither_order_nor_duplicates(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[Record]], chance: random.Random
) -> None:
    folder = tmp_path_factory.mktemp("merge")
    files = [write(folder / f"{number}.jsonl", batch) for number, batch in enumerate(batches)]
    merged = merge(files)
    shuffled = [*files, chance.choice(files)]
    chance.shuffle(shuffled)
    assert merge(shuffled) == merged
    assert merged.keys() == {item.cell for batch in batches for item in batch}
    for cell, line in merged.items():
        started = [item.started for batch in batches for item in batch if item.cell == cell]
        assert Record.model_validate_json(line).started == max(started), "the last attempt stands"
    write_merged(merged.values(), folder / "merged.jsonl")
    assert merge([folder / "merged.jsonl"]) == merged, "merging what is merged changes nothing"
    everything = [item for batch in batches for item in batch]
    chance.shuffle(everything)
    assert ResultSet(everything).records == tuple(read(folder / "merged.jsonl"))


def test_a_later_failure_stands_over_an_earlier_pass(tmp_path: Path) -> None:
    late = record(outcome=Outcome.ERROR, started="2026-02-01T00:00:00.000Z")
    file = write(tmp_path / "records.jsonl", [late, record()])
    assert Record.model_validate_json(merge([file])[CELLS[0]]) == late


def test_a_planned_cell_without_a_record_is_not_run() -> None:
    results = ResultSet([record(CELLS[1])], CELLS[:3])
    assert [item.outcome for item in results.records] == [Outcome.NOT_RUN, Outcome.PASS, Outcome.NOT_RUN]
    assert results.counts == {Outcome.PASS: 1, Outcome.NOT_RUN: 2}
    assert list(results.counts) == [outcome for outcome in Outcome if outcome in results.counts]


def test_any_attempt_stands_over_none() -> None:
    assert ResultSet([not_run(CELLS[0], "why", run="r"), record()]).records == (record(),)
