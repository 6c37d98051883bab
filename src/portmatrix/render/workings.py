"""The arithmetic of a framework's ratings as plain text: every question, the cell that decided it, and the sums."""

from __future__ import annotations

from collections.abc import Iterator

from portmatrix.arithmetic import Arithmetic, Decision, Term, Total
from portmatrix.rate import Stars
from portmatrix.render.table import stars_in_words
from portmatrix.render.text import ascii_only, one_line
from portmatrix.resampling import LEVEL


def lines(given: Arithmetic) -> Iterator[str]:
    """Yield both ratings, worked out: terms with their questions, the weighted sum, and how it is rounded."""
    framework = ascii_only(one_line(given.framework, 120))
    for name, total in (("deployment", given.deployment), ("cross-platform", given.cross_platform)):
        yield f"{framework} {name}: {stars_in_words(total.stars)}"
        for term in total.terms:
            yield from _term(term)
        yield from _sum(total)
        yield ""


def _term(term: Term) -> Iterator[str]:
    count = len(term.decisions)
    total = sum(decision.value for decision in term.decisions)
    yield f"  {term.name}: {total:.4f} / {count} = {term.value:.4f}, between {term.low:.4f} and {term.high:.4f}"
    if any(decision.assumed for decision in term.decisions):
        yield f"    a cell that works and does not say how well counts {term.assumed:.4f}, as the components above do"
    for decision in term.decisions:
        yield f"    {decision.value:.4f}  {ascii_only(one_line(decision.question, 120))}: {_why(decision)}"


def _why(decision: Decision) -> str:
    open_end = "" if decision.low == decision.high else f", may become {decision.high:g}"
    if not decision.cell or decision.outcome is None:
        cells = f"none of {decision.cells} cells" if decision.cells else "there is no cell that"
        return f"{cells} answers{open_end}"
    cell = ascii_only(one_line(decision.cell, 300))
    assumed = ", does not say how well" if decision.assumed else ""
    repeats = f", mean of {decision.repeats} runs" if decision.repeats > 1 else ""
    return f"{cell} {decision.outcome.value}{assumed}{repeats} (best of {decision.cells}){open_end}"


def _sum(total: Total) -> Iterator[str]:
    stars = total.stars
    weights = " + ".join(f"{term.weight:g}" for term in total.terms)
    products = " + ".join(f"{term.weight:g} x {term.value:.4f}" for term in total.terms)
    if stars.score is None or stars.value is None:
        yield "  nothing is known of any component that has a weight: not rated"
    else:
        yield f"  ({products}) / ({weights}) = {stars.score:.4f}"
        rounded = f"to the nearest half (a tie upwards): {stars.value:g}"
        yield f"  5 x {stars.score:.4f} = {5 * stars.score:.4f} stars, {rounded}"
    yield f"  missing evidence: {stars.bounds[0]:.4f} if all of it fails, {stars.bounds[1]:.4f} if all of it passes"
    yield f"  {LEVEL:.0%} of draws of models and repeats: {stars.sampled[0]:.4f} to {stars.sampled[1]:.4f}"
    yield f"  interval, the wider of both at either end, in half-stars: {stars.low:g} to {stars.high:g}"
    yield f"  {_standing(stars)}"


def _standing(stars: Stars) -> str:
    return f"{stars.coverage:.0%} of the evidence, {stars.high - stars.low:g} stars wide: {stars.standing}"
