from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from portmatrix.rate import Stars
from portmatrix.render.table import MARKS, URGENCY, anchor, badge_table, stars, stars_in_words
from portmatrix.types import Outcome, Reach, Record

NAMES = st.text(st.characters(exclude_characters="/"), min_size=1)


def one_of_each(make: Any) -> list[Record]:
    return [make(f"fw/m{outcome.value}/onnx/rt/t", outcome) for outcome in Outcome]


def test_every_outcome_has_a_mark_a_word_and_a_rank_of_its_own() -> None:
    assert set(MARKS) == set(URGENCY) == set(Outcome)
    for field in ("symbol", "plain", "word", "claim"):
        assert len({getattr(mark, field) for mark in MARKS.values()}) == len(Outcome)
    assert all(mark.plain.isascii() and mark.word.isascii() for mark in MARKS.values())


def test_passed_and_tried_leave_out_error_skip_and_not_run(make: Any) -> None:
    badge = badge_table(one_of_each(make), ()).rows[0].badges[0]
    assert badge is not None
    assert (badge.passed, badge.tried) == (3, 5)
    assert badge.counts == dict.fromkeys(Outcome, 1)
    assert {outcome for outcome, _ in badge.remarks} == set(Outcome) - {Outcome.PASS}


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


def test_an_anchor_is_readable() -> None:
    assert anchor("torch", "linux-x86_64") == "torch.on.linux-x86_64"


def test_stars() -> None:
    assert stars(3.5) == "★★★½☆"
    assert stars(0) == "☆☆☆☆☆"
    assert stars(5) == "★★★★★"
    assert stars(None) == ""
    nothing = Stars(value=None, low=0, high=5, coverage=0, components=())
    assert stars_in_words(nothing) == "not rated"
    little = nothing.model_copy(update={"value": 1.5, "low": 1.5, "coverage": 0.31})
    assert stars_in_words(little) == "1.5 to 5 of 5, on 31% of the evidence"
    assert stars_in_words(little.model_copy(update={"coverage": 0.6})) == "1.5 of 5 (1.5 to 5)"
    assert stars_in_words(nothing.model_copy(update={"value": 2.5, "low": 2.5, "high": 2.5})) == "2.5 of 5"
