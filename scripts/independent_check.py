"""Check the verdicts of cells drawn at random by other means: ONNX by Polygraphy, native formats by the frameworks' own
loaders, in code that shares nothing with the plug-ins and the comparison of portmatrix.

    python scripts/independent_check.py results/records.jsonl --cells 30 --seed 1

Every drawn cell is run in its runtime's own environment, of which only the interpreter is taken, by a program of a few
lines; Polygraphy, a pure Python package, is laid beside it. The verdict that follows from its outputs and from the
tolerances of ``matrix.yaml`` must be the record's. Exit status 1 if one is not.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from portmatrix import environments, records, suite
from portmatrix.bundle import Manifest
from portmatrix.store import Store, default_root
from portmatrix.types import Outcome, Record

POLYGRAPHY = "polygraphy==0.53.6"
SECONDS = 300
#: What is run for a runtime: lines that make ``call``, which takes and returns a list of arrays in order, of ``entry``.
LOADERS = {
    "onnx-reference": """
        import onnx, onnx.reference
        session = onnx.reference.ReferenceEvaluator(onnx.load(entry))
        call = lambda given: session.run(None, dict(zip(session.input_names, given)))
    """,
    "openvino": """
        import openvino
        compiled = openvino.Core().compile_model(entry, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        call = lambda given: [value for _, value in sorted(
            (port.index, value) for port, value in compiled(given).items())]
    """,
    "opencv-dnn": """
        import cv2
        net = cv2.dnn.readNetFromTFLite(entry) if entry.endswith(".tflite") else cv2.dnn.readNetFromONNX(entry)
        names = net.getUnconnectedOutLayersNames()
        def call(given):
            net.setInput(given[0])
            return [array.copy() for array in net.forward(names)]
    """,
    "torch": """
        import torch
        if entry.endswith(".pt2"):
            network = torch.export.load(entry).module()
        else:
            network = torch.jit.load(entry)
        def call(given):
            with torch.no_grad():
                made = network(*map(torch.from_numpy, given))
            return [value.numpy() for value in (made if isinstance(made, (tuple, list)) else [made])]
    """,
    "litert": """
        from ai_edge_litert.interpreter import Interpreter
        interpreter = Interpreter(entry)
        interpreter.allocate_tensors()
        def call(given):
            for tensor, value in zip(interpreter.get_input_details(), given):
                interpreter.set_tensor(tensor["index"], value)
            interpreter.invoke()
            made = {tensor["name"]: interpreter.get_tensor(tensor["index"])
                    for tensor in interpreter.get_output_details()}
            return [made[name] for name in sorted(made)]
    """,
    "tensorflow": """
        import tensorflow as tf
        if entry.endswith(".tflite"):
            runner = tf.lite.Interpreter(entry)
            runner.allocate_tensors()
            def call(given):
                for tensor, value in zip(runner.get_input_details(), given):
                    runner.set_tensor(tensor["index"], value)
                runner.invoke()
                made = {tensor["name"]: runner.get_tensor(tensor["index"]) for tensor in runner.get_output_details()}
                return [made[name] for name in sorted(made)]
        elif entry.endswith(".keras"):
            network = tf.keras.models.load_model(entry, compile=False)
            def call(given):
                made = network(given[0], training=False)
                return [value.numpy() for value in (list(made.values()) if isinstance(made, dict) else [made])]
        else:
            loaded = tf.saved_model.load(entry)
            serve = loaded.signatures["serving_default"]
            names = list(serve.structured_input_signature[1])
            def call(given):
                made = serve(**dict(zip(names, map(tf.constant, given))))
                return {name: value.numpy() for name, value in made.items()}
    """,
    "jax": """
        import jax
        exported = jax.export.deserialize(bytearray(open(os.path.join(entry, "model.jax"), "rb").read()))
        def call(given):
            made = exported.call(*given)
            return {n: np.asarray(v) for n, v in made.items()} if isinstance(made, dict) else [
                np.asarray(v) for v in (made if isinstance(made, (tuple, list)) else [made])]
    """,
    "executorch": """
        from executorch.runtime import Runtime
        method = Runtime.get().load_program(entry).load_method("forward")
        import torch
        call = lambda given: [value.numpy() for value in method.execute(list(map(torch.from_numpy, given)))]
    """,
    "aotinductor": """
        import torch
        network = torch._inductor.aoti_load_package(entry)
        def call(given):
            made = network(*map(torch.from_numpy, given))
            return [value.numpy() for value in (made if isinstance(made, (tuple, list)) else [made])]
    """,
}
#: ONNX Runtime of every version by Polygraphy's own runner.
_POLYGRAPHY_RUNNER = """
        from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
        runner = OnnxrtRunner(SessionFromOnnx(entry, providers=["cpu"]))
        runner.activate()
        def call(given):
            return dict(runner.infer(dict(zip(runner.get_input_metadata(), given))))
"""
#: The program of a cell: it reads what it is about from standard input and tells the verdict on its last line.
_PROGRAM = """
import json, os, sys
import numpy as np

request = json.load(sys.stdin)
entry = request["entry"]
sys.path.append(request["beside"])


def read(file):
    return np.load(os.path.join(request["bundle"], file), allow_pickle=False)


def arranged(made):
    if isinstance(made, dict):
        made = [made[name] for name in request["names"]] if set(made) == set(request["names"]) else list(made.values())
    return [np.asarray(value) for value in made]


def right_rows(answer, labels):
    answer = answer.argmax(-1) if answer.dtype.kind == "f" else answer
    return int((answer == labels.reshape(answer.shape)).reshape(len(answer), -1).all(1).sum())


def within(reference, made, rule):
    same = reference.shape == made.shape and reference.dtype == made.dtype
    return same and bool(np.isclose(made, reference, rtol=rule["rtol"], atol=rule["atol"], equal_nan=True).all())


def sets(call):
    strict = loose = True
    right = rows = 0
    for samples in request["sets"]:
        given = [read(file) for file in samples["inputs"].values()]
        wanted = [read(file) for file in samples.get("outputs", {}).values()]
        for number in range(samples["calls"]):
            made = arranged(call([array[number] for array in given]))
            if "labels" in samples:
                right += right_rows(made[0], read(samples["labels"])[rows : rows + samples["batch"]])
                rows += samples["batch"]
                continue
            for one, other, rules in zip([array[number] for array in wanted], made, request["rules"]):
                strict = strict and within(one, other, rules[0])
                loose = loose and within(one, other, rules[1])
    return {"strict": strict, "loose": loose, "accuracy": right / rows if rows else None}


def main():
#LOADER
    return sets(call)


try:
    told = main()
except Exception as error:
    told = {"error": type(error).__name__ + ": " + " ".join(str(error).split())[:200]}
print()
print("TOLD " + json.dumps(told))
"""


def loader_of(runtime: str) -> str | None:
    """Return the lines that load an artifact without the plug-in ``runtime``; None for one that has no other way."""
    found = _POLYGRAPHY_RUNNER if runtime.split("-1.", maxsplit=1)[0] == "onnxruntime" else LOADERS.get(runtime)
    if found is None:
        return None
    lines = found.strip("\n").splitlines()
    return "\n".join("    " + line.removeprefix("        ") for line in lines)


def drawn(found: Sequence[Record], count: int, seed: int, here: str) -> list[Record]:
    """Return ``count`` conclusive records of cells on this machine that another tool can run, drawn at random."""
    fitting = [
        record
        for record in found
        if record.id.target == here
        and record.bundle is not None
        and record.outcome in (Outcome.PASS, Outcome.DEGRADED, Outcome.FAIL, Outcome.XFAIL)
        and loader_of(record.id.runtime) is not None
    ]
    fitting.sort(key=lambda record: record.cell)
    return random.Random(seed).sample(  # noqa: S311 - a draw, no secret
        fitting, min(count, len(fitting))
    )


def checked(loaded: suite.Suite, store: Store, record: Record, beside: Path) -> str:
    """Return what an independent run makes of a record's cell: ``PASS``, ``DEGRADED`` or ``FAIL``, and why."""
    cell = record.id
    assert record.bundle is not None
    manifest, folder = store.get_bundle(record.bundle), store.bundle_folder(record.bundle)
    spec = loaded.plugins.runtimes[cell.runtime].environment
    built = environments.ensure(store, spec, lambda text: print(text, file=sys.stderr), 1200)
    request = {
        "entry": str(folder / "artifact" / manifest.entry),
        "bundle": str(folder),
        "beside": str(beside),
        "names": [tensor.name for tensor in manifest.signature.outputs],
        "sets": list(_sets(manifest)),
        "rules": [
            [
                rule.model_dump()
                for rule in loaded.spec.tolerance(manifest.kind, tensor.dtype, cell.model, manifest.precision)
            ]
            for tensor in manifest.signature.outputs
        ],
    }
    told = told_by(built.command[0], {**os.environ, **spec.env}, loader_of(cell.runtime) or "", request)
    return verdict_of(told, manifest.accuracy, loaded.spec.precision.accuracy_drop)


def told_by(python: str, env: Mapping[str, str], loader: str, request: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the program with ``loader`` in the interpreter ``python`` finds: ``strict``, ``loose`` and
    ``accuracy``, or an ``error``.
    """
    command = [python, "-c", _PROGRAM.replace("#LOADER", loader)]
    try:
        ran = subprocess.run(
            command, input=json.dumps(request), env=env, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return {"error": f"no answer within {SECONDS} s"}
    told = [line for line in ran.stdout.splitlines() if line.startswith("TOLD ")]
    if not told:
        return {"error": f"ended with status {ran.returncode}"}
    found: dict[str, Any] = json.loads(told[-1].removeprefix("TOLD "))
    return found


def _sets(manifest: Manifest) -> Iterator[dict[str, Any]]:
    for samples in manifest.tried:
        yield samples.model_dump(mode="json")
    if manifest.held_out is not None:
        yield manifest.held_out.model_dump(mode="json")


def verdict_of(told: Mapping[str, Any], accuracy: float | None, allowed: float) -> str:
    """Return the verdict that follows from what was told, and why; ``accuracy`` is the framework's own."""
    if "error" in told:
        return f"FAIL {told['error']}"
    if told["accuracy"] is not None and accuracy is not None:
        lost = accuracy - told["accuracy"]
        return f"{'PASS' if lost <= allowed + 1e-9 else 'FAIL'} accuracy {told['accuracy']:.4f}"
    return "PASS" if told["strict"] else "DEGRADED within the loose tolerance" if told["loose"] else "FAIL differs"


def agrees(record: Record, found: str) -> bool:
    """Return whether a verdict is the record's; DEGRADED by the plug-in's own word is a pass to whoever compares."""
    word = found.split(maxsplit=1)[0]
    outcome = "FAIL" if record.outcome is Outcome.XFAIL else record.outcome.value
    by_word = record.outcome is Outcome.DEGRADED and all(item.verdict == "strict" for item in record.comparisons)
    return word == outcome or (by_word and word == "PASS")


def main() -> int:
    """Draw, check, print a line for each cell; return the exit status."""
    parser = argparse.ArgumentParser(description="check verdicts of cells drawn at random by other tools")
    parser.add_argument("records", type=Path, nargs="+")
    parser.add_argument("--cells", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    loaded, store = suite.load(suite.find_root(Path.cwd())), Store(default_root())
    found = [record for file in options.records for record in records.read(file)]
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="portmatrix-polygraphy-") as folder:
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", folder, POLYGRAPHY]
        subprocess.run(pip, check=True)
        for record in drawn(found, options.cells, options.seed, suite.here(loaded)):
            verdict = checked(loaded, store, record, Path(folder))
            same = agrees(record, verdict)
            wrong += not same
            print(f"{'agrees ' if same else 'DIFFERS'} {record.outcome.value:8} {record.cell}: {verdict}", flush=True)
    print(f"{wrong} of {options.cells} differ")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
