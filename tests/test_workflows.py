"""The workflows and the action: what they use is pinned, what they may do is little, and what they call is there."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from ruamel.yaml import YAML
from test_documentation import Command, cannot_be_given

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest requires it there

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
ACTION = ROOT / "action.yml"
#: What may trigger a workflow: nothing that runs a stranger's commit with this repository's rights.
TRIGGERS = {"push", "pull_request", "schedule", "workflow_dispatch"}


def script(name: str) -> ModuleType:
    """Return the program of that name in ``scripts/`` as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


HOSTED = script("check_workflows").HOSTED


class Source(NamedTuple):
    """A workflow or an action: its text and what that says."""

    text: str
    content: dict[str, Any]

    @property
    def jobs(self) -> dict[str, dict[str, Any]]:
        """The jobs of a workflow; an action has one, which is the caller's."""
        return dict(self.content.get("jobs", {}))

    @property
    def steps(self) -> list[dict[str, Any]]:
        """All steps of all jobs, or those of the action."""
        of_action = self.content.get("runs", {}).get("steps", [])
        return [*of_action, *(step for job in self.jobs.values() for step in job.get("steps", []))]


def source(text: str) -> Source:
    return Source(text, YAML(typ="safe", pure=True).load(text))


def read(file: Path) -> Source:
    return source(file.read_text(encoding="utf-8"))


each_file = pytest.mark.parametrize("file", [*WORKFLOWS, ACTION], ids=lambda file: file.name)
each_workflow = pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)


# --- What they use --------------------------------------------------------------------------------------------------


def uses(text: str) -> Iterator[str]:
    """Yield what each ``uses:`` names, with the comment behind it; what lies in the repository itself left out."""
    for line in text.splitlines():
        found = re.match(r"\s*(?:- )?uses:\s*(\S.*)", line)
        if found and not found[1].startswith("./"):
            yield found[1].strip()


def unpinned(text: str) -> list[str]:
    """Return the actions that are not named by a whole commit with the version of it in a comment."""
    pinned = re.compile(r"[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+(\.\d+){2}")
    return [used for used in uses(text) if not pinned.fullmatch(used)]


def pinned_apart(texts: Iterable[str]) -> list[str]:
    """Return the actions that are pinned to more than one commit, or under more than one version."""
    found: dict[str, set[str]] = {}
    for text in texts:
        for used in uses(text):
            action, _, pin = used.partition("@")
            # actions/cache/restore is a part of actions/cache, and of the same commit.
            found.setdefault("/".join(action.split("/")[:2]), set()).add(pin)
    return [f"{action}: {', '.join(sorted(pins))}" for action, pins in found.items() if len(pins) > 1]


@each_file
def test_an_action_is_pinned_by_its_commit_and_says_which_version_that_is(file: Path) -> None:
    text = read(file).text
    assert list(uses(text))
    assert not unpinned(text)


def test_an_action_is_the_same_everywhere() -> None:
    assert not pinned_apart(read(file).text for file in (*WORKFLOWS, ACTION))


def unknown_packages(text: str) -> list[str]:
    """Return what pip is to install that is no group or pin of pyproject.toml, and no file."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
    pins = {item.partition(";")[0] for group in groups.values() for item in group if isinstance(item, str)}
    found = re.findall(r"pip install ((?:\S+ ?)+)", text)
    words = [word for line in found for word in shlex.split(re.sub(rf"--group ({'|'.join(groups)})\b", "", line))]
    return [word for word in words if word not in pins and not word.startswith((".", "$")) and "/" not in word]


@each_workflow
def test_what_is_installed_by_name_is_pinned_in_pyproject(file: Path) -> None:
    assert not unknown_packages(read(file).text)


# --- What they may do -----------------------------------------------------------------------------------------------


def too_free(workflow: Source) -> list[str]:
    """Return which limits a workflow or its jobs lack."""
    wrong = [] if workflow.content.get("permissions") == {} else ["permissions: {} at the top"]
    if not (workflow.content.get("concurrency") or {}).get("group"):
        wrong.append("a concurrency group")
    for name, job in workflow.jobs.items():
        if "permissions" not in job:
            wrong.append(f"{name}: permissions")
        if not isinstance(job.get("permissions", {}), dict):
            wrong.append(f"{name}: permissions by name, not {job['permissions']}")
        if "uses" not in job and not 0 < job.get("timeout-minutes", 0) <= 360:
            wrong.append(f"{name}: timeout-minutes")
    return wrong


def in_reach_of_strangers(workflow: Source) -> list[str]:
    """Return what a pull request from a fork could get hold of, or would run with this repository's rights."""
    triggers = workflow.content["on"]
    named = {triggers} if isinstance(triggers, str) else set(triggers)
    wrong = [f"trigger {name}" for name in sorted(named - TRIGGERS)]
    wrong += [f"secrets.{name}" for name in re.findall(r"secrets\.(\w+)", workflow.text)]
    if "pull_request" in named:
        for name, job in workflow.jobs.items():
            rights = job.get("permissions")
            written = [scope for scope, right in rights.items() if right == "write"] if isinstance(rights, dict) else []
            if written and not re.search(r"event_name\s*[!=]=|github\.ref\s*==", str(job.get("if", ""))):
                wrong.append(f"{name} may write {', '.join(written)} on a pull request")
    return wrong


def with_credentials(text: Source) -> list[str]:
    """Return the checkouts that leave a token in the repository's configuration, where every later step finds it."""
    found = [step for step in text.steps if str(step.get("uses", "")).startswith("actions/checkout@")]
    return [str(step) for step in found if step.get("with", {}).get("persist-credentials") is not False]


def injectable(text: Source) -> list[str]:
    """Return the commands into whose text GitHub would put something before a shell reads it."""
    return [step["run"] for step in text.steps if "${{" in step.get("run", "")]


@each_workflow
def test_a_workflow_may_do_little_and_not_for_long(file: Path) -> None:
    assert not too_free(read(file))


@each_workflow
def test_a_stranger_gets_hold_of_nothing(file: Path) -> None:
    assert not in_reach_of_strangers(read(file))


@each_file
def test_a_checkout_keeps_no_credentials(file: Path) -> None:
    assert not with_credentials(read(file))


@each_file
def test_nothing_is_put_into_the_text_of_a_command(file: Path) -> None:
    assert not injectable(read(file))


# --- Where they run -------------------------------------------------------------------------------------------------


def labels(workflow: Source) -> Iterator[str]:
    """Yield the labels of the runners that jobs ask for; those that are only computed when it runs left out."""
    for job in workflow.jobs.values():
        asked = job.get("runs-on", "")
        expression = re.fullmatch(r"\$\{\{ *matrix\.([\w.-]+) *\}\}", str(asked))
        if expression is None:
            yield from [asked] if isinstance(asked, str) else asked
            continue
        matrix = job["strategy"]["matrix"]
        if isinstance(matrix, str) or isinstance(matrix.get(expression[1]), str):
            continue  # computed from the targets, which have a test of their own
        yield from matrix.get(expression[1], [])
        yield from (item[expression[1]] for item in matrix.get("include", []) if expression[1] in item)


@each_workflow
def test_a_job_runs_on_a_runner_that_there_is(file: Path) -> None:
    assert set(labels(read(file))) <= HOSTED


@pytest.mark.parametrize("file", sorted((ROOT / "targets").glob("*.py")), ids=lambda file: file.stem)
def test_a_target_is_run_on_a_runner_that_there_is(file: Path) -> None:
    (label,) = re.findall(r'^RUNNER = "(.+)"$', file.read_text(encoding="utf-8"), re.MULTILINE)
    # Only a kind of target, whose entries are machines of the user's own, is run on a runner of the user's own.
    kind = re.search(r"^OPTIONS\b", file.read_text(encoding="utf-8"), re.MULTILINE)
    assert label == "self-hosted" if kind else label in HOSTED


# --- What they call -------------------------------------------------------------------------------------------------


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each command of a script, without redirections; variables stay as they are written."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        redirected = False
        for word in lexer:
            if set(word) <= set("<>&") and set(word) & set("<>"):
                redirected = True
                if words and words[-1].isdigit():
                    words.pop()
            elif set(word) <= set("();|&"):
                yield words
                words = []
            elif redirected:
                redirected = False
            else:
                words.append(word)
        yield words


def called(text: str) -> Iterator[list[str]]:
    """Yield the commands of a script that call portmatrix or tox, from that word on."""
    for words in commands(text):
        for place, word in enumerate(words):
            if re.fullmatch(r"(.*/)?(portmatrix|tox)", word) and "install" not in words[:place]:
                yield words[place:]
                break


def impossible(words: list[str]) -> str:
    """Return why a command cannot be given, whatever its variables stand for; empty if it can."""
    why = ""
    for value in ("*", "1", "native"):
        filled = [re.sub(r"\$\{?\w+(\[@\])?\}?", value, word) for word in words]
        if filled[0].endswith("tox") and value == "*":
            filled = [re.sub(r"\*", "NAME", word) for word in filled]
        why = cannot_be_given(Command(shlex.join(words), filled))
        if not why:
            return ""
    return why


@each_file
def test_a_command_can_be_given_as_it_stands(file: Path) -> None:
    given = [words for step in read(file).steps for words in called(step.get("run", ""))]
    assert not [f"{shlex.join(words)}: {wrong}" for words in given if (wrong := impossible(words))]


def test_the_action_calls_portmatrix_as_it_can_be_called(tmp_path: Path) -> None:
    action = script("action")
    given = action.Inputs("some-suite", ("torch/*", "*/lstm/*"), ("*/mlp/*",), "", summary=True, folder=tmp_path)
    for arguments in (action.run_arguments(given), action.report_arguments(given)):
        assert not impossible(["portmatrix", *arguments])


# --- The tests themselves -------------------------------------------------------------------------------------------

GOOD = """
on: {push: {branches: [main]}, pull_request: }
permissions: {}
concurrency: {group: "${{ github.ref }}"}
jobs:
  a:
    runs-on: ${{ matrix.runner }}
    timeout-minutes: 5
    permissions: {contents: read}
    strategy: {matrix: {runner: [ubuntu-24.04], include: [{runner: macos-15}]}}
    steps:
      - uses: actions/checkout@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1
        with: {persist-credentials: false}
      - run: portmatrix plan "torch/*" --shard "$SHARD" >plan.txt && python -m tox run -e lint
"""


def faults(text: str) -> list[str]:
    """Return all that this module's tests find in a workflow."""
    found = source(text)
    given = [words for step in found.steps for words in called(step.get("run", ""))]
    checks: list[Callable[[], Iterable[str]]] = [
        lambda: unpinned(text),
        lambda: too_free(found),
        lambda: in_reach_of_strangers(found),
        lambda: with_credentials(found),
        lambda: injectable(found),
        lambda: set(labels(found)) - HOSTED,
        lambda: filter(None, map(impossible, given)),
    ]
    return [wrong for check in checks for wrong in check()]


def test_a_good_workflow_passes() -> None:
    assert not faults(GOOD)
    assert set(labels(source(GOOD))) == {"ubuntu-24.04", "macos-15"}
    assert [words[0] for step in source(GOOD).steps for words in called(step.get("run", ""))] == ["portmatrix", "tox"]


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1", "@v7"),
        ("# v7.0.1", "# pinned"),
        ("3d3c42e5", "3D3C42E5"),
        ("permissions: {}\n", ""),
        ("permissions: {}\n", "permissions: read-all\n"),
        ("    permissions: {contents: read}\n", ""),
        ("permissions: {contents: read}", "permissions: write-all"),
        ("permissions: {contents: read}", "permissions: {contents: write}"),
        ("    timeout-minutes: 5\n", ""),
        ("concurrency:", "defaults:"),
        ("pull_request:", "pull_request_target:"),
        ("persist-credentials: false", "persist-credentials: true"),
        ('"$SHARD"', '"${{ matrix.shard }}"'),
        ('"$SHARD"', '"$SHARD" "${{ secrets.TOKEN }}"'),
        ("[ubuntu-24.04]", "[ubuntu-20.04]"),
        ("runner: macos-15", "runner: macos-13"),
        ("${{ matrix.runner }}", "ubuntu-latest"),
        ("--shard", "--shards"),
        ("portmatrix plan", "portmatrix paln"),
        ("-e lint", "-e lnit"),
    ],
)
def test_a_fault_is_found(good: str, bad: str) -> None:
    assert good in GOOD
    assert faults(GOOD.replace(good, bad))


def test_a_second_pin_of_an_action_is_found() -> None:
    assert not pinned_apart([GOOD, GOOD])
    assert pinned_apart([GOOD, GOOD.replace("3d3c42e5", "00000000")])
    assert pinned_apart([GOOD, GOOD.replace("v7.0.1", "v7.0.0")])


def test_what_is_installed_by_name_alone_is_found() -> None:
    text = "run: python -m pip install tox==4.0 ruff==0.17.6 .[x] $WHAT ./dist/a.whl --group tox --group toxx"
    assert unknown_packages(text) == ["tox==4.0", "--group", "toxx"]
