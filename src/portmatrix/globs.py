"""Globs over cell ids: ``*``, ``?``, ``[...]`` and ``{a,b}``; ``*`` spans ``/``, too, so ``torch/*`` is all torch."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import translate

import bracex

from portmatrix.types import CellId

#: Most globs that braces may stand for: ``{a,b}`` is for a handful of names, not for a product of everything.
MAX_EXPANDED = 1000


def expand(glob: str) -> list[str]:
    """Return the globs without braces that ``glob`` stands for; raises ``ValueError`` if they are too many."""
    try:
        return list(bracex.expand(glob, limit=MAX_EXPANDED))
    except bracex.ExpansionLimitException as error:
        raise ValueError(f"{glob!r} stands for more than {MAX_EXPANDED} globs; write several shorter ones") from error


class Globs:
    """A set of cell ids, given by patterns; ``cell in globs`` if any of them matches."""

    def __init__(self, patterns: Iterable[str]) -> None:
        """Take the patterns; raises ``ValueError`` for braces that stand for too much."""
        plain = [single for pattern in patterns for single in expand(pattern)]
        joined = "|".join(f"(?:{translate(single)})" for single in plain)
        self._match = re.compile(joined).match if joined else None
        self._all = "*" in plain

    def __contains__(self, cell: CellId) -> bool:
        return self.match("/".join(cell))

    def match(self, cell: str) -> bool:
        """Return whether one of the patterns matches a cell's id; quicker than ``in`` where there is the text."""
        return self._all or (self._match is not None and self._match(cell) is not None)
