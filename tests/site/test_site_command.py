from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from made_history import record, write
from test_site_data import opened_files

from portmatrix import cli
from portmatrix.history.adding import add
from portmatrix.history.place import Place
from portmatrix.types import Outcome

Run = Callable[..., tuple[int, str]]
CELL = "linear/free/native/plain/here"


@pytest.fixture
def report(assemble: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs ``portmatrix report`` on two records of a tiny suite; returns the exit status and all that was said."""
    root = assemble("runtimes/plain")
    now = write(tmp_path / "now.jsonl", [record(2, CELL, Outcome.FAIL), record(2, CELL.replace("native", "graph"))])

    def run(*arguments: str | Path) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(["report", str(now), "--suite", str(root), *map(str, arguments)])
        return int(ended.value.code or 0), "".join(capsys.readouterr())

    return run


def test_the_command_writes_a_site_of_all_cells_of_the_suite(report: Run, tmp_path: Path) -> None:
    status, said = report("--site", tmp_path / "site")
    assert (status, f"open {tmp_path / 'site' / 'index.html'}" in "".join(said.split("\n"))) == (0, True)
    cells = opened_files(tmp_path / "site")["cells"]
    assert cells["axes"]["framework"] == ["linear"]
    outcomes = [cells["outcomes"][code][0] for code in cells["columns"]["outcome"]]
    assert outcomes.count("FAIL") == 1
    assert outcomes.count("NOT_RUN") == len(outcomes) - 2
    assert cells["roads"] == {"0": {str(n): road for n, road in enumerate(cells["roads"]["0"].values())}}
    planned = [flags & cells["flags"]["planned"] for flags in cells["columns"]["flags"]]
    assert all(planned)


def test_a_base_and_a_history_are_told_of(report: Run, tmp_path: Path) -> None:
    base = write(tmp_path / "base.jsonl", [record(1, CELL)])
    place = tmp_path / "history"
    add(Place(str(place)), [base, tmp_path / "now.jsonl"])
    assert report("--site", tmp_path / "site", "--base", base, "--history", place)[0] == 0
    files = opened_files(tmp_path / "site")
    cells, details = files["cells"], files["details-0"]
    failed = [cells["outcomes"][code][0] for code in cells["columns"]["outcome"]].index("FAIL")
    assert details[failed]["base"]["standing"] == "regression"
    assert [past["outcome"] for past in details[failed]["history"]] == ["PASS", "FAIL"]
    assert cells["changes"][cells["columns"]["change"][failed] - 1] == "regression"
    # The same again takes its place; only what is named differs.
    assert report("--site", tmp_path / "site")[0] == 0
    assert "base" not in opened_files(tmp_path / "site")["details-0"][failed]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--base", "HEAD"], 2, "name a folder for it: --site DIR"),
        (["--history", "somewhere"], 2, "name a folder for it: --site DIR"),
        (["--repository", "https://example.org/"], 2, "name a folder for it: --site DIR"),
        (["--site", "SITE", "--base", "no-such-thing"], 2, "no such file"),
        (["--site", "SITE", "--history", "EMPTY"], 4, "there is no history in"),
        (["--site", "."], 2, "is there, and is no report"),
    ],
    ids=[
        "a base alone",
        "a history alone",
        "a repository alone",
        "no base",
        "no history",
        "a folder of something else",
    ],
)
def test_what_cannot_be_is_said(
    report: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], status: int, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    ended, said = report(*arguments)
    assert (ended, words in " ".join(said.split())) == (status, True), said
    assert not (tmp_path / "SITE").exists()


def test_nothing_in_common_with_the_base_is_an_error(report: Run, tmp_path: Path) -> None:
    base = write(tmp_path / "base.jsonl", [record(1, "other/free/native/plain/here")])
    status, said = report("--site", tmp_path / "site", "--base", base)
    assert (status, "nothing to compare" in said) == (4, True)
