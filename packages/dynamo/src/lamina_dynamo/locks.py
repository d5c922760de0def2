"""Locks from outside that the frame takes and gives back.

Between: calls of a lock's methods -> lines around the side effects of the replacement code.
Keeps:   what the program does under a lock to the outside is done under it: all effects of the frame come at its end, with every lock held that
         the frame took. A lock that another thread holds, or that the frame does not give back, is a break where it is taken.
"""

from __future__ import annotations

import threading
from typing import Any

from .control import RestartCapture, refusal, unsupported

__all__ = ["LOCKS", "Locks"]

LOCKS = (type(threading.Lock()), type(threading.RLock()))
_TAKE, _GIVE = ("acquire", "__enter__"), ("release", "__exit__")


class Locks:
    """The locks of one capture."""

    def __init__(self) -> None:
        self.taken: list[Any] = []  # in order, each once
        self._held: list[tuple[Any, int]] = []  # with the root step that took it

    def call(self, cap: Any, lock: Any, method: str, args: tuple[Any, ...], kwargs: Any) -> Any:
        """`lock.method(*args)` of the program."""
        if id(lock) in cap.opaque and method in _TAKE and not args and not kwargs and not self._is_busy(lock):
            self._held.append((lock, cap.step))
            if not any(lock is t for t in self.taken):
                self.taken.append(lock)
            return True
        if method in _GIVE and any(lock is held for held, _ in self._held):
            last = max(i for i, (held, _) in enumerate(self._held) if held is lock)
            del self._held[last]
            return None
        unsupported("lock", "a lock that is held elsewhere, or used in another way than to take it and give it back", saw=f"{type(lock).__qualname__}.{method}")

    def _is_busy(self, lock: Any) -> bool:
        free = lock.acquire(blocking=False)
        if free:
            lock.release()
        return not free or (type(lock) is LOCKS[0] and any(lock is held for held, _ in self._held))

    def refuse_held(self) -> None:
        """The frame ends, or breaks, while it holds a lock: break before it is taken."""
        if self._held:
            raise RestartCapture(self._held[0][1], refusal("lock", "a lock that is held where the frame breaks or ends", saw=type(self._held[0][0]).__qualname__))
