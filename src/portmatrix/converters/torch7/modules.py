"""A layer as the file holds it: its type and path in the network, and its fields, checked when they are asked for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NoReturn

import numpy as np

from portmatrix.converters.errors import ConversionError, Unsupported
from portmatrix.converters.torch7.objects import Array, Function, Object, Storage, Table, Tensor

#: Packages whose layers have the meaning of those of ``nn`` with the same name.
PACKAGES = ("nn", "cudnn", "rnn", "nnx", "fbnn", "nngraph")
#: An expanded tensor (stride 0) of more elements than this is no weight.
_EXPANDED = 1 << 22


class Module:
    """A layer of the network: ``kind`` is the class without its package, ``path`` where it stands, as 3.1.SeqLSTM."""

    def __init__(self, found: Object, path: str) -> None:
        package, _, kind = found.kind.rpartition(".")
        self.object = found
        self.package = package
        self.kind = kind if package in PACKAGES else found.kind
        self.path = f"{path}.{kind}" if path else kind
        self._stem = path

    def unsupported(self, needed: str) -> NoReturn:
        """Raise ``Unsupported`` for this layer: ``needed`` says what would be needed."""
        raise Unsupported(self.path, self.object.kind, needed)

    def fault(self, why: str) -> NoReturn:
        """Raise an error about a field of this layer."""
        raise ConversionError(f"layer {self.path!r} of type {self.object.kind}: {why}")

    def raw(self, name: str) -> Any:
        """Return the field ``name`` as it is in the file, None if there is none."""
        return self.object.fields.get(name)

    def number(self, name: str, default: float | None = None) -> float:
        """Return the field ``name``, a number; ``default`` if there is none. Raises ``ConversionError``."""
        value = self.raw(name)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            self.fault(f"the field {name!r} should be a number, but is {describe(value)}")
        return value

    def integer(self, name: str, default: int | None = None) -> int:
        """Return the field ``name``, a whole number of moderate size; ``default`` if there is none."""
        value = self.number(name, default)
        if not math.isfinite(value) or value != int(value) or abs(value) > 1 << 40:
            self.fault(f"the field {name!r} should be a whole number, but is {value!r}")
        return int(value)

    def flag(self, name: str, default: bool = False) -> bool:  # noqa: FBT001, FBT002 - a field's default
        """Return whether the field ``name`` is true as Lua sees it."""
        value = self.raw(name)
        return default if value is None else value is not False

    def text(self, name: str) -> str:
        """Return the field ``name`` if it is a text, else an empty one."""
        value = self.raw(name)
        return value if isinstance(value, str) else ""

    def weight(self, name: str) -> Array:
        """Return the tensor in the field ``name`` as float32 (a view where the file has that). Raises if missing."""
        value = self.weight_or_none(name)
        if value is None:
            self.fault(f"it has no tensor {name!r}. Save the network before its weights are dropped")
        return value

    def weight_or_none(self, name: str) -> Array | None:
        """Return the tensor in the field ``name`` as float32, or None if there is none or it is empty."""
        value = self.raw(name)
        if not isinstance(value, Tensor) or value.array.size == 0:
            return None
        return self.values(value)

    def values(self, tensor: Tensor) -> Array:
        """Return a tensor's values as float32."""
        if tensor.array.size > max(tensor.stored, _EXPANDED):
            self.fault("a tensor is expanded to far more elements than it has")
        return tensor.array if tensor.array.dtype == np.float32 else tensor.array.astype(np.float32)

    def sizes(self, name: str) -> list[int]:
        """Return the whole numbers in a LongStorage, a tensor or a table under ``name``."""
        value = self.raw(name)
        if isinstance(value, Storage):
            listed: list[Any] = value.values[:64].tolist()
        elif isinstance(value, Tensor):
            listed = value.array.reshape(-1)[:64].tolist()
        elif isinstance(value, Table):
            listed = list(value)
        else:
            self.fault(f"the field {name!r} should be a list of sizes, but is {describe(value)}")
        if not all(isinstance(size, (int, float)) and size == int(size) and abs(size) < 1 << 40 for size in listed):
            self.fault(f"the field {name!r} should be whole numbers, but is {listed}")
        return [int(size) for size in listed]

    def child(self, value: Any, label: str) -> Module:
        """Return a layer that this one holds."""
        if isinstance(value, Function):
            self.unsupported(f"{label} is a Lua function, which cannot be translated; use a layer of nn instead")
        if not isinstance(value, Object):
            self.fault(f"{label} should be a layer, but is {describe(value)}")
        return Module(value, f"{self._stem}.{label}" if self._stem else label)

    def field(self, name: str) -> Module:
        """Return the layer in the field ``name``."""
        return self.child(self.raw(name), name)

    def children(self) -> Iterator[Module]:
        """Yield the layers in ``modules``, in order."""
        listed = self.raw("modules")
        if not isinstance(listed, Table):
            self.fault(f"it should have a table of layers, but has {describe(listed)}")
        for number, value in enumerate(listed, 1):
            yield self.child(value, str(number))

    def first(self) -> Module:
        """Return the first layer in ``modules``, or old decorators' ``module``. Raises if there is none."""
        if self.raw("modules") is None and self.raw("module") is not None:
            return self.field("module")
        for found in self.children():
            return found
        return self.fault("it holds no layer")


def describe(value: Any) -> str:
    """Return what a value of the file is, for a message."""
    if value is None:
        return "missing"
    if isinstance(value, Object):
        return f"an object of class {value.kind}"
    if isinstance(value, Tensor):
        return f"a tensor of sizes {list(value.array.shape)}"
    return {Table: "a table", Storage: "a storage", Function: "a Lua function"}.get(type(value), repr(value)[:60])
