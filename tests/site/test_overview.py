from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import unquote

import pytest
from made_history import at, latency, record
from made_site import made_context
from page_of import SPEC, Parts, context
from playwright.sync_api import Page, expect

from portmatrix.render.table import stars_in_words
from portmatrix.site import overview
from portmatrix.types import Outcome, Reach, Record, Stage

HOSTILE = "</script><script>alert(1)</script>\x00\u202e'\"&amp;{{ 7*7 }}"


def cells() -> list[Record]:
    """Two frameworks on two targets: three work, one of them by a detour, one fails and one was not run."""
    return [
        record(cell="torch/mlp/onnx/ort/linux-x86_64"),
        record(cell="torch/lstm/onnx/ort/linux-x86_64", outcome=Outcome.DEGRADED),
        record(cell="torch/mlp/onnx/ort/node", reach=Reach.EMULATED, archived=True),
        record(cell="caffe/mlp/native/mnn/linux-x86_64", outcome=Outcome.FAIL, stage=Stage.LOAD, reason="no layer"),
        record(cell="caffe/lstm/native/mnn/linux-x86_64", outcome=Outcome.NOT_RUN, stage=Stage.PREPARE),
    ]


def test_every_badge_leads_to_its_cells() -> None:
    parts = Parts(overview.page(context(cells())))
    badges = [attrs["href"] for tag, attrs in parts.elements if tag == "a" and attrs.get("class") == "badge"]
    assert sorted(badges) == [
        "matrix.html#framework=caffe&target=linux-x86_64",
        "matrix.html#framework=torch&target=linux-x86_64",
        "matrix.html#framework=torch&target=node",
    ]
    assert parts.row("torch", "2/2", "1/1")
    assert "0/1" in parts.row("caffe", "0/1")[1]
    assert "(e) †" in parts.row("torch", "1/1")[2]


def test_a_badges_bar_is_as_long_as_its_cells_are_many() -> None:
    parts = Parts(overview.page(context(cells())))
    bars = [attrs for tag, attrs in parts.elements if tag == "rect" and attrs.get("class", "").startswith("o-")]
    assert ("o-DEGRADED", "50.0", "50.0") in [(bar["class"], bar["x"], bar["width"]) for bar in bars]
    assert ("o-PASS", "0.0", "100.0") in [(bar["class"], bar["x"], bar["width"]) for bar in bars]


def test_counts_lead_to_the_cells_that_they_count() -> None:
    parts = Parts(overview.page(context(cells())))
    chips = [attrs["href"] for tag, attrs in parts.elements if "chip" in attrs.get("class", "").split()]
    assert chips == [f"matrix.html#outcome={name}" for name in ("PASS", "DEGRADED", "FAIL", "NOT_RUN")]
    assert "5 cells" in parts.text


def test_ratings_are_drawn_and_said() -> None:
    spec = {**SPEC, "ratings": {"survey": {"torch": {"toolkit": "Torch", "deployment": 3, "successor": True}}}}
    given = context(cells(), spec=spec)
    parts = Parts(overview.page(given))
    (torch,) = [rating for rating in given.ratings if rating.framework == "torch"]
    row = parts.row("torch", "worked out")
    assert stars_in_words(torch.deployment) in row[1]
    assert stars_in_words(torch.cross_platform) in row[2]
    assert row[3] == "follows Torch deployment 3"
    drawn = overview._scale(torch.deployment, 3)
    assert (drawn.low, drawn.high) == (torch.deployment.low * 20, torch.deployment.high * 20)
    assert drawn.survey == 60
    assert (drawn.star is None) == (torch.deployment.standing == "not rated")


def test_the_arithmetic_leads_to_the_cells_that_decided() -> None:
    given = context(cells())
    parts = Parts(overview.page(given))
    (row,) = [row for row in parts.rows if row[0] == "mlp on linux" and "caffe/mlp/native/mnn/linux-x86_64" in row[3]]
    assert row[1].strip() == "0"
    assert "fail" in row[3]
    assert "cell.html#caffe/mlp/native/mnn/linux-x86_64" in parts.values("href")
    (torch,) = [rating for rating in given.ratings if rating.framework == "torch"]
    assert f"= {torch.deployment.score:.4f}" in parts.text
    assert "#rating-torch" in parts.values("href")
    assert "rating-torch" in parts.values("id")


def test_a_median_latency_is_shown_where_it_was_measured() -> None:
    measured = record(cell="torch/mlp/onnx/ov/linux-x86_64", latency=latency(1.25, baseline="x/mlp/p/ort/t"))
    row = Parts(overview.page(context([*cells(), measured]))).row("torch", "worked out")
    assert row[4] == "1.25 \u00d7 the baseline median of 1 cell"
    assert Parts(overview.page(context(cells()))).row("caffe", "worked out")[4] == "not measured"


def test_changes_are_grouped_and_lead_to_their_cells() -> None:
    base = [
        record(cell="torch/mlp/onnx/ort/linux-x86_64"),
        record(cell="caffe/mlp/native/mnn/linux-x86_64"),
        record(cell="torch/lstm/onnx/ort/linux-x86_64"),
        record(cell="caffe/lstm/native/mnn/linux-x86_64"),
    ]
    parts = Parts(overview.page(context(cells(), base)))
    assert parts.row("caffe/mlp/native/mnn/linux-x86_64", "PASS", "FAIL at LOAD", "no layer")
    heads = [word for word in ("Regression: 1", "Weaker: 1", "Lost: 1", "Gained: 1") if word in parts.text]
    assert heads == ["Regression: 1", "Weaker: 1", "Lost: 1", "Gained: 1"]
    assert "1 cell regressed" in parts.text
    assert "#changes" in parts.values("href")


def test_without_a_base_nothing_is_said_of_changes() -> None:
    text = Parts(overview.page(context(cells()))).text
    assert "since the base" not in text
    assert "What changed" not in text


def test_a_base_that_is_the_same_shows_no_change() -> None:
    parts = Parts(overview.page(context(cells(), cells())))
    assert "No outcome changed" in parts.text
    assert "no regression" in parts.text


def test_long_lists_of_changes_are_cut_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overview, "LIMIT", 2)
    many = [record(cell=f"torch/m{number}/onnx/ort/linux-x86_64") for number in range(5)]
    failing = [item.model_copy(update={"outcome": Outcome.FAIL, "stage": Stage.RUN}) for item in many]
    parts = Parts(overview.page(context(failing, many)))
    assert "Regression: 5" in parts.text
    assert "And 3 more" in parts.text


def test_changed_latency_is_listed_with_its_interval() -> None:
    def side(day: int, shift: float) -> Record:
        blocks = tuple((shift, shift + 0.001, shift - 0.001, shift + 0.002) for _ in range(2))
        found = latency(1.0, session=f"s{day}", blocks=blocks, baseline="torch/mlp/p/ort/linux-x86_64")
        return record(day, cell="torch/mlp/onnx/ov/linux-x86_64", latency=found)

    given = context([side(1, 0.3)], [side(0, 0.0)])
    row = Parts(overview.page(given)).row("suspicious", "1", "torch/mlp/onnx/ov/linux-x86_64", "16")
    assert float(row[4]) == pytest.approx(1.35, abs=0.01)


def test_the_page_says_what_it_rests_on() -> None:
    found = overview.facts([*cells(), record(3, cell="torch/gru/onnx/ort/node", reused=True, engine="0.2.0")])
    assert found.runs == (("run-0", 5), ("run-3", 1))
    assert found.engines == (("0.1.0", 5), ("0.2.0", 1))
    assert found.reaches == (("native", 5), ("emulated", 1))
    assert (found.first, found.last) == (at(0), at(3))
    assert (found.archived, found.reused) == (1, 1)
    assert "of the tests" in Parts(overview.page(context(cells()))).text


def test_no_records_make_a_page() -> None:
    assert "0 cells" in Parts(overview.page(context([]))).text


def test_hostile_names_stay_text_and_lead_to_what_the_matrix_calls_them() -> None:
    name = HOSTILE.replace("/", "\u2215")
    bad = record(cell=f"{name}/{name}/{name}/{name}/{name}", outcome=Outcome.FAIL, stage=Stage.RUN, run=HOSTILE)
    bad = bad.model_copy(update={"reason": HOSTILE + "x" * 1_000_000, "environment": {"processor": HOSTILE}})
    good = bad.model_copy(update={"outcome": Outcome.PASS, "stage": None, "reason": ""})
    page = overview.page(context([bad], [good]))
    parts = Parts(page)
    assert not parts.count("script")
    assert "\u202e" not in page.body
    assert "\x00" not in page.body
    assert len(page.body) < 200_000
    assert "\\x00\\u202e" in unquote(next(href for href in parts.values("href") if href.startswith("cell.html#")))


def test_equal_records_give_equal_bytes_in_any_order() -> None:
    assert overview.page(context(cells())) == overview.page(context(cells()[::-1]))


def test_of_very_many_records_the_single_questions_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overview, "WORKED_OUT", 4)
    parts = Parts(overview.page(context(cells())))
    assert not [attrs for _, attrs in parts.elements if attrs.get("class") == "questions"]
    assert "--explain" in parts.text
    assert "strictness" in parts.text


# --- In a browser ---------------------------------------------------------------------------------------------------


@pytest.mark.xdist_group("browser")
def test_a_badge_shows_as_many_cells_as_it_counts(open_page: Callable[..., Page]) -> None:
    page = open_page("index.html")
    given = made_context().records
    theirs = [item for item in given if (item.id.framework, item.id.target) == ("torch", "linux-x86_64")]
    page.locator("a.badge[href='matrix.html#framework=torch&target=linux-x86_64']").click()
    expect(page.locator("#status")).to_contain_text(f"{len(theirs)} of {len(given)} cells")


@pytest.mark.xdist_group("browser")
def test_a_star_leads_to_its_arithmetic_and_that_to_a_cell(open_page: Callable[..., Page]) -> None:
    page = open_page("index.html")
    page.get_by_role("link", name="worked out").nth(1).click()
    expect(page.locator("#rating-torch")).to_be_visible()
    page.locator("#rating-torch summary").first.click()
    page.locator("#rating-torch .questions a").first.click()
    page.wait_for_url(re.compile(r"cell\.html#torch/"))
    expect(page.locator("#cell-title")).to_contain_text("torch/")


@pytest.mark.xdist_group("browser")
def test_nothing_is_wider_than_a_phone_when_all_is_folded_out(open_page: Callable[..., Page]) -> None:
    page = open_page("index.html", size=(375, 700))
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    over = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert over <= 0
