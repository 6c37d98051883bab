"""Theano's ``scan`` and ``ifelse`` as ONNX ``Loop`` and ``If``.

Scan keeps each recurrent output in a buffer that begins with the initial values; the buffer is what it returns
(``theano/scan_module/scan_op.py``). Here the last values are what the loop carries, the values of all steps are put
together behind the loop, and the buffer is only made if something reads more of it than those.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import NodeProto

from portmatrix.converters.errors import Unsupported
from portmatrix.converters.network import Scope
from portmatrix.converters.nodes import used_names
from portmatrix.converters.theano.graph import Apply, Variable, integers
from portmatrix.converters.theano.indexing import Bounds, gathered, sliced
from portmatrix.converters.theano.sizes import Size, product
from portmatrix.converters.theano.translator import Handler, Translator, Value, onnx_dtype

_INT = np.dtype(np.int64)
_COUNTS = ("n_seqs", "n_mit_mot", "n_mit_sot", "n_sit_sot", "n_shared_outs", "n_nit_sot")


@dataclass
class _Recurrent:
    """One recurrent output: its taps, the initial values that its buffer begins with, and what the loop carries."""

    taps: list[int]
    initial: Value
    carried: list[Value] = field(default_factory=list)
    inside: list[Value] = field(default_factory=list)

    @property
    def depth(self) -> int:
        return -min(self.taps)


@dataclass
class _Plan:
    """A scan, sorted out: its operands, and its inner graph."""

    steps: Value
    sequences: list[Value]
    recurrent: list[_Recurrent]
    shared: list[Value]
    constants: list[Value]
    inner_inputs: list[Variable]
    inner_outputs: list[Variable]
    collected: int
    as_while: bool


def _setting(apply: Apply, name: str, default: Any = 0) -> Any:
    info = apply.op.get("info")
    found = apply.op.get(name)
    if found is None and isinstance(info, dict):
        found = info.get(name)
    return default if found is None else found


def _plan(t: Translator, apply: Apply) -> _Plan:
    seqs, mit_mot, mit_sot, sit_sot, shared, nit_sot = [int(_setting(apply, name)) for name in _COUNTS]
    if mit_mot:
        raise Unsupported(
            apply.label, "Scan", "outputs that are read and written at once (mit_mot: gradients of scans)"
        )
    taps = [list(integers(entry) or ()) for entry in _setting(apply, "tap_array", [])]
    if len(taps) < mit_sot + sit_sot or any(not entry or max(entry) >= 0 for entry in taps):
        raise t.graph.fail(f"Scan {apply.label!r}", "its taps are not earlier steps")
    operands = iter(apply.inputs)
    steps = t.value(next(operands))
    sequences = [t.value(next(operands)) for _ in range(seqs)]
    recurrent = [_Recurrent(entry, _initial(t, next(operands), -min(entry))) for entry in taps[: mit_sot + sit_sot]]
    states = [t.value(next(operands)) for _ in range(shared)]
    for _ in range(nit_sot):
        next(operands)
    return _Plan(
        steps,
        sequences,
        recurrent,
        states,
        [t.value(variable) for variable in operands],
        t.graph.variables(apply.op.get("inputs"), "Scan"),
        t.graph.variables(apply.op.get("outputs"), "Scan"),
        nit_sot,
        bool(_setting(apply, "as_while")),
    )


def _initial(t: Translator, buffer: Variable, depth: int) -> Value:
    """Return the values that a buffer begins with: what was written to its front, or its front."""
    owner = buffer.owner
    if owner is not None and owner.op.kind == "IncSubtensor" and owner.op.get("set_instead_of_inc"):
        empty, entries = owner.inputs[0].owner, owner.op.get("idx_list")
        front = isinstance(entries, list | tuple) and len(entries) == 1 and isinstance(entries[0], slice)
        if empty is not None and empty.op.kind == "AllocEmpty" and front and entries[0].start is None:
            written = t.value(owner.inputs[1])
            t.sizes.unify(written.shape[0], Size.of(depth))
            if t.sizes.resolved(written.shape[0]).number == depth:
                return t.cast(written, onnx_dtype(buffer.dtype))
    stop = t.constant(np.int64(depth))
    return sliced(t, t.value(buffer), [(0, Bounds(None, stop, None))])


def scan(t: Translator, apply: Apply) -> list[Value]:
    """Translate ``Scan``."""
    plan = _plan(t, apply)
    for entry in plan.recurrent:
        entry.carried = [gathered(t, entry.initial, 0, t.constant(np.int64(place))) for place in range(entry.depth)]
    carried = [value for entry in plan.recurrent for value in entry.carried] + plan.shared
    given = [plan.steps, *plan.sequences, *carried, *plan.constants]
    home = t.home([t.constant(np.int64(0)), *given])
    with home.body() as body:
        outputs = _body(t, plan, carried, body)
        _pruned(body)
        graph = body.graph(f"{apply.label}_body")
    steps = t.cast(t.squeezed(plan.steps, *range(plan.steps.rank)), _INT)
    made = home.nodes_of(
        "Loop",
        [steps.name, t.constant(np.ones((), bool)).name, *[value.name for value in carried]],
        len(carried) + len(outputs),
        apply.outputs[0].name or "Scan",
        body=graph,
    )
    return _results(t, plan, home, carried, list(made), outputs)


def _body(t: Translator, plan: _Plan, carried: list[Value], body: Scope) -> list[Value]:
    """Fill the body; return what is collected of each step, by which the outputs of the loop are known."""
    t.enter(body)
    step = t.made(body.input("step", _INT, ()), _INT, (), body)
    going = body.input("going", bool, ())
    inside = []
    for value in carried:
        name = body.input("state", value.dtype, _declared(t, value.shape))
        inside.append(t.made(name, value.dtype, value.shape, body))
    states = iter(inside)
    for entry in plan.recurrent:
        entry.inside = [next(states) for _ in range(entry.depth)]
    outer, uses = t.values, t.uses
    t.values, t.uses = dict(zip(plan.inner_inputs, _inner(t, plan, step, list(states)), strict=True)), {}
    try:
        results = t.translate(plan.inner_outputs)
    finally:
        t.values, t.uses = outer, uses
    outputs = _body_outputs(t, plan, body, results, going)
    t.leave()
    return outputs


def _inner(t: Translator, plan: _Plan, step: Value, shared: list[Value]) -> list[Value]:
    """Return the values of the inner graph's inputs, in their order."""
    values = [gathered(t, sequence, 0, step) for sequence in plan.sequences]
    for entry in plan.recurrent:
        values += [entry.inside[entry.depth + tap] for tap in entry.taps]
    return [*values, *shared, *plan.constants]


def _body_outputs(t: Translator, plan: _Plan, body: Scope, results: list[Value], going: str) -> list[Value]:
    recurrent = results[: len(plan.recurrent)]
    singles = results[len(recurrent) : len(recurrent) + plan.collected]
    shared = results[len(recurrent) + plan.collected :][: len(plan.shared)]
    if plan.as_while:
        until = t.cast(results[-1], bool)
        going = body.node("Not", [t.squeezed(until, *range(until.rank)).name])
    body.output(body.node("Identity", [going]), bool, ())
    for entry, value in zip(plan.recurrent, recurrent, strict=True):
        first = entry.inside[-1]
        for own, size in zip(first.shape, value.shape, strict=True):
            t.sizes.unify(own, size)
        for state in [*entry.inside[1:], value]:
            held = t.held(t.cast(state, first.dtype), body)
            body.output(held.name, held.dtype, _declared(t, held.shape))
    for value in shared:
        held = t.held(value, body)
        body.output(held.name, held.dtype, _declared(t, held.shape))
    collected = [*recurrent, *singles]
    for value in collected:
        flat = _flat(t, value)
        held = t.held(flat, body)
        body.output(held.name, held.dtype, _declared(t, held.shape))
    return collected


def _flat(t: Translator, value: Value) -> Value:
    """Return the value of a step as a vector: the one rank that all runtimes put together in the same way."""
    if value.rank == 1 or not _can_be_flat(t, value):
        return value
    return t.reshaped(value, [product(value.shape)], t.numbers(-1))


def _can_be_flat(t: Translator, value: Value) -> bool:
    """Return whether the shape can be given back: at most one size is not computed outside of the loop."""
    return [t.computed(size) for size in value.shape].count(None) <= 1


def _declared(t: Translator, shape: tuple[Size, ...]) -> list[int | None]:
    return [t.sizes.resolved(size).number for size in shape]


def _pruned(body: Scope) -> None:
    needed = {value.name for value in body.outputs}
    kept: list[NodeProto] = []
    for node in reversed(body.nodes):
        if any(name in needed for name in node.output):
            kept.append(node)
            needed.update(used_names(node))
    body.nodes[:] = reversed(kept)


def _results(
    t: Translator, plan: _Plan, home: Scope, carried: list[Value], names: list[str], collected: list[Value]
) -> list[Value]:
    """Return the outputs of the scan: buffers, what was collected, and the shared states."""
    finals = [t.made(name, value.dtype, value.shape, home) for name, value in zip(names, carried, strict=False)]
    known = plan.steps.parts[0] if plan.steps.parts and not plan.as_while else None
    count = known if known is not None else t.sizes.fresh()
    whole = []
    for name, value in zip(names[len(carried) :], collected, strict=True):
        shape = [count, *value.shape]
        if value.rank == 1 or not _can_be_flat(t, value):
            whole.append(t.made(name, value.dtype, shape, home))
            continue
        flat = t.made(name, value.dtype, [count, product(value.shape)], home)
        whole.append(_unflat(t, flat, shape))
    made, place = [], 0
    for entry, steps in zip(plan.recurrent, whole, strict=False):
        place += entry.depth
        made.append(t.buffered(entry.initial, steps, finals[place - 1], entry.depth))
    return [*made, *whole[len(plan.recurrent) :], *finals[place:]]


def _unflat(t: Translator, flat: Value, shape: list[Size]) -> Value:
    """Return rows in the shape of what they were made of."""
    if len(shape) == 1:
        return t.squeezed(flat, 1)
    numbers = [t.sizes.resolved(size).number for size in shape[1:]]
    if numbers.count(None) <= 1:
        return t.op("Reshape", flat, t.numbers(0, *[-1 if n is None else n for n in numbers]), shape=shape)
    open_ = t.constant(np.int64(-1))
    sizes = [t.computed(size) or open_ for size in shape[1:]]
    return t.op("Reshape", flat, t.vector([t.constant(np.int64(0)), *sizes]), shape=shape)


def if_else(t: Translator, apply: Apply) -> list[Value]:
    """Translate ``IfElse``: both branches are computed outside of it, since Theano's graph shares them."""
    condition, *branches = [t.value(variable) for variable in apply.inputs]
    count = len(apply.outputs)
    chosen = t.number_of(condition)
    if chosen is not None:
        return branches[:count] if chosen else branches[count:]
    home = t.home([condition, *branches])
    graphs = []
    for values, name in ((branches[:count], "then"), (branches[count:], "else")):
        with home.body() as body:
            for value, variable in zip(values, apply.outputs, strict=True):
                wanted = t.cast(value, onnx_dtype(variable.dtype))
                body.output(body.node("Identity", [wanted.name]), wanted.dtype, _declared(t, wanted.shape))
            graphs.append(body.graph(f"{apply.label}_{name}"))
    test = t.cast(t.squeezed(condition, *range(condition.rank)), bool)
    names = home.nodes_of(
        "If", [test.name], count, apply.outputs[0].name or "If", then_branch=graphs[0], else_branch=graphs[1]
    )
    made = []
    for name, one, other in zip(names, branches[:count], branches[count:], strict=True):
        pairs = zip(one.shape, other.shape, strict=True)
        shape = [left if t.sizes.same(left, right) else t.sizes.fresh() for left, right in pairs]
        made.append(t.made(name, one.dtype, shape, home))
    return made


LOOPS: dict[str, Handler] = {"IfElse": if_else, "Scan": scan}
