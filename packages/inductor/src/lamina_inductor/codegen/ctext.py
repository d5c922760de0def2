"""C++ text of types, constants, index expressions and scalar ops, and the prelude that the texts rely on.

Numerics: bf16 and f16 live in `float` variables and are rounded where their op says so; bool is `bool`; integers wrap (`-fwrapv`).
The prelude has no headers: functions of libm are declared with the simd attribute, so that gcc vectorises calls through libmvec.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from lamina_dynshape.expr import Expr, bounds

from .special import FUNCTIONS

__all__ = ["COMPUTE", "STORAGE", "ExprText", "constant", "load_text", "op_text", "prelude", "store_text"]

STORAGE = {
    torch.float32: "float", torch.float64: "double", torch.int64: "i64", torch.int32: "int", torch.int16: "short", torch.int8: "signed char",
    torch.uint8: "unsigned char", torch.bool: "unsigned char", torch.bfloat16: "unsigned short", torch.float16: "_Float16",
    torch.complex64: "c64", torch.complex128: "c128", torch.uint16: "unsigned short", torch.uint32: "unsigned", torch.uint64: "unsigned long",
    torch.complex32: "c32",  # this and the next are moved, never computed with: the lowering leaves such calls to ATen
    torch.float8_e5m2: "unsigned char", torch.float8_e4m3fn: "unsigned char", torch.float8_e5m2fnuz: "unsigned char", torch.float8_e4m3fnuz: "unsigned char",
}
COMPUTE = {**STORAGE, torch.bool: "bool", torch.bfloat16: "float", torch.float16: "float"}
_ROUND = {torch.bfloat16: "lm_round_bf16", torch.float16: "lm_round_f16"}

_MATH = """exp exp2 expm1 log log2 log10 log1p sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh erf erfc""".split()
_MATH2 = ["pow", "atan2", "hypot"]


def prelude(vector_math: bool = True) -> str:
    """Types, prototypes and small inline functions that kernels use."""
    simd = '__attribute__((simd("notinbranch"),const,nothrow))' if vector_math else "__attribute__((const,nothrow))"
    plain = "__attribute__((const,nothrow))"
    lines = ["typedef long i64; typedef unsigned long u64; struct c32 { unsigned short re, im; }; struct c64 { float re, im; }; struct c128 { double re, im; };", 'extern "C" {']
    for f in _MATH:
        lines.append(f"{simd} float {f}f(float); {simd} double {f}(double);")
    for f in _MATH2:
        lines.append(f"{simd} float {f}f(float, float); {simd} double {f}(double, double);")
    for f in ("fmod", "nextafter"):
        lines.append(f"{plain} float {f}f(float, float); {plain} double {f}(double, double);")
    lines.append(f"{plain} float lgammaf(float); {plain} double lgamma(double);")
    lines.append("}")
    lines.append(_INLINE)
    return "\n".join(lines)


_INLINE = r"""
#define LM static inline __attribute__((always_inline))
LM float lm_bf16(unsigned short h) { unsigned u = (unsigned)h << 16; float f; __builtin_memcpy(&f, &u, 4); return f; }
LM unsigned short lm_to_bf16(float f) { unsigned u; __builtin_memcpy(&u, &f, 4);
  unsigned r = (u + 0x7fff + ((u >> 16) & 1)) >> 16; return f != f ? (unsigned short)0x7fc0 : (unsigned short)r; }
LM float lm_round_bf16(float f) { return lm_bf16(lm_to_bf16(f)); }
LM float lm_round_f16(float f) { return (float)(_Float16)f; }
template <class T> LM T lm_max(T a, T b) { return (a > b) | (a != a) ? a : b; }
template <class T> LM T lm_min(T a, T b) { return (a < b) | (a != a) ? a : b; }
template <class T> LM T lm_fmax(T a, T b) { return (a > b) | (b != b) ? a : b; }
template <class T> LM T lm_fmin(T a, T b) { return (a < b) | (b != b) ? a : b; }
template <class T> LM T lm_sign(T a) { return a > 0 ? (T)1 : a < 0 ? (T)-1 : (T)0; }
LM float lm_fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
// Cody and Waite reduction, degree-6 polynomial (Cephes): 1 ulp, inlined into the vector loop; overflow, underflow and NaN as expf
LM float lm_exp(float x) { float c = x > 88.8f ? 88.8f : x; c = c < -104.0f ? -104.0f : c; float n = __builtin_rintf(c * 1.44269504088896341f);
  float r = lm_fma(n, -0.693359375f, c); r = lm_fma(n, 2.12194440e-4f, r);
  float p = 1.9875691500e-4f; p = lm_fma(p, r, 1.3981999507e-3f); p = lm_fma(p, r, 8.3334519073e-3f); p = lm_fma(p, r, 4.1665795894e-2f); p = lm_fma(p, r, 1.6666665459e-1f);
  p = lm_fma(p, r, 5.0000001201e-1f); p = lm_fma(p, r * r, r) + 1.0f; int i = (int)n, h = i >> 1; unsigned a = (unsigned)(h + 127) << 23, b = (unsigned)(i - h + 127) << 23;
  float s, t; __builtin_memcpy(&s, &a, 4); __builtin_memcpy(&t, &b, 4); return p * s * t; }
LM float lm_sigmoid(float x) { return 1.0f / (1.0f + lm_exp(-x)); }
LM double lm_sigmoid(double x) { return 1.0 / (1.0 + exp(-x)); }
// rational approximation on [-4, 4], 4e-7 absolute: as libmvec's erff at twice its rate
LM float lm_erf(float x) { float v = x < -4.0f ? -4.0f : x > 4.0f ? 4.0f : x, s = v * v;
  float p = -2.72614225801306e-10f; p = lm_fma(p, s, 2.77068142495902e-08f); p = lm_fma(p, s, -2.10102402082508e-06f); p = lm_fma(p, s, -5.69250639462346e-05f);
  p = lm_fma(p, s, -7.34990630326855e-04f); p = lm_fma(p, s, -2.95459980854025e-03f); p = lm_fma(p, s, -1.60960333262415e-02f);
  float q = -1.45660718464996e-05f; q = lm_fma(q, s, -2.13374055278905e-04f); q = lm_fma(q, s, -1.68282697438203e-03f); q = lm_fma(q, s, -7.37332916720468e-03f);
  q = lm_fma(q, s, -1.42647390514189e-02f); return v * p / q; }
LM float lm_rsqrt(float x) { return 1.0f / __builtin_sqrtf(x); }
LM double lm_rsqrt(double x) { return 1.0 / __builtin_sqrt(x); }
LM bool lm_isinf(float x) { return __builtin_fabsf(x) == __builtin_inff(); }
LM bool lm_isinf(double x) { return __builtin_fabs(x) == __builtin_inf(); }
LM bool lm_isfinite(float x) { return __builtin_fabsf(x) < __builtin_inff(); }
LM bool lm_isfinite(double x) { return __builtin_fabs(x) < __builtin_inf(); }
template <class T> LM bool lm_signbit(T x) { return x < 0; }
LM bool lm_signbit(float x) { int u; __builtin_memcpy(&u, &x, 4); return u < 0; }
LM bool lm_signbit(double x) { i64 u; __builtin_memcpy(&u, &x, 8); return u < 0; }
template <class T> LM T lm_fdiv(T a, T b) { T q = a / b; return ((a % b != 0) & ((a % b < 0) != (b < 0))) ? (T)(q - 1) : q; }
template <class T> LM T lm_fmod(T a, T b) { T r = a % b; return r + ((r != 0) & ((r < 0) != (b < 0)) ? b : (T)0); }
LM float lm_remainder(float a, float b) { float m = fmodf(a, b); return (m != 0) & ((b < 0) != (m < 0)) ? m + b : m; }
LM double lm_remainder(double a, double b) { double m = fmod(a, b); return (m != 0) & ((b < 0) != (m < 0)) ? m + b : m; }
LM float lm_floordiv(float a, float b) { if (b == 0) return a / b; float m = fmodf(a, b), d = (a - m) / b; if ((m != 0) & ((b < 0) != (m < 0))) d -= 1;
  if (d != 0) { float f = __builtin_floorf(d); if (d - f > 0.5f) f += 1; return f; } return __builtin_copysignf(0.0f, a / b); }
LM double lm_floordiv(double a, double b) { if (b == 0) return a / b; double m = fmod(a, b), d = (a - m) / b; if ((m != 0) & ((b < 0) != (m < 0))) d -= 1;
  if (d != 0) { double f = __builtin_floor(d); if (d - f > 0.5) f += 1; return f; } return __builtin_copysign(0.0, a / b); }
LM double lm_logaddexp(double a, double b) { double hi = lm_max(a, b), lo = lm_min(a, b); return lo == hi && lm_isinf(hi) ? hi : hi + log1p(exp(lo - hi)); }
template <class T> LM T lm_ipow(T a, T b) { if (b < 0) return a == 1 ? 1 : a == (T)-1 ? ((b & 1) ? (T)-1 : (T)1) : 0;
  T r = 1; while (b) { if (b & 1) r *= a; a *= a; b >>= 1; } return r; }
template <class T> LM T lm_gcd(T a, T b) { a = a < 0 ? (T)-a : a; b = b < 0 ? (T)-b : b; while (a != 0) { T r = b % a; b = a; a = r; } return b; }
template <class T> LM T lm_shl(T a, T b) { return (b < 0) | (b >= (T)(8 * sizeof(T))) ? (T)0 : (T)(a << b); }
template <class T> LM T lm_shr(T a, T b) { return (b < 0) | (b >= (T)(8 * sizeof(T))) ? (T)(a < 0 ? -1 : 0) : (T)(a >> b); }
template <class A, class B> LM A lm_bits(B b) { A a; __builtin_memcpy(&a, &b, sizeof(A)); return a; }
LM i64 lm_imin(i64 a, i64 b) { return a < b ? a : b; }
LM i64 lm_imax(i64 a, i64 b) { return a > b ? a : b; }
// d[u*ldd + v] = s[v*lds + u] for u < nu, v < nv: 16x16 blocks of 4-byte elements by four perfect shuffles of vectors
typedef int lm_v16 __attribute__((vector_size(64), aligned(4), may_alias));
template <class T> LM void lm_tile(T* __restrict d, i64 ldd, const T* __restrict s, i64 lds, i64 nu, i64 nv) {
  i64 v = 0;
  if (sizeof(T) == 4 && nu == 16) for (; v + 16 <= nv; v += 16) {
    lm_v16 a[16], b[16]; const lm_v16 lo = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23}, hi = {8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    _Pragma("GCC unroll 16") for (int i = 0; i < 16; i++) a[i] = *(const lm_v16*)(s + (v + i) * lds);
    _Pragma("GCC unroll 4") for (int r = 0; r < 2; r++) {
      _Pragma("GCC unroll 8") for (int i = 0; i < 8; i++) { b[2 * i] = __builtin_shuffle(a[i], a[i + 8], lo); b[2 * i + 1] = __builtin_shuffle(a[i], a[i + 8], hi); }
      _Pragma("GCC unroll 8") for (int i = 0; i < 8; i++) { a[2 * i] = __builtin_shuffle(b[i], b[i + 8], lo); a[2 * i + 1] = __builtin_shuffle(b[i], b[i + 8], hi); } }
    _Pragma("GCC unroll 16") for (int i = 0; i < 16; i++) *(lm_v16*)(d + i * ldd + v) = a[i]; }
  for (; v < nv; v++) for (i64 u = 0; u < nu; u++) d[u * ldd + v] = s[v * lds + u]; }
// A run of c values into the moments (n values, their mean, sum of squared deviations m2) of those before, by Chan's formula. `near` is the run's mean but for
// the rounding of its sum; q and r are sums of squares and of the deviations from it: r corrects both moments (Chan, Golub and LeVeque 1983, 1.7), which is exact
// where all values are equal.
template <class T> LM void lm_merge(i64 c, T near, T q, T r, double& n, double& mean, double& m2) {
  const T x = r / (T)c; const double v = q - (double)x * r, e = (double)near + x - mean, t = n + c, f = c / t;
  mean += e * f; m2 += (v < 0 ? 0 : v) + e * e * n * f; n = t; }
template <class T> struct lm_vector { typedef T type __attribute__((vector_size(64), may_alias)); };
template <class T> LM T lm_across(typename lm_vector<T>::type v) { const int L = 64 / sizeof(T); T a[L]; __builtin_memcpy(a, &v, 64);
  _Pragma("GCC unroll 4") for (int h = L / 2; h; h /= 2) _Pragma("omp simd") for (int l = 0; l < h; l++) a[l] += a[l + h];
  return a[0]; }
// w: the run, on 64 bytes. Four vectors at a time: an addition takes four cycles, and shorter sums are better ones
template <class T> LM void lm_moments(const T* w, i64 c, double& n, double& mean, double& m2) {
  typedef typename lm_vector<T>::type V; const i64 L = 64 / sizeof(T); i64 l = 0; if (c <= 0) return;
  V s[4] = {}, q[4] = {}, r[4] = {};
  for (; l + 4 * L <= c; l += 4 * L) _Pragma("GCC unroll 4") for (int u = 0; u < 4; u++) s[u] += ((const V*)(w + l))[u];
  for (; l + L <= c; l += L) s[0] += *(const V*)(w + l);
  T mu = lm_across<T>((s[0] + s[1]) + (s[2] + s[3])); for (; l < c; l++) mu += w[l];
  mu /= (T)c;
  for (l = 0; l + 4 * L <= c; l += 4 * L) _Pragma("GCC unroll 4") for (int u = 0; u < 4; u++) { V d = ((const V*)(w + l))[u] - mu; q[u] += d * d; r[u] += d; }
  for (; l + L <= c; l += L) { V d = *(const V*)(w + l) - mu; q[0] += d * d; r[0] += d; }
  T qs = lm_across<T>((q[0] + q[1]) + (q[2] + q[3])), rs = lm_across<T>((r[0] + r[1]) + (r[2] + r[3])); for (; l < c; l++) { T d = w[l] - mu; qs += d * d; rs += d; }
  lm_merge(c, mu, qs, rs, n, mean, m2); }
// the same for each of cn columns, whose sums are s
template <class T, int N> LM void lm_column_moments(const T (*w)[N], i64 c, i64 cn, T* s, double* n, double* mean, double* m2) {
  T q[N], r[N]; i64 k = 0;
  _Pragma("omp simd") for (i64 l = 0; l < cn; l++) { s[l] /= (T)c; q[l] = r[l] = 0; }
  for (; k + 4 <= c; k += 4) _Pragma("omp simd") for (i64 l = 0; l < cn; l++) {
    T d0 = w[k][l] - s[l], d1 = w[k + 1][l] - s[l], d2 = w[k + 2][l] - s[l], d3 = w[k + 3][l] - s[l];
    q[l] += (d0 * d0 + d1 * d1) + (d2 * d2 + d3 * d3); r[l] += (d0 + d1) + (d2 + d3); }
  for (; k < c; k++) _Pragma("omp simd") for (i64 l = 0; l < cn; l++) { T d = w[k][l] - s[l]; q[l] += d * d; r[l] += d; }
  _Pragma("omp simd") for (i64 l = 0; l < cn; l++) lm_merge(c, s[l], q[l], r[l], n[l], mean[l], m2[l]); }
#pragma omp declare reduction(lmax : float : omp_out = lm_max(omp_out, omp_in)) initializer(omp_priv = -__builtin_inff())
#pragma omp declare reduction(lmax : double : omp_out = lm_max(omp_out, omp_in)) initializer(omp_priv = -__builtin_inf())
#pragma omp declare reduction(lmin : float : omp_out = lm_min(omp_out, omp_in)) initializer(omp_priv = __builtin_inff())
#pragma omp declare reduction(lmin : double : omp_out = lm_min(omp_out, omp_in)) initializer(omp_priv = __builtin_inf())
"""

def constant(value: Any, dtype: torch.dtype) -> str:
    """Literal of the compute type."""
    if dtype == torch.bool:
        return "true" if value else "false"
    if not dtype.is_floating_point:
        if value == -(1 << 63):
            return "(-9223372036854775807L - 1)"
        return f"{int(value)}L" if dtype == torch.int64 else f"({COMPUTE[dtype]}){int(value)}"
    f = dtype != torch.float64
    if math.isnan(value):
        return '__builtin_nanf("")' if f else '__builtin_nan("")'
    if math.isinf(value):
        text = "__builtin_inff()" if f else "__builtin_inf()"
        return text if value > 0 else f"(-{text})"
    if dtype != torch.float64:
        value = torch.tensor(value, dtype=torch.float64).to(dtype).item()  # rounded as a tensor element would be
        if math.isinf(value):
            return constant(value, dtype)
    text = repr(float(value))
    if "e" not in text and "." not in text:
        text += ".0"
    text += "f" if f else ""
    return f"({text})" if text.startswith("-") else text


class ExprText:
    """Visitor: an index expression as C++ over i64. `names` maps symbols; `ranges` proves operands of / and % not negative."""

    def __init__(self, names: dict[Any, str], ranges: dict[Any, Any]) -> None:
        self.names, self.ranges = names, ranges

    def __call__(self, e: Expr | int) -> str:
        return str(e) if isinstance(e, int) else e.visit(self)

    def visit_integer(self, value: int) -> str:
        return str(value) if abs(value) < 1 << 31 else f"{value}L"

    def visit_symbol(self, symbol: Any) -> str:
        return self.names.get(symbol) or str(symbol)

    def visit_sum(self, terms: Any, const: int) -> str:
        parts = [self(e) if c == 1 else f"{self(e)}*{self.visit_integer(c)}" for e, c in terms]
        if const:
            parts.append(self.visit_integer(const))
        return "(" + " + ".join(parts) + ")"

    def visit_product(self, factors: Any) -> str:
        return "(" + "*".join(map(self, factors)) + ")"

    def _natural(self, num: Expr, den: Expr) -> bool:
        lo, _ = bounds(num, self.ranges)
        lo_d, _ = bounds(den, self.ranges)
        return lo is not None and lo >= 0 and lo_d is not None and lo_d > 0

    def visit_floordiv(self, num: Expr, den: Expr) -> str:
        a, b = self(num), self(den)
        return f"({a}/{b})" if self._natural(num, den) else f"lm_fdiv<i64>({a}, {b})"

    def visit_mod(self, num: Expr, den: Expr) -> str:
        a, b = self(num), self(den)
        return f"({a}%{b})" if self._natural(num, den) else f"lm_fmod<i64>({a}, {b})"

    def _fold(self, name: str, args: Any) -> str:
        text = self(args[0])
        for a in args[1:]:
            text = f"{name}({text}, {self(a)})"
        return text

    def visit_min(self, args: Any) -> str:
        return self._fold("lm_imin", args)

    def visit_max(self, args: Any) -> str:
        return self._fold("lm_imax", args)


def load_text(pointer: str, index: str, dtype: torch.dtype) -> str:
    at = f"{pointer}[{index}]"
    if dtype == torch.bool:
        return f"({at} != 0)"
    if dtype == torch.bfloat16:
        return f"lm_bf16({at})"
    return f"(float){at}" if dtype == torch.float16 else at


def store_text(value: str, dtype: torch.dtype) -> str:
    """`value` (compute type) as a storage element."""
    if dtype == torch.bool:
        return f"({value} ? (unsigned char)1 : (unsigned char)0)"
    if dtype == torch.bfloat16:
        return f"lm_to_bf16({value})"
    return f"(_Float16)({value})" if dtype == torch.float16 else value


_INFIX = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_BITS = {"bitwise_and": "&", "bitwise_or": "|", "bitwise_xor": "^"}
_BOOLS = {"logical_and": "&", "logical_or": "|", "logical_xor": "^"}


def op_text(name: str, dtype: torch.dtype, a: list[str]) -> str:
    """Expression of a table op; `dtype` is the operands'."""
    text = _plain(name, dtype, a)
    out_bool = name in _INFIX or name in _BOOLS or name in ("isnan", "isinf", "isfinite", "signbit", "logical_not")
    return f"{_ROUND[dtype]}({text})" if dtype in _ROUND and not out_bool else text


def _plain(name: str, dtype: torch.dtype, a: list[str]) -> str:
    floating = dtype.is_floating_point
    double = dtype == torch.float64
    c = COMPUTE[dtype]
    f = "" if double else "f"
    if name in ("erf", "exp") and not double:
        return f"lm_{name}({a[0]})"
    if name in _MATH or name in _MATH2:
        if name == "pow" and not floating:
            return f"lm_ipow<{c}>({a[0]}, {a[1]})"
        return f"{name}{f}({', '.join(a)})"
    if f"lm_{name}" in FUNCTIONS:
        return f"({c})lm_{name}({', '.join(a)})"
    if name in _INFIX:
        return f"({a[0]} {_INFIX[name]} {a[1]})"
    if name in _BOOLS:
        return f"({a[0]} {_BOOLS[name]} {a[1]})"
    if name in _BITS:
        return f"({c})({a[0]} {_BITS[name]} {a[1]})"
    simple = {
        "add": "({0} + {1})", "sub": "({0} - {1})", "mul": "({0} * {1})", "neg": "(-{0})", "logical_not": "(!{0})",
        "maximum": "lm_max<%s>({0}, {1})" % c, "minimum": "lm_min<%s>({0}, {1})" % c, "fmax": "lm_fmax<%s>({0}, {1})" % c,
        "fmin": "lm_fmin<%s>({0}, {1})" % c, "sign": "lm_sign<%s>({0})" % c, "isnan": "({0} != {0})", "isinf": "lm_isinf({0})",
        "isfinite": "lm_isfinite({0})", "signbit": "lm_signbit({0})", "shift_left": "lm_shl<%s>({0}, {1})" % c,
        "shift_right": "lm_shr<%s>({0}, {1})" % c, "reciprocal": "((%s)1 / {0})" % c, "rsqrt": "lm_rsqrt({0})", "sigmoid": "lm_sigmoid({0})",
        "div": "({0} / {1})", "fma": "__builtin_fma%s({0}, {1}, {2})" % f,
        "lgamma": "lgamma%s({0})" % f, "nextafter": "nextafter%s({0}, {1})" % f,
        "copysign": "__builtin_copysign%s({0}, {1})" % f, "gcd": "lm_gcd<%s>({0}, {1})" % c, "bitwise_not": "(!{0})" if dtype == torch.bool else "(%s)(~{0})" % c,
    }
    if name == "abs":
        return f"__builtin_fabs{f}({a[0]})" if floating else f"({a[0]} < 0 ? ({c})-{a[0]} : {a[0]})"
    if name in ("floor", "ceil", "trunc"):
        return f"__builtin_{name}{f}({a[0]})" if floating else a[0]
    if name == "round":
        return f"__builtin_rint{f}({a[0]})" if floating else a[0]
    if name == "sqrt":
        return f"__builtin_sqrt{f}({a[0]})"
    if name == "fmod":
        return f"fmod{f}({a[0]}, {a[1]})" if floating else f"({c})({a[0]} % {a[1]})"
    if name == "remainder":
        return f"lm_remainder({a[0]}, {a[1]})" if floating else f"lm_fmod<{c}>({a[0]}, {a[1]})"
    if name == "floordiv":
        return f"lm_floordiv({a[0]}, {a[1]})" if floating else f"lm_fdiv<{c}>({a[0]}, {a[1]})"
    if name == "truncdiv":
        return f"__builtin_trunc{f}({a[0]} / {a[1]})" if floating else f"({c})({a[0]} / {a[1]})"
    text = simple[name].format(*a)
    return f"({c}){text}" if name in ("add", "sub", "mul", "neg") and dtype in (torch.int8, torch.int16, torch.uint8) else text


def convert_text(a: str, src: torch.dtype, dst: torch.dtype) -> str:
    """Value conversion as Tensor.to has it."""
    if src == dst:
        return a
    if dst == torch.bool:
        return f"({a} != 0)"
    if dst in _ROUND:
        return f"({a} ? 1.0f : 0.0f)" if src == torch.bool else f"{_ROUND[dst]}((float){a})"
    c = COMPUTE[dst]
    if src == torch.bool:  # never a plain cast: gcc 12 turns vector masks into -1 when it narrows them (AVX-512)
        return f"({a} ? ({c})1 : ({c})0)"
    if src.is_floating_point and dst in (torch.uint8, torch.int8, torch.int16):
        return f"({c})(i64){a}"
    return f"({c}){a}"
