"""What changed between two sets of records, cell by cell: outcome, accuracy, numbers, size and latency.

From data to data. The labels and the rules behind them stand in ``docs/comparing-runs.md``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from functools import cache
from statistics import median
from typing import Literal, NamedTuple

import numpy as np

from portmatrix.errors import NothingSelected
from portmatrix.latency import student
from portmatrix.types import CONCLUSIVE, WORKING, CellId, Comparison, Frozen, Latency, Outcome, Record, Stage, Timing

#: A latency, or a size, has changed when it did by more than this share.
CHANGE = 0.05
#: The same on the scale of logarithms, on which slower by a factor and faster by it are equally far from nothing.
LOG_CHANGE = math.log1p(CHANGE)
#: By how many dB noise must grow to be called drift: a factor of two in amplitude.
NOISE_DB = 6.0
#: By how much the accuracy on held-out samples must change to be called drift.
ACCURACY = 0.01
#: Groups of blocks that each side of a latency interval needs.
GROUPS = 3
#: One of so many values is set aside at either end before means are compared.
TRIMMED = 8
#: Measured cells of one session among which a move of most is no coincidence.
CROWD = 10
#: Sessions in which a change of latency must show itself.
REPEATS = 2

Verdict = Literal["slower", "faster", "flat", "unclear", "none"]


class Standing(str, Enum):
    """What became of a cell's outcome. ``WEAKER`` is from PASS to DEGRADED: right answers, by a detour."""

    REGRESSION = "regression"
    WEAKER = "weaker"
    LOST = "lost"
    GAINED = "gained"
    PROGRESS = "progress"
    SAME = "same"
    UNKNOWN = "no evidence"


class Label(str, Enum):
    """What became of a cell's latency, in the order in which that of its worst timing stands for the cell."""

    REGRESSION = "regression"
    SUSPICIOUS = "suspicious"
    IMPROVEMENT = "improvement"
    NO_CHANGE = "no change"
    INSUFFICIENT = "insufficient data"


class Interval(NamedTuple):
    """A difference of two means, and its 95% interval."""

    difference: float
    low: float
    high: float


class Ended(Frozen):
    """How the attempt at a cell that stands ended on one side."""

    outcome: Outcome
    stage: Stage | None
    reason: str
    expected: str | None


class OutputDrift(Frozen):
    """One output of one batch size on both sides; ``label`` is empty where it neither crossed a verdict nor fell.

    ``fell_db`` is by how much its noise grew, in dB: the loss of SNR, or where there is none the growth of the largest
    absolute difference. It is None where noise came up that was not there at all, or cannot be told.
    """

    output: str
    batch: int
    snr_db: tuple[float | None, float | None]
    max_abs: tuple[float | None, float | None]
    verdict: tuple[str, str]
    fell_db: float | None
    label: Literal["", "worse verdict", "better verdict", "noisier"]


class SizeChange(Frozen):
    """Bytes of the artifact, or of the runtime's environment, on both sides."""

    what: Literal["artifact", "installed"]
    before: int
    after: int

    @property
    def share(self) -> float:
        """By which share of the former size it grew."""
        return self.after / self.before - 1 if self.before else math.inf

    @property
    def notable(self) -> bool:
        """Whether it changed by more than ``CHANGE``."""
        return abs(self.after - self.before) > CHANGE * self.before


class Reading(Frozen):
    """One way of calling in one session of the second side, against all that the first side has to compare it with.

    ``ratio`` is the latency after over the latency before, each relative to the same baseline, so that the machine
    cancels; ``low`` and ``high`` are its 95% interval. ``raw`` and ``baseline_raw`` are the same of the plain p50 of
    the cell and of the baseline, in which the machine does not cancel. Without a verdict (``none``) ``why`` says why.
    """

    session: str
    batch: int
    threads: int
    baseline: str
    verdict: Verdict
    why: str = ""
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    raw: float | None = None
    baseline_raw: float | None = None


class TimingChange(Frozen):
    """What became of one way of calling, and the readings that say so."""

    batch: int
    threads: int
    label: Label
    why: str
    readings: tuple[Reading, ...]


class CellChange(Frozen):
    """All that changed of one cell; ``latency`` is None where neither side measured it."""

    cell: str
    before: Ended | None
    after: Ended | None
    outcome: Standing
    accuracy: tuple[float, float] | None = None
    outputs: tuple[OutputDrift, ...] = ()
    sizes: tuple[SizeChange, ...] = ()
    latency: Label | None = None
    timings: tuple[TimingChange, ...] = ()

    @property
    def regressed(self) -> bool:
        """Whether its outcome or its latency is a regression."""
        return self.outcome is Standing.REGRESSION or self.latency is Label.REGRESSION

    @property
    def accuracy_drifted(self) -> bool:
        """Whether the accuracy on held-out samples changed by more than ``ACCURACY``."""
        return self.accuracy is not None and abs(self.accuracy[1] - self.accuracy[0]) > ACCURACY


class HostBlame(Frozen):
    """A session in which most cells moved together: not they changed, but what they have in common."""

    session: str
    why: str


class Changes(Frozen):
    """Every cell of either side, in the order of ids, and the sessions that the host is blamed for."""

    cells: tuple[CellChange, ...]
    host: tuple[HostBlame, ...] = ()

    @property
    def regressed(self) -> bool:
        """Whether any cell regressed."""
        return any(cell.regressed for cell in self.cells)


def compare(before: Iterable[Record], after: Iterable[Record]) -> Changes:
    """Return what changed from the one side to the other.

    Of each cell the attempt that started last stands for its outcome and numbers; for latency each session counts.
    Raises ``NothingSelected`` if the two sides have no cell in common.
    """
    first, second = _Side(before), _Side(after)
    common = first.standing.keys() & second.standing.keys()
    if not common:
        raise NothingSelected(
            f"nothing to compare: of {len(first.standing)} cells before and {len(second.standing)} after none is in"
            " both; name two records files of the same suite"
        )
    readings = {cell: _readings(first.sessions.get(cell, []), second.sessions.get(cell, [])) for cell in common}
    host = blame_host(readings)
    blamed = {item.session: item.why for item in host}
    cells = sorted(first.standing.keys() | second.standing.keys())
    return Changes(
        cells=tuple(_change(cell, first, second, readings.get(cell, []), blamed) for cell in cells), host=host
    )


class _Session(NamedTuple):
    """One measurement of a cell."""

    name: str
    started: str
    latency: Latency
    cpu: str
    own: bool


class _Side:
    """The records of one side by cell: the one that stands, and the measurement of each session, oldest first."""

    def __init__(self, records: Iterable[Record]) -> None:
        self.standing: dict[str, Record] = {}
        found: dict[str, dict[str, _Session]] = {}
        for record in records:
            standing = self.standing.get(record.cell)
            if standing is None or record.started >= standing.started:
                self.standing[record.cell] = record
            if record.latency is not None:
                measured = _session(record, record.latency)
                sessions = found.setdefault(record.cell, {})
                known = sessions.get(measured.name)
                if known is None or measured.started >= known.started:
                    sessions[measured.name] = measured
        self.sessions = {
            cell: sorted(sessions.values(), key=lambda one: (one.started, one.name)) for cell, sessions in found.items()
        }


def _session(record: Record, latency: Latency) -> _Session:
    cpu = latency.host.get("cpu") or record.environment.get("processor", "")
    return _Session(latency.session, record.started, latency, cpu, own=latency.baseline == record.cell)


def _change(
    cell: str, first: _Side, second: _Side, readings: Sequence[Reading], blamed: Mapping[str, str]
) -> CellChange:
    before, after = first.standing.get(cell), second.standing.get(cell)
    timings = tuple(_timing_changes(readings, blamed))
    measured = [side.sessions[cell][-1].latency for side in (first, second) if cell in side.sessions]
    label = _worst(timings)
    if label is None and measured:
        label = Label.INSUFFICIENT
    found = CellChange(
        cell=cell,
        before=_ended(before),
        after=_ended(after),
        outcome=standing_of(before, after),
        latency=label,
        timings=timings,
    )
    if before is None or after is None:
        return found
    accuracy = None
    if before.accuracy is not None and after.accuracy is not None:
        accuracy = (before.accuracy, after.accuracy)
    update = {
        "accuracy": accuracy,
        "outputs": tuple(output_drifts(before.comparisons, after.comparisons)),
        "sizes": tuple(_sizes(*measured)) if len(measured) == len(("before", "after")) else (),
    }
    return found.model_copy(update=update)


def _ended(record: Record | None) -> Ended | None:
    if record is None:
        return None
    return Ended(outcome=record.outcome, stage=record.stage, reason=record.reason, expected=record.expected)


# --- Outcomes and numbers -------------------------------------------------------------------------------------------


def standing_of(before: Record | None, after: Record | None) -> Standing:
    """Return what became of a cell's outcome.

    A failure at a later stage is progress, one at an earlier stage a regression, whether it was expected or not. ERROR,
    SKIP, NOT_RUN and no record at all are no evidence, neither of the one nor of the other.
    """
    if before is None or before.outcome not in CONCLUSIVE:
        return Standing.GAINED if after is not None and after.outcome in CONCLUSIVE else Standing.UNKNOWN
    if after is None or after.outcome not in CONCLUSIVE:
        return Standing.LOST
    was, is_ = _how_far(before), _how_far(after)
    if was == is_:
        return Standing.SAME
    if is_ > was:
        return Standing.PROGRESS
    return Standing.WEAKER if after.outcome in WORKING else Standing.REGRESSION


def _how_far(record: Record) -> int:
    """Return how far a cell came: the position of the stage at which it failed, beyond all of them if it works."""
    stages = list(Stage)
    if record.outcome in WORKING:
        return len(stages) + (record.outcome is not Outcome.DEGRADED)
    return stages.index(record.stage) if record.stage is not None else 0


def output_drifts(before: Sequence[Comparison], after: Sequence[Comparison]) -> Iterator[OutputDrift]:
    """Yield each output of each batch size that both sides compared, labelled where it crossed a verdict or fell.

    It fell where its noise grew by more than ``NOISE_DB``.
    """
    former = {(item.output, item.batch): item for item in before}
    for now in after:
        was = former.get((now.output, now.batch))
        if was is None:
            continue
        fell = _fell_db(was, now)
        yield OutputDrift(
            output=now.output,
            batch=now.batch,
            snr_db=(was.snr_db, now.snr_db),
            max_abs=(was.max_abs, now.max_abs),
            verdict=(was.verdict, now.verdict),
            fell_db=fell if math.isfinite(fell) else None,
            label=_drift_label(was, now, fell),
        )


def _drift_label(
    was: Comparison, now: Comparison, fell: float
) -> Literal["", "worse verdict", "better verdict", "noisier"]:
    order = ("fail", "loose", "strict")
    if was.verdict != now.verdict:
        return "worse verdict" if order.index(now.verdict) < order.index(was.verdict) else "better verdict"
    return "noisier" if fell > NOISE_DB else ""


def _fell_db(was: Comparison, now: Comparison) -> float:
    """Return by how many dB the noise of an output grew; infinity where there was none, NaN where nobody can tell."""
    if was.snr_db is not None and now.snr_db is not None:
        return was.snr_db - now.snr_db
    if was.max_abs is None or now.max_abs is None:
        return math.nan
    if was.max_abs == now.max_abs:
        return 0.0
    if not was.max_abs:
        return math.inf
    return 20 * math.log10(now.max_abs / was.max_abs) if now.max_abs else -math.inf


def _sizes(before: Latency, after: Latency) -> Iterator[SizeChange]:
    yield SizeChange(what="artifact", before=before.artifact_bytes, after=after.artifact_bytes)
    if before.installed_bytes is not None and after.installed_bytes is not None:
        yield SizeChange(what="installed", before=before.installed_bytes, after=after.installed_bytes)


# --- Latency --------------------------------------------------------------------------------------------------------


def yuen(before: Sequence[float], after: Sequence[float]) -> Interval:
    """Return the difference of the trimmed means of two samples and its 95% interval; variances need not be equal.

    Of eight values the largest and the smallest are set aside, of sixteen two each: a group of blocks that something
    else on the machine disturbed must not widen the interval of all. Of fewer than eight none is, and the interval is
    Welch's. (K. K. Yuen, The two-sample trimmed t for unequal population variances, Biometrika 61, 1974; B. L. Welch,
    The generalization of Student's problem when several different population variances are involved, Biometrika 34,
    1947.) The degrees of freedom are rounded down to a whole number, which makes it no narrower. Raises ``ValueError``
    for fewer than two values on a side.
    """
    if min(len(before), len(after)) < 2:
        raise ValueError(f"an interval needs two values on each side at least; got {len(before)} and {len(after)}")
    earlier, later = _trimmed(before), _trimmed(after)
    difference = later.mean - earlier.mean
    total = earlier.variance + later.variance
    if total == 0:
        return Interval(difference, difference, difference)
    freedom = 1 / sum((mean.variance / total) ** 2 / (mean.kept - 1) for mean in (earlier, later))
    # What rounding did to a whole number must not cost a degree of freedom.
    half = _student(math.floor(freedom + 1e-9)) * math.sqrt(total)
    return Interval(difference, difference - half, difference + half)


class _Mean(NamedTuple):
    """A trimmed mean, its variance, and how many values it is the mean of."""

    mean: float
    variance: float
    kept: int


def _trimmed(values: Sequence[float]) -> _Mean:
    """Return the trimmed mean; its variance comes from the values with those set aside drawn in to the others."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    count = len(ordered)
    aside = count // TRIMMED
    kept = ordered[aside : count - aside]
    winsorized = np.clip(ordered, kept[0], kept[-1])
    variance = float(np.var(winsorized, ddof=1)) * (count - 1) / (len(kept) * (len(kept) - 1))
    return _Mean(float(np.mean(kept)), variance, len(kept))


_student = cache(student)


def _readings(before: Sequence[_Session], after: Sequence[_Session]) -> list[Reading]:
    """Return a reading for every way of calling in every session of the second side, where there is a first."""
    return [
        _reading(before, session, timing, values)
        for session in (after if before else ())
        for timing, values in _timings(session)
    ]


def _timings(session: _Session) -> Iterator[tuple[Timing, tuple[float, ...]]]:
    """Yield each timing of a session with the log ratios of its groups, which are none without a baseline."""
    blocks = session.latency.blocks
    for number, timing in enumerate(session.latency.timings):
        yield timing, blocks[number] if number < len(blocks) else ()


def _reading(before: Sequence[_Session], after: _Session, timing: Timing, values: Sequence[float]) -> Reading:
    read = Reading(
        session=after.name, batch=timing.batch, threads=timing.threads, baseline=after.latency.baseline, verdict="none"
    )
    refused = [(one, _incomparable(one, after)) for one in before]
    alike = [one for one, why in refused if not why]
    if not alike:
        return read.model_copy(update={"why": next(why for _, why in reversed(refused))})
    same = [
        (was, ratios)
        for one in alike
        for was, ratios in _timings(one)
        if (was.batch, was.threads) == (timing.batch, timing.threads)
    ]
    if not same:
        why = f"the first side has no timing of batch {timing.batch} with {timing.threads} threads"
        return read.model_copy(update={"why": why})
    raw = {
        "raw": _raw([was.p50 for was, _ in same], timing.p50),
        "baseline_raw": _raw([was.baseline_p50 for was, _ in same], timing.baseline_p50),
    }
    if after.own:
        return read.model_copy(update={**raw, "why": "it is the baseline itself: its ratio says nothing about it"})
    pooled = [ratio for _, ratios in same for ratio in ratios]
    if min(len(pooled), len(values)) < GROUPS:
        why = f"{len(pooled)} groups of blocks before and {len(values)} after; {GROUPS} each are needed"
        return read.model_copy(update={**raw, "why": why})
    return read.model_copy(update={**raw, **_judged(yuen(pooled, values))})


def _judged(found: Interval) -> dict[str, float | str]:
    """Return the fields of a reading that an interval of log ratios gives."""
    ratio, low, high = (math.exp(value) for value in found)
    verdict: Verdict = "flat"
    why = ""
    if found.low > LOG_CHANGE:
        verdict = "slower"
    elif found.high < -LOG_CHANGE:
        verdict = "faster"
    elif found.high - found.low > 2 * LOG_CHANGE:
        verdict = "unclear"
        why = f"the interval from {low - 1:+.1%} to {high - 1:+.1%} is too wide to show a change of {CHANGE:.0%}"
    return {"ratio": ratio, "low": low, "high": high, "verdict": verdict, "why": why}


def _raw(before: Iterable[float | None], after: float | None) -> float | None:
    known = [value for value in before if value]
    return after / median(known) if known and after else None


def _incomparable(before: _Session, after: _Session) -> str:
    """Return why two measurements of a cell cannot be compared, or an empty string."""
    for one in (before, after):
        if one.latency.unstable:
            return f"session {one.name} is unstable: the machine changed while it was measured"
        if one.latency.emulated:
            return f"session {one.name} was emulated: such times are compared with no others"
        if not one.latency.baseline:
            return f"session {one.name} has no baseline: nothing there lets the machine cancel"
    if before.cpu != after.cpu:
        return f"measured on {before.cpu or 'an unknown processor'}, then on {after.cpu or 'an unknown processor'}"
    if before.latency.baseline != after.latency.baseline:
        return f"compared with {before.latency.baseline}, then with {after.latency.baseline}"
    return ""


def _timing_changes(readings: Sequence[Reading], blamed: Mapping[str, str]) -> Iterator[TimingChange]:
    ways: dict[tuple[int, int], list[Reading]] = {}
    for reading in readings:
        ways.setdefault((reading.batch, reading.threads), []).append(reading)
    for (batch, threads), together in ways.items():
        believed = tuple(_without_host(reading, blamed) for reading in together)
        label, why = label_of(believed)
        yield TimingChange(batch=batch, threads=threads, label=label, why=why, readings=believed)


def _without_host(reading: Reading, blamed: Mapping[str, str]) -> Reading:
    """Return a reading; where it says that the cell moved, but the host is blamed for its session, without verdict."""
    if reading.session in blamed and reading.verdict in ("slower", "faster"):
        return reading.model_copy(update={"verdict": "none", "why": f"the host is blamed: {blamed[reading.session]}"})
    return reading


def label_of(readings: Sequence[Reading]) -> tuple[Label, str]:
    """Return the label of one way of calling, and why it is no other, by the readings of all its sessions.

    A regression, or an improvement, is an interval that clears ``CHANGE`` in ``REPEATS`` sessions, and in more than
    half of those that have a verdict; one that does not repeat is suspicious.
    """
    counted: Counter[str] = Counter(reading.verdict for reading in readings)
    told = len(readings) - counted["none"]
    for verdict, label in (("slower", Label.REGRESSION), ("faster", Label.IMPROVEMENT)):
        if counted[verdict] >= REPEATS and 2 * counted[verdict] > told:
            return label, f"{verdict} in {counted[verdict]} of {told} sessions"
    moved = [verdict for verdict in ("slower", "faster") if counted[verdict]]
    if len(moved) > 1:
        return Label.SUSPICIOUS, f"slower in {counted['slower']} and faster in {counted['faster']} of {told} sessions"
    if moved:
        again = "did not repeat" if told > 1 else "a second session would tell"
        return Label.SUSPICIOUS, f"{moved[0]} in {counted[moved[0]]} of {told} sessions; {again}"
    if counted["flat"]:
        return Label.NO_CHANGE, ""
    why = next((reading.why for reading in reversed(readings) if reading.why), "nothing was measured")
    return Label.INSUFFICIENT, why


def _worst(timings: Iterable[TimingChange]) -> Label | None:
    order = list(Label)
    return min((timing.label for timing in timings), key=order.index, default=None)


# --- The host -------------------------------------------------------------------------------------------------------


class _Move(NamedTuple):
    """How a cell moved in one session: the logarithms of its ratio, of its plain p50, and of the baseline's."""

    runtime: str
    baseline: str
    ratio: float | None
    raw: float | None
    baseline_raw: float | None


def blame_host(readings: Mapping[str, Sequence[Reading]]) -> tuple[HostBlame, ...]:
    """Return the sessions of the second side in which most cells moved together, and what says so.

    ``readings`` are by cell. Either the plain p50 of more than half of the cells moved by more than ``CHANGE`` in one
    direction, and their ratios did not; or all ratios to one baseline did. At least ``CROWD`` cells must have been
    measured. Where all of the latter are of one runtime, and the baseline's own times stood still, it is the runtime
    that changed, and the host is not blamed.
    """
    sessions: dict[str, list[_Move]] = {}
    for cell, of_cell in readings.items():
        by_session: dict[str, list[Reading]] = {}
        for reading in of_cell:
            if reading.ratio is not None or reading.raw is not None:
                by_session.setdefault(reading.session, []).append(reading)
        for session, found in by_session.items():
            sessions.setdefault(session, []).append(_move(cell, found))
    blamed = []
    for session, moves in sorted(sessions.items()):
        why = _machine_moved(moves) or _baseline_moved(moves)
        if why:
            blamed.append(HostBlame(session=session, why=why))
    return tuple(blamed)


def _move(cell: str, readings: Sequence[Reading]) -> _Move:
    return _Move(
        runtime=CellId.parse(cell).runtime,
        baseline=_runtime_of(readings[0].baseline),
        ratio=_log_median(reading.ratio for reading in readings),
        raw=_log_median(reading.raw for reading in readings),
        baseline_raw=_log_median(reading.baseline_raw for reading in readings),
    )


def _runtime_of(baseline: str) -> str:
    """Return the runtime of a baseline, which is named by its cell or by itself."""
    return CellId.parse(baseline).runtime if baseline.count("/") == 4 else baseline


def _log_median(values: Iterable[float | None]) -> float | None:
    known = [math.log(value) for value in values if value]
    return median(known) if known else None


def _machine_moved(moves: Sequence[_Move]) -> str:
    """Return why the machine is to blame: plain times of most cells moved one way, ratios did not; or nothing."""
    plain = [move.raw for move in moves if move.raw is not None]
    relative = [move.ratio for move in moves if move.ratio is not None]
    if len(plain) < CROWD:
        return ""
    for word, sign in _DIRECTIONS:
        together, ratios = (sum(sign * value > LOG_CHANGE for value in values) for values in (plain, relative))
        if 2 * together > len(plain) and 2 * ratios <= len(relative):
            typical = math.exp(median(plain)) - 1
            return (
                f"{together} of {len(plain)} cells are {word} in plain time (the median by {typical:+.0%}), and"
                f" {ratios} relative to the baseline"
            )
    return ""


def _baseline_moved(moves: Sequence[_Move]) -> str:
    """Return why what all cells of a baseline have in common is to blame for all their ratios moving, or nothing."""
    groups: dict[str, list[tuple[float, _Move]]] = {}
    for move in moves:
        if move.ratio is not None:
            groups.setdefault(move.baseline, []).append((move.ratio, move))
    for baseline, pairs in groups.items():
        ratios, group = [ratio for ratio, _ in pairs], [move for _, move in pairs]
        still = [move.baseline_raw for move in group if move.baseline_raw is not None]
        one_runtime = len({move.runtime for move in group}) == 1
        if len(group) < CROWD or (one_runtime and still and abs(median(still)) <= LOG_CHANGE):
            continue
        for word, sign in _DIRECTIONS:
            if all(sign * ratio > LOG_CHANGE for ratio in ratios):
                typical = math.exp(median(ratios)) - 1
                return f"all {len(group)} ratios to {baseline} are {word} (the median by {typical:+.0%})"
    return ""


_DIRECTIONS = (("slower", 1), ("faster", -1))
