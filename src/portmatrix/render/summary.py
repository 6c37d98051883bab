"""The GitHub job summary: what was not expected first, and never more than GitHub takes.

GitHub refuses a step's whole summary when it is larger than 1 MiB, so the text is counted in bytes while it is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from portmatrix.rate import Rating
from portmatrix.render.readme import render_section
from portmatrix.render.table import MARKS, URGENCY, count_shown, shown_of, urgency
from portmatrix.render.text import markdown, one_line
from portmatrix.spec import SurveyEntry
from portmatrix.types import Outcome, Record

#: Bytes; a little under GitHub's 1,048,576, since other programs may add to the same summary.
LIMIT = 1_000_000
_HEAD = "| Outcome | Cell | Stage | Reason |\n|---|---|---|---|\n"
#: Room kept for headings and for the lines that say what was left out.
_RESERVE = 1_000


def job_summary(
    records: Iterable[Record],
    ratings: Sequence[Rating],
    survey: Mapping[str, SurveyEntry] | None = None,
    limit: int = LIMIT,
) -> str:
    """Return at most ``limit`` bytes (4,096 or more) of Markdown: counts, unexpected cells, badges, the other cells.

    Rows that find no room are left out, those least in need of a decision first, and a line says how many.
    """
    if limit < 4096:
        raise ValueError(f"limit is {limit}; a job summary needs at least 4096 bytes")
    everything = sorted(records, key=urgency)
    unexpected = [record for record in everything if record.unexpected]
    others = [record for record in everything if not record.unexpected and record.outcome is not Outcome.PASS]
    badges = render_section(everything, ratings, survey, results=None)
    if _bytes(badges) > limit // 2:
        badges = "The badge table is too large for a job summary; see the HTML report.\n"
    head = f"# portmatrix\n\n{_counts(everything)}\n"
    room = limit - _bytes(head) - _bytes(badges) - _RESERVE
    first = _rows(unexpected, room)
    rest = _rows(others, room - _bytes(first))
    sections = [head, f"## Unexpected: {len(unexpected):,}\n\n{first}", f"## Badges\n\n{badges}"]
    if others:
        sections.append(f"## Other cells that are no plain pass: {len(others):,}\n\n{rest}")
    return "\n".join(sections)


def _rows(records: Sequence[Record], room: int) -> str:
    """Return a table of as many ``records`` as fit into ``room`` bytes, and how many did not."""
    if not records:
        return "None.\n"
    lines: list[str] = []
    room -= _bytes(_HEAD)
    for record in records:
        line = _row(record)
        room -= _bytes(line)
        if room < 0:
            break
        lines.append(line)
    left_out = len(records) - len(lines)
    note = (
        f"\n**{left_out:,} more rows left out** for want of room; the HTML report has them all.\n" if left_out else ""
    )
    return (_HEAD + "".join(lines) if lines else "") + note


def _row(record: Record) -> str:
    mark = MARKS[shown_of(record)]
    reason = record.reason + (f" (expected: {record.expected})" if record.expected else "")
    return (
        f"| {mark.symbol} {record.outcome.value} | {markdown(one_line(record.cell, 200))} "
        f"| {record.stage.value if record.stage else ''} | {markdown(one_line(reason, 300))} |\n"
    )


def _counts(records: Sequence[Record]) -> str:
    counts = count_shown(records)
    parts = (f"{MARKS[s].symbol} **{counts[s]:,}** {MARKS[s].word}" for s in URGENCY[::-1] if s in counts)
    return f"{len(records):,} cells: {' · '.join(parts)}" if records else "No cells: nothing was selected."


def _bytes(text: str) -> int:
    return len(text.encode())
