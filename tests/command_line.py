"""A command line run in the test's own process: what it wrote, and its exit status."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from portmatrix import cli


class Ended(NamedTuple):
    """How a command ended: its exit status, and what it wrote on both streams."""

    status: int
    out: str
    err: str


Command = Callable[..., Ended]


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> Ended:
    """Return how ``portmatrix`` with these arguments ended."""
    with pytest.raises(SystemExit) as ended:
        cli.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return Ended(ended.value.code, out, err)  # type: ignore[arg-type]
