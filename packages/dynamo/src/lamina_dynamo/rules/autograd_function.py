"""Custom autograd functions where no gradient is needed: the forward is interpreted with a context object of its own."""

from __future__ import annotations

from typing import Any

import torch

from ..attributes import load_attr


class ForwardContext:
    """What `ctx` offers to a forward whose backward will not run."""

    def __init__(self, needs: tuple[bool, ...]) -> None:
        self.needs_input_grad = needs

    def save_for_backward(self, *tensors: Any) -> None:
        self.saved_tensors = tensors

    def save_for_forward(self, *tensors: Any) -> None:
        pass

    def mark_dirty(self, *tensors: Any) -> None:
        pass

    def mark_non_differentiable(self, *tensors: Any) -> None:
        pass

    def set_materialize_grads(self, value: bool) -> None:
        pass


def run_forward(cap: Any, cls: type, args: list[Any], kwargs: Any) -> Any:
    """`cls.apply(*args)` without gradients."""
    ctx = ForwardContext(tuple(isinstance(a, torch.Tensor) and a.requires_grad for a in args))
    forward = load_attr(cap, cls, "forward")
    if cls.setup_context is torch.autograd.function._SingleLevelFunction.setup_context:
        return cap.call(forward, (ctx, *args), kwargs)
    out = cap.call(forward, args, kwargs)
    cap.call(load_attr(cap, cls, "setup_context"), (ctx, tuple(args), out))
    return out
