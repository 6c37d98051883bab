"""tox shows one environment for every plug-in of the suite, and none that has no plug-in."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from portmatrix import suite

ROOT = Path(__file__).parents[1]


def tox(root: Path, *arguments: str) -> str:
    """Return what tox prints, as it would from a shell in ``root``."""
    # In tox's own environments these stand for command-line options.
    env = {name: value for name, value in os.environ.items() if not name.startswith("TOX_")}
    command = [sys.executable, "-m", "tox", *arguments]
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def of_plugins(root: Path) -> set[str]:
    """Return the names of the environments that stand for plug-ins, as tox lists them."""
    names = tox(root, "list", "--no-desc", "-q").split()
    return {name for name in names if name.startswith(("export-", "run-"))}


def test_every_plugin_has_its_environment() -> None:
    plugins = suite.load(ROOT).plugins
    expected = {f"export-{name}" for name in plugins.exporters} | {f"run-{name}" for name in plugins.runtimes}
    assert of_plugins(ROOT) == expected


def test_every_environment_says_what_it_is() -> None:
    listed = tox(ROOT, "list")
    assert "run-onnxruntime" in listed
    assert "[no description]" not in listed


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("matrix", "portmatrix run --jobs 2"),
        ("export-torch", "portmatrix export 'torch/*' --jobs 2"),
        ("run-onnxruntime-1.17", "portmatrix run '*/onnxruntime-1.17/*' --jobs 2"),
    ],
)
def test_it_runs_the_command_line(name: str, command: str) -> None:
    told = tox(ROOT, "config", "-e", name, "-k", "commands", "--", "--jobs", "2")
    assert f"commands = {command}\n" in told


def test_which_plugins_are_put_to_the_test_reaches_the_tests() -> None:
    assert "PORTMATRIX_TEST_PLUGINS" in tox(ROOT, "config", "-e", "conformance", "-k", "pass_env").split()


def test_a_new_file_is_a_new_environment(tmp_path: Path) -> None:
    for name in ("tox.ini", "toxfile.py"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    for name in ("exporters", "runtimes", "benchmarks"):
        (tmp_path / name).mkdir()
    (tmp_path / "exporters" / "new.py").touch()
    # Heavy or failing imports do not matter, since nothing is imported.
    (tmp_path / "runtimes" / "engine.py").write_text(
        'import no_such_module\nPYTHON = ">=3.11"\nENVIRONMENTS = {"": {"python": PYTHON}, "2.0": {}}\n'
    )
    (tmp_path / "runtimes" / "typed.py").write_text('ENVIRONMENTS: dict[str, dict[str, str]] = {"": {}}\n')
    (tmp_path / "runtimes" / "broken.py").write_text("ENVIRONMENTS = {")
    assert of_plugins(tmp_path) == {"export-new", "run-engine", "run-engine-2.0", "run-typed"}
