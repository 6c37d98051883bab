"""Where and when a benchmark was run, in words: without them its figures mean nothing."""

from __future__ import annotations

import os
import platform
from datetime import datetime, timezone

import psutil

from portmatrix import __version__
from portmatrix.recording import processor


def describe() -> str:
    """Return processor, cores, memory, system, interpreter, engine version, date and load average on one line."""
    memory = psutil.virtual_memory().total / 2**30
    load = " ".join(f"{value:.2f}" for value in os.getloadavg()) if hasattr(os, "getloadavg") else "unknown"
    return (
        f"{processor()}, {os.cpu_count()} cores, {memory:.0f} GiB memory, {platform.system()} {platform.machine()}, "
        f"{platform.python_implementation()} {platform.python_version()}, portmatrix {__version__}, "
        f"{datetime.now(timezone.utc):%Y-%m-%d}, load average at the start {load}"
    )
