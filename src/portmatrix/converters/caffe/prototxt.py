"""Reads the text format of protocol buffers, as far as network files go: messages after the field table.

The format is described at https://protobuf.dev/reference/protobuf/textformat-spec/.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn

from portmatrix.converters.caffe.fields import ENUMERATIONS, MESSAGES, Field, Scalar
from portmatrix.converters.caffe.message import Message
from portmatrix.converters.errors import MalformedFile

#: Limits that no network comes near, against files made to exhaust memory: bytes, messages, and depth of nesting.
MOST_BYTES = 4 << 20
MOST_MESSAGES = 300_000
DEEPEST = 60
#: As many fields that are not known are kept of a message: one is enough to refuse it.
MOST_UNKNOWN = 10

_TOKEN = re.compile(
    r"""(?P<space>(?:[ \t\r\n\f\v]|\#[^\n]*)+)
    |(?P<string>"[^"\\\n]*(?:\\[^\n][^"\\\n]*)*"|'[^'\\\n]*(?:\\[^\n][^'\\\n]*)*')
    |(?P<word>-?\s?[A-Za-z_][A-Za-z0-9_]*)
    |(?P<number>-?\s?(?:0[xX][0-9a-fA-F]+|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)[fF]?)
    |(?P<mark>[{}<>\[\]:;,])""",
    re.VERBOSE,
)
_ESCAPE = re.compile(rb"\\(?:([0-7]{1,3})|[xX]([0-9a-fA-F]{1,2})|(.))", re.DOTALL)
_PLAIN = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"a": b"\a", b"b": b"\b", b"f": b"\f", b"v": b"\v"}
_BOOLEANS = dict.fromkeys(("true", "True", "t", "1"), True) | dict.fromkeys(("false", "False", "f", "0"), False)
_CLOSING = {"{": "}", "<": ">"}


def read(file: Path) -> Message:
    """Return the network in ``file``, a message of kind ``Net``; raises ``MalformedFile``."""
    if file.stat().st_size > MOST_BYTES:
        raise MalformedFile(str(file), "size", f"a network file has at most {MOST_BYTES >> 20} MB; is this a prototxt?")
    try:
        text = file.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise MalformedFile(str(file), f"byte {error.start}", "is no UTF-8 text; expected a prototxt") from None
    return parse(text, str(file))


def parse(text: str, file: str) -> Message:
    """Return the network in ``text``; ``file`` is what errors name."""
    return _Parser(text, file).net()


class _Parser:
    """Reads one text from left to right, one token ahead."""

    def __init__(self, text: str, file: str) -> None:
        self._text = text
        self._file = file
        self._end = 0
        self._counted = 0
        self._line = 1
        self._messages = 0
        self._next()

    def net(self) -> Message:
        net = Message("Net", 1)
        self._fields(net, "", 0)
        return net

    def _next(self) -> None:
        """Take the next token: ``_token`` and ``_group`` (its kind, empty at the end of the text)."""
        while True:
            self._start = self._end
            if self._start == len(self._text):
                self._group, self._token = "", "the end of the file"
                return
            match = _TOKEN.match(self._text, self._start)
            if match is None:
                self._fail(f"{self._text[self._start]!r} cannot be read here")
            self._end = match.end()
            if match.lastgroup != "space":
                self._group, self._token = str(match.lastgroup), match.group()
                return

    def _at(self) -> int:
        """Return the number of the current token's line."""
        self._line += self._text.count("\n", self._counted, self._start)
        self._counted = self._start
        return self._line

    def _fail(self, why: str) -> NoReturn:
        raise MalformedFile(self._file, f"line {self._at()}", why)

    def _expect(self, mark: str) -> None:
        if self._token != mark or self._group != "mark":
            self._fail(f"expected {mark!r}, found {self._token[:40]}")
        self._next()

    def _skip(self, marks: str) -> bool:
        if self._group == "mark" and self._token in marks:
            self._next()
            return True
        return False

    def _fields(self, message: Message, closing: str, depth: int) -> None:
        """Read fields into ``message`` up to ``closing``, the end of the file if that is empty."""
        if depth > DEEPEST:
            self._fail(f"messages are nested deeper than {DEEPEST}")
        while self._group:
            if closing and self._group == "mark" and self._token == closing:
                self._next()
                return
            if self._group != "word" or self._token.startswith("-"):
                self._fail(f"expected the name of a field, found {self._token[:40]}")
            self._field(message, depth)
            self._skip(";,")
        if closing:
            self._fail(f"expected {closing!r} for the {message.kind} of line {message.line}")

    def _field(self, message: Message, depth: int) -> None:
        name = self._token
        line = self._at()
        field = message.fields().get(name)
        if field is None:
            if message.kind != "any":
                self._known(message, name)
                if len(message.unknown) < MOST_UNKNOWN:
                    message.unknown.append((name, line))
            field = Field("any", True, None)  # noqa: FBT003 - a repeated field
        self._next()
        colon = self._skip(":")
        if colon and self._skip("["):
            self._list(message, name, field, depth)
        else:
            self._value(message, name, field, colon=colon, depth=depth)

    def _known(self, message: Message, name: str) -> None:
        """Refuse an unknown field of the network itself: the file is something else."""
        if message.kind == "Net":
            near = get_close_matches(name, MESSAGES["Net"], 1)
            hint = f"; did you mean {near[0]!r}?" if near else "; a solver's file names its network's under `net`"
            self._fail(f"a network has no field {name!r}{hint}")

    def _list(self, message: Message, name: str, field: Field, depth: int) -> None:
        while not self._skip("]"):
            self._value(message, name, field, colon=True, depth=depth)
            if not self._skip(","):
                self._expect("]")
                return

    def _value(self, message: Message, name: str, field: Field, *, colon: bool, depth: int) -> None:
        if self._group == "mark" and self._token in _CLOSING:
            closing = _CLOSING[self._token]
            if field.kind not in MESSAGES and field.kind != "any":
                self._fail(f"{name} is a {field.kind}, not a message")
            self._messages += 1
            if self._messages > MOST_MESSAGES:
                self._fail(f"there are more than {MOST_MESSAGES} messages")
            inner = Message(field.kind, self._at())
            self._next()
            self._fields(inner, closing, depth + 1)
            if field.kind != "any":
                self._store(message, name, field, inner)
            return
        if not colon:
            self._fail(f"expected ':' after {name}")
        if self._group not in {"string", "word", "number"}:
            self._fail(f"expected a value for {name}, found {self._token[:40]}")
        self._scalar(message, name, field)

    def _store(self, message: Message, name: str, field: Field, value: Scalar | Message) -> None:
        """Keep a value; a message that is given twice though it is not repeated is merged, as the format says."""
        if field.repeated:
            message.add(name, value)
        elif isinstance(value, Message) and message.has(name):
            first = message.message(name)
            first.unknown += value.unknown
            for key, values in value.values.items():
                known = first.fields()[key]
                first.values[key] = first.values.get(key, []) + values if known.repeated else values
        else:
            message.set(name, value)

    def _scalar(self, message: Message, name: str, field: Field) -> None:
        if field.kind in MESSAGES:
            self._fail(f"{name} is a message; expected '{{'")
        if field.kind == "any":
            self._pass()
            return
        if self._group == "string":
            value: Scalar | None = self._strings()
            if field.kind != "string":
                self._fail(f"{name} is a {field.kind}, not a string")
        else:
            value = self._plain(self._token.replace(" ", ""), field.kind)
            if value is None:
                self._fail(f"{self._token[:40]!r} is no value for {name}{_legal(field.kind)}")
            self._next()
        if value is not None:
            self._store(message, name, field, value)

    def _pass(self) -> None:
        """Pass over a value that is not looked at: one word or number, or strings that belong together."""
        strings = self._group == "string"
        self._next()
        while strings and self._group == "string":
            self._next()

    def _plain(self, token: str, kind: str) -> Scalar | None:
        """Return the value of a word or a number, None if it is not of this kind."""
        if kind == "bool":
            return _BOOLEANS.get(token)
        if kind == "float":
            return _float(token)
        if kind in ENUMERATIONS:
            number = _integer(token)
            return ENUMERATIONS[kind].get(token, number if number in ENUMERATIONS[kind].values() else None)
        number = _integer(token) if kind in {"int", "uint"} else None
        low, high = (0, 1 << 32) if kind == "uint" else (-(1 << 63), 1 << 63)
        return number if number is not None and low <= number < high else None

    def _strings(self) -> str:
        """Return one string, or several that follow each other, joined."""
        parts = []
        line = self._at()
        while self._group == "string":
            parts.append(_ESCAPE.sub(_unescaped, self._token[1:-1].encode()))
            self._next()
        try:
            return b"".join(parts).decode()
        except UnicodeDecodeError:
            raise MalformedFile(self._file, f"line {line}", "the string is no UTF-8 text") from None


def _unescaped(match: re.Match[bytes]) -> bytes:
    octal, hexadecimal, plain = match.groups()
    if octal:
        return bytes([int(octal, 8) & 0xFF])
    return bytes([int(hexadecimal, 16)]) if hexadecimal else _PLAIN.get(plain, plain)


def _legal(kind: str) -> str:
    return f"; expected one of {', '.join(ENUMERATIONS[kind])}" if kind in ENUMERATIONS else f", a {kind}"


def _integer(token: str) -> int | None:
    if len(token) > 40:
        return None
    try:
        if re.fullmatch(r"-?0[0-7]+", token):
            return int(token, 8)
        return int(token, 0)
    except ValueError:
        return None


def _float(token: str) -> float | None:
    word = token.lower().rstrip("f") if not token.lower().lstrip("-").startswith(("inf", "0x")) else token.lower()
    try:
        return float(word)
    except ValueError:
        number = _integer(word)
        return None if number is None else float(number)
