"""ONNX Runtime on its CPU provider: the current release; 1.21, which Debian 13 has for every architecture; and 1.17,
the last one before ONNX IR version 10, with 1.20 and 1.23 between them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

ENVIRONMENTS = {
    "": {
        "python": ">=3.11,<3.14",
        "requirements": ["onnxruntime==1.32.0", "numpy==2.4.6"],
        # From 1.29 on the library reports to its maker from every system, unless told not to before it starts.
        "env": {"ORT_DISABLE_TELEMETRY": "1"},
    },
    # The last numpy that does not call complex functions of the C runtime which Wine lacks.
    "1.21": {
        "python": ">=3.10,<3.13",
        "requirements": ["onnxruntime==1.21.0", "numpy==2.0.2"],
        "debian": ["python3-onnxruntime"],
    },
    "1.23": {"python": ">=3.10,<3.13", "requirements": ["onnxruntime==1.23.2", "numpy==2.0.2"]},
    "1.20": {"python": ">=3.10,<3.13", "requirements": ["onnxruntime==1.20.1", "numpy==2.0.2"]},
    "1.17": {"python": ">=3.10,<3.13", "requirements": ["onnxruntime==1.17.3", "numpy==1.26.4"]},
}
FORMATS = ("onnx",)
PROVIDERS = ["CPUExecutionProvider"]
#: The end of a range of opsets that has none: the largest int of C.
ENDLESS = 2**31 - 1


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


def caller(session: Any, inputs: dict[str, Any]) -> Callable[[int], None]:
    """Return what runs the session so many times, with the names of its outputs asked for beforehand."""
    names = [tensor.name for tensor in session.get_outputs()]

    def repeat(count: int) -> None:
        for _ in range(count):
            session.run(names, inputs)

    return repeat


def degraded(session: Any) -> str:
    """Return which execution providers are used instead of the CPU's, or an empty string."""
    providers = session.get_providers()
    return "" if providers == PROVIDERS else f"runs on {', '.join(providers)} instead of {', '.join(PROVIDERS)}"


def kernels() -> dict[str, Any]:
    """Return the newest versions that this build reads, and the ranges of opsets that it has kernels for.

    An operator without a range is known and has no kernel on the CPU. A new opset of a domain always has an operator
    that is new in it, so that the newest operator tells the newest opset.
    """
    from onnxruntime.capi import onnxruntime_pybind11_state as build

    operators: dict[str, dict[str, list[list[int]]]] = {}
    versions = {"IR": _newest_ir()}
    for schema in build.get_all_operator_schema():
        domain = schema.domain or "ai.onnx"
        operators.setdefault(domain, {}).setdefault(schema.name, [])
        versions[domain] = max(versions.get(domain, 0), schema.since_version)
    for kernel in build.get_all_opkernel_def():
        if kernel.provider in PROVIDERS:
            first, last = kernel.version_range
            # A range without an end holds for the operator as it was then, not for what it has become since.
            ranges = operators.setdefault(kernel.domain or "ai.onnx", {}).setdefault(kernel.op_name, [])
            closed = [first, first if last == ENDLESS else last]
            ranges += [closed] if closed not in ranges else []  # one for each type
    # What is constant becomes a part of the graph when that is read, and is never computed.
    operators["ai.onnx"]["Constant"] = [[1, versions["ai.onnx"]]]
    return {"versions": versions, "operators": operators}


def _newest_ir() -> int:
    """Return the newest version of ONNX's file format that this build reads: it says so of a file that is newer."""
    import onnxruntime

    # ModelProto: ir_version (field 1) is 2^31 - 1, opset_import (8) has version (2) 12, graph (7) is empty.
    newer = b"\x08\xff\xff\xff\xff\x07\x42\x02\x10\x0c\x3a\x00"
    try:
        onnxruntime.InferenceSession(newer, providers=PROVIDERS)
    except Exception as error:
        found = re.search(r"max supported IR version: (\d+)", str(error))
        if found is None:
            raise
        return int(found[1])
    raise RuntimeError("ONNX Runtime loads a file of an IR version that does not exist")
