"""Reads an ONNX file without copying its weights: large tensors become views of the mapped file, the rest is parsed.

The file's format is protobuf's (https://protobuf.dev/programming-guides/encoding/) with the fields of ``onnx.proto``:
a message is a list of fields, each a tag (number and wire type) and a value.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError  # type: ignore[import-untyped, unused-ignore]
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper

from portmatrix.converters.errors import ConversionError, MalformedFile

Array = NDArray[Any]
Buffer = mmap.mmap | bytes

PRODUCER = "CNTK"
#: Payloads of at least this many bytes stay in the file.
LARGE = 4096

_MODEL_PRODUCER, _MODEL_GRAPH = 2, 7
_GRAPH_INITIALIZER = 5
#: Fields of a tensor that hold its elements one after the other, little-endian: float_data, double_data, raw_data.
_PAYLOADS: dict[int, np.dtype[Any] | None] = {4: np.dtype("<f4"), 10: np.dtype("<f8"), 9: None}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
#: Element types that a file of CNTK may have; raw data is read as such.
_DTYPES: dict[int, np.dtype[Any]] = {
    TensorProto.FLOAT: np.dtype("<f4"),
    TensorProto.DOUBLE: np.dtype("<f8"),
    TensorProto.FLOAT16: np.dtype("<f2"),
    TensorProto.INT8: np.dtype("i1"),
    TensorProto.UINT8: np.dtype("u1"),
    TensorProto.INT16: np.dtype("<i2"),
    TensorProto.UINT16: np.dtype("<u2"),
    TensorProto.INT32: np.dtype("<i4"),
    TensorProto.INT64: np.dtype("<i8"),
    TensorProto.BOOL: np.dtype("?"),
}


class Field(NamedTuple):
    """One field of a message: its number and wire type, and where it, and its value, lie in the file."""

    number: int
    kind: int
    start: int
    value: int
    end: int


class Source(NamedTuple):
    """What was read: the file's name, the model without its initializers, and those by name."""

    file: str
    model: ModelProto
    constants: dict[str, Array]


def is_onnx_of_cntk(file: Path) -> bool:
    """Return whether ``file`` is an ONNX file that names CNTK as its producer."""
    if file.suffix.lower() != ".onnx":
        return False
    try:
        data = _mapped(file)
        return any(
            field.number == _MODEL_PRODUCER and data[field.value : field.end] == PRODUCER.encode()
            for field in _fields(data, 0, len(data), file.name, "the model")
        )
    except ConversionError:
        return False


def is_native(file: Path) -> bool:
    """Return whether ``file`` is a model in CNTK 2's own format (a dictionary in protobuf) or in that of CNTK 1."""
    with file.open("rb") as stream:
        head = stream.read(256)
    return b"CompositeFunction" in head or head.startswith("BCN\0".encode("utf-16-le"))


def read(file: Path) -> Source:
    """Return the model in ``file``. Raises ``MalformedFile`` if it is damaged, ``ConversionError`` if not of CNTK."""
    data = _mapped(file)
    large: dict[str, Array] = {}
    rest = _without_payloads(data, file.name, large)
    try:
        model = ModelProto.FromString(rest)
    except (DecodeError, ValueError) as error:
        raise MalformedFile(file.name, "the model", f"it is no ONNX: {error}") from error
    if model.producer_name != PRODUCER:
        raise ConversionError(
            f"{file.name} was written by {model.producer_name or 'nobody who says so'}; expected a file by CNTK, whose "
            "way of fixing the batch is what is undone here"
        )
    constants = _constants(model, large, file.name)
    del model.graph.initializer[:]
    return Source(file.name, model, constants)


def array_of(tensor: TensorProto, file: str) -> Array:
    """Return the value of a small tensor; raises ``MalformedFile`` if it does not hold what it says."""
    where = f"tensor {tensor.name!r}"
    if tensor.data_location == TensorProto.EXTERNAL:
        raise MalformedFile(file, where, "its value is in another file; CNTK writes one file only")
    if tensor.data_type not in _DTYPES:
        raise MalformedFile(file, where, f"element type {tensor.data_type}; expected a number or bool")
    try:
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError, OverflowError, MemoryError) as error:
        raise MalformedFile(file, where, f"its data do not fit its shape {list(tensor.dims)[:8]}: {error}") from error


def _mapped(file: Path) -> Buffer:
    with file.open("rb") as stream:
        if not file.stat().st_size:
            raise MalformedFile(file.name, "byte 0", "the file is empty; expected an ONNX model")
        return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)


def _fields(data: Buffer, start: int, end: int, file: str, what: str) -> Iterator[Field]:
    """Yield the fields of the message between two positions; raises ``MalformedFile`` where it is cut short."""
    place = start
    while place < end:
        tag, value = _varint(data, place, end, file, what)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            _, stop = _varint(data, value, end, file, what)
        elif kind == _BYTES:
            length, value = _varint(data, value, end, file, what)
            stop = value + length
        elif kind in (_FIXED32, _FIXED64):
            stop = value + (4 if kind == _FIXED32 else 8)
        else:
            raise MalformedFile(file, f"byte {place}", f"no field of {what}: wire type {kind}; the file is no ONNX")
        if stop > end or number == 0:
            raise MalformedFile(file, f"byte {place}", f"a field of {what} ends behind its end; the file is cut short")
        yield Field(number, kind, place, value, stop)
        place = stop


def _varint(data: Buffer, place: int, end: int, file: str, what: str) -> tuple[int, int]:
    value = 0
    for count in range(10):
        if place + count >= end:
            break
        byte = data[place + count]
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            return value, place + count + 1
    raise MalformedFile(file, f"byte {place}", f"expected a number in {what}; the file is damaged or cut short")


def _without_payloads(data: Buffer, file: str, large: dict[str, Array]) -> bytes:
    """Return the model's message without the payloads of large initializers, which are put into ``large``."""
    kept = bytearray()
    graphs = 0
    for field in _fields(data, 0, len(data), file, "the model"):
        if field.number != _MODEL_GRAPH or field.kind != _BYTES:
            kept += data[field.start : field.end]
            continue
        graphs += 1
        if graphs > 1:
            raise MalformedFile(file, f"byte {field.start}", "a second graph; expected one")
        graph = _graph_without_payloads(data, field, file, large)
        kept += _head(_MODEL_GRAPH, len(graph)) + graph
    return bytes(kept)


def _graph_without_payloads(data: Buffer, graph: Field, file: str, large: dict[str, Array]) -> bytes:
    kept = bytearray()
    for field in _fields(data, graph.value, graph.end, file, "the graph"):
        is_large = field.kind == _BYTES and field.end - field.value >= LARGE
        if field.number == _GRAPH_INITIALIZER and is_large:
            tensor = _tensor_without_payload(data, field, file, large)
            kept += _head(_GRAPH_INITIALIZER, len(tensor)) + tensor
        else:
            kept += data[field.start : field.end]
    return bytes(kept)


def _tensor_without_payload(data: Buffer, tensor: Field, file: str, large: dict[str, Array]) -> bytes:
    kept = bytearray()
    payloads: list[Field] = []
    for field in _fields(data, tensor.value, tensor.end, file, "a tensor"):
        if field.number in _PAYLOADS and field.kind == _BYTES and field.end - field.value >= LARGE:
            payloads.append(field)
        else:
            kept += data[field.start : field.end]
    if payloads:
        head = TensorProto()
        try:
            head.ParseFromString(bytes(kept))
        except (DecodeError, ValueError) as error:
            raise MalformedFile(file, f"byte {tensor.start}", f"it is no tensor: {error}") from error
        if head.name in large:
            raise MalformedFile(file, f"tensor {head.name!r}", "it is there twice")
        large[head.name] = _view(data, head, payloads, file)
    return bytes(kept)


def _view(data: Buffer, head: TensorProto, payloads: list[Field], file: str) -> Array:
    where = f"tensor {head.name!r}"
    dtype = _DTYPES.get(head.data_type)
    if dtype is None or len(payloads) > 1 or (_PAYLOADS[payloads[0].number] or dtype) != dtype:
        raise MalformedFile(file, where, f"element type {head.data_type} does not fit how its data are stored")
    payload = payloads[0]
    size = payload.end - payload.value
    count = 1
    for dim in head.dims:
        count *= max(dim, 0)
    if count * dtype.itemsize != size:
        raise MalformedFile(
            file, where, f"it holds {size} bytes; its shape {list(head.dims)[:8]} needs {count * dtype.itemsize}"
        )
    return np.frombuffer(data, dtype, count, payload.value).reshape(tuple(head.dims))


def _constants(model: ModelProto, large: dict[str, Array], file: str) -> dict[str, Array]:
    constants: dict[str, Array] = {}
    for tensor in model.graph.initializer:
        if tensor.name in constants:
            raise MalformedFile(file, f"tensor {tensor.name!r}", "it is there twice")
        constants[tensor.name] = large[tensor.name] if tensor.name in large else array_of(tensor, file)
    return constants


def _head(number: int, length: int) -> bytes:
    return _encoded(number << 3 | _BYTES) + _encoded(length)


def _encoded(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + struct.pack("B", value)
