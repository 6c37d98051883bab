"""The MEASURE stage over the tiny suite: what is timed, against what, and what becomes of a cell that cannot be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_suite import Assemble, RunMatrix, Witness

from portmatrix import measure, suite
from portmatrix.bundle import Manifest
from portmatrix.matrix import MatrixRun, Options
from portmatrix.measure import Measuring
from portmatrix.store import Store
from portmatrix.types import Outcome, Reach, Record, Stage
from portmatrix.workers import Lease, Limits

LATENCY = {"groups": 2, "samples": 20, "seconds": 0.2, "threads": [1], "baseline": "plain"}
Measure = Callable[..., dict[str, Record]]


@pytest.fixture
def measured(store: Store, run_matrix: RunMatrix, assemble: Assemble) -> Measure:
    """Runs a suite of the runtimes named, and measures those of its cells that a glob matches, by cell."""

    def make(*runtimes: str, glob: str = "*", **latency: Any) -> dict[str, Record]:
        root = assemble(*(f"runtimes/{runtime}" for runtime in runtimes), latency={**LATENCY, **latency})
        ran = run_matrix(root)
        return session(root, list(ran.records.values()), store, glob)

    return make


def session(root: Path, records: list[Record], store: Store, glob: str = "*", name: str = "s") -> dict[str, Record]:
    loaded = suite.load(root)
    witness = Witness()
    stage = Measuring(loaded, store, MatrixRun(loaded, store, witness, witness, Options(name)), name)
    chosen = measure.worth(records, loaded.spec.latency, [glob])
    return {record.cell: stage.measure(record, records) for record in chosen}


def only(found: dict[str, Record]) -> Record:
    (record,) = found.values()
    return record


def test_a_cell_gets_its_latency_beside_what_it_had(measured: Measure) -> None:
    record = only(measured("plain", "slow", glob="*/dynamic/slow/*"))
    assert (record.outcome, record.stage, record.reason) == (Outcome.PASS, None, "")
    assert record.comparisons
    assert record.run == "s"
    found = record.latency
    assert found is not None
    assert found.baseline == "linear/free/dynamic/plain/here"
    assert found.baseline_environment["numpy"] == np.__version__, "what ran the baseline is said, too"
    assert [(timing.batch, timing.threads) for timing in found.timings] == [(1, 1), (6, 1)]
    for timing, blocks in zip(found.timings, found.blocks, strict=True):
        assert (timing.samples, timing.groups, timing.inner) == (80, 2, 1)
        assert timing.p50 is not None
        assert timing.p50 >= 0.003, "the plug-in's own caller is timed"
        assert timing.p90 is not None
        assert timing.p99 is None, "80 samples are too few"
        assert timing.ratio is not None
        assert timing.ratio > 10
        assert len(blocks) == 2
    assert 0.001 <= found.first_seconds < 0.1, "the first call is one of run"
    assert found.load_seconds > 0
    assert found.artifact_bytes > 0
    assert set(found.anchors) == {"gemm_f32", "gemm_i8", "copy", "scalar"}
    assert found.host["cpu"]
    assert not found.emulated


def test_short_calls_are_timed_many_in_a_row(measured: Measure) -> None:
    record = only(measured("plain", glob="*/native/plain/*"))
    assert record.latency is not None
    (timing,) = record.latency.timings
    assert timing.inner > 1
    assert record.latency.baseline == record.cell, "the baseline itself is measured against itself"
    assert timing.ratio == pytest.approx(1, abs=0.5)


def test_the_framework_s_own_runtime_stands_in_for_a_baseline_that_is_not_there(
    store: Store, run_matrix: RunMatrix, assemble: Assemble
) -> None:
    root = assemble("runtimes/plain", "runtimes/slow", latency={**LATENCY, "baseline": "nowhere"})
    text = (root / "runtimes" / "plain.py").read_text()
    (root / "runtimes" / "linear.py").write_text(text)
    ran = run_matrix(root)
    record = only(session(root, list(ran.records.values()), store, "*/native/slow/*"))
    assert record.latency is not None
    assert record.latency.baseline == "linear/free/native/linear/here"


def test_without_any_baseline_there_are_times_and_no_ratio(measured: Measure) -> None:
    record = only(measured("slow", glob="*/native/slow/*"))
    assert record.latency is not None
    assert record.latency.baseline == ""
    assert record.latency.baseline_environment == {}
    (timing,) = record.latency.timings
    assert timing.p50 is not None
    assert timing.ratio is None


def test_the_baseline_s_own_environment_is_what_its_worker_says(
    store: Store, run_matrix: RunMatrix, assemble: Assemble, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = assemble("runtimes/plain", "runtimes/slow", latency=LATENCY)
    ran = run_matrix(root)
    asked = Lease.ask

    def told(lease: Lease, *arguments: Any, **more: Any) -> Any:
        answer = asked(lease, *arguments, **more)
        lease.environment = {**lease.environment, "worker of": lease._launch.name}
        return answer

    monkeypatch.setattr(Lease, "ask", told)
    record = only(session(root, list(ran.records.values()), store, "*/native/slow/*"))
    assert record.latency is not None
    assert record.latency.baseline_environment["worker of"] == "plain"


def test_a_baseline_is_of_the_same_model(store: Store, run_matrix: RunMatrix, assemble: Assemble) -> None:
    root = assemble("runtimes/plain", "runtimes/slow", models=("free", "points"), latency=LATENCY)
    ran = run_matrix(root)
    record = only(session(root, list(ran.records.values()), store, "*/points/native/slow/*"))
    assert record.latency is not None
    assert record.latency.baseline == "linear/points/native/plain/here"


def test_what_fails_while_it_is_measured_fails_there(measured: Measure) -> None:
    record = only(measured("plain", "tires", glob="*/native/tires/*"))
    assert (record.outcome, record.stage) == (Outcome.FAIL, Stage.MEASURE)
    assert "out of breath" in record.reason
    assert record.latency is None


def test_a_cell_whose_bundle_is_gone_keeps_its_outcome_and_says_so(
    store: Store, run_matrix: RunMatrix, assemble: Assemble, make_store: Callable[[Path], Store], tmp_path: Path
) -> None:
    root = assemble("runtimes/plain", latency=LATENCY)
    ran = run_matrix(root)
    record = only(session(root, list(ran.records.values()), make_store(tmp_path / "other"), "*/native/*"))
    assert record.outcome is Outcome.PASS
    assert "run the cell again" in str(record.facts["not_measured"])


def test_each_bundle_is_verified_once_in_a_session(
    store: Store, run_matrix: RunMatrix, assemble: Assemble, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = assemble("runtimes/plain", "runtimes/slow", latency={**LATENCY, "groups": 2, "samples": 1})
    ran = run_matrix(root)
    read: list[str] = []
    get_bundle = store.get_bundle

    def noted(digest: str) -> Manifest:
        read.append(digest)
        return get_bundle(digest)

    monkeypatch.setattr(store, "get_bundle", noted)
    measured = session(root, list(ran.records.values()), store)
    assert len(measured) > len(read)
    assert sorted(read) == sorted({record.bundle for record in measured.values() if record.bundle})


def test_an_emulated_target_is_given_more_time(
    store: Store, run_matrix: RunMatrix, assemble: Assemble, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = {"cell_seconds": 40, "memory_mb": 900}
    root = assemble("runtimes/plain", latency={**LATENCY, "groups": 2, "samples": 1, "seconds": 0.5}, limits=limits)
    ran = run_matrix(root)
    target = root / "targets" / "here.py"
    target.write_text(target.read_text().replace('{"reach": "native"}', '{"reach": "native", "slowdown": 8}'))
    given: list[Limits] = []
    asked = Lease.ask

    def noted(lease: Lease, request: dict[str, Any], limits: Limits, **more: Any) -> Any:
        given.append(limits)
        return asked(lease, request, limits, **more)

    monkeypatch.setattr(Lease, "ask", noted)
    session(root, list(ran.records.values()), store, "*/native/*")
    assert set(given) == {Limits(8 * (40 + 2 * 0.5 + measure._MARGIN_SECONDS), 900)}


def test_only_cells_that_work_are_worth_it(run_matrix: RunMatrix, assemble: Assemble) -> None:
    root = assemble("runtimes/plain", "runtimes/wrong", latency={**LATENCY, "cells": ["*/native/*"]})
    found = list(run_matrix(root).records.values())
    spec = suite.load(root).spec.latency
    assert {record.id.runtime for record in measure.worth(found, spec, ["*"])} == {"plain"}
    assert {record.id.path for record in measure.worth(found, spec, [])} == {"native"}


def test_a_machine_that_changed_is_said_to_be_unstable(
    store: Store, run_matrix: RunMatrix, assemble: Assemble, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = assemble("runtimes/plain", latency=LATENCY)
    ran = run_matrix(root)
    before, after = {"copy": 1.0, "scalar": 1.0}, {"copy": 1.0, "scalar": 1.3}
    answers = iter([before, after, after])
    monkeypatch.setattr(measure, "time_anchors", lambda: next(answers))
    loaded = suite.load(root)
    witness = Witness()
    stage = Measuring(loaded, store, MatrixRun(loaded, store, witness, witness, Options("s")), "s")
    chosen = measure.worth(ran.records.values(), loaded.spec.latency, ["*/{native,dynamic}/*"])
    first, second = (stage.measure(record, chosen).latency for record in chosen)
    assert first is not None
    assert second is not None
    assert first.unstable
    assert first.anchors["scalar"] == (1.0, 1.3)
    assert not second.unstable, "what is found after one cell is what was before the next"


def test_emulated_times_are_marked(store: Store, run_matrix: RunMatrix, assemble: Assemble) -> None:
    root = assemble("runtimes/plain", latency=LATENCY)
    ran = run_matrix(root)
    found = [record.model_copy(update={"reach": Reach.EMULATED}) for record in ran.records.values()]
    record = only(session(root, found, store, "*/native/*"))
    assert record.latency is not None
    assert record.latency.emulated


def test_nothing_is_left_running(measured: Measure, store: Store) -> None:
    measured("plain", glob="*/native/*")
    assert not list((store.root / "tmp").iterdir())


def test_each_number_of_threads_is_measured_once(measured: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "processors", lambda: 3)
    record = only(measured("plain", glob="*/native/*", threads=[1, 3, 0]))
    assert record.latency is not None
    assert [timing.threads for timing in record.latency.timings] == [1, 3]
