"""OpenCV's ``dnn`` module on its own CPU backend, reading ONNX, TensorFlow's two formats, Caffe and Torch7."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ENVIRONMENTS = {
    "": {"python": ">=3.11,<3.14", "requirements": ["opencv-python-headless==4.14.0.94", "numpy==2.4.6"]},
}
FORMATS = ("onnx", "tflite", "tensorflow-graph", "caffe", "torch7")
#: The formats whose pictures and films have the channel as their last axis.
CHANNELS_LAST = ("tflite", "tensorflow-graph")


class Session(NamedTuple):
    """A network, the names of its inputs in order, its output layers and the names of what they compute."""

    net: Any
    inputs: list[str]
    layers: list[str]
    outputs: list[str]
    channels_last: bool


def load(entry: str, format: str, signature: Mapping[str, Any], threads: int) -> Session:
    """Read the artifact ``entry``; all networks of the process then use ``threads`` threads.

    Raises ``cv2.error`` for an operator that the importer does not know, ``ValueError`` for a file that holds nothing.
    """
    import cv2

    cv2.setNumThreads(threads)
    net = _read(entry, format)
    if net.empty():
        raise ValueError(f"OpenCV found no layers in {entry}; expected a network in the format {format}")
    net.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
    net.setPreferableTarget(cv2.dnn.DNN_TARGET_CPU)
    inputs = [_own_name(net, tensor["name"]) for tensor in signature["inputs"]]
    layers = list(net.getUnconnectedOutLayersNames())
    outputs = _signature_keys(entry, layers, signature["outputs"]) if format == "tflite" else layers
    return Session(net, inputs, layers, outputs, channels_last=format in CHANNELS_LAST)


def input_names(session: Session) -> Sequence[str]:
    """Return the names of the network's inputs in the order of the signature, since OpenCV does not list them."""
    return session.inputs


def run(session: Session, inputs: dict[str, Any]) -> dict[str, Any]:
    """Return every output by name, always as float32 of at least two dimensions: OpenCV 4 has no other tensors."""
    if session.channels_last:
        inputs = {name: _channels_first(value) for name, value in inputs.items()}
    if len(session.inputs) == 1:
        # Without a name the only input is meant, whatever it is called in the file.
        session.net.setInput(inputs[session.inputs[0]])
    else:
        for name in session.inputs:
            session.net.setInput(inputs[name], name)
    return dict(zip(session.outputs, session.net.forward(session.layers), strict=True))


def degraded(session: Session) -> str:
    """Return an empty string: OpenCV's own backend is asked for, the one that the others fall back to."""
    return ""


def _read(entry: str, format: str) -> Any:
    """Return the network in the file ``entry``, or in that folder: Caffe keeps layers and weights in two files."""
    import cv2

    if format == "caffe":
        return cv2.dnn.readNetFromCaffe(str(Path(entry) / "model.prototxt"), str(Path(entry) / "model.caffemodel"))
    read = {
        "onnx": cv2.dnn.readNetFromONNX,
        "tflite": cv2.dnn.readNetFromTFLite,
        "tensorflow-graph": cv2.dnn.readNetFromTensorflow,
        "torch7": cv2.dnn.readNetFromTorch,
    }
    return read[format](entry)


def _channels_first(value: Any) -> Any:
    """Return pictures or films in the order of axes that OpenCV has for all networks, whatever the file says.

    Its TensorFlow importers turn the weights round to N x C x H x W and expect what ``blobFromImage`` gives.
    """
    return np.ascontiguousarray(np.moveaxis(value, -1, 1)) if value.ndim in (4, 5) else value


def _own_name(net: Any, name: str) -> str:
    """Return what the network calls the input ``name``: the same, or as TensorFlow's converter spells it."""
    source = net.getLayer(0)
    spellings = (name, f"serving_default_{name}:0")
    return next((spelling for spelling in spellings if source.outputNameToIndex(spelling) >= 0), name)


def _signature_keys(entry: str, tensors: list[str], wanted: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the reference name of each output tensor of a TensorFlow Lite file, or ``tensors`` if they tell none.

    The file stores outputs in no particular order and OpenCV ignores its signature, but TensorFlow ends the name of a
    tensor in ``:N`` for the N-th key of the signature in alphabetical order. Where the reference names are no keys,
    the exporter had a plain list of outputs, and it is the N-th of these.
    """
    order = [tensor.rpartition(":")[2] for tensor in tensors]
    names = [tensor["name"] for tensor in wanted]
    if sorted(order) != sorted(str(index) for index in range(len(names))):
        return tensors
    content = Path(entry).read_bytes()
    # A string in a flatbuffer: its length, its bytes, a zero.
    if all(struct.pack("<I", len(name.encode())) + name.encode() + b"\0" in content for name in names):
        names.sort()
    return [names[int(index)] for index in order]
