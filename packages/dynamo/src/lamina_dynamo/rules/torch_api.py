"""Rules for PyTorch: questions about compiling, global state, what needs a value at capture time."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import operator
from collections.abc import Iterator
from typing import Any

import torch
import torch.utils.checkpoint
from torch.utils._python_dispatch import _disable_current_modes

from lamina_primops.regions import Region

from ..calls import rule
from ..control import native, unsupported
from ..recorder import Recorder, function_rule

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
    return cap.frame.code.co_filename != torch.nn.modules.module.__file__


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


# ---- state that is part of the graph -------------------------------------------------------------------------------------
_STATE_SETTERS = ("_set_grad_enabled", "set_autocast_enabled", "set_autocast_dtype", "autocast_increment_nesting", "autocast_decrement_nesting", "set_autocast_cache_enabled", "clear_autocast_cache", "set_autocast_cpu_dtype", "set_autocast_cpu_enabled")


def _state_setters() -> None:
    for name in _STATE_SETTERS:
        for owner in (torch._C, torch):
            fn = getattr(owner, name, None)
            if fn is None:
                continue

            def run(cap: Any, args: Any, kwargs: Any, fn: Any = fn) -> Any:
                with torch._C.DisableTorchFunction():
                    out = native(fn, *args, **kwargs)
                cap.recorder.emit(fn, args, kwargs, None)
                cap.state_changed = True
                return out

            rule(fn)(run)
            try:
                function_rule(fn)(lambda rec, func, args, kwargs: RUN_STATE(rec, func, args, kwargs))
            except Exception:
                pass


def RUN_STATE(rec: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    with torch._C.DisableTorchFunction():
        out = func(*args, **kwargs)
    rec.emit(func, args, kwargs, None)
    return out


_state_setters()


@rule(torch.autograd.profiler.record_function, torch._C.DisableTorchFunctionSubclass, torch.autograd.profiler.emit_nvtx)
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
function_rule(_T.numpy, _T.data_ptr, _T.untyped_storage, _T.__array__, _T.storage)(_refuse("tensor-memory", "reading a tensor's memory", "move it outside of the compiled function"))
function_rule(_T.register_hook, _T.retain_grad, _T.register_post_accumulate_grad_hook)(_refuse("autograd", "a hook on a tensor", "register it outside of the compiled function"))
function_rule(_T.tolist)(_refuse("data-dependent-value", "the values of a tensor as Python numbers", "keep the computation in tensors"))
function_rule(_T.__repr__, _T.__str__, _T.__format__)(_refuse("tensor-text", "the text of a tensor's value", "format outside of the compiled function"))
function_rule(_T.share_memory_, _T.pin_memory, _T.set_, _T.resize_, _T.resize_as_)(_refuse("tensor-storage", "changing a tensor's storage", "move it outside of the compiled function"))


@function_rule(_T.__bool__, _T.is_nonzero)
def tensor_bool(rec: Recorder, func: Any, args: Any, kwargs: Any) -> bool:
    return rec.cap.tensor_truth(args[0])


@function_rule(_T.item, _T.__int__, _T.__float__, _T.__index__, _T.__complex__)
def tensor_item(rec: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    known = rec.number(args[0])
    if known is not None:
        kinds = {"__int__": int, "__float__": float, "__index__": int, "__complex__": complex}
        return kinds.get(func.__name__, lambda x: x)(known)
    return _unbacked_number(rec, func, args[0])


def _unbacked_number(rec: Recorder, func: Any, t: torch.Tensor) -> Any:
    """The value as a symbolic number that the graph yields. Truths stay breaks: the program would branch on them at once."""
    if t.numel() != 1:
        with torch._C.DisableTorchFunctionSubclass():
            return torch.empty(t.numel()).item()  # raises eager's error
    if rec.scope is not None or t.dtype is torch.bool or t.is_complex() or not rec.cap.mode.has_unbacked():
        unsupported("data-dependent-value", "the value of a tensor as a Python number", saw=rec.cap.describe(t), hint="keep the computation in tensors")
    value = rec.run(_T.item, (t,), {})
    return {"__int__": torch.sym_int, "__float__": torch.sym_float}.get(func.__name__, lambda x: x)(value)


@rule(torch._check, torch._check_is_size)
def check(cap: Any, args: Any, kwargs: Any) -> None:
    """A condition on what only the running program knows is a check in the graph, and known to hold from here on."""
    condition, message, *_ = (*args, kwargs.get("message"))
    if isinstance(condition, torch.SymInt):  # _check_is_size
        condition = condition >= 0
    if not isinstance(condition, torch.SymBool) or condition.node.has_hint():
        native(torch._check, bool(native(operator.truth, condition)), message)
        return
    text = native(message) if callable(message) and not cap.any_tensor(getattr(message, "__defaults__", None) or (), {}) else "Expected cond to be True, but got False."
    cap.recorder.emit(torch.ops.aten._assert_scalar.default, (condition, str(text)), {}, None)
    native(condition.node.expect_true)
    cap.asserts_seen = len(cap.mode.shape_env.runtime_asserts)


@function_rule(_T.__iter__)
def tensor_iter(rec: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    t = args[0]
    if t.dim() == 0:
        raise TypeError("iteration over a 0-d tensor")
    return iter(rec.run(torch.unbind, (t, 0), {}))


@function_rule(_T.__getitem__, _T.__setitem__)
def tensor_index(rec: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    """Bounds of slices that are tensors must be known."""
    index = args[1]
    if type(index) is torch.SymInt and func is _T.__getitem__:  # C++ would read it as a plain number
        return rec.run(torch.select, (args[0], 0, index), {})
    if type(index) is slice or type(index) is tuple and any(type(i) is slice for i in index):
        parts = tuple(_plain_slice(rec, i) for i in index) if type(index) is tuple else _plain_slice(rec, index)
        args = (args[0], parts, *args[2:])
    return rec.run(func, args, kwargs)


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


@function_rule(torch.tensor, torch.as_tensor, torch.from_numpy)
def from_data(rec: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    """A NumPy array that is a constant of the capture gives a constant tensor."""
    if args and type(args[0]).__module__ == "numpy" and type(args[0]).__name__ == "ndarray":
        if func is not torch.tensor:
            unsupported("numpy", "a tensor that shares memory with a NumPy array", hint="torch.tensor copies")
        with torch._C.DisableTorchFunction(), _disable_current_modes():
            real = func(*args, **kwargs)
        return rec.run(_T.clone, (rec.cap.lift_constant(real),), {})
    data, options = args[0] if args else None, {k: kwargs[k] for k in ("dtype", "device") if kwargs.get(k) is not None}
    if len(args) == 1 and _holds_symbols(data) and not kwargs.get("requires_grad"):
        return _from_symbols(rec, data, options)
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


@function_rule(torch.nn.functional.one_hot)
def one_hot(rec: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    """With a number of classes: a comparison, and the range check that eager makes on the values as a node."""
    index, classes = (*args, kwargs.get("num_classes", -1))[:2] if args else (kwargs["tensor"], kwargs.get("num_classes", -1))
    if index.dtype is not torch.int64 or index.numel() == 0 or (isinstance(classes, int) and classes <= 0):
        return rec.run(func, args, kwargs)
    inside = rec.run(torch.logical_and, (rec.run(torch.ge, (index, 0), {}), rec.run(torch.lt, (index, classes), {})), {})
    rec.emit(torch._assert_async, (rec.run(torch.all, (inside,), {}), "Class values must be non-negative and smaller than num_classes."), {}, None)
    every = rec.run(torch.arange, (classes,), {"device": index.device})
    return rec.run(_T.to, (rec.run(torch.eq, (rec.run(torch.unsqueeze, (index, -1), {}), every), {}), torch.int64), {})


@function_rule(_T.__contains__)
def tensor_contains(rec: Recorder, func: Any, args: Any, kwargs: Any) -> bool:
    unsupported("data-dependent-branch", "data-dependent branch", saw=rec.cap.describe(args[0]), hint="keep the computation in tensors")


_QUESTIONS = ("__len__", "dim", "ndimension", "size", "stride", "storage_offset", "is_contiguous", "is_floating_point", "is_complex", "numel", "nelement", "element_size", "get_device", "is_shared", "is_pinned", "has_names", "is_signed", "is_conj", "is_neg", "is_inference", "type", "__hash__", "__dir__", "dense_dim", "sparse_dim", "is_distributed", "is_coalesced", "dim_order", "is_set_to")


@function_rule(*[getattr(_T, name) for name in _QUESTIONS if hasattr(_T, name)], torch.is_floating_point, torch.is_complex, torch.numel)
def tensor_question(rec: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    if func is _T.type and (len(args) > 1 or kwargs):
        return rec.run(func, args, kwargs)
    with torch._C.DisableTorchFunctionSubclass():
        return func(*args, **kwargs)


# ---- what changes global state, or needs more than a graph ---------------------------------------------------------------
def _refused(code: str, what: str, hint: str, *names: str) -> None:
    def run(cap: Any, args: Any, kwargs: Any) -> Any:
        unsupported(code, what, hint=hint)

    for name in names:
        fn = resolve(name)
        if fn is not None:
            rule(fn)(run)


_refused("global-state", "changing PyTorch's global state", "do it outside of the compiled function", "torch.manual_seed", "torch.random.manual_seed", "torch.seed", "torch.set_rng_state", "torch.get_rng_state", "torch.random.get_rng_state", "torch.random.set_rng_state", "torch.set_default_dtype", "torch.set_default_device", "torch.set_num_threads", "torch.use_deterministic_algorithms", "torch.random.fork_rng", "torch.cuda.manual_seed", "torch.cuda.manual_seed_all", "torch.initial_seed")
_refused("io", "saving or loading", "do it outside of the compiled function", "torch.save", "torch.load")
_refused("autograd", "taking gradients inside the compiled function", "compile the forward function, and take gradients outside", "torch.func.vjp", "torch.autograd.functional.jacobian", "torch.autograd.functional.hessian", "torch.autograd.functional.vjp", "torch.autograd.functional.jvp")
_refused("functorch", "a functorch transform", "call it outside of the compiled function", "torch.func.linearize", "torch.func.functionalize")
_refused("dispatch-state", "switching PyTorch's dispatcher", "do it outside of the compiled function", "torch._C._DisableTorchDispatch", "torch._C._DisableFuncTorch", "torch._C._DisableAutocast", "torch._C._ExcludeDispatchKeyGuard", "torch._C._IncludeDispatchKeyGuard", "torch._C._ForceDispatchKeyGuard", "torch._C._PreserveDispatchKeyGuard", "torch._C._SetExcludeDispatchKeyGuard", "torch._C._AutoDispatchBelowAutograd", "torch._C._AutoDispatchBelowADInplaceOrView", "torch._C._EnablePythonDispatcher", "torch._C._DisablePythonDispatcher", "torch._C._EnablePreDispatch")
_refused("inference-mode", "inference_mode inside the compiled function", "use torch.no_grad, or enter it outside", "torch.inference_mode", "torch._C._InferenceMode")


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


@rule(torch.cond)
def cond(cap: Any, args: Any, kwargs: Any) -> Any:
    """A branch like any other: taken at capture where the condition is known there."""
    pred, true_fn, false_fn, *operands = inspect.signature(torch.cond).bind(*args, **kwargs).args
    truth = cap.tensor_truth(pred) if isinstance(pred, torch.Tensor) else bool(pred)
    return cap.call(true_fn if truth else false_fn, *operands or [()])


@rule(torch.overrides.has_torch_function, torch.overrides.has_torch_function_unary, torch.overrides.has_torch_function_variadic)
def no_overrides(cap: Any, args: Any, kwargs: Any) -> bool:
    """Python code that we interpret must take its plain path: the mode records what it calls."""
    return False




# ---- names of the peer that programs use ------------------------------------------------------------------------
def _peer_names() -> None:
    from .. import eval_frame, peer

    @rule(peer.graph_break)
    def graph_break(cap: Any, args: Any, kwargs: Any) -> None:
        if cap.frame.globals.get("__name__") == "torch.optim.optimizer":
            return  # a hint for the reference compiler's backend, not part of what the optimizer means
        unsupported("graph-break", "the program asked for a graph break", hint="remove the call of graph_break()")

    rule(peer.is_compiling)(lambda cap, args, kwargs: True)
    rule(eval_frame.disable)(lambda cap, args, kwargs: native(eval_frame.disable, *args, **kwargs))


_peer_names()
