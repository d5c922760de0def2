"""`cls(...)` during capture: which classes are called natively, and the steps of `type.__call__` for the others."""

from __future__ import annotations

import functools
import itertools
import operator
import types
from collections import OrderedDict, defaultdict, deque
from typing import TYPE_CHECKING, Any

import torch

from .attributes import class_lookup
from .control import MISSING, native, observe, unsupported
from .lift import is_torch_owned

if TYPE_CHECKING:
    from .session import Capture

__all__ = ["PURE_C_MODULES", "call_type", "instantiate"]

PURE_C_MODULES = frozenset({
    "builtins", "math", "cmath", "operator", "_operator", "itertools", "_functools", "functools", "_collections", "collections", "_struct", "_bisect", "_heapq", "unicodedata", "_sre", "_statistics", "_abc", "_typing", "_weakref",
    "binascii", "zlib", "_json", "_string", "sys", "posix", "_imp", "_stat", "_codecs", "_warnings", "_contextvars", "_weakrefset", "types", "einops", "_hashlib", "_sha2", "_sha256", "_md5", "_sha1", "_blake2",
})  # fmt: skip
_NATIVE_CLASSES = frozenset({
    int, float, complex, bool, str, bytes, bytearray, list, tuple, dict, set, frozenset, slice, range, object, OrderedDict, deque, defaultdict, memoryview, property, staticmethod, classmethod,
    types.MethodType, types.FunctionType, types.SimpleNamespace, types.MappingProxyType, functools.partial, operator.itemgetter, operator.attrgetter, operator.methodcaller,
    torch.Size, torch.device, torch.dtype, types.CellType, types.GenericAlias,
})  # fmt: skip
_CALLBACK_CLASSES = frozenset({map, filter, itertools.starmap, itertools.takewhile, itertools.dropwhile, itertools.filterfalse, itertools.groupby, itertools.accumulate})
_ITERATING_CLASSES = frozenset({enumerate, zip, reversed, *(v for v in vars(itertools).values() if isinstance(v, type))})


def _for_c(cap: Capture, v: Any) -> Any:
    """An argument that C code calls or iterates over."""
    return cap.trampoline(v) if callable(v) else cap.plain_iterable(v)


def call_type(cap: Capture, cls: type, args: Any, kwargs: Any) -> Any:
    """`cls(...)`."""
    if cls in _CALLBACK_CLASSES:
        out = native(cls, *[_for_c(cap, a) for a in args], **{k: _for_c(cap, a) for k, a in (kwargs or {}).items()})
        cap.created[id(out)] = (out, cap.step)
        return out
    if cls in _ITERATING_CLASSES:
        out = native(cls, *cap.plain_iterables(args), **(kwargs or {}))
        cap.note_iterator(out)
        return out
    if issubclass(cls, dict) and args:
        args = [cap.pairs_of(args[0]) if cls is not defaultdict else args[0], *map(cap.pairs_of, args[1:])]
    if cls in _NATIVE_CLASSES:
        return native(cls, *cap.plain_iterables(args), **(kwargs or {}))
    if issubclass(cls, BaseException):
        return _new_exception(cap, cls, args, kwargs)
    meta = type(cls)
    hook = class_lookup(cap, meta, "__call__") if meta is not type else MISSING
    if hook is not MISSING and type(hook[0]) is types.FunctionType:
        if hook[1].__module__ == "enum":
            return native(cls, *args, **(kwargs or {}))
        return cap.call(hook[0], (cls, *args), kwargs)
    if issubclass(cls, torch.Tensor) and is_torch_owned(cls.__module__):
        unsupported("tensor-class", "making a tensor through a class", saw=cls.__qualname__, hint="use torch.tensor or a factory function")
    return instantiate(cap, cls, args, kwargs)


def instantiate(cap: Capture, cls: type, args: Any, kwargs: Any) -> Any:
    """type.__call__: `__new__`, then `__init__`."""
    new = class_lookup(cap, cls, "__new__")[0]
    init = class_lookup(cap, cls, "__init__")[0]
    if type(new) is staticmethod:
        new = new.__func__
    py_new, py_init = type(new) is types.FunctionType, type(init) is types.FunctionType
    if not py_new and not py_init and new is not object.__new__ and not issubclass(cls, torch.Tensor):
        if _is_c_pure(cls):
            return native(cls, *cap.plain_iterables(args), **(kwargs or {}))
        if not issubclass(cls, (dict, list, tuple, set, deque, int, float, str, types.SimpleNamespace)):
            unsupported("c-call", "making an object of a class implemented in C", saw=f"{cls.__module__}.{cls.__qualname__}")
    if py_new:
        obj = cap.call(new, (cls, *args), kwargs)
        if not issubclass(cap.type_of(obj), cls):
            return obj
    else:
        obj = cap.new_object(new, (cls, *args) if not py_init or issubclass(cls, (tuple, torch.Tensor)) else (cls,), kwargs if not py_init else None)
    if py_init:
        out = cap.call(init, (obj, *args), kwargs)
        if out is not None:
            observe(TypeError(f"__init__() should return None, not {type(out).__name__!r}"))
    elif init is not object.__init__ and type(init) is types.WrapperDescriptorType and not issubclass(cls, (tuple, torch.Tensor)):
        native(init, obj, *cap.plain_iterables(args), **(kwargs or {}))
    return obj


def _is_c_pure(cls: type) -> bool:
    m = cls.__module__ or ""
    return m in PURE_C_MODULES or m in ("re", "inspect", "typing", "types", "weakref", "contextvars", "uuid") or m.startswith("torch") or m == "numpy"


def _new_exception(cap: Capture, cls: type, args: Any, kwargs: Any) -> Any:
    args = [cap.concrete(a) for a in args]
    init = class_lookup(cap, cls, "__init__")[0]
    if type(init) is types.FunctionType and not init.__module__.startswith(("torch", "lamina")):
        obj = native(cls.__new__, cls, *args)
        cap.call(init, (obj, *args), kwargs)
        return obj
    return native(cls, *args, **(kwargs or {}))
