"""Symbolic numbers in the graph: placeholders for sizes and Python ints, arithmetic rebuilt from expressions.

Between: SymInts that the interpreter computed with -> graph nodes that compute the same from `size` placeholders.
Keeps:   one placeholder per symbol, one node per distinct expression.
"""

from __future__ import annotations

import functools
import operator
from typing import Any

import torch
from lamina_dynshape import boolean as B
from lamina_dynshape import expr_of
from lamina_dynshape.float_expr import FloatRelation
from lamina_dynshape.real_functions import GRAPH_FUNCTIONS
from lamina_dynshape.sym_node import FloatNode, _Node
from torch import fx

__all__ = ["node_of_expr"]

_RELATIONS = {name: getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")}


def node_of_expr(cap: Any, value: Any) -> Any:
    """The node that yields a symbolic number, or the number where it is a constant."""
    builder, e = _Builder(cap), value.node.expr if isinstance(value.node, _Node) else expr_of(value)
    if isinstance(value, torch.SymInt):
        return builder.build(e)
    return builder.real(value.node) if isinstance(value, torch.SymFloat) else builder.truth(e)


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

    def real(self, node: FloatNode) -> Any:
        """A real number."""
        e = node.expr
        if e.op == "const":
            return e.args[0]
        found = self.cap.size_nodes.get(e)
        if found is not None:
            return found
        if e.op == "int":
            made = self._op(torch.sym_float, self.build(e.args[0]))
        elif e.op == "real":
            made = self.cap.size_placeholder(e.args[0])
        else:
            made = self._op(GRAPH_FUNCTIONS[e.op], *[self.real(FloatNode(a, node.env)) for a in e.args])
        self.cap.size_nodes[e] = made
        return made

    def truth(self, e: Any) -> Any:
        """A condition."""
        found = self.cap.size_nodes.get(e)
        if found is not None:
            return found
        env = self.cap.mode.shape_env
        if isinstance(e, B.Relation):
            return self._op(_RELATIONS[e.kind], self.build(e.e), 0)
        if isinstance(e, FloatRelation):
            return self._op(_RELATIONS[e.op], self.real(FloatNode(e.a, env)), self.real(FloatNode(e.b, env)))
        if isinstance(e, (B.And, B.Or)):
            return functools.reduce(functools.partial(self._op, operator.and_ if isinstance(e, B.And) else operator.or_), map(self.truth, e.operands))
        return e is B.TRUE

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
        total = self.build(args[0])
        for a in args[1:]:
            total = self._op(torch.sym_min, total, self.build(a))
        return total

    def visit_max(self, args: Any) -> Any:
        total = self.build(args[0])
        for a in args[1:]:
            total = self._op(torch.sym_max, total, self.build(a))
        return total
