"""Loop-level IR, fusion and C++ code generation: `compile_graph(gm_aten, fake_inputs) -> CompiledGraph`."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["CompiledGraph", "compile_graph", "config"]


def __getattr__(name: str) -> Any:
    """Load the compiler at first use."""
    if name in ("CompiledGraph", "compile_graph"):
        from . import compile
        return getattr(compile, name)
    if name == "config":
        from .config import config
        return config
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
