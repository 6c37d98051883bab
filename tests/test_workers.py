"""The engine's end of a worker: what it makes of one that lies, dies, hangs or does not start."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from tiny_suite import ended, eventually

from portmatrix import workers
from portmatrix.sites import signal_name
from portmatrix.types import Stage
from portmatrix.workers import (
    Failure,
    Launch,
    Lease,
    Limits,
    Worker,
    in_python,
    network_closure,
    worker_environment,
)

LIMITS = Limits(30, 1024)
HELLO = """
import json, sys
for line in sys.stdin:
    request = json.loads(line)
    if request["op"] == "hello":
        print(json.dumps({"id": request["id"], "ok": True, "environment": {}}), flush=True)
        continue
"""


def launch(python: str = sys.executable, **changes: object) -> Launch:
    return Launch("test", (), in_python(python), {}, False, ("numpy",))._replace(**changes)  # type: ignore[arg-type]


@pytest.fixture
def impostor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a program in the worker's place: it says hello, then does as told with every other request."""

    file = tmp_path / "impostor.py"
    monkeypatch.setattr(workers, "WORKER", file)

    def put(body: str) -> None:
        file.write_text(HELLO + "".join(f"    {line}\n" for line in body.splitlines()))

    return put


@pytest.fixture
def lease(tmp_path: Path) -> Iterator[Lease]:
    """A lease on a worker in the interpreter that runs the tests."""
    made = Lease(launch(), tmp_path / "lease", LIMITS)
    yield made
    made.close()


def failure(answer: object) -> Failure:
    assert isinstance(answer, Failure)
    return answer


# --- Answers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("print('this is no answer', flush=True)", "it wrote something that is no answer into the protocol"),
        ("print('[1, 2]', flush=True)", "it wrote something that is no answer into the protocol"),
        ('print(\'{"event": "stage", "stage": "LUNCH"}\', flush=True)', "is no answer"),
        ("sys.stdout.buffer.write(b'\\xff\\xfe\\n'); sys.stdout.flush()", "is no answer"),
    ],
)
def test_what_is_no_answer_is_our_fault(body: str, reason: str, impostor: Callable[[str], None], lease: Lease) -> None:
    impostor(body)
    found = failure(lease.ask({"op": "run"}, LIMITS))
    assert reason in found.reason
    assert found.fault == "harness"


def test_an_answer_to_another_question_is_passed_over(impostor: Callable[[str], None], lease: Lease) -> None:
    impostor(
        "print(json.dumps({'id': 0, 'ok': False}), flush=True)\n"
        "print(json.dumps({'id': request['id'], 'ok': True, 'right': 1}), flush=True)"
    )
    answer = lease.ask({"op": "run"}, LIMITS)
    assert isinstance(answer, dict)
    assert answer["right"] == 1


def test_a_death_is_put_down_to_the_stage_announced_last(impostor: Callable[[str], None], lease: Lease) -> None:
    impostor(
        "import os\n"
        "print(json.dumps({'event': 'stage', 'stage': 'LOAD'}), flush=True)\n"
        "sys.stderr.write('last words')\n"
        "sys.stderr.flush()\n"
        "os.kill(os.getpid(), 9)"
    )
    found = failure(lease.ask({"op": "run"}, LIMITS))
    assert found == Failure(Stage.LOAD, "the worker died of SIGKILL (signal 9)", "model", "last words", transient=True)


def test_after_a_death_the_next_request_finds_a_new_worker(impostor: Callable[[str], None], lease: Lease) -> None:
    impostor("sys.exit(7)")
    for _ in range(2):
        assert failure(lease.ask({"op": "run"}, LIMITS)).reason == "the worker ended itself with status 7"


def test_a_hanging_worker_is_gone_with_all_that_it_started(impostor: Callable[[str], None], tmp_path: Path) -> None:
    impostor(
        "import subprocess, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(tmp_path / 'child')!r}, 'w').write(str(child.pid))\n"
        "time.sleep(600)"
    )
    worker = workers.start(launch(), tmp_path / "worker", 1, LIMITS)
    assert isinstance(worker, Worker)
    found = failure(worker.ask({"op": "run"}, Limits(3, 1024)))
    assert found.reason == "did not end within 3 s"
    assert not worker.alive
    child = int((tmp_path / "child").read_text())
    eventually(lambda: ended(child), "the end of the child")


def test_the_log_tail_is_of_the_request_and_short(impostor: Callable[[str], None], lease: Lease) -> None:
    impostor(
        "sys.stderr.write('old ' if request['id'] == 2 else 'new' * 9999)\n"
        "sys.stderr.flush()\n"
        "if request['id'] == 2:\n"
        "    print(json.dumps({'id': 2, 'ok': True}), flush=True)\n"
        "else:\n"
        "    sys.exit(1)"
    )
    assert isinstance(lease.ask({"op": "run"}, LIMITS), dict)
    tail = failure(lease.ask({"op": "run"}, LIMITS)).log_tail
    assert "old" not in tail
    assert tail.endswith("new")
    assert len(tail) <= workers.LOG_TAIL


# --- Starts and ends ------------------------------------------------------------------------------------------------


def test_a_worker_that_cannot_be_started_may_be_tried_again(tmp_path: Path) -> None:
    found = failure(workers.start(launch("/no/such/python", network=True), tmp_path / "worker", 1, LIMITS))
    assert (found.stage, found.fault, found.transient) == (Stage.PREPARE, "harness", True)
    assert "could not start test's worker" in found.reason


def test_a_worker_that_dies_at_its_start_is_our_fault(tmp_path: Path) -> None:
    found = failure(workers.start(launch("/bin/false", network=True), tmp_path / "worker", 1, LIMITS))
    assert (found.stage, found.fault) == (Stage.PREPARE, "harness")


def test_a_killed_lease_starts_nothing_that_goes_on(tmp_path: Path) -> None:
    lease = Lease(launch(), tmp_path / "lease", LIMITS)
    lease.kill()
    assert failure(lease.ask({"op": "hello"}, LIMITS))
    lease.close()


def test_a_closed_worker_has_ended_by_itself(tmp_path: Path) -> None:
    worker = workers.start(launch(), tmp_path / "worker", 1, LIMITS)
    assert isinstance(worker, Worker)
    assert worker.environment["byteorder"] == sys.byteorder
    worker.close()
    assert not worker.alive


def test_a_prefix_leads_to_the_worker(tmp_path: Path) -> None:
    worker = workers.start(launch(prefix=("env", "THROUGH=prefix")), tmp_path / "worker", 1, LIMITS)
    assert isinstance(worker, Worker)
    seen = psutil.Process(worker._process.pid).environ()
    worker.close()
    assert seen["THROUGH"] == "prefix"


# --- Doors ----------------------------------------------------------------------------------------------------------


def test_a_worker_gets_a_short_list_of_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", "secret")
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    env = worker_environment(launch(env={"OWN": "yes", "OMP_NUM_THREADS": "7"}), tmp_path, 3)
    assert "secret" not in env.values()
    assert env["LANG"] == "de_DE.UTF-8"
    assert env["HOME"] == env["TMPDIR"] == str(tmp_path)
    assert (env["OWN"], env["OMP_NUM_THREADS"], env["MKL_NUM_THREADS"]) == ("yes", "7", "3")
    assert env["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)


def test_a_declared_network_sets_no_hook(tmp_path: Path) -> None:
    assert "PORTMATRIX_NETWORK" not in worker_environment(launch(network=True), tmp_path, 1)
    assert worker_environment(launch(), tmp_path, 1)["PORTMATRIX_NETWORK"] == network_closure()[1]


def test_the_closure_is_one_of_two() -> None:
    prefix, name = network_closure()
    assert (name, bool(prefix)) in {("namespace", True), ("audit-hook", False)}


@pytest.mark.skipif(os.name != "posix", reason="only here do signals have these names")
@pytest.mark.parametrize(
    ("number", "name"), [(11, "SIGSEGV (signal 11)"), (9, "SIGKILL (signal 9)"), (99, "signal 99")]
)
def test_a_signal_has_a_name(number: int, name: str) -> None:
    assert signal_name(number) == name
