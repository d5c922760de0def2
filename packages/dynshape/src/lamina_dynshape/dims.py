"""Questions about dimensions, which are int or Expr.

Ints answer at once. An Expr asks the shape environment of the running mode, which decides from what it knows or from the hints,
recording a guard. `likely_*` never record: they decide between layouts that are both correct, or unbacked sizes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

from lamina_dynshape.expr import Expr, emax, emin

__all__ = ["Dim", "active", "ceildiv", "eq", "is_one", "is_zero", "known_eq", "lt", "maximum", "minimum", "numel", "order", "plain", "same"]

Dim = Any  # int | Expr


class _Active(threading.local):
    """The shape environment of the mode whose rule runs in this thread."""

    env: Any = None


active = _Active()


def plain(x: Dim) -> Dim:
    """int when the value is constant."""
    return x if type(x) is int else x.const if x.is_const else x


def eq(a: Dim, b: Dim) -> bool:
    """a == b; guards when it must choose."""
    if a is b:
        return True
    if type(a) is int and type(b) is int:
        return a == b
    return active.env.eq(a, b)


def lt(a: Dim, b: Dim) -> bool:
    """a < b; guards when it must choose."""
    if type(a) is int and type(b) is int:
        return a < b
    return active.env.lt(a, b)


def order(a: Dim, b: Dim) -> int:
    """-1, 0 or 1 as a < b, a == b or a > b, between strides; guards when it must choose, and asserts nothing of unbacked sizes."""
    if type(a) is int and type(b) is int:
        return (a > b) - (a < b)
    return 0 if a is b else active.env.order(a, b)


def is_one(a: Dim) -> bool:
    return a == 1 if type(a) is int else active.env.eq(a, 1)


def is_zero(a: Dim) -> bool:
    return a == 0 if type(a) is int else active.env.eq(a, 0)


def known_eq(a: Dim, b: Dim) -> bool:
    """True when a == b is certain; never guards."""
    if a is b:
        return True
    if type(a) is int and type(b) is int:
        return a == b
    return active.env.known_eq(a, b)


def same(a: Iterable[Dim], b: Iterable[Dim]) -> bool:
    """Equal lengths and certainly equal dimensions."""
    a, b = tuple(a), tuple(b)
    return len(a) == len(b) and (a == b or all(map(known_eq, a, b)))


def numel(sizes: Iterable[Dim]) -> Dim:
    result: Dim = 1
    for s in sizes:
        result = result * s
    return result if type(result) is int else plain(result)


def minimum(a: Dim, b: Dim) -> Dim:
    return min(a, b) if type(a) is int and type(b) is int else plain(emin(a, b))


def maximum(a: Dim, b: Dim) -> Dim:
    return max(a, b) if type(a) is int and type(b) is int else plain(emax(a, b))


def ceildiv(a: Dim, b: Dim) -> Dim:
    return -(-a // b) if type(a) is int and type(b) is int else plain(-((-1 * as_dim(a)) // b))


def as_dim(x: Dim) -> Dim:
    return x if isinstance(x, Expr) else int(x)
