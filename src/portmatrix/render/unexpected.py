"""Unexpected cells by what they have in common, and the place in a file where each is to be looked at.

GitHub shows both beside the lines that they are about: as annotations (``annotations``) and as alerts (``sarif``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from portmatrix.render.table import URGENCY, shown_of
from portmatrix.render.text import one_line
from portmatrix.types import Outcome, Record, Stage


class Location(NamedTuple):
    """A line of a file; the file's path is relative to the repository, its parts separated by ``/``."""

    file: str
    line: int = 1


#: Where the outcome of a record is to be looked at, None where that is outside of the repository.
Locate = Callable[[Record], Location | None]


class Finding(NamedTuple):
    """Unexpected cells that ended alike, for the same reason, and are to be looked at in the same place."""

    outcome: Outcome
    stage: Stage | None
    reason: str
    location: Location | None
    records: tuple[Record, ...]

    @property
    def head(self) -> str:
        """How they ended, such as ``FAIL at RUN``."""
        return ended(self.records[0])


def ended(record: Record) -> str:
    """Return outcome and stage of a record, such as ``FAIL at RUN``."""
    return f"{record.outcome.value} at {record.stage.value}" if record.stage else record.outcome.value


def why(record: Record, limit: int) -> str:
    """Return the reason of a record as one line of at most ``limit`` characters, and what was expected."""
    reason = one_line(record.reason, limit) or "no reason recorded"
    return f"{reason} (expected: {one_line(record.expected, limit)})" if record.expected else reason


def findings(records: Iterable[Record], locate: Locate) -> list[Finding]:
    """Return the unexpected among ``records``, the most urgent first and of these the one with most cells."""
    groups: dict[tuple[Outcome, Stage | None, str, Location | None], list[Record]] = {}
    for record in sorted((record for record in records if record.unexpected), key=lambda record: record.id):
        groups.setdefault((record.outcome, record.stage, why(record, 500), locate(record)), []).append(record)
    found = [Finding(*key, tuple(group)) for key, group in groups.items()]
    return sorted(found, key=lambda item: (URGENCY.index(shown_of(item.records[0])), -len(item.records)))
