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
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

from numpy.typing import NDArray
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from pydantic import Field, ValidationError, field_validator

from portmatrix.errors import PluginError
from portmatrix.spec import OptionSpec, TargetDefinition
from portmatrix.types import Batch, Frozen, PathKind, PlatformSpec, Precision, Reach

#: The names of our own converters: packages beside the engine's modules, which import them in a process of their own.
CONVERTERS = tuple(sorted(item.parent.name for item in Path(__file__).with_name("converters").glob("*/__init__.py")))

#: The sorts of plug-in.
Sort = Literal["exporter", "runtime", "target", "data", "precision"]

#: The operating systems that a runtime runs on unless it says otherwise: those on which a Python does.
USUAL_SYSTEMS = frozenset({"linux", "macos", "windows"})

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
    ``channels-first`` unless given) is the order of axes in which the framework is at home. ``ENVIRONMENTS`` (optional)
    maps names to further environments, for paths whose requirements collide with the others': a path names its own,
    and its models are trained there. ``train`` raises
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


class PrecisionModule(Protocol):
    """``precisions/FORMAT.py``: makes of an artifact in single precision one of a lower precision.

    ``PRECISIONS`` are those that it can make, ``FORMATS`` the formats of the artifacts that it takes. ``reduce`` reads
    the file ``artifact``, writes below ``folder`` and returns what an exporter's ``export`` does. ``rows`` are training
    rows to calibrate on, by the reference names of the inputs; empty for a model that reads no data set. The inputs and
    outputs of what is made stay as they are.
    """

    ENVIRONMENT: Mapping[str, Any]
    FORMATS: Sequence[str]
    PRECISIONS: Sequence[str]

    def reduce(self, artifact: str, precision: str, rows: Arrays, folder: str) -> Mapping[str, Any]: ...


class RuntimeModule(Protocol):
    """``runtimes/NAME.py``: loads artifacts of ``FORMATS`` and runs them.

    ``ENVIRONMENTS`` maps a version suffix to an ``EnvironmentSpec``: key ``""`` is the runtime ``NAME`` itself, key
    ``"1.17"`` the runtime ``NAME-1.17``. ``run`` takes and returns arrays keyed by the artifact's own tensor names, in
    the artifact's order; the worker binds them to the reference names (by name where they agree, else by position).
    ``degraded`` returns why the session does not run as asked for, or an empty string.

    Optional: ``SYSTEMS`` names the systems of targets that it runs on, ``linux``, ``macos`` and ``windows`` unless
    given. ``versions()`` returns the versions of what the runtime drives, by name, for records; ``unavailable()`` why
    this machine cannot run it at all, or an empty string. ``kernels()`` returns what the build can compute, for static
    look-ups, or ``KERNELS`` names the file of a runtime that is built of the same. ``caller(session, inputs)`` returns
    a function that runs the session as many times as it is told and does nothing else: it is what latency is measured
    of, ``run`` where there is none. ``PROGRAM`` is a C source beside the file that implements ``runner/runtime.h``: the
    worker is then a program made of it, without any interpreter, and the four functions are not needed.
    """

    ENVIRONMENTS: Mapping[str, Mapping[str, Any]]
    FORMATS: Sequence[str]

    def load(self, entry: str, format: str, signature: Mapping[str, Any], threads: int) -> Any: ...

    def input_names(self, session: Any) -> Sequence[str]: ...

    def run(self, session: Any, inputs: Arrays) -> Arrays: ...

    def degraded(self, session: Any) -> str: ...


class TargetModule(Protocol):
    """``targets/NAME.py``: what platform it is, what it costs to run there, and how it is reached from a host.

    ``reach(host)`` returns the ways from a machine described like ``PLATFORM``, best first: each the keys of a ``Way``,
    or ``{"why": what is missing, "install": the command that would mend it}`` for one that does not lead there now.
    Whether the engine has what a way needs (Docker, QEMU) is for the engine to find out, not for the target. ``RUNNER``
    is the label of the GitHub runner that is the target or reaches it; optional: ``RUNNER_REACH`` says by which reach
    it does (``native`` unless given), ``RUNNER_NEEDS`` names the groups of ``scripts/setup-linux-targets`` that have to
    be installed there. A module with ``OPTIONS`` is a kind of target, not one: entries of ``targets`` in
    ``matrix.yaml`` make targets of it, and ``host`` then carries their ``options``. ``OPTIONS`` says which there are,
    each read as an ``OptionSpec``.
    """

    PLATFORM: Mapping[str, Any]
    RUNNER: str
    COST: str

    def reach(self, host: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]: ...


class EnvironmentSpec(Frozen):
    """What a plug-in needs to run: an interpreter, pinned requirements, environment variables, and its exceptions.

    ``npm`` are packages for Node.js. ``debian`` are packages of Debian 13 that take the place of ``requirements`` on
    targets that are Debian systems of another architecture, for which nobody builds wheels. ``library`` says, for a
    runtime that is a program, where the shared library of the runtime lies: by operating system a glob below the
    folder of installed wheels, and under ``debian`` one below the root of such a system.

    ``libraries`` maps names under which a requirement looks for shared libraries of the system to the names that the
    system has for them; ``install`` says how one gets what is missing. ``container`` names the Dockerfile that makes
    the environment where this machine cannot, and always if ``interpreter`` is False. ``network`` and ``memory_mb`` are
    the two limits that a plug-in may lift for its own workers, and only by saying so.
    """

    python: str = ">=3.10"
    requirements: tuple[str, ...] = ()
    npm: tuple[str, ...] = ()
    debian: tuple[str, ...] = ()
    library: dict[str, str] = Field(default_factory=dict)
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
    ``reducer`` names the precision plug-in that makes the path's artifact of that of ``source``; no exporter gives it.
    ``opset`` is the version of ONNX's operators that is asked for, where it is not the exporter's own choice.
    ``environment`` is the exporter's environment in which the path is trained and exported.
    """

    kind: PathKind
    format: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")
    batch: Batch
    converter: str = ""
    source: str = ""
    reducer: str = ""
    precision: Precision = Precision.FP32
    opset: int | None = Field(default=None, ge=1)
    environment: str = ""


class Way(Frozen):
    """How a target is reached, and where its workers run.

    ``place`` is the kind of place, a module of ``portmatrix.places``: this ``machine`` (behind ``prefix``), a
    ``container``, a ``root`` directory of Debian, a ``folder`` with a foreign interpreter, a ``board`` behind ssh; what
    it needs to know stands in ``options``. ``env`` are variables that every worker there gets. ``emulator`` names the
    program that stands in for a processor or an operating system there. A request may take ``slowdown`` times as long
    as ``limits`` say.
    """

    reach: Reach
    place: Literal["machine", "container", "root", "folder", "board"] = "machine"
    prefix: tuple[str, ...] = ()
    env: dict[str, str] = Field(default_factory=dict)
    emulator: str = ""
    slowdown: float = Field(default=1.0, ge=1)
    options: dict[str, Any] = Field(default_factory=dict)


class NoWay(Frozen):
    """Why a target cannot be reached from here, and what would mend it."""

    why: str
    install: str = ""


class Exporter(NamedTuple):
    """A loaded exporter: name, file, digest of its source, and its parsed declarations.

    ``environments`` are all that it has, by name; ``environment`` is the usual one, whose name is empty, or the one
    that the exporter was looked at ``within``.
    """

    name: str
    file: Path
    digest: str
    environment: EnvironmentSpec
    paths: dict[str, PathSpec]
    layout: str
    environments: Mapping[str, EnvironmentSpec] = {}

    def within(self, environment: str) -> Exporter:
        """Return the exporter as it is in the environment of that name."""
        return self._replace(environment=self.environments.get(environment, self.environment))

    def of(self, path: str) -> Exporter:
        """Return the exporter as it is in the environment of one of its paths."""
        return self.within(self.paths[path].environment)


class Reducer(NamedTuple):
    """A loaded precision plug-in: what artifacts it takes, and which precisions it makes of them."""

    name: str
    file: Path
    digest: str
    environment: EnvironmentSpec
    formats: tuple[str, ...]
    precisions: tuple[Precision, ...]


class Runtime(NamedTuple):
    """A loaded runtime, one for each version that its file declares.

    ``systems`` are the operating systems of targets that it runs on; ``program`` its C source, if it is a program.
    """

    name: str
    file: Path
    digest: str
    environment: EnvironmentSpec
    formats: tuple[str, ...]
    systems: frozenset[str] = USUAL_SYSTEMS
    program: Path | None = None


class Target(NamedTuple):
    """A loaded target: its platform, its GitHub runner label, its cost, and the ways from this machine, best first.

    ``runner_reach`` is how the runner reaches it, ``runner_needs`` what has to be installed there first.
    """

    name: str
    file: Path
    digest: str
    platform: PlatformSpec
    runner: str
    cost: str
    ways: tuple[Way | NoWay, ...]
    runner_reach: Reach = Reach.NATIVE
    runner_needs: tuple[str, ...] = ()

    @property
    def way(self) -> Way | NoWay:
        """The best way that leads there; where none does, why the best one does not."""
        return next((way for way in self.ways if isinstance(way, Way)), self.ways[0])

    @property
    def is_static(self) -> bool:
        """Whether nothing leads there, so that cells are looked up and not run."""
        return not isinstance(self.way, Way) or self.way.reach is Reach.STATIC

    @property
    def missing(self) -> tuple[NoWay, ...]:
        """Why the ways that would be better than ``way`` do not lead there."""
        found = []
        for way in self.ways:
            if isinstance(way, Way):
                break
            found.append(way)
        return tuple(found)


class DataSet(NamedTuple):
    """A loaded data set: its file, the files beside it that it reads, and a digest over all of them."""

    name: str
    file: Path
    digest: str
    views: tuple[str, ...]
    targets: tuple[str, ...]
    files: tuple[Path, ...] = ()


class Broken(NamedTuple):
    """A plug-in that cannot be used: which kind, which name, and what is wrong with it."""

    kind: Sort
    name: str
    file: Path
    why: str


class Plugins(NamedTuple):
    """Everything found in a suite's plug-in folders, by name in sorted order; ``kinds`` are the kinds of target.

    Of a kind its options are there.
    """

    exporters: dict[str, Exporter]
    runtimes: dict[str, Runtime]
    targets: dict[str, Target]
    data: dict[str, DataSet]
    broken: tuple[Broken, ...]
    kinds: Mapping[str, Mapping[str, OptionSpec]] = {}
    reducers: Mapping[str, Reducer] = {}


_FUNCTIONS: dict[str, tuple[type, tuple[str, ...]]] = {
    "exporter": (ExporterModule, ("train", "predict", "export")),
    "runtime": (RuntimeModule, ("load", "input_names", "run", "degraded")),
    "target": (TargetModule, ("reach",)),
    "data": (DataModule, ("load",)),
    "precision": (PrecisionModule, ("reduce",)),
}
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$")
#: A word that a shell takes as one, and no option.
_WORD = re.compile(r"^[a-z0-9][a-z0-9-]*$")
_Loaded = TypeVar("_Loaded")


def conformance(kind: str, module: ModuleType) -> list[str]:
    """Return what keeps ``module`` from satisfying the Protocol of its ``kind``: one line for each difference."""
    protocol, functions = _FUNCTIONS[kind]
    if kind == "runtime" and hasattr(module, "PROGRAM"):
        functions = ()
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


def digest_text(text: str) -> str:
    """Return the SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def _environment(declared: Mapping[str, Any], file: Path, dockerfiles: Path | None) -> EnvironmentSpec:
    """Return the environment that a plug-in declares, with its Dockerfile in ``dockerfiles/``.

    That is the folder of the plug-in's own suite or, for a file that this one lacks, ``dockerfiles``. Raises
    ``PluginError`` if there is no such file, or no way at all to the environment.
    """
    spec = EnvironmentSpec.model_validate(declared)
    if not spec.container:
        if not spec.interpreter:
            raise PluginError(f"{file.name}: ENVIRONMENT has neither an interpreter nor a container")
        return spec
    name = f"{spec.container}.Dockerfile"
    places = [file.parent.parent / "dockerfiles", *([dockerfiles] if dockerfiles else [])]
    dockerfile = next((place / name for place in places if (place / name).is_file()), None)
    if dockerfile is None:
        raise PluginError(f"{file.name}: container {spec.container!r} has no dockerfiles/{name}")
    return spec.model_copy(update={"dockerfile": dockerfile})


def _sources_are_there(paths: Mapping[str, PathSpec]) -> None:
    """Raise ``PluginError`` for a converted path without a converter of ours, or without a path that it starts from."""
    for name, declared in paths.items():
        if declared.reducer:
            raise PluginError(f"path {name!r} names a reducer; write {declared.precision.value} under `precision` only")
        if not declared.converter and not declared.source:
            continue
        source = paths.get(declared.source)
        if declared.converter not in CONVERTERS:
            known = ", ".join(CONVERTERS)
            raise PluginError(f"path {name!r} names the converter {declared.converter!r}; there are {known}")
        if source is None or source.converter:
            exported = ", ".join(key for key, value in paths.items() if not value.converter)
            raise PluginError(f"path {name!r} names the source {declared.source!r}; the paths exported are {exported}")


def _exporters(file: Path, dockerfiles: Path | None) -> dict[str, Exporter]:
    module = load_file("exporter", file)
    paths = {name: PathSpec.model_validate(value) for name, value in module.PATHS.items()}
    layout = getattr(module, "LAYOUT", "channels-first")
    declared = {"": module.ENVIRONMENT, **getattr(module, "ENVIRONMENTS", {})}
    environments = {name: _environment(value, file, dockerfiles) for name, value in declared.items()}
    _names_are_legal(paths)
    _sources_are_there(paths)
    for name, path in paths.items():
        if path.environment not in environments:
            known = ", ".join(map(repr, environments))
            raise PluginError(f"path {name!r} names the environment {path.environment!r}; there are {known}")
    made = Exporter(file.stem, file, _digest(file), environments[""], paths, layout, environments)
    return {file.stem: made}


def _reducers(file: Path, dockerfiles: Path | None) -> dict[str, Reducer]:
    module = load_file("precision", file)
    environment = _environment(module.ENVIRONMENT, file, dockerfiles)
    precisions = tuple(Precision(word) for word in module.PRECISIONS)
    return {file.stem: Reducer(file.stem, file, _digest(file), environment, tuple(module.FORMATS), precisions)}


def with_variants(exporter: Exporter, reducers: Iterable[Reducer], wanted: Collection[Precision]) -> Exporter:
    """Return the exporter with the paths that precision plug-ins make of its own: ``PATH+PRECISION`` of each path in
    single precision whose format one of them takes, in those of its precisions that are ``wanted``.

    A path that the exporter has itself under that name stays as it is.
    """
    made = {
        f"{name}+{precision.value}": path.model_copy(
            update={"converter": "", "source": name, "reducer": reducer.name, "precision": precision}
        )
        for reducer in reducers
        for name, path in exporter.paths.items()
        if path.precision is Precision.FP32 and path.format in reducer.formats
        for precision in reducer.precisions
        if precision in wanted
    }
    return exporter._replace(paths={**made, **exporter.paths}) if made else exporter


def _runtimes(file: Path, dockerfiles: Path | None) -> dict[str, Runtime]:
    module = load_file("runtime", file)
    systems = frozenset(getattr(module, "SYSTEMS", USUAL_SYSTEMS))
    program = _program(module, file)
    sources = [file, *([program] if program else [])]
    found: dict[str, Runtime] = {}
    for suffix, value in module.ENVIRONMENTS.items():
        name = f"{file.stem}-{suffix}" if suffix else file.stem
        environment = _environment(value, file, dockerfiles)
        found[name] = Runtime(name, file, _digest(*sources), environment, tuple(module.FORMATS), systems, program)
    _names_are_legal(found)
    return found


def _program(module: ModuleType, file: Path) -> Path | None:
    """Return the C source that a runtime names as its program; raises ``PluginError`` if it is not there."""
    name = getattr(module, "PROGRAM", "")
    if not name:
        return None
    source = file.with_name(name)
    if not source.is_file():
        raise PluginError(f"{file.name}: PROGRAM names {name}, which is not in {file.parent.name}/")
    return source


def _target(
    module: ModuleType, file: Path, name: str, host: PlatformSpec, entry: TargetDefinition | None = None
) -> Target:
    """Return the target that ``file`` describes, or that an entry of ``matrix.yaml`` makes of the kind in ``file``."""
    asked: dict[str, Any] = host.model_dump()
    declared = dict(module.PLATFORM)
    if entry is not None:
        declared = entry.platform.model_dump()
        asked["options"] = dict(entry.options)
    platform = PlatformSpec.model_validate(declared)
    ways = tuple(_way(found, platform, host, str(module.RUNNER)) for found in module.reach(asked))
    if not ways:
        raise PluginError(f"{file.name}: reach(host) returned no way, and no reason why there is none")
    digest = _digest(file) if entry is None else digest_text(f"{_digest(file)} {entry!r}")
    reach, needs = _on_runner(module, file)
    return Target(name, file, digest, platform, str(module.RUNNER), str(module.COST), ways, reach, needs)


def _on_runner(module: ModuleType, file: Path) -> tuple[Reach, tuple[str, ...]]:
    """Return how a target's runner reaches it, and what that needs there; raises ``PluginError`` for other words."""
    reach, needs = getattr(module, "RUNNER_REACH", Reach.NATIVE.value), getattr(module, "RUNNER_NEEDS", ())
    if reach not in [item.value for item in Reach]:
        known = ", ".join(item.value for item in Reach)
        raise PluginError(f"{file.name}: RUNNER_REACH is {reach!r}; expected one of {known}")
    if isinstance(needs, str) or not all(isinstance(word, str) and _WORD.match(word) for word in needs):
        raise PluginError(
            f"{file.name}: RUNNER_NEEDS is {needs!r}; expected a tuple of words such as ('roots', 'qemu')"
        )
    return Reach(reach), tuple(needs)


def _way(found: Mapping[str, Any], platform: PlatformSpec, host: PlatformSpec, runner: str) -> Way | NoWay:
    if "reach" not in found:
        return NoWay.model_validate(found)
    way = Way.model_validate(found)
    if way.reach is Reach.NATIVE and way.place == "machine" and platform.os in USUAL_SYSTEMS:
        for key, value in platform.model_dump().items():
            mine = getattr(host, key)
            if mine != value:
                install = f"run portmatrix on such a machine; on GitHub that is {runner}"
                return NoWay(why=f"this machine's {key} is {mine!r}, not {value!r}", install=install)
    return way


def _targets(
    file: Path, host: PlatformSpec, entries: Sequence[TargetDefinition], kinds: dict[str, dict[str, OptionSpec]]
) -> dict[str, Target]:
    """Return the targets that a file is, or that entries make of it; ``kinds`` gets the options of a kind."""
    module = load_file("target", file)
    if not hasattr(module, "OPTIONS"):
        return {file.stem: _target(module, file, file.stem, host)}
    if not isinstance(module.OPTIONS, Mapping):
        raise PluginError(f"{file.name}: OPTIONS maps the name of each option to what it takes; got {module.OPTIONS!r}")
    kinds[file.stem] = {name: OptionSpec.model_validate(value) for name, value in module.OPTIONS.items()}
    made = [entry for entry in entries if entry.kind == file.stem]
    # Where the name is a file's already, that file's target keeps it: ``check_names`` says so.
    free = [entry for entry in made if not file.with_name(f"{entry.name}.py").exists()]
    return {entry.name: _target(module, file, entry.name, host, entry) for entry in free}


def _data(file: Path) -> dict[str, DataSet]:
    module = load_file("data", file)
    files = [file.parent / name for name in module.FILES]
    views, targets = tuple(module.VIEWS), tuple(module.TARGETS)
    found = DataSet(file.stem, file, _digest(file, *files), views, targets, tuple(files))
    return {file.stem: found}


def _names_are_legal(names: Mapping[str, object]) -> None:
    wrong = [name for name in names if not _NAME.match(name)]
    if wrong:
        raise PluginError(f"{wrong[0]!r} is no name: letters, digits and . _ - +, and no '/' (it parts cell ids)")


def _folder(
    folder: Path,
    kind: Sort,
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


def discover(
    folders: Mapping[str, Path],
    host: PlatformSpec,
    entries: Sequence[TargetDefinition] = (),
    precisions: Collection[Precision] = (),
) -> Plugins:
    """Return the plug-ins in ``folders`` (by sort), with each target's ways from a machine that is ``host``.

    ``entries`` are the targets that ``matrix.yaml`` makes of kinds; of ``precisions`` variants of paths are made. Among
    the folders may be ``dockerfiles``: what a suite's own folder of that name lacks is looked for there.

    A plug-in that does not load or conform is listed under ``broken``, with what is wrong; it hides nobody else's.
    """
    broken: list[Broken] = []
    dockerfiles = folders.get("dockerfiles")
    exporters = _folder(folders["exporters"], "exporter", lambda file: _exporters(file, dockerfiles), broken)
    runtimes = _folder(folders["runtimes"], "runtime", lambda file: _runtimes(file, dockerfiles), broken)
    kinds: dict[str, dict[str, OptionSpec]] = {}
    targets = _folder(folders["targets"], "target", lambda file: _targets(file, host, entries, kinds), broken)
    data = _folder(folders["data"], "data", _data, broken)
    reducers: dict[str, Reducer] = {}
    if precisions and "precisions" in folders:
        reducers = _folder(folders["precisions"], "precision", lambda file: _reducers(file, dockerfiles), broken)
        exporters = {
            name: with_variants(exporter, reducers.values(), precisions) for name, exporter in exporters.items()
        }
    return Plugins(exporters, runtimes, targets, data, tuple(broken), kinds, reducers)
