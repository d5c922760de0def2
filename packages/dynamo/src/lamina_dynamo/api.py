"""What users of the package call: `optimize`, `capture`, `explain`, `disable`, `graph_break` and friends.

Between: `lamina.compile` (or a researcher) -> compiled functions, their caches, `convert`.
Keeps:   one cache per code object and options; a miss compiles at most `recompile_limit` times, then the frame runs
         eagerly with one warning; an error of ours never changes the program's result (unless LAMINA_STRICT=1).
"""

from __future__ import annotations

import functools
import os
import traceback
import types
import warnings
from typing import Any
from weakref import WeakSet

import torch
from lamina_dynshape.support.counters import counters
from lamina_dynshape.support.errors import LaminaError, UserError
from lamina_dynshape.support.logs import artifact, log

from . import native
from .control import Unsupported
from .convert import CannotConvert, Converted, Options, UserException, arg_names, convert_frame
from .dynamic import DynamicPolicy

__all__ = ["allow_in_graph", "capture", "disable", "graph_break", "is_compiling", "mark_dynamic", "optimize", "reset"]

_records: WeakSet[Any] = WeakSet()


class Region:
    """One `optimize` call: its options, and the caches of every code object compiled under it."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.records: dict[types.CodeType, Record] = {}
        self.options.region = self  # type: ignore[attr-defined]
        _records.add(self)

    def compiled(self, fn: Any) -> Any:
        """The compiled callable of a Python function or bound method."""
        plain = fn.__func__ if isinstance(fn, types.MethodType) else fn
        record = self.record(plain.__code__)
        return native.CompiledFunction(fn, record.on_miss, record.cache)

    def record(self, code: types.CodeType) -> Record:
        found = self.records.get(code)
        if found is None:
            found = self.records[code] = Record(self, code)
        return found

    def clear(self) -> None:
        for r in self.records.values():
            r.cache.clear()
            r.cache.frozen = False
            r.compiles = 0
            r.policy = DynamicPolicy(self.options.dynamic)
        self.records.clear()

    def hook(self, fn: Any, slots: tuple[Any, ...], code: types.CodeType) -> Any:
        """The frame hook's callback: a foreign frame met while a broken region runs."""
        from .skip import may_capture

        if not may_capture(fn, code):
            return native.SKIP
        record = self.record(code)
        if record.skip:
            return native.SKIP
        answer = record.miss(fn, slots)
        return record.cache if isinstance(answer, native.Entry) else native.SKIP if answer is native.SKIP else None


class Record:
    """Cache and history of one code object in one region."""

    def __init__(self, region: Region, code: types.CodeType) -> None:
        self.region, self.code = region, code
        self.cache = native.CodeCache(code)
        self.policy = DynamicPolicy(region.options.dynamic)
        self.compiles = 0
        self.skip = False
        self.warned = False

    def on_miss(self, compiled: Any, slots: tuple[Any, ...]) -> Any:
        return self.miss(compiled.function, slots)

    def miss(self, fn: Any, slots: tuple[Any, ...]) -> Any:
        """Compile for this call; -> Entry, RUN_EAGER or SKIP."""
        options = self.region.options
        if self.compiles:
            failures = self._failures(fn, slots)
            counters["recompiles"][self.code.co_qualname] += 1
            log("recompiles").info("%s: %s", self.code.co_qualname, failures[0] if failures else "no entry")
            if self.compiles >= options.recompile_limit:
                return self._over_limit(failures)
            self.policy.learn(fn, slots, arg_names(self.code), failures)
        native.extension().bypass(1)
        try:
            converted = convert_frame(fn, slots, options, self.policy)
        except UserException:
            return native.RUN_EAGER
        except CannotConvert as e:
            counters["frames"]["eager"] += 1
            counters["graph_breaks"][e.reason.code] += 1
            log("graph_breaks").info("%s runs eagerly: %s", self.code.co_qualname, e.reason)
            for listener in options.listeners:
                listener(e.reason)
            self.skip = True
            return native.SKIP
        except LaminaError as e:
            if isinstance(e, (Unsupported, UserError)) and options.fullgraph or isinstance(e, UserError):
                raise
            return self._internal(e)
        except Exception as e:
            if getattr(e, "lamina_user_error", False):
                raise
            return self._internal(e)
        finally:
            native.extension().bypass(-1)
        self.compiles += 1
        counters["frames"]["captured"] += 1
        entry = make_entry(converted, fn)
        self.cache.add(entry)
        return entry

    def _failures(self, fn: Any, slots: tuple[Any, ...]) -> list[Any]:
        out = []
        for entry in self.cache.entries:
            failure = entry.program.explain_failure(slots, fn.__globals__, fn.__closure__)
            if failure is not None:
                out.append(failure)
        return out

    def _over_limit(self, failures: list[Any]) -> Any:
        self.cache.frozen = True
        if not self.warned:
            self.warned = True
            why = "\n".join(f"  {f}" for f in failures[:8])
            warnings.warn(f"lamina compiled {self.code.co_qualname} ({self.code.co_filename}:{self.code.co_firstlineno}) {self.compiles} times and now runs it eagerly for what the compiled versions do not cover. Last reasons:\n{why}", stacklevel=4)
        return native.RUN_EAGER

    def _internal(self, e: Exception) -> Any:
        """An error of ours: the program goes on eagerly."""
        if os.environ.get("LAMINA_STRICT") == "1":
            raise e
        path = artifact("capture_error", "".join(traceback.format_exception(e)))
        warnings.warn(f"lamina failed to compile {self.code.co_qualname} ({type(e).__name__}: {e}); it runs eagerly. Report: {path}", stacklevel=4)
        self.skip = True
        return native.SKIP


def make_entry(c: Converted, fn: Any) -> Any:
    """The native cache entry of a conversion."""
    program = native.compile_guards(c.guards, arg_names(c.code), free_names=c.code.co_freevars, supplied=c.supplied)
    return native.Entry(program, c.replacement, c.constants)


# ---- public ------------------------------------------------------------------------------------------------------------
def optimize(fn: Any, backend: Any, *, fullgraph: bool = False, dynamic: bool | None = None, recompile_limit: int = 8, listeners: Any = ()) -> Any:
    """A callable that behaves as `fn` and runs captured graphs through `backend(gm, example_inputs)`."""
    region = Region(Options(backend, fullgraph, dynamic, recompile_limit, list(listeners)))
    if isinstance(fn, torch.nn.Module):
        return region.compiled(_module_target(fn))
    if isinstance(fn, (types.FunctionType, types.MethodType)):
        return region.compiled(fn)
    if isinstance(fn, functools.partial):
        inner = optimize(fn.func, backend, fullgraph=fullgraph, dynamic=dynamic, recompile_limit=recompile_limit, listeners=listeners)
        return functools.partial(inner, *fn.args, **fn.keywords)
    method = getattr(type(fn), "__call__", None)
    if isinstance(method, types.FunctionType):
        return region.compiled(types.MethodType(method, fn))

    def call(*args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    return region.compiled(functools.wraps(fn)(call) if hasattr(fn, "__name__") else call)


def _module_target(module: torch.nn.Module) -> Any:
    """What stands for `module(...)`: its forward where no hook can be in the way, else the call itself."""
    call = type(module).__call__
    if call is torch.nn.Module.__call__:
        return types.MethodType(_call_module, module)
    return types.MethodType(call, module) if isinstance(call, types.FunctionType) else module.__call__


def _call_module(self: Any, *args: Any, **kwargs: Any) -> Any:
    return self(*args, **kwargs)


def reset() -> None:
    """Forget every compiled entry."""
    for r in list(_records):
        r.clear()


def capture(fn: Any, *args: Any, **kwargs: Any) -> Converted:
    """One whole graph of `fn(*args, **kwargs)` (raises `Unsupported` where it breaks): graph_module, guards, example_inputs."""
    found: list[Any] = []
    compiled = optimize(fn, lambda gm, ex: gm.forward, fullgraph=True, listeners=[found.append])
    compiled(*args, **kwargs)
    if not found:
        raise UserError("nothing was captured: the call raised, or cannot be captured")
    return found[0]


def disable(fn: Any = None, recursive: bool = True) -> Any:
    """Decorator: `fn` is never captured; inside a compiled function it is a graph break."""
    if fn is None:
        return functools.partial(disable, recursive=recursive)

    @functools.wraps(fn)
    def disabled(*args: Any, **kwargs: Any) -> Any:
        native.extension().bypass(1)
        try:
            return fn(*args, **kwargs)
        finally:
            native.extension().bypass(-1)

    return disabled


def graph_break() -> None:
    """Breaks the graph here, where it is captured; does nothing otherwise."""


def is_compiling() -> bool:
    """True while captured, False when run."""
    return False


_allowed: set[Any] = set()


def allow_in_graph(fn: Any) -> Any:
    """Record calls of `fn` as one node: it must be pure in tensors."""
    _allowed.add(fn)
    return fn


def mark_dynamic(t: torch.Tensor, dims: int | list[int] | tuple[int, ...]) -> None:
    """Sizes of these dims are symbolic from the first compilation."""
    wanted = {dims} if isinstance(dims, int) else set(dims)
    known = getattr(t, "_lamina_dynamic", None) or set()
    t._lamina_dynamic = known | {d % max(t.dim(), 1) for d in wanted}  # type: ignore[attr-defined]
