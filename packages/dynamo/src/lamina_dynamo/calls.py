"""Calls during capture: what is interpreted, what is called natively, what is refused.

Between: call instructions, special methods and callbacks of C code -> rules, interpreter frames, native functions.
Keeps:   a rule (table `RULES`, by the callable's identity) wins; Python functions are inlined unless their module is
         listed as native; C functions run natively only if listed as pure or if they act on values that are ours.
"""

from __future__ import annotations

import enum
import functools
import inspect
import operator
import re
import threading
import types
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.utils._pytree import tree_leaves

from .attributes import class_lookup, load_attr
from .binding import bind
from .construct import call_type
from .control import MISSING, native, observe, unsupported, values
from .draws import GENERATORS, derived
from .frames import Frame, run
from .guards import GuardKind
from .lift import HEAP_TYPE, IMMUTABLE, is_torch_owned
from .locks import LOCKS
from .loops import append, refuse_growing, refuse_steps
from .native_calls import REFUSED_MODULES, call_c_method, call_class_builtin, call_descriptor, call_module_function, call_slot, is_communication
from .peer import STAND_INS
from .side_effects import add_effect
from .source import CallSource, ClosureSource, CodeSource, ConstantSource
from .texts import OpenText, is_open

if TYPE_CHECKING:
    from .session import Capture

__all__ = ["NATIVE_MODULES", "RULES", "call", "call_function", "rule"]

RULES: dict[int, Any] = {}  # id(callable) -> rule(cap, args, kwargs)
_held: list[Any] = []
_FUNCTION, _METHOD, _BUILTIN = types.FunctionType, types.MethodType, types.BuiltinFunctionType
_BUILTIN_METHOD = type(re.compile("").sub)  # one that knows its class
_C_METHODS = (types.MethodDescriptorType, types.WrapperDescriptorType, types.ClassMethodDescriptorType)
_METHOD_WRAPPER = types.MethodWrapperType


def rule(*callables: Any) -> Any:
    """Register a rule for callables, by identity."""

    def register(fn: Any) -> Any:
        for c in callables:
            RULES[id(c)] = fn
            _held.append(c)
        return fn

    return register


# Python modules whose functions run natively: they touch no outside object but through torch calls, which are recorded.
NATIVE_MODULES = frozenset({
    "torch.functional", "torch.nn.functional", "torch._tensor", "torch._jit_internal", "torch.overrides", "torch._lowrank", "torch.special", "torch.linalg", "torch.fft", "torch._linalg_utils", "torch.nn._reduction",
    "torch.nn.init", "torch.jit", "torch.jit._trace", "torch._C", "torch._ops", "torch._utils", "torch.types", "torch.nn.grad", "torch._tensor_str", "torch.storage", "torch.serialization", "torch.distributed",
    "torch.distributed.distributed_c10d", "torch.distributed.device_mesh", "torch.cuda", "torch.cuda.amp", "torch.fx._symbolic_trace", "torch.version", "torch.xpu", "torch.mps", "torch.mtia", "torch.accelerator",
    "torch.torch_version", "torch._sources", "torch.hub", "torch.nn.utils.rnn", "torch.masked", "torch._namedtensor_internals",
    "re", "re._compiler", "re._parser", "enum", "typing", "inspect", "string", "textwrap", "os", "posixpath", "genericpath", "importlib", "importlib.metadata", "importlib.util", "importlib._bootstrap", "packaging.version", "packaging",
    "abc", "numbers", "fractions", "decimal", "ast", "dis", "platform", "sysconfig", "pathlib", "json", "hashlib", "base64", "uuid", "keyword", "linecache", "tokenize", "types", "sys", "bisect", "operator", "colorsys",
    "typing_extensions", "statistics", "dataclasses", "annotationlib", "importlib.resources", "importlib.machinery", "torch._vendor.packaging.version", "safetensors",
})  # fmt: skip
_INLINE_ANYWAY = frozenset({
    "replace", "_replace", "asdict", "astuple", "_asdict_inner", "_astuple_inner", "_is_dataclass_instance",
    "_BaseGenericAlias",  # a call of `Box[int]` is one of the class
    "_Environ", "getenv",  # the environment may be another at the next call
    "gaussian_nll_loss", "linear_cross_entropy",  # what they are called on decides what they do: a check of values, an object of options
})  # fmt: skip
_READ_OR_SET_STATE = frozenset({"set_default_dtype", "set_float32_matmul_precision", "get_float32_matmul_precision", "set_warn_always", "is_warn_always_enabled", "set_deterministic_debug_mode", "get_deterministic_debug_mode"})

def call(cap: Capture, fn: Any, args: Any, kwargs: dict[str, Any] | None = None) -> Any:
    """`fn(*args, **kwargs)` of the interpreted program."""
    t = type(fn)
    if cap.growing and t is not _FUNCTION and t is not _METHOD:
        if append(cap, fn, args, kwargs):
            return None
        refuse_growing(cap, (*args, *(kwargs or {}).values()))
    found = RULES.get(id(fn))
    if found is not None:
        return found(cap, args, kwargs or {})
    if t is _FUNCTION:
        return call_function(cap, fn, args, kwargs)
    if t is _METHOD:
        return call(cap, fn.__func__, (fn.__self__, *args), kwargs)
    if t is _BUILTIN and isinstance(fn.__self__, GENERATORS):
        from .rules.random_numbers import ask

        return ask(cap, fn.__self__, fn.__name__, args, kwargs or {})
    if cap.opaque and t not in (types.FunctionType, type):
        owner = getattr(fn, "__self__", None)
        if type(owner) in LOCKS:
            return cap.locks.call(cap, owner, fn.__name__, args, kwargs)
        cap.refuse_opaque(fn, *(() if cap.is_large_dict(owner) else (owner,)), *args, *(kwargs or {}).values())
    if t is _BUILTIN or t is _BUILTIN_METHOD:
        return _call_builtin(cap, fn, args, kwargs)
    if t in _C_METHODS:
        return call_descriptor(cap, fn, args, kwargs)
    if t is _METHOD_WRAPPER:
        return call_slot(cap, fn.__name__, fn, fn.__self__, args, kwargs)
    if isinstance(fn, type):
        return call_type(cap, fn, args, kwargs)
    if t is functools.partial:
        return call(cap, fn.func, (*fn.args, *args), {**fn.keywords, **(kwargs or {})})
    if t is functools._lru_cache_wrapper:
        return _call_cached(cap, fn, args, kwargs or {})
    if t.__module__ == "lamina_dynamo.native" and t.__name__ == "CompiledFunction":
        return call(cap, fn.__wrapped__, args, kwargs)
    if t in (torch._ops.OpOverload, torch._ops.OpOverloadPacket):
        return native(fn, *args, **(kwargs or {}))
    return _call_object(cap, fn, t, args, kwargs)


def _call_cached(cap: Capture, fn: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """A function under `functools.lru_cache`: what the cache holds is taken, what it lacks is computed and put there if computing it changes nothing else."""
    if is_torch_owned(fn.__wrapped__.__module__):
        return call(cap, fn.__wrapped__, args, kwargs)
    args, kwargs = values(args), values(kwargs)
    for key in (*args, *kwargs.values()):
        if not _is_constant(key) and type(key) is not OpenText:
            _key_by_identity(cap, fn, key)
    if id(fn) in cap.own or cap.source_of(fn) is None and id(fn.__wrapped__) in cap.own:
        unsupported("cached-function", "functools.lru_cache made in the compiled function", saw=fn.__wrapped__.__qualname__, hint="make it outside")
    before = cap.changes()
    outer, cap.once = cap.once, True
    try:
        value = call(cap, fn.__wrapped__, args, kwargs)
    finally:
        cap.once = outer
    if cap.changes() == before and value is None and is_open(cap, (*args, *kwargs.values())):  # a text that is logged once
        add_effect(cap, "logging", fn, args, kwargs)
        return None
    if cap.changes() != before or not _is_constant(value):
        unsupported("cached-function", "a function under functools.lru_cache that has effects, or gives an object", saw=fn.__wrapped__.__qualname__, hint="call it outside")
    return native(lambda: fn(*args, **kwargs))  # interpreted above; now the cache gets it


def _key_by_identity(cap: Capture, fn: Any, key: Any) -> None:
    """An argument that finds its entry of the cache by identity (a module, a logger): it must be this very object at each call."""
    cls, source = type(key), cap.sources.get(id(key))
    if source is None or isinstance(key, torch.Tensor) or cls.__eq__ is not object.__eq__ or cls.__hash__ is not object.__hash__:
        unsupported("cached-function", "a function under functools.lru_cache with arguments that are no constants", saw=fn.__wrapped__.__qualname__, hint="cache by numbers and strings")
    cap.guards.add(source, GuardKind.ID, key)


def _is_constant(v: Any) -> bool:
    return v is None or type(v) in (int, float, str, bool, bytes, complex, torch.dtype, torch.device, torch.Size) or type(v) in (tuple, frozenset) and all(map(_is_constant, v)) or isinstance(v, type)


def _call_object(cap: Capture, fn: Any, t: type, args: Any, kwargs: Any) -> Any:
    found = class_lookup(cap, t, "__call__")
    if found is MISSING:
        observe(TypeError(f"{t.__name__!r} object is not callable"))
    method = found[0]
    if type(method) in (_FUNCTION, _METHOD) or type(method) not in _C_METHODS:
        if type(method) is _FUNCTION:
            return call(cap, method, (fn, *args), kwargs)
        return call(cap, load_attr(cap, fn, "__call__"), args, kwargs)
    if isinstance(fn, weakref.ref):
        src = cap.sources.get(id(fn))
        return native(fn) if src is None else cap.lift(fn(), CallSource(_referent, src))
    if t in _GETTERS:
        return _call_getter(cap, fn, t, args)
    if t.__module__ in ("operator", "itertools", "functools", "_operator", "types", "typing", "builtins"):
        return native(fn, *cap.plain_iterables(args), **(kwargs or {}))
    if t.__module__.startswith("numpy"):
        if (drawn := derived(cap, fn, args, kwargs or {})) is not MISSING:
            return drawn
        args, kwargs = values(tuple(args)), values(kwargs or {})
        if cap.any_unknown(args, kwargs):
            unsupported("numpy", "a NumPy function on values of the compiled function", saw=getattr(fn, "__name__", t.__name__), hint="use the torch function")
        return native(fn, *args, **(kwargs or {}))
    if t.__module__.startswith("torch.jit") or t.__name__ in ("ScriptFunction", "ScriptMethod"):
        unsupported("torchscript", "a call of a TorchScript function", saw=getattr(fn, "name", t.__name__), hint="compile the Python function instead")
    unsupported("c-call", "a call of an object implemented in C", saw=f"{t.__module__}.{t.__qualname__}")


_GETTERS = (operator.itemgetter, operator.attrgetter, operator.methodcaller)


def _call_getter(cap: Capture, fn: Any, t: type, args: Any) -> Any:
    """A function of `operator` that gets something of its argument."""
    from .opcodes.operators import subscript

    made, given = fn.__reduce__()
    (v,) = args
    if t is operator.methodcaller:
        name, *given = (*getattr(made, "args", ()), *given)
        return call(cap, load_attr(cap, v, name), given, getattr(made, "keywords", {}))
    found = [functools.reduce(lambda at, name: load_attr(cap, at, name), key.split("."), v) if t is operator.attrgetter else subscript(cap, v, key) for key in given]
    return found[0] if len(found) == 1 else tuple(found)


def _referent(ref: Any) -> Any:
    return ref()


# ---- Python functions --------------------------------------------------------------------------------------------------
_policies: dict[types.CodeType, Any] = {}
_INLINE, _NATIVE, _OWN, _HIDDEN = "inline", "native", "own", "hidden"


class _Rule(NamedTuple):
    """Functions of this code have a rule: run(cap, fn, args, kwargs)."""

    run: Any


class _Instead(NamedTuple):
    """Call this function in its place."""

    fn: Any


def _policy_of(fn: Any) -> Any:
    module = fn.__globals__.get("__name__") or ""
    if module == "torch._compile":
        return _HIDDEN
    if module.startswith("torch._dynamo"):
        stand_in = STAND_INS.get(fn.__name__)
        if stand_in is not None:
            return _Instead(stand_in)
        return _Rule(_call_behind_peer) if fn.__code__.co_qualname.find("<locals>") >= 0 else ("peer", "a function of the reference compiler", "use lamina's")
    if module.startswith("lamina_dynamo."):
        return _OWN
    if module in REFUSED_MODULES:
        return REFUSED_MODULES[module]
    if is_communication(module, fn.__code__.co_name):
        return ("distributed", "a function of torch.distributed", "call it outside of the compiled function")
    if module == "torch.jit._trace" and "__script_if_tracing_wrapper" in fn.__dict__:
        return _Rule(_call_unscripted)
    if fn.__code__.co_name == "wrapper" and set(_REPR_CELLS) <= set(fn.__code__.co_freevars) and module in ("reprlib", "dataclasses"):
        return _Rule(_call_repr)
    if module in ("weakref", "_weakrefset"):
        return _Rule(_call_weak)
    if module in NATIVE_MODULES and fn.__code__.co_qualname.partition(".")[0] not in _INLINE_ANYWAY:
        return _NATIVE
    if module == "torch" and fn.__code__.co_name in _READ_OR_SET_STATE:
        return _INLINE
    if module == "torch" or module.startswith(("torch._C.", "torch.fx.experimental", "torch.utils._device_", "torch.cuda.", "importlib.", "packaging.", "email.", "urllib.")):
        return _NATIVE
    if module in ("torch._functorch.functional_call", "torch.nn.utils.stateless", "torch.nn.utils._named_member_accessor"):
        return _INLINE
    if module == "torch._higher_order_ops.associative_scan" and fn.__code__.co_name == "associative_scan":
        return _Rule(_call_scan)
    if module.startswith("torch._functorch"):
        from .rules.functorch import made_by_transform

        made = made_by_transform(fn)
        if made is not None:
            return _Rule(made)
        return ("functorch", "a functorch transform", "call it outside of the compiled function")
    if module.startswith("numpy"):
        return ("numpy", "a NumPy function on values of the compiled function", "use the torch function")
    if module.startswith(("lamina.", "lamina_")) or module == "lamina":
        return _OWN
    return _INLINE


_REPR_CELLS = ("repr_running", "user_function")


def _call_repr(cap: Capture, fn: Any, args: Any, kwargs: Any) -> Any:
    """A `__repr__` decorated by `reprlib.recursive_repr`, which must not depend on the thread that captures it."""
    cells = dict(zip(fn.__code__.co_freevars, (cell.cell_contents for cell in fn.__closure__)))
    fill, running, shown = cells.get("fillvalue", "..."), *map(cells.__getitem__, _REPR_CELLS)
    key = id(args[0]), threading.get_ident()
    if key in running:
        return fill
    running.add(key)
    try:
        return call(cap, shown, args, kwargs)
    finally:
        running.discard(key)


def _call_weak(cap: Capture, fn: Any, args: Any, kwargs: Any) -> Any:
    """A weak container; functools has its caches in some, which say nothing that their functions would not."""
    return native(fn, *args, **kwargs) if cap.frame.globals.get("__name__") == "functools" else _interpret(cap, fn, args, kwargs)


def _call_unscripted(cap: Capture, fn: Any, args: Any, kwargs: Any) -> Any:
    """A function under `script_if_tracing`, and nothing is being traced by TorchScript."""
    return call(cap, cap.getattr(fn, "__original_fn"), args, kwargs)


def _call_scan(cap: Capture, fn: Any, args: Any, kwargs: Any) -> Any:
    """`associative_scan(combine_fn, xs, dim)`, written in Python with a recursion as deep as the length asks for."""
    given = inspect.signature(fn).bind(*args, **kwargs).arguments
    for x in tree_leaves(given["xs"]):
        if isinstance(x, torch.Tensor) and given.get("combine_mode") == "generic":  # eager compiles the other mode with the peer
            refuse_steps(cap, x.shape[given["dim"]], fn.__name__)
    return _interpret(cap, fn, args, kwargs)


def _call_behind_peer(cap: Capture, fn: Any, args: Any, kwargs: Any) -> Any:
    """A function of PyTorch's that the reference compiler wraps where it was imported: what is behind the wrapper."""
    closure = dict(zip(fn.__code__.co_freevars, fn.__closure__ or ()))
    cells = [closure[name].cell_contents for name in ("fn", "init", "setstate") if name in closure]
    behind = fn.__dict__.get("_torchdynamo_orig_callable") or next(iter(cells), None)
    if not isinstance(behind, _FUNCTION) or not is_torch_owned(behind.__module__):
        unsupported("peer", "a function of the reference compiler", saw=f"{fn.__module__}.{fn.__qualname__}", hint="use lamina's")
    return call(cap, behind, args, kwargs)


def call_function(cap: Capture, fn: Any, args: Any, kwargs: Any) -> Any:
    """Call a Python function: interpret it, or run it natively."""
    code = fn.__code__
    policy = _policies.get(code)
    if policy is None:
        policy = _policies[code] = _policy_of(fn)
    if "_lamina_disable" in fn.__dict__:
        unsupported("disabled", "a call of a function marked by disable", saw=fn.__qualname__)
    if policy is not _INLINE:
        if type(policy) is _Instead:
            return call(cap, policy.fn, args, kwargs)
        if type(policy) is _Rule:
            return policy.run(cap, fn, args, kwargs or {})
        if policy is _NATIVE or policy is _OWN:
            refuse_growing(cap, (*args, *(kwargs or {}).values()))
            cap.refuse_opaque(*args, *(kwargs or {}).values())
            if policy is _NATIVE and not is_torch_owned(fn.__module__):
                if any(_has_outside_state(cap, a) for a in (*args, *(kwargs or {}).values())):
                    return _interpret(cap, fn, args, kwargs)  # what it reads of them is guarded
                args, kwargs = map(cap.concrete, args), {k: cap.concrete(v) for k, v in (kwargs or {}).items()}
            return native(fn, *args, **(kwargs or {}))
        if policy is _HIDDEN:  # torch's lazy wrapper of what it keeps from compilers: go to the function itself
            from .rules.torch_api import unwrap_disabled

            inner = unwrap_disabled(fn)
            if inner is not None:
                return call(cap, inner, args, kwargs)
            return native(fn, *args, **(kwargs or {}))
        if policy[0] == "numpy" and not cap.any_unknown(args, kwargs):
            cap.refuse_opaque(*args, *(kwargs or {}).values())
            return native(fn, *args, **(kwargs or {}))
        unsupported(policy[0], policy[1], saw=f"{fn.__module__}.{fn.__qualname__}", hint=policy[2])
    if code.co_flags & 0x280:  # coroutine, async generator
        unsupported("async", "an async function", saw=fn.__qualname__)
    if id(fn) not in cap.own and not is_torch_owned(fn.__module__):
        cap.guards.add(CodeSource(cap.sources.get(id(fn)) or ConstantSource(fn)), GuardKind.ID, code)
    return _interpret(cap, fn, args, kwargs)


def _has_outside_state(cap: Capture, v: Any) -> bool:
    """Whether this is an object from outside that another call may find in another state."""
    return bool(type(v).__flags__ & HEAP_TYPE) and type(v).__module__ not in NATIVE_MODULES and id(v) in cap.sources and not isinstance(v, (type, enum.Enum, torch.Tensor, *IMMUTABLE))


def _interpret(cap: Capture, fn: Any, args: Any, kwargs: Any) -> Any:
    return run(Frame(cap, fn.__code__, bind(cap, fn, args, kwargs), fn.__globals__, fn, cap.frame))


def closure_of(cap: Capture, fn: Any) -> tuple[types.CellType, ...]:
    """The cells of a function, ours in place of outside ones."""
    cells = fn.__closure__ or ()
    own = cap.own_cells
    if all(id(c) in own for c in cells):
        return cells
    if fn is cap.root_function:  # found by the frame's own names, whichever function has this code at the next call
        return tuple(cap.cell_of[id(c)] for c in cells)
    src = cap.sources.get(id(fn)) or ConstantSource(fn)
    return tuple(cap.cell(c, ClosureSource(src, i)) for i, c in enumerate(cells))


# ---- C functions -------------------------------------------------------------------------------------------------------
def _call_builtin(cap: Capture, fn: Any, args: Any, kwargs: Any) -> Any:
    owner = fn.__self__
    if args and type(args[0]) is torch._C._InferenceMode:
        from .rules.contexts import inference_mode_method

        return inference_mode_method(cap, fn, args, kwargs)
    if fn.__module__ == "torch._C._functorch":
        unsupported("functorch", "a functorch transform", saw=fn.__name__, hint="call it outside of the compiled function")
    if owner is None or isinstance(owner, types.ModuleType) or (fn.__module__ or "").startswith("torch._C"):
        return call_module_function(cap, fn, args, kwargs)
    if isinstance(owner, torch.Tensor):
        found = RULES.get(id(getattr(torch.Tensor, fn.__name__, None)))
        return native(fn, *args, **(kwargs or {})) if found is None else found(cap, (owner, *args), kwargs or {})
    if isinstance(owner, type):
        return call_class_builtin(cap, fn, owner, args, kwargs)
    return call_c_method(cap, fn, fn.__name__, owner, args, kwargs)
