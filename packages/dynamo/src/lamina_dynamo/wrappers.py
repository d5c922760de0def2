"""Tensor subclasses with `__torch_dispatch__` during capture: taken apart where they enter the graph, put together where they leave it.

Between: a wrapper subclass that knows `__tensor_flatten__` and `__tensor_unflatten__` -> ATen calls on its inner tensors in the graph.
Keeps:   the capture works on a wrapper of the program's own class around fakes; every operator on it runs the class's `__torch_dispatch__`
         natively, below autograd, and what that calls on inner tensors is recorded. No gradients: autograd works on the wrapper, not within it.
"""

from __future__ import annotations

from typing import Any

import torch
from lamina_dynshape import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode

from .control import native, unsupported
from .guards import GuardKind, TensorSpec
from .lift import is_torch_owned
from .source import AttrSource, CallSource, ConstantSource, Source

__all__ = ["is_wrapper_class", "lift_wrapper", "made_wrapper", "parts_of", "run_on_wrappers"]

_NO_DISPATCH = torch._C._disabled_torch_dispatch_impl


def is_wrapper_class(cls: type) -> bool:
    """Whether tensors of the class can be taken apart."""
    return cls.__torch_dispatch__ is not _NO_DISPATCH and hasattr(cls, "__tensor_flatten__") and hasattr(cls, "__tensor_unflatten__") and not is_torch_owned(cls.__module__)


def parts_of(t: Any) -> tuple[list[str], Any]:
    """(names of the inner tensors, what else the class needs to know)."""
    try:
        with torch._C.DisableTorchFunction():
            return t.__tensor_flatten__()
    except Exception as error:  # in its own constructor, say
        unsupported("tensor-subclass", "a tensor subclass with __torch_dispatch__ that cannot be taken apart", saw=f"{type(error).__name__}: {error}")


def _context(t: Any) -> Any:
    return parts_of(t)[1]


def lift_wrapper(cap: Any, t: torch.Tensor, source: Source) -> Any:
    """A wrapper around the fakes of the inner tensors; guarded by class, geometry and context."""
    cls = type(t)
    if t.requires_grad:
        unsupported("tensor-subclass", "a tensor subclass with __torch_dispatch__ that requires gradients", saw=cls.__qualname__)
    names, context = parts_of(t)
    if type(source) is not ConstantSource:
        cap.guards.add(source, GuardKind.TENSOR, TensorSpec.of(t))
        cap.lift(context, CallSource(_context, source))
    inner = {name: cap.lift(getattr(t, name), AttrSource(source, name)) for name in names}
    out = _wrapped(cap, cls.__tensor_unflatten__(inner, context, t.shape, t.stride()))  # type: ignore[attr-defined]
    cap.lifted[id(t)] = out
    cap.keep[id(t)] = t
    cap.wrapper_of[id(out)] = t
    cap.remember(out, source)
    return out


def _wrapped(cap: Any, t: Any) -> Any:
    """Note a wrapper that the capture works on."""
    cap.class_of[id(t)] = type(t)
    cap.wrapper_of.setdefault(id(t), None)
    cap.keep[id(t)] = t
    return t


def made_wrapper(cap: Any, args: Any, kwargs: Any) -> Any:
    """`Tensor._make_wrapper_subclass(cls, ...)`."""
    if kwargs.get("requires_grad") or not is_wrapper_class(args[0]):
        unsupported("tensor-subclass", "making a tensor subclass with __torch_dispatch__ that requires gradients, or cannot be taken apart", saw=args[0].__qualname__)
    with torch._C.DisableTorchFunction():
        made = _wrapped(cap, native(torch.Tensor._make_wrapper_subclass, *args, **kwargs))
    cap.created[id(made)] = (made, cap.step)
    return made


def run_on_wrappers(rec: Any, func: Any, args: Any, kwargs: Any) -> Any:
    """A torch call with wrappers among its arguments."""
    tensors = [x for a in (*args, *kwargs.values()) for x in (a if type(a) in (tuple, list) else (a,)) if isinstance(x, torch.Tensor)]
    with torch._C.DisableTorchFunction():
        if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
            unsupported("tensor-subclass", "gradients through a tensor subclass with __torch_dispatch__", saw=getattr(func, "__name__", str(func)))
    if rec.cap.has_outside_tensor(args) or rec.scope is not None:
        unsupported("tensor-subclass", "a tensor subclass with __torch_dispatch__ next to constants, or under a transform")
    with _Inner(rec), torch._C.DisableTorchFunctionSubclass():
        out = func(*args, **kwargs)
    for x in out if isinstance(out, (tuple, list)) else (out,):
        if isinstance(x, torch.Tensor) and not isinstance(x, FakeTensor):
            if not is_wrapper_class(type(x)):
                unsupported("tensor-subclass", "a result of __torch_dispatch__ that is no plain tensor", saw=type(x).__qualname__)
            _wrapped(rec.cap, x)
    return out


class _Inner(TorchDispatchMode):
    """Records what a class's `__torch_dispatch__` calls on plain tensors; calls on wrappers are the class's own."""

    def __init__(self, rec: Any) -> None:
        super().__init__()
        self.rec = rec

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(t is not FakeTensor and t.__torch_dispatch__ is not _NO_DISPATCH for t in types):
            return NotImplemented
        if func._schema.is_mutable:
            unsupported("tensor-subclass", "a tensor subclass with __torch_dispatch__ that is written in place", saw=str(func))
        return self.rec.note(func, args, kwargs or {}, func(*args, **(kwargs or {})))
