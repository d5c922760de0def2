"""Interned immutable integer expressions: sizes, strides and the index arithmetic of loops.

Between: shape rules, guards and index expressions -> printers, evaluation, SymPy.
Keeps:   structural equality is identity (every node comes from one table, `interning`), every node is canonical:
         a sum of integer multiples of monomials plus a constant; a monomial is an atom or a sorted product of atoms;
         an atom is a symbol, a floor division, a modulo, a minimum or a maximum.
Division and modulo are Python's; their rules are in `expr_division`, bounds and what they allow in `expr_bounds`, SymPy in
`expr_sympy`: all their names are here too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, TypeVar, Union

from lamina_dynshape.interning import NodeTable
from lamina_dynshape.support.memory import at_release

__all__ = [
    "Expr", "ExprVisitor", "FloorDiv", "Integer", "Max", "Min", "Mod", "Product", "Sum", "Symbol",
    "as_expr", "bounds", "ceildiv", "emax", "emin", "exact_div", "floordiv", "from_sympy", "integer", "mod", "product",
    "simplify", "symbol", "to_sympy",
]

T = TypeVar("T")
IntLike = Union[int, "Expr"]


class ExprVisitor(Protocol[T]):
    """What a printer or evaluator provides; `Expr.visit` calls the method of the node's kind."""

    def visit_integer(self, value: int) -> T: ...
    def visit_symbol(self, symbol: Symbol) -> T: ...
    def visit_sum(self, terms: tuple[tuple[Expr, int], ...], const: int) -> T: ...
    def visit_product(self, factors: tuple[Expr, ...]) -> T: ...
    def visit_floordiv(self, num: Expr, den: Expr) -> T: ...
    def visit_mod(self, num: Expr, den: Expr) -> T: ...
    def visit_min(self, args: tuple[Expr, ...]) -> T: ...
    def visit_max(self, args: tuple[Expr, ...]) -> T: ...


class Expr:
    """A node. Build nodes with operators and the functions of this module, never with the classes."""

    __slots__ = ("__weakref__", "_free", "key")
    key: str  # Python text; also the order of terms, so that printing does not depend on creation order
    is_const = False

    # -- arithmetic -------------------------------------------------------------------------------------------------
    def __add__(self, other: IntLike) -> Expr:
        return _add(self, other)

    __radd__ = __add__

    def __neg__(self) -> Expr:
        return _scale(self, -1)

    def __sub__(self, other: IntLike) -> Expr:
        return _add(self, -other)

    def __rsub__(self, other: IntLike) -> Expr:
        return _add(_scale(self, -1), other)

    def __mul__(self, other: IntLike) -> Expr:
        return _mul(self, other)

    __rmul__ = __mul__

    def __floordiv__(self, other: IntLike) -> Expr:
        return floordiv(self, other)

    def __rfloordiv__(self, other: IntLike) -> Expr:
        return floordiv(other, self)

    def __mod__(self, other: IntLike) -> Expr:
        return mod(self, other)

    def __rmod__(self, other: IntLike) -> Expr:
        return mod(other, self)

    def __pow__(self, exponent: int) -> Expr:
        if not isinstance(exponent, int) or exponent < 0:
            raise TypeError(f"exponent must be a natural number, got {exponent!r}")
        result: Expr = ONE
        for _ in range(exponent):
            result = result * self
        return result

    # -- questions --------------------------------------------------------------------------------------------------
    @property
    def const(self) -> int:
        """The integer this node is; TypeError when it is not one."""
        raise TypeError(f"not a constant: {self}")

    @property
    def args(self) -> tuple[Expr, ...]:
        """Direct operands, coefficients left out."""
        return ()

    @property
    def free_symbols(self) -> frozenset[Symbol]:
        free = self._free
        if free is None:
            free = self._free = frozenset().union(*(a.free_symbols for a in self.args))
        return free

    def coeff(self, sym: Symbol) -> int | None:
        """Integer coefficient of `sym` if the rest does not contain it (0 when absent), else None."""
        terms, _ = _terms(self)
        found = 0
        for monomial, c in terms:
            if monomial is sym:
                found = c
            elif sym in monomial.free_symbols:
                return None
        return found

    def linear_in(self, syms: Iterable[Symbol]) -> dict[Symbol, int] | None:
        """Integer coefficient of each of `syms`, None when one occurs in any other way. The rest is free of them."""
        wanted = set(syms)
        result = dict.fromkeys(wanted, 0)
        terms, _ = _terms(self)
        for monomial, c in terms:
            if monomial in wanted:
                result[monomial] = c  # type: ignore[index]
            elif not wanted.isdisjoint(monomial.free_symbols):
                return None
        return result

    def terms(self) -> tuple[tuple[tuple[Expr, int], ...], int]:
        """((monomial, coefficient), ...), constant."""
        return _terms(self)

    def subs(self, mapping: Mapping[Symbol, IntLike]) -> Expr:
        """Replace symbols; the result is canonical again."""
        if not mapping or self.free_symbols.isdisjoint(mapping):
            return self
        return _rebuild(self, lambda s: as_expr(mapping[s]) if s in mapping else s, {})

    def evaluate(self, values: Mapping[Symbol, int]) -> int:
        """The integer this is when each symbol has the given value."""
        raise NotImplementedError

    def visit(self, visitor: ExprVisitor[T]) -> T:
        raise NotImplementedError

    def __repr__(self) -> str:
        return self.key

    __str__ = __repr__

    def __copy__(self) -> Expr:
        return self

    def __deepcopy__(self, memo: Any) -> Expr:
        return self

    def __bool__(self) -> bool:
        raise TypeError(f"the truth of a symbolic integer is not known here: {self}")


class Integer(Expr):
    __slots__ = ("value",)
    value: int
    is_const = True

    @property
    def const(self) -> int:
        return self.value

    def evaluate(self, values: Mapping[Symbol, int]) -> int:
        return self.value

    def visit(self, visitor: ExprVisitor[T]) -> T:
        return visitor.visit_integer(self.value)

    def __bool__(self) -> bool:
        return self.value != 0

    def __reduce__(self) -> Any:
        return integer, (self.value,)


class Symbol(Expr):
    """A name for an integer. What is known about it (hint, range, source) is kept by its owner, not here."""

    __slots__ = ("name",)
    name: str

    @property
    def free_symbols(self) -> frozenset[Symbol]:
        return self._free

    def evaluate(self, values: Mapping[Symbol, int]) -> int:
        return values[self]

    def visit(self, visitor: ExprVisitor[T]) -> T:
        return visitor.visit_symbol(self)

    def __reduce__(self) -> Any:
        return symbol, (self.name,)


class Sum(Expr):
    """sum(coefficient * monomial) + const; at least one term, and not a lone monomial."""

    __slots__ = ("const_term", "pairs")
    pairs: tuple[tuple[Expr, int], ...]
    const_term: int

    @property
    def args(self) -> tuple[Expr, ...]:
        return tuple(m for m, _ in self.pairs)

    def evaluate(self, values: Mapping[Symbol, int]) -> int:
        total = self.const_term
        for monomial, c in self.pairs:
            total += c * monomial.evaluate(values)
        return total

    def visit(self, visitor: ExprVisitor[T]) -> T:
        return visitor.visit_sum(self.pairs, self.const_term)

    def __reduce__(self) -> Any:
        return _sum_of, (self.pairs, self.const_term)


class Product(Expr):
    """Two or more atoms, sorted; powers are repetitions."""

    __slots__ = ("factors",)
    factors: tuple[Expr, ...]

    @property
    def args(self) -> tuple[Expr, ...]:
        return self.factors

    def evaluate(self, values: Mapping[Symbol, int]) -> int:
        return math.prod(f.evaluate(values) for f in self.factors)

    def visit(self, visitor: ExprVisitor[T]) -> T:
        return visitor.visit_product(self.factors)

    def __reduce__(self) -> Any:
        return product, (self.factors,)


class _Division(Expr):
    __slots__ = ("den", "num")
    num: Expr
    den: Expr

    @property
    def args(self) -> tuple[Expr, ...]:
        return self.num, self.den


class FloorDiv(_Division):
    """num // den, rounded towards minus infinity."""

    __slots__ = ()

    def evaluate(self, values: Mapping[Symbol, int]) -> int:
        return self.num.evaluate(values) // self.den.evaluate(values)

    def visit(self, visitor: ExprVisitor[T]) -> T:
        return visitor.visit_floordiv(self.num, self.den)

    def __reduce__(self) -> Any:
        return floordiv, (self.num, self.den)


class Mod(_Division):
    """num % den, with the sign of den."""

    __slots__ = ()

    def evaluate(self, values: Mapping[Symbol, int]) -> int:
        return self.num.evaluate(values) % self.den.evaluate(values)

    def visit(self, visitor: ExprVisitor[T]) -> T:
        return visitor.visit_mod(self.num, self.den)

    def __reduce__(self) -> Any:
        return mod, (self.num, self.den)


class _Extremum(Expr):
    __slots__ = ("operands",)
    operands: tuple[Expr, ...]

    @property
    def args(self) -> tuple[Expr, ...]:
        return self.operands


class Min(_Extremum):
    __slots__ = ()

    def evaluate(self, values: Mapping[Symbol, int]) -> int:
        return min(a.evaluate(values) for a in self.operands)

    def visit(self, visitor: ExprVisitor[T]) -> T:
        return visitor.visit_min(self.operands)

    def __reduce__(self) -> Any:
        return emin, self.operands


class Max(_Extremum):
    __slots__ = ()

    def evaluate(self, values: Mapping[Symbol, int]) -> int:
        return max(a.evaluate(values) for a in self.operands)

    def visit(self, visitor: ExprVisitor[T]) -> T:
        return visitor.visit_max(self.operands)

    def __reduce__(self) -> Any:
        return emax, self.operands


# -- interning --------------------------------------------------------------------------------------------------------
_INTEGERS: dict[int, Integer] = {}
_NODES = NodeTable()
_EMPTY: frozenset[Symbol] = frozenset()


def integer(value: int) -> Integer:
    """The node of a constant."""
    node = _INTEGERS.get(value)
    if node is None:
        value = int(value)
        node = object.__new__(Integer)
        node.value, node.key, node._free = value, str(value), _EMPTY
        _INTEGERS[value] = node
    return node


ZERO = integer(0)
ONE = integer(1)


def symbol(name: str) -> Symbol:
    """The symbol of that name; equal names are one symbol."""
    node = _NODES[name]
    if node is None:
        node = object.__new__(Symbol)
        node.name = node.key = name
        node._free = frozenset((node,))
        _NODES[name] = node
    return node  # type: ignore[return-value]


def as_expr(x: IntLike) -> Expr:
    """Node of an int; an Expr stays."""
    return x if isinstance(x, Expr) else integer(x)


def _terms(e: Expr) -> tuple[tuple[tuple[Expr, int], ...], int]:
    if type(e) is Sum:
        return e.pairs, e.const_term
    if type(e) is Integer:
        return (), e.value
    return ((e, 1),), 0


def _by_key(pair: tuple[Expr, int]) -> str:
    return pair[0].key


def _sum_of(pairs: Iterable[tuple[Expr, int]], const: int) -> Expr:
    """Canonical node of pairs with distinct monomials; zero coefficients are dropped."""
    kept = [p for p in pairs if p[1]]
    if not kept:
        return integer(const)
    if len(kept) == 1:
        if const == 0 and kept[0][1] == 1:
            return kept[0][0]
    else:
        kept.sort(key=_by_key)
    key = (tuple(kept), const)
    node = _NODES[key]
    if node is None:
        node = object.__new__(Sum)
        node.pairs, node.const_term = key
        node._free = None
        node.key = _sum_text(node.pairs, const)
        _NODES[key] = node
    return node


def _make(cls: type, key: tuple[Any, ...], text: str, **fields: Any) -> Expr:
    node = _NODES[key]
    if node is None:
        node = object.__new__(cls)
        for name, value in fields.items():
            setattr(node, name, value)
        node._free, node.key = None, text
        _NODES[key] = node
    return node


def _sum_text(pairs: tuple[tuple[Expr, int], ...], const: int) -> str:
    text = ""
    for monomial, c in pairs:
        plain = isinstance(monomial, Product) or (abs(c) == 1 and (c > 0 or text))
        body = monomial.key if plain else _operand_text(monomial)
        text += (" - " if c < 0 else " + ") + (body if abs(c) == 1 else f"{abs(c)}*{body}")
    if const:
        text += f" - {-const}" if const < 0 else f" + {const}"
    return "-" + text[3:] if text.startswith(" - ") else text[3:]


def _operand_text(e: Expr) -> str:
    """Text of an operand of * // %: those associate to the left, so only a lone name goes without parentheses."""
    return e.key if isinstance(e, (Symbol, _Extremum)) or (type(e) is Integer and e.value >= 0) else f"({e.key})"


# -- sums and products -------------------------------------------------------------------------------------------------
_ADD: dict[tuple[Expr, Any], Expr] = {}
_MUL: dict[tuple[Expr, Any], Expr] = {}
at_release(_ADD.clear)
at_release(_MUL.clear)


def _add(a: Expr, b: IntLike) -> Expr:
    if b is ZERO or (type(b) is int and b == 0):
        return a
    found = _ADD.get((a, b))
    if found is None:
        pairs, const = _terms(a)
        other, other_const = _terms(as_expr(b))
        merged = dict(pairs)
        for monomial, c in other:
            merged[monomial] = merged.get(monomial, 0) + c
        found = _ADD[a, b] = _sum_of(merged.items(), const + other_const)
    return found


def _scale(e: Expr, k: int) -> Expr:
    if k == 1:
        return e
    pairs, const = _terms(e)
    return _sum_of([(m, c * k) for m, c in pairs], const * k) if k else ZERO


def _mul(a: Expr, b: IntLike) -> Expr:
    if type(b) is int:
        return _scale(a, b)
    found = _MUL.get((a, b))
    if found is None:
        b = as_expr(b)
        if type(b) is Integer:
            found = _scale(a, b.value)
        elif type(a) is Integer:
            found = _scale(b, a.value)
        else:
            found = _expand(a, b)
        _MUL[a, b] = found
    return found


def _expand(a: Expr, b: Expr) -> Expr:
    left, left_const = _terms(a)
    right, right_const = _terms(b)
    merged: dict[Expr, int] = {}
    for m, c in left:
        for n, d in right:
            p = _monomial(_factors(m) + _factors(n))
            merged[p] = merged.get(p, 0) + c * d
        if right_const:
            merged[m] = merged.get(m, 0) + c * right_const
    if left_const:
        for n, d in right:
            merged[n] = merged.get(n, 0) + d * left_const
    return _sum_of(merged.items(), left_const * right_const)


def _factors(monomial: Expr) -> tuple[Expr, ...]:
    return monomial.factors if type(monomial) is Product else (monomial,)


def _monomial(factors: tuple[Expr, ...]) -> Expr:
    """Product of atoms; ONE for none."""
    if len(factors) < 2:
        return factors[0] if factors else ONE
    factors = tuple(sorted(factors, key=lambda f: f.key))
    return _make(Product, (Product, factors), "*".join(map(_operand_text, factors)), factors=factors)


def product(values: Iterable[IntLike]) -> Expr:
    """Product of any number of values; 1 for none."""
    result: IntLike = 1
    for v in values:
        result = result * v
    return as_expr(result)


# -- minimum and maximum ----------------------------------------------------------------------------------------------
def emin(*args: IntLike) -> Expr:
    """Smallest of the arguments."""
    return _extremum(Min, "emin", min, args)


def emax(*args: IntLike) -> Expr:
    """Largest of the arguments."""
    return _extremum(Max, "emax", max, args)


def _extremum(cls: type, name: str, pick: Any, args: Iterable[IntLike]) -> Expr:
    flat: dict[Expr, None] = {}
    for a in map(as_expr, args):
        flat.update(dict.fromkeys(a.operands if type(a) is cls else (a,)))
    kept = list(flat)
    for a in list(kept):  # of two that differ by a constant one is never chosen
        for b in kept:
            if a is not b and type(difference := a - b) is Integer and pick(difference.value, 0) == 0:
                kept.remove(a)
                break
    if not kept:
        raise TypeError(f"{name} of nothing")
    if len(kept) == 1:
        return kept[0]
    operands = tuple(sorted(kept, key=lambda e: e.key))
    return _make(cls, (cls, operands), f"{name}({', '.join(e.key for e in operands)})", operands=operands)


def _rebuild(e: Expr, leaf: Any, memo: dict[Expr, Expr]) -> Expr:
    """The same tree with each symbol replaced by `leaf(symbol)`."""
    found = memo.get(e)
    if found is not None:
        return found
    if type(e) is Symbol:
        result = leaf(e)
    elif type(e) is Integer:
        result = e
    elif type(e) is Sum:
        result = integer(e.const_term)
        for monomial, c in e.pairs:
            result = result + _scale(_rebuild(monomial, leaf, memo), c)
    else:
        result = _combine(e, [_rebuild(a, leaf, memo) for a in e.args])
    memo[e] = result
    return result


def _combine(e: Expr, args: list[Expr]) -> Expr:
    """The node of e's kind (not a sum) over new operands."""
    if type(e) is Product:
        return product(args)
    if type(e) is FloorDiv:
        return floordiv(*args)
    if type(e) is Mod:
        return mod(*args)
    return emin(*args) if type(e) is Min else emax(*args)


from lamina_dynshape.expr_division import ceildiv, exact_div, floordiv, mod  # noqa: E402  (they need the node classes above)
from lamina_dynshape.expr_bounds import bounds, simplify  # noqa: E402
from lamina_dynshape.expr_sympy import from_sympy, to_sympy  # noqa: E402
