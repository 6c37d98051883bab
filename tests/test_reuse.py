"""What a kept record rests on: everything that could change it, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_bundle import manifest_of
from tiny_suite import Assemble

from portmatrix import reuse, suite
from portmatrix.bundle import Signature
from portmatrix.export import Bundle
from portmatrix.store import Store
from portmatrix.types import CellId, Outcome, Record, TensorSpec

CELL = CellId("linear", "free", "native", "plain", "here")
OUTPUT = Signature(inputs=(), outputs=(TensorSpec(name="y", dtype="float32", shape=(1, 3)),))


@pytest.fixture
def key_of(assemble: Assemble) -> Callable[..., str]:
    """The key of one cell of a suite with these changes: of its spec, its runtime's source, its bundle, its threads."""

    def key(
        source: str = "", threads: int = 1, target: str = "", bundle: dict[str, Any] | None = None, **spec: Any
    ) -> str:
        root = assemble("runtimes/plain", "runtimes/referee", referees={"npz-graph": "referee"}, **spec)
        for file, text in ((root / "runtimes" / "plain.py", source), (root / "targets" / "here.py", target)):
            file.write_text(file.read_text() + text)
        loaded = suite.load(root)
        made = Bundle("digest", manifest_of(signature=OUTPUT)) if bundle is None else Bundle(**bundle)
        return reuse.cell_key(loaded, CELL, made, loaded.plugins.runtimes["plain"], None, threads)

    return key


def test_nothing_changed_is_the_same_key(key_of: Callable[..., str]) -> None:
    assert key_of() == key_of()
    assert key_of() == key_of(expect=[{"cells": "*/plain/*", "stage": "RUN", "reason": "expectations come later"}])
    int64 = {"kind": "*", "dtype": "int64", "strict": {"atol": 1, "rtol": 0}}
    assert key_of() == key_of(tolerances=[int64]), "a tolerance of another dtype"


@pytest.mark.parametrize(
    "changes",
    [
        {"source": "# changed\n"},
        {"target": "# changed\n"},
        {"threads": 2},
        {"limits": {"memory_mb": 512}},
        {"tolerances": [{"kind": "*", "dtype": "float32", "strict": {"atol": 1, "rtol": 0}}]},
        {"bundle": {"digest": "another", "manifest": manifest_of(signature=OUTPUT)}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_a_record_rests_on_changes_its_key(changes: dict[str, Any], key_of: Callable[..., str]) -> None:
    assert key_of(**changes) != key_of()


def record(outcome: Outcome, cell: str = str(CELL)) -> Record:
    return Record(cell=cell, outcome=outcome, run="old", started="2026-01-01T00:00:00.000Z", engine="0")


@pytest.mark.parametrize("outcome", Outcome)
def test_only_findings_are_kept(outcome: Outcome, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    reuse.keep(store, "ab", record(outcome))
    found = reuse.reused(store, "ab", CELL, "new")
    if outcome not in {Outcome.PASS, Outcome.DEGRADED, Outcome.FAIL}:
        assert found is None
        return
    assert found is not None
    assert (found.run, found.reused, found.measured) == ("new", True, "2026-01-01T00:00:00.000Z")
    assert found.started > found.measured


def test_a_damaged_or_foreign_entry_is_not_used(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.put("cells", "ab", {"cell": str(CELL), "outcome": "MAYBE"})
    assert reuse.reused(store, "ab", CELL, "new") is None
    reuse.keep(store, "ab", record(Outcome.PASS, "a/b/c/d/e"))
    assert reuse.reused(store, "ab", CELL, "new") is None
