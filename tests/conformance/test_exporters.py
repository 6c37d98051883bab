"""One driver for all exporters: each trains and exports in its real environment, by way of the real worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from real_suite import (
    MODEL,
    SUITE,
    case,
    cells,
    chosen,
    expected,
    export_all,
    lease,
    limits,
    planned,
    probe,
    unreported,
    workers_started,
)

from portmatrix import export, run
from portmatrix.bundle import Manifest
from portmatrix.export import Bundle, Recipe
from portmatrix.plugins import Exporter
from portmatrix.store import Store
from portmatrix.types import Batch, Stage
from portmatrix.workers import Failure, Lease, Limits

EXPORTERS = chosen("exporters", SUITE.plugins.exporters)
LIMITS = SUITE.spec.limits


#: Each exporter in each of its environments: its name, or NAME@ENVIRONMENT.
ROOMS = [
    f"{name}@{environment}".removesuffix("@")
    for name in EXPORTERS
    for environment in SUITE.plugins.exporters[name].environments
]


def in_room(room: str) -> Exporter:
    """Return an exporter as it is in one of its environments."""
    name, _, environment = room.partition("@")
    return SUITE.plugins.exporters[name].within(environment)


def own_paths(exporter: Exporter) -> list[str]:
    """Return the paths that the exporter itself exports in its environment, and not portmatrix or another one."""
    return [
        path
        for path, way in exporter.paths.items()
        if not way.source and exporter.of(path).environment is exporter.environment
    ]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize over the exporters alone, with their paths, or with the suite's models."""
    if "path" in metafunc.fixturenames:
        found = [case("exporters", room, path) for room in ROOMS for path in own_paths(in_room(room))]
        metafunc.parametrize(("exporter", "path"), found, indirect=["exporter"], scope="module")
    elif "model" in metafunc.fixturenames:
        found = [case("exporters", name, model) for name in EXPORTERS for model in SUITE.spec.models]
        metafunc.parametrize(("exporter", "model"), found, indirect=["exporter"], scope="module")
    else:
        metafunc.parametrize("exporter", [case("exporters", room) for room in ROOMS], indirect=True, scope="module")


@pytest.fixture(scope="module")
def exporter(request: pytest.FixtureRequest) -> Exporter:
    """The exporter under test, in the environment under test."""
    return in_room(request.param)


class Workshop(NamedTuple):
    """A worker for one exporter, the folder that it lives in, and a store of its own for what it makes."""

    exporter: Exporter
    lease: Lease
    folder: Path
    store: Store

    def recipe(self, path: str, model: str = MODEL) -> Recipe:
        """Return the recipe of a model; its exporter is the probe, which stands before the real one."""
        reads = SUITE.spec.models[MODEL]
        probed = self.exporter._replace(file=probe("exporter"))
        return Recipe(probed, model, path, reads, SUITE.plugins.data[reads.data or ""], SUITE.spec.bundle)

    def train(self, model: str) -> Failure | None:
        """Train a model."""
        return export.train(self.lease, self.recipe(own_paths(self.exporter)[0], model), self._limits)

    def export(self, path: str) -> Bundle | Failure:
        """Train the suite's first model, unless it is the one trained last, and export it."""
        return export.export(self.lease, self.recipe(path), "0" * 64, "conformance", self.store, self._limits)

    @property
    def _limits(self) -> Limits:
        return limits(LIMITS.export_seconds, self.exporter.environment)


@pytest.fixture(scope="module")
def open_workshop(exporter: Exporter, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Workshop]]:
    """Opens a workshop with a worker that has done nothing yet."""
    opened = []

    def make() -> Workshop:
        folder = tmp_path_factory.mktemp("workshop")
        opened.append(lease(exporter, folder / "worker"))
        return Workshop(exporter, opened[-1].__enter__(), folder / "worker", Store(folder / "store"))

    yield make
    for item in opened:
        item.__exit__(None, None, None)


@pytest.fixture(scope="module")
def workshop(open_workshop: Callable[[], Workshop]) -> Workshop:
    """The workshop that all tests of one exporter share, so that its framework is imported once."""
    return open_workshop()


def refused(exporter: Exporter, model: str, path: str, failure: Failure) -> None:
    """Fail the test unless ``matrix.yaml`` expects all cells of this bundle to fail so."""
    made_of_it = cells(f"{exporter.name}/{model}/{path}/*", full=True).cells
    unexpected = [str(cell) for cell in made_of_it if not expected(cell, failure)]
    assert failure.fault == "model", f"{failure.stage.value}: {failure.reason}\n{failure.log_tail}"
    assert failure.reason, "a failure has a reason"
    assert not unexpected, (
        f"{failure.stage.value}: {failure.reason}\nmatrix.yaml does not expect this of {', '.join(unexpected)}"
    )


def test_an_export_is_a_whole_bundle(workshop: Workshop, path: str) -> None:
    made = workshop.export(path)
    if isinstance(made, Failure):
        refused(workshop.exporter, MODEL, path, made)
        return
    manifest = workshop.store.get_bundle(made.digest)
    folder = workshop.store.bundle_folder(made.digest)
    recipe = workshop.recipe(path)
    assert (folder / "artifact" / manifest.entry).exists()
    assert {name.split("/")[0] for name in manifest.files} == {"artifact", "samples"}
    assert manifest.accuracy is not None
    assert manifest.accuracy >= (recipe.reads.accuracy or 0)
    assert [(item.batch, item.calls) for item in manifest.sets] == [
        (batch, SUITE.spec.bundle.rows // batch) for batch in recipe.batches
    ]
    samples_fit(manifest, folder, recipe)


def samples_fit(manifest: Manifest, folder: Path, recipe: Recipe) -> None:
    """Check that reference inputs and outputs are what the signature says, and numbers."""
    dynamic = recipe.way.batch is Batch.DYNAMIC
    signature = manifest.signature
    assert all((tensor.shape[0] is None) == dynamic for tensor in signature.inputs)
    for samples in manifest.tried:
        for tensors, files in ((signature.inputs, samples.inputs), (signature.outputs, samples.outputs)):
            assert [tensor.name for tensor in tensors] == list(files)
            for tensor in tensors:
                value = np.load(folder / files[tensor.name], allow_pickle=False)
                shape = [samples.batch if size is None else size for size in tensor.shape]
                assert value.dtype.name == tensor.dtype
                assert value.shape == (samples.calls, *shape)
                assert value.dtype.kind != "f" or np.isfinite(value).all()


def test_the_same_seed_gives_the_same_model(workshop: Workshop, open_workshop: Callable[[], Workshop]) -> None:
    outputs = []
    for each in (workshop, open_workshop()):
        path = own_paths(each.exporter)[0]
        made = each.export(path)
        assert isinstance(made, Bundle), made
        outputs.append(run.references(each.store, made.digest, made.manifest))
    for one, other in zip(*outputs, strict=True):
        for name, value in one.items():
            np.testing.assert_array_equal(value, other[name])


def test_an_unknown_model_is_refused_with_a_reason(workshop: Workshop) -> None:
    failure = workshop.train("no-such-model")
    assert failure is not None
    assert (failure.stage, failure.fault) == (Stage.TRAIN, "model")
    assert failure.reason.startswith(("NotImplementedError: ", "ValueError: ", "KeyError: "))
    assert "no-such-model" in failure.reason
    assert workshop.train(MODEL) is None
    assert workers_started(workshop.folder) == 1, "the worker did not survive"


def test_the_worker_says_what_it_ran_with(workshop: Workshop) -> None:
    made = workshop.export(own_paths(workshop.exporter)[0])
    assert isinstance(made, Bundle), made
    assert not unreported(workshop.exporter.environment, made.manifest.environment)


@pytest.fixture(scope="module")
def families(exporter: Exporter) -> Mapping[tuple[str, str, str], Bundle | Failure]:
    """What every model of the suite came to on every path."""
    return export_all(f"{exporter.name}/*")


@pytest.mark.slow
def test_every_model_is_exported_or_refused_as_expected(
    exporter: Exporter, model: str, families: Mapping[tuple[str, str, str], Bundle | Failure]
) -> None:
    for path in exporter.paths:
        made = families.get((exporter.name, model, path))
        if isinstance(made, Failure) and (made.stage, made.fault) == (Stage.PREPARE, "harness"):
            pytest.skip(f"{path}: {made.reason}")
        if made is None:
            assert (exporter.name, model, path) not in planned(), f"{path} was planned and not tried"
        elif isinstance(made, Failure):
            refused(exporter, model, path, made)
        elif made.manifest.provenance is None:  # what is archived was trained by somebody else's measure
            accuracy = SUITE.spec.models[model].accuracy
            assert accuracy is None or (made.manifest.accuracy or 0) >= accuracy
