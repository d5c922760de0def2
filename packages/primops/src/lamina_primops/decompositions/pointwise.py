"""Pointwise arithmetic: unary and binary families, clamps, comparisons, `where`.

Half types are computed in float32 and rounded once per ATen op, as eager's kernels do. Type promotion is eager's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from .common import (
    LOW, aten, broadcast, compute_dtype, expand_to, float32_inside, full, full_like, is_tensor, number, p, pointwise, result_dtype, to,
)  # fmt: skip
from .registry import register

_DEFAULT = torch.get_default_dtype


# -- unary ------------------------------------------------------------------------------------------------------------
def _float_unary(name: str) -> Callable[[Any], Any]:
    prim = getattr(p, name)

    def rule(x: Any) -> Any:
        dtype = x.dtype if x.dtype.is_floating_point else _DEFAULT()
        return to(prim(to(to(x, dtype), compute_dtype(dtype))), dtype)

    rule.__doc__ = f"Prim {name}; integers become the default float."
    return rule


for _name in (
    "acos acosh asin asinh atan atanh cos cosh digamma erf erfc erfinv exp exp2 expm1 lgamma log log10 log1p log2 reciprocal rsqrt sigmoid sin sinh sqrt tan tanh"
).split():
    register(getattr(aten, _name).default)(_float_unary(_name))


def _same_unary(name: str, integers: Callable[[Any], Any]) -> Callable[[Any], Any]:
    prim = getattr(p, name)

    def rule(x: Any) -> Any:
        return prim(x) if x.dtype.is_floating_point else integers(x)

    rule.__doc__ = f"Prim {name} in the operand's dtype; exact."
    return rule


def _same(x: Any) -> Any:
    return x


def _refuse(x: Any) -> Any:
    return NotImplemented


for _name, _integers in (("floor", _same), ("ceil", _same), ("trunc", _same), ("round", _same), ("abs", p.abs), ("neg", p.neg)):
    register(getattr(aten, _name).default)(_same_unary(_name, _integers))


@register(aten.sign.default, aten.sgn.default)
def sign(x: Any) -> Any:
    """-1, 0 or 1; a bool stays."""
    return x if x.dtype is torch.bool else p.sign(x)


@register(aten.positive.default)
def positive(x: Any) -> Any:
    """The operand."""
    return x


@register(aten.frac.default)
@float32_inside
def frac(x: Any) -> Any:
    """x - trunc(x), exact."""
    return p.sub(x, p.trunc(x))


@register(aten.square.default)
def square(x: Any) -> Any:
    """x * x; a bool becomes int64."""
    return pointwise("mul", x, x, dtype=torch.int64 if x.dtype is torch.bool else x.dtype)


@register(aten.bitwise_not.default)
def bitwise_not(x: Any) -> Any:
    """Prim."""
    return p.bitwise_not(x)


@register(aten.logical_not.default)
def logical_not(x: Any) -> Any:
    """x == 0."""
    return p.logical_not(x) if x.dtype is torch.bool else p.eq_scalar(x, number(0, x.dtype))


def _predicate(name: str, otherwise: bool | None) -> Callable[[Any], Any]:
    prim = getattr(p, name)

    def rule(x: Any) -> Any:
        if x.dtype.is_floating_point or (otherwise is None and x.dtype is not torch.bool):
            return prim(x)
        return full_like(x, bool(otherwise), torch.bool)

    rule.__doc__ = f"Prim {name}; integers are finite."
    return rule


register(aten.isnan.default)(_predicate("isnan", False))
register(aten.isinf.default)(_predicate("isinf", False))
register(aten.isfinite.default)(_predicate("isfinite", True))
register(aten.signbit.default)(_predicate("signbit", None))


@register(aten.isposinf.default)
def isposinf(x: Any) -> Any:
    """x == inf."""
    return p.eq_scalar(x, math.inf) if x.dtype.is_floating_point else full_like(x, False, torch.bool)


@register(aten.isneginf.default)
def isneginf(x: Any) -> Any:
    """x == -inf."""
    return p.eq_scalar(x, -math.inf) if x.dtype.is_floating_point else full_like(x, False, torch.bool)


@register(aten.nan_to_num.default)
def nan_to_num(x: Any, nan: float | None = None, posinf: float | None = None, neginf: float | None = None) -> Any:
    """NaN and infinities replaced; exact."""
    if not x.dtype.is_floating_point:
        return x
    info = torch.finfo(x.dtype)
    y = p.where(p.isnan(x), full_like(x, 0.0 if nan is None else nan), x)
    y = p.where(p.eq_scalar(x, math.inf), full_like(x, info.max if posinf is None else posinf), y)
    return p.where(p.eq_scalar(x, -math.inf), full_like(x, info.min if neginf is None else neginf), y)


@register(aten.logit.default)
@float32_inside
def logit(x: Any, eps: float | None = None) -> Any:
    """log(x / (1 - x)), x clamped to [eps, 1 - eps]."""
    if not x.dtype.is_floating_point:
        return NotImplemented
    if eps is not None:
        x = p.minimum_scalar(p.maximum_scalar(x, eps), 1.0 - eps)
    return p.log(p.div(x, p.rsub_scalar(x, 1.0)))


@register(aten.logit_backward.default)
@float32_inside
def logit_backward(grad: Any, x: Any, eps: float | None = None) -> Any:
    """grad / (x (1 - x)) inside the clamp, 0 (or NaN outside [0, 1] without eps)."""
    inner = p.div(grad, p.mul(x, p.rsub_scalar(x, 1.0)))
    low, high, outside = (0.0, 1.0, math.nan) if eps is None else (eps, 1.0 - eps, 0.0)
    inside = p.logical_and(p.ge_scalar(x, low), p.le_scalar(x, high))
    return p.where(inside, inner, full_like(x, outside))


@register(aten.sinc.default)
@float32_inside
def sinc(x: Any) -> Any:
    """sin(pi x) / (pi x), 1 at 0."""
    x = to(x, _DEFAULT()) if not x.dtype.is_floating_point else x
    y = p.mul_scalar(x, math.pi)
    return p.where(p.eq_scalar(x, 0.0), full_like(x, 1.0), p.div(p.sin(y), y))


@register(aten.special_entr.default)
@float32_inside
def entr(x: Any) -> Any:
    """-x log(x), 0 at 0, -inf below."""
    inner = p.where(p.eq_scalar(x, 0.0), full_like(x, 0.0), p.neg(p.mul(x, p.log(x))))
    return p.where(p.lt_scalar(x, 0.0), full_like(x, -math.inf), inner)


@register(aten.angle.default)
def angle(x: Any) -> Any:
    """pi where negative, else 0; NaN stays."""
    if not x.dtype.is_floating_point:
        x = to(x, _DEFAULT())
    out = p.where(p.lt_scalar(x, 0.0), full_like(x, math.pi), full_like(x, 0.0))
    return p.where(p.isnan(x), x, out)


@register(aten.deg2rad.default)
def deg2rad(x: Any) -> Any:
    """x * pi / 180."""
    return pointwise("mul", x, math.pi / 180.0)


@register(aten.rad2deg.default)
def rad2deg(x: Any) -> Any:
    """x * 180 / pi."""
    return pointwise("mul", x, 180.0 / math.pi)


# -- binary -----------------------------------------------------------------------------------------------------------
def _scaled(b: Any, alpha: Any, dtype: torch.dtype) -> Any:
    """alpha * b in the compute dtype of `dtype`, not rounded to it."""
    if not is_tensor(b):
        return b * alpha
    b = to(to(b, dtype), compute_dtype(dtype))
    return p.mul_scalar(b, number(alpha, b.dtype))


@register(aten.add.Tensor, aten.add.Scalar)
def add(a: Any, b: Any, alpha: Any = 1) -> Any:
    """a + alpha * b; the product is rounded in the compute dtype only."""
    dtype = result_dtype(a, b)
    if dtype is torch.bool:
        return pointwise("logical_or", a, b, dtype=dtype) if alpha else to(expand_to(a, broadcast(a, b)[0].shape), dtype)
    return _linear("add", a, b, alpha, dtype)


@register(aten.sub.Tensor, aten.sub.Scalar)
def sub(a: Any, b: Any, alpha: Any = 1) -> Any:
    """a - alpha * b; the product is rounded in the compute dtype only."""
    return _linear("sub", a, b, alpha, result_dtype(a, b))


def _linear(name: str, a: Any, b: Any, alpha: Any, dtype: torch.dtype) -> Any:
    if not isinstance(alpha, (int, float)) or alpha != 1:
        b = _scaled(b, alpha, dtype)
        inside = compute_dtype(dtype)
        a = to(to(a, dtype), inside) if is_tensor(a) else a
        return to(pointwise(name, a, b, dtype=inside), dtype)
    return pointwise(name, a, b, dtype=dtype)


@register(aten.rsub.Tensor, aten.rsub.Scalar)
def rsub(a: Any, b: Any, alpha: Any = 1) -> Any:
    """b - alpha * a."""
    dtype = result_dtype(a, b)
    if alpha == 1:
        return pointwise("sub", b, a, dtype=dtype)
    inside = compute_dtype(dtype)
    b = to(to(b, dtype), inside) if is_tensor(b) else b
    return to(pointwise("sub", b, _scaled(a, alpha, dtype), dtype=inside), dtype)


@register(aten.mul.Tensor, aten.mul.Scalar)
def mul(a: Any, b: Any) -> Any:
    """a * b."""
    dtype = result_dtype(a, b)
    return pointwise("logical_and" if dtype is torch.bool else "mul", a, b, dtype=dtype)


def _floating(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype.is_floating_point else _DEFAULT()


@register(aten.div.Tensor, aten.div.Scalar)
def div(a: Any, b: Any) -> Any:
    """True division; integers become the default float."""
    return pointwise("div", a, b, dtype=_floating(result_dtype(a, b)))


@register(aten.div.Tensor_mode, aten.div.Scalar_mode)
def div_mode(a: Any, b: Any, *, rounding_mode: str | None) -> Any:
    """Division rounded to zero or down. Floor of floats is exact, as in Python."""
    if rounding_mode is None:
        return div(a, b)
    dtype = result_dtype(a, b)
    if dtype in LOW or dtype is torch.bool:
        return NotImplemented  # eager divides low types in steps that round
    return pointwise("truncdiv" if rounding_mode == "trunc" else "floordiv", a, b, dtype=dtype)


@register(aten.floor_divide.default, aten.floor_divide.Scalar)
def floor_divide(a: Any, b: Any) -> Any:
    """Floor of a / b."""
    return div_mode(a, b, rounding_mode="floor")


def _binary(name: str, *, floats: bool = False) -> Callable[[Any, Any], Any]:
    def rule(a: Any, b: Any) -> Any:
        dtype = result_dtype(a, b)
        if floats:
            dtype = _floating(dtype)
        return pointwise(name, a, b, dtype=dtype)

    rule.__doc__ = f"Prim {name} on promoted operands."
    return rule


def _integer_only(rule: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def guarded(a: Any, b: Any) -> Any:
        return NotImplemented if result_dtype(a, b).is_floating_point else rule(a, b)

    guarded.__doc__ = rule.__doc__
    return guarded


for _name, _overloads, _floats in (
    ("maximum", (aten.maximum.default,), False), ("minimum", (aten.minimum.default,), False), ("fmax", (aten.fmax.default,), False),
    ("fmin", (aten.fmin.default,), False), ("atan2", (aten.atan2.default,), True), ("hypot", (aten.hypot.default,), False),
    ("copysign", (aten.copysign.Tensor, aten.copysign.Scalar), True), ("remainder", (aten.remainder.Tensor, aten.remainder.Scalar), False),
    ("fmod", (aten.fmod.Tensor, aten.fmod.Scalar), False),
    *((n, (getattr(aten, n).Tensor, getattr(aten, n).Scalar), False) for n in ("bitwise_and", "bitwise_or", "bitwise_xor")),
    ("shift_left", (aten.bitwise_left_shift.Tensor, aten.bitwise_left_shift.Tensor_Scalar), False),
    ("shift_right", (aten.bitwise_right_shift.Tensor, aten.bitwise_right_shift.Tensor_Scalar), False),
):  # fmt: skip
    register(*_overloads)(_binary(_name, floats=_floats))


for _name, _prim in (
    ("bitwise_and", "bitwise_and"), ("bitwise_or", "bitwise_or"), ("bitwise_xor", "bitwise_xor"), ("bitwise_left_shift", "shift_left"),
    ("bitwise_right_shift", "shift_right"), ("remainder", "remainder"),
):  # fmt: skip
    register(getattr(aten, _name).Scalar_Tensor)(_binary(_prim))
for _name, _prim in (("__lshift__", "shift_left"), ("__rshift__", "shift_right")):
    register(getattr(aten, _name).Tensor, getattr(aten, _name).Scalar)(_integer_only(_binary(_prim)))


@register(aten.nextafter.default)
def nextafter(a: Any, b: Any) -> Any:
    """Next representable value of the operands' own dtype."""
    return NotImplemented if result_dtype(a, b) in LOW else pointwise("nextafter", a, b)


def _comparison(name: str) -> Callable[[Any, Any], Any]:
    def rule(a: Any, b: Any) -> Any:
        dtype = result_dtype(a, b)
        if is_tensor(b) or dtype not in LOW:
            return pointwise(name, a, b, dtype=dtype)
        return getattr(p, f"{name}_scalar")(to(to(a, dtype), torch.float32), torch.tensor(float(b), dtype=dtype).item())

    rule.__doc__ = f"Prim {name} on promoted operands; exact."
    return rule


for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    register(getattr(aten, _name).Tensor, getattr(aten, _name).Scalar)(_comparison(_name))


def _truth(x: Any) -> Any:
    return x if x.dtype is torch.bool else p.ne_scalar(x, number(0, x.dtype))


for _name in ("logical_and", "logical_or", "logical_xor"):

    def _logical(a: Any, b: Any, _prim: Any = getattr(p, _name)) -> Any:
        """On truth values."""
        return _prim(*broadcast(_truth(a), _truth(b)))

    register(getattr(aten, _name).default)(_logical)


# -- powers -----------------------------------------------------------------------------------------------------------
@register(aten.pow.Tensor_Scalar)
def pow_scalar(x: Any, exponent: Any) -> Any:
    """x ** exponent. The exponents 0, 0.5, 1, 2, 3, -0.5, -1, -2 are products, roots and reciprocals, as in eager's kernel."""
    dtype = result_dtype(x, exponent)
    if dtype is torch.bool:
        return NotImplemented
    inside = compute_dtype(dtype)
    y = to(to(x, dtype), inside)
    if isinstance(exponent, (int, float)):
        if not dtype.is_floating_point and exponent < 0:
            return NotImplemented  # eager raises
        known = _known_power(y, exponent)
        if known is not None:
            return to(known, dtype)
    return to(p.pow_scalar(y, number(exponent, inside)), dtype)


def _known_power(x: Any, exponent: Any) -> Any:
    if exponent == 0:
        return full_like(x, 1)
    if exponent == 1:
        return x
    if exponent in (2, 3):
        square = p.mul(x, x)
        return square if exponent == 2 else p.mul(square, x)
    if not x.dtype.is_floating_point:
        return None
    if exponent == 0.5:
        return p.sqrt(x)
    if exponent == -0.5:
        return p.rsqrt(x)
    if exponent == -1:
        return p.reciprocal(x)
    return p.reciprocal(p.mul(x, x)) if exponent == -2 else None


@register(aten.pow.Tensor_Tensor)
def pow_tensor(a: Any, b: Any) -> Any:
    """a ** b."""
    return NotImplemented if result_dtype(a, b) is torch.bool else pointwise("pow", a, b)


@register(aten.pow.Scalar)
def pow_of_scalar(a: Any, b: Any) -> Any:
    """number ** b."""
    dtype = result_dtype(a, b)
    if dtype is torch.bool:
        return NotImplemented
    return full(b.shape, 1, dtype, b.device) if a == 1 else pointwise("pow", a, b, dtype=dtype)


# -- several operands -------------------------------------------------------------------------------------------------
@register(aten.addcmul.default)
def addcmul(x: Any, a: Any, b: Any, *, value: Any = 1) -> Any:
    """x + value * a * b, products first; rounded once for half types."""
    dtype = result_dtype(x, a, b)
    inside = compute_dtype(dtype)
    x, a, b = broadcast(*(to(to(t, dtype), inside) for t in (x, a, b)))
    product = p.mul(a, b) if value == 1 else p.mul(p.mul_scalar(a, number(value, inside)), b)
    return to(p.add(x, product), dtype)


@register(aten.addcdiv.default)
def addcdiv(x: Any, a: Any, b: Any, *, value: Any = 1) -> Any:
    """x + value * a / b."""
    dtype = result_dtype(x, a, b)
    if not dtype.is_floating_point:
        return NotImplemented
    inside = compute_dtype(dtype)
    x, a, b = broadcast(*(to(to(t, dtype), inside) for t in (x, a, b)))
    return to(p.add(x, p.div(a if value == 1 else p.mul_scalar(a, float(value)), b)), dtype)


@register(aten.lerp.Scalar, aten.lerp.Tensor)
def lerp(a: Any, b: Any, weight: Any) -> Any:
    """a + weight * (b - a) for |weight| < 0.5, else b - (b - a) * (1 - weight)."""
    dtype = a.dtype
    inside = compute_dtype(dtype)
    if not is_tensor(weight):
        a, b = broadcast(to(a, inside), to(b, inside))
        d = p.sub(b, a)
        out = p.add(a, p.mul_scalar(d, float(weight))) if abs(weight) < 0.5 else p.sub(b, p.mul_scalar(d, 1.0 - float(weight)))
        return to(out, dtype)
    a, b, w = broadcast(to(a, inside), to(b, inside), to(weight, inside))
    d = p.sub(b, a)
    near = p.lt_scalar(p.abs(w), 0.5)
    return to(p.where(near, p.add(a, p.mul(w, d)), p.sub(b, p.mul(d, p.rsub_scalar(w, 1.0)))), dtype)


@register(aten.where.self, aten.where.ScalarOther, aten.where.ScalarSelf, aten.where.Scalar)
def where(condition: Any, a: Any, b: Any) -> Any:
    """a where the condition holds; operands promoted."""
    dtype = result_dtype(a, b)
    a, b = (to(t, dtype) if is_tensor(t) else full([], t, dtype, condition.device) for t in (a, b))
    condition, a, b = broadcast(condition if condition.dtype is torch.bool else p.ne_scalar(condition, 0), a, b)
    return p.where(condition, a, b)


@register(aten.masked_fill.Scalar, aten.masked_fill.Tensor)
def masked_fill(x: Any, mask: Any, value: Any) -> Any:
    """x where the mask is False, else the value in x's dtype."""
    x, mask = broadcast(x, mask if mask.dtype is torch.bool else p.ne_scalar(mask, 0))
    if is_tensor(value):
        value = expand_to(to(value, x.dtype), x.shape)
    else:
        value = full_like(x, value)
    return p.where(mask, value, x)


def _bounded(x: Any, low: Any, high: Any) -> Any:
    """min(max(x, low), high) with NaN of x kept, in the promoted dtype."""
    dtype = result_dtype(x, low, high)
    if dtype is torch.bool:
        return NotImplemented
    tensors = [to(t, dtype) for t in (x, low, high) if is_tensor(t)]
    shape = broadcast(*tensors)[0].shape
    x = expand_to(to(x, dtype), shape)
    for bound, name in ((low, "maximum"), (high, "minimum")):
        if is_tensor(bound):
            x = getattr(p, name)(x, expand_to(to(bound, dtype), shape))
        elif bound is not None:
            x = getattr(p, f"{name}_scalar")(x, number(bound, dtype))
    return x


@register(aten.clamp.default, aten.clamp.Tensor)
def clamp(x: Any, min: Any = None, max: Any = None) -> Any:
    """min(max(x, min), max); NaN stays."""
    return _bounded(x, min, max)


@register(aten.clamp_min.default, aten.clamp_min.Tensor)
def clamp_min(x: Any, min: Any) -> Any:
    """max(x, min)."""
    return _bounded(x, min, None)


@register(aten.clamp_max.default, aten.clamp_max.Tensor)
def clamp_max(x: Any, max: Any) -> Any:
    """min(x, max)."""
    return _bounded(x, None, max)


def _log_zero(product: Callable[[Any, Any], Any], a: Any, b: Any) -> Any:
    dtype = _floating(result_dtype(a, b))
    inside = compute_dtype(dtype)
    device = (a if is_tensor(a) else b).device
    a, b = broadcast(*(to(to(t, dtype), inside) if is_tensor(t) else full([], t, inside, device) for t in (a, b)))
    out = p.where(p.eq_scalar(a, 0.0), full_like(a, 0.0), product(a, b))
    return to(p.where(p.isnan(b), full_like(a, math.nan), out), dtype)


@register(aten.xlogy.Tensor, aten.xlogy.Scalar_Self, aten.xlogy.Scalar_Other)
def xlogy(a: Any, b: Any) -> Any:
    """a * log(b), 0 where a is 0."""
    return _log_zero(lambda x, y: p.mul(x, p.log(y)), a, b)


@register(aten.special_xlog1py.default, aten.special_xlog1py.self_scalar, aten.special_xlog1py.other_scalar)
def xlog1py(a: Any, b: Any) -> Any:
    """a * log1p(b), 0 where a is 0."""
    return _log_zero(lambda x, y: p.mul(x, p.log1p(y)), a, b)


def _log_of_sum(overload: Any, exp: Any, scale: float, doc: str) -> None:
    """log(b**x + b**y) in base b, by the larger operand; `exp` is b**x, `scale` 1 / ln(b)."""

    def log_of_sum(a: Any, b: Any) -> Any:
        if a.dtype is not b.dtype or not a.dtype.is_floating_point:
            return NotImplemented
        a, b = broadcast(a, b)
        tail = p.log1p(exp(p.neg(p.abs(p.sub(a, b)))))
        tail = tail if scale == 1.0 else p.mul_scalar(tail, scale)
        return p.where(p.logical_and(p.isinf(a), p.eq(a, b)), a, p.add(p.maximum(a, b), tail))

    log_of_sum.__doc__ = doc
    register(overload)(float32_inside(log_of_sum))


_log_of_sum(aten.logaddexp.default, p.exp, 1.0, "log(exp(a) + exp(b)) by the larger operand.")
_log_of_sum(aten.logaddexp2.default, p.exp2, 1.0 / math.log(2.0), "log2(2**a + 2**b) by the larger operand.")


@register(aten.ldexp.Tensor)
def ldexp(a: Any, b: Any) -> Any:
    """a * 2**b."""
    return mul(a, pow_of_scalar(2.0, b))


@register(aten.heaviside.default)
def heaviside(x: Any, values: Any) -> Any:
    """0 below 0, `values` at 0, 1 above and for NaN."""
    x, values = broadcast(x, values)
    if x.dtype is torch.bool:
        return p.where(x, x, values)
    return p.where(p.eq_scalar(x, number(0, x.dtype)), values, p.where(p.lt_scalar(x, number(0, x.dtype)), full_like(x, 0), full_like(x, 1)))
