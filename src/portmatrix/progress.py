"""What a run shows while it runs: a bar with the cell in flight on a terminal, plain lines everywhere else."""

from __future__ import annotations

import threading
from collections import Counter
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from portmatrix.render.table import Shown, shown_of
from portmatrix.render.terminal import STYLES
from portmatrix.types import Outcome, Record


class Display(Protocol):
    """A listener of a run that is also a context manager."""

    def begins(self, what: str) -> None: ...

    def ended(self, record: Record) -> None: ...

    def says(self, text: str) -> None: ...

    def __enter__(self) -> Display: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def display(console: Console, total: int, *, verbose: bool = False) -> Display:
    """Return the display that suits ``console`` for a run of ``total`` cells."""
    return Bar(console, total) if console.is_terminal and not verbose else Lines(console, total)


def _ending(record: Record) -> str:
    stage = f" at {record.stage.value}" if record.stage else ""
    return f"{record.cell}{stage}: {record.reason}" if record.reason else record.cell


class Lines:
    """One line for each cell that ends; reused cells are counted, not listed."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._total = total
        self._ended = 0
        self._reused = 0
        self._lock = threading.Lock()

    def begins(self, what: str) -> None:
        """Say nothing: a line stands for what has ended."""

    def ended(self, record: Record) -> None:
        """Print outcome, cell and reason; what is reused and as expected is only counted."""
        with self._lock:
            self._ended += 1
            if record.reused and not record.unexpected:
                self._reused += 1
                return
            again = " (reused)" if record.reused else ""
            text = f"[{self._ended}/{self._total}] {record.outcome.value} {_ending(record)}{again}"
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def says(self, text: str) -> None:
        """Print a line about the run itself."""
        with self._lock:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._reused:
            self.says(f"{self._reused} cells reused: nothing they rest on has changed (--fresh runs them anyway)")


class Bar:
    """A progress bar with counts by outcome, the cell in flight and the time left; bad ends stand above it."""

    def __init__(self, console: Console, total: int) -> None:
        self._progress = Progress(
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[counts]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task("", total=total, counts="")
        self._counts: Counter[Outcome] = Counter()
        self._reused = 0
        self._lock = threading.Lock()

    def begins(self, what: str) -> None:
        """Show what is in flight."""
        self._progress.update(self._task, description=escape(what))

    def ended(self, record: Record) -> None:
        """Advance the bar and its counts; an unexpected outcome is printed."""
        with self._lock:
            self._counts[record.outcome] += 1
            self._reused += record.reused
            counts = " ".join(
                f"[{STYLES[Shown(outcome.value)]}]{outcome.value} {self._counts[outcome]}[/]"
                for outcome in Outcome
                if self._counts[outcome]
            )
            self._progress.update(self._task, advance=1, counts=counts)
            if record.unexpected:
                style = STYLES[shown_of(record)]
                self._progress.print(f"[{style}]{record.outcome.value}[/] {escape(_ending(record))}", highlight=False)

    def says(self, text: str) -> None:
        """Print a line about the run itself above the bar."""
        self._progress.print(escape(text), highlight=False)

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        if self._reused:
            self._progress.console.print(
                f"{self._reused} cells reused: nothing they rest on has changed (--fresh runs them anyway)"
            )
