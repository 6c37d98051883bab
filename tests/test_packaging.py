"""What is built from the repository: a wheel that carries the reference suite, and an sdist that carries everything."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
#: What makes the suite, as far as the repository has it.
SUITE = [name for name in ("matrix.yaml", "exporters", "runtimes", "targets", "data", "archive", "dockerfiles")
         if (ROOT / name).exists()]  # fmt: skip


def files_below(*places: Path) -> set[str]:
    """Return every file, relative to the repository, that is no by-product."""
    found = [file for place in places for file in ([place] if place.is_file() else place.rglob("*"))]
    names = {file.relative_to(ROOT).as_posix() for file in found if file.is_file()}
    return {name for name in names if "__pycache__" not in name and ".mypy_cache" not in name}


def build(source: Path, kind: str, folder: Path) -> Path:
    """Return the distribution of that kind, built from ``source``."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(folder)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, unpacked."""
    built = build(ROOT, "sdist", tmp_path_factory.mktemp("sdist"))
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(built) as tar:
        # Later releases of Python warn without the argument, earlier ones do not know it.
        options: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        tar.extractall(folder, **options)
    (unpacked,) = folder.iterdir()
    return unpacked


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as it is made from the sdist, unpacked."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(build(sdist, "wheel", tmp_path_factory.mktemp("wheel"))) as built:
        built.extractall(folder)
    return folder


def test_the_sdist_is_complete(sdist: Path) -> None:
    places = ["src", "tests", "docs", "benchmarks", "scripts", ".ci", "README.md", "LICENSE", "pyproject.toml"]
    wanted = files_below(*(ROOT / name for name in (*places, *SUITE, "tox.ini", "toxfile.py")))
    assert not {name for name in wanted if not (sdist / name).is_file()}


def test_the_wheel_carries_the_package_and_the_suite(wheel: Path) -> None:
    package = {name.removeprefix("src/") for name in files_below(ROOT / "src" / "portmatrix")}
    suite = {f"portmatrix/suite/{name}" for name in files_below(*(ROOT / name for name in SUITE))}
    assert not {name for name in package | suite if not (wheel / name).is_file()}


def test_the_wheel_plans_from_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    program = "import portmatrix.cli; print(portmatrix.__file__); portmatrix.cli.main(['plan'])"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(wheel), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(wheel))
    assert "broken" not in done.stdout
    for file in (ROOT / "exporters").glob("*.py"):
        assert f" {file.stem} " in done.stdout
    assert not list(tmp_path.iterdir())
