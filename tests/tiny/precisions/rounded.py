"""Rounds the weights of linear models; ``bf16`` is taken too far for any use."""

from pathlib import Path

import numpy

ENVIRONMENT = {"requirements": ["numpy==" + numpy.__version__]}
FORMATS = ["npz-linear"]
PRECISIONS = ["fp16", "bf16", "int8-dynamic", "int8-static"]


def reduce(artifact, precision, rows, folder):
    with numpy.load(artifact) as arrays:
        weights = arrays["weights"]
    if precision == "int8-static" and not rows:
        raise ValueError("there are no training rows to calibrate on")
    if precision == "fp16":
        weights = weights.astype(numpy.float16).astype(numpy.float32)
    elif precision == "bf16":
        weights = 9 * weights
    else:
        step = numpy.abs(weights).max() / 127
        weights = (numpy.round(weights / step) * step).astype(numpy.float32)
    numpy.savez(Path(folder, "model.npz"), weights=weights)
    return {"entry": "model.npz", "facts": {"calibrated_on": len(rows.get("x", ()))}}
