"""Seconds per compiler stage, each second counted for the innermost stage only.

    with stage("capture"):        # time inside `with stage("fake")` below it goes to "fake"
        ...
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Iterator

__all__ = ["clear_stages", "stage", "stage_seconds"]

_seconds: dict[str, float] = defaultdict(float)
_lock = threading.Lock()
_local = threading.local()


def _charge(name: str, seconds: float) -> None:
    with _lock:
        _seconds[name] += seconds


@contextlib.contextmanager
def stage(name: str) -> Iterator[None]:
    """Count the time of the block for `name`, less what nested stages take."""
    stack: list[list] = _local.__dict__.setdefault("stack", [])
    now = time.perf_counter()
    if stack:
        outer = stack[-1]
        _charge(outer[0], now - outer[1])
    entry: list = [name, now]
    stack.append(entry)
    try:
        yield
    finally:
        now = time.perf_counter()
        _charge(name, now - entry[1])
        stack.pop()
        if stack:
            stack[-1][1] = now


def stage_seconds() -> dict[str, float]:
    """Exclusive seconds per stage since the start or the last `clear_stages`, over all threads."""
    with _lock:
        return dict(_seconds)


def clear_stages() -> None:
    """Forget all times."""
    with _lock:
        _seconds.clear()
