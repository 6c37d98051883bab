"""Turns the network in a .t7 file into an ONNX network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from portmatrix.converters.errors import ConversionError
from portmatrix.converters.network import Network
from portmatrix.converters.torch7 import (  # noqa: F401 - the modules of layers fill the table of translations
    layers_containers,
    layers_convolution,
    layers_elementwise,
    layers_graph,
    layers_linear,
    layers_normalization,
    layers_pooling,
    layers_recurrent,
    layers_shapes,
)
from portmatrix.converters.torch7.builder import Builder, Flow, Value
from portmatrix.converters.torch7.inputs import Found, Given, Spec, candidates, given, probe, sizes_of
from portmatrix.converters.torch7.modules import Module, describe
from portmatrix.converters.torch7.objects import Object, Table
from portmatrix.converters.torch7.sizes import Mismatch, SizeNeeded, stated, written

_ASK = "Give the shape of one input with --input-shape, as batch,3,224,224"


def find_network(held: Any) -> Module:
    """Return the network that a file holds: itself, or the only layer in a table. Raises ``ConversionError``."""
    if isinstance(held, Table):
        layers = [value for value in held.items.values() if isinstance(value, Object)]
        named = [held.get(name) for name in ("model", "net", "network") if isinstance(held.get(name), Object)]
        found = named or layers
        if len(found) == 1 or named:
            return Module(found[0], "")
        raise ConversionError(f"the file holds a table with {len(layers)} objects; save the network alone (torch.save)")
    if not isinstance(held, Object):
        raise ConversionError(f"the file should hold a network, but it holds {describe(held)}")
    return Module(held, "")


def build(module: Module, name: str, input_shapes: Sequence[Sequence[Given]]) -> Network:
    """Return the ONNX network. Raises ``Unsupported`` for a layer that has no translation."""
    found = probe(module)
    parts = found if isinstance(found, list) and len(found) == len(input_shapes) else [found] * len(input_shapes)
    shapes = zip(input_shapes, parts, strict=True)
    specs = [given(shape, part) for shape, part in shapes] if input_shapes else _listed(found)
    if not specs:
        raise ConversionError(f"the first layers of the network do not tell the shape of its input. {_ASK}")
    note = ""
    if not input_shapes:
        specs, note = _fitting(module, specs)
    network = Network(name, f"Torch7 (.t7){note}")
    try:
        _walk(Builder(network, trial=False), module, specs)
    except (Mismatch, SizeNeeded) as error:
        raise ConversionError(f"an input {_text(specs)} does not suit the network: {error}. {_ASK}") from error
    return network


def _listed(found: Found) -> list[Spec]:
    if isinstance(found, Spec):
        return [found]
    if isinstance(found, list) and found and all(isinstance(part, Spec) for part in found):
        return [part for part in found if isinstance(part, Spec)]
    return []


def _text(specs: Sequence[Spec]) -> str:
    return " and ".join(written(sizes_of(spec)) for spec in specs)


def _fitting(module: Module, specs: list[Spec]) -> tuple[list[Spec], str]:
    """Return the inputs with numbers where the network needs them, and a note on how they were found.

    A network that works for every size keeps its sizes open. Otherwise the first size that fits is taken; one that
    contradicts what pooling layers remember of their last input is only taken if no other fits.
    """
    try:
        _walk(Builder(Network("trial", ""), trial=True), module, specs)
    except SizeNeeded:
        pass
    except Mismatch as error:
        raise ConversionError(f"an input {_text(specs)} does not suit the network: {error}. {_ASK}") from error
    else:
        return specs, ""
    second = None
    last: ConversionError | None = None
    for tried in candidates(specs):
        builder = Builder(Network("trial", ""), trial=True)
        try:
            _walk(builder, module, tried)
        except (Mismatch, SizeNeeded) as error:
            last = error
            continue
        if not builder.contradictions:
            return tried, f"; the input's size was chosen to fit: {_text(tried)}"
        second = second or tried
    if second is not None:
        return second, f"; the input's size was chosen to fit: {_text(second)}"
    raise ConversionError(
        f"no square input up to 512 that is {_text(specs)} suits the network; at last: {last}. {_ASK}"
    )


def _walk(builder: Builder, module: Module, specs: Sequence[Spec]) -> None:
    """Add inputs, all layers and outputs to the network."""
    flows: list[Flow] = []
    for number, spec in enumerate(specs, 1):
        name = "input" if len(specs) == 1 else f"input{number}"
        sizes = sizes_of(spec)
        if not builder.trial:
            name = builder.network.input(name, np.int64 if spec.whole else np.float32, stated(sizes))
        flows.append(Value(name, sizes, spec.whole))
    outputs = _flat(builder.translate(module, flows[0] if len(flows) == 1 else flows))
    if not outputs:
        raise ConversionError("the network gives an empty table")
    if builder.trial:
        return
    for number, value in enumerate(outputs, 1):
        name = "output" if len(outputs) == 1 else f"output{number}"
        builder.network.output(value.name, np.int64 if value.whole else np.float32, stated(value.sizes), name)


def _flat(flow: Flow) -> list[Value]:
    if isinstance(flow, Value):
        return [flow]
    return [value for part in flow for value in _flat(part)]


def file_name(file: Path) -> str:
    """Return the name of the ONNX graph: the file's, without its suffix."""
    return file.stem or "network"
