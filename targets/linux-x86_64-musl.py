"""Linux with musl (Alpine) on 64-bit x86."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

PLATFORM = {"os": "linux", "arch": "x86_64", "libc": "musl", "endian": "little", "bits": 64}
RUNNER = "ubuntu-24.04"
COST = "a machine of this kind, or nothing: without one it is only looked up what is published for it"


def reach(host: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return the only way there: such a machine. Debian has no CPython for musl, so a root directory is none."""
    return [{"reach": "native"}]
