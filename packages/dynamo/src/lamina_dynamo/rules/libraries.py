"""Rules for the standard library and for logging: what must neither run at capture nor stop it."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import logging
import sys
import types
import warnings
import weakref
from collections import OrderedDict, defaultdict, deque
from typing import Any

import torch

from ..attributes import class_lookup, load_attr, raw_dict
from ..calls import rule
from ..control import native, unsupported
from ..opcodes.operators import python_method


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


# ---- warnings and logging ----------------------------------------------------------------------------------------------
@rule(warnings.warn)
def warn(cap: Any, args: Any, kwargs: Any) -> None:
    """Shown once, at capture, at the user's line: what the default filter does in eager. Filters that the program itself set ask for more."""
    if warnings.showwarning is not _SHOW or warnings.filters[:1] and warnings.filters[0][0] in ("always", "error") or _changes_warnings(cap):
        unsupported("warning", "a warning under filters that show or raise each one", saw=str(args[0])[:80], hint="warn outside of the compiled function")
    message = args[0]
    category = args[1] if len(args) > 1 else kwargs.get("category") or (type(message) if isinstance(message, Warning) else UserWarning)
    f = cap.frame
    native(warnings.warn_explicit, message, category, f.code.co_filename, f.line, f.globals.get("__name__"), f.globals.setdefault("__warningregistry__", {}))


def _changes_warnings(cap: Any) -> bool:
    """Whether the frame set filters, or who shows warnings, before."""
    shadow = cap.shadow_of.get(id(warnings.filters))
    written = any(key == id(warnings.__dict__) for key, _ in cap.globals_overlay)
    return written or shadow is not None and list(shadow) != cap.pristine[id(shadow)]


def _log(level: int | None) -> Any:
    def run(cap: Any, args: Any, kwargs: Any) -> None:
        """A record that a cached function emits once appears at capture, where the function itself runs; others break."""
        logger = args[0]
        n = args[1] if level is None else level
        if not cap.once and native(logging.Logger.isEnabledFor, logger, n):
            unsupported("logging", "a log record that is emitted", saw=str(args[1:2])[:80], hint="lower the log level, or log outside of the compiled function")

    return run


for _name, _level in (("debug", 10), ("info", 20), ("warning", 30), ("error", 40), ("critical", 50), ("exception", 40), ("log", None), ("warn", 30)):
    if hasattr(logging.Logger, _name):
        rule(getattr(logging.Logger, _name))(_log(_level))


@rule(logging.getLogger, logging.Logger.isEnabledFor, logging.Logger.getEffectiveLevel)
def _get_logger(cap: Any, args: Any, kwargs: Any) -> Any:
    if args and isinstance(args[0], logging.Logger):
        return native(logging.Logger.isEnabledFor, *args) if len(args) > 1 else native(logging.Logger.getEffectiveLevel, *args)
    return native(logging.getLogger, *args)


@rule(sys.exception)
def exception(cap: Any, args: Any, kwargs: Any) -> Any:
    return cap.handled


@rule(sys.exc_info)
def exc_info(cap: Any, args: Any, kwargs: Any) -> Any:
    """The exception that the interpreted program handles."""
    exc = cap.handled
    return (None, None, None) if exc is None else (type(exc), exc, exc.__traceback__)


# ---- inspection --------------------------------------------------------------------------------------------------------
def _native_rules() -> None:
    def run_native(fn: Any) -> Any:
        return lambda cap, args, kwargs: native(fn, *args, **kwargs)

    for fn in (inspect.signature, inspect.getfullargspec, inspect.unwrap, inspect.isclass, inspect.isfunction, inspect.ismethod, inspect.getmodule, dataclasses.is_dataclass):
        rule(fn)(run_native(fn))


_native_rules()


@rule(dataclasses.fields)
def fields(cap: Any, args: Any, kwargs: Any) -> Any:
    v = args[0]
    return native(dataclasses.fields, v if isinstance(v, type) else type(v))


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
        unsupported("copy", "copy.copy of a tensor")
    if python_method(cap, v, "__reduce_ex__") or python_method(cap, v, "__reduce__") or python_method(cap, v, "__getstate__"):
        unsupported("copy", "copy.copy of an object with its own pickling", saw=t.__qualname__)
    return _clone(cap, v, lambda x: x)


def _clone(cap: Any, v: Any, inner: Any) -> Any:
    t = type(v)
    if class_lookup(cap, t, "__slots__") != class_lookup(cap, object, "__slots__") and raw_dict(v) is None:
        unsupported("copy", "copying an object with __slots__", saw=t.__qualname__)
    new = native(t.__new__, t)
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
        for k in list(attributes):
            new.__dict__[k] = inner(attributes[k])
    return new


@rule(copy.deepcopy)
def deepcopy_(cap: Any, args: Any, kwargs: Any) -> Any:
    memo: dict[int, Any] = {}

    def go(v: Any) -> Any:
        if isinstance(v, _ATOMS):
            return v
        if id(v) in memo:
            return memo[id(v)][1]
        cap.refuse_opaque(v)
        new = make(v)
        memo[id(v)] = (v, new)
        return new

    def make(v: Any) -> Any:
        t = type(v)
        if isinstance(v, torch.Tensor):
            return v.detach().clone() if not v.requires_grad else unsupported("copy", "copy.deepcopy of a tensor that requires grad")
        method = python_method(cap, v, "__deepcopy__")
        if method is not None:
            return cap.call(method, (v, {}))
        if t is tuple:
            return tuple(map(go, v))
        if t is list:
            return list(map(go, v))
        if t is dict or t is OrderedDict:
            return t((go(k), go(x)) for k, x in v.items())
        if t is set or t is frozenset:
            return t(map(go, v))
        if t in (defaultdict, deque) or isinstance(v, torch.nn.Module):
            unsupported("copy", "copy.deepcopy of this kind of object", saw=t.__qualname__)
        if python_method(cap, v, "__reduce_ex__") or python_method(cap, v, "__reduce__"):
            unsupported("copy", "copy.deepcopy of an object with its own pickling", saw=t.__qualname__)
        return _clone(cap, v, go)

    return go(args[0])


