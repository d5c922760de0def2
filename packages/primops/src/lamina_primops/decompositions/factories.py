"""Tensors made from numbers. `empty` and its like are zeros: any value is allowed there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..prims.spec import ceildiv
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
    import math

    length = _count(start, end, step) if whole else max(0, math.ceil((end - start) / step))
    i = p.iota(length, 0, 1, torch.int64, _cpu(device))
    if whole:
        return to(p.add_scalar(p.mul_scalar(i, step), start), dtype)
    return to(p.add_scalar(p.mul_scalar(to(i, torch.float64), float(step)), float(start)), dtype)


def _count(start: Any, end: Any, step: Any) -> Any:
    n = end - start if step > 0 else start - end
    n = plain(n) if type(step) is int and abs(step) == 1 else ceildiv(n, abs(step))
    return n if n > 0 else 0


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



