"""What one machine hands to another: bundles as tar files, and beside them why there is none of the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import ValidationError

from portmatrix.bundle import pack
from portmatrix.errors import StoreError
from portmatrix.export import Bundle
from portmatrix.store import Store, write_whole
from portmatrix.types import Frozen, Stage
from portmatrix.workers import Failure

#: Framework, model and path.
Which = tuple[str, str, str]
_FAILED = ".failed.json"


class NotMade(NamedTuple):
    """Why there is no bundle, and whether it is the archive that says so."""

    failure: Failure
    archived: bool


class Parcels(NamedTuple):
    """All that a folder holds."""

    bundles: list[Bundle]
    failed: dict[Which, NotMade]


class _Failed(Frozen):
    """The file that stands in for a bundle which could not be made."""

    schema_version: Literal[1] = 1
    framework: str
    model: str
    path: str
    stage: Stage
    reason: str
    fault: Literal["model", "harness"]
    log_tail: str = ""
    unavailable: bool = False
    archived: bool = False


def write(
    folder: Path, made: Mapping[Which, Bundle | NotMade], store: Store, redact: Callable[[str], str] = str
) -> None:
    """Write each bundle as ``FRAMEWORK.MODEL.PATH.tar``, and why there is none as ``FRAMEWORK.MODEL.PATH.failed.json``.

    ``redact`` takes the folders of this machine out of what is told.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for which, item in made.items():
        name = ".".join(which)
        if isinstance(item, Bundle):
            (folder / f"{name}{_FAILED}").unlink(missing_ok=True)
            pack(store.bundle_folder(item.digest), folder / f"{name}.tar")
            continue
        failure = item.failure
        (folder / f"{name}.tar").unlink(missing_ok=True)
        told = _Failed(
            framework=which[0],
            model=which[1],
            path=which[2],
            stage=failure.stage,
            reason=redact(failure.reason),
            fault=failure.fault,
            log_tail=redact(failure.log_tail),
            unavailable=failure.unavailable,
            archived=item.archived,
        )
        write_whole(folder / f"{name}{_FAILED}", told.model_dump_json(indent=1) + "\n")


def read(folder: Path, store: Store) -> Parcels:
    """Return what lies below ``folder``, bundles taken into the store; raises ``StoreError`` for what is neither."""
    bundles = [Bundle(*store.add_archive(archive)) for archive in sorted(folder.rglob("*.tar"))]
    failed: dict[Which, NotMade] = {}
    for file in sorted(folder.rglob(f"*{_FAILED}")):
        try:
            told = _Failed.model_validate_json(file.read_bytes())
        except (OSError, ValidationError) as error:
            raise StoreError(
                f"{file.name} does not say why there is no bundle: {str(error).splitlines()[0]}"
            ) from error
        failure = Failure(told.stage, told.reason, told.fault, told.log_tail, unavailable=told.unavailable)
        failed[told.framework, told.model, told.path] = NotMade(failure, told.archived)
    return Parcels(bundles, failed)
