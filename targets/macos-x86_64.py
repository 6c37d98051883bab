"""macOS on an Intel processor, for which many packages are built no more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

PLATFORM = {"os": "macos", "arch": "x86_64", "libc": "", "endian": "little", "bits": 64}
RUNNER = "macos-15-intel"
COST = (
    "such a Mac or a GitHub job, of which the free plan runs five at once; anywhere else nothing is run, only looked up"
)


def reach(host: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return the one way there from ``host``: to be such a machine."""
    return [{"reach": "native"}]
