"""The two file formats: what is read, in which forms, and that no file brings the reader down."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import caffe_writer
import numpy as np
import pytest
from caffe_running import fixture_files
from hypothesis import given, settings
from hypothesis import strategies as st

from portmatrix.converters import caffe
from portmatrix.converters.caffe import net, prototxt, wire
from portmatrix.converters.errors import ConversionError, MalformedFile

NETWORK, WEIGHTS = fixture_files("second_format")
VALUES = np.arange(6, dtype=np.float32).reshape(2, 3)


def layers(data: bytes) -> list[wire.Layer]:
    return wire.parse(memoryview(data), "weights")


@pytest.mark.parametrize(
    "form", [{}, {"legacy": True}, {"double": True}, {"packed": False}, {"double": True, "packed": False}]
)
def test_every_form_of_a_blob_is_read(form: dict[str, bool]) -> None:
    (layer,) = layers(caffe_writer.weights({"ip": [VALUES]}, **form))
    (blob,) = layer.blobs
    assert (layer.name, blob.values.dtype.itemsize) == ("ip", 4)
    assert blob.shape == ((1, 1, 2, 3) if form.get("legacy") else (2, 3))
    np.testing.assert_array_equal(blob.values, VALUES.ravel())


@pytest.mark.parametrize("version", [0, 1, 2])
def test_layers_of_every_version_are_read(version: int) -> None:
    data = caffe_writer.layer("conv", [caffe_writer.blob(VALUES), caffe_writer.blob(VALUES[0])], version)
    (layer,) = layers(data)
    assert (layer.name, [blob.values.size for blob in layer.blobs]) == ("conv", [6, 3])


def test_numbers_in_several_pieces_are_one_blob() -> None:
    piece = caffe_writer.field(5, VALUES.tobytes())
    (layer,) = layers(caffe_writer.layer("ip", [piece + piece]))
    np.testing.assert_array_equal(layer.blobs[0].values, np.concatenate([VALUES.ravel()] * 2))


def test_packed_numbers_stay_where_they_are() -> None:
    data = bytearray(caffe_writer.weights({"ip": [VALUES]}))
    (layer,) = wire.parse(memoryview(data), "weights")
    data[data.index(VALUES.tobytes()) : data.index(VALUES.tobytes()) + 4] = np.float32(7).tobytes()
    assert layer.blobs[0].values[0] == 7


def test_weights_are_not_copied_when_they_are_converted(tmp_path: Path) -> None:
    weight = np.zeros((512, 8192), np.float32)
    network = (
        'input: "x" input_shape { dim: 1 dim: 8192 } layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y" '
    )
    (tmp_path / "a.prototxt").write_text(network + "inner_product_param { num_output: 512 bias_term: false } }")
    (tmp_path / "a.caffemodel").write_bytes(caffe_writer.weights({"ip": [weight]}))
    tracemalloc.start()
    try:
        caffe.convert([tmp_path / "a.prototxt", tmp_path / "a.caffemodel"], tmp_path / "a.onnx")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < weight.nbytes / 4


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xa2\x06\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "reaches beyond"),
        (b"\xa2\x06\xff", "ends inside a number"),
        (b"\xff" * 11, "more than ten bytes"),
        (b"\x00\x00", "number 0"),
        (b"\x0b", "wire type 3"),
        (caffe_writer.layer("x", [caffe_writer.field(5, b"123")]), "no multiple of 4"),
        (caffe_writer.layer("x", [caffe_writer.field(7, caffe_writer.field(1, b"\x01" * 40))]), "dimensions"),
        (caffe_writer.field(100, caffe_writer.field(1, b"\xff\xfe")), "no UTF-8"),
        (caffe_writer.layer("x", []) * (wire.MOST_LAYERS + 1), "layers"),
    ],
)
def test_damaged_weights_are_refused_with_their_place(data: bytes, message: str) -> None:
    with pytest.raises(MalformedFile, match=rf"weights: byte \d+: .*{message}"):
        layers(data)


def test_empty_and_hdf5_weights_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "w.caffemodel"
    for content, message in ((b"", "empty"), (b"\x89HDF\r\n\x1a\n" + b"\0" * 50, "is HDF5")):
        file.write_bytes(content)
        with pytest.raises(MalformedFile, match=message):
            wire.read(file)


def test_text_is_read_in_all_its_forms() -> None:
    text = r"""
    # A comment with { brackets }
    name: 'it\'s' "\x20\"a\" \101\n" ; input: "data", input: 'other' force_backward: true
    input_shape: { dim: [1, 0x10] dim: 010 } input_shape < dim: 3 ; >
    layer: [{ name: "one" type: "ReLU" relu_param { negative_slope: -.5e-1f engine: CAFFE } }, { name: "two" }]
    layer { name: "three" convolution_param { num_output: 3 } convolution_param { pad: 1 group: 2 } }
    """
    message = prototxt.parse(text, "net")
    assert message.text("name") == 'it\'s "a" A\n'
    assert message.texts("input") == ["data", "other"]
    assert [shape.wholes("dim") for shape in message.messages("input_shape")] == [[1, 16, 8], [3]]
    first, _, third = message.messages("layer")
    assert first.message("relu_param").real("negative_slope") == -0.05
    merged = third.message("convolution_param")
    assert (merged.whole("num_output"), merged.wholes("pad"), merged.whole("group")) == (3, [1], 2)
    assert merged.flag("bias_term")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('name: "a"\nlayer { name: }', "line 2: expected a value for name"),
        ('layer { name: "a"', "expected '}' for the Layer of line 1"),
        ('layer {\n name: "a\n}', "line 2: .* cannot be read"),
        ('nane: "a"', "no field 'nane'; did you mean 'name'"),
        ('base_lr: 0.1 net: "a"', "a solver's file"),
        ("layer { pooling_param { pool: MIN } }", "expected one of MAX, AVE, STOCHASTIC"),
        ("layer { pooling_param { kernel_size: -1 } }", "'-1' is no value for kernel_size, a uint"),
        ("layer { convolution_param: 3 }", "convolution_param is a message"),
        ("layer { name { } }", "name is a string, not a message"),
        ("layer name", "expected ':' after layer"),
        ("layer {" * 100, "deeper than"),
        ("layer { any_param " + "{ x " * 100, "deeper than"),
        ('name: "\\377"', "no UTF-8"),
    ],
)
def test_damaged_text_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(MalformedFile, match=rf"net: line \d+: |{message}") as raised:
        prototxt.parse(text, "net")
    assert raised.match(message)


def test_binary_given_as_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "net.prototxt"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(MalformedFile, match="no UTF-8 text"):
        prototxt.read(file)


def attempt(text: bytes, weights: bytes) -> None:
    """Read both files and convert them as far as it goes; nothing but a ConversionError may come out."""
    try:
        specs = net.layers(prototxt.parse(text.decode(errors="replace"), "net"))
        net.give_weights(specs, wire.parse(memoryview(weights), "weights"))
        network = caffe.Network("fuzz", "Caffe")
        caffe.Graph(network, specs, {}, weighted=True).build(caffe.TRANSLATIONS)
    except ConversionError:
        pass


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.binary(max_size=200), st.binary(max_size=200))
def test_random_bytes_are_refused(text: bytes, weights: bytes) -> None:
    attempt(text, WEIGHTS.read_bytes())
    attempt(NETWORK.read_bytes(), weights)
    attempt(text, weights)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.data())
def test_mutated_weights_are_read_or_refused(data: st.DataObject) -> None:
    attempt(NETWORK.read_bytes(), mutated(WEIGHTS.read_bytes(), data))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.data())
def test_mutated_networks_are_converted_or_refused(data: st.DataObject) -> None:
    name = data.draw(
        st.sampled_from(["second_format", "first_format", "arranging", "lstm", "pooling", "scale", "arg_max"])
    )
    network, *weights = fixture_files(name)
    attempt(mutated(network.read_bytes(), data), weights[0].read_bytes() if weights else b"")


def mutated(content: bytes, data: st.DataObject) -> bytes:
    """Cut, overwrite, repeat or exchange parts of a file."""
    out = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, max(0, len(out) - 1)))
        end = place + data.draw(st.integers(0, 12))
        choice = data.draw(st.integers(0, 3))
        if choice == 0:
            del out[place:end]
        elif choice == 1:
            out[place:end] = data.draw(st.binary(max_size=6))
        elif choice == 2:
            out[place:place] = out[place:end] * data.draw(st.integers(1, 4))
        else:
            out[place:end] = data.draw(
                st.sampled_from([b"-1", b"0", b"999999999999", b"4294967295", b"{", b"}", b"\xff" * 9])
            )
    return bytes(out)
