"""Bounds of integer expressions and the simplifications they allow.

Ranges are inclusive `(lo, hi)`; an end is an int, an Expr (a bound that is itself symbolic, such as `s0 - 1`) or None (open).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Union

from lamina_dynshape import expr as _e

__all__ = ["Ranges", "bounds", "simplify"]

End = Union[int, "_e.Expr", None]
Ranges = Mapping["_e.Symbol", tuple[End, End]]
Interval = tuple[Any, Any]  # int or +-inf
_INF = math.inf
_ALL: Interval = (-_INF, _INF)


def bounds(e: _e.Expr, ranges: Ranges) -> tuple[int | None, int | None]:
    """Smallest and largest value within the ranges, by interval arithmetic; None where open. Never too narrow."""
    lo, hi = _interval(e, ranges, {})
    return (None if lo == -_INF else lo), (None if hi == _INF else hi)


def _interval(e: _e.Expr, ranges: Ranges, memo: dict[Any, Interval]) -> Interval:
    kind = type(e)
    if kind is _e.Integer:
        return e.value, e.value
    found = memo.get(e)
    if found is None:
        found = memo[e] = _INTERVALS[kind](e, ranges, memo)
    return found


def _symbol_interval(e: Any, ranges: Ranges, memo: dict[Any, Interval]) -> Interval:
    lo, hi = ranges.get(e, (None, None))
    memo[e] = _ALL  # a bound that mentions its own symbol says nothing
    low = -_INF if lo is None else lo if isinstance(lo, int) else _interval(lo, ranges, memo)[0]
    high = _INF if hi is None else hi if isinstance(hi, int) else _interval(hi, ranges, memo)[1]
    return low, high


def _times(a: Any, b: Any) -> Any:
    return 0 if a == 0 or b == 0 else a * b  # 0 * inf is 0 here


def _sum_interval(e: Any, ranges: Ranges, memo: dict[Any, Interval]) -> Interval:
    low = high = e.const_term
    for monomial, c in e.pairs:
        lo, hi = _interval(monomial, ranges, memo)
        if c < 0:
            lo, hi = hi, lo
        low, high = low + _times(c, lo), high + _times(c, hi)
    return low, high


def _product_interval(e: Any, ranges: Ranges, memo: dict[Any, Interval]) -> Interval:
    low: Any = 1
    high: Any = 1
    for f, power in _powers(e.factors):
        lo, hi = _interval(f, ranges, memo)
        if power > 1:
            ends = [_power(lo, power), _power(hi, power)]
            lo = 0 if power % 2 == 0 and lo < 0 < hi else min(ends)
            hi = max(ends)
        ends = [_times(low, lo), _times(low, hi), _times(high, lo), _times(high, hi)]
        low, high = min(ends), max(ends)
    return low, high


def _powers(factors: tuple[Any, ...]) -> list[tuple[Any, int]]:
    counts: dict[Any, int] = {}
    for f in factors:
        counts[f] = counts.get(f, 0) + 1
    return list(counts.items())


def _power(x: Any, n: int) -> Any:
    return x**n


def _floor_quotient(a: Any, b: Any) -> Any:
    if a in (_INF, -_INF):
        return a if b > 0 else -a
    if b in (_INF, -_INF):
        return 0 if a == 0 or (a > 0) == (b > 0) else -1
    return a // b


def _floordiv_interval(e: Any, ranges: Ranges, memo: dict[Any, Interval]) -> Interval:
    lo, hi = _interval(e.num, ranges, memo)
    dlo, dhi = _interval(e.den, ranges, memo)
    if dlo <= 0:
        dlo = 1 if dhi > 0 and dlo == 0 else dlo  # a zero divisor has no value at all
        if dlo <= 0:
            return _ALL
    ends = [_floor_quotient(a, b) for a in (lo, hi) for b in (dlo, dhi)]
    return min(ends), max(ends)


def _mod_interval(e: Any, ranges: Ranges, memo: dict[Any, Interval]) -> Interval:
    dlo, dhi = _interval(e.den, ranges, memo)
    if dlo < 0 or dhi <= 0:
        return _ALL if dhi > 0 else (dlo + 1, 0)
    lo, hi = _interval(e.num, ranges, memo)
    if lo >= 0 and hi < max(dlo, 1):
        return lo, hi
    if dlo == dhi and lo > -_INF and hi < _INF and lo // dlo == hi // dlo:
        return lo % dlo, hi % dlo
    return 0, (min(hi, dhi - 1) if lo >= 0 else dhi - 1)


def _min_interval(e: Any, ranges: Ranges, memo: dict[Any, Interval]) -> Interval:
    parts = [_interval(a, ranges, memo) for a in e.operands]
    return min(p[0] for p in parts), min(p[1] for p in parts)


def _max_interval(e: Any, ranges: Ranges, memo: dict[Any, Interval]) -> Interval:
    parts = [_interval(a, ranges, memo) for a in e.operands]
    return max(p[0] for p in parts), max(p[1] for p in parts)


_INTERVALS: dict[type, Any] = {
    _e.Symbol: _symbol_interval, _e.Sum: _sum_interval, _e.Product: _product_interval, _e.FloorDiv: _floordiv_interval,
    _e.Mod: _mod_interval, _e.Min: _min_interval, _e.Max: _max_interval,
}


# -- simplification ---------------------------------------------------------------------------------------------------
def simplify(e: _e.Expr, ranges: Ranges) -> _e.Expr:
    """An expression equal to `e` for all values within the ranges, with fewer divisions where the ranges allow it."""
    return _Simplifier(ranges).run(e)


class _Simplifier:
    def __init__(self, ranges: Ranges) -> None:
        self.ranges = ranges
        self.memo: dict[Any, Interval] = {}
        self.done: dict[Any, Any] = {}
        self.symbolic_ends = any(isinstance(x, _e.Expr) for r in ranges.values() for x in r)

    def interval(self, e: _e.Expr) -> Interval:
        return _interval(e, self.ranges, self.memo)

    def run(self, e: _e.Expr) -> _e.Expr:
        kind = type(e)
        if kind is _e.Symbol or kind is _e.Integer:
            return e
        found = self.done.get(e)
        if found is None:
            found = self._node(e, kind)
            self.done[e] = found
        return found

    def _node(self, e: Any, kind: type) -> _e.Expr:
        if kind is _e.Sum:
            result = _e.integer(e.const_term)
            for monomial, c in e.pairs:
                result = result + self.run(monomial) * c
            return _join_div_mod(result)
        if kind is _e.Product:
            return _e.product(self.run(f) for f in e.factors)
        if kind is _e.FloorDiv:
            return self._floordiv(self.run(e.num), self.run(e.den))
        if kind is _e.Mod:
            return self._mod(self.run(e.num), self.run(e.den))
        return self._extremum([self.run(a) for a in e.operands], kind)

    def _floordiv(self, num: _e.Expr, den: _e.Expr) -> _e.Expr:
        result: _e.Expr = _e.ZERO
        for monomial, c in (parts := _e.floordiv(num, den).terms())[0]:
            if type(monomial) is _e.FloorDiv:
                monomial = self._floordiv_atom(monomial)
            elif type(monomial) is _e.Mod:
                monomial = self._mod_atom(monomial)
            result = result + monomial * c
        return result + parts[1]

    def _floordiv_atom(self, e: Any) -> _e.Expr:
        num, den = e.num, e.den
        if self._below(num, den):
            return _e.ZERO
        if type(den) is not _e.Integer:
            return e
        b = den.value
        lo, hi = self.interval(num)
        if lo > -_INF and hi < _INF and lo // b == hi // b:
            return _e.integer(lo // b)
        for g, multiple, rest in self._splits(num, b):
            # floor((g*x + rest) / b) = floor(x / (b/g)), 0 <= rest < g, g divides b
            return self._floordiv(_e.exact_div(multiple, _e.integer(g)), _e.integer(b // g))  # type: ignore[arg-type]
        return e

    def _mod(self, num: _e.Expr, den: _e.Expr) -> _e.Expr:
        result: _e.Expr = _e.ZERO
        for monomial, c in (parts := _e.mod(num, den).terms())[0]:
            if type(monomial) is _e.Mod:
                monomial = self._mod_atom(monomial)
            result = result + monomial * c
        return result + parts[1]

    def _mod_atom(self, e: Any) -> _e.Expr:
        num, den = e.num, e.den
        if self._below(num, den):
            return num
        if type(den) is not _e.Integer:
            return e
        b = den.value
        lo, hi = self.interval(num)
        if lo > -_INF and hi < _INF and lo // b == hi // b:
            return num - (lo // b) * b
        for g, multiple, rest in self._splits(num, b):
            # (g*x + rest) % b = g * (x % (b/g)) + rest, 0 <= rest < g, g divides b
            return self._mod(_e.exact_div(multiple, _e.integer(g)), _e.integer(b // g)) * g + rest  # type: ignore[arg-type]
        return e

    def _splits(self, num: _e.Expr, b: int) -> Any:
        """(g, multiple of g, rest): num == multiple + rest, g divides b, 1 < g, 0 <= rest < g by the ranges."""
        pairs, const = num.terms()
        candidates = sorted({g for g in (math.gcd(c, b) for _, c in pairs) if g > 1}, reverse=True)
        for g in candidates:
            multiple = [(m, c) for m, c in pairs if c % g == 0]
            rest = [(m, c) for m, c in pairs if c % g]
            low = _e._sum_of(rest, const % g)
            lo, hi = self.interval(low)
            if 0 <= lo and hi < g and multiple:
                yield g, _e._sum_of(multiple, const - const % g), low

    def _below(self, num: _e.Expr, den: _e.Expr) -> bool:
        """0 <= num < den for sure."""
        if self.interval(num)[0] < 0:
            return False
        if self.interval(den - num)[0] >= 1:
            return True
        return self.symbolic_ends and self.interval(den - self._upper(num))[0] >= 1

    def _upper(self, e: _e.Expr) -> _e.Expr:
        """Symbolic upper bound: loop variables replaced by their symbolic ends where the coefficient's sign is known."""
        result = _e.integer(e.terms()[1])
        for monomial, c in e.terms()[0]:
            value: Any = monomial
            if type(monomial) is _e.Symbol:
                value = self._end(monomial, c > 0)
            elif type(monomial) is _e.Product and c > 0 and all(self.interval(f)[0] >= 0 for f in monomial.factors):
                value = _e.product(self._end(f, True) if type(f) is _e.Symbol else f for f in monomial.factors)
            result = result + value * c
        return result

    def _end(self, s: _e.Symbol, upper: bool) -> Any:
        end = self.ranges.get(s, (None, None))[upper]
        return end if isinstance(end, _e.Expr) else s

    def _extremum(self, args: list[_e.Expr], kind: type) -> _e.Expr:
        """Drop operands that another one always beats."""
        kept = list(args)
        for a in args:
            for b in kept:
                if a is b or a not in kept:
                    continue
                lo, hi = self.interval(a - b)
                if lo >= 0 if kind is _e.Min else hi <= 0:
                    kept.remove(a)
                    break
        return (_e.emin if kind is _e.Min else _e.emax)(*kept)


def _join_div_mod(e: _e.Expr) -> _e.Expr:
    """k*b*(x//b) + k*(x%b) is k*x, and k*x - k*b*(x//b) is k*(x%b)."""
    if type(e) is not _e.Sum:
        return e
    coefficients = dict(e.pairs)
    for monomial, c in e.pairs:
        if type(monomial) is not _e.FloorDiv:
            continue
        x, b = monomial.num, monomial.den
        remainder = _e.mod(x, b)
        if type(remainder) is not _e.Mod or type(b) is not _e.Integer or c % b.value:
            continue
        k = c // b.value
        if coefficients.get(remainder) == k:
            return _join_div_mod(e + (x - monomial * b - remainder) * k)
        if type(x) is _e.Symbol and coefficients.get(x) == -k:
            return _join_div_mod(e + (x - monomial * b - remainder) * k)
    return e
