"""What every test of a place begins with."""

from __future__ import annotations

from pathlib import Path

import pytest
from linear_suite import Suite


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    """A suite of the test's own."""
    return Suite(tmp_path / "suite")
