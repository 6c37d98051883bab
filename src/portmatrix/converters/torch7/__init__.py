"""Converts networks of Torch7 (.t7, binary or ASCII) to ONNX, without Torch7."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from portmatrix.converters.errors import ConversionError, MalformedFile
from portmatrix.converters.network import Written
from portmatrix.converters.torch7.conversion import build, file_name, find_network
from portmatrix.converters.torch7.inputs import Given
from portmatrix.converters.torch7.reader import looks_like_t7, read

READS: tuple[str, ...] = ("MODEL.t7",)

#: What a file that is well-formed, but makes no sense, may lead to where no check foresees it.
_DAMAGE = (RecursionError, MemoryError, ArithmeticError, ValueError, TypeError, LookupError, AttributeError)
_SUFFIXES = (".t7", ".t7b", ".net", ".torch")


def recognizes(files: Sequence[Path]) -> bool:
    """Return whether this is one file that looks like Torch7's: by its suffix, and its start."""
    if len(files) != 1 or files[0].suffix.lower() not in _SUFFIXES or not files[0].is_file():
        return False
    if files[0].suffix.lower() == ".t7":
        return True
    with files[0].open("rb") as stream:
        return looks_like_t7(stream.read(4))


def convert(
    files: Sequence[Path],
    output: Path,
    *,
    batch: int | None = None,
    opset: int | None = None,
    input_shape: Sequence[Given] | None = None,
    input_shapes: Mapping[str, Sequence[Given]] | None = None,
) -> Written:
    """Convert the network in a .t7 file to ONNX, with weights in float32, and return what was written.

    ``input_shape`` is the shape of the input: numbers, ``"batch"`` for the batch (or the first None), and a name or
    None for a size that stays open; ``input_shapes`` has one for each of several inputs, in their order. Without them,
    the shape is deduced from the network. Raises ``MalformedFile`` for a file that is no .t7 file, ``Unsupported`` for
    a layer without a translation, and ``ConversionError`` if the shape is missing.
    """
    if len(files) != 1:
        raise ConversionError(f"a Torch7 network is one .t7 file; {len(files)} were given")
    file = files[0]
    shapes = list((input_shapes or {}).values()) if input_shape is None else [input_shape]
    try:
        network = build(find_network(read(file)), file_name(file), shapes)
    except _DAMAGE as error:
        raise MalformedFile(str(file), "the network", f"it cannot be read ({type(error).__name__}: {error})") from error
    return network.save(output, batch=batch, opset=opset)
