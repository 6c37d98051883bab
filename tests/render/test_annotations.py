"""GitHub's workflow commands: which cells are annotated, where, and that no text of a record is a command."""

from __future__ import annotations

import re
from typing import Any

import pytest

from portmatrix.render.annotations import LIMIT, workflow_commands
from portmatrix.render.table import URGENCY, shown_of
from portmatrix.render.unexpected import Location, findings
from portmatrix.types import Outcome, Stage


def nowhere(_record: Any) -> None:
    return None


def test_each_sort_of_unexpected_cells_is_one_annotation_with_its_place(make: Any) -> None:
    cells = [
        make("fw/a/p/r/t"),
        make("fw/b/p/r/t", Outcome.FAIL, stage=Stage.RUN, reason="no operator, none: 100%"),
        make("fw/c/p/r/t", Outcome.FAIL, stage=Stage.RUN, reason="no operator, none: 100%"),
        make("fw/d/p/r/t", Outcome.ERROR, stage=Stage.LOAD, reason="no\ndisk"),
        make("fw/e/p/r/t", Outcome.XPASS, stage=Stage.COMPARE, expected="fails"),
        make("fw/f/p/r/t", Outcome.XFAIL, expected="fails"),
        make("fw/g/p/r/t", Outcome.ERROR, expected="foretold"),
        make("fw/h/p/r/t", Outcome.NOT_RUN),
    ]
    lines = list(
        workflow_commands(cells, lambda record: Location("my, suite/matrix.yaml", 7) if "/e/" in record.cell else None)
    )
    assert lines == [
        "::error title=FAIL at RUN%3A 2 cells::no operator, none: 100%25%0Afw/b/p/r/t%0Afw/c/p/r/t",
        "::error title=ERROR at LOAD%3A fw/d/p/r/t::no disk%0Afw/d/p/r/t",
        "::warning file=my%2C suite/matrix.yaml,line=7,title=XPASS at COMPARE%3A fw/e/p/r/t"
        "::no reason recorded (expected: fails)%0Afw/e/p/r/t",
    ]


def test_what_github_would_drop_is_counted(make: Any) -> None:
    cells = [make(f"fw/m{n}/p/r/t", Outcome.FAIL, reason=f"reason {n % 30}") for n in range(45)]
    cells += [make(f"fw/x{n}/p/r/t", Outcome.XPASS, reason=f"reason {n}") for n in range(13)]
    lines = list(workflow_commands(cells, nowhere))
    assert sum(line.startswith("::error ") for line in lines) == LIMIT
    assert sum(line.startswith("::warning ") for line in lines) == LIMIT
    # The ten errors are those of most cells: two each.
    assert lines[-1] == (
        "::notice title=More unexpected cells::28 more unexpected cells for 23 more reasons; "
        "the job summary and the report list them"
    )
    assert len(lines) == 2 * LIMIT + 1


def test_many_cells_of_one_reason_are_named_in_part(make: Any) -> None:
    cells = [make(f"fw/m{n:02}/p/r/t", Outcome.FAIL, reason="same") for n in range(25)]
    (line,) = workflow_commands(cells, nowhere)
    assert line.endswith("%0Afw/m09/p/r/t%0Aand 15 more")


def test_no_text_of_a_record_is_a_command(make: Any, hostile: Any) -> None:
    evil = "x\r\n::stop-commands::token\n::add-mask::a%0A::error::b"
    cells = [make(f"fw/{evil}/p/r/t", Outcome.FAIL, stage=Stage.RUN, reason=evil), *hostile]
    text = "\n".join(workflow_commands(cells, lambda record: Location(evil.replace("/", ""), 1)))
    lines = text.splitlines()
    assert len(lines) == len(list(findings(cells, nowhere)))
    for line in lines:
        # One command each, whose properties hold no delimiter of their own.
        command, properties = re.fullmatch(r"::(error|warning|notice) ([^:]*)::.*", line).groups()  # type: ignore[union-attr]
        assert command != "notice"
        assert {part.partition("=")[0] for part in properties.split(",")} <= {"file", "line", "title"}
        assert len(line) < 5_000
        assert "\u202e" not in line


def test_nothing_unexpected_is_nothing_said(make: Any) -> None:
    assert list(workflow_commands([make("fw/a/p/r/t"), make("fw/b/p/r/t", Outcome.NOT_RUN)], nowhere)) == []


@pytest.mark.parametrize("reverse", [False, True])
def test_findings_do_not_depend_on_the_order(records: Any, reverse: bool) -> None:
    given = sorted(records, key=lambda record: record.cell, reverse=reverse)
    found = findings(given, nowhere)
    assert found == findings(records, nowhere)
    order = [URGENCY.index(shown_of(item.records[0])) for item in found]
    assert order == sorted(order)
    assert sum(len(item.records) for item in found) == sum(record.unexpected for record in records)
