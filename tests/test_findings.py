"""Findings: every page is whole and compiles, belongs to known failures and they to it, and can be carried out."""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from portmatrix import environments, plan, suite
from portmatrix.environments import Environment
from portmatrix.errors import EnvironmentFailure, UserError
from portmatrix.globs import Globs
from portmatrix.spec import Expectation
from portmatrix.store import Store
from portmatrix.types import CellId, Stage

ROOT = Path(__file__).parents[1]
PAGES = sorted(page for page in (ROOT / "docs" / "findings").glob("*.md") if page.name != "index.md")
SUITES = [suite.load(ROOT), suite.load(ROOT / "large")]


def load_script() -> ModuleType:
    """Return the script that carries findings out, which is no part of the package."""
    found = importlib.util.spec_from_file_location("check_findings", ROOT / "scripts" / "check_findings.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules["check_findings"] = module
    found.loader.exec_module(module)
    return module


FINDINGS = load_script()
each_page = pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])


def parsed(page: Path) -> FINDINGS.Finding:  # type: ignore[name-defined]
    """Return the finding on a page of the documentation."""
    return FINDINGS.parse(page.stem, page.read_text(encoding="utf-8"))


# --- The pages ------------------------------------------------------------------------------------------------------


@each_page
def test_the_script_of_a_page_compiles(page: Path) -> None:
    compile(parsed(page).script, page.name, "exec", dont_inherit=True)


@each_page
def test_a_page_can_be_carried_out_or_says_where(page: Path) -> None:
    finding = parsed(page)
    assert finding.requirements or FINDINGS.ELSEWHERE.intersection(finding.place.split())
    assert not finding.requirements or finding.python


@functools.cache
def matched(globs: str) -> frozenset[str]:
    """Return the cells that one of the globs means, which are parted by blanks."""
    match = Globs(globs.split()).match
    return frozenset(cell for cell in cells() if match(cell))


@functools.cache
def cells() -> list[str]:
    """Return every cell within the scope of its target, and on this machine those beyond it as well, of all suites."""
    here = [cell for loaded in SUITES for cell in _everywhere(loaded) if cell.target == suite.here(loaded)]
    return [*map(str, here), *(str(cell) for loaded in SUITES for cell in plan.belonging(suite.axes(loaded)))]


def _everywhere(loaded: suite.Suite) -> Iterator[CellId]:
    return plan.cells_of(suite.axes(loaded, everywhere=True))


def entries(name: str) -> list[Expectation]:
    """Return the known failures that name a finding."""
    return [entry for loaded in SUITES for entry in loaded.spec.expect if entry.finding == name]


@each_page
def test_what_a_page_claims_is_a_known_failure_that_names_it(page: Path) -> None:
    expected = entries(page.stem)
    if not parsed(page).claims:
        assert not [entry for entry in expected if entry.says is None]
        return
    assert expected, f"no entry of matrix.yaml has 'finding: {page.stem}'"
    for claim in parsed(page).claims:
        named = (entry.cells for entry in expected if entry.stage is claim.stage and entry.says is None)
        known = matched(" ".join(named))
        said = f"{claim.cells} ({claim.stage.value})"
        assert matched(claim.cells) & known, f"{said} is none of the known failures that name {page.stem}"


NAMED = sorted({entry.finding for loaded in SUITES for entry in loaded.spec.expect if entry.finding})


@pytest.mark.parametrize("name", NAMED)
def test_known_failures_that_name_a_page_are_claimed_there(name: str) -> None:
    assert name in {page.stem for page in PAGES}, f"matrix.yaml has 'finding: {name}', and docs/findings no {name}.md"
    claims = parsed(ROOT / "docs" / "findings" / f"{name}.md").claims
    # A cause that is known by its words has no cells that a page could list.
    for entry in (entry for entry in entries(name) if entry.says is None):
        claimed = matched(" ".join(claim.cells for claim in claims if claim.stage is entry.stage))
        assert sorted(matched(entry.cells) - claimed) == []


def test_every_known_failure_is_reduced() -> None:
    # Before that stage it is no program that fails: nobody makes it for the platform.
    lacking = [
        entry.cells
        for loaded in SUITES
        for entry in loaded.spec.expect
        if entry.stage is not Stage.PREPARE and not entry.finding
    ]
    assert lacking == []


def test_the_index_is_up_to_date() -> None:
    written = (ROOT / "docs" / "findings" / "index.md").read_text(encoding="utf-8")
    assert written == FINDINGS.index(FINDINGS.read()), "run python scripts/check_findings.py --index"


# --- The script -----------------------------------------------------------------------------------------------------

PAGE = """# Abacus's frame breaks

It does.

Environment: `abacus==1.0`,
`numpy==2.4.6` on CPython 3.11

```python
print("first")
print("broken at 17")
```

What it prints:

```text
broken at ...
```

What would be right: nothing.

Cells: `*/mlp/*/abacus/*` (LOAD),
`*/lstm/*/abacus/*` (RUN)
"""


def test_a_page_is_taken_apart() -> None:
    finding = FINDINGS.parse("abacus-frame", PAGE)
    assert finding.title == "Abacus's frame breaks"
    assert FINDINGS.whose(finding) == "Abacus"
    assert (finding.python, finding.requirements) == ("3.11", ("abacus==1.0", "numpy==2.4.6"))
    assert finding.script == 'print("first")\nprint("broken at 17")\n'
    assert [tuple(claim) for claim in finding.claims] == [
        ("*/mlp/*/abacus/*", Stage.LOAD),
        ("*/lstm/*/abacus/*", Stage.RUN),
    ]


def test_a_container_is_no_list_of_requirements() -> None:
    text = PAGE.replace("`abacus==1.0`,\n`numpy==2.4.6` on CPython 3.11", "container `abacus`, with `numpy==2.4.6`")
    assert FINDINGS.parse("abacus-frame", text).requirements == ()


def test_packages_of_npm_are_no_list_of_requirements() -> None:
    text = PAGE.replace("`numpy==2.4.6` on", "npm `abacus@1.0` on Node.js 20, `numpy==2.4.6` on")
    assert FINDINGS.parse("abacus-frame", text).requirements == ()


@pytest.mark.parametrize("part", ["# Abacus", "Environment:", "```python", "```text", "Cells:", "(LOAD)"])
def test_a_page_that_lacks_a_part_is_named(part: str) -> None:
    text = PAGE.replace("(RUN)", "(LOAD)").replace(part, "x")
    with pytest.raises(UserError, match=r"^abacus-frame\.md: expected "):
        FINDINGS.parse("abacus-frame", text)


def test_a_name_that_there_is_not_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    name = PAGES[0].stem
    assert FINDINGS.main([f"{name}s", "--list"]) == 2
    assert f"did you mean {name!r}?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        ("a\nb\n", "b"),
        ("a\nb  \n\n", "b\n"),
        ("error at 0x7f: none", "error at ...: none"),
        ("[1.0, nan]", "[1.0, ...]"),
        ("a\nb\nc\nd", "a\n...\nd"),
        ("a\nd", "a\n...\nd"),
        ("> (expected: 'K == 1')", "> (expected: 'K == 1')"),
    ],
)
def test_what_is_printed_ends_as_expected(printed: str, expected: str) -> None:
    assert FINDINGS.matches(printed, expected)


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        ("b\na\n", "b"),
        ("", "b"),
        ("ab", "b"),
        ("error at\n0x7f: none", "error at ...: none"),
        ("axb", "a.b"),
        ("a\nb\nc", "a\n...\nd"),
    ],
)
def test_what_is_printed_otherwise_differs(printed: str, expected: str) -> None:
    assert not FINDINGS.matches(printed, expected)


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this interpreter stand for every environment."""
    here = Environment("here", (sys.executable,), {})
    monkeypatch.setattr(environments, "ensure", lambda *_: here)


def carried_out(text: str, store: Path, seconds: float = 60) -> tuple[str, str]:
    """Return the verdict on a page, and what explains it."""
    result = FINDINGS.carry_out(FINDINGS.parse("abacus-frame", text), Store(store), seconds)
    return result.verdict.value, result.explanation


@pytest.mark.usefixtures("built")
def test_a_failure_as_described_is_ok(tmp_path: Path) -> None:
    assert carried_out(PAGE, tmp_path) == ("OK", "")


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize(
    ("statement", "explanation"),
    [
        ('print("works")', "expected\n  broken at ...\nprinted\n  first\n  works"),
        ('raise SystemExit("no such abacus")', "it ended with exit status 1:\nno such abacus"),
        ("import time; time.sleep(60)", "it did not end within 2 s"),
    ],
)
def test_anything_else_differs(statement: str, explanation: str, tmp_path: Path) -> None:
    text = PAGE.replace('print("broken at 17")', statement)
    assert carried_out(text, tmp_path, seconds=2) == ("DIFFERS", explanation)


@pytest.mark.parametrize(("unavailable", "verdict"), [(True, "NOT CARRIED OUT"), (False, "DIFFERS")])
def test_an_environment_that_cannot_be_had_is_told(
    unavailable: bool, verdict: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Environment:
        raise EnvironmentFailure("no abacus", unavailable=unavailable)

    monkeypatch.setattr(environments, "ensure", fail)
    assert carried_out(PAGE, tmp_path) == (verdict, "no abacus")


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize(
    ("pages", "status"),
    [
        ([PAGE], 0),
        ([PAGE, PAGE.replace("17", "")], 1),
        ([PAGE, PAGE.replace("`abacus==1.0`", "container `abacus`")], 0),
        ([PAGE.replace("`abacus==1.0`", "container `abacus`")], 1),
    ],
)
def test_the_exit_status_is_0_where_something_was_shown_and_nothing_differs(
    pages: list[str], status: int, tmp_path: Path
) -> None:
    findings = [FINDINGS.parse(f"abacus-{number}", text) for number, text in enumerate(pages)]
    assert FINDINGS.carry_out_all(findings, Store(tmp_path), 60) == status


def test_the_index_lists_pages_by_whose_fault_they_are() -> None:
    findings = [
        FINDINGS.parse(name, PAGE.replace("Abacus's frame", title))
        for name, title in [("b", "Sextant"), ("a", "abacus' bead"), ("c", "abacus"), ("d", "An abacus' rod")]
    ]
    text = FINDINGS.index(findings)
    assert text.index("## abacus") < text.index("- [abacus' bead breaks](a.md)") < text.index("](c.md)")
    assert text.index("](d.md)") < text.index("## Sextant") < text.index("](b.md)")
