"""Records of older schema versions become today's; newer ones and what is no record are refused, by name and line."""

from __future__ import annotations

import json
from typing import Any

import pytest

from portmatrix.errors import RecordError
from portmatrix.migrations import MIGRATIONS, migrated, parse
from portmatrix.types import SCHEMA_VERSION, Outcome, Record

RECORD = Record(cell="f/m/p/r/t", outcome=Outcome.PASS, run="r", started="2026-01-01T00:00:00.000Z", engine="0")
#: Made up: the cell in parts, the outcome in small letters, no name of the run.
OLD = {
    "schema_version": 0,
    "cell": ["f", "m", "p", "r", "t"],
    "result": "pass",
    "started": "2026-01-01T00:00:00.000Z",
    "engine": "0",
}


def from_0(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        "cell": "/".join(fields["cell"]),
        "outcome": fields["result"].upper(),
        "run": "r",
        "started": fields["started"],
        "engine": fields["engine"],
    }


def test_a_record_of_today_is_read_as_it_is() -> None:
    assert parse(RECORD.model_dump_json(), "here") == RECORD


def test_a_record_without_later_optional_fields_is_read() -> None:
    line = RECORD.model_dump_json(exclude_defaults=True)
    assert "latency" not in line
    assert parse(f'{{"schema_version":1,{line[1:]}', "here") == RECORD


def test_an_old_record_is_migrated() -> None:
    assert parse(json.dumps(OLD), "here", {0: from_0}) == RECORD


def test_migrations_follow_one_another() -> None:
    def add(name: str) -> Any:
        return lambda fields: {**fields, "way": [*fields.get("way", []), name]}

    steps = {0: add("0 to 1"), 1: add("1 to 2"), 2: add("2 to 3")}
    assert migrated({"schema_version": 1}, "here", steps, newest=3)["way"] == ["1 to 2", "2 to 3"]
    assert migrated({"schema_version": 0}, "here", steps, newest=3) == {
        "schema_version": 3,
        "way": ["0 to 1", "1 to 2", "2 to 3"],
    }


def test_a_migration_does_not_change_what_it_was_given() -> None:
    fields = {"schema_version": 0, "a": 1}
    assert "a" not in migrated(fields, "here", {0: lambda old: {"b": old.pop("a")}}, newest=1)
    assert fields == {"schema_version": 0, "a": 1}


def test_every_version_there_was_has_its_migration() -> None:
    assert sorted(MIGRATIONS) == list(range(1, SCHEMA_VERSION))


def test_a_newer_version_is_refused_with_what_to_do() -> None:
    line = json.dumps({**json.loads(RECORD.model_dump_json()), "schema_version": SCHEMA_VERSION + 1})
    with pytest.raises(RecordError, match=r"file, line 7: schema version 2, .* written by a newer one: install"):
        parse(line, "file, line 7")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "no JSON"),
        ("[]", "a JSON list; expected a record"),
        ("{}", "schema version None"),
        ('{"schema_version": true}', "schema version True"),
        ('{"schema_version": "1"}', "schema version '1'"),
        ('{"schema_version": -1}', "schema version -1 is not known; expected one of 1"),
        (json.dumps({**json.loads(RECORD.model_dump_json()), "colour": 1}), "colour: Extra inputs"),
        (json.dumps({**json.loads(RECORD.model_dump_json()), "outcome": "FLAKY"}), "outcome: "),
    ],
)
def test_what_is_no_record_is_named(line: str, said: str) -> None:
    with pytest.raises(RecordError, match=f"^here: {said}"):
        parse(line, "here")


def test_what_a_migration_makes_must_be_a_record() -> None:
    with pytest.raises(RecordError, match="here: cell: Field required"):
        parse(json.dumps(OLD), "here", {0: lambda _fields: {"outcome": "PASS"}})
