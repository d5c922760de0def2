"""What a caller can see of tensors after a call, and gradients under fixed cotangents: what the tests compare with eager."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def observe(inputs: Sequence[Any], outputs: Sequence[Any]) -> dict[str, Any]:
    """What a caller can see of the tensors after a call: geometry, flags, identity and sharing of memory."""
    everything = [t for t in (*inputs, *outputs) if isinstance(t, Tensor)]
    seen = {
        "layout": [(tuple(t.shape), t.stride() if t.numel() else (), t.dtype) for t in everything],
        "requires_grad": [(t.requires_grad, t.is_leaf) for t in everything],
        "same": [a is b for a, b in itertools.combinations(everything, 2)],
        "written": [t._version > 0 for t in inputs if isinstance(t, Tensor)],
    }
    shares = []
    for a, b in itertools.combinations(everything, 2):
        alias = torch._C._is_alias_of(a, b)
        shares.append((alias, b.storage_offset() - a.storage_offset() if alias else 0))
    return seen | {"shares": shares}


def gradients(inputs: Sequence[Any], outputs: Sequence[Any]) -> list[Tensor | None]:
    """Gradients of the leaf inputs under fixed random cotangents."""
    generator = torch.Generator().manual_seed(7)
    ends, cotangents = [], []
    for o in (*outputs, *inputs):
        if isinstance(o, Tensor) and o.requires_grad and not o.is_leaf and not any(o is e for e in ends):
            ends.append(o)
            cotangents.append(torch.randn(o.shape, generator=generator, dtype=o.dtype))
    if ends:
        torch.autograd.backward(ends, cotangents)
    return [t.grad for t in inputs if isinstance(t, Tensor) and t.is_leaf]
