"""Whole networks: weights and their names, training networks, phases, outputs, refusals; well-known architectures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import caffe_writer
import numpy as np
import pytest
from caffe_architectures import ARCHITECTURES
from caffe_cases import inputs, layer, net
from caffe_running import Converted, run

from portmatrix.converters import caffe
from portmatrix.converters.caffe import Graph, prototxt, step
from portmatrix.converters.caffe import net as networks
from portmatrix.converters.errors import ConversionError, Unsupported
from portmatrix.converters.network import Network

Convert = Callable[..., Converted]

RANDOM = np.random.default_rng(3)
DATA = inputs(data=(2, 3))
DENSE = layer("InnerProduct", "ip", inner_product_param="num_output: 4")
WEIGHT, BIAS = RANDOM.normal(size=(4, 3)).astype(np.float32), RANDOM.normal(size=4).astype(np.float32)
X = RANDOM.normal(size=(5, 3)).astype(np.float32)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architectures_are_converted_and_run(name: str, convert: Convert, monkeypatch: pytest.MonkeyPatch) -> None:
    build, small = ARCHITECTURES[name]
    text = build(width=1 / 16, classes=7, **small)
    weights = weights_for(text, monkeypatch)
    converted = convert(text, weights)
    size = converted.inputs["data"][1:]
    found = converted.run(data=RANDOM.normal(size=(2, *size)).astype(np.float32))
    assert converted.inputs["data"][0] == "batch"
    (output,) = found.values()
    assert np.isfinite(output).all()
    assert output.std() > 0
    if name != "fcn8s":
        assert output.shape[:2] == (2, 7)
        np.testing.assert_allclose(output.reshape(2, 7, -1).sum(axis=1), 1, rtol=1e-5)
    else:
        assert output.shape == (2, 7, *size[1:])


def weights_for(text: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[np.ndarray]]:
    """Random weights of the shapes that the layers ask for."""
    found: dict[str, list[np.ndarray]] = {}

    def blobs(self: step.Step, *shapes: tuple[int, ...]) -> list[np.ndarray]:
        drawn = [RANDOM.uniform(0.1, 1, shape) / np.sqrt(np.prod(shape[1:])) for shape in shapes]
        found[self.spec.name] = [array.astype(np.float32) for array in drawn]
        return found[self.spec.name]

    with monkeypatch.context() as patched:
        patched.setattr(step.Step, "blobs", blobs)
        graph = Graph(Network("shapes", "Caffe"), networks.layers(prototxt.parse(text, "net")), {}, weighted=True)
        graph.build(caffe.TRANSLATIONS)
    return found


@pytest.mark.parametrize("form", [{}, {"legacy": True}, {"double": True}])
def test_a_network_computes_with_its_weights_in_every_form(form: dict[str, bool], convert: Convert) -> None:
    converted = convert(net("n", DATA, DENSE), caffe_writer.weights({"other": [X], "ip": [WEIGHT, BIAS]}, **form))
    np.testing.assert_allclose(converted.run(data=X)["ip"], X @ WEIGHT.T + BIAS, rtol=1e-5, atol=1e-6)


def test_a_network_without_weights_needs_no_weight_file(convert: Convert) -> None:
    assert convert(net("n", DATA, layer("ReLU", "r"))).operators == ["Relu"]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (None, r"layer 'ip' of type InnerProduct \(line \d+\): needs weights, and none were given"),
        ({"fc": [WEIGHT, BIAS]}, "the weights have no layer of this name"),
        ({"ip": [WEIGHT]}, "hold 1 blobs for it, the network needs 2"),
        ({"ip": [WEIGHT.T, BIAS]}, "blob 0 is 3 4 in the weights, and 4 3 by the network file"),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights: object, message: str, convert: Convert, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=message):
        convert(net("n", DATA, DENSE), weights)
    assert not (tmp_path / "net.onnx").exists()


def test_a_blob_cut_short_is_refused(convert: Convert) -> None:
    short = caffe_writer.field(5, WEIGHT.tobytes()[:-4]) + caffe_writer.field(7, caffe_writer.field(1, bytes([4, 3])))
    with pytest.raises(ConversionError, match="holds 11 numbers, 12 for its shape"):
        convert(net("n", DATA, DENSE), caffe_writer.layer("ip", [short, caffe_writer.blob(BIAS)]))


def test_weights_alone_are_refused(tmp_path: Path) -> None:
    (tmp_path / "w.caffemodel").write_bytes(caffe_writer.weights({"ip": [WEIGHT]}))
    with pytest.raises(ConversionError, match=r"add the network's prototxt"):
        caffe.convert([tmp_path / "w.caffemodel"], tmp_path / "w.onnx")


TRAIN = """
name: "train"
layer { name: "mnist" type: "Data" top: "data" top: "label" include { phase: TRAIN } data_param { batch_size: 64 } }
layer { name: "mnist" type: "Data" top: "data" top: "label" include { phase: TEST } transform_param { crop_size: 6 }
  data_param { source: "nowhere" batch_size: 8 backend: LMDB } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" param { lr_mult: 1 } param { lr_mult: 2 }
  convolution_param { num_output: 2 kernel_size: 3 weight_filler { type: "xavier" } bias_filler { type: "constant" } } }
layer { name: "only_training" type: "Python" bottom: "conv" top: "t" exclude { phase: TEST } }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip" inner_product_param { num_output: 4 } }
layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy" include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
TRAIN_WEIGHTS = {
    "conv": [RANDOM.normal(size=(2, 3, 3, 3)).astype(np.float32), BIAS[:2]],
    "ip": [RANDOM.normal(size=(4, 32)).astype(np.float32), BIAS],
}


def test_a_training_network_becomes_what_it_is_for(convert: Convert) -> None:
    converted = convert(TRAIN, TRAIN_WEIGHTS)
    assert converted.inputs == {"data": ["batch", 3, 6, 6]}
    assert converted.outputs == {"prob": ["batch", 4]}
    assert converted.operators == ["Conv", "Flatten", "Gemm", "Softmax"]


@pytest.mark.parametrize(
    ("loss", "outputs", "operators"),
    [
        ("SigmoidCrossEntropyLoss", ["prob"], ["Gemm", "Sigmoid"]),
        ("InfogainLoss", ["prob"], ["Gemm", "Softmax"]),
        ("EuclideanLoss", ["ip"], ["Gemm"]),
        ("HingeLoss", ["ip"], ["Gemm"]),
    ],
)
def test_a_loss_is_reduced_to_its_last_layer(
    loss: str, outputs: list[str], operators: list[str], convert: Convert
) -> None:
    text = net("n", inputs(data=(2, 3), label=(2, 4)), DENSE, layer(loss, "loss", "ip label"))
    converted = convert(text, {"ip": [WEIGHT, BIAS]})
    assert (list(converted.outputs), converted.operators) == (outputs, operators)
    assert list(converted.inputs) == ["data"]


def test_data_of_unknown_shape_has_to_be_told(convert: Convert) -> None:
    text = net(
        "n", layer("HDF5Data", "d", "", "data label", hdf5_data_param='source: "x" batch_size: 4'), layer("ReLU", "r")
    )
    with pytest.raises(Unsupported, match="give the deploy network"):
        convert(text)
    assert convert(text, input_shapes={"data": (4, 7)}).inputs == {"data": ["batch", 7]}
    with pytest.raises(ConversionError, match="no input 'date'"):
        convert(text, input_shapes={"data": (4, 7), "date": (1,)})


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        ("include { phase: TEST }", True),
        ("include { phase: TRAIN }", False),
        ("exclude { phase: TEST }", False),
        ("exclude { stage: 'deploy' }", True),
        ("include { stage: 'deploy' }", False),
        ("include { phase: TRAIN } include { not_stage: 'x' min_level: 0 }", True),
        ("include { max_level: -1 }", False),
    ],
)
def test_layers_take_part_by_their_rules(rule: str, kept: bool, convert: Convert) -> None:
    ruled = layer("Sigmoid", "s", "data", "data").replace('type: "Sigmoid"', f'type: "Sigmoid" {rule}')
    operators = convert(net("n", DATA, ruled, layer("ReLU", "r"))).operators
    assert operators == (["Sigmoid", "Relu"] if kept else ["Relu"])


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (layer("Python", "p", "data"), Unsupported, "layer 'p' of type Python"),
        (layer("SsdThing", "p"), Unsupported, "layer 'p' of type SsdThing"),
        (
            layer("ReLU", "p", "date"),
            ConversionError,
            r"its bottom 'date' is written by no layer before it; there are: data",
        ),
        (
            layer("ReLU", "p", "data", "a") + layer("TanH", "q", "data", "a"),
            ConversionError,
            "written by a layer before it",
        ),
        (layer("ReLU", "p", relu_param="slope: 3"), ConversionError, r"line \d+ has the field 'slope'"),
        (layer("Pooling", "p", pooling_param="kernel_size: 2"), ConversionError, "needs a blob of 4 axes"),
        (layer("Softmax", "p", softmax_param="axis: 4"), ConversionError, "axis 4 is out of range"),
        (layer("Concat", "p", "data other"), ConversionError, "they may differ in axis 1 alone"),
        (layer("Reshape", "p", reshape_param="shape { dim: 0 dim: 5 }"), ConversionError, "cannot be reshaped"),
        (layer("InnerProduct", "p", inner_product_param="num_output: 2 axis: 0"), Unsupported, "depends on the batch"),
        (layer("Slice", "p", "data", "a b"), ConversionError, "cannot be divided into 2 parts"),
        ("", ConversionError, "computes nothing"),
    ],
)
def test_what_cannot_be_converted_is_named(text: str, error: type[Exception], message: str, convert: Convert) -> None:
    with pytest.raises(error, match=message):
        convert(net("n", inputs(data=(2, 3), other=(4, 3)), text))


def test_layers_of_common_forks(convert: Convert) -> None:
    text = net(
        "forks",
        inputs(data=(1, 3, 4, 5)),
        layer("ConvolutionDepthwise", "dw", convolution_param="num_output: 3 kernel_size: 3 pad: 1 bias_term: false"),
        layer("ReLU6", "r", "dw"),
        layer("Permute", "p", "r", permute_param="order: 0 order: 2 order: 3 order: 1"),
    )
    converted = convert(text, {"dw": [np.full((3, 1, 3, 3), 2, np.float32)]})
    found = converted.run(data=np.ones((2, 3, 4, 5), np.float32))["p"]
    assert found.shape == (2, 4, 5, 3)
    assert (found.min(), found.max()) == (6, 6)
    assert converted.operators == ["Conv", "Clip", "Transpose"]


def test_an_input_that_is_passed_on_is_an_output_of_another_name(convert: Convert) -> None:
    converted = convert(net("n", DATA, layer("Dropout", "drop", "data", "data")))
    assert converted.operators == ["Identity"]
    np.testing.assert_array_equal(next(iter(converted.run(data=X).values())), X)


def test_blobs_and_layers_of_the_same_names_do_not_collide(convert: Convert) -> None:
    text = net(
        "n",
        DATA,
        layer("TanH", "Relu", "data", "a"),
        layer("ReLU", "a", "a", "ip/weight"),
        DENSE.replace('"data"', '"ip/weight"'),
    )
    found = convert(text, {"ip": [WEIGHT, BIAS]}).run(data=X)
    np.testing.assert_allclose(found["ip"], np.maximum(np.tanh(X), 0) @ WEIGHT.T + BIAS, rtol=1e-5, atol=1e-6)


def test_a_sequence_from_a_convolution_keeps_its_time(convert: Convert) -> None:
    """Images (time * batch), as recurrent networks on video have them, and marks (time, batch)."""
    text = net(
        "video",
        inputs(data=(4, 3), cont=(4, 1)),
        layer("Reshape", "sequence", reshape_param="shape { dim: 4 dim: 1 dim: 3 }"),
        layer("LSTM", "lstm", "sequence cont", recurrent_param="num_output: 2"),
    )
    blobs = [RANDOM.normal(size=shape).astype(np.float32) for shape in ((8, 3), (8,), (8, 2))]
    converted = convert(text, {"lstm": blobs})
    one = converted.run(data=np.tile(X[:4, None], (1, 1, 1)).reshape(4, 3), cont=np.ones((4, 1), np.float32))["lstm"]
    two = converted.run(data=np.tile(X[:4, None], (1, 2, 1)).reshape(8, 3), cont=np.ones((4, 2), np.float32))["lstm"]
    assert (one.shape, two.shape) == ((4, 1, 2), (4, 2, 2))
    np.testing.assert_allclose(two, np.tile(one, (1, 2, 1)), rtol=1e-6)


def test_files_are_recognized_by_their_names() -> None:
    prototxt_file, weights = Path("a.prototxt"), Path("b.caffemodel")
    assert caffe.recognizes([prototxt_file, weights])
    assert caffe.recognizes([weights, prototxt_file])
    assert caffe.recognizes([prototxt_file])
    for files in ([], [Path("a.t7")], [prototxt_file, Path("a.npz")], [prototxt_file, prototxt_file]):
        assert not caffe.recognizes(files)


def test_run_reads_what_convert_wrote(convert: Convert) -> None:
    converted = convert(net("n", DATA, layer("ReLU", "r")))
    assert run(converted.file, {"data": -np.ones((1, 3), np.float32)})["r"].tolist() == [[0, 0, 0]]


def test_a_reshape_may_turn_steps_and_batch_round(convert: Convert) -> None:
    """As between a recurrent layer and a layer over images: 1 x N x C, then N x 1 x C."""
    turned = layer("Reshape", "back", "front", reshape_param="shape { dim: -1 dim: 1 dim: 3 }")
    front = layer("Slice", "slice", "data", "front rest", slice_param="axis: 0 slice_point: 1")
    converted = convert(net("turns", inputs(data=(2, 1, 3), cont=(2, 1)), LSTM_READER, front, turned), LSTM_WEIGHTS)
    data = RANDOM.normal(size=(2, 4, 3)).astype(np.float32)
    found = converted.run(data=data, cont=np.ones((2, 4), np.float32))["back"]
    np.testing.assert_array_equal(found, data[:1].reshape(4, 1, 3))


#: A layer that makes the input one of steps x batch x features.
LSTM_READER = layer("LSTM", "lstm", "data cont", recurrent_param="num_output: 2")
LSTM_WEIGHTS = {"lstm": [np.ones(shape, np.float32) for shape in ((8, 3), (8,), (8, 2))]}
