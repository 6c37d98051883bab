"""What the tests of places run there: a suite of one linear model, asked as the engine asks, and what came of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper
from tiny_suite import TINY

from portmatrix.workers import Failure, Lease, Limits

#: Enough for all that a test does not mean to end.
LIMITS = Limits(120, 1024)

#: A runtime that loads nothing, and does in `run` what is put in.
DOES = """
import ctypes, faulthandler, json, os, sys
from pathlib import Path

def load(entry, format, signature, threads):
    return None

def input_names(session):
    return ["x"]

def run(session, inputs):
    {deed}
    return {{"y": inputs["x"]}}

def degraded(session):
    return ""
"""


class Suite:
    """A folder with runtimes, and a bundle whose samples this machine wrote."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "samples").mkdir(parents=True)
        random = np.random.default_rng(5)
        self.x = random.normal(size=(4, 3, 8)).astype(np.float32)
        self.weights = random.normal(size=(8, 6)).astype(np.float32)
        np.save(folder / "samples/x.npy", self.x)
        np.savez(folder / "model.npz", weights=self.weights)

    @property
    def expected(self) -> np.ndarray[Any, Any]:
        """What the model makes of the samples."""
        return self.x @ self.weights

    def put(self, name: str, text: str | None = None) -> Path:
        """Return the file of a runtime: of the text given, or one of tiny's."""
        file = self.folder / f"{name}.py"
        if text is not None:
            file.write_text(text, encoding="utf-8")
        else:
            sources = (TINY / "runtimes" / file.name, TINY / "faults/runtimes" / file.name)
            shutil.copyfile(next(source for source in sources if source.is_file()), file)
        return file

    def does(self, deed: str) -> Path:
        """Return the file of a runtime that does a deed when it is run."""
        return self.put("does", DOES.format(deed=deed))

    def put_onnx(self) -> None:
        """Put the model there as ONNX, in a version that ONNX Runtime 1.21 reads."""
        tensors = [helper.make_tensor_value_info(*of) for of in (("x", 1, [3, 8]), ("y", 1, [3, 6]))]
        weights = helper.make_tensor("w", 1, self.weights.shape, self.weights.tobytes(), raw=True)
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["y"])], "g", tensors[:1], tensors[1:], [weights]
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, self.folder / "model.onnx")

    def ask(
        self,
        lease: Lease,
        runtime: Path,
        limits: Limits = LIMITS,
        entry: str = "model.npz",
        sent: Callable[[], None] | None = None,
    ) -> dict[str, Any] | Failure:
        """Return the answer of a runtime that is asked to run the bundle; its outputs are in it as arrays."""
        exchange = lease.exchange()
        tensor = {"dtype": "float32", "shape": [3, None]}
        request = {
            "op": "run",
            "file": lease.there(runtime),
            "entry": f"{lease.there(self.folder)}/{entry}",
            "format": "npz-linear",
            "signature": {"inputs": [{"name": "x", **tensor}], "outputs": [{"name": "y", **tensor}]},
            "sets": [{"batch": 3, "calls": 4, "inputs": {"x": "samples/x.npy"}}],
            "bundle": lease.there(self.folder),
            "outputs": lease.there(exchange),
            "threads": 1,
        }
        answer = lease.ask(request, limits, sent)
        if not isinstance(answer, Failure):
            answer["y"] = np.load(exchange / answer["outputs"][0]["y"])
        return answer


def answered(answer: dict[str, Any] | Failure) -> dict[str, Any]:
    """Return an answer; fails the test for a failure."""
    assert isinstance(answer, dict), answer
    return answer


def failed(answer: dict[str, Any] | Failure) -> Failure:
    """Return a failure; fails the test for an answer."""
    assert isinstance(answer, Failure), answer
    return answer


def quiet(_text: str) -> None:
    """Nobody is to be told what is downloaded."""


#: Reads where nothing is. At address 0 there is something, to what QEMU makes of one instruction of s390x.
CRASHES = """
import ctypes

def load(entry, format, signature, threads):
    return None

def input_names(session):
    return ["x"]

def run(session, inputs):
    return ctypes.string_at(1)

def degraded(session):
    return ""
"""
