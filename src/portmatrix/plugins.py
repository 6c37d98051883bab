"""What a plug-in is: the Protocols that exporter, runtime, target and data modules satisfy, and how they are loaded.

A plug-in is one file in ``exporters/``, ``runtimes/``, ``targets/`` or ``data/`` of the suite. The engine loads it by
path to read its declarations (plain dictionaries, so that the file imports nothing of ours), and a worker loads the
same file in the environment that it declares to call its functions.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

from numpy.typing import NDArray
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from pydantic import Field, ValidationError, field_validator

from portmatrix.errors import PluginError
from portmatrix.types import Batch, Frozen, PathKind, Reach

#: The names of our own converters: packages beside the engine's modules, which import them in a process of their own.
CONVERTERS = tuple(sorted(item.parent.name for item in Path(__file__).with_name("converters").glob("*/__init__.py")))

Array = NDArray[Any]
Arrays = dict[str, Array]


class Data(Protocol):
    """A data set as one model sees it: inputs by name, labels aligned on the first axis."""

    train_x: Arrays
    train_y: Array
    test_x: Arrays
    test_y: Array


class DataModule(Protocol):
    """``data/NAME.py``: standard library and numpy only, any Python from 3.6 on."""

    FILES: Sequence[str]
    VIEWS: Sequence[str]
    TARGETS: Sequence[str]

    def load(self, view: str, target: str, layout: str) -> Data: ...


class ExporterModule(Protocol):
    """``exporters/FRAMEWORK.py``: builds, trains and exports the reference models of one framework.

    ``ENVIRONMENT`` and ``PATHS`` are read as ``EnvironmentSpec`` and ``PathSpec``; ``LAYOUT`` (optional,
    ``channels-first`` unless given) is the order of axes in which the framework is at home. ``train`` raises
    ``NotImplementedError`` with a reason for a model that the framework cannot express, ``export`` for a path that
    cannot express the model. ``export`` writes below ``folder`` and returns ``{"entry": file or folder name inside
    it, "facts": {name: plain value}}``; ``inputs`` is an example of the batch that the path asks for. A model that
    reads no data set of the suite needs ``samples(model, rows, seed)``, which gives the reference rows.
    """

    ENVIRONMENT: Mapping[str, Any]
    PATHS: Mapping[str, Mapping[str, Any]]

    def train(self, model: str, data: Data | None, seed: int) -> Any: ...

    def predict(self, trained: Any, inputs: Arrays) -> Arrays: ...

    def export(self, trained: Any, path: str, inputs: Arrays, folder: str) -> Mapping[str, Any]: ...


class RuntimeModule(Protocol):
    """``runtimes/NAME.py``: loads artifacts of ``FORMATS`` and runs them.

    ``ENVIRONMENTS`` maps a version suffix to an ``EnvironmentSpec``: key ``""`` is the runtime ``NAME`` itself, key
    ``"1.17"`` the runtime ``NAME-1.17``. ``run`` takes and returns arrays keyed by the artifact's own tensor names, in
    the artifact's order; the worker binds them to the reference names (by name where they agree, else by position).
    ``degraded`` returns why the session does not run as asked for, or an empty string.
    """

    ENVIRONMENTS: Mapping[str, Mapping[str, Any]]
    FORMATS: Sequence[str]

    def load(self, entry: str, format: str, signature: Mapping[str, Any], threads: int) -> Any: ...

    def input_names(self, session: Any) -> Sequence[str]: ...

    def run(self, session: Any, inputs: Arrays) -> Arrays: ...

    def degraded(self, session: Any) -> str: ...


class TargetModule(Protocol):
    """``targets/NAME.py``: what platform it is and how it is reached from a host.

    ``reach(host)`` returns ``{"reach": ..., "prefix": [...]}`` for the best way from a machine described like
    ``PLATFORM``, or ``{"why": what is missing, "install": the command that would mend it}``.
    """

    PLATFORM: Mapping[str, Any]
    RUNNER: str

    def reach(self, host: Mapping[str, Any]) -> Mapping[str, Any]: ...


class EnvironmentSpec(Frozen):
    """What a plug-in needs to run: an interpreter, pinned requirements, environment variables, and its exceptions.

    ``libraries`` maps names under which a requirement looks for shared libraries of the system to the names that the
    system has for them; ``install`` says how one gets what is missing. ``container`` names the Dockerfile that makes
    the environment where this machine cannot, and always if ``interpreter`` is False. ``network`` and ``memory_mb`` are
    the two limits that a plug-in may lift for its own workers, and only by saying so.
    """

    python: str = ">=3.10"
    requirements: tuple[str, ...] = ()
    env: dict[str, str] = Field(default_factory=dict)
    libraries: dict[str, str] = Field(default_factory=dict)
    install: str = ""
    container: str = ""
    interpreter: bool = True
    dockerfile: Path | None = Field(default=None, exclude=True)
    network: bool = False
    memory_mb: int | None = Field(default=None, gt=0)

    @field_validator("python")
    @classmethod
    def _python_is_a_specifier(cls, value: str) -> str:
        try:
            SpecifierSet(value)
        except InvalidSpecifier as error:
            raise ValueError(f"{value!r} is no version specifier such as '>=3.11,<3.14'") from error
        return value

    @field_validator("requirements")
    @classmethod
    def _requirements_are_requirements(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for item in value:
            try:
                Requirement(item)
            except InvalidRequirement as error:
                raise ValueError(f"{item!r} is no requirement such as 'numpy==2.4.6'") from error
        return value

    @property
    def packages(self) -> tuple[str, ...]:
        """Names of the required distributions, whose versions every record states."""
        return tuple(Requirement(item).name for item in self.requirements)


class PathSpec(Frozen):
    """One way out of a framework: its kind, the format of the artifact, and whether the batch is symbolic.

    A path with a ``converter`` is not exported: the artifact of the path ``source`` is converted by that converter.
    """

    kind: PathKind
    format: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")
    batch: Batch
    converter: str = ""
    source: str = ""


class PlatformSpec(Frozen):
    """An operating system on a processor: what decides whether a binary runs there."""

    os: Literal["linux", "macos", "windows", "browser"]
    arch: str
    libc: str = ""
    endian: Literal["little", "big"] = "little"
    bits: Literal[32, 64] = 64


class Way(Frozen):
    """How a target is reached: its reach, and the command prefix that carries a worker there."""

    reach: Reach
    prefix: tuple[str, ...] = ()


class NoWay(Frozen):
    """Why a target cannot be reached from here, and what would mend it."""

    why: str
    install: str = ""


class Exporter(NamedTuple):
    """A loaded exporter: name, file, digest of its source, and its parsed declarations."""

    name: str
    file: Path
    digest: str
    environment: EnvironmentSpec
    paths: dict[str, PathSpec]
    layout: str


class Runtime(NamedTuple):
    """A loaded runtime, one for each version that its file declares."""

    name: str
    file: Path
    digest: str
    environment: EnvironmentSpec
    formats: tuple[str, ...]


class Target(NamedTuple):
    """A loaded target: its platform, its GitHub runner label, and how it is reached from this machine."""

    name: str
    file: Path
    digest: str
    platform: PlatformSpec
    runner: str
    way: Way | NoWay


class DataSet(NamedTuple):
    """A loaded data set: its file, and a digest over it and the files that it reads."""

    name: str
    file: Path
    digest: str
    views: tuple[str, ...]
    targets: tuple[str, ...]


class Broken(NamedTuple):
    """A plug-in that cannot be used: which kind, which name, and what is wrong with it."""

    kind: Literal["exporter", "runtime", "target", "data"]
    name: str
    file: Path
    why: str


class Plugins(NamedTuple):
    """Everything found in a suite's plug-in folders, by name in sorted order."""

    exporters: dict[str, Exporter]
    runtimes: dict[str, Runtime]
    targets: dict[str, Target]
    data: dict[str, DataSet]
    broken: tuple[Broken, ...]


_FUNCTIONS: dict[str, tuple[type, tuple[str, ...]]] = {
    "exporter": (ExporterModule, ("train", "predict", "export")),
    "runtime": (RuntimeModule, ("load", "input_names", "run", "degraded")),
    "target": (TargetModule, ("reach",)),
    "data": (DataModule, ("load",)),
}
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
_Loaded = TypeVar("_Loaded")


def conformance(kind: str, module: ModuleType) -> list[str]:
    """Return what keeps ``module`` from satisfying the Protocol of its ``kind``: one line for each difference."""
    protocol, functions = _FUNCTIONS[kind]
    wrong = [f"{name} is missing" for name in protocol.__annotations__ if not hasattr(module, name)]
    for name in functions:
        function = getattr(module, name, None)
        expected = [
            parameter for parameter in inspect.signature(getattr(protocol, name)).parameters if parameter != "self"
        ]
        if not inspect.isfunction(function):
            wrong.append(f"{name}({', '.join(expected)}) is missing")
            continue
        found = list(inspect.signature(function).parameters)
        if found != expected:
            wrong.append(f"{name}({', '.join(found)}) should be {name}({', '.join(expected)})")
    return wrong


def load_file(kind: str, file: Path) -> ModuleType:
    """Return the plug-in module at ``file``; raises ``PluginError`` if it does not load or conform."""
    name = "portmatrix_plugin_" + re.sub(r"\W", "_", f"{kind}_{file.stem}")
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise PluginError(f"{file.name} cannot be read as a Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        raise PluginError(f"{file.name} does not load: {type(error).__name__}: {error}") from error
    wrong = conformance(kind, module)
    if wrong:
        raise PluginError(f"{file.name} is no {kind}: " + "; ".join(wrong))
    return module


def _digest(*files: Path) -> str:
    total = hashlib.sha256()
    for file in files:
        total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


def _environment(declared: Mapping[str, Any], file: Path) -> EnvironmentSpec:
    """Return the environment that a plug-in declares, with its Dockerfile in the suite's ``dockerfiles/``.

    Raises ``PluginError`` if there is no such file, or no way at all to the environment.
    """
    spec = EnvironmentSpec.model_validate(declared)
    if not spec.container:
        if not spec.interpreter:
            raise PluginError(f"{file.name}: ENVIRONMENT has neither an interpreter nor a container")
        return spec
    dockerfile = file.parent.parent / "dockerfiles" / f"{spec.container}.Dockerfile"
    if not dockerfile.is_file():
        raise PluginError(f"{file.name}: container {spec.container!r} has no dockerfiles/{dockerfile.name}")
    return spec.model_copy(update={"dockerfile": dockerfile})


def _sources_are_there(paths: Mapping[str, PathSpec]) -> None:
    """Raise ``PluginError`` for a converted path without a converter of ours, or without a path that it starts from."""
    for name, declared in paths.items():
        if not declared.converter and not declared.source:
            continue
        source = paths.get(declared.source)
        if declared.converter not in CONVERTERS:
            known = ", ".join(CONVERTERS)
            raise PluginError(f"path {name!r} names the converter {declared.converter!r}; there are {known}")
        if source is None or source.converter:
            exported = ", ".join(key for key, value in paths.items() if not value.converter)
            raise PluginError(f"path {name!r} names the source {declared.source!r}; the paths exported are {exported}")


def _exporters(file: Path) -> dict[str, Exporter]:
    module = load_file("exporter", file)
    paths = {name: PathSpec.model_validate(value) for name, value in module.PATHS.items()}
    layout = getattr(module, "LAYOUT", "channels-first")
    environment = _environment(module.ENVIRONMENT, file)
    _names_are_legal(paths)
    _sources_are_there(paths)
    return {file.stem: Exporter(file.stem, file, _digest(file), environment, paths, layout)}


def _runtimes(file: Path) -> dict[str, Runtime]:
    module = load_file("runtime", file)
    found: dict[str, Runtime] = {}
    for suffix, value in module.ENVIRONMENTS.items():
        name = f"{file.stem}-{suffix}" if suffix else file.stem
        environment = _environment(value, file)
        found[name] = Runtime(name, file, _digest(file), environment, tuple(module.FORMATS))
    _names_are_legal(found)
    return found


def _targets(file: Path, host: PlatformSpec) -> dict[str, Target]:
    module = load_file("target", file)
    platform = PlatformSpec.model_validate(module.PLATFORM)
    found = module.reach(host.model_dump())
    way = Way.model_validate(found) if "reach" in found else NoWay.model_validate(found)
    return {file.stem: Target(file.stem, file, _digest(file), platform, str(module.RUNNER), way)}


def _data(file: Path) -> dict[str, DataSet]:
    module = load_file("data", file)
    files = [file.parent / name for name in module.FILES]
    found = DataSet(file.stem, file, _digest(file, *files), tuple(module.VIEWS), tuple(module.TARGETS))
    return {file.stem: found}


def _names_are_legal(names: Mapping[str, object]) -> None:
    wrong = [name for name in names if not _NAME.match(name)]
    if wrong:
        raise PluginError(f"{wrong[0]!r} is no name: letters, digits, '.', '_' and '-', and no '/' (it parts cell ids)")


def _folder(
    folder: Path,
    kind: Literal["exporter", "runtime", "target", "data"],
    load: Callable[[Path], dict[str, _Loaded]],
    broken: list[Broken],
) -> dict[str, _Loaded]:
    """Load every plug-in of one folder; what is wrong with one is noted and hides none of the others."""
    found: dict[str, _Loaded] = {}
    for file in sorted(folder.glob("*.py")):
        try:
            _names_are_legal({file.stem: None})
            found.update(load(file))
        except ValidationError as error:
            details = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
            broken.append(Broken(kind, file.stem, file, f"{file.name}: {details}"))
        except (PluginError, OSError) as error:
            broken.append(Broken(kind, file.stem, file, str(error)))
        except Exception as error:  # a plug-in's own declaration may do anything; it must cost its own cells only
            broken.append(Broken(kind, file.stem, file, f"{file.name}: {type(error).__name__}: {error}"))
    return found


def discover(folders: Mapping[str, Path], host: PlatformSpec) -> Plugins:
    """Return the plug-ins in ``folders`` (by sort), with each target's way from a machine that is ``host``.

    A plug-in that does not load or conform is listed under ``broken``, with what is wrong; it hides nobody else's.
    """
    broken: list[Broken] = []
    exporters = _folder(folders["exporters"], "exporter", _exporters, broken)
    runtimes = _folder(folders["runtimes"], "runtime", _runtimes, broken)
    targets = _folder(folders["targets"], "target", lambda file: _targets(file, host), broken)
    data = _folder(folders["data"], "data", _data, broken)
    return Plugins(exporters, runtimes, targets, data, tuple(broken))
