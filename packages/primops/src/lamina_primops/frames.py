"""User locations: which line of the user's program a node comes from."""

from __future__ import annotations

from typing import NamedTuple

from lamina_dynshape.support.errors import UserLocation

__all__ = ["Frame", "location", "stack_line"]


class Frame(NamedTuple):
    """One frame of the user's stack at the time an op ran. `text` is the source line."""

    file: str
    line: int
    function: str
    text: str = ""


def location(stack: tuple[Frame, ...]) -> UserLocation | None:
    """Innermost frame of `meta["stack"]` as the place an error names."""
    return UserLocation(*stack[-1]) if stack else None


def stack_line(stack: tuple[Frame, ...]) -> str:
    """`file.py:12 in forward` of the innermost frame, or an empty string."""
    if not stack:
        return ""
    f = stack[-1]
    return f"{f.file.rpartition('/')[2]}:{f.line} in {f.function}"
