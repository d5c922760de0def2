"""Numbers that a pure function of Python computes from numbers of outside: `round(0.3 * n)`, `2**step`, `math.gcd(n, 8)`.

Between: calls with symbolic numbers of which no expression tells the result -> numbers from outside that are computed anew at each call.
Keeps:   the symbols of the arguments stay free: the result is a symbol of its own, read by a `CallSource` over what the arguments are read from.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from lamina_dynshape.expr import Expr, Symbol
from lamina_dynshape.float_expr import FloatExpr

from .control import MISSING, native
from .draws import derived
from .guards import GuardKind
from .source import Source

__all__ = ["computed", "of_numbers", "of_operator"]

_SYMBOLIC = frozenset({torch.SymInt, torch.SymFloat})
_ROUNDING = (int, math.floor, math.ceil, math.trunc)  # exact, as expressions, where the argument is a fraction of integers
_OF_INTEGERS = frozenset({operator.pow, operator.lshift, operator.rshift, operator.and_, operator.or_, operator.xor,
                          operator.ipow, operator.ilshift, operator.irshift, operator.iand, operator.ior, operator.ixor})  # fmt: skip


@dataclass(frozen=True)
class _Computed:
    """`function(*args)` of a row of numbers, which stand for the symbols in the arguments; `text` tells apart arguments that are equal, such as 0.0 and -0.0."""

    function: Callable[..., Any]
    args: tuple[Any, ...] = field(compare=False)
    symbols: tuple[Symbol, ...]
    sources: tuple[Source, ...]
    text: str

    @property
    def __name__(self) -> str:
        return f"{self.text} of "

    def __call__(self, row: tuple[Any, ...]) -> Any:
        values = dict(zip(self.symbols, row))
        try:
            return self.function(*[a.evaluate(values) if isinstance(a, (Expr, FloatExpr)) else a for a in self.args])
        except (ArithmeticError, TypeError, ValueError):  # no number, so that the guard on its type fails
            return None


def of_numbers(cap: Any, fn: Any, args: Any, kwargs: Any) -> Any:
    """`fn(*args, **kwargs)` for a pure function of numbers, where its result is a number that later calls compute again; else MISSING."""
    found = derived(cap, fn, args, kwargs)
    return computed(cap, fn, args, kwargs) if found is MISSING else found


def of_operator(cap: Any, op: Any, a: Any, b: Any) -> Any:
    """`a op b` of numbers where no expression tells it: of bits, with a symbolic exponent, or a quotient of real numbers rounded down."""
    if type(a) not in _SYMBOLIC and type(b) not in _SYMBOLIC:
        return MISSING
    kinds = {type(a), type(b)}
    if op in (operator.floordiv, operator.ifloordiv):
        return computed(cap, op, (a, b), {}) if torch.SymFloat in kinds else MISSING
    if op not in _OF_INTEGERS or torch.SymInt not in kinds or op in (operator.pow, operator.ipow) and type(b) is not torch.SymInt:
        return MISSING
    return computed(cap, op, (a, b), {}) if kinds <= {bool, int, torch.SymInt} else MISSING


def computed(cap: Any, fn: Any, args: Any, kwargs: Any) -> Any:
    """A number, or a truth value with a guard on it. MISSING where an argument is no number, or only the running program knows it, or where Python raises."""
    symbolic = [a.node for a in args if type(a) in _SYMBOLIC]
    plain = [*(a for a in args if type(a) not in _SYMBOLIC), *kwargs.values()]
    if not symbolic or not all(n.has_hint() for n in symbolic) or not all(isinstance(a, (int, float)) for a in plain):
        return MISSING
    if fn in _ROUNDING and (type(symbolic[0].expr) is not FloatExpr or symbolic[0].expr.rational is not None):
        return MISSING
    symbols = tuple(sorted({s for n in symbolic for s in n.expr.free_symbols}, key=lambda s: s.name))
    if not symbols or not all(cap.mode.shape_env.symbols[s].sources for s in symbols):
        return MISSING
    shown = [str(a.node.expr) if type(a) in _SYMBOLIC else repr(a) for a in args]
    text = f"{fn.__name__}({', '.join([*shown, *[f'{k}={v!r}' for k, v in kwargs.items()]])})"
    terms = tuple(a.node.expr if type(a) in _SYMBOLIC else a for a in args)
    function = functools.partial(fn, **kwargs) if kwargs else fn
    source = cap.source_over(symbols, lambda others: _Computed(function, terms, symbols, others, text))
    value = native(source.function, tuple(cap.symbol_input(s)[1] for s in symbols))
    if type(value) is bool:
        cap.guard(source, GuardKind.BOOL, value)
        return value
    return cap.lift_changing(value, source) if type(value) in (int, float) else MISSING
