"""The workflow of the matrix, from plan to report, run on this machine: what comes out, what becomes of lost jobs."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from small_repository import Repository, RunWorkflow
from tiny_suite import TINY, records_of, trainings
from workflow_runner import Event, Ran

from portmatrix.types import Outcome, Record

#: All of it shares two repositories, which take a minute to make.
pytestmark = [
    pytest.mark.xdist_group("workflow"),
    pytest.mark.skipif(sys.platform == "win32", reason="the commands are carried out by a POSIX shell"),
]

LINK = "https://github.example/owner/name/actions/runs/42/attempts/1"
EXPECTED = [{"cells": "raises_export/*", "stage": "EXPORT", "reason": "known to be so"}]
PULL_REQUEST = Event("pull_request", "refs/pull/7/merge", payload={"pull_request": {"number": 7}})


class Pushed(NamedTuple):
    """A repository, and what came of the workflow on it."""

    repository: Repository
    ran: Ran


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What outlives a run of the workflow."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def pushed(make_repository: Callable[..., Repository], run_workflow: RunWorkflow, cache: Path) -> Pushed:
    """A push to the main branch, of a suite with a target that is on no runner here."""
    repository = make_repository("exporters/counted_training", "exporters/raises_export", expect=EXPECTED)
    return Pushed(repository, run_workflow(repository, cache=cache))


@pytest.fixture(scope="module")
def adopted(pushed: Pushed, make_repository: Callable[..., Repository]) -> Repository:
    """The same suite, with the records of that push as its reference."""
    repository = make_repository("exporters/counted_training", "exporters/raises_export", expect=EXPECTED)
    repository.write("results/reference.jsonl", (pushed.ran.artifacts / "report" / "records.jsonl").read_text())
    return repository


def records(ran: Ran) -> dict[str, Record]:
    return records_of(ran.artifacts / "report" / "records.jsonl")


def wrong(name: str) -> str:
    """Return a runtime of tiny's that is not right."""
    return (TINY / "faults" / "runtimes" / f"{name}.py").read_text()


# --- A push ---------------------------------------------------------------------------------------------------------


def test_each_framework_is_exported_and_each_target_run(pushed: Pushed) -> None:
    assert {job.name: job.result for jobs in pushed.ran.jobs.values() for job in jobs} == {
        "plan": "success",
        "export counted_training": "success",
        "export raises_export": "success",
        "run here": "success",
        "run away": "failure",
        "report": "success",
        "attest the records": "success",
        "deploy the site": "success",
        "propose the table": "success",
    }, pushed.ran.failures


def test_every_cell_of_the_matrix_has_its_record(pushed: Pushed) -> None:
    found = records(pushed.ran)
    outcomes = {(record.id.framework, record.id.target, record.outcome) for record in found.values()}
    assert outcomes == {
        ("counted_training", "here", Outcome.PASS),
        ("raises_export", "here", Outcome.XFAIL),
        ("counted_training", "away", Outcome.NOT_RUN),
        ("raises_export", "away", Outcome.NOT_RUN),
    }
    planned = json.loads((pushed.ran.artifacts / "plan" / "plan.json").read_text())
    assert sorted(found) == sorted(cell for job in planned["runs"] for cell in job["cells"])


def test_why_there_is_no_bundle_travels_from_job_to_job(pushed: Pushed) -> None:
    found = [record for record in records(pushed.ran).values() if record.outcome is Outcome.XFAIL]
    assert found
    assert {record.stage.value for record in found if record.stage} == {"EXPORT"}
    assert {record.expected for record in found} == {"known to be so"}


def test_a_lost_job_shows_as_not_run_with_a_link(pushed: Pushed) -> None:
    lost = [record for record in records(pushed.ran).values() if record.id.target == "away"]
    assert {record.reason for record in lost} == {f"the job 'away' ended without a record of it: {LINK}"}
    assert LINK in pushed.ran.job("report").summary


def test_the_summary_says_what_came_out(pushed: Pushed) -> None:
    assert "## Planned: " in pushed.ran.job("plan").summary
    summary = pushed.ran.job("report").summary
    assert "**counted_training**" in summary
    assert "## Nothing to compare with" in summary


def test_the_site_is_deployed_with_its_badges(pushed: Pushed) -> None:
    pages = pushed.ran.artifacts.parent / "pages"
    assert "counted_training" in (pages / "index.html").read_text()
    badges = [json.loads(file.read_text()) for file in (pages / "badges").glob("*.json")]
    assert [badge for badge in badges if badge.get("schemaVersion") == 1]
    assert list((pages / "badges").glob("*.svg"))


def test_files_for_other_programs_are_kept(pushed: Pushed) -> None:
    folder = pushed.ran.artifacts / "report"
    assert {"records.jsonl", "junit.xml", "cells.sarif", "records.parquet"} <= {file.name for file in folder.iterdir()}


def test_the_records_are_attested(pushed: Pushed) -> None:
    content = (pushed.ran.artifacts / "report" / "records.jsonl").read_bytes()
    assert pushed.ran.attested["report/records.jsonl"] == hashlib.sha256(content).hexdigest()


def test_the_table_is_proposed_on_a_branch(pushed: Pushed) -> None:
    branch = "portmatrix/results"
    assert "counted_training" in pushed.repository.show(f"{branch}:README.md")
    content = (pushed.ran.artifacts / "report" / "records.jsonl").read_text()
    assert pushed.repository.show(f"{branch}:results/reference.jsonl") == content
    asked = (pushed.ran.artifacts.parent / "bin" / "asked").read_text()
    assert f"pr create --head {branch} --base main" in asked
    assert "counted_training" not in pushed.repository.show("main:README.md")


# --- A pull request -------------------------------------------------------------------------------------------------


def test_a_pull_request_runs_what_it_can_affect_and_publishes_nothing(
    adopted: Repository, run_workflow: RunWorkflow
) -> None:
    adopted.write("runtimes/other.py", wrong("wrong"))
    ran = run_workflow(adopted, PULL_REQUEST)
    found = records(ran)
    assert {record.id.runtime for record in found.values()} == {"other"}
    of_here = {
        record.outcome for record in found.values() if record.cell.startswith("counted") and "here" in record.cell
    }
    assert of_here == {Outcome.FAIL}
    assert ran.result("run") == "failure"
    report = ran.job("report")
    assert "::error " in report.printed("Annotate what is unexpected")
    assert "cells regressed" in report.printed("Compare with the base")
    assert "## Compared with HEAD^" in report.summary
    assert report.result == "failure"
    assert "runtimes/other.py" in ran.job("plan").summary
    assert [ran.result(job) for job in ("attest", "pages", "propose")] == ["skipped"] * 3
    assert not (ran.artifacts / "github-pages").exists()
    assert not (ran.artifacts.parent / "bin" / "asked").exists()


def test_a_pull_request_that_affects_nothing_runs_nothing_and_says_so(
    adopted: Repository, run_workflow: RunWorkflow
) -> None:
    adopted.write("docs/page.md", "# A page\n")
    ran = run_workflow(adopted, PULL_REQUEST)
    assert ran.result("plan") == "success"
    assert [ran.result(job) for job in ("export", "run")] == ["skipped", "skipped"]
    assert records(ran) == {}
    report = ran.job("report")
    assert report.result == "success", [step for step in report.steps if step.outcome == "failure"]
    assert "No cells" in report.summary
    assert "0 of 1 changed files can affect cells" in ran.job("plan").summary


def test_a_job_that_dies_is_no_pass_of_last_week(adopted: Repository, run_workflow: RunWorkflow) -> None:
    adopted.write("matrix.yaml", (adopted.root / "matrix.yaml").read_text() + "\n")
    ran = run_workflow(adopted, PULL_REQUEST, lost=lambda job, step: (job, step) == ("run here", "Run the cells"))
    found = records(ran)
    assert {record.outcome for record in found.values()} == {Outcome.NOT_RUN}
    assert all(LINK in record.reason for record in found.values())
    assert "lost" in ran.job("report").printed("Compare with the base")


# --- By hand --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def by_hand(pushed: Pushed, run_workflow: RunWorkflow, cache: Path) -> Ran:
    """Two cells of what was pushed before."""
    inputs: dict[str, Any] = {"cells": "*/free/native/plain/here */free/native/other/here", "suite": "."}
    return run_workflow(pushed.repository, Event("workflow_dispatch", inputs=inputs), cache=cache)


def test_cells_can_be_chosen_by_hand(by_hand: Ran) -> None:
    found = records(by_hand)
    assert {(record.id.model, record.id.path, record.id.target) for record in found.values()} == {
        ("free", "native", "here")
    }
    assert {record.id.runtime for record in found.values()} == {"plain", "other"}
    assert [by_hand.result(job) for job in ("attest", "pages", "propose")] == ["skipped"] * 3


def test_what_has_not_changed_is_taken_from_the_cache(pushed: Pushed, by_hand: Ran) -> None:
    job = "export counted_training"
    assert trainings(pushed.ran.job(job).folder) == ["bb", "free"]
    assert by_hand.job(job).result == "success"
    assert trainings(by_hand.job(job).folder) == []
    assert Outcome.PASS in {record.outcome for record in records(by_hand).values()}
