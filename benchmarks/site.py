"""What a report of 100,000 records costs: to build, on the disk, and in a browser.

    python benchmarks/site.py [--records 100000] [--repeat 3] [--markdown] [--keep FOLDER]

The records are of as many cells (10 frameworks, 4 paths, 25 runtimes, 10 targets, and as many models as it takes), and
mixed as those of a real run are: two in three pass, with two comparisons each and every digit of every number; the
others are known failures, failures with blame, look-ups, errors with a log of up to 4,000 characters, and not run. One
in four that pass was measured, four ways of calling. A quarter of all cells stood otherwise in the base.

Building is a process of its own: it reads the records from a file, rates them, builds the pages and writes them; once
alone, and once with the base, which is read and compared, too. Then Chromium opens pages from the disk: time to the
first contentful paint, until what the page is for stands there, and from a filter's change to the frame that shows its
result; how far anything moved by itself (CLS); and the longest frame while the list is scrolled through. Every figure
is the middle of ``--repeat``, the browser's after one start for nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from machine import describe
from playwright.sync_api import Browser, Page, sync_playwright
from scale import axes_of, peak_mb

from portmatrix import cli
from portmatrix.advice import Kinship, Road
from portmatrix.plan import cells_of
from portmatrix.rate import rate
from portmatrix.records import ResultSet
from portmatrix.regression import compare
from portmatrix.render.table import urgency
from portmatrix.site import build
from portmatrix.site.links import to_cell
from portmatrix.site.page import Context
from portmatrix.spec import MatrixSpec
from portmatrix.types import (
    Batch,
    Blame,
    CellId,
    Comparison,
    Latency,
    Lookup,
    Outcome,
    PathKind,
    Reach,
    Record,
    Stage,
    Timing,
    Tolerance,
)

ROOT = Path(__file__).parents[1]
#: What the project promises for 100,000 records.
BUILT_SECONDS, SITE_MB, BROWSER_MS, MOVED = 20.0, 30.0, 1000.0, 0.0
FILTERS = {
    "one framework": "framework=framework-3",
    "failures of two runtimes": "outcome=FAIL&runtime=runtime-4&runtime=runtime-17",
    "a text": "text=runtime-1%20target-9%20tolerance",
    "a glob": "text=framework-*/model-7/*/target-2",
    "everything, by what tolerance it needs": "sort=-needed",
    "everything, by reason": "sort=reason",
}


# --- Records --------------------------------------------------------------------------------------------------------


def made(count: int) -> Iterator[Record]:
    """Yield the records of that many cells, with the same seed each time."""
    rng = random.Random(2016)
    for cell in cells_of(axes_of(count)):
        yield attempt(rng, cell)


def attempt(rng: random.Random, cell: CellId) -> Record:
    """Return one record, of the kinds and about as often as the reference results have them."""
    bundle = hashlib.sha256("/".join(cell[:3]).encode()).hexdigest()
    fields: dict[str, Any] = {
        "cell": str(cell),
        "reach": list(Reach)[int(cell.target[-1]) % 4],
        "run": "2026-11-26T092142-63d465",
        "started": f"2026-11-26T09:{rng.randrange(60):02d}:{rng.random() * 60:06.3f}Z",
        "accuracy": 0.9427609427609428,
        "bundle": bundle,
        "recipe": bundle[::-1],
        "environment": {"python": "3.11.7", cell.runtime: "1.32.0", "numpy": "2.4.6", "processor": "of the benchmark"},
        "facts": {
            "exporter": "torch.onnx",
            "opset": 18,
            "operators": "Conv:5 Gemm:3 Relu:7",
            "trained_on": "linux-x86_64",
        },
        "engine": "0.1.0",
    }
    chance = rng.random()
    if chance < 0.65:
        ran = {name: round(rng.random() / 100, 6) for name in ("PREPARE", "LOAD", "RUN", "COMPARE")}
        compared = tuple(comparison(rng, batch, "strict") for batch in (16, 5))
        timed = latency(rng, cell) if chance < 0.16 else None
        return Record(**fields, outcome=Outcome.PASS, seconds=ran, comparisons=compared, latency=timed)
    return Record(**fields | failed(rng, cell, chance))


def failed(rng: random.Random, cell: CellId, chance: float) -> dict[str, Any]:
    """Return what a record has where the cell did not pass."""
    if chance < 0.77:
        why = f"{cell.path}: operator {rng.choice(('Scan', 'Loop', 'If', 'GridSample', 'TopK'))} is not supported"
        return {"outcome": Outcome.XFAIL, "stage": Stage.LOAD, "reason": why, "expected": "it has no such operator"}
    if chance < 0.89:
        asked = f"{cell.runtime}==1.32.0 for CPython 3.14 on {cell.target}"
        found = tuple(f"{name}-1.0-cp314-cp314-{cell.target}.whl" for name in (cell.runtime, "numpy", "protobuf"))
        lookup = Lookup(possible=True, asked=asked, found=found, floor="macOS 14.0", date="2026-11-26")
        said = {"reason": f"looked up, not run: {asked}", "lookup": lookup, "reach": Reach.STATIC}
        return {"outcome": Outcome.NOT_RUN, "stage": Stage.PREPARE, **said}
    if chance < 0.92:
        bad = tuple(comparison(rng, batch, "fail") for batch in (16, 5))
        reason = f"output 'logits' (batch 16): {bad[0].why}"
        blame = Blame(party="runtime", referee="onnx-reference", why="the reference agrees with the framework to 2e-7")
        return {"outcome": Outcome.FAIL, "stage": Stage.COMPARE, "reason": reason, "comparisons": bad, "blame": blame}
    if chance < 0.95:
        lines = (f'  File "runtime.py", line {rng.randrange(900)}, in step_{rng.randrange(99)}' for _ in range(99))
        log = "\n".join(lines)[-rng.randrange(200, 4000) :]
        return {"outcome": Outcome.ERROR, "stage": Stage.RUN, "reason": "worker killed by SIGKILL", "log_tail": log}
    return {
        "outcome": Outcome.NOT_RUN,
        "stage": Stage.PREPARE,
        "reason": f"{cell.target} cannot be reached",
        "reach": None,
    }


def comparison(rng: random.Random, batch: int, verdict: Any) -> Comparison:
    """Return a comparison whose numbers have all of their digits."""
    scale = rng.random() * (1e-6 if verdict == "strict" else 1e-1)
    at = f"at [0, {rng.randrange(16)}, {rng.randrange(10)}] {rng.random() * 20:.6f}, expected {rng.random() * 20:.6f}"
    return Comparison(
        output="logits", batch=batch, dtype="float32", shape=(16 // batch, batch, 10), elements=160,
        max_abs=scale, max_rel=scale * rng.random() * 10, mismatched=0.0 if verdict == "strict" else rng.random(),
        snr_db=140 * rng.random(), cosine=1 - scale, top1=1.0, needed=scale * 1e4, verdict=verdict,
        tolerance=Tolerance(atol=1e-4, rtol=1e-5), why="" if verdict == "strict" else f"outside the tolerance; {at}",
    )  # fmt: skip


def latency(rng: random.Random, cell: CellId) -> Latency:
    """Return a measurement of four ways of calling."""
    timings = tuple(timing(rng, batch, threads) for threads in (1, 2) for batch in (1, 16))
    return Latency(
        baseline="/".join((*cell[:3], "runtime-0", cell.target)), session="2026-11-26T092847-282a42", timings=timings,
        blocks=tuple(tuple(rng.random() for _ in range(5)) for _ in timings), load_seconds=rng.random(),
        first_seconds=rng.random() / 100, peak_mb=round(rng.random() * 400, 3), artifact_bytes=rng.randrange(10**6),
        installed_bytes=75708174, host={"cpu": "of the benchmark", "cores": "2 (2 threads)", "load": "0.12"},
    )  # fmt: skip


def timing(rng: random.Random, batch: int, threads: int) -> Timing:
    """Return one way of calling, with all quantiles and the interval of its ratio."""
    p50, ratio = rng.random() / 1000, 0.5 + rng.random()
    return Timing(
        batch=batch, threads=threads, inner=7, samples=700, p50=p50, p90=p50 * (1 + rng.random() / 10),
        p99=p50 * (1.2 + rng.random()), baseline_p50=p50 / ratio, ratio=ratio, low=ratio * (1 - rng.random() / 50),
        high=ratio * (1 + rng.random() / 50), groups=5,
    )  # fmt: skip


def write_records(count: int, folder: Path) -> int:
    """Write the records and those of the base into two files; returns the bytes of the first."""
    rng = random.Random(count)
    with (folder / "now.jsonl").open("w") as now, (folder / "base.jsonl").open("w") as base:
        for record in made(count):
            now.write(record.model_dump_json(exclude_defaults=True).replace("{", '{"schema_version":1,', 1) + "\n")
            former = attempt(rng, record.id) if rng.random() < 0.25 else record
            former = former.model_copy(update={"run": "before", "started": "2026-11-25T09:00:00.000Z"})
            base.write(former.model_dump_json(exclude_defaults=True).replace("{", '{"schema_version":1,', 1) + "\n")
    return (folder / "now.jsonl").stat().st_size


# --- Building -------------------------------------------------------------------------------------------------------


class Built(NamedTuple):
    """Seconds in all, of the processor, and of the pages alone; peak MiB; the site's bytes and files."""

    seconds: float
    cpu_seconds: float
    of_pages: float
    memory_mb: float
    size: int
    files: int


def build_site(folder: Path, *, with_base: bool) -> Built:
    """Read, rate, compare, build and write, as ``portmatrix report --site`` does, with ``--base`` or without."""
    start, cpu = time.perf_counter(), time.process_time()
    found = cli._read([folder / "now.jsonl"])  # as the command reads them
    before = cli._read([folder / "base.jsonl"]) if with_base else None
    results = ResultSet(found)
    spec = MatrixSpec.model_validate({"version": 1, "models": {record.id.model: {} for record in found}})
    roads = {f"onnx-{number}": Road(PathKind.ONNX, "onnx", list(Batch)[number % 2]) for number in range(4)}
    context = Context(
        title="portmatrix",
        records=tuple(sorted(results.records, key=urgency)),
        evidence=tuple(found),
        ratings=rate(found, spec.ratings),
        spec=spec,
        base={record.cell: record for record in before} if before is not None else None,
        changes=compare(before, found) if before is not None else None,
        kinships={f"framework-{number}": Kinship(roads, {}) for number in range(10)},
        planned=frozenset(record.cell for record in found),
    )
    pages = time.perf_counter()
    files = build.build(context)
    build.write(files, folder / ("site-with-base" if with_base else "site"))
    end = time.perf_counter()
    return Built(
        end - start, time.process_time() - cpu, end - pages, peak_mb(), sum(map(len, files.values())), len(files)
    )


def in_process(folder: Path, *, with_base: bool) -> Built:
    """Return what building cost in a process of its own."""
    command = [sys.executable, str(Path(__file__).absolute()), "--build", str(folder), *(["--base"] * with_base)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return Built(*json.loads(done.stdout))


# --- In the browser -------------------------------------------------------------------------------------------------

_WATCH = """
window.moved = 0;
new PerformanceObserver((list) => { for (const entry of list.getEntries()) window.moved += entry.value; })
    .observe({ type: "layout-shift", buffered: true });
"""
_PAINTED = 'performance.getEntriesByName("first-contentful-paint")[0]?.startTime'
#: From a change of the address to the frame after the one in which the list shows the result.
_FILTERED = """(fragment) => new Promise((resolve) => {
    const start = performance.now();
    addEventListener("hashchange", () => requestAnimationFrame(() => requestAnimationFrame(() =>
        resolve(performance.now() - start))), { once: true });
    location.hash = fragment;
})"""
_SCROLLED = """() => new Promise((resolve) => {
    const grid = document.getElementById("grid");
    let last = performance.now();
    let longest = 0;
    let frames = 0;
    const step = (now) => {
        longest = frames > 1 ? Math.max(longest, now - last) : 0;
        last = now;
        frames += 1;
        if (frames > 120) { resolve(longest); return; }
        grid.scrollTop += frames % 10 ? 400 : 90000;
        requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
})"""


def opened(browser: Browser, address: str, stands: str) -> dict[str, float]:
    """Open a page from the disk; return ms to the first contentful paint and until ``stands`` is there, and the CLS."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.add_init_script(_WATCH)
    page.goto(address, wait_until="commit")
    page.locator(stands).first.wait_for()
    there = page.evaluate("performance.now()")
    page.wait_for_function(f"{_PAINTED} !== undefined")
    page.wait_for_timeout(300)
    found = {"painted": page.evaluate(_PAINTED), "stands": there, "moved": page.evaluate("window.moved")}
    page.close()
    return found


def filtered(page: Page) -> dict[str, float]:
    """Return the ms that each filter took."""
    return {name: page.evaluate(_FILTERED, fragment) for name, fragment in FILTERS.items()}


def in_browser(site: Path, cell: str, repeat: int) -> tuple[dict[str, dict[str, float]], dict[str, float], float]:
    """Return for each page what opening it took, ms of each filter, and ms of the longest frame while scrolling."""
    (way,) = runpy.run_path(str(ROOT / "targets" / "browser.py"))["reach"]({"os": sys.platform})
    if "why" in way:
        raise SystemExit(f"{way['why']}; {way['install']}")
    pages = {
        "index.html": "h1",
        "matrix.html": "#rows .row",
        to_cell(cell): "#cell .columns",
        "latency.html": "h1",
        "modelling.html": "h1",
    }
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=way["env"]["PORTMATRIX_BROWSER"], args=["--no-sandbox"])
        base = site.as_uri()
        opened(browser, f"{base}/index.html", "h1")
        times = {
            address.partition("#")[0]: middle([opened(browser, f"{base}/{address}", stands) for _ in range(repeat)])
            for address, stands in pages.items()
        }
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(f"{base}/matrix.html")
        page.locator("#rows .row").first.wait_for()
        filters = middle([filtered(page) for _ in range(repeat)])
        page.evaluate("location.hash = ''")
        longest = statistics.median(page.evaluate(_SCROLLED) for _ in range(repeat))
        browser.close()
    return times, filters, longest


def middle(found: list[dict[str, float]]) -> dict[str, float]:
    """Return the median of each number."""
    return {name: statistics.median(one[name] for one in found) for name in found[0]}


def middle_build(found: list[Built]) -> Built:
    """Return the median seconds and the largest memory of several builds of the same."""
    return found[0]._replace(
        seconds=statistics.median(one.seconds for one in found),
        cpu_seconds=statistics.median(one.cpu_seconds for one in found),
        of_pages=statistics.median(one.of_pages for one in found),
        memory_mb=max(one.memory_mb for one in found),
    )


# --- All of it ------------------------------------------------------------------------------------------------------


def report(count: int, repeat: int, folder: Path, *, markdown: bool) -> bool:
    """Measure and print; returns whether what is promised holds."""
    size = write_records(count, folder)
    built, against = (
        middle_build([in_process(folder, with_base=with_base) for _ in range(repeat)]) for with_base in (False, True)
    )
    cell = next(record.cell for record in made(count) if record.outcome is Outcome.FAIL)
    times, filters, longest = in_browser(folder / "site-with-base", cell, repeat)
    rows = [
        ("built, with reading and rating, s", built.seconds, BUILT_SECONDS),
        ("of that the processor was busy, s", built.cpu_seconds, None),
        ("of that the pages, s", built.of_pages, None),
        ("peak memory, MiB", built.memory_mb, None),
        ("site, MB", built.size / 1e6, SITE_MB),
        ("built, with reading a base as large and comparing, too, s", against.seconds, None),
        ("of that the processor was busy, s", against.cpu_seconds, None),
        ("site with the base, MB", against.size / 1e6, SITE_MB),
        *((f"{name}: first contentful paint, ms", one["painted"], BROWSER_MS) for name, one in times.items()),
        *((f"{name}: stands, ms", one["stands"], BROWSER_MS) for name, one in times.items()),
        *((f"{name}: layout shift", one["moved"], MOVED if name == "matrix.html" else None)
          for name, one in times.items()),
        *((f"filter, {name}, ms", ms, BROWSER_MS) for name, ms in filters.items()),
        ("longest frame while scrolling, ms", longest, None),
    ]  # fmt: skip
    print(f"- {count:,} records, {size / 1e6:,.0f} MB; the site has {built.files:,} files.\n")
    print("| what | measured | promised |\n| --- | ---: | ---: |" if markdown else "what\tmeasured\tpromised")
    for what, value, limit in rows:
        fields = (what, f"{value:.3g}", "" if limit is None else f"{limit:g}")
        print(f"| {' | '.join(fields)} |" if markdown else "\t".join(fields))
    return all(limit is None or value <= limit for _, value, limit in rows)


def main() -> None:
    """Measure and print; ends with 1 if a report costs more than is promised."""
    parser = argparse.ArgumentParser(description="What a report of 100,000 records costs.")
    parser.add_argument("--records", type=int, default=100_000, help="a multiple of 10,000")
    parser.add_argument("--repeat", type=int, default=3, help="how often everything is measured")
    parser.add_argument("--markdown", action="store_true", help="print the table as it stands in docs/performance.md")
    parser.add_argument("--keep", type=Path, help="leave records and site in this folder")
    parser.add_argument("--build", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--base", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.build:
        print(json.dumps(build_site(options.build, with_base=options.base)))
        return
    print(describe(), end="\n\n")
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        kept = report(options.records, options.repeat, folder, markdown=options.markdown)
    raise SystemExit(0 if kept else 1)


if __name__ == "__main__":
    main()
