"""Build and load the native extension: one compiler call at first use, kept in the cache folder."""

from __future__ import annotations

import threading
from pathlib import Path
from types import ModuleType

import torch

from lamina_dynshape.support.toolchain import python_extension

__all__ = ["extension", "source_text"]

_PARTS = ("abi.h", "checks.h", "program.h", "witness.h", "matcher.h", "callable.h", "frame.h", "module.h")
_lock = threading.Lock()
_module: ModuleType | None = None


def source_text() -> str:
    """The translation unit: the parts in order, with line marks so that compiler messages name the files."""
    here = Path(__file__).parent
    return "".join(f'#line 1 "{part}"\n{(here / part).read_text()}' for part in _PARTS)


def extension() -> ModuleType:
    """The extension module, built if need be. Raises CompilerError without a compiler, ImportError for an unknown torch layout."""
    global _module
    if _module is None:
        with _lock:
            if _module is None:
                module = python_extension("_lamina_native", source_text(), flags=("-std=c++20", "-O2", "-fno-strict-aliasing"))
                module.setup(torch._C.TensorBase, torch.empty(0), torch.float64)
                _module = module
    return _module
