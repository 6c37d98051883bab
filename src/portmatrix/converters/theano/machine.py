"""A pickle machine of its own that runs no code: classes become records of what they were given, arrays become views.

Python's pickle imports and calls whatever a file names. This machine reads the same opcodes (``pickletools`` documents
them, protocols 0 to 5) and builds plain data: a class of Theano's is a ``Record`` of its arguments and its state, a
NumPy array is a view of the file. No opcode can make it import, call or hash anything that the file chose.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

from portmatrix.converters.errors import MalformedFile
from portmatrix.converters.theano.standins import Global, LongText, Record, StandIns, is_known

#: Text and bytes longer than this are not copied out of the file.
SHORT = 1024
#: Integers longer than this (bytes, or decimal digits) are no part of a model.
INTEGER_BYTES = 1024

_MARK = object()

Step = Callable[[Any], None]


class _Code(NamedTuple):
    name: str
    size: int


def _codes() -> dict[int, _Code]:
    """Return name and argument size of each opcode by its byte; sizes below zero are those of ``pickletools``."""
    return {ord(code.code): _Code(code.name, code.arg.n if code.arg else 0) for code in pickletools.opcodes}


_CODES = _codes()
_PREFIX = {
    pickletools.TAKEN_FROM_ARGUMENT1: struct.Struct("<B"),
    pickletools.TAKEN_FROM_ARGUMENT4: struct.Struct("<i"),
    pickletools.TAKEN_FROM_ARGUMENT4U: struct.Struct("<I"),
    pickletools.TAKEN_FROM_ARGUMENT8U: struct.Struct("<Q"),
}
_LINES = {"GLOBAL": 2, "INST": 2}
_NUMBERS = {"BININT": "<i", "BININT1": "<B", "BININT2": "<H", "BINFLOAT": ">d"}
_TEXT = {"BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
_BYTES = {"BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}


class Machine:
    """Runs one pickle from a buffer; ``load`` returns what it describes."""

    def __init__(self, file: str, data: memoryview, persistent: Callable[[str], Any] | None = None) -> None:
        self._file = file
        self._data = data
        self._at = 0
        self._opcode = ""
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._persistent = persistent
        self._standins = StandIns(self.fail, len(data))
        self._steps: dict[str, Step] = {
            name[6:].upper(): getattr(self, name) for name in dir(self) if name.startswith("_step_")
        }

    def fail(self, why: str) -> NoReturn:
        """Raise ``MalformedFile`` for the opcode at hand."""
        raise MalformedFile(self._file, f"pickle opcode {self._opcode or 'none'} at byte {self._at}", why)

    def load(self) -> Any:
        """Return the object that the pickle describes; raises ``MalformedFile``."""
        while True:
            self._opcode = ""
            if self._at >= len(self._data):
                self.fail("the file ends before the pickle does; it is cut short")
            code = _CODES.get(self._data[self._at])
            if code is None:
                self.fail(f"{self._data[self._at]:#04x} is no pickle opcode; this is not a pickle, or a damaged one")
            self._opcode = code.name
            if code.name == "STOP":
                return self._pop()
            step = self._steps.get(code.name)
            if step is None and not (code.name in _NUMBERS or code.name in _TEXT or code.name in _BYTES):
                self.fail("this opcode never occurs in pickles of models and is not read")
            argument = self._argument(code)
            if step is not None:
                step(argument)
            else:
                self._stack.append(argument)

    # -- arguments -----------------------------------------------------------------------------------------------

    def _argument(self, code: _Code) -> Any:
        start = self._at + 1
        if code.size == pickletools.UP_TO_NEWLINE:
            lines = [self._line(start)]
            if code.name in _LINES:
                lines.append(self._line(self._at))
            return " ".join(lines)
        if code.size >= 0:
            chunk = self._take(start, code.size)
            if code.name in _NUMBERS:
                return struct.unpack(_NUMBERS[code.name], chunk)[0]
            return int.from_bytes(chunk, "little")
        prefix = _PREFIX[code.size]
        (length,) = prefix.unpack(self._take(start, prefix.size))
        if length < 0:
            self.fail(f"a length of {length}")
        return self._content(code.name, self._take(self._at, length))

    def _content(self, name: str, chunk: memoryview) -> Any:
        if name in _TEXT:
            return LongText(chunk) if len(chunk) > SHORT else self._text(chunk)
        if name in _BYTES:
            return chunk if len(chunk) > SHORT else bytes(chunk)
        if len(chunk) > INTEGER_BYTES:
            self.fail(f"an integer of {len(chunk)} bytes")
        return int.from_bytes(chunk, "little", signed=True)

    def _text(self, chunk: memoryview) -> str:
        try:
            return str(chunk, "utf-8", "surrogatepass")
        except UnicodeError:
            self.fail("a text that is not UTF-8")

    def _take(self, start: int, size: int) -> memoryview:
        if size > len(self._data) - start:
            self.fail(f"{size} bytes are announced, {len(self._data) - start} are left in the file")
        self._at = start + size
        return self._data[start : start + size]

    def _line(self, start: int) -> str:
        """Return the text up to the next end of line, which is never long in a model."""
        window = bytes(self._data[start : start + (1 << 16)])
        end = window.find(b"\n")
        if end < 0:
            window = bytes(self._data[start:])
            end = window.find(b"\n")
        if end < 0:
            self.fail("a line without an end")
        self._at = start + end + 1
        return window[:end].decode("latin-1")

    # -- stack and memo ------------------------------------------------------------------------------------------

    def _pop(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            self.fail("takes a value from an empty stack")
        return self._stack.pop()

    def _top(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            self.fail("needs a value on the stack")
        return self._stack[-1]

    def _marked(self) -> list[Any]:
        index = len(self._stack) - 1
        while index >= 0 and self._stack[index] is not _MARK:
            index -= 1
        if index < 0:
            self.fail("there is no mark on the stack")
        taken = self._stack[index + 1 :]
        del self._stack[index:]
        return taken

    def _put(self, key: int) -> None:
        if key < 0 or key > len(self._data):
            self.fail(f"memo number {key} is beyond anything that {len(self._data)} bytes can hold")
        self._memo[key] = self._top()

    def _get(self, key: int) -> None:
        if key not in self._memo:
            self.fail(f"memo number {key} was never stored")
        self._stack.append(self._memo[key])

    def _number(self, text: str, kind: Callable[[str], Any]) -> Any:
        if len(text) > INTEGER_BYTES:
            self.fail(f"a number of {len(text)} digits")
        try:
            return kind(text)
        except ValueError:
            self.fail(f"{text[:40]!r} is no number")

    # -- opcodes -------------------------------------------------------------------------------------------------

    def _step_proto(self, version: int) -> None:
        if version > 5:
            self.fail(f"protocol {version}; protocols 0 to 5 exist")

    def _step_frame(self, _chunk: Any) -> None:
        pass

    def _step_mark(self, _: Any) -> None:
        self._stack.append(_MARK)

    def _step_pop(self, _: Any) -> None:
        if not self._stack:
            self.fail("takes a value from an empty stack")
        self._stack.pop()

    def _step_pop_mark(self, _: Any) -> None:
        self._marked()

    def _step_none(self, _: Any) -> None:
        self._stack.append(None)

    def _step_newtrue(self, _: Any) -> None:
        self._stack.append(True)

    def _step_newfalse(self, _: Any) -> None:
        self._stack.append(False)

    def _step_int(self, text: str) -> None:
        known = {"00": False, "01": True}
        self._stack.append(known[text] if text in known else self._number(text, int))

    def _step_long(self, text: str) -> None:
        self._stack.append(self._number(text.rstrip("L"), int))

    def _step_float(self, text: str) -> None:
        self._stack.append(self._number(text, float))

    def _step_long1(self, value: int) -> None:
        self._stack.append(value)

    _step_long4 = _step_long1

    def _step_string(self, text: str) -> None:
        if len(text) < 2 or text[0] != text[-1] or text[0] not in "'\"":
            self.fail("a string without quotes")
        escaped = text[1:-1].encode("latin-1")
        try:
            self._stack.append(escaped.decode("unicode_escape").encode("latin-1"))
        except UnicodeError:
            self.fail("a string that no Python wrote")

    def _step_unicode(self, text: str) -> None:
        try:
            self._stack.append(text.encode("latin-1").decode("raw_unicode_escape"))
        except UnicodeError:
            self.fail("a text that no Python wrote")

    def _step_empty_list(self, _: Any) -> None:
        self._stack.append([])

    _step_empty_set = _step_empty_list

    def _step_empty_dict(self, _: Any) -> None:
        self._stack.append({})

    def _step_empty_tuple(self, _: Any) -> None:
        self._stack.append(())

    def _step_list(self, _: Any) -> None:
        self._stack.append(self._marked())

    _step_frozenset = _step_list

    def _step_tuple(self, _: Any) -> None:
        self._stack.append(tuple(self._marked()))

    def _step_tuple1(self, _: Any) -> None:
        self._stack.append((self._pop(),))

    def _step_tuple2(self, _: Any) -> None:
        second = self._pop()
        self._stack.append((self._pop(), second))

    def _step_tuple3(self, _: Any) -> None:
        third, second = self._pop(), self._pop()
        self._stack.append((self._pop(), second, third))

    def _step_dict(self, _: Any) -> None:
        pairs = self._marked()
        self._stack.append({})
        self._set(pairs)

    def _set(self, pairs: list[Any]) -> None:
        if len(pairs) % 2:
            self.fail("a key without a value")
        into = self._top()
        into = into.pairs if isinstance(into, Record) else into
        if not isinstance(into, dict):
            self.fail("sets an item of something that has none")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            into[self._standins.key(key)] = value

    def _extend(self, values: list[Any]) -> None:
        into = self._top()
        into = into.items if isinstance(into, Record) else into
        if not isinstance(into, list):
            self.fail("appends to something that is no list")
        into.extend(values)

    def _step_append(self, _: Any) -> None:
        value = self._pop()
        self._extend([value])

    def _step_appends(self, _: Any) -> None:
        values = self._marked()
        self._extend(values)

    _step_additems = _step_appends

    def _step_setitem(self, _: Any) -> None:
        value = self._pop()
        key = self._pop()
        self._set([key, value])

    def _step_setitems(self, _: Any) -> None:
        pairs = self._marked()
        self._set(pairs)

    def _step_get(self, text: str) -> None:
        self._get(self._number(text, int))

    def _step_binget(self, key: int) -> None:
        self._get(key)

    _step_long_binget = _step_binget

    def _step_put(self, text: str) -> None:
        self._put(self._number(text, int))

    def _step_binput(self, key: int) -> None:
        self._put(key)

    _step_long_binput = _step_binput

    def _step_memoize(self, _: Any) -> None:
        self._put(len(self._memo))

    def _step_global(self, text: str) -> None:
        module, _, name = text.partition(" ")
        self._named(module, name)

    def _step_stack_global(self, _: Any) -> None:
        name, module = self._pop(), self._pop()
        if not isinstance(name, str) or not isinstance(module, str):
            self.fail("a global whose name is no text")
        self._named(module, name)

    def _named(self, module: str, name: str) -> None:
        if not is_known(module, name):
            self.fail(
                f"names {module}.{name}"[:200] + ", which is neither Theano's nor NumPy's; nothing of this file has "
                "been run. Pickle the symbolic inputs and outputs alone, without objects of other packages"
            )
        self._stack.append(Global(module, name))

    def _step_reduce(self, _: Any) -> None:
        arguments, function = self._pop(), self._pop()
        self._make(function, arguments)

    def _make(self, function: Any, arguments: Any) -> None:
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            self.fail("builds an object of something that is no class")
        self._stack.append(self._standins.make(function, arguments))

    _step_newobj = _step_reduce

    def _step_newobj_ex(self, _: Any) -> None:
        self._pop()
        self._step_reduce(None)

    def _step_inst(self, text: str) -> None:
        arguments = tuple(self._marked())
        self._step_global(text)
        self._make(self._pop(), arguments)

    def _step_obj(self, _: Any) -> None:
        values = self._marked()
        if not values:
            self.fail("builds an object of nothing")
        self._make(values[0], tuple(values[1:]))

    def _step_build(self, _: Any) -> None:
        state = self._pop()
        self._standins.build(self._top(), state)

    def _step_persid(self, text: str) -> None:
        self._from_outside(text)

    def _step_binpersid(self, _: Any) -> None:
        self._from_outside(self._pop())

    def _from_outside(self, name: Any) -> None:
        if self._persistent is None or not isinstance(name, str):
            self.fail("refers to something outside the pickle")
        self._stack.append(self._persistent(name))
