"""Recurrent layers, whose sequences come with a mark for each element: whether it continues the one before it.

What a layer computes is the network that Caffe unrolls for it (``lstm_layer.cpp``, ``rnn_layer.cpp``). Between two runs
Caffe keeps the state; here every run begins with the state zero, as Caffe's first does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from portmatrix.converters.caffe import plan, sizes
from portmatrix.converters.caffe.dense import flattened
from portmatrix.converters.caffe.sizes import Size, number
from portmatrix.converters.caffe.step import Step, Value
from portmatrix.converters.network import Scope

Array = NDArray[Any]


class _Sequence:
    """The bottoms of a recurrent layer, checked: the sequence, its marks, and what may be given besides."""

    def __init__(self, step: Step, states: int, gates: int) -> None:
        self.step = step
        param = step.param("recurrent_param")
        self.hidden = param.whole("num_output")
        self.exposed = param.flag("expose_hidden")
        given = states if self.exposed else 0
        step.expect((2 + given, 3 + given), 1 + given)
        self.has_static = plan.has_static_input(step.spec)
        self.values, self.marks = step.bottoms[:2]
        if not self.hidden or self.values.rank < 2 or self.marks.rank != 2:
            raise step.wrong("needs num_output, a sequence (time, batch, ...) and marks (time, batch)")
        if sizes.declared(self.marks.shape) != sizes.declared(self.values.shape[:2]):
            raise step.wrong(
                f"its sequence is {sizes.shown(self.values.shape)} and its marks are {sizes.shown(self.marks.shape)}; "
                "the first two sizes must be the same"
            )
        self.time = step.fixed(self.values.shape[0], "the number of time steps")
        self.batch: Size = self.values.shape[1]
        self.inputs = step.fixed(sizes.count(self.values.shape[2:]), "the size of an element of the sequence")
        self.gates = gates
        self.states = step.bottoms[-given:] if given else ()
        for state in self.states:
            if sizes.declared(state.shape) != (1, self.batch.declared, self.hidden):
                raise step.wrong(f"its state must be 1 {self.batch.declared} {self.hidden}: {sizes.shown(state.shape)}")

    @property
    def shape(self) -> tuple[Size, ...]:
        """The shape of the states of all times."""
        return (number(self.time), self.batch, number(self.hidden))

    def blobs(self, *others: tuple[int, ...]) -> tuple[Array, Array, Array | None, list[Array]]:
        """Return the weights for the input, their bias, those for the static input, and the rest."""
        wide = self.gates * self.hidden
        static = []
        if self.has_static:
            static = [(wide, self.step.fixed(sizes.count(self.step.bottoms[2].shape[1:]), "the static input's size"))]
        found = self.step.blobs((wide, self.inputs), (wide,), *static, (wide, self.hidden), *others)
        return found[0], found[1], found[2] if static else None, found[3 if static else 2 :]

    def continues(self) -> bool:
        """Return whether every mark is known, and none but those of the first time begins a new sequence."""
        known = self.marks.constant
        return known is not None and known.shape[0] == self.time and bool((known[1:] == 1).all())

    def begun(self, state: Value | None) -> str:
        """Return the state before the first element as the marks leave it, of shape (1, batch, hidden)."""
        step = self.step
        if state is None:
            shape = (number(1), self.batch, number(self.hidden))
            if self.batch.fixed:
                return step.constant(np.zeros(sizes.declared(shape)), name="state")
            size = step.node("Shape", [self.values.name], start=1, end=2)
            whole = step.node("Concat", [step.integers(1), size, step.integers(self.hidden)], axis=0)
            return step.node("Expand", [step.constant(0.0), whole])
        if self.marks.constant is not None and bool((self.marks.constant[0] == 1).all()):
            return state.name
        first = step.node("Slice", [self.marks.name, step.integers(0), step.integers(1), step.integers(0)])
        return step.node("Mul", [state.name, step.node("Unsqueeze", [first, step.integers(2)])])

    def projected(self, weight: Array, bias: Array, static: Array | None) -> str:
        """Return what the input adds to each gate at each time: (time, batch, gates * hidden)."""
        step = self.step
        wide = number(self.gates * self.hidden)
        rows = flattened(step, self.values, 2)
        names = [rows.name, step.weight("input", weight), step.weight("bias", bias)]
        product = Value(step.node("Gemm", names, transB=1), (rows.shape[0], wide))
        added = step.reshape(product, (*self.shape[:2], wide)).name
        if static is None:
            return added
        columns = flattened(step, step.bottoms[2], 1)
        constant = step.node("Gemm", [columns.name, step.weight("static", static)], transB=1)
        return step.node("Add", [added, constant])


def _lstm(step: Step) -> list[Value]:
    sequence = _Sequence(step, states=2, gates=4)
    weight, bias, static, (recurrent,) = sequence.blobs()
    if sequence.continues() and static is None:
        return _plain_lstm(sequence, weight, bias, recurrent)
    states = sequence.states or (None, None)
    zeros = [sequence.begun(None) if state is None else state.name for state in states]
    added = sequence.projected(weight, bias, static)
    hidden, cell, everything = _scanned(sequence, added, zeros, recurrent)
    values = [step.result(everything, sequence.shape)]
    if sequence.exposed:
        values += [Value(name, (number(1), *sequence.shape[1:])) for name in (hidden, cell)]
    return values


def _plain_lstm(sequence: _Sequence, weight: Array, bias: Array, recurrent: Array) -> list[Value]:
    """Translate an LSTM whose sequences all begin at the first time: ONNX's own, with its order of the gates."""
    step, hidden = sequence.step, sequence.hidden
    rows = flattened(step, sequence.values, 2) if sequence.values.rank != 3 else None
    values = sequence.values
    if rows is not None:
        values = step.reshape(values, (*values.shape[:2], number(sequence.inputs)))
    order = np.r_[0:hidden, 2 * hidden : 3 * hidden, hidden : 2 * hidden, 3 * hidden : 4 * hidden]
    both = np.concatenate([bias[order], np.zeros(4 * hidden, np.float32)])
    inputs = [
        values.name,
        step.weight("input", weight[order][None]),
        step.weight("recurrent", recurrent[order][None]),
        step.weight("bias", both[None]),
    ]
    if sequence.states:
        inputs += ["", *(sequence.begun(state) for state in sequence.states)]
    outputs = 3 if sequence.exposed else 1
    made = step.network.nodes_of("LSTM", inputs, outputs, step.name("LSTM"), hidden_size=hidden)
    name = step.node("Squeeze", [made[0], step.integers(1)], 0)
    ends = [Value(end, (number(1), *sequence.shape[1:])) for end in made[1:]]
    return [step.result(name, sequence.shape), *ends]


def _scanned(sequence: _Sequence, added: str, states: list[str], recurrent: Array) -> tuple[str, str, str]:
    """Run one LSTM cell over the times; return the last states, (1, batch, hidden), and all hidden ones."""
    step = sequence.step
    weight = step.weight("recurrent", recurrent)
    batch = sequence.batch.dimension
    with step.network.body() as body:
        names = [f"{step.spec.name}/{name}" for name in ("h", "c", "gates", "mark")]
        wide = 4 * sequence.hidden
        h, c = (body.input(name, np.float32, [batch, sequence.hidden]) for name in names[:2])
        gates = body.input(names[2], np.float32, [batch, wide])
        mark = body.input(names[3], np.float32, [batch])
        new_h, new_c = _cell(step, body, (h, c, gates, mark), weight)
        body.output(new_h, np.float32, [batch, sequence.hidden])
        body.output(new_c, np.float32, [batch, sequence.hidden])
        body.output(new_h, np.float32, [batch, sequence.hidden], f"{step.spec.name}/every")
    flat = [step.node("Squeeze", [state, step.integers(0)]) for state in states]
    last_h, last_c, every = step.network.nodes_of(
        "Scan",
        [*flat, added, sequence.marks.name],
        3,
        step.name("Scan"),
        body=body.graph(f"{step.spec.name}/cell"),
        num_scan_inputs=2,
    )
    ends = [step.node("Unsqueeze", [end, step.integers(0)]) for end in (last_h, last_c)]
    return ends[0], ends[1], step.node("Identity", [every], 0)


def _cell(step: Step, body: Scope, inputs: tuple[str, str, str, str], weight: str) -> tuple[str, str]:
    """Add one LSTM cell, whose gates are input, forget, output and cell; the mark weighs what came before."""
    h, c, gates, mark = inputs
    own = f"{step.spec.name}/cell"
    factor = body.node("Unsqueeze", [mark, step.integers(1)], own)
    before = body.node("Mul", [h, factor], own)
    total = body.node("Gemm", [before, weight, gates], own, transB=1)
    i, f, o, g = body.nodes_of("Split", [total], 4, own, axis=1, num_outputs=4)
    i, f, o = (body.node("Sigmoid", [gate], own) for gate in (i, f, o))
    kept = body.node("Mul", [body.node("Mul", [factor, f], own), c], own)
    new_c = body.node("Add", [kept, body.node("Mul", [i, body.node("Tanh", [g], own)], own)], own)
    return body.node("Mul", [o, body.node("Tanh", [new_c], own)], own), new_c


def _rnn(step: Step) -> list[Value]:
    """Translate RNN: a hidden layer with tanh that feeds back, and a layer with tanh on top of it."""
    sequence = _Sequence(step, states=1, gates=1)
    size = sequence.hidden
    weight, bias, static, (recurrent, out, out_bias) = sequence.blobs((size, size), (size,))
    state = sequence.states[0].name if sequence.states else sequence.begun(None)
    added = sequence.projected(weight, bias, static)
    batch = sequence.batch.dimension
    recurrent_name = step.weight("recurrent", recurrent)
    own = f"{step.spec.name}/cell"
    with step.network.body() as body:
        h = body.input(f"{step.spec.name}/h", np.float32, [batch, size])
        gate = body.input(f"{step.spec.name}/gates", np.float32, [batch, size])
        mark = body.input(f"{step.spec.name}/mark", np.float32, [batch])
        before = body.node("Mul", [h, body.node("Unsqueeze", [mark, step.integers(1)], own)], own)
        new = body.node("Tanh", [body.node("Gemm", [before, recurrent_name, gate], own, transB=1)], own)
        body.output(new, np.float32, [batch, size])
        body.output(new, np.float32, [batch, size], f"{step.spec.name}/every")
    inputs = [step.node("Squeeze", [state, step.integers(0)]), added, sequence.marks.name]
    last, every = step.network.nodes_of("Scan", inputs, 2, step.name("Scan"), body=body.graph(own), num_scan_inputs=2)
    rows = flattened(step, Value(every, sequence.shape), 2)
    names = [rows.name, step.weight("output", out), step.weight("output_bias", out_bias)]
    flat = Value(step.node("Tanh", [step.node("Gemm", names, transB=1)]), rows.shape)
    values = [step.reshape(flat, sequence.shape, 0)]
    if sequence.exposed:
        values.append(Value(step.node("Unsqueeze", [last, step.integers(0)]), (number(1), *sequence.shape[1:])))
    return values


def _lstm_unit(step: Step) -> list[Value]:
    """Translate one step of an LSTM: cell, gates before their functions, marks -> cell, hidden state."""
    step.expect(3, 2)
    cell, gates, mark = step.bottoms
    hidden = step.fixed(cell.shape[-1], "the size of the cell")
    if cell.rank != 3 or sizes.declared(gates.shape) != (*sizes.declared(cell.shape[:2]), 4 * hidden) or mark.rank != 2:
        raise step.wrong("needs a cell (1, batch, size), gates (1, batch, 4 * size) and marks (1, batch)")
    factor = step.node("Unsqueeze", [mark.name, step.integers(2)])
    i, f, o, g = step.network.nodes_of("Split", [gates.name], 4, step.name("Split"), axis=2, num_outputs=4)
    i, f, o = (step.node("Sigmoid", [gate]) for gate in (i, f, o))
    kept = step.node("Mul", [step.node("Mul", [factor, f]), cell.name])
    new = step.node("Add", [kept, step.node("Mul", [i, step.node("Tanh", [g])])], 0)
    out = step.node("Mul", [o, step.node("Tanh", [new])], 1)
    return [step.result(new, cell.shape), step.result(out, cell.shape)]


TRANSLATIONS = {"LSTM": _lstm, "LSTMUnit": _lstm_unit, "RNN": _rnn}
