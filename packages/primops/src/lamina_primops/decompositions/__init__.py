"""Decompositions from aten to prims, one file per family. `register(overload)` adds one; `DECOMPOSITIONS` is the table.

`EXTERN` lists the ATen calls that stay in a prims graph by decision (contractions' backwards, fused attention, pools, sorts, random numbers).
"""

from __future__ import annotations

from . import activations, contractions, distances, externs, factories, foreach, indexing, losses, norms, pads, pointwise, pooling, quantization, reductions, resampling, special, views
from .registry import DECOMPOSITIONS, EXTERN, Decomposition, extern, register

__all__ = ["DECOMPOSITIONS", "EXTERN", "Decomposition", "extern", "register"]

_ = (activations, contractions, distances, externs, factories, foreach, indexing, losses, norms, pads, pointwise, pooling, quantization, reductions, resampling, special, views)  # imported for their registrations
