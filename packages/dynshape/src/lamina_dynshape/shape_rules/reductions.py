"""Reductions, scans, softmax and sorting along dimensions."""

from __future__ import annotations

from typing import Any

import torch

from lamina_dynshape.layout import contiguous, dense_like
from lamina_dynshape.promotion import to_float
from lamina_dynshape.shape_rules.registry import each, rule
from lamina_dynshape.shape_rules.views import wrap_dim

__all__ = ["reduced_sizes"]

_INTEGRAL = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_REAL = {torch.complex64: torch.float32, torch.complex128: torch.float64, torch.complex32: torch.float16}


def reduced_sizes(x: Any, dims: Any, keepdim: bool) -> tuple[Any, ...]:
    """Sizes after reducing `dims` (int, list, None or empty for all)."""
    rank = len(x.sizes)
    if dims is None or (not isinstance(dims, int) and len(dims) == 0):
        return (1,) * rank if keepdim else ()
    wrapped = [wrap_dim(d, rank) for d in ([dims] if isinstance(dims, int) else dims)]
    chosen = set(wrapped)
    if len(chosen) != len(wrapped):
        raise RuntimeError(f"dim {wrapped[0]} appears multiple times in the list of dims")
    if keepdim:
        return tuple(1 if d in chosen else s for d, s in enumerate(x.sizes))
    return tuple(s for d, s in enumerate(x.sizes) if d not in chosen)


def _result(mode: Any, x: Any, dims: Any, keepdim: bool, dtype: torch.dtype) -> Any:
    sizes = reduced_sizes(x, dims, keepdim)
    return mode.make(sizes, contiguous(sizes), dtype, x.dev)


def _sum_dtype(x: Any, dtype: torch.dtype | None) -> torch.dtype:
    return dtype or (torch.int64 if x.scalar_type in _INTEGRAL else x.scalar_type)


@rule("sum", "nansum", "sum.dim_IntList", "nansum.dim_IntList")
def _sum(mode: Any, x: Any, dims: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    return _result(mode, x, dims, keepdim, _sum_dtype(x, dtype))


@rule("prod", "prod.dim_int")
def _prod(mode: Any, x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    return _result(mode, x, dim, keepdim, _sum_dtype(x, dtype))


@rule("mean", "mean.dim")
def _mean(mode: Any, x: Any, dims: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    if dtype is None and x.scalar_type in _INTEGRAL:
        raise RuntimeError("mean(): could not infer output dtype. Input dtype must be either a floating point or complex dtype. Got: " + str(x.scalar_type))
    return _result(mode, x, dims, keepdim, dtype or x.scalar_type)


@rule("amax", "amin")
def _amax(mode: Any, x: Any, dims: Any = (), keepdim: bool = False) -> Any:
    return _result(mode, x, dims, keepdim, x.scalar_type)


@rule("any", "all", "any.dim", "all.dim", "any.dims", "all.dims", "_is_all_true", "_is_any_true")
def _any(mode: Any, x: Any, dims: Any = None, keepdim: bool = False) -> Any:
    return _result(mode, x, dims, keepdim, torch.uint8 if x.scalar_type is torch.uint8 else torch.bool)


@rule("argmax", "argmin")
def _argmax(mode: Any, x: Any, dim: Any = None, keepdim: bool = False) -> Any:
    return _result(mode, x, dim, keepdim, torch.int64)


@rule("max", "min", "median", "nanmedian")
def _max_all(mode: Any, x: Any) -> Any:
    return _result(mode, x, None, False, x.scalar_type)


@rule("max.dim", "min.dim", "mode", "median.dim", "nanmedian.dim")
def _max_dim(mode: Any, x: Any, dim: int = -1, keepdim: bool = False) -> Any:
    return _result(mode, x, dim, keepdim, x.scalar_type), _result(mode, x, dim, keepdim, torch.int64)


@rule("kthvalue")
def _kthvalue(mode: Any, x: Any, k: Any, dim: int = -1, keepdim: bool = False) -> Any:
    return _max_dim(mode, x, dim, keepdim)


@rule("aminmax")
def _aminmax(mode: Any, x: Any, *, dim: Any = None, keepdim: bool = False) -> Any:
    return _result(mode, x, dim, keepdim, x.scalar_type), _result(mode, x, dim, keepdim, x.scalar_type)


@rule("logsumexp")
def _logsumexp(mode: Any, x: Any, dims: Any, keepdim: bool = False) -> Any:
    return _result(mode, x, dims, keepdim, to_float(x.scalar_type))


@rule("count_nonzero", "count_nonzero.dim_IntList")
def _count_nonzero(mode: Any, x: Any, dims: Any = None) -> Any:
    return _result(mode, x, dims, False, torch.int64)


# -- variance -------------------------------------------------------------------------------------------------------------
def _real(x: Any) -> torch.dtype:
    return _REAL.get(x.scalar_type, x.scalar_type)


@rule("var.correction", "std.correction", "var.dim", "std.dim")
def _var(mode: Any, x: Any, dims: Any = None, *args: Any, correction: Any = None, keepdim: bool = False) -> Any:
    return _result(mode, x, dims, args[1] if len(args) > 1 else keepdim, _real(x))


@rule("var", "std")
def _var_all(mode: Any, x: Any, unbiased: bool = True) -> Any:
    return _result(mode, x, None, False, _real(x))


@rule("var_mean.correction", "std_mean.correction")
def _var_mean(mode: Any, x: Any, dims: Any = None, *, correction: Any = None, keepdim: bool = False) -> Any:
    return _result(mode, x, dims, keepdim, _real(x)), _result(mode, x, dims, keepdim, x.scalar_type)


# -- norms ----------------------------------------------------------------------------------------------------------------
@rule("linalg_vector_norm")
def _vector_norm(mode: Any, x: Any, ord: Any = 2, dims: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    out = dtype or x.scalar_type
    return _result(mode, x, dims, keepdim, _REAL.get(out, out))


@rule("norm.Scalar", "norm.ScalarOpt_dim", "norm.ScalarOpt_dim_dtype")
def _norm(mode: Any, x: Any, p: Any = 2, dims: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    out = dtype or x.scalar_type
    return _result(mode, x, dims, keepdim, _REAL.get(out, out))


# -- scans ----------------------------------------------------------------------------------------------------------------
@rule("cumsum", "cumprod")
def _scan(mode: Any, x: Any, dim: int, *, dtype: Any = None) -> Any:
    wrap_dim(dim, len(x.sizes))
    return mode.make(x.sizes, contiguous(x.sizes), _sum_dtype(x, dtype), x.dev)


@rule("cumsum_", "cumprod_", "logcumsumexp_")
def _scan_inplace(mode: Any, x: Any, dim: int, *, dtype: Any = None) -> Any:
    wrap_dim(dim, len(x.sizes))
    return x


@rule("logcumsumexp")
def _logcumsumexp(mode: Any, x: Any, dim: int) -> Any:
    wrap_dim(dim, len(x.sizes))
    return mode.make(x.sizes, contiguous(x.sizes), x.scalar_type, x.dev)


@rule("cummax", "cummin")
def _cummax(mode: Any, x: Any, dim: int) -> Any:
    wrap_dim(dim, len(x.sizes))
    strides = contiguous(x.sizes)
    return mode.make(x.sizes, strides, x.scalar_type, x.dev), mode.make(x.sizes, strides, torch.int64, x.dev)


# -- softmax --------------------------------------------------------------------------------------------------------------
@rule("_softmax", "_log_softmax")
def _softmax(mode: Any, x: Any, dim: int, half_to_float: bool) -> Any:
    wrap_dim(dim, len(x.sizes))
    dtype = torch.float32 if half_to_float else x.scalar_type
    return mode.make(x.sizes, contiguous(x.sizes), dtype, x.dev)


@rule("_softmax_backward_data", "_log_softmax_backward_data")
def _softmax_backward(mode: Any, grad: Any, output: Any, dim: int, input_dtype: torch.dtype) -> Any:
    return mode.make(grad.sizes, contiguous(grad.sizes), input_dtype, grad.dev)


# -- sorting --------------------------------------------------------------------------------------------------------------
@rule("sort", "sort.stable")
def _sort(mode: Any, x: Any, *args: Any, stable: Any = None, dim: int | None = None, descending: bool = False) -> Any:
    wrap_dim(dim if dim is not None else args[0] if args and not isinstance(args[0], bool) else -1, len(x.sizes))
    strides = dense_like(x.sizes, x.strides)
    return mode.make(x.sizes, strides, x.scalar_type, x.dev), mode.make(x.sizes, strides, torch.int64, x.dev)


@rule("topk")
def _topk(mode: Any, x: Any, k: Any, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    d = wrap_dim(dim, len(x.sizes))
    sizes = (*x.sizes[:d], mode.dim(k), *x.sizes[d + 1 :]) if x.sizes else ()
    strides = contiguous(sizes)
    return mode.make(sizes, strides, x.scalar_type, x.dev), mode.make(sizes, strides, torch.int64, x.dev)


def _keep_layout(op: Any) -> Any:
    return lambda mode, x, *args, **kwargs: mode.make(x.sizes, dense_like(x.sizes, x.strides), x.scalar_type, x.dev)


each(["flip"], _keep_layout)


@rule("roll")
def _roll(mode: Any, x: Any, shifts: Any, dims: Any = ()) -> Any:
    return mode.make(x.sizes, contiguous(x.sizes), x.scalar_type, x.dev)
