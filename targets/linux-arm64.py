"""Linux with glibc on 64-bit ARM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

PLATFORM = {"os": "linux", "arch": "arm64", "libc": "glibc", "endian": "little", "bits": 64}
RUNNER = "ubuntu-24.04-arm"
COST = "a GitHub job, or a machine of this kind"


def reach(host: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return the ways there from ``host``, best first."""
    return [{"reach": "native"}]
