"""The site's data: all cells as columns, and whatever else is known of them in chunks that are loaded when needed.

A page that was opened from a disk can fetch nothing, but it can load scripts. So each file is a call of a function,
``portmatrix.take(NAME, TEXT)``, and its text is JSON, deflated and in base64. All foreign text is made visible here;
the scripts make text nodes of it.
"""

from __future__ import annotations

import base64
import json
import math
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from operator import itemgetter
from typing import Any, NamedTuple

from pydantic_core import PydanticSerializationError

from portmatrix.advice import blame_in_words
from portmatrix.globs import Globs
from portmatrix.regression import CellChange, Label, Standing
from portmatrix.render.table import MARKS, REACH_MARKS, URGENCY, shown_of
from portmatrix.render.text import one_line, truncated, visible
from portmatrix.site.page import HISTORY, Context, shown_name
from portmatrix.spec import Expectation
from portmatrix.types import WORKING, CellId, Comparison, Outcome, Reach, Record, Stage

#: The five coordinates of a cell, in their order.
AXES = CellId._fields
#: Cells of one chunk of details: some 20 kB of a file, and a few milliseconds of a reader's time.
CHUNK = 256
#: Most characters of a reason in the list of cells; its page has the whole of it.
_LISTED = 300
_TEXT_LIMIT = 4_000
_LOG_LIMIT = 16_000
#: A record of more characters than this is cut to size, text by text.
_RECORD_LIMIT = 32_000
#: Most entries of a list of texts.
_ENTRIES = 200
#: What JSON writes as an escape and would have to be made visible; newlines, tabs and quotes need not be.
_ESCAPED = re.compile(r"\\[bfru]|\x7f")
#: Digits of a value beyond six that count: nobody sees them, and of all data they weigh most. The nines of 0.9999… do
#: not count. Inside of a text every quote is escaped, so that what looks like a value there is left alone.
_NEEDLESS = re.compile(r'((?<!\\)":-?(?:[1-9]\d*\.\d{5}|0\.[09]*[1-8]\d{5}))\d+')
_NOT_SHOWN: Any = {"cell": True, "schema_version": True, "latency": {"anchors", "baseline_environment", "blocks"}}


#: The bits of the column ``flags``.
FLAGS = {"archived": 1, "reused": 2, "planned": 4, "unstable": 8, "emulated": 16}


def files(context: Context) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of every data file; equal records give equal bytes."""
    yield "data/cells.js", _call("cells", json.dumps(columns(context), ensure_ascii=False, separators=(",", ":")))
    expectations = [(Globs([item.cells]), item) for item in context.spec.expect]
    changes = {change.cell: change for change in context.changes.cells} if context.changes else {}
    for number, start in enumerate(range(0, len(context.records), CHUNK)):
        chunk = context.records[start : start + CHUNK]
        details = ",".join(_details(record, context, expectations, changes.get(record.cell)) for record in chunk)
        yield f"data/details-{number}.js", _call(f"details-{number}", f"[{details}]")


def _call(name: str, text: str) -> bytes:
    packer = zlib.compressobj(level=6, wbits=-zlib.MAX_WBITS)
    packed = packer.compress(text.encode()) + packer.flush()
    return b'portmatrix.take("%s","%s");\n' % (name.encode(), base64.b64encode(packed))


# --- Columns --------------------------------------------------------------------------------------------------------


def columns(context: Context) -> dict[str, Any]:
    """Return what the list of cells is made of: names, and for each cell their numbers, column by column.

    Names of an axis are in their order, outcomes in that of urgency; ``reason``, ``stage``, ``reach``, ``opset`` and
    ``change`` count from 1, and 0 is none. ``needed`` is the largest factor on the strict tolerance of all outputs
    (-1: no tolerance would do), ``ratio`` and ``p50`` (seconds) are of the first timing; null where there is none.
    """
    records = context.records
    ids = [record.id for record in records]
    axes = {axis: _coded([cell[number] for cell in ids]) for number, axis in enumerate(AXES)}
    reasons, opsets = _Codes(), _Codes()
    standings = _ranks(Standing) if context.changes else {}
    return {
        "axes": {axis: coded.shown for axis, coded in axes.items()},
        "outcomes": [[shown.value, MARKS[shown].symbol, MARKS[shown].word, MARKS[shown].claim] for shown in URGENCY],
        "stages": [stage.value for stage in Stage],
        "reaches": [[reach.value, REACH_MARKS[reach]] for reach in Reach],
        "changes": [standing.value for standing in standings],
        "flags": FLAGS,
        "chunk": CHUNK,
        "columns": {
            **{axis: coded.codes for axis, coded in axes.items()},
            **_ended(context, reasons, standings),
            **_numbers(records),
            "opset": [opsets.code(one_line(str(record.facts.get("opset") or ""), 40)) for record in records],
        },
        "reasons": list(reasons),
        "opsets": list(opsets),
        **_kinship(context, axes),
    }


class _Axis(NamedTuple):
    """The names on an axis in their order, as they are and as they are shown, and each cell's place among them."""

    names: dict[str, int]
    shown: list[str]
    codes: list[int]


def _coded(values: Sequence[str]) -> _Axis:
    names = {name: code for code, name in enumerate(sorted(set(values)))}
    return _Axis(names, [shown_name(name) for name in names], [names[value] for value in values])


class _Codes(dict[str, int]):
    """Texts in the order in which they came up, from 1; the empty one is 0."""

    def code(self, text: str) -> int:
        return self.setdefault(text, len(self) + 1) if text else 0


def _ranks(order: Iterable[Any]) -> dict[Any, int]:
    return {value: place for place, value in enumerate(order, 1)}


def _ended(context: Context, reasons: _Codes, standings: Mapping[Standing, int]) -> dict[str, list[int]]:
    """Return how each cell ended, how its target was reached, and what became of it since the base."""
    outcomes = {shown: code for code, shown in enumerate(URGENCY)}
    stages, reaches = {None: 0} | _ranks(Stage), {None: 0} | _ranks(Reach)
    changes = {change.cell: standings[change.outcome] for change in context.changes.cells} if context.changes else {}
    records = context.records
    return {
        "outcome": [outcomes[shown_of(record)] for record in records],
        "stage": [stages[record.stage] for record in records],
        "reach": [reaches[record.reach] for record in records],
        "reason": [reasons.code(one_line(record.reason, _LISTED)) for record in records],
        "change": [changes.get(record.cell, 0) for record in records] if context.changes else [],
        "flags": [_flags(record, context.planned) for record in records],
    }


def _flags(record: Record, planned: Set[str]) -> int:
    found = FLAGS["archived"] * record.archived + FLAGS["reused"] * record.reused
    found += FLAGS["planned"] * (record.cell in planned)
    if record.latency:
        found += FLAGS["unstable"] * record.latency.unstable + FLAGS["emulated"] * record.latency.emulated
    return found


def _numbers(records: Sequence[Record]) -> dict[str, list[float | None]]:
    """Return what can be sorted by: how far off the outputs are, and how fast the cell is."""
    timed = [record.latency.timings[0] if record.latency and record.latency.timings else None for record in records]
    return {
        "needed": [_needed(record.comparisons) for record in records],
        "ratio": [_rounded(timing.ratio) if timing else None for timing in timed],
        "p50": [_rounded(timing.p50) if timing else None for timing in timed],
    }


def _needed(comparisons: Sequence[Comparison]) -> float | None:
    if not comparisons:
        return None
    found = [comparison.needed for comparison in comparisons]
    known = [value for value in found if value is not None and math.isfinite(value)]
    return _rounded(max(known)) if len(known) == len(found) else -1


def _rounded(value: float | None) -> float | None:
    """Return three significant digits of a number; None for none, and for what JSON has no word for."""
    return float(f"{value:.3g}") if value is not None and math.isfinite(value) else None


def _kinship(context: Context, axes: Mapping[str, _Axis]) -> dict[str, Any]:
    """Return what decides which cells are near one another, by the places of names on their axes.

    ``families`` has a number for each runtime, the same for versions of the same; where two runtimes are not known to
    the suite, each is a family of its own.
    """
    runtimes, frameworks, paths = axes["runtime"].names, axes["framework"].names, axes["path"].names
    families: dict[str, int] = {}
    named: dict[str, str] = {}
    referees: set[str] = set()
    for kinship in context.kinships.values():
        named |= kinship.families
        referees |= kinship.referees
    return {
        "families": [families.setdefault(named.get(name, name), len(families)) for name in runtimes],
        "referees": [runtimes[name] for name in sorted(referees) if name in runtimes],
        "roads": {
            str(frameworks[framework]): {
                str(paths[path]): [road.kind.value, road.format, road.batch.value]
                for path, road in sorted(kinship.roads.items())
                if path in paths
            }
            for framework, kinship in sorted(context.kinships.items())
            if framework in frameworks
        },
    }


# --- Details --------------------------------------------------------------------------------------------------------


def _details(
    record: Record, context: Context, expectations: Sequence[tuple[Globs, Expectation]], change: CellChange | None
) -> str:
    """Return all that a cell's page shows beside the columns, as JSON."""
    beside: dict[str, Any] = {}
    if record.outcome in (Outcome.FAIL, Outcome.XFAIL):
        beside["blamed"] = blame_in_words(record)
    if record.outcome not in (Outcome.PASS, Outcome.DEGRADED):
        covering = [item for globs, item in expectations if globs.match(record.cell) and item.explains(record.reason)]
        beside["foretold"] = [[item.outcome, item.stage.value, item.reason, item.link or ""] for item in covering]
    if context.base is not None:
        beside["base"] = _base(record, context.base.get(record.cell), change)
    if past := context.trends.get(record.cell, ())[-HISTORY:]:
        beside["history"] = [_past(former) for former in past]
    texts = [f'"record":{_record(record)}']
    texts += [f'"{name}":{_json(_shown(value))}' for name, value in beside.items() if value or name == "base"]
    return f"{{{','.join(texts)}}}"


def _record(record: Record) -> str:
    """Return a record as JSON, all of its text visible and of bounded length, its numbers to six digits."""
    try:
        line = record.model_dump_json(exclude=_NOT_SHOWN, exclude_defaults=True)
    except (PydanticSerializationError, UnicodeError):  # half a character, which UTF-8 has no bytes for
        line = ""
    harmless = line.isascii() or visible(line) == line
    if line and len(line) <= _RECORD_LIMIT and harmless and not _ESCAPED.search(line):
        return _NEEDLESS.sub(itemgetter(1), line) if record.comparisons or record.latency else line
    plain = record.model_dump(exclude=_NOT_SHOWN, exclude_defaults=True)
    log = plain.pop("log_tail", "")[-_LOG_LIMIT:]
    return _json(_shown(plain) | ({"log_tail": visible(log)} if log else {}))


def _shown(value: Any) -> Any:
    """Return plain values with all text visible, and cut to size; what JSON cannot say of a number is said in words."""
    match value:
        case bool() | int() | None:
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case str():
            text = str(getattr(value, "value", value))
            head = text[: 2 * _TEXT_LIMIT]
            return truncated(visible(head), _TEXT_LIMIT, unseen=len(text) - len(head))
        case Mapping():
            return {shown_name(str(name)): _shown(item) for name, item in value.items()}
        case _:
            return _entries(value)


def _entries(values: Sequence[Any]) -> list[Any]:
    many = len(values) > _ENTRIES and all(isinstance(value, str) for value in values)
    shown = [_shown(value) for value in (values[:_ENTRIES] if many else values)]
    return [*shown, f"… and {len(values) - _ENTRIES:,} more"] if many else shown


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _base(record: Record, before: Record | None, change: CellChange | None) -> dict[str, Any] | None:
    """Return how a cell stood in the base, and what of it changed; None where the base does not have it."""
    if before is None:
        return None
    found: dict[str, Any] = {
        "outcome": shown_of(before).value,
        "stage": before.stage.value if before.stage else "",
        "reason": before.reason,
        "run": before.run,
        "started": before.started,
    }
    if change is not None:
        found |= _changed(change)
    names = sorted(record.environment.keys() | before.environment.keys())
    differing = [(name, before.environment.get(name, ""), record.environment.get(name, "")) for name in names]
    found["environment"] = [item for item in differing if item[1] != item[2]]
    return {name: value for name, value in found.items() if value}


def _changed(change: CellChange) -> dict[str, Any]:
    worst = next((timing.why for timing in change.timings if timing.label is change.latency), "")
    drifts = [item for item in change.outputs if item.label]
    return {
        "standing": change.outcome.value,
        "accuracy": list(change.accuracy or ()) if change.accuracy_drifted else [],
        "outputs": [[item.output, item.batch, item.label, *item.max_abs, *item.snr_db] for item in drifts],
        "sizes": [[item.what, item.before, item.after] for item in change.sizes if item.notable],
        "latency": [change.latency.value, worst] if change.latency not in (None, Label.INSUFFICIENT) else [],
    }


def _past(record: Record) -> dict[str, Any]:
    """Return what the plot of a cell's history shows of one record: of its latency the first timing."""
    found: dict[str, Any] = {
        "started": record.started,
        "outcome": shown_of(record).value,
        "stage": record.stage.value if record.stage else "",
        "reason": one_line(record.reason, 200) if record.outcome not in WORKING else "",
        "run": record.run,
    }
    if record.latency and record.latency.timings and not record.reused:
        timing = record.latency.timings[0]
        found |= {
            "cpu": record.latency.host.get("cpu") or record.environment.get("processor", ""),
            "baseline": record.latency.baseline,
            "unstable": record.latency.unstable,
            "p50": timing.p50,
            "ratio": timing.ratio,
            "low": timing.low,
            "high": timing.high,
        }
    return {name: value for name, value in found.items() if value not in ("", None, False)}
