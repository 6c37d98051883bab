"""Records of every schema version: how an older one becomes one of today's, and why a newer one is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from portmatrix.errors import RecordError
from portmatrix.types import SCHEMA_VERSION, Record

#: A record's fields in one schema version -> its fields in the next; ``schema_version`` itself is set by ``migrated``.
Migration = Callable[[dict[str, Any]], dict[str, Any]]
#: By the version that they start from, one for each version that there was. Version 1 is the first: an optional field
#: that is added later needs no new version, as a record without it is read as one where it is empty.
MIGRATIONS: dict[int, Migration] = {}


def parse(line: str | bytes, where: str, migrations: Mapping[int, Migration] = MIGRATIONS) -> Record:
    """Return the record on a JSON line of any schema version up to today's.

    ``where`` names the line in messages (``records.jsonl, line 3``). Raises ``RecordError`` for what is no JSON, for a
    version that is newer than this program or that no migration starts from, and for what is then no record.
    """
    try:
        return Record.model_validate_json(line)
    except ValidationError:
        fields = migrated(_fields(line, where), where, migrations)
    try:
        return Record.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise RecordError(f"{where}: {key}: {first['msg']}; expected a record as `portmatrix run` writes it") from error


def migrated(
    fields: dict[str, Any], where: str, migrations: Mapping[int, Migration] = MIGRATIONS, newest: int = SCHEMA_VERSION
) -> dict[str, Any]:
    """Return a record's fields as they are in schema version ``newest``; raises ``RecordError`` as ``parse`` does."""
    version = fields.get("schema_version")
    if not isinstance(version, int) or isinstance(version, bool):
        raise RecordError(f"{where}: schema version {version!r}; expected a number: is this a file of records?")
    if version > newest:
        raise RecordError(
            f"{where}: schema version {version}, and this portmatrix knows none above {newest}; "
            "the record was written by a newer one: install that version, or one after it"
        )
    while version < newest:
        if version not in migrations:
            known = ", ".join(map(str, sorted({*migrations, newest})))
            raise RecordError(f"{where}: schema version {version} is not known; expected one of {known}")
        fields = {**migrations[version](dict(fields)), "schema_version": version + 1}
        version += 1
    return fields


def _fields(line: str | bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError as error:
        half = "half a line at the end of a file is what a killed run leaves: `portmatrix run --resume` cuts it away"
        raise RecordError(f"{where}: no JSON; expected a record on every line; {half}") from error
    if not isinstance(value, dict):
        raise RecordError(f"{where}: a JSON {type(value).__name__}; expected a record, a JSON object")
    return value
