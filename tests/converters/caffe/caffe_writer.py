"""Writes weight files as Caffe does, in every form that Caffe has written them in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, content: bytes) -> bytes:
    """A field that holds bytes: a string, a message, or packed numbers."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def blob(values: np.ndarray, *, legacy: bool = False, double: bool = False, packed: bool = True) -> bytes:
    """One blob; ``legacy`` has four sizes in place of a shape."""
    kind, number = ("<f8", 8) if double else ("<f4", 5)
    flat = np.ascontiguousarray(values, kind)
    if packed:
        data = field(number, flat.tobytes())
    else:
        tag = varint(number << 3 | (1 if double else 5))
        data = b"".join(tag + item.tobytes() for item in flat.ravel())
    if legacy:
        sizes = (1,) * (4 - values.ndim) + values.shape
        return b"".join(varint(index << 3) + varint(size) for index, size in enumerate(sizes, 1)) + data
    return data + field(7, field(1, b"".join(map(varint, values.shape))))


def layer(name: str, blobs: Sequence[bytes], version: int = 2) -> bytes:
    """One layer of the newest format (2), the one with numbered types (1), or the first (0)."""
    if version == 2:
        return field(100, field(1, name.encode()) + b"".join(field(7, item) for item in blobs))
    if version == 1:
        return field(2, b"".join(field(6, item) for item in blobs) + field(4, name.encode()))
    return field(2, field(1, field(1, name.encode()) + b"".join(field(50, item) for item in blobs)))


def weights(layers: Mapping[str, Sequence[np.ndarray]], **options: bool) -> bytes:
    """A whole file."""
    return b"".join(layer(name, [blob(item, **options) for item in blobs]) for name, blobs in layers.items())
