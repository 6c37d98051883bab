"""The script that proposes changed files: on a branch of its own, by a pull request, and only where one changed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "propose-results"
#: Stands for the GitHub CLI: it notes what it is asked for, says how many pull requests are open, and may open none.
GH = """#!/bin/sh
echo "$@" >>"$HOME/asked"
case $1-$2 in
    pr-list) echo "${OPEN:-0}" ;;
    pr-create) exit "${REFUSED:-0}" ;;
esac
"""

pytestmark = pytest.mark.skipif(
    sys.platform == "win32" or shutil.which("bash") is None, reason="there is no bash, or not one of this system"
)
Propose = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A clone with README.md and a file beside it; what it was cloned from is a bare repository."""
    subprocess.run(["git", "init", "--quiet", "--bare", "-b", "main", tmp_path / "remote"], check=True)
    subprocess.run(
        ["git", "clone", "--quiet", tmp_path / "remote", tmp_path / "clone"], check=True, capture_output=True
    )
    clone = tmp_path / "clone"
    git(clone, "switch", "--quiet", "-c", "main")
    (clone / "README.md").write_text("the table\n")
    (clone / "rows").write_text("rows\n")
    git(clone, "add", ".")
    git(clone, "commit", "--quiet", "-m", "first")
    git(clone, "push", "--quiet", "origin", "main")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "gh").write_text(GH)
    (tmp_path / "bin" / "gh").chmod(0o755)
    return tmp_path


def git(folder: Path, *arguments: str) -> str:
    own = ["-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false", "-c", "core.hooksPath="]
    done = subprocess.run(["git", "-C", str(folder), *own, *arguments], check=True, capture_output=True, text=True)
    return done.stdout


@pytest.fixture
def propose(place: Path) -> Propose:
    """Runs the script in the clone."""

    def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        variables = {
            "PATH": f"{place / 'bin'}:{os.environ['PATH']}",
            "HOME": str(place),
            "GIT_CONFIG_NOSYSTEM": "1",
            **env,
        }
        command = ["bash", str(SCRIPT), *arguments]
        return subprocess.run(
            command, cwd=place / "clone", env=variables, capture_output=True, text=True, check=False, timeout=60
        )

    return run


def asked(place: Path) -> list[str]:
    file = place / "asked"
    return file.read_text().splitlines() if file.exists() else []


def test_a_change_is_pushed_and_a_pull_request_opened(place: Path, propose: Propose) -> None:
    for name in ("README.md", "rows", "other"):
        (place / "clone" / name).write_text("new\n")
    ended = propose("bot/table", "README.md", "rows")
    assert ended.returncode == 0, ended
    assert git(place / "remote", "show", "bot/table:README.md") == "new\n"
    assert git(place / "remote", "show", "bot/table:rows") == "new\n"
    assert "other" not in git(place / "remote", "ls-tree", "--name-only", "bot/table")
    assert git(place / "remote", "show", "main:README.md") == "the table\n"
    assert [line for line in asked(place) if line.startswith("pr create --head bot/table --base main ")]


def test_a_later_change_takes_the_place_of_the_former(place: Path, propose: Propose) -> None:
    for text in ("one\n", "two\n"):
        git(place / "clone", "reset", "--quiet", "--hard", "origin/main")
        (place / "clone" / "README.md").write_text(text)
        assert propose("bot/table", "README.md", OPEN="1" if text == "two\n" else "0").returncode == 0
    assert git(place / "remote", "show", "bot/table:README.md") == "two\n"
    assert git(place / "remote", "rev-list", "--count", "main..bot/table").strip() == "1"
    assert len([line for line in asked(place) if line.startswith("pr create")]) == 1


def test_without_a_change_in_the_first_file_there_is_nothing_to_propose(place: Path, propose: Propose) -> None:
    (place / "clone" / "rows").write_text("new\n")
    ended = propose("bot/table", "README.md", "rows")
    assert ended.returncode == 0
    assert "there is nothing to propose" in ended.stdout
    assert git(place / "remote", "branch", "--list", "bot/*") == ""
    assert asked(place) == []


def test_where_pull_requests_are_refused_the_branch_stands(place: Path, propose: Propose) -> None:
    (place / "clone" / "README.md").write_text("new\n")
    ended = propose("bot/table", "README.md", REFUSED="1")
    assert ended.returncode == 0
    assert "::warning title=No pull request::bot/table is pushed" in ended.stdout
    assert git(place / "remote", "show", "bot/table:README.md") == "new\n"


@pytest.mark.parametrize("arguments", [[], ["bot/table"], ["main", "README.md"]])
def test_what_makes_no_sense_is_refused(arguments: list[str], place: Path, propose: Propose) -> None:
    (place / "clone" / "README.md").write_text("new\n")
    assert propose(*arguments).returncode != 0
    assert git(place / "remote", "show", "main:README.md") == "the table\n"
