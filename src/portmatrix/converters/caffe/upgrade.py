"""Brings older network files to the newest format: numbered layer types, and before them one message for all layers.

What each field becomes is what Caffe itself does when it reads such a file (``src/caffe/util/upgrade_proto.cpp``).
"""

from __future__ import annotations

from portmatrix.converters.caffe.fields import V1_TYPES
from portmatrix.converters.caffe.message import Message
from portmatrix.converters.errors import ConversionError

#: Types of the oldest layers -> types since.
_V0_TYPES = {
    "accuracy": "Accuracy",
    "bnll": "BNLL",
    "concat": "Concat",
    "conv": "Convolution",
    "data": "Data",
    "dropout": "Dropout",
    "euclidean_loss": "EuclideanLoss",
    "flatten": "Flatten",
    "hdf5_data": "HDF5Data",
    "hdf5_output": "HDF5Output",
    "im2col": "Im2col",
    "images": "ImageData",
    "infogain_loss": "InfogainLoss",
    "innerproduct": "InnerProduct",
    "lrn": "LRN",
    "multinomial_logistic_loss": "MultinomialLogisticLoss",
    "pool": "Pooling",
    "relu": "ReLU",
    "sigmoid": "Sigmoid",
    "softmax": "Softmax",
    "softmax_loss": "SoftmaxWithLoss",
    "split": "Split",
    "tanh": "TanH",
    "window_data": "WindowData",
}
#: Field of the oldest layers -> type of layer -> (its parameter, the field there).
_V0_FIELDS = {
    "num_output": {"conv": ("convolution_param", "num_output"), "innerproduct": ("inner_product_param", "num_output")},
    "biasterm": {"conv": ("convolution_param", "bias_term"), "innerproduct": ("inner_product_param", "bias_term")},
    "pad": {"conv": ("convolution_param", "pad"), "pool": ("pooling_param", "pad")},
    "kernelsize": {"conv": ("convolution_param", "kernel_size"), "pool": ("pooling_param", "kernel_size")},
    "stride": {"conv": ("convolution_param", "stride"), "pool": ("pooling_param", "stride")},
    "group": {"conv": ("convolution_param", "group")},
    "pool": {"pool": ("pooling_param", "pool")},
    "local_size": {"lrn": ("lrn_param", "local_size")},
    "alpha": {"lrn": ("lrn_param", "alpha")},
    "beta": {"lrn": ("lrn_param", "beta")},
    "k": {"lrn": ("lrn_param", "k")},
    "concat_dim": {"concat": ("concat_param", "concat_dim")},
    "cropsize": dict.fromkeys(("data", "images", "window_data"), ("transform_param", "crop_size")),
    "batchsize": {
        "data": ("data_param", "batch_size"),
        "hdf5_data": ("hdf5_data_param", "batch_size"),
        "images": ("image_data_param", "batch_size"),
        "window_data": ("window_data_param", "batch_size"),
    },
}
#: Fields that say how a network is trained or where its data lie, and nothing of what it computes.
_V0_SILENT = {
    "name", "type", "weight_filler", "bias_filler", "dropout_ratio", "source", "scale", "meanfile", "mirror", "blobs",
    "blobs_lr", "weight_decay", "rand_skip", "det_fg_threshold", "det_bg_threshold", "det_fg_fraction",
    "det_context_pad", "det_crop_mode", "new_num", "new_channels", "new_height", "new_width", "shuffle_images",
    "hdf5_output_param",
}  # fmt: skip


def layers(net: Message) -> list[Message]:
    """Return the layers of a network of any age, as messages of kind ``Layer``; raises ``ConversionError``."""
    older = net.messages("layers")
    if older and net.has("layer"):
        raise ConversionError("the network has both `layer` and `layers`; a file is of one format: rename one of them")
    if any(layer.has("layer") for layer in older):
        return [_from_v0(layer) for layer in _without_padding(older)]
    return [_from_v1(layer) for layer in older] if older else net.messages("layer")


def _from_v1(old: Message) -> Message:
    """Return a layer with a numbered type as one with a named type; the parameters have kept their names."""
    new = Message("Layer", old.line)
    new.unknown = list(old.unknown)
    for name, values in old.values.items():
        if name in new.fields() and name not in {"type", "param"}:
            new.values[name] = list(values)
    number = old.whole("type")
    new.set("type", V1_TYPES[number][1] if old.has("type") else "")
    permissive = old.wholes("blob_share_mode")
    for index, shared in enumerate(old.texts("param")):
        param = Message("Param", old.line)
        param.set("name", shared)
        param.set("share_mode", permissive[index] if index < len(permissive) else 0)
        new.add("param", param)
    return new


def _from_v0(connection: Message) -> Message:
    """Return a layer of the oldest format, whose parameters all lie in one message, in the newest."""
    old = connection.message("layer")
    new = Message("Layer", connection.line)
    new.unknown = old.unknown + connection.unknown
    kind = old.text("type")
    if kind not in _V0_TYPES:
        raise ConversionError(f"line {connection.line}: {kind!r} is no layer type of Caffe's first format")
    new.set("name", old.text("name"))
    new.set("type", _V0_TYPES[kind])
    for name in ("bottom", "top"):
        new.values[name] = list(connection.values.get(name, ()))
    for name, values in old.values.items():
        if name in _V0_SILENT:
            continue
        place = _V0_FIELDS.get(name, {}).get(kind)
        if place is None:
            raise ConversionError(f"line {connection.line}: a layer of type {kind!r} has no field {name!r}")
        parameter = new.message(place[0])
        new.set(place[0], parameter)
        parameter.values[place[1]] = list(values)
    return new


def _without_padding(older: list[Message]) -> list[Message]:
    """Leave out the oldest format's padding layers: the convolution or pooling that follows pads instead."""
    paddings: dict[str, Message] = {}
    kept = []
    for connection in older:
        tops, bottoms = connection.texts("top"), connection.texts("bottom")
        if connection.message("layer").text("type") == "padding":
            if len(tops) != 1 or len(bottoms) != 1:
                raise ConversionError(f"line {connection.line}: a padding layer has one bottom and one top")
            paddings[tops[0]] = connection
            continue
        kept.append(_padded(connection, paddings) if any(bottom in paddings for bottom in bottoms) else connection)
        for top in tops:
            paddings.pop(top, None)
    return kept


def _padded(connection: Message, paddings: dict[str, Message]) -> Message:
    layer = connection.message("layer")
    bottoms = connection.texts("bottom")
    if len(bottoms) != 1 or layer.text("type") not in {"conv", "pool"}:
        raise ConversionError(
            f"line {connection.line}: a padding layer can only come before one convolution or pooling layer"
        )
    padding = paddings[bottoms[0]]
    new, inner = Message("V1Layer", connection.line), Message("V0Layer", layer.line)
    new.values, inner.values = dict(connection.values), dict(layer.values)
    inner.set("pad", padding.message("layer").whole("pad"))
    new.set("layer", inner)
    new.values["bottom"] = list(padding.values["bottom"])
    return new
