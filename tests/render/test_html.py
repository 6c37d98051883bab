from __future__ import annotations

import base64
import hashlib
import json
import random
import re
from html.parser import HTMLParser
from typing import Any
from urllib.parse import parse_qs

import pytest

from portmatrix.render.html import report
from portmatrix.render.readme import stars_text
from portmatrix.types import Outcome


class Page(HTMLParser):
    """The elements of a page, the text of its scripts, and its visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self.open = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.open = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.open = ""

    def handle_data(self, data: str) -> None:
        if self.open == "script":
            self.scripts[-1] += data
        elif self.open != "style":
            self.text += data

    def values(self, attribute: str) -> list[str]:
        return [value for _, attrs in self.elements if (value := attrs.get(attribute))]

    @property
    def data(self) -> dict[str, Any]:
        return json.loads(self.scripts[0])  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def page(records: Any, ratings: Any, survey: Any) -> Page:
    return Page(report(records, ratings, survey))


@pytest.fixture(scope="module")
def hostile_page(hostile: Any, hostile_text: str) -> Page:
    return Page(report(hostile, (), title=hostile_text))


def test_the_page_needs_nothing_else(page: Page) -> None:
    assert not page.values("src")
    assert all(link.startswith("#") for link in page.values("href"))
    assert {tag for tag, _ in page.elements}.isdisjoint({"link", "iframe", "img", "object", "base"})


def test_every_rating_shows_its_interval_how_sure_it_is_and_its_parts(records: Any, surer: Any) -> None:
    text = " ".join(Page(report(records, surer)).text.split())
    for given in (stars for rating in surer for stars in (rating.deployment, rating.cross_platform)):
        assert stars_text(given) in text
        for part in given.components:
            name = f"{part.name} *" if part.assumed else part.name
            assert f"{name}{part.weight:.0%}{part.value:.0%}{part.low:.0%}" in text
    assert any(part.assumed for rating in surer for part in rating.deployment.components)


def test_all_cells_and_their_numbers_are_in_the_data(page: Page, records: Any) -> None:
    cells = page.data["cells"]
    ids = {"/".join(cell[key] for key in ("framework", "model", "path", "runtime", "target")) for cell in cells}
    assert len(cells) == len(records)
    assert ids == {record.cell for record in records}
    compared = next(cell for cell in cells if cell["outcome"] == "FAIL" and "comparisons" in cell)
    numbers = compared["comparisons"][0]
    assert {"max_abs", "max_rel", "snr_db", "cosine", "top1", "needed"} <= set(numbers)
    assert numbers["max_abs"] == compared["worst"] == "0.31"
    assert compared["blame"]["party"] == "runtime"


def test_what_needs_a_decision_comes_first(page: Page) -> None:
    outcomes = list(dict.fromkeys(cell["outcome"] for cell in page.data["cells"]))
    assert outcomes[:3] == ["FAIL", "ERROR", "XPASS"]
    assert outcomes[-1] == "PASS"


def test_a_look_up_shows_what_it_rests_on(page: Page) -> None:
    looked_up = {cell["outcome"]: cell for cell in page.data["cells"] if cell.get("reach") == "static"}
    could, cannot = looked_up["COULD_RUN"], looked_up["CANNOT_RUN"]
    assert (could["recorded"], cannot["recorded"]) == ("NOT_RUN", "FAIL")
    assert could["lookup"]["found"] == "rt-1.0-cp313-cp313-win_arm64.whl"
    assert could["lookup"]["answered on"] == "2026-11-22"
    assert cannot["lookup"]["newest that is"] == "rt 0.9 for CPython 3.12"
    assert not [cell for cell in page.data["cells"] if "lookup" in cell and cell["outcome"] in ("PASS", "NOT_RUN")]


def test_every_link_leads_to_cells_or_to_an_element(page: Page) -> None:
    ids = set(page.values("id"))
    for link in page.values("href"):
        if "=" not in link:
            assert link[1:] in ids
            continue
        wanted = {key: values[0] for key, values in parse_qs(link[1:]).items()}
        assert any(all(cell.get(key) == value for key, value in wanted.items()) for cell in page.data["cells"])


def test_badge_links_of_hostile_names_lead_to_their_cells(hostile_page: Page) -> None:
    links = [link for link in hostile_page.values("href") if "framework=" in link]
    assert len(links) == len(Outcome)
    for link in links:
        wanted = {key: values[0] for key, values in parse_qs(link[1:]).items()}
        assert sum(all(cell[key] == value for key, value in wanted.items()) for cell in hostile_page.data["cells"]) == 1


def test_a_hostile_text_adds_no_element_and_no_attribute(page: Page, hostile_page: Page, make: Any) -> None:
    assert len(hostile_page.scripts) == 2
    assert {tag for tag, _ in hostile_page.elements} <= {tag for tag, _ in page.elements}
    assert not [name for _, attrs in hostile_page.elements for name in attrs if name.startswith("on")]
    assert "alert(1)" in hostile_page.text
    assert "{{ 7*7 }}" in hostile_page.text


def test_hostile_text_is_visible_and_bounded(hostile: Any) -> None:
    text = report(hostile, ())
    text.encode()
    assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e\ud800-\udfff\u2028]", text)
    assert len(text) < 1_000_000
    assert "more characters)" in text


def test_numbers_that_json_lacks_survive(hostile_page: Page) -> None:
    assert all(cell["worst"] == "nan" and cell["accuracy"] == "nan" for cell in hostile_page.data["cells"])


def test_only_the_pages_own_script_may_run(page: Page) -> None:
    (policy,) = [a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256(page.scripts[1].encode()).digest()).decode()
    assert policy is not None
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_the_page_can_be_read_without_colours_and_by_keyboard(page: Page) -> None:
    labels = {attrs.get("name") for tag, attrs in page.elements if tag in {"select", "input"}}
    assert labels == {"text", "outcome", "stage", "reach", "framework", "model", "path", "runtime", "target"}
    assert [attrs["lang"] for tag, attrs in page.elements if tag == "html"] == ["en"]
    for word in ("not run", "error", "fail", "known failure"):
        assert word in page.text


def test_equal_records_give_equal_bytes(records: Any, ratings: Any) -> None:
    shuffled = list(records)
    random.Random(1).shuffle(shuffled)
    assert report(shuffled, ratings) == report(records, ratings)


def test_no_records_is_a_page_too() -> None:
    assert "0 cells" in report([], ())
