"""Every page for everyone: nothing for axe to find, no sideways scrolling, no complaint, and no harm from any text."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_site import STEADY, WRONG, hostile_records, made_context
from playwright.sync_api import Page, expect

from portmatrix.site import build
from portmatrix.site.links import to_cell, to_matrix
from portmatrix.types import Outcome

pytestmark = pytest.mark.xdist_group("browser")
OpenPage = Callable[..., Page]
CheckPage = Callable[..., None]
PAGES = sorted(name for name in build.build(made_context()) if name.endswith(".html") and name != "cell.html")
LOOKED_UP = next(item.cell for item in made_context().records if item.lookup)
BROKEN = next(item.cell for item in made_context().records if item.outcome is Outcome.ERROR)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_for_everyone(check_page: CheckPage, page: str) -> None:
    check_page(page, ready="#rows .row" if page == "matrix.html" else "h1")


@pytest.mark.parametrize("cell", [WRONG, STEADY, LOOKED_UP, BROKEN], ids=["wrong", "steady", "looked up", "error"])
def test_a_cells_page_is_for_everyone(check_page: CheckPage, cell: str) -> None:
    check_page(to_cell(cell), ready="#cell .columns")


def test_an_open_filter_and_the_keys_are_for_everyone(open_page: OpenPage) -> None:
    from axe_playwright_python.sync_playwright import Axe  # noqa: PLC0415

    page = open_page(to_matrix(outcome="FAIL"), bypass_csp=True)
    page.locator('.facet[data-key="model"] summary').click()
    page.locator(".panel label").first.wait_for()
    assert Axe().run(page, options={"preload": False}).response["violations"] == []
    page.keyboard.press("Escape")
    page.locator("#keys").click()
    expect(page.locator("dialog")).to_be_visible()
    assert Axe().run(page, options={"preload": False}).response["violations"] == []


# --- Harm -----------------------------------------------------------------------------------------------------------


def harmless(page: Page) -> None:
    """Check that no text of a record became an element, ran, or moved other text."""
    assert page.title() != "caught"
    assert page.locator("main img[onerror], main script, main [onerror]").count() == 0
    assert page.evaluate("window.caught === undefined")
    text = page.locator("body").inner_text()
    assert not {"\u202e", "\x00", "\x1b", "\x07"} & set(text)
    over = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert over <= 0


@pytest.mark.parametrize("size", [(1280, 800), (375, 700)], ids=["desk", "phone"])
@pytest.mark.parametrize("name", PAGES)
def test_hostile_names_are_harmless_on_every_page(
    open_page: OpenPage, hostile_site: Path, name: str, size: tuple[int, int]
) -> None:
    page = open_page(name, folder=hostile_site, size=size)
    page.locator("#rows .row" if name == "matrix.html" else "h1").first.wait_for()
    harmless(page)


@pytest.mark.parametrize("size", [(1280, 800), (375, 700)], ids=["desk", "phone"])
def test_hostile_cells_are_harmless_and_can_be_reached(
    open_page: OpenPage, hostile_site: Path, size: tuple[int, int]
) -> None:
    for item in hostile_records():
        page = open_page(to_cell(item.cell), folder=hostile_site, size=size)
        page.locator("#cell .columns").wait_for()
        harmless(page)
        assert "</script><script>document.title='caught'</script>" in page.locator("#cell").inner_text()
        page.close()


def test_hostile_names_can_be_filtered_by(open_page: OpenPage, hostile_site: Path) -> None:
    first = hostile_records()[0].id
    page = open_page(to_matrix(framework=first.framework, model=first.model), folder=hostile_site)
    expect(page.locator("#status")).to_have_text("8 of 8 cells")
    page.evaluate("location.hash = ''")
    page.locator('.facet[data-key="target"] summary').click()
    page.locator(".panel label").first.click()
    expect(page.locator("#status")).to_have_text("1 of 8 cells")
    harmless(page)
    page.locator("#grid").focus()
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"/cell\.html#"))
    page.locator("#cell .columns").wait_for()
    harmless(page)


def test_markup_that_reaches_the_page_after_all_is_refused(browser: Any, site: Path) -> None:
    page = browser.new_page()
    page.goto(f"{site.as_uri()}/matrix.html")
    page.locator("#rows .row").first.wait_for()
    for attempt in (
        "document.querySelector('#status').innerHTML = '<img src=x onerror=alert(1)>'",
        "document.createElement('img').setAttribute('onerror', 'alert(1)')",
        "document.createElement('script').src = 'https://example.org/x.js'",
        "document.createElement('script').text = 'alert(1)'",
        "setTimeout('alert(1)')",
    ):
        refused = page.evaluate(
            f"() => {{ try {{ {attempt}; return 'taken'; }} catch (error) {{ return error.name; }} }}"
        )
        assert refused in ("TypeError", "EvalError"), attempt
    page.close()
