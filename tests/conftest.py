"""An environment with numpy that is built once per test session, stores that share it, and the engine to run suites."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_suite import Assemble, Engine, Ran, RunMatrix, StartEngine, Witness, assemble_suite

from portmatrix import environments, plan, suite
from portmatrix.export import Bundle
from portmatrix.globs import Globs
from portmatrix.matrix import MatrixRun, Options, broken_records
from portmatrix.parcels import NotMade
from portmatrix.plan import Selection
from portmatrix.plugins import EnvironmentSpec
from portmatrix.store import Store

collect_ignore = ["tiny"]
#: What all plug-ins of the tiny suite require.
NUMPY = EnvironmentSpec(requirements=(f"numpy=={np.__version__}",))


# --- The environment ------------------------------------------------------------------------------------------------


def _wheel_of_installed(name: str, folder: Path) -> None:
    """Write a distribution that these tests run with back into a wheel, so that it can be installed offline."""
    installed = metadata.distribution(name)
    tags = [line[5:].split("-") for line in (installed.read_text("WHEEL") or "").splitlines() if line[:5] == "Tag: "]
    tag = "-".join(".".join(dict.fromkeys(parts)) for parts in zip(*tags, strict=True))
    with zipfile.ZipFile(folder / f"{name}-{installed.version}-{tag}.whl", "w") as wheel:
        for file in installed.files or ():
            if not {"..", "__pycache__", "tests"} & set(file.parts):
                wheel.write(str(file.locate()), file.as_posix())


@pytest.fixture(scope="session")
def write_wheel() -> Callable[[str, Path], None]:
    """Writes a distribution that these tests run with into a folder as a wheel: name, folder."""
    return _wheel_of_installed


def _only_from(wheels: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("PIP_NO_INDEX", "1")
    patch.setenv("PIP_FIND_LINKS", str(wheels))


@pytest.fixture(scope="session")
def numpy_environment(tmp_path_factory: pytest.TempPathFactory) -> environments.Environment:
    """The environment of all tiny plug-ins; built by the engine, offline, for all test processes together."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    store = Store(shared / "environments")
    with store.lock("numpy-wheel"), pytest.MonkeyPatch.context() as patch:
        wheels = shared / "wheels"
        if not wheels.is_dir():
            wheels.mkdir()
            _wheel_of_installed("numpy", wheels)
        _only_from(wheels, patch)
        return environments.ensure(store, NUMPY, lambda _text: None, 300)


@pytest.fixture
def make_store(numpy_environment: environments.Environment) -> Callable[[Path], Store]:
    """Makes an empty store in a folder, with the shared environment in it."""

    def make(root: Path) -> Store:
        made = Store(root)
        (made.root / "envs" / numpy_environment.key).symlink_to(numpy_environment.folder, target_is_directory=True)
        return made

    return make


@pytest.fixture
def store(tmp_path: Path, make_store: Callable[[Path], Store]) -> Store:
    """An empty store of the test's own, with the shared environment in it."""
    return make_store(tmp_path / "store")


@pytest.fixture
def offline(numpy_environment: environments.Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index that has numpy, and nothing else in the world."""
    _only_from(numpy_environment.folder.parents[2] / "wheels", monkeypatch)


@pytest.fixture
def one_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with no other Python than the engine's own; to look for others takes long."""
    own = environments.own_interpreter()
    monkeypatch.setattr(environments, "interpreters", lambda: (own,))


# --- The engine -----------------------------------------------------------------------------------------------------


@pytest.fixture
def assemble(tmp_path: Path) -> Assemble:
    """Makes a suite from tiny's plug-ins in a folder of its own; see ``assemble_suite``."""

    def make(*plugins: str, name: str = "suite", models: tuple[str, ...] = ("free",), **spec: Any) -> Path:
        return assemble_suite(tmp_path / name, plugins, models, spec)

    return make


@pytest.fixture
def run_matrix(store: Store) -> RunMatrix:
    """Runs the selected cells of a suite in this process, as the command line would."""

    def run(
        root: Path,
        *globs: str,
        kept: Store | None = None,
        give: list[Bundle] | None = None,
        failed: Mapping[tuple[str, str, str], NotMade] | None = None,
        **options: Any,
    ) -> Ran:
        loaded = suite.load(root)
        planned = plan.plan(suite.axes(loaded), suite.exclusions(loaded), Selection(globs))
        witness = Witness()
        matrix_run = MatrixRun(loaded, kept or store, witness, witness, Options("r", **options))
        if give is not None:
            matrix_run.give(give, failed)
        matrix_run.execute(planned, broken_records(loaded, Globs(globs) if globs else None, "r"))
        missing = {str(cell) for cell in planned.cells} - witness.records.keys()
        assert not missing, "every planned cell has its record"
        return Ran(witness.records, witness.said, loaded)

    return run


@pytest.fixture
def start_engine(store: Store, tmp_path: Path) -> Iterator[StartEngine]:
    """Starts the command line as a process of its own; what a test leaves running is ended."""
    started: list[Engine] = []

    def start(*arguments: str | Path, env: dict[str, str] | None = None) -> Engine:
        command = [sys.executable, "-c", "from portmatrix.cli import main; main()", *map(str, arguments)]
        environment = {**os.environ, "PORTMATRIX_STORE": str(store.root), **(env or {})}
        # A shell without job control starts what runs in the background with ^C ignored, and that is handed down.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path, env=environment
            )
        finally:
            signal.signal(signal.SIGINT, before)
        started.append(Engine(process))
        return started[-1]

    yield start
    for engine in started:
        if engine.process.poll() is None:
            engine.process.kill()
        if engine.process.stdout is not None and not engine.process.stdout.closed:
            engine.process.communicate()
