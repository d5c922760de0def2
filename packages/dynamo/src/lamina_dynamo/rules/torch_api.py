"""Rules for PyTorch: questions about compiling, global state, what needs a value at capture time."""

from __future__ import annotations

import contextlib
import functools
import importlib
import itertools
import math
import operator
from collections.abc import Iterator
from typing import Any

import torch
import torch.utils.checkpoint

from lamina_dynshape.fake_tensor import FakeTensor
from lamina_primops.regions import Region

from ..calls import rule
from ..control import native, unsupported
from ..guards import GuardKind
from ..recorder import Recorder, function_rule
from ..source import CallSource
from .numpy_api import from_array

# ---- "are we compiling?" -----------------------------------------------------------------------------------------------
_TRUE = ("torch.compiler.is_compiling", "torch.compiler.is_dynamo_compiling", "torch._utils.is_compiling")
_FALSE = ("torch.compiler.is_exporting", "torch.jit.is_scripting", "torch.jit.is_tracing", "torch._jit_internal.is_scripting", "torch.fx._symbolic_trace.is_fx_tracing", "torch.fx._symbolic_trace.is_fx_symbolic_tracing")


def resolve(name: str) -> Any:
    """The object of a dotted name, None where this torch lacks it. Imports nothing beyond the torch package itself."""
    obj: Any = torch
    for part in name.split(".")[1:]:
        obj = getattr(obj, part, None)
        if obj is None:
            return None
    return obj


def _constants() -> None:
    importlib.import_module("torch.compiler")
    for names, answer in ((_TRUE, _is_compiling), (_FALSE, lambda cap, args, kwargs: False)):
        for name in names:
            fn = resolve(name)
            if fn is not None:
                rule(fn)(answer)


def _is_compiling(cap: Any, args: Any, kwargs: Any) -> bool:
    """Not for `Module.__call__`, which would then leave out the hooks that are to run after an exception."""
    return cap.frame.code.co_filename != torch.nn.modules.module.__file__ and cap.asked_compiling()


_constants()


# ---- functions that PyTorch hides from compilers ------------------------------------------------------------------------
_WRAPPER_FILE = torch._compile.__file__


def unwrap_disabled(fn: Any) -> Any:
    """The function behind torch's lazy `_disable_dynamo` wrapper, which must not run (it imports the reference stack)."""
    if fn.__code__.co_filename == _WRAPPER_FILE and fn.__closure__:
        for name, cell in zip(fn.__code__.co_freevars, fn.__closure__):
            if name == "fn":
                return cell.cell_contents
    return None


@rule(torch.autograd.profiler.record_function, torch.autograd.profiler.emit_nvtx)
def no_context(cap: Any, args: Any, kwargs: Any) -> Any:
    """Contexts that change nothing of what is computed."""
    return contextlib.nullcontext()


# ---- values of tensors ---------------------------------------------------------------------------------------------------
def _refuse(code: str, what: str, hint: str) -> Any:
    def run(rec: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
        t = next((a for a in args if isinstance(a, torch.Tensor)), None)
        unsupported(code, what, saw=rec.cap.describe(t) if t is not None else "", hint=hint)

    return run


_T = torch.Tensor
function_rule(_T.data_ptr, _T.untyped_storage, _T.__array__, _T.storage)(_refuse("tensor-memory", "reading a tensor's memory", "move it outside of the compiled function"))
function_rule(_T.tolist)(_refuse("data-dependent-value", "the values of a tensor as Python numbers", "keep the computation in tensors"))
function_rule(_T.__repr__, _T.__str__, _T.__format__)(_refuse("tensor-text", "the text of a tensor's value", "format outside of the compiled function"))
_refuse_storage = _refuse("tensor-storage", "changing a tensor's storage", "move it outside of the compiled function")
function_rule(_T.share_memory_, _T.pin_memory, _T.set_, _T.resize_as_)(_refuse_storage)


@function_rule(_T.resize_)
def resize(rec: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    """To no more elements it is another shape of the same memory, where the program made that; memory beyond holds nothing that a graph could name."""
    t, *size = args
    size = size[0] if size and isinstance(size[0], (tuple, list)) else size
    own = isinstance(t, FakeTensor) and all(t.storage_key != inp.storage_key for inp in rec.cap.inputs.values())
    if not own or kwargs or t._base is not None or not t.is_contiguous() or not all(type(n) is int for n in (*size, *t.shape)) or math.prod(size) > t.numel():
        return _refuse_storage(rec, func, args, kwargs)
    return rec.run(func, args, kwargs)


@function_rule(_T.__bool__, _T.is_nonzero)
def tensor_bool(rec: Recorder, func: Any, args: Any, kwargs: Any) -> bool:
    return rec.cap.tensor_truth(args[0])


@function_rule(_T.item, _T.__int__, _T.__float__, _T.__index__, _T.__complex__)
def tensor_item(rec: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    known = rec.number(args[0])
    if known is not None:
        kinds = {"__int__": torch.sym_int, "__float__": torch.sym_float, "__index__": torch.sym_int, "__complex__": complex}
        return kinds.get(func.__name__, lambda x: x)(known)
    t = rec.run(_T.to, (args[0], torch.int64), {}) if func is _T.__int__ and args[0].is_floating_point() and args[0].numel() == 1 else args[0]
    return _unbacked_number(rec, func, t)


def _unbacked_number(rec: Recorder, func: Any, t: torch.Tensor) -> Any:
    """The value as a symbolic number that the graph yields."""
    if t.numel() != 1:
        with torch._C.DisableTorchFunctionSubclass():
            return torch.empty(t.numel()).item()  # raises eager's error
    if rec.scope is not None or (t.dtype is torch.bool and func is not _T.item) or t.is_complex() or not rec.cap.mode.has_unbacked():
        unsupported("data-dependent-value", "the value of a tensor as a Python number", saw=rec.cap.describe(t), hint="keep the computation in tensors")
    value = rec.run(_T.item, (t,), {})
    return {"__int__": torch.sym_int, "__float__": torch.sym_float}.get(func.__name__, lambda x: x)(value)


@rule(torch._check, torch._check_is_size)
def check(cap: Any, args: Any, kwargs: Any) -> None:
    """A condition on what only the running program knows is a check in the graph, and known to hold from here on."""
    condition, message, *_ = (*args, kwargs.get("message"))
    if isinstance(condition, torch.SymInt):  # _check_is_size
        limit = kwargs.get("max")
        condition = condition >= 0 if limit is None else torch.sym_and(condition >= 0, condition <= limit)
    if not isinstance(condition, torch.SymBool) or condition.node.has_hint():
        native(torch._check, bool(native(operator.truth, condition)), message)
        return
    text = native(lambda: message()) if callable(message) and not cap.any_tensor(getattr(message, "__defaults__", None) or (), {}) else "Expected cond to be True, but got False."
    cap.assert_true(condition, str(text))


def _check_of_another_kind(fn: Any) -> None:
    """As `torch._check` with another exception, which no node raises: the original runs where the check fails, and raises it."""

    @rule(fn)
    def run(cap: Any, args: Any, kwargs: Any) -> None:
        condition, message, *_ = (*args, kwargs.get("message"))
        if not isinstance(condition, torch.SymBool) or condition.node.has_hint():
            native(fn, bool(native(operator.truth, condition)), message)
            return
        native(condition.node.expect_true)
        cap.rely_on_asserts()


for _fn in (torch._check_index, torch._check_value, torch._check_type, torch._check_not_implemented):
    _check_of_another_kind(_fn)


@rule(torch._check_tensor_all)
def check_tensor_all(cap: Any, args: Any, kwargs: Any) -> None:
    """A condition on a tensor's values: where it fails, the original runs, and raises."""
    condition = args[0] if args else kwargs.get("cond")
    if not isinstance(condition, torch.Tensor) or condition.dtype is not torch.bool or not cap.can_check:
        unsupported("data-dependent-branch", "a check of a tensor's values", saw=cap.describe(condition))
    cap.check(cap.call(torch.all, (condition,)), True)


@function_rule(_T.__iter__)
def tensor_iter(rec: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    t = args[0]
    if t.dim() == 0:
        raise TypeError("iteration over a 0-d tensor")
    return iter(rec.run(torch.unbind, (t, 0), {}))


@function_rule(_T.__getitem__, _T.__setitem__)
def tensor_index(rec: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    """Bounds of slices that are tensors must be known; an integer in a tensor selects, as its value does."""
    index = args[1]
    whole = type(index) is not tuple
    parts = (_plain_index(rec, index),) if whole else tuple([_plain_index(rec, i) for i in index])
    if any(type(i) is torch.SymInt for i in parts):
        target, parts = _select_symbols(rec, args[0], parts)
        if func is _T.__setitem__:
            return rec.run(func, (target, parts or ..., *args[2:]), kwargs)
        return rec.run(func, (target, parts), kwargs) if parts else target
    return rec.run(func, (args[0], parts[0] if whole else parts, *args[2:]), kwargs)


def _select_symbols(rec: Recorder, t: Any, parts: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """`t` with the symbolic integers among its indices selected, and the other indices. C++ takes such numbers in no index."""
    dim = 0
    for n, i in enumerate(parts):
        if i is ...:
            dim = t.dim() - sum(map(_dims_taken, parts[n + 1 :]))
        elif type(i) is torch.SymInt:
            t = rec.run(torch.select, (t, dim, i), {})
        else:
            dim += _dims_taken(i)
    return t, tuple([i for i in parts if type(i) is not torch.SymInt])


def _dims_taken(i: Any) -> int:
    """How many dimensions of the tensor an index is for."""
    if i is None or isinstance(i, bool):
        return 0
    if isinstance(i, _T) and i.dtype in (torch.bool, torch.uint8):
        return i.dim()
    return 1


def _plain_index(rec: Recorder, i: Any) -> Any:
    if type(i) is slice:
        return _plain_slice(rec, i)
    if isinstance(i, _T) and i.dim() == 0 and i.dtype in _SELECTING and rec.number(i) is None and rec.scope is None and rec.cap.mode.has_unbacked():
        return rec.run(_T.item, (i,), {})
    return i


_SELECTING = (torch.int64, torch.int32, torch.int16, torch.int8)


@function_rule(torch.add, torch.sub, torch.mul, torch.div, torch.true_divide, torch.floor_divide, torch.remainder)
def arithmetic(rec: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    """Numbers alone give a 0-d tensor: they become tensors first, as in C++."""
    if all(type(a) in (int, float, torch.SymInt, torch.SymFloat) for a in args[:2]) and len(args) >= 2:
        args = (*[_from_symbols(rec, a, {}) for a in args[:2]], *args[2:])
    return rec.run(func, args, kwargs)


def _plain_slice(rec: Recorder, index: Any) -> Any:
    if type(index) is not slice:
        return index
    return slice(*[tensor_item(rec, _T.__index__, (b,), {}) if isinstance(b, torch.Tensor) else b for b in (index.start, index.stop, index.step)])


@function_rule(torch.narrow, _T.narrow)
def narrow(rec: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    return _narrow(rec, func, *args, **kwargs)


def _narrow(rec: Recorder, func: Any, input: Any, dim: Any, start: Any, length: Any) -> Any:
    """A start in a tensor is a number that the graph yields; counted from the end where it is negative, as in C++."""
    plain = not isinstance(start, _T) or start.dim() or start.dtype not in _SELECTING
    if plain or length == 0 or type(dim) is not int or not -input.dim() <= dim < input.dim():
        return rec.run(func, (input, dim, start, length), {})
    size, at = input.shape[dim], tensor_item(rec, _T.item, (start,), {})
    for inside in (-size <= at, at < size, at % size + length <= size):
        check(rec.cap, (inside,), {"message": "start or length out of range"})
    return rec.run(torch.narrow, (input, dim, at % size, length), {})


@function_rule(torch.tensor_split, _T.tensor_split)
def tensor_split(rec: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    return _tensor_split(rec, func, *args, **kwargs)


def _tensor_split(rec: Recorder, func: Any, input: Any, indices_or_sections: Any = None, dim: int = 0, **named: Any) -> Any:
    """Places to cut at that are in a tensor are numbers that the graph yields. How many parts there are must be known."""
    (places,) = named.values() or (indices_or_sections,)
    if not isinstance(places, _T) or places.dim() > 1 or places.dtype is not torch.int64 or not -input.dim() <= dim < input.dim():
        return rec.run(func, (input, places, dim), {})
    if places.dim() == 0:
        sections = rec.number(places)
        if sections is None:
            unsupported("data-dependent-value", "the value of a tensor as a Python number", saw=rec.cap.describe(places), hint="pass the number of sections")
        return rec.run(torch.tensor_split, (input, sections, dim), {})
    cuts = [None, *(tensor_item(rec, _T.item, (place,), {}) for place in tensor_iter(rec, _T.__iter__, (places,), {})), None]
    before = (slice(None),) * (dim % input.dim())
    return tuple(rec.run(_T.__getitem__, (input, (*before, slice(a, b))), {}) for a, b in itertools.pairwise(cuts))


@function_rule(torch.tensor, torch.as_tensor)
def from_data(rec: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    """Symbolic numbers are stacked; a NumPy array is a constant of the capture, or was made from a tensor."""
    if args and hasattr(args[0], "__array_ufunc__"):
        return from_array(rec, func, *args, **kwargs)
    data, options = args[0] if args else None, {k: kwargs[k] for k in ("dtype", "device") if kwargs.get(k) is not None}
    if len(args) == 1 and _holds_symbols(data) and not kwargs.get("requires_grad"):
        return _from_symbols(rec, data, options)
    if type(data) in (list, tuple) and _are_scalars(data, options.get("dtype")) and not kwargs.get("requires_grad"):
        return _from_scalars(rec, data, options)
    return rec.run(func, args, kwargs)


def _holds_symbols(data: Any) -> bool:
    if type(data) in (list, tuple):
        return any(map(_holds_symbols, data)) and not any(isinstance(d, torch.Tensor) for d in data)
    return type(data) in (torch.SymInt, torch.SymFloat)


def _numbers(data: Any) -> Iterator[Any]:
    if type(data) in (list, tuple):
        for d in data:
            yield from _numbers(d)
    else:
        yield data


def _from_symbols(rec: Recorder, data: Any, options: dict[str, Any]) -> Any:
    """`torch.tensor` of symbolic numbers: a scalar tensor of each, stacked; in C++ they would become constants."""
    if "dtype" not in options:
        real = any(isinstance(n, (float, torch.SymFloat)) for n in _numbers(data))
        options = {**options, "dtype": torch.get_default_dtype() if real else torch.int64}
    if type(data) not in (list, tuple):
        return rec.run(torch.scalar_tensor, (data,), options)
    return rec.run(torch.stack, ([_from_symbols(rec, d, options) for d in data],), {})


def _are_scalars(data: Any, dtype: Any) -> bool:
    """Whether these are scalar tensors and numbers. Integers are checked for their range in eager: none may need it."""
    tensors = [d for d in data if isinstance(d, torch.Tensor)]
    fit = dtype is None or dtype.is_floating_point or all(torch.promote_types(t.dtype, dtype) == dtype for t in tensors)
    return bool(tensors) and fit and all(d.dim() == 0 if isinstance(d, torch.Tensor) else type(d) in (int, float, bool, torch.SymInt, torch.SymFloat) for d in data)


def _from_scalars(rec: Recorder, data: Any, options: dict[str, Any]) -> Any:
    """`torch.tensor` of scalar tensors and numbers: their values, stacked, without history."""
    own = {float: torch.get_default_dtype(), torch.SymFloat: torch.get_default_dtype(), bool: torch.bool}
    dtypes = [d.dtype if isinstance(d, torch.Tensor) else own.get(type(d), torch.int64) for d in data]
    dtype = options.get("dtype") or functools.reduce(torch.promote_types, dtypes)
    device = torch.device(options.get("device") or "cpu")
    values = [rec.run(_T.to, (rec.run(_T.detach, (d,), {}), device, dtype), {}) if isinstance(d, torch.Tensor) else rec.run(torch.scalar_tensor, (d,), {"dtype": dtype, "device": device}) for d in data]
    return rec.run(torch.stack, (values,), {})


@function_rule(torch.nn.functional.one_hot)
def one_hot(rec: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    """A comparison with the number of classes, one more than the largest value where it is not given; eager's range check on the values is a node."""
    index, classes = (*args, kwargs.get("num_classes", -1))[:2] if args else (kwargs["tensor"], kwargs.get("num_classes", -1))
    if index.dtype is torch.int64 and index.numel() and type(classes) is int and classes == -1:
        classes = tensor_item(rec, _T.item, (rec.run(torch.amax, (index,), {}),), {}) + 1
    if index.dtype is not torch.int64 or index.numel() == 0 or (isinstance(classes, int) and classes <= 0):
        return rec.run(func, args, kwargs)
    inside = rec.run(torch.logical_and, (rec.run(torch.ge, (index, 0), {}), rec.run(torch.lt, (index, classes), {})), {})
    rec.emit(torch._assert_async, (rec.run(torch.all, (inside,), {}), "Class values must be non-negative and smaller than num_classes."), {}, None)
    every = rec.run(torch.arange, (classes,), {"device": index.device})
    return rec.run(_T.to, (rec.run(torch.eq, (rec.run(torch.unsqueeze, (index, -1), {}), every), {}), torch.int64), {})


@function_rule(_T.__contains__)
def tensor_contains(rec: Recorder, func: Any, args: Any, kwargs: Any) -> bool:
    unsupported("data-dependent-branch", "data-dependent branch", saw=rec.cap.describe(args[0]), hint="keep the computation in tensors")


_QUESTIONS = ("__len__", "dim", "ndimension", "size", "stride", "is_contiguous", "is_floating_point", "is_complex", "numel", "nelement", "element_size", "get_device", "is_pinned", "has_names", "is_signed", "is_conj", "is_neg", "is_inference", "__hash__", "__dir__", "dense_dim", "sparse_dim", "is_distributed", "is_coalesced", "dim_order", "is_set_to")


@function_rule(*[getattr(_T, name) for name in _QUESTIONS if hasattr(_T, name)], torch.is_floating_point, torch.is_complex, torch.numel)
def tensor_question(rec: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    if func is _T.type and (len(args) > 1 or kwargs):
        return rec.run(func, args, kwargs)
    with torch._C.DisableTorchFunctionSubclass():
        return func(*args, **kwargs)


@function_rule(_T.is_shared)
def is_shared(rec: Recorder, func: Any, args: Any, kwargs: Any) -> bool:
    inp = rec.cap.inputs.get(id(args[0]))
    if inp is None:
        return False
    shared = inp.real.is_shared()
    rec.cap.guards.add(CallSource(_T.is_shared, inp.source), GuardKind.BOOL, shared)
    return shared


# ---- what changes global state, or needs more than a graph ---------------------------------------------------------------
def _refused(code: str, what: str, hint: str, *names: str) -> None:
    def run(cap: Any, args: Any, kwargs: Any) -> Any:
        unsupported(code, what, hint=hint)

    for name in names:
        fn = resolve(name)
        if fn is not None:
            rule(fn)(run)


_refused("global-state", "changing PyTorch's global state", "do it outside of the compiled function", "torch.seed", "torch.initial_seed")
_refused("tensor-hook", "hooks on the tensors that autograd saves", "enter the context outside of the compiled function", "torch._C._autograd._push_saved_tensors_default_hooks", "torch._C._autograd._pop_saved_tensors_default_hooks", "torch._C._autograd._saved_tensors_hooks_disable", "torch._C._autograd._saved_tensors_hooks_enable")
_refused("io", "saving or loading", "do it outside of the compiled function", "torch.save", "torch.load")
_refused("autograd", "taking gradients inside the compiled function", "compile the forward function, and take gradients outside", "torch.func.vjp", "torch.autograd.functional.jacobian", "torch.autograd.functional.hessian", "torch.autograd.functional.vjp", "torch.autograd.functional.jvp")
_refused("functorch", "a functorch transform", "call it outside of the compiled function", "torch.func.linearize", "torch.func.functionalize")
_refused("dispatch-state", "switching PyTorch's dispatcher", "do it outside of the compiled function", "torch._C._DisableTorchDispatch", "torch._C._DisableFuncTorch", "torch._C._DisableAutocast", "torch._C._ExcludeDispatchKeyGuard", "torch._C._IncludeDispatchKeyGuard", "torch._C._ForceDispatchKeyGuard", "torch._C._PreserveDispatchKeyGuard", "torch._C._SetExcludeDispatchKeyGuard", "torch._C._AutoDispatchBelowAutograd", "torch._C._AutoDispatchBelowADInplaceOrView", "torch._C._EnablePythonDispatcher", "torch._C._DisablePythonDispatcher", "torch._C._EnablePreDispatch")


@rule(getattr(torch.autograd.Function.apply, "__func__", torch.autograd.Function.apply))
def function_apply(cap: Any, args: Any, kwargs: Any) -> Any:
    """A custom autograd function: one node where a gradient is needed, else its forward is interpreted."""
    from .autograd_function import record_apply, run_forward

    cls, *rest = args
    if torch.is_grad_enabled() and any(isinstance(a, torch.Tensor) and a.requires_grad for a in rest):
        return record_apply(cap, cls, rest, kwargs)
    return run_forward(cap, cls, rest, kwargs)


@rule(torch.utils.checkpoint.checkpoint)
def checkpoint(cap: Any, args: Any, kwargs: Any) -> Any:
    """Checkpointing changes when activations are computed, not what: the function is interpreted, and its nodes name the region."""
    own = ("use_reentrant", "preserve_rng_state", "determinism_check", "debug", "context_fn", "early_stop")
    rest = {k: v for k, v in kwargs.items() if k not in own}
    if not torch.is_grad_enabled():
        return cap.call(args[0], args[1:], rest)
    reentrant = kwargs.get("use_reentrant")
    if reentrant or reentrant is None:
        if rest or "context_fn" in kwargs or kwargs.get("debug"):
            unsupported("checkpoint", "a reentrant checkpoint with keyword arguments", hint="pass use_reentrant=False")
        if not any(isinstance(a, torch.Tensor) and a.requires_grad for a in args[1:]):
            unsupported("checkpoint", "a reentrant checkpoint none of whose arguments requires gradients", hint="pass use_reentrant=False")
    regions = cap.recorder.regions
    regions.append(Region(_policy(cap, kwargs.get("context_fn"))))
    try:
        return cap.call(args[0], args[1:], rest)
    finally:
        regions.pop()


def _policy(cap: Any, context_fn: Any) -> Any:
    """The policy of a selective checkpoint; None for a plain one."""
    if context_fn is None or context_fn is torch.utils.checkpoint.noop_context_fn:
        return None
    first, second = cap.call(context_fn, (), {})
    if isinstance(first, contextlib.nullcontext) and isinstance(second, contextlib.nullcontext):
        return None
    if not isinstance(first, torch.utils.checkpoint._CachingTorchDispatchMode):
        unsupported("checkpoint", "context managers around a checkpointed function", hint="use create_selective_checkpoint_contexts", saw=type(first).__name__)
    return first.policy_fn


@rule(torch.utils.checkpoint.create_selective_checkpoint_contexts)
def selective_contexts(cap: Any, args: Any, kwargs: Any) -> Any:
    """Two dispatch modes of which the policy is read; they are never entered."""
    return native(torch.utils.checkpoint.create_selective_checkpoint_contexts, *args, **kwargs)


# ---- names of the peer that programs use ------------------------------------------------------------------------
def _peer_names() -> None:
    from .. import eval_frame, peer

    @rule(peer.graph_break)
    def graph_break(cap: Any, args: Any, kwargs: Any) -> None:
        if cap.frame.globals.get("__name__") == "torch.optim.optimizer":
            return  # a hint for the reference compiler's backend, not part of what the optimizer means
        unsupported("graph-break", "the program asked for a graph break", hint="remove the call of graph_break()")

    rule(peer.is_compiling)(lambda cap, args, kwargs: cap.asked_compiling())
    rule(eval_frame.disable)(lambda cap, args, kwargs: native(eval_frame.disable, *args, **kwargs))


_peer_names()
