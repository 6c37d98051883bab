"""What a file declares of a tensor: its element type and its shape."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TypeProto, ValueInfoProto, helper

from portmatrix.converters.cntk.values import Count, Shape
from portmatrix.converters.errors import MalformedFile

#: A tensor of more axes than this is none of a network's.
MAX_RANK = 32


def has_shape(info: ValueInfoProto) -> bool:
    """Return whether the file says of which shape a tensor is."""
    return bool(info.type.HasField("tensor_type") and info.type.tensor_type.HasField("shape"))


def shape_of(info: ValueInfoProto, file: str) -> Shape:
    """Return a tensor's shape, symbols for lengths not fixed; raises ``MalformedFile`` if it has none."""
    if not has_shape(info):
        raise MalformedFile(file, f"tensor {info.name!r}", "it has no shape")
    dims = info.type.tensor_type.shape.dim
    if len(dims) > MAX_RANK:
        raise MalformedFile(file, f"tensor {info.name!r}", f"{len(dims)} axes")
    sizes = []
    for axis, dim in enumerate(dims):
        if dim.HasField("dim_value"):
            if dim.dim_value < 0:
                raise MalformedFile(file, f"tensor {info.name!r}", f"a length of {dim.dim_value}")
            sizes.append(Count(dim.dim_value))
        else:
            sizes.append(Count(1, (dim.dim_param or f"{info.name}[{axis}]",)))
    return tuple(sizes)


def dtype_of(info: ValueInfoProto, file: str) -> np.dtype[Any]:
    """Return a tensor's element type; raises ``MalformedFile`` if numpy has none like it."""
    kind: TypeProto.Tensor = info.type.tensor_type
    try:
        return np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type))
    except (KeyError, TypeError) as error:
        raise MalformedFile(file, f"tensor {info.name!r}", f"element type {kind.elem_type}") from error
