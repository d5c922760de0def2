"""Reflection and replication pads of images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .common import aten, float32_inside, p
from .registry import register


def _amounts(padding: Sequence[Any], ndim: int) -> list[tuple[int, Any, Any]]:
    """(dim, low, high), last dimension first, as the argument lists them."""
    return [(ndim - 1 - i, padding[2 * i], padding[2 * i + 1]) for i in range(len(padding) // 2)]


def _reflected(x: Any, d: int, low: Any, high: Any) -> Any:
    """x continued by its mirror image, the edge not repeated."""
    n = x.shape[d]
    return p.cat([p.flip(p.slice(x, d, 1, low + 1, 1), [d]), x, p.flip(p.slice(x, d, n - 1 - high, n - 1, 1), [d])], d)


def _replicated(x: Any, d: int, low: Any, high: Any) -> Any:
    """x continued by its edge elements."""

    def edge(at: Any, count: Any) -> Any:
        shape = list(x.shape)
        shape[d] = count
        return p.expand(p.slice(x, d, at, at + 1, 1), shape)

    return p.cat([edge(0, low), x, edge(x.shape[d] - 1, high)], d)


def _placed(x: Any, d: int, start: Any, size: Any) -> Any:
    """x inside zeros of `size` along d."""
    low, high = [0] * x.ndim, [0] * x.ndim
    low[d], high[d] = start, size - start - x.shape[d]
    return p.pad(x, low, high, 0.0)


def _reflected_backward(middle: Any, left: Any, right: Any, d: int, high: Any) -> Any:
    """The middle of grad plus its mirrored borders."""
    n = middle.shape[d]
    return p.add(p.add(middle, _placed(p.flip(left, [d]), d, 1, n)), _placed(p.flip(right, [d]), d, n - 1 - high, n))


def _replicated_backward(middle: Any, left: Any, right: Any, d: int, high: Any) -> Any:
    """The middle of grad, its borders added to the edges."""
    n = middle.shape[d]
    return p.add(p.add(middle, _placed(p.sum(left, [d], True), d, 0, n)), _placed(p.sum(right, [d], True), d, n - 1, n))


def _register(name: str, along: Callable[..., Any], along_backward: Callable[..., Any]) -> None:
    """The 1, 2 and 3 dimensional forms of one pad, dimension by dimension: a negative amount, which crops, stays a call."""

    def pad(x: Any, padding: Sequence[Any]) -> Any:
        if any(type(v) is int and v < 0 for v in padding):
            return NotImplemented
        for d, low, high in _amounts(padding, x.ndim):
            x = along(x, d, low, high)
        return x

    def pad_backward(grad: Any, x: Any, padding: Sequence[Any]) -> Any:
        if any(type(v) is int and v < 0 for v in padding):
            return NotImplemented
        for d, low, high in _amounts(padding, x.ndim):
            n, total = x.shape[d], grad.shape[d]
            grad = along_backward(p.slice(grad, d, low, low + n, 1), p.slice(grad, d, 0, low, 1), p.slice(grad, d, total - high, total, 1), d, high)
        return grad

    pad.__doc__, pad_backward.__doc__ = along.__doc__, along_backward.__doc__
    register(*(getattr(aten, f"{name}{k}d").default for k in (1, 2, 3)))(pad)
    register(*(getattr(aten, f"{name}{k}d_backward").default for k in (1, 2, 3)))(float32_inside(pad_backward))


_register("reflection_pad", _reflected, _reflected_backward)
_register("replication_pad", _replicated, _replicated_backward)
