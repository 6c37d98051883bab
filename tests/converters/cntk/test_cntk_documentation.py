"""The operator table of the documentation is that of the code."""

from __future__ import annotations

import re
from pathlib import Path

from portmatrix.converters.cntk.operators import RULES, arrangement, elementwise, layers, recurrence, reductions

PAGE = Path(__file__).parents[3] / "docs" / "converters" / "cntk.md"
GROUPS = {
    "Element by element": elementwise,
    "Arrangement": arrangement,
    "Layers": layers,
    "Reductions": reductions,
    "Recurrence": recurrence,
}


def test_the_table_has_every_operator() -> None:
    """Each group lists the operators of its module, in alphabetical order, and no operator is in two."""
    text = PAGE.read_text(encoding="utf-8")
    for group, module in GROUPS.items():
        (row,) = re.findall(rf"^\| {group} \| ([^|]*) \|", text, re.MULTILINE)
        assert re.findall(r"`(\w+)`", row) == sorted(module.RULES)
    assert sum(len(module.RULES) for module in GROUPS.values()) == len(RULES)
