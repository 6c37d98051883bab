"""Caffe to ONNX: a prototxt and its caffemodel, read without Caffe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from portmatrix.converters.caffe import (
    arithmetic,
    arranging,
    dense,
    inputs,
    net,
    neurons,
    prototxt,
    recurrent,
    spatial,
    wire,
)
from portmatrix.converters.caffe.graph import Graph, Translation
from portmatrix.converters.errors import ConversionError
from portmatrix.converters.network import Network, Written

__all__ = ["READS", "TRANSLATIONS", "convert", "recognizes"]

READS = ("MODEL.prototxt WEIGHTS.caffemodel",)

#: Layer type -> its translation; ``plan.SINKS`` names those that take no part in inference.
TRANSLATIONS: dict[str, Translation] = {
    **arithmetic.TRANSLATIONS,
    **arranging.TRANSLATIONS,
    **dense.TRANSLATIONS,
    **inputs.TRANSLATIONS,
    **neurons.TRANSLATIONS,
    **recurrent.TRANSLATIONS,
    **spatial.TRANSLATIONS,
}

_NETWORKS = (".prototxt", ".pbtxt", ".prototext")
_WEIGHTS = (".caffemodel", ".binaryproto")


def recognizes(files: Sequence[Path]) -> bool:
    """Return whether these are a network file and a weight file of Caffe, in any order, or one of the two."""
    networks = [file for file in files if _is_network(file)]
    weights = [file for file in files if _is_weights(file)]
    return bool(files) and len(networks) <= 1 and len(weights) <= 1 and len(networks) + len(weights) == len(files)


def _is_network(file: Path) -> bool:
    return file.name.lower().endswith(_NETWORKS)


def _is_weights(file: Path) -> bool:
    return file.name.lower().endswith((*_WEIGHTS, ".caffemodel.h5"))


def convert(
    files: Sequence[Path],
    output: Path,
    *,
    batch: int | None = None,
    opset: int | None = None,
    input_shapes: Mapping[str, Sequence[int | None]] | None = None,
) -> Written:
    """Write the network as ONNX, as it is at test time, and return what was written.

    ``input_shapes`` gives inputs another shape than the network file does, by their blob's name (None for the batch):
    data layers need it, whose shape is in their database. Raises ``ConversionError`` before anything is written.
    """
    network_file = next((file for file in files if _is_network(file)), None)
    weight_file = next((file for file in files if _is_weights(file)), None)
    if network_file is None:
        given = " ".join(file.name for file in files)
        raise ConversionError(f"{given} has the weights alone; add the network's prototxt, which says what is computed")
    try:
        sizes = {name: tuple(size or 1 for size in shape) for name, shape in (input_shapes or {}).items()}
        network = _build(network_file, weight_file, sizes)
    except (RecursionError, MemoryError, OverflowError) as error:
        raise ConversionError(
            f"{network_file} and its weights are beyond any network: {type(error).__name__} ({error})"
        ) from error
    return network.save(output, batch=batch, opset=opset)


def _build(network_file: Path, weight_file: Path | None, shapes: Mapping[str, Sequence[int]]) -> Network:
    text = prototxt.read(network_file)
    layers = net.layers(text)
    if weight_file is not None:
        net.give_weights(layers, wire.read(weight_file))
    network = Network(text.text("name") or network_file.stem, "Caffe")
    Graph(network, layers, shapes, weighted=weight_file is not None).build(TRANSLATIONS)
    return network
