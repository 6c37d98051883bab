"""Which files differ from a revision: those of the branch alone, what is not committed, both names of what moved."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from portmatrix import diff
from portmatrix.errors import UserError


@pytest.fixture
def git(tmp_path: Path) -> Callable[..., None]:
    """Git in an empty repository that looks at no settings but its own."""

    def run(*arguments: str) -> None:
        own = ["-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false", "-c", "core.hooksPath="]
        subprocess.run(["git", "-C", str(tmp_path), *own, *arguments], check=True, capture_output=True)

    run("init", "-b", "main")
    return run


def write(folder: Path, **texts: str) -> None:
    for name, text in texts.items():
        (folder / name).write_text(text)


def test_the_files_of_a_branch_are_found_and_not_those_of_the_other(tmp_path: Path, git: Callable[..., None]) -> None:
    write(tmp_path, a="1", b="1", moved="a text that is long enough to be known again\n")
    (tmp_path / ".gitignore").write_text("ignored\n")
    git("add", ".")
    git("commit", "-m", "first")
    git("switch", "-c", "branch")
    git("mv", "moved", "there")
    write(tmp_path, **{"with space": "é"})
    git("add", ".")
    git("commit", "-m", "mine")
    git("switch", "main")
    write(tmp_path, b="2")
    git("commit", "-am", "theirs")
    git("switch", "branch")
    write(tmp_path, a="2", new="1", ignored="1")
    assert diff.changed_since(tmp_path, "main") == ["a", "moved", "new", "there", "with space"]
    assert diff.changed_since(tmp_path, "HEAD") == ["a", "new"]


def test_the_repository_of_a_folder_is_its_root(tmp_path: Path, git: Callable[..., None]) -> None:
    (tmp_path / "deep" / "suite").mkdir(parents=True)
    assert diff.repository_of(tmp_path / "deep" / "suite") == tmp_path.resolve()


def test_what_git_does_not_know_is_a_mistake(tmp_path: Path, git: Callable[..., None]) -> None:
    write(tmp_path, a="1")
    git("add", ".")
    git("commit", "-m", "first")
    with pytest.raises(UserError, match=r"^--since nowhere: git says: .*nowhere"):
        diff.changed_since(tmp_path, "nowhere")
    with pytest.raises(UserError, match="expected a revision of git"):
        diff.changed_since(tmp_path, "--output=stolen")


def test_outside_of_a_checkout_there_is_nothing_to_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(UserError, match=r"this needs a checkout: git says: .*not a git repository"):
        diff.repository_of(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="git cannot be asked"):
        diff.repository_of(tmp_path)
