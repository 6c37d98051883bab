"""``portmatrix history``: records go in, are asked for and come out, and every mistake has its exit status."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import command_line
import pytest
from command_line import Command, Ended
from made_history import CELL, OTHER, latency, record, write

from portmatrix import records
from portmatrix.history import extra
from portmatrix.types import Outcome

MADE = [record(day, cell, latency=latency(1.0 + day / 1000)) for day in range(12) for cell in (CELL, OTHER)]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Runs ``portmatrix history`` in this process, with a history of the test's own."""
    monkeypatch.setenv("PORTMATRIX_HISTORY", str(tmp_path / "history"))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str | Path) -> Ended:
        return command_line.run(capsys, "history", *arguments)

    return run


def test_records_go_in_are_shown_and_come_out(command: Command, tmp_path: Path) -> None:
    file = write(tmp_path / "records.jsonl", MADE)
    assert command("add", file) == Ended(0, "24 of 24 records were new; they are of 12 days\n", "")
    assert command("add", file, file).out == "0 of 48 records were new; they are of 12 days\n"
    shown = command("show", "*/mlp/*")
    assert (shown.status, shown.err) == (0, "")
    assert "12 records of 1 cells" in shown.out
    assert OTHER not in shown.out
    taken = tmp_path / "taken.jsonl"
    assert command("get", "-o", taken).status == 0
    assert list(records.read(taken)) == sorted(MADE, key=lambda item: (item.cell, item.started))
    command("get", "*/lstm/*", "--run", "run-3", "-o", taken)
    assert [(item.cell, item.run) for item in records.read(taken)] == [(OTHER, "run-3")]


def test_what_is_shown_can_be_had_as_json_and_as_a_picture(command: Command, tmp_path: Path) -> None:
    command("add", write(tmp_path / "records.jsonl", MADE))
    data = json.loads(command("show", CELL, "--json", "--since", "2026-01-05", "--until", "2026-01-08").out)
    assert data["shown"][0]["records"] == 4
    assert "wrote " in command("show", CELL, "--plot", tmp_path / "trend.svg").out
    assert (tmp_path / "trend.svg").read_text().startswith("<svg")


def test_a_reference_file_of_the_repository_goes_in(command: Command, tmp_path: Path) -> None:
    reference = Path(__file__).parents[1] / "results" / "reference.jsonl"
    some = tmp_path / "some.jsonl"
    with reference.open("rb") as stream:
        some.write_bytes(b"".join(itertools.islice(stream, 300)))
    assert command("add", some).status == 0
    assert command("get", "-o", tmp_path / "taken.jsonl").status == 0
    assert list(records.read(tmp_path / "taken.jsonl")) == sorted(
        records.read(some), key=lambda item: (item.cell, item.started)
    )


def test_an_empty_history_and_a_glob_that_matches_nothing_end_with_4(command: Command, tmp_path: Path) -> None:
    empty = command("show", "*")
    assert (empty.status, empty.out) == (4, "")
    assert "`portmatrix history add FILES...` makes one" in empty.err
    command("add", write(tmp_path / "records.jsonl", MADE))
    for arguments in (["show", "caffe/*"], ["show", "--since", "2030-01-01"], ["get", "caffe/*", "-o", tmp_path / "x"]):
        assert command(*arguments).status == 4
    assert not (tmp_path / "x").exists()
    assert "did you mean" in command("show", CELL.replace("mlp", "mpl")).err


@pytest.mark.parametrize("line", ["{}", "no json", '{"schema_version": 2}'])
def test_what_is_no_record_ends_with_2(line: str, command: Command, tmp_path: Path) -> None:
    file = write(tmp_path / "records.jsonl", MADE)
    with file.open("a") as stream:
        stream.write(line)
    ended = command("add", file)
    assert ended.status == 2
    assert f"{file}, line 25: " in ended.err


def test_what_was_not_measured_cannot_be_plotted(command: Command, tmp_path: Path) -> None:
    command("add", write(tmp_path / "records.jsonl", [record(outcome=Outcome.FAIL)]))
    assert command("show", "--plot", tmp_path / "trend.svg").status == 4
    assert command("show", "--plot", tmp_path / "trend.gif").status == 2


def test_without_the_extra_the_command_that_installs_it_is_said(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(extra, "import_module", missing)
    ended = command("add", write(tmp_path / "records.jsonl", MADE))
    assert ended.status == 2
    assert "`pip install 'portmatrix[history]'` installs it" in ended.err
