"""Contractions: matrix products and convolution. Operands have one dtype, floats of any width; accumulation is the library's (float32 or wider)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .registry import register
from .spec import Int, Spec, TensorLike, contiguous, same_sizes

__all__ = ["convolution_shape"]


def _check_dtype(name: str, *tensors: TensorLike) -> None:
    first = tensors[0]
    for t in tensors:
        if t.dtype is not first.dtype:
            raise TypeError(f"{name}: operands have {first.dtype} and {t.dtype}; conversion is explicit")


def _mm_meta(a: TensorLike, b: TensorLike) -> Spec:
    _check_dtype("mm", a, b)
    if a.ndim != 2 or b.ndim != 2 or not same_sizes(a.shape[1:], b.shape[:1]):
        raise ValueError(f"mm of {tuple(a.shape)} and {tuple(b.shape)}")
    shape = (a.shape[0], b.shape[1])
    return Spec(shape, contiguous(shape), a.dtype, a.device)


def _bmm_meta(a: TensorLike, b: TensorLike) -> Spec:
    _check_dtype("bmm", a, b)
    if a.ndim != 3 or b.ndim != 3 or not same_sizes(a.shape[:1], b.shape[:1]) or not same_sizes(a.shape[2:], b.shape[1:2]):
        raise ValueError(f"bmm of {tuple(a.shape)} and {tuple(b.shape)}")
    shape = (a.shape[0], a.shape[1], b.shape[2])
    return Spec(shape, contiguous(shape), a.dtype, a.device)


def convolution_shape(
    x: Sequence[Int], w: Sequence[Int], stride: Sequence[Int], padding: Sequence[Int], dilation: Sequence[Int],
    transposed: bool, output_padding: Sequence[Int], groups: Int,
) -> tuple[Int, ...]:  # fmt: skip
    """Output sizes (N, C, spatial...) of a convolution."""
    out: list[Int] = [x[0], w[1] * groups if transposed else w[0]]
    for d in range(len(x) - 2):
        reach = dilation[d] * (w[d + 2] - 1)
        if transposed:
            out.append((x[d + 2] - 1) * stride[d] - 2 * padding[d] + reach + output_padding[d] + 1)
        else:
            out.append((x[d + 2] + 2 * padding[d] - reach - 1) // stride[d] + 1)
    return tuple(out)


def _convolution_meta(
    x: TensorLike, w: TensorLike, bias: TensorLike | None, stride: Sequence[Int], padding: Sequence[Int], dilation: Sequence[Int],
    transposed: bool, output_padding: Sequence[Int], groups: Int,
) -> Spec:  # fmt: skip
    _check_dtype("convolution", x, w, *(() if bias is None else (bias,)))
    n = x.ndim - 2
    if w.ndim != x.ndim or n < 1 or any(len(v) != n for v in (stride, padding, dilation, output_padding)):
        raise ValueError(f"convolution of {tuple(x.shape)} with {tuple(w.shape)}: {n} spatial dimensions need as many strides, paddings and dilations")
    if not same_sizes(x.shape[1:2], (w.shape[0] if transposed else w.shape[1] * groups,)):
        raise ValueError(f"convolution of {tuple(x.shape)} with {tuple(w.shape)} and {groups} groups")
    shape = convolution_shape(x.shape, w.shape, stride, padding, dilation, transposed, output_padding, groups)
    return Spec(shape, contiguous(shape), x.dtype, x.device)


register("mm(Tensor a, Tensor b) -> Tensor", "contraction", meta=_mm_meta, reference=torch.mm, doc="matrix product (M, K) x (K, N)")
register("bmm(Tensor a, Tensor b) -> Tensor", "contraction", meta=_bmm_meta, reference=torch.bmm, doc="batched matrix product (B, M, K) x (B, K, N)")
register(
    "convolution(Tensor x, Tensor w, Tensor? bias, SymInt[] stride, SymInt[] padding, SymInt[] dilation, bool transposed, SymInt[] output_padding,"
    " SymInt groups) -> Tensor",
    "contraction", meta=_convolution_meta, reference=torch.ops.aten.convolution.default, doc="convolution as aten.convolution, (N, C, spatial...) x (O, C/groups, k...)",
)  # fmt: skip
