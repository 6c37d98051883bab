"""The jobs of a matrix on GitHub Actions: which cells run where, what each job needs there, and what became of them.

A plan of jobs is made once and kept in a file. The jobs themselves are told their names only: what GitHub takes of a
job's output is small, and a cell must not be lost between what was planned and what was done.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from packaging.specifiers import SpecifierSet
from pydantic import Field, ValidationError

from portmatrix import __version__
from portmatrix.affected import EVERYTHING, Uses, globs_of
from portmatrix.errors import UserError, nearest
from portmatrix.export import Recipe
from portmatrix.plan import Plan, Selection
from portmatrix.plugins import EnvironmentSpec, Exporter, Runtime, Target
from portmatrix.recording import now
from portmatrix.records import not_run
from portmatrix.render.text import markdown, one_line
from portmatrix.store import digest_of
from portmatrix.suite import SPEC, Suite, here
from portmatrix.types import CellId, Frozen, Outcome, PathKind, Reach, Record, Stage

#: Jobs that GitHub takes in one matrix.
MATRIX_JOBS = 256
#: Characters of all outputs of a job that GitHub takes: 1 MB, which it counts in UTF-16.
OUTPUT_CHARACTERS = 500_000
#: Rows of one table of a job summary.
SUMMARY_ROWS = 300
#: Cells of one job, where there is no need of larger ones: half an hour, most of it spent on environments.
JOB_CELLS = 600
#: By how much cells take longer where a processor is emulated, as the targets say.
EMULATED = 5
#: The interpreters that GitHub has for all systems, newest first. A job gets the fewest that its environments need.
PYTHONS = ("3.14", "3.13", "3.12", "3.11")
#: What the engine itself runs on where no environment asks for anything.
OWN_PYTHON = "3.13"
#: The label of runners that are not GitHub's: nothing is known of what they are.
SELF_HOSTED = "self-hosted"


class ExportJob(Frozen):
    """Trains and exports what the planned cells of one framework need.

    ``python`` names interpreters, one a line. ``container`` is the Dockerfile that makes the environment, if no
    interpreter of GitHub's does. ``recipes`` changes with anything that the bundles of the framework are made from.
    """

    name: str
    runner: str
    python: str
    container: str
    recipes: str
    bundles: int


class RunJob(Frozen):
    """Runs cells on one target, or a part of its cells.

    ``reach`` is how the target is reached on the ``runner``, and ``needs`` what has to be installed there first: groups
    of ``scripts/setup-linux-targets``, parted by spaces.
    """

    name: str
    title: str
    target: str
    runner: str
    reach: Reach
    needs: str
    python: str
    cells: tuple[str, ...]


class Jobs(Frozen):
    """A plan of jobs. ``whole`` says whether it is all that belongs to the matrix; ``why`` what it is, in words.

    ``unhosted`` maps targets that no runner of GitHub's reaches to their cells; ``broken`` are the records of plug-ins
    that cannot be used.
    """

    schema_version: Literal[1] = 1
    why: str
    whole: bool
    exports: tuple[ExportJob, ...]
    runs: tuple[RunJob, ...]
    unhosted: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    broken: tuple[Record, ...] = ()

    @property
    def cells(self) -> int:
        """How many cells the jobs have."""
        return sum(len(job.cells) for job in self.runs)


class Asked(NamedTuple):
    """What the jobs are for: all that belongs to the matrix or not, and in words."""

    whole: bool
    why: str


def asked(selection: Selection, touched: Mapping[str, Sequence[str]] | None) -> Asked:
    """Return what a selection asks for, of that which changed files can affect (None: nobody asked for changes)."""
    some = " ".join([*selection.take, *(f"--skip {glob}" for glob in selection.leave)])
    if touched is None:
        return Asked(not some, f"what is selected: {some}" if some else "all that belongs to the matrix")
    matters = [file for file, globs in touched.items() if globs]
    changed = f"{len(matters)} of {len(touched)} changed files can affect cells"
    if globs_of(touched) == EVERYTHING:
        all_of = next(file for file, globs in touched.items() if EVERYTHING[0] in globs)
        changed += f", {all_of} all of them"
    return Asked(not some and globs_of(touched) == EVERYTHING, f"{changed}; of {some}" if some else changed)


# --- The plan -------------------------------------------------------------------------------------------------------


def jobs_of(suite: Suite, planned: Plan, asked: Asked, broken: Iterable[Record] = ()) -> Jobs:
    """Return the jobs that try the planned cells, those that the suite excludes among them.

    Models are trained on the runner of the target that this machine is. Raises ``UserError`` where no target is it, or
    the cells cannot be parted into as many jobs as GitHub takes.
    """
    by_target: dict[str, list[CellId]] = {}
    for cell in (*planned.cells, *(item.cell for item in planned.left_out)):
        by_target.setdefault(cell.target, []).append(cell)
    targets = suite.plugins.targets
    unhosted = {name: by_target.pop(name) for name in list(by_target) if targets[name].runner == SELF_HOSTED}
    wanted = sorted({cell.framework for cells in by_target.values() for cell in cells})
    return Jobs(
        why=asked.why,
        whole=asked.whole,
        exports=tuple(_export_job(suite, framework, by_target.values()) for framework in wanted),
        runs=tuple(_run_jobs(suite, by_target)),
        unhosted={name: tuple(map(str, cells)) for name, cells in unhosted.items()},
        broken=tuple(broken),
    )


def _export_job(suite: Suite, framework: str, cells: Iterable[Sequence[CellId]]) -> ExportJob:
    home = suite.plugins.targets.get(here(suite))
    if home is None:
        raise UserError(f"no target of the suite is this machine, {here(suite)}: nothing says on which runner to train")
    exporter = suite.plugins.exporters[framework]
    bundles = {(cell.model, cell.path) for some in cells for cell in some if cell.framework == framework}
    spec = exporter.environment
    return ExportJob(
        name=framework,
        runner=home.runner,
        python=_python_lines([*exporter.environments.values(), *_reducing(suite, exporter)]),
        container="" if _hosted(spec) else spec.container,
        recipes=_recipes(suite, exporter),
        bundles=len(bundles),
    )


def _reducing(suite: Suite, exporter: Exporter) -> list[EnvironmentSpec]:
    """Return the environments in which paths of a framework are reduced in precision."""
    names = {path.reducer for path in exporter.paths.values() if path.reducer}
    return [suite.plugins.reducers[name].environment for name in sorted(names)]


def _recipes(suite: Suite, exporter: Exporter) -> str:
    """Return a digest of all that the bundles of a framework are made from, as far as the suite says it."""
    environments = {name: digest_of(spec.model_dump(mode="json")) for name, spec in exporter.environments.items()}
    dockerfile = exporter.environment.dockerfile
    image = digest_of(dockerfile.read_text(encoding="utf-8")) if dockerfile else ""
    data = suite.plugins.data
    digests = [
        Recipe(exporter.of(path), model, path, reads, data.get(reads.data or ""), suite.spec.bundle).digest(
            environments[way.environment]
        )
        for model, reads in suite.spec.models.items()
        for path, way in exporter.paths.items()
    ]
    return digest_of([__version__, image, digests])[:32]


def _run_jobs(suite: Suite, by_target: Mapping[str, Sequence[CellId]]) -> Iterator[RunJob]:
    targets = suite.plugins.targets
    slices = _slices({name: (len(cells), _cost(targets[name])) for name, cells in by_target.items()})
    for name, cells in by_target.items():
        target, count = targets[name], slices[name]
        # Each environment is built by each job that has cells of it: cells of one runtime stay together.
        ordered = sorted(cells, key=lambda cell: (cell.runtime, cell))
        size = math.ceil(len(ordered) / count)
        for number in range(count):
            part = ordered[number * size : (number + 1) * size]
            yield RunJob(
                name=f"{name}-{number + 1}" if count > 1 else name,
                title=f"{name} ({number + 1} of {count})" if count > 1 else name,
                target=name,
                runner=target.runner,
                reach=target.runner_reach,
                needs=" ".join(target.runner_needs),
                python=_python_lines(_environments(suite, part)),
                cells=tuple(map(str, part)),
            )


def _cost(target: Target) -> int:
    return EMULATED if target.runner_reach is Reach.EMULATED else 1


def _slices(
    targets: Mapping[str, tuple[int, int]], limit: int = MATRIX_JOBS, size: float = JOB_CELLS
) -> dict[str, int]:
    """Return for each target, given as its number of cells and what one costs, into how many jobs these are parted.

    Together they are no more than ``limit``, to which jobs grow beyond ``size`` if need be. No job is empty.
    """
    if len(targets) > limit:
        raise UserError(f"{len(targets)} targets need as many jobs, and GitHub takes {limit}; select some of them")
    while True:
        found = {name: _parts(cells, math.ceil(cells * cost / size)) for name, (cells, cost) in targets.items()}
        if sum(found.values()) <= limit:
            return found
        size *= 1.25


def _parts(cells: int, wanted: int) -> int:
    """Return how many parts of equal size there are if ``cells`` are parted into at most ``wanted``, none empty."""
    return math.ceil(cells / math.ceil(cells / max(1, wanted)))


def _environments(suite: Suite, cells: Iterable[CellId]) -> list[EnvironmentSpec]:
    """Return the environments of the runtimes that the cells need, those of referees among them."""
    names = {cell.runtime for cell in cells} | set(suite.spec.referees.values())
    runtimes = suite.plugins.runtimes
    return [runtimes[name].environment for name in sorted(names) if name in runtimes]


def _hosted(spec: EnvironmentSpec) -> list[str]:
    return [version for version in PYTHONS if spec.interpreter and SpecifierSet(spec.python).contains(version)]


def _python_lines(specs: Iterable[EnvironmentSpec]) -> str:
    """Return interpreters as the action that installs them takes them: one a line, the engine's own last."""
    return "\n".join(reversed(pythons(specs)))


def pythons(specs: Iterable[EnvironmentSpec]) -> list[str]:
    """Return the fewest of ``PYTHONS`` that have one for each of the environments that any of them can make.

    The first is the one for most of them, and the engine's own.
    """
    left = [versions for versions in map(_hosted, specs) if versions]
    found: list[str] = []
    while left:
        best = max(PYTHONS, key=lambda version: sum(version in versions for versions in left))
        left = [versions for versions in left if best not in versions]
        found.append(best)
    return found or [OWN_PYTHON]


# --- What rests on which file ---------------------------------------------------------------------------------------


def uses_of(suite: Suite, repository: Path) -> Uses:
    """Return what rests on which file of a suite that is in a checkout; raises ``UserError`` if it is in another."""
    if not suite.root.is_relative_to(repository):
        raise UserError(f"the suite {suite.root} is not in the checkout {repository}: what has changed cannot be told")
    files: dict[str, list[str]] = {}
    for file, globs in _rests_on(suite):
        if file is not None and file.is_relative_to(repository):
            files.setdefault(file.relative_to(repository).as_posix(), []).extend(globs)
    inside = PurePosixPath(suite.root.relative_to(repository).as_posix())
    return Uses(
        files=files,
        folder="" if inside == PurePosixPath() else str(inside),
        archive=str(inside / "archive"),
        derived={
            (exporter.name, source): list(_made_of(exporter, source))
            for exporter in suite.plugins.exporters.values()
            for source in exporter.paths
        },
        elsewhere=frozenset(_elsewhere(suite.root, repository)),
    )


def _rests_on(suite: Suite) -> Iterator[tuple[Path | None, Sequence[str]]]:
    """Yield each file of a plug-in, where it has one, with globs over the cells that rest on it."""
    plugins = suite.plugins
    for exporter in plugins.exporters.values():
        for file in (exporter.file, *(environment.dockerfile for environment in exporter.environments.values())):
            yield file, [f"{exporter.name}/*/*/*/*"]
    for reducer in plugins.reducers.values():
        yield reducer.file, [f"*/*/*+{precision.value}/*/*" for precision in reducer.precisions]
    for runtime in plugins.runtimes.values():
        globs = [f"*/*/*/{runtime.name}/*", *_judged(suite, runtime)]
        for file in (runtime.file, runtime.program, runtime.environment.dockerfile):
            yield file, globs
    # What makes the images that other targets' workers run in, ``run.Dockerfile``, is left to matter to everything.
    for target in plugins.targets.values():
        yield target.file, [f"*/*/*/*/{target.name}"]
    for data in plugins.data.values():
        readers = [f"*/{model}/*/*/*" for model, reads in suite.spec.models.items() if reads.data == data.name]
        for file in (data.file, *data.files):
            yield file, readers


def _made_of(exporter: Exporter, source: str) -> Iterator[str]:
    """Yield the paths whose artifacts are made of that of ``source``, and those made of them in turn."""
    for path, declared in exporter.paths.items():
        if declared.source == source:
            yield path
            yield from _made_of(exporter, path)


def _judged(suite: Suite, runtime: Runtime) -> Iterator[str]:
    """Yield globs over the cells of which a runtime decides who is to blame if they fail."""
    formats = {form for form, name in suite.spec.referees.items() if name == runtime.name}
    for exporter in suite.plugins.exporters.values():
        for path, declared in exporter.paths.items():
            if declared.kind is PathKind.ONNX and declared.format in formats:
                yield f"{exporter.name}/*/{path}/*/*"


def _elsewhere(root: Path, repository: Path) -> Iterator[str]:
    """Yield the folders of other suites in the checkout, unless ours lies in them."""
    for spec in repository.glob(f"*/**/{SPEC}"):
        if not root.is_relative_to(spec.parent):
            yield spec.parent.relative_to(repository).as_posix()


# --- The file and what GitHub is told -------------------------------------------------------------------------------


def read(file: Path) -> Jobs:
    """Return the plan of jobs in a file; raises ``UserError`` for anything else."""
    try:
        return Jobs.model_validate_json(file.read_bytes())
    except OSError as error:
        raise UserError(
            f"{file}: {error.strerror}; `portmatrix plan --format github --output {file}` makes it"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{file} is no plan of jobs: {where}: {first['msg']}") from error


def outputs(jobs: Jobs) -> list[str]:
    """Return the lines for ``$GITHUB_OUTPUT``: both matrices, and how many jobs each has (an empty one is an error).

    Raises ``UserError`` where GitHub would not take them.
    """
    exports = [job.model_dump(mode="json") for job in jobs.exports]
    runs = [{**job.model_dump(mode="json", exclude={"cells"}), "cells": len(job.cells)} for job in jobs.runs]
    found = {
        "export": {"include": exports},
        "exports": len(exports),
        "run": {"include": runs},
        "runs": len(runs),
        "cells": jobs.cells,
        "whole": jobs.whole,
    }
    lines = [f"{name}={json.dumps(value, separators=(',', ':'))}" for name, value in found.items()]
    total = sum(map(len, lines))
    if total > OUTPUT_CHARACTERS:
        raise UserError(f"the jobs are {total:,} characters of output, and GitHub takes {OUTPUT_CHARACTERS:,}")
    return lines


def summary(jobs: Jobs, touched: Mapping[str, Sequence[str]]) -> str:
    """Return Markdown that says what is planned, and what changed files were taken for; far under 1 MiB in size."""
    lines = [f"## Planned: {jobs.cells:,} cells in {len(jobs.runs)} jobs", "", f"{markdown(one_line(jobs.why))}.", ""]
    rows = [(job.title, str(len(job.cells)), job.runner, job.reach.value) for job in jobs.runs]
    lines += _table(("job", "cells", "runner", "reach"), rows)
    files = [(file, "; ".join(globs) if globs else "no cell") for file, globs in touched.items()]
    lines += _table(("changed file", "can affect"), files)
    hosted = [(target, str(len(cells))) for target, cells in jobs.unhosted.items()]
    lines += _table(("on no runner of GitHub's", "cells"), hosted)
    return "\n".join(lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table of at most ``SUMMARY_ROWS`` rows, and how many more there are."""
    if not rows:
        return
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    for row in rows[:SUMMARY_ROWS]:
        yield f"| {' | '.join(markdown(one_line(field)) for field in row)} |"
    yield f"\n{len(rows) - SUMMARY_ROWS:,} more rows are left out.\n" if len(rows) > SUMMARY_ROWS else ""


def cells_of(jobs: Jobs, name: str) -> tuple[str, ...]:
    """Return the cells of the job of that name: one that runs them, or one that exports what they need.

    Raises ``UserError`` for a name that no job has.
    """
    for job in jobs.runs:
        if job.name == name:
            return job.cells
    if any(item.name == name for item in jobs.exports):
        return tuple(cell for job in jobs.runs for cell in job.cells if CellId.parse(cell).framework == name)
    names = [*(item.name for item in jobs.exports), *(job.name for job in jobs.runs)]
    raise UserError(f"the plan has no job {name!r}; expected one of {', '.join(names) or 'none'}{nearest(name, names)}")


# --- What became of it ----------------------------------------------------------------------------------------------


def strangers(suite: Suite, cells: Iterable[str], run: str) -> list[Record]:
    """Return the ERROR records of cells that were planned and do not exist in the suite as it loads here."""
    why: dict[tuple[str, str], str] = {(item.kind, item.name): item.why for item in suite.plugins.broken}
    return [_stranger(CellId.parse(cell), why, run) for cell in cells]


def _stranger(cell: CellId, why: Mapping[tuple[str, str], str], run: str) -> Record:
    broken = [
        why[kind, name]
        for kind, name in (("exporter", cell.framework), ("runtime", cell.runtime), ("target", cell.target))
        if (kind, name) in why
    ]
    reason = "; ".join(broken) or "it was planned, and there is no such cell in the suite here"
    return Record(
        cell=str(cell),
        outcome=Outcome.ERROR,
        stage=Stage.PLAN,
        reason=reason,
        run=run,
        started=now(),
        engine=__version__,
    )


def missing(jobs: Jobs, known: Callable[[str], bool], link: str) -> Iterator[Record]:
    """Yield a record for every planned cell that is not ``known`` to have one: NOT_RUN, and where to look why.

    ``link`` leads to the run of the workflow; it may be empty.
    """
    behind = f": {link}" if link else ""
    for record in jobs.broken:
        if not known(record.cell):
            yield record
    for job in jobs.runs:
        why = f"the job {job.title!r} ended without a record of it{behind}"
        yield from (not_run(cell, why, run="-") for cell in job.cells if not known(cell))
    for target, cells in jobs.unhosted.items():
        why = f"{target} is on no runner of GitHub's"
        yield from (not_run(cell, why, run="-") for cell in cells if not known(cell))
