"""Symbolic numbers in the graph: placeholders for sizes and Python ints, arithmetic rebuilt from expressions.

Between: SymInts that the interpreter computed with -> graph nodes that compute the same from `size` placeholders.
Keeps:   one placeholder per symbol, one node per distinct expression.
"""

from __future__ import annotations

import operator
from typing import Any

from torch import fx

__all__ = ["node_of_expr"]


def node_of_expr(cap: Any, value: Any) -> Any:
    """The node that yields a symbolic number, or the number where it is a constant."""
    from lamina_dynshape import expr_of

    e = expr_of(value)
    return _Builder(cap).build(e)


class _Builder:
    """Expression visitor that makes nodes."""

    def __init__(self, cap: Any) -> None:
        self.cap = cap

    def build(self, e: Any) -> Any:
        if getattr(e, "is_const", False):
            return e.const
        found = self.cap.size_nodes.get(e)
        if found is None:
            found = self.cap.size_nodes[e] = e.visit(self)
        return found

    def _op(self, fn: Any, *args: Any) -> Any:
        if not any(isinstance(a, fx.Node) for a in args):
            return fn(*args)
        node = self.cap.graph.create_node("call_function", fn, args, {})
        node.meta["val"] = fn(*[a.meta["val"] if isinstance(a, fx.Node) else a for a in args])
        node.meta["stack"] = self.cap.user_stack()
        return node

    def visit_integer(self, value: int) -> int:
        return value

    def visit_symbol(self, symbol: Any) -> fx.Node:
        return self.cap.size_placeholder(symbol)

    def visit_sum(self, terms: Any, const: int) -> Any:
        total: Any = None
        for monomial, c in terms:
            t = self.build(monomial)
            if c != 1:
                t = self._op(operator.mul, t, c)
            total = t if total is None else self._op(operator.add, total, t)
        return total if not const else self._op(operator.add, total, const)

    def visit_product(self, factors: Any) -> Any:
        total = self.build(factors[0])
        for f in factors[1:]:
            total = self._op(operator.mul, total, self.build(f))
        return total

    def visit_floordiv(self, num: Any, den: Any) -> Any:
        return self._op(operator.floordiv, self.build(num), self.build(den))

    def visit_mod(self, num: Any, den: Any) -> Any:
        return self._op(operator.mod, self.build(num), self.build(den))

    def visit_min(self, args: Any) -> Any:
        import torch

        total = self.build(args[0])
        for a in args[1:]:
            total = self._op(torch.sym_min, total, self.build(a))
        return total

    def visit_max(self, args: Any) -> Any:
        import torch

        total = self.build(args[0])
        for a in args[1:]:
            total = self._op(torch.sym_max, total, self.build(a))
        return total
