"""Rules for the standard library and for logging: what must neither run at capture nor stop it."""

from __future__ import annotations

import collections
import copy
import dataclasses
import functools
import inspect
import logging
import os
import re
import sys
import types
import warnings
import weakref
from collections import OrderedDict, defaultdict, deque
from typing import Any

import torch

from ..attributes import class_lookup, load_attr, raw_dict
from ..instance_dict import instance_dict
from ..calls import rule
from ..control import MISSING, native, unsupported
from ..guards import GuardKind
from ..opcodes.operators import python_method
from ..source import ConstantSource, TypeAttrSource, instance_attr
from ..side_effects import add_effect
from ..texts import is_open, shown
from .leaves import copy_leaf


_SHOW = warnings.showwarning


# ---- weak references ---------------------------------------------------------------------------------------------------
@rule(weakref.ref)
def weak_reference(cap: Any, args: Any, kwargs: Any) -> Any:
    """Of an object from outside; of any other, capture would refer to what stands for it, and it lives longer here than in the run."""
    if args and (isinstance(args[0], torch.Tensor) or id(args[0]) not in cap.sources):
        unsupported("weak-reference", "a weak reference to an object that lives only in the run", saw=type(args[0]).__name__)
    return native(weakref.ref, *args, **kwargs)


@rule(weakref.proxy)
def weak_proxy(cap: Any, args: Any, kwargs: Any) -> Any:
    unsupported("weak-reference", "a weak proxy", saw="weakref.proxy")


# ---- the environment -----------------------------------------------------------------------------------------------------
for _change in (os.putenv, os.unsetenv):

    @rule(_change)
    def _changed_environment(cap: Any, args: Any, kwargs: Any) -> Any:
        unsupported("foreign-mutation", "changing the environment of the process", saw="os.environ")


# ---- warnings and logging ----------------------------------------------------------------------------------------------
@rule(warnings.warn)
def warn(cap: Any, args: Any, kwargs: Any) -> None:
    """Shown once, at capture, at the user's line: what the default filter does in eager. Filters that the program itself set ask for more."""
    if _is_ignored(cap, args[0], args[1] if len(args) > 1 else kwargs.get("category")):
        return
    if warnings.showwarning is not _SHOW or warnings.filters[:1] and warnings.filters[0][0] in ("always", "error") or _changes_warnings(cap):
        unsupported("warning", "a warning under filters that show or raise each one", saw=str(args[0])[:80], hint="warn outside of the compiled function")
    message = args[0]
    category = args[1] if len(args) > 1 else kwargs.get("category") or (type(message) if isinstance(message, Warning) else UserWarning)
    f = cap.frame
    native(warnings.warn_explicit, message, category, f.code.co_filename, f.line, f.globals.get("__name__"), f.globals.setdefault("__warningregistry__", {}))


def _is_ignored(cap: Any, message: Any, category: Any) -> bool:
    """Whether the first filter, set by the frame, ignores all warnings of this category."""
    filters = cap.globals_overlay.get((id(warnings.__dict__), "filters"), cap.shadow_of.get(id(warnings.filters), ()))
    category = type(message) if isinstance(message, Warning) else category or UserWarning
    action, text, kind, module, line = next(iter(filters), ("", None, None, None, None))
    return action == "ignore" and text is None and module is None and not line and issubclass(category, kind)


def _changes_warnings(cap: Any) -> bool:
    """Whether the frame set filters, or who shows warnings, before."""
    shadow = cap.shadow_of.get(id(warnings.filters))
    written = id(warnings.__dict__) in cap.globals_dicts
    return written or shadow is not None and list(shadow) != cap.pristine[id(shadow)]


def _log(level: int | None, *, is_plain: bool = True) -> Any:
    def run(cap: Any, args: Any, kwargs: Any) -> None:
        """A record that is emitted after the graph, with the program's line. One that a cached function emits once appears at capture, where the function itself runs."""
        logger = args[0]
        n, message, *rest = args[1:] if level is None else (level, *args[1:])
        if cap.once or not _is_enabled_for(cap, (logger, n), {}):
            return
        if id(logger) not in cap.sources:
            cap.remember(logger, ConstantSource(logger))
        caller = cap.frame
        while caller is not None and os.path.normcase(caller.code.co_filename) == logging._srcfile:
            caller = caller.parent
        if not is_plain or kwargs or caller is None or not all(type(a) in _LOGGED or is_open(cap, a) and type(a) not in (list, tuple, dict) for a in (message, *rest)):
            unsupported("logging", "a log record that is emitted", saw=str(args[1:2])[:80], hint="log texts, numbers and tensors, or lower the log level")
        for t in rest:
            if isinstance(t, torch.Tensor):
                shown(cap, t, str)  # refuses what would not look as in eager
        add_effect(cap, "logging", _emit, (logger, n, caller.code.co_filename, caller.line, message, tuple(rest), caller.code.co_name), {})

    return run


_LOGGED = frozenset({str, int, float, bool, type(None), torch.dtype, torch.device, torch.Size})


def _emit(logger: logging.Logger, level: int, file: str, line: int, message: str, args: tuple[Any, ...], function: str) -> None:
    if logger.isEnabledFor(level):
        logger.handle(logger.makeRecord(logger.name, level, file, line, message, args, None, function, None, None))


for _name, _level in (("debug", 10), ("info", 20), ("warning", 30), ("error", 40), ("critical", 50), ("exception", 40), ("log", None), ("warn", 30)):
    if hasattr(logging.Logger, _name):
        rule(getattr(logging.Logger, _name))(_log(_level, is_plain=_name not in ("exception", "warn")))


@rule(logging.getLogger)
def _get_logger(cap: Any, args: Any, kwargs: Any) -> Any:
    logger = native(logging.getLogger, *args, **kwargs)
    if id(logger) not in cap.sources:
        cap.remember(logger, ConstantSource(logger))
    return logger


@rule(logging.Logger.isEnabledFor)
def _is_enabled_for(cap: Any, args: Any, kwargs: Any) -> bool:
    _rely_on_level(cap, args[0])
    return native(logging.Logger.isEnabledFor, *args, **kwargs)


@rule(logging.Logger.getEffectiveLevel)
def _effective_level(cap: Any, args: Any, kwargs: Any) -> int:
    _rely_on_level(cap, args[0])
    return native(logging.Logger.getEffectiveLevel, *args)


def _rely_on_level(cap: Any, logger: Any) -> None:
    """Guards what decides whether records are emitted: levels up to the first that is set, and what is switched off."""
    _rely_on(cap, logger, "disabled")
    _rely_on(cap, logger.manager, "_disable")
    _rely_on(cap, logger, "level")
    while not logger.level and logger.parent is not None:
        cap.guards.add(instance_attr(ConstantSource(logger), "parent"), GuardKind.ID, logger.parent)
        logger = logger.parent
        _rely_on(cap, logger, "level")


def _rely_on(cap: Any, obj: Any, name: str) -> None:
    if name in cap.overlay.get(id(obj), ()):
        unsupported("logging", "a log record after its logger was set otherwise", saw=name, hint="set levels outside of the compiled function")
    cap.guards.add(instance_attr(ConstantSource(obj), name), GuardKind.EQUALS, vars(obj)[name])


@rule(sys.exception)
def exception(cap: Any, args: Any, kwargs: Any) -> Any:
    return cap.handled


@rule(sys.exc_info)
def exc_info(cap: Any, args: Any, kwargs: Any) -> Any:
    """The exception that the interpreted program handles."""
    exc = cap.handled
    return (None, None, None) if exc is None else (type(exc), exc, exc.__traceback__)


# ---- texts -------------------------------------------------------------------------------------------------------------
for _sub in (re.sub, re.subn):

    @rule(_sub)
    def _substitute(cap: Any, args: Any, kwargs: Any, fn: Any = _sub) -> Any:
        """A replacement that is a function is interpreted, in `Pattern.sub`."""
        given = {**dict(zip(("pattern", "repl", "string", "count", "flags"), args)), **kwargs}
        pattern = native(re.compile, given.pop("pattern"), given.pop("flags", 0))
        return cap.call(getattr(pattern, fn.__name__), (), given)


# ---- inspection --------------------------------------------------------------------------------------------------------
def _native_rules() -> None:
    def run_native(fn: Any) -> Any:
        return lambda cap, args, kwargs: native(fn, *args, **kwargs)

    for fn in (inspect.isclass, inspect.isfunction, inspect.ismethod, inspect.getmodule):
        rule(fn)(run_native(fn))


_native_rules()


def _signature_rule(fn: Any) -> None:
    @rule(fn)
    def run(cap: Any, args: Any, kwargs: Any) -> Any:
        """What says which parameters a callable has is guarded, through its wrappers."""
        if args:
            _rely_on_parameters(cap, args[0])
        return native(fn, *args, **kwargs)


for _fn in (inspect.signature, inspect.getfullargspec, inspect.unwrap):
    _signature_rule(_fn)


def _rely_on_parameters(cap: Any, v: Any) -> None:
    while v is not None and id(v) not in cap.own:
        if isinstance(v, types.MethodType):
            v = v.__func__
        elif type(v) is types.FunctionType:
            for name in ("__code__", "__defaults__", "__kwdefaults__"):
                load_attr(cap, v, name)
            found = [cap.call(getattr, (v, name, None)) for name in ("__signature__", "__wrapped__")]
            v = None if found[0] is not None else found[1]
        elif isinstance(v, type):
            class_lookup(cap, v, "__signature__")
            made = [class_lookup(cap, v, name)[0] for name in ("__new__", "__init__")]
            v = next((m for m in made if type(m) is types.FunctionType), None)
        elif isinstance(v, functools.partial):
            v = v.func
        else:
            cap.call(getattr, (v, "__signature__", None))
            called = class_lookup(cap, type(v), "__call__")
            v = called[0] if called is not MISSING else None


@rule(dataclasses.is_dataclass)
def is_dataclass(cap: Any, args: Any, kwargs: Any) -> bool:
    return class_lookup(cap, args[0] if isinstance(args[0], type) else type(args[0]), _FIELDS) is not MISSING


@rule(dataclasses.fields)
def fields(cap: Any, args: Any, kwargs: Any) -> Any:
    cls = args[0] if isinstance(args[0], type) else type(args[0])
    found = class_lookup(cap, cls, _FIELDS)
    if found is not MISSING and id(cls) not in cap.own:
        cap.guards.add(TypeAttrSource(ConstantSource(cls), _FIELDS), GuardKind.ID, found[0])
    return native(dataclasses.fields, cls)


_FIELDS = "__dataclass_fields__"


# ---- collections -------------------------------------------------------------------------------------------------------
@rule(collections.namedtuple)
def namedtuple(cap: Any, args: Any, kwargs: Any) -> Any:
    """A class made in the frame, by code that the library writes."""
    made = native(collections.namedtuple, *args, **{"module": cap.frame.globals.get("__name__"), **kwargs})
    cap.own[id(made)] = made
    cap.created[id(made)] = (made, cap.step)
    return made


# ---- functools ---------------------------------------------------------------------------------------------------------
@rule(functools.cached_property.__get__)
def cached_property(cap: Any, args: Any, kwargs: Any) -> Any:
    """Computed once, and kept in the instance's dictionary; the lock of older Pythons is not taken."""
    descriptor, obj, *_ = args
    if obj is None:
        return descriptor
    value = cap.call(descriptor.func, (obj,))
    instance_dict(cap, obj)[descriptor.attrname] = value
    return value


# ---- copy --------------------------------------------------------------------------------------------------------------
_ATOMS = (int, float, bool, str, bytes, complex, type(None), type, torch.dtype, torch.device, torch.Size, range, types.FunctionType, types.BuiltinFunctionType, types.ModuleType, type(...))


@rule(copy.copy)
def copy_(cap: Any, args: Any, kwargs: Any) -> Any:
    return _copy(cap, args[0])


def _copy(cap: Any, v: Any) -> Any:
    t = type(v)
    if isinstance(v, _ATOMS) or t is tuple or t is frozenset:
        return v
    cap.refuse_opaque(v)
    method = python_method(cap, v, "__copy__")
    if method is not None:
        return cap.call(method, (v,))
    if t in (list, dict, set, OrderedDict, defaultdict, deque):
        return native(copy.copy, v)
    if isinstance(v, torch.Tensor):
        if v.requires_grad or cap.type_of(v) is not torch.Tensor:
            unsupported("copy", "copy.copy of a parameter")
        return cap.recorder.run(torch.Tensor.detach, (v,), {})
    if _pickles_itself(cap, v):
        unsupported("copy", "copy.copy of an object with its own pickling", saw=t.__qualname__)
    return _clone(cap, v, lambda x: x)


def _clone(cap: Any, v: Any, inner: Any, memo: Any = None) -> Any:
    t = type(v)
    if class_lookup(cap, t, "__slots__") != class_lookup(cap, object, "__slots__") and raw_dict(v) is None:
        unsupported("copy", "copying an object with __slots__", saw=t.__qualname__)
    new = native(t.__new__, t)
    if memo is not None:
        memo[id(v)] = new
    if isinstance(v, dict):
        kind = OrderedDict if isinstance(v, OrderedDict) else dict
        for k, x in kind.items(v):
            kind.__setitem__(new, k, inner(x))
    elif isinstance(v, list):
        list.extend(new, map(inner, list.__iter__(v)))
    elif isinstance(v, (tuple, set, frozenset, str, int, float)):
        unsupported("copy", "copying an object of a built-in subclass", saw=t.__qualname__)
    if raw_dict(v) is not None:
        attributes = load_attr(cap, v, "__dict__")
        for k in [k for k in attributes if k != "_compiled_call_impl"]:
            new.__dict__[k] = inner(attributes[k])
    return new


@rule(copy.deepcopy)
def deepcopy_(cap: Any, args: Any, kwargs: Any) -> Any:
    """As the library does it: by the program's own methods where there are any, with the memo that those pass on."""
    v, memo = (*args, *kwargs.values(), None)[:2]
    return _deepcopy(cap, v, {} if memo is None else memo)


def _deepcopy(cap: Any, v: Any, memo: Any) -> Any:
    if isinstance(v, (*_ATOMS, weakref.ref)):
        return v
    if id(v) in memo:
        return memo[id(v)]
    cap.refuse_opaque(v)
    new = _deepcopy_new(cap, v, memo)
    memo[id(v)] = new
    cap.keep[id(v)] = v  # its id must stay its own
    return new


def _deepcopy_new(cap: Any, v: Any, memo: Any) -> Any:
    def go(x: Any) -> Any:
        return _deepcopy(cap, x, memo)

    t = type(v)
    if isinstance(v, torch.Tensor):
        if v.storage_key in memo.setdefault("storages", set()):
            unsupported("copy", "copy.deepcopy of tensors that share memory")
        memo["storages"].add(v.storage_key)
        return copy_leaf(cap, v)
    method = python_method(cap, v, "__deepcopy__")
    if method is not None:
        return cap.call(method, (v, memo))
    if t is tuple:
        new = tuple(map(go, v))
        return v if all(a is b for a, b in zip(new, v)) else new
    if t is list:
        memo[id(v)] = new = []
        new.extend(map(go, v))
        return new
    if t is dict or t is OrderedDict:
        memo[id(v)] = new = t()
        new.update((go(k), go(x)) for k, x in v.items())
        return new
    if t is set or t is frozenset:
        return t(map(go, v))
    if t is defaultdict:
        return defaultdict(v.default_factory, [(go(k), go(x)) for k, x in v.items()])
    if t is deque:
        return deque(map(go, v), v.maxlen)
    if t is types.MethodType:
        return types.MethodType(v.__func__, go(v.__self__))
    if _pickles_itself(cap, v):
        unsupported("copy", "copy.deepcopy of an object with its own pickling", saw=t.__qualname__)
    return _clone(cap, v, go, memo)


def _pickles_itself(cap: Any, v: Any) -> bool:
    """Whether the class says how it is copied. What nn.Module gives and takes is its dictionary, but for a compiled call."""
    own = [python_method(cap, v, name) for name in ("__reduce_ex__", "__reduce__", "__getstate__", "__setstate__")]
    return any(m is not None and m not in _OF_MODULES for m in own)


_OF_MODULES = (getattr(torch.nn.Module, "__getstate__", None), torch.nn.Module.__setstate__)
