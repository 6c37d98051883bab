"""A message of a network file: its fields by name, with the defaults of the field table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from portmatrix.converters.caffe.fields import MESSAGES, Field, Scalar

_Kind = TypeVar("_Kind", bool, int, float, str)


class Message:
    """One message: the values of each field in the order of the file, and the fields that the table does not know."""

    __slots__ = ("kind", "line", "unknown", "values")

    def __init__(self, kind: str, line: int = 0) -> None:
        self.kind = kind
        self.line = line
        self.values: dict[str, list[Scalar | Message]] = {}
        self.unknown: list[tuple[str, int]] = []

    def fields(self) -> dict[str, Field]:
        """Return the fields that a message of this kind may have; none for one that is not looked at."""
        return MESSAGES.get(self.kind, {})

    def has(self, name: str) -> bool:
        """Return whether the file gives the field at least once."""
        return name in self.values

    def add(self, name: str, value: Scalar | Message) -> None:
        """Append a value to a repeated field."""
        self.values.setdefault(name, []).append(value)

    def set(self, name: str, value: Scalar | Message) -> None:
        """Set a field that is not repeated."""
        self.values[name] = [value]

    def _one(self, name: str, kind: type[_Kind]) -> _Kind:
        given = self.values.get(name)
        value = given[-1] if given else self.fields()[name].default
        return kind() if value is None or isinstance(value, Message) else kind(value)

    def whole(self, name: str) -> int:
        """Return an integer, or the number of an enumeration's value."""
        return self._one(name, int)

    def real(self, name: str) -> float:
        """Return a float."""
        return self._one(name, float)

    def flag(self, name: str) -> bool:
        """Return a Boolean."""
        return self._one(name, bool)

    def text(self, name: str) -> str:
        """Return a string."""
        return self._one(name, str)

    def message(self, name: str) -> Message:
        """Return a message; an empty one, all defaults, if the file gives none."""
        given = self.values.get(name)
        if given and isinstance(given[-1], Message):
            return given[-1]
        return Message(self.fields()[name].kind, self.line)

    def messages(self, name: str) -> list[Message]:
        """Return the messages of a repeated field."""
        return [value for value in self.values.get(name, ()) if isinstance(value, Message)]

    def wholes(self, name: str) -> list[int]:
        """Return the integers of a repeated field."""
        return [int(value) for value in self.values.get(name, ()) if not isinstance(value, Message)]

    def reals(self, name: str) -> list[float]:
        """Return the floats of a repeated field."""
        return [float(value) for value in self.values.get(name, ()) if not isinstance(value, Message)]

    def texts(self, name: str) -> list[str]:
        """Return the strings of a repeated field."""
        return [str(value) for value in self.values.get(name, ()) if not isinstance(value, Message)]

    def all_unknown(self) -> Iterator[tuple[str, int]]:
        """Yield name and line of every field, here and in the messages below, that Caffe 1.0 does not have."""
        yield from self.unknown
        for values in self.values.values():
            for value in values:
                if isinstance(value, Message):
                    yield from value.all_unknown()
