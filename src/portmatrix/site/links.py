"""Addresses within the site: the matrix page with a filter set, and the page of one cell. Scripts read them."""

from __future__ import annotations

from urllib.parse import quote, urlencode

from portmatrix.site.page import shown_cell, shown_name


def to_matrix(**wanted: str) -> str:
    """Return the address of the matrix page that shows only cells with these values, such as ``framework="torch"``."""
    values = {name: shown_name(value) for name, value in wanted.items()}
    return f"matrix.html#{urlencode(values, quote_via=quote)}"


def to_cell(cell: str) -> str:
    """Return the address of a cell's page, by the cell's id."""
    return f"cell.html#{quote(shown_cell(cell), safe='/')}"


def to_working(framework: str) -> str:
    """Return the id of the arithmetic of a framework's ratings on the overview, which is a fragment as it stands."""
    return f"rating-{quote(shown_name(framework), safe='')}"
