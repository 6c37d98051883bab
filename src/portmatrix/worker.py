"""The worker: the one program that runs inside a framework's or runtime's environment.

It is a single file that needs the standard library and numpy alone and runs on every Python from 3.6 on. It reads
requests as JSON lines, answers each with one JSON line, and exchanges tensors as .npy files. What plug-ins print goes
to the log (stderr); the answers travel on a private copy of standard output that plug-ins cannot reach by printing.

Requests carry ``op`` (``hello``, ``train``, ``export``, ``run``) and ``id``. While one is worked on, lines
``{"event": "stage", "stage": ...}`` say how far it has come, so that a death can be put down to its stage. An answer is
``{"id": ..., "ok": true, ...}`` or ``{"id": ..., "ok": false, "stage", "reason", "fault", "trace"}`` where fault is
``model`` (the plug-in's functions raised) or ``harness`` (this file, the disk, the data set did).
"""

import errno
import faulthandler
import importlib.util
import json
import os
import platform
import re
import signal
import sys
import time
import traceback

import numpy as np

PROTOCOL = 1
#: How much of a reason is kept, in characters; whole texts stand in the log.
REASON_LENGTH = 500


class Failed(Exception):
    """A request that ended in failure: stage, reason and whose fault it is."""

    def __init__(self, stage, reason, fault):
        Exception.__init__(self, reason)
        self.stage = stage
        self.reason = reason
        self.fault = fault


def one_line(error):
    """Return ``ClassName: message`` on one line; of a long message the beginning and the end.

    Many runtimes open with where in their source it happened and close with what is wrong.
    """
    text = " ".join(str(error).split())
    text = "%s: %s" % (type(error).__name__, text) if text else type(error).__name__
    if len(text) <= REASON_LENGTH:
        return text
    half = REASON_LENGTH // 2
    return text[:half] + " ... " + text[-half:]


class Stages:
    """Runs the steps of one request: announces each stage, times it, and turns exceptions into ``Failed``."""

    def __init__(self, send):
        self._send = send
        self.seconds = {}

    def step(self, stage, fault, function, *arguments):
        """Return ``function(*arguments)``; raises ``Failed`` naming ``stage`` if it raises anything."""
        self._send({"event": "stage", "stage": stage})
        start = time.perf_counter()
        try:
            return function(*arguments)
        except Failed:
            raise
        except NotImplementedError as error:
            traceback.print_exc()
            raise Failed(stage, one_line(error), fault)
        except OSError as error:
            traceback.print_exc()
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise Failed(stage, one_line(error), "harness" if full else fault)
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            raise Failed(stage, one_line(error), fault)
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


class Session:
    """What the worker keeps between requests: loaded plug-ins, and the model trained last."""

    def __init__(self, send):
        self._send = send
        self._modules = {}
        self._trained = (None, None, None, None)

    def answer(self, request):
        """Return the answer to one request; raises ``Failed`` where it could not be carried out."""
        op = request["op"]
        if op == "hello":
            return describe(request.get("packages", []))
        if op == "train":
            return self._train(request)
        if op == "export":
            return self._export(request)
        if op == "run":
            return self._run(request)
        raise Failed("PREPARE", "unknown request %r" % (op,), "harness")

    def _module(self, file):
        if file not in self._modules:
            self._modules[file] = load_module(file)
        return self._modules[file]

    def _train(self, request):
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
        if required is not None and (accuracy is None or accuracy < required):
            text = "held-out accuracy is %s, at least %s is required" % (accuracy, required)
            raise Failed("TRAIN", text, "model")
        return {"accuracy": accuracy, "seconds": stages.seconds}

    def _data(self, wanted):
        if wanted is None:
            return None
        return self._module(wanted["file"]).load(wanted["view"], wanted["target"], wanted["layout"])

    def _export(self, request):
        answer = self._train(request)
        stages = Stages(self._send)
        exporter = self._module(request["file"])
        _, trained, data, _ = self._trained
        folder = request["folder"]
        rows = stages.step("EXPORT", "model", example_rows, exporter, data, request)
        sets, signature = stages.step("EXPORT", "model", sample_sets, exporter, trained, rows, request)
        artifact = os.path.join(folder, "artifact")
        os.makedirs(artifact)
        example = {name: value[: request["batches"][0]] for name, value in rows.items()}
        made = stages.step("EXPORT", "model", exporter.export, trained, request["path"], example, artifact)
        entry = made["entry"]
        if not os.path.exists(os.path.join(artifact, entry)):
            raise Failed("EXPORT", "the exporter named %r but wrote no such file" % (entry,), "model")
        answer["seconds"].update(stages.seconds)
        answer.update({"entry": entry, "facts": plain(made.get("facts", {})), "sets": sets, "signature": signature})
        return answer

    def _run(self, request):
        stages = Stages(self._send)
        runtime = stages.step("PREPARE", "harness", self._module, request["file"])
        signature = request["signature"]
        loaded = stages.step(
            "LOAD", "model", runtime.load, request["entry"], request["format"], signature, request["threads"]
        )
        names = stages.step("LOAD", "model", runtime.input_names, loaded)
        degraded = stages.step("LOAD", "model", runtime.degraded, loaded)
        outputs = []
        for number, samples in enumerate(request["sets"]):
            inputs = stages.step("PREPARE", "harness", read_samples, request["bundle"], samples["inputs"])
            made = stages.step("RUN", "model", run_calls, runtime, loaded, (names, inputs, signature), samples["calls"])
            outputs.append(stages.step("COMPARE", "model", write_outputs, request["outputs"], number, made))
        return {"outputs": outputs, "degraded": degraded, "seconds": stages.seconds}


def load_module(file):
    """Return the plug-in module at the path ``file``, loaded without an import path."""
    name = "portmatrix_plugin_" + re.sub(r"\W", "_", os.path.splitext(os.path.basename(file))[0])
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    # Frameworks that serialize classes by module name (Keras, TorchScript) look them up here.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def held_out_accuracy(exporter, trained, data):
    """Return the share of held-out rows that are right in every position.

    The first output decides: its argmax over the last axis where it is floating point, its own values where it is
    integer (a decoder that writes symbols itself).
    """
    outputs = exporter.predict(trained, data.test_x)
    first = np.asarray(next(iter(outputs.values())))
    answer = first.argmax(axis=-1) if first.dtype.kind == "f" else first
    right = answer == data.test_y
    return float(right.reshape(len(right), -1).all(axis=1).mean())


def example_rows(exporter, data, request):
    """Return the reference rows, ``{input name: array of request["rows"] rows}``: held-out rows of the data set, or
    what the exporter's own ``samples(model, rows, seed)`` gives where the model reads no data set.
    """
    count = request["rows"]
    if data is not None:
        rows = {name: value[:count] for name, value in data.test_x.items()}
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


def sample_sets(exporter, trained, rows, request):
    """Write inputs and the framework's own outputs below ``samples/`` for every batch size.

    Returns the list of sample sets and the signature. Arrays are stacked: calls x batch x the tensor's own axes.
    """
    os.makedirs(os.path.join(request["folder"], "samples"))
    sets = []
    signature = None
    for batch in request["batches"]:
        calls = request["rows"] // batch
        cut = [
            {name: value[call * batch : (call + 1) * batch] for name, value in rows.items()} for call in range(calls)
        ]
        made = [exporter.predict(trained, inputs) for inputs in cut]
        if signature is None:
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


def tensors(arrays, batch, dynamic):
    """Return name, dtype and shape of each array; None for a leading axis that is the symbolic batch."""
    described = []
    for name, value in arrays.items():
        value = np.asarray(value)
        shape = list(value.shape)
        if dynamic and shape and shape[0] == batch:
            shape[0] = None
        described.append({"name": name, "dtype": value.dtype.name, "shape": shape})
    return described


def write_samples(folder, stem, calls):
    """Write one stacked .npy per tensor; returns ``{tensor name: file name relative to the bundle}``."""
    files = {}
    for number, name in enumerate(calls[0]):
        file = "samples/%s%d.npy" % (stem, number)
        np.save(os.path.join(folder, file), np.stack([np.asarray(call[name]) for call in calls]), allow_pickle=False)
        files[name] = file
    return files


def read_samples(bundle, files):
    """Return ``{tensor name: stacked array}`` in this machine's byte order.

    A .npy file keeps the byte order of the machine that wrote it, and a runtime handed foreign bytes computes nonsense
    without a word.
    """
    arrays = {}
    for name, file in files.items():
        value = np.load(os.path.join(bundle, file), allow_pickle=False)
        arrays[name] = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("="))
    return arrays


def run_calls(runtime, session, binding, calls):
    """Run the session once for each call; returns ``{reference output name: list of arrays}``."""
    names, inputs, signature = binding
    wanted = [tensor["name"] for tensor in signature["inputs"]]
    source = pair(names, wanted, "input")
    order = None
    made = {}
    for call in range(calls):
        outputs = runtime.run(session, {name: inputs[source[name]][call] for name in names})
        if order is None:
            order = pair([tensor["name"] for tensor in signature["outputs"]], list(outputs), "output")
        for name, own in order.items():
            made.setdefault(name, []).append(np.asarray(outputs[own]))
    return made


def pair(left, right, what):
    """Return ``{name in left: its partner in right}``: by name where both have the same names, else by position."""
    if len(left) != len(right):
        raise ValueError("expected %s %s, found %s" % (what, ", ".join(left), ", ".join(right) or "none"))
    if set(left) == set(right):
        return {name: name for name in left}
    return dict(zip(left, right))


def write_outputs(folder, number, made):
    """Write one stacked .npy per output; returns ``{output name: file name}``.

    Raises ``ValueError`` where the calls of one set gave different shapes.
    """
    files = {}
    for position, (name, arrays) in enumerate(made.items()):
        shapes = {array.shape for array in arrays}
        if len(shapes) > 1:
            raise ValueError("output %s changes its shape between calls: %s" % (name, sorted(shapes)))
        file = "s%d.out%d.npy" % (number, position)
        np.save(os.path.join(folder, file), np.stack(arrays), allow_pickle=False)
        files[name] = file
    return files


def plain(facts):
    """Return the facts as plain JSON scalars under string keys."""
    return {
        str(key): value if isinstance(value, (bool, int, float, str)) else str(value) for key, value in facts.items()
    }


def describe(packages):
    """Return what this interpreter is: version, platform, byte order, and the versions of ``packages``."""
    found = {"python": platform.python_version(), "platform": platform.platform(), "byteorder": sys.byteorder}
    for name in packages:
        version = package_version(name)
        if version is not None:
            found[name] = version
    return {"environment": found, "protocol": PROTOCOL}


def package_version(name):
    """Return the installed version of a distribution, or None."""
    try:
        from importlib import metadata  # noqa: PLC0415 - Python 3.8 and later
    except ImportError:
        import pkg_resources  # noqa: PLC0415 - what Python 3.6 and 3.7 have instead

        found = {item.project_name.lower(): item.version for item in pkg_resources.working_set}
        return found.get(name.lower())
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def close_network():
    """Refuse name look-ups and connections made through Python, where no kernel namespace does it (see docs)."""

    def refuse(event, _arguments):
        if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
            raise PermissionError("workers have no network; the plug-in's environment can declare network: true")

    sys.addaudithook(refuse)


def die_with_parent():
    """Ask Linux to kill this process when the engine dies, so that ``kill -9`` of the engine leaves no worker."""
    if sys.platform.startswith("linux"):
        import ctypes  # noqa: PLC0415 - not in every interpreter that can run a worker

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def claim_channels():
    """Return (requests, answers) and point the standard streams elsewhere: input to nothing, output to the log."""
    requests = os.fdopen(os.dup(0), "r", encoding="utf-8")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return requests, answers


def main():
    """Answer requests until standard input ends."""
    requests, answers = claim_channels()
    die_with_parent()
    faulthandler.enable()
    if os.environ.get("PORTMATRIX_NETWORK") == "audit-hook":
        close_network()

    def send(message):
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
            traceback.print_exc()
            answer = {"ok": False, "stage": "PREPARE", "reason": one_line(error), "fault": "harness"}
        sys.stderr.flush()
        answer["id"] = request.get("id")
        send(answer)


if __name__ == "__main__":
    main()
