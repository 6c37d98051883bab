"""The networks of the fixtures: for each theme, layers in many configurations, as the text of a network file.

Runs in the interpreter that has Caffe (CPython 3.9 and numpy alone), and in the tests.
"""

from __future__ import annotations


def layer(kind, name, bottoms="data", tops=None, **params):
    """Return the text of a layer; ``params`` are its parameter messages, as text."""
    bottoms = bottoms.split()
    tops = [name] if tops is None else tops.split()
    lines = [f'layer {{ name: "{name}" type: "{kind}"']
    lines += [f'  bottom: "{bottom}"' for bottom in bottoms] + [f'  top: "{top}"' for top in tops]
    lines += [f"  {key} {{ {value} }}" for key, value in params.items()]
    return "\n".join([*lines, "}"])


def inputs(**shapes):
    """Return the text of an Input layer for each shape."""
    return "\n".join(
        layer("Input", name, "", name, input_param="shape { " + " ".join(f"dim: {dim}" for dim in shape) + " }")
        for name, shape in shapes.items()
    )


def net(name, *layers):
    """Return the text of a network."""
    return "\n".join([f'name: "{name}"', *layers]) + "\n"


def each(kind, param, **settings):
    """Return one layer of a kind for each setting of its parameters, all on the blob ``data``."""
    return [layer(kind, name, **({param: text} if text else {})) for name, text in settings.items()]


POOLING = {
    "max_default": "kernel_size: 3 stride: 2",
    "max_pad": "kernel_size: 3 stride: 2 pad: 1",
    "max_clipped": "kernel_size: 2 stride: 3 pad: 1",
    "max_floor": "kernel_size: 3 stride: 2 round_mode: FLOOR",
    "max_hw": "kernel_h: 3 kernel_w: 2 stride_h: 1 stride_w: 3 pad_h: 1 pad_w: 0",
    "max_far": "kernel_size: 2 stride: 4",
    "max_empty": "kernel_size: 1 stride: 6",
    "max_global": "global_pooling: true",
    "ave_default": "pool: AVE kernel_size: 3 stride: 2",
    "ave_pad": "pool: AVE kernel_size: 3 stride: 1 pad: 1",
    "ave_pad_stride": "pool: AVE kernel_size: 3 stride: 2 pad: 1",
    "ave_beyond": "pool: AVE kernel_size: 4 stride: 3 pad: 1",
    "ave_clipped": "pool: AVE kernel_size: 2 stride: 3 pad: 1",
    "ave_hw": "pool: AVE kernel_h: 3 kernel_w: 5 stride_h: 3 stride_w: 4 pad_h: 0 pad_w: 2",
    "ave_floor": "pool: AVE kernel_size: 3 stride: 2 pad: 1 round_mode: FLOOR",
    "ave_global": "pool: AVE global_pooling: true",
    "ave_whole": "pool: AVE kernel_h: 10 kernel_w: 13",
}
CONVOLUTION = {
    "plain": "num_output: 5 kernel_size: 3",
    "strided": "num_output: 4 kernel_size: 3 stride: 2 pad: 1",
    "no_bias": "num_output: 6 kernel_size: 1 bias_term: false",
    "grouped": "num_output: 8 kernel_size: 3 group: 2 pad: 2",
    "depthwise": "num_output: 4 kernel_size: 3 group: 4 pad: 1",
    "dilated": "num_output: 3 kernel_size: 3 dilation: 2 pad: 2",
    "sides": "num_output: 3 kernel_h: 1 kernel_w: 4 stride_h: 2 stride_w: 1 pad_h: 0 pad_w: 2",
    "lists": "num_output: 3 kernel_size: [3, 2] stride: 1 stride: 2 pad: 1 pad: 0 dilation: [1, 2]",
}
DECONVOLUTION = {
    "doubled": "num_output: 4 kernel_size: 4 stride: 2 pad: 1",
    "bilinear": "num_output: 4 kernel_size: 4 stride: 2 group: 4 bias_term: false",
    "dilated": "num_output: 3 kernel_size: 3 stride: 3 dilation: 2",
    "sides": "num_output: 2 kernel_h: 3 kernel_w: 2 stride_h: 2 stride_w: 3 pad_h: 1 pad_w: 0",
}
POWERS = {
    "identity": "",
    "affine": "scale: 2.5 shift: -0.5",
    "square": "power: 2 scale: 0.5 shift: 1",
    "root": "power: 0.5 scale: 0.5 shift: 3",
    "inverse": "power: -1 shift: 4",
    "odd": "power: 1.7 scale: 0.1 shift: 2",
    "constant": "power: 3 scale: 0 shift: 2",
    "one": "power: 0",
}
CURVES = {"natural": "", "base_two": "base: 2 scale: 0.5 shift: 1.5", "shifted": "scale: 0.3 shift: 2"}
NEURONS = [
    layer("AbsVal", "abs"),
    layer("BNLL", "bnll"),
    layer("Clip", "clip", clip_param="min: -0.5 max: 0.25"),
    layer("Dropout", "dropout", dropout_param="dropout_ratio: 0.3"),
    layer("ELU", "elu", elu_param="alpha: 0.7"),
    layer("PReLU", "prelu"),
    layer("PReLU", "prelu_shared", prelu_param="channel_shared: true"),
    layer("ReLU", "relu"),
    layer("ReLU", "leaky", relu_param="negative_slope: 0.1"),
    layer("Sigmoid", "sigmoid"),
    layer("Swish", "swish", swish_param="beta: 1.5"),
    layer("TanH", "tanh"),
    layer("Threshold", "threshold", threshold_param="threshold: 0.2"),
    layer("Split", "split", "data", "split_a split_b"),
]


def recurrent(kind, name, bottoms, tops=None, more=""):
    return layer(kind, name, bottoms, tops, recurrent_param=f"num_output: 3 {more}")


CASES = {
    "pooling": net("pooling", inputs(data=(2, 3, 10, 13)), *each("Pooling", "pooling_param", **POOLING)),
    "pooling_mask": net(
        "pooling_mask",
        inputs(data=(2, 3, 7, 9)),
        layer("Pooling", "masked", "data", "masked mask", pooling_param="kernel_size: 3 stride: 2 pad: 1"),
    ),
    "convolution": net(
        "convolution", inputs(data=(2, 4, 7, 9)), *each("Convolution", "convolution_param", **CONVOLUTION)
    ),
    "convolution_1d": net(
        "convolution_1d",
        inputs(data=(2, 4, 11)),
        *each("Convolution", "convolution_param", plain="num_output: 3 kernel_size: 3 pad: 1 dilation: 2 stride: 2"),
        *each("Deconvolution", "convolution_param", up="num_output: 3 kernel_size: 3 stride: 2"),
    ),
    "convolution_3d": net(
        "convolution_3d",
        inputs(data=(2, 2, 5, 4, 6)),
        *each(
            "Convolution",
            "convolution_param",
            plain="num_output: 3 kernel_size: 3 kernel_size: 2 kernel_size: 3 pad: 1",
        ),
        *each("Convolution", "convolution_param", inner="axis: 2 num_output: 3 kernel_size: 2"),
    ),
    "convolution_two": net(
        "convolution_two",
        inputs(data=(2, 2, 5, 5), other=(2, 2, 5, 5)),
        layer("Convolution", "both", "data other", "one two", convolution_param="num_output: 3 kernel_size: 3"),
    ),
    "deconvolution": net(
        "deconvolution", inputs(data=(2, 4, 5, 6)), *each("Deconvolution", "convolution_param", **DECONVOLUTION)
    ),
    "neurons": net("neurons", inputs(data=(2, 3, 4, 5)), *NEURONS),
    "power": net("power", inputs(data=(2, 3, 4)), *each("Power", "power_param", **POWERS)),
    "exp": net("exp", inputs(data=(2, 3, 4)), *each("Exp", "exp_param", **CURVES)),
    "log": net(
        "log",
        inputs(data=(2, 3, 4)),
        *each(
            "Log", "log_param", natural="shift: 2", base_two="base: 2 scale: 0.5 shift: 1.5", ten="base: 10 shift: 3"
        ),
    ),
    "inner_product": net(
        "inner_product",
        inputs(data=(2, 3, 4, 5)),
        *each(
            "InnerProduct",
            "inner_product_param",
            plain="num_output: 6",
            no_bias="num_output: 6 bias_term: false",
            transposed="num_output: 4 transpose: true",
            axis_two="num_output: 4 axis: 2",
            last="num_output: 3 axis: -1 transpose: true",
        ),
        layer("InnerProduct", "second", "plain", inner_product_param="num_output: 3"),
    ),
    "inner_product_whole": net(
        "inner_product_whole",
        inputs(data=(1, 3, 4)),
        layer("InnerProduct", "rows", inner_product_param="num_output: 2"),
    ),
    "embed": net(
        "embed",
        inputs(index=(3, 4)),
        layer("Embed", "words", "index", embed_param="input_dim: 7 num_output: 5"),
        layer("Embed", "bare", "index", embed_param="input_dim: 7 num_output: 2 bias_term: false"),
    ),
    "batch_norm": net(
        "batch_norm",
        inputs(data=(3, 4, 3, 5)),
        layer("BatchNorm", "alone"),
        layer("BatchNorm", "norm", batch_norm_param="eps: 0.001 use_global_stats: true"),
        layer("Scale", "scaled", "norm", "norm", scale_param="bias_term: true"),
        layer("BatchNorm", "twice"),
        layer("Scale", "twice_scaled", "twice"),
        layer("ReLU", "twice_relu", "twice"),
        layer("BatchNorm", "own", batch_norm_param="use_global_stats: false"),
        layer("BatchNorm", "empty"),
    ),
    "batch_norm_flat": net("batch_norm_flat", inputs(data=(3, 4)), layer("BatchNorm", "alone"), layer("Scale", "s")),
    "scale": net(
        "scale",
        inputs(data=(2, 3, 4, 5), rows=(2,), plane=(3, 4), last=(5,)),
        *each(
            "Scale",
            "scale_param",
            plain="",
            biased="bias_term: true",
            two="num_axes: 2 bias_term: true",
            to_end="axis: 1 num_axes: -1",
            scalar="num_axes: 0 bias_term: true",
        ),
        layer("Scale", "by_rows", "data rows", scale_param="axis: 0"),
        layer("Scale", "by_plane", "data plane", scale_param="bias_term: true"),
        layer("Scale", "by_last", "data last", scale_param="axis: -1"),
        *each("Bias", "bias_param", shift="", shift_two="axis: 2 num_axes: 2"),
        layer("Bias", "by_bias", "data plane"),
    ),
    "eltwise": net(
        "eltwise",
        inputs(data=(2, 3, 4), b=(2, 3, 4), c=(2, 3, 4)),
        layer("Eltwise", "sum", "data b c"),
        layer("Eltwise", "weighted", "data b c", eltwise_param="operation: SUM coeff: 1 coeff: -0.5 coeff: 2"),
        layer("Eltwise", "product", "data b c", eltwise_param="operation: PROD"),
        layer("Eltwise", "greatest", "data b c", eltwise_param="operation: MAX"),
        layer("Eltwise", "difference", "data b", eltwise_param="coeff: 1 coeff: -1"),
    ),
    "arranging": net(
        "arranging",
        inputs(data=(2, 6, 4, 3), other=(2, 2, 4, 3)),
        layer("Concat", "joined", "data other"),
        layer("Concat", "joined_old", "other data", concat_param="concat_dim: 1"),
        layer("Concat", "rows", "data data", concat_param="axis: 0"),
        layer("Slice", "halves", "data", "left right"),
        layer("Slice", "parts", "data", "p1 p2 p3", slice_param="axis: 1 slice_point: 1 slice_point: 4"),
        layer("Slice", "items", "data", "first rest", slice_param="axis: 0 slice_point: 1"),
        layer("Slice", "last", "data", "l1 l2 l3", slice_param="axis: -1"),
        layer("Flatten", "flat"),
        layer("Flatten", "flat_two", flatten_param="axis: 1 end_axis: 2"),
        layer("Flatten", "flat_last", flatten_param="axis: -2"),
        layer("Tile", "tiled", tile_param="tiles: 3"),
        layer("Tile", "tiled_last", tile_param="axis: -1 tiles: 2"),
        layer("Reshape", "copied", reshape_param="shape { dim: 0 dim: 2 dim: -1 dim: 0 }"),
        layer("Reshape", "flattened", reshape_param="shape { dim: 0 dim: -1 }"),
        layer("Reshape", "middle", reshape_param="shape { dim: 3 dim: 8 } axis: 1 num_axes: 2"),
        layer("Reshape", "added", reshape_param="shape { dim: 1 dim: 1 } axis: 1 num_axes: 0"),
        layer("Reshape", "ended", reshape_param="shape { dim: 1 } axis: -1 num_axes: 0"),
        layer("Split", "copies", "data", "copy_a copy_b"),
        layer("Silence", "silent", "copy_a", ""),
    ),
    "reshape_batch": net(
        "reshape_batch",
        inputs(data=(2, 6, 4)),
        layer("Reshape", "explicit", reshape_param="shape { dim: 2 dim: 24 }"),
        layer("Reshape", "merged", reshape_param="shape { dim: -1 dim: 4 }"),
        layer("InnerProduct", "dense", "merged", inner_product_param="num_output: 3"),
        layer("Reshape", "back", "dense", reshape_param="shape { dim: -1 dim: 6 dim: 3 }"),
        layer("Flatten", "all", flatten_param="axis: 0"),
    ),
    "crop": net(
        "crop",
        inputs(data=(2, 3, 9, 8), small=(2, 2, 5, 6)),
        layer("Crop", "centre", "data small", crop_param="axis: 2 offset: 1 offset: 2"),
        layer("Crop", "corner", "data small"),
        layer("Crop", "same", "data small", crop_param="offset: 2"),
        layer("Crop", "channels", "data small", crop_param="axis: 1 offset: 1 offset: 0 offset: 2"),
    ),
    "lrn": net(
        "lrn",
        inputs(data=(2, 7, 6, 5)),
        *each(
            "LRN",
            "lrn_param",
            across="local_size: 5 alpha: 0.9 beta: 0.75",
            narrow="local_size: 3 alpha: 2 beta: 0.5 k: 2",
            within="local_size: 3 alpha: 0.9 norm_region: WITHIN_CHANNEL",
            within_wide="local_size: 5 alpha: 2 beta: 0.5 norm_region: WITHIN_CHANNEL",
        ),
    ),
    "mvn": net(
        "mvn",
        inputs(data=(2, 3, 4, 5), flat=(3, 6)),
        *each("MVN", "mvn_param", plain="", across="across_channels: true", mean="normalize_variance: false"),
        layer("MVN", "flat_across", "flat", mvn_param="across_channels: true eps: 0.01"),
    ),
    "reduction": net(
        "reduction",
        inputs(data=(2, 3, 4, 5)),
        *each(
            "Reduction",
            "reduction_param",
            everything="",
            sums="axis: 1",
            absolute="operation: ASUM axis: 2",
            squares="operation: SUMSQ axis: 1 coeff: 0.5",
            means="operation: MEAN axis: -1 coeff: 3",
        ),
    ),
    "arg_max": net(
        "arg_max",
        inputs(data=(2, 5, 3, 2)),
        *each(
            "ArgMax",
            "argmax_param",
            flat="",
            flat_value="out_max_val: true",
            flat_three="top_k: 3",
            flat_three_value="top_k: 3 out_max_val: true",
            axis="axis: 1",
            axis_value="axis: 1 out_max_val: true",
            axis_two="axis: 1 top_k: 2",
            axis_two_value="axis: -2 top_k: 2 out_max_val: true",
        ),
        layer("Threshold", "ties"),
        layer("ArgMax", "tied", "ties", argmax_param="axis: 1"),
        layer("ArgMax", "tied_two", "ties", argmax_param="axis: 1 top_k: 2"),
    ),
    "softmax": net(
        "softmax",
        inputs(data=(2, 3, 4, 5)),
        *each("Softmax", "softmax_param", channels="", last="axis: -1", first="axis: 2"),
    ),
    "spp": net(
        "spp",
        inputs(data=(2, 3, 9, 11)),
        *each(
            "SPP", "spp_param", one="pyramid_height: 1", three="pyramid_height: 3", mean="pyramid_height: 2 pool: AVE"
        ),
    ),
    "im2col": net(
        "im2col",
        inputs(data=(2, 3, 6, 7)),
        *each("Im2col", "convolution_param", plain="kernel_size: 3", padded="kernel_h: 2 kernel_w: 3 pad: 1 stride: 2"),
    ),
    "batch_reindex": net(
        "batch_reindex", inputs(data=(4, 3, 2), index=(6,)), layer("BatchReindex", "picked", "data index")
    ),
    "filter": net("filter", inputs(data=(4, 3, 2), mark=(4, 1)), layer("Filter", "kept", "data mark")),
    "constants": net(
        "constants",
        inputs(data=(2, 3, 4)),
        layer(
            "DummyData",
            "filled",
            "",
            dummy_data_param="shape { dim: 2 dim: 3 dim: 4 } data_filler { type: 'constant' value: 0.5 }",
        ),
        layer("Eltwise", "sum", "data filled"),
        layer("Concat", "joined", "filled data"),
        layer(
            "DummyData",
            "old",
            "",
            "o1 o2",
            dummy_data_param="num: 2 channels: 1 height: 3 width: 4 num: 2 channels: 2 height: 3 width: 4",
        ),
        layer("Flatten", "o1_flat", "o1"),
        layer("Flatten", "o2_flat", "o2"),
        layer("Parameter", "offset", "", parameter_param="shape { dim: 3 dim: 4 }"),
        layer("Bias", "moved", "data offset"),
    ),
    "lstm": net(
        "lstm",
        inputs(data=(4, 2, 5), cont=(4, 2)),
        recurrent("LSTM", "marked", "data cont"),
        layer("InnerProduct", "out", "marked", inner_product_param="num_output: 2 axis: 2"),
    ),
    "lstm_whole": net(
        "lstm_whole",
        inputs(data=(4, 2, 5)),
        layer("DummyData", "begin", "", dummy_data_param="shape { dim: 1 dim: 2 }"),
        layer("DummyData", "go", "", dummy_data_param="shape { dim: 3 dim: 2 } data_filler { value: 1 }"),
        layer("Concat", "cont", "begin go", concat_param="axis: 0"),
        recurrent("LSTM", "whole", "data cont"),
    ),
    "lstm_exposed": net(
        "lstm_exposed",
        inputs(data=(3, 2, 2, 2), cont=(3, 2), static=(2, 4), h0=(1, 2, 3), c0=(1, 2, 3)),
        recurrent("LSTM", "lstm", "data cont static h0 c0", "h h_end c_end", "expose_hidden: true"),
    ),
    "lstm_exposed_whole": net(
        "lstm_exposed_whole",
        inputs(data=(3, 2, 4), h0=(1, 2, 3), c0=(1, 2, 3)),
        layer("DummyData", "go", "", dummy_data_param="shape { dim: 3 dim: 2 } data_filler { value: 1 }"),
        recurrent("LSTM", "lstm", "data go h0 c0", "h h_end c_end", "expose_hidden: true"),
    ),
    "lstm_batch_first": net(
        "lstm_batch_first",
        inputs(data=(2, 3, 4)),
        layer("Slice", "steps", "data", "s1 s2 s3"),
        *[layer("Reshape", f"r{i}", f"s{i}", reshape_param="shape { dim: 1 dim: -1 dim: 4 }") for i in (1, 2, 3)],
        layer("Concat", "sequence", "r1 r2 r3", concat_param="axis: 0"),
        layer("DummyData", "go", "", dummy_data_param="shape { dim: 3 dim: 2 } data_filler { value: 1 }"),
        recurrent("LSTM", "lstm", "sequence go"),
        layer("Slice", "ends", "lstm", "e1 e2 end"),
        layer("Reshape", "last", "e2", reshape_param="shape { dim: -1 dim: 3 }"),
        layer("InnerProduct", "out", "last", inner_product_param="num_output: 2"),
    ).replace('name: "ends" type: "Slice"', 'name: "ends" type: "Slice" slice_param { axis: 0 }'),
    "rnn": net("rnn", inputs(data=(4, 2, 5), cont=(4, 2)), recurrent("RNN", "rnn", "data cont")),
    "rnn_exposed": net(
        "rnn_exposed",
        inputs(data=(3, 2, 5), cont=(3, 2), static=(2, 4), h0=(1, 2, 3)),
        recurrent("RNN", "rnn", "data cont static h0", "o h_end", "expose_hidden: true"),
    ),
    "lstm_unit": net(
        "lstm_unit",
        inputs(cell=(1, 2, 3), gates=(1, 2, 12), cont=(1, 2)),
        layer("LSTMUnit", "unit", "cell gates cont", "c h"),
    ),
    "shared": net(
        "shared",
        inputs(data=(2, 3, 4), other=(2, 3, 4)),
        layer("InnerProduct", "one", inner_product_param="num_output: 3", param='name: "w"'),
        layer("InnerProduct", "two", "other", inner_product_param="num_output: 3", param='name: "w"'),
    ),
    "in_place": net(
        "in_place",
        inputs(data=(2, 4, 6, 6)),
        layer("Convolution", "conv", "data", "x", convolution_param="num_output: 4 kernel_size: 3 pad: 1"),
        layer("BatchNorm", "norm", "x", "x"),
        layer("Scale", "scale", "x", "x", scale_param="bias_term: true"),
        layer("ReLU", "relu", "x", "x"),
        layer("Dropout", "drop", "x", "x"),
        layer("Eltwise", "sum", "x data"),
        layer("ReLU", "relu2", "sum", "sum"),
    ),
}
#: Older formats of network files.
CASES["first_format"] = """name: "first_format"
input: "data" input_dim: 2 input_dim: 3 input_dim: 8 input_dim: 8
layers { layer { name: "pad1" type: "padding" pad: 1 } bottom: "data" top: "pad1" }
layers { layer { name: "conv1" type: "conv" num_output: 4 kernelsize: 3 stride: 1 group: 1 biasterm: true
  weight_filler { type: "gaussian" std: 0.3 } } bottom: "pad1" top: "conv1" }
layers { layer { name: "relu1" type: "relu" } bottom: "conv1" top: "conv1" }
layers { layer { name: "norm1" type: "lrn" local_size: 3 alpha: 0.5 beta: 0.75 } bottom: "conv1" top: "norm1" }
layers { layer { name: "pool1" type: "pool" pool: AVE kernelsize: 3 stride: 2 } bottom: "norm1" top: "pool1" }
layers { layer { name: "drop1" type: "dropout" dropout_ratio: 0.4 } bottom: "pool1" top: "pool1" }
layers { layer { name: "fc1" type: "innerproduct" num_output: 3 } bottom: "pool1" top: "fc1" }
layers { layer { name: "prob" type: "softmax" } bottom: "fc1" top: "prob" }
"""
CASES["second_format"] = """name: "second_format"
# Comments, ; and , as separators, < > as brackets, and strings in two pieces.
input: 'da' "ta"; input_shape: < dim: [2, 3, 8, 8] >,
layers { name: "conv1" type: CONVOLUTION bottom: "data" top: "conv1" blobs_lr: 1 blobs_lr: 2 param: "w" param: ""
  convolution_param: { num_output: 0x4 kernel_size: 3 pad: 1 group: 1 } }
layers { name: "relu1" type: RELU bottom: "conv1" top: "conv1" relu_param { negative_slope: 1e-1 } }
layers { name: "pool1" type: POOLING bottom: "conv1" top: "pool1" pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layers { name: "cat" type: CONCAT bottom: "pool1" bottom: "pool1" top: "cat" concat_param { concat_dim: 1 } }
layers { name: "ip1" type: INNER_PRODUCT bottom: "cat" top: "ip1" inner_product_param { num_output: 5 } }
layers { name: "tanh" type: TANH bottom: "ip1" top: "ip1" }
layers { name: "prob" type: 20 bottom: "ip1" top: "prob" }
"""

#: The batch of the networks' second run, and the shapes of inputs and constants there, where not the first axis is the
#: batch; None: Caffe takes no other batch.
OTHER_BATCH = 3
OTHER_SHAPES = {
    "constants": {"filled": (3, 3, 4), "o1": (3, 1, 3, 4), "o2": (3, 2, 3, 4)},
    "inner_product_whole": None,
    "lstm": {"data": (4, 3, 5), "cont": (4, 3)},
    "lstm_batch_first": {"go": (3, 3)},
    "lstm_exposed": {"data": (3, 3, 2, 2), "cont": (3, 3), "static": (3, 4), "h0": (1, 3, 3), "c0": (1, 3, 3)},
    "lstm_exposed_whole": {"data": (3, 3, 4), "go": (3, 3), "h0": (1, 3, 3), "c0": (1, 3, 3)},
    "lstm_unit": None,
    "lstm_whole": {"data": (4, 3, 5), "begin": (1, 3), "go": (3, 3)},
    "reshape_batch": None,
    "rnn": {"data": (4, 3, 5), "cont": (4, 3)},
    "rnn_exposed": {"data": (3, 3, 5), "cont": (3, 3), "static": (3, 4), "h0": (1, 3, 3)},
}
