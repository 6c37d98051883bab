"""Theano's symbolic graph as typed records: variables, the applications that compute them, and their operations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from portmatrix.converters.errors import MalformedFile
from portmatrix.converters.theano.standins import ArrayRecord, Record, text_of

#: Names of records that hold the value of an array on a graphics card; their first argument is the array.
_UNPICKLERS = {"GpuArray_unpickler", "CudaNdarray_unpickler"}


@dataclass(eq=False, slots=True)
class Variable:
    """A symbolic value: its type, its name, what computes it, and the value of a constant or shared variable."""

    type: str
    dtype: str
    broadcastable: tuple[bool, ...]
    name: str | None
    owner: Apply | None = None
    index: int = 0
    value: Any = None
    has_value: bool = False

    @property
    def rank(self) -> int:
        return len(self.broadcastable)


@dataclass(eq=False, slots=True)
class Op:
    """An operation: its class's name, and its attributes as pickled."""

    kind: str
    record: Record

    def get(self, name: str, default: Any = None) -> Any:
        """Return the attribute ``name``, a Python 2 text as ``str``."""
        value = self.record.get(name, default)
        return value.decode("latin-1") if isinstance(value, bytes) else value

    def integers(self, name: str) -> tuple[int, ...] | None:
        """Return the attribute ``name`` as integers: of a tuple, a list, an array or one number; None if it is None."""
        return integers(self.get(name))


@dataclass(eq=False, slots=True)
class Apply:
    """One application of an operation."""

    op: Op
    inputs: list[Variable] = field(default_factory=list)
    outputs: list[Variable] = field(default_factory=list)

    @property
    def label(self) -> str:
        """Return a name for messages and nodes: that of the variable it computes, or of its operation."""
        named = next((variable.name for variable in self.outputs if variable.name), None)
        return named or self.op.kind


def integers(value: Any) -> tuple[int, ...] | None:
    """Return a number, a sequence of numbers or an array as a tuple of integers; None for None."""
    if isinstance(value, ArrayRecord):
        value = value.value
    if value is None:
        return None
    if isinstance(value, np.ndarray):
        return tuple(int(item) for item in value.ravel())
    if isinstance(value, list | tuple):
        return tuple(int(item) for item in value)
    return (int(value),)


class Graph:
    """Turns records into variables, each once, however deep the graph is."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._variables: dict[int, Variable] = {}
        self._applies: dict[int, Apply] = {}
        self._sources: dict[int, Record] = {}

    def fail(self, where: str, why: str) -> MalformedFile:
        """Return the error for a record that is not what its place asks for."""
        return MalformedFile(self._file, where, why)

    def variables(self, records: Any, where: str) -> list[Variable]:
        """Return the variables of a list of records, with everything that computes them."""
        if not isinstance(records, list | tuple):
            raise self.fail(where, f"expected a list of variables, found {_what(records)}")
        pending = [self._variable(record, where) for record in records]
        roots = list(pending)
        seen: set[int] = set()
        while pending:
            apply = pending.pop().owner
            if apply is None or id(apply) in seen:
                continue
            seen.add(id(apply))
            if not apply.outputs:
                self._fill(apply)
            pending.extend(apply.inputs)
        return roots

    def _variable(self, record: Any, where: str) -> Variable:
        known = self._variables.get(id(record))
        if known is not None:
            return known
        if not isinstance(record, Record) or not isinstance(record.state, dict) or "type" not in record.state:
            raise self.fail(where, f"expected a symbolic variable of Theano's, found {_what(record)}")
        kind = record.state["type"]
        if not isinstance(kind, Record):
            raise self.fail(where, f"a variable whose type is {_what(kind)}")
        dtype, pattern = text_of(kind.get("dtype")) or "", kind.get("broadcastable") or ()
        if not isinstance(pattern, list | tuple):
            raise self.fail(where, f"a variable whose broadcast pattern is {_what(pattern)}")
        made = Variable(kind.kind, dtype, tuple(bool(flag) for flag in pattern), text_of(record.get("name")))
        self._variables[id(record)] = made
        self._value(made, record)
        owner, index = record.get("owner"), record.get("index")
        if owner is not None:
            made.owner = self._apply(owner)
            made.index = index if isinstance(index, int) and index >= 0 else 0
        return made

    def _value(self, made: Variable, record: Record) -> None:
        container = record.get("container")
        if isinstance(container, Record):
            storage = container.get("storage")
            made.value, made.has_value = (storage[0] if isinstance(storage, list) and storage else None), True
        elif "data" in record.state:
            made.value, made.has_value = record.state["data"], True
        if isinstance(made.value, Record) and made.value.kind in _UNPICKLERS and made.value.arguments:
            made.value = made.value.arguments[0]
        if isinstance(made.value, ArrayRecord):
            made.value = made.value.value

    def _apply(self, record: Any) -> Apply:
        known = self._applies.get(id(record))
        if known is not None:
            return known
        if not isinstance(record, Record) or not isinstance(record.state, dict):
            raise self.fail("an apply node", f"found {_what(record)}")
        op = record.state.get("op")
        if not isinstance(op, Record):
            raise self.fail("an apply node", f"its operation is {_what(op)}")
        made = Apply(Op(op.kind, op))
        self._applies[id(record)] = made
        self._sources[id(made)] = record
        return made

    def _fill(self, apply: Apply) -> None:
        record = self._sources[id(apply)]
        inputs, outputs = record.get("inputs"), record.get("outputs")
        if not isinstance(inputs, list | tuple) or not isinstance(outputs, list | tuple) or not outputs:
            raise self.fail(f"apply node of {apply.op.kind}", "it has no lists of inputs and outputs")
        where = f"apply node of {apply.op.kind}"
        apply.outputs = [self._variable(variable, where) for variable in outputs]
        apply.inputs = [self._variable(variable, where) for variable in inputs]


def _what(value: Any) -> str:
    return repr(value)[:60] if isinstance(value, Record) else f"a {type(value).__name__}"


def in_order(outputs: Sequence[Variable], file: str, done: set[int] | None = None) -> list[Apply]:
    """Return all applications that the outputs need, each after those that it needs itself.

    ``done`` holds the ids of variables that are there already. Raises ``MalformedFile`` for a graph with a cycle.
    """
    ready: set[int] = set()
    open_: set[int] = set()
    order: list[Apply] = []
    stack = [(variable, False) for variable in reversed(outputs)]
    while stack:
        variable, finished = stack.pop()
        apply = variable.owner
        if apply is None or id(apply) in ready or (done is not None and id(variable) in done):
            continue
        if finished:
            ready.add(id(apply))
            open_.discard(id(apply))
            order.append(apply)
            continue
        if id(apply) in open_:
            raise MalformedFile(file, f"apply node of {apply.op.kind}", "the graph goes round in a circle")
        open_.add(id(apply))
        stack.append((variable, True))
        stack.extend((source, False) for source in reversed(apply.inputs))
    return order
