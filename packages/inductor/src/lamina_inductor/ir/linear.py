"""Index expressions as linear functions of loop variables, with symbolic coefficients.

`Expr.linear_in` knows integer coefficients only; strides of dynamic shapes are symbolic (`i0*s0`), hence these.
"""

from __future__ import annotations

from collections.abc import Collection

from lamina_dynshape.expr import Expr, Product, integer, product

__all__ = ["coefficients", "coefficient"]

ZERO = integer(0)


def coefficients(e: Expr, syms: Collection[Expr]) -> tuple[dict[Expr, Expr], Expr] | None:
    """({variable: coefficient}, rest) with `e == rest + sum(variable * coefficient)`, nothing of `syms` in the rest or the coefficients; None if not linear."""
    if e.free_symbols.isdisjoint(syms):
        return {}, e
    out: dict[Expr, Expr] = {}
    terms, const = e.terms()
    rest: Expr = integer(const)
    for monomial, c in terms:
        if monomial in syms:
            out[monomial] = out.get(monomial, ZERO) + c
            continue
        hit = [s for s in monomial.free_symbols if s in syms]
        if not hit:
            rest = rest + monomial * c
            continue
        if len(hit) > 1 or not isinstance(monomial, Product):
            return None
        factors = list(monomial.factors)
        if factors.count(hit[0]) != 1:
            return None
        factors.remove(hit[0])
        others = product(factors)
        if hit[0] in others.free_symbols:
            return None
        out[hit[0]] = out.get(hit[0], ZERO) + others * c
    return out, rest


def coefficient(e: Expr, sym: Expr) -> Expr | None:
    """Coefficient of one variable (0 when absent), None if not linear in it."""
    found = coefficients(e, (sym,))
    return None if found is None else found[0].get(sym, ZERO)
