"""Linux with glibc on 64-bit RISC-V."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

PLATFORM = {"os": "linux", "arch": "riscv64", "libc": "glibc", "endian": "little", "bits": 64}
RUNNER = "ubuntu-24.04"
RUNNER_REACH = "emulated"
RUNNER_NEEDS = ("roots", "qemu")
COST = "a GitHub job on x86_64 with QEMU; its latency says nothing about such a machine"


def reach(host: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return the ways there from ``host``, best first: itself, Docker's engine on one, then QEMU in user mode.

    A root directory is there in a quarter of the time that an image takes, and runs the same programs.
    """
    image = {"place": "container", "options": {"platform": "linux/riscv64"}}
    emulated = {"emulator": "qemu-riscv64", "slowdown": 5}
    return [
        {"reach": "native"},
        {"reach": "container", **image},
        {"reach": "emulated", "place": "root", "options": {"architecture": "riscv64"}, **emulated},
        {"reach": "emulated", **image, **emulated},
    ]
