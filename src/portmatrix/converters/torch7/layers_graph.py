"""nngraph's gModule: a graph of nodes that hand tensors on to their children (gmodule.lua)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from portmatrix.converters.torch7.builder import Builder, Flow, translates
from portmatrix.converters.torch7.modules import Module
from portmatrix.converters.torch7.objects import Object, Table
from portmatrix.converters.torch7.sizes import Mismatch


class Node(NamedTuple):
    """A node: the table that identifies it, its children's tables, and its layer if it has one."""

    data: Table
    children: list[Table]
    layer: Module | None


def nodes(module: Module) -> Iterator[Node]:
    """Yield the graph's nodes in the order in which they are run. Raises ``ConversionError`` if it has none."""
    listed = module.raw("forwardnodes")
    if not isinstance(listed, Table):
        module.fault("it has no list of nodes (forwardnodes)")
    for number, found in enumerate(listed, 1):
        data = _data(module, found)
        children = found.fields.get("children") if isinstance(found, Object) else None
        layer = data.get("module")
        yield Node(
            data,
            [_data(module, child) for child in children] if isinstance(children, Table) else [],
            None if layer is None else module.child(layer, str(number)),
        )


def _data(module: Module, node: object) -> Table:
    data = node.fields.get("data") if isinstance(node, Object) else None
    if not isinstance(data, Table):
        module.fault("one of its nodes has no data")
    return data


def ends(module: Module) -> tuple[Table, Table]:
    """Return the tables of the node that takes the inputs and of the node that collects the outputs."""
    return _data(module, module.raw("innode")), _data(module, module.raw("outnode"))


def _position(module: Module, data: Table, key: Table) -> int:
    """Return the number that a node's ``mapindex`` has for another node."""
    index = data.get("mapindex")
    number = index.get(key) if isinstance(index, Table) else None
    if not isinstance(number, int) or not 1 <= number <= 1 << 16:
        module.fault("one of its nodes does not know the number of an input")
    return number


def input_count(module: Module) -> int:
    """Return how many inputs the graph has."""
    index = ends(module)[0].get("mapindex")
    return len(index) if isinstance(index, Table) else 1


@translates("gModule")
def _graph(builder: Builder, module: Module, flow: Flow) -> Flow:
    start, end = ends(module)
    given = [flow] if input_count(module) <= 1 else builder.table(module, flow)
    waiting: dict[Table, dict[int, Flow]] = {}
    for node in nodes(module):
        if node.data is start:
            _hand_out(module, node, given, waiting)
            continue
        inputs = waiting.get(node.data, {})
        if node.data is end:
            break
        if inputs:
            _hand_on(module, node, _output(builder, module, node, _joined(inputs)), waiting)
    found = waiting.get(end, {})
    if not found:
        module.fault("no node gives its output")
    return _joined(found)


def _joined(inputs: dict[int, Flow]) -> Flow:
    listed = [inputs[number] for number in sorted(inputs)]
    return listed[0] if len(listed) == 1 else listed


def _hand_out(module: Module, node: Node, given: list[Flow], waiting: dict[Table, dict[int, Flow]]) -> None:
    for child in node.children:
        number = _position(module, node.data, child)
        if number > len(given):
            raise Mismatch(f"layer {module.path!r} needs {number} inputs, but gets {len(given)}")
        place = waiting.setdefault(child, {})
        place[len(place) + 1] = given[number - 1]


def _hand_on(module: Module, node: Node, flow: Flow, waiting: dict[Table, dict[int, Flow]]) -> None:
    for child in node.children:
        waiting.setdefault(child, {})[_position(module, child, node.data)] = flow


def _output(builder: Builder, module: Module, node: Node, flow: Flow) -> Flow:
    if node.layer is not None:
        return builder.translate(node.layer, flow)
    if node.data.get("criterion") is not None:
        module.unsupported("it contains a criterion, which has no meaning after training")
    index = node.data.get("selectindex")
    if index is None:
        return flow
    parts = builder.table(module, flow)
    if not isinstance(index, int) or not 1 <= index <= len(parts):
        raise Mismatch(f"layer {module.path!r} selects part {index} of a table of {len(parts)}")
    return parts[index - 1]
