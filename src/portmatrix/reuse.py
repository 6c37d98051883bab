"""Which records may be used again: those whose cell, bundle, runtime, target and engine are what they were."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from portmatrix.environments import environment_key
from portmatrix.errors import EnvironmentFailure
from portmatrix.export import Bundle
from portmatrix.places import wanted_of
from portmatrix.places.choice import place_of
from portmatrix.plugins import Runtime, Target, Way
from portmatrix.recording import now
from portmatrix.store import Store, digest_of
from portmatrix.suite import Suite
from portmatrix.types import CellId, Outcome, Record

#: Sources that decide what a record says; a change of any of them runs every cell again.
_DECIDING = ("worker.py", "compare.py", "run.py")
#: What is worth keeping: an ERROR or a cell that was not run says nothing that could be used again.
_KEPT = frozenset({Outcome.PASS, Outcome.DEGRADED, Outcome.FAIL})


@functools.cache
def _engine() -> str:
    sources = [Path(__file__).with_name(name).read_bytes() for name in _DECIDING]
    return hashlib.sha256(b"".join(sources)).hexdigest()


def cell_key(
    suite: Suite, cell: CellId, bundle: Bundle, runtime: Runtime, referee: Runtime | None, threads: int
) -> str:
    """Return what a cell's record rests on: equal as long as running it again could show nothing new."""
    manifest, spec = bundle.manifest, suite.spec
    kind, precision = manifest.kind, manifest.precision
    rules: dict[str, Any] = {
        tensor.dtype: [rule.model_dump() for rule in spec.tolerance(kind, tensor.dtype, cell.model, precision)]
        for tensor in manifest.signature.outputs
    }
    if precision.is_integer:
        rules["accuracy_drop"] = spec.precision.accuracy_drop
    target = suite.plugins.targets[cell.target]
    way = target.way
    rests_on: dict[str, Any] = {
        "cell": str(cell),
        "bundle": bundle.digest,
        "runtime": [runtime.digest, _environment(runtime, target), runtime.environment.model_dump()],
        "target": [target.digest, way.model_dump(mode="json") if isinstance(way, Way) else None],
        "referee": referee.digest if referee else None,
        "engine": _engine(),
        "tolerances": rules,
        "limits": spec.limits.model_dump(),
        "threads": threads,
    }
    return digest_of(rests_on)


def _environment(runtime: Runtime, target: Target) -> str:
    try:
        if isinstance(target.way, Way):
            return place_of(target.way).key(wanted_of(runtime, target.platform, target.way))
    except EnvironmentFailure:
        pass
    return environment_key(runtime.environment, None)


def reused(store: Store, key: str, cell: CellId, run_name: str) -> Record | None:
    """Return the record kept under ``key``, marked as reused by this run, or None if there is none."""
    entry = store.get("cells", key)
    if entry is None:
        return None
    try:
        record = Record.model_validate(entry)
    except ValidationError:
        return None
    if record.cell != str(cell):
        return None
    update = {"run": run_name, "reused": True, "measured": record.started, "started": now()}
    return record.model_copy(update=update)


def keep(store: Store, key: str, record: Record) -> None:
    """Keep a conclusive record for later runs (as it was, before expectations); raises ``DiskFull``."""
    if record.outcome in _KEPT:
        store.put("cells", key, record.model_dump(mode="json", exclude_defaults=True))
