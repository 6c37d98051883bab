"""Recurrent layers of Element-Research's and torch's rnn: whole sequences, and Sequencers of single steps.

What is ONNX's own RNN, LSTM or GRU becomes one; any other recurrent layer becomes a Scan over its step. Sequences are
time x batch x features, as in Torch7.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from portmatrix.converters.torch7.builder import Builder, Flow, Value, axis_of, translates
from portmatrix.converters.torch7.modules import Module
from portmatrix.converters.torch7.objects import Array
from portmatrix.converters.torch7.sizes import Mismatch, product, stated, written


class _Gates(NamedTuple):
    """The weights of ONNX's RNN, LSTM or GRU: gates in its order, one below the other."""

    operator: str
    hidden: int
    inputs: Array
    recurrent: Array
    bias: Array


def _no_mask(module: Module) -> None:
    if module.flag("maskzero") and module.raw("zeroMask") is not False:
        module.unsupported("steps of zeros start it anew (maskZero); separate the sequences before it instead")


def _columns(weight: Array, order: Sequence[int], hidden: int) -> Array:
    """Return blocks of columns in another order and as rows."""
    blocks = [weight[..., at * hidden : (at + 1) * hidden] for at in order]
    return np.asarray(np.concatenate(blocks, axis=-1).T)


def _lstm_gates(module: Module) -> _Gates:
    """Columns of the weight are input, forget, output gate and transform; rows the input, then the output before."""
    weight, bias = module.weight("weight"), module.weight("bias").reshape(-1)
    hidden = bias.size // 4
    if weight.ndim != 2 or weight.shape[1] != 4 * hidden or weight.shape[0] <= hidden:
        module.fault(f"its weight {list(weight.shape)} and bias {bias.size} do not belong together")
    inputs, order = weight.shape[0] - hidden, (0, 2, 1, 3)
    parts = [_columns(part, order, hidden) for part in (weight[:inputs], weight[inputs:], bias)]
    return _Gates("LSTM", hidden, *parts)


def _gru_gates(module: Module) -> _Gates:
    """Columns of the weight are reset gate, update gate and candidate."""
    weight, bias = module.weight("weight"), module.weight("bias").reshape(-1)
    hidden = bias.size // 3
    if weight.ndim != 2 or weight.shape[1] != 3 * hidden or weight.shape[0] <= hidden:
        module.fault(f"its weight {list(weight.shape)} and bias {bias.size} do not belong together")
    inputs, order = weight.shape[0] - hidden, (1, 0, 2)
    parts = [_columns(part, order, hidden) for part in (weight[:inputs], weight[inputs:], bias)]
    return _Gates("GRU", hidden, *parts)


def _fast_lstm_gates(module: Module) -> _Gates | None:
    """Return the weights of a FastLSTM: rows are input gate, transform, forget and output gate."""
    if module.kind != "FastLSTM" or module.raw("i2g") is None or module.raw("o2g") is None or module.flag("bn"):
        return None
    inputs, recurrent = module.field("i2g"), module.field("o2g")
    if not inputs.kind.startswith("Linear") or not recurrent.kind.startswith("Linear") or recurrent.raw("bias"):
        return None
    hidden, bias = inputs.weight("weight").shape[0] // 4, inputs.weight_or_none("bias")
    bias = np.zeros(4 * hidden, np.float32) if bias is None else bias.reshape(-1)
    parts = [
        _columns(part.T, (0, 3, 2, 1), hidden) for part in (inputs.weight("weight"), recurrent.weight("weight"), bias)
    ]
    return _Gates("LSTM", hidden, *parts)


def _native(builder: Builder, module: Module, value: Value, gates: _Gates, starts: Sequence[Value] = ()) -> Value:
    """Return the outputs of all steps of ONNX's RNN, LSTM or GRU."""
    builder.expect(module, value, 2, gates.inputs.shape[1])
    bias = np.concatenate([gates.bias, np.zeros_like(gates.bias)])
    names = {"W": gates.inputs, "R": gates.recurrent, "B": bias}
    inputs = [value.name, *(builder.weight(module, array[None], name) for name, array in names.items())]
    if starts:
        inputs.extend(["", *(builder.unsqueeze(start, 0).name for start in starts)])
    name = builder.nodes(gates.operator, inputs, 1, module.path, hidden_size=gates.hidden)[0]
    return builder.squeeze(Value(name, (value.sizes[0], 1, value.sizes[1], gates.hidden)), 1)


@translates("SeqLSTM", "SeqLSTMP")
def _seq_lstm(builder: Builder, module: Module, flow: Flow) -> Flow:
    """A table is {h0, x} or {c0, h0, x}; versions with ``remember_states`` are batch first."""
    return _sequence(builder, module, flow, lambda value, starts: _run_lstm(builder, module, value, starts))


def _run_lstm(builder: Builder, module: Module, value: Value, starts: list[Value]) -> Value:
    if module.weight_or_none("weightO") is not None:
        if starts:
            module.unsupported("it has a projection and gets a state from outside; only one of the two is possible")
        return _scan(builder, module, value, _Projected(module))
    if len(starts) == 1:
        zero = _zeros(builder, starts[0], starts[0].sizes[1:])
        starts = [zero, starts[0]]
    return _native(builder, module, value, _lstm_gates(module), starts[::-1])


@translates("SeqGRU")
def _seq_gru(builder: Builder, module: Module, flow: Flow) -> Flow:
    """A table is {h0, x}."""
    return _sequence(
        builder, module, flow, lambda value, starts: _native(builder, module, value, _gru_gates(module), starts)
    )


def _sequence(builder: Builder, module: Module, flow: Flow, run: Callable[[Value, list[Value]], Value]) -> Value:
    _no_mask(module)
    *starts, value = builder.tensors(module, flow) if isinstance(flow, list) else [builder.tensor(module, flow)]
    value = builder.real(builder.tensor(module, value, (3,)))
    first = module.flag("batchfirst") or module.raw("remember_states") is not None
    output = run(builder.transpose(value, (1, 0, 2)) if first else value, starts)
    return builder.transpose(output, (1, 0, 2)) if first else output


@translates("SeqBLSTM", "SeqBGRU", "SeqBRNN", "BiSequencer")
def _both_directions(builder: Builder, module: Module, flow: Flow) -> Flow:
    return builder.translate(module.first(), flow)


@translates("ReverseSequence", "SeqReverseSequence", "ReverseTable")
def _reverse(builder: Builder, module: Module, flow: Flow) -> Flow:
    if isinstance(flow, list):
        return flow[::-1]
    axis = axis_of(module, module.integer("dim", 1), flow.rank)
    bounds = [builder.constant([number], np.int64) for number in (-1, -(1 << 62), axis, -1)]
    return builder.same(module, "Slice", flow, *bounds)


@translates("ZipTable")
def _zip_table(builder: Builder, module: Module, flow: Flow) -> Flow:
    rows = [builder.table(module, part) for part in builder.table(module, flow)]
    if len({len(row) for row in rows}) != 1:
        raise Mismatch(f"layer {module.path!r} needs tables of one length")
    return [list(column) for column in zip(*rows, strict=True)]


@translates("Sequencer")
def _sequencer(builder: Builder, module: Module, flow: Flow) -> Flow:
    """A table of steps is stacked to a tensor, and its outputs taken apart again."""
    inner = module.first()
    if isinstance(flow, Value):
        return over_time(builder, inner, flow)
    if any(isinstance(part, list) for part in flow):
        if inner.kind in _CELLS:
            inner.unsupported("its steps are tables; join them to one tensor before it")
        return [builder.translate(inner, part) for part in flow]
    steps = [builder.unsqueeze(value, 0) for value in builder.tensors(module, flow)]
    if not steps:
        raise Mismatch(f"layer {module.path!r} gets an empty table")
    outputs = over_time(builder, inner, builder.concat(module, steps, 0))
    return [builder.select(outputs, 0, index) for index in range(len(steps))]


def over_time(builder: Builder, module: Module, value: Value) -> Value:
    """Return a layer's outputs for a sequence, step by step where it is recurrent, otherwise all steps at once."""
    if value.rank < 2:
        raise Mismatch(f"layer {module.path!r} needs time x batch x features, but gets {written(value.sizes)}")
    if module.kind == "Sequential":
        for child in module.children():
            value = over_time(builder, child, value)
        return value
    if module.kind in ("Recursor", "Decorator", "Serial", "DontCast"):
        return over_time(builder, module.first(), value)
    if module.kind in _CELLS:
        return _CELLS[module.kind](builder, module, value)
    merged = builder.reshape(value, (product(value.sizes[:2]), *value.sizes[2:]))
    output = builder.tensor(module, builder.translate(module, merged))
    return builder.unmerge(output, value, 2)


def _zeros(builder: Builder, like: Value, sizes: Sequence[object]) -> Value:
    """Return zeros for each sample of a batch."""
    numbers = [size for size in sizes if isinstance(size, int)]
    shape = builder.node("Shape", [like.name], end=1)
    shape = builder.node("Concat", [shape, builder.constant(numbers, np.int64)], axis=0)
    return Value(builder.node("ConstantOfShape", [shape]), (like.sizes[0], *numbers))


class _Cell:
    """One step of a recurrent layer: its first states for a batch, and outputs and next states for an input."""

    def __init__(self, module: Module) -> None:
        self.module = module

    def states(self, builder: Builder, sample: Value) -> list[Value]:
        """Return the states before the first step."""
        raise NotImplementedError

    def step(self, builder: Builder, value: Value, states: list[Value]) -> tuple[Value, list[Value]]:
        """Return the output of a step and the states after it."""
        raise NotImplementedError


class _Table(_Cell):
    """A layer that reads {input, state, …} and gives its output, or {output, further states …}."""

    def __init__(self, module: Module, sizes: Sequence[Sequence[int]]) -> None:
        super().__init__(module)
        self._sizes = sizes

    def states(self, builder: Builder, sample: Value) -> list[Value]:
        return [_zeros(builder, sample, sizes) for sizes in self._sizes]

    def step(self, builder: Builder, value: Value, states: list[Value]) -> tuple[Value, list[Value]]:
        inner = self.module.first()
        output = builder.translate(inner, [value, *states])
        parts = builder.tensors(inner, output) if isinstance(output, list) else [output]
        if len(parts) != len(self._sizes):
            raise Mismatch(f"layer {inner.path!r} should give {len(self._sizes)} tensors, but gives {len(parts)}")
        return parts[0], parts


class _Projected(_Cell):
    """An LSTM whose output is a product of its hidden values: the step that ONNX's LSTM does not have."""

    def states(self, builder: Builder, sample: Value) -> list[Value]:
        projection = self.module.weight("weightO")
        return [_zeros(builder, sample, (size,)) for size in projection.shape[::-1]]

    def step(self, builder: Builder, value: Value, states: list[Value]) -> tuple[Value, list[Value]]:
        module = self.module
        hidden = module.weight("weightO").shape[0]
        weight, bias = module.weight("weight"), module.weight("bias").reshape(-1)
        if weight.ndim != 2 or weight.shape[1] != 4 * hidden or bias.size != 4 * hidden:
            module.fault(f"its weight {list(weight.shape)} does not suit {hidden} hidden values")
        both = builder.concat(module, [value, states[0]], 1)
        builder.expect(module, both, 1, weight.shape[0])
        names = [both.name, builder.weight(module, weight, "weight"), builder.weight(module, bias, "bias")]
        gates = Value(builder.node("Gemm", names), (value.sizes[0], 4 * hidden))
        parts = [builder.narrow(gates, 1, at * hidden, hidden) for at in range(4)]
        i, f, o = (builder.same(module, "Sigmoid", part) for part in parts[:3])
        g = builder.same(module, "Tanh", parts[3])
        kept, new = builder.same(module, "Mul", f, states[1].name), builder.same(module, "Mul", i, g.name)
        cell = builder.same(module, "Add", kept, new.name)
        output = builder.same(module, "Mul", o, builder.same(module, "Tanh", cell).name)
        projection = builder.weight(module, module.weight("weightO"), "weightO")
        name = builder.node("MatMul", [output.name, projection])
        result = Value(name, (value.sizes[0], module.weight("weightO").shape[1]))
        return result, [result, cell]


def _scan(builder: Builder, module: Module, value: Value, cell: _Cell, starts: list[Value] | None = None) -> Value:
    """Return the outputs of all steps, by a Scan over time."""
    starts = (
        cell.states(builder, Value(value.name, value.sizes[1:]) if builder.trial else _first_step(builder, value))
        if starts is None
        else starts
    )
    if builder.trial:
        output, _ = cell.step(builder, Value(value.name, value.sizes[1:]), starts)
        return Value(output.name, (value.sizes[0], *output.sizes))
    with builder.scope.body() as body, builder.inside(body):
        states = [Value(body.input("state", np.float32, stated(s.sizes)), s.sizes) for s in starts]
        step = Value(body.input("step", np.float32, stated(value.sizes[1:])), value.sizes[1:])
        output, after = cell.step(builder, step, states)
        for state, old in zip(after, starts, strict=True):
            body.output(state.name, np.float32, stated(old.sizes), "next_state")
        body.output(output.name, np.float32, stated(output.sizes), "step_output")
    names = builder.nodes(
        "Scan",
        [*(s.name for s in starts), value.name],
        len(starts) + 1,
        module.path,
        body=body.graph(module.path),
        num_scan_inputs=1,
    )
    return Value(names[-1], (value.sizes[0], *output.sizes))


def _first_step(builder: Builder, value: Value) -> Value:
    return builder.select(value, 0, 0)


def _recurrence(builder: Builder, module: Module, value: Value) -> Value:
    """A LinearRNN (JoinTable, Linear, activation) becomes ONNX's RNN."""
    inner = module.first()
    if inner.kind in ("StepLSTM", "StepGRU"):
        return _step_cell(builder, module, value)
    kinds = [child.kind for child in inner.children()] if inner.kind == "Sequential" else []
    activations = {"Tanh": "Tanh", "Sigmoid": "Sigmoid", "ReLU": "Relu"}
    if kinds[:2] == ["JoinTable", "Linear"] and len(kinds) == 3 and kinds[2] in activations and value.rank == 3:
        matrix = list(inner.children())[1]
        weight, bias = matrix.weight("weight"), matrix.weight_or_none("bias")
        hidden = weight.shape[0]
        inputs = weight.shape[1] - hidden
        bias = np.zeros(hidden, np.float32) if bias is None else bias
        builder.expect(module, value, 2, inputs)
        arrays = {"W": weight[:, :inputs], "R": weight[:, inputs:], "B": np.concatenate([bias, np.zeros_like(bias)])}
        names = [value.name, *(builder.weight(module, array[None], name) for name, array in arrays.items())]
        name = builder.node(
            "RNN",
            names,
            module.path,
            hidden_size=hidden,
            activations=None if kinds[2] == "Tanh" else [activations[kinds[2]]],
        )
        return builder.squeeze(Value(name, (value.sizes[0], 1, value.sizes[1], hidden)), 1)
    size = module.raw("outputSize")
    sizes = [module.integer("outputSize")] if isinstance(size, int) else module.sizes("outputSize")
    return _scan(builder, module, value, _Table(module, [sizes]))


def _step_cell(builder: Builder, module: Module, value: Value) -> Value:
    inner = module.first()
    _no_mask(module)
    _no_mask(inner)
    builder.tensor(module, value, (3,))
    if inner.kind == "StepGRU":
        return _native(builder, inner, value, _gru_gates(inner))
    return _run_lstm(builder, inner, value, [])


def _long_short(builder: Builder, module: Module, value: Value) -> Value:
    gates = _fast_lstm_gates(module)
    builder.tensor(module, value, (3,))
    if gates is not None:
        return _native(builder, module, value, gates)
    hidden = module.integer("outputSize")
    return _scan(builder, module, value, _Table(module, [[hidden], [hidden]]))


def _gated(builder: Builder, module: Module, value: Value) -> Value:
    builder.tensor(module, value, (3,))
    return _scan(builder, module, value, _Table(module, [[module.integer("outputSize")]]))


class _Feedback(_Cell):
    """A step of nn.Recurrent: transfer(merge{input(x), feedback(h)})."""

    def step(self, builder: Builder, value: Value, states: list[Value]) -> tuple[Value, list[Value]]:
        module = self.module.field("recurrentModule")
        output = builder.tensor(module, builder.translate(module, [value, states[0]]))
        return output, [output]


def _recurrent(builder: Builder, module: Module, value: Value) -> Value:
    """The first step of nn.Recurrent is another layer, so it stands before the Scan."""
    if not isinstance(value.sizes[0], int) or value.sizes[0] > 1:
        initial = module.field("initialModule")
        first = builder.tensor(initial, builder.translate(initial, builder.select(value, 0, 0)))
        bounds = [builder.constant([number], np.int64) for number in (1, 1 << 62, 0)]
        left = value.sizes[0] - 1 if isinstance(value.sizes[0], int) else value.sizes[0]
        rest = Value(builder.node("Slice", [value.name, *bounds]), (left, *value.sizes[1:]))
        outputs = _scan(builder, module, rest, _Feedback(module), [first])
        joined = builder.concat(module, [builder.unsqueeze(first, 0), outputs], 0)
        return Value(joined.name, (value.sizes[0], *first.sizes))
    initial = module.field("initialModule")
    return builder.unsqueeze(builder.tensor(initial, builder.translate(initial, builder.select(value, 0, 0))), 0)


_CELLS: dict[str, Callable[[Builder, Module, Value], Value]] = {
    "Recurrence": _recurrence,
    "LinearRNN": _recurrence,
    "RecLSTM": _step_cell,
    "RecGRU": _step_cell,
    "LSTM": _long_short,
    "FastLSTM": _long_short,
    "GRU": _gated,
    "Recurrent": _recurrent,
}
#: Layers of single steps: they have a meaning inside a Sequencer.
STEP_LAYERS = tuple(_CELLS)
