"""Static verdicts: whether a runtime could run a model on a target that cannot be reached, from what can be looked up.

``indexes`` asks whether what the runtime needs is there for the platform, by the resolvers of pip, npm and Debian;
``answers`` keeps what they say. ``artifact`` reads what a model asks for, ``kernels`` compares that with what the
runtime says that it has. Nothing is run on the target, so nothing here ever says that the model works there.
"""

from __future__ import annotations

from pathlib import Path

from portmatrix.bundle import Manifest
from portmatrix.commands import Patience
from portmatrix.errors import DiskFull, EnvironmentFailure
from portmatrix.places import Announce, Wanted
from portmatrix.static import kernels
from portmatrix.static.indexes import published
from portmatrix.store import Store
from portmatrix.types import Lookup


def _silently(_text: str) -> None:
    """Say nothing."""


def look_up(
    store: Store,
    wanted: Wanted,
    manifest: Manifest,
    folder: Path,
    patience: Patience,
    runtime: Path | None = None,
    announce: Announce = _silently,
) -> Lookup:
    """Return what the verdict on the bundle in ``folder`` rests on.

    ``runtime`` is the plug-in's file, which may list its kernels; its environment on this machine is built for that if
    need be, and ``announce`` is told what is downloaded. Raises ``EnvironmentFailure`` if nobody answers and no earlier
    answer is kept; ``unavailable`` where there is nobody to ask.
    """
    try:
        found, as_required = published(store, wanted, patience)
        if not found.possible:
            return found
        if as_required:
            compared = kernels.compare(store, wanted, manifest, folder, kernels.Source(runtime, announce), patience)
        else:
            why = f"the model's operators: this is another version than {wanted.name} requires elsewhere"
            compared = kernels.Compared(unchecked=(why,))
    except DiskFull as error:
        raise EnvironmentFailure(str(error)) from error
    unchecked = (*found.unchecked, *compared.unchecked)
    update = {"possible": not compared.lacking, "lacking": compared.lacking, "unchecked": unchecked}
    return found.model_copy(update=update)
