from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from made_history import latency, record
from page_of import Parts, context
from playwright.sync_api import Page, expect

from portmatrix.site import latency as page_module
from portmatrix.site import plots
from portmatrix.site.latency import page, typical_ratios
from portmatrix.types import Reach, Record, Timing

BASELINE = "torch/mlp/onnx/ort/linux-x86_64"
HOSTILE = "</script><script>alert(1)</script>\x00\u202e'\"&amp;"


def measured(cell: str, ratio: float | None = 1.5, reach: Reach = Reach.NATIVE, **changed: object) -> Record:
    return record(cell=cell, reach=reach, latency=latency(ratio, baseline=BASELINE, **changed))


def some() -> list[Record]:
    return [
        measured(BASELINE, 1.01, peak_mb=12.34, installed_bytes=137_407_822),
        measured("torch/mlp/native/torch/linux-x86_64", 2.5, artifact_bytes=642_192),
        measured("torch/lstm/onnx/ov/linux-x86_64", 0.8),
        record(cell="caffe/mlp/native/mnn/linux-x86_64"),
    ]


def test_where_nothing_was_measured_the_page_says_what_to_do() -> None:
    parts = Parts(page(context([record()])))
    assert "portmatrix measure" in parts.text
    assert not parts.count("table")
    assert not parts.count("svg")


def test_every_measurement_is_in_a_table_with_the_numbers() -> None:
    parts = Parts(page(context(some())))
    row = parts.row("native → torch", "2.500", "800 µs")
    assert row == ["mlp", "native → torch", "2.500", "2.450 to 2.550", "2 ms", "", "", "800 µs", "ort", "40 \u00d7 10"]
    assert "32 ms" in [row for row in parts.rows if row[1].strip() == "native → torch"][1][4]
    assert "cell.html#torch/mlp/native/torch/linux-x86_64" in parts.values("href")
    assert parts.row("onnx → ort baseline", "1.010", "1.98 ms")


def test_what_there_is_one_of_is_in_a_table_of_its_own() -> None:
    row = Parts(page(context(some()))).row("onnx → ort baseline", "12.3 MiB")
    assert row[2:] == ["10 ms", "2 ms", "12.3 MiB", "1 kB", "137 MB", "s"]


def test_each_way_of_calling_is_a_part_that_can_be_gone_to() -> None:
    parts = Parts(page(context(some())))
    ids = [f"section-0-batch-{batch}-threads-1" for batch in (1, 16)]
    assert set(ids) <= set(parts.values("id"))
    assert {f"#{name}" for name in ids} <= set(parts.values("href"))
    assert ["open" in attrs for tag, attrs in parts.elements if tag == "details"] == [True, False]


def test_plots_have_names_and_stand_beside_their_tables() -> None:
    body = page(context(some())).body
    titles = re.findall(r"<title [^>]*>([^<]*)</title>", body)
    of_ways = [
        title
        for way in ("batch 1, 1 thread", "batch 16, 1 thread")
        for title in (
            f"Size against latency, {way}",
            f"torch, {way}: time relative to the baseline",
            f"torch, {way}: time of a call",
        )
    ]
    assert titles == [*of_ways, "torch: loading and the first call"]
    assert "3 ratios from 0.8 to 2.5" in body
    assert len(set(re.findall(r'aria-labelledby="(plot-[^"]+)"', body))) == 7


@pytest.mark.parametrize(
    ("changed", "heading"),
    [
        ({"unstable": True}, "Unstable"),
        ({"emulated": True}, "Emulated"),
        ({"emulated": True, "unstable": True}, "Emulated"),
    ],
)
def test_what_is_not_to_be_relied_on_stands_apart(changed: dict[str, bool], heading: str) -> None:
    apart = measured("torch/gru/onnx/ov/linux-s390x", 40.0, **changed)
    body = str(page(context([*some(), apart])).body)
    steady, _, rest = body.partition(f">{heading}")
    assert rest
    assert "gru" not in steady
    assert "gru" in rest
    assert "40.000" in rest
    assert "hollow" in rest


def test_machines_are_kept_apart() -> None:
    other = measured("torch/gru/onnx/ov/linux-x86_64", cpu="another one")
    body = page(context([*some(), other])).body
    assert "on <bdi>of the tests</bdi>" in body
    assert "on <bdi>another one</bdi>" in body


def single(ratio: float) -> Timing:
    return Timing(batch=1, threads=1, inner=1, samples=20, p50=1e-3, p90=None, p99=None, ratio=ratio)


def test_a_framework_has_the_median_of_its_ratios_that_count() -> None:
    records = [
        measured(BASELINE, timings=(single(100.0),)),
        *(measured(f"torch/m{ratio:g}/onnx/ov/linux-x86_64", timings=(single(ratio),)) for ratio in (1.0, 2.0, 4.0)),
        measured("caffe/mlp/native/mnn/linux-x86_64", timings=(single(9.0),), unstable=True),
    ]
    found = typical_ratios(records)
    assert {name: (ratio.median, ratio.cells) for name, ratio in found.items()} == {"torch": (2.0, 3)}
    assert Parts(page(context(records))).row("torch", "2", "3")


def test_without_a_baseline_there_are_times_and_no_ratios() -> None:
    parts = Parts(page(context([measured("torch/mlp/onnx/ort/linux-x86_64", None)])))
    row = next(row for row in parts.rows if row[0] == "mlp")
    assert row[2:5] == ["", "", "2 ms"]
    assert "relative to the baseline" not in "".join(parts.values("aria-labelledby"))


def test_without_the_library_there_are_tables_and_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "_library", lambda: None)
    parts = Parts(page(context(some())))
    assert not parts.count("svg")
    assert not parts.count("figure")
    assert plots.INSTALL in parts.text
    assert parts.row("native → torch", "2.500", "800 µs")


def test_very_many_measurements_are_cut_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, limit in (("CELLS", 6), ("ROWS", 4), ("PLOTS", 3)):
        monkeypatch.setattr(page_module, name, limit)
    records = [measured(f"torch/m{number}/onnx/ov/linux-x86_64") for number in range(9)]
    parts = Parts(page(context(records)))
    assert "9 cells were measured" in parts.text
    assert "the first 6 cells" in parts.text
    assert "2 further rows are in the table only" in parts.text
    assert "3 plots at most" in parts.text
    assert parts.count("svg") == 3
    models = {row[0] for row in parts.rows}
    assert "m5" in models
    assert "m6" not in models


def test_what_could_not_be_measured_says_why() -> None:
    left = record(cell="torch/gru/onnx/ov/node", facts={"not_measured": "its worker does not know how"})
    parts = Parts(page(context([*some(), left])))
    assert "torch/gru/onnx/ov/node: its worker does not know how" in parts.text


def test_hostile_names_stay_text() -> None:
    name = HOSTILE.replace("/", "\u2215")
    cell = f"{name}/{name}/{name}/{name}/{name}"
    found = latency(2.0, cpu=HOSTILE, session=HOSTILE, baseline=cell)
    body = page(context([record(cell=cell, latency=found)])).body
    assert not Parts(page(context([record(cell=cell, latency=found)]))).count("script")
    assert "\u202e" not in body
    assert "\x00" not in body


def test_equal_records_give_equal_bytes_in_any_order() -> None:
    assert page(context(some())) == page(context(some()[::-1]))


# --- In a browser ---------------------------------------------------------------------------------------------------


@pytest.mark.xdist_group("browser")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_plots_take_the_pages_colours(open_page: Callable[..., Page], scheme: str) -> None:
    page = open_page("latency.html", color_scheme=scheme)
    text, own = page.evaluate(
        """() => [getComputedStyle(document.querySelector("figure.plot text:last-of-type")).fill,
            getComputedStyle(document.body).color]"""
    )
    assert text == own
    marks = page.evaluate(
        """() => [...document.querySelectorAll("figure.plot path")].map(mark => getComputedStyle(mark).stroke)"""
    )
    assert {"light": "rgb(11, 87, 208)", "dark": "rgb(138, 180, 248)"}[scheme] in marks


@pytest.mark.xdist_group("browser")
def test_a_link_to_a_way_of_calling_folds_it_out(open_page: Callable[..., Page]) -> None:
    page = open_page("latency.html")
    way = page.locator("#section-0-batch-16-threads-1")
    expect(way).to_be_hidden()
    page.get_by_role("link", name="batch 16, 1 thread").first.click()
    expect(way).to_be_visible()


@pytest.mark.xdist_group("browser")
def test_a_plot_fits_a_phone_and_can_be_read(open_page: Callable[..., Page]) -> None:
    page = open_page("latency.html", size=(375, 700))
    widths, letters = page.evaluate(
        """() => {
            const sizes = name => [...document.querySelectorAll(`details[open] figure.plot ${name}`)]
                .map(element => element.getBoundingClientRect());
            return [sizes("svg").map(size => size.width), sizes("text").map(size => size.height)];
        }"""
    )
    assert widths
    assert max(widths) <= 375
    assert min(height for height in letters if height) >= 9
