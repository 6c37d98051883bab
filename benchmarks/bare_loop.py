"""The other side of ``benchmarks/overhead.py``: one process that loads, runs and compares bundles, and nothing more.

Run by the interpreter of the onnxruntime environment with two arguments: a JSON list of bundles (``entry``, ``folder``,
``sets``), and the tolerance as JSON (``atol``, ``rtol``). Prints one JSON line: how many passed, and the seconds of
each step.
"""

import json
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np


def main() -> None:
    """Do all bundles and print what came of them."""
    started = time.perf_counter()
    onnxruntime = import_module("onnxruntime")
    seconds = {"import": time.perf_counter() - started, "load": 0.0, "run": 0.0, "compare": 0.0}
    onnxruntime.disable_telemetry_events()
    tolerance = json.loads(sys.argv[2])
    passed = 0
    for bundle in json.loads(Path(sys.argv[1]).read_bytes()):
        start = time.perf_counter()
        session = load(onnxruntime, bundle["entry"])
        loaded = time.perf_counter()
        outputs = [run(session, Path(bundle["folder"]), item) for item in bundle["sets"]]
        ran = time.perf_counter()
        passed += all(
            compare(Path(bundle["folder"]), item, made, tolerance)
            for item, made in zip(bundle["sets"], outputs, strict=True)
        )
        seconds["load"] += loaded - start
        seconds["run"] += ran - loaded
        seconds["compare"] += time.perf_counter() - ran
    print(json.dumps({"passed": passed, "seconds": seconds}))


def load(onnxruntime: Any, entry: str) -> Any:
    """Return a session with the options that ``runtimes/onnxruntime.py`` sets."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(entry, options, providers=["CPUExecutionProvider"])


def run(session: Any, folder: Path, samples: dict[str, Any]) -> dict[str, Any]:
    """Return the stacked outputs of all calls of one sample set, by name."""
    inputs = {name: np.load(folder / file) for name, file in samples["inputs"].items()}
    names = [tensor.name for tensor in session.get_outputs()]
    calls = [
        session.run(names, {name: value[call] for name, value in inputs.items()}) for call in range(samples["calls"])
    ]
    return {name: np.stack([call[position] for call in calls]) for position, name in enumerate(names)}


def compare(folder: Path, samples: dict[str, Any], made: dict[str, Any], tolerance: dict[str, float]) -> bool:
    """Return whether all outputs of a sample set agree, having worked out the largest differences as well."""
    agree = True
    for name, file in samples["outputs"].items():
        reference = np.load(folder / file)
        gap = np.abs(made[name] - reference)
        size = np.abs(reference)
        _largest = float(gap.max()), float((gap / np.maximum(size, np.finfo(size.dtype).tiny)).max())
        agree = agree and bool((gap <= tolerance["atol"] + tolerance["rtol"] * size).all())
    return agree


if __name__ == "__main__":
    main()
