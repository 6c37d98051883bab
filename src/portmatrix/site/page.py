"""What the pages of the report are made from, and what a page is: the contract between the skeleton and its pages."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

from markupsafe import Markup

from portmatrix.advice import Kinship
from portmatrix.rate import Rating
from portmatrix.regression import Changes
from portmatrix.render.text import visible
from portmatrix.spec import MatrixSpec
from portmatrix.types import Record

#: The longest name that is shown whole; no suite has one, but records may come from anywhere.
_LONGEST_NAME = 200
#: Records of the history that are shown of a cell.
HISTORY = 100


class Context(NamedTuple):
    """All that a page may show. ``records`` has one standing record for each cell, in the order of ``urgency``.

    ``evidence`` are the records that ratings rest on (repeats of a cell included). ``base`` are the standing records by
    cell of what the report is compared with, and ``changes`` the comparison; both None where there is no base.
    ``trends`` maps a cell to what the history knows of it, oldest first. ``repository`` is the address of the project's
    files at one revision, such as ``https://…/blob/REV/``, or empty. ``kinships`` say for each framework what of the
    suite decides which cells are near one another, and ``planned`` are the ids of the cells that a run of everything
    would take: the advice rests on both.
    """

    title: str
    records: tuple[Record, ...]
    evidence: tuple[Record, ...]
    ratings: tuple[Rating, ...]
    spec: MatrixSpec
    base: Mapping[str, Record] | None = None
    changes: Changes | None = None
    trends: Mapping[str, tuple[Record, ...]] = {}
    repository: str = ""
    kinships: Mapping[str, Kinship] = {}
    planned: frozenset[str] = frozenset()


class Page(NamedTuple):
    """One HTML file of the site: its name, its title, and the body's own part, below the navigation.

    ``entry`` is the word under which the navigation leads to it (empty: it is reached from other pages only).
    ``scripts`` are files of the site that it loads, in order, beside those of all pages; ``files`` what it brings
    along, by path relative to the site's folder.

    The site's content security policy admits scripts, style sheets and pictures of the site itself, and nothing else:
    no ``<script>`` or ``<style>`` with content, no ``style`` or ``on…`` attribute (presentation attributes of SVG are
    fine, and an SVG file shown by ``<img>`` may have styles of its own). Everything from records must be a text node or
    an escaped attribute.
    """

    file: str
    title: str
    body: Markup
    entry: str = ""
    scripts: tuple[str, ...] = ()
    files: Mapping[str, bytes] = {}


def shown_name(name: str) -> str:
    """Return a name of an axis as the site shows it and links to it; a very long one is cut, but stays unique."""
    text = visible(name)
    if len(text) <= _LONGEST_NAME:
        return text
    return f"{text[: _LONGEST_NAME - 20]}…{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def shown_cell(cell: str) -> str:
    """Return a cell's id as the site shows it and links to it."""
    return "/".join(map(shown_name, cell.split("/", 4)))
