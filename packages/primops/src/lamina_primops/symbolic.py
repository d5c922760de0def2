"""Symbolic sizes in FX graphs: one node per interned expression.

A graph argument that is a `torch.SymInt` must be a node. `SymbolNodes` makes it: expressions that a placeholder already carries are that placeholder,
others become `operator` arithmetic over symbols; a symbol that no placeholder carries is read off a tensor input with `aten.sym_size`.
Equal expressions share a node.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import torch
from lamina_dynshape import boolean
from lamina_dynshape.expr import Expr, Symbol
from lamina_dynshape.float_expr import FloatRelation
from lamina_dynshape.real_functions import GRAPH_FUNCTIONS
from lamina_dynshape.sym_node import BoolNode, FloatNode
from lamina_dynshape.support.errors import InternalError
from torch import fx

from .fxtools import add_node

__all__ = ["SymbolNodes", "is_symbolic", "known_equal", "plain", "size_key"]

_SYMBOLIC = (torch.SymInt, torch.SymFloat, torch.SymBool)


def is_symbolic(x: Any) -> bool:
    """Whether `x` is a symbolic number (not a plain one)."""
    return isinstance(x, _SYMBOLIC)


def size_key(x: Any) -> Any:
    """Hashable identity of a size: the interned expression of a SymInt, the int itself otherwise."""
    if type(x) is int:
        return x
    if isinstance(x, torch.SymInt):
        from lamina_dynshape import expr_of

        e = expr_of(x)
        return e.const if e.is_const else e
    return x


def plain(x: Any) -> Any:
    """A SymInt whose expression is constant as an int; anything else as it is."""
    if type(x) is int:
        return x
    key = size_key(x)
    return key if type(key) is int else x


def known_equal(a: Any, b: Any) -> bool:
    """Whether two sizes are certain to be equal: the same expression, or equal by what the environment knows. Records no guard."""
    if a is b or (type(a) is int and type(b) is int):
        return a is b or a == b
    left, right = size_key(a), size_key(b)
    if left is right or left == right:
        return True
    env = getattr(a.node if type(a) is not int else b.node, "env", None)
    return env is not None and (bool(env.known_eq(left, right)) or env.simplify(left) is env.simplify(right))


class SymbolNodes:
    """The nodes of one graph that stand for symbolic integers. `sym_int(expr)` makes the value for a new node's `meta["val"]`."""

    def __init__(self, graph: fx.Graph, sym_int: Callable[[Expr], Any], annotate: Callable[[fx.Node], None] = lambda node: None) -> None:
        self.graph = graph
        self._sym_int = sym_int
        self._annotate = annotate
        self._nodes: dict[Expr, fx.Node] = {}
        self._dims: dict[Expr, tuple[fx.Node, int]] = {}
        self._others: dict[Any, Any] = {}  # real numbers and conditions, by expression

    def bind(self, value: Any, node: fx.Node) -> None:
        """`node` yields the symbolic number `value`."""
        key = size_key(value)
        if isinstance(key, Expr):
            self._nodes.setdefault(key, node)
        elif is_symbolic(value):
            self._others.setdefault(value.node.expr, node)

    def bind_sizes(self, sizes: Any, node: fx.Node) -> None:
        """The tensor `node` has these sizes: symbols among them can be read off it."""
        for d, s in enumerate(sizes):
            if type(s) is not int:
                key = size_key(s)
                if isinstance(key, Expr):
                    self._dims.setdefault(key, (node, d))

    def node_of(self, value: Any) -> Any:
        """Node for a symbolic number, or the plain number when it is constant."""
        key = size_key(value)
        if isinstance(key, Expr):
            return self._of_expr(key)
        if not is_symbolic(value) or type(key) is int:
            return key
        return self._real(value.node) if isinstance(value, torch.SymFloat) else self._truth(value.node)

    def _real(self, node: Any) -> Any:
        """A real number."""
        e = node.expr
        if e.op == "const":
            return e.args[0]
        if e not in self._others:
            if e.op == "int":
                self._others[e] = self._call(torch.SymFloat(node), torch.sym_float, self._of_expr(e.args[0]))
            elif e.op == "real":
                raise InternalError(f"no node yields the number {e}")
            else:
                self._others[e] = self._call(torch.SymFloat(node), GRAPH_FUNCTIONS[e.op], *[self._real(FloatNode(a, node.env)) for a in e.args])
        return self._others[e]

    def _truth(self, node: Any) -> Any:
        """A condition."""
        e, env = node.expr, node.env
        if e not in self._others:
            if isinstance(e, boolean.Relation):
                self._others[e] = self._call(torch.SymBool(node), getattr(operator, e.kind), self._of_expr(e.e), 0)
            elif isinstance(e, FloatRelation):
                self._others[e] = self._call(torch.SymBool(node), getattr(operator, e.op), self._real(FloatNode(e.a, env)), self._real(FloatNode(e.b, env)))
            elif isinstance(e, (boolean.And, boolean.Or)):
                join = operator.and_ if isinstance(e, boolean.And) else operator.or_
                self._others[e] = functools.reduce(lambda a, b: self._call(join(a.meta["val"], b.meta["val"]), join, a, b), [self._truth(BoolNode(o, env)) for o in e.operands])
            else:
                return e is boolean.TRUE
        return self._others[e]

    def _call(self, value: Any, target: Any, *args: Any) -> fx.Node:
        """A node that computes `value`; the call itself may ask what makes sizes constant (`SymFloat.__pow__`: whether its base is negative)."""
        node = add_node(self.graph, "call_function", target, args, {}, target.__name__)
        node.meta["val"] = value
        self._annotate(node)
        return node

    def _of_expr(self, e: Expr) -> Any:
        if e.is_const:
            return e.const
        node = self._nodes.get(e)
        if node is None:
            node = self._nodes[e] = self._read(e) or (self._missing(e) if isinstance(e, Symbol) else e.visit(self))
        return node

    def _read(self, e: Expr) -> fx.Node | None:
        place = self._dims.get(e)
        return None if place is None else self._add(torch.ops.aten.sym_size.int, place, e)

    def _missing(self, e: Expr) -> fx.Node:
        raise InternalError(f"no input of the graph carries the symbol {e}")

    def _add(self, target: Any, args: tuple[Any, ...], e: Expr | None) -> Any:
        name = "size" if target is torch.ops.aten.sym_size.int else getattr(target, "__name__", "size")
        node = add_node(self.graph, "call_function", target, args, {}, name)
        node.meta["val"] = self._sym_int(e)
        self._annotate(node)
        return node

    # -- ExprVisitor: build the arithmetic bottom up; partial results are interned as well ---------------------------------
    def _apply(self, target: Any, a: Expr | int, b: Expr | int, e: Expr) -> Any:
        found = self._nodes.get(e)
        if found is None:
            args = tuple(self._of_expr(x) if isinstance(x, Expr) else x for x in (a, b))
            found = self._nodes[e] = self._add(target, args, e)
        return found

    def visit_integer(self, value: int) -> Any:
        return value

    def visit_symbol(self, symbol: Symbol) -> Any:
        return self._of_expr(symbol)

    def visit_sum(self, terms: tuple[tuple[Expr, int], ...], const: int) -> Any:
        total: Expr | None = None
        for monomial, c in sorted(terms, key=lambda t: t[1] < 0):
            if total is None:
                total = monomial * c
                if c != 1:
                    self._apply(operator.mul, monomial, c, total)
            elif c < 0:
                part = monomial * -c
                if c != -1:
                    self._apply(operator.mul, monomial, -c, part)
                before, total = total, total - part
                self._apply(operator.sub, before, part, total)
            else:
                part = monomial * c
                if c != 1:
                    self._apply(operator.mul, monomial, c, part)
                before, total = total, total + part
                self._apply(operator.add, before, part, total)
        assert total is not None
        if const:
            self._apply(operator.add, total, const, total + const)
            total = total + const
        return self._of_expr(total)

    def visit_product(self, factors: tuple[Expr, ...]) -> Any:
        total = factors[0]
        for f in factors[1:]:
            before, total = total, total * f
            self._apply(operator.mul, before, f, total)
        return self._of_expr(total)

    def visit_floordiv(self, num: Expr, den: Expr) -> Any:
        return self._apply(operator.floordiv, num, den, num // den)

    def visit_mod(self, num: Expr, den: Expr) -> Any:
        return self._apply(operator.mod, num, den, num % den)

    def _extremum(self, target: Any, fold: Callable[..., Expr], args: tuple[Expr, ...]) -> Any:
        total = args[0]
        for a in args[1:]:
            before, total = total, fold(total, a)
            self._apply(target, before, a, total)
        return self._of_expr(total)

    def visit_min(self, args: tuple[Expr, ...]) -> Any:
        from lamina_dynshape.expr import emin

        return self._extremum(torch.sym_min, emin, args)

    def visit_max(self, args: tuple[Expr, ...]) -> Any:
        from lamina_dynshape.expr import emax

        return self._extremum(torch.sym_max, emax, args)
