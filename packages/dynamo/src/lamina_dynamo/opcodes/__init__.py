"""The table of opcode handlers: one per opcode, with the versions it serves and how its argument is resolved.

Between: `bytecode.Program` -> `frames.run`.
Keeps:   a handler takes (frame, resolved argument), returns None to go on and True when the frame returned or yielded.
         Every opcode of the running Python is handled or listed in `UNSUPPORTED` with a reason (a test compares with `dis`).
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

from ..bytecode import Program
from ..control import InternalError, unsupported

__all__ = ["HANDLERS", "UNSUPPORTED", "handler", "prepare"]

VERSION = sys.version_info[:2]
HANDLERS: dict[str, tuple[Callable[..., Any], str]] = {}
UNSUPPORTED: dict[str, str] = {
    "GET_AITER": "async", "GET_ANEXT": "async", "BEFORE_ASYNC_WITH": "async", "END_ASYNC_FOR": "async", "ASYNC_GEN_WRAP": "async", "GET_AWAITABLE": "async", "CLEANUP_THROW": "async",
    "CHECK_EG_MATCH": "except*", "PREP_RERAISE_STAR": "except*", "IMPORT_STAR": "import *", "PRINT_EXPR": "interactive",
    "CACHE": "never executed", "EXTENDED_ARG": "folded by the decoder", "LOAD_FAST_LOAD_FAST": "two of the decoder's",
    "STORE_FAST_STORE_FAST": "two of the decoder's", "STORE_FAST_LOAD_FAST": "two of the decoder's", "INTERPRETER_EXIT": "never in a frame of ours", "RESERVED": "never executed",
    "ENTER_EXECUTOR": "never in decoded code", "EXIT_INIT_CHECK": "never in decoded code",
}  # fmt: skip


def handler(*names: str, arg: str = "raw", since: tuple[int, int] = (3, 11), until: tuple[int, int] = (3, 99)) -> Any:
    """Register a handler. `arg`: raw, const, name, jump, or a function of (program, instruction)."""

    def register(fn: Any) -> Any:
        if since <= VERSION <= until:
            for name in names:
                if name in HANDLERS:
                    raise InternalError(f"second handler for {name}")
                HANDLERS[name] = (fn, arg)
        return fn

    return register


def _refuse(f: Any, what: str) -> None:
    unsupported("opcode", f"the instruction {what}")


def prepare(program: Program) -> None:
    """Fill `program.ops` and `program.args`."""
    _load_all()
    code = program.code
    ops, args = [], []
    for ins in program.instructions:
        found = HANDLERS.get(ins.op)
        if found is None:
            ops.append(_refuse)
            args.append(f"{ins.op} ({UNSUPPORTED.get(ins.op, 'no handler')})")
            continue
        fn, kind = found
        ops.append(fn)
        if kind == "raw":
            args.append(ins.arg)
        elif kind == "const":
            args.append(code.co_consts[ins.arg])
        elif kind == "name":
            args.append(code.co_names[ins.arg])
        elif kind == "jump":
            args.append(ins.target)
        else:
            args.append(kind(program, ins))  # type: ignore[operator]
    program.ops, program.args = ops, args


_loaded = False


def _load_all() -> None:
    global _loaded
    if not _loaded:
        for name in ("stack", "names", "operators", "flow", "build", "calling", "exceptions", "functions"):
            importlib.import_module(f"{__name__}.{name}")
        _loaded = True
