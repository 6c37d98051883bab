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
from portmatrix.types import Stage
from portmatrix.workers import Failure, Launch, Lease, Limits

LIMITS = Limits(30, 512)


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
        ({"op": "train"}, "unknown request 'train'; this worker answers hello and run"),
        ({"op": None}, "unknown request ''"),
        ({"format": "onnx"}, "the artifact is of format onnx; this runner is for stub"),
        ({"threads": 0}, "'threads' is missing or wrong"),
        ({"threads": "1"}, "'threads' is missing or wrong"),
        ({"sets": None}, "'sets' is missing or no list"),
        ({"bundle": "/nowhere"}, "cannot open /nowhere/samples/b0.inputs0.npy"),
        ({"outputs": None}, "'outputs' is missing or wrong"),
        ({"signature": {"inputs": [], "outputs": []}}, "object with one file for each tensor"),
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
    requests += [b"nonsense", b'{"op": "train", "id": 1}', requests[0].replace(b"b0.inputs0", b"none")]
    spoken = speak(sanitized)
    for _ in range(60):
        answers = [spoken.ask(request) for request in requests]
        assert [answer["ok"] for answer in answers] == [True, *[False] * 6]
    assert spoken.end() == 0, spoken.log.read_text(errors="replace")[-4000:]
