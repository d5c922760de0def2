"""Symbolic numbers in the graph: placeholders for sizes and Python ints, arithmetic rebuilt from expressions.

Between: SymInts that the interpreter computed with -> graph nodes that compute the same from `size` placeholders.
Keeps:   one placeholder per symbol, one node per distinct expression.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from lamina_dynshape import expr_of, sym_float
from lamina_dynshape.float_expr import rebuild
from torch import fx

__all__ = ["node_of_expr"]


def node_of_expr(cap: Any, value: Any) -> Any:
    """The node that yields a symbolic number, or the number where it is a constant."""
    if isinstance(value, torch.SymFloat):
        return _node_of_float(cap, value)
    return _Builder(cap).build(expr_of(value))


def _node_of_float(cap: Any, value: torch.SymFloat) -> Any:
    """The arithmetic of a symbolic real number; where graphs have no word for it, its value, and the sizes in it become constants."""
    builder, env, e = _Builder(cap), value.node.env, value.node.expr

    def call(fn: Any, args: tuple[Any, ...], yields: Any) -> Any:
        found = cap.size_nodes.get(yields)
        if found is None:
            found = cap.size_nodes[yields] = builder.node(fn, args, sym_float(yields, env))
        return found

    try:
        return cap.size_nodes.get(e) or (call(torch.sym_float, (builder.build(e.args[0]),), e) if e.op == "int" else rebuild(e, builder.build, call))
    except KeyError:
        return float(value)


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
        return self.node(fn, args, fn(*[a.meta["val"] if isinstance(a, fx.Node) else a for a in args]))

    def node(self, fn: Any, args: tuple[Any, ...], val: Any) -> fx.Node:
        node = self.cap.graph.create_node("call_function", fn, args, {})
        node.meta["val"] = val
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
        total = self.build(args[0])
        for a in args[1:]:
            total = self._op(torch.sym_min, total, self.build(a))
        return total

    def visit_max(self, args: Any) -> Any:
        total = self.build(args[0])
        for a in args[1:]:
            total = self._op(torch.sym_max, total, self.build(a))
        return total
