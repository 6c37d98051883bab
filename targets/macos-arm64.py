"""macOS on Apple silicon."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PLATFORM = {"os": "macos", "arch": "arm64", "libc": "", "endian": "little", "bits": 64}
RUNNER = "macos-15"


def reach(host: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return ``reach`` and ``prefix`` on a host like ``PLATFORM``, else ``why`` it is not and what to ``install``."""
    key = next((key for key, value in PLATFORM.items() if host.get(key) != value), None)
    if key is None:
        return {"reach": "native", "prefix": []}
    return {
        "why": f"this machine's {key} is {host.get(key)!r}, not {PLATFORM[key]!r}",
        "install": f"push to GitHub (its job is on {RUNNER}) or run portmatrix on a Mac with Apple silicon",
    }
