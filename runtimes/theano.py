"""Theano running what its exporter keeps: pickled symbolic graphs, and weights with the code that builds the graph.

Both formats are programs: unpickling runs code, and the folder of weights brings its own. They are for artifacts whose
maker is known, and for a worker without network.
"""

import importlib.util
import json
import os
import pickle
import sys
from collections import namedtuple
from typing import Any, Dict, List, Tuple

import numpy as np

ENVIRONMENTS = {
    "": {
        "python": ">=3.7,<3.9",
        # The exporter's requirements, item by item: equal lists share one environment.
        "requirements": ["Theano==1.0.5", "numpy==1.21.6", "scipy==1.7.3", "six==1.17.0", "setuptools==68.0.0"],
        "env": {
            # As the exporter has them, with the reasons: NumPy does what need not be compiled.
            "THEANO_FLAGS": "device=cpu,floatX=float32,blas.ldflags=,gcc.cxxflags=-O1 -g0,linker=py,"
            "optimizer=fast_compile"
        },
        "container": "theano",
    }
}
FORMATS = ("theano", "theano-weights")
#: How deep a pickled graph is nested at most.
PICKLE_DEPTH = 50000
#: Theano's operations that have no implementation in Python, or one that is a thousand times slower.
IN_C: Tuple[str, ...] = (
    "CorrMM",
    "CorrMM_gradWeights",
    "CorrMM_gradInputs",
    "Corr3dMM",
    "Corr3dMM_gradWeights",
    "Corr3dMM_gradInputs",
)
IN_C += ("Pool", "MaxPoolGrad", "AveragePoolGrad")

#: The compiled function, and the names of its inputs and outputs in order.
Session = namedtuple("Session", ("function", "inputs", "outputs"))


def load(entry: str, format: str, signature: Dict[str, Any], threads: int) -> Session:
    """Compile the graph in the pickle ``entry``, or the one that the code in the folder ``entry`` makes of its weights.

    ``threads`` is obeyed by NumPy's BLAS, which read it from its environment; Theano itself uses one. Raises
    ``ValueError`` where the pickle is of something else, and what Theano raises for a graph that it cannot compile.
    """
    import theano

    inputs, outputs = _unpickled(entry) if format == "theano" else _rebuilt(theano, entry)
    function = theano.function(inputs, outputs, mode=_mode())
    return Session(
        function, *(_names(*pair) for pair in ((inputs, signature["inputs"]), (outputs, signature["outputs"])))
    )


def input_names(session: Session) -> List[str]:
    """Return the names of the graph's inputs in order."""
    return list(session.inputs)


def run(session: Session, inputs: Dict[str, Any]) -> Dict[str, Any]:
    """Return all outputs by name; raises ``TypeError`` for an input of another dtype or number of axes."""
    values = session.function(*(inputs[name] for name in session.inputs))
    # Results may be views of what the next call overwrites.
    return {name: np.array(value) for name, value in zip(session.outputs, values)}


def degraded(session: Session) -> str:
    """Return that there is no C++ compiler, in which case Theano runs its Python implementations; else nothing."""
    import theano

    return "" if theano.config.cxx else "there is no C++ compiler: Theano runs its slow Python implementations"


def _unpickled(entry: str) -> Tuple[List[Any], List[Any]]:
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(PICKLE_DEPTH)
    try:
        with open(entry, "rb") as stream:
            stored = pickle.load(stream)  # noqa: S301 - the format: Theano knows no other for its graphs
    finally:
        sys.setrecursionlimit(limit)
    if not isinstance(stored, dict) or not {"inputs", "outputs"} <= set(stored):
        raise ValueError("%s holds %s; expected a dictionary of inputs and outputs" % (entry, type(stored).__name__))
    return stored["inputs"], stored["outputs"]


def _rebuilt(namespace: Any, entry: str) -> Tuple[List[Any], List[Any]]:
    with open(os.path.join(entry, "network.json"), encoding="utf-8") as stream:
        family = json.load(stream)["family"]
    with np.load(os.path.join(entry, "weights.npz"), allow_pickle=False) as stored:
        weights = {name: stored[name] for name in stored.files}
    spec = importlib.util.spec_from_file_location("network", os.path.join(entry, "network.py"))  # type: Any
    network = importlib.util.module_from_spec(spec)
    sys.dont_write_bytecode = True  # the bundle is not ours to add files to
    spec.loader.exec_module(network)
    inputs, outputs = network.inference(namespace, family, weights)
    return inputs, outputs


def _names(variables: List[Any], tensors: List[Dict[str, Any]]) -> List[str]:
    """Return the variables' own names, or the reference's where one has none or two have the same."""
    names = [variable.name for variable in variables]
    if all(names) and len(set(names)) == len(names):
        return names
    extra = ["output_%d" % position for position in range(len(tensors), len(names))]
    return [tensor["name"] for tensor in tensors][: len(names)] + extra


def _mode() -> Any:
    """Return how a function is compiled here: convolution and pooling to C, all else left to NumPy."""
    import theano
    from theano.gof import link

    class CompiledConvolutions(link.PerformLinker):
        """Theano's linker for Python, except that it asks some operations for their C."""

        def make_all(self, input_storage: Any = None, output_storage: Any = None, storage_map: Any = None) -> Any:
            """Return the function that runs all nodes, its containers for inputs and outputs, its thunks and nodes."""
            nodes = self.schedule(self.fgraph)
            inputs, outputs, storage = link.map_storage(self.fgraph, nodes, input_storage, output_storage, storage_map)
            computed = {variable: [variable.owner is None] for variable in storage}
            thunks = []
            for node in nodes:
                impl = "c" if theano.config.cxx and type(node.op).__name__ in IN_C else "py"
                thunks.append(node.op.make_thunk(node, storage, computed, [], impl))
                thunks[-1].inputs = [storage[variable] for variable in node.inputs]
                thunks[-1].outputs = [storage[variable] for variable in node.outputs]
            run = link.streamline(self.fgraph, thunks, nodes, no_recycling=[])
            run.allow_gc, run.storage_map = False, storage
            link.add_clear_storage(run, [], storage)
            containers = [link.Container(*pair) for pair in zip(self.fgraph.inputs, inputs)]
            results = [link.Container(*pair, True) for pair in zip(self.fgraph.outputs, outputs)]
            return run, containers, results, thunks, nodes

    return theano.Mode(CompiledConvolutions(allow_gc=False), "fast_compile")
