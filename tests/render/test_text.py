from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portmatrix.render.text import ascii_only, markdown, number, one_line, truncated, visible


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain ünïcode 模型 ✓", "plain ünïcode 模型 ✓"),
        ("a\x00b\x07", r"a\x00b\x07"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("abc\u202edef", r"abc\u202edef"),
        ("zero\u200bwidth\ufeff", r"zero\u200bwidth\ufeff"),
        ("\ud800", r"\ud800"),
        ("tag\U000e0041", r"tag\U000e0041"),
        ("a\r\nb\tc\rd", "a\nb\tc\\x0dd"),
    ],
)
def test_visible_spells_out_what_has_no_glyph(text: str, expected: str) -> None:
    assert visible(text) == expected


@settings(deadline=None)
@given(st.text(st.characters()))
def test_visible_is_always_utf8_and_stable(text: str) -> None:
    assert visible(visible(text)) == visible(text)
    visible(text).encode()


@settings(deadline=None)
@given(st.text(), st.integers(1, 50))
def test_one_line_is_one_short_line(text: str, limit: int) -> None:
    line = one_line(text, limit)
    assert len(line.splitlines()) <= 1
    assert len(line) <= limit + 40


def test_truncation_says_how_much_is_missing() -> None:
    assert truncated("abcdef", 4) == "abcd… (2 more characters)"
    assert one_line("x" * 1_000_000, 100) == "x" * 100 + "… (999,900 more characters)"
    assert truncated("abcd", 4) == "abcd"


def test_markdown_leaves_nothing_to_interpret() -> None:
    assert markdown("a|b [x](y) <b> `c` *d* linux-x86_64 _e_") == (
        r"a\|b \[x\](y) &lt;b&gt; \`c\` \*d\* linux-x86_64 \_e\_"
    )


def test_ascii_keeps_what_can_be_kept() -> None:
    assert ascii_only("café … 模") == r"cafe ... \u6a21"


@pytest.mark.parametrize(
    ("value", "text"), [(None, ""), (0.0, "0"), (3.14159e-7, "3.14e-07"), (float("nan"), "nan"), (float("inf"), "inf")]
)
def test_numbers(value: float | None, text: str) -> None:
    assert number(value) == text
