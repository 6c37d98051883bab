"""The repository's own suite for the conformance tests: its plug-ins, their real environments, and real bundles."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from portmatrix import environments, plan, suite
from portmatrix.commands import Patience
from portmatrix.errors import EnvironmentFailure, NothingSelected
from portmatrix.export import Bundle
from portmatrix.matrix import Made, MatrixRun, Options
from portmatrix.places import Wanted, wanted_of
from portmatrix.places.choice import place_of
from portmatrix.plan import Selection
from portmatrix.plugins import EnvironmentSpec, Exporter, Runtime, Way
from portmatrix.store import Store, default_root
from portmatrix.types import CellId, Reach, Record
from portmatrix.workers import Failure, Lease, Limits

SUITE = suite.load(Path(__file__).parents[2])
#: The model that stands for all others where one will do: the suite's first, which is its cheapest.
MODEL = next(iter(SUITE.spec.models))
#: Which plug-ins are put to the test in their environments: globs over FOLDER/NAME, such as exporters/torch.
CHOSEN = os.environ.get("PORTMATRIX_TEST_PLUGINS", "*").split()
#: A worker that probes a plug-in finds the plug-in's file here.
PROBED = "PORTMATRIX_PROBED"


def chosen(folder: str, names: Iterable[str]) -> list[str]:
    """Return those of the plug-ins ``names`` in ``folder`` that are to be tested."""
    return [name for name in names if any(fnmatchcase(f"{folder}/{name}", glob) for glob in CHOSEN)]


def case(folder: str, name: str, *more: str) -> Any:
    """Return a parameter set named after its parts; all of one plug-in stay in one process, with their worker."""
    return pytest.param(name, *more, id="-".join((name, *more)), marks=pytest.mark.xdist_group(f"{folder}/{name}"))


@functools.cache
def cells(*globs: str, full: bool = False) -> plan.Plan:
    """Return the plan of the suite's cells that match, on the targets within reach: an empty one if there are none."""
    try:
        return plan.plan(suite.axes(SUITE), suite.exclusions(SUITE), Selection(globs, full=full))
    except NothingSelected:
        return plan.Plan([], [])


@functools.cache
def planned() -> frozenset[tuple[str, str, str]]:
    """Return the bundles that the suite's cells need: what the pairwise choice leaves out is not made."""
    return frozenset((cell.framework, cell.model, cell.path) for cell in cells().cells)


def expected(cell: CellId, failure: Failure) -> bool:
    """Return whether ``matrix.yaml`` expects this cell to fail at this stage."""
    return any(item.covers(cell, failure.reason) and item.stage is failure.stage for item in SUITE.spec.expect)


def limits(seconds: float, spec: EnvironmentSpec) -> Limits:
    """Return what a request to a plug-in may take, as the engine limits it."""
    return Limits(seconds, spec.memory_mb or SUITE.spec.limits.memory_mb)


class Silent:
    """A journal and a listener that keep nothing."""

    def add(self, record: Record) -> None: ...

    def begins(self, what: str) -> None: ...

    def ended(self, record: Record) -> None: ...

    def says(self, text: str) -> None:
        print(text)


def export_all(*globs: str) -> Mapping[Made, Bundle | Failure]:
    """Return what each bundle that the cells need came to; what the store has already is not made again."""
    engine = MatrixRun(SUITE, Store(default_root()), Silent(), Silent(), Options("conformance"))
    return engine.export_only(cells(*globs))


def home_of(runtime: Runtime) -> str:
    """Return the target where a runtime is at home: this machine, or the first one reached that it runs on."""
    targets = SUITE.plugins.targets.values()
    if SUITE.host.os in runtime.systems:
        return suite.here(SUITE)
    found = [item.name for item in targets if item.platform.os in runtime.systems and not item.is_static]
    return found[0] if found else next(item.name for item in targets if item.platform.os in runtime.systems)


def home(plugin: Exporter | Runtime) -> Wanted:
    """Return what the plug-in needs where it is at home."""
    here = wanted_of(plugin, SUITE.host, Way(reach=Reach.NATIVE))
    if not isinstance(plugin, Runtime):
        return here
    target = SUITE.plugins.targets.get(home_of(plugin))
    if target is None or not isinstance(target.way, Way):
        return here
    if target.is_static:
        pytest.skip(f"{plugin.name}: {target.name}: {target.missing[-1].why}")
    return wanted_of(plugin, target.platform, target.way)


@contextmanager
def lease(plugin: Exporter | Runtime, folder: Path, wanted: Wanted | None = None) -> Iterator[Lease]:
    """Yield a lease on a worker in the plug-in's own environment, which is built first if it must be.

    It is at home unless ``wanted`` says where. A probe in the worker, in the plug-in's place, passes all calls on.
    """
    spec, wanted = plugin.environment, wanted or home(plugin)
    try:
        patience = Patience(SUITE.spec.limits.prepare_seconds)
        built = place_of(wanted.way).ensure(Store(default_root()), wanted, print, patience)
    except EnvironmentFailure as failure:
        if failure.unavailable:
            pytest.skip(f"{plugin.name}: {failure}")
        pytest.fail(f"{plugin.name}: {failure}\n{failure.log_tail}")
    folder.parent.chmod(0o755)  # a container's user, who is nobody here, passes through
    shared = {SUITE.root: False, folder.parent: True, default_root(): True}
    launch = environments.launch(built, plugin.name, spec, shared, wanted.way.prefix, wanted.way.env)
    launch = launch._replace(env={**launch.env, PROBED: str(plugin.file)})
    seconds = SUITE.spec.limits.cell_seconds * wanted.way.slowdown
    opened = Lease(launch, folder, limits(seconds, spec))
    try:
        yield opened
    finally:
        opened.close()


def probe(name: str) -> Path:
    """Return the file of a probe."""
    return Path(__file__).with_name("probes") / f"{name}.py"


def workers_started(folder: Path) -> int:
    """Return how many workers a lease on ``folder`` has started: one, as long as none has died."""
    return len(list(folder.glob("worker-*")))


def unreported(spec: EnvironmentSpec, told: Mapping[str, str], *, program: bool = False) -> list[str]:
    """Return what a worker did not tell of the environment ``spec`` that it runs in: each pin must be met."""
    # A container has the interpreter that it has, and a program none.
    python = [] if program else [f"python{spec.python}"] if spec.interpreter else ["python"]
    wanted = [Requirement(item) for item in (*spec.requirements, *python, "platform", "byteorder")]
    return [str(item) for item in wanted if item.name not in told or not _met(item, told[item.name])]


def _met(wanted: Requirement, told: str) -> bool:
    return not wanted.specifier or wanted.specifier.contains(told, prereleases=True)
