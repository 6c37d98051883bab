"""Records as one flat table in a Parquet file, a row for each, for whatever reads Parquet; written by DuckDB."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from portmatrix.history.columns import finite, utc
from portmatrix.history.extra import library
from portmatrix.history.place import literal, rows_of
from portmatrix.render.table import compared_timing, shown_of
from portmatrix.store import disk_errors
from portmatrix.types import Comparison, Latency, Lookup, Record

#: Name → type in DuckDB, in the order in which they stand in the file. ``docs/records.md`` says what each one holds.
COLUMNS = {
    "cell": "VARCHAR",
    "framework": "VARCHAR",
    "model": "VARCHAR",
    "path": "VARCHAR",
    "runtime": "VARCHAR",
    "target": "VARCHAR",
    "outcome": "VARCHAR",
    "shown": "VARCHAR",
    "stage": "VARCHAR",
    "reason": "VARCHAR",
    "expected": "VARCHAR",
    "unexpected": "BOOLEAN",
    "reach": "VARCHAR",
    "archived": "BOOLEAN",
    "reused": "BOOLEAN",
    "run": "VARCHAR",
    "started": "TIMESTAMP",
    "measured": "TIMESTAMP",
    "engine": "VARCHAR",
    "seconds": "DOUBLE",
    "accuracy": "DOUBLE",
    "held_out_accuracy": "DOUBLE",
    "verdict": "VARCHAR",
    "compared": "INTEGER",
    "max_abs": "DOUBLE",
    "max_rel": "DOUBLE",
    "mismatched": "DOUBLE",
    "snr_db": "DOUBLE",
    "cosine": "DOUBLE",
    "top1": "DOUBLE",
    "needed": "DOUBLE",
    "blame": "VARCHAR",
    "could_run": "BOOLEAN",
    "floor": "VARCHAR",
    "baseline": "VARCHAR",
    "session": "VARCHAR",
    "batch": "INTEGER",
    "threads": "INTEGER",
    "samples": "INTEGER",
    "p50": "DOUBLE",
    "p90": "DOUBLE",
    "p99": "DOUBLE",
    "baseline_p50": "DOUBLE",
    "ratio": "DOUBLE",
    "ratio_low": "DOUBLE",
    "ratio_high": "DOUBLE",
    "load_seconds": "DOUBLE",
    "first_seconds": "DOUBLE",
    "peak_mb": "DOUBLE",
    "artifact_bytes": "BIGINT",
    "installed_bytes": "BIGINT",
    "unstable": "BOOLEAN",
    "emulated": "BOOLEAN",
    "python": "VARCHAR",
    "processor": "VARCHAR",
    "bundle": "VARCHAR",
    "recipe": "VARCHAR",
    "environment": "VARCHAR",
    "facts": "VARCHAR",
}
#: Of several outputs the worst number counts: the largest difference, the smallest agreement.
_WORST: dict[str, Callable[[Iterable[float]], float]] = {
    **dict.fromkeys(("max_abs", "max_rel", "mismatched", "needed"), max),
    **dict.fromkeys(("snr_db", "cosine", "top1"), min),
}
_VERDICTS = ("strict", "loose", "fail")


def write(records: Iterable[Record], file: Path) -> int:
    """Write ``records`` as a Parquet file, in the order of their cells; returns how many rows it has.

    Raises ``UserError`` where DuckDB is not installed, ``RecordError`` for a record whose start is no time, and
    ``DiskFull``.
    """
    duckdb = library("duckdb", "a Parquet file")
    everything = sorted(records, key=lambda record: (record.id, record.started))
    with disk_errors(file.name), tempfile.TemporaryDirectory(prefix="portmatrix-parquet-") as folder:
        file.parent.mkdir(parents=True, exist_ok=True)
        rows = Path(folder, "rows.jsonl")
        with rows.open("w", encoding="utf-8") as stream:
            for record in everything:
                known = {name: value for name, value in row(record).items() if value is not None}
                stream.write(json.dumps(known, allow_nan=False) + "\n")
        beside = file.with_name(f".{file.name}.{os.getpid()}")
        # One thread keeps the rows in order, and equal records equal bytes.
        with duckdb.connect(config={"threads": 1, "temp_directory": folder}) as connection:
            connection.execute(f"COPY ({_table(rows)}) TO {literal(str(beside))} (FORMAT parquet, COMPRESSION zstd)")
        beside.replace(file)
    return len(everything)


def _table(rows: Path) -> str:
    """Return the SQL of the rows in a file of JSON lines; no rows are a table all the same."""
    if not rows.stat().st_size:
        columns = ", ".join(f"NULL::{kind} AS {name}" for name, kind in COLUMNS.items())
        return f"SELECT {columns} WHERE false"
    return f"SELECT * FROM {rows_of(rows, COLUMNS)}"  # noqa: S608 - names and types are ours


def row(record: Record) -> dict[str, Any]:
    """Return a record's row, ``COLUMNS`` → value; what JSON has no number for (NaN, infinity) is None."""
    values = {
        "cell": record.cell,
        **record.id._asdict(),
        **_ended(record),
        "seconds": _number(math.fsum(record.seconds.values())),
        "accuracy": record.accuracy,
        "held_out_accuracy": record.held_out.accuracy if record.held_out else None,
        **_compared(record.comparisons),
        "blame": record.blame.party if record.blame else None,
        **_looked_up(record.lookup),
        **(_measured(record.latency) if record.latency else {}),
        "python": record.environment.get("python"),
        "processor": record.environment.get("processor"),
        "bundle": record.bundle,
        "recipe": record.recipe,
        "environment": _object(record.environment),
        "facts": _object(record.facts),
    }
    found = {name: values.get(name) for name in COLUMNS}
    return {name: _number(value) if isinstance(value, float) else value for name, value in found.items()}


def _ended(record: Record) -> dict[str, Any]:
    return {
        "outcome": record.outcome.value,
        "shown": shown_of(record).value,
        "stage": record.stage.value if record.stage else None,
        "reason": record.reason,
        "expected": record.expected,
        "unexpected": record.unexpected,
        "reach": record.reach.value if record.reach else None,
        "archived": record.archived,
        "reused": record.reused,
        "run": record.run,
        "started": _time(record, record.started),
        "measured": _time(record, record.measured or ""),
        "engine": record.engine,
    }


def _compared(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    if not comparisons:
        return {}
    numbers = {
        name: finite((getattr(comparison, name) for comparison in comparisons), worst) for name, worst in _WORST.items()
    }
    verdict = max((comparison.verdict for comparison in comparisons), key=_VERDICTS.index)
    return {"verdict": verdict, "compared": len(comparisons), **numbers}


def _looked_up(lookup: Lookup | None) -> dict[str, Any]:
    return {"could_run": lookup.possible, "floor": lookup.floor or None} if lookup else {}


def _measured(found: Latency) -> dict[str, Any]:
    """Return what was measured: at the batch and threads at which cells are compared, else at the first there are."""
    once = ("session", "load_seconds", "first_seconds", "peak_mb", "artifact_bytes", "installed_bytes", "unstable")
    values: dict[str, Any] = {name: getattr(found, name) for name in (*once, "emulated")}
    values["baseline"] = found.baseline or None
    timing = compared_timing(found) or next(iter(found.timings), None)
    if timing is not None:
        plain = ("batch", "threads", "samples", "p50", "p90", "p99", "baseline_p50", "ratio")
        values |= {name: getattr(timing, name) for name in plain}
        values |= {"ratio_low": timing.low, "ratio_high": timing.high}
    return values


def _time(record: Record, text: str) -> str | None:
    """Return a time in UTC and without a zone, None for an empty text (a cell that nobody tried)."""
    return utc(text, record.cell) if text else None


def _object(values: Mapping[str, Any]) -> str | None:
    return json.dumps(values, sort_keys=True) if values else None


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
