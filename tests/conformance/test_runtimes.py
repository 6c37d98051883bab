"""One driver for all runtimes: each runs real bundles in its real environment, by way of the real worker."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from real_suite import MODEL, SUITE, case, cells, chosen, export_all, home_of, lease, limits, probe, unreported

from portmatrix import run
from portmatrix.export import Bundle
from portmatrix.plugins import Runtime
from portmatrix.recording import Recorder
from portmatrix.run import RunOutput
from portmatrix.store import Store, default_root
from portmatrix.types import UNEXPECTED, WORKING, CellId, Outcome, Record, Stage
from portmatrix.workers import Failure, Lease

RUNTIMES = chosen("runtimes", SUITE.plugins.runtimes)


def roads(name: str, form: str, model: str = MODEL) -> list[CellId]:
    """Return the model's cells on which the runtime takes an artifact of that format.

    They come from the exporters that are under test too, if one of them makes the format, and from all otherwise.
    """
    exporters = SUITE.plugins.exporters
    home = home_of(SUITE.plugins.runtimes[name])
    # What belongs to the matrix, or where nothing of that does, what else there is on the target.
    for globs in (f"*/{model}/*/{name}/*", f"*/{model}/*/{name}/{home}"):
        found = [
            cell
            for cell in cells(globs).cells
            if (cell.runtime, cell.target) == (name, home) and exporters[cell.framework].paths[cell.path].format == form
        ]
        if found:
            break
    tested = chosen("exporters", exporters)
    return [cell for cell in found if cell.framework in tested] or found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize over the runtimes and the formats that each declares."""
    found = [case("runtimes", name, form) for name in RUNTIMES for form in SUITE.plugins.runtimes[name].formats]
    metafunc.parametrize(("runtime", "form"), found, indirect=True, scope="module")


@pytest.fixture(scope="module")
def runtime(request: pytest.FixtureRequest) -> Runtime:
    """The runtime under test."""
    return SUITE.plugins.runtimes[request.param]


@pytest.fixture(scope="module")
def form(request: pytest.FixtureRequest) -> str:
    """The format under test."""
    return str(request.param)


class Bench(NamedTuple):
    """A worker for one runtime, and a store of its own for broken bundles."""

    runtime: Runtime
    lease: Lease
    store: Store

    def run(self, store: Store, bundle: Bundle) -> RunOutput | Failure:
        """Run a stored bundle through the probe, which stands before the runtime."""
        probed = self.runtime._replace(file=probe("runtime"))
        allowed = limits(SUITE.spec.limits.cell_seconds, self.runtime.environment)
        return run.run(self.lease, probed, bundle.digest, bundle.manifest, store, allowed)


@pytest.fixture(scope="module")
def bench(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """The bench that all tests of one runtime share."""
    folder = tmp_path_factory.mktemp("bench")
    with lease(runtime, folder / "worker") as opened:
        yield Bench(runtime, opened, Store(folder / "store"))


class Tried(NamedTuple):
    """One road: its cell, the bundle, and what the runtime made of it, as a record."""

    cell: CellId
    bundle: Bundle
    record: Record


def attempt(bench: Bench, form: str, model: str) -> list[Tried]:
    """Return what came of every road of a model on which the runtime takes the format."""
    store = Store(default_root())
    recorder = Recorder(SUITE, store, "conformance")
    planned = roads(bench.runtime.name, form, model)
    made = export_all(*map(str, planned)) if planned else {}
    found = []
    for cell in planned:
        bundle = made[cell.framework, cell.model, cell.path]
        if isinstance(bundle, Failure):
            continue  # the exporters' own tests judge that
        ran = bench.run(store, bundle)
        if isinstance(ran, Failure):
            record = recorder.failed(cell, ran, bundle)
        else:
            reference = run.references(store, bundle.digest, bundle.manifest)
            compared = run.compare_outputs(bundle.manifest, reference, ran.outputs, SUITE.spec)
            allowed = SUITE.spec.precision.accuracy_drop
            accuracy = run.accuracy_of(store, bundle.digest, bundle.manifest, ran, allowed)
            record = recorder.compared(cell, bundle, ran, compared, accuracy)
        found.append(Tried(cell, bundle, recorder.expect(record)))
    return found


@pytest.fixture(scope="module")
def tried(bench: Bench, form: str) -> list[Tried]:
    """Every road of the first model on which the runtime takes the format, each run once."""
    return attempt(bench, form, MODEL)


@pytest.fixture(scope="module")
def best(tried: list[Tried], bench: Bench, form: str) -> Tried:
    """A road that the runtime takes well: one of the first model's, or of the first model that has one.

    Where no model of the suite has any, ``matrix.yaml`` must expect just that, and the first road stands for them.
    """
    others = (model for model in SUITE.spec.models if model != MODEL)
    seen = list(tried)
    while not (found := [item for item in seen if item.record.outcome in WORKING]):
        model = next(others, None)
        if model is None:
            unexpected = [_told(item) for item in seen if item.record.outcome is not Outcome.XFAIL]
            assert not unexpected, f"no artifact of format {form} gives right answers: " + "; ".join(unexpected)
            return seen[0]
        seen += attempt(bench, form, model)
    return found[0]


def _told(item: Tried) -> str:
    stage = item.record.stage.value if item.record.stage else ""
    return f"{item.cell}: {item.record.outcome.value} {stage}: {item.record.reason}"


def test_some_exporter_makes_the_format(runtime: Runtime, form: str) -> None:
    assert roads(runtime.name, form), f"{runtime.name} takes {form}, which no exporter makes: nothing shows that it can"


def test_every_road_ends_as_expected(tried: list[Tried]) -> None:
    unexpected = [_told(item) for item in tried if item.record.outcome in UNEXPECTED]
    assert not unexpected, "\n".join(unexpected)


def test_answers_have_their_own_dtypes(best: Tried, bench: Bench) -> None:
    # The probe runs everything twice, and fails the run if inputs change or answers differ.
    made = bench.run(Store(default_root()), best.bundle)
    if best.record.outcome is Outcome.XFAIL:
        return
    assert isinstance(made, RunOutput), made
    declared = {tensor.name: tensor.dtype for tensor in best.bundle.manifest.signature.outputs}
    for outputs in made.outputs:
        assert {name: value.dtype.name for name, value in outputs.items()} == declared


def test_the_worker_says_what_it_ran_with(best: Tried, bench: Bench) -> None:
    program = bench.runtime.program is not None
    assert not unreported(bench.runtime.environment, bench.lease.environment, program=program)


def _as_junk(file: Path) -> None:
    file.write_bytes(b"This is no model.\n" * 1000)


def _as_empty(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize("broken", [_as_junk, _as_empty, Path.unlink], ids=["junk", "empty", "missing"])
def test_a_broken_artifact_is_refused_with_a_reason(best: Tried, bench: Bench, broken: Callable[[Path], None]) -> None:
    made = bench.run(bench.store, _with_files(best.bundle, bench.store, broken))
    assert isinstance(made, Failure)
    assert (made.stage, made.fault) == (Stage.LOAD, "model"), made
    assert made.reason
    # Whether the worker survived or not: the next cell goes on, and ends as it did before.
    again = bench.run(Store(default_root()), best.bundle)
    assert isinstance(again, Failure) == (best.record.stage in (Stage.LOAD, Stage.RUN)), again


def _with_files(bundle: Bundle, store: Store, change: Callable[[Path], None]) -> Bundle:
    """Return a copy of the bundle in ``store``, each file of whose artifact is changed once it lies there."""
    with store.scratch("broken") as scratch:
        folder = scratch / "bundle"
        shutil.copytree(Store(default_root()).bundle_folder(bundle.digest), folder)
        copy = Bundle(*store.put_bundle(folder, bundle.manifest))
    for file in [item for item in (store.bundle_folder(copy.digest) / "artifact").rglob("*") if item.is_file()]:
        change(file)
    return copy
