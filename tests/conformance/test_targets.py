"""One driver for all targets: what platform each is, and how it is reached from its own and from every other."""

from __future__ import annotations

import pytest
from real_suite import SUITE, case, chosen

from portmatrix.plugins import NoWay, PlatformSpec, Target, Way, load_file
from portmatrix.types import Reach

TARGETS = chosen("targets", SUITE.plugins.targets)
#: The labels of GitHub's own runners that exist: macos-13 is gone, macos-14 deprecated.
RUNNERS = (
    *("ubuntu-24.04", "ubuntu-24.04-arm", "windows-2025", "windows-11-arm"),
    *("macos-15", "macos-26", "macos-15-intel", "macos-26-intel"),
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize over the targets."""
    if "target" in metafunc.fixturenames:
        metafunc.parametrize("target", [case("targets", name) for name in TARGETS], indirect=True)


@pytest.fixture
def target(request: pytest.FixtureRequest) -> Target:
    """The target under test."""
    return SUITE.plugins.targets[request.param]


def way_from(target: Target, host: PlatformSpec) -> Way | NoWay:
    """Return what the target's file says of a machine like ``host``."""
    found = load_file("target", target.file).reach(host.model_dump())
    return Way.model_validate(found) if "reach" in found else NoWay.model_validate(found)


def test_native_on_its_own_platform(target: Target) -> None:
    assert way_from(target, target.platform) == Way(reach=Reach.NATIVE)


def test_elsewhere_it_says_how_or_why_not(target: Target) -> None:
    for other in SUITE.plugins.targets.values():
        if other.platform == target.platform:
            continue
        way = way_from(target, other.platform)
        if isinstance(way, Way):
            assert way.reach is not Reach.NATIVE
            assert way.prefix, f"from {other.name} nothing leads there"
        else:
            assert way.why
            assert way.install, f"from {other.name} it does not say what would mend it"


def test_runs_on_a_runner_that_exists(target: Target) -> None:
    assert target.runner in RUNNERS


def test_native_here_is_what_this_machine_is() -> None:
    native = {
        name
        for name, target in SUITE.plugins.targets.items()
        if isinstance(target.way, Way) and target.way.reach is Reach.NATIVE
    }
    assert native == {name for name, target in SUITE.plugins.targets.items() if target.platform == SUITE.host}
