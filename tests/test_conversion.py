"""Conversion of bundles: which bundles there are then, what they hold, when they are made again, and how one fails."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from tiny_suite import Assemble, RunMatrix, trainings

from portmatrix import conversion, plan, suite
from portmatrix.bundle import Provenance
from portmatrix.export import Bundle
from portmatrix.matrix import Made, MatrixRun, Options
from portmatrix.plan import Selection
from portmatrix.store import Store
from portmatrix.types import Outcome, PathKind, Record, Stage
from portmatrix.workers import Failure


class Silent:
    """A journal and a listener that keep nothing."""

    def add(self, record: Record) -> None: ...

    def begins(self, what: str) -> None: ...

    def ended(self, record: Record) -> None: ...

    def says(self, text: str) -> None: ...


def made(root: Path, store: Store, *globs: str, **options: bool) -> dict[Made, Bundle | Failure]:
    """Return what the bundles of a suite came to."""
    loaded = suite.load(root)
    planned = plan.plan(suite.axes(loaded), suite.exclusions(loaded), Selection(globs))
    return MatrixRun(loaded, store, Silent(), Silent(), Options("r", **options)).export_only(planned)


def bundles(root: Path, store: Store, *globs: str, **options: bool) -> dict[str, Bundle]:
    found = made(root, store, *globs, **options)
    wrong = [item for item in found.values() if isinstance(item, Failure)]
    assert not wrong
    return {which[2]: item for which, item in found.items() if isinstance(item, Bundle)}


@pytest.fixture
def powers(assemble: Assemble) -> Path:
    """A suite whose framework writes prototxt files."""
    return assemble("exporters/powers", "runtimes/onnx_taker")


def test_a_converted_bundle_computes_what_the_framework_did(powers: Path, store: Store) -> None:
    found = bundles(powers, store)
    assert set(found) == {"native", "onnx", "onnx-dynamic"}
    for path, batches in (("onnx", [1]), ("onnx-dynamic", [6, 4])):
        manifest = found[path].manifest
        folder = store.bundle_folder(found[path].digest)
        assert (manifest.kind, manifest.format, manifest.entry) == (PathKind.ONNX, "onnx", "model.onnx")
        assert [item.batch for item in manifest.sets] == batches
        session = ReferenceEvaluator(onnx.load(folder / "artifact" / manifest.entry))
        for samples in manifest.sets:
            x = np.load(folder / samples.inputs["x"])
            y = np.load(folder / samples.outputs["y"])
            for given, wanted in zip(x, y, strict=True):
                np.testing.assert_allclose(session.run(None, {"x": given})[0], wanted, rtol=1e-6)


def test_signature_and_facts_are_those_of_the_path(powers: Path, store: Store) -> None:
    found = bundles(powers, store)
    shapes = {path: item.manifest.signature.inputs[0].shape for path, item in found.items()}
    assert shapes == {"native": (None, 4), "onnx": (1, 4), "onnx-dynamic": (None, 4)}
    facts = found["onnx"].manifest.facts
    assert facts["converter"] == "caffe"
    assert facts["opset"] == 18
    assert "onnx (conversion)" in found["onnx"].manifest.environment
    assert set(found["onnx"].manifest.files) <= {f"samples/b1.{way}0.npy" for way in ("in", "out")} | {
        "artifact/model.onnx"
    }


def test_a_source_keeps_samples_for_what_is_converted_from_it(powers: Path, store: Store) -> None:
    manifest = bundles(powers, store)["native"].manifest
    assert [item.batch for item in manifest.sets] == [6, 4, 1]
    assert manifest.tried == manifest.sets


def test_of_fixed_batch_only_its_own_samples_are_run(powers: Path, store: Store) -> None:
    manifest = bundles(powers, store)["native"].manifest
    fixed = manifest.model_copy(update={"batch": "static", "sets": manifest.sets[::-1]})
    assert [item.batch for item in fixed.tried] == [1]


def test_the_source_is_made_even_if_nobody_asked_for_it(powers: Path, store: Store) -> None:
    assert set(bundles(powers, store, "*/onnx/*")) == {"native", "onnx"}


def test_what_is_converted_once_is_not_converted_again(
    powers: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = bundles(powers, store)
    monkeypatch.setattr(conversion, "convert", lambda *_arguments: pytest.fail("converted again"))
    assert bundles(powers, store) == first
    assert len(trainings(powers)) == 1


def test_a_changed_converter_converts_again(powers: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    bundles(powers, store)
    calls = []
    real = conversion.convert
    monkeypatch.setattr(conversion, "converter_digest", lambda _name: "another")
    monkeypatch.setattr(conversion, "convert", lambda *given: calls.append(given) or real(*given))
    bundles(powers, store)
    assert len(calls) == 2
    assert len(trainings(powers)) == 1, "nothing is trained for that"


def test_an_archived_source_makes_archived_bundles(powers: Path, store: Store) -> None:
    source = bundles(powers, store)["native"]
    loaded = suite.load(powers)
    run = MatrixRun(loaded, store, Silent(), Silent(), Options("r"))
    recipe = run.recipe("powers", "free", "onnx")
    assert not isinstance(recipe, str)
    origin = Provenance(trained_with="x 1", date="2016-01-31", recipe="0")
    manifest = conversion._manifest(
        recipe,
        Bundle(source.digest, source.manifest.model_copy(update={"provenance": origin})),
        {"facts": {}, "seconds": {}},
        "key",
        {},
    )
    assert manifest.provenance == origin


def test_what_cannot_be_converted_fails_at_export_and_names_the_layer(
    assemble: Assemble, run_matrix: RunMatrix
) -> None:
    root = assemble("exporters/powers", "runtimes/onnx_taker")
    file = root / "exporters" / "powers.py"
    file.write_text(file.read_text().replace("Power", "Python"))
    ran = run_matrix(root)
    for glob in ("*/onnx/*", "*/onnx-dynamic/*"):
        record = ran.only(glob)
        assert (record.outcome, record.stage) == (Outcome.FAIL, Stage.EXPORT)
        assert "Python" in record.reason


def test_a_training_that_fails_fails_what_would_be_converted(assemble: Assemble, run_matrix: RunMatrix) -> None:
    root = assemble("exporters/powers", "runtimes/onnx_taker")
    file = root / "exporters" / "powers.py"
    file.write_text(
        file.read_text().replace("def train(model, data, seed):", "def train(model, data, seed):\n    1 / 0")
    )
    ran = run_matrix(root)
    assert {(record.outcome, record.stage) for record in ran.records.values()} == {(Outcome.FAIL, Stage.TRAIN)}


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ('"converter": "nobody"', "names the converter 'nobody'; there are .*caffe"),
        ('"source": "elsewhere"', "names the source 'elsewhere'; the paths exported are native"),
        ('"source": "onnx"', "names the source 'onnx'"),
    ],
)
def test_a_path_from_nowhere_breaks_its_exporter(powers: Path, wrong: str, why: str) -> None:
    file = powers / "exporters" / "powers.py"
    key, _, _ = wrong.partition(":")
    old = {'"converter"': '"converter": "caffe"', '"source"': '"source": "native"'}[key]
    file.write_text(file.read_text().replace(old, wrong))
    (broken,) = suite.load(powers).plugins.broken
    assert re.search(why, broken.why)
