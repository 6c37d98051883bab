"""Where in a suite's files an unexpected outcome is looked at: an entry of ``matrix.yaml``, or a plug-in's file."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from portmatrix import suite as suites
from portmatrix.globs import Globs
from portmatrix.plugins import Exporter, Runtime, Target
from portmatrix.render.unexpected import Locate, Location
from portmatrix.suite import Suite
from portmatrix.types import Record, Stage

#: What ends in these stages is the exporter's; everything later is the runtime's.
_EXPORTERS = frozenset({Stage.TRAIN, Stage.EXPORT})


def locator(suite: Suite, repository: Path) -> Locate:
    """Return a function from a record to where it is to be looked at; files are named relative to ``repository``.

    That is the entry of ``expect`` that is about the cell; else the file of the exporter (``TRAIN``, ``EXPORT``), of
    the runtime, or of the target, the first that there is; else the model's entry. A suite outside of the repository
    is taken for one of its own; what is in neither has no place, and in the packaged suite nothing has.
    """
    root = suite.root.resolve()
    if root == suites.PACKAGED.resolve():
        return lambda _record: None
    base = repository.resolve()
    base = base if root.is_relative_to(base) else root
    spec = root / suites.SPEC
    entries = [(item, Globs([item.cells]), suite.spec.line("expect", n)) for n, item in enumerate(suite.spec.expect)]

    def locate(record: Record) -> Location | None:
        # Of several entries about a cell it is the one whose reason the record gives.
        about = (
            (spec, line)
            for item, globs, line in entries
            if record.expected in (None, item.reason) and record.id in globs
        )
        places = [*islice(about, 1), *((file, 1) for file in _files(suite, record))]
        places.append((spec, suite.spec.line("models", record.id.model)))
        inside = ((file.resolve(), line) for file, line in places)
        near = next((place for place in inside if place[0].is_relative_to(base)), None)
        return Location(near[0].relative_to(base).as_posix(), max(1, near[1])) if near else None

    return locate


def _files(suite: Suite, record: Record) -> Iterator[Path]:
    """Yield the files of the plug-ins that a record's end is about, the nearest first; those of broken ones, too."""
    cell, plugins = record.id, suite.plugins
    broken = {(item.kind, item.name): item.file for item in plugins.broken}
    known = {
        "exporter": _file(plugins.exporters.get(cell.framework), broken.get(("exporter", cell.framework))),
        "runtime": _file(plugins.runtimes.get(cell.runtime), broken.get(("runtime", cell.runtime))),
        "target": _file(plugins.targets.get(cell.target), broken.get(("target", cell.target))),
    }
    first = "exporter" if record.stage in _EXPORTERS else "runtime"
    yield from filter(None, (known[kind] for kind in dict.fromkeys((first, "exporter", "runtime", "target"))))


def _file(found: Exporter | Runtime | Target | None, broken: Path | None) -> Path | None:
    return found.file if found is not None else broken
