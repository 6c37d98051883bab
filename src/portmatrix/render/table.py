"""The badge table: frameworks down, targets across, and in each field what was tried there and what came of it.

This is the data that the README, the report, the job summary and the terminal show; they differ in dress only.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from portmatrix.rate import ENOUGH, Rating, Stars
from portmatrix.spec import SurveyEntry
from portmatrix.types import CONCLUSIVE, UNKNOWN, WORKING, Frozen, Outcome, Reach, Record


class Mark(NamedTuple):
    """How one outcome looks: a symbol, the same in ASCII, its word, and what it claims."""

    symbol: str
    plain: str
    word: str
    claim: str


#: One mark and one word per outcome, no two alike.
MARKS: dict[Outcome, Mark] = {
    Outcome.PASS: Mark("✓", "+", "pass", "same answers as in the framework"),
    Outcome.DEGRADED: Mark("≈", "~", "degraded", "right answers, but by a detour or within the loose tolerance only"),
    Outcome.FAIL: Mark("✗", "x", "fail", "the model does not work there"),
    Outcome.ERROR: Mark("!", "!", "error", "could not find out"),
    Outcome.XFAIL: Mark("⊘", "k", "known failure", "fails as matrix.yaml says"),
    Outcome.XPASS: Mark("⚑", "P", "unexpected pass", "passes although matrix.yaml says it fails"),
    Outcome.SKIP: Mark("»", "-", "skipped", "left out on purpose"),
    Outcome.NOT_RUN: Mark("·", ".", "not run", "not tried"),
}

#: How a target was reached, as one letter; nothing for natively.
REACH_MARKS: dict[Reach, str] = {
    Reach.NATIVE: "",
    Reach.CONTAINER: "c",
    Reach.EMULATED: "e",
    Reach.REMOTE: "r",
    Reach.STATIC: "s",
}

#: The order in which people want to see outcomes: what needs a decision first.
URGENCY = (
    Outcome.FAIL,
    Outcome.ERROR,
    Outcome.XPASS,
    Outcome.DEGRADED,
    Outcome.XFAIL,
    Outcome.NOT_RUN,
    Outcome.SKIP,
    Outcome.PASS,
)


class Badge(Frozen):
    """One framework on one target.

    ``tried`` counts the cells with an answer (PASS, DEGRADED, XPASS, FAIL, XFAIL), ``passed`` the first three; ERROR,
    SKIP and NOT_RUN are in ``counts`` alone. ``reach`` lists how the target was reached, best first.
    """

    framework: str
    target: str
    counts: dict[Outcome, int]
    reach: tuple[Reach, ...]
    archived: bool
    anchor: str

    @property
    def passed(self) -> int:
        """The number of cells that work."""
        return sum(count for outcome, count in self.counts.items() if outcome in WORKING)

    @property
    def tried(self) -> int:
        """The number of cells with an answer, good or bad."""
        return sum(count for outcome, count in self.counts.items() if outcome in CONCLUSIVE)

    @property
    def remarks(self) -> tuple[tuple[Outcome, int], ...]:
        """All outcomes but PASS with their counts, the most urgent first."""
        return tuple((o, self.counts[o]) for o in URGENCY if o is not Outcome.PASS and o in self.counts)


class BadgeRow(Frozen):
    """One framework: its ratings, the survey's for ``toolkit``, and a badge per target (None: nothing is planned)."""

    framework: str
    rating: Rating | None
    toolkit: str | None
    successor: bool
    survey_deployment: float | None
    survey_cross_platform: float | None
    badges: tuple[Badge | None, ...]


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
        badges = (groups.get((framework, target)) for target in targets)
        rows.append(
            BadgeRow(
                framework=framework,
                rating=rated.get(framework),
                toolkit=theirs.toolkit if theirs else None,
                successor=theirs.successor if theirs else False,
                survey_deployment=theirs.deployment if theirs else None,
                survey_cross_platform=theirs.cross_platform if theirs else None,
                badges=tuple(_badge(group) if group else None for group in badges),
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


def count_outcomes(records: Iterable[Record]) -> dict[Outcome, int]:
    """Return how often each outcome occurs, in the order of ``Outcome``, without zeros."""
    counts = Counter(record.outcome for record in records)
    return {outcome: counts[outcome] for outcome in Outcome if counts[outcome]}


def anchor(framework: str, target: str) -> str:
    """Return the fragment for a framework on a target; different pairs have different ones, whatever their names."""
    return f"{_slug(framework)}.on.{_slug(target)}"


def stars(value: float | None) -> str:
    """Return ``★★★½☆`` for 3.5, in five places; an empty string for None."""
    if value is None:
        return ""
    full, half = int(value), value % 1 >= 0.5
    return "★" * full + "½" * half + "☆" * (5 - full - half)


def stars_in_words(given: Stars) -> str:
    """Return ``3.5 of 5 (2 to 4)``; with too little evidence for a star ``2 to 5 of 5, on 31% of the evidence``."""
    if given.value is None:
        return "not rated"
    if given.coverage < ENOUGH and given.low < given.high:
        return f"{given.low:g} to {given.high:g} of 5, on {given.coverage:.0%} of the evidence"
    value = f"{given.value:g} of 5"
    return value if given.low == given.high else f"{value} ({given.low:g} to {given.high:g})"


def _badge(records: Sequence[Record]) -> Badge:
    first = records[0].id
    seen = {record.reach for record in records if record.reach is not None and record.outcome in CONCLUSIVE}
    return Badge(
        framework=first.framework,
        target=first.target,
        counts=count_outcomes(records),
        reach=tuple(reach for reach in Reach if reach in seen),
        archived=any(record.archived for record in records),
        anchor=anchor(first.framework, first.target),
    )


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", lambda match: f".{ord(match[0]):x}.", name)
