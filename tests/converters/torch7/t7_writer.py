"""Writes .t7 files, binary and ASCII, as torch7's ``File.lua`` does: the networks that the reader's tests read."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

NAMES = {
    "f4": "Float",
    "f8": "Double",
    "f2": "Half",
    "i8": "Long",
    "i4": "Int",
    "i2": "Short",
    "i1": "Char",
    "u1": "Byte",
}


class Obj:
    """An object of a Lua class with its fields."""

    def __init__(self, kind: str, **fields: Any) -> None:
        self.kind = kind
        self.fields = fields


class Stored:
    """A tensor given by its storage, sizes, strides and offset (from 1); ``kind`` overrides the class name."""

    def __init__(self, values: Any, sizes: Any, strides: Any, offset: int = 1, kind: str = "") -> None:
        self.values, self.sizes, self.strides, self.offset, self.kind = values, sizes, strides, offset, kind


class Sizes(list):  # type: ignore[type-arg]
    """A torch.LongStorage."""


class Lua(bytes):
    """A Lua function's bytecode, with a type number of its own."""

    number = 8


class Writer:
    """Collects the bytes of one file."""

    def __init__(self, *, ascii_mode: bool = False, long_size: int = 8, versions: bool = True) -> None:
        self.out = bytearray()
        self.text = ascii_mode
        self.long_code = "q" if long_size == 8 else "i"
        self.versions = versions
        self.known: dict[int, int] = {}
        self.kept: list[Any] = []
        self.count = 0

    def ints(self, *values: int, code: str = "i") -> None:
        if self.text:
            self.out += b" ".join(str(value).encode() for value in values) + b"\n" if values else b""
        else:
            self.out += struct.pack(f"<{len(values)}{code}", *values)

    def longs(self, *values: int) -> None:
        self.ints(*values, code=self.long_code)

    def double(self, value: float) -> None:
        self.out += f"{value:.17g}\n".encode() if self.text else struct.pack("<d", value)

    def chars(self, value: bytes) -> None:
        self.ints(len(value))
        self.out += value + (b"\n" if self.text and value else b"")

    def index(self, value: Any) -> bool:
        """Write the index of an object; return whether it is new."""
        new = id(value) not in self.known
        if new:
            self.count += 1
            self.known[id(value)] = self.count
            self.kept.append(value)
        self.ints(self.known[id(value)])
        return new

    def head(self, kind: str) -> None:
        if self.versions:
            self.chars(b"V 1")
        self.chars(kind.encode())

    def object(self, value: Any) -> None:
        if value is None:
            self.ints(0)
        elif isinstance(value, bool):
            self.ints(5)
            self.ints(int(value))
        elif isinstance(value, (int, float)):
            self.ints(1)
            self.double(value)
        elif isinstance(value, str):
            self.ints(2)
            self.chars(value.encode("latin-1"))
        elif isinstance(value, Lua):
            self.function(value)
        elif isinstance(value, dict) or (isinstance(value, list) and not isinstance(value, Sizes)):
            self.table(value)
        else:
            self.ints(4)
            if self.index(value):
                self.torch(value)

    def function(self, value: Lua) -> None:
        self.ints(value.number)
        if value.number == 6 or self.index(value):
            self.chars(bytes(value))
            self.object({})

    def table(self, value: Any) -> None:
        self.ints(3)
        if self.index(value):
            items: Iterable[tuple[Any, Any]] = value.items() if isinstance(value, dict) else enumerate(value, 1)
            listed = list(items)
            self.ints(len(listed))
            for key, part in listed:
                self.object(key)
                self.object(part)

    def torch(self, value: Any) -> None:
        if isinstance(value, Obj):
            self.head(value.kind)
            self.object(value.fields)
        elif isinstance(value, Sizes):
            self.head("torch.LongStorage")
            self.longs(len(value))
            self.longs(*value)
        elif isinstance(value, Stored):
            self.tensor(value)
        else:
            array = np.ascontiguousarray(value)
            strides = [step // array.itemsize for step in array.strides]
            self.tensor(Stored(array.reshape(-1), array.shape if array.size else (), strides if array.size else ()))

    def tensor(self, value: Stored) -> None:
        kind = value.kind or f"torch.{NAMES[value.values.dtype.str[1:]]}Tensor"
        self.head(kind)
        self.ints(len(value.sizes))
        self.longs(*value.sizes)
        self.longs(*value.strides)
        self.longs(value.offset)
        self.ints(4)
        if self.index(value.values):
            self.storage(value.values, kind.replace("Tensor", "Storage"))

    def storage(self, values: Any, kind: str) -> None:
        self.head(kind)
        self.longs(values.size)
        if not self.text:
            self.out += values.astype(values.dtype.newbyteorder("<")).tobytes()
        elif values.dtype.itemsize == 1:
            self.out += values.tobytes() + b"\n"
        else:
            self.out += b" ".join(repr(number).encode() for number in values.tolist()) + b"\n"


def dump(value: Any, **options: Any) -> bytes:
    """Return a file that holds ``value``."""
    writer = Writer(**options)
    writer.object(value)
    return bytes(writer.out)


def save(value: Any, file: Path, **options: Any) -> Path:
    """Write a file that holds ``value`` and return it."""
    file.write_bytes(dump(value, **options))
    return file


def module(kind: str, *modules: Any, **fields: Any) -> Obj:
    """Return a layer of ``nn``, with the layers in it if there are any."""
    if modules:
        fields["modules"] = list(modules)
    return Obj(kind if "." in kind else f"nn.{kind}", train=False, **fields)
