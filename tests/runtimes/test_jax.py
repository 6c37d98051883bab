"""``jax`` in a real worker: a small program that JAX 0.10.2 wrote, and a file that is none."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from workbench import LIMITS, Bench, bench

from portmatrix.types import Stage
from portmatrix.workers import Failure

#: All in one process, with the worker that they share.
pytestmark = pytest.mark.xdist_group("runtimes/jax")

#: ``jax.export`` of ``lambda x: {"second": x + 1, "first": x * 2}`` for a symbolic batch of three numbers, compressed.
PROGRAM = (
    "eNqNVs1v3EQUn9nZieM4xlltVyFarHW0VFuTZJ1oW6VpmqZpSdLQRkkJFa1CZbxrb9atv/B480GpACGExJULZ8ShB/6A8gdwQRz4"
    "IzhwQOJaIUR4YztfgERn9fO87/fmzWhmryKELiMbtdF76D56B22iOyB5E11HV0F+EU2jSfQGeh3VQXoLvYZeRefQCBpGg6gIeoTe"
    "B/QAHiAB7J8CDPxtOg0hPv82cIKfAb8CXgAw6P6E2RYQegb4BXB5kPsRVEAnA+fzf8lO80XA1y8OD4EbKub2I7mc61sACmhbSad3"
    "KsZlqGH9zu9vy1uJ1facW3c2zN2Z5syl5jTCExTTKiYSGVPKo9VavTFhtGbnyfdf1PCqoMCQFKkOkFJUJUVJwcVlAFnKqPQDk1Tm"
    "H6kGQ8oGppJCqrOKUhaEslCtlRWhUCjW1IauGjPquKjWz9NaiVA6ToRyZVQek2m9hDE9TxtUV2uYTtApakxJgki/ojOVCVFVpoAT"
    "Fpdpq9IC7hLnti11DtNL6gKms4QsPaVz6jKm87UxTHC5jGVM6IOH6oK6SMh6vSKTu9vqEnxN9aa6rK4SurMuE/exuqbero+q6zVR"
    "hLZdr0kigTnlPlmsCSJvqCgIVN2QqHpXnacEi7hQ0Ck6zIes6FjWsaITKldFnYiyytdGaYkKfNKhHB2ruPhjgeK7uISF4jcFiEI3"
    "MRGKj4lcJSIiNzCFZqzMCkQguLIyL5IqpWR0+eaiBGHGVrDMY1EsFzEVJfBVhOIPpNqisqSCt1AiIsQow67eECpEFAYIkFhcgXAl"
    "KgnSChmFokRZAQUEVoQBmhlQblAGA8oNaKUECp5ZLkLa0gDBFKM/XtkiXw6UZB0OxnhrfFwVaqpartDyeX1O0ku10akxpTJXGy2N"
    "KVKp3Xe9xA3Qbs8LkR/afc9BnTBgiRUkcAhRtx90+Bw7rGdFDidB3bESJwBw1j4ILN/tmO04tOyOxRLTDUzb9TOvpB8HnLJsm09+"
    "H7JF3gGnd5yE2zkBc8PAZO6HeXQ/suKM7LMk9M2O5Xkpm89G4kfGntGbNd5aum/4j5vRAQ/P0CNrv9lnDjOzUqPQO/DDOOq5zEc+"
    "rK8Z9H0TgiduAhnZiSx2Is+F0tEjNzHTUPucvMBJHV3N2nLtRGTA9xQHi0JnFwJrQ04ch7HpO4xZwGUlWYw5MU+e1go9hXZAu7oh"
    "MvdiK4oc2wSF6exHYZyYvgUbkxltN7puzJLGw2OeObAPNghSq6jfhhWkUXe8sG155tEm5pdNFLu7sGFoLYj6iZZWwzQ71IIw0Xxu"
    "oSU9RztpWefIhkVOx+1Cd3jZTW15H/jEsbVdy+s72rUFbUbrhrF2vH5QxC6/xbRGmrnR1O4xN9hJ43dDzwv3OPd/mdgVzYp32Pb0"
    "w2aq1ha0C2m8Sa2lN7WNdgLLhjL+nRc888zg82T6qdaNQ/9s8GODs5WfSQiEdiENoE9qTW3TcyzmaMxxtF6SROyKYdhhhzV5x21n"
    "13ACw4P+ssTINs84OYPNXuJ79ZSfOj4AU+nxYGkF0AdHsx1YkceaCA0+GKOzWLr37obVIXvkNj14Uvr408/WPl9bWyNbkuNvbIXk"
    "A8JIX1hdXT16d/hF2In6Z94k/v4M5/pnfx0efgc4sn8ONNdfzPnNw5d/tz56adsh0Cnpmz2U1zKZlVbkfudyP3j+UHaeM9/0rP+j"
    "/h7k9A6z+kdSOdcMIgG8h7MX+KVq/wliDObtKeT1jOT/FYaRlHoOpZGzOlFKc00xlR354pwupr/MML06YPwNtKDiIQ=="
)
ROWS = np.arange(24, dtype=np.float32).reshape(2, 4, 3)


@pytest.fixture(scope="module")
def jax(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """One worker for all tests."""
    with bench("jax", "linux-x86_64", tmp_path_factory.mktemp("jax")) as opened:
        yield opened


def artifact(folder: Path, content: bytes) -> Path:
    """Return an artifact with that program."""
    (folder / "model.jax").write_bytes(content)
    return folder


def run(jax: Bench, entry: Path, rows: np.ndarray, threads: int = 1) -> dict[str, np.ndarray] | Failure:
    """Return the outputs of stacked calls by their names."""
    request = jax.request(entry / "model.onnx", {"x": rows}, threads)
    signature = {**request["signature"], "outputs": [{"name": "first"}, {"name": "second"}]}
    answer = jax.worker.ask({**request, "entry": str(entry), "format": "stablehlo", "signature": signature}, LIMITS)
    if isinstance(answer, Failure):
        return answer
    return {name: np.load(Path(request["outputs"], file)) for name, file in answer["outputs"][0].items()}


def test_outputs_keep_their_names_whatever_the_batch(jax: Bench, tmp_path: Path) -> None:
    entry = artifact(tmp_path, zlib.decompress(base64.b64decode(PROGRAM)))
    for rows in (ROWS, ROWS[:, :1]):
        made = run(jax, entry, rows)
        assert isinstance(made, dict), made
        np.testing.assert_array_equal(made["first"], rows * 2)
        np.testing.assert_array_equal(made["second"], rows + 1)


def test_a_process_that_has_compiled_does_not_pretend_to_change_its_threads(jax: Bench, tmp_path: Path) -> None:
    entry = artifact(tmp_path, zlib.decompress(base64.b64decode(PROGRAM)))
    assert isinstance(run(jax, entry, ROWS), dict)
    refused = run(jax, entry, ROWS, threads=2)
    assert isinstance(refused, Failure)
    assert (refused.stage, refused.fault) == (Stage.LOAD, "model")
    assert "XLA runs on 1 threads" in refused.reason


def test_what_is_no_program_is_refused(jax: Bench, tmp_path: Path) -> None:
    refused = run(jax, artifact(tmp_path, b"This is no model." * 100), ROWS)
    assert isinstance(refused, Failure)
    assert refused.stage is Stage.LOAD
