"""Special functions: prims of their own or short formulas. Half types are computed in float32 and rounded once; integers become the default float.

Each formula has eager's accuracy in its own dtype or better: the tests compare both with float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from .common import aten, broadcast, compute_dtype, full, full_like, is_tensor, number, p, result_dtype, to
from .registry import extern, register

_SQRT_HALF = math.sqrt(0.5)


def _floats(*operands: Any) -> tuple[torch.dtype, tuple[Any, ...]]:
    """(result dtype, operands as tensors of the compute dtype and one shape)."""
    dtype = result_dtype(*operands)
    dtype = dtype if dtype.is_floating_point else torch.get_default_dtype()
    inside = compute_dtype(dtype)
    device = next(x for x in operands if is_tensor(x)).device
    return dtype, broadcast(*(to(to(x, dtype), inside) if is_tensor(x) else full([], x, inside, device) for x in operands))


def special(doc: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: a formula on compute-dtype tensors of one shape becomes a decomposition with promotion."""

    def wrap(formula: Callable[..., Any]) -> Callable[..., Any]:
        def unary(x: Any) -> Any:
            dtype, xs = _floats(x)
            return to(formula(*xs), dtype)

        def binary(a: Any, b: Any) -> Any:
            dtype, xs = _floats(a, b)
            return to(formula(*xs), dtype)

        rule = unary if formula.__code__.co_argcount == 1 else binary
        rule.__doc__ = doc
        return rule

    return wrap


def _prim(name: str, operands: int) -> Callable[..., Any]:
    prim = getattr(p, name)
    return special(f"Prim {name}.")((lambda x: prim(x)) if operands == 1 else (lambda a, b: prim(a, b)))


for _op, _name in {
    **{n: n for n in ("i0",)}, **{f"special_{n}": n for n in ("i0e", "i1", "i1e", "bessel_j0", "bessel_j1", "bessel_y0", "bessel_y1", "airy_ai", "erfcx", "ndtri")},
    **{f"special_{n}": n for n in ("modified_bessel_k0", "modified_bessel_k1", "scaled_modified_bessel_k0", "scaled_modified_bessel_k1")},
    "special_modified_bessel_i0": "i0", "special_modified_bessel_i1": "i1",
}.items():  # fmt: skip
    register(getattr(aten, _op).default)(_prim(_name, 1))
for _name in ("igamma", "igammac"):
    register(getattr(aten, _name).default)(_prim(_name, 2))
register(aten.special_zeta.default, aten.special_zeta.self_scalar, aten.special_zeta.other_scalar)(_prim("zeta", 2))


# -- polynomials of an order that is a number ----------------------------------------------------------------------------------
_MAX_ORDER = 64
# name: (p1 of x, p[k + 1] of (x, k, p[k], p[k - 1])); p0 is 1
Recurrence = tuple[Callable[[Any], Any], Callable[[Any, int, Any, Any], Any]]


def _twice(x: Any, k: int, now: Any, before: Any) -> Any:
    return p.sub(p.mul(p.mul_scalar(x, 2.0), now), before)


_POLYNOMIALS: dict[str, Recurrence] = {
    "chebyshev_polynomial_t": (lambda x: x, _twice), "chebyshev_polynomial_u": (lambda x: p.mul_scalar(x, 2.0), _twice),
    "chebyshev_polynomial_v": (lambda x: p.sub_scalar(p.mul_scalar(x, 2.0), 1.0), _twice),
    "chebyshev_polynomial_w": (lambda x: p.add_scalar(p.mul_scalar(x, 2.0), 1.0), _twice),
    "hermite_polynomial_h": (
        lambda x: p.mul_scalar(x, 2.0), lambda x, k, now, before: p.sub(p.mul(p.mul_scalar(x, 2.0), now), p.mul_scalar(before, 2.0 * k)),
    ),
    "hermite_polynomial_he": (lambda x: x, lambda x, k, now, before: p.sub(p.mul(x, now), p.mul_scalar(before, float(k)))),
    "laguerre_polynomial_l": (
        lambda x: p.rsub_scalar(x, 1.0),
        lambda x, k, now, before: p.div_scalar(p.sub(p.mul(p.rsub_scalar(x, 2.0 * k + 1.0), now), p.mul_scalar(before, float(k))), k + 1.0),
    ),
    "legendre_polynomial_p": (
        lambda x: x, lambda x, k, now, before: p.div_scalar(p.sub(p.mul(p.mul_scalar(x, 2.0 * k + 1.0), now), p.mul_scalar(before, float(k))), k + 1.0),
    ),
}  # fmt: skip


def _polynomial(first: Callable[[Any], Any], step: Callable[..., Any], shifted: bool) -> Callable[..., Any]:
    def rule(x: Any, n: Any) -> Any:
        if not isinstance(n, (int, float)) or not 0 <= n <= _MAX_ORDER:
            return NotImplemented
        dtype, (x,) = _floats(x)
        x = p.sub_scalar(p.mul_scalar(x, 2.0), 1.0) if shifted else x
        before, now = full_like(x, 1.0), first(x)
        if int(n) == 0:
            return to(before, dtype)
        for k in range(1, int(n)):
            before, now = now, step(x, k, now, before)
        return to(now, dtype)

    rule.__doc__ = "The recurrence in the order, written out."
    return rule


for _name, (_first, _step) in _POLYNOMIALS.items():
    for _prefix in ("", "shifted_") if _name.startswith("chebyshev") else ("",):
        _packet = getattr(aten, f"special_{_prefix}{_name}")
        register(_packet.n_scalar)(_polynomial(_first, _step, bool(_prefix)))
        extern("extern: recurrence of a length that is data", _packet.default, _packet.x_scalar)


@register(aten.special_log_ndtr.default)
@special("Logarithm of the normal distribution function: by erfcx below -1, by log1p of the upper tail above.")
def log_ndtr(x: Any) -> Any:
    z = p.mul_scalar(x, _SQRT_HALF)
    low = p.sub(p.log(p.mul_scalar(p.erfcx(p.neg(z)), 0.5)), p.mul(z, z))
    return p.where(p.lt_scalar(x, -1.0), low, p.log1p(p.mul_scalar(p.erfc(z), -0.5)))


@register(aten.special_spherical_bessel_j0.default)
@special("sin(x) / x; its power series up to x**12 below 1/2 in magnitude; 0 at the infinities.")
def spherical_bessel_j0(x: Any) -> Any:
    square, series = p.mul(x, x), full_like(x, 1.0 / math.factorial(13))
    for k in range(5, -1, -1):
        series = p.add_scalar(p.mul(series, square), (-1.0) ** k / math.factorial(2 * k + 1))
    near = p.lt_scalar(p.abs(x), 0.5)
    return p.where(p.isinf(x), full_like(x, 0.0), p.where(near, series, p.div(p.sin(x), x)))


@register(aten.polygamma.default)
def polygamma(n: int, x: Any) -> Any:
    """Derivative n of digamma: (-1)**(n+1) n! zeta(n+1, x); digamma itself for 0. Order 1 below 1/2 is reflected, as zeta has no accuracy there."""
    if not 0 <= n <= 100:
        return NotImplemented
    dtype, (x,) = _floats(x)
    if n == 0:
        return to(p.digamma(x), dtype)
    if n > 1:
        scale = (1.0 if n % 2 else -1.0) * math.gamma(n + 1)
        return to(p.mul_scalar(p.zeta(full_like(x, n + 1.0), x), scale), dtype)
    mirrored = p.lt_scalar(x, 0.5)
    there = p.zeta(full_like(x, 2.0), p.where(mirrored, p.rsub_scalar(x, 1.0), x))
    sine = p.div_scalar(p.sin(p.mul_scalar(x, math.pi)), math.pi)
    return to(p.where(mirrored, p.sub(p.reciprocal(p.mul(sine, sine)), there), there), dtype)


@register(aten.mvlgamma.default)
def mvlgamma(x: Any, order: int) -> Any:
    """Sum of lgamma(x - j/2) over j below the order, plus order (order - 1) / 4 log(pi)."""
    if order < 1:
        return NotImplemented
    dtype, (x,) = _floats(x)
    total = p.lgamma(x)
    for j in range(1, order):
        total = p.add(total, p.lgamma(p.sub_scalar(x, 0.5 * j)))
    return to(p.add_scalar(total, 0.25 * order * (order - 1) * math.log(math.pi)), dtype)


# -- integers and bits --------------------------------------------------------------------------------------------------
def _integers(a: Any, b: Any) -> tuple[Any, Any] | None:
    dtype = result_dtype(a, b)
    return None if dtype.is_floating_point or dtype is torch.bool else broadcast(to(a, dtype), to(b, dtype))


@register(aten.gcd.default)
def gcd(a: Any, b: Any) -> Any:
    """Prim gcd."""
    pair = _integers(a, b)
    return NotImplemented if pair is None else p.gcd(*pair)


@register(aten.lcm.default)
def lcm(a: Any, b: Any) -> Any:
    """abs(a / gcd(a, b) * b), 0 where both are 0."""
    pair = _integers(a, b)
    if pair is None:
        return NotImplemented
    a, b = pair
    g = p.gcd(a, b)
    none = p.eq_scalar(g, 0)
    return p.where(none, g, p.abs(p.mul(p.truncdiv(a, p.where(none, full_like(g, 1), g)), b)))


# dtype: (integers of its bits, bits of the mantissa, largest biased exponent)
_LAYOUT = {torch.float32: (torch.int32, 23, 0xFF), torch.float64: (torch.int64, 52, 0x7FF)}


@register(aten.frexp.Tensor)
def frexp(x: Any) -> Any:
    """(mantissa in [0.5, 1), exponent in int32), exact, from the bits; zeros, infinities and NaN stay with exponent 0."""
    if not x.dtype.is_floating_point:
        return NotImplemented
    wide = to(x, compute_dtype(x.dtype))
    ints, width, top = _LAYOUT[wide.dtype]
    bias = top // 2 - 1
    tiny = p.lt_scalar(p.abs(wide), 2.0 ** (2 - bias - 1))
    scaled = p.where(tiny, p.mul_scalar(wide, 2.0 ** (width + 1)), wide)  # subnormal numbers have no exponent of their own
    bits = p.bitcast(scaled, ints)
    biased = p.bitwise_and_scalar(p.shift_right_scalar(bits, width), top)
    special_ = p.logical_or(p.eq_scalar(wide, 0.0), p.logical_not(p.isfinite(wide)))
    exponent = p.sub_scalar(biased, bias)
    exponent = p.where(tiny, p.sub_scalar(exponent, width + 1), exponent)
    mantissa = p.bitcast(p.bitwise_or_scalar(p.bitwise_and_scalar(bits, ~(top << width)), bias << width), wide.dtype)
    exponent = to(p.where(special_, full_like(exponent, 0), exponent), torch.int32)
    return to(p.where(special_, wide, mantissa), x.dtype), exponent


@register(aten.round.decimals)
def round_decimals(x: Any, *, decimals: int) -> Any:
    """round(x * 10**d) / 10**d, for negative d with the division first; ties to even."""
    if not x.dtype.is_floating_point or abs(decimals) > 300:
        return NotImplemented
    wide = to(x, compute_dtype(x.dtype))
    if decimals == 0:
        return to(p.round(wide), x.dtype)
    ten = number(10.0 ** abs(decimals), wide.dtype)
    if decimals > 0:
        return to(p.div_scalar(p.round(p.mul_scalar(wide, ten)), ten), x.dtype)
    return to(p.mul_scalar(p.round(p.div_scalar(wide, ten)), ten), x.dtype)


@register(aten._conj_physical.default)
def conj_physical(x: Any) -> Any:
    """A real tensor is its own conjugate."""
    return x
