"""What the tests of the site's pages are made of: a context of records, and a page taken apart."""

from __future__ import annotations

from collections.abc import Sequence
from html.parser import HTMLParser
from typing import Any

from portmatrix.rate import rate
from portmatrix.regression import compare
from portmatrix.render.table import urgency
from portmatrix.site.page import Context, Page
from portmatrix.spec import MatrixSpec
from portmatrix.types import Record

_VOID = frozenset({"br", "hr", "img", "input", "link", "meta", "wbr"})
SPEC: dict[str, Any] = {"version": 1, "models": {"mlp": {}, "lstm": {}}}


def context(
    records: Sequence[Record], base: Sequence[Record] | None = None, spec: dict[str, Any] | None = None, **more: Any
) -> Context:
    """Return the context of some records, as the command makes it."""
    parsed = MatrixSpec.model_validate(spec or SPEC)
    return Context(
        title="A report",
        records=tuple(sorted(records, key=urgency)),
        evidence=tuple(records),
        ratings=rate(records, parsed.ratings),
        spec=parsed,
        base=None if base is None else {record.cell: record for record in base},
        changes=None if base is None else compare(base, records),
        **more,
    )


class Parts(HTMLParser):
    """A page's elements with their attributes, its text, and the text of its table rows; ill-nested tags are errors."""

    def __init__(self, page: Page) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.rows: list[list[str]] = []
        self._open: list[str] = []
        self.feed(str(page.body))
        self.close()
        assert not self._open, f"not closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in _VOID:
            self._open.append(tag)
        if tag == "br":
            self.handle_data(" ")
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        self.text += data
        if "tr" in self._open and {"td", "th"} & set(self._open):
            self.rows[-1][-1] += data

    def values(self, attribute: str, tag: str = "") -> list[str]:
        """Return what an attribute is, wherever it occurs (in elements ``tag``)."""
        return [attrs[attribute] for name, attrs in self.elements if attribute in attrs and tag in ("", name)]

    def count(self, tag: str) -> int:
        """Return how many elements there are of a name."""
        return sum(name == tag for name, _ in self.elements)

    def row(self, *words: str) -> list[str]:
        """Return the fields of the only row that has all of these words in it, with blanks made one."""
        fields = [[" ".join(field.split()) for field in row] for row in self.rows]
        (found,) = [row for row in fields if all(any(word in field for field in row) for word in words)]
        return found
