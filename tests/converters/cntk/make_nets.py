"""Makes ``nets.zip``: small networks as CNTK 2.7 writes them in ONNX, with inputs and CNTK's own outputs for them.

Run with the interpreter of the exporter's environment (CPython 3.6): ``python make_nets.py nets.zip``. Each network is
NAME.onnx, its inputs by their names and its outputs in CNTK's order NAME.npz, for a batch of 3; sequences have 5 steps.
"""

import io
import pathlib
import sys
import tempfile
import zipfile

import cntk
import numpy as np
from cntk import layers

BATCH, STEPS = 3, 5


def image(*shape):
    return cntk.input_variable(shape, name="x")


def series(*shape):
    return cntk.sequence.input_variable(shape, name="x")


def weights(*shape):
    return cntk.parameter(shape, init=cntk.glorot_uniform() if len(shape) > 1 else cntk.normal(0.5))


def loop(x, back=False, first=0.0):
    """A recurrence that none of the named layers is."""
    (width,) = x.shape
    before = cntk.placeholder(shape=(6,), dynamic_axes=x.dynamic_axes)
    shift = cntk.sequence.future_value if back else cntk.sequence.past_value
    after = cntk.tanh(cntk.times(x, weights(width, 6)) + cntk.times(shift(before, first), weights(6, 6)) + weights(6))
    after.replace_placeholders({before: after.output})
    return after


def loops(x):
    after = loop(x)
    return layers.Dense(3)(cntk.sequence.last(loop(cntk.splice(after, cntk.slice(after, 0, 0, 2)), first=0.3)))


def both_ways(kind, x):
    return layers.Recurrence(kind)(x), layers.Recurrence(kind.clone(cntk.CloneMethod.clone), go_backwards=True)(x)


def ends(forward, backward):
    return cntk.splice(cntk.sequence.last(forward), cntk.sequence.first(backward))


def letters(x):
    found = cntk.one_hot(cntk.argmax(layers.Dense(7)(x), axis=0), 7)
    return cntk.splice(found, cntk.reshape(layers.Embedding(7)(cntk.reshape(found, (7,))), (1, 7)), axis=0)


def attention(x):
    memory = layers.Recurrence(layers.GRU(6))(x)
    keys = cntk.sequence.unpack(memory, 0, no_mask_output=True)
    query = cntk.times(cntk.sequence.last(memory), weights(6, 6))
    share = cntk.softmax(cntk.times(cntk.tanh(keys + query), weights(6, 1)), axis=0)
    return cntk.reduce_sum(keys * share, axis=0)


def convnet(x):
    made = layers.Convolution((3, 3), 6, pad=True, activation=cntk.relu)(x)
    made = cntk.local_response_normalization(made, 2, 2.0, 1e-2, 0.75)
    made = layers.MaxPooling((3, 3), (2, 2), pad=True)(made)
    return layers.Dense(10)(layers.Dropout(0.5)(layers.Dense((4, 3), activation=cntk.relu)(made)))


def residual(x):
    made = layers.Convolution((3, 3), 6, pad=True, bias=False)(x)
    made = cntk.relu(layers.BatchNormalization(map_rank=1)(made))
    short = layers.Convolution((1, 1), 6, strides=2, bias=False)(made)
    joined = cntk.splice(short, layers.AveragePooling((2, 2), (2, 2))(made), axis=0)
    return layers.Dense(4)(layers.GlobalAveragePooling()(joined))


def film(x):
    """A convolutional network on each picture of a sequence, and a recurrent one on what it says."""
    made = layers.Convolution((3, 3), 3, pad=True, activation=cntk.relu)(x)
    made = layers.BatchNormalization(map_rank=1)(layers.MaxPooling((2, 2), (2, 2))(made))
    return cntk.sequence.last(layers.Recurrence(layers.LSTM(4))(layers.Dense(6)(made)))


def over_time(x):
    share = cntk.sequence.softmax(cntk.times(cntk.tanh(layers.Dense(6)(x)), weights(6, 1)))
    return cntk.splice(cntk.sequence.reduce_sum(x * share), cntk.sequence.reduce_max(x))


def spread(x):
    return cntk.splice(x, cntk.sequence.broadcast_as(layers.Dense(3)(cntk.sequence.last(x)), x))


def functions(x):
    clamped = cntk.clip(x, 0.2, 0.7)
    curves = [cntk.elu, cntk.selu, cntk.leaky_relu, cntk.sigmoid, cntk.tanh, cntk.softplus, cntk.softsign]
    others = [cntk.exp, cntk.abs, cntk.floor, cntk.ceil, cntk.sin, cntk.cos, cntk.sqrt, cntk.square, cntk.reciprocal]
    chosen = cntk.element_select(cntk.greater(x, 0.5), x, -x)
    pairs = [
        cntk.element_max(x, 0.5),
        cntk.element_min(x, cntk.square(x)),
        cntk.pow(x + 0.1, cntk.constant(2.0)),
        chosen,
    ]
    return cntk.splice(clamped, cntk.log(x + 1), *([curve(x) for curve in curves + others] + pairs))


def reductions(x):
    kinds = [cntk.reduce_sum, cntk.reduce_mean, cntk.reduce_max, cntk.reduce_min, cntk.reduce_log_sum_exp]
    kinds += [cntk.reduce_prod, cntk.reduce_l1, cntk.reduce_l2, cntk.reduce_sum_square]
    return cntk.splice(*[kind(x, axis=1) for kind in kinds], axis=0)


def shapes(x):
    flat = cntk.flatten(cntk.transpose(x, (2, 0, 1)), 1)
    ends = cntk.splice(cntk.slice(flat, 1, -2, 0), cntk.constant(np.ones((4, 1), np.float32)), axis=1)
    return cntk.reshape(cntk.pad(ends, [(0, 0), (1, 2)]), (2, 1, 12))


def products(x):
    rank_two = cntk.times(x, weights(3, 8, 2, 5), output_rank=2)
    left = cntk.reshape(cntk.times(weights(2, 3), x), (2, 8))
    own = cntk.times(x, cntk.transpose(x, (1, 0)))
    return cntk.splice(cntk.flatten(rank_two, 0), cntk.flatten(left, 0), cntk.flatten(own, 0), axis=1)


def unpooled(x):
    pooled = cntk.pooling(x, cntk.MAX_POOLING, (2, 2), (2, 2))
    return cntk.unpooling(pooled, x, cntk.MAX_UNPOOLING, (2, 2), (2, 2))


def two_inputs(x):
    other = cntk.sequence.input_variable(5, name="second")
    return layers.Dense(3)(cntk.splice(x, cntk.sequence.last(other)))


NETS = {
    "acts": lambda: functions(image(6)),
    "attention": lambda: attention(series(8)),
    "birnn": lambda: layers.Dense(3)(cntk.splice(*both_ways(layers.LSTM(5), series(8)))),
    "birnn_ends": lambda: ends(*both_ways(layers.GRU(5), series(8))),
    "conv1d": lambda: layers.Dense(4)(layers.Convolution((3,), 5, pad=True)(cntk.transpose(image(8, 8), (1, 0)))),
    "conv3d": lambda: layers.MaxPooling((1, 2, 2), (1, 2, 2))(
        layers.Convolution((3, 3, 3), 3, pad=True)(image(1, 4, 6, 6))
    ),
    "convnet": lambda: convnet(image(1, 8, 8)),
    "crop": lambda: cntk.crop_manual(image(2, 6, 6), cntk.input_variable((2, 4, 4)), 1, 1),
    "deconv": lambda: layers.ConvolutionTranspose((3, 3), 4, strides=2, pad=True)(image(2, 6, 6)),
    "film": lambda: film(series(1, 8, 8)),
    "future": lambda: cntk.sequence.future_value(series(8), time_step=2) + 1.0,
    "gather": lambda: cntk.gather(weights(8, 3), cntk.argmax(image(8), axis=0)),
    "gru": lambda: layers.Dense(3)(cntk.sequence.last(layers.Recurrence(layers.GRU(6))(series(8)))),
    "image_scaler": lambda: cntk.image_scaler(image(3, 4, 4), 2.0, [1.0, 2.0, 3.0]),
    "is_first": lambda: series_marks(series(8)),
    "layer_norm": lambda: layers.LayerNormalization()(series(8)),
    "letters": lambda: letters(image(4)),
    "loop": lambda: loops(series(8)),
    "loop_back": lambda: cntk.sequence.first(loop(series(8), back=True)),
    "lstm": lambda: cntk.sequence.last(layers.Recurrence(layers.LSTM(5))(layers.Recurrence(layers.LSTM(6))(series(8)))),
    "lstm_first": lambda: layers.Recurrence(layers.LSTM(6), initial_state=0.3)(series(8)),
    "lstm_peepholes": lambda: layers.Recurrence(layers.LSTM(6, use_peepholes=True))(series(8)),
    "normal": lambda: cntk.mean_variance_normalization(image(2, 4, 4)),
    "over_time": lambda: over_time(series(8)),
    "past": lambda: cntk.sequence.past_value(series(8), initial_state=0.5),
    "products": lambda: products(image(3, 8)),
    "reductions": lambda: reductions(image(3, 8)),
    "residual": lambda: residual(image(3, 8, 8)),
    "rnn": lambda: layers.Recurrence(layers.RNNStep(6, activation=cntk.relu), go_backwards=True)(series(8)),
    "rows": lambda: layers.Dense(3)(
        cntk.sequence.last(layers.Recurrence(layers.LSTM(6))(cntk.to_sequence(image(5, 8))))
    ),
    "shapes": lambda: shapes(image(2, 3, 4)),
    "slice_time": lambda: cntk.sequence.slice(series(8), 1, 4),
    "softmax": lambda: cntk.splice(
        cntk.softmax(image(3, 4), axis=0), cntk.constant(np.eye(3, 4, dtype=np.float32)), axis=0
    ),
    "space_to_depth": lambda: cntk.depth_to_space(cntk.space_to_depth(image(4, 4, 4), 2), 2) * 2,
    "spread": lambda: spread(series(8)),
    "top": lambda: cntk.combine(cntk.top_k(layers.Dense(9)(image(4)), 3).outputs),
    "two_inputs": lambda: two_inputs(image(4)),
    "unpooled": lambda: unpooled(image(2, 4, 4)),
}


def series_marks(x):
    return x * cntk.sequence.is_first(x)


def made(build, folder):
    """Return a network's file and its samples, as bytes."""
    function = build()
    inputs = {}
    for position, variable in enumerate(function.arguments):
        steps = (STEPS,) if len(variable.dynamic_axes) == 2 else ()
        values = np.random.RandomState(position).rand(BATCH, *steps, *variable.shape)
        inputs[variable] = values.astype(np.float32)
    outputs = function.eval(inputs)
    if not isinstance(outputs, dict):
        outputs = {function.outputs[0]: outputs}
    arrays = {"in_" + variable.name: values for variable, values in inputs.items()}
    for position, variable in enumerate(function.outputs):
        arrays[f"out_{position}"] = np.asarray(outputs[variable])
    file = pathlib.Path(folder) / "model.onnx"
    function.save(str(file), format=cntk.ModelFormat.ONNX)
    samples = io.BytesIO()
    np.savez(samples, **arrays)
    return file.read_bytes(), samples.getvalue()


def main():
    cntk.cntk_py.set_fixed_random_seed(1)
    with zipfile.ZipFile(sys.argv[1], "w", zipfile.ZIP_DEFLATED) as archive, tempfile.TemporaryDirectory() as folder:
        for name, build in sorted(NETS.items()):
            for suffix, content in zip((".onnx", ".npz"), made(build, folder)):  # noqa: B905 - Python 3.6
                # No time of day: the same networks are the same archive.
                entry = zipfile.ZipInfo(name + suffix)
                entry.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(entry, content)


if __name__ == "__main__":
    main()
