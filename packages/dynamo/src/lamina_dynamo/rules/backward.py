"""Rules for gradients taken inside the captured function: `torch.autograd.grad` as a node, `backward()` as that and the accumulation into `.grad`.

Between: calls of the autograd engine -> `torch.autograd.grad` nodes; stores of `.grad` in the overlays of the leaves.
Keeps:   the engine runs on fakes for their metadata; a leaf's gradient has the layout and the identity that the engine would give it.
Source:  PyTorch torch/csrc/autograd/functions/accumulate_grad.h (when a gradient is kept, and when it is copied).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch

from ..calls import rule
from ..control import native, unsupported
from ..guards import GuardKind
from ..recorder import Recorder, function_rule
from ..source import AttrSource
from ..wrappers import memory_of

_SIGNATURE = inspect.signature(torch.autograd.grad)


def _several(v: Any) -> tuple[Any, ...]:
    return (v,) if isinstance(v, torch.Tensor) or v is None else tuple(v)


@rule(torch.autograd.grad)
def autograd_grad(cap: Any, args: Any, kwargs: Any) -> Any:
    """Gradients inside the captured function: one node; the engine runs on fakes for their metadata."""
    bound = _SIGNATURE.bind(*args, **kwargs)
    bound.apply_defaults()
    a = bound.arguments
    if a["is_grads_batched"] or a["materialize_grads"]:
        unsupported("autograd", "autograd.grad with batched or materialized gradients")
    outs, ins, given = _several(a["outputs"]), _several(a["inputs"]), _several(a["grad_outputs"])
    for t in ins:
        _refuse_hooks(cap, t)
    retain = a["create_graph"] if a["retain_graph"] is None else a["retain_graph"]
    with torch._C.DisableTorchFunction():
        seeds = tuple(g if g is not None else torch.ones_like(o) for o, g in zip(outs, given * len(outs) if len(given) == 1 and given[0] is None else given, strict=True))
        out = native(torch.autograd.Variable._execution_engine.run_backward, outs, seeds, retain, a["create_graph"], ins, a["allow_unused"] or False, accumulate_grad=False)
    keywords = {k: a[k] for k in ("grad_outputs", "retain_graph", "create_graph", "allow_unused") if a[k] is not None}
    return cap.recorder.note(torch.autograd.grad, (outs, ins), keywords, tuple(out))


@rule(torch.Tensor.backward)
def tensor_backward(cap: Any, args: Any, kwargs: Any) -> None:
    _backward(cap, *args, **kwargs)


@function_rule(torch.Tensor.backward)
def native_backward(rec: Recorder, func: Any, args: Any, kwargs: Any) -> None:
    unsupported("autograd", "backward() called by code that runs natively")


@rule(torch.autograd.backward)
def autograd_backward(cap: Any, args: Any, kwargs: Any) -> None:
    bound = inspect.signature(torch.autograd.backward).bind(*args, **kwargs).arguments
    if bound.get("grad_variables") is not None:
        unsupported("autograd", "backward with grad_variables")
    _backward(cap, bound["tensors"], bound.get("grad_tensors"), bound.get("retain_graph"), bound.get("create_graph", False), bound.get("inputs"))


def _backward(cap: Any, tensors: Any, gradient: Any = None, retain_graph: Any = None, create_graph: bool = False, inputs: Any = None) -> None:
    outs, given = _several(tensors), _several(gradient)
    if given == (None,):
        given = given * len(outs)
    if create_graph or cap.recorder.scope is not None:
        unsupported("autograd", "backward() that builds a graph, or under a transform", hint="torch.autograd.grad")
    for out, g in zip(outs, given, strict=True):
        if g is None and out.requires_grad and out.numel() != 1:
            native(torch.autograd.backward, out)  # raises eager's error
    leaves = list(_leaves(cap, outs)) if inputs is None else list(_several(inputs))
    if not leaves:
        unsupported("autograd", "backward() that reaches no leaf")
    keywords = {"grad_outputs": given, "retain_graph": retain_graph, "allow_unused": True}
    found = autograd_grad(cap, (outs, tuple(leaves)), keywords)
    taken = {key for g in given if g is not None for key in memory_of(g)}
    for leaf, grad in zip(leaves, found, strict=True):
        if grad is not None:
            _accumulate(cap, leaf, grad, taken)


def _leaves(cap: Any, outs: tuple[torch.Tensor, ...]) -> Iterator[torch.Tensor]:
    """The leaves that the engine would reach from these tensors."""
    if any(not inp.real.is_leaf and inp.real.requires_grad for inp in cap.inputs.values()):
        unsupported("autograd", "backward() next to values that were computed outside of the compiled function with gradients")
    with torch._C.DisableTorchFunction():
        if any(t.requires_grad and t.grad_fn is None for t in outs):
            unsupported("autograd", "backward() of a leaf")
        stack, seen = [t.grad_fn for t in outs if t.grad_fn is not None], set()
        while stack:
            node = stack.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if hasattr(node, "variable"):
                yield node.variable
            stack += [n for n, _ in node.next_functions]


def _refuse_hooks(cap: Any, leaf: torch.Tensor) -> None:
    """Hooks run Python code in the engine."""
    if cap.hooked:
        unsupported("tensor-hook", "gradients taken next to hooks that the compiled function registered")
    inp = cap.inputs.get(id(leaf))
    if inp is None:
        return
    for name in ("_backward_hooks", "_post_accumulate_grad_hooks"):
        with torch._C.DisableTorchFunction():
            hooks = getattr(inp.real, name)
        if hooks is not None:
            unsupported("tensor-hook", "gradients of a tensor with hooks", hint="take them outside of the compiled function")
        cap.guard(AttrSource(inp.source, name), GuardKind.NONE)


def _accumulate(cap: Any, leaf: Any, grad: Any, taken: set[int]) -> None:
    """`leaf.grad += grad`: in place where there is one; else the gradient itself, or a copy where others see its memory or the layout differs."""
    if leaf.grad is not None:
        leaf.grad.add_(grad)
        return
    if memory_of(grad) & (taken | {i.storage_key for i in cap.inputs.values()}) or grad.stride() != leaf.stride():
        grad = torch.empty_like(leaf, requires_grad=False).copy_(grad)
    taken |= memory_of(grad)
    leaf.grad = grad
