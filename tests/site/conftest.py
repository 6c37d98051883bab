"""A real browser, sites in folders, pages that are open in it, and what every page must satisfy."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from made_site import hostile_context, made_context
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, sync_playwright

from portmatrix.site import build

ROOT = Path(__file__).parents[2]
WIDE, PHONE = (1280, 800), (375, 700)

#: From a disk, style sheets cannot be fetched a second time: axe would complain of that on the page's console.
AXE = {"preload": False}

OpenPage = Callable[..., Page]
CheckPage = Callable[..., None]


def installed() -> str:
    """Return the browser that targets/browser.py finds; skips where there is none."""
    system = {"win32": "windows", "darwin": "macos"}.get(sys.platform, "linux")
    (way,) = runpy.run_path(str(ROOT / "targets" / "browser.py"))["reach"]({"os": system})
    if "why" in way:
        pytest.skip(f"{way['why']}; {way['install']}")
    return str(way["env"]["PORTMATRIX_BROWSER"])


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium, Chrome or Edge, without a window. (In containers its own sandbox does not work.)"""
    program = installed()
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()


def _written(folder: Path, files: dict[str, bytes]) -> Path:
    build.write(files, folder)
    return folder


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site of ``made_site.made_context``, in a folder."""
    return _written(tmp_path_factory.mktemp("site") / "report", build.build(made_context()))


@pytest.fixture(scope="session")
def hostile_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site of ``made_site.hostile_context``, in a folder."""
    return _written(tmp_path_factory.mktemp("hostile") / "report", build.build(hostile_context()))


def _watched(page: Page, problems: list[str]) -> Page:
    """Note everything that a page complains about."""

    def said(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            problems.append(f"{message.type}: {message.text}")

    def failed(request: Request) -> None:
        if request.failure != "net::ERR_ABORTED":  # the page was left before it was there
            problems.append(f"not loaded: {request.url}: {request.failure}")

    page.on("console", said)
    page.on("pageerror", lambda error: problems.append(f"uncaught: {error}"))
    page.on("requestfailed", failed)
    page.on("dialog", lambda dialog: problems.append(f"a dialog: {dialog.message}"))
    return page


@pytest.fixture
def open_page(browser: Browser, site: Path) -> Iterator[OpenPage]:
    """Opens a page of the made site (or of another ``folder``) from the disk; no page may complain of anything."""
    problems: list[str] = []
    contexts: list[BrowserContext] = []

    def open_(address: str, folder: Path = site, size: tuple[int, int] = WIDE, **options: Any) -> Page:
        made = browser.new_context(viewport={"width": size[0], "height": size[1]}, offline=True, **options)
        contexts.append(made)
        page = _watched(made.new_page(), problems)
        page.goto(f"{(folder / 'index.html').as_uri().removesuffix('index.html')}{address}")
        return page

    yield open_
    for made in contexts:
        made.close()
    assert not problems


@pytest.fixture
def check_page(open_page: OpenPage) -> CheckPage:
    """Checks a page as it is for everyone: axe finds nothing, in light and dark, and it fits a desk and a phone."""

    def check(address: str, ready: str = "h1", **options: Any) -> None:
        # axe brings scripts along that the page's own policy would refuse.
        page = open_page(address, bypass_csp=True, **options)
        page.locator(ready).first.wait_for()
        for size in (WIDE, PHONE):
            page.set_viewport_size({"width": size[0], "height": size[1]})
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme)
                where = f"{address} at {size[0]} px, {scheme}"
                found = Axe().run(page, options=AXE).response["violations"]
                told = [f"{item['id']}: {node['html'][:300]}" for item in found for node in item["nodes"]]
                assert not told, f"{where}: {told}"
                over = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
                assert over <= 0, f"{where}: {over} px too wide"

    return check
