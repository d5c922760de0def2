"""Prims that make a tensor from numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .registry import register
from .spec import Int, Spec, contiguous

__all__: list[str] = []


def _full_meta(size: Sequence[Int], value: Any, dtype: torch.dtype, device: torch.device) -> Spec:
    if isinstance(value, float) and not (dtype.is_floating_point or dtype.is_complex):
        raise TypeError(f"full: the value {value} is a float, the result {dtype}")
    return Spec(tuple(size), contiguous(size), dtype, torch.device(device))


def _iota_meta(length: Int, start: Int, step: Int, dtype: torch.dtype, device: torch.device) -> Spec:
    if dtype.is_floating_point or dtype.is_complex or dtype is torch.bool:
        raise TypeError(f"iota makes integers, not {dtype}: convert the result")
    return Spec((length,), (1,), dtype, torch.device(device))


register(
    "full(SymInt[] size, Scalar value, ScalarType dtype, Device device) -> Tensor", "factory", meta=_full_meta,
    reference=lambda size, value, dtype, device: torch.full(size, value, dtype=dtype, device=device), doc="every element is value",
)  # fmt: skip
register(
    "iota(SymInt length, SymInt start, SymInt step, ScalarType dtype, Device device) -> Tensor", "factory", meta=_iota_meta,
    reference=lambda length, start, step, dtype, device: (torch.arange(length, device=device) * step + start).to(dtype), doc="start + i*step, integers only",
)  # fmt: skip
