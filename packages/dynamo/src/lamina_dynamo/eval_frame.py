"""The frame hook and who it leaves alone.

Between: a broken region that calls code which is not its own -> frames of the user's functions, captured as they are called.
Keeps:   the hook is installed only inside `hook_enabled`, per thread; generators and coroutines, PyTorch's and our own frames, the
         standard library and functions marked by `disable` run as they are.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import inspect
import os
import sysconfig
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .native import extension

__all__ = ["bypass", "call_with_hook", "disable", "hook_enabled", "is_disabled", "is_skipped_code", "mark_skip", "without_hook"]

def _folders_of(package: str) -> tuple[str, ...]:
    """Where a package's files are, without importing it; nowhere when it is not installed."""
    found = importlib.util.find_spec(package)
    return tuple(folder + os.sep for folder in (found.submodule_search_locations or ())) if found else ()


_OURS = ("lamina_dynamo", "lamina_dynshape", "lamina_primops", "lamina_aotgrad", "lamina_inductor", "lamina")
_PACKAGES = tuple(folder for package in _OURS for folder in _folders_of(package))
_TORCH = str(Path(torch.__file__).parent) + os.sep
_NUMPY = _folders_of("numpy")  # works on memory of its own, which no guard sees
_OF_SEVERAL_LAYERS = tuple(str(Path(nn.modules.__file__).parent / name) for name in ("container.py", "transformer.py"))
_STDLIB = tuple(str(Path(sysconfig.get_path(k)).resolve()) + os.sep for k in ("stdlib", "platstdlib"))
_SITE = tuple(str(Path(sysconfig.get_path(k)).resolve()) + os.sep for k in ("purelib", "platlib"))
_GENERATED = ("<eval_with_key>", "<frozen", "<__array_function__", "<lamina")

_DISABLED = "_lamina_disable"


# ---- who is left alone -----------------------------------------------------------------------------------------------
@functools.lru_cache(maxsize=4096)
def _is_skipped_file(filename: str) -> bool:
    if filename.startswith((*_GENERATED, *_PACKAGES, _TORCH, *_NUMPY)):
        return True
    return filename.startswith(_STDLIB) and not filename.startswith(_SITE)


def is_skipped_code(code: types.CodeType) -> bool:
    """Whether frames of this code are never captured by the hook."""
    if code.co_flags & (inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR | inspect.CO_ITERABLE_COROUTINE):
        return True
    return _is_skipped_file(code.co_filename) and not (code.co_name == "forward" and code.co_filename in _OF_SEVERAL_LAYERS)


_OF_DATACLASSES = frozenset({"<module>", "__create_fn__", "__hash__", "__eq__"})  # made by the library; `refuse_user_keys` sees to the last two


def whose_code(code: types.CodeType, globals_: dict[str, Any]) -> int:
    """Of C code's callbacks during capture: 0 a library's function, which runs; 1 the program's, which must not; 2 our own."""
    from .calls import NATIVE_MODULES

    if code.co_filename.startswith((*_PACKAGES, "<frozen importlib")):  # and what an import runs
        return 2
    if code.co_name == "__torch_dispatch__":  # of a wrapper, on fakes: autograd's engine calls it, and what it calls is recorded
        return 2
    if code.co_filename == "<string>" and code.co_name in _OF_DATACLASSES:
        return 0
    module = globals_.get("__name__") or ""
    return int(not (_is_skipped_file(code.co_filename) or module in NATIVE_MODULES or module.startswith("namedtuple_")))


def mark_skip(code: types.CodeType, skip: bool = True) -> None:
    """Never (or again) let the hook consider frames of `code`."""
    extension().mark_code(code, skip)


# ---- the hook --------------------------------------------------------------------------------------------------------
@contextlib.contextmanager
def hook_enabled(callback: Callable[[types.FunctionType, tuple[Any, ...], types.CodeType], Any] | None) -> Iterator[None]:
    """Let `callback(function, slots, code)` answer for frames entered by this thread: a CodeCache with an entry that matches, None, or SKIP.

    Entries of a cache once given are tried first, natively; the callback is asked again when none matches.
    """
    previous = extension().set_hook(callback)
    try:
        yield
    finally:
        extension().set_hook(previous)


def call_with_hook(callback: Any, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """`fn(*args, **kwargs)` with the hook on: what generated code calls for a broken region's foreign call."""
    set_hook = extension().set_hook
    previous = set_hook(callback)
    try:
        return fn(*args, **kwargs)
    finally:
        set_hook(previous)


def without_hook() -> Any:
    """A context in which no frame of this thread is captured."""
    return hook_enabled(None)


@contextlib.contextmanager
def bypass() -> Iterator[None]:
    """Compiled callables run their originals and the hook rests, in this thread: while compiling, and under `disable`."""
    extension().bypass(1)
    try:
        yield
    finally:
        extension().bypass(-1)


# ---- disable ---------------------------------------------------------------------------------------------------------
def disable(fn: Any = None, recursive: bool = True) -> Any:
    """Keep `fn` out of compiled code: it runs as it is, and a compiled caller breaks its graph around it.

    recursive: neither is what it calls captured, nor do compiled callables run compiled code inside it. A module gets its `forward`
    replaced. Usable as a decorator with or without arguments.
    """
    if fn is None:
        return functools.partial(disable, recursive=recursive)
    if isinstance(fn, torch.nn.Module):
        fn.forward = disable(fn.forward, recursive)
        return fn
    if inspect.isclass(fn):
        raise TypeError(f"disable takes a function or a module, got the class {fn.__name__}")
    fn = getattr(fn, "__wrapped__", fn) if type(fn).__name__ == "CompiledFunction" else fn
    if not recursive:
        code = getattr(fn, "__code__", None)
        if code is not None:
            mark_skip(code)

        @functools.wraps(fn)
        def alone(*args: Any, **kwargs: Any) -> Any:
            return fn(*args, **kwargs)

        setattr(alone, _DISABLED, fn)
        return alone

    @functools.wraps(fn)
    def disabled(*args: Any, **kwargs: Any) -> Any:
        depth = extension().bypass
        depth(1)
        try:
            return fn(*args, **kwargs)
        finally:
            depth(-1)

    setattr(disabled, _DISABLED, fn)
    return disabled


def is_disabled(fn: Any) -> bool:
    """Whether `fn` was made by `disable`."""
    return getattr(fn, _DISABLED, None) is not None
