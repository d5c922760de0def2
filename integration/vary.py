"""Inputs of a model at other sizes: batch, and sequence length or image size where the model allows it.

Between: an entry of the zoo (arguments of one size) -> up to eight sets of arguments; which dimensions vary is read off the tensors.
Keeps:   every set runs in eager; the first is the model's own size, or batch 2 where that is 1 (sizes 0 and 1 specialise by design).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

__all__ = ["Axis", "axes_of", "variations"]

BATCHES = (2, 3, 5, 4, 7, 6, 9, 8)
STEPS = (0, 1, 2, -1, 3, -2, 4, 5)  # image sizes: windows added to the model's own
WINDOW = 32  # what common strides and patches divide; two windows at least, so that the deepest features are not of size 1
FACTORS = (1.0, 0.75, 0.6, 0.9, 0.4, 0.7, 0.5, 0.8)  # lengths, as parts of the model's own


class Axis:
    """One size that varies: tensors with `size` at a dimension that `where` accepts get another extent there."""

    def __init__(self, name: str, size: int, where: Callable[[torch.Tensor, int], bool], sizes: tuple[int, ...]) -> None:
        self.name, self.size, self.where, self.sizes = name, size, where, sizes

    def resize(self, t: torch.Tensor, extent: int) -> torch.Tensor:
        """The tensor with its dimensions of this axis cut, or repeated cyclically, to `extent`."""
        for d in [d for d in range(t.dim()) if t.shape[d] == self.size and self.where(t, d)]:
            t = t.index_select(d, torch.arange(extent) % self.size)
        return t


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for v in value:
            yield from _tensors(v)


def axes_of(args: Any, kwargs: Any) -> list[Axis]:
    """Batch, and the length or image size, that the inputs seem to have."""
    tensors = [t for t in _tensors([args, kwargs]) if t.dim()]
    if not tensors:
        return []
    first = tensors[0]
    axes = [Axis("batch", first.shape[0], lambda t, d: d == 0, BATCHES)]
    ids = [t for t in tensors if t.dim() == 2 and not t.is_floating_point() and t.shape[0] == first.shape[0]]
    images = [t for t in tensors if t.dim() >= 4 and t.is_floating_point() and t.shape[-1] == t.shape[-2]]
    if images:
        n = images[0].shape[-1]
        sizes = tuple(n + WINDOW * s for s in STEPS if s == 0 or n + WINDOW * s >= 2 * WINDOW)
        axes.append(Axis("image", n, lambda t, d: d >= t.dim() - 2 and t.shape[-1] == t.shape[-2], (sizes * 8)[:8]))
    elif ids:
        n = ids[0].shape[1]
        sizes = tuple(max(2, int(n * f)) for f in FACTORS)
        axes.append(Axis("length", n, lambda t, d: d > 0, sizes))
    return axes


def variations(entry_inputs: tuple[Any, Any], runs: Callable[[Any, Any], bool], map_tensors: Any, count: int = 8) -> tuple[str, list[Any]]:
    """(names of the axes that vary, sets of arguments); `runs` says whether eager takes a set."""
    args, kwargs = entry_inputs

    def at(axes: list[Axis], i: int) -> tuple[Any, Any]:
        def resize(t: torch.Tensor) -> torch.Tensor:
            for a in axes:
                t = a.resize(t, a.sizes[i])
            return t

        return map_tensors(resize, args), map_tensors(resize, kwargs)

    allowed = [a for a in axes_of(args, kwargs) if all(runs(*at([a], i)) for i in range(count))]
    return "+".join(a.name for a in allowed), [at(allowed, i) for i in range(count)] if allowed else []
