"""Reductions, scans, softmax.

Half types are reduced in float32 and rounded once at the end. A reduction of a rank-0 tensor is the tensor itself (as a rank-1 tensor of one element).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from .common import (
    LOW, aten, canonical, canonical_dims, compute_dtype, expand_to, float32_inside, full, full_like, number, numel, p, size_of, to,
)  # fmt: skip
from .registry import register


def reduce(prim: Callable[..., Any], x: Any, dims: Any, keepdim: bool) -> Any:
    """Prim reduction over `dims` (None, int, list); rank 0 reduces nothing."""
    if x.ndim == 0:
        return p.reshape(prim(p.reshape(x, [1]), [0], False), [])
    return prim(x, canonical_dims(dims, x.ndim), keepdim)


def _sum_dtype(x: Any, dtype: Any) -> torch.dtype:
    return dtype or (x.dtype if x.dtype.is_floating_point else torch.int64)


def _reduced(prim: Callable[..., Any], x: Any, dims: Any, keepdim: bool, dtype: torch.dtype) -> Any:
    if dtype is torch.bool:
        return reduce(p.any, to(x, torch.bool), dims, keepdim) if prim is p.sum else reduce(p.all, to(x, torch.bool), dims, keepdim)
    inside = compute_dtype(dtype)
    return to(reduce(prim, to(x if x.dtype in LOW else to(x, dtype), inside), dims, keepdim), dtype)


@register(aten.sum.default)
def sum_all(x: Any, *, dtype: Any = None) -> Any:
    """Sum of all elements; integers in int64."""
    return _reduced(p.sum, x, None, False, _sum_dtype(x, dtype))


@register(aten.sum.dim_IntList)
def sum_dim(x: Any, dim: Any, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """Sum over dims; integers in int64."""
    return _reduced(p.sum, x, dim, keepdim, _sum_dtype(x, dtype))


@register(aten.prod.default)
def prod_all(x: Any, *, dtype: Any = None) -> Any:
    """Product of all elements; integers in int64."""
    return _reduced(p.prod, x, None, False, _sum_dtype(x, dtype))


@register(aten.prod.dim_int)
def prod_dim(x: Any, dim: int, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """Product over one dim."""
    return _reduced(p.prod, x, dim, keepdim, _sum_dtype(x, dtype))


@register(aten.mean.default)
def mean_all(x: Any, *, dtype: Any = None) -> Any:
    """sum / n."""
    return mean_dim(x, None, False, dtype=dtype)


@register(aten.mean.dim)
def mean_dim(x: Any, dim: Any, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """sum / n, both in float32 for half types."""
    dtype = dtype or x.dtype
    if not dtype.is_floating_point:
        return NotImplemented
    total = reduce(p.sum, to(x, compute_dtype(dtype)), dim, keepdim)
    return to(_over(total, size_of(x, canonical_dims(dim, x.ndim))), dtype)


def _over(total: Any, n: Any) -> Any:
    """total / n. n == 0 gives NaN, as 0 / 0."""
    return p.div_scalar(total, float(n) if type(n) is int else n)


@register(aten.nansum.default)
def nansum(x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """Sum with NaN as 0."""
    if x.dtype.is_floating_point:
        x = p.where(p.isnan(x), full_like(x, 0.0), x)
    return sum_dim(x, dim, keepdim, dtype=dtype)


for _name in ("amax", "amin"):

    def _extreme(x: Any, dim: Sequence[int] = (), keepdim: bool = False, _prim: Any = getattr(p, _name)) -> Any:
        """Prim; NaN wins."""
        return reduce(_prim, x, dim, keepdim)

    register(getattr(aten, _name).default)(_extreme)


@register(aten.max.default)
def max_all(x: Any) -> Any:
    """Largest element; NaN wins."""
    return reduce(p.amax, x, None, False)


@register(aten.min.default)
def min_all(x: Any) -> Any:
    """Smallest element; NaN wins."""
    return reduce(p.amin, x, None, False)


def _with_position(pick: Callable[..., Any], position: Callable[..., Any]) -> Callable[..., Any]:
    def rule(x: Any, dim: int, keepdim: bool = False) -> Any:
        if x.dtype is torch.bool:
            value, place = rule(to(x, torch.uint8), dim, keepdim)
            return to(value, torch.bool), place
        if x.ndim == 0:
            return x, full([], 0, torch.int64, x.device)
        dim = canonical(dim, x.ndim)
        return pick(x, [dim], keepdim), position(x, dim, keepdim)

    rule.__doc__ = "Extreme and its first position; NaN wins."
    return rule


register(aten.max.dim)(_with_position(p.amax, p.argmax))
register(aten.min.dim)(_with_position(p.amin, p.argmin))


@register(aten._aminmax.default, aten._aminmax.dim)
def aminmax_(x: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """Smallest and largest element."""
    return aminmax(x, dim=dim, keepdim=keepdim)


@register(aten.aminmax.default)
def aminmax(x: Any, *, dim: Any = None, keepdim: bool = False) -> Any:
    """Smallest and largest element."""
    return reduce(p.amin, x, dim, keepdim), reduce(p.amax, x, dim, keepdim)


for _name in ("argmax", "argmin"):

    def _arg(x: Any, dim: Any = None, keepdim: bool = False, _prim: Any = getattr(p, _name)) -> Any:
        """First position of the extreme, in the flattened tensor without dim; NaN wins."""
        x = to(x, torch.uint8) if x.dtype is torch.bool else x
        if x.ndim == 0:
            return full([], 0, torch.int64, x.device)
        if dim is not None:
            return _prim(x, canonical(dim, x.ndim), keepdim)
        out = _prim(p.reshape(x, [numel(x.shape)]), 0, False)
        return p.reshape(out, [1] * x.ndim) if keepdim else out

    register(getattr(aten, _name).default)(_arg)


for _name in ("any", "all"):

    def _truth(x: Any, dim: Any = None, keepdim: bool = False, _prim: Any = getattr(p, _name)) -> Any:
        """On truth values; uint8 stays uint8."""
        out = reduce(_prim, x if x.dtype is torch.bool else p.ne_scalar(x, number(0, x.dtype)), dim, keepdim)
        return to(out, torch.uint8) if x.dtype is torch.uint8 else out

    register(getattr(aten, _name).default, getattr(aten, _name).dim)(_truth)

    def _truth_dims(x: Any, dim: Any = None, keepdim: bool = False, _rule: Any = _truth) -> Any:
        """On truth values; an empty list of dims reduces nothing."""
        if dim is not None and len(dim) == 0:
            return NotImplemented
        return _rule(x, dim, keepdim)

    register(getattr(aten, _name).dims)(_truth_dims)


@register(aten._is_all_true.default)
def is_all_true(x: Any) -> Any:
    """all of a bool tensor."""
    return reduce(p.all, x, None, False)


@register(aten._is_any_true.default)
def is_any_true(x: Any) -> Any:
    """any of a bool tensor."""
    return reduce(p.any, x, None, False)


@register(aten.count_nonzero.default, aten.count_nonzero.dim_IntList)
def count_nonzero(x: Any, dim: Any = None) -> Any:
    """Number of elements that are not 0."""
    return sum_dim(to(x if x.dtype is torch.bool else p.ne_scalar(x, number(0, x.dtype)), torch.int64), dim)


# -- moments ----------------------------------------------------------------------------------------------------------
def _moments(x: Any, dim: Any, correction: Any, keepdim: bool) -> tuple[Any, Any]:
    """(variance, mean) in the compute dtype."""
    correction = 1 if correction is None else correction
    x = to(x, compute_dtype(x.dtype))
    if x.ndim == 0:
        var, mean = p.var_mean(p.reshape(x, [1]), [0], correction, False)
        return var, mean
    return p.var_mean(x, canonical_dims(dim, x.ndim), correction, keepdim)


@register(aten.var.correction)
def var(x: Any, dim: Any = None, *, correction: Any = None, keepdim: bool = False) -> Any:
    """Variance, numerically stable, accumulated in float32 or wider."""
    return to(_moments(x, dim, correction, keepdim)[0], x.dtype)


@register(aten.std.correction)
def std(x: Any, dim: Any = None, *, correction: Any = None, keepdim: bool = False) -> Any:
    """Square root of the variance."""
    return to(p.sqrt(_moments(x, dim, correction, keepdim)[0]), x.dtype)


@register(aten.var_mean.correction)
def var_mean(x: Any, dim: Any = None, *, correction: Any = None, keepdim: bool = False) -> Any:
    """Variance and mean."""
    v, m = _moments(x, dim, correction, keepdim)
    return to(v, x.dtype), to(m, x.dtype)


@register(aten.std_mean.correction)
def std_mean(x: Any, dim: Any = None, *, correction: Any = None, keepdim: bool = False) -> Any:
    """Standard deviation and mean."""
    v, m = _moments(x, dim, correction, keepdim)
    return to(p.sqrt(v), x.dtype), to(m, x.dtype)


# -- norms ------------------------------------------------------------------------------------------------------------
@register(aten.linalg_vector_norm.default)
def vector_norm(x: Any, ord: Any = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """(sum |x|**ord)**(1/ord), accumulated in float32 or wider, without scaling."""
    dtype = dtype or x.dtype
    if not dtype.is_floating_point:
        return NotImplemented
    dims = None if dim is None or (not isinstance(dim, int) and len(dim) == 0) else dim
    if any(type(s) is int and s == 0 for s in x.shape) and ord in (math.inf, -math.inf):
        return NotImplemented  # eager raises
    x = p.abs(to(x, compute_dtype(dtype)))
    return to(_norm(x, ord, dims, keepdim), dtype)


def _norm(x: Any, ord: Any, dims: Any, keepdim: bool) -> Any:
    if ord == math.inf:
        return reduce(p.amax, x, dims, keepdim)
    if ord == -math.inf:
        return reduce(p.amin, x, dims, keepdim)
    if ord == 0:
        return reduce(p.sum, to(p.ne_scalar(x, 0.0), x.dtype), dims, keepdim)
    if ord == 1:
        return reduce(p.sum, x, dims, keepdim)
    if ord == 2:
        return p.sqrt(reduce(p.sum, p.mul(x, x), dims, keepdim))
    return p.pow_scalar(reduce(p.sum, p.pow_scalar(x, float(ord)), dims, keepdim), 1.0 / float(ord))


@register(aten.linalg__powsum.default)
def powsum(x: Any, ord: Any = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """sum |x|**ord, accumulated in float32 or wider."""
    dtype = dtype or x.dtype
    if not dtype.is_floating_point:
        return NotImplemented
    x = p.abs(to(x, compute_dtype(dtype)))
    powers = x if ord == 1 else p.mul(x, x) if ord == 2 else p.pow_scalar(x, float(ord))
    return to(reduce(p.sum, powers, dim, keepdim), dtype)


@register(aten.norm.ScalarOpt_dim, aten.norm.ScalarOpt_dim_dtype)
def norm_dim(x: Any, ord: Any, dim: Any, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """Vector norm over dims."""
    return vector_norm(x, 2 if ord is None else ord, dim, keepdim, dtype=dtype)


@register(aten.norm.Scalar, aten.norm.ScalarOpt_dtype)
def norm_all(x: Any, ord: Any = 2, *, dtype: Any = None) -> Any:
    """Vector norm of all elements."""
    return vector_norm(x, 2 if ord is None else ord, None, False, dtype=dtype)


@register(aten.logsumexp.default)
def logsumexp(x: Any, dim: Any, keepdim: bool = False) -> Any:
    """log(sum(exp(x - max))) + max; an infinite max counts as 0."""
    dtype = x.dtype if x.dtype.is_floating_point else torch.get_default_dtype()
    x = to(to(x, dtype), compute_dtype(dtype))
    if _is_empty(x):
        return NotImplemented
    if x.ndim == 0:
        return to(x, dtype)
    dims = canonical_dims(dim, x.ndim)
    top = p.amax(x, dims, True)
    top = p.where(p.eq_scalar(p.abs(top), math.inf), full_like(top, 0.0), top)
    total = p.sum(p.exp(p.sub(x, expand_to(top, x.shape))), dims, keepdim)
    return to(p.add(p.log(total), p.reshape(top, list(total.shape))), dtype)


# -- softmax ----------------------------------------------------------------------------------------------------------
def _is_empty(x: Any) -> bool:
    return any(type(s) is int and s == 0 for s in x.shape)


def _rows(x: Any, dim: int) -> tuple[Any, int]:
    return (p.reshape(x, [1]), 0) if x.ndim == 0 else (x, canonical(dim, x.ndim))


@register(aten._softmax.default)
@float32_inside
def softmax(x: Any, dim: int, half_to_float: bool) -> Any:
    """exp(x - max) / sum."""
    if half_to_float:
        return NotImplemented
    if _is_empty(x):
        return full_like(x, 0.0)  # the largest of no elements does not exist
    shape, (x, dim) = list(x.shape), _rows(x, dim)
    e = p.exp(p.sub(x, p.expand(p.amax(x, [dim], True), list(x.shape))))
    return p.reshape(p.div(e, p.expand(p.sum(e, [dim], True), list(x.shape))), shape)


@register(aten._log_softmax.default)
@float32_inside
def log_softmax(x: Any, dim: int, half_to_float: bool) -> Any:
    """x - max - log(sum(exp(x - max)))."""
    if half_to_float:
        return NotImplemented
    if _is_empty(x):
        return full_like(x, 0.0)  # the largest of no elements does not exist
    shape, (x, dim) = list(x.shape), _rows(x, dim)
    shifted = p.sub(x, p.expand(p.amax(x, [dim], True), list(x.shape)))
    total = p.log(p.sum(p.exp(shifted), [dim], True))
    return p.reshape(p.sub(shifted, p.expand(total, list(x.shape))), shape)


@register(aten._softmax_backward_data.default)
def softmax_backward(grad: Any, out: Any, dim: int, input_dtype: torch.dtype) -> Any:
    """(grad - sum(grad * out)) * out, in float32 for half types."""
    shape = list(out.shape)
    grad, out = (to(v, compute_dtype(v.dtype)) for v in (grad, out))
    (grad, _), (out, dim) = _rows(grad, dim), _rows(out, dim)
    total = p.sum(p.mul(grad, out), [dim], True)
    return to(p.reshape(p.mul(p.sub(grad, p.expand(total, list(out.shape))), out), shape), input_dtype)


@register(aten._log_softmax_backward_data.default)
def log_softmax_backward(grad: Any, out: Any, dim: int, input_dtype: torch.dtype) -> Any:
    """grad - exp(out) * sum(grad), in float32 for half types."""
    shape = list(out.shape)
    grad, out = (to(v, compute_dtype(v.dtype)) for v in (grad, out))
    (grad, _), (out, dim) = _rows(grad, dim), _rows(out, dim)
    total = p.expand(p.sum(grad, [dim], True), list(out.shape))
    return to(p.reshape(p.sub(grad, p.mul(p.exp(out), total)), shape), input_dtype)


@register(aten._safe_softmax.default)
def safe_softmax(x: Any, dim: int, dtype: Any = None) -> Any:
    """Softmax; rows that are all -inf give zeros."""
    x = to(x, dtype or x.dtype)
    if x.ndim == 0 or x.dtype in LOW or _is_empty(x):
        return NotImplemented
    dim = canonical(dim, x.ndim)
    empty = p.all(p.eq_scalar(x, -math.inf), [dim], True)
    return p.where(p.expand(empty, list(x.shape)), full_like(x, 0.0), softmax(x, dim, False))


# -- scans ------------------------------------------------------------------------------------------------------------
def _scan(prim: Callable[..., Any]) -> Callable[..., Any]:
    def rule(x: Any, dim: int, *, dtype: Any = None) -> Any:
        dtype = _sum_dtype(x, dtype)
        if dtype is torch.bool:
            return NotImplemented
        y = to(to(x, dtype), compute_dtype(dtype))
        return to(y if y.ndim == 0 else prim(y, canonical(dim, y.ndim)), dtype)

    rule.__doc__ = "Inclusive scan, in float32 for half types; integers in int64."
    return rule


register(aten.cumsum.default)(_scan(p.cumsum))
register(aten.cumprod.default)(_scan(p.cumprod))


@register(aten.logcumsumexp.default, aten._logcumsumexp.default)
@float32_inside
def logcumsumexp(x: Any, dim: int) -> Any:
    """Prim, in float32 for half types."""
    return p.logcumsumexp(x, canonical(dim, x.ndim)) if x.ndim else x


def _running(prim: Callable[..., Any]) -> Callable[..., Any]:
    def rule(x: Any, dim: int) -> Any:
        if x.ndim == 0:
            return x, full([], 0, torch.int64, x.device)
        wide = to(x, torch.uint8 if x.dtype is torch.bool else compute_dtype(x.dtype))
        values, places = prim(wide, canonical(dim, x.ndim))
        return to(values, x.dtype), places

    rule.__doc__ = "Prim; exact."
    return rule


register(aten.cummax.default)(_running(p.cummax))
register(aten.cummin.default)(_running(p.cummin))


@register(aten._masked_softmax.default)
@float32_inside
def masked_softmax(x: Any, mask: Any, dim: int | None = None, mask_type: int | None = None) -> Any:
    """Softmax over what the mask does not cover; rows that are all covered give NaN."""
    if x.ndim == 0 or _is_empty(x) or mask.dtype is not torch.bool or (mask_type is not None and mask_type != 2):
        return NotImplemented  # masks of rows and of keys have shapes of their own
    dim = canonical(x.ndim - 1 if dim is None else dim, x.ndim)
    mask = expand_to(mask, x.shape)
    return softmax(p.where(mask, full_like(x, -math.inf), x), dim, False)


@register(aten._masked_softmax_backward.default)
@float32_inside
def masked_softmax_backward(grad: Any, out: Any, mask: Any, dim: int | None = None) -> Any:
    """(grad - sum(grad * out)) * out; 0 where the mask covers."""
    if out.ndim == 0 or _is_empty(out) or mask.dtype is not torch.bool:
        return NotImplemented
    back = softmax_backward(grad, out, out.ndim - 1 if dim is None else dim, out.dtype)
    return p.where(expand_to(mask, out.shape), full_like(back, 0.0), back)


@register(aten.dist.default)
def dist(a: Any, b: Any, ord: Any = 2) -> Any:
    """Norm of the difference."""
    from .pointwise import sub

    return vector_norm(sub(a, b), ord, None, False)


__all__ = ["mean_dim", "reduce", "sum_dim"]
