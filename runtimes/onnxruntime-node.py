"""ONNX Runtime's binding for Node.js: a native library of its own, on the CPU, in a Node.js that this worker starts."""

from __future__ import annotations

import atexit
import base64
import contextlib
import ctypes
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

ENVIRONMENTS = {
    "": {
        "python": ">=3.11,<3.14",
        "requirements": ["numpy==2.4.6"],
        "npm": ["onnxruntime-node@1.30.0"],
        # From 1.29 on the library reports to its maker from every system, unless told not to before it starts.
        "env": {"ORT_DISABLE_TELEMETRY": "1"},
    },
}
FORMATS = ("onnx",)
SYSTEMS = ("node",)

# A request is a line of JSON: an operation, its arguments, and the sessions that nobody needs any more. An answer is a
# line of JSON behind a mark: what else is printed there is none. A tensor is {name, type, dims, data}, its bytes in
# base64; numpy and ONNX Runtime have the same names for the types that both have.
CHILD = r"""
const { createInterface } = require("node:readline");
const { createRequire } = require("node:module");
const { join } = require("node:path");
globalThis.console = new console.Console(process.stderr);
// Not before it is needed: without a binary for this platform it is the model that cannot be loaded.
const library = () => createRequire(join(process.env.PORTMATRIX_NODE_MODULES, "here"))("onnxruntime-node");
const ARRAYS = {
  float16: globalThis.Float16Array ?? Uint16Array, float32: Float32Array, float64: Float64Array,
  int8: Int8Array, int16: Int16Array, int32: Int32Array, int64: BigInt64Array,
  uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array, uint64: BigUint64Array, bool: Uint8Array,
};
const sessions = new Map();
let made = 0;

function read({ name, type, dims, data }) {
  if (!(type in ARRAYS)) throw new TypeError(`input ${name}: onnxruntime-node has no tensors of ${type}`);
  const bytes = Uint8Array.from(Buffer.from(data, "base64"));
  return [name, new (library().Tensor)(type, new ARRAYS[type](bytes.buffer), dims)];
}

function written(name, { type, dims, data }) {
  if (!(type in ARRAYS)) throw new TypeError(`output ${name}: a tensor of ${type} cannot be handed over`);
  return { name, type, dims, data: Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString("base64") };
}

const operations = {
  about() {
    return { version: process.versions.node, system: process.platform, arch: process.arch };
  },
  async load({ entry, threads }) {
    const options = { executionProviders: ["cpu"], intraOpNumThreads: threads, interOpNumThreads: 1 };
    const session = await library().InferenceSession.create(entry, options);
    sessions.set(++made, session);
    return { number: made, inputs: session.inputNames };
  },
  async run({ number, inputs }) {
    const session = sessions.get(number);
    const outputs = await session.run(Object.fromEntries(inputs.map(read)));
    return session.outputNames.map((name) => written(name, outputs[name]));
  },
};

async function answer({ operation, released, ...given }) {
  try {
    for (const number of released) {
      await sessions.get(number).release();
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
        """Return its answer; raises ``RuntimeError`` in ONNX Runtime's own words, or with how Node.js ended."""
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
    """A session: the Node.js that holds it, its number there, and the names of its inputs."""

    def __init__(self, node: Node, number: int, inputs: list[str]) -> None:
        self.node = node
        self.number = number
        self.inputs = inputs
        weakref.finalize(self, node.released.append, number)


#: The Node.js of this worker, once there is one.
_started: list[Node] = []


def versions() -> Mapping[str, str]:
    """Return the versions of Node.js, of the npm package and, as that says itself, of the library in it."""
    about = _node().ask("about")
    package = Path(os.environ["PORTMATRIX_NODE_MODULES"], "onnxruntime-node")
    described = json.loads((package / "package.json").read_text(encoding="utf-8"))
    found = {"node": about["version"], "onnxruntime-node": str(described["version"])}
    for library in package.glob(f"bin/*/{about['system']}/{about['arch']}/*onnxruntime.*"):
        with contextlib.suppress(OSError):  # Node.js may be of another architecture than this Python
            found["onnxruntime"] = _library_version(library)
    return found


def load(entry: str, format: str, signature: Mapping[str, Any], threads: int) -> Session:
    """Return a session of the ONNX file ``entry`` that uses ``threads`` threads of the CPU.

    Raises ``RuntimeError`` with what ONNX Runtime says: an operator without a kernel, a file that is no model.
    """
    node = _node()
    made = node.ask("load", entry=entry, threads=threads)
    return Session(node, made["number"], made["inputs"])


def input_names(session: Session) -> Sequence[str]:
    """Return the names of the graph's inputs in order."""
    return session.inputs


def run(session: Session, inputs: dict[str, Any]) -> dict[str, Any]:
    """Return every output by name, in order; raises ``RuntimeError`` for a dtype or a shape that is refused."""
    outputs = session.node.ask("run", number=session.number, inputs=[_written(*one) for one in inputs.items()])
    return {one["name"]: _read(one) for one in outputs}


def degraded(session: Session) -> str:
    """Return an empty string: the CPU is asked for, to which others would fall back."""
    return ""


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


class _ApiBase(ctypes.Structure):
    """``OrtApiBase`` of onnxruntime_c_api.h."""

    _fields_ = (("GetApi", ctypes.c_void_p), ("GetVersionString", ctypes.CFUNCTYPE(ctypes.c_char_p)))


def _library_version(library: Path) -> str:
    """Return what ONNX Runtime's own library says of its version; raises ``OSError`` where it cannot be loaded."""
    base = ctypes.CDLL(str(library)).OrtGetApiBase
    base.restype = ctypes.POINTER(_ApiBase)
    return str(base().contents.GetVersionString().decode())


def _written(name: str, value: Any) -> dict[str, Any]:
    data = base64.b64encode(value.tobytes()).decode()
    return {"name": name, "type": value.dtype.name, "dims": value.shape, "data": data}


def _read(tensor: Mapping[str, Any]) -> Any:
    return np.frombuffer(base64.b64decode(tensor["data"]), tensor["type"]).reshape(tensor["dims"])
