"""Windows on 64-bit x86."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

PLATFORM = {"os": "windows", "arch": "x86_64", "libc": "", "endian": "little", "bits": 64}
RUNNER = "windows-2025"
COST = "a GitHub job, or a machine of this kind"


def reach(host: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return the ways there from ``host``, best first."""
    return [{"reach": "native"}]
