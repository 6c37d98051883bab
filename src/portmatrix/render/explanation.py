"""Why a cell is as it is, and what would work instead, for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from rich.console import Console

from portmatrix.advice import Explanation, Neighbour, Road, State, blame_in_words, change_in_words
from portmatrix.render.terminal import is_plain
from portmatrix.render.text import ascii_only, one_line
from portmatrix.types import WORKING, Record

#: Lines of one list; of what is left only the number is said.
LIMIT = 10


def print_explanation(
    console: Console, told: Explanation, roads: Mapping[str, Road], verified: Iterable[Record]
) -> None:
    """Print an explanation; ``verified`` are the records of neighbours that were run just now, in their order."""
    plain = is_plain(console)
    for line in (*_what_happened(told), *_around(told, roads), *conclusion(told, roads, list(verified))):
        shown = one_line(line.lstrip(), 500)
        indent = line[: len(line) - len(line.lstrip())]
        console.print(indent + (ascii_only(shown) if plain else shown), markup=False, highlight=False, soft_wrap=True)


def _what_happened(told: Explanation) -> Iterator[str]:
    yield str(told.cell)
    record = told.record
    if told.unplanned:
        yield f"  not planned: {told.unplanned}"
    if record is None:
        yield "  no record of it"
    else:
        yield f"  {_ended(record)}{f': {record.reason}' if record.reason else ''}"
        reach = f", {record.reach.value}" if record.reach else ""
        yield f"  run {record.run}, {record.measured or record.started or 'no date'}{reach}"
        if told.state is State.FAILS:
            yield f"  blame: {blame_in_words(record)}"
    for item in told.expectations:
        link = f" ({item.link})" if item.link else ""
        yield f"  expected in matrix.yaml: {item.outcome} at {item.stage.value}: {item.reason}{link}"
    if told.state is State.FAILS and not told.expectations:
        yield "  no expectation in matrix.yaml covers it"


def _ended(record: Record) -> str:
    return f"{record.outcome.value} at {record.stage.value}" if record.stage is not None else record.outcome.value


def _around(told: Explanation, roads: Mapping[str, Road]) -> Iterator[str]:
    if told.state is State.WORKS:
        return
    if told.works:
        yield f"works on {told.cell.target}, the nearest first:"
        yield from _limited([_neighbour(told, item, roads) for item in told.works])
    else:
        yield f"no neighbour is known to work on {told.cell.target}"
    if told.untried:
        yield "nothing is known of:"
        yield from _limited([f"  {item.cell}{_why(item.record)}" for item in told.untried])
    if told.elsewhere:
        yield "works on other targets:"
        yield from _limited([f"  {_ended(record)}  {record.cell}" for record in told.elsewhere])


def _limited(lines: Sequence[str]) -> Iterator[str]:
    yield from lines[:LIMIT]
    if len(lines) > LIMIT:
        yield f"  and {len(lines) - LIMIT} more"


def _neighbour(told: Explanation, item: Neighbour, roads: Mapping[str, Road]) -> str:
    outcome = item.record.outcome.value if item.record else "unknown"
    return f"  {outcome:<8}  {item.cell}: {change_in_words(told.cell, item, roads)}{_opsets(told.record, item.record)}"


def _why(record: Record | None) -> str:
    return f": {record.outcome.value}, {record.reason}" if record is not None else ""


def _opsets(mine: Record | None, theirs: Record | None) -> str:
    """Return how the operator sets that two artifacts were written in differ, if they do."""
    one, other = (record.facts.get("opset") if record else None for record in (mine, theirs))
    return f" (opset {other} instead of {one})" if one and other and one != other else ""


def conclusion(told: Explanation, roads: Mapping[str, Road], verified: Sequence[Record]) -> Iterator[str]:
    """Yield the smallest change that would deploy the model there, and whether running it showed that it does."""
    if told.state is State.WORKS:
        yield "it works: there is nothing to change"
        return
    if told.state is State.UNKNOWN and not told.unplanned:
        yield f"whether it works is not known: `portmatrix repro {told.cell}` tries it"
    for record in verified:
        if record.outcome not in WORKING:
            yield f"tried, and does not work here now: {record.cell}: {_ended(record)}: {record.reason}"
    if not told.works:
        yield "no change is known that would deploy it there"
        return
    tried = {record.cell: record for record in verified}
    works = [item for item in told.works if str(item.cell) in tried and tried[str(item.cell)].outcome in WORKING]
    left = [item for item in told.works if str(item.cell) not in tried]
    for chosen in (works or left)[:1]:
        change = change_in_words(told.cell, chosen, roads)
        yield f"the smallest change that would deploy it: {change}"
        if works:
            ended = _ended(tried[str(chosen.cell)])
            yield f"verified: {ended} just now; `portmatrix repro {chosen.cell}` shows it again"
        else:
            yield f"by the records, not verified; `portmatrix repro {chosen.cell}` runs it"
    if not works and not left:
        yield "no change that works by the records works here now"
