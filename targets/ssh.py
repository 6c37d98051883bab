"""A machine of the user's own, such as a board, behind ssh: entries of ``targets`` in ``matrix.yaml`` say which.

docs/adding-a-target.md (A board of your own) says how, and what is done there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# Each entry has its own; a kind of target has none.
PLATFORM = {"os": "linux", "arch": "arm64", "libc": "glibc", "endian": "little", "bits": 64}
RUNNER = "self-hosted"
COST = "a machine of your own that is switched on"
#: A path of this machine; relative ones would depend on where a command was started.
_PATH = {"pattern": r"[~/].*", "description": "a path that begins with / or ~"}
_HOST = {"pattern": r"[^\s-]\S*", "description": "a host as ssh takes it: user@name, or a name of ~/.ssh/config"}
OPTIONS = {
    "host": {**_HOST, "required": True},
    "port": {"type": "integer", "minimum": 1, "maximum": 65535},
    "identity": _PATH,
    "config": _PATH,
    "jump": _HOST,
    "python": {"pattern": r".+"},
    "folder": {"pattern": r".+"},
}


def reach(host: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return the one way there from any machine: over ssh, as the entry's ``options`` say."""
    options = dict(host.get("options", {}))
    if not options.get("host"):
        return [{"why": "no entry of matrix.yaml names its host", "install": "add options: {host: USER@NAME}"}]
    return [{"reach": "remote", "place": "board", "options": options}]
