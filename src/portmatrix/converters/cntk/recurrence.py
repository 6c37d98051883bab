"""Recurrence along the time axis: the three named layers, and the loop that holds any other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import GraphProto

from portmatrix.converters.cntk.declarations import dtype_of
from portmatrix.converters.cntk.values import ONE, Count, Place, Shape, Value
from portmatrix.converters.errors import MalformedFile
from portmatrix.converters.network import Size

if TYPE_CHECKING:
    from portmatrix.converters.cntk.translator import Node, Rule, Translator

#: What each layer takes if no activations are given; some runtimes read no others.
_ACTIVATIONS = {"GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"], "RNN": ["Tanh"]}
_STATES = {"GRU": 1, "LSTM": 2, "RNN": 1}
_ZERO = ("clip", "input_forget", "linear_before_reset")


def _layer(translator: Translator, node: Node) -> Sequence[Value]:
    """An input of time x batch x features; outputs of time x directions x batch x units, and the last states."""
    names = list(node.inputs) + [""] * (8 - len(node.inputs))
    if len(names) > 8 or not all(names[:3]):
        raise MalformedFile(translator.file, f"node {node.name!r}", "expected an input, weights, and up to five more")
    if names[4]:
        raise node.cannot("it has the lengths of its sequences as an input")
    x = translator.alone(translator.value(names[0], node), node, 1)
    weights = [translator.value(name, node) if name else None for name in names[1:4]]
    if any(value is not None and value.place is not None for value in weights):
        raise node.cannot("its weights depend on the batch")
    states = [_initial(translator, node, name, x) for name in names[5 : 5 + _STATES[node.op]]]
    peepholes = [translator.value(names[7], node).name] if node.op == "LSTM" and names[7] else []
    inputs = [x.name, *(value.name if value else "" for value in weights), "", *states, *peepholes]
    while not inputs[-1]:
        inputs.pop()
    made = translator.scope.nodes_of(node.op, inputs, len(node.outputs), node.outputs[0], **_attributes(node))
    directions, units = _sizes_of(node, weights[1])
    translator.recurrent[made[0]] = (translator.scope.nodes[-1], node.attributes.get("direction", "forward"))
    place = x.place
    shapes: list[Shape] = [(x.shape[0], directions, x.shape[1], units), *[(directions, x.shape[1], units)] * 2]
    axes = (2, 1, 1)
    return [Value(name, shape, place and Place(axis)) for name, shape, axis in zip(made, shapes, axes, strict=False)]


def last_state(translator: Translator, value: Value, start: int, end: int, name: str) -> Value | None:
    """Return the last state of a recurrent layer, if that is what a slice of its output along time takes.

    The layer gives it anyway, and OpenVINO 2026.4 gets a backward layer wrong that shares its input with a forward one
    if whole sequences are read of both.
    """
    steps = value.origin or value
    layer, direction = translator.recurrent.get(steps.name, (None, ""))
    ends = {"forward": start == -1 and end > 0, "reverse": (start, end) == (0, 1)}
    if layer is None or not ends.get(direction) or steps.place != Place(2) or value.shape[0] != steps.shape[0]:
        return None
    if len(layer.output) == 1:
        layer.output.append(translator.network.unique(f"{layer.output[0]}.last"))
    elif not layer.output[1]:
        return None
    state = Value(layer.output[1], (ONE, *steps.shape[2:]), Place(1))
    return translator.reshaped(state, (ONE, *value.shape[1:]), name)


def _sizes_of(node: Node, recurrent: Value | None) -> tuple[Count, Count]:
    if recurrent is None or recurrent.rank != 3 or not recurrent.shape[0].known:
        raise node.cannot("its recurrent weights are not of three axes")
    return recurrent.shape[0], recurrent.shape[2]


def _initial(translator: Translator, node: Node, name: str, x: Value) -> str:
    """Return the first state for every sample; one of zeros is what a layer starts with anyway."""
    if not name:
        return ""
    value = translator.value(name, node)
    array = translator.array(value)
    if array is not None and not np.any(array):
        return ""
    if value.rank != 3:
        raise MalformedFile(translator.file, f"node {node.name!r}", f"a first state of {value.rank} axes; expected 3")
    if x.place is None or value.place is not None:
        return translator.alone(value, node, 1).name
    return translator.repeated(value, 1, node).name


def _attributes(node: Node) -> dict[str, Any]:
    kept = {name: node.attributes[name] for name in _ZERO if node.attributes.get(name)}
    direction = node.attributes.get("direction", "forward")
    functions = node.attributes.get("activations")
    usual = _ACTIVATIONS[node.op] * (2 if direction == "bidirectional" else 1)
    if functions is not None and [str(name).lower() for name in functions] != [name.lower() for name in usual]:
        kept["activations"] = functions
        kept.update({name: node.attributes.get(name) or None for name in ("activation_alpha", "activation_beta")})
    return {"hidden_size": node.attributes.get("hidden_size"), "direction": direction, **kept}


# --- Scan: the first states, then sequences; a body for one step


def _scan(translator: Translator, node: Node) -> Sequence[Value]:
    body = node.attributes.get("body")
    scanned = node.attributes.get("num_scan_inputs", 0)
    if not isinstance(body, GraphProto) or not 0 < scanned <= len(node.inputs) or len(body.input) != len(node.inputs):
        raise MalformedFile(translator.file, f"node {node.name!r}", "its body does not fit its inputs")
    if any(node.attributes.get(f"scan_{side}_axes") for side in ("input", "output")):
        raise node.cannot("it does not run along the first axis")
    given = translator.inputs(node, 1, 256)
    count = len(given) - scanned
    sequences = [translator.alone(value, node) for value in given[count:]]
    if any(value.rank == 0 or (value.place is not None and value.place.axis == 0) for value in sequences):
        raise node.cannot("it runs over the batch")
    any_batch = any(value.place is not None for value in given)
    states = [_state(translator, node, value, repeat=any_batch) for value in given[:count]]
    with translator.body(body, node) as scope:
        steps = [Value("", value.shape[1:], value.place and Place(value.place.axis - 1)) for value in sequences]
        for info, value in zip(body.input, [*states, *steps], strict=True):
            dtype = dtype_of(info, translator.file)
            own = scope.input(info.name, dtype, _sizes(value))
            translator.set(info.name, value._replace(name=own))
        translator.add_nodes(body.node)
        made = _body_outputs(translator, node, body, states)
        graph = scope.graph(body.name or "step")
    directions = {
        name: node.attributes[name]
        for name in ("scan_input_directions", "scan_output_directions")
        if any(node.attributes.get(name, ()))
    }
    inputs = [value.name for value in (*states, *sequences)]
    names = translator.scope.nodes_of(
        "Scan", inputs, len(made), node.outputs[0], body=graph, num_scan_inputs=scanned, **directions
    )
    return [*_results(names[:count], made[:count]), *_stacked(names[count:], made[count:], sequences[0].shape[0])]


def _state(translator: Translator, node: Node, value: Value, *, repeat: bool) -> Value:
    """Return a first state, which is constant as a rule, for every sample; its batch is its first axis."""
    if value.place is not None or not repeat:
        return translator.alone(value, node)
    if value.rank == 0:
        raise node.cannot("its first state has no axes")
    return translator.repeated(value, 0, node)


def _body_outputs(translator: Translator, node: Node, body: GraphProto, states: Sequence[Value]) -> list[Value]:
    """Make the body's outputs: the next states, which must be like those before, and what each step gives."""
    if len(body.output) < len(states):
        raise MalformedFile(translator.file, f"node {node.name!r}", "its body gives fewer states than it takes")
    made = []
    for number, info in enumerate(body.output):
        value = translator.alone(translator.value(info.name, node), node)
        if number < len(states) and (value.place, value.shape) != (states[number].place, states[number].shape):
            raise node.cannot(f"its state {info.name!r} is not for each sample what it was before")
        # An output must be made in the body, each by a node of its own.
        own = translator.scope.node("Identity", [value.name], name=f"{info.name}.step")
        translator.scope.output(own, dtype_of(info, translator.file), _sizes(value))
        made.append(value)
    return made


def _results(names: Sequence[str], values: Sequence[Value]) -> list[Value]:
    return [Value(name, value.shape, value.place) for name, value in zip(names, values, strict=True)]


def _stacked(names: Sequence[str], values: Sequence[Value], length: Count) -> list[Value]:
    return [
        Value(name, (length, *value.shape), value.place and Place(value.place.axis + 1))
        for name, value in zip(names, values, strict=True)
    ]


def _sizes(value: Value) -> list[Size]:
    batch = None if value.place is None else value.place.axis
    return [size.number if size.known and axis != batch else None for axis, size in enumerate(value.shape)]


RULES: dict[str, Rule] = {"GRU": _layer, "LSTM": _layer, "RNN": _layer, "Scan": _scan}
