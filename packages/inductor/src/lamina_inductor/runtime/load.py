"""Loads the prebuilt entry extension and generated libraries."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import torch
from lamina_dynshape.support.errors import InternalError
from lamina_dynshape.support.toolchain import python_extension

__all__ = ["entry_module", "load_entry", "promote_torch_symbols"]


@cache
def promote_torch_symbols() -> None:
    """Make the C shim of libtorch_cpu visible to libraries that do not name it: saves linking against it at each compile."""
    ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"), ctypes.RTLD_GLOBAL)


@cache
def entry_module() -> Any:
    """The extension of `pool.h` and `entry.cpp`, built once per Python and torch."""
    promote_torch_symbols()
    source = "".join((Path(__file__).parent / part).read_text() for part in ("pool.h", "entry.cpp"))
    lib = Path(torch.__file__).parent / "lib" / "libtorch_python.so"
    module = python_extension("lamina_entry", source, flags=(str(lib), f"-Wl,-rpath,{lib.parent}"), torch=False)
    probe = torch.empty(0)
    if not module.cdata_ok(probe, probe._cdata):
        raise InternalError("this PyTorch keeps its tensors in another layout than lamina_inductor's native entry expects")
    return module


def load_entry(name: str, path: str, in_kinds: str, out_kinds: str, constants: tuple, objects: tuple, callbacks: tuple) -> Any:
    """Callable of a generated library."""
    module = entry_module()
    return module.make(name, module.symbol(path, "lm_entry"), in_kinds, out_kinds, constants, objects, callbacks)
