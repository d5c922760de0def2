"""Rules for what optimizers call: of `torch._foreach_*`, one node per tensor instead of one per list, so that backends see plain operators; the numbers among their states."""

from __future__ import annotations

from typing import Any

import torch

from torch.optim.optimizer import _get_value

from ..calls import rule
from ..recorder import FUNCTION_RULES, Recorder, function_rule

_SCALED = ("addcmul", "addcdiv", "addcmul_", "addcdiv_")  # their last positional argument is the keyword `value` of the tensor method
_PREFIX = "_foreach_"


def _each(rec: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    name = func.__name__.removeprefix(_PREFIX)
    n = len(args[0])
    if name in _SCALED:  # scalars as one tensor: one for each
        args = [_scalars(rec, a, n) for a in args]
        kwargs = {k: _scalars(rec, v, n) for k, v in kwargs.items()}
    out = [_one(rec, name, [_item(a, i, n) for a in args], {k: _item(v, i, n) for k, v in kwargs.items()}) for i in range(n)]
    return args[0] if name.endswith("_") else out


def _scalars(rec: Recorder, a: Any, n: int) -> Any:
    if not isinstance(a, torch.Tensor) or a.dim() != 1:
        return a
    return [rec.run(torch.Tensor.__getitem__, (a, i), {}) for i in range(n)]


def _item(a: Any, i: int, n: int) -> Any:
    return a[i] if isinstance(a, (list, tuple)) and len(a) == n else a


def _one(rec: Recorder, name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
    value = args.pop() if name in _SCALED and len(args) == 4 else kwargs.pop("value", None) if name in _SCALED else None
    if isinstance(value, torch.Tensor):  # the scalars come as one tensor: no tensor method takes that
        combined = rec.run(torch.mul if "mul" in name else torch.div, (args[1], args[2]), {})
        method = torch.Tensor.add_ if name.endswith("_") else torch.Tensor.add
        return rec.run(method, (args[0], rec.run(torch.mul, (combined, value), {})), {})
    if value is not None:
        kwargs["value"] = value
    return rec.run(getattr(torch.Tensor, name), tuple(args), kwargs)


_T = torch.Tensor


@function_rule(_T.addcdiv, _T.addcdiv_, _T.addcmul, _T.addcmul_, torch.addcdiv, torch.addcmul)
def scaled(rec: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    """A tensor as `value` would need its number at capture time: computed with instead."""
    if isinstance(kwargs.get("value"), torch.Tensor):
        return _one(rec, func.__name__, list(args), dict(kwargs))
    return rec.run(func, args, kwargs)


@rule(_get_value)
def number_of_a_state(cap: Any, args: Any, kwargs: Any) -> Any:
    """A step count, a rate: a number of Python in eager, which computes in double precision from it. Compilers are given the tensor: one in double precision."""
    (x,) = args
    if not isinstance(x, torch.Tensor):
        return x
    if not cap.asked_compiling():
        return cap.call(torch.Tensor.item, (x,), {})
    return cap.call(torch.Tensor.double, (x,), {}) if x.is_floating_point() and x.dim() == 0 else x


def _register() -> None:
    for name in dir(torch):
        plain = name.removeprefix(_PREFIX)
        if name.startswith(_PREFIX) and hasattr(torch.Tensor, plain) and plain not in ("max", "pow", "norm"):
            function = getattr(torch, name)
            if function not in FUNCTION_RULES:
                function_rule(function)(_each)


_register()
