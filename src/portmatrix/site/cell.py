"""The page of one cell: one HTML file for all of them, which shows the cell that the address names."""

from __future__ import annotations

from portmatrix.site.page import Context, Page
from portmatrix.site.templates import fill

SCRIPTS = ("data/cells.js", "cells.js", "advice.js", "timeline.js", "cell.js")


def page(context: Context) -> Page:
    """Return the page; a cell's details are in the data files."""
    return Page("cell.html", "Cell", fill("cell.html.j2", against_base=context.base is not None), "", SCRIPTS)
