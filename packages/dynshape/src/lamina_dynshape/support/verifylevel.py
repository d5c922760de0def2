"""How much is verified: `LAMINA_VERIFY` = 0 nothing, 1 stage boundaries, 2 every pass and a print/rebuild round trip, 3 also index bounds."""

from __future__ import annotations

import os

__all__ = ["strict", "verify_level"]


def verify_level() -> int:
    """Level from `LAMINA_VERIFY`, read at each call; 0 when unset."""
    text = os.environ.get("LAMINA_VERIFY", "")
    return int(text) if text.isdigit() else 0


def strict() -> bool:
    """Whether `LAMINA_STRICT=1`: errors of the compiler itself are raised instead of running the frame eagerly."""
    return os.environ.get("LAMINA_STRICT", "") not in ("", "0")
