"""The words of the project as types: cell, outcome, stage, reach, comparison, record.

Everything here is frozen data without behaviour that touches a disk, a clock or a process, so every other module may
import it.
"""

from __future__ import annotations

from enum import Enum
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION = 1
#: A coordinate that nobody can know: a runtime that does not load has no frameworks and no models.
UNKNOWN = "-"


class Outcome(str, Enum):
    """How an attempt at a cell ended. A closed list; ``docs/reading-the-table.md`` says what each one claims."""

    PASS = "PASS"
    DEGRADED = "DEGRADED"
    FAIL = "FAIL"
    ERROR = "ERROR"
    XFAIL = "XFAIL"
    XPASS = "XPASS"
    SKIP = "SKIP"
    NOT_RUN = "NOT_RUN"


#: Outcomes that say something about the model and the runtime, rather than about us.
CONCLUSIVE = frozenset({Outcome.PASS, Outcome.DEGRADED, Outcome.FAIL, Outcome.XFAIL, Outcome.XPASS})
#: Outcomes that count as "the model works there".
WORKING = frozenset({Outcome.PASS, Outcome.DEGRADED, Outcome.XPASS})
#: Outcomes that turn a run red (exit 1). NOT_RUN is not among them: it is reported, never taken for a failure.
UNEXPECTED = frozenset({Outcome.FAIL, Outcome.ERROR, Outcome.XPASS})


class Stage(str, Enum):
    """The step of a cell's way in which it ended; in the order in which they happen."""

    PLAN = "PLAN"
    PREPARE = "PREPARE"
    TRAIN = "TRAIN"
    EXPORT = "EXPORT"
    LOAD = "LOAD"
    RUN = "RUN"
    COMPARE = "COMPARE"
    MEASURE = "MEASURE"


class Reach(str, Enum):
    """How a target is reached from this machine, best first."""

    NATIVE = "native"
    CONTAINER = "container"
    EMULATED = "emulated"
    REMOTE = "remote"
    STATIC = "static"


class PathKind(str, Enum):
    """Whether a model leaves its framework in the framework's own deployable format or as ONNX."""

    NATIVE = "native"
    ONNX = "onnx"


class Batch(str, Enum):
    """Whether an artifact's batch dimension is a fixed number or symbolic."""

    STATIC = "static"
    DYNAMIC = "dynamic"


class Precision(str, Enum):
    """What an artifact computes in. Its inputs and outputs are the framework's own in all of them.

    ``int8-dynamic`` has integer weights and finds the ranges of what flows between layers as it runs, ``int8-static``
    was told them after a calibration.
    """

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8_DYNAMIC = "int8-dynamic"
    INT8_STATIC = "int8-static"

    @property
    def is_integer(self) -> bool:
        """Whether it is judged by its accuracy, since one rounding to 256 steps moves an output by any amount."""
        return self in (Precision.INT8_DYNAMIC, Precision.INT8_STATIC)


class CellId(NamedTuple):
    """The five coordinates of a cell; ``str()`` gives its id ``framework/model/path/runtime/target``."""

    framework: str
    model: str
    path: str
    runtime: str
    target: str

    def __str__(self) -> str:
        return "/".join(self)

    @classmethod
    def parse(cls, text: str) -> CellId:
        """Return the cell named by ``text``; raises ``ValueError`` unless it has exactly five non-empty parts."""
        parts = text.split("/")
        if len(parts) != 5 or not all(parts):
            raise ValueError(f"{text!r} is no cell id; expected framework/model/path/runtime/target")
        return cls(*parts)


class Frozen(BaseModel):
    """Base of all parsed data: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PlatformSpec(Frozen):
    """An operating system on a processor: what decides whether a binary runs there."""

    os: Literal["linux", "macos", "windows", "browser", "node"]
    arch: str
    libc: str = ""
    endian: Literal["little", "big"] = "little"
    bits: Literal[32, 64] = 64


class TensorSpec(Frozen):
    """Name, numpy dtype name and shape of one input or output; ``None`` stands for the symbolic batch dimension."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


class Tolerance(Frozen):
    """Elementwise closeness ``|out - ref| <= atol + rtol * |ref|``, the rule of ``numpy.isclose``."""

    atol: float = Field(ge=0)
    rtol: float = Field(ge=0)

    def times(self, factor: float) -> Tolerance:
        """Return the tolerance so many times as wide."""
        return Tolerance(atol=factor * self.atol, rtol=factor * self.rtol)


class Comparison(Frozen):
    """One output of one sample set, measured against the framework's own output.

    ``shape`` is that of the stacked array: calls x batch x the tensor's own axes.

    ``max_abs`` and ``max_rel`` are over all elements where both are finite; ``snr_db`` is ``10 log10(sum ref^2 / sum
    (out - ref)^2)`` (None when there is no noise); ``top1`` the share of rows whose argmax over the last axis agrees;
    ``needed`` the smallest factor on the strict tolerance that would have passed (at most 1 means strict pass, None
    means no tolerance would do: wrong dtype, wrong shape, or a NaN or infinity of its own).
    """

    output: str
    batch: int
    dtype: str
    shape: tuple[int, ...]
    elements: int
    max_abs: float | None
    max_rel: float | None
    mismatched: float | None
    snr_db: float | None
    cosine: float | None
    top1: float | None
    needed: float | None
    tolerance: Tolerance
    verdict: Literal["strict", "loose", "fail"]
    why: str = ""


class HeldOutAccuracy(Frozen):
    """How an artifact of integers fares on ``rows`` held-out rows: its own accuracy, beside the framework's own in
    single precision, of which it may lose what is ``allowed``.
    """

    accuracy: float
    framework: float
    rows: int
    allowed: float


class Blame(Frozen):
    """Who is at fault for a failed comparison, by a third party's outputs for the same artifact."""

    party: Literal["exporter", "runtime", "undecided"]
    referee: str
    why: str


class Lookup(Frozen):
    """What a static verdict rests on: nothing was run, this was looked up.

    ``asked`` is what the index was asked for and ``found`` the files that it named; ``floor`` the oldest system that
    their binaries run on (``glibc 2.28``, ``macOS 13.4``), ``date`` the day of the answer (a cached one keeps its day).
    ``missing`` is what of it is not published for that platform, and ``newest`` the newest versions that are.
    ``lacking`` are the operators of the model that the runtime's build has no kernel for; ``unchecked`` says which of
    these questions could not be answered, and why.
    """

    possible: bool
    asked: str
    found: tuple[str, ...] = ()
    floor: str = ""
    date: str
    missing: tuple[str, ...] = ()
    newest: tuple[str, ...] = ()
    lacking: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()


class Timing(Frozen):
    """One way of calling a model, timed against the baseline runtime with the same inputs. Times are in seconds.

    A sample is the mean time of ``inner`` calls in a row. ``samples`` counts those of all blocks; a quantile is there
    only where there are enough of them (``latency.MINIMUM``). ``ratio`` is the candidate's time over the baseline's,
    ``low`` and ``high`` its 95% interval over ``groups`` groups of blocks; all three are None without a baseline.
    """

    batch: int
    threads: int
    inner: int
    samples: int
    p50: float | None
    p90: float | None
    p99: float | None
    baseline_p50: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    groups: int = 0


class Latency(Frozen):
    """What the MEASURE stage found of a cell that works: seconds, MiB, bytes, and the machine it was found on.

    ``baseline`` names the cell that ``ratio`` compares with (empty: none could run the model), ``baseline_environment``
    what ran it, as a record's ``environment`` does for the cell itself. ``blocks`` has, for each timing and each group
    of blocks, the logarithm of the group's ratio: what an interval, or a later comparison of two sessions, is made
    from. ``anchors`` are four fixed loads before and after, in seconds; a drift of more than a tenth makes the
    measurement ``unstable``. ``peak_mb`` is the worker's peak memory above what it had when idle, ``first_seconds`` the
    first call. ``host`` says what the processor was and did; ``emulated`` times are compared with no others.
    """

    baseline: str
    baseline_environment: dict[str, str] = Field(default_factory=dict)
    session: str
    timings: tuple[Timing, ...]
    blocks: tuple[tuple[float, ...], ...] = ()
    load_seconds: float
    first_seconds: float
    peak_mb: float | None = None
    artifact_bytes: int
    installed_bytes: int | None = None
    anchors: dict[str, tuple[float, float]] = Field(default_factory=dict)
    unstable: bool = False
    emulated: bool = False
    host: dict[str, str] = Field(default_factory=dict)


class Record(Frozen):
    """One attempt at one cell. Times are UTC in ISO 8601, durations in seconds.

    A ``reused`` record repeats an earlier one of which nothing has changed since; ``measured`` says when that was made.

    ``expected`` is the reason given in ``matrix.yaml`` where the outcome is XFAIL or XPASS. ``environment`` names what
    ran (interpreter, package versions, processor); ``facts`` what the exporter and the worker reported of themselves
    (opset written, how the network was closed). ``held_out`` is there where the artifact is judged by its accuracy.
    ``lookup`` is there where the target was reached statically: then
    nothing was run, and the outcome is FAIL where it cannot run there, NOT_RUN where it might. ``latency`` is there
    where the cell works and was measured.
    """

    schema_version: Literal[1] = 1
    cell: str
    outcome: Outcome
    stage: Stage | None = None
    reason: str = ""
    expected: str | None = None
    reach: Reach | None = None
    archived: bool = False
    reused: bool = False
    measured: str | None = None
    run: str
    started: str
    seconds: dict[str, float] = Field(default_factory=dict)
    accuracy: float | None = None
    comparisons: tuple[Comparison, ...] = ()
    held_out: HeldOutAccuracy | None = None
    blame: Blame | None = None
    lookup: Lookup | None = None
    latency: Latency | None = None
    bundle: str | None = None
    recipe: str | None = None
    environment: dict[str, str] = Field(default_factory=dict)
    facts: dict[str, str | int | float | bool] = Field(default_factory=dict)
    log_tail: str = ""
    engine: str

    @property
    def id(self) -> CellId:
        """The record's cell as its five coordinates."""
        return CellId.parse(self.cell)

    @property
    def arrived(self) -> bool:
        """Whether its artifact came as far as the runtime, whatever became of it there."""
        untried = self.outcome in (Outcome.NOT_RUN, Outcome.SKIP)
        return not untried and self.stage in (None, Stage.LOAD, Stage.RUN, Stage.COMPARE)

    @property
    def unexpected(self) -> bool:
        """Whether it turns a run red: an outcome of ``UNEXPECTED``, unless it is an ERROR that was foretold."""
        return self.outcome in UNEXPECTED and not (self.outcome is Outcome.ERROR and self.expected is not None)
