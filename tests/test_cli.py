"""The command line: its exit codes, and what it says in plain lines."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import command_line
import pytest
from command_line import Command, Ended
from tiny_suite import Assemble, executions, records_of, trainings

from portmatrix import records, schemas, suite
from portmatrix.errors import DiskFull
from portmatrix.render.readme import BEGIN, END
from portmatrix.store import Store
from portmatrix.types import Outcome

NATIVE = "*/free/native/*"


@pytest.fixture
def command(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Command:
    """Runs a command line in this process, in an empty folder, with the test's own store."""
    monkeypatch.setenv("PORTMATRIX_STORE", str(store.root))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    empty = tmp_path / "elsewhere"
    empty.mkdir()
    monkeypatch.chdir(empty)

    def run(*arguments: str | Path) -> Ended:
        return command_line.run(capsys, *arguments)

    return run


# --- Exit codes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("runtime", "expect", "status", "outcome"),
    [
        ("plain", False, 0, Outcome.PASS),
        ("falls_back", False, 0, Outcome.DEGRADED),
        ("raises_load", False, 1, Outcome.FAIL),
        ("raises_load", True, 0, Outcome.XFAIL),
        ("plain", True, 1, Outcome.XPASS),
        ("from_the_future", False, 1, Outcome.NOT_RUN),
        ("no_function", False, 1, Outcome.ERROR),
    ],
)
@pytest.mark.usefixtures("one_interpreter")
def test_the_exit_status_of_a_run(
    runtime: str, expect: bool, status: int, outcome: Outcome, assemble: Assemble, command: Command, tmp_path: Path
) -> None:
    expected = [{"cells": f"*/{runtime}/*", "stage": "LOAD", "reason": "known"}] if expect else []
    root = assemble(f"runtimes/{runtime}", expect=expected)
    file = tmp_path / "records.jsonl"
    ended = command(
        "run", f"*/{runtime}/*", "--skip", "*/graph/*", "--skip", "*/dynamic/*", "--suite", root, "-o", file
    )
    assert ended.status == status, ended
    (record,) = records_of(file).values()
    assert record.outcome is outcome
    assert f"[1/1] {outcome.value} {record.cell}" in ended.out


@pytest.mark.usefixtures("one_interpreter")
def test_what_cannot_be_tried_turns_no_run_red_that_tried_something(assemble: Assemble, command: Command) -> None:
    root = assemble("runtimes/plain", "runtimes/from_the_future")
    ended = command("run", NATIVE, "--suite", root)
    assert ended.status == 0
    assert "NOT_RUN linear/free/native/from_the_future/here at PREPARE" in ended.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "--no-such-option"], "No such option"),
        (["run", "--shard", "3/2"], "expected i/n with 1 <= i <= n"),
        (["run", "--jobs", "0"], "jobs"),
        (["run", "--suite", "nowhere"], "nowhere holds no matrix.yaml"),
        (["dance"], "No such command"),
        (["list", "clouds"], "list has no 'clouds'; expected one of models, frameworks"),
        (["repro", "half/a/cell"], "'half/a/cell' is no cell id; expected framework/model/path/runtime/target"),
        (["explain", "half/a/cell"], "'half/a/cell' is no cell id; expected framework/model/path/runtime/target"),
        (["explain", "linear/free/native/plain/here"], "there are no records, neither "),
        (["compare", "missing.jsonl", "missing.jsonl"], "there is no such file, and no such revision"),
        (["rate", "missing.jsonl"], "expected a file of records"),
        (["merge", "missing.jsonl", "-o", "merged.jsonl"], "expected a file of records"),
        (["run", "--bundles", "."], "holds no bundle archive"),
        (["run", "--planned", "plan.json"], "--planned FILE and --job NAME belong together"),
        (["run", "--planned", "plan.json", "--job", "here"], "`portmatrix plan --format github --output plan.json`"),
        (["run", "*/native/*", "--planned", "plan.json", "--job", "here"], "leave no room for globs"),
        (["merge", ".", "-o", "merged.jsonl"], "holds no records"),
        (["plan", "--format", "github", "--shard", "1/2"], "jobs are parted by themselves"),
        (["plan", "--since", "HEAD"], "this needs a checkout"),
    ],
)
def test_a_mistake_of_the_user_is_2(
    arguments: list[str], said: str, assemble: Assemble, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(assemble("runtimes/plain"))
    ended = command(*arguments)
    assert ended.status == 2
    assert said in ended.err
    assert "Traceback" not in ended.err


def test_all_that_is_wrong_with_a_suite_is_said_at_once(assemble: Assemble, command: Command) -> None:
    root = assemble("runtimes/plain", limits={"cell_seconds": -1}, bundel={})
    ended = command("plan", "--suite", root)
    assert ended.status == 2
    assert "2 problems" in ended.err
    assert "cell_seconds" in ended.err
    assert "'bundle'" in ended.err


def test_a_bug_of_ours_is_3_with_a_log_to_paste(
    assemble: Assemble, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(*_arguments: object) -> None:
        raise ZeroDivisionError("by our own fault")

    monkeypatch.setattr(suite, "load", stumble)
    ended = command("plan", "--suite", assemble("runtimes/plain"))
    assert ended.status == 3
    assert "this is a bug of portmatrix: ZeroDivisionError: by our own fault" in ended.err
    log = Path(ended.err.split("please report it with the log in ")[1].strip()).read_text()
    assert "Traceback" in log
    assert "command: " in log


def test_a_full_disk_is_3_and_what_was_recorded_stands(
    assemble: Assemble, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    add = records.Journal.add
    room = iter([True])

    def add_while_there_is_room(self: records.Journal, record: records.Record) -> None:
        if not next(room, False):  # and every worker after the first finds the disk full
            raise DiskFull("the disk is full")
        add(self, record)

    monkeypatch.setattr(records.Journal, "add", add_while_there_is_room)
    file = tmp_path / "records.jsonl"
    ended = command("run", "--suite", assemble("runtimes/plain"), "-o", file)
    assert ended.status == 3
    assert "error: the disk is full" in ended.err
    assert len(records_of(file)) == 1


QUICK = {"groups": 2, "samples": 20, "seconds": 0.1, "threads": [1], "baseline": "plain"}


def test_what_works_is_measured_and_added_to_its_records(assemble: Assemble, command: Command, tmp_path: Path) -> None:
    root, file = assemble("runtimes/plain", "runtimes/wrong", latency=QUICK), tmp_path / "records.jsonl"
    command("run", NATIVE, "--suite", root, "-o", file)
    ended = command("measure", "--suite", root, "-r", file)
    assert ended.status == 0, ended
    assert "linear/free/native/plain/here" in ended.out
    assert "95% interval" in ended.out
    made = [record for record in records.read(file) if record.latency is not None]
    assert [record.cell for record in made] == ["linear/free/native/plain/here"]
    (standing,) = (record for record in records.ResultSet(records.read(file)).records if record.id.runtime == "plain")
    assert standing == made[0], "the record with its latency stands"


def test_what_fails_while_it_is_measured_is_1(assemble: Assemble, command: Command, tmp_path: Path) -> None:
    root, file = assemble("runtimes/tires", latency=QUICK), tmp_path / "records.jsonl"
    assert command("run", NATIVE, "--suite", root, "-o", file).status == 0
    ended = command("measure", "--suite", root, "-r", file)
    assert ended.status == 1
    assert "out of breath" in ended.out


def test_without_records_that_work_there_is_nothing_to_measure(
    assemble: Assemble, command: Command, tmp_path: Path
) -> None:
    root, file = assemble("runtimes/wrong"), tmp_path / "records.jsonl"
    ended = command("measure", "--suite", root, "-r", file)
    assert ended.status == 2
    assert "`portmatrix run` writes records" in ended.err
    command("run", NATIVE, "--suite", root, "-o", file)
    ended = command("measure", "--suite", root, "-r", file)
    assert ended.status == 4
    assert "both works and is chosen" in ended.err


def test_nothing_selected_is_4_unless_allowed(assemble: Assemble, command: Command, tmp_path: Path) -> None:
    arguments = ("run", "no/such/cell*", "--suite", assemble("runtimes/plain"), "-o", tmp_path / "records.jsonl")
    ended = command(*arguments)
    assert ended.status == 4
    assert "cell ids look like linear/free/native/plain/here" in ended.err
    assert command(*arguments, "--allow-empty").status == 0


def test_a_target_out_of_reach_is_looked_up_where_it_is_named(assemble: Assemble, command: Command) -> None:
    root = assemble("runtimes/plain", "targets/away")
    ended = command("plan", "*", "--suite", root, "--json")
    assert not [cell for cell in json.loads(ended.out)["cells"] if cell.endswith("/away")]
    ended = command("plan", "*/away", "--suite", root, "--json")
    assert "linear/free/native/plain/away" in json.loads(ended.out)["cells"]


# --- What is said ---------------------------------------------------------------------------------------------------


def test_without_a_terminal_there_are_plain_lines(assemble: Assemble, command: Command) -> None:
    root = assemble("runtimes/plain", models=("free", "points"))
    ended = command("run", "*/native/*", "--suite", root)
    assert ended.status == 0
    assert "\x1b" not in ended.out
    assert "\r" not in ended.out
    lines = [line for line in ended.out.splitlines() if line.startswith("[")]
    assert [line.split("]")[0] for line in lines] == ["[1/2", "[2/2"]
    assert f"records: {root / 'results' / 'records.jsonl'}" in ended.out


def test_a_second_run_says_that_it_reused(assemble: Assemble, command: Command) -> None:
    root = assemble("runtimes/counted")
    arguments = ("run", "*/native/*", "*/dynamic/*", "--suite", root)
    command(*arguments)
    again = command(*arguments)
    assert "2 cells reused: nothing they rest on has changed" in again.out
    assert again.status == 0
    assert len(executions(root)) == 2
    assert "reused" not in command(*arguments, "--fresh").out
    assert len(executions(root)) == 4


def test_resume_keeps_what_is_recorded_and_adds_the_rest(assemble: Assemble, command: Command, tmp_path: Path) -> None:
    root = assemble("runtimes/counted")
    file = tmp_path / "records.jsonl"
    command("run", "*/native/*", "--suite", root, "-o", file)
    before = file.read_bytes()
    ended = command("run", "*/native/*", "*/dynamic/*", "--suite", root, "-o", file, "--resume", "--fresh")
    assert ended.status == 0
    assert file.read_bytes().startswith(before)
    assert len(records_of(file)) == 2
    assert len(executions(root)) == 2


def test_a_plan_is_shown_and_given_as_json(assemble: Assemble, command: Command) -> None:
    exclude = [{"cells": "*/graph/*", "reason": "not today"}]
    root = assemble("runtimes/plain", "runtimes/no_function", "targets/away", exclude=exclude)
    shown = command("plan", "--suite", root)
    assert shown.status == 0
    assert "2 cells" in shown.out
    assert "left out: linear/free/graph/plain/here: not today" in shown.out
    assert "looked up only: away: there is no such machine here" in shown.out
    assert "broken: -/-/-/no_function/here: " in shown.out
    planned = json.loads(command("plan", "--suite", root, "--json").out)
    assert planned["cells"] == ["linear/free/native/plain/here", "linear/free/dynamic/plain/here"]
    assert planned["left_out"] == [{"cell": "linear/free/graph/plain/here", "why": "not today"}]


def test_a_matrix_is_planned_run_and_merged_job_by_job(assemble: Assemble, command: Command, tmp_path: Path) -> None:
    root = assemble("runtimes/plain", "runtimes/wrong", "targets/away")
    plan_file, summary = tmp_path / "plan.json", tmp_path / "summary.md"
    told = command("plan", "--suite", root, "--format", "github", "--output", plan_file, "--summary", summary)
    assert told.status == 0, told
    outputs = dict(line.split("=", 1) for line in told.out.splitlines())
    assert [job["name"] for job in json.loads(outputs["export"])["include"]] == ["linear"]
    assert [job["name"] for job in json.loads(outputs["run"])["include"]] == ["away", "here"]
    assert "12 cells in 2 jobs: all that belongs to the matrix" in told.err
    assert "## Planned: 12 cells in 2 jobs" in summary.read_text()

    by_plan = ("--planned", plan_file, "--suite", root)
    assert command("export", *by_plan, "--job", "linear", "--archive", tmp_path / "bundles").status == 0
    file = tmp_path / "records" / "here.jsonl"
    ran = command("run", *by_plan, "--job", "here", "--bundles", tmp_path / "bundles", "-o", file)
    assert ran.status == 1, "one of the runtimes is wrong"
    assert len(records_of(file)) == 6

    merged = tmp_path / "merged.jsonl"
    arguments = ("--planned", plan_file, "--link", "https://example.org/run", "-o", merged)
    assert "12 cells in" in command("merge", tmp_path / "records", *arguments).out
    found = records_of(merged)
    assert {record.outcome for cell, record in found.items() if cell.endswith("/away")} == {Outcome.NOT_RUN}
    assert found["linear/free/native/plain/away"].reason.endswith("https://example.org/run")
    assert "0 cells were planned and have no record" in command("merge", merged, *arguments).out


def test_a_change_selects_what_it_can_affect(assemble: Assemble, command: Command) -> None:
    root = assemble("runtimes/plain", "runtimes/wrong")
    planned = command("plan", "--suite", root, "--json", "--changed", "runtimes/wrong.py", "--changed", "docs/page.md")
    cells = json.loads(planned.out)["cells"]
    assert cells
    assert all("/wrong/" in cell for cell in cells)
    nothing = command("plan", "--suite", root, "--format", "github", "--changed", "docs/page.md")
    assert nothing.status == 0
    assert "runs=0" in nothing.out.splitlines()
    assert "0 cells in 0 jobs: 0 of 1 changed files can affect cells" in nothing.err


def test_the_environment_may_say_what_to_plan(
    assemble: Assemble, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORTMATRIX_SUITE", str(assemble("runtimes/plain")))
    monkeypatch.setenv("PORTMATRIX_CELLS", "*/native/* */graph/*")
    monkeypatch.setenv("PORTMATRIX_SINCE", "")
    cells = json.loads(command("plan", "--json").out)["cells"]
    assert [cell.split("/")[2] for cell in cells] == ["native", "graph"]
    monkeypatch.setenv("PORTMATRIX_CELLS", "")
    assert len(json.loads(command("plan", "--json").out)["cells"]) == 3


def test_part_of_a_matrix_is_compared_and_reported_as_such(
    assemble: Assemble, command: Command, tmp_path: Path
) -> None:
    root = assemble("runtimes/plain")
    whole, part, none = (tmp_path / f"{name}.jsonl" for name in ("whole", "part", "none"))
    command("run", "--suite", root, "-o", whole)
    command("run", NATIVE, "--suite", root, "-o", part)
    none.write_text("")
    summary = tmp_path / "summary.md"
    arguments = ("--suite", root, "--summary", summary)
    assert "2 lost" in command("compare", whole, part, *arguments).out
    assert "## Compared with " in summary.read_text()
    alone = command("compare", whole, part, "--recorded-only", *arguments)
    assert "lost" not in alone.out
    assert alone.out.startswith("1 cells: 1 same")
    assert command("compare", none, part, "--suite", root).status == 4
    nothing = command("compare", none, part, "--allow-empty", *arguments)
    assert (nothing.status, nothing.out.startswith("nothing to compare: ")) == (0, True)
    assert "## Nothing to compare with" in summary.read_text()
    shown = command("report", part, "--recorded-only", *arguments)
    assert shown.status == 0
    assert "1 cells" in summary.read_text()


def test_shards_of_the_command_line_cover_everything_once(assemble: Assemble, command: Command) -> None:
    root = assemble("runtimes/plain", models=("a", "b", "c"))
    whole = json.loads(command("plan", "--suite", root, "--json").out)["cells"]
    parts = [
        json.loads(command("plan", "--suite", root, "--json", "--shard", f"{number}/2").out)["cells"]
        for number in (1, 2)
    ]
    assert sorted(parts[0] + parts[1]) == sorted(whole)
    assert all(parts)


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("models", "points\treads points/plane"),
        ("frameworks", "linear\tnative, dynamic, graph"),
        ("paths", "linear/graph\tonnx, npz-graph, dynamic batch"),
        ("runtimes", "plain\tnpz-linear, npz-graph"),
        ("targets", "away\tstatic: there is no such machine here"),
        ("data", "points\tplane"),
        ("cells", "linear/free/native/plain/away"),
    ],
)
def test_what_there_is_is_listed(what: str, line: str, assemble: Assemble, command: Command) -> None:
    root = assemble("runtimes/plain", "targets/away", models=("free", "points"))
    ended = command("list", what, "--suite", root)
    assert ended.status == 0
    assert line in ended.out.splitlines()


# --- The other commands ---------------------------------------------------------------------------------------------


def test_bundles_made_here_are_run_there(
    assemble: Assemble, command: Command, make_store: Callable[[Path], Store], tmp_path: Path
) -> None:
    root = assemble("exporters/counted_training", "runtimes/plain", models=("a", "bb"))
    made = command("export", "--suite", root, "--archive", tmp_path / "archives")
    assert made.status == 0, made
    assert "2 bundles, 0 failed" in made.out
    assert len(list((tmp_path / "archives").glob("*.tar"))) == 2
    there = make_store(tmp_path / "there")
    file = tmp_path / "records.jsonl"
    ended = command("run", "--suite", root, "--bundles", tmp_path / "archives", "--store", there.root, "-o", file)
    assert ended.status == 0, ended
    assert {record.outcome for record in records_of(file).values()} == {Outcome.PASS}
    assert trainings(root) == ["a", "bb"]


def test_a_failed_export_is_1(assemble: Assemble, command: Command) -> None:
    ended = command("export", "--suite", assemble("exporters/raises_export", "runtimes/plain"))
    assert ended.status == 1
    assert "FAIL raises_export/free/native at EXPORT: RuntimeError: unsupported layer" in ended.out
    assert "0 bundles, 1 failed" in ended.out


def test_an_export_that_fails_as_expected_is_0(assemble: Assemble, command: Command, tmp_path: Path) -> None:
    expected = [{"cells": "raises_export/*", "stage": "EXPORT", "reason": "known"}]
    root = assemble("exporters/linear", "exporters/raises_export", "runtimes/plain", expect=expected)
    ended = command("export", "--suite", root, "--archive", tmp_path / "archives")
    assert ended.status == 0, ended
    assert "XFAIL raises_export/free/native at EXPORT" in ended.out
    file = tmp_path / "records.jsonl"
    assert command("run", "--suite", root, "--bundles", tmp_path / "archives", "-o", file).status == 0
    outcomes = {record.id.framework: record.outcome for record in records_of(file).values()}
    assert outcomes == {"linear": Outcome.PASS, "raises_export": Outcome.XFAIL}


def test_a_changed_archive_is_refused(assemble: Assemble, command: Command, tmp_path: Path) -> None:
    root = assemble("runtimes/plain")
    command("export", NATIVE, "--suite", root, "--archive", tmp_path / "archives")
    (archive,) = (tmp_path / "archives").glob("*.tar")
    archive.write_bytes(archive.read_bytes().replace(b"model.npz", b"model.npy", 1))
    ended = command("run", NATIVE, "--suite", root, "--bundles", tmp_path / "archives")
    assert ended.status == 2
    assert "error: " in ended.err
    assert archive.name in ended.err


def test_a_cell_is_reproduced_with_its_workers_folder(assemble: Assemble, command: Command) -> None:
    root = assemble("runtimes/counted", "runtimes/raises_run")
    command("run", NATIVE, "--suite", root)
    ended = command("repro", "linear/free/native/counted/here", "--suite", root)
    assert ended.status == 0
    assert len(executions(root)) == 2, "what is reproduced is run, whatever is known of it"
    folder = Path(ended.out.split("worker's folder: ")[1].strip())
    assert list(folder.rglob("worker.log"))
    failed = command("repro", "linear/free/native/raises_run/here", "--suite", root)
    assert failed.status == 1
    assert "ValueError: out of registers" in failed.out
    assert "Traceback" in failed.out


def test_a_failure_is_explained_and_its_remedy_run(assemble: Assemble, command: Command) -> None:
    expect = [{"cells": "*/raises_run/*", "stage": "RUN", "reason": "too few registers"}]
    root = assemble("runtimes/counted", "runtimes/raises_run", expect=expect)
    command("run", NATIVE, "--suite", root)
    cell, neighbour = "linear/free/native/raises_run/here", "linear/free/native/counted/here"
    told = command("explain", cell, "--suite", root, "--no-verify")
    assert told.status == 0
    assert "XFAIL at RUN: ValueError: out of registers" in told.out
    assert "blame: no referee was asked" in told.out
    assert "expected in matrix.yaml: FAIL at RUN: too few registers" in told.out
    assert f"PASS {neighbour}: run it by counted instead of raises_run" in told.out
    assert "by the records, not verified" in told.out
    assert len(executions(root)) == 1, "nothing is run to read records"
    verified = command("explain", cell, "--suite", root)
    assert verified.status == 0
    assert "the smallest change that would deploy it: run it by counted instead of raises_run" in verified.out
    assert "verified: PASS just now" in verified.out
    assert len(executions(root)) == 2, "what is advised is run"


def test_advice_that_does_not_hold_is_1(assemble: Assemble, command: Command) -> None:
    root = assemble("runtimes/plain", "runtimes/raises_run")
    command("run", NATIVE, "--suite", root)
    runtimes = root / "runtimes"
    (runtimes / "plain.py").write_text((runtimes / "raises_run.py").read_text())
    ended = command("explain", "linear/free/native/raises_run/here", "--suite", root)
    assert ended.status == 1
    assert "tried, and does not work here now: linear/free/native/plain/here: FAIL at RUN" in ended.out
    assert "no change that works by the records works here now" in ended.out


def test_a_cell_that_passes_or_is_not_planned_is_explained_too(assemble: Assemble, command: Command) -> None:
    root = assemble("runtimes/plain", "targets/away", exclude=[{"cells": "*/graph/*", "reason": "not today"}])
    command("run", NATIVE, "--suite", root)
    passing = command("explain", "linear/free/native/plain/here", "--suite", root)
    assert passing.status == 0
    assert "it works: there is nothing to change" in passing.out
    excluded = command("explain", "linear/free/graph/plain/here", "--suite", root, "--no-verify")
    assert excluded.status == 0
    assert "not planned: the suite excludes it: not today" in excluded.out
    assert "PASS linear/free/native/plain/here" in excluded.out
    misspelt = command("explain", "linear/free/native/plein/here", "--suite", root)
    assert misspelt.status == 2
    assert "the suite has no runtime 'plein'; expected one of plain (did you mean 'plain'?)" in misspelt.err


def test_reference_results_fill_in_what_was_not_tried(assemble: Assemble, command: Command, tmp_path: Path) -> None:
    root = assemble("runtimes/plain", "runtimes/raises_run")
    command("run", "*/native/plain/*", "--suite", root, "-o", root / "results" / "reference.jsonl")
    file = tmp_path / "mine.jsonl"
    command("run", "*/native/raises_run/*", "--suite", root, "-o", file)
    told = command("explain", "linear/free/native/raises_run/here", "--suite", root, "-r", file, "--no-verify")
    assert "FAIL at RUN" in told.out
    assert "PASS linear/free/native/plain/here: run it by plain instead of raises_run" in told.out


def test_a_regression_is_1_and_progress_0(assemble: Assemble, command: Command, tmp_path: Path) -> None:
    root = assemble("runtimes/plain", "runtimes/raises_run")
    good, bad, other = (tmp_path / f"{name}.jsonl" for name in ("good", "bad", "other"))
    command("run", "*/native/plain/*", "--suite", root, "-o", good)
    command("run", "*/dynamic/plain/*", "--suite", root, "-o", other)
    (root / "runtimes" / "plain.py").write_text((root / "runtimes" / "raises_run.py").read_text())
    command("run", "*/native/plain/*", "--suite", root, "-o", bad)
    worse = command("compare", good, bad)
    assert worse.status == 1
    assert "1 cells: 1 regression" in worse.out
    assert command("compare", bad, good).status == 0
    told = json.loads(command("compare", good, bad, "--json").out)
    assert told["cells"][0]["after"]["stage"] == "RUN"
    run = records_of(bad)["linear/free/native/plain/here"].run
    assert command("compare", good, f"{bad}@{run}").status == 1
    apart = command("compare", good, other)
    assert apart.status == 4
    assert "of 1 cells before and 1 after none is in both" in apart.err
    assert command("compare", good, bad, "--cells", "*/dynamic/*").status == 4


def test_records_are_merged_rated_and_reported(assemble: Assemble, command: Command, tmp_path: Path) -> None:
    root = assemble("runtimes/plain", "runtimes/raises_run")
    files = [tmp_path / "1.jsonl", tmp_path / "2.jsonl"]
    for file, glob in zip(files, ("*/native/*", "*/dynamic/*"), strict=True):
        command("run", glob, "--suite", root, "-o", file)
    merged = tmp_path / "merged.jsonl"
    assert "4 cells in" in command("merge", *files, "-o", merged).out
    assert len(records_of(merged)) == 4
    rated = json.loads(command("rate", merged, "--suite", root, "--json").out)
    assert [(rating["framework"], rating["version"]) for rating in rated] == [("linear", 2)]
    worked = json.loads(command("rate", merged, "--suite", root, "--explain", "linear", "--json").out)
    assert worked["deployment"]["stars"] == rated[0]["deployment"]
    assert "/plain/here PASS" in command("rate", merged, "--suite", root, "--explain", "linear").out
    assert "linear deployment: not rated (" in command("rate", merged, "--suite", root).out
    unknown = command("rate", merged, "--suite", root, "--explain", "liner")
    assert (unknown.status, "did you mean 'linear'" in unknown.err) == (2, True)
    site, junit = tmp_path / "site", tmp_path / "junit.xml"
    assert command("report", merged, "--suite", root, "--site", site, "--junit", junit).status == 0
    assert "linear" in (site / "index.html").read_text(encoding="utf-8")
    assert "out of registers" in junit.read_text()


def test_the_table_and_its_badges_are_written_checked_and_tidied(
    assemble: Assemble, command: Command, tmp_path: Path
) -> None:
    root = assemble("runtimes/plain", "runtimes/raises_run")
    file, page, folder = tmp_path / "records.jsonl", tmp_path / "READ ME.md", tmp_path / "docs" / "ba (dg) es"
    page.write_text(f"# Mine\n\n{BEGIN}\n{END}\n")
    command("run", NATIVE, "--suite", root, "-o", file)
    shown = ("--readme", page, "--results", tmp_path / "docs" / "results.md", "--badges", folder)
    stale = command("report", file, "--suite", root, *shown, "--check")
    assert (stale.status, stale.out.count("does not agree with the records")) == (1, 2 + 2 * 4 + 1)
    assert not folder.exists()
    assert command("report", file, "--suite", root, *shown).status == 0
    assert "(docs/ba%20%28dg%29%20es/linear.here.svg)](docs/results.md#linear.on.here)" in page.read_text()
    assert command("report", file, "--suite", root, *shown, "--check").status == 0
    (folder / "linear.here.svg").write_text("changed")
    stale = command("report", file, "--suite", root, *shown, "--check")
    assert (stale.status, "linear.here.svg does not agree" in stale.out) == (1, True)
    (folder / "mine.svg").write_text("kept")
    renamed = tmp_path / "renamed.jsonl"
    renamed.write_text(file.read_text().replace('"linear/', '"gone/'))
    command("report", renamed, "--suite", root, "--badges", folder, "--site-url", "https://example.org")
    assert (folder / "gone.here.svg").exists()
    command("report", file, "--suite", root, *shown, "--site-url", "https://example.org/")
    assert "](https://example.org/matrix.html#framework=linear&target=here)" in page.read_text()
    assert not (folder / "gone.here.svg").exists()
    assert (folder / "mine.svg").read_text() == "kept"
    missing = command("report", file, "--suite", root, "--readme", tmp_path / "none.md")
    assert (missing.status, "cannot be read" in missing.err) == (2, True)


def test_unexpected_cells_are_annotated_and_everything_goes_into_one_table(
    assemble: Assemble, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root = assemble("runtimes/plain", "runtimes/raises_run")
    file, log, table = tmp_path / "records.jsonl", tmp_path / "new" / "log.sarif", tmp_path / "records.parquet"
    command("run", NATIVE, "--suite", root, "-o", file)
    monkeypatch.setenv("GITHUB_WORKSPACE", str(root.parent))
    ended = command("report", file, "--suite", root, "--annotations", "--sarif", log, "--parquet", table)
    assert ended.status == 0
    wrote, rows, *lines = ended.out.splitlines()
    assert wrote == f"wrote {log}"
    assert rows == f"wrote {table}: {len(command('list', 'cells', '--suite', root).out.splitlines())} rows"
    assert len(lines) == 1
    place = "file=suite/runtimes/raises_run.py,line=1"
    assert lines[0].startswith(f"::error {place},title=FAIL at RUN%3A linear/free/native/")
    (run,) = json.loads(log.read_text())["runs"]
    (result,) = run["results"]
    assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "suite/runtimes/raises_run.py"


def test_a_schema_is_printed_as_it_is_published(command: Command) -> None:
    for name in ("record", "ratings", "bundle", "matrix"):
        assert command("schema", name).out == schemas.text(name)
    assert command("schema").out == schemas.text("record")
    assert command("schema", "recrod").status == 2


def test_the_doctor_shows_reach_environments_and_what_is_broken(assemble: Assemble, command: Command) -> None:
    root = assemble("runtimes/plain", "runtimes/unbuildable", "runtimes/no_function", "targets/away")
    ended = command("doctor", "--suite", root)
    assert ended.status == 0
    assert "workers' network is closed by: " in ended.out
    assert "buy one" in ended.out
    assert "not built" in ended.out
    assert "broken runtime no_function" in ended.out


def test_init_writes_a_suite_and_overwrites_nothing(command: Command, tmp_path: Path) -> None:
    assert command("init", tmp_path / "mine").status == 0
    assert command("plan", "--suite", tmp_path / "mine").status in {0, 4}
    again = command("init", tmp_path / "mine")
    assert again.status == 2
    assert "already there" in again.err


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["-h"]])
def test_help_is_0(arguments: list[str], command: Command) -> None:
    ended = command(*arguments)
    assert ended.status == 0
    assert "Usage" in ended.out
