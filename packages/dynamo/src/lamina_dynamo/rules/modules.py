"""Rules for torch.nn.Module."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules import module as _module

from ..attributes import load_attr, raw_dict
from ..calls import call, call_function, rule
from ..guards import GuardKind
from ..source import ConstantSource, ItemSource, instance_attr

_HOOKS = ("_backward_hooks", "_backward_pre_hooks", "_forward_hooks", "_forward_pre_hooks")
_GLOBAL_HOOKS = ("_global_backward_pre_hooks", "_global_backward_hooks", "_global_forward_hooks", "_global_forward_pre_hooks")
_GLOBALS = _module.__dict__


@rule(nn.Module._wrapped_call_impl, nn.Module._call_impl, nn.Module.__call__)
def module_call(cap: Any, args: Any, kwargs: Any) -> Any:
    """`module(*args)`: straight to `forward` where there are no hooks."""
    module = args[0]
    if _has_hooks(cap, module):
        return call_function(cap, nn.Module._call_impl, args, kwargs)
    return call(cap, load_attr(cap, module, "forward"), args[1:], kwargs)


def _has_hooks(cap: Any, module: Any) -> bool:
    has_global = _has_global_hooks(cap)  # first, since they are guarded here whatever the module has
    d = raw_dict(module) or {}
    over = cap.overlay.get(id(module)) or {}
    src = cap.sources.get(id(module))
    for name in _HOOKS:
        hooks = over[name] if name in over else d.get(name)
        if hooks is None:
            continue
        shadow = cap.shadow_of.get(id(hooks))
        if hooks if shadow is None else shadow:
            return True
        if src is not None and shadow is None and name not in over:  # what was lifted is guarded, and may have changed since
            cap.guard(instance_attr(src, name), GuardKind.LEN, 0)
    return has_global


def _has_global_hooks(cap: Any) -> bool:
    """Whether hooks of all modules are registered; every registration has a key of its own."""
    for name in _GLOBAL_HOOKS:
        source, hooks = ItemSource(ConstantSource(_GLOBALS), name), _GLOBALS[name]
        if hooks:
            cap.guards.add(source, GuardKind.DICT_KEYS, tuple(hooks))
        else:
            cap.guards.add(source, GuardKind.LEN, 0)
    return any(_GLOBALS[name] for name in _GLOBAL_HOOKS)
