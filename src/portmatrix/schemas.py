"""The published JSON Schemas: of what other programs read or write, made from the types that portmatrix reads by."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from portmatrix.bundle import Manifest
from portmatrix.errors import UserError, nearest
from portmatrix.rate import Rating
from portmatrix.spec import MatrixSpec
from portmatrix.types import SCHEMA_VERSION, Record

DIALECT = "https://json-schema.org/draft/2020-12/schema"


class Published(NamedTuple):
    """What a schema is of: its type, its version, a title, and where such data are found."""

    type: Any
    version: int
    title: str
    where: str


#: By the name under which ``portmatrix schema`` prints it and ``schemas/NAME.schema.json`` has it.
PUBLISHED: Mapping[str, Published] = {
    "record": Published(
        Record, SCHEMA_VERSION, "A record of portmatrix", "A line of a records file, such as results/reference.jsonl."
    ),
    "ratings": Published(
        tuple[Rating, ...],
        Rating.model_fields["version"].default,
        "Ratings of portmatrix",
        "What `portmatrix rate FILE --json` prints: a rating for each framework.",
    ),
    "bundle": Published(
        Manifest,
        Manifest.model_fields["schema_version"].default,
        "The manifest of a bundle of portmatrix",
        "The file manifest.json of a bundle, in the store, in an archive and in archive/.",
    ),
    "matrix": Published(MatrixSpec, 1, "matrix.yaml of portmatrix", "The file matrix.yaml of a suite."),
}


def schema(name: str) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of that name; raises ``UserError`` where there is none.

    ``version`` is that of the data's format. It goes up when a program that reads the older one would misunderstand a
    newer file; a field that is added does not change it.
    """
    published = PUBLISHED.get(name)
    if published is None:
        raise UserError(
            f"there is no schema {name!r}; expected one of {', '.join(PUBLISHED)}{nearest(name, list(PUBLISHED))}"
        )
    made = TypeAdapter(published.type).json_schema()
    described = " ".join(filter(None, (published.where, made.pop("description", ""))))
    made.pop("title", None)
    return {
        "$schema": DIALECT,
        "$id": f"urn:portmatrix:schema:{name}:{published.version}",
        "title": published.title,
        "description": described,
        "version": published.version,
        **made,
    }


def text(name: str) -> str:
    """Return that schema as it stands in ``schemas/``; raises ``UserError``."""
    return json.dumps(schema(name), indent=1, ensure_ascii=False) + "\n"
