"""The last records of many cells at once: what the report's site plots for each of them."""

from __future__ import annotations

from collections.abc import Iterable

from portmatrix.history.place import Place, table
from portmatrix.migrations import parse
from portmatrix.types import Record


def recent(place: Place, cells: Iterable[str], most: int) -> dict[str, tuple[Record, ...]]:
    """Return for each of these cells its last ``most`` records, oldest first; a cell that has none is not there.

    Raises ``NothingSelected`` where there is no history.
    """
    found: dict[str, list[Record]] = {}
    with place.connected() as connection:
        everything = table(place.has_records())
        connection.execute("CREATE TEMP TABLE wanted AS SELECT unnest(?::VARCHAR[]) AS cell", [sorted(set(cells))])
        # Which ones is asked first, of narrow columns: whole records of everything would not fit into memory.
        connection.execute(
            f"""
            CREATE TEMP TABLE last AS SELECT key FROM {everything} SEMI JOIN wanted USING (cell)
            QUALIFY row_number() OVER (PARTITION BY cell ORDER BY started DESC, key DESC) <= {most:d}
            """
        )
        connection.execute(
            f"SELECT key::VARCHAR, record FROM {everything} SEMI JOIN last USING (key) ORDER BY cell, started, key"
        )
        while batch := connection.fetchmany(10_000):
            for key, text in batch:
                record = parse(text, f"{place.named}, record {key}")
                found.setdefault(record.cell, []).append(record)
    return {cell: tuple(records) for cell, records in found.items()}
