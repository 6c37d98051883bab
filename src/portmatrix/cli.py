"""The command line. Each command reads from top to bottom as its data flows; only this module ends the process."""

from __future__ import annotations

import gc
import json
import os
import platform
import sys
import tempfile
import traceback
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from urllib.parse import quote

import typer
from rich.console import Console
from rich.table import Table

from portmatrix import (
    __version__,
    advice,
    affected,
    containers,
    diff,
    environments,
    filesets,
    locations,
    matrix,
    parcels,
    parquet,
    programs,
    recording,
    records,
    regression,
    schemas,
    sources,
    workers,
)
from portmatrix import archive as archives
from portmatrix import jobs as parting
from portmatrix import measure as measuring
from portmatrix import plan as planning
from portmatrix import suite as suites
from portmatrix.arithmetic import work_out
from portmatrix.errors import EnvironmentFailure, NothingSelected, PortmatrixError, StoreError, UserError
from portmatrix.export import Bundle
from portmatrix.globs import Globs
from portmatrix.history import adding, columns, plot, queries
from portmatrix.history import report as history_report
from portmatrix.history.place import Place, default_place
from portmatrix.history.recent import recent
from portmatrix.matrix import MatrixRun, Options
from portmatrix.plan import Plan, Selection
from portmatrix.plugins import EnvironmentSpec, NoWay, Target
from portmatrix.pool import processors
from portmatrix.progress import Lines, display
from portmatrix.rate import Rating, rate
from portmatrix.records import Journal, ResultSet
from portmatrix.render import annotations as annotating
from portmatrix.render import (
    badges,
    changes,
    explanation,
    junit,
    latencies,
    readme,
    sarif,
    summary,
    terminal,
    workings,
)
from portmatrix.render.table import urgency
from portmatrix.site.page import HISTORY, Context
from portmatrix.starter import write_starter
from portmatrix.store import Store, default_root, write_whole
from portmatrix.suite import Suite
from portmatrix.types import UNEXPECTED, UNKNOWN, WORKING, CellId, Outcome, Reach, Record, Stage
from portmatrix.workers import Failure

app = typer.Typer(
    name="portmatrix",
    help="Where can a trained model be deployed, does it still give the same answers there, and how fast is it?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
history_app = typer.Typer(help="Records of many runs: put in, asked for, taken out.", no_args_is_help=True)
app.add_typer(history_app, name="history")
console = Console()
#: The exit status of a process that ^C ended.
INTERRUPTED = 130
#: As many workers as there are processors for this process, but no more than memory is likely to hold.
JOBS = min(8, processors())
#: Cells that work by their records, and are run to see whether they do, before advice is given up.
TRIES = 3

SuiteOption = Annotated[
    Path | None,
    typer.Option(
        "--suite", envvar="PORTMATRIX_SUITE", help="Folder with the matrix.yaml; else the nearest one upwards."
    ),
]
StoreOption = Annotated[Path | None, typer.Option("--store", help="Where environments and bundles are kept.")]
GlobsArgument = Annotated[
    list[str] | None, typer.Argument(help="Globs over cell ids; '*' also spans '/', '{a,b}' is a or b.")
]
SkipOption = Annotated[list[str] | None, typer.Option("--skip", help="Globs over cell ids to leave out.")]
ArchivedOption = Annotated[
    bool, typer.Option("--archived", help="Take from the archive what it has, and train only the rest.")
]
ShardOption = Annotated[str, typer.Option("--shard", help="i/n: the i-th of n parts; trained models are not split.")]
JobsOption = Annotated[int, typer.Option("--jobs", "-j", min=1, help="How many workers at once.")]
ReachOption = Annotated[
    Reach | None, typer.Option("--reach", help="Reach targets in this way only; else in the best that there is.")
]
FullOption = Annotated[
    bool, typer.Option("--full", help="Take all cells that `pairwise` in matrix.yaml makes a choice of.")
]
FilesArgument = Annotated[list[Path], typer.Argument(help="Records (JSON lines), in any order.")]
PlannedOption = Annotated[
    Path | None, typer.Option("--planned", help="A plan of jobs, as `plan --format github --output` writes it.")
]
JobOption = Annotated[str | None, typer.Option("--job", help="The job of that plan whose cells are meant.")]
RecordedOption = Annotated[bool, typer.Option("--recorded-only", help="Leave out cells that no record was given of.")]

PlaceOption = Annotated[
    str | None,
    typer.Option("--history", envvar="PORTMATRIX_HISTORY", help="Its folder or URL (s3://…); else beside the store."),
]
SinceOption = Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help="From this day on, in UTC.")]
UntilOption = Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Up to this day, in UTC.")]


def _suite(named: Path | None, reach: Reach | None = None) -> Suite:
    return suites.load(suites.find_root(Path.cwd(), named), reach)


def _store(named: Path | None) -> Store:
    return Store(named or default_root())


def _selection(
    globs: Sequence[str] | None, skip: Sequence[str] | None, shard: str = "1/1", *, full: bool = False
) -> Selection:
    return Selection(tuple(globs or ()), tuple(skip or ()), planning.parse_shard(shard), full)


def _plan(suite: Suite, selection: Selection, *, allow_empty: bool = False) -> Plan:
    """Return the plan of a run on this machine; an empty one only where that is allowed, or something is broken."""
    try:
        return planning.plan(suites.axes(suite), suites.exclusions(suite), selection)
    except NothingSelected:
        if allow_empty or _broken(suite, selection):
            return Plan([], [])
        raise


def _chosen(
    suite: Suite, selection: Selection, planned: Path | None, job: str | None, *, allow_empty: bool = False
) -> tuple[Plan, list[str]]:
    """Return the plan of a run, or of one job of a plan of jobs; and what that has planned and does not exist here."""
    if planned is None and job is None:
        return _plan(suite, selection, allow_empty=allow_empty), []
    if planned is None or job is None or selection != Selection():
        raise UserError("--planned FILE and --job NAME belong together, and leave no room for globs, --skip or --shard")
    cells = parting.cells_of(parting.read(planned), job)
    return planning.exactly(suites.axes(suite), suites.exclusions(suite), cells)


def _broken(suite: Suite, selection: Selection, run: str = "-") -> list[Record]:
    return matrix.broken_records(suite, Globs(selection.take) if selection.take else None, run)


def _everywhere(suite: Suite) -> Iterable[str]:
    """Yield every cell id that belongs to the matrix, on every target: what nobody tried shows as NOT_RUN."""
    return ("/".join(cell) for cell in planning.belonging(suites.axes(suite, everywhere=True)))


class _Results(NamedTuple):
    """What is shown of records: the standing ones by cell, what ratings rest on, and the ratings."""

    shown: ResultSet
    evidence: list[Record]
    ratings: tuple[Rating, ...]


def _results(suite: Suite, found: Sequence[Record], *, recorded_only: bool = False) -> _Results:
    everywhere = list(_everywhere(suite))
    shown = ResultSet(found, () if recorded_only else everywhere)
    evidence = _evidence(everywhere, found)
    return _Results(shown, evidence, rate(evidence, suite.spec.ratings))


def _evidence(everywhere: Iterable[str], found: Sequence[Record]) -> list[Record]:
    """Return what ratings rest on: all records, since those of one cell may be repeats, and NOT_RUN for the others."""
    known = {record.cell for record in found}
    unknown = (cell for cell in everywhere if cell not in known)
    return [*found, *(records.not_run(cell, "no record of this cell", run="-") for cell in unknown)]


def _read(files: Iterable[Path]) -> list[Record]:
    # Many records have millions of parts and no cycles: to look for some takes three times as long as to read them.
    gc.disable()
    try:
        return [record for file in files for record in records.read(file)]
    finally:
        gc.freeze()
        gc.enable()


# --- Commands -------------------------------------------------------------------------------------------------------


class Format(str, Enum):
    """How a plan is given."""

    TABLE = "table"
    JSON = "json"
    GITHUB = "github"


@app.command()
def plan(
    globs: Annotated[
        list[str] | None,
        typer.Argument(envvar="PORTMATRIX_CELLS", help="Globs over cell ids; '*' also spans '/', '{a,b}' is a or b."),
    ] = None,
    skip: SkipOption = None,
    shard: ShardOption = "1/1",
    full: FullOption = False,
    since: Annotated[
        str | None,
        typer.Option("--since", envvar="PORTMATRIX_SINCE", help="Only what files changed since a git revision affect."),
    ] = None,
    changed: Annotated[
        list[str] | None, typer.Option("--changed", help="A file that has changed; may be repeated.")
    ] = None,
    reach: ReachOption = None,
    form: Annotated[Format, typer.Option("--format", help="'github' is the jobs of a matrix, for $GITHUB_OUTPUT.")] = (
        Format.TABLE
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Short for --format json.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Of --format github: the plan of jobs, with their cells.")
    ] = None,
    summary_file: Annotated[
        Path | None, typer.Option("--summary", help="Of --format github: Markdown for a GitHub job summary.")
    ] = None,
    suite: SuiteOption = None,
) -> None:
    """Show which cells would be run, and which would not, and why; or part them into jobs."""
    loaded = _suite(suite, reach)
    selection = _selection(globs, skip, shard, full=full)
    touched = _touched(loaded, since, changed)
    if form is Format.GITHUB:
        _plan_jobs(loaded, selection, touched, output, summary_file)
        return
    planned = _only(_plan(loaded, selection), touched)
    if as_json or form is Format.JSON:
        left_out = [{"cell": str(item.cell), "why": item.why} for item in planned.left_out]
        typer.echo(json.dumps({"cells": [str(cell) for cell in planned.cells], "left_out": left_out}, indent=1))
        return
    _print_plan(loaded, selection, planned)


def _print_plan(suite: Suite, selection: Selection, planned: Plan) -> None:
    table = Table("framework", "path", "runtime", "target", "models", title=f"{len(planned.cells)} cells")
    counted = Counter((cell.framework, cell.path, cell.runtime, cell.target) for cell in planned.cells)
    for key, count in counted.items():
        table.add_row(*key, str(count))
    console.print(table)
    for item in planned.left_out:
        console.print(f"left out: {item.cell}: {item.why}", markup=False)
    for framework, path, form in suites.untaken(suite):
        console.print(f"no runtime takes {form}: {framework}/*/{path} has no cells", markup=False)
    for name, target in suite.plugins.targets.items():
        if target.is_static:
            console.print(f"looked up only: {name}: {target.missing[-1].why}", markup=False)
    for record in _broken(suite, selection):
        console.print(f"broken: {record.cell}: {record.reason}", markup=False)


def _touched(suite: Suite, since: str | None, changed: Sequence[str] | None) -> dict[str, tuple[str, ...]] | None:
    """Return what each changed file can affect, as globs over cells; None where nobody asked for changes."""
    if since is None and not changed:
        return None
    repository = diff.repository_of(suite.root) if since is not None else _own_repository(suite)
    files = [*(changed or ()), *(diff.changed_since(repository, since) if since is not None else ())]
    return affected.affected(files, parting.uses_of(suite, repository))


def _own_repository(suite: Suite) -> Path:
    """Return the checkout that a suite is in, or its own folder where it is in none."""
    try:
        return diff.repository_of(suite.root)
    except UserError:
        return suite.root


def _only(planned: Plan, touched: dict[str, tuple[str, ...]] | None) -> Plan:
    if touched is None:
        return planned
    globs = Globs(affected.globs_of(touched))
    return Plan(
        [cell for cell in planned.cells if cell in globs], [item for item in planned.left_out if item.cell in globs]
    )


def _plan_jobs(
    suite: Suite,
    selection: Selection,
    touched: dict[str, tuple[str, ...]] | None,
    output: Path | None,
    summary_file: Path | None,
) -> None:
    """Part what belongs to the matrix, wherever it runs, into jobs; the lines for GitHub go to standard output."""
    if selection.shard != (1, 1):
        raise UserError("--shard is for runs; jobs are parted by themselves")
    planned = planning.plan(suites.axes(suite, everywhere=True), suites.exclusions(suite), selection)
    made = parting.jobs_of(suite, _only(planned, touched), parting.asked(selection, touched), _broken(suite, selection))
    lines = parting.outputs(made)
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_whole(output, made.model_dump_json(indent=1, exclude_defaults=True) + "\n")
    if summary_file:
        write_whole(summary_file, parting.summary(made, touched or {}))
    typer.echo("\n".join(lines))
    typer.echo(f"{made.cells:,} cells in {len(made.runs)} jobs: {made.why}", err=True)


@app.command("list")
def list_(
    what: Annotated[
        str, typer.Argument(help="models, frameworks, paths, runtimes, targets, data or cells.")
    ] = "frameworks",
    suite: SuiteOption = None,
) -> None:
    """List what the suite has: one name a line, with what there is to say of it."""
    loaded = _suite(suite)
    plugins = loaded.plugins
    listed: dict[str, Callable[[], Iterable[str]]] = {
        "models": lambda: (
            f"{name}\treads {model.data}/{model.view}" if model.data else name
            for name, model in loaded.spec.models.items()
        ),
        "frameworks": lambda: (f"{name}\t{', '.join(item.paths)}" for name, item in plugins.exporters.items()),
        "paths": lambda: (
            f"{name}/{path}\t{declared.kind.value}, {declared.format}, {declared.batch.value} batch"
            for name, item in plugins.exporters.items()
            for path, declared in item.paths.items()
        ),
        "runtimes": lambda: (f"{name}\t{', '.join(item.formats)}" for name, item in plugins.runtimes.items()),
        "targets": lambda: (f"{name}\t{_reached(item)}" for name, item in plugins.targets.items()),
        "data": lambda: (f"{name}\t{', '.join(item.views)}" for name, item in plugins.data.items()),
        "cells": lambda: _everywhere(loaded),
    }
    if what not in listed:
        raise UserError(f"list has no {what!r}; expected one of {', '.join(listed)}")
    for line in listed[what]():
        typer.echo(line)


def _reached(target: Target) -> str:
    """Return how a target is reached, in a few words; if not at all, why."""
    way = target.way
    if target.is_static or isinstance(way, NoWay):
        return f"static: {target.missing[-1].why}"
    by = f", {way.emulator}" if way.emulator else ""
    return way.reach.value if way.place == "machine" else f"{way.reach.value}: {way.place}{by}"


@app.command()
def export(
    globs: GlobsArgument = None,
    skip: SkipOption = None,
    shard: ShardOption = "1/1",
    full: FullOption = False,
    jobs: JobsOption = JOBS,
    fresh: Annotated[bool, typer.Option("--fresh", help="Train and export again even if nothing has changed.")] = False,
    archive: Annotated[Path | None, typer.Option("--archive", help="Write each bundle as a tar file there.")] = None,
    archived: ArchivedOption = False,
    planned_file: PlannedOption = None,
    job: JobOption = None,
    suite: SuiteOption = None,
    store: StoreOption = None,
) -> None:
    """Train and export the models of the selected cells, and run nothing; ends with 1 if one failed unexpectedly."""
    loaded = _suite(suite)
    kept = _store(store)
    name = _run_name()
    planned, _strange = _chosen(loaded, _selection(globs, skip, shard, full=full), planned_file, job)
    listener = Lines(console, len(planned.cells))
    with tempfile.TemporaryDirectory() as folder, Journal(Path(folder) / "none.jsonl", resume=False) as journal:
        options = Options(name, jobs, fresh=fresh, archived=archived)
        matrix_run = MatrixRun(loaded, kept, journal, listener, options)
        made = matrix_run.export_only(planned)
    recorder = recording.Recorder(loaded, kept, name)
    failed = {which: item for which, item in made.items() if isinstance(item, Failure)}
    ended = {which: _ends_of(recorder, planned, which, failure) for which, failure in failed.items()}
    for which, item in sorted(made.items()):
        if isinstance(item, Failure):
            text = f"{ended[which][0].value} {'/'.join(which)} at {item.stage.value}: {item.reason}"
            console.print(text, markup=False, soft_wrap=True)
        else:
            typer.echo(f"{'/'.join(which)}\t{item.digest[:16]}\t{kept.bundle_folder(item.digest)}")
    if archive is not None:
        handed: dict[parcels.Which, Bundle | parcels.NotMade] = {
            which: matrix_run.not_made(which, item) if isinstance(item, Failure) else item
            for which, item in made.items()
        }
        parcels.write(archive, handed, kept, recorder.redact)
    typer.echo(f"{len(made) - len(failed)} bundles, {len(failed)} failed")
    asked_for = [ended[which] for which in failed if any(cell[:3] == which for cell in planned.cells)]
    nothing_tried = len(failed) == len(made) and all(outcomes == [Outcome.NOT_RUN] for outcomes in ended.values())
    raise typer.Exit(1 if nothing_tried or any(set(outcomes) & UNEXPECTED for outcomes in asked_for) else 0)


def _ends_of(
    recorder: recording.Recorder, planned: Plan, which: tuple[str, str, str], failure: Failure
) -> list[Outcome]:
    """Return how the cells end whose bundle was not made, each outcome once.

    What other bundles are converted from may have no cells: then that is how they would end if nobody expected it.
    """
    cells = [cell for cell in planned.cells if cell[:3] == which]
    if not cells:
        return [recorder.failed(CellId(*which, UNKNOWN, UNKNOWN), failure).outcome]
    return list(dict.fromkeys(recorder.expect(recorder.failed(cell, failure)).outcome for cell in cells))


@app.command()
def run(
    globs: GlobsArgument = None,
    skip: SkipOption = None,
    shard: ShardOption = "1/1",
    full: FullOption = False,
    jobs: JobsOption = JOBS,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Records file (results/records.jsonl).")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Keep what the records file has and go on.")] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Make and run everything, even if nothing has changed.")
    ] = False,
    rerun: Annotated[
        bool, typer.Option("--rerun", help="Run every cell again, but make nothing again that is made.")
    ] = False,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads of each runtime.")] = 1,
    bundles: Annotated[Path | None, typer.Option("--bundles", help="Run these bundle archives; train nothing.")] = None,
    archived: ArchivedOption = False,
    allow_empty: Annotated[bool, typer.Option("--allow-empty", help="No cell selected is no error.")] = False,
    planned_file: PlannedOption = None,
    job: JobOption = None,
    reach: ReachOption = None,
    suite: SuiteOption = None,
    store: StoreOption = None,
) -> None:
    """Train, export, run, compare and rate the selected cells (all of them unless globs say otherwise)."""
    loaded = _suite(suite, reach)
    kept = _store(store)
    selection = _selection(globs, skip, shard, full=full)
    planned, strange = _chosen(loaded, selection, planned_file, job, allow_empty=allow_empty)
    file = output or _default_output(loaded)
    name = _run_name()
    for left in containers.clean_up():
        console.print(f"removed the container {left}, whose engine is gone", markup=False)
    with Journal(file, resume=resume) as journal:
        if journal.set_aside is not None:
            console.print(f"the records that were in {file.name} are in {journal.set_aside} now", soft_wrap=True)
        tried = list(journal.found)
        broken = _broken(loaded, selection, name) if job is None else parting.strangers(loaded, strange, name)
        with display(console, len(planned.cells) + len(planned.left_out) + len(broken) - len(tried)) as listener:
            options = Options(name, jobs, fresh=fresh, rerun=rerun, archived=archived, threads=threads)
            matrix_run = MatrixRun(loaded, kept, journal, listener, options)
            if bundles is not None:
                matrix_run.give(*_parcels(kept, bundles))
            matrix_run.execute(planned, broken, done=[record.cell for record in tried])
    results = _results(loaded, [*tried, *records.read(file)])
    terminal.print_results(console, results.shown.records, results.ratings, loaded.spec.ratings.survey)
    console.print(f"records: {file}", highlight=False, soft_wrap=True)
    ended = [record for record in results.shown.records if record.started]
    if ended and all(record.outcome is Outcome.NOT_RUN and record.lookup is None for record in ended):
        console.print(
            "nothing could be tried: every cell selected is NOT_RUN; `portmatrix doctor` says what is missing"
        )
        raise typer.Exit(1)
    raise typer.Exit(1 if any(record.unexpected for record in ended) else 0)


@app.command()
def measure(
    globs: GlobsArgument = None,
    file: Annotated[Path | None, typer.Option("--records", "-r", help="Records (results/records.jsonl).")] = None,
    reach: ReachOption = None,
    suite: SuiteOption = None,
    store: StoreOption = None,
) -> None:
    """Measure the latency of cells that work, against a baseline; leave the machine alone meanwhile.

    The records are added to the file that they were read from; of two of a cell the later one stands.
    """
    loaded = _suite(suite, reach)
    kept = _store(store)
    file = file or _default_output(loaded)
    if not file.is_file():
        raise UserError(f"{file}: no such file; `portmatrix run` writes records, and what passed there can be measured")
    session = _run_name()
    with Journal(file, resume=True) as journal:
        standing = ResultSet(journal.found).records
        chosen = measuring.worth(standing, loaded.spec.latency, globs or ())
        if not chosen:
            raise NothingSelected(f"no cell in {file} both works and is chosen; `portmatrix list cells` names cells")
        with display(console, len(chosen)) as listener:
            matrix_run = MatrixRun(loaded, kept, journal, listener, Options(session))
            stage = measuring.Measuring(loaded, kept, matrix_run, session)
            made = []
            for record in chosen:
                listener.begins(f"{record.cell} (measuring)")
                made.append(stage.measure(record, standing))
                journal.add(made[-1])
                listener.ended(made[-1])
    latencies.print_latencies(console, made)
    console.print(f"records: {file}", highlight=False, soft_wrap=True)
    raise typer.Exit(1 if any(record.stage is Stage.MEASURE and record.unexpected for record in made) else 0)


def _default_output(suite: Suite) -> Path:
    root = Path.cwd() if suite.root == suites.PACKAGED else suite.root
    return root / "results" / "records.jsonl"


def _run_name() -> str:
    return f"{recording.now()[:19].replace(':', '')}-{uuid.uuid4().hex[:6]}"


def _parcels(store: Store, folder: Path) -> parcels.Parcels:
    """Return the bundles in the archives below ``folder``, taken into the store; raises ``UserError`` for none."""
    try:
        found = parcels.read(folder, store)
    except StoreError as error:
        raise UserError(str(error)) from error
    if not found.bundles and not found.failed:
        raise UserError(f"{folder} holds no bundle archive (*.tar); `portmatrix export --archive {folder}` writes them")
    return found


@app.command()
def merge(
    files: Annotated[list[Path], typer.Argument(help="Records (JSON lines), in any order; a folder is all below it.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The merged records file.")],
    planned_file: PlannedOption = None,
    link: Annotated[
        str, typer.Option("--link", help="Of --planned: where to look why a job left no records; a URL.")
    ] = "",
) -> None:
    """Merge records files into one: for each cell the attempt that started last.

    With a plan of jobs, what was planned and has no record is NOT_RUN.
    """
    merged = records.merge(_record_files(files, empty=planned_file is not None))
    if planned_file is not None:
        known = frozenset(merged)
        for record in parting.missing(parting.read(planned_file), known.__contains__, link):
            merged[record.cell] = columns.canonical(record).encode()
        typer.echo(f"{len(merged) - len(known)} cells were planned and have no record")
    records.write_merged((merged[cell] for cell in sorted(merged)), output)
    typer.echo(f"{len(merged)} cells in {output}")


def _record_files(named: Iterable[Path], *, empty: bool) -> list[Path]:
    """Return the records files that are named, and those in folders; raises ``UserError`` for none unless ``empty``."""
    found: list[Path] = []
    for place in named:
        found += sorted(place.rglob("*.jsonl")) if place.is_dir() else [place]
    if not found and not empty:
        raise UserError(f"{', '.join(map(str, named))} holds no records (*.jsonl); `portmatrix run` writes them")
    return found


@app.command("rate")
def rate_(
    files: FilesArgument,
    suite: SuiteOption = None,
    explained: Annotated[
        str | None, typer.Option("--explain", help="The arithmetic of one framework, down to the cells.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The ratings with all their components as JSON.")] = False,
) -> None:
    """Rate the frameworks in records files, and show what each star rests on."""
    loaded = _suite(suite)
    if explained is not None:
        worked = work_out(_evidence(_everywhere(loaded), _read(files)), loaded.spec.ratings, explained)
        typer.echo(worked.model_dump_json(indent=1) if as_json else "\n".join(workings.lines(worked)))
        return
    ratings = rate(_evidence(_everywhere(loaded), _read(files)), loaded.spec.ratings)
    if as_json:
        typer.echo(json.dumps([rating.model_dump(mode="json") for rating in ratings], indent=1))
        return
    for rating in ratings:
        for name, stars in (("deployment", rating.deployment), ("cross-platform", rating.cross_platform)):
            console.print(f"[bold]{rating.framework}[/] {name}: {readme.stars_text(stars)}", highlight=False)
            for part in stars.components:
                bounds = f"{part.value:.3f} ({part.low:.3f}..{part.high:.3f})"
                text = f"  {part.name:<17} weight {part.weight:.2f}  {bounds}  {part.text}"
                console.print(text, markup=False, highlight=False, soft_wrap=True)


@app.command()
def report(
    files: FilesArgument,
    site_folder: Annotated[
        Path | None, typer.Option("--site", help="A folder for the report as web pages that need only a browser.")
    ] = None,
    base: Annotated[
        str | None, typer.Option("--base", help="What --site compares with, in any form that `compare` takes.")
    ] = None,
    place: Annotated[
        str | None, typer.Option("--history", help="Folder or URL of a history, which --site plots for each cell.")
    ] = None,
    repository: Annotated[
        str, typer.Option("--repository", help="Where --site links to for files: https://…/blob/REV/.")
    ] = "",
    junit_file: Annotated[Path | None, typer.Option("--junit", help="JUnit XML: each cell a test case.")] = None,
    summary_file: Annotated[Path | None, typer.Option("--summary", help="Markdown for a GitHub job summary.")] = None,
    readme_file: Annotated[
        Path | None, typer.Option("--readme", help="Put the badge table between its markers.")
    ] = None,
    results_file: Annotated[
        Path | None, typer.Option("--results", help="The rows behind the badges, as Markdown.")
    ] = None,
    badges_folder: Annotated[
        Path | None, typer.Option("--badges", help="A folder for the badges: SVG, and JSON for shields.io.")
    ] = None,
    site_url: Annotated[
        str | None, typer.Option("--site-url", help="Where the report's site is: badges lead there, not to --results.")
    ] = None,
    sarif_file: Annotated[
        Path | None, typer.Option("--sarif", help="Unexpected cells for code scanning, as SARIF 2.1.0.")
    ] = None,
    parquet_file: Annotated[
        Path | None, typer.Option("--parquet", help="All records as one flat table; needs the extra 'history'.")
    ] = None,
    annotated: Annotated[
        bool, typer.Option("--annotations", help="Print GitHub's workflow commands for unexpected cells, no tables.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit 1 if --readme, --results or --badges are stale.")
    ] = False,
    recorded_only: RecordedOption = False,
    allow_empty: Annotated[
        bool, typer.Option("--allow-empty", help="A --base without a record of these cells is no error.")
    ] = False,
    suite: SuiteOption = None,
) -> None:
    """Render records files: on the terminal, and into the files that are named."""
    # Long for its options alone: one for each sort of file.
    loaded = _suite(suite)
    found = _read(files)
    results = _results(loaded, found, recorded_only=recorded_only)
    survey, ratings = loaded.spec.ratings.survey, results.ratings
    everything = results.shown.records
    if (base or place or repository) and not site_folder:
        raise UserError("--base, --history and --repository are about the site; name a folder for it: --site DIR")
    locate = locations.locator(loaded, Path(os.environ.get("GITHUB_WORKSPACE") or Path.cwd()))
    images = badges.badge_files(everything, ratings) if badges_folder else {}

    def readme_text(file: Path) -> str:
        page = _link(results_file, file) if results_file else "docs/results.md"
        folder = _link(badges_folder, file) if badges_folder else None
        section = readme.render_section(everything, ratings, survey, page, site=site_url, badges=folder)
        return readme.replace_section(_read_text(file), section)

    wanted: list[tuple[Path | None, Callable[[Path], str]]] = [
        (junit_file, lambda _file: junit.junit(everything)),
        (summary_file, lambda _file: summary.job_summary(everything, ratings, survey)),
        (sarif_file, lambda _file: sarif.sarif(everything, locate)),
        (readme_file, readme_text),
        (results_file, lambda _file: readme.results_page(everything)),
    ]
    texts = {file: text for file, text in wanted if file}
    if check:
        shown = {file: texts[file] for file in (readme_file, results_file) if file}
        raise typer.Exit(_check(shown, badges_folder, images))
    for file, text in texts.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, text(file))
        typer.echo(f"wrote {file}")
    if site_folder:
        folder = _own_folder(loaded.root)
        before = _base(base, folder, found, recorded_only=recorded_only, allow_empty=allow_empty) if base else None
        pages = _site(_context(loaded, found, results, before, place, repository), site_folder)
        typer.echo(f"wrote {site_folder}: {pages:,} files; open {site_folder / 'index.html'}")
    if badges_folder:
        filesets.write_set(badges_folder, images, badges.MANIFEST)
        typer.echo(f"wrote {badges_folder}: {len(images):,} files")
    if parquet_file:
        typer.echo(f"wrote {parquet_file}: {parquet.write(everything, parquet_file):,} rows")
    if annotated:
        for line in annotating.workflow_commands(everything, locate):
            typer.echo(line)
    else:
        terminal.print_results(console, everything, ratings, survey)


def _context(
    suite: Suite,
    found: Sequence[Record],
    results: _Results,
    before: Sequence[Record] | None,
    place: str | None,
    repository: str,
) -> Context:
    """Return all that the site shows; ``before`` is what it compares with, and ``place`` names the history."""
    return Context(
        title="portmatrix",
        records=tuple(sorted(results.shown.records, key=urgency)),
        evidence=tuple(results.evidence),
        ratings=results.ratings,
        spec=suite.spec,
        base={record.cell: record for record in ResultSet(before).records} if before is not None else None,
        changes=regression.compare(before, found) if before is not None else None,
        trends=recent(Place(place), (record.cell for record in results.shown.records), HISTORY) if place else {},
        repository=repository,
        kinships={framework: _kinship(suite, framework) for framework in suite.plugins.exporters},
        planned=frozenset(map(str, _plan(suite, Selection(), allow_empty=True).cells)),
    )


def _site(context: Context, folder: Path) -> int:
    """Write the site, and return of how many files it is."""
    # What makes its pages takes longer to import than all other commands need.
    from portmatrix.site import build  # noqa: PLC0415

    files = build.build(context)
    build.write(files, folder)
    return len(files)


def _link(place: Path, page: Path) -> str:
    """Return how a file or folder is linked to from a page in Markdown."""
    return quote(Path(os.path.relpath(place, page.parent)).as_posix())


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise UserError(f"{file} cannot be read ({error}); expected a text with the table's two markers") from error


def _check(texts: Mapping[Path, Callable[[Path], str]], folder: Path | None, images: Mapping[str, str]) -> int:
    """Say which files are not what the records make of them; returns 1 if any is, else 0."""
    stale = [file for file, text in texts.items() if _is_stale(file, text(file))]
    stale += filesets.stale_files(folder, images, badges.MANIFEST) if folder else []
    for file in stale:
        typer.echo(f"{file} does not agree with the records; run this command again without --check")
    return 1 if stale else 0


def _is_stale(file: Path, text: str) -> bool:
    return not file.exists() or file.read_text(encoding="utf-8") != text


@app.command()
def schema(
    name: Annotated[str, typer.Argument(help="record, ratings, bundle or matrix.")] = "record",
) -> None:
    """Print the JSON Schema of a record, of ratings, of a bundle's manifest, or of matrix.yaml."""
    typer.echo(schemas.text(name), nl=False)


@app.command()
def repro(
    cell: Annotated[str, typer.Argument(help="The id of one cell, as every table and record shows it.")],
    fresh: Annotated[bool, typer.Option("--fresh", help="Train and export it again, too.")] = False,
    reach: ReachOption = None,
    suite: SuiteOption = None,
    store: StoreOption = None,
) -> None:
    """Run one cell again, verbosely, and keep the worker's folder."""
    wanted = _cell_id(cell)
    loaded = _suite(suite, reach)
    kept = _store(store)
    planned = _plan(loaded, Selection((cell,)))
    planned = planned._replace(cells=[*planned.cells, *(item.cell for item in planned.left_out)], left_out=[])
    name = _run_name()
    folder = Path(tempfile.mkdtemp(prefix=f"portmatrix-repro-{wanted.runtime}-"))
    with Journal(folder / "record.jsonl", resume=False) as journal, Lines(console, 1) as listener:
        options = Options(name, 1, fresh=fresh, rerun=True, keep=folder)
        MatrixRun(loaded, kept, journal, listener, options).execute(planned)
    for record in records.read(folder / "record.jsonl"):
        console.print_json(record.model_dump_json(exclude={"log_tail"}, exclude_defaults=True))
        if record.log_tail:
            console.print(record.log_tail, markup=False, highlight=False)
        if record.bundle:
            typer.echo(f"bundle: {kept.bundle_folder(record.bundle)}")
        typer.echo(f"worker's folder: {folder}")
        raise typer.Exit(1 if record.unexpected else 0)


def _cell_id(text: str) -> CellId:
    try:
        return CellId.parse(text)
    except ValueError as error:
        raise UserError(f"{error}; `portmatrix list cells` shows all of them") from error


@app.command()
def explain(
    cell: Annotated[str, typer.Argument(help="The id of one cell, as every table and record shows it.")],
    files: Annotated[
        list[Path] | None, typer.Option("--records", "-r", help="Records (results/records.jsonl); may be repeated.")
    ] = None,
    verify: Annotated[bool, typer.Option(help="Run the nearest cell that works, to see that it does.")] = True,
    reach: ReachOption = None,
    suite: SuiteOption = None,
    store: StoreOption = None,
) -> None:
    """Say why a cell fails, and which smallest change would deploy its model on its target."""
    wanted = _cell_id(cell)
    loaded = _suite(suite, reach)
    found = _known_records(loaded, files or ())
    axes = suites.axes(loaded)
    wrong = advice.unknown_name(wanted, axes)
    if wrong and cell not in found:
        raise UserError(f"{cell}: {wrong}")
    kinship = _kinship(loaded, wanted.framework)
    told = advice.explain(wanted, found, kinship, axes, suites.exclusions(loaded), loaded.spec.expect)
    verified = _verified(told, loaded, _store(store)) if verify else []
    explanation.print_explanation(console, told, kinship.roads, verified)
    raise typer.Exit(1 if verified and verified[-1].outcome not in WORKING else 0)


def _known_records(suite: Suite, files: Sequence[Path]) -> dict[str, Record]:
    """Return the standing records of files by cell; the suite's reference results fill in what was not tried there."""
    usual, reference = _default_output(suite), suite.root / sources.REFERENCE
    named = files or [file for file in (usual,) if file.is_file()]
    if not named and not reference.is_file():
        raise UserError(f"there are no records, neither {usual} nor {reference}; `portmatrix run` makes them")
    found = {record.cell: record for record in ResultSet(_read([reference] if reference.is_file() else ())).records}
    for record in ResultSet(_read(named)).records:
        if record.outcome is not Outcome.NOT_RUN or record.cell not in found:
            found[record.cell] = record
    return found


def _kinship(suite: Suite, framework: str) -> advice.Kinship:
    """Return what the suite says of a framework's paths, and of which runtimes are versions of one another."""
    exporter = suite.plugins.exporters.get(framework)
    paths = exporter.paths if exporter is not None else {}
    return advice.Kinship(
        {name: advice.Road(path.kind, path.format, path.batch) for name, path in paths.items()},
        {name: str(runtime.file) for name, runtime in suite.plugins.runtimes.items()},
        frozenset(suite.spec.referees.values()),
    )


def _verified(told: advice.Explanation, suite: Suite, store: Store) -> list[Record]:
    """Run the neighbours that are known to work, the nearest first, until one does or ``TRIES`` have not."""
    tried: list[Record] = []
    for neighbour in told.works[:TRIES] if told.state is not advice.State.WORKS else ():
        tried.append(_attempt(suite, store, str(neighbour.cell)))
        if tried[-1].outcome in WORKING:
            break
    return tried


def _attempt(suite: Suite, store: Store, cell: str) -> Record:
    """Return the record of a cell that is run now, whatever is known of it."""
    name = _run_name()
    try:
        planned = _plan(suite, Selection((cell,)))
    except NothingSelected as error:
        return records.not_run(cell, str(error), run=name)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "record.jsonl"
        with Journal(file, resume=False) as journal, Lines(console, len(planned.cells)) as listener:
            MatrixRun(suite, store, journal, listener, Options(name, 1, rerun=True)).execute(planned)
        return next(records.read(file), records.not_run(cell, "its exporter or its runtime is broken", run=name))


@app.command()
def compare(
    before: Annotated[str, typer.Argument(help="A records file or history (@RUN for one run), or git's REV[:PATH].")],
    after: Annotated[str, typer.Argument(help="The same, of what came later.")],
    cells: Annotated[str, typer.Option("--cells", help="Glob over the cells to compare.")] = "*",
    recorded_only: RecordedOption = False,
    allow_empty: Annotated[bool, typer.Option("--allow-empty", help="Nothing to compare is no error.")] = False,
    summary_file: Annotated[Path | None, typer.Option("--summary", help="Markdown for a GitHub job summary.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="All that was found as JSON.")] = False,
    suite: SuiteOption = None,
) -> None:
    """Show what changed from one set of records to another; ends with 1 if a cell's outcome or latency regressed.

    With --recorded-only, cells that the second set has no record of are left out: it is part of a matrix.
    """
    folder = _own_folder(suite)
    second = _load(after, folder, cells, allow_empty=allow_empty)
    first = _base(before, folder, second, cells, recorded_only=recorded_only, allow_empty=allow_empty)
    if first is None:
        why = f"{before} has no record of a cell that {after} has one of"
        typer.echo(f"nothing to compare: {why}")
        if summary_file:
            write_whole(summary_file, changes.nothing_compared(why))
        return
    found = regression.compare(first, second)
    if summary_file:
        write_whole(summary_file, changes.job_summary(found, before))
    if as_json:
        typer.echo(changes.to_json(found))
    else:
        changes.print_changes(console, found)
    raise typer.Exit(1 if found.regressed else 0)


def _load(named: str, folder: Path, cells: str = "*", *, allow_empty: bool) -> list[Record]:
    try:
        return sources.load(named, folder, cells)
    except NothingSelected:
        if not allow_empty:
            raise
        return []


def _base(
    named: str, folder: Path, after: Sequence[Record], cells: str = "*", *, recorded_only: bool, allow_empty: bool
) -> list[Record] | None:
    """Return the records that others are compared with, of their cells alone if ``recorded_only``.

    None if there is no cell in common and that is allowed.
    """
    known = {record.cell for record in after}
    found = _load(named, folder, cells, allow_empty=allow_empty)
    common = [record for record in found if record.cell in known]
    if allow_empty and not common:
        return None
    return common if recorded_only else found


def _own_folder(named: Path | None) -> Path:
    """Return the suite's folder, or the working folder where there is no suite but the packaged one."""
    try:
        root = suites.find_root(Path.cwd(), named)
    except UserError:
        if named is not None:
            raise
        return Path.cwd()
    return Path.cwd() if root == suites.PACKAGED else root


@app.command()
def doctor(suite: SuiteOption = None, store: StoreOption = None) -> None:
    """Show what this machine can reach, and what is missing, with the command that would install it."""
    loaded = _suite(suite)
    kept = _store(store)
    host = loaded.host
    typer.echo(f"portmatrix {__version__} on {host.os} {host.arch} {host.libc}, CPython {platform.python_version()}")
    typer.echo(f"suite  {loaded.root}\nstore  {kept.root}")
    typer.echo(f"workers' network is closed by: {workers.network_closure()[1]}")
    table = Table("target", "reach", "what would reach it", title="targets")
    for name, target in loaded.plugins.targets.items():
        table.add_row(name, _reached(target), target.missing[-1].install if target.is_static else "")
    console.print(table)
    table = Table("environment", "state", "what to do", title="environments")
    for name, exporter in loaded.plugins.exporters.items():
        for label, environment in exporter.environments.items():
            table.add_row(f"exporter {name} {label}".rstrip(), *_environment_state(kept, environment))
    for name, reducer in loaded.plugins.reducers.items():
        table.add_row(f"precision {name}", *_environment_state(kept, reducer.environment))
    for name, runtime in loaded.plugins.runtimes.items():
        if runtime.program is None:
            state = _environment_state(kept, runtime.environment)
        else:
            state = _program_state(kept, programs.key(runtime.environment, runtime.program, host))
        table.add_row(f"runtime {name}", *state)
    console.print(table)
    for item in loaded.plugins.broken:
        console.print(f"broken {item.kind} {item.name}: {item.why}", markup=False, highlight=False)


def _program_state(store: Store, key: str) -> tuple[str, str]:
    if (store.root / "envs" / key).is_dir():
        return "built, a program", ""
    return "not built, a program", "portmatrix run compiles it"


def _environment_state(store: Store, spec: EnvironmentSpec) -> tuple[str, str]:
    try:
        source = environments.source_of(spec)
        built = environments.existing(store, spec)
    except EnvironmentFailure as error:
        return str(error), _remedy(spec)
    named = f"CPython {source.version}" if isinstance(source, environments.Interpreter) else f"image {source.tag}"
    return (f"built, {named}", "") if built else (f"not built, {named}", "portmatrix run builds it")


def _remedy(spec: EnvironmentSpec) -> str:
    """Return what would get an environment that this machine cannot have."""
    ways = []
    if spec.interpreter:
        wanted = spec.python.split(",")[0].lstrip("<>=~!")
        ways.append("; ".join(filter(None, [f"uv python install {wanted}  (or pyenv install {wanted})", spec.install])))
    if spec.container:
        ways.append("install Docker, Podman or Buildah")
    return ", or ".join(ways)


@app.command()
def archive(
    globs: Annotated[list[str], typer.Argument(help="Globs over cell ids: whose bundles to archive.")],
    jobs: JobsOption = JOBS,
    suite: SuiteOption = None,
    store: StoreOption = None,
) -> None:
    """Put bundles into the suite's archive, trained here if they are not yet; what is converted is left out."""
    loaded = _suite(suite)
    kept = _store(store)
    exporters = loaded.plugins.exporters
    planned = _plan(loaded, _selection(globs, None, full=True))
    made_here = [cell for cell in planned.cells if not exporters[cell.framework].paths[cell.path].source]
    planned = planned._replace(cells=made_here)
    with tempfile.TemporaryDirectory() as folder, Journal(Path(folder) / "none.jsonl", resume=False) as journal:
        run = MatrixRun(loaded, kept, journal, Lines(console, len(planned.cells)), Options(_run_name(), jobs))
        made = run.export_only(planned)
    day = recording.now()[:10]
    failed = 0
    for which, bundle in sorted(made.items()):
        recipe = run.recipe(*which)
        if isinstance(recipe, str) or recipe.source is not None:
            continue
        if isinstance(bundle, Failure) and bundle.fault == "harness":
            failed += 1
            console.print(f"ERROR {'/'.join(which)}: {bundle.reason}", markup=False, soft_wrap=True)
            continue
        if isinstance(bundle, Failure):
            reason = bundle.reason
            for place, placeholder in recording.redactions(loaded, kept):
                reason = reason.replace(place, placeholder)
            bundle = bundle._replace(reason=reason)  # noqa: PLW2901 - the same, without this machine's folders
        typer.echo(f"{archives.put(loaded.root, recipe, bundle, kept, day)}")
    raise typer.Exit(1 if failed else 0)


@app.command()
def convert(
    files: Annotated[list[Path], typer.Argument(help="The model: one file, or structure and weights.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The ONNX file to write.")],
    batch: Annotated[int | None, typer.Option(min=1, help="A fixed batch size; symbolic if not given.")] = None,
    opset: Annotated[int | None, typer.Option(help="A newer operator set than the usual one.")] = None,
    input_shape: Annotated[
        list[str] | None,
        typer.Option(help="[NAME=]SIZES of an input whose file does not tell, such as batch,1,8,8; may be repeated."),
    ] = None,
) -> None:
    """Convert a model whose system has no way of its own to ONNX, or none that today's runtimes take.

    Without running that system: `portmatrix convert model.prototxt model.caffemodel -o model.onnx`.
    """
    from portmatrix import converters  # noqa: PLC0415 - onnx takes longer to import than all other commands need

    options: dict[str, Any] = {"batch": batch, "opset": opset}
    if input_shape:
        options["input_shapes"] = dict(map(_input_shape, input_shape))
    written = converters.convert(files, output, **options)
    counted = ", ".join(f"{count} {name}" for name, count in written.operators.items())
    typer.echo(f"{written.file}: opset {written.opset}, {written.parameters:,} parameters\n{counted}")


def _input_shape(text: str) -> tuple[str, tuple[int | None, ...]]:
    """Return name (empty if none is given) and sizes of ``[NAME=]SIZES``, where a word stands for a symbolic size."""
    name, _, sizes = text.rpartition("=")
    parts = [part.strip() for part in sizes.split(",")]
    if not all(part.isidentifier() or (part.isdecimal() and int(part) > 0) for part in parts):
        raise UserError(f"--input-shape {text}: expected sizes such as batch,1,8,8, or x=batch,1,8,8")
    return name, tuple(int(part) if part.isdecimal() else None for part in parts)


@history_app.command("add")
def history_add(files: FilesArgument, place: PlaceOption = None) -> None:
    """Put the records of files into the history, of any schema version; those that it has are left as they are."""
    added = adding.add(Place(place or default_place()), files)
    typer.echo(f"{added.new:,} of {added.read:,} records were new; they are of {added.days} days")


@history_app.command("show")
def history_show(
    globs: GlobsArgument = None,
    since: SinceOption = None,
    until: UntilOption = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Most cells that are shown in detail.")] = 10,
    plot_file: Annotated[
        Path | None, typer.Option("--plot", help="Latency over time, as .svg, .png, .html or .json (Vega-Lite).")
    ] = None,
    every_timing: Annotated[
        bool, typer.Option("--timings", help="Latencies of every batch and number of threads, not of the first only.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Everything as JSON.")] = False,
    place: PlaceOption = None,
) -> None:
    """Show how cells ended over time, how steadily, how fast they were, and when that changed."""
    found = history_report.gather(
        Place(place or default_place()),
        globs or (),
        since=_day(since),
        until=_day(until),
        limit=limit,
        every_timing=every_timing,
    )
    if as_json:
        typer.echo(json.dumps(history_report.as_data(found), indent=1))
    else:
        history_report.print_report(console, found)
    if plot_file:
        plot.write(found.trends, plot_file)
        console.print(f"wrote {plot_file}", markup=False, highlight=False, soft_wrap=True)


@history_app.command("get")
def history_get(
    output: Annotated[Path, typer.Option("--output", "-o", help="The records file to write.")],
    globs: GlobsArgument = None,
    run: Annotated[str | None, typer.Option("--run", help="Only records of the run of that name.")] = None,
    since: SinceOption = None,
    until: UntilOption = None,
    place: PlaceOption = None,
) -> None:
    """Write records of the history into a file, for every command that reads records."""
    found = queries.records(Place(place or default_place()), globs or (), run=run, since=_day(since), until=_day(until))
    records.write_merged((columns.canonical(record).encode() for record in found), output)
    typer.echo(f"wrote {output}")


def _day(named: datetime | None) -> str | None:
    return named.date().isoformat() if named else None


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Where the suite goes; made if it is not there.")] = Path(),
) -> None:
    """Write a suite of your own: a matrix.yaml and an exporter to fill in; runtimes and targets come along."""
    for file in write_starter(folder):
        typer.echo(f"wrote {file}")
    typer.echo(f"next: put your model into {folder / 'exporters' / 'mine.py'}, then `portmatrix run --suite {folder}`")


# --- Ending the process ---------------------------------------------------------------------------------------------


def _our_bug(error: BaseException) -> str:
    """Return where the paste-ready log of an unexpected exception was written, and a line to say so."""
    text = "".join(traceback.format_exception(error))
    log = (
        f"portmatrix {__version__}, CPython {platform.python_version()}, {platform.platform()}\n"
        f"command: {' '.join(sys.argv[1:])}\n\n{text.replace(str(Path.home()), '~')}"
    )
    handle, name = tempfile.mkstemp(prefix="portmatrix-bug-", suffix=".log")
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(log)
    return f"this is a bug of portmatrix: {type(error).__name__}: {error}\nplease report it with the log in {name}"


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and end the process with the exit code that belongs to what happened.

    0 all as expected, 1 an unexpected outcome, 2 your mistake, 3 our bug, 4 nothing selected, 130 interrupted.
    """
    errors = Console(stderr=True)
    try:
        code: Any = app(arguments, standalone_mode=False)
    except typer.Exit as ended:
        code = ended.exit_code
    except KeyboardInterrupt:
        code = INTERRUPTED
    except PortmatrixError as error:
        errors.print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        code = error.exit_code
    except Exception as error:
        shown = getattr(error, "format_message", None)
        if shown is not None:  # what the command-line parser raises for a wrong option or argument
            errors.print(f"error: {shown()}; see `portmatrix --help`", markup=False, highlight=False, soft_wrap=True)
            code = 2
        else:
            errors.print(_our_bug(error), markup=False, highlight=False, soft_wrap=True)
            code = 3
    if code == INTERRUPTED:  # raised here, or made of it by typer
        errors.print("interrupted; --resume goes on from here", markup=False)
    sys.exit(code if isinstance(code, int) else 0)
