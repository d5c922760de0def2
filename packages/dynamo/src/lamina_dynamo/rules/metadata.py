"""What programs ask of a tensor beyond what every input's guard says: where autograd has it, and where in its memory it begins.

Keeps:   a fake has the autograd history of the frame, not that of the outside. What an input brings along is guarded as it was answered; where
         only an object or a count could tell, there is a break.
"""

from __future__ import annotations

from typing import Any

import torch

from ..control import unsupported
from ..guards import GuardKind
from ..recorder import GETTER_RULES, Recorder, function_rule
from ..source import AttrSource, CallSource, OffsetSource
from .torch_api import tensor_question

_T = torch.Tensor
_OFFSET_MATTERS = ("as_strided", "as_strided_", "as_strided_copy", "as_strided_scatter")


def history(rec: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    """The answer to `t.name`, a question about autograd."""
    (t,), name = args[:1], func.__self__.__name__
    with torch._C.DisableTorchFunctionSubclass():
        said = func(*args, **kwargs)
    inp = rec.cap.inputs.get(id(t))
    if name == "_version" or inp is not None and name == "output_nr":
        unsupported("tensor-attribute", f"reading Tensor.{name}", hint="read it outside of the compiled function")
    if inp is None:
        return said
    source = AttrSource(inp.source, name)
    with torch._C.DisableTorchFunctionSubclass():
        real = getattr(inp.real, name)
        kept = t.requires_grad  # not detached since
    if type(real) is bool:  # is_leaf, retains_grad
        rec.cap.guard(source, GuardKind.BOOL, real)
        return real if kept and real == (name == "retains_grad") else said
    if real is None:
        rec.cap.guard(source, GuardKind.NONE)
    elif kept:
        unsupported("tensor-attribute", f"reading Tensor.{name} of an input that has one", hint="read it outside of the compiled function")
    return said


GETTER_RULES.update(dict.fromkeys(("is_leaf", "output_nr", "_version", "retains_grad", "grad_fn", "_grad_fn", "_backward_hooks"), history))


def rely_on_offset(rec: Recorder, t: Any) -> None:
    """Where the memory of an input begins decides what comes out."""
    for inp in rec.cap.inputs.values():
        if inp.storage_key is not None and inp.storage_key == getattr(t, "storage_key", None):
            rec.cap.guard(OffsetSource(inp.source), GuardKind.EQUALS, int(inp.real.storage_offset()))


@function_rule(_T.storage_offset)
def storage_offset(rec: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    rely_on_offset(rec, args[0])
    return tensor_question(rec, func, args, kwargs)


@function_rule(_T._is_view)
def is_view(rec: Recorder, func: Any, args: Any, kwargs: Any) -> bool:
    inp = rec.cap.inputs.get(id(args[0]))
    with torch._C.DisableTorchFunctionSubclass():
        if inp is None:
            return func(*args)
        real = func(inp.real)
    rec.cap.guard(CallSource(_T._is_view, inp.source), GuardKind.BOOL, real)
    return real


@function_rule(*[getattr(owner, name) for owner in (_T, torch) for name in _OFFSET_MATTERS if hasattr(owner, name)])
def strided(rec: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    rely_on_offset(rec, args[0] if args else kwargs["input"])
    return rec.run(func, args, kwargs)
