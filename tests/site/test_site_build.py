from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from made_site import hostile_context, made_context
from page_of import context

from portmatrix.errors import UserError
from portmatrix.site import build

FILES = build.build(made_context())
PAGES = sorted(name for name in FILES if name.endswith(".html"))


class Elements(HTMLParser):
    """The elements of a page with their attributes, and the text inside of scripts and styles."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.inside = ""
        self._open = ""
        self.feed(content.decode())
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))
        self._open = tag

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, text: str) -> None:
        if self._open in ("script", "style"):
            self.inside += text.strip()

    def values(self, name: str) -> list[str]:
        return [attrs[name] for _, attrs in self.found if name in attrs]


@pytest.mark.parametrize("page", PAGES)
def test_a_page_loads_nothing_from_elsewhere_and_its_links_lead_somewhere(page: str) -> None:
    elements = Elements(FILES[page])
    loaded = [
        attrs.get("src") or attrs.get("href", "") for tag, attrs in elements.found if tag in ("script", "link", "img")
    ]
    assert {"site.js", "site.css"} <= set(loaded)
    assert set(loaded) <= FILES.keys()
    for link in elements.values("href"):
        parts = urlsplit(link)
        if parts.scheme:
            assert parts.scheme == "https"
        elif parts.path:
            assert parts.path in FILES, link
        elif parts.fragment:
            assert parts.fragment in elements.values("id"), link


@pytest.mark.parametrize("page", PAGES)
def test_a_page_has_nothing_that_its_policy_refuses(page: str) -> None:
    elements = Elements(FILES[page])
    (policy,) = [
        attrs["content"] for _, attrs in elements.found if attrs.get("http-equiv") == "Content-Security-Policy"
    ]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not elements.inside
    names = {name for _, attrs in elements.found for name in attrs}
    assert "style" not in names
    assert not [name for name in names if name.startswith("on")]


def test_the_navigation_leads_to_every_entry_and_marks_the_page() -> None:
    entries = {
        "Overview": "index.html",
        "Matrix": "matrix.html",
        "Latency": "latency.html",
        "Modelling": "modelling.html",
    }
    for page in PAGES:
        text = FILES[page].decode()
        nav = re.search(r'<nav aria-label="Pages">(.*?)</nav>', text, re.DOTALL)
        assert nav
        links = dict(re.findall(r'<a href="([^"]+)"[^>]*>([^<]+)</a>', nav[1]))
        assert {word: file for file, word in links.items()} == {**entries, "Method": "method.html"}
        assert nav[1].count("aria-current") == (page in links)


def test_the_scripts_evaluate_no_text() -> None:
    for name, content in FILES.items():
        if name.endswith(".js") and not name.startswith("data/"):
            assert not re.search(
                rb"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|fetch\(", content
            ), name


def test_equal_records_give_equal_bytes() -> None:
    assert build.build(made_context()) == FILES


def test_hostile_names_add_no_element() -> None:
    usual = {tag for page in PAGES for tag, _ in Elements(FILES[page]).found}
    hostile = build.build(hostile_context())
    for page in sorted(name for name in hostile if name.endswith(".html")):
        elements = Elements(hostile[page])
        assert {tag for tag, _ in elements.found} <= usual
        assert not elements.inside
        assert not [name for _, attrs in elements.found for name in attrs if name.startswith("on")]


def test_no_records_are_a_report_too() -> None:
    assert b"0 cells" in build.build(context([]))["matrix.html"]


# --- On a disk ------------------------------------------------------------------------------------------------------


def files_of(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_site_is_written_whole_and_takes_the_place_of_the_former(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "site"
    build.write({**FILES, "data/of-yesterday.js": b""}, folder)
    assert "data/of-yesterday.js" in files_of(folder)
    build.write(FILES, folder)
    assert files_of(folder) == FILES
    assert [file.name for file in folder.parent.iterdir()] == ["site"]


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    build.write(FILES, tmp_path)
    assert files_of(tmp_path) == FILES


@pytest.mark.parametrize("there", ["notes.txt", "index.html"])
def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("<h1>mine</h1>")
    with pytest.raises(UserError, match="is no report; name a new folder"):
        build.write(FILES, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [there]
    file = tmp_path / there
    with pytest.raises(UserError, match="is no report"):
        build.write(FILES, file)


def test_a_site_that_cannot_be_written_leaves_the_former_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "site"
    build.write(FILES, folder)
    real = Path.write_bytes

    def fails(place: Path, content: Any) -> int:
        if place.name == "cells.js":
            raise PermissionError(13, "not today")
        return real(place, content)

    monkeypatch.setattr(Path, "write_bytes", fails)
    with pytest.raises(PermissionError):
        build.write(FILES, folder)
    monkeypatch.undo()
    assert files_of(folder) == FILES
    assert [file.name for file in tmp_path.iterdir()] == ["site"]
