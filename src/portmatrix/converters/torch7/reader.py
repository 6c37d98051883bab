"""Reads Torch7's serialization (.t7), binary or ASCII, without Torch.

The format is that of torch7's ``File.lua``, ``Tensor.c`` and ``Storage.c``: every object starts with its type's number;
tables, functions and objects of classes have an index, under which they are referred to afterwards. The reader keeps
its own stack, so that no nesting of a file exhausts Python's, and tensors are views of the mapped file.
"""

from __future__ import annotations

import math
import mmap
import re
import struct
import warnings
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from portmatrix.converters.errors import MalformedFile
from portmatrix.converters.torch7.objects import Array, Function, Object, Storage, Table, Tensor

_NIL, _NUMBER, _STRING, _TABLE, _TORCH, _BOOLEAN = range(6)
_OLD_FUNCTION, _LEGACY_FUNCTION, _FUNCTION = 6, 7, 8
_MAX_DIMENSIONS = 32
_MAX_CLASS_NAME = 256
_ELEMENTS = {
    "Double": "<f8",
    "Float": "<f4",
    "Half": "<f2",
    "Long": "<i8",
    "Int": "<i4",
    "Short": "<i2",
    "Char": "|i1",
    "Byte": "|u1",
    "Bool": "|u1",
}
_ARRAY_CLASS = re.compile(r"^torch\.(?P<device>Cuda|Cl)?(?P<element>[A-Z][a-z]+)?(?P<what>Tensor|Storage)$")
_SPACE = b" \t\r\n\v\f"
_TOKEN = re.compile(rb"[ \t\r\n\v\f]*([^ \t\r\n\v\f]{1,64})")


def read(file: Path) -> Any:
    """Return the object that a .t7 file holds; its numbers are read as 64-bit longs or, failing that, 32-bit ones.

    Raises ``MalformedFile`` if the file is cut short, damaged or none of Torch7's.
    """
    name = str(file)
    with file.open("rb") as stream:
        if not stream.read(1):
            raise MalformedFile(name, "byte 0", "the file is empty")
        data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    if is_ascii(data[:4]):
        return _ascii(name, data)
    try:
        return _Reader(_Binary(name, data, 8)).read()
    except MalformedFile as error:
        short = _Binary(name, data, 4)
        try:
            held = _Reader(short).read()
        except MalformedFile:
            raise error from None
        if short.position != short.size:
            raise
        return held


def looks_like_t7(head: bytes) -> bool:
    """Return whether a file that starts so may be one of Torch7's: the type number of an object that can hold a net."""
    return is_ascii(head) or head[:4] in (struct.pack("<i", _TABLE), struct.pack("<i", _TORCH))


def is_ascii(head: bytes) -> bool:
    """Return whether a file that starts with these (four or more) bytes is one in Torch7's ASCII mode."""
    return head[:1] in (b"0", b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"8") and head[1:2] in (b"\n", b" ", b"\r")


def _ascii(name: str, data: mmap.mmap) -> Any:
    return _Reader(_Text(name, data, 8)).read()


class _Source:
    """Bytes with a position; what its subclasses read is checked against what is left."""

    def __init__(self, name: str, data: mmap.mmap, long_size: int) -> None:
        self.name = name
        self.data = data
        self.size = len(data)
        self.position = 0
        self.long_size = long_size

    def fail(self, why: str) -> NoReturn:
        raise MalformedFile(self.name, f"byte {self.position}", f"{why}. Is this a complete .t7 file of Torch7?")

    def need(self, count: int, what: str) -> None:
        if count < 0 or count > self.size - self.position:
            self.fail(f"{what} of {count} bytes is announced, but {self.size - self.position} are left")

    def chars(self, count: int, what: str) -> bytes:
        self.need(count, what)
        start = self.position
        self.position += count
        return bytes(self.data[start : self.position])

    def skip_chars(self, count: int, what: str) -> None:
        self.need(count, what)
        self.position += count

    def element(self, name: str) -> np.dtype[Any]:
        code = "<i4" if name == "Long" and self.long_size == 4 else _ELEMENTS[name]
        return np.dtype(code)

    def integer(self) -> int:
        raise NotImplementedError

    def longs(self, count: int) -> list[int]:
        raise NotImplementedError

    def double(self) -> float:
        raise NotImplementedError

    def array(self, element: str, count: int) -> Array:
        raise NotImplementedError


class _Binary(_Source):
    """Little-endian numbers, a long being 8 or 4 bytes."""

    def integer(self) -> int:
        self.need(4, "a number")
        (value,) = struct.unpack_from("<i", self.data, self.position)
        self.position += 4
        return int(value)

    def longs(self, count: int) -> list[int]:
        self.need(count * self.long_size, "a row of numbers")
        letter = "q" if self.long_size == 8 else "i"
        values = struct.unpack_from(f"<{count}{letter}", self.data, self.position)
        self.position += count * self.long_size
        return list(values)

    def double(self) -> float:
        self.need(8, "a number")
        (value,) = struct.unpack_from("<d", self.data, self.position)
        self.position += 8
        return float(value)

    def array(self, element: str, count: int) -> Array:
        dtype = self.element(element)
        self.need(count * dtype.itemsize, "a storage")
        values = np.frombuffer(self.data, dtype, count, self.position) if count else np.empty(0, dtype)
        self.position += count * dtype.itemsize
        return values


class _Text(_Source):
    """Numbers in decimal, with one newline after each group of them and after each text."""

    def token(self) -> bytes:
        found = _TOKEN.match(self.data, self.position)
        if found is None:
            self.fail("a number was expected here, but the file ends")
        self.position = found.end()
        return bytes(found[1])

    def integer(self) -> int:
        return self.longs(1)[0]

    def longs(self, count: int) -> list[int]:
        self.need(count, "a row of numbers")
        values = []
        for _ in range(count):
            text = self.token()
            try:
                values.append(int(text))
            except ValueError:
                self.fail(f"a whole number was expected here, not {text!r}")
        self._newline(count)
        return values

    def double(self) -> float:
        text = self.token()
        try:
            value = float(text)
        except ValueError:
            self.fail(f"a number was expected here, not {text!r}")
        self._newline(1)
        return value

    def chars(self, count: int, what: str) -> bytes:
        value = super().chars(count, what)
        self._newline(count)
        return value

    def skip_chars(self, count: int, what: str) -> None:
        super().skip_chars(count, what)
        self._newline(count)

    def _newline(self, count: int) -> None:
        """Torch7 reads one newline after a group of numbers or a text that is not empty (its "auto spacing")."""
        if count and self.position < self.size and self.data[self.position] == 10:
            self.position += 1

    def array(self, element: str, count: int) -> Array:
        self.need(count, "a storage")
        dtype = self.element(element)
        if element in ("Char", "Byte"):
            return np.frombuffer(self.chars(count, "a storage"), dtype)
        if count == 0:
            return np.empty(0, dtype)
        end = self.data.find(b"\n", self.position)
        line = self.data[self.position : end if end >= 0 else self.size]
        values = _numbers(line, np.dtype(np.int64) if dtype.kind == "i" else np.dtype(np.float64))
        if values is None or len(values) != count:
            self.fail(f"{count} numbers were expected in one line here")
        self.position += len(line)
        self._newline(1)
        return values.astype(dtype)


def _numbers(line: bytes, dtype: np.dtype[Any]) -> Array | None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return np.fromstring(line.decode("ascii"), dtype=dtype, sep=" ")
        except (ValueError, DeprecationWarning):
            return None


class _Frame:
    """An object whose parts are still to be read: what it is, and how many parts are missing."""

    __slots__ = ("key", "missing", "value")

    def __init__(self, value: Any, missing: int) -> None:
        self.value = value
        self.missing = missing
        self.key: Any = None


class _Reader:
    def __init__(self, source: _Source) -> None:
        self._source = source
        self._known: dict[int, Any] = {}
        self._stack: list[_Frame] = []
        #: Sizes, strides and offset of the tensors whose storage is still to come.
        self._layouts: dict[int, tuple[list[int], list[int], int]] = {}

    def read(self) -> Any:
        """Return the file's object: parts are read until no object is unfinished."""
        while True:
            value = self._start()
            while not (isinstance(value, _Frame) and value.missing):
                complete = value.value if isinstance(value, _Frame) else value
                if not self._stack:
                    return complete
                frame = self._stack[-1]
                self._take(frame, complete)
                if frame.missing:
                    break
                value = self._stack.pop()
            else:
                self._stack.append(value)

    def _start(self) -> Any:
        """Read an object, or of one that has parts its head."""
        source = self._source
        kind = source.integer()
        if kind == _NIL:
            return None
        if kind in (_TABLE, _TORCH, _LEGACY_FUNCTION, _FUNCTION):
            return self._indexed(kind)
        if kind == _OLD_FUNCTION:
            return self._function()
        return self._plain(kind)

    def _plain(self, kind: int) -> Any:
        source = self._source
        if kind == _NUMBER:
            number = source.double()
            return int(number) if number.is_integer() else number
        if kind == _BOOLEAN:
            return source.integer() == 1
        if kind == _STRING:
            return source.chars(source.integer(), "a text").decode("latin-1")
        return source.fail(f"there is no type of object with the number {kind}")

    def _indexed(self, kind: int) -> Any:
        index = self._source.integer()
        if index in self._known:
            return self._known[index]
        if kind == _TABLE:
            frame = self._table()
        elif kind == _TORCH:
            frame = self._torch()
        else:
            frame = self._function()
        self._known[index] = frame.value
        return frame

    def _function(self) -> _Frame:
        self._source.skip_chars(self._source.integer(), "a function")
        return _Frame(Function(), 1)

    def _table(self) -> _Frame:
        count = self._source.integer()
        if count < 0 or 2 * count > self._source.size - self._source.position:
            self._source.fail(f"a table of {count} entries is announced, which cannot be in what is left of the file")
        return _Frame(Table(), 2 * count)

    def _torch(self) -> _Frame:
        version, kind = self._class()
        array = _ARRAY_CLASS.match(kind)
        if array is None:
            return _Frame(Object(kind, version), 1)
        element = array["element"] or ("Float" if array["device"] else "")
        if element not in _ELEMENTS:
            self._source.fail(f"{kind} is no tensor type that is known ({', '.join(_ELEMENTS)})")
        if array["what"] == "Storage":
            (count,) = self._source.longs(1)
            return _Frame(Storage(element, self._source.array(element, self._count(count))), 0)
        return self._tensor(element)

    def _class(self) -> tuple[int, str]:
        """Return an object's version and class; files from before there were versions have the class alone."""
        text = self._name()
        if not text.startswith("V "):
            return 0, text
        version = text[2:]
        return int(version) if version.isdecimal() and len(version) < 9 else 1, self._name()

    def _name(self) -> str:
        length = self._source.integer()
        if not 0 < length <= _MAX_CLASS_NAME:
            self._source.fail(f"the name of a class was expected here, not a text of {length} bytes")
        return self._source.chars(length, "the name of a class").decode("latin-1")

    def _count(self, count: int) -> int:
        if count < 0:
            self._source.fail(f"a storage cannot have {count} elements")
        return count

    def _tensor(self, element: str) -> _Frame:
        dimensions = self._source.integer()
        if not 0 <= dimensions <= _MAX_DIMENSIONS:
            self._source.fail(f"a tensor cannot have {dimensions} dimensions")
        sizes, strides = self._source.longs(dimensions), self._source.longs(dimensions)
        (offset,) = self._source.longs(1)
        if any(size < 0 for size in sizes):
            self._source.fail(f"a tensor cannot have the sizes {sizes}")
        tensor = Tensor(element)
        self._layouts[id(tensor)] = (sizes, strides, offset - 1)
        return _Frame(tensor, 1)

    def _take(self, frame: _Frame, part: Any) -> None:
        """Give an unfinished object its next part."""
        frame.missing -= 1
        value = frame.value
        if isinstance(value, Table):
            self._take_entry(frame, value, part)
        elif isinstance(value, Tensor):
            self._take_storage(value, part)
        elif isinstance(value, Object):
            if not isinstance(part, Table):
                self._source.fail(
                    f"an object of class {value.kind} has no table of fields: the class has a format of its own, "
                    "which is not known. Save the network without it"
                )
            value.fields = part
        else:
            value.upvalues = part

    def _take_entry(self, frame: _Frame, table: Table, part: Any) -> None:
        if frame.missing % 2:
            if part is None or (isinstance(part, float) and math.isnan(part)):
                self._source.fail("a table cannot have an entry without a key")
            frame.key = part
        else:
            if part is not None:
                table.items[frame.key] = part
            frame.key = None

    def _take_storage(self, tensor: Tensor, part: Any) -> None:
        sizes, strides, offset = self._layouts.pop(id(tensor))
        if part is None:
            if sizes and 0 not in sizes:
                self._source.fail(f"a tensor of {sizes} elements has no storage")
            tensor.array = np.empty([*sizes] if sizes else 0, self._source.element(tensor.kind))
            return
        if not isinstance(part, Storage) or part.kind != tensor.kind:
            self._source.fail(f"a tensor of type {tensor.kind} needs a storage of that type")
        tensor.stored = len(part.values)
        tensor.array = self._view(part.values, sizes, strides, offset)

    def _view(self, values: Array, sizes: list[int], strides: list[int], offset: int) -> Array:
        """Return the tensor as a view of its storage; one without dimensions is empty in Torch7."""
        if not sizes or 0 in sizes:
            return np.empty([*sizes] if sizes else 0, values.dtype)
        ends = [(size - 1) * stride for size, stride in zip(sizes, strides, strict=True)]
        low, high = offset + sum(min(end, 0) for end in ends), offset + sum(max(end, 0) for end in ends)
        if low < 0 or high >= len(values):
            self._source.fail(
                f"a tensor of sizes {sizes}, strides {strides} and offset {offset} lies outside its storage "
                f"of {len(values)} elements"
            )
        steps = [stride * values.itemsize if size > 1 else 0 for size, stride in zip(sizes, strides, strict=True)]
        if sum(size.bit_length() for size in sizes) > 62:
            self._source.fail(f"a tensor of sizes {sizes} is too large")
        if _contiguous(sizes, strides):
            return values[offset : high + 1].reshape(sizes)
        return np.lib.stride_tricks.as_strided(values[offset:], sizes, steps, writeable=False)


def _contiguous(sizes: list[int], strides: list[int]) -> bool:
    expected = 1
    for size, stride in zip(reversed(sizes), reversed(strides), strict=True):
        if size > 1 and stride != expected:
            return False
        expected *= size
    return True
