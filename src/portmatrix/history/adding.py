"""Putting records into the history: each once, sorted by cell within its day, in few files."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from portmatrix.errors import RecordError
from portmatrix.history.columns import COLUMNS, row
from portmatrix.history.place import Connection, Part, Place, literal, rows_of, table
from portmatrix.migrations import parse
from portmatrix.store import disk_errors

#: Rows of a row group. A day is sorted by cell, so that a query for one cell reads one or two of its groups; smaller
#: ones would make the index at the end of every file, all of which is read, larger than what it saves.
ROW_GROUP = 4096
#: Most files that the last day may have before they are made one; every earlier day has one.
FILES_OF_LAST_DAY = 8
ORDER = "cell, started, key"
FORMAT = f"FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {ROW_GROUP}"


class Added(NamedTuple):
    """What came of adding: records read, those of them that were new, and days that they belong to."""

    read: int
    new: int
    days: int


def add(place: Place, files: Sequence[Path]) -> Added:
    """Put the records of JSON-lines files into the history, those that it has left out; returns how many there were.

    All files are read before anything is written. Raises ``RecordError`` for a line that is no record.
    """
    with place.writing(), place.connected() as connection, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        read = _write_rows(files, folder / "incoming.jsonl")
        _take_in(connection, folder / "incoming.jsonl")
        days = [str(day) for (day,) in connection.execute("SELECT DISTINCT day FROM incoming ORDER BY day").fetchall()]
        place.remove(place.stale(days))
        existing = _by_day(place.parts())
        new = sum(_add_day(place, connection, day, existing.get(day, []), folder) for day in days)
        _compact(place, connection, folder)
        return Added(read, new, len(days))


def _write_rows(files: Iterable[Path], place: Path) -> int:
    """Write every record as a row; returns how many. DuckDB reads them from the file, in as little memory as it has."""
    count = 0
    with disk_errors("the rows to be added"), place.open("w", encoding="utf-8") as stream:
        for line, where in _lines(files):
            json.dump(row(parse(line, where), where), stream)
            stream.write("\n")
            count += 1
    return count


def _lines(files: Iterable[Path]) -> Iterator[tuple[bytes, str]]:
    for file in files:
        try:
            with file.open("rb") as stream:
                for number, line in enumerate(stream, 1):
                    if not line.isspace():
                        yield line, f"{file}, line {number}"
        except OSError as error:
            raise RecordError(f"{file}: {error.strerror}; expected a file of records (JSON lines)") from error


def _take_in(connection: Connection, rows: Path) -> None:
    incoming = rows_of(rows, {"day": "VARCHAR", **COLUMNS})
    connection.execute(f"CREATE TEMP TABLE incoming AS SELECT * FROM {incoming} ORDER BY day")


def _add_day(place: Place, connection: Connection, day: str, existing: list[Part], folder: Path) -> int:
    """Write what is new of one day; returns how many records that are."""
    known = f"AND key NOT IN (SELECT key FROM {table(existing)})" if existing else ""
    wanted = f"SELECT * EXCLUDE (day) FROM incoming WHERE day = {literal(day)} {known}"
    written = folder / f"{day}.parquet"
    count = _write(connection, wanted, written)
    if count:
        generation = max((part.generation for part in existing), default=0)
        place.put(written, day, generation, _name(connection, written))
    written.unlink()
    return count


def _write(connection: Connection, rows: str, file: Path) -> int:
    """Write rows in the history's order, each key once; returns how many."""
    once = f"{rows} QUALIFY row_number() OVER (PARTITION BY key) = 1 ORDER BY {ORDER}"
    done = connection.execute(f"COPY ({once}) TO {literal(str(file))} ({FORMAT})").fetchone()
    return int(done[0]) if done else 0


def _name(connection: Connection, file: Path) -> str:
    """Return a name that says which records a file has: the same ones written twice lie in the same place."""
    asked = f"SELECT md5(string_agg(key::VARCHAR, '' ORDER BY key)) FROM read_parquet({literal(str(file))})"
    return str(connection.execute(asked).fetchall()[0][0])


def _by_day(parts: Iterable[Part]) -> dict[str, list[Part]]:
    found: dict[str, list[Part]] = defaultdict(list)
    for part in parts:
        found[part.day].append(part)
    return found


def _compact(place: Place, connection: Connection, folder: Path) -> None:
    """Make the files of a day one, where they are many or the day is over: a query opens every file."""
    by_day = _by_day(place.parts())
    last = max(by_day, default="")
    for day, parts in by_day.items():
        if len(parts) > (FILES_OF_LAST_DAY if day == last else 1):
            written = folder / "compacted.parquet"
            _write(connection, f"SELECT * FROM {table(parts)}", written)
            place.put(written, day, parts[0].generation + 1, _name(connection, written))
            place.remove(parts)
            written.unlink()
