"""The suite of large models: it loads, has the cells that it should, and keeps to the environments of the other."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from tiny_suite import Witness

from portmatrix import plan, suite
from portmatrix.export import Bundle
from portmatrix.globs import Globs
from portmatrix.matrix import Made, MatrixRun, Options
from portmatrix.plan import Selection
from portmatrix.plugins import load_file
from portmatrix.store import Store, default_root
from portmatrix.types import Batch, CellId, PathKind, Stage
from portmatrix.workers import Failure

ROOT = Path(__file__).parents[1]
LARGE, REFERENCE = suite.load(ROOT / "large"), suite.load(ROOT)
AXES = suite.axes(LARGE, everywhere=True)
FRAMEWORKS = ("caffe", "tensorflow", "torch")
#: Learned weights, by what was published: AlexNet and GoogLeNet by Caffe's model zoo, VGG-16 and ResNet-50 by
#: torchvision. Of the sequence models by hand: an LSTM layer has 4 gates of two matrices and two biases in PyTorch, one
#: in Keras and Caffe; an encoder layer 4 projections, two layers from 512 to 2048 and back, and two normalizations.
PARAMETERS = {
    "alexnet": 60_965_224,
    "googlenet": 6_998_552,
    "vgg16": 138_357_544,
    "resnet50": 25_557_032,
    "transformer": 6 * (4 * 513 * 512 + 513 * 2048 + 2049 * 512 + 2 * 2 * 512),
}
ONE_BIAS = 4 * 4 * 512 * (2 * 512 + 1)
LSTM = {"torch": 4 * 4 * 512 * (2 * 512 + 2), "tensorflow": ONE_BIAS, "caffe": ONE_BIAS}
#: What a framework cannot express.
BEYOND = {"caffe": {"transformer"}}
MADE = [
    (framework, model)
    for framework, model in product(FRAMEWORKS, LARGE.spec.models)
    if model not in BEYOND.get(framework, ())
]
each_framework = pytest.mark.parametrize("framework", FRAMEWORKS)
each_made = pytest.mark.parametrize(("framework", "model"), MADE)


def module(framework: str) -> ModuleType:
    """Return the exporter's module, as the engine loads it."""
    loaded = load_file("exporter", LARGE.plugins.exporters[framework].file)
    assert isinstance(loaded, ModuleType)
    return loaded


def test_no_plugin_is_broken() -> None:
    assert LARGE.plugins.broken == ()
    assert tuple(sorted(LARGE.plugins.exporters)) == FRAMEWORKS


def test_its_models_are_the_six_and_read_no_data_set() -> None:
    assert set(LARGE.spec.models) == {*PARAMETERS, "lstm"}
    assert {entry.data for entry in LARGE.spec.models.values()} == {None}


def test_it_has_the_cells_that_it_should() -> None:
    roads = {
        "torch/{}/pt2-dynamic/torch",
        *("torch/{}/onnx-dynamo-dynamic/" + runtime for runtime in ("onnxruntime", "openvino")),
        *("tensorflow/{}/savedmodel-dynamic/" + runtime for runtime in ("tensorflow", "openvino")),
        *("tensorflow/{}/tflite/" + runtime for runtime in ("litert", "openvino", "tensorflow")),
        *("tensorflow/{}/onnx-tf2onnx-dynamic/" + runtime for runtime in ("onnxruntime", "openvino")),
        "caffe/{}/native/caffe",
        *("caffe/{}/onnx-dynamic/" + runtime for runtime in ("onnxruntime", "openvino")),
    }
    planned = plan.plan(AXES, suite.exclusions(LARGE), Selection(("*/linux-x86_64",)))
    expected = {road.format(model) + "/linux-x86_64" for road, model in product(roads, LARGE.spec.models)}
    # Two models are more than tf2onnx can convert within the limit of memory.
    beyond = Globs(["tensorflow/{alexnet,vgg16}/onnx-tf2onnx-dynamic/*"])
    assert set(map(str, planned.cells)) == {cell for cell in expected if not beyond.match(cell)}
    assert {str(item.cell) for item in planned.left_out} == {cell for cell in expected if beyond.match(cell)}


def test_what_is_measured_are_cells_of_every_model_and_framework_and_the_baseline_of_each() -> None:
    measured = Globs(LARGE.spec.latency.cells)
    found = [cell for cell in plan.cells_of(AXES) if cell in measured]
    assert {(cell.framework, cell.model) for cell in found} == set(product(FRAMEWORKS, LARGE.spec.models))
    assert [glob for glob in LARGE.spec.latency.cells if not any(cell in Globs([glob]) for cell in found)] == []
    assert LARGE.spec.latency.baseline in AXES.runtimes


@each_framework
def test_its_environment_is_that_of_the_reference_suite(framework: str) -> None:
    mine, theirs = (one.plugins.exporters[framework].environment for one in (LARGE, REFERENCE))
    assert mine.model_dump() == theirs.model_dump()
    # Where portmatrix is installed, the reference suite that lends its Dockerfiles is the installed one.
    texts = [spec.dockerfile.read_text() if spec.dockerfile else None for spec in (mine, theirs)]
    assert texts[0] == texts[1]


@each_framework
def test_its_paths_are_declared_as_in_the_reference_suite(framework: str) -> None:
    ours, theirs = LARGE.plugins.exporters[framework].paths, REFERENCE.plugins.exporters[framework].paths
    assert ours == {name: theirs[name] for name in ours}
    assert {path.kind for path in ours.values()} == set(PathKind)
    assert Batch.DYNAMIC in {path.batch for path in ours.values()}


@each_framework
def test_an_exporter_has_the_models_of_the_suite(framework: str) -> None:
    assert list(module(framework).MODELS) == [model for key, model in MADE if key == framework]


def test_what_a_framework_cannot_express_is_said_and_expected() -> None:
    for framework, models in BEYOND.items():
        for model in models:
            with pytest.raises(NotImplementedError, match="has no layer that multiplies two blobs"):
                module(framework).samples(model, 2, 0)
            cell = CellId(framework, model, "native", "caffe", "linux-x86_64")
            (expected,) = (item for item in LARGE.spec.expect if item.covers(cell))
            assert expected.stage is Stage.TRAIN


@each_framework
def test_an_unknown_model_is_refused_with_the_names_of_those_that_there_are(framework: str) -> None:
    with pytest.raises(NotImplementedError, match=r"vgg19.*alexnet, googlenet, vgg16"):
        module(framework).samples("vgg19", 2, 0)


@each_made
def test_samples_are_noise_of_the_shape_that_the_model_reads(framework: str, model: str) -> None:
    image = (224, 224, 3) if framework == "tensorflow" else (3, 224, 224)
    row = {"lstm": (64, 512), "transformer": (128, 512)}.get(model, image)
    x = module(framework).samples(model, 3, 2016)["x"]
    assert (x.shape, x.dtype) == ((3, *row), np.dtype(np.float32))
    # Of so many values mean and deviation are known to one part in a hundred and better.
    assert abs(x.mean()) < 0.02
    assert abs(x.std() - 1) < 0.02


@each_framework
def test_samples_follow_from_the_seed(framework: str) -> None:
    samples = module(framework).samples
    assert np.array_equal(samples("lstm", 2, 7)["x"], samples("lstm", 2, 7)["x"])
    assert not np.array_equal(samples("lstm", 2, 7)["x"], samples("lstm", 2, 8)["x"])


def test_all_frameworks_read_the_same_sequences() -> None:
    caffe, tensorflow, torch = (module(framework).samples("lstm", 2, 2016)["x"] for framework in FRAMEWORKS)
    assert np.array_equal(torch, tensorflow)
    assert np.array_equal(torch, caffe)


# --- In the real environments ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundles() -> Mapping[Made, Bundle | object]:
    """What every model came to on every path; what the user's store has already is not made again."""
    planned = plan.plan(suite.axes(LARGE), suite.exclusions(LARGE), Selection(("*",)))
    witness = Witness()
    return MatrixRun(LARGE, Store(default_root()), witness, witness, Options("large")).export_only(planned)


def bundle_of(made: Bundle | object) -> Bundle:
    """Return what was made; skips the test where this machine has no environment for it."""
    if isinstance(made, Failure) and made.stage is Stage.PREPARE:
        pytest.skip(made.reason)
    assert isinstance(made, Bundle), made
    return made


@pytest.mark.slow
@each_made
def test_a_model_leaves_on_every_path_with_as_many_random_weights_as_were_published(
    framework: str, model: str, bundles: Mapping[Made, Bundle | object]
) -> None:
    wanted = LSTM[framework] if model == "lstm" else PARAMETERS[model]
    found = {key[2]: bundle_of(made) for key, made in bundles.items() if key[:2] == (framework, model)}
    assert len(found) >= 2, "one path into the framework's own format and one into another"
    for path, made in found.items():
        assert made.manifest.facts["weights"] == "random, seed 2016"
        # A converter counts what it wrote, statistics of batch normalization and constants included.
        converted = LARGE.plugins.exporters[framework].paths[path].converter
        assert made.manifest.facts["parameters"] == wanted or (converted and made.manifest.facts["parameters"] > wanted)


@pytest.mark.slow
@each_made
def test_outputs_are_neither_nothing_nor_beyond_measure_and_differ_between_rows(
    framework: str, model: str, bundles: Mapping[Made, Bundle | object]
) -> None:
    made = bundle_of(bundles[framework, model, next(iter(LARGE.plugins.exporters[framework].paths))])
    folder = Store(default_root()).bundle_folder(made.digest)
    ((name, file),) = made.manifest.sets[0].outputs.items()
    output = np.load(folder / file)[0]
    strict, _ = LARGE.spec.tolerance(made.manifest.kind, output.dtype.name, model)
    assert 0.1 < output.std() < 10, name
    # What one row's output has that another's has not is far above what may differ between two runtimes.
    assert output.std(axis=0).mean() > 100 * strict.atol
