from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from made_site import MODELS, WRONG, made_context
from playwright.sync_api import Page, expect

from portmatrix.render.table import shown_of
from portmatrix.site.data import AXES
from portmatrix.site.links import to_matrix
from portmatrix.types import Record

pytestmark = pytest.mark.xdist_group("browser")
OpenPage = Callable[..., Page]
CELL_PAGE, MATRIX_PAGE = re.compile(r"/cell\.html#"), re.compile(r"/matrix\.html#")
RECORDS = made_context().records


def said(page: Page) -> str:
    return page.locator("#status").inner_text()


def expected(records: Iterable[Record]) -> str:
    return f"{len(list(records))} of {len(RECORDS)} cells"


def ids(page: Page) -> list[str]:
    """Return the ids of the rows that are in the document, in their order there."""
    rows = page.locator("#rows .row").all()
    return ["/".join(row.locator(f".c-{axis}").inner_text() for axis in AXES) for row in rows]


def shows(page: Page, records: Iterable[Record]) -> None:
    """Check that the list has exactly these, in this order, by what is in sight and by the count."""
    wanted = [record.cell for record in records]
    expect(page.locator("#status")).to_have_text(expected(wanted))
    found = ids(page)
    assert found == wanted[: len(found)]
    assert found or not wanted


@pytest.fixture
def page(open_page: OpenPage) -> Page:
    opened = open_page("matrix.html")
    opened.locator("#rows .row").first.wait_for()
    return opened


def test_every_cell_is_a_row_what_needs_a_decision_first(page: Page) -> None:
    shows(page, RECORDS)
    first = page.locator("#rows .row").first
    assert "✗ fail" in first.locator(".c-outcome").inner_text()
    assert page.locator("#grid").get_attribute("aria-rowcount") == str(len(RECORDS) + 1)


def test_only_rows_in_sight_are_in_the_document_and_say_where_they_belong(page: Page) -> None:
    assert page.locator("#rows .row").count() < 60
    page.locator("#grid").evaluate("grid => { grid.scrollTop = grid.scrollHeight; }")
    last = page.locator(f'#rows .row[aria-rowindex="{len(RECORDS) + 1}"]')
    expect(last).to_be_in_viewport()
    assert ids(page)[-1] == RECORDS[-1].cell
    numbers = [int(row.get_attribute("aria-rowindex") or 0) for row in page.locator("#rows .row").all()]
    assert numbers == list(range(numbers[0], len(RECORDS) + 2))


@pytest.mark.parametrize("axis", [*AXES, "stage", "reach"])
def test_each_axis_filters(page: Page, axis: str) -> None:
    def value(record: Record) -> str:
        if axis in AXES:
            return str(getattr(record.id, axis))
        found = getattr(record, axis)
        return found.value if found else ""

    counts = Counter(map(value, RECORDS))
    (word, _), *_ = [item for item in counts.most_common() if item[0]]
    facet = page.locator(f'.facet[data-key="{axis}"]')
    facet.locator("summary").click()
    option = facet.locator("label", has=page.locator(f'input[value="{word}"]'))
    assert option.locator("small").inner_text() == str(counts[word])
    option.click()
    shows(page, [record for record in RECORDS if value(record) == word])
    assert facet.locator(".picked").inner_text().strip() == word


def test_a_filter_takes_several_values_and_counts_what_each_would_add(page: Page) -> None:
    facet = page.locator('.facet[data-key="model"]')
    facet.locator("summary").click()
    facet.get_by_label("lstm").check()
    facet.get_by_label("gru").check()
    wanted = [record for record in RECORDS if record.id.model in ("lstm", "gru")]
    shows(page, wanted)
    fails = page.locator('.chip[data-value="FAIL"]')
    failing = [record for record in wanted if shown_of(record).value == "FAIL"]
    assert fails.locator("b").inner_text() == str(len(failing))
    fails.click()
    assert fails.get_attribute("aria-pressed") == "true"
    shows(page, failing)
    all_fails = [record for record in RECORDS if shown_of(record).value == "FAIL"]
    by_model = Counter(record.id.model for record in all_fails)
    for model in MODELS:
        label = facet.locator("label", has=page.locator(f'input[value="{model}"]'))
        assert label.locator("small").text_content() == str(by_model[model])


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("opencv LSTM", lambda record: "opencv" in record.cell and "lstm" in record.cell),
        ("sigkill", lambda record: "SIGKILL" in record.reason),
        ("torch/*/pt2/*", lambda record: record.cell.startswith("torch/") and record.id.path == "pt2"),
        ("lstm/onnx-dynamo/", lambda record: "lstm/onnx-dynamo/" in record.cell),
        ("no such thing", lambda record: False),
    ],
    ids=["words", "a reason", "a glob", "a part of an id", "nothing"],
)
def test_a_text_is_looked_for_in_ids_and_reasons(page: Page, text: str, matches: Callable[[Record], bool]) -> None:
    page.locator("#search").fill(text)
    shows(page, filter(matches, RECORDS))


def needed(record: Record) -> float:
    """Return what a cell is sorted by in the column "Needed"; no number at all comes last."""
    values = [item.needed for item in record.comparisons]
    if not values:
        return float("nan")
    return max(float("inf") if value is None else value for value in values)


def test_columns_sort_in_both_directions(page: Page) -> None:
    def sort_by(key: str) -> None:
        page.locator(f'[role=columnheader][data-key="{key}"] button').click()

    sort_by("model")
    shows(page, sorted(RECORDS, key=lambda record: record.id.model))
    assert page.locator('[role=columnheader][data-key="model"]').get_attribute("aria-sort") == "ascending"
    sort_by("model")
    shows(page, sorted(RECORDS, key=lambda record: [-ord(letter) for letter in record.id.model]))
    sort_by("model")
    shows(page, RECORDS)
    sort_by("needed")
    known = [record for record in RECORDS if needed(record) == needed(record)]
    shows(page, [*sorted(known, key=needed), *[record for record in RECORDS if needed(record) != needed(record)]])
    page.locator("#sort").select_option("-needed")
    assert page.locator("#rows .row").first.locator(".c-needed").inner_text() == "none"


def test_the_address_brings_everything_back(page: Page, open_page: OpenPage) -> None:
    page.locator('.chip[data-value="XFAIL"]').click()
    page.locator("#search").fill("17 torch/")
    page.locator("#sort").select_option("target")
    page.locator("#grid").focus()
    page.keyboard.press("End")
    expect(page).to_have_url(re.compile("cell="))
    chosen = page.locator('#rows [aria-selected="true"]')
    fragment = urlsplit(page.url).fragment
    assert parse_qs(fragment)["outcome"] == ["XFAIL"]
    again = open_page(f"matrix.html#{fragment}")
    expect(again.locator("#status")).to_have_text(said(page))
    same = again.locator('#rows [aria-selected="true"]')
    expect(same).to_be_in_viewport()
    assert same.inner_text() == chosen.inner_text()
    assert ids(again) == ids(page)


def test_an_address_that_changes_is_followed(page: Page) -> None:
    page.evaluate("location.hash = 'framework=caffe&target=node'")
    shows(page, [record for record in RECORDS if (record.id.framework, record.id.target) == ("caffe", "node")])
    page.evaluate("location.hash = 'framework=nobody'")
    shows(page, [])


def test_links_to_the_matrix_are_understood(open_page: OpenPage) -> None:
    opened = open_page(to_matrix(framework="torch", target="linux-arm64", outcome="PASS"))
    shows(opened, [
        record for record in RECORDS
        if record.cell.startswith("torch/") and record.id.target == "linux-arm64" and shown_of(record).value == "PASS"
    ])  # fmt: skip


def test_what_changed_since_the_base_is_a_filter(open_page: OpenPage) -> None:
    opened = open_page(to_matrix(change="regression"))
    opened.locator("#rows .row").first.wait_for()
    changes = made_context().changes
    assert changes is not None
    regressed = {change.cell for change in changes.cells if change.outcome.value == "regression"}
    assert regressed
    shows(opened, [record for record in RECORDS if record.cell in regressed])


# --- Keys -----------------------------------------------------------------------------------------------------------


def chosen(page: Page) -> int:
    """Return the place of the chosen row, and check that the grid names it as its active one."""
    row = page.locator('#rows [aria-selected="true"]')
    expect(row).to_be_in_viewport()
    assert page.locator("#grid").get_attribute("aria-activedescendant") == row.get_attribute("id")
    return int(row.get_attribute("aria-rowindex") or 0) - 2


def test_the_list_is_walked_through_by_keys(page: Page) -> None:
    moves = [("j", 0), ("j", 1), ("ArrowDown", 2), ("k", 1), ("ArrowUp", 0), ("k", 0), ("End", len(RECORDS) - 1)]
    moves += [("ArrowDown", len(RECORDS) - 1), ("Home", 0)]
    for key, place in moves:
        page.keyboard.press(key)
        assert chosen(page) == place, key
    page.keyboard.press("PageDown")
    down = chosen(page)
    assert 5 < down < 40
    page.keyboard.press("PageUp")
    assert chosen(page) == 0


def test_enter_opens_the_cell_and_going_back_comes_back_to_it(page: Page) -> None:
    for _ in range(3):
        page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url(CELL_PAGE)
    assert unquote(urlsplit(page.url).fragment) == RECORDS[2].cell
    page.go_back()
    page.wait_for_url(MATRIX_PAGE)
    assert chosen(page) == 2


def test_a_row_is_a_link(page: Page) -> None:
    link = page.locator("#rows .row a").first
    assert unquote((link.get_attribute("href") or "").partition("#")[2]) == RECORDS[0].cell
    page.locator("#rows .row .c-model").first.click()
    page.wait_for_url(CELL_PAGE)


def test_slash_searches_and_the_question_mark_shows_all_keys(page: Page) -> None:
    page.keyboard.press("/")
    expect(page.locator("#search")).to_be_focused()
    page.keyboard.type("lstm opencv j?/")
    assert page.locator("#search").input_value() == "lstm opencv j?/"
    page.locator("#search").fill("lstm opencv")
    page.keyboard.press("ArrowDown")
    assert chosen(page) == 0
    page.keyboard.press("?")
    dialog = page.locator("dialog")
    expect(dialog).to_be_visible()
    assert {"next cell", "search", "open the cell"} <= set(dialog.locator("dd").all_inner_texts())
    page.keyboard.press("Escape")
    expect(dialog).not_to_be_visible()
    page.keyboard.press("x")
    shows(page, RECORDS)


def test_a_search_from_another_page_comes_to_the_field(open_page: OpenPage) -> None:
    opened = open_page("cell.html")
    opened.keyboard.press("/")
    opened.wait_for_url("**/matrix.html#search")
    expect(opened.locator("#search")).to_be_focused()


# --- How it looks ---------------------------------------------------------------------------------------------------


def test_nothing_moves_while_the_page_comes_up(open_page: OpenPage, site: Path) -> None:
    opened = open_page("index.html")
    opened.add_init_script(
        "window.moved = 0; new PerformanceObserver((list) => { for (const entry of list.getEntries())"
        " window.moved += entry.value; }).observe({ type: 'layout-shift', buffered: true });"
    )
    for address in ("matrix.html", "matrix.html#outcome=FAIL&model=lstm&text=torch"):
        opened.goto(f"{site.as_uri()}/{address}")
        opened.locator("#rows .row").first.wait_for()
        opened.wait_for_timeout(200)
        assert opened.evaluate("window.moved") == 0


def test_a_phone_shows_every_axis_of_a_cell(open_page: OpenPage) -> None:
    opened = open_page(to_matrix(text=WRONG), size=(375, 700))
    row = opened.locator("#rows .row").first
    for axis, word in zip(AXES, WRONG.split("/"), strict=True):
        field = row.locator(f".c-{axis}")
        expect(field).to_be_in_viewport(ratio=1)
        assert field.inner_text() == word
