"""What a history of ten million records costs: asking it for cells and their trends, and adding a day to it.

    python benchmarks/history.py [--records 10000000] [--place FOLDER] [--repeat 3] [--markdown]

The history is made by DuckDB as ``portmatrix history add`` would leave it: a file for each of 365 days, sorted by cell,
in the same format. There are 10,000 cells (10 frameworks, 20 models, 2 paths, 5 runtimes, 5 targets), so ten million
records are a thousand for each. A record is a line as the engine writes it, with two comparisons and two timings; every
cell has a new bundle each month and a new environment each week, one cell in 20 is flaky, one in 20 becomes slower in
the middle of the year, and there are four kinds of processor. With ``--place`` the history is kept, and used again.

Every question is asked in a process of its own, so that its peak memory is its own: once by the function behind
``portmatrix history show``, with DuckDB started and all files opened in the time, and once as the command is given,
with the start of the interpreter. ``add`` puts one day more into it, read from a file of records.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import NamedTuple

from machine import describe
from scale import peak_mb

from portmatrix.history.adding import FORMAT, ORDER, add
from portmatrix.history.columns import COLUMNS, canonical
from portmatrix.history.place import MEMORY, Connection, Place, literal
from portmatrix.history.report import gather
from portmatrix.types import Comparison, Latency, Outcome, Reach, Record, Timing, Tolerance

DAYS = 365
FIRST = date(2025, 1, 1)
FRAMEWORKS, MODELS, PATHS, RUNTIMES, TARGETS = 10, 20, 2, 5, 5
CELLS = FRAMEWORKS * MODELS * PATHS * RUNTIMES * TARGETS
#: What the project promises for ten million records.
SECONDS, MEMORY_MB = 2.0, 1024.0
ONE_CELL = "framework-3/model-07/onnx-1/runtime-2/target-4"
QUESTIONS = {
    "one cell": [ONE_CELL],
    "a model of a framework: 50 cells": ["framework-3/model-07/*"],
    "a model on a target, glob without beginning: 100 cells": ["*/model-07/*/target-4"],
    "a framework: 1,000 cells": ["framework-3/*"],
    "everything since 30 days: 10,000 cells": ["*", "--since", (FIRST + timedelta(days=DAYS - 30)).isoformat()],
    "everything: 10,000 cells": ["*"],
}
#: Not among what is promised: every row of the history is looked at.
UNPROMISED = ("everything: 10,000 cells",)


class Measured(NamedTuple):
    """Seconds, seconds of all processors and peak memory in MiB of one question, and how many records it was about."""

    seconds: float
    cpu_seconds: float
    memory_mb: float
    records: int


def template() -> str:
    """Return a record's text with ``@NAME@`` where records differ."""
    tolerance = Tolerance(atol=1e-4, rtol=1e-5)
    comparisons = tuple(
        Comparison(
            output="logits", batch=batch, dtype="float32", shape=(16 // batch, batch, 10), elements=160,
            max_abs=7.152557373046875e-07, max_rel=1.9472473309054e-05, mismatched=0.0, snr_db=134.70312486,
            cosine=0.9999999999999831, top1=1.0, needed=0.006794283, tolerance=tolerance, verdict="strict",
        )
        for batch in (16, 5)
    )  # fmt: skip
    timings = tuple(
        Timing(
            batch=batch, threads=1, inner=100, samples=80, p50=0.00123456789, p90=0.0013456789, p99=None,
            baseline_p50=0.00112345678, ratio=1.0987654321, low=1.0876543219, high=1.1098765432, groups=8,
        )
        for batch in (1, 16)
    )  # fmt: skip
    latency = Latency(
        baseline="@BASELINE@", session="@RUN@", timings=timings, load_seconds=0.0123, first_seconds=0.00345,
        blocks=tuple(tuple(0.0941234567 + block / 1000 for block in range(8)) for _ in timings),
        peak_mb=41.5, artifact_bytes=48_213, installed_bytes=181_234_567, host={"cpu": "@CPU@", "load": "0.12"},
        anchors=dict.fromkeys(("gemm_f32", "gemm_i8", "copy", "scalar"), (0.0123, 0.0124)),
    )  # fmt: skip
    record = Record(
        cell="@CELL@", outcome=Outcome.PASS, reach=Reach.NATIVE, run="@RUN@", started="@START@", latency=latency,
        seconds={"PREPARE": 0.000412, "LOAD": 0.002173, "RUN": 0.001246, "COMPARE": 0.000913},
        accuracy=0.9427609427609428, comparisons=comparisons, bundle="@BUNDLE@", recipe="@BUNDLE@",
        environment={"python": "3.11.7", "onnxruntime": "1.32.0", "numpy": "@WEEK@", "processor": "@CPU@"},
        facts={"opset": 18, "trained_on": "linux-x86_64", "network": "namespace"}, engine="0.1.0",
    )  # fmt: skip
    return canonical(record)


def text_of_rows() -> str:
    """Return the SQL that makes the column ``record`` out of the others."""
    parts = template().split("@")
    names = {
        "CELL": "cell",
        "START": "strftime(started, '%Y-%m-%dT%H:%M:%S.%gZ')",
        "RUN": "run",
        "BUNDLE": "bundle",
        "WEEK": "week",
        "CPU": "cpu",
        "BASELINE": "baseline",
    }
    return " || ".join(names[part] if number % 2 else literal(part) for number, part in enumerate(parts))


def rows_of_day(day: date, first: int, count: int) -> str:
    """Return the SQL of the rows of one day, the records ``first`` to ``first + count`` of the history."""
    number = (day - FIRST).days
    made = f"""
        WITH numbered AS (
            SELECT range AS n, range % {CELLS} AS c, hash(range) AS h, hash(range % {CELLS}) AS hc,
                range - {first} AS i FROM range({first}, {first + count})),
        named AS (
            SELECT *,
                format('framework-{{}}', c // {CELLS // FRAMEWORKS}) AS framework,
                format('model-{{:02d}}', c // {PATHS * RUNTIMES * TARGETS} % {MODELS}) AS model,
                format('onnx-{{}}', c // {RUNTIMES * TARGETS} % {PATHS}) AS path,
                format('runtime-{{}}', c // {TARGETS} % {RUNTIMES}) AS runtime,
                format('target-{{}}', c % {TARGETS}) AS target,
                TIMESTAMP {literal(day.isoformat())} + to_milliseconds(i * 86400000 // {count}) AS started,
                format('processor {{}} of the benchmark', h // 1000 % 4) AS cpu,
                format('{day.isoformat()}T000000-{{:06x}}', i * 3 // {count}) AS run,
                hc % 20 = 0 AND h % 10 = 0 OR hc % 40 = 1 AS failed,
                '2.{number // 7}.0' AS week,
                0.0002 * (1 + hc % 50) * (1 + 0.1 * (h // 1000 % 4)) * (1 + 0.02 * (h % 1000 / 1000.0 - 0.5)) AS p50,
                (1 + hc % 7 / 10.0) * (1 + 0.03 * (h // 7 % 1000 / 1000.0 - 0.5))
                    * CASE WHEN hc % 20 = 3 AND {number} > {DAYS // 2} THEN 1.1 ELSE 1 END AS ratio
            FROM numbered),
        whole AS (
            SELECT md5(n::VARCHAR)::UUID AS key,
                concat_ws('/', framework, model, path, runtime, target) AS cell,
                framework, model, path, runtime, target,
                CASE WHEN failed THEN 'FAIL' ELSE 'PASS' END AS outcome,
                CASE WHEN failed THEN 'COMPARE' END AS stage,
                CASE WHEN failed THEN 'logits differ by 0.0123' ELSE '' END AS reason,
                'native' AS reach, false AS archived, false AS reused, run, started,
                sha256(format('{{}} {number // 30}', c)) AS bundle, bundle AS recipe,
                md5(framework || cpu || week)[:16] AS environment,
                hash(bundle, environment) AS digests, '0.1.0' AS engine,
                0.9427609427609428 AS accuracy, 7.15e-07 AS max_abs, 134.7 AS snr_db, cpu,
                concat_ws('/', framework, model, path, 'runtime-0', target) AS baseline, run AS session,
                false AS unstable, false AS emulated, 0.0123 AS load_seconds, 0.00345 AS first_seconds,
                41.5 AS peak_mb, 48213 AS artifact_bytes,
                1 AS batch, 1 AS threads, p50, ratio, ratio * 0.98 AS low, ratio * 1.02 AS high,
                CASE WHEN NOT failed THEN [
                    {{batch: 1, threads: 1, p50: p50, p90: p50 * 1.1, p99: NULL, baseline_p50: p50 / ratio,
                      ratio: ratio, low: low, high: high}},
                    {{batch: 16, threads: 1, p50: p50 * 14, p90: p50 * 15, p99: NULL, baseline_p50: p50 * 14 / ratio,
                      ratio: ratio, low: low, high: high}}] END AS timings,
                week, {text_of_rows()} AS record
            FROM named)
    """
    columns = ", ".join(f"{name}::{kind} AS {name}" for name, kind in COLUMNS.items())
    return f"{made} SELECT {columns} FROM whole"


def make(place: Place, records: int) -> None:
    """Write a history of that many records, day by day, in the format that adding gives it."""
    with place.connected() as connection, tempfile.TemporaryDirectory() as folder:
        for number in range(DAYS):
            first, end = records * number // DAYS, records * (number + 1) // DAYS
            day = FIRST + timedelta(days=number)
            file = Path(folder, "day.parquet")
            copy(connection, f"{rows_of_day(day, first, end - first)} ORDER BY {ORDER}", file)
            place.put(file, day.isoformat(), 1, "made")


def copy(connection: Connection, rows: str, file: Path) -> None:
    """Write rows as a Parquet file of the history."""
    connection.execute(f"COPY ({rows}) TO {literal(str(file))} ({FORMAT})")


def write_day(place: Place, file: Path, records: int) -> int:
    """Write the records of one day more into a file, as many as the other days have; returns how many."""
    day = FIRST + timedelta(days=DAYS)
    with place.connected() as connection, file.open("w", encoding="utf-8") as stream:
        connection.execute(f"SELECT record FROM ({rows_of_day(day, records, records // DAYS)})")
        while batch := connection.fetchmany(10_000):
            stream.writelines(text + "\n" for (text,) in batch)
    return records // DAYS


def ask(place: str, arguments: list[str]) -> Measured:
    """Ask one question in this process."""
    since = arguments[2] if len(arguments) > 1 else None
    start, cpu = time.perf_counter(), time.process_time()
    report = gather(Place(place), arguments[:1], since=since)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return Measured(seconds, cpu, peak_mb(), sum(sum(period.counts.values()) for period in report.periods))


def in_process(place: str, arguments: list[str]) -> Measured:
    """Return what a question cost in a process of its own."""
    command = [sys.executable, str(Path(__file__).absolute()), "--ask", json.dumps([place, arguments])]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return Measured(*json.loads(done.stdout))


def as_command(place: str, arguments: list[str]) -> float:
    """Return the seconds of ``portmatrix history show``, from outside."""
    command = [sys.executable, "-m", "portmatrix", "history", "show", *arguments, "--history", place]
    program = f"import sys; from portmatrix.cli import main; main({command[3:]!r})"
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def adding(place: str, file: Path) -> Measured:
    """Return what adding a file of records cost; what it added is taken away again."""
    command = [sys.executable, str(Path(__file__).absolute()), "--add", json.dumps([place, str(file)])]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    there = Place(place)
    there.remove(part for part in there.parts() if part.day > (FIRST + timedelta(days=DAYS - 1)).isoformat())
    return Measured(*json.loads(done.stdout))


def measure(place: str, records: int, repeat: int) -> Iterator[tuple[str, Measured, float | None]]:
    """Yield for each question the middle of the seconds, the largest memory, and the command's seconds."""
    for what, arguments in QUESTIONS.items():
        found = [in_process(place, arguments) for _ in range(repeat)]
        command = statistics.median(as_command(place, arguments) for _ in range(repeat))
        yield what, middle(found), command
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "day.jsonl")
        count = write_day(Place(place), file, records)
        yield f"add a day: {count:,} records", middle([adding(place, file) for _ in range(repeat)]), None


def middle(found: list[Measured]) -> Measured:
    """Return the median seconds and the largest memory."""
    return found[0]._replace(
        seconds=statistics.median(one.seconds for one in found),
        cpu_seconds=statistics.median(one.cpu_seconds for one in found),
        memory_mb=max(one.memory_mb for one in found),
    )


@contextmanager
def made(records: int, named: Path | None) -> Iterator[Place]:
    """Yield a history of that many records: the one at ``named`` if it is there, else a new one."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Place(str(named or Path(scratch, "history")))
        if not place.parts():
            start = time.perf_counter()
            make(place, records)
            print(f"{records:,} records written in {time.perf_counter() - start:,.0f} s", file=sys.stderr)
        yield place


def report(place: Place, records: int, repeat: int, *, markdown: bool) -> bool:
    """Print the table; returns whether what is promised holds."""
    size = sum(Path(part.file).stat().st_size for part in place.parts())
    print(f"- {records:,} records in {len(place.parts())} files, {size / 2**30:.2f} GiB; DuckDB may use {MEMORY}.")
    print(f"- Promised: at most {SECONDS:g} s and {MEMORY_MB:,.0f} MiB.\n")
    head = ("what", "records", "seconds", "CPU seconds", "peak MiB", "seconds of the command")
    print(f"| {' | '.join(head)} |\n| --- | ---: | ---: | ---: | ---: | ---: |" if markdown else "\t".join(head))
    kept = True
    for what, one, command in measure(place.named, records, repeat):
        cells = (
            what,
            f"{one.records:,}",
            f"{one.seconds:.2f}",
            f"{one.cpu_seconds:.2f}",
            f"{one.memory_mb:,.0f}",
            f"{command:.2f}" if command else "",
        )
        print(f"| {' | '.join(cells)} |" if markdown else "\t".join(cells), flush=True)
        if what in QUESTIONS and what not in UNPROMISED:
            kept = kept and one.seconds <= SECONDS and one.memory_mb <= MEMORY_MB
    return kept


def main() -> None:
    """Measure and print; ends with 1 if a question costs more than is promised."""
    parser = argparse.ArgumentParser(description="What a history of ten million records costs.")
    parser.add_argument("--records", type=int, default=10_000_000)
    parser.add_argument("--place", type=Path, help="keep the history there, and use it if it is there")
    parser.add_argument("--repeat", type=int, default=3, help="how often everything is measured")
    parser.add_argument("--markdown", action="store_true", help="print the table as it stands in docs/history.md")
    parser.add_argument("--ask", help=argparse.SUPPRESS)
    parser.add_argument("--add", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ask:
        print(json.dumps(ask(*json.loads(options.ask))))
        return
    if options.add:
        place, file = json.loads(options.add)
        start, cpu = time.perf_counter(), time.process_time()
        added = add(Place(place), [Path(file)])
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        print(json.dumps(Measured(seconds, cpu, peak_mb(), added.new)))
        return
    print(f"{describe()}, {datetime.now(timezone.utc):%H:%M} UTC\n")
    with made(options.records, options.place) as place:
        kept = report(place, options.records, options.repeat, markdown=options.markdown)
    raise SystemExit(0 if kept else 1)


if __name__ == "__main__":
    main()
