"""Caffe 1.0 itself, running what it saves: a folder with a net as prototxt and its weights as caffemodel."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ENVIRONMENTS = {
    "": {
        # The exporter's environment, item by item: equal ones are one image.
        "interpreter": False,
        "container": "caffe",
        "env": {
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "GLOG_minloglevel": "2",
            "MPLCONFIGDIR": "/tmp",  # noqa: S108 - inside the container
        },
    }
}
FORMATS = ("caffe",)


def load(entry: str, format: str, signature: Mapping[str, Any], threads: int) -> Any:
    """Return the net in the folder ``entry``, in test phase; all nets of the process then use ``threads`` threads.

    Caffe ends the process, with a message on the log, where it refuses a net.
    """
    import caffe

    # Caffe has no threads of its own. OpenBLAS, which it is linked with, read their number when it was loaded.
    ctypes.CDLL("libopenblas.so.0").openblas_set_num_threads(threads)
    caffe.set_mode_cpu()
    folder = Path(entry)
    net = caffe.Net(str(folder / "model.prototxt"), caffe.TEST, weights=str(folder / "model.caffemodel"))
    if not net.inputs or not net.outputs:  # Caffe takes an empty file for a net without layers
        raise ValueError("model.prototxt has no net that reads anything and computes something")
    return net


def input_names(session: Any) -> Sequence[str]:
    """Return the names of the blobs that the net's Input layers fill, in order."""
    return list(session.inputs)


def run(session: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return every blob that no layer reads, by name; the net takes on the batch size of ``inputs``."""
    for name in session.inputs:
        session.blobs[name].reshape(*inputs[name].shape)
    session.reshape()
    for name in session.inputs:
        session.blobs[name].data[...] = inputs[name]
    made = session.forward()
    # The blobs are overwritten by the next call.
    return {name: made[name].copy() for name in session.outputs}


def degraded(session: Any) -> str:
    """Return an empty string: this build of Caffe has nothing but the CPU."""
    return ""
