"""The network as Caffe sets it up for testing: its layers in order, its inputs, and each layer's weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from portmatrix.converters.caffe import upgrade, wire
from portmatrix.converters.caffe.message import Message
from portmatrix.converters.errors import ConversionError

#: Losses that contain the last layer of the network.
LOSSES = frozenset({"InfogainLoss", "SigmoidCrossEntropyLoss", "SoftmaxWithLoss"})

_TEST = 1


@dataclass
class LayerSpec:
    """One layer: what the network file says of it, and what the weight file holds for it (None: nothing)."""

    name: str
    kind: str
    spec: Message
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    blobs: list[wire.Blob | None] | None = None
    #: Index of a blob -> whether only its number of elements has to fit: a weight shared with share_mode PERMISSIVE.
    loose: set[int] = field(default_factory=set)

    @property
    def title(self) -> str:
        """The layer as errors name it."""
        return f"layer {self.name!r} of type {self.kind} (line {self.spec.line})"


def layers(net: Message) -> list[LayerSpec]:
    """Return the layers that take part in testing, the network's inputs first; raises ``ConversionError``."""
    state = net.message("state")
    found = [_spec(layer) for layer in upgrade.layers(net) if _included(layer, state)]
    inputs = _old_inputs(net)
    specs = [*([_spec(inputs)] if inputs else []), *found]
    _name_results(specs)
    return specs


def _name_results(specs: Sequence[LayerSpec]) -> None:
    """Give each loss that contains the network's last layer one top, for what that layer computes.

    Its name is that of the second top, which is just this in Caffe, or ``prob``, as in networks made for use.
    """
    taken = {name for spec in specs for name in spec.tops}
    losses = [spec for spec in specs if spec.kind in LOSSES]
    for spec in losses:
        name = "prob" if len(losses) == 1 and "prob" not in taken else f"{spec.name}/prob"
        spec.tops = (spec.tops[1] if len(spec.tops) > 1 else name,)


def _spec(layer: Message) -> LayerSpec:
    kind = layer.text("type")
    name = layer.text("name")
    return LayerSpec(name or kind, kind, layer, tuple(layer.texts("bottom")), tuple(layer.texts("top")))


def _old_inputs(net: Message) -> Message | None:
    """Return the network's own inputs, the older way to declare them, as a layer; None if there are none."""
    names = net.texts("input")
    if not names:
        return None
    shapes, sizes = net.messages("input_shape"), net.wholes("input_dim")
    if shapes and sizes:
        raise ConversionError(
            "the network has both input_shape and input_dim; Caffe reads one of them: remove the other"
        )
    if len(shapes) != len(names) and len(sizes) != 4 * len(names):
        raise ConversionError(
            f"the network has {len(names)} inputs ({', '.join(names)}), {len(shapes)} input_shape and {len(sizes)} "
            "input_dim; expected one input_shape, or four input_dim, for each input"
        )
    layer = Message("Layer", net.line)
    layer.set("name", "input")
    layer.set("type", "Input")
    layer.values["top"] = list(names)
    declaration = Message("Input", net.line)
    for index in range(len(names)):
        shape = Message("Shape", net.line)
        shape.values["dim"] = list(sizes[4 * index : 4 * index + 4])
        declaration.add("shape", shapes[index] if shapes else shape)
    layer.set("input_param", declaration)
    return layer


def _included(layer: Message, state: Message) -> bool:
    """Return whether the layer takes part in testing, by its include and exclude rules (``Net::FilterNet``)."""
    include, exclude = layer.messages("include"), layer.messages("exclude")
    if include and exclude:
        raise ConversionError(f"line {layer.line}: a layer has either include or exclude rules, not both")
    if include:
        return any(_meets(rule, state) for rule in include)
    return not any(_meets(rule, state) for rule in exclude)


def _meets(rule: Message, state: Message) -> bool:
    stages = state.texts("stage")
    level = state.whole("level")
    return (
        (not rule.has("phase") or rule.whole("phase") == _TEST)
        and (not rule.has("min_level") or level >= rule.whole("min_level"))
        and (not rule.has("max_level") or level <= rule.whole("max_level"))
        and all(stage in stages for stage in rule.texts("stage"))
        and not any(stage in stages for stage in rule.texts("not_stage"))
    )


def give_weights(specs: Sequence[LayerSpec], weights: Sequence[wire.Layer]) -> None:
    """Give each layer the blobs of the weights' layer of its name, as ``Net::CopyTrainedLayersFrom`` does.

    Layers of the weights that the network does not have are left out. Blobs that layers share by the names of their
    parameters are one, and the last one of the file counts.
    """
    named: dict[str, LayerSpec] = {}
    for spec in specs:
        named.setdefault(spec.name, spec)
    shared: dict[str, wire.Blob] = {}
    for layer in weights:
        target = named.get(layer.name)
        if target is None or not layer.blobs:
            continue
        target.blobs = list(layer.blobs)
        for index, name in _shared(target).items():
            if index < len(layer.blobs):
                shared[name] = layer.blobs[index]
    for spec in specs:
        _share(spec, shared)


def _shared(spec: LayerSpec) -> dict[int, str]:
    names = enumerate(param.text("name") for param in spec.spec.messages("param"))
    return {index: name for index, name in names if name}


def _share(spec: LayerSpec, shared: Mapping[str, wire.Blob]) -> None:
    params = spec.spec.messages("param")
    for index, name in _shared(spec).items():
        if name not in shared:
            continue
        blobs = spec.blobs if spec.blobs is not None else []
        blobs += [None] * (index + 1 - len(blobs))
        blobs[index] = shared[name]
        spec.blobs = blobs
        if params[index].whole("share_mode"):
            spec.loose.add(index)
