"""Break fuzzer: a graph break at every instruction of a program, and of what it calls, in turn; eager must come out.

How:     the handler of one decoded instruction is replaced by one that refuses, in the code object and in the resume functions
         made from it; the interpreter itself knows nothing of this.
Keeps:   an instruction of an inlined callee breaks the caller at the call and the callee, captured as a frame of its own, at the instruction.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator
from typing import Any

from lamina_dynamo import opcodes
from lamina_dynamo.bytecode import program_of
from lamina_dynamo.control import Unsupported
from lamina_dynamo.resume import origin_of
from lamina_dynamo.runtime import Options, compile_callable, reset

from .features import Feature
from .observe import Observation, observe

__all__ = ["breaking_at", "code_objects", "eager", "length", "run_with_breaks"]


def _refuse(f: Any, arg: Any) -> None:
    raise Unsupported("a break that a test forced", code="forced")


@contextlib.contextmanager
def breaking_at(code: types.CodeType, indices: set[int]) -> Iterator[None]:
    """Within, captures break before the instructions numbered `indices` of `code`."""
    prepare = opcodes.prepare

    def prepare_with_breaks(program: Any) -> None:
        prepare(program)
        origin = origin_of(program.code)
        if origin.code is code:
            for i in indices:
                if i + origin.shift < len(program.ops):
                    program.ops[i + origin.shift] = _refuse

    program_of(code).ops = None
    opcodes.prepare = prepare_with_breaks
    try:
        yield
    finally:
        opcodes.prepare = prepare
        program_of(code).ops = None


def code_objects(fn: types.FunctionType) -> list[types.CodeType]:
    """The code of a function, of what is defined inside it, and of the functions of its module that these mention."""
    found: list[types.CodeType] = []
    seen: set[types.CodeType] = set()

    def visit(code: types.CodeType) -> None:
        if code in seen:
            return
        seen.add(code)
        found.append(code)
        for c in code.co_consts:
            if isinstance(c, types.CodeType):
                visit(c)
        for name in code.co_names:
            _visit_value(fn.__globals__.get(name), fn.__module__, visit)

    visit(fn.__code__)
    return found


def _visit_value(v: Any, module: str, visit: Any) -> None:
    v = getattr(v, "__wrapped__", v)
    if isinstance(v, types.FunctionType) and v.__module__ == module:
        visit(v.__code__)
    elif isinstance(v, type) and v.__module__ == module:
        for a in vars(v).values():
            a = getattr(a, "__func__", getattr(a, "fget", a))
            if isinstance(a, types.FunctionType) and a.__module__ == module:
                visit(a.__code__)


def length(code: types.CodeType) -> int:
    """Instructions of a code object."""
    return len(program_of(code).instructions)


def run_with_breaks(feature: Feature, code: types.CodeType, indices: set[int], want: list[Observation]) -> str | None:
    """What differs from eager with these breaks; None if nothing."""
    with breaking_at(code, indices):
        feature.restore()
        compiled = compile_callable(feature.fn, Options(lambda gm, example_inputs: gm.forward, recompile_limit=64))
        try:
            for i, w in enumerate(want):
                got = observe(compiled, feature.arguments(i % 2), vars(feature.module), feature.watched).without_frames()
                if got != w:
                    return f"call {i}: {w.difference(got)}"
        except Exception as e:
            return f"crash: {type(e).__name__}: {e}"
        finally:
            reset()
    return None


def eager(feature: Feature, calls: int = 2) -> list[Observation]:
    """What the feature's calls do, run by CPython."""
    feature.restore()
    return [observe(feature.fn, feature.arguments(i % 2), vars(feature.module), feature.watched).without_frames() for i in range(calls)]
