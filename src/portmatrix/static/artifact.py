"""What an artifact asks of a runtime: its operators, and the versions of what it is written in.

Run as a program, with the artifact's file and its format, so that the engine itself loads no model. It prints JSON:
``versions`` (name to version), ``operators`` (domain, name, the opset in which it is used, the opset since which it is
what it is there, whether ONNX knows it as a function of others) and ``custom`` (operators that a format leaves to
whoever runs it).
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx
from onnx import defs

#: How ``kernels`` names ONNX's own domain, which in files has an empty name, and the version of the file itself.
ONNX_DOMAIN, IR = "ai.onnx", "IR"


def needs(file: Path, format: str) -> dict[str, Any]:
    """Return what the artifact asks for; ``read`` is False for a format that nobody reads here."""
    if format == "onnx":
        return {"read": True, **_onnx_needs(onnx.load(str(file), load_external_data=False))}
    custom = custom_operators(file.read_bytes()) if format == "tflite" else []
    return {"read": format == "tflite", "versions": {}, "operators": [], "custom": custom}


# --- ONNX -----------------------------------------------------------------------------------------------------------


def _onnx_needs(model: onnx.ModelProto) -> dict[str, Any]:
    """Return the needs of a model; a function that it defines itself needs no kernel, what it is made of does."""
    versions = _opsets(model.opset_import)
    functions = {(item.domain or ONNX_DOMAIN, item.name): item for item in model.functions}
    todo = [(model.graph.node, versions)]
    expanded: set[tuple[str, str]] = set()
    used: set[tuple[str, str, int]] = set()
    while todo:
        for one in _used(*todo.pop()):
            if one[:2] not in functions:
                used.add(one)
            elif one[:2] not in expanded:
                expanded.add(one[:2])
                todo.append((functions[one[:2]].node, _opsets(functions[one[:2]].opset_import)))
    operators = [_described(*one) for one in sorted(used)]
    return {"versions": {IR: model.ir_version, **versions}, "operators": operators, "custom": []}


def _opsets(imported: Iterable[onnx.OperatorSetIdProto]) -> dict[str, int]:
    return {item.domain or ONNX_DOMAIN: item.version for item in imported}


def _used(nodes: Iterable[onnx.NodeProto], opsets: Mapping[str, int]) -> Iterator[tuple[str, str, int]]:
    """Yield domain, name and opset of every node, those in the bodies of control flow included."""
    for node in nodes:
        domain = node.domain or ONNX_DOMAIN
        yield domain, node.op_type, opsets.get(domain, 0)
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _used(graph.node, opsets)


def _described(domain: str, name: str, opset: int) -> dict[str, Any]:
    """Return an operator with what ONNX knows of it: since when it is as it is in that opset; None if it knows none."""
    own = "" if domain == ONNX_DOMAIN else domain
    try:
        schema: Any = defs.get_schema(name, max_inclusive_version=opset, domain=own)
    except defs.SchemaError:
        return {"domain": domain, "name": name, "opset": opset, "since": None, "function": False}
    function = schema.has_function or schema.has_context_dependent_function
    return {"domain": domain, "name": name, "opset": opset, "since": schema.since_version, "function": function}


# --- TensorFlow Lite ------------------------------------------------------------------------------------------------

# A file is a FlatBuffer: tables, of which a vtable says where each field lies (0: it is not there), and vectors, which
# begin with their length. In tensorflow/lite/schema/schema.fbs the operator codes are field 1 of the model, and the
# name of a custom operator is field 1 of an operator code.
_OPERATOR_CODES, _CUSTOM_CODE = 1, 1


def custom_operators(data: bytes) -> list[str]:
    """Return the names of the operators that a TFLite file uses and TFLite does not define, in order of their names.

    Those that begin with ``Flex`` are TensorFlow's own. Raises ``ValueError`` for what is no TFLite file.
    """
    if data[4:8] != b"TFL3":
        raise ValueError("no TFLite file: its identifier is not TFL3")
    try:
        codes = _field(data, _number(data, 0, "<I"), _OPERATOR_CODES)
        if codes is None:
            return []
        start = codes + _number(data, codes, "<I")
        tables = (start + 4 + 4 * index for index in range(_number(data, start, "<I")))
        names = (_field(data, table + _number(data, table, "<I"), _CUSTOM_CODE) for table in tables)
        return sorted({_text(data, place) for place in names if place is not None})
    except struct.error as error:
        raise ValueError(f"no whole TFLite file: {error}") from error


def _field(data: bytes, table: int, index: int) -> int | None:
    """Return where a field of the table lies, or None if it is not there."""
    vtable = table - _number(data, table, "<i")
    entry = 4 + 2 * index
    offset = _number(data, vtable + entry, "<H") if entry < _number(data, vtable, "<H") else 0
    return table + offset if offset else None


def _text(data: bytes, place: int) -> str:
    start = place + _number(data, place, "<I")
    return data[start + 4 : start + 4 + _number(data, start, "<I")].decode("utf-8", errors="replace")


def _number(data: bytes, place: int, kind: str) -> int:
    if place < 0:
        raise struct.error(f"offset {place}")
    return int(struct.unpack_from(kind, data, place)[0])


if __name__ == "__main__":
    json.dump(needs(Path(sys.argv[1]), sys.argv[2]), sys.stdout)
