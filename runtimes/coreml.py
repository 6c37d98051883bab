"""Core ML on the CPU in the precision of the artifact, by the Python bindings of coremltools, which are for macOS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

ENVIRONMENTS = {"": {"python": ">=3.11,<3.14", "requirements": ["coremltools==9.0", "numpy==2.4.6"]}}
FORMATS = ("coreml",)
#: The framework belongs to the system; elsewhere coremltools converts and inspects, but predicts nothing.
SYSTEMS = ("macos",)


class Session(NamedTuple):
    """A loaded model, and the names of its inputs and outputs in order."""

    model: Any
    inputs: list[str]
    outputs: list[str]


def load(entry: str, format: str, signature: Mapping[str, Any], threads: int) -> Session:
    """Have Core ML compile the package ``entry`` for the CPU; it takes no number of threads.

    Raises ``RuntimeError`` with what Core ML says of a package that it does not compile, and for a coremltools that
    came without its bindings.
    """
    import coremltools

    model = coremltools.models.MLModel(entry, compute_units=coremltools.ComputeUnit.CPU_ONLY)
    # Without its bindings it would say so only when it is to predict.
    if getattr(model, "__proxy__", None) is None:
        raise RuntimeError(f"coremltools {coremltools.__version__} has no Core ML here to load the package with")
    description = model.get_spec().description
    inputs, outputs = [one.name for one in description.input], [one.name for one in description.output]
    return Session(model, inputs, outputs)


def input_names(session: Session) -> Sequence[str]:
    """Return the names of the model's inputs in the order of the package."""
    return session.inputs


def run(session: Session, inputs: dict[str, Any]) -> dict[str, Any]:
    """Return every output by its name; raises ``RuntimeError`` for a shape that the package does not allow."""
    found = session.model.predict({name: inputs[name] for name in session.inputs})
    return {name: found[name] for name in session.outputs}


def degraded(session: Session) -> str:
    """Return an empty string: nothing but the CPU is asked for, and it computes in the precision of the package."""
    return ""
