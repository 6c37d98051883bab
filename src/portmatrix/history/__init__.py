"""The history: records of many runs as Parquet files by day, in a folder or an object store, asked through DuckDB.

What it needs beside the engine is the extra ``history``; every module here can be imported without it.
"""

from __future__ import annotations

from collections.abc import Iterator

from portmatrix.history import queries
from portmatrix.history.place import Place
from portmatrix.types import Record


def records(named: str, glob: str = "*") -> Iterator[Record]:
    """Yield every record of the history at ``named`` (a folder or URL) whose cell ``glob`` matches.

    In the order of cells and starts. Raises ``NothingSelected`` where there are none.
    """
    return queries.records(Place(named), [] if glob == "*" else [glob])
