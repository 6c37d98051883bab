"""The other side of ``benchmarks/latency_truth.py``: one process that times one model, and nothing more.

Run by the interpreter of the onnxruntime environment with one argument, a JSON object: ``entry``, ``inputs`` (file by
name), ``samples`` and ``inner``. Prints the samples as JSON: seconds of a call, each the mean of ``inner``.
"""

import json
import sys
import time
from importlib import import_module

import numpy as np

_WARM_SECONDS = 0.3


def main() -> None:
    """Load, warm up, time, print."""
    onnxruntime = import_module("onnxruntime")
    onnxruntime.disable_telemetry_events()
    given = json.loads(sys.argv[1])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(given["entry"], options, providers=["CPUExecutionProvider"])
    inputs = {name: np.ascontiguousarray(np.load(file)[0]) for name, file in given["inputs"].items()}
    names = [tensor.name for tensor in session.get_outputs()]
    warm = time.perf_counter() + _WARM_SECONDS
    while time.perf_counter() < warm:
        session.run(names, inputs)
    samples = []
    for _ in range(given["samples"]):
        start = time.perf_counter()
        for _ in range(given["inner"]):
            session.run(names, inputs)
        samples.append((time.perf_counter() - start) / given["inner"])
    print(json.dumps(samples))


if __name__ == "__main__":
    main()
