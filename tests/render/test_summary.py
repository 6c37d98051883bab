from __future__ import annotations

import re
from typing import Any

import pytest

from portmatrix.render.summary import LIMIT, job_summary
from portmatrix.types import UNEXPECTED, Outcome, Stage


def test_unexpected_cells_come_first(records: Any, ratings: Any, survey: Any) -> None:
    text = job_summary(records, ratings, survey)
    outcomes = re.findall(r"^\| \S+ ([A-Z_]+) \| ", text, re.MULTILINE)
    unexpected = [outcome in {o.value for o in UNEXPECTED} for outcome in outcomes]
    assert unexpected == sorted(unexpected, reverse=True)
    assert sum(unexpected) == sum(r.outcome in UNEXPECTED for r in records)
    assert len(outcomes) == sum(r.outcome is not Outcome.PASS for r in records)
    assert text.index("## Unexpected") < text.index("## Badges")


@pytest.mark.parametrize("limit", [4096, 20_000, LIMIT])
def test_the_limit_holds_in_bytes_and_the_rest_is_counted(make: Any, limit: int) -> None:
    cells = [make(f"fw{n % 7}/m{n}/onnx/rt/t", Outcome.FAIL, stage=Stage.RUN, reason="ü✓" * 150) for n in range(5000)]
    text = job_summary(cells, (), limit=limit)
    assert len(text.encode()) <= limit
    listed = len(re.findall(r"^\| ✗ FAIL", text, re.MULTILINE))
    (left_out,) = re.findall(r"\*\*([\d,]+) more rows left out\*\*", text)
    assert listed + int(left_out.replace(",", "")) == 5000


def test_a_table_too_large_gives_way_to_the_cells(make: Any) -> None:
    cells = [make(f"fw{n}/m/onnx/rt/t{n}", Outcome.ERROR) for n in range(300)]
    text = job_summary(cells, (), limit=100_000)
    assert "too large" in text
    assert text.count("! ERROR") == 300
    assert len(text.encode()) <= 100_000


def test_hostile_text_stays_text_and_in_its_row(hostile: Any) -> None:
    text = job_summary(hostile, ())
    assert "<script" not in text
    assert "\u202e" not in text
    text.encode()
    rows = [line for line in text.splitlines() if re.match(r"\| \S+ [A-Z_]+ \|", line)]
    assert len(rows) == len(Outcome) - 1
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {5}


def test_the_limit_holds_with_hostile_names_and_a_table_of_any_size(make: Any, hostile_text: str) -> None:
    name = hostile_text.replace("/", "") * 20
    cells = [
        make(f"{n % 90}{name}/m{n}/{name}/r/{name}{n % 70}", outcome, reason=hostile_text * 50, expected=name)
        for n, outcome in enumerate([*Outcome] * 1500)
    ]
    text = job_summary(cells, ())
    assert LIMIT - 10_000 < len(text.encode()) <= LIMIT < 1 << 20
    assert "<script" not in text


def test_nothing_is_said_to_be_nothing() -> None:
    assert "nothing was selected" in job_summary([], ())


def test_an_error_that_was_foretold_is_no_surprise(make: Any) -> None:
    text = job_summary([make("fw/m/onnx/rt/t", Outcome.ERROR, expected="the emulator dies of it")], ())
    assert "## Unexpected: 0" in text
    assert "## Other cells that are no plain pass: 1" in text


def test_look_ups_are_counted_by_themselves(make: Any, look: Any) -> None:
    text = job_summary([make("fw/a/p/r/t"), look("fw/b/p/r/t"), look("fw/c/p/r/t", possible=False)], ())
    assert "✓ **1** pass" in text
    assert "◇ **1** could run" in text
    assert "◆ **1** cannot run" in text
    assert "| ◇ NOT_RUN | fw/b/p/r/t |" in text


def test_a_run_without_surprises_says_so(make: Any) -> None:
    text = job_summary([make("fw/m/onnx/rt/t")], ())
    assert "## Unexpected: 0\n\nNone." in text
    assert "## Other" not in text


def test_an_absurd_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="4096"):
        job_summary([], (), limit=10)
