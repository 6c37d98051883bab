from __future__ import annotations

from typing import Any
from xml.etree import ElementTree as ET

from portmatrix.render.junit import junit
from portmatrix.types import Outcome, Stage


def test_every_cell_is_a_case_and_every_outcome_its_element(make: Any) -> None:
    records = [make(f"fw/{o.value}/onnx/rt/t", o, stage=Stage.RUN, reason=f"why {o.value}") for o in Outcome]
    root = ET.fromstring(junit(records))
    found = {}
    for case in root.iter("testcase"):
        kinds = [child.tag for child in case if child.tag not in {"properties", "system-out"}]
        found[case.get("name", "").split("/")[1]] = kinds
    assert found == {
        "PASS": [], "DEGRADED": [], "FAIL": ["failure"], "XPASS": ["failure"], "ERROR": ["error"],
        "SKIP": ["skipped"], "NOT_RUN": ["skipped"], "XFAIL": ["skipped"],
    }  # fmt: skip
    totals = {name: root.get(name) for name in ("tests", "failures", "errors", "skipped")}
    assert totals == {"tests": "8", "failures": "2", "errors": "1", "skipped": "3"}
    skipped = {element.get("type"): element.get("message") for element in root.iter("skipped")}
    assert skipped["NOT_RUN"] == "NOT_RUN at RUN: why NOT_RUN"
    assert set(skipped) == {"SKIP", "NOT_RUN", "XFAIL"}


def test_an_error_that_was_foretold_is_no_error(make: Any) -> None:
    records = [
        make("fw/a/onnx/rt/t", Outcome.ERROR, stage=Stage.RUN, expected="the emulator dies of it"),
        make("fw/b/onnx/rt/t", Outcome.ERROR, stage=Stage.RUN),
    ]
    root = ET.fromstring(junit(records))
    assert {name: root.get(name) for name in ("errors", "skipped")} == {"errors": "1", "skipped": "1"}
    (skipped,) = root.iter("skipped")
    assert skipped.get("type") == "ERROR"


def test_a_look_up_says_how_it_was_reached_and_never_passes(look: Any) -> None:
    root = ET.fromstring(junit([look("fw/a/onnx/rt/t"), look("fw/b/onnx/rt/t", possible=False)]))
    assert {name: root.get(name) for name in ("failures", "skipped")} == {"failures": "1", "skipped": "1"}
    reached = [item.get("value") for item in root.iter("property") if item.get("name") == "reach"]
    assert reached == ["static", "static"]


def test_a_suite_per_framework_with_its_own_totals(records: Any) -> None:
    root = ET.fromstring(junit(records))
    suites = root.findall("testsuite")
    assert [suite.get("name") for suite in suites] == sorted({r.id.framework for r in records})
    for suite in suites:
        assert int(suite.get("tests", "")) == len(suite.findall("testcase"))
        assert int(suite.get("failures", "")) == len(suite.findall("testcase/failure"))
    assert sum(int(suite.get("tests", "")) for suite in suites) == len(records)


def test_hostile_text_gives_wellformed_xml_of_bounded_size(hostile: Any) -> None:
    text = junit(hostile)
    root = ET.fromstring(text.encode())
    assert len(list(root.iter("testcase"))) == len(Outcome)
    assert "<script" not in text
    assert len(text) < 500_000


def test_the_document_does_not_depend_on_the_order(records: Any) -> None:
    assert junit(records) == junit(records[::-1])


def test_no_records_is_an_empty_document() -> None:
    assert ET.fromstring(junit([])).get("tests") == "0"


def test_what_comes_from_the_archive_says_so(make: Any) -> None:
    records = [make("fw/a/native/rt/t", Outcome.PASS), make("fw/b/native/rt/t", Outcome.PASS, archived=True)]
    cases = ET.fromstring(junit(records)).iter("testcase")
    assert [case.find(".//property[@name='archived']") is not None for case in cases] == [False, True]
