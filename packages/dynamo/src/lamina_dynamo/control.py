"""What travels through the interpreter besides values: exceptions of the interpreted program, and our own refusals.

Between: opcode handlers, rules and native calls -> the interpreter loop and `convert`.
Keeps:   an exception of the *program* is always wrapped in `Observed`; anything else that escapes a handler is ours.
"""

from __future__ import annotations

import enum
import types
from typing import Any, NoReturn

import numpy as np
import torch
from lamina_dynshape.composites import is_symbolic_refusal
from lamina_dynshape.support.errors import InternalError, LaminaError, Unsupported

from .reasons import REASONS

__all__ = ["DELETED", "MISSING", "STANDS_FOR", "stands_for", "InternalError", "NotYet", "Observed", "CHECK_FAILED", "CannotCheck", "CannotRebuild", "Checking", "CopyDict", "FreshLeaves", "HookOutside", "ReadsList", "HookStays", "RestartCapture", "Unsupported", "native", "observe", "plain_numbers", "refusal", "unsupported", "values"]


class Observed(Exception):
    """An exception that the interpreted program raised; `exc` is the real one, `frame` the innermost frame that it left.

    chained: its context is settled, which happens where it is raised and not in the frames that it passes.
    """

    def __init__(self, exc: BaseException, frame: Any = None, *, chained: bool = False) -> None:
        super().__init__(exc)
        self.exc, self.frame, self.chained = exc, frame, chained


class RestartCapture(BaseException):
    """Start the frame again, now breaking at root instruction number `step`."""

    def __init__(self, step: int, reason: Unsupported) -> None:
        super().__init__(step)
        self.step, self.reason = step, reason


class CannotRebuild(BaseException):
    """A live value cannot be made by replacement code. `step`: the root instruction that made it, if known."""

    def __init__(self, step: int | None, reason: Unsupported) -> None:
        super().__init__(str(reason))
        self.step, self.reason = step, reason


CHECK_FAILED = "lamina: a branch that was taken not to be taken"  # what a check in the graph raises


class Checking(enum.Enum):
    """When a condition is looked at that the path relies on, and only the running program can decide."""

    AFTER = enum.auto()   # the graph, which changed nothing
    INSIDE = enum.auto()  # the graph, before it writes to memory from outside; conditions met after such writes break it
    NEVER = enum.auto()   # they all break the graph


class CannotCheck(BaseException):
    """Conditions cannot be checked as this capture meant to: capture again, with the next of `Checking`."""


class ReadsList(BaseException):
    """A list from outside that was taken to be only appended to is read: capture again, knowing what it holds."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class NotYet(BaseException):
    """This call runs eagerly; a later one may be captured."""

    def __init__(self, reason: Unsupported) -> None:
        super().__init__(str(reason))
        self.reason = reason


class FreshLeaves(BaseException):
    """A leaf that the graph makes is seen outside: capture again, and have such leaves made outside of the graph."""


class HookStays(BaseException):
    """A hook that the frame registers on a module outlives it: capture again, and have handles made as PyTorch makes them."""


class HookOutside(BaseException):
    """Capture again with this registration of a hook (by its number in the frame) made outside of the graph."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class CopyDict(BaseException):
    """Capture again with this large outside dictionary copied: more is done with it than reading some of its keys."""

    def __init__(self, d: Any) -> None:
        super().__init__()
        self.d = d


def observe(exc: BaseException) -> NoReturn:
    """Raise `exc` as the program's own."""
    raise Observed(exc)


def refusal(code: str, what: str, *, saw: str = "", hint: str = "") -> Unsupported:
    """A reason to break, of a kind in `REASONS`, whose remedy is the hint unless a better one is given. The location is filled in by the interpreter."""
    return Unsupported(what, where=None, saw=saw, hint=hint or REASONS[code].remedy, code=code)


def unsupported(code: str, what: str, *, saw: str = "", hint: str = "") -> NoReturn:
    """Refuse: a graph break at the root instruction being run."""
    raise refusal(code, what, saw=saw, hint=hint)


def _watched(fn: Any, *args: Any, **kwargs: Any) -> Any:
    """The first call: gets the extension's function in its own place."""
    from .eval_frame import whose_code
    from .native import extension

    extension().set_watch(whose_code, _refuse_callback)
    globals()["_watched"] = extension().watched
    return _watched(fn, *args, **kwargs)


def _refuse_callback(code: types.CodeType) -> NoReturn:
    unsupported("callback", "C code that calls a function of the program", saw=code.co_qualname)


def native(fn: Any, *args: Any, **kwargs: Any) -> Any:
    """Call `fn` as CPython would; what it raises is the program's exception."""
    try:
        out = _watched(fn, *args, **kwargs)
        return out if type(out) is not np.ndarray or out.dtype != object else _of_values(fn, args, kwargs, out)
    except (Observed, LaminaError):
        raise
    except TypeError as exc:
        if any(map(_holds_text, (*args, *kwargs.values()))):
            unsupported("tensor-text", "a text of a tensor's value in C code", saw=getattr(fn, "__name__", type(fn).__name__))
        symbolic = "non-nested SymInt" in str(exc) or "SymBool" in str(exc)
        if not symbolic:
            raise Observed(exc) from exc
        if not any(map(_holds_symbol, (*args, *kwargs.values()))):  # something that the arguments give holds it
            unsupported("symbolic-operator", "a key of a dict or set that changes from call to call", saw=getattr(fn, "__name__", type(fn).__name__), hint="use the numbers in a list, or compile with dynamic=False")
    except Exception as exc:
        if isinstance(exc, RuntimeError) and is_symbolic_refusal(exc):
            unsupported("symbolic-operator", "C++ takes no symbolic sizes here", saw=getattr(fn, "__name__", type(fn).__name__), hint="mark_static, or dynamic=False")
        raise Observed(exc) from exc
    # A key of a dict or set, or a flag: what is hashed and what C++ branches on must be a value; a dict is what is written to.
    # Outside of the handler: what is raised now has no context.
    return native(fn, *[a if type(a) is dict else plain_numbers(a) for a in args], **plain_numbers(kwargs))


def _holds_text(v: Any) -> bool:
    """Whether a stand-in for a text is what C code got."""
    return STANDS_FOR.get(type(v)) is str or type(v) in (list, tuple) and any(STANDS_FOR.get(type(x)) is str for x in v)


def _holds_symbol(v: Any) -> bool:
    """Whether `plain_numbers` makes another value of it."""
    return isinstance(v, (torch.SymInt, torch.SymBool)) or _is_row(v) and any(map(_holds_symbol, v))


def _is_row(v: Any) -> bool:
    return type(v) in (tuple, list, torch.Size) or isinstance(v, tuple) and hasattr(v, "_make")


def plain_numbers(v: Any) -> Any:
    """`v` with its symbolic integers and truths specialised."""
    if _is_row(v):
        if not _holds_symbol(v):
            return v
        return getattr(v, "_make", type(v))([plain_numbers(x) for x in v])
    if type(v) is dict:
        return {k: plain_numbers(x) for k, x in v.items()}
    if isinstance(v, torch.SymBool):
        return bool(v)
    return int(v) if isinstance(v, torch.SymInt) else v


def values(v: Any) -> Any:
    """`v` with its symbolic numbers of every kind specialised: NumPy makes arrays of objects from them."""
    if type(v) in (tuple, list):
        return type(v)(map(values, v))
    if type(v) is dict:
        return {k: values(x) for k, x in v.items()}
    return float(v) if isinstance(v, torch.SymFloat) else bool(v) if isinstance(v, torch.SymBool) else plain_numbers(v)


def _of_values(fn: Any, args: Any, kwargs: Any, out: Any) -> Any:
    """An array of objects: the program's own, or one of symbolic numbers, which is made again from their values."""
    symbolic = any(isinstance(x, (torch.SymInt, torch.SymFloat, torch.SymBool)) for x in out.flat)
    return fn(*values(args), **values(kwargs)) if symbolic else out


class _Mark:
    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"<{self.name}>"


MISSING: Any = _Mark("missing")
DELETED: Any = _Mark("deleted")


STANDS_FOR: dict[type, type] = {}  # our stand-in class -> the class it plays


def stands_for(played: type) -> Any:
    """Class decorator: `type(x)` of these objects is `played` for the interpreted program."""

    def register(cls: type) -> type:
        STANDS_FOR[cls] = played
        return cls

    return register
