"""A suite's targets as this machine sees them: the ways that lead there, the reach asked for, and the bounds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_suite import Assemble

from portmatrix import plan, suite
from portmatrix.plan import Selection
from portmatrix.plugins import NoWay, Way
from portmatrix.suite import Suite
from portmatrix.types import Reach

#: A target whose ways are as given, on the machine that runs the tests.
TARGET = """
from portmatrix.suite import this_machine

PLATFORM = {{**this_machine().model_dump(), "arch": "{arch}"}}
RUNNER = "self-hosted"
COST = "nothing"


def reach(host):
    return {ways}
"""
NATIVE = {"reach": "native"}
MISSING = {"why": "no emulator", "install": "apt-get install one"}
EMULATED = {"reach": "emulated", "emulator": "one 1.0"}

Load = Callable[..., Suite]


@pytest.fixture
def load(assemble: Assemble) -> Load:
    """Loads tiny with one more target, ``there``, that has these ways."""

    def make(*ways: object, arch: str = "vax", reach: Reach | None = None, **spec: object) -> Suite:
        root = assemble("runtimes/plain")
        (root / "targets" / "there.py").write_text(TARGET.format(ways=list(ways), arch=arch))
        if spec:
            root = assemble("runtimes/plain", **spec)  # type: ignore[arg-type]
        return suite.load(root, reach)

    return make


def planned(loaded: Suite, *globs: str, everywhere: bool = False) -> set[str]:
    axes = suite.axes(loaded, everywhere=everywhere)
    return {cell.target for cell in plan.plan(axes, [], Selection(globs)).cells}


def test_the_first_way_that_leads_there_is_taken(load: Load) -> None:
    target = load(NATIVE, MISSING, EMULATED).plugins.targets["there"]
    assert isinstance(target.way, Way)
    assert target.way.reach is Reach.EMULATED
    assert not target.is_static
    assert [type(item) for item in target.missing] == [NoWay, NoWay]
    assert "'vax'" in target.missing[0].why


def test_where_no_way_leads_it_is_looked_up(load: Load) -> None:
    target = load(NATIVE, MISSING).plugins.targets["there"]
    assert target.is_static
    assert target.missing[-1].install == "apt-get install one"


def test_another_reach_than_the_one_asked_for_is_not_used(load: Load) -> None:
    loaded = load(EMULATED, {"reach": "remote"}, reach=Reach.REMOTE)
    way = loaded.plugins.targets["there"].way
    assert isinstance(way, Way)
    assert way.reach is Reach.REMOTE
    assert loaded.plugins.targets["here"].is_static


def test_what_is_contained_emulated_or_looked_up_is_there_for_who_names_it(load: Load) -> None:
    for ways in ([{"reach": "container"}], [EMULATED], [MISSING]):
        loaded = load(*ways)
        assert planned(loaded) == planned(loaded, "linear/*") == {"here"}
        assert planned(loaded, "*/there") == {"there"}
        assert planned(loaded, everywhere=True) == {"here", "there"}


def test_a_machine_of_one_s_own_is_planned_by_itself(load: Load) -> None:
    assert planned(load({"reach": "remote"})) == {"here", "there"}


def test_a_scope_bounds_a_target_on_every_machine_but_its_own(load: Load) -> None:
    scope = [{"targets": "{here,there}", "cells": ["*/native/*"]}]
    loaded = load(EMULATED, scope=scope)
    here = plan.plan(suite.axes(loaded), [], Selection()).cells
    assert {cell.path for cell in here if cell.target == "there"} == {"native"}
    assert {cell.path for cell in here if cell.target == "here"} == {"native", "dynamic", "graph"}
    belonging = list(plan.belonging(suite.axes(loaded, everywhere=True)))
    assert {cell.path for cell in belonging} == {"native"}


def test_a_target_without_any_way_and_reason_is_broken(load: Load) -> None:
    loaded = load()
    assert "there" not in loaded.plugins.targets
    assert "no way, and no reason" in next(item.why for item in loaded.plugins.broken if item.name == "there")


def test_the_folder_is_found_upwards(assemble: Assemble) -> None:
    root = assemble("runtimes/plain")
    assert suite.find_root(root / "runtimes") == root.resolve()
    assert suite.find_root(Path("/"), root) == root.resolve()
