"""What action.yml does in another repository: install portmatrix, run a suite, report; each a step of the action.

Needs the standard library alone. The action's inputs come in the environment (``INPUT_SUITE`` and so on), never in the
text of a command; what later steps need goes to the file that ``GITHUB_OUTPUT`` names. By hand:
``RUNNER_TEMP=/tmp/try INPUT_SUITE=my-suite python scripts/action.py install``, then ``run``, then ``report``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
#: Exit codes of ``portmatrix run`` after which there are records to report: all as expected, something unexpected.
RAN = (0, 1)
_VERSION = re.compile(r"[0-9][0-9A-Za-z.!+-]*")


class Inputs(NamedTuple):
    """The action's inputs, and the folder below which everything that it makes lies."""

    suite: str
    cells: tuple[str, ...]
    skip: tuple[str, ...]
    version: str
    summary: bool
    folder: Path

    @property
    def python(self) -> Path:
        """The interpreter that portmatrix is installed for."""
        return self.folder / "environment" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    @property
    def results(self) -> Path:
        """The folder of the records and of what is made of them, which becomes the artifact."""
        return self.folder / "results"

    @property
    def records(self) -> Path:
        """The records file."""
        return self.results / "records.jsonl"


def inputs(env: Mapping[str, str]) -> Inputs:
    """Return the inputs that are in ``env``; raises ``ValueError`` for a version that is none."""
    version = env.get("INPUT_VERSION", "").strip()
    if version and not _VERSION.fullmatch(version):
        raise ValueError(f"version: {version!r} is no version of portmatrix; expected one such as 0.1.0, or nothing")
    return Inputs(
        suite=env.get("INPUT_SUITE", "").strip() or ".",
        cells=tuple(env.get("INPUT_CELLS", "").split()),
        skip=tuple(env.get("INPUT_SKIP", "").split()),
        version=version,
        summary=env.get("INPUT_SUMMARY", "true").strip() == "true",
        folder=Path(env["RUNNER_TEMP"], "portmatrix"),
    )


def run_arguments(given: Inputs) -> list[str]:
    """Return the arguments of ``portmatrix`` that run the suite; a glob is never taken for an option."""
    skipped = [f"--skip={glob}" for glob in given.skip]
    return ["run", "--suite", given.suite, "--output", str(given.records), *skipped, "--", *given.cells]


def report_arguments(given: Inputs) -> list[str]:
    """Return the arguments of ``portmatrix`` that make site, JUnit file and summary of the records."""
    made = {"--site": "report", "--junit": "junit.xml", "--summary": "summary.md"}
    files = [word for option, name in made.items() for word in (option, str(given.results / name))]
    return ["report", str(given.records), "--suite", given.suite, "--recorded-only", "--annotations", *files]


# --- Steps ----------------------------------------------------------------------------------------------------------


def install(given: Inputs) -> int:
    """Install portmatrix for an interpreter of its own: the version asked for, else the action's own checkout."""
    venv.create(given.folder / "environment", with_pip=True, clear=True)
    what = f"portmatrix=={given.version}" if given.version else str(ROOT)
    return _call([str(given.python), "-m", "pip", "install", "--disable-pip-version-check", what])


def run(given: Inputs) -> int:
    """Run the suite. An unexpected outcome is no failure yet, so that it is reported; ``unexpected`` tells of it."""
    code = _portmatrix(given, run_arguments(given))
    if given.records.is_file():
        _tell("results", given.results)
        _tell("records", given.records)
    if code not in RAN:
        return code
    _tell("unexpected", "true" if code else "false")
    return 0


def report(given: Inputs) -> int:
    """Make site, JUnit file and summary of the records, annotate what is unexpected, and show the summary on GitHub."""
    code = _portmatrix(given, report_arguments(given))
    shown = os.environ.get("GITHUB_STEP_SUMMARY")
    if code == 0 and given.summary and shown:
        text = (given.results / "summary.md").read_text(encoding="utf-8")
        with Path(shown).open("a", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
    return code


STEPS: dict[str, Callable[[Inputs], int]] = {"install": install, "run": run, "report": report}


def _portmatrix(given: Inputs, arguments: Sequence[str]) -> int:
    program = "from portmatrix.cli import main; main()"
    return _call([str(given.python), "-c", program, *arguments])


def _call(command: Sequence[str]) -> int:
    return subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode


def _tell(name: str, value: object) -> None:
    """Give the action's later steps, and through outputs its caller, a value of one line."""
    file = os.environ.get("GITHUB_OUTPUT")
    if file:
        with Path(file).open("a", encoding="utf-8", newline="\n") as stream:
            stream.write(f"{name}={value}\n")
    print(f"{name}: {value}", flush=True)


def main(arguments: Sequence[str]) -> int:
    """Carry out the step that is named, and return its exit status; 2 for a mistake in the inputs."""
    if len(arguments) != 1 or arguments[0] not in STEPS:
        print(f"usage: action.py {{{','.join(STEPS)}}}", file=sys.stderr)
        return 2
    try:
        given = inputs(os.environ)
    except KeyError as error:
        print(f"::error::{error.args[0]} is not set; outside of GitHub Actions name an empty folder by it")
        return 2
    except ValueError as error:
        print(f"::error::{error}")
        return 2
    return STEPS[arguments[0]](given)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
