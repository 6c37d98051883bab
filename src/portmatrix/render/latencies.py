"""Latencies for a terminal: one line for each way of calling, the ratio to the baseline first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console

from portmatrix.render.terminal import is_plain
from portmatrix.render.text import ascii_only
from portmatrix.types import CellId, Latency, Record, Timing

#: What is shown of each way of calling, and how wide; the cell has a line of its own.
_COLUMNS = {
    "batch": 5,
    "threads": 7,
    "ratio": 7,
    "95% interval": 16,
    "p50": 8,
    "p90": 8,
    "p99": 8,
    "baseline": 8,
    "samples": 10,
}


def print_latencies(console: Console, records: Iterable[Record]) -> None:
    """Print what was measured of each record, and why where nothing was."""
    measured = list(records)
    plain = is_plain(console)
    for line in _lines(measured):
        shown = ascii_only(line.replace("µ", "u")) if plain else line
        console.print(shown, markup=False, highlight=False, soft_wrap=True)


def _lines(records: Sequence[Record]) -> Iterable[str]:
    for record in records:
        found = record.latency
        if "not_measured" in record.facts:
            yield f"not measured: {record.cell}: {record.facts['not_measured']}"
        elif found is not None:
            yield record.cell
            yield f"  {_once(found)}"
            yield _row(list(_COLUMNS))
            yield from (_row(_fields(timing)) for timing in found.timings)
    yield from sorted({line for record in records if record.latency for line in _remarks(record.latency)})


def _once(found: Latency) -> str:
    """Return what there is one of for a cell, whatever the batch."""
    memory = "" if found.peak_mb is None else f", {found.peak_mb:.0f} MiB above idle"
    installed = "" if found.installed_bytes is None else f", {found.installed_bytes / 1e6:.0f} MB installed"
    against = f"against {found.baseline}{_version(found)}" if found.baseline else "without a baseline"
    return (
        f"{against}; load {seconds_text(found.load_seconds)}, first call {seconds_text(found.first_seconds)}"
        f"{memory}, artifact {found.artifact_bytes / 1e3:.0f} kB{installed}"
    )


def _version(found: Latency) -> str:
    """Return the version of the baseline's runtime in parentheses, where its worker named one."""
    runtime = CellId.parse(found.baseline).runtime
    version = found.baseline_environment.get(runtime)
    return f" ({version})" if version else ""


def _fields(timing: Timing) -> list[str]:
    return [
        str(timing.batch),
        str(timing.threads),
        "" if timing.ratio is None else f"{timing.ratio:.3f}",
        interval_text(timing),
        *(seconds_text(value) for value in (timing.p50, timing.p90, timing.p99, timing.baseline_p50)),
        f"{timing.samples} x {timing.inner}",
    ]


def _row(fields: Sequence[str]) -> str:
    return "  " + " ".join(field.rjust(width) for field, width in zip(fields, _COLUMNS.values(), strict=True))


def interval_text(timing: Timing) -> str:
    """Return the ratio's interval, or nothing where there is none."""
    return "" if timing.low is None or timing.high is None else f"{timing.low:.3f} to {timing.high:.3f}"


def seconds_text(value: float | None) -> str:
    """Return a duration in the unit that suits it, with three digits; nothing for None."""
    if value is None:
        return ""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1e-9:.3g} ns"


def _remarks(found: Latency) -> Iterable[str]:
    host = found.host
    yield f"on {host.get('cpu', 'an unknown processor')}, load {host.get('load', 'unknown')} at the start"
    if found.unstable:
        changes = ", ".join(f"{name} {after / before - 1:+.0%}" for name, (before, after) in found.anchors.items())
        yield f"unstable: the machine changed while it was measured ({changes}); measure again when it is idle"
    if found.emulated:
        yield "emulated: these times are the emulator's, and are compared with no others"
