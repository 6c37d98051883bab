"""The machine that the engine runs on, by itself or behind a command prefix: virtual environments, images, programs."""

from __future__ import annotations

from portmatrix import environments, programs
from portmatrix.commands import Patience
from portmatrix.environments import Environment
from portmatrix.places import Announce, Wanted
from portmatrix.plugins import NoWay, Way
from portmatrix.store import Store
from portmatrix.types import PlatformSpec


def lacking(way: Way, platform: PlatformSpec) -> NoWay | None:
    """Return None: whether it is the right machine is known where the way comes from."""
    return None


def key(wanted: Wanted) -> str:
    """Return the key of the virtual environment, image or program; raises ``EnvironmentFailure``."""
    if wanted.program is not None:
        return programs.key(wanted.spec, wanted.program, wanted.platform)
    return environments.environment_key(wanted.spec, environments.source_of(wanted.spec))


def ensure(store: Store, wanted: Wanted, announce: Announce, patience: Patience) -> Environment:
    """Return the environment on this machine, built if need be; raises ``EnvironmentFailure``."""
    if wanted.program is not None:
        return programs.ensure(store, wanted.spec, wanted.program, wanted.platform, announce, patience)
    return environments.ensure(store, wanted.spec, announce, patience.seconds, patience.stopped)
