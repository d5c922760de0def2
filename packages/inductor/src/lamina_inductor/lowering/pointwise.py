"""Lowering of pointwise prims, conversions and factories: one lazy value each, inlined into whoever uses it."""

from __future__ import annotations

from typing import Any

import lamina_primops.prims  # noqa: F401  (registers torch.ops.lamina)
import torch
from lamina_dynshape.float_expr import FloatExpr

from ..ir.ops import OPS, ops
from .registry import lowering
from .values import Value

__all__: list[str] = []

_lib = torch.ops.lamina
_LOW = (torch.bfloat16, torch.float16)

_UNARY = """abs neg sign exp exp2 expm1 log log2 log10 log1p sqrt rsqrt reciprocal sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh
erf erfc erfinv lgamma digamma sigmoid floor ceil trunc round bitwise_not logical_not i0 i0e i1 i1e bessel_j0 bessel_j1 bessel_y0 bessel_y1
erfcx ndtri modified_bessel_k0 modified_bessel_k1 scaled_modified_bessel_k0 scaled_modified_bessel_k1""".split()
_EAGER_DOUBLES = frozenset("bessel_j0 bessel_j1 bessel_y0 bessel_y1".split())  # eager's doubles are off by up to 1e-6 beyond 5: nothing else gives them
_PREDICATES = ["isnan", "isinf", "isfinite", "signbit"]
_BINARY = """add sub mul div floordiv truncdiv remainder fmod pow maximum minimum fmax fmin atan2 hypot copysign nextafter bitwise_and bitwise_or
bitwise_xor shift_left shift_right logical_and logical_or logical_xor zeta gcd""".split()
_COMPARISONS = ["eq", "ne", "lt", "le", "gt", "ge"]
_REVERSED = {"rsub_scalar": "sub", "rdiv_scalar": "div", "rpow_scalar": "pow"}


def pointwise(fn: Any, dtype: torch.dtype, cost: float, *xs: Value) -> Value:
    """Lazy `fn(scalar, ...)` over equal shapes."""
    return Value(dtype, xs[0].size, lambda idx: fn(*[x.load(idx) for x in xs]), cost=cost + sum(x.cost for x in {id(x): x for x in xs}.values()),
                 loads=sum(x.loads for x in {id(x): x for x in xs}.values()))


def scalar(g: Any, value: Any, dtype: torch.dtype) -> Any:
    """Function that makes the constant inside a body."""
    if isinstance(value, (bool, int, float)):
        return lambda: ops.constant(value, dtype)
    if isinstance(value, FloatExpr):
        if value.op == "const":
            return lambda: ops.constant(value.args[0], dtype)
        bits = g.real(value)
        return lambda: _converted(ops.bitcast(ops.index_expr(bits, torch.int64), torch.float64), dtype)
    e = g.expr(value)
    return lambda: ops.index_expr(e, dtype)


def _converted(value: Any, dtype: torch.dtype) -> Any:
    return value if dtype is torch.float64 else ops.convert(value, dtype)


def _register_unary(name: str, predicate: bool) -> None:
    @lowering(getattr(_lib, name).default)
    def rule(g: Any, node: Any, x: Value) -> Value:
        if (predicate and not x.dtype.is_floating_point and name != "signbit") or (name in _EAGER_DOUBLES and x.dtype is torch.float64):
            return NotImplemented
        return pointwise(lambda a: getattr(ops, name)(a), torch.bool if predicate else x.dtype, OPS[name].cost, x)


def _register_binary(name: str, compare: bool) -> None:
    @lowering(getattr(_lib, name).default)
    def rule(g: Any, node: Any, a: Value, b: Value) -> Value:
        return pointwise(lambda x, y: getattr(ops, name)(x, y), torch.bool if compare else a.dtype, OPS[name].cost, a, b)

    if not hasattr(_lib, name + "_scalar"):
        return

    @lowering(getattr(_lib, name + "_scalar").default)
    def scalar_rule(g: Any, node: Any, a: Value, value: Any) -> Value:
        make = scalar(g, value, a.dtype)
        if name == "pow" and (special := _power(value, a)) is not None:
            return special
        if name == "div" and isinstance(value, (int, float)) and _exact_reciprocal(float(value)):
            return pointwise(lambda x: ops.mul(x, ops.constant(1.0 / value, a.dtype)), a.dtype, 1, a)
        return pointwise(lambda x: getattr(ops, name)(x, make()), torch.bool if compare else a.dtype, OPS[name].cost, a)


def _exact_reciprocal(value: float) -> bool:
    """Is multiplying by 1/value the same, bit for bit? (powers of two)"""
    import math
    return value != 0 and math.isfinite(value) and math.frexp(abs(value))[0] == 0.5 and 1e-30 < abs(value) < 1e30


def _power(exponent: Any, a: Value) -> Value | None:
    """x ** constant without pow, as eager has it: 2, 3, 0.5, -0.5, -1, -2, 1, 0."""
    if not a.dtype.is_floating_point or isinstance(exponent, bool) or not isinstance(exponent, (int, float)):
        return None
    bodies: dict[float, Any] = {
        2.0: lambda x: ops.mul(x, x), 3.0: lambda x: ops.mul(ops.mul(x, x), x), 1.0: lambda x: x, 0.5: lambda x: ops.sqrt(x), -0.5: lambda x: ops.rsqrt(x),
        -1.0: lambda x: ops.reciprocal(x), -2.0: lambda x: ops.reciprocal(ops.mul(x, x)), 0.0: lambda x: ops.constant(1.0, a.dtype),
    }
    body = bodies.get(float(exponent))
    return None if body is None else pointwise(body, a.dtype, 2, a)


for _name in _UNARY:
    _register_unary(_name, False)
for _name in _PREDICATES:
    _register_unary(_name, True)
for _name in _BINARY:
    _register_binary(_name, False)
for _name in _COMPARISONS:
    _register_binary(_name, True)


def _register_reversed(name: str, op: str) -> None:
    @lowering(getattr(_lib, name).default)
    def rule(g: Any, node: Any, a: Value, value: Any) -> Value:
        make = scalar(g, value, a.dtype)
        return pointwise(lambda x: getattr(ops, op)(make(), x), a.dtype, OPS[op].cost, a)


for _name, _op in _REVERSED.items():
    _register_reversed(_name, _op)


@lowering(_lib.where.default)
def where(g: Any, node: Any, cond: Value, a: Value, b: Value) -> Value:
    return pointwise(lambda c, x, y: ops.where(c, x, y), a.dtype, 1, cond, a, b)


@lowering(_lib.fma.default)
def fma(g: Any, node: Any, a: Value, b: Value, c: Value) -> Value:
    return pointwise(lambda x, y, z: ops.fma(x, y, z), a.dtype, 1, a, b, c)


@lowering(_lib.convert.default)
def convert(g: Any, node: Any, x: Value, dtype: torch.dtype) -> Value:
    if dtype.is_complex or x.dtype.is_complex:
        return NotImplemented
    return x if x.dtype == dtype else pointwise(lambda a: ops.convert(a, dtype), dtype, 1, x)


@lowering(_lib.bitcast.default)
def bitcast(g: Any, node: Any, x: Value, dtype: torch.dtype) -> Value:
    return pointwise(lambda a: ops.bitcast(a, dtype), dtype, 0, x)


@lowering(_lib.full.default)
def full(g: Any, node: Any, size: Any, value: Any, dtype: torch.dtype, device: Any) -> Value:
    if dtype.is_complex:
        return NotImplemented
    make = scalar(g, value, dtype)
    return Value(dtype, g.exprs(size), lambda idx: make(), cost=0, loads=0)


@lowering(_lib.iota.default)
def iota(g: Any, node: Any, length: Any, start: Any, step: Any, dtype: torch.dtype, device: Any) -> Value:
    first, by = g.expr(start), g.expr(step)
    return Value(dtype, (g.expr(length),), lambda idx: ops.index_expr(idx[0] * by + first, dtype), cost=1, loads=0)
