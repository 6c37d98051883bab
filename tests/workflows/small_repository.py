"""A repository for the workflow to be run on, and how the tests ask for a run."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from workflow_runner import Event, Ran

ROOT = Path(__file__).parents[2]
PUSH = Event("push")
README = "# A suite\n\n<!-- portmatrix:table:begin -->\n<!-- portmatrix:table:end -->\n"


class Repository:
    """A checkout with a suite in its root, whose every change is a commit."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._git("init", "--quiet", "--initial-branch", "main")
        (root / "README.md").write_text(README)
        (root / "docs").mkdir()
        (root / "docs" / "results.md").write_text("")
        shutil.copytree(ROOT / "scripts", root / "scripts")
        (root / ".gitignore").write_text("__pycache__/\n")
        self.commit("the suite")

    def _git(self, *arguments: str) -> str:
        own = ["-c", "user.name=n", "-c", "user.email=e@e", "-c", "commit.gpgsign=false", "-c", "core.hooksPath="]
        done = subprocess.run(
            ["git", "-C", str(self.root), *own, *arguments], check=True, capture_output=True, text=True
        )
        return done.stdout

    def commit(self, message: str) -> None:
        """Commit all that has changed."""
        self._git("add", "--all")
        self._git("commit", "--quiet", "--message", message)

    def write(self, name: str, text: str) -> None:
        """Write a file and commit it."""
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_text(text)
        self.commit(name)

    def show(self, what: str) -> str:
        """Return a file of a revision, ``REV:PATH``."""
        return self._git("show", what)


class RunWorkflow(Protocol):
    """The fixture ``run_workflow``."""

    def __call__(
        self,
        repository: Repository,
        event: Event = ...,
        lost: Callable[[str, str], bool] = ...,
        cache: Path | None = ...,
        env: dict[str, str] | None = ...,
    ) -> Ran: ...
