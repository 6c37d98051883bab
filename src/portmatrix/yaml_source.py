"""The bytes and the YAML of a spec file: plain data, the line of every key, and everything that is wrong so far.

YAML is read as version 1.2 has it (``no`` is a word, not a boolean), with less in it: no anchors, no tags, no merge
keys, one document. It is read event by event, so that neither deep nesting nor repeated aliases cost anything.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

#: Larger files are refused unread; the real thing takes 8 KiB.
MAX_BYTES = 128 * 1024
#: Deepest nesting of lists and mappings; the real thing needs 4.
MAX_DEPTH = 12
#: Most keys, values and entries, at some 100 microseconds each; the real thing has 400.
MAX_VALUES = 10_000
KeyPath: TypeAlias = tuple[str | int, ...]
_NodeEvent: TypeAlias = AliasEvent | ScalarEvent | MappingStartEvent | SequenceStartEvent


class Problem(NamedTuple):
    """One thing that is wrong with the file; sorts by line. ``line`` 0 stands for the file as a whole."""

    line: int
    path: KeyPath
    text: str

    def __str__(self) -> str:
        keys = "".join(f"[{key}]" if isinstance(key, int) else f".{cut(key) or chr(39) * 2}" for key in self.path)
        where = filter(None, [f"line {self.line}" if self.line else "", keys.lstrip(".")])
        return f"{', '.join(where) or 'file'}: {self.text}"


class Unreadable(Exception):
    """The file cannot be read to its end; carries what was found up to there."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__()
        self.problems = sorted(problems, key=lambda problem: problem.line)


def read_text(path: Path) -> str:
    """Return the file's text; raises ``Unreadable`` unless it is a small file of UTF-8 without control characters."""
    try:
        if path.is_dir():
            raise Unreadable([Problem(0, (), "is a directory; expected a file such as matrix.yaml in it")])
        if path.exists() and not path.is_file():
            raise Unreadable([Problem(0, (), "expected an ordinary file")])
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise Unreadable([Problem(0, (), f"cannot be read: {why}")]) from None
    if len(raw) > MAX_BYTES:
        raise Unreadable([Problem(1, (), f"larger than {MAX_BYTES // 1024} KiB; no matrix needs that")])
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise Unreadable(
            [Problem(line, (), f"byte 0x{raw[error.start]:02x} is not UTF-8; save the file as UTF-8")]
        ) from None
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if problems := list(_bad_characters(text)):
        raise Unreadable(problems)
    return text


def _bad_characters(text: str) -> Iterator[Problem]:
    """Yield the lines that are indented by tabs or hold characters that YAML does not allow, one problem a line."""
    strange = re.compile(r"[^\t\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
    for number, line in enumerate(text.split("\n"), start=1):
        if found := strange.search(line):
            yield Problem(number, (), f"character U+{ord(found[0]):04X} is not allowed in YAML; remove it")
        elif re.match(r" *\t\s*[^\s#]", line):
            yield Problem(number, (), "indented by a tab; YAML wants spaces")


@dataclass
class _Open:
    """A list or mapping whose end has not come yet; ``key`` is what waits for its value."""

    path: KeyPath
    value: list[Any] | dict[str, Any]
    key: str | None = None


_NULL = re.compile(r"(~|null|Null|NULL|)$")
_TRUTH = re.compile(r"(true|True|TRUE|false|False|FALSE)$")
_INTEGER = re.compile(r"([-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$")
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$")
_NOT_FINITE = re.compile(r"([-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$")


def compose(text: str) -> tuple[Any, dict[KeyPath, int], list[Problem], frozenset[KeyPath]]:
    """Return the plain data of a YAML text, the line of every key and entry, what is wrong, and where data is missing.

    Raises ``Unreadable`` where reading cannot go on: wrong syntax, nesting too deep, a second document.
    """
    composer = _Composer()
    try:
        for event in YAML(typ="safe", pure=True).parse(text):
            composer.take(event)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        why = "; ".join(filter(None, [error.context, error.problem]))
        raise composer.stop(mark.line + 1 if mark else 1, f"not valid YAML: {why}") from None
    except (YAMLError, ValueError, OverflowError, IndexError, RecursionError) as error:
        # An escape such as "\Uffffffff" is beyond what the parser itself expects.
        raise composer.stop(composer.line, f"not valid YAML: {error or type(error).__name__}") from None
    if not composer.started:
        raise composer.stop(1, "is empty; expected a mapping with at least the keys version and models")
    return composer.root, composer.lines, composer.problems, frozenset(composer.gaps)


_HALF = "half of a surrogate pair is no character"


class _Composer:
    """Builds plain data from YAML events without recursion, and notes the line of everything.

    What is refused but can be passed over leaves None (a gap) in the data, so that all else can still be checked.
    """

    def __init__(self) -> None:
        self.root: Any = None
        self.started = False
        self.line = 1
        self.values = 0
        self.lines: dict[KeyPath, int] = {}
        self.problems: list[Problem] = []
        self.gaps: set[KeyPath] = set()
        self._stack: list[_Open] = []

    def stop(self, line: int, text: str) -> Unreadable:
        """Return the error that ends the reading, with all that was found before."""
        return Unreadable([*self.problems, Problem(line, self._place(), text)])

    def take(self, event: Event) -> None:
        """Take the next event in; raises ``Unreadable`` where the rest cannot make sense."""
        self.line = event.start_mark.line + 1
        self.values += 1
        if self.values > MAX_VALUES:
            raise self.stop(self.line, f"more than {MAX_VALUES} keys and values; no matrix needs that")
        match event:
            case DocumentStartEvent():
                self._start(event)
            case MappingEndEvent() | SequenceEndEvent():
                self._close()
            case AliasEvent() | ScalarEvent() | MappingStartEvent() | SequenceStartEvent():
                top = self._stack[-1] if self._stack else None
                if top is not None and isinstance(top.value, dict) and top.key is None:
                    self._take_key(event, top, top.value)
                else:
                    self._take_value(event)

    def _start(self, event: DocumentStartEvent) -> None:
        if self.started:
            raise self.stop(self.line, "a second document starts here; expected one only")
        self.started = True
        if event.version is not None:
            self._refuse((), "%YAML directives are not read; remove it (the file is YAML 1.2)")

    def _place(self) -> KeyPath:
        """Return the key path of the value that comes next, or of the mapping that waits for a key."""
        if not self._stack:
            return ()
        top = self._stack[-1]
        if isinstance(top.value, list):
            return (*top.path, len(top.value))
        return top.path if top.key is None else (*top.path, top.key)

    def _refuse(self, path: KeyPath, text: str, *, gap: bool = False) -> None:
        self.problems.append(Problem(self.line, path, text))
        if gap:
            self.gaps.add(path)

    def _refuse_extras(self, event: _NodeEvent, path: KeyPath) -> bool:
        """Note anchors, aliases and tags as problems; return whether the event's own value is lost by that."""
        if isinstance(event, AliasEvent):
            self._refuse(path, f"aliases (*{cut(event.anchor)}) are not read; write the value out", gap=True)
            return True
        if event.anchor is not None:
            self._refuse(path, f"anchors (&{cut(event.anchor)}) are not read; remove it")
        if event.tag is not None:
            tag = cut(event.tag.replace("tag:yaml.org,2002:", "!!"))
            self._refuse(path, f"tags ({tag}) are not read; remove it", gap=True)
            return True
        return False

    def _take_key(self, event: _NodeEvent, top: _Open, mapping: dict[str, Any]) -> None:
        if not isinstance(event, ScalarEvent):
            self._refuse_extras(event, top.path)
            raise self.stop(self.line, "expected a word as key")
        top.key = event.value.encode("utf-8", "replace").decode()
        path = (*top.path, top.key)
        self._refuse_extras(event, path)
        if top.key != event.value:
            self._refuse(path, _HALF, gap=True)
        elif event.implicit[0] and event.value == "<<":
            self._refuse(path, "merge keys (<<) are not read; write the keys out", gap=True)
        elif event.implicit[0] and not isinstance(_scalar(event.value), str):
            self._refuse(path, f"keys are text: write {shown(event.value)} in quotes", gap=True)
        elif event.value in mapping:
            self._refuse(path, f"duplicate key {shown(event.value)} (first on line {self.lines[path]})")
        self.lines.setdefault(path, self.line)

    def _take_value(self, event: _NodeEvent) -> None:
        path = self._place()
        self.lines.setdefault(path, self.line)
        lost = self._refuse_extras(event, path)
        if isinstance(event, MappingStartEvent | SequenceStartEvent):
            if len(self._stack) >= MAX_DEPTH:
                raise self.stop(self.line, f"nested deeper than {MAX_DEPTH} levels")
            value: Any = {} if isinstance(event, MappingStartEvent) else []
            self._attach(value)
            self._stack.append(_Open(path, value))
        elif isinstance(event, ScalarEvent) and not lost:
            self._attach(self._scalar_at(event, path))
        else:
            self._attach(None)

    def _scalar_at(self, event: ScalarEvent, path: KeyPath) -> Any:
        value = _scalar(event.value) if event.implicit[0] else event.value
        if isinstance(value, str) and value.encode("utf-8", "replace").decode() != value:
            self._refuse(path, _HALF, gap=True)
            return None
        if isinstance(value, int | float) and not abs(value) <= 2**53:
            self._refuse(path, f"expected a finite number of ordinary size, got {shown(event.value)}", gap=True)
            return None
        return value

    def _attach(self, value: Any) -> None:
        if not self._stack:
            self.root = value
            return
        top = self._stack[-1]
        if isinstance(top.value, list):
            top.value.append(value)
        elif top.key is not None:
            top.value.setdefault(top.key, value)
            top.key = None

    def _close(self) -> None:
        """End the innermost list or mapping; a list must not say anything twice."""
        top = self._stack.pop()
        if not isinstance(top.value, list):
            return
        first: dict[str, KeyPath] = {}
        for at, entry in enumerate(top.value):
            path = (*top.path, at)
            seen = first.setdefault(json.dumps(entry, sort_keys=True), path)
            if seen != path and path not in self.gaps:
                text = f"duplicate entry {shown(entry)} (first on line {self.lines[seen]})"
                self.problems.append(Problem(self.lines[path], path, text))


def _scalar(text: str) -> str | int | float | bool | None:
    """Return what a plain scalar means by the core schema of YAML 1.2, section 10.3.2."""
    if _NULL.match(text):
        return None
    if _TRUTH.match(text):
        return text.lower() == "true"
    if _NOT_FINITE.match(text):
        return math.nan
    if _NUMBER.match(text) or _INTEGER.match(text):
        # Digits without end must not be turned into an int: that takes quadratic time, and newer Pythons refuse.
        whole = _INTEGER.match(text) is not None and len(text) <= 20
        return int(text, 0 if text[:2] in {"0o", "0x"} else 10) if whole else _float(text)
    return text


def _float(text: str) -> float:
    return math.inf if text[:2] in {"0o", "0x"} else float(text)


def shown(value: object) -> str:
    """Return a value as it would look in the file, cut short."""
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case dict():
            return "a mapping"
        case list():
            return "a list"
    return cut(repr(value))


def cut(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
