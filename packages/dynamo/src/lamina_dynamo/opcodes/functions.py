"""Making functions."""

from __future__ import annotations

from types import CellType, FunctionType

from ..frames import Frame
from . import VERSION, handler


def _register(f: Frame, fn: FunctionType) -> FunctionType:
    f.cap.own[id(fn)] = fn
    return fn


@handler("MAKE_FUNCTION")
def make_function(f: Frame, flags: int) -> None:
    s = f.stack
    code = s.pop()
    if VERSION >= (3, 13):
        cells = tuple(CellType() for _ in code.co_freevars)  # SET_FUNCTION_ATTRIBUTE brings the real ones
        fn = FunctionType(code, f.globals, code.co_name, None, cells or None)
    else:
        closure = s.pop() if flags & 8 else None
        annotations = s.pop() if flags & 4 else None
        kwdefaults = s.pop() if flags & 2 else None
        defaults = s.pop() if flags & 1 else None
        fn = FunctionType(code, f.globals, code.co_name, None, closure)
        if isinstance(annotations, tuple):
            annotations = dict(zip(annotations[::2], annotations[1::2]))
        if annotations:
            fn.__annotations__ = annotations
        fn.__kwdefaults__, fn.__defaults__ = kwdefaults, defaults
    s.append(_register(f, fn))


@handler("SET_FUNCTION_ATTRIBUTE")
def set_function_attribute(f: Frame, flag: int) -> None:
    fn, value = f.stack.pop(), f.stack.pop()
    if flag == 8:
        new = FunctionType(fn.__code__, fn.__globals__, fn.__name__, fn.__defaults__, value)
        new.__kwdefaults__, new.__annotations__ = fn.__kwdefaults__, fn.__annotations__
        fn = _register(f, new)
    elif flag == 4:
        fn.__annotations__ = dict(zip(value[::2], value[1::2])) if isinstance(value, tuple) else value
    elif flag == 2:
        fn.__kwdefaults__ = value
    elif flag == 1:
        fn.__defaults__ = value
    f.stack.append(fn)
