"""Matrix products and convolution. Half operands are handed to the library as they are: it accumulates in float32 and rounds once.

`addmm` and its like are a product and a pointwise epilogue; for half types they stay ATen calls, which round once after the bias.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .common import add_scaled, aten, expand_to, float32_inside, p, reshape, scaled, to
from .registry import register

_SINGLE = (torch.float32, torch.float64)


def _scaled_sum(bias: Any, product: Any, beta: Any, alpha: Any) -> Any:
    """beta * bias + alpha * product. beta == 0 ignores the bias, NaN included."""
    product = scaled(product, alpha)
    if beta == 0:
        return product
    return add_scaled(product, expand_to(to(bias, product.dtype), product.shape), beta)


@register(aten.mm.default)
def mm(a: Any, b: Any) -> Any:
    """Prim."""
    return p.mm(a, b) if a.dtype.is_floating_point else NotImplemented


@register(aten.bmm.default)
def bmm(a: Any, b: Any) -> Any:
    """Prim."""
    return p.bmm(a, b) if a.dtype.is_floating_point else NotImplemented


@register(aten.addmm.default)
def addmm(bias: Any, a: Any, b: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """beta * bias + alpha * (a @ b)."""
    return _scaled_sum(bias, p.mm(a, b), beta, alpha) if a.dtype in _SINGLE else NotImplemented


@register(aten.baddbmm.default)
def baddbmm(bias: Any, a: Any, b: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """beta * bias + alpha * (a @ b), batched."""
    return _scaled_sum(bias, p.bmm(a, b), beta, alpha) if a.dtype in _SINGLE else NotImplemented


@register(aten.addbmm.default)
def addbmm(bias: Any, a: Any, b: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """beta * bias + alpha * (products summed over the batch)."""
    if a.dtype not in _SINGLE:
        return NotImplemented
    return _scaled_sum(bias, p.sum(p.bmm(a, b), [0], False), beta, alpha)


@register(aten.mv.default)
def mv(a: Any, v: Any) -> Any:
    """Matrix times vector."""
    return p.reshape(p.mm(a, p.reshape(v, [v.shape[0], 1])), [a.shape[0]]) if a.dtype.is_floating_point else NotImplemented


@register(aten.addmv.default)
def addmv(bias: Any, a: Any, v: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """beta * bias + alpha * (a @ v)."""
    return _scaled_sum(bias, mv(a, v), beta, alpha) if a.dtype in _SINGLE else NotImplemented


@register(aten.addr.default)
def addr(bias: Any, a: Any, b: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """beta * bias + alpha * outer(a, b)."""
    if a.dtype not in _SINGLE or a.dtype is not b.dtype or bias.dtype is not a.dtype:
        return NotImplemented
    shape = [a.shape[0], b.shape[0]]
    return _scaled_sum(bias, p.mul(expand_to(reshape(a, [shape[0], 1]), shape), expand_to(b, shape)), beta, alpha)


@register(aten.dot.default, aten.vdot.default)
@float32_inside
def dot(a: Any, b: Any) -> Any:
    """Sum of products."""
    return p.sum(p.mul(a, b), [0], False) if a.dtype.is_floating_point else NotImplemented


def _each(values: Sequence[Any], n: int) -> list[Any]:
    """One value per spatial dimension."""
    return list(values) * n if len(values) == 1 and n > 1 else list(values)


@register(aten.convolution.default)
def convolution(
    x: Any, w: Any, bias: Any, stride: Sequence[Any], padding: Sequence[Any], dilation: Sequence[Any], transposed: bool, output_padding: Sequence[Any], groups: Any
) -> Any:
    """Prim."""
    n = x.ndim - 2
    if not x.dtype.is_floating_point or n < 1:
        return NotImplemented
    stride, padding, dilation, output_padding = (_each(v, n) for v in (stride, padding, dilation, output_padding))
    return p.convolution(x, w, bias, stride, padding, dilation, transposed, output_padding, groups)


@register(aten._convolution.default)
def convolution_with_flags(
    x: Any, w: Any, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool, output_padding: Any, groups: Any, *flags: Any, **named: Any
) -> Any:
    """Convolution; the flags choose a library, not a result."""
    return convolution(x, w, bias, stride, padding, dilation, transposed, output_padding, groups)


@register(aten.convolution_backward.default)
def convolution_backward(
    grad: Any, x: Any, w: Any, bias_sizes: Any, stride: Any, padding: Any, dilation: Any, transposed: bool, output_padding: Any, groups: Any, output_mask: Any
) -> Any:
    """Gradients of input and weight stay an ATen call; the bias gradient is a sum over batch and positions, which fuses with its neighbours."""
    from .. import builder as _builder

    builder = _builder.current()
    if builder is None or grad.dtype not in _SINGLE:
        return NotImplemented
    known = builder.val
    db = p.sum(grad, [0, *range(2, grad.ndim)], False) if output_mask[2] else None
    dx = dw = None
    if output_mask[0] or output_mask[1]:
        mask = [bool(output_mask[0]), bool(output_mask[1]), False]
        args = (grad, x, w, None, stride, padding, dilation, transposed, output_padding, groups, mask)
        val = (*known[:2], None) if isinstance(known, (tuple, list)) and len(known) == 3 else None
        dx, dw, _ = builder.fallback(aten.convolution_backward.default, args, {}, "extern: library convolution", val)
    return dx, dw, db

