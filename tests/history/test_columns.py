"""The columns of a record: what they say, and that the text beside them is the whole record."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from made_history import compared, latency, record

from portmatrix.errors import RecordError
from portmatrix.history.columns import COLUMNS, canonical, row
from portmatrix.types import Blame, Lookup, Outcome, Reach, Record


def test_a_row_has_the_columns_and_its_day() -> None:
    made = row(record(0.75, latency=latency(1.25)), "here")
    assert made.keys() == {"day", *COLUMNS}
    assert made["day"] == "2026-01-02"
    assert made["started"] == "2026-01-02T06:00:00.000000"
    assert [made[name] for name in ("framework", "model", "path", "runtime", "target")] == made["cell"].split("/")
    assert (made["outcome"], made["stage"], made["reach"]) == ("PASS", None, "native")
    assert (made["max_abs"], made["snr_db"]) == (3e-6, 110.0)
    assert (made["batch"], made["threads"], made["p50"], made["ratio"]) == (1, 1, 0.002, 1.25)
    assert [timing["batch"] for timing in made["timings"]] == [1, 16]
    assert made["cpu"] == "of the tests"


def test_a_day_is_a_day_in_utc() -> None:
    assert row(record(started="2026-01-01T23:30:00-02:00"), "here")["day"] == "2026-01-02"
    assert row(record(started="2026-01-01T23:30:00"), "here")["day"] == "2026-01-01"


def test_what_is_not_known_is_empty() -> None:
    made = row(
        Record(cell="f/m/p/r/t", outcome=Outcome.ERROR, run="r", started="2026-01-01T00:00:00Z", engine="0"), "here"
    )
    assert {made[name] for name in ("environment", "bundle", "cpu", "max_abs", "accuracy", "reach")} == {None}
    infinite = row(record(comparisons=(compared(math.inf, math.nan),)), "here")
    assert infinite["max_abs"] is infinite["snr_db"] is None
    assert json.loads(json.dumps(infinite, allow_nan=False))


def test_the_processor_is_the_one_that_was_measured_on() -> None:
    assert row(record(latency=latency(1.0, cpu="another")), "here")["cpu"] == "another"
    assert row(record(latency=latency(1.0, host={})), "here")["cpu"] == "of the tests"


def test_equal_environments_have_equal_digests_in_any_order() -> None:
    one = row(record(environment={"a": "1", "b": "2"}), "here")["environment"]
    assert row(record(environment={"b": "2", "a": "1"}), "here")["environment"] == one
    assert row(record(environment={"a": "1", "b": "3"}), "here")["environment"] != one


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"latency": latency(1.25)},
        {"latency": latency(None), "blame": Blame(party="runtime", referee="onnx-reference", why="it says so")},
        {"lookup": Lookup(possible=True, asked="a", date="2026-01-01"), "reach": Reach.STATIC},
        {"outcome": Outcome.XFAIL, "expected": "known", "log_tail": "ü\n\x1b[0m", "reused": True, "measured": "2026"},
    ],
)
def test_the_text_is_the_whole_record(changed: dict[str, Any]) -> None:
    made = record(**changed)
    assert Record.model_validate_json(row(made, "here")["record"]) == made


def test_the_key_depends_on_what_a_record_says_alone() -> None:
    made = record(environment={"a": "1", "b": "2"})
    written_otherwise = Record.model_validate_json(made.model_dump_json())
    reordered = record(environment={"b": "2", "a": "1"})
    assert row(made, "here")["key"] == row(written_otherwise, "here")["key"] == row(reordered, "here")["key"]
    assert row(record(accuracy=0.91), "here")["key"] != row(made, "here")["key"]


def test_a_field_that_is_at_its_default_is_not_in_the_text() -> None:
    text = json.loads(canonical(record()))
    assert "latency" not in text
    assert text["schema_version"] == 1


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"started": ""}, "here: started: '' is no time; expected UTC in ISO 8601"),
        ({"started": "yesterday"}, "here: started: 'yesterday' is no time"),
        ({"cell": "a/b"}, "here: 'a/b' is no cell id"),
    ],
)
def test_a_record_without_a_day_or_a_cell_is_refused(changed: dict[str, str], said: str) -> None:
    with pytest.raises(RecordError, match=said):
        row(record(**changed), "here")
