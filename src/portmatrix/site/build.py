"""The site put together: every page in the skeleton, style, scripts and data; and how it comes to a disk."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from importlib.resources import files as resources
from pathlib import Path

from portmatrix.errors import UserError
from portmatrix.site import cell, data, latency, matrix, method, modelling, overview
from portmatrix.site.page import Context, Page
from portmatrix.site.templates import fill
from portmatrix.store import disk_errors

#: Nothing but the site's own files, and no text that becomes markup or a script, not even by mistake.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; "
    "require-trusted-types-for 'script'; trusted-types portmatrix"
)
_SHEETS = ("site.css", "pages.css")
#: What lies beside the pages as it is in this package.
_ASSETS = (*_SHEETS, "icon.svg", "site.js", "cells.js", "advice.js", "timeline.js", "matrix.js", "cell.js")
_MARK = b'<meta name="generator" content="portmatrix">'


def build(context: Context) -> dict[str, bytes]:
    """Return the site's files by their path in its folder; equal records give equal bytes."""
    pages = (
        overview.page(context),
        matrix.page(context),
        latency.page(context),
        modelling.page(context),
        *method.pages(context),
        cell.page(context),
    )
    entries = [page for page in pages if page.entry]
    made = {name: resources("portmatrix.site").joinpath(name).read_bytes() for name in _ASSETS}
    for page in pages:
        made |= {page.file: _html(page, entries, context.title).encode(), **page.files}
    return made | dict(data.files(context))


def _html(page: Page, entries: Sequence[Page], title: str) -> str:
    return fill(
        "skeleton.html.j2",
        page=page,
        entries=entries,
        title=title,
        policy=_POLICY,
        sheets=_SHEETS,
        scripts=("site.js", *page.scripts),
    )


def write(files: Mapping[str, bytes], folder: Path) -> None:
    """Write the site's files into a folder, beside its place and moved there; a site that is there already is replaced.

    Raises ``UserError`` for a folder that holds something else, ``DiskFull``.
    """
    place = folder.absolute()
    _refuse_others(place)
    with disk_errors(str(folder)):
        place.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
        try:
            made = beside / "site"
            for name, content in files.items():
                file = made / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
            if place.exists():
                place.replace(beside / "former")
            made.replace(place)
        except BaseException:
            if (beside / "former").exists() and not place.exists():
                (beside / "former").replace(place)
            raise
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def _refuse_others(folder: Path) -> None:
    """Raise ``UserError`` unless a folder may be replaced: it is not there, is empty, or holds a site of ours."""
    if not folder.exists():
        return
    first = folder / "index.html"
    if not folder.is_dir() or (any(folder.iterdir()) and not (first.is_file() and _MARK in first.read_bytes()[:4096])):
        raise UserError(f"{folder} is there, and is no report; name a new folder, an empty one or a report's")
