"""Fourier transforms. Source: ATen/native/mkl/SpectralOps.cpp: the transformed dimensions become innermost, in their order."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cmp_to_key
from typing import Any

import torch

from lamina_dynshape.dims import order, plain
from lamina_dynshape.layout import contiguous
from lamina_dynshape.shape_rules.registry import rule
from lamina_dynshape.shape_rules.views import wrap_dim

_COMPLEX = {torch.float32: torch.complex64, torch.float64: torch.complex128}
_REAL = {torch.complex64: torch.float32, torch.complex128: torch.float64}


def _by_stride(x: Any, dims: Sequence[Any]) -> list[int]:
    """Dimensions from the largest stride to the smallest."""
    wrapped = [wrap_dim(int(d), len(x.sizes)) for d in dims]
    return sorted(wrapped, key=cmp_to_key(lambda a, b: order(x.strides[b], x.strides[a])))


def _transformed(mode: Any, sizes: Any, x: Any, dims: Sequence[int], dtype: torch.dtype) -> Any:
    """Batch dimensions keep the input's memory order outside, transformed ones are innermost."""
    inner = [wrap_dim(d, len(sizes)) for d in dims]
    outer = _by_stride(x, [d for d in range(len(sizes)) if d not in inner])
    order = outer + inner
    packed = contiguous((1, *(sizes[d] for d in order)))[1:]
    strides: list[Any] = [0] * len(sizes)
    for at, d in enumerate(order):
        strides[d] = packed[at]
    return mode.make(tuple(sizes), tuple(strides), dtype, x.dev)


@rule("_fft_r2c")
def _fft_r2c(mode: Any, x: Any, dims: Any, normalization: int, onesided: bool) -> Any:
    sizes = list(x.sizes)
    if onesided:
        last = wrap_dim(dims[-1], len(sizes))
        sizes[last] = plain(sizes[last] // 2 + 1)
    return _transformed(mode, sizes, x, [*_by_stride(x, dims[:-1]), dims[-1]], _COMPLEX[x.scalar_type])


@rule("_fft_c2c")
def _fft_c2c(mode: Any, x: Any, dims: Any, normalization: int, forward: bool) -> Any:
    return _transformed(mode, x.sizes, x, _by_stride(x, dims), x.scalar_type)


@rule("_fft_c2r")
def _fft_c2r(mode: Any, x: Any, dims: Any, normalization: int, last: Any) -> Any:
    sizes = list(x.sizes)
    sizes[wrap_dim(dims[-1], len(sizes))] = mode.dim(last)
    return _transformed(mode, sizes, x, dims, _REAL[x.scalar_type])
