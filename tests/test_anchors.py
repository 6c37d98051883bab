"""The loads that tell whether a machine stayed the same, and what is told of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from portmatrix import anchors


def test_there_are_four_and_each_takes_time() -> None:
    found = anchors.time_anchors()
    assert set(found) == {"gemm_f32", "gemm_i8", "copy", "scalar"}
    assert all(seconds > 0 for seconds in found.values())


def test_the_processor_is_named_and_nothing_is_empty() -> None:
    found = anchors.describe_host()
    assert found["cpu"]
    assert "threads" in found["cores"]
    assert all(found.values())


@pytest.mark.parametrize(
    ("file", "content", "turbo"),
    [
        ("intel_pstate/no_turbo", "1", "off"),
        ("intel_pstate/no_turbo", "0", "on"),
        ("cpufreq/boost", "1", "on"),
        ("cpufreq/boost", "0", "off"),
        ("other", "1", None),
    ],
)
def test_governor_and_turbo_are_read_where_they_can_be(
    file: str, content: str, turbo: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in {file: content, "cpu0/cpufreq/scaling_governor": "performance\n"}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(anchors, "_CPU", tmp_path)
    found = anchors.describe_host()
    assert found["governor"] == "performance"
    assert found.get("turbo") == turbo
