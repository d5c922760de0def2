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


def _float_scan_meta(x: TensorLike, dim: int) -> Spec:
    if not x.dtype.is_floating_point:
        raise TypeError(f"scan over {x.dtype}; convert first")
    return _scan_meta(x, dim)


def _position_scan_meta(x: TensorLike, dim: int) -> tuple[Spec, Spec]:
    values = _scan_meta(x, dim)
    return values, Spec(values.shape, values.strides, torch.int64, x.device)


register(
    "cumsum(Tensor x, int dim) -> Tensor", "scan", meta=_scan_meta, reference=lambda x, dim: torch.cumsum(x, dim, dtype=x.dtype), doc="inclusive running sum"
)
register(
    "cumprod(Tensor x, int dim) -> Tensor", "scan", meta=_scan_meta, reference=lambda x, dim: torch.cumprod(x, dim, dtype=x.dtype), doc="inclusive running product"
)
register(
    "logcumsumexp(Tensor x, int dim) -> Tensor", "scan", meta=_float_scan_meta, reference=torch.logcumsumexp, doc="log of the running sum of exp, by the larger term"
)
for _name, _fn, _doc in (("cummax", torch.cummax, "largest"), ("cummin", torch.cummin, "smallest")):
    register(
        f"{_name}(Tensor x, int dim) -> (Tensor, Tensor)", "scan", meta=_position_scan_meta, reference=lambda x, dim, _fn=_fn: tuple(_fn(x, dim)),
        doc=f"running {_doc} element and its int64 position, the last of equal ones; NaN wins",
    )  # fmt: skip
