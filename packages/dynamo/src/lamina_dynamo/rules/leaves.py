"""Leaves that the frame makes: parameters, tensors that are told to require gradients, deep copies of those.

Between: `nn.Parameter(...)`, `requires_grad_()`, factories with `requires_grad=True` -> inputs of the graph that are made anew at each call.
Keeps:   a gradient that is taken outside of the graph arrives at the leaf that the program sees. A leaf over memory of an input is an alias of that
         input; one over memory of the graph is filled by a copy, and nothing else may look at that memory afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from lamina_dynshape import FakeTensor
from torch import fx, nn
from torch.utils._python_dispatch import _disable_current_modes

from ..calls import rule
from ..control import FreshLeaves, RestartCapture, native, refusal, unsupported
from ..recorder import Recorder, function_rule
from ..session import Input
from ..source import CallSource, ConstantSource

__all__ = ["adopt", "assign_data", "copy_leaf", "emit_inputs", "refuse_adopted", "refuse_assigned", "require_fresh_leaves"]


# ---- what makes a leaf at each call ------------------------------------------------------------------------------------
class _Made:
    """A function for `CallSource`: a new leaf of a class, over new memory or over that of a tensor."""

    def __init__(self, cls: type, requires_grad: bool, layout: tuple[Any, ...]) -> None:
        self.cls, self.requires_grad = cls, requires_grad
        self.sizes, self.strides, self.offset, self.dtype, self.device = layout
        self.__name__ = f"new_{cls.__name__.lower()}_{'x'.join(map(str, self.sizes))}"

    def __call__(self, base: torch.Tensor | None) -> torch.Tensor:
        with torch._C.DisableTorchFunction(), torch.no_grad():
            if base is None:
                memory = torch.empty_strided(self.sizes, self.strides, dtype=self.dtype, device=self.device)
            else:
                memory = base.detach().as_strided(self.sizes, self.strides, self.offset)
            if self.cls is nn.Parameter:
                return nn.Parameter(memory, self.requires_grad)
            return memory.detach().requires_grad_(self.requires_grad)


def adopt(rec: Recorder, t: Any, node: fx.Node, cls: type = torch.Tensor) -> None:
    """Make the result `t` of a node an input of the graph."""
    cap = rec.cap
    if torch.is_inference_mode_enabled() or t.is_conj() or t.is_neg() or cap.assigned:
        unsupported("tensor-class", "a leaf of a kind that is not made outside of the graph")
    with torch._C.DisableTorchFunction():
        layout = (tuple(map(int, t.shape)), tuple(map(int, t.stride())), int(t.storage_offset()), t.dtype, t.device)
    base = next((i for i in cap.inputs.values() if i.storage_key == t.storage_key), None)
    made = _Made(cls, t.requires_grad, layout)
    source = CallSource(made, base.source if base is not None else ConstantSource(None))
    with _disable_current_modes():
        real = made(base.real if base is not None else None)
    cap.inputs[id(t)] = Input(t, real, source, "parameter" if cls is nn.Parameter else "input")
    cap.keep[id(made)], cap.keep[id(t)] = made, t
    rec.nodes.pop(id(t), None)
    if cls is nn.Parameter:
        t._is_param = True  # what isinstance asks of fakes
    if base is None:
        _fill(rec, t, node)
        others = {id(h) for h in rec.held if isinstance(h, FakeTensor) and h.storage_key == t.storage_key and h is not t}
        cap.adopted[t.storage_key] = (others, cap.step)


def _fill(rec: Recorder, t: Any, node: fx.Node) -> None:
    """The leaf gets the value of the node."""
    grad = torch.is_grad_enabled()
    if grad:
        rec.emit(torch._C._set_grad_enabled, (False,), {}, None)
    fill = rec.graph.create_node("call_method", "copy_", (rec.node_of(t), node), {})
    fill.meta.update(val=t, stack=node.meta["stack"])
    rec.step_of[fill] = rec.cap.step
    rec.written(t)
    if grad:
        rec.emit(torch._C._set_grad_enabled, (True,), {}, None)


def refuse_adopted(cap: Any, t: Any) -> None:
    """Memory that a leaf took over is looked at by another tensor: the leaf is made by eager."""
    others, step = cap.adopted[t.storage_key]
    if id(t) in others:
        why = refusal("tensor-class", "a leaf made in the compiled function whose memory is seen by another tensor", saw=cap.describe(t))
        why.where = cap.where()
        raise RestartCapture(step, why)


# ---- which results are leaves ------------------------------------------------------------------------------------------
def require_fresh_leaves(cap: Any, outputs: list[Any]) -> None:
    """A leaf of the graph that the outside sees, or differentiates with respect to, must be made outside: capture again."""
    if not cap.recorder.leaves:
        return
    seen: set[fx.Node] = set()
    stack = [cap.recorder.node_of(v) for v in outputs if isinstance(v, torch.Tensor) and v.requires_grad]
    while stack:
        n = stack.pop()
        if n in cap.recorder.leaves:
            raise FreshLeaves
        if n not in seen:
            seen.add(n)
            stack += [m for m in n.all_input_nodes if any(v.requires_grad for v in _tensors(m.meta.get("val")))]


def _tensors(v: Any) -> Iterator[torch.Tensor]:
    for x in v if isinstance(v, (tuple, list)) else (v,):
        if isinstance(x, torch.Tensor):
            yield x


@function_rule(torch.Tensor.requires_grad_)
def requires_grad_(rec: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    """Of an input: a backend differentiates with respect to those that require gradients when the graph starts."""
    t, wanted = (*args, *kwargs.values(), True)[:2]
    inp = rec.cap.inputs.get(id(t))
    if inp is not None and wanted == t.requires_grad:
        return t
    if inp is not None and wanted and not inp.real.requires_grad:
        unsupported("tensor-attribute-write", "gradients turned on for an input", saw=rec.cap.describe(t), hint="call requires_grad_() before the compiled function")
    if inp is None:
        return rec.run(func, args, kwargs)
    if id(t) in rec.cap.assigned:
        unsupported("tensor-attribute-write", "requires_grad_() of a tensor whose data was assigned")
    with torch._C.DisableTorchFunction():
        t.requires_grad_(wanted)
        detached = t.detach()
    rec.cap.frozen[id(t)] = t
    rec.nodes.pop(id(t), None)
    if not wanted:  # the graph goes on from an alias that is cut off
        rec.nodes[id(t)] = rec.emit(torch.Tensor.detach, (t,), {}, detached)
    return t


# ---- memory of inputs ----------------------------------------------------------------------------------------------------
def assign_data(rec: Recorder, t: Any, value: Any) -> None:
    """`t.data = value`: the input gets the memory of the value after the graph, which goes on from the value."""
    cap = rec.cap
    (value,), _ = cap.lift_arguments((value,), {})
    alike = (t.shape, t.stride(), t.storage_offset(), t.dtype, t.device) == (value.shape, value.stride(), value.storage_offset(), value.dtype, value.device)
    if id(t) not in cap.inputs or not alike or t.storage_key in cap.shown or rec.scope is not None or id(t) in cap.hooked or id(t) in cap.frozen:
        unsupported("tensor-attribute-write", "assigning Tensor.data", hint="use in-place methods such as copy_")
    with torch._C.DisableTorchFunction():
        detached = value.detach()
    node = rec.emit(torch.Tensor.detach, (value,), {}, detached)
    rec.nodes[id(t)] = rec.nodes[id(detached)] = node
    rec.held.append(detached)
    t.storage_key = value.storage_key
    cap.assigned[id(t)] = (t, detached)


def refuse_assigned(cap: Any, node: fx.Node, args: Any) -> None:
    """The graph knows such an input as a value, which is no leaf."""
    for a in args:
        if isinstance(a, (tuple, list)):
            refuse_assigned(cap, node, a)
        elif id(a) in cap.assigned and a.requires_grad and torch.is_grad_enabled() and any(v.requires_grad for v in _tensors(node.meta["val"])):
            unsupported("tensor-attribute-write", "gradients of a tensor whose data the compiled function assigned", saw=cap.describe(a))


def emit_inputs(cap: Any, cg: Any) -> list[str]:
    """Lines that leave memory and gradients of inputs as the program did. For the backend the inputs are again as the graph finds them."""
    lines = [f"{cg.value(t)}.data = {cg.value(v)}" for t, v in cap.assigned.values()]
    lines += [f"{cg.value(t)}.requires_grad_(False)" for t in cap.frozen.values() if not t.requires_grad]
    for t in cap.frozen.values():
        t.requires_grad_(cap.inputs[id(t)].real.requires_grad)
    return lines


# ---- parameters ----------------------------------------------------------------------------------------------------------
@rule(nn.Parameter)
def parameter(cap: Any, args: Any, kwargs: Any) -> Any:
    """`nn.Parameter(data, requires_grad)`."""
    data, requires_grad = _parameter_arguments(*args, **kwargs)
    if data is None:
        data = native(torch.empty, 0)
    if not isinstance(data, torch.Tensor) or cap.recorder.scope is not None:
        unsupported("tensor-class", "a parameter of this kind", saw=type(data).__name__)
    rec = cap.recorder
    detached = rec.run(torch.Tensor.detach, (data,), {})
    node = rec.nodes[id(detached)]
    with torch._C.DisableTorchFunction():
        native(detached.requires_grad_, requires_grad)
    adopt(rec, detached, node, nn.Parameter)
    return detached


def _parameter_arguments(data: Any = None, requires_grad: bool = True) -> tuple[Any, bool]:
    return data, requires_grad


@rule(nn.Buffer)
def buffer(cap: Any, args: Any, kwargs: Any) -> Any:
    return cap.call(nn.Buffer.__new__, (nn.Buffer, *args), kwargs)


def copy_leaf(cap: Any, t: Any) -> Any:
    """`copy.deepcopy` of a tensor."""
    if not t.is_leaf:
        unsupported("copy", "copy.deepcopy of a tensor that is no leaf")
    rec, cls = cap.recorder, cap.type_of(t)
    copied = rec.run(torch.Tensor.clone, (rec.run(torch.Tensor.detach, (t,), {}),), {"memory_format": torch.preserve_format})
    if cls is nn.Parameter:
        return parameter(cap, (copied, t.requires_grad), {})
    if cls is not torch.Tensor or copied.stride() != t.stride() or copied.storage_offset() != t.storage_offset():
        unsupported("copy", "copy.deepcopy of a tensor of this kind", saw=cap.describe(t))
    if t.requires_grad:
        copied = rec.run(torch.Tensor.requires_grad_, (copied,), {})
    grad = native(getattr, t, "grad")
    if grad is not None:
        native(setattr, copied, "grad", copy_leaf(cap, grad))
    return copied

