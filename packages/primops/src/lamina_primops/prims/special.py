"""Special functions as pointwise prims: float32 and float64 (gcd: integers), no `_scalar` forms.

They are prims because no short formula of eager's accuracy is made of the others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .pointwise import DOMAINS, binary_meta, unary_meta
from .registry import register

__all__ = ["SPECIAL_BINARY", "SPECIAL_UNARY"]

_S = torch.special
SPECIAL_UNARY: dict[str, tuple[Callable[..., Any], str, str]] = {
    "i0": (_S.i0, "float", "modified Bessel function of the first kind, order 0"),
    "i0e": (_S.i0e, "float", "exp(-abs(x)) * i0(x)"),
    "i1": (_S.i1, "float", "modified Bessel function of the first kind, order 1"),
    "i1e": (_S.i1e, "float", "exp(-abs(x)) * i1(x)"),
    "bessel_j0": (_S.bessel_j0, "float", "Bessel function of the first kind, order 0"),
    "bessel_j1": (_S.bessel_j1, "float", "Bessel function of the first kind, order 1"),
    "bessel_y0": (_S.bessel_y0, "float", "Bessel function of the second kind, order 0; -inf at 0, NaN below"),
    "bessel_y1": (_S.bessel_y1, "float", "Bessel function of the second kind, order 1; -inf at 0, NaN below"),
    "modified_bessel_k0": (_S.modified_bessel_k0, "float", "modified Bessel function of the second kind, order 0; inf at 0, NaN below"),
    "modified_bessel_k1": (_S.modified_bessel_k1, "float", "modified Bessel function of the second kind, order 1; inf at 0, NaN below"),
    "scaled_modified_bessel_k0": (_S.scaled_modified_bessel_k0, "float", "exp(x) * modified_bessel_k0(x)"),
    "scaled_modified_bessel_k1": (_S.scaled_modified_bessel_k1, "float", "exp(x) * modified_bessel_k1(x)"),
    "airy_ai": (_S.airy_ai, "float", "Airy function Ai"),
    "erfcx": (_S.erfcx, "float", "exp(x*x) * erfc(x), accurate for large x"),
    "ndtri": (_S.ndtri, "float", "inverse of the standard normal distribution function; NaN outside 0..1"),
}
SPECIAL_BINARY: dict[str, tuple[Callable[..., Any], str, str]] = {
    "gcd": (torch.gcd, "int", "greatest common divisor, not negative; gcd(0, 0) is 0"),
    "igamma": (_S.gammainc, "float", "regularised lower incomplete gamma function P(a, b)"),
    "igammac": (_S.gammaincc, "float", "regularised upper incomplete gamma function Q(a, b)"),
    "zeta": (_S.zeta, "float", "Hurwitz zeta function, sum of (k + b)**-a over k >= 0"),
}

for _name, (_fn, _domain, _doc) in SPECIAL_UNARY.items():
    register(f"{_name}(Tensor x) -> Tensor", "pointwise", meta=unary_meta(_name, DOMAINS[_domain], None), reference=_fn, doc=_doc)
for _name, (_fn, _domain, _doc) in SPECIAL_BINARY.items():
    register(f"{_name}(Tensor a, Tensor b) -> Tensor", "pointwise", meta=binary_meta(_name, DOMAINS[_domain], None), reference=_fn, doc=_doc)
