"""How an attempt becomes a record: its outcome, what was expected of it, and nothing of this machine's folders."""

from __future__ import annotations

import contextlib
import functools
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

from portmatrix import __version__, run
from portmatrix.environments import own_interpreter
from portmatrix.export import Bundle
from portmatrix.globs import Globs
from portmatrix.plugins import Target, Way
from portmatrix.run import RunOutput
from portmatrix.store import Store
from portmatrix.suite import Suite, here
from portmatrix.types import CellId, Comparison, HeldOutAccuracy, Lookup, Outcome, Reach, Record, Stage
from portmatrix.workers import Failure

#: A bundle's folder in a message; its digest stands in the record, and here would only make equal failures differ.
_BUNDLE = re.compile(r"[^\s'\"]*[/\\]bundles[/\\](?:[0-9a-f]{2}[/\\])?[0-9a-f]{64}")


def now() -> str:
    """Return the present time in UTC as ISO 8601 with milliseconds, which sorts as text."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@functools.cache
def processor() -> str:
    """Return the name of this machine's processor; asked once, the answer is kept.

    Linux tells most processors' names in a file; everywhere else py-cpuinfo is asked, which takes it a second.
    """
    with contextlib.suppress(OSError):
        named = re.search(r"^model name\s*:\s*(\S.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
        if named:
            return named[1].strip()
    import cpuinfo  # noqa: PLC0415 - where Linux tells, no command needs it

    try:
        return str(cpuinfo.get_cpu_info().get("brand_raw") or "unknown")
    except Exception:  # py-cpuinfo parses what the system prints, and a missing name must cost no cell
        return "unknown"


def redactions(suite: Suite, store: Store) -> list[tuple[str, str]]:
    """Return pairs of (folder of this machine, placeholder), longest first: records travel, folders do not."""
    pairs = {
        str(store.root): "$STORE",
        str(suite.root): "$SUITE",
        str(Path(own_interpreter().executable).parent.parent): "$PYTHON",
        str(Path(__file__).parent): "$PORTMATRIX",
        sys.prefix: "$PREFIX",
        str(Path.home()): "~",
    }
    return sorted(pairs.items(), key=lambda pair: -len(pair[0]))


def _as_anywhere(folder: str) -> re.Pattern[str]:
    """Return what a folder of this machine is called on any target: there may be a drive before it, and backslashes."""
    return re.compile(r"(?:\b[A-Za-z]:)?" + r"[/\\]".join(map(re.escape, re.split(r"[/\\]", folder))))


def _reach(target: Target | None) -> Reach | None:
    return target.way.reach if target is not None and isinstance(target.way, Way) else None


class Recorder:
    """Makes the records of one run."""

    def __init__(self, suite: Suite, store: Store, run_name: str) -> None:
        self._here = here(suite)
        self._targets = suite.plugins.targets
        self._run = run_name
        self._redactions = [(_as_anywhere(folder), put) for folder, put in redactions(suite, store)]
        self._expected = [(Globs([item.cells]), item) for item in suite.spec.expect]

    def record(
        self,
        cell: CellId,
        outcome: Outcome,
        stage: Stage | None,
        reason: str,
        log_tail: str = "",
        bundle: Bundle | None = None,
    ) -> Record:
        """Return the record of a cell that ended so, now."""
        target = self._targets.get(cell.target)
        # What is not made for a platform was looked up there, not run.
        looked_up = outcome is Outcome.FAIL and stage is Stage.PREPARE
        manifest = bundle.manifest if bundle else None
        return Record(
            cell=str(cell),
            outcome=outcome,
            stage=stage,
            reason=self.redact(reason),
            reach=Reach.STATIC if looked_up else _reach(target),
            archived=manifest is not None and manifest.provenance is not None,
            run=self._run,
            started=now(),
            accuracy=manifest.accuracy if manifest else None,
            bundle=bundle.digest if bundle else None,
            recipe=manifest.recipe if manifest else None,
            facts={**manifest.facts, "trained_on": manifest.trained_on} if manifest else {},
            log_tail=self.redact(log_tail),
            engine=__version__,
        )

    def looked_up(self, cell: CellId, bundle: Bundle, found: Lookup) -> Record:
        """Return the record of a static look-up: FAIL where it cannot run there; else NOT_RUN, as nobody saw it run."""
        outcome, stage = (Outcome.NOT_RUN if found.possible else Outcome.FAIL), Stage.PREPARE
        if found.possible:
            reason = f"looked up, not run: {found.asked}{f', from {found.floor} on' if found.floor else ''}"
        elif found.lacking:
            # It would end there as it does elsewhere, and is expected there if it is elsewhere.
            stage, reason = Stage.LOAD, f"looked up: {found.asked} lacks {', '.join(found.lacking)}"
        else:
            newest = f"; the newest there is {', '.join(found.newest)}" if found.newest else ""
            reason = f"looked up: {', '.join(found.missing)} is not published for it ({found.asked}){newest}"
        record = self.record(cell, outcome, stage, reason, "", bundle)
        return record.model_copy(update={"lookup": found, "reach": Reach.STATIC})

    def failed(self, cell: CellId, failure: Failure, bundle: Bundle | None = None) -> Record:
        """Return the record of a failure: FAIL where the model or its runtime is at fault, ERROR where we are.

        Where nothing could be tried it is NOT_RUN.
        """
        outcome = Outcome.FAIL if failure.fault == "model" else Outcome.ERROR
        if failure.unavailable:
            outcome = Outcome.NOT_RUN
        record = self.record(cell, outcome, failure.stage, failure.reason, failure.log_tail, bundle)
        tried_here = bundle is None and failure.stage in (Stage.TRAIN, Stage.EXPORT)
        return record.model_copy(update={"facts": {"trained_on": self._here}}) if tried_here else record

    def compared(
        self,
        cell: CellId,
        bundle: Bundle,
        made: RunOutput,
        comparisons: Sequence[Comparison],
        accuracy: HeldOutAccuracy | None = None,
    ) -> Record:
        """Return the record of a cell that ran to its end and was compared; ``accuracy`` is what it is judged by."""
        outcome, reason = run.outcome_of(made, tuple(comparisons), accuracy)
        stage = None if outcome is Outcome.PASS else Stage.COMPARE
        record = self.record(cell, outcome, stage, reason, "", bundle)
        seconds = {stage: round(value, 6) for stage, value in made.seconds.items()}
        return record.model_copy(update={"comparisons": tuple(comparisons), "held_out": accuracy, "seconds": seconds})

    def with_worker(
        self, record: Record, environment: Mapping[str, str], network: str, *, interpreter_free: bool
    ) -> Record:
        """Return the record with what ran (versions, processor), whether it needs no interpreter, and its network."""
        # Of a board it says itself what it is, in ``via``.
        mine = {} if record.reach is Reach.REMOTE else {"processor": processor()}
        update = {
            "environment": {**environment, **mine},
            "facts": {**record.facts, "network": network, "interpreter_free": interpreter_free},
        }
        return record.model_copy(update=update)

    def redact(self, text: str) -> str:
        """Return ``text`` with this machine's folders replaced by placeholders."""
        for folder, placeholder in self._redactions:
            text = folder.sub(lambda _match, put=placeholder: put, text)  # type: ignore[misc]
        return _BUNDLE.sub("$BUNDLE", text)

    def expect(self, record: Record) -> Record:
        """Return the record with what ``matrix.yaml`` expects of its cell taken into account.

        A FAIL at the expected stage is XFAIL, at any other stage it stays what it is; a pass is XPASS, unless the cell
        is known to flip or the entry goes by what a failure says. An expected ERROR stays ERROR, with the reason; where
        it does not occur there is nothing to say.
        """
        cell = record.id
        for globs, item in self._expected:
            if cell not in globs or not item.explains(record.reason):
                continue
            if item.outcome == "ERROR":
                if record.outcome is Outcome.ERROR and record.stage is item.stage:
                    return record.model_copy(update={"expected": item.reason})
                continue
            if record.outcome is Outcome.FAIL and record.stage is item.stage:
                return record.model_copy(update={"outcome": Outcome.XFAIL, "expected": item.reason})
            if record.outcome in (Outcome.PASS, Outcome.DEGRADED) and item.rate is None and item.says is None:
                return record.model_copy(update={"outcome": Outcome.XPASS, "expected": item.reason})
        return record
