"""A browser on this machine, of Chromium's family: the distribution's Chromium, Google Chrome or Microsoft Edge."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

PLATFORM = {"os": "browser", "arch": "wasm32", "bits": 32}
RUNNER = "ubuntu-24.04"
COST = "a browser of 400 MB, 370 MB of packages, and up to 2 GB of memory for each worker"

INSTALL = {
    "linux": "apt-get install --no-install-recommends chromium",
    "macos": "brew install --cask google-chrome",
    "windows": "winget install Google.Chrome",
}
NAMES = (
    *("chromium", "google-chrome-stable", "google-chrome", "chrome"),
    *("chromium-browser", "microsoft-edge-stable", "microsoft-edge", "msedge"),
)
#: Where installers put it on systems that have no place for it on PATH; on Windows below one of ``FOLDERS``.
APPLICATIONS = (
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
)
PROGRAMS = (
    "Chromium/Application/chrome.exe",
    "Google/Chrome/Application/chrome.exe",
    "Microsoft/Edge/Application/msedge.exe",
)
FOLDERS = ("PROGRAMFILES", "PROGRAMFILES(X86)", "LOCALAPPDATA")


def reach(host: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return the way into the browser that ``PORTMATRIX_BROWSER`` names or that is installed, or why there is none.

    Every worker finds it in ``PORTMATRIX_BROWSER``.
    """
    install = INSTALL.get(host["os"], "install Chromium, and name it in PORTMATRIX_BROWSER")
    named = os.environ.get("PORTMATRIX_BROWSER")
    found = shutil.which(named) if named else next(_installed(), None)
    if found is None:
        why = "there is no Chromium, Chrome or Edge here, or only a snap, which sees none of our files"
        if named:
            why = f"PORTMATRIX_BROWSER names {named}, which is no program"
        return [{"why": why, "install": install}]
    return [{"reach": "native", "env": {"PORTMATRIX_BROWSER": str(Path(found).absolute())}}]


def _installed() -> Iterator[str]:
    """Yield the browsers that are here, in the order of preference."""
    for name in NAMES:
        found = shutil.which(name)
        if found and not _is_snap(Path(found)):
            yield found
    programs = [Path(os.environ[folder], name) for folder in FOLDERS if folder in os.environ for name in PROGRAMS]
    yield from (str(item) for item in [*map(Path, APPLICATIONS), *programs] if item.is_file())


def _is_snap(program: Path) -> bool:
    """Return whether a program is a snap, or Ubuntu's script that starts one.

    A snap sees no hidden folders of its user, and the store is in one.
    """
    if "snap" in program.parts:
        return True
    with program.open("rb") as opened:
        begin = opened.read(4096)
    return begin.startswith(b"#!") and b"/snap/bin/" in begin
