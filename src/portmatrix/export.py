"""From (framework, model, path) to a bundle in the store, through a worker in that framework's environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError

from portmatrix.bundle import HeldOut, Manifest, SampleSet, Signature
from portmatrix.errors import DiskFull
from portmatrix.plugins import DataSet, Exporter, PathSpec
from portmatrix.spec import BundleSpec, ModelSpec
from portmatrix.store import Store, digest_of
from portmatrix.types import Batch, Stage
from portmatrix.workers import Failure, Lease, Limits

#: Changes when the worker makes bundles differently, so that they are made again.
BUNDLE_FORMAT = 2


class Recipe(NamedTuple):
    """All that decides what a bundle will be: whose exporter, which model and path, from what data."""

    exporter: Exporter
    model: str
    path: str
    reads: ModelSpec
    data: DataSet | None
    bundle: BundleSpec

    @property
    def way(self) -> PathSpec:
        """The declarations of the recipe's path."""
        return self.exporter.paths[self.path]

    @property
    def batches(self) -> tuple[int, ...]:
        """The batch sizes of the samples; the artifact is exported at the first one, and of fixed batch run at that."""
        own = self._batches_of(self.way)
        more = [size for derived in self._derived for size in self._batches_of(derived)]
        return tuple(dict.fromkeys((*own, *more)))

    def _batches_of(self, way: PathSpec) -> tuple[int, ...]:
        return (self.bundle.static_batch,) if way.batch is Batch.STATIC else tuple(self.bundle.dynamic_batches)

    @property
    def _derived(self) -> list[PathSpec]:
        """The paths that are converted from this one's artifact, for which its bundle keeps samples, too."""
        return [way for way in self.exporter.paths.values() if way.source == self.path]

    @property
    def source(self) -> Recipe | None:
        """The recipe whose artifact is converted or reduced to this one's, or None if this one is exported."""
        if not self.way.source:
            return None
        return self._replace(path=self.way.source, exporter=self.exporter.of(self.way.source))

    @property
    def which(self) -> tuple[str, str, str]:
        """Framework, model and path."""
        return self.exporter.name, self.model, self.path

    def digest(self, environment: str) -> str:
        """Return the recipe digest: equal as long as nothing that the bundle is made from has changed.

        ``environment`` is the key of the environment that it is made in; empty for what any would share.
        """
        made_from = {
            "format": BUNDLE_FORMAT,
            "exporter": self.exporter.digest,
            "environment": environment,
            "variables": self.exporter.environment.env,
            "model": self.model,
            "reads": self.reads.model_dump(mode="json", exclude={"tolerance", "depth"}),
            "path": self.path,
            "data": self.data.digest if self.data else None,
            "bundle": self.bundle.model_dump(mode="json"),
            "batches": self.batches,
        }
        return digest_of(made_from)


class Bundle(NamedTuple):
    """A bundle in the store."""

    digest: str
    manifest: Manifest


def train(lease: Lease, recipe: Recipe, limits: Limits) -> Failure | None:
    """Train the recipe's model in the worker, which keeps it for the exports that follow; returns why it failed."""
    answer = lease.ask({"op": "train", **_training(recipe)}, limits)
    return answer if isinstance(answer, Failure) else None


def export(lease: Lease, recipe: Recipe, digest: str, place: str, store: Store, limits: Limits) -> Bundle | Failure:
    """Export the recipe's model in the worker and put the bundle into the store.

    ``digest`` is the recipe's own, ``place`` the target where this happens. Returns why it failed instead, if it did;
    a full disk is such a failure.
    """
    try:
        with store.scratch("export") as scratch:
            folder = scratch / "bundle"
            folder.mkdir()
            answer = lease.ask(_request(recipe, lease.there(folder)), limits)
            if isinstance(answer, Failure):
                return answer
            lease.bring(folder)
            try:
                manifest = _manifest(recipe, digest, place, answer, lease.environment)
            except ValidationError as error:
                wrong = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
                return Failure(Stage.EXPORT, f"what the exporter gave makes no bundle: {wrong}", "model")
            return Bundle(*store.put_bundle(folder, manifest))
    except DiskFull as error:
        return Failure(Stage.EXPORT, str(error), "harness")
    except OSError as error:
        return Failure(Stage.EXPORT, f"the bundle could not be fetched from the worker: {error}", "harness")


def request_of_data(recipe: Recipe) -> dict[str, Any] | None:
    """Return what a worker must know to load the recipe's data set, or None if its model reads none."""
    if recipe.data is None:
        return None
    return {
        "file": str(recipe.data.file),
        "view": recipe.reads.view,
        "target": recipe.reads.target,
        "layout": recipe.exporter.layout,
    }


def held_out_wanted(recipe: Recipe) -> int | None:
    """Return the batch size of the held-out rows that the bundle is judged by, 0 for all in one; None for none."""
    if recipe.data is None or not recipe.way.precision.is_integer:
        return None
    return recipe.bundle.static_batch if recipe.way.batch is Batch.STATIC else 0


def _training(recipe: Recipe) -> dict[str, Any]:
    return {
        "file": str(recipe.exporter.file),
        "model": recipe.model,
        "data": request_of_data(recipe),
        "seed": recipe.bundle.seed,
        "accuracy": recipe.reads.accuracy,
    }


def _request(recipe: Recipe, folder: str) -> dict[str, Any]:
    return {
        "op": "export",
        **_training(recipe),
        "path": recipe.path,
        "rows": recipe.bundle.rows,
        "batch": recipe.way.batch.value,
        "batches": list(recipe.batches),
        "held_out": held_out_wanted(recipe),
        "folder": folder,
    }


def _manifest(
    recipe: Recipe, digest: str, place: str, answer: Mapping[str, Any], environment: Mapping[str, str]
) -> Manifest:
    return Manifest(
        framework=recipe.exporter.name,
        model=recipe.model,
        path=recipe.path,
        kind=recipe.way.kind,
        format=recipe.way.format,
        batch=recipe.way.batch,
        precision=recipe.way.precision,
        held_out=HeldOut.model_validate(answer["held_out"]) if answer.get("held_out") else None,
        entry=answer["entry"],
        signature=Signature.model_validate(answer["signature"]),
        sets=tuple(SampleSet.model_validate(item) for item in answer["sets"]),
        files={},
        seed=recipe.bundle.seed,
        accuracy=answer["accuracy"],
        recipe=digest,
        trained_on=place,
        environment=dict(environment),
        facts=dict(answer["facts"]),
        seconds=dict(answer["seconds"]),
    )
