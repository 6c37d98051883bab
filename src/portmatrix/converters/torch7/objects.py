"""What a .t7 file holds once it is read: tables, tensors, storages, objects of Lua classes, and Lua functions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Table:
    """A Lua table. It is a key by its identity, as in Lua; whole numbers among its keys are ``int``."""

    __slots__ = ("items",)

    def __init__(self) -> None:
        self.items: dict[Any, Any] = {}

    def get(self, key: Any, default: Any = None) -> Any:
        """Return the value under ``key``; as in Lua, a missing one is nil."""
        return self.items.get(key, default)

    def __len__(self) -> int:
        """Return Lua's length: how many of the keys 1, 2, 3 … are there in a row."""
        length = 0
        while self.items.get(length + 1) is not None:
            length += 1
        return length

    def __iter__(self) -> Iterator[Any]:
        """Yield the values under 1, 2, 3 … up to the first that is missing."""
        for index in range(1, len(self) + 1):
            yield self.items[index]


class Storage:
    """A torch storage: a flat array that is a view of the file."""

    __slots__ = ("kind", "values")

    def __init__(self, kind: str, values: Array) -> None:
        self.kind = kind
        self.values = values


class Tensor:
    """A torch tensor: a strided view of its storage. Expanded ones (stride 0) may be larger than their storage."""

    __slots__ = ("array", "kind", "stored")

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.array: Array = np.empty(0, np.float32)
        #: How many elements the storage holds.
        self.stored = 0


class Object:
    """An object of a Lua class: its class name, the class's version in the file, and its fields."""

    __slots__ = ("fields", "kind", "version")

    def __init__(self, kind: str, version: int) -> None:
        self.kind = kind
        self.version = version
        self.fields = Table()


class Function:
    """A Lua function: bytecode that is never run. It only matters if a network cannot do without it."""

    __slots__ = ("upvalues",)

    def __init__(self) -> None:
        self.upvalues: Any = None
