"""ONNX Runtime for the web: WebAssembly of one thread or several, and WebGPU; in Chromium, or without it in Node.js.

The target decides where, by the variable that it sets: ``PORTMATRIX_BROWSER`` or ``PORTMATRIX_NODE``. Each session has
a tab or a Node.js to itself, since WebAssembly never gives memory back. A tab has no server behind it and needs no
network: Playwright answers what it asks for, and the large files are handed to it as a user would choose them.
"""

from __future__ import annotations

import atexit
import base64
import contextlib
import functools
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

_NEEDS = {
    "python": ">=3.11,<3.14",
    "requirements": ["numpy==2.4.6", "playwright==1.65.2"],
    "npm": ["onnxruntime-web@1.30.0"],
}
ENVIRONMENTS = {
    "": {**_NEEDS, "env": {"ONNXRUNTIME_WEB": "wasm"}},
    "threads": {**_NEEDS, "env": {"ONNXRUNTIME_WEB": "threads"}},
    "webgpu": {**_NEEDS, "env": {"ONNXRUNTIME_WEB": "webgpu"}},
}
FORMATS = ("onnx",)
SYSTEMS = ("browser", "node")
#: Tensors of this many bytes are handed to a tab as files.
LARGE = 1 << 20
#: What "several threads" are where the engine asks for one.
THREADS = 4
#: Secure because of its scheme, so that it can be isolated; nothing is ever looked up under this name.
ORIGIN = "https://portmatrix.invalid/"
#: Without these a page gets no memory that threads can share.
ISOLATION = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
}
FLAGS = ("--disable-quic", "--disable-sync")


class Kind(NamedTuple):
    """A part of ONNX Runtime: its module, its WebAssembly, the execution provider, and Chromium's flags for it."""

    module: str
    binary: str
    provider: str
    flags: tuple[str, ...]


_WASM = Kind("ort.wasm.min.mjs", "ort-wasm-simd-threaded.wasm", "wasm", ("--disable-gpu",))
#: The flag admits adapters that are not known to be good, and a software one (SwiftShader) where there is no other.
_GPU = Kind("ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify.wasm", "webgpu", ("--enable-unsafe-webgpu",))
KINDS = {"wasm": _WASM, "threads": _WASM, "webgpu": _GPU}

# What a tab and a Node.js have in common; `place` is what each does in its own way. A tensor is {name, type, dims,
# data}, its bytes in base64 or, on the way into a tab, the number of a file with them; numpy and ONNX Runtime have the
# same names for the types that both have.
COMMON = r"""
const ARRAYS = {
  float16: globalThis.Float16Array ?? Uint16Array, float32: Float32Array, float64: Float64Array,
  int8: Int8Array, int16: Int16Array, int32: Int32Array, int64: BigInt64Array,
  uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array, uint64: BigUint64Array, bool: Uint8Array,
};
let ort, session, workers = 0, chatter = [];

async function read({ name, type, dims, data }) {
  if (!(type in ARRAYS)) throw new TypeError(`input ${name}: onnxruntime-web has no tensors of ${type}`);
  return [name, new ort.Tensor(type, new ARRAYS[type](await place.bytes(data)), dims)];
}

async function written(name, { type, dims, data }) {
  if (!(type in ARRAYS)) throw new TypeError(`output ${name}: a tensor of ${type} cannot be handed over`);
  const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  return { name, type, dims, data: await place.text(bytes) };
}

// With its log at its finest, ONNX Runtime says which provider each node was given to; warnings still go to the log.
function listen() {
  for (const kind of ["debug", "log", "info", "warn", "error"]) {
    const before = console[kind].bind(console);
    console[kind] = (...said) => (/\[[VI]:onnxruntime/.test(said[0]) ? chatter.push(said[0]) : before(...said));
  }
}

// Operators that WebGPU was asked for and has no kernel for. Some nodes that reckon with shapes it leaves to the CPU
// because they are faster there.
function leftToTheCpu() {
  const wanted = new Set(), found = new Set();
  let provider = "";
  for (const line of chatter) {
    wanted.add(/Candidate for fallback CPU execution: (.*)/.exec(line)?.[1]);
    provider = /(?:Node\(s\)|All nodes) placed on \[(\w+)\]/.exec(line)?.[1] ?? provider;
    const [, operator, name] = /VerifyEachNodeIsAssignedToAnEp\]\s+(\w+) \((.*)\)/.exec(line) ?? [];
    if (operator && provider === "CPUExecutionProvider" && !wanted.has(name)) found.add(operator);
    if (/All nodes placed on \[CPU/.test(line)) found.add("all of it");
  }
  return [...found].sort();
}

const operations = {
  async adapter() {
    const info = (await globalThis.navigator?.gpu?.requestAdapter())?.info;
    return info ? { name: `${info.vendor} ${info.architecture}`, software: info.isFallbackAdapter } : null;
  },
  async load({ module, provider, threads, paths }) {
    const adapter = provider === "webgpu" ? await operations.adapter() : null;
    if (provider === "webgpu" && !adapter) throw new Error("there is no WebGPU adapter");
    if (adapter) listen();
    ort = await place.library(module);
    const [runtime, model, ...beside] = await place.files(paths);
    ort.env.wasm.wasmBinary = runtime.data.buffer;
    ort.env.wasm.numThreads = threads;
    const logSeverityLevel = adapter ? 0 : 2;
    session = await ort.InferenceSession.create(model.data, {
      executionProviders: [provider], logSeverityLevel, externalData: beside,
    });
    const isolated = globalThis.crossOriginIsolated ?? true;
    return { inputs: session.inputNames, threads: 1 + workers, isolated, adapter, cpu: leftToTheCpu() };
  },
  async run({ inputs }) {
    const feeds = Object.fromEntries(await Promise.all(inputs.map(read)));
    const outputs = await session.run(feeds, { logSeverityLevel: 2 });
    chatter = [];
    return Promise.all(session.outputNames.map((name) => written(name, outputs[name])));
  },
};

async function answer({ operation, ...given }) {
  try {
    return { answer: await operations[operation](given) };
  } catch (error) {
    return { error: String(error?.message ?? error) };
  }
}
"""

TAB = r"""
globalThis.Worker = class extends Worker {
  constructor(...given) {
    super(...given);
    workers += 1;
  }
};
const chosen = () => [...document.querySelector("input").files];
const place = {
  library: (module) => import("/" + module),
  files: () => Promise.all(chosen().map(
    async (file) => ({ path: file.name, data: new Uint8Array(await file.arrayBuffer()) }),
  )),
  bytes: async (data) =>
    (typeof data === "number" ? chosen()[data] : await fetch("data:;base64," + data)).arrayBuffer(),
  text: (bytes) => new Promise((resolve) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.readAsDataURL(new Blob([bytes]));
  }),
};
"""

# Requests and answers are lines of JSON, answers behind a mark: what else is printed there is none.
NODE = r"""
const { readFileSync } = require("node:fs");
const { createInterface } = require("node:readline");
const { createRequire } = require("node:module");
const { basename, join } = require("node:path");
globalThis.console = new console.Console(process.stderr);
process.on("worker", () => (workers += 1));
const place = {
  library: () => createRequire(join(process.env.PORTMATRIX_NODE_MODULES, "here"))("onnxruntime-web"),
  files: (paths) => paths.map((path) => ({ path: basename(path), data: new Uint8Array(readFileSync(path)) })),
  bytes: (data) => Uint8Array.from(Buffer.from(data, "base64")).buffer,
  text: (bytes) => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("base64"),
};
(async () => {
  for await (const line of createInterface({ input: process.stdin })) {
    process.stdout.write("\n=" + JSON.stringify(await answer(JSON.parse(line))) + "\n");
  }
  process.exit();
})();
"""


class Place(Protocol):
    """Where a session is: a tab, or a Node.js."""

    def ask(self, operation: str, **given: Any) -> Any:
        """Return the answer; raises ``RuntimeError`` in ONNX Runtime's own words, or with what became of the place."""

    def close(self) -> None:
        """Be gone, whatever happened before."""


class Node:
    """A Node.js for one session."""

    def __init__(self) -> None:
        """Start it; raises ``OSError`` where that cannot be done."""
        pipe = subprocess.PIPE
        command = [*_tether(), os.environ["PORTMATRIX_NODE"], "--eval", COMMON + NODE]
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, encoding="utf-8")

    def ask(self, operation: str, **given: Any) -> Any:
        """Return the answer to a line of JSON."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):  # it is gone, and so is the other pipe
            self._process.stdin.write(json.dumps({"operation": operation, **given}, default=_base64) + "\n")
            self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("="):
                return _answer(json.loads(line[1:]))
            if line.strip():
                sys.stderr.write(line)
        raise RuntimeError(_ending(self._process.wait()))

    def close(self) -> None:
        """End it, whatever it is at."""
        self._process.kill()
        self._process.communicate()


class Browser:
    """A Chromium, and the Playwright that drives it."""

    def __init__(self) -> None:
        """Start both; raises ``RuntimeError`` with what Chromium said where it does not start."""
        from playwright.sync_api import Error, sync_playwright

        self.folder = Path(tempfile.mkdtemp(prefix="chromium-"))
        self.playwright = sync_playwright().start()
        try:
            self.chromium = self.playwright.chromium.launch(
                executable_path=self._executable(), args=[*FLAGS, *_kind().flags], timeout=0
            )
        except Error as error:
            self.playwright.stop()
            raise RuntimeError(f"the browser did not start: {_cause(error.message)}") from error

    def _executable(self) -> str:
        """Return the browser's program; on Linux a script that starts it.

        With it Chromium ends when Playwright's driver does, in whose process group it is not; left to itself it would
        go on to write its profile for a while. And it gets a short name for the folder that is the worker's own, since
        it puts a socket there, whose path may have no more than 107 characters.
        """
        found = os.environ["PORTMATRIX_BROWSER"]
        if sys.platform != "linux":
            return found
        script = self.folder / "chromium"
        command = shlex.join([*_tether(), found])
        script.write_text(f'#!/bin/sh\ncd "${{0%/*}}" && TMPDIR=/proc/self/cwd exec {command} "$@"\n', encoding="utf-8")
        script.chmod(0o700)
        return str(script)

    def close(self) -> None:
        """End both, as far as they are still there."""
        with contextlib.suppress(Exception):  # of a driver that died no call can be expected to work
            self.chromium.close()
        with contextlib.suppress(Exception):
            self.playwright.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


class Tab:
    """A tab for one session."""

    def __init__(self) -> None:
        """Open it in the browser of this worker, or in a new one if that has died since."""
        from playwright.sync_api import Error

        try:
            self._page = _browser().chromium.new_page()
        except Error:
            _close_browser()
            self._page = _browser().chromium.new_page()
        self._crashed = False
        self._page.set_default_timeout(0)
        self._page.on("crash", self._note_crash)
        self._page.on("console", lambda said: print(said.text, file=sys.stderr))
        self._page.on("pageerror", lambda error: print(error, file=sys.stderr))
        self._page.route("**/*", _serve)
        self._page.goto(ORIGIN)

    def _note_crash(self, _page: Any) -> None:
        self._crashed = True

    def ask(self, operation: str, **given: Any) -> Any:
        """Return the answer of the page; files that it needs are chosen in it before."""
        from playwright.sync_api import Error

        with tempfile.TemporaryDirectory(prefix="tensors-") as folder:
            files = given.get("paths") or _put_aside(given.get("inputs", ()), Path(folder))
            try:
                if files:
                    self._page.set_input_files("input", files)
                return _answer(self._page.evaluate("(request) => answer(request)", {"operation": operation, **given}))
            except Error as error:
                if self._crashed:
                    raise RuntimeError(
                        "the tab crashed: its process ended, for want of memory or by a fault"
                    ) from error
                _close_browser()
                raise RuntimeError(f"the browser failed: {error.message.splitlines()[0]}") from error

    def close(self) -> None:
        """Close it, if it is still there."""
        from playwright.sync_api import Error

        with contextlib.suppress(Error):
            self._page.close()


class Session:
    """A session: where it is, the names of its inputs, and why it does not run as asked for."""

    def __init__(self, place: Place, inputs: list[str], degraded: str) -> None:
        self.place = place
        self.inputs = inputs
        self.degraded = degraded
        # To close a tab is no work for the middle of a garbage collection.
        weakref.finalize(self, _left.append, place)


#: Places of sessions that nobody has any more.
_left: list[Place] = []
#: The browser of this worker, once there is one.
_browsers: list[Browser] = []


def versions() -> Mapping[str, str]:
    """Return the versions of the browser or of Node.js and of the npm package, and WebGPU's adapter.

    Raises ``RuntimeError`` or ``OSError`` with what keeps it from starting.
    """
    package = json.loads((_package() / "package.json").read_text(encoding="utf-8"))
    found = {"onnxruntime-web": str(package["version"])}
    if _in_browser():
        found["browser"] = f"{Path(os.environ['PORTMATRIX_BROWSER']).stem} {_browser().chromium.version}"
        if _kind() is _GPU:
            found["webgpu"] = _adapter()["name"]
        return found
    command = [os.environ["PORTMATRIX_NODE"], "--version"]
    node = subprocess.run(command, capture_output=True, check=True, encoding="utf-8").stdout
    return {"node": node.strip().lstrip("v"), **found}


def unavailable() -> str:
    """Return why this machine cannot run the runtime at all, or an empty string: WebGPU may have no adapter."""
    if _kind() is not _GPU:
        return ""
    if not _in_browser():
        return "Node.js has no WebGPU"
    return "" if _adapter() else "the browser finds no WebGPU adapter on this machine"


def load(entry: str, format: str, signature: Mapping[str, Any], threads: int) -> Session:
    """Return a session of the ONNX file ``entry``, in a place of its own.

    Raises ``RuntimeError`` with what ONNX Runtime says (an operator without a kernel, a file that is no model), where
    there is no WebGPU adapter, and where tab, browser or Node.js end.
    """
    while _left:
        _left.pop().close()
    if not Path(entry).is_file():
        raise FileNotFoundError(f"{entry} is not there; expected an ONNX file")
    kind = _kind()
    wanted = max(threads, THREADS) if os.environ["ONNXRUNTIME_WEB"] == "threads" else 1
    beside = [str(item) for item in sorted(Path(entry).parent.iterdir()) if item.is_file() and item != Path(entry)]
    paths = [str(_package() / "dist" / kind.binary), entry, *beside]
    place: Place = Tab() if _in_browser() else Node()
    try:
        made = place.ask("load", module=kind.module, provider=kind.provider, threads=wanted, paths=paths)
    except BaseException:
        place.close()
        raise
    return Session(place, made["inputs"], _shortcomings(made, threads, wanted))


def input_names(session: Session) -> Sequence[str]:
    """Return the names of the graph's inputs in order."""
    return session.inputs


def run(session: Session, inputs: dict[str, Any]) -> dict[str, Any]:
    """Return every output by name, in order; raises ``RuntimeError`` for a dtype or a shape that is refused."""
    outputs = session.place.ask("run", inputs=[_written(*one) for one in inputs.items()])
    return {one["name"]: _read(one) for one in outputs}


def degraded(session: Session) -> str:
    """Return whether there were fewer threads, only software behind WebGPU, or operators that WebGPU lacks."""
    return session.degraded


def _shortcomings(made: Mapping[str, Any], asked: int, wanted: int) -> str:
    """Return what is not as asked for, by what was found when the model was loaded."""
    found = []
    threads = made["threads"]
    if made["adapter"] is None and threads < max(asked, wanted):
        why = "" if made["isolated"] else ": the page is not isolated, and has no memory that threads can share"
        found.append(f"uses {threads} of {max(asked, wanted)} threads{why}")
    adapter = made["adapter"]
    if adapter and adapter["software"]:
        found.append(f"WebGPU runs in software ({adapter['name']})")
    if made["cpu"]:
        found.append(f"WebAssembly does what WebGPU has no kernel for: {', '.join(made['cpu'])}")
    return "; ".join(found)


def _in_browser() -> bool:
    """Return whether the target is a browser; raises ``LookupError`` if it has named neither that nor Node.js."""
    if "PORTMATRIX_BROWSER" not in os.environ and "PORTMATRIX_NODE" not in os.environ:
        raise LookupError("the target set neither PORTMATRIX_BROWSER nor PORTMATRIX_NODE: nothing to run in")
    return "PORTMATRIX_BROWSER" in os.environ


def _kind() -> Kind:
    return KINDS[os.environ["ONNXRUNTIME_WEB"]]


def _package() -> Path:
    return Path(os.environ["PORTMATRIX_NODE_MODULES"], "onnxruntime-web")


def _browser() -> Browser:
    """Return the browser of this worker."""
    if not _browsers:
        _browsers.append(Browser())
        atexit.register(_close_browser)
    return _browsers[0]


@functools.cache
def _adapter() -> Any:
    """Return name of WebGPU's adapter in the browser and whether it is software, or None where there is none."""
    tab = Tab()
    try:
        return tab.ask("adapter")
    finally:
        tab.close()


def _close_browser() -> None:
    while _browsers:
        _browsers.pop().close()


def _cause(told: str) -> str:
    """Return the line that says why Chromium did not start: its last words, or Playwright's own."""
    said = [line.partition("[err] ")[2] for line in told.splitlines() if "[err] " in line]
    return next((line for line in said if ":FATAL:" in line), (said or told.splitlines())[-1])


def _serve(route: Any) -> None:
    """Answer a request of a tab: its page, or a module of ONNX Runtime's."""
    name = route.request.url.removeprefix(ORIGIN)
    if not name:
        page = f'<!doctype html><input type="file" multiple><script>{COMMON}{TAB}</script>'
        route.fulfill(body=page, content_type="text/html", headers=ISOLATION)
        return
    module = _package() / "dist" / name
    if module.suffix == ".mjs" and module.is_file():
        route.fulfill(path=module, content_type="text/javascript", headers=ISOLATION)
    else:
        route.fulfill(status=404, body="")


@functools.cache
def _tether() -> tuple[str, ...]:
    """Return the command that has Linux end a process when its parent does, as far as this system has it.

    Everywhere a child ends when its input does; but not before it has done what it is at.
    """
    command = (shutil.which("setpriv") or "", "--pdeathsig", "KILL")
    if sys.platform != "linux" or not command[0]:
        return ()
    return command if subprocess.run([*command, "true"], check=False).returncode == 0 else ()


def _answer(found: Mapping[str, Any]) -> Any:
    if "error" in found:
        raise RuntimeError(found["error"])
    return found["answer"]


def _ending(code: int) -> str:
    """Return what an exit status of Node.js means."""
    if code >= 0:
        return f"Node.js ended itself with status {code}"
    names = {item.value: item.name for item in signal.Signals}
    return f"Node.js died of {names.get(-code, 'an unknown signal')} (signal {-code})"


def _written(name: str, value: Any) -> dict[str, Any]:
    return {"name": name, "type": value.dtype.name, "dims": list(value.shape), "data": value.tobytes()}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _put_aside(tensors: Sequence[dict[str, Any]], folder: Path) -> list[str]:
    """Put the bytes of large tensors into files, those of the others into text; returns the files.

    A tab reads a file forty times as fast as what is sent to it, but to choose one takes ten times as long as to send
    a short text.
    """
    files: list[str] = []
    for tensor in tensors:
        data = tensor["data"]
        if len(data) < LARGE:
            tensor["data"] = _base64(data)
            continue
        file = folder / str(len(files))
        file.write_bytes(data)
        tensor["data"] = len(files)
        files.append(str(file))
    return files


def _read(tensor: Mapping[str, Any]) -> Any:
    return np.frombuffer(base64.b64decode(tensor["data"]), tensor["type"]).reshape(tensor["dims"])
