"""results/reference.jsonl: the committed records are whole, and what the README shows is what they say."""

from __future__ import annotations

from pathlib import Path

import pytest

from portmatrix import plan, records, suite
from portmatrix.rate import rate
from portmatrix.records import ResultSet
from portmatrix.render import readme
from portmatrix.types import CONCLUSIVE, UNEXPECTED, Outcome, Record

ROOT = Path(__file__).parent.parent
SUITE = suite.load(ROOT)
REFERENCE = list(records.read(ROOT / "results" / "reference.jsonl"))


@pytest.fixture(scope="module")
def everything() -> tuple[Record, ...]:
    """The reference records, and NOT_RUN for every cell of the suite that they do not speak of."""
    cells = (str(cell) for cell in plan.cells_of(suite.axes(SUITE, everywhere=True)))
    return ResultSet(REFERENCE, cells).records


def test_there_is_one_conclusive_record_for_every_cell_on_the_targets_that_were_run() -> None:
    targets = {record.id.target for record in REFERENCE}
    cells = {str(cell) for cell in plan.cells_of(suite.axes(SUITE, everywhere=True)) if cell.target in targets}
    assert targets
    assert sorted(record.cell for record in REFERENCE) == sorted(cells)
    open_ = [record for record in REFERENCE if record.outcome not in CONCLUSIVE]
    open_ = [record for record in open_ if record.outcome is not Outcome.SKIP]  # by matrix.yaml, with a reason
    # Of Torch7 there are the models that somebody once trained, and no way to train others.
    assert {record.id.framework for record in open_} <= {"torch7"}
    assert all(record.outcome is Outcome.NOT_RUN and "untested" in record.reason for record in open_)


def test_those_of_a_framework_are_from_one_run_that_reused_nothing() -> None:
    runs = {(record.id.framework, record.run) for record in REFERENCE}
    assert len(runs) == len({framework for framework, _ in runs})
    assert not any(record.reused for record in REFERENCE)


def test_nothing_in_them_is_unexpected() -> None:
    assert [record.cell for record in REFERENCE if record.outcome in UNEXPECTED] == []


def test_the_readme_shows_them(everything: tuple[Record, ...]) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    spec = SUITE.spec.ratings
    section = readme.render_section(everything, rate(everything, spec), spec.survey)
    assert readme.replace_section(text, section) == text, (
        "regenerate: portmatrix report results/reference.jsonl --readme README.md --results docs/results.md"
    )


def test_the_results_page_shows_them(everything: tuple[Record, ...]) -> None:
    assert readme.results_page(everything) == (ROOT / "docs" / "results.md").read_text(encoding="utf-8")


def test_a_changed_record_is_noticed(everything: tuple[Record, ...]) -> None:
    lost = tuple(record for record in everything if record.cell != REFERENCE[0].cell)
    assert readme.results_page(lost) != readme.results_page(everything)
