"""Binding of call arguments to the slots of a Python function, as CPython does it.

Between: `calls.call_function` -> the locals of a new frame.
Keeps:   defaults are read as outside values (lifted, guarded); errors are TypeErrors of the program with CPython's text.
"""

from __future__ import annotations

from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any, NoReturn

from .control import InternalError, native
from .frames import NULL
from .lift import is_torch_owned
from .source import ConstantSource, DefaultsSource, KwDefaultsSource

if TYPE_CHECKING:
    from .session import Capture

__all__ = ["bind"]

_VARARGS, _VARKEYWORDS = 4, 8


def slot_count(code: CodeType) -> int:
    return len(code.co_varnames) + sum(v not in code.co_varnames for v in code.co_cellvars) + len(code.co_freevars)


_slot_counts: dict[CodeType, int] = {}


def bind(cap: Capture, func: Any, args: Any, kwargs: dict[str, Any] | None) -> list[Any]:
    """localsplus of a new frame of `func`."""
    code: CodeType = func.__code__
    size = _slot_counts.get(code)
    if size is None:
        size = _slot_counts[code] = slot_count(code)
    argc, kwonly, flags = code.co_argcount, code.co_kwonlyargcount, code.co_flags
    n = len(args)
    if n == argc and not kwargs and not kwonly and not flags & (_VARARGS | _VARKEYWORDS):
        return [*args, *[NULL] * (size - argc)]
    fast = [NULL] * size
    given = min(n, argc)
    fast[:given] = args[:given]
    total = argc + kwonly
    at = total
    if flags & _VARARGS:
        fast[at] = tuple(args[argc:])
        at += 1
    elif n > argc:
        _wrong_call(func, args, kwargs)
    extra: dict[str, Any] | None = None
    if flags & _VARKEYWORDS:
        extra = fast[at] = {}
    if kwargs and not _bind_keywords(func, code, fast, kwargs, total, extra) or not _fill_defaults(cap, func, code, fast, given, argc, kwonly):
        _wrong_call(func, args, kwargs)
    return fast


def _bind_keywords(func: Any, code: CodeType, fast: list[Any], kwargs: dict[str, Any], total: int, extra: dict[str, Any] | None) -> bool:
    """False where the call is wrong."""
    names = code.co_varnames[:total]
    first = code.co_posonlyargcount
    for k, v in kwargs.items():
        try:
            i = names.index(k, first)
        except ValueError:
            if extra is None:
                return False
            extra[k] = v
            continue
        if fast[i] is not NULL:
            return False
        fast[i] = v
    return True


def _fill_defaults(cap: Capture, func: Any, code: CodeType, fast: list[Any], given: int, argc: int, kwonly: int) -> bool:
    """False where an argument is missing."""
    missing = [i for i in range(given, argc) if fast[i] is NULL]
    raw = id(func) in cap.own or is_torch_owned(func.__module__)
    if missing:
        defaults = func.__defaults__ or ()
        first = argc - len(defaults)
        if missing[0] < first:
            return False
        for i in missing:
            v = defaults[i - first]
            fast[i] = v if raw else cap.lift(v, DefaultsSource(cap.sources.get(id(func)) or ConstantSource(func), i - first))
    kwdefaults = func.__kwdefaults__ or {}
    for i in range(argc, argc + kwonly):
        if fast[i] is NULL:
            name = code.co_varnames[i]
            if name not in kwdefaults:
                return False
            v = kwdefaults[name]
            fast[i] = v if raw else cap.lift(v, KwDefaultsSource(cap.sources.get(id(func)) or ConstantSource(func), name))
    return True


def _nothing() -> None:
    pass


def _wrong_call(func: Any, args: Any, kwargs: dict[str, Any] | None) -> NoReturn:
    """CPython's own TypeError: the call of a function of the same signature that does nothing."""
    code, empty = func.__code__, _nothing.__code__
    flags = code.co_flags & (_VARARGS | _VARKEYWORDS) | empty.co_flags & ~(_VARARGS | _VARKEYWORDS)
    stub = FunctionType(
        empty.replace(
            co_argcount=code.co_argcount, co_posonlyargcount=code.co_posonlyargcount, co_kwonlyargcount=code.co_kwonlyargcount, co_varnames=code.co_varnames, co_nlocals=len(code.co_varnames),
            co_flags=flags, co_name=code.co_name, co_qualname=func.__qualname__,
        ),
        {}, code.co_name, func.__defaults__,
    )  # fmt: skip
    stub.__kwdefaults__, stub.__qualname__ = func.__kwdefaults__, func.__qualname__
    native(stub, *args, **(kwargs or {}))
    raise InternalError(f"binding the arguments of {func.__qualname__} failed, CPython does it")
