"""What a node of ONNX reads, the bodies of loops and conditions included."""

from __future__ import annotations

from collections.abc import Iterator

from onnx import NodeProto


def used_names(node: NodeProto) -> Iterator[str]:
    """Yield the names of all values that a node reads, those that its bodies read from outside included."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            for inner in graph.node:
                yield from used_names(inner)
            yield from (value.name for value in graph.output)
