"""Static verdicts: whether a runtime could run a model on a target that cannot be reached, from what can be looked up."""

from __future__ import annotations

from pathlib import Path

from portmatrix.bundle import Manifest
from portmatrix.commands import Patience
from portmatrix.errors import EnvironmentFailure
from portmatrix.places import Wanted
from portmatrix.store import Store
from portmatrix.types import Lookup


def look_up(store: Store, wanted: Wanted, manifest: Manifest, folder: Path, patience: Patience) -> Lookup:
    """Return what the verdict on the bundle in ``folder`` rests on; raises ``EnvironmentFailure`` if nobody answers."""
    raise EnvironmentFailure(f"{wanted.name} is not looked up yet")
