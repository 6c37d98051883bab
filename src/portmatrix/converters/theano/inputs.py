"""The files that hold a Theano graph, and what in them are the inputs and the outputs."""

from __future__ import annotations

import gzip
import io
import mmap
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from portmatrix.converters.errors import ConversionError, MalformedFile
from portmatrix.converters.theano.graph import Graph, Variable
from portmatrix.converters.theano.machine import Machine
from portmatrix.converters.theano.standins import ArrayRecord, Record, text_of

#: A compressed file may hold this many times its size; more is taken for an attack.
MOST_EXPANSION = 64
_TENSORS = {"TensorType", "Scalar", "GpuArrayType", "CudaNdarrayType"}


class Model(NamedTuple):
    """The inputs and outputs of a graph, with their names."""

    inputs: list[Variable]
    input_names: list[str]
    outputs: list[Variable]
    output_names: list[str]


def load(file: Path, graph: Graph) -> Model:
    """Return the model that a pickle holds; raises ``MalformedFile``, or ``ConversionError`` if it holds none."""
    try:
        found = _unpickled(file)
    except OSError as error:
        raise ConversionError(f"{file}: cannot be read: {error.strerror or error}") from error
    except (MemoryError, RecursionError) as error:
        raise MalformedFile(file.name, "pickle", f"it asks for more than there is ({type(error).__name__})") from error
    inputs, outputs, names = _ends(found, file.name)
    return _named(graph.variables(inputs, "the inputs"), graph.variables(outputs, "the outputs"), names, file.name)


def _unpickled(file: Path) -> Any:
    with file.open("rb") as stream:
        start = stream.read(4)
        if start[:2] == b"\x1f\x8b":
            return Machine(file.name, memoryview(_expanded(file))).load()
        if start == b"PK\x03\x04":
            return _of_dump(file)
        if not start:
            raise MalformedFile(file.name, "byte 0", "the file is empty")
        return Machine(file.name, memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))).load()


def _expanded(file: Path) -> bytes:
    most = file.stat().st_size * MOST_EXPANSION + (1 << 20)
    try:
        with gzip.open(file) as stream:
            data = stream.read(most + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise MalformedFile(file.name, "gzip data", str(error)) from error
    if len(data) > most:
        raise MalformedFile(file.name, "gzip data", f"more than {most} bytes; decompress it yourself if it is yours")
    return data


def _of_dump(file: Path) -> Any:
    """Return what ``theano.misc.pkl_utils.dump`` wrote: a zip file of one pickle and the arrays that it names."""
    most = file.stat().st_size * MOST_EXPANSION + (1 << 20)
    try:
        with zipfile.ZipFile(file) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > most:
                raise MalformedFile(file.name, "zip directory", f"it announces more than {most} bytes")
            names = set(archive.namelist())
            if "pkl" not in names:
                raise MalformedFile(file.name, "zip directory", "it has no member 'pkl', as dumps of Theano's have")

            def array(name: str) -> Any:
                key = name.rsplit(".", maxsplit=1)[-1] if name not in names else name
                if key not in names:
                    raise MalformedFile(file.name, f"array {name!r}", "the zip file has no such member")
                made = ArrayRecord()
                made.value = np.load(io.BytesIO(archive.read(key)), allow_pickle=False)
                return made

            return Machine(file.name, memoryview(archive.read("pkl")), array).load()
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError, RuntimeError) as error:
        raise MalformedFile(file.name, "zip file", str(error) or type(error).__name__) from error


def _ends(found: Any, file: str) -> tuple[Any, Any, list[str | None]]:
    """Return the records of inputs and outputs, and names for the outputs where the file has them."""
    if isinstance(found, Record):
        return _of_function(found, file)
    if isinstance(found, dict) and "inputs" in found and "outputs" in found:
        return _listed(found["inputs"])[0], *_listed(found["outputs"])
    if isinstance(found, list | tuple) and len(found) == 2:
        return _listed(found[0])[0], *_listed(found[1])
    raise MalformedFile(
        file, "the pickled object", "expected (inputs, outputs), a dictionary of 'inputs' and 'outputs', or a function"
    )


def _listed(given: Any) -> tuple[list[Any], list[str | None]]:
    if isinstance(given, dict):
        return list(given.values()), [text_of(name) for name in given]
    if isinstance(given, list | tuple):
        return list(given), [None] * len(given)
    return [given], [None]


def _of_function(found: Record, file: str) -> tuple[Any, Any, list[str | None]]:
    """Return the ends of a compiled function's graph as it was before it was optimized.

    ``theano/compile/function_module.py``: a pickled function is its maker, whose ``inputs`` and ``outputs`` are
    specifications of the symbolic variables that were given to ``theano.function``.
    """
    maker = found.arguments[0] if found.kind == "_constructor_Function" and found.arguments else found
    if not isinstance(maker, Record) or maker.kind not in ("FunctionMaker", "_constructor_FunctionMaker"):
        raise MalformedFile(file, "the pickled object", f"it is a {found.kind}; expected a graph or a function")
    state = (
        maker.state
        if isinstance(maker.state, dict)
        else next((argument for argument in maker.arguments if isinstance(argument, dict)), {})
    )
    inputs, outputs = state.get("inputs"), state.get("outputs")
    if isinstance(outputs, Record):
        outputs = [outputs]
    if not isinstance(inputs, list | tuple) or not isinstance(outputs, list | tuple):
        raise MalformedFile(file, "the pickled function", "it has no lists of inputs and outputs")
    keys = state.get("output_keys")
    names: list[str | None] = (
        [text_of(key) for key in keys] if isinstance(keys, list | tuple) else [None] * len(outputs)
    )
    return [_variable_of(spec) for spec in inputs], [_variable_of(spec) for spec in outputs], names


def _variable_of(spec: Any) -> Any:
    inner = spec.get("variable") if isinstance(spec, Record) else None
    return spec if inner is None else inner


def _named(inputs: list[Variable], outputs: list[Variable], names: list[str | None], file: str) -> Model:
    free = [variable for variable in inputs if not variable.has_value]
    if not outputs:
        raise MalformedFile(file, "the outputs", "there are none")
    if len(set(map(id, free))) != len(free):
        raise MalformedFile(file, "the inputs", "one of them stands there twice")
    for variable in free:
        if variable.type not in _TENSORS or not variable.dtype:
            raise MalformedFile(file, f"input {variable.name}", f"it is {variable.type}, not a tensor")
        _checked(variable, file)
    taken: set[str] = set()
    input_names = [_unique(variable.name or f"input_{index}", taken) for index, variable in enumerate(free)]
    names = names if len(names) == len(outputs) else [None] * len(outputs)
    given = [name or variable.name for name, variable in zip(names, outputs, strict=True)]
    output_names = [_unique(name or f"output_{index}", taken) for index, name in enumerate(given)]
    return Model(free, input_names, outputs, output_names)


def _checked(variable: Variable, file: str) -> None:
    try:
        real = np.dtype(variable.dtype).kind in "biuf"
    except (TypeError, ValueError):
        real = False
    if not real:
        raise MalformedFile(file, f"input {variable.name}", f"its type is {variable.dtype}; real numbers are expected")


def _unique(name: str, taken: set[str]) -> str:
    own, number = name, 0
    while own in taken:
        number += 1
        own = f"{name}_{number}"
    taken.add(own)
    return own
