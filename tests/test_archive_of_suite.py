"""The repository's own archive: every bundle whole, with its provenance, and of the exporter as it is now."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from portmatrix import archive, suite
from portmatrix.bundle import MANIFEST, read_manifest, verify
from portmatrix.export import Recipe

SUITE = suite.load(Path(__file__).parents[1])
#: Trained elsewhere, by programs that this repository's exporter only resembles: nobody here has that framework.
ELSEWHERE = {"torch7"}
FAILURE = "failure.json"
PLACES = sorted(
    file.parent.relative_to(SUITE.root / archive.FOLDER)
    for name in (MANIFEST, FAILURE)
    for file in (SUITE.root / archive.FOLDER).rglob(name)
)


def recipe_of(place: Path) -> Recipe:
    framework, model, path = place.parts
    reads = SUITE.spec.models[model]
    data = SUITE.plugins.data[reads.data] if reads.data else None
    return Recipe(SUITE.plugins.exporters[framework], model, path, reads, data, SUITE.spec.bundle)


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_what_is_archived_is_whole_and_current(place: Path) -> None:
    folder = SUITE.root / archive.FOLDER / place
    recipe = recipe_of(place)
    assert recipe.source is None, "what our own converters make is not archived"
    if (folder / FAILURE).is_file():
        provenance = archive.read_failure(folder)[1]
    else:
        manifest = verify(folder, read_manifest(folder).digest)
        assert (manifest.framework, manifest.model, manifest.path) == place.parts
        assert manifest.provenance is not None
        provenance = manifest.provenance
        assert {item.batch for item in manifest.sets} >= set(recipe.batches)
    assert provenance.trained_with
    told = (folder / (FAILURE if (folder / FAILURE).is_file() else MANIFEST)).read_text(encoding="utf-8")
    assert not re.search(r"/(home|root|tmp|Users)/", told), "it names a folder of some machine"
    if place.parts[0] not in ELSEWHERE:
        assert provenance.recipe == recipe.digest(""), f'it has changed since: portmatrix archive "{place.parts[0]}/*"'


def test_every_framework_with_a_container_is_archived() -> None:
    needed = {name for name, item in SUITE.plugins.exporters.items() if item.environment.container}
    assert {place.parts[0] for place in PLACES} == needed


def test_an_archived_framework_has_every_path_of_a_model_that_it_has() -> None:
    for name in {place.parts[0] for place in PLACES}:
        exported = {path for path, way in SUITE.plugins.exporters[name].paths.items() if not way.source}
        for model in {place.parts[1] for place in PLACES if place.parts[0] == name}:
            assert {place.parts[2] for place in PLACES if place.parts[:2] == (name, model)} == exported
