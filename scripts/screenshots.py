"""Pictures of the report of the reference results, for the documentation: ``docs/images/*.png``.

    python scripts/screenshots.py [--output docs/images] [--records results/reference.jsonl]

The pages are opened from the disk in Chromium, in light and dark, on a desk and on a phone.
"""

from __future__ import annotations

import argparse
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).parents[1]
DESK, PHONE = (1280, 800), (390, 780)
#: What a picture may weigh, so that a page of the documentation stays light.
MOST_BYTES = 300_000


class Shot(NamedTuple):
    """One picture: its name, the page, what must be there first, and how it is looked at."""

    name: str
    address: str
    ready: str = "h1"
    size: tuple[int, int] = DESK
    dark: bool = False
    first: Callable[[Page], object] = lambda _page: None


CELL = "cell.html#cntk/attention/onnx-dynamic/openvino/linux-x86_64"
CHOSEN = "matrix.html#framework=torch&model=lstm&sort=-needed"
SHOTS = (
    Shot("overview", "index.html"),
    Shot("overview-dark", "index.html", dark=True),
    Shot("overview-phone", "index.html", size=PHONE),
    Shot("matrix", CHOSEN, "#rows .row", first=lambda page: page.keyboard.press("j")),
    Shot(
        "matrix-dark",
        "matrix.html",
        "#rows .row",
        dark=True,
        first=lambda page: page.locator('.facet[data-key="runtime"] summary').click(),
    ),
    Shot("matrix-phone", CHOSEN, "#rows .row", PHONE),
    Shot("cell", CELL, "#cell .columns"),
    Shot("cell-dark", CELL, "#cell .columns", dark=True),
    Shot("cell-phone", CELL, "#cell .columns", PHONE),
    Shot("latency", "latency.html"),
    Shot("latency-dark", "latency.html", dark=True),
    Shot("modelling", "modelling.html"),
    Shot("modelling-phone", "modelling.html", size=PHONE, dark=True),
)


def browser_program() -> str:
    """Return the browser that the target ``browser`` finds; ends with what is missing where there is none."""
    (way,) = runpy.run_path(str(ROOT / "targets" / "browser.py"))["reach"]({"os": sys.platform})
    if "why" in way:
        raise SystemExit(f"{way['why']}; {way['install']}")
    return str(way["env"]["PORTMATRIX_BROWSER"])


def take(site: Path, folder: Path) -> list[Path]:
    """Write the pictures of a site into a folder, and return them."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_program(), args=["--no-sandbox"])
        for shot in SHOTS:
            width, height = shot.size
            page = browser.new_page(
                viewport={"width": width, "height": height}, color_scheme="dark" if shot.dark else "light"
            )
            page.goto(f"{site.as_uri()}/{shot.address}")
            page.locator(shot.ready).first.wait_for()
            shot.first(page)
            page.wait_for_timeout(300)
            made.append(folder / f"{shot.name}.png")
            page.screenshot(path=made[-1], animations="disabled")
            page.close()
        browser.close()
    return made


def main() -> None:
    """Build the site, take the pictures, and end with 1 if one of them is too heavy."""
    parser = argparse.ArgumentParser(description="Pictures of the report, for the documentation.")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "images")
    parser.add_argument("--records", type=Path, default=ROOT / "results" / "reference.jsonl")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        site = Path(scratch, "site")
        program = "from portmatrix.cli import main; main()"
        command = [
            sys.executable,
            "-c",
            program,
            "report",
            str(options.records),
            "--site",
            str(site),
            "--suite",
            str(ROOT),
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        heavy = [file for file in take(site, options.output) if file.stat().st_size > MOST_BYTES]
    for file in heavy:
        print(f"{file} has {file.stat().st_size:,} bytes; expected at most {MOST_BYTES:,}")
    raise SystemExit(1 if heavy else 0)


if __name__ == "__main__":
    main()
