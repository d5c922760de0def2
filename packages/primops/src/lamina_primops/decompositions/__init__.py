"""Decompositions from aten to prims, one file per family. `register(overload)` adds one, for any library's overloads; `DECOMPOSITIONS` is the table.

A decomposition is written with `p.<prim>(...)` and, for other ATen ops, `aten_call(overload, ...)`.

`EXTERN` lists the ATen calls that stay in a prims graph by decision (contractions' backwards, fused attention, pools, sorts, random numbers).
"""

from __future__ import annotations

from . import activations, contractions, distances, externs, factories, foreach, indexing, losses, norms, pads, pointwise, pooling, quantization, reductions, resampling, special, views
from .common import aten_call, p
from .registry import DECOMPOSITIONS, EXTERN, Decomposition, extern, register

__all__ = ["DECOMPOSITIONS", "EXTERN", "Decomposition", "aten_call", "extern", "p", "register"]

_ = (activations, contractions, distances, externs, factories, foreach, indexing, losses, norms, pads, pointwise, pooling, quantization, reductions, resampling, special, views)  # imported for their registrations
