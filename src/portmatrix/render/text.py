"""Foreign text made harmless: names, reasons and logs come from plug-ins, frameworks and other people's machines.

Every renderer passes what it did not write itself through ``visible`` before it escapes it for its own format.
"""

from __future__ import annotations

import math
import re
import unicodedata

#: C0 and C1 controls, line and paragraph separators, the marks that reorder or hide text, surrogates, non-characters.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\uffff\ud800-\udfff"
    "\U000e0000-\U000e0fff]"
)
_ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
_MARKDOWN = re.compile(r"([\\`*\[\]|~#])|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")


def visible(text: str) -> str:
    r"""Return ``text`` without colour codes and with every invisible or reordering character spelled out.

    Newlines and tabs stay, ``\r\n`` becomes ``\n``, and anything else without a glyph of its own becomes an escape such
    as ``\u202e``. The result can always be encoded as UTF-8.
    """
    return _UNSAFE.sub(_escape, _ANSI.sub("", text).replace("\r\n", "\n"))


def one_line(text: str, limit: int = 300) -> str:
    """Return ``text`` as one visible line of at most ``limit`` characters, with the number of those left out."""
    head = text[: 4 * limit]
    line = " ".join(visible(head).split())
    return truncated(line, limit, unseen=len(text) - len(head))


def truncated(text: str, limit: int, *, unseen: int = 0) -> str:
    """Return ``text``, cut after ``limit`` characters; ``unseen`` more were cut before. Says how many are missing."""
    missing = max(0, len(text) - limit) + unseen
    return f"{text[:limit]}… ({missing:,} more characters)" if missing else text


def markdown(text: str) -> str:
    """Return one line of text for Markdown, also inside a table: no markup, no HTML, no line break."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKDOWN.sub(lambda match: "\\" + match[0], escaped)


def ascii_only(text: str) -> str:
    """Return ``text`` for a terminal of any encoding: accents are dropped, other foreign characters spelled out."""
    decomposed = unicodedata.normalize("NFKD", text)
    bare = "".join(char for char in decomposed if not unicodedata.combining(char))
    return bare.encode("ascii", "backslashreplace").decode("ascii")


def number(value: float | None) -> str:
    """Return a measured number in three significant digits, an empty string for None."""
    if value is None:
        return ""
    return f"{value:.3g}" if math.isfinite(value) else str(value)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
