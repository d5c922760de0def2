"""Wrapper subclasses (`__tensor_flatten__`, `__tensor_unflatten__`) in graphs of the dialect `torch`: how one is taken apart and put together.

Between: capture, which records calls on wrappers where autograd has to see the wrapper -> aotgrad, which takes them apart below autograd.
Nodes:   `wrap_of(...)(size, stride, *inner)` yields a wrapper around inner tensors, `inner_of(wrapper, name)` one of those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from lamina_dynshape import is_wrapper_class

__all__ = ["Structure", "inner_of", "take_apart", "wrap_of"]


@dataclass(frozen=True, eq=False)
class Structure:
    """How a wrapper is put together. `inner`: how the inner tensors are, None for plain ones."""

    cls: type
    names: tuple[str, ...]
    context: Any
    size: tuple[Any, ...]
    stride: tuple[Any, ...]
    inner: tuple[Structure | None, ...]

    def build(self, parts: Iterator[Any]) -> Any:
        """The wrapper around plain tensors, taken in order."""
        inner = {name: next(parts) if s is None else s.build(parts) for name, s in zip(self.names, self.inner, strict=True)}
        with torch._C.DisableTorchFunction():
            return self.cls.__tensor_unflatten__(inner, self.context, self.size, self.stride)  # type: ignore[attr-defined]

    def matches(self, other: Structure | None) -> bool:
        """Whether two wrappers are alike up to strides."""
        if other is None or (self.cls, self.names, self.size) != (other.cls, other.names, other.size):
            return False
        alike = all(other is mine if mine is None else mine.matches(other) for mine, other in zip(self.inner, other.inner, strict=True))
        return alike and bool(self.context == other.context)

    @property
    def is_static(self) -> bool:
        """Whether all sizes of wrappers are known numbers."""
        return all(type(n) is int for n in (*self.size, *self.stride)) and all(s is None or s.is_static for s in self.inner)


def take_apart(t: Any) -> tuple[Structure | None, list[Any]]:
    """(how a tensor is put together, None for a plain one; the plain tensors inside, in order)."""
    if not is_wrapper_class(type(t)):
        return None, [t]
    with torch._C.DisableTorchFunction():
        names, context = t.__tensor_flatten__()
        inner = [take_apart(getattr(t, name)) for name in names]
        structure = Structure(type(t), tuple(names), context, tuple(t.shape), tuple(t.stride()), tuple(s for s, _ in inner))
    return structure, [x for _, parts in inner for x in parts]


def wrap_of(cls: type, names: tuple[str, ...], context: Any) -> Callable[..., Any]:
    """A plain function, which a graph can name: `(size, stride, *inner tensors) -> wrapper`."""

    def wrap(size: Any, stride: Any, *inner: Any) -> Any:
        with torch._C.DisableTorchFunction():
            outside = [x.detach() if x.requires_grad else x for x in inner]  # autograd works on the wrapper
            return cls.__tensor_unflatten__(dict(zip(names, outside, strict=True)), context, torch.Size(size), tuple(stride))  # type: ignore[attr-defined]

    wrap.__name__ = wrap.__qualname__ = f"wrap_{cls.__name__.lower()}"
    wrap.wraps = cls  # type: ignore[attr-defined]
    return wrap


def inner_of(wrapper: Any, name: str) -> Any:
    """An inner tensor of a wrapper, by the name that its class gives it."""
    return getattr(wrapper, name)
