"""The published JSON Schemas: equal to the types, valid themselves, and true of what is in this repository."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from portmatrix import records, schemas, suite
from portmatrix.errors import UserError
from portmatrix.rate import rate
from portmatrix.yaml_source import compose, read_text

ROOT = Path(__file__).parents[1]
each_schema = pytest.mark.parametrize("name", schemas.PUBLISHED)


def validator(name: str) -> Draft202012Validator:
    return Draft202012Validator(json.loads((ROOT / "schemas" / f"{name}.schema.json").read_text(encoding="utf-8")))


@each_schema
def test_what_is_published_is_what_the_types_say(name: str) -> None:
    published = json.loads((ROOT / "schemas" / f"{name}.schema.json").read_text(encoding="utf-8"))
    assert published == schemas.schema(name), f"regenerate: portmatrix schema {name} > schemas/{name}.schema.json"


@each_schema
def test_a_schema_is_one_and_says_what_it_is_of(name: str) -> None:
    made = schemas.schema(name)
    Draft202012Validator.check_schema(made)
    assert made["$id"] == f"urn:portmatrix:schema:{name}:{made['version']}"
    assert made["title"]
    assert made["description"]
    assert {file.name for file in (ROOT / "schemas").iterdir()} == {f"{name}.schema.json" for name in schemas.PUBLISHED}


def test_every_reference_record_is_valid() -> None:
    valid = validator("record")
    lines = (ROOT / "results" / "reference.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) > 1000
    wrong = [line[:200] for line in lines if not valid.is_valid(json.loads(line))]
    assert not wrong, list(valid.iter_errors(json.loads(wrong[0])))


@pytest.mark.parametrize(
    "change",
    [
        {"outcome": "FLAKY"},
        {"colour": "green"},
        {"schema_version": 2},
        {"seconds": "1"},
        {"cell": None},
        {"stage": "run"},
    ],
)
def test_what_is_no_record_is_not_valid(change: dict[str, Any]) -> None:
    line = (ROOT / "results" / "reference.jsonl").read_bytes().splitlines()[0]
    assert validator("record").is_valid(json.loads(line))
    assert not validator("record").is_valid(json.loads(line) | change)


def test_ratings_are_valid() -> None:
    found = rate(list(records.read(ROOT / "results" / "reference.jsonl"))[:500], suite.load(ROOT).spec.ratings)
    validator("ratings").validate([rating.model_dump(mode="json") for rating in found])


def test_manifests_of_archived_bundles_are_valid() -> None:
    manifests = list((ROOT / "archive").rglob("manifest.json"))
    assert manifests
    for manifest in manifests:
        validator("bundle").validate(json.loads(manifest.read_bytes()))


def test_the_suites_own_matrix_is_valid() -> None:
    plain, _lines, problems, _gaps = compose(read_text(ROOT / "matrix.yaml"))
    assert not problems
    validator("matrix").validate(json.loads(json.dumps(plain)))


def test_every_field_of_a_record_is_explained() -> None:
    page = (ROOT / "docs" / "records.md").read_text(encoding="utf-8")
    made = schemas.schema("record")
    parts = ("Comparison", "HeldOutAccuracy", "Blame", "Lookup", "Latency", "Timing")
    types = {name: made["$defs"][name] for name in parts}
    for fields in (made, *types.values()):
        missing = [name for name in fields["properties"] if f"`{name}`" not in page]
        assert not missing, missing


def test_an_unknown_schema_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"no schema 'records'; expected one of record, .*did you mean 'record'"):
        schemas.schema("records")
