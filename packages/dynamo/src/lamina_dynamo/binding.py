"""Binding of call arguments to the slots of a Python function, as CPython does it.

Between: `calls.call_function` -> the locals of a new frame.
Keeps:   defaults are read as outside values (lifted, guarded); errors are TypeErrors of the program with CPython's text.
"""

from __future__ import annotations

from types import CodeType
from typing import TYPE_CHECKING, Any

from .control import Observed
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
        _too_many(func, n)
    extra: dict[str, Any] | None = None
    if flags & _VARKEYWORDS:
        extra = fast[at] = {}
    if kwargs:
        _bind_keywords(func, code, fast, kwargs, total, extra)
    _fill_defaults(cap, func, code, fast, given, argc, kwonly)
    return fast


def _bind_keywords(func: Any, code: CodeType, fast: list[Any], kwargs: dict[str, Any], total: int, extra: dict[str, Any] | None) -> None:
    names = code.co_varnames[:total]
    first = code.co_posonlyargcount
    for k, v in kwargs.items():
        try:
            i = names.index(k, first)
        except ValueError:
            if extra is None:
                raise Observed(TypeError(f"{func.__qualname__}() got an unexpected keyword argument {k!r}")) from None
            extra[k] = v
            continue
        if fast[i] is not NULL:
            raise Observed(TypeError(f"{func.__qualname__}() got multiple values for argument {k!r}"))
        fast[i] = v


def _fill_defaults(cap: Capture, func: Any, code: CodeType, fast: list[Any], given: int, argc: int, kwonly: int) -> None:
    missing = [i for i in range(given, argc) if fast[i] is NULL]
    if missing:
        defaults = func.__defaults__ or ()
        first = argc - len(defaults)
        if missing[0] < first:
            lost = [repr(code.co_varnames[i]) for i in missing if i < first]
            raise Observed(TypeError(f"{func.__qualname__}() missing {len(lost)} required positional argument{'s' * (len(lost) > 1)}: {_and(lost)}"))
        raw = id(func) in cap.own or is_torch_owned(func.__module__)
        for i in missing:
            v = defaults[i - first]
            fast[i] = v if raw else cap.lift(v, DefaultsSource(cap.sources.get(id(func)) or ConstantSource(func), i - first))
    if kwonly:
        kwdefaults = func.__kwdefaults__ or {}
        for i in range(argc, argc + kwonly):
            if fast[i] is NULL:
                name = code.co_varnames[i]
                if name not in kwdefaults:
                    raise Observed(TypeError(f"{func.__qualname__}() missing 1 required keyword-only argument: {name!r}"))
                v = kwdefaults[name]
                raw = id(func) in cap.own or is_torch_owned(func.__module__)
                fast[i] = v if raw else cap.lift(v, KwDefaultsSource(cap.sources.get(id(func)) or ConstantSource(func), name))


def _and(names: list[str]) -> str:
    if len(names) == 1:
        return names[0]
    if len(names) == 2:
        return " and ".join(names)
    return ", ".join(names[:-1]) + ", and " + names[-1]


def _too_many(func: Any, n: int) -> None:
    argc = func.__code__.co_argcount
    lo = argc - len(func.__defaults__ or ())
    takes = str(argc) if lo == argc else f"from {lo} to {argc}"
    raise Observed(TypeError(f"{func.__qualname__}() takes {takes} positional argument{'s' * (argc != 1)} but {n} {'were' if n != 1 else 'was'} given"))
