"""The report: one HTML page that needs nothing else, with every cell, its numbers and the command to run it again.

The page is a jinja2 template with autoescape on. The cells travel in it as JSON and become text nodes in the reader's
browser, never markup; a content security policy admits the page's own script, by its hash, and no request at all.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from portmatrix.rate import Rating
from portmatrix.render.readme import stars_text
from portmatrix.render.table import MARKS, REACH_MARKS, Shown, badge_table, count_shown, shown_of, urgency
from portmatrix.render.text import number, one_line, truncated, visible
from portmatrix.spec import SurveyEntry
from portmatrix.types import Comparison, Lookup, Reach, Record, Stage

_REASON_LIMIT = 4_000
_LOG_LIMIT = 16_000
_FIELDS = ("framework", "model", "path", "runtime", "target")


def report(
    records: Iterable[Record],
    ratings: Sequence[Rating],
    survey: Mapping[str, SurveyEntry] | None = None,
    title: str = "portmatrix report",
) -> str:
    """Return the report as HTML; equal records give equal bytes."""
    everything = sorted(records, key=urgency)
    script = _resource("report.js")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"visible": visible, "name": lambda text: one_line(text, 120), "stars": stars_text}
    return environment.from_string(_resource("report.html.j2")).render(
        title=one_line(title, 120),
        script=Markup(script),  # noqa: S704  # our own file
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        style=Markup(_resource("report.css")),  # noqa: S704  # our own file
        data=Markup(_json(_data(everything))),  # noqa: S704  # escaped by _json
        table=badge_table(everything, ratings, survey),
        ratings=ratings,
        counts=count_shown(everything),
        total=len(everything),
        marks={shown.value: mark for shown, mark in MARKS.items()},
        reach_marks={reach: letter for reach, letter in REACH_MARKS.items() if letter},
        runs=sorted({one_line(record.run, 120) for record in everything}),
        engines=sorted({one_line(record.engine, 120) for record in everything}),
    )


def _data(records: Sequence[Record]) -> dict[str, Any]:
    """Return what the page's script reads: the cells, with equal environments stored once."""
    environments: dict[tuple[tuple[str, str], ...], int] = {}
    cells = []
    for record in records:
        key = tuple(sorted((visible(name), visible(value)) for name, value in record.environment.items()))
        cells.append({**_cell(record), "environment": environments.setdefault(key, len(environments))})
    return {
        "cells": cells,
        "environments": [dict(key) for key in environments],
        "outcomes": {shown.value: {"mark": MARKS[shown].symbol, "word": MARKS[shown].word} for shown in Shown},
        "stages": [stage.value for stage in Stage],
        "reaches": {reach.value: REACH_MARKS[reach] for reach in Reach},
    }


def _cell(record: Record) -> dict[str, Any]:
    """Return one record as plain values, all text made visible and cut to size; what is empty is left out."""
    values: dict[str, Any] = {
        **{field: visible(value) for field, value in zip(_FIELDS, record.id, strict=True)},
        "outcome": shown_of(record).value,
        "recorded": record.outcome.value if record.outcome.value != shown_of(record).value else "",
        "stage": record.stage.value if record.stage else "",
        "reason": truncated(visible(record.reason[: 2 * _REASON_LIMIT]), _REASON_LIMIT, unseen=_unseen(record.reason)),
        "expected": truncated(visible(record.expected or ""), _REASON_LIMIT),
        "reach": record.reach.value if record.reach else "",
        "archived": record.archived,
        "reused": record.reused,
        "worst": _worst(record.comparisons),
        "accuracy": number(record.accuracy),
        "comparisons": [_comparison(comparison) for comparison in record.comparisons],
        "blame": {name: visible(text) for name, text in record.blame.model_dump().items()} if record.blame else None,
        "lookup": _lookup(record.lookup) if record.lookup else None,
        "facts": {visible(name): one_line(str(value), 500) for name, value in sorted(record.facts.items())},
        "seconds": {visible(name): number(value) for name, value in record.seconds.items()},
        "measured": visible(record.measured or ""),
        "started": visible(record.started),
        "run": visible(record.run),
        "bundle": visible(record.bundle or ""),
        "log": visible(record.log_tail[-_LOG_LIMIT:]),
    }
    return {name: value for name, value in values.items() if value}


def _lookup(lookup: Lookup) -> dict[str, str]:
    """Return what a look-up rests on, under the names under which the page shows it."""
    named = {
        "asked for": (lookup.asked,),
        "not published": lookup.missing,
        "newest that is": lookup.newest,
        "found": lookup.found,
        "runs from": (lookup.floor,),
        "lacks": lookup.lacking,
        "not checked": lookup.unchecked,
        "answered on": (lookup.date,),
    }
    return {name: truncated(visible("; ".join(texts)), _REASON_LIMIT) for name, texts in named.items()}


def _unseen(reason: str) -> int:
    return max(0, len(reason) - 2 * _REASON_LIMIT)


def _comparison(comparison: Comparison) -> dict[str, str]:
    shown = ("max_abs", "max_rel", "mismatched", "snr_db", "cosine", "top1", "needed")
    return {
        "output": one_line(comparison.output, 120),
        "batch": str(comparison.batch),
        "type": f"{one_line(comparison.dtype, 40)} {list(comparison.shape)}",
        **{name: number(getattr(comparison, name)) for name in shown},
        "tolerance": f"{number(comparison.tolerance.atol)} + {number(comparison.tolerance.rtol)}·|ref|",
        "verdict": comparison.verdict,
        "why": one_line(comparison.why, 500),
    }


def _worst(comparisons: Sequence[Comparison]) -> str:
    """Return the largest absolute difference of all outputs; NaN counts as the largest there is."""
    found = [comparison.max_abs for comparison in comparisons if comparison.max_abs is not None]
    return number(max(found, key=lambda value: math.inf if math.isnan(value) else value, default=None))


def _json(data: Mapping[str, Any]) -> str:
    """Return JSON that may stand inside a script element: pure ASCII, without ``<``, ``>`` and ``&``."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")


def _resource(name: str) -> str:
    return files("portmatrix.render").joinpath(name).read_text(encoding="utf-8")
