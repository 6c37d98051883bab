"""Histories to ask: made of records, and open."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from made_history import write

from portmatrix.history.adding import add
from portmatrix.history.place import Place
from portmatrix.types import Record

Filled = Callable[[Iterable[Record]], Place]


@pytest.fixture
def filled(tmp_path: Path) -> Filled:
    """Return a history in a folder with the given records in it."""

    def fill(found: Iterable[Record]) -> Place:
        place = Place(str(tmp_path / "history"))
        add(place, [write(tmp_path / "given.jsonl", found)])
        return place

    return fill
