"""Carry out the pages of docs/findings: each known failure of others, reduced to a few lines, still fails as described.

    python scripts/check_findings.py [NAME...]   carry out those, or all; exit status 1 if one differs
    python scripts/check_findings.py --list      one finding a line, and nothing else
    python scripts/check_findings.py --index     write docs/findings/index.md

A page has a heading, a paragraph ``Environment:``, a block of Python, a block of what it prints (its last lines, where
``...`` stands for anything), and a paragraph ``Cells:`` with the known failures of a ``matrix.yaml`` that it explains.
The environments are the engine's own, in its store; one that is no list of requirements is not carried out here.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from portmatrix import environments
from portmatrix.errors import EnvironmentFailure, UserError, nearest
from portmatrix.plugins import EnvironmentSpec
from portmatrix.store import Store, default_root, write_whole
from portmatrix.types import Stage
from portmatrix.workers import network_closure

ROOT = Path(__file__).parent.parent
PAGES = ROOT / "docs" / "findings"
INDEX = PAGES / "index.md"
#: What stands for anything in the block of what a script prints; alone on a line, for any number of lines.
ANYTHING = "..."
#: Words of an environment that is not built from requirements alone: an image, and packages of npm.
ELSEWHERE = {"container", "Node.js"}
#: What a page says of its cells where what is wrong makes none of them fail.
NONE = "none "
#: How long an environment may take to build, in seconds.
BUILDING = 1200


class Claim(NamedTuple):
    """Known failures that a finding explains: a glob over cells, and the stage at which they fail."""

    cells: str
    stage: Stage


class Finding(NamedTuple):
    """One page. ``requirements`` are empty where its environment is none that is built from them; ``place`` says it."""

    name: str
    title: str
    place: str
    python: str
    requirements: tuple[str, ...]
    script: str
    printed: str
    claims: tuple[Claim, ...]


class Verdict(Enum):
    """What came of carrying out a finding."""

    OK = "OK"
    DIFFERS = "DIFFERS"
    NOT_CARRIED_OUT = "NOT CARRIED OUT"


class Result(NamedTuple):
    """A verdict, and the lines that explain it: why not, or what was expected and what was printed."""

    verdict: Verdict
    explanation: str = ""


# --- Pages ----------------------------------------------------------------------------------------------------------


def parse(name: str, text: str) -> Finding:
    """Return the finding on a page; raises ``UserError`` naming the page and the part that it lacks."""
    title = _part(name, text, r"\A# (.+)\n", "a heading in its first line")
    place = _part(name, text, r"^Environment: ((?:.+\n)+)", "a paragraph 'Environment: `package==version`, ...'")
    script = _part(name, text, r"^```python\n(.*?)^```$", "a block of Python")
    printed = _part(name, text, r"^```text\n(.*?)^```$", "a block of text with what it prints")
    claimed = _part(name, text, r"^Cells: ((?:.+\n)+)", "a paragraph 'Cells: `glob` (STAGE), ...'")
    claims = tuple(_claims(claimed))
    if not claims and not claimed.startswith(NONE):
        raise UserError(f"{name}.md: expected known failures behind 'Cells:', such as `*/lstm/*/ncnn/*` (LOAD)")
    requirements = tuple(re.findall(r"`([^`\s]+==[^`\s]+)`", place))
    python = re.search(r"\bon CPython (3\.\d+)$", place.strip())
    if ELSEWHERE.intersection(place.split()) or python is None:
        requirements = ()
    version = python.group(1) if python else ""
    return Finding(name, title, " ".join(place.split()), version, requirements, script, printed, claims)


def _claims(text: str) -> Iterator[Claim]:
    """Yield what a paragraph of globs and stages claims; a stage is that of all globs since the one before it."""
    waiting: list[str] = []
    for cells, stage in re.findall(r"`([^`]+)`|\(([A-Z]+)\)", text):
        if cells:
            waiting.append(cells)
        elif stage in Stage.__members__:
            yield from (Claim(item, Stage[stage]) for item in waiting)
            waiting.clear()


def _part(name: str, text: str, pattern: str, expected: str) -> str:
    found = re.search(pattern, text, re.MULTILINE | re.DOTALL if ".*?" in pattern else re.MULTILINE)
    if found is None:
        raise UserError(f"{name}.md: expected {expected}")
    return found.group(1)


def read(names: Sequence[str] = (), folder: Path = PAGES) -> list[Finding]:
    """Return the findings of these names, or all in the order of their names.

    Raises ``UserError`` for a name that there is not, and for a page that is not written as they are.
    """
    here = sorted(page.stem for page in folder.glob("*.md") if page.name != INDEX.name)
    for name in names:
        if name not in here:
            raise UserError(f"docs/findings has no {name}.md{nearest(name, here)}; --list shows all")
    return [parse(name, (folder / f"{name}.md").read_text(encoding="utf-8")) for name in names or here]


# --- The index ------------------------------------------------------------------------------------------------------

INTRODUCTION = """# Known failures, reduced

Each known failure of [`matrix.yaml`](../../matrix.yaml) that is the fault of a framework, an exporter or a runtime,
reduced to a few lines that anyone can run: what happens, in which environment, what the lines print, and what would be
right. An entry of `matrix.yaml` names its page by `finding`. `tox run -e findings` carries all of them out, in
environments that portmatrix builds, and says which no longer print what is written here; names of pages behind `--` are
those to be carried out. `python scripts/check_findings.py --index` writes this page.
"""


def index(findings: Iterable[Finding]) -> str:
    """Return the page that lists the findings by whose fault they are, which is the first word of their headings."""
    sections: dict[str, list[Finding]] = {}
    for finding in sorted(findings, key=lambda item: item.name):
        sections.setdefault(whose(finding), []).append(finding)
    lines = [INTRODUCTION]
    for fault in sorted(sections, key=str.casefold):
        entries = [f"- [{item.title}]({item.name}.md)" for item in sections[fault]]
        lines += [f"## {fault}", "", *entries, ""]
    return "\n".join(lines)


def whose(finding: Finding) -> str:
    """Return whose fault a finding is: ``OpenCV`` for a heading that begins with it, in the genitive or not."""
    first = next(word for word in finding.title.split() if word not in ("A", "An", "The"))
    return first.removesuffix("'s").removesuffix("'")


# --- Carrying out ---------------------------------------------------------------------------------------------------


def matches(printed: str, expected: str) -> bool:
    """Return whether ``printed`` ends in the lines that are ``expected``; blanks at the ends of lines do not count."""
    lines = [line.rstrip() for line in expected.strip().splitlines()]
    pattern = "".join(
        r"(?:.*\n)*?" if line == ANYTHING else re.escape(line).replace(re.escape(ANYTHING), ".*") + r"\n"
        for line in lines
    )
    text = "".join(f"{line.rstrip()}\n" for line in printed.strip().splitlines())
    return re.search(rf"^{pattern}\Z", text, re.MULTILINE) is not None


def carry_out(finding: Finding, store: Store, seconds: float) -> Result:
    """Return what comes of running the script of a finding in its environment, which is built if it is not there."""
    if not finding.requirements:
        return Result(Verdict.NOT_CARRIED_OUT, f"its environment is {finding.place}")
    spec = EnvironmentSpec(python=f"=={finding.python}.*", requirements=finding.requirements)
    try:
        built = environments.ensure(store, spec, print, BUILDING)
    except EnvironmentFailure as failure:
        verdict = Verdict.NOT_CARRIED_OUT if failure.unavailable else Verdict.DIFFERS
        return Result(verdict, f"{failure}\n{failure.log_tail}".strip())
    with store.scratch("finding") as folder:
        return _run(finding, built.python, folder, seconds)


def _run(finding: Finding, python: str, folder: Path, seconds: float) -> Result:
    script = folder / "script.py"
    script.write_text(finding.script, encoding="utf-8")
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PATH": os.pathsep.join([str(Path(python).parent), _path()])}
    prefix, _ = network_closure()
    try:
        ended = subprocess.run(
            [*prefix, python, script.name],
            cwd=folder,
            env=env,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Result(Verdict.DIFFERS, f"it did not end within {seconds:g} s")
    if ended.returncode != 0:
        last = "\n".join(ended.stderr.strip().splitlines()[-8:])
        return Result(Verdict.DIFFERS, f"it ended with exit status {ended.returncode}:\n{last}")
    if matches(ended.stdout, finding.printed):
        return Result(Verdict.OK)
    return Result(Verdict.DIFFERS, f"expected\n{_indented(finding.printed)}\nprinted\n{_indented(ended.stdout)}")


def _path() -> str:
    return os.environ.get("PATH", os.defpath)


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.strip().splitlines())


def carry_out_all(findings: Sequence[Finding], store: Store, seconds: float) -> int:
    """Carry out the findings in turn and say what comes of each; returns the exit status.

    That is 1 where one differs, and where none could be carried out: nothing was shown then.
    """
    counts = dict.fromkeys(Verdict, 0)
    for finding in findings:
        result = carry_out(finding, store, seconds)
        counts[result.verdict] += 1
        print(f"{result.verdict.value:<15} {finding.name}", flush=True)
        if result.explanation:
            print(_indented(result.explanation), flush=True)
    print(", ".join(f"{count} {verdict.value}" for verdict, count in counts.items()))
    return int(counts[Verdict.DIFFERS] > 0 or counts[Verdict.OK] == 0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="a page of docs/findings; all of them if none is given"
    )
    doing = parser.add_mutually_exclusive_group()
    doing.add_argument("--list", action="store_true", help="list the findings, and carry out none")
    doing.add_argument("--index", action="store_true", help=f"write {INDEX.relative_to(ROOT)}, and carry out none")
    parser.add_argument("--seconds", type=float, default=300, help="how long one script may take (default: 300)")
    parser.add_argument("--store", type=Path, default=None, help="another folder for environments than the engine's")
    given = parser.parse_args(arguments)
    try:
        findings = read(() if given.index else given.names)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if given.list:
        for finding in findings:
            print(f"{finding.name:<40} {finding.title}")
        return 0
    if given.index:
        write_whole(INDEX, index(findings))
        return 0
    return carry_out_all(findings, Store(given.store or default_root()), given.seconds)


if __name__ == "__main__":
    sys.exit(main())
