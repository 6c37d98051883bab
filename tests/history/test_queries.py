"""What is asked of the history, against the same asked of the records in plain Python."""

from __future__ import annotations

import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_history import CELL, OTHER, at, latency, record

from portmatrix.errors import NothingSelected, UserError
from portmatrix.globs import Globs
from portmatrix.history import queries
from portmatrix.history.place import Place
from portmatrix.history.queries import CellHistory, cell_histories, choose, measurements, periods, records, stretches
from portmatrix.types import Outcome, Reach, Record, Stage

Filled = Callable[[Iterable[Record]], Place]
CELLS = [
    f"{framework}/{model}/onnx/{runtime}/linux-x86_64"
    for framework in ("torch", "tensorflow", "caffe")
    for model in ("mlp", "lst[m]", "mlp'2")
    for runtime in ("onnxruntime", "onnxruntime-1.17")
]


def histories(place: Place, globs: Sequence[str] = (), limit: int = 100) -> list[CellHistory]:
    with place.connected() as connection:
        return cell_histories(connection, choose(place, connection, globs), limit)


# --- Choosing -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def all_cells(tmp_path_factory: pytest.TempPathFactory) -> Place:
    from made_history import write  # noqa: PLC0415

    from portmatrix.history.adding import add  # noqa: PLC0415

    folder = tmp_path_factory.mktemp("cells")
    place = Place(str(folder / "history"))
    add(place, [write(folder / "a.jsonl", [record(number % 3, cell) for number, cell in enumerate(CELLS)])])
    return place


words = st.sampled_from(
    ["torch", "tensorflow", "caffe", "*", "t*", "mlp", "lst[[]m]", "mlp'2", "{mlp,lst*}", "[!t]*", "?affe"]
)
some_globs = st.lists(
    st.tuples(words, words).map(lambda pair: f"{pair[0]}/{pair[1]}/*") | words, min_size=1, max_size=3
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(some_globs)
def test_a_selection_is_what_the_globs_match(all_cells: Place, globs: list[str]) -> None:
    wanted = Globs(globs)
    matching = sorted(cell for cell in CELLS if wanted.match(cell))
    with all_cells.connected() as connection:
        if not matching:
            with pytest.raises(NothingSelected):
                choose(all_cells, connection, globs)
            return
        chosen = choose(all_cells, connection, globs)
        assert list(chosen.cells) == matching
        found = connection.execute(f"SELECT cell FROM {chosen.rows} ORDER BY cell").fetchall()
        assert [cell for (cell,) in found] == matching


def test_a_glob_that_matches_nothing_names_the_nearest_cell(all_cells: Place) -> None:
    with pytest.raises(
        NothingSelected, match=r"matches torch/mpl/onnx/.*did you mean 'torch/mlp/onnx/onnxruntime/linux"
    ):
        list(records(all_cells, ["torch/mpl/onnx/onnxruntime/linux-x86_64"]))


def test_records_are_found_by_run_and_day(filled: Filled) -> None:
    given_records = [record(day, cell) for day in range(5) for cell in (CELL, OTHER)]
    place = filled(given_records)
    assert {item.started for item in records(place, run="run-3")} == {at(3)}
    assert {item.started for item in records(place, since="2026-01-02", until="2026-01-03")} == {at(1), at(2)}
    with pytest.raises(UserError, match=r"has no run 'run-9'; its last ones are run-4, run-3, run-2, run-1, run-0 \("):
        list(records(place, run="run-9"))
    with pytest.raises(NothingSelected, match="no record of the run run-4 among those selected"):
        list(records(place, run="run-4", until="2026-01-02"))


# --- Outcomes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("days", "starts"),
    [
        ([0, 0.1, 3], ["2026-01-01", "2026-01-04"]),
        ([0, 3, 4, 100], ["2025-12-29", "2026-01-05", "2026-04-06"]),
        ([0, 30, 31, 400], ["2026-01", "2026-02", "2027-02"]),
    ],
)
def test_outcomes_over_time_are_by_day_week_or_month(days: list[float], starts: list[str], filled: Filled) -> None:
    place = filled([record(day, outcome=Outcome.FAIL if day == 3 else Outcome.PASS) for day in days])
    with place.connected() as connection:
        found = periods(connection, choose(place, connection, []))
    assert [item.start for item in found] == starts
    assert sum(item.counts.get("FAIL", 0) for item in found) == days.count(3)
    assert sum(sum(item.counts.values()) for item in found) == len(days)


def steadiness_of(found: Iterable[Record]) -> tuple[int, int, int, int]:
    """Groups, mixed ones, pairs and differing pairs, by looking at every pair."""
    same = {Outcome.XFAIL: Outcome.FAIL, Outcome.XPASS: Outcome.PASS}
    groups: dict[object, list[Outcome]] = defaultdict(list)
    for item in found:
        tried = item.outcome not in (Outcome.SKIP, Outcome.NOT_RUN) and not item.reused
        if tried and item.bundle and item.environment:
            groups[item.bundle, tuple(sorted(item.environment.items()))].append(same.get(item.outcome, item.outcome))
    pairs = [pair for ended in groups.values() for pair in itertools.combinations(ended, 2)]
    return (
        sum(len(ended) > 1 for ended in groups.values()),
        sum(len(set(ended)) > 1 for ended in groups.values()),
        len(pairs),
        sum(one is not other for one, other in pairs),
    )


def test_steadiness_is_that_of_every_pair_of_attempts(filled: Filled) -> None:
    chance = random.Random(7)
    made = [
        record(
            number / 50,
            chance.choice([CELL, OTHER]),
            chance.choice(list(Outcome)),
            bundle=chance.choice(["a" * 64, "b" * 64, None]),
            environment=chance.choice([{"python": "3.11"}, {"python": "3.12"}, {}]),
            reused=chance.random() < 0.2,
        )
        for number in range(150)
    ]
    found = {item.cell: item for item in histories(filled(made))}
    for cell in (CELL, OTHER):
        of_cell = [item for item in made if item.cell == cell]
        item = found[cell]
        assert (item.groups, item.mixed, item.pairs, item.differing) == steadiness_of(of_cell)
        assert item.differing, "a test of nothing"
        assert item.flakiness == item.differing / item.pairs
        assert item.records == len(of_cell)
        assert item.outcome == max(of_cell, key=lambda one: one.started).outcome.value
        assert item.first[:10] == min(one.started for one in of_cell)[:10]


def test_the_least_steady_cells_come_first(filled: Filled) -> None:
    flaky = [record(day, OTHER, Outcome.FAIL if day % 2 else Outcome.PASS) for day in range(4)]
    place = filled([*flaky, *(record(day) for day in range(4))])
    assert [item.cell for item in histories(place)] == [OTHER, CELL]
    assert [item.cell for item in histories(place, limit=1)] == [OTHER]
    steady = histories(place, [CELL])[0]
    assert (steady.pairs, steady.differing, steady.flakiness) == (6, 0, 0.0)


def test_what_was_expected_is_no_flake_and_what_was_tried_once_is_unknown(filled: Filled) -> None:
    place = filled(
        [
            record(0, outcome=Outcome.FAIL),
            record(1, outcome=Outcome.XFAIL, expected="known"),
            record(0, OTHER),
            record(1, OTHER, Outcome.FAIL, bundle="d" * 64),
        ]
    )
    found = {item.cell: item for item in histories(place)}
    assert found[CELL].flakiness == 0
    assert found[OTHER].flakiness is None


def test_equal_outcomes_in_a_row_are_one_stretch(filled: Filled) -> None:
    outcomes = [Outcome.PASS, Outcome.PASS, Outcome.FAIL, Outcome.PASS, Outcome.ERROR, Outcome.ERROR]
    made = [record(day, outcome=outcome) for day, outcome in enumerate(outcomes)]
    made.append(record(6, outcome=Outcome.ERROR, stage=Stage.RUN, reason="another stage"))
    place = filled(made)
    with place.connected() as connection:
        found = stretches(connection, choose(place, connection, []))
    assert [(item.outcome, item.stage, item.records) for item in found] == [
        ("PASS", "", 2),
        ("FAIL", "COMPARE", 1),
        ("PASS", "", 1),
        ("ERROR", "COMPARE", 2),
        ("ERROR", "RUN", 1),
    ]
    assert found[-1].reason == "another stage"
    assert (found[3].start[:10], found[3].end[:10]) == ("2026-01-05", "2026-01-06")


# --- Latency --------------------------------------------------------------------------------------------------------


def test_what_cannot_be_compared_is_another_series(filled: Filled) -> None:
    made = [
        record(0, latency=latency(1.0)),
        record(1, latency=latency(1.1, unstable=True)),
        record(2, latency=latency(1.0, cpu="another")),
        record(3, latency=latency(None)),
        record(4, latency=latency(9.0), reused=True),
        record(5, latency=None),
        record(6, latency=latency(1.0, timings=())),
    ]
    place = filled(made)
    with place.connected() as connection:
        chosen = choose(place, connection, [])
        found = measurements(connection, chosen, every_timing=True)
        of_first = measurements(connection, chosen)
    assert of_first == [item for item in found if item.batch == 1]
    numbers = Counter((item.cpu, item.batch, bool(item.baseline)) for item in found for _ in item.points)
    assert numbers == {
        ("another", 1, True): 1,
        ("another", 16, True): 1,
        ("of the tests", 1, False): 1,
        ("of the tests", 16, False): 1,
        ("of the tests", 1, True): 2,
        ("of the tests", 16, True): 2,
    }
    (series,) = (item for item in found if (item.cpu, item.batch, bool(item.baseline)) == ("of the tests", 16, True))
    assert [(point.ratio, point.low, point.p50, point.unstable) for point in series.points] == [
        (1.0, 0.98, 0.032, False),
        (1.1, pytest.approx(1.078), 0.032, True),
    ]


def test_records_that_were_only_looked_up_have_no_steadiness(filled: Filled) -> None:
    made = [
        record(day, outcome=outcome, reach=Reach.STATIC, environment={})
        for day, outcome in enumerate([Outcome.FAIL, Outcome.NOT_RUN, Outcome.FAIL])
    ]
    (found,) = histories(filled(made))
    assert (found.pairs, found.records) == (0, 3)


def test_the_range_of_a_selection_holds_all_that_it_matches() -> None:
    for globs in (["torch/*"], ["t{orch,ensorflow}/*"], ["*"], ["caffe/*", "cntk/*"], ["torch"], ["to[r]ch/*"]):
        low, high = queries._range(globs)
        wanted = Globs(globs)
        assert all(low <= cell and (not high or cell < high) for cell in CELLS if wanted.match(cell))
    assert queries._range(["torch/m*"]) == ("torch/m", "torch/n")
    assert queries._range(["*"]) == ("", "")
