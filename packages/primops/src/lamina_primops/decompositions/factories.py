"""Tensors made from numbers. `empty` and its like are zeros: any value is allowed there."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..symbolic import plain
from .common import aten, full, p, to
from .registry import register


def _cpu(device: Any) -> torch.device:
    return torch.device("cpu") if device is None else torch.device(device)


def _value_dtype(value: Any) -> torch.dtype:
    if isinstance(value, bool):
        return torch.bool
    return torch.int64 if isinstance(value, (int, torch.SymInt)) else torch.get_default_dtype()


@register(aten.full.default)
def full_(size: Sequence[Any], value: Any, *, dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: Any = None) -> Any:
    """A constant."""
    return full(size, value, dtype or _value_dtype(value), _cpu(device))


@register(aten.scalar_tensor.default)
def scalar_tensor(value: Any, *, dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: Any = None) -> Any:
    """A constant of rank 0."""
    return full([], value, dtype or torch.get_default_dtype(), _cpu(device))


@register(aten.full_like.default)
def full_like_(x: Any, value: Any, *, dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: Any = None, memory_format: Any = None) -> Any:
    """A constant of x's shape."""
    return full(x.shape, value, dtype or x.dtype, device or x.device)


@register(aten.new_full.default)
def new_full(x: Any, size: Sequence[Any], value: Any, *, dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: Any = None) -> Any:
    """A constant of x's dtype."""
    return full(size, value, dtype or x.dtype, device or x.device)


def _filled(value: int) -> tuple[Any, Any, Any]:
    def plain(size: Sequence[Any], *, dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: Any = None, memory_format: Any = None) -> Any:
        return full(size, value, dtype or torch.get_default_dtype(), _cpu(device))

    def like(x: Any, *, dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: Any = None, memory_format: Any = None) -> Any:
        return full(x.shape, value, dtype or x.dtype, device or x.device)

    def new(x: Any, size: Sequence[Any], *, dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: Any = None) -> Any:
        return full(size, value, dtype or x.dtype, device or x.device)

    for fn in (plain, like, new):
        fn.__doc__ = f"Constant {value}."
    return plain, like, new


for _name, _value in (("zeros", 0), ("ones", 1), ("empty", 0)):
    _plain, _like, _new = _filled(_value)
    register(getattr(aten, _name).memory_format if _name == "empty" else getattr(aten, _name).default)(_plain)
    register(getattr(aten, f"{_name}_like").default)(_like)
    register(getattr(aten, f"new_{_name}").default)(_new)
    if _name == "zeros":
        register(aten._efficientzerotensor.default)(_plain)  # a gradient that is known to be zero: eager keeps no memory for it


@register(aten.empty_strided.default)
def empty_strided(size: Sequence[Any], stride: Any, *, dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: Any = None) -> Any:
    """Zeros; the layout is given where it is promised."""
    return full(size, 0, dtype or torch.get_default_dtype(), _cpu(device))


@register(aten.new_empty_strided.default)
def new_empty_strided(x: Any, size: Sequence[Any], stride: Any, *, dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: Any = None) -> Any:
    """Zeros; the layout is given where it is promised."""
    return full(size, 0, dtype or x.dtype, device or x.device)


@register(aten.arange.start_step)
def arange(start: Any, end: Any, step: Any = 1, *, dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: Any = None) -> Any:
    """start + i * step below end; floats are computed in float64 and rounded once."""
    whole = all(isinstance(v, (int, torch.SymInt)) and not isinstance(v, bool) for v in (start, end, step))
    dtype = dtype or (torch.int64 if whole else torch.get_default_dtype())
    if not whole and not all(isinstance(v, (int, float)) for v in (start, end, step)):
        return NotImplemented
    if not dtype.is_floating_point:
        if not whole:
            return NotImplemented  # eager truncates step by step
        return p.iota(_count(start, end, step), start, step, dtype, _cpu(device))
    length = _count(start, end, step) if whole else max(0, math.ceil((end - start) / step))
    i = p.iota(length, 0, 1, torch.int64, _cpu(device))
    if whole:
        return to(p.add_scalar(p.mul_scalar(i, step), start), dtype)
    return to(p.add_scalar(p.mul_scalar(to(i, torch.float64), float(step)), float(start)), dtype)


def _count(start: Any, end: Any, step: Any) -> Any:
    """As the shape rule counts."""
    return 0 if (end < start if step > 0 else start < end) else plain(-((start - end) // step))


@register(aten.arange.start)
def arange_start(start: Any, end: Any, *, dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: Any = None) -> Any:
    """start, start + 1, ... below end."""
    return arange(start, end, 1, dtype=dtype, device=device)


@register(aten.arange.default)
def arange_end(end: Any, *, dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: Any = None) -> Any:
    """0, 1, ... below end."""
    return arange(0, end, 1, dtype=dtype, device=device)


@register(aten.linspace.default)
def linspace(start: Any, end: Any, steps: Any, *, dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: Any = None) -> Any:
    """Symmetric from both ends, as eager computes it, each value rounded in the result's dtype."""
    dtype = dtype or torch.get_default_dtype()
    if dtype not in (torch.float32, torch.float64) or type(steps) is not int:
        return NotImplemented
    start, end = float(start), float(end)
    if steps == 1:
        return full([1], start, dtype, _cpu(device))
    step = torch.tensor((end - start), dtype=dtype).div(max(steps - 1, 1)).item()
    i = p.iota(steps, 0, 1, torch.int64, _cpu(device))
    x = to(i, dtype)
    front = p.add_scalar(p.mul_scalar(x, step), start)
    back = p.rsub_scalar(p.mul_scalar(p.rsub_scalar(x, float(steps - 1)), step), end)
    return p.where(p.lt_scalar(i, steps // 2), front, back)


@register(aten.eye.default, aten.eye.m)
def eye(n: Any, m: Any = None, *, dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: Any = None) -> Any:
    """Ones on the diagonal."""
    m, dtype, device = n if m is None else m, dtype or torch.get_default_dtype(), _cpu(device)
    rows, columns = p.iota(n, 0, 1, torch.int64, device), p.iota(m, 0, 1, torch.int64, device)
    rows, columns = p.expand(p.reshape(rows, [n, 1]), [n, m]), p.expand(p.reshape(columns, [1, m]), [n, m])
    return to(p.eq(rows, columns), dtype)


@register(aten.logspace.default)
def logspace(start: Any, end: Any, steps: Any, base: float = 10.0, *, dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: Any = None) -> Any:
    """base ** linspace, symmetric from both ends as eager computes it."""
    places = linspace(start, end, steps, dtype=dtype, device=device)
    return places if places is NotImplemented else p.rpow_scalar(places, float(base))


@register(aten.range.step, aten.range.default)
def range_(start: Any, end: Any, step: Any = 1, *, dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: Any = None) -> Any:
    """start, start + step, ... up to end, with the end."""
    if not all(isinstance(v, (int, float)) for v in (start, end, step)):
        return NotImplemented
    dtype, length = dtype or torch.get_default_dtype(), math.floor((end - start) / step) + 1
    i = p.iota(length, 0, 1, torch.int64, _cpu(device))
    if not dtype.is_floating_point:
        return NotImplemented if any(isinstance(v, float) for v in (start, end, step)) else to(p.add_scalar(p.mul_scalar(i, step), start), dtype)
    return to(p.add_scalar(p.mul_scalar(to(i, torch.float64), float(step)), float(start)), dtype)


@register(aten.empty_permuted.default)
def empty_permuted(size: Sequence[Any], physical_layout: Any, *, dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: Any = None) -> Any:
    """Zeros; the layout is given where it is promised."""
    return full(size, 0, dtype or torch.get_default_dtype(), _cpu(device))


def _frequencies(n: int, d: float, count: int, dtype: Any, device: Any) -> Any:
    """0, 1, ... count - 1, then what is negative up to -1, over n d."""
    dtype = dtype or torch.get_default_dtype()
    if dtype not in (torch.float32, torch.float64):
        return NotImplemented
    i = p.iota(n if count < n else count, 0, 1, torch.int64, _cpu(device))
    i = p.where(p.ge_scalar(i, count), p.sub_scalar(i, n), i)
    return p.mul_scalar(to(i, dtype), 1.0 / (n * float(d)))


@register(aten.fft_fftfreq.default)
def fftfreq(n: int, d: float = 1.0, *, dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: Any = None) -> Any:
    """Frequencies of a discrete Fourier transform."""
    return _frequencies(n, d, (n + 1) // 2, dtype, device)


@register(aten.fft_rfftfreq.default)
def rfftfreq(n: int, d: float = 1.0, *, dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: Any = None) -> Any:
    """Frequencies that are not negative."""
    dtype = dtype or torch.get_default_dtype()
    if dtype not in (torch.float32, torch.float64):
        return NotImplemented
    return p.mul_scalar(to(p.iota(n // 2 + 1, 0, 1, torch.int64, _cpu(device)), dtype), 1.0 / (n * float(d)))


# -- windows ----------------------------------------------------------------------------------------------------------
def _cosines(*weights: float) -> Callable[..., Any]:
    """sum of weights[k] * (-1)**k * cos(k * 2 pi x), x from 0 to 1."""

    def shape(x: Any, *given: float) -> Any:
        used = (*given, *weights[len(given) :])
        out = full(x.shape, used[0], x.dtype, x.device)
        for k, w in enumerate(used[1:], 1):
            out = p.add(out, p.mul_scalar(p.cos(p.mul_scalar(x, 2.0 * math.pi * k)), (-1.0) ** k * w))
        return out

    return shape


def _bartlett(x: Any) -> Any:
    return p.rsub_scalar(p.abs(p.sub_scalar(p.mul_scalar(x, 2.0), 1.0)), 1.0)


def _kaiser(x: Any, beta: float = 12.0) -> Any:
    y = p.sub_scalar(p.mul_scalar(x, 2.0), 1.0)
    inner = p.sqrt(p.maximum_scalar(p.rsub_scalar(p.mul(y, y), 1.0), 0.0))
    return p.div(p.i0(p.mul_scalar(inner, float(beta))), p.i0(full(x.shape, float(beta), x.dtype, x.device)))


_WINDOWS: dict[str, Callable[..., Any]] = {
    "hann": _cosines(0.5, 0.5), "hamming": _cosines(0.54, 0.46), "blackman": _cosines(0.42, 0.5, 0.08), "bartlett": _bartlett, "kaiser": _kaiser,
}  # fmt: skip


def _window(shape: Callable[..., Any]) -> Callable[..., Any]:
    def rule(
        length: Any, periodic: bool = True, *given: float, dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: Any = None, **named: float
    ) -> Any:
        dtype = dtype or torch.get_default_dtype()
        if dtype not in (torch.float32, torch.float64) or type(length) is not int:
            return NotImplemented
        if length <= 1:
            return full([length], 1, dtype, _cpu(device))
        x = to(p.iota(length, 0, 1, torch.int64, _cpu(device)), torch.float64)
        x = p.mul_scalar(x, 1.0 / (length if periodic else length - 1))
        return to(shape(x, *given, *named.values()), dtype)

    rule.__doc__ = "The window's formula in float64, rounded once."
    return rule


for _name, _shape in _WINDOWS.items():
    _packet = getattr(aten, f"{_name}_window")
    register(*[getattr(_packet, form) for form in _packet.overloads() if "out" not in form])(_window(_shape))


# -- places of triangles ------------------------------------------------------------------------------------------------
def _counts(rows: int, columns: int, offset: int, lower: bool) -> list[int]:
    """Elements of each row of the triangle."""
    kept = [min(max(i + offset + 1, 0), columns) for i in range(rows)]
    return kept if lower else [columns - min(max(i + offset, 0), columns) for i in range(rows)]


def _triangle(lower: bool) -> Callable[..., Any]:
    def rule(row: int, col: int, offset: int = 0, *, dtype: Any = torch.int64, layout: Any = None, device: Any = None, pin_memory: Any = None) -> Any:
        counts = _counts(row, col, offset, lower)
        total, device, dtype = sum(counts), _cpu(device), dtype or torch.int64
        if total == 0 or row > _MAX_ROWS:
            return full([2, 0], 0, dtype, device) if total == 0 else NotImplemented
        k, start = p.iota(total, 0, 1, torch.int64, device), 0
        rows, first = full([total], 0, torch.int64, device), full([total], 0, torch.int64, device)
        for i, n in enumerate(counts):
            here = p.ge_scalar(k, start)
            begin = 0 if lower else max(i + offset, 0)
            rows, first = p.where(here, full([total], i, torch.int64, device), rows), p.where(here, full([total], start - begin, torch.int64, device), first)
            start += n
        return to(p.cat([p.reshape(v, [1, total]) for v in (rows, p.sub(k, first))], 0), dtype)

    rule.__doc__ = "Row and column numbers of the triangle's elements, row by row."
    return rule


_MAX_ROWS = 32  # rows are told apart by comparisons
register(aten.tril_indices.default)(_triangle(True))
register(aten.triu_indices.default)(_triangle(False))
