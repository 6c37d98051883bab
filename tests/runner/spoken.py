"""What the tests of the runner share: bundles of a stub or of ONNX, and a runner to speak to line by line."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tiny_suite import PATIENCE

Arrays = Mapping[str, Any]
Env = Mapping[str, str]
Done = subprocess.CompletedProcess[str]


def names_of(arrays: Arrays) -> list[dict[str, Any]]:
    """Return what a signature says of stacked arrays."""
    return [{"name": name, "dtype": str(value.dtype), "shape": list(value.shape[1:])} for name, value in arrays.items()]


class Made(NamedTuple):
    """A bundle in a folder, and what its manifest says."""

    folder: Path
    manifest: dict[str, Any]

    def write(self, **changes: Any) -> Made:
        """Write the manifest again, with members changed, or left out where they are None."""
        changed = {key: value for key, value in {**self.manifest, **changes}.items() if value is not None}
        (self.folder / "manifest.json").write_text(json.dumps(changed), encoding="utf-8")
        return Made(self.folder, changed)

    def request(self, folder: Path, **changes: Any) -> dict[str, Any]:
        """Return the request that runs it as the engine would have it, with the outputs in ``folder``."""
        sets = [{key: one[key] for key in ("batch", "calls", "inputs")} for one in self.manifest["sets"]]
        folder.mkdir(exist_ok=True)
        request = {
            "op": "run",
            "id": 1,
            "file": "/no/matter.py",
            "entry": str(self.folder / "artifact" / self.manifest["entry"]),
            "format": self.manifest["format"],
            "signature": self.manifest["signature"],
            "sets": sets,
            "bundle": str(self.folder),
            "outputs": str(folder),
            "threads": 1,
        }
        return {**request, **changes}

    def measuring(self, *batches: int, **changes: Any) -> dict[str, Any]:
        """Return the request that times it briefly: each set whole, or the last one cut to each of ``batches``."""
        tried = [(one["batch"], one["inputs"]) for one in self.manifest["sets"]]
        sets = [{"batch": batch, "inputs": files} for batch, files in [(cut, tried[-1][1]) for cut in batches] or tried]
        request = {key: value for key, value in self.request(self.folder).items() if key != "outputs"}
        return {**request, "op": "measure", "sets": sets, "seconds": 0.001, "samples": 3, **changes}

    def symbolic(self) -> Made:
        """Return it with a signature that leaves the batch open, as one that is not ``static`` does."""
        inputs, outputs = (
            [{**tensor, "shape": [None, *tensor["shape"][1:]]} for tensor in self.manifest["signature"][what]]
            for what in ("inputs", "outputs")
        )
        return self.write(signature={"inputs": inputs, "outputs": outputs})


def make_bundle(
    folder: Path, artifact: bytes, sets: Sequence[tuple[Arrays, Arrays]], format: str = "stub", batch: str = "dynamic"
) -> Made:
    """Write a bundle with one artifact, and stacked inputs and outputs for each of its sets."""
    (folder / "artifact").mkdir(parents=True)
    (folder / "samples").mkdir()
    (folder / "artifact" / "model").write_bytes(artifact)
    described = []
    for number, (inputs, outputs) in enumerate(sets):
        one: dict[str, Any] = {"calls": len(next(iter(inputs.values())))}
        one["batch"] = int(next(iter(inputs.values())).shape[1])
        for what, arrays in (("inputs", inputs), ("outputs", outputs)):
            one[what] = {}
            for index, (name, value) in enumerate(arrays.items()):
                one[what][name] = f"samples/b{number}.{what}{index}.npy"
                np.save(folder / one[what][name], value)
        described.append(one)
    signature = {"inputs": names_of(sets[0][0]), "outputs": names_of(sets[0][1])}
    identity = {"schema_version": 1, "framework": "torch", "model": "mlp", "path": "onnx"}
    manifest = {**identity, "format": format, "batch": batch, "entry": "model", "signature": signature}
    return Made(folder, {**manifest, "sets": described}).write()


def points(calls: int = 4, batch: int = 2, seed: int = 0) -> Any:
    """Return ``calls`` x ``batch`` x 3 numbers."""
    return np.random.default_rng(seed).normal(size=(calls, batch, 3)).astype(np.float32)


def stub_bundle(folder: Path, behaviour: str = "copy", reference: Any = None) -> Made:
    """Make a bundle whose output is its input, unless the stub behaves otherwise."""
    x = points()
    outputs = {"y": x if reference is None else reference}
    return make_bundle(folder, f"{behaviour} x y\n".encode(), [({"x": x}, outputs)])


def check(runner: Path, *arguments: str | Path, env: Env | None = None) -> Done:
    """Run the runner as a person does."""
    return subprocess.run(
        [runner, *map(str, arguments)],
        capture_output=True,
        encoding="utf-8",
        timeout=PATIENCE,
        env={**os.environ, **(env or {})},
        check=False,
    )


class Spoken:
    """A runner in the mode for the engine, spoken to line by line."""

    def __init__(self, runner: Path, folder: Path, *arguments: str | Path, env: Env | None = None) -> None:
        folder.mkdir(exist_ok=True)
        self.log = folder / "log"
        self.events: list[str] = []
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [runner, "--worker", *map(str, arguments)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **(env or {})},
            )

    def ask(self, request: Mapping[str, Any] | bytes) -> dict[str, Any]:
        """Return the answer to a request; the stages that it went through are in ``events`` then."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        line = request if isinstance(request, bytes) else json.dumps(request).encode()
        self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()
        self.events = []
        while True:
            said = self.process.stdout.readline()
            assert said, f"it died: {self.log.read_text(errors='replace')[-2000:]}"
            message: dict[str, Any] = json.loads(said)
            if "event" not in message:
                return message
            self.events.append(message["stage"])

    def end(self) -> int:
        """Close its input, wait, and return its exit status."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        try:
            status = self.process.wait(PATIENCE)
        finally:
            self.process.kill()
        assert self.process.stdout.read() == b""
        self.process.stdout.close()
        return status
