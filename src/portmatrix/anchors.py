"""Four fixed loads of a processor, timed before and after a measurement, and what the processor says of itself. They
tell whether the machine stayed the same; nothing is ever rescaled by them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil

#: Each load runs for so long, and so many times at least: on a shared machine memory is slower for tenths of a second,
#: with nothing of our own to blame, and what is asked is whether it stays so.
_SECONDS, _REPEATS = 0.5, 7
#: The instruction sets that a runtime's kernels are chosen by.
_SETS = (
    "sse4_2",
    "avx",
    "avx2",
    "fma",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "amx_int8",
    "asimd",
    "sve",
    "i8mm",
    "bf16",
)
_CPU = Path("/sys/devices/system/cpu")


def time_anchors() -> dict[str, float]:
    """Return the least seconds, of several, of each load.

    ``gemm_f32`` multiplies two matrices of 384 x 384 by numpy's BLAS, ``gemm_i8`` two of 128 x 128 in 8-bit integers,
    summed in 32, by numpy's own loop (its BLAS has no integers); ``copy`` copies 64 MB, which no cache holds; and
    ``scalar`` is a loop in Python.
    """
    return {name: _least(load) for name, load in _loads().items()}


def _loads() -> dict[str, Callable[[], object]]:
    chance = np.random.default_rng(0)
    square = chance.random((384, 384), dtype=np.float32)
    small = chance.integers(-128, 128, (128, 128), dtype=np.int8)
    block = np.ones(8 << 20, dtype=np.float64)
    copied = np.empty_like(block)
    return {
        "gemm_f32": lambda: square @ square,
        "gemm_i8": lambda: np.matmul(small, small, dtype=np.int32),
        "copy": lambda: np.copyto(copied, block),
        "scalar": lambda: sum(number * number for number in range(100_000)),
    }


def _least(load: Callable[[], object]) -> float:
    load()
    taken: list[float] = []
    while sum(taken) < _SECONDS or len(taken) < _REPEATS:
        start = time.perf_counter()
        load()
        taken.append(time.perf_counter() - start)
    return min(taken)


def describe_host() -> dict[str, str]:
    """Return what is known of this machine's processor and of how busy it is; what cannot be read is left out."""
    import cpuinfo  # noqa: PLC0415 - only what is measured needs it

    told = cpuinfo.get_cpu_info()  # which takes it a second
    flags = set(told.get("flags", []))
    found = {
        "cpu": str(told.get("brand_raw") or ""),
        "instruction_sets": " ".join(name for name in _SETS if name in flags),
        "cores": f"{psutil.cpu_count(logical=False) or '?'} ({os.cpu_count()} threads)",
        "governor": _read(_CPU / "cpu0/cpufreq/scaling_governor"),
        "turbo": _turbo(),
    }
    if hasattr(os, "getloadavg"):
        found["load"] = f"{os.getloadavg()[0]:.2f}"
    return {name: value for name, value in found.items() if value}


def _turbo() -> str:
    if (said := _read(_CPU / "intel_pstate/no_turbo")) in ("0", "1"):
        return "on" if said == "0" else "off"
    return {"0": "off", "1": "on"}.get(_read(_CPU / "cpufreq/boost"), "")


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
