"""Where a history lies: its layout, its errors, and what it needs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_history import record, write

from portmatrix.errors import NothingSelected, RecordError, UserError
from portmatrix.history import extra
from portmatrix.history.adding import add
from portmatrix.history.place import Place
from portmatrix.history.queries import records


def test_files_lie_by_day(tmp_path: Path) -> None:
    add(Place(str(tmp_path / "history")), [write(tmp_path / "a.jsonl", [record(0), record(31)])])
    found = sorted(file.relative_to(tmp_path / "history").parts for file in (tmp_path / "history").rglob("*.parquet"))
    assert [parts[:2] for parts in found] == [("v1", "day=2026-01-01"), ("v1", "day=2026-02-01")]
    assert not list((tmp_path / "history").rglob("day=*/.*")), "nothing half-written is left"


def test_days_are_left_out_by_their_names(tmp_path: Path) -> None:
    place = Place(str(tmp_path / "history"))
    add(place, [write(tmp_path / "a.jsonl", [record(day) for day in range(5)])])
    assert [part.day for part in place.parts("2026-01-02", "2026-01-04")] == ["2026-01-02", "2026-01-03", "2026-01-04"]
    with pytest.raises(NothingSelected, match="no records of the days asked for"):
        place.has_records("2026-02-01")


def test_of_a_day_the_newest_generation_counts(tmp_path: Path) -> None:
    place = Place(str(tmp_path / "history"))
    some = tmp_path / "some"
    some.write_bytes(b"")
    for generation, name in ((0, "a"), (0, "b"), (1, "c"), (1, "d")):
        place.put(some, "2026-01-01", generation, name)
    assert [Path(part.file).name for part in place.parts()] == ["000001-c.parquet", "000001-d.parquet"]
    assert [Path(part.file).name for part in place.stale(["2026-01-01"])] == ["000000-a.parquet", "000000-b.parquet"]


def test_an_empty_history_says_how_to_fill_it(tmp_path: Path) -> None:
    with pytest.raises(NothingSelected, match=r"there is no history in .*; `portmatrix history add"):
        Place(str(tmp_path / "none")).has_records()


def test_a_history_of_another_layout_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    file = tmp_path / "v2" / "day=2026-01-01" / "000000-a.parquet"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"")
    with pytest.raises(RecordError, match="holds a history of layout v2; this portmatrix reads v1"):
        Place(str(tmp_path)).parts()


@pytest.mark.parametrize("place", ["{folder}", "memory://place{folder}"])
def test_a_damaged_file_is_named_and_no_bug_of_ours(place: str, tmp_path: Path) -> None:
    history = Place(place.format(folder=tmp_path / "history"))
    add(history, [write(tmp_path / "a.jsonl", [record()])])
    damaged = tmp_path / "damaged"
    damaged.write_bytes(b"no Parquet, but long enough to be some")
    history.put(damaged, "2026-01-01", 5, "damaged")
    with pytest.raises(RecordError, match=r"the history in .* cannot be read or written: .*000005-damaged\.parquet"):
        list(records(history))


@pytest.mark.parametrize("named", ["nowhere://a/b", "oci://bucket/history"])
def test_a_url_that_nothing_here_opens_is_refused(named: str) -> None:
    with pytest.raises(UserError, match=rf"{named}: .*; expected a folder, or a URL whose library is installed"):
        Place(named)


@pytest.mark.parametrize("missing", ["fsspec", "duckdb"])
def test_without_the_extra_the_command_that_installs_it_is_named(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true_import: Callable[..., Any] = extra.import_module

    def without(name: str) -> Any:
        if name.partition(".")[0] == missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return true_import(name)

    monkeypatch.setattr(extra, "import_module", without)
    with pytest.raises(UserError, match=rf"the history needs {missing}.*`pip install 'portmatrix\[history\]'`"):
        add(Place(str(tmp_path)), [write(tmp_path / "a.jsonl", [record()])])


def test_nothing_of_the_extra_is_imported_before_it_is_needed() -> None:
    program = "import sys; import portmatrix.cli; print({'duckdb', 'fsspec', 'vl_convert'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
