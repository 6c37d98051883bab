"""The worker: the one program that runs inside a framework's or runtime's environment.

It is a single file that needs the standard library and numpy alone and runs on every Python from 3.6 on. It reads
requests as JSON lines, answers each with one JSON line, and exchanges tensors as .npy files. What plug-ins print goes
to the log (stderr); the answers travel on a private copy of standard output that plug-ins cannot reach by printing.

Requests carry ``op`` (``hello``, ``train``, ``export``, ``convert``, ``reduce``, ``run``, ``measure``) and ``id``.
While one is worked on, lines ``{"event": "stage", "stage": ...}`` say how far it has come, so that a death can be put
down to its stage. An answer is ``{"id": ..., "ok": true, ...}`` or ``{"id": ..., "ok": false, "stage", "reason",
"fault", "trace"}`` where fault is ``model`` (the plug-in's functions raised) or ``harness`` (this file, the disk, the
data set did).
"""

import contextlib
import errno
import faulthandler
import gc
import importlib
import importlib.util
import io
import json
import os
import platform
import re
import shutil
import signal
import sys
import time
import traceback
from types import ModuleType
from typing import IO, Any, Callable, Dict, List, Optional, Tuple

import numpy as np

# Spelled as Python 3.6 has them. What comes from a plug-in or from JSON is Any: it is checked where it is used.
Json = Dict[str, Any]
Arrays = Dict[str, Any]
Send = Callable[[Json], None]

PROTOCOL = 1
#: A disk with less room than this (bytes) is full, whatever the failing library said of it.
DISK_FULL = 1 << 16
#: Of a sample's time, the share that reading the clock twice may take.
CLOCK_SHARE = 0.001
#: A warm-up lasts until the mean times of this many chunks in a row, each of so many seconds, are this close together.
STABLE_CHUNKS, CHUNK_SECONDS, STABLE = 4, 0.02, 0.05
#: How much of a reason is kept, in characters; whole texts stand in the log.
REASON_LENGTH = 500


class Failed(Exception):
    """A request that ended in failure: stage, reason and whose fault it is."""

    def __init__(self, stage: str, reason: str, fault: str) -> None:
        Exception.__init__(self, reason)
        self.stage = stage
        self.reason = reason
        self.fault = fault


def one_line(error: BaseException) -> str:
    """Return ``ClassName: message`` on one line; of a long message the beginning and the end.

    Many runtimes open with where in their source it happened and close with what is wrong.
    """
    text = " ".join(str(error).split())
    text = "%s: %s" % (type(error).__name__, text) if text else type(error).__name__
    if len(text) <= REASON_LENGTH:
        return text
    half = REASON_LENGTH // 2
    return text[:half] + " ... " + text[-half:]


def flush_log() -> None:
    """Write out what plug-ins printed, and the libraries under them, if there is room for it."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # the disk is full, or a plug-in closed the stream
            stream.flush()
    # A library in C that prints why it fails has buffers of its own. Windows has a C library for each compiler, and
    # some builds of Python have no ctypes.
    with contextlib.suppress(ImportError, OSError, TypeError, AttributeError):
        importlib.import_module("ctypes").CDLL(None).fflush(None)


def log_exception() -> None:
    """Write the exception in flight and its stack into the log, if there is room for it."""
    flush_log()
    with contextlib.suppress(OSError, ValueError):
        traceback.print_exc()


class Stages:
    """Runs the steps of one request: announces each stage, times it, and turns exceptions into ``Failed``.

    ``folder`` is where the request writes; a step that fails while its disk is full is no fault of a plug-in.
    """

    def __init__(self, send: Send, folder: Optional[str] = None) -> None:
        self._send = send
        self._folder = folder
        self._announced = "PREPARE"  # where every request begins
        self.seconds = {}  # type: Dict[str, float]

    def step(self, stage: str, fault: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return ``function(*arguments)``; raises ``Failed`` naming ``stage`` if it raises anything."""
        if stage != self._announced:
            self._announced = stage
            self._send({"event": "stage", "stage": stage})
        start = time.perf_counter()
        try:
            return function(*arguments)
        except Failed:
            raise
        except (Exception, SystemExit) as error:
            log_exception()
            if is_full(error, self._folder):
                raise Failed(stage, "the disk is full: " + one_line(error), "harness")
            raise Failed(stage, one_line(error), fault)
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


def is_full(error: BaseException, folder: Optional[str]) -> bool:
    """Return whether a full disk is behind ``error``: by its own chain of causes, or by what is left of the disk.

    Libraries report a full disk as anything from a short count to a broken zip file.
    """
    cause = error  # type: Optional[BaseException]
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        cause = cause.__cause__ or cause.__context__
    return folder is not None and shutil.disk_usage(folder).free < DISK_FULL


class Session:
    """What the worker keeps between requests: loaded plug-ins, and the model trained last."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._modules = {}  # type: Dict[str, Any]
        self._trained = (None, None, None, None)  # type: Tuple[Any, Any, Any, Optional[float]]

    def answer(self, request: Json) -> Json:
        """Return the answer to one request; raises ``Failed`` where it could not be carried out."""
        op = request["op"]
        operations = {
            "hello": self._hello,
            "train": self._train,
            "export": self._export,
            "convert": self._convert,
            "reduce": self._reduce,
            "run": self._run,
            "measure": self._measure,
        }
        if op in operations:
            return operations[op](request)
        raise Failed("PREPARE", "unknown request %r" % (op,), "harness")

    def _hello(self, request: Json) -> Json:
        answer = describe(request.get("packages", []))
        if request.get("file") is None:
            return answer
        stages = Stages(self._send)
        module = stages.step("PREPARE", "harness", self._module, request["file"])
        # What only the plug-in knows: versions of what it drives, and whether this machine has it at all.
        if hasattr(module, "unavailable"):
            answer["unavailable"] = str(stages.step("PREPARE", "harness", module.unavailable) or "")
        if hasattr(module, "versions") and not answer.get("unavailable"):
            told = stages.step("PREPARE", "harness", module.versions)
            answer["environment"].update({str(name): str(version) for name, version in told.items()})
        return answer

    def _module(self, file: str) -> Any:
        if file not in self._modules:
            self._modules[file] = load_module(file)
        return self._modules[file]

    def _train(self, request: Json) -> Json:
        stages = Stages(self._send)
        exporter = stages.step("PREPARE", "harness", self._module, request["file"])
        key = (request["file"], request["model"], request["seed"])
        if self._trained[0] != key:
            self._trained = (None, None, None, None)
            data = stages.step("PREPARE", "harness", self._data, request["data"])
            trained = stages.step("TRAIN", "model", exporter.train, request["model"], data, request["seed"])
            accuracy = None
            if data is not None:
                accuracy = stages.step("TRAIN", "model", held_out_accuracy, exporter, trained, data)
            self._trained = (key, trained, data, accuracy)
        accuracy = self._trained[3]
        required = request.get("accuracy")
        if required is not None and not reaches(accuracy, required):
            text = "held-out accuracy is %s, at least %s is required" % (accuracy, required)
            raise Failed("TRAIN", text, "model")
        return {"accuracy": accuracy, "seconds": stages.seconds}

    def _data(self, wanted: Optional[Json]) -> Any:
        if wanted is None:
            return None
        return self._module(wanted["file"]).load(wanted["view"], wanted["target"], wanted["layout"])

    def _export(self, request: Json) -> Json:
        answer = self._train(request)
        stages = Stages(self._send, request["folder"])
        exporter = self._module(request["file"])
        _, trained, data, _ = self._trained
        folder = request["folder"]
        rows = stages.step("EXPORT", "model", example_rows, exporter, data, request)
        sets, signature = stages.step("EXPORT", "model", sample_sets, exporter, trained, rows, request)
        artifact = os.path.join(folder, "artifact")
        os.makedirs(artifact)
        example = {name: value[: request["batches"][0]] for name, value in rows.items()}
        made = stages.step("EXPORT", "model", exporter.export, trained, request["path"], example, artifact)
        entry = stages.step("EXPORT", "model", entry_of, made, artifact)
        facts = stages.step("EXPORT", "model", plain, made.get("facts", {}))
        held_out = stages.step("EXPORT", "harness", write_held_out, folder, data, request.get("held_out"))
        answer["seconds"].update(stages.seconds)
        answer.update({"entry": entry, "facts": facts, "sets": sets, "signature": signature, "held_out": held_out})
        return answer

    def _convert(self, request: Json) -> Json:
        """Have a converter read an artifact; ``module`` is importable here: it is the engine's own interpreter."""
        stages = Stages(self._send, os.path.dirname(request["output"]))
        converters = stages.step("PREPARE", "harness", importlib.import_module, request["module"])
        arguments = request["artifact"], request["output"], request["options"]
        facts = stages.step("EXPORT", "model", converters.convert_artifact, request["converter"], *arguments)
        return {"facts": stages.step("EXPORT", "model", plain, facts), "seconds": stages.seconds}

    def _reduce(self, request: Json) -> Json:
        """Have a precision plug-in make an artifact of another one."""
        folder = request["folder"]
        stages = Stages(self._send, folder)
        reducer = stages.step("PREPARE", "harness", self._module, request["file"])
        data = stages.step("PREPARE", "harness", self._data, request["data"])
        rows = {} if data is None else {name: value[: request["rows"]] for name, value in data.train_x.items()}
        artifact = os.path.join(folder, "artifact")
        given = request["artifact"], request["precision"], rows, artifact
        made = stages.step("EXPORT", "model", reducer.reduce, *given)
        entry = stages.step("EXPORT", "model", entry_of, made, artifact)
        facts = stages.step("EXPORT", "model", plain, made.get("facts", {}))
        held_out = stages.step("EXPORT", "harness", write_held_out, folder, data, request.get("held_out"))
        return {"entry": entry, "facts": facts, "held_out": held_out, "seconds": stages.seconds}

    def _run(self, request: Json) -> Json:
        stages = Stages(self._send, request["outputs"])
        runtime = stages.step("PREPARE", "harness", self._module, request["file"])
        inputs = [
            stages.step("PREPARE", "harness", read_samples, request["bundle"], samples["inputs"])
            for samples in request["sets"]
        ]
        signature = request["signature"]
        loaded = stages.step(
            "LOAD", "model", runtime.load, request["entry"], request["format"], signature, request["threads"]
        )
        names = stages.step("LOAD", "model", runtime.input_names, loaded)
        degraded = stages.step("LOAD", "model", runtime.degraded, loaded)
        made = [
            stages.step("RUN", "model", run_calls, runtime, loaded, (names, given, signature), samples["calls"])
            for given, samples in zip(inputs, request["sets"])
        ]
        stacked = [stages.step("COMPARE", "model", stack_outputs, arrays) for arrays in made]
        outputs = [
            stages.step("COMPARE", "harness", write_outputs, request["outputs"], number, arrays)
            for number, arrays in enumerate(stacked)
        ]
        return {"outputs": outputs, "degraded": str(degraded or ""), "seconds": stages.seconds}

    def _measure(self, request: Json) -> Json:
        """Time the calls of a model that works: what is called is loaded once, each set's first call is run again."""
        stages = Stages(self._send)
        runtime = stages.step("PREPARE", "harness", self._module, request["file"])
        given = [
            stages.step("PREPARE", "harness", read_samples, request["bundle"], samples["inputs"])
            for samples in request["sets"]
        ]
        signature = request["signature"]
        idle = resident()
        start = time.perf_counter()
        loaded = stages.step(
            "LOAD", "model", runtime.load, request["entry"], request["format"], signature, request["threads"]
        )
        load_seconds = time.perf_counter() - start
        names = stages.step("LOAD", "model", runtime.input_names, loaded)
        source = pair(names, [tensor["name"] for tensor in signature["inputs"]], "input")
        first = None  # type: Optional[float]
        timings = []
        for arrays, samples in zip(given, request["sets"]):
            first_call = first_rows(arrays, signature, samples["batch"])
            inputs = {name: first_call[source[name]] for name in names}
            start = time.perf_counter()
            stages.step("MEASURE", "model", runtime.run, loaded, inputs)
            first = time.perf_counter() - start if first is None else first
            call = stages.step("MEASURE", "model", caller_of, runtime, loaded, inputs)
            timings.append(stages.step("MEASURE", "model", time_calls, call, request["seconds"], request["samples"]))
        peak = resident(peak=True)
        grown = None if idle is None or peak is None else max(0.0, round(peak - idle, 3))
        return {"load_seconds": load_seconds, "first_seconds": first, "peak_mb": grown, "timings": timings}


def first_rows(stacked: Arrays, signature: Json, batch: int) -> Arrays:
    """Return the inputs of the first call, of which so many rows where the batch is symbolic."""
    first = {}
    for tensor in signature["inputs"]:
        value = stacked[tensor["name"]][0]
        symbolic = tensor["shape"][:1] == [None]
        first[tensor["name"]] = np.ascontiguousarray(value[:batch]) if symbolic else value
    return first


def caller_of(runtime: Any, session: Any, inputs: Arrays) -> Any:
    """Return a function that runs the session as often in a row as it is told; a plug-in's own, if it has one.

    What a runtime wants of a caller only once (names, buffers) is then not timed with every call, and nothing stands
    between the loop and the runtime.
    """
    if hasattr(runtime, "caller"):
        return runtime.caller(session, inputs)

    def repeat(count: int) -> None:
        for _ in range(count):
            runtime.run(session, inputs)

    return repeat


def time_calls(repeat: Callable[[int], Any], seconds: float, samples: int) -> Json:
    """Return ``samples`` raw samples of a call in seconds, each the mean of ``inner`` calls, after a warm-up.

    Fewer where ``seconds`` do not suffice, but one at least. ``warm`` says how many calls the warm-up took and
    ``stable`` whether times had settled by its end, which is after ``seconds`` at the latest.
    """
    warm, stable = warm_up(repeat, seconds)
    inner = calls_of_a_sample(repeat)
    clock = time.perf_counter
    taken = []  # type: List[float]
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        deadline = clock() + seconds
        while len(taken) < samples and (not taken or clock() < deadline):
            start = clock()
            repeat(inner)
            taken.append((clock() - start) / inner)
    finally:
        if collecting:
            gc.enable()
    return {"inner": inner, "samples": taken, "warm": warm, "stable": stable}


def calls_of_a_sample(repeat: Callable[[int], Any]) -> int:
    """Return how many calls in a row take long enough for the clock's own share of their time."""
    clock = time.perf_counter
    own = clock_seconds()
    inner = 1
    while True:
        start = clock()
        repeat(inner)
        taken = clock() - start
        if own <= CLOCK_SHARE * taken:
            return inner
        if taken <= 0:  # the clock did not move
            inner *= 2
            continue
        inner = max(inner + 1, int(np.ceil(1.05 * inner * own / (CLOCK_SHARE * taken))))


def warm_up(repeat: Callable[[int], Any], seconds: float) -> Tuple[int, bool]:
    """Call until times are stable or ``seconds`` are over; returns how many calls, and which it was."""
    clock = time.perf_counter
    deadline = clock() + seconds
    calls, means = 0, []  # type: int, List[float]
    while True:
        start, count = clock(), 0
        while not count or clock() - start < CHUNK_SECONDS:
            repeat(1)
            count += 1
        calls += count
        means.append((clock() - start) / count)
        last = means[-STABLE_CHUNKS:]
        if len(last) == STABLE_CHUNKS and max(last) <= min(last) * (1 + STABLE):
            return calls, True
        if clock() > deadline:
            return calls, False


def clock_seconds() -> float:
    """Return how long it takes to read the clock twice, as every sample does: the least of many times."""
    clock = time.perf_counter
    return min(-(clock() - clock()) for _ in range(1000)) or time.get_clock_info("perf_counter").resolution


def resident(peak: bool = False) -> Optional[float]:
    """Return this process's resident memory in MiB, or the most that it has been since it was last asked for without
    ``peak``; None where the system has no such file.
    """
    try:
        if not peak:
            with io.open("/proc/self/clear_refs", "w") as stream:
                stream.write("5")  # proc(5): resets the peak to what is resident now
        with io.open("/proc/self/status") as stream:
            field = "VmHWM:" if peak else "VmRSS:"
            (line,) = [line for line in stream if line.startswith(field)]
    except (OSError, ValueError):
        return None
    return int(line.split()[1]) / 1024.0


def load_module(file: str) -> ModuleType:
    """Return the plug-in module at the path ``file``, loaded without an import path."""
    name = "portmatrix_plugin_" + re.sub(r"\W", "_", os.path.splitext(os.path.basename(file))[0])
    spec = importlib.util.spec_from_file_location(name, file)  # type: Any
    module = importlib.util.module_from_spec(spec)
    # Frameworks that serialize classes by module name (Keras, TorchScript) look them up here.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def held_out_accuracy(exporter: Any, trained: Any, data: Any) -> float:
    """Return the share of held-out rows that are right in every position.

    The first output decides: its argmax over the last axis where it is floating point, its own values where it is
    integer (a decoder that writes symbols itself).
    """
    outputs = exporter.predict(trained, data.test_x)
    first = np.asarray(next(iter(outputs.values())))
    answer = first.argmax(axis=-1) if first.dtype.kind == "f" else first
    right = answer == data.test_y
    return float(right.reshape(len(right), -1).all(axis=1).mean())


def reaches(accuracy: Optional[float], required: float) -> bool:
    """Return whether a held-out accuracy is enough; none at all, or NaN for want of held-out rows, is not."""
    return accuracy is not None and accuracy >= required


def entry_of(made: Any, artifact: str) -> str:
    """Return the file or folder that an exporter named as its entry, after a look whether it is there."""
    entry = str(made["entry"])
    inside = os.path.normpath(os.path.join(artifact, entry))
    if os.path.isabs(entry) or not inside.startswith(os.path.join(artifact, "")):
        raise ValueError("the exporter named %r, which is no name inside its folder" % (entry,))
    if not os.path.exists(inside):
        raise ValueError("the exporter named %r but wrote no such file" % (entry,))
    return entry


def example_rows(exporter: Any, data: Any, request: Json) -> Arrays:
    """Return the reference rows, ``{input name: array of request["rows"] rows}``: held-out rows of the data set, or
    what the exporter's own ``samples(model, rows, seed)`` gives where the model reads no data set.
    """
    count = request["rows"]
    if data is not None:
        rows = {name: value[:count] for name, value in data.test_x.items()}  # type: Arrays
    elif hasattr(exporter, "samples"):
        rows = exporter.samples(request["model"], count, request["seed"])
    else:
        raise ValueError(
            "model %r reads no data set and %s has no samples(model, rows, seed)"
            % (request["model"], os.path.basename(request["file"]))
        )
    short = [name for name, value in rows.items() if len(value) < count]
    if short:
        raise ValueError("%d reference rows are wanted; input %s has fewer" % (count, ", ".join(short)))
    return rows


def sample_sets(exporter: Any, trained: Any, rows: Arrays, request: Json) -> Tuple[List[Json], Json]:
    """Write inputs and the framework's own outputs below ``samples/`` for every batch size.

    Returns the list of sample sets and the signature. Arrays are stacked: calls x batch x the tensor's own axes.
    """
    os.makedirs(os.path.join(request["folder"], "samples"))
    sets = []
    signature = {}  # type: Json
    for batch in request["batches"]:
        calls = request["rows"] // batch
        cut = [
            {name: value[call * batch : (call + 1) * batch] for name, value in rows.items()} for call in range(calls)
        ]
        made = [exporter.predict(trained, inputs) for inputs in cut]
        if not signature:
            dynamic = request["batch"] == "dynamic"
            signature = {"inputs": tensors(cut[0], batch, dynamic), "outputs": tensors(made[0], batch, dynamic)}
        sets.append(
            {
                "batch": batch,
                "calls": calls,
                "inputs": write_samples(request["folder"], "b%d.in" % batch, cut),
                "outputs": write_samples(request["folder"], "b%d.out" % batch, made),
            }
        )
    return sets, signature


def write_held_out(folder: str, data: Any, batch: Optional[int]) -> Optional[Json]:
    """Write the held-out rows in batches of ``batch`` (0: all in one), and their labels; returns where, or None.

    Rows that do not fill a last batch are left out.
    """
    if batch is None:
        return None
    count = len(data.test_y)
    batch = batch or count
    calls = count // batch
    os.makedirs(os.path.join(folder, "samples"), exist_ok=True)
    cut = [{name: value[call * batch :][:batch] for name, value in data.test_x.items()} for call in range(calls)]
    inputs = write_samples(folder, "held.in", cut)
    save(os.path.join(folder, "samples/held.labels.npy"), np.asarray(data.test_y[: calls * batch]))
    return {"batch": batch, "calls": calls, "inputs": inputs, "labels": "samples/held.labels.npy"}


def tensors(arrays: Arrays, batch: int, dynamic: bool) -> List[Json]:
    """Return name, dtype and shape of each array; None for a leading axis that is the symbolic batch."""
    described = []
    for name, value in arrays.items():
        value = np.asarray(value)
        shape = list(value.shape)  # type: List[Optional[int]]
        if dynamic and shape and shape[0] == batch:
            shape[0] = None
        described.append({"name": name, "dtype": value.dtype.name, "shape": shape})
    return described


def write_samples(folder: str, stem: str, calls: List[Arrays]) -> Dict[str, str]:
    """Write one stacked .npy per tensor; returns ``{tensor name: file name relative to the bundle}``."""
    files = {}
    for number, name in enumerate(calls[0]):
        file = "samples/%s%d.npy" % (stem, number)
        save(os.path.join(folder, file), np.stack([np.asarray(call[name]) for call in calls]))
        files[name] = file
    return files


def save(file: str, array: Any) -> None:
    """Write an array as .npy, by way of memory: numpy's own writing to a file names no errno for a full disk."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    with open(file, "wb") as stream:
        stream.write(buffer.getbuffer())


def read_samples(bundle: str, files: Dict[str, str]) -> Arrays:
    """Return ``{tensor name: stacked array}`` in this machine's byte order.

    A .npy file keeps the byte order of the machine that wrote it, and a runtime handed foreign bytes computes nonsense
    without a word.
    """
    arrays = {}
    for name, file in files.items():
        value = np.load(os.path.join(bundle, file), allow_pickle=False)
        arrays[name] = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("="))
    return arrays


def run_calls(runtime: Any, session: Any, binding: Tuple[List[str], Arrays, Json], calls: int) -> Dict[str, List[Any]]:
    """Run the session once for each call; returns ``{reference output name: list of arrays}``."""
    names, inputs, signature = binding
    wanted = [tensor["name"] for tensor in signature["inputs"]]
    source = pair(names, wanted, "input")
    order = {}  # type: Dict[str, str]
    made = {}  # type: Dict[str, List[Any]]
    for call in range(calls):
        outputs = runtime.run(session, {name: inputs[source[name]][call] for name in names})
        if not order:
            order = pair([tensor["name"] for tensor in signature["outputs"]], list(outputs), "output")
        for name, own in order.items():
            made.setdefault(name, []).append(np.asarray(outputs[own]))
    return made


def pair(left: List[str], right: List[str], what: str) -> Dict[str, str]:
    """Return ``{name in left: its partner in right}``: by name where both have the same names, else by position."""
    if len(left) != len(right):
        raise ValueError("expected %s %s, found %s" % (what, ", ".join(left), ", ".join(right) or "none"))
    if set(left) == set(right):
        return {name: name for name in left}
    return dict(zip(left, right))


def stack_outputs(made: Dict[str, List[Any]]) -> Arrays:
    """Return one stacked array per output.

    Raises ``ValueError`` where the calls of one set gave different shapes, or something that is no array of numbers.
    """
    stacked = {}
    for name, arrays in made.items():
        shapes = {array.shape for array in arrays}
        if len(shapes) > 1:
            raise ValueError("output %s changes its shape between calls: %s" % (name, sorted(shapes)))
        stacked[name] = np.stack(arrays)
        if stacked[name].dtype.hasobject:
            raise ValueError("output %s is no array of numbers: it holds Python's objects" % (name,))
    return stacked


def write_outputs(folder: str, number: int, stacked: Arrays) -> Dict[str, str]:
    """Write one .npy per output; returns ``{output name: file name}``."""
    files = {}
    for position, (name, array) in enumerate(stacked.items()):
        file = "s%d.out%d.npy" % (number, position)
        save(os.path.join(folder, file), array)
        files[name] = file
    return files


def plain(facts: Dict[Any, Any]) -> Json:
    """Return the facts as plain JSON scalars under string keys; NaN and infinity, which JSON lacks, as words."""
    found = {}  # type: Json
    for key, value in facts.items():
        is_plain = isinstance(value, (bool, int, str)) or (isinstance(value, float) and bool(np.isfinite(value)))
        found[str(key)] = value if is_plain else str(value)
    return found


def describe(packages: List[str]) -> Json:
    """Return what this interpreter is: version, platform, byte order, and the versions of ``packages``."""
    found = {"python": platform.python_version(), "platform": platform.platform(), "byteorder": sys.byteorder}
    for name in packages:
        version = package_version(name)
        if version is not None:
            found[name] = version
    return {"environment": found, "protocol": PROTOCOL}


def package_version(name: str) -> Optional[str]:
    """Return the installed version of a distribution, or None."""
    wanted = canonical(name)
    for folder in sys.path:
        for file in described_in(folder):
            with contextlib.suppress(OSError), io.open(file, encoding="utf-8", errors="replace") as stream:
                fields = dict(field_of(line) for line in stream if line.startswith(("Name:", "Version:")))
                if canonical(fields.get("Name", "")) == wanted:
                    return fields.get("Version")
    return None


def described_in(folder: str) -> List[str]:
    """Return the files in a folder of the import path that describe installed distributions.

    Python 3.6 and 3.7 have no ``importlib.metadata``; this is what it reads.
    """
    if not os.path.isdir(folder):
        return []
    found = []
    for entry in os.listdir(folder):
        if entry.endswith(".dist-info"):
            found.append(os.path.join(folder, entry, "METADATA"))
        elif entry.endswith(".egg-info"):
            place = os.path.join(folder, entry)
            found.append(os.path.join(place, "PKG-INFO") if os.path.isdir(place) else place)
    return found


def field_of(line: str) -> Tuple[str, str]:
    """Return name and value of one line of a distribution's description."""
    name, _, value = line.partition(":")
    return name, value.strip()


def canonical(name: str) -> str:
    """Return a distribution's name as indexes compare names."""
    return re.sub(r"[-_.]+", "-", name).lower()


#: The audit events with which Python's socket module reaches out.
_NETWORK_EVENTS = frozenset(
    "socket." + name
    for name in ("connect", "getaddrinfo", "gethostbyname", "gethostbyaddr", "getnameinfo", "sendto", "sendmsg")
)


def close_network() -> None:
    """Refuse name look-ups and connections made through Python, where no kernel namespace does it (see docs)."""

    def refuse(event: str, _arguments: Tuple[Any, ...]) -> None:
        if event in _NETWORK_EVENTS:
            raise PermissionError("workers have no network; the plug-in's environment can declare network: true")

    if hasattr(sys, "addaudithook"):
        sys.addaudithook(refuse)
        return
    import socket  # noqa: PLC0415 - needed here alone

    def refuse_call(*_arguments: Any, **_named: Any) -> None:
        refuse("socket.connect", ())

    # Python 3.6 and 3.7 have no audit hooks: what would raise the events is taken away instead.
    for name in ("connect", "connect_ex", "sendto", "sendmsg"):
        setattr(socket.socket, name, refuse_call)
    for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr", "getnameinfo"):
        setattr(socket, name, refuse_call)


def die_with_parent() -> None:
    """Ask Linux to kill this process when the engine dies, so that ``kill -9`` of the engine leaves no worker."""
    if sys.platform.startswith("linux"):
        import ctypes  # noqa: PLC0415 - not in every interpreter that can run a worker

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def claim_channels() -> Tuple[IO[str], IO[str]]:
    """Return (requests, answers) and point the standard streams elsewhere: input to nothing, output to the log."""
    requests = os.fdopen(os.dup(0), "r", encoding="utf-8")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return requests, answers


def main() -> None:
    """Answer requests until standard input ends."""
    requests, answers = claim_channels()
    die_with_parent()
    faulthandler.enable()
    if os.environ.get("PORTMATRIX_NETWORK") == "audit-hook":
        close_network()

    def send(message: Json) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    session = Session(send)
    while True:
        line = requests.readline()
        if not line:
            return
        request = json.loads(line)
        try:
            answer = session.answer(request)
            answer["ok"] = True
        except Failed as failed:
            answer = {"ok": False, "stage": failed.stage, "reason": failed.reason, "fault": failed.fault}
        except Exception as error:  # the harness itself: anything else is a bug of this file, and must be seen as one
            log_exception()
            answer = {"ok": False, "stage": "PREPARE", "reason": one_line(error), "fault": "harness"}
        flush_log()
        answer["id"] = request.get("id")
        send(answer)


if __name__ == "__main__":
    main()
