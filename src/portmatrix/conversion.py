"""From one bundle to another: by one of our own converters, which work in a process of the engine's own interpreter, or
by a precision plug-in, which works in its own environment.
"""

from __future__ import annotations

import functools
import hashlib
import shutil
import sys
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from portmatrix.bundle import HeldOut, Manifest, Signature
from portmatrix.errors import DiskFull
from portmatrix.export import Bundle, Recipe, held_out_wanted, request_of_data
from portmatrix.plugins import Reducer
from portmatrix.store import Store, digest_of
from portmatrix.types import Batch, Stage, TensorSpec
from portmatrix.workers import Failure, Launch, Lease, Limits, in_python

_MODULE = "portmatrix.converters"
_ENTRY = "model.onnx"
_PACKAGES = ("onnx", "numpy", "protobuf")


class Reduction(NamedTuple):
    """How an artifact is reduced in precision: by whom, in the environment of which key, with how many training rows
    to calibrate on.
    """

    reducer: Reducer
    environment: str
    rows: int


def launch() -> Launch:
    """Return how a converter's worker is started."""
    return Launch("converters", (), in_python(sys.executable), {}, network=False, packages=_PACKAGES)


@functools.cache
def converter_digest(name: str) -> str:
    """Return what decides the work of the converter ``name``: its source, what all converters share, and onnx."""
    folder = Path(__file__).with_name("converters")
    sources = sorted([*folder.glob("*.py"), *(folder / name).rglob("*.py")])
    content = b"".join(hashlib.sha256(file.read_bytes()).digest() for file in sources)
    versions = [metadata.version(package) for package in _PACKAGES]
    return digest_of([hashlib.sha256(content).hexdigest(), versions])


def key_of(recipe: Recipe, source: Bundle, reduction: Reduction | None = None) -> str:
    """Return the recipe digest of a converted or reduced bundle: what it is made from, and what makes it."""
    way = recipe.way
    made_from = [source.digest, way.model_dump(mode="json"), list(recipe.batches)]
    if reduction is None:
        return digest_of(["conversion", recipe.path, converter_digest(way.converter), *made_from])
    reads = [recipe.reads.view, recipe.reads.target, recipe.data.digest if recipe.data else None, reduction.rows]
    by = [reduction.reducer.digest, reduction.environment, reduction.reducer.environment.env]
    return digest_of(["reduction", recipe.path, *made_from, *reads, *by])


def convert(
    lease: Lease,
    recipe: Recipe,
    source: Bundle,
    key: str,
    store: Store,
    limits: Limits,
    reduction: Reduction | None = None,
) -> Bundle | Failure:
    """Convert or reduce the artifact of ``source`` as ``recipe`` says and put the bundle into the store under ``key``.

    Returns why it failed instead, if it did: what cannot be converted is the model's fault, at EXPORT.
    """
    try:
        with store.scratch("convert") as scratch:
            folder = scratch / "bundle"
            (folder / "artifact").mkdir(parents=True)
            if reduction is None:
                request = _request(recipe, source, store, folder)
            else:
                request = _reduction_request(lease, recipe, source, store, folder, reduction)
            answer = lease.ask(request, limits)
            if isinstance(answer, Failure):
                return answer
            lease.bring(folder)
            manifest = _manifest(recipe, source, answer, key, lease.environment)
            _copy_samples(store.bundle_folder(source.digest), folder, manifest)
            return Bundle(*store.put_bundle(folder, manifest))
    except DiskFull as error:
        return Failure(Stage.EXPORT, str(error), "harness")


def _request(recipe: Recipe, source: Bundle, store: Store, folder: Path) -> dict[str, Any]:
    static = recipe.way.batch is Batch.STATIC
    return {
        "op": "convert",
        "module": _MODULE,
        "converter": recipe.way.converter,
        "artifact": str(store.bundle_folder(source.digest) / "artifact" / source.manifest.entry),
        "output": str(folder / "artifact" / _ENTRY),
        "options": {
            "batch": recipe.bundle.static_batch if static else None,
            # Some files do not tell the sizes of what they read; the batch is symbolic until the file is written.
            "input_shapes": {tensor.name: [None, *tensor.shape[1:]] for tensor in source.manifest.signature.inputs},
        },
    }


def _reduction_request(
    lease: Lease, recipe: Recipe, source: Bundle, store: Store, folder: Path, reduction: Reduction
) -> dict[str, Any]:
    bundle = lease.there(store.bundle_folder(source.digest))
    return {
        "op": "reduce",
        "file": lease.there(reduction.reducer.file),
        "artifact": f"{bundle}/artifact/{source.manifest.entry}",
        "precision": recipe.way.precision.value,
        "data": request_of_data(recipe),
        "rows": reduction.rows,
        "held_out": held_out_wanted(recipe),
        "folder": lease.there(folder),
    }


def _manifest(
    recipe: Recipe, source: Bundle, answer: dict[str, Any], key: str, environment: dict[str, str]
) -> Manifest:
    given = source.manifest
    what = "reduction" if recipe.way.reducer else "conversion"
    names = [name for name in environment if name not in ("python", "platform", "byteorder")]
    converted = {f"{name} ({what})": environment[name] for name in names}
    return given.model_copy(
        update={
            "path": recipe.path,
            "kind": recipe.way.kind,
            "format": recipe.way.format,
            "batch": recipe.way.batch,
            "entry": answer.get("entry", _ENTRY),
            "precision": recipe.way.precision,
            "held_out": HeldOut.model_validate(answer["held_out"]) if answer.get("held_out") else None,
            "signature": _signature(recipe, given),
            "sets": tuple(item for item in given.sets if item.batch in recipe.batches),
            "files": {},
            "recipe": key,
            "environment": {**given.environment, **converted},
            "facts": {**given.facts, **answer["facts"]},
            "seconds": {**given.seconds, **answer["seconds"]},
        }
    )


def _signature(recipe: Recipe, given: Manifest) -> Signature:
    """Return the signature with the batch as the recipe's path has it, where the source has its own."""
    old = None if given.batch is Batch.DYNAMIC else given.sets[0].batch
    new = None if recipe.way.batch is Batch.DYNAMIC else recipe.bundle.static_batch

    def turned(tensor: TensorSpec) -> TensorSpec:
        if not tensor.shape or tensor.shape[0] != old:
            return tensor
        return tensor.model_copy(update={"shape": (new, *tensor.shape[1:])})

    return Signature(
        inputs=tuple(map(turned, given.signature.inputs)), outputs=tuple(map(turned, given.signature.outputs))
    )


def _copy_samples(source: Path, folder: Path, manifest: Manifest) -> None:
    for samples in manifest.sets:
        for name in (*samples.inputs.values(), *samples.outputs.values()):
            place = folder / PurePosixPath(name)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / PurePosixPath(name), place)
