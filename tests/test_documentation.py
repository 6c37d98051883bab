"""The documentation's links lead somewhere, its commands can be given as they stand, and its cells exist."""

from __future__ import annotations

import fnmatch
import functools
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import pytest
import typer
from markdown_it import MarkdownIt
from markdown_it.token import Token

from portmatrix import plan, records, suite
from portmatrix.cli import app
from portmatrix.errors import NothingSelected
from portmatrix.globs import Globs
from portmatrix.plan import Selection
from portmatrix.spec import json_schema
from portmatrix.types import CONCLUSIVE, WORKING, CellId

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "data").glob("*.md")])
SUITE = suite.load(ROOT)
#: Environments of tox that are written down in tox.ini; those of plug-ins follow from the files.
WRITTEN = re.findall(r"^\[testenv:(.+)\]$", (ROOT / "tox.ini").read_text(encoding="utf-8"), re.MULTILINE)
each_page = pytest.mark.parametrize("page", PAGES, ids=[page.relative_to(ROOT).as_posix() for page in PAGES])


def tokens(page: Path) -> Iterator[Token]:
    """Yield every token of a page, those inside of paragraphs too."""
    for token in MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8")):
        yield token
        yield from token.children or ()


# --- Links ----------------------------------------------------------------------------------------------------------


def links(page: Path) -> Iterator[str]:
    """Yield the targets of a page's links and pictures, in Markdown and in HTML."""
    for token in tokens(page):
        if token.type in ("link_open", "image"):
            yield str(token.attrs.get("href") or token.attrs.get("src"))
        elif token.type in ("html_block", "html_inline"):
            yield from re.findall(r"""(?:href|src)=["']([^"']+)["']""", token.content)


@functools.cache
def anchors(page: Path) -> set[str]:
    """Return what a link into the page may name: its headings as GitHub spells them, and its own anchors."""
    found: list[str] = []
    heading = False
    for token in tokens(page):
        if token.type == "inline" and heading:
            text = "".join(child.content for child in token.children or () if child.type in ("text", "code_inline"))
            slug = re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")
            repeated = found.count(slug)
            found += [slug, f"{slug}-{repeated}"] if repeated else [slug]
        elif token.type in ("html_block", "html_inline"):
            found += re.findall(r"""(?:id|name)=["']([^"']+)["']""", token.content)
        heading = token.type == "heading_open"
    return set(found)


def broken(page: Path, link: str) -> str:
    """Return what is wrong with a relative link, or an empty string."""
    if re.match(r"[a-z][a-z0-9+.-]*:", link):
        return ""
    path, _, anchor = link.partition("#")
    place = page if not path else (page.parent / unquote(path)).resolve()
    if not place.exists():
        return f"{link}: there is no such file"
    if not place.is_relative_to(ROOT):
        return f"{link} leads out of the repository"
    if anchor and place.suffix == ".md" and anchor not in anchors(place):
        return f"{link}: {place.name} has no heading of that name"
    return ""


@each_page
def test_relative_links_lead_somewhere(page: Path) -> None:
    assert not [wrong for link in links(page) if (wrong := broken(page, link))]


# --- Commands -------------------------------------------------------------------------------------------------------


class Command(NamedTuple):
    """A command as it stands in a page."""

    line: str
    words: list[str]


def commands(page: Path) -> Iterator[Command]:
    """Yield the commands ``portmatrix`` and ``tox`` of a page: after a prompt in a block, or as code within a line."""
    for token in tokens(page):
        if token.type in ("fence", "code_block"):
            lines = [line[2:] for line in token.content.replace("\\\n", " ").splitlines() if line.startswith("$ ")]
        elif token.type == "code_inline":
            lines = [token.content]
        else:
            continue
        for line in lines:
            for part in re.split(r"&&|\|", line):
                if re.match(r"\s*(\S*/)?(portmatrix|tox) [a-z-]", part):
                    yield Command(line, shlex.split(part, comments=True))


def invented(page: Path) -> list[str]:
    """Return the plug-ins that a page has its reader write: those whose files it names and that are not there."""
    named = re.findall(r"(exporters|runtimes)/([a-z]\w*)\.py", page.read_text(encoding="utf-8"))
    return [name for folder, name in named if not (ROOT / folder / f"{name}.py").exists()]


def cannot_be_given(command: Command, invented: Sequence[str] = ()) -> str:
    """Return why a command could not be carried out as it stands, or an empty string.

    There may be plug-ins that are not in the suite but ``invented``. Words in capitals stand for any. A command that
    ends with an option's name just names that.
    """
    program, *words = command.words
    if words[-1].startswith("--") and not _takes_no_value(words):
        words = words[:1] if len(words) == 2 else [*words, "some"]
    if any(re.search(rf"\b{name}\b", word) for name in invented for word in words):
        return ""
    return _portmatrix(words) if program.endswith("portmatrix") else _tox(words)


def _takes_no_value(words: list[str]) -> bool:
    main: Any = typer.main.get_command(app)
    command = main.commands.get(words[0])
    return all(option.is_flag for option in getattr(command, "params", ()) if words[-1] in option.opts)


def _portmatrix(words: list[str]) -> str:
    main: Any = typer.main.get_command(app)
    parent = main.make_context("portmatrix", [], resilient_parsing=True)
    if words[0] not in main.commands:
        return "" if words[0] in ("--help", "-h") else f"portmatrix has no command {words[0]}"
    if not words[1:]:
        return ""  # just named
    try:
        context = main.commands[words[0]].make_context(words[0], words[1:], parent=parent)
    except typer.Exit:
        return ""  # --help
    except Exception as error:
        told = getattr(error, "format_message", None)
        return str(told() if told else repr(error))
    if context.params.get("suite"):
        return ""  # another suite has other cells
    cells = [*(context.params.get("globs") or ()), context.params.get("cell")]
    return "; ".join(filter(None, map(_matches_nothing, filter(None, cells))))


def _matches_nothing(glob: str) -> str:
    try:
        plan.plan(suite.axes(SUITE, everywhere=True), (), Selection((glob,)))
    except NothingSelected as error:
        return str(error)
    return ""


def _tox(words: list[str]) -> str:
    plugins = [f"export-{name}" for name in SUITE.plugins.exporters]
    plugins += [f"run-{name}" for name in SUITE.plugins.runtimes]
    own, _, passed = shlex.join(words).partition(" -- ")
    named = re.findall(r"-e (\S+)", own)
    globs = {name: re.sub("[A-Z]{2,}", "*", name) for name in named}
    unknown = [name for name in named if not fnmatch.filter((*WRITTEN, *plugins), globs[name])]
    if unknown:
        return f"tox has no environment {', '.join(unknown)}"
    if passed and named in ([], ["matrix"]):
        return _portmatrix(["run", *shlex.split(passed)])
    return ""


@each_page
def test_commands_can_be_given_as_they_stand(page: Path) -> None:
    names = invented(page)
    assert not [f"{command.line}: {wrong}" for command in commands(page) if (wrong := cannot_be_given(command, names))]


def test_there_are_commands_to_be_tested() -> None:
    assert any(command.words[0] == "portmatrix" for command in commands(ROOT / "README.md"))
    assert any(command.words[0] == "tox" for command in commands(ROOT / "README.md"))


@pytest.mark.parametrize(
    "line",
    [
        "portmatrix rnu",
        "portmatrix run --no-such-option",
        "portmatrix run torch/no-such-model/*",
        "tox run -e no-such-environment",
        "tox run -e matrix -- --no-such-option",
    ],
)
def test_a_command_that_cannot_be_given_is_found(line: str) -> None:
    assert cannot_be_given(Command(line, shlex.split(line)))


# --- Cells ----------------------------------------------------------------------------------------------------------


def cells(page: Path) -> Iterator[str]:
    """Yield what looks like the id of a cell, or a glob of five parts, in the code within a page's lines."""
    folders = {item.name for item in ROOT.iterdir()}
    for token in tokens(page):
        found = token.type == "code_inline" and re.fullmatch(r"([\w{}*,.+-]+)(/[\w{}*,.+-]+){4}", token.content)
        if found and found[1] not in folders:
            yield found[0]


#: Every cell that exists, beyond the scope of its target or not.
CELLS = list(map(str, plan.cells_of(suite.axes(SUITE, everywhere=True))))


def is_some_cells(glob: str) -> bool:
    """Return whether a glob matches a cell that exists."""
    one = Globs([glob])
    return any(map(one.match, CELLS))


@each_page
def test_cells_that_are_named_exist(page: Path) -> None:
    names = {"framework", *invented(page)}
    named = [cell for cell in cells(page) if cell.split("/")[0] not in names]
    assert [cell for cell in named if not is_some_cells(cell)] == []


def test_cells_are_recognized() -> None:
    assert "torch/lstm/onnx-dynamo/opencv-dnn/linux-x86_64" in cells(ROOT / "docs" / "faq.md")
    assert not is_some_cells("torch/lstm/onnx-dynamo/opencv-dnn/linux-x86")


# --- Failures and their causes --------------------------------------------------------------------------------------

FAQ = (ROOT / "docs" / "faq.md").read_text(encoding="utf-8")
REFERENCE = {record.cell: record for record in records.read(ROOT / "results" / "reference.jsonl")}
EXPECTED = {CellId.parse(cell) for cell, record in REFERENCE.items() if record.expected is not None}


#: The cells that are known to pass now and then.
FLIPPING = Globs([item.cells for item in SUITE.spec.expect if item.rate is not None])


def listed(word: str) -> list[str]:
    """Return the cells and globs in the lists of a word, ``Fails`` or ``Works``, on the page of failures."""
    lines = re.findall(rf"^- {word}: (.*)$", FAQ, re.MULTILINE)
    return [glob for line in lines for glob in re.findall(r"`([^`]+)`", line)]


def test_every_known_failure_stands_under_a_cause_or_has_a_page_of_its_own() -> None:
    globs = Globs([*listed("Fails"), *(item.cells for item in SUITE.spec.expect if item.finding)])
    assert EXPECTED
    assert sorted(str(cell) for cell in EXPECTED if cell not in globs) == []


@pytest.mark.parametrize("glob", listed("Fails"))
def test_what_is_said_to_fail_does(glob: str) -> None:
    one = Globs([glob])
    meant = [cell for cell in map(CellId.parse, REFERENCE) if cell in one]
    assert EXPECTED.intersection(meant), f"{glob} matches no known failure of the reference results"
    # Others of them may not have been tried, or flip; none of them works, and none fails that nobody expected.
    others = [cell for cell in meant if cell not in EXPECTED and cell not in FLIPPING]
    assert [str(cell) for cell in others if REFERENCE[str(cell)].outcome in CONCLUSIVE] == []


@pytest.mark.parametrize("cell", listed("Works"))
def test_what_is_said_to_work_does(cell: str) -> None:
    assert REFERENCE[cell].outcome in WORKING


# --- matrix.yaml ----------------------------------------------------------------------------------------------------


def keys(schema: dict[str, Any], part: dict[str, Any], path: str = "") -> Iterator[str]:
    """Yield the keys that ``matrix.yaml`` may have, two levels deep, as the page on suites spells them."""
    for name, value in part.get("properties", {}).items():
        yield f"{path}{name}"
        named = next(iter(value.get("patternProperties", {}).values()), None)
        many = "[]" if "items" in value else ".NAME" if named else ""
        inner = value.get("items") or named or value
        if not path and "$ref" in inner:
            yield from keys(schema, schema["$defs"][inner["$ref"].rpartition("/")[2]], f"{name}{many}.")


def test_every_key_of_matrix_yaml_is_on_the_page_on_suites() -> None:
    page = (ROOT / "docs" / "your-own-suite.md").read_text(encoding="utf-8")
    schema = json_schema()
    parts = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    found = list(keys(schema, schema))
    assert {"expect[].outcome", "limits.memory_mb", "models.NAME.view"} <= set(found)
    assert [key for key in found if not any(re.match(re.escape(key) + r"($|\.|\[)", part) for part in parts)] == []
