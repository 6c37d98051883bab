"""The workflow on another processor by QEMU, or in a container: the first of these that this machine leads to."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from small_repository import ROOT, Repository, RunWorkflow
from tiny_suite import records_of
from workflow_runner import Event

from portmatrix.places.choice import place_of
from portmatrix.plugins import NoWay, PlatformSpec, Way, load_file
from portmatrix.suite import this_machine
from portmatrix.types import Outcome, Reach

pytestmark = [
    pytest.mark.xdist_group("workflow"),
    pytest.mark.skipif(sys.platform == "win32", reason="the commands are carried out by a POSIX shell"),
]

#: A target that is this machine's own system in a container of Docker, which the reference suite reaches natively.
DOCKER = """
PLATFORM = {{"os": "linux", "arch": "{arch}", "libc": "glibc"}}
RUNNER = "ubuntu-24.04"
RUNNER_REACH = "container"
COST = "Docker"


def reach(host):
    return [{{"reach": "container", "place": "container", "options": {{"platform": "linux/{docker}"}}}}]
"""


class Leg(NamedTuple):
    """A target's name and file, and how it is reached."""

    name: str
    text: str
    reach: Reach


def legs() -> list[Leg]:
    """Return the targets to be tried: a root directory of another processor, else a container."""
    arch, docker = ("arm64", "arm64") if platform.machine() == "aarch64" else ("x86_64", "amd64")
    emulated = ROOT / "targets" / ("linux-armhf.py" if arch == "x86_64" else "linux-s390x.py")
    return [
        Leg(emulated.stem, emulated.read_text(), Reach.EMULATED),
        Leg("in-docker", DOCKER.format(arch=arch, docker=docker), Reach.CONTAINER),
    ]


@pytest.fixture(scope="module")
def leg(tmp_path_factory: pytest.TempPathFactory) -> Leg:
    """The first of them that this machine leads to; skips the test where there is none."""
    why: list[str] = []
    for number, leg in enumerate(legs()):
        file = tmp_path_factory.mktemp("targets") / f"leg_{number}.py"
        file.write_text(leg.text)
        module = load_file("target", file)
        target = PlatformSpec.model_validate(module.PLATFORM)
        ways = [
            Way.model_validate(way)
            for way in module.reach(this_machine().model_dump())
            if way.get("reach") == leg.reach
        ]
        missing = [place_of(way).lacking(way, target) for way in ways]
        if None in missing:
            return leg
        why += [f"{leg.name}: {item.why}" for item in missing if isinstance(item, NoWay)]
    pytest.skip("; ".join(why) or "no way leads to any of them from this machine")


def test_a_container_leg_brings_its_records(
    leg: Leg, make_repository: Callable[..., Repository], run_workflow: RunWorkflow
) -> None:
    repository = make_repository()
    shutil.rmtree(repository.root / "targets")
    (repository.root / "targets").mkdir()
    shutil.copyfile(ROOT / "tests" / "tiny" / "targets" / "here.py", repository.root / "targets" / "here.py")
    (repository.root / "targets" / f"{leg.name}.py").write_text(leg.text)
    runtime = repository.root / "runtimes" / "plain.py"
    declared = f'ENVIRONMENTS = {{"": {{"requirements": ["numpy=={np.__version__}"], "debian": ["python3-numpy"]}}}}'
    lines = [declared if line.startswith("ENVIRONMENTS") else line for line in runtime.read_text().splitlines()]
    runtime.write_text("\n".join(lines) + "\n")
    repository.commit("a target that is not this machine")

    wanted = " ".join(f"*/free/dynamic/plain/{target}" for target in ("here", leg.name))
    environment = run_environment()
    ran = run_workflow(repository, Event("workflow_dispatch", inputs={"cells": wanted, "suite": "."}), env=environment)
    planned = json.loads((ran.artifacts / "plan" / "plan.json").read_text())
    assert {job["target"]: job["reach"] for job in planned["runs"]} == {"here": "native", leg.name: leg.reach.value}
    found = {record.id.target: record for record in records_of(ran.artifacts / "report" / "records.jsonl").values()}
    assert found[leg.name].outcome is Outcome.PASS, found[leg.name].reason
    assert found[leg.name].reach is leg.reach
    assert found["here"].outcome is Outcome.PASS, found["here"].reason
    assert ran.result("run") == "success"


def run_environment() -> dict[str, str]:
    """Return the variables by which this machine finds its package indexes and mirrors."""
    wanted = ("PIP_", "PORTMATRIX_", "UV_", "HTTP", "HTTPS", "NO_PROXY", "SSL_", "REQUESTS_", "DOCKER_")
    return {key: value for key, value in os.environ.items() if key.upper().startswith(wanted)}
