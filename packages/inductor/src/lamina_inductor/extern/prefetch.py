"""Starts building the native libraries that a graph will link with, while it is lowered."""

from __future__ import annotations

import torch

from ..gemm import library as matrix_library
from ..window import library as window_library

__all__ = ["prefetch"]

_MATRIX = ("mm", "bmm", "addmm", "baddbmm", "convolution", "_scaled_dot_product_flash_attention_for_cpu")
_WINDOW = ("convolution", "max_pool2d_with_indices")


def prefetch(gm: torch.fx.GraphModule) -> None:
    """Build what the calls of an ATen graph may need."""
    names = {n.target.__name__.partition(".")[0] for n in gm.graph.nodes if isinstance(n.target, torch._ops.OpOverload)}
    names |= {name.removesuffix("_backward") for name in names}
    if names & set(_MATRIX):
        matrix_library.prefetch()
    if names & set(_WINDOW):
        window_library.prefetch()
