"""Legacy constructors: `torch.FloatTensor(...)`, `torch.Tensor(...)`, `x.new(...)`, and tensor types where a dtype goes.

Between: a call of a class or type of tensors -> the factory function that gives the same.
"""

from __future__ import annotations

from typing import Any, NoReturn

import torch

from ..calls import rule
from ..control import unsupported
from ..recorder import FUNCTION_RULES, Recorder, function_rule

__all__ = ["TENSOR_TYPES"]

TENSOR_TYPES = tuple(t for t in torch._tensor_classes if type(t) is type(torch.FloatTensor))


def _make(rec: Recorder, args: Any, kwargs: Any, dtype: torch.dtype, device: Any, *, any_dtype: bool = False) -> Any:
    """What a legacy constructor of this dtype and device gives."""
    if set(kwargs) - {"device"}:
        _refuse(args)
    where = {"dtype": dtype, "device": device if kwargs.get("device") is None else torch.device(kwargs["device"])}
    first = args[0] if args else 0
    if len(args) <= 1 and isinstance(first, torch.Size) or all(isinstance(a, (int, torch.SymInt)) for a in args):
        size = first if isinstance(first, torch.Size) else tuple(args) or (0,)
        return rec.run(torch.empty, (tuple(size),), where)
    if len(args) > 1:
        _refuse(args)
    if isinstance(first, (list, tuple, range)):
        return FUNCTION_RULES[torch.tensor](rec, torch.tensor, (list(first),), where)
    if not isinstance(first, torch.Tensor) or first.device != where["device"] or not any_dtype and first.dtype != dtype:
        _refuse(args)
    return rec.run(torch.Tensor.view_as, (first, first), {})


def _refuse(args: Any) -> NoReturn:
    unsupported("tensor-class", "making a tensor through a class, from other things than sizes, numbers or a tensor of its kind", saw=", ".join(type(a).__name__ for a in args))


@rule(torch.Tensor)
def tensor(cap: Any, args: Any, kwargs: Any) -> Any:
    return _make(cap.recorder, args, kwargs, torch.get_default_dtype(), torch.device("cpu"), any_dtype=True)


@function_rule(torch.Tensor.new)
def new(rec: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    this, *rest = args
    return _make(rec, rest, kwargs, this.dtype, this.device)


def _device_of(kind: Any) -> torch.device:
    return torch.device("cuda" if kind.is_cuda else "cpu")


for _kind in TENSOR_TYPES:

    @rule(_kind)
    def _typed(cap: Any, args: Any, kwargs: Any, kind: Any = _kind) -> Any:
        return _make(cap.recorder, args, kwargs, kind.dtype, _device_of(kind))


@function_rule(torch.Tensor.type)
def type_(rec: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    """Its name without arguments; of a tensor type: its dtype, on its device."""
    if len(args) == 1 and not kwargs:
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args)
    if len(args) == 1 or not isinstance(args[1], type(torch.FloatTensor)):
        return rec.run(func, args, kwargs)
    this, kind, *rest = args
    if this.device.type == _device_of(kind).type:
        return rec.run(func, (this, kind.dtype, *rest), kwargs)
    return rec.run(torch.Tensor.to, (this, _device_of(kind), kind.dtype, *rest), kwargs)
