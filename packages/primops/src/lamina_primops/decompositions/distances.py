"""Distances between rows, their gradients, and norms of slices. Differences are taken first and reduced in float32 or wider, fused with the reduction.

Euclidean distances of many rows are one matrix product, as in eager: |a|**2 + |b|**2 - 2 a.b, clamped at 0.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from .common import aten, broadcast, broadcast_shapes, compute_dtype, expand_to, float32_inside, full, full_like, numel, p, promoted, to
from .reductions import reduce
from .registry import register

_MANY = 25  # rows from which eager uses the matrix product when it may choose
_ALWAYS, _NEVER = 1, 2


def _empty(*xs: Any) -> bool:
    return any(type(s) is int and s == 0 for x in xs for s in x.shape)


def _powers(x: Any, ord: float) -> Any:
    return x if ord == 1 else p.mul(x, x) if ord == 2 else p.pow_scalar(x, ord)


def _norm(x: Any, ord: float, dim: int) -> Any:
    """Norm of x >= 0 along one dimension. The sum of nothing is 0."""
    if ord == 0:
        return p.sum(to(p.ne_scalar(x, 0.0), x.dtype), [dim], False)
    if ord == math.inf:
        return p.amax(x, [dim], False)
    total = p.sum(_powers(x, ord), [dim], False)
    return total if ord == 1 else p.sqrt(total) if ord == 2 else p.pow_scalar(total, 1.0 / ord)


def _batched(a: Any, b: Any) -> tuple[Any, Any]:
    """Both with the common batch shape."""
    lead = broadcast_shapes(a.shape[:-2], b.shape[:-2])
    return expand_to(a, [*lead, *a.shape[-2:]]), expand_to(b, [*lead, *b.shape[-2:]])


def _differences(a: Any, b: Any) -> Any:
    """a[.., i, None, :] - b[.., None, j, :]."""
    lead, (n, k), m = list(a.shape[:-2]), a.shape[-2:], b.shape[-2]
    shape = [*lead, n, m, k]
    return p.sub(expand_to(p.reshape(a, [*lead, n, 1, k]), shape), expand_to(p.reshape(b, [*lead, 1, m, k]), shape))


@register(aten._euclidean_dist.default)
@float32_inside
def euclidean_dist(a: Any, b: Any) -> Any:
    """sqrt(max(0, |a|**2 + |b|**2 - 2 a.b)) by one product of matrices that hold the squares too, as in eager."""
    a, b = _batched(a, b)
    lead, (n, k), m = list(a.shape[:-2]), a.shape[-2:], b.shape[-2]
    count = numel(lead)
    a, b = p.reshape(a, [count, n, k]), p.reshape(b, [count, m, k])
    squares = [p.sum(p.mul(v, v), [2], True) for v in (a, b)]
    left = p.cat([p.mul_scalar(a, -2.0), squares[0], full_like(squares[0], 1.0)], 2)
    right = p.cat([b, full_like(squares[1], 1.0), squares[1]], 2)
    out = p.sqrt(p.maximum_scalar(p.bmm(left, p.permute(right, [0, 2, 1])), 0.0))
    return p.reshape(out, [*lead, n, m])


@register(aten._cdist_forward.default)
@float32_inside
def cdist(a: Any, b: Any, ord: float, compute_mode: int | None) -> Any:
    """Norm of the difference of each pair of rows."""
    if _empty(a, b):
        return full([*broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-2]], 0.0, a.dtype, a.device)
    many = a.shape[-2] > _MANY or b.shape[-2] > _MANY
    if ord == 2 and (compute_mode == _ALWAYS or (compute_mode != _NEVER and many)):
        return euclidean_dist(a, b)
    a, b = _batched(a, b)
    return _norm(p.abs(_differences(a, b)), ord, len(a.shape))


def _slope(d: Any, ord: float, norm: Any, grad: Any) -> Any:
    """grad times the derivative of the norm by each element of the difference d; 0 where the norm is 0."""
    if ord == 0:
        return full_like(d, 0.0)
    if ord == 1:
        return p.mul(p.sign(d), grad)
    if ord == math.inf:
        return p.where(p.eq(p.abs(d), norm), p.mul(p.sign(d), grad), full_like(d, 0.0))
    if ord == 2:
        part = p.div(p.mul(grad, d), norm)
    else:
        part = p.div(p.mul(p.mul(p.sign(d), p.pow_scalar(p.abs(d), ord - 1.0)), grad), p.pow_scalar(norm, ord - 1.0))
        if ord < 1:
            part = p.where(p.eq_scalar(d, 0.0), full_like(d, 0.0), part)
    return p.where(p.eq_scalar(norm, 0.0), full_like(part, 0.0), part)


@register(aten._cdist_backward.default)
@float32_inside
def cdist_backward(grad: Any, a: Any, b: Any, ord: float, norms: Any) -> Any:
    """Gradient of the first rows: summed over the second ones."""
    if _empty(a, b):
        return full([*broadcast_shapes(a.shape[:-2], b.shape[:-2]), *a.shape[-2:]], 0.0, a.dtype, a.device)
    a, b = _batched(a, b)
    d = _differences(a, b)
    grad, norms = (expand_to(p.reshape(v, [*v.shape, 1]), d.shape) for v in (grad, norms))
    return p.sum(_slope(d, ord, norms, grad), [d.ndim - 2], False)


def _pair_numbers(n: int, device: Any) -> tuple[Any, Any]:
    """(i, j) of each of the n (n - 1) / 2 pairs i < j, row by row. Exact in float64 below 2**26 rows."""
    count = n * (n - 1) // 2
    k = p.iota(count, 0, 1, torch.int64, device)
    root = p.sqrt(to(p.add_scalar(p.mul_scalar(k, -8), 4 * n * (n - 1) - 7), torch.float64))
    i = p.rsub_scalar(to(p.floor(p.div_scalar(p.sub_scalar(root, 1.0), 2.0)), torch.int64), n - 2)
    before = p.floordiv_scalar(p.mul(i, p.rsub_scalar(i, 2 * n - 1)), 2)
    return i, p.add_scalar(p.add(p.sub(k, before), i), 1)


@register(aten._pdist_forward.default)
@float32_inside
def pdist(x: Any, ord: float = 2.0) -> Any:
    """Norm of the difference of each pair of rows i < j."""
    if type(x.shape[0]) is not int:
        return NotImplemented
    if _empty(x) or x.shape[0] < 2:
        return full([max(0, x.shape[0] * (x.shape[0] - 1) // 2)], 0.0, x.dtype, x.device)
    i, j = _pair_numbers(x.shape[0], x.device)
    return _norm(p.abs(p.sub(p.index_select(x, 0, i), p.index_select(x, 0, j))), ord, 1)


@register(aten._pdist_backward.default)
@float32_inside
def pdist_backward(grad: Any, x: Any, ord: float, norms: Any) -> Any:
    """Each pair's gradient added to one row, taken from the other."""
    if type(x.shape[0]) is not int:
        return NotImplemented
    if _empty(x) or x.shape[0] < 2:
        return full_like(x, 0.0)
    i, j = _pair_numbers(x.shape[0], x.device)
    d = p.sub(p.index_select(x, 0, i), p.index_select(x, 0, j))
    grad, norms = (expand_to(p.reshape(v, [v.shape[0], 1]), d.shape) for v in (grad, norms))
    slope = _slope(d, ord, norms, grad)
    out = p.index_put(full_like(x, 0.0), [i], slope, True)
    return p.index_put(out, [j], p.neg(slope), True)


@register(aten.renorm.default)
def renorm(x: Any, ord: Any, dim: int, maxnorm: Any) -> Any:
    """Slices along dim whose norm is above the bound, scaled by bound / (norm + 1e-7); norms in float32 or wider."""
    if not x.dtype.is_floating_point or x.ndim < 2:
        return NotImplemented
    dim = dim + x.ndim if dim < 0 else dim
    wide = to(x, compute_dtype(x.dtype))
    others = [d for d in range(x.ndim) if d != dim]
    size = p.abs(wide)
    norm = p.amax(size, others, True) if ord == math.inf else _root(reduce(p.sum, _powers(size, float(ord)), others, True), float(ord))
    factor = p.rdiv_scalar(p.add_scalar(norm, 1e-7), float(maxnorm))
    factor = p.where(p.gt_scalar(norm, float(maxnorm)), factor, full_like(norm, 1.0))
    return to(p.mul(wide, expand_to(factor, x.shape)), x.dtype)


def _root(x: Any, ord: float) -> Any:
    return x if ord == 1 else p.sqrt(x) if ord == 2 else p.pow_scalar(x, 1.0 / ord)


@register(aten.embedding_renorm.default)
@float32_inside
def embedding_renorm(weight: Any, indices: Any, max_norm: float, norm_type: float) -> Any:
    """The table, its rows in `indices` scaled by bound / (norm + 1e-7) where their norm is above the bound."""
    if _empty(weight, indices):
        return weight
    flat = p.reshape(to(indices, torch.int64), [numel(indices.shape)])
    named = p.scatter(full([weight.shape[0]], False, torch.bool, weight.device), 0, flat, full(flat.shape, True, torch.bool, weight.device), "set")
    norm = _norm(p.abs(weight), float(norm_type), 1)
    factor = p.rdiv_scalar(p.add_scalar(norm, 1e-7), float(max_norm))
    scaled = p.logical_and(named, p.gt_scalar(norm, float(max_norm)))
    return p.mul(weight, expand_to(p.reshape(p.where(scaled, factor, full_like(factor, 1.0)), [weight.shape[0], 1]), weight.shape))


@register(aten.linalg_cross.default)
def cross(a: Any, b: Any, *, dim: int = -1) -> Any:
    """Products of vectors of three; each component is a difference of two products, in float32 for half types."""
    a, b = broadcast(*promoted(a, b))
    dtype, dim = a.dtype, dim + a.ndim if dim < 0 else dim
    if dtype is torch.bool or a.shape[dim] != 3:
        return NotImplemented
    a, b = (to(v, compute_dtype(dtype)) for v in (a, b))
    (a0, a1, a2), (b0, b1, b2) = ([p.slice(v, dim, i, i + 1, 1) for i in range(3)] for v in (a, b))
    parts = [p.sub(p.mul(u, v), p.mul(w, z)) for u, v, w, z in ((a1, b2, a2, b1), (a2, b0, a0, b2), (a0, b1, a1, b0))]
    return to(p.cat(parts, dim), dtype)


@register(aten._trilinear.default)
@float32_inside
def trilinear(a: Any, b: Any, c: Any, expand1: Any, expand2: Any, expand3: Any, sumdim: Any, unroll_dim: int = 1) -> Any:
    """Sum over dims of the product of three tensors, each with dimensions put in."""
    parts = []
    for x, dims in ((a, expand1), (b, expand2), (c, expand3)):
        shape = list(x.shape)
        for d in sorted(dims):
            shape.insert(d, 1)
        parts.append(p.reshape(x, shape))
    shape = broadcast_shapes(*(x.shape for x in parts))
    x, y, z = (expand_to(v, shape) for v in parts)
    out = p.mul(p.mul(x, z), y)
    return p.sum(out, sorted(sumdim), False) if sumdim else out

