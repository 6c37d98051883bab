"""Advice: how far cells are apart, which work, what a run would take, and who is to blame."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from portmatrix.advice import (
    Kinship,
    Neighbour,
    Road,
    State,
    Step,
    blame_in_words,
    change_in_words,
    explain,
    neighbours,
    steps_between,
    unknown_name,
    unplanned,
)
from portmatrix.plan import Axes, cells_of
from portmatrix.spec import Expectation
from portmatrix.types import Batch, Blame, CellId, Outcome, PathKind, Record, Stage

ROADS = {
    "onnx-new": Road(PathKind.ONNX, "onnx", Batch.STATIC),
    "onnx-new-dynamic": Road(PathKind.ONNX, "onnx", Batch.DYNAMIC),
    "onnx-old": Road(PathKind.ONNX, "onnx", Batch.STATIC),
    "onnx-old-dynamic": Road(PathKind.ONNX, "onnx", Batch.DYNAMIC),
    "script": Road(PathKind.NATIVE, "script", Batch.DYNAMIC),
    "saved": Road(PathKind.NATIVE, "saved", Batch.STATIC),
}
FAMILIES = {
    "engine": "engine.py",
    "engine-1.17": "engine.py",
    "other": "other.py",
    "judge": "judge.py",
    "own": "own.py",
}
KINSHIP = Kinship(ROADS, FAMILIES, frozenset({"judge"}))
ONNX = frozenset({"onnx"})
AXES = Axes(
    models=("net", "gru"),
    paths={"fw": {name: road.format for name, road in ROADS.items()}},
    runtimes={
        "engine": ONNX, "engine-1.17": ONNX, "other": ONNX, "judge": ONNX, "own": frozenset({"script", "saved"}),
    },
    targets=("here", "there"),
    takers={(runtime, target) for runtime, target in product(FAMILIES, ("here", "there"))} - {("own", "there")},
    bounds={"there": ("fw/*/onnx-new-dynamic/*",)},
)  # fmt: skip
CELL = CellId("fw", "net", "onnx-new", "engine-1.17", "here")


def record(cell: CellId | str, outcome: Outcome = Outcome.PASS, stage: Stage | None = None, **fields: Any) -> Record:
    return Record(cell=str(cell), outcome=outcome, stage=stage, run="r", started="2026-01-01", engine="0", **fields)


def by_cell(*records: Record) -> dict[str, Record]:
    return {item.cell: item for item in records}


def everything(failing: CellId = CELL) -> dict[str, Record]:
    """Return a record of every cell of the suite, of which one fails."""
    found = by_cell(*map(record, cells_of(AXES)))
    return {**found, str(failing): record(failing, Outcome.FAIL, Stage.LOAD)}


# --- Distance -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "runtime", "steps"),
    [
        ("onnx-new-dynamic", "engine-1.17", [Step.BATCH]),
        ("onnx-new", "engine", [Step.VERSION]),
        ("onnx-new-dynamic", "engine", [Step.BATCH, Step.VERSION]),
        ("onnx-old", "engine-1.17", [Step.VARIANT]),
        ("onnx-old-dynamic", "engine-1.17", [Step.BATCH, Step.VARIANT]),
        ("onnx-new", "other", [Step.RUNTIME]),
        ("onnx-old", "other", [Step.VARIANT, Step.RUNTIME]),
        ("saved", "own", [Step.RUNTIME, Step.KIND]),
        ("script", "own", [Step.BATCH, Step.RUNTIME, Step.KIND]),
        ("gone", "engine-1.17", [Step.KIND]),
        ("onnx-new", "unheard-of", [Step.RUNTIME]),
    ],
)
def test_what_differs_between_two_cells(path: str, runtime: str, steps: list[Step]) -> None:
    other = CELL._replace(path=path, runtime=runtime)
    assert list(steps_between(CELL, other, KINSHIP)) == steps
    assert list(steps_between(other, CELL, KINSHIP)) == steps


@pytest.mark.parametrize(("path", "other"), [("script", "saved"), ("onnx-new", "onnx-old-dynamic")])
def test_paths_of_one_kind_and_other_names_are_variants(path: str, other: str) -> None:
    assert Step.VARIANT in steps_between(CELL._replace(path=path), CELL._replace(path=other), KINSHIP)


def test_the_nearest_comes_first() -> None:
    found = neighbours(CELL, everything(), KINSHIP)
    assert [(item.cell.path, item.cell.runtime) for item in found[:8]] == [
        ("onnx-new-dynamic", "engine-1.17"),
        ("onnx-new", "engine"),
        ("onnx-new-dynamic", "engine"),
        ("onnx-old", "engine-1.17"),
        ("onnx-old-dynamic", "engine-1.17"),
        ("onnx-old", "engine"),
        ("onnx-old-dynamic", "engine"),
        ("onnx-new", "other"),
    ]
    kinds = [Step.KIND in item.steps for item in found]
    assert kinds == sorted(kinds), "another kind of path is the largest change"
    assert {item.cell[:2] + item.cell[4:] for item in found} == {("fw", "net", "here")}
    assert CELL not in {item.cell for item in found}


def test_one_step_counts_more_than_all_smaller_ones_together() -> None:
    steps = list(Step)
    for number, step in enumerate(steps):
        assert Neighbour(CELL, (step,), None).distance > Neighbour(CELL, tuple(steps[:number]), None).distance


def test_of_equally_near_ones_a_referee_is_last_and_degraded_after_pass() -> None:
    runtimes = ("another", "judge", "other", "zealous")
    found = by_cell(*(record(CELL._replace(runtime=name)) for name in runtimes[1:]))
    found |= by_cell(record(CELL._replace(runtime="another"), Outcome.DEGRADED, Stage.COMPARE))
    order = [item.cell.runtime for item in neighbours(CELL, found, KINSHIP)]
    assert order == ["other", "zealous", "another", "judge"]


# --- What is said of a cell -----------------------------------------------------------------------------------------


def test_only_what_works_is_advice() -> None:
    found = everything()
    for path, outcome in (("onnx-new-dynamic", Outcome.FAIL), ("onnx-old", Outcome.ERROR), ("saved", Outcome.XFAIL)):
        for cell in [cell for cell in found if f"/{path}/" in cell]:
            found[cell] = record(cell, outcome, Stage.RUN)
    told = explain(CELL, found, KINSHIP, AXES)
    assert told.state is State.FAILS
    assert told.works[0].cell == CELL._replace(runtime="engine")
    assert {item.cell.path for item in told.works} == {"onnx-new", "onnx-old-dynamic", "script"}
    assert {item.cell.path for item in told.untried} == {"onnx-old"}, "an ERROR is no evidence"
    assert {item.id.target for item in told.elsewhere} == {"there"}
    assert {item.id[:4] for item in told.elsewhere} == {CELL[:4]}


def test_what_nobody_tried_is_named_if_a_run_would_take_it() -> None:
    excluded = [("*/onnx-old/*", "not today")]
    told = explain(CELL, by_cell(record(CELL, Outcome.FAIL, Stage.LOAD)), KINSHIP, AXES, excluded)
    assert not told.works
    assert told.untried[0].cell == CELL._replace(path="onnx-new-dynamic")
    assert "onnx-old" not in {item.cell.path for item in told.untried}
    assert "onnx-old-dynamic" in {item.cell.path for item in told.untried}


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        (Outcome.PASS, State.WORKS),
        (Outcome.DEGRADED, State.WORKS),
        (Outcome.XPASS, State.WORKS),
        (Outcome.FAIL, State.FAILS),
        (Outcome.XFAIL, State.FAILS),
        (Outcome.ERROR, State.UNKNOWN),
        (Outcome.NOT_RUN, State.UNKNOWN),
        (Outcome.SKIP, State.UNKNOWN),
    ],
)
def test_what_is_to_be_explained(outcome: Outcome, state: State) -> None:
    assert explain(CELL, by_cell(record(CELL, outcome)), KINSHIP, AXES).state is state


def test_without_a_record_nobody_knows() -> None:
    told = explain(CELL, {}, KINSHIP, AXES)
    assert (told.state, told.record, told.unplanned) == (State.UNKNOWN, None, "")


def test_expectations_that_cover_the_cell_are_told() -> None:
    items = [
        Expectation(cells=glob, stage=Stage.LOAD, reason=reason)
        for glob, reason in (("fw/*/engine-1.17/*", "too old"), ("fw/gru/*", "loops"))
    ]
    told = explain(CELL, everything(), KINSHIP, AXES, (), items)
    assert [item.reason for item in told.expectations] == ["too old"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"stage": Stage.COMPARE, "blame": Blame(party="runtime", referee="judge", why="it agrees")},
            "the runtime, says judge: it agrees",
        ),
        (
            {"stage": Stage.COMPARE, "blame": Blame(party="undecided", referee="judge", why="neither")},
            "undecided, says judge: neither",
        ),
        ({"stage": Stage.COMPARE}, "no referee was asked: none is named for this format"),
        ({"stage": Stage.LOAD}, "no referee was asked: it is asked about failures at COMPARE, and this one is at LOAD"),
    ],
)
def test_who_is_to_blame_or_why_nobody_was_asked(fields: dict[str, Any], said: str) -> None:
    assert blame_in_words(record(CELL, Outcome.FAIL, **fields)).startswith(said)


def test_a_change_is_said_in_words() -> None:
    (nearest, *_) = neighbours(CELL, by_cell(record(CELL._replace(path="saved", runtime="own"))), KINSHIP)
    said = "export by saved (native, static batch) instead of onnx-new, and run it by own instead of engine-1.17"
    assert change_in_words(CELL, nearest, ROADS) == said
    (nearest, *_) = neighbours(CELL, by_cell(record(CELL._replace(runtime="engine"))), KINSHIP)
    assert change_in_words(CELL, nearest, ROADS) == "run it by engine instead of engine-1.17"


# --- What a run would take ------------------------------------------------------------------------------------------


def test_a_cell_that_a_run_takes_has_nothing_against_it() -> None:
    assert unplanned(CELL, AXES) == ""


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"runtime": "own"}, "onnx-new writes onnx, and own takes saved, script"),
        ({"path": "saved", "runtime": "own", "target": "there"}, "own does not run on the operating system of there"),
        ({"model": "gru"}, "the suite excludes it: not today"),
        ({"target": "there"}, "it is beyond the scope of there; `portmatrix run fw/net/onnx-new/engine-1.17/there`"),
        ({"model": "nett"}, "the suite has no model 'nett'; expected one of net, gru (did you mean 'net'?)"),
        ({"path": "onnx"}, "the suite has no path 'onnx' of fw; expected one of onnx-new, "),
        ({"runtime": "engin"}, "the suite has no runtime 'engin'; expected one of engine, "),
    ],
)
def test_why_a_run_would_not_take_a_cell(changed: dict[str, str], said: str) -> None:
    assert unplanned(CELL._replace(**changed), AXES, [("*/gru/*", "not today")]).startswith(said)


def test_what_no_run_would_take_still_has_neighbours() -> None:
    told = explain(CELL._replace(runtime="own"), everything(), KINSHIP, AXES)
    assert told.unplanned.startswith("onnx-new writes onnx")
    assert told.works[0].cell.path == "onnx-new"


def test_names_that_are_known_are_not_questioned() -> None:
    assert unknown_name(CELL._replace(runtime="own"), AXES) == ""
