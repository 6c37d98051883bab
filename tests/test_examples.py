"""The worked examples of the documentation, carried out as they are written, in a fresh folder.

What a page has its reader do stands in code blocks. A block whose first line is a comment with a file's path is written
to that file, as it stands; the commands of a ``console`` block are given one after the other, and what the page shows
below a command must be among what it prints. The pages build on each other, as they do for their readers.

No network is needed: wheels are made of what these tests run with, which has the versions that the pages pin.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import pytest
from markdown_it import MarkdownIt
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from portmatrix import suite

ROOT = Path(__file__).parents[1]
#: The pages in the order in which they build on each other, each with the headings of what is to be carried out.
PAGES = {
    "quick-start": ("A first run", "Look closer"),
    "adding-an-exporter": ("A complete example",),
    "adding-a-runtime": ("A complete example",),
    "your-own-suite": ("Begin", "In continuous integration", "Several machines"),
    "adding-a-target": ("A complete example",),
}
#: What the pages' plug-ins and the runtimes that the pages choose require, in the versions that these pin.
PINNED = {"numpy": "2.4.6", "onnx": "1.23.2", "onnxruntime": "1.32.0"}
#: The machine that the pages were written on, and the one that they are carried out on.
WRITTEN_ON, HERE = "linux-x86_64", suite.here(suite.load(ROOT))
PATIENCE = 300

pytestmark = [
    pytest.mark.xdist_group("examples"),
    pytest.mark.skipif(
        not (3, 11) <= sys.version_info[:2] <= (3, 13), reason="the runtimes in the examples need CPython 3.11 to 3.13"
    ),
]


class File(NamedTuple):
    """A file that the reader is to write."""

    path: str
    text: str


class Command(NamedTuple):
    """A command that the reader is to give, and the lines that the page shows of what it prints."""

    line: str
    shown: list[str]


def steps(text: str, headings: Sequence[str]) -> Iterator[File | Command]:
    """Yield what a page has its reader do below these headings, in order."""
    below = heading = False
    for token in MarkdownIt("commonmark").parse(text):
        if token.type == "inline" and heading:
            below = token.content in headings
        heading = token.type == "heading_open" and token.tag == "h2"
        if below and token.type == "fence":
            yield from _steps_of(token.info, token.content)


def _steps_of(info: str, content: str) -> Iterator[File | Command]:
    named = re.match(r"# ([\w/.-]+/[\w.-]+\.(?:py|yaml))\n", content)
    if named:
        yield File(named[1], content)
    elif info == "console":
        _, *given = re.split(r"^\$ ", content, flags=re.MULTILINE)
        for line, *shown in (one.splitlines() for one in given):
            yield Command(line, shown)


def not_printed(shown: Sequence[str], printed: str) -> list[str]:
    """Return the lines of a page that a command did not print; ``...`` stands for anything.

    Cells that run beside each other end in any order, so that the order of lines does not count, nor their numbers.
    """
    lines = [_unnumbered(line) for line in printed.splitlines()]
    patterns = {line: ".*".join(map(re.escape, _unnumbered(line).split("..."))) for line in shown}
    return [line for line, pattern in patterns.items() if not any(re.fullmatch(pattern, had) for had in lines)]


def _unnumbered(line: str) -> str:
    return re.sub(r"^\[\d+/", "[/", line.rstrip())


class Reader(NamedTuple):
    """Somebody with a fresh folder, a store and an index of their own, who does what pages say.

    ``wrong`` has for each page that was followed what came otherwise than it says.
    """

    folder: Path
    env: dict[str, str]
    wrong: dict[str, list[str]]

    def has_followed(self, page: str) -> list[str]:
        """Follow the pages up to this one, as far as that is still to be done, and return what was wrong with it."""
        for earlier in PAGES:
            if earlier not in self.wrong:
                self.wrong[earlier] = self._follow(earlier)
            if earlier == page:
                break
        return self.wrong[page]

    def _follow(self, page: str) -> list[str]:
        text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8").replace(WRITTEN_ON, HERE)
        wrong: list[str] = []
        for step in steps(text, PAGES[page]):
            if isinstance(step, File):
                (self.folder / step.path).parent.mkdir(parents=True, exist_ok=True)
                (self.folder / step.path).write_text(step.text, encoding="utf-8")
                continue
            status, printed = self.give(step.line)
            if status or (missing := not_printed(step.shown, printed)):
                told = f"ended with {status}" if status else f"did not print {missing}"
                wrong.append(f"{page}: $ {step.line}\n{told}; it printed\n{printed}")
        return wrong

    def give(self, line: str) -> tuple[int, str]:
        """Give a command as a shell would, and return its exit status and all that it printed."""
        program, *arguments = shlex.split(line)
        found = shutil.which(program, path=self.env["PATH"])
        assert found, f"there is no command {program}"
        ended = subprocess.run(
            [found, *arguments],
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            timeout=PATIENCE,
            check=False,
        )
        return ended.returncode, ended.stdout


# --- The machine ----------------------------------------------------------------------------------------------------


def with_requirements(names: Sequence[str]) -> set[str]:
    """Return these distributions and all that they require, as far as it is installed where the tests run."""
    found: set[str] = set()
    todo = list(names)
    while todo:
        name = canonicalize_name(todo.pop())
        if name not in found:
            found.add(name)
            required = map(Requirement, metadata.requires(name) or ())
            todo += [one.name for one in required if one.marker is None or one.marker.evaluate({"extra": ""})]
    return found


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, write_wheel: Callable[[str, Path], None]) -> dict[str, str]:
    """The variables of somebody whose package index has what is installed here, and whose store is empty."""
    wheels = tmp_path_factory.mktemp("wheels")
    for name in with_requirements(list(PINNED)):
        write_wheel(name.replace("-", "_"), wheels)
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("PORTMATRIX_", "PIP_"))},
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheels),
        "PORTMATRIX_STORE": str(tmp_path_factory.mktemp("store")),
        "PYTHONUTF8": "1",
        "COLUMNS": "120",
    }


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Reader:
    """A reader who has read nothing yet."""
    return Reader(tmp_path_factory.mktemp("reader"), environment, {})


# --- Tests ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PINNED)
def test_what_the_pages_pin_is_what_the_tests_have(name: str) -> None:
    assert metadata.version(name) == PINNED[name], "raise the version in pyproject.toml, or in docs/ and here"


@pytest.mark.parametrize("page", PAGES)
def test_a_page_can_be_followed_as_written(reader: Reader, page: str) -> None:
    if page == "adding-a-target" and HERE != WRITTEN_ON:
        pytest.skip(f"the target of the example is a {WRITTEN_ON} machine, this one is {HERE}")
    wrong = reader.has_followed(page)
    assert not wrong, "\n\n".join(wrong)


@pytest.mark.parametrize(
    ("written", "mistaken"), [("degraded(session)", "degraded(sesion)"), ("hidden @ w2 + b2", "hidden @ w2")]
)
def test_mistakes_end_as_the_page_on_runtimes_says(reader: Reader, tmp_path: Path, written: str, mistaken: str) -> None:
    reader.has_followed("adding-a-runtime")
    toy = tmp_path / "toy"
    shutil.copytree(reader.folder / "toy", toy, ignore=shutil.ignore_patterns("targets"))
    plugin = toy / "runtimes" / "toy.py"
    plugin.write_text(plugin.read_text(encoding="utf-8").replace(written, mistaken), encoding="utf-8")
    status, printed = reader._replace(folder=tmp_path).give('portmatrix run --suite toy "*/toy/*"')
    assert status == 1
    page = (ROOT / "docs" / "adding-a-runtime.md").read_text(encoding="utf-8").replace(WRITTEN_ON, HERE)
    shown = page.split(f"`{mistaken}`")[1].split("```\n")[1]
    pattern = ".*".join(re.escape(part) for part in " ".join(shown.split()).split("..."))
    assert re.search(pattern, " ".join(printed.split())), printed


@pytest.mark.parametrize("page", PAGES)
def test_every_page_has_something_to_be_done(page: str) -> None:
    found = list(steps((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8"), PAGES[page]))
    assert any(isinstance(step, Command) for step in found)
    for step in found:
        assert not isinstance(step, Command) or step.line.startswith("portmatrix ")


PAGE = """
# Page
## Not this
```console
$ portmatrix rnu
```
## This
```python
# toy/exporters/toy.py
ENVIRONMENT = {}
```
```console
$ portmatrix list
one
...
$ portmatrix plan
```
```text
$ portmatrix rate
```
"""


def test_files_and_commands_are_those_below_the_headings_in_their_order() -> None:
    assert list(steps(PAGE, ("This",))) == [
        File("toy/exporters/toy.py", "# toy/exporters/toy.py\nENVIRONMENT = {}\n"),
        Command("portmatrix list", ["one", "..."]),
        Command("portmatrix plan", []),
    ]


def test_a_line_that_is_not_printed_is_found() -> None:
    printed = "[2/2] PASS a\n[1/2] FAIL b at LOAD: no such file\n"
    assert not not_printed(["[1/2] PASS a", "...", "[2/2] FAIL b at LOAD: ..."], printed)
    assert not_printed(["[1/2] PASS b"], printed) == ["[1/2] PASS b"]
    assert not_printed(["[1/3] PASS a"], printed) == ["[1/3] PASS a"]
    assert not_printed(["PASS a"], printed) == ["PASS a"]


def test_a_command_that_fails_is_found(reader: Reader, tmp_path: Path) -> None:
    assert reader._replace(folder=tmp_path).give("portmatrix plan --suite nowhere")[0] == 2
