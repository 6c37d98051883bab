"""What a pickle's globals stand for: a whitelist, plain stand-ins for NumPy's and Python's, records for Theano's."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple, NoReturn

import numpy as np

#: Globals of other modules than Theano's whose objects are records too, or that have a stand-in below.
KNOWN: dict[str, frozenset[str]] = {
    "builtins": frozenset(
        [
            "object",
            "set",
            "frozenset",
            "list",
            "tuple",
            "dict",
            "slice",
            "int",
            "long",
            "float",
            "complex",
            "bool",
            "str",
            "unicode",
            "bytes",
            "bytearray",
            "range",
            "xrange",
            "Ellipsis",
            "NotImplemented",
        ]
    ),
    "copyreg": frozenset(["_reconstructor", "__newobj__"]),
    "collections": frozenset(["OrderedDict", "defaultdict", "deque"]),
    "_codecs": frozenset(["encode"]),
    "functools": frozenset(["partial"]),
    "types": frozenset(["SimpleNamespace"]),
    "numpy": frozenset(
        [
            "ndarray",
            "dtype",
            "bool_",
            "bool",
            "int8",
            "int16",
            "int32",
            "int64",
            "uint8",
            "uint16",
            "uint32",
            "uint64",
            "float16",
            "float32",
            "float64",
            "complex64",
            "complex128",
            "longlong",
            "ulonglong",
            "intc",
            "uintc",
        ]
    ),
    "numpy.core.multiarray": frozenset(["_reconstruct", "scalar"]),
    "numpy.core.numeric": frozenset(["_frombuffer"]),
    "numpy.core": frozenset(["_ufunc_reconstruct"]),
    "numpy.random": frozenset(["__RandomState_ctor", "RandomState"]),
    "numpy.random._pickle": frozenset(
        ["__randomstate_ctor", "__generator_ctor", "__bit_generator_ctor"],
    ),
    "numpy.random.mtrand": frozenset(["RandomState"]),
    "numpy.random._mt19937": frozenset(["MT19937"]),
}

_RENAMED = {
    "__builtin__": "builtins",
    "copy_reg": "copyreg",
    "numpy._core.multiarray": "numpy.core.multiarray",
    "numpy._core.numeric": "numpy.core.numeric",
    "numpy._core": "numpy.core",
}
_DTYPES = "biufc"
_CHUNK = 1 << 20
_BUFFERS = (bytes, bytearray, memoryview)


class Global(NamedTuple):
    """A class or function that a pickle names."""

    module: str
    name: str


def _latin(utf8: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    """Return UTF-8 as Latin-1, whose characters take two bytes from 128 on; raises ``UnicodeError``."""
    leads = np.flatnonzero(utf8 >= 0xC0)
    follows = (utf8 & 0xC0) == 0x80
    if np.any(utf8[leads] < 0xC2) or np.any(utf8[leads] > 0xC3) or np.count_nonzero(follows) != len(leads):
        raise UnicodeError("not Latin-1")
    if len(leads) and (leads[-1] + 1 >= len(utf8) or not np.all(follows[leads + 1])):
        raise UnicodeError("not UTF-8")
    made = utf8.copy()  # a lead byte 110000hh and its follower 10llllll become hhllllll
    made[leads] = (utf8[leads] & 3) << 6 | utf8[leads + 1] & 0x3F if len(leads) else 0
    return bytes(made[~follows].data)


class LongText:
    """A text too long to decode unless it is needed: in protocols below 3 the bytes of arrays are such texts."""

    __slots__ = ("latin", "utf8")

    def __init__(self, utf8: memoryview) -> None:
        self.utf8 = utf8
        self.latin: bytearray | None = None

    def as_latin(self) -> bytearray:
        """Return the text encoded in Latin-1, made once and piece by piece; raises ``UnicodeError``."""
        if self.latin is None:
            out, start = bytearray(), 0
            while start < len(self.utf8):
                end = min(start + _CHUNK, len(self.utf8))
                end += int(end < len(self.utf8) and self.utf8[end - 1] >= 0xC0)
                out += _latin(np.frombuffer(self.utf8[start:end], np.uint8))
                start = end
            self.latin = out
        return self.latin


class Record:
    """An object of a class that is not loaded: what it was built of, its state, and its items as list and mapping."""

    __slots__ = ("arguments", "items", "kind", "module", "pairs", "state")

    def __init__(self, module: str, kind: str, arguments: tuple[Any, ...]) -> None:
        self.module = module
        self.kind = kind
        self.arguments = arguments
        self.state: Any = None
        self.items: list[Any] = []
        self.pairs: dict[Any, Any] = {}

    def __repr__(self) -> str:
        return f"<{self.module}.{self.kind}>"

    def get(self, name: str, default: Any = None) -> Any:
        """Return the attribute ``name`` of the object's state, or ``default``."""
        return self.state.get(name, default) if isinstance(self.state, dict) else default


class ArrayRecord:
    """An array under construction; ``value`` is None while it has no state, and for arrays of objects."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: np.ndarray[Any, Any] | None = None


class TypeRecord:
    """A NumPy dtype under construction: its byte order comes after its name."""

    __slots__ = ("value",)

    def __init__(self, value: np.dtype[Any] | None) -> None:
        self.value = value


class _Key:
    """Stands for a dictionary key that is no plain value: compared by identity, so that hashing cannot recurse."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


def is_known(module: str, name: str) -> bool:
    """Return whether a global may be named by a file: Theano's, and those of the whitelist."""
    if module == "theano" or module.startswith("theano."):
        return True
    return name in KNOWN.get(_RENAMED.get(module, module), ())


def text_of(value: Any) -> str | None:
    """Return a text, which Python 2 pickled as bytes, as ``str``; None for anything else."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return value if isinstance(value, str) else None


class StandIns:
    """Makes the objects of whitelisted globals; ``fail`` raises the error that names the place in the file."""

    def __init__(self, fail: Callable[[str], NoReturn], budget: int) -> None:
        self._fail = fail
        self._budget = budget + 1024

    def key(self, key: Any) -> Any:
        """Return the key under which a dictionary keeps an item."""
        if isinstance(key, bytes):
            return key.decode("latin-1")
        return key if key is None or type(key) in (str, int, float, bool) else _Key(key)

    def make(self, called: Global, arguments: tuple[Any, ...]) -> Any:
        """Return what the file would get from calling ``called``."""
        module = _RENAMED.get(called.module, called.module)
        maker = _MAKERS.get((module, called.name))
        if maker is not None:
            return maker(self, arguments)
        return Record(module, called.name, arguments)

    def build(self, target: Any, state: Any) -> None:
        """Give ``target`` its state."""
        if isinstance(target, Record):
            if (
                isinstance(state, tuple)
                and len(state) == 2
                and isinstance(state[1], dict)
                and target.kind != "Elemwise"
            ):
                state = {**(state[0] if isinstance(state[0], dict) else {}), **state[1]}
            target.state = state
        elif isinstance(target, ArrayRecord):
            target.value = self._array(state)
        elif isinstance(target, TypeRecord):
            self._order(target, state)

    def _array(self, state: Any) -> np.ndarray[Any, Any] | None:
        if not isinstance(state, tuple) or len(state) not in (4, 5):
            self._fail("an array whose state is not (version, shape, dtype, order, data)")
        shape, kind, fortran, data = state[-4:]
        if isinstance(kind, TypeRecord) and kind.value is None:
            return None
        if isinstance(data, LongText):
            data = self._latin(data)
        return self._view(data, kind, shape, "F" if fortran else "C")

    def _view(self, data: Any, kind: Any, shape: Any, order: str) -> np.ndarray[Any, Any]:
        if not isinstance(kind, TypeRecord) or kind.value is None:
            self._fail("an array without a type of numbers")
        if not isinstance(shape, tuple) or not all(type(size) is int and 0 <= size < 1 << 60 for size in shape):
            self._fail("an array whose shape is no tuple of sizes")
        if not isinstance(data, bytes | bytearray | memoryview):
            self._fail("an array whose data are no bytes")
        if len(shape) > 32:
            self._fail(f"an array of {len(shape)} axes")
        wanted = prod(shape) * kind.value.itemsize
        if wanted != len(data):
            self._fail(f"an array of shape {shape} and type {kind.value} takes {wanted} bytes; {len(data)} are there")
        if not wanted:
            return np.zeros(shape, kind.value) if all(size < 1 << 31 for size in shape) else self._fail("an odd shape")
        flat: np.ndarray[Any, Any] = np.frombuffer(data, kind.value)
        return flat.reshape(shape, order="F" if order == "F" else "C")

    def _latin(self, text: LongText) -> bytearray:
        try:
            return text.as_latin()
        except UnicodeError:
            self._fail("a text that holds no bytes")

    def _order(self, target: TypeRecord, state: Any) -> None:
        order = text_of(state[1]) if isinstance(state, tuple) and len(state) > 1 else None
        if order not in ("<", ">", "|", "="):
            self._fail("a type of numbers without a byte order")
        if isinstance(state[3] if len(state) > 3 else None, tuple | dict):
            self._fail("arrays of records are no tensors")
        if target.value is not None and order in "<>":
            target.value = target.value.newbyteorder(order)  # type: ignore[arg-type]

    def charge(self, count: int) -> None:
        """Count copied items; no honest file copies more of them than it has bytes."""
        self._budget -= count
        if self._budget < 0:
            self._fail("copies more than the file holds")

    def dtype(self, arguments: tuple[Any, ...]) -> TypeRecord:
        """Return the dtype that ``numpy.dtype(...)`` gives; None in it for types of no numbers."""
        name = text_of(arguments[0]) if arguments else None
        if name is None and arguments and isinstance(arguments[0], Global):
            name = arguments[0].name
        if name is None or len(name) > 16:
            self._fail("a type of numbers without a name")
        try:
            made: np.dtype[Any] = np.dtype(name)
        except (TypeError, ValueError):
            self._fail(f"{name!r} is no type of numbers")
        return TypeRecord(made if made.kind in _DTYPES and made.itemsize <= 16 else None)

    def scalar(self, arguments: tuple[Any, ...]) -> Any:
        """Return the number that ``numpy.core.multiarray.scalar(dtype, bytes)`` gives."""
        if len(arguments) < 2 or not isinstance(arguments[0], TypeRecord):
            self._fail("a number without a type")
        if arguments[0].value is None:
            return None
        return self._view(arguments[1], arguments[0], (), "C")[()]

    def from_buffer(self, arguments: tuple[Any, ...]) -> ArrayRecord:
        """Return the array that ``numpy.core.numeric._frombuffer(data, dtype, shape, order)`` gives."""
        if len(arguments) != 4:
            self._fail("an array of other than four parts")
        made = ArrayRecord()
        made.value = self._view(*arguments[:3], str(arguments[3]))
        return made

    def encode(self, arguments: tuple[Any, ...]) -> Any:
        """Return the bytes that ``_codecs.encode(text, "latin1")`` gives."""
        if len(arguments) != 2 or text_of(arguments[1]) not in ("latin1", "latin-1"):
            self._fail("bytes in another encoding than Latin-1")
        if isinstance(arguments[0], LongText):
            return self._latin(arguments[0])
        if not isinstance(arguments[0], str):
            self._fail("encodes something that is no text")
        try:
            return arguments[0].encode("latin-1")
        except UnicodeError:
            self._fail("a text that holds no bytes")

    def sequence(self, arguments: tuple[Any, ...]) -> Any:
        """Return a list for what makes a set or a list: the items themselves, not copied."""
        items = arguments[0] if arguments else []
        if isinstance(items, list | tuple):
            return items
        return []

    def mapping(self, arguments: tuple[Any, ...]) -> dict[Any, Any]:
        """Return a dictionary for what makes one: nothing, a dictionary, or a list of pairs."""
        given = next((item for item in arguments if isinstance(item, list | tuple | dict)), ())
        self.charge(len(given))
        if isinstance(given, dict):
            return dict(given)
        made = {}
        for pair in given:
            if not isinstance(pair, list | tuple) or len(pair) != 2:
                self._fail("a dictionary of something other than pairs")
            made[self.key(pair[0])] = pair[1]
        return made

    def slice(self, arguments: tuple[Any, ...]) -> slice:
        """Return a slice, whose parts may be anything."""
        if not 1 <= len(arguments) <= 3:
            self._fail("a slice of other than one to three parts")
        return slice(*arguments)

    def bytes(self, arguments: tuple[Any, ...]) -> Any:
        """Return the bytes that ``bytes(...)`` gives: only the forms without an argument, or with bytes, occur."""
        if not arguments:
            return b""
        if len(arguments) == 2:
            return self.encode(arguments)
        if isinstance(arguments[0], _BUFFERS):
            return arguments[0]
        return self._fail("bytes of something else")

    def new(self, arguments: tuple[Any, ...]) -> Any:
        """Return the object of ``copyreg``'s constructors, whose first argument is the class."""
        if not arguments or not isinstance(arguments[0], Global):
            self._fail("an object of something that is no class")
        return self.make(arguments[0], arguments[1:])

    def array(self, _arguments: tuple[Any, ...]) -> Any:
        """Return an array that has its state still to come."""
        return ArrayRecord()


_MAKERS: dict[tuple[str, str], Callable[[StandIns, tuple[Any, ...]], Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): StandIns.array,
    ("numpy", "ndarray"): StandIns.array,
    ("numpy.core.multiarray", "scalar"): StandIns.scalar,
    ("numpy.core.numeric", "_frombuffer"): StandIns.from_buffer,
    ("numpy", "dtype"): StandIns.dtype,
    ("_codecs", "encode"): StandIns.encode,
    ("copyreg", "_reconstructor"): StandIns.new,
    ("copyreg", "__newobj__"): StandIns.new,
    ("collections", "OrderedDict"): StandIns.mapping,
    ("collections", "defaultdict"): StandIns.mapping,
    ("builtins", "dict"): StandIns.mapping,
    ("builtins", "set"): StandIns.sequence,
    ("builtins", "frozenset"): StandIns.sequence,
    ("builtins", "list"): StandIns.sequence,
    ("builtins", "tuple"): StandIns.sequence,
    ("builtins", "slice"): StandIns.slice,
    ("builtins", "bytes"): StandIns.bytes,
    ("builtins", "bytearray"): StandIns.bytes,
}
