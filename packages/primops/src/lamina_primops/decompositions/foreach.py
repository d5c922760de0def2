"""Ops on lists of tensors: the op on each tensor (`lamina_dynshape.foreach`). Numerics, promotion and accumulation are those of that op, as in eager."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lamina_dynshape.foreach import Each, foreach_overloads

from .common import aten_call
from .registry import register


def _rule(overload: Any, each: Each) -> Callable[..., Any]:
    def rule(*args: Any, **kwargs: Any) -> Any:
        return each(aten_call, args, kwargs)

    rule.__doc__ = f"`{overload._schema.name.removeprefix('aten::_foreach_')}` of each tensor."
    return rule


for _overload, _each in foreach_overloads().items():
    register(_overload)(_rule(_overload, _each))
