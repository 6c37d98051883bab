"""A suite: the folder with a ``matrix.yaml``, its parsed spec and its plug-ins, and the machine that it is run on."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple, TypeVar

from portmatrix.errors import UserError
from portmatrix.globs import expand
from portmatrix.places.choice import resolve
from portmatrix.plan import Axes
from portmatrix.plugins import Exporter, Plugins, Way, discover
from portmatrix.spec import Known, MatrixSpec, check_names, load_spec
from portmatrix.types import PlatformSpec, Reach

SPEC = "matrix.yaml"
#: The copy of the reference suite in the installed package; a checkout has the suite itself instead.
PACKAGED = Path(__file__).with_name("suite")

_Item = TypeVar("_Item")


class Suite(NamedTuple):
    """A loaded suite."""

    root: Path
    spec: MatrixSpec
    plugins: Plugins
    host: PlatformSpec


def this_machine() -> PlatformSpec:
    """Return the platform that the engine runs on, in the words of target plug-ins."""
    systems = {"linux": "linux", "darwin": "macos", "win32": "windows"}
    machine = platform.machine().lower()
    arch = {"amd64": "x86_64", "aarch64": "arm64", "armv7l": "armhf", "armv8l": "armhf"}.get(machine, machine)
    system = systems.get(sys.platform)
    if system is None:
        raise UserError(f"{sys.platform} is no platform that portmatrix runs on; expected Linux, macOS or Windows")
    libc = (platform.libc_ver()[0] or "musl") if system == "linux" else ""
    bits = 64 if sys.maxsize > 2**32 else 32
    return PlatformSpec.model_validate(
        {"os": system, "arch": arch, "libc": libc, "endian": sys.byteorder, "bits": bits}
    )


def find_root(start: Path, named: Path | None = None) -> Path:
    """Return the suite's folder: ``named``, else the nearest one upwards of ``start``, else the packaged one.

    Raises ``UserError`` if ``named`` holds no ``matrix.yaml``, or none is found anywhere.
    """
    if named is not None:
        if not (named / SPEC).is_file():
            raise UserError(f"{named} holds no {SPEC}; `portmatrix init {named}` makes a suite there")
        return named.resolve()
    for folder in (start.resolve(), *start.resolve().parents):
        if (folder / SPEC).is_file():
            return folder
    if (PACKAGED / SPEC).is_file():
        return PACKAGED
    raise UserError(f"no {SPEC} here or above; `portmatrix init DIR` makes a suite, --suite DIR names one")


def load(root: Path, reach: Reach | None = None) -> Suite:
    """Return the suite in ``root``; raises ``SpecError`` with everything that is wrong with its ``matrix.yaml``.

    Targets are reached by the best way that leads there, or by ``reach`` only.
    """
    spec = load_spec(root / SPEC)
    host = this_machine()
    found = discover(plugin_folders(root), host, spec.definitions, spec.precision.variants)
    plugins = resolve(found, reach)
    check_names(spec, known_names(plugins))
    return Suite(root, spec, plugins, host)


def plugin_folders(root: Path) -> dict[str, Path]:
    """Return where the plug-ins of each sort are: in the suite, or in the reference suite where it has no such folder.

    Exporters are always the suite's own: they are what makes it another suite. ``dockerfiles`` is the reference
    suite's folder of these, for the files that the suite does not have itself.
    """
    reference = PACKAGED if PACKAGED.is_dir() else Path(__file__).parents[2]
    shared = {
        sort: root / sort if (root / sort).is_dir() else reference / sort
        for sort in ("runtimes", "targets", "data", "precisions")
    }
    return {"exporters": root / "exporters", **shared, "dockerfiles": reference / "dockerfiles"}


def known_names(plugins: Plugins) -> Known:
    """Return the names that ``matrix.yaml`` may use; those of broken plug-ins count, for they are there."""
    broken: dict[str, list[str]] = {"exporter": [], "runtime": [], "target": [], "data": [], "precision": []}
    for item in plugins.broken:
        broken[item.kind].append(item.name)
    paths = sorted({path for exporter in plugins.exporters.values() for path in exporter.paths})
    return Known(
        frameworks=(*plugins.exporters, *broken["exporter"]),
        paths=tuple(paths),
        runtimes=(*plugins.runtimes, *broken["runtime"]),
        targets=(*plugins.targets, *broken["target"]),
        data=(*plugins.data, *broken["data"]),
        kinds=plugins.kinds,
        files=tuple(name for name, target in plugins.targets.items() if target.file.stem == name),
    )


def _chosen(items: dict[str, _Item], globs: tuple[str, ...] | None) -> dict[str, _Item]:
    if globs is None:
        return items
    return {name: item for name, item in items.items() if any(fnmatchcase(name, glob) for glob in globs)}


def axes(suite: Suite, *, everywhere: bool = False) -> Axes:
    """Return the axes that the suite spans: as a run here takes them, or as no machine changes them (``everywhere``).

    A target's bounds are the scopes that mean it. Here, the target that this machine is itself has none, and a target
    that no scope means and that is in a container, emulated or only looked up has nothing within them: it is there for
    who names it.
    """
    exporters = _chosen(suite.plugins.exporters, suite.spec.frameworks)
    runtimes = _chosen(suite.plugins.runtimes, suite.spec.runtimes)
    targets = _chosen(suite.plugins.targets, suite.spec.target_globs)
    return Axes(
        models=tuple(suite.spec.models),
        paths={
            name: {path: declared.format for path, declared in exporter.paths.items()}
            for name, exporter in exporters.items()
        },
        runtimes={name: frozenset(runtime.formats) for name, runtime in runtimes.items()},
        targets=tuple(targets),
        takers={
            (name, target.name)
            for name, runtime in runtimes.items()
            for target in targets.values()
            if target.platform.os in runtime.systems
        },
        bounds=_bounds(suite, targets, everywhere=everywhere),
        pairwise=suite.spec.pairwise,
        traits={
            (name, path): _traits(exporter, path) for name, exporter in exporters.items() for path in exporter.paths
        },
    )


def _traits(exporter: Exporter, path: str) -> tuple[str, str, str, str]:
    """Return what a path is on the axes exporter, batch, opset and precision."""
    declared = exporter.paths[path]
    base = path.partition("+")[0]
    asked = sorted(
        {item.opset for name, item in exporter.paths.items() if item.opset and name.partition("+")[0] == base}
    )
    opset = "default"
    if declared.opset:
        ends = {asked[0]: "oldest", asked[-1]: "newest"} if len(asked) > 1 else {}
        opset = ends.get(declared.opset, f"opset{declared.opset}")
    maker = f"{exporter.name}/{base.removesuffix('-dynamic')}"
    return maker, declared.batch.value, opset, declared.precision.value


def _bounds(suite: Suite, targets: Iterable[str], *, everywhere: bool) -> dict[str, tuple[str, ...]]:
    """Return for each target that has bounds the globs over the cells within them."""
    own = here(suite)
    found: dict[str, tuple[str, ...]] = {}
    for name in targets:
        scopes = [scope for scope in suite.spec.scope if any(fnmatchcase(name, glob) for glob in expand(scope.targets))]
        way = suite.plugins.targets[name].way
        for_real = isinstance(way, Way) and way.reach in (Reach.NATIVE, Reach.REMOTE)
        if scopes and (everywhere or name != own):
            found[name] = tuple(glob for scope in scopes for glob in scope.cells)
        elif not scopes and not everywhere and not for_real:
            found[name] = ()
    return found


def here(suite: Suite) -> str:
    """Return the target that this machine itself is, or its description where no target plug-in is it.

    Of several targets with this platform the one that is reached without a command prefix is meant.
    """
    for name, target in suite.plugins.targets.items():
        way = target.way
        if isinstance(way, Way) and way.reach is Reach.NATIVE and not way.prefix and target.platform == suite.host:
            return name
    return f"{suite.host.os}-{suite.host.arch}"


def untaken(suite: Suite) -> list[tuple[str, str, str]]:
    """Return framework, path and format of every path whose artifacts no runtime of the suite takes."""
    spanned = axes(suite, everywhere=True)
    taken = frozenset().union(*spanned.runtimes.values())
    return [
        (framework, path, form)
        for framework, paths in spanned.paths.items()
        for path, form in paths.items()
        if form not in taken
    ]


def exclusions(suite: Suite) -> list[tuple[str, str]]:
    """Return the suite's exclusions as pairs of glob and reason."""
    return [(item.cells, item.reason) for item in suite.spec.exclude]
