"""Pointwise prims: operands of one shape and one dtype, or a Python scalar in a `<name>_scalar` form.

Conversion and broadcast are explicit, so a rule here never promotes and never broadcasts. Classes of dtype an op takes are in `Domain`:
low precision floats are taken only where no arithmetic happens (the decompositions convert to float32 around arithmetic).
NaN: `maximum`, `minimum` propagate it, `fmax`, `fmin` ignore it; comparisons give bool. A scalar is first converted to the tensor's dtype.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .registry import register
from .spec import DtypeNotTaken, Spec, TensorLike, dense_like, same_sizes

__all__ = ["BINARY", "COMPARISONS", "DOMAINS", "REVERSED", "TERNARY", "UNARY", "binary_meta", "unary_meta"]

_BOOL = frozenset({torch.bool})
_INT = frozenset({torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8})
_FLOAT = frozenset({torch.float32, torch.float64})
_LOW = frozenset({torch.float16, torch.bfloat16})
_REAL = _FLOAT | _INT
_ANY = _REAL | _LOW | _BOOL
_NUMBER = _REAL | _LOW
DOMAINS = {"float": _FLOAT, "real": _REAL, "number": _NUMBER, "any": _ANY, "bits": _INT | _BOOL, "int": _INT, "bool": _BOOL, "float or low": _FLOAT | _LOW}

# name: (reference, domain, doc)
UNARY: dict[str, tuple[Callable[..., Any], str, str]] = {
    "abs": (torch.abs, "number", "absolute value; the most negative integer maps to itself"),
    "neg": (torch.neg, "number", "-x"),
    "sign": (torch.sign, "number", "-1, 0 or 1; NaN maps to 0"),
    "exp": (torch.exp, "float", "e**x"),
    "exp2": (torch.exp2, "float", "2**x"),
    "expm1": (torch.expm1, "float", "e**x - 1, accurate near 0"),
    "log": (torch.log, "float", "natural logarithm"),
    "log2": (torch.log2, "float", "logarithm to base 2"),
    "log10": (torch.log10, "float", "logarithm to base 10"),
    "log1p": (torch.log1p, "float", "log(1 + x), accurate near 0"),
    "sqrt": (torch.sqrt, "float", "square root, correctly rounded"),
    "rsqrt": (torch.rsqrt, "float", "1 / sqrt(x)"),
    "reciprocal": (torch.reciprocal, "float", "1 / x, correctly rounded"),
    "sin": (torch.sin, "float", "sine"),
    "cos": (torch.cos, "float", "cosine"),
    "tan": (torch.tan, "float", "tangent"),
    "asin": (torch.asin, "float", "arc sine"),
    "acos": (torch.acos, "float", "arc cosine"),
    "atan": (torch.atan, "float", "arc tangent"),
    "sinh": (torch.sinh, "float", "hyperbolic sine"),
    "cosh": (torch.cosh, "float", "hyperbolic cosine"),
    "tanh": (torch.tanh, "float", "hyperbolic tangent"),
    "asinh": (torch.asinh, "float", "inverse hyperbolic sine"),
    "acosh": (torch.acosh, "float", "inverse hyperbolic cosine"),
    "atanh": (torch.atanh, "float", "inverse hyperbolic tangent"),
    "erf": (torch.erf, "float", "error function"),
    "erfc": (torch.erfc, "float", "1 - erf(x), accurate for large x"),
    "erfinv": (torch.erfinv, "float", "inverse of erf"),
    "lgamma": (torch.lgamma, "float", "log(abs(gamma(x)))"),
    "digamma": (torch.digamma, "float", "derivative of lgamma"),
    "sigmoid": (torch.sigmoid, "float", "1 / (1 + exp(-x))"),
    "floor": (torch.floor, "float or low", "largest integer not above x"),
    "ceil": (torch.ceil, "float or low", "smallest integer not below x"),
    "trunc": (torch.trunc, "float or low", "x without its fraction"),
    "round": (torch.round, "float or low", "nearest integer, ties to even"),
    "bitwise_not": (torch.bitwise_not, "bits", "every bit inverted; logical not on bool"),
    "logical_not": (torch.logical_not, "bool", "not x"),
}
# result is bool
PREDICATES: dict[str, tuple[Callable[..., Any], str, str]] = {
    "isnan": (torch.isnan, "float or low", "x is NaN"),
    "isinf": (torch.isinf, "float or low", "x is +inf or -inf"),
    "isfinite": (torch.isfinite, "float or low", "x is neither NaN nor infinite"),
    "signbit": (torch.signbit, "number", "x is negative, or -0.0"),
}


def _truncdiv(a: Any, b: Any) -> Any:
    return torch.div(a, b, rounding_mode="trunc")


BINARY: dict[str, tuple[Callable[..., Any], str, str]] = {
    "add": (torch.add, "real", "a + b; integers wrap"),
    "sub": (torch.sub, "real", "a - b; integers wrap"),
    "mul": (torch.mul, "real", "a * b; integers wrap"),
    "div": (torch.div, "float", "a / b, correctly rounded"),
    "floordiv": (torch.floor_divide, "real", "floor of a / b; integer division by zero raises"),
    "truncdiv": (_truncdiv, "real", "a / b rounded to zero; integer division by zero raises"),
    "remainder": (torch.remainder, "real", "Python's a % b: the sign of b"),
    "fmod": (torch.fmod, "real", "C's fmod: the sign of a"),
    "pow": (torch.pow, "real", "a ** b; a negative integer exponent gives 0, 1 or -1"),
    "maximum": (torch.maximum, "any", "larger of both; NaN if either is"),
    "minimum": (torch.minimum, "any", "smaller of both; NaN if either is"),
    "fmax": (torch.fmax, "number", "larger of both; NaN only if both are"),
    "fmin": (torch.fmin, "number", "smaller of both; NaN only if both are"),
    "atan2": (torch.atan2, "float", "angle of the point (b, a)"),
    "hypot": (torch.hypot, "float", "sqrt(a*a + b*b) without overflow"),
    "copysign": (torch.copysign, "float", "abs(a) with the sign of b"),
    "nextafter": (torch.nextafter, "float", "next float after a towards b"),
    "bitwise_and": (torch.bitwise_and, "bits", "a & b"),
    "bitwise_or": (torch.bitwise_or, "bits", "a | b"),
    "bitwise_xor": (torch.bitwise_xor, "bits", "a ^ b"),
    "shift_left": (torch.bitwise_left_shift, "int", "a << b; 0 if b is outside 0..bits-1"),
    "shift_right": (torch.bitwise_right_shift, "int", "a >> b, arithmetic; b outside 0..bits-1 gives the sign"),
    "logical_and": (torch.logical_and, "bool", "a and b"),
    "logical_or": (torch.logical_or, "bool", "a or b"),
    "logical_xor": (torch.logical_xor, "bool", "a != b on truth values"),
}
COMPARISONS: dict[str, tuple[Callable[..., Any], str, str]] = {
    "eq": (torch.eq, "any", "a == b"),
    "ne": (torch.ne, "any", "a != b; True for NaN"),
    "lt": (torch.lt, "any", "a < b"),
    "le": (torch.le, "any", "a <= b"),
    "gt": (torch.gt, "any", "a > b"),
    "ge": (torch.ge, "any", "a >= b"),
}
REVERSED: dict[str, tuple[Callable[..., Any], str, str]] = {
    "rsub_scalar": (lambda x, scalar: torch.rsub(x, scalar), "real", "scalar - x"),
    "rdiv_scalar": (lambda x, scalar: torch.div(torch.full((), scalar, dtype=x.dtype, device=x.device), x), "float", "scalar / x"),
    "rpow_scalar": (lambda x, scalar: torch.pow(torch.full_like(x, scalar), x), "real", "scalar ** x"),
}
TERNARY = ("where", "fma")


def _in_domain(name: str, x: TensorLike, domain: frozenset[torch.dtype]) -> None:
    if x.dtype not in domain:
        raise DtypeNotTaken(f"{name} does not take {x.dtype}; takes {', '.join(sorted(str(d).removeprefix('torch.') for d in domain))}")


def _same(name: str, a: TensorLike, b: TensorLike, *, dtype: bool = True) -> None:
    if dtype and a.dtype is not b.dtype:
        raise TypeError(f"{name}: operands have {a.dtype} and {b.dtype}; conversion is explicit")
    if not same_sizes(a.shape, b.shape):
        raise ValueError(f"{name}: operands have shapes {tuple(a.shape)} and {tuple(b.shape)}; broadcast is explicit")
    if a.device != b.device:
        raise ValueError(f"{name}: operands are on {a.device} and {b.device}")


def _result(dtype: torch.dtype, *operands: TensorLike) -> Spec:
    x = operands[0]
    return Spec(tuple(x.shape), dense_like(x.shape, operands), dtype, x.device)


def _scalar_fits(name: str, x: TensorLike, scalar: Any) -> None:
    if isinstance(scalar, (float, torch.SymFloat)) and not x.dtype.is_floating_point:
        raise TypeError(f"{name}: the scalar {scalar} is a float, the tensor {x.dtype}; conversion is explicit")
    if isinstance(scalar, complex):
        raise TypeError(f"{name}: complex scalars are not part of the dialect")


def unary_meta(name: str, domain: frozenset[torch.dtype], out: torch.dtype | None) -> Callable[..., Spec]:
    def meta(x: TensorLike) -> Spec:
        _in_domain(name, x, domain)
        return _result(out or x.dtype, x)

    return meta


def binary_meta(name: str, domain: frozenset[torch.dtype], out: torch.dtype | None) -> Callable[..., Spec]:
    def meta(a: TensorLike, b: TensorLike) -> Spec:
        _in_domain(name, a, domain)
        _same(name, a, b)
        return _result(out or a.dtype, a, b)

    return meta


def _scalar_meta(name: str, domain: frozenset[torch.dtype], out: torch.dtype | None) -> Callable[..., Spec]:
    def meta(x: TensorLike, scalar: Any) -> Spec:
        _in_domain(name, x, domain)
        _scalar_fits(name, x, scalar)
        return _result(out or x.dtype, x)

    return meta


def _scalar_reference(fn: Callable[..., Any]) -> Callable[..., Any]:
    # The scalar is rounded to the tensor's dtype first: that is what generated code has in its constant. A 0-d tensor of the same dtype says it.
    def reference(x: torch.Tensor, scalar: Any) -> torch.Tensor:
        return fn(x, torch.full((), scalar, dtype=x.dtype, device=x.device))

    return reference


def _where_meta(condition: TensorLike, a: TensorLike, b: TensorLike) -> Spec:
    if condition.dtype is not torch.bool:
        raise TypeError(f"where: the condition has {condition.dtype}, not bool")
    _in_domain("where", a, _ANY)
    _same("where", a, b)
    _same("where", condition, a, dtype=False)
    return _result(a.dtype, a, b, condition)


def _fma_meta(a: TensorLike, b: TensorLike, c: TensorLike) -> Spec:
    _in_domain("fma", a, _FLOAT)
    _same("fma", a, b)
    _same("fma", a, c)
    return _result(a.dtype, a, b, c)


def _fma(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    # a*b is exact in float64 for float32 operands, so only the sum rounds twice: at most one ulp of double rounding.
    if a.dtype == torch.float32:
        return (a.double() * b.double() + c.double()).float()
    return a * b + c


def _register_all() -> None:
    for table, out in ((UNARY, None), (PREDICATES, torch.bool)):
        for name, (fn, domain, doc) in table.items():
            register(f"{name}(Tensor x) -> Tensor", "pointwise", meta=unary_meta(name, DOMAINS[domain], out), reference=fn, doc=doc)
    for table, out in ((BINARY, None), (COMPARISONS, torch.bool)):
        for name, (fn, domain, doc) in table.items():
            register(f"{name}(Tensor a, Tensor b) -> Tensor", "pointwise", meta=binary_meta(name, DOMAINS[domain], out), reference=fn, doc=doc)
            register(
                f"{name}_scalar(Tensor x, Scalar scalar) -> Tensor", "pointwise", meta=_scalar_meta(f"{name}_scalar", DOMAINS[domain], out),
                reference=_scalar_reference(fn), doc=f"{doc}, where b is a number",
            )  # fmt: skip
    for name, (fn, domain, doc) in REVERSED.items():
        register(f"{name}(Tensor x, Scalar scalar) -> Tensor", "pointwise", meta=_scalar_meta(name, DOMAINS[domain], None), reference=fn, doc=doc)
    register(
        "where(Tensor condition, Tensor a, Tensor b) -> Tensor", "pointwise", meta=_where_meta, reference=torch.where, doc="a where the condition holds, else b"
    )
    register("fma(Tensor a, Tensor b, Tensor c) -> Tensor", "pointwise", meta=_fma_meta, reference=_fma, doc="a*b + c rounded once")


_register_all()
