"""JUnit XML, for the test views of CI systems: a suite per framework, a test case per cell.

FAIL and XPASS are failures, ERROR is an error; SKIP, NOT_RUN, XFAIL and an ERROR that was foretold are skipped, each
with its own ``type``, since JUnit has no word for them. PASS and DEGRADED have passed, DEGRADED with its reason in
``system-out``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from xml.etree import ElementTree as ET  # only writes; nothing is parsed here

from portmatrix.render.text import truncated, visible
from portmatrix.types import Outcome, Record

_ELEMENTS = {
    Outcome.FAIL: "failure",
    Outcome.XPASS: "failure",
    Outcome.ERROR: "error",
    Outcome.SKIP: "skipped",
    Outcome.NOT_RUN: "skipped",
    Outcome.XFAIL: "skipped",
}


def _element(record: Record) -> str | None:
    """Return the element of JUnit that says how a cell ended, None where it passed."""
    foretold = record.outcome is Outcome.ERROR and not record.unexpected
    return "skipped" if foretold else _ELEMENTS.get(record.outcome)


def junit(records: Iterable[Record], name: str = "portmatrix") -> str:
    """Return the records as a JUnit XML document in UTF-8, without characters that XML 1.0 forbids."""
    suites: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda record: record.id):
        suites.setdefault(record.id.framework, []).append(record)
    everything = [record for suite in suites.values() for record in suite]
    root = ET.Element("testsuites", {"name": visible(name), **_totals(everything)})
    for framework, suite in suites.items():
        element = ET.SubElement(root, "testsuite", {"name": visible(framework), **_totals(suite)})
        for record in suite:
            _case(element, record)
    ET.indent(root)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _case(suite: ET.Element, record: Record) -> None:
    cell = record.id
    names = {"classname": visible(f"{cell.framework}.{cell.target}"), "name": visible(record.cell)}
    case = ET.SubElement(suite, "testcase", {**names, "time": _seconds([record])})
    properties = ET.SubElement(case, "properties")
    facts = {"outcome": record.outcome.value, "stage": record.stage.value if record.stage else ""}
    facts |= {"reach": record.reach.value if record.reach else "", "expected": visible(record.expected or "")}
    facts["archived"] = "true" if record.archived else ""
    for key, value in facts.items():
        if value:
            ET.SubElement(properties, "property", {"name": key, "value": value})
    kind = _element(record)
    reason = truncated(visible(record.reason), 4000)
    if kind is not None:
        message = f"{record.outcome.value}{f' at {record.stage.value}' if record.stage else ''}: {reason}"
        ET.SubElement(case, kind, {"type": record.outcome.value, "message": message}).text = _detail(record)
    elif reason:
        ET.SubElement(case, "system-out").text = f"{record.outcome.value}: {reason}"


def _detail(record: Record) -> str:
    blame = f"blame: {record.blame.party} ({record.blame.why})\n" if record.blame else ""
    log = visible(record.log_tail)
    return f"{visible(blame)}{log[-8000:]}"


def _totals(records: Sequence[Record]) -> dict[str, str]:
    kinds = Counter(map(_element, records))
    return {
        "tests": str(len(records)),
        "failures": str(kinds["failure"]),
        "errors": str(kinds["error"]),
        "skipped": str(kinds["skipped"]),
        "time": _seconds(records),
    }


def _seconds(records: Sequence[Record]) -> str:
    spent = (seconds for record in records for seconds in record.seconds.values())
    return f"{math.fsum(seconds for seconds in spent if math.isfinite(seconds)):.3f}"
