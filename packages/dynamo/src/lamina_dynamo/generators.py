"""Generators of the interpreted program: objects that native code can iterate, whose frames we interpret.

Between: RETURN_GENERATOR -> FOR_ITER, `next`, and C code such as `list` or `zip` that iterates.
Keeps:   `__next__` raises StopIteration itself (C code looks for it); other exceptions of the program stay `Observed`.
"""

from __future__ import annotations

import types
from typing import Any

from .control import Observed, observe
from .frames import Frame, run, unwind
from .control import stands_for

__all__ = ["InterpretedGenerator"]


@stands_for(types.GeneratorType)
class InterpretedGenerator:
    """A suspended interpreter frame with the generator protocol."""

    __slots__ = ("done", "frame", "running")

    def __init__(self, frame: Frame) -> None:
        self.frame, self.done, self.running = frame, False, False
        cap = frame.cap
        cap.created[id(self)] = (self, cap.step)

    def __iter__(self) -> InterpretedGenerator:
        return self

    def __next__(self) -> Any:
        return self._resume(None, None)

    def send(self, value: Any) -> Any:
        return self._resume(value, None)

    def throw(self, exc: Any, *rest: Any) -> Any:
        return self._resume(None, exc() if isinstance(exc, type) else exc)

    def close(self) -> None:
        if self.done or self.frame.program.instructions[self.frame.pc - 1].op == "RETURN_GENERATOR":
            self.done = True
            return
        try:
            self._resume(None, GeneratorExit())
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
                observe(exc)
            raise StopIteration
        if self.running:
            observe(ValueError("generator already executing"))
        f = self.frame
        f.parent, f._base = f.cap.frame, None
        f.suspended = False
        self.running = True
        try:
            if exc is not None:
                unwind(f, exc)
            else:
                self._push_sent(f, value)
            out = run(f)
        except Observed as e:
            self.done = True
            if isinstance(e.exc, StopIteration):
                observe(RuntimeError("generator raised StopIteration"))
            raise
        except BaseException:
            self.done = True
            raise
        finally:
            self.running = False
        if f.suspended:
            return out
        self.done = True
        raise StopIteration(out)

    def _push_sent(self, f: Frame, value: Any) -> None:
        """The value of the `yield` expression. The first resume finds the None that RETURN_GENERATOR left."""
        if f.program.instructions[f.pc - 1].op == "YIELD_VALUE":
            f.stack.append(value)


def generator_frame(gen: Any) -> Frame:
    return gen.frame
