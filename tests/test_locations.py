"""Where an unexpected outcome is to be looked at: an entry of matrix.yaml, or the file of a plug-in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_suite import Assemble

from portmatrix import suite
from portmatrix.locations import locator
from portmatrix.render.unexpected import Location
from portmatrix.types import Outcome, Record, Stage


def record(cell: str, stage: Stage, expected: str | None = None, outcome: Outcome = Outcome.FAIL) -> Record:
    return Record(cell=cell, outcome=outcome, stage=stage, expected=expected, run="r", started="", engine="0")


def spread_out(root: Path) -> None:
    """Write a suite's matrix.yaml again with a line for each key."""
    file = root / "matrix.yaml"
    file.write_text(json.dumps(json.loads(file.read_text()), indent=1))


def line_of(root: Path, text: str) -> int:
    """Return the number of the one line of matrix.yaml that has this text."""
    lines = (root / "matrix.yaml").read_text(encoding="utf-8").splitlines()
    (found,) = (number for number, line in enumerate(lines, 1) if text in line)
    return found


def test_what_an_entry_is_about_is_looked_up_there(assemble: Assemble) -> None:
    expect = [
        {"cells": "*/raises_load/*", "stage": "LOAD", "reason": "the first reason"},
        {"cells": "*/free/*/raises_load/*", "stage": "RUN", "reason": "the second reason"},
    ]
    root = assemble("runtimes/plain", "runtimes/raises_load", expect=expect)
    spread_out(root)
    locate = locator(suite.load(root), root.parent)
    passes = record("linear/free/native/raises_load/here", Stage.COMPARE, "the second reason", Outcome.XPASS)
    fails = record("linear/free/native/raises_load/here", Stage.RUN)
    entries = [suite.load(root).spec.line("expect", number) for number in (0, 1)]
    assert entries[0] < entries[1]
    assert locate(passes) == Location(f"{root.name}/matrix.yaml", entries[1])
    assert locate(fails) == Location(f"{root.name}/matrix.yaml", entries[0])
    assert entries[0] <= line_of(root, "the first reason") < entries[1] <= line_of(root, "the second reason")


def test_else_the_plug_in_is_that_the_stage_is_about(assemble: Assemble) -> None:
    root = assemble("runtimes/plain", "runtimes/no_function")
    spread_out(root)
    loaded = suite.load(root)
    locate = locator(loaded, root)
    cell = "linear/free/native/plain/here"
    for stage, file in (
        (Stage.TRAIN, "exporters/linear.py"),
        (Stage.EXPORT, "exporters/linear.py"),
        (Stage.PREPARE, "runtimes/plain.py"),
        (Stage.COMPARE, "runtimes/plain.py"),
    ):
        assert locate(record(cell, stage)) == Location(file)
    assert locate(record("-/-/-/no_function/here", Stage.PLAN)) == Location("runtimes/no_function.py")
    assert locate(record("-/-/-/-/here", Stage.PLAN)) == Location("targets/here.py")
    of_a_model = locate(record("gone/free/native/gone/gone", Stage.RUN))
    assert of_a_model == Location("matrix.yaml", line_of(root, '"free"'))


def test_a_suite_outside_of_the_repository_is_one_of_its_own(assemble: Assemble, tmp_path: Path) -> None:
    root = assemble("runtimes/plain")
    elsewhere = tmp_path / "a repository"
    elsewhere.mkdir()
    locate = locator(suite.load(root), elsewhere)
    assert locate(record("linear/free/native/plain/here", Stage.RUN)) == Location("runtimes/plain.py")


def test_in_the_packaged_suite_nothing_is_the_users_to_change(
    assemble: Assemble, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = assemble("runtimes/plain")
    loaded = suite.load(root)
    monkeypatch.setattr(suite, "PACKAGED", root)
    assert locator(loaded, root)(record("linear/free/native/plain/here", Stage.RUN)) is None
