"""`as_strided` of symbolic sizes under gradients: PyTorch's C++ makes the number of elements in its gradient's memory a constant.

Between: `WriteWatch` -> a view with a gradient of our own: what lies at the view's places in flat memory is added up there.
Keeps:   autograd takes no writes to what this returns, nor to what shares its memory.
Source:  torch/csrc/autograd/FunctionsManual.cpp (as_strided_backward), for an input that fills its memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .views import is_dense

__all__ = ["has_symbolic_gradient", "strided"]


def has_symbolic_gradient(t: Tensor, *numbers: Any) -> bool:
    """Whether `strided` serves a call of `as_strided`: one that is differentiated, where a size, a stride or an offset is symbolic."""
    flat = [*t.shape, *(n for part in numbers for n in (part if isinstance(part, (tuple, list)) else [part]))]
    return torch.is_grad_enabled() and t.requires_grad and any(isinstance(n, torch.SymInt) for n in flat) and is_dense(t)


def strided(t: Tensor, size: Sequence[Any], stride: Sequence[Any], offset: Any) -> Tensor:
    """`t.as_strided(size, stride, offset)`. The gradient has t's shape."""
    return _Strided.apply(t, tuple(size), tuple(stride), offset)


class _Strided(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, t: Tensor, size: tuple[Any, ...], stride: tuple[Any, ...], offset: Any) -> Tensor:
        ctx.of, ctx.view = (tuple(t.shape), t.stride(), t.storage_offset()), (size, stride, offset)
        return t.as_strided(size, stride, offset)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (shape, strides, start), (size, stride, offset) = ctx.of, ctx.view
        first = torch.sym_min(start, offset)
        reach = offset + 1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        length = torch.sym_max(start + math.prod(shape), reach) - first
        places = torch.arange(length, device=grad.device).as_strided(size, stride, offset - first).reshape(-1)
        memory = grad.new_zeros(length).index_add(0, places, grad.reshape(-1))
        return memory.as_strided(shape, strides, start - first), None, None, None
