"""Records carry nothing of this machine's folders, and say what was expected."""

from __future__ import annotations

import sys
from datetime import datetime, timezone
from pathlib import Path

import pytest
from tiny_suite import Assemble

from portmatrix import suite
from portmatrix.bundle import Manifest, Signature
from portmatrix.export import Bundle
from portmatrix.recording import Recorder, now, processor
from portmatrix.store import Store
from portmatrix.types import Batch, CellId, Lookup, Outcome, PathKind, Reach, Stage
from portmatrix.workers import Failure

CELL = CellId("linear", "free", "native", "plain", "here")
BUNDLE = Bundle(
    "d" * 64,
    Manifest(
        framework="linear",
        model="free",
        path="native",
        kind=PathKind.NATIVE,
        format="npz-linear",
        batch=Batch.STATIC,
        entry="model.npz",
        signature=Signature(inputs=(), outputs=()),
        sets=(),
        files={},
        seed=1,
        accuracy=None,
        recipe="r",
        trained_on="here",
        environment={},
        facts={},
        seconds={},
    ),
)


@pytest.fixture
def recorder(assemble: Assemble, tmp_path: Path) -> Recorder:
    """Makes records for a suite that expects its dynamic cells to fail at LOAD."""
    expect = [
        {"cells": "*/dynamic/*", "stage": "LOAD", "reason": "known"},
        {"cells": "*/graph/*", "stage": "LOAD", "reason": "known", "rate": 0.8},
        {"cells": "*/native/*", "stage": "LOAD", "reason": "no loops", "says": r"\bLoop\b"},
    ]
    return Recorder(suite.load(assemble("runtimes/plain", expect=expect)), Store(tmp_path / "store"), "r")


def test_time_is_utc_and_sorts_as_text() -> None:
    first, second = now(), now()
    assert first <= second
    assert first.endswith("Z")
    assert datetime.fromisoformat(first.replace("Z", "+00:00")).tzinfo == timezone.utc


def test_a_processor_has_a_name() -> None:
    assert processor().strip()


def test_folders_of_this_machine_become_placeholders(recorder: Recorder, tmp_path: Path) -> None:
    text = f"{tmp_path}/store/envs/x {tmp_path}/suite/runtimes/plain.py {sys.prefix}/lib {Path.home()}/notes"
    assert recorder.redact(text) == "$STORE/envs/x $SUITE/runtimes/plain.py $PREFIX/lib ~/notes"


def test_a_folder_is_known_by_the_names_that_other_systems_have_for_it(recorder: Recorder, tmp_path: Path) -> None:
    there = f"Z:{tmp_path}/store/tmp/x".replace("/", chr(92))
    assert recorder.redact(f"no file {there}") == r"no file $STORE\tmp\x"


def test_reason_and_log_are_both_redacted(recorder: Recorder, tmp_path: Path) -> None:
    failure = Failure(Stage.LOAD, f"no {tmp_path}/store/x", "model", f"File {tmp_path}/suite/y")
    record = recorder.failed(CELL, failure)
    assert str(tmp_path) not in record.model_dump_json()
    assert (record.reason, record.log_tail) == ("no $STORE/x", "File $SUITE/y")


@pytest.mark.parametrize(("fault", "outcome"), [("model", Outcome.FAIL), ("harness", Outcome.ERROR)])
def test_whose_fault_it_is_decides_the_outcome(fault: str, outcome: Outcome, recorder: Recorder) -> None:
    record = recorder.failed(CELL, Failure(Stage.RUN, "why", fault))  # type: ignore[arg-type]
    assert (record.outcome, record.stage, record.reach) == (outcome, Stage.RUN, Reach.NATIVE)


@pytest.mark.parametrize(
    ("path", "outcome", "stage", "becomes"),
    [
        ("dynamic", Outcome.FAIL, Stage.LOAD, Outcome.XFAIL),
        ("dynamic", Outcome.FAIL, Stage.RUN, Outcome.FAIL),
        ("dynamic", Outcome.ERROR, Stage.LOAD, Outcome.ERROR),
        ("dynamic", Outcome.NOT_RUN, Stage.LOAD, Outcome.NOT_RUN),
        ("dynamic", Outcome.SKIP, Stage.LOAD, Outcome.SKIP),
        ("dynamic", Outcome.PASS, None, Outcome.XPASS),
        ("dynamic", Outcome.DEGRADED, Stage.COMPARE, Outcome.XPASS),
        ("graph", Outcome.FAIL, Stage.LOAD, Outcome.XFAIL),
        ("graph", Outcome.FAIL, Stage.RUN, Outcome.FAIL),
        ("graph", Outcome.PASS, None, Outcome.PASS),
        ("native", Outcome.FAIL, Stage.LOAD, Outcome.FAIL),
        ("native", Outcome.PASS, None, Outcome.PASS),
    ],
)
def test_an_expectation_turns_failures_and_passes_only(
    path: str, outcome: Outcome, stage: Stage | None, becomes: Outcome, recorder: Recorder
) -> None:
    record = recorder.expect(recorder.record(CELL._replace(path=path), outcome, stage, ""))
    assert record.outcome is becomes
    assert (record.expected == "known") == (becomes in {Outcome.XFAIL, Outcome.XPASS})


@pytest.mark.parametrize(
    ("outcome", "stage", "reason", "becomes"),
    [
        (Outcome.FAIL, Stage.LOAD, "no kernel for Loop", Outcome.XFAIL),
        (Outcome.FAIL, Stage.LOAD, "no kernel for LoopState", Outcome.FAIL),
        (Outcome.FAIL, Stage.RUN, "no kernel for Loop", Outcome.FAIL),
        (Outcome.PASS, None, "", Outcome.PASS),
        (Outcome.DEGRADED, Stage.RUN, "Loop ran in the framework", Outcome.DEGRADED),
    ],
)
def test_a_cause_is_known_by_what_the_failure_says(
    recorder: Recorder, outcome: Outcome, stage: Stage | None, reason: str, becomes: Outcome
) -> None:
    record = recorder.expect(recorder.record(CELL._replace(path="native"), outcome, stage, reason))
    assert record.outcome is becomes
    assert (record.expected == "no loops") == (becomes is Outcome.XFAIL)


@pytest.mark.parametrize(
    ("outcome", "stage", "expected", "unexpected"),
    [
        (Outcome.ERROR, Stage.LOAD, True, False),
        (Outcome.ERROR, Stage.RUN, False, True),
        (Outcome.FAIL, Stage.LOAD, False, True),
        (Outcome.PASS, None, False, False),
    ],
)
def test_a_known_fault_of_an_emulator_stays_an_error_and_turns_nothing_red(
    outcome: Outcome, stage: Stage | None, expected: bool, unexpected: bool, assemble: Assemble, tmp_path: Path
) -> None:
    known = [{"cells": "*", "stage": "LOAD", "reason": "its emulator", "outcome": "ERROR"}]
    recorder = Recorder(suite.load(assemble("runtimes/plain", expect=known)), Store(tmp_path / "store"), "r")
    record = recorder.expect(recorder.record(CELL, outcome, stage, ""))
    assert record.outcome is outcome
    assert (record.expected is not None, record.unexpected) == (expected, unexpected)


@pytest.mark.parametrize(
    ("found", "outcome", "words"),
    [
        (
            Lookup(possible=True, asked="x==1", found=("x-1.whl",), floor="glibc 2.28", date="2026-11-25"),
            "NOT_RUN at PREPARE",
            "glibc 2.28",
        ),
        (
            Lookup(possible=False, asked="x==2", missing=("x==2",), newest=("x 1.9",), date="2026-11-25"),
            "FAIL at PREPARE",
            "x==2 is not published for it (x==2); the newest there is x 1.9",
        ),
        (Lookup(possible=False, asked="x==1", lacking=("Foo",), date="2026-11-25"), "FAIL at LOAD", "lacks Foo"),
    ],
)
def test_a_look_up_is_never_a_pass(found: Lookup, outcome: str, words: str, recorder: Recorder) -> None:
    record = recorder.looked_up(CELL, BUNDLE, found)
    assert record.stage is not None
    assert f"{record.outcome.value} at {record.stage.value}" == outcome
    assert record.reach is Reach.STATIC
    assert words in record.reason
    assert record.lookup == found
