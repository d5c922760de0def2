"""`__torch_function__` during capture: tensor subclasses, other objects that override torch functions, and modes.

Between: the recorder, which sees every torch call -> the program's own `__torch_function__`, which is interpreted.
Keeps:   a tensor of a subclass is a plain fake whose class is in `Capture.class_of`: the graph has plain tensors only, and replacement code
         gives results their class; modes and switched-off overrides are state of the recorder, never of the thread.
Source:  PyTorch torch/overrides.py and torch/csrc/utils/python_arg_parser.cpp for the order: modes innermost first, then arguments, subclasses first.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.parameter import UninitializedTensorMixin

from .attributes import class_lookup, load_attr
from .control import MISSING, CannotRebuild, native, observe, refusal, unsupported
from .lift import is_torch_owned

__all__ = ["Switch", "asks", "class_as_fake", "given_class", "overridden", "plain_tensor", "refuse_open_switches"]

_DISABLED = torch._C._disabled_torch_function_impl
_DEFAULT = torch.Tensor.__dict__["__torch_function__"]
_NO_DISPATCH = torch._C._disabled_torch_dispatch_impl
_PLAIN_CLASSES = (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer)


def class_as_fake(t: torch.Tensor) -> type | None:
    """The class to remember for the plain fake of a tensor; None for a plain one. Refuses what operators do not treat as a plain tensor."""
    cls = type(t)
    if cls in _PLAIN_CLASSES:
        return None
    if cls.__torch_dispatch__ is not _NO_DISPATCH or is_torch_owned(cls.__module__) or isinstance(t, UninitializedTensorMixin):
        unsupported("tensor-subclass", "a tensor subclass", saw=cls.__qualname__)
    return cls


def plain_tensor(t: torch.Tensor) -> torch.Tensor:
    """A tensor of a subclass as the graph takes it: the same memory and history, and no class whose overrides would run again."""
    with torch._C.DisableTorchFunctionSubclass():
        return t.as_subclass(torch.Tensor)


# ---- dispatch ----------------------------------------------------------------------------------------------------------
def overridden(rec: Any, func: Any, args: Any, kwargs: Any) -> Any:
    """What the program's overrides make of a torch call; NotImplemented where none is asked."""
    cap = rec.cap
    found = [] if rec.is_direct else _overloaded(cap, args, kwargs or {})
    if not rec.modes and not found:
        return NotImplemented
    types = tuple(cls for cls, _ in found)
    call = (func, types, tuple(args)) if kwargs is None else (func, types, tuple(args), kwargs)
    with rec:  # in its own handler a mode is off the stack
        if rec.modes:
            before, rec.modes = rec.modes, rec.modes[:-1]
            try:
                out = cap.call(load_attr(cap, before[-1], "__torch_function__"), call)
            finally:
                rec.modes = before
            if out is not NotImplemented or not found:
                return _implemented(rec, func, out)
        for cls, obj in found:
            out = cap.call(_method(cap, cls, obj), call)
            if out is not NotImplemented:
                return out
    return _implemented(rec, func, NotImplemented)


def _implemented(rec: Any, func: Any, out: Any) -> Any:
    """What the override made; where none took the call, an error whose text is PyTorch's affair."""
    if out is NotImplemented:
        rec.failure = TypeError(f"all __torch_function__ handlers returned NotImplemented for {func}")
        raise rec.failure
    return out


def _overloaded(cap: Any, args: Any, kwargs: dict[str, Any]) -> list[tuple[type, Any]]:
    """(class, first argument of it) of what overrides torch functions, subclasses before their bases."""
    found: list[tuple[type, Any]] = []
    for x in (*args, *kwargs.values()):
        for y in x if type(x) in (tuple, list) else (x,):
            cls = cap.class_of.get(id(y)) if isinstance(y, torch.Tensor) else type(y)
            if cls is None or any(cls is k for k, _ in found) or not _overrides(cap, cls):
                continue
            at = next((i for i, (k, _) in enumerate(found) if issubclass(cls, k)), len(found))
            found.insert(at, (cls, y))
    return found


def _overrides(cap: Any, cls: type) -> bool:
    if is_torch_owned(cls.__module__) or cls.__module__ == "builtins":
        return False
    raw = class_lookup(cap, cls, "__torch_function__") if hasattr(cls, "__torch_function__") else MISSING
    return raw is not MISSING and raw[0] is not _DISABLED


def _method(cap: Any, cls: type, obj: Any) -> Any:
    raw = class_lookup(cap, cls, "__torch_function__")[0]
    return raw.__get__(obj, cls)


def default_torch_function(cap: Any, args: Any, kwargs: Any) -> Any:
    """`Tensor.__torch_function__`: the function without overrides, its results of this class."""
    cls, func, types, *rest = args
    given, named = (*rest, *[kwargs[k] for k in ("args", "kwargs") if k in kwargs], (), None)[:2] if len(rest) < 2 else rest
    if not all(issubclass(cls, t) for t in types):
        return NotImplemented
    rec = cap.recorder
    known = len(rec.held)
    before, rec.is_direct = rec.is_direct, True
    try:
        out = cap.call(func, given, named or {})
    finally:
        rec.is_direct = before
    if func in torch.overrides.get_default_nowrap_functions():
        return out
    return _convert(cap, out, cls, {id(t) for t in rec.held[known:]} if is_torch_owned(getattr(func, "__module__", None) or "torch") else set())


def _convert(cap: Any, out: Any, cls: type, fresh: set[int]) -> Any:
    """Results of a call as tensors of the class; those in `fresh` nobody else has seen."""
    if isinstance(out, torch.Tensor):
        return out if issubclass(cap.type_of(out), cls) else given_class(cap, out, cls, is_fresh=id(out) in fresh)
    if type(out) is torch.Size or not isinstance(out, (tuple, list)):
        return out
    return native(type(out), [_convert(cap, x, cls, fresh) for x in out])


def given_class(cap: Any, t: Any, cls: type, *, is_fresh: bool = False) -> Any:
    """`t.as_subclass(cls)`: another tensor on the same memory, unless nobody has the first."""
    if not isinstance(cls, type) or not issubclass(cls, torch.Tensor):
        observe(TypeError("cls must be a type (got " + type(cls).__name__ + ")" if not isinstance(cls, type) else f"cls must be a subclass of Tensor, got {cls.__qualname__}"))
    if cls.__torch_dispatch__ is not _NO_DISPATCH or cls is not torch.Tensor and is_torch_owned(cls.__module__):
        unsupported("tensor-subclass", "a tensor subclass", saw=cls.__qualname__)
    with torch._C.DisableTorchFunction():  # the call is ours: no mode sees it
        out = t if is_fresh and id(t) not in cap.inputs else cap.recorder.run(torch.ops.aten.alias.default, (t,), {})
    if cls is not torch.Tensor:
        cap.class_of[id(out)] = cls
    return out


def asks(cap: Any, args: Any) -> bool:
    """`has_torch_function` of these."""
    return bool(cap.recorder.modes) or not cap.recorder.is_direct and bool(_overloaded(cap, args, {}))


def new_tensor(cap: Any, cls: type, args: Any, kwargs: Any) -> Any:
    """`Tensor.__new__(cls, data)`: of a tensor its memory and history, of numbers a new one."""
    if len(args) != 1 or kwargs or is_torch_owned(cls.__module__):
        unsupported("tensor-class", "making a tensor through a class", saw=cls.__qualname__)
    data = args[0]
    if isinstance(data, (list, tuple)):
        return given_class(cap, native(torch.tensor, data, dtype=torch.get_default_dtype()), cls, is_fresh=True)
    if not isinstance(data, torch.Tensor):
        unsupported("tensor-class", "making a tensor of a size through a class", saw=cls.__qualname__)
    return given_class(cap, data, cls)


# ---- contexts ------------------------------------------------------------------------------------------------------------
class Switch:
    """`torch._C.DisableTorchFunctionSubclass()`, or `DisableTorchFunction()`, which turns off modes too, as state of the recorder."""

    __slots__ = ("before", "cap", "everything", "step")

    def __init__(self, cap: Any, everything: bool) -> None:
        self.cap, self.everything, self.step = cap, everything, cap.step
        cap.created[id(self)] = (self, cap.step)

    def __enter__(self) -> None:
        rec = self.cap.recorder
        self.before = rec.is_direct, rec.modes
        rec.is_direct = True
        if self.everything:
            rec.modes = []
        rec.switched.append(self.step)

    def __exit__(self, *exc: Any) -> None:
        rec = self.cap.recorder
        rec.is_direct, rec.modes = self.before
        rec.switched.pop()


def enter_mode(cap: Any, args: Any, kwargs: Any) -> Any:
    """`TorchFunctionMode.__enter__`."""
    cap.recorder.modes = [*cap.recorder.modes, args[0]]
    cap.recorder.switched.append(cap.step)
    return args[0]


def leave_mode(cap: Any, args: Any, kwargs: Any) -> None:
    """`TorchFunctionMode.__exit__`."""
    rec = cap.recorder
    if not rec.modes:  # entered before a graph break
        unsupported("dispatch-state", "leaving a mode that was entered outside of the captured code", saw=type(args[0]).__qualname__)
    rec.modes = rec.modes[:-1]
    rec.switched.pop()


def refuse_open_switches(cap: Any) -> None:
    """At a break, what code may not set again must not be open: the break goes in front of it."""
    if cap.recorder.switched:
        raise CannotRebuild(cap.recorder.switched[0], refusal("dispatch-state", "a graph break inside of a torch function mode, or with overrides turned off"))
