"""What is known about symbols: ranges, equalities, inequalities; decides conditions without SymPy.

Keeps: learning only narrows, so an answer once decided stays right; undecided ones are asked again after the next fact.
A condition is decided by bounds of the expression, by bounds of its difference to a known inequality, or by a known equality
(which replaces a symbol or an atom such as `s0 % 8` everywhere).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lamina_dynshape.boolean import FALSE, TRUE, And, BoolExpr, Or, Relation, negate
from lamina_dynshape.expr import Expr, FloorDiv, Integer, Max, Min, Mod, Product, Sum, Symbol, _combine, bounds, exact_div, floordiv, integer, mod, simplify

__all__ = ["Facts"]

Range = tuple[int | None, int | None]


class Facts:
    """A growing set of facts over symbols."""

    def __init__(self) -> None:
        self.ranges: dict[Symbol, Range] = {}
        self.replacements: dict[Expr, Expr] = {}  # symbol or atom -> equal expression
        self.inequalities: list[Expr] = []  # each is >= 0
        self.nonzero: set[Expr] = set()
        self.learned: list[BoolExpr] = []  # in order; with the ranges, all that answers follow from
        self.version = 0
        self._known: dict[BoolExpr, bool] = {}
        self._unknown: dict[BoolExpr, int] = {}  # version at which it was found undecided
        self._canonical: dict[Expr, Expr] = {}

    # -- asking -------------------------------------------------------------------------------------------------------
    def decide(self, condition: BoolExpr) -> bool | None:
        """True or False when certain, else None."""
        known = self._known.get(condition)
        if known is None and self._unknown.get(condition) != self.version:
            known = self._decide(condition)
            if known is None:
                self._unknown[condition] = self.version
            else:
                self._known[condition] = known
        return known

    def _decide(self, condition: BoolExpr) -> bool | None:
        if condition is TRUE or condition is FALSE:
            return condition is TRUE
        if isinstance(condition, Relation):
            canonical = condition.map(self.canonical)
            if not isinstance(canonical, Relation):
                return canonical is TRUE
            return self._decide_ge(canonical.e) if canonical.kind == "ge" else self._decide_zero(canonical)
        if not isinstance(condition, (And, Or)):  # comparisons of real numbers are evaluated, not reasoned about
            canonical = condition.map(self.canonical)
            return canonical is TRUE if canonical is TRUE or canonical is FALSE else None
        answers = [self.decide(o) for o in condition.operands]
        stop = isinstance(condition, Or)
        if stop in answers:
            return stop
        return None if None in answers else not stop

    def _decide_ge(self, e: Expr) -> bool | None:
        lo, hi = bounds(e, self.ranges)
        if lo is not None and lo >= 0:
            return True
        if hi is not None and hi < 0:
            return False
        for f in self.inequalities:
            if f.free_symbols.isdisjoint(e.free_symbols):
                continue
            lo = bounds(e - f, self.ranges)[0]
            if lo is not None and lo >= 0:
                return True
            hi = bounds(e + f, self.ranges)[1]
            if hi is not None and hi < 0:  # e < -f <= 0
                return False
        if len(e.terms()[0]) > 1:
            if self._positive_by_shift(e):
                return True
            if self._positive_by_shift(-e - 1):
                return False
        relaxed = _without_quotient(e)
        if relaxed is not None and bounds(relaxed[0], self.ranges)[0] is not None and self.decide(_at_least_zero(relaxed[0])):
            return True
        return _ge_by_factors(e, self)

    def _positive_by_shift(self, e: Expr) -> bool:
        """e >= 0 because it has no negative coefficient when each symbol is written as its lower bound plus something >= 0."""
        shift = {}
        for s in e.free_symbols:
            lo = self.ranges.get(s, (None, None))[0]
            if lo is None:
                return False
            shift[s] = s + lo
        pairs, const = e.subs(shift).terms()
        if const < 0 or any(c < 0 for _, c in pairs):
            return False
        natural: dict[Symbol, Range] = dict.fromkeys(shift, (0, None))
        return all((bounds(m, natural)[0] or 0) >= 0 and bounds(m, natural)[0] is not None for m, _ in pairs)

    def _decide_zero(self, relation: Relation) -> bool | None:
        e, if_zero = relation.e, relation.kind == "eq"
        if bounds(e, self.ranges) == (0, 0):
            return if_zero
        if e in self.nonzero:
            return not if_zero
        for sign in (e, -e):
            positive = self.decide(_positive(sign))
            if positive:
                return not if_zero
        if not isinstance(e, (Integer, Symbol)) and self._nonzero_by_factors(e):
            return not if_zero
        return None

    def _nonzero_by_factors(self, e: Expr) -> bool:
        """m*x + m*y is not zero when neither m nor x + y is."""
        factor = next(iter(_common_factors(e)), None)
        if factor is None:
            return False
        rest = exact_div(e, factor)
        return rest is not None and all(self.decide(Relation_ne(p)) is True for p in (factor, rest))

    def reduced(self, condition: BoolExpr) -> BoolExpr:
        """An equivalent condition without factors that are known to be positive (for an inequality) or not zero."""
        if not isinstance(condition, Relation):
            return condition
        for f in _common_factors(condition.e):
            if self.decide(_positive(f) if condition.kind == "ge" else Relation_ne(f)) is True:
                rest = exact_div(condition.e, f)
                if rest is not None:
                    return self.reduced(condition.map(lambda e, rest=rest: rest))
        return condition

    # -- canonical form under the facts -------------------------------------------------------------------------------
    def canonical(self, e: Expr) -> Expr:
        """Equal expression with the known replacements made."""
        found = self._canonical.get(e)
        if found is None:
            found = self._canonical[e] = self._replaced(e)
        return found

    def _replaced(self, e: Expr) -> Expr:
        if isinstance(e, Integer):
            return e
        if isinstance(e, Symbol):
            found = self.replacements.get(e)
            return self.canonical(found) if found is not None else e
        if not self.replacements and not _has_division_or_extremum(e):
            return e
        if isinstance(e, Sum):
            result: Expr = integer(e.const_term)
            for monomial, c in e.pairs:
                result = result + self._exact_quotient(self.canonical(monomial), c)
            return result
        rebuilt = _combine(e, [self.canonical(a) for a in e.args])
        if isinstance(rebuilt, Product):
            rebuilt = self._exact_quotient(rebuilt, 1)
        if rebuilt is not e:
            return self.canonical(rebuilt)
        found = self.replacements.get(e)
        if found is not None:
            return self.canonical(found)
        if isinstance(e, (FloorDiv, Mod)) or not e.is_const:
            simpler = simplify(e, self.ranges)
            if simpler is not e:
                return self.canonical(simpler)
        return e

    def _exact_quotient(self, monomial: Expr, c: int) -> Expr:
        """c * monomial, where b * (x // b) becomes x - r if x % b is known to be r."""
        factors = monomial.args if isinstance(monomial, Product) else (monomial,)
        for f in factors:
            if not isinstance(f, FloorDiv):
                continue
            remainder = mod(f.num, f.den)
            remainder = self.replacements.get(remainder, remainder)
            if not isinstance(remainder, Integer):
                continue
            rest = exact_div(monomial * c, f * f.den)
            if rest is not None:
                return self.canonical(rest * (f.num - remainder))
        return monomial * c

    # -- learning -------------------------------------------------------------------------------------------------------
    def learn(self, condition: BoolExpr) -> None:
        """Take a condition as true."""
        if self.decide(condition) is True:
            return
        if isinstance(condition, And):
            for o in condition.operands:
                self.learn(o)
            return
        self.learned.append(condition)
        if isinstance(condition, Relation):
            canonical = condition.map(self.canonical)
            if isinstance(canonical, Relation):
                {"ge": self._learn_ge, "eq": self._learn_eq, "ne": self._learn_ne}[canonical.kind](canonical.e)
        self._changed()
        self._known[condition] = True
        self._known[negate(condition)] = False

    def _changed(self) -> None:
        self.version += 1
        self._canonical.clear()

    def _learn_ge(self, e: Expr) -> None:
        pairs, const = e.terms()
        if bounds(e, self.ranges)[1] == 0:
            self._learn_eq(e)
            return
        if len(pairs) == 1 and isinstance(pairs[0][0], Symbol):
            symbol, c = pairs[0]
            # c*s + const >= 0
            if c > 0:
                self.narrow(symbol, lo=-(const // c))
            else:
                self.narrow(symbol, hi=const // -c)
        elif len(self.inequalities) < 200:
            self.inequalities.append(e)

    def _learn_ne(self, e: Expr) -> None:
        self.nonzero.update((e, -e))
        pairs, const = e.terms()
        if len(pairs) == 1 and isinstance(pairs[0][0], Symbol) and const % pairs[0][1] == 0:
            symbol, value = pairs[0][0], -const // pairs[0][1]
            lo, hi = self.ranges.get(symbol, (None, None))
            if value == lo:
                self.narrow(symbol, lo=value + 1)
            elif value == hi:
                self.narrow(symbol, hi=value - 1)

    def _learn_eq(self, e: Expr) -> None:
        solved = _solve(e)
        if solved is None:
            return
        left, right = solved
        if isinstance(left, FloorDiv):
            remainder = mod(left.num, left.den)
            remainder = self.replacements.get(remainder, remainder)
            if isinstance(remainder, Integer):  # x // b == q and x % b == r: x == b*q + r
                self.learn(_zero(left.num - left.den * right - remainder))
                return
        self.replacements[left] = right
        if isinstance(left, Mod):
            if right is integer(0):
                negative = mod(-left.num, left.den)
                if isinstance(negative, Mod):
                    self.replacements[negative] = right
            quotient = floordiv(left.num, left.den)
            known = self.replacements.pop(quotient, None)
            if known is not None and isinstance(right, Integer):
                self._changed()
                self.learn(_zero(left.num - left.den * known - right))
                return
        if isinstance(left, Symbol):
            lo, hi = self.ranges.get(left, (None, None))
            self._bound_by(right, lo, hi)

    def _bound_by(self, e: Expr, lo: int | None, hi: int | None) -> None:
        """The range of a replaced symbol becomes a fact about what replaces it."""
        self._changed()
        if lo is not None and not e.is_const:
            self._learn_ge(e - lo)
        if hi is not None and not e.is_const:
            self._learn_ge(hi - e)

    def narrow(self, symbol: Symbol, lo: int | None = None, hi: int | None = None) -> None:
        """Intersect the range of a symbol."""
        old_lo, old_hi = self.ranges.get(symbol, (None, None))
        new_lo = old_lo if lo is None else lo if old_lo is None else max(lo, old_lo)
        new_hi = old_hi if hi is None else hi if old_hi is None else min(hi, old_hi)
        self.ranges[symbol] = new_lo, new_hi
        self._changed()
        if new_lo is not None and new_lo == new_hi:
            self.replacements[symbol] = integer(new_lo)


def _at_least_zero(e: Expr) -> BoolExpr:
    from lamina_dynshape.boolean import ge

    return ge(e, 0)


def _without_quotient(e: Expr) -> tuple[Expr, int] | None:
    """(lower bound of b*e, b) with one term c * (x // b) replaced by what it is at least: x - b < b * (x // b) <= x."""
    pairs, _ = e.terms()
    for monomial, c in pairs:
        if isinstance(monomial, FloorDiv) and isinstance(monomial.den, Integer):
            b = monomial.den.const
            rest = (e - monomial * c) * b
            return rest + (monomial.num * c if c < 0 else (monomial.num - (b - 1)) * c), b
    return None


def _zero(e: Expr) -> BoolExpr:
    from lamina_dynshape.boolean import eq

    return eq(e, 0)


def _positive(e: Expr) -> BoolExpr:
    from lamina_dynshape.boolean import ge

    return ge(e, 1)


def Relation_ne(e: Expr) -> BoolExpr:
    from lamina_dynshape.boolean import ne

    return ne(e, 0)


def _has_division_or_extremum(e: Expr) -> bool:
    return not isinstance(e, (Integer, Symbol)) and (isinstance(e, (FloorDiv, Mod, Min, Max)) or any(map(_has_division_or_extremum, e.args)))


def _common_factors(e: Expr) -> list[Expr]:
    """The symbol-like factors of every term, other than `e` itself."""
    pairs, const = e.terms()
    if const or not pairs:
        return []
    factors = [m.args if isinstance(m, Product) else (m,) for m, _ in pairs]
    return [f for f in factors[0] if f is not e and all(f in other for other in factors[1:])]


def _ge_by_factors(e: Expr, facts: Facts) -> bool | None:
    """m*x >= 0 for positive m asks x >= 0."""
    factor = next(iter(_common_factors(e)), None)
    if factor is None:
        return None
    rest = exact_div(e, factor)
    if rest is None or facts.decide(_positive(factor)) is not True:
        return None
    from lamina_dynshape.boolean import ge

    return facts.decide(ge(rest, 0))


def _age(symbol: Symbol) -> tuple[int, str]:
    """Order in which symbols are kept: s0 before s1; the youngest is replaced. Unbacked ones go first."""
    digits = symbol.name.lstrip("su")
    return (int(digits) if digits.isdigit() else 0) + (10**6 if symbol.name.startswith("u") else 0), symbol.name


def _solve(e: Expr) -> tuple[Expr, Expr] | None:
    """(left, right) with left == right equivalent to e == 0: a symbol (the youngest possible), else one division atom."""
    pairs, _ = e.terms()
    symbols = sorted((m for m, c in pairs if isinstance(m, Symbol) and abs(c) == 1), key=_age, reverse=True)
    candidates: list[Expr] = [s for s in symbols if e.coeff(s) is not None]
    candidates += [m for m, c in pairs if isinstance(m, (FloorDiv, Mod)) and abs(c) == 1]
    for left in candidates:
        c = dict(pairs)[left]
        right = (left * c - e) * c  # c*left + rest == 0, c = +-1
        if left not in _atoms(right):
            return left, right
    return None


def _atoms(e: Expr) -> set[Expr]:
    found: set[Expr] = set()
    stack = [e]
    while stack:
        x = stack.pop()
        found.add(x)
        stack.extend(x.args)
    return found


def implied(condition: BoolExpr, by: Iterable[BoolExpr], ranges: Any) -> bool:
    """True when `by` and the ranges alone prove the condition."""
    facts = Facts()
    facts.ranges = dict(ranges)
    for c in by:
        facts.learn(c)
    return facts.decide(condition) is True
