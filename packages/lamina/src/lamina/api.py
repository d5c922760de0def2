"""`lamina.compile`: what is checked, and what is built from dynamo and a backend."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch

from lamina_dynshape.support.errors import CompilerError, UserError

from .backends import Backend, resolve_backend, warn_no_compiler
from .module import CompiledModule, compile_module
from .settings import config

__all__ = ["compile", "reset"]


def compile(
    model: Callable[..., Any] | None = None,
    *,
    fullgraph: bool = False,
    dynamic: bool | None = None,
    backend: str | Backend = "inductor",
    mode: str | None = None,
    options: Mapping[str, Any] | None = None,
    disable: bool = False,
) -> Any:
    """Compile a function or a module; the semantics are those of `torch.compile`.

    model: function, bound method, callable object or `nn.Module`; without it a decorator is returned.
    fullgraph: raise `lamina.exc.Unsupported` where the program cannot be captured as one graph, instead of breaking it.
    dynamic: True makes sizes symbolic at once, False never, None those that were seen to change.
    backend: a name of `lamina.list_backends()`, or a callable `(graph_module, example_inputs) -> callable`.
    mode: "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"; options: a dict instead of a mode.
    disable: return the model as it is.

    The first call compiles. A compiled module stays a module: same class, parameters, `state_dict` keys, hooks, flags.
    """
    if model is None:
        return functools.partial(
            compile, fullgraph=fullgraph, dynamic=dynamic, backend=backend, mode=mode, options=options, disable=disable
        )
    _check_flags(fullgraph=fullgraph, dynamic=dynamic, disable=disable)
    backend_fn, fallback = resolve_backend(backend, mode, options, fullgraph=fullgraph)
    if not callable(model):
        raise UserError(f"compile takes a function or a module, got {type(model).__name__}")
    if inspect.isclass(model):
        raise UserError(f"compile takes a function or a module, got the class {model.__name__}: compile an instance or a method")
    if disable:
        return model
    model = _original(model)
    settings = {"fullgraph": fullgraph, "dynamic": dynamic, "recompile_limit": config.recompile_limit}
    try:
        return _compiled(model, backend_fn, settings)
    except CompilerError as error:  # the native half of dynamo is built at the first use on a machine
        if not fallback:
            raise
        warn_no_compiler(error)
        return model


def _compiled(model: Any, backend: Backend, settings: dict[str, Any]) -> Any:
    """The compiled form of a function or module; a copy of a compiled module is compiled with the same settings."""
    from lamina_dynamo import optimize

    call = optimize(model, backend, **settings)
    if not isinstance(model, torch.nn.Module):
        return call
    return compile_module(model, call, lambda other: _compiled(other, backend, settings))


def reset() -> None:
    """Forget everything compiled, and give back the memory kept for intermediate results."""
    from lamina_dynamo import reset as forget

    forget()
    load = sys.modules.get("lamina_inductor.runtime.load")  # nothing is kept where nothing was compiled
    if load is not None:
        load.entry_module().trim_memory()


def _original(model: Any) -> Any:
    """What was compiled before, where `model` is compiled already: the new settings hold."""
    if isinstance(model, CompiledModule):
        return model._orig_mod
    return model


def _check_flags(*, fullgraph: object, dynamic: object, disable: object) -> None:
    for name, value in (("fullgraph", fullgraph), ("disable", disable)):
        if not isinstance(value, bool):
            raise UserError(f"{name}= takes a bool, got {value!r}")
    if dynamic is not None and not isinstance(dynamic, bool):
        raise UserError(f"dynamic= takes True, False or None, got {dynamic!r}")
