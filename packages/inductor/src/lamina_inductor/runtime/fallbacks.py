"""The Python callables behind fallback calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..lowering.fallback import SizeSlot, TensorSlot

__all__ = ["make_callbacks"]


def make_callbacks(entries: list[dict[str, Any]]) -> tuple[tuple[Callable[..., tuple], int], ...]:
    """For each fallback: (function of (tensors, sizes) that returns a tuple of tensors, number of sizes)."""
    return tuple((_make(e), len(e["sizes"])) for e in entries)


def _resolve(name: str) -> Any:
    namespace, op, overload = name.split(".")
    return getattr(getattr(getattr(torch.ops, namespace), op), overload)


def _fill(structure: Any, tensors: tuple, sizes: tuple) -> Any:
    if isinstance(structure, TensorSlot):
        return tensors[structure.number]
    if isinstance(structure, SizeSlot):
        return sizes[structure.number]
    if isinstance(structure, dict):
        return {k: _fill(v, tensors, sizes) for k, v in structure.items()}
    if isinstance(structure, (list, tuple)):
        return type(structure)([_fill(v, tensors, sizes) for v in structure])
    return structure


def _make(entry: dict[str, Any]) -> Callable[..., tuple]:
    op, structure, returns, single = _resolve(entry["target"]), entry["structure"], entry["returns"], entry["single"]
    keep = [k for k, is_tensor in enumerate(returns) if is_tensor]

    def run(tensors: tuple, sizes: tuple) -> tuple:
        args, kwargs = _fill(structure, tensors, sizes)
        with torch._C._AutoDispatchBelowAutograd():
            out = op(*args, **kwargs)
        kept = ((out,) if keep else ()) if single else tuple(out[k] for k in keep)
        taken = {t.untyped_storage()._cdata for t in tensors}
        return tuple(_result(t, taken) for t in kept)

    return run


def _result(t: torch.Tensor | None, taken: set[int]) -> torch.Tensor:
    """A result with memory of its own; of one that the operator leaves undefined (a workspace, weights that nobody wants) nothing is read."""
    if t is None:
        return torch.empty(0)
    return _own_memory(t) if t._is_zerotensor() or t.untyped_storage()._cdata in taken else t


def _own_memory(view: torch.Tensor) -> torch.Tensor:
    """A copy with the same strides. The memory that a view shares with its base is planned for the base's lifetime only; a tensor of zeros
    that autograd knows as such has none."""
    distinct = view
    for d, (n, stride) in enumerate(zip(view.shape, view.stride(), strict=True)):
        distinct = distinct.narrow(d, 0, 1) if n > 1 and stride == 0 else distinct
    copy = torch.empty_strided(distinct.shape, view.stride(), dtype=view.dtype, device=view.device)
    return copy.copy_(distinct).expand(view.shape)
