"""Latencies in a terminal: what is shown of a measurement, and of what could not be measured."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from portmatrix.render.latencies import print_latencies, seconds_text
from portmatrix.types import Latency, Outcome, Record, Timing

TIMING = Timing(
    batch=1, threads=1, inner=5, samples=700, p50=12.3e-6, p90=13e-6, p99=20e-6, baseline_p50=10e-6, ratio=1.23,
    low=1.2, high=1.26, groups=5,
)  # fmt: skip
FOUND = Latency(
    baseline="f/m/onnx/onnxruntime/t",
    baseline_environment={"onnxruntime": "1.32.0", "python": "3.11.7"},
    session="s",
    timings=(TIMING, TIMING.model_copy(update={"batch": 16, "p99": None, "ratio": None, "low": None, "high": None})),
    load_seconds=0.012,
    first_seconds=0.5,
    peak_mb=61.4,
    artifact_bytes=1000,
    host={"cpu": "a processor", "load": "0.10"},
)


def printed(*records: Record) -> str:
    stream = io.StringIO()
    print_latencies(Console(file=stream, width=200), records)
    return stream.getvalue()


def record(latency: Latency | None, **facts: str) -> Record:
    cell = "f/m/native/r/t"
    return Record(
        cell=cell, outcome=Outcome.PASS, run="r", started="2026-01-01", engine="0", latency=latency, facts=dict(facts)
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1.5, "1.5 s"), (0.0123, "12.3 ms"), (12.34e-6, "12.3 µs"), (5e-9, "5 ns"), (None, "")],
)
def test_a_duration_has_the_unit_that_suits_it(seconds: float | None, text: str) -> None:
    assert seconds_text(seconds) == text


def test_ratio_interval_and_quantiles_are_shown() -> None:
    text = printed(record(FOUND))
    assert "f/m/native/r/t" in text
    for shown in (
        "1.230",
        "1.200 to 1.260",
        "12.3",
        "700 x 5",
        "12 ms",
        "500 ms",
        "61 MiB above idle",
        "on a processor, load 0.10",
    ):
        assert shown in text
    assert "unstable" not in text


def test_the_version_of_the_baseline_is_shown_where_it_is_known() -> None:
    assert "against f/m/onnx/onnxruntime/t (1.32.0); load" in printed(record(FOUND))
    unknown = FOUND.model_copy(update={"baseline_environment": {"python": "3.11.7"}})
    assert "against f/m/onnx/onnxruntime/t; load" in printed(record(unknown))
    without = FOUND.model_copy(update={"baseline": "", "baseline_environment": {}})
    assert "without a baseline; load" in printed(record(without))


def test_an_unstable_or_emulated_measurement_says_so() -> None:
    changed = FOUND.model_copy(update={"unstable": True, "emulated": True, "anchors": {"copy": (1.0, 1.25)}})
    text = printed(record(changed))
    assert "copy +25%" in text
    assert "emulated" in text


def test_what_could_not_be_measured_says_why() -> None:
    assert "not measured: f/m/native/r/t: its bundle is gone" in printed(
        record(None, not_measured="its bundle is gone")
    )
