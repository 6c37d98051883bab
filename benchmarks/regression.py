"""Does ``portmatrix compare`` find what it should, and nothing else: the same thing twice, and a planted slowdown.

    python benchmarks/regression.py [--cells 200] [--repeat 25] [--real same|planted|both] [--markdown]

Simulated, by group values as ``latency.py`` makes them, through the whole of ``regression.compare``:

- A/A: nothing changed. Noise as on a machine that does other things, too: per group Student's t of 2 degrees of freedom
  times 1% (busy) or 3% (overloaded), in one group of ten a neighbour that costs one side another 20% on average, and 1%
  between sessions. Once the whole machine is up to a third slower or faster from session to session, too, which the
  host is blamed for. At most 1% may be called a regression.
- planted: one cell in four is 10% slower. Noise as on a quiet machine: 1% per group, 0.5% between sessions. At least
  95% of them must be found. Beside it other sizes, and A/A where sessions differ by more than groups do: nothing is
  promised of these, they show where the rule ends.

``--real`` does one of them, or both, with small networks (``benchmarks/exporters/zoo.py``) in onnxruntime: the
candidate as usual, the baseline with its graph optimizations off, in ABBA or BAAB blocks by chance, each block in an
inference session of its own. Each group of blocks is run in a process of its own, one group of every cell in each: how
a process happens to lie in memory is worth some percent to a small network, and must differ within a session as much as
between two. A/A has processes beside it that are busy in bursts; the slowdown is planted by waiting for 10% of the time
that each sample took, and wants a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from machine import describe

from portmatrix import latency
from portmatrix.latency import Blocks
from portmatrix.regression import Changes, Label, compare
from portmatrix.types import Latency, Outcome, Record, Timing

GROUPS = 8
#: One cell in so many is slowed down.
PLANTED_IN = 4
SLOWDOWN = 1.10
SIZES = (1.03, 1.05, 1.07, 1.08, 1.15, 1.20)
#: What the project promises.
FALSE_ALARMS, FOUND = 0.01, 0.95
FAMILIES = ("mlp", "convnet", "residual", "inception", "lstm")
#: Samples of a block (as in ``matrix.yaml``), the shortest time that one may take, in seconds, and calls before them.
SAMPLES, SHORTEST, WARM_UP = 42, 2e-4, 20

Noise = Callable[[np.random.Generator, int], Sequence[float]]


class Row(NamedTuple):
    """What came of one experiment: how many cells got each label, and the share that matters."""

    what: str
    cells: int
    labels: Counter[Label]
    regressions: int

    @property
    def share(self) -> float:
        """Which share of the cells was called a regression."""
        return self.regressions / self.cells


def cell_of(number: int) -> str:
    """Return a cell's id; its baseline is the same with the runtime ``base``."""
    return f"zoo/{FAMILIES[number % len(FAMILIES)]}-{number // len(FAMILIES)}/onnx/engine-{number % 4}/here"


def record_of(cell: str, session: str, timings: Sequence[Timing], blocks: Sequence[Sequence[float]]) -> Record:
    """Return the record of a measurement."""
    framework, model, path, _, target = cell.split("/")
    measured = Latency(
        baseline=f"{framework}/{model}/{path}/base/{target}",
        session=session,
        timings=tuple(timings),
        blocks=tuple(map(tuple, blocks)),
        load_seconds=0,
        first_seconds=0,
        artifact_bytes=1,
        host={"cpu": "this machine"},
    )
    return Record(cell=cell, outcome=Outcome.PASS, run=session, started=session, latency=measured, engine="0")


# --- Simulated ------------------------------------------------------------------------------------------------------


def loaded(scale: float) -> Noise:
    """Return the log ratios of one cell in one session on a machine that does other things, too."""

    def noise(chance: np.random.Generator, groups: int) -> Sequence[float]:
        each = scale * chance.standard_t(2, groups)
        disturbed = chance.random(groups) < 0.1
        side = chance.choice([-1.0, 1.0], groups)
        return list(chance.normal(0, 0.01) + each + disturbed * side * np.log1p(chance.exponential(0.2, groups)))

    return noise


def normal(between: float, within: float) -> Noise:
    """Return the same where sessions, and the groups of one, differ by so much (standard deviations)."""
    return lambda chance, groups: list(chance.normal(0, between) + chance.normal(0, within, groups))


def session_of(
    chance: np.random.Generator, name: str, cells: int, noise: Noise, slower: Callable[[int], float], machine: float
) -> Iterator[Record]:
    """Yield one session of all cells; ``machine`` is by how much (log) the whole machine may differ from its usual."""
    speed = math.exp(chance.uniform(-machine, machine))
    for number in range(cells):
        ratio = 0.5 + number % 7 / 4
        blocks = [math.log(ratio * slower(number)) + value for value in noise(chance, GROUPS)]
        base = 1e-3 * speed
        p50 = base * math.exp(float(np.mean(blocks)))
        timing = Timing(batch=1, threads=1, inner=1, samples=99, p50=p50, p90=None, p99=None, baseline_p50=base)
        yield record_of(cell_of(number), name, [timing], [blocks])


def simulate(what: str, options: argparse.Namespace, noise: Noise, slowdown: float, machine: float, before: int) -> Row:
    """Compare ``before`` sessions with two later ones, again and again, each time with other chance."""

    def slower(number: int) -> float:
        return slowdown if number % PLANTED_IN == 0 else 1.0

    counted: Counter[Label] = Counter()
    cells = regressions = 0
    for repeat in range(options.repeat):
        chance = np.random.default_rng([zlib.crc32(what.encode()), repeat])
        sides: tuple[list[Record], list[Record]] = ([], [])
        for number in range(before + 2):
            later = number >= before
            change = slower if later else lambda _number: 1.0
            sides[later].extend(session_of(chance, f"{number}", options.cells, noise, change, machine))
        row = row_of(what, compare(*sides), planted=slowdown != 1.0)
        counted += row.labels
        cells, regressions = cells + row.cells, regressions + row.regressions
    return Row(what, cells, counted, regressions)


def row_of(what: str, changes: Changes, *, planted: bool) -> Row:
    """Return what came of all cells, or where something is planted of those that it is planted in."""
    numbers = {cell_of(number): number for number in range(len(changes.cells))}
    chosen = [cell for cell in changes.cells if not planted or numbers[cell.cell] % PLANTED_IN == 0]
    labels = Counter(cell.latency for cell in chosen if cell.latency is not None)
    return Row(what, len(chosen), labels, labels[Label.REGRESSION])


def simulated(options: argparse.Namespace) -> tuple[list[Row], list[Row], list[Row]]:
    """Return the rows of A/A, those of the planted slowdown, and those of which nothing is promised."""
    quiet = normal(0.005, 0.01)
    same = [
        simulate(f"A/A, {word}, {before} + 2 sessions", options, loaded(scale), 1.0, 0.02, before)
        for word, scale in (("overloaded", 0.03), ("busy", 0.01))
        for before in (1, 2)
    ]
    same.append(simulate("A/A, busy, other speed in each", options, loaded(0.01), 1.0, 0.3, 1))
    same.append(simulate("A/A, quiet, 1 + 2 sessions", options, quiet, 1.0, 0.02, 1))
    found = [simulate(f"+{SLOWDOWN - 1:.0%} in one of four, quiet", options, quiet, SLOWDOWN, 0.02, 1)]
    others = [simulate(f"+{size - 1:.0%} in one of four, quiet", options, quiet, size, 0.02, 1) for size in SIZES]
    others += [
        simulate(
            f"A/A, {between:.0%} between sessions, {before} + 2", options, normal(between, 0.01), 1.0, 0.02, before
        )
        for between in (0.02, 0.03)
        for before in (1, 2)
    ]
    return same, found, others


# --- Real -----------------------------------------------------------------------------------------------------------


def write_models(folder: Path, cells: int) -> None:
    """Write the networks, with a fixed batch of 1, and one input for all of them."""
    spec = importlib.util.spec_from_file_location("zoo", Path(__file__).parent / "exporters" / "zoo.py")
    if spec is None or spec.loader is None:
        raise SystemExit("benchmarks/exporters/zoo.py is not there")
    zoo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(zoo)
    for number in range(cells):
        model = cell_of(number).split("/")[1]
        place = folder / f"{number}"
        place.mkdir()
        zoo.export(zoo.train(model, None, 1), "onnx", {"x": np.zeros((1, 1, 8, 8), np.float32)}, str(place))


def open_session(file: Path, *, optimized: bool) -> Callable[[], Any]:
    """Return a call of the model: as usual, or with the graph as it was written."""
    onnxruntime = import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    feeds = {"x": np.random.default_rng(0).random((1, 1, 8, 8), np.float32)}
    return lambda: session.run(None, feeds)


def samples_of(call: Callable[[], Any], slowdown: float) -> tuple[list[float], int]:
    """Return the seconds of a call, ``SAMPLES`` times, and of how many calls, with a wait after them, each is the mean.

    The first calls are not counted; the fastest of them tells how many a sample takes.
    """
    fastest = min(_seconds_of(call, 1) for _ in range(WARM_UP))
    inner = max(1, math.ceil(SHORTEST / fastest))
    found = []
    for _ in range(SAMPLES):
        start = time.perf_counter()
        end = start + slowdown * _seconds_of(call, inner)
        while (now := time.perf_counter()) < end:
            pass
        found.append((now - start) / inner)
    return found, inner


def _seconds_of(call: Callable[[], Any], count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        call()
    return time.perf_counter() - start


def measure_group(folder: Path, cells: int, order: str, slowdown: float) -> None:
    """Measure the blocks of one group of every cell; print for each the samples of A's and B's, and the inner calls."""
    for number in range(cells):
        file = folder / f"{number}" / "model.onnx"
        slower = slowdown if number % PLANTED_IN == 0 else 1.0
        sides: dict[str, list[list[float]]] = {"A": [], "B": []}
        inner = 1
        for block in order:
            call = open_session(file, optimized=block == "A")
            samples, inner = samples_of(call, slower if block == "A" else 1.0)
            sides[block].append(samples)
        print(json.dumps([sides["A"], sides["B"], inner]))


def group_of(folder: Path, cells: int, order: str, slowdown: float) -> list[tuple[list[Any], list[Any], int]]:
    """Return what a process that was started for it measures of one group of every cell."""
    command = [sys.executable, __file__, "--group", str(folder), order, str(slowdown), "--cells", str(cells)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def real_session(folder: Path, cells: int, name: str, slowdown: float) -> list[Record]:
    """Return the records of one session: as many groups as the rule is made for, in the orders that chance gives."""
    orders = latency.schedule(GROUPS, zlib.crc32(name.encode()))
    groups = [group_of(folder, cells, order, slowdown) for order in orders]
    found = []
    for number, measured in enumerate(zip(*groups, strict=True)):
        mine, theirs, inner = zip(*measured, strict=True)
        blocks = Blocks(1, 1, inner[-1], mine, theirs)
        found.append(record_of(cell_of(number), name, [latency.timing(blocks)], [latency.log_ratios(blocks)]))
    return found


#: Busy and idle in turns, each for up to half a second.
BURSTS = """
import random, time
while True:
    end = time.perf_counter() + random.random() / 2
    while time.perf_counter() < end:
        sum(range(1000))
    time.sleep(random.random() / 2)
"""


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Keep so many processes busy in bursts meanwhile."""
    with ExitStack() as stack:
        for _ in range(count):
            process = stack.enter_context(subprocess.Popen([sys.executable, "-c", BURSTS]))
            stack.callback(process.kill)
        yield


def real(options: argparse.Namespace) -> tuple[list[Row], list[Row]]:
    """Return the rows of A/A beside a load and of a planted slowdown, of networks in onnxruntime."""
    same: list[Row] = []
    found: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_models(folder, options.cells)
        if options.real != "planted":
            with neighbours(2):
                sessions = [real_session(folder, options.cells, f"same {number}", 1.0) for number in range(3)]
            same.append(real_row("real: A/A, two neighbours, 1 + 2 sessions", sessions, planted=False))
        if options.real != "same":
            sessions = [real_session(folder, options.cells, "before", 1.0)]
            sessions += [real_session(folder, options.cells, f"slowed {number}", SLOWDOWN) for number in range(2)]
            found.append(real_row(f"real: +{SLOWDOWN - 1:.0%} in one of four", sessions, planted=True))
    return same, found


def real_row(what: str, sessions: Sequence[Sequence[Record]], *, planted: bool) -> Row:
    """Return what came of comparing the first session with the others; says on stderr what else there is to know."""
    changes = compare(sessions[0], [record for session in sessions[1:] for record in session])
    for blamed in changes.host:
        print(f"{what}: host blamed in {blamed.session}: {blamed.why}", file=sys.stderr)
    spreads = [float(np.std(record.latency.blocks[0], ddof=1)) for one in sessions for record in one if record.latency]
    low, middle, high = np.quantile(spreads, [0.1, 0.5, 0.9])
    print(f"{what}: spread of a cell's groups {low:.1%}, {middle:.1%}, {high:.1%} (p10, p50, p90)", file=sys.stderr)
    return row_of(what, changes, planted=planted)


# --- The report -----------------------------------------------------------------------------------------------------


def report(rows: Sequence[Row], *, markdown: bool) -> None:
    """Print a table of rows."""
    head = ("experiment", "cells", *(label.value for label in Label), "called regression")
    lines = [
        (row.what, f"{row.cells:,}", *(f"{row.labels[label]:,}" for label in Label), f"{row.share:.2%}") for row in rows
    ]
    if markdown:
        print(f"| {' | '.join(head)} |\n| --- |{' ---: |' * (len(head) - 1)}")
        for line in lines:
            print(f"| {' | '.join(line)} |")
        return
    widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
    for line in (head, *lines):
        first, *rest = (field.rjust(width) for field, width in zip(line, widths, strict=True))
        print(line[0].ljust(len(first)), *rest, sep="  ")


def main() -> None:
    """Simulate, or measure, and print; ends with 1 if a promise is not kept."""
    parser = argparse.ArgumentParser(description="Does `portmatrix compare` find what it should, and nothing else?")
    parser.add_argument("--cells", type=int, default=200, help="cells of each experiment")
    parser.add_argument("--repeat", type=int, default=25, help="how often each is simulated")
    parser.add_argument("--real", choices=("same", "planted", "both"), help="measure networks in onnxruntime, too")
    parser.add_argument("--markdown", action="store_true", help="print the tables as they stand in the documentation")
    parser.add_argument("--group", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.group:
        folder, order, slowdown = options.group
        measure_group(Path(folder), options.cells, order, float(slowdown))
        return
    print(describe(), end="\n\n")
    same, found, others = simulated(options)
    if options.real:
        measured = real(options)
        same, found = [*same, *measured[0]], [*found, *measured[1]]
    report([*same, *found, *others], markdown=options.markdown)
    kept = all(row.share <= FALSE_ALARMS for row in same) and all(row.share >= FOUND for row in found)
    print(f"\nat most {FALSE_ALARMS:.0%} false alarms and at least {FOUND:.0%} found: {'kept' if kept else 'NOT kept'}")
    raise SystemExit(0 if kept else 1)


if __name__ == "__main__":
    main()
