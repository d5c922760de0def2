"""Conditions over integer expressions: what shape guards say.

Interned and canonical like `expr`: every relation is `e >= 0`, `e == 0` or `e != 0` with its common factor divided out, so that
`2*s0 < 7` and `s0 <= 3` are one node; negation is pushed to the relations.
Text puts positive terms left and negative terms right of the sign and is Python: `s0 >= 2`, `s0 == 2*s1`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from lamina_dynshape.expr import Expr, Symbol, _sum_of, as_expr, integer
from lamina_dynshape.interning import NodeTable
from lamina_dynshape.support.memory import at_release

__all__ = ["FALSE", "TRUE", "And", "BoolExpr", "Or", "Relation", "conj", "disj", "eq", "ge", "gt", "le", "lt", "ne", "negate"]

IntLike = Any  # int | Expr


class BoolExpr:
    """A condition. Build it with the functions of this module."""

    __slots__ = ("__weakref__", "_free", "_negation", "key")
    key: str

    @property
    def parts(self) -> tuple[Any, ...]:
        return ()

    @property
    def free_symbols(self) -> frozenset[Symbol]:
        if self._free is None:
            self._free = frozenset().union(*(p.free_symbols for p in self.parts))
        return self._free

    def evaluate(self, values: Mapping[Symbol, int]) -> bool:
        raise NotImplementedError

    def map(self, function: Any) -> BoolExpr:
        """The condition with `function` applied to each integer expression (written as relation to zero)."""
        raise NotImplementedError

    def subs(self, mapping: Mapping[Symbol, IntLike]) -> BoolExpr:
        return self.map(lambda e: e.subs(mapping)) if not self.free_symbols.isdisjoint(mapping) else self

    def text(self, name: Any = None) -> str:
        """Python text; `name(symbol) -> str` chooses how symbols are written."""
        if name is None:
            return self.key
        return self._text(name)

    def _text(self, name: Any) -> str:
        raise NotImplementedError

    def __invert__(self) -> BoolExpr:
        return negate(self)

    def __and__(self, other: BoolExpr) -> BoolExpr:
        return conj(self, other)

    def __or__(self, other: BoolExpr) -> BoolExpr:
        return disj(self, other)

    def __repr__(self) -> str:
        return self.key

    __str__ = __repr__

    def __deepcopy__(self, memo: Any) -> BoolExpr:
        return self

    def __bool__(self) -> bool:
        raise TypeError(f"the truth of a symbolic condition is not known here: {self}")


class _Constant(BoolExpr):
    __slots__ = ("value",)

    def __init__(self, value: bool) -> None:
        self.value, self.key, self._free, self._negation = value, str(value), frozenset(), None

    def evaluate(self, values: Mapping[Symbol, int]) -> bool:
        return self.value

    def map(self, function: Any) -> BoolExpr:
        return self

    def _text(self, name: Any) -> str:
        return self.key

    def __bool__(self) -> bool:
        return self.value

    def __reduce__(self) -> Any:
        return _constant, (self.value,)


TRUE = _Constant(True)
FALSE = _Constant(False)


def _constant(value: bool) -> BoolExpr:
    return TRUE if value else FALSE


class Relation(BoolExpr):
    """`e >= 0` (kind "ge"), `e == 0` ("eq") or `e != 0` ("ne")."""

    __slots__ = ("e", "kind")
    kind: str
    e: Expr

    @property
    def parts(self) -> tuple[Any, ...]:
        return (self.e,)

    def evaluate(self, values: Mapping[Symbol, int]) -> bool:
        v = self.e.evaluate(values)
        return v >= 0 if self.kind == "ge" else v == 0 if self.kind == "eq" else v != 0

    def map(self, function: Any) -> BoolExpr:
        return _relation(self.kind, function(self.e))

    def _text(self, name: Any) -> str:
        return _relation_text(self.kind, self.e, name)

    def __reduce__(self) -> Any:
        return _relation, (self.kind, self.e)


class _Junction(BoolExpr):
    __slots__ = ("operands",)
    operands: tuple[BoolExpr, ...]

    @property
    def parts(self) -> tuple[Any, ...]:
        return self.operands


class And(_Junction):
    __slots__ = ()

    def evaluate(self, values: Mapping[Symbol, int]) -> bool:
        return all(o.evaluate(values) for o in self.operands)

    def map(self, function: Any) -> BoolExpr:
        return conj(*(o.map(function) for o in self.operands))

    def _text(self, name: Any) -> str:
        return " and ".join(f"({o._text(name)})" if isinstance(o, Or) else o._text(name) for o in self.operands)

    def __reduce__(self) -> Any:
        return conj, self.operands


class Or(_Junction):
    __slots__ = ()

    def evaluate(self, values: Mapping[Symbol, int]) -> bool:
        return any(o.evaluate(values) for o in self.operands)

    def map(self, function: Any) -> BoolExpr:
        return disj(*(o.map(function) for o in self.operands))

    def _text(self, name: Any) -> str:
        return " or ".join(f"({o._text(name)})" if isinstance(o, And) else o._text(name) for o in self.operands)

    def __reduce__(self) -> Any:
        return disj, self.operands


# -- construction -----------------------------------------------------------------------------------------------------
_NODES = NodeTable()


def _relation(kind: str, e: Expr) -> BoolExpr:
    pairs, const = e.terms()
    if not pairs:
        return _constant(const >= 0 if kind == "ge" else const == 0 if kind == "eq" else const != 0)
    g = math.gcd(*(c for _, c in pairs))
    if kind != "ge":
        if const % g:
            return _constant(kind == "ne")
        if pairs[0][1] < 0:
            g = -g
    if g != 1:
        e = _sum_of([(m, c // g) for m, c in pairs], const // g)
    node = _NODES[kind, e]
    if node is None:
        node = object.__new__(Relation)
        node.kind, node.e = kind, e
        node._free, node._negation = e.free_symbols, None
        node.key = _relation_text(kind, e, None)
        _NODES[kind, e] = node
    return node


_COMPARE: dict[Any, BoolExpr] = {}
at_release(_COMPARE.clear)


def ge(a: IntLike, b: IntLike = 0) -> BoolExpr:
    """a >= b"""
    key = ("ge", a, b)
    found = _COMPARE.get(key)
    if found is None:
        found = _COMPARE[key] = _relation("ge", as_expr(a) - b)
    return found


def eq(a: IntLike, b: IntLike = 0) -> BoolExpr:
    """a == b"""
    key = ("eq", a, b)
    found = _COMPARE.get(key)
    if found is None:
        found = _COMPARE[key] = _relation("eq", as_expr(a) - b)
    return found


def ne(a: IntLike, b: IntLike = 0) -> BoolExpr:
    """a != b"""
    return negate(eq(a, b))


def gt(a: IntLike, b: IntLike = 0) -> BoolExpr:
    """a > b"""
    return negate(ge(b, a))


def lt(a: IntLike, b: IntLike = 0) -> BoolExpr:
    """a < b"""
    return negate(ge(a, b))


def le(a: IntLike, b: IntLike = 0) -> BoolExpr:
    """a <= b"""
    return ge(b, a)


def negate(b: BoolExpr) -> BoolExpr:
    """not b"""
    if b._negation is None:
        if b is TRUE or b is FALSE:
            result = FALSE if b is TRUE else TRUE
        elif isinstance(b, Relation):
            result = _relation("ge", -b.e - 1) if b.kind == "ge" else _relation("ne" if b.kind == "eq" else "eq", b.e)
        else:
            result = (disj if isinstance(b, And) else conj)(*map(negate, b.operands))  # type: ignore[attr-defined]
        b._negation = result
    return b._negation


def conj(*conditions: BoolExpr) -> BoolExpr:
    """All of them."""
    return _junction(And, TRUE, FALSE, conditions)


def disj(*conditions: BoolExpr) -> BoolExpr:
    """Any of them."""
    return _junction(Or, FALSE, TRUE, conditions)


def _junction(cls: type, neutral: BoolExpr, absorbing: BoolExpr, conditions: Iterable[BoolExpr]) -> BoolExpr:
    flat: dict[BoolExpr, None] = {}
    for c in conditions:
        flat.update(dict.fromkeys(c.operands if type(c) is cls else (c,)))  # type: ignore[attr-defined]
    flat.pop(neutral, None)
    if absorbing in flat or any(negate(c) in flat for c in flat):
        return absorbing
    if len(flat) < 2:
        return next(iter(flat), neutral)
    operands = tuple(sorted(flat, key=lambda c: c.key))
    node = _NODES[cls, operands]
    if node is None:
        node = object.__new__(cls)
        node.operands = operands
        node._free = node._negation = None
        node.key = node._text(None)
        _NODES[cls, operands] = node
    return node


# -- text -------------------------------------------------------------------------------------------------------------
SIGNS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<", "eq": "==", "ne": "!="}  # in Python and C++


def _relation_text(kind: str, e: Expr, name: Any) -> str:
    pairs, const = e.terms()
    left = _sum_of([(m, c) for m, c in pairs if c > 0], 0)
    right = _sum_of([(m, -c) for m, c in pairs if c < 0], 0)
    sign = SIGNS[kind]
    if left.is_const:  # only negative terms: turn it round
        left, right, sign, const = right, integer(const), "<=" if kind == "ge" else sign, 0
    if const > 0 and not right.is_const:
        left = left + const
    else:
        right = right - const
    return f"{expr_text(left, name)} {sign} {expr_text(right, name)}"


class _Renamer:
    """Writes an expression with other names for its symbols."""

    def __init__(self, name: Any) -> None:
        self.name = name

    def visit_integer(self, value: int) -> str:
        return str(value)

    def visit_symbol(self, symbol: Symbol) -> str:
        return self.name(symbol)

    def visit_sum(self, terms: Any, const: int) -> str:
        parts = [f"{c}*{m.visit(self)}" if c != 1 else m.visit(self) for m, c in terms]
        return "(" + " + ".join(parts + ([str(const)] if const else [])) + ")"

    def visit_product(self, factors: Any) -> str:
        return "*".join(f.visit(self) for f in factors)

    def visit_floordiv(self, num: Any, den: Any) -> str:
        return f"({num.visit(self)} // {den.visit(self)})"

    def visit_mod(self, num: Any, den: Any) -> str:
        return f"({num.visit(self)} % {den.visit(self)})"

    def visit_min(self, args: Any) -> str:
        return f"min({', '.join(a.visit(self) for a in args)})"

    def visit_max(self, args: Any) -> str:
        return f"max({', '.join(a.visit(self) for a in args)})"


def expr_text(e: Expr, name: Any = None) -> str:
    """Python text of an expression; `name(symbol)` chooses how symbols are written."""
    if name is None:
        return e.key
    text = e.visit(_Renamer(name))
    return text[1:-1] if text.startswith("(") and text.endswith(")") and _balanced(text[1:-1]) else text


def _balanced(text: str) -> bool:
    depth = 0
    for ch in text:
        depth += (ch == "(") - (ch == ")")
        if depth < 0:
            return False
    return True
