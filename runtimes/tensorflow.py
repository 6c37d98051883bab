"""TensorFlow itself running what it saves: SavedModel, Keras 3 archives, TensorFlow Lite, frozen graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

Arrays = dict[str, Any]

ENVIRONMENTS = {
    "": {
        "python": ">=3.11,<3.14",
        # The exporter's requirements, item by item: equal lists share one environment.
        "requirements": [
            "tensorflow==2.21.0",
            "keras==3.15.1",
            "tf2onnx==1.17.0",
            "onnx==1.23.2",
            "h5py==3.14.0",
            "protobuf==7.36.2",
            "numpy==2.4.6",
            "ml_dtypes==0.6.0",
            "flatbuffers==25.12.19",
            "optree==0.20.0",
            "openvino==2026.4.1",
        ],
        "env": {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "-1"},
    }
}
FORMATS = ("savedmodel", "keras", "tflite", "tensorflow-graph")


class Session(NamedTuple):
    """The names of the inputs in order, a function from inputs to outputs, and whatever must stay alive for it."""

    inputs: list[str]
    call: Callable[[Arrays], Arrays]
    owner: Any


def load(entry: str, format: str, signature: Mapping[str, Any], threads: int) -> Session:
    """Load the folder or file ``entry`` to run on ``threads`` threads.

    Raises ``RuntimeError`` if TensorFlow already runs with another number of threads in this process.
    """
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    if format == "savedmodel":
        return _saved_model(entry)
    if format == "keras":
        return _keras(entry, signature)
    if format == "tensorflow-graph":
        return _frozen(entry, signature)
    return _lite(entry, threads)


def input_names(session: Session) -> Sequence[str]:
    """Return the names of the inputs in order (a SavedModel keeps its own in alphabetical order)."""
    return session.inputs


def run(session: Session, inputs: Arrays) -> Arrays:
    """Return the outputs by name: the serving signature's, a Keras model's own, or the TFLite signature's."""
    return session.call(inputs)


def degraded(session: Session) -> str:
    """Return an empty string: all formats run on TensorFlow's CPU kernels or not at all."""
    return ""


def _saved_model(entry: str) -> Session:
    """Return a session of the signature ``serving_default``; raises ``KeyError`` if there is none."""
    import tensorflow as tf

    model = tf.saved_model.load(entry)
    serve = model.signatures["serving_default"]
    names = list(serve.structured_input_signature[1])
    outputs = _in_order(serve.structured_outputs)

    def call(inputs: Arrays) -> Arrays:
        result = serve(**{name: tf.constant(inputs[name]) for name in names})
        return {name: result[name].numpy() for name in outputs}

    # A signature holds its model weakly: its variables would be gone at the first call.
    return Session(names, call, model)


def _keras(entry: str, signature: Mapping[str, Any]) -> Session:
    """Return a session of a Keras archive; raises ``ValueError`` for one that brings code of its own (lambdas)."""
    import keras

    model = keras.models.load_model(entry, compile=False, safe_mode=True)
    names = [tensor.name for tensor in model.inputs or []] or [tensor["name"] for tensor in signature["inputs"]]
    wanted = [tensor["name"] for tensor in signature["outputs"]]

    def call(inputs: Arrays) -> Arrays:
        # A single tensor fits every model; of several, Keras finds its own by their names.
        result = model(inputs[names[0]] if len(names) == 1 else {name: inputs[name] for name in names}, training=False)
        if not isinstance(result, Mapping):
            values = result if isinstance(result, list | tuple) else [result]
            outputs = wanted + [f"output_{index}" for index in range(len(wanted), len(values))]
            result = {outputs[index]: value for index, value in enumerate(values)}
        return {name: value.numpy() for name, value in result.items()}

    return Session(names, call, model)


def _frozen(entry: str, signature: Mapping[str, Any]) -> Session:
    """Return a session of a frozen graph, whose inputs and outputs ``_ends`` finds."""
    import tensorflow as tf

    graph_def = tf.compat.v1.GraphDef.FromString(Path(entry).read_bytes())
    inputs, outputs = _ends(graph_def.node, [tensor["name"] for tensor in signature["outputs"]], entry)
    whole = tf.compat.v1.wrap_function(lambda: tf.compat.v1.import_graph_def(graph_def, name=""), [])
    ends = [[whole.graph.get_tensor_by_name(f"{name}:0") for name in names] for names in (inputs, outputs)]
    pruned = whole.prune(*ends)

    def call(values: Arrays) -> Arrays:
        result = pruned(*(tf.constant(values[name]) for name in inputs))
        return {name: value.numpy() for name, value in zip(outputs, result, strict=True)}

    return Session(inputs, call, pruned)


def _ends(nodes: Sequence[Any], wanted: Sequence[str], entry: str) -> tuple[list[str], list[str]]:
    """Return the names of a graph's inputs and outputs, in order; raises ``ValueError`` if it has no input.

    A frozen graph has no list of them. Its inputs are its placeholders. Its outputs are the nodes with the reference
    names, or, where it has none such, the nodes whose result nothing reads.
    """
    inputs = [node.name for node in nodes if node.op == "Placeholder"]
    if not inputs:
        raise ValueError(f"{entry} has no Placeholder among its {len(nodes)} nodes; expected a frozen GraphDef")
    names = {node.name for node in nodes}
    if names.issuperset(wanted):
        return inputs, list(wanted)
    read = {source.lstrip("^").split(":")[0] for node in nodes for source in node.input}
    return inputs, [node.name for node in nodes if node.name not in read]


def _lite(entry: str, threads: int) -> Session:
    """Return a session of TensorFlow's own TFLite interpreter, which takes free dimensions as they come."""
    import tensorflow as tf

    interpreter = tf.lite.Interpreter(entry, num_threads=threads)
    interpreter.allocate_tensors()
    if len(interpreter.get_signature_list()) == 1:
        runner = interpreter.get_signature_runner()
        ins, outs = runner.get_input_details(), runner.get_output_details()
        outputs = _in_order(outs)
    else:
        ins = {one["name"]: one for one in interpreter.get_input_details()}
        outs = {one["name"]: one for one in interpreter.get_output_details()}
        outputs = list(outs)
    free = [name for name, one in ins.items() if -1 in one["shape_signature"]]

    def call(inputs: Arrays) -> Arrays:
        for name in free:
            interpreter.resize_tensor_input(ins[name]["index"], inputs[name].shape, strict=True)
        if free:
            interpreter.allocate_tensors()
        # Fused recurrent kernels keep their state from one call to the next.
        interpreter.reset_all_variables()
        for name, one in ins.items():
            interpreter.set_tensor(one["index"], inputs[name])
        interpreter.invoke()
        return {name: interpreter.get_tensor(outs[name]["index"]) for name in outputs}

    return Session(list(ins), call, interpreter)


def _in_order(names: Iterable[str]) -> list[str]:
    """Return a signature's names, which are stored in no order, such that ``output_2`` stands before ``output_10``."""
    return sorted(names, key=lambda name: (len(name), name))
