"""Every error the engine raises on purpose, and the exit code that each one means.

Library code raises these; only ``cli.py`` turns them into an exit status. A message says what is wrong, where, what was
expected and what to do next.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches


class PortmatrixError(Exception):
    """Base of all expected errors; ``exit_code`` is the status the command line ends with."""

    exit_code = 3


class UserError(PortmatrixError):
    """The request cannot be carried out as given: the suite, the selection or an argument is wrong."""

    exit_code = 2


class SpecError(UserError):
    """``matrix.yaml`` is wrong. Carries *all* problems found, each already formatted with line and key path."""

    def __init__(self, file: str, problems: Sequence[str]) -> None:
        self.file = file
        self.problems = tuple(problems)
        count = len(self.problems)
        head = f"{file}: {count} problem{'s' if count != 1 else ''}"
        super().__init__("\n".join([head, *(f"  {problem}" for problem in self.problems)]))


class RecordError(UserError):
    """A results file cannot be read: an unknown schema version, or a line that is no record."""


class NothingSelected(UserError):
    """The selection leaves no cell: empty never means pass."""

    exit_code = 4


class PluginError(PortmatrixError):
    """A plug-in file cannot be loaded or breaks its Protocol; it turns into ERROR records of its own cells."""


class EnvironmentFailure(PortmatrixError):
    """An environment could not be built; ``log_tail`` holds the end of the installer's output.

    ``unavailable`` is True when nothing was tried because this machine has no interpreter of the required version,
    which makes the cells ``NOT_RUN`` and not ``ERROR``. ``unsupported`` is True when what is required is not made for
    the target at all (no wheel, no package), which is a finding: the cells are ``FAIL``.
    """

    def __init__(
        self, message: str, log_tail: str = "", *, unavailable: bool = False, unsupported: bool = False
    ) -> None:
        super().__init__(message)
        self.log_tail = log_tail
        self.unavailable = unavailable
        self.unsupported = unsupported


class StoreError(PortmatrixError):
    """The store holds something it must not use: a changed byte, an unsafe archive member, a foreign layout."""


class DiskFull(PortmatrixError):
    """A file could not be written because its device is full; what was recorded before stands."""


def nearest(word: str, legal: Sequence[str]) -> str:
    """Return a hint naming the legal word closest to ``word`` (`` (did you mean 'x'?)``), or an empty string."""
    close = get_close_matches(word, list(legal), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""
