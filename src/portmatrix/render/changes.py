"""What changed between two sets of records, for a terminal by rich and as JSON."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from portmatrix.regression import CellChange, Changes, Ended, Label, Reading, Standing, TimingChange
from portmatrix.render.terminal import is_plain
from portmatrix.render.text import ascii_only, markdown, number, one_line

STYLES: dict[Standing | Label, str] = {
    Standing.REGRESSION: "bold red",
    Standing.WEAKER: "yellow",
    Standing.LOST: "magenta",
    Standing.GAINED: "cyan",
    Standing.PROGRESS: "green",
    Label.REGRESSION: "bold red",
    Label.SUSPICIOUS: "yellow",
    Label.IMPROVEMENT: "green",
    Label.INSUFFICIENT: "dim",
}
#: Rows of one table; of what is left only the number is said.
LIMIT = 100
#: Characters of a line of a job summary, which scrolls.
_SUMMARY_WIDTH = 240
_QUIET = frozenset({Standing.SAME, Standing.UNKNOWN})


def to_json(changes: Changes) -> str:
    """Return everything that was found, the cells in which nothing changed included, as JSON."""
    return changes.model_dump_json(indent=1)


def print_changes(console: Console, changes: Changes) -> None:
    """Print what changed: outcomes, numbers, sizes, latency, the sessions that the host is blamed for, and totals."""
    plain = is_plain(console)
    for title, headings, rows in (
        ("outcomes", ("change", "cell", "before", "after", "reason"), list(_outcomes(changes))),
        ("numbers", ("change", "cell", "what", "before", "after"), list(_numbers(changes))),
        ("latency", ("label", "cell", "batch", "threads", "ratio", "95% interval", "why"), list(_latencies(changes))),
    ):
        if rows:
            console.print(_table(title, headings, rows, plain=plain), highlight=False)
            if len(rows) > LIMIT:
                console.print(f"and {len(rows) - LIMIT:,} more", highlight=False)
    for blamed in changes.host:
        text = f"the host is to blame in session {blamed.session}: {blamed.why}; no cell of it is called a regression"
        console.print(_shown(text, plain=plain), highlight=False, soft_wrap=plain)
    for line in totals(changes):
        console.print(line, highlight=False, soft_wrap=plain)


def job_summary(changes: Changes, base: str) -> str:
    """Return Markdown for a GitHub job summary: what ``print_changes`` prints, as it stands there.

    Each of its tables has ``LIMIT`` rows of a bounded length at most, so that it stays far under the 1 MiB that GitHub
    takes.
    """
    text = io.StringIO()
    print_changes(Console(file=text, width=_SUMMARY_WIDTH, force_terminal=False), changes)
    # Nothing in it may end the block that it stands in.
    shown = text.getvalue().replace("`", "'").rstrip()
    return f"## Compared with {markdown(one_line(base))}\n\n```text\n{shown}\n```\n"


def nothing_compared(why: str) -> str:
    """Return Markdown for a GitHub job summary that says why nothing was compared."""
    return f"## Nothing to compare with\n\n{markdown(one_line(why))}\n"


def totals(changes: Changes) -> Iterator[str]:
    """Yield one line on the outcomes of all cells, one on the latencies measured, and one that says which regressed."""
    outcomes = Counter(cell.outcome for cell in changes.cells)
    yield f"{len(changes.cells)} cells: {_counted(outcomes, Standing)}"
    latencies = Counter(cell.latency for cell in changes.cells if cell.latency is not None)
    if latencies:
        yield f"latency of {sum(latencies.values())} cells: {_counted(latencies, Label)}"
    regressed = sum(cell.regressed for cell in changes.cells)
    yield f"{regressed} {'cell' if regressed == 1 else 'cells'} regressed" if regressed else "no regression"


def _counted(counts: Counter[Standing] | Counter[Label], order: type[Standing] | type[Label]) -> str:
    return ", ".join(f"{counts[item]} {item.value}" for item in order if counts[item])  # type: ignore[index]


def _table(title: str, headings: Sequence[str], rows: Sequence[Sequence[Text | str]], *, plain: bool) -> Table:
    grid = Table(box=box.ASCII if plain else box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    for heading in headings:
        grid.add_column(heading, overflow="fold")
    for row in rows[:LIMIT]:
        first, *rest = row
        grid.add_row(first, *(_shown(str(field), plain=plain) for field in rest))
    return grid


def _shown(text: str, *, plain: bool) -> Text:
    line = one_line(text, 300)
    return Text(ascii_only(line) if plain else line)


def _mark(word: Standing | Label) -> Text:
    return Text(word.value, style=STYLES.get(word, ""))


def _outcomes(changes: Changes) -> Iterator[tuple[Text | str, ...]]:
    order = list(Standing)
    for cell in sorted(changes.cells, key=lambda cell: order.index(cell.outcome)):
        if cell.outcome not in _QUIET:
            expected = cell.after is not None and cell.after.expected
            why = f"expected: {expected}" if expected else cell.after.reason if cell.after else ""
            yield _mark(cell.outcome), cell.cell, _ended(cell.before), _ended(cell.after), why


def _ended(ended: Ended | None) -> str:
    if ended is None:
        return "no record"
    return f"{ended.outcome.value} at {ended.stage.value}" if ended.stage is not None else ended.outcome.value


def _numbers(changes: Changes) -> Iterator[tuple[Text | str, ...]]:
    for cell in changes.cells:
        yield from _drifts(cell)
        yield from _sizes(cell)


def _drifts(cell: CellChange) -> Iterator[tuple[Text | str, ...]]:
    if cell.accuracy is not None and cell.accuracy_drifted:
        before, after = cell.accuracy
        yield "accuracy", cell.cell, "held-out samples", f"{before:.1%}", f"{after:.1%}"
    for output in cell.outputs:
        if output.label:
            fell = "" if output.fell_db is None else f", {output.fell_db:+.1f} dB of noise"
            sides = [
                f"{verdict}, max {number(largest)}{f', {snr:.1f} dB' if snr is not None else ''}"
                for verdict, largest, snr in zip(output.verdict, output.max_abs, output.snr_db, strict=True)
            ]
            yield output.label, cell.cell, f"{output.output}, batch {output.batch}{fell}", *sides


def _sizes(cell: CellChange) -> Iterator[tuple[Text | str, ...]]:
    for size in cell.sizes:
        if size.notable:
            word = "larger" if size.after > size.before else "smaller"
            yield word, cell.cell, f"{size.what} size, {size.share:+.1%}", f"{size.before:,} B", f"{size.after:,} B"


def _latencies(changes: Changes) -> Iterator[tuple[Text | str, ...]]:
    order = list(Label)
    found = [(cell, timing) for cell in changes.cells for timing in cell.timings]
    for cell, timing in sorted(found, key=lambda pair: order.index(pair[1].label)):
        if timing.label is not Label.NO_CHANGE:
            last = _telling(timing)
            ratio = "" if last is None or last.ratio is None else f"{last.ratio:.3f}"
            yield (
                _mark(timing.label),
                cell.cell,
                str(timing.batch),
                str(timing.threads),
                ratio,
                _interval(last),
                timing.why,
            )


def _telling(timing: TimingChange) -> Reading | None:
    """Return the reading that says most: the last one that moved, else the last one with a ratio."""
    with_ratio = [reading for reading in timing.readings if reading.ratio is not None]
    moved = [reading for reading in with_ratio if reading.verdict in ("slower", "faster")]
    return _last(moved) or _last(with_ratio)


def _last(readings: Iterable[Reading]) -> Reading | None:
    return next(reversed(list(readings)), None)


def _interval(reading: Reading | None) -> str:
    if reading is None or reading.low is None or reading.high is None:
        return ""
    return f"{reading.low:.3f} to {reading.high:.3f}"
