"""Linux with glibc on 64-bit x86."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PLATFORM = {"os": "linux", "arch": "x86_64", "libc": "glibc", "endian": "little", "bits": 64}
RUNNER = "ubuntu-24.04"


def reach(host: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return ``reach`` and ``prefix`` on a host like ``PLATFORM``, else ``why`` it is not and what to ``install``."""
    key = next((key for key, value in PLATFORM.items() if host.get(key) != value), None)
    if key is None:
        return {"reach": "native", "prefix": []}
    return {
        "why": f"this machine's {key} is {host.get(key)!r}, not {PLATFORM[key]!r}",
        "install": f"push to GitHub (its job is on {RUNNER}) or run portmatrix on x86_64 Linux with glibc",
    }
