"""Environments of runtimes that are programs: the runner compiled for a platform, beside the runtime's own library."""

from __future__ import annotations

import json
from pathlib import Path

from portmatrix import wheels
from portmatrix.commands import Patience
from portmatrix.environments import Announce, Environment
from portmatrix.errors import EnvironmentFailure
from portmatrix.plugins import EnvironmentSpec
from portmatrix.store import Store, digest_of, write_whole
from portmatrix.types import PlatformSpec

#: Any will do: the shared library in a wheel is the same for all of them.
_PYTHON = "3.13"


def compiled(store: Store, source: Path, platform: PlatformSpec, announce: Announce, patience: Patience) -> Path:
    """Return the runner made of ``source`` for ``platform``, compiled if need be; raises ``EnvironmentFailure``."""
    raise EnvironmentFailure(f"{source.name} cannot be compiled yet")


def key(spec: EnvironmentSpec, source: Path, platform: PlatformSpec) -> str:
    """Return the key of the program's environment on ``platform``."""
    raise EnvironmentFailure(f"{source.name} cannot be compiled yet")


def ensure(
    store: Store, spec: EnvironmentSpec, source: Path, platform: PlatformSpec, announce: Announce, patience: Patience
) -> Environment:
    """Return the program's environment."""
    raise EnvironmentFailure(f"{source.name} cannot be compiled yet")
