"""The back-test: the survey's facts, by the formula and the weights that rate records, give the survey's stars."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from portmatrix import survey
from portmatrix.rate import rate
from portmatrix.spec import RatingSpec, load_spec
from portmatrix.types import Outcome

ROOT = Path(__file__).parent.parent
SPEC = load_spec(ROOT / "matrix.yaml").ratings
SURVEY = survey.load()
STARS = {one.toolkit: one.deployment for one in SPEC.survey.values() if not one.successor}
PAGE = (ROOT / "docs" / "survey-backtest.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("toolkit", ["Caffe", "CNTK", "TensorFlow"])
def test_it_gives_these_the_stars_that_the_survey_gave(toolkit: str) -> None:
    assert survey.back_test(SURVEY, SPEC)[toolkit].value == STARS[toolkit]


@pytest.mark.parametrize("toolkit", ["Theano", "Torch"])
def test_it_gives_these_the_surveys_stars_within_half_a_star(toolkit: str) -> None:
    value = survey.back_test(SURVEY, SPEC)[toolkit].value
    assert value is not None
    assert abs(value - STARS[toolkit]) <= 0.5


def test_it_is_the_ordinary_formula() -> None:
    """By hand: reach, freedom from interpreters and latency in the ratio of their weights; the unsaid is shared out."""
    weights = SPEC.deployment
    whole = weights.reach + weights.interpreter_free
    cntk = (weights.reach * 3 / 4 + weights.interpreter_free) / whole
    torch = (weights.reach * 3 / 4 + weights.latency) / (whole + weights.latency)
    found = survey.back_test(SURVEY, SPEC)
    assert found["CNTK"].score == found["TensorFlow"].score == pytest.approx(cntk)
    assert found["Theano"].score == pytest.approx(weights.reach / whole)
    assert found["Torch"].score == pytest.approx(torch)
    assert found["Caffe"].score == pytest.approx(1)


def test_no_toolkit_is_known_to_it_by_name() -> None:
    renamed = SURVEY.model_copy(
        update={"toolkits": {f"x{number}": one for number, one in enumerate(SURVEY.toolkits.values())}}
    )
    before, after = survey.back_test(SURVEY, SPEC), survey.back_test(renamed, SPEC)
    order = {f"x{number}": name for number, name in enumerate(SURVEY.toolkits)}
    assert {order[name]: stars for name, stars in after.items()} == before


def test_all_five_toolkits_are_there_and_every_platform_is_spoken_of() -> None:
    assert set(SURVEY.toolkits) == set(STARS)
    assert SURVEY.source == "https://github.com/zer0n/deepframeworks"
    assert get_args(survey.Basis) == survey.BASES
    for toolkit in SURVEY.toolkits.values():
        assert set(toolkit.platforms) == set(SPEC.platforms) == set(SURVEY.targets)
        assert all(fact.says for fact in (toolkit.interpreter_free, *toolkit.platforms.values()))


def test_each_target_stands_for_its_platform_and_no_other() -> None:
    for platform in SPEC.platforms:
        one = SURVEY.model_copy(
            update={"toolkits": {"T": SURVEY.toolkits["Caffe"].model_copy(
                update={"platforms": {platform: SURVEY.toolkits["Caffe"].platforms[platform]}})}}
        )  # fmt: skip
        (rating,) = rate(list(survey.records(one)), RatingSpec())
        assert rating.deployment.components[0].low == 0.25


def test_a_fact_that_does_not_hold_is_a_failure_with_its_grounds() -> None:
    (failed,) = [r for r in survey.records(SURVEY) if r.id.framework == "CNTK" and r.outcome is Outcome.FAIL]
    assert failed.id.target == SURVEY.targets["arm"]
    assert failed.reason.startswith("stated: does not work on ARM")


# --- The page -------------------------------------------------------------------------------------------------------


def row(name: str, heading: str) -> list[str]:
    """Return the fields of the row of a toolkit below a heading of the page."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    (found,) = re.findall(rf"^\| {name} \| (.*) \|$", section, re.MULTILINE)
    return [field.strip() for field in str(found).split("|")]


@pytest.mark.parametrize("toolkit", list(SURVEY.toolkits))
def test_the_page_shows_what_the_back_test_gives(toolkit: str) -> None:
    stars = survey.back_test(SURVEY, SPEC)[toolkit]
    survey_stars, score, value = row(toolkit, "Result")
    assert (float(survey_stars), float(value)) == (STARS[toolkit], stars.value)
    assert score == f"{stars.score:.3f}"


@pytest.mark.parametrize("toolkit", list(SURVEY.toolkits))
def test_the_page_shows_what_is_left_without_our_own_judgement(toolkit: str) -> None:
    bases: list[list[survey.Basis]] = [["stated", "implied", "judged"], ["stated", "implied"], ["stated"]]
    values = [survey.back_test(SURVEY, SPEC, one)[toolkit].value for one in bases]
    assert [float(field) for field in row(toolkit, "What it rests on")] == values


@pytest.mark.parametrize("toolkit", list(SURVEY.toolkits))
def test_the_page_shows_every_fact_with_its_basis(toolkit: str) -> None:
    given = SURVEY.toolkits[toolkit]
    marks = {"stated": "", "implied": " (implied)", "judged": " (judged)"}
    facts = [given.interpreter_free, *(given.platforms[name] for name in ("linux", "windows", "macos", "arm"))]
    expected = [("yes" if fact.holds else "no") + marks[fact.basis] for fact in facts]
    speed = "" if given.latency is None else f"{given.latency.ratio:g}{marks[given.latency.basis]}"
    assert row(toolkit, "Facts") == [*expected, speed]


@pytest.mark.parametrize(
    ("share", "wrong"),
    [
        (0.49, {"Torch"}),
        (0.5, set()),
        (0.6, set()),
        (0.61, {"CNTK", "TensorFlow"}),
        (0.76, {"CNTK", "TensorFlow", "Theano"}),
    ],
)
def test_the_page_says_between_which_weights_the_back_test_holds(share: float, wrong: set[str]) -> None:
    """By the share of reach in the weights of reach and interpreter_free, the others as they are."""
    assert "from 0.495 to 0.6" in PAGE
    weights = SPEC.deployment
    both = weights.reach + weights.interpreter_free
    assert f"{weights.reach / both:.3f}" in PAGE
    changed = weights.model_copy(update={"reach": both * share, "interpreter_free": both * (1 - share)})
    values = survey.back_test(SURVEY, SPEC.model_copy(update={"deployment": changed}))
    off = {name: abs((stars.value or 0) - STARS[name]) for name, stars in values.items()}
    assert {name for name, by in off.items() if by > (0.5 if name in ("Theano", "Torch") else 0)} == wrong
