"""The backends: what turns a captured graph into something to call, by name or given as a callable.

Protocol: `backend(graph_module, example_inputs) -> callable(*flat inputs) -> flat tuple`, the graph in the dialect `torch`.

    eager       runs the captured graph as it is
    aot_eager   runs the ATen graphs of aotgrad, forward and backward
    inductor    compiles them to C++
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from lamina_dynshape.support.counters import counters
from lamina_dynshape.support.errors import CompilerError, LaminaError, Unsupported, UserError
from lamina_dynshape.support.logs import log
from lamina_dynshape.support.reports import describe_inputs, report_failure
from lamina_dynshape.support.verifylevel import strict

from .exc import BackendFailed
from .options import CompileOptions, resolve
from .settings import config

__all__ = ["Backend", "list_backends", "lookup_backend", "register_backend", "resolve_backend", "warn_no_compiler"]

Backend: TypeAlias = Callable[..., Callable[..., Any]]

_REGISTRY: dict[str, Backend] = {}


def register_backend(backend: Backend | None = None, *, name: str | None = None) -> Any:
    """Register a backend under a name (its own by default); may be used as a decorator. A name is taken once."""
    if backend is None:
        return functools.partial(register_backend, name=name)
    if not callable(backend):
        raise UserError(f"a backend is a callable (graph_module, example_inputs) -> callable, got {backend!r}")
    key = name or getattr(backend, "__name__", None)
    if not isinstance(key, str) or not key:
        raise UserError(f"give the backend {backend!r} a name: register_backend(backend, name=...)")
    if _REGISTRY.get(key, backend) is not backend:
        raise UserError(f"a backend named {key!r} is registered already")
    _REGISTRY[key] = backend
    return backend


def list_backends() -> list[str]:
    """Names of the registered backends."""
    return sorted(_REGISTRY)


def lookup_backend(backend: str | Backend) -> Backend:
    """The backend of that name; a callable is its own backend. Raises `UserError` naming the valid ones."""
    if callable(backend):
        return backend
    if not isinstance(backend, str):
        raise UserError(f"backend= takes a name or a callable, got {type(backend).__name__}")
    try:
        return _REGISTRY[backend]
    except KeyError:
        raise UserError(f"unknown backend {backend!r}; valid: {', '.join(list_backends())}, or any callable") from None


def resolve_backend(
    backend: str | Backend, mode: str | None, options: Mapping[str, Any] | None, *, fullgraph: bool = False
) -> tuple[Backend, bool]:
    """What dynamo calls for each captured graph, and whether to run eagerly where there is no C++ compiler.

    For our own backends, mode and options are checked, and a failure inside them runs the captured graph instead. A backend of
    the user's gets `mode=` and `options=` as they were given, as in PyTorch, and its errors reach the user as `BackendFailed`.
    """
    found = lookup_backend(backend)
    if found in _OWN:
        chosen = dataclasses.replace(resolve(mode, options), fullgraph=fullgraph)
        return _own(found, chosen.fallback, chosen.fullgraph, tuple(sorted(chosen.backend_options.items()))), chosen.fallback
    extra = {key: value for key, value in (("mode", mode), ("options", options)) if value is not None}
    return _users(functools.partial(found, **extra) if extra else found, getattr(found, "__name__", repr(found))), config.fallback


@functools.cache
def _own(backend: Backend, fallback: bool, fullgraph: bool, options: tuple[tuple[str, Any], ...]) -> Backend:
    """One object for equal settings: modules that are compiled one by one then share the graphs of layers that are alike."""
    return _protected(backend, CompileOptions(fallback, dict(options), fullgraph))


def _users(backend: Backend, name: str) -> Backend:
    """A backend of the user's, whose errors are his: they must not pass for errors of capture, which would be hidden."""

    def call(gm: Any, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        try:
            return backend(gm, example_inputs)
        except LaminaError:
            raise
        except Exception as error:
            raise BackendFailed(f"backend {name!r} raised {type(error).__name__}: {error}") from error

    call.__name__ = name
    return call


def _protected(backend: Backend, options: CompileOptions) -> Backend:
    """`backend` with its failures turned into the captured graph run as it is, reported once each."""
    name = getattr(backend, "__name__", "backend")

    def call(gm: Any, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        try:
            return backend(gm, example_inputs, options)
        except CompilerError as error:
            if not options.fallback:
                raise
            warn_no_compiler(error)
            return gm.forward
        except Unsupported as error:  # a gap, not a defect: recorded, and an error only where the user asked for whole graphs
            if options.fullgraph or error.code == "unbacked":  # capture breaks the graph where the value is needed
                raise
            counters["fallbacks"][error.what] += 1
            log("aot").info("the captured graph runs eagerly: %s", error)
            return gm.forward
        except Exception as error:
            if strict():
                raise
            sections = {"inputs": describe_inputs(example_inputs), "captured graph": _graph_text(gm)}
            report_failure(f"in the backend {name}", error, sections)
            return gm.forward

    call.__name__ = name
    return call


def _graph_text(gm: Any) -> str:
    try:
        from lamina_primops import print_graph

        return print_graph(gm)
    except Exception:  # the graph may be what is broken: whatever text there is helps
        return str(getattr(gm, "code", gm))


def warn_no_compiler(error: CompilerError) -> None:
    """Count a fallback to eager for want of a C++ compiler; warn once per reason."""
    counters["fallbacks"]["no C++ compiler"] += 1
    _warn_once(str(error).splitlines()[0])


@functools.cache
def _warn_once(message: str) -> None:
    warnings.warn(f"lamina runs eagerly: {message}", RuntimeWarning, stacklevel=5)


# --------------------------------------------------------------------------------------------------------------------------
# ours
# --------------------------------------------------------------------------------------------------------------------------


_DEFAULT = CompileOptions()


def eager(gm: Any, example_inputs: Sequence[Any], options: CompileOptions = _DEFAULT) -> Callable[..., Any]:
    """Run the captured graph as it is."""
    return gm.forward


def _run_graph(gm: Any, fake_inputs: Sequence[Any], *, kind: str, signature: Any) -> Callable[..., Any]:
    return gm.forward


def aot_eager(gm: Any, example_inputs: Sequence[Any], options: CompileOptions = _DEFAULT) -> Callable[..., Any]:
    """Run the functional ATen graphs that aotgrad makes, forward and backward, operator by operator."""
    from lamina_aotgrad import aot_function

    from .control_flow import by_parts

    return by_parts(gm, example_inputs, lambda part, inputs: aot_function(part, inputs, fw_compiler=_run_graph, bw_compiler=_run_graph, inference_compiler=_run_graph))


def inductor(gm: Any, example_inputs: Sequence[Any], options: CompileOptions = _DEFAULT) -> Callable[..., Any]:
    """Compile the ATen graphs to C++."""
    from lamina_aotgrad import aot_function, min_cut
    from lamina_inductor import compile_graph
    from lamina_inductor.compile import prepare_graph
    from lamina_inductor.config import config as settings
    from lamina_inductor.layout import assign

    from .control_flow import by_parts

    def partition(joint: Any) -> Any:
        assign(joint.graph_module)  # before the cut: both halves then agree on the layout of what is saved
        return min_cut(joint)

    def compiler(graph: Any, fake_inputs: Sequence[Any], *, kind: str, signature: Any) -> Callable[..., Any]:
        with settings.patch(**options.backend_options):  # here, not around the backend: the backward is compiled at its first run
            return compile_graph(graph, fake_inputs, kind=kind, signature=signature)

    def prepare(graph: Any, fake_inputs: Sequence[Any], *, kind: str, signature: Any) -> Callable[[], Any]:
        with settings.patch(**options.backend_options):
            return prepare_graph(graph, fake_inputs, kind=kind, signature=signature)

    compiler.prepare = prepare  # type: ignore[attr-defined]
    compiler.supports_input_mutation = getattr(compile_graph, "supports_input_mutation", False)  # type: ignore[attr-defined]
    return by_parts(gm, example_inputs, lambda part, inputs: aot_function(part, inputs, fw_compiler=compiler, bw_compiler=compiler, inference_compiler=compiler, partition=partition))


_OWN: tuple[Backend, ...] = (eager, aot_eager, inductor)
for _backend in _OWN:
    register_backend(_backend)
