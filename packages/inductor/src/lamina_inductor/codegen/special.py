"""C++ text of the special functions that kernels call: computed in double, written into a translation unit only where used.

`FUNCTIONS` maps a name to its text; a text may call functions that stand before it. `@fit` in a text is the call of a Chebyshev series of
`chebyshev.py`, whose coefficients are written where the series is used. Values at infinities, poles and outside of the domain are eager's.
Source:  Abramowitz and Stegun 9.6 (Bessel), 6.3 (digamma), 25.2 (zeta); Shepherd and Laframboise 1981 (erfcx).
"""

from __future__ import annotations

import re
from functools import cache

from .chebyshev import COEFFICIENTS

__all__ = ["FUNCTIONS", "functions_of"]

_SERIES = """template <int n> static inline double lm_series(const double (&c)[n], double t) {
  double b = 0, d = 0; for (int k = n - 1; k > 0; k--) { double e = (t + t) * b - d + c[k]; d = b; b = e; } return t * b - d + c[0]; }"""

FUNCTIONS: dict[str, str] = {
    "lm_digamma": r"""
static double lm_digamma(double x) {
  if (x == 0) return __builtin_copysign(__builtin_inf(), -x);
  double add = 0;
  if (x < 0) { if (x == __builtin_trunc(x)) return __builtin_nan(""); double r = x - __builtin_trunc(x); add = -3.14159265358979323846 / tan(3.14159265358979323846 * r); x = 1 - x; }
  while (x < 10) { add -= 1 / x; x += 1; }
  if (x == 10) return add + 2.25175258906672110764;
  double y = 0; if (x < 1.0e17) { double z = 1.0 / (x * x);
    y = z * (8.33333333333333333333e-2 + z * (-8.33333333333333333333e-3 + z * (3.96825396825396825397e-3 + z * (-4.16666666666666666667e-3 + z * (7.57575757575757575758e-3 + z * (-2.10927960927960927961e-2 + z * 8.33333333333333333333e-2)))))); }
  return log(x) - 0.5 / x - y + add; }""",
    "lm_erfinv": r"""
static double lm_erfinv(double y) {
  double ay = __builtin_fabs(y); if (ay > 1 || y != y) return __builtin_nan(""); if (ay == 1) return __builtin_copysign(__builtin_inf(), y);
  double x;
  if (ay <= 0.7) { double z = y * y, n = ((-0.140543331 * z + 0.914624893) * z - 1.645349621) * z + 0.886226899, d = (((0.012229801 * z - 0.329097515) * z + 1.442710462) * z - 2.118377725) * z + 1; x = y * n / d; }
  else { double z = __builtin_sqrt(-log((1 - ay) / 2)), n = ((1.641345311 * z + 3.429567803) * z - 1.624906493) * z - 1.970840454, d = (1.637067800 * z + 3.543889200) * z + 1; x = __builtin_copysign(n / d, y); }
  x -= (erf(x) - y) / (1.1283791670955126 * exp(-x * x)); x -= (erf(x) - y) / (1.1283791670955126 * exp(-x * x)); return x; }""",
    "lm_i0e": """
static double lm_i0e(double x) { double a = __builtin_fabs(x); return a <= 8 ? @i0_low(a / 4 - 1) : @i0_high(16 / a - 1) / __builtin_sqrt(a); }""",
    "lm_i0": """
static double lm_i0(double x) { return exp(__builtin_fabs(x)) * lm_i0e(x); }""",
    "lm_i1e": """
static double lm_i1e(double x) { double a = __builtin_fabs(x); return a <= 8 ? x * @i1_low(a / 4 - 1) : __builtin_copysign(@i1_high(16 / a - 1) / __builtin_sqrt(a), x); }""",
    "lm_i1": """
static double lm_i1(double x) { return exp(__builtin_fabs(x)) * lm_i1e(x); }""",
    **{f"lm_bessel_j{n}": f'static double lm_bessel_j{n}(double x) {{ return lm_isinf(x) ? __builtin_nan("") : __builtin_j{n}(x); }}' for n in (0, 1)},
    **{
        f"lm_bessel_y{n}": f'''
static double lm_bessel_y{n}(double x) {{ return x < 0 || lm_isinf(x) ? __builtin_nan("") : x == 0 ? -__builtin_inf() : __builtin_y{n}(x); }}'''
        for n in (0, 1)
    },
    "lm_scaled_modified_bessel_k0": """
static double lm_scaled_modified_bessel_k0(double x) {
  if (!(x > 0)) return x == 0 ? __builtin_inf() : __builtin_nan("");
  return x <= 2 ? (@k0_low(x * x / 2 - 1) - log(x / 2) * lm_i0(x)) * exp(x) : @k0_high(4 / x - 1) / __builtin_sqrt(x); }""",
    "lm_scaled_modified_bessel_k1": """
static double lm_scaled_modified_bessel_k1(double x) {
  if (!(x > 0)) return x == 0 ? __builtin_inf() : __builtin_nan("");
  return x <= 2 ? (@k1_low(x * x / 2 - 1) / x + log(x / 2) * lm_i1(x)) * exp(x) : @k1_high(4 / x - 1) / __builtin_sqrt(x); }""",
    "lm_modified_bessel_k0": "static double lm_modified_bessel_k0(double x) { return lm_scaled_modified_bessel_k0(x) * exp(-x); }",
    "lm_modified_bessel_k1": "static double lm_modified_bessel_k1(double x) { return lm_scaled_modified_bessel_k1(x) * exp(-x); }",
    "lm_erfcx": """
static double lm_erfcx_right(double x) { return x > 1e8 ? 0.56418958354775628695 / x : @erfcx((x - 3.75) / (x + 3.75)) / (1 + 2 * x); }
static double lm_erfcx(double x) {
  if (!(x < 0)) return lm_erfcx_right(x);
  double s = x * x, rest = __builtin_fma(x, x, -s);  // exp(x*x) needs the square's rounding error
  return x < -27 ? __builtin_inf() : 2 * exp(s) * (1 + rest) - lm_erfcx_right(-x); }""",
    "lm_ndtri": """
static double lm_ndtri(double p) {
  if (!(p > 0 && p < 1)) return p == 0 ? -__builtin_inf() : p == 1 ? __builtin_inf() : __builtin_nan("");
  double y = p - 0.5; if (__builtin_fabs(y) <= 0.425) return y * @ndtri_middle(y * y * (2 / 0.180625) - 1);
  double q = __builtin_sqrt(-log(y < 0 ? p : 1 - p));
  double x = q < 5 ? @ndtri_tail((q - 3.3) / 1.7) : @ndtri_far((q - 16.2) / 11.2); return y < 0 ? -x : x; }""",
    # Euler and Maclaurin: the sum to a > 9, then the integral, half a term, and terms by Bernoulli's numbers, B(2k) / (2k)!
    "lm_zeta": """
static double lm_zeta(double s, double q) {
  static const double b[] = {8.333333333333333e-2, -1.388888888888889e-3, 3.306878306878307e-5, -8.267195767195767e-7, 2.08767569878681e-8, -5.284190138687493e-10,
    1.3382536530684679e-11, -3.3896802963225827e-13, 8.586062056277845e-15, -2.174868698558062e-16, 5.5090028283602295e-18, -1.3954464685812523e-19};
  if (s == 1) return __builtin_inf();
  if (!(s > 1) || q != q) return __builtin_nan("");
  if (q <= 0) { if (q == __builtin_floor(q)) return __builtin_inf(); if (s != __builtin_floor(s)) return __builtin_nan(""); }
  double sum = 0, a = q, term = 0;
  for (int k = 0; k < 10 || a <= 9; k++, a += 1) { term = pow(a, -s); sum += term; if (__builtin_fabs(term) < 1e-17 * __builtin_fabs(sum)) return sum; }
  term = pow(a, -s); sum += term * a / (s - 1) + 0.5 * term;
  double factor = s; term /= a;
  for (int k = 0; k < 12; k++) { double t = b[k] * factor * term; sum += t; if (__builtin_fabs(t) < 1e-17 * __builtin_fabs(sum)) break;
    factor *= (s + 2 * k + 1) * (s + 2 * k + 2); term /= a * a; }
  return sum; }""",
}


@cache
def _text(name: str) -> str:
    """Text of one function; its coefficients before it."""
    text = FUNCTIONS[name].strip()
    fits = sorted(set(re.findall(r"@(\w+)", text)))
    tables = [f"static const double lm_c_{fit}[] = {{{', '.join(map(repr, COEFFICIENTS[fit]))}}};" for fit in fits]
    return "\n".join([*tables, re.sub(r"@(\w+)\(", r"lm_series(lm_c_\1, ", text)])


def functions_of(text: str) -> str:
    """The functions that a C++ text calls, with those that they call, in the order of the table."""
    called = set(re.findall(r"\blm_\w+", text)) & FUNCTIONS.keys()
    for name in reversed(FUNCTIONS):
        if name in called:
            called |= set(re.findall(r"\blm_\w+", FUNCTIONS[name])) & FUNCTIONS.keys()
    chosen = [_text(name) for name in FUNCTIONS if name in called]
    series = [_SERIES] if any("lm_series" in t for t in chosen) else []
    return "\n".join([*series, *chosen, ""]) if chosen else ""
