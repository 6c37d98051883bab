"""The size of a network's input, which no .t7 file tells: what the first layers say of it, and what fits the rest."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from portmatrix.converters.errors import ConversionError
from portmatrix.converters.network import BATCH
from portmatrix.converters.torch7.layers_graph import Node, ends, input_count, nodes
from portmatrix.converters.torch7.layers_recurrent import STEP_LAYERS
from portmatrix.converters.torch7.layers_shapes import transposition
from portmatrix.converters.torch7.modules import Module
from portmatrix.converters.torch7.objects import Table
from portmatrix.converters.torch7.sizes import BATCH_SIZE, Size, Symbol

#: What a user may give for a dimension: a number, a name, or None for a size that stays open.
Given = int | str | None

HEIGHT, WIDTH, DEPTH, TIME = "height", "width", "depth", "time"
#: Sizes that are tried first: what images of known data sets and networks have.
CUSTOMARY = (224, 227, 299, 256, 231, 221, 160, 128, 112, 96, 84, 64, 48, 40, 32, 28, 24, 20, 16, 12, 10, 8)
LARGEST = 512
_NESTING = 200


class Spec(NamedTuple):
    """An input: its dimensions, numbers or names, and whether it holds whole numbers."""

    sizes: tuple[int | str, ...]
    whole: bool = False


class Passes:
    """The verdict on a layer that says nothing of its input's size, and gives an output with the same dimensions."""


Found = Spec | list["Found"] | Passes | None
PASSES = Passes()

_PASSING_NAMES = (
    "Identity Contiguous Copy GradientReversal L1Penalty WhiteNoise Dropout SpatialDropout "
    "VolumetricDropout Tanh Sigmoid ReLU ReLU6 ClippedReLU PReLU RReLU LeakyReLU ELU Abs Exp Log Sqrt "
    "Square Power HardTanh Clamp HardShrink SoftShrink TanhShrink Threshold SoftPlus SoftSign LogSigmoid "
    "AddConstant MulConstant Mul SoftMax LogSoftMax SoftMin SpatialSoftMax SpatialLogSoftMax Normalize "
    "SpatialCrossMapLRN SpatialZeroPadding SpatialReflectionPadding SpatialReplicationPadding "
    "VolumetricReplicationPadding SpatialMaxPooling SpatialDilatedMaxPooling SpatialAveragePooling "
    "SpatialLPPooling VolumetricMaxPooling VolumetricAveragePooling TemporalMaxPooling "
    "SpatialUpSamplingNearest SpatialUpSamplingBilinear ReverseSequence SeqReverseSequence"
)
_PASSING = frozenset(_PASSING_NAMES.split())
_FIRST_OF = ("Decorator", "DontCast", "NaN", "Profile", "Serial", "ReverseUnreverse", "Recursor",
             "SeqBLSTM", "SeqBGRU", "SeqBRNN", "BiSequencer")  # fmt: skip
_PLANES = {"Spatial": (HEIGHT, WIDTH), "Volumetric": (DEPTH, HEIGHT, WIDTH)}


def parse(text: str) -> tuple[Given, ...]:
    """Return the dimensions in a text such as ``batch,3,224,224``; ``?`` is a size that stays open."""
    parts = [part.strip() for part in text.split(",")]
    found: list[Given] = []
    for part in parts:
        if part.isdecimal() and 0 < int(part) < 1 << 31:
            found.append(int(part))
        elif part == "?" or part.isidentifier():
            found.append(None if part == "?" else part)
        else:
            raise ConversionError(
                f"{part!r} is no dimension of an input: give numbers, 'batch' or '?', as batch,3,224,224"
            )
    return tuple(found)


def given(sizes: Sequence[Given], found: Found) -> Spec:
    """Return the input that a user has described: the first None is the batch unless one is named so."""
    named: list[int | str] = []
    for size in sizes:
        if size is None:
            named.append(f"size{len(named)}" if BATCH in (*sizes, *named) else BATCH)
        elif isinstance(size, int) and size < 1:
            raise ConversionError(f"{size} in the input's shape is no size: give numbers from 1 on, or 'batch'")
        else:
            named.append(size)
    return Spec(tuple(named), isinstance(found, Spec) and found.whole)


def sizes_of(spec: Spec) -> tuple[Size, ...]:
    """Return the input's sizes: the batch and open ones are symbols."""
    return tuple(
        size if isinstance(size, int) else (BATCH_SIZE if size == BATCH else Symbol(size)) for size in spec.sizes
    )


def candidates(specs: Sequence[Spec]) -> Iterator[list[Spec]]:
    """Yield the inputs with numbers for their open sizes: square planes, customary sizes first."""
    names = {size for spec in specs for size in spec.sizes if isinstance(size, str) and size != BATCH}
    ordered = [*CUSTOMARY, *(size for size in range(1, LARGEST + 1) if size not in CUSTOMARY)]
    for size in ordered:
        for depth in _depths(size) if DEPTH in names else (size,):
            numbers = {name: depth if name == DEPTH else size for name in names}
            yield [
                spec._replace(sizes=tuple(numbers.get(s, s) if isinstance(s, str) else s for s in spec.sizes))
                for spec in specs
            ]


def _depths(size: int) -> list[int]:
    """Return depths to try with planes of a size: 16 and the size itself, then halves of it, then the small numbers."""
    found = [16, size]
    while size > 1:
        size //= 2
        found.append(size)
    return list(dict.fromkeys([*found, *range(1, 33)]))


def probe(module: Module, depth: int = 0) -> Found:
    """Return what a layer says of its input: its dimensions, a list for a table, nothing (None), or that it passes."""
    if depth > _NESTING:
        return None
    if module.kind in _PASSING:
        return PASSES
    if module.kind in _FIRST_OF:
        return probe(module.first(), depth + 1)
    if module.kind in _CONTAINERS:
        return _CONTAINERS[module.kind](module, depth + 1)
    known = _LEAVES.get(module.kind)
    return None if known is None else known(module)


def _sequence(module: Module, depth: int) -> Found:
    """Return what the first layer says that says something; transpositions before it are undone."""
    children, turns = list(module.children()), []
    found: Found = PASSES
    for place, child in enumerate(children):
        if child.kind == "Transpose":
            turns.append(child)
            continue
        if child.kind == "SplitTable":
            found = _split(child, probe(children[place + 1], depth) if place + 1 < len(children) else None)
        elif child.kind in ("View", "Reshape") and not turns:
            found = _viewed(child, children[place + 1 :], depth)
        else:
            found = probe(child, depth)
        if not isinstance(found, Passes):
            break
    for turn in reversed(turns):
        found = _turned_back(turn, found)
    return _by_kind(children) if isinstance(found, Passes) and not turns and depth == 1 else found


def _turned_back(turn: Module, found: Found) -> Found:
    if not isinstance(found, Spec):
        return found
    order = transposition(turn, len(found.sizes))
    return found._replace(sizes=tuple(found.sizes[order.index(axis)] for axis in range(len(order))))


def _by_kind(children: list[Module]) -> Found:
    """Return planes of any number where no layer says more than that it works on planes."""
    for child in children:
        for stem, sizes in _PLANES.items():
            if child.kind.startswith(stem):
                return Spec((BATCH, "planes", *sizes))
    return None


def _split(module: Module, found: Found) -> Found:
    """Return the input of a SplitTable: the dimension that it takes apart is put back."""
    if isinstance(found, list) and found and all(part == found[0] for part in found) and isinstance(found[0], Spec):
        inner, count = found[0].sizes, len(found)
    elif isinstance(found, Spec) and found.sizes[:1] == (TIME,):
        inner, count = found.sizes[1:], 0
    else:
        return None
    dimension, rank = module.integer("dimension"), len(inner) + 1
    axis = rank + dimension if dimension < 0 else dimension - 1
    axis += 1 if dimension > 0 and module.integer("nInputDims", 0) == rank - 1 else 0
    return Spec((*inner[:axis], count or TIME, *inner[axis:])) if 0 <= axis < rank else None


def _viewed(module: Module, after: list[Module], depth: int) -> Found:
    """Return the input of a View or Reshape that comes first: flat samples, or what ``numInputDims`` asks for."""
    sizes = module.sizes("size")
    inner = module.integer("numInputDims", 1) if module.kind == "View" else 1
    sizes = sizes[1:] if sizes[:1] == [-1] and len(sizes) > 1 and inner == 1 else sizes
    count = math.prod(sizes) if sizes and min(sizes) > 0 else 0
    if sizes == [-1]:
        follower = next((found for found in (probe(child, depth) for child in after) if isinstance(found, Spec)), None)
        if follower is not None and len(follower.sizes) == 2 and isinstance(follower.sizes[1], int):
            count = follower.sizes[1]
    if count < 1:
        return None
    side = math.isqrt(count)
    if inner >= 2 and side * side == count:
        return Spec((BATCH, *[1] * (inner - 2), side, side))
    return Spec((BATCH, *[1] * (inner - 1), count))


def _branches(module: Module, depth: int) -> Found:
    found = [probe(child, depth) for child in module.children()]
    return next((part for part in found if isinstance(part, (Spec, list))), None if None in found else PASSES)


def _parallel(module: Module, depth: int) -> Found:
    return [probe(child, depth) for child in module.children()]


def _sequencer(module: Module, depth: int) -> Found:
    found = _over_time(module.first(), depth)
    return Spec((TIME, *found.sizes), found.whole) if isinstance(found, Spec) else None


def _over_time(module: Module, depth: int) -> Found:
    """Return what a layer says of a single step."""
    if depth > _NESTING:
        return None
    if module.kind == "Sequential":
        return next(
            (found for child in module.children() if isinstance(found := _over_time(child, depth + 1), Spec)), None
        )
    if module.kind == "Recursor":
        return _over_time(module.first(), depth + 1)
    if module.kind in STEP_LAYERS:
        return _step(module)
    return probe(module, depth + 1)


def _step(module: Module) -> Found:
    for field in ("inputsize", "inputSize"):
        if module.raw(field) is not None:
            return Spec((BATCH, module.integer(field)))
    for name in ("inputModule", "recurrentModule"):
        if module.raw(name) is not None:
            found = probe(module.field(name))
            return found[0] if isinstance(found, list) and found else found
    inner = module.first()
    return Spec((BATCH, inner.integer("inputsize"))) if inner.raw("inputsize") is not None else None


def _bottle(module: Module, depth: int) -> Found:
    found = probe(module.first(), depth)
    return Spec((BATCH, TIME, *found.sizes[1:]), found.whole) if isinstance(found, Spec) else None


def _graph(module: Module, depth: int) -> Found:
    """Return what the layers say that read the graph's inputs."""
    start, _ = ends(module)
    known = {node.data: node for node in nodes(module)}
    index = start.get("mapindex")
    found: list[Found] = [None] * input_count(module)
    first = known.get(start)
    for child in first.children if first is not None else []:
        number = index.get(child) if index is not None else 1
        if isinstance(number, int) and 1 <= number <= len(found):
            found[number - 1] = found[number - 1] or _reached(known, child, depth)
    return found[0] if len(found) == 1 else list(found)


def _reached(known: dict[Table, Node], data: Table, depth: int) -> Found:
    waiting, seen = [data], set()
    while waiting:
        at = waiting.pop(0)
        if at in seen or at not in known:
            continue
        seen.add(at)
        node = known[at]
        verdict = probe(node.layer, depth) if node.layer is not None else PASSES
        if isinstance(verdict, (Spec, list)):
            return verdict
        if isinstance(verdict, Passes):
            waiting.extend(node.children)
    return None


def _features(field: str, axis: int) -> Callable[[Module], Found]:
    return lambda module: Spec((BATCH, module.weight(field).shape[axis]))


def _grid(module: Module) -> Found:
    sizes = _PLANES["Volumetric" if module.kind.startswith("Volumetric") else "Spatial"]
    field = "nInputPlane"
    planes = module.integer(field) if module.raw(field) is not None else module.weight("weight").shape[0]
    return Spec((BATCH, planes, *sizes))


def _unshared(module: Module) -> Found:
    return Spec((BATCH, *(module.integer(field) for field in ("nInputPlane", "iH", "iW"))))


def _recurrent(module: Module) -> Found:
    size = module.weight("weight").shape[0] - module.weight("bias").size // (3 if module.kind == "SeqGRU" else 4)
    projection = module.weight_or_none("weightO")
    if projection is not None:
        size = module.weight("weight").shape[0] - projection.shape[1]
    first = module.flag("batchfirst") or module.raw("remember_states") is not None
    return Spec((BATCH, TIME, size) if first else (TIME, BATCH, size))


def _per_element(field: str) -> Callable[[Module], Found]:
    def find(module: Module) -> Found:
        shape = module.weight(field).shape
        return Spec((BATCH, *(shape[1:] if shape[0] == 1 and len(shape) > 1 else shape)))

    return find


def _statistics(module: Module) -> Found:
    planes = module.weight("running_mean").size
    stem = next((stem for stem in _PLANES if module.kind.startswith(stem)), "")
    return Spec((BATCH, planes, *_PLANES.get(stem, ())))


_CONTAINERS: dict[str, Callable[[Module, int], Found]] = {
    "Sequential": _sequence,
    "Maxout": _sequence,
    "Concat": _branches,
    "DepthConcat": _branches,
    "ConcatTable": _branches,
    "ParallelTable": _parallel,
    "Sequencer": _sequencer,
    "Bottle": _bottle,
    "gModule": _graph,
}

_GRIDS = (
    "SpatialConvolution SpatialConvolutionMM SpatialDilatedConvolution SpatialConvolutionMap "
    "SpatialDepthWiseConvolution SpatialFullConvolution SpatialSubSampling "
    "SpatialSubtractiveNormalization SpatialDivisiveNormalization SpatialContrastiveNormalization "
    "VolumetricConvolution VolumetricConvolutionMM VolumetricDilatedConvolution VolumetricFullConvolution"
)
_LEAVES: dict[str, Callable[[Module], Found]] = {
    **dict.fromkeys(("Linear", "LinearNoBias", "Cosine"), _features("weight", 1)),
    "LinearWeightNorm": _features("v", 1),
    "Euclidean": _features("weight", 0),
    "LookupTable": lambda _module: Spec((BATCH, TIME), whole=True),
    **dict.fromkeys(_GRIDS.split(), _grid),
    "SpatialConvolutionLocal": _unshared,
    "TemporalConvolution": lambda module: Spec((BATCH, TIME, module.integer("inputFrameSize"))),
    "TemporalSubSampling": lambda module: Spec((BATCH, TIME, module.weight("weight").size)),
    **dict.fromkeys(("SeqLSTM", "SeqLSTMP", "SeqGRU"), _recurrent),
    **dict.fromkeys(("BatchNormalization", "SpatialBatchNormalization", "VolumetricBatchNormalization"), _statistics),
    "CMul": _per_element("weight"),
    "CAdd": _per_element("bias"),
    "Add": lambda module: PASSES if module.flag("scalar") else _per_element("bias")(module),
    "Bilinear": lambda module: [Spec((BATCH, size)) for size in module.weight("weight").shape[1:]],
}
