"""Commands that install and build: run with patience, and ended with all that they started when it runs out."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import psutil

from portmatrix.errors import EnvironmentFailure

#: What is kept of a command's output, in characters.
LOG_TAIL = 4000
_POLL_SECONDS = 0.5

Stopped = Callable[[], bool]


def never() -> bool:
    """Return False: who does not want to be asked whether to stop."""
    return False


class Patience(NamedTuple):
    """How long a command may take, in seconds, and what to ask whether to give up before."""

    seconds: float
    stopped: Stopped = never


def output_of(command: Sequence[str], patience: Patience, doing: str) -> str:
    """Return what a command wrote to its standard output; ``doing`` says in a message what it was to do.

    Raises ``EnvironmentFailure`` with the line that tells the cause and the end of the output.
    """
    pipe = subprocess.PIPE
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True, errors="replace"
        )
    except OSError as error:
        raise EnvironmentFailure(f"could not {doing}: {error}") from error
    with process:
        stdout, stderr = _wait(process, patience, doing)
    if process.returncode:
        output = (stdout + stderr).strip()
        errors = [line for line in output.splitlines() if line.startswith("ERROR")] or output.splitlines()[-1:]
        reason = errors[0] if errors else f"exit status {process.returncode}"
        raise EnvironmentFailure(f"could not {doing}: {reason}", output[-LOG_TAIL:])
    return stdout


def _wait(process: subprocess.Popen[str], patience: Patience, doing: str) -> tuple[str, str]:
    """Return what the process wrote until it ended; ends it, and raises ``EnvironmentFailure``, if patience does."""
    deadline = time.monotonic() + patience.seconds
    while True:
        try:
            return process.communicate(timeout=min(_POLL_SECONDS, patience.seconds))
        except subprocess.TimeoutExpired as error:
            late = time.monotonic() >= deadline
            if late or patience.stopped():
                _kill_tree(process.pid)
                why = (
                    f"within {patience.seconds:.0f} s (limits.prepare_seconds)"
                    if late
                    else "before the run was stopped"
                )
                raise EnvironmentFailure(f"could not {doing} {why}") from error


def _kill_tree(pid: int) -> None:
    """End a process and all that it started: pip works in a second process, and its builds in a third."""
    with contextlib.suppress(psutil.NoSuchProcess):
        first = psutil.Process(pid)
        for process in (first, *first.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
