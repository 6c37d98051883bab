"""The converters to ONNX: one package for each system whose models have no way there of their own.

A converter is a package here with ``READS``, ``recognizes(files)`` and ``convert(files, output, ...)``; none is named
anywhere else. They need no framework, numpy and onnx alone, and can be used without the matrix.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from portmatrix.converters.errors import ConversionError
from portmatrix.converters.network import Written

__all__ = ["ConversionError", "Converter", "Written", "convert", "convert_artifact", "find", "names"]


class Converter(Protocol):
    """What a converter's package offers. ``READS`` says what it takes, one form of input a line."""

    READS: tuple[str, ...]

    def recognizes(self, files: Sequence[Path]) -> bool: ...

    def convert(
        self, files: Sequence[Path], output: Path, *, batch: int | None = None, opset: int | None = None
    ) -> Written: ...


def names() -> tuple[str, ...]:
    """Return the names of the converters, in alphabetical order."""
    return tuple(sorted(item.name for item in pkgutil.iter_modules(__path__) if item.ispkg))


def named(name: str) -> Converter:
    """Return the converter of that name."""
    return cast("Converter", import_module(f"{__name__}.{name}"))


def find(files: Sequence[Path]) -> Converter:
    """Return the converter for these files; raises ``ConversionError`` if they are missing or nobody's."""
    for file in files:
        if not file.is_file():
            raise ConversionError(f"{file} is {'a folder' if file.is_dir() else 'not there'}; expected a model's file")
    found = [converter for converter in map(named, names()) if converter.recognizes(files)]
    if len(found) == 1:
        return found[0]
    readable = "; ".join(form for name in names() for form in named(name).READS)
    given = " ".join(file.name for file in files)
    raise ConversionError(f"no converter reads {given}; what can be read: {readable}")


def convert(files: Sequence[Path], output: Path, **options: Any) -> Written:
    """Convert ``files`` into the ONNX file ``output``, by the converter that recognizes them.

    ``options`` are ``batch`` (None is symbolic), ``opset``, and what the converter takes besides. Raises
    ``ConversionError`` before anything is written.
    """
    converter = find(files)
    known = inspect.signature(converter.convert).parameters
    strange = [name for name in options if name not in known]
    if strange:
        raise ConversionError(f"{strange[0]!r} means nothing for {' '.join(file.name for file in files)}")
    return converter.convert(files, output, **options)


def convert_artifact(name: str, artifact: str, output: str, options: Mapping[str, Any]) -> dict[str, str | int]:
    """Convert a bundle's artifact, a file or a folder of files, by the converter ``name``; return what is to be told.

    Of ``options`` those are given to the converter that mean something to it. Raises ``ConversionError``.
    """
    place = Path(artifact)
    files = sorted(item for item in place.iterdir() if item.is_file()) if place.is_dir() else [place]
    converter = named(name)
    known = inspect.signature(converter.convert).parameters
    taken = {option: value for option, value in options.items() if option in known}
    written = converter.convert(files, Path(output), **taken)
    operators = " ".join(f"{operator}:{count}" for operator, count in written.operators.items())
    return {"converter": name, "opset": written.opset, "operators": operators, "parameters": written.parameters}
