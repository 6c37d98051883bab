"""GitHub's workflow commands for unexpected cells: shown at the run, and beside the lines of a pull request.

The format is that of https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from portmatrix.render.text import one_line
from portmatrix.render.unexpected import Finding, Locate, findings
from portmatrix.types import Outcome, Record

#: GitHub shows as many errors and as many warnings of one step, and drops the rest without a word.
LIMIT = 10
#: Characters of a reason, cells that are named, and characters of an id, so that an annotation stays readable.
_REASON, _CELLS, _CELL = 1_000, 10, 200


def workflow_commands(records: Iterable[Record], locate: Locate) -> Iterator[str]:
    """Yield a line for each sort of unexpected cells, then one that counts those for which there was no room.

    FAIL and ERROR are errors, XPASS is a warning: what works is no reason to stop, but the entry of ``matrix.yaml``
    that says otherwise is out of date. No line begins with anything but ``::``, whatever the records say.
    """
    found = findings(records, locate)
    left_out: list[Finding] = []
    for command, those in (
        ("error", [item for item in found if item.outcome is not Outcome.XPASS]),
        ("warning", [item for item in found if item.outcome is Outcome.XPASS]),
    ):
        yield from (_command(command, item) for item in those[:LIMIT])
        left_out += those[LIMIT:]
    if left_out:
        yield f"::notice title=More unexpected cells::{_data(_rest(left_out))}"


def _command(command: str, item: Finding) -> str:
    cells = [one_line(record.cell, _CELL) for record in item.records]
    title = f"{item.head}: {cells[0]}" if len(cells) == 1 else f"{item.head}: {len(cells):,} cells"
    properties = {"title": title}
    if item.location:
        properties = {"file": item.location.file, "line": str(item.location.line), **properties}
    text = f"{one_line(item.reason, _REASON)}\n{_listed(cells)}"
    return f"::{command} {','.join(f'{key}={_property(value)}' for key, value in properties.items())}::{_data(text)}"


def _listed(cells: Sequence[str]) -> str:
    more = len(cells) - _CELLS
    return "\n".join([*cells[:_CELLS], *([f"and {more:,} more"] if more > 0 else [])])


def _rest(left_out: Sequence[Finding]) -> str:
    cells = sum(len(item.records) for item in left_out)
    return (
        f"{cells:,} more unexpected {'cell' if cells == 1 else 'cells'} for {len(left_out):,} more "
        f"{'reason' if len(left_out) == 1 else 'reasons'}; the job summary and the report list them"
    )


def _data(text: str) -> str:
    """Return text as the message of a workflow command."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    """Return text as the value of a property of a workflow command."""
    return _data(text).replace(":", "%3A").replace(",", "%2C")
