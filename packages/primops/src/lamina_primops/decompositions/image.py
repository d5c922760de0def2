"""Pads, pools and resampling of images, where they are index arithmetic. Other pools stay ATen (see `externs`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .common import aten, expand_to, float32_inside, full, p, to
from .registry import register


# -- reflection and replication pads --------------------------------------------------------------------------------------
def _amounts(padding: Sequence[Any], ndim: int) -> list[tuple[int, Any, Any]]:
    """(dim, low, high), last dimension first, as the argument lists them."""
    return [(ndim - 1 - i, padding[2 * i], padding[2 * i + 1]) for i in range(len(padding) // 2)]


def _reflected(x: Any, d: int, low: Any, high: Any) -> Any:
    n = x.shape[d]
    return p.cat([p.flip(p.slice(x, d, 1, low + 1, 1), [d]), x, p.flip(p.slice(x, d, n - 1 - high, n - 1, 1), [d])], d)


def _replicated(x: Any, d: int, low: Any, high: Any) -> Any:
    def edge(at: Any, count: Any) -> Any:
        shape = list(x.shape)
        shape[d] = count
        return p.expand(p.slice(x, d, at, at + 1, 1), shape)

    return p.cat([edge(0, low), x, edge(x.shape[d] - 1, high)], d)


def _negative(padding: Sequence[Any]) -> bool:
    return any(type(v) is int and v < 0 for v in padding)


@register(aten.reflection_pad1d.default, aten.reflection_pad2d.default, aten.reflection_pad3d.default)
def reflection_pad(x: Any, padding: Sequence[Any]) -> Any:
    """x continued by its mirror image, the edge not repeated."""
    if _negative(padding):
        return NotImplemented
    for d, low, high in _amounts(padding, x.ndim):
        x = _reflected(x, d, low, high)
    return x


@register(aten.replication_pad1d.default, aten.replication_pad2d.default, aten.replication_pad3d.default)
def replication_pad(x: Any, padding: Sequence[Any]) -> Any:
    """x continued by its edge elements."""
    if _negative(padding):
        return NotImplemented
    for d, low, high in _amounts(padding, x.ndim):
        x = _replicated(x, d, low, high)
    return x


def _placed(x: Any, d: int, start: Any, size: Any) -> Any:
    """x inside zeros of `size` along d."""
    low, high = [0] * x.ndim, [0] * x.ndim
    low[d], high[d] = start, size - start - x.shape[d]
    return p.pad(x, low, high, 0.0)


@register(aten.reflection_pad1d_backward.default, aten.reflection_pad2d_backward.default, aten.reflection_pad3d_backward.default)
@float32_inside
def reflection_pad_backward(grad: Any, x: Any, padding: Sequence[Any]) -> Any:
    """The middle of grad plus its mirrored borders."""
    if _negative(padding):
        return NotImplemented
    for d, low, high in _amounts(padding, x.ndim):
        n, total = x.shape[d], grad.shape[d]
        left, right = p.flip(p.slice(grad, d, 0, low, 1), [d]), p.flip(p.slice(grad, d, total - high, total, 1), [d])
        middle = p.slice(grad, d, low, low + n, 1)
        grad = p.add(p.add(middle, _placed(left, d, 1, n)), _placed(right, d, n - 1 - high, n))
    return grad


@register(aten.replication_pad1d_backward.default, aten.replication_pad2d_backward.default, aten.replication_pad3d_backward.default)
@float32_inside
def replication_pad_backward(grad: Any, x: Any, padding: Sequence[Any]) -> Any:
    """The middle of grad, its borders added to the edges."""
    if _negative(padding):
        return NotImplemented
    for d, low, high in _amounts(padding, x.ndim):
        n, total = x.shape[d], grad.shape[d]
        left, right = p.sum(p.slice(grad, d, 0, low, 1), [d], True), p.sum(p.slice(grad, d, total - high, total, 1), [d], True)
        grad = p.add(p.add(p.slice(grad, d, low, low + n, 1), _placed(left, d, 0, n)), _placed(right, d, n - 1, n))
    return grad


# -- averages of equal blocks -------------------------------------------------------------------------------------------
def _blocks(x: Any, counts: Sequence[Any], sizes: Sequence[Any]) -> Any:
    """Mean over blocks of `sizes` in the last dimensions, `counts` blocks each."""
    k = len(counts)
    lead = list(x.shape[: x.ndim - k])
    split = p.reshape(x, [*lead, *[v for c, s in zip(counts, sizes, strict=True) for v in (c, s)]])
    total = p.sum(split, [len(lead) + 2 * i + 1 for i in range(k)], False)
    n: Any = 1
    for s in sizes:
        n = n * s
    return p.div_scalar(total, n)


def _spread(grad: Any, counts: Sequence[Any], sizes: Sequence[Any], divisor: Any) -> Any:
    """Each block's gradient repeated over the block, divided."""
    k = len(counts)
    lead = list(grad.shape[: grad.ndim - k])
    one = p.reshape(p.div_scalar(grad, divisor), [*lead, *[v for c in counts for v in (c, 1)]])
    whole = p.expand(one, [*lead, *[v for c, s in zip(counts, sizes, strict=True) for v in (c, s)]])
    return p.reshape(whole, [*lead, *[c * s for c, s in zip(counts, sizes, strict=True)]])


def _divides(size: Any, count: Any) -> bool:
    return type(size) is int and type(count) is int and count > 0 and size % count == 0 and size > 0


@register(aten._adaptive_avg_pool2d.default, aten._adaptive_avg_pool3d.default)
@float32_inside
def adaptive_avg_pool(x: Any, output_size: Sequence[Any]) -> Any:
    """Means of equal blocks; other sizes stay ATen."""
    inner = x.shape[x.ndim - len(output_size) :]
    if not all(_divides(s, o) for s, o in zip(inner, output_size, strict=True)):
        return NotImplemented
    return _blocks(x, output_size, [s // o for s, o in zip(inner, output_size, strict=True)])


@register(aten._adaptive_avg_pool2d_backward.default, aten._adaptive_avg_pool3d_backward.default)
@float32_inside
def adaptive_avg_pool_backward(grad: Any, x: Any) -> Any:
    """Each gradient spread over its block."""
    k = 2 if _is_2d(grad) else 3
    counts, inner = grad.shape[grad.ndim - k :], x.shape[x.ndim - k :]
    if not all(_divides(s, o) for s, o in zip(inner, counts, strict=True)):
        return NotImplemented
    sizes = [s // o for s, o in zip(inner, counts, strict=True)]
    n = 1
    for s in sizes:
        n *= s
    return _spread(grad, counts, sizes, n)


def _is_2d(grad: Any) -> bool:
    return grad.ndim in (3, 4)


def _pairs(v: Any, k: int) -> list[Any]:
    return list(v) * k if len(v) == 1 else list(v)


@register(aten.avg_pool2d.default)
@float32_inside
def avg_pool2d(
    x: Any, kernel_size: Any, stride: Any = (), padding: Any = 0, ceil_mode: bool = False, count_include_pad: bool = True, divisor_override: Any = None
) -> Any:
    """Means of equal blocks: windows that neither overlap nor leave gaps; others stay ATen."""
    kernel = _pairs(kernel_size, 2)
    padding = [padding] if isinstance(padding, int) else padding
    inner = x.shape[-2:]
    if (list(stride) and _pairs(stride, 2) != kernel) or any(padding) or divisor_override is not None:
        return NotImplemented
    if not all(_divides(s, k) for s, k in zip(inner, kernel, strict=True)):
        return NotImplemented
    return _blocks(x, [s // k for s, k in zip(inner, kernel, strict=True)], kernel)


@register(aten.avg_pool2d_backward.default)
@float32_inside
def avg_pool2d_backward(
    grad: Any, x: Any, kernel_size: Any, stride: Any, padding: Any, ceil_mode: bool, count_include_pad: bool, divisor_override: Any
) -> Any:
    """Each gradient spread over its block."""
    kernel = _pairs(kernel_size, 2)
    if (list(stride) and _pairs(stride, 2) != kernel) or any(padding) or divisor_override is not None:
        return NotImplemented
    if not all(_divides(s, k) for s, k in zip(x.shape[-2:], kernel, strict=True)):
        return NotImplemented
    return _spread(grad, grad.shape[-2:], kernel, kernel[0] * kernel[1])


# -- resampling -------------------------------------------------------------------------------------------------------
def _scale(given: float | None, have: Any, want: Any) -> float:
    """Source elements per result element, as eager computes it in float32."""
    if given is not None and given > 0:
        return torch.tensor(1.0 / given, dtype=torch.float32).item()
    return (torch.tensor(float(have)) / float(want)).item()


def _whole_ratio(x: Any, output_size: Sequence[Any], scales: Sequence[Any]) -> list[int] | None:
    """The integer factors of an exact enlargement."""
    inner = x.shape[x.ndim - len(output_size) :]
    if not all(_divides(o, s) for s, o in zip(inner, output_size, strict=True)):
        return None
    ratio = [o // s for s, o in zip(inner, output_size, strict=True)]
    return ratio if all(g is None or g == r for g, r in zip(scales, ratio, strict=True)) else None


def _nearest(x: Any, output_size: Sequence[Any], scales: Sequence[Any], shift: float) -> Any:
    ratio = _whole_ratio(x, output_size, scales)
    k = len(output_size)
    if ratio is not None:
        lead, inner = list(x.shape[: x.ndim - k]), x.shape[x.ndim - k :]
        one = p.reshape(x, [*lead, *[v for s in inner for v in (s, 1)]])
        return p.reshape(p.expand(one, [*lead, *[v for s, r in zip(inner, ratio, strict=True) for v in (s, r)]]), [*lead, *output_size])
    if not all(type(s) is int for s in (*x.shape[x.ndim - k :], *output_size)):
        return NotImplemented
    for i, (want, given) in enumerate(zip(output_size, scales, strict=True)):
        d = x.ndim - k + i
        have = x.shape[d]
        place = to(p.iota(want, 0, 1, torch.int64, x.device), torch.float32)
        place = p.floor(p.mul_scalar(p.add_scalar(place, shift) if shift else place, _scale(given, have, want)))
        x = p.index_select(x, d, to(p.minimum_scalar(place, float(have - 1)), torch.int64))
    return x


@register(aten.upsample_nearest1d.default, aten.upsample_nearest2d.default, aten.upsample_nearest3d.default)
def upsample_nearest(x: Any, output_size: Sequence[Any], *scales: Any, **named: Any) -> Any:
    """The element at floor(i * scale); exact enlargements repeat elements without a gather."""
    return _nearest(x, output_size, _given(scales, named, len(output_size)), 0.0)


@register(aten._upsample_nearest_exact1d.default, aten._upsample_nearest_exact2d.default, aten._upsample_nearest_exact3d.default)
def upsample_nearest_exact(x: Any, output_size: Sequence[Any], *scales: Any, **named: Any) -> Any:
    """The element at floor((i + 0.5) * scale)."""
    return _nearest(x, output_size, _given(scales, named, len(output_size)), 0.5)


def _given(scales: Sequence[Any], named: dict[str, Any], k: int) -> list[Any]:
    scales = [*scales, *(named.get(n) for n in ("scales", "scales_d", "scales_h", "scales_w") if n in named)]
    return [*scales, *[None] * (k - len(scales))]


@register(aten.upsample_nearest1d_backward.default, aten.upsample_nearest2d_backward.default, aten.upsample_nearest3d_backward.default)
@float32_inside
def upsample_nearest_backward(grad: Any, output_size: Sequence[Any], input_size: Sequence[Any], *scales: Any, **named: Any) -> Any:
    """Sums over the repeats of an exact enlargement; others stay ATen."""
    k = len(output_size)
    zeros = full(input_size, 0.0, grad.dtype, grad.device)
    ratio = _whole_ratio(zeros, output_size, _given(scales, named, k))
    if ratio is None:
        return NotImplemented
    lead, inner = list(input_size[: len(input_size) - k]), input_size[len(input_size) - k :]
    split = p.reshape(grad, [*lead, *[v for s, r in zip(inner, ratio, strict=True) for v in (s, r)]])
    return p.sum(split, [len(lead) + 2 * i + 1 for i in range(k)], False)


def _weights(have: int, want: int, align: bool, given: float | None, device: Any) -> tuple[Any, Any, Any]:
    """(lower index, upper index, weight of the upper) along one dimension."""
    place = to(p.iota(want, 0, 1, torch.int64, device), torch.float32)
    if align:
        scale = (torch.tensor(float(have - 1)) / (want - 1)).item() if want > 1 else 0.0
        source = p.mul_scalar(place, scale)
    else:
        source = p.sub_scalar(p.mul_scalar(p.add_scalar(place, 0.5), _scale(given, have, want)), 0.5)
        source = p.maximum_scalar(source, 0.0)
    low = p.minimum_scalar(p.floor(source), float(have - 1))
    high = p.minimum_scalar(p.add_scalar(low, 1.0), float(have - 1))
    weight = p.minimum_scalar(p.maximum_scalar(p.sub(source, low), 0.0), 1.0)
    return to(low, torch.int64), to(high, torch.int64), weight


@register(aten.upsample_linear1d.default, aten.upsample_bilinear2d.default)
@float32_inside
def upsample_linear(x: Any, output_size: Sequence[Any], align_corners: bool, *scales: Any, **named: Any) -> Any:
    """Linear interpolation, last dimension first; places and weights in float32, as eager has them."""
    k = len(output_size)
    if not all(type(s) is int for s in (*x.shape[x.ndim - k :], *output_size)) or x.dtype is not torch.float32:
        return NotImplemented
    scales = _given(scales, named, k)
    for i in reversed(range(k)):
        d = x.ndim - k + i
        low, high, weight = _weights(x.shape[d], output_size[i], align_corners, scales[i], x.device)
        a, b = p.index_select(x, d, low), p.index_select(x, d, high)
        w = expand_to(p.reshape(weight, [output_size[i] if j == d else 1 for j in range(x.ndim)]), a.shape)
        x = p.add(p.mul(a, p.rsub_scalar(w, 1.0)), p.mul(b, w))
    return x
