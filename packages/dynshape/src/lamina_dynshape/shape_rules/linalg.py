"""Dense linear algebra over (..., m, n) matrices. LAPACK's results are column-major."""

from __future__ import annotations

from typing import Any

import torch

from lamina_dynshape.dims import eq, lt, maximum, minimum
from lamina_dynshape.fake_tensor import DataDependent
from lamina_dynshape.layout import broadcast, contiguous
from lamina_dynshape.promotion import to_float
from lamina_dynshape.shape_rules.registry import rule

_REAL = {torch.complex64: torch.float32, torch.complex128: torch.float64}
_COMPLEX = {torch.float32: torch.complex64, torch.float64: torch.complex128}


def _row(mode: Any, sizes: Any, x: Any, dtype: Any = None) -> Any:
    return mode.make(sizes, contiguous(sizes), dtype or x.scalar_type, x.dev)


def _column(mode: Any, sizes: Any, x: Any, dtype: Any = None) -> Any:
    """Fresh matrices, each column-major."""
    turned = contiguous((*sizes[:-2], sizes[-1], sizes[-2]))
    return mode.make(sizes, (*turned[:-2], turned[-1], turned[-2]), dtype or x.scalar_type, x.dev)


def _real(x: Any) -> torch.dtype:
    return _REAL.get(x.scalar_type, x.scalar_type)


def _square(name: str, x: Any) -> None:
    if len(x.sizes) < 2:
        raise RuntimeError(f"{name}: The input tensor A must have at least 2 dimensions.")
    if not eq(x.sizes[-1], x.sizes[-2]):
        raise RuntimeError(f"{name}: A must be batches of square matrices, but they are {x.sizes[-2]} by {x.sizes[-1]} matrices")


def _info(mode: Any, x: Any) -> Any:
    return _row(mode, x.sizes[:-2], x, torch.int32)


# -- factorisations ---------------------------------------------------------------------------------------------------------
@rule("_linalg_svd")
def _svd(mode: Any, a: Any, full_matrices: bool = False, compute_uv: bool = True, *, driver: Any = None) -> Any:
    *batch, m, n = a.sizes
    k = minimum(m, n)
    s = _row(mode, (*batch, k), a, _real(a))
    if not compute_uv:
        return _row(mode, (0,), a), s, _row(mode, (0,), a)
    u = _column(mode, (*batch, m, m if full_matrices else k), a)
    vh = (*batch, n if full_matrices else k, n)
    return u, s, _column(mode, vh, a)


@rule("linalg_eig")
def _eig(mode: Any, a: Any) -> Any:
    _square("linalg.eig", a)
    dtype = _COMPLEX.get(a.scalar_type, a.scalar_type)
    return _row(mode, a.sizes[:-1], a, dtype), _column(mode, a.sizes, a, dtype)


@rule("_linalg_eigh")
def _eigh(mode: Any, a: Any, uplo: str = "L", compute_v: bool = True) -> Any:
    _square("linalg.eigh", a)
    return _row(mode, a.sizes[:-1], a, _real(a)), _column(mode, a.sizes, a) if compute_v else _row(mode, (0,), a)


@rule("linalg_qr")
def _qr(mode: Any, a: Any, kind: str = "reduced") -> Any:
    *batch, m, n = a.sizes
    k = minimum(m, n)
    q = _row(mode, (0,), a) if kind == "r" else _column(mode, (*batch, m, m if kind == "complete" else k), a)
    return q, _column(mode, (*batch, m if kind == "complete" else k, n), a)


@rule("geqrf")
def _geqrf(mode: Any, a: Any) -> Any:
    *batch, m, n = a.sizes
    return _column(mode, a.sizes, a), _row(mode, (*batch, minimum(m, n)), a)


@rule("linalg_lu_factor_ex")
def _lu_factor(mode: Any, a: Any, *, pivot: bool = True, check_errors: bool = False) -> Any:
    *batch, m, n = a.sizes
    return _column(mode, a.sizes, a), _row(mode, (*batch, minimum(m, n)), a, torch.int32), _info(mode, a)


@rule("linalg_lu")
def _lu(mode: Any, a: Any, *, pivot: bool = True) -> Any:
    *batch, m, n = a.sizes
    k = minimum(m, n)
    p = _row(mode, (*batch, m, m) if pivot else (0,), a)
    return p, _row(mode, (*batch, m, k), a), _row(mode, (*batch, k, n), a)


@rule("lu_unpack")
def _lu_unpack(mode: Any, lu: Any, pivots: Any, unpack_data: bool = True, unpack_pivots: bool = True) -> Any:
    *batch, m, n = lu.sizes
    k = minimum(m, n)
    p = _row(mode, (*batch, m, m) if unpack_pivots else (0,), lu)
    if not unpack_data:
        return p, _row(mode, (0,), lu), _row(mode, (0,), lu)
    return p, _row(mode, (*batch, m, k), lu), _row(mode, (*batch, k, n), lu)


@rule("linalg_cholesky_ex")
def _cholesky_ex(mode: Any, a: Any, *, upper: bool = False, check_errors: bool = False) -> Any:
    _square("linalg.cholesky", a)
    return _column(mode, a.sizes, a), _info(mode, a)


@rule("cholesky")
def _cholesky(mode: Any, a: Any, upper: bool = False) -> Any:
    _square("cholesky", a)
    return _column(mode, a.sizes, a)


@rule("cholesky_inverse")
def _cholesky_inverse(mode: Any, a: Any, upper: bool = False) -> Any:
    return _column(mode, a.sizes, a)


@rule("linalg_ldl_factor_ex")
def _ldl_factor(mode: Any, a: Any, *, hermitian: bool = False, check_errors: bool = False) -> Any:
    return _column(mode, a.sizes, a), _row(mode, a.sizes[:-1], a, torch.int32), _info(mode, a)


@rule("linalg_householder_product")
def _householder_product(mode: Any, a: Any, tau: Any) -> Any:
    return _column(mode, a.sizes, a)


@rule("ormqr")
def _ormqr(mode: Any, a: Any, tau: Any, other: Any, left: bool = True, transpose: bool = False) -> Any:
    return _column(mode, other.sizes, a)


# -- solving ------------------------------------------------------------------------------------------------------------------
def _is_vector(a: Any, b: Any) -> bool:
    return len(b.sizes) == 1 or (len(a.sizes) - 1 == len(b.sizes) and b.sizes == a.sizes[:-1])


@rule("_linalg_solve_ex")
def _solve_ex(mode: Any, a: Any, b: Any, *, left: bool = True, check_errors: bool = False) -> Any:
    _square("linalg.solve", a)
    batch = a.sizes[:-2]
    if _is_vector(a, b):
        sizes = (*broadcast(batch, b.sizes[:-1]), b.sizes[-1])
    else:
        sizes = (*broadcast(batch, b.sizes[:-2]), *b.sizes[-2:])
    result = _column(mode, sizes, a) if left and len(sizes) > 1 else _row(mode, sizes, a)
    return result, _column(mode, a.sizes, a), _row(mode, a.sizes[:-1], a, torch.int32), _info(mode, a)


@rule("linalg_lu_solve")
def _lu_solve(mode: Any, lu: Any, pivots: Any, b: Any, *, left: bool = True, adjoint: bool = False) -> Any:
    sizes = (*broadcast(lu.sizes[:-2], b.sizes[:-2]), *b.sizes[-2:])
    return _column(mode, sizes, b) if left else _row(mode, sizes, b)


@rule("linalg_solve_triangular")
def _solve_triangular(mode: Any, a: Any, b: Any, *, upper: bool, left: bool = True, unitriangular: bool = False) -> Any:
    batch = broadcast(a.sizes[:-2], b.sizes[:-2])
    return _column(mode, (*batch, *b.sizes[-2:]), b)


@rule("triangular_solve")
def _triangular_solve(mode: Any, b: Any, a: Any, upper: bool = True, transpose: bool = False, unitriangular: bool = False) -> Any:
    batch = broadcast(a.sizes[:-2], b.sizes[:-2])
    return _column(mode, (*batch, *b.sizes[-2:]), b), _column(mode, (*batch, *a.sizes[-2:]), b)


@rule("cholesky_solve")
def _cholesky_solve(mode: Any, b: Any, a: Any, upper: bool = False) -> Any:
    return _column(mode, (*broadcast(a.sizes[:-2], b.sizes[:-2]), *b.sizes[-2:]), b)


@rule("linalg_ldl_solve")
def _ldl_solve(mode: Any, ld: Any, pivots: Any, b: Any, *, hermitian: bool = False) -> Any:
    return _column(mode, (*broadcast(ld.sizes[:-2], b.sizes[:-2]), *b.sizes[-2:]), b)


@rule("linalg_inv_ex")
def _inv_ex(mode: Any, a: Any, *, check_errors: bool = False) -> Any:
    _square("linalg.inv", a)
    return _column(mode, a.sizes, a), _info(mode, a)


@rule("_linalg_det")
def _det(mode: Any, a: Any) -> Any:
    _square("linalg.det", a)
    return _row(mode, a.sizes[:-2], a), _column(mode, a.sizes, a), _row(mode, a.sizes[:-1], a, torch.int32)


@rule("_linalg_slogdet")
def _slogdet(mode: Any, a: Any) -> Any:
    _square("linalg.slogdet", a)
    batch = a.sizes[:-2]
    return _row(mode, batch, a), _row(mode, batch, a, _real(a)), _column(mode, a.sizes, a), _row(mode, a.sizes[:-1], a, torch.int32)


@rule("_linalg_check_errors")
def _check_errors(mode: Any, info: Any, api_name: str, *, is_matrix: bool) -> None:
    return None


@rule("linalg_lstsq")
def _lstsq(mode: Any, a: Any, b: Any, rcond: Any = None, *, driver: str | None = None) -> Any:
    """The solution is the upper part of LAPACK's work space. Drivers that find the rank give residuals only if it is full."""
    driver = driver or "gelsy"
    *batch, m, n = a.sizes
    if driver in ("gelsd", "gelss") and lt(n, m):
        raise DataDependent("data-dependent size of residuals", saw=f"linalg.lstsq with driver {driver}", hint="driver 'gelsy' gives no residuals, 'gels' always does")
    is_vector = len(b.sizes) == 1 or (len(b.sizes) == len(a.sizes) - 1 and all(eq(s, t) for s, t in zip(b.sizes, (*batch, m), strict=True)))
    *others, _, k = (*b.sizes, 1) if is_vector else b.sizes
    batch = broadcast(tuple(batch), tuple(others))
    rows = maximum(m, n)
    strides = (*contiguous((*batch, k, rows))[:-2], 1, rows)
    sizes = (*batch, n, k)
    solution = mode.make(sizes[:-1], strides[:-1], a.scalar_type, a.dev) if is_vector else mode.make(sizes, strides, a.scalar_type, a.dev)
    residuals = (*batch, k) if driver == "gels" and lt(n, m) else (0,)
    values = (*a.sizes[:-2], minimum(m, n)) if driver in ("gelsd", "gelss") else (0,)
    rank = (0,) if driver == "gels" else a.sizes[:-2]
    return solution, _row(mode, residuals, a, _real(a)), _row(mode, rank, a, torch.int64), _row(mode, values, a, _real(a))


@rule("linalg_matrix_exp")
def _matrix_exp(mode: Any, a: Any) -> Any:
    _square("linalg.matrix_exp", a)
    return _row(mode, a.sizes, a)


@rule("linalg_cross")
def _cross(mode: Any, a: Any, b: Any, *, dim: int = -1) -> Any:
    return _row(mode, broadcast(a.sizes, b.sizes), a)


@rule("trace")
def _trace(mode: Any, a: Any) -> Any:
    return _row(mode, (), a, torch.int64 if to_float(a.scalar_type) is not a.scalar_type else a.scalar_type)
