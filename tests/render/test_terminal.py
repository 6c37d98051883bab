from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from portmatrix.render.table import stars_in_words
from portmatrix.render.terminal import is_plain, print_results
from portmatrix.types import UNEXPECTED, Outcome, Reach


def printed(records: Any, *, terminal: bool, width: int = 250, encoding: str = "utf-8", ratings: Any = ()) -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="")
    console = Console(file=stream, force_terminal=terminal, width=width, color_system=None, legacy_windows=False)
    print_results(console, records, ratings)
    stream.flush()
    return stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("terminal", "encoding"), [(False, "utf-8"), (True, "cp1252"), (True, "ascii")])
def test_files_and_old_encodings_get_ascii(records: Any, ratings: Any, terminal: bool, encoding: str) -> None:
    text = printed(records, terminal=terminal, encoding=encoding, ratings=ratings)
    assert text.isascii()
    assert "\x1b" not in text


@pytest.mark.parametrize("width", [250, 600])
def test_every_rating_shows_its_interval_and_how_sure_it_is(records: Any, surer: Any, width: int) -> None:
    text = " ".join(printed(records, terminal=False, width=width, ratings=surer).split())
    for given in (stars for rating in surer for stars in (rating.deployment, rating.cross_platform)):
        assert stars_in_words(given) in text
        assert f"{given.low:g} to {given.high:g}" in text
    assert ", provisional" in text
    assert "not rated (" in text


def test_a_terminal_gets_symbols(records: Any) -> None:
    assert "✗" in printed(records, terminal=True)


def test_every_unexpected_cell_is_listed_with_stage_and_reason(records: Any) -> None:
    some = [record for record in records if record.id.framework == "torch" and record.id.target == "linux-x86_64"]
    text = printed(some, terminal=False)
    for record in (record for record in some if record.outcome in UNEXPECTED):
        assert f"{record.outcome.value:<5} {record.cell} at {record.stage.value}: " in text


def test_the_list_ends_with_the_number_left_out(make: Any) -> None:
    text = printed([make(f"fw/m{n:03}/p/r/t", Outcome.FAIL) for n in range(130)], terminal=False)
    assert text.count("\nFAIL ") == 100
    assert "and 30 more unexpected cells" in text


def test_a_narrow_console_gets_a_line_per_badge_and_loses_nothing(records: Any, ratings: Any) -> None:
    text = printed(records, terminal=False, width=60, ratings=ratings)
    table = text[: text.index("+ pass")]
    assert max(map(len, table.splitlines())) <= 60
    for target in {record.id.target for record in records}:
        assert target in table


def test_hostile_names_are_neither_markup_nor_escape_codes(hostile: Any, make: Any) -> None:
    text = printed([*hostile, make("[red]fw[bold]/m/p/r/[link=x]t", Outcome.FAIL)], terminal=True, width=2000)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "[red]fw[bold]/m/p/r/[link=x]t" in text


def test_no_surprise_is_said(make: Any) -> None:
    assert "no unexpected cells" in printed([make("fw/m/p/r/t")], terminal=False)


def test_totals_name_each_outcome(make: Any) -> None:
    records = [make(f"fw/m{o.value}/p/r/t", o) for o in Outcome]
    assert "8 cells: 1 PASS, 1 DEGRADED, 1 FAIL, 1 ERROR, 1 XFAIL, 1 XPASS, 1 SKIP, 1 NOT_RUN" in printed(
        records, terminal=False
    )


def test_look_ups_are_counted_by_themselves(make: Any, look: Any) -> None:
    records = [make("fw/a/p/r/t", reach=Reach.NATIVE), look("fw/b/p/r/t"), look("fw/c/p/r/t", possible=False)]
    plain = printed(records, terminal=False)
    assert "3 cells: 1 PASS, 1 COULD_RUN, 1 CANNOT_RUN" in plain
    assert "1/1 #1 o1 (n,s)" in plain
    assert "o could run   # cannot run" in plain
    assert "◇1" in printed(records, terminal=True)


def test_an_error_that_was_foretold_is_no_surprise(make: Any) -> None:
    records = [make("fw/m/p/r/t", Outcome.ERROR, expected="the emulator dies of it")]
    assert "no unexpected cells" in printed(records, terminal=False)


def test_a_pipe_is_plain() -> None:
    assert is_plain(Console(file=io.StringIO()))
