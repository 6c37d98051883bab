"""Carries out a plan: exports what must be made, runs what must be run, and writes a record the moment a cell ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from filelock import Timeout

from portmatrix import __version__, archive, conversion, environments, export, reuse, run, static
from portmatrix.bundle import Manifest
from portmatrix.commands import Patience
from portmatrix.errors import DiskFull, EnvironmentFailure, StoreError
from portmatrix.export import Bundle, Recipe
from portmatrix.globs import Globs
from portmatrix.parcels import NotMade
from portmatrix.places import Announce, Wanted, wanted_of
from portmatrix.places.choice import STATIC, place_of
from portmatrix.plan import Plan
from portmatrix.plugins import Arrays, EnvironmentSpec, Exporter, Reducer, Runtime, Target, Way
from portmatrix.pool import Behind, Pool, Take
from portmatrix.recording import Recorder, now
from portmatrix.store import Store, bytes_below, digest_of
from portmatrix.suite import Suite, here
from portmatrix.types import UNKNOWN, CellId, Outcome, PathKind, Reach, Record, Stage
from portmatrix.workers import Failure, Launch, Lease, Limits

Made = tuple[str, str, str]


class Journal(Protocol):
    """Where records go."""

    def add(self, record: Record) -> None: ...


class Listener(Protocol):
    """Who wants to know how far the run has come; called from any thread."""

    def begins(self, what: str) -> None: ...

    def ended(self, record: Record) -> None: ...

    def says(self, text: str) -> None: ...


class Options(NamedTuple):
    """How to run: the run's name, how many slots, and threads of a runtime.

    ``fresh`` makes and runs everything again, ``rerun`` runs again what is made; ``archived`` takes from the archive
    what is there and trains the rest; ``keep`` is a folder in which the workers' own folders are left.
    """

    run: str
    jobs: int = 1
    fresh: bool = False
    rerun: bool = False
    archived: bool = False
    threads: int = 1
    keep: Path | None = None


class _Step(IntEnum):
    """What a worker is for; what has a smaller number is done first."""

    EXPORT = 0
    CONVERT = 1
    REDUCE = 2
    RUN = 3
    JUDGE = 4


class _Place(NamedTuple):
    """The key of the pool: what for, whose worker it is, and in which of an exporter's environments."""

    step: _Step
    plugin: str
    target: str
    environment: str = ""


class _Export(NamedTuple):
    """Make the bundles of one trained model."""

    recipes: tuple[Recipe, ...]


class _Convert(NamedTuple):
    """Make a bundle of another one's artifact: by a converter, or as ``reduction`` says by a precision plug-in."""

    recipe: Recipe
    source: Bundle
    key: str
    reduction: conversion.Reduction | None


class _LookUp(NamedTuple):
    """Look up whether a cell could run on a target that is not reached."""

    cell: CellId
    bundle: Bundle


class _Run(NamedTuple):
    """Run one cell."""

    cell: CellId
    bundle: Bundle
    key: str


class _Ran(NamedTuple):
    """What a record says of the worker: what ran in it, how its network was closed, and whether it is a program."""

    environment: dict[str, str]
    network: str
    interpreter_free: bool


class _Judge(NamedTuple):
    """Find out who is to blame for a cell that failed its comparison."""

    cell: CellId
    bundle: Bundle
    key: str
    record: Record
    outputs: tuple[Arrays, ...]


_Job = _Export | _Convert | _LookUp | _Run | _Judge


class MatrixRun:
    """One run of a plan. ``execute`` does all of it; nothing here decides what an outcome means to the user."""

    def __init__(self, suite: Suite, store: Store, journal: Journal, listener: Listener, options: Options) -> None:
        self._suite = suite
        self._store = store
        self._journal = journal
        self._listener = listener
        self._options = options
        self._writing = threading.Lock()
        self._recorder = Recorder(suite, store, options.run)
        self._here = here(suite)
        self._given: dict[Made, Bundle | NotMade] | None = None
        self._made: dict[Made, Bundle | Failure] | None = None
        self._failed_in_archive: set[Made] = set()
        self._leases: set[Lease] = set()
        self._cancelled = False
        self._waiting: dict[Made, list[CellId]] = {}
        self._digests: dict[Made, str | None] = {}
        self._derived: dict[Made, list[Recipe]] = {}
        self._unbuilt: dict[str, EnvironmentFailure] = {}
        self._pool: Pool[_Place, _Job] = Pool(options.jobs, self._serve, lambda place: place.step)
        spec = suite.spec.limits
        self._cell_limits = Limits(spec.cell_seconds, spec.memory_mb)
        self._export_limits = Limits(spec.export_seconds, spec.memory_mb)

    def give(self, bundles: Iterable[Bundle], failed: Mapping[Made, NotMade] | None = None) -> None:
        """Run these bundles and make none: a cell whose bundle is not among them is NOT_RUN.

        Those of which ``failed`` says why there is none end as they would have where that was tried.
        """
        given: dict[Made, Bundle | NotMade] = dict(failed or {})
        for bundle in bundles:
            given[bundle.manifest.framework, bundle.manifest.model, bundle.manifest.path] = bundle
        self._given = given

    def export_only(self, plan: Plan) -> dict[Made, Bundle | Failure]:
        """Make the bundles that the plan's cells need, run nothing, and return what each came to."""
        self._made = {}
        self._await(plan.cells)
        self._work()
        return self._made

    def not_made(self, which: Made, failure: Failure) -> NotMade:
        """Return why ``export_only`` made no bundle, in the form in which it can be handed to another machine."""
        return NotMade(failure, which in self._failed_in_archive)

    def _note(self, which: Made, made: Bundle | Failure, *, archived: bool = False) -> None:
        assert self._made is not None
        self._made[which] = made
        if archived and isinstance(made, Failure):
            self._failed_in_archive.add(which)

    def execute(self, plan: Plan, broken: Iterable[Record] = (), done: Iterable[str] = ()) -> None:
        """Try every cell of the plan but those in ``done``; returns when each has its record.

        ``broken`` are the records of plug-ins that cannot be used. Raises ``DiskFull`` when a record cannot be
        written: then nothing else could be told either.
        """
        finished = set(done)
        for record in broken:
            if record.cell not in finished:
                self._emit(record)
        for left_out in plan.left_out:
            if str(left_out.cell) not in finished:
                self._emit(self._recorder.record(left_out.cell, Outcome.SKIP, Stage.PLAN, left_out.why))
        self._await(cell for cell in plan.cells if str(cell) not in finished)
        self._work()

    def _await(self, cells: Iterable[CellId]) -> None:
        for cell in cells:
            self._waiting.setdefault((cell.framework, cell.model, cell.path), []).append(cell)

    def _work(self) -> None:
        """Plan the exports and serve the pool; whatever ends this early ends all workers with it."""
        try:
            self._pool.run(self._plan_exports)
        except BaseException:
            # The cells in flight did not fail, they were abandoned: they must leave no record.
            self._cancelled = True
            for lease in list(self._leases):
                lease.kill()
            self._pool.join()
            raise

    # Exports: what must be made, and what is there

    def _plan_exports(self) -> None:
        """Send off what must be made, then, while that is under way, what is there: verifying it takes a moment."""
        unknown: list[Recipe] = []
        known: list[Recipe] = []
        for recipe in self._sources():
            if self._given is not None:
                self._take_given(recipe, self._given)
            elif self._options.archived and (kept := self._archived(recipe)) is not None:
                self._exported(recipe, kept, archived=True)
            else:
                (unknown if self._options.fresh or not self._is_known(recipe) else known).append(recipe)
        self._add_exports(unknown)
        self._add_exports(self._not_stored(known))

    def _sources(self) -> list[Recipe]:
        """Return the recipes of everything that is exported, noting which are to be converted from what."""
        found: dict[Made, Recipe] = {}
        for framework, model, path in list(self._waiting):
            recipe = self.recipe(framework, model, path)
            if isinstance(recipe, str):
                self._fail((framework, model, path), Failure(Stage.PLAN, recipe, "harness"))
                continue
            # Up the way on which it is made, to what is exported, or given.
            while (source := recipe.source) is not None and not (self._given and recipe.which in self._given):
                derived = self._derived.setdefault(source.which, [])
                if recipe not in derived:
                    derived.append(recipe)
                recipe = source
            found[recipe.which] = recipe
        return list(found.values())

    def _add_exports(self, recipes: Iterable[Recipe]) -> None:
        by_model: dict[tuple[str, str, str], list[Recipe]] = {}
        for recipe in recipes:
            by_model.setdefault((recipe.exporter.name, recipe.way.environment, recipe.model), []).append(recipe)
        for (framework, environment, _model), together in by_model.items():
            place = _Place(_Step.EXPORT, framework, self._here, environment)
            self._pool.add(place, _Export(tuple(together)))

    def _take_given(self, recipe: Recipe, given: Mapping[Made, Bundle | NotMade]) -> None:
        made = given.get(recipe.which)
        if isinstance(made, NotMade):
            for item in self._with_derived(recipe):
                self._fail(item.which, made.failure, archived=made.archived, elsewhere=True)
            return
        if made is not None:
            self._exported(recipe, made)
            return
        for item in self._with_derived(recipe):
            for cell in self._waiting.pop(item.which, []):
                self._emit(self._recorder.record(cell, Outcome.NOT_RUN, Stage.EXPORT, "no bundle of it was given"))

    def _with_derived(self, recipe: Recipe) -> Iterator[Recipe]:
        """Yield a recipe and all that was to be made of what it comes to, which from now on nobody waits for."""
        yield recipe
        for derived in self._derived.pop(recipe.which, []):
            yield from self._with_derived(derived)

    def recipe(self, framework: str, model: str, path: str) -> Recipe | str:
        """Return the recipe of a bundle, or what keeps it from being one."""
        exporter = self._suite.plugins.exporters[framework].of(path)
        reads = self._suite.spec.models[model]
        data = self._suite.plugins.data.get(reads.data) if reads.data else None
        if reads.data and data is None:
            why = [item.why for item in self._suite.plugins.broken if (item.kind, item.name) == ("data", reads.data)]
            return f"data set {reads.data} cannot be used: {' '.join(why) or 'there is no such plug-in'}"
        return Recipe(exporter, model, path, reads, data, self._suite.spec.bundle)

    def _digest(self, recipe: Recipe) -> str | None:
        """Return the recipe digest, or None where this machine has no environment for it."""
        if recipe.which not in self._digests:
            key = environments.key_here(recipe.exporter.environment)
            self._digests[recipe.which] = recipe.digest(key) if key is not None else None
        return self._digests[recipe.which]

    def _is_known(self, recipe: Recipe) -> bool:
        digest = self._digest(recipe)
        return digest is not None and self._store.has("recipes", digest)

    def _stored(self, recipe: Recipe) -> Bundle | Failure | None:
        """Return what the store knows of the recipe: its bundle, its failure, or nothing (that can be used)."""
        return self._known(self._digest(recipe) or "")

    def _known(self, digest: str) -> Bundle | Failure | None:
        entry = self._store.get("recipes", digest) if digest else None
        if entry is None:
            return None
        if "bundle" in entry:
            try:
                return Bundle(entry["bundle"], self._store.get_bundle(entry["bundle"]))
            except StoreError as error:
                self._listener.says(f"{error}")
                return None
        return Failure(Stage(entry["stage"]), entry["reason"], "model", entry["log_tail"])

    def _exported(self, recipe: Recipe, made: Bundle | Failure, *, archived: bool = False) -> None:
        """Send the cells of a recipe on their way, and what is converted from it: to be run, or recorded as failed."""
        if isinstance(made, Failure):
            digest = self._digest(recipe)
            for item in self._with_derived(recipe):
                if self._made is not None and item is recipe:
                    self._note(recipe.which, made, archived=archived)
                else:
                    self._fail(item.which, made, digest, archived=archived)
            return
        if self._made is not None:
            self._note(recipe.which, made, archived=archived)
        else:
            self._run_cells(recipe.which, made)
        for derived in self._derived.pop(recipe.which, []):
            self._convert_later(derived, made)

    def _convert_later(self, recipe: Recipe, source: Bundle) -> None:
        step, plugin = _Step.CONVERT, recipe.way.converter
        if recipe.way.reducer:
            step, plugin = _Step.REDUCE, recipe.way.reducer
        try:
            reduction = self._reduction(recipe)
        except EnvironmentFailure as failure:
            for item in self._with_derived(recipe):
                self._not_made(item, Outcome.NOT_RUN, str(failure), failure.log_tail)
            return
        key = conversion.key_of(recipe, source, reduction)
        known = None if self._options.fresh else self._known(key)
        if known is None:
            self._pool.add(_Place(step, plugin, self._here), _Convert(recipe, source, key, reduction))
        else:
            self._exported(recipe, known)

    def _reduction(self, recipe: Recipe) -> conversion.Reduction | None:
        """Return how a recipe's artifact is reduced in precision; None for one that is converted.

        Raises ``EnvironmentFailure`` where this machine has no environment for that.
        """
        if not recipe.way.reducer:
            return None
        reducer = self._suite.plugins.reducers[recipe.way.reducer]
        environment = environments.key_here(reducer.environment)
        if environment is None:
            raise EnvironmentFailure(f"no Python {reducer.environment.python} for precision {reducer.name} here")
        return conversion.Reduction(reducer, environment, self._suite.spec.precision.calibration)

    def _archived(self, recipe: Recipe) -> Bundle | Failure | None:
        """Return what the archive has of a recipe: its bundle, why there is none, or nothing (that can be used)."""
        try:
            return archive.find(self._suite.root, recipe, self._store)
        except (StoreError, DiskFull) as error:
            self._listener.says(str(error))
            return None

    def _run_cells(self, which: Made, bundle: Bundle) -> None:
        for cell in self._waiting.pop(which, []):
            runtime, referee = self._runtime(cell.runtime), self._referee(cell, bundle.manifest)
            if self._way(cell.target).reach is Reach.STATIC:
                self._pool.add(_Place(_Step.RUN, cell.runtime, cell.target), _LookUp(cell, bundle))
                continue
            key = reuse.cell_key(self._suite, cell, bundle, runtime, referee, self._options.threads)
            again = self._options.fresh or self._options.rerun
            known = None if again else reuse.reused(self._store, key, cell, self._options.run)
            if known is not None:
                self._emit(known)
            else:
                self._pool.add(_Place(_Step.RUN, cell.runtime, cell.target), _Run(cell, bundle, key))

    def _fail(
        self,
        which: Made,
        failure: Failure,
        recipe: str | None = None,
        *,
        archived: bool = False,
        elsewhere: bool = False,
    ) -> None:
        """Record that a bundle could not be made: here, where the archive comes from, or on the machine that tried."""
        if self._made is not None:
            self._note(which, failure, archived=archived)
        for cell in self._waiting.pop(which, []):
            failed = self._recorder.failed(cell, failure)
            update: dict[str, Any] = {"recipe": recipe, "archived": archived}
            if archived or elsewhere:
                update["facts"] = {}  # which would say that this machine had tried
            self._emit(failed.model_copy(update=update))

    # Work in the slots

    def _serve(self, place: _Place, take: Take[_Job]) -> None:
        """Open the environment of ``place`` and do its jobs until none is left."""
        if place.step is _Step.CONVERT:
            self._serve_conversions(place, take)
            return
        plugin = self._plugin(place)
        # Artifacts are made, and judged, on this machine itself, however its own target is reached.
        at_home = place.step is not _Step.RUN
        wanted = self._wanted(plugin, None if at_home else self._suite.plugins.targets.get(place.target))
        if wanted.way.reach is Reach.STATIC:
            self._serve_look_ups(wanted, plugin.file, take)
            return
        try:
            with self._lease(plugin, wanted) as lease, Behind() as behind:
                while (job := take()) is not None:
                    self._do(lease, behind, job, plugin)
        except EnvironmentFailure as failure:
            if place.step is _Step.EXPORT and not failure.unavailable:
                self._listener.says(f"environment of {plugin.name}: {failure}; what the archive has is taken instead")
            if failure.unsupported and place.step is _Step.RUN:
                self._serve_look_ups(wanted, plugin.file, take, failure)
                return
            outcome = Outcome.NOT_RUN if failure.unavailable else Outcome.ERROR
            reason = f"environment of {plugin.name}: {failure}"
            while (job := take()) is not None:
                self._cannot(job, outcome, reason, failure.log_tail)

    def _plugin(self, place: _Place) -> Exporter | Runtime | Reducer:
        match place.step:
            case _Step.EXPORT:
                return self._suite.plugins.exporters[place.plugin].within(place.environment)
            case _Step.REDUCE:
                return self._suite.plugins.reducers[place.plugin]
            case _:
                return self._runtime(place.plugin)

    def _wanted(self, plugin: Exporter | Runtime | Reducer, target: Target | None) -> Wanted:
        """Return what a worker of the plug-in on the target needs; without a target it is this machine."""
        if target is None or not isinstance(target.way, Way):
            return wanted_of(plugin, self._suite.host, Way(reach=Reach.NATIVE))
        return wanted_of(plugin, target.platform, target.way)

    def _patience(self) -> Patience:
        return Patience(self._suite.spec.limits.prepare_seconds, lambda: self._cancelled)

    def _announcer(self, name: str) -> Announce:
        return lambda text: self._listener.says(f"{name}: {text}")

    def _way(self, target: str) -> Way:
        way = self._suite.plugins.targets[target].way
        return way if isinstance(way, Way) else STATIC

    def _serve_look_ups(
        self, wanted: Wanted, runtime: Path, take: Take[_Job], refused: EnvironmentFailure | None = None
    ) -> None:
        """Look up what can be known of cells that cannot be run there; nothing is run.

        Either nothing leads to the target, or what the runtime needs is not made for it, as ``refused`` says.
        """
        patience, announce = self._patience(), self._announcer(wanted.name)
        while (job := take()) is not None:
            if not isinstance(job, _LookUp | _Run):
                self._cannot(job, Outcome.NOT_RUN, "the target is not reached", "")
                continue
            self._listener.begins(f"{job.cell} (look-up)")
            folder = self._store.bundle_folder(job.bundle.digest)
            try:
                found = static.look_up(self._store, wanted, job.bundle.manifest, folder, patience, runtime, announce)
            except EnvironmentFailure as failure:
                outcome = Outcome.NOT_RUN if failure.unavailable else Outcome.ERROR
                self._cannot(job, outcome, f"could not be looked up: {failure}", failure.log_tail)
                continue
            if refused is not None and found.possible:
                reason = f"environment of {wanted.name}: {refused}"
                self._cannot(job, Outcome.FAIL, reason, refused.log_tail)
                continue
            self._emit(self._recorder.looked_up(job.cell, job.bundle, found))

    def _serve_conversions(self, place: _Place, take: Take[_Job]) -> None:
        """Convert in the engine's own interpreter, in a process behind the same closed doors as all others."""
        try:
            with self._worker(
                conversion.launch()._replace(name=f"{place.plugin}-converter"), self._export_limits
            ) as lease:
                while (job := take()) is not None:
                    if isinstance(job, _Convert):
                        self._convert(lease, job)
        except EnvironmentFailure as failure:
            while (job := take()) is not None:
                self._cannot(job, Outcome.ERROR, str(failure), failure.log_tail)

    def _convert(self, lease: Lease, job: _Convert) -> None:
        self._listener.begins(f"{'/'.join(job.recipe.which)} (conversion)")
        made = conversion.convert(
            lease, job.recipe, job.source, job.key, self._store, self._export_limits, job.reduction
        )
        self._remember(job.key, made)
        self._exported(job.recipe, made)

    def _runtime(self, name: str) -> Runtime:
        return self._suite.plugins.runtimes[name]

    @contextmanager
    def lease(self, runtime: Runtime, target: str, threads: int) -> Iterator[Lease]:
        """Yield a lease on a worker of its own for the runtime on a target; raises ``EnvironmentFailure``."""
        wanted = self._wanted(runtime, self._suite.plugins.targets[target])
        with self._lease(runtime, wanted, threads) as lease:
            yield lease

    def installed_bytes(self, runtime: Runtime, target: str) -> int | None:
        """Return what the runtime's environment on a target takes of the disk, where it is a folder of the store."""
        wanted = self._wanted(runtime, self._suite.plugins.targets[target])
        folder = self._store.root / "envs" / place_of(wanted.way).key(wanted)
        return bytes_below(folder) if folder.is_dir() else None

    def limits(self, runtime: Runtime, target: str, beside: float = 0) -> Limits:
        """Return what a request to the runtime on a target may take: what a cell may, and ``beside`` seconds more.

        On an emulated target that is multiplied by how much slower it is there.
        """
        usual = self._cell_limits._replace(seconds=self._cell_limits.seconds + beside)
        return self._limits(usual, runtime.environment, self._way(target))

    @contextmanager
    def _lease(
        self, plugin: Exporter | Runtime | Reducer, wanted: Wanted, threads: int | None = None
    ) -> Iterator[Lease]:
        """Yield a lease on a worker in the plug-in's environment, built if need be; raises ``EnvironmentFailure``."""
        spec, name = plugin.environment, plugin.name
        place = place_of(wanted.way)
        key = place.key(wanted)
        if key in self._unbuilt:  # by another slot, or for another plug-in: it would take as long and end the same way
            raise self._unbuilt[key]
        try:
            built = place.ensure(self._store, wanted, self._announcer(name), self._patience())
        except EnvironmentFailure as failure:
            self._unbuilt[key] = failure
            raise
        except DiskFull as error:
            raise EnvironmentFailure(str(error)) from error
        shared = {self._store.root: True, self._suite.root: False, plugin.file.parent.parent: False}
        launch = environments.launch(built, name, spec, shared, wanted.way.prefix, wanted.way.env)
        if isinstance(plugin, Runtime):
            launch = launch._replace(plugin=plugin.file)
        with self._worker(launch, self._limits(self._cell_limits, spec, wanted.way), threads) as lease:
            yield lease

    @contextmanager
    def _worker(self, launch: Launch, limits: Limits, threads: int | None = None) -> Iterator[Lease]:
        with self._worker_folder(launch.name) as folder:
            lease = Lease(launch, folder, limits, threads or self._options.threads)
            self._leases.add(lease)
            try:
                yield lease
            finally:
                lease.close()
                self._leases.discard(lease)

    @contextmanager
    def _worker_folder(self, name: str) -> Iterator[Path]:
        if self._options.keep is not None:
            yield self._options.keep / name
            return
        with ExitStack() as stack:
            try:
                folder = stack.enter_context(self._store.scratch(f"worker-{name}"))
            except DiskFull as error:
                raise EnvironmentFailure(str(error)) from error
            yield folder

    def _do(self, lease: Lease, behind: Behind, job: _Job, plugin: Exporter | Runtime | Reducer) -> None:
        match job:
            case _Export():
                self._export(lease, job)
            case _Convert():
                self._convert(lease, job)
            case _Run():
                self._listener.begins(str(job.cell))
                self._run(lease, behind, job, self._runtime(plugin.name))
            case _Judge():
                self._judge(lease, job, self._runtime(plugin.name))
            case _LookUp(cell):
                raise AssertionError(f"{cell} is on a target that nothing leads to")  # _serve sees to it

    def _cannot(self, job: _Job, outcome: Outcome, reason: str, log_tail: str) -> None:
        """Record that the environment of a job is not to be had."""
        match job:
            case _Export(recipes):
                for recipe in recipes:
                    kept = self._archived(recipe)
                    if kept is not None:
                        self._exported(recipe, kept, archived=True)
                        continue
                    for item in self._with_derived(recipe):
                        self._not_made(item, outcome, reason, log_tail)
            case _Convert(recipe):
                for item in self._with_derived(recipe):
                    self._not_made(item, outcome, reason, log_tail)
            case _Run(cell, bundle) | _LookUp(cell, bundle):
                self._emit(self._recorder.record(cell, outcome, Stage.PREPARE, reason, log_tail, bundle))
            case _Judge(_, _, key, record):
                self._keep(key, record)
                self._emit(record)

    def _not_made(self, recipe: Recipe, outcome: Outcome, reason: str, log_tail: str) -> None:
        if self._made is not None:
            unavailable = outcome is Outcome.NOT_RUN
            self._note(recipe.which, Failure(Stage.PREPARE, reason, "harness", log_tail, unavailable=unavailable))
        for cell in self._waiting.pop(recipe.which, []):
            self._emit(self._recorder.record(cell, outcome, Stage.PREPARE, reason, log_tail))

    def _limits(self, usual: Limits, spec: EnvironmentSpec, way: Way | None = None) -> Limits:
        slowdown = way.slowdown if way is not None else 1
        return Limits(usual.seconds * slowdown, spec.memory_mb or usual.memory_mb)

    def _export(self, lease: Lease, job: _Export) -> None:
        first = job.recipes[0]
        limits = self._limits(self._export_limits, first.exporter.environment)
        name = f"{first.exporter.name}/{first.model}"
        if first.way.environment:
            name += f" in {first.way.environment}"
        with self._alone(f"model-{digest_of([name, self._digest(first)])[:16]}"):
            if self._cancelled:
                return
            # Another engine may have made some of them since this run planned them.
            recipes = list(job.recipes) if self._options.fresh else self._not_stored(job.recipes)
            if not recipes:
                return
            self._listener.begins(f"{name} (training)")
            untrained = export.train(lease, recipes[0], limits)
            for recipe in recipes:
                digest = self._digest(recipe) or ""
                if untrained is not None:
                    made: Bundle | Failure = untrained
                else:
                    self._listener.begins(f"{name}/{recipe.path} (export)")
                    made = export.export(lease, recipe, digest, self._here, self._store, limits)
                self._remember(digest, made)
                self._exported(recipe, made)

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """Hold the store's lock ``name``; wait while another engine has it, or until this run is cancelled."""
        lock = self._store.lock(name)
        while not self._cancelled:
            with suppress(Timeout):
                lock.acquire(timeout=1)
                break
        try:
            yield
        finally:
            if lock.is_locked:
                lock.release()

    def _not_stored(self, recipes: Iterable[Recipe]) -> list[Recipe]:
        """Send the cells of what the store has on their way; return the recipes that it does not have."""
        left: list[Recipe] = []
        for recipe in recipes:
            stored = self._stored(recipe)
            if stored is None:
                left.append(recipe)
            else:
                self._exported(recipe, stored)
        return left

    def _remember(self, digest: str, made: Bundle | Failure) -> None:
        """Note what a recipe came to, unless the cause lay with us."""
        try:
            if isinstance(made, Bundle):
                self._store.put("recipes", digest, {"bundle": made.digest})
            elif made.fault == "model" and not made.transient:
                entry = {"stage": made.stage.value, "reason": made.reason, "log_tail": made.log_tail}
                self._store.put("recipes", digest, entry)
        except DiskFull as error:
            self._listener.says(str(error))

    def _run(self, lease: Lease, behind: Behind, job: _Run, runtime: Runtime) -> None:
        """Run a cell; its outputs are compared and its record is written while the worker is at the next one."""
        bundle = job.bundle
        limits = self.limits(runtime, job.cell.target)
        folder = self._store.bundle_folder(bundle.digest)
        threads = self._options.threads
        answer = run.ask(lease, runtime, folder, bundle.manifest, limits, threads, sent=behind.go)
        worker = _Ran(lease.environment, lease.network, lease.interpreter_free)
        behind.later(lambda: self._finish(job, answer, worker))

    def _finish(self, job: _Run, answer: run.Answer | Failure, worker: _Ran) -> None:
        cell, bundle = job.cell, job.bundle
        made = run.read(answer)
        if isinstance(made, Failure):
            record = self._with(worker, self._recorder.failed(cell, made, bundle))
        else:
            start = time.perf_counter()
            reference = run.references(self._store, bundle.digest, bundle.manifest)
            comparisons = run.compare_outputs(bundle.manifest, reference, made.outputs, self._suite.spec)
            allowed = self._suite.spec.precision.accuracy_drop
            accuracy = run.accuracy_of(self._store, bundle.digest, bundle.manifest, made, allowed)
            made.seconds["COMPARE"] = made.seconds.get("COMPARE", 0.0) + time.perf_counter() - start
            record = self._with(worker, self._recorder.compared(cell, bundle, made, comparisons, accuracy))
            referee = self._referee(cell, bundle.manifest)
            if record.outcome is Outcome.FAIL and referee is not None:
                judge = _Judge(cell, bundle, job.key, record, made.outputs)
                # The artifact is judged, not the target: the referee works where it is at home.
                self._pool.add(_Place(_Step.JUDGE, referee.name, self._here), judge)
                return
        self._keep(job.key, record)
        self._emit(record)

    def _with(self, worker: _Ran, record: Record) -> Record:
        return self._recorder.with_worker(
            record, worker.environment, worker.network, interpreter_free=worker.interpreter_free
        )

    def _referee(self, cell: CellId, manifest: Manifest) -> Runtime | None:
        """Return the runtime that decides who is to blame for this cell, if another than its own is there."""
        # Of integers nothing is told by how far apart two outputs are.
        if manifest.kind is not PathKind.ONNX or manifest.precision.is_integer:
            return None
        referee = self._suite.plugins.runtimes.get(self._suite.spec.referees.get(manifest.format, ""))
        return referee if referee is not None and referee.name != cell.runtime else None

    def _keep(self, key: str, record: Record) -> None:
        try:
            reuse.keep(self._store, key, record)
        except DiskFull as error:
            self._listener.says(str(error))

    def _judge(self, lease: Lease, job: _Judge, referee: Runtime) -> None:
        limits = self._limits(self._cell_limits, referee.environment)
        self._listener.begins(f"{job.cell} (asking {referee.name} who is to blame)")
        made = run.run(lease, referee, job.bundle.digest, job.bundle.manifest, self._store, limits)
        reference = run.references(self._store, job.bundle.digest, job.bundle.manifest)
        found = run.blame(reference, job.outputs, made, referee.name)
        record = job.record.model_copy(update={"blame": found})
        self._keep(job.key, record)
        self._emit(record)

    def _emit(self, record: Record) -> None:
        record = self._recorder.expect(record)
        with self._writing:
            if self._cancelled:
                return
            self._journal.add(record)
        self._listener.ended(record)


def broken_records(suite: Suite, take: Globs | None, run_name: str) -> list[Record]:
    """Return an ERROR record for every plug-in that cannot be used, under the cells that it would have had.

    Coordinates that nobody can know are ``-``. Only what the selection ``take`` (None is everything) asks for counts.
    """
    places = [name for name, target in suite.plugins.targets.items() if isinstance(target.way, Way)] or [UNKNOWN]
    cells: list[tuple[CellId, str]] = []
    for item in suite.plugins.broken:
        match item.kind:
            case "exporter":
                models = suite.spec.models
                cells += [(CellId(item.name, model, UNKNOWN, UNKNOWN, places[0]), item.why) for model in models]
            case "runtime":
                cells += [(CellId(UNKNOWN, UNKNOWN, UNKNOWN, item.name, target), item.why) for target in places]
            case "target":
                cells.append((CellId(UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, item.name), item.why))
            case "precision":
                cells.append((CellId(UNKNOWN, UNKNOWN, item.name, UNKNOWN, places[0]), item.why))
            case "data":
                pass  # its models' cells exist and say so themselves
    return [
        Record(
            cell=str(cell),
            outcome=Outcome.ERROR,
            stage=Stage.PLAN,
            reason=why.replace(str(suite.root), "$SUITE"),
            run=run_name,
            started=now(),
            engine=__version__,
        )
        for cell, why in cells
        if take is None or cell in take
    ]
