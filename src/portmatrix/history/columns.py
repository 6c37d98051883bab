"""The columns of the history: what of a record can be asked for, and the whole record as text beside it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from typing import Any

from portmatrix.errors import RecordError
from portmatrix.types import Latency, Record

_TIMING = (
    "STRUCT(batch INTEGER, threads INTEGER, p50 DOUBLE, p90 DOUBLE, p99 DOUBLE, baseline_p50 DOUBLE, ratio DOUBLE, "
    "low DOUBLE, high DOUBLE)"
)
_TIMING_FIELDS = ("batch", "threads", "p50", "p90", "p99", "baseline_p50", "ratio", "low", "high")
#: Name -> type in DuckDB. ``digests`` is one number for bundle and environment together, as comparing all pairs of
#: attempts would read little else; empty where one of them is not known, for that is equal to nothing.
#: ``batch`` to ``high`` are those of the record's first timing: lists, as ``timings`` of them
#: all, take several times as long to read.
COLUMNS = {
    "key": "UUID",
    "cell": "VARCHAR",
    "framework": "VARCHAR",
    "model": "VARCHAR",
    "path": "VARCHAR",
    "runtime": "VARCHAR",
    "target": "VARCHAR",
    "outcome": "VARCHAR",
    "stage": "VARCHAR",
    "reason": "VARCHAR",
    "reach": "VARCHAR",
    "archived": "BOOLEAN",
    "reused": "BOOLEAN",
    "run": "VARCHAR",
    "started": "TIMESTAMP",
    "bundle": "VARCHAR",
    "recipe": "VARCHAR",
    "environment": "VARCHAR",
    "digests": "UBIGINT",
    "engine": "VARCHAR",
    "accuracy": "DOUBLE",
    "max_abs": "DOUBLE",
    "snr_db": "DOUBLE",
    "cpu": "VARCHAR",
    "baseline": "VARCHAR",
    "session": "VARCHAR",
    "unstable": "BOOLEAN",
    "emulated": "BOOLEAN",
    "load_seconds": "DOUBLE",
    "first_seconds": "DOUBLE",
    "peak_mb": "DOUBLE",
    "artifact_bytes": "BIGINT",
    "batch": "INTEGER",
    "threads": "INTEGER",
    "p50": "DOUBLE",
    "ratio": "DOUBLE",
    "low": "DOUBLE",
    "high": "DOUBLE",
    "timings": f"{_TIMING}[]",
    "record": "VARCHAR",
}


def row(record: Record, where: str) -> dict[str, Any]:
    """Return the columns of a record as JSON can hold them, and its ``day``.

    ``where`` names the record in messages. Raises ``RecordError`` if its start is no time: it has no day then.
    """
    text = canonical(record)
    started = utc(record.started, f"{where}: started")
    return {
        "day": started[:10],
        "key": hashlib.sha256(text.encode()).hexdigest()[:32],
        "cell": record.cell,
        **_coordinates(record, where),
        **record.model_dump(
            mode="json",
            include={"outcome", "stage", "reason", "reach", "archived", "reused", "run", "bundle", "recipe", "engine"},
        ),
        "started": started,
        "environment": _environment(record),
        "digests": _digests(record),
        "accuracy": finite([record.accuracy], min),
        "max_abs": finite((comparison.max_abs for comparison in record.comparisons), max),
        "snr_db": finite((comparison.snr_db for comparison in record.comparisons), min),
        "cpu": _cpu(record),
        **(_measured(record.latency) if record.latency else {}),
        "record": text,
    }


def canonical(record: Record) -> str:
    """Return a record as JSON that depends on what it says alone: fields in order of name, none that is at its default.

    So a field that is added to records later changes neither the text nor the key of those that do not have it.
    """
    fields = record.model_dump(mode="json", exclude_defaults=True)
    return json.dumps({**fields, "schema_version": record.schema_version}, sort_keys=True, separators=(",", ":"))


def _coordinates(record: Record, where: str) -> dict[str, str]:
    try:
        return record.id._asdict()
    except ValueError as error:
        raise RecordError(f"{where}: {error}") from error


def utc(text: str, where: str) -> str:
    """Return a record's time in UTC and without a zone, as DuckDB reads it; raises ``RecordError`` for what is none."""
    try:
        # Before Python 3.11 no zone may be written as Z.
        time = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError as error:
        raise RecordError(
            f"{where}: {text!r} is no time; expected UTC in ISO 8601, as 2026-01-31T12:00:00.000Z"
        ) from error
    in_utc = time.astimezone(timezone.utc) if time.tzinfo else time
    return in_utc.replace(tzinfo=None).isoformat(timespec="microseconds")


def _environment(record: Record) -> str | None:
    """Return what tells environments apart; None where nothing is known of it."""
    if not record.environment:
        return None
    return hashlib.sha256(json.dumps(record.environment, sort_keys=True).encode()).hexdigest()[:16]


def _digests(record: Record) -> int | None:
    environment = _environment(record)
    if record.bundle is None or environment is None:
        return None
    return int.from_bytes(hashlib.sha256(f"{record.bundle} {environment}".encode()).digest()[:8], "big")


def _cpu(record: Record) -> str | None:
    measured = record.latency.host.get("cpu") if record.latency else None
    return measured or record.environment.get("processor")


def finite(values: Iterable[float | None], choose: Callable[[list[float]], float]) -> float | None:
    """Return what ``choose`` makes of the finite numbers among ``values``; None where there are none."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    return choose(known) if known else None


def _measured(latency: Latency) -> dict[str, Any]:
    timings = [{name: getattr(timing, name) for name in _TIMING_FIELDS} for timing in latency.timings]
    first = {name: timings[0][name] for name in ("batch", "threads", "p50", "ratio", "low", "high")} if timings else {}
    plain = ("baseline", "session", "unstable", "emulated", "load_seconds", "first_seconds", "peak_mb")
    return {
        **{name: getattr(latency, name) for name in plain},
        "artifact_bytes": latency.artifact_bytes,
        **first,
        "timings": timings,
    }
