"""Made-up records of many runs, with latencies, for the tests of the history."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from portmatrix.records import Journal
from portmatrix.types import Comparison, Latency, Outcome, Reach, Record, Stage, Timing, Tolerance

FIRST = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
CELL = "torch/mlp/onnx-dynamo/onnxruntime/linux-x86_64"
OTHER = "torch/lstm/onnx-dynamo/openvino/linux-x86_64"


def at(day: float) -> str:
    """Return a time that many days after the first, as records have it."""
    return (FIRST + timedelta(days=day)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def latency(ratio: float | None, *, cpu: str = "of the tests", p50: float = 0.002, **changed: Any) -> Latency:
    timings = tuple(
        Timing(
            batch=batch,
            threads=1,
            inner=10,
            samples=40,
            p50=p50 * batch,
            p90=None,
            p99=None,
            baseline_p50=None if ratio is None else p50 * batch / ratio,
            ratio=ratio,
            low=None if ratio is None else ratio * 0.98,
            high=None if ratio is None else ratio * 1.02,
            groups=4,
        )
        for batch in (1, 16)
    )
    fields: dict[str, Any] = {
        "baseline": "" if ratio is None else "torch/mlp/onnx-dynamo/onnxruntime/linux-x86_64",
        "session": "s",
        "timings": timings,
        "blocks": ((0.01, 0.02), (0.03, -0.01)),
        "load_seconds": 0.01,
        "first_seconds": 0.002,
        "artifact_bytes": 1000,
        "anchors": {"copy": (0.01, 0.011)},
        "host": {"cpu": cpu},
    }
    return Latency(**{**fields, **changed})


def record(day: float = 0, cell: str = CELL, outcome: Outcome = Outcome.PASS, **changed: Any) -> Record:
    fields: dict[str, Any] = {
        "cell": cell,
        "outcome": outcome,
        "stage": None if outcome is Outcome.PASS else Stage.COMPARE,
        "reason": "" if outcome is Outcome.PASS else "é differs\u2028\n'\x00",
        "reach": Reach.NATIVE,
        "run": f"run-{day:g}",
        "started": at(day),
        "seconds": {"LOAD": 0.1, "RUN": 0.2},
        "accuracy": 0.9,
        "comparisons": (compared(1e-6, 120.0), compared(3e-6, None), compared(2e-6, 110.0)),
        "bundle": "b" * 64,
        "recipe": "c" * 64,
        "environment": {"python": "3.11", "processor": "of the tests"},
        "facts": {"opset": 18, "interpreter_free": False},
        "engine": "0.1.0",
    }
    return Record(**{**fields, **changed})


def compared(max_abs: float, snr_db: float | None) -> Comparison:
    return Comparison(
        output="logits",
        batch=1,
        dtype="float32",
        shape=(16, 1, 10),
        elements=160,
        max_abs=max_abs,
        max_rel=None,
        mismatched=0.0,
        snr_db=snr_db,
        cosine=1.0,
        top1=1.0,
        needed=0.1,
        tolerance=Tolerance(atol=1e-4, rtol=1e-5),
        verdict="strict",
    )


def write(file: Path, found: Iterable[Record]) -> Path:
    """Write records as a run does."""
    with Journal(file, resume=False) as journal:
        for item in found:
            journal.add(item)
    return file
