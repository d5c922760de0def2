"""Interpreter frames: locals, stack, the instruction loop, exception unwinding, argument binding.

Between: `calls` (which makes a frame per inlined function) and the opcode handlers.
Keeps:   `fast` is CPython's localsplus with NULL for unbound; `pc` is the index of the next instruction; exceptions of
         the program arrive as `Observed` and are unwound by the code's own exception table; anything else passes through.
"""

from __future__ import annotations

import builtins
import linecache
from types import CellType, CodeType
from typing import TYPE_CHECKING, Any, NamedTuple

from .bytecode import Program, program_of
from .control import Observed, RestartCapture, Unsupported, unsupported

if TYPE_CHECKING:
    from .session import Capture

__all__ = ["NULL", "ExcSlot", "Frame", "Location", "Unread", "run"]


class _Null:
    __slots__ = ()

    def __repr__(self) -> str:
        return "NULL"


NULL: Any = _Null()
MAX_DEPTH = 120
INLINE_BUILTINS = builtins.__dict__


class Unread:
    """A local variable that is bound and that nothing reads any more: resume functions take it along, since its object lives as long as the name."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class ExcSlot:
    """The previously handled exception, as PUSH_EXC_INFO leaves it on the stack."""

    __slots__ = ("exc",)

    def __init__(self, exc: Any) -> None:
        self.exc = exc


class Location(NamedTuple):
    """A user frame of a node, a guard or a break."""

    file: str
    line: int
    function: str

    @property
    def text(self) -> str:
        return linecache.getline(self.file, self.line).strip()

    def __str__(self) -> str:
        return f"{self.file}:{self.line} in {self.function}: {self.text}"


class Frame:
    """One activation of one code object."""

    __slots__ = ("_base", "args", "builtins", "cap", "code", "consts", "fast", "func", "globals", "handled", "is_root", "kwnames", "names", "namespace", "ops", "parent", "pc", "program", "result", "stack", "suspended")

    def __init__(self, cap: Capture, code: CodeType, fast: list[Any], globals_: dict[str, Any], func: Any, parent: Frame | None) -> None:
        self.cap, self.code, self.fast, self.globals, self.func = cap, code, fast, globals_, func
        program = program_of(code)
        if program.ops is None:
            from .opcodes import prepare

            prepare(program)
        self.program = program
        self.ops, self.args = program.ops, program.args
        self.consts, self.names = code.co_consts, code.co_names
        self.stack: list[Any] = []
        self.pc = 0
        self.parent = parent
        self.kwnames: tuple[str, ...] = ()
        self.builtins = INLINE_BUILTINS
        self.is_root = False
        self.result: Any = None
        self.suspended = False
        self.handled: Any = None  # what was being handled where the frame was suspended
        self.namespace: dict[str, Any] | None = None  # class bodies
        self._base: tuple[Any, ...] | None = None

    @property
    def line(self) -> int:
        i = max(self.pc - 1, 0)
        found = self.program.instructions[i].line
        return found if found is not None else self.code.co_firstlineno

    def location(self) -> Location:
        return Location(self.code.co_filename, self.line, self.code.co_qualname)

    def location_stack(self) -> tuple[Any, ...]:
        base = self._base
        if base is None:
            base = self._base = self.parent.location_stack() if self.parent is not None else ()
        return (*base, self.location())

    def catches(self) -> bool:
        """Whether the program has a say in what the present instruction raises, here or in a caller."""
        f: Frame | None = self
        while f is not None:
            if f.program.catches(f.pc - 1):
                return True
            f = f.parent
        return False


def run(f: Frame) -> Any:
    """Interpret until the frame returns or yields; -> its result."""
    cap = f.cap
    if cap.depth > MAX_DEPTH:
        unsupported("recursion", "calls nested too deeply to be inlined", hint="raise no recursion inside a compiled function, or disable it")
    ops, args = f.ops, f.args
    saved_frame, saved_exc = cap.frame, cap.handled
    cap.frame = f
    cap.depth += 1
    try:
        while True:
            try:
                try:
                    while True:
                        pc = f.pc
                        f.pc = pc + 1
                        if ops[pc](f, args[pc]) is not None:
                            return f.result
                except Observed as e:
                    unwind(f, e)
            except Unsupported as u:
                if u.where is None:
                    u.where = where_of(f)
                raise
    finally:
        cap.frame = saved_frame
        cap.handled = saved_exc
        cap.depth -= 1


def run_root(f: Frame, break_at: int | None) -> Any:
    """As `run`, for the root frame: counts instructions, so that a break can be placed before one of them."""
    cap = f.cap
    ops, args = f.ops, f.args
    cap.frame = f
    step = 0
    while True:
        try:
            try:
                while True:
                    if step == break_at:
                        return BREAK
                    cap.step = step
                    step += 1
                    pc = f.pc
                    f.pc = pc + 1
                    if ops[pc](f, args[pc]) is not None:
                        return f.result
            except Observed as e:
                unwind(f, e)
        except Unsupported as u:
            if u.where is None:
                u.where = where_of(f)
            raise RestartCapture(cap.step, u) from u


BREAK = object()


def where_of(f: Frame) -> Any:
    loc = f.location()
    try:
        from lamina_dynshape.support.errors import UserLocation

        return UserLocation(loc.file, loc.line, loc.function, loc.text)
    except ImportError:
        return loc


def unwind(f: Frame, observed: Observed) -> None:
    """Continue at the handler of the instruction that raised, or raise out of the frame."""
    exc = observed.exc
    entry = f.program.handler_of[f.pc - 1]
    cap = f.cap
    if not observed.chained and exc.__context__ is None and cap.handled is not None and cap.handled is not exc:
        exc.__context__ = cap.handled
    if entry is None:
        raise Observed(exc, observed.frame or f, chained=True)
    if exc is cap.recorder.failure:  # the handler may look at its text
        unsupported("operator-error", "an exception of an operator, handled by the program", saw=type(exc).__name__)
    del f.stack[entry.depth :]
    if entry.lasti:
        f.stack.append(f.pc - 1)
    f.stack.append(exc)
    f.pc = entry.target


def chain(exc: BaseException, handled: BaseException | None) -> None:
    """The context of an exception that is raised: what is being handled, also when it had another; a cycle is cut."""
    if handled is None or handled is exc:
        return
    at, seen = handled, set[int]()
    while at.__context__ is not None and id(at) not in seen:
        if at.__context__ is exc:
            at.__context__ = None
            break
        seen.add(id(at))
        at = at.__context__
    exc.__context__ = handled


def new_cells(f: Frame, closure: tuple[CellType, ...]) -> None:
    """COPY_FREE_VARS."""
    n = len(f.code.co_freevars)
    if n:
        f.fast[-n:] = closure


def make_frame(cap: Capture, func: Any, fast: list[Any], parent: Frame | None) -> Frame:
    """A frame of a function whose arguments are already in `fast` (arguments first, then unbound slots)."""
    f = Frame(cap, func.__code__, fast, func.__globals__, func, parent)
    return f


def program_for(code: CodeType) -> Program:
    return program_of(code)
