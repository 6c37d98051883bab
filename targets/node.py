"""Node.js on this machine: JavaScript with native modules and WebAssembly, outside of any browser."""

from __future__ import annotations

import functools
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_MACHINE = platform.machine().lower()
PLATFORM = {"os": "node", "arch": {"amd64": "x86_64", "aarch64": "arm64"}.get(_MACHINE, _MACHINE)}
RUNNER = "ubuntu-24.04"
COST = "a Node.js of 90 MB, and up to 300 MB of npm packages for each runtime"

#: The first major version whose WebAssembly has SIMD, without which ONNX Runtime is not built for the web.
FIRST = 16
INSTALL = {
    "linux": "apt-get install --no-install-recommends nodejs npm",
    "macos": "brew install node",
    "windows": "winget install OpenJS.NodeJS.LTS",
}


def reach(host: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return the way into the Node.js that ``PORTMATRIX_NODE`` names or that is on PATH, or why there is none.

    Every worker finds it in ``PORTMATRIX_NODE``.
    """
    install = INSTALL.get(host["os"], f"put Node.js {FIRST} or later on PATH")
    named = os.environ.get("PORTMATRIX_NODE")
    found = shutil.which(named) if named else shutil.which("node") or shutil.which("nodejs")
    if found is None:
        where = f"PORTMATRIX_NODE names {named}, which is no program" if named else "there is no Node.js on PATH"
        return [{"why": where, "install": install}]
    version = _version(found)
    if not version or int(version.split(".")[0]) < FIRST:
        why = f"{found} is Node.js {version or 'of no known version'}; {FIRST} or later is needed"
        return [{"why": why, "install": install}]
    return [{"reach": "native", "env": {"PORTMATRIX_NODE": str(Path(found).absolute())}}]


@functools.cache
def _version(node: str) -> str:
    """Return what the program ``node`` says is its version, or an empty string if it says nothing of the kind."""
    try:
        told = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = re.fullmatch(r"v(\d+\.\d+\.\d+\S*)\s*", told)
    return found[1] if found else ""
