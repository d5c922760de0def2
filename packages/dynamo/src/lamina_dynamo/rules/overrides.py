"""Rules for `__torch_function__`: the default one, making tensors of a subclass, modes, and turning overrides off."""

from __future__ import annotations

from typing import Any

import torch
from torch import overrides as torch_overrides

from .. import overrides, wrappers
from ..calls import rule
from ..control import native

_T = torch.Tensor

rule(_T.__dict__["__torch_function__"].__func__)(overrides.default_torch_function)
rule(torch_overrides.TorchFunctionMode.__enter__)(overrides.enter_mode)
rule(torch_overrides.TorchFunctionMode.__exit__)(overrides.leave_mode)


@rule(torch._C.DisableTorchFunctionSubclass)
def without_subclasses(cap: Any, args: Any, kwargs: Any) -> Any:
    return overrides.Switch(cap, False)


@rule(torch._C.DisableTorchFunction)
def without_overrides(cap: Any, args: Any, kwargs: Any) -> Any:
    return overrides.Switch(cap, True)


@rule(torch_overrides.has_torch_function, torch_overrides.has_torch_function_unary, torch_overrides.has_torch_function_variadic)
def has_overrides(cap: Any, args: Any, kwargs: Any) -> bool:
    """For plain tensors, Python code that we interpret must take its plain path: the mode records what it calls."""
    return overrides.asks(cap, args)


@rule(_T.as_subclass)
def as_subclass(cap: Any, args: Any, kwargs: Any) -> Any:
    """No mode sees this call."""
    return overrides.given_class(cap, args[0], args[1] if len(args) > 1 else kwargs["cls"])


rule(_T._make_wrapper_subclass)(wrappers.made_wrapper)


@rule(_T._make_subclass)
def make_subclass(cap: Any, args: Any, kwargs: Any) -> Any:
    """`Tensor._make_subclass(cls, data, require_grad)`: detached, of the class."""
    cls, data, *rest = args
    out = native(_T.detach, data)
    requires = rest[0] if rest else kwargs.get("require_grad", False)
    out = overrides.given_class(cap, out, cls, is_fresh=True)
    return native(_T.requires_grad_, out) if requires else out
