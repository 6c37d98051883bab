"""The models of this suite: replace the body of each function by your own framework's calls.

As it stands it is a linear classifier in numpy, written to ONNX with a fixed and with a symbolic batch.
"""

import os

import numpy as np

#: What your model needs to be built and exported; it gets a virtual environment of its own.
ENVIRONMENT = {"python": ">=3.11,<3.14", "requirements": ["numpy==2.4.6", "onnx==1.23.2"]}

#: How the model leaves the framework: kind is native or onnx, format is what a runtime must take.
PATHS = {
    "onnx": {"kind": "onnx", "format": "onnx", "batch": "static"},
    "onnx-dynamic": {"kind": "onnx", "format": "onnx", "batch": "dynamic"},
}


def train(model, data, seed):
    """Return the trained model, whatever it is: the other functions get it back."""
    generator = np.random.default_rng(seed)
    return generator.normal(size=(8, 3)).astype(np.float32), np.zeros(3, np.float32)


def samples(model, rows, seed):
    """Return reference inputs, {name: array of `rows` rows}; not needed for a model that reads a data set."""
    return {"x": np.random.default_rng(seed + 1).normal(size=(rows, 8)).astype(np.float32)}


def predict(trained, inputs):
    """Return the framework's own outputs, {name: array}: what every runtime is compared with."""
    weights, bias = trained
    return {"logits": inputs["x"] @ weights + bias}


def export(trained, path, inputs, folder):
    """Write the artifact below `folder` and say which file is its entry."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights, bias = trained
    batch = "batch" if path == "onnx-dynamic" else len(inputs["x"])
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "weights", "bias"], ["logits"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 3])],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(bias, "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, os.path.join(folder, "model.onnx"))
    return {"entry": "model.onnx", "facts": {"opset": 17, "ir_version": 8}}
