"""Quantized and read back: the fake quantization of training. In float32 for half types; rounding is to even, places outside the range are masked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .common import aten, expand_to, float32_inside, full_like, p, to
from .registry import register


def _fake(x: Any, scale: Any, zero: Any, low: int, high: int) -> tuple[Any, Any]:
    """(clamp(round(x / scale) + zero) - zero) * scale, and where nothing was clamped; scale and zero are float tensors of x's shape."""
    q = p.add(p.round(p.mul(x, p.reciprocal(scale))), zero)
    inside = p.logical_and(p.ge_scalar(q, float(low)), p.le_scalar(q, float(high)))
    return p.mul(p.sub(p.minimum_scalar(p.maximum_scalar(q, float(low)), float(high)), zero), scale), inside


@register(aten.fake_quantize_per_tensor_affine_cachemask.default)
@float32_inside
def fake_quantize_per_tensor(x: Any, scale: float, zero_point: int, quant_min: int, quant_max: int) -> Any:
    """One scale and zero point, numbers."""
    if x.dtype is not torch.float32:
        return NotImplemented
    return _fake(x, full_like(x, float(scale)), full_like(x, float(zero_point)), quant_min, quant_max)


@register(aten._fake_quantize_per_tensor_affine_cachemask_tensor_qparams.default)
@float32_inside
def fake_quantize_by_tensors(x: Any, scale: Any, zero_point: Any, fake_quant_enabled: Any, quant_min: int, quant_max: int) -> Any:
    """One scale and zero point, tensors; x itself where it is switched off."""
    if x.dtype is not torch.float32:
        return NotImplemented
    scale, zero = (expand_to(p.reshape(to(v, torch.float32), []), x.shape) for v in (scale, zero_point))
    out, inside = _fake(x, scale, zero, quant_min, quant_max)
    on = expand_to(p.reshape(p.ne_scalar(fake_quant_enabled, 0), []), x.shape)
    return p.where(on, out, x), p.where(on, inside, full_like(x, True, torch.bool))


@register(aten.fake_quantize_per_channel_affine_cachemask.default)
@float32_inside
def fake_quantize_per_channel(x: Any, scale: Any, zero_point: Any, axis: int, quant_min: int, quant_max: int) -> Any:
    """Scale and zero point per channel."""
    if x.dtype is not torch.float32:
        return NotImplemented
    axis = axis + x.ndim if axis < 0 else axis

    def spread(v: Any) -> Any:
        shape: Sequence[Any] = [v.shape[0] if d == axis else 1 for d in range(x.ndim)]
        return expand_to(p.reshape(to(v, torch.float32), list(shape)), x.shape)

    return _fake(x, spread(scale), spread(zero_point), quant_min, quant_max)
