"""Enters the meta rules of all prims into dynshape's table, so that prims run on fake tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lamina_dynshape.shape_rules.registry import register

from .registry import PRIMS, Prim
from .spec import Spec

__all__: list[str] = []


def _rule_of(prim: Prim) -> Callable[..., Any]:
    meta = prim.meta

    def rule(mode: Any, *args: Any) -> Any:
        spec = meta(*args)
        if type(spec) is Spec:
            return mode.empty_strided(spec.shape, spec.strides, dtype=spec.dtype, device=spec.device)
        return tuple(mode.empty_strided(s.shape, s.strides, dtype=s.dtype, device=s.device) for s in spec)

    return rule


for _prim in PRIMS.values():
    register(_prim.overload, _rule_of(_prim))
