"""The independent check: what its program finds of a file, which cells it draws, and when it agrees with a record."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from portmatrix.types import Comparison, Outcome, Record, Tolerance

ROOT = Path(__file__).parents[1]


def load_script() -> ModuleType:
    """Return the script, which is no part of the package."""
    found = importlib.util.spec_from_file_location("independent_check", ROOT / "scripts" / "independent_check.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules["independent_check"] = module
    found.loader.exec_module(module)
    return module


CHECK = load_script()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A folder with an ONNX file that doubles what it is given, and samples."""
    shape = ["batch", 2]
    nodes = [helper.make_node("Add", ["x", "x"], ["y"])]
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    made = [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)]
    graph = helper.make_graph(nodes, "double", given, made)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "model.onnx")
    x = np.array([[[1, 2], [4, 3]]], np.float32)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", 2 * x)
    np.save(tmp_path / "near.npy", 2 * x + np.float32(0.01))
    np.save(tmp_path / "labels.npy", np.array([1, 1]))
    return tmp_path


def told(bundle: Path, outputs: str = "y.npy", loader: str = "onnx-reference", **samples: Any) -> dict[str, Any]:
    """Return what the program says of the file with these samples, in this interpreter."""
    request = {
        "entry": str(bundle / "model.onnx"),
        "bundle": str(bundle),
        "beside": str(bundle),
        "names": ["y"],
        "sets": [{"batch": 2, "calls": 1, "inputs": {"x": "x.npy"}, "outputs": {"y": outputs}, **samples}],
        "rules": [[{"atol": 1e-4, "rtol": 0}, {"atol": 0.1, "rtol": 0}]],
    }
    found: dict[str, Any] = CHECK.told_by(sys.executable, {}, CHECK.loader_of(loader), request)
    return found


def test_what_is_right_passes(bundle: Path) -> None:
    assert CHECK.verdict_of(told(bundle), None, 0.02) == "PASS"


def test_what_is_near_is_degraded_and_what_is_far_fails(bundle: Path) -> None:
    assert CHECK.verdict_of(told(bundle, "near.npy"), None, 0.02).startswith("DEGRADED")
    assert CHECK.verdict_of(told(bundle, "x.npy"), None, 0.02).startswith("FAIL")


def test_accuracy_decides_where_there_are_labels(bundle: Path) -> None:
    # The second row's largest is the first: one of two rows is right.
    found = told(bundle, labels="labels.npy")
    assert found["accuracy"] == 0.5
    assert CHECK.verdict_of(found, 0.51, 0.02).startswith("PASS")
    assert CHECK.verdict_of(found, 0.9, 0.02).startswith("FAIL")


def test_what_does_not_load_or_dies_fails_with_its_words(bundle: Path) -> None:
    (bundle / "model.onnx").write_bytes(b"\x08")
    assert CHECK.verdict_of(told(bundle), None, 0.02).startswith("FAIL ")
    dead: dict[str, Any] = CHECK.told_by(sys.executable, {}, "    os._exit(3)", {"entry": "", "beside": "", "sets": []})
    assert dead == {"error": "ended with status 3"}


def record(cell: str, outcome: Outcome, verdict: str = "strict") -> Record:
    comparison = Comparison.model_construct(verdict=verdict, tolerance=Tolerance(atol=0, rtol=0))
    return Record.model_construct(cell=cell, outcome=outcome, bundle="b", comparisons=(comparison,))


def test_cells_are_drawn_from_those_that_another_tool_can_run() -> None:
    fitting = [record(f"torch/mlp/p{number}/onnxruntime-1.20/here", Outcome.PASS) for number in range(9)]
    others = [record("torch/mlp/p/ncnn/here", Outcome.PASS), record("torch/mlp/p/torch/there", Outcome.PASS)]
    others.append(record("torch/mlp/p/torch/here", Outcome.NOT_RUN))
    one = CHECK.drawn([*fitting, *others], 5, 1, "here")
    assert len(one) == 5
    assert {item.cell for item in one} <= {item.cell for item in fitting}
    assert CHECK.drawn([*others, *reversed(fitting)], 5, 1, "here") == one
    assert CHECK.drawn([*fitting, *others], 5, 2, "here") != one


@pytest.mark.parametrize(
    ("outcome", "verdict", "found", "same"),
    [
        (Outcome.PASS, "strict", "PASS", True),
        (Outcome.PASS, "strict", "FAIL differs", False),
        (Outcome.XFAIL, "fail", "FAIL ValueError: no", True),
        (Outcome.DEGRADED, "loose", "DEGRADED within the loose tolerance", True),
        (Outcome.DEGRADED, "loose", "PASS", False),
        (Outcome.DEGRADED, "strict", "PASS", True),
    ],
)
def test_a_verdict_agrees_with_a_record(outcome: Outcome, verdict: str, found: str, same: bool) -> None:
    assert CHECK.agrees(record("a/b/c/d/e", outcome, verdict), found) is same


@pytest.mark.parametrize("runtime", [*CHECK.LOADERS, "onnxruntime", "onnxruntime-1.17"])
def test_every_loader_is_a_program(runtime: str) -> None:
    compile(CHECK._PROGRAM.replace("#LOADER", CHECK.loader_of(runtime)), runtime, "exec")


def test_a_runtime_without_another_way_has_no_loader() -> None:
    assert CHECK.loader_of("ncnn") is None
    assert CHECK.loader_of("onnxruntime-web") is None
