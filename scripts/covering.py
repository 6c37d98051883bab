"""Take every road of the matrix (framework, path, runtime, target) with a few models in turn, and check the records.

What is run is computed from the plug-ins, so that a new one is covered as soon as its file is there. Ends with a line
``N passed, N failed`` over all checks; exit status 1 if one failed.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from portmatrix import cli, plan, records, suite
from portmatrix.globs import Globs
from portmatrix.plan import Selection
from portmatrix.suite import Suite
from portmatrix.types import WORKING, CellId, Outcome, PathKind, Reach, Record


class Check(NamedTuple):
    """One thing that the records must show; ``wrong`` says what they show instead, or is empty."""

    name: str
    wrong: str = ""


def covering(cells: Iterable[CellId], models: int, working: Collection[str] = ()) -> list[CellId]:
    """Return of every road as many cells as ``models`` says; each road goes on with the models where the last ended.

    Where none of these is known to be ``working`` and another of the road is, that one is taken besides.
    """
    roads: dict[tuple[str, ...], list[CellId]] = {}
    for cell in cells:
        roads.setdefault((cell.framework, cell.path, cell.runtime, cell.target), []).append(cell)
    chosen: list[CellId] = []
    for number, road in enumerate(roads.values()):
        turns = range(min(models, len(road)))
        taken = [road[(number * models + turn) % len(road)] for turn in turns]
        if not any(str(cell) in working for cell in taken):
            taken += [cell for cell in road if str(cell) in working][:1]
        chosen += taken
    return chosen


#: A convolutional, a recurrent and an attentive network: what every target must run that is not only looked up.
FAMILIES = ("alexnet", "lstm", "transformer")


def on_targets(loaded: Suite, cells: Iterable[CellId]) -> list[CellId]:
    """Return the cells of these families over ONNX on all targets but this machine's own."""
    return [
        cell
        for cell in cells
        if cell.model in FAMILIES and _is_onnx(loaded, cell) and cell.target != suite.here(loaded)
    ]


def _is_onnx(loaded: Suite, cell: CellId) -> bool:
    return loaded.plugins.exporters[cell.framework].paths[cell.path].kind is PathKind.ONNX


def run(cells: Sequence[CellId], file: Path) -> int:
    """Run the cells as the command line does and return its exit status."""
    try:
        cli.main(["run", *map(str, cells), "--output", str(file)])
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def check_cells(cells: Sequence[CellId], found: Sequence[Record], reference: Mapping[str, Record]) -> Iterator[Check]:
    """Yield a check for every cell: it has one record, as expected, and as in the ``reference`` where that has it."""
    counted = Counter(record.cell for record in found)
    by_cell = {record.cell: record for record in found}
    for cell in dict.fromkeys([*map(str, cells), *by_cell]):
        record = by_cell.get(cell)
        if record is None:
            yield Check(cell, "was planned and has no record")
        elif counted[cell] > 1:
            yield Check(cell, f"has {counted[cell]} records")
        elif record.unexpected:
            yield Check(cell, _told(record))
        elif cell in reference and reference[cell].outcome is not record.outcome:
            yield Check(cell, f"{_told(record)}; in the reference it is {_told(reference[cell])}")
        else:
            yield Check(cell)


def _told(record: Record) -> str:
    stage = f" at {record.stage.value}" if record.stage else ""
    return f"{record.outcome.value}{stage}{': ' * bool(record.reason)}{record.reason}"


def check_plugins(loaded: Suite, found: Sequence[Record]) -> Iterator[Check]:
    """Yield a check for every exporter and every runtime: at least one of its cells works.

    Not for a runtime whose systems are all out of reach: of it there are look-ups only.
    """
    passed = [record.id for record in found if record.outcome in WORKING]
    reached = [target.platform.os for target in loaded.plugins.targets.values() if not target.is_static]
    runtimes = [name for name, item in loaded.plugins.runtimes.items() if not item.systems.isdisjoint(reached)]
    for kind, names, seen in (
        ("exporter", list(loaded.plugins.exporters), {cell.framework for cell in passed}),
        ("runtime", runtimes, {cell.runtime for cell in passed}),
    ):
        for name in names:
            yield Check(f"{kind} {name}", "" if name in seen else "none of its cells works")


def check_targets(loaded: Suite, found: Sequence[Record], must_reach: int) -> Iterator[Check]:
    """Yield a check for every target reached, that it passes each family over ONNX, and one for their number.

    A target for which nobody makes a runtime that takes ONNX passes something else, and does not count.
    """
    reached = [name for name, target in loaded.plugins.targets.items() if not target.is_static]
    ran = [record for record in found if record.reach is not Reach.STATIC and record.arrived]
    onnx = [record for record in ran if _is_onnx(loaded, record.id)]
    counted = [name for name in reached if name in {record.id.target for record in onnx}]
    yield Check(f"{must_reach} targets reached", "" if len(counted) >= must_reach else f"only {', '.join(counted)}")
    passed = {(record.id.target, record.id.model) for record in onnx if record.outcome is Outcome.PASS}
    for target in reached:
        if target not in counted:
            works = any(record.id.target == target and record.outcome is Outcome.PASS for record in ran)
            yield Check(f"target {target}", "" if works else "none of its cells passed")
            continue
        for model in FAMILIES:
            yield Check(f"{model} on {target}", "" if (target, model) in passed else "passed over no ONNX path")


def check_training(trained: Sequence[str], found: Sequence[Record]) -> Iterator[Check]:
    """Yield a check for each framework in ``trained``: it was trained by this run, and not taken from the archive."""
    here = {record.id.framework for record in found if not record.archived and "trained_on" in record.facts}
    for name in trained:
        yield Check(f"training in {name}", "" if name in here else "none of its models was trained by this run")


def main() -> int:
    """Choose, run, check; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--models", type=int, default=3, help="how many models take each road (3)")
    parser.add_argument("--trained", nargs="*", default=[], help="frameworks that must not come from the archive")
    parser.add_argument("--list", action="store_true", help="print the cells and run nothing")
    parser.add_argument("--targets", type=int, default=1, help="how many targets must be reached (1)")
    options = parser.parse_args()
    loaded = suite.load(suite.find_root(Path.cwd()))
    planned = plan.plan(suite.axes(loaded), suite.exclusions(loaded), Selection())
    kept = loaded.root / "results" / "reference.jsonl"
    flipping = Globs([item.cells for item in loaded.spec.expect if item.rate is not None])
    known = [record for record in records.read(kept) if record.id not in flipping] if kept.is_file() else []
    reference = {record.cell: record for record in known}
    working = {cell for cell, record in reference.items() if record.outcome in WORKING}
    chosen = covering(planned.cells, options.models, working)
    cells = list(dict.fromkeys([*chosen, *on_targets(loaded, planned.cells)]))
    if options.list:
        print(*cells, sep="\n")
        return 0
    file = loaded.root / "results" / "covering.jsonl"
    status = run(cells, file)
    if status not in (0, 1):
        return status
    found = list(records.read(file))
    checks = [*check_cells(cells, found, reference), *check_plugins(loaded, found)]
    checks += check_targets(loaded, found, options.targets)
    checks += check_training(options.trained, found)
    failed = [check for check in checks if check.wrong]
    for check in failed:
        print(f"{check.name}: {check.wrong}")
    print(f"{len(checks) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed or status else 0


if __name__ == "__main__":
    sys.exit(main())
