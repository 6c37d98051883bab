"""ncnn on its CPU layers in single precision, by its own wheel: reads the pair of files that pnnx writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ENVIRONMENTS = {"": {"python": ">=3.11,<3.14", "requirements": ["ncnn==1.0.20261020", "numpy==2.4.6"]}}
FORMATS = ("ncnn",)

#: What ncnn would take on processors that can: weights, layers' results and sums of fewer bits than the model has.
_FEWER_BITS = (
    *("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic"),
    *("use_bf16_packed", "use_bf16_storage"),
)


class Session(NamedTuple):
    """A network, the names of its inputs and outputs in order, and how many axes a row of each output has."""

    net: Any
    inputs: list[str]
    outputs: list[str]
    axes: list[int]


def load(entry: str, format: str, signature: Mapping[str, Any], threads: int) -> Session:
    """Load the graph in the file ``entry`` (``.param``) and the weights beside it (``.bin``), for ``threads`` threads.

    Raises ``RuntimeError`` where ncnn does not read one of them, such as a graph with a layer that it does not have;
    what it said of it is in the log.
    """
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.use_vulkan_compute = False
    for option in _FEWER_BITS:
        setattr(net.opt, option, False)
    graph = Path(entry)
    for read, file in ((net.load_param, graph), (net.load_model, graph.with_suffix(".bin"))):
        status = read(str(file))
        if status != 0:
            raise RuntimeError(f"ncnn does not read {file.name} (status {status})")
    axes = [len(tensor["shape"]) - 1 for tensor in signature["outputs"]]
    return Session(net, list(net.input_names()), list(net.output_names()), axes)


def input_names(session: Session) -> Sequence[str]:
    """Return the names of the network's inputs in order: pnnx calls them ``in0``, ``in1`` …"""
    return session.inputs


def run(session: Session, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return every output by name, for a batch of any size; raises ``RuntimeError`` where ncnn cannot compute one.

    An artifact is made for a batch of one, which has no axis: rows are run one after the other, and stacked.
    """
    rows = zip(*(inputs[name] for name in session.inputs), strict=True)
    made = [_run_row(session, row) for row in rows]
    return {name: np.stack([values[index] for values in made]) for index, name in enumerate(session.outputs)}


def degraded(session: Session) -> str:
    """Return an empty string: the CPU is the only device asked for, and fewer bits than the model's are switched off.

    Rows that are run one by one are no other way than was asked for: an artifact is for a batch of one.
    """
    return ""


def _run_row(session: Session, row: Sequence[np.ndarray]) -> list[np.ndarray]:
    import ncnn

    extractor = session.net.create_extractor()
    for name, value in zip(session.inputs, row, strict=True):
        # A copy: a layer that works in place would write into the caller's array.
        status = extractor.input(name, ncnn.Mat(np.ascontiguousarray(value)).clone())
        if status != 0:
            raise RuntimeError(f"ncnn takes no input {name} of shape {value.shape} (status {status})")
    values = []
    for name, axes in zip(session.outputs, session.axes, strict=True):
        status, tensor = extractor.extract(name)
        if status != 0:
            raise RuntimeError(f"ncnn does not compute {name} (status {status})")
        # A copy: what is read out is ncnn's own memory, which the next row overwrites.
        value = np.array(tensor)
        # Behind a layer that flattens, pnnx keeps the batch as an axis of length 1.
        values.append(value[0] if value.ndim == axes + 1 and len(value) == 1 else value)
    return values
