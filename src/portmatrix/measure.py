"""The MEASURE stage: times cells that work against a baseline, one at a time, in fresh workers that take turns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from portmatrix import latency, recording
from portmatrix.anchors import describe_host, time_anchors
from portmatrix.bundle import Manifest
from portmatrix.errors import EnvironmentFailure, StoreError
from portmatrix.globs import Globs
from portmatrix.latency import Blocks
from portmatrix.matrix import MatrixRun
from portmatrix.plugins import Runtime
from portmatrix.pool import processors
from portmatrix.spec import LatencySpec
from portmatrix.store import Store, bytes_below, digest_of
from portmatrix.suite import Suite
from portmatrix.types import WORKING, Batch, Latency, Outcome, PathKind, Reach, Record, Stage
from portmatrix.workers import Failure

#: Beside what is asked for: to start, to load, and to be stopped kindly.
_MARGIN_SECONDS = 30


class Subject(NamedTuple):
    """A model in a runtime on a target: what is timed."""

    record: Record
    runtime: Runtime
    manifest: Manifest
    folder: Path

    @property
    def target(self) -> str:
        """The target's name."""
        return self.record.id.target


class _Answers(NamedTuple):
    """What one worker measured: for each batch the samples, what was timed once, and what the worker was."""

    samples: dict[int, list[float]]
    inner: dict[int, int]
    load_seconds: float
    first_seconds: float
    peak_mb: float | None
    environment: dict[str, str]


class _Measured(NamedTuple):
    """All groups of a cell with one number of threads: blocks for each batch, and what both sides answered."""

    blocks: list[Blocks]
    candidate: list[_Answers]
    baseline: list[_Answers]


class Measuring:
    """Measures the cells of one session. Nothing else may run on the machine meanwhile; whether it did, anchors say."""

    def __init__(self, suite: Suite, store: Store, run: MatrixRun, session: str) -> None:
        self._suite = suite
        self._store = store
        self._run = run
        self._session = session
        self._spec = suite.spec.latency
        self._verified: dict[str, Manifest | str] = {}
        self._host = describe_host()
        self._anchors = time_anchors()

    def measure(self, record: Record, known: Iterable[Record]) -> Record:
        """Return ``record`` with its latency, or as a FAIL or ERROR at MEASURE; ``known`` may be baselines.

        A cell whose runtime cannot be timed keeps its outcome and says why in its facts (``not_measured``).
        """
        subject = self._subject(record)
        if isinstance(subject, str):
            return self._left(record, subject)
        baseline = self._baseline(subject, known)
        measured: list[_Measured] = []
        before = self._anchors
        for threads in self._threads():
            made = self._groups(subject, baseline, threads)
            if isinstance(made, Failure):
                return self._failed(record, made)
            measured.append(made)
        self._anchors = after = time_anchors()
        anchors = {name: (before[name], after[name]) for name in before}
        found = self._found(subject, baseline, measured).model_copy(
            update={"anchors": anchors, "unstable": bool(latency.drifted(anchors))}
        )
        return record.model_copy(update={"latency": found, **self._now()})

    def _found(self, subject: Subject, baseline: Subject | None, measured: Sequence[_Measured]) -> Latency:
        blocks = [item for one in measured for item in one.blocks]
        answers = [answer for one in measured for answer in one.candidate]
        theirs = [answer for one in measured for answer in one.baseline]
        peaks = [answer.peak_mb for answer in answers if answer.peak_mb is not None]
        return Latency(
            baseline=str(baseline.record.cell) if baseline else "",
            baseline_environment=theirs[-1].environment if theirs else {},
            session=self._session,
            timings=tuple(map(latency.timing, blocks)),
            blocks=tuple(tuple(latency.log_ratios(item)) for item in blocks),
            load_seconds=min(answer.load_seconds for answer in answers),
            first_seconds=min(answer.first_seconds for answer in answers),
            peak_mb=max(peaks, default=None),
            artifact_bytes=bytes_below(subject.folder / "artifact"),
            installed_bytes=self._run.installed_bytes(subject.runtime, subject.target),
            emulated=subject.record.reach is Reach.EMULATED,
            host=self._host,
        )

    def _now(self) -> dict[str, Any]:
        return {"started": recording.now(), "run": self._session, "reused": False, "measured": None}

    def _left(self, record: Record, why: str) -> Record:
        return record.model_copy(update={"facts": {**record.facts, "not_measured": why}, **self._now()})

    def _failed(self, record: Record, failure: Failure) -> Record:
        """Return what became of a cell that worked until it was measured."""
        if failure.stage is Stage.PREPARE and failure.reason.startswith("unknown request"):
            return self._left(record, f"{record.id.runtime} cannot be timed: {failure.reason}")
        outcome = Outcome.FAIL if failure.fault == "model" else Outcome.ERROR
        ended = {"outcome": outcome, "stage": Stage.MEASURE, "reason": failure.reason, "log_tail": failure.log_tail}
        return record.model_copy(update={**ended, **self._now()})

    def _threads(self) -> list[int]:
        """Return the numbers of threads to measure with, each once."""
        return list(dict.fromkeys(count or processors() for count in self._spec.threads))

    def _subject(self, record: Record) -> Subject | str:
        """Return what is timed for a record, or why it cannot be."""
        if record.bundle is None:
            return "its record names no bundle"
        runtime = self._suite.plugins.runtimes.get(record.id.runtime)
        if runtime is None or record.id.target not in self._suite.plugins.targets:
            return "its runtime or its target is not in this suite"
        manifest = self._manifest(record.bundle)
        if isinstance(manifest, str):
            return manifest
        return Subject(record, runtime, manifest, self._store.bundle_folder(record.bundle))

    def _manifest(self, digest: str) -> Manifest | str:
        """Return the manifest of a bundle, or why it cannot be used; its bytes are verified once in a session."""
        if digest not in self._verified:
            try:
                self._verified[digest] = self._store.get_bundle(digest)
            except StoreError as error:
                self._verified[digest] = f"{error}; run the cell again first"
        return self._verified[digest]

    def _baseline(self, subject: Subject, known: Iterable[Record]) -> Subject | None:
        """Return what a subject is compared with: the same model in the baseline runtime, else in its own framework's.

        Of several paths the one most like the subject's is taken, which may be the subject itself: then its ratio says
        how far apart two measurements of the same thing lie.
        """
        cell = subject.record.id
        same = [
            record
            for record in known
            if record.outcome in WORKING
            and (record.id.framework, record.id.model, record.id.target) == (cell.framework, cell.model, cell.target)
        ]
        for runtime in (self._spec.baseline, cell.framework):
            made = [self._subject(record) for record in same if record.id.runtime == runtime]
            found = [one for one in made if isinstance(one, Subject)]
            if found:
                return min(found, key=lambda one: _unlike(subject, one))
        return None

    def _groups(self, subject: Subject, baseline: Subject | None, threads: int) -> _Measured | Failure:
        """Measure all groups with so many threads."""
        batches = _batches(subject.manifest)
        theirs = [batch for batch in batches if baseline and batch in _batches(baseline.manifest)]
        mine: list[list[_Answers]] = []
        others: list[list[_Answers]] = []
        for order in latency.schedule(self._spec.groups, _seed(self._session, str(subject.record.cell), threads)):
            mine.append([])
            others.append([])
            for block in order:
                one = subject if block == "A" else baseline
                if one is None or (block == "B" and not theirs):
                    continue
                made = self._block(one, batches if block == "A" else theirs, threads)
                if isinstance(made, Failure):
                    return made
                (mine if block == "A" else others)[-1].append(made)
        blocks = [
            Blocks(
                batch,
                threads,
                mine[0][0].inner[batch],
                [[answer.samples[batch] for answer in group] for group in mine],
                [[answer.samples[batch] for answer in group] for group in others] if batch in theirs else [],
            )
            for batch in batches
        ]
        flat = ([answer for group in groups for answer in group] for groups in (mine, others))
        return _Measured(blocks, *flat)

    def _block(self, subject: Subject, batches: Sequence[int], threads: int) -> _Answers | Failure:
        """Time one block in a worker that was started for it."""
        try:
            with self._run.lease(subject.runtime, subject.target, threads) as lease:
                bundle = lease.there(subject.folder)
                request = {
                    "op": "measure",
                    "file": lease.there(subject.runtime.file),
                    "entry": f"{bundle}/artifact/{subject.manifest.entry}",
                    "format": subject.manifest.format,
                    "signature": subject.manifest.signature.model_dump(mode="json"),
                    "sets": [{"inputs": _set_of(subject.manifest, batch), "batch": batch} for batch in batches],
                    "bundle": bundle,
                    "threads": threads,
                    "seconds": self._spec.seconds,
                    "samples": self._spec.samples,
                }
                seconds = 2 * len(batches) * self._spec.seconds + _MARGIN_SECONDS
                answer = lease.ask(request, self._run.limits(subject.runtime, subject.target, seconds))
                environment = dict(lease.environment)
        except EnvironmentFailure as error:
            return Failure(Stage.PREPARE, f"environment of {subject.runtime.name}: {error}", "harness", error.log_tail)
        except OSError as error:
            return Failure(Stage.PREPARE, f"files could not be exchanged with the target: {error}", "harness")
        if isinstance(answer, Failure):
            return answer
        return _answers(answer, batches, environment)


def worth(records: Iterable[Record], spec: LatencySpec, globs: Sequence[str]) -> list[Record]:
    """Return the records of cells that can be measured: they work, and are chosen by globs, or else by the suite."""
    chosen = Globs(globs or spec.cells)
    return [record for record in records if record.outcome in WORKING and record.id in chosen]


def _answers(answer: Mapping[str, Any], batches: Sequence[int], environment: dict[str, str]) -> _Answers:
    timings = dict(zip(batches, answer["timings"], strict=True))
    return _Answers(
        samples={batch: [float(sample) for sample in item["samples"]] for batch, item in timings.items()},
        inner={batch: int(item["inner"]) for batch, item in timings.items()},
        load_seconds=float(answer["load_seconds"]),
        first_seconds=float(answer["first_seconds"]),
        peak_mb=answer["peak_mb"],
        environment=environment,
    )


def _batches(manifest: Manifest) -> list[int]:
    """Return the batches that are measured: one, and the bundle's largest; or the fixed one."""
    tried = sorted(item.batch for item in manifest.tried)
    return tried[:1] if manifest.batch is Batch.STATIC else list(dict.fromkeys((1, tried[-1])))


def _set_of(manifest: Manifest, batch: int) -> dict[str, str]:
    """Return the files of the inputs of a batch, or of a larger one that it is cut from."""
    found = max(manifest.tried, key=lambda item: (item.batch == batch, item.batch))
    return dict(found.inputs)


def _unlike(subject: Subject, other: Subject) -> tuple[bool, bool, bool, str]:
    """Return in what a baseline differs from what is compared with it; the least is taken."""
    mine, theirs = subject.manifest, other.manifest
    return (
        subject.record.bundle != other.record.bundle,
        mine.batch is not theirs.batch,
        theirs.kind is not PathKind.ONNX,
        other.record.cell,
    )


def _seed(session: str, cell: str, threads: int) -> int:
    """Return the seed of a cell's order of blocks: another in every session."""
    return int(digest_of([session, cell, threads])[:8], 16)
