from __future__ import annotations

import re
from typing import Any

import pytest

from portmatrix.arithmetic import work_out
from portmatrix.render.workings import lines
from portmatrix.spec import RatingSpec
from portmatrix.types import Outcome


@pytest.fixture
def text(records: Any) -> str:
    return "\n".join(lines(work_out(records, RatingSpec(), "torch")))


def test_every_question_stands_in_it_with_the_cell_that_decided(text: str, records: Any) -> None:
    worked = work_out(records, RatingSpec(), "torch")
    for total in (worked.deployment, worked.cross_platform):
        for term in total.terms:
            for decision in term.decisions:
                assert f"{decision.value:.4f}  {decision.question}: " in text
                assert decision.cell in text


def test_the_sum_that_is_shown_is_right_to_the_digits_that_are_shown(text: str) -> None:
    (shown,) = re.findall(r"^  \((0.4 x .*)\) / \((.*)\) = ([\d.]+)$", text, re.MULTILINE)
    products = [product.split(" x ") for product in shown[0].split(" + ")]
    assert [weight for weight, _ in products] == shown[1].split(" + ") == ["0.4", "0.3", "0.2", "0.1"]
    assert sum(float(weight) * float(value) for weight, value in products) == pytest.approx(float(shown[2]), abs=2e-4)
    star = re.search(rf"5 x {shown[2]} = [\d.]+ stars, to the nearest half \(a tie upwards\): ([\d.]+)", text)
    assert star is not None
    assert abs(float(star[1]) - 5 * float(shown[2])) <= 0.2505


def test_a_term_is_the_mean_of_its_questions(text: str) -> None:
    found = re.findall(r"^  (\w+): ([\d.]+) / (\d+) = ([\d.]+), between", text, re.MULTILINE)
    assert [name for name, *_ in found] == ["reach", "interpreter_free", "strictness", "latency", "install", "run"]
    for _, total, count, mean in found:
        assert float(total) / int(count) == pytest.approx(float(mean), abs=1e-4)


def test_it_says_where_nothing_answers_and_where_a_cell_does_not_say_how_well(text: str, make: Any) -> None:
    assert "does not say how well" in text
    assert "a cell that works and does not say how well counts 0." in text
    blank = [make("fw/m/p/r/linux-x86_64", Outcome.NOT_RUN)]
    nothing = "\n".join(lines(work_out(blank, RatingSpec(), "fw")))
    assert "m on linux: none of 1 cells answers, may become 1" in nothing
    assert "m on windows: there is no cell that answers, may become 1" in nothing
    assert "nothing is known of any component that has a weight: not rated" in nothing


def test_hostile_names_do_no_harm(hostile: Any) -> None:
    framework = hostile[0].id.framework
    text = "\n".join(lines(work_out(hostile, RatingSpec(), framework)))
    assert text.isascii()
    assert "\x1b" not in text
