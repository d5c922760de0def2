"""Reflection and replication pads of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .common import aten, float32_inside, p
from .registry import register


# -- reflection and replication pads --------------------------------------------------------------------------------------
def _amounts(padding: Sequence[Any], ndim: int) -> list[tuple[int, Any, Any]]:
    """(dim, low, high), last dimension first, as the argument lists them."""
    return [(ndim - 1 - i, padding[2 * i], padding[2 * i + 1]) for i in range(len(padding) // 2)]


def _reflected(x: Any, d: int, low: Any, high: Any) -> Any:
    n = x.shape[d]
    return p.cat([p.flip(p.slice(x, d, 1, low + 1, 1), [d]), x, p.flip(p.slice(x, d, n - 1 - high, n - 1, 1), [d])], d)


def _replicated(x: Any, d: int, low: Any, high: Any) -> Any:
    def edge(at: Any, count: Any) -> Any:
        shape = list(x.shape)
        shape[d] = count
        return p.expand(p.slice(x, d, at, at + 1, 1), shape)

    return p.cat([edge(0, low), x, edge(x.shape[d] - 1, high)], d)


def _negative(padding: Sequence[Any]) -> bool:
    return any(type(v) is int and v < 0 for v in padding)


@register(aten.reflection_pad1d.default, aten.reflection_pad2d.default, aten.reflection_pad3d.default)
def reflection_pad(x: Any, padding: Sequence[Any]) -> Any:
    """x continued by its mirror image, the edge not repeated."""
    if _negative(padding):
        return NotImplemented
    for d, low, high in _amounts(padding, x.ndim):
        x = _reflected(x, d, low, high)
    return x


@register(aten.replication_pad1d.default, aten.replication_pad2d.default, aten.replication_pad3d.default)
def replication_pad(x: Any, padding: Sequence[Any]) -> Any:
    """x continued by its edge elements."""
    if _negative(padding):
        return NotImplemented
    for d, low, high in _amounts(padding, x.ndim):
        x = _replicated(x, d, low, high)
    return x


def _placed(x: Any, d: int, start: Any, size: Any) -> Any:
    """x inside zeros of `size` along d."""
    low, high = [0] * x.ndim, [0] * x.ndim
    low[d], high[d] = start, size - start - x.shape[d]
    return p.pad(x, low, high, 0.0)


@register(aten.reflection_pad1d_backward.default, aten.reflection_pad2d_backward.default, aten.reflection_pad3d_backward.default)
@float32_inside
def reflection_pad_backward(grad: Any, x: Any, padding: Sequence[Any]) -> Any:
    """The middle of grad plus its mirrored borders."""
    if _negative(padding):
        return NotImplemented
    for d, low, high in _amounts(padding, x.ndim):
        n, total = x.shape[d], grad.shape[d]
        left, right = p.flip(p.slice(grad, d, 0, low, 1), [d]), p.flip(p.slice(grad, d, total - high, total, 1), [d])
        middle = p.slice(grad, d, low, low + n, 1)
        grad = p.add(p.add(middle, _placed(left, d, 1, n)), _placed(right, d, n - 1 - high, n))
    return grad


@register(aten.replication_pad1d_backward.default, aten.replication_pad2d_backward.default, aten.replication_pad3d_backward.default)
@float32_inside
def replication_pad_backward(grad: Any, x: Any, padding: Sequence[Any]) -> Any:
    """The middle of grad, its borders added to the edges."""
    if _negative(padding):
        return NotImplemented
    for d, low, high in _amounts(padding, x.ndim):
        n, total = x.shape[d], grad.shape[d]
        left, right = p.sum(p.slice(grad, d, 0, low, 1), [d], True), p.sum(p.slice(grad, d, total - high, total, 1), [d], True)
        grad = p.add(p.add(p.slice(grad, d, low, low + n, 1), _placed(left, d, 0, n)), _placed(right, d, n - 1, n))
    return grad
