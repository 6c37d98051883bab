"""Runs a workflow of GitHub Actions on this machine: its ``run`` steps for real, its actions by stand-ins on folders.

Each job gets an empty machine: a workspace, a folder for temporary files and nothing else. What passes from job to job
is what would pass on GitHub: outputs and artifacts. A runner that is not at hand, or that a test takes away, ends its
job at once, as if the machine had been lost.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML
from workflow_expressions import NotUnderstood, holds, interpolate, shown

#: Runs every command; the options are GitHub's for ``shell: bash``.
_BASH = ["bash", "--noprofile", "--norc", "-eo", "pipefail"]
#: Commands that prepare a machine: here it is prepared. The documentation is not the small repository's own; that it
#: can be built is for tox's environment ``docs`` to show.
PREPARED = (
    r"python -m pip install \S+",
    r"python -m pip install --group tox",
    r"sudo scripts/setup-linux-targets .*",
    r"python -m tox run -e pages -- report/site/documentation",
)
#: Bytes that GitHub takes of one step's summary, and of a job's outputs.
SUMMARY_BYTES, OUTPUT_BYTES = 1 << 20, 1_000_000
#: Seconds that one command may take here.
_PATIENCE = 300
_STEP_KEYS = {"name", "id", "if", "uses", "with", "run", "env"}
_JOB_KEYS = {
    *("name", "needs", "if", "runs-on", "timeout-minutes", "permissions", "outputs", "strategy", "env", "steps"),
    *("concurrency", "environment"),
}


class Event(NamedTuple):
    """What started the workflow; ``payload`` is ``github.event``."""

    name: str
    ref: str = "refs/heads/main"
    inputs: Mapping[str, Any] = {}
    payload: Mapping[str, Any] = {}


class Machine(NamedTuple):
    """What the jobs find: labels of runners that are there, variables, a preparation of each job's folder for files.

    ``lost`` says of the name of a job and of the name of a step whether the machine is lost before that step. ``cache``
    outlives a run of the workflow.
    """

    labels: frozenset[str]
    env: Mapping[str, str]
    prepare: Callable[[Path], None] = lambda _folder: None
    lost: Callable[[str, str], bool] = lambda _job, _step: False
    cache: Path | None = None


@dataclass
class Step:
    """What became of a step: its command and what it printed, or the action that it stands for."""

    name: str
    what: str
    outcome: str
    printed: str = ""


@dataclass
class Job:
    """What became of a job; ``summary`` joins those of its steps."""

    id: str
    name: str
    result: str = "success"
    steps: list[Step] = field(default_factory=list)
    outputs: dict[str, str] = field(default_factory=dict)
    summary: str = ""
    folder: Path = Path()

    def printed(self, step: str) -> str:
        """Return what the step of that name printed."""
        return next(item.printed for item in self.steps if item.name == step)

    def ran(self, step: str) -> bool:
        """Return whether the step of that name was carried out and succeeded."""
        return any(item.name == step and item.outcome == "success" for item in self.steps)


@dataclass
class Ran:
    """What became of the workflow: jobs by id (several of one id where there is a matrix), artifacts by name."""

    jobs: dict[str, list[Job]]
    artifacts: Path
    attested: dict[str, str]

    def job(self, name: str) -> Job:
        """Return the job with that id or name."""
        found = [job for jobs in self.jobs.values() for job in jobs if name in (job.id, job.name)]
        assert len(found) == 1, f"{name}: {[job.name for job in found]}"
        return found[0]

    @property
    def failures(self) -> str:
        """What failed, and what it printed: what a test shows that expected something else."""
        return "\n".join(
            f"--- {job.name}: {step.name}: {step.what}\n{step.printed}"
            for jobs in self.jobs.values()
            for job in jobs
            for step in job.steps
            if step.outcome == "failure"
        )

    def result(self, name: str) -> str:
        """Return how the jobs of an id ended together, as ``needs`` has it."""
        return together(self.jobs[name])


def together(jobs: Sequence[Job]) -> str:
    """Return the result of all jobs of one id: the worst that there is."""
    results = {job.result for job in jobs}
    return next(result for result in ("cancelled", "failure", "success", "skipped") if result in results)


def run(workflow: Path, repository: Path, event: Event, machine: Machine, work: Path) -> Ran:
    """Run the workflow in ``workflow`` on a commit, which is what ``repository`` has checked out."""
    return _Runner(YAML(typ="safe").load(workflow), repository, event, machine, work).run()


class _Runner:
    """One run of a workflow."""

    def __init__(
        self, workflow: Mapping[str, Any], repository: Path, event: Event, machine: Machine, work: Path
    ) -> None:
        self.workflow = workflow
        self.repository = repository
        self.event = event
        self.machine = machine
        self.work = work
        self.ran = Ran({}, work / "artifacts", {})
        self.cache = machine.cache or work / "cache"
        self.bin = _commands(work / "bin")
        sha = subprocess.run(
            ["git", "-C", str(repository), "rev-parse", "HEAD"], check=True, capture_output=True, text=True
        )
        self.github: dict[str, Any] = {
            "event_name": event.name,
            "ref": event.ref,
            "sha": sha.stdout.strip(),
            "repository": "owner/name",
            "server_url": "https://github.example",
            "run_id": "42",
            "run_attempt": "1",
            "workflow": workflow["name"],
            "token": "no-token",
            "event": event.payload,
        }
        _is_of(self._triggers(), event.name)

    def _triggers(self) -> Mapping[str, Any]:
        # YAML 1.1 reads the key as true; GitHub and YAML 1.2 do not.
        return dict(self.workflow.get("on", self.workflow.get(True)))

    def run(self) -> Ran:
        """Carry out the jobs, each after those that it needs."""
        for folder in (self.ran.artifacts, self.cache):
            folder.mkdir(parents=True, exist_ok=True)
        interpolate(self.workflow["concurrency"]["group"], self._contexts({}))
        left = dict(self.workflow["jobs"])
        while left:
            ready = [name for name in left if not set(_needs(left[name])) & left.keys()]
            assert ready, f"jobs need each other: {sorted(left)}"
            for name in ready:
                self.ran.jobs[name] = list(self._jobs(name, left.pop(name)))
        return self.ran

    def _contexts(self, more: Mapping[str, Any]) -> dict[str, Any]:
        return {"github": self.github, "inputs": self.event.inputs, "vars": {}, **more}

    def _jobs(self, name: str, job: Mapping[str, Any]) -> Iterator[Job]:
        _is_of(_JOB_KEYS, *job)
        assert "timeout-minutes" in job, f"{name} may take for ever"
        assert "permissions" in job, f"{name} has the permissions that happen to be the default"
        needs = {
            needed: {"result": self.ran.result(needed), "outputs": self._outputs(needed)} for needed in _needs(job)
        }
        contexts = self._contexts({"needs": needs})
        status = _status(lambda: all(item["result"] == "success" for item in needs.values()))
        if not holds(str(job.get("if", "success()")), contexts, status):
            # The matrix of a job that is skipped is not looked at: it may be empty, which would be an error.
            yield Job(name, str(job.get("name", name)), "skipped")
            return
        rows = [{}]
        if "strategy" in job:
            assert job["strategy"]["fail-fast"] is False
            matrix = interpolate(str(job["strategy"]["matrix"]), contexts)
            rows = matrix["include"]
            assert rows, f"{name}: GitHub takes no empty matrix"
            assert len(rows) <= 256, f"{name}: GitHub takes no matrix of {len(rows)} jobs"
        for row in rows:
            yield self._job(name, job, self._contexts({"needs": needs, "matrix": row}))

    def _outputs(self, name: str) -> dict[str, str]:
        """Return the outputs of a job that was run; of one that was skipped all are empty."""
        declared = dict.fromkeys(self.workflow["jobs"][name].get("outputs", {}), "")
        for job in self.ran.jobs[name]:
            declared.update(job.outputs)
        return declared

    def _job(self, id_: str, job: Mapping[str, Any], contexts: dict[str, Any]) -> Job:
        name = str(interpolate(str(job.get("name", id_)), contexts))
        folder = self.work / "machines" / re.sub(r"\W+", "-", name)
        ran = Job(id_, name, folder=folder / "workspace")
        (folder / "temp").mkdir(parents=True)
        (folder / "workspace").mkdir()
        self.machine.prepare(folder / "temp")
        env = {key: shown(interpolate(str(value), contexts)) for key, value in self.workflow.get("env", {}).items()}
        env |= {key: shown(interpolate(str(value), contexts)) for key, value in job.get("env", {}).items()}
        if interpolate(str(job["runs-on"]), contexts) not in self.machine.labels:
            ran.result = "failure"
            return ran
        contexts |= {"runner": {"temp": str(folder / "temp"), "os": "Linux"}, "steps": {}, "env": env}
        _Steps(self, ran, folder, contexts, env).carry_out(job["steps"])
        for key, value in job.get("outputs", {}).items():
            ran.outputs[key] = shown(interpolate(str(value), contexts))
        if "environment" in job:
            interpolate(job["environment"]["url"], contexts)
        assert sum(2 * len(value) for value in ran.outputs.values()) <= OUTPUT_BYTES
        return ran


class _Steps:
    """The steps of one job on its machine."""

    def __init__(self, runner: _Runner, job: Job, folder: Path, contexts: dict[str, Any], env: dict[str, str]) -> None:
        self.runner = runner
        self.job = job
        self.folder = folder
        self.contexts = contexts
        self.env = env
        self.path = [str(runner.bin)]

    def carry_out(self, steps: Sequence[Mapping[str, Any]]) -> None:
        for number, step in enumerate(steps):
            _is_of(_STEP_KEYS, *step)
            name = str(step.get("name", step.get("id", step.get("uses", step.get("run")))))
            if self.runner.machine.lost(self.job.name, name):
                self.job.result = "failure"
                return
            status = _status(lambda: self.job.result == "success")
            done = Step(name, str(step.get("run", step.get("uses"))), "skipped")
            outputs: dict[str, str] = {}
            if holds(str(step.get("if", "success()")), self.contexts, status):
                outputs = self._step(number, step, done)
            if "id" in step:
                self.contexts["steps"][step["id"]] = {"outputs": outputs, "outcome": done.outcome}
            if done.outcome == "failure":
                self.job.result = "failure"
            self.job.steps.append(done)

    def _step(self, number: int, step: Mapping[str, Any], done: Step) -> dict[str, str]:
        env = self.env | {
            key: shown(interpolate(str(value), self.contexts)) for key, value in step.get("env", {}).items()
        }
        if "run" in step:
            return self._command(number, step["run"], env, done)
        given = {key: shown(interpolate(shown(value), self.contexts)) for key, value in step.get("with", {}).items()}
        action, at, commit = step["uses"].partition("@")
        assert at, f"{step['uses']} is pinned to nothing"
        assert re.fullmatch(r"[0-9a-f]{40}", commit), f"{step['uses']} is pinned to no commit"
        if action not in ACTIONS:
            raise NotUnderstood(f"there is no stand-in for {action}")
        try:
            done.outcome = "success"
            return ACTIONS[action](self, given)
        except ActionFailure as failure:
            done.outcome, done.printed = "failure", str(failure)
            return {}

    def _command(self, number: int, command: str, env: Mapping[str, str], done: Step) -> dict[str, str]:
        assert "${{" not in command, f"{command!r} is put together from what others may have written"
        assert len(command.strip().splitlines()) == 1, f"{command!r} is more than one command"
        if any(re.fullmatch(pattern, command.strip()) for pattern in PREPARED):
            done.outcome = "success"
            return {}
        files = {name: self.folder / "temp" / f"{name}-{number}" for name in ("OUTPUT", "STEP_SUMMARY", "ENV", "PATH")}
        for file in files.values():
            file.touch()
        script = self.folder / "temp" / f"step-{number}.sh"
        script.write_text(command + "\n")
        ended = subprocess.run(
            [*_BASH, str(script)],
            cwd=self.job.folder,
            env=self._environment(env, files),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )
        done.outcome = "failure" if ended.returncode else "success"
        done.printed = ended.stdout
        told = files["STEP_SUMMARY"].read_bytes()
        assert len(told) <= SUMMARY_BYTES, f"a summary of {len(told)} bytes is not shown at all"
        self.job.summary += told.decode()
        self.env |= _pairs(files["ENV"])
        self.path = [*reversed(files["PATH"].read_text().splitlines()), *self.path]
        return _pairs(files["OUTPUT"])

    def _environment(self, env: Mapping[str, str], files: Mapping[str, Path]) -> dict[str, str]:
        """Return what a command finds: what a machine of GitHub has, what the workflow says, nothing of the test's."""
        base = {key: os.environ[key] for key in ("HOME", "LANG", "TMPDIR", "SSL_CERT_FILE") if key in os.environ}
        return {
            **base,
            **self.runner.machine.env,
            "PATH": os.pathsep.join([*self.path, os.environ["PATH"]]),
            "CI": "true",
            "GITHUB_ACTIONS": "true",
            "GITHUB_WORKSPACE": str(self.job.folder),
            "GITHUB_REF": self.runner.event.ref,
            "GITHUB_SHA": self.runner.github["sha"],
            "RUNNER_TEMP": str(self.folder / "temp"),
            "RUNNER_OS": "Linux",
            **{f"GITHUB_{name}": str(file) for name, file in files.items()},
            **env,
        }


# --- Stand-ins ------------------------------------------------------------------------------------------------------


class ActionFailure(Exception):
    """What would make the action fail."""


def _checkout(steps: _Steps, given: Mapping[str, str]) -> dict[str, str]:
    _is_of({"fetch-depth", "persist-credentials"}, *given)
    assert given["persist-credentials"] == "false", "the token is left where any later step can read it"
    depth = given.get("fetch-depth", "1")
    source = f"file://{steps.runner.repository}"
    subprocess.run(
        ["git", "clone", "--quiet", "--depth", depth, source, "."],
        cwd=steps.job.folder,
        check=True,
        capture_output=True,
    )
    return {}


def _setup_python(_steps: _Steps, given: Mapping[str, str]) -> dict[str, str]:
    _is_of({"python-version", "pip-version"}, *given)
    wanted = given["python-version"].split()
    assert wanted
    assert all(re.fullmatch(r"3\.\d+", version) for version in wanted), wanted
    return {"python-version": ".".join(map(str, sys.version_info[:3]))}


def _upload(steps: _Steps, given: Mapping[str, str]) -> dict[str, str]:
    _is_of({"name", "path", "if-no-files-found", "overwrite", "retention-days"}, *given)
    name = given["name"]
    assert not set(name) & set('":<>|*?\r\n\\/'), f"GitHub takes no artifact called {name!r}"
    place = steps.runner.ran.artifacts / name
    if place.exists():
        if given.get("overwrite") != "true":
            raise ActionFailure(f"there is an artifact {name}, and artifacts are not changed")
        shutil.rmtree(place)
    found = list(_found(steps.job.folder, given["path"]))
    if not found:
        if given.get("if-no-files-found", "warn") == "error":
            raise ActionFailure(f"no files at {given['path']}")
        return {}
    for file, inside in found:
        (place / inside).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place / inside)
    return {}


def _found(folder: Path, paths: str) -> Iterator[tuple[Path, Path]]:
    """Yield the files at a path, a folder or a glob, and what each is called in the artifact."""
    (path,) = paths.split()
    if (folder / path).is_dir():
        yield from (
            (file, file.relative_to(folder / path)) for file in sorted((folder / path).rglob("*")) if file.is_file()
        )
        return
    yield from ((file, Path(file.name)) for file in sorted(folder.glob(path)) if file.is_file())


def _download(steps: _Steps, given: Mapping[str, str]) -> dict[str, str]:
    _is_of({"name", "pattern", "path", "merge-multiple"}, *given)
    place = steps.job.folder / given.get("path", ".")
    artifacts = sorted(steps.runner.ran.artifacts.iterdir())
    if "name" in given:
        (found,) = [item for item in artifacts if item.name == given["name"]] or [None]
        if found is None:
            raise ActionFailure(f"there is no artifact {given['name']}")
        shutil.copytree(found, place, dirs_exist_ok=True)
        return {}
    for item in artifacts:
        if fnmatch.fnmatchcase(item.name, given["pattern"]):
            inside = place if given.get("merge-multiple") == "true" else place / item.name
            shutil.copytree(item, inside, dirs_exist_ok=True)
    return {}


def _restore(steps: _Steps, given: Mapping[str, str]) -> dict[str, str]:
    _is_of({"path", "key"}, *given)
    kept = steps.runner.cache / _key(given)
    if not kept.is_dir():
        return {"cache-hit": ""}
    for number, path in enumerate(given["path"].split()):
        shutil.copytree(kept / str(number), path, dirs_exist_ok=True)
    return {"cache-hit": "true"}


def _save(steps: _Steps, given: Mapping[str, str]) -> dict[str, str]:
    _is_of({"path", "key"}, *given)
    kept = steps.runner.cache / _key(given)
    if kept.exists():
        raise ActionFailure(f"there is a cache {given['key']}, and caches are not changed")
    for number, path in enumerate(given["path"].split()):
        shutil.copytree(path, kept / str(number))
    return {}


def _key(given: Mapping[str, str]) -> str:
    return hashlib.sha256(given["key"].encode()).hexdigest()


def _upload_pages(steps: _Steps, given: Mapping[str, str]) -> dict[str, str]:
    _is_of({"path"}, *given)
    source = steps.job.folder / given["path"]
    assert (source / "index.html").is_file(), "a site begins with its index.html"
    assert not [item for item in source.rglob("*") if item.is_symlink()], "Pages takes no links"
    shutil.copytree(source, steps.runner.ran.artifacts / "github-pages")
    return {}


def _deploy_pages(steps: _Steps, given: Mapping[str, str]) -> dict[str, str]:
    _is_of(set(), *given)
    source = steps.runner.ran.artifacts / "github-pages"
    if not source.is_dir():
        raise ActionFailure("there is no artifact github-pages")
    shutil.copytree(source, steps.runner.work / "pages")
    return {"page_url": "https://owner.github.example/name/"}


def _attest(steps: _Steps, given: Mapping[str, str]) -> dict[str, str]:
    _is_of({"subject-path"}, *given)
    for path in given["subject-path"].split():
        file = steps.job.folder / path
        if not file.is_file():
            raise ActionFailure(f"there is no file {path}")
        steps.runner.ran.attested[path] = hashlib.sha256(file.read_bytes()).hexdigest()
    return {}


ACTIONS: dict[str, Callable[[_Steps, Mapping[str, str]], dict[str, str]]] = {
    "actions/checkout": _checkout,
    "actions/setup-python": _setup_python,
    "actions/upload-artifact": _upload,
    "actions/download-artifact": _download,
    "actions/cache/restore": _restore,
    "actions/cache/save": _save,
    "actions/upload-pages-artifact": _upload_pages,
    "actions/deploy-pages": _deploy_pages,
    "actions/attest": _attest,
}


# --- Small parts ----------------------------------------------------------------------------------------------------


def _is_of(known: Any, *names: str) -> None:
    strange = [name for name in names if name not in known]
    if strange:
        raise NotUnderstood(f"{', '.join(map(str, strange))}: expected some of {', '.join(sorted(map(str, known)))}")


def _needs(job: Mapping[str, Any]) -> list[str]:
    needs = job.get("needs", [])
    return [needs] if isinstance(needs, str) else list(needs)


def _status(succeeded: Callable[[], bool]) -> dict[str, Callable[[], bool]]:
    return {
        "success": succeeded,
        "failure": lambda: not succeeded(),
        "always": lambda: True,
        "cancelled": lambda: False,
    }


def _pairs(file: Path) -> dict[str, str]:
    """Return what a command wrote into a file of ``NAME=VALUE`` lines."""
    pairs: dict[str, str] = {}
    for line in file.read_text().splitlines():
        name, sign, value = line.partition("=")
        assert sign, f"{line!r} is no NAME=VALUE"
        pairs[name] = value
    return pairs


def _commands(folder: Path) -> Path:
    """Return a folder with the command ``portmatrix`` of the interpreter that runs the tests."""
    folder.mkdir(parents=True, exist_ok=True)
    command = folder / "portmatrix"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "from portmatrix.cli import main; main()" "$@"\n')
    command.chmod(0o755)
    return folder
