"""One driver for all data sets: every view, target and layout, the licence, and the digest."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from real_suite import SUITE, case, chosen

from portmatrix import suite
from portmatrix.plugins import DataSet, discover, load_file

DATA = chosen("data", SUITE.plugins.data)
LAYOUTS = ("channels-first", "channels-last")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize over the data sets alone, or with their views."""
    if "view" in metafunc.fixturenames:
        found = [case("data", name, view) for name in DATA for view in SUITE.plugins.data[name].views]
        metafunc.parametrize(("data", "view"), found, indirect=["data"])
    else:
        metafunc.parametrize("data", [case("data", name) for name in DATA], indirect=True)


@pytest.fixture
def data(request: pytest.FixtureRequest) -> DataSet:
    """The data set under test."""
    return SUITE.plugins.data[request.param]


@pytest.fixture
def module(data: DataSet) -> ModuleType:
    """Its file, loaded."""
    return load_file("data", data.file)


def test_inputs_and_labels_fit(data: DataSet, module: ModuleType, view: str) -> None:
    for target in data.targets:
        for layout in LAYOUTS:
            found = module.load(view, target, layout)
            for inputs, labels in ((found.train_x, found.train_y), (found.test_x, found.test_y)):
                assert labels.dtype == np.int64
                assert labels.min() >= 0
                assert {len(value) for value in inputs.values()} == {len(labels)}
                for value in inputs.values():
                    assert value.dtype == np.float32
                    assert value.flags.c_contiguous
                    assert 0 <= value.min() < value.max() <= 1
            assert len(found.test_y) >= SUITE.spec.bundle.rows
            assert found.train_x.keys() == found.test_x.keys()
            for name, value in found.train_x.items():
                assert value.shape[1:] == found.test_x[name].shape[1:]


def test_layouts_hold_the_same_numbers(data: DataSet, module: ModuleType, view: str) -> None:
    first, last = (module.load(view, data.targets[0], layout) for layout in LAYOUTS)
    np.testing.assert_array_equal(first.train_y, last.train_y)
    for name, value in first.train_x.items():
        assert sorted(value.shape) == sorted(last.train_x[name].shape)
        np.testing.assert_array_equal(np.sort(value, axis=None), np.sort(last.train_x[name], axis=None))


def test_loading_twice_gives_the_same(data: DataSet, module: ModuleType, view: str) -> None:
    one, other = (module.load(view, data.targets[0], LAYOUTS[0]) for _ in range(2))
    one.train_x[next(iter(one.train_x))][:] = 0.5
    again = module.load(view, data.targets[0], LAYOUTS[0])
    for name, value in other.train_x.items():
        np.testing.assert_array_equal(value, again.train_x[name])


def test_unknown_words_are_refused(data: DataSet, module: ModuleType) -> None:
    view, target = data.views[0], data.targets[0]
    for arguments in (("no-such", target, LAYOUTS[0]), (view, "no-such", LAYOUTS[0]), (view, target, "no-such")):
        with pytest.raises(ValueError, match="no-such"):
            module.load(*arguments)


def test_its_licence_stands_beside_it(data: DataSet, module: ModuleType) -> None:
    texts = [file.read_text(encoding="utf-8") for file in data.file.parent.glob("LICENSE*")]
    for file in module.FILES:
        assert any(file in text for text in texts), f"no licence beside {file} names it"


def test_its_digest_changes_with_its_files(data: DataSet, module: ModuleType, tmp_path: Path) -> None:
    folders = {**suite.plugin_folders(SUITE.root), "data": tmp_path / "data"}
    shutil.copytree(data.file.parent, folders["data"])
    digests = {data.digest, discover(folders, SUITE.host).data[data.name].digest}
    assert len(digests) == 1
    for number, name in enumerate((data.file.name, *module.FILES), 2):
        with (folders["data"] / name).open("ab") as stream:
            stream.write(b"\n")
        digests.add(discover(folders, SUITE.host).data[data.name].digest)
        assert len(digests) == number, f"a change of {name} goes unnoticed"


def test_it_runs_on_every_python_that_a_worker_may_have(data: DataSet) -> None:
    ast.parse(data.file.read_text(encoding="utf-8"), feature_version=(3, 6))
