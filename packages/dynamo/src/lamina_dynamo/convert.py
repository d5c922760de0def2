"""One frame converted: interpret it, call the backend on its graph, emit replacement code and guards.

Between: a miss of a compiled function (function, argument slots) -> a cache entry, or why there is none.
Keeps:   nothing outside is changed by a capture; grad mode, autocast and modes are as they were afterwards; a frame that
         cannot be captured whole is captured up to the instruction that breaks, and resumes after it.
"""

from __future__ import annotations

import contextlib
import functools
import re
import sys
import types
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from lamina_dynshape.support.counters import counters
from lamina_dynshape.support.errors import LaminaError, UserLocation
from lamina_dynshape.support.fxsources import keep_source
from lamina_dynshape.support.logs import log
from lamina_dynshape.support.reports import report_failure
from lamina_dynshape.support.timers import stage
from lamina_dynshape.support.verifylevel import strict, verify_level
from torch import fx

from . import loops, native
from .aliasing import apart_guards
from .assumptions import Assuming
from .control import CannotCheck, CannotRebuild, Checking, CopyDict, FreshLeaves, HookOutside, HookStays, NotYet, Observed, ReadsList, RestartCapture, Unsupported, refusal
from .dynamic import DynamicPolicy
from .frames import BREAK, NULL, Frame, Unread, run_root, where_of
from .generators import InterpretedGenerator
from .guards import Guard, state_guard
from .native import extension, program as _program
from .overrides import plain_tensor, refuse_open_switches
from .rebuild import Codegen
from .session import Capture
from .resume import emit_break, origin_of
from .side_effects import emit_side_effects
from .sizes import SizeReport, size_report
from .source import CallSource, CellSource, ConstantSource, LocalSource
from .wrappers import put_wrappers_last
from .state import emit_state, inference_outputs, leave_state, preserved, rng_state, start_state, state_left

__all__ = ["Converted", "convert_frame", "listening"]

MAX_RESTARTS = 60
MAX_PLACES = 10  # lines of a graph that an exception's note names


class GraphCall(NamedTuple):
    """How the native half calls a graph (`Entry` in native/callable.h)."""

    graph: Any
    inputs: tuple[int, ...]  # into the row of slots, supplied values and constants
    code_supplied: int
    code_constants: int
    outputs: int
    result: int  # the output that is the result of the frame, -1: the code makes it


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
    call: GraphCall | None = None
    repeats: bool = False  # whether the graph leaves everything as it was but for random numbers, so that the original can run after it
    caught: bool = False  # whether the program may handle what an operator of the graph raises
    sizes: SizeReport = field(default_factory=SizeReport)


_listeners: list[Any] = []


@contextlib.contextmanager
def listening(listener: Any) -> Any:
    """Tell `listener` of every conversion: `Converted`, or the `Unsupported` that made a frame run eagerly."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def convert_frame(fn: types.FunctionType, slots: tuple[Any, ...], closure: Any, globals_: Any, options: Any, *, frame_state: dict[str, Any]) -> Any:
    """Capture one call of `fn` and make its cache entry; SKIP where that cannot be, what to call when `fn` returns where the program seems to raise."""
    ext = extension()
    try:
        converted = _convert(fn, slots, options, DynamicPolicy(options, frame_state))
    except _UserException as e:
        counters["frames"]["raised"] += 1
        log("graph_breaks").info("%s raised during capture: %s", fn.__qualname__, e)
        return functools.partial(_did_not_raise, fn, options, str(e), e.where)
    except NotYet as e:
        _note_eager(fn, e.reason)
        return ext.RUN_EAGER
    except _CannotConvert as e:
        if options.fullgraph:
            raise e.reason from None
        _note_eager(fn, e.reason)
        return ext.SKIP
    counters["frames"]["captured"] += 1
    for listener in _listeners:
        listener(converted)
    entry = make_entry(converted)
    entry.options = options  # they hold the resume functions that its code refers to
    entry.failed = functools.partial(_graph_raised, fn.__code__, options, converted.repeats, converted.caught, _places(converted.graph_module))
    return entry


def _note_eager(fn: types.FunctionType, reason: Unsupported) -> None:
    counters["frames"]["eager"] += 1
    counters["graph_breaks"][reason.code] += 1
    log("graph_breaks").info("%s runs eagerly: %s", fn.__qualname__, reason)
    for listener in _listeners:
        listener(reason)


def _places(gm: fx.GraphModule | None) -> tuple[Any, ...]:
    """The lines of the captured function that a graph was made of."""
    found = {n.meta["stack"][0]: None for n in gm.graph.nodes if n.meta.get("stack")} if gm is not None else {}
    return tuple(found)[:MAX_PLACES]


def _graph_raised(code: types.CodeType, options: Any, repeats: bool, caught: bool, places: tuple[Any, ...], error: Exception) -> Any:
    """A compiled graph raised: what to call if the original, run in its place, returns; None: the error stands.

    Nothing of the call has happened yet unless the graph writes to memory, so eager can raise its own exception, with the program's frames in it.
    """
    if isinstance(error, LaminaError):
        return None
    if not repeats:
        error.add_note("in the compiled graph of\n" + "\n".join(f"  {place}" for place in places))
        return None
    return functools.partial(_handled if caught else _only_the_graph_raises, code, options, error)


def _handled(code: types.CodeType, options: Any, error: Exception) -> None:
    """The original has returned where the compiled graph raised, and the program handles exceptions there."""
    counters["graph_breaks"]["operator-error"] += 1
    log("graph_breaks").info("%s ran eagerly, which handles what an operator raised: %s", code.co_qualname, error)


def _only_the_graph_raises(code: types.CodeType, options: Any, error: Exception) -> None:
    """The original has returned where the compiled graph raised: the backend is wrong."""
    if strict() or options.fullgraph:
        raise error
    report_failure(f"while running the compiled graph of {code.co_qualname} ({code.co_filename}:{code.co_firstlineno})", error, {}, stacklevel=3)


def _did_not_raise(fn: types.FunctionType, options: Any, error: str, where: Any) -> None:
    """The original has returned where the capture met an exception: nothing of the call was compiled, and that is counted."""
    reason = refusal("capture-raised", "an exception that only the capture meets", saw=error)
    reason.where = where
    counters["graph_breaks"][reason.code] += 1
    log("graph_breaks").info("%s runs eagerly: %s", fn.__qualname__, reason)
    for listener in _listeners:
        listener(reason)
    if options.fullgraph:
        raise reason


def make_entry(c: Converted) -> Any:
    """The native cache entry of a conversion."""
    program = native.compile_guards(c.guards, _program.arg_names_of(c.code), free_names=c.code.co_freevars, supplied=c.supplied)
    return native.Entry(program, c.replacement, c.constants, **(c.call._asdict() if c.call else {}))


class _UserException(Exception):
    """Interpretation met an exception that leaves the frame: eager must raise it. `where` the program raised it."""

    def __init__(self, text: str, where: Any) -> None:
        super().__init__(text)
        self.where = where


class _CannotConvert(Exception):
    """The frame runs eagerly; `reason` says why."""

    def __init__(self, reason: Unsupported) -> None:
        super().__init__(str(reason))
        self.reason = reason


def _convert(fn: types.FunctionType, slots: tuple[Any, ...], options: Any, policy: DynamicPolicy) -> Converted:
    code = fn.__code__
    if code.co_flags & 0x2A0:
        raise _CannotConvert(refusal("generator-root", "a generator or async function at the root of a capture", saw=fn.__qualname__))
    from . import rules  # noqa: F401  (fills the tables)

    break_at: int | None = None
    reason: Unsupported | None = None
    tried: set[int] = set()
    unbacked, fresh, unroll, stuck, hooks_stay = True, False, False, False, False
    checking = Checking.AFTER
    copied: dict[int, Any] = {}
    texts_decide, broke_with_texts = False, None
    outside_hooks: frozenset[int] = frozenset()
    for _ in range(MAX_RESTARTS):
        cap = Capture(options, policy)
        cap.outside_hooks, cap.hooks_stay, cap.texts_decide = outside_hooks, hooks_stay, texts_decide
        cap.fresh_leaves, cap.checking, cap.mode.allow_unbacked, cap.copied_dicts, cap.unroll = fresh, checking, unbacked, copied, unroll
        with stage("capture"), _deep_recursion():
            try:
                with _capturing(cap):
                    frame = _root_frame(cap, fn, slots)
                    result = run_root(frame, break_at)
                    cap.left = state_left(cap)
                return _finish(cap, frame, result, options, reason)
            except RestartCapture as r:
                step, why = r.step, r.reason
            except Observed as e:
                if cap.was_asked and options.says_compiling:
                    options.says_compiling = False  # what the program does for compilers only fails: capture what it does without one
                    continue
                where = where_of(e.frame) if e.frame else UserLocation(code.co_filename, code.co_firstlineno, code.co_qualname)
                raise _UserException(_exception_text(e.exc), where) from e.exc
            except CannotCheck:
                checking = Checking.INSIDE if checking is Checking.AFTER else Checking.NEVER
                continue
            except FreshLeaves:
                fresh = True
                continue
            except ReadsList as r:
                policy.read_lists.add(r.name)
                continue
            except HookStays:
                hooks_stay = True
                continue
            except HookOutside as h:
                outside_hooks |= {h.number}
                continue
            except CopyDict as c:
                copied[id(c.d)] = c.d
                continue
            except Unsupported as why_not:  # of the backend
                if why_not.code != "unbacked" or not unbacked:
                    raise
                unbacked = False  # capture again and break where a value is needed
                continue
            except CannotRebuild as r:  # break where the object was made, or give up
                step, why = r.step, r.reason
                stuck = reason is not None and reason.code == loops.CODE
            finally:
                shows_numbers = not texts_decide and cap.shows_numbers
                cap.release()
        if shows_numbers and broke_with_texts is None:  # does it break because a number's text is left for later?
            texts_decide, broke_with_texts = True, (step, why.code)
            continue
        texts_decide &= broke_with_texts != (step, why.code)
        if stuck or why.code == loops.CODE and (step is None or step in tried):
            unroll, stuck, break_at, reason = True, False, None, None
            tried.clear()
            continue
        if options.fullgraph and why.code == "symbolic-operator" and policy.dynamic is not False:
            policy = policy.static()  # one graph per size rather than an error
            continue
        if options.fullgraph:
            raise why
        why.__traceback__ = why.__context__ = why.__cause__ = None  # they hold the frames of the capture, and with them the program's values
        if step is None or step in tried:
            raise _CannotConvert(why)
        tried.add(step)
        break_at, reason = step, why
    raise _CannotConvert(reason or refusal("restarts", "too many restarts"))


def _exception_text(exc: BaseException) -> str:
    try:
        return f"{type(exc).__name__}: {exc}"
    except Unsupported:  # only the run knows
        return type(exc).__name__


@contextlib.contextmanager
def _deep_recursion() -> Any:
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, 6000))
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


@contextlib.contextmanager
def _capturing(cap: Capture) -> Any:
    """The modes of a capture; PyTorch's state is put back."""
    cap.entry_state = state_guard()
    start_state(cap)
    cap.mode.number_of = cap.recorder.read_number
    with cap.mode, cap.recorder:
        try:
            yield
        finally:
            cap.mode.number_of = None  # fakes outlive the capture, and hold their mode
            leave_state(cap)  # in here: inference mode gives back the whole dispatch state that it found


def _root_frame(cap: Capture, fn: types.FunctionType, slots: tuple[Any, ...]) -> Frame:
    code = fn.__code__
    cap.root_globals = fn.__globals__
    cap.root_function = fn
    names = _program.arg_names_of(code)
    from .binding import slot_count

    fast = [NULL] * slot_count(code)
    unread = origin_of(code).unread
    for i, (name, v) in enumerate(zip(names, slots, strict=True)):
        fast[i] = Unread(name) if name in unread else cap.lift(v, LocalSource(name))
    for name, cell in zip(code.co_freevars, fn.__closure__ or ()):
        cap.cell(cell, CellSource(name))
    f = Frame(cap, code, fast, fn.__globals__, fn, None)
    f.is_root = True
    return f


def _finish(cap: Capture, frame: Frame, result: Any, options: Any, reason: Unsupported | None) -> Converted:
    """Rebuild, side effects, graph, backend, code."""
    from .rules.graph_hooks import check_graph_hooks
    from .rules.hooks import check_module_hooks, emit_hooks
    from .rules.leaves import require_fresh_leaves

    code = frame.code
    cap.locks.refuse_held()
    check_module_hooks(cap)
    _refuse_abandoned(cap)
    if cap.recorder.raiser is not None and not _repeats(cap):
        raise RestartCapture(*cap.recorder.raiser)
    refuse_open_switches(cap)
    cg = Codegen(cap, _program.arg_names_of(code))
    state = emit_state(cap, cg)
    emit_hooks(cap, cg)
    if result is BREAK:
        tail = emit_break(cap, cg, frame, options)
        emit_side_effects(cap, cg)
    else:
        value = cg.value(result)
        emit_side_effects(cap, cg)
        tail = [f"return {value}"]
    require_fresh_leaves(cap, cg.output_values)
    check_graph_hooks(cap, cg.output_values, breaks=result is BREAK)
    head_checks = _checks(cap, cg)
    gm, inputs, examples = _graph_module(cap, cg)
    head: list[str] = []
    compiled = None
    outputs = len(cg.output_values)
    if gm is not None:
        compiled = _call_backend(options.backend, gm, examples, cap.settings)
        if cap.assumed:
            compiled = Assuming(compiled, outputs)
            outputs += 1
        if outputs:
            head.append("".join(f"_o{i}, " for i in range(outputs)) + "= _outs")
            head += inference_outputs(cap, cg)
    body = head + head_checks + state + cg.lines + cg.last + tail
    replacement = cg.code(body, graph=gm is not None)
    taken = len(cg.supplied), len(cg.constants)  # what the graph alone takes comes after what the code takes
    call = None if gm is None else GraphCall(compiled, cg.places([cg.place(s) for s in inputs]), *taken, outputs, _returned(body))
    converted = Converted(code, replacement, tuple(v for _, v in cg.constants.values()), tuple(cg.supplied), _guards(cap), gm, examples, reason, call, _repeats(cap), cap.recorder.caught, size_report(cap.mode.shape_env, cap.why_symbolic))
    if reason is not None:
        counters["graph_breaks"][reason.code] += 1
        log("graph_breaks").info("%s", reason)
    return converted


def _repeats(cap: Capture) -> bool:
    """Whether the original can run after the graph has raised: it has not written to an input nor called code of the user's."""
    return not cap.recorder.writes_inputs and not any(n.meta.get("allowed") for n in cap.graph.nodes)


def _returned(body: list[str]) -> int:
    """Which of the graph's outputs the code returns where it does nothing else; -1 where it does."""
    found = re.fullmatch(r"return _o(\d+)", body[-1]) if len(body) == 2 else None
    return int(found.group(1)) if found else -1


def _refuse_abandoned(cap: Capture) -> None:
    """CPython closes a dropped generator at once, which runs its `finally` and `with`; we keep it until the end."""
    for made, step in cap.created.values():
        if type(made) is InterpretedGenerator and made.must_be_closed():
            raise CannotRebuild(step, refusal("rebuild", "a generator left unfinished inside a `try` or `with`", saw=made.frame.code.co_qualname, hint="close it, or run it to its end"))


def _checks(cap: Capture, cg: Codegen) -> list[str]:
    """Lines that run the original where a condition that the path relies on does not hold.

    A graph with checks of its own also yields whether they held (see `Assuming`).
    """
    if not cap.checks and not cap.assumed:
        return []
    elsewhere = any(inp.real.device.type != "cpu" for inp in cap.inputs.values())  # with a generator of its own
    if cap.checking is Checking.AFTER and cap.recorder.writes_inputs or cap.left or cap.recorder.impure and elsewhere:
        raise CannotCheck
    code = cap.root_function.__code__
    named = code.co_argcount + code.co_kwonlyargcount
    args = [f"_a_{i}" for i in range(code.co_argcount)]
    if code.co_flags & 4:
        args.append(f"*_a_{named}")
    args += [f"{code.co_varnames[i]}=_a_{i}" for i in range(code.co_argcount, named)]
    if code.co_flags & 8:
        args.append(f"**_a_{named + bool(code.co_flags & 4)}")
    original = f"{cg.constant(cap.root_function)}({', '.join(args)})"
    failed = f"return {original}"
    if cap.recorder.impure:  # the original draws the same numbers
        failed = f"{cg.constant(torch.set_rng_state)}({cg.source(CallSource(rng_state, ConstantSource(None)))}); {failed}"
    values = [(cg.value(t), expected) for t, expected in cap.checks]
    lines = [f"if not _o{len(cg.output_values)}: {failed}"] if cap.assumed else []
    return lines + [f"if bool({v}) is not {expected}: {failed}" for v, expected in values]


def _graph_module(cap: Capture, cg: Codegen) -> tuple[fx.GraphModule | None, list[Any], list[Any]]:
    graph = cap.graph
    outs = []
    for v in cg.output_values:
        if isinstance(v, torch.Tensor):
            outs.append(cap.recorder.node_of(v))
        else:
            outs.append(_number(cap, v))
    calls = any(n.op in ("call_function", "call_method") for n in graph.nodes)
    if not calls and not outs:
        return None, [], []
    _symbols_as_inputs(cap)
    out = graph.output(tuple(outs))
    out.meta["val"] = tuple(cg.output_values)
    out.meta["stack"] = ()
    put_wrappers_last(cap)
    by_node = {inp.node: inp for inp in cap.inputs.values() if inp.node is not None}
    sources, examples = [], []
    for n in graph.nodes:
        if n.op == "placeholder":
            inp = by_node.get(n)
            if inp is not None and id(inp.fake) in cap.class_of and id(inp.fake) not in cap.wrappers:
                sources.append(_plain_source(cap, inp))
                examples.append(plain_tensor(inp.real))
            elif inp is not None:
                sources.append(inp.source)
                examples.append(inp.real)
                if inp.fake.requires_grad and not inp.real.requires_grad:  # it got a history in the frame: the backend finds it without
                    n.meta["val"] = inp.fake.detach()
            else:
                source, value = cap.size_inputs[n]
                sources.append(source)
                examples.append(value)
        elif n.op != "output":
            break
    gm = fx.GraphModule(torch.nn.Module(), graph)
    gm.meta["beside_wrappers"] = bool(cap.wrappers)
    keep_source(gm)
    if verify_level():
        from lamina_primops import verify

        verify(gm, "torch")
    counters["graphs"]["captured"] += 1
    return gm, sources, examples


def _plain_source(cap: Capture, inp: Any) -> Any:
    """Where the graph reads an input of a subclass from: through another tensor on the same memory, whose shape the graph must leave alone."""
    fake, real = inp.fake, inp.real
    with torch._C.DisableTorchFunction():
        now, before = (*fake.sizes, *fake.strides), (*real.shape, *real.stride())
    if len(now) != len(before) or any(type(n) is int and n != b for n, b in zip(now, before)):
        raise CannotRebuild(None, refusal("tensor-subclass", "changing the shape of a tensor subclass in place", saw=type(real).__qualname__))
    source = inp.source
    return ConstantSource(plain_tensor(source.value)) if isinstance(source, ConstantSource) else CallSource(plain_tensor, source)


def _number(cap: Capture, v: Any) -> Any:
    """The node of a symbolic number that lives on after the graph."""
    try:
        return cap.symbol_node(v)
    except Unsupported as why:
        raise CannotRebuild(None, why) from why


def _symbols_as_inputs(cap: Capture) -> None:
    """Every symbol in an input's metadata is a `size` placeholder, used or not: a backend finds the sizes of its loops there."""
    from lamina_dynshape import expr_of

    for node in [n for n in cap.graph.nodes if n.op == "placeholder" and isinstance(n.meta["val"], torch.Tensor)]:
        val = node.meta["val"]
        for number in (*val.shape, *val.stride(), val.storage_offset()):
            if isinstance(number, torch.SymInt):
                for symbol in sorted(expr_of(number).free_symbols, key=str):
                    cap.symbol_node(cap.mode.shape_env.sym_int(symbol))


def _call_backend(backend: Any, gm: fx.GraphModule, examples: list[Any], settings: Any) -> Any:
    """`settings`: what the graph sets. A backend may run it to trace it."""
    with stage("backend"), preserved(settings):
        compiled = backend(gm, examples)
    if not callable(compiled):
        from lamina_dynshape.support.errors import UserError

        raise UserError(f"the backend returned {type(compiled).__name__}, expected a callable")
    return compiled


def _guards(cap: Capture) -> list[Guard]:
    return [cap.entry_state, *cap.guards, *apart_guards(cap), *cap.shape_guards()]
