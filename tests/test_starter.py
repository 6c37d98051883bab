"""The suite that ``portmatrix init`` writes is one that the engine reads as it stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from portmatrix import suite
from portmatrix.errors import UserError
from portmatrix.plan import Selection, plan
from portmatrix.starter import TEMPLATES, write_starter


def test_the_starter_is_a_suite_with_cells(tmp_path: Path) -> None:
    write_starter(tmp_path / "mine")
    loaded = suite.load(tmp_path / "mine")
    assert not loaded.plugins.broken
    assert "mine" in loaded.plugins.exporters
    if any(target.way.__class__.__name__ == "Way" for target in loaded.plugins.targets.values()):
        assert plan(suite.axes(loaded), suite.exclusions(loaded), Selection()).cells


def test_every_template_is_written_and_no_cache(tmp_path: Path) -> None:
    written = write_starter(tmp_path)
    assert {file.relative_to(tmp_path).as_posix() for file in written} == {"matrix.yaml", "exporters/mine.py"}
    assert all(file.read_bytes() == (TEMPLATES / file.relative_to(tmp_path)).read_bytes() for file in written)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "matrix.yaml").write_text("mine")
    with pytest.raises(UserError, match=r"matrix\.yaml: already there; name another folder"):
        write_starter(tmp_path)
    assert (tmp_path / "matrix.yaml").read_text() == "mine"
    assert not (tmp_path / "exporters").exists()
