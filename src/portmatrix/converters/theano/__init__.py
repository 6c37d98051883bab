"""Theano's symbolic graphs, pickled, to ONNX; Theano itself is not needed."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from onnx import helper

from portmatrix.converters.errors import ConversionError, MalformedFile
from portmatrix.converters.network import BATCH, Network, Written
from portmatrix.converters.theano.graph import Graph
from portmatrix.converters.theano.inputs import Model, load
from portmatrix.converters.theano.sizes import Size, Sizes
from portmatrix.converters.theano.table import TABLE
from portmatrix.converters.theano.translator import Translator

READS: tuple[str, ...] = (
    "MODEL.pkl (pickled by Theano 1.0: (inputs, outputs), {'inputs': ..., 'outputs': ...}, or a theano.function)",
)

_SUFFIXES = {".pkl", ".pickle", ".p", ".theano", ".save", ".gz", ".zip", ".f"}
_LOOKED_AT = 1 << 16
#: How often the graph is translated anew when sizes of inputs have become known.
_PASSES = 4
#: What a damaged graph may end in where no check stands in the way.
_DAMAGE = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
    StopIteration,
)


def recognizes(files: Sequence[Path]) -> bool:
    """Return whether ``files`` is one pickle that names Theano's classes near its beginning, or a dump of Theano's."""
    if len(files) != 1 or not files[0].is_file():
        return False
    with files[0].open("rb") as stream:
        start = stream.read(_LOOKED_AT)
    if start[:2] == b"\x1f\x8b":
        return files[0].suffix.lower() in _SUFFIXES and ".pkl" in files[0].name
    if start[:4] == b"PK\x03\x04":
        return _is_dump(files[0])
    return b"theano" in start and (start[:1] in b"\x80(c}]ild" or files[0].suffix.lower() in _SUFFIXES)


def _is_dump(file: Path) -> bool:
    try:
        with zipfile.ZipFile(file) as archive:
            return "pkl" in archive.namelist()
    except (OSError, zipfile.BadZipFile, ValueError):
        return False


def convert(
    files: Sequence[Path],
    output: Path,
    *,
    batch: int | None = None,
    opset: int | None = None,
    input_shapes: Mapping[str, Sequence[int | None]] | None = None,
) -> Written:
    """Convert one pickled graph and return what was written to ``output``.

    ``input_shapes`` gives sizes of the inputs' axes, which Theano's types do not tell, by the inputs' names; the first
    one is the batch and may be None. Raises ``ConversionError``.
    """
    if len(files) != 1:
        raise ConversionError(f"one pickle of a Theano graph is read; {len(files)} files were given")
    try:
        network = _network(files[0], input_shapes or {})
    except _DAMAGE as error:
        raise MalformedFile(files[0].name, "the graph", f"its parts do not fit together ({error!r})") from error
    return network.save(output, batch=batch, opset=opset)


def _network(file: Path, shapes: Mapping[str, Sequence[int | None]]) -> Network:
    """Return the network of a file, translated anew as long as sizes of inputs become known."""
    graph = Graph(file.name)
    model = load(file, graph)
    known = _given(model, shapes)
    for _ in range(_PASSES):
        network, found = _translated(model, graph, file.name, known)
        if found == known:
            break
        known = found
    return network


def _given(model: Model, shapes: Mapping[str, Sequence[int | None]]) -> dict[str, int]:
    """Return the sizes that are given, by the names of the unknowns that they are of."""
    known = {}
    for name, shape in shapes.items():
        if name not in model.input_names:
            names = ", ".join(model.input_names)
            raise ConversionError(f"input_shapes names {name!r}; the inputs are {names}")
        variable = model.inputs[model.input_names.index(name)]
        if len(shape) != variable.rank:
            raise ConversionError(f"input {name!r} has {variable.rank} axes; input_shapes gives {len(shape)} sizes")
        known.update({f"{name}.{axis}": size for axis, size in enumerate(shape) if axis and size})
    return known


def _translated(model: Model, graph: Graph, file: str, known: dict[str, int]) -> tuple[Network, dict[str, int]]:
    """Return the network, and the sizes of inputs that are known when it is done."""
    network = Network(Path(file).stem or "theano", "a Theano graph")
    first = {f"{name}.0" for name in model.input_names}
    sizes = Sizes(known, first)
    t = Translator(network, graph, file, TABLE, sizes)
    for name, variable in zip(model.input_names, model.inputs, strict=True):
        t.input(name, variable)
    wanted = [network.unique(name) for name in model.output_names]
    outputs = t.translate(model.outputs)
    for name, value in zip(wanted, outputs, strict=True):
        network.nodes.append(helper.make_node("Identity", [value.name], [name], name=name))
        network.output(name, value.dtype, [_written(sizes, size) for size in value.shape])
    _declare(network, model, sizes)
    names = [
        f"{name}.{axis}" for name, v in zip(model.input_names, model.inputs, strict=True) for axis in range(v.rank)
    ]
    found = {name: sizes.resolved(Size.of(name)).number for name in names if name not in first}
    return network, {name: number for name, number in found.items() if number is not None}


def _written(sizes: Sizes, size: Size) -> int | str | None:
    """Return what stands for a size in the file: a number, the batch's name, or that of an unknown of an input."""
    size = sizes.resolved(size)
    if size.number is not None:
        return size.number
    if size.unknown in sizes.kept:
        return BATCH
    return None if size.unknown is None or size.unknown.startswith("?") else size.unknown.replace(".", "_")


def _declare(network: Network, model: Model, sizes: Sizes) -> None:
    """Write the inputs' sizes as they are known in the end."""
    for value, name, variable in zip(network.inputs, model.input_names, model.inputs, strict=True):
        del value.type.tensor_type.shape.dim[:]
        for axis, flag in enumerate(variable.broadcastable):
            own = Size.of(1) if flag and axis else Size.of(f"{name}.{axis}")
            written = BATCH if axis == 0 else _written(sizes, own)
            size = value.type.tensor_type.shape.dim.add()
            if isinstance(written, int):
                size.dim_value = written
            else:
                size.dim_param = written or f"{name}_{axis}"
