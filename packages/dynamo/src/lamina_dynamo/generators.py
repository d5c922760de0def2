"""Generators of the interpreted program: objects that native code can iterate, whose frames we interpret.

Between: RETURN_GENERATOR -> FOR_ITER, `next`, and C code such as `list` or `zip` that iterates.
Keeps:   `__next__` raises StopIteration itself (C code looks for it); other exceptions of the program stay `Observed`.
"""

from __future__ import annotations

import builtins
import types
from typing import Any

from .attributes import has_method, load_attr
from .bytecode import VERSION
from .control import MISSING, Observed, observe, stands_for
from .frames import ExcSlot, Frame, chain, run, unwind

__all__ = ["InterpretedGenerator", "raised_in_generator"]


@stands_for(types.GeneratorType)
class InterpretedGenerator:
    """A suspended interpreter frame with the generator protocol."""

    __slots__ = ("done", "frame", "handled", "running")

    def __init__(self, frame: Frame) -> None:
        self.frame, self.done, self.running = frame, False, False
        self.handled: Any = None  # the exception that its code is handling, while it is suspended in a handler
        cap = frame.cap
        cap.created[id(self)] = (self, cap.step)

    def __iter__(self) -> InterpretedGenerator:
        return self

    def __next__(self) -> Any:
        return self._resume(None, None)

    def send(self, value: Any) -> Any:
        return self._resume(value, None)

    def throw(self, exc: Any, value: Any = None, traceback: Any = None) -> Any:
        if isinstance(exc, type):
            exc = value if isinstance(value, exc) else exc() if value is None else exc(*value) if isinstance(value, tuple) else exc(value)
        return self._throw(exc)

    def _throw(self, exc: BaseException) -> Any:
        """Into the iterator that a `yield from` waits for, if there is one, else here."""
        f = self.frame
        inner = self._delegate()
        if inner is None or self.running:
            return self._resume(None, exc)
        cap = f.cap
        try:
            if isinstance(exc, GeneratorExit):
                if has_method(cap, inner, "close"):
                    cap.call(load_attr(cap, inner, "close"), ())
            elif has_method(cap, inner, "throw"):
                return cap.call(load_attr(cap, inner, "throw"), (exc,))
        except Observed as e:
            if not isinstance(e.exc, StopIteration):
                return self._resume(None, e.exc)
            return self._end_delegation(e.exc.value)
        except StopIteration as e:
            return self._end_delegation(e.value)
        return self._resume(None, exc)

    def _delegate(self) -> Any:
        """The iterator of the `yield from` at which the frame is suspended."""
        f = self.frame
        instructions = f.program.instructions
        at = f.pc
        if self.done or instructions[at - 1].op != "YIELD_VALUE" or at < 2 or instructions[at - 2].op != "SEND":
            return None
        return f.stack[-1]

    def _end_delegation(self, value: Any) -> Any:
        """Go on after the `yield from` with its value."""
        f = self.frame
        f.pc = f.program.instructions[f.pc - 2].target
        if VERSION >= (3, 12):
            f.stack.append(value)
        else:
            f.stack[-1] = value
        return self._resume(MISSING, None)

    def close(self) -> None:
        if self.done or self.frame.program.instructions[self.frame.pc - 1].op == "RETURN_GENERATOR":
            self.done = True
            return
        try:
            self._throw(GeneratorExit())
        except StopIteration:
            return
        except Observed as e:
            if not isinstance(e.exc, GeneratorExit):
                raise
            return
        observe(RuntimeError("generator ignored GeneratorExit"))

    def _resume(self, value: Any, exc: BaseException | None) -> Any:
        if self.done:
            if exc is not None:
                raise Observed(exc, chained=True)
            raise StopIteration
        if self.running:
            observe(ValueError("generator already executing"))
        f = self.frame
        f.parent, f._base = f.cap.frame, None
        f.suspended = False
        self.running = True
        cap = f.cap
        outer = cap.handled
        try:
            self._enter_handlers(outer)
            if exc is not None:
                chain(exc, self.handled)  # and not what the caller is handling
                unwind(f, Observed(exc, chained=True))
            else:
                self._push_sent(f, value)
            out = run(f)
        except Observed as e:
            self.done = True
            if isinstance(e.exc, StopIteration):
                observe(raised_in_generator(e.exc))
            raise
        except BaseException:
            self.done = True
            raise
        finally:
            self.running = False
            cap.handled = outer
        if f.suspended:
            self.handled = f.handled if any(isinstance(v, ExcSlot) for v in f.stack) else None
            return out
        self.done = True
        raise StopIteration() if out is None else StopIteration(out)

    def _push_sent(self, f: Frame, value: Any) -> None:
        """The value of the `yield` expression. The first resume finds the None that RETURN_GENERATOR left."""
        if value is not MISSING and f.program.instructions[f.pc - 1].op == "YIELD_VALUE":
            f.stack.append(value)

    def must_be_closed(self) -> bool:
        """Whether dropping it now would run code of the program: a handler, `finally` or `with` around the `yield`."""
        if self.done or self.frame.program.instructions[self.frame.pc - 1].op == "RETURN_GENERATOR":
            return False
        program, at = self.frame.program, self.frame.pc - 1
        while (entry := program.handler_of[at]) is not None:
            if program.instructions[entry.target].op in ("CALL_INTRINSIC_1", "CLEANUP_THROW"):
                return False
            passed = self._passes_exit(entry.target)
            if passed is None:
                return True
            at = passed
        return False

    def _enter_handlers(self, outer: Any) -> None:
        """A handler in which the generator is suspended goes on; the outermost one, when it ends, leaves what is handled by who resumes now."""
        slot = next((v for v in self.frame.stack if isinstance(v, ExcSlot)), None)
        if slot is not None:
            slot.exc = outer
            self.frame.cap.handled = self.handled

    def _passes_exit(self, at: int) -> int | None:
        """Where a handler raises GeneratorExit again, if all it does is to compare it with built-in exceptions of other kinds."""
        code = self.frame.program.instructions
        names = self.frame.code.co_names
        while code[at].op in _EXCEPT_OPS:
            op = code[at].op
            if op == "LOAD_GLOBAL":
                name = names[code[at].arg >> 1]
                kind = getattr(builtins, name, None)
                if name in self.frame.globals or not isinstance(kind, type) or issubclass(GeneratorExit, kind):
                    return None
            target = code[at].target if "JUMP" in op else None
            at = at + 1 if target is None else target
        return at if code[at].op == "RERAISE" else None


def raised_in_generator(exc: StopIteration) -> RuntimeError:
    """What leaves a generator whose code raised StopIteration (PEP 479)."""
    error = RuntimeError("generator raised StopIteration")
    error.__cause__ = error.__context__ = exc
    return error


_EXCEPT_OPS = frozenset({"PUSH_EXC_INFO", "LOAD_GLOBAL", "BUILD_TUPLE", "CHECK_EXC_MATCH", "POP_JUMP_FORWARD_IF_FALSE", "POP_JUMP_IF_FALSE", "COPY", "POP_EXCEPT"})
