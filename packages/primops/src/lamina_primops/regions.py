"""Checkpointed regions: calls of the program whose values are computed again in the backward instead of being kept.

Between: capture, which marks `torch` nodes with `meta["checkpoint"]` (a tuple of regions, outermost first) -> aotgrad's partition.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Region"]


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """One call of `torch.utils.checkpoint.checkpoint`.

    `policy`: of a selective checkpoint, `policy(context, ATen overload, *args, **kwargs)` gives a `CheckpointPolicy` or whether to save.
    """

    policy: Callable[..., Any] | None = None
