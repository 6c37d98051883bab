"""CNTK to ONNX: reads the ONNX file that CNTK 2 writes itself, and writes one that current runtimes take, of any batch.

CNTK fixes the batch to 1 and puts the time axis of a sequence before it, in an operator set of 2018. Here the batch is
traced through every node, made symbolic and moved to the front, and each node is written anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from portmatrix.converters.cntk import reader
from portmatrix.converters.cntk.operators import translated
from portmatrix.converters.errors import ConversionError, MalformedFile
from portmatrix.converters.network import Written

__all__ = ["READS", "convert", "recognizes"]

READS: tuple[str, ...] = ("MODEL.onnx, as CNTK 2 saves it with ModelFormat.ONNX",)


def recognizes(files: Sequence[Path]) -> bool:
    """Return whether this is one ONNX file by CNTK, or one in CNTK's own format, which is refused with advice."""
    return len(files) == 1 and (reader.is_onnx_of_cntk(files[0]) or reader.is_native(files[0]))


def convert(files: Sequence[Path], output: Path, *, batch: int | None = None, opset: int | None = None) -> Written:
    """Write ``output``; ``batch`` None is symbolic. Sequences are batch x time x features in it, of any length.

    Raises ``ConversionError`` before anything is written: for a file that is damaged or not CNTK's, for CNTK's own
    format, and for an operator that is not translated or that mixes the samples of a batch.
    """
    if len(files) != 1:
        raise ConversionError(f"expected one file, {READS[0]}; {len(files)} were given")
    file = files[0]
    if reader.is_native(file):
        raise ConversionError(
            f"{file.name} is in CNTK's own format, which CNTK alone reads. Load it there and save it as ONNX: "
            f"cntk.load_model({file.name!r}).save('model.onnx', format=cntk.ModelFormat.ONNX); then convert model.onnx"
        )
    try:
        return translated(reader.read(file)).save(output, batch=batch, opset=opset)
    except (UnicodeError, RecursionError, OverflowError, MemoryError) as error:
        # From protobuf and onnx, wherever a name is first read or a length first used.
        raise MalformedFile(file.name, "the model", f"its names or lengths make no sense: {error}") from error
