"""Windows on 64-bit ARM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

PLATFORM = {"os": "windows", "arch": "arm64", "libc": "", "endian": "little", "bits": 64}
RUNNER = "windows-11-arm"
COST = "a Windows machine with such a processor or a GitHub job; anywhere else nothing is run, only looked up"


def reach(host: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return the one way there from ``host``: to be such a machine."""
    return [{"reach": "native"}]
