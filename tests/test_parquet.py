"""Records as a flat table: read back by DuckDB as they were, whatever was in them."""

from __future__ import annotations

import json
import math
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from made_history import CELL, OTHER, compared, latency, record

from portmatrix import parquet, records
from portmatrix.errors import RecordError, UserError
from portmatrix.history import extra
from portmatrix.types import Blame, HeldOutAccuracy, Lookup, Outcome, Reach, Record, Stage

ROOT = Path(__file__).parents[1]


def read_back(file: Path, query: str = "SELECT * FROM rows") -> list[dict[str, Any]]:
    duckdb = pytest.importorskip("duckdb")
    with duckdb.connect() as connection:
        rows = connection.execute(query.replace("rows", f"read_parquet('{file}')"))
        names = [column[0] for column in rows.description]
        return [dict(zip(names, values, strict=True)) for values in rows.fetchall()]


def written(tmp_path: Path, *made: Record) -> list[dict[str, Any]]:
    assert parquet.write(made, tmp_path / "records.parquet") == len(made)
    return read_back(tmp_path / "records.parquet")


def test_a_record_is_a_row(tmp_path: Path) -> None:
    made = record(
        outcome=Outcome.FAIL,
        stage=Stage.COMPARE,
        reason="é\u2028\n'\x00",
        reach=Reach.EMULATED,
        archived=True,
        seconds={"LOAD": 0.5, "RUN": 0.25},
        accuracy=0.9,
        held_out=HeldOutAccuracy(accuracy=0.85, framework=0.9, rows=297, allowed=0.02),
        blame=Blame(party="runtime", referee="onnx-reference", why="it says so"),
        environment={"python": "3.11", "processor": "of the tests"},
        facts={"opset": 18, "interpreter_free": True},
        started="2026-01-01T12:00:00.000Z",
    )
    (row,) = written(tmp_path, made)
    assert list(row) == list(parquet.COLUMNS)
    expected = {
        "cell": CELL, "framework": "torch", "target": "linux-x86_64", "outcome": "FAIL", "shown": "FAIL",
        "stage": "COMPARE", "reason": "é\u2028\n'\x00", "unexpected": True, "reach": "emulated", "archived": True,
        "seconds": 0.75, "accuracy": 0.9, "held_out_accuracy": 0.85, "blame": "runtime",
        "python": "3.11", "processor": "of the tests",
        "started": datetime(2026, 1, 1, 12), "measured": None, "ratio": None, "could_run": None,
    }  # fmt: skip
    assert {name: row[name] for name in expected} == expected
    assert json.loads(row["facts"]) == made.facts
    assert json.loads(row["environment"]) == made.environment


def test_of_several_outputs_the_worst_number_counts(tmp_path: Path) -> None:
    outputs = (
        compared(0.1, None).model_copy(update={"verdict": "strict", "needed": 0.5}),
        compared(math.nan, 80.0).model_copy(update={"verdict": "fail", "needed": None, "top1": 0.5}),
        compared(0.3, 90.0).model_copy(update={"verdict": "loose", "needed": 2.0, "top1": 0.9}),
    )
    (row,) = written(tmp_path, record(comparisons=outputs))
    found = {name: row[name] for name in ("max_abs", "snr_db", "top1", "verdict", "needed", "compared")}
    assert found == {"max_abs": 0.3, "snr_db": 80.0, "top1": 0.5, "verdict": "fail", "needed": 2.0, "compared": 3}


def test_the_latency_is_that_of_batch_1_and_one_thread_or_else_the_first(tmp_path: Path) -> None:
    found = latency(1.5, peak_mb=3.0)
    other = latency(2.0).model_copy(update={"timings": latency(2.0).timings[1:]})
    reordered = found.model_copy(update={"timings": found.timings[::-1]})
    rows = written(tmp_path, record(cell=CELL, latency=reordered), record(cell=OTHER, latency=other))
    by_cell = {row["cell"]: row for row in rows}
    assert [by_cell[CELL][name] for name in ("batch", "threads", "ratio", "p50", "peak_mb")] == [1, 1, 1.5, 0.002, 3.0]
    assert [by_cell[OTHER][name] for name in ("batch", "ratio", "unstable", "artifact_bytes")] == [16, 2.0, False, 1000]
    assert by_cell[CELL]["ratio_low"] < 1.5 < by_cell[CELL]["ratio_high"]


def test_what_was_looked_up_and_what_nobody_tried_are_told_apart(tmp_path: Path) -> None:
    lookup = Lookup(possible=True, asked="a", date="2026-01-01", floor="glibc 2.28")
    looked = record(cell=CELL, outcome=Outcome.NOT_RUN, reach=Reach.STATIC, lookup=lookup)
    rows = written(tmp_path, looked, records.not_run(OTHER, "no record of this cell", run="-"))
    by_cell = {row["cell"]: row for row in rows}
    assert (by_cell[CELL]["shown"], by_cell[CELL]["could_run"], by_cell[CELL]["floor"]) == (
        "COULD_RUN",
        True,
        "glibc 2.28",
    )
    assert (by_cell[OTHER]["shown"], by_cell[OTHER]["could_run"], by_cell[OTHER]["started"]) == ("NOT_RUN", None, None)


def test_the_reference_records_come_back_in_the_order_of_their_cells(tmp_path: Path) -> None:
    made = list(records.read(ROOT / "results" / "reference.jsonl"))
    parquet.write(reversed(made), tmp_path / "records.parquet")
    rows = read_back(tmp_path / "records.parquet")
    assert [row["cell"] for row in rows] == sorted((item.cell for item in made), key=lambda cell: cell.split("/"))
    assert {row["cell"]: row["outcome"] for row in rows} == {item.cell: item.outcome.value for item in made}
    counted = read_back(
        tmp_path / "records.parquet", "SELECT count(*) AS n FROM rows WHERE max_abs > 0 AND outcome = 'PASS'"
    )
    assert counted[0]["n"] == sum(
        item.outcome is Outcome.PASS and max((c.max_abs or 0 for c in item.comparisons), default=0) > 0 for item in made
    )


def test_equal_records_give_equal_bytes_and_nothing_else_is_left(tmp_path: Path) -> None:
    made = [record(day, cell) for day in range(3) for cell in (CELL, OTHER)]
    parquet.write(made, tmp_path / "a" / "1.parquet")
    parquet.write(made[::-1], tmp_path / "a" / "2.parquet")
    assert (tmp_path / "a" / "1.parquet").read_bytes() == (tmp_path / "a" / "2.parquet").read_bytes()
    assert {file.name for file in (tmp_path / "a").iterdir()} == {"1.parquet", "2.parquet"}


def test_no_records_are_a_table_without_rows(tmp_path: Path) -> None:
    assert written(tmp_path) == []
    described = read_back(tmp_path / "records.parquet", "DESCRIBE SELECT * FROM rows")
    assert {column["column_name"]: column["column_type"] for column in described} == parquet.COLUMNS


def test_a_start_that_is_no_time_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="'yesterday' is no time"):
        parquet.write([record(started="yesterday")], tmp_path / "records.parquet")
    assert not list(tmp_path.iterdir())


def test_without_duckdb_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def missing(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(extra, "import_module", missing)
    with pytest.raises(UserError, match=r"a Parquet file needs duckdb, .* `pip install 'portmatrix\[history\]'`"):
        parquet.write([record()], tmp_path / "records.parquet")


def test_every_column_is_explained() -> None:
    page = (ROOT / "docs" / "records.md").read_text(encoding="utf-8")
    assert not [name for name in parquet.COLUMNS if f"`{name}`" not in page]
