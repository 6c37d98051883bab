"""Where a history lies: a folder or an object store, its Parquet files by day, and DuckDB connected to it.

Layout: ``PLACE/v1/day=YYYY-MM-DD/GENERATION-NAME.parquet``. A day's files of the highest generation are what it has. A
file of a new generation takes the place of all older ones in one step, and only then these are removed: whenever a
writer is killed, readers find every record once.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from filelock import FileLock, Timeout

from portmatrix.errors import NothingSelected, PortmatrixError, RecordError, UserError
from portmatrix.history.extra import library
from portmatrix.store import default_root, disk_errors

#: Changes when the columns do. Each layout is a folder of its own; every record is whole in its column ``record``, so
#: that an older one can be added again.
LAYOUT = "v1"
#: What DuckDB may use before it goes to disk. The process has about 150 MiB beside it.
MEMORY = "640MB"
#: What a message about an object store ends with.
_STORES = "its library (s3fs for s3://) finds endpoint and credentials as it does everywhere"
_PART = re.compile(r"day=(\d{4}-\d\d-\d\d)/(\d{6})-[^/]+\.parquet$")


class Connection(Protocol):
    """What is used of DuckDB's connection."""

    def execute(self, query: str, parameters: object = ...) -> Connection:
        """Carry out a query."""

    def fetchall(self) -> list[tuple[Any, ...]]:
        """Return the rows of the last query."""

    def fetchone(self) -> tuple[Any, ...] | None:
        """Return the next row of the last query, or None."""

    def fetchmany(self, size: int = ...) -> list[tuple[Any, ...]]:
        """Return the next rows of the last query, an empty list at the end."""

    def register_filesystem(self, filesystem: Any) -> None:
        """Read the URLs of this file system through it."""

    def close(self) -> None:
        """End it."""


class Part(NamedTuple):
    """A Parquet file of the history: its day, its generation, and its path or URL."""

    day: str
    generation: int
    file: str


def default_place() -> str:
    """Return where the history of this user is, unless it is named: beside what the store keeps."""
    return str(default_root() / "history")


class Place:
    """A folder, or a URL that fsspec knows (``s3://bucket/history``)."""

    def __init__(self, named: str) -> None:
        """Take the place as the user names it; raises ``UserError`` for a URL that nothing here can open."""
        self.named = named
        try:
            self._files, root = library("fsspec.core").url_to_fs(named)
        except (ValueError, ImportError) as error:
            raise UserError(
                f"{named}: {error}; expected a folder, or a URL whose library is installed (s3:// needs s3fs)"
            ) from error
        self._root = root.rstrip("/")
        self.is_folder = "file" in _protocols(self._files)

    def parts(self, since: str | None = None, until: str | None = None) -> list[Part]:
        """Return the files that hold the records, in the order of days; ``since`` and ``until`` are days.

        Raises ``RecordError`` where there are none of this layout, but some of another.
        """
        found = [part for name in self._listed(f"{self._root}/{LAYOUT}") if (part := self._part(name))]
        if not found:
            self._refuse_other_layouts()
        newest: dict[str, int] = {}
        for part in found:
            newest[part.day] = max(part.generation, newest.get(part.day, 0))
        return sorted(
            part
            for part in found
            if part.generation == newest[part.day]
            and (since is None or part.day >= since)
            and (until is None or part.day <= until)
        )

    def has_records(self, since: str | None = None, until: str | None = None) -> list[Part]:
        """Return ``parts``; raises ``NothingSelected`` if there are none."""
        found = self.parts(since, until)
        if not found and (since or until):
            raise NothingSelected(f"the history in {self.named} has no records of the days asked for")
        if not found:
            raise NothingSelected(f"there is no history in {self.named}; `portmatrix history add FILES...` makes one")
        return found

    def put(self, written: Path, day: str, generation: int, name: str) -> None:
        """Put a finished local file among the day's: there as a whole or not at all; raises ``DiskFull``."""
        folder = f"{self._root}/{LAYOUT}/day={day}"
        place = f"{folder}/{generation:06d}-{name}.parquet"
        with disk_errors(place), self._reached():
            self._files.makedirs(folder, exist_ok=True)
            if self.is_folder:
                beside = Path(folder, f".{name}.{os.getpid()}")
                self._files.put_file(str(written), str(beside))
                beside.replace(place)
            else:
                self._files.put_file(str(written), place)

    def remove(self, parts: Iterable[Part]) -> None:
        """Remove files of the history."""
        with self._reached():
            for part in parts:
                self._files.rm_file(part.file)

    def stale(self, days: Iterable[str]) -> list[Part]:
        """Return the files of these days that a newer generation has taken the place of."""
        valid = set(self.parts())
        listed = (name for day in days for name in self._listed(f"{self._root}/{LAYOUT}/day={day}"))
        return [part for name in listed if (part := self._part(name)) and part not in valid]

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Keep other writers of a folder off; of an object store one writes at a time by agreement.

        Raises ``UserError`` where another writes, and for a bucket that is not there: a misspelt one is not made.
        """
        if not self.is_folder:
            self._refuse_missing_bucket()
            yield
            return
        with disk_errors(self._root):
            Path(self._root).mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(Path(self._root, ".lock"), timeout=0):
                yield
        except Timeout as error:
            raise UserError(f"{self.named} is being written by another process; wait for it") from error

    @contextmanager
    def connected(self) -> Iterator[Connection]:
        """Yield DuckDB, which reads this place, and keeps what does not fit into ``MEMORY`` in a scratch folder.

        Raises ``RecordError`` for a file that it cannot read, damaged or gone meanwhile.
        """
        duckdb = library("duckdb")
        with ExitStack() as stack:
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="portmatrix-history-"))
            settings = {
                "memory_limit": MEMORY,
                "temp_directory": scratch,
                # Every query whose order matters says so; the others may be answered by all cores at once.
                "preserve_insertion_order": "false",
                # Nothing is fetched from anywhere in the middle of a command.
                "autoinstall_known_extensions": "false",
            }
            connection: Connection = duckdb.connect(config=settings)
            stack.callback(connection.close)
            # Several questions are asked of the same files.
            connection.execute("SET parquet_metadata_cache = true")
            if not self.is_folder:
                connection.register_filesystem(self._files)
            try:
                yield connection
            except (duckdb.IOException, duckdb.InvalidInputException) as error:
                said = str(error).strip().partition("\n")[0]
                raise RecordError(f"the history in {self.named} cannot be read or written: {said}") from error

    def _listed(self, folder: str) -> list[str]:
        with self._reached():
            try:
                return list(self._files.find(folder))
            except FileNotFoundError:
                return []

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Turn what a store's library raises into ``UserError``; what goes wrong with a folder passes as it is."""
        try:
            yield
        except PortmatrixError:
            raise
        except Exception as error:  # each library has errors of its own, and some of them are no OSError
            if self.is_folder:
                raise
            raise UserError(f"{self.named} cannot be used: {type(error).__name__}: {error}; {_STORES}") from error

    def _refuse_missing_bucket(self) -> None:
        bucket = self._root.partition("/")[0]
        if not bucket:  # not of an object store: a path from the root of a machine
            return
        with self._reached():
            try:
                # Not by exists(), which takes every error for a no.
                self._files.info(bucket)
            except FileNotFoundError as error:
                why = f"there is no bucket {bucket}; make it first, or mend the name"
                raise UserError(f"{self.named}: {why}") from error

    def _part(self, name: str) -> Part | None:
        found = _PART.search(name.replace(os.sep, "/"))
        if not found:
            return None
        return Part(found[1], int(found[2]), name if self.is_folder else self._files.unstrip_protocol(name))

    def _refuse_other_layouts(self) -> None:
        others = {match[1] for name in self._listed(self._root) if (match := re.search(r"/(v\d+)/day=", name))}
        if others - {LAYOUT}:
            raise RecordError(
                f"{self.named} holds a history of layout {', '.join(sorted(others))}; this portmatrix reads {LAYOUT}: "
                "use the version that wrote it, or `history add` the records to a new place"
            )


def _protocols(files: Any) -> tuple[str, ...]:
    return (files.protocol,) if isinstance(files.protocol, str) else tuple(files.protocol)


def literal(text: str) -> str:
    """Return ``text`` as a literal in SQL."""
    return "'" + text.replace("'", "''") + "'"


def rows_of(file: Path, columns: Mapping[str, str]) -> str:
    """Return the SQL that reads JSON lines as one table; ``columns`` maps their names to types of DuckDB."""
    typed = ", ".join(f"{literal(name)}: {literal(kind)}" for name, kind in columns.items())
    return f"read_json({literal(str(file))}, format = 'newline_delimited', columns = {{{typed}}})"


def table(parts: Iterable[Part]) -> str:
    """Return the SQL that reads files of the history as one table."""
    files = ", ".join(literal(part.file) for part in parts)
    return f"read_parquet([{files}], hive_partitioning = false)"
