from __future__ import annotations

from collections.abc import Callable

import pytest
from made_history import CELL, OTHER, record

from portmatrix.errors import NothingSelected
from portmatrix.history.place import Place
from portmatrix.history.recent import recent


def test_the_last_records_of_each_cell_oldest_first(filled: Callable[..., Place]) -> None:
    place = filled([record(day, cell) for day in range(6) for cell in (CELL, OTHER, "a/b/c/d/e")])
    found = recent(place, [CELL, OTHER, "no/such/cell/is/here"], 4)
    assert {cell: [item.run for item in records] for cell, records in found.items()} == {
        CELL: ["run-2", "run-3", "run-4", "run-5"],
        OTHER: ["run-2", "run-3", "run-4", "run-5"],
    }
    assert found[CELL][-1] == record(5)


def test_fewer_than_asked_for_are_all_of_them(filled: Callable[..., Place]) -> None:
    place = filled([record(0), record(1)])
    assert [item.run for item in recent(place, [CELL], 100)[CELL]] == ["run-0", "run-1"]
    assert recent(place, [], 100) == {}


def test_no_history_is_said(tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(NothingSelected, match="there is no history in"):
        recent(Place(str(tmp_path_factory.mktemp("empty"))), [CELL], 3)
