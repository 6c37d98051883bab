"""The operator table: which translation is for which operator that CNTK writes."""

from __future__ import annotations

from portmatrix.converters.cntk import arrangement, elementwise, layers, recurrence, reductions
from portmatrix.converters.cntk.reader import Source
from portmatrix.converters.cntk.translator import Rule, build
from portmatrix.converters.network import Network

RULES: dict[str, Rule] = {
    **arrangement.RULES,
    **elementwise.RULES,
    **layers.RULES,
    **recurrence.RULES,
    **reductions.RULES,
}


def translated(source: Source) -> Network:
    """Return the network of any batch for a file of CNTK; raises ``ConversionError`` if there is none."""
    return build(source, RULES)
