"""Raising, handling, `with`."""

from __future__ import annotations

from typing import Any

from ..attributes import class_lookup, guard_mro, load_attr
from ..control import MISSING, Observed, observe, unsupported
from ..frames import ExcSlot, Frame, chain
from . import handler


@handler("RAISE_VARARGS")
def raise_varargs(f: Frame, n: int) -> None:
    cause: Any = MISSING
    if n == 2:
        cause = f.stack.pop()
    if n == 0:
        if f.cap.handled is None:
            observe(RuntimeError("No active exception to reraise"))
        raise Observed(f.cap.handled, chained=True)
    exc = f.stack.pop()
    if isinstance(exc, type) and issubclass(exc, BaseException):
        exc = f.cap.call(exc, ())
    if not isinstance(exc, BaseException):
        observe(TypeError("exceptions must derive from BaseException"))
    if id(exc) in f.cap.sources:  # its traceback, context and cause change
        unsupported("foreign-mutation", "raising an exception object that was made outside", saw=type(exc).__qualname__, hint="raise a new one")
    if cause is not MISSING:
        exc.__cause__ = cause() if isinstance(cause, type) else cause
    chain(exc, f.cap.handled)
    raise Observed(exc, chained=True)


@handler("RERAISE")
def reraise(f: Frame, depth: int) -> None:
    raise Observed(f.stack.pop(), chained=True)


@handler("PUSH_EXC_INFO")
def push_exc_info(f: Frame, arg: Any) -> None:
    exc = f.stack.pop()
    f.stack += [ExcSlot(f.cap.handled), exc]
    f.cap.handled = exc


@handler("POP_EXCEPT")
def pop_except(f: Frame, arg: Any) -> None:
    f.cap.handled = f.stack.pop().exc


@handler("CHECK_EXC_MATCH")
def check_exc_match(f: Frame, arg: Any) -> None:
    kind = f.stack.pop()
    exc = f.stack[-1]
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not all(isinstance(k, type) and issubclass(k, BaseException) for k in kinds):
        observe(TypeError("catching classes that do not inherit from BaseException is not allowed"))
    guard_mro(f.cap, type(exc))
    f.stack.append(isinstance(exc, kinds))


@handler("BEFORE_WITH")
def before_with(f: Frame, arg: Any) -> None:
    manager = f.stack.pop()
    for name in ("__enter__", "__exit__"):
        if class_lookup(f.cap, type(manager), name) is MISSING:
            observe(TypeError(f"{type(manager).__name__!r} object does not support the context manager protocol"))
    leave = load_attr(f.cap, manager, "__exit__")
    f.stack.append(leave)
    f.stack.append(f.cap.call(load_attr(f.cap, manager, "__enter__"), ()))


@handler("WITH_EXCEPT_START")
def with_except_start(f: Frame, arg: Any) -> None:
    """Stack: exit function, lasti, previous exception, exception."""
    exc = f.stack[-1]
    leave = f.stack[-4]
    f.stack.append(f.cap.call(leave, (type(exc), exc, exc.__traceback__)))

