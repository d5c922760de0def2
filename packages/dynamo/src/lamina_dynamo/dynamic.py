"""Which sizes and Python ints are symbolic: from the user's wish, and from what changed between calls.

Between: guard failures of a code object's entries -> `Capture.add_input`, `Lifting._lift_int`.
Keeps:   `dynamic=None`: static first, symbolic for what was seen to change; True: symbolic at once; False: never.
"""

from __future__ import annotations

from typing import Any

__all__ = ["DynamicPolicy"]


class DynamicPolicy:
    """Of one code object in one region."""

    def __init__(self, dynamic: bool | None) -> None:
        self.dynamic = dynamic
        self.changed_dims: dict[Any, set[int]] = {}
        self.changed_ints: set[Any] = set()

    def dims(self, source: Any, t: Any) -> frozenset[int]:
        """Dims of an input to make symbolic."""
        return frozenset()

    def is_dynamic_int(self, source: Any, v: int) -> bool:
        return False

    def any_int(self) -> bool:
        return bool(self.changed_ints)

    def learn(self, fn: Any, slots: Any, names: Any, failures: list[Any]) -> None:
        """Note what the failing guards say changed."""
