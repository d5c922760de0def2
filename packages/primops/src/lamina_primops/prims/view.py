"""Index-remapping prims: views, and the joining ops that read several tensors through index maps.

Results are fresh and functional; whether one is a view in memory is the backend's choice. Dimensions are canonical (0..rank-1), slices are
clamped (0 <= start <= end <= size, step >= 1), pads are not negative: the decompositions see to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .registry import register
from .spec import Int, Spec, TensorLike, ceildiv, check_dim, constant, contiguous, same_sizes

__all__ = ["slice_length"]


def slice_length(start: Int, end: Int, step: Int) -> Int:
    """Elements that start, start+step, ... below end visits."""
    if type(step) is int and step == 1:
        return constant(end - start)
    return ceildiv(end - start, step)


def _expand_meta(x: TensorLike, size: Sequence[Int]) -> Spec:
    if len(size) != x.ndim:
        raise ValueError(f"expand keeps the rank: {x.ndim} to {len(size)}; reshape first")
    strides: list[Int] = []
    for have, want, stride in zip(x.shape, size, x.stride(), strict=True):
        if have is want or (type(have) is int and have != 1) or type(have) is not int:
            if have is not want and have != want:
                raise ValueError(f"expand: size {have} does not broadcast to {want}")
            strides.append(stride)
        else:
            strides.append(stride if type(want) is int and want == 1 else 0)
    return Spec(tuple(size), tuple(strides), x.dtype, x.device)


def _numel(shape: Sequence[Int]) -> Int:
    n: Int = 1
    for s in shape:
        n = n * s
    return n


def _reshape_meta(x: TensorLike, size: Sequence[Int]) -> Spec:
    if any(type(s) is int and s < 0 for s in size):
        raise ValueError(f"reshape to {tuple(size)}: sizes are explicit, -1 is not allowed")
    have, want = _numel(x.shape), _numel(size)
    if have is not want and have != want:
        raise ValueError(f"reshape from {tuple(x.shape)} to {tuple(size)} changes the number of elements")
    return Spec(tuple(size), contiguous(size), x.dtype, x.device)


def _permute_meta(x: TensorLike, dims: Sequence[int]) -> Spec:
    if sorted(dims) != list(range(x.ndim)):
        raise ValueError(f"permute: {tuple(dims)} is not a permutation of {x.ndim} dimensions")
    strides = x.stride()
    return Spec(tuple(x.shape[d] for d in dims), tuple(strides[d] for d in dims), x.dtype, x.device)


def _check_slice(x: TensorLike, dim: int, start: Int, end: Int, step: Int) -> None:
    check_dim(dim, x.ndim)
    if type(step) is int and step < 1:
        raise ValueError(f"slice: step {step} is not positive")
    if type(start) is int and type(end) is int and type(x.shape[dim]) is int and not 0 <= start <= end <= x.shape[dim]:
        raise ValueError(f"slice: {start}:{end} is not clamped to size {x.shape[dim]}")


def _slice_meta(x: TensorLike, dim: int, start: Int, end: Int, step: Int) -> Spec:
    _check_slice(x, dim, start, end, step)
    shape, strides = list(x.shape), list(x.stride())
    shape[dim] = slice_length(start, end, step)
    strides[dim] = strides[dim] * step
    return Spec(tuple(shape), tuple(strides), x.dtype, x.device)


def _flip_meta(x: TensorLike, dims: Sequence[int]) -> Spec:
    for d in dims:
        check_dim(d, x.ndim)
    if len(set(dims)) != len(dims):
        raise ValueError(f"flip: {tuple(dims)} repeats a dimension")
    return Spec(tuple(x.shape), contiguous(x.shape), x.dtype, x.device)


def _as_strided_meta(x: TensorLike, size: Sequence[Int], stride: Sequence[Int], offset: Int) -> Spec:
    if len(size) != len(stride):
        raise ValueError(f"as_strided: {len(size)} sizes, {len(stride)} strides")
    ints = [*size, *stride, offset, *x.shape]
    if all(type(i) is int for i in ints) and 0 not in size:
        last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
        if offset < 0 or last >= _numel(x.shape):
            raise ValueError(f"as_strided: elements {offset}..{last} are outside the {_numel(x.shape)} of its operand")
    return Spec(tuple(size), tuple(stride), x.dtype, x.device)


def _cat_meta(tensors: Sequence[TensorLike], dim: int) -> Spec:
    if not tensors:
        raise ValueError("cat: no tensors")
    first = tensors[0]
    check_dim(dim, first.ndim)
    total: Int = 0
    for t in tensors:
        if t.dtype is not first.dtype:
            raise TypeError(f"cat: operands have {first.dtype} and {t.dtype}; conversion is explicit")
        if t.ndim != first.ndim or not all(d == dim or same_sizes((a,), (b,)) for d, (a, b) in enumerate(zip(first.shape, t.shape, strict=True))):
            raise ValueError(f"cat along {dim}: shapes {tuple(first.shape)} and {tuple(t.shape)} differ")
        total = constant(total + t.shape[dim])
    shape = (*first.shape[:dim], total, *first.shape[dim + 1 :])
    return Spec(shape, contiguous(shape), first.dtype, first.device)


def _pad_meta(x: TensorLike, low: Sequence[Int], high: Sequence[Int], value: Any) -> Spec:
    if len(low) != x.ndim or len(high) != x.ndim:
        raise ValueError(f"pad: {len(low)} and {len(high)} amounts for rank {x.ndim}")
    if any(type(p) is int and p < 0 for p in (*low, *high)):
        raise ValueError("pad: amounts are not negative; slice instead")
    if isinstance(value, float) and not x.dtype.is_floating_point:
        raise TypeError(f"pad: the value {value} is a float, the tensor {x.dtype}")
    shape = tuple(constant(a + n + b) for a, n, b in zip(low, x.shape, high, strict=True))
    return Spec(shape, contiguous(shape), x.dtype, x.device)


def _pad(x: torch.Tensor, low: Sequence[int], high: Sequence[int], value: Any) -> torch.Tensor:
    out = torch.full([a + n + b for a, n, b in zip(low, x.shape, high, strict=True)], value, dtype=x.dtype, device=x.device)
    inner = out
    for d, (a, n) in enumerate(zip(low, x.shape, strict=True)):
        inner = inner.narrow(d, a, n)
    inner.copy_(x)
    return out


def _slice_scatter_meta(x: TensorLike, src: TensorLike, dim: int, start: Int, end: Int, step: Int) -> Spec:
    _check_slice(x, dim, start, end, step)
    if x.dtype is not src.dtype:
        raise TypeError(f"slice_scatter: operands have {x.dtype} and {src.dtype}; conversion is explicit")
    want = list(x.shape)
    want[dim] = slice_length(start, end, step)
    if not same_sizes(src.shape, want):
        raise ValueError(f"slice_scatter: the source has shape {tuple(src.shape)}, the slice {tuple(want)}")
    return Spec(tuple(x.shape), contiguous(x.shape), x.dtype, x.device)


def _restride_meta(x: TensorLike, size: Sequence[Int], stride: Sequence[Int]) -> Spec:
    if len(size) != len(stride) or not same_sizes(x.shape, size):
        raise ValueError(f"restride keeps the shape: {tuple(x.shape)} to {tuple(size)} with strides {tuple(stride)}")
    return Spec(tuple(size), tuple(stride), x.dtype, x.device)


def _restride(x: torch.Tensor, size: Sequence[int], stride: Sequence[int]) -> torch.Tensor:
    return torch.empty_strided(size, stride, dtype=x.dtype, device=x.device).copy_(x)


def _as_strided(x: torch.Tensor, size: Sequence[int], stride: Sequence[int], offset: int) -> torch.Tensor:
    x = x.contiguous()
    return x.as_strided(size, stride, x.storage_offset() + offset).clone()


register(
    "expand(Tensor x, SymInt[] size) -> Tensor", "view", meta=_expand_meta, reference=lambda x, size: x.expand(size).clone(),
    doc="broadcast dimensions of size 1; same rank",
)  # fmt: skip
register(
    "reshape(Tensor x, SymInt[] size) -> Tensor", "view", meta=_reshape_meta, reference=lambda x, size: x.reshape(size).clone(),
    doc="the same elements in row-major order under another shape; no -1",
)  # fmt: skip
register(
    "permute(Tensor x, int[] dims) -> Tensor", "view", meta=_permute_meta, reference=lambda x, dims: x.permute(dims).clone(),
    doc="dimension i of the result is dimension dims[i] of x",
)  # fmt: skip
register(
    "slice(Tensor x, int dim, SymInt start, SymInt end, SymInt step) -> Tensor", "view", meta=_slice_meta,
    reference=lambda x, dim, start, end, step: x[(slice(None),) * dim + (slice(start, end, step),)].clone(), doc="start, start+step, ... below end along dim",
)  # fmt: skip
register(
    "flip(Tensor x, int[] dims) -> Tensor", "view", meta=_flip_meta, reference=lambda x, dims: torch.flip(x, dims), doc="reverse the order along dims"
)
register(
    "as_strided(Tensor x, SymInt[] size, SymInt[] stride, SymInt offset) -> Tensor", "view", meta=_as_strided_meta, reference=_as_strided,
    doc="element i is element offset + sum(i*stride) of x flattened in row-major order, whatever its layout in memory",
)  # fmt: skip
register(
    "cat(Tensor[] tensors, int dim) -> Tensor", "view", meta=_cat_meta, reference=lambda tensors, dim: torch.cat(list(tensors), dim),
    doc="tensors one after the other along dim; same rank, also for empty ones",
)  # fmt: skip
register("pad(Tensor x, SymInt[] low, SymInt[] high, Scalar value) -> Tensor", "view", meta=_pad_meta, reference=_pad, doc="surround x with value")
register(
    "slice_scatter(Tensor x, Tensor src, int dim, SymInt start, SymInt end, SymInt step) -> Tensor", "view", meta=_slice_scatter_meta,
    reference=lambda x, src, dim, start, end, step: torch.slice_scatter(x, src, dim, start, end, step), doc="x with the slice replaced by src",
)  # fmt: skip
register(
    "restride(Tensor x, SymInt[] size, SymInt[] stride) -> Tensor", "view", meta=_restride_meta, reference=_restride,
    doc="a copy with exactly these strides: made where memory layout is promised (graph outputs, inputs of ATen calls)",
)  # fmt: skip
