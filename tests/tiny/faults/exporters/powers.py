"""Writes prototxt files, for which there is a converter: 2 x + 1, which needs no weights."""

from pathlib import Path

import numpy

ENVIRONMENT = {"requirements": ["numpy==" + numpy.__version__]}
PATHS = {
    "native": {"kind": "native", "format": "prototxt", "batch": "dynamic"},
    "onnx": {"kind": "onnx", "format": "onnx", "batch": "static", "converter": "caffe", "source": "native"},
    "onnx-dynamic": {"kind": "onnx", "format": "onnx", "batch": "dynamic", "converter": "caffe", "source": "native"},
}
NET = """
name: "powers"
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 4 } } }
layer { name: "y" type: "Power" bottom: "x" top: "y" power_param { power: 1 scale: 2 shift: 1 } }
"""


def train(model, data, seed):
    with Path(__file__).with_name("trained").open("a") as noted:
        noted.write(model + "\n")


def samples(model, rows, seed):
    return {"x": numpy.random.default_rng(seed).normal(size=(rows, 4)).astype(numpy.float32)}


def predict(trained, inputs):
    return {"y": 2 * inputs["x"] + 1}


def export(trained, path, inputs, folder):
    Path(folder, "net.prototxt").write_text(NET)
    return {"entry": "net.prototxt"}
