"""Write the tables of docs/survey.md: what the survey of 2016 said, beside what the reference records say today.

    python scripts/survey_page.py [--check]

Each table stands between two comments that name it. With ``--check`` nothing is written, and the exit status is 1 if a
table does not agree with ``results/reference.jsonl``, ``matrix.yaml`` and ``src/portmatrix/survey.yaml``.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from portmatrix import records, suite, survey
from portmatrix.rate import rate
from portmatrix.records import ResultSet
from portmatrix.render.readme import replace_section, stars_text
from portmatrix.render.table import REACH_MARKS, counted_ratio
from portmatrix.spec import MatrixSpec
from portmatrix.store import write_whole
from portmatrix.survey import Survey
from portmatrix.types import CONCLUSIVE, WORKING, Outcome, Reach, Record, Stage

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "survey.md"
REFERENCE = ROOT / "results" / "reference.jsonl"
#: What stands in a table where there is nothing to say.
NOTHING = "-"


def tables(found: Sequence[Record], spec: MatrixSpec, told: Survey) -> dict[str, str]:
    """Return the page's tables by name, as Markdown; ``found`` has one record for each cell."""
    frameworks = followers(spec, told)
    return {
        "stars": _table(_stars(told)),
        "families": _table(_families(found, list(spec.models), frameworks)),
        "claims": _table(_claims(found, told)),
        "deployment": _table(_deployment(found, spec, frameworks)),
        "platforms": _table(_platforms(found, spec, frameworks)),
        "latency": _table(_latencies(found)),
    }


def followers(spec: MatrixSpec, told: Survey) -> dict[str, str]:
    """Return the frameworks that the survey rated, or whose predecessor it rated, with the toolkit, in its order."""
    order = list(told.toolkits)
    rated = sorted(spec.ratings.survey.items(), key=lambda item: (order.index(item[1].toolkit), item[1].successor))
    return {name: entry.toolkit for name, entry in rated}


def _table(rows: Iterable[Sequence[str]]) -> str:
    head, *body = rows
    # Columns of numbers are set flush right.
    numbers = (any(row[column][:1].isdigit() for row in body) for column in range(1, len(head)))
    ruler = ["---", *("---:" if one else "---" for one in numbers)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ruler, *body))


# --- Then -----------------------------------------------------------------------------------------------------------


def _stars(told: Survey) -> Iterator[Sequence[str]]:
    yield ["toolkit", *told.stars]
    for toolkit in told.toolkits:
        given = (told.stars[section].get(toolkit) for section in told.stars)
        yield [toolkit, *(NOTHING if value is None else f"{value:g}" for value in given)]


# --- Now ------------------------------------------------------------------------------------------------------------


def _families(found: Sequence[Record], models: Sequence[str], frameworks: Iterable[str]) -> Iterator[Sequence[str]]:
    names = list(frameworks)
    yield ["model", *names]
    for model in models:
        yield [model, *(_trained(_of(found, name, model)) for name in names)]


def _trained(found: Sequence[Record]) -> str:
    """Return the accuracy on held-out samples in percent, or in a word why there is none."""
    reached = {record.accuracy for record in found if record.accuracy is not None}
    if reached:
        return " or ".join(f"{100 * value:.1f}" for value in sorted(reached))
    if any(record.stage is Stage.TRAIN and record.outcome in CONCLUSIVE for record in found):
        return "cannot"
    if any(record.outcome in CONCLUSIVE and _beyond_export(record) for record in found):
        return "runs"
    return "left out" if any(record.outcome is Outcome.SKIP for record in found) else NOTHING


def _beyond_export(record: Record) -> bool:
    return record.outcome in WORKING or record.stage in (Stage.LOAD, Stage.RUN, Stage.COMPARE)


def _claims(found: Sequence[Record], told: Survey) -> Iterator[Sequence[str]]:
    yield ["toolkit", "the survey said", "in", "cells that work, of those that were run to an answer"]
    for claim in told.claims:
        shown = ", ".join(f"`{model}` {_share(_of(found, claim.framework, model))}" for model in claim.models)
        yield [claim.toolkit, claim.says, f"`{claim.framework}`", shown]


def _was_run(record: Record) -> bool:
    """Return whether a record is an answer, and not one that was looked up."""
    return record.outcome in CONCLUSIVE and record.reach is not Reach.STATIC


def _share(found: Sequence[Record]) -> str:
    tried = [record for record in found if _was_run(record)]
    if tried and all(record.stage is Stage.TRAIN for record in tried):
        return "cannot be expressed"
    return f"{sum(record.outcome in WORKING for record in tried)}/{len(tried)}" if tried else "not tried"


def _deployment(found: Sequence[Record], spec: MatrixSpec, frameworks: dict[str, str]) -> Iterator[Sequence[str]]:
    ratings = {rating.framework: rating.deployment for rating in rate(found, spec.ratings)}
    yield ["framework", "survey of 2016", "deployment, measured", "models that work without an interpreter"]
    for name, toolkit in frameworks.items():
        entry = spec.ratings.survey[name]
        follows = "follows " if entry.successor else ""
        own = [record for record in found if record.id.framework == name]
        free = {r.id.model for r in own if r.outcome in WORKING and r.facts.get("interpreter_free")}
        given = NOTHING if entry.deployment is None else f"{entry.deployment:g}"
        yield [f"`{name}`", f"{follows}{toolkit}: {given}", stars_text(ratings[name]), _of_models(free, own)]


def _platforms(found: Sequence[Record], spec: MatrixSpec, frameworks: Iterable[str]) -> Iterator[Sequence[str]]:
    yield ["framework", *spec.ratings.platforms]
    for name in frameworks:
        own = [record for record in found if record.id.framework == name]
        yield [f"`{name}`", *(_on_platform(own, targets) for targets in spec.ratings.platforms.values())]


def _on_platform(own: Sequence[Record], targets: Sequence[str]) -> str:
    """Return how many models work on a platform by some path and runtime, and how it was reached at best."""
    there = [record for record in own if any(fnmatchcase(record.id.target, glob) for glob in targets)]
    run = [record for record in there if _was_run(record)]
    if not run:
        could = {record.id.model for record in there if record.lookup is not None and record.lookup.possible}
        if could:
            return f"looked up: {len(could)} could"
        return "looked up: cannot" if any(record.lookup is not None for record in there) else NOTHING
    best = next((reach for reach in Reach if any(record.reach is reach for record in run)), Reach.NATIVE)
    mark = f" ({REACH_MARKS[best]})" if REACH_MARKS[best] else ""
    return _of_models({record.id.model for record in run if record.outcome in WORKING}, there) + mark


def _of_models(works: set[str], own: Sequence[Record]) -> str:
    return f"{len(works)} of {len({record.id.model for record in own})}"


def _latencies(found: Sequence[Record]) -> Iterator[Sequence[str]]:
    yield ["framework", "by runtime", "cells measured", "time over the baseline's, median"]
    ratios: dict[tuple[str, str], list[float]] = {}
    for record in found:
        if (ratio := counted_ratio(record)) is not None:
            ratios.setdefault((record.id.framework, record.id.runtime), []).append(ratio)
    for (framework, runtime), values in sorted(ratios.items()):
        yield [f"`{framework}`", f"`{runtime}`", str(len(values)), f"{statistics.median(values):.2f}"]
    if not ratios:
        yield ["none", NOTHING, "0", NOTHING]


def _of(found: Sequence[Record], framework: str, model: str) -> list[Record]:
    return [record for record in found if record.id.framework == framework and record.id.model == model]


# --- The page -------------------------------------------------------------------------------------------------------


def with_tables(text: str, made: dict[str, str]) -> str:
    """Return the page with its tables replaced; each name has its two comments in it exactly once."""
    for name, table in made.items():
        marks = (f"<!-- portmatrix:survey-{name}:{end} -->" for end in ("begin", "end"))
        text = replace_section(text, table, *marks)
    return text


def today() -> dict[str, str]:
    """Return the tables as the committed records, suite and survey have them."""
    loaded = suite.load(ROOT)
    found = ResultSet(records.read(REFERENCE)).records
    return tables(found, loaded.spec, survey.load())


def main() -> int:
    """Write the tables, or say whether they are stale; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a table is stale")
    check = parser.parse_args().check
    text = PAGE.read_text(encoding="utf-8")
    new = with_tables(text, today())
    if not check:
        write_whole(PAGE, new)
    elif new != text:
        print(f"{PAGE} does not agree with the records; run python scripts/survey_page.py")
    return int(check and new != text)


if __name__ == "__main__":
    sys.exit(main())
