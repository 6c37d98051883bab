"""Records on disk and together: written one line at a time, read back whatever happened, merged in any order."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal

from filelock import FileLock, Timeout
from pydantic import BaseModel, ValidationError

from portmatrix import __version__
from portmatrix.errors import RecordError, UserError
from portmatrix.migrations import parse
from portmatrix.store import disk_errors
from portmatrix.types import SCHEMA_VERSION, Outcome, Record

#: Bytes that are read or written at a time where records come by the million.
_BUFFER = 1 << 20


class Journal:
    """A results file being written: every record is a line that reaches the operating system before ``add`` returns.

    Use as a context manager. What stood in the file before is set aside (``set_aside``), not lost. A lock keeps a
    second engine off the same file; a last line that a killed engine left unfinished is cut away.
    """

    def __init__(self, file: Path, *, resume: bool) -> None:
        """Open ``file``, keeping what stands in it if ``resume``; raises ``UserError`` if another engine has it."""
        self.file = file
        self.found: list[Record] = []
        self.set_aside: Path | None = None
        with disk_errors(str(file)):
            file.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(file.with_name(f".{file.name}.lock"))
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise UserError(f"{file} is being written by another run; wait for it, or name another file") from error
        try:
            if resume and file.exists():
                self.found = list(read(file, cut_last=True))
                _cut_unfinished(file)
            if not resume and file.exists() and file.stat().st_size:
                self.set_aside = file.with_name(f"{file.stem}.previous{file.suffix}")
                file.replace(self.set_aside)
            self._stream = file.open("ab" if resume else "wb")
        except BaseException:
            self._lock.release()
            raise

    def add(self, record: Record) -> None:
        """Append one record; raises ``DiskFull``, in which case everything before it stands."""
        with disk_errors(str(self.file)):
            self._stream.write(line_of(record) + b"\n")
            self._stream.flush()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._stream.close()
        # The lock's file stays: an engine that took it before it was removed would not keep out one that came after.
        self._lock.release()


def _cut_unfinished(file: Path) -> None:
    with file.open("rb+") as stream:
        content = stream.read()
        whole = content.rfind(b"\n") + 1
        if whole != len(content):
            stream.truncate(whole)


def line_of(record: Record) -> bytes:
    """Return a record as a line of a results file, without the line's end; what is at its default is left out."""
    line = record.model_dump_json(exclude_defaults=True, exclude={"schema_version"})
    return f'{{"schema_version":{SCHEMA_VERSION},{line[1:]}'.encode()


def read(file: Path, *, cut_last: bool = False) -> Iterator[Record]:
    """Yield the records of a results file, those of older schema versions as today's.

    With ``cut_last`` an unfinished last line is passed over. Raises ``RecordError`` naming file and line for a schema
    version that is not known, or a line that is no record.
    """
    for number, line, finished in _lines(file):
        if not finished and cut_last:
            return
        yield parse(line, f"{file}, line {number}")


def _lines(file: Path) -> Iterator[tuple[int, bytes, bool]]:
    try:
        with file.open("rb", buffering=_BUFFER) as stream:
            for number, line in enumerate(stream, 1):
                if not line.isspace():
                    yield number, line, line.endswith(b"\n")
    except OSError as error:
        raise RecordError(f"{file}: {error.strerror}; expected a file of records (JSON lines)") from error


def merge(files: Sequence[Path]) -> dict[str, bytes]:
    """Return ``{cell: its standing record as a JSON line}`` over many files, in any order and with any duplicates.

    The attempt that started last stands, whatever its outcome: a crash today is not hidden by last week's pass. Equal
    starts are decided by the line itself, so that the order of files never matters. Lines are checked for what merging
    rests on (JSON, schema version, cell, start) and pass through unchanged, so that a million of them fit; whole
    records are validated when they are read. A line of an older schema version becomes one of today's. Raises
    ``RecordError``.
    """
    best: dict[str, tuple[str, bytes]] = {}
    for file in files:
        for number, line, _finished in _lines(file):
            text = line.rstrip(b"\r\n")
            key = _merge_key(text)
            if key is None:
                record = parse(text, f"{file}, line {number}")
                text, key = line_of(record), (record.cell, record.started)
            cell, started = key
            standing = best.get(cell)
            if standing is None or (started, text) > standing:
                best[cell] = (started, text)
    return {cell: best[cell][1] for cell in sorted(best)}


class _Head(BaseModel):
    """What merging must know of a record. The rest of the line is checked to be JSON, and not made into objects."""

    schema_version: Literal[1]
    cell: str
    outcome: Outcome
    started: str


def _merge_key(line: bytes) -> tuple[str, str] | None:
    """Return cell and start of a record line, or None if it is none that can be merged."""
    try:
        head = _Head.model_validate_json(line)
    except ValidationError:
        return None
    return head.cell, head.started


class ResultSet:
    """The standing record of every cell, in the order of cell ids; planned cells without one are ``NOT_RUN``."""

    def __init__(self, records: Iterable[Record], planned: Iterable[str] = (), *, run: str = "-") -> None:
        found: dict[str, Record] = {}
        for record in records:
            standing = found.get(record.cell)
            if standing is None or _order(record) > _order(standing):
                found[record.cell] = record
        for cell in planned:
            if cell not in found:
                found[cell] = not_run(cell, "no record of this cell", run=run)
        self.records: tuple[Record, ...] = tuple(found[cell] for cell in sorted(found))

    @property
    def counts(self) -> dict[Outcome, int]:
        """How many cells ended in each outcome, in the order of ``Outcome``, without those that none ended in."""
        counted = Counter(record.outcome for record in self.records)
        return {outcome: counted[outcome] for outcome in Outcome if counted[outcome]}


def _order(record: Record) -> tuple[str, str]:
    """Return what decides which of two records of one cell stands: the later start, then the text."""
    return record.started, record.model_dump_json()


def not_run(cell: str, why: str, *, run: str) -> Record:
    """Return the record of a cell that was not tried."""
    return Record(cell=cell, outcome=Outcome.NOT_RUN, reason=why, run=run, started="", engine=__version__)


def write_merged(lines: Iterable[bytes], place: Path) -> None:
    """Write merged lines as a results file, beside its place and moved there; raises ``DiskFull``."""
    with disk_errors(str(place)):
        place.parent.mkdir(parents=True, exist_ok=True)
        beside = place.with_name(f".{place.name}.{os.getpid()}")
        with beside.open("wb", buffering=_BUFFER) as stream:
            for line in lines:
                stream.write(line)
                stream.write(b"\n")
        beside.replace(place)
