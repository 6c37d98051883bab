"""Places: the kinds of site that the engine can build an environment at, and the one question each of them answers.

A way to a target (``plugins.Way``) names its place; each place is a module here with three functions, held to the
Protocol ``Place`` by a test. A place knows tools (pip, Docker, mmdebstrap, ssh), never a target.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from portmatrix.commands import Patience
from portmatrix.environments import Environment
from portmatrix.plugins import EnvironmentSpec, Exporter, NoWay, Reducer, Runtime, Way
from portmatrix.store import Store
from portmatrix.types import PlatformSpec

Announce = Callable[[str], None]


class Wanted(NamedTuple):
    """What is to run somewhere: whose plug-in, what it needs, its C source if it is a program, and the way there."""

    name: str
    spec: EnvironmentSpec
    platform: PlatformSpec
    way: Way
    program: Path | None = None


def wanted_of(plugin: Exporter | Runtime | Reducer, platform: PlatformSpec, way: Way) -> Wanted:
    """Return what a worker of the plug-in needs on ``platform``, behind ``way``."""
    program = plugin.program if isinstance(plugin, Runtime) else None
    return Wanted(plugin.name, plugin.environment, platform, way, program)


class Place(Protocol):
    """A module of this package.

    ``lacking`` returns what this machine lacks for the way, with what to install, or None where the way leads there
    now; it is asked whenever a suite is loaded, so it looks and does not build.

    ``key`` returns the name of the environment in the store, equal for all that may share it, and changes with
    everything that the environment is made of. Raises ``EnvironmentFailure``: ``unavailable`` where this machine cannot
    have it, ``unsupported`` where nobody can (no wheel, no package for that platform).

    ``ensure`` returns the environment, built under a lock and moved into its place in one step if it is not there
    yet; raises ``EnvironmentFailure`` likewise, with the end of the installer's output, and leaves nothing half-built.
    """

    def lacking(self, way: Way, platform: PlatformSpec) -> NoWay | None: ...

    def key(self, wanted: Wanted) -> str: ...

    def ensure(self, store: Store, wanted: Wanted, announce: Announce, patience: Patience) -> Environment: ...
