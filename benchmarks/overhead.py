"""What the engine adds: 500 onnxruntime cells through it, against a bare loop over the same files in one process.

    python benchmarks/overhead.py [--cells 500] [--repeat 5] [--jobs 1] [--markdown]

The cells are those of a suite of its own: 250 small networks with a fixed and with a symbolic batch, written once by
``benchmarks/exporters/zoo.py`` and kept in the store. Both sides start from these bundles:

- engine: a new process loads the suite, plans, and runs every cell again (one worker at a time). Nothing is left out:
  bundles are verified, workers are closed off the network and watched, outputs travel as files, every output gets its
  full comparison, every cell its record, in the records file and in the store.
- bare loop: a new process of the same onnxruntime environment (``benchmarks/bare_loop.py``) loads each model with the
  same session options, reads the same samples, makes the same calls, reads the same reference and checks it. No
  records, no limits on time or memory, and a model that crashes ends it.

The sides take turns (ABBA) after an untimed run of each; all figures are medians. The bare loop is timed from outside,
interpreter start and imports included. The ratio that is promised has ``MatrixRun.execute`` above it: everything from
the plan to the last record, with the start of the worker and its imports. The whole engine process, with the engine's
own start and imports and the parsing of the suite, is given beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from machine import describe

from portmatrix import environments, records, suite
from portmatrix.matrix import MatrixRun, Options
from portmatrix.plan import Plan, Selection, plan
from portmatrix.store import Store, default_root
from portmatrix.types import Outcome, PathKind, Record
from portmatrix.workers import Failure, Launch, worker_environment

HERE = Path(__file__).parent
#: The wall-clock ratio that the project promises not to exceed.
ALLOWED = 1.3
FAMILIES = ("mlp", "convnet", "residual", "inception", "lstm")
PATHS = 2


class Run(NamedTuple):
    """How one side is started."""

    command: list[str]
    env: dict[str, str]


class Timing(NamedTuple):
    """One run of one side: its wall-clock seconds from outside, and the JSON that it printed."""

    wall: float
    told: dict[str, Any]


class Silent:
    """A listener that keeps to itself."""

    def begins(self, what: str) -> None:
        """Say nothing."""

    def ended(self, record: Record) -> None:
        """Say nothing."""

    def says(self, text: str) -> None:
        """Pass on what the engine says about itself, such as a download."""
        print(text, file=sys.stderr)


def write_suite(folder: Path, cells: int) -> None:
    """Write the suite of ``cells`` cells into ``folder``; runtimes and targets are portmatrix's own."""
    models = [f"{FAMILIES[number % len(FAMILIES)]}-{number // len(FAMILIES)}" for number in range(cells // PATHS)]
    lines = [
        "version: 1",
        "bundle: {seed: 1, rows: 16, static_batch: 1, dynamic_batches: [16, 5]}",
        "runtimes: [onnxruntime]",
        "models:",
        *(f"  {model}: {{}}" for model in models),
    ]
    (folder / "matrix.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "exporters").mkdir()
    shutil.copy(HERE / "exporters" / "zoo.py", folder / "exporters")


def planned(loaded: suite.Suite) -> Plan:
    """Return the plan of all of the suite's cells on this machine itself."""
    return plan(suite.axes(loaded), suite.exclusions(loaded), Selection())


def make(folder: Path, store: Store) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Make the bundles that the store lacks; returns what the bare loop must know of them, and the tolerance."""
    loaded = suite.load(folder)
    with records.Journal(folder / "none.jsonl", resume=False) as journal:
        made = MatrixRun(loaded, store, journal, Silent(), Options("make")).export_only(planned(loaded))
    bundles: list[dict[str, Any]] = []
    for name, bundle in made.items():
        if isinstance(bundle, Failure):
            raise SystemExit(f"{'/'.join(name)}: {bundle.reason}\n{bundle.log_tail}")
        place = store.bundle_folder(bundle.digest)
        sets = [item.model_dump(mode="json") for item in bundle.manifest.sets]
        bundles.append({"entry": str(place / "artifact" / bundle.manifest.entry), "folder": str(place), "sets": sets})
    strict, _loose = loaded.spec.tolerance(PathKind.ONNX, "float32", next(iter(loaded.spec.models)))
    return bundles, strict.model_dump()


def engine_side(folder: Path, store: Store, jobs: int) -> None:
    """Run every cell of the suite in ``folder`` again and print the seconds of each step as JSON."""
    clock = {}
    start = time.perf_counter()
    loaded = suite.load(folder)
    cells = planned(loaded)
    clock["load suite and plan"] = time.perf_counter() - start
    start = time.perf_counter()
    with records.Journal(folder / "records.jsonl", resume=False) as journal:
        MatrixRun(loaded, store, journal, Silent(), Options("bench", jobs, rerun=True)).execute(cells)
    clock["execute"] = time.perf_counter() - start
    made = list(records.read(folder / "records.jsonl"))
    passed = sum(record.outcome is Outcome.PASS for record in made)
    stages = {stage: sum(record.seconds.get(stage, 0.0) for record in made) for stage in _stages(made)}
    print(json.dumps({"passed": passed, "seconds": clock, "stages": stages}))


def _stages(made: Iterable[Record]) -> list[str]:
    return sorted({stage for record in made for stage in record.seconds})


def bare_command(bundles: list[dict[str, Any]], tolerance: dict[str, float], folder: Path, store: Store) -> Run:
    """Return what starts the bare loop: the onnxruntime environment's interpreter, with a worker's variables."""
    loaded = suite.load(folder)
    spec = loaded.plugins.runtimes["onnxruntime"].environment
    built = environments.ensure(store, spec, Silent().says, loaded.spec.limits.prepare_seconds)
    listed = folder / "bundles.json"
    listed.write_text(json.dumps(bundles), encoding="utf-8")
    launch = Launch("bare loop", (), built.command, spec.env, network=True, packages=spec.packages)
    command = [str(built.python), "-I", str(HERE / "bare_loop.py"), str(listed), json.dumps(tolerance)]
    return Run(command, worker_environment(launch, folder, threads=1))


def timed(run: Run) -> Timing:
    """Run one side to its end; returns its wall-clock seconds from outside, and what it printed."""
    start = time.perf_counter()
    done = subprocess.run(run.command, env=run.env, stdout=subprocess.PIPE, check=True)
    return Timing(time.perf_counter() - start, json.loads(done.stdout))


def measure(engine: Run, bare: Run, repeat: int, cells: int) -> tuple[list[Timing], list[Timing]]:
    """Return the timings of both sides after one untimed run of each, taken in ABBA order."""
    sides: tuple[list[Timing], list[Timing]] = ([], [])
    for number in range(-1, repeat):
        order = (0, 1) if number % 2 == 0 else (1, 0)
        for side in order:
            timing = timed((engine, bare)[side])
            if timing.told["passed"] != cells:
                raise SystemExit(f"only {timing.told['passed']} of {cells} cells passed: nothing here is comparable")
            if number >= 0:
                sides[side].append(timing)
    return sides


def nothing_new(folder: Path, store: Store, repeat: int) -> float:
    """Return the median seconds of the whole command ``portmatrix run`` where every cell's record can be reused."""
    start = "from portmatrix.cli import main; main()"
    options = ["--suite", str(folder), "--store", str(store.root), "--output", str(folder / "again.jsonl")]
    seconds = []
    for _ in range(repeat):
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-c", start, "run", *options], stdout=subprocess.DEVNULL, check=True)
        seconds.append(time.perf_counter() - begun)
    if not all(record.reused for record in records.read(folder / "again.jsonl")):
        raise SystemExit("not every record was reused: nothing here is comparable")
    return statistics.median(seconds)


def middle(timings: Iterable[Timing], value: Callable[[Timing], float]) -> float:
    """Return the median of ``value`` over the timings."""
    return statistics.median(value(timing) for timing in timings)


def rows(engine: list[Timing], bare: list[Timing]) -> list[tuple[str, float, float | None]]:
    """Return the lines of the breakdown: what, median seconds in the engine, and in the bare loop if it has that."""

    def told(group: str, name: str) -> Callable[[Timing], float]:
        return lambda timing: float(timing.told[group].get(name, 0.0))

    def rest(timing: Timing) -> float:
        return float(timing.wall - sum(timing.told["seconds"].values()))

    found: list[tuple[str, float, float | None]] = [
        ("whole process, from outside", middle(engine, lambda one: one.wall), middle(bare, lambda one: one.wall)),
        ("`MatrixRun.execute`", middle(engine, told("seconds", "execute")), None),
        ("loading the suite, planning", middle(engine, told("seconds", "load suite and plan")), None),
        ("start and end of the process, imports", middle(engine, rest), middle(bare, rest)),
        ("import of onnxruntime (engine: in the first LOAD)", 0.0, middle(bare, told("seconds", "import"))),
    ]
    for stage, step in (("LOAD", "load"), ("RUN", "run"), ("COMPARE", "compare"), ("PREPARE", None)):
        theirs = middle(bare, told("seconds", step)) if step else None
        found.append((f"stage {stage}, all cells", middle(engine, told("stages", stage)), theirs))
    return found


def report(engine: list[Timing], bare: list[Timing], cells: int, *, markdown: bool) -> float:
    """Print the table; returns the ratio that is promised."""
    table = rows(engine, bare)
    whole, execute = table[0], table[1]
    bare_seconds = middle(bare, lambda one: one.wall)
    ratio = execute[1] / bare_seconds
    if markdown:
        print("| | engine, s | bare loop, s |\n| --- | ---: | ---: |")
    for what, ours, theirs in table:
        other = "" if theirs is None else f"{theirs:.3f}"
        print(f"| {what} | {ours:.3f} | {other} |" if markdown else f"{what:<46} {ours:>8.3f} {other:>8}")
    print()
    spread = [f"{min(side):.2f} to {max(side):.2f} s" for side in ([one.wall for one in it] for it in (engine, bare))]
    print(f"- {cells} cells, {len(engine)} timed runs of each side; engine {spread[0]}, bare loop {spread[1]}.")
    each = [1000 * seconds / cells for seconds in (execute[1], bare_seconds)]
    print(f"- Per cell: {each[0]:.2f} ms through the engine, {each[1]:.2f} ms in the bare loop.")
    print(f"- **Ratio, `MatrixRun.execute` to the whole bare process: {ratio:.2f}** (at most {ALLOWED} is promised).")
    print(
        f"- Ratio, whole process to whole process: {whole[1] / bare_seconds:.2f}; it has the engine's imports besides."
    )
    return ratio


def main() -> None:
    """Make what is missing, time both sides, print the table; ends with 1 if the ratio is above what is promised."""
    parser = argparse.ArgumentParser(description="500 onnxruntime cells through the engine against a bare loop.")
    parser.add_argument("--cells", type=int, default=500, help="how many cells; an even number")
    parser.add_argument("--repeat", type=int, default=5, help="timed runs of each side")
    parser.add_argument("--markdown", action="store_true", help="print the table as it stands in docs/performance.md")
    parser.add_argument("--store", type=Path, default=default_root(), help="where environments and bundles are kept")
    parser.add_argument("--jobs", type=int, default=1, help="the engine's workers; the bare loop is always alone")
    parser.add_argument("--engine-side", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    store = Store(options.store)
    if options.engine_side:
        engine_side(options.engine_side, store, options.jobs)
        return
    print(describe(), end="\n\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_suite(folder, options.cells)
        bare = bare_command(*make(folder, store), folder, store)
        command = [sys.executable, str(Path(__file__).absolute()), "--engine-side", name, "--store", str(store.root)]
        command += ["--jobs", str(options.jobs)]
        sides = measure(Run(command, dict(os.environ)), bare, options.repeat, options.cells)
        again = nothing_new(folder, store, options.repeat)
    ratio = report(*sides, options.cells, markdown=options.markdown)
    print(f"- `portmatrix run` over the same {options.cells} cells with nothing changed since: {again:.2f} s.")
    raise SystemExit(1 if ratio > ALLOWED else 0)


if __name__ == "__main__":
    main()
