"""The archive: bundles of frameworks that cannot be installed everywhere any more, each with its provenance.

``archive/FRAMEWORK/MODEL/PATH`` in the suite is a bundle like any other, unpacked, which came from a run where the
framework was to be had. What our own converters make of it is made again in every run and is not archived.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from portmatrix.bundle import MANIFEST, Provenance, read_manifest, verify
from portmatrix.errors import StoreError
from portmatrix.export import Bundle, Recipe
from portmatrix.store import Store
from portmatrix.types import Frozen, Stage
from portmatrix.workers import Failure

FOLDER = "archive"
_FAILURE = "failure.json"


def place_of(root: Path, recipe: Recipe) -> Path:
    """Return where the archive of the suite in ``root`` has the bundle of a recipe, or would have it."""
    return root.joinpath(FOLDER, *recipe.which)


class _Kept(Frozen):
    """Why there is no bundle: what the framework itself said when it was asked for one, and where that was."""

    stage: Stage
    reason: str
    provenance: Provenance


def find(root: Path, recipe: Recipe, store: Store) -> Bundle | Failure | None:
    """Return the archived bundle of a recipe, taken into the store, or why there is none; None if nothing is known.

    Raises ``StoreError`` for one that has been changed, or whose provenance is not told.
    """
    place = place_of(root, recipe)
    if (place / _FAILURE).is_file():
        return read_failure(place)[0]
    if not (place / MANIFEST).is_file():
        return None
    manifest = verify(place, read_manifest(place).digest)
    if manifest.provenance is None:
        raise StoreError(f"{place.relative_to(root)} says nothing of where it comes from; archive it again")
    if (manifest.framework, manifest.model, manifest.path) != recipe.which:
        raise StoreError(f"{place.relative_to(root)} is the bundle of {manifest.framework}/{manifest.model}")
    with store.scratch("archived") as scratch:
        copy = scratch / "bundle"
        shutil.copytree(place, copy)
        return Bundle(*store.put_bundle(copy, manifest))


def read_failure(place: Path) -> tuple[Failure, Provenance]:
    """Return why there is no bundle in ``place``, and where that was found; raises ``StoreError``."""
    try:
        kept = _Kept.model_validate_json((place / _FAILURE).read_bytes())
    except (OSError, ValueError) as error:
        raise StoreError(f"{place.name}/{_FAILURE} cannot be read: {str(error).splitlines()[0]}") from error
    return Failure(kept.stage, kept.reason, "model"), kept.provenance


def put(root: Path, recipe: Recipe, made: Bundle | Failure, store: Store, day: str) -> Path:
    """Put what a recipe came to into the archive of the suite in ``root``, in place of what is there; return where.

    ``day`` is that of the training (ISO 8601). A bundle that is itself from the archive keeps its provenance.
    """
    place = place_of(root, recipe)
    if isinstance(made, Failure):
        spec = recipe.exporter.environment
        provenance = _provenance(recipe, dict.fromkeys(spec.requirements or (spec.container,), ""), day)
        kept = _Kept(stage=made.stage, reason=made.reason, provenance=provenance)
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        (place / _FAILURE).write_text(kept.model_dump_json(indent=1) + "\n", encoding="utf-8")
        return place
    manifest = made.manifest
    if manifest.provenance is None:
        provenance = _provenance(recipe, manifest.environment, day)
        manifest = manifest.model_copy(update={"provenance": provenance})
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(store.bundle_folder(made.digest), place)
    (place / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return place


def _provenance(recipe: Recipe, trained_with: Mapping[str, str], day: str) -> Provenance:
    named = ", ".join(f"{name} {version}".strip() for name, version in sorted(trained_with.items()))
    return Provenance(trained_with=named, date=day, recipe=recipe.digest(""))
