"""Sizes of axes as polynomials with integer coefficients over named unknowns, and what is known about the unknowns."""

from __future__ import annotations

from collections.abc import Iterable

#: A product of unknowns, sorted, and the polynomial's terms by it.
Monomial = tuple[str, ...]
#: Polynomials with more terms are not followed any further; no size in a model needs them.
MOST_TERMS = 16


class Size:
    """A polynomial such as ``4·batch`` or ``time - 1``; ``number`` is its value if it has no unknowns."""

    __slots__ = ("terms",)

    def __init__(self, terms: dict[Monomial, int]) -> None:
        self.terms = {monomial: factor for monomial, factor in terms.items() if factor}

    @staticmethod
    def of(value: int | str) -> Size:
        """Return the size that is a number, or an unknown of that name."""
        return Size({(): value} if isinstance(value, int) else {(value,): 1})

    @property
    def number(self) -> int | None:
        if not self.terms:
            return 0
        return self.terms.get(()) if len(self.terms) == 1 else None

    @property
    def unknown(self) -> str | None:
        """Return the name of the unknown if the size is just that."""
        if len(self.terms) != 1:
            return None
        ((monomial, factor),) = self.terms.items()
        return monomial[0] if len(monomial) == 1 and factor == 1 else None

    def unknowns(self) -> set[str]:
        """Return the names of all unknowns in it."""
        return {name for monomial in self.terms for name in monomial}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Size) and self.terms == other.terms

    def __hash__(self) -> int:
        return hash(frozenset(self.terms.items()))

    def __repr__(self) -> str:
        return " + ".join("*".join((str(factor), *monomial)) for monomial, factor in sorted(self.terms.items())) or "0"

    def plus(self, other: Size, factor: int = 1) -> Size:
        """Return the sum with ``factor`` times the other."""
        terms = dict(self.terms)
        for monomial, own in other.terms.items():
            terms[monomial] = terms.get(monomial, 0) + own * factor
        return Size(terms)

    def times(self, other: Size) -> Size:
        """Return the product."""
        terms: dict[Monomial, int] = {}
        for left, first in self.terms.items():
            for right, second in other.terms.items():
                monomial = tuple(sorted(left + right))
                terms[monomial] = terms.get(monomial, 0) + first * second
        return Size(terms)

    def over(self, other: Size) -> Size | None:
        """Return the quotient if the division leaves no rest and the divisor is a single term; None otherwise."""
        if len(other.terms) != 1:
            return Size.of(1) if self == other and self.terms else None
        ((divisor, factor),) = other.terms.items()
        terms: dict[Monomial, int] = {}
        for monomial, own in self.terms.items():
            rest = list(monomial)
            for name in divisor:
                if name not in rest:
                    return None
                rest.remove(name)
            if own % factor:
                return None
            terms[tuple(rest)] = own // factor
        return Size(terms)

    def floor_over(self, divisor: int) -> Size | None:
        """Return the quotient rounded down, if the unknowns' part divides without a rest; None otherwise."""
        if any(factor % divisor for monomial, factor in self.terms.items() if monomial):
            return None
        return Size({monomial: factor // divisor for monomial, factor in self.terms.items()})


def product(sizes: Iterable[Size]) -> Size:
    """Return the product of all."""
    total = Size.of(1)
    for size in sizes:
        total = total.times(size)
    return total


class Sizes:
    """What is known about the unknowns: ``kept`` ones are never replaced by numbers (the batch)."""

    def __init__(self, facts: dict[str, int] | None = None, kept: Iterable[str] = ()) -> None:
        self.facts: dict[str, Size] = {name: Size.of(number) for name, number in (facts or {}).items()}
        self.kept = set(kept)
        self._made = 0
        self._least: dict[str, frozenset[Size]] = {}

    def fresh(self) -> Size:
        """Return a new unknown."""
        self._made += 1
        return Size.of(f"?{self._made}")

    def resolved(self, size: Size) -> Size:
        """Return the size with all that is known put in."""
        while True:
            names = [name for name in size.unknowns() if name in self.facts]
            if not names:
                return size
            replaced = Size({})
            for monomial, factor in size.terms.items():
                parts = [self.facts.get(name, Size.of(name)) for name in monomial]
                replaced = replaced.plus(product(parts), factor)
            if len(replaced.terms) > MOST_TERMS:
                return self.fresh()
            size = replaced

    def same(self, left: Size, right: Size) -> bool:
        """Return whether both are known to be equal."""
        return self.resolved(left) == self.resolved(right)

    def unify(self, left: Size, right: Size) -> Size:
        """Record that both are equal, and return the one that says more."""
        left, right = self.resolved(left), self.resolved(right)
        if left == right:
            return left
        for one, other in ((left, right), (right, left)):
            name = one.unknown
            if name is None or name in other.unknowns():
                continue
            if name in self.kept and other.unknown is None:
                continue
            if name in self.kept and other.unknown not in self.kept:
                continue
            self.facts[name] = other
            return other
        return left if left.unknown in self.kept or right.number is None else right

    def smaller(self, left: Size, right: Size) -> Size:
        """Return the smaller of two sizes; equal questions get equal answers."""
        left, right = self.resolved(left), self.resolved(right)
        difference = left.plus(right, -1).number
        if difference is not None:
            return left if difference <= 0 else right
        members: set[Size] = set()
        for size in (left, right):
            known = self._least.get(size.unknown or "")
            members |= known or {size}
        key = frozenset(members)
        for name, known in self._least.items():
            if known == key:
                return Size.of(name)
        made = self.fresh()
        self._least[made.unknown or ""] = key
        return made
