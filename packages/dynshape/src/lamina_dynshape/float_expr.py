"""Real numbers computed from symbolic sizes: scale factors, `1 / math.sqrt(d)`, `s0 / 2`.

Kept as trees and evaluated, never solved. Where the value is a fraction with constant denominator (`rational`), rounding and
comparison stay symbolic, in integers; elsewhere they specialise the sizes.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lamina_dynshape.boolean import SIGNS, BoolExpr, _constant
from lamina_dynshape.expr import Expr, Product, Symbol, emax
from lamina_dynshape.interning import NodeTable

__all__ = ["FUNCTIONS", "FloatExpr", "FloatRelation", "float_const", "float_of", "float_op", "float_relation"]

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "truediv": operator.truediv, "mod": operator.mod,
    "floordiv": operator.floordiv, "pow": operator.pow, "neg": operator.neg, "abs": abs, "min": min, "max": max,
    # Python takes these from the C library, as generated code does.
    "acos": math.acos, "acosh": math.acosh, "asin": math.asin, "asinh": math.asinh, "atan": math.atan, "atan2": math.atan2, "atanh": math.atanh,
    "copysign": math.copysign, "cos": math.cos, "cosh": math.cosh, "exp": math.exp, "expm1": math.expm1, "fmod": math.fmod, "log": math.log,
    "log10": math.log10, "log1p": math.log1p, "log2": math.log2, "sin": math.sin, "sinh": math.sinh, "sqrt": math.sqrt, "tan": math.tan, "tanh": math.tanh,
}  # fmt: skip
_SIGNS = {"add": "+", "sub": "-", "mul": "*", "truediv": "/", "mod": "%", "floordiv": "//", "pow": "**"}
_COMPARE = {"eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "le": operator.le, "gt": operator.gt, "ge": operator.ge}
_NEGATED = {"eq": "ne", "ne": "eq", "lt": "ge", "ge": "lt", "gt": "le", "le": "gt"}


class FloatExpr:
    """op "const" (args: the float), "real" (a Symbol), "int" (an Expr) or a function of other FloatExprs. Interned."""

    __slots__ = ("__weakref__", "args", "free_symbols", "key", "op")
    op: str
    args: tuple[Any, ...]
    free_symbols: frozenset[Symbol]
    key: str

    def evaluate(self, values: Mapping[Symbol, int]) -> float:
        if self.op == "const":
            return self.args[0]
        if self.op == "real":
            return values[self.args[0]]
        if self.op == "int":
            return float(self.args[0].evaluate(values))
        return FUNCTIONS[self.op](*(a.evaluate(values) for a in self.args))

    def leaves(self) -> Iterator[FloatExpr]:
        """The constants, integers and symbols it is computed from."""
        if self.op in ("const", "real", "int"):
            yield self
        else:
            for a in self.args:
                yield from a.leaves()

    def map(self, function: Callable[[Expr], Expr]) -> FloatExpr:
        """`function` applied to the integer expressions at the leaves."""
        if self.op in ("const", "real"):
            return self
        if self.op == "int":
            return float_of(function(self.args[0]))
        return float_op(self.op, *(a.map(function) for a in self.args))

    @property
    def rational(self) -> tuple[Expr, int] | None:
        """(numerator, denominator > 0) when the value is exactly that fraction up to rounding of one division."""
        if self.op == "int":
            return self.args[0], 1
        if self.op in ("const", "real"):
            return None
        if self.op == "neg":
            inner = self.args[0].rational
            return inner and (-inner[0], inner[1])
        if self.op in ("mul", "truediv") and self.args[1].op == "const":
            return _scaled(self.args[0].rational, self.args[1].args[0], self.op == "truediv")
        if self.op == "mul" and self.args[0].op == "const":
            return _scaled(self.args[1].rational, self.args[0].args[0], False)
        if self.op == "truediv" and self.args[1].op == "int" and self.args[1].args[0].is_const:
            return _scaled(self.args[0].rational, float(self.args[1].args[0].const), True)
        return None

    def text(self, name: Any = None) -> str:
        from lamina_dynshape.boolean import expr_text

        if self.op == "const":
            return repr(self.args[0])
        if self.op == "real":
            return name(self.args[0]) if name else self.args[0].name
        if self.op == "int":
            return expr_text(self.args[0], name) if isinstance(self.args[0], Symbol) else f"({expr_text(self.args[0], name)})"
        if self.op in _SIGNS:
            return f"({self.args[0].text(name)} {_SIGNS[self.op]} {self.args[1].text(name)})"
        return f"{self.op}({', '.join(a.text(name) for a in self.args)})"

    def __repr__(self) -> str:
        return self.key

    def __deepcopy__(self, memo: Any) -> FloatExpr:
        return self

    def __reduce__(self) -> Any:
        return _make, (self.op, self.args)


def _scaled(inner: tuple[Expr, int] | None, by: float, divide: bool) -> tuple[Expr, int] | None:
    if inner is None or by == 0 or not math.isfinite(by):
        return None
    num, den = by.as_integer_ratio()
    if divide:
        num, den = (den, num) if num > 0 else (-den, -num)
    if abs(num) > 1 << 20 or den > 1 << 20:
        return None  # not a fraction that somebody meant; products would round
    return inner[0] * num, inner[1] * den


_NODES = NodeTable()


def _make(op: str, args: tuple[Any, ...]) -> FloatExpr:
    key = (op, args) if op != "const" else (op, args[0].hex())
    node = _NODES[key]
    if node is None:
        node = object.__new__(FloatExpr)
        node.op, node.args = op, args
        node.free_symbols = frozenset().union(*(a.free_symbols for a in args)) if op != "const" else frozenset()
        node.key = node.text()
        _NODES[key] = node
    return node


def float_const(value: float) -> FloatExpr:
    return _make("const", (float(value),))


def float_symbol(s: Symbol) -> FloatExpr:
    """A real number known only by name."""
    return _make("real", (s,))


def float_of(e: Expr) -> FloatExpr:
    """The integer expression as a real number."""
    return float_const(float(e.const)) if e.is_const else _make("int", (e,))


def float_op(op: str, *args: FloatExpr) -> FloatExpr:
    if all(a.op == "const" for a in args):
        return float_const(float(FUNCTIONS[op](*(a.args[0] for a in args))))
    if op == "truediv" and args[0] is args[1] and args[0].op == "int":  # not zero, or Python has raised
        return float_const(1.0)
    if op == "sqrt" and args[0].op == "int" and (root := _square_root(args[0].args[0])) is not None:
        return float_of(emax(root, -root))
    return _make(op, args)


def _square_root(e: Expr) -> Expr | None:
    """The expression whose square a product is."""
    factors = sorted(e.args, key=str) if isinstance(e, Product) else []
    if not factors or factors[::2] != factors[1::2]:
        return None
    return math.prod(factors[2::2], start=factors[0])


def _program(e: FloatExpr, name: Callable[[Symbol], str]) -> str:
    from lamina_dynshape.boolean import expr_text

    if e.op in ("const", "real"):
        return f"({e.args[0]!r})" if e.op == "const" else name(e.args[0])
    if e.op == "int":
        return f"float({expr_text(e.args[0], name)})"
    args = [_program(a, name) for a in e.args]
    return f"({f' {_SIGNS[e.op]} '.join(args)})" if e.op in _SIGNS else f"{e.op}({', '.join(args)})"


class FloatRelation(BoolExpr):
    """Comparison of real numbers; decided by evaluation only."""

    __slots__ = ("a", "b", "op")
    op: str
    a: FloatExpr
    b: FloatExpr

    @property
    def parts(self) -> tuple[Any, ...]:
        return self.a, self.b

    def evaluate(self, values: Mapping[Symbol, int]) -> bool:
        return _COMPARE[self.op](self.a.evaluate(values), self.b.evaluate(values))

    def compiled(self, symbols: tuple[Symbol, ...]) -> Callable[..., bool]:
        """`evaluate` as a function of the symbols' values: some ten times faster."""
        names = {s: f"x{i}" for i, s in enumerate(symbols)}
        sides = [_program(e, names.__getitem__) for e in (self.a, self.b)]
        return eval(f"lambda {', '.join(names.values())}: {f' {SIGNS[self.op]} '.join(sides)}", {**FUNCTIONS, "inf": math.inf, "nan": math.nan})  # noqa: S307  (text of our own)

    def map(self, function: Any) -> BoolExpr:
        return float_relation(self.op, self.a.map(function), self.b.map(function))

    def _text(self, name: Any) -> str:
        return f"{self.a.text(name)} {SIGNS[self.op]} {self.b.text(name)}"

    def __reduce__(self) -> Any:
        return float_relation, (self.op, self.a, self.b)


_MIRRORED = {"eq": "eq", "ne": "ne", "lt": "gt", "gt": "lt", "le": "ge", "ge": "le"}


def _integer_relation(op: str, a: FloatExpr, b: FloatExpr) -> BoolExpr | None:
    """The same comparison without floats, where both sides are fractions: guards are checked in integers."""
    from lamina_dynshape import boolean

    if op in ("eq", "ne") and b.op == "const" and b.args[0] == 0 and _is_positive_power(a):
        a = a.args[0]
    left = a.rational
    if left is None:
        return None
    if b.op != "const":
        right = b.rational
        return right and getattr(boolean, op)(left[0] * right[1], right[0] * left[1])
    e, value = left[0], b.args[0] * left[1]
    if not math.isfinite(value) or abs(value) > 1 << 50:
        return None
    if left[1] != 1 and value != int(value):
        return None
    if op in ("eq", "ne"):
        return getattr(boolean, op)(e, int(value)) if value == int(value) else _constant(op == "ne")
    if op in ("lt", "ge"):  # e < 2.5 is e < 3
        return getattr(boolean, op)(e, math.ceil(value))
    return getattr(boolean, op)(e, math.floor(value))


def _is_positive_power(a: FloatExpr) -> bool:
    """Whether a number is zero where the integer that it is a power of is."""
    power = a.op == "sqrt" or a.op == "pow" and a.args[1].op == "const" and a.args[1].args[0] > 0
    return power and a.args[0].op == "int"


def float_relation(op: str, a: FloatExpr, b: FloatExpr) -> BoolExpr:
    if a.op == b.op == "const":
        return _constant(_COMPARE[op](a.args[0], b.args[0]))
    if a.op == "const":
        a, b, op = b, a, _MIRRORED[op]
    exact = _integer_relation(op, a, b)
    if exact is not None:
        return exact
    found = _NODES["relation", op, a, b]
    if found is None:
        found = object.__new__(FloatRelation)
        found.op, found.a, found.b, found._free = op, a, b, a.free_symbols | b.free_symbols
        found.key = found._text(None)
        _NODES["relation", op, a, b] = found
        found._negation = None
        # NaN does not come from sizes: the negation of a comparison is the opposite comparison
        found._negation = float_relation(_NEGATED[op], a, b)
    return found
