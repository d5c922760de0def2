"""Exact division, floor division and modulo of integer expressions, with Python's rounding.

Keeps: every rewriting is an identity over all integers with a non-zero divisor; those that need bounds are in `expr_bounds`.
"""

from __future__ import annotations

import math
from typing import Any

from lamina_dynshape.expr import (
    ONE,
    ZERO,
    Expr,
    FloorDiv,
    Integer,
    IntLike,
    Mod,
    Sum,
    _make,
    _monomial,
    _factors,
    _operand_text,
    _scale,
    _sum_of,
    _terms,
    as_expr,
    integer,
)
from lamina_dynshape.support.memory import at_release

__all__ = ["ceildiv", "exact_div", "floordiv", "mod"]

_DIV: dict[tuple[Any, Any], Expr] = {}
_MOD: dict[tuple[Any, Any], Expr] = {}
at_release(_DIV.clear)
at_release(_MOD.clear)


def exact_div(num: Expr, den: Expr) -> Expr | None:
    """num / den when it is an expression with integer coefficients (polynomial division leaves nothing), else None."""
    if den is ONE:
        return num
    if num is ZERO:
        return None if den is ZERO else ZERO
    lead, lead_c = _leading(den)
    if lead_c == 0:
        return None
    quotient: Expr = ZERO
    rest = num
    for _ in range(32):  # each round removes one term; longer quotients are not worth the time
        if rest is ZERO:
            return quotient
        term, c = _leading(rest)
        factor = _monomial_quotient(term, lead)
        if factor is None or c % lead_c:
            return None
        step = _scale(factor, c // lead_c)
        quotient, rest = quotient + step, rest - step * den
    return None


def _leading(e: Expr) -> tuple[Expr, int]:
    """Term with the most factors, ties by name; a total order that multiplication keeps for one degree."""
    pairs, const = _terms(e)
    if not pairs:
        return ONE, const
    return max(pairs, key=lambda p: (len(_factors(p[0])), [f.key for f in _factors(p[0])]))


def _monomial_quotient(num: Expr, den: Expr) -> Expr | None:
    if den is ONE:
        return num
    left = list(_factors(num))
    for f in _factors(den):
        if f not in left:
            return None
        left.remove(f)
    return _monomial(tuple(left))


def floordiv(a: IntLike, b: IntLike) -> Expr:
    """a // b with Python's rounding. ZeroDivisionError for a constant zero divisor."""
    found = _DIV.get((a, b))
    if found is None:
        found = _DIV[a, b] = _floordiv(as_expr(a), as_expr(b))
    return found


def ceildiv(a: IntLike, b: IntLike) -> Expr:
    """a / b rounded up."""
    return -floordiv(-as_expr(a), b)


def mod(a: IntLike, b: IntLike) -> Expr:
    """a % b with Python's sign. ZeroDivisionError for a constant zero divisor."""
    found = _MOD.get((a, b))
    if found is None:
        found = _MOD[a, b] = _mod(as_expr(a), as_expr(b))
    return found


def _floordiv(a: Expr, b: Expr) -> Expr:
    if type(b) is Integer:
        return _floordiv_const(a, b.value)
    if a is ZERO:
        return ZERO
    whole, rest = _split_divisible(a, b)
    if rest is ZERO:
        return whole
    rest, b = _cancel(rest, b)
    if type(b) is Integer:
        return whole + _floordiv_const(rest, b.value)
    return whole + _division(FloorDiv, rest, b)


def _division(cls: type, num: Expr, den: Expr) -> Expr:
    sign = "//" if cls is FloorDiv else "%"
    return _make(cls, (cls, num, den), f"{_operand_text(num)}{sign}{_operand_text(den)}", num=num, den=den)


def _split_divisible(a: Expr, b: Expr) -> tuple[Expr, Expr]:
    """a == whole * b + rest."""
    quotient = exact_div(a, b)
    if quotient is not None:
        return quotient, ZERO
    if type(b) is Sum and (len(b.pairs) > 1 or b.const_term):
        return ZERO, a
    whole: Expr = ZERO
    rest = a
    for monomial, c in _terms(a)[0]:
        term = _scale(monomial, c)
        q = exact_div(term, b)
        if q is not None:
            whole, rest = whole + q, rest - term
    return whole, rest


def _cancel(a: Expr, b: Expr) -> tuple[Expr, Expr]:
    """Divide both by their common monomial factor and common integer factor: floor(k*x / (k*y)) = floor(x / y)."""
    common: list[Expr] | None = None
    g = 0
    for e in (a, b):
        pairs, const = _terms(e)
        g = math.gcd(g, const, *(c for _, c in pairs))
        for monomial in ([m for m, _ in pairs] + ([ONE] if const else [])):
            factors = [] if monomial is ONE else list(_factors(monomial))
            common = factors if common is None else _intersect(common, factors)
    factor = _scale(_monomial(tuple(common or ())), g)
    if factor is ONE:
        return a, b
    return exact_div(a, factor), exact_div(b, factor)  # type: ignore[return-value]


def _intersect(left: list[Expr], right: list[Expr]) -> list[Expr]:
    right = list(right)
    kept = []
    for f in left:
        if f in right:
            right.remove(f)
            kept.append(f)
    return kept


def _floordiv_const(a: Expr, b: int) -> Expr:
    if b < 0:
        a, b = -a, -b
    if b == 1:
        return a
    if b == 0:
        raise ZeroDivisionError("integer division by zero")
    pairs, const = _terms(a)
    # floor((b*q + r) / b) = q + floor(r / b)
    whole = _sum_of([(m, c // b) for m, c in pairs if c % b == 0], const // b)
    rest, const = [(m, c) for m, c in pairs if c % b], const % b
    if not rest:
        return whole
    # floor((g*x + c) / (g*b)) = floor((x + floor(c / g)) / b)
    g = math.gcd(b, *(c for _, c in rest))
    if g > 1:
        rest, const, b = [(m, c // g) for m, c in rest], const // g, b // g
    if b == 1:
        return whole + _sum_of(rest, const)
    # floor((floor(x / a) + c) / b) = floor((x + c*a) / (a*b)), a > 0
    if len(rest) == 1 and rest[0][1] == 1:
        inner = rest[0][0]
        if type(inner) is FloorDiv and type(inner.den) is Integer and inner.den.value > 0:
            return whole + _floordiv_const(inner.num + const * inner.den.value, b * inner.den.value)
        # (x % (b*m)) // b = (x // b) % m
        if type(inner) is Mod and type(inner.den) is Integer and inner.den.value % b == 0 and not const:
            return whole + _mod_const(_floordiv_const(inner.num, b), inner.den.value // b)
    return whole + _division(FloorDiv, _sum_of(rest, const), integer(b))


def _mod(a: Expr, b: Expr) -> Expr:
    if type(b) is Integer:
        return _mod_const(a, b.value)
    _, rest = _split_divisible(a, b)
    if rest is ZERO:
        return ZERO
    smaller, divisor = _cancel(rest, b)
    if divisor is not b:  # (g*x) % (g*y) = g * (x % y)
        return exact_div(b, divisor) * mod(smaller, divisor)  # type: ignore[operator]
    return _division(Mod, rest, b)


def _mod_const(a: Expr, b: int) -> Expr:
    if b == 0:
        raise ZeroDivisionError("integer modulo by zero")
    if b < 0:
        return -_mod_const(-a, -b)
    if b == 1:
        return ZERO
    a = _drop_inner_mods(a, b)
    pairs, const = _terms(a)
    rest = [(m, int(math.fmod(c, b)) if abs(c) < 2**53 else c % b) for m, c in pairs if c % b]
    const %= b
    if not rest:
        return integer(const)
    # (g*x + g*q + r) % (g*b) = g * ((x + q) % b) + r, 0 <= r < g
    g = math.gcd(b, *(c for _, c in rest))
    if g == b:
        return integer(const)
    if g > 1:
        inner = _sum_of([(m, c // g) for m, c in rest], const // g)
        return _scale(_mod_const(inner, b // g), g) + const % g
    return _division(Mod, _sum_of(rest, const), integer(b))


def _drop_inner_mods(a: Expr, b: int) -> Expr:
    """k * (x % m) is congruent to k * x modulo b when b divides k * m."""
    for _ in range(8):
        for monomial, c in _terms(a)[0]:
            if type(monomial) is Mod and type(monomial.den) is Integer and (c * monomial.den.value) % b == 0:
                a = a + _scale(monomial.num - monomial, c)
                break
        else:
            return a
    return a
