"""What happens at a call: the compiled callable, and compiling on a miss.

Between: `optimize` (what the user called) -> native `CompiledFunction` -> on a miss `convert.convert_frame`.
Keeps:   one compilation at a time in the process; nothing that fails in here changes what the call returns: the frame runs eagerly
         (or the error is raised under `LAMINA_STRICT=1`); errors meant for the user (`Unsupported` under fullgraph, `UserError`,
         `CompilerError`) reach him.
"""

from __future__ import annotations

import dis
import functools
import gc
import os
import threading
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from lamina_dynshape.support.counters import counters
from lamina_dynshape.support.errors import CompilerError, InternalError, Unsupported, UserError
from lamina_dynshape.support.logs import log
from lamina_dynshape.support.memory import compilation
from lamina_dynshape.support.reports import describe_inputs, report_failure
from lamina_dynshape.support.verifylevel import strict

from .bytecode import ByCode
from .cache import borrow, cache_for, new_cache, prune, reset_caches
from .draws import shared_generators_kept
from .eval_frame import hook_enabled, is_skipped_code
from .guards import devices_of_modes, global_state
from .loops import Seen
from .native import extension
from .recompile import note_miss, over_limit
from .state import no_hooks_on_saved_tensors

__all__ = ["Options", "compile_callable", "compile_function", "frame_callback", "optimize", "reset"]

_compiling = threading.RLock()


def _after_fork() -> None:
    global _compiling
    _compiling = threading.RLock()  # its holder may exist only in the parent


os.register_at_fork(after_in_child=_after_fork)


@dataclass(eq=False)
class Options:
    """How frames are compiled; one object per call of `optimize`."""

    backend: Any
    fullgraph: bool = False
    dynamic: bool | None = None
    recompile_limit: int = 8
    says_compiling: bool = True  # what `is_compiling()` is for the program; False once its way for compilers has failed
    frame_caches: dict[int, Any] = field(default_factory=dict)  # id(code) -> cache of frames met by the hook; owned here

    sizes_change: bool = False  # some size of some frame was seen to change
    seen: ByCode[Seen] = field(default_factory=ByCode)  # code that broke -> what is known of its local variables

    def cache_key(self) -> tuple[Any, ...]:
        """Equal for options under which entries may be shared."""
        return (id(self.backend), self.fullgraph, self.dynamic, self.recompile_limit)


def optimize(target: Any, backend: Any, *, fullgraph: bool = False, dynamic: bool | None = None, recompile_limit: int = 8) -> Any:
    """A callable that captures `target` at its first call and runs `backend`'s code from then on.

    target: function, bound method, module (its whole `__call__`, hooks included) or other callable object.
    backend: `backend(graph_module, example_inputs) -> callable(*flat inputs) -> flat tuple`.
    """
    return compile_callable(target, Options(backend, fullgraph, dynamic, recompile_limit))


def reset() -> None:
    """Forget everything compiled, and everything remembered about frames."""
    with _compiling:
        reset_caches()


def compile_callable(target: Any, options: Options) -> Any:
    """The compiled form of a function, bound method, module or other callable object."""
    if type(target) is extension().CompiledFunction:
        target = target.__wrapped__
    if isinstance(target, (types.FunctionType, types.MethodType)) and isinstance(getattr(target, "__func__", target), types.FunctionType):
        return compile_function(target, options)
    call = None if isinstance(target, (types.BuiltinFunctionType, type, functools.partial)) else getattr(target, "__call__", None)  # noqa: B004
    if isinstance(call, types.MethodType) and isinstance(call.__func__, types.FunctionType):
        return compile_function(call, options)

    def call_it(*args: Any, **kwargs: Any) -> Any:
        return target(*args, **kwargs)

    return compile_function(functools.update_wrapper(call_it, target), options)


def compile_function(fn: types.FunctionType | types.MethodType, options: Options) -> Any:
    """The native callable of a Python function or method under these options."""
    plain = getattr(fn, "__func__", fn)
    cache = cache_for(plain.__code__, options, getattr(fn, "__self__", None))
    return extension().CompiledFunction(fn, functools.partial(_on_miss, options), cache)


# ---- misses ----------------------------------------------------------------------------------------------------------
def _on_miss(options: Options, compiled: Any, slots: tuple[Any, ...]) -> Any:
    return _compile_frame(options, compiled.cache, compiled.function, slots)


def _compile_frame(options: Options, cache: Any, fn: types.FunctionType, slots: tuple[Any, ...]) -> Any:
    """An Entry that matches this call, RUN_EAGER, SKIP, or what to call when the original has returned."""
    ext = extension()
    if _intercepted():
        counters["frames"]["inside a mode or transform"] += 1
        return ext.RUN_EAGER
    with _compiling:
        roots = (slots, fn.__globals__, fn.__closure__)
        for entry in cache.entries:  # another thread may have been faster
            if entry.program.check(*roots):
                return entry
        prune(cache)
        if (shared := borrow(cache, *roots)) is not None:
            return shared
        note_miss(cache, *roots)
        if over_limit(cache, options.recompile_limit):
            counters["frames"]["over the recompile limit"] += 1
            return ext.RUN_EAGER
        ext.bypass(1)
        try:
            with hook_enabled(None), compilation(), no_hooks_on_saved_tensors(), shared_generators_kept():
                answer = _convert(options, cache, fn, slots)
        finally:
            ext.bypass(-1)
        if not isinstance(answer, ext.Entry):
            cache.in_vain += 1
            cache.frozen = cache.in_vain >= options.recompile_limit  # capturing at every call would cost more than it brings
            return answer
        failure = answer.program.explain_failure(*roots)
        if failure is not None:
            return _failed(fn.__code__, slots, InternalError(f"a guard fails on the call it was made for: {failure}"))
        cache.add(answer)
        cache.compiled += 1
        cache.in_vain = 0
        return answer


def _intercepted() -> bool:
    """Whether something stands between the program and the operators that compiled code would go around: a user's
    `TorchFunctionMode` (but a default device) or `TorchDispatchMode`, a functorch transform; whether this is below autograd, in a
    `__torch_dispatch__`, or where no mode is asked, ours neither (`DisableTorchFunction`). Eager runs then, so that it sees every operator.
    """
    state = global_state()
    if state.function_modes and not _only_devices() or state.dispatch_modes or state.torch_function == 2 or torch._C._are_functorch_transforms_active():
        return True
    below_autograd = torch._C._dispatch_tls_is_dispatch_key_excluded(torch._C.DispatchKey.AutogradFunctionality)
    return below_autograd and not torch.is_inference_mode_enabled()


def _only_devices() -> bool:
    """Whether all function modes are contexts of a default device on which tensors are computed."""
    devices = devices_of_modes()
    return devices is not None and all(d.type != "meta" for d in devices)


def _convert(options: Options, cache: Any, fn: types.FunctionType, slots: tuple[Any, ...]) -> Any:
    from . import convert

    grad = torch.is_grad_enabled()
    try:
        return convert.convert_frame(fn, slots, fn.__closure__, fn.__globals__, options, frame_state=cache.frame_state)
    except Unsupported as reason:
        if options.fullgraph:
            raise
        counters["frames"]["eager"] += 1
        counters["graph_breaks"][reason.code] += 1
        log("graph_breaks").info("%s runs eagerly: %s", fn.__qualname__, reason)
        return extension().RUN_EAGER
    except (UserError, CompilerError):
        raise
    except Exception as error:
        return _failed(fn.__code__, slots, error)
    finally:
        torch._C._set_grad_enabled(grad)


def _failed(code: types.CodeType, slots: tuple[Any, ...], error: Exception) -> Any:
    """Our own error: eager from now on for this callable, with one warning; raised when strict."""
    if strict():
        raise error
    sections = {"arguments": describe_inputs(slots, code.co_varnames), "bytecode": dis.Bytecode(code).dis()}
    report_failure(f"while capturing {code.co_qualname} ({code.co_filename}:{code.co_firstlineno})", error, sections, stacklevel=4)
    return extension().SKIP


# ---- frames met by the hook ------------------------------------------------------------------------------------------
def frame_callback(options: Options) -> Callable[[types.FunctionType, tuple[Any, ...], types.CodeType], Any]:
    """The callback for `hook_enabled` that captures foreign frames under these options; one per options object."""
    made = getattr(options, "_frame_callback", None)
    if made is None:
        made = functools.partial(_on_frame, options)
        options._frame_callback = made  # type: ignore[attr-defined]
    return made


def _on_frame(options: Options, fn: types.FunctionType, slots: tuple[Any, ...], code: types.CodeType) -> Any:
    ext = extension()
    if is_skipped_code(code) or code is not fn.__code__ or any(fn is callback for callback in gc.callbacks):  # a collection comes at any moment
        return ext.SKIP
    if _intercepted():
        return None
    cache = options.frame_caches.get(id(code))
    if cache is None:
        cache = options.frame_caches[id(code)] = new_cache(code)
    try:
        answer = _compile_frame(options, cache, fn, slots)
    except Unsupported:
        answer = ext.SKIP
    if answer is ext.SKIP:
        cache.frozen = True
        return cache
    return cache
