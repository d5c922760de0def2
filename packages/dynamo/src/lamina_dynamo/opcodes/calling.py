"""Call instructions."""

from __future__ import annotations

from typing import Any

from ..control import unsupported
from ..frames import NULL, Frame
from ..generators import raised_in_generator
from ..loops import range_of_loop
from . import VERSION, handler
from .build import mapping_items


@handler("KW_NAMES", arg="const")
def kw_names(f: Frame, names: Any) -> None:
    f.kwnames = names


@handler("CALL")
def call(f: Frame, n: int) -> None:
    """3.11, 3.12: [NULL, callable, args] or [callable, self, args]; 3.13: [callable, self or NULL, args]."""
    s = f.stack
    base = len(s) - n - 2
    a, b = s[base], s[base + 1]
    args = s[base + 2 :]
    del s[base:]
    if VERSION >= (3, 13):
        fn = a
        if b is not NULL:
            args.insert(0, b)
    elif a is NULL:
        fn = b
    else:
        fn = a
        args.insert(0, b)
    names = f.kwnames
    if names:
        f.kwnames = ()
        k = len(names)
        kwargs = dict(zip(names, args[-k:]))
        del args[-k:]
        s.append(f.cap.call(fn, args, kwargs))
    else:
        loop = range_of_loop(f, args) if fn is range else None
        s.append(f.cap.call(fn, args, None) if loop is None else loop)


@handler("CALL_KW")
def call_kw(f: Frame, n: int) -> None:
    f.kwnames = f.stack.pop()
    call(f, n)


@handler("CALL_FUNCTION_EX")
def call_function_ex(f: Frame, flags: int) -> None:
    s = f.stack
    kwargs = dict(mapping_items(f.cap, s.pop())) if flags & 1 else None
    args = list(f.cap.sequence(s.pop()))
    fn = s.pop()
    if VERSION >= (3, 13):
        if fn is NULL:
            fn = s.pop()
    elif s and s[-1] is NULL:
        s.pop()
    s.append(f.cap.call(fn, args, kwargs))


@handler("CALL_INTRINSIC_1")
def call_intrinsic_1(f: Frame, which: int) -> None:
    s = f.stack
    if which == 3:  # STOPITERATION_ERROR
        exc = s[-1]
        if isinstance(exc, StopIteration):
            s[-1] = raised_in_generator(exc)
    elif which == 5:  # UNARY_POSITIVE
        s[-1] = +s[-1]
    elif which == 6:  # LIST_TO_TUPLE
        s[-1] = tuple(s[-1])
    else:
        unsupported("opcode", f"CALL_INTRINSIC_1 {which}")


@handler("CALL_INTRINSIC_2")
def call_intrinsic_2(f: Frame, which: int) -> None:
    unsupported("opcode", f"CALL_INTRINSIC_2 {which}")
