"""Why a cell is as it is, which of its neighbours work, and which smallest change would deploy its model there.

From data to data: whether the advice holds is found out by running it, which is not done here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from typing import NamedTuple

from portmatrix.errors import nearest
from portmatrix.globs import Globs
from portmatrix.plan import Axes, belonging, cells_of
from portmatrix.spec import Expectation
from portmatrix.types import CONCLUSIVE, WORKING, Batch, CellId, Outcome, PathKind, Record, Stage


class Road(NamedTuple):
    """What a framework's path is: its kind, the format that it writes, and whether the batch is fixed."""

    kind: PathKind
    format: str
    batch: Batch


class Kinship(NamedTuple):
    """What of the suite decides how far two cells are apart.

    ``roads`` are the paths of the cell's framework by name; ``families`` names for each runtime what all of its
    versions have in common. ``referees`` are the runtimes that are there to judge others: nobody deploys them, and of
    equally near neighbours theirs come last.
    """

    roads: Mapping[str, Road]
    families: Mapping[str, str]
    referees: frozenset[str] = frozenset()


class Step(str, Enum):
    """One thing that differs between a cell and its neighbour, the smallest change first."""

    BATCH = "batch"
    VERSION = "runtime version"
    VARIANT = "path of the same kind"
    RUNTIME = "runtime"
    KIND = "native or ONNX"


class Neighbour(NamedTuple):
    """A cell of the same framework, model and target, and what of it differs."""

    cell: CellId
    steps: tuple[Step, ...]
    record: Record | None

    @property
    def distance(self) -> int:
        """How much changes: each step counts more than all smaller ones together."""
        order = list(Step)
        return sum(2 ** order.index(step) for step in self.steps)


class State(str, Enum):
    """What is to be explained of a cell."""

    WORKS = "works"
    FAILS = "fails"
    UNKNOWN = "nobody knows"


class Explanation(NamedTuple):
    """What is known of a cell.

    ``unplanned`` is why no run would take it, empty where one would. ``works`` and ``untried`` are its neighbours, the
    nearest first: those that work, and those that a run would take but of which nothing is known. ``elsewhere`` are the
    same model, path and runtime on other targets, where they work.
    """

    cell: CellId
    state: State
    record: Record | None
    unplanned: str
    expectations: tuple[Expectation, ...]
    works: tuple[Neighbour, ...]
    untried: tuple[Neighbour, ...]
    elsewhere: tuple[Record, ...]


def explain(
    cell: CellId,
    found: Mapping[str, Record],
    kinship: Kinship,
    axes: Axes,
    exclusions: Sequence[tuple[str, str]] = (),
    expectations: Iterable[Expectation] = (),
) -> Explanation:
    """Return what is known of a cell by the standing records ``found``, which are by cell id.

    ``axes`` and ``exclusions`` say what a run would take, ``expectations`` what is foretold.
    """
    record = found.get(str(cell))
    around = [item for item in neighbours(cell, found, kinship, axes) if not unplanned(item.cell, axes, exclusions)]
    return Explanation(
        cell=cell,
        state=_state(record),
        record=record,
        unplanned=unplanned(cell, axes, exclusions),
        expectations=tuple(item for item in expectations if item.covers(cell, record.reason if record else None)),
        works=tuple(item for item in neighbours(cell, found, kinship) if _works(item.record)),
        untried=tuple(item for item in around if item.record is None or item.record.outcome not in CONCLUSIVE),
        elsewhere=tuple(_elsewhere(cell, found.values())),
    )


def _state(record: Record | None) -> State:
    if record is None or record.outcome not in CONCLUSIVE:
        return State.UNKNOWN
    return State.WORKS if record.outcome in WORKING else State.FAILS


def _works(record: Record | None) -> bool:
    return record is not None and record.outcome in WORKING


def _elsewhere(cell: CellId, found: Iterable[Record]) -> Iterator[Record]:
    for record in found:
        other = record.id
        if other[:4] == cell[:4] and other != cell and record.outcome in WORKING:
            yield record


# --- Neighbours -----------------------------------------------------------------------------------------------------


def neighbours(
    cell: CellId, found: Mapping[str, Record], kinship: Kinship, axes: Axes | None = None
) -> list[Neighbour]:
    """Return the cells of the same framework, model and target, the nearest first.

    They are those that have a record and, if ``axes`` are given, all others that there are. Of equally near ones those
    of a referee come last, and DEGRADED after PASS.
    """
    cells = {record.id for record in found.values() if _beside(record.id, cell)}
    if axes is not None:
        paths = {name: paths for name, paths in axes.paths.items() if name == cell.framework}
        models = tuple(name for name in axes.models if name == cell.model)
        targets = tuple(name for name in axes.targets if name == cell.target)
        cells |= set(cells_of(axes._replace(paths=paths, models=models, targets=targets))) - {cell}
    made = [Neighbour(other, steps_between(cell, other, kinship), found.get(str(other))) for other in cells]
    return sorted(made, key=lambda item: _order(item, kinship))


def _beside(other: CellId, cell: CellId) -> bool:
    same = (other.framework, other.model, other.target) == (cell.framework, cell.model, cell.target)
    return same and other != cell


def _order(neighbour: Neighbour, kinship: Kinship) -> tuple[int, bool, bool, CellId]:
    degraded = neighbour.record is not None and neighbour.record.outcome is Outcome.DEGRADED
    return neighbour.distance, neighbour.cell.runtime in kinship.referees, degraded, neighbour.cell


def steps_between(cell: CellId, other: CellId, kinship: Kinship) -> tuple[Step, ...]:
    """Return what differs between two cells of one framework, model and target, the smallest change first."""
    steps: set[Step] = set()
    if other.path != cell.path:
        steps |= set(_path_steps(cell.path, other.path, kinship.roads))
    if other.runtime != cell.runtime:
        families = (kinship.families.get(name, name) for name in (cell.runtime, other.runtime))
        steps.add(Step.VERSION if len(set(families)) == 1 else Step.RUNTIME)
    return tuple(step for step in Step if step in steps)


def _path_steps(path: str, other: str, roads: Mapping[str, Road]) -> Iterator[Step]:
    mine, theirs = roads.get(path), roads.get(other)
    if mine is None or theirs is None:  # A record of a path that the suite has no more: it may be anything.
        yield Step.KIND
        return
    if mine.batch is not theirs.batch:
        yield Step.BATCH
    if mine.kind is not theirs.kind:
        yield Step.KIND
    elif mine.batch is theirs.batch or mine.format != theirs.format or not _one_name(path, other):
        yield Step.VARIANT


def _one_name(path: str, other: str) -> bool:
    """Return whether two paths are one but for a suffix, such as ``onnx-dynamo`` and ``onnx-dynamo-dynamic``."""
    short, long = sorted((path, other), key=len)
    return long.startswith(f"{short}-")


def change_in_words(cell: CellId, neighbour: Neighbour, roads: Mapping[str, Road]) -> str:
    """Return what to do other than ``cell`` does to come to its neighbour."""
    parts = []
    if neighbour.cell.path != cell.path:
        road = roads.get(neighbour.cell.path)
        nature = f" ({road.kind.value}, {road.batch.value} batch)" if road else ""
        parts.append(f"export by {neighbour.cell.path}{nature} instead of {cell.path}")
    if neighbour.cell.runtime != cell.runtime:
        parts.append(f"run it by {neighbour.cell.runtime} instead of {cell.runtime}")
    return ", and ".join(parts)


# --- What a run would take ------------------------------------------------------------------------------------------


def unknown_name(cell: CellId, axes: Axes) -> str:
    """Return what is wrong with a cell that has a name which the suite has not, or an empty string."""
    for word, name, legal in (
        ("framework", cell.framework, tuple(axes.paths)),
        ("model", cell.model, axes.models),
        ("path", cell.path, tuple(axes.paths.get(cell.framework, ()))),
        ("runtime", cell.runtime, tuple(axes.runtimes)),
        ("target", cell.target, axes.targets),
    ):
        if name not in legal:
            of = f" of {cell.framework}" if word == "path" else ""
            return f"the suite has no {word} {name!r}{of}; expected one of {', '.join(legal)}{nearest(name, legal)}"
    return ""


def unplanned(cell: CellId, axes: Axes, exclusions: Sequence[tuple[str, str]] = ()) -> str:
    """Return why a run of everything would not take a cell, or an empty string if it would."""
    if wrong := unknown_name(cell, axes):
        return wrong
    form = axes.paths[cell.framework][cell.path]
    taken = axes.runtimes[cell.runtime]
    if form not in taken:
        return f"{cell.path} writes {form}, and {cell.runtime} takes {', '.join(sorted(taken))}"
    if axes.takers is not None and (cell.runtime, cell.target) not in axes.takers:
        return f"{cell.runtime} does not run on the operating system of {cell.target}"
    excluded = next((why for glob, why in exclusions if cell in Globs([glob])), None)
    if excluded is not None:
        return f"the suite excludes it: {excluded}"
    only = axes._replace(
        paths={cell.framework: {cell.path: form}}, models=(cell.model,), runtimes={cell.runtime: taken},
        targets=(cell.target,),
    )  # fmt: skip
    if not any(belonging(only)):
        return f"it is beyond the scope of {cell.target}; `portmatrix run {cell}` asks for it all the same"
    return ""


def blame_in_words(record: Record) -> str:
    """Return who is to blame for a failure, or why nobody was asked."""
    if record.blame is not None:
        party = {"exporter": "the exporter", "runtime": "the runtime"}.get(record.blame.party, "undecided")
        return f"{party}, says {record.blame.referee}: {record.blame.why}"
    if record.stage is Stage.COMPARE:
        return "no referee was asked: none is named for this format, or the cell is the referee's own"
    return f"no referee was asked: it is asked about failures at COMPARE, and this one is at {_stage(record)}"


def _stage(record: Record) -> str:
    return record.stage.value if record.stage is not None else "no stage"
