"""Prefix scans along one dimension."""

from __future__ import annotations

import torch

from .registry import register
from .spec import Spec, TensorLike, check_dim, contiguous

__all__: list[str] = []

_DTYPES = frozenset({torch.float32, torch.float64, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8})


def _scan_meta(x: TensorLike, dim: int) -> Spec:
    check_dim(dim, x.ndim)
    if x.dtype not in _DTYPES:
        raise TypeError(f"scan over {x.dtype}; convert first")
    return Spec(tuple(x.shape), contiguous(x.shape), x.dtype, x.device)


register(
    "cumsum(Tensor x, int dim) -> Tensor", "scan", meta=_scan_meta, reference=lambda x, dim: torch.cumsum(x, dim, dtype=x.dtype), doc="inclusive running sum"
)
register(
    "cumprod(Tensor x, int dim) -> Tensor", "scan", meta=_scan_meta, reference=lambda x, dim: torch.cumprod(x, dim, dtype=x.dtype), doc="inclusive running product"
)
