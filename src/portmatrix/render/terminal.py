"""The badge table and the unexpected cells for a terminal, by rich.

Where the console is no terminal, or its encoding is older than UTF-8, everything is plain ASCII; where the table is too
wide, each badge gets a line of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich import box
from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from portmatrix.rate import Rating
from portmatrix.render.table import (
    MARKS,
    REACH_MARKS,
    Badge,
    BadgeRow,
    BadgeTable,
    Shown,
    badge_table,
    count_shown,
    shown_of,
    stars_in_words,
    urgency,
)
from portmatrix.render.text import ascii_only, one_line
from portmatrix.spec import SurveyEntry
from portmatrix.types import Record

STYLES = {
    Shown.PASS: "green",
    Shown.DEGRADED: "yellow",
    Shown.FAIL: "bold red",
    Shown.ERROR: "bold magenta",
    Shown.XFAIL: "dark_orange3",
    Shown.XPASS: "bold blue",
    Shown.COULD_RUN: "cyan",
    Shown.CANNOT_RUN: "red",
    Shown.SKIP: "dim",
    Shown.NOT_RUN: "dim cyan",
}


def print_results(
    console: Console,
    records: Iterable[Record],
    ratings: Sequence[Rating],
    survey: Mapping[str, SurveyEntry] | None = None,
) -> None:
    """Print the badge table, its legend, the unexpected cells and the counts to ``console``."""
    everything = list(records)
    plain = is_plain(console)
    table = badge_table(everything, ratings, survey)
    wide = badges(table, plain=plain)
    boundless = console.options.update(max_width=1_000_000)
    fits = Measurement.get(console, boundless, wide).maximum <= console.width
    console.print(wide if fits else badge_list(table, plain=plain), highlight=False)
    console.print(legend(everything, plain=plain), highlight=False, soft_wrap=plain)
    console.print(unexpected_cells(everything, plain=plain), highlight=False, soft_wrap=plain)
    console.print(totals(everything), highlight=False, soft_wrap=plain)


def is_plain(console: Console) -> bool:
    """Return whether ``console`` must be given ASCII: a file, a pipe, or a terminal that is not in UTF-8."""
    return not console.is_terminal or console.legacy_windows or not console.encoding.lower().startswith("utf")


def badges(table: BadgeTable, *, plain: bool) -> Table:
    """Return frameworks by targets with both ratings and the survey's stars."""
    grid = Table(box=box.ASCII if plain else box.SIMPLE_HEAD, pad_edge=False)
    grid.add_column("framework", no_wrap=True)
    for name in ("deployment", "cross-platform", "survey 2016"):
        grid.add_column(name, no_wrap=True)
    for target in table.targets:
        grid.add_column(Text(_name(target, plain=plain)), no_wrap=True)
    for row in table.rows:
        fields = (_badge(badge, plain=plain) if badge else Text() for badge in row.badges)
        grid.add_row(Text(_name(row.framework, plain=plain)), *_ratings(row, plain=plain), *fields)
    return grid


def badge_list(table: BadgeTable, *, plain: bool) -> Table:
    """Return the same as ``badges`` with one line per framework and target, for narrow consoles."""
    grid = Table(box=box.ASCII if plain else box.SIMPLE_HEAD, pad_edge=False)
    for name in ("framework", "", "result"):
        grid.add_column(name, overflow="fold")
    for row in table.rows:
        framework = _name(row.framework, plain=plain)
        for name, text in zip(("deployment", "cross-platform", "survey 2016"), _ratings(row, plain=plain), strict=True):
            if text.plain:
                grid.add_row(Text(framework), name, text)
        for badge in row.badges:
            if badge:
                grid.add_row(Text(framework), Text(_name(badge.target, plain=plain)), _badge(badge, plain=plain))
    return grid


def unexpected_cells(records: Iterable[Record], *, plain: bool, limit: int = 100) -> RenderableType:
    """Return a line per cell that turns a run red, with stage and reason; after ``limit`` lines, how many are left."""
    found = sorted((record for record in records if record.unexpected), key=urgency)
    lines = []
    for record in found[:limit]:
        line = Text(f"{record.outcome.value:<5} ", style=STYLES[shown_of(record)])
        stage = f" at {record.stage.value}" if record.stage else ""
        reason = _name(record.reason, plain=plain, limit=200)
        line.append(f"{_name(record.cell, plain=plain, limit=300)}{stage}", style="not bold default")
        line.append(f": {reason}" if reason else "", style="not bold default")
        lines.append(line)
    if len(found) > limit:
        lines.append(Text(f"and {len(found) - limit:,} more unexpected cells"))
    return Text("\n").join(lines) if lines else Text("no unexpected cells")


def legend(records: Iterable[Record], *, plain: bool) -> Text:
    """Return the marks that occur, explained, and how targets were reached."""
    text = Text()
    for shown in count_shown(records):
        mark = MARKS[shown]
        text.append(f"{mark.plain if plain else mark.symbol} ", style=STYLES[shown])
        text.append(f"{mark.word}   ")
    letters = " ".join(f"({letter}) {reach.value}" for reach, letter in REACH_MARKS.items() if letter)
    text.append(f"{letters}: looked up, not run   * archived bundle", style="dim")
    return text


def totals(records: Iterable[Record]) -> Text:
    """Return one line with the number of cells of each outcome, those that were only looked up by themselves."""
    counts = count_shown(records)
    text = Text(f"{sum(counts.values())} cells")
    for position, (shown, count) in enumerate(counts.items()):
        text.append(", " if position else ": ")
        text.append(f"{count} {shown.value}", style=STYLES[shown])
    return text


def _ratings(row: BadgeRow, *, plain: bool) -> tuple[Text, Text, Text]:
    given = (row.rating.deployment, row.rating.cross_platform) if row.rating else ()
    deployment, cross_platform = [Text(stars_in_words(stars)) for stars in given] or [Text(), Text()]
    survey = Text()
    if row.toolkit is not None:
        values = (row.survey_deployment, row.survey_cross_platform)
        name = f"{'follows ' if row.successor else ''}{_name(row.toolkit, plain=plain)}"
        survey.append(f"{name} {' / '.join('-' if v is None else f'{v:g}' for v in values)}")
    return deployment, cross_platform, survey


def _badge(badge: Badge, *, plain: bool) -> Text:
    text = Text()
    if badge.tried:
        whole = badge.passed == badge.tried
        text.append(f"{badge.passed}/{badge.tried}", style="green" if whole else "bold")
    for shown, count in badge.remarks:
        mark = MARKS[shown]
        text.append(" " if text else "")
        text.append(f"{mark.plain if plain else mark.symbol}{count}", style=STYLES[shown])
    if badge.reach_letters:
        text.append(f" ({badge.reach_letters})", style="dim")
    if badge.archived:
        text.append("*", style="dim")
    return text


def _name(name: str, *, plain: bool, limit: int = 60) -> str:
    line = one_line(name, limit)
    return ascii_only(line) if plain else line
