"""The jobs of a matrix: every cell in one of them, no more than GitHub takes, what each needs, and what is missing."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_suite import Assemble

from portmatrix import jobs, plan, suite
from portmatrix.affected import affected, globs_of
from portmatrix.errors import UserError
from portmatrix.globs import Globs
from portmatrix.jobs import Asked, Jobs
from portmatrix.plan import Selection
from portmatrix.plugins import EnvironmentSpec
from portmatrix.suite import Suite
from portmatrix.types import CellId, Outcome, Reach, Stage

ROOT = Path(__file__).parents[1]
REFERENCE = suite.load(ROOT)
WHOLE = Asked(whole=True, why="everything")
#: The labels on which jobs of the reference suite run, and the targets that each is itself or reaches.
RUNNERS = {
    "ubuntu-24.04": {
        "linux-x86_64",
        "linux-x86_64-musl",
        "linux-armhf",
        "linux-ppc64le",
        "linux-riscv64",
        "linux-s390x",
    }
    | {"node", "browser"},
    "ubuntu-24.04-arm": {"linux-arm64"},
    "windows-2025": {"windows-x86_64"},
    "windows-11-arm": {"windows-arm64"},
    "macos-15": {"macos-arm64"},
    "macos-15-intel": {"macos-x86_64"},
}


def planned(loaded: Suite, *globs: str) -> plan.Plan:
    return plan.plan(suite.axes(loaded, everywhere=True), suite.exclusions(loaded), Selection(globs))


def jobs_of(loaded: Suite, *globs: str) -> Jobs:
    return jobs.jobs_of(loaded, planned(loaded, *globs), WHOLE)


@pytest.fixture(scope="module")
def reference() -> Jobs:
    """The jobs of the whole reference suite."""
    return jobs_of(REFERENCE)


# --- The reference suite --------------------------------------------------------------------------------------------


def test_every_cell_of_the_matrix_is_in_one_job(reference: Jobs) -> None:
    found = [cell for job in reference.runs for cell in job.cells]
    assert sorted(found) == sorted(map(str, plan.belonging(suite.axes(REFERENCE, everywhere=True))))
    assert len(found) == len(set(found)) == reference.cells


def test_every_framework_is_exported_by_one_job(reference: Jobs) -> None:
    assert [job.name for job in reference.exports] == sorted(REFERENCE.plugins.exporters)
    by_name = {job.name: job for job in reference.exports}
    cells = plan.belonging(suite.axes(REFERENCE, everywhere=True))
    assert by_name["torch"].bundles == len({cell[:3] for cell in cells if cell.framework == "torch"})
    assert {job.runner for job in reference.exports} == {"ubuntu-24.04"}


def test_a_framework_that_no_hosted_interpreter_runs_comes_from_a_container(reference: Jobs) -> None:
    containers = {job.name: job.container for job in reference.exports if job.container}
    assert containers == {name: name for name in ("caffe", "cntk", "tensorflow1", "theano", "torch7")}


def test_every_target_is_run_on_its_runner(reference: Jobs) -> None:
    found: dict[str, set[str]] = {}
    for job in reference.runs:
        found.setdefault(job.runner, set()).add(job.target)
        assert all(cell.endswith(f"/{job.target}") for cell in job.cells)
    assert found == RUNNERS


def test_what_a_processor_emulates_says_so_and_gets_what_it_needs(reference: Jobs) -> None:
    emulated = {job.target: job.needs for job in reference.runs if job.reach is Reach.EMULATED}
    assert emulated == dict.fromkeys(("linux-armhf", "linux-ppc64le", "linux-riscv64", "linux-s390x"), "roots qemu")
    (musl,) = [job for job in reference.runs if job.target == "linux-x86_64-musl"]
    assert (musl.reach, musl.needs) == (Reach.CONTAINER, "roots")
    assert {job.needs for job in reference.runs if job.reach is Reach.NATIVE} == {""}


def test_names_of_jobs_are_names_of_files_and_artifacts(reference: Jobs) -> None:
    names = [job.name for job in (*reference.exports, *reference.runs)]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", name) for name in names)


def test_the_interpreters_of_a_job_make_its_environments(reference: Jobs) -> None:
    by_name = {job.name: job for job in reference.exports}
    assert by_name["torch"].python == "3.13"
    for job in reference.runs:
        versions = job.python.split("\n")
        assert 1 <= len(versions) <= 2
        assert set(versions) <= set(jobs.PYTHONS)
        if any("/onnxruntime-1.17/" in cell for cell in job.cells):
            assert "3.12" in versions or "3.11" in versions


def test_github_is_told_what_it_takes(reference: Jobs) -> None:
    lines = jobs.outputs(reference)
    assert sum(map(len, lines)) < 100_000
    told = dict(line.split("=", 1) for line in lines)
    assert len(json.loads(told["run"])["include"]) == int(told["runs"]) == len(reference.runs) <= jobs.MATRIX_JOBS
    assert len(json.loads(told["export"])["include"]) == int(told["exports"])
    assert told["whole"] == "true"
    assert "\n" not in "".join(lines)
    first = json.loads(told["run"])["include"][0]
    assert first["cells"] == len(reference.runs[0].cells)
    assert set(first) == {"name", "title", "target", "runner", "reach", "needs", "python", "cells"}


def test_outputs_that_are_too_large_are_refused(reference: Jobs) -> None:
    job = reference.runs[0].model_copy(update={"title": "x" * 2_000})
    with pytest.raises(UserError, match="GitHub takes 500,000"):
        jobs.outputs(reference.model_copy(update={"runs": (job,) * 256}))


def test_a_plan_of_jobs_can_be_read_again(reference: Jobs, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.write_text(reference.model_dump_json(exclude_defaults=True))
    assert jobs.read(file) == reference


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "plan.json is no plan of jobs"), ('{"schema_version": 2}', "schema_version"), (None, "--format github")],
)
def test_what_is_no_plan_of_jobs_is_refused(text: str | None, said: str, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=said):
        jobs.read(file)


# --- Parting --------------------------------------------------------------------------------------------------------


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=3), st.tuples(st.integers(1, 5_000), st.sampled_from([1, 5])), max_size=40
    ),
    st.integers(40, 256),
    st.integers(1, 700),
)
def test_cells_are_parted_into_as_many_jobs_as_are_taken(
    targets: dict[str, tuple[int, int]], limit: int, size: int
) -> None:
    found = jobs._slices(targets, limit, size)
    assert found.keys() == targets.keys()
    assert sum(found.values()) <= limit
    for name, (cells, _cost) in targets.items():
        part = math.ceil(cells / found[name])
        assert part * (found[name] - 1) < cells, "a job would be empty"


def test_a_large_target_is_parted_and_cells_of_one_runtime_stay_together(
    assemble: Assemble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs._slices, "__defaults__", (jobs.MATRIX_JOBS, 3))
    loaded = suite.load(assemble("runtimes/plain", "runtimes/wrong", models=("a", "b", "c")))
    found = jobs_of(loaded)
    assert [job.title for job in found.runs] == [f"here ({number} of 6)" for number in range(1, 7)]
    assert [job.name for job in found.runs] == [f"here-{number}" for number in range(1, 7)]
    assert all(len({CellId.parse(cell).runtime for cell in job.cells}) == 1 for job in found.runs)
    assert {len(job.cells) for job in found.runs} == {3}


def test_more_targets_than_jobs_are_refused() -> None:
    with pytest.raises(UserError, match="3 targets need as many jobs, and GitHub takes 2"):
        jobs._slices({"a": (1, 1), "b": (1, 1), "c": (1, 1)}, 2)


def test_what_the_suite_excludes_is_part_of_a_job(assemble: Assemble) -> None:
    loaded = suite.load(assemble("runtimes/plain", exclude=[{"cells": "*/graph/*", "reason": "not today"}]))
    (job,) = jobs_of(loaded).runs
    assert "linear/free/graph/plain/here" in job.cells
    again, strange = plan.exactly(suite.axes(loaded), suite.exclusions(loaded), job.cells)
    assert [str(item.cell) for item in again.left_out] == ["linear/free/graph/plain/here"]
    assert not strange


def test_a_target_on_no_runner_of_github_is_left_out_and_told(assemble: Assemble) -> None:
    root = assemble("runtimes/plain", "targets/away")
    file = root / "targets" / "away.py"
    file.write_text(file.read_text().replace("windows-11-arm", jobs.SELF_HOSTED))
    found = jobs_of(suite.load(root))
    assert {job.target for job in found.runs} == {"here"}
    assert set(found.unhosted) == {"away"}
    told = [record for record in jobs.missing(found, lambda _cell: False, "") if record.cell.endswith("/away")]
    assert {record.reason for record in told} == {"away is on no runner of GitHub's"}


def test_without_a_target_that_is_this_machine_nobody_knows_where_to_train(assemble: Assemble) -> None:
    root = assemble("runtimes/plain", "targets/away")
    (root / "targets" / "here.py").unlink()
    with pytest.raises(UserError, match="nothing says on which runner to train"):
        jobs_of(suite.load(root))


@pytest.mark.parametrize(
    ("declared", "found"),
    [
        ([], ["3.13"]),
        ([">=3.11,<3.14", ">=3.10,<3.13"], ["3.12"]),
        ([">=3.13,<3.14", ">=3.10,<3.13", ">=3.11"], ["3.13", "3.12"]),
        ([">=3.6,<3.7", ">=3.14"], ["3.14"]),
        ([">=3.6,<3.7"], ["3.13"]),
    ],
)
def test_a_job_gets_the_fewest_interpreters_that_do(declared: list[str], found: list[str]) -> None:
    assert jobs.pythons([EnvironmentSpec(python=python) for python in declared]) == found


def test_the_key_of_the_cache_changes_with_what_bundles_are_made_from(assemble: Assemble) -> None:
    root = assemble("runtimes/plain", models=("free", "points"))
    (before,) = jobs_of(suite.load(root)).exports

    def after(name: str, old: str, new: str) -> str:
        file = root / name
        kept = file.read_text()
        assert old in kept
        file.write_text(kept.replace(old, new))
        (job,) = jobs_of(suite.load(root)).exports
        file.write_text(kept)
        return job.recipes

    assert after("runtimes/plain.py", "rightly", "right") == before.recipes
    assert after("exporters/linear.py", "Linear", "linear") != before.recipes
    assert after("data/points.py", "import", "import math\nimport") != before.recipes
    assert after("matrix.yaml", '"seed": 7', '"seed": 8') != before.recipes
    assert after("matrix.yaml", '"cell_seconds": 30', '"cell_seconds": 31') == before.recipes
    (job,) = jobs_of(suite.load(root), "*/free/native/*").exports
    assert job.recipes == before.recipes, "a selection does not change what the bundles of a framework are made from"


# --- What rests on which file ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "cells", "others"),
    [
        ("exporters/torch.py", "torch/*", "tensorflow/*"),
        ("runtimes/onnxruntime.py", "*/onnxruntime-1.17/*", "*/openvino/*"),
        ("runtimes/onnxruntime-c.c", "*/onnxruntime-c/*", "*/onnxruntime/*"),
        ("runtimes/onnx-reference.py", "torch/*/onnx-dynamo/opencv-dnn/*", "torch/*/pt2/*"),
        ("targets/linux-s390x.py", "*/linux-s390x", "*/linux-arm64"),
        ("dockerfiles/theano.Dockerfile", "theano/*", "caffe/*"),
        ("archive/caffe/mlp/native/manifest.json", "caffe/mlp/onnx-dynamic/*", "caffe/lstm/*"),
    ],
)
def test_a_file_of_the_reference_suite_affects_its_own_cells(file: str, cells: str, others: str) -> None:
    assert (ROOT / file).is_file()
    globs = Globs(globs_of(affected([file], jobs.uses_of(REFERENCE, ROOT))))
    every = list(plan.belonging(suite.axes(REFERENCE, everywhere=True)))
    mine = [cell for cell in every if cell in Globs([cells])]
    assert mine
    assert all(cell in globs for cell in mine)
    assert not any(cell in globs for cell in every if cell in Globs([others]))


def test_the_data_affects_all_models_that_read_it() -> None:
    uses = jobs.uses_of(REFERENCE, ROOT)
    readers = {model for model, reads in REFERENCE.spec.models.items() if reads.data == "digits"}
    for file in ("data/digits.py", "data/digits.npz"):
        assert {glob.split("/")[1] for glob in affected([file], uses)[file]} == readers


def test_other_suites_in_the_checkout_matter_to_none_of_ours() -> None:
    uses = jobs.uses_of(REFERENCE, ROOT)
    assert {"large", "tests/tiny"} <= uses.elsewhere
    inner = jobs.uses_of(suite.load(ROOT / "tests" / "tiny"), ROOT)
    assert inner.folder == "tests/tiny"
    assert globs_of(affected(["matrix.yaml"], inner)) == ("*",)
    assert affected(["large/exporters/torch.py"], inner) == {"large/exporters/torch.py": ()}


def test_a_suite_in_another_checkout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not in the checkout"):
        jobs.uses_of(REFERENCE, tmp_path)


# --- What is asked for, in words ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("selection", "touched", "whole", "why"),
    [
        (Selection(), None, True, "all that belongs to the matrix"),
        (Selection(("torch/*",), ("*/mlp/*",)), None, False, "what is selected: torch/* --skip */mlp/*"),
        (Selection(), {"a": ("x/*",), "b": ()}, False, "1 of 2 changed files can affect cells"),
        (Selection(), {"a": ("*",), "b": ()}, True, "1 of 2 changed files can affect cells, a all of them"),
        (Selection(("t/*",)), {"a": ("*",)}, False, "1 of 1 changed files can affect cells, a all of them; of t/*"),
        (Selection(), {}, False, "0 of 0 changed files can affect cells"),
    ],
)
def test_what_is_asked_for_is_said(
    selection: Selection, touched: dict[str, tuple[str, ...]] | None, whole: bool, why: str
) -> None:
    assert jobs.asked(selection, touched) == Asked(whole, why)


def test_the_summary_stays_small_and_harmless(reference: Jobs) -> None:
    hostile = {f"<script>{number}|\x1b[31m" + "x" * 5_000: ("*",) for number in range(5_000)}
    job = reference.runs[0].model_copy(update={"title": "<b>" + "y" * 5_000})
    text = jobs.summary(reference.model_copy(update={"runs": (job,) * 256}), hostile)
    assert len(text.encode()) < 1 << 20
    assert "<script>" not in text
    assert "\x1b" not in text
    assert "4,700 more rows are left out." in text


# --- What became of it ----------------------------------------------------------------------------------------------


def test_what_a_job_did_not_bring_is_not_run_and_says_where_to_look(assemble: Assemble) -> None:
    found = jobs_of(suite.load(assemble("runtimes/plain")))
    cells = found.runs[0].cells
    link = "https://github.example/runs/1"
    (record, *others) = jobs.missing(found, lambda cell: cell != cells[0], link)
    assert not others
    assert (record.cell, record.outcome) == (cells[0], Outcome.NOT_RUN)
    assert record.reason == f"the job 'here' ended without a record of it: {link}"
    assert record.started == "", "it stands behind any attempt there was"


def test_a_job_is_known_by_its_name(assemble: Assemble) -> None:
    found = jobs_of(suite.load(assemble("runtimes/plain", models=("a", "b"))))
    assert jobs.cells_of(found, "here") == found.runs[0].cells
    assert sorted(jobs.cells_of(found, "linear")) == sorted(found.runs[0].cells)
    with pytest.raises(UserError, match=r"no job 'her'; expected one of linear, here \(did you mean 'here'\?\)"):
        jobs.cells_of(found, "her")


def test_planned_cells_that_do_not_exist_here_are_errors_with_the_reason(assemble: Assemble) -> None:
    whole = jobs_of(suite.load(assemble("runtimes/plain", "runtimes/wrong", name="whole")))
    root = assemble("runtimes/plain", "runtimes/wrong", name="broken")
    (root / "runtimes" / "wrong.py").write_text("raise OSError('not on this system')\n")
    loaded = suite.load(root)
    cells = (*whole.runs[0].cells, "gone/free/native/plain/here")
    known, strange = plan.exactly(suite.axes(loaded), suite.exclusions(loaded), cells)
    assert {cell.runtime for cell in known.cells} == {"plain"}
    records = {record.cell: record for record in jobs.strangers(loaded, strange, "r")}
    assert {(record.outcome, record.stage) for record in records.values()} == {(Outcome.ERROR, Stage.PLAN)}
    assert "not on this system" in records["linear/free/native/wrong/here"].reason
    assert (
        records["gone/free/native/plain/here"].reason == "it was planned, and there is no such cell in the suite here"
    )
