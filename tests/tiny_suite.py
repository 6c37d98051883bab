"""What the tests of the engine share: suites put together from tiny's plug-ins, and what a run left behind."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import psutil
from ruamel.yaml import YAML

from portmatrix import records
from portmatrix.globs import Globs
from portmatrix.store import Store
from portmatrix.suite import Suite
from portmatrix.types import CellId, Outcome, Record, Stage
from portmatrix.workers import Lease

TINY = Path(__file__).with_name("tiny")
#: How long a test waits for something that must happen, in seconds; it is no measure of how long that takes.
PATIENCE = 60
_Found = TypeVar("_Found")


def eventually(look: Callable[[], _Found], what: str) -> _Found:
    """Return what ``look`` finds as soon as it finds anything; fails the test if it never does."""
    deadline = time.monotonic() + PATIENCE
    while not (found := look()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)
    return found


def tree_of(lease: Lease, name: str = "") -> list[psutil.Process]:
    """Return the processes of a lease's worker, what they have started included, whose name begins with ``name``."""
    worker = lease._worker
    assert worker is not None, "there is no worker"
    first = psutil.Process(worker._process.pid)
    return [process for process in (first, *first.children(recursive=True)) if name_of(process).startswith(name)]


def name_of(process: psutil.Process) -> str:
    """Return the name of a process, which may be about to end; nothing where it has."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.name()
    return ""


# --- Suites ---------------------------------------------------------------------------------------------------------


def assemble_suite(root: Path, plugins: tuple[str, ...], models: tuple[str, ...], spec: dict[str, Any]) -> Path:
    """Make a suite in ``root``: the plug-ins named (tiny's own, else its faults), tiny's target, data and spec.

    Without an exporter among them there is tiny's own, ``linear``; ``spec`` is laid over tiny's ``matrix.yaml``.
    """
    if not any(plugin.startswith("exporters/") for plugin in plugins):
        plugins = ("exporters/linear", *plugins)
    for plugin in ("targets/here", "data/points", *plugins):
        source = next(file for file in (TINY / f"{plugin}.py", TINY / "faults" / f"{plugin}.py") if file.is_file())
        (root / plugin).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, root / f"{plugin}.py")
    (root / "runtimes").mkdir(exist_ok=True)
    tiny = YAML(typ="safe").load(TINY / "matrix.yaml")
    tiny["models"] = {model: tiny["models"].get(model, {}) for model in models}
    if "runtimes/referee" not in plugins:
        del tiny["referees"]
    (root / "matrix.yaml").write_text(json.dumps(_laid_over(tiny, spec)))
    return root


def _laid_over(base: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in more.items():
        under = base.get(key)
        both = isinstance(value, dict) and isinstance(under, dict) and key != "models"
        merged[key] = {**under, **value} if both and under else value
    return merged


class Assemble(Protocol):
    """The fixture ``assemble``."""

    def __call__(self, *plugins: str, name: str = ..., models: tuple[str, ...] = ..., **spec: Any) -> Path: ...


def executions(root: Path) -> list[str]:
    """Return what the runtime ``counted`` noted: the bundle of each execution that it began."""
    noted = root / "runtimes" / "executed"
    return noted.read_text().splitlines() if noted.exists() else []


def trainings(root: Path) -> list[str]:
    """Return what the exporter ``counted_training`` noted: the model of each training."""
    noted = root / "exporters" / "trained"
    return sorted(noted.read_text().splitlines()) if noted.exists() else []


# --- Runs in this process -------------------------------------------------------------------------------------------


class Ran(NamedTuple):
    """What a run left behind: its records by cell, and what it said on the way."""

    records: dict[str, Record]
    said: list[str]
    suite: Suite

    def only(self, glob: str = "*") -> Record:
        """Return the one record whose cell matches ``glob``."""
        (found,) = (record for cell, record in self.records.items() if CellId.parse(cell) in Globs([glob]))
        return found

    @property
    def outcomes(self) -> dict[str, Outcome]:
        """The outcome of every cell, its target left out."""
        return {cell.rpartition("/")[0]: record.outcome for cell, record in self.records.items()}


class Witness:
    """A journal and a listener that remember; a cell recorded twice fails the test."""

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self.said: list[str] = []

    def add(self, record: Record) -> None:
        """Keep the record as a file would give it back: what cannot be written and read must not pass here."""
        assert record.cell not in self.records, f"{record.cell} was recorded twice"
        self.records[record.cell] = Record.model_validate_json(record.model_dump_json())

    def begins(self, what: str) -> None:
        """Take no notice."""

    def ended(self, record: Record) -> None:
        """See that the record was written before it was shown."""
        assert record.cell in self.records

    def says(self, text: str) -> None:
        """Remember what was said."""
        self.said.append(text)


class RunMatrix(Protocol):
    """The fixture ``run_matrix``."""

    def __call__(self, root: Path, *globs: str, kept: Store | None = ..., **options: Any) -> Ran: ...


def ended_at(record: Record) -> tuple[Outcome, Stage | None]:
    """Return outcome and stage of a record, to be compared in one line."""
    return record.outcome, record.stage


# --- Runs in a process of their own ---------------------------------------------------------------------------------


class Engine(NamedTuple):
    """A running command line."""

    process: subprocess.Popen[str]

    def interrupt(self) -> None:
        """Send what ^C sends."""
        self.process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """End it as the kernel does when memory runs out."""
        self.process.kill()
        self.process.wait(PATIENCE)

    def below(self) -> list[psutil.Process]:
        """Return every process that it started."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def end(self) -> tuple[int, str]:
        """Wait for its end and return exit status and all output."""
        output, _ = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, output


class StartEngine(Protocol):
    """The fixture ``start_engine``."""

    def __call__(self, *arguments: str | Path, env: dict[str, str] | None = ...) -> Engine: ...


def gone(processes: list[psutil.Process]) -> bool:
    """Return whether none of the processes runs any more (one that nobody has waited for yet does not run)."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                return False
    return True


def ended(pid: int) -> bool:
    """Return whether the process of that id runs no more."""
    try:
        return gone([psutil.Process(pid)])
    except psutil.NoSuchProcess:
        return True


def records_of(file: Path) -> dict[str, Record]:
    """Return the whole records of a results file by cell; a cell recorded twice fails the test."""
    found = list(records.read(file, cut_last=True)) if file.exists() else []
    by_cell = {record.cell: record for record in found}
    assert len(by_cell) == len(found), "a cell was recorded twice"
    return by_cell
