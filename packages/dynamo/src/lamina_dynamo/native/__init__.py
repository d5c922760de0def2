"""The native half behind a thin Python interface: guard programs, cache entries, the compiled callable, the frame hook.

Between: guard records and replacement code (made by capture) -> calls that check and run them.

The names below come from a C++ extension that is built at first use, never at import (see `build.py`). Its parts:
abi.h (layouts), checks.h (one guard kind on one value), program.h (guard programs), witness.h and matcher.h (what is remembered
of a success, so that a later call compares a few memory words), callable.h (Entry, CodeCache, CompiledFunction), frame.h (PEP 523).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .build import extension

__all__ = ["RUN_EAGER", "SKIP", "CodeCache", "CompiledFunction", "Entry", "GuardProgram", "compile_guards", "extension"]

if TYPE_CHECKING:
    from .program import GuardProgram, compile_guards

    Entry: Any
    CodeCache: Any
    CompiledFunction: Any
    RUN_EAGER: Any
    SKIP: Any

_NATIVE = ("Entry", "CodeCache", "CompiledFunction", "RUN_EAGER", "SKIP")


def __getattr__(name: str) -> Any:
    if name in _NATIVE:
        value = getattr(extension(), name)
    elif name in ("GuardProgram", "compile_guards"):
        from . import program

        value = getattr(program, name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value
