"""CNTK 2.7 itself running its own format. It reads ONNX too, but of operator set 9 at most, and a batch of 1."""

import sys
import types
import warnings
from collections import namedtuple
from typing import Any, Dict, List

import numpy as np

ENVIRONMENTS = {
    "": {
        "python": ">=3.6,<3.7",
        # All as the exporter has it, item by item: equal environments are one.
        "requirements": ["cntk==2.7", "numpy==1.19.5", "scipy==1.5.4"],
        "env": {
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "OMPI_MCA_btl": "self",
            "OMPI_MCA_plm": "isolated",
        },
        "libraries": {"libmpi.so.12": "libmpi.so.40", "libmpi_cxx.so.1": "libmpi_cxx.so.40"},
        "install": "on Debian: apt-get install --no-install-recommends libopenmpi3",
        "container": "cntk",
    }
}
FORMATS = ("cntk",)

#: A loaded function, and its variables by their own names, in order.
Session = namedtuple("Session", ("function", "inputs", "outputs"))


def load(entry: str, format: str, signature: Dict[str, Any], threads: int) -> Session:
    """Load the file ``entry`` for ``threads`` threads on the CPU; all functions of the process then use as many."""
    with warnings.catch_warnings():
        # It warns that this is no Ubuntu 16.04 and that there is no GPU.
        warnings.simplefilter("ignore")
        # It imports pip, for samples that it can install, and an environment holds none.
        sys.modules.setdefault("pip", types.ModuleType("pip"))
        import cntk
    cntk.cntk_py.set_max_num_cputhreads(threads)
    function = cntk.load_model(entry, device=cntk.cpu())
    inputs = {variable.name or variable.uid: variable for variable in function.arguments}
    outputs = {variable.name or variable.uid: variable for variable in function.outputs}
    return Session(function, inputs, outputs)


def input_names(session: Session) -> List[str]:
    """Return the names of the inputs in order: their own, or what CNTK calls those that have none."""
    return list(session.inputs)


def run(session: Session, inputs: Dict[str, Any]) -> Dict[str, Any]:
    """Return every output by its name; the first axis of an input is the batch, the second one a sequence's time."""
    given = {session.inputs[name]: value for name, value in inputs.items()}
    found = session.function.eval(given)
    if len(session.outputs) == 1:
        return {name: np.array(found) for name in session.outputs}
    return {name: np.array(found[variable]) for name, variable in session.outputs.items()}


def degraded(session: Session) -> str:
    """Return an empty string: the wheel computes on the CPU or not at all."""
    return ""
