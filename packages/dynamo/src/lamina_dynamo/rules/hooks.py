"""Hooks on tensors: in the graph (`graph_hooks`), or registered by the replacement code on the real tensors, as the program did on the fakes.

Between: `register_hook`, `retain_grad`, `register_post_accumulate_grad_hook` -> `Capture.hooks` -> lines of the replacement code.
Keeps:   a hook sees the whole gradient of its tensor. That of an input comes together outside of the graph, whenever the hook was registered; that
         of a result does only where the graph itself does not go on from it. Of other values the hook belongs into the graph, if its function only
         computes with tensors. Else the graph ends where the value is first used.
"""

from __future__ import annotations

import inspect
import operator
from typing import Any

import torch
from torch.utils.hooks import BackwardHook, RemovableHandle

from ..calls import call_function, rule
from ..construct import call_type
from ..control import HookStays, RestartCapture, refusal, stands_for, unsupported
from ..recorder import Recorder, function_rule
from .graph_hooks import register_in_graph

__all__ = ["Hook", "ModuleHook", "check_module_hooks", "emit_hooks", "refuse_use"]

_T = torch.Tensor


@stands_for(RemovableHandle)
class Hook:
    """A registration, and the handle that the program got."""

    def __init__(self, tensor: Any, method: str, args: tuple[Any, ...]) -> None:
        self.tensor, self.method, self.args = tensor, method, args
        self.is_removed = False
        self.node: Any = None  # that registers it in the graph
        self.number = -1  # of the registration in the frame
        self.state: Any = None  # of what its function reaches

    def remove(self) -> None:
        self.is_removed = True
        if self.node is not None:
            self.node.graph.erase_node(self.node)
            self.node = None

    def __enter__(self) -> Hook:
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()

    @property
    def id(self) -> int:
        unsupported("tensor-hook", "the number of a hook")


def _register(rec: Recorder, tensor: Any, method: str, args: tuple[Any, ...]) -> Hook:
    cap = rec.cap
    if rec.scope is not None:
        unsupported("tensor-hook", "a hook under a functorch transform")
    hook = Hook(tensor, method, args)
    hook.number, cap.hook_count = cap.hook_count, cap.hook_count + 1
    if method == "register_hook" and id(tensor) not in cap.inputs and hook.number not in cap.outside_hooks:
        register_in_graph(rec, hook)
        cap.graph_hooks[id(hook)] = hook
        return hook
    _refuse_earlier_use(rec, tensor)
    cap.hooks[id(hook)] = hook
    cap.hooked[id(tensor)] = tensor
    return hook


def _refuse_earlier_use(rec: Recorder, tensor: Any) -> None:
    cap = rec.cap
    if id(tensor) in cap.inputs:
        if tensor.storage_key in rec.mutated and not tensor.is_leaf:
            unsupported("tensor-hook", "a hook on an input that was written to")
        return
    uses = [n for n in rec.node_of(tensor).users if _is_differentiable(n)]
    if uses:
        why = refusal("tensor-hook", "a hook on a tensor from which the compiled function computes more", saw=cap.describe(tensor))
        first = min(rec.step_of[n] for n in uses)
        why.where = cap.where()
        raise RestartCapture(first, why)


def _is_differentiable(node: Any) -> bool:
    values = node.meta["val"] if isinstance(node.meta["val"], (tuple, list)) else [node.meta["val"]]
    return any(isinstance(v, torch.Tensor) and v.requires_grad for v in values)


def refuse_use(rec: Recorder, node: Any, args: Any) -> None:
    """A tensor with a hook goes into a call: computing more from a result, and writing to an input, gives it another gradient."""
    for a in args:
        if isinstance(a, (tuple, list)):
            refuse_use(rec, node, a)
        elif id(a) in rec.cap.hooked and (node.meta["val"] is a or node.target is operator.setitem or id(a) not in rec.cap.inputs and _is_differentiable(node)):
            unsupported("tensor-hook", "a tensor with a hook from which the compiled function computes more", saw=rec.cap.describe(a))


@function_rule(_T.register_hook)
def register_hook(rec: Recorder, func: Any, args: Any, kwargs: Any) -> Hook:
    tensor, hook = (*args, *kwargs.values())
    if not tensor.requires_grad:
        raise RuntimeError("cannot register a hook on a tensor that doesn't require gradient")
    return _register(rec, tensor, "register_hook", (hook,))


@function_rule(_T.register_post_accumulate_grad_hook)
def register_post_accumulate_grad_hook(rec: Recorder, func: Any, args: Any, kwargs: Any) -> Hook:
    tensor, hook = (*args, *kwargs.values())
    if not tensor.requires_grad:
        raise RuntimeError("cannot register a hook on a tensor that doesn't require gradient")
    if tensor.grad_fn is not None:
        raise RuntimeError("post accumulate grad hooks cannot be registered on non-leaf tensors")
    return _register(rec, tensor, "register_post_accumulate_grad_hook", (hook,))


@function_rule(_T.retain_grad)
def retain_grad(rec: Recorder, func: Any, args: Any, kwargs: Any) -> None:
    (tensor,) = args
    with torch._C.DisableTorchFunction():
        tensor.retain_grad()  # raises eager's error, and answers `retains_grad`
        if tensor.is_leaf:
            return
    _register(rec, tensor, "retain_grad", ())


def emit_hooks(cap: Any, cg: Any) -> None:
    """Lines that register what the program registered, in its order."""
    for hook in cap.hooks.values():
        name = cg.fresh()
        cg.emit(f"{name} = {cg.value(hook.tensor)}.{hook.method}({', '.join([cg.value(a) for a in hook.args])})")
        cg.names[id(hook)] = name
        if hook.is_removed:
            cg.emit(f"{name}.remove()")


# ---- hooks of modules ------------------------------------------------------------------------------------------------------
@stands_for(RemovableHandle)
class ModuleHook:
    """The handle of an entry in a module's dictionary of hooks. Its key is none that PyTorch gives: the entry must be gone when the frame ends."""

    def __init__(self, key: int, dicts: tuple[Any, ...], step: int) -> None:
        self.id, self._dicts, self.step = key, dicts, step

    def remove(self) -> None:
        for d in self._dicts:
            d.pop(self.id, None)

    def __enter__(self) -> ModuleHook:
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()

    @property
    def is_registered(self) -> bool:
        return any(self.id in d for d in self._dicts)


@rule(RemovableHandle)
def removable_handle(cap: Any, args: Any, kwargs: Any) -> Any:
    if cap.hooks_stay:
        return call_type(cap, RemovableHandle, args, kwargs)
    hooks, extra = inspect.signature(RemovableHandle).bind(*args, **kwargs).args[0], kwargs.get("extra_dict")
    more = () if extra is None else tuple(extra) if isinstance(extra, list) else (extra,)
    handle = ModuleHook(-1 - len(cap.module_hooks), (hooks, *more), cap.step)
    cap.module_hooks.append(handle)
    return handle


def check_module_hooks(cap: Any) -> None:
    """A hook that is there when the frame ends or breaks needs a key of PyTorch's."""
    if any(handle.is_registered for handle in cap.module_hooks):
        raise HookStays


for _setup in (BackwardHook.setup_input_hook, BackwardHook.setup_output_hook):

    @rule(_setup)
    def _backward_hook(cap: Any, args: Any, kwargs: Any, setup: Any = _setup) -> Any:
        """A module's backward hooks hang on nodes of the autograd graph, which a compiled graph does not have. Without gradients there are none."""
        hook, values = args
        tensors = values if isinstance(values, tuple) else (values,)
        if torch.is_grad_enabled() and any(isinstance(t, torch.Tensor) and t.requires_grad for t in tensors):
            unsupported("tensor-hook", "a backward hook of a module", saw=type(hook.module).__name__, hint="hooks on the tensors that go in and come out of compiled code do not break it")
        return call_function(cap, setup, args, kwargs)
