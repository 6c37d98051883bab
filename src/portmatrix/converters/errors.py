"""What a conversion can fail of: a file that is no such model, and a layer that has no ONNX equivalent here."""

from __future__ import annotations

from portmatrix.errors import UserError


class ConversionError(UserError):
    """The model cannot be converted. Nothing has been written."""


class MalformedFile(ConversionError):
    """The file is damaged, cut short, or not of its kind: says where in the file, and what was expected there."""

    def __init__(self, file: str, where: str, why: str) -> None:
        super().__init__(f"{file}: {where}: {why}")


class Unsupported(ConversionError):
    """A layer outside the operator table: names the layer, its type, and what would be needed."""

    def __init__(self, name: str, kind: str, needed: str) -> None:
        super().__init__(f"layer {name!r} of type {kind}: {needed}")
        self.name = name
        self.kind = kind
