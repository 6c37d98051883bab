"""What changed, as it is printed and as JSON."""

from __future__ import annotations

import io
import json
import math
from typing import Any

import pytest
from rich.console import Console

from portmatrix.regression import Changes, compare
from portmatrix.render import changes
from portmatrix.types import Comparison, Latency, Outcome, Record, Stage, Timing, Tolerance


def printed(found: Changes, *, terminal: bool = False, width: int = 200) -> str:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=width, color_system=None, legacy_windows=False)
    changes.print_changes(console, found)
    return stream.getvalue()


def record(model: str, outcome: Outcome = Outcome.PASS, stage: Stage | None = None, **fields: Any) -> Record:
    usual: dict[str, Any] = {"run": "r", "started": "2026-01-01", "engine": "0"}
    return Record(**{**usual, **fields}, cell=f"f/{model}/p/r/t", outcome=outcome, stage=stage)


def latency(session: str, ratio: float, size: int = 1000) -> Latency:
    timing = Timing(batch=1, threads=2, inner=1, samples=99, p50=ratio * 1e-3, p90=None, p99=None, baseline_p50=1e-3)
    blocks = (tuple(math.log(ratio * wobble) for wobble in (0.99, 1.0, 1.01)),)
    return Latency(
        baseline="f/m/p/base/t", session=session, timings=(timing,), blocks=blocks, load_seconds=1, first_seconds=1,
        artifact_bytes=size, host={"cpu": "c"},
    )  # fmt: skip


def comparison(snr: float, verdict: str) -> Comparison:
    return Comparison(
        output="logits", batch=16, dtype="float32", shape=(1, 1), elements=1, max_abs=1e-6, max_rel=None,
        mismatched=0.0, snr_db=snr, cosine=1.0, top1=1.0, needed=0.1, tolerance=Tolerance(atol=1e-4, rtol=1e-5),
        verdict=verdict,  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.fixture
def found() -> Changes:
    """One change of each sort, and a cell in which nothing changed."""
    before = [
        record("broken"), record("same"), record("lost"), record("further", Outcome.FAIL, Stage.LOAD),
        record("noisy", comparisons=(comparison(130, "strict"),), accuracy=0.97),
        record("slow", latency=latency("1", 1.0)),
    ]  # fmt: skip
    after = [
        record("broken", Outcome.FAIL, Stage.RUN, reason="out of [bold]registers"), record("same"), record("new"),
        record("further", Outcome.XFAIL, Stage.RUN, expected="known"),
        record("noisy", comparisons=(comparison(110, "strict"),), accuracy=0.90),
        record("slow", latency=latency("2", 1.2, 2000)), record("slow", latency=latency("3", 1.2, 2000)),
    ]  # fmt: skip
    return compare(before, after)


def row(text: str, *fields: str) -> list[str]:
    """Return the fields of the one line that has all of these words, whatever the table draws between them."""
    (line,) = [line for line in text.splitlines() if all(field in line for field in fields)]
    return [field.strip() for field in line.strip("|").split("|")]


def test_every_change_has_its_row(found: Changes) -> None:
    text = printed(found)
    assert row(text, "f/broken/p") == ["regression", "f/broken/p/r/t", "PASS", "FAIL at RUN", "out of [bold]registers"]
    assert row(text, "f/further/p") == [
        "progress",
        "f/further/p/r/t",
        "FAIL at LOAD",
        "XFAIL at RUN",
        "expected: known",
    ]
    assert row(text, "f/lost/p")[:4] == ["lost", "f/lost/p/r/t", "PASS", "no record"]
    assert row(text, "f/new/p")[:4] == ["gained", "f/new/p/r/t", "no record", "PASS"]
    assert row(text, "accuracy") == ["accuracy", "f/noisy/p/r/t", "held-out samples", "97.0%", "90.0%"]
    drift = "logits, batch 16, +20.0 dB of noise"
    sides = ["strict, max 1e-06, 130.0 dB", "strict, max 1e-06, 110.0 dB"]
    assert row(text, "noisier") == ["noisier", "f/noisy/p/r/t", drift, *sides]
    assert row(text, "larger") == ["larger", "f/slow/p/r/t", "artifact size, +100.0%", "1,000 B", "2,000 B"]
    slow = row(text, "slower in 2 of 2 sessions")
    assert slow[:5] == ["regression", "f/slow/p/r/t", "1", "2", "1.200"]
    assert "f/same" not in text


def test_totals_are_by_change_and_by_label(found: Changes) -> None:
    assert printed(found).splitlines()[-3:] == [
        "7 cells: 1 regression, 1 lost, 1 gained, 1 progress, 3 same",
        "latency of 1 cells: 1 regression",
        "2 cells regressed",
    ]


def test_where_nothing_changed_there_is_no_table() -> None:
    assert printed(compare([record("m")], [record("m")])) == "1 cells: 1 same\nno regression\n"


def test_a_file_gets_ascii_and_a_narrow_one_loses_nothing(found: Changes) -> None:
    text = printed(found, width=60)
    assert text.isascii()
    assert max(map(len, text.splitlines())) <= 60
    reasons = "".join(line.strip("|").split("|")[-1].strip() for line in text.splitlines() if "|" in line)
    assert "outof[bold]registers" in reasons.replace(" ", "")


def test_hostile_names_are_neither_markup_nor_escape_codes(hostile: list[Record]) -> None:
    text = printed(compare([record("m"), *hostile], [record("m")]), terminal=True, width=4000)
    assert "\x1b[31m" not in text
    assert "\u202e" not in text


def test_rows_beyond_the_limit_are_counted() -> None:
    before = [record(f"m{number}") for number in range(130)]
    after = [record(f"m{number}", Outcome.FAIL, Stage.RUN) for number in range(130)]
    text = printed(compare(before, after))
    assert "and 30 more" in text
    assert "130 cells regressed" in text


def test_a_blamed_host_is_named() -> None:
    def measured(session: str, raw: float) -> list[Record]:
        made = []
        for number in range(12):
            item = latency(session, 1.0)
            timings = (item.timings[0].model_copy(update={"p50": raw}),)
            made.append(record(f"m{number}", latency=item.model_copy(update={"timings": timings})))
        return made

    text = printed(compare(measured("1", 1e-3), measured("2", 2e-3)))
    assert "the host is to blame in session 2: 12 of 12 cells are slower in plain time (the median by +100%)" in text
    assert text.endswith("no regression\n")


def test_json_has_everything(found: Changes) -> None:
    cells = {cell["cell"]: cell for cell in json.loads(changes.to_json(found))["cells"]}
    assert cells["f/same/p/r/t"]["outcome"] == "same"
    assert cells["f/broken/p/r/t"]["after"]["reason"] == "out of [bold]registers"
    assert cells["f/slow/p/r/t"]["latency"] == "regression"
    assert [reading["session"] for reading in cells["f/slow/p/r/t"]["timings"][0]["readings"]] == ["2", "3"]
    assert Changes.model_validate_json(changes.to_json(found)) == found


def test_a_job_summary_is_small_and_harmless_whatever_it_tells() -> None:
    many = [f"m{number}" + "x" * 60 for number in range(3_000)]
    hostile = "```\n<script>alert(1)</script> | `x` \x1b[31m" + "y" * 5_000
    before = [record(model) for model in many]
    after = [record(model, Outcome.FAIL, Stage.RUN, reason=hostile) for model in many]
    text = changes.job_summary(compare(before, after), "main|`x`<b>")
    assert len(text.encode()) < 1 << 20
    assert text.startswith("## Compared with main\\|\\`x\\`&lt;b&gt;\n")
    assert text.count("```") == 2, "the block ends where it is meant to"
    assert "\x1b" not in text
    assert "and 2,900 more" in text
    assert "3000 cells regressed" in text


def test_that_nothing_was_compared_is_said() -> None:
    assert changes.nothing_compared("no <record>") == "## Nothing to compare with\n\nno &lt;record&gt;\n"
