"""Backends of the tests: the captured graph as it is and, where `lamina_aotgrad` is on the path, its functional form, forward and backward.

The package's own suite runs without the latter; the integration suite runs these tests again with it (`tools/checks.py`).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

__all__ = ["BACKENDS", "THOROUGH"]


def _run(gm, inputs, *, kind, signature):
    return gm.forward


def _aot(gm, inputs):
    from lamina_aotgrad import aot_function

    return aot_function(gm, inputs, fw_compiler=_run, bw_compiler=_run, inference_compiler=_run)


BACKENDS: dict[str, Callable[..., Any]] = {"eager": lambda gm, inputs: gm.forward}
if importlib.util.find_spec("lamina_aotgrad") is not None:
    BACKENDS["aot"] = _aot
THOROUGH = BACKENDS.get("aot", BACKENDS["eager"])
