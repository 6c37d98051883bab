"""The badge table in the README, and ``docs/results.md`` with the rows that each badge rests on.

Equal records give equal bytes: nothing here depends on the order of the records, on a clock or on a machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import quote

from portmatrix.errors import UserError
from portmatrix.rate import Rating, Stars
from portmatrix.render.table import (
    MARKS,
    REACH_MARKS,
    URGENCY,
    Badge,
    BadgeRow,
    BadgeTable,
    LatencyRatio,
    Shown,
    badge_table,
    by_framework_and_target,
    count_shown,
    shown_of,
    stars,
    stars_in_words,
    stem,
)
from portmatrix.render.text import markdown, number, one_line, visible
from portmatrix.spec import SurveyEntry
from portmatrix.types import CONCLUSIVE, WORKING, Outcome, Reach, Record

BEGIN = "<!-- portmatrix:table:begin -->"
END = "<!-- portmatrix:table:end -->"


def render_section(
    records: Iterable[Record],
    ratings: Sequence[Rating],
    survey: Mapping[str, SurveyEntry] | None = None,
    results: str | None = "docs/results.md",
    *,
    site: str | None = None,
    badges: str | None = None,
) -> str:
    """Return the badge table as Markdown, each badge linked to its rows.

    These are in ``results`` (None: no links), or in the report at the address ``site`` where one is given. A badge is
    an image in the folder ``badges``, with its text as alternative; where none is given it is the text alone. Both
    places are as a link in Markdown needs them: relative to the file that it stands in, and quoted.
    """
    everything = list(records)
    table = badge_table(everything, ratings, survey)
    places = _Places(results, site.rstrip("/") if site else None, badges)
    return "\n".join([*_whole(everything, places), *_table(table, places), "", legend(table), ""])


def replace_section(text: str, section: str, begin_marker: str = BEGIN, end_marker: str = END) -> str:
    """Return ``text`` with what stands between the two markers replaced by ``section``, in ``text``'s line ends.

    Raises ``UserError`` unless each marker occurs exactly once, the begin marker first.
    """
    for marker in (begin_marker, end_marker):
        if (count := text.count(marker)) != 1:
            raise UserError(
                f"the marker {marker} occurs {count} times, expected once; "
                f"the text needs exactly one line {begin_marker} and below it one line {end_marker}"
            )
    head, rest = text.split(begin_marker)
    if end_marker not in rest:
        raise UserError(f"{end_marker} stands before {begin_marker}; exchange the two lines")
    newline = "\r\n" if "\r\n" in text else "\n"
    body = section.strip("\n").replace("\n", newline)
    tail = rest.split(end_marker)[1]
    return newline.join([head + begin_marker, body, end_marker + tail])


def results_page(records: Iterable[Record], title: str = "Results") -> str:
    """Return all records as Markdown: per framework and target an anchor, a grid and what did not pass."""
    everything = list(records)
    table = badge_table(everything, ())
    badges = {(badge.framework, badge.target): badge for row in table.rows for badge in row.badges if badge}
    lines = [f"# {markdown(one_line(title))}", "", legend(table), ""]
    for key, group in by_framework_and_target(everything).items():
        lines += [*_section(badges[key], group), ""]
    return "\n".join(lines)


def legend(table: BadgeTable) -> str:
    """Return a paragraph that explains the marks which occur in ``table``, and no others."""
    badges = [badge for row in table.rows for badge in row.badges if badge]
    occurring = [shown for shown in Shown if any(shown in badge.counts for badge in badges)]
    marks = ["12/14 = 12 of the 14 cells that were run to an answer work"]
    marks += [f"{MARKS[shown].symbol} {MARKS[shown].word} ({MARKS[shown].claim})" for shown in occurring]
    reached = {reach for badge in badges for reach in badge.reach}
    marks += [f"({REACH_MARKS[reach]}) {reach.value}" for reach in Reach if REACH_MARKS[reach] and reach in reached]
    if any(badge.archived for badge in badges):
        marks.append("† from an archived bundle")
    if any(row.latency for row in table.rows):
        marks.append(
            "latency = median, over the cells measured, of their time divided by the baseline's "
            "(batch 1, one thread, reached natively): below 1 is faster"
        )
    return f"*Legend: {' · '.join(marks)}.*"


def badge_text(badge: Badge) -> str:
    """Return a badge in a few characters, such as ``12/14 ✗1 !3 (e)†``; in words where there is but one to count."""
    parts = [f"{badge.passed}/{badge.tried}"] if badge.tried else []
    if parts or len(badge.counts) > 1:
        parts += [f"{MARKS[shown].symbol}{count}" for shown, count in badge.remarks]
    else:
        parts += [f"{MARKS[shown].word} {count}" for shown, count in badge.counts.items()]
    if badge.reach_letters:
        parts.append(f"({badge.reach_letters})")
    return " ".join(parts) + ("†" if badge.archived else "")


def stars_text(given: Stars) -> str:
    """Return ``★★★½☆ 3.5 of 5 (2 to 5), provisional``, or the words alone where there is too little for a star."""
    words = stars_in_words(given)
    return words if given.standing == "not rated" else f"{stars(given.value)} {words}"


def whole_text(records: Iterable[Record]) -> str:
    """Return ``2,364 of 2,805 cells work, 3 fail``: what works of all that was run, and what is unexpected."""
    everything = list(records)
    counts = count_shown(everything)
    works, tried = (sum(counts.get(Shown(item.value), 0) for item in those) for those in (WORKING, CONCLUSIVE))
    parts = [f"{works:,} of {tried:,} cells work" if tried else "no cell was run"]
    unexpected = count_shown(record for record in everything if record.unexpected)
    return ", ".join([*parts, *(f"{count:,} {MARKS[shown].word}" for shown, count in unexpected.items())])


def latency_text(ratio: LatencyRatio | None) -> str:
    """Return ``1.32 (24 cells)``, a framework's median latency ratio; nothing where nothing was measured."""
    if ratio is None:
        return ""
    return f"{number(ratio.median)} ({ratio.cells:,} {'cell' if ratio.cells == 1 else 'cells'})"


def survey_text(row: BadgeRow) -> str:
    """Return ``Torch: 3 / 4``, the survey's stars for deployment and cross-platform; a dash where it gave none."""
    if row.toolkit is None:
        return ""
    given = ("-" if value is None else f"{value:g}" for value in (row.survey_deployment, row.survey_cross_platform))
    return f"{'follows ' if row.successor else ''}{one_line(row.toolkit, 60)}: {' / '.join(given)}"


class _Places(NamedTuple):
    """Where the rows behind the badges are, and the folder of the badges' images, as links need them."""

    results: str | None
    site: str | None
    badges: str | None

    def link(self, badge: Badge) -> str | None:
        """Return where the rows of a badge are, None where there is no such place."""
        if self.site:
            framework, target = (quote(visible(name), safe="") for name in (badge.framework, badge.target))
            return f"{self.site}/matrix.html#framework={framework}&target={target}"
        return f"{self.results}#{badge.anchor}" if self.results else None

    def image(self, name: str, text: str) -> str:
        """Return the image of that name, or its text where there are no images."""
        return f"![{text}]({self.badges}/{name}.svg)" if self.badges else text


def _whole(records: Sequence[Record], places: _Places) -> Iterator[str]:
    """Yield the badge of the whole matrix, where badges are images; it leads to the report, or to all rows."""
    if places.badges:
        place = f"{places.site}/index.html" if places.site else places.results
        image = places.image(stem("matrix"), whole_text(records))
        yield f"[{image}]({place})" if place else image
        yield ""


def _table(table: BadgeTable, places: _Places) -> Iterator[str]:
    names = [markdown(one_line(target, 80)) for target in table.targets]
    heads = ["Framework", "Deployment", "Cross-platform", "Latency", "Survey of 2016", *names]
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * 5}{':-:|' * len(names)}"
    for row in table.rows:
        ratings = ("", "") if row.rating is None else (row.rating.deployment, row.rating.cross_platform)
        cells = [
            f"**{markdown(one_line(row.framework, 80))}**",
            *(stars_text(given) if isinstance(given, Stars) else given for given in ratings),
            latency_text(row.latency),
            markdown(survey_text(row)),
            *(_field_of(badge, places) if badge else "" for badge in row.badges),
        ]
        yield f"| {' | '.join(cells)} |"


def _field_of(badge: Badge, places: _Places) -> str:
    shown = places.image(stem(badge.framework, badge.target), badge_text(badge))
    link = places.link(badge)
    return f"[{shown}]({link})" if link else shown


def _section(badge: Badge, records: Sequence[Record]) -> Iterator[str]:
    framework, target = (markdown(one_line(name, 80)) for name in (badge.framework, badge.target))
    yield f'<a id="{badge.anchor}"></a>'
    yield ""
    yield f"## {framework} on {target}"
    yield ""
    yield f"{badge_text(badge)}{', reached: ' + ', '.join(badge.reach) if badge.reach else ''}"
    yield ""
    yield from _grid(records)
    notes = list(_notes(records))
    if notes:
        yield ""
        yield from notes


def _grid(records: Sequence[Record]) -> Iterator[str]:
    """Yield models by (path → runtime), one mark each; an empty field was never planned."""
    ways = sorted({(record.id.path, record.id.runtime) for record in records})
    found = {(record.id.model, record.id.path, record.id.runtime): record for record in records}
    heads = [f"{markdown(one_line(path, 60))} → {markdown(one_line(runtime, 60))}" for path, runtime in ways]
    yield f"| Model | {' | '.join(heads)} |"
    yield f"|---|{':-:|' * len(ways)}"
    for model in sorted({record.id.model for record in records}):
        row = [found.get((model, *way)) for way in ways]
        yield f"| {markdown(one_line(model, 60))} | {' | '.join(_field(record) if record else '' for record in row)} |"


def _field(record: Record) -> str:
    """Return one cell in a few characters: its mark, and how the target was reached if not natively."""
    letter = REACH_MARKS[record.reach] if record.reach else ""
    return f"{MARKS[shown_of(record)].symbol}{f' ({letter})' if letter else ''}{'†' if record.archived else ''}"


def _notes(records: Sequence[Record]) -> Iterator[str]:
    """Yield every cell that is no plain PASS; cells that share outcome, stage and reason share a line."""
    groups: dict[tuple[int, str, str], list[str]] = {}
    for record in records:
        if record.outcome is Outcome.PASS:
            continue
        head = f"{MARKS[shown_of(record)].symbol} **{record.outcome.value}**{_at(record)}"
        reason = record.reason or "no reason recorded"
        if record.expected:
            reason += f" (expected: {record.expected})"
        cell = f"{record.id.model}, {record.id.path} → {record.id.runtime}"
        groups.setdefault((URGENCY.index(shown_of(record)), head, reason), []).append(cell)
    for (_, head, reason), cells in sorted(groups.items()):
        yield f"- {head}: {markdown(one_line(reason))}"
        if len(cells) == len(records) > 1:
            yield f"  - all {len(cells)} cells"
        else:
            yield from (f"  - {markdown(one_line(cell))}" for cell in cells)


def _at(record: Record) -> str:
    return f" at {record.stage.value}" if record.stage else ""
