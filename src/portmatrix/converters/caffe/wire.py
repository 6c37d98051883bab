"""Reads weight files: the wire format of protocol buffers, with the numbers of a blob left where they are in the file.

The format is described at https://protobuf.dev/programming-guides/encoding/; field numbers are those of Caffe's
definition (BVLC/caffe, ``src/caffe/proto/caffe.proto``).
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from portmatrix.converters.errors import MalformedFile

#: Limits that no model comes near, against files made to exhaust memory.
MOST_LAYERS = 50_000
MOST_BLOBS = 200_000
MOST_CHUNKS = 10_000
MOST_DIMENSIONS = 32  # Caffe's kMaxBlobAxes

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_HDF5 = b"\x89HDF\r\n\x1a\n"


class Blob(NamedTuple):
    """The numbers of one blob, flat, and its shape; ``legacy`` if that is Caffe's old four-number form."""

    values: NDArray[Any]
    shape: tuple[int, ...]
    legacy: bool


class Layer(NamedTuple):
    """The weights of one layer: its name, and its blobs in order."""

    name: str
    blobs: tuple[Blob, ...]


class Span(NamedTuple):
    """A part of the file, between two offsets."""

    start: int
    end: int


def read(file: Path) -> list[Layer]:
    """Return the layers of a ``.caffemodel`` in the order of the file; raises ``MalformedFile``.

    The file is mapped, not read: a blob's values are a view into it (``double_data`` alone is converted, to float32).
    """
    with file.open("rb") as stream:
        if not stream.seek(0, 2):
            raise MalformedFile(str(file), "size", "the file is empty; expected a .caffemodel")
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    if mapped[:8] == _HDF5:
        raise MalformedFile(
            str(file),
            "start",
            "is HDF5; save the weights in the binary format (snapshot_format: BINARYPROTO, net.save)",
        )
    return parse(memoryview(mapped), str(file))


def parse(data: memoryview, file: str) -> list[Layer]:
    """Return the layers of the weights in ``data``; ``file`` is what errors name."""
    return _Reader(data, file).net()


class _Reader:
    """Walks the messages of one file."""

    def __init__(self, data: memoryview, file: str) -> None:
        self._data = data
        self._file = file
        self._blobs = 0

    def net(self) -> list[Layer]:
        layers = []
        for field, _, span in self._fields(Span(0, len(self._data))):
            if isinstance(span, Span) and field in {100, 2}:
                layers.append(self._newer_layer(span) if field == 100 else self._older_layer(span))
                if len(layers) > MOST_LAYERS:
                    self._fail(span.start, f"there are more than {MOST_LAYERS} layers")
        return layers

    def _fail(self, offset: int, why: str) -> None:
        raise MalformedFile(self._file, f"byte {offset}", why)

    def _varint(self, offset: int, end: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            if offset >= end:
                self._fail(offset, "ends inside a number")
            byte = self._data[offset]
            offset += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & 0xFFFFFFFFFFFFFFFF, offset
            shift += 7
            if shift > 63:
                self._fail(offset, "a number has more than ten bytes")

    def _fields(self, span: Span) -> Iterator[tuple[int, int, int | Span]]:
        """Yield number, offset of the tag, and value or span of every field of a message."""
        offset = span.start
        while offset < span.end:
            start = offset
            tag, offset = self._varint(offset, span.end)
            field, kind = tag >> 3, tag & 7
            value: int | Span
            if not field:
                self._fail(start, "a field has the number 0; the file is no .caffemodel, or it is damaged")
            if kind == _VARINT:
                value, offset = self._varint(offset, span.end)
            else:
                length = {_FIXED32: 4, _FIXED64: 8}.get(kind, -1)
                if kind == _BYTES:
                    length, offset = self._varint(offset, span.end)
                if length < 0:
                    self._fail(start, f"wire type {kind} is none; the file is no .caffemodel, or it is damaged")
                if length > span.end - offset:
                    self._fail(start, f"a field of {length} bytes reaches beyond its message; is the file cut short?")
                value = Span(offset, offset + length)
                offset += length
            yield field, start, value

    def _name(self, span: Span) -> str:
        try:
            return bytes(self._data[span.start : span.end]).decode()
        except UnicodeDecodeError:
            raise MalformedFile(self._file, f"byte {span.start}", "a layer's name is no UTF-8 text") from None

    def _layer(self, span: Span, name_field: int, blob_field: int) -> Layer:
        name, blobs = "", []
        for field, start, value in self._fields(span):
            if isinstance(value, Span) and field == name_field:
                name = self._name(value)
            elif isinstance(value, Span) and field == blob_field:
                self._blobs += 1
                if self._blobs > MOST_BLOBS:
                    self._fail(start, f"there are more than {MOST_BLOBS} blobs")
                blobs.append(self._blob(value))
        return Layer(name, tuple(blobs))

    def _newer_layer(self, span: Span) -> Layer:
        return self._layer(span, 1, 7)

    def _older_layer(self, span: Span) -> Layer:
        """Read a layer of the format before ``layer``, or of the one before that, which is a message inside it."""
        for field, _, value in self._fields(span):
            if field == 1 and isinstance(value, Span):
                return self._layer(value, 1, 50)
        return self._layer(span, 4, 6)

    def _blob(self, span: Span) -> Blob:
        legacy: dict[int, int] = {}
        shape: tuple[int, ...] = ()
        chunks: dict[int, list[NDArray[Any]]] = {5: [], 8: []}
        offset = span.start
        while offset < span.end:
            for field, start, value in self._fields(Span(offset, span.end)):
                offset = span.end
                if isinstance(value, int):
                    legacy.update({field: _signed(value)} if field <= 4 else {})
                elif field == 7:
                    shape = self._shape(value)
                elif field in chunks:
                    chunk, behind = self._numbers(start, value, span.end, 4 if field == 5 else 8)
                    chunks[field].append(chunk)
                    if len(chunks[field]) > MOST_CHUNKS:
                        self._fail(start, f"a blob is in more than {MOST_CHUNKS} pieces")
                    if behind != value.end:
                        offset = behind
                        break
        values = _joined(chunks[8]).astype(np.float32) if chunks[8] else _joined(chunks[5])
        if legacy:
            shape = tuple(legacy.get(field, 0) for field in (1, 2, 3, 4))
        return Blob(values, shape, legacy=bool(legacy))

    def _numbers(self, start: int, value: Span, end: int, width: int) -> tuple[NDArray[Any], int]:
        """Return floats as a view into the file, of a packed field or a run of single ones, and the offset behind."""
        kind = np.dtype(f"<f{width}")
        if self._data[start] & 7 == _BYTES:
            if (value.end - value.start) % width:
                self._fail(start, f"{value.end - value.start} bytes of numbers are no multiple of {width}")
            return np.frombuffer(self._data[value.start : value.end], kind), value.end
        step = width + 1
        most = (end - start) // step
        length = 1
        while length < most:
            reach = min(length * 2, most)
            tags = np.frombuffer(self._data[start : start + reach * step], np.uint8)[::step]
            same = tags == tags[0]
            length = reach if same.all() else int(np.argmin(same))
            if length < reach:
                break
        record = np.dtype([("tag", np.uint8), ("value", kind)])
        run = np.frombuffer(self._data[start : start + length * step], record)
        return np.ascontiguousarray(run["value"]), start + length * step

    def _shape(self, span: Span) -> tuple[int, ...]:
        sizes: list[int] = []
        for field, start, value in self._fields(span):
            if field != 1:
                continue
            if isinstance(value, int):
                sizes.append(_signed(value))
            else:
                offset = value.start
                while offset < value.end and len(sizes) <= MOST_DIMENSIONS:
                    size, offset = self._varint(offset, value.end)
                    sizes.append(_signed(size))
            if len(sizes) > MOST_DIMENSIONS:
                self._fail(start, f"a blob has more than {MOST_DIMENSIONS} dimensions")
        return tuple(sizes)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _joined(chunks: list[NDArray[Any]]) -> NDArray[Any]:
    if not chunks:
        return np.zeros(0, np.float32)
    return chunks[0] if len(chunks) == 1 else np.concatenate(chunks)
