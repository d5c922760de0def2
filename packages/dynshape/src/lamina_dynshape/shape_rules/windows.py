"""Pooling, interpolation and other sliding windows over (N, C, *spatial) or (C, *spatial)."""

from __future__ import annotations

from typing import Any

import torch

from lamina_dynshape.dims import lt, plain
from lamina_dynshape.layout import contiguous, format_strides, suggest_format
from lamina_dynshape.shape_rules.registry import each, rule


def _spread(values: Any, count: int, default: Any = None) -> list[Any]:
    if values is None or len(values) == 0:
        return list(default)
    return list(values) * count if len(values) == 1 else list(values)


def _pooled(n: Any, k: Any, stride: Any, pad: Any, dilation: Any, ceil_mode: bool) -> Any:
    """One pooled size. Source: ATen/native/Pool.h, pooling_output_shape."""
    span = n + 2 * pad - dilation * (k - 1) - 1 + (stride - 1 if ceil_mode else 0)
    size = plain(span // stride + 1)
    # The last window must start inside the input or its left padding.
    if ceil_mode and not lt(plain((size - 1) * stride), plain(n + pad)):
        size = plain(size - 1)
    return size


def _format(x: Any, count: int) -> torch.memory_format:
    return suggest_format(x.sizes, x.strides) if len(x.sizes) == count + 2 else torch.contiguous_format


def _pool(mode: Any, x: Any, count: int, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> tuple[Any, Any]:
    if len(x.sizes) not in (count + 1, count + 2):
        raise RuntimeError(f"non-empty {count + 1}D or {count + 2}D (batch mode) tensor expected for input")
    kernel = [mode.dim(k) for k in _spread(kernel, count)]
    stride = [mode.dim(s) for s in _spread(stride, count, kernel)]
    padding, dilation = [mode.dim(p) for p in _spread(padding, count)], _spread(dilation, count)
    spatial = [_pooled(n, *args, ceil_mode) for n, *args in zip(x.sizes[-count:], kernel, stride, padding, dilation)]
    if any(lt(s, 1) for s in spatial):
        raise RuntimeError(f"Given input size: {list(x.sizes[-count - 1 :])}. Calculated output size: {[x.sizes[-count - 1], *spatial]}. Output size is too small")
    sizes = (*x.sizes[:-count], *spatial)
    return sizes, format_strides(sizes, _format(x, count))


@rule("max_pool2d_with_indices")
def _max_pool2d(mode: Any, x: Any, kernel: Any, stride: Any = (), padding: Any = (0,), dilation: Any = (1,), ceil_mode: bool = False) -> Any:
    sizes, strides = _pool(mode, x, 2, kernel, stride, padding, dilation, ceil_mode)
    return mode.make(sizes, strides, x.scalar_type, x.dev), mode.make(sizes, strides, torch.int64, x.dev)


@rule("max_pool3d_with_indices")
def _max_pool3d(mode: Any, x: Any, kernel: Any, stride: Any = (), padding: Any = (0,), dilation: Any = (1,), ceil_mode: bool = False) -> Any:
    sizes, strides = _pool(mode, x, 3, kernel, stride, padding, dilation, ceil_mode)
    return mode.make(sizes, strides, x.scalar_type, x.dev), mode.make(sizes, strides, torch.int64, x.dev)


def _pool_backward(count: int) -> Any:
    def rule_(mode: Any, grad: Any, x: Any, *args: Any) -> Any:
        return mode.make(x.sizes, format_strides(x.sizes, _format(x, count)), grad.scalar_type, grad.dev)

    return rule_


each(["max_pool2d_with_indices_backward", "avg_pool2d_backward", "_adaptive_avg_pool2d_backward", "adaptive_max_pool2d_backward"],
     lambda op: _pool_backward(2))
each(["max_pool3d_with_indices_backward", "avg_pool3d_backward", "_adaptive_avg_pool3d_backward", "adaptive_max_pool3d_backward"],
     lambda op: _pool_backward(3))


@rule("avg_pool2d")
def _avg_pool2d(mode: Any, x: Any, kernel: Any, stride: Any = (), padding: Any = (0,), ceil_mode: bool = False, *args: Any) -> Any:
    sizes, strides = _pool(mode, x, 2, kernel, stride, padding, (1,), ceil_mode)
    return mode.make(sizes, strides, x.scalar_type, x.dev)


@rule("avg_pool3d")
def _avg_pool3d(mode: Any, x: Any, kernel: Any, stride: Any = (), padding: Any = (0,), ceil_mode: bool = False, *args: Any) -> Any:
    sizes, strides = _pool(mode, x, 3, kernel, stride, padding, (1,), ceil_mode)
    return mode.make(sizes, strides, x.scalar_type, x.dev)


@rule("_adaptive_avg_pool2d", "_adaptive_avg_pool3d")
def _adaptive_avg_pool(mode: Any, x: Any, output: Any) -> Any:
    sizes = (*x.sizes[: -len(output)], *map(mode.dim, output))
    return mode.make(sizes, format_strides(sizes, _format(x, len(output))), x.scalar_type, x.dev)


@rule("adaptive_max_pool2d", "adaptive_max_pool3d")
def _adaptive_max_pool(mode: Any, x: Any, output: Any) -> Any:
    result = _adaptive_avg_pool(mode, x, output)
    return result, mode.make(result.sizes, result.strides, torch.int64, x.dev)


# -- interpolation --------------------------------------------------------------------------------------------------------------
@rule("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "_upsample_nearest_exact1d", "_upsample_nearest_exact2d",
      "_upsample_nearest_exact3d", "upsample_linear1d", "upsample_bilinear2d", "upsample_bicubic2d", "upsample_trilinear3d",
      "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa")
def _upsample(mode: Any, x: Any, output: Any, *args: Any) -> Any:
    sizes = (*x.sizes[:2], *map(mode.dim, output))
    return mode.make(sizes, format_strides(sizes, suggest_format(x.sizes, x.strides)), x.scalar_type, x.dev)


@rule("upsample_nearest1d_backward", "upsample_nearest2d_backward", "upsample_nearest3d_backward", "_upsample_nearest_exact2d_backward",
      "upsample_linear1d_backward", "upsample_bilinear2d_backward", "upsample_trilinear3d_backward")
def _upsample_backward(mode: Any, grad: Any, output: Any, sizes: Any, *args: Any) -> Any:
    sizes = tuple(map(mode.dim, sizes))
    return mode.make(sizes, format_strides(sizes, suggest_format(grad.sizes, grad.strides)), grad.scalar_type, grad.dev)


@rule("upsample_bicubic2d_backward")
def _upsample_bicubic_backward(mode: Any, grad: Any, output: Any, sizes: Any, *args: Any) -> Any:
    sizes = tuple(map(mode.dim, sizes))
    return mode.make(sizes, contiguous(sizes), grad.scalar_type, grad.dev)


@rule("grid_sampler_2d", "grid_sampler_3d")
def _grid_sampler(mode: Any, x: Any, grid: Any, *args: Any) -> Any:
    sizes = (*x.sizes[:2], *grid.sizes[1:-1])
    return mode.make(sizes, contiguous(sizes), x.scalar_type, x.dev)


@rule("max_unpool2d", "max_unpool3d")
def _max_unpool(mode: Any, x: Any, indices: Any, output: Any, *args: Any) -> Any:
    sizes = (*x.sizes[: -len(output)], *map(mode.dim, output))
    format_ = suggest_format(x.sizes, x.strides) if len(output) == 2 else torch.contiguous_format
    return mode.make(sizes, format_strides(sizes, format_), x.scalar_type, x.dev)


@rule("im2col")
def _im2col(mode: Any, x: Any, kernel: Any, dilation: Any, padding: Any, stride: Any) -> Any:
    if len(x.sizes) != 4:
        return NotImplemented
    blocks: Any = 1
    for n, k, d, p, s in zip(x.sizes[-2:], kernel, dilation, padding, stride):
        blocks = plain(blocks * plain((n + 2 * p - d * (k - 1) - 1) // s + 1))
    sizes = (x.sizes[0], plain(x.sizes[1] * kernel[0] * kernel[1]), blocks)
    return mode.make(sizes, contiguous(sizes), x.scalar_type, x.dev)
