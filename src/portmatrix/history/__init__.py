"""The history: records of many runs as Parquet files by day, in a folder or an object store, asked through DuckDB.

What it needs beside the engine is the extra ``history``; every module here can be imported without it.
"""

from __future__ import annotations

from collections.abc import Iterator

from portmatrix.history import queries
from portmatrix.history.place import Place
from portmatrix.types import Record


def records(named: str, glob: str = "*", run: str | None = None) -> Iterator[Record]:
    """Yield every record of the history at ``named`` (a folder or URL) whose cell ``glob`` matches, or those of a run.

    In the order of cells and starts. Raises ``NothingSelected`` where there are none, and ``UserError`` if the history
    has no run of that name.
    """
    return queries.records(Place(named), [] if glob == "*" else [glob], run=run)


def is_there(named: str) -> bool:
    """Return whether there is a history at ``named``; raises ``RecordError`` for one of another layout."""
    return bool(Place(named).parts())
