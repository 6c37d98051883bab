"""``matrix.yaml`` → ``MatrixSpec``; with ``yaml_source`` the only module that knows of YAML.

A file is read in three steps, and the problems of all of them are reported at once, each with its line and key path:
its bytes and its YAML (``yaml_source``), and its meaning (pydantic). ``check_names`` is the fourth, for what can be
told only when the plug-ins are known.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PlainValidator,
    PrivateAttr,
    Tag,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from portmatrix.errors import SpecError, nearest
from portmatrix.globs import Globs, expand
from portmatrix.types import CellId, Frozen, PathKind, PlatformSpec, Precision, Stage, Tolerance
from portmatrix.yaml_source import KeyPath, Problem, Unreadable, compose, read_text, shown

#: Most ``*`` and ``?`` in a glob over cells of fewer than five parts: the ways to read it grow as their fourth power.
MAX_WILD = 8

NUMPY_DTYPES = (
    "bool", "complex128", "complex64", "float16", "float32", "float64", "int16", "int32", "int64", "int8", "object",
    "uint16", "uint32", "uint64", "uint8",
)  # fmt: skip


# --- The shape of the file ------------------------------------------------------------------------------------------
# A description says what is expected in the words of an error message ("expected DESCRIPTION, got ...").

_NAME_IS = "a name of letters, digits and . _ + - (64 characters at most)"
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._+-]*$", max_length=64, description=_NAME_IS)]
NameGlob = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9._+*?!\[\]-]+$",
        max_length=128,
        description="a name, or a glob over names",
    ),
]


def _whole(value: object) -> object:
    """Return ``value``; raises ``ValueError`` for true and 1.0, which Python holds equal to 1."""
    if type(value) is not int:
        raise ValueError(f"expected 1, got {shown(value)}")
    return value


Version = Annotated[Literal[1], BeforeValidator(_whole)]
Text = Annotated[str, Field(pattern=r"\S", description="some text")]
Link = Annotated[str, Field(pattern=r"^https?://\S+$", description="a link (http:// or https://)")]
Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(gt=0)]
Megabytes = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=1, le=65536)]
HalfStars = Annotated[float, Field(ge=0, le=5, multiple_of=0.5, description="stars from 0 to 5 in steps of 0.5")]


def _cell_glob(glob: str) -> str:
    """Return ``glob``; raises ``ValueError`` for one that can match no cell id whatever the names are."""
    for single in expand(glob):
        _check_shape(single)
    return glob


def _check_shape(glob: str) -> None:
    segments = glob.split("/")
    shape = "framework/model/path/runtime/target"
    if not all(segments):
        raise ValueError(f"expected {shape}, got {shown(glob)}, which has an empty part")
    if len(segments) > 5 or (len(segments) < 5 and "*" not in glob):
        hint = "" if len(segments) > 5 else " (fewer parts need a *, which may span several)"
        raise ValueError(f"expected 5 parts, {shape}, got {len(segments)} in {shown(glob)}{hint}")
    if len(segments) < 5 and ("[" in glob or glob.count("*") + glob.count("?") > MAX_WILD):
        raise ValueError(f"expected at most {MAX_WILD} * and ? and no [] in a glob of fewer than 5 parts")


def _dtype_glob(dtype: str) -> str:
    """Return ``dtype``; raises ``ValueError`` unless it names, or as a glob matches, a dtype of numpy."""
    if not any(fnmatchcase(known, dtype) for known in NUMPY_DTYPES):
        hint = nearest(dtype, NUMPY_DTYPES)
        raise ValueError(f"unknown dtype {shown(dtype)}; expected one of {_words((*NUMPY_DTYPES, '*'))}{hint}")
    return dtype


CellGlob = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9._+*?!\[\]{},/-]+$",
        max_length=512,
        description="a glob over cell ids, framework/model/path/runtime/target",
    ),
    AfterValidator(_cell_glob),
]


def _expression(text: str) -> str:
    """Return ``text``; raises ``ValueError`` unless it is a regular expression."""
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"{shown(text)} is no regular expression: {error}") from error
    return text


Expression = Annotated[
    str,
    Field(pattern=r"\S", max_length=256, description="a regular expression of Python's"),
    AfterValidator(_expression),
]


class _Part(Frozen):
    """Part of the file; its numbers are finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ToleranceRule(_Part):
    """Tolerances for the outputs of one dtype (a glob over numpy names) on paths of one kind and precision.

    An output within ``strict`` passes; one within ``loose`` only (``strict`` again if left out) is DEGRADED. With
    ``per: depth`` both are those of one layer, and grow with the square root of the model's ``depth``.
    """

    kind: Literal["native", "onnx", "*"]
    precision: Literal["*"] | Precision = "*"
    per: Literal["model", "depth"] = "model"
    dtype: Annotated[str, Field(description="a numpy dtype, or a glob over them"), AfterValidator(_dtype_glob)]
    strict: Tolerance
    loose: Tolerance | None = None

    @model_validator(mode="after")
    def _loose_is_looser(self) -> ToleranceRule:
        if self.loose is not None and (self.loose.atol < self.strict.atol or self.loose.rtol < self.strict.rtol):
            raise _at(("loose",), "expected at least the strict tolerance in both atol and rtol")
        return self

    def holds_for(self, kind: PathKind, dtype: str, precision: Precision) -> bool:
        """Return whether the rule is about outputs of numpy dtype ``dtype`` on a path of ``kind`` and ``precision``."""
        return self.kind in {"*", kind.value} and self.precision in {"*", precision} and fnmatchcase(dtype, self.dtype)

    def limits(self, depth: int) -> tuple[Tolerance, Tolerance]:
        """Return the strict and the loose tolerance for a model of so many layers."""
        growth = math.sqrt(depth) if self.per == "depth" else 1.0
        strict, loose = self.strict, self.loose or self.strict
        if growth == 1:
            return strict, loose
        return strict.times(growth), loose.times(growth)


class ModelSpec(_Part):
    """A model family: the data set that it reads, the view of its inputs, its labels, and the accuracy to reach.

    Without ``data`` the exporter brings its own inputs and weights, and there is nothing to measure an accuracy on.
    ``depth`` is how many layers lie one behind the other between input and output, one run again and again counted so
    often. ``tolerance`` rules come before those of the whole matrix.
    """

    data: Name | None = None
    view: Name | None = None
    target: Name | None = None
    accuracy: Share | None = None
    depth: Count = 1
    tolerance: tuple[ToleranceRule, ...] = ()

    @model_validator(mode="after")
    def _data_is_whole(self) -> ModelSpec:
        given = {key: getattr(self, key) for key in ("view", "target", "accuracy")}
        if self.data is None:
            found = [_Found((key,), f"{key} means nothing without data") for key in given if given[key] is not None]
        else:
            found = [
                _Found((), f"missing key {key!r}, which data needs") for key in ("view", "target") if not given[key]
            ]
        if found:
            raise _several(found)
        return self


def _usual_batches(values: Mapping[str, Any]) -> tuple[int, ...]:
    rows: int = values.get("rows", 16)
    return (rows, max(1, rows // 3))


class BundleSpec(_Part):
    """The reference samples of every bundle: how many rows, and the batch sizes at which they are run.

    Artifacts of fixed batch size run all rows in batches of ``static_batch``; those of dynamic batch size must take
    at least two different ones.
    """

    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 2016
    rows: Annotated[int, Field(ge=2, le=65536)] = 16
    static_batch: Count = 1
    dynamic_batches: tuple[Count, ...] = Field(default_factory=_usual_batches)

    @model_validator(mode="after")
    def _batches_fit(self) -> BundleSpec:
        limit = f"expected at most rows ({self.rows}), got "
        found = [
            _Found(("dynamic_batches", at), f"{limit}{size}")
            for at, size in enumerate(self.dynamic_batches)
            if size > self.rows
        ]
        if self.static_batch > self.rows:
            found.append(_Found(("static_batch",), f"{limit}{self.static_batch}"))
        if len(set(self.dynamic_batches)) < 2:
            found.append(_Found(("dynamic_batches",), "expected at least two different batch sizes"))
        if found:
            raise _several(found)
        return self


class Limits(_Part):
    """What one cell's run, one export and one environment may take: seconds, and megabytes of memory."""

    cell_seconds: Seconds = 60
    export_seconds: Seconds = 300
    prepare_seconds: Seconds = 1200
    memory_mb: Megabytes = 4096


class LatencySpec(_Part):
    """How cells that work are measured, and which of them where nobody says which.

    Each of ``groups`` groups has two blocks of the candidate and two of the baseline, each in a fresh worker, with up
    to ``samples`` samples in ``seconds`` for each batch; ``threads`` are those of the runtime, 0 for all processors.
    ``baseline`` is the runtime that others are compared with, where it has the model; else it is the framework's own.
    """

    cells: tuple[CellGlob, ...] = ("*",)
    groups: Annotated[int, Field(ge=2, le=100)] = 5
    samples: Annotated[int, Field(ge=1, le=100_000)] = 70
    seconds: Annotated[float, Field(gt=0, le=600)] = 1
    threads: Annotated[tuple[Annotated[int, Field(ge=0, le=1024)], ...], Field(min_length=1)] = (1, 0)
    baseline: Name = "onnxruntime"


class PrecisionSpec(_Part):
    """Lower precisions: which are made of artifacts in single precision, and how integer ones are made and judged.

    ``calibration`` is how many training rows an ``int8-static`` artifact is calibrated on; ``accuracy_drop`` how much
    of the held-out accuracy an integer artifact may lose.
    """

    variants: tuple[Precision, ...] = ()
    calibration: Count = 200
    accuracy_drop: Share = 0.02


class Expectation(_Part):
    """A known failure: these cells are expected to FAIL at this stage, for this reason.

    ``finding`` names a page of ``docs/findings/`` that reduces it to a few lines. ``rate`` is for cells that flip: the
    share of attempts that were seen to fail. Where such a cell passes, that is no reason to remove the entry.

    ``says`` is for a cause of which nobody can list the cells: it is looked for in the reason of a failure, and where
    it is not found the entry is not about this cell. It foretells nothing: that a cell passes is no surprise.

    With ``outcome: ERROR`` it is a known fault of what stands between us and the target (an emulator): the cells may
    end in ERROR at this stage without turning the run red. They stay ERROR, for of the target it says nothing; and
    where the fault is not there (another version of the emulator) they are what they are.
    """

    cells: CellGlob
    stage: Stage
    reason: Text
    link: Link | None = None
    finding: Name | None = None
    rate: Annotated[float, Field(gt=0, lt=1, description="a share between 0 and 1")] | None = None
    says: Expression | None = None
    outcome: Literal["FAIL", "ERROR"] = "FAIL"

    def covers(self, cell: CellId, reason: str | None = None) -> bool:
        """Return whether this entry is about ``cell``, which failed for ``reason`` (None: it is not known to have).

        Upper and lower case differ, and ``*`` also spans ``/``.
        """
        return cell in Globs([self.cells]) and self.explains(reason)

    def explains(self, reason: str | None) -> bool:
        """Return whether the entry may be about a failure with that ``reason``, or about none (None)."""
        return self.says is None or (reason is not None and re.search(self.says, reason) is not None)


class Exclusion(_Part):
    """Cells that are not tried on purpose, and why; they become SKIP."""

    cells: CellGlob
    reason: Text


class Scope(_Part):
    """Which cells belong to the matrix on targets that ``targets`` (a glob) means; others exist, for who asks for them.

    A cell outside of every scope of its target is planned only if the target is this machine itself, or if a glob of
    the selection names the target.
    """

    targets: Annotated[
        str, Field(pattern=r"^[A-Za-z0-9._+*?!\[\]{},-]+$", max_length=256, description="a glob over targets")
    ]
    cells: Annotated[tuple[CellGlob, ...], Field(min_length=1)]


class OptionSpec(Frozen):
    """What a kind of target takes as one of its options, in the words of JSON Schema.

    ``description`` says in a message what was expected, where the type alone would not.
    """

    type: Literal["string", "integer", "boolean"] = "string"
    required: bool = False
    pattern: str | None = None
    minimum: int | None = None
    maximum: int | None = None
    description: str | None = None

    def fits(self, value: object) -> bool:
        """Return whether ``value`` is what is asked for; the pattern is that of the whole text."""
        match self.type:
            case "string":
                return isinstance(value, str) and (self.pattern is None or bool(re.fullmatch(self.pattern, value)))
            case "integer":
                if not isinstance(value, int) or isinstance(value, bool):
                    return False
                low, high = (value if limit is None else limit for limit in (self.minimum, self.maximum))
                return low <= value <= high
            case "boolean":
                return isinstance(value, bool)


def _plain_option(value: object) -> object:
    if not isinstance(value, str | int):
        raise _at((), f"expected some text, a whole number, true or false, got {shown(value)}")
    return value


_Option = Annotated[
    str | int | bool, PlainValidator(_plain_option), WithJsonSchema({"type": ["string", "integer", "boolean"]})
]
#: Other names of processors, by which their own systems call them.
_PROCESSORS = {"aarch64": "arm64", "amd64": "x86_64", "x64": "x86_64", "armv7l": "armhf", "armv8l": "armhf"}
#: What is not as most processors have it, and easily left out.
_PECULIAR = {"armhf": ("bits", 32), "armv6l": ("bits", 32), "i686": ("bits", 32), "s390x": ("endian", "big")}


class TargetDefinition(_Part):
    """A target that the suite makes of a kind of target, such as a board of one's own behind ``ssh``.

    ``options`` is what the kind asks for; ``docs/adding-a-target.md`` lists that of each.
    """

    name: Name
    kind: Name
    platform: PlatformSpec
    options: dict[Name, _Option] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _platform_is_in_our_words(self) -> TargetDefinition:
        arch, libc = self.platform.arch, self.platform.libc
        found = []
        if arch in _PROCESSORS:
            found.append(_Found(("platform", "arch"), f"{arch} is called {_PROCESSORS[arch]} here"))
        key, value = _PECULIAR.get(arch, ("arch", arch))
        if getattr(self.platform, key) != value:
            found.append(_Found(("platform", key), f"{arch} needs {key}: {value}"))
        libcs = ("glibc", "musl") if self.platform.os == "linux" else ()
        if libc and libc not in libcs:
            found.append(_Found(("platform", "libc"), f"expected {' or '.join(libcs) or 'none'}, got {shown(libc)}"))
        if found:
            raise _several(found)
        return self


class _Weights(_Part):
    @model_validator(mode="after")
    def _sum_is_one(self) -> _Weights:
        total = math.fsum(self.model_dump().values())
        if abs(total - 1) > 1e-9:
            raise _at((), f"expected weights that sum to 1, got {total:.6g}")
        return self


class DeploymentWeights(_Weights):
    """What each part counts in the deployment rating; all sum to 1."""

    interpreter_free: Share = 0.3
    reach: Share = 0.4
    strictness: Share = 0.2
    latency: Share = 0.1


class CrossPlatformWeights(_Weights):
    """What each part counts in the cross-platform rating; both sum to 1."""

    install: Share = 0.5
    run: Share = 0.5


class SurveyEntry(_Part):
    """The 2016 survey's stars for ``toolkit``; ``successor`` where the framework is not that toolkit but follows it."""

    toolkit: Text
    deployment: HalfStars
    cross_platform: HalfStars | None = None
    successor: bool = False


_PLATFORMS: dict[str, tuple[str, ...]] = {
    "linux": ("linux-*",),
    "windows": ("windows-*",),
    "macos": ("macos-*",),
    "arm": ("*-arm64", "*-armhf"),
}


def _second(value: object) -> object:
    """Return ``value``; raises ``ValueError`` for all but 2, and says of 1 what has become of it."""
    if type(value) is not int or value != 2:
        old = ": version 1 did not measure latency and interpreters; take over the weights as they are, or new ones"
        raise ValueError(f"expected 2, got {shown(value)}{old if value == 1 and type(value) is int else ''}")
    return value


class RatingSpec(_Part):
    """How records become half-stars. ``platforms`` says which targets count for which platform of the survey.

    ``survey`` is by framework as it is called here, and may name frameworks that the suite does not have.
    """

    version: Annotated[Literal[2], BeforeValidator(_second)] = 2
    deployment: DeploymentWeights = DeploymentWeights()
    cross_platform: CrossPlatformWeights = CrossPlatformWeights()
    platforms: dict[Name, Annotated[tuple[NameGlob, ...], Field(min_length=1)]] = Field(
        default=_PLATFORMS, min_length=1
    )
    survey: dict[Name, SurveyEntry] = Field(default_factory=dict)


@dataclass(frozen=True)
class _Source:
    """Where a spec was read: the file, and the line of every key and list entry in it."""

    file: str = "matrix.yaml"
    lines: Mapping[KeyPath, int] = field(default_factory=dict)

    def problem(self, path: KeyPath, text: str) -> Problem:
        return Problem(_line(self.lines, path), path, text)


def _rule(dtype: str, strict: float, loose: float) -> ToleranceRule:
    near, far = Tolerance(atol=10 * strict, rtol=strict), Tolerance(atol=loose, rtol=loose)
    return ToleranceRule(kind="*", dtype=dtype, strict=near, loose=far)


def _rule_of_precision(precision: Precision, rtol: float) -> ToleranceRule:
    strict = Tolerance(atol=10 * rtol, rtol=rtol)
    loose = Tolerance(atol=30 * rtol, rtol=3 * rtol)
    return ToleranceRule(kind="*", precision=precision, dtype="float32", per="depth", strict=strict, loose=loose)


#: What holds where no rule of the file does; ``matrix.yaml`` says the same, and where the numbers come from.
DEFAULT_TOLERANCES = (
    _rule_of_precision(Precision.FP16, 2.5e-3),
    _rule_of_precision(Precision.BF16, 2e-2),
    _rule("float64", 1e-12, 1e-6),
    _rule("float32", 1e-5, 1e-2),
    _rule("float16", 1e-2, 1e-1),
    ToleranceRule(kind="*", dtype="*", strict=Tolerance(atol=0, rtol=0)),
)

_Globs = Annotated[tuple[NameGlob, ...], Field(min_length=1)]


def _sort_of_target(entry: object) -> str:
    return "definition" if isinstance(entry, Mapping | TargetDefinition) else "glob"


_Target = Annotated[
    Annotated[NameGlob, Tag("glob")] | Annotated[TargetDefinition, Tag("definition")], Discriminator(_sort_of_target)
]


class MatrixSpec(_Part):
    """All of ``matrix.yaml``. ``frameworks``, ``runtimes`` and ``targets`` left out mean every plug-in found."""

    version: Version
    models: Annotated[dict[Name, ModelSpec], Field(min_length=1)]
    frameworks: _Globs | None = None
    runtimes: _Globs | None = None
    targets: Annotated[tuple[_Target, ...], Field(min_length=1)] | None = None
    scope: tuple[Scope, ...] = ()
    bundle: BundleSpec = Field(default_factory=BundleSpec)
    limits: Limits = Limits()
    latency: LatencySpec = LatencySpec()
    precision: PrecisionSpec = PrecisionSpec()
    pairwise: tuple[CellGlob, ...] = ()
    tolerances: tuple[ToleranceRule, ...] = ()
    referees: dict[Name, Name] = Field(default={"onnx": "onnx-reference"})
    expect: tuple[Expectation, ...] = ()
    exclude: tuple[Exclusion, ...] = ()
    ratings: RatingSpec = RatingSpec()
    _source: _Source = PrivateAttr(default_factory=_Source)

    @property
    def target_globs(self) -> tuple[str, ...] | None:
        """The globs over targets to take, those defined here included; None for all that there are."""
        named = self.targets or ()
        globs = tuple(item for item in named if isinstance(item, str))
        return (*globs, *(item.name for item in self.definitions)) if globs else None

    def line(self, *path: str | int) -> int:
        """Return the line of what stands under a key path of the file, or of the nearest thing around it.

        0 where the spec was read from no file: ``line("expect", 3)`` is where the fourth expected failure begins.
        """
        return _line(self._source.lines, path)

    @property
    def definitions(self) -> tuple[TargetDefinition, ...]:
        """The targets that are defined here."""
        return tuple(item for item in self.targets or () if isinstance(item, TargetDefinition))

    def tolerance(
        self, kind: PathKind, dtype: str, model: str, precision: Precision = Precision.FP32
    ) -> tuple[Tolerance, Tolerance]:
        """Return the strict and the loose tolerance for an output of numpy dtype ``dtype`` on a path of ``kind``.

        The first rule that holds decides: the model's own, then the file's, then ``DEFAULT_TOLERANCES``, which hold
        for every dtype. Raises ``KeyError`` for a model that the matrix does not have.
        """
        rules = (*self.models[model].tolerance, *self.tolerances, *DEFAULT_TOLERANCES)
        rule = next(rule for rule in rules if rule.holds_for(kind, dtype, precision))
        return rule.limits(self.models[model].depth)


@dataclass(frozen=True)
class Known:
    """The names of the plug-ins that were discovered, each sort with its variants.

    ``data`` are the data sets, ``kinds`` the kinds of target that ``targets`` may make targets of, with the options of
    each, and ``files`` the targets that are there without that.
    """

    frameworks: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    runtimes: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    kinds: Mapping[str, Mapping[str, OptionSpec]] = field(default_factory=dict)
    files: tuple[str, ...] = ()


# --- From file to spec ----------------------------------------------------------------------------------------------


def load_spec(path: Path) -> MatrixSpec:
    """Return the suite described by the file at ``path``.

    Raises ``SpecError`` with every problem of the file, in the order of its lines; the names of plug-ins in it are
    left to ``check_names``.
    """
    try:
        plain, lines, problems, gaps = compose(read_text(path))
    except Unreadable as error:
        raise SpecError(str(path), [str(problem) for problem in error.problems]) from None
    spec = None
    try:
        # By way of JSON, in which a list is as good as a tuple and a word as good as an enumeration's member.
        spec = MatrixSpec.model_validate_json(json.dumps(plain), strict=True)
    except ValidationError as error:
        told = _explain(error.errors(include_url=False), lines)
        # That there is nothing where something was refused is no second problem.
        problems += [problem for problem in told if problem.path not in gaps]
    if spec is None or problems:
        raise SpecError(str(path), _lines_of(problems))
    spec._source = _Source(str(path), lines)
    return spec


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of ``matrix.yaml``."""
    schema = MatrixSpec.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "matrix.yaml of portmatrix"}


def check_names(spec: MatrixSpec, known: Known) -> None:
    """Raise ``SpecError`` for every name and glob of ``spec`` that means none of its models nor of the ``known`` names.

    A glob over targets in ``ratings.platforms`` may match nothing: a suite need not reach every platform. So may the
    survey's frameworks, and the referees if the file leaves them to the default.
    """
    problems = [*_check_lists(spec, known), *_check_cells(spec, known)]
    if problems:
        raise SpecError(spec._source.file, _lines_of(problems))


def _lines_of(problems: Iterable[Problem]) -> list[str]:
    # By line only: problems on one line stay in the order of the file's keys.
    return [str(problem) for problem in sorted(dict.fromkeys(problems), key=lambda problem: problem.line)]


def _line(lines: Mapping[KeyPath, int], path: KeyPath) -> int:
    """Return the line of ``path``, or of the nearest thing around it that has one; 0 if the spec is from no file."""
    return next((lines[path[:end]] for end in range(len(path), -1, -1) if path[:end] in lines), 0)


# --- Names ----------------------------------------------------------------------------------------------------------


def _check_lists(spec: MatrixSpec, known: Known) -> Iterator[Problem]:
    """Yield the unknown names in lists and mappings of names."""
    problem = spec._source.problem
    for key, word, legal in (
        ("frameworks", "framework", known.frameworks),
        ("runtimes", "runtime", known.runtimes),
        ("targets", "target", known.targets),
    ):
        for at, glob in enumerate(getattr(spec, key) or ()):
            if isinstance(glob, str) and (text := _unknown(word, glob, legal)):
                yield problem((key, at), text)
    yield from _check_definitions(spec, known)
    for name, model in spec.models.items():
        if model.data is not None and (text := _unknown("data set", model.data, known.data)):
            yield problem(("models", name, "data"), text)
    yield from _check_referees(spec, known)


def _check_definitions(spec: MatrixSpec, known: Known) -> Iterator[Problem]:
    """Yield what is wrong with the targets that are made of kinds: names taken, unknown kinds, and wrong options."""
    problem = spec._source.problem
    taken = set(known.files)
    for at, entry in enumerate(spec.targets or ()):
        if not isinstance(entry, TargetDefinition):
            continue
        if entry.name in taken:
            yield problem(
                ("targets", at, "name"), f"there is another target {entry.name!r}; give this one its own name"
            )
        taken.add(entry.name)
        if text := _unknown("kind of target", entry.kind, tuple(known.kinds)):
            yield problem(("targets", at, "kind"), text)
            continue
        for key, text in _wrong_options(entry, known.kinds[entry.kind]):
            yield problem(("targets", at, "options", *key), text)


def _wrong_options(entry: TargetDefinition, known: Mapping[str, OptionSpec]) -> Iterator[tuple[KeyPath, str]]:
    for name, wanted in known.items():
        if wanted.required and name not in entry.options:
            yield (), f"missing option {name!r}; {entry.kind} takes {_words(known)}"
    for name, value in entry.options.items():
        if name not in known:
            yield (name,), f"unknown option {name!r}; {entry.kind} takes {_words(known)}{nearest(name, tuple(known))}"
        elif not known[name].fits(value):
            yield (name,), _mismatch(known[name].model_dump(exclude_none=True), value)


def _check_referees(spec: MatrixSpec, known: Known) -> Iterator[Problem]:
    """Yield the unknown names among referees and platforms, as far as the file names any itself."""
    problem = spec._source.problem
    if "referees" in spec.model_fields_set:
        for artifact, runtime in spec.referees.items():
            if text := _unknown("runtime", runtime, known.runtimes):
                yield problem(("referees", artifact), text)
    if "platforms" in spec.ratings.model_fields_set:
        for platform, globs in spec.ratings.platforms.items():
            for at, glob in enumerate(globs):
                if not _is_glob(glob) and (text := _unknown("target", glob, known.targets)):
                    yield problem(("ratings", "platforms", platform, at), text)


def _check_cells(spec: MatrixSpec, known: Known) -> Iterator[Problem]:
    """Yield the globs over cells that can match none."""
    names = (
        ("framework", known.frameworks),
        ("model", tuple(spec.models)),
        ("path", known.paths),
        ("runtime", known.runtimes),
        ("target", known.targets),
    )
    for key in ("expect", "exclude"):
        for at, entry in enumerate(getattr(spec, key)):
            yield from _check_glob(spec, (key, at, "cells"), entry.cells, names)
    for at, scope in enumerate(spec.scope):
        for number, glob in enumerate(scope.cells):
            yield from _check_glob(spec, ("scope", at, "cells", number), glob, names)
        for glob in expand(scope.targets):
            if text := _unknown("target", glob, known.targets):
                yield spec._source.problem(("scope", at, "targets"), text)


def _check_glob(
    spec: MatrixSpec, path: KeyPath, cells: str, names: Sequence[tuple[str, tuple[str, ...]]]
) -> Iterator[Problem]:
    for text in dict.fromkeys(text for glob in expand(cells) for text in _dead_parts(glob, names)):
        yield spec._source.problem(path, text)


def _dead_parts(glob: str, names: Sequence[tuple[str, tuple[str, ...]]]) -> Iterator[str]:
    """Yield why ``glob`` matches no cell made of ``names`` (five sorts of them), or nothing if it matches one."""
    segments = glob.split("/")
    if len(segments) == 5:
        for segment, (word, legal) in zip(segments, names, strict=True):
            if text := _unknown(word, segment, legal):
                yield f"{text} in {glob!r}"
        return
    ways = (way.split("/") for way in _spelled_out(glob))
    if any(all(_known(part, legal) for part, (_, legal) in zip(way, names, strict=True)) for way in ways):
        return
    every = tuple(dict.fromkeys(name for _, legal in names for name in legal))
    strange = [segment for segment in segments if not _known(segment, every) and "*" not in segment]
    for segment in strange:
        yield f"unknown name {segment!r} in {glob!r}{nearest(segment, every)}"
    if not strange:
        yield f"{glob!r} matches no cell that these models and plug-ins could make"


def _spelled_out(glob: str) -> Iterator[str]:
    """Yield the globs of five parts that together mean what one of fewer does, in which ``*`` and ``?`` match ``/``."""
    pieces = re.split(r"(\*+|\?)", glob)
    wild = range(1, len(pieces), 2)
    for spans in combinations_with_replacement(wild, 4 - glob.count("/")):
        spelled = list(pieces)
        for at in wild:
            slashes = spans.count(at)
            if pieces[at] == "?" and slashes > 1:
                break
            spelled[at] = "*" + "/*" * slashes if pieces[at] != "?" else "/" if slashes else "?"
        else:
            yield "".join(spelled)


def _is_glob(text: str) -> bool:
    return any(character in text for character in "*?[")


def _known(glob: str, legal: Sequence[str]) -> bool:
    return any(fnmatchcase(name, glob) for name in legal)


def _unknown(word: str, glob: str, legal: Sequence[str]) -> str:
    """Return what is wrong with a name or glob that means none of the ``legal`` names, or an empty string."""
    if glob == "*" or _known(glob, legal):
        return ""
    found = _words(legal) or "none was found"
    if _is_glob(glob):
        return f"{glob!r} matches no {word}; expected one of {found}"
    return f"unknown {word} {glob!r}; expected one of {found}{nearest(glob, legal)}"


def _words(words: Iterable[str]) -> str:
    return ", ".join(words)


# --- From pydantic's errors to ours ---------------------------------------------------------------------------------


class _Found(NamedTuple):
    """A problem found by a validator: its place below what is validated, and what is wrong."""

    path: KeyPath
    text: str


def _several(found: Sequence[_Found]) -> PydanticCustomError:
    """Return the error by which a validator reports all that it found, each at its own place."""
    return PydanticCustomError("found", "{text}", {"text": "; ".join(one.text for one in found), "found": tuple(found)})


def _at(path: KeyPath, text: str) -> PydanticCustomError:
    return _several([_Found(path, text)])


def _explain(errors: Iterable[ErrorDetails], lines: Mapping[KeyPath, int]) -> Iterator[Problem]:
    """Yield pydantic's findings in our words."""
    schema = MatrixSpec.model_json_schema()
    for error in errors:
        for path, text in _in_our_words(error, schema):
            yield Problem(_line(lines, path), path, text)


def _in_our_words(error: ErrorDetails, schema: Mapping[str, Any]) -> Sequence[_Found]:
    where, path, value = error["loc"], _untagged(error["loc"]), error["input"]
    text = ""
    match error["type"]:
        case "found":
            return [_Found((*path, *found.path), found.text) for found in error["ctx"]["found"]]
        case "default_factory_not_called":  # Another error, of what the default follows from, says all.
            return []
        case "value_error":
            text = str(error["ctx"]["error"])
        case "missing":
            path, text = path[:-1], f"missing key {path[-1]!r}"
        case "extra_forbidden":
            key, legal = str(path[-1]), tuple(_schema_at(schema, where[:-1]).get("properties", ()))
            text = f"unknown key {shown(key)}; expected one of {_words(legal)}{nearest(key, legal)}"
        case "too_short":
            text = "is empty; expected at least one entry"
        case _ if path[-1:] == ("[key]",):
            path, text = path[:-1], f"expected {_NAME_IS}, got {shown(value)}"
        case _:
            text = _mismatch(_schema_at(schema, where), value)
    return [_Found(path, text)]


def _untagged(path: KeyPath) -> KeyPath:
    """Return a place without the name of the variant that pydantic puts behind an entry of ``targets``."""
    tagged = len(path) > 2 and path[0] == "targets" and path[2] in {"glob", "definition"}
    return (*path[:2], *path[3:]) if tagged else path


def _mismatch(wanted: Mapping[str, Any], value: object) -> str:
    hint = ""
    if isinstance(value, str):
        hint = nearest(value, [str(word) for word in wanted.get("enum", ())])
    elif wanted.get("type") == "string" and not isinstance(value, list | dict):
        hint = "; if it is meant as text, write it in quotes"
    return f"expected {_expected(wanted)}, got {shown(value)}{hint}"


def _schema_at(schema: Mapping[str, Any], path: KeyPath) -> Mapping[str, Any]:
    """Return the part of a JSON Schema that is about ``path``; empty where there is none."""
    here: Any = schema
    for key in (None, *path):
        if "oneOf" in here:  # an entry of ``targets``: a glob, or a definition, as the key says
            here = next(one for one in here["oneOf"] if ("$ref" in one) == (key == "definition"))
        elif isinstance(key, int):
            here = here.get("items", {})
        elif key is not None:
            others: Any = here.get("additionalProperties") or next(iter(here.get("patternProperties", {}).values()), {})
            here = here.get("properties", {}).get(key, others)
        if "anyOf" in here:
            here = next(one for one in here["anyOf"] if one.get("type") != "null")
        if "$ref" in here:
            here = schema["$defs"][here["$ref"].rpartition("/")[2]]
    found: Mapping[str, Any] = here
    return found


_KINDS = {
    "object": "a mapping",
    "array": "a list",
    "string": "some text",
    "boolean": "true or false",
    "number": "a number",
    "integer": "a whole number",
}


def _expected(schema: Mapping[str, Any]) -> str:
    """Return in words what a part of the JSON Schema allows."""
    if "const" in schema:
        return str(schema["const"])
    if "enum" in schema:
        return f"one of {_words(map(str, schema['enum']))}"
    kind = str(schema.get("type"))
    if kind not in {"object", "array"} and "description" in schema:
        return str(schema["description"])
    low, high = schema.get("minimum"), schema.get("maximum")
    limits = f" from {low:g} to {high:g}" if low is not None and high is not None else ""
    if low is not None and high is None:
        limits = f" of at least {low:g}"
    elif "exclusiveMinimum" in schema:
        limits = f" above {schema['exclusiveMinimum']:g}"
    return _KINDS.get(kind, "something else") + limits
