"""The history in an object store: a server on this machine that speaks S3, s3fs, and DuckDB reading through it."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import command_line
import pytest
import s3fs
from command_line import Command, Ended
from made_history import CELL, OTHER, latency, record, write
from moto.server import ThreadedMotoServer

from portmatrix import records
from portmatrix.history.adding import FILES_OF_LAST_DAY, add
from portmatrix.history.place import Place
from portmatrix.types import Outcome

MADE = [record(day, cell, latency=latency(1.0 + day / 1000)) for day in range(12) for cell in (CELL, OTHER)]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """The address of a server that speaks S3."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def points_to(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have s3fs find that endpoint, and credentials of nobody's, by the variables that every client of S3 reads."""
    variables = {"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing"}
    variables |= {"AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true", "AWS_MAX_ATTEMPTS": "1"}
    variables |= {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The URL of a history in a bucket of the test's own."""
    points_to(endpoint, monkeypatch)
    name = f"b-{abs(hash(tmp_path))}"
    s3fs.S3FileSystem().mkdir(name)
    return f"s3://{name}/deep/history"


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs ``portmatrix`` in this process, as one that has seen nothing of the store before."""

    def run(*arguments: str | Path) -> Ended:
        s3fs.S3FileSystem.clear_instance_cache()
        return command_line.run(capsys, *arguments)

    return run


def test_records_go_in_are_shown_and_come_out(command: Command, bucket: str, tmp_path: Path) -> None:
    file = write(tmp_path / "records.jsonl", MADE)
    assert command("history", "add", file, "--history", bucket) == Ended(
        0, "24 of 24 records were new; they are of 12 days\n", ""
    )
    assert command("history", "add", file, "--history", bucket).out.startswith("0 of 24 records were new")
    shown = json.loads(command("history", "show", "*/mlp/*", "--history", bucket, "--json").out)
    assert (shown["cells"], shown["shown"][0]["records"]) == (1, 12)
    taken = tmp_path / "taken.jsonl"
    assert command("history", "get", "-o", taken, "--history", bucket).status == 0
    assert list(records.read(taken)) == sorted(MADE, key=lambda item: (item.cell, item.started))


def test_two_runs_are_compared(command: Command, bucket: str, tmp_path: Path) -> None:
    made = [record(0, run="before"), record(1, outcome=Outcome.FAIL, run="after")]
    add(Place(bucket), [write(tmp_path / "records.jsonl", made)])
    assert command("compare", f"{bucket}@before", f"{bucket}@after").status == 1, "it regressed"
    assert command("compare", f"{bucket}@after", f"{bucket}@before").status == 0
    unknown = command("compare", bucket, f"{bucket}@aftr")
    assert unknown.status == 2
    assert "has no run 'aftr'; its last ones are after, before (did you mean 'after'?)" in unknown.err


def test_many_files_of_a_day_become_one_and_what_they_replace_is_gone(bucket: str, tmp_path: Path) -> None:
    for number in range(FILES_OF_LAST_DAY + 1):
        s3fs.S3FileSystem.clear_instance_cache()
        added = add(Place(bucket), [write(tmp_path / "records.jsonl", [record(number / 100)])])
        assert (added.read, added.new) == (1, 1)
    s3fs.S3FileSystem.clear_instance_cache()
    listed = s3fs.S3FileSystem().find(bucket)
    assert [name.rpartition("/")[2][:7] for name in listed] == ["000001-"]
    assert len(Place(bucket).parts()) == 1


def test_what_another_process_added_is_seen(bucket: str, tmp_path: Path) -> None:
    here = Place(bucket)
    assert here.parts() == []
    # Another process has another memory of what is listed.
    other = s3fs.S3FileSystem(skip_instance_cache=True)
    name = f"{bucket}/v1/day=2026-01-01/000000-a.parquet"
    other.pipe_file(name, b"")
    assert [part.file for part in here.parts()] == [name]


def test_an_empty_bucket_is_an_empty_history(command: Command, bucket: str) -> None:
    ended = command("history", "show", "--history", bucket)
    assert (ended.status, ended.out) == (4, "")
    assert "there is no history in s3://" in ended.err


def test_a_bucket_that_is_not_there_is_not_made(command: Command, bucket: str, tmp_path: Path) -> None:
    file = write(tmp_path / "records.jsonl", [record()])
    ended = command("history", "add", file, "--history", "s3://misspelt/history")
    assert ended.status == 2
    assert "s3://misspelt/history: there is no bucket misspelt; make it first, or mend the name" in ended.err
    assert "misspelt" not in s3fs.S3FileSystem().ls("")


@pytest.mark.parametrize("verb", ["add", "show"])
def test_a_store_that_does_not_answer_is_named(
    verb: str, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as listener:  # bound, and never listening
        listener.bind(("127.0.0.1", 0))
        points_to(f"http://127.0.0.1:{listener.getsockname()[1]}", monkeypatch)
        file = write(tmp_path / "records.jsonl", [record()])
        ended = command("history", verb, *([file] if verb == "add" else []), "--history", "s3://bucket/history")
    assert ended.status == 2
    assert "s3://bucket/history cannot be used: " in ended.err
    assert "finds endpoint and credentials as it does everywhere" in ended.err


def test_without_credentials_it_is_said(
    command: Command, endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points_to(endpoint, monkeypatch)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    file = write(tmp_path / "records.jsonl", [record()])
    ended = command("history", "add", file, "--history", "s3://bucket/history")
    assert ended.status == 2
    assert "redentials" in ended.err


def test_a_file_that_is_damaged_is_named(command: Command, bucket: str, tmp_path: Path) -> None:
    add(Place(bucket), [write(tmp_path / "records.jsonl", [record()])])
    (part,) = Place(bucket).parts()
    s3fs.S3FileSystem().pipe_file(part.file, b"no Parquet, but long enough to be one")
    ended = command("history", "show", "--history", bucket)
    assert ended.status == 2
    assert part.file.rpartition("/")[2] in ended.err
