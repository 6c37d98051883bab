"""Whether the latency that is published is the latency that there is: p50 by the MEASURE stage against a bare loop.

    python benchmarks/latency_truth.py [--groups 8] [--samples 70] [--markdown]

Ten small networks (``benchmarks/exporters/zoo.py``) in onnxruntime, batch 1, one thread. The two sides take turns
(ABBA or BAAB by chance), each time in a fresh process with the same variables, the same session options and as many
calls for each sample; a side's p50 is that of its raw samples together. Ends with 1 where a ratio is out of bounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from machine import describe
from overhead import HERE, Silent, planned, write_suite

from portmatrix import environments, latency, records, suite
from portmatrix.export import Bundle
from portmatrix.matrix import MatrixRun, Options
from portmatrix.store import Store, default_root
from portmatrix.workers import Failure, Launch, Limits, worker_environment

#: What the project promises of the ratio of the two p50.
ALLOWED = (0.98, 1.02)
MODELS = 10
_LIMITS = Limits(120, 4096)


class Row(NamedTuple):
    """One model: the two p50 in seconds, and calls for each sample."""

    model: str
    ours: float
    bare: float
    inner: int

    @property
    def ratio(self) -> float:
        """Ours over that of the bare loop."""
        return self.ours / self.bare


class Sides:
    """Both sides' ways of timing a bundle once."""

    def __init__(self, folder: Path, store: Store, samples: int) -> None:
        self._folder = folder
        self._store = store
        self._samples = samples
        self._suite = suite.load(folder)
        self._runtime = self._suite.plugins.runtimes["onnxruntime"]
        self._target = suite.here(self._suite)
        with records.Journal(folder / "none.jsonl", resume=False) as journal:
            self._run = MatrixRun(self._suite, store, journal, Silent(), Options("truth"))

    def bundles(self) -> list[Bundle]:
        """Return the bundles with a fixed batch, made if need be."""
        with records.Journal(self._folder / "made.jsonl", resume=False) as journal:
            run = MatrixRun(self._suite, self._store, journal, Silent(), Options("truth"))
            made = run.export_only(planned(self._suite))
        if failed := [bundle.reason for bundle in made.values() if isinstance(bundle, Failure)]:
            raise SystemExit(f"a model could not be made: {failed[0]}")
        found = [bundle for bundle in made.values() if isinstance(bundle, Bundle)]
        return [bundle for bundle in found if bundle.manifest.sets[0].batch == 1 and len(bundle.manifest.tried) == 1]

    def ours(self, bundle: Bundle) -> tuple[list[float], int]:
        """Return the samples of one block of the MEASURE stage, and the calls of each."""
        folder = self._store.bundle_folder(bundle.digest)
        with self._run.lease(self._runtime, self._target, 1) as lease:
            request = {
                "op": "measure",
                "file": str(self._runtime.file),
                "entry": str(folder / "artifact" / bundle.manifest.entry),
                "format": bundle.manifest.format,
                "signature": bundle.manifest.signature.model_dump(mode="json"),
                "sets": [{"inputs": bundle.manifest.sets[0].inputs, "batch": 1}],
                "bundle": str(folder),
                "threads": 1,
                "seconds": 10,
                "samples": self._samples,
            }
            answer = lease.ask(request, _LIMITS)
        if isinstance(answer, Failure):
            raise SystemExit(f"{bundle.manifest.model}: {answer.reason}\n{answer.log_tail}")
        (timing,) = answer["timings"]
        return timing["samples"], timing["inner"]

    def bare(self, bundle: Bundle, inner: int) -> list[float]:
        """Return the samples of the bare loop."""
        folder = self._store.bundle_folder(bundle.digest)
        built = environments.ensure(self._store, self._runtime.environment, Silent().says, 600)
        spec = self._runtime.environment
        launch = Launch("bare loop", (), built.command, spec.env, network=True, packages=spec.packages)
        given: dict[str, Any] = {
            "entry": str(folder / "artifact" / bundle.manifest.entry),
            "inputs": {name: str(folder / file) for name, file in bundle.manifest.sets[0].inputs.items()},
            "samples": self._samples,
            "inner": inner,
        }
        command = [str(built.python), "-I", str(HERE / "bare_latency.py"), json.dumps(given)]
        env = worker_environment(launch, self._folder, threads=1)
        done = subprocess.run(command, env=env, stdout=subprocess.PIPE, check=True)
        samples: list[float] = json.loads(done.stdout)
        return samples


def compare(sides: Sides, bundle: Bundle, groups: int) -> Row:
    """Return both p50 of a bundle, the sides taking turns."""
    _samples, inner = sides.ours(bundle)  # untimed: it tells how many calls make a sample
    ours: list[float] = []
    bare: list[float] = []
    for order in latency.schedule(groups, seed=len(bundle.digest) + int(bundle.digest[:6], 16)):
        for block in order:
            if block == "A":
                samples, inner_then = sides.ours(bundle)
                ours += samples
                inner = max(inner, inner_then)
            else:
                bare += sides.bare(bundle, inner)
    return Row(bundle.manifest.model, statistics.median(ours), statistics.median(bare), inner)


def report(rows: Sequence[Row], *, markdown: bool) -> bool:
    """Print the table; returns whether every ratio is within bounds."""
    if markdown:
        print("| model | portmatrix, µs | bare loop, µs | ratio |\n| --- | ---: | ---: | ---: |")
    for row in rows:
        fields = (row.model, f"{row.ours * 1e6:.2f}", f"{row.bare * 1e6:.2f}", f"{row.ratio:.4f}")
        print("| " + " | ".join(fields) + " |" if markdown else "{:<14} {:>10} {:>10} {:>8}".format(*fields))
    low, high = min(row.ratio for row in rows), max(row.ratio for row in rows)
    print(f"\n- **Ratios from {low:.4f} to {high:.4f}** ({ALLOWED[0]} to {ALLOWED[1]} is promised).")
    return ALLOWED[0] <= low and high <= ALLOWED[1]


def main() -> None:
    """Make what is missing, time both sides, print the table."""
    parser = argparse.ArgumentParser(description="p50 by the MEASURE stage against a bare loop.")
    parser.add_argument("--groups", type=int, default=8, help="groups of four blocks, two of each side")
    parser.add_argument("--samples", type=int, default=70, help="samples of each block")
    parser.add_argument("--markdown", action="store_true", help="print the table as it stands in the documentation")
    parser.add_argument("--store", type=Path, default=default_root(), help="where environments and bundles are kept")
    options = parser.parse_args()
    print(describe(), end="\n\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_suite(folder, 2 * MODELS)
        sides = Sides(folder, Store(options.store), options.samples)
        rows = [compare(sides, bundle, options.groups) for bundle in sides.bundles()]
    raise SystemExit(0 if report(rows, markdown=options.markdown) else 1)


if __name__ == "__main__":
    main()
