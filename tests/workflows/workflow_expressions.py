"""The expressions of a workflow that these tests understand, evaluated as GitHub does; anything else is an error.

The rules are those of https://docs.github.com/en/actions/reference/workflows-and-actions/expressions, with one more: a
name that nothing defines is an error here, where GitHub takes it for an empty string and a typing error goes unseen.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

_TOKEN = re.compile(
    r"\s*(?:(?P<number>-?\d+(?:\.\d+)?)|(?P<string>'(?:[^']|'')*')|(?P<name>[A-Za-z_][A-Za-z0-9_-]*)"
    r"|(?P<sign>&&|\|\||==|!=|!|\(|\)|\.|,))"
)
_WORDS = {"true": True, "false": False, "null": None}
#: Functions that ask how a job has gone so far. Without one of them an ``if`` means ``success() && (...)``.
STATUS = frozenset({"success", "failure", "always", "cancelled"})

Functions = Mapping[str, Callable[..., Any]]
NO_FUNCTIONS: Functions = MappingProxyType({})


class NotUnderstood(Exception):
    """An expression that GitHub may understand and these tests do not, or a name that nothing defines."""


def interpolate(text: str, contexts: Mapping[str, Any], functions: Functions = NO_FUNCTIONS) -> Any:
    """Return ``text`` with the value of each ``${{ }}`` in its place; the value itself where there is nothing else."""
    whole = re.fullmatch(r"\s*\$\{\{(.*)\}\}\s*", text, re.DOTALL)
    if whole and "${{" not in whole[1]:
        return evaluate(whole[1], contexts, functions)
    return re.sub(r"\$\{\{(.*?)\}\}", lambda match: shown(evaluate(match[1], contexts, functions)), text)


def holds(condition: str, contexts: Mapping[str, Any], functions: Functions) -> bool:
    """Return whether an ``if`` holds, which may stand in ``${{ }}`` or not."""
    inside = re.fullmatch(r"\s*\$\{\{(.*)\}\}\s*", condition, re.DOTALL)
    text = inside[1] if inside else condition
    if not STATUS & {token for kind, token in _tokens(text) if kind == "name"} and not functions["success"]():
        return False
    return truth(evaluate(text, contexts, functions))


def evaluate(text: str, contexts: Mapping[str, Any], functions: Functions = NO_FUNCTIONS) -> Any:
    """Return the value of an expression; raises ``NotUnderstood``."""
    parser = _Parser(text, contexts, {"fromJSON": json.loads, "contains": _contains, **functions})
    value = parser.either()
    if parser.left:
        raise NotUnderstood(f"{text.strip()!r}: what is {parser.left[0][1]!r} after a whole expression?")
    return value


def shown(value: Any) -> str:
    """Return a value as GitHub writes it into text."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, str | int):
        return str(value)
    raise NotUnderstood(f"{type(value).__name__} in the middle of a text: {value!r}")


def truth(value: Any) -> bool:
    """Return whether GitHub takes a value for true."""
    return not (value is None or value is False or value == "" or value == 0)


def _tokens(text: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    at = 0
    while text[at:].strip():
        match = _TOKEN.match(text, at)
        if match is None:
            raise NotUnderstood(f"{text.strip()!r}: cannot be read from {text[at:].strip()!r} on")
        kind = str(match.lastgroup)
        found.append((kind, match[kind]))
        at = match.end()
    return found


class _Parser:
    """Reads and evaluates one expression from left to right; both sides of an operator are looked at."""

    def __init__(self, text: str, contexts: Mapping[str, Any], functions: Functions) -> None:
        self.text = text.strip()
        self.left = _tokens(text)
        self.contexts = contexts
        self.functions = functions

    def either(self) -> Any:
        value = self.both()
        while self._take("||"):
            other = self.both()
            value = value if truth(value) else other
        return value

    def both(self) -> Any:
        value = self.equal()
        while self._take("&&"):
            other = self.equal()
            value = other if truth(value) else value
        return value

    def equal(self) -> Any:
        value = self.single()
        for sign in ("==", "!="):
            if self._take(sign):
                return equals(value, self.single()) is (sign == "==")
        return value

    def single(self) -> Any:
        if self._take("!"):
            return not truth(self.single())
        if self._take("("):
            value = self.either()
            self._demand(")")
            return value
        kind, token = self.left.pop(0) if self.left else ("end", "nothing")
        if kind == "number":
            return float(token)
        if kind == "string":
            return token[1:-1].replace("''", "'")
        if kind != "name":
            raise NotUnderstood(f"{self.text!r}: expected a value, got {token!r}")
        if token in _WORDS:
            return _WORDS[token]
        return self._called(token) if self._take("(") else self._looked_up(token)

    def _called(self, name: str) -> Any:
        arguments: list[Any] = []
        while not self._take(")"):
            arguments.append(self.either())
            if not self._take(","):
                self._demand(")")
                break
        if name not in self.functions:
            raise NotUnderstood(f"{self.text!r}: the function {name} is not among {', '.join(sorted(self.functions))}")
        return self.functions[name](*arguments)

    def _looked_up(self, name: str) -> Any:
        if name not in self.contexts:
            raise NotUnderstood(f"{self.text!r}: {name} is not among {', '.join(sorted(self.contexts))}")
        value, path = self.contexts[name], name
        while self._take("."):
            kind, key = self.left.pop(0) if self.left else ("end", "nothing")
            if kind != "name":
                raise NotUnderstood(f"{self.text!r}: expected a name after {path}., got {key!r}")
            if not isinstance(value, Mapping) or key not in value:
                if path.partition(".")[0] in ("inputs", "vars") or path.startswith("github.event"):
                    value, path = None, f"{path}.{key}"
                    continue
                known = ", ".join(map(str, value)) if isinstance(value, Mapping) else repr(value)
                raise NotUnderstood(f"{self.text!r}: {path} has no {key!r}, only {known or 'nothing'}")
            value, path = value[key], f"{path}.{key}"
        return value

    def _take(self, sign: str) -> bool:
        if self.left and self.left[0] == ("sign", sign):
            self.left.pop(0)
            return True
        return False

    def _demand(self, sign: str) -> None:
        if not self._take(sign):
            raise NotUnderstood(
                f"{self.text!r}: expected {sign!r}, got {self.left[0][1] if self.left else 'nothing'!r}"
            )


def equals(one: Any, other: Any) -> bool:
    """Return whether two values are equal to GitHub: texts without regard to case, unlike types as numbers."""
    if isinstance(one, str) and isinstance(other, str):
        return one.lower() == other.lower()
    if type(one) is type(other):
        return bool(one == other)
    return _number(one) == _number(other)


def _number(value: Any) -> float:
    if value is None or value == "":
        return 0.0
    if isinstance(value, bool | int | float):
        return float(value)
    try:
        return float(str(value))
    except ValueError:
        return math.nan


def _contains(where: Any, what: Any) -> bool:
    if isinstance(where, Sequence) and not isinstance(where, str):
        return any(equals(item, what) for item in where)
    return shown(what).lower() in shown(where).lower()
