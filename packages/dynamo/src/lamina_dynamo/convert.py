"""One frame converted: interpret it, call the backend on its graph, emit replacement code and guards.

Between: a miss of a compiled function (function, argument slots) -> a cache entry, or why there is none.
Keeps:   nothing outside is changed by a capture; grad mode, autocast and modes are as they were afterwards; a frame that
         cannot be captured whole is captured up to the instruction that breaks, and resumes after it.
"""

from __future__ import annotations

import contextlib
import sys
import types
from dataclasses import dataclass, field
from typing import Any

import torch
from lamina_dynshape.support.counters import counters
from lamina_dynshape.support.timers import stage
from torch import fx

from .control import Observed, RestartCapture, Unsupported
from .frames import BREAK, NULL, Frame, run_root
from .guards import Guard, GuardKind, state_guard
from .rebuild import Codegen
from .session import Capture
from .side_effects import emit_side_effects
from .source import CellSource, LocalSource

__all__ = ["Captured", "Converted", "Options", "capture_frame", "convert_frame"]

MAX_RESTARTS = 60


@dataclass
class Options:
    """What one `optimize` call fixed."""

    backend: Any
    fullgraph: bool = False
    dynamic: bool | None = None
    recompile_limit: int = 8
    listeners: list[Any] = field(default_factory=list)  # called with each Converted


@dataclass
class Converted:
    """The result of one conversion."""

    code: types.CodeType
    replacement: types.CodeType | None
    constants: tuple[Any, ...]
    supplied: tuple[Any, ...]
    guards: list[Guard]
    graph_module: fx.GraphModule | None
    example_inputs: list[Any]
    break_reason: Unsupported | None = None
    compiled_graph: Any = None
    text: str = ""


class UserException(Exception):
    """Interpretation met an exception that leaves the frame: eager must raise it."""


class CannotConvert(Exception):
    """The frame runs eagerly; `reason` says why."""

    def __init__(self, reason: Unsupported) -> None:
        super().__init__(str(reason))
        self.reason = reason


def arg_names(code: types.CodeType) -> tuple[str, ...]:
    """Names of the argument slots."""
    n = code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & 4) + bool(code.co_flags & 8)
    return code.co_varnames[:n]


def convert_frame(fn: types.FunctionType, slots: tuple[Any, ...], options: Options, policy: Any = None) -> Converted:
    """Capture one call of `fn` and make the replacement code."""
    code = fn.__code__
    if code.co_flags & 0x2A0:
        raise CannotConvert(Unsupported("a generator or async function at the root of a capture", saw=fn.__qualname__, code="generator-root"))
    from . import rules  # noqa: F401  (fills the tables)

    break_at: int | None = None
    reason: Unsupported | None = None
    tried: set[int] = set()
    for _ in range(MAX_RESTARTS):
        cap = Capture(options, policy)
        with stage("capture"), _quiet():
            try:
                with _capturing(cap):
                    frame = _root_frame(cap, fn, slots)
                    result = run_root(frame, break_at)
                    cap.final_grad = torch.is_grad_enabled()
                return _finish(cap, frame, result, options, reason)
            except RestartCapture as r:
                step, why = r.step, r.reason
            except Observed as e:
                raise UserException(f"{type(e.exc).__name__}: {e.exc}") from e.exc
            except Unsupported as u:  # a live value cannot be rebuilt: break where it was made, or give up
                step, why = getattr(u, "step", None), u
                if step is None:
                    step = cap.step
                    if break_at is not None or result is not BREAK and step in tried:
                        raise CannotConvert(u) from u
            if options.fullgraph:
                raise why
            if step in tried:
                raise CannotConvert(why)
            tried.add(step)
            break_at, reason = step, why
    raise CannotConvert(reason or Unsupported("too many restarts", code="restarts"))


@contextlib.contextmanager
def _quiet() -> Any:
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, 6000))
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


@contextlib.contextmanager
def _capturing(cap: Capture) -> Any:
    """The modes of a capture; PyTorch's thread state is put back."""
    grad = torch.is_grad_enabled()
    autocast = [(d, torch.is_autocast_enabled(d), torch.get_autocast_dtype(d)) for d in ("cpu", "cuda")]
    cache = torch.is_autocast_cache_enabled()
    cap.entry_state = state_guard()
    cap.entry_grad = grad
    try:
        with cap.mode, cap.recorder:
            yield
    finally:
        torch._C._set_grad_enabled(grad)
        for device, enabled, dtype in autocast:
            if torch.is_autocast_enabled(device) != enabled:
                torch.set_autocast_enabled(device, enabled)
            if torch.get_autocast_dtype(device) != dtype:
                torch.set_autocast_dtype(device, dtype)
        torch.set_autocast_cache_enabled(cache)


def _root_frame(cap: Capture, fn: types.FunctionType, slots: tuple[Any, ...]) -> Frame:
    code = fn.__code__
    cap.root_globals = fn.__globals__
    cap.root_function = fn
    names = arg_names(code)
    from .binding import slot_count

    fast = [NULL] * slot_count(code)
    for i, (name, v) in enumerate(zip(names, slots, strict=True)):
        fast[i] = cap.lift(v, LocalSource(name))
    for name, cell in zip(code.co_freevars, fn.__closure__ or ()):
        cap.cell(cell, CellSource(name))
    cap.own[id(fn)] = fn
    f = Frame(cap, code, fast, fn.__globals__, fn, None)
    f.is_root = True
    return f


def _finish(cap: Capture, frame: Frame, result: Any, options: Options, reason: Unsupported | None) -> Converted:
    """Rebuild, side effects, graph, backend, code."""
    code = frame.code
    cg = Codegen(cap, arg_names(code))
    if result is BREAK:
        from .resume import emit_break

        tail = emit_break(cap, cg, frame, options)
        emit_side_effects(cap, cg)
    else:
        value = cg.value(result)
        emit_side_effects(cap, cg)
        tail = [f"return {value}"]
    gm, inputs, examples = _graph_module(cap, cg)
    head: list[str] = []
    compiled = None
    if gm is not None:
        compiled = _call_backend(options.backend, gm, examples)
        call_text = f"{cg.constant(compiled)}({', '.join(cg.source(s) for s in inputs)})"
        outs = "".join(f"_o{i}, " for i in range(len(cg.output_values)))
        head.append(f"{outs}= {call_text}" if outs else call_text)
        if cap.final_grad != cap.entry_grad:
            head.append(f"{cg.constant(torch._C._set_grad_enabled)}({cap.final_grad})")
    body = head + cg.lines + tail
    replacement = cg.code(body)
    guards = _guards(cap)
    converted = Converted(code, replacement, tuple(v for _, v in cg.constants.values()), tuple(cg.supplied), guards, gm, examples, reason, compiled, "\n".join(body))
    if reason is not None:
        counters["graph_breaks"][reason.code] += 1
    for listener in options.listeners:
        listener(converted)
    return converted


def _graph_module(cap: Capture, cg: Codegen) -> tuple[fx.GraphModule | None, list[Any], list[Any]]:
    graph = cap.graph
    outs = []
    for v in cg.output_values:
        if isinstance(v, torch.Tensor):
            outs.append(cap.recorder.node_of(v))
        else:
            outs.append(cap.symbol_node(v))
    calls = any(n.op in ("call_function", "call_method") for n in graph.nodes)
    if not calls and not outs:
        return None, [], []
    out = graph.output(tuple(outs))
    out.meta["val"] = tuple(cg.output_values)
    out.meta["stack"] = ()
    by_node = {inp.node: inp for inp in cap.inputs.values() if inp.node is not None}
    sources, examples = [], []
    for n in graph.nodes:
        if n.op == "placeholder":
            inp = by_node.get(n)
            if inp is not None:
                sources.append(inp.source)
                examples.append(inp.real)
            else:
                source, value = cap.size_inputs[n]
                sources.append(source)
                examples.append(value)
        elif n.op != "output":
            break
    gm = fx.GraphModule(torch.nn.Module(), graph)
    counters["graphs"]["captured"] += 1
    return gm, sources, examples


def _call_backend(backend: Any, gm: fx.GraphModule, examples: list[Any]) -> Any:
    with stage("backend"):
        compiled = backend(gm, examples)
    if not callable(compiled):
        from lamina_dynshape.support.errors import UserError

        raise UserError(f"the backend returned {type(compiled).__name__}, expected a callable")
    return compiled


def _guards(cap: Capture) -> list[Guard]:
    guards = [cap.entry_state, *cap.guards]
    distinct = [inp.source for inp in cap.inputs.values() if inp.role == "input" and type(inp.source).__name__ != "ConstantSource"]
    if cap.recorder.mutated and len(distinct) > 1:
        guards.append(Guard(distinct[0], GuardKind.NO_ALIAS, tuple(distinct[1:])))
    guards += cap.shape_guards()
    return guards


def capture_frame(fn: types.FunctionType, slots: tuple[Any, ...], **kw: Any) -> Converted:
    """As `convert_frame`, with a backend that keeps the graph as it is."""
    return convert_frame(fn, slots, Options(lambda gm, ex: gm.forward, fullgraph=True, **kw))


