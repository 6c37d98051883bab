from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_history import latency

from portmatrix.rate import Stars, standing_of
from portmatrix.render.readme import stars_text
from portmatrix.render.table import (
    MARKS,
    URGENCY,
    LatencyRatio,
    Shown,
    anchor,
    badge_table,
    counted_ratio,
    latency_ratio,
    shown_of,
    stars,
    stars_in_words,
    stem,
)
from portmatrix.types import Outcome, Reach, Record

NAMES = st.text(st.characters(exclude_characters="/"), min_size=1)


def made(value: float | None, low: float, high: float, coverage: float) -> Stars:
    """Return stars as they would be, but for what they rest on."""
    return Stars(
        value=value,
        low=low,
        high=high,
        coverage=coverage,
        standing=standing_of(value, low, high, coverage),
        score=None if value is None else value / 5,
        bounds=(low / 5, high / 5),
        sampled=(low / 5, high / 5),
        components=(),
    )


def one_of_each(make: Any) -> list[Record]:
    return [make(f"fw/m{outcome.value}/onnx/rt/t", outcome) for outcome in Outcome]


def test_every_outcome_and_every_look_up_has_a_mark_a_word_and_a_rank_of_its_own() -> None:
    assert set(MARKS) == set(URGENCY) == set(Shown)
    assert {shown.value for shown in Shown} - {outcome.value for outcome in Outcome} == {"COULD_RUN", "CANNOT_RUN"}
    for field in ("symbol", "plain", "word", "claim"):
        assert len({getattr(mark, field) for mark in MARKS.values()}) == len(Shown)
    assert all(mark.plain.isascii() and mark.word.isascii() for mark in MARKS.values())


def test_passed_and_tried_leave_out_error_skip_and_not_run(make: Any) -> None:
    badge = badge_table(one_of_each(make), ()).rows[0].badges[0]
    assert badge is not None
    assert (badge.passed, badge.tried) == (3, 5)
    assert badge.counts == {Shown(outcome.value): 1 for outcome in Outcome}
    assert {shown for shown, _ in badge.remarks} == {Shown(outcome.value) for outcome in Outcome} - {Shown.PASS}


def test_a_look_up_is_neither_tried_nor_passed(make: Any, look: Any) -> None:
    records = [
        make("fw/a/onnx/rt/t", reach=Reach.EMULATED),
        look("fw/b/onnx/rt/t"),
        look("fw/c/onnx/rt/t", possible=False),
        look("fw/d/onnx/rt/t", possible=False, outcome=Outcome.XFAIL, expected="no wheel"),
    ]
    badge = badge_table(records, ()).rows[0].badges[0]
    assert badge is not None
    assert (badge.passed, badge.tried) == (1, 1)
    assert badge.counts == {Shown.PASS: 1, Shown.COULD_RUN: 1, Shown.CANNOT_RUN: 2}
    assert badge.reach == (Reach.EMULATED, Reach.STATIC)


def test_what_could_not_be_looked_up_is_an_error_and_what_nobody_looked_up_is_not_run(look: Any) -> None:
    assert shown_of(look("fw/a/onnx/rt/t", outcome=Outcome.ERROR, lookup=None)) is Shown.ERROR
    assert shown_of(look("fw/a/onnx/rt/t", outcome=Outcome.NOT_RUN, lookup=None)) is Shown.NOT_RUN
    # A place that finds no package for the platform while it builds has looked it up as well.
    assert shown_of(look("fw/a/onnx/rt/t", outcome=Outcome.FAIL, lookup=None)) is Shown.CANNOT_RUN


def test_emulated_never_stands_as_native(make: Any) -> None:
    cells = [("a", Reach.NATIVE), ("b", Reach.EMULATED)]
    rows = badge_table([make(f"fw/m/p/{name}/t", reach=reach) for name, reach in cells], ()).rows
    alone = badge_table([make("fw/m/p/b/t", reach=Reach.EMULATED)], ()).rows
    badges = [badge for row in (*rows, *alone) for badge in row.badges if badge]
    assert [badge.reach_letters for badge in badges] == ["n,e", "e"]


def test_a_known_failure_is_tried_and_not_passed(make: Any) -> None:
    badge = badge_table([make("fw/m/onnx/rt/t", Outcome.XFAIL)], ()).rows[0].badges[0]
    assert badge is not None
    assert (badge.passed, badge.tried) == (0, 1)


def test_rows_and_columns_are_sorted_and_gaps_stay_empty(make: Any) -> None:
    table = badge_table([make("b/m/p/r/t2"), make("a/m/p/r/t1")], ())
    assert table.targets == ("t1", "t2")
    assert [row.framework for row in table.rows] == ["a", "b"]
    assert [[badge is not None for badge in row.badges] for row in table.rows] == [[True, False], [False, True]]


def test_reach_is_that_of_cells_with_an_answer_best_first(make: Any) -> None:
    records = [
        make("a/m/p/r1/t", reach=Reach.EMULATED, archived=True),
        make("a/m/p/r2/t", reach=Reach.NATIVE),
        make("a/m/p/r3/t", Outcome.NOT_RUN, reach=Reach.REMOTE),
    ]
    badge = badge_table(records, ()).rows[0].badges[0]
    assert badge is not None
    assert badge.reach == (Reach.NATIVE, Reach.EMULATED)
    assert badge.archived


def test_ratings_and_survey_stand_beside_each_other(records: Any, ratings: Any, survey: Any) -> None:
    rows = {row.framework: row for row in badge_table(records, ratings, survey).rows}
    assert rows["caffe"].toolkit == "Caffe"
    assert rows["caffe"].survey_deployment == 5
    assert rows["caffe"].survey_cross_platform is None
    assert rows["torch"].successor
    assert rows["keras"].toolkit is None
    assert all(row.rating is not None and row.rating.framework == name for name, row in rows.items())


@settings(deadline=None)
@given(NAMES, NAMES, NAMES, NAMES)
def test_different_pairs_have_different_anchors(a: str, b: str, c: str, d: str) -> None:
    assert (anchor(a, b) == anchor(c, d)) == ((a, b) == (c, d))


@settings(max_examples=300)
@given(NAMES, NAMES, NAMES, NAMES)
def test_different_pairs_have_different_files(a: str, b: str, c: str, d: str) -> None:
    assert (stem(a, b) == stem(c, d)) == ((a, b) == (c, d))
    assert len(stem(a, b)) <= 200


def test_the_median_is_over_what_can_be_compared(make: Any) -> None:
    def cell(number: int, found: Any, reach: Any = Reach.NATIVE, outcome: Any = Outcome.PASS) -> Any:
        return make(f"fw/m{number}/p/r/t", outcome, reach=reach, latency=found)

    counted = [cell(0, latency(1.0)), cell(1, latency(3.0)), cell(2, latency(2.0), outcome=Outcome.DEGRADED)]
    at_16 = latency(9.0)
    left_out = [
        cell(10, None),
        cell(11, latency(None)),
        cell(12, latency(9.0), reach=Reach.EMULATED),
        cell(13, latency(9.0), reach=Reach.CONTAINER),
        cell(14, latency(9.0, unstable=True)),
        cell(15, latency(9.0, emulated=True)),
        cell(16, latency(9.0, baseline="fw/m16/p/r/t")),
        cell(17, latency(9.0), outcome=Outcome.FAIL),
        cell(18, at_16.model_copy(update={"timings": at_16.timings[1:]})),
        cell(19, latency(float("inf"))),
    ]
    assert [counted_ratio(record) for record in counted] == [1.0, 3.0, 2.0]
    assert [counted_ratio(record) for record in left_out] == [None] * len(left_out)
    assert latency_ratio([*left_out, *counted]) == LatencyRatio(median=2.0, cells=3)
    assert latency_ratio(left_out) is None
    rows = badge_table([*counted, *left_out, make("other/m/p/r/t")], ()).rows
    assert [row.latency for row in rows] == [LatencyRatio(median=2.0, cells=3), None]


def test_an_anchor_is_readable() -> None:
    assert anchor("torch", "linux-x86_64") == "torch.on.linux-x86_64"


def test_stars() -> None:
    assert stars(3.5) == "★★★½☆"
    assert stars(0) == "☆☆☆☆☆"
    assert stars(5) == "★★★★★"
    assert stars(None) == ""


@pytest.mark.parametrize(
    ("value", "low", "high", "coverage", "words"),
    [
        (None, 0, 5, 0, "not rated (0 to 5, on 0% of the evidence)"),
        (1.5, 1.5, 5, 0.31, "not rated (1.5 to 5, on 31% of the evidence)"),
        (1.5, 1.5, 5, 0.6, "1.5 of 5 (1.5 to 5), provisional"),
        (4.5, 4.5, 5, 0.89, "4.5 of 5 (4.5 to 5), provisional"),
        (4.5, 4.5, 5, 0.9, "4.5 of 5 (4.5 to 5)"),
        (2.5, 2.5, 2.5, 1, "2.5 of 5"),
        (2.5, 2.5, 2.5, 0.7, "2.5 of 5, provisional"),
    ],
)
def test_stars_in_words_say_how_sure_they_are(
    value: float | None, low: float, high: float, coverage: float, words: str
) -> None:
    given = made(value, low, high, coverage)
    assert stars_in_words(given) == words
    assert stars_text(given) == (words if words.startswith("not rated") else f"{stars(value)} {words}")
