"""TensorFlow 1.15 itself on CPython 3.7, running SavedModels, frozen graphs and TensorFlow Lite files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ENVIRONMENTS = {
    "": {
        "python": ">=3.7,<3.8",
        # The exporter's environment, item by item: equal ones are shared.
        "requirements": [
            "tensorflow==1.15.5",
            "tensorflow-estimator==1.15.1",
            "tf2onnx==1.15.1",
            "onnx==1.14.1",
            "h5py==2.10.0",
            "protobuf==3.20.3",
            "numpy==1.18.5",
            "gast==0.2.2",
            "flatbuffers==25.12.19",
            "packaging==24.0",
        ],
        "container": "tensorflow1",
        "env": {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2", "TF_DETERMINISTIC_OPS": "1"},
    }
}
FORMATS = ("savedmodel", "tensorflow-graph", "tflite")
#: Threads that the TFLite interpreter of this version starts when it is told nothing, which is all one can tell it.
LITE_THREADS = 4


class Session(NamedTuple):
    """The names of the inputs in order, a function from inputs to outputs, and why it is not what was asked for."""

    inputs: list[str]
    call: Callable[[dict[str, Any]], dict[str, Any]]
    degraded: str


def load(entry: str, format: str, signature: Mapping[str, Any], threads: int) -> Session:
    """Load the folder or file ``entry`` to run on ``threads`` threads.

    Raises ``ValueError`` or what TensorFlow raises for an artifact that it cannot read, such as one that later
    versions wrote with operators of their own.
    """
    import tensorflow

    tf = tensorflow.compat.v1
    tf.logging.set_verbosity(tf.logging.ERROR)
    if format == "tflite":
        return _lite(tf, entry, threads)
    config = tf.ConfigProto(
        intra_op_parallelism_threads=threads, inter_op_parallelism_threads=1, use_per_session_threads=True
    )
    session = tf.Session(graph=tf.Graph(), config=config)
    if format == "savedmodel":
        return _saved_model(tf, session, entry)
    return _frozen(tf, session, entry, signature)


def input_names(session: Session) -> Sequence[str]:
    """Return the names of the inputs in order (a SavedModel keeps its own in alphabetical order)."""
    return session.inputs


def run(session: Session, inputs: dict[str, Any]) -> dict[str, Any]:
    """Return the outputs by name; raises ``ValueError`` for a shape or dtype that the model refuses."""
    return session.call(inputs)


def degraded(session: Session) -> str:
    """Return that the number of threads is not the one asked for, where TensorFlow 1 cannot set it, or ""."""
    return session.degraded


def _saved_model(tf: Any, session: Any, entry: str) -> Session:
    """Return a session of the signature ``serving_default``; raises ``KeyError`` if there is none."""
    with session.graph.as_default():
        meta = tf.saved_model.load(session, [tf.saved_model.tag_constants.SERVING], entry)
    if "serving_default" not in meta.signature_def:
        raise KeyError(f"{entry} has no signature serving_default; it has {', '.join(meta.signature_def) or 'none'}")
    serve = meta.signature_def["serving_default"]
    feeds = {name: serve.inputs[name].name for name in sorted(serve.inputs)}
    fetches = {name: serve.outputs[name].name for name in sorted(serve.outputs, key=lambda one: (len(one), one))}
    return _session(session, feeds, fetches)


def _frozen(tf: Any, session: Any, entry: str, signature: Mapping[str, Any]) -> Session:
    """Return a session of a frozen graph, whose inputs and outputs ``_ends`` finds."""
    graph_def = tf.GraphDef.FromString(Path(entry).read_bytes())
    inputs, outputs = _ends(graph_def.node, [tensor["name"] for tensor in signature["outputs"]], entry)
    with session.graph.as_default():
        tf.import_graph_def(graph_def, name="")
    return _session(session, {name: f"{name}:0" for name in inputs}, {name: f"{name}:0" for name in outputs})


def _session(session: Any, feeds: Mapping[str, str], fetches: Mapping[str, str]) -> Session:
    """Return a session that feeds and fetches the tensors with these names."""
    wanted = {name: session.graph.get_tensor_by_name(tensor) for name, tensor in fetches.items()}

    def call(inputs: dict[str, Any]) -> dict[str, Any]:
        given = {tensor: inputs[name] for name, tensor in feeds.items()}
        for name, tensor in feeds.items():
            expected = session.graph.get_tensor_by_name(tensor).dtype.as_numpy_dtype
            # TensorFlow would cast without a word.
            if inputs[name].dtype != expected:
                raise ValueError(f"input {name} is {inputs[name].dtype}; expected {expected.__name__}")
        return dict(session.run(wanted, given))

    return Session(list(feeds), call, "")


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


def _lite(tf: Any, entry: str, threads: int) -> Session:
    """Return a session of TensorFlow 1's own TFLite interpreter, whose number of threads Python cannot set."""
    interpreter = tf.lite.Interpreter(entry)
    interpreter.allocate_tensors()
    ins = {one["name"]: one for one in interpreter.get_input_details()}
    outs = {one["name"]: one for one in interpreter.get_output_details()}

    def call(inputs: dict[str, Any]) -> dict[str, Any]:
        for name, one in ins.items():
            # The interpreter takes any array with as many bytes as it expects.
            if inputs[name].shape != tuple(one["shape"]):
                raise ValueError(f"input {name} has the shape {inputs[name].shape}; expected {tuple(one['shape'])}")
            interpreter.set_tensor(one["index"], inputs[name])
        interpreter.invoke()
        return {name: interpreter.get_tensor(one["index"]) for name, one in outs.items()}

    own = "" if threads == LITE_THREADS else f"runs on {LITE_THREADS} threads instead of {threads}"
    return Session(list(ins), call, own)
