"""A repository with a small suite and the project's own workflow, and the workflow run on it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_repository import PUSH, ROOT, Repository, RunWorkflow
from tiny_suite import TINY, assemble_suite
from workflow_runner import Event, Machine, Ran, run

from portmatrix.store import Store

WORKFLOW = ROOT / ".github" / "workflows" / "matrix.yml"
#: Stands for the GitHub CLI: it notes what it is asked for, and knows of no pull request.
GH = '#!/bin/sh\necho "$@" >>"$(dirname "$0")/asked"\ncase $1-$2 in pr-list) echo 0 ;; esac\n'


@pytest.fixture(scope="session")
def make_repository(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Repository]:
    """Makes a repository with tiny's plug-ins, and two targets: this machine, and one that is on no runner here."""

    def make(*plugins: str, **spec: Any) -> Repository:
        root = tmp_path_factory.mktemp("repository")
        assemble_suite(root, ("runtimes/plain", "targets/away", *plugins), ("free", "bb"), spec)
        shutil.copyfile(TINY / "runtimes" / "plain.py", root / "runtimes" / "other.py")
        return Repository(root)

    return make


@pytest.fixture(scope="session")
def run_workflow(tmp_path_factory: pytest.TempPathFactory, numpy_environment: Any) -> RunWorkflow:
    """Runs the workflow; each job's machine has the environment of tiny's plug-ins, so that none needs a network."""

    def prepare(temp: Path) -> None:
        store = Store(temp / "store")
        (store.root / "envs" / numpy_environment.key).symlink_to(numpy_environment.folder, target_is_directory=True)

    wheels = numpy_environment.folder.parents[2] / "wheels"

    def go(
        repository: Repository,
        event: Event = PUSH,
        lost: Callable[[str, str], bool] = lambda _job, _step: False,
        cache: Path | None = None,
        env: dict[str, str] | None = None,
    ) -> Ran:
        work = tmp_path_factory.mktemp("work")
        env = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)} if env is None else env
        (work / "bin").mkdir()
        gh = work / "bin" / "gh"
        gh.write_text(GH)
        gh.chmod(0o755)
        machine = Machine(frozenset({"ubuntu-24.04"}), env, prepare, lost, cache)
        return run(WORKFLOW, repository.root, event, machine, work)

    return go
