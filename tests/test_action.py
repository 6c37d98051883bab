"""What action.yml does, its steps carried out here as a runner would: with files for outputs and for the summary."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from tiny_suite import Assemble

from portmatrix.store import Store

ROOT = Path(__file__).parents[1]
ACTION = YAML(typ="safe", pure=True).load((ROOT / "action.yml").read_text(encoding="utf-8"))
STEPS = {step["name"]: step for step in ACTION["runs"]["steps"]}


class Runner:
    """As much of a runner as the action needs: a temporary folder, and the files that a step tells things by."""

    def __init__(self, folder: Path, store: Store) -> None:
        self.folder = folder
        self.output, self.summary = folder / "output", folder / "summary"
        folder.mkdir()
        self.env = {
            **os.environ,
            "RUNNER_TEMP": str(folder),
            "GITHUB_OUTPUT": str(self.output),
            "GITHUB_STEP_SUMMARY": str(self.summary),
            "GITHUB_ACTION_PATH": str(ROOT),
            "PYTHON": sys.executable,
            "PORTMATRIX_STORE": str(store.root),
        }

    def has_installed(self) -> None:
        """Have what the action's first step leaves behind, with the portmatrix that these tests run with."""
        python = self.folder / "portmatrix" / "environment" / ("Scripts" if os.name == "nt" else "bin")
        python.mkdir(parents=True)
        (python / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n', encoding="utf-8")
        (python / "python").chmod(0o755)

    def step(self, name: str, **inputs: str) -> subprocess.CompletedProcess[str]:
        """Carry out a step's command by its shell, with the inputs in the variables that the step names."""
        given = {key: str(item["default"]) for key, item in ACTION["inputs"].items()} | inputs
        env = {}
        for variable, value in STEPS[name]["env"].items():
            found = re.fullmatch(r"\$\{\{ inputs\.([\w-]+) \}\}", value)
            if found:
                env[variable] = given[found[1]]
        command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", STEPS[name]["run"]]
        return subprocess.run(
            command, env={**self.env, **env}, cwd=self.folder, capture_output=True, text=True, check=False
        )

    @property
    def outputs(self) -> dict[str, str]:
        """What the steps have told so far."""
        lines = self.output.read_text(encoding="utf-8").splitlines() if self.output.exists() else []
        return dict(line.split("=", 1) for line in lines)


pytestmark = pytest.mark.skipif(os.name == "nt", reason="a script stands in for the action's environment")


@pytest.fixture
def runner(tmp_path: Path, store: Store) -> Runner:
    """A runner on which portmatrix is installed."""
    made = Runner(tmp_path / "temp", store)
    made.has_installed()
    return made


def test_every_input_is_used_and_every_variable_is_read() -> None:
    text = (ROOT / "action.yml").read_text(encoding="utf-8")
    used = set(re.findall(r"inputs\.([\w-]+)", text))
    assert used == set(ACTION["inputs"])
    given = {name for step in STEPS.values() for name in step.get("env", {}) if name.startswith("INPUT_")}
    assert given == set(re.findall(r"INPUT_\w+", (ROOT / "scripts" / "action.py").read_text(encoding="utf-8")))


def test_every_output_is_told(runner: Runner, assemble: Assemble) -> None:
    runner.step("Run the suite", suite=str(assemble("runtimes/plain")))
    told = {f"${{{{ steps.run.outputs.{name} }}}}" for name in runner.outputs}
    assert {output["value"] for output in ACTION["outputs"].values()} == told


@pytest.mark.parametrize(
    ("runtime", "unexpected"), [("plain", "false"), ("wrong", "true")], ids=["as expected", "unexpected"]
)
def test_a_suite_is_run_and_reported(runner: Runner, assemble: Assemble, runtime: str, unexpected: str) -> None:
    suite = str(assemble(f"runtimes/{runtime}"))
    ran = runner.step("Run the suite", suite=suite)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert runner.outputs["unexpected"] == unexpected
    reported = runner.step("Report", suite=suite)
    assert reported.returncode == 0
    assert ("::error" in reported.stdout) == (unexpected == "true")
    made = {file.name for file in Path(runner.outputs["results"]).iterdir()}
    assert made >= {"records.jsonl", "report", "junit.xml", "summary.md"}
    shown = runner.summary.read_text(encoding="utf-8")
    assert shown == (Path(runner.outputs["results"]) / "summary.md").read_text(encoding="utf-8")
    runner.step("Report", suite=suite, summary="false")
    assert runner.summary.read_text(encoding="utf-8") == shown


def test_cells_are_chosen_by_globs_on_several_lines(runner: Runner, assemble: Assemble) -> None:
    suite = str(assemble("runtimes/plain"))
    ran = runner.step("Run the suite", suite=suite, cells="*/native/*\n*/graph/*\n", skip="*/graph/*")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    text = Path(runner.outputs["records"]).read_text(encoding="utf-8")
    assert "/native/" in text
    assert "/graph/" not in text


def test_nothing_selected_fails_the_step(runner: Runner, assemble: Assemble) -> None:
    ran = runner.step("Run the suite", suite=str(assemble("runtimes/plain")), cells="no/such/*")
    assert ran.returncode == 4
    assert not runner.outputs


@pytest.mark.parametrize("hostile", ['"; touch caught; "', "$(touch caught)", "--help", "`touch caught`\n-h"])
@pytest.mark.parametrize("where", ["suite", "cells", "skip"])
def test_an_input_is_never_carried_out(runner: Runner, assemble: Assemble, hostile: str, where: str) -> None:
    inputs = {"suite": str(assemble("runtimes/plain")), where: hostile}
    ran = runner.step("Run the suite", **inputs)
    assert ran.returncode or where == "skip"
    assert "Usage:" not in ran.stdout
    assert not list(runner.folder.rglob("caught"))


@pytest.mark.parametrize("version", ["0.1.0; touch caught", "-r /etc/passwd", "git+https://x", "0.1.0 evil"])
def test_a_version_that_is_none_is_refused(tmp_path: Path, store: Store, version: str) -> None:
    runner = Runner(tmp_path / "temp", store)
    done = runner.step("Install portmatrix", version=version)
    assert done.returncode == 2
    assert "::error::version: " in done.stdout
    assert not (runner.folder / "portmatrix").exists()


def test_a_released_version_is_installed_for_itself(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "portmatrix-7.0-py3-none-any.whl", "w") as made:
        made.writestr("portmatrix/__init__.py", "")
        made.writestr("portmatrix/cli.py", "def main():\n    raise SystemExit(3)\n")
        info = "portmatrix-7.0.dist-info"
        made.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: portmatrix\nVersion: 7.0\n")
        made.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        made.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    runner = Runner(tmp_path / "temp", store)
    done = runner.step("Install portmatrix", version="7.0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert runner.step("Run the suite").returncode == 3


def test_outside_of_actions_it_says_what_is_missing() -> None:
    env = {name: value for name, value in os.environ.items() if name != "RUNNER_TEMP"}
    command = [sys.executable, str(ROOT / "scripts" / "action.py"), "run"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "RUNNER_TEMP is not set" in done.stdout
