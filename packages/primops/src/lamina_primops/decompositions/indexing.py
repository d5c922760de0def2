"""Gathers, scatters, embeddings. Exact but for accumulation: half types are added in float32 and rounded once, in no promised order.

Boolean masks as indices have data-dependent sizes and stay ATen, except writes of one value through a mask, which are a `where`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from .common import LOW, aten, aten_call, broadcast, canonical, compute_dtype, expand_to, full, full_like, is_tensor, numel, p, reshape, same_shape, scaled, to
from .registry import register

_MASKS = (torch.bool, torch.uint8)


def _ranked(x: Any) -> Any:
    return p.reshape(x, [1]) if x.ndim == 0 else x


def _integers(index: Any) -> Any:
    """Indices in a type that prims take; eager lets narrow ones through where there is nothing to index."""
    return index if index.dtype in (torch.int32, torch.int64) else to(index, torch.int64)


def _indices(indices: Sequence[Any]) -> list[Any] | None:
    """Index tensors in their common shape, None for masks (not covered)."""
    used = [i for i in indices if i is not None]
    if not used or any(i.dtype in _MASKS for i in used):
        return None
    spread = iter(broadcast(*(_integers(i) for i in used)))
    return [None if i is None else next(spread) for i in indices]


@register(aten.index.Tensor, aten._unsafe_index.Tensor)
def index(x: Any, indices: Sequence[Any]) -> Any:
    """x[indices] by NumPy's rule."""
    found = _indices(indices)
    return NotImplemented if found is None else p.index(x, found)


@register(aten.index_put.default, aten._unsafe_index_put.default)
def index_put(x: Any, indices: Sequence[Any], values: Any, accumulate: bool = False) -> Any:
    """x with values written or added at x[indices]."""
    found = _indices(indices)
    if found is None:
        return _masked_write(x, indices, values, accumulate)
    from ..prims.indexing import index_shape

    values = expand_to(to(values, x.dtype), index_shape(x, found))
    if accumulate and x.dtype in LOW:
        return to(p.index_put(to(x, torch.float32), found, to(values, torch.float32), True), x.dtype)
    return p.index_put(x, found, values, accumulate)


@register(aten._index_put_impl.default)
def index_put_impl(x: Any, indices: Sequence[Any], values: Any, accumulate: bool = False, unsafe: bool = False) -> Any:
    """`index_put`."""
    return index_put(x, indices, values, accumulate)


def _masked_write(x: Any, indices: Sequence[Any], values: Any, accumulate: bool) -> Any:
    used = [i for i in indices if i is not None]
    one = all(type(s) is int and s == 1 for s in values.shape)
    if len(used) != 1 or used[0].dtype not in _MASKS or not one or (accumulate and x.dtype in LOW):
        return NotImplemented
    before = next(d for d, i in enumerate(indices) if i is not None)
    mask = used[0]
    mask = to(mask, torch.bool)
    mask = p.reshape(mask, [1] * before + list(mask.shape) + [1] * (x.ndim - before - mask.ndim))
    value = expand_to(p.reshape(to(values, x.dtype), []), x.shape)
    if accumulate:
        value = p.logical_or(x, value) if x.dtype is torch.bool else p.add(x, value)
    return p.where(expand_to(mask, x.shape), value, x)


@register(aten.gather.default)
def gather(x: Any, dim: int, index: Any, *, sparse_grad: bool = False) -> Any:
    """x[.., index, ..]."""
    index = _integers(index)
    if not x.ndim or not index.ndim:
        return p.reshape(p.gather(_ranked(x), 0, _ranked(index)), list(index.shape))
    if x.ndim != index.ndim:
        return NotImplemented  # eager allows it for an empty index
    return p.gather(x, canonical(dim, x.ndim), index)


@register(aten.index_select.default)
def index_select(x: Any, dim: int, index: Any) -> Any:
    """Rows along dim."""
    out = p.index_select(_ranked(x), canonical(dim, x.ndim), _ranked(_integers(index)))
    return p.reshape(out, []) if x.ndim == 0 else out


@register(aten.take.default)
def take(x: Any, index: Any) -> Any:
    """Elements of the flattened tensor."""
    return p.index(p.reshape(x, [numel(x.shape)]), [index])


def _scatter(x: Any, dim: int, index: Any, src: Any, mode: str) -> Any:
    index = _integers(index)
    if not x.ndim or not index.ndim:
        out = _scatter(_ranked(x), 0, _ranked(index), _ranked(src), mode)
        return p.reshape(out, list(x.shape))
    if not x.ndim == index.ndim == src.ndim:
        return NotImplemented  # eager allows it for an empty index
    for d in range(src.ndim):
        if not same_shape(src.shape[d : d + 1], index.shape[d : d + 1]):
            src = p.slice(src, d, 0, index.shape[d], 1)
    if mode in ("add", "mul"):
        inside = compute_dtype(x.dtype)
        if inside is torch.bool:
            return NotImplemented
        return to(p.scatter(to(x, inside), canonical(dim, x.ndim), index, to(src, inside), mode), x.dtype)
    return p.scatter(x, canonical(dim, x.ndim), index, src, mode)


@register(aten.scatter.src)
def scatter(x: Any, dim: int, index: Any, src: Any) -> Any:
    """x with src written."""
    return _scatter(x, dim, index, src, "set")


@register(aten.scatter.value)
def scatter_value(x: Any, dim: int, index: Any, value: Any) -> Any:
    """x with a number written."""
    return _scatter(x, dim, index, full(index.shape, value, x.dtype, x.device), "set")


_REDUCE = {"add": "add", "multiply": "mul"}


@register(aten.scatter.reduce)
def scatter_with(x: Any, dim: int, index: Any, src: Any, *, reduce: str) -> Any:
    """x with src added or multiplied in."""
    return _scatter(x, dim, index, src, _REDUCE[reduce])


@register(aten.scatter.value_reduce)
def scatter_value_with(x: Any, dim: int, index: Any, value: Any, *, reduce: str) -> Any:
    """x with a number added or multiplied in."""
    return _scatter(x, dim, index, full(index.shape, value, x.dtype, x.device), _REDUCE[reduce])


@register(aten.scatter_add.default)
def scatter_add(x: Any, dim: int, index: Any, src: Any) -> Any:
    """x with src added in."""
    return _scatter(x, dim, index, src, "add")


_MODES = {"sum": "add", "prod": "mul", "amax": "amax", "amin": "amin", "mean": "add"}


def _neutral(mode: str, dtype: torch.dtype) -> Any:
    """What `mode` leaves a value unchanged with."""
    if mode in ("add", "mul"):
        return 0 if mode == "add" else 1
    if dtype.is_floating_point:
        return -math.inf if mode == "amax" else math.inf
    info = torch.iinfo(dtype)
    return info.min if mode == "amax" else info.max


@register(aten.scatter_reduce.two)
def scatter_reduce(x: Any, dim: int, index: Any, src: Any, reduce: str, *, include_self: bool = True) -> Any:
    """x combined with src. Without x itself, its touched places start from the neutral value; means divide the sum by the count (floor for integers)."""
    if x.dtype is torch.bool or reduce not in _MODES or any(type(s) is int and s == 0 for s in index.shape):
        return NotImplemented
    if not x.ndim:
        return p.reshape(scatter_reduce(_ranked(x), 0, _ranked(index), _ranked(src), reduce, include_self=include_self), [])
    mode, dtype = _MODES[reduce], x.dtype
    inside = compute_dtype(dtype) if mode in ("add", "mul") else dtype
    x, src = to(x, inside), to(src, inside)
    if not include_self:
        touched = _scatter(full_like(x, False, torch.bool), dim, index, full(index.shape, True, torch.bool, x.device), "set")
        x = p.where(touched, full_like(x, _neutral(mode, inside)), x)
    out = _scatter(x, dim, index, src, mode)
    if reduce == "mean":
        start = full_like(x, 1 if include_self else 0)
        count = p.maximum_scalar(_scatter(start, dim, index, full(index.shape, 1, inside, x.device), "add"), 1.0 if inside.is_floating_point else 1)
        out = p.div(out, count) if inside.is_floating_point else p.floordiv(out, count)
    return to(out, dtype)


@register(aten.index_reduce.default)
def index_reduce(x: Any, dim: int, index: Any, source: Any, reduce: str, *, include_self: bool = True) -> Any:
    """x combined with rows of the source: `scatter_reduce` with the index repeated along the rows."""
    if not x.ndim or not source.ndim or any(type(s) is int and s == 0 for s in (*x.shape, *source.shape)):
        return NotImplemented
    dim, index = canonical(dim, x.ndim), _ranked(_integers(index))
    rows = expand_to(p.reshape(index, [index.shape[0] if d == dim else 1 for d in range(x.ndim)]), source.shape)
    return scatter_reduce(x, dim, rows, source, reduce, include_self=include_self)


@register(aten.put.default)
def put(x: Any, index: Any, source: Any, accumulate: bool = False) -> Any:
    """x, flattened, with values written or added."""
    n = numel(index.shape)
    if type(n) is int and n == 0:
        return x
    flat = index_put(p.reshape(x, [numel(x.shape)]), [p.reshape(index, [n])], p.reshape(source, [n]), accumulate)
    return flat if flat is NotImplemented else p.reshape(flat, list(x.shape))


@register(aten._unsafe_masked_index.default)
def unsafe_masked_index(x: Any, mask: Any, indices: Sequence[Any], fill: Any) -> Any:
    """x[indices] where the mask holds, else a number; indices elsewhere may be anything."""
    found = _indices(_kept_inside(x, indices))
    if found is None or any(type(s) is int and s == 0 for s in x.shape):
        return NotImplemented
    out = p.index(x, found)
    return p.where(expand_to(mask, out.shape), out, full_like(out, fill))


@register(aten._unsafe_masked_index_put_accumulate.default)
def unsafe_masked_index_put(x: Any, mask: Any, indices: Sequence[Any], values: Any) -> Any:
    """x with values added at x[indices] where the mask holds."""
    if any(type(s) is int and s == 0 for s in x.shape):
        return x
    mask, values = broadcast(mask, values)
    return index_put(x, _kept_inside(x, indices), p.where(mask, values, full_like(values, 0)), True)


def _kept_inside(x: Any, indices: Sequence[Any]) -> list[Any]:
    return [None if i is None else p.minimum_scalar(p.maximum_scalar(i, -x.shape[d]), x.shape[d] - 1) for d, i in enumerate(indices)]


@register(aten.index_add.default)
def index_add(x: Any, dim: int, index: Any, source: Any, *, alpha: Any = 1) -> Any:
    """x with rows added."""
    if x.dtype is torch.bool:
        return NotImplemented
    inside = compute_dtype(x.dtype)
    source = scaled(to(source, inside), alpha)
    out = _row_put(to(x, inside), dim, index, source, True)
    return to(out, x.dtype)


def _row_put(x: Any, dim: int, index: Any, source: Any, accumulate: bool) -> Any:
    if x.ndim == 0:
        return p.reshape(p.index_put(_ranked(x), [_ranked(index)], _ranked(source), accumulate), [])
    dim = canonical(dim, x.ndim)
    index = _ranked(index)
    shape = [*x.shape[:dim], index.shape[0], *x.shape[dim + 1 :]]
    return p.index_put(x, [None] * dim + [index], source if same_shape(source.shape, shape) else p.reshape(source, shape), accumulate)


@register(aten.index_copy.default)
def index_copy(x: Any, dim: int, index: Any, source: Any) -> Any:
    """x with rows written."""
    return _row_put(x, dim, index, source, False)


@register(aten.index_fill.int_Scalar, aten.index_fill.int_Tensor)
def index_fill(x: Any, dim: int, index: Any, value: Any) -> Any:
    """x with rows set to one value."""
    if x.ndim == 0:
        return p.reshape(index_fill(_ranked(x), 0, index, value), [])
    dim, index = canonical(dim, x.ndim), _ranked(index)
    shape = [*x.shape[:dim], index.shape[0], *x.shape[dim + 1 :]]
    value = expand_to(to(value, x.dtype), shape) if is_tensor(value) else full(shape, value, x.dtype, x.device)
    return p.index_put(x, [None] * dim + [to(index, torch.int64)], value, False)


def _places(mask: Any) -> Any:
    """For each element of the flattened mask, how many True come before it."""
    flat = p.reshape(mask, [numel(mask.shape)])
    return flat, p.maximum_scalar(p.sub_scalar(p.cumsum(to(flat, torch.int64), 0), 1), 0)


@register(aten.masked_scatter.default)
def masked_scatter(x: Any, mask: Any, source: Any) -> Any:
    """x with the True places filled from source in order; too few source elements raise."""
    if any(type(s) is int and s == 0 for s in (*x.shape, *mask.shape, *source.shape)):
        return NotImplemented
    x, mask = broadcast(x, mask)
    flat, place = _places(mask)
    filled = p.index(p.reshape(source, [numel(source.shape)]), [place])
    return p.reshape(p.where(flat, filled, p.reshape(x, [numel(x.shape)])), list(x.shape))


@register(aten.masked_scatter_backward.default)
def masked_scatter_backward(grad: Any, mask: Any, sizes: Sequence[Any]) -> Any:
    """The gradient of each True place at its source element, zeros behind."""
    if any(type(s) is int and s == 0 for s in (*grad.shape, *mask.shape, *sizes)):
        return NotImplemented
    grad, mask = broadcast(grad, mask)
    flat, place = _places(mask)
    inside = compute_dtype(grad.dtype)
    values = to(p.reshape(grad, [numel(grad.shape)]), inside)
    values = p.where(flat, values, full_like(values, 0.0))
    out = p.scatter(full([numel(sizes)], 0.0, inside, grad.device), 0, place, values, "add")
    return to(p.reshape(out, list(sizes)), grad.dtype)


@register(aten.embedding.default)
def embedding(weight: Any, indices: Any, padding_idx: Any = -1, scale_grad_by_freq: bool = False, sparse: bool = False) -> Any:
    """Rows of the table."""
    out = p.index_select(weight, 0, p.reshape(indices, [numel(indices.shape)]))
    return p.reshape(out, [*indices.shape, weight.shape[1]])


@register(aten.embedding_dense_backward.default)
def embedding_dense_backward(grad: Any, indices: Any, num_weights: Any, padding_idx: Any, scale_grad_by_freq: bool) -> Any:
    """Gradient rows added up per table row; the padding row gets none."""
    if scale_grad_by_freq:
        return NotImplemented
    inside, width = compute_dtype(grad.dtype), grad.shape[-1]
    n = numel(indices.shape)
    rows, flat = p.reshape(to(grad, inside), [n, width]), p.reshape(indices, [n])
    if not (type(padding_idx) is int and padding_idx < 0):
        skip = p.reshape(p.eq_scalar(flat, padding_idx), [n, 1])
        rows = p.where(expand_to(skip, rows.shape), full_like(rows, 0.0), rows)
    zeros = full([num_weights, width], 0.0, inside, grad.device)
    return to(p.index_put(zeros, [flat], rows, True), grad.dtype)


@register(aten.isin.Tensor_Tensor)
def isin(x: Any, tests: Any, *, assume_unique: bool = False, invert: bool = False) -> Any:
    """Whether each element equals one of the (few) test elements."""
    n = numel(tests.shape)
    if type(n) is not int or n > 64 or n == 0:
        return NotImplemented
    from .common import result_dtype

    dtype = result_dtype(x, tests)
    shape = [*x.shape, n]
    left = p.expand(reshape(to(x, dtype), [*x.shape, 1]), shape)
    hit = p.any(p.eq(left, expand_to(reshape(to(tests, dtype), [n]), shape)), [len(shape) - 1], False)
    return p.logical_not(hit) if invert else hit


@register(aten.isin.Tensor_Scalar)
def isin_scalar(x: Any, test: Any, *, assume_unique: bool = False, invert: bool = False) -> Any:
    """x == the number."""
    return aten_call(aten.ne.Scalar if invert else aten.eq.Scalar, x, test)


@register(aten.isin.Scalar_Tensor)
def isin_of_scalar(x: Any, tests: Any, *, assume_unique: bool = False, invert: bool = False) -> Any:
    """Whether some test element equals the number."""
    hit = aten_call(aten.eq.Scalar, tests, x)
    hit = p.any(hit, list(range(hit.ndim)), False) if hit.ndim else hit
    return p.logical_not(hit) if invert else hit


# -- binary search ------------------------------------------------------------------------------------------------------
def _insertion(row: Callable[[Any], Any], n: int, values: Any, right: bool) -> Any:
    """Where each value goes in sorted elements, `row(places)`: steps of halving, so one gather per bit of the length."""
    place = full_like(values, 0, torch.int64)
    step = 1 << (n.bit_length() - 1)
    while step:
        probe = p.add_scalar(place, step - 1)
        found = row(p.minimum_scalar(probe, n - 1))
        before = p.gt(found, values) if right else p.ge(found, values)  # negated below: NaN goes to the end, as in eager
        ahead = p.logical_and(p.logical_not(before), p.lt_scalar(probe, n))
        place = p.where(ahead, p.add_scalar(place, step), place)
        step >>= 1
    return place


@register(aten.searchsorted.Tensor)
def searchsorted(elements: Any, values: Any, *, out_int32: bool = False, right: bool = False, side: str | None = None, sorter: Any = None) -> Any:
    """Insertion places by binary search along the last dimension; comparisons in the promoted dtype."""
    n, right = elements.shape[-1] if elements.ndim else 1, right or side == "right"
    if type(n) is not int or n == 0 or not elements.ndim or values.dtype in LOW or elements.dtype in LOW or torch.bool in (values.dtype, elements.dtype):
        return NotImplemented
    dtype = torch.promote_types(elements.dtype, values.dtype)
    elements, values = to(elements, dtype), to(values, dtype)
    if sorter is not None:
        elements = p.gather(elements, elements.ndim - 1, sorter)
    lead, count = list(elements.shape[:-1]), numel(elements.shape[:-1])
    if not lead:
        flat = p.reshape(values, [numel(values.shape)])
        place = _insertion(lambda at: p.index_select(elements, 0, at), n, flat, right)
    else:
        rows, flat = p.reshape(elements, [count, n]), p.reshape(values, [count, values.shape[-1]])
        place = _insertion(lambda at: p.gather(rows, 1, at), n, flat, right)
    return to(p.reshape(place, list(values.shape)), torch.int32 if out_int32 else torch.int64)


@register(aten.searchsorted.Scalar)
def searchsorted_scalar(elements: Any, value: Any, *, out_int32: bool = False, right: bool = False, side: str | None = None, sorter: Any = None) -> Any:
    """Insertion place of a number, as a tensor of rank 0 in the elements' dtype when that is wide enough."""
    if elements.ndim != 1 or (isinstance(value, float) and not elements.dtype.is_floating_point):
        return NotImplemented
    return searchsorted(elements, full([], value, elements.dtype, elements.device), out_int32=out_int32, right=right, side=side, sorter=sorter)


@register(aten.bucketize.Tensor)
def bucketize(values: Any, boundaries: Any, *, out_int32: bool = False, right: bool = False) -> Any:
    """`searchsorted` of one row of boundaries."""
    return searchsorted(boundaries, values, out_int32=out_int32, right=right)


@register(aten.bucketize.Scalar)
def bucketize_scalar(value: Any, boundaries: Any, *, out_int32: bool = False, right: bool = False) -> Any:
    """`searchsorted` of a number."""
    return searchsorted_scalar(boundaries, value, out_int32=out_int32, right=right)
