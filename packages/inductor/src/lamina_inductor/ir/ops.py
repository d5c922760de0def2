"""The scalar ops of loop bodies: the table, the handler protocol, and the ambient `ops`.

A body is a Python function that calls `ops.<name>(...)`. What a call means is up to the installed handler: recording (`body.Recorder`),
printing, analysis, C++ text, evaluation. The table below is the single list of the ops; dtype rules are data:

    same    result has the dtype of the first operand, all operands must agree
    bool    result is bool, operands must agree
    logical operands and result are bool
    float   as `same`, floating operands only
    int     as `same`, integers or bool only

Numerics: floating ops round to their dtype (bf16 and f16 included); `maximum/minimum/amax/amin` propagate NaN; integer ops wrap.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

__all__ = ["OPS", "OpInfo", "OpsHandler", "ops", "use_handler"]

T = TypeVar("T")


@dataclass(frozen=True)
class OpInfo:
    """One scalar op. `cost` is in cycles per element of vector code, roughly; `special` ops have their own signature (see `OpsHandler`)."""

    name: str
    arity: int
    rule: str
    cost: float
    special: bool = False


def _table() -> dict[str, OpInfo]:
    rows: list[OpInfo] = []

    def add(names: str, arity: int, rule: str, cost: float) -> None:
        rows.extend(OpInfo(n, arity, rule, cost) for n in names.split())

    add("abs neg sign", 1, "same", 1)
    add("floor ceil trunc round", 1, "same", 1)
    add("sqrt rsqrt reciprocal", 1, "float", 4)
    add("exp exp2 expm1 log log2 log10 log1p sigmoid", 1, "float", 10)
    add("sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh erf erfc", 1, "float", 14)
    add("erfinv lgamma digamma", 1, "float", 60)
    add("i0 i0e i1 i1e bessel_j0 bessel_j1 bessel_y0 bessel_y1 erfcx ndtri", 1, "float", 60)
    add("modified_bessel_k0 modified_bessel_k1 scaled_modified_bessel_k0 scaled_modified_bessel_k1", 1, "float", 90)
    add("zeta", 2, "float", 400)
    add("gcd", 2, "int", 60)
    add("bitwise_not", 1, "int", 1)
    add("logical_not", 1, "bool", 1)
    add("isnan isinf isfinite signbit", 1, "bool", 1)
    add("add sub mul", 2, "same", 1)
    add("div", 2, "float", 4)
    add("floordiv truncdiv remainder fmod", 2, "same", 8)
    add("pow atan2 hypot nextafter", 2, "same", 20)
    add("maximum minimum fmax fmin", 2, "same", 1)
    add("copysign", 2, "float", 1)
    add("bitwise_and bitwise_or bitwise_xor shift_left shift_right", 2, "int", 1)
    add("eq ne lt le gt ge logical_and logical_or logical_xor", 2, "bool", 1)
    add("fma", 3, "float", 1)
    rows.append(OpInfo("where", 3, "where", 1, special=True))         # (bool, a, b) -> a.dtype
    rows.append(OpInfo("constant", 0, "given", 0, special=True))      # (number, dtype) -> dtype
    rows.append(OpInfo("index_expr", 0, "given", 1, special=True))    # (Expr, dtype) -> dtype
    rows.append(OpInfo("convert", 1, "given", 1, special=True))       # (a, dtype) -> dtype; C conversion, bool by != 0
    rows.append(OpInfo("bitcast", 1, "given", 0, special=True))       # (a, dtype) -> dtype of equal width
    rows.append(OpInfo("load", 0, "buffer", 1, special=True))         # (Buffer, Expr) -> buffer dtype
    rows.append(OpInfo("indirect", 1, "i64", 1, special=True))        # (integer value, size) -> Expr in [0, size); wraps negatives, reports out of range
    rows.append(OpInfo("masked", 2, "where", 1, special=True))        # (bool, body function, number): body is evaluated only where the mask holds
    return {r.name: r for r in rows}


OPS: dict[str, OpInfo] = _table()


class OpsHandler(Protocol[T]):
    """A reading of bodies. Table ops arrive as `op(name, *operands)`."""

    def op(self, name: str, *args: T) -> T: ...
    def where(self, cond: T, a: T, b: T) -> T: ...
    def constant(self, value: Any, dtype: Any) -> T: ...
    def index_expr(self, e: Any, dtype: Any) -> T: ...
    def convert(self, a: T, dtype: Any) -> T: ...
    def bitcast(self, a: T, dtype: Any) -> T: ...
    def load(self, buffer: Any, index: Any) -> T: ...
    def indirect(self, a: T, size: Any) -> Any: ...
    def masked(self, cond: T, body: Any, other: Any) -> T: ...


class _Ops:
    """Forwards to the installed handler."""

    def __init__(self) -> None:
        self.handler: Any = None

    def __getattr__(self, name: str) -> Any:
        info = OPS.get(name)
        if info is None:
            raise AttributeError(f"no scalar op {name!r}; the table is lamina_inductor.ir.ops.OPS")
        handler = self.handler
        if handler is None:
            raise RuntimeError(f"ops.{name} outside of a handler")
        if info.special:
            return getattr(handler, name)
        return lambda *args: handler.op(name, *args)


ops = _Ops()


@contextmanager
def use_handler(handler: Any) -> Iterator[Any]:
    """Install `handler` as the meaning of `ops`."""
    previous, ops.handler = ops.handler, handler
    try:
        yield handler
    finally:
        ops.handler = previous
