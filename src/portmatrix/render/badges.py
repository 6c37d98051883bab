"""The badges as files: an SVG image of each, and beside it the JSON from which shields.io makes one of its own.

An image needs nothing else: no font, no script, no style sheet. It carries its own background, whose colours hold
against white text as well as against a light and a dark page.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple
from xml.etree import ElementTree as ET  # only writes; nothing is parsed here

from portmatrix.rate import Rating, Stars
from portmatrix.render.readme import badge_text, latency_text, stars_text, whole_text
from portmatrix.render.table import Badge, Shown, badge_table, count_shown, stem
from portmatrix.render.text import one_line
from portmatrix.types import CONCLUSIVE, Record

#: The file that lists the others, so that those which a later set has not any more can be removed.
MANIFEST = "manifest.json"

#: What a badge says at a glance, the first that applies: its colour is that of the most urgent thing in it.
_URGENT = {Shown.FAIL: "#cf222e", Shown.ERROR: "#8250df", Shown.XPASS: "#bf3989"}
_ALL_WORK = "#1a7f37"
_SOME_KNOWN_FAILURES = "#946000"
_ALL_KNOWN_FAILURES = "#9c5a2e"
_LOOKED_UP = {Shown.CANNOT_RUN: "#4f6f8f", Shown.COULD_RUN: "#0e7c86"}
_NOT_TRIED = "#6b7178"
_RATED = "#0969da"
_LABEL = "#5c6670"
#: Every colour that a badge may have behind its text.
COLOURS = (*_URGENT.values(), _ALL_WORK, _SOME_KNOWN_FAILURES, _ALL_KNOWN_FAILURES, *_LOOKED_UP.values())
COLOURS += (_NOT_TRIED, _RATED, _LABEL)
TEXT = "#ffffff"

_HEIGHT, _PADDING, _SIZE, _CORNER = 20, 6, 11, 3
_FONTS = "Verdana,'DejaVu Sans',Geneva,sans-serif"
# fmt: off
#: Widths of the characters from the space to ~ in thousandths of the font's size: those of DejaVu Sans, which Verdana's
#: are close to. An image says how wide its text is, so that another font is squeezed and nothing is cut off.
_WIDTHS = (
    318, 401, 460, 838, 636, 950, 780, 275, 390, 390, 500, 838, 318, 361, 318, 337, 636, 636, 636, 636, 636, 636, 636,
    636, 636, 636, 337, 337, 838, 838, 838, 531, 1000, 684, 686, 698, 770, 632, 575, 775, 752, 295, 295, 656, 557, 863,
    748, 787, 603, 787, 695, 635, 611, 732, 684, 989, 685, 611, 685, 390, 337, 390, 838, 500, 500, 613, 635, 550, 635,
    615, 352, 635, 634, 278, 278, 579, 278, 974, 634, 612, 635, 635, 411, 521, 392, 634, 592, 818, 592, 592, 525, 636,
    337, 636, 838,
)
# fmt: on
#: Those of the marks, and of all other characters: narrow and wide ones (of East Asia).
_MARK_WIDTHS = {"✓": 838, "≈": 838, "✗": 838, "⊘": 838, "⚑": 896, "◇": 769, "◆": 769, "†": 500, "»": 612, "·": 318}
_MARK_WIDTHS |= {"★": 896, "☆": 896, "½": 969}
_OTHER, _WIDE = 900, 1200


class BadgeImage(NamedTuple):
    """One badge: the name of its files without a suffix, its two texts, and the colour behind the second.

    ``short`` where the image shows the message alone, because what the label says stands beside it in a table.
    """

    stem: str
    label: str
    message: str
    colour: str
    short: bool = False

    @property
    def description(self) -> str:
        """What the image says, in words that need no table around them."""
        return f"{self.label}: {self.message}"


def badge_files(records: Iterable[Record], ratings: Sequence[Rating]) -> dict[str, str]:
    """Return the name and the text of every file of the badges, the manifest included; equal records, equal bytes.

    There is a badge for the whole matrix, for each framework on each target, and of each framework its two ratings and
    its latency, where there are any.
    """
    files: dict[str, str] = {}
    for image in badge_images(records, ratings):
        files[f"{image.stem}.svg"] = svg(image)
        files[f"{image.stem}.json"] = endpoint(image)
    manifest = {"schema_version": 1, "files": sorted(files)}
    return {**files, MANIFEST: json.dumps(manifest, indent=1) + "\n"}


def badge_images(records: Iterable[Record], ratings: Sequence[Rating]) -> Iterator[BadgeImage]:
    """Yield all badges, as ``badge_files`` lists them."""
    everything = list(records)
    yield _whole(everything)
    for row in badge_table(everything, ratings).rows:
        name = one_line(row.framework, 80)
        for badge in filter(None, row.badges):
            label = f"{name} on {one_line(badge.target, 80)}"
            yield BadgeImage(stem(badge.framework, badge.target), label, badge_text(badge), colour(badge), short=True)
        if row.rating is not None:
            yield _rating(row.framework, "deployment", row.rating.deployment)
            yield _rating(row.framework, "cross-platform", row.rating.cross_platform)
        if row.latency is not None:
            yield BadgeImage(
                stem(row.framework, "latency", "ratio"), f"{name} latency", latency_text(row.latency), _RATED
            )


def colour(badge: Badge) -> str:
    """Return the colour of a badge: that of a FAIL, an ERROR or an XPASS in it, else by how much of it works."""
    for shown, urgent in _URGENT.items():
        if shown in badge.counts:
            return urgent
    if badge.tried:
        works = {badge.tried: _ALL_WORK, 0: _ALL_KNOWN_FAILURES}
        return works.get(badge.passed, _SOME_KNOWN_FAILURES)
    return next((looked_up for shown, looked_up in _LOOKED_UP.items() if shown in badge.counts), _NOT_TRIED)


def endpoint(image: BadgeImage) -> str:
    """Return the JSON of a badge for the endpoint of shields.io (https://shields.io/badges/endpoint-badge)."""
    fields = {"schemaVersion": 1, "label": image.label, "message": image.message, "color": image.colour.lstrip("#")}
    return json.dumps(fields, ensure_ascii=False, indent=1) + "\n"


def svg(image: BadgeImage) -> str:
    """Return a badge as an SVG image of its own, 20 pixels high, that screen readers read out."""
    left = 0 if image.short else text_width(image.label) + 2 * _PADDING
    right = text_width(image.message) + 2 * _PADDING
    size = {"width": str(left + right), "height": str(_HEIGHT)}
    root = ET.Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            **size,
            "viewBox": f"0 0 {left + right} {_HEIGHT}",
            "role": "img",
            "aria-label": image.description,
        },
    )
    ET.SubElement(root, "title").text = image.description
    ET.SubElement(root, "rect", {**size, "rx": str(_CORNER), "fill": image.colour})
    texts = ET.Element("g", {"fill": TEXT, "font-family": _FONTS, "font-size": str(_SIZE)})
    if left:
        bow = f"a{_CORNER} {_CORNER} 0 0 1"
        outline = f"M{left} 0v{_HEIGHT}H{_CORNER}{bow}-{_CORNER}-{_CORNER}V{_CORNER}{bow} {_CORNER}-{_CORNER}z"
        ET.SubElement(root, "path", {"d": outline, "fill": _LABEL})
        _text(texts, _PADDING, image.label)
    _text(texts, left + _PADDING, image.message)
    root.append(texts)
    return ET.tostring(root, encoding="unicode") + "\n"


def text_width(text: str) -> int:
    """Return how wide a text is in a badge, in pixels, by the widths of the fonts that are asked for."""
    return -(-sum(map(_width, text)) * _SIZE // 1000)


def _width(char: str) -> int:
    if " " <= char <= "~":
        return _WIDTHS[ord(char) - ord(" ")]
    if unicodedata.combining(char):
        return 0
    return _MARK_WIDTHS.get(char, _WIDE if unicodedata.east_asian_width(char) in "WF" else _OTHER)


def _text(parent: ET.Element, start: int, text: str) -> None:
    place = {"x": str(start), "y": "14", "textLength": str(text_width(text)), "lengthAdjust": "spacingAndGlyphs"}
    ET.SubElement(parent, "text", place).text = text


def _rating(framework: str, name: str, given: Stars) -> BadgeImage:
    shown = _NOT_TRIED if given.standing == "not rated" else _RATED
    return BadgeImage(stem(framework, "rating", name), f"{one_line(framework, 80)} {name}", stars_text(given), shown)


def _whole(records: Sequence[Record]) -> BadgeImage:
    """Return the badge of all records: how many work, and whether anything is unexpected, which is its colour, too."""
    unexpected = count_shown(record for record in records if record.unexpected)
    tried = not count_shown(records).keys().isdisjoint(Shown(outcome.value) for outcome in CONCLUSIVE)
    usual = _URGENT[Shown.FAIL] if unexpected else _ALL_WORK if tried else _NOT_TRIED
    urgent = next((urgent for shown, urgent in _URGENT.items() if shown in unexpected), usual)
    return BadgeImage(stem("matrix"), "portmatrix", whole_text(records), urgent)
