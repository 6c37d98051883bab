"""What changed between two sets of records: the rules of outcomes, drift, size and latency, and the host's share."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from portmatrix.errors import NothingSelected
from portmatrix.regression import (
    TRIMMED,
    CellChange,
    Changes,
    Label,
    Reading,
    Standing,
    blame_host,
    compare,
    label_of,
    output_drifts,
    standing_of,
    yuen,
)
from portmatrix.types import Comparison, Latency, Outcome, Record, Stage, Timing, Tolerance

CELL = "f/m/p/candidate/t"
BASELINE = "f/m/p/base/t"


def record(cell: str = CELL, outcome: Outcome = Outcome.PASS, stage: Stage | None = None, **fields: Any) -> Record:
    return Record(**{"run": "r", "started": "2026-01-01T00:00:00Z", "engine": "0", **fields},
                  cell=cell, outcome=outcome, stage=stage)  # fmt: skip


def timing(p50: float = 1e-3, baseline_p50: float = 1e-3, batch: int = 1, threads: int = 1) -> Timing:
    return Timing(
        batch=batch, threads=threads, inner=1, samples=100, p50=p50, p90=None, p99=None, baseline_p50=baseline_p50
    )


def latency(ratios: tuple[float, ...], session: str = "s", **fields: Any) -> Latency:
    """Return a measurement whose groups have these ratios to the baseline."""
    usual: dict[str, Any] = {
        "baseline": BASELINE, "timings": (timing(),), "blocks": (tuple(map(math.log, ratios)),), "load_seconds": 0.1,
        "first_seconds": 0.01, "artifact_bytes": 1000, "host": {"cpu": "a processor"},
    }  # fmt: skip
    return Latency(**{**usual, **fields}, session=session)


def measured(*ratios: float, session: str = "s", cell: str = CELL, **fields: Any) -> Record:
    return record(cell, run=session, latency=latency(ratios, session, **fields))


def only(changes: Changes) -> CellChange:
    (cell,) = changes.cells
    return cell


BEFORE = (1.0, 1.01, 0.99, 1.0, 1.005)
SLOWER = (1.10, 1.11, 1.09, 1.10, 1.105)
FASTER = (0.90, 0.91, 0.89, 0.90, 0.905)


# --- Outcomes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "standing"),
    [
        ((Outcome.PASS, None), (Outcome.PASS, None), Standing.SAME),
        ((Outcome.PASS, None), (Outcome.FAIL, Stage.COMPARE), Standing.REGRESSION),
        ((Outcome.PASS, None), (Outcome.XFAIL, Stage.LOAD), Standing.REGRESSION),
        ((Outcome.DEGRADED, Stage.COMPARE), (Outcome.FAIL, Stage.COMPARE), Standing.REGRESSION),
        ((Outcome.PASS, None), (Outcome.FAIL, Stage.MEASURE), Standing.REGRESSION),
        ((Outcome.FAIL, Stage.RUN), (Outcome.FAIL, Stage.LOAD), Standing.REGRESSION),
        ((Outcome.FAIL, Stage.LOAD), (Outcome.FAIL, Stage.RUN), Standing.PROGRESS),
        ((Outcome.XFAIL, Stage.EXPORT), (Outcome.FAIL, Stage.COMPARE), Standing.PROGRESS),
        ((Outcome.FAIL, Stage.COMPARE), (Outcome.DEGRADED, Stage.COMPARE), Standing.PROGRESS),
        ((Outcome.FAIL, Stage.MEASURE), (Outcome.DEGRADED, Stage.COMPARE), Standing.PROGRESS),
        ((Outcome.XFAIL, Stage.LOAD), (Outcome.XPASS, None), Standing.PROGRESS),
        ((Outcome.FAIL, Stage.LOAD), (Outcome.XFAIL, Stage.LOAD), Standing.SAME),
        ((Outcome.PASS, None), (Outcome.XPASS, None), Standing.SAME),
        ((Outcome.PASS, None), (Outcome.DEGRADED, Stage.COMPARE), Standing.WEAKER),
        ((Outcome.PASS, None), (Outcome.ERROR, Stage.RUN), Standing.LOST),
        ((Outcome.FAIL, Stage.RUN), (Outcome.NOT_RUN, None), Standing.LOST),
        ((Outcome.ERROR, Stage.RUN), (Outcome.FAIL, Stage.LOAD), Standing.GAINED),
        ((Outcome.SKIP, Stage.PLAN), (Outcome.PASS, None), Standing.GAINED),
        ((Outcome.ERROR, Stage.LOAD), (Outcome.NOT_RUN, None), Standing.UNKNOWN),
    ],
)
def test_what_became_of_an_outcome(
    before: tuple[Outcome, Stage | None], after: tuple[Outcome, Stage | None], standing: Standing
) -> None:
    assert standing_of(record(CELL, *before), record(CELL, *after)) is standing


ENDS = st.tuples(
    st.sampled_from([Outcome.PASS, Outcome.DEGRADED, Outcome.FAIL, Outcome.XFAIL, Outcome.XPASS]),
    st.sampled_from(Stage),
)


@given(ENDS, ENDS)
def test_to_and_fro_are_opposites(one: tuple[Outcome, Stage], other: tuple[Outcome, Stage]) -> None:
    there = standing_of(record(CELL, *one), record(CELL, *other))
    back = standing_of(record(CELL, *other), record(CELL, *one))
    worse = {Standing.REGRESSION, Standing.WEAKER}
    assert (there in worse) == (back is Standing.PROGRESS)
    assert (there is Standing.SAME) == (back is Standing.SAME)


def test_a_cell_of_one_side_alone_is_lost_or_gained() -> None:
    found = compare([record(), record("f/a/p/r/t")], [record(), record("f/b/p/r/t")])
    assert {cell.cell: cell.outcome for cell in found.cells} == {
        "f/a/p/r/t": Standing.LOST,
        "f/b/p/r/t": Standing.GAINED,
        CELL: Standing.SAME,
    }
    assert not found.regressed


def test_the_attempt_that_started_last_stands_in_any_order() -> None:
    early, late = record(started="2026-01-01"), record(CELL, Outcome.FAIL, Stage.RUN, started="2026-01-02")
    for after in ([early, late], [late, early]):
        found = compare([early], after)
        assert only(found).outcome is Standing.REGRESSION
        assert found.regressed


def test_nothing_in_common_is_no_agreement() -> None:
    with pytest.raises(NothingSelected, match="of 1 cells before and 1 after none is in both"):
        compare([record()], [record("f/b/p/r/t")])


# --- Accuracy, numbers and size -------------------------------------------------------------------------------------


def comparison(snr: float | None, largest: float | None, verdict: str = "strict", batch: int = 1) -> Comparison:
    return Comparison(
        output="y", batch=batch, dtype="float32", shape=(1, 1, 1), elements=1, max_abs=largest, max_rel=None,
        mismatched=0.0, snr_db=snr, cosine=1.0, top1=1.0, needed=0.1, tolerance=Tolerance(atol=1e-4, rtol=1e-5),
        verdict=verdict,  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("before", "after", "label", "fell"),
    [
        (comparison(130, 1e-6), comparison(124.5, 2e-6), "", 5.5),
        (comparison(130, 1e-6), comparison(123.9, 2e-6), "noisier", 6.1),
        (comparison(123.9, 2e-6), comparison(130, 1e-6), "", -6.1),
        (comparison(130, 1e-6), comparison(129, 1e-6, "loose"), "worse verdict", 1.0),
        (comparison(130, 1e-6), comparison(60, 1e-2, "fail"), "worse verdict", 70.0),
        (comparison(60, 1e-2, "fail"), comparison(130, 1e-6, "loose"), "better verdict", -70.0),
        # Without a signal there is no SNR; the largest difference stands in for it.
        (comparison(None, 1.0), comparison(None, 1.9), "", 20 * math.log10(1.9)),
        (comparison(None, 1.0), comparison(None, 2.1), "noisier", 20 * math.log10(2.1)),
        (comparison(None, 0.0), comparison(140, 1e-7), "noisier", None),
        (comparison(140, 1e-7), comparison(None, 0.0), "", None),
        (comparison(None, 0.0), comparison(None, 0.0), "", 0.0),
        (comparison(None, None, "fail"), comparison(None, None, "fail"), "", None),
    ],
)
def test_drift_is_a_verdict_crossed_or_noise_that_doubled(
    before: Comparison, after: Comparison, label: str, fell: float | None
) -> None:
    (drift,) = output_drifts([before], [after])
    assert drift.label == label
    assert drift.fell_db == (None if fell is None else pytest.approx(fell))


def test_outputs_are_matched_by_name_and_batch() -> None:
    before = [comparison(130, 1e-6, batch=1), comparison(90, 1e-6, batch=16)]
    after = [comparison(90, 1e-6, batch=16), comparison(130, 1e-6, batch=5)]
    assert [(drift.batch, drift.label) for drift in output_drifts(before, after)] == [(16, "")]


@pytest.mark.parametrize(("after", "drifted"), [(0.97, False), (0.961, False), (0.955, True), (0.985, True)])
def test_accuracy_drifts_by_more_than_a_hundredth(after: float, drifted: bool) -> None:
    cell = only(compare([record(accuracy=0.97)], [record(accuracy=after)]))
    assert cell.accuracy == (0.97, after)
    assert cell.accuracy_drifted is drifted
    assert not cell.regressed


@pytest.mark.parametrize(("size", "notable"), [(1050, False), (1051, True), (950, False), (949, True)])
def test_a_size_changes_by_more_than_a_twentieth(size: int, notable: bool) -> None:
    before = measured(*BEFORE, installed_bytes=None)
    after = measured(*BEFORE, artifact_bytes=size, installed_bytes=5)
    (artifact,) = only(compare([before], [after])).sizes
    assert artifact.share == pytest.approx(size / 1000 - 1)
    assert artifact.notable is notable


# --- The interval ---------------------------------------------------------------------------------------------------


values = st.lists(st.floats(-1, 1, width=32).map(lambda value: round(value, 4)), min_size=3, max_size=20)


@settings(max_examples=300)
@given(values, values)
def test_the_interval_is_scipys(before: list[float], after: list[float]) -> None:
    difference = stats.trim_mean(after, 1 / TRIMMED) - stats.trim_mean(before, 1 / TRIMMED)
    spread = min(np.var(stats.trimboth(values, 1 / TRIMMED)) for values in (before, after))
    if spread < 1e-6 or abs(difference) < 1e-6:
        return  # scipy warns where there is no spread, and the way to its error here divides by the difference
    theirs = stats.ttest_ind(after, before, equal_var=False, trim=1 / TRIMMED)
    error = abs(difference / theirs.statistic)
    half = stats.t.ppf(0.975, math.floor(theirs.df + 1e-9)) * error
    found = yuen(before, after)
    assert found.difference == pytest.approx(difference)
    assert (found.low, found.high) == pytest.approx((difference - half, difference + half), rel=1e-6, abs=1e-9)
    exact = stats.t.ppf(0.975, theirs.df) * error
    assert half >= exact - 1e-9, "rounding down the degrees of freedom makes no interval narrower"


def test_the_interval_of_one_side_without_spread_is_that_of_the_other() -> None:
    low, high = stats.t.interval(0.95, 3, loc=1.25, scale=stats.sem([1.0, 1.0, 1.0, 2.0]))
    assert yuen([0.0, 0.0], [1.0, 1.0, 1.0, 2.0])[1:] == pytest.approx((low, high))


@pytest.mark.parametrize("spread", [1.0, 3.0])
@pytest.mark.parametrize("groups", [5, 8])
def test_the_interval_covers_what_it_says(spread: float, groups: int) -> None:
    chance = np.random.default_rng(5)
    covered = 0
    for _ in range(2000):
        found = yuen(list(chance.normal(0, 1, groups)), list(chance.normal(0.5, spread, groups)))
        covered += found.low <= 0.5 <= found.high
    low = stats.binom.ppf(1e-4, 2000, 0.95)
    assert covered >= low, "with the degrees of freedom rounded down it covers 95% at least"


def test_one_disturbed_group_of_eight_does_not_widen_the_interval() -> None:
    before, after = [0.0, 0.01, 0.02, 0.03] * 2, [0.10, 0.11, 0.12, 0.13] * 2
    quiet, disturbed = yuen(before, after), yuen(before, [*after[:-1], 0.9])
    assert disturbed == pytest.approx(quiet, abs=0.005)
    assert disturbed.low > 0.07


def test_values_that_are_all_alike_have_no_spread() -> None:
    assert yuen([1.0, 1.0], [2.0, 2.0]) == (1.0, 1.0, 1.0)


def test_an_interval_of_one_value_is_refused() -> None:
    with pytest.raises(ValueError, match="two values on each side at least; got 1 and 2"):
        yuen([1.0], [1.0, 2.0])


# --- Latency --------------------------------------------------------------------------------------------------------


def test_slower_in_two_sessions_is_a_regression() -> None:
    after = [measured(*SLOWER, session="2"), measured(*SLOWER, session="3")]
    found = compare([measured(*BEFORE)], after)
    cell = only(found)
    assert cell.latency is Label.REGRESSION
    assert found.regressed
    (change,) = cell.timings
    assert change.why == "slower in 2 of 2 sessions"
    for reading in change.readings:
        assert reading.ratio == pytest.approx(1.10, abs=0.01)
        assert reading.low is not None
        assert reading.low > 1.05


def test_slower_in_one_session_is_suspicious() -> None:
    found = compare([measured(*BEFORE)], [measured(*SLOWER, session="2")])
    assert only(found).latency is Label.SUSPICIOUS
    assert not found.regressed
    assert only(found).timings[0].why == "slower in 1 of 1 sessions; a second session would tell"


def test_the_same_session_twice_is_no_second_session() -> None:
    again = record(run="3", started="2026-01-02", latency=latency(SLOWER, "2"))
    found = compare([measured(*BEFORE)], [measured(*SLOWER, session="2"), again])
    assert only(found).latency is Label.SUSPICIOUS


@pytest.mark.parametrize(
    ("sessions", "label"),
    [
        ((FASTER, FASTER), Label.IMPROVEMENT),
        ((FASTER,), Label.SUSPICIOUS),
        ((BEFORE, BEFORE), Label.NO_CHANGE),
        ((BEFORE,), Label.NO_CHANGE),
        ((SLOWER, BEFORE), Label.SUSPICIOUS),
        ((SLOWER, FASTER), Label.SUSPICIOUS),
        ((SLOWER, SLOWER, BEFORE), Label.REGRESSION),
        ((SLOWER, SLOWER, BEFORE, BEFORE), Label.SUSPICIOUS),
        # Slower for certain, but by less than the twentieth that is asked for.
        ((tuple(ratio / 1.06 for ratio in SLOWER),) * 2, Label.NO_CHANGE),
        # About as much slower as the twentieth: the interval does not clear it.
        (((1.04, 1.06, 1.05, 1.06, 1.04),) * 2, Label.NO_CHANGE),
        (((0.7, 1.6, 1.2, 0.9, 1.5),), Label.INSUFFICIENT),
    ],
)
def test_the_label_follows_from_the_intervals(sessions: tuple[tuple[float, ...], ...], label: Label) -> None:
    after = [measured(*ratios, session=f"after {number}") for number, ratios in enumerate(sessions)]
    assert only(compare([measured(*BEFORE, session="before")], after)).latency is label


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"host": {"cpu": "another processor"}}, "measured on a processor, then on another processor"),
        ({"baseline": "f/m/p/other/t"}, f"compared with {BASELINE}, then with f/m/p/other/t"),
        ({"baseline": ""}, "session 2 has no baseline"),
        ({"baseline": CELL}, "compared with"),
        ({"timings": (timing(threads=4),)}, "the first side has no timing of batch 1 with 4 threads"),
        ({"timings": (timing(batch=16),)}, "the first side has no timing of batch 16 with 1 threads"),
        ({"emulated": True}, "session 2 was emulated"),
        ({"unstable": True}, "session 2 is unstable"),
        ({"blocks": ()}, "5 groups of blocks before and 0 after; 3 each are needed"),
        ({"blocks": ((0.1, 0.1),)}, "5 groups of blocks before and 2 after; 3 each are needed"),
    ],
)
def test_what_cannot_be_compared_is_insufficient_and_says_why(fields: dict[str, Any], why: str) -> None:
    after = [measured(*SLOWER, session="2", **fields), measured(*SLOWER, session="3", **fields)]
    cell = only(compare([measured(*BEFORE)], after[:1]))
    assert cell.latency is Label.INSUFFICIENT
    assert cell.timings[0].why.startswith(why)
    assert only(compare([measured(*BEFORE)], after)).latency is Label.INSUFFICIENT


@pytest.mark.parametrize("fields", [{"unstable": True}, {"emulated": True}])
def test_what_the_first_side_cannot_stand_for_is_insufficient_too(fields: dict[str, Any]) -> None:
    after = [measured(*SLOWER, session="2"), measured(*SLOWER, session="3")]
    assert only(compare([measured(*BEFORE, **fields)], after)).latency is Label.INSUFFICIENT


def test_a_cell_that_is_its_own_baseline_says_nothing() -> None:
    sides = [[measured(*ratios, session=session, baseline=CELL)] for ratios, session in ((BEFORE, "1"), (SLOWER, "2"))]
    cell = only(compare(*sides))
    assert cell.latency is Label.INSUFFICIENT
    assert cell.timings[0].why.startswith("it is the baseline itself")


def test_a_session_that_cannot_be_compared_does_not_hide_one_that_can() -> None:
    before = [measured(*BEFORE, session="0", unstable=True), measured(*BEFORE, session="1")]
    after = [measured(*SLOWER, session=name) for name in ("2", "3")]
    assert only(compare(before, [*after, measured(*BEFORE, session="4", unstable=True)])).latency is Label.REGRESSION


def test_without_the_name_in_its_host_the_environment_names_the_processor() -> None:
    sides = [
        [record(run=name, environment={"processor": name}, latency=latency(BEFORE, name, host={}))] for name in "xy"
    ]
    assert only(compare(*sides)).timings[0].why == "measured on x, then on y"


def test_a_cell_that_one_side_measured_has_insufficient_data() -> None:
    assert only(compare([record()], [measured(*BEFORE)])).latency is Label.INSUFFICIENT
    assert only(compare([measured(*BEFORE)], [record()])).latency is Label.INSUFFICIENT
    assert only(compare([record()], [record()])).latency is None


def test_the_worst_timing_stands_for_the_cell() -> None:
    timings = (timing(batch=1), timing(batch=16))
    blocks = tuple(tuple(map(math.log, ratios)) for ratios in (FASTER, SLOWER))
    flat = (tuple(map(math.log, BEFORE)),) * 2
    after = [measured(session=name, timings=timings, blocks=blocks) for name in "23"]
    cell = only(compare([measured(timings=timings, blocks=flat)], after))
    assert [change.label for change in cell.timings] == [Label.IMPROVEMENT, Label.REGRESSION]
    assert cell.latency is Label.REGRESSION


def test_raw_times_stand_beside_the_ratio_and_decide_nothing() -> None:
    before = measured(*BEFORE, timings=(timing(1e-3, 1e-3),))
    after = [measured(*BEFORE, session=name, timings=(timing(3e-3, 3e-3),)) for name in "23"]
    cell = only(compare([before], after))
    assert cell.latency is Label.NO_CHANGE
    assert cell.timings[0].readings[0].raw == pytest.approx(3)
    assert cell.timings[0].readings[0].baseline_raw == pytest.approx(3)


# --- The host -------------------------------------------------------------------------------------------------------


def crowd(
    count: int, ratio: float, *, raw: float = 1.0, base: float = 1.0, runtimes: int = 3, session: str = "after"
) -> list[Record]:
    """Return measurements of so many cells by several runtimes, all with the same ratio and times."""
    made = []
    for number in range(count):
        cell = f"f/m{number}/p/runtime-{number % runtimes}/t"
        ratios = tuple(value * ratio for value in BEFORE)
        timings = (timing(1e-3 * raw, 1e-3 * base),)
        made.append(measured(*ratios, cell=cell, session=session, baseline=f"f/m{number}/p/base/t", timings=timings))
    return made


def both(make: Any) -> list[Record]:
    return [*make("2"), *make("3")]


def test_a_slower_machine_is_blamed_and_no_cell_of_it() -> None:
    def after(session: str) -> list[Record]:
        moved = crowd(20, 1.0, raw=1.3, base=1.3, session=session)
        return [*moved[:18], *crowd(20, 1.2, raw=1.5, base=1.3, session=session)[18:]]

    found = compare(crowd(20, 1.0, session="before"), both(after))
    assert [blamed.session for blamed in found.host] == ["2", "3"]
    assert found.host[0].why.startswith("20 of 20 cells are slower in plain time (the median by +30%), and 2 relative")
    assert not found.regressed
    assert [cell.latency for cell in found.cells].count(Label.NO_CHANGE) == 18
    hidden = [cell for cell in found.cells if cell.latency is Label.INSUFFICIENT]
    assert len(hidden) == 2
    assert hidden[0].timings[0].why.startswith("the host is blamed: 20 of 20 cells")


def test_a_faster_machine_is_blamed_too() -> None:
    found = compare(crowd(12, 1.0), crowd(12, 1.0, raw=0.8, base=0.8, session="2"))
    assert "faster in plain time (the median by -20%)" in found.host[0].why


def test_a_few_cells_are_no_crowd() -> None:
    after = both(lambda session: crowd(9, 1.2, raw=1.2, session=session))
    found = compare(crowd(9, 1.0), after)
    assert not found.host
    assert found.regressed


def test_half_of_the_cells_are_not_most() -> None:
    slow = crowd(20, 1.0, raw=1.2, session="2")[:10]
    assert not compare(crowd(20, 1.0), [*slow, *crowd(20, 1.0, session="2")[10:]]).host
    slow = crowd(20, 1.0, raw=1.2, session="2")[:11]
    assert compare(crowd(20, 1.0), [*slow, *crowd(20, 1.0, session="2")[11:]]).host


def test_cells_that_regress_beside_others_are_no_fault_of_the_host() -> None:
    def after(session: str) -> list[Record]:
        return [*crowd(20, 1.2, raw=1.2, session=session)[:15], *crowd(20, 1.0, session=session)[15:]]

    found = compare(crowd(20, 1.0), both(after))
    assert not found.host
    assert sum(cell.latency is Label.REGRESSION for cell in found.cells) == 15


def test_all_ratios_to_one_baseline_are_no_fault_of_the_cells() -> None:
    found = compare(crowd(12, 1.0), both(lambda session: crowd(12, 1.2, base=1 / 1.2, session=session)))
    assert not found.regressed
    assert found.host[0].why == "all 12 ratios to base are slower (the median by +20%)"
    assert {cell.latency for cell in found.cells} == {Label.INSUFFICIENT}


def test_all_cells_of_one_runtime_may_well_have_changed() -> None:
    moved = both(lambda session: crowd(12, 1.2, raw=1.2, runtimes=1, session=session))
    found = compare(crowd(12, 1.0, runtimes=1), moved)
    assert not found.host, "the baseline stood still, and what they have in common is the runtime"
    assert found.regressed
    moved = both(lambda session: crowd(12, 1.2, base=1 / 1.2, runtimes=1, session=session))
    assert not compare(crowd(12, 1.0, runtimes=1), moved).regressed, "here it did not stand still"


def test_each_session_has_a_host_of_its_own() -> None:
    quiet = both(lambda session: crowd(12, 1.0, session=session))
    loud = crowd(12, 1.0, raw=1.4, base=1.4, session="4")
    assert [blamed.session for blamed in compare(crowd(12, 1.0), [*quiet, *loud]).host] == ["4"]


def test_readings_without_any_time_blame_nobody() -> None:
    nothing = Reading(session="s", batch=1, threads=1, baseline="", verdict="none", why="no baseline")
    assert blame_host({f"f/m{number}/p/r/t": [nothing] for number in range(50)}) == ()
    assert label_of([nothing]) == (Label.INSUFFICIENT, "no baseline")
    assert label_of([]) == (Label.INSUFFICIENT, "nothing was measured")
