"""SARIF logs: valid by the standard's own schema, a rule for each outcome and stage, a result for each cell."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator

from portmatrix.render.sarif import sarif
from portmatrix.render.unexpected import Location
from portmatrix.types import Outcome, Stage


@pytest.fixture(scope="module")
def validator() -> Draft7Validator:
    """The schema of SARIF 2.1.0 by OASIS, as https://json.schemastore.org/sarif-2.1.0.json has it, byte by byte."""
    return Draft7Validator(json.loads(Path(__file__).with_name("sarif-2.1.0.schema.json").read_bytes()))


def place(record: Any) -> Location | None:
    return None if "/nowhere/" in record.cell else Location("sub folder/runtimes/rt.py", 3)


def test_a_log_is_valid_by_the_standards_schema(records: Any, hostile: Any, validator: Any) -> None:
    for given in (records, hostile, []):
        validator.validate(json.loads(sarif(given, place)))
    assert not validator.is_valid({"version": "2.1.0", "runs": [{"results": []}]}), "the schema refuses what is none"


def test_every_unexpected_cell_is_a_result_of_the_rule_of_its_end(records: Any) -> None:
    (run,) = json.loads(sarif(records, place))["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert len(rules) == len(set(rules))
    unexpected = {record.cell: record for record in records if record.unexpected}
    assert len(run["results"]) == len(unexpected)
    for result in run["results"]:
        cell = result["locations"][0]["logicalLocations"][0]["fullyQualifiedName"]
        record = unexpected.pop(cell)
        assert rules[result["ruleIndex"]] == result["ruleId"] == f"{record.outcome.value}/{record.stage.value}"
        assert result["level"] == ("warning" if record.outcome is Outcome.XPASS else "error")
        assert result["message"]["text"].startswith(f"{cell}: ")
        assert result["properties"]["framework"] == record.id.framework
    assert not unexpected


def test_a_result_has_the_place_that_is_known_and_no_other(make: Any) -> None:
    cells = [
        make("fw/nowhere/p/r/t", Outcome.FAIL, stage=Stage.RUN),
        make("fw/there/p/r/t", Outcome.FAIL, stage=Stage.RUN),
    ]
    (run,) = json.loads(sarif(cells, place))["runs"]
    first, second = (result["locations"][0] for result in run["results"])
    assert "physicalLocation" not in first
    assert second["physicalLocation"] == {
        "artifactLocation": {"uri": "sub%20folder/runtimes/rt.py", "uriBaseId": "%SRCROOT%"},
        "region": {"startLine": 3},
    }


def test_alerts_about_the_same_line_are_told_apart_and_known_again(make: Any) -> None:
    def hashes(reason: str) -> list[str]:
        cells = [make(f"fw/m{n}/p/r/t", Outcome.FAIL, stage=Stage.RUN, reason=reason) for n in range(50)]
        (run,) = json.loads(sarif(cells, place))["runs"]
        return [result["partialFingerprints"]["primaryLocationLineHash"] for result in run["results"]]

    assert len(set(hashes("one"))) == 50
    assert hashes("one") == hashes("another")


def test_what_is_too_much_is_counted_the_most_urgent_kept(make: Any, validator: Any) -> None:
    cells = [make(f"fw/m{n}/p/r/t", Outcome.XPASS if n % 2 else Outcome.FAIL, stage=Stage.RUN) for n in range(40)]
    log = json.loads(sarif(cells, place, limit=25))
    validator.validate(log)
    (run,) = log["runs"]
    assert [result["level"] for result in run["results"]] == ["error"] * 20 + ["warning"] * 5
    (said,) = run["invocations"][0]["toolExecutionNotifications"]
    assert said["message"]["text"] == "15 more unexpected cells were left out; the records have them all"


def test_hostile_text_is_visible_and_bounded(hostile: Any) -> None:
    text = sarif(hostile, place)
    (run,) = json.loads(text)["runs"]
    for result in run["results"]:
        assert not {"\u202e", "\x1b", "\x00", "\n"} & set(result["message"]["text"])
        assert r"\u202e" in result["message"]["text"]
    assert len(text) < 100_000


def test_equal_records_give_equal_bytes(records: Any) -> None:
    shuffled = list(records)
    random.Random(1).shuffle(shuffled)
    assert sarif(shuffled, place) == sarif(records, place)
