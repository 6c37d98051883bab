"""What the tests of one runtime share: ONNX models made on the spot, and a worker in the runtime's real environment."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import psutil
import pytest
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper
from tiny_suite import eventually

from portmatrix import environments, suite, workers
from portmatrix.errors import EnvironmentFailure
from portmatrix.plugins import NoWay
from portmatrix.store import Store, default_root
from portmatrix.types import Stage
from portmatrix.workers import Failure, Launch, Limits, Worker

SUITE = suite.load(Path(__file__).parents[2])
#: One call with one number, for models that take that.
ONE = {"x0": np.ones((1, 1), np.float32)}
LIMITS = Limits(120, 6000)
#: The dtypes that models are handed, with a value of each that shows whether its bytes arrive as they were.
VALUES: dict[str, Sequence[Any]] = {
    "float16": [1.5, np.nan, -np.inf],
    "float32": [np.float32(1) / 3, np.nan, np.inf],
    "float64": [np.pi, np.nan, -np.inf],
    "int8": [-128, 127, 0],
    "int32": [-(2**31), 2**31 - 1, 0],
    "int64": [-(2**63), 2**63 - 1, 2**53 + 1],
    "uint8": [255, 0, 1],
    "bool": [True, False, True],
}
_TYPES = {name: helper.np_dtype_to_tensor_dtype(np.dtype(name)) for name in VALUES}


# --- Models ---------------------------------------------------------------------------------------------------------


def _saved(file: Path, nodes: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[Any], weights: Any = ()) -> Path:
    graph = helper.make_graph(list(nodes), "graph", list(inputs), list(outputs), list(weights))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save_model(model, str(file))
    return file


def _float(name: str, shape: Sequence[Any]) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def every_dtype(folder: Path) -> Path:
    """Return a model that hands on one tensor of three elements of every dtype, ``in_NAME`` as ``out_NAME``."""
    tensor = helper.make_tensor_value_info
    return _saved(
        folder / "every_dtype.onnx",
        [helper.make_node("Identity", [f"in_{name}"], [f"out_{name}"]) for name in _TYPES],
        [tensor(f"in_{name}", kind, [3]) for name, kind in _TYPES.items()],
        [tensor(f"out_{name}", kind, [3]) for name, kind in _TYPES.items()],
    )


def adds_one(folder: Path, *ranks: int) -> Path:
    """Return a model that adds 1 to one tensor for each of ``ranks``, of that many dimensions: ``x0`` to ``y0`` …"""
    shapes = [[f"d{number}_{axis}" for axis in range(rank)] for number, rank in enumerate(ranks)]
    return _saved(
        folder / f"adds_one_{'_'.join(map(str, ranks))}.onnx",
        [helper.make_node("Add", [f"x{number}", "one"], [f"y{number}"]) for number in range(len(ranks))],
        [_float(f"x{number}", shape) for number, shape in enumerate(shapes)],
        [_float(f"y{number}", shape) for number, shape in enumerate(shapes)],
        [numpy_helper.from_array(np.float32(1), "one")],
    )


def awkward_names(folder: Path) -> Path:
    """Return a model of names that JavaScript puts into another order, or takes for something of its own.

    Its outputs are, in this order, ``10`` = ``__proto__`` - ``2``, ``2.out`` = ``2`` - ``__proto__``, ``1`` = ``2``.
    """
    nodes = [
        helper.make_node("Sub", ["__proto__", "2"], ["10"]),
        helper.make_node("Sub", ["2", "__proto__"], ["2.out"]),
        helper.make_node("Identity", ["2"], ["1"]),
    ]
    inputs = [_float(name, ["n"]) for name in ("__proto__", "2")]
    return _saved(folder / "names.onnx", nodes, inputs, [_float(name, ["n"]) for name in ("10", "2.out", "1")])


def product(folder: Path, size: int, *, beside: bool = False, times: int = 1) -> Path:
    """Return a model that multiplies ``x0`` (rows of ``size``) by a matrix, ``times`` times over, to ``y0``.

    The matrix is the identity; with ``beside`` it lies in a file of its own.
    """
    file = folder / f"product{size}x{times}{'_beside' if beside else ''}.onnx"
    names = ["x0", *(f"between{index}" for index in range(times - 1)), "y0"]
    nodes = [helper.make_node("MatMul", [names[i], "w"], [names[i + 1]]) for i in range(times)]
    weight = numpy_helper.from_array(np.eye(size, dtype=np.float32), "w")
    _saved(file, nodes, [_float("x0", ["n", size])], [_float("y0", ["n", size])], [weight])
    if beside:
        onnx.save_model(
            onnx.load(str(file)), str(file), save_as_external_data=True, location="weights.bin", size_threshold=0
        )
    return file


def endless(folder: Path) -> Path:
    """Return a model that adds 1 to ``x0`` for longer than anybody waits."""
    tensor = helper.make_tensor_value_info
    one = numpy_helper.from_array(np.float32(1), "one")
    body = helper.make_graph(
        [helper.make_node("Identity", ["going"], ["goes_on"]), helper.make_node("Add", ["before", "one"], ["after"])],
        "body",
        [tensor("round", TensorProto.INT64, []), tensor("going", TensorProto.BOOL, []), _float("before", [1])],
        [tensor("goes_on", TensorProto.BOOL, []), _float("after", [1])],
        [one],
    )
    rounds = numpy_helper.from_array(np.int64(2**62), "rounds")
    node = helper.make_node("Loop", ["rounds", "", "x0"], ["y0"], body=body)
    return _saved(folder / "endless.onnx", [node], [_float("x0", [1])], [_float("y0", [1])], [rounds])


def huge(folder: Path) -> Path:
    """Return a model that makes as many zeros as ``x0`` says."""
    node = helper.make_node("ConstantOfShape", ["x0"], ["y0"])
    asked = helper.make_tensor_value_info("x0", TensorProto.INT64, [1])
    return _saved(folder / "huge.onnx", [node], [asked], [_float("y0", ["n"])])


def unknown_operator(folder: Path) -> Path:
    """Return a model with an operator that nobody has."""
    node = helper.make_node("Nonsense", ["x0"], ["y0"])
    return _saved(folder / "unknown.onnx", [node], [_float("x0", [1])], [_float("y0", [1])])


def junk(folder: Path) -> Path:
    """Return a file that is no model."""
    file = folder / "junk.onnx"
    file.write_bytes(b"This is no model.\n" * 1000)
    return file


# --- Workers --------------------------------------------------------------------------------------------------------


class Answer(NamedTuple):
    """What a runtime made of the calls: for each output, in order, the stacked arrays; and why it ran degraded."""

    outputs: dict[str, Any]
    degraded: str


class Bench:
    """A worker for one runtime on one target, which is started again after it died."""

    def __init__(self, launch: Launch, folder: Path, npm: Sequence[str]) -> None:
        self.npm = npm
        self._launch = launch
        self._folder = folder
        self._asked = 0
        self._workers = 0
        self.start()

    def start(self) -> None:
        """Start a worker, or find out why there can be none."""
        self._workers += 1
        self.started = workers.start(self._launch, self._folder / f"worker-{self._workers}", 1, LIMITS)

    @property
    def worker(self) -> Worker:
        """The worker; fails the test where none could be started."""
        assert isinstance(self.started, Worker), self.started
        return self.started

    @property
    def env(self) -> Mapping[str, str]:
        """The variables that the worker gets beside those that all workers get."""
        return self._launch.env

    @property
    def home(self) -> Path:
        """The folder that is all the worker has to write into."""
        return self.worker.folder

    def request(self, model: Path, inputs: Mapping[str, Any], threads: int = 1) -> dict[str, Any]:
        """Return the request that has a model run; ``inputs`` are stacked: calls x the tensor's own axes."""
        self._asked += 1
        bundle = self._folder / f"bundle-{self._asked}"
        (bundle / "outputs").mkdir(parents=True)
        files = {}
        for number, (name, value) in enumerate(inputs.items()):
            files[name] = f"in{number}.npy"
            np.save(bundle / files[name], value)
        outputs = []
        with contextlib.suppress(FileNotFoundError, DecodeError):  # it is to be refused
            outputs = [{"name": item.name} for item in onnx.load(str(model), load_external_data=False).graph.output]
        return {
            "op": "run",
            "file": str(self._launch.plugin),
            "entry": str(model),
            "format": "onnx",
            "signature": {"inputs": [{"name": name} for name in inputs], "outputs": outputs},
            "sets": [{"calls": len(next(iter(inputs.values()))), "inputs": files}],
            "bundle": str(bundle),
            "outputs": str(bundle / "outputs"),
            "threads": threads,
        }

    def run(self, model: Path, inputs: Mapping[str, Any], threads: int = 1) -> Answer | Failure:
        """Have a model run, in a new worker if the last one is gone."""
        if not self.worker.alive:
            self.worker.kill()
            self.start()
        request = self.request(model, inputs, threads)
        answer = self.worker.ask(request, LIMITS)
        if isinstance(answer, Failure):
            return answer
        (files,) = answer["outputs"]
        return Answer(
            {name: np.load(Path(request["outputs"], file)) for name, file in files.items()}, answer["degraded"]
        )

    def right(self, model: Path, inputs: Mapping[str, Any], threads: int = 1) -> Answer:
        """Have a model run that must; returns its answer."""
        answer = self.run(model, inputs, threads)
        assert isinstance(answer, Answer), answer
        return answer

    def during_run(
        self, model: Path, at_work: Callable[[], psutil.Process], then: Callable[[], None]
    ) -> Answer | Failure:
        """Have an ``endless`` model run, and do something as soon as the process ``at_work`` computes it."""

        def wait() -> None:
            eventually(lambda: self.worker._stage is Stage.RUN, "the run to begin")
            before = at_work().cpu_times().user
            eventually(lambda: at_work().cpu_times().user > before + 0.3, "it to compute")
            then()

        self.worker._stage = Stage.PREPARE  # what it is until then, also where the last request went on to another
        waiting = threading.Thread(target=wait)
        waiting.start()
        answer = self.run(model, ONE)
        waiting.join()
        return answer

    def processes(self) -> list[psutil.Process]:
        """Return the processes that the worker has started and that live, also those that have left its tree."""
        found = {process.pid: process for process in psutil.Process(self.worker._process.pid).children(recursive=True)}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if str(self.home) in " ".join(process.cmdline()):
                    found[process.pid] = process
        return [process for process in found.values() if living(process)]

    def process(self, *parts: str) -> psutil.Process:
        """Return the process started by the worker in whose command all ``parts`` occur, the newest if several."""
        found = [item for item in self.processes() if all(part in " ".join(item.cmdline()) for part in parts)]
        assert found, f"no process of {parts}"
        return max(found, key=lambda item: (item.create_time(), item.pid))


def living(process: psutil.Process) -> bool:
    """Return whether a process is there and not merely waiting to be noticed."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


@contextmanager
def bench(
    name: str, target: str, folder: Path, *, env: Mapping[str, str] | None = None, file: Path | None = None
) -> Iterator[Bench]:
    """Yield a bench of the runtime ``name`` on ``target``; skips the test where that is out of reach here.

    ``env`` are variables that take the place of the target's, ``file`` one that takes the place of the plug-in's.
    """
    runtime = SUITE.plugins.runtimes[name]
    way = SUITE.plugins.targets[target].way
    if isinstance(way, NoWay):
        pytest.skip(f"{target}: {way.why}; {way.install}")
    try:
        store = Store(default_root())
        built = environments.ensure(store, runtime.environment, print, SUITE.spec.limits.prepare_seconds)
    except EnvironmentFailure as failure:
        if failure.unavailable:
            pytest.skip(f"{name}: {failure}")
        pytest.fail(f"{name}: {failure}\n{failure.log_tail}")
    more = {**way.env, **(env or {})}
    launch = environments.launch(built, name, runtime.environment, {}, more=more)
    opened = Bench(launch._replace(plugin=file or runtime.file), folder, runtime.environment.npm)
    try:
        yield opened
    finally:
        if isinstance(opened.started, Worker):
            opened.started.close()
