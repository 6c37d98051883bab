"""The libraries of the extra ``history``: imported when they are needed, and asked for where they are missing."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from portmatrix.errors import UserError

INSTALL = "pip install 'portmatrix[history]'"


def library(name: str, needed_by: str = "the history") -> Any:
    """Return the module of that name; raises ``UserError`` with the command that installs it."""
    try:
        return import_module(name)
    except ImportError as error:
        raise UserError(
            f"{needed_by} needs {name}, which cannot be imported ({error}); `{INSTALL}` installs it"
        ) from error
