"""The command line. Each command reads from top to bottom as its data flows; only this module ends the process."""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import traceback
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from portmatrix import (
    __version__,
    advice,
    containers,
    environments,
    matrix,
    programs,
    recording,
    records,
    regression,
    sources,
    workers,
)
from portmatrix import archive as archives
from portmatrix import measure as measuring
from portmatrix import plan as planning
from portmatrix import suite as suites
from portmatrix.arithmetic import work_out
from portmatrix.bundle import pack
from portmatrix.errors import EnvironmentFailure, NothingSelected, PortmatrixError, StoreError, UserError
from portmatrix.export import Bundle
from portmatrix.globs import Globs
from portmatrix.history import adding, columns, plot, queries
from portmatrix.history import report as history_report
from portmatrix.history.place import Place, default_place
from portmatrix.matrix import MatrixRun, Options
from portmatrix.plan import Plan, Selection
from portmatrix.plugins import EnvironmentSpec, NoWay, Target
from portmatrix.progress import Lines, display
from portmatrix.rate import Rating, rate
from portmatrix.records import Journal, ResultSet
from portmatrix.render import changes, explanation, html, junit, latencies, readme, summary, terminal, workings
from portmatrix.starter import write_starter
from portmatrix.store import Store, default_root, write_whole
from portmatrix.suite import Suite
from portmatrix.types import WORKING, CellId, Outcome, Reach, Record, Stage
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
JOBS = min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
#: Cells that work by their records, and are run to see whether they do, before advice is given up.
TRIES = 3

SuiteOption = Annotated[
    Path | None, typer.Option("--suite", help="Folder with the matrix.yaml; else the nearest one upwards.")
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
FilesArgument = Annotated[list[Path], typer.Argument(help="Records (JSON lines), in any order.")]

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


def _selection(globs: Sequence[str] | None, skip: Sequence[str] | None, shard: str = "1/1") -> Selection:
    return Selection(tuple(globs or ()), tuple(skip or ()), planning.parse_shard(shard))


def _plan(suite: Suite, selection: Selection, *, allow_empty: bool = False) -> Plan:
    """Return the plan of a run on this machine; an empty one only where that is allowed, or something is broken."""
    try:
        return planning.plan(suites.axes(suite), suites.exclusions(suite), selection)
    except NothingSelected:
        if allow_empty or _broken(suite, selection):
            return Plan([], [])
        raise


def _broken(suite: Suite, selection: Selection, run: str = "-") -> list[Record]:
    return matrix.broken_records(suite, Globs(selection.take) if selection.take else None, run)


def _everywhere(suite: Suite) -> Iterable[str]:
    """Yield every cell id that belongs to the matrix, on every target: what nobody tried shows as NOT_RUN."""
    return ("/".join(cell) for cell in planning.belonging(suites.axes(suite, everywhere=True)))


def _results(suite: Suite, found: Iterable[Record]) -> tuple[ResultSet, tuple[Rating, ...]]:
    known = list(found)
    return ResultSet(known, _everywhere(suite)), rate(_evidence(suite, known), suite.spec.ratings)


def _evidence(suite: Suite, found: Sequence[Record]) -> list[Record]:
    """Return what ratings rest on: all records, since those of one cell may be repeats, and NOT_RUN for the others."""
    known = {record.cell for record in found}
    unknown = (cell for cell in _everywhere(suite) if cell not in known)
    return [*found, *(records.not_run(cell, "no record of this cell", run="-") for cell in unknown)]


def _read(files: Iterable[Path]) -> list[Record]:
    return [record for file in files for record in records.read(file)]


# --- Commands -------------------------------------------------------------------------------------------------------


@app.command()
def plan(
    globs: GlobsArgument = None,
    skip: SkipOption = None,
    shard: ShardOption = "1/1",
    reach: ReachOption = None,
    suite: SuiteOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="The cells as JSON.")] = False,
) -> None:
    """Show which cells would be run, and which would not, and why."""
    loaded = _suite(suite, reach)
    selection = _selection(globs, skip, shard)
    planned = _plan(loaded, selection)
    if as_json:
        left_out = [{"cell": str(item.cell), "why": item.why} for item in planned.left_out]
        typer.echo(json.dumps({"cells": [str(cell) for cell in planned.cells], "left_out": left_out}, indent=1))
        return
    table = Table("framework", "path", "runtime", "target", "models", title=f"{len(planned.cells)} cells")
    counted = Counter((cell.framework, cell.path, cell.runtime, cell.target) for cell in planned.cells)
    for key, count in counted.items():
        table.add_row(*key, str(count))
    console.print(table)
    for item in planned.left_out:
        console.print(f"left out: {item.cell}: {item.why}", markup=False)
    for framework, path, form in suites.untaken(loaded):
        console.print(f"no runtime takes {form}: {framework}/*/{path} has no cells", markup=False)
    for name, target in loaded.plugins.targets.items():
        if target.is_static:
            console.print(f"looked up only: {name}: {target.missing[-1].why}", markup=False)
    for record in _broken(loaded, selection):
        console.print(f"broken: {record.cell}: {record.reason}", markup=False)


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
    jobs: JobsOption = JOBS,
    fresh: Annotated[bool, typer.Option("--fresh", help="Train and export again even if nothing has changed.")] = False,
    archive: Annotated[Path | None, typer.Option("--archive", help="Write each bundle as a tar file there.")] = None,
    archived: ArchivedOption = False,
    suite: SuiteOption = None,
    store: StoreOption = None,
) -> None:
    """Train and export the models of the selected cells, and run nothing."""
    loaded = _suite(suite)
    kept = _store(store)
    planned = _plan(loaded, _selection(globs, skip, shard))
    made: dict[tuple[str, str, str], Bundle | Failure] = {}
    listener = Lines(console, len(planned.cells))
    with tempfile.TemporaryDirectory() as folder, Journal(Path(folder) / "none.jsonl", resume=False) as journal:
        options = Options(_run_name(), jobs, fresh=fresh, archived=archived)
        made = MatrixRun(loaded, kept, journal, listener, options).export_only(planned)
    failed = 0
    for (framework, model, path), bundle in sorted(made.items()):
        name = f"{framework}/{model}/{path}"
        if isinstance(bundle, Failure):
            failed += 1
            console.print(f"FAIL {name} at {bundle.stage.value}: {bundle.reason}", markup=False, soft_wrap=True)
            continue
        typer.echo(f"{name}\t{bundle.digest[:16]}\t{kept.bundle_folder(bundle.digest)}")
        if archive is not None:
            archive.mkdir(parents=True, exist_ok=True)
            pack(kept.bundle_folder(bundle.digest), archive / f"{framework}.{model}.{path}.tar")
    typer.echo(f"{len(made) - failed} bundles, {failed} failed")
    raise typer.Exit(1 if failed else 0)


@app.command()
def run(
    globs: GlobsArgument = None,
    skip: SkipOption = None,
    shard: ShardOption = "1/1",
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
    reach: ReachOption = None,
    suite: SuiteOption = None,
    store: StoreOption = None,
) -> None:
    """Train, export, run, compare and rate the selected cells (all of them unless globs say otherwise)."""
    loaded = _suite(suite, reach)
    kept = _store(store)
    selection = _selection(globs, skip, shard)
    planned = _plan(loaded, selection, allow_empty=allow_empty)
    file = output or _default_output(loaded)
    name = _run_name()
    for left in containers.clean_up():
        console.print(f"removed the container {left}, whose engine is gone", markup=False)
    with Journal(file, resume=resume) as journal:
        if journal.set_aside is not None:
            console.print(f"the records that were in {file.name} are in {journal.set_aside} now", soft_wrap=True)
        tried = list(journal.found)
        broken = _broken(loaded, selection, name)
        with display(console, len(planned.cells) + len(planned.left_out) + len(broken) - len(tried)) as listener:
            options = Options(name, jobs, fresh=fresh, rerun=rerun, archived=archived, threads=threads)
            matrix_run = MatrixRun(loaded, kept, journal, listener, options)
            if bundles is not None:
                matrix_run.give(_archives(kept, bundles))
            matrix_run.execute(planned, broken, done=[record.cell for record in tried])
    results, ratings = _results(loaded, [*tried, *records.read(file)])
    terminal.print_results(console, results.records, ratings, loaded.spec.ratings.survey)
    console.print(f"records: {file}", highlight=False, soft_wrap=True)
    ended = [record for record in results.records if record.started]
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


def _archives(store: Store, folder: Path) -> list[Bundle]:
    """Return the bundles in the archives below ``folder``, taken into the store; raises ``UserError`` for none."""
    try:
        found = [Bundle(*store.add_archive(archive)) for archive in sorted(folder.rglob("*.tar"))]
    except StoreError as error:
        raise UserError(str(error)) from error
    if not found:
        raise UserError(f"{folder} holds no bundle archive (*.tar); `portmatrix export --archive {folder}` writes them")
    return found


@app.command()
def merge(
    files: FilesArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="The merged records file.")],
) -> None:
    """Merge records files into one: for each cell the attempt that started last."""
    merged = records.merge(files)
    records.write_merged(merged.values(), output)
    typer.echo(f"{len(merged)} cells in {output}")


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
        worked = work_out(_evidence(loaded, _read(files)), loaded.spec.ratings, explained)
        typer.echo(worked.model_dump_json(indent=1) if as_json else "\n".join(workings.lines(worked)))
        return
    ratings = rate(_evidence(loaded, _read(files)), loaded.spec.ratings)
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
    html_file: Annotated[Path | None, typer.Option("--html", help="A page that needs nothing but a browser.")] = None,
    junit_file: Annotated[Path | None, typer.Option("--junit", help="JUnit XML: each cell a test case.")] = None,
    summary_file: Annotated[Path | None, typer.Option("--summary", help="Markdown for a GitHub job summary.")] = None,
    readme_file: Annotated[
        Path | None, typer.Option("--readme", help="Put the badge table between its markers.")
    ] = None,
    results_file: Annotated[
        Path | None, typer.Option("--results", help="The rows behind the badges, as Markdown.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit 1 if --readme or --results are stale.")
    ] = False,
    suite: SuiteOption = None,
) -> None:
    """Render records files: on the terminal, and into the files that are named."""
    loaded = _suite(suite)
    results, ratings = _results(loaded, _read(files))
    survey = loaded.spec.ratings.survey
    everything = results.records
    texts: dict[Path, Callable[[], str]] = {}
    if html_file:
        texts[html_file] = lambda: html.report(everything, ratings, survey)
    if junit_file:
        texts[junit_file] = lambda: junit.junit(everything)
    if summary_file:
        texts[summary_file] = lambda: summary.job_summary(everything, ratings, survey)
    if readme_file:
        texts[readme_file] = lambda: readme.replace_section(
            readme_file.read_text(encoding="utf-8"), readme.render_section(everything, ratings, survey)
        )
    if results_file:
        texts[results_file] = lambda: readme.results_page(everything)
    if check:
        stale = [file for file in (readme_file, results_file) if file and _is_stale(file, texts[file]())]
        for file in stale:
            typer.echo(f"{file} does not agree with the records; run this command again without --check")
        raise typer.Exit(1 if stale else 0)
    for file, text in texts.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, text())
        typer.echo(f"wrote {file}")
    terminal.print_results(console, everything, ratings, survey)


def _is_stale(file: Path, text: str) -> bool:
    return not file.exists() or file.read_text(encoding="utf-8") != text


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
    before: Annotated[str, typer.Argument(help="A records file, FILE@RUN, a history, or REV[:PATH] of git.")],
    after: Annotated[str, typer.Argument(help="The same, of what came later.")],
    cells: Annotated[str, typer.Option("--cells", help="Glob over the cells to compare.")] = "*",
    as_json: Annotated[bool, typer.Option("--json", help="All that was found as JSON.")] = False,
    suite: SuiteOption = None,
) -> None:
    """Show what changed from one set of records to another; ends with 1 if a cell's outcome or latency regressed."""
    folder = _own_folder(suite)
    found = regression.compare(sources.load(before, folder, cells), sources.load(after, folder, cells))
    if as_json:
        typer.echo(changes.to_json(found))
    else:
        changes.print_changes(console, found)
    raise typer.Exit(1 if found.regressed else 0)


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
        table.add_row(f"exporter {name}", *_environment_state(kept, exporter.environment))
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
    planned = _plan(loaded, _selection(globs, None))
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
