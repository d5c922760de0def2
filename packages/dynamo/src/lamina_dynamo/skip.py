"""Which frames the hook may capture: the program's own, not PyTorch's, Python's or ours."""

from __future__ import annotations

import os
import sysconfig
import types
from typing import Any

__all__ = ["may_capture"]

_STDLIB = tuple(os.path.realpath(sysconfig.get_paths()[k]) + os.sep for k in ("stdlib", "platstdlib"))
_SITE = os.sep + "site-packages" + os.sep
_SKIPPED = ("torch", "lamina", "numpy", "importlib", "_pytest", "pytest", "pluggy", "triton", "sympy")


def may_capture(fn: Any, code: types.CodeType) -> bool:
    """Whether a frame of this function is worth a capture."""
    module = (fn.__globals__.get("__name__") or "").split(".")[0]
    if module in _SKIPPED or module.startswith("lamina_"):
        return (fn.__globals__.get("__name__") or "").startswith("torch.nn.modules")
    file = code.co_filename
    if file.startswith("<"):
        return False
    return not (file.startswith(_STDLIB) and _SITE not in file)
