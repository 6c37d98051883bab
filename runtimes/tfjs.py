"""TensorFlow.js in a Node.js that this worker starts: graph models in WebAssembly, or in plain JavaScript.

The binding with TensorFlow's own library (``tfjs-node``) is another program, and fetches that library when installed.
"""

from __future__ import annotations

import atexit
import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

_NEEDS = {
    "python": ">=3.11,<3.14",
    "requirements": ["numpy==2.4.6"],
    "npm": [
        *("@tensorflow/tfjs-core@4.22.0", "@tensorflow/tfjs-converter@4.22.0"),
        *("@tensorflow/tfjs-backend-cpu@4.22.0", "@tensorflow/tfjs-backend-wasm@4.22.0"),
    ],
}
ENVIRONMENTS = {
    "": {**_NEEDS, "env": {"TFJS_BACKEND": "wasm"}},
    "cpu": {**_NEEDS, "env": {"TFJS_BACKEND": "cpu"}},
}
FORMATS = ("tfjs",)
SYSTEMS = ("node",)
_PACKAGE = "@tensorflow/tfjs-core"

# A request is a line of JSON: an operation, its arguments, and the sessions that nobody needs any more. An answer is a
# line of JSON behind a mark: what else is printed there is none. A tensor is {name, type, dims, data}, its bytes in
# base64. TensorFlow.js has tensors of float32, int32 and bool, and calls them as numpy does.
CHILD = r"""
const { readFileSync } = require("node:fs");
const { createInterface } = require("node:readline");
const { createRequire } = require("node:module");
const { dirname, join } = require("node:path");
globalThis.console = new console.Console(process.stderr);
const modules = createRequire(join(process.env.PORTMATRIX_NODE_MODULES, "here"));
const kind = process.env.TFJS_BACKEND;
const ARRAYS = { float32: Float32Array, int32: Int32Array, bool: Uint8Array };
const sessions = new Map();
let made = 0, started;

// Not before it is needed: where it does not start it is the model that cannot be loaded.
async function library() {
  if (started) return started;
  const tf = modules("@tensorflow/tfjs-core");
  const backend = modules("@tensorflow/tfjs-backend-" + kind);
  const { loadGraphModel } = modules("@tensorflow/tfjs-converter");
  if (kind === "wasm") {
    const folder = dirname(modules.resolve("@tensorflow/tfjs-backend-wasm/package.json"));
    backend.setWasmPaths(join(folder, "dist") + "/");
  }
  if (!(await tf.setBackend(kind))) throw new Error(`TensorFlow.js did not start its backend ${kind}`);
  tf.enableProdMode();
  return (started = { tf, loadGraphModel });
}

// What TensorFlow.js would do with fetch, from a folder: the topology, and the shards of the weights in their order.
function artifacts(folder) {
  const { modelTopology, weightsManifest, signature, userDefinedMetadata, ...rest } =
    JSON.parse(readFileSync(join(folder, "model.json"), "utf8"));
  const shards = weightsManifest.flatMap(({ paths }) => paths.map((path) => readFileSync(join(folder, path))));
  const whole = Buffer.concat(shards);
  return {
    ...rest, modelTopology, signature, userDefinedMetadata,
    weightSpecs: weightsManifest.flatMap(({ weights }) => weights),
    weightData: whole.buffer.slice(whole.byteOffset, whole.byteOffset + whole.byteLength),
  };
}

function read(tf, { name, type, dims, data }) {
  if (!(type in ARRAYS)) throw new TypeError(`input ${name}: TensorFlow.js has no tensors of ${type}`);
  const bytes = Uint8Array.from(Buffer.from(data, "base64"));
  return tf.tensor(new ARRAYS[type](bytes.buffer), dims, type);
}

async function written(name, tensor) {
  const values = await tensor.data();
  if (!(tensor.dtype in ARRAYS)) throw new TypeError(`output ${name}: a tensor of ${tensor.dtype} has no counterpart`);
  const data = Buffer.from(values.buffer, values.byteOffset, values.byteLength).toString("base64");
  return { name, type: tensor.dtype, dims: tensor.shape, data };
}

const operations = {
  about: () => ({ version: process.versions.node }),
  async load({ entry }) {
    const { tf, loadGraphModel } = await library();
    const found = artifacts(entry);
    const model = await loadGraphModel({ load: async () => found });
    const { inputs, outputs } = found.signature;
    sessions.set(++made, { model, inputs, outputs });
    return { number: made, inputs: Object.keys(inputs), outputs: Object.keys(outputs), backend: tf.getBackend() };
  },
  async run({ number, inputs }) {
    const { tf } = await library();
    const { model, ...ends } = sessions.get(number);
    const feeds = Object.fromEntries(inputs.map((one) => [ends.inputs[one.name].name, read(tf, one)]));
    const names = Object.keys(ends.outputs);
    const results = await model.executeAsync(feeds, names.map((name) => ends.outputs[name].name));
    const tensors = Array.isArray(results) ? results : [results];
    const answers = await Promise.all(tensors.map((tensor, index) => written(names[index], tensor)));
    tf.dispose([feeds, tensors]);
    return answers;
  },
};

async function answer({ operation, released, ...given }) {
  try {
    for (const number of released) {
      sessions.get(number).model.dispose();
      sessions.delete(number);
    }
    return { answer: await operations[operation](given) };
  } catch (error) {
    return { error: String(error?.message ?? error) };
  }
}

(async () => {
  for await (const line of createInterface({ input: process.stdin })) {
    process.stdout.write("\n=" + JSON.stringify(await answer(JSON.parse(line))) + "\n");
  }
  process.exit();
})();
"""


class Node:
    """A Node.js that holds sessions."""

    def __init__(self) -> None:
        """Start it; raises ``OSError`` where that cannot be done."""
        pipe = subprocess.PIPE
        command = [*_tether(), os.environ["PORTMATRIX_NODE"], "--eval", CHILD]
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, encoding="utf-8")
        self.released: list[int] = []

    def ask(self, operation: str, **given: Any) -> Any:
        """Return its answer; raises ``RuntimeError`` in TensorFlow.js's own words, or with how Node.js ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        released = self.released[:]
        del self.released[: len(released)]
        with contextlib.suppress(OSError):  # it is gone, and so is the other pipe
            self._process.stdin.write(json.dumps({"operation": operation, "released": released, **given}) + "\n")
            self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("="):
                found = json.loads(line[1:])
                if "error" in found:
                    raise RuntimeError(found["error"])
                return found["answer"]
            if line.strip():
                sys.stderr.write(line)
        raise RuntimeError(_ending(self._process.wait()))

    def close(self) -> None:
        """Have it end, or end it if it does not."""
        try:
            self._process.communicate(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Session:
    """A graph model: the Node.js that holds it, its number there, the names of its inputs, and its backend."""

    def __init__(self, node: Node, number: int, inputs: list[str], backend: str) -> None:
        self.node = node
        self.number = number
        self.inputs = inputs
        self.backend = backend
        weakref.finalize(self, node.released.append, number)


#: The Node.js of this worker, once there is one.
_started: list[Node] = []


def versions() -> Mapping[str, str]:
    """Return the versions of Node.js and of TensorFlow.js."""
    package = Path(os.environ["PORTMATRIX_NODE_MODULES"], _PACKAGE, "package.json")
    described = json.loads(package.read_text(encoding="utf-8"))
    return {"node": _node().ask("about")["version"], "tfjs": str(described["version"])}


def load(entry: str, format: str, signature: Mapping[str, Any], threads: int) -> Session:
    """Return a session of the graph model in the folder ``entry``; TensorFlow.js has one thread in Node.js.

    Raises ``RuntimeError`` with what TensorFlow.js says of a file that it cannot read.
    """
    node = _node()
    made = node.ask("load", entry=entry)
    return Session(node, made["number"], made["inputs"], made["backend"])


def input_names(session: Session) -> Sequence[str]:
    """Return the names of the inputs in the order of the file's signature."""
    return session.inputs


def run(session: Session, inputs: dict[str, Any]) -> dict[str, Any]:
    """Return every output by name; raises ``RuntimeError`` for a shape that is refused, or an operator without kernel.

    TensorFlow.js looks for kernels as it comes to them, not when it reads the file.
    """
    outputs = session.node.ask("run", number=session.number, inputs=[_written(*one) for one in inputs.items()])
    return {one["name"]: _read(one) for one in outputs}


def degraded(session: Session) -> str:
    """Return which backend is in use where it is not the one asked for, or an empty string.

    No backend hands a single operator to another: what it has no kernel for fails.
    """
    asked = os.environ["TFJS_BACKEND"]
    return "" if session.backend == asked else f"runs on the backend {session.backend} instead of {asked}"


def _node() -> Node:
    """Return the Node.js of this worker; one that has died since is followed by another."""
    for node in _started:
        try:
            node.ask("about")
        except RuntimeError:
            _end()
        else:
            return node
    _started.append(Node())
    atexit.register(_end)
    return _started[0]


def _end() -> None:
    while _started:
        _started.pop().close()


def _tether() -> list[str]:
    """Return the command that has Linux end a process when its parent does, as far as this system has it.

    Everywhere the child ends when its input does; but not before it has done what it is at.
    """
    command = [shutil.which("setpriv") or "", "--pdeathsig", "KILL"]
    if sys.platform != "linux" or not command[0]:
        return []
    return command if subprocess.run([*command, "true"], check=False).returncode == 0 else []


def _ending(code: int) -> str:
    """Return what an exit status of Node.js means."""
    if code >= 0:
        return f"Node.js ended itself with status {code}"
    names = {item.value: item.name for item in signal.Signals}
    return f"Node.js died of {names.get(-code, 'an unknown signal')} (signal {-code})"


def _written(name: str, value: Any) -> dict[str, Any]:
    data = base64.b64encode(value.tobytes()).decode()
    return {"name": name, "type": value.dtype.name, "dims": value.shape, "data": data}


def _read(tensor: Mapping[str, Any]) -> Any:
    return np.frombuffer(base64.b64decode(tensor["data"]), tensor["type"]).reshape(tensor["dims"])
