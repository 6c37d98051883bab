"""What a million cells cost: planning them, and merging their records.

    python benchmarks/scale.py [--sizes 10000 100000 1000000] [--repeat 3] [--markdown]

Every measurement is a process of its own, so that its peak memory is its own; imports are not timed, but their memory
counts. The plan is of synthetic axes (10 frameworks, 4 paths, 25 runtimes, 10 targets, and as many
models as it takes), once all of it,
once with a selection, an exclusion and a shard. The records are lines as the engine writes them, about 1 KB each with
two comparisons, in eight files: shuffled, one in ten of them twice with another start. Merging includes writing the
merged file. For both the exponent e of ``seconds = c * cells ** e`` is fitted; 1 is linear.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
from machine import describe

from portmatrix import records
from portmatrix.plan import Axes, Selection, plan
from portmatrix.types import Comparison, Outcome, Reach, Record, Stage, Tolerance

SIZES = (10_000, 100_000, 1_000_000)
FRAMEWORKS, PATHS, RUNTIMES, TARGETS = 10, 4, 25, 10
FILES = 8
#: One record in this many is there twice.
TWICE = 10
EXCLUDED = [("framework-1/*/onnx-3/runtime-2?/target-1", "excluded in the benchmark")]
SELECTED = Selection(take=("framework-*/onnx-?/*", "*/target-9"), leave=("*/runtime-7/*",), shard=(2, 3))


class Limit(NamedTuple):
    """What the project promises for a million cells: seconds, and MiB of peak memory where that is promised too."""

    seconds: float
    memory_mb: float | None


LIMITS = {"plan": Limit(5, 1024), "plan, selected": Limit(5, 1024), "merge": Limit(30, None)}


class Measured(NamedTuple):
    """One measurement: what, of how many cells, its seconds and peak memory in MiB, and what came out."""

    what: str
    cells: int
    seconds: float
    memory_mb: float
    result: int


def axes_of(cells: int) -> Axes:
    """Return axes that span exactly ``cells`` cells, a multiple of 10,000."""
    models, rest = divmod(cells, FRAMEWORKS * PATHS * RUNTIMES * TARGETS)
    if rest:
        raise SystemExit(
            f"{cells} cells cannot be spanned; take a multiple of {FRAMEWORKS * PATHS * RUNTIMES * TARGETS}"
        )
    return Axes(
        models=tuple(f"model-{number}" for number in range(models)),
        paths={
            f"framework-{number}": {f"onnx-{path}": "onnx" for path in range(PATHS)} for number in range(FRAMEWORKS)
        },
        runtimes={f"runtime-{number}": frozenset({"onnx"}) for number in range(RUNTIMES)},
        targets=tuple(f"target-{number}" for number in range(TARGETS)),
    )


def measure_plan(cells: int, _folder: Path) -> Measured:
    """Plan every cell."""
    return timed("plan", cells, lambda: len(plan(axes_of(cells), [], Selection()).cells))


def measure_selected(cells: int, _folder: Path) -> Measured:
    """Plan with globs to take and to leave, an exclusion and a shard."""

    def work() -> int:
        made = plan(axes_of(cells), EXCLUDED, SELECTED)
        return len(made.cells) + len(made.left_out)

    return timed("plan, selected", cells, work)


def measure_merge(cells: int, folder: Path) -> Measured:
    """Merge the files of ``write_records`` and write the result."""

    def work() -> int:
        merged = records.merge(sorted(folder.glob("part-*.jsonl")))
        records.write_merged(merged.values(), folder / "merged.jsonl")
        return len(merged)

    made = timed("merge", cells, work)
    if made.result != cells:
        raise SystemExit(f"merging gave {made.result} cells, not {cells}")
    return made


MEASURES = {"plan": measure_plan, "selected": measure_selected, "merge": measure_merge}


def timed(what: str, cells: int, work: Callable[[], int]) -> Measured:
    """Return the seconds that ``work`` took and the peak memory of this process after it."""
    start = time.perf_counter()
    result = work()
    return Measured(what, cells, time.perf_counter() - start, peak_mb(), result)


def peak_mb() -> float:
    """Return the largest resident memory that this process has had, in MiB."""
    if sys.platform == "linux":
        # Not what getrusage says: that starts from the memory of the process which started this one.
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(status.split("VmHWM:")[1].split()[0]) / 2**10
    if sys.platform == "win32":
        return float(psutil.Process().memory_info().peak_wset) / 2**20
    import resource  # noqa: PLC0415 - is not there on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def template() -> str:
    """Return a record as the engine writes it, with ``@CELL@`` and ``@START@`` where they differ from line to line."""
    comparisons = tuple(
        Comparison(
            output="logits",
            batch=batch,
            dtype="float32",
            shape=(16 // batch, batch, 10),
            elements=160,
            max_abs=7.152557373046875e-07,
            max_rel=1.9472473309054e-05,
            mismatched=0.0,
            snr_db=134.70312486,
            cosine=0.9999999999999831,
            top1=1.0,
            needed=0.006794283,
            tolerance=Tolerance(atol=1e-4, rtol=1e-5),
            verdict="strict",
        )
        for batch in (16, 5)
    )
    record = Record(
        cell="@CELL@",
        outcome=Outcome.PASS,
        stage=Stage.COMPARE,
        reach=Reach.NATIVE,
        run="2026-01-01T000000-abcdef",
        started="@START@",
        seconds={"PREPARE": 0.000412, "LOAD": 0.002173, "RUN": 0.001246, "COMPARE": 0.000913},
        accuracy=0.9427609427609428,
        comparisons=comparisons,
        bundle="a" * 64,
        recipe="b" * 64,
        environment={"python": "3.11.7", "onnxruntime": "1.32.0", "numpy": "2.4.6", "processor": "of the benchmark"},
        facts={"opset": 18, "trained_on": "linux-x86_64", "network": "namespace"},
        engine="0",
    )
    line = record.model_dump_json(exclude_defaults=True)
    return f'{{"schema_version":1,{line[1:]}\n'


def lines_of(cells: int) -> Iterator[str]:
    """Yield the records of all cells in a shuffled order, with the same seed each time, some of them twice."""
    before, between, after = _parted(template())
    ids = ["/".join(cell) for cell in plan(axes_of(cells), [], Selection()).cells]
    ids += ids[::TWICE]
    shuffled = random.Random(cells)
    shuffled.shuffle(ids)
    for cell in ids:
        yield f"{before}{cell}{between}2026-01-01T00:00:{shuffled.random() * 60:06.3f}Z{after}"


def _parted(line: str) -> tuple[str, str, str]:
    before, rest = line.split("@CELL@")
    between, after = rest.split("@START@")
    return before, between, after


def write_records(cells: int, folder: Path) -> int:
    """Write the records of ``cells`` cells into ``FILES`` files below ``folder``; returns their bytes."""
    streams = [(folder / f"part-{number}.jsonl").open("w", encoding="utf-8", newline="\n") for number in range(FILES)]
    written = 0
    for number, line in enumerate(lines_of(cells)):
        written += streams[number % FILES].write(line)
    for stream in streams:
        stream.close()
    return written


def in_process(measure: str, cells: int, folder: Path) -> Measured:
    """Return one measurement, made in a process of its own."""
    command = [sys.executable, str(Path(__file__).absolute()), "--measure", measure, str(cells), str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return Measured(*json.loads(done.stdout))


def middle(made: list[Measured]) -> Measured:
    """Return the median seconds and the largest memory of several measurements of the same."""
    seconds = statistics.median(one.seconds for one in made)
    return made[0]._replace(seconds=seconds, memory_mb=max(one.memory_mb for one in made))


def measure_all(sizes: list[int], repeat: int) -> list[Measured]:
    """Return all measurements, each the middle of ``repeat``; sizes take turns, so that a busy moment hits them all."""
    found: dict[tuple[str, int], list[Measured]] = {}
    with tempfile.TemporaryDirectory() as name:
        folders = {cells: Path(name, str(cells)) for cells in sizes}
        for cells, folder in folders.items():
            folder.mkdir()
            size = write_records(cells, folder)
            print(f"{cells:,} cells: {size / 1e6:,.0f} MB of records written", file=sys.stderr)
        for _ in range(repeat):
            for measure in MEASURES:
                for cells, folder in folders.items():
                    found.setdefault((measure, cells), []).append(in_process(measure, cells, folder))
    return [middle(made) for made in found.values()]


def exponent(made: list[Measured]) -> float:
    """Return the slope of log seconds over log cells, by least squares; 1 is linear."""
    x = [math.log(one.cells) for one in made]
    y = [math.log(one.seconds) for one in made]
    return statistics.linear_regression(x, y).slope


def report(found: list[Measured], *, markdown: bool) -> bool:
    """Print the table and the exponents; returns whether a million cells stay within what is promised."""
    head = ("what", "cells", "seconds", "seconds per million", "peak MiB")
    if markdown:
        print(f"| {' | '.join(head)} |\n| --- | ---: | ---: | ---: | ---: |")
    else:
        print(f"{head[0]:<16}{head[1]:>12}{head[2]:>10}{head[3]:>22}{head[4]:>10}")
    for one in found:
        each = 1e6 * one.seconds / one.cells
        if markdown:
            print(f"| {one.what} | {one.cells:,} | {one.seconds:.3f} | {each:.2f} | {one.memory_mb:,.0f} |")
        else:
            print(f"{one.what:<16}{one.cells:>12,}{one.seconds:>10.3f}{each:>22.2f}{one.memory_mb:>10,.0f}")
    print()
    kept = True
    for what, limit in LIMITS.items():
        made = [one for one in found if one.what == what]
        million = [one for one in made if one.cells == 1_000_000]
        fitted = f"exponent {exponent(made):.2f}" if len(made) > 1 else "one size only"
        promised = f"at most {limit.seconds} s" + (f" and {limit.memory_mb:,} MiB" if limit.memory_mb else "")
        print(f"- {what}: {fitted}; promised for a million: {promised}.")
        kept = kept and all(
            one.seconds <= limit.seconds and one.memory_mb <= (limit.memory_mb or math.inf) for one in million
        )
    return kept


def main() -> None:
    """Measure and print; ends with 1 if a million cells cost more than is promised."""
    parser = argparse.ArgumentParser(description="What planning and merging a million cells cost.")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="numbers of cells")
    parser.add_argument("--repeat", type=int, default=3, help="how often everything is measured")
    parser.add_argument("--markdown", action="store_true", help="print the table as it stands in docs/performance.md")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure, cells, folder = options.measure
        print(json.dumps(MEASURES[measure](int(cells), Path(folder))))
        return
    print(describe(), end="\n\n")
    kept = report(measure_all(options.sizes, options.repeat), markdown=options.markdown)
    raise SystemExit(0 if kept else 1)


if __name__ == "__main__":
    main()
