from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from page_of import Parts, context

from portmatrix.site import method
from portmatrix.site.method import PAGES, pages, render
from portmatrix.site.page import Page

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", params=["", "https://example.org/p/blob/abc/"])
def made(request: pytest.FixtureRequest) -> dict[str, Parts]:
    return {page.file: Parts(page) for page in pages(context([], repository=request.param))}


def test_one_page_is_in_the_navigation_and_leads_to_the_others() -> None:
    found = pages(context([]))
    assert [page.entry for page in found] == ["Method", "", "", "", ""]
    assert [page.file for page in found] == [f"{name}.html" for name in PAGES]
    assert {page.file for page in found} <= set(Parts(found[0]).values("href"))
    assert found[1].title == "How latency is measured"


def test_every_link_among_the_pages_leads_to_something_that_is_there(made: dict[str, Parts]) -> None:
    seen = 0
    for file, parts in made.items():
        for href in parts.values("href", "a"):
            if "://" in href or href.startswith("matrix.html"):
                continue
            target, _, fragment = href.partition("#")
            seen += 1
            assert not fragment or unquote(fragment) in made[target or file].values("id"), (file, href)
            assert (target or file) in made, (file, href)
    assert seen > 10


def test_links_to_other_files_lead_into_the_repository_if_it_is_known(made: dict[str, Parts]) -> None:
    parts = made["method.html"]
    known = [href for href in parts.values("href") if href.startswith("https://example.org/p/blob/abc/")]
    if known:
        assert "https://example.org/p/blob/abc/src/portmatrix/compare.py" in known
        assert "https://example.org/p/blob/abc/matrix.yaml" in known
    assert "compare.py" in parts.text
    assert not [href for href in parts.values("href") if ".md" in href and "://" not in href]
    assert not [href for href in parts.values("href") if ".." in href]


def test_tables_are_tables_and_nothing_has_a_style_of_its_own(made: dict[str, Parts]) -> None:
    for parts in made.values():
        assert parts.count("table") == parts.values("role").count("region")
        assert not parts.values("style")
        labels = parts.values("aria-label")
        assert len(labels) == len(set(labels))
    assert made["survey-backtest.html"].row("Caffe", "1.000")[3] == "5"
    assert "figure" in made["survey-backtest.html"].values("class", "td")


def test_what_is_written_is_what_the_documentation_says(made: dict[str, Parts]) -> None:
    for name in PAGES:
        source = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
        words = re.findall(r"[A-Za-z]{4,}", re.sub(r"\]\([^)]*\)|```\w*", "]", source))
        shown = set(re.findall(r"[A-Za-z]{4,}", made[f"{name}.html"].text))
        assert not set(words) - shown


def test_a_column_without_a_name_has_no_head() -> None:
    _, html = render("| | b |\n|---|---:|\n| 1 | 2 |\n")
    assert '<tr>\n<td></td>\n<th class="figure">b</th>\n</tr>' in html


def test_headings_have_the_ids_that_github_gives_them() -> None:
    _, html = render("# A title\n\n## What `x` is: 100%\n\n## Twice\n\n## Twice\n")
    assert re.findall(r'id="([^"]*)"', html) == ["a-title", "what-x-is-100", "twice", "twice-1"]


def test_raw_html_and_scripts_in_links_do_not_pass() -> None:
    title, html = render("# T <b>\n\n<script>alert(1)</script>\n\n[x](javascript:alert(1)) <img src=x onerror=y>\n")
    assert title == "T <b>"
    parts = Parts(Page("x.html", title, html))
    assert {tag for tag, _ in parts.elements} == {"h1", "p"}
    assert not parts.values("href")


@pytest.mark.parametrize(
    ("link", "leads"),
    [
        ("method.md#ratings", "method.html#ratings"),
        ("static.md", "static.html"),
        ("#here", "#here"),
        ("https://example.org/x.md", "https://example.org/x.md"),
        ("faq.md#a", "https://r/docs/faq.md#a"),
        ("../matrix.yaml", "https://r/matrix.yaml"),
        ("converters/method.md", "https://r/docs/converters/method.md"),
    ],
)
def test_where_links_lead(link: str, leads: str) -> None:
    _, html = render(f"[*text* of it]({link})", "https://r/")
    assert f'<a href="{leads}"><em>text</em> of it</a>' in html
    _, without = render(f"[*text* of it]({link})")
    assert "<em>text</em> of it" in without
    assert ("<a " in without) == (not leads.startswith("https://r/"))


def test_the_wheel_takes_along_every_page() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    taken = re.findall(r'^"docs/(.+)\.md" = "portmatrix/site/docs/\1\.md"$', project, re.MULTILINE)
    assert taken == list(PAGES)


def test_the_installed_copies_come_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in PAGES:
        (tmp_path / f"{name}.md").write_text(f"# Installed {name}\n", encoding="utf-8")
    monkeypatch.setattr(method, "PACKAGED", tmp_path)
    assert [page.title for page in pages(context([]))] == [f"Installed {name}" for name in PAGES]
