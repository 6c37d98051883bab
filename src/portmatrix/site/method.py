"""The pages on method: the documentation's own, made HTML when the site is built, so that both say the same.

Links among these pages lead from page to page; links to other files of the repository lead there, if it is known where
it is to be found. Raw HTML in a page is shown as text.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import count
from pathlib import Path
from urllib.parse import quote, unquote

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

from portmatrix.site.page import Context, Page
from portmatrix.site.templates import fill

#: The pages, in their order, each with the word that the others lead to it by.
PAGES = {
    "method": "How it is measured",
    "method-latency": "Latency",
    "reading-the-table": "Reading the table",
    "static": "Static verdicts",
    "survey-backtest": "The survey",
}
#: The copies in the installed package; a checkout has the documentation itself instead.
PACKAGED = Path(__file__).with_name("docs")
_CHECKOUT = Path(__file__).parents[3] / "docs"
#: Where they lie in the repository: what their links start from.
_FOLDER = "docs"
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:|//")


def pages(context: Context) -> list[Page]:
    """Return the pages; the first of them is in the navigation, and leads to the others."""
    return [_page(name, context.repository) for name in PAGES]


def render(text: str, repository: str = "") -> tuple[str, Markup]:
    """Return the title of a page in Markdown and its body as HTML, with an id for each heading as GitHub gives it.

    ``repository`` is the address of the repository's root, or empty: then links to other files are no links.
    """
    parser = _parser()
    tokens = parser.parse(text)
    taken: dict[str, int] = {}
    title = ""
    for number, token in enumerate(tokens):
        if token.type == "heading_open":
            heading = _plain(tokens[number + 1])
            title = title or heading
            token.attrSet("id", _anchor(heading, taken))
        elif token.type in ("th_open", "td_open"):
            _align(token)
            if token.type == "th_open" and not tokens[number + 1].content:
                # A head without words heads nothing: it is left to screen readers as any field.
                token.tag = tokens[number + 2].tag = "td"
        elif token.type == "inline":
            token.children = _linked(token.children or [], repository)
    html = parser.renderer.render(tokens, parser.options, {})
    return title, Markup(_scrolling(html))  # noqa: S704  # the parser lets no HTML through


def _page(name: str, repository: str) -> Page:
    title, html = render(_text(name), repository)
    body = fill("method.html.j2", html=html, pages=PAGES, here=name)
    return Page(f"{name}.html", title, body, entry="Method" if name == next(iter(PAGES)) else "")


def _text(name: str) -> str:
    folder = PACKAGED if PACKAGED.is_dir() else _CHECKOUT
    return (folder / f"{name}.md").read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def _parser() -> MarkdownIt:
    return MarkdownIt("commonmark", {"html": False}).enable("table")


# --- Headings -------------------------------------------------------------------------------------------------------


def _plain(inline: Token) -> str:
    return "".join(child.content for child in inline.children or () if child.type in ("text", "code_inline"))


def _anchor(heading: str, taken: dict[str, int]) -> str:
    """Return a heading's id as GitHub makes it: repeated ones are numbered."""
    slug = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
    seen = taken.get(slug, 0)
    taken[slug] = seen + 1
    return f"{slug}-{seen}" if seen else slug


# --- Links ----------------------------------------------------------------------------------------------------------


def _linked(children: Sequence[Token], repository: str) -> list[Token]:
    """Return what stands in a paragraph, with links that work from the site; those that cannot are plain text."""
    made: list[Token] = []
    kept: list[bool] = []
    for token in children:
        if token.type == "link_open":
            address = _address(str(token.attrs.get("href", "")), repository)
            kept.append(address is not None)
            if address is None:
                continue
            token.attrSet("href", address)
        elif token.type == "link_close" and not kept.pop():
            continue
        made.append(token)
    return made


def _address(link: str, repository: str) -> str | None:
    """Return where a link of a page leads from the site, or None if that cannot be said."""
    if _ABSOLUTE.match(link) or link.startswith("#"):
        return link
    path, _, fragment = link.partition("#")
    place = posixpath.normpath(posixpath.join(_FOLDER, unquote(path)))
    behind = f"#{fragment}" if fragment else ""
    folder, file = posixpath.split(place)
    if folder == _FOLDER and file.removesuffix(".md") in PAGES:
        return f"{file.removesuffix('.md')}.html{behind}"
    return f"{repository.rstrip('/')}/{quote(place)}{behind}" if repository else None


# --- Tables ---------------------------------------------------------------------------------------------------------


def _align(field: Token) -> None:
    """Turn how a column is aligned from a style, which the site's policy does not let through, into a class."""
    style = str(field.attrs.pop("style", ""))
    if style:
        field.attrSet("class", "figure" if style.endswith("right") else "middle")


def _scrolling(html: str) -> str:
    """Return HTML whose tables scroll by themselves where they are wider than the page, by keyboard, too."""
    numbers = count(1)
    opened = '<div class="scroll" tabindex="0" role="region" aria-label="Table {}"><table>'
    return re.sub("<table>", lambda _: opened.format(next(numbers)), html).replace("</table>", "</table></div>")
