"""The site that Sphinx makes of the documentation: built strictly, whole, and in need of nothing from elsewhere."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import pytest
from playwright.sync_api import sync_playwright

pytest.importorskip("sphinx", reason="`tox run -e docs` has Sphinx, and runs these")

ROOT = Path(__file__).parents[1]


def build(site: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Build the site into a folder, every warning an error."""
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-E", "-c", str(ROOT / "docs")]
    return subprocess.run(
        [*command, "-d", str(site.with_name("doctrees")), str(ROOT), str(site)],
        capture_output=True,
        check=False,
        text=True,
        env={**os.environ, **variables},
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; that of the environment ``docs`` of tox where that has just made it."""
    if made := os.environ.get("PORTMATRIX_DOCUMENTATION"):
        return Path(made)
    folder = tmp_path_factory.mktemp("documentation") / "site"
    built = build(folder)
    assert built.returncode == 0, built.stderr
    return folder


class Parsed(HTMLParser):
    """What a page of the site has: its ids, where its links lead, and what a browser fetches for it."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag."""
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag == "link" and given.get("rel") in ("stylesheet", "icon", "preload", "preconnect", "dns-prefetch"):
            self.fetched.append(given["href"])
        elif "src" in given:
            self.fetched.append(given["src"])


class Pages(NamedTuple):
    """The pages of a site, parsed, by their place."""

    folder: Path
    parsed: dict[Path, Parsed]

    def broken(self) -> Iterator[str]:
        """Yield what is wrong with links and files within the site."""
        for page, parsed in self.parsed.items():
            for link in (*parsed.links, *parsed.fetched):
                parts = urlsplit(link)
                if not parts.scheme and (wrong := self._wrong(page, unquote(parts.path), unquote(parts.fragment))):
                    yield f"{page.relative_to(self.folder)}: {link}: {wrong}"

    def _wrong(self, page: Path, path: str, anchor: str) -> str:
        place = (page.parent / path).resolve() if path else page
        if not place.is_file():
            return "there is no such file"
        if anchor and place in self.parsed and anchor not in self.parsed[place].ids:
            return "there is no such place on the page"
        return ""


@pytest.fixture(scope="module")
def pages(site: Path) -> Pages:
    """All pages of the site."""
    return Pages(site, {page: Parsed(page) for page in site.resolve().rglob("*.html")})


def test_every_page_is_there(site: Path) -> None:
    sources = [*(ROOT / "docs").rglob("*.md"), ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]
    expected = {source.relative_to(ROOT).with_suffix(".html") for source in sources}
    assert expected <= {page.relative_to(site) for page in site.rglob("*.html")}


def test_links_within_the_site_lead_somewhere(pages: Pages) -> None:
    assert not list(pages.broken())


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text('<a href="b.html"></a><a href="#x"></a><a href="https://x.y"></a><p id="z">')
    pages = Pages(tmp_path, {tmp_path / "a.html": Parsed(tmp_path / "a.html")})
    assert [line.split(": ", 1)[1] for line in pages.broken()] == [
        "b.html: there is no such file",
        "#x: there is no such place on the page",
    ]


def test_nothing_is_fetched_from_elsewhere(site: Path, pages: Pages) -> None:
    for page, parsed in pages.parsed.items():
        assert not [one for one in parsed.fetched if urlsplit(one).scheme or one.startswith("//")], page
    for file in site.rglob("*.css"):
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"(url\(|@import)\s*[\"']?\s*(https?:)?//", text), file


def test_the_anchors_behind_the_badges_are_on_the_page_of_results(pages: Pages) -> None:
    named = re.findall(r"\(docs/results\.md#([^)]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    results = next(parsed for page, parsed in pages.parsed.items() if page.name == "results.html")
    assert named
    assert set(named) <= results.ids


def test_every_page_can_be_searched_for(site: Path) -> None:
    index = (site / "searchindex.js").read_text(encoding="utf-8")
    assert '"docs/quick-start"' in index
    assert '"CHANGELOG"' in index


def test_pages_open_from_disk_and_are_searched_without_a_network(site: Path) -> None:
    system = {"win32": "windows", "darwin": "macos"}.get(sys.platform, "linux")
    (way,) = runpy.run_path(str(ROOT / "targets" / "browser.py"))["reach"]({"os": system})
    if "why" in way:
        pytest.skip(f"{way['why']}; {way['install']}")
    wrong: list[str] = []
    with sync_playwright() as playwright:
        program = way["env"]["PORTMATRIX_BROWSER"]
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_context(offline=True).new_page()
        page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("requestfailed", lambda request: wrong.append(f"not loaded: {request.url}"))
        page.goto((site.resolve() / "index.html").as_uri())
        page.wait_for_url("**/docs/index.html")
        page.get_by_role("textbox", name="Search").fill("smallest change")
        page.keyboard.press("Enter")
        found = page.locator("#search-results li a").first
        found.wait_for()
        found.click()
        page.locator("h1").first.wait_for()
        browser.close()
    assert not wrong


def test_with_the_repositorys_address_links_lead_there(tmp_path: Path) -> None:
    built = build(tmp_path / "site", PORTMATRIX_REPOSITORY="https://repository.example/blob/main/")
    assert built.returncode == 0, built.stderr
    links = Parsed(tmp_path / "site" / "docs" / "adding-a-target.html").links
    assert "https://repository.example/blob/main/targets/ssh.py" in links
    assert not list((tmp_path / "site").rglob("_downloads"))
