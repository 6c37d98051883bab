from __future__ import annotations

import base64
import json
import random
import re
import zlib
from pathlib import Path
from typing import Any

import pytest
from made_history import compared, record
from made_site import HOSTILE, STEADY, hostile_context, made_context
from page_of import context

from portmatrix.render.table import shown_of, urgency
from portmatrix.site import data
from portmatrix.site.page import Context, shown_cell, shown_name
from portmatrix.types import Outcome, Record

UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2028\ud800-\udfff]")


def opened(given: Context) -> dict[str, Any]:
    """Return the content of every data file, as the scripts read it."""
    return dict(read(name, content) for name, content in data.files(given))


def opened_files(site: Path) -> dict[str, Any]:
    """Return the content of every data file of a site on a disk."""
    return dict(read(f"data/{file.name}", file.read_bytes()) for file in (site / "data").iterdir())


def read(name: str, content: bytes) -> tuple[str, Any]:
    """Return what a data file calls itself, and what it gives."""
    call = re.fullmatch(rb'portmatrix\.take\("([a-z0-9-]+)","([A-Za-z0-9+/=]*)"\);\n', content)
    assert call, name
    assert name == f"data/{call[1].decode()}.js"
    return call[1].decode(), json.loads(zlib.decompress(base64.b64decode(call[2]), wbits=-zlib.MAX_WBITS))


def details(given: Context) -> list[dict[str, Any]]:
    found = opened(given)
    return [item for number in range(len(found) - 1) for item in found[f"details-{number}"]]


def test_columns_and_names_give_the_records_back() -> None:
    given = made_context()
    cells = opened(given)["cells"]
    columns = cells["columns"]
    for at, item in enumerate(given.records):
        assert "/".join(cells["axes"][axis][columns[axis][at]] for axis in data.AXES) == item.cell
        assert cells["outcomes"][columns["outcome"][at]][0] == shown_of(item).value
        assert ["", *cells["stages"]][columns["stage"][at]] == (item.stage.value if item.stage else "")
        assert ["", *(name for name, _ in cells["reaches"])][columns["reach"][at]] == (
            item.reach.value if item.reach else ""
        )
        assert bool(columns["flags"][at] & cells["flags"]["archived"]) == item.archived
        timing = item.latency.timings[0] if item.latency else None
        assert columns["ratio"][at] == (float(f"{timing.ratio:.3g}") if timing and timing.ratio else None)
    assert [record.cell for record in given.records] == [record.cell for record in sorted(given.records, key=urgency)]
    assert cells["axes"]["model"] == sorted(cells["axes"]["model"])


def test_a_chunk_has_as_many_cells_as_the_columns_say(monkeypatch: Any) -> None:
    monkeypatch.setattr(data, "CHUNK", 40)
    found = opened(made_context())
    sizes = [len(found[f"details-{number}"]) for number in range(len(found) - 1)]
    total = len(made_context().records)
    assert sizes == [40] * (total // 40) + ([total % 40] if total % 40 else [])
    assert found["cells"]["chunk"] == 40


def test_details_are_the_whole_record() -> None:
    given = made_context()
    for item, detail in zip(given.records, details(given), strict=True):
        latency = {"blocks": [], **detail["record"].pop("latency")} if item.latency else None
        back = Record.model_validate({"cell": item.cell, **detail["record"], "latency": latency})
        left = {"anchors": {}, "baseline_environment": {}, "blocks": ()}
        given_latency = item.latency.model_copy(update=left) if item.latency else None
        same_text = {"reason": back.reason, "log_tail": back.log_tail, "latency": given_latency}
        assert plain(back) == plain(item.model_copy(update=same_text))
        assert ("history" in detail) == (item.cell == STEADY)
        assert "base" in detail


def plain(found: Any) -> Any:
    """Return a record as plain values, numbers such that they are equal if six digits are."""
    match found:
        case Record():
            return plain(found.model_dump(mode="json"))
        case dict():
            return {name: plain(value) for name, value in found.items()}
        case list():
            return [plain(value) for value in found]
        case float():
            return pytest.approx(found, rel=1e-5)
    return found


def test_a_text_that_looks_like_a_number_stays_as_it_is() -> None:
    text = 'loss: 0.123456789, {"x":0.123456789,"y":12.3456789012}'
    numbers = (compared(0.123456789012, 134.70312486), compared(1.23456789012e-7, None))
    item = record(cell="a/b/c/d/e", reason=text, log_tail=text, accuracy=0.9999999999999831, comparisons=numbers)
    (detail,) = details(context([item]))
    assert (detail["record"]["reason"], detail["record"]["log_tail"]) == (text, text)
    found = [one["max_abs"] for one in detail["record"]["comparisons"]]
    assert found == [0.123456, 1.23456e-7]
    assert detail["record"]["comparisons"][0]["snr_db"] == 134.70312
    assert detail["record"]["accuracy"] == 0.9999999999999831


def test_equal_records_give_equal_bytes() -> None:
    given = made_context()
    shuffled = list(given.records)
    random.Random(1).shuffle(shuffled)
    again = given._replace(
        records=tuple(sorted(shuffled, key=urgency)), kinships=dict(reversed(given.kinships.items()))
    )
    assert dict(data.files(given)) == dict(data.files(again))


def test_no_folder_of_this_machine_is_told() -> None:
    text = json.dumps(opened(made_context()))
    assert "onnxruntime.py" not in text


def test_hostile_text_is_visible_and_bounded() -> None:
    given = hostile_context()
    files = dict(data.files(given))
    assert sum(map(len, files.values())) < 400_000
    found = opened(given)
    text = json.dumps(found, ensure_ascii=False)
    assert not UNSEEN.search(text)
    assert len(text) < 30_000_000
    assert "more characters)" in text
    assert "more" in found["details-0"][0]["record"]["lookup"]["found"][-1]


def test_long_names_are_cut_and_stay_apart() -> None:
    one, other = ("n" * 1_000_000 + end for end in "ab")
    assert len(shown_name(one)) <= 200
    assert shown_name(one) != shown_name(other)
    assert shown_cell(f"a/b/c/d/{one}") == f"a/b/c/d/{shown_name(one)}"
    assert shown_name(HOSTILE) == shown_name(shown_name(HOSTILE))


def test_numbers_and_half_characters_that_json_lacks_are_told() -> None:
    nan = record(cell="a/b/c/d/e", reason="half \ud800 a character", accuracy=float("nan"))
    far = record(cell="a/b/c/d/f", comparisons=(compared(1.0, 1.0).model_copy(update={"needed": float("inf")}),))
    (first, _), cells = details(context([nan, far])), opened(context([nan, far]))["cells"]
    assert first["record"]["reason"] == "half \\ud800 a character"
    assert first["record"]["accuracy"] == "nan"
    assert cells["columns"]["needed"] == [0.1, -1]


def test_no_records_are_a_report_too() -> None:
    cells = opened(context([]))["cells"]
    assert cells["columns"]["outcome"] == []
    assert record(cell="a/b/c/d/e").outcome is Outcome.PASS
