"""Marks that users put on tensors to say which dimensions change: kept as an attribute of the tensor."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["DimMark", "dim_marks", "mark_dynamic", "mark_static", "mark_unbacked", "maybe_mark_dynamic"]

_ATTRIBUTE = "_lamina_dims"
_FOREIGN = {"_dynamo_weak_dynamic_indices": "auto", "_dynamo_dynamic_indices": "dynamic", "_dynamo_static_indices": "static", "_dynamo_unbacked_indices": "unbacked", "_dynamo_strict_unbacked_indices": "unbacked"}


@dataclass(frozen=True)
class DimMark:
    policy: Any  # DimPolicy
    low: int | None = None
    high: int | None = None


def _mark(t: torch.Tensor, dims: int | Iterable[int] | None, mark: DimMark) -> None:
    chosen = range(t.dim()) if dims is None else [dims] if isinstance(dims, int) else dims
    marks = dict(getattr(t, _ATTRIBUTE, None) or {})
    for d in chosen:
        if not -t.dim() <= d < t.dim():
            raise IndexError(f"dimension {d} of a tensor with {t.dim()} dimensions")
        marks[d % t.dim()] = mark
    setattr(t, _ATTRIBUTE, marks)


def mark_dynamic(t: torch.Tensor, dim: int | Iterable[int], *, min: int | None = None, max: int | None = None) -> None:
    """Dimension(s) that change, within inclusive bounds; a program that specialises them is refused."""
    from lamina_dynshape.shape_env import DimPolicy

    _mark(t, dim, DimMark(DimPolicy.DYNAMIC, min, max))


def maybe_mark_dynamic(t: torch.Tensor, dim: int | Iterable[int]) -> None:
    """Dimension(s) that probably change; may be specialised."""
    from lamina_dynshape.shape_env import DimPolicy

    _mark(t, dim, DimMark(DimPolicy.AUTO))


def mark_static(t: torch.Tensor, dim: int | Iterable[int] | None = None) -> None:
    """Dimension(s), or all, that must stay concrete."""
    from lamina_dynshape.shape_env import DimPolicy

    _mark(t, dim, DimMark(DimPolicy.STATIC))


def mark_unbacked(t: torch.Tensor, dim: int | Iterable[int]) -> None:
    """Dimension(s) of which nothing is assumed, not even that they are not 0 or 1; a branch on such a size is a graph break."""
    from lamina_dynshape.shape_env import DimPolicy

    _mark(t, dim, DimMark(DimPolicy.UNBACKED))


def dim_marks(t: torch.Tensor) -> dict[int, DimMark]:
    """Marks of a tensor by dimension, those that programs made for `torch.compile` included."""
    attributes = t.__dict__
    if not attributes:
        return {}
    return {**_foreign_marks(attributes), **(attributes.get(_ATTRIBUTE) or {})}


def _foreign_marks(attributes: dict[str, Any]) -> dict[int, DimMark]:
    """What `torch._dynamo.mark_dynamic` and its kin left on a tensor."""
    from lamina_dynshape.shape_env import DimPolicy

    marks: dict[int, DimMark] = {}
    for name, policy in _FOREIGN.items():
        for d in attributes.get(name) or ():
            marks[d] = DimMark(DimPolicy(policy))
    for r in attributes.get("_dynamo_dynamic_range") or ():
        if r.dim in marks:
            marks[r.dim] = DimMark(marks[r.dim].policy, r.min, r.max)
    return marks
