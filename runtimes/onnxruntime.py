"""ONNX Runtime on its CPU provider: the current release; 1.21, which Debian 13 has for every architecture; and 1.17,
the last one before ONNX IR version 10.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

ENVIRONMENTS = {
    "": {"python": ">=3.11,<3.14", "requirements": ["onnxruntime==1.32.0", "numpy==2.4.6"]},
    # The last numpy that does not call complex functions of the C runtime which Wine lacks.
    "1.21": {
        "python": ">=3.10,<3.13",
        "requirements": ["onnxruntime==1.21.0", "numpy==2.0.2"],
        "debian": ["python3-onnxruntime"],
    },
    "1.17": {"python": ">=3.10,<3.13", "requirements": ["onnxruntime==1.17.3", "numpy==1.26.4"]},
}
FORMATS = ("onnx",)
PROVIDERS = ["CPUExecutionProvider"]


def load(entry: str, format: str, signature: Mapping[str, Any], threads: int) -> Any:
    """Return an ``InferenceSession`` of the ONNX file ``entry`` that uses ``threads`` CPU threads.

    Raises what ONNX Runtime raises: ``Fail`` for an IR version that is too new for it, ``NotImplemented`` for an
    operator without a kernel.
    """
    import onnxruntime

    # The Windows builds send usage events unless told not to.
    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(entry, options, providers=PROVIDERS)


def input_names(session: Any) -> Sequence[str]:
    """Return the names of the graph's inputs in order, without initializers that are listed among them (IR below 4)."""
    return [tensor.name for tensor in session.get_inputs()]


def run(session: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """Return every output of the graph by its name; raises ``InvalidArgument`` for a dtype or shape that it refuses."""
    names = [tensor.name for tensor in session.get_outputs()]
    values = session.run(names, inputs)
    return {name: values[index] for index, name in enumerate(names)}


def degraded(session: Any) -> str:
    """Return which execution providers are used instead of the CPU's, or an empty string."""
    providers = session.get_providers()
    return "" if providers == PROVIDERS else f"runs on {', '.join(providers)} instead of {', '.join(PROVIDERS)}"
