"""The badge table: frameworks down, targets across, and in each field what was tried there and what came of it.

This is the data that the README, the report, the job summary and the terminal show; they differ in dress only.
"""

from __future__ import annotations

import hashlib
import math
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import NamedTuple

from portmatrix.rate import Rating, Stars
from portmatrix.spec import SurveyEntry
from portmatrix.types import CONCLUSIVE, UNKNOWN, WORKING, CellId, Frozen, Latency, Outcome, Reach, Record, Timing


class Shown(str, Enum):
    """What is shown of a cell: its outcome, or a verdict of its own where it was looked up and nothing was run.

    A look-up is neither tried nor passed. ``FAIL`` and ``XFAIL`` by look-up are ``CANNOT_RUN``; ``NOT_RUN`` by look-up
    is ``COULD_RUN``.
    """

    PASS = "PASS"  # noqa: S105 - an outcome
    DEGRADED = "DEGRADED"
    FAIL = "FAIL"
    ERROR = "ERROR"
    XFAIL = "XFAIL"
    XPASS = "XPASS"
    COULD_RUN = "COULD_RUN"
    CANNOT_RUN = "CANNOT_RUN"
    SKIP = "SKIP"
    NOT_RUN = "NOT_RUN"


class Mark(NamedTuple):
    """How that looks: a symbol, the same in ASCII, its word, and what it claims."""

    symbol: str
    plain: str
    word: str
    claim: str


#: One mark and one word for each, no two alike.
MARKS: dict[Shown, Mark] = {
    Shown.PASS: Mark("✓", "+", "pass", "same answers as in the framework"),
    Shown.DEGRADED: Mark("≈", "~", "degraded", "right answers, but by a detour or within the loose tolerance only"),
    Shown.FAIL: Mark("✗", "x", "fail", "the model does not work there"),
    Shown.ERROR: Mark("!", "!", "error", "could not find out"),
    Shown.XFAIL: Mark("⊘", "k", "known failure", "fails as matrix.yaml says"),
    Shown.XPASS: Mark("⚑", "P", "unexpected pass", "passes although matrix.yaml says it fails"),
    Shown.COULD_RUN: Mark("◇", "o", "could run", "looked up, not run: what it needs is published for that platform"),
    Shown.CANNOT_RUN: Mark("◆", "#", "cannot run", "looked up, not run: something it needs does not exist there"),
    Shown.SKIP: Mark("»", "-", "skipped", "left out on purpose"),
    Shown.NOT_RUN: Mark("·", ".", "not run", "not tried"),
}

#: How a target was reached, as one letter; nothing for natively.
REACH_MARKS: dict[Reach, str] = {
    Reach.NATIVE: "",
    Reach.CONTAINER: "c",
    Reach.EMULATED: "e",
    Reach.REMOTE: "r",
    Reach.STATIC: "s",
}

#: The order in which people want to see them: what needs a decision first.
URGENCY = (
    Shown.FAIL,
    Shown.ERROR,
    Shown.XPASS,
    Shown.CANNOT_RUN,
    Shown.DEGRADED,
    Shown.XFAIL,
    Shown.COULD_RUN,
    Shown.NOT_RUN,
    Shown.SKIP,
    Shown.PASS,
)
_LOOKED_UP = frozenset({Shown.COULD_RUN, Shown.CANNOT_RUN})
#: Batch and threads of the calls whose ratios are put together: every path that is not of another fixed batch has them.
COMPARED = (1, 1)
#: Characters of a name that stand in a file's name; of a longer one a digest stands for the rest.
_LONGEST = 80


class Badge(Frozen):
    """One framework on one target.

    ``tried`` counts the cells that were run and gave an answer (PASS, DEGRADED, XPASS, FAIL, XFAIL), ``passed`` the
    first three; look-ups, ERROR, SKIP and NOT_RUN are in ``counts`` alone. ``reach`` lists how the target was reached
    for all of these but the last three, best first.
    """

    framework: str
    target: str
    counts: dict[Shown, int]
    reach: tuple[Reach, ...]
    archived: bool
    anchor: str

    @property
    def passed(self) -> int:
        """The number of cells that work."""
        return sum(self.counts.get(Shown(outcome.value), 0) for outcome in WORKING)

    @property
    def tried(self) -> int:
        """The number of cells that were run and gave an answer, good or bad."""
        return sum(self.counts.get(Shown(outcome.value), 0) for outcome in CONCLUSIVE)

    @property
    def remarks(self) -> tuple[tuple[Shown, int], ...]:
        """All that is shown but PASS, with the counts, the most urgent first."""
        return tuple((shown, self.counts[shown]) for shown in URGENCY[:-1] if shown in self.counts)

    @property
    def reach_letters(self) -> str:
        """The letters of all kinds of reach, natively among them; an empty string where it is natively only."""
        letters = ",".join(REACH_MARKS[reach] or "n" for reach in self.reach)
        return letters if letters.strip("n") else ""


class LatencyRatio(Frozen):
    """The median of a framework's latencies beside the baseline's, and over how many cells (``counted_ratio``)."""

    median: float
    cells: int


class BadgeRow(Frozen):
    """One framework: its ratings, the survey's for ``toolkit``, and a badge per target (None: nothing is planned).

    ``latency`` is None where nothing was measured that could be compared.
    """

    framework: str
    rating: Rating | None
    toolkit: str | None
    successor: bool
    survey_deployment: float | None
    survey_cross_platform: float | None
    badges: tuple[Badge | None, ...]
    latency: LatencyRatio | None = None


class BadgeTable(Frozen):
    """Frameworks by targets, both in the order of their names."""

    targets: tuple[str, ...]
    rows: tuple[BadgeRow, ...]


def badge_table(
    records: Iterable[Record], ratings: Sequence[Rating], survey: Mapping[str, SurveyEntry] | None = None
) -> BadgeTable:
    """Return the badge table of ``records``; the result does not depend on their order."""
    groups = by_framework_and_target(records)
    frameworks = sorted({framework for framework, _ in groups})
    targets = tuple(sorted({target for _, target in groups}))
    rated = {rating.framework: rating for rating in ratings}
    rows = []
    for framework in frameworks:
        theirs = (survey or {}).get(framework)
        badges = [groups.get((framework, target)) for target in targets]
        rows.append(
            BadgeRow(
                framework=framework,
                rating=rated.get(framework),
                toolkit=theirs.toolkit if theirs else None,
                successor=theirs.successor if theirs else False,
                survey_deployment=theirs.deployment if theirs else None,
                survey_cross_platform=theirs.cross_platform if theirs else None,
                badges=tuple(_badge(group) if group else None for group in badges),
                latency=latency_ratio(record for group in badges for record in group or ()),
            )
        )
    return BadgeTable(targets=targets, rows=tuple(rows))


def by_framework_and_target(records: Iterable[Record]) -> dict[tuple[str, str], list[Record]]:
    """Return the records of each framework and target, all in the order of their ids."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in sorted(records, key=lambda record: record.id):
        if record.id.framework != UNKNOWN:  # a broken runtime's record belongs to no row
            groups.setdefault((record.id.framework, record.id.target), []).append(record)
    return dict(sorted(groups.items()))


def shown_of(record: Record) -> Shown:
    """Return what is shown of a record."""
    if record.reach is Reach.STATIC and record.outcome in (Outcome.FAIL, Outcome.XFAIL):
        return Shown.CANNOT_RUN
    if record.lookup is not None and record.outcome is Outcome.NOT_RUN:
        return Shown.COULD_RUN
    return Shown(record.outcome.value)


def urgency(record: Record) -> tuple[int, CellId]:
    """Return what sorts records: those that need a decision first, equal ones by their ids."""
    return URGENCY.index(shown_of(record)), record.id


def count_shown(records: Iterable[Record]) -> dict[Shown, int]:
    """Return how often each of what is shown occurs, in the order of ``Shown``, without zeros."""
    counts = Counter(map(shown_of, records))
    return {shown: counts[shown] for shown in Shown if counts[shown]}


def anchor(framework: str, target: str) -> str:
    """Return the fragment for a framework on a target; different pairs have different ones, whatever their names."""
    return f"{_slug(framework)}.on.{_slug(target)}"


def stem(*names: str) -> str:
    """Return the name of a file for these names, without its suffix: letters, digits and ``_ - ~``, joined by dots.

    Any file system takes it, whatever the names; different ones have different files.
    """
    return ".".join(map(_part, names))


def compared_timing(found: Latency) -> Timing | None:
    """Return what was timed at the batch and the number of threads at which cells are compared, if anything was."""
    return next((timing for timing in found.timings if (timing.batch, timing.threads) == COMPARED), None)


def counted_ratio(record: Record) -> float | None:
    """Return the ratio to the baseline with which a record counts in its framework's median, None where it does not.

    What counts is batch 1 with one thread, natively reached, on a machine that did not change meanwhile (``unstable``).
    The baseline's own ratio to itself does not.
    """
    found = record.latency
    if found is None or record.outcome not in WORKING or record.reach is not Reach.NATIVE:
        return None
    if found.unstable or found.emulated or found.baseline in ("", record.cell):
        return None
    timing = compared_timing(found)
    ratio = timing.ratio if timing else None
    return ratio if ratio is not None and math.isfinite(ratio) else None


def latency_ratio(records: Iterable[Record]) -> LatencyRatio | None:
    """Return the median of the ratios that count, None where none does."""
    ratios = [ratio for record in records if (ratio := counted_ratio(record)) is not None]
    return LatencyRatio(median=statistics.median(ratios), cells=len(ratios)) if ratios else None


def stars(value: float | None) -> str:
    """Return ``★★★½☆`` for 3.5, in five places; an empty string for None."""
    if value is None:
        return ""
    full, half = int(value), value % 1 >= 0.5
    return "★" * full + "½" * half + "☆" * (5 - full - half)


def stars_in_words(given: Stars) -> str:
    """Return ``4.5 of 5 (4.5 to 5)``; where the interval is wide or evidence is missing, ``3.5 of 5 (2 to 4),
    provisional``; where there is too little of it, ``not rated (2 to 5, on 31% of the evidence)``.
    """
    interval = f"{given.low:g} to {given.high:g}"
    if given.value is None or given.standing == "not rated":
        return f"not rated ({interval}, on {given.coverage:.0%} of the evidence)"
    words = f"{given.value:g} of 5" + ("" if given.low == given.high else f" ({interval})")
    return words if given.standing == "rated" else f"{words}, {given.standing}"


def _badge(records: Sequence[Record]) -> Badge:
    first = records[0].id
    told = [record for record in records if record.outcome in CONCLUSIVE or shown_of(record) in _LOOKED_UP]
    seen = {record.reach for record in told}
    return Badge(
        framework=first.framework,
        target=first.target,
        counts=count_shown(records),
        reach=tuple(reach for reach in Reach if reach in seen),
        archived=any(record.archived for record in records),
        anchor=anchor(first.framework, first.target),
    )


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", lambda match: f".{ord(match[0]):x}.", name)


def _part(name: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9_-]", lambda match: f"~{ord(match[0]):x}~", name)
    if len(plain) <= _LONGEST:
        return plain
    return f"{plain[:_LONGEST]}~{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:16]}"
