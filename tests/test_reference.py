"""results/reference.jsonl: the committed records are whole, and what the README shows is what they say."""

from __future__ import annotations

from pathlib import Path

import pytest

from portmatrix import plan, records, suite
from portmatrix.filesets import stale_files
from portmatrix.globs import Globs
from portmatrix.rate import Rating, rate
from portmatrix.records import ResultSet
from portmatrix.render import badges, readme
from portmatrix.types import CONCLUSIVE, Outcome, Reach, Record

ROOT = Path(__file__).parent.parent
SUITE = suite.load(ROOT)
REFERENCE = list(records.read(ROOT / "results" / "reference.jsonl"))
REGENERATE = (
    "regenerate: portmatrix report results/reference.jsonl --readme README.md --results docs/results.md "
    "--badges docs/badges"
)
MEASURED = Globs(SUITE.spec.latency.cells)
CELLS = sorted(map(str, plan.belonging(suite.axes(SUITE, everywhere=True))))


@pytest.fixture(scope="module")
def everything() -> tuple[Record, ...]:
    """The reference records, and NOT_RUN for every cell of the suite that they do not speak of."""
    return ResultSet(REFERENCE, CELLS).records


def test_there_is_one_record_for_every_cell_that_belongs_to_the_matrix() -> None:
    assert sorted(record.cell for record in REFERENCE) == CELLS


def test_what_is_left_open_has_a_reason_that_no_run_here_could_mend() -> None:
    for record in REFERENCE:
        if record.outcome in CONCLUSIVE or record.lookup is not None:
            continue
        match record.outcome:
            case Outcome.SKIP:  # by matrix.yaml, with a reason
                assert record.reason
            case Outcome.ERROR:  # of an emulator, foretold by matrix.yaml
                assert record.expected, record.cell
                assert record.reach is Reach.EMULATED, record.cell
            case _:
                # Of Torch7 there are the models that somebody once trained, and no way to train others; a root of
                # Debian 13 has the CPython that it has.
                known = record.id.framework == "torch7" and "untested" in record.reason
                assert known or "Debian 13" in record.reason, f"{record.cell}: {record.reason}"


def test_those_of_a_framework_by_one_runtime_on_one_target_are_from_one_run_that_reused_nothing() -> None:
    # What was measured after it passed is from the session that measured it.
    ran = [record for record in REFERENCE if record.latency is None]
    rows = {(record.id.framework, record.id.runtime, record.id.target) for record in ran}
    runs = {(record.id.framework, record.id.runtime, record.id.target, record.run) for record in ran}
    assert len(runs) == len(rows)
    assert not any(record.reused for record in REFERENCE)


def test_latency_is_that_of_the_cells_that_the_suite_names() -> None:
    measured = {record.cell: record for record in REFERENCE if record.latency is not None}
    assert sorted(measured) == [cell for cell in CELLS if MEASURED.match(cell)]
    steady = set()
    for record in measured.values():
        assert record.latency is not None
        assert record.latency.session == record.run
        assert record.latency.baseline_environment["onnxruntime"]
        # What was measured while the machine changed is marked so, and counts for nothing in the table.
        if not record.latency.unstable:
            steady.add(record.id[:2])
    assert steady == {record.id[:2] for record in measured.values()}


def test_nothing_in_them_is_unexpected() -> None:
    assert [record.cell for record in REFERENCE if record.unexpected] == []


def test_targets_that_are_reached_pass_a_network_of_each_sort_over_onnx() -> None:
    # musl is reached, too, but not by any runtime that takes ONNX.
    onnx = [record for record in REFERENCE if record.id.path.startswith("onnx") and record.arrived]
    reached = {record.id.target for record in onnx if record.reach not in (None, Reach.STATIC)}
    assert len(reached) >= 9
    passed = {(cell.target, cell.model) for cell in (r.id for r in REFERENCE if r.outcome is Outcome.PASS)}
    for target in reached:
        for model in ("alexnet", "lstm", "transformer"):
            assert (target, model) in passed


def test_what_is_not_reached_never_passed() -> None:
    static = [record for record in REFERENCE if record.reach is Reach.STATIC]
    assert static
    assert {record.outcome for record in static} <= {Outcome.FAIL, Outcome.XFAIL, Outcome.NOT_RUN}


@pytest.fixture(scope="module")
def ratings(everything: tuple[Record, ...]) -> tuple[Rating, ...]:
    return rate(everything, SUITE.spec.ratings)


def test_the_readme_shows_them(everything: tuple[Record, ...], ratings: tuple[Rating, ...]) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.render_section(everything, ratings, SUITE.spec.ratings.survey, badges="docs/badges")
    assert readme.replace_section(text, section) == text, REGENERATE


def test_the_badges_show_them(everything: tuple[Record, ...], ratings: tuple[Rating, ...]) -> None:
    files = badges.badge_files(everything, ratings)
    assert not stale_files(ROOT / "docs" / "badges", files, badges.MANIFEST), REGENERATE
    assert {file.name for file in (ROOT / "docs" / "badges").iterdir()} == set(files)


def test_the_results_page_shows_them(everything: tuple[Record, ...]) -> None:
    assert readme.results_page(everything) == (ROOT / "docs" / "results.md").read_text(encoding="utf-8")


def test_a_changed_record_is_noticed(everything: tuple[Record, ...]) -> None:
    lost = tuple(record for record in everything if record.cell != REFERENCE[0].cell)
    assert readme.results_page(lost) != readme.results_page(everything)
