"""Symbolic sizes of FX metadata as index expressions."""

from __future__ import annotations

from typing import Any

import torch
from lamina_dynshape.expr import Expr, integer

__all__ = ["expr_of", "symbol_ranges"]


def expr_of(x: Any) -> Expr:
    """Expression of an int or a `SymInt` of ours."""
    if isinstance(x, Expr):
        return x
    if isinstance(x, torch.SymInt):
        from lamina_dynshape import expr_of as of
        return of(x)
    return integer(int(x))


def symbol_ranges(val: Any, symbol: Expr) -> tuple[tuple[int | None, int | None], int]:
    """((lowest, highest), hint) of a symbol, from the shape environment behind a `SymInt`."""
    env = getattr(getattr(val, "node", None), "env", None) or getattr(getattr(val, "node", None), "shape_env", None)
    ranges = env.ranges() if env is not None else {}
    lo_hi = ranges.get(symbol, (2, None))
    try:
        hint = int(env.hint(symbol)) if env is not None else 64
    except Exception:  # noqa: BLE001  (an unbacked symbol has no hint)
        hint = 64
    return (tuple(lo_hi) if isinstance(lo_hi, (tuple, list)) else (2, None)), hint
