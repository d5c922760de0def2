"""Views, joins and copies. All exact: elements move, none is computed. Slices are clamped here, negative dims resolved, -1 sizes computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..builder import current
from .common import (
    aten, canonical, compute_dtype, contiguous_strides, expand_to, full, full_like, is_tensor, number, numel, p, promoted,
    reshape, result_dtype, to,
)  # fmt: skip
from .registry import register

_MAX = 2**63 - 1


# -- the same elements --------------------------------------------------------------------------------------------------
@register(aten.alias.default, aten.detach.default, aten.lift.default, aten.lift_fresh_copy.default, aten.alias_copy.default, aten.detach_copy.default)
def identity(x: Any) -> Any:
    """The operand."""
    return x


@register(aten.clone.default, aten.contiguous.default)
def clone(x: Any, *, memory_format: Any = None) -> Any:
    """The operand: memory of its own and layout are given where they are promised, at outputs and operands of ATen calls.

    A copy where `preserve_format` is asked for by name: the operand may be a view of another output, where the clone is to be none.
    """
    builder = current()
    return builder.copy(x, x.strides) if memory_format is torch.preserve_format and builder is not None else x


@register(aten._to_copy.default)
def to_copy(
    x: Any, *, dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: Any = None, non_blocking: bool = False, memory_format: Any = None
) -> Any:
    """Conversion of the dtype; copies to another device stay ATen."""
    if device is not None and torch.device(device).type != x.device.type:
        return NotImplemented
    return x if dtype is None else to(x, dtype)


@register(aten.copy.default)
def copy(x: Any, src: Any, non_blocking: bool = False) -> Any:
    """src in x's dtype and shape."""
    return expand_to(to(src, x.dtype), x.shape) if src.device == x.device else NotImplemented


@register(aten.view.default, aten._unsafe_view.default, aten.view_copy.default, aten._reshape_copy.default, aten._reshape_alias.default, aten._reshape_alias_copy.default)
def view(x: Any, size: Sequence[Any], stride: Any = None) -> Any:
    """Row-major reshape."""
    return reshape(x, size)


@register(aten.view.dtype, aten.view_copy.dtype)
def view_dtype(x: Any, dtype: torch.dtype) -> Any:
    """The same bits; element sizes must agree."""
    if x.dtype.itemsize != dtype.itemsize:
        return NotImplemented
    return x if x.dtype is dtype else p.bitcast(x, dtype)


@register(aten.permute.default, aten.permute_copy.default)
def permute(x: Any, dims: Sequence[int]) -> Any:
    """Dimensions in another order."""
    return p.permute(x, [canonical(d, x.ndim) for d in dims])


@register(aten.transpose.int, aten.transpose_copy.int)
def transpose(x: Any, a: int, b: int) -> Any:
    """Two dimensions exchanged."""
    dims = list(range(x.ndim))
    if dims:
        a, b = canonical(a, x.ndim), canonical(b, x.ndim)
        dims[a], dims[b] = dims[b], dims[a]
    return p.permute(x, dims)


@register(aten.t.default, aten.t_copy.default)
def t(x: Any) -> Any:
    """Transpose of a matrix; a vector stays."""
    return transpose(x, 0, 1) if x.ndim == 2 else x


@register(aten.expand.default, aten.expand_copy.default)
def expand(x: Any, size: Sequence[Any], *, implicit: bool = False) -> Any:
    """Broadcast; -1 keeps a size."""
    lead = len(size) - x.ndim
    return expand_to(x, [x.shape[d - lead] if type(s) is int and s == -1 else s for d, s in enumerate(size)])


@register(aten.unsqueeze.default, aten.unsqueeze_copy.default)
def unsqueeze(x: Any, dim: int) -> Any:
    """A dimension of size 1 put in."""
    dim = dim + x.ndim + 1 if dim < 0 else dim
    return p.reshape(x, [*x.shape[:dim], 1, *x.shape[dim:]])


@register(aten.squeeze.default, aten.squeeze_copy.default)
def squeeze(x: Any) -> Any:
    """Dimensions of size 1 taken out."""
    return p.reshape(x, [s for s in x.shape if not (type(s) is int and s == 1)])


@register(aten.squeeze.dim, aten.squeeze.dims, aten.squeeze_copy.dim, aten.squeeze_copy.dims)
def squeeze_dims(x: Any, dims: Any) -> Any:
    """The given dimensions taken out where their size is 1."""
    dims = [dims] if isinstance(dims, int) else dims
    gone = {canonical(d, x.ndim) for d in dims}
    return p.reshape(x, [s for d, s in enumerate(x.shape) if not (d in gone and type(s) is int and s == 1)])


# -- parts ------------------------------------------------------------------------------------------------------------
def clamped(size: Any, start: Any, end: Any) -> tuple[Any, Any]:
    """start and end of a slice inside 0..size. Symbolic ends are compared with the size, which may record a guard."""
    start = 0 if start is None else start
    end = size if end is None or (type(end) is int and end >= _MAX) else end
    start, end = (v + size if v < 0 else v for v in (start, end))
    start = 0 if start < 0 else start
    if start is not size and not (type(start) is int and start == 0) and start > size:
        start = size
    if end is not size and end > size:
        end = size
    return start, start if end < start else end


@register(aten.slice.Tensor, aten.slice_copy.Tensor)
def slice_(x: Any, dim: int = 0, start: Any = None, end: Any = None, step: Any = 1) -> Any:
    """x[start:end:step] along dim."""
    dim = canonical(dim, x.ndim)
    start, end = clamped(x.shape[dim], start, end)
    return p.slice(x, dim, start, end, step)


def _without(x: Any, dim: int) -> Any:
    return p.reshape(x, [s for d, s in enumerate(x.shape) if d != dim])


@register(aten.select.int, aten.select_copy.int)
def select(x: Any, dim: int, index: Any) -> Any:
    """x[index] along dim."""
    dim = canonical(dim, x.ndim)
    index = index + x.shape[dim] if index < 0 else index
    return _without(p.slice(x, dim, index, index + 1, 1), dim)


@register(aten.narrow_copy.default)
def narrow(x: Any, dim: int, start: Any, length: Any) -> Any:
    """length elements from start along dim."""
    dim = canonical(dim, x.ndim)
    start = start + x.shape[dim] if start < 0 else start
    return p.slice(x, dim, start, start + length, 1)


@register(aten.split_with_sizes.default, aten.unsafe_split_with_sizes.default, aten.split_with_sizes_copy.default)
def split_with_sizes(x: Any, sizes: Sequence[Any], dim: int = 0) -> list[Any]:
    """Consecutive slices along dim."""
    dim, start, out = canonical(dim, x.ndim), 0, []
    for s in sizes:
        out.append(p.slice(x, dim, start, start + s, 1))
        start = start + s
    return out


@register(aten.split.Tensor, aten.split_copy.Tensor, aten.unsafe_split.Tensor)
def split(x: Any, size: Any, dim: int = 0) -> list[Any]:
    """Slices of `size`, the last one shorter."""
    dim = canonical(dim, x.ndim)
    n = x.shape[dim]
    if type(size) is int and size == 0:
        return [x]
    count = int((n + size - 1) // size) or 1
    return [p.slice(x, dim, i * size, (i + 1) * size if i + 1 < count else n, 1) for i in range(count)]


@register(aten.unbind.int, aten.unbind_copy.int)
def unbind(x: Any, dim: int = 0) -> list[Any]:
    """Every x[i] along dim."""
    return [select(x, dim, i) for i in range(int(x.shape[canonical(dim, x.ndim)]))]


def _diagonal_size(x: Any, offset: int, a: int, b: int) -> tuple[Any, int, int]:
    """Length of a diagonal and its first row and column."""
    row, column = (0, offset) if offset >= 0 else (-offset, 0)
    m, n = x.shape[a] - row, x.shape[b] - column
    length = min(m, n) if type(m) is int and type(n) is int else torch.sym_min(m, n)
    return (length if length > 0 else 0), row, column


@register(aten.diagonal.default, aten.diagonal_copy.default)
def diagonal(x: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    """x[.., i + row, .., i + column, ..] with i as the last dimension."""
    a, b = canonical(dim1, x.ndim), canonical(dim2, x.ndim)
    length, row, column = _diagonal_size(x, offset, a, b)
    rest = [d for d in range(x.ndim) if d not in (a, b)]
    x = p.permute(x, [*rest, a, b])
    n = x.shape[-1]
    lead = list(x.shape[:-2])
    flat = p.reshape(x, [*lead, x.shape[-2] * n])
    start = row * n + column
    if type(length) is int and length == 0:
        return full([*lead, 0], 0, x.dtype, x.device)
    return p.slice(flat, len(lead), start, start + (length - 1) * (n + 1) + 1, n + 1)


@register(aten.unfold.default, aten.unfold_copy.default)
def unfold(x: Any, dim: int, size: int, step: int) -> Any:
    """Windows of `size` along dim, each a last dimension."""
    if x.ndim == 0:
        return p.reshape(x, [size])
    dim = canonical(dim, x.ndim)
    count = (x.shape[dim] - size) // step + 1
    index = p.add(*_grid(p.iota(count, 0, step, torch.int64, x.device), p.iota(size, 0, 1, torch.int64, x.device)))
    out = p.index_select(x, dim, p.reshape(index, [count * size]))
    out = p.reshape(out, [*x.shape[:dim], count, size, *x.shape[dim + 1 :]])
    return p.permute(out, [*range(dim + 1), *range(dim + 2, x.ndim + 1), dim + 1])


def _grid(rows: Any, columns: Any) -> tuple[Any, Any]:
    shape = [rows.shape[0], columns.shape[0]]
    return p.expand(p.reshape(rows, [shape[0], 1]), shape), p.expand(p.reshape(columns, [1, shape[1]]), shape)


@register(aten.as_strided.default, aten.as_strided_copy.default)
def as_strided(x: Any, size: Sequence[Any], stride: Sequence[Any], storage_offset: Any = None) -> Any:
    """Elements by their place in x's memory; only for operands that are dense there and start at their storage's beginning."""
    order = _dense_order(x)
    if order is None or not _starts_its_storage(x):
        return NotImplemented
    return p.as_strided(p.permute(x, order), list(size), list(stride), 0 if storage_offset is None else storage_offset)


@register(aten.as_strided_scatter.default)
def as_strided_scatter(x: Any, src: Any, size: Sequence[Any], stride: Sequence[Any], storage_offset: Any = None) -> Any:
    """x with elements replaced by their place in its memory; the same operands as for `as_strided`, places distinct."""
    order = _dense_order(x)
    ints = all(type(v) is int for v in (*size, *stride))
    if order is None or not _starts_its_storage(x) or not ints or any(s == 0 and n > 1 for n, s in zip(size, stride, strict=True)):
        return NotImplemented
    moved = p.permute(x, order)
    flat = p.reshape(moved, [numel(x.shape)])
    place = full([1] * len(size), 0 if storage_offset is None else storage_offset, torch.int64, x.device)
    place = expand_to(place, size)
    for d, (n, s) in enumerate(zip(size, stride, strict=True)):
        steps = p.reshape(p.iota(n, 0, s, torch.int64, x.device), [n if i == d else 1 for i in range(len(size))])
        place = p.add(place, expand_to(steps, size))
    count = numel(size)
    flat = p.scatter(flat, 0, p.reshape(place, [count]), p.reshape(to(src, x.dtype), [count]), "set")
    return p.permute(p.reshape(flat, list(moved.shape)), [order.index(d) for d in range(x.ndim)])


def _starts_its_storage(x: Any) -> bool:
    if isinstance(x, torch.Tensor):
        return x.storage_offset() == 0 and x.untyped_storage().nbytes() == x.numel() * x.element_size()
    return x.fake is not None and type(x.fake.storage_offset()) is int and x.fake.storage_offset() == 0


def _dense_order(x: Any) -> list[int] | None:
    """Dimensions from the largest stride to the smallest if x is dense."""
    strides = x.stride()
    if not all(type(v) is int for v in (*strides, *x.shape)):
        return list(range(x.ndim)) if tuple(strides) == tuple(contiguous_strides(x.shape)) else None
    order = sorted(range(x.ndim), key=lambda d: (-strides[d], -x.shape[d]))
    expected = 1
    for d in reversed(order):
        if x.shape[d] != 1 and strides[d] != expected:
            return None
        expected *= x.shape[d]
    return order


# -- joins ------------------------------------------------------------------------------------------------------------
@register(aten.cat.default)
def cat(tensors: Sequence[Any], dim: int = 0) -> Any:
    """Tensors one after the other, promoted; empty rank-1 tensors are left out, as in eager."""
    kept = [x for x in tensors if not (x.ndim == 1 and type(x.shape[0]) is int and x.shape[0] == 0)] or [tensors[0]]
    dtype = result_dtype(*tensors)
    return p.cat([to(x, dtype) for x in kept], canonical(dim, kept[0].ndim))


@register(aten.stack.default, aten._stack.default)
def stack(tensors: Sequence[Any], dim: int = 0) -> Any:
    """Tensors along a new dimension."""
    dim = dim + tensors[0].ndim + 1 if dim < 0 else dim
    return p.cat([unsqueeze(x, dim) for x in promoted(*tensors)], dim)


@register(aten.repeat.default)
def repeat(x: Any, repeats: Sequence[Any]) -> Any:
    """x tiled."""
    lead = len(repeats) - x.ndim
    shape = [1] * lead + list(x.shape)
    if any(type(r) is int and r == 0 for r in repeats):
        return full([s * r for s, r in zip(shape, repeats, strict=True)], 0, x.dtype, x.device)
    spread = p.reshape(x, [v for s in shape for v in (1, s)])
    spread = expand_to(spread, [v for s, r in zip(shape, repeats, strict=True) for v in (r, s)])
    return p.reshape(spread, [s * r for s, r in zip(shape, repeats, strict=True)])


@register(aten.flip.default)
def flip(x: Any, dims: Sequence[int]) -> Any:
    """Dimensions reversed."""
    dims = [canonical(d, x.ndim) for d in dims]
    return p.flip(x, dims) if x.ndim and dims else x


@register(aten.roll.default)
def roll(x: Any, shifts: Any, dims: Any = ()) -> Any:
    """Elements moved round along dims (in the flattened tensor when dims is empty)."""
    shifts, dims = ([v] if isinstance(v, (int, torch.SymInt)) else list(v) for v in (shifts, dims))
    if not dims:
        return p.reshape(_rolled(p.reshape(x, [numel(x.shape)]), shifts[0], 0), list(x.shape))
    for shift, d in zip(shifts, dims, strict=True):
        x = _rolled(x, shift, canonical(d, x.ndim)) if x.ndim else x
    return x


def _rolled(x: Any, shift: Any, dim: int) -> Any:
    n = x.shape[dim]
    if type(n) is int and n == 0:
        return x
    start = (-shift) % n
    if type(start) is int and start == 0:
        return x
    return p.cat([p.slice(x, dim, start, n, 1), p.slice(x, dim, 0, start, 1)], dim)


@register(aten.rot90.default)
def rot90(x: Any, k: int = 1, dims: Sequence[int] = (0, 1)) -> Any:
    """k quarter turns in the plane of dims."""
    a, b = (canonical(d, x.ndim) for d in dims)
    if k % 4 == 2:
        return p.flip(x, [a, b])
    if k % 4 == 0:
        return x
    return transpose(p.flip(x, [b if k % 4 == 1 else a]), a, b)


@register(aten.constant_pad_nd.default)
def constant_pad_nd(x: Any, pad: Sequence[Any], value: Any = 0) -> Any:
    """x surrounded by a value; negative amounts cut."""
    low, high = [0] * x.ndim, [0] * x.ndim
    for i in range(len(pad) // 2):
        d = x.ndim - 1 - i
        for side, amount in ((low, pad[2 * i]), (high, pad[2 * i + 1])):
            if type(amount) is int and amount < 0:
                n = x.shape[d]
                x = p.slice(x, d, *((-amount, n) if side is low else (0, n + amount)), 1)
            else:
                side[d] = amount
    return p.pad(x, low, high, number(value, x.dtype))


# -- writes into parts --------------------------------------------------------------------------------------------------
@register(aten.slice_scatter.default)
def slice_scatter(x: Any, src: Any, dim: int = 0, start: Any = None, end: Any = None, step: Any = 1) -> Any:
    """x with a slice replaced."""
    dim = canonical(dim, x.ndim)
    start, end = clamped(x.shape[dim], start, end)
    from ..prims.view import slice_length

    shape = list(x.shape)
    shape[dim] = slice_length(start, end, step)
    return p.slice_scatter(x, expand_to(to(src, x.dtype), shape), dim, start, end, step)


@register(aten.select_scatter.default)
def select_scatter(x: Any, src: Any, dim: int, index: Any) -> Any:
    """x with x[index] along dim replaced."""
    dim = canonical(dim, x.ndim)
    index = index + x.shape[dim] if index < 0 else index
    shape = [s for d, s in enumerate(x.shape) if d != dim]
    return p.slice_scatter(x, unsqueeze(expand_to(to(src, x.dtype), shape), dim), dim, index, index + 1, 1)


@register(aten.diagonal_scatter.default)
def diagonal_scatter(x: Any, src: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    """x with a diagonal replaced."""
    a, b = canonical(dim1, x.ndim), canonical(dim2, x.ndim)
    length, row, column = _diagonal_size(x, offset, a, b)
    if type(length) is int and length == 0:
        return x
    rest = [d for d in range(x.ndim) if d not in (a, b)]
    order = [*rest, a, b]
    moved = p.permute(x, order)
    lead, n = list(moved.shape[:-2]), moved.shape[-1]
    start = row * n + column
    flat = p.reshape(moved, [*lead, moved.shape[-2] * n])
    flat = p.slice_scatter(flat, to(src, x.dtype), len(lead), start, start + (length - 1) * (n + 1) + 1, n + 1)
    return p.permute(p.reshape(flat, list(moved.shape)), [order.index(d) for d in range(x.ndim)])


@register(aten.slice_backward.default)
def slice_backward(grad: Any, size: Sequence[Any], dim: int, start: Any, end: Any, step: Any) -> Any:
    """Zeros of the input's size with grad in the slice."""
    dim = canonical(dim, len(size))
    start, end = clamped(size[dim], start, end)
    if type(step) is int and step == 1:  # a pad reads grad through one index map and needs no zeros
        low, high = [0] * len(size), [0] * len(size)
        low[dim], high[dim] = start, size[dim] - end
        return p.pad(grad, low, high, number(0, grad.dtype))
    return p.slice_scatter(full(size, 0, grad.dtype, grad.device), grad, dim, start, end, step)


@register(aten.select_backward.default)
def select_backward(grad: Any, size: Sequence[Any], dim: int, index: Any) -> Any:
    """Zeros of the input's size with grad at index."""
    dim = canonical(dim, len(size))
    index = index + size[dim] if index < 0 else index
    low, high = [0] * len(size), [0] * len(size)
    low[dim], high[dim] = index, size[dim] - index - 1
    return p.pad(unsqueeze(grad, dim), low, high, number(0, grad.dtype))


@register(aten.diagonal_backward.default)
def diagonal_backward(grad: Any, size: Sequence[Any], offset: int, dim1: int, dim2: int) -> Any:
    """Zeros of the input's size with grad on a diagonal."""
    return diagonal_scatter(full(size, 0, grad.dtype, grad.device), grad, offset, dim1, dim2)


@register(aten.unfold_backward.default)
def unfold_backward(grad: Any, size: Sequence[Any], dim: int, window: int, step: int) -> Any:
    """Each window's gradient added to its place; float32 sums for half types are rounded at the end."""
    if len(size) == 0:
        return p.reshape(grad, [])
    dim = canonical(dim, len(size))
    inside = compute_dtype(grad.dtype)
    count = grad.shape[dim]
    moved = p.permute(grad, [*range(dim + 1), grad.ndim - 1, *range(dim + 1, grad.ndim - 1)])
    index = p.add(*_grid(p.iota(count, 0, step, torch.int64, grad.device), p.iota(window, 0, 1, torch.int64, grad.device)))
    values = to(p.reshape(moved, [*size[:dim], count * window, *size[dim + 1 :]]), inside)
    zeros = full(size, 0, inside, grad.device)
    return to(p.index_put(zeros, [None] * dim + [p.reshape(index, [count * window])], values, True), grad.dtype)


@register(aten.fill.Scalar, aten.fill.Tensor)
def fill(x: Any, value: Any) -> Any:
    """A constant of x's shape and dtype."""
    return expand_to(to(value, x.dtype), x.shape) if is_tensor(value) else full_like(x, value)


@register(aten.channel_shuffle.default)
def channel_shuffle(x: Any, groups: int) -> Any:
    """Channels of all groups interleaved."""
    n, c = x.shape[0], x.shape[1]
    y = p.reshape(x, [n, groups, c // groups, *x.shape[2:]])
    return p.reshape(p.permute(y, [0, 2, 1, *range(3, x.ndim + 1)]), list(x.shape))


@register(aten.trace.default)
def trace(x: Any) -> Any:
    """Sum of the diagonal."""
    from .reductions import sum_all

    return sum_all(diagonal(x))


@register(aten.zero.default)
def zero(x: Any) -> Any:
    """Zeros of x's shape."""
    return full_like(x, 0)


@register(aten.diag_embed.default)
def diag_embed(x: Any, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Any:
    """Zeros with x's last dimension on a diagonal."""
    n = x.shape[-1] + abs(offset)
    rank = x.ndim + 1
    a, b = canonical(dim1, rank), canonical(dim2, rank)
    shape, rest = [*x.shape[:-1], n, n], [d for d in range(rank) if d not in (a, b)]
    out = diagonal_scatter(full(shape, 0, x.dtype, x.device), x, offset, rank - 2, rank - 1)
    order = [*rest, a, b]
    return p.permute(out, [order.index(d) for d in range(rank)])


def _triangle(x: Any, diagonal: int, lower: bool) -> Any:
    m, n = x.shape[-2], x.shape[-1]
    rows, columns = _grid(p.iota(m, 0, 1, torch.int64, x.device), p.iota(n, 0, 1, torch.int64, x.device))
    distance = p.sub(columns, rows)
    keep = p.le_scalar(distance, diagonal) if lower else p.ge_scalar(distance, diagonal)
    return p.where(expand_to(keep, x.shape), x, full_like(x, 0))


@register(aten.tril.default)
def tril(x: Any, diagonal: int = 0) -> Any:
    """Elements on and below a diagonal, zeros above."""
    return _triangle(x, diagonal, True)


@register(aten.triu.default)
def triu(x: Any, diagonal: int = 0) -> Any:
    """Elements on and above a diagonal, zeros below."""
    return _triangle(x, diagonal, False)


@register(aten.pixel_shuffle.default)
def pixel_shuffle(x: Any, factor: int) -> Any:
    """(.., C*r*r, H, W) to (.., C, H*r, W*r)."""
    lead, (c, h, w) = list(x.shape[:-3]), x.shape[-3:]
    c, n = c // (factor * factor), len(lead)
    y = p.reshape(x, [*lead, c, factor, factor, h, w])
    return p.reshape(p.permute(y, [*range(n), n, n + 3, n + 1, n + 4, n + 2]), [*lead, c, h * factor, w * factor])


@register(aten.pixel_unshuffle.default)
def pixel_unshuffle(x: Any, factor: int) -> Any:
    """(.., C, H*r, W*r) to (.., C*r*r, H, W)."""
    lead, (c, h, w) = list(x.shape[:-3]), x.shape[-3:]
    h, w, n = h // factor, w // factor, len(lead)
    y = p.reshape(x, [*lead, c, h, factor, w, factor])
    return p.reshape(p.permute(y, [*range(n), n, n + 2, n + 4, n + 1, n + 3]), [*lead, c * factor * factor, h, w])


__all__ = ["clamped", "select", "unsqueeze"]


@register(aten.block_diag.default)
def block_diag(tensors: Sequence[Any]) -> Any:
    """Matrices along the diagonal, zeros elsewhere; vectors are rows."""
    parts = promoted(*[reshape(x, [1, numel(x.shape)]) if x.ndim < 2 else x for x in tensors])
    columns, rows, before = sum(x.shape[1] for x in parts), [], 0
    for x in parts:
        rows.append(p.pad(x, [0, before], [0, columns - before - x.shape[1]], number(0, x.dtype)))
        before = before + x.shape[1]
    return p.cat(rows, 0)
