"""Which of a target's ways leads there from this machine now, and which place each of them ends at."""

from __future__ import annotations

import importlib
from typing import cast

from portmatrix.places import Place
from portmatrix.plugins import NoWay, Plugins, Target, Way
from portmatrix.types import PlatformSpec, Reach

#: What is left where no way leads: to look up whether it could run there.
STATIC = Way(reach=Reach.STATIC)


def place_of(way: Way) -> Place:
    """Return the place that a way ends at: the module of that name, which is loaded when a way needs it."""
    return cast(Place, importlib.import_module(f"portmatrix.places.{way.place}"))


def resolve(plugins: Plugins, asked: Reach | None = None) -> Plugins:
    """Return the plug-ins with every way of their targets looked into: what does not lead there now says why.

    Behind them all stands the static look-up, which needs nothing of the target. ``asked`` is the only reach to be
    used; None is the best there is.
    """
    return plugins._replace(targets={name: _resolved(target, asked) for name, target in plugins.targets.items()})


def _resolved(target: Target, asked: Reach | None) -> Target:
    return target._replace(ways=(*(_looked_into(way, target.platform, asked) for way in target.ways), STATIC))


def _looked_into(way: Way | NoWay, platform: PlatformSpec, asked: Reach | None) -> Way | NoWay:
    if isinstance(way, NoWay):
        return way
    if asked not in (None, way.reach):
        return NoWay(
            why=f"its reach would be {way.reach.value}, and {asked.value} was asked for", install="leave out --reach"
        )
    return place_of(way).lacking(way, platform) or way
