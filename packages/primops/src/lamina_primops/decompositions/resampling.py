"""Resampling of images: nearest, linear and cubic interpolation one dimension after the other, and sampling at the places of a grid.

Places and weights have the dtype that eager computes them in (float32, float64 for doubles); half types are interpolated in float32 and rounded once.
Gradients of enlargements are gathers: each source element sums the results that read it, with the weights they read it with. Where these are many (large
factors, cubic weights) the call stays the library's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from .common import aten, expand_to, float32_inside, full_like, numel, p, to
from .registry import register

_MAX_TAPS = 12  # results along one dimension that read one source element


def _divides(size: Any, count: Any) -> bool:
    return type(size) is int and type(count) is int and count > 0 and size % count == 0 and size > 0


def _static(*sizes: Any) -> bool:
    return all(type(s) is int and s > 0 for s in sizes)


def _rounded(value: float, dtype: torch.dtype) -> float:
    return torch.tensor(value, dtype=dtype).item()


def _scale(given: float | None, have: Any, want: Any, dtype: torch.dtype = torch.float32) -> float:
    """Source elements per result element, as eager computes it in `dtype`."""
    if given is not None and given > 0:
        return _rounded(1.0 / given, dtype)
    return (torch.tensor(float(have), dtype=dtype) / float(want)).item()


def _given(scales: Sequence[Any], named: dict[str, Any], k: int) -> list[Any]:
    scales = [*scales, *(named.get(n) for n in ("scales", "scales_d", "scales_h", "scales_w") if n in named)]
    return [*scales, *[None] * (k - len(scales))]


def _along(v: Any, d: int, shape: Sequence[Any]) -> Any:
    """A vector along dimension d, spread over `shape`."""
    return expand_to(p.reshape(v, [v.shape[0] if i == d else 1 for i in range(len(shape))]), shape)


def _numbers(n: int, device: Any, dtype: torch.dtype = torch.int64) -> Any:
    return to(p.iota(n, 0, 1, torch.int64, device), dtype)


# -- nearest ----------------------------------------------------------------------------------------------------------
def _whole_ratio(inner: Sequence[Any], output_size: Sequence[Any], scales: Sequence[Any]) -> list[int] | None:
    """The integer factors of an exact enlargement."""
    if not all(_divides(o, s) for s, o in zip(inner, output_size, strict=True)):
        return None
    ratio = [o // s for s, o in zip(inner, output_size, strict=True)]
    return ratio if all(g is None or g == r for g, r in zip(scales, ratio, strict=True)) else None


def _nearest_place(have: int, want: int, given: float | None, shift: float, device: Any) -> Any:
    """Source element of each result element."""
    place = _numbers(want, device, torch.float32)
    place = p.floor(p.mul_scalar(p.add_scalar(place, shift) if shift else place, _scale(given, have, want)))
    return to(p.minimum_scalar(place, float(have - 1)), torch.int64)


def _nearest(x: Any, output_size: Sequence[Any], scales: Sequence[Any], shift: float) -> Any:
    k = len(output_size)
    lead, inner = list(x.shape[: x.ndim - k]), x.shape[x.ndim - k :]
    ratio = _whole_ratio(inner, output_size, scales)
    if ratio is not None:
        one = p.reshape(x, [*lead, *[v for s in inner for v in (s, 1)]])
        return p.reshape(p.expand(one, [*lead, *[v for s, r in zip(inner, ratio, strict=True) for v in (s, r)]]), [*lead, *output_size])
    if not _static(*inner, *output_size):
        return NotImplemented
    for i, (want, given) in enumerate(zip(output_size, scales, strict=True)):
        x = p.index_select(x, x.ndim - k + i, _nearest_place(inner[i], want, given, shift, x.device))
    return x


def _nearest_backward(grad: Any, output_size: Sequence[Any], input_size: Sequence[Any], scales: Sequence[Any], shift: float) -> Any:
    k = len(output_size)
    lead, inner = list(input_size[: len(input_size) - k]), input_size[len(input_size) - k :]
    ratio = _whole_ratio(inner, output_size, scales)
    if ratio is not None:
        split = p.reshape(grad, [*lead, *[v for s, r in zip(inner, ratio, strict=True) for v in (s, r)]])
        return p.sum(split, [len(lead) + 2 * i + 1 for i in range(k)], False)
    if not _static(*inner, *output_size):
        return NotImplemented
    readers = [_Readers(have, want, _scale(given, have, want), shift, 0.0, 0.0) for have, want, given in zip(inner, output_size, scales, strict=True)]
    if any(r.taps > _MAX_TAPS for r in readers):
        return NotImplemented
    for i, reader in enumerate(readers):
        place = _nearest_place(inner[i], output_size[i], scales[i], shift, grad.device)

        def weight(at: Any, element: Any, place: Any = place) -> Any:
            return p.eq(p.index_select(place, 0, at), element)

        grad = reader.gather(grad, len(lead) + i, weight)
    return grad


class _Readers:
    """The results that may read each source element along one dimension: result j has its place at (j + shift) * scale - back, elements are read from
    `below` under a place, and less than one above it."""

    def __init__(self, have: int, want: int, scale: float, shift: float, back: float, below: float) -> None:
        self.have, self.want, self.scale, self.shift, self.start = have, want, scale, shift, back - below
        self.taps = min(want, math.ceil((1.0 + below) / scale) + 2) if scale > 0 else want  # two more: places are rounded

    def gather(self, grad: Any, d: int, weight: Callable[[Any, Any], Any]) -> Any:
        """Sum of grad over the readers of each element; `weight(result, element)` of index vectors is a mask or a factor."""
        element = _numbers(self.have, grad.device)
        first = element
        if self.taps < self.want:
            start = p.div_scalar(p.add_scalar(to(element, torch.float64), self.start), self.scale)
            first = to(p.floor(p.sub_scalar(start, self.shift)), torch.int64)
            first = p.minimum_scalar(p.maximum_scalar(first, 0), self.want - self.taps)
        else:
            first = p.mul_scalar(element, 0)
        total = None
        for t in range(self.taps):
            at = p.add_scalar(first, t)
            part, w = p.index_select(grad, d, at), weight(at, element)
            w = _along(w, d, part.shape)
            part = p.where(w, part, full_like(part, 0.0)) if w.dtype is torch.bool else p.mul(part, w)
            total = part if total is None else p.add(total, part)
        return total


for _suffix, _shift in (("upsample_nearest", 0.0), ("_upsample_nearest_exact", 0.5)):
    for _k in (1, 2, 3):

        def _forward(x: Any, output_size: Sequence[Any], *scales: Any, _shift: float = _shift, **named: Any) -> Any:
            """The element at floor((i + shift) * scale); exact enlargements repeat elements without a gather."""
            return _nearest(x, output_size, _given(scales, named, len(output_size)), _shift)

        def _backward(grad: Any, output_size: Sequence[Any], input_size: Sequence[Any], *scales: Any, _shift: float = _shift, **named: Any) -> Any:
            """Sums over the results that repeat an element."""
            return _nearest_backward(grad, output_size, input_size, _given(scales, named, len(output_size)), _shift)

        register(getattr(aten, f"{_suffix}{_k}d").default)(_forward)
        register(getattr(aten, f"{_suffix}{_k}d_backward").default)(float32_inside(_backward))


# -- linear -----------------------------------------------------------------------------------------------------------
def _linear_scale(have: int, want: int, align: bool, given: float | None, dtype: torch.dtype) -> float:
    if not align:
        return _scale(given, have, want, dtype)
    return (torch.tensor(float(have - 1), dtype=dtype) / (want - 1)).item() if want > 1 else 0.0


def _place(have: int, want: int, align: bool, given: float | None, device: Any, dtype: torch.dtype, clamp: bool = True) -> Any:
    """Place of each result element between source elements."""
    place, scale = _numbers(want, device, dtype), _linear_scale(have, want, align, given, dtype)
    if align:
        return p.mul_scalar(place, scale)
    source = p.sub_scalar(p.mul_scalar(p.add_scalar(place, 0.5), scale), 0.5)
    return p.maximum_scalar(source, 0.0) if clamp else source


def _weights(have: int, want: int, align: bool, given: float | None, device: Any, dtype: torch.dtype) -> tuple[Any, Any, Any]:
    """(lower index, upper index, weight of the upper) along one dimension."""
    source = _place(have, want, align, given, device, dtype)
    low = p.minimum_scalar(p.floor(source), float(have - 1))
    high = p.minimum_scalar(p.add_scalar(low, 1.0), float(have - 1))
    weight = p.minimum_scalar(p.maximum_scalar(p.sub(source, low), 0.0), 1.0)
    return to(low, torch.int64), to(high, torch.int64), weight


@register(aten.upsample_linear1d.default, aten.upsample_bilinear2d.default, aten.upsample_trilinear3d.default)
@float32_inside
def upsample_linear(x: Any, output_size: Sequence[Any], align_corners: bool, *scales: Any, **named: Any) -> Any:
    """Linear interpolation, last dimension first."""
    k = len(output_size)
    if not _static(*x.shape[x.ndim - k :], *output_size) or not x.dtype.is_floating_point:
        return NotImplemented
    scales = _given(scales, named, k)
    for i in reversed(range(k)):
        d = x.ndim - k + i
        low, high, weight = _weights(x.shape[d], output_size[i], align_corners, scales[i], x.device, x.dtype)
        a, b = p.index_select(x, d, low), p.index_select(x, d, high)
        w = _along(weight, d, a.shape)
        x = p.add(p.mul(a, p.rsub_scalar(w, 1.0)), p.mul(b, w))
    return x


@register(aten.upsample_linear1d_backward.default, aten.upsample_bilinear2d_backward.default, aten.upsample_trilinear3d_backward.default)
@float32_inside
def upsample_linear_backward(
    grad: Any, output_size: Sequence[Any], input_size: Sequence[Any], align_corners: bool, *scales: Any, **named: Any
) -> Any:
    """Each source element sums its readers, weighted by how near they are: 1 - distance."""
    k, lead = len(output_size), len(input_size) - len(output_size)
    inner, scales = input_size[lead:], _given(scales, named, k)
    if not _static(*inner, *output_size):
        return NotImplemented
    shift = 0.0 if align_corners else 0.5
    steps = [_linear_scale(have, want, align_corners, given, grad.dtype) for have, want, given in zip(inner, output_size, scales, strict=True)]
    readers = [_Readers(have, want, step, shift, shift, 1.0) for have, want, step in zip(inner, output_size, steps, strict=True)]
    if any(r.taps > _MAX_TAPS for r in readers):
        return NotImplemented
    for i, reader in enumerate(readers):
        low, high, upper = _weights(inner[i], output_size[i], align_corners, scales[i], grad.device, grad.dtype)

        def weight(at: Any, element: Any, low: Any = low, high: Any = high, upper: Any = upper) -> Any:
            l, h, w = (p.index_select(v, 0, at) for v in (low, high, upper))
            zero = full_like(w, 0.0)
            return p.add(p.where(p.eq(l, element), p.rsub_scalar(w, 1.0), zero), p.where(p.eq(h, element), w, zero))

        grad = reader.gather(grad, lead + i, weight)
    return grad


# -- cubic ------------------------------------------------------------------------------------------------------------
_CUBIC = -0.75


def _near(t: Any) -> Any:
    """Cubic weight at distance t <= 1."""
    return p.add_scalar(p.mul(p.mul(p.sub_scalar(p.mul_scalar(t, _CUBIC + 2.0), _CUBIC + 3.0), t), t), 1.0)


def _far(t: Any) -> Any:
    """Cubic weight at distance 1 <= t <= 2."""
    inner = p.add_scalar(p.mul(p.sub_scalar(p.mul_scalar(t, _CUBIC), 5.0 * _CUBIC), t), 8.0 * _CUBIC)
    return p.sub_scalar(p.mul(inner, t), 4.0 * _CUBIC)


def _cubic_weights(t: Any) -> list[Any]:
    """Weights of the elements at -1, 0, 1 and 2 from the floor of the place, t above it."""
    rest = p.rsub_scalar(t, 1.0)
    return [_far(p.add_scalar(t, 1.0)), _near(t), _near(rest), _far(p.add_scalar(rest, 1.0))]


@register(aten.upsample_bicubic2d.default)
@float32_inside
def upsample_bicubic2d(x: Any, output_size: Sequence[Any], align_corners: bool, *scales: Any, **named: Any) -> Any:
    """Cubic convolution with a = -0.75, last dimension first; places outside read the edge."""
    if not _static(*x.shape[-2:], *output_size) or not x.dtype.is_floating_point:
        return NotImplemented
    scales = _given(scales, named, 2)
    for i in (1, 0):
        d = x.ndim - 2 + i
        have = x.shape[d]
        source = _place(have, output_size[i], align_corners, scales[i], x.device, x.dtype, clamp=False)
        low = p.floor(source)
        total = None
        for k, w in enumerate(_cubic_weights(p.sub(source, low))):
            at = to(p.minimum_scalar(p.maximum_scalar(p.add_scalar(low, k - 1.0), 0.0), float(have - 1)), torch.int64)
            part = p.index_select(x, d, at)
            part = p.mul(part, _along(w, d, part.shape))
            total = part if total is None else p.add(total, part)
        x = total
    return x


# -- grids ------------------------------------------------------------------------------------------------------------
_BILINEAR, _NEAREST, _BICUBIC = range(3)
_ZEROS, _BORDER, _REFLECTION = range(3)


def _unnormalised(g: Any, n: int, align: bool) -> Any:
    """From -1..1 to places between elements."""
    if align:
        return p.mul_scalar(p.add_scalar(g, 1.0), (n - 1) / 2.0)
    return p.div_scalar(p.sub_scalar(p.mul_scalar(p.add_scalar(g, 1.0), float(n)), 1.0), 2.0)


def _clipped(v: Any, n: int) -> Any:
    return p.minimum_scalar(p.maximum_scalar(v, 0.0), float(n - 1))


def _reflected(v: Any, n: int, align: bool) -> Any:
    """Mirrored at the edges (of the outer elements, or half an element outside) until inside."""
    low, span = (0.0, float(n - 1)) if align else (-0.5, float(n))
    if span <= 0:
        return p.mul_scalar(v, 0.0)
    v = p.abs(p.sub_scalar(v, low))
    turns = p.floor(p.div_scalar(v, span))
    rest = p.fmod_scalar(v, span)
    even = p.eq_scalar(p.fmod_scalar(turns, 2.0), 0.0)
    return p.add_scalar(p.where(even, rest, p.rsub_scalar(rest, span)), low)


def _padded_place(v: Any, n: int, padding: int, align: bool) -> Any:
    if padding == _BORDER:
        return _clipped(v, n)
    return _clipped(_reflected(v, n, align), n) if padding == _REFLECTION else v


class _Sampler:
    """Elements of x (N, C, spatial...) at whole places (N, results): zero outside."""

    def __init__(self, x: Any, results: Sequence[Any]) -> None:
        self.sizes = x.shape[2:]
        self.shape = [x.shape[0], x.shape[1], numel(results)]
        self.flat = p.reshape(x, [x.shape[0], x.shape[1], numel(self.sizes)])

    def spread(self, v: Any) -> Any:
        """A value per result over the channels."""
        return expand_to(p.reshape(v, [self.shape[0], 1, self.shape[2]]), self.shape)

    def at(self, places: Sequence[Any]) -> Any:
        """x at floating whole numbers, outermost dimension first."""
        flat = inside = None
        for v, n in zip(places, self.sizes, strict=True):
            ok = p.logical_and(p.ge_scalar(v, 0.0), p.le_scalar(v, float(n - 1)))
            inside = ok if inside is None else p.logical_and(inside, ok)
            i = to(p.where(ok, v, full_like(v, 0.0)), torch.int64)
            flat = i if flat is None else p.add(p.mul_scalar(flat, n), i)
        found = p.gather(self.flat, 2, self.spread(flat))
        return p.where(self.spread(inside), found, full_like(found, 0.0))


def _grid_linear(sampler: _Sampler, places: Sequence[Any]) -> Any:
    total, low = None, [p.floor(v) for v in places]
    for corner in range(2 ** len(places)):
        at, weight = [], None
        for d, (v, l) in enumerate(zip(places, low, strict=True)):
            upper = corner >> d & 1
            at.append(p.add_scalar(l, 1.0) if upper else l)
            w = p.sub(v, l) if upper else p.sub(p.add_scalar(l, 1.0), v)
            weight = w if weight is None else p.mul(weight, w)
        part = p.mul(sampler.at(at), sampler.spread(weight))
        total = part if total is None else p.add(total, part)
    return total


def _grid_cubic(sampler: _Sampler, places: Sequence[Any], padding: int, align: bool) -> Any:
    low = [p.floor(v) for v in places]
    rows, columns = (_cubic_weights(p.sub(v, l)) for v, l in zip(places, low, strict=True))
    total = None
    for i, row in enumerate(rows):
        line = None
        for j, column in enumerate(columns):
            at = [_padded_place(p.add_scalar(l, k - 1.0), n, padding, align) for l, k, n in zip(low, (i, j), sampler.sizes, strict=True)]
            part = p.mul(sampler.at(at), sampler.spread(column))
            line = part if line is None else p.add(line, part)
        line = p.mul(line, sampler.spread(row))
        total = line if total is None else p.add(total, line)
    return total


@register(aten.grid_sampler_2d.default, aten.grid_sampler_3d.default)
@float32_inside
def grid_sampler(x: Any, grid: Any, interpolation_mode: int, padding_mode: int, align_corners: bool) -> Any:
    """x at the places of the grid, interpolated; weights in float32 or wider."""
    if not _static(*x.shape, *grid.shape) or x.dtype is not grid.dtype:
        return NotImplemented
    results = grid.shape[1:-1]
    sampler, count = _Sampler(x, results), numel(results)
    flat = p.reshape(grid, [x.shape[0], count, len(results)])
    places = []
    for d, n in enumerate(x.shape[2:]):
        k = len(results) - 1 - d  # the grid lists the innermost coordinate first
        places.append(_unnormalised(p.reshape(p.slice(flat, 2, k, k + 1, 1), [x.shape[0], count]), n, align_corners))
    if interpolation_mode == _BICUBIC:
        out = _grid_cubic(sampler, places, padding_mode, align_corners)
    else:
        places = [_padded_place(v, n, padding_mode, align_corners) for v, n in zip(places, x.shape[2:], strict=True)]
        out = _grid_linear(sampler, places) if interpolation_mode == _BILINEAR else sampler.at([p.round(v) for v in places])
    return p.reshape(out, [*x.shape[:2], *results])


@register(aten.affine_grid_generator.default)
@float32_inside
def affine_grid(theta: Any, size: Sequence[Any], align_corners: bool) -> Any:
    """Places theta @ (x, y, (z,) 1) of each result element, as a product of matrices."""
    inner = list(size[2:])
    if not _static(*inner) or len(inner) not in (2, 3):
        return NotImplemented
    axes = []
    for d, n in reversed(list(enumerate(inner))):
        step = 2.0 / (n - 1) if align_corners and n > 1 else 0.0 if align_corners else 2.0 / n
        first = (-1.0 if n > 1 else 0.0) if align_corners else 1.0 / n - 1.0
        line = p.add_scalar(p.mul_scalar(_numbers(n, theta.device, theta.dtype), step), first)
        axes.append(p.reshape(_along(line, d, inner), [numel(inner), 1]))
    base = p.cat([*axes, full_like(axes[0], 1.0)], 1)
    base = p.expand(p.reshape(base, [1, *base.shape]), [theta.shape[0], *base.shape])
    out = p.bmm(base, p.permute(theta, [0, 2, 1]))
    return p.reshape(out, [theta.shape[0], *inner, len(inner)])
