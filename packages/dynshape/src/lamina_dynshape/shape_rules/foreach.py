"""Ops on lists of tensors and fused optimizer steps: the op per tensor, run on fakes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from lamina_dynshape.foreach import Each, foreach_overloads
from lamina_dynshape.shape_rules.registry import register

__all__: list[str] = []


def _call(mode: Any) -> Callable[..., Any]:
    def call(op: Any, *args: Any, **kwargs: Any) -> Any:
        return mode.dispatch(op, args, {k: v for k, v in kwargs.items() if v is not None})

    return call


def _functional(each: Each) -> Callable[..., Any]:
    def rule(mode: Any, *args: Any, **kwargs: Any) -> Any:
        return each(_call(mode), args, kwargs)

    return rule


def _in_place(each: Each) -> Callable[..., Any]:
    """Nothing is returned and no metadata changes; what does not fit is left to PyTorch, which raises eager's error."""

    def rule(mode: Any, *args: Any, **kwargs: Any) -> Any:
        results = each(_call(mode), args, kwargs)
        return None if all(r.sizes == x.sizes for r, x in zip(results, args[0], strict=True)) else NotImplemented

    return rule


def _writes_only(mode: Any, *args: Any, **kwargs: Any) -> None:
    """A fused step writes its lists and returns nothing."""


for _op, _each in foreach_overloads().items():
    register(_op, _functional(_each))
    _writes = getattr(getattr(torch.ops.aten, _op._schema.name.removeprefix("aten::") + "_", None), _op._overloadname or "default", None)
    if _writes is not None:
        register(_writes, _in_place(_each))
for _name in [n for n in dir(torch) if n.startswith("_fused_") and n.endswith("_")]:
    _packet = getattr(torch.ops.aten, _name, None)
    for _form in _packet.overloads() if _packet is not None else ():
        if not getattr(_packet, _form)._schema.returns:
            register(getattr(_packet, _form), _writes_only)
