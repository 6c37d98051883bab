"""From a bundle, a runtime and a target to outputs, and from outputs to comparisons and blame."""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from portmatrix.bundle import Manifest
from portmatrix.compare import compare, held_out_accuracy, judged_by_accuracy, set_beside, verdict
from portmatrix.errors import DiskFull
from portmatrix.plugins import Array, Arrays, Runtime
from portmatrix.spec import MatrixSpec
from portmatrix.store import Store, disk_errors
from portmatrix.types import Blame, Comparison, HeldOutAccuracy, Outcome, Stage
from portmatrix.workers import Failure, Lease, Limits


class RunOutput(NamedTuple):
    """What a runtime made of a bundle: for each sample set the stacked outputs by reference name.

    ``degraded`` says why it did not run as asked for (empty if it did); ``seconds`` are by stage; ``held_out`` are the
    outputs for the held-out rows of a bundle that is judged by them.
    """

    outputs: tuple[Arrays, ...]
    degraded: str
    seconds: dict[str, float]
    held_out: Arrays | None = None


class Answer(NamedTuple):
    """What a worker said of a bundle that it ran: where its outputs lie, for each sample set the file by name.

    Those for the held-out rows, if there are any, are behind those of the ``samples`` sample sets.
    """

    folder: Path
    files: tuple[dict[str, str], ...]
    degraded: str
    seconds: dict[str, float]
    samples: int


def run(
    lease: Lease, runtime: Runtime, digest: str, manifest: Manifest, store: Store, limits: Limits, threads: int = 1
) -> RunOutput | Failure:
    """Run every sample of a stored bundle in the runtime's worker; returns why it failed instead, if it did."""
    return read(ask(lease, runtime, store.bundle_folder(digest), manifest, limits, threads))


def ask(
    lease: Lease,
    runtime: Runtime,
    folder: Path,
    manifest: Manifest,
    limits: Limits,
    threads: int,
    sent: Callable[[], None] | None = None,
) -> Answer | Failure:
    """Have the bundle in ``folder`` run; ``sent`` is called as soon as the worker is at it.

    The outputs must be read before the lease is asked for the next exchange but one.
    """
    try:
        with disk_errors("a scratch folder"):
            scratch = lease.exchange()
    except DiskFull as error:
        return Failure(Stage.PREPARE, str(error), "harness")
    try:
        bundle = lease.there(folder)
        sets = [item.model_dump(mode="json", exclude={"outputs"}) for item in manifest.tried]
        if manifest.held_out is not None:
            sets.append(manifest.held_out.model_dump(mode="json", exclude={"labels"}))
        request = {
            "op": "run",
            "file": lease.there(runtime.file),
            "entry": f"{bundle}/artifact/{manifest.entry}",
            "format": manifest.format,
            "signature": manifest.signature.model_dump(mode="json"),
            "sets": sets,
            "bundle": bundle,
            "outputs": lease.there(scratch),
            "threads": threads,
        }
        answer = lease.ask(request, limits, sent)
        if isinstance(answer, Failure):
            return answer
        lease.bring(scratch)
    except OSError as error:
        return Failure(Stage.PREPARE, f"files could not be exchanged with the target: {error}", "harness")
    files = tuple(answer["outputs"])
    return Answer(scratch, files, answer["degraded"], answer["seconds"], len(manifest.tried))


def read(answer: Answer | Failure) -> RunOutput | Failure:
    """Return the outputs that an answer names, and remove their files; a failure stays what it is."""
    if isinstance(answer, Failure):
        return answer
    try:
        outputs = tuple(_load(answer.folder, files) for files in answer.files)
        for files in answer.files:
            for file in files.values():
                (answer.folder / file).unlink()
    except (OSError, ValueError) as error:
        return Failure(Stage.RUN, f"the worker's outputs cannot be read: {error}", "harness")
    held_out = next(iter(outputs[answer.samples :]), None)
    return RunOutput(outputs[: answer.samples], answer.degraded, answer.seconds, held_out)


def _load(folder: Path, files: dict[str, str]) -> Arrays:
    return {name: _array(folder / file) for name, file in files.items()}


def _array(file: Path) -> Array:
    """Return the array in a .npy file, read-only; raises ``ValueError`` if it is none.

    To parse the header takes ``np.load`` longer than all the rest, and the headers of a matrix are mostly alike.
    """
    content = file.read_bytes()
    begin = 10 + int.from_bytes(content[8:10], "little")
    if content[:8] == b"\x93NUMPY\x01\x00" and len(content) > begin:
        shape, fortran_order, dtype = _layout(content[8:begin])
        if not fortran_order and not dtype.hasobject:
            return np.frombuffer(content, dtype, math.prod(shape), begin).reshape(shape)
    loaded: Array = np.load(file, allow_pickle=False)
    return loaded


@functools.lru_cache(maxsize=1024)
def _layout(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return shape, whether the first axis varies fastest, and dtype, from the header of a .npy file of version 1."""
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(io.BytesIO(header))
    return shape, fortran_order, dtype


def references(store: Store, digest: str, manifest: Manifest) -> tuple[Arrays, ...]:
    """Return the framework's own outputs, for each sample set the stacked arrays by name."""
    folder = store.bundle_folder(digest)
    return tuple(_load(folder, item.outputs) for item in manifest.tried)


def compare_outputs(
    manifest: Manifest, reference: tuple[Arrays, ...], outputs: tuple[Arrays, ...], spec: MatrixSpec
) -> tuple[Comparison, ...]:
    """Return one comparison for each output of each sample set, in order."""
    found: list[Comparison] = []
    for samples, expected, made in zip(manifest.tried, reference, outputs, strict=True):
        for name, value in expected.items():
            strict, loose = spec.tolerance(manifest.kind, value.dtype.name, manifest.model, manifest.precision)
            found.append(compare(name, samples.batch, value, made[name], strict, loose))
    return tuple(map(set_beside, found)) if manifest.held_out is not None else tuple(found)


def blame(
    reference: tuple[Arrays, ...],
    failed: tuple[Arrays, ...],
    referee: RunOutput | Failure,
    name: str,
) -> Blame:
    """Return who is at fault for a failed comparison, by what the runtime ``name`` makes of the same artifact.

    The referee agrees with the framework: the artifact is right, so the runtime is wrong. It disagrees with the
    framework, and the failed runtime disagrees in the same way: the artifact is wrong, so the exporter is. Agreement is
    within the loose tolerance of an untried artifact, 1e-2 of each element, since only gross differences are at issue.
    """
    if isinstance(referee, Failure):
        return Blame(
            party="undecided", referee=name, why=f"{name} fails too, at {referee.stage.value}: {referee.reason}"
        )
    if _agree(reference, referee.outputs):
        return Blame(party="runtime", referee=name, why=f"{name} agrees with the framework on the same file")
    if _agree(failed, referee.outputs):
        return Blame(party="exporter", referee=name, why=f"{name} gives the same wrong answer for the same file")
    return Blame(party="undecided", referee=name, why=f"{name} agrees with neither the framework nor the runtime")


def _agree(left: tuple[Arrays, ...], right: tuple[Arrays, ...]) -> bool:
    for one, other in zip(left, right, strict=True):
        for name, value in one.items():
            twin = other[name]
            if value.shape != twin.shape or not np.allclose(value, twin, rtol=1e-2, atol=1e-2, equal_nan=True):
                return False
    return True


def accuracy_of(
    store: Store, bundle: str, manifest: Manifest, made: RunOutput, allowed: float
) -> HeldOutAccuracy | None:
    """Return how a runtime fares on the held-out rows of a bundle that is judged by them, else None.

    ``allowed`` is the accuracy that it may lose. Raises ``KeyError`` where the runtime lacks the first output.
    """
    if manifest.held_out is None or made.held_out is None or manifest.accuracy is None:
        return None
    labels = _array(store.bundle_folder(bundle) / manifest.held_out.labels)
    own = held_out_accuracy(made.held_out[manifest.signature.outputs[0].name], labels)
    return HeldOutAccuracy(accuracy=own, framework=manifest.accuracy, rows=len(labels), allowed=allowed)


def outcome_of(
    made: RunOutput, comparisons: tuple[Comparison, ...], accuracy: HeldOutAccuracy | None = None
) -> tuple[Outcome, str]:
    """Return outcome and reason of a cell whose outputs have been compared; ``accuracy`` decides where there is one."""
    outcome, reason = verdict(comparisons)
    if outcome is not Outcome.FAIL and accuracy is not None:
        outcome, reason = judged_by_accuracy(accuracy)
    if outcome is Outcome.PASS and made.degraded:
        return Outcome.DEGRADED, made.degraded
    return outcome, reason
