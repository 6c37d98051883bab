"""The worker's own steps, and its protocol as the engine speaks it, in the interpreter that runs the tests."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from test_imports import old_interpreter
from tiny_suite import PATIENCE, TINY

from portmatrix import worker
from portmatrix.worker import Failed, Stages

PLAIN = str(TINY / "runtimes" / "plain.py")
LINEAR = str(TINY / "exporters" / "linear.py")

# --- Steps ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "right", "pairs"),
    [
        (["a", "b"], ["b", "a"], {"a": "a", "b": "b"}),
        (["a", "b"], ["x", "y"], {"a": "x", "b": "y"}),
        (["a", "b"], ["b", "c"], {"a": "b", "b": "c"}),
        ([], [], {}),
    ],
)
def test_names_are_paired_by_name_or_else_by_position(left: list[str], right: list[str], pairs: dict[str, str]) -> None:
    assert worker.pair(left, right, "input") == pairs


def test_another_number_of_names_is_refused() -> None:
    with pytest.raises(ValueError, match="expected input a, b, found c"):
        worker.pair(["a", "b"], ["c"], "input")


def test_inputs_and_outputs_are_bound_by_position_where_names_differ() -> None:
    runtime = SimpleNamespace(run=lambda _session, inputs: {"out:0": inputs["in:0"] - inputs["in:1"]})
    signature = {"inputs": [{"name": "a"}, {"name": "b"}], "outputs": [{"name": "y"}]}
    arrays = {"a": np.array([[5.0]]), "b": np.array([[2.0]])}
    # The artifact's own first input is the reference's first, whatever they are called.
    made = worker.run_calls(runtime, None, (["in:0", "in:1"], arrays, signature), 1)
    assert made == {"y": [np.array([3.0])]}


# --- Timing ---------------------------------------------------------------------------------------------------------


class Clock:
    """A clock that only moves when something is done; to read it takes a tenth of a microsecond."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(worker.time, "perf_counter", self.read)

    def read(self) -> float:
        """Return the time, which goes on a little."""
        self.now += 1e-7
        return self.now


@pytest.mark.parametrize(("seconds", "inner"), [(1e-3, 1), (1e-5, 11), (1e-6, 105)])
def test_the_clock_takes_a_thousandth_of_a_sample_at_most(
    seconds: float, inner: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)

    def call(count: int) -> None:
        clock.now += count * seconds

    found = worker.time_calls(call, 10, 20)
    assert abs(found["inner"] - inner) <= 1 + inner // 20
    assert worker.CLOCK_SHARE * seconds * found["inner"] * 1.002 >= 1e-7
    assert found["stable"]
    assert found["samples"] == pytest.approx([seconds] * 20, rel=0.002)


def test_a_clock_that_stands_still_during_a_call_gets_more_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 1e-7] * 1000 + [1.0, 1.0, 1.0, 1.0, 1.0, 2.0])
    monkeypatch.setattr(worker.time, "perf_counter", lambda: next(times))
    assert worker.calls_of_a_sample(lambda _count: None) == 4


def test_a_warm_up_lasts_until_times_have_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    calls = []

    def call(_count: int) -> None:
        calls.append(clock.now)
        clock.now += 0.05 * max(1, 10 - len(calls))

    warm, stable = worker.warm_up(call, 60)
    assert stable
    assert warm == len(calls) == 12, "nine calls until it is as fast as it gets, and four chunks of that"


def test_times_that_never_settle_are_measured_and_said_to_be_so(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    calls = []

    def call(_count: int) -> None:
        calls.append(clock.now)
        clock.now += 0.03 if len(calls) % 2 else 0.06

    found = worker.time_calls(call, 1, 5)
    assert not found["stable"]
    assert len(found["samples"]) == 5


def test_a_slow_call_gets_fewer_samples_and_one_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    def call(_count: int) -> None:
        clock.now += 5

    assert len(worker.time_calls(call, 1, 50)["samples"]) == 1


def test_a_plug_in_s_own_caller_is_what_is_timed() -> None:
    ran: list[object] = []
    plain = SimpleNamespace(run=lambda session, inputs: ran.append((session, inputs)))
    own = SimpleNamespace(run=plain.run, caller=lambda session, _inputs: lambda count: ran.append((session, count)))
    worker.caller_of(own, "session", {})(3)
    worker.caller_of(plain, "session", {})(2)
    assert ran == [("session", 3), ("session", {}), ("session", {})]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_peak_is_what_was_used_since_it_was_asked_for() -> None:
    # In a process that does nothing else: the system takes pages away from a large one in the meantime.
    program = "from portmatrix import worker; import numpy as np; idle = worker.resident(); block = np.ones(8 << 20)"
    program += "; del block; print(worker.resident(peak=True) - idle)"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert 60 <= float(told) <= 120


# --- Words ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("one\n  two\n"), "ValueError: one two"),
        (KeyError(), "KeyError"),
        (NotImplementedError("no loops"), "NotImplementedError: no loops"),
    ],
)
def test_a_reason_is_one_line(error: Exception, text: str) -> None:
    assert worker.one_line(error) == text


def test_a_long_reason_keeps_its_beginning_and_its_end() -> None:
    text = worker.one_line(ValueError("a" + "." * 9999 + "z"))
    assert text.startswith("ValueError: a")
    assert text.endswith("z")
    assert len(text) < worker.REASON_LENGTH + 10


def test_facts_become_plain_json() -> None:
    facts = {"opset": 17, 3: None, "nan": float("nan"), "ok": True, "array": np.float32(2.0), "inf": float("-inf")}
    found = worker.plain(facts)
    assert found == {"opset": 17, "3": "None", "nan": "nan", "ok": True, "array": "2.0", "inf": "-inf"}
    json.dumps(found, allow_nan=False)


def test_only_a_symbolic_batch_is_none_in_a_signature() -> None:
    arrays = {"x": np.zeros((4, 4), np.float32), "n": np.int64(4), "y": np.zeros((3, 4), np.int8)}
    assert worker.tensors(arrays, 4, True) == [
        {"name": "x", "dtype": "float32", "shape": [None, 4]},
        {"name": "n", "dtype": "int64", "shape": []},
        {"name": "y", "dtype": "int8", "shape": [3, 4]},
    ]
    assert worker.tensors({"x": arrays["x"]}, 4, False)[0]["shape"] == [4, 4]


@pytest.mark.parametrize(
    ("output", "labels", "accuracy"),
    [
        (np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([1, 1]), 0.5),
        (np.array([3, 4, 5]), np.array([3, 4, 5]), 1.0),
        (np.array([[1, 2], [3, 4]]), np.array([[1, 2], [3, 9]]), 0.5),
        (np.array([[np.nan, 1.0]]), np.array([1]), 0.0),
    ],
)
def test_accuracy_is_the_share_of_rows_that_are_right_everywhere(output: Any, labels: Any, accuracy: float) -> None:
    exporter = SimpleNamespace(predict=lambda _trained, _inputs: {"first": output, "second": None})
    data = SimpleNamespace(test_x={}, test_y=labels)
    assert worker.held_out_accuracy(exporter, None, data) == accuracy


@pytest.mark.parametrize(
    ("accuracy", "enough"), [(0.85, True), (0.9, True), (0.84, False), (None, False), (float("nan"), False)]
)
def test_an_accuracy_that_is_not_there_or_not_a_number_is_not_enough(accuracy: float | None, enough: bool) -> None:
    assert worker.reaches(accuracy, 0.85) is enough


def test_samples_of_another_byte_order_become_our_own(tmp_path: Path) -> None:
    for order in "<>":
        np.save(tmp_path / "x.npy", np.array([1.5, -2.5], order + "f4"))
        value = worker.read_samples(str(tmp_path), {"x": "x.npy"})["x"]
        assert value.dtype.isnative
        assert value.tolist() == [1.5, -2.5]


def test_a_pickle_among_the_samples_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([object()]), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle"):
        worker.read_samples(str(tmp_path), {"x": "x.npy"})


def test_too_few_reference_rows_are_refused() -> None:
    data = SimpleNamespace(test_x={"x": np.zeros((3, 2))})
    with pytest.raises(ValueError, match="5 reference rows are wanted; input x has fewer"):
        worker.example_rows(None, data, {"rows": 5})


@pytest.mark.parametrize("entry", ["../x", "/etc/passwd", "", ".", "a/../.."])
def test_an_entry_outside_its_folder_is_refused(entry: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no name inside its folder"):
        worker.entry_of({"entry": entry}, str(tmp_path))


def test_an_entry_may_be_a_file_or_a_folder_deeper_down(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "c").touch()
    assert [worker.entry_of({"entry": entry}, str(tmp_path)) for entry in ("a", "a/b", "a/c")] == ["a", "a/b", "a/c"]


def raises(error: BaseException) -> Callable[[], None]:
    def function() -> None:
        raise error

    return function


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(0), NotImplementedError("x"), MemoryError()])
def test_a_step_that_raises_names_stage_and_fault(error: BaseException) -> None:
    stages = Stages(lambda _message: None)
    with pytest.raises(Failed) as failed:
        stages.step("LOAD", "model", raises(error))
    assert (failed.value.stage, failed.value.fault) == ("LOAD", "model")
    assert "LOAD" in stages.seconds


def chained() -> None:
    try:
        raises(OSError(28, "No space left on device"))()
    except OSError as error:
        raise RuntimeError("the archive is broken") from error


@pytest.mark.parametrize("function", [raises(OSError(28, "No space left on device")), chained])
def test_a_full_disk_is_no_fault_of_the_model(function: Callable[[], None]) -> None:
    with pytest.raises(Failed) as failed:
        Stages(lambda _message: None).step("EXPORT", "model", function)
    assert failed.value.fault == "harness"
    assert failed.value.reason.startswith("the disk is full: ")


def test_a_stage_is_announced_before_its_step_begins() -> None:
    events: list[Any] = []
    stages = Stages(events.append)
    stages.step("LOAD", "model", events.append, "loaded")
    stages.step("RUN", "model", events.append, "run")
    assert events == [{"event": "stage", "stage": "LOAD"}, "loaded", {"event": "stage", "stage": "RUN"}, "run"]


# --- Protocol -------------------------------------------------------------------------------------------------------


class Spoken:
    """A worker process, spoken to line by line."""

    def __init__(self, interpreter: str, folder: Path) -> None:
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [interpreter, "-I", worker.__file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=folder,
            )

    def ask(self, **request: Any) -> tuple[dict[str, Any], list[str]]:
        """Return the answer to a request, and the stages that were announced before it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        stages: list[str] = []
        while "event" in (message := json.loads(self.process.stdout.readline())):
            stages.append(message["stage"])
        return message, stages

    def end(self) -> int:
        """Close its input and return its exit status."""
        self.process.communicate(timeout=PATIENCE)
        return self.process.returncode


@pytest.fixture
def spoken(tmp_path: Path) -> Iterator[Spoken]:
    """A worker process in the interpreter that runs the tests."""
    process = Spoken(sys.executable, tmp_path)
    yield process
    if process.process.poll() is None:
        process.process.kill()
        process.process.communicate()


def exporting(folder: Path, **changes: Any) -> dict[str, Any]:
    request = {"op": "export", "file": LINEAR, "model": "free", "data": None, "seed": 7, "accuracy": None}
    request |= {"path": "dynamic", "rows": 6, "batch": "dynamic", "batches": [6, 4], "folder": str(folder)}
    return request | changes


def test_the_worker_tells_what_it_is_and_ends_with_its_input(spoken: Spoken) -> None:
    answer, _ = spoken.ask(op="hello", id=1, packages=["numpy", "no-such-package"])
    assert (answer["id"], answer["ok"], answer["protocol"]) == (1, True, worker.PROTOCOL)
    assert answer["environment"]["numpy"] == np.__version__
    assert "no-such-package" not in answer["environment"]
    assert spoken.end() == 0


def test_a_bundle_is_made_and_run(spoken: Spoken, tmp_path: Path) -> None:
    bundle, outputs = tmp_path / "bundle", tmp_path / "outputs"
    bundle.mkdir()
    outputs.mkdir()
    made, stages = spoken.ask(**exporting(bundle), id=1)
    assert made["ok"], made
    assert [stage for stage in stages if stage != "PREPARE"] == ["TRAIN", "EXPORT"]
    assert made["signature"]["inputs"] == [{"name": "x", "dtype": "float32", "shape": [None, 4]}]
    assert [(one["batch"], one["calls"]) for one in made["sets"]] == [(6, 1), (4, 1)]
    request = {"op": "run", "file": PLAIN, "entry": str(bundle / "artifact" / made["entry"]), "format": "npz-linear"}
    request |= {"signature": made["signature"], "sets": made["sets"], "bundle": str(bundle), "outputs": str(outputs)}
    ran, stages = spoken.ask(**request, threads=1, id=2)
    assert ran["ok"], ran
    assert list(dict.fromkeys(stage for stage in stages if stage != "PREPARE")) == ["LOAD", "RUN", "COMPARE"]
    for samples, files in zip(made["sets"], ran["outputs"], strict=True):
        reference = np.load(bundle / samples["outputs"]["y"])
        np.testing.assert_array_equal(np.load(outputs / files["y"]), reference)


def test_one_training_serves_all_exports(spoken: Spoken, tmp_path: Path) -> None:
    seen = []
    for number, path in enumerate(["native", "dynamic"]):
        folder = tmp_path / path
        folder.mkdir()
        _, stages = spoken.ask(**exporting(folder, path=path), id=number)
        seen.append("TRAIN" in stages)
    assert seen == [True, False]


@pytest.mark.parametrize(
    ("request_", "stage", "reason"),
    [
        ({"op": "dance"}, "PREPARE", "unknown request 'dance'"),
        ({}, "PREPARE", "KeyError: 'op'"),
        ({"op": "run", "file": "/no/such/file.py", "outputs": "/"}, "PREPARE", "FileNotFoundError"),
    ],
)
def test_a_wrong_request_is_our_fault_and_no_end(
    request_: dict[str, Any], stage: str, reason: str, spoken: Spoken
) -> None:
    answer, _ = spoken.ask(**request_, id=5)
    assert (answer["id"], answer["ok"], answer["stage"], answer["fault"]) == (5, False, stage, "harness")
    assert reason in answer["reason"]
    assert spoken.ask(op="hello", id=6)[0]["ok"]


def test_what_a_plugin_prints_is_in_the_log_when_the_answer_comes(spoken: Spoken, tmp_path: Path) -> None:
    chatty = tmp_path / "chatty.py"
    chatty.write_text("def load(*arguments):\n    print('a word to the log')\n    raise ValueError('no')\n")
    answer, _ = spoken.ask(
        op="run", file=str(chatty), entry="", format="", signature={}, sets=[], threads=1, outputs=str(tmp_path), id=1
    )
    assert (answer["stage"], answer["reason"]) == ("LOAD", "ValueError: no")
    assert "a word to the log" in spoken.log.read_text()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has a C library for each compiler")
def test_what_a_library_prints_in_c_is_in_the_log_when_the_answer_comes(spoken: Spoken, tmp_path: Path) -> None:
    library = tmp_path / "library.py"
    prints = "ctypes.CDLL(None).printf(b'a word in C')"
    library.write_text(f"import ctypes\ndef load(*arguments):\n    {prints}\n    raise ValueError('no')\n")
    spoken.ask(
        op="run", file=str(library), entry="", format="", signature={}, sets=[], threads=1, outputs=str(tmp_path), id=1
    )
    assert "a word in C" in spoken.log.read_text()


@pytest.mark.parametrize("version", ["3.6", "3.7"])
def test_an_old_interpreter_makes_and_runs_a_bundle(version: str, tmp_path: Path) -> None:
    interpreter = old_interpreter(version)
    program = "import numpy; numpy.random.default_rng"
    if interpreter is None or subprocess.run([interpreter, "-c", program], capture_output=True, check=False).returncode:
        pytest.skip(f"there is no Python {version} with numpy on this machine")
    old = Spoken(interpreter, tmp_path)
    (tmp_path / "bundle").mkdir()
    assert old.ask(op="hello", id=1, packages=["numpy"])[0]["environment"]["python"].startswith(version)
    made, _ = old.ask(**exporting(tmp_path / "bundle"), id=2)
    assert made["ok"], made
    assert old.end() == 0
