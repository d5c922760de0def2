"""cat, stack, padding, repetition, pixel shuffles."""

from __future__ import annotations

from typing import Any

import torch

from lamina_dynshape.dims import eq, plain
from lamina_dynshape.layout import contiguous, format_strides, suggest_format
from lamina_dynshape.promotion import result_type
from lamina_dynshape.shape_rules.registry import rule
from lamina_dynshape.shape_rules.views import wrap_dim


def _skipped(x: Any) -> bool:
    """cat ignores 1-D tensors of size 0, a relic."""
    return len(x.sizes) == 1 and x.sizes[0] == 0


@rule("cat", "concat", "concatenate")
def _cat(mode: Any, tensors: Any, dim: int = 0) -> Any:
    for t in tensors:
        t.sizes  # noqa: B018  (a real tensor among them is noticed before anything is computed)
        if not t.sizes:
            raise RuntimeError("zero-dimensional tensor (at position 0) cannot be concatenated")
    if not tensors:
        raise RuntimeError("torch.cat(): expected a non-empty list of Tensors")
    kept = [t for t in tensors if not _skipped(t)]
    dtype = result_type(tensors)
    if not kept:
        return mode.make((0,), (1,), dtype, tensors[0].dev)
    first = kept[0]
    d = wrap_dim(dim, len(first.sizes))
    total: Any = 0
    for t in kept:
        _check_cat(first, t, d)
        total = plain(total + t.sizes[d])
    sizes = (*first.sizes[:d], total, *first.sizes[d + 1 :])
    return mode.make(sizes, format_strides(sizes, _common_format(kept)), dtype, first.dev)


def _check_cat(first: Any, t: Any, dim: int) -> None:
    if len(t.sizes) != len(first.sizes):
        raise RuntimeError(f"Tensors must have same number of dimensions: got {len(first.sizes)} and {len(t.sizes)}")
    for d, (a, b) in enumerate(zip(first.sizes, t.sizes)):
        if d != dim and a is not b and not eq(a, b):
            raise RuntimeError(
                f"Sizes of tensors must match except in dimension {dim}. Expected size {a} but got size {b} for tensor number 1 in the list."
            )


def _common_format(tensors: Any) -> torch.memory_format:
    formats = {suggest_format(t.sizes, t.strides) for t in tensors}
    return formats.pop() if len(formats) == 1 else torch.contiguous_format


@rule("stack", "_stack")
def _stack(mode: Any, tensors: Any, dim: int = 0) -> Any:
    first = tensors[0]
    d = wrap_dim(dim, len(first.sizes) + 1)
    for at, t in enumerate(tensors):
        if len(t.sizes) != len(first.sizes) or not all(map(eq, first.sizes, t.sizes)):
            raise RuntimeError(f"stack expects each tensor to be equal size, but got {list(first.sizes)} at entry 0 and {list(t.sizes)} at entry {at}")
    count = len(tensors)
    sizes = (*first.sizes[:d], count, *first.sizes[d:])
    strides = contiguous(sizes)
    if d < len(first.sizes) and (format_ := _common_format(tensors)) is not torch.contiguous_format:
        # cat along the dimension, then a view that splits it
        whole = format_strides((*first.sizes[:d], plain(first.sizes[d] * count), *first.sizes[d + 1 :]), format_)
        strides = (*whole[:d], plain(whole[d] * first.sizes[d]), *whole[d:])
    return mode.make(sizes, strides, result_type(tensors), first.dev)


# -- padding ------------------------------------------------------------------------------------------------------------------
@rule("constant_pad_nd")
def _constant_pad(mode: Any, x: Any, pad: Any, value: Any = 0) -> Any:
    sizes = _padded(mode, x, pad)
    return mode.make(sizes, format_strides(sizes, suggest_format(x.sizes, x.strides)), x.scalar_type, x.dev)


def _padded(mode: Any, x: Any, pad: Any) -> tuple[Any, ...]:
    sizes = list(x.sizes)
    for at in range(len(pad) // 2):
        d = len(sizes) - 1 - at
        sizes[d] = plain(sizes[d] + mode.dim(pad[2 * at]) + mode.dim(pad[2 * at + 1]))
        if type(sizes[d]) is int and sizes[d] < 0:
            raise RuntimeError(f"The input size {x.sizes[d]}, plus negative padding {pad[2 * at]} and {pad[2 * at + 1]}, resulted in a negative output size, which is invalid. Check dimension {d} of your input.")
    return tuple(sizes)


@rule("reflection_pad1d", "reflection_pad2d", "reflection_pad3d", "replication_pad1d", "replication_pad2d", "replication_pad3d")
def _edge_pad(mode: Any, x: Any, pad: Any) -> Any:
    sizes = _padded(mode, x, pad)
    return mode.make(sizes, format_strides(sizes, suggest_format(x.sizes, x.strides)), x.scalar_type, x.dev)


@rule("reflection_pad1d_backward", "reflection_pad2d_backward", "reflection_pad3d_backward", "replication_pad1d_backward",
      "replication_pad2d_backward", "replication_pad3d_backward")
def _edge_pad_backward(mode: Any, grad: Any, x: Any, pad: Any) -> Any:
    return mode.make(x.sizes, format_strides(x.sizes, suggest_format(x.sizes, x.strides)), x.scalar_type, x.dev)


# -- repetition ---------------------------------------------------------------------------------------------------------------
@rule("repeat")
def _repeat(mode: Any, x: Any, repeats: Any) -> Any:
    repeats = tuple(map(mode.dim, repeats))
    if len(repeats) < len(x.sizes):
        raise RuntimeError("Number of dimensions of repeat dims can not be smaller than number of dimensions of tensor")
    padded = (1,) * (len(repeats) - len(x.sizes)) + x.sizes
    sizes = tuple(plain(a * b) for a, b in zip(padded, repeats))
    return mode.make(sizes, contiguous(sizes), x.scalar_type, x.dev)


@rule("pixel_shuffle")
def _pixel_shuffle(mode: Any, x: Any, factor: int) -> Any:
    *batch, c, h, w = x.sizes
    sizes = (*batch, plain(c // (factor * factor)), plain(h * factor), plain(w * factor))
    return mode.make(sizes, format_strides(sizes, suggest_format(x.sizes, x.strides)), x.scalar_type, x.dev)


@rule("pixel_unshuffle")
def _pixel_unshuffle(mode: Any, x: Any, factor: int) -> Any:
    *batch, c, h, w = x.sizes
    sizes = (*batch, plain(c * factor * factor), plain(h // factor), plain(w // factor))
    return mode.make(sizes, format_strides(sizes, suggest_format(x.sizes, x.strides)), x.scalar_type, x.dev)


@rule("channel_shuffle", "native_channel_shuffle")
def _channel_shuffle(mode: Any, x: Any, groups: int) -> Any:
    return mode.make(x.sizes, format_strides(x.sizes, suggest_format(x.sizes, x.strides)), x.scalar_type, x.dev)
