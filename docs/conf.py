"""How Sphinx builds the documentation: the Markdown pages as they stand, so that they read as well where they lie.

    sphinx-build -W --keep-going -c docs . SITE

The source folder is the root of the repository, since some pages lie there. What a page links to and is no page itself
(a module, ``matrix.yaml``) is copied into the site; with ``PORTMATRIX_REPOSITORY``, the address of the repository's
files at a revision, the link leads there instead.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

ROOT = Path(__file__).parent.parent
#: Where pages are: folders, and files in the root.
PAGES = ("docs", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
#: The address of the repository's files, such as ``https://…/blob/REV/``.
REPOSITORY = os.environ.get("PORTMATRIX_REPOSITORY", "")

project = "portmatrix"
root_doc = "docs/index"
source_suffix = {".md": "markdown"}
exclude_patterns = sorted(item.name for item in ROOT.iterdir() if item.name not in PAGES)
extensions = ["myst_parser"]
nitpicky = True
smartquotes = False
highlight_language = "text"
# Links to headings are spelled as GitHub spells them.
myst_heading_anchors = 4
# What is no Markdown on GitHub is none here.
myst_disable_syntax = ["myst_block_break", "myst_line_comment", "myst_role", "myst_target", "math_block", "math_inline"]

html_theme = "furo"
html_title = "portmatrix"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False
html_permalinks_icon = "#"
html_use_index = False
# Passages of the pages that were found are fetched, which a browser does not do for files on a disk.
html_show_search_summary = False


# --- The table of contents ------------------------------------------------------------------------------------------


def contents(text: str) -> Iterator[str]:
    """Yield the lines of a ``toctree`` for each section of the index that lists pages, in the order of its lists."""
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        entries = re.findall(r"^- \[([^\]]+)\]\(([^)#:]+)\.md\)", section, flags=re.MULTILINE)
        if entries:
            yield from ("", "```{toctree}", ":hidden:", f":caption: {section.splitlines()[0]}", "")
            yield from (f"{title} <{target}>" for title, target in entries)
            yield "```"


def add_contents(app: Sphinx, docname: str, source: list[str]) -> None:
    """Append to an index what only Sphinx understands: on GitHub the lists are the table of contents."""
    if docname in (app.config.root_doc, "docs/findings/index"):
        source[0] += "\n".join(contents(source[0]))


# --- Links into the repository --------------------------------------------------------------------------------------


class IntoRepository(SphinxTransform):
    """Leads links to what is no page to the repository, if its address is known; without, only files can be had."""

    default_priority = 200

    def apply(self, **_: object) -> None:
        """Replace the links of one page, before Sphinx looks for what they mean."""
        sorts = (addnodes.pending_xref, addnodes.download_reference)
        for link in [link for sort in sorts for link in self.document.findall(sort)]:
            place = self._place(link)
            if place is None or not (ROOT / place).exists():
                continue  # a page; or nothing, which Sphinx says
            if REPOSITORY:
                link.replace_self(nodes.reference("", "", *link.children, refuri=REPOSITORY + place, internal=False))
            elif isinstance(link, addnodes.pending_xref):
                link.replace_self(link.children)

    def _place(self, link: nodes.Element) -> str | None:
        """Return the path in the repository that a link means, if it is no page's."""
        if isinstance(link, addnodes.pending_xref) and link.get("refdomain") == "doc":
            return None if link["reftarget"] in self.env.found_docs else f"{link['reftarget']}.md"
        path = link["reftarget"].partition("#")[0]
        folder = posixpath.dirname(self.env.docname)
        return posixpath.normpath(posixpath.join(folder, path)) if path else None


def add_front_page(app: Sphinx, failure: Exception | None) -> None:
    """Put a page at the top of the site that leads to the index, which lies in a folder as its source does."""
    if failure is None and app.builder.format == "html":
        target = f"{app.config.root_doc}.html"
        page = f'<!doctype html><title>portmatrix</title><meta http-equiv="refresh" content="0; url={target}">'
        Path(app.outdir, "index.html").write_text(f'{page}<a href="{target}">portmatrix</a>\n', encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the above."""
    app.connect("source-read", add_contents)
    app.connect("build-finished", add_front_page)
    app.add_transform(IntoRepository)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
