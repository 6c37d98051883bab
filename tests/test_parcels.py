"""What is handed to another machine arrives there: bundles, and why there is none of the others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_suite import Assemble, RunMatrix, Witness

from portmatrix import matrix, parcels, plan, suite
from portmatrix.errors import StoreError
from portmatrix.export import Bundle
from portmatrix.matrix import MatrixRun
from portmatrix.parcels import NotMade
from portmatrix.plan import Selection
from portmatrix.store import Store
from portmatrix.types import Outcome, Stage
from portmatrix.workers import Failure

WHICH = ("linear", "free", "native")


def made(root: Path, store: Store) -> tuple[MatrixRun, dict[tuple[str, str, str], Bundle | Failure]]:
    loaded = suite.load(root)
    run = MatrixRun(loaded, store, Witness(), Witness(), matrix.Options("r"))
    return run, run.export_only(plan.plan(suite.axes(loaded), suite.exclusions(loaded), Selection()))


def handed(root: Path, store: Store, folder: Path) -> None:
    run, found = made(root, store)
    parcels.write(
        folder,
        {which: run.not_made(which, item) if isinstance(item, Failure) else item for which, item in found.items()},
        store,
    )


def test_a_failure_arrives_as_it_was(store: Store, tmp_path: Path) -> None:
    failure = Failure(Stage.EXPORT, "no such operator in /its/folder", "model", "a log of /its/folder")
    missing = Failure(Stage.PREPARE, "no interpreter", "harness", unavailable=True)
    told = {WHICH: NotMade(failure, archived=True), ("a", "b", "c"): NotMade(missing, archived=False)}
    parcels.write(tmp_path / "parcels", told, store, lambda text: text.replace("/its/folder", "~"))
    found = parcels.read(tmp_path / "parcels", store)
    assert found.bundles == []
    assert found.failed == {
        WHICH: NotMade(failure._replace(reason="no such operator in ~", log_tail="a log of ~"), archived=True),
        ("a", "b", "c"): NotMade(missing, archived=False),
    }


def test_cells_end_there_as_they_would_have_here(
    assemble: Assemble, run_matrix: RunMatrix, store: Store, make_store: object, tmp_path: Path
) -> None:
    root = assemble("exporters/linear", "exporters/raises_export", "exporters/raises_train", "runtimes/plain")
    here = run_matrix(root)
    handed(root, store, tmp_path / "parcels")
    there = make_store(tmp_path / "there")  # type: ignore[operator]
    found = parcels.read(tmp_path / "parcels", there)
    ran = run_matrix(root, kept=there, give=found.bundles, failed=found.failed)
    assert ran.outcomes == here.outcomes
    assert {record.reason for record in ran.records.values()} == {record.reason for record in here.records.values()}
    failed = [record for record in ran.records.values() if record.outcome is Outcome.FAIL]
    assert failed
    assert not any("trained_on" in record.facts for record in failed), "nothing was tried there"


def test_what_was_made_after_all_takes_the_place_of_its_failure(
    assemble: Assemble, store: Store, tmp_path: Path
) -> None:
    failed = NotMade(Failure(Stage.EXPORT, "for a time", "model"), archived=False)
    parcels.write(tmp_path, {WHICH: failed}, store)
    handed(assemble("runtimes/plain"), store, tmp_path)
    assert WHICH not in parcels.read(tmp_path, store).failed
    parcels.write(tmp_path, {WHICH: failed}, store)
    found = parcels.read(tmp_path, store)
    assert found.failed == {WHICH: failed}
    assert WHICH[2] not in {bundle.manifest.path for bundle in found.bundles}


@pytest.mark.parametrize("text", ["", "{}", json.dumps({"schema_version": 2, "stage": "EXPORT"})])
def test_a_file_that_says_something_else_is_refused(text: str, store: Store, tmp_path: Path) -> None:
    (tmp_path / "a.b.c.failed.json").write_text(text)
    with pytest.raises(StoreError, match=r"a\.b\.c\.failed\.json does not say why there is no bundle"):
        parcels.read(tmp_path, store)
