"""The pages' templates: one jinja2 environment with autoescape on, and the filters that foreign text goes through."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from portmatrix.render.latencies import interval_text, seconds_text
from portmatrix.render.readme import stars_text
from portmatrix.render.text import number, one_line, visible
from portmatrix.site.links import to_cell, to_matrix, to_working


def fill(template: str, **values: Any) -> Markup:
    """Return a template of this package with its values put in; that one is missing is an error."""
    return Markup(_environment().get_template(template).render(**values))  # noqa: S704  # autoescape is on


def line(text: str, limit: int = 120) -> str:
    """Return foreign text as one visible line, short enough for a table."""
    return one_line(text, limit)


def size_text(count: int | None) -> str:
    """Return bytes in the unit that suits them, with three digits; nothing for None."""
    if count is None:
        return ""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} B"


def ratio_text(value: float | None) -> str:
    """Return a ratio in three digits after the point, nothing for None."""
    return "" if value is None else f"{value:.3f}"


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("portmatrix.site", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "bytes": size_text,
        "interval": interval_text,
        "line": line,
        "number": number,
        "percent": "{:.0%}".format,
        "ratio": ratio_text,
        "seconds": seconds_text,
        "stars": stars_text,
        "visible": visible,
    }
    environment.globals |= {"to_cell": to_cell, "to_matrix": to_matrix, "to_working": to_working}
    return environment
