"""Custom autograd functions: one node of the graph, or, where no gradient is needed, a forward interpreted with a context of its own."""

from __future__ import annotations

from typing import Any

import torch

from ..attributes import load_attr
from ..control import native, unsupported


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


_applies: dict[type, Any] = {}


def apply_of(cls: type) -> Any:
    """`cls.apply` as a plain function, which a graph can name; one per class."""
    found = _applies.get(cls)
    if found is None:

        def apply(*args: Any) -> Any:
            return cls.apply(*args)  # type: ignore[attr-defined]

        apply.__name__ = apply.__qualname__ = f"{cls.__name__}_apply"
        found = _applies[cls] = apply
    return found


def record_apply(cap: Any, cls: type, args: list[Any], kwargs: Any) -> Any:
    """`cls.apply(*args)` as one node; forward and backward run as PyTorch runs them."""
    if kwargs:
        unsupported("autograd-function", "a custom autograd function called with keywords", saw=cls.__qualname__)
    fn = apply_of(cls)
    args, _ = cap.lift_arguments(tuple(args), {})
    with torch._C.DisableTorchFunction():
        out = native(fn, *args)
    return cap.recorder.note(fn, args, {}, out, allowed=True)
