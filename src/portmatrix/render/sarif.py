"""Unexpected cells as SARIF 2.1.0, for code scanning: a rule for each outcome and stage, a result for each cell.

The format is the OASIS standard *Static Analysis Results Interchange Format* 2.1.0, with what GitHub asks for on top.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

from portmatrix import __version__
from portmatrix.render.table import MARKS, shown_of, urgency
from portmatrix.render.text import one_line
from portmatrix.render.unexpected import Locate, Location, ended, why
from portmatrix.types import Outcome, Record

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
#: GitHub shows as many results of a run as alerts.
LIMIT = 5_000


def sarif(records: Iterable[Record], locate: Locate, limit: int = LIMIT) -> str:
    """Return the unexpected among ``records`` as a SARIF log: at most ``limit``, the most urgent, the others counted.

    FAIL and ERROR are errors, XPASS is a warning. Every result names its cell as a logical location, and a line of a
    file as a physical one where ``locate`` knows it. Equal records give equal bytes.
    """
    unexpected = sorted((record for record in records if record.unexpected), key=urgency)
    rules: dict[str, dict[str, Any]] = {}
    for record in unexpected[:limit]:
        rules.setdefault(_rule_id(record), _rule(record))
    order = {name: number for number, name in enumerate(rules)}
    run = {
        "tool": {"driver": {"name": "portmatrix", "semanticVersion": __version__, "rules": list(rules.values())}},
        "automationDetails": {"id": "portmatrix/"},
        "columnKind": "unicodeCodePoints",
        "results": [_result(record, order[_rule_id(record)], locate(record)) for record in unexpected[:limit]],
    }
    left_out = len(unexpected) - limit
    if left_out > 0:
        run["invocations"] = [{"executionSuccessful": True, "toolExecutionNotifications": [_notification(left_out)]}]
    log = {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}
    return json.dumps(log, indent=1) + "\n"


def _rule_id(record: Record) -> str:
    return f"{record.outcome.value}/{record.stage.value}" if record.stage else record.outcome.value


def _rule(record: Record) -> dict[str, Any]:
    words = (record.outcome.value, *(("at", record.stage.value) if record.stage else ()))
    claim = MARKS[shown_of(record)].claim
    return {
        "id": _rule_id(record),
        "name": "".join(word.capitalize() for word in words),
        "shortDescription": {"text": ended(record)},
        "fullDescription": {"text": f"{ended(record)}: {claim}."},
        "help": {"text": "Run the cell again with `portmatrix repro CELL`; `portmatrix explain CELL` says what works."},
        "defaultConfiguration": {"level": _level(record)},
    }


def _level(record: Record) -> str:
    return "warning" if record.outcome is Outcome.XPASS else "error"


def _result(record: Record, rule: int, place: Location | None) -> dict[str, Any]:
    cell = one_line(record.cell, 1_000)
    location: dict[str, Any] = {"logicalLocations": [{"fullyQualifiedName": cell}]}
    if place is not None:
        location["physicalLocation"] = {
            "artifactLocation": {"uri": quote(place.file, errors="surrogatepass"), "uriBaseId": "%SRCROOT%"},
            "region": {"startLine": max(1, place.line)},
        }
    same = f"{record.cell} {_rule_id(record)}".encode(errors="surrogatepass")
    return {
        "ruleId": _rule_id(record),
        "ruleIndex": rule,
        "level": _level(record),
        "message": {"text": f"{cell}: {why(record, 2_000)}"},
        "locations": [location],
        # By this GitHub knows an alert again, and tells those apart that are about the same line.
        "partialFingerprints": {"primaryLocationLineHash": f"{hashlib.sha256(same).hexdigest()[:16]}:1"},
        "properties": {
            name: value
            for name, value in {
                **{axis: one_line(part, 200) for axis, part in record.id._asdict().items()},
                "reach": record.reach.value if record.reach else "",
                "run": one_line(record.run, 200),
            }.items()
            if value
        },
    }


def _notification(left_out: int) -> dict[str, Any]:
    text = f"{left_out:,} more unexpected cells were left out; the records have them all"
    return {"level": "warning", "message": {"text": text}}
