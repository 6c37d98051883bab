"""The report: what is shown of a selection, on a terminal of any kind and as data."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable

import pytest
from made_history import CELL, OTHER, latency, record
from rich.console import Console
from test_trends import around

from portmatrix.errors import NothingSelected
from portmatrix.history.place import Place
from portmatrix.history.report import as_data, gather, print_report
from portmatrix.types import Outcome, Record

Filled = Callable[[Iterable[Record]], Place]
RATIOS = [*around(1.0, 20, 0), *around(1.2, 12, 1)]
MADE = [
    *(record(day, latency=latency(ratio)) for day, ratio in enumerate(RATIOS)),
    record(40, OTHER),
    record(41, OTHER, Outcome.FAIL, reason="[bold]\u202ereversed[/bold]"),
]


def printed(place: Place, *, limit: int = 20, terminal: bool = False, width: int = 200) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=terminal, color_system=None)
    print_report(console, gather(place, [], limit=limit))
    return stream.getvalue()


def test_it_says_how_steady_how_fast_and_what_changed(filled: Filled) -> None:
    text = printed(filled(MADE))
    assert text.isascii()
    assert f"{len(MADE)} records of 2 cells" in text
    assert "100.0% of 1 pairs, in 1 of 1 groups" in text
    assert "0.0% of 496 pairs" in text
    assert "2026-01-21: ratio +20." in text
    assert "[bold]\\u202ereversed[/bold]" in text, "foreign text is no markup"
    rows = [line for line in text.splitlines() if "FAIL at COMPARE" in line]
    assert len(rows) == 2, "in the list of cells, and where its outcome changed"


def test_cells_beyond_the_limit_are_counted_only(filled: Filled) -> None:
    text = printed(filled(MADE), limit=1)
    assert "of 1 cells only the counts (--limit shows more)" in text
    assert OTHER in text
    assert "processor" not in text, "the cell that was measured is not among the shown"


def test_a_terminal_is_given_its_own_letters(filled: Filled) -> None:
    assert "é differs" in printed(filled([record(0), record(1, outcome=Outcome.FAIL)]), terminal=True)


def test_a_file_or_a_pipe_is_given_whole_ids_however_narrow_it_is_thought_to_be(filled: Filled) -> None:
    long = CELL.replace("mlp", "mlp" * 30)
    made = [record(day, long, latency=latency(ratio)) for day, ratio in enumerate(RATIOS)]
    place = filled([*made, record(40, long, Outcome.FAIL, reason="so " * 30 + "long")])
    lines = printed(place, width=60).splitlines()
    assert len([line for line in lines if long in line]) == 4, "as a cell, as a measured one, and with both outcomes"
    assert len([line for line in lines if "so so" in line and line.count("so ") == 30]) == 1
    assert {len(line.rstrip()) for line in printed(place, width=60, terminal=True).splitlines()} <= set(range(61))


def test_the_data_is_all_of_it_and_is_json(filled: Filled) -> None:
    place = filled(MADE)
    data = json.loads(json.dumps(as_data(gather(place, [])), allow_nan=False))
    with_every_timing = as_data(gather(place, [], every_timing=True))
    assert data["cells"] == 2
    assert sum(sum(period["counts"].values()) for period in data["periods"]) == len(MADE)
    assert [item["flakiness"] for item in data["shown"]] == [1.0, 0.0]
    assert {stretch["cell"] for stretch in data["stretches"]} == {CELL, OTHER}
    assert [item["batch"] for item in data["trends"]] == [1]
    assert [item["batch"] for item in with_every_timing["trends"]] == [1, 16]
    first = data["trends"][0]
    assert [point["ratio"] for point in first["points"]] == RATIOS
    assert (first["cpu"], first["batch"], first["measure"]) == ("of the tests", 1, "ratio")
    (step,) = first["steps"]
    assert step["started"].startswith("2026-01-21")
    assert step["change"] == pytest.approx(0.2, abs=0.02)


def test_the_days_bound_what_is_looked_at(filled: Filled) -> None:
    found = gather(filled(MADE), [], since="2026-02-10", until="2026-02-10")
    assert [item.records for item in found.shown] == [1]
    with pytest.raises(NothingSelected):
        gather(filled(MADE), ["caffe/*"])
