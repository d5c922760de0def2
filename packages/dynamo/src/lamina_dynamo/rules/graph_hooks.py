"""Hooks whose functions only compute with tensors: captured, and registered by a node of the graph, so that autograd runs them where it runs the graph.

Between: `register_hook` on a value that the frame made -> a node that registers the captured function on that value, before whatever comes after it.
Keeps:   the function is interpreted when it is registered; where that is not what autograd would run later (it changes something, what it reaches
         changes before the frame ends or is an object from outside, the value leaves the frame, where more hooks can come), the frame is captured again with the hook outside.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import torch
from lamina_primops.control_flow import control_of
from torch.utils import _pytree as pytree

from ..control import HookOutside, Unsupported
from ..lift import _contents, is_torch_owned
from .control_flow import Part

__all__ = ["check_graph_hooks", "register_in_graph"]

MAX_REACHED = 10_000
_NUMBERS = (int, float, bool, complex, str, type(None))
_FIXED = (torch.Tensor, type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType, torch.dtype, torch.device)  # not what a global name or a hook reads anew


def register_in_graph(rec: Any, hook: Any) -> None:
    """The node of a registration. The gradient has the shape and dtype of the value; its strides are taken to be the value's."""
    cap, tensor, (fn,) = rec.cap, hook.tensor, hook.args
    if rec.regions or torch.is_autocast_enabled("cpu") or torch.is_inference_mode_enabled():
        raise HookOutside(hook.number)  # the backward runs under another state
    before = _state(cap, fn)
    if any(_may_change(cap, v) for v in _reached(cap, fn)):
        raise HookOutside(hook.number)
    try:
        part = _captured(cap, fn, tensor)
    except Unsupported:
        raise HookOutside(hook.number) from None
    hook.state = _state(cap, fn)
    if hook.state != before or not _fits(part, tensor):
        raise HookOutside(hook.number)
    hook.node = rec.emit(_registration(part.module, bool(part.results)), (tensor, *part.outside), {}, None)
    hook.node.meta["allowed"] = True


def _captured(cap: Any, fn: Any, tensor: Any) -> Part:
    """The function on a gradient, with gradients off, as they are in a backward."""
    with torch._C.DisableTorchFunction():
        grad, is_on = tensor.detach(), torch.is_grad_enabled()
        torch._C._set_grad_enabled(False)
    try:
        with cap.recorder:  # a mode is off while it answers
            return Part(cap, fn, *pytree.tree_flatten((grad,)))
    finally:
        with torch._C.DisableTorchFunction():
            torch._C._set_grad_enabled(is_on)


def _fits(part: Part, tensor: Any) -> bool:
    """Whether the function gives nothing, or what autograd takes for a gradient as it is."""
    if len(part.constants) != 1 or not part.results:
        return part.constants == [None]
    (result,) = part.results
    return (result.sizes, result.dtype, result.fake_device) == (tensor.sizes, tensor.dtype, tensor.fake_device)


def _registration(module: Any, replaces: bool) -> Callable[..., None]:
    """What the node calls."""

    def register_hook(tensor: torch.Tensor, *outside: Any) -> None:
        tensor.register_hook(lambda grad: module(grad, *outside)[0] if replaces else None)

    return register_hook


def check_graph_hooks(cap: Any, outputs: list[Any], *, breaks: bool) -> None:
    """At the end of the frame: what was captured is what autograd would run, on the whole gradients."""
    given = {id(v) for v in outputs}
    for hook in cap.graph_hooks.values():
        (fn,) = hook.args
        if hook.is_removed:
            continue
        is_late = breaks and getattr(fn, "__closure__", None) or _state(cap, fn) != hook.state
        if id(hook.tensor) in given or is_late or any(control_of(n) is not None for n in cap.graph.nodes):
            raise HookOutside(hook.number)


def _state(cap: Any, fn: Any) -> tuple[Any, ...]:
    """Equal for two moments between which nothing changed that a function may read: what the program changed outside, and what it reaches of the frame's."""
    overlay = tuple((key, tuple(map(id, written.values()))) for key, written in cap.overlay.items())
    written = tuple(map(id, cap.globals_overlay.values()))
    return overlay, written, cap.changes()[3:], tuple(v if type(v) in _NUMBERS else id(v) for v in _reached(cap, fn))


def _may_change(cap: Any, v: Any) -> bool:
    """Whether this is an outside object that the program may write to between the call and the backward, or a function that reads such a global."""
    if isinstance(v, types.FunctionType):
        return any(not isinstance(g, _FIXED) for g in _globals_read(v))
    return not isinstance(v, (*_FIXED, *_NUMBERS, tuple)) and (id(v) in cap.sources or id(v) in cap.original_of)


def _globals_read(fn: types.FunctionType) -> list[Any]:
    return [] if is_torch_owned(fn.__module__ or "") else [fn.__globals__[n] for n in fn.__code__.co_names if n in fn.__globals__]


def _reached(cap: Any, fn: Any) -> list[Any]:
    """What a function reaches through closures, defaults, global functions, bound objects and containers of the frame's own."""
    found: list[Any] = []
    seen: set[int] = set()
    stack = [fn]
    while stack and len(found) < MAX_REACHED:
        v = stack.pop()
        found.append(v)
        if id(v) in seen or id(v) in cap.original_of or isinstance(v, (torch.Tensor, type, types.ModuleType)):
            continue
        seen.add(id(v))
        stack += _parts(cap, v)
    return found


def _parts(cap: Any, v: Any) -> list[Any]:
    if isinstance(v, types.FunctionType):
        return [*map(_contents, cap.closure_of(v)), *(v.__defaults__ or ()), *(v.__kwdefaults__ or {}).values(), *[g for g in _globals_read(v) if isinstance(g, types.FunctionType)]]
    if isinstance(v, types.MethodType):
        return [v.__self__, v.__func__]
    if isinstance(v, functools.partial):
        return [v.func, *v.args, *v.keywords.values()]
    if isinstance(v, types.BuiltinMethodType):
        return [v.__self__]
    if id(v) in cap.sources:
        return []  # an outside object: what is written to it is in the overlay
    if isinstance(v, dict):
        return [*v.keys(), *v.values()]
    if isinstance(v, (list, tuple, set, frozenset)):
        return list(v)
    return list(getattr(v, "__dict__", {}).values())
