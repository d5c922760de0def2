"""Average pools as sums over windows, their gradients as sums over the windows that hold an element: gathers, no scatter, so that they fuse with neighbours.

Half types are summed in float32 and rounded once. Windows that neither overlap nor leave gaps are reshapes and a sum. A pool of more than `_MAX_TAPS`
elements per window stays the library's; so do maxima with their positions (inductor has a kernel of its own for them).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .common import aten, expand_to, float32_inside, full, full_like, numel, p, to
from .registry import register

_MAX_TAPS = 25  # elements of a window, all dimensions together


def _each(v: Any, k: int, default: Any = None) -> list[int]:
    """One number per spatial dimension; empty means the default."""
    v = [v] if isinstance(v, int) else list(v) or list(default)
    return v * k if len(v) == 1 else v


def _static(*sizes: Any) -> bool:
    return all(type(s) is int and s > 0 for s in sizes)


def _spatial(x: Any, k: int) -> list[Any]:
    return list(x.shape[x.ndim - k :])


# -- equal blocks -----------------------------------------------------------------------------------------------------
def _blocks(x: Any, counts: Sequence[Any], sizes: Sequence[Any]) -> Any:
    """Sums over blocks of `sizes` in the last dimensions, `counts` blocks each."""
    k = len(counts)
    lead = list(x.shape[: x.ndim - k])
    split = p.reshape(x, [*lead, *[v for c, s in zip(counts, sizes, strict=True) for v in (c, s)]])
    return p.sum(split, [len(lead) + 2 * i + 1 for i in range(k)], False)


def _spread(grad: Any, sizes: Sequence[Any]) -> Any:
    """Each gradient repeated over its block."""
    counts = _spatial(grad, len(sizes))
    lead = list(grad.shape[: grad.ndim - len(sizes)])
    one = p.reshape(grad, [*lead, *[v for c in counts for v in (c, 1)]])
    whole = p.expand(one, [*lead, *[v for c, s in zip(counts, sizes, strict=True) for v in (c, s)]])
    return p.reshape(whole, [*lead, *[c * s for c, s in zip(counts, sizes, strict=True)]])


# -- sums over ranges ---------------------------------------------------------------------------------------------------
def _along(v: Any, x: Any, d: int, shape: Sequence[Any]) -> Any:
    """A vector along dimension d, spread over `shape`."""
    return expand_to(p.reshape(v, [v.shape[0] if i == d else 1 for i in range(len(shape))]), shape)


def _ranges_sum(x: Any, d: int, first: Any, last: Any, taps: int) -> Any:
    """Along d, element i of the result is the sum of x[first[i]], ... x[last[i]]: at most `taps` of them."""
    total = None
    for t in range(taps):
        place = p.add_scalar(first, t) if t else first
        part = p.index_select(x, d, p.minimum_scalar(place, x.shape[d] - 1))
        part = p.where(_along(p.le(place, last), x, d, part.shape), part, full_like(part, 0.0))
        total = part if total is None else p.add(total, part)
    return total


def _numbers(n: int, device: Any, start: int = 0, step: int = 1) -> Any:
    return p.iota(n, start, step, torch.int64, device)


def _holders(n: int, out: int, kernel: int, stride: int, padding: int, device: Any) -> tuple[Any, Any]:
    """(first, last) window that holds each of n elements."""
    i = _numbers(n, device, padding)
    first = p.maximum_scalar(p.floordiv_scalar(p.add_scalar(i, stride - kernel), stride), 0)
    return first, p.minimum_scalar(p.floordiv_scalar(i, stride), out - 1)


# -- average pools ------------------------------------------------------------------------------------------------------
def _outputs(n: int, kernel: int, stride: int, padding: int, ceil_mode: bool) -> int:
    out = (n + 2 * padding - kernel + (stride - 1 if ceil_mode else 0)) // stride + 1
    return out - 1 if ceil_mode and (out - 1) * stride >= n + padding else out


def _windows_sum(x: Any, d: int, out: int, kernel: int, stride: int, padding: int) -> Any:
    """Sums of `kernel` elements, `stride` apart, zeros around."""
    low, high = [0] * x.ndim, [0] * x.ndim
    low[d], high[d] = padding, max(0, (out - 1) * stride + kernel - x.shape[d] - padding)
    x = p.pad(x, low, high, 0.0) if low[d] or high[d] else x
    total = None
    for t in range(kernel):
        part = p.slice(x, d, t, t + (out - 1) * stride + 1, stride)
        total = part if total is None else p.add(total, part)
    return total


def _counted(n: int, out: int, kernel: int, stride: int, padding: int, with_pad: bool) -> list[int]:
    """What each window along one dimension is divided by."""
    counts = []
    for start in range(-padding, out * stride - padding, stride):
        end = min(start + kernel, n + padding)
        counts.append(end - start if with_pad else min(end, n) - max(start, 0))
    return counts


def _count_vector(n: int, out: int, kernel: int, stride: int, padding: int, with_pad: bool, device: Any) -> Any:
    start = _numbers(out, device, -padding, stride)
    end = p.minimum_scalar(p.add_scalar(start, kernel), n + padding)
    return p.sub(end, start) if with_pad else p.sub(p.minimum_scalar(end, n), p.maximum_scalar(start, 0))


def _divided(x: Any, windows: Sequence[tuple[int, ...]], with_pad: bool, override: Any) -> Any:
    """x, one element per window, over the size of its window. `windows`: (n, out, kernel, stride, padding) per dimension."""
    if override is not None:
        return p.div_scalar(x, float(override))
    scalar = 1
    for i, w in enumerate(windows):
        d = x.ndim - len(windows) + i
        counts = _counted(*w, with_pad)
        if len(set(counts)) == 1:
            scalar *= counts[0]
        else:
            x = p.div(x, _along(to(_count_vector(*w, with_pad, x.device), x.dtype), x, d, x.shape))
    return p.div_scalar(x, float(scalar)) if scalar != 1 else x


def _windows(x: Any, k: int, kernel_size: Any, stride: Any, padding: Any, ceil_mode: bool) -> list[tuple[int, ...]] | None:
    """(n, out, kernel, stride, padding) per dimension; None where it is not covered."""
    kernel = _each(kernel_size, k)
    sizes, steps, pads = _spatial(x, k), _each(stride, k, kernel), _each(padding, k)
    if not _static(*sizes, *kernel, *steps) or numel(kernel) > _MAX_TAPS and not _is_tiled(sizes, kernel, steps, pads):
        return None
    return [(n, _outputs(n, m, s, q, ceil_mode), m, s, q) for n, m, s, q in zip(sizes, kernel, steps, pads, strict=True)]


def _is_tiled(sizes: Sequence[int], kernel: Sequence[int], steps: Sequence[int], pads: Sequence[int]) -> bool:
    return kernel == steps and not any(pads) and all(n % m == 0 for n, m in zip(sizes, kernel, strict=True))


def _avg_pool(x: Any, k: int, kernel_size: Any, stride: Any, padding: Any, ceil_mode: bool, with_pad: bool, override: Any) -> Any:
    windows = _windows(x, k, kernel_size, stride, padding, ceil_mode)
    if windows is None:
        return NotImplemented
    sizes, outs, kernel, steps, pads = (list(v) for v in zip(*windows, strict=True))
    if _is_tiled(sizes, kernel, steps, pads):
        return _divided(_blocks(x, outs, kernel), windows, with_pad, override)
    for i in reversed(range(k)):
        x = _windows_sum(x, x.ndim - k + i, *windows[i][1:])
    return _divided(x, windows, with_pad, override)


def _avg_pool_backward(grad: Any, x: Any, k: int, kernel_size: Any, stride: Any, padding: Any, ceil_mode: bool, with_pad: bool, override: Any) -> Any:
    windows = _windows(x, k, kernel_size, stride, padding, ceil_mode)
    if windows is None:
        return NotImplemented
    sizes, _, kernel, steps, pads = (list(v) for v in zip(*windows, strict=True))
    grad = _divided(grad, windows, with_pad, override)
    if _is_tiled(sizes, kernel, steps, pads):
        return _spread(grad, kernel)
    for i, (n, out, m, s, q) in enumerate(windows):
        grad = _ranges_sum(grad, grad.ndim - k + i, *_holders(n, out, m, s, q, grad.device), -(-m // s))
    return grad


def _register_average(k: int) -> None:
    @register(getattr(aten, f"avg_pool{k}d").default)
    @float32_inside
    def avg_pool(
        x: Any, kernel_size: Any, stride: Any = (), padding: Any = 0, ceil_mode: bool = False, count_include_pad: bool = True, divisor_override: Any = None
    ) -> Any:
        """Sums over windows, one dimension after the other, over the number of elements."""
        return _avg_pool(x, k, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)

    @register(getattr(aten, f"avg_pool{k}d_backward").default)
    @float32_inside
    def avg_pool_backward(
        grad: Any, x: Any, kernel_size: Any, stride: Any, padding: Any, ceil_mode: bool, count_include_pad: bool, divisor_override: Any
    ) -> Any:
        """For each element the sum over the windows that hold it, each over its number of elements."""
        return _avg_pool_backward(grad, x, k, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)

    @register(getattr(aten, f"_adaptive_avg_pool{k}d_backward").default)
    @float32_inside
    def adaptive_avg_pool_backward(grad: Any, x: Any) -> Any:
        """For each element the sum over the parts that hold it, each over its length."""
        return _adaptive_backward(grad, x, k)


# -- adaptive average pools -----------------------------------------------------------------------------------------------
def _parts(n: int, out: int, device: Any) -> tuple[Any, Any]:
    """(first, last) element of each of `out` parts of n elements."""
    i = _numbers(out, device)
    first = p.floordiv_scalar(p.mul_scalar(i, n), out)
    return first, p.sub_scalar(p.floordiv_scalar(p.add_scalar(p.mul_scalar(i, n), n + out - 1), out), 1)


def _longest(n: int, out: int) -> int:
    return max(-(-(i + 1) * n // out) - i * n // out for i in range(out))


def _lengths(n: int, out: int, x: Any, d: int) -> Any:
    first, last = _parts(n, out, x.device)
    return _along(to(p.add_scalar(p.sub(last, first), 1), x.dtype), x, d, x.shape)


@register(aten._adaptive_avg_pool2d.default, aten._adaptive_avg_pool3d.default)
@float32_inside
def adaptive_avg_pool(x: Any, output_size: Sequence[Any]) -> Any:
    """Means over the parts, one dimension after the other."""
    k, inner = len(output_size), _spatial(x, len(output_size))
    if not _static(*inner, *output_size):
        return NotImplemented
    if all(n % out == 0 for n, out in zip(inner, output_size, strict=True)):
        sizes = [n // out for n, out in zip(inner, output_size, strict=True)]
        return p.div_scalar(_blocks(x, output_size, sizes), float(numel(sizes)))
    if max(map(_longest, inner, output_size)) > _MAX_TAPS // 2:
        return NotImplemented
    for i, (n, out) in enumerate(zip(inner, output_size, strict=True)):
        d = x.ndim - k + i
        x = _ranges_sum(x, d, *_parts(n, out, x.device), _longest(n, out))
        x = p.div(x, _lengths(n, out, x, d))
    return x


def _adaptive_backward(grad: Any, x: Any, k: int) -> Any:
    inner, counts = _spatial(x, k), _spatial(grad, k)
    if not _static(*inner, *counts):
        return NotImplemented
    if all(n % out == 0 for n, out in zip(inner, counts, strict=True)):
        sizes = [n // out for n, out in zip(inner, counts, strict=True)]
        return _spread(p.div_scalar(grad, float(numel(sizes))), sizes)
    if max(map(_longest, counts, inner)) > _MAX_TAPS // 2:
        return NotImplemented
    for i, (n, out) in enumerate(zip(inner, counts, strict=True)):
        d = grad.ndim - k + i
        grad = p.div(grad, _lengths(n, out, grad, d))
        grad = _ranges_sum(grad, d, *_parts(out, n, grad.device), _longest(out, n))
    return grad


for _k in (2, 3):
    _register_average(_k)


# -- maxima -----------------------------------------------------------------------------------------------------------
def _planes(x: Any, k: int) -> list[Any]:
    """Shape with the spatial dimensions in one."""
    return [*x.shape[: x.ndim - k], numel(_spatial(x, k))]


def _to_positions(values: Any, positions: Any, shape: Sequence[Any], k: int, mode: str) -> Any:
    """Zeros of `shape` with values written or added at flat positions of each plane."""
    zeros = full([*shape[: len(shape) - k], numel(shape[len(shape) - k :])], 0, values.dtype, values.device)
    flat, at = p.reshape(values, _planes(values, k)), p.reshape(positions, _planes(positions, k))
    return p.reshape(p.scatter(zeros, zeros.ndim - 1, at, flat, mode), list(shape))


def _register_maxima(k: int) -> None:
    """One pass over the windows; a sum per element would read each window several times."""

    @register(getattr(aten, f"max_pool{k}d_with_indices_backward").default)
    @float32_inside
    def max_pool_backward(grad: Any, x: Any, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool, indices: Any) -> Any:
        """Gradients added at the positions of the maxima."""
        return _to_positions(grad, indices, x.shape, k, "add")

    @register(getattr(aten, f"adaptive_max_pool{k}d_backward").default)
    @float32_inside
    def adaptive_max_pool_backward(grad: Any, x: Any, indices: Any) -> Any:
        """Gradients added at the positions of the maxima."""
        return _to_positions(grad, indices, x.shape, k, "add")


for _k in (2, 3):
    _register_maxima(_k)


@register(aten.max_unpool2d.default)
def max_unpool2d(x: Any, indices: Any, output_size: Sequence[Any]) -> Any:
    """Zeros with x written at the positions."""
    return _to_positions(x, indices, [*x.shape[:-2], *output_size], 2, "set")


@register(aten.max_unpool3d.default)
def max_unpool3d(x: Any, indices: Any, output_size: Sequence[Any], stride: Any, padding: Any) -> Any:
    """Zeros with x written at the positions."""
    return _to_positions(x, indices, [*x.shape[:-3], *output_size], 3, "set")


# -- columns of windows -------------------------------------------------------------------------------------------------
def _rows_of(n: int, kernel: int, dilation: int, padding: int, stride: int, device: Any) -> tuple[int, Any]:
    """(windows, flat padded position of element j of window o at [j * windows + o])."""
    out = (n + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    j, o = p.reshape(_numbers(kernel, device, 0, dilation), [kernel, 1]), p.reshape(_numbers(out, device, 0, stride), [1, out])
    return out, p.reshape(p.add(p.expand(j, [kernel, out]), p.expand(o, [kernel, out])), [kernel * out])


def _unfolding(h: Any, w: Any, kernel: Any, dilation: Any, padding: Any, stride: Any, device: Any) -> Any:
    values = zip((h, w), _each(kernel, 2), _each(dilation, 2), _each(padding, 2), _each(stride, 2), strict=True)
    return [_rows_of(*v, device) for v in values]


@register(aten.im2col.default)
def im2col(x: Any, kernel_size: Any, dilation: Any, padding: Any, stride: Any) -> Any:
    """Windows as columns: (N, C * kernel elements, windows). Exact."""
    single, kernel, pads = x.ndim == 3, _each(kernel_size, 2), _each(padding, 2)
    x = p.reshape(x, [1, *x.shape]) if single else x
    n, c, h, w = x.shape
    if not _static(c, h, w):
        return NotImplemented
    (rows, at_row), (columns, at_column) = _unfolding(h, w, kernel_size, dilation, padding, stride, x.device)
    padded = p.pad(x, [0, 0, *pads], [0, 0, *pads], 0.0 if x.dtype.is_floating_point else 0)
    found = p.index_select(p.index_select(padded, 2, at_row), 3, at_column)
    found = p.permute(p.reshape(found, [n, c, kernel[0], rows, kernel[1], columns]), [0, 1, 2, 4, 3, 5])
    shape = [c * kernel[0] * kernel[1], rows * columns]
    return p.reshape(found, shape if single else [n, *shape])


@register(aten.col2im.default)
@float32_inside
def col2im(x: Any, output_size: Sequence[Any], kernel_size: Any, dilation: Any, padding: Any, stride: Any) -> Any:
    """Columns of windows added up at their places."""
    single, (kh, kw), (ph, pw) = x.ndim == 2, _each(kernel_size, 2), _each(padding, 2)
    x = p.reshape(x, [1, *x.shape]) if single else x
    h, w = output_size
    if not _static(*x.shape[1:], h, w):
        return NotImplemented
    (rows, at_row), (columns, at_column) = _unfolding(h, w, kernel_size, dilation, padding, stride, x.device)
    n, c = x.shape[0], x.shape[1] // (kh * kw)
    parts = p.reshape(p.permute(p.reshape(x, [n, c, kh, kw, rows, columns]), [0, 1, 2, 4, 3, 5]), [n, c, kh * rows, kw * columns])
    shape = [kh * rows, kw * columns]
    at = [expand_to(p.reshape(at_row, [shape[0], 1]), shape), expand_to(at_column, shape)]
    zeros = full([n, c, h + 2 * ph, w + 2 * pw], 0.0, x.dtype, x.device)
    whole = p.index_put(zeros, [None, None, *at], parts, True)
    whole = p.slice(p.slice(whole, 2, ph, ph + h, 1), 3, pw, pw + w, 1)
    return p.reshape(whole, [c, h, w]) if single else whole
