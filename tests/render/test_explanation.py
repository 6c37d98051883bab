"""Explanations as they are printed, and what is concluded from running the advice."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from portmatrix.advice import Explanation, Neighbour, Road, State, Step
from portmatrix.render.explanation import print_explanation
from portmatrix.spec import Expectation
from portmatrix.types import Batch, Blame, CellId, Outcome, PathKind, Record, Stage

CELL = CellId("f", "m", "onnx-a-dynamic", "old", "t")
ROADS = {
    "onnx-a": Road(PathKind.ONNX, "onnx", Batch.STATIC),
    "onnx-a-dynamic": Road(PathKind.ONNX, "onnx", Batch.DYNAMIC),
}


def record(cell: CellId = CELL, outcome: Outcome = Outcome.PASS, stage: Stage | None = None, **fields: Any) -> Record:
    usual: dict[str, Any] = {"run": "run-7", "started": "2026-01-02T03:04:05Z", "engine": "0"}
    return Record(**{**usual, **fields}, cell=str(cell), outcome=outcome, stage=stage)


STATIC = CELL._replace(path="onnx-a")
NEWER = CELL._replace(runtime="new")
FAILED = record(outcome=Outcome.FAIL, stage=Stage.LOAD, reason="no [i]such[/i] operator", facts={"opset": 18})
WORKS = (
    Neighbour(STATIC, (Step.BATCH,), record(STATIC, facts={"opset": 17})),
    Neighbour(NEWER, (Step.VERSION,), record(NEWER, Outcome.DEGRADED, Stage.COMPARE)),
)


def told(**fields: Any) -> Explanation:
    usual = Explanation(CELL, State.FAILS, FAILED, "", (), WORKS, (), ())
    return usual._replace(**fields)


def printed(what: Explanation, verified: tuple[Record, ...] = ()) -> list[str]:
    stream = io.StringIO()
    print_explanation(Console(file=stream, width=80, color_system=None), what, ROADS, verified)
    return stream.getvalue().splitlines()


def test_a_failure_says_what_where_who_and_what_was_expected() -> None:
    blame = Blame(party="exporter", referee="judge", why="both differ from the framework")
    failed = record(outcome=Outcome.XFAIL, stage=Stage.COMPARE, reason="off by 3", blame=blame)
    item = Expectation(cells="f/*", stage=Stage.COMPARE, reason="bias is lost", link="https://example.org/1")
    assert printed(told(record=failed, expectations=(item,)))[:5] == [
        "f/m/onnx-a-dynamic/old/t",
        "  XFAIL at COMPARE: off by 3",
        "  run run-7, 2026-01-02T03:04:05Z",
        "  blame: the exporter, says judge: both differ from the framework",
        "  expected in matrix.yaml: FAIL at COMPARE: bias is lost (https://example.org/1)",
    ]


def test_a_failure_that_nobody_expected_says_so() -> None:
    lines = printed(told())
    assert "  FAIL at LOAD: no [i]such[/i] operator" in lines
    assert "  no expectation in matrix.yaml covers it" in lines


def test_neighbours_say_what_is_different() -> None:
    lines = printed(told())
    start = lines.index("works on t, the nearest first:")
    change = "export by onnx-a (onnx, static batch) instead of onnx-a-dynamic"
    assert lines[start + 1] == f"  PASS {STATIC}: {change} (opset 17 instead of 18)"
    assert lines[start + 2] == f"  DEGRADED {NEWER}: run it by new instead of old"


def test_what_is_not_known_and_what_works_elsewhere_is_listed() -> None:
    untried = tuple(Neighbour(NEWER._replace(runtime=f"r{number}"), (Step.RUNTIME,), None) for number in range(11))
    lost = Neighbour(NEWER, (Step.VERSION,), record(NEWER, Outcome.ERROR, Stage.RUN, reason="disk full"))
    lines = printed(told(untried=(lost, *untried), elsewhere=(record(CELL._replace(target="u")),)))
    assert f"  {NEWER}: ERROR, disk full" in lines
    assert "  and 2 more" in lines
    assert lines[lines.index("works on other targets:") + 1] == "  PASS f/m/onnx-a-dynamic/old/u"


def test_advice_that_was_not_run_says_so() -> None:
    assert printed(told())[-2:] == [
        "the smallest change that would deploy it: export by onnx-a (onnx, static batch) instead of onnx-a-dynamic",
        f"by the records, not verified; `portmatrix repro {STATIC}` runs it",
    ]


def test_advice_that_was_run_says_what_came_of_it() -> None:
    assert printed(told(), (record(STATIC),))[-2:] == [
        "the smallest change that would deploy it: export by onnx-a (onnx, static batch) instead of onnx-a-dynamic",
        f"verified: PASS just now; `portmatrix repro {STATIC}` shows it again",
    ]


def test_advice_that_does_not_hold_gives_way_to_the_next() -> None:
    failed = record(STATIC, Outcome.FAIL, Stage.RUN, reason="boom")
    passed = record(NEWER, Outcome.DEGRADED, Stage.COMPARE)
    assert printed(told(), (failed, passed))[-3:] == [
        f"tried, and does not work here now: {STATIC}: FAIL at RUN: boom",
        "the smallest change that would deploy it: run it by new instead of old",
        f"verified: DEGRADED at COMPARE just now; `portmatrix repro {NEWER}` shows it again",
    ]
    assert printed(told(works=WORKS[:1]), (failed,))[-1] == "no change that works by the records works here now"


def test_without_a_neighbour_there_is_no_advice() -> None:
    lines = printed(told(works=()))
    assert "no neighbour is known to work on t" in lines
    assert lines[-1] == "no change is known that would deploy it there"


@pytest.mark.parametrize("outcome", [Outcome.PASS, Outcome.XPASS])
def test_what_works_needs_nothing(outcome: Outcome) -> None:
    lines = printed(told(state=State.WORKS, record=record(outcome=outcome)))
    assert lines[1:] == [
        f"  {outcome.value}",
        "  run run-7, 2026-01-02T03:04:05Z",
        "it works: there is nothing to change",
    ]


def test_what_nobody_knows_can_be_tried() -> None:
    lines = printed(told(state=State.UNKNOWN, record=None))
    assert "  no record of it" in lines
    assert f"whether it works is not known: `portmatrix repro {CELL}` tries it" in lines
    lines = printed(told(state=State.UNKNOWN, record=None, unplanned="old takes no onnx"))
    assert "  not planned: old takes no onnx" in lines
    assert not [line for line in lines if line.startswith("whether")], "it cannot be tried"
