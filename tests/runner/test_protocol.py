"""The runner as the engine runs it: the protocol of worker.py, line by line and by way of the engine's own end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from conftest import Speak
from spoken import Made, make_bundle, points, stub_bundle
from tiny_suite import eventually

from portmatrix import suite, worker, workers
from portmatrix.runner import build
from portmatrix.types import Stage
from portmatrix.workers import Failure, Launch, Lease, Limits

LIMITS = Limits(30, 512)
#: The inputs of a stub's bundle.
FILES = {"x": "samples/b0.inputs0.npy"}


def run(speak: Speak, stub: Path, made: Made, tmp_path: Path, **changes: Any) -> tuple[dict[str, Any], list[str]]:
    """Have one bundle run; returns the answer and the stages announced."""
    spoken = speak(stub)
    answer = spoken.ask(made.request(tmp_path / "out", **changes))
    return answer, spoken.events


# --- Answers --------------------------------------------------------------------------------------------------------


def test_hello_says_what_it_is(speak: Speak, stub: Path) -> None:
    answer = speak(stub).ask({"op": "hello", "packages": ["numpy"], "id": 7})
    host = suite.this_machine()
    assert (answer["id"], answer["ok"], answer["protocol"]) == (7, True, worker.PROTOCOL)
    environment = answer["environment"]
    assert environment["platform"] == f"{host.os}-{host.arch}"
    assert environment["byteorder"] == sys.byteorder
    assert environment["stub"] == "0.1"
    assert environment["runner"]
    assert environment["compiler"]


def test_run_answers_as_the_worker_in_python_does(speak: Speak, stub: Path, tmp_path: Path) -> None:
    inputs = {"a": points(seed=1), "b": points(seed=2)}
    made = make_bundle(
        tmp_path / "bundle",
        b"copy a,b p,q",
        [(inputs, {"p": inputs["a"], "q": inputs["b"]}), ({"a": points(2, 5), "b": points(2, 5)}, {"p": 0, "q": 0})],
    )
    answer, events = run(speak, stub, made, tmp_path)
    assert events == ["LOAD", "RUN", "COMPARE"]
    assert (answer["id"], answer["ok"], answer["degraded"]) == (1, True, "")
    assert answer["outputs"] == [
        {"p": "s0.out0.npy", "q": "s0.out1.npy"},
        {"p": "s1.out0.npy", "q": "s1.out1.npy"},
    ]
    assert set(answer["seconds"]) == {"PREPARE", "LOAD", "RUN", "COMPARE"}
    assert all(seconds >= 0 for seconds in answer["seconds"].values())
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "s0.out1.npy"), inputs["b"])
    assert np.load(tmp_path / "out" / "s1.out0.npy").shape == (2, 5, 3)


def test_what_runs_degraded_says_so(speak: Speak, stub: Path, tmp_path: Path) -> None:
    answer, _ = run(speak, stub, stub_bundle(tmp_path / "bundle", "degraded"), tmp_path)
    assert answer["degraded"] == 'runs on "paper"'


@pytest.mark.parametrize(
    ("behaviour", "stage", "reason"),
    [
        ("refuse-to-load", "LOAD", "line one line two, 1 threads, 0"),
        ("refuse-to-run", "RUN", 'not with "these" inputs ?'),
        ("grow", "COMPARE", "output y changes its dtype or shape between calls"),
    ],
)
def test_a_refusal_is_the_models_at_its_stage(
    behaviour: str, stage: str, reason: str, speak: Speak, stub: Path, tmp_path: Path
) -> None:
    answer, _ = run(speak, stub, stub_bundle(tmp_path / "bundle", behaviour), tmp_path)
    assert (answer["ok"], answer["stage"], answer["fault"]) == (False, stage, "model")
    assert answer["reason"].startswith(reason)


def test_a_long_reason_keeps_its_beginning_and_its_end(speak: Speak, stub: Path, tmp_path: Path) -> None:
    answer, _ = run(speak, stub, stub_bundle(tmp_path / "bundle", "refuse-to-load"), tmp_path)
    assert len(answer["reason"]) == 500
    assert " ... " in answer["reason"]
    assert answer["reason"].endswith("0 the end")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"op": "train"}, "unknown request 'train'; this worker answers hello, run and measure"),
        ({"op": None}, "unknown request ''"),
        ({"format": "onnx"}, "the artifact is of format onnx; this runner is for stub"),
        ({"threads": 0}, "'threads' is missing or wrong"),
        ({"threads": "1"}, "'threads' is missing or wrong"),
        ({"sets": None}, "'sets' is missing or no list"),
        ({"bundle": "/nowhere"}, "cannot open /nowhere/samples/b0.inputs0.npy"),
        ({"outputs": None}, "'outputs' is missing or wrong"),
        ({"signature": {"inputs": [], "outputs": []}}, "object with one file for each tensor"),
        ({"sets": [{"batch": 2, "inputs": FILES}]}, "'sets[].calls' is missing or no whole number"),
        ({"sets": [{"batch": 2, "inputs": FILES, "calls": 3}]}, "expected 3 calls, stacked"),
    ],
)
def test_a_request_that_cannot_be_carried_out_is_the_harnesss(
    changes: dict[str, Any], reason: str, speak: Speak, stub: Path, tmp_path: Path
) -> None:
    answer, events = run(speak, stub, stub_bundle(tmp_path / "bundle"), tmp_path, **changes)
    assert (answer["ok"], answer["stage"], answer["fault"], events) == (False, "PREPARE", "harness", [])
    assert reason in answer["reason"]


def test_outputs_that_cannot_be_written_are_the_harnesss(speak: Speak, stub: Path, tmp_path: Path) -> None:
    spoken = speak(stub)
    request = stub_bundle(tmp_path / "bundle").request(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    answer = spoken.ask(request)
    assert (answer["ok"], answer["stage"], answer["fault"]) == (False, "COMPARE", "harness")
    assert "cannot write" in answer["reason"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_a_full_disk_is_named_and_is_the_harnesss(speak: Speak, stub: Path, tmp_path: Path) -> None:
    request = stub_bundle(tmp_path / "bundle").request(tmp_path / "out")
    (tmp_path / "out" / "s0.out0.npy").symlink_to("/dev/full")
    answer = speak(stub).ask(request)
    assert (answer["ok"], answer["fault"]) == (False, "harness")
    assert answer["reason"].startswith("the disk is full: ")


def test_a_library_that_is_not_there_is_the_harnesss(speak: Speak, stub: Path, tmp_path: Path) -> None:
    spoken = speak(stub, env={"PORTMATRIX_LIBRARY": str(tmp_path / "none.so")})
    answer = spoken.ask({"op": "hello", "id": 1})
    assert (answer["ok"], answer["stage"], answer["fault"]) == (False, "PREPARE", "harness")
    answer = spoken.ask(stub_bundle(tmp_path / "bundle").request(tmp_path / "out"))
    assert (answer["ok"], answer["stage"], answer["fault"]) == (False, "LOAD", "harness")
    assert "none.so" in answer["reason"]


@pytest.mark.parametrize("line", [b"", b"nonsense", b"[1, 2]", b'"run"', b"\xff\xfe", b'{"op": "run"', b"{" * 10_000])
def test_a_line_that_is_no_request_is_answered_and_the_next_is_served(line: bytes, speak: Speak, stub: Path) -> None:
    spoken = speak(stub)
    answer = spoken.ask(line)
    assert (answer["ok"], answer["id"], answer["fault"]) == (False, None, "harness")
    assert spoken.ask({"op": "hello", "id": "two"})["id"] == "two"
    assert spoken.end() == 0


def test_a_line_without_end_is_refused_once_it_is_too_long(speak: Speak, stub: Path) -> None:
    spoken = speak(stub)
    answer = spoken.ask(b'{"op": "' + b"a" * (65 << 20) + b'"}')
    assert "longer than" in answer["reason"]
    assert spoken.ask({"op": "hello", "id": 2})["ok"]


# --- Times ----------------------------------------------------------------------------------------------------------


def test_measure_answers_as_the_worker_in_python_does(speak: Speak, stub: Path, tmp_path: Path) -> None:
    arrays = [points(), points(2, 5)]
    made = make_bundle(tmp_path / "bundle", b"copy x y", [({"x": value}, {"y": value}) for value in arrays])
    spoken = speak(stub)
    answer = spoken.ask(made.symbolic().measuring(id=5))
    assert spoken.events == ["LOAD", "MEASURE"]
    assert set(answer) == {"id", "ok", "protocol", "load_seconds", "first_seconds", "peak_mb", "timings"}
    assert (answer["id"], answer["ok"], answer["protocol"]) == (5, True, worker.PROTOCOL)
    assert answer["load_seconds"] >= 0
    assert answer["first_seconds"] >= 0
    assert len(answer["timings"]) == 2
    for timing in answer["timings"]:
        assert set(timing) == {"inner", "samples", "warm", "stable"}
        assert timing["inner"] >= 1
        assert timing["warm"] >= 1
        assert timing["stable"] in {True, False}
        assert 1 <= len(timing["samples"]) <= 3
        assert all(0 < sample < 30 for sample in timing["samples"])


def test_with_time_enough_all_samples_are_taken_and_the_warm_up_has_chunks(
    speak: Speak, stub: Path, tmp_path: Path
) -> None:
    made = stub_bundle(tmp_path / "bundle")
    (timing,) = speak(stub).ask(made.measuring(seconds=5, samples=5))["timings"]
    assert len(timing["samples"]) == 5
    assert timing["warm"] >= worker.STABLE_CHUNKS


def test_without_time_there_is_one_sample_and_no_word_that_it_is_stable(
    speak: Speak, stub: Path, tmp_path: Path
) -> None:
    made = stub_bundle(tmp_path / "bundle")
    (timing,) = speak(stub).ask(made.measuring(seconds=1e-300, samples=100_000))["timings"]
    assert (len(timing["samples"]), timing["stable"]) == (1, False)


def test_the_rules_are_those_of_the_worker_in_python() -> None:
    source = (build.SOURCES / "measure.c").read_text()
    for rule in ("CLOCK_SHARE", "STABLE_CHUNKS", "CHUNK_SECONDS", "STABLE"):
        assert f"{rule} = {getattr(worker, rule)}" in source


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="this system does not tell")
def test_memory_is_told_where_the_system_tells_it(speak: Speak, stub: Path, tmp_path: Path) -> None:
    answer = speak(stub).ask(stub_bundle(tmp_path / "bundle").measuring())
    # A sandbox may show the file and not let it be written: then Python is not told either.
    if worker.resident() is None:
        assert answer["peak_mb"] is None
    else:
        assert 0 <= answer["peak_mb"] < 64


def test_the_batch_is_cut_from_the_first_call(speak: Speak, stub: Path, tmp_path: Path) -> None:
    made = stub_bundle(tmp_path / "bundle", "tell").symbolic()
    first = points()[0, 0, 0]
    spoken = speak(stub)
    assert spoken.ask(made.measuring(1, 2))["ok"]
    log = spoken.log.read_text()
    assert [line for line in log.splitlines() if line.startswith("given")] == [
        f"given (1, 3) from {first:.6f}",
        f"given (2, 3) from {first:.6f}",
    ]


def test_inputs_are_given_and_outputs_read_once_for_all_timed_calls_of_a_batch(
    speak: Speak, stub: Path, tmp_path: Path
) -> None:
    made = stub_bundle(tmp_path / "bundle", "count").symbolic()
    spoken = speak(stub)
    assert spoken.ask(made.measuring(1, 2, seconds=0.1))["ok"]
    assert spoken.ask(made.request(tmp_path / "out"))["ok"]
    assert spoken.end() == 0
    assert spoken.log.read_text().splitlines() == [
        "given 2 times, read 2 times, called more often",
        "given 4 times, read 4 times, called as often",
    ]


def test_a_batch_that_is_fixed_is_not_cut(speak: Speak, stub: Path, tmp_path: Path) -> None:
    spoken = speak(stub)
    assert spoken.ask(stub_bundle(tmp_path / "bundle", "tell").measuring(1))["ok"]
    assert "given (2, 3)" in spoken.log.read_text()
    assert "given (1, 3)" not in spoken.log.read_text()


@pytest.mark.parametrize(
    ("behaviour", "stage", "reason"),
    [
        ("refuse-to-load", "LOAD", "line one line two, 1 threads, 0"),
        ("refuse-to-run", "MEASURE", 'not with "these" inputs ?'),
        ("tire", "MEASURE", "not a fourth time"),
    ],
)
def test_a_model_that_fails_while_it_is_timed_is_at_fault(
    behaviour: str, stage: str, reason: str, speak: Speak, stub: Path, tmp_path: Path
) -> None:
    spoken = speak(stub)
    answer = spoken.ask(stub_bundle(tmp_path / "bundle", behaviour).measuring())
    assert (answer["ok"], answer["stage"], answer["fault"]) == (False, stage, "model")
    assert answer["reason"].startswith(reason)
    assert spoken.events[-1] == stage


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format": "onnx"}, "the artifact is of format onnx; this runner is for stub"),
        *(({"threads": wrong}, "'threads' is missing or wrong") for wrong in (None, 0, 1.5)),
        *(({"samples": wrong}, "'samples' is missing or wrong") for wrong in (None, 0, -1, 2.5, "3", 100_001)),
        *(({"seconds": wrong}, "'seconds' is missing or wrong") for wrong in (None, 0, -1.0, "1", 601, True)),
        ({"sets": []}, "'sets' is missing or no list"),
        ({"sets": [{"inputs": FILES}]}, "'sets[].batch' is missing or no whole number"),
        ({"sets": [{"inputs": FILES, "batch": 0}]}, "'sets[].batch' is missing or no whole number"),
        ({"sets": [{"batch": 1}]}, "'sets[].inputs' is missing"),
        ({"sets": [{"inputs": FILES, "batch": 3}]}, "calls of shape (2, 3); expected at least 3 rows"),
        ({"sets": [{"inputs": {"x": "../x.npy"}, "batch": 1}]}, "no name of a file inside the bundle"),
        ({"signature": None}, "'signature.inputs' is missing or no list of tensors"),
        ({"signature": {"inputs": [{"name": "x"}], "outputs": []}}, "no list of tensors with shapes"),
        ({"bundle": "/nowhere"}, "cannot open /nowhere/samples/b0.inputs0.npy"),
    ],
)
def test_a_measurement_that_cannot_be_made_is_the_harnesss(
    changes: dict[str, Any], reason: str, speak: Speak, stub: Path, tmp_path: Path
) -> None:
    spoken = speak(stub)
    answer = spoken.ask(stub_bundle(tmp_path / "bundle").symbolic().measuring(**changes))
    assert (answer["ok"], answer["stage"], answer["fault"], spoken.events) == (False, "PREPARE", "harness", [])
    assert reason in answer["reason"]


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((0, 2, 3), np.float32), "has shape (0, 2, 3); expected at least 1 calls"),
        (np.zeros((), np.float32), "has shape (); expected at least 1 calls"),
        (np.zeros(4, np.float32), "has calls of shape (); expected at least 1 rows"),
    ],
)
def test_samples_without_a_call_or_rows_are_the_harnesss(
    array: Any, reason: str, speak: Speak, stub: Path, tmp_path: Path
) -> None:
    made = stub_bundle(tmp_path / "bundle").symbolic()
    np.save(made.folder / FILES["x"], array)
    answer = speak(stub).ask(made.measuring(1))
    assert (answer["ok"], answer["stage"], answer["fault"]) == (False, "PREPARE", "harness")
    assert reason in answer["reason"]


def test_a_library_that_is_not_there_is_the_harnesss_before_anything_is_timed(
    speak: Speak, stub: Path, tmp_path: Path
) -> None:
    spoken = speak(stub, env={"PORTMATRIX_LIBRARY": str(tmp_path / "none.so")})
    answer = spoken.ask(stub_bundle(tmp_path / "bundle").measuring())
    assert (answer["ok"], answer["stage"], answer["fault"], spoken.events) == (False, "PREPARE", "harness", [])
    assert "none.so" in answer["reason"]


# --- What a runtime does with its streams ----------------------------------------------------------------------------


def test_what_a_runtime_prints_goes_to_the_log(speak: Speak, stub: Path, tmp_path: Path) -> None:
    spoken = speak(stub)
    answer = spoken.ask(stub_bundle(tmp_path / "bundle", "print").request(tmp_path / "out", id=2))
    assert (answer["ok"], answer["id"]) == (True, 2)
    log = spoken.log.read_text()
    assert log.count("said on standard output") == 4
    assert log.count("said on standard error") == 4


def test_a_runtime_cannot_read_what_the_engine_says(speak: Speak, stub: Path, tmp_path: Path) -> None:
    spoken = speak(stub)
    assert spoken.ask(stub_bundle(tmp_path / "bundle", "read").request(tmp_path / "out"))["ok"]
    assert f"read {-1}" in spoken.log.read_text()
    assert spoken.ask({"op": "hello", "id": 3})["id"] == 3


# --- At the engine's end --------------------------------------------------------------------------------------------


def lease(stub: Path, tmp_path: Path) -> Lease:
    launch = Launch("stub", (), (str(stub), "--worker"), {}, network=False, packages=("numpy",))
    return Lease(launch, tmp_path / "lease", LIMITS)


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("segfault", "the worker died of SIGSEGV"),
        ("abort", "the worker died of SIGABRT"),
        ("exit", "the worker ended itself with status 7"),
    ],
)
@pytest.mark.skipif(os.name != "posix", reason="only here is a death told by its signal")
def test_a_death_is_put_down_to_its_stage_and_the_next_request_is_served(
    behaviour: str, reason: str, stub: Path, tmp_path: Path
) -> None:
    leased = lease(stub, tmp_path)
    try:
        died = leased.ask(stub_bundle(tmp_path / "bad", behaviour).request(tmp_path / "out"), LIMITS)
        assert isinstance(died, Failure)
        assert (died.stage, died.fault) == (Stage.RUN, "model")
        assert died.reason.startswith(reason)
        answer = leased.ask(stub_bundle(tmp_path / "good").request(tmp_path / "out"), LIMITS)
        assert not isinstance(answer, Failure)
        assert leased.environment["stub"] == "0.1"
    finally:
        leased.close()


@pytest.mark.skipif(os.name != "posix", reason="only here is a death told by its signal")
def test_a_death_while_it_is_timed_is_put_down_to_measure(stub: Path, tmp_path: Path) -> None:
    leased = lease(stub, tmp_path)
    try:
        died = leased.ask(stub_bundle(tmp_path / "bad", "segfault").measuring(), LIMITS)
        assert isinstance(died, Failure)
        assert (died.stage, died.fault) == (Stage.MEASURE, "model")
    finally:
        leased.close()


def test_a_runtime_that_hangs_is_stopped(stub: Path, tmp_path: Path) -> None:
    leased = lease(stub, tmp_path)
    try:
        hung = leased.ask(stub_bundle(tmp_path / "bad", "hang").request(tmp_path / "out"), LIMITS._replace(seconds=1))
        assert isinstance(hung, Failure)
        assert (hung.stage, hung.reason) == (Stage.RUN, "did not end within 1 s")
    finally:
        leased.close()


def test_a_runner_that_cannot_say_hello_is_no_worker(stub: Path, tmp_path: Path) -> None:
    env = {"PORTMATRIX_LIBRARY": str(tmp_path / "none.so")}
    launch = Launch("stub", (), (str(stub), "--worker"), env, network=False, packages=())
    failure = workers.start(launch, tmp_path / "home", 1, LIMITS)
    assert isinstance(failure, Failure)
    assert (failure.stage, failure.fault) == (Stage.PREPARE, "harness")
    assert "none.so" in failure.reason


PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.argv[1], "--worker"], stdin=int(sys.argv[2]), stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux ends a process with its parent")
def test_it_dies_with_the_engine(stub: Path) -> None:
    # The other end of its input is here, so that it does not end for want of requests.
    read, write = os.pipe()
    os.write(write, b'{"op": "hello", "id": 1}\n')
    command = [sys.executable, "-c", PARENT, str(stub), str(read)]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, pass_fds=(read,))
    try:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, "the runner's death")
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
        os.close(read)
        os.close(write)


# --- Endurance ------------------------------------------------------------------------------------------------------


def test_hundreds_of_requests_leave_nothing_behind(speak: Speak, sanitized: Path, tmp_path: Path) -> None:
    bundles = [
        stub_bundle(tmp_path / behaviour, behaviour)
        for behaviour in ("copy", "refuse-to-load", "refuse-to-run", "grow")
    ]
    requests = [json.dumps(made.request(tmp_path / "out")).encode() for made in bundles]
    requests += [json.dumps(made.measuring()).encode() for made in bundles[1:3]]
    requests += [b"nonsense", b'{"op": "train", "id": 1}', requests[0].replace(b"b0.inputs0", b"none")]
    spoken = speak(sanitized)
    for _ in range(60):
        answers = [spoken.ask(request) for request in requests]
        assert [answer["ok"] for answer in answers] == [True, *[False] * 8]
    assert spoken.end() == 0, spoken.log.read_text(errors="replace")[-4000:]
