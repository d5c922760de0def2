"""Jumps, loops, generators, return."""

from __future__ import annotations

from typing import Any

from ..control import Observed
from ..frames import NULL, Frame
from ..loops import refuse_unrolling
from . import VERSION, handler
from .operators import condition, truth


@handler("JUMP_FORWARD", "JUMP_BACKWARD", "JUMP_BACKWARD_NO_INTERRUPT", arg="jump")
def jump(f: Frame, target: int) -> None:
    f.pc = target


def _jumps_on(f: Frame) -> bool:
    """Truth of the condition of the jump that is being executed."""
    return condition(f, f.stack.pop(), f.program.instructions[f.pc - 1])


@handler("POP_JUMP_FORWARD_IF_FALSE", "POP_JUMP_BACKWARD_IF_FALSE", "POP_JUMP_IF_FALSE", arg="jump")
def pop_jump_if_false(f: Frame, target: int) -> None:
    if not _jumps_on(f):
        f.pc = target


@handler("POP_JUMP_FORWARD_IF_TRUE", "POP_JUMP_BACKWARD_IF_TRUE", "POP_JUMP_IF_TRUE", arg="jump")
def pop_jump_if_true(f: Frame, target: int) -> None:
    if _jumps_on(f):
        f.pc = target


@handler("POP_JUMP_FORWARD_IF_NONE", "POP_JUMP_BACKWARD_IF_NONE", "POP_JUMP_IF_NONE", arg="jump")
def pop_jump_if_none(f: Frame, target: int) -> None:
    if f.stack.pop() is None:
        f.pc = target


@handler("POP_JUMP_FORWARD_IF_NOT_NONE", "POP_JUMP_BACKWARD_IF_NOT_NONE", "POP_JUMP_IF_NOT_NONE", arg="jump")
def pop_jump_if_not_none(f: Frame, target: int) -> None:
    if f.stack.pop() is not None:
        f.pc = target


@handler("JUMP_IF_FALSE_OR_POP", arg="jump")
def jump_if_false_or_pop(f: Frame, target: int) -> None:
    if not truth(f.cap, f.stack[-1]):
        f.pc = target
    else:
        f.stack.pop()


@handler("JUMP_IF_TRUE_OR_POP", arg="jump")
def jump_if_true_or_pop(f: Frame, target: int) -> None:
    if truth(f.cap, f.stack[-1]):
        f.pc = target
    else:
        f.stack.pop()


@handler("GET_ITER")
def get_iter(f: Frame, arg: Any) -> None:
    refuse_unrolling(f, f.stack[-1])
    f.stack[-1] = f.cap.iter(f.stack[-1])


@handler("GET_YIELD_FROM_ITER")
def get_yield_from_iter(f: Frame, arg: Any) -> None:
    f.stack[-1] = f.cap.iter(f.stack[-1])


@handler("FOR_ITER", arg="jump")
def for_iter(f: Frame, target: int) -> None:
    try:
        v = f.cap.next(f.stack[-1])
    except Observed as e:
        if not isinstance(e.exc, StopIteration):
            raise
        f.pc = target
        if VERSION < (3, 12):
            f.stack.pop()
        else:
            f.stack.append(NULL)  # END_FOR pops it with the iterator
            if VERSION >= (3, 12):
                _end_for(f)
        return
    f.stack.append(v)


def _end_for(f: Frame) -> None:
    """3.12 jumps to END_FOR, which pops two; 3.13's pops one and POP_TOP follows."""
    if f.program.instructions[f.pc].op == "END_FOR":
        f.pc += 1
        f.stack.pop()
        if VERSION == (3, 12):
            f.stack.pop()


@handler("RETURN_VALUE")
def return_value(f: Frame, arg: Any) -> bool:
    f.result = f.stack.pop()
    return True


@handler("RETURN_CONST", arg="const")
def return_const(f: Frame, value: Any) -> bool:
    f.result = value
    return True


# ---- generators --------------------------------------------------------------------------------------------------------
@handler("RETURN_GENERATOR")
def return_generator(f: Frame, arg: Any) -> bool:
    from ..generators import InterpretedGenerator

    f.stack.append(None)  # the value sent at the start, popped by POP_TOP
    f.result = InterpretedGenerator(f)
    return True


@handler("YIELD_VALUE")
def yield_value(f: Frame, arg: Any) -> bool:
    f.result = f.stack.pop()
    f.suspended, f.handled = True, f.cap.handled
    return True


@handler("SEND", arg="jump")
def send(f: Frame, target: int) -> None:
    v = f.stack.pop()
    receiver = f.stack[-1]
    try:
        out = f.cap.next(receiver) if v is None else f.cap.call(f.cap.getattr(receiver, "send"), (v,))
    except Observed as e:
        if not isinstance(e.exc, StopIteration):
            raise
        if VERSION >= (3, 12):
            f.stack.append(e.exc.value)
        else:
            f.stack[-1] = e.exc.value
        f.pc = target
        return
    f.stack.append(out)


@handler("CLEANUP_THROW", since=(3, 12))
def cleanup_throw(f: Frame, arg: Any) -> None:
    """An exception thrown into a `yield from`: StopIteration ends the delegation."""
    exc = f.stack.pop()
    if not isinstance(exc, StopIteration):
        raise Observed(exc, chained=True)
    del f.stack[-2:]
    f.stack += [None, exc.value]


@handler("END_SEND")
def end_send(f: Frame, arg: Any) -> None:
    v = f.stack.pop()
    f.stack[-1] = v
