"""Conversion to and from SymPy, the slow path for solving; SymPy is imported at the first call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lamina_dynshape import expr as _e

if TYPE_CHECKING:
    import sympy

__all__ = ["from_sympy", "to_sympy"]


class _ToSympy:
    def __init__(self) -> None:
        import sympy

        self.sympy = sympy

    def visit_integer(self, value: int) -> Any:
        return self.sympy.Integer(value)

    def visit_symbol(self, symbol: _e.Symbol) -> Any:
        return self.sympy.Symbol(symbol.name, integer=True)

    def visit_sum(self, terms: Any, const: int) -> Any:
        return self.sympy.Add(*(c * m.visit(self) for m, c in terms), const)

    def visit_product(self, factors: Any) -> Any:
        return self.sympy.Mul(*(f.visit(self) for f in factors))

    def visit_floordiv(self, num: Any, den: Any) -> Any:
        return self.sympy.floor(num.visit(self) / den.visit(self))

    def visit_mod(self, num: Any, den: Any) -> Any:
        return self.sympy.Mod(num.visit(self), den.visit(self))

    def visit_min(self, args: Any) -> Any:
        return self.sympy.Min(*(a.visit(self) for a in args))

    def visit_max(self, args: Any) -> Any:
        return self.sympy.Max(*(a.visit(self) for a in args))


def to_sympy(e: _e.Expr) -> sympy.Expr:
    """The same expression in SymPy, over integer symbols of the same names."""
    return e.visit(_ToSympy())


def from_sympy(x: Any) -> _e.Expr:
    """Expr of a SymPy expression built from + * ** Mod floor Min Max; TypeError for anything else."""
    import sympy

    if isinstance(x, int):
        return _e.integer(x)
    if x.is_Integer:
        return _e.integer(int(x))
    if x.is_Symbol:
        return _e.symbol(x.name)
    if x.is_Add:
        return sum((from_sympy(a) for a in x.args), _e.ZERO)
    if x.is_Mul:
        return _e.product(from_sympy(a) for a in x.args)
    if x.is_Pow and x.exp.is_Integer and x.exp >= 0:
        return from_sympy(x.base) ** int(x.exp)
    if isinstance(x, sympy.floor):
        num, den = x.args[0].together().as_numer_denom()
        return _e.floordiv(from_sympy(num.expand()), from_sympy(den.expand()))
    if isinstance(x, sympy.Mod):
        return _e.mod(*map(from_sympy, x.args))
    if isinstance(x, (sympy.Min, sympy.Max)):
        return (_e.emin if isinstance(x, sympy.Min) else _e.emax)(*map(from_sympy, x.args))
    raise TypeError(f"no integer expression for {x!r}")
