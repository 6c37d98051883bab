"""The matrix page: every cell a row, to be filtered by any axis, sorted, and walked through by keyboard."""

from __future__ import annotations

from typing import NamedTuple

from portmatrix.render.table import MARKS, URGENCY, count_shown
from portmatrix.site.data import AXES
from portmatrix.site.page import Context, Page
from portmatrix.site.templates import fill


class Column(NamedTuple):
    """A column of the list: its key in the data, its head, and what the head means where that needs words."""

    key: str
    head: str
    means: str = ""


COLUMNS = (
    Column("outcome", "Outcome"),
    *(Column(axis, axis.capitalize()) for axis in AXES),
    Column("stage", "Stage", "the step at which it ended, where it did not pass"),
    Column("needed", "Needed", "the tolerance that all outputs would pass with, in multiples of the strict one"),
    Column("p50", "p50", "median latency of the first way of calling that was measured"),
    Column("ratio", "Ratio", "that latency over the baseline's"),
    Column("reason", "Reason"),
)
#: What can be filtered by beside the outcome, which has buttons of its own, and a text.
_FACETS = (*AXES, "stage", "reach")


def page(context: Context) -> Page:
    """Return the page; the cells themselves are in the data files."""
    counts = count_shown(context.records)
    body = fill(
        "matrix.html.j2",
        total=len(context.records),
        outcomes=[(shown.value, MARKS[shown], counts[shown]) for shown in URGENCY if shown in counts],
        facets=[*_FACETS, *(["change"] if context.changes else [])],
        columns=COLUMNS,
    )
    return Page("matrix.html", "Matrix", body, "Matrix", ("data/cells.js", "cells.js", "matrix.js"))
