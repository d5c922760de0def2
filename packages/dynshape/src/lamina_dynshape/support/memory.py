"""What a compilation leaves in memory, given back at its end.

Compiling makes some hundred thousand short-lived objects in cycles (graphs, fake tensors), which only a collection frees, and fills tables of what can
be computed again. malloc keeps what was freed, before the compilation too; compiled code takes its tensors from a pool of its own and would never use
it, so it goes back to the system.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import time
from collections.abc import Callable, Iterator

from .fxsources import discarding_sources

__all__ = ["at_release", "collect_new", "compilation"]

RELEASE_AFTER = 0.2  # seconds of compiling: giving memory back, and refilling tables, must stay a small part of them

_trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc
_tables: list[Callable[[], None]] = []
_suspended = False  # automatic collections, by us
_spent = 0.0


@contextlib.contextmanager
def compilation() -> Iterator[None]:
    """Around a compilation: its garbage (graphs and their text) is dropped at `collect_new` and at the end.

    Automatic collections are off inside: they would find everything in use, and move it where the cheap collections do not look. Where the program
    has turned them off itself, nothing is collected.
    """
    global _suspended
    outermost = not _suspended and gc.isenabled()
    start = time.perf_counter()
    if outermost:
        _suspended = True
        gc.disable()
    try:
        with discarding_sources():
            yield
    finally:
        if outermost:
            _resume()
            gc.collect(1)
            _release(time.perf_counter() - start)


def collect_new() -> None:
    """Inside a compilation: collect the garbage among the objects made since it began, or since the last call."""
    if _suspended:
        gc.collect(0)


def at_release(forget: Callable[[], None]) -> Callable[[], None]:
    """Register a function that empties a table of what can be computed again."""
    _tables.append(forget)
    return forget


def _resume() -> None:
    global _suspended
    if _suspended:
        _suspended = False
        gc.enable()


def _release(seconds: float) -> None:
    global _spent
    _spent += seconds
    if _spent < RELEASE_AFTER:
        return
    _spent = 0.0
    for forget in _tables:
        forget()
    if _trim is not None:
        _trim(0)


os.register_at_fork(after_in_child=_resume)  # the thread that compiles exists only in the parent
