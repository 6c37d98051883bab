"""Linux with glibc on 64-bit x86."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

PLATFORM = {"os": "linux", "arch": "x86_64", "libc": "glibc", "endian": "little", "bits": 64}
RUNNER = "ubuntu-24.04"
COST = "a GitHub job, or a machine of this kind"


def reach(host: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return the ways there from ``host``, best first: itself, then Docker's engine on one."""
    return [
        {"reach": "native"},
        {"reach": "container", "place": "container", "options": {"platform": "linux/amd64"}},
    ]
