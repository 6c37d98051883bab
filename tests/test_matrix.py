"""Whole runs through the real engine: what misbehaving plug-ins, full disks and impatient users come to."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tiny_suite import (
    Assemble,
    RunMatrix,
    StartEngine,
    ended_at,
    eventually,
    executions,
    gone,
    records_of,
    trainings,
)

from portmatrix import workers
from portmatrix.errors import DiskFull
from portmatrix.export import Bundle
from portmatrix.matrix import MatrixRun, Options
from portmatrix.plan import Selection, plan
from portmatrix.records import Journal
from portmatrix.store import Store
from portmatrix.suite import axes, load
from portmatrix.types import Outcome, Stage

NATIVE = "*/free/native/*"

# --- Runtimes that misbehave ----------------------------------------------------------------------------------------

FAULTY_RUNTIMES = {
    "segfaults": (Stage.RUN, "the worker died of SIGSEGV (signal 11)"),
    "exits": (Stage.RUN, "the worker ended itself with status 0"),
    "raises_exit": (Stage.RUN, "SystemExit: 0"),
    "raises_load": (Stage.LOAD, "RuntimeError: unsupported operator: MatMul"),
    "raises_run": (Stage.RUN, "ValueError: out of registers"),
    "no_output": (Stage.RUN, "ValueError: expected output y, found none"),
    "nan": (Stage.COMPARE, "NaN"),
    "wrong_shape": (Stage.COMPARE, "shape (6, 1, 2), expected (6, 1, 3)"),
    "wrong_dtype": (Stage.COMPARE, "dtype float64, expected float32"),
    "uneven": (Stage.COMPARE, "output y changes its shape between calls"),
    "no_array": (Stage.COMPARE, "is no array of numbers: it holds Python's objects"),
    "wrong": (Stage.COMPARE, "output 'y'"),
    "floods_log": (Stage.RUN, "wrote more than 64 MiB into its log"),
}


@pytest.mark.parametrize("runtime", FAULTY_RUNTIMES)
def test_a_runtime_at_fault_fails_at_its_stage(runtime: str, assemble: Assemble, run_matrix: RunMatrix) -> None:
    stage, reason = FAULTY_RUNTIMES[runtime]
    ran = run_matrix(assemble("runtimes/plain", f"runtimes/{runtime}"), NATIVE)
    record = ran.only(f"*/{runtime}/*")
    assert ended_at(record) == (Outcome.FAIL, stage)
    assert reason in record.reason
    assert ran.only("*/plain/*").outcome is Outcome.PASS


def test_a_fatal_signal_leaves_the_stack_in_the_log_tail(assemble: Assemble, run_matrix: RunMatrix) -> None:
    record = run_matrix(assemble("runtimes/segfaults"), NATIVE).only()
    assert "Segmentation fault" in record.log_tail
    assert "$SUITE/runtimes/segfaults.py" in record.log_tail


def test_cells_after_a_crash_go_on_in_a_new_worker(assemble: Assemble, run_matrix: RunMatrix) -> None:
    root = assemble("runtimes/segfaults_once", models=("free", "points"))
    outcomes = list(run_matrix(root, "*/native/*", "*/dynamic/*").outcomes.values())
    assert sorted(outcomes) == [Outcome.FAIL, Outcome.PASS, Outcome.PASS, Outcome.PASS]


def test_a_hanging_runtime_is_stopped(assemble: Assemble, run_matrix: RunMatrix) -> None:
    ran = run_matrix(assemble("runtimes/hangs", "runtimes/plain", limits={"cell_seconds": 1.5}), NATIVE)
    assert ended_at(ran.only("*/hangs/*")) == (Outcome.FAIL, Stage.RUN)
    assert ran.only("*/hangs/*").reason == "did not end within 1.5 s"
    assert ran.only("*/plain/*").outcome is Outcome.PASS


def test_a_runtime_that_eats_memory_is_stopped(assemble: Assemble, run_matrix: RunMatrix) -> None:
    record = run_matrix(assemble("runtimes/eats_memory", limits={"memory_mb": 300}), NATIVE).only()
    assert ended_at(record) == (Outcome.FAIL, Stage.RUN)
    assert "MiB of memory; the limit is 300 MiB" in record.reason


def test_what_a_plugin_prints_is_no_answer(assemble: Assemble, run_matrix: RunMatrix) -> None:
    root = assemble("runtimes/prints_garbage", models=("free", "points"))
    outcomes = run_matrix(root, "*/native/*", "*/dynamic/*").outcomes
    assert len(outcomes) == 4
    assert set(outcomes.values()) == {Outcome.PASS}


@pytest.mark.parametrize(
    ("runtime", "reason"),
    [
        ("falls_back", "fell back to the interpreter"),
        ("loose", "passed the loose tolerance only"),
        ("says_nonsense", "42"),
    ],
)
def test_the_right_answer_by_another_road_is_degraded(
    runtime: str, reason: str, assemble: Assemble, run_matrix: RunMatrix
) -> None:
    record = run_matrix(assemble(f"runtimes/{runtime}"), NATIVE).only()
    assert record.outcome is Outcome.DEGRADED
    assert reason in record.reason


# --- Exporters that misbehave ---------------------------------------------------------------------------------------

FAULTY_EXPORTERS = {
    "raises_train": (Stage.TRAIN, "ValueError: the loss is NaN"),
    "cannot_train": (Stage.TRAIN, "NotImplementedError: no recurrent layers in this framework"),
    "crashes_train": (Stage.TRAIN, "the worker died of SIGABRT (signal 6)"),
    "raises_predict": (Stage.EXPORT, "ValueError: no forward pass"),
    "raises_export": (Stage.EXPORT, "RuntimeError: unsupported layer"),
    "cannot_export": (Stage.EXPORT, "NotImplementedError: no loops on this path"),
    "no_file": (Stage.EXPORT, "the exporter named 'model.npz' but wrote no such file"),
    "no_entry": (Stage.EXPORT, "entry"),
    "outside_entry": (Stage.EXPORT, "../samples"),
    "no_names": (Stage.EXPORT, "name"),
}


@pytest.mark.parametrize("exporter", FAULTY_EXPORTERS)
def test_an_exporter_at_fault_fails_at_its_stage(exporter: str, assemble: Assemble, run_matrix: RunMatrix) -> None:
    stage, reason = FAULTY_EXPORTERS[exporter]
    ran = run_matrix(assemble("exporters/linear", f"exporters/{exporter}", "runtimes/plain"), NATIVE)
    record = ran.only(f"{exporter}/*")
    assert ended_at(record) == (Outcome.FAIL, stage)
    assert reason in record.reason
    assert ran.only("linear/*").outcome is Outcome.PASS


def test_a_model_that_learned_nothing_fails_in_training(assemble: Assemble, run_matrix: RunMatrix) -> None:
    record = run_matrix(assemble("exporters/inaccurate", "runtimes/plain", models=("points",))).only()
    assert ended_at(record) == (Outcome.FAIL, Stage.TRAIN)
    assert record.reason == "held-out accuracy is 0.0, at least 0.9 is required"


def test_a_model_without_samples_says_what_is_missing(assemble: Assemble, run_matrix: RunMatrix) -> None:
    root = assemble("runtimes/plain")
    exporter = root / "exporters" / "linear.py"
    exporter.write_text(exporter.read_text().replace("def samples(", "def no_samples("))
    record = run_matrix(root, NATIVE).only()
    assert ended_at(record) == (Outcome.FAIL, Stage.EXPORT)
    assert "linear.py has no samples(model, rows, seed)" in record.reason


def test_a_failed_training_is_remembered(assemble: Assemble, run_matrix: RunMatrix) -> None:
    root = assemble("exporters/raises_train", "runtimes/plain")
    first, second = run_matrix(root).only(), run_matrix(root).only()
    assert ended_at(second) == ended_at(first) == (Outcome.FAIL, Stage.TRAIN)
    assert second.recipe == first.recipe
    assert "the loss is NaN" in second.log_tail


# --- Bundles --------------------------------------------------------------------------------------------------------


def test_static_and_dynamic_paths_run_their_own_batch_sizes(assemble: Assemble, run_matrix: RunMatrix) -> None:
    ran = run_matrix(assemble("runtimes/plain"), "*/native/*", "*/dynamic/*")
    shapes = {
        path: [(one.batch, one.shape) for one in ran.only(f"*/{path}/*").comparisons] for path in ("native", "dynamic")
    }
    assert shapes == {"native": [(1, (6, 1, 3))], "dynamic": [(6, (1, 6, 3)), (4, (1, 4, 3))]}
    assert ran.only("*/native/*").facts["example_rows"] == 1
    assert ran.only("*/dynamic/*").facts["example_rows"] == 6


def test_a_record_tells_what_ran(assemble: Assemble, run_matrix: RunMatrix, store: Store) -> None:
    record = run_matrix(assemble("runtimes/plain", models=("points",)), "*/native/*").only()
    assert record.accuracy is not None
    assert record.accuracy >= 0.9
    assert record.environment.keys() >= {"python", "platform", "byteorder", "numpy", "processor"}
    assert record.facts["trained_on"] == "here"
    assert record.bundle is not None
    assert store.get_bundle(record.bundle).recipe == record.recipe
    assert {"LOAD", "RUN", "COMPARE"} <= record.seconds.keys()


def test_a_changed_byte_in_the_store_is_found_and_the_bundle_made_again(
    assemble: Assemble, run_matrix: RunMatrix, store: Store
) -> None:
    root = assemble("runtimes/plain")
    bundle = run_matrix(root, NATIVE).only().bundle
    assert bundle is not None
    artifact = store.bundle_folder(bundle) / "artifact" / "model.npz"
    content = bytearray(artifact.read_bytes())
    content[len(content) // 2] ^= 1
    artifact.write_bytes(content)
    again = run_matrix(root, NATIVE, rerun=True)
    assert any("artifact/model.npz is changed" in text for text in again.said)
    assert ended_at(again.only()) == (Outcome.PASS, None)
    assert again.only().bundle == bundle
    assert store.get_bundle(bundle).digest == bundle


# --- Blame ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exporter", "runtime", "party"),
    [
        ("linear", "wrong", "runtime"),
        ("breaks_artifact", "plain", "exporter"),
        ("breaks_artifact", "wrong", "undecided"),
    ],
)
def test_the_referee_says_who_is_to_blame(
    exporter: str, runtime: str, party: str, assemble: Assemble, run_matrix: RunMatrix
) -> None:
    root = assemble(
        f"exporters/{exporter}", f"runtimes/{runtime}", "runtimes/referee", referees={"npz-graph": "referee"}
    )
    record = run_matrix(root, f"{exporter}/free/*/{runtime}/*").only("*/graph/*" if exporter == "linear" else "*")
    assert ended_at(record) == (Outcome.FAIL, Stage.COMPARE)
    assert record.blame is not None
    assert (record.blame.party, record.blame.referee) == (party, "referee")


@pytest.mark.usefixtures("one_interpreter")
def test_without_its_environment_the_referee_decides_nothing(assemble: Assemble, run_matrix: RunMatrix) -> None:
    root = assemble("exporters/breaks_artifact", "runtimes/plain", "runtimes/referee")
    file = root / "runtimes" / "referee.py"
    file.write_text(file.read_text().replace('"": {', '"": {"python": ">=4.7", '))
    record = run_matrix(root, "*/plain/*").only()
    assert ended_at(record) == (Outcome.FAIL, Stage.COMPARE)
    assert record.blame is None


# --- Expectations and exclusions ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("runtime", "stage", "outcome"),
    [
        ("raises_load", "LOAD", Outcome.XFAIL),
        ("raises_load", "RUN", Outcome.FAIL),
        ("plain", "LOAD", Outcome.XPASS),
        ("falls_back", "LOAD", Outcome.XPASS),
    ],
)
def test_an_expectation_holds_at_its_stage(
    runtime: str, stage: str, outcome: Outcome, assemble: Assemble, run_matrix: RunMatrix
) -> None:
    expect = [{"cells": f"*/{runtime}/*", "stage": stage, "reason": "known since May"}]
    record = run_matrix(assemble(f"runtimes/{runtime}", expect=expect), NATIVE).only()
    assert record.outcome is outcome
    assert record.expected == (None if outcome is Outcome.FAIL else "known since May")


def test_an_exclusion_is_a_skip_with_its_reason(assemble: Assemble, run_matrix: RunMatrix) -> None:
    root = assemble("runtimes/counted", exclude=[{"cells": "*/dynamic/*", "reason": "too slow"}])
    ran = run_matrix(root, "*/native/*", "*/dynamic/*")
    assert ended_at(ran.only("*/dynamic/*")) == (Outcome.SKIP, Stage.PLAN)
    assert ran.only("*/dynamic/*").reason == "too slow"
    assert len(executions(root)) == 1


# --- Plug-ins that cannot be used, and environments that cannot be built ---------------------------------------------


def test_broken_plugins_cost_their_own_cells_only(assemble: Assemble, run_matrix: RunMatrix) -> None:
    root = assemble("runtimes/plain", "runtimes/no_function", "runtimes/wrong_declaration", "targets/wrong_platform")
    (root / "runtimes" / "syntax_error.py").write_text("def run(session, inputs:\n")
    (root / "exporters" / "syntax_error.py").write_text("import no_such_module\n")
    ran = run_matrix(root)
    reasons = {cell: record.reason for cell, record in ran.records.items() if record.outcome is Outcome.ERROR}
    assert {cell for cell, record in ran.records.items() if record.outcome is Outcome.PASS} == {
        f"linear/free/{path}/plain/here" for path in ("native", "dynamic", "graph")
    }
    assert reasons.keys() == {
        "-/-/-/no_function/here",
        "-/-/-/wrong_declaration/here",
        "-/-/-/syntax_error/here",
        "syntax_error/free/-/-/here",
        "-/-/-/-/wrong_platform",
    }
    assert "degraded(session) is missing" in reasons["-/-/-/no_function/here"]
    assert "run(session, inputs, device) should be run(session, inputs)" in reasons["-/-/-/no_function/here"]
    assert "'three' is no version specifier" in reasons["-/-/-/wrong_declaration/here"]
    assert "'numpy >= one' is no requirement" in reasons["-/-/-/wrong_declaration/here"]
    assert "SyntaxError" in reasons["-/-/-/syntax_error/here"]
    assert "ModuleNotFoundError" in reasons["syntax_error/free/-/-/here"]
    assert all(record.stage is Stage.PLAN for record in ran.records.values() if record.outcome is Outcome.ERROR)


def test_a_broken_data_set_costs_its_models_only(assemble: Assemble, run_matrix: RunMatrix) -> None:
    root = assemble("runtimes/plain", models=("free", "points"))
    (root / "data" / "points.py").write_text("FILES = []\n")
    ran = run_matrix(root, "*/native/*")
    assert ran.only("*/free/*").outcome is Outcome.PASS
    assert ended_at(ran.only("*/points/*")) == (Outcome.ERROR, Stage.PLAN)
    assert "VIEWS is missing" in ran.only("*/points/*").reason


@pytest.mark.usefixtures("offline")
def test_an_environment_that_cannot_be_built_is_an_error_of_its_own_cells(
    assemble: Assemble, run_matrix: RunMatrix, store: Store
) -> None:
    before = sorted((store.root / "envs").iterdir())
    ran = run_matrix(assemble("runtimes/plain", "runtimes/unbuildable"), NATIVE)
    record = ran.only("*/unbuildable/*")
    assert ended_at(record) == (Outcome.ERROR, Stage.PREPARE)
    assert "environment of unbuildable: could not resolve" in record.reason
    assert "portmatrix-no-such-package==1.0" in record.log_tail
    assert ran.only("*/plain/*").outcome is Outcome.PASS
    assert sorted((store.root / "envs").iterdir()) == before
    assert not list((store.root / "tmp").iterdir())


@pytest.mark.usefixtures("one_interpreter")
def test_without_an_interpreter_the_cells_are_not_run(assemble: Assemble, run_matrix: RunMatrix) -> None:
    ran = run_matrix(assemble("runtimes/plain", "runtimes/from_the_future"), NATIVE)
    record = ran.only("*/from_the_future/*")
    assert ended_at(record) == (Outcome.NOT_RUN, Stage.PREPARE)
    assert "needs CPython >=4.7; this machine has" in record.reason
    assert ran.only("*/plain/*").outcome is Outcome.PASS


@pytest.mark.usefixtures("one_interpreter")
def test_without_an_interpreter_an_exporter_is_not_run(assemble: Assemble, run_matrix: RunMatrix) -> None:
    root = assemble("exporters/linear", "exporters/raises_train", "runtimes/plain")
    file = root / "exporters" / "raises_train.py"
    file.write_text(file.read_text().replace("ENVIRONMENT = {", 'ENVIRONMENT = {"python": ">=4.7", '))
    ran = run_matrix(root, NATIVE)
    assert ended_at(ran.only("raises_train/*")) == (Outcome.NOT_RUN, Stage.PREPARE)
    assert ran.only("linear/*").outcome is Outcome.PASS


# --- Closed doors ---------------------------------------------------------------------------------------------------


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A TCP listener on this machine."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


@pytest.fixture
def no_unshare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine on which the kernel cannot be asked to close the network."""
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setenv("PATH", str(empty))
    workers.network_closure.cache_clear()
    yield
    workers.network_closure.cache_clear()


def was_reached(listener: socket.socket) -> bool:
    try:
        listener.accept()[0].close()
    except BlockingIOError:
        return False
    return True


def dialling(assemble: Assemble, runtime: str, listener: socket.socket) -> Path:
    root = assemble(f"runtimes/{runtime}")
    (root / "runtimes" / "port").write_text(str(listener.getsockname()[1]))
    return root


def test_a_worker_has_no_network_by_its_namespace(
    assemble: Assemble, run_matrix: RunMatrix, listener: socket.socket
) -> None:
    if workers.network_closure()[1] != "namespace":
        pytest.skip("this system lends no network namespace (unshare --net)")
    record = run_matrix(dialling(assemble, "dials", listener), NATIVE).only()
    assert record.facts["network"] == "namespace"
    assert record.reason.startswith("refused: ")
    assert not was_reached(listener)


@pytest.mark.usefixtures("no_unshare")
def test_a_worker_has_no_network_by_the_audit_hook(
    assemble: Assemble, run_matrix: RunMatrix, listener: socket.socket
) -> None:
    record = run_matrix(dialling(assemble, "dials", listener), NATIVE).only()
    assert record.facts["network"] == "audit-hook"
    assert record.reason == "refused: PermissionError"
    assert not was_reached(listener)


def test_a_declared_network_is_open(assemble: Assemble, run_matrix: RunMatrix, listener: socket.socket) -> None:
    record = run_matrix(dialling(assemble, "dials_allowed", listener), NATIVE).only()
    assert record.facts["network"] == "open"
    assert record.reason == "connected"
    assert was_reached(listener)


def test_a_worker_sees_no_secret_and_no_pip(
    assemble: Assemble, run_matrix: RunMatrix, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FOO_TOKEN", "AWS_SECRET_ACCESS_KEY", "PYTHONPATH", "PIP_INDEX_URL", "HOME"):
        monkeypatch.setenv(name, "hunter2")
    record = run_matrix(assemble("runtimes/looks_around"), NATIVE).only()
    seen = json.loads(record.reason)
    assert "hunter2" not in record.reason
    assert "FOO_TOKEN" not in seen["environment"]
    assert seen["environment"]["DECLARED"] == "yes"
    assert seen["environment"]["HOME"] == seen["folder"]
    assert seen["pip"] is None
    assert seen["status"] != 0


# --- Reuse ----------------------------------------------------------------------------------------------------------


def test_an_unchanged_cell_is_reused_and_says_so(assemble: Assemble, run_matrix: RunMatrix) -> None:
    root = assemble("runtimes/counted", "exporters/counted_training")
    first, second = run_matrix(root).only(), run_matrix(root).only()
    assert not first.reused
    assert second.reused
    assert second.measured == first.started
    assert ended_at(second) == ended_at(first)
    assert (len(trainings(root)), len(executions(root))) == (1, 1)


def test_fresh_makes_and_runs_everything_again(assemble: Assemble, run_matrix: RunMatrix) -> None:
    root = assemble("runtimes/counted", "exporters/counted_training")
    run_matrix(root)
    assert not run_matrix(root, fresh=True).only().reused
    assert (len(trainings(root)), len(executions(root))) == (2, 2)


def test_a_changed_runtime_runs_its_own_cells_again(assemble: Assemble, run_matrix: RunMatrix) -> None:
    root = assemble("runtimes/counted", "runtimes/plain", "exporters/counted_training")
    run_matrix(root)
    with (root / "runtimes" / "counted.py").open("a") as stream:
        stream.write("# changed\n")
    again = run_matrix(root)
    assert {record.cell.split("/")[3]: record.reused for record in again.records.values()} == {
        "counted": False,
        "plain": True,
    }
    assert (len(trainings(root)), len(executions(root))) == (1, 2)


def test_a_changed_exporter_trains_again(assemble: Assemble, run_matrix: RunMatrix) -> None:
    root = assemble("runtimes/counted", "exporters/counted_training")
    run_matrix(root)
    with (root / "exporters" / "counted_training.py").open("a") as stream:
        stream.write("# changed\n")
    record = run_matrix(root).only()
    assert len(trainings(root)) == 2
    # The same bytes came out, so that the cell itself rests on nothing new.
    assert record.reused


@pytest.mark.usefixtures("offline")
def test_an_error_is_never_reused(assemble: Assemble, run_matrix: RunMatrix) -> None:
    root = assemble("runtimes/unbuildable")
    for _ in range(2):
        record = run_matrix(root, NATIVE).only()
        assert record.outcome is Outcome.ERROR
        assert not record.reused


# --- Full disks -----------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MiB and 300 files."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounting a small disk takes root on Linux")
    place = tmp_path / "small-disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m,nr_inodes=300", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.parametrize("exporter", ["huge", "huge_samples"])
def test_a_bundle_that_the_disk_cannot_hold_is_an_error_of_its_own_cells(
    exporter: str, small_disk: Path, assemble: Assemble, run_matrix: RunMatrix, make_store: Callable[[Path], Store]
) -> None:
    kept = make_store(small_disk / "store")
    root = assemble("exporters/linear", f"exporters/{exporter}", "runtimes/plain")
    ran = run_matrix(root, NATIVE, kept=kept)
    record = ran.only(f"{exporter}/*")
    assert ended_at(record) == (Outcome.ERROR, Stage.EXPORT)
    assert "No space left on device" in record.reason or "the disk is full" in record.reason
    assert ran.only("linear/*").outcome is Outcome.PASS
    assert not list((kept.root / "tmp").iterdir()), "what was half written is gone"


def test_a_disk_that_is_full_while_a_cell_runs_is_an_error(
    small_disk: Path, assemble: Assemble, run_matrix: RunMatrix, make_store: Callable[[Path], Store]
) -> None:
    kept = make_store(small_disk / "store")
    root = assemble("runtimes/plain")
    run_matrix(root, NATIVE, kept=kept)
    fill(small_disk / "ballast")
    record = run_matrix(root, NATIVE, kept=kept, rerun=True).only()
    assert record.outcome is Outcome.ERROR
    assert "No space left on device" in record.reason or "the disk is full" in record.reason


def fill(file: Path) -> None:
    """Take all that is left of the disk."""
    with file.open("wb", buffering=0) as stream:
        try:
            while stream.write(b"x" * 4096):
                pass
        except OSError:
            return


def use_up_names(folder: Path) -> None:
    for number in itertools.count():
        (folder / f"ballast-{number}").touch()


def test_a_disk_without_room_for_another_folder_is_an_error(
    small_disk: Path, assemble: Assemble, run_matrix: RunMatrix, make_store: Callable[[Path], Store]
) -> None:
    kept = make_store(small_disk / "store")
    root = assemble("runtimes/plain")
    run_matrix(root, NATIVE, kept=kept)
    with pytest.raises(OSError, match="No space left"):
        use_up_names(small_disk)
    record = run_matrix(root, NATIVE, kept=kept, rerun=True).only()
    assert ended_at(record) == (Outcome.ERROR, Stage.PREPARE)
    assert "the disk is full" in record.reason


def test_a_results_file_on_a_full_disk_keeps_what_it_had(
    small_disk: Path, assemble: Assemble, store: Store, run_matrix: RunMatrix
) -> None:
    loaded = load(assemble("runtimes/plain", models=("free", "points")))
    planned = plan(axes(loaded), [], Selection())
    file = small_disk / "records.jsonl"

    class Quiet:
        def begins(self, what: str) -> None: ...

        def ended(self, record: object) -> None:
            fill(small_disk / "ballast")

        def says(self, text: str) -> None: ...

    with Journal(file, resume=False) as journal:
        matrix_run = MatrixRun(loaded, store, journal, Quiet(), Options("r"))
        with pytest.raises(DiskFull, match=r"records\.jsonl could not be written"):
            matrix_run.execute(planned)
    before = records_of(file)
    assert 1 <= len(before) < len(planned.cells)
    (small_disk / "ballast").unlink()
    with Journal(file, resume=True) as journal:
        assert {record.cell for record in journal.found} == before.keys()
        MatrixRun(loaded, store, journal, Quiet(), Options("r")).execute(planned, done=before)
    assert len(records_of(file)) == len(planned.cells)


# --- Engines that are killed, interrupted, or not alone -------------------------------------------------------------


def held_run(root: Path, number: int) -> None:
    """Make the runtime ``counted`` stop in its execution of that number."""
    (root / "runtimes" / f"hold-{number}").touch()


def test_a_killed_engine_loses_the_cell_in_flight_and_nothing_else(
    assemble: Assemble, start_engine: StartEngine, store: Store, tmp_path: Path
) -> None:
    root = assemble("runtimes/counted", models=("a", "b", "c", "d"))
    file = tmp_path / "records.jsonl"
    held_run(root, 3)
    arguments = ("run", NATIVE.replace("free", "*"), "--suite", root, "-o", file, "-j", "1")
    engine = start_engine(*arguments)
    eventually(lambda: len(executions(root)) == 3, "the third cell")
    eventually(lambda: len(records_of(file)) == 2, "the records of the first two")
    before = records_of(file)
    below = engine.below()
    assert below
    engine.kill()
    eventually(lambda: gone(below), "the end of the worker")
    left = list((store.root / "tmp").iterdir())
    assert left, "a killed engine cannot clean up"

    (root / "runtimes" / "hold-3").unlink()
    status, output = start_engine(*arguments, "--resume").end()
    assert status == 0, output
    after = records_of(file)
    assert len(before) == 2
    assert {cell: after[cell] for cell in before} == before
    assert len(after) == 4
    noted = executions(root)
    assert sorted(noted.count(bundle) for bundle in set(noted)) == [1, 1, 1, 2], "only the cell in flight ran twice"
    assert all(noted.count(record.bundle or "") == 1 for record in before.values())
    assert not list((store.root / "tmp").iterdir()), "the next engine cleaned up"


def test_an_interrupted_run_records_no_abandoned_cell(
    assemble: Assemble, start_engine: StartEngine, store: Store, tmp_path: Path
) -> None:
    root = assemble("runtimes/counted", models=("a", "b", "c"))
    file = tmp_path / "records.jsonl"
    held_run(root, 2)
    engine = start_engine("run", "*/native/*", "--suite", root, "-o", file, "-j", "1")
    eventually(lambda: len(executions(root)) == 2, "the second cell")
    eventually(lambda: records_of(file), "the record of the first")
    below = engine.below()
    engine.interrupt()
    status, output = engine.end()
    assert status == 130
    assert "interrupted; --resume goes on from here" in output
    assert [record.outcome for record in records_of(file).values()] == [Outcome.PASS]
    eventually(lambda: gone(below), "the end of the worker")
    assert not list((store.root / "tmp").iterdir())


def test_two_engines_on_one_store_train_every_model_once(
    assemble: Assemble, start_engine: StartEngine, tmp_path: Path
) -> None:
    models = ("a", "bb", "ccc")
    root = assemble("exporters/counted_training", "runtimes/plain", models=models)
    files = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]
    engines = [start_engine("run", "--suite", root, "-o", file, "-j", "2") for file in files]
    for engine in engines:
        status, output = engine.end()
        assert status == 0, output
    assert trainings(root) == sorted(models)
    for file in files:
        found = records_of(file)
        assert len(found) == 3
        assert {record.outcome for record in found.values()} == {Outcome.PASS}


def test_a_second_engine_refuses_the_same_results_file(
    assemble: Assemble, start_engine: StartEngine, tmp_path: Path
) -> None:
    root = assemble("runtimes/counted")
    file = tmp_path / "records.jsonl"
    held_run(root, 1)
    arguments = ("run", NATIVE, "--suite", root, "-o", file)
    first = start_engine(*arguments)
    eventually(lambda: executions(root), "the first cell")
    status, output = start_engine(*arguments).end()
    assert status == 2
    assert "is being written by another run" in output
    (root / "runtimes" / "hold-1").unlink()
    assert first.end()[0] == 0
    assert len(records_of(file)) == 1


def test_given_bundles_are_run_and_nothing_is_trained(assemble: Assemble, run_matrix: RunMatrix, store: Store) -> None:
    root = assemble("exporters/counted_training", "runtimes/plain", models=("a", "bb"))
    made = run_matrix(root, "*/a/*").only()
    assert made.bundle is not None
    shutil.rmtree(store.root / "recipes")
    shutil.rmtree(store.root / "cells")
    given = [Bundle(made.bundle, store.get_bundle(made.bundle))]
    ran = run_matrix(root, give=given)
    assert ran.only("*/a/*").outcome is Outcome.PASS
    assert ended_at(ran.only("*/bb/*")) == (Outcome.NOT_RUN, Stage.EXPORT)
    assert trainings(root) == ["a"]
