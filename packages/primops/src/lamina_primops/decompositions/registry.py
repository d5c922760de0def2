"""The table of decompositions: ATen overload -> plain function on tensors that calls prims.

A decomposition takes what the overload takes and returns tensors of the same shapes and dtypes. Its docstring states the numerics where they are not exact:
what it accumulates in and in which order. It returns `NotImplemented` for arguments it does not cover; the call then stays ATen.
The same function runs under a `Builder` (values) and on real tensors (the prims' references), which is how it is tested against ATen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch

__all__ = ["DECOMPOSITIONS", "EXTERN", "Decomposition", "extern", "register"]

F = TypeVar("F", bound=Callable[..., Any])


class Decomposition(NamedTuple):
    """A registered rule. `module` names the file it is in."""

    overload: Any
    rule: Callable[..., Any]
    module: str
    doc: str


DECOMPOSITIONS: dict[Any, Decomposition] = {}
EXTERN: dict[Any, str] = {}  # ATen calls that stay by decision, with the reason


def register(*overloads: Any) -> Callable[[F], F]:
    """Register a decomposition for overloads. Refuses a second one, a packet, and ops that mutate."""

    def add(fn: F) -> F:
        for overload in overloads:
            if not isinstance(overload, torch._ops.OpOverload):
                raise TypeError(f"{overload} is not an operator overload")
            if overload in DECOMPOSITIONS or overload in EXTERN:
                raise ValueError(f"second registration for {overload}")
            if overload._schema.is_mutable:
                raise ValueError(f"{overload} mutates an argument; decompositions are functional")
            DECOMPOSITIONS[overload] = Decomposition(overload, fn, fn.__module__, (fn.__doc__ or "").strip())
        return fn

    return add


def extern(reason: str, *overloads: Any) -> None:
    """Declare that these ATen calls stay in a prims graph, and why."""
    for overload in overloads:
        if overload in DECOMPOSITIONS or overload in EXTERN:
            raise ValueError(f"second registration for {overload}")
        EXTERN[overload] = reason
