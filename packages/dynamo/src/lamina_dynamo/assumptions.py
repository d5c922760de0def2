"""Branches that only the running program can decide, where one side does nothing but raise: the other side is taken, and checked.

Between: a conditional jump (`opcodes/operators.py`, `condition`) -> checks of the entry (`convert._checks`).
Keeps:   where a check fails, the original function runs from its start, with the random numbers it would have drawn: what it raises, and
         whether it is caught, is the program's own. Hence only where nothing has changed by then: after a graph that writes to no memory from
         outside, or in the graph, before it does. A backend whose writes come at the end keeps that, as does one that runs call by call.
"""

from __future__ import annotations

from typing import Any

import torch

from .bytecode import Instruction
from .control import CHECK_FAILED
from .frames import Frame

__all__ = ["Assuming", "assume", "leads_to_raise"]

MAX_STRAIGHT = 150


def leads_to_raise(f: Frame, index: int) -> bool:
    """Whether the program runs straight from this instruction into a `raise`."""
    for ins in f.program.instructions[index : index + MAX_STRAIGHT]:
        if ins.op == "RAISE_VARARGS":
            return f.program.handler_of[ins.index] is None or ins.arg == 1
        if ins.target is not None or ins.op.startswith(("RETURN", "STORE_", "YIELD", "RERAISE")):
            return False
    return False


def assume(f: Frame, condition: Any, jump: Instruction) -> bool | None:
    """Truth of a jump's condition where its other outcome only raises, None where it must be decided otherwise.

    A symbolic truth is checked in the graph, before what relies on it.
    """
    cap, jumps_if = f.cap, "TRUE" in jump.op
    if not cap.can_check or not (_is_open_tensor(cap, condition) or _is_open_symbol(cap, condition)):
        return None
    if leads_to_raise(f, jump.index + 1):
        truth = jumps_if
    elif leads_to_raise(f, jump.target):
        truth = not jumps_if
    else:
        return None
    if isinstance(condition, torch.Tensor):
        cap.check(condition, truth)
        return truth
    cap.assert_true(condition if truth else torch.sym_not(condition), CHECK_FAILED)
    cap.assumed = True
    return truth


def _is_open_tensor(cap: Any, v: Any) -> bool:
    return isinstance(v, torch.Tensor) and v.numel() == 1 and cap.recorder.number(v) is None


def _is_open_symbol(cap: Any, v: Any) -> bool:
    if not isinstance(v, torch.SymBool) or cap.recorder.scope is not None:
        return False
    env, expr = cap.mode.shape_env, v.node.expr
    return bool(env.unbacked_in(expr)) and env.facts.decide(expr) is None


class Assuming:
    """A compiled graph with one output more: whether its own checks held."""

    def __init__(self, compiled: Any, outputs: int) -> None:
        self._compiled, self._none = compiled, (None,) * outputs

    def __call__(self, *args: Any) -> tuple[Any, ...]:
        try:
            return (*self._compiled(*args), True)
        except RuntimeError as error:
            if CHECK_FAILED not in str(error):
                raise
        return (*self._none, False)
