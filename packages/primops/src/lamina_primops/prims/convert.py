"""Conversion of element types: the only places where a dtype changes, besides comparisons and arg-reductions."""

from __future__ import annotations

import torch

from .registry import register
from .spec import Spec, TensorLike, dense_like

__all__: list[str] = []


def _convert_meta(x: TensorLike, dtype: torch.dtype) -> Spec:
    return Spec(tuple(x.shape), dense_like(x.shape, (x,)), dtype, x.device)


def _bitcast_meta(x: TensorLike, dtype: torch.dtype) -> Spec:
    if x.dtype.itemsize != dtype.itemsize:
        raise TypeError(f"bitcast from {x.dtype} to {dtype} changes the element size")
    return Spec(tuple(x.shape), dense_like(x.shape, (x,)), dtype, x.device)


register(
    "convert(Tensor x, ScalarType dtype) -> Tensor", "convert", meta=_convert_meta, reference=lambda x, dtype: x.to(dtype),
    doc="value conversion as Tensor.to has it: to bool is x != 0, float to int truncates, to a narrower float rounds to nearest even",
)  # fmt: skip
register(
    "bitcast(Tensor x, ScalarType dtype) -> Tensor", "convert", meta=_bitcast_meta, reference=lambda x, dtype: x.view(dtype).clone(),
    doc="the same bits read as another dtype of the same size",
)  # fmt: skip
