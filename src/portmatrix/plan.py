"""Which cells there are, which of them are asked for, and in which order and shard: from data to data, nothing else."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from typing import NamedTuple

from portmatrix.errors import NothingSelected, UserError, nearest
from portmatrix.globs import Globs, expand
from portmatrix.pairwise import Point, covering
from portmatrix.types import CellId


class Axes(NamedTuple):
    """The names on the five axes, and which formats leave and enter where.

    ``paths`` maps a framework to its paths and their formats; ``runtimes`` a runtime to the formats that it takes;
    ``takers`` are the pairs of runtime and target whose systems agree (None: all do). ``bounds`` are, for targets of
    which not everything belongs to the matrix, the globs over the cells that do.

    Of the cells that a glob of ``pairwise`` matches only so many belong to the matrix that any two values of the axes
    meet; ``traits`` says by framework and path what a path is on axes of its own (exporter, batch, opset, precision).
    """

    models: tuple[str, ...]
    paths: Mapping[str, Mapping[str, str]]
    runtimes: Mapping[str, frozenset[str]]
    targets: tuple[str, ...]
    takers: Set[tuple[str, str]] | None = None
    bounds: Mapping[str, tuple[str, ...]] = {}
    pairwise: tuple[str, ...] = ()
    traits: Mapping[tuple[str, str], tuple[str, ...]] = {}


class Selection(NamedTuple):
    """What was asked for: globs over cell ids to take and to leave, and shard ``(number from 1, of how many)``.

    ``full`` takes all cells that a pairwise choice would be made of.
    """

    take: tuple[str, ...] = ()
    leave: tuple[str, ...] = ()
    shard: tuple[int, int] = (1, 1)
    full: bool = False


class LeftOut(NamedTuple):
    """A cell that the suite itself excludes, and why."""

    cell: CellId
    why: str


class Plan(NamedTuple):
    """The cells to be tried, in order (all of one trained model together), and the ones the suite excludes."""

    cells: list[CellId]
    left_out: list[LeftOut]


def cells_of(axes: Axes) -> Iterator[CellId]:
    """Yield every cell that exists: a path's format must be one that the runtime takes, and the target its system."""
    fitting = {
        runtime: [target for target in axes.targets if axes.takers is None or (runtime, target) in axes.takers]
        for runtime in axes.runtimes
    }
    for framework, paths in axes.paths.items():
        takers = {
            path: [name for name, formats in axes.runtimes.items() if form in formats] for path, form in paths.items()
        }
        for model in axes.models:
            for path, runtimes in takers.items():
                for runtime in runtimes:
                    for target in fitting[runtime]:
                        yield CellId(framework, model, path, runtime, target)


def belonging(axes: Axes) -> Iterator[CellId]:
    """Yield every cell that belongs to the matrix: within the bounds of its target, and chosen where that is done."""
    beyond = spared(axes)
    return (cell for cell in _within(axes) if str(cell) not in beyond)


def _within(axes: Axes) -> Iterator[CellId]:
    """Yield every cell within the bounds of its target, or on a target that has none."""
    bounds = {target: Globs(globs) for target, globs in axes.bounds.items()}
    for cell in cells_of(axes):
        within = bounds.get(cell.target)
        if within is None or cell in within:
            yield cell


def spared(axes: Axes) -> frozenset[str]:
    """Return the ids of the cells that the pairwise choice leaves out, of all that are within the bounds.

    It is made for each target by itself. What other cells of the target show already counts.
    """
    if not axes.pairwise:
        return frozenset()
    globs = Globs(axes.pairwise)
    choice: dict[str, list[CellId]] = {}
    others: dict[str, list[CellId]] = {}
    for cell in _within(axes):
        (choice if cell in globs else others).setdefault(cell.target, []).append(cell)
    left: set[str] = set()
    for target, cells in choice.items():
        given = frozenset(_point(axes, cell) for cell in others.get(target, []))
        chosen = _chosen(tuple(_point(axes, cell) for cell in cells), given)
        left.update(str(cell) for index, cell in enumerate(cells) if index not in chosen)
    return frozenset(left)


@functools.lru_cache(maxsize=64)  # what is run here and what belongs to the matrix mostly agree
def _chosen(points: tuple[Point, ...], given: frozenset[Point]) -> frozenset[int]:
    return frozenset(covering(points, given))


def _unchosen(axes: Axes, unbounded: Collection[str]) -> frozenset[str]:
    """Return what no pairwise choice takes: that within the bounds, and for ``unbounded`` targets one without any."""
    left = spared(axes)
    if not axes.pairwise or not unbounded:
        return left
    bounds = {target: Globs(globs) for target, globs in axes.bounds.items() if target in unbounded}
    open_axes = axes._replace(
        targets=tuple(bounds), bounds={}, takers=axes.takers and {pair for pair in axes.takers if pair[1] in bounds}
    )
    beyond = (cell for cell in map(CellId.parse, spared(open_axes)) if cell not in bounds[cell.target])
    return left | frozenset(map(str, beyond))


def _point(axes: Axes, cell: CellId) -> Point:
    usual = (f"{cell.framework}/{cell.path}",)
    return (*axes.traits.get((cell.framework, cell.path), usual), cell.model, cell.runtime)


def parse_shard(text: str) -> tuple[int, int]:
    """Return ``(i, n)`` for ``i/n``; raises ``UserError`` unless 1 <= i <= n."""
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if match:
        number, count = int(match[1]), int(match[2])
        if 1 <= number <= count:
            return number, count
    raise UserError(f"--shard {text}: expected i/n with 1 <= i <= n, such as 2/8")


def plan(axes: Axes, exclusions: Sequence[tuple[str, str]], selection: Selection) -> Plan:
    """Return the plan for a selection.

    ``exclusions`` are pairs of glob and reason. What lies beyond the bounds of a target is planned only where a glob
    of the selection ends in the target's name; of that, too, a pairwise choice is made. What was not chosen is planned
    where a glob names its path, its runtime and its target. Shards part the trained models, not the cells, so that no
    two shards train the same one. Raises ``NothingSelected`` if no cell is left, naming what would have matched.
    """
    take = Globs(selection.take) if selection.take else None
    leave = Globs(selection.leave) if selection.leave else None
    excluded = [(Globs([pattern]), why) for pattern, why in exclusions]
    named, exact = _naming(selection.take, axes.bounds), _naming_exactly(selection.take)
    bounds = {target: Globs([*globs, *named.get(target, ())]) for target, globs in axes.bounds.items()}
    beyond = frozenset() if selection.full else _unchosen(axes, named.keys())
    globs = bool(take or leave or excluded or bounds or beyond)
    number, count = selection.shard
    cells: list[CellId] = []
    left_out: list[LeftOut] = []
    group: tuple[str, ...] = ()
    groups = -1
    for cell in cells_of(axes):
        text = "/".join(cell) if globs else ""
        if take is not None and not take.match(text):
            continue
        if leave is not None and leave.match(text):
            continue
        within = bounds.get(cell.target)
        if within is not None and not within.match(text):
            continue
        if text in beyond and not exact.match(text):
            continue
        if cell[:2] != group:
            group = cell[:2]
            groups += 1
        if groups % count != number - 1:
            continue
        why = next((why for pattern, why in excluded if pattern.match(text)), None) if excluded else None
        if why is None:
            cells.append(cell)
        else:
            left_out.append(LeftOut(cell, why))
    if not cells and not left_out:
        raise NothingSelected(_nothing(axes, selection, groups + 1))
    return Plan(cells, left_out)


def exactly(axes: Axes, exclusions: Sequence[tuple[str, str]], wanted: Iterable[str]) -> tuple[Plan, list[str]]:
    """Return the plan of these cells and no others, and those of them that do not exist, in the order of ids.

    Cells that were named one by one are planned whatever the bounds of their targets are.
    """
    left = set(wanted)
    excluded = [(Globs([pattern]), why) for pattern, why in exclusions]
    planned = Plan([], [])
    for cell in cells_of(axes):
        text = str(cell)
        if text not in left:
            continue
        left.discard(text)
        why = next((why for pattern, why in excluded if pattern.match(text)), None)
        if why is None:
            planned.cells.append(cell)
        else:
            planned.left_out.append(LeftOut(cell, why))
    return planned, sorted(left)


def _naming(patterns: Sequence[str], targets: Iterable[str]) -> dict[str, list[str]]:
    """Return the globs that end in the name of a target, by target: they ask for what is beyond its bounds."""
    single = [glob for pattern in patterns for glob in expand(pattern)]
    naming = {target: [glob for glob in single if glob.endswith(f"/{target}")] for target in targets}
    return {target: globs for target, globs in naming.items() if globs}


def _naming_exactly(patterns: Sequence[str]) -> Globs:
    """Return the globs that name path, runtime and target, and so ask for what the pairwise choice leaves out."""
    single = (glob for pattern in patterns for glob in expand(pattern))
    return Globs(
        [glob for glob in single if glob.count("/") == 4 and not set("/".join(glob.split("/")[2:])) & set("*?[")]
    )


def _nothing(axes: Axes, selection: Selection, groups: int) -> str:
    if groups:
        return f"shard {selection.shard[0]}/{selection.shard[1]} is empty: only {groups} trained models are selected"
    example = next(iter(cells_of(axes)), None)
    if example is None:
        return "the suite has no cells: it needs at least one exporter, runtime and target that fit each other"
    asked = " ".join(selection.take) or "*"
    if axes.bounds or axes.pairwise:
        beyond = next(iter(_matched(axes, selection)), None)
        if beyond is not None:
            return (
                f"{asked!r} matches only cells that are beyond the scope of their targets, or left out by the pairwise"
                f" choice, such as {beyond}; to take these, too, end the glob in the name of the target,"
                f" '*/{beyond.target}', or add --full"
            )
    hint = _cut_short(axes, selection.take) or _misspelt(axes, selection.take)
    return f"nothing matches {asked!r}{hint}; cell ids look like {example}; `portmatrix list cells` shows all of them"


def _matched(axes: Axes, selection: Selection) -> Iterator[CellId]:
    take, leave = Globs(selection.take or ("*",)), Globs(selection.leave)
    return (cell for cell in cells_of(axes) if cell in take and cell not in leave)


def _cut_short(axes: Axes, patterns: Sequence[str]) -> str:
    """Return a hint at the pattern that would match with the last names of an id behind it; empty if none would."""
    longer = [(f"{pattern.rstrip('/')}/*", Globs([f"{pattern.rstrip('/')}/*"])) for pattern in patterns]
    found = (text for text, globs in longer if any(cell in globs for cell in cells_of(axes)))
    return next((f" (did you mean {text!r}?)" for text in found), "")


def _misspelt(axes: Axes, patterns: Sequence[str]) -> str:
    """Return a hint at the name that a word of the patterns, which is none, is closest to; empty if none is close."""
    paths = [path for paths in axes.paths.values() for path in paths]
    names = [*axes.paths, *axes.models, *paths, *axes.runtimes, *axes.targets]
    words = [word for pattern in patterns for word in pattern.split("/") if not set(word) & set("*?[{")]
    return next((hint for word in words if word not in names and (hint := nearest(word, names))), "")
