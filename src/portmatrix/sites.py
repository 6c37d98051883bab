"""A site: where the process of a worker runs, how a command is carried there, and what the end of one means there.

On the engine's own machine there is none: a worker is a child process with the engine's paths. A container, a root
directory, Wine and a board behind ``ssh`` are sites. A site is data with functions: it says how, and holds nothing.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple


class Inside(NamedTuple):
    """How one worker runs at a site: its name, folder, variables, the folders that it sees, memory, and network.

    ``name`` is unlike any other's. ``shared`` maps folders, which have the same path there unless the site says
    otherwise (``Site.there``), to whether they can be written. ``threads`` is how many processors it may use.
    """

    name: str
    folder: Path
    env: Mapping[str, str]
    shared: Mapping[Path, bool]
    memory_mb: int
    network: bool
    threads: int = 1


class Ending(NamedTuple):
    """What the end of a worker's process means: the reason in words, and whose fault it is.

    ``model`` is a finding about what ran there, ``harness`` a fault of what lies between (an emulator, a connection):
    of the place itself it says nothing. A ``transient`` one may be gone the next time. One that ``died`` did not end by
    itself: under an emulator that may have been the emulator's doing.
    """

    reason: str
    fault: Literal["model", "harness"]
    transient: bool = False
    died: bool = False


def died_of(what: str) -> Ending:
    """Return the ending of a worker that died of a signal, or of what its system has instead.

    SIGKILL and SIGTERM come from outside (a person, a system short of memory), and need not come again.
    """
    transient = what.startswith(("SIGKILL", "SIGTERM"))
    return Ending(f"the worker died of {what}", "model", transient=transient, died=True)


def _same(path: Path) -> str:
    return str(path)


def _nothing(_inside: Inside) -> None:
    """Nothing is left that the end of the process would not have ended."""


def _not_moved(_folder: Path) -> None:
    """The site writes into this machine's own folders."""


def _undecided(_inside: Inside, _status: int) -> Ending | None:
    return None


class Site(NamedTuple):
    """Where the workers of one environment run.

    - ``wrap`` returns the command line, run on this machine, that runs a worker's command there.
    - ``network`` names in records how a worker there is cut off: ``namespace``, ``audit-hook``, or ``none`` if not.
    - ``via`` says what stands between this machine and the site, with versions (``docker 28.2.2, qemu-arm 7.2.22``).
    - ``emulator`` names what executes there in place of a processor or an operating system; what dies there may have
      died of it. Empty where nothing does.
    - ``there`` returns what a path of this machine is called there, and sees to it that what it names is there;
      ``bring`` fetches what was written below a folder whose path ``there`` has given.
    - ``ending`` returns what an exit status means (negative: a signal), or None where it means what it means here.
    - ``end`` removes what is left of a worker whose command was killed.
    """

    wrap: Callable[[Inside, Sequence[str]], list[str]]
    network: str = "namespace"
    via: str = ""
    emulator: str = ""
    there: Callable[[Path], str] = _same
    bring: Callable[[Path], None] = _not_moved
    ending: Callable[[Inside, int], Ending | None] = _undecided
    end: Callable[[Inside], None] = _nothing


def signal_name(number: int) -> str:
    """Return ``SIGSEGV (signal 11)`` for 11, and ``signal N`` for a number without a name."""
    try:
        return f"{signal.Signals(number).name} (signal {number})"
    except ValueError:
        return f"signal {number}"


#: What a shell, and with it every tool for containers, adds to a signal's number to make an exit status of it.
SIGNALLED = 128


def by_status(status: int) -> Ending | None:
    """Return what the status of a shell, or of a container, means that stands for a signal; None for any other."""
    if status <= SIGNALLED:
        return None
    return died_of(signal_name(status - SIGNALLED))
