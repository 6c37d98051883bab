"""``executorch`` in a real worker: programs of one network, handed to XNNPACK and not."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from workbench import LIMITS, SUITE, Bench, bench

from portmatrix import environments
from portmatrix.store import Store, default_root
from portmatrix.types import Stage
from portmatrix.workers import Failure

#: All in one process, with the worker that they share.
pytestmark = pytest.mark.xdist_group("runtimes/executorch")

#: Writes the product of the first input with the second, and the second alone: by ExecuTorch's kernels, and by XNNPACK.
EXPORT = """
import sys
import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower

class Net(torch.nn.Module):
    def forward(self, first, second):
        return first * second, second.clone()

program = torch.export.export(Net(), (torch.rand(2, 3), torch.rand(2, 3)))
for name, partitioner in (("kernels", []), ("xnnpack", [XnnpackPartitioner()])):
    with open(f"{sys.argv[1]}/{name}.pte", "wb") as file:
        file.write(to_edge_transform_and_lower(program, partitioner=partitioner).to_executorch().buffer)
"""
NAMES = ("product", "second")
GIVEN = {name: np.random.default_rng(seed).normal(size=(4, 2, 3)).astype("f4") for seed, name in enumerate("ab")}


@pytest.fixture(scope="module")
def executorch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """One worker for all tests."""
    with bench("executorch", "linux-x86_64", tmp_path_factory.mktemp("executorch")) as opened:
        yield opened


@pytest.fixture(scope="module")
def programs(executorch: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with both programs."""
    folder = tmp_path_factory.mktemp("programs")
    built = environments.ensure(Store(default_root()), SUITE.plugins.runtimes["executorch"].environment, print, 1200)
    subprocess.run([built.python, "-I", "-c", EXPORT, folder], check=True, cwd=folder)
    return folder


def run(executorch: Bench, program: Path, given: Mapping[str, Any], threads: int = 1) -> Mapping[str, Any] | Failure:
    """Return the worker's answer, with the outputs themselves in place of their files."""
    request = executorch.request(program, given, threads)
    outputs = [{"name": name, "dtype": "float32", "shape": [2, 3]} for name in NAMES]
    request.update({"format": "executorch", "signature": {**request["signature"], "outputs": outputs}})
    answer = executorch.worker.ask(request, LIMITS)
    if isinstance(answer, Failure):
        return answer
    (files,) = answer["outputs"]
    return {**answer, "outputs": {name: np.load(Path(request["outputs"], file)) for name, file in files.items()}}


@pytest.mark.parametrize("threads", [1, 2])
def test_a_program_of_xnnpack_runs_as_asked_for(executorch: Bench, programs: Path, threads: int) -> None:
    answer = run(executorch, programs / "xnnpack.pte", GIVEN, threads)
    assert not isinstance(answer, Failure), answer
    assert answer["degraded"] == ""
    np.testing.assert_array_equal(answer["outputs"]["product"], GIVEN["a"] * GIVEN["b"])
    np.testing.assert_array_equal(answer["outputs"]["second"], GIVEN["b"])


def test_a_program_without_xnnpack_says_which_operators_the_kernels_run(executorch: Bench, programs: Path) -> None:
    answer = run(executorch, programs / "kernels.pte", GIVEN)
    assert not isinstance(answer, Failure), answer
    assert answer["degraded"].startswith("XNNPACK runs no part of it: ExecuTorch's own kernels run ")
    assert "mul" in answer["degraded"]
    np.testing.assert_array_equal(answer["outputs"]["product"], GIVEN["a"] * GIVEN["b"])


@pytest.mark.parametrize(
    "given",
    [
        {name: value.astype("f8") for name, value in GIVEN.items()},
        {name: value[:, :1] for name, value in GIVEN.items()},
    ],
    ids=["another dtype", "another batch"],
)
def test_inputs_that_the_program_does_not_take_are_refused(
    executorch: Bench, programs: Path, given: Mapping[str, Any]
) -> None:
    failed = run(executorch, programs / "xnnpack.pte", given)
    assert isinstance(failed, Failure)
    assert (failed.stage, failed.fault) == (Stage.RUN, "model")
    assert "set_inputs() for method 'forward' failed" in failed.reason


@pytest.mark.parametrize("kept", [0, 8, 0.5], ids=["empty", "a header", "a half"])
def test_a_program_that_is_cut_off_is_refused(executorch: Bench, programs: Path, tmp_path: Path, kept: float) -> None:
    whole = (programs / "xnnpack.pte").read_bytes()
    (tmp_path / "cut.pte").write_bytes(whole[: int(kept if kept != 0.5 else len(whole) / 2)])
    failed = run(executorch, tmp_path / "cut.pte", GIVEN)
    assert isinstance(failed, Failure)
    assert (failed.stage, failed.fault) == (Stage.LOAD, "model")
