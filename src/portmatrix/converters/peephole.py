"""Rearrangements that undo each other are taken out of a network.

Systems that keep time before features turn every sequence round before a layer and back behind it. Runtimes take such
pairs out themselves, and one was seen to compute nonsense then: OpenVINO 2026.4 for Conv, Transpose, Relu, Transpose,
MaxPool of fixed shape.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from onnx import NodeProto

from portmatrix.converters.nodes import used_names

#: Operators that compute each element of their first input by itself.
_ELEMENTWISE = frozenset(
    {"Abs", "Cast", "Clip", "Elu", "Erf", "Exp", "HardSigmoid", "HardSwish", "LeakyRelu", "Log", "Neg", "Reciprocal"}
    | {"Relu", "Selu", "Sigmoid", "Sign", "Softplus", "Softsign", "Sqrt", "Tanh", "ThresholdedRelu"}
)


def without_transposes(nodes: Sequence[NodeProto], outputs: Iterable[str]) -> list[NodeProto]:
    """Return the nodes of a graph less the pairs of Transpose that undo each other, elementwise ones between or not.

    ``outputs`` are the graph's own. Nodes that stay may be changed.
    """
    made_by = {name: node for node in nodes for name in node.output}
    uses = Counter(outputs)
    for node in nodes:
        uses.update(used_names(node))
    dropped: set[int] = set()
    for node in nodes:
        if node.op_type != "Transpose" or id(node) in dropped:
            continue
        chain = _chain_before(node, made_by, uses)
        if chain is None:
            continue
        first, between = chain
        if not _undo(first, node) or id(first) in dropped:
            continue
        if between:
            between[-1].input[0] = first.input[0]
            made_by[node.output[0]] = between[0]
            between[0].output[0] = node.output[0]
        else:
            node.op_type = "Identity"
            del node.attribute[:]
            node.input[0] = first.input[0]
            uses[first.input[0]] += 1
        dropped.update({id(first)} if not between else {id(first), id(node)})
    return [node for node in nodes if id(node) not in dropped]


def _chain_before(
    node: NodeProto, made_by: Mapping[str, NodeProto], uses: Mapping[str, int]
) -> tuple[NodeProto, list[NodeProto]] | None:
    """Return the Transpose before ``node`` and the elementwise nodes between, last first, if nobody else reads them."""
    between: list[NodeProto] = []
    while (before := made_by.get(node.input[0])) is not None and uses[node.input[0]] == 1:
        if before.op_type == "Transpose":
            return before, between
        if before.op_type not in _ELEMENTWISE or len(before.output) != 1:
            return None
        between.append(before)
        node = before
    return None


def _undo(first: NodeProto, second: NodeProto) -> bool:
    one, other = (
        next((list(item.ints) for item in node.attribute if item.name == "perm"), []) for node in (first, second)
    )
    return len(one) == len(other) > 0 and [one[axis] for axis in other] == list(range(len(one)))
