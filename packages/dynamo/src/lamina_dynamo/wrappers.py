"""Tensor subclasses with `__torch_dispatch__` during capture: taken apart where they enter the graph, put together where they leave it.

Between: a wrapper subclass that knows `__tensor_flatten__` and `__tensor_unflatten__` -> ATen calls on its inner tensors in the graph.
Keeps:   the capture works on a wrapper of the program's own class around fakes; every operator on it runs the class's `__torch_dispatch__`
         natively, below autograd. Without gradients, what that calls on inner tensors is recorded. With gradients, the call itself is, on a
         wrapper that the graph makes: autograd works on wrappers, not within them, and a backend takes them apart below it. Memory inside such
         wrappers is not written afterwards: the graph could not tell whether the write shows.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from lamina_dynshape import FakeTensor, is_wrapper_class
from lamina_primops.wrappers import inner_of, wrap_of
from torch.utils._python_dispatch import TorchDispatchMode

from .control import native, unsupported
from .guards import GuardKind, TensorSpec
from .lift import is_torch_owned
from .source import AttrSource, CallSource, ConstantSource, Source, instance_attr

__all__ = ["again", "can_be_taken_apart", "emit_versions", "inner_node", "lift_wrapper", "made_wrapper", "memory_of", "note_result", "parts_of", "put_wrappers_last", "refuse_sealed", "run_on_wrappers", "wrapper_node"]

_T = torch.Tensor
_GETTER = type(_T.shape.__get__)  # method-wrapper
_VIEWS = frozenset({"T", "mT", "H", "mH", "real", "imag", "data"})
_STATE = frozenset({_T.requires_grad_, _T.detach_, torch.detach_, _T.register_hook, _T.register_post_accumulate_grad_hook, _T.retain_grad, _T.backward})


def can_be_taken_apart(cls: type) -> bool:
    """Whether the class is a wrapper that knows how, of the program's: PyTorch's own ones communicate, or are ragged. Those that it tests with are like a program's."""
    return is_wrapper_class(cls) and hasattr(cls, "__tensor_flatten__") and hasattr(cls, "__tensor_unflatten__") and (not is_torch_owned(cls.__module__) or cls.__module__.startswith("torch.testing."))


def parts_of(t: Any) -> tuple[list[str], Any, list[Any]]:
    """(names of the inner tensors, what else the class needs to know, the inner tensors)."""
    try:
        with torch._C.DisableTorchFunction():
            names, context = t.__tensor_flatten__()
            return names, context, [getattr(t, name) for name in names]
    except Exception as error:  # in its own constructor, say
        unsupported("tensor-subclass", "a tensor subclass with __torch_dispatch__ that cannot be taken apart", saw=f"{type(error).__name__}: {error}")


def _inside(t: Any) -> list[Any]:
    """The plain tensors inside, or the plain tensor itself."""
    return [t] if isinstance(t, FakeTensor) or not is_wrapper_class(type(t)) else [x for inner in parts_of(t)[2] for x in _inside(inner)]


def memory_of(t: Any) -> set[int]:
    """Storage keys of a tensor."""
    return {x.storage_key for x in _inside(t)}


def _context(t: Any) -> Any:
    return parts_of(t)[1]


def lift_wrapper(cap: Any, t: torch.Tensor, source: Source) -> Any:
    """A wrapper around the fakes of the inner tensors; guarded by class, geometry and context."""
    from .session import Input

    cls = type(t)
    names, context, tensors = parts_of(t)
    policy, cap.policy = cap.policy, cap.policy.static()  # the wrapper's own sizes are guarded as they are
    if type(source) is not ConstantSource:
        cap.guards.add(source, GuardKind.TENSOR, TensorSpec.of(t))
        cap.lift(context, CallSource(_context, source))
    inner = {name: cap.lift(x, (instance_attr if name in t.__dict__ else AttrSource)(source, name)) for name, x in zip(names, tensors, strict=True)}
    cap.policy = policy
    make = lambda: cls.__tensor_unflatten__(inner, context, t.shape, t.stride())  # type: ignore[attr-defined]
    try:
        out = _wrapped(cap, make().requires_grad_(t.requires_grad) if t.is_leaf else cap.mode.with_history(make))
    except RuntimeError as error:  # a view that autograd gave up
        unsupported("tensor-subclass", "a tensor subclass with __torch_dispatch__ that autograd cannot tell about", saw=str(error).partition(".")[0])
    cap.lifted[id(t)] = out
    cap.keep[id(t)] = t
    cap.inputs[id(out)] = Input(out, t, source, "parameter" if isinstance(t, torch.nn.Parameter) else "input")
    cap.wrapper_versions[id(out)] = out._version
    cap.remember(out, source)
    return out


def _wrapped(cap: Any, t: Any) -> Any:
    """Note a wrapper that the capture works on."""
    cap.class_of[id(t)] = type(t)
    cap.wrappers[id(t)] = t
    return t


def made_wrapper(cap: Any, args: Any, kwargs: Any) -> Any:
    """`Tensor._make_wrapper_subclass(cls, ...)`."""
    if kwargs.get("requires_grad") or not can_be_taken_apart(args[0]):
        unsupported("tensor-subclass", "making a tensor subclass with __torch_dispatch__ that requires gradients, or cannot be taken apart", saw=args[0].__qualname__)
    with torch._C.DisableTorchFunction():
        made = _wrapped(cap, native(torch.Tensor._make_wrapper_subclass, *args, **kwargs))
    cap.created[id(made)] = (made, cap.step)
    return made


def run_on_wrappers(rec: Any, func: Any, args: Any, kwargs: Any, rule: Any) -> Any:
    """A torch call with wrappers among its arguments. `rule`: what the recorder does for plain tensors in place of the call."""
    if rec.scope is not None:
        unsupported("tensor-subclass", "a tensor subclass with __torch_dispatch__ under a transform")
    if type(func) is _GETTER and func.__name__ == "__get__" and func.__self__.__name__ not in _VIEWS:
        return rule(rec, func, args, kwargs)
    if type(func) is _GETTER and func.__name__ == "__set__" or func in _STATE:
        return _change_state(rec, func, args, kwargs, rule)
    tensors = [x for a in (*args, *kwargs.values()) for x in (a if type(a) in (tuple, list) else (a,)) if isinstance(x, torch.Tensor)]
    wrappers = [t for t in tensors if id(t) in rec.cap.wrappers]
    before = [parts_of(t)[1:] for t in wrappers]
    if any(id(t) in rec.cap.wrapper_results for t in wrappers) or torch.is_grad_enabled() and any(_takes_gradients(t) for t in tensors):
        out = _run_whole(rec, func, args, kwargs, tensors)
    else:
        out = _run_inside(rec, func, args, kwargs)
    for t, (context, inner) in zip(wrappers, before, strict=True):
        now = parts_of(t)[1:]
        if not (now[0] is context or now[0] == context) or any(x is not y for x, y in zip(now[1], inner, strict=True)):
            unsupported("tensor-subclass", "an operator that gives a tensor subclass other inner tensors", saw=getattr(func, "__name__", str(func)))
    return out


def _run_inside(rec: Any, func: Any, args: Any, kwargs: Any) -> Any:
    """A call that autograd does not see, as what the class calls on inner tensors."""
    if rec.cap.has_outside_tensor(args):
        unsupported("tensor-subclass", "a tensor subclass with __torch_dispatch__ next to constants")
    with _Inner(rec), torch._C.DisableTorchFunctionSubclass():
        out = func(*args, **kwargs)
    several = isinstance(out, (tuple, list))
    for i, x in enumerate(out if several else (out,)):
        if isinstance(x, torch.Tensor) and not isinstance(x, FakeTensor):
            _check_result(rec, x)
            with torch._C.DisableTorchFunction():
                if x._is_view():
                    rec.cap.view_calls[id(x)] = func, torch.is_grad_enabled(), i if several else None, args, kwargs
    return out


def again(func: Any, grad_mode: bool, index: int | None, args: Any, kwargs: Any) -> Any:
    """A view of a wrapper, made as the program made it: autograd knows what it is a view of."""
    with torch._C.DisableTorchFunction(), torch.set_grad_enabled(grad_mode):
        out = func(*args, **kwargs)
        return out if index is None else out[index]


def _change_state(rec: Any, func: Any, args: Any, kwargs: Any, rule: Any) -> Any:
    """What autograd keeps with a tensor: `.grad` of an input, and what is so already."""
    t, wanted = (*args, *kwargs.values(), True)[:2]
    name = func.__self__.__name__ if type(func) is _GETTER else func.__name__
    if name == "grad" and id(t) in rec.cap.inputs:
        return rule(rec, func, args, kwargs)
    with torch._C.DisableTorchFunction():
        if name.rstrip("_") == "requires_grad" and id(t) in rec.cap.inputs and t.requires_grad == wanted:
            return t
    unsupported("tensor-subclass", "a change to what autograd keeps with a tensor subclass with __torch_dispatch__", saw=name)


def _takes_gradients(t: Any) -> bool:
    """Whether autograd looks at a tensor, or would look at what is inside."""
    with torch._C.DisableTorchFunction():
        return t.requires_grad or any(x.requires_grad for x in _inside(t))


def _check_result(rec: Any, t: Any) -> None:
    if not can_be_taken_apart(type(t)):
        unsupported("tensor-subclass", "a result of __torch_dispatch__ that is no plain tensor", saw=type(t).__qualname__)
    _wrapped(rec.cap, t)


# ---- calls as the program makes them ---------------------------------------------------------------------------------------
def _run_whole(rec: Any, func: Any, args: Any, kwargs: Any, tensors: list[Any]) -> Any:
    """A call that autograd sees, on the wrappers themselves. It may write memory that only results of such calls look at."""
    cap = rec.cap
    cap.plain_memory.update(t.storage_key for t in tensors if isinstance(t, FakeTensor))
    with _Watch() as watch:
        out = rec.run(func, args, kwargs)
    if watch.written & (cap.plain_memory | {inp.storage_key for inp in cap.inputs.values()}):
        unsupported("tensor-subclass", "a tensor subclass with __torch_dispatch__ that is written in place", saw=getattr(func, "__name__", str(func)))
    return out


def wrapper_node(rec: Any, t: Any) -> Any:
    """The node that yields a wrapper: of an input, a placeholder beside those of the tensors inside; else one that makes it of those."""
    inp = rec.cap.inputs.get(id(t))
    _seal(rec.cap, t, is_plain=True)
    was_written = memory_of(t) & rec.mutated
    if was_written and inp is not None and t.requires_grad:
        unsupported("tensor-subclass", "gradients of a tensor subclass with __torch_dispatch__ that was written in place", saw=type(t).__qualname__)
    view = rec.cap.view_calls.get(id(t))
    if view is not None and view[1] == torch.is_grad_enabled():
        return _view_node(rec, t, *view)
    if inp is not None and not was_written:
        for x in _inside(t):
            rec.node_of(x)
        inp.node = rec.nodes[id(t)] = rec.placeholder(type(t).__name__.lower(), t, inp.source.name(), inp.role)
        return inp.node
    names, context, inner = parts_of(t)
    if any(isinstance(x, (torch.Tensor, torch.SymInt, torch.SymFloat)) for x in torch.utils._pytree.tree_leaves(context)):
        unsupported("tensor-subclass", "gradients through a tensor subclass whose context holds tensors or sizes", saw=type(t).__qualname__)
    with torch._C.DisableTorchFunction():
        size, stride = tuple(t.shape), tuple(t.stride())
    node = rec.nodes[id(t)] = rec.emit(wrap_of(type(t), tuple(names), context), (size, stride, *inner), {}, t)
    node.meta["allowed"] = True
    return node


def _view_node(rec: Any, t: Any, func: Any, grad_mode: bool, index: int | None, args: Any, kwargs: Any) -> Any:
    """A view that was taken apart, of the wrapper that it is a view of."""
    node = rec.emit(func, args, kwargs, t)
    if index is not None:
        node.meta["val"] = (t,)
        node = rec.graph.create_node("call_function", operator.getitem, (node, index), {})
        node.meta.update(val=t, stack=rec.cap.user_stack())
    rec.nodes[id(t)] = node
    return node


def note_result(rec: Any, t: Any) -> None:
    """A wrapper that a node yields."""
    _check_result(rec, t)
    _seal(rec.cap, t)
    rec.cap.wrapper_results.add(id(t))
    names, _, inner = parts_of(t)
    for name, x in zip(names, inner, strict=True):
        if id(x) in rec.nodes or id(x) in rec.cap.inputs or id(x) in rec.cap.wrappers:
            continue
        rec.cap.inner[id(x)] = t, name, x
        if not isinstance(x, FakeTensor):
            note_result(rec, x)


def inner_node(rec: Any, x: Any) -> Any:
    """The node that yields a tensor inside of a result, as it is now; its memory is not written any more."""
    t, name, _ = rec.cap.inner[id(x)]
    rec.cap.plain_memory |= memory_of(x)
    node = rec.nodes[id(x)] = rec.emit(inner_of, (t, name), {}, x)
    node.meta["allowed"] = True
    return node


def _seal(cap: Any, t: Any, *, is_plain: bool = False) -> None:
    """The graph looks at this memory through the wrapper. `is_plain`: and at what is inside apart from it."""
    keys = memory_of(t)
    cap.sealed |= keys
    if is_plain:
        cap.plain_memory |= keys


def put_wrappers_last(cap: Any) -> None:
    """Among the placeholders."""
    for inp in cap.inputs.values():
        if inp.node is not None and id(inp.fake) in cap.wrappers and inp.node is not cap.recorder.last_placeholder:
            cap.recorder.last_placeholder.append(inp.node)
            cap.recorder.last_placeholder = inp.node


def refuse_sealed(cap: Any, t: Any) -> None:
    """A write to memory that the graph looks at through a wrapper."""
    if t.storage_key in cap.sealed:
        unsupported("tensor-subclass", "a write to an inner tensor of a tensor subclass with __torch_dispatch__ that takes part in gradients", saw=cap.describe(t))


def emit_versions(cap: Any, cg: Any) -> list[str]:
    """Lines that count the writes to wrappers from outside, whose inner tensors the graph wrote."""
    with torch._C.DisableTorchFunction():
        written = [cap.wrappers[k] for k, version in cap.wrapper_versions.items() if cap.wrappers[k]._version != version]
    return [f"{cg.constant(torch.autograd.graph.increment_version)}({cg.value(t)})" for t in written]


class _Below(TorchDispatchMode):
    """What a class's `__torch_dispatch__` calls on plain tensors; calls on wrappers are the class's own."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return NotImplemented if any(map(is_wrapper_class, types)) else self.called(func, args, kwargs or {})

    def called(self, func: Any, args: Any, kwargs: Any) -> Any:
        raise NotImplementedError


class _Watch(_Below):
    """Notes what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: set[int] = set()

    def called(self, func: Any, args: Any, kwargs: Any) -> Any:
        if func._schema.is_mutable:
            for a, value in zip(func._schema.arguments, [*args, *[None] * len(func._schema.arguments)]):
                if a.alias_info is not None and a.alias_info.is_write:
                    value = kwargs.get(a.name, value)
                    self.written.update(x.storage_key for x in (value if isinstance(value, (list, tuple)) else (value,)) if isinstance(x, FakeTensor))
        return func(*args, **kwargs)


class _Inner(_Below):
    """Records the calls."""

    def __init__(self, rec: Any) -> None:
        super().__init__()
        self.rec = rec

    def called(self, func: Any, args: Any, kwargs: Any) -> Any:
        named = func
        if func._schema.is_mutable:
            named = getattr(_T, func._schema.name.removeprefix("aten::"), None)
            if named is None or not named.__name__.endswith("_"):
                unsupported("tensor-subclass", "a tensor subclass with __torch_dispatch__ that is written in place", saw=str(func))
        return self.rec.note(named, args, kwargs, func(*args, **kwargs))
