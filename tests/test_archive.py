"""The archive: what goes in comes out with its provenance, takes the place of what cannot be trained, and shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_suite import Assemble, Ran, RunMatrix

from portmatrix import archive, cli, environments, suite
from portmatrix.bundle import read_manifest
from portmatrix.errors import EnvironmentFailure
from portmatrix.plugins import EnvironmentSpec
from portmatrix.render import readme
from portmatrix.store import Store
from portmatrix.types import Outcome, Record, Stage

WHERE = Path("archive", "linear", "free", "native")


@pytest.fixture
def archived(assemble: Assemble, store: Store) -> Path:
    """A suite with an archive of what its exporter made, for a model that it has."""
    root = assemble("runtimes/plain")
    put(root, store)
    return root


def put(root: Path, store: Store, *globs: str) -> None:
    """Archive what the cells need, as the command does."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["archive", *(globs or ("*",)), "--suite", str(root), "--store", str(store.root)])
    assert ended.value.code == 0


@pytest.fixture
def retire(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Takes the exporter's environment from this machine, and leaves that of the runtime."""
    real = environments.source_of

    def source_of(spec: EnvironmentSpec) -> object:
        if spec.container == "gone":
            raise EnvironmentFailure("needs CPython 2.7", unavailable=True)
        return real(spec)

    def make(root: Path) -> None:
        (root / "dockerfiles").mkdir()
        (root / "dockerfiles" / "gone.Dockerfile").touch()
        file = root / "exporters" / "linear.py"
        file.write_text(file.read_text() + '\nENVIRONMENT["container"] = "gone"\n')
        monkeypatch.setattr(environments, "source_of", source_of)

    return make


def the_record(ran: Ran) -> Record:
    return ran.only("*/native/*")


def test_what_cannot_be_trained_here_comes_from_the_archive(
    archived: Path, retire: Callable[[Path], None], run_matrix: RunMatrix, make_store: Callable[[Path], Store]
) -> None:
    retire(archived)
    ran = run_matrix(archived, kept=make_store(archived / "other-machine"))
    assert {record.outcome for record in ran.records.values()} == {Outcome.PASS}
    assert all(record.archived for record in ran.records.values())


def test_what_is_trained_here_is_not_archived(archived: Path, run_matrix: RunMatrix) -> None:
    record = the_record(run_matrix(archived, fresh=True))
    assert (record.outcome, record.archived) == (Outcome.PASS, False)


def test_the_archive_is_taken_where_it_is_asked_for(archived: Path, run_matrix: RunMatrix) -> None:
    record = the_record(run_matrix(archived, archived=True))
    assert (record.outcome, record.archived) == (Outcome.PASS, True)


def test_an_archived_bundle_tells_where_it_comes_from(archived: Path, store: Store) -> None:
    provenance = read_manifest(archived / WHERE).provenance
    assert provenance is not None
    assert "numpy" in provenance.trained_with
    assert "python" in provenance.trained_with
    assert len(provenance.date) == len("2016-01-31")
    before = provenance.recipe
    file = archived / "exporters" / "linear.py"
    file.write_text(file.read_text() + "\n# changed\n")
    put(archived, store)
    changed = read_manifest(archived / WHERE).provenance
    assert changed is not None
    assert changed.recipe != before, "it says of which exporter it is"


def test_without_an_archive_it_is_not_run(
    assemble: Assemble, retire: Callable[[Path], None], run_matrix: RunMatrix
) -> None:
    root = assemble("runtimes/plain")
    retire(root)
    record = the_record(run_matrix(root))
    assert (record.outcome, record.stage) == (Outcome.NOT_RUN, Stage.PREPARE)
    assert "needs CPython 2.7" in record.reason


@pytest.mark.usefixtures("offline")
def test_an_environment_that_does_not_build_is_as_good_as_none(archived: Path, run_matrix: RunMatrix) -> None:
    file = archived / "exporters" / "linear.py"
    file.write_text(file.read_text() + '\nENVIRONMENT["requirements"].append("nowhere==1.0")\n')
    ran = run_matrix(archived)
    record = the_record(ran)
    assert (record.outcome, record.archived) == (Outcome.PASS, True)
    assert any("nowhere==1.0" in text and "archive" in text for text in ran.said)


def test_an_archived_bundle_that_was_changed_is_not_used(
    archived: Path, retire: Callable[[Path], None], run_matrix: RunMatrix
) -> None:
    (archived / WHERE / "artifact" / "model.npz").write_bytes(b"something else")
    retire(archived)
    ran = run_matrix(archived)
    assert the_record(ran).outcome is Outcome.NOT_RUN
    assert any("model.npz is changed" in text for text in ran.said)


def test_one_without_provenance_is_not_used(
    archived: Path, retire: Callable[[Path], None], run_matrix: RunMatrix
) -> None:
    manifest = archived / WHERE / "manifest.json"
    manifest.write_text(read_manifest(archived / WHERE).model_copy(update={"provenance": None}).model_dump_json())
    retire(archived)
    ran = run_matrix(archived)
    assert the_record(ran).outcome is Outcome.NOT_RUN
    assert any("nothing of where it comes from" in text for text in ran.said)


def test_what_a_framework_cannot_do_is_archived_as_well(
    assemble: Assemble, store: Store, run_matrix: RunMatrix
) -> None:
    root = assemble("exporters/cannot_train", "runtimes/plain")
    put(root, store)
    (kept,) = root.rglob("failure.json")
    assert kept.parent.parts[-3:-1] == ("cannot_train", "free")
    record = run_matrix(root, archived=True).only()
    assert (record.outcome, record.stage, record.archived) == (Outcome.FAIL, Stage.TRAIN, True)
    kept.write_text("{}")
    again = run_matrix(root, archived=True)
    assert again.only().archived is False, "what cannot be read is not used"
    assert any("failure.json cannot be read" in text for text in again.said)


def test_archived_shows_in_the_tables(archived: Path, run_matrix: RunMatrix) -> None:
    ran = run_matrix(archived, archived=True)
    assert "†" in readme.results_page(list(ran.records.values()))


def test_the_archive_of_a_recipe_has_its_place(archived: Path, store: Store) -> None:
    loaded = suite.load(archived)
    assert (archived / WHERE / "manifest.json").is_file()
    assert {file.name for file in (archived / WHERE).iterdir()} == {"manifest.json", "artifact", "samples"}
    assert archive.FOLDER == "archive"
    assert set(loaded.plugins.exporters) == {"linear"}
