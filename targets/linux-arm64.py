"""Linux with glibc on 64-bit ARM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

PLATFORM = {"os": "linux", "arch": "arm64", "libc": "glibc", "endian": "little", "bits": 64}
RUNNER = "ubuntu-24.04-arm"
COST = "a GitHub job, or a machine of this kind; without one, QEMU, whose latency says nothing about it"
#: It has half precision (ARMv8.2), which Debian's ONNX Runtime 1.21 needs: a Cortex-A72 kills it. It does not sign
#: pointers, as the processor that QEMU takes by itself does, five times more slowly.
CPU = "cortex-a76"


def reach(host: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return the ways there from ``host``, best first: itself, Docker's engine on one, then QEMU in user mode.

    A root directory is there in a quarter of the time that an image takes, and runs the same programs.
    """
    image = {"place": "container", "options": {"platform": "linux/arm64"}}
    emulated = {"emulator": "qemu-aarch64", "slowdown": 5, "env": {"QEMU_CPU": CPU}}
    return [
        {"reach": "native"},
        {"reach": "container", **image},
        {"reach": "emulated", "place": "root", "options": {"architecture": "arm64"}, **emulated},
        {"reach": "emulated", **image, **emulated},
    ]
